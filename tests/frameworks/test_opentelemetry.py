"""An event names the span that it happened in; entries go out as log records, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from opentelemetry import trace as spans
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

import indelible
from indelible import context
from indelible.context import Context, Work, begun, traced_by
from indelible.event import Trace
from indelible.frameworks.opentelemetry import LogRecords, instrument, trace, traced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible import Trail

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
AT = datetime(2026, 11, 24, 13, 28, 51, 123456, tzinfo=UTC)
tracer = TracerProvider().get_tracer("tests")


@pytest.fixture
def exporter() -> InMemoryLogRecordExporter:
    """Where log records arrive."""
    return InMemoryLogRecordExporter()  # type: ignore[no-untyped-call, unused-ignore]


@pytest.fixture
def provider(exporter: InMemoryLogRecordExporter) -> LoggerProvider:
    """What brings them there."""
    made = LoggerProvider(shutdown_on_exit=False)
    made.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    return made


def record(trail: Trail, **fields: Any) -> None:
    """Record that an invoice was approved."""
    trail.record(
        "invoice.approve",
        **{
            "actor": "user:alice",
            "resource": "invoice:INV-7",
            "changes": {"status": ("draft", "paid")},
            "rationale": "PO-99",
            "client": "192.0.2.17",
            "request": "r-1",
            "occurred_at": AT,
            "trace": Trace(trace_id=TRACE_ID, span_id=SPAN_ID),
            **fields,
        },
    )


def test_an_event_names_the_span_that_it_happened_in(trail: Trail) -> None:
    """Who looks at a trace finds the entries, and the other way round."""
    with tracer.start_as_current_span("approve") as span, traced():
        trail.record("invoice.approve", resource="invoice:7")

    (item,) = trail.search().items
    found = span.get_span_context()
    assert (
        Trace(
            trace_id=spans.format_trace_id(found.trace_id),
            span_id=spans.format_span_id(found.span_id),
        )
        == item.event.trace
    )
    assert [item] == list(trail.search(trace=spans.format_trace_id(found.trace_id)).items)


def test_without_a_span_an_event_keeps_its_trace(trail: Trail) -> None:
    """What a request's header has said is not taken away."""
    with context(trace=TRACE_ID), traced():
        trail.record("invoice.approve", resource="invoice:7")

    assert trace() is None
    assert [Trace(trace_id=TRACE_ID)] == [item.event.trace for item in trail.search().items]


def test_a_block_ends_with_its_span(trail: Trail) -> None:
    """The span of one piece of work is not named by the next."""
    with tracer.start_as_current_span("approve"), traced():
        pass
    trail.record("invoice.approve", resource="invoice:7")

    assert [None] == [item.event.trace for item in trail.search().items]


@pytest.fixture
def _instrumented() -> Iterator[None]:
    """The process asks OpenTelemetry for traces."""
    instrument()
    yield
    traced_by(None)


@pytest.mark.usefixtures("_instrumented")
def test_in_an_instrumented_process_each_event_names_its_own_span(trail: Trail) -> None:
    """Nothing need be said where the event is recorded; what a block says itself stands."""
    named = Trace(trace_id=TRACE_ID)
    with begun(Work(Context(trace=named))):
        trail.record("invoice.approve", resource="invoice:0")
        with tracer.start_as_current_span("outer"):
            with tracer.start_as_current_span("inner") as inner:
                trail.record("invoice.approve", resource="invoice:1")
            with context(trace=named):
                trail.record("invoice.approve", resource="invoice:2")

    first, second, third = (item.event.trace for item in trail.search(newest_first=False).items)
    assert named == first == third
    assert second is not None
    assert spans.format_span_id(inner.get_span_context().span_id) == second.span_id


def test_entries_go_out_as_log_records(
    trail: Trail, provider: LoggerProvider, exporter: InMemoryLogRecordExporter
) -> None:
    """Each has the event's name, its times and its trace, and says where the entry is."""
    record(trail)
    (item,) = trail.search().items

    assert 1 == LogRecords(provider).forward([item])

    (found,) = exporter.get_finished_logs()
    sent = found.log_record
    attributes = dict(sent.attributes or {})
    assert "invoice.approve" == sent.event_name
    assert (int(TRACE_ID, 16), int(SPAN_ID, 16)) == (sent.trace_id, sent.span_id)
    assert round(AT.timestamp() * 1e6) * 1_000 == sent.timestamp
    assert item.entry.recorded_at * 1_000 == sent.observed_timestamp
    assert SeverityNumber.INFO is sent.severity_number
    assert {
        "event.id": item.event.id,
        "event.action": "invoice.approve",
        "event.outcome": "success",
        "audit.actor.type": "user",
        "audit.resource.type": "invoice",
        "audit.resource.id": "INV-7",
        "http.request.id": "r-1",
        "trace.id": TRACE_ID,
        "audit.origin": item.origin,
        "audit.stream": "user",
        "audit.index": 0,
        "audit.leaf_hash": item.leaf_hash.hex(),
    } == attributes


def test_what_is_not_in_clear_does_not_go_out(
    trail: Trail, provider: LoggerProvider, exporter: InMemoryLogRecordExporter
) -> None:
    """What can be erased from the trail is in no copy of it, unless somebody decides so."""
    record(trail)

    LogRecords(provider).forward(trail.search().items)

    sent = exporter.get_finished_logs()[0].to_json()
    assert not [value for value in ("alice", "draft", "PO-99", "192.0.2") if value in sent]


def test_what_a_role_sees_goes_out_if_that_is_asked_for(
    trail: Trail, provider: LoggerProvider, exporter: InMemoryLogRecordExporter
) -> None:
    """The owner sees all; who opens the trail as another role hands over what that sees."""
    record(trail)

    LogRecords(provider, opened=True).forward(trail.search().items)
    with indelible.open(trail.path, mode="r", role="reader") as seen:
        LogRecords(provider, opened=True).forward(seen.search().items)

    whole, masked = (
        dict(each.log_record.attributes or {}) for each in exporter.get_finished_logs()
    )
    assert ("alice", "PO-99", "192.0.2.17") == (
        whole["user.id"],
        whole["audit.rationale"],
        whole["client.address"],
    )
    assert {"status": {"old": "draft", "new": "paid"}} == msgspec.json.decode(
        str(whole["audit.changes"])
    )
    assert "alice" not in str(masked)
    assert "draft" not in str(masked)


@pytest.mark.parametrize("outcome", ["failure", "denied", "unknown"])
def test_what_did_not_succeed_is_a_warning(
    trail: Trail, provider: LoggerProvider, exporter: InMemoryLogRecordExporter, outcome: str
) -> None:
    """Whoever filters by severity sees it."""
    record(trail, outcome=outcome)

    LogRecords(provider).forward(trail.search().items)

    assert SeverityNumber.WARN is exporter.get_finished_logs()[0].log_record.severity_number


@pytest.mark.parametrize(
    ("found", "sent_as"),
    [("t-1", 0), ("0" * 32, 0), (TRACE_ID.upper(), 0), (TRACE_ID, int(TRACE_ID, 16))],
)
def test_only_a_span_of_the_exact_form_is_named_as_one(
    trail: Trail,
    provider: LoggerProvider,
    exporter: InMemoryLogRecordExporter,
    found: str,
    sent_as: int,
) -> None:
    """What is no span of W3C's form is not made one; nor is the span of whoever forwards named."""
    record(trail, trace=Trace(trace_id=found))

    with tracer.start_as_current_span("forward"):
        LogRecords(provider).forward(trail.search().items)

    sent = exporter.get_finished_logs()[0].log_record
    assert (sent_as, 0) == (sent.trace_id, sent.span_id)
    assert found == dict(sent.attributes or {})["trace.id"]
