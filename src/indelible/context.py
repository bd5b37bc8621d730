"""
Who acts, in which session, request and trace, for the work in progress.

A context is frozen; `context()` sets one for a block and gives the outer one
back when the block ends. It follows `contextvars`: each asyncio task starts with
its parent's, a new thread starts with none.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.errors import InvalidEvent
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
    from collections.abc import Iterator


class Context(msgspec.Struct, frozen=True, kw_only=True):
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


_NOTHING = Context()
_current: ContextVar[Context] = ContextVar("indelible.context", default=_NOTHING)


def current() -> Context:
    """Return the context of the work in progress."""
    return _current.get()


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
    token = _current.set(msgspec.structs.replace(_current.get(), **fields))
    try:
        yield _current.get()
    finally:
        _current.reset(token)
