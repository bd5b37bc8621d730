"""
Recorder: the only door through which applications bring events into a trail.

It fills an event from the call and the context, has it sealed in the caller's
thread (so what is wrong raises there), and waits for the writer.
"""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import msgspec

from indelible.context import current
from indelible.errors import InvalidEvent, Moved, StoreError, UnknownStream, WriteUncertain
from indelible.event import (
    Actor,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Trace,
    parse_changes,
    parse_outcome,
    parse_rationale,
)
from indelible.policy import CUSTODY, Level
from indelible.seal import seal
from indelible.writer import Pending

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from indelible.event import Approval, Change, Service
    from indelible.policy import Policy, Ruling
    from indelible.seal import Sealed
    from indelible.vault import Vault

P = ParamSpec("P")
R = TypeVar("R")

_ATTEMPTS = 3
"""How often an event is sealed when keys are destroyed meanwhile."""

_UNKNOWN = Actor(type="unknown")


class State(StrEnum):
    """How far an entry has come."""

    KEPT = "kept"
    COLLECTED = "collected"
    WITNESSED = "witnessed"
    NOT_CAPTURED = "not_captured"
    """Not written, because the policy says so: the rule that matched has the level none."""
    LOST = "lost"
    """Not written, in a stream whose policy is to go on; it is counted and will be named."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """
    What `record` returns: the entry survives a crash from now on.

    Attributes:
        index: Its place in the log, from 0.
        leaf_hash: The hash by which the log's tree knows the entry.
    """

    id: str
    stream: str
    log: str | None
    index: int | None
    leaf_hash: bytes | None
    state: State


class Recorder:
    """
    Records events into the streams that *policy* routes them to.

    Attributes:
        policy: The one in force; a new one holds for what is recorded from then on.

    Args:
        vault: Where values go that must be forgettable; without one, all stay in clear.
        submit: Hands sealed events to the writer.
        lost: Told the stream and the number of events that could not be kept, where
            the stream's policy is to continue.
    """

    def __init__(
        self,
        policy: Policy,
        submit: Callable[[Pending], None],
        lost: Callable[[str, int], None],
        vault: Vault | None = None,
    ) -> None:
        self.policy = policy
        self._submit = submit
        self._lost = lost
        self._vault = vault

    def record(
        self,
        event: Event | str,
        *,
        stream: str | None = None,
        **fields: Any,
    ) -> Receipt:
        """
        Record an event; when this returns, it survives a crash of this machine.

        Args:
            event: An `Event`, or an action with the event's fields beside it: see
                `build`.
            stream: Overrides where policy would route it.

        Raises:
            InvalidEvent: A field is missing or wrong.
            UnknownStream: The policy has no such stream.
            StoreError: It could not be kept, and its stream refuses to go on.
            WriteUncertain: It may have been kept.
        """
        whole = self._whole(event, fields)
        for _ in range(_ATTEMPTS):
            sealed, target = self.prepare(whole, stream)
            if sealed is None:
                return _not_captured(target)
            pending = Pending({target.stream: (sealed,)})
            self._submit(pending)
            pending.wait()
            if not isinstance(pending.error, Moved):
                break
            # A key of its boxes was destroyed by an erasure meanwhile: seal it anew.
        return self._receipt(pending, whole.id, target.stream)

    async def arecord(
        self, event: Event | str, *, stream: str | None = None, **fields: Any
    ) -> Receipt:
        """
        Do what `record` does without ever blocking the event loop on the disk.

        A task that is cancelled while it waits does not take the event back; an event
        that cannot be kept then is counted as lost, for nobody is left to be told.

        Raises:
            InvalidEvent, UnknownStream, StoreError, WriteUncertain: As `record`.
        """
        import asyncio  # noqa: PLC0415 - a fifth of the time to import the package

        whole = self._whole(event, fields)
        sealed, ruling = self.prepare(whole, stream)
        if sealed is None:
            return _not_captured(ruling)
        target = ruling.stream
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        is_second = iter((False, True))

        def unheard() -> None:
            # Called when the write has ended, and when nobody waits for it any more:
            # who comes second knows of both, and counts what nobody will be told.
            if next(is_second, False) and pending.error is not None:
                self._lost(target, 1)

        def wake() -> None:
            unheard()
            try:
                loop.call_soon_threadsafe(_set, done)
            except RuntimeError:  # the loop has ended while the writer was at it
                unheard()

        pending = Pending({target: (sealed,)}, on_done=wake)
        self._submit(pending)
        try:
            await done
        except BaseException:
            unheard()
            raise
        if isinstance(pending.error, Moved):
            # Rare enough to wait for in a thread: see `record`.
            return await loop.run_in_executor(None, lambda: self.record(whole, stream=stream))
        return self._receipt(pending, whole.id, target)

    def record_many(
        self,
        events: Iterable[Event],
        *,
        stream: str | None = None,
        batch: int = 1_000,
        may_lose: bool = True,
    ) -> int:
        """
        Record *events* in order, with one sync to disk for each *batch*.

        Args:
            may_lose: Whether events may be lost, and counted, where the policy of their
                stream is to continue; who keeps them and comes again says no.

        Returns:
            How many; all of them survive a crash when this returns.

        Raises:
            InvalidEvent: One is wrong; those before its batch are kept.
            StoreError, WriteUncertain: As `record`; whole batches before it are kept.
        """
        total = 0
        group: list[Event] = []
        for event in events:
            group.append(event)
            if len(group) == batch:
                total += self._keep(group, stream, may_lose=may_lose)
                group = []
        return total + (self._keep(group, stream, may_lose=may_lose) if group else 0)

    def audited(  # noqa: C901 - one wrapper for sync and one for async functions
        self,
        action: str,
        *,
        resource: str | Callable[..., Resource | str],
        stream: str | None = None,
        denied: tuple[type[BaseException], ...] = (PermissionError,),
        **fields: Any,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """
        Record each call of the decorated function, sync or async, and how it ended.

        Args:
            resource: ``"invoice:{invoice_id}"`` over the function's arguments, or
                a function of the same arguments.
            denied: Exceptions that mean a refusal; any other means failure.
            fields: Further fields of the event; a function is called with the
                same arguments.

        A call whose event could not be recorded raises before the function runs.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            signature = inspect.signature(function)

            def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
                # Before the call, since it may change what its arguments hold.
                values = {
                    name: value(*args, **kwargs) if callable(value) else value
                    for name, value in fields.items()
                }
                if callable(resource):
                    values["resource"] = resource(*args, **kwargs)
                else:
                    bound = signature.bind(*args, **kwargs)
                    bound.apply_defaults()
                    values["resource"] = resource.format(**bound.arguments)
                # What could not be recorded is refused before it is done.
                event = self._whole(action, values)
                seal(event, self._ruling(event, stream), self.policy)
                return values

            def ended(error: BaseException | None) -> dict[str, Any]:
                if error is None:
                    return {"outcome": Outcome.SUCCESS}
                # The type alone: a message may hold what must not be kept.
                outcome = Outcome.DENIED if isinstance(error, denied) else Outcome.FAILURE
                return {"outcome": outcome, "reason": type(error).__qualname__}

            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def around_async(*args: P.args, **kwargs: P.kwargs) -> object:
                    values = begin(args, kwargs)
                    try:
                        result = await cast("Awaitable[Any]", function(*args, **kwargs))
                    except BaseException as error:
                        await self.arecord(action, stream=stream, **values, **ended(error))
                        raise
                    await self.arecord(action, stream=stream, **values, **ended(None))
                    return result

                return cast("Callable[P, R]", around_async)

            @functools.wraps(function)
            def around(*args: P.args, **kwargs: P.kwargs) -> R:
                values = begin(args, kwargs)
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    self.record(action, stream=stream, **values, **ended(error))
                    raise
                self.record(action, stream=stream, **values, **ended(None))
                return result

            return around

        return decorate

    def _keep(self, events: Sequence[Event], stream: str | None, *, may_lose: bool) -> int:
        for _ in range(_ATTEMPTS):
            group: dict[str, list[Sealed]] = {}
            for event in events:
                sealed, ruling = self.prepare(event, stream)
                if sealed is not None:
                    group.setdefault(ruling.stream, []).append(sealed)
            if not group:
                return 0
            pending = Pending(group)
            self._submit(pending)
            pending.wait()
            if not isinstance(pending.error, Moved):
                break
        try:
            pending.result()
        except (StoreError, WriteUncertain):
            if not may_lose or any(self._refuses(stream) for stream in group):
                raise
            for target, lost in group.items():
                self._lost(target, len(lost))
            return 0
        return pending.size

    @staticmethod
    def _whole(event: Event | str, fields: dict[str, Any]) -> Event:
        if not isinstance(event, Event):
            return build(event, **fields)
        if fields:
            field = min(fields)
            raise InvalidEvent(field, fields[field], "no fields beside a whole Event")
        return complete(event)

    def prepare(self, event: Event, stream: str | None = None) -> tuple[Sealed | None, Ruling]:
        """
        Return the sealed event and what decided; nothing where it is not to be captured.

        Raises:
            InvalidEvent, UnknownStream, KeyUnavailable: As `record`.
        """
        ruling = self._ruling(event, stream)
        if ruling.level is Level.NONE:
            return None, ruling
        vault = self._vault
        if vault is None:
            return seal(event), ruling
        sealed = seal(event, ruling, self.policy, fingerprint=vault.fingerprint)
        return vault.enclose(sealed, ruling.stream), ruling

    def _ruling(self, event: Event, stream: str | None) -> Ruling:
        if not isinstance(event, Event):
            raise InvalidEvent("event", event, "an Event")
        ruling = self.policy.rule_on(event, stream)
        if ruling.stream == CUSTODY:
            raise UnknownStream("stream custody: only the trail itself writes there")
        return ruling

    def _refuses(self, stream: str) -> bool:
        found = self.policy.streams.get(stream)
        return found is None or found.on_failure == "refuse"

    def _receipt(self, pending: Pending, event_id: str, stream: str) -> Receipt:
        try:
            placed = pending.result()[stream]
        except (StoreError, WriteUncertain):
            if self._refuses(stream):
                raise
            self._lost(stream, 1)
            return Receipt(
                id=event_id, stream=stream, log=None, index=None, leaf_hash=None, state=State.LOST
            )
        return Receipt(
            id=event_id,
            stream=stream,
            log=placed.log,
            index=placed.first,
            leaf_hash=placed.leaves[0],
            state=State.KEPT,
        )


def _not_captured(ruling: Ruling) -> Receipt:
    return Receipt(
        id="", stream=ruling.stream, log=None, index=None, leaf_hash=None, state=State.NOT_CAPTURED
    )


def complete(event: Event) -> Event:
    """
    Return *event* with what it does not say filled from the context.

    An event that names its actor keeps it.
    """
    around = current()
    missing = {
        field: value
        for field in around.__struct_fields__
        if (value := getattr(around, field)) is not None and getattr(event, field) is None
    }
    return msgspec.structs.replace(event, **missing) if missing else event


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():  # else its task was cancelled meanwhile
        done.set_result(None)


def build(
    action: str,
    *,
    resource: Resource | str,
    actor: Actor | str | None = None,
    outcome: Outcome | str = Outcome.SUCCESS,
    changes: Mapping[str, Change | tuple[object, object]] | None = None,
    data: object = None,
    rationale: Rationale | str | None = None,
    reason: str | None = None,
    occurred_at: datetime | None = None,
    session: str | None = None,
    request: str | None = None,
    client: Client | str | None = None,
    trace: Trace | str | None = None,
    service: Service | None = None,
    tenant: str | None = None,
    approval: Approval | None = None,
    schema: str | None = None,
) -> Event:
    """
    Build an event from *action* and its fields; what is not given comes from the context.

    An event without any known actor has the actor ``unknown``.

    Raises:
        InvalidEvent: A field is missing or wrong.
    """
    context = current()
    if actor is None:
        actor = context.actor or _UNKNOWN
    elif type(actor) is not Actor:
        actor = Actor.parse(actor)  # type: ignore[arg-type]
    if type(resource) is not Resource:
        resource = Resource.parse(resource)  # type: ignore[arg-type]
    if type(client) is str:
        client = Client(ip=client)
    if type(trace) is str:
        trace = Trace(trace_id=trace)
    return Event(
        action=action,
        outcome=outcome if type(outcome) is Outcome else parse_outcome(outcome),
        actor=actor,
        resource=resource,
        changes=None if changes is None else parse_changes(changes),
        data=data,
        rationale=context.rationale if rationale is None else parse_rationale(rationale),
        reason=reason,
        occurred_at=datetime.now(UTC) if occurred_at is None else occurred_at,
        session=context.session if session is None else session,
        request=context.request if request is None else request,
        client=context.client if client is None else client,  # type: ignore[arg-type]
        trace=context.trace if trace is None else trace,  # type: ignore[arg-type]
        service=context.service if service is None else service,
        tenant=context.tenant if tenant is None else tenant,
        approval=context.approval if approval is None else approval,
        schema=schema,
    )
