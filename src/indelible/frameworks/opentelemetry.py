"""
OpenTelemetry: the span that an event happens in, and entries as log records.

The log records are a copy for those who look at everything in one place; what is proven,
and to be relied on, is the trail.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.context import context, traced_by
from indelible.entry import microseconds
from indelible.errors import CallerError
from indelible.event import Outcome, Trace

try:
    from opentelemetry import trace as spans
    from opentelemetry._logs import LogRecord, SeverityNumber, get_logger_provider
    from opentelemetry.context import Context
except ImportError as error:
    raise CallerError("OpenTelemetry is not installed: pip install 'indelible[otel]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry._logs import LoggerProvider

    from indelible.event import Event
    from indelible.query import Item
    from indelible.seal import Clear

__all__ = ["LogRecords", "instrument", "trace", "traced"]

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}\Z").match
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}\Z").match


def trace() -> Trace | None:
    """Return the trace and span that the current span is; nothing where there is none."""
    found = spans.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return Trace(
        trace_id=spans.format_trace_id(found.trace_id), span_id=spans.format_span_id(found.span_id)
    )


@contextmanager
def traced() -> Iterator[None]:
    """
    Give every event recorded inside the block the span that is current where it begins.

    Where there is none, the events keep the trace that they have.
    """
    with context(trace=trace()):
        yield


def instrument() -> None:
    """Give every event in this process the span that is current when it is recorded."""
    traced_by(trace)


class LogRecords:
    """
    Hands entries to OpenTelemetry as log records.

    Args:
        provider: Of whose loggers; by default the global one.
        opened: Whether to tell also the committed values that the viewer of the trail sees.
            Without, only what stands in the entry in clear leaves the trail.
    """

    def __init__(self, provider: LoggerProvider | None = None, *, opened: bool = False) -> None:
        self._logger = (provider or get_logger_provider()).get_logger("indelible")
        self._opened = opened

    def forward(self, items: Iterable[Item]) -> int:
        """Hand over *items*, of a page or of `indelible.Trail.follow`; return how many."""
        count = 0
        for count, item in enumerate(items, start=1):  # noqa: B007 - it is what is returned
            self._logger.emit(self._record(item))
        return count

    def _record(self, item: Item) -> LogRecord:
        event = item.event if self._opened else item.clear
        succeeded = event.outcome is Outcome.SUCCESS
        return LogRecord(
            timestamp=microseconds(event.occurred_at) * 1_000,
            observed_timestamp=item.entry.recorded_at * 1_000,
            context=_context(event.trace),
            severity_number=SeverityNumber.INFO if succeeded else SeverityNumber.WARN,
            severity_text="INFO" if succeeded else "WARN",
            attributes=_attributes(item, event),
            event_name=event.action,
        )


def _context(found: Trace | None) -> Context:
    """Return the context of the span that an entry names, as far as it is of W3C's form."""
    trace_id = span_id = 0
    if found is not None and _TRACE_ID(found.trace_id):
        trace_id = int(found.trace_id, 16)
        if _SPAN_ID(found.span_id or ""):
            span_id = int(found.span_id or "", 16)
    # Also where there is none: else the span of whoever forwards would be taken for it.
    span = spans.NonRecordingSpan(spans.SpanContext(trace_id, span_id, is_remote=True))
    return spans.set_span_in_context(span, Context())


def _attributes(item: Item, event: Event | Clear) -> dict[str, Any]:
    """Return what an entry says, under the names that OpenTelemetry and ECS have for it."""
    actor, resource, client = event.actor, event.resource, event.client
    user = actor.type == "user"
    rationale = event.rationale
    found = {
        "event.id": event.id,
        "event.action": event.action,
        "event.outcome": event.outcome.value,
        "event.reason": event.reason,
        "audit.actor.type": actor.type,
        "user.id" if user else "audit.actor.id": actor.id,
        "user.name" if user else "audit.actor.name": actor.name,
        "user.roles" if user else "audit.actor.roles": list(actor.roles),
        "audit.actor.asserted": actor.asserted or None,
        "audit.actor.on_behalf_of": None if actor.on_behalf_of is None else str(actor.on_behalf_of),
        "audit.resource.type": resource.type,
        "audit.resource.id": resource.id,
        "audit.resource.name": resource.name,
        "audit.changes": _json(event.changes),
        "audit.data": _json(event.data),
        "audit.rationale": None if rationale is None else rationale.text,
        "session.id": event.session,
        "http.request.id": event.request,
        "client.address": None if client is None else client.ip,
        "user_agent.original": None if client is None else client.user_agent,
        "trace.id": None if event.trace is None else event.trace.trace_id,
        "organization.id": event.tenant,
        "audit.origin": item.origin,
        "audit.stream": item.stream,
        "audit.index": item.index,
        "audit.leaf_hash": item.leaf_hash.hex(),
    }
    return {name: value for name, value in found.items() if value is not None and value != []}


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode("utf-8")
