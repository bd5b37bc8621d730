"""Bars: what must be reached, once, for the benchmarks and for the table in the docs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """
    What one figure must reach.

    Attributes:
        key: The benchmark and its figure: ``bulk.ratio``.
        text: What is measured, for the reader of a table.
        most, least: One of the two.
    """

    key: str
    text: str
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.most is not None:
            return f"≤ {self.most:,g} {self.unit}"
        return f"≥ {self.least:,g} {self.unit}"

    def reached(self, value: float) -> bool:
        """Tell whether *value* is good enough."""
        if self.most is not None:
            return value <= self.most
        return self.least is None or value >= self.least


BARS: tuple[Bar, ...] = (
    Bar(
        key="record.cpu",
        text="CPU of `record()` in the calling thread, in clear, against stdlib logging with JSON",
        unit="×",
        most=0.5,
    ),
    Bar(
        key="bulk.ratio",
        text="bulk in clear, durable and searchable, against one SQLite table with five indexes",
        unit="×",
        least=3,
    ),
    Bar(
        key="group.ratio",
        text="100 threads that wait for their receipts, against one; a sync takes 5 ms",
        unit="×",
        least=30,
    ),
    Bar(
        key="processes.ratio",
        text="8 processes at once on one trail, against one process",
        unit="×",
        least=0.5,
    ),
    Bar(
        key="processes.wrong",
        text="entries that 8 processes lost, doubled or made up, and processes that failed",
        unit="",
        most=0,
    ),
    Bar(key="size.entry", text="on disk, all in, an entry in clear", unit="B", most=240),
    Bar(key="memory.record", text="peak memory while recording", unit="MB", most=300),
    Bar(key="memory.import", text="peak memory while importing", unit="MB", most=300),
    Bar(
        key="memory.growth",
        text="memory at the end, against that after half of the entries",
        unit="×",
        most=1.1,
    ),
    Bar(key="verify.core", text="verification on one core", unit="entries/s", least=300_000),
    Bar(
        key="verify.two",
        text="verification in two processes, against one",
        unit="×",
        least=1.8,
    ),
    Bar(
        key="query.ratio",
        text="page of 50 for one actor in clear (median), against a trail of 100,000 entries",
        unit="×",
        most=2,
    ),
    Bar(key="query.proof", text="proof of one entry (99th percentile)", unit="ms", most=5),
    Bar(
        key="sealing.cpu",
        text="CPU of sealing an event with six committed fields in three boxes",
        unit="µs",
        most=30,
    ),
    Bar(
        key="sealing.entry",
        text="sealed event with six committed fields, against the same event in clear",
        unit="×",
        most=1.35,
    ),
    Bar(
        key="guarded.ratio",
        text="bulk under the default policy, against one SQLite table with five indexes, in clear",
        unit="×",
        least=0.8,
    ),
    Bar(
        key="guarded.size",
        text="on disk, log, vault and keyring, an event with six committed fields in three boxes",
        unit="B",
        most=1_200,
    ),
    Bar(
        key="guarded.opening",
        text="opening a page of 50 entries with three boxes each (median)",
        unit="ms",
        most=20,
    ),
    Bar(
        key="erasure.time",
        text="erasing a person with 10,000 entries, from the plan until nothing is left",
        unit="s",
        most=5,
    ),
    Bar(key="import.time", text="`import indelible` over bare Python", unit="ms", most=100),
    Bar(
        key="import.packages",
        text="packages of others that `import indelible` loads",
        unit="",
        most=3,
    ),
    Bar(
        key="capture.save",
        text="what a captured `save()` in Django takes more, against django-auditlog",
        unit="×",
        most=0.5,
    ),
    Bar(
        key="capture.bulk",
        text="what bulk operations in Django take more, worst of three, against django-pghistory",
        unit="×",
        most=1.2,
    ),
    Bar(
        key="capture.triggers",
        text="the same with triggers",
        unit="×",
        most=1,
    ),
    Bar(
        key="capture.untrue",
        text="changes through Django or SQLAlchemy that are missed, made up or told falsely",
        unit="",
        most=0,
    ),
    Bar(
        key="collector.guarded",
        text="a collector on PostgreSQL takes in over HTTPS, in shipments of 500, all checked",
        unit="entries/s",
        least=12_000,
    ),
    Bar(
        key="collector.ratio",
        text="the same, against rows inserted one by one through SQLAlchemy, five indexes",
        unit="×",
        least=5,
    ),
    Bar(
        key="collector.receipt_p50",
        text="receipt of a single event from a collector, at 200/s (median)",
        unit="ms",
        most=15,
    ),
    Bar(key="collector.receipt_p99", text="the same (99th percentile)", unit="ms", most=60),
    Bar(
        key="collector.query_p99",
        text="page of 50 from a collector, meanwhile (99th percentile)",
        unit="ms",
        most=60,
    ),
    Bar(key="collector.feed_lag", text="lag of its feed, the longest", unit="ms", most=1_000),
    Bar(key="collector.memory", text="its memory under that load", unit="MB", most=400),
)
"""In the order of the docs."""

BY_KEY = {bar.key: bar for bar in BARS}
