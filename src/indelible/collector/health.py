"""
Health: whether this process answers, whether it can do its work, and its metrics.

What is wrong is said by name. Nothing here tells what is in the trail, so that whoever
watches machines needs no right to read.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from indelible.collector.callers import asks
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector
from indelible.errors import Forbidden
from indelible.rights import Caller, Verb
from indelible.wire import Problem

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@get("/health/live", exclude_from_auth=True, sync_to_thread=False, security=[{}])
def live() -> dict[str, str]:
    """Say that this process answers."""
    return {"status": "live"}


@get(
    "/health/ready",
    exclude_from_auth=True,
    sync_to_thread=True,
    security=[{}],
    responses={503: ResponseSpec(Problem, description="Which conditions do not hold, and why")},
)
def ready(collector: NamedDependency[Collector]) -> dict[str, str]:
    """Say that this process can take in and answer."""
    found = collector.readiness.look()
    failed = {condition: why for condition, why in found.items() if why is not None}
    if failed:
        said = "; ".join(f"{condition}: {why}" for condition, why in failed.items())
        errors = tuple({"condition": condition, "why": why} for condition, why in failed.items())
        raise Refusal(503, "not-ready", said, errors=errors)
    return {"status": "ready"}


def may_observe(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let through who comes from this machine, or may observe."""
    collector: Collector = connection.app.state.collector
    if collector.settings.public_metrics or _is_local(connection):
        return
    for guard in asks(Verb.OBSERVE):
        guard(connection, handler)
    caller: Caller = connection.user
    if caller.streams or caller.tenant is not None:
        raise Forbidden("metrics: are of the whole trail, and the caller sees a part of it")


def _is_local(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Tell whether it was made on this machine; what a proxy passes on was not."""
    if connection.client is None or any(name in connection.headers for name in _FORWARDED):
        return False
    try:
        address = ip_address(connection.client.host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


@get("/metrics", guards=[may_observe], sync_to_thread=True, media_type=MediaType.TEXT)
def metrics(
    request: Request[Any, Any, Any], collector: NamedDependency[Collector]
) -> Response[bytes]:
    """Return the metrics as Prometheus reads them."""
    text, media_type = collector.metrics.exposed(request.headers.get("accept", ""))
    return Response(text, media_type=media_type)


ROUTES = [live, ready, metrics]
