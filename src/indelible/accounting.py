"""
Accounting: every committed value of every entry, and whether it is rightly where it is.

Each has exactly one `ValueState`. OPEN, WITHHELD, ERASED, PURGED and MOVED are as they
should be; UNREADABLE says which key is wanting; MISSING and TAMPERED are alarms: somebody
deleted quietly, or changed what is kept.

It goes by what the log says: whoever does not know that the log is the one that was
signed verifies it first (`indelible.verify`).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from indelible.box import Found, Row, ValueState, look_into, unbox
from indelible.covers import Covers, Wrong, verify_released
from indelible.disclosure import commitment_of
from indelible.entry import Entry
from indelible.errors import CallerError, Damaged, KeyUnavailable, Malformed, VerificationError
from indelible.log import restore
from indelible.merkle import HASH_SIZE
from indelible.seal import unseal
from indelible.segment import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from indelible.covers import Cover
    from indelible.keyring import DataKey, Keyring
    from indelible.seal import Clear
    from indelible.store import Head, View
    from indelible.vault import Vault

ALARMS = frozenset({ValueState.MISSING, ValueState.TAMPERED})
"""States that say that somebody deleted quietly, or changed what is kept."""

MAX_ALARMS = 1_000
"""Most values that are named one by one; of more, the totals tell."""

_MOST_HELD = 65_536
_ENOUGH_FAILURES = 3


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """
    One value that is not as it should be.

    Attributes:
        why: In words, as far as it is known.
        entry: The place of the erasure or purge that covers it or seems to; empty for none.
    """

    log: str
    index: int
    path: str
    state: ValueState
    why: str
    entry: str = ""

    def __str__(self) -> str:
        return f"{self.log}#{self.index} {self.path}: {self.state} ({self.why})"


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of all committed values of a trail.

    Attributes:
        totals: How many values are in each state.
        alarms: The first `MAX_ALARMS` that are missing or were tampered with.
        unreadable: Which keys are wanting, each with how many values.
        covers: The erasures and purges there are, in their order.
        wrong: Custody entries about policies and plans that do not hold; erasures and
            purges that do not count are among them.
        unaccounted: Parts of logs whose entries cannot be read, so that nothing can be
            said of their values.
    """

    totals: dict[ValueState, int]
    alarms: tuple[Account, ...]
    unreadable: dict[str, int]
    covers: tuple[Cover, ...] = ()
    wrong: tuple[Wrong, ...] = ()
    unaccounted: tuple[str, ...] = ()

    @property
    def alarming(self) -> bool:
        """Whether something is not as it should be."""
        return bool(self.alarms or self.wrong or self.unaccounted)

    @property
    def alarm_count(self) -> int:
        """How many values are missing or were tampered with."""
        return sum(self.totals.get(state, 0) for state in ALARMS)

    @property
    def self_approved(self) -> int:
        """How many erasures and purges only the owner of the keys has approved."""
        return sum(cover.self_approved for cover in self.covers)


def account(
    view: View,
    vault: Vault,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Accounts:
    """
    Account for every committed value of every entry that was not purged as a whole.

    Args:
        progress: Told how many entries of how many are done.

    Raises:
        Damaged: The custody stream cannot be read, so nobody knows what is rightly gone.
        StoreError: The store or the keyring cannot be read now.
    """
    covers = Covers.read(view)
    keys = _Keys(vault.keyring)
    totals: Counter[ValueState] = Counter()
    alarms: list[Account] = []
    unreadable: Counter[str] = Counter()
    unaccounted: list[str] = []
    heads = view.heads()
    done, total = 0, sum(head.size - head.first for head in heads.values())
    for head in heads.values():
        bound = vault.binding(head.stream)
        for first in range(head.first, head.size, BLOCK):
            last = min(first + BLOCK, head.size)
            try:
                for each in _block(view, head, range(first, last), bound, keys, covers):
                    if isinstance(each, int):
                        totals[ValueState.OPEN] += each
                        continue
                    totals[each.state] += 1
                    if each.state in ALARMS and len(alarms) < MAX_ALARMS:
                        alarms.append(each)
                    elif each.state is ValueState.UNREADABLE:
                        unreadable[each.why] += 1
            except VerificationError as error:
                unaccounted.append(f"{head.log}: entries {first} to {last - 1}: {error}")
            done += last - first
            if progress is not None:
                progress(done, total)
    return Accounts(
        totals=dict(totals),
        alarms=tuple(alarms),
        unreadable=dict(unreadable),
        covers=tuple(covers.covers.values()),
        wrong=covers.wrong,
        unaccounted=tuple(unaccounted),
    )


def settle(  # noqa: PLR0917 - what was found, and of what
    found: Found, covers: Covers, entry: Entry, clear: Clear, log: str, path: str
) -> tuple[ValueState, str, str]:
    """
    Return the state of a value, given what was *found* of it and what custody entries say.

    Returns:
        The state, why in words, and the place of the custody entry that it rests on.
    """
    cover = covers.of(log, entry.index, path)
    place = "" if cover is None else cover.entry
    if found.state is ValueState.MISSING:
        said = covers.explain(log, entry.index, path)
        if cover is None or said.state is ValueState.MISSING:
            return said.state, said.why, place
        at = datetime.fromtimestamp(entry.recorded_at / 1e6, UTC)
        try:
            verify_released(cover, clear, path, log=log, index=entry.index, recorded_at=at)
        except CallerError as error:
            return ValueState.MISSING, f"{place} does not count: {error}", place
        return said.state, said.why, place
    if cover is not None and cover.effective and not cover.wrong:
        # Its box has come back, from an older copy of the vault perhaps.
        return ValueState.TAMPERED, f"{place} has removed it, and it is here again", place
    return found.state, found.why, place


def _block(  # noqa: PLR0917 - where to look, and what to look with
    view: View, head: Head, indexes: range, bound: bytes, keys: _Keys, covers: Covers
) -> Iterator[Account | int]:
    """Yield how many values of an entry are all open, or what became of each of them."""
    kept: list[tuple[int, bytes, Clear]] = []
    for stored in view.stored(head.log, indexes):
        # What commits to nothing is most of some logs, and needs no reading.
        if _COMMITTED in stored.body:
            data = restore(stored)
            clear = unseal(data[data.index(_EVENT) + len(_EVENT) : -1])
            if clear.committed:
                kept.append((stored.index, data, clear))
    if not kept:
        return
    rows = [_row(data) for data in view.rows(head.log, [index for index, _, _ in kept])]
    known = keys.of(rows)
    for (index, data, clear), row in zip(kept, rows, strict=True):
        commitment = _commitment(clear)
        whole = isinstance(row, Row) and _whole(row, clear, commitment, bound + commitment, known)
        if whole and not covers.touch(head.log, index):
            yield len(clear.committed)
            continue
        found = look_into(
            row if isinstance(row, bytes) else row.to_bytes(),
            clear.committed,
            commitment,
            bound + commitment,
            known,
        )
        entry = Entry.from_bytes(data)
        for path, each in found.items():
            state, why, place = settle(each, covers, entry, clear, head.log, path)
            if state is ValueState.UNREADABLE and isinstance(row, Row):
                why = keys.why(row, clear.committed.index(path))
            yield Account(log=head.log, index=index, path=path, state=state, why=why, entry=place)


_COMMITTED = b'"committed":['
_EVENT = b',"event":'


def _commitment(clear: Clear) -> bytes:
    try:
        return urlsafe_b64decode(f"{clear.commitment}=")
    except ValueError as error:
        raise Malformed(f"event {clear.id}: commitment: {error}") from error


def _row(data: bytes) -> Row | bytes:
    """Read a row; one that is none, or empty, stays as it is."""
    try:
        return Row.from_bytes(data) if data else data
    except Damaged:
        return data


def _whole(
    row: Row, clear: Clear, commitment: bytes, bound: bytes, keys: Mapping[bytes, DataKey]
) -> bool:
    """
    Tell whether all values of an entry are here, and the ones that were committed to.

    Of most entries that is so, and `look_into`, which says what is wrong with others,
    takes twice the time.
    """
    committed, spine = clear.committed, row.spine
    count = len(committed)
    if len(spine) != HASH_SIZE * count:
        return False
    leaves = [spine[at : at + HASH_SIZE] for at in range(0, len(spine), HASH_SIZE)]
    positions = [at for box in row.boxes for at in box.positions]
    if sorted(positions) != list(range(count)) or commitment_of(leaves) != commitment:
        return False
    try:
        disclosures = [each for box in row.boxes for each in unbox(box, keys[box.key], bound)]
    except (KeyError, Damaged):
        return False
    return len(disclosures) == count and all(
        each.path == committed[at] and each.leaf == leaves[at]
        for at, each in zip(positions, disclosures, strict=True)
    )


class _Keys:
    """The data keys that were asked for last, and why others cannot be had."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._known: dict[bytes, DataKey] = {}
        self._lost: dict[bytes, str] = {}
        self._opened: set[int] = set()
        self._failures: dict[int, list[str]] = {}

    def of(self, rows: list[Row | bytes]) -> Mapping[bytes, DataKey]:
        """Return the keys of the boxes in *rows*, those that can be had."""
        if len(self._known) > _MOST_HELD:
            self._known.clear()
        wanted = {box.key for row in rows if isinstance(row, Row) for box in row.boxes}
        wanted -= self._known.keys()
        wanted -= self._lost.keys()
        if wanted:
            try:
                self._known.update(self._keyring.open(wanted))
            except KeyUnavailable:
                self._open_apart(wanted)
            for key_id in wanted - self._known.keys():
                why = f"data key {key_id.hex()} is not in the keyring"
                self._lost.setdefault(key_id, why)
        return self._known

    def why(self, row: Row, position: int) -> str:
        """Return why the box that holds the value at *position* cannot be opened."""
        key_id = next(box.key for box in row.boxes if position in box.positions)
        return self._lost.get(key_id, f"data key {key_id.hex()}")

    def _open_apart(self, wanted: set[bytes]) -> None:
        try:
            wrapped = self._keyring.wrapped(wanted)
        except KeyUnavailable as error:
            self._lost.update(dict.fromkeys(wanted, str(error)))
            return
        for key in wrapped:
            failures = self._failures.setdefault(key.kek, [])
            # To ask a keeper again and again may take seconds each time.
            if len(failures) >= _ENOUGH_FAILURES and key.kek not in self._opened:
                self._lost[key.id] = failures[-1]
                continue
            try:
                self._known.update(self._keyring.open([key.id]))
                self._opened.add(key.kek)
            except KeyUnavailable as error:
                failures.append(str(error))
                self._lost[key.id] = str(error)
