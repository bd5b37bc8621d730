"""Commands that read a trail: search, show, history, facets, tail, stats."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import UNSET

from indelible.cli import output
from indelible.cli.arguments import Directory, Id, Json, Place, Text, trail_of
from indelible.cli.opening import (
    Source,
    place_and,
    place_and_perhaps,
    place_of,
    proof_of,
    reads,
)
from indelible.entry import time_to_text
from indelible.errors import CallerError, NotFound
from indelible.query import MAX_LIMIT, Query
from indelible.syntax import Clause
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.client import Client
    from indelible.facets import Facet
    from indelible.history import State, Unexplained
    from indelible.query import Item, Page
    from indelible.trail import Trail

Several = list[str] | None


@reads
def search(
    *,
    place: Place = None,
    query: Text = None,
    actor: Annotated[Several, typer.Option(metavar="TYPE:ID", help="Such as user:alice.")] = None,
    action: Annotated[
        Several, typer.Option(metavar="ACTION", help="Such as invoice.approve or invoice.*")
    ] = None,
    resource: Annotated[
        Several, typer.Option(metavar="TYPE:ID", help="Such as invoice:INV-7 or invoice:*")
    ] = None,
    outcome: Annotated[
        Several, typer.Option(metavar="OUTCOME", help="success, failure, denied or unknown.")
    ] = None,
    stream: Annotated[Several, typer.Option(metavar="STREAM", help="Part of the trail.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Recorded at this time or date, or later.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Recorded before this time, or by this date.")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help=f"At most so many, up to {MAX_LIMIT}.")
    ] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on after the page that named it.")
    ] = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="In the order of the logs.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every page; with --json, a line for each entry.")
    ] = False,
    proofs: Annotated[
        bool, typer.Option("--proofs", help="With --json: with the proof of each entry.")
    ] = False,
    source: Source,
    json: Json = False,
) -> None:
    """
    Search entries, the newest first.

    --actor, --action, --resource, --outcome and --stream may be given several
    times, of which any may hold. On a terminal the answer is a table, else lines
    with tabs between time, actor, action, resource, outcome, entry, rationale, id.
    """
    where, text = place_and_perhaps(place, query)
    if proofs and not json:
        raise CallerError("--proofs: proofs are printed with --json only")
    asked = _query(
        text,
        oldest_first=oldest_first,
        actor=actor,
        action=action,
        resource=resource,
        outcome=outcome,
        stream=stream,
        since=since and [since],
        until=until and [until],
    )
    with source.opened(where) as trail:
        if everything:
            for page in _pages(trail, asked, cursor):
                _print_items(trail, page, proofs=proofs, json=json)
            return
        page = trail.search(asked, limit=limit, cursor=cursor)
        if json:
            output.print_json(
                {
                    "items": list(_items_json(trail, page, proofs=proofs)),
                    "cursor": page.cursor,
                    "sizes": page.sizes,
                }
            )
            return
        _print_items(trail, page, proofs=False, json=False)
        if page.cursor is not None:
            output.note(f"more: --cursor {page.cursor}")
        elif not page.items:
            output.note("no entry matches")


def _query(text: str | None, *, oldest_first: bool, **fields: Any) -> Query:
    """Return the query of *text* and of options, which are clauses of the same syntax."""
    clauses = [
        Clause(key=key, values=tuple(values)).to_text() for key, values in fields.items() if values
    ]
    if oldest_first:
        clauses.append("order:oldest")
    return Query.parse(" ".join([text or "", *clauses]))


def _pages(trail: Trail | Client, query: Query, cursor: str | None) -> Iterator[Page]:
    while True:
        page = trail.search(query, limit=MAX_LIMIT, cursor=cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


def _print_items(trail: Trail | Client, page: Page, *, proofs: bool, json: bool) -> None:
    if json:
        for shown in _items_json(trail, page, proofs=proofs):
            output.print_json(shown)
    elif page.items:
        output.print_items(page.items)


def _items_json(trail: Trail | Client, page: Page, *, proofs: bool) -> Iterator[dict[str, Any]]:
    for item in page.items:
        yield output.item_json(item, proof_of(trail, item) if proofs else None)


@reads
def show(
    *,
    place: Place = None,
    event_id: Id = None,
    source: Source,
    json: Json = False,
) -> None:
    """Show one entry with all that it says."""
    where, wanted = place_and(place, event_id, "ID")
    with source.opened(where) as trail:
        item = find(trail, wanted)
    if json:
        output.print_json(output.item_json(item))
    else:
        output.print_fields(output.item_fields(item))


def find(trail: Trail | Client, wanted: str) -> Item:
    """
    Return the entry of an event's id, or at a place such as ``user#12``.

    Raises:
        NotFound: There is none.
        InvalidQuery: It is neither.
    """
    log, mark, number = wanted.rpartition("#")
    if not mark:
        return trail.get(wanted)
    if number.isascii() and number.isdigit():
        return trail.at(log, int(number))
    raise NotFound(f"entry: no entry {wanted!r}")


@reads
def history(
    *,
    place: Place = None,
    resource: Annotated[
        str | None, typer.Argument(metavar="TYPE:ID", help="The resource, such as invoice:INV-7.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Such as 2026-01-31T09:30:00Z."),
    ] = None,
    source: Source,
    json: Json = False,
) -> None:
    """
    Print all entries about a resource, the oldest first.

    With --at, its state at that time: the value of each field that an entry
    changed, and the entry that set it; changes that found another value than the
    entry before them had left are named.
    """
    where, wanted = place_and(place, resource, "TYPE:ID")
    with source.opened(where) as trail:
        if at is not None:
            from indelible.sources.jsonl import parse_time  # noqa: PLC0415 - only with --at

            state = trail.state(wanted, at=parse_time("--at", at))
            if json:
                output.print_json({"resource": wanted, "at": at, **_state_json(state)})
            else:
                _print_state(state)
            return
        items = trail.history(wanted)
    if json:
        for item in items:
            output.print_json(output.item_json(item))
    elif items:
        output.print_items(items)
    else:
        output.note(f"no entry about {wanted}")


def _state_json(state: State) -> dict[str, Any]:
    return {
        "values": {
            field: {"value": value.value, "since": output.item_json(value.since)}
            for field, value in state.values.items()
        },
        "unexplained": [
            {
                "field": gap.field,
                # Absent where the field was.
                **{
                    name: value
                    for name, value in (("expected", gap.expected), ("found", gap.found))
                    if value is not UNSET
                },
                "after": output.item_json(gap.after),
                "before": output.item_json(gap.before),
            }
            for gap in state.unexplained
        ],
    }


def _print_state(state: State) -> None:
    output.print_table(
        ("field", "value", "time", "actor", "action", "entry"),
        [
            (
                field,
                output.value_text(value.value),
                time_to_text(value.since.entry.recorded_at),
                str(value.since.event.actor),
                value.since.event.action,
                output.place_of(value.since),
            )
            for field, value in state.values.items()
        ],
    )
    for gap in state.unexplained:
        output.note(f"unexplained: {_gap_text(gap)}")


def _gap_text(gap: Unexplained) -> str:
    expected, found = (
        "nothing" if value is UNSET else output.value_text(value)
        for value in (gap.expected, gap.found)
    )
    return (
        f"{gap.field} was {expected} after {output.place_of(gap.after)},"
        f" and {found} before {output.place_of(gap.before)}"
    )


@reads
def facets(
    *,
    place: Place = None,
    query: Text = None,
    field: Annotated[
        Several,
        typer.Option(
            metavar="FIELD",
            help="actor, action, resource, outcome or session. By default the first four.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="How many values of each field.")] = 10,
    source: Source,
    json: Json = False,
) -> None:
    """Count the most frequent values of what matches."""
    where, text = place_and_perhaps(place, query)
    fields = tuple(field or ("actor", "action", "resource", "outcome"))
    with source.opened(where) as trail:
        counted = trail.facets(Query.parse(text or ""), fields=fields, top=top)
    if json:
        output.print_json(
            {
                name: {
                    "counts": [{"value": value, "count": count} for value, count in facet.counts],
                    "distinct": facet.distinct,
                    "total": facet.total,
                    "withheld": facet.withheld,
                    **({"at_least": True} if _is_cut(facet) else {}),
                }
                for name, facet in counted.items()
            }
        )
        return
    output.print_table(
        ("field", "value", "count"),
        [
            (name, value, str(count))
            for name, facet in counted.items()
            for value, count in (
                *facet.counts,
                *([(_WITHHELD, facet.withheld)] if facet.withheld else []),
            )
        ],
    )

    if any(map(_is_cut, counted.values())):
        output.note("only the newest entries were counted: there are at least so many")


def _is_cut(facet: Facet) -> bool:
    # A collector counts no more than it must; a trail counts all.
    return getattr(facet, "at_least", False)


_WITHHELD = "[withheld or erased]"


@reads
def tail(
    *,
    place: Place = None,
    stream: Annotated[
        str | None, typer.Option(metavar="STREAM", help="Of one stream. By default of all.")
    ] = None,
    source: Source,
    json: Json = False,
) -> None:
    """Print entries as they are recorded, until Ctrl-C."""
    with source.opened(place_of(place)) as trail, suppress(KeyboardInterrupt):
        for item in trail.follow(stream):
            if json:
                output.print_json(output.item_json(item))
            else:
                output.print_row(output.item_row(item))


def stats(*, directory: Directory = None, json: Json = False) -> None:
    """Print what the trail holds: entries, bytes, segments, times."""
    with open_trail(trail_of(directory), mode="r") as trail:
        counted = trail.stats()
    if json:
        output.print_json(counted)
        return
    logs = counted.pop("logs")
    counted.pop("lost", None)
    output.print_fields((name, output.value_text(value)) for name, value in counted.items())
    if sys.stdout.isatty():
        output.print_text("")
    output.print_table(
        ("log", "entries", "segments", "last recorded"),
        [
            (log, str(each["entries"]), str(each["segments"]), each["recorded_at"] or "never")
            for log, each in logs.items()
        ],
    )
