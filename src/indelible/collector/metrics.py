"""
Metrics: what this process has counted and timed, as Prometheus reads it.

What is in the trail is not counted here: `indelible.collector.gauges` looks at it when
somebody asks. Labels hold names of routes, results and followers, never a value.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import contextmanager
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import prometheus_client as prometheus
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from indelible.collector import spans
from indelible.collector.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from litestar.types import ASGIApp, Message, Receive, Scope, Send
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector as Source

    from indelible.rights import Caller

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory in which processes that answer together count; see prometheus_client."""

MOST_SERIES = 500
"""Most producers, and most followers, that have series of their own; the rest share one."""

REST = "(rest)"
"""Label of those that have none."""

Result = Literal[
    "collected",
    "held",
    "gap",
    "conflict",
    "revoked",
    "tenant",
    "unsigned",
    "inconsistent",
    "malformed",
]
"""What becomes of a shipment; *held* is one that brought nothing new."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATUSES = (200, 201, 204, 409, 410, 422)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REFUSED = (401, 403, 429)


class Metrics:
    """
    The counters of one application.

    Args:
        source: What else is shown with them.
    """

    def __init__(self, source: Source | None = None) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Histogram(
            "indelible_request_seconds",
            "How long requests took, by the template of their route.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._acknowledged = prometheus.Histogram(
            "indelible_acknowledgement_seconds",
            "How long it took until what was brought was durable.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._shipments = prometheus.Counter(
            "indelible_shipments", "Shipments of producers.", ("result",), registry=registry
        )
        self._events = prometheus.Counter(
            "indelible_events", "Plain events.", ("status",), registry=registry
        )
        self._collected = prometheus.Counter(
            "indelible_entries_collected", "Entries that producers brought.", registry=registry
        )
        self._marked = prometheus.Counter(
            "indelible_entries_refused", "Entries that were kept and marked.", registry=registry
        )
        self._refused = prometheus.Counter(
            "indelible_access_refused", "Requests of callers.", ("status",), registry=registry
        )
        self._read = prometheus.Counter(
            "indelible_entries_read", "Entries that callers were given.", registry=registry
        )
        self._waiting = prometheus.Gauge(
            "indelible_feed_waiters",
            "Requests that wait for new entries.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # Shown from the beginning: else the first of each would look like no increase.
        for counter, values in (
            (self._shipments, get_args(Result)),
            (self._events, _STATUSES),
            (self._refused, _REFUSED),
            (self._acknowledged, ("shipment", "events")),
        ):
            for value in values:
                counter.labels(str(value))
        prometheus.ProcessCollector(registry=registry)
        self._followers = Followers()
        self._sources = [self._followers, *([] if source is None else [source])]
        for each in self._sources:
            registry.register(each)

    def shipped(
        self, result: Result, seconds: float, *, entries: int = 0, refused: int = 0
    ) -> None:
        """
        Count a shipment.

        Args:
            entries: How many were new.
            refused: How many of these were kept and marked.
        """
        self._shipments.labels(result).inc()
        self._collected.inc(entries)
        self._marked.inc(refused)
        if result in {"collected", "held"}:
            self._acknowledged.labels("shipment").observe(seconds)
        spans.count(entries)

    def recorded(self, statuses: Iterable[int], seconds: float) -> None:
        """Count the plain events of a request, by the status that each was answered with."""
        counts = Counter(statuses)
        for status, count in counts.items():
            self._events.labels(str(status)).inc(count)
        self._acknowledged.labels("events").observe(seconds)
        spans.count(counts[HTTPStatus.CREATED])

    def read(self, entries: int) -> None:
        """Count entries that a caller was given."""
        self._read.inc(entries)
        spans.count(entries)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request that waits for new entries inside the block."""
        with self._waiting.track_inprogress():
            yield

    def followed(self, caller: Caller, stream: str, *, behind: int, now: int) -> None:
        """
        Say how far a program that follows a log has come.

        Args:
            behind: How many entries there are that it has not been given.
            now: Microseconds since 1970.
        """
        # Only access tokens have ids without a colon: whom an identity provider, or a page,
        # names is a person, and no label.
        if ":" not in caller.id:
            self._followers.say(caller.name, stream, behind, now)

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; *route* is the template, or nothing where none was found."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).observe(seconds)
        if status in _REFUSED:
            self._refused.labels(str(status)).inc()

    def exposed(self, accept: str) -> tuple[bytes, str]:
        """Return everything as text, and the media type of it, for what a client accepts."""
        write, media_type = choose_encoder(accept)
        return write(self._whole() if SHARED in os.environ else self._registry), media_type

    def _whole(self) -> prometheus.CollectorRegistry:
        """Return what all processes that answer have counted together."""
        registry = prometheus.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        for each in self._sources:
            registry.register(each)
        return registry


class Followers:
    """How far those who follow a log have come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}

    def say(self, follower: str, stream: str, behind: int, now: int) -> None:
        """Take note of how far a follower was behind at that time."""
        with self._lock:
            key = (follower, stream)
            if key not in self._seen and len(self._seen) >= MOST_SERIES:
                key = (REST, stream)
            self._seen[key] = (behind, now)

    def collect(self) -> Iterator[Metric]:
        """Yield it as metrics."""
        names = ("follower", "stream")
        behind = GaugeMetricFamily(
            "indelible_follower_behind_entries",
            "Entries that a follower had not asked for when it last asked.",
            labels=names,
        )
        seen = GaugeMetricFamily(
            "indelible_follower_seen_timestamp_seconds", "When it last asked.", labels=names
        )
        with self._lock:
            known = list(self._seen.items())
        for labels, (entries, now) in known:
            behind.add_metric(labels, entries)
            seen.add_metric(labels, now / 1e6)
        yield from (behind, seen)


class Requests(ASGIMiddleware):
    """Times the requests of an application that found their route."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let the request pass, and count it when it was answered."""
        started = monotonic()
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await next_app(scope, receive, sent)
        except Exception as error:
            # Whoever is turned away before any route: that is answered further out.
            status = status_of(error)
            raise
        finally:
            _count(scope, scope["path_template"], status, monotonic() - started)


async def unrouted(error: Exception, scope: Scope) -> None:
    """Count a request that found no route: what it asked for is nobody's label."""
    if "route_handler" not in cast("dict[str, Any]", scope):  # its type says that it always is
        _count(scope, "", getattr(error, "status_code", 500), 0.0)


def _count(scope: Scope, route: str, status: int, seconds: float) -> None:
    metrics: Metrics = scope["litestar_app"].state.collector.metrics
    metrics.requested(str(scope.get("method", "")), route, status, seconds)
