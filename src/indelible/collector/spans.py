"""
Spans: each request as a span of OpenTelemetry, where that is installed and else not at all.

A span says which route was asked for, how it was answered and how many entries that took.
What somebody searched for, and what was found, stays out of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware

try:
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # pragma: no cover - the tests have it
    INSTALLED = False
else:
    INSTALLED = True

if TYPE_CHECKING:
    from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

ENTRIES = "indelible.entries"
"""Attribute: how many entries a request brought, or was answered with."""

_FAULTS = 500


def count(entries: int) -> None:
    """Say how many entries the request at hand is about."""
    if INSTALLED:
        trace.get_current_span().set_attribute(ENTRIES, entries)


class Spans(ASGIMiddleware):
    """Makes a span of each request, in the trace that its ``traceparent`` names."""

    scopes = (ScopeType.HTTP,)

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("indelible.collector")
        self._propagator = TraceContextTextMapPropagator()

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let the request pass inside a span."""
        method, route = cast("HTTPScope", scope)["method"], scope["path_template"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
            # What an error says may be about a value.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= _FAULTS:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await next_app(scope, receive, sent)


def middleware() -> list[Spans]:
    """Return what an application is to have in front; nothing where OpenTelemetry is not."""
    return [Spans()] if INSTALLED else []
