"""
History: what became of one resource, and which entry set each of its fields.

The order is that of the logs (index within a log, recorded_at over several): it is
the order that is proven. The actor's clock, ``occurred_at``, may be wrong and moves
nothing. So does what was tried but not done: only changes that succeeded count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from indelible.box import ValueState
from indelible.capture import MEMBER
from indelible.errors import InvalidQuery
from indelible.event import Outcome
from indelible.fields import escape
from indelible.query import Query, matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from indelible.event import Change
    from indelible.query import Item
    from indelible.store import View
    from indelible.vault import Opener

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """
    What a field holds, and the entry to blame for it.

    Attributes:
        value: A JSON value.
        since: The entry that set it.
    """

    value: Any
    since: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexplained:
    """
    A gap: a change that found another value than the entry before it had left.

    Something changed the field in between, and no entry says what.

    Attributes:
        expected: What the entry before had left; `msgspec.UNSET` where it had
            removed the field.
        found: What the change names as the old value, in the same way.
        after: The entry that had left the expected value.
        before: The entry that found another.
    """

    field: str
    expected: Any
    found: Any
    after: Item
    before: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """
    The fields of a resource as the recorded changes leave them.

    A field that no change names is not here: a trail knows only what it was told.

    Attributes:
        values: Of each field that is there, its value.
        unexplained: The gaps, in the order of the entries that show them.
    """

    values: Mapping[str, Value]
    unexplained: tuple[Unexplained, ...]


def history(
    view: View,
    resource: str,
    *,
    until: datetime | None = None,
    opener: Opener | None = None,
) -> Iterator[Item]:
    """
    Yield all entries about *resource*, of all logs, oldest first.

    Args:
        until: Only what was recorded before.
        opener: Opens committed values for who asks; without one they are withheld.

    Raises:
        InvalidQuery: *resource* is not one ``type:id``, or *until* has no time zone.
        Damaged: An entry that may belong to the answer cannot be read.
    """
    return matches(view, about(resource, until=until), opener)


def about(resource: str, *, until: datetime | None = None, at: datetime | None = None) -> Query:
    """
    Return the query for all that is about *resource*, oldest first.

    Args:
        until: Only what was recorded before.
        at: Or only what was recorded up to this very microsecond.

    Raises:
        InvalidQuery: *resource* is not one ``type:id``, or a time has no time zone.
    """
    until = until if at is None else _just_after(at)
    query = Query(resource=resource, until=until, newest_first=False)
    if resource.endswith(":*"):
        raise InvalidQuery(f"resource: found {resource!r}, expected one TYPE:ID")
    return query


def state(
    view: View, resource: str, at: datetime | None = None, opener: Opener | None = None
) -> State:
    """
    Return the fields of *resource* as they were at a time.

    Args:
        at: When; what was recorded in that very microsecond is included. Without
            it, as they are now.

    Raises:
        InvalidQuery: *resource* is not one ``type:id``, or *at* has no time zone.
        Damaged: An entry that may belong to the answer cannot be read.
    """
    return fold(matches(view, about(resource, at=at), opener))


def fold(items: Iterable[Item]) -> State:
    """Return the state that the changes of *items*, oldest first, leave."""
    left: dict[str, Value] = {}
    unexplained: list[Unexplained] = []
    unknown: set[str] = set()
    for item in items:
        if item.event.outcome is not Outcome.SUCCESS:
            continue
        if item.states.get("/changes", ValueState.OPEN) is not ValueState.OPEN:
            # It may have set any field.
            unknown.update(left)
        for field, change in (item.event.changes or {}).items():
            before = left.get(field)
            if _is_open(item, field) and (member := _member(change)) is not None:
                left[field] = Value(value=_with(before, member, change), since=item)
                continue
            if not _is_open(item, field):
                # Whatever it was set to: what comes next contradicts nothing.
                unknown.add(field)
            elif field in unknown:
                unknown.remove(field)
            elif before is not None and not _same(before.value, change.old):
                unexplained.append(
                    Unexplained(
                        field=field,
                        expected=before.value,
                        found=change.old,
                        after=before.since,
                        before=item,
                    )
                )
            left[field] = Value(value=change.new, since=item)
    return State(
        values={field: value for field, value in left.items() if value.value is not UNSET},
        unexplained=tuple(unexplained),
    )


def _member(change: Change) -> str | None:
    """Return the one of several values of a field that a change is about, if it is such a one."""
    for side in (change.new, change.old):
        if isinstance(side, dict) and len(side) == 1 and isinstance(side.get(MEMBER), str):
            return str(side[MEMBER])
    return None


def _with(before: Value | None, member: str, change: Change) -> list[str]:
    """Return the known values of a field with several, after one came or went."""
    known = before.value if before is not None and isinstance(before.value, list) else []
    rest = [each for each in known if each != member]
    return rest if change.new is UNSET else [*rest, member]


def _is_open(item: Item, field: str) -> bool:
    """Tell whether the values of a change are those of the event, rather than masks."""
    if f"/changes/{escape(field)}" in item.clear.dropped:
        return False
    state = item.states.get(f"/changes/{escape(field)}", ValueState.OPEN)
    return state is ValueState.OPEN


def _same(one: object, other: object) -> bool:
    if one is UNSET or other is UNSET:
        return one is other
    # As JSON: in Python, true would equal 1.
    return _encode(one) == _encode(other)


def _just_after(moment: datetime) -> datetime | None:
    try:
        return moment + timedelta(microseconds=1)
    except OverflowError:
        return None
