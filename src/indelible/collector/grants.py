"""Grants: access that callers ask for, that others decide on, and that ends by itself."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from indelible import grants, query
from indelible.access import Viewer
from indelible.collector.callers import asks
from indelible.collector.state import Collector
from indelible.custody import own_event, private_event
from indelible.entry import time_to_text
from indelible.errors import CallerError, Moved, NotFound
from indelible.event import Outcome, uuid7
from indelible.grants import ASKED, DECIDED, KIND, REVOKED, USED, Grant, Granted, GrantedReader
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.rights import Caller, Verb
from indelible.wire import AccessDecision, AccessRequest, DecisionShown, GrantShown
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from indelible.log import Placed
    from indelible.reader import Reader
    from indelible.seal import Sealed
    from indelible.store import Transaction, View
    from indelible.trail import Trail

_MOST_OPEN = 20
"""Most requests of one caller that wait."""

_MOST_TEXT = 1_000
_KEPT_FOR = 90 * 86_400_000_000
"""Microseconds after which what was asked is left to the custody stream alone."""

_NO_SUCH = "request: found none with this id"
_log = logging.getLogger("indelible")


# ---- Reading under a grant ----


def reader_for(collector: Collector, caller: Caller, viewer: Viewer) -> Reader:
    """Return what reads for *caller* with the sights of *viewer* and what grants add to them."""

    def granted(view: View) -> list[Granted]:
        found = grants.active(view, caller, collector.now())
        return [
            Granted(grant=each, places=_PLACES.of(collector.trail, view, each)) for each in found
        ]

    def used(shown: Mapping[str, int]) -> None:
        for name, entries in shown.items():
            _use(collector, name, entries)

    return GrantedReader(collector.trail, viewer, caller, granted=granted, used=used)


class _Places:
    """Remembers which entries each grant is for: those that were there when it began."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[str, frozenset[tuple[str, int]]] = OrderedDict()

    def of(self, trail: Trail, view: View, grant: Grant) -> frozenset[tuple[str, int]]:
        """Return the places of the entries that *grant* is for; none where that is not known."""
        with self._lock:
            found = self._known.get(grant.id)
        if found is None:
            found = self._find(trail, view, grant)
            with self._lock:
                self._known[grant.id] = found
                while len(self._known) > self._most:
                    self._known.popitem(last=False)
        return found

    @staticmethod
    def _find(trail: Trail, view: View, grant: Grant) -> frozenset[tuple[str, int]]:
        asked, _ = _own_words(trail, view, grant)
        try:
            until = grant.began_at or 0
            return frozenset(grants.covered(view, trail.vault, trail.policy, asked, until))
        except CallerError as error:
            # Whoever has broken glass asked for what nobody had looked at.
            _log.warning("grant %s: shows nothing: %s", grant.id, error)
            return frozenset()


_PLACES = _Places(64)


def _use(collector: Collector, name: str, entries: int) -> None:
    """
    Count a use of a grant; the first is an entry.

    Raises:
        Moved: It has ended meanwhile: what it would have shown is not.
    """
    trail, now = collector.trail, collector.now()

    def count(transaction: Transaction) -> Grant:
        grant = _kept(transaction, name)
        if grant.state(now) != "active":
            raise Moved(f"grant {name}: has ended meanwhile")
        counted = msgspec.structs.replace(
            grant, uses=grant.uses + 1, entries=grant.entries + entries, last_used_at=now
        )
        transaction.put(KIND, name.encode(), counted.to_bytes())
        return grant

    with trail.store.read() as view:
        is_first = not _kept(view, name).uses
    if not is_first:
        with trail.store.write() as transaction:
            count(transaction)
        return
    with trail.store.read() as view:
        grant = _kept(view, name)
    _write(
        trail,
        own_event(
            trail.id, USED, grant=name, caller=grant.caller, name=grant.name, role=grant.role
        ),
        lambda transaction, _: count(transaction),
    )


# ---- Asking and deciding ----


def ask(collector: Collector, caller: Caller, asked: AccessRequest) -> Grant:
    """
    Keep what *caller* asks for, until others have decided; or begin at once, to be reviewed.

    Raises:
        CallerError, Forbidden: It is not something that the caller can be granted.
    """
    trail, now = collector.trail, collector.now()
    rationale = _text("rationale", asked.rationale)
    if (asked.query is None) == (asked.entry is None):
        raise CallerError("request: expected either a query or an entry")
    scope = Query.parse(asked.query or "") if asked.entry is None else Query(id=asked.entry)
    text = _text("query", scope.to_text())
    grant = grants.ask(
        caller,
        trail.policy,
        name=uuid7(time.time_ns(), os.urandom(10)),
        classes=asked.classes,
        paths=asked.paths,
        duration=asked.duration,
        break_glass=asked.break_glass,
        now=now,
    )
    emergency = trail.policy.governance.break_glass
    event = private_event(
        trail.vault,
        trail.id,
        ASKED,
        rationale=rationale,
        grant=grant.id,
        caller=caller.id,
        name=caller.name,
        role=caller.role,
        classes=[each.value for each in grant.classes],
        paths=list(grant.paths),
        query=text,
        duration=grant.duration,
        break_glass=grant.break_glass,
        alert=list(emergency.alert) if emergency is not None and grant.break_glass else [],
    )
    made: list[Grant] = []

    def keep(transaction: Transaction, placed: Mapping[str, Placed]) -> None:
        where = placed[CUSTODY]
        kept = msgspec.structs.replace(grant, log=where.log, index=where.first)
        transaction.put(KIND, grant.id.encode(), kept.to_bytes())
        made[:] = [kept]

    _make_room(trail, caller, now)
    _write(trail, event, keep)
    if grant.break_glass:
        _log.warning("break-glass: grant %s of %s has begun", grant.id, caller.id)
    return made[0]


def _make_room(trail: Trail, caller: Caller, now: int) -> None:
    """Forget what ended long ago; refuse a caller who asks again and again."""
    with trail.store.read() as view:
        found = [Grant.from_bytes(kept) for _, kept in view.facts(KIND)]
    waiting = sum(each.caller == caller.id and each.state(now) == "asked" for each in found)
    if waiting >= _MOST_OPEN:
        raise CallerError(f"request: this caller has {waiting} that wait, expected fewer")
    old = [
        each
        for each in found
        if each.asked_at + each.lasts + _KEPT_FOR < now and each.state(now) != "active"
    ]
    if old:
        with trail.store.write() as transaction:
            for each in old:
                transaction.put(KIND, each.id.encode(), None)


def decide(collector: Collector, caller: Caller, name: str, decision: AccessDecision) -> Grant:
    """
    Approve or refuse the request with the id *name*; with enough approvals, the grant begins.

    Raises:
        NotFound: There is none that the caller sees.
        Forbidden: It is the caller's own, or the policy asks others.
        NotApproved: There is nothing to decide.
        CallerError: It is for more entries than a grant can be.
    """
    trail, now = collector.trail, collector.now()
    rationale = _text("rationale", decision.rationale)
    before = _seen(trail, name, caller, decides=True)
    after = grants.decide(before, caller, trail.policy, approves=decision.approve, now=now)
    if after.began_at == now and before.began_at is None:
        with trail.store.read() as view:
            text, _ = _own_words(trail, view, before)
            grants.covered(view, trail.vault, trail.policy, text, now)
    event = private_event(
        trail.vault,
        trail.id,
        DECIDED,
        outcome=Outcome.SUCCESS if decision.approve else Outcome.DENIED,
        rationale=rationale,
        grant=name,
        caller=caller.id,
        name=caller.name,
        role=caller.role,
        approves=decision.approve,
        holder=before.caller,
        state=after.state(now),
        until=_time(after.ends_at),
    )
    return _change(trail, event, before, after)


def revoke(collector: Collector, caller: Caller, name: str) -> Grant:
    """
    End the grant with the id *name*, or take the request back.

    Raises:
        NotFound: There is none that the caller sees.
        NotApproved: It has ended already.
    """
    trail, now = collector.trail, collector.now()
    may_decide = Verb.APPROVE in caller.verbs(trail.policy)
    before = _seen(trail, name, caller, decides=may_decide)
    after = grants.revoke(before, now=now)
    event = own_event(
        trail.id,
        REVOKED,
        grant=name,
        caller=caller.id,
        name=caller.name,
        role=caller.role,
        holder=before.caller,
        uses=before.uses,
        entries=before.entries,
    )
    return _change(trail, event, before, after)


def _change(trail: Trail, event: Sealed, before: Grant, after: Grant) -> Grant:
    def keep(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        now = _kept(transaction, before.id)
        if (now.decisions, now.revoked_at) != (before.decisions, before.revoked_at):
            raise Moved(f"request {before.id}: was changed meanwhile")
        counted = msgspec.structs.replace(
            after, uses=now.uses, entries=now.entries, last_used_at=now.last_used_at
        )
        transaction.put(KIND, before.id.encode(), counted.to_bytes())

    _write(trail, event, keep)
    return after


def _write(
    trail: Trail, event: Sealed, within: Callable[[Transaction, Mapping[str, Placed]], object]
) -> None:
    pending = Pending({CUSTODY: [event]}, within=within)
    trail.submit(pending)
    pending.result()


def _kept(view: View | Transaction, name: str) -> Grant:
    kept = view.fact(KIND, name.encode())
    if kept is None:
        raise NotFound(_NO_SUCH)
    return Grant.from_bytes(kept)


def _seen(trail: Trail, name: str, caller: Caller, *, decides: bool) -> Grant:
    with trail.store.read() as view:
        grant = _kept(view, name)
    if grant.caller != caller.id and not (decides and grant.is_seen_by(caller)):
        raise NotFound(_NO_SUCH)
    return grant


# ---- What is shown ----


def _own_words(trail: Trail, view: View, grant: Grant) -> tuple[str, str]:
    """Return query and rationale of a request, as whoever asked knows them."""
    opener = trail.vault.opener(Viewer(), trail.policy)
    (item,) = query.items(view, grant.log, [grant.index], opener)
    return _words(item)


def _words(item: query.Item) -> tuple[str, str]:
    said: dict[str, Any] = item.event.data if isinstance(item.event.data, dict) else {}
    rationale = item.event.rationale
    return str(said.get("query", "")), "" if rationale is None else rationale.text


def shown(collector: Collector, grant: Grant, caller: Caller) -> GrantShown:
    """Return *grant* as *caller* may see it: in its own words, or as its role sees them."""
    trail = collector.trail
    if grant.caller == caller.id:
        with trail.store.read() as view:
            asked, rationale = _own_words(trail, view, grant)
    else:
        # Recorded as any other reading: what somebody searches for may name people.
        whole = msgspec.structs.replace(caller, streams=(), tenant=None)
        reader = trail.reader(Viewer.of(trail.policy, caller.role), whole)
        asked, rationale = _words(reader.at(grant.log, grant.index))
    return GrantShown(
        id=grant.id,
        state=grant.state(collector.now()),
        by=grant.name,
        role=grant.role,
        classes=tuple(each.value for each in grant.classes),
        paths=grant.paths,
        query=asked,
        rationale=rationale,
        duration=grant.duration,
        asked_at=time_to_text(grant.asked_at),
        needed=grant.needed,
        decisions=tuple(
            DecisionShown(by=each.person, approve=each.approves, at=time_to_text(each.at))
            for each in grant.decisions
        ),
        began_at=_time(grant.began_at),
        ends_at=_time(grant.ends_at),
        revoked_at=_time(grant.revoked_at),
        break_glass=grant.break_glass,
        review_by=_time(grant.review_by),
        uses=grant.uses,
        entries=grant.entries,
        last_used_at=_time(grant.last_used_at),
    )


def _time(moment: int | None) -> str | None:
    return None if moment is None else time_to_text(moment)


def _text(name: str, text: str) -> str:
    if not text.strip() or len(text) > _MOST_TEXT:
        raise CallerError(f"{name}: expected some text, at most {_MOST_TEXT} characters")
    return text


# ---- Routes ----


@post("/v1/access-requests", guards=asks(Verb.REQUEST), sync_to_thread=True, tags=["governing"])
def request_access(
    data: JSONBody[AccessRequest],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> Response[GrantShown]:
    """Ask for a grant; others decide."""
    grant = ask(collector, caller, data)
    return Response(
        shown(collector, grant, caller),
        headers={"Location": f"/v1/access-requests/{grant.id}"},
    )


@get(
    "/v1/access-requests",
    guards=asks(Verb.REQUEST, Verb.APPROVE),
    sync_to_thread=True,
    tags=["governing"],
)
def requests(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[GrantShown]:
    """List the caller's requests and grants, the oldest first; all to whoever decides on them."""
    trail = collector.trail
    decides = Verb.APPROVE in caller.verbs(trail.policy)
    with trail.store.read() as view:
        found = [Grant.from_bytes(kept) for _, kept in view.facts(KIND)]
    return [
        shown(collector, each, caller)
        for each in found
        if each.caller == caller.id or (decides and each.is_seen_by(caller))
    ]


@get(
    "/v1/access-requests/{request_id:str}",
    guards=asks(Verb.REQUEST, Verb.APPROVE),
    sync_to_thread=True,
    tags=["governing"],
)
def request_shown(
    request_id: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> GrantShown:
    """Say how one request, or grant, stands."""
    decides = Verb.APPROVE in caller.verbs(collector.trail.policy)
    return shown(collector, _seen(collector.trail, request_id, caller, decides=decides), caller)


@post(
    "/v1/access-requests/{request_id:str}/decision",
    guards=asks(Verb.APPROVE),
    status_code=200,
    sync_to_thread=True,
    tags=["governing"],
)
def decision(
    request_id: FromPath[str],
    data: JSONBody[AccessDecision],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> GrantShown:
    """Approve or refuse what somebody else asks for."""
    return shown(collector, decide(collector, caller, request_id, data), caller)


@delete(
    "/v1/access-requests/{request_id:str}",
    guards=asks(Verb.REQUEST, Verb.APPROVE),
    sync_to_thread=True,
    tags=["governing"],
)
def revocation(
    request_id: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> None:
    """Take a request back, or end a grant."""
    revoke(collector, caller, request_id)


# Of several at one path, what answers a Response comes last: Litestar wraps the others twice,
# and awaits what that returns of everything else.
ROUTES: list[Any] = [requests, request_access, request_shown, decision, revocation]
