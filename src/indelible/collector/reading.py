"""
Reading: entries, histories, actors, facets and views, as the caller may see them.

What a caller sees is decided in `indelible.reader`; here parameters become queries, and
entries become JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, unquote, urlencode

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, HeaderParameter, PathParameter, QueryParameter
from msgspec import UNSET

from indelible.access import Viewer
from indelible.box import ValueState
from indelible.collector.callers import asks
from indelible.collector.grants import reader_for
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector
from indelible.entry import time_to_text
from indelible.errors import InvalidQuery, NotFound
from indelible.history import about
from indelible.query import MAX_LIMIT, Query
from indelible.reader import Reader
from indelible.rights import Caller, Verb
from indelible.syntax import Clause, parse_clauses
from indelible.views import VIEWS, of_name
from indelible.wire import (
    CASE_HEADER,
    PURPOSE_HEADER,
    ActorShown,
    EntryItem,
    EntryPage,
    FacetCount,
    FacetShown,
    FacetsShown,
    GapShown,
    Integrity,
    StateShown,
    ValueShown,
    ViewShown,
    ViewsShown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from indelible.facets import Facet
    from indelible.history import State
    from indelible.query import Item, Page

DROPPED = "DROPPED"
"""The state of a secret, which is kept nowhere."""

MOST_READ = 10_000
"""
Entries that are read for one answer. A page that would need more ends there, perhaps empty,
and its cursor goes on; counts are of the newest; the state of a resource is refused.
"""

_MOST_SAID = 1_000
_RECENT = 10
_FIELDS = ("actor", "action", "resource", "outcome")

Several = FromQuery[list[str] | None]
Order = Literal["newest", "oldest"]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="Most entries of the page.")]
Cursor = Annotated[
    str | None, QueryParameter(description="That of the page before, to go on after it.")
]
Since = Annotated[str | None, QueryParameter(description="This time or date, or later.")]
Until = Annotated[str | None, QueryParameter(description="Before this time, or by this date.")]
Text = Annotated[
    str | None,
    QueryParameter(description='As text: `actor:user:alice action:invoice.* "second reminder"`.'),
]


# ---- Who reads ----


def reader_of(
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    purpose: Annotated[
        str | None,
        HeaderParameter(name=PURPOSE_HEADER, description="Why; kept with what was read."),
    ] = None,
    case: Annotated[
        str | None,
        HeaderParameter(
            name=CASE_HEADER, description="Within it, masked identities become pseudonyms."
        ),
    ] = None,
) -> Reader:
    """
    Return what reads for *caller*.

    Raises:
        Refusal: 400: purpose or case is no text, or too long.
    """
    viewer = Viewer.of(
        collector.trail.policy,
        caller.role,
        case=_said(CASE_HEADER, case),
        purpose=_said(PURPOSE_HEADER, purpose),
    )
    return reader_for(collector, caller, viewer)


READS = {"reader": Provide(reader_of, sync_to_thread=False)}
"""Dependencies of the routes that read."""


def _said(header: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        # HTTP hands bytes on as Latin-1, and clients send UTF-8.
        said = text.encode("latin-1").decode("utf-8").strip()
    except UnicodeError:
        raise Refusal(400, "invalid-request", f"{header}: expected UTF-8") from None
    if len(said) > _MOST_SAID or not said.isprintable():
        raise Refusal(
            400, "invalid-request", f"{header}: expected at most {_MOST_SAID} printable characters"
        )
    return said or None


READ = asks(Verb.READ)
"""Guards of the routes that read."""


# ---- What is shown ----


def item_of(item: Item) -> EntryItem:
    """Return an entry as it is sent."""
    hidden = {
        path: state.value for path, state in item.states.items() if state is not ValueState.OPEN
    }
    return EntryItem(
        id=item.event.id,
        stream=item.stream,
        recorded_at=time_to_text(item.entry.recorded_at),
        event=msgspec.Raw(msgspec.json.encode(item.event)),
        redactions={**hidden, **dict.fromkeys(item.clear.dropped, DROPPED)},
        values={path: state.value for path, state in item.states.items()},
        integrity=Integrity(
            log=item.log,
            origin=item.origin,
            index=item.index,
            leaf_hash=item.leaf_hash.hex(),
            producer=item.producer,
        ),
        entry=msgspec.Raw(item.entry.to_bytes()),
        disclosures=tuple(map(msgspec.Raw, item.disclosures)),
    )


def _page_of(request: Request[Any, Any, Any], page: Page) -> Response[Any]:
    headers = {}
    if page.cursor is not None:
        others = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
        query = urlencode([*others, ("cursor", page.cursor)])
        # An id in the path may be of any script, and hold what ends a header.
        headers["Link"] = f'<{quote(request.scope["path"])}?{query}>; rel="next"'
    return Response(
        EntryPage(
            items=tuple(map(item_of, page.items)), cursor=page.cursor, sizes=dict(page.sizes)
        ),
        headers=headers,
    )


def facet_of(facet: Facet, *, whole: bool) -> FacetShown:
    """Return the counts of a field as they are sent."""
    return FacetShown(
        counts=tuple(FacetCount(value=value, count=count) for value, count in facet.counts),
        distinct=facet.distinct,
        total=facet.total,
        withheld=facet.withheld,
        gte=not whole,
    )


# ---- Entries ----


def query_of(
    q: str | None = None,
    *,
    order: Order | None = None,
    time: Literal["recorded", "occurred"] = "recorded",
    since: str | None = None,
    until: str | None = None,
    **named: Sequence[str] | None,
) -> Query:
    """
    Return the query of text and of parameters, which are clauses of the same language.

    Raises:
        InvalidQuery: It means nothing, or says something twice.
    """
    clock = "" if time == "recorded" else "occurred_"
    several = {
        **named,
        f"{clock}since": since and [since],
        f"{clock}until": until and [until],
        "order": order and [order],
    }
    # Parsed by themselves first: no parameter closes a quote that the text leaves open.
    clauses = [
        *parse_clauses(q or ""),
        *(Clause(key=key, values=tuple(values)) for key, values in several.items() if values),
    ]
    return Query.parse(" ".join(clause.to_text() for clause in clauses))


@get(
    "/v1/entries",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def entries(
    *,
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    stream: Several = None,
    actor: Several = None,
    action: Several = None,
    resource: Several = None,
    outcome: Several = None,
    producer: Several = None,
    tenant: Several = None,
    since: Since = None,
    until: Until = None,
    time: FromQuery[Literal["recorded", "occurred"]] = "recorded",
    q: Text = None,
    order: FromQuery[Order | None] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[EntryPage]:
    """Answer a page of the entries that match, the newest first."""
    asked = query_of(
        q,
        order=order,
        time=time,
        since=since,
        until=until,
        stream=stream,
        actor=actor,
        action=action,
        resource=resource,
        outcome=outcome,
        producer=producer,
        tenant=tenant,
    )
    return _page_of(request, reader.search(asked, limit=limit, cursor=cursor, most=MOST_READ))


@get(
    "/v1/entries/{event_id:str}",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def entry(reader: NamedDependency[Reader], event_id: FromPath[str]) -> EntryItem:
    """Answer the entry of the event with this id."""
    return item_of(reader.get(event_id))


@get(
    "/v1/entries/{event_id:str}/proof",
    guards=READ,
    dependencies=READS,
    media_type="text/plain",
    sync_to_thread=True,
    tags=["reading"],
)
def proof(reader: NamedDependency[Reader], event_id: FromPath[str]) -> str:
    """Answer the proof (C2SP tlog-proof) that a signed checkpoint covers the entry."""
    _, found = reader.prove(event_id)
    return found.to_bytes().decode()


# ---- Resources and actors ----


def rest_of(request: Request[Any, Any, Any], prefix: str) -> str:
    """Return what follows *prefix* in the path: ids hold slashes, single or double."""
    raw: bytes | None = request.scope.get("raw_path")
    path = unquote(raw.partition(b"?")[0].decode("ascii")) if raw else request.scope["path"]
    return path.partition(prefix)[2]


@get(
    "/v1/resources/{resource_type:str}/{rest:path}",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def resource(
    *,
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    resource_type: FromPath[str],
    rest: Annotated[str, PathParameter(description="`{id}/history` or `{id}/state`.")],
    at: Annotated[
        str | None, QueryParameter(description="The time that state is asked of.")
    ] = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[EntryPage | StateShown]:
    """
    Answer the history of a resource, the oldest entry first, or its state at a time.

    Its id may hold slashes, best written `%2F`.
    """
    whole = rest_of(request, f"/v1/resources/{resource_type}/") or rest.removeprefix("/")
    resource_id, _, what = whole.rpartition("/")
    named = f"{resource_type}:{resource_id}"
    if what == "history" and at is None:
        asked = about(named, until=query_of(until=until).until)
        return _page_of(request, reader.search(asked, limit=limit, cursor=cursor, most=MOST_READ))
    if what == "state" and until is None and cursor is None:
        moment = query_of(since=at).since
        return Response(_state_of(named, at, reader.state(named, at=moment, most=MOST_READ)))
    raise NotFound(f"resource: found …/{what[:20]}, expected …/history or …/state?at=")


def _state_of(named: str, at: str | None, state: State) -> StateShown:
    return StateShown(
        resource=named,
        at=at,
        values={
            field: ValueShown(value=value.value, since=value.since.event.id)
            for field, value in state.values.items()
        },
        unexplained=tuple(
            GapShown(
                field=gap.field,
                expected=None if gap.expected is UNSET else gap.expected,
                found=None if gap.found is UNSET else gap.found,
                after=gap.after.event.id,
                before=gap.before.event.id,
            )
            for gap in state.unexplained
        ),
    )


@get(
    "/v1/actors/{actor:path}",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def actor_shown(
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    actor: Annotated[str, PathParameter(description="Such as `user:alice`.")],
) -> ActorShown:
    """Answer when an actor was seen, what it did how often, and what it did last."""
    named = rest_of(request, "/v1/actors/") or actor.removeprefix("/")
    if named.endswith(":*"):
        raise InvalidQuery(f"actor: found {named[:60]!r}, expected one TYPE:ID")
    seen = reader.actor(named, recent=_RECENT, most=MOST_READ)
    counted = seen.counted
    return ActorShown(
        actor=named,
        first_seen=time_to_text(seen.first.entry.recorded_at),
        last_seen=time_to_text(seen.recent[0].entry.recorded_at),
        actions=facet_of(counted.facets["action"], whole=counted.whole),
        outcomes=facet_of(counted.facets["outcome"], whole=counted.whole),
        recent=tuple(map(item_of, seen.recent)),
    )


# ---- Counts and views ----


@get(
    "/v1/facets",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def facets(
    *,
    reader: NamedDependency[Reader],
    stream: Several = None,
    actor: Several = None,
    action: Several = None,
    resource: Several = None,
    outcome: Several = None,
    producer: Several = None,
    tenant: Several = None,
    since: Since = None,
    until: Until = None,
    time: FromQuery[Literal["recorded", "occurred"]] = "recorded",
    q: Text = None,
    fields: Annotated[
        list[str] | None, QueryParameter(description="actor, action, resource, outcome, session.")
    ] = None,
    top: Annotated[int, QueryParameter(ge=0, le=1_000, description="Values named of each.")] = 10,
) -> FacetsShown:
    """Count the values of fields over the newest entries that match."""
    asked = query_of(
        q,
        time=time,
        since=since,
        until=until,
        stream=stream,
        actor=actor,
        action=action,
        resource=resource,
        outcome=outcome,
        producer=producer,
        tenant=tenant,
    )
    chosen = _split(fields) if fields else _FIELDS
    counted = reader.count(asked, fields=chosen, top=top, most=MOST_READ)
    return FacetsShown(
        facets={
            name: facet_of(facet, whole=counted.whole) for name, facet in counted.facets.items()
        }
    )


def _split(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for each in given for name in each.split(","))


@get("/v1/views", guards=READ, sync_to_thread=False, tags=["reading"])
def views() -> ViewsShown:
    """Answer the curated views, each with its query."""
    return ViewsShown(
        views=tuple(
            ViewShown(name=view.name, title=view.title, says=view.says, query=view.query)
            for view in VIEWS
        )
    )


@get(
    "/v1/views/{name:str}",
    guards=READ,
    dependencies=READS,
    sync_to_thread=True,
    tags=["reading"],
)
def view(
    *,
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    name: FromPath[str],
    since: Since = None,
    until: Until = None,
    order: FromQuery[Order | None] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response[EntryPage]:
    """Answer a page of what a curated view shows."""
    asked = query_of(of_name(name).query, order=order, since=since, until=until)
    return _page_of(request, reader.search(asked, limit=limit, cursor=cursor, most=MOST_READ))


ROUTES: list[Any] = [entries, entry, proof, resource, actor_shown, facets, views, view]
