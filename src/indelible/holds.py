"""
Holds: which legal holds there are, and which entries they keep.

A hold is two custody entries at most: one that places it, and one that releases it. Whom
it is about, and why, are committed there: they may name people. A hold that cannot be
read holds everything, since nobody can say what it does not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from indelible import query
from indelible.access import Viewer
from indelible.box import ValueState
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.retention import Hold
from indelible.store import Wanted
from indelible.terms import Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indelible.policy import Policy
    from indelible.query import Item
    from indelible.store import View
    from indelible.vault import Opener, Vault

ADDED, RELEASED = "hold.add", "hold.release"


def read(view: View, vault: Vault, policy: Policy) -> list[Hold]:
    """Return every hold that was ever placed, the oldest first."""
    opener = vault.opener(Viewer(), policy)
    found: dict[str, Hold] = {}
    asked = Query(stream=CUSTODY, action=(ADDED, RELEASED), newest_first=False)
    for item in query.matches(view, asked, opener) if CUSTODY in view.heads() else ():
        said = item.event.data or {}
        name = str(said.get("hold", ""))
        if item.event.action == ADDED:
            found[name] = _hold(item, name)
        elif name in found:
            at = datetime.fromtimestamp(item.entry.recorded_at / 1e6, UTC)
            placed = found[name]
            found[name] = Hold(
                id=name,
                ground=placed.ground,
                placed_at=placed.placed_at,
                subject=placed.subject,
                query=placed.query,
                released_at=at,
            )
    return list(found.values())


def _hold(item: Item, name: str) -> Hold:
    said = item.event.data or {}
    at = datetime.fromtimestamp(item.entry.recorded_at / 1e6, UTC)

    def value(part: str) -> str | None:
        state = item.states.get(f"/data/{part}", ValueState.OPEN)
        return str(said[part]) if part in said and state is ValueState.OPEN else None

    return Hold(
        id=name,
        ground=value("ground") or "it cannot be read",
        placed_at=at,
        subject=value("subject"),
        query=value("query"),
    )


class Held:
    """
    Which holds apply to which entries.

    Attributes:
        holds: Those that last.
    """

    def __init__(self, view: View, opener: Opener, holds: Sequence[Hold], now: datetime) -> None:
        self.holds = [hold for hold in holds if hold.lasts(now)]
        self._everything: list[str] = []
        self._by_entry: dict[tuple[str, int], list[str]] = {}
        for hold in self.holds:
            if hold.subject is not None:
                places = entries_of(view, opener, hold.subject)
            elif hold.query is not None:
                found = query.matches(view, Query.parse(hold.query), opener)
                places = [(item.log, item.index) for item in found]
            else:
                self._everything.append(hold.id)
                continue
            for place in places:
                self._by_entry.setdefault(place, []).append(hold.id)

    def of(self, log: str, index: int) -> list[str]:
        """Return the ids of the holds on an entry."""
        return [*self._everything, *self._by_entry.get((log, index), ())]

    def first(self, log: str) -> int | None:
        """Return the index of the first entry of *log* that is held; None for none."""
        if self._everything:
            return 0
        return min((index for name, index in self._by_entry if name == log), default=None)


def entries_of(view: View, opener: Opener, subject: str) -> list[tuple[str, int]]:
    """Return the places of the entries that have values of *subject* in the vault."""
    lookups = opener.lookups(Field.SUBJECT_LOOKUP, subject)
    wanted = Wanted(groups=(lookups,))
    return [
        (log, index)
        for log, head in view.heads().items()
        if lookups
        for index in view.candidates(log, wanted, 0, head.size, newest_first=False)
    ]
