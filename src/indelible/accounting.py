"""
Accounting: every committed value of every entry, and whether it is rightly where it is.

Each has exactly one `ValueState`. OPEN, WITHHELD, ERASED, PURGED and MOVED are as they
should be; MISSING and TAMPERED are alarms: somebody deleted quietly, or changed what is
kept. UNREADABLE says which key is wanting. Where the whole keyring is closed, that is a
matter of keys; where it is open and single keys are not in it, whoever removed them has
removed their values, and that is an alarm as well.

It goes by what the log says: whoever does not know that the log is the one that was
signed verifies it first (`indelible.verify`).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.box import Found, Row, ValueState, look_into, unbox
from indelible.covers import Covers, Wrong, verify_released
from indelible.disclosure import commitment_of
from indelible.entry import Entry, event_in, moment_of
from indelible.errors import CallerError, Damaged, KeyUnavailable, Malformed, VerificationError
from indelible.keyring import networks_of
from indelible.log import restore
from indelible.merkle import HASH_SIZE
from indelible.policy import CUSTODY
from indelible.seal import unseal
from indelible.segment import BLOCK, SEGMENT, Filter
from indelible.terms import Field
from indelible.vault import searched_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.covers import Cover
    from indelible.keyring import DataKey, Keyring
    from indelible.seal import Clear
    from indelible.store import Head, Store, View
    from indelible.vault import Vault

ALARMS = frozenset({ValueState.MISSING, ValueState.TAMPERED})
"""States that say that somebody deleted quietly, or changed what is kept."""

MAX_ALARMS = 1_000
"""Most values that are named one by one; of more, the totals tell."""

_MOST_HELD = 65_536
_ATTEMPTS = 3


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
        locked: The keyring as a whole cannot be opened.
        covers: The erasures and purges there are, in their order.
        wrong: Custody entries about policies and plans that do not hold; erasures and
            purges that do not count are among them.
        hidden: The first `MAX_ALARMS` entries that are not found by the values they have,
            or by others: so they would be left out of answers, holds and erasures.
        unaccounted: Parts of logs whose entries cannot be read, so that nothing can be
            said of their values; of no value at all where that is the custody log.
    """

    totals: dict[ValueState, int]
    alarms: tuple[Account, ...]
    unreadable: dict[str, int]
    locked: bool = False
    covers: tuple[Cover, ...] = ()
    wrong: tuple[Wrong, ...] = ()
    hidden: tuple[Wrong, ...] = ()
    unaccounted: tuple[str, ...] = ()

    @property
    def alarming(self) -> bool:
        """Whether something is not as it should be."""
        lost = self.unreadable and not self.locked
        return bool(self.alarms or lost or self.wrong or self.hidden or self.unaccounted)

    @property
    def alarm_count(self) -> int:
        """How many values are missing or were tampered with."""
        return sum(self.totals.get(state, 0) for state in ALARMS)

    @property
    def self_approved(self) -> int:
        """How many erasures and purges only the owner of the keys has approved."""
        return sum(cover.self_approved for cover in self.covers)


def account_for(
    store: Store,
    vault: Vault,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Accounts:
    """
    Account for every committed value in *store*, while others may write; see `account`.

    An erasure that begins meanwhile is no alarm: its values may be gone, and what they were
    found by, before its entry is seen. So what alarms is looked at again if there is one.

    Raises:
        StoreError: The store or the keyring cannot be read now.
    """
    for _ in range(_ATTEMPTS):
        with store.read() as view:
            accounts = account(view, vault, progress=progress)
        if not accounts.alarms and not accounts.hidden:
            break
        try:
            with store.read() as view:
                begun = Covers.read(view).covers
        except VerificationError:
            break
        if len(begun) == len(accounts.covers):
            break
    return accounts


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
        StoreError: The store or the keyring cannot be read now.
    """
    try:
        covers = Covers.read(view)
    except VerificationError as error:
        # Nobody knows what is rightly gone.
        return Accounts(totals={}, alarms=(), unreadable={}, unaccounted=(f"{CUSTODY}: {error}",))
    keys = _Keys(vault.keyring)
    index = _Index(view, vault.keyring, covers)
    totals: Counter[ValueState] = Counter()
    alarms: list[Account] = []
    unreadable: Counter[str] = Counter()
    unaccounted: list[str] = []
    heads = view.heads()
    done, total = 0, sum(head.size - head.first for head in heads.values())
    for head in heads.values():
        bound = vault.binding(head.stream)
        index.begin(head)
        for first in range(head.first, head.size, BLOCK):
            last = min(first + BLOCK, head.size)
            try:
                for each in _block(view, head, range(first, last), bound, keys, covers, index):
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
        locked=bool(unreadable) and keys.locked is not None,
        covers=tuple(covers.covers.values()),
        wrong=covers.wrong,
        hidden=tuple(index.hidden),
        unaccounted=(*unaccounted, *index.damaged),
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
        at = moment_of(entry.recorded_at)
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
    view: View,
    head: Head,
    indexes: range,
    bound: bytes,
    keys: _Keys,
    covers: Covers,
    lookups: _Index,
) -> Iterator[Account | int]:
    """Yield how many values of an entry are all open, or what became of each of them."""
    kept = list(_committed(view, head.log, indexes))
    if not kept:
        return
    rows = [_row(data) for data in view.rows(head.log, [index for index, _, _ in kept])]
    known = keys.of(rows)
    for (index, data, clear), row in zip(kept, rows, strict=True):
        commitment = _commitment(clear)
        if isinstance(row, Row) and not covers.touch(head.log, index):
            values = _whole(row, clear, commitment, bound + commitment, known)
            if values is not None:
                lookups.check(index, clear, values, [known[box.key] for box in row.boxes])
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
        states: set[ValueState] = set()
        for path, each in found.items():
            state, why, place = settle(each, covers, entry, clear, head.log, path)
            states.add(state)
            if state is ValueState.UNREADABLE and isinstance(row, Row):
                why = keys.why(row, clear.committed.index(path))
            yield Account(log=head.log, index=index, path=path, state=state, why=why, entry=place)
        if isinstance(row, Row) and states <= _SETTLED and covers.done(head.log, index):
            left = {path: each.value for path, each in found.items() if each.disclosure}
            lookups.check(index, clear, left, [known[box.key] for box in row.boxes])


def _committed(view: View, log: str, indexes: range) -> Iterator[tuple[int, bytes, Clear]]:
    """Yield the entries that commit to values."""
    for stored in view.stored(log, indexes):
        # What commits to nothing is most of some logs, and needs no reading.
        if _COMMITTED in stored.body:
            data = restore(stored)
            clear = unseal(event_in(stored.body)[0])
            if clear.committed:
                yield stored.index, data, clear


_SETTLED = frozenset({ValueState.OPEN, ValueState.ERASED, ValueState.PURGED})
_COMMITTED = b'"committed":['


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
) -> dict[str, Any] | None:
    """
    Return the values of an entry if all are here, and the ones that were committed to.

    Of most entries that is so, and `look_into`, which says what is wrong with others,
    takes twice the time.
    """
    committed, spine = clear.committed, row.spine
    count = len(committed)
    if len(spine) != HASH_SIZE * count:
        return None
    leaves = [spine[at : at + HASH_SIZE] for at in range(0, len(spine), HASH_SIZE)]
    positions = [at for box in row.boxes for at in box.positions]
    if sorted(positions) != list(range(count)) or commitment_of(leaves) != commitment:
        return None
    try:
        disclosures = [
            each
            for box in row.boxes
            for each in unbox(box, keys[box.key], bound, [committed[at] for at in box.positions])
        ]
    except (KeyError, Damaged):
        return None
    if len(disclosures) != count:
        return None
    values: dict[str, Any] = {}
    for at, each in zip(positions, disclosures, strict=True):
        if each.path != committed[at] or each.leaf != leaves[at]:
            return None
        values[each.path] = each.value
    return values


class _Index:
    """
    Whether entries are found by the values they have.

    What they are found by stands off the log, where nothing is signed: who changes it
    hides an entry from answers, holds and erasures, and leaves every value in its place.
    Nor may an entry be found any more by what was erased.

    Attributes:
        hidden: The first `MAX_ALARMS` entries that are not found as they must be.
        damaged: Logs of which it cannot be read.
    """

    def __init__(self, view: View, keyring: Keyring, covers: Covers) -> None:
        self._view, self._keyring, self._policies = view, keyring, covers.policies
        self._numbers: dict[tuple[Field, str], frozenset[int]] = {}
        self._locked = False
        self.hidden: list[Wrong] = []
        self.damaged: list[str] = []

    def begin(self, head: Head) -> None:
        """Go on with another log."""
        self._head = head
        self._filters = [segment.lookups for segment in self._view.segments(head.log)]
        self._checked: tuple[int, set[int]] = (-1, set())
        self._stored = self._view.lookups(head.log, head.first, head.size)
        self._next: tuple[int, Sequence[int]] | None = (-1, ())

    def check(
        self, index: int, clear: Clear, values: Mapping[str, Any], keys: Sequence[DataKey]
    ) -> None:
        """Hold what an entry is found by against its *values*, which are under *keys*."""
        if self._locked or self._next is None:
            return
        try:
            stored = frozenset(self._at(index))
            wanted = self._wanted(clear, values)
            lacking = [path for path, numbers in wanted if stored.isdisjoint(numbers)]
            owners = {key.lookup for key in keys if key.lookup is not None}
            known = owners.union(*(numbers for _, numbers in wanted))
        except KeyUnavailable:
            self._locked = True
            return
        except VerificationError as error:
            self.damaged.append(f"{self._head.log}: what entries are found by: {error}")
            self._next = None
            return
        if lacking:
            self._add(index, f"is hidden from who asks for {', '.join(dict.fromkeys(lacking))}")
        elif not owners <= stored:
            self._add(index, "is hidden from who asks what is held about somebody")
        elif clear.policy in self._policies and not stored <= known:
            self._add(index, "is found by values that it does not have")
        elif not all(self._passes(index, number) for number in stored):
            self._add(index, "is hidden by the filter of its segment")

    def _at(self, index: int) -> Sequence[int]:
        """Return what the entry is found by; entries are asked for in their order."""
        while self._next is not None and self._next[0] < index:
            self._next = next(self._stored, (self._head.size, ()))
        if self._next is None or self._next[0] != index:
            return ()
        return self._next[1]

    def _wanted(self, clear: Clear, values: Mapping[str, Any]) -> list[tuple[str, frozenset[int]]]:
        """Return the numbers that an entry must be found by, with the paths they are for."""
        policy = self._policies.get(clear.policy or "")
        if policy is None:
            return []
        rules = policy.classification(clear.actor.type, clear.resource.type)
        actor = _named(clear.actor.type, clear.actor.id, values.get("/actor/id"))
        resource = _named(clear.resource.type, clear.resource.id, values.get("/resource/id"))
        found: list[tuple[str, frozenset[int]]] = []
        for path, value in values.items():
            search = "exact" if path in clear.caught else rules[path].search
            if search is None:
                continue
            texts = searched_by(path, value, actor, resource)
            if search == "prefix" and isinstance(value, str):
                networks = networks_of(value)
                texts += [(Field.VALUE_LOOKUP, f"{path}={network}") for network in networks]
            found += [(path, self._lookups(field, text)) for field, text in texts]
        return found

    def _lookups(self, field: Field, text: str) -> frozenset[int]:
        found = self._numbers.get((field, text))
        if found is None:
            if len(self._numbers) >= _MOST_HELD:
                self._numbers.clear()
            found = self._numbers[field, text] = self._keyring.lookups(field, text)
        return found

    def _passes(self, index: int, number: int) -> bool:
        """Tell whether a closed segment is opened for who asks by *number*."""
        segment = index // SEGMENT
        if segment >= len(self._filters):
            return True
        if self._checked[0] != segment:
            self._checked = (segment, set())
        if number not in self._checked[1]:
            if not Filter.may_hold(self._filters[segment], number):
                return False
            self._checked[1].add(number)
        return True

    def _add(self, index: int, what: str) -> None:
        if len(self.hidden) < MAX_ALARMS:
            self.hidden.append(Wrong(entry=f"{self._head.log}#{index}", what=what))


def _named(kind: str, identity: str | None, committed: object) -> str | None:
    found = committed if identity is None else identity
    return None if found is None else f"{kind}:{found}"


class _Keys:
    """
    The data keys that were asked for last, and why others cannot be had.

    Attributes:
        locked: Why the whole keyring cannot be opened; None where it can.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.locked: str | None = None
        try:
            keyring.secret("accounting")
        except KeyUnavailable as error:
            self.locked = str(error)
        self._known: dict[bytes, DataKey] = {}
        self._lost: dict[bytes, str] = {}

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
        if self.locked is not None:
            # To ask a keeper again and again may take seconds each time.
            self._lost.update(dict.fromkeys(wanted, self.locked))
            return
        for key_id in wanted:
            try:
                self._known.update(self._keyring.open([key_id]))
            except KeyUnavailable as error:
                self._lost[key_id] = f"data key {key_id.hex()}: {error}"
