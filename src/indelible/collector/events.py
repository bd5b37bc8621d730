"""
Events: plain events from programs that have no log of their own, sealed by the collector.

A repetition is known by the access token and the event's id, within seven days of the time
that the id carries. What is compared are keyed digests; their key is destroyed with the
window, and after that nobody can tell what they were of.
"""

from __future__ import annotations

import hmac
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
from litestar import Request, post
from litestar.di import NamedDependency

from indelible.collector.bodies import body_of, decoded
from indelible.collector.callers import asks
from indelible.collector.problems import Refusal, problem, problem_of
from indelible.collector.state import Collector
from indelible.errors import CallerError, Forbidden, InvalidEvent, Moved
from indelible.event import id_time
from indelible.rights import Caller, Verb
from indelible.sources.jsonl import parse_event
from indelible.wire import (
    MOST_EVENTS,
    EventCheck,
    EventChecks,
    EventResult,
    EventResults,
    Events,
)
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from indelible.event import Event
    from indelible.log import Placed
    from indelible.policy import Ruling
    from indelible.seal import Sealed
    from indelible.store import Transaction, View
    from indelible.trail import Trail
    from indelible.wire import Problem

KIND, KEY_KIND = "receipt", "receipt.key"
"""Kinds of the facts by which repetitions are known, and of the keys that they are under."""

WINDOW = 7 * 86_400_000
"""Milliseconds within which a repetition is known."""

_DAY = 86_400_000
_AHEAD = 3_600_000
_ATTEMPTS = 5
_decoder = msgspec.json.Decoder(Events)


class _Named(msgspec.Struct):
    id: str | None = None


class _Given(msgspec.Struct, frozen=True, kw_only=True):
    """An event that may be recorded, and what its repetitions are known by."""

    event: Event
    sealed: Sealed
    ruling: Ruling
    key: bytes
    content: bytes


class _Receipt(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an event that was recorded."""

    content: bytes
    stream: str
    log: str
    index: int
    leaf: bytes


class Receiving:
    """Records plain events in the trail of *collector*, each once."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._trail = collector.trail
        self._keys: dict[int, bytes] = {}

    def take(self, given: Sequence[bytes], caller: Caller) -> tuple[EventResult, ...]:
        """
        Record events; when this returns, those that were survive a crash.

        Returns:
            What became of each.

        Raises:
            StoreError: None of them was recorded.
            WriteUncertain: They may have been; to send them again is safe.
        """
        for _ in range(_ATTEMPTS):
            results: list[EventResult | None] = []
            fresh: dict[bytes, _Given] = {}
            with self._trail.store.read() as view:
                for data in given:
                    found = self._look(view, data, caller, fresh)
                    if isinstance(found, _Given):
                        fresh[found.key] = found
                    results.append(found if isinstance(found, EventResult) else None)
            try:
                recorded = iter(self._keep(list(fresh.values())))
            except Moved:
                # Others have recorded the same meanwhile, or a key was destroyed.
                continue
            return tuple(next(recorded) if each is None else each for each in results)
        raise Moved("others recorded the same again and again; repeat this")

    def _look(
        self, view: View, data: bytes, caller: Caller, fresh: Mapping[bytes, _Given]
    ) -> EventResult | _Given:
        """Return what is to become of an event, as far as that is known before it is written."""
        event_id = ""
        try:
            event_id = _id_of(data)
            event = _for_tenant(parse_event(data), caller)
            self._check_time(event)
            sealed, ruling = self._trail.prepare(event)
            _check_stream(ruling, caller)
        except CallerError as error:
            return _wrong(event_id, problem_of(error))
        except Refusal as error:
            return _wrong(event_id, error.problem)
        if sealed is None:
            return EventResult(status=204, id=event.id, state="not_captured")
        found = self._named(view, data, caller, event, sealed, ruling)
        kept = view.fact(KIND, found.key)
        if kept is not None:
            return _repeated(event.id, found.content, msgspec.msgpack.decode(kept, type=_Receipt))
        if found.key in fresh:
            return _wrong(event.id, problem(409, "repeated", "id: stands twice in this request"))
        return found

    def _named(  # noqa: PLR0917 - an event and what decided on it
        self,
        view: View,
        data: bytes,
        caller: Caller,
        event: Event,
        sealed: Sealed,
        ruling: Ruling,
    ) -> _Given:
        """Return the event with what its repetitions will be known by."""
        day = id_time(event.id) // _DAY
        secret = self._key(view, day)
        named = hmac.digest(secret, f"{caller.id}\0{event.id}".encode(), "sha256")[:16]
        # The same facts in another order are the same event.
        plain = msgspec.json.encode(msgspec.json.decode(data), order="sorted")
        return _Given(
            event=event,
            sealed=sealed,
            ruling=ruling,
            key=_day_key(day) + named,
            content=hmac.digest(secret, plain, "sha256")[:16],
        )

    def _check_time(self, event: Event) -> None:
        """
        Check that the event's id is of a time that is known.

        Raises:
            Refusal: 410 where it is too old, 422 where it is to come.
        """
        age = self._collector.now() // 1_000 - id_time(event.id)
        if age > WINDOW:
            why = "id: carries a time over seven days ago; whether it was recorded is not known"
            raise Refusal(410, "too-old", why)
        if age < -_AHEAD:
            raise Refusal(422, "invalid-event", "id: carries a time that is to come")

    def _key(self, view: View, day: int) -> bytes:
        """Return the key of the digests of a day, which is made with the first of them."""
        known = self._keys.get(day)
        if known is None:
            kept = view.fact(KEY_KIND, _day_key(day))
            if kept is None:
                # Not remembered before it is kept: another may be faster.
                return self._make_key(day)
            known = self._keys[day] = kept
        return known

    def _make_key(self, day: int) -> bytes:
        with self._trail.store.write() as transaction:
            kept = transaction.fact(KEY_KIND, _day_key(day))
            if kept is None:
                kept = os.urandom(32)
                transaction.put(KEY_KIND, _day_key(day), kept)
        self._keys[day] = kept
        return kept

    def _keep(self, fresh: Sequence[_Given]) -> list[EventResult]:
        """Write events together with what their repetitions will be known by."""
        if not fresh:
            return []
        streams: dict[str, list[_Given]] = {}
        for each in fresh:
            streams.setdefault(each.ruling.stream, []).append(each)
        receipts: dict[bytes, _Receipt] = {}

        def within(transaction: Transaction, placed: Mapping[str, Placed]) -> None:
            for stream, those in streams.items():
                where = placed[stream]
                for place, each in enumerate(those):
                    if transaction.fact(KIND, each.key) is not None:
                        raise Moved("recorded meanwhile")
                    receipts[each.key] = receipt = _Receipt(
                        each.content,
                        stream,
                        where.log,
                        where.first + place,
                        where.leaves[place],
                    )
                    transaction.put(KIND, each.key, msgspec.msgpack.encode(receipt))

        pending = Pending(
            {stream: [each.sealed for each in those] for stream, those in streams.items()},
            within=within,
        )
        self._trail.submit(pending)
        pending.result()
        return [_result(201, each.event.id, receipts[each.key]) for each in fresh]

    def forget(self) -> int:
        """
        Destroy what is known of repetitions whose window is over, and the keys of it first.

        Returns:
            How many receipts were destroyed.
        """
        over = _day_key((self._collector.now() // 1_000 - WINDOW) // _DAY)
        with self._trail.store.read() as view:
            keys = [key for key, _ in view.facts(KEY_KIND, b"", over)]
            receipts = [key for key, _ in view.facts(KIND, b"", over)]
        if keys or receipts:
            with self._trail.store.write() as transaction:
                for key in keys:
                    transaction.put(KEY_KIND, key, None)
                for key in receipts:
                    transaction.put(KIND, key, None)
        self._keys.clear()
        return len(receipts)


def _id_of(data: bytes) -> str:
    try:
        found = msgspec.json.decode(data, type=_Named).id
    except msgspec.MsgspecError:
        found = None
    if found is None:
        raise InvalidEvent("id", None, "a UUIDv7, by which a repetition is known")
    return found


def _for_tenant(event: Event, caller: Caller) -> Event:
    if caller.tenant is None or event.tenant == caller.tenant:
        return event
    if event.tenant is not None:
        raise Forbidden("tenant: this caller records for another")
    return msgspec.structs.replace(event, tenant=caller.tenant)


def _check_stream(ruling: Ruling, caller: Caller) -> None:
    if not caller.sees_stream(ruling.stream):
        raise Forbidden(f"stream: this caller does not record into {ruling.stream}")


def _day_key(day: int) -> bytes:
    return day.to_bytes(4, "big")


def _repeated(event_id: str, content: bytes, receipt: _Receipt) -> EventResult:
    if not hmac.compare_digest(content, receipt.content):
        why = "id: another event was recorded under it"
        return _wrong(event_id, problem(409, "repeated", why))
    return _result(200, event_id, receipt)


def _result(status: int, event_id: str, receipt: _Receipt) -> EventResult:
    return EventResult(
        status=status,
        id=event_id,
        stream=receipt.stream,
        log=receipt.log,
        index=receipt.index,
        leaf_hash=receipt.leaf.hex(),
        state="collected",
    )


def _wrong(event_id: str, found: Problem) -> EventResult:
    return EventResult(status=found.status, id=event_id, problem=found)


def _bodies(data: bytes) -> list[bytes]:
    events = decoded(data, _decoder).events
    if not 1 <= len(events) <= MOST_EVENTS:
        raise Refusal(422, "malformed", f"events: found {len(events)}, expected 1 to {MOST_EVENTS}")
    return [bytes(each) for each in events]


@post("/v1/events", guards=asks(Verb.RECORD), status_code=207)
async def record(
    request: Request[Caller, Any, Any],
    collector: NamedDependency[Collector],
    receiving: NamedDependency[Receiving],
    caller: NamedDependency[Caller],
) -> EventResults:
    """Record plain events; each is answered for itself."""
    collector.check_room()
    data = await body_of(request)

    def take() -> EventResults:
        began = monotonic()
        results = receiving.take(_bodies(data), caller)
        collector.metrics.recorded([each.status for each in results], monotonic() - began)
        return EventResults(results=results)

    return await anyio.to_thread.run_sync(take)


@post("/v1/events:validate", guards=asks(Verb.RECORD), status_code=200)
async def validate(
    request: Request[Caller, Any, Any],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> EventChecks:
    """Say what the policy would do with events; nothing is recorded."""
    data = await body_of(request)

    def check() -> EventChecks:
        given = _bodies(data)
        return EventChecks(results=tuple(_checked(collector.trail, each, caller) for each in given))

    return await anyio.to_thread.run_sync(check)


def _checked(trail: Trail, data: bytes, caller: Caller) -> EventCheck:
    event_id = ""
    try:
        event_id = _id_of(data)
        sealed, ruling = trail.prepare(_for_tenant(parse_event(data), caller))
    except CallerError as error:
        return EventCheck(id=event_id, problem=problem(422, "invalid-event", str(error)))
    return EventCheck(
        id=event_id,
        stream=ruling.stream,
        rule=ruling.rule,
        policy=ruling.policy,
        level=ruling.level.value,
        committed=() if sealed is None else sealed.clear.committed,
        dropped=() if sealed is None else sealed.clear.dropped,
        caught=() if sealed is None else sealed.clear.caught,
    )


ROUTES = [record, validate]
