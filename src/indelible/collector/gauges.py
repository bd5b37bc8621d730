"""
Gauges: what the trail, its producers and this machine are like when Prometheus asks.

They are looked at then and not kept: several collectors over one store say the same of it.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from indelible import tokens
from indelible.collector.metrics import MOST_SERIES, REST
from indelible.collector.scrub import KIND as SCRUB
from indelible.collector.scrub import Scrubbed
from indelible.errors import IndelibleError
from indelible.producer import HELD_KIND, KIND, Held, Producer
from indelible.segment import SEGMENT
from indelible.tokens import AccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from indelible.collector.state import Collector
    from indelible.store import View

SOON = 7 * 24 * 3600 * 1_000_000
"""Microseconds before an access token expires from which on it counts as expiring."""


class Gauges:
    """What *collector* is like."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """Yield what can be found out; a store that is away leaves the rest."""
        yield from self._readiness()
        yield from self._disk()
        with suppress(IndelibleError), self._collector.trail.store.read() as view:
            # As lists: what has begun is shown whole or not at all.
            yield from [
                *_logs(view),
                *_producers(_standings(view)),
                *_tokens(view, self._collector.now()),
                *_scrub(Scrubbed.from_bytes(view.fact(SCRUB, b""))),
            ]

    def _readiness(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily(
            "indelible_ready", "Whether a condition of being ready holds.", labels=("condition",)
        )
        for condition, why in self._collector.readiness.look().items():
            ready.add_metric((condition,), why is None)
        yield ready

    def _disk(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "indelible_disk_free_bytes",
            "Free space where the trail lies.",
            value=self._collector.room(),
        )
        yield GaugeMetricFamily(
            "indelible_disk_least_free_bytes",
            "Free space below which nothing is taken in.",
            value=self._collector.settings.least_free,
        )


def _logs(view: View) -> Iterator[Metric]:
    entries = CounterMetricFamily(
        "indelible_entries", "Entries of a stream since it began.", labels=("stream",)
    )
    signed = GaugeMetricFamily(
        "indelible_checkpoint_timestamp_seconds",
        "When the log's newest checkpoint was signed.",
        labels=("log",),
    )
    unclosed = GaugeMetricFamily(
        "indelible_open_entries", "Entries of a log that no closed segment has.", labels=("log",)
    )
    sizes: dict[str, int] = defaultdict(int)
    for log, head in view.heads().items():
        sizes[head.stream] += head.size
        unclosed.add_metric((log,), head.size - SEGMENT * len(view.segments(log)))
        if head.size:
            signed.add_metric((log,), head.recorded_at / 1e6)
    for stream, size in sizes.items():
        entries.add_metric((stream,), size)
    yield from (entries, signed, unclosed)


class _Standing(NamedTuple):
    """How far the collector is with a producer, or with several."""

    producer: str
    entries: int
    promised: int
    seen_at: int
    alarms: int

    def plus(self, other: _Standing) -> _Standing:
        """Return that of both, as the rest."""
        return _Standing(
            REST,
            self.entries + other.entries,
            self.promised + other.promised,
            max(self.seen_at, other.seen_at),
            self.alarms + other.alarms,
        )


def _standings(view: View) -> list[_Standing]:
    held = dict(view.facts(HELD_KIND))
    found = []
    for key, data in view.facts(KIND):
        producer, has = Producer.from_bytes(data), Held.from_bytes(held.get(key))
        found.append(
            _Standing(
                producer.origin,
                has.size,
                max(has.size, has.most_promised),
                has.seen_at or producer.enrolled_at,
                int(has.alarm is not None),
            )
        )
    return found


def _producers(standings: Sequence[_Standing]) -> Iterator[Metric]:
    yield GaugeMetricFamily("indelible_producers", "Enrolled producers.", value=len(standings))
    yield GaugeMetricFamily(
        "indelible_producers_alarmed",
        "Producers of which something did not hold.",
        value=sum(each.alarms for each in standings),
    )
    shown, rest = [*standings[:MOST_SERIES]], standings[MOST_SERIES:]
    if rest:
        shown.append(reduce(_Standing.plus, rest, _Standing(REST, 0, 0, 0, 0)))
    entries, promised, seen, alarm = (
        GaugeMetricFamily(f"indelible_producer_{name}", text, labels=("producer",))
        for name, text in (
            ("entries", "Entries of a producer's log that are here."),
            ("promised_entries", "Entries that the producer has signed, as far as it has said."),
            ("seen_timestamp_seconds", "When it last shipped something, or was enrolled."),
            ("alarm", "Whether something of it did not hold; of the rest, of how many."),
        )
    )
    for each in shown:
        labels = (each.producer,)
        entries.add_metric(labels, each.entries)
        promised.add_metric(labels, each.promised)
        seen.add_metric(labels, each.seen_at / 1e6)
        alarm.add_metric(labels, each.alarms)
    yield from (entries, promised, seen, alarm)


def _tokens(view: View, now: int) -> Iterator[Metric]:
    valid = expiring = 0
    for _, data in view.facts(tokens.KIND):
        token = AccessToken.from_bytes(data)
        if token.revoked_at is None and token.expires_at > now:
            valid += 1
            expiring += token.expires_at <= now + SOON
    yield GaugeMetricFamily("indelible_access_tokens", "Access tokens that work.", value=valid)
    yield GaugeMetricFamily(
        "indelible_access_tokens_expiring", "Those that expire within seven days.", value=expiring
    )


def _scrub(scrubbed: Scrubbed) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "indelible_scrub_coverage_ratio",
        "Part of what there is that the round under way has verified.",
        value=scrubbed.coverage,
    )
    yield GaugeMetricFamily(
        "indelible_scrub_findings",
        "What did not hold, in the last whole round or since.",
        value=len(scrubbed.wrong),
    )
    if scrubbed.finished_at is not None:
        yield GaugeMetricFamily(
            "indelible_scrub_timestamp_seconds",
            "When everything had been verified last.",
            value=scrubbed.finished_at / 1e6,
        )
    if scrubbed.missing is not None:
        yield GaugeMetricFamily(
            "indelible_missing_values",
            "Committed values that nobody can account for, as the last whole round found.",
            value=scrubbed.missing,
        )
