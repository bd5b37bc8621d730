"""
Facets: how often each value of a field occurs among the entries that a query asks for.

Where the index alone cannot tell what matches (free text, ids, traces, the actor's
clock), the entries that it proposes are read first. Then a few matches are read and
counted themselves; many are counted by the index, which knows terms, hashes of 59
bits: two texts of one term would be counted as one. The text of a term is read from
an entry that has it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import TYPE_CHECKING

from indelible.box import ValueState
from indelible.entry import microseconds
from indelible.errors import Damaged, InvalidQuery
from indelible.policy import Sight
from indelible.query import Bound, check_allowed, items, logs_of, matches_in_log, value_at
from indelible.store import Wanted
from indelible.terms import LOOKUPS, Field, field_of, term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from indelible.event import Event
    from indelible.query import Item, Query
    from indelible.store import Head, View
    from indelible.vault import Opener

FEW = 4_096
"""Most matches of a log that are read to be counted; more are counted by the index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """
    How often the values of one field occur.

    Attributes:
        counts: The most frequent values, each with how often it occurs.
        distinct: How many values there are.
        total: How many entries have one.
        withheld: How many entries have one besides, which is not shown: by the viewer's
            role, or because it was erased. Nothing is said of how many values these are.
    """

    counts: tuple[tuple[str, int], ...]
    distinct: int
    total: int
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class _Of:
    """
    A field that can be counted.

    Attributes:
        term: Field of its terms.
        text: Its text in an event.
        path: Where its value stands, if it can be committed.
        lookup: Field of the lookups of committed ones.
    """

    term: Field
    text: Callable[[Event], str | None]
    path: str = ""
    lookup: Field | None = None


_FIELDS: dict[str, _Of] = {
    "actor": _Of(Field.ACTOR, lambda event: str(event.actor), "/actor/id", Field.ACTOR_LOOKUP),
    "action": _Of(Field.ACTION, lambda event: event.action),
    "resource": _Of(
        Field.RESOURCE, lambda event: str(event.resource), "/resource/id", Field.RESOURCE_LOOKUP
    ),
    "outcome": _Of(Field.OUTCOME, lambda event: event.outcome.value),
    "session": _Of(Field.SESSION, lambda event: event.session, "/session", Field.SESSION_LOOKUP),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """
    Facets over some of what matches.

    Attributes:
        whole: Nothing was left out, so the counts are exact; else there are at least so many.
    """

    facets: Mapping[str, Facet]
    whole: bool


def facets(
    view: View,
    query: Query,
    fields: Sequence[str] = ("actor", "action", "resource", "outcome"),
    top: int = 10,
    opener: Opener | None = None,
) -> dict[str, Facet]:
    """
    Count the values of each of *fields* over all entries that *query* asks for.

    Args:
        top: How many values of each field are named, the most frequent first.
        opener: Opens committed values for who asks; without one they are withheld.

    Raises:
        InvalidQuery: There is no such field, or *top* is no number from 0.
        UnknownStream: A stream that is asked for does not exist.
        Forbidden: It asks by values that the viewer's role does not see.
        Damaged: An entry that may belong to the answer cannot be read, or the index
            names one for a value that it does not have.
    """
    return dict(count(view, query, fields=fields, top=top, opener=opener).facets)


def count(
    view: View,
    query: Query | None,
    *,
    fields: Sequence[str],
    top: int,
    opener: Opener | None,
    most: int | None = None,
) -> Counted:
    """
    Count as `facets`, over no more than the newest of what matches.

    Args:
        query: None asks for nothing.
        most: Entries that are looked at; each log has a part in them.

    Raises:
        InvalidQuery, UnknownStream, Forbidden, Damaged: As `facets`.
    """
    for field in fields:
        if field not in _FIELDS:
            raise InvalidQuery(f"facet: found {field!r}, expected one of {', '.join(_FIELDS)}")
    if type(top) is not int or top < 0:
        raise InvalidQuery(f"top: found {top!r}, expected a number from 0")
    if query is None:
        nothing = Facet(counts=(), distinct=0, total=0)
        return Counted(facets=dict.fromkeys(fields, nothing), whole=True)
    check_allowed(query, opener)
    tallies: dict[str, _Tally] = {field: _Tally() for field in fields}
    # What the small logs leave of their parts is for the large ones.
    heads = sorted(logs_of(view, query), key=lambda head: head.size - head.first)
    whole, left = True, most
    for number, head in enumerate(heads):
        bound = None if left is None else Bound(left // (len(heads) - number))
        indexes = _matching(view, head, query, opener, bound)
        if bound is not None and left is not None:
            whole, left = whole and not bound.is_cut, left - bound.taken
        many = indexes is None or len(indexes) > FEW
        by_index = {
            field: tally for field, tally in tallies.items() if many and _may_count(field, opener)
        }
        by_reading = {field: tally for field, tally in tallies.items() if field not in by_index}
        _count_by_index(view, head, indexes, by_index, opener)
        if by_reading:
            read = range(head.first, head.size) if indexes is None else indexes
            _count_by_reading(view, head.log, read, by_reading, opener)
    found = {field: _facet(view, field, tally, top, opener) for field, tally in tallies.items()}
    return Counted(facets=found, whole=whole)


class _Tally:
    """Per term of a field how often it occurs in all logs, and an entry that has it."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.examples: dict[int, tuple[str, int]] = {}
        self.texts: Counter[str] = Counter()
        self.withheld = 0

    def add(self, log: str, terms: Mapping[int, tuple[int, int]]) -> None:
        for number, (count, index) in terms.items():
            self.counts[number] += count
            self.examples[number] = (log, index)


def _count_by_reading(
    view: View,
    log: str,
    indexes: Sequence[int],
    tallies: Mapping[str, _Tally],
    opener: Opener | None,
) -> None:
    for item in items(view, log, indexes, opener):
        for field, tally in tallies.items():
            of = _FIELDS[field]
            if not _is_shown(item, of, opener):
                tally.withheld += 1
            elif (text := of.text(item.event)) is not None:
                tally.texts[text] += 1


def _is_shown(item: Item, of: _Of, opener: Opener | None) -> bool:
    state = item.states.get(of.path)
    if state is None:
        return of.path not in item.clear.dropped
    return state is ValueState.OPEN or (
        opener is not None and opener.stands_in(of.path, state, value_at(item.event, of.path))
    )


def _may_count(field: str, opener: Opener | None) -> bool:
    """
    Tell whether the index can count *field* for the viewer.

    Lookups tell identities apart, of values that the viewer sees and of others alike. So
    either all of them are seen, or none; and they must be there for each value that is.
    """
    of = _FIELDS[field]
    if of.lookup is None or opener is None:
        return True
    sight = opener.sight(of.path)
    if sight is Sight.HIDE and field != "session":
        return True
    return sight is not None and opener.is_searchable(of.path)


def _count_by_index(
    view: View,
    head: Head,
    indexes: Sequence[int] | None,
    tallies: Mapping[str, _Tally],
    opener: Opener | None,
) -> None:
    entries = head.size - head.first if indexes is None else len(indexes)
    for field, tally in tallies.items():
        of = _FIELDS[field]
        terms = view.tally(head.log, of.term, indexes)
        tally.add(head.log, terms)
        if of.lookup is None:
            continue
        counted = sum(count for count, _ in terms.values())
        is_seen = opener is not None and opener.sight(of.path) is not Sight.HIDE
        if is_seen:
            lookups = view.tally(head.log, of.lookup, indexes)
            tally.add(head.log, lookups)
            counted += sum(count for count, _ in lookups.values())
        if field != "session":
            tally.withheld += entries - counted
        elif not is_seen:
            lookups = view.tally(head.log, of.lookup, indexes)
            tally.withheld += sum(count for count, _ in lookups.values())


def _facet(view: View, field: str, tally: _Tally, top: int, opener: Opener | None) -> Facet:
    counts, texts = tally.counts, Counter(tally.texts)
    # Which of equally frequent values are named does not depend on the store. What was
    # read in one log may also stand in the index of another: all of these are named.
    most = (
        list(counts)
        if texts
        else nlargest(top, counts, key=lambda number: (counts[number], number))
    )
    withheld = tally.withheld
    for number in most:
        text = _text(view, field, number, *tally.examples[number], opener)
        if text is None:
            withheld += counts[number]
        else:
            texts[text] += counts[number]
    named = sorted(texts.items(), key=lambda pair: (-pair[1], pair[0]))
    return Facet(
        counts=tuple(named[:top]),
        distinct=len(texts) + len(counts) - len(most),
        total=counts.total() + tally.texts.total() - (withheld - tally.withheld),
        withheld=withheld,
    )


def _text(  # noqa: PLR0917
    view: View, field: str, number: int, log: str, index: int, opener: Opener | None
) -> str | None:
    of = _FIELDS[field]
    (item,) = items(view, log, [index], opener)
    if field_of(number) in LOOKUPS:
        return of.text(item.event) if _is_shown(item, of, opener) else None
    text = of.text(item.event)
    if text is None or term(of.term, text) != number:
        raise Damaged(f"log {log}: entry {index} does not have the {field} that the index says")
    return text


def _matching(
    view: View, head: Head, query: Query, opener: Opener | None, bound: Bound | None
) -> Sequence[int] | None:
    """Return the indexes of what matches in one log, ascending; None for all of it."""
    if (
        query.text
        or query.id
        or query.trace
        or query.value
        or query.ip
        or query.occurred_since
        or query.occurred_until
        or not _may_find(query, opener)
    ):
        newest = replace(query, newest_first=True)
        found = matches_in_log(view, head, newest, 0, head.size, opener, bound)
        return [item.index for item in found][::-1]
    first = head.first if query.since is None else _recorded(view, head, query.since)
    last = head.size if query.until is None else _recorded(view, head, query.until)
    (wanted,), unwanted = query.wanted(opener), query.unwanted(opener)
    if not wanted.groups and not unwanted:
        if bound is None and (first, last) == (head.first, head.size):
            return None
        return _newest(head, reversed(range(first, last)), bound)
    proposed = view.candidates(head.log, wanted, first, last, newest_first=True)
    indexes = _newest(head, proposed, bound)
    for group in unwanted if indexes else ():
        asked = Wanted(groups=(group,))
        within = (indexes[0], indexes[-1] + 1)
        left_out = set(view.candidates(head.log, asked, *within, newest_first=False))
        indexes = [index for index in indexes if index not in left_out]
    return indexes


def _newest(head: Head, indexes: Iterable[int], bound: Bound | None) -> list[int]:
    """Return *indexes*, the newest first as they come, ascending and within *bound*."""
    return list(indexes if bound is None else bound.take(head.log, indexes))[::-1]


def _may_find(query: Query, opener: Opener | None) -> bool:
    """Tell whether the index alone may say what matches: whether all that it knows is seen."""
    if opener is None:
        return True
    asked = {
        "/actor/id": query.actor + query.without_actor,
        "/resource/id": query.resource + query.without_resource,
        "/session": query.session,
    }
    return all(
        opener.finds(path) is Sight.PLAIN
        for path, given in asked.items()
        if not all(name.endswith(":*") for name in given)
    )


def _recorded(view: View, head: Head, moment: datetime) -> int:
    """
    Return the index of the first entry recorded at *moment* or later; time never decreases.

    Of those that were purged nobody knows when that was.
    """

    def recorded_at(index: int) -> int:
        (item,) = items(view, head.log, [index])
        return item.entry.recorded_at

    kept = range(head.first, head.size)
    return head.first + bisect_left(kept, microseconds(moment), key=recorded_at)
