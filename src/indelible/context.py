"""
Who acts, in which session, request and trace, for the work in progress.

A `Work` is a request, a task or a command under way. Middleware begins it, and whoever
authenticates names its actor with `authenticated`, in whatever thread or task that
happens: all of them hold the same object. `context()` sets frozen fields over it for a
block and gives the outer ones back when the block ends. Both follow `contextvars`: an
asyncio task starts with its parent's, a new thread with none; `wrap` takes them along.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from indelible.errors import CallerError, InvalidEvent, Malformed
from indelible.event import (
    Actor,
    Approval,
    Client,
    Rationale,
    Service,
    Trace,
    check_text,
    parse_rationale,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
R = TypeVar("R")


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of an event that the work in progress decides."""

    actor: Actor | None = None
    rationale: Rationale | None = None
    session: str | None = None
    request: str | None = None
    client: Client | None = None
    trace: Trace | None = None
    service: Service | None = None
    tenant: str | None = None
    approval: Approval | None = None

    def __post_init__(self) -> None:
        for field in ("session", "request", "tenant"):
            if (value := getattr(self, field)) is not None:
                check_text(field, value)
        if self.approval is not None and type(self.approval) is not Approval:
            raise InvalidEvent("approval", self.approval, "an Approval")


class Work:
    """
    A request, a task or a command under way, which learns who acts as it goes.

    Args:
        context: What is known when it begins.
        actor_of: Asked whenever an event is built and nobody has called `authenticated`:
            who acts as far as the framework knows by then.
    """

    __slots__ = ("_actor_of", "context")

    def __init__(
        self, context: Context, actor_of: Callable[[], Actor | None] | None = None
    ) -> None:
        self.context = context
        self._actor_of = actor_of

    def frozen(self) -> Context:
        """Return what is known now."""
        found = self.context
        if found.actor is None and self._actor_of is not None and not _asking.get():
            token = _asking.set(True)
            try:
                actor = self._actor_of()
            finally:
                _asking.reset(token)
            if actor is not None:
                return msgspec.structs.replace(found, actor=actor)
        return found


_NOTHING = Context()
# What was set for a block stands over the work in progress, and never in it: so it ends
# with its block, whatever the work learns meanwhile.
_current: ContextVar[tuple[Work | None, Context]] = ContextVar(
    "indelible.context", default=(None, _NOTHING)
)


# What is recorded by whoever finds out who acts is done before anybody knows.
_asking: ContextVar[bool] = ContextVar("indelible.asking", default=False)

_tracing: Callable[[], Trace | None] | None = None


def current() -> Context:
    """Return the context of the work in progress, as it is now."""
    work, given = _current.get()
    found = given if work is None else _over(given, work.frozen())
    # A block that names a trace means it; a request's header knows less than a tracer.
    if _tracing is not None and given.trace is None and (trace := _tracing()) is not None:
        return msgspec.structs.replace(found, trace=trace)
    return found


def traced_by(tracing: Callable[[], Trace | None] | None) -> None:
    """Ask *tracing*, in this process, for the trace of each event whose block names none."""
    global _tracing  # noqa: PLW0603 - a process has one tracer
    _tracing = tracing


@contextmanager
def begun(work: Work) -> Iterator[Work]:
    """Make *work* the work in progress inside the block; what was outside of it is not in it."""
    token = _current.set((work, _NOTHING))
    try:
        yield work
    finally:
        _current.reset(token)


class Steps:
    """
    Runs *work* in steps, each in the context in which the one before it ended.

    For what a thread turns to again and again, with other work between: a response that
    is streamed. A `context()` block that begins in one step may end in a later one.
    """

    __slots__ = ("_state",)

    def __init__(self, work: Work) -> None:
        self._state: tuple[Work | None, Context] = (work, _NOTHING)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Go on with the work inside the block."""
        token = _current.set(self._state)
        try:
            yield
        finally:
            self._state = _current.get()
            _current.reset(token)


def is_current(work: Work) -> bool:
    """Tell whether *work* is the work in progress."""
    return _current.get()[0] is work


def authenticated(actor: Actor | str, *, session: str | None = None) -> None:
    """
    Name who acts in the work in progress, from now to its end, in all its threads and tasks.

    Raises:
        CallerError: No work is in progress: no middleware stands around this.
        InvalidEvent: That is no actor.
    """
    work = _current.get()[0]
    if work is None:
        raise CallerError(
            "authenticated: found no request, task or command in progress, expected one that"
            " a middleware has begun; inside a block of your own, use context(actor=…)"
        )
    fields: dict[str, Any] = {"actor": actor if isinstance(actor, Actor) else Actor.parse(actor)}
    if session is not None:
        fields["session"] = session
    work.context = msgspec.structs.replace(work.context, **fields)


def wrap(function: Callable[P, R]) -> Callable[P, R]:
    """
    Return *function* so that it runs in the context of now, in whatever thread it is called.

    For executors and threads, which start with none. The context is frozen here; the
    thread has its own back after each call.
    """
    frozen = (None, current())

    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _current.set(frozen)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    return within


def to_message(context: Context) -> str:
    """Write *context* as the header of a message to another process."""
    return _encode(context).decode("utf-8")


def from_message(text: str | bytes) -> Context:
    """
    Read what `to_message` wrote.

    Whoever can send messages can write anything into one, so its actor is marked as
    asserted, and it brings no approval.

    Raises:
        Malformed: It is no context.
    """
    try:
        context = _decode(text)
    except (msgspec.MsgspecError, InvalidEvent, UnicodeError, RecursionError) as error:
        raise Malformed(f"context of a message: {error}") from error
    actor = context.actor
    if actor is not None:
        actor = msgspec.structs.replace(actor, asserted=True)
    return msgspec.structs.replace(context, actor=actor, approval=None)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Context).decode


def _over(given: Context, below: Context) -> Context:
    if given is _NOTHING:
        return below
    fields = {
        field: value
        for field in Context.__struct_fields__
        if (value := getattr(given, field)) is not None
    }
    return msgspec.structs.replace(below, **fields) if fields else below


@contextmanager
def context(
    *,
    actor: Actor | str | None = None,
    rationale: Rationale | str | None = None,
    client: Client | str | None = None,
    trace: Trace | str | None = None,
    service: Service | str | None = None,
    **fields: Any,
) -> Iterator[Context]:
    """
    Name what is common to every event recorded inside the block.

    What is not named stays as the outer block has it.

    Args:
        actor: An `Actor` or ``user:alice``.
        rationale: Why the work in this block is done.
        client: A `Client`, or its address.
        trace: A `Trace`, or its W3C trace id.
        service: A `Service`, or its name.
        fields: ``session``, ``request``, ``tenant``, ``approval``.

    Raises:
        InvalidEvent: A field that no event has, or a wrong value.
    """
    if unknown := fields.keys() - set(Context.__struct_fields__):
        raise InvalidEvent(min(unknown), fields[min(unknown)], "a field of Context")
    if actor is not None:
        fields["actor"] = actor if isinstance(actor, Actor) else Actor.parse(actor)
    if rationale is not None:
        fields["rationale"] = parse_rationale(rationale)
    if client is not None:
        fields["client"] = client if isinstance(client, Client) else Client(ip=client)
    if trace is not None:
        fields["trace"] = trace if isinstance(trace, Trace) else Trace(trace_id=trace)
    if service is not None:
        fields["service"] = service if isinstance(service, Service) else Service(name=service)
    work, given = _current.get()
    token = _current.set((work, msgspec.structs.replace(given, **fields)))
    try:
        yield current()
    finally:
        _current.reset(token)
