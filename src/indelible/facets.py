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

from indelible.entry import microseconds
from indelible.errors import Damaged, InvalidQuery
from indelible.query import items, logs_of, matches_in_log
from indelible.store import Wanted
from indelible.terms import Field, term

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from indelible.event import Event
    from indelible.query import Query
    from indelible.store import Head, View

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
    """

    counts: tuple[tuple[str, int], ...]
    distinct: int
    total: int


_FIELDS: dict[str, tuple[Field, Callable[[Event], str | None]]] = {
    "actor": (Field.ACTOR, lambda event: str(event.actor)),
    "action": (Field.ACTION, lambda event: event.action),
    "resource": (Field.RESOURCE, lambda event: str(event.resource)),
    "outcome": (Field.OUTCOME, lambda event: event.outcome.value),
    "session": (Field.SESSION, lambda event: event.session),
}


def facets(
    view: View,
    query: Query,
    fields: Sequence[str] = ("actor", "action", "resource", "outcome"),
    top: int = 10,
) -> dict[str, Facet]:
    """
    Count the values of each of *fields* over all entries that *query* asks for.

    Args:
        top: How many values of each field are named, the most frequent first.

    Raises:
        InvalidQuery: There is no such field, or *top* is no number from 0.
        UnknownStream: A stream that is asked for does not exist.
        Damaged: An entry that may belong to the answer cannot be read, or the index
            names one for a value that it does not have.
    """
    for field in fields:
        if field not in _FIELDS:
            raise InvalidQuery(f"facet: found {field!r}, expected one of {', '.join(_FIELDS)}")
    if type(top) is not int or top < 0:
        raise InvalidQuery(f"top: found {top!r}, expected a number from 0")
    tallies: dict[str, _Tally] = {field: _Tally() for field in fields}
    for head in logs_of(view, query):
        indexes = _matching(view, head, query)
        for field, terms in _count(view, head.log, indexes, fields).items():
            tallies[field].add(head.log, terms)
    return {field: _facet(view, field, tally, top) for field, tally in tallies.items()}


class _Tally:
    """Per term of a field how often it occurs in all logs, and an entry that has it."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.examples: dict[int, tuple[str, int]] = {}

    def add(self, log: str, terms: Mapping[int, tuple[int, int]]) -> None:
        for number, (count, index) in terms.items():
            self.counts[number] += count
            self.examples[number] = (log, index)


def _count(
    view: View, log: str, indexes: Sequence[int] | None, fields: Sequence[str]
) -> Mapping[str, Mapping[int, tuple[int, int]]]:
    """Return per field and term how often it occurs, and the index of an entry that has it."""
    if indexes is None or len(indexes) > FEW:
        return {field: view.tally(log, _FIELDS[field][0], indexes) for field in fields}
    counts: dict[str, dict[int, tuple[int, int]]] = {field: {} for field in fields}
    for item in items(view, log, indexes):
        for field in fields:
            of, text_of = _FIELDS[field]
            text = text_of(item.event)
            if text is not None:
                number = term(of, text)
                count, _ = counts[field].get(number, (0, 0))
                counts[field][number] = (count + 1, item.index)
    return counts


def _facet(view: View, field: str, tally: _Tally, top: int) -> Facet:
    counts = tally.counts
    # Which of equally frequent values are named does not depend on the store.
    most = nlargest(top, counts, key=lambda number: (counts[number], number))
    named = [
        (_text(view, field, number, *tally.examples[number]), counts[number]) for number in most
    ]
    return Facet(
        counts=tuple(sorted(named, key=lambda pair: (-pair[1], pair[0]))),
        distinct=len(counts),
        total=counts.total(),
    )


def _text(view: View, field: str, number: int, log: str, index: int) -> str:
    of, text_of = _FIELDS[field]
    (item,) = items(view, log, [index])
    text = text_of(item.event)
    if text is None or term(of, text) != number:
        raise Damaged(f"log {log}: entry {index} does not have the {field} that the index says")
    return text


def _matching(view: View, head: Head, query: Query) -> Sequence[int] | None:
    """Return the indexes of what matches in one log, ascending; None for all of it."""
    if query.text or query.id or query.trace or query.occurred_since or query.occurred_until:
        ascending = replace(query, newest_first=False)
        return [item.index for item in matches_in_log(view, head, ascending, 0, head.size)]
    first = 0 if query.since is None else _recorded(view, head, query.since)
    last = head.size if query.until is None else _recorded(view, head, query.until)
    (wanted,), unwanted = query.wanted(), query.unwanted()
    if not wanted.groups and not unwanted:
        return None if (first, last) == (0, head.size) else range(first, last)
    indexes = _indexes(view, head, wanted, first, last)
    for group in unwanted:
        left_out = set(_indexes(view, head, Wanted(groups=(group,)), first, last))
        indexes = [index for index in indexes if index not in left_out]
    return indexes


def _indexes(view: View, head: Head, wanted: Wanted, first: int, last: int) -> list[int]:
    return list(view.candidates(head.log, wanted, first, last, newest_first=False))


def _recorded(view: View, head: Head, moment: datetime) -> int:
    """Return the index of the first entry recorded at *moment* or later; time never decreases."""

    def recorded_at(index: int) -> int:
        (item,) = items(view, head.log, [index])
        return item.entry.recorded_at

    return bisect_left(range(head.size), microseconds(moment), key=recorded_at)
