"""
Accounting: every committed value of every entry, and whether it is rightly where it is.

Each has exactly one `ValueState`. OPEN, WITHHELD, ERASED, PURGED and MOVED are as they
should be; UNREADABLE says which key is wanting; MISSING and TAMPERED are alarms: somebody
deleted quietly, or changed what is kept.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from indelible.access import Viewer
from indelible.box import Found, ValueState
from indelible.covers import Covers
from indelible.entry import Entry
from indelible.errors import VerificationError
from indelible.log import restore
from indelible.seal import unseal
from indelible.segment import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indelible.policy import Policy
    from indelible.seal import Clear
    from indelible.store import Stored, View
    from indelible.vault import Opener, Vault

ALARMS = frozenset({ValueState.MISSING, ValueState.TAMPERED})
"""States that say that somebody deleted quietly, or changed what is kept."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """
    One value that is not as it should be.

    Attributes:
        why: In words, as far as it is known.
    """

    log: str
    index: int
    path: str
    state: ValueState
    why: str

    def __str__(self) -> str:
        return f"{self.log}#{self.index} {self.path}: {self.state} ({self.why})"


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of all committed values of a trail.

    Attributes:
        totals: How many values are in each state.
        alarms: Each that is missing or was tampered with.
        unreadable: Which keys are wanting, each with how many values.
        covers: How many erasures and purges there are; those that do not count.
        self_approved: How many of them only the owner has approved.
        unaccounted: Parts of logs whose entries cannot be read, so that nothing can be
            said of their values.
    """

    totals: dict[ValueState, int]
    alarms: tuple[Account, ...]
    unreadable: dict[str, int]
    covers: int = 0
    wrong_covers: tuple[str, ...] = ()
    self_approved: int = 0
    unaccounted: tuple[str, ...] = ()


def account(
    view: View,
    vault: Vault,
    policy: Policy,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Accounts:
    """
    Account for every committed value of every log.

    Args:
        progress: Told how many entries of how many are done.
    """
    covers = Covers.read(view)
    opener = vault.opener(Viewer(), policy)
    totals: Counter[ValueState] = Counter()
    alarms: list[Account] = []
    unreadable: Counter[str] = Counter()
    unaccounted: list[str] = []
    done, total = 0, sum(head.size for head in view.heads().values())
    for log, head in view.heads().items():
        for first in range(0, head.size, BLOCK):
            last = min(first + BLOCK, head.size)
            try:
                found = list(_block(view, log, range(first, last), opener, covers))
            except VerificationError as error:
                unaccounted.append(f"{log}: entries {first} to {last - 1}: {error}")
                found = []
            for each in found:
                totals[each.state] += 1
                if each.state in ALARMS:
                    alarms.append(each)
                elif each.state is ValueState.UNREADABLE:
                    unreadable[each.why] += 1
            done += last - first
            if progress is not None:
                progress(done, total)
    return Accounts(
        totals=dict(totals),
        alarms=tuple(alarms),
        unreadable=dict(unreadable),
        covers=len(covers.covers),
        wrong_covers=tuple(
            f"{cover.entry}: {cover.wrong}" for cover in covers.covers.values() if cover.wrong
        ),
        self_approved=sum(cover.self_approved for cover in covers.covers.values()),
        unaccounted=tuple(unaccounted),
    )


def _block(
    view: View, log: str, indexes: range, opener: Opener, covers: Covers
) -> Iterator[Account]:
    kept = [
        (stored.index, clear)
        for stored in view.stored(log, list(indexes))
        if (clear := _committed(stored)) is not None
    ]
    if not kept:
        return
    rows = view.rows(log, [index for index, _ in kept])
    keys = opener.keys(rows)
    for (index, clear), row in zip(kept, rows, strict=True):
        found = opener.look(log, index, clear, row, keys)
        for path, each in found.items():
            state, why = settle(each, log, index, path, covers)
            yield Account(log=log, index=index, path=path, state=state, why=why)


def _committed(stored: Stored) -> Clear | None:
    data = restore(stored)
    if b'"committed":[' not in data:
        return None
    clear = unseal(Entry.from_bytes(data).event)
    return clear if clear.committed else None


def settle(found: Found, log: str, index: int, path: str, covers: Covers) -> tuple[ValueState, str]:
    """Return the state of a value, given what was *found* of it and what entries say."""
    cover = covers.of(log, index, path)
    if found.state is ValueState.MISSING:
        said = covers.explain(log, index, path)
        return said.state, said.why
    if cover is not None and cover.effective and not cover.wrong:
        # Its box has come back, from an older copy of the vault perhaps.
        return ValueState.TAMPERED, f"{cover.entry} has removed it, and it is here again"
    return found.state, found.why
