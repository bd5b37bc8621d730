"""
Holds: which legal holds there are, and which entries they keep.

A hold is two custody entries at most: one that places it, and one that releases it. Whom
it is about, and why, are committed there: they may name people. A hold that cannot be
read holds everything, since nobody can say what it does not.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from indelible import query
from indelible.access import Viewer
from indelible.box import ValueState
from indelible.custody import own_event, private_event, write
from indelible.entry import microseconds
from indelible.errors import CallerError, InvalidEvent, KeyUnavailable, NotFound
from indelible.event import Resource, uuid7
from indelible.policies import current
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.retention import Hold
from indelible.store import Wanted
from indelible.terms import Field, term

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from indelible.policy import Policy
    from indelible.query import Item
    from indelible.removal import Owner
    from indelible.store import View
    from indelible.vault import Opener, Vault

ADDED, RELEASED = "hold.add", "hold.release"


def add(
    owner: Owner,
    *,
    ground: str,
    now: datetime,
    subject: str | None = None,
    query: str | None = None,
) -> str:
    """
    Place a hold on what *subject* or *query* finds, now and later, or on everything.

    Args:
        ground: Why, in words: a case, an order.

    Returns:
        Its id, to release it by.

    Raises:
        CallerError: It says no ground, or both a subject and a query.
        InvalidQuery: The query means nothing.
        KeyUnavailable: The keyring is locked, so what may name people cannot be kept.
    """
    said: dict[str, Any] = {"ground": ground}
    if subject is not None and query is not None:
        raise CallerError("hold: found a subject and a query, expected one of them")
    if subject is not None:
        said["subject"] = checked_subject(subject)
    if query is not None:
        said["query"] = Query.parse(query).to_text()
    hold = Hold(
        id=uuid7(time.time_ns(), os.urandom(10)),
        ground=ground,
        placed_at=now,
        subject=subject,
        query=said.get("query"),
    )
    write(
        owner,
        lambda: [private_event(owner.vault, owner.id, ADDED, hold=hold.id, **said)],
        microseconds(now),
    )
    return hold.id


def release(owner: Owner, name: str, *, now: datetime) -> None:
    """
    Release the hold with the id *name*.

    Raises:
        NotFound: There is none.
        CallerError: It was released already.
    """
    with owner.store.read() as view:
        found = {hold.id: hold for hold in read(view, owner.vault, current(view))}
    if name not in found:
        raise NotFound(f"hold: found {name!r}, expected one of {', '.join(found) or 'none'}")
    if (at := found[name].released_at) is not None:
        raise CallerError(f"hold {name}: was released already, at {at.isoformat()}")
    write(owner, lambda: [own_event(owner.id, RELEASED, hold=name)], microseconds(now))


def read(view: View, vault: Vault, policy: Policy) -> list[Hold]:
    """Return every hold that was ever placed, the oldest first."""
    opener = vault.opener(Viewer(), policy)
    found: dict[str, Hold] = {}
    asked = Query(stream=CUSTODY, action=(ADDED, RELEASED), newest_first=False)
    for item in query.matches(view, asked, opener) if CUSTODY in view.heads() else ():
        said = _said(item)
        name = str(said.get("hold", ""))
        if item.event.action == ADDED:
            found[name] = _hold(item, name)
        elif name in found:
            placed = found[name]
            found[name] = Hold(
                id=name,
                ground=placed.ground,
                placed_at=placed.placed_at,
                subject=placed.subject,
                query=placed.query,
                released_at=item.recorded_at,
            )
    return list(found.values())


def _hold(item: Item, name: str) -> Hold:
    said = _said(item)

    def value(part: str) -> str | None:
        state = item.states.get(f"/data/{part}", ValueState.OPEN)
        return str(said[part]) if part in said and state is ValueState.OPEN else None

    return Hold(
        id=name,
        ground=value("ground") or "it cannot be read",
        placed_at=item.recorded_at,
        subject=value("subject"),
        query=value("query"),
    )


class Held:
    """
    Which holds apply to which entries.

    Attributes:
        holds: Those that last.

    Raises:
        KeyUnavailable: The keyring is locked, so nobody can say what is under hold.
    """

    def __init__(self, view: View, vault: Vault, policy: Policy) -> None:
        opener = vault.opener(Viewer(), policy)
        # What is recorded lasts, whatever anybody's clock says, until its release is.
        self.holds = [hold for hold in read(view, vault, policy) if hold.released_at is None]
        self._everything: list[str] = []
        self._by_entry: dict[tuple[str, int], list[str]] = {}
        for hold in self.holds:
            if hold.subject is not None:
                places: Sequence[tuple[str, int]] = entries_about(view, opener, hold.subject)
            elif hold.query is not None:
                if not opener.lookups(Field.SUBJECT_LOOKUP, ""):
                    raise KeyUnavailable(f"hold {hold.id}: what it is on cannot be looked up")
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
    """
    Return the places of the entries that have values of *subject* in the vault.

    Raises:
        KeyUnavailable: The keyring is locked.
    """
    return _places(view, _lookups(opener, subject, Field.SUBJECT_LOOKUP))


def entries_naming(view: View, subject: str) -> list[tuple[str, int]]:
    """Return the places of the entries that name *subject* in clear, in the log itself."""
    return _places(view, frozenset({term(Field.ACTOR, subject), term(Field.RESOURCE, subject)}))


def entries_about(view: View, opener: Opener, subject: str) -> list[tuple[str, int]]:
    """
    Return the places of all entries that *subject* is found by, in clear or not.

    Raises:
        KeyUnavailable: The keyring is locked.
    """
    fields = (Field.SUBJECT_LOOKUP, Field.ACTOR_LOOKUP, Field.RESOURCE_LOOKUP)
    return list(
        dict.fromkeys(
            [
                *_places(view, _lookups(opener, subject, *fields)),
                *entries_naming(view, subject),
            ]
        )
    )


def checked_subject(subject: str) -> str:
    """
    Return *subject*, if it is the name of one.

    Raises:
        CallerError: It is not ``type:id``.
    """
    try:
        return str(Resource.parse(subject))
    except InvalidEvent as error:
        raise CallerError(f"subject: expected type:id such as user:alice; {error}") from error


def _lookups(opener: Opener, subject: str, *fields: Field) -> frozenset[int]:
    found = frozenset().union(*(opener.lookups(field, subject) for field in fields))
    if not found:
        raise KeyUnavailable("vault: is locked, so nobody can say which entries are about whom")
    return found


def _places(view: View, terms: frozenset[int]) -> list[tuple[str, int]]:
    wanted = Wanted(groups=(terms,))
    return [
        (log, index)
        for log, head in view.heads().items()
        for index in view.candidates(log, wanted, 0, head.size, newest_first=False)
    ]


def _said(item: Item) -> dict[str, Any]:
    return item.event.data if isinstance(item.event.data, dict) else {}
