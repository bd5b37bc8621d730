"""Whether a collector can do its work, what it does, and whether all of it still holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from opentelemetry import trace as spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client.parser import text_string_to_metric_families

import indelible
from indelible.collector.metrics import MOST_SERIES, REST
from indelible.collector.readiness import KIND, Readiness
from indelible.collector.scrub import Scrubbed, Scrubber
from indelible.collector.state import Collector, Settings
from indelible.event import Event
from indelible.policy import CUSTODY
from indelible.producer import HELD_KIND, Held, Producer, Promise, key_of
from indelible.producer import KIND as PRODUCER
from indelible.rights import Caller
from tests.collector.conftest import bearer, issued, serving
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from litestar import Litestar
    from litestar.testing import TestClient

    from indelible import Trail

DAY = 24 * 3600 * 1_000_000
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OPEN = Settings(public_metrics=True, scrub_every=0)


def record(trail: Trail, count: int = 1) -> None:
    """Record that invoices were approved."""
    trail.record_many(
        Event.data_change(
            "user:alice", "approve", f"invoice:INV-{number}", {"status": ("draft", "paid")}
        )
        for number in range(count)
    )


def sizes_of(trail: Trail) -> dict[str, int]:
    """Return how many entries each log has."""
    with trail.store.read() as view:
        return {log: head.size for log, head in view.heads().items()}


def samples_of(collector: Collector) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return what the metrics of *collector* say, by their names."""
    text, _ = collector.metrics.exposed("")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value_of(collector: Collector, name: str, **labels: str) -> float:
    """Return the one sample of *name* that has these *labels*."""
    (value,) = [
        value for found, value in samples_of(collector)[name] if labels.items() <= found.items()
    ]
    return value


# ---- Ready or not ----


def test_a_collector_that_can_do_its_work_says_that_it_is_ready(trail: Trail) -> None:
    """Live and ready are answered without an access token, and say nothing else."""
    with serving(Collector(trail, OPEN)) as client:
        live, ready = client.get("/health/live"), client.get("/health/ready")

    assert (200, {"status": "live"}) == (live.status_code, live.json())
    assert (200, {"status": "ready"}) == (ready.status_code, ready.json())


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("keys", "the signing key of log user is missing, cannot be read or is another"),
        ("room", "less is free than is to be left free"),
        ("writing", "the store cannot be written"),
    ],
)
def test_what_is_wanting_is_said_by_name(trail: Trail, condition: str, why: str) -> None:
    """A collector that is not ready says which condition does not hold, and no path or value."""
    settings = OPEN
    if condition == "keys":
        (trail.path / "keys" / "user.key").unlink()
    elif condition == "room":
        settings = Settings(least_free=2**62)
    else:
        with closing(sqlite3.connect(trail.path / "head.db")) as file, file:
            file.execute("ALTER TABLE fact RENAME TO lost")
    with serving(Collector(trail, settings)) as client:
        answer = client.get("/health/ready")

    assert 503 == answer.status_code
    assert "application/problem+json" == answer.headers["content-type"]
    assert [{"condition": condition, "why": why}] == answer.json()["errors"]
    assert str(trail.path) not in answer.text


def test_a_locked_vault_is_said(trail: Trail) -> None:
    """Without the key of the vault nothing can be committed, so the collector is not ready."""
    (trail.path / "keys" / "vault-1.key").unlink()

    with indelible.open(trail.path) as again:
        found = Readiness(Collector(again, OPEN)).look()

    assert "the vault is locked" == found["keys"]


def test_a_collector_too_far_behind_is_not_ready_until_it_has_caught_up(trail: Trail) -> None:
    """While commits wait longer than they may, it says so; nothing more is put in the queue."""
    readiness = Readiness(Collector(trail, OPEN), patience=0.1, fresh=0)
    with closing(sqlite3.connect(trail.path / "head.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first, second = readiness.look(), readiness.look()
        other.execute("ROLLBACK")
        # Behind the one that waited, in the same queue.
        record(trail)

    assert "a commit takes longer than 0.1 s" == first["writing"] == second["writing"]
    assert readiness.look()["writing"] is None


def test_a_store_that_does_not_answer_keeps_nobody_waiting(trail: Trail) -> None:
    """Whoever asks while another is still looking is told so, and takes no thread for long."""
    readiness = Readiness(Collector(trail, OPEN), patience=0.05)
    readiness.look()
    with readiness.looking:
        found = readiness.look()

    assert "does not answer in time" == found["store"]


def test_to_ask_often_costs_nothing(trail: Trail) -> None:
    """Within seconds it is looked once, so that nobody without a token can make it write."""
    collector = Collector(trail, OPEN)

    def kept() -> bytes | None:
        with trail.store.read() as view:
            return view.fact(KIND, b"")

    collector.readiness.look()
    first = kept()
    collector.readiness.look()

    assert first is not None
    assert first == kept()
    assert {"user": 0, "auth": 0, "admin": 0} == {
        log: size for log, size in sizes_of(trail).items() if log != CUSTODY
    }


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A server that says that it syncs to its disk."""
    with server(18, synced=True) as running:
        yield running


def test_a_database_that_is_away_is_not_ready_and_is_when_it_is_back(
    tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process lives on meanwhile, and shows what it can; nothing has to be started anew."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail", store=postgresql.database()) as trail:
        record(trail, 300)
        collector = Collector(trail, OPEN)
        collector.readiness = Readiness(collector, fresh=0)
        assert () == scrubbed(trail).wrong
        with serving(collector) as client:
            before = client.get("/health/ready")
            postgresql.stop()
            live, away = client.get("/health/live"), client.get("/health/ready")
            metrics = client.get("/metrics").text
            postgresql.start()
            after = client.get("/health/ready")

    assert [200, 200, 503, 200] == [each.status_code for each in (before, live, away, after)]
    assert [{"condition": "store", "why": "cannot be read"}] == away.json()["errors"]
    assert 'indelible_ready{condition="store"} 0.0' in metrics
    assert "indelible_entries_total{" not in metrics


# ---- Who may see the metrics ----


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient[Litestar]]:
    """A collector that does not open its metrics to everybody."""
    home = tmp_path_factory.mktemp("closed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(home))
        with (
            indelible.open(home / "trail") as trail,
            serving(Collector(trail, Settings(scrub_every=0))) as client,
        ):
            yield client


@pytest.mark.parametrize(
    ("role", "status"), [("operator", 200), ("auditor", 200), ("reader", 403), ("recorder", 403)]
)
def test_metrics_are_for_who_may_observe(
    closed: TestClient[Litestar], role: str, status: int
) -> None:
    """From elsewhere, an access token is needed whose role may observe."""
    token = issued(closed.app.state.collector, role)

    anybody = closed.get("/metrics")
    answer = closed.get("/metrics", headers=bearer(token))

    assert 401 == anybody.status_code
    assert status == answer.status_code


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("192.0.2.17", {}, 401),
        ("no address", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.17"}, 401),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.17"}, 401),
    ],
)
def test_metrics_are_free_on_the_machine_itself(
    closed: TestClient[Litestar], address: str, headers: dict[str, str], status: int
) -> None:
    """Who comes from loopback needs no token, unless it is a proxy that somebody came through."""

    async def ask(app: Any) -> httpx.Response:  # noqa: ANN401 - Litestar types it otherwise
        transport = httpx.ASGITransport(app, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
            return await client.get("/metrics", headers=headers)

    answer = anyio.run(ask, closed.app)

    assert status == answer.status_code


def test_metrics_can_be_opened_to_everybody(trail: Trail) -> None:
    """Where the settings say so, nobody needs a token; Prometheus reads what is answered."""
    with serving(Collector(trail, OPEN)) as client:
        answer = client.get("/metrics")

    assert 200 == answer.status_code
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE indelible_entries_total counter" in answer.text


# ---- What is counted ----


def test_every_metric_is_ours_and_says_what_it_is(trail: Trail) -> None:
    """Names begin alike, and each metric is described."""
    text, _ = Collector(trail, OPEN).metrics.exposed("")

    for family in text_string_to_metric_families(text.decode()):
        assert family.name.startswith(("indelible_", "process_"))
        assert family.documentation.endswith(".")


def test_requests_are_counted_by_route_and_never_by_what_they_ask_for(trail: Trail) -> None:
    """Whatever a path or a query holds, it becomes no label: it may be secret, and has no end."""
    collector = Collector(trail, OPEN)
    with serving(collector) as client:
        for number in range(3):
            client.get(f"/v1/producers/secret-{number}?q=secret")
            client.get(f"/secret-{number}")
        client.request("SECRET", "/secret")
        client.get("/health/live", headers={"Authorization": "Bearer secret"})
        text, _ = collector.metrics.exposed("")

    count = "indelible_request_seconds_count"
    assert 3.0 == value_of(collector, count, route="/v1/producers/{origin}", method="GET")
    assert 3.0 == value_of(collector, count, route="", status="404", method="GET")
    assert 1.0 == value_of(collector, count, route="", method="other")
    assert 1.0 == value_of(collector, count, route="/health/live")
    assert 3.0 == value_of(collector, "indelible_access_refused_total", status="401")
    assert b"secret" not in text.lower()


def test_entries_are_those_that_each_stream_has(trail: Trail) -> None:
    """How many entries there are is read off the trail, whoever wrote them."""
    collector = Collector(trail, OPEN)
    record(trail, 3)
    before = time.time()

    assert 3.0 == value_of(collector, "indelible_entries_total", stream="user")
    assert 3.0 == value_of(collector, "indelible_open_entries", log="user")
    signed = value_of(collector, "indelible_checkpoint_timestamp_seconds", log="user")
    assert before - 60 < signed <= before


def test_shipments_events_and_readings_are_counted(trail: Trail) -> None:
    """What came of what was brought, and how long it took until it was durable."""
    collector = Collector(trail, OPEN)
    metrics = collector.metrics
    metrics.shipped("collected", 0.02, entries=10, refused=1)
    metrics.shipped("held", 0.01)
    metrics.shipped("gap", 0.01)
    metrics.recorded([201, 201, 409], 0.5)
    metrics.read(7)
    with metrics.waiting():
        waiting = value_of(collector, "indelible_feed_waiters")

    found = samples_of(collector)
    results = {labels["result"]: value for labels, value in found["indelible_shipments_total"]}
    assert {"collected": 1.0, "held": 1.0, "gap": 1.0} == {k: v for k, v in results.items() if v}
    assert [({}, 10.0)] == found["indelible_entries_collected_total"]
    assert [({}, 1.0)] == found["indelible_entries_refused_total"]
    assert [({}, 7.0)] == found["indelible_entries_read_total"]
    acknowledged = "indelible_acknowledgement_seconds_count"
    assert 2.0 == value_of(collector, acknowledged, kind="shipment")
    assert 1.0 == value_of(collector, acknowledged, kind="events")
    assert 2.0 == value_of(collector, "indelible_events_total", status="201")
    assert 1.0 == waiting
    assert 0.0 == value_of(collector, "indelible_feed_waiters")


def test_it_shows_how_far_each_follower_is_behind(trail: Trail) -> None:
    """A program that follows a log is shown with what it has yet to be given; a person is not."""
    collector = Collector(trail, OPEN)
    for number in range(MOST_SERIES + 2):
        siem = Caller(id=f"{number:016x}", name=f"siem-{number}", role="reader")
        collector.metrics.followed(siem, "user", behind=number, now=5_000_000)
    person = Caller(id="oidc:alice", name="alice", role="reader")
    collector.metrics.followed(person, "user", behind=9, now=5_000_000)

    behind = samples_of(collector)["indelible_follower_behind_entries"]
    assert MOST_SERIES + 1 == len(behind)
    assert "alice" not in {labels["follower"] for labels, _ in behind}
    assert 3.0 == value_of(collector, "indelible_follower_behind_entries", follower="siem-3")
    assert 5.0 == value_of(
        collector, "indelible_follower_seen_timestamp_seconds", follower="siem-3"
    )


def enrol(trail: Trail, count: int) -> None:
    """Enrol producers; of each, something was promised that has not come yet."""
    with trail.store.write() as transaction:
        for number in range(count):
            producer = Producer(
                origin=f"audit.example.com/shop{number:04}/user",
                key="",
                stream="user",
                enrolled_at=1_000_000,
                enrolled_by="alice",
            )
            held = Held(
                size=10,
                promised=(Promise(size=12, root=b"", note=b""),),
                seen_at=(2 + number) * 1_000_000,
                alarm="entry 3 has another leaf hash" if number == 1 else None,
            )
            key = key_of(producer.origin)
            transaction.put(PRODUCER, key, producer.to_bytes())
            if number:
                transaction.put(HELD_KIND, key, held.to_bytes())


def test_it_shows_how_far_each_producer_is(trail: Trail) -> None:
    """Of each producer: what is here, what it has signed, when it was seen, and its alarm."""
    collector = Collector(trail, OPEN)
    enrol(trail, 2)
    new, shop = (f"audit.example.com/shop{number:04}/user" for number in range(2))

    figures = {
        (name, origin): value_of(collector, f"indelible_producer_{name}", producer=origin)
        for name in ("entries", "promised_entries", "seen_timestamp_seconds", "alarm")
        for origin in (new, shop)
    }

    assert [0.0, 10.0, 0.0, 12.0, 1.0, 3.0, 0.0, 1.0] == list(figures.values())
    assert 2.0 == value_of(collector, "indelible_producers")
    assert 1.0 == value_of(collector, "indelible_producers_alarmed")


def test_the_number_of_series_has_an_end(trail: Trail) -> None:
    """However many producers there are, those beyond a number are one series, with their sum."""
    collector = Collector(trail, OPEN)
    enrol(trail, MOST_SERIES + 3)

    found = samples_of(collector)["indelible_producer_entries"]
    rest = value_of(collector, "indelible_producer_entries", producer=REST)
    seen = value_of(collector, "indelible_producer_seen_timestamp_seconds", producer=REST)

    assert MOST_SERIES + 1 == len(found)
    assert 30.0 == rest
    assert MOST_SERIES + 4 == seen


def test_access_tokens_that_are_about_to_expire_are_counted(trail: Trail) -> None:
    """Whoever renews them in time loses nothing; expired ones are not counted any more."""
    collector = Collector(trail, OPEN)
    issued(collector, "operator", lasts=30 * DAY)
    issued(collector, "reader", lasts=2 * DAY)
    issued(collector, "reader", lasts=-1)

    assert 2.0 == value_of(collector, "indelible_access_tokens")
    assert 1.0 == value_of(collector, "indelible_access_tokens_expiring")


def test_what_can_be_found_out_is_shown_though_the_store_is_damaged(trail: Trail) -> None:
    """A store that cannot be read takes no other metric away, and is one that says so."""
    collector = Collector(trail, OPEN)
    with closing(sqlite3.connect(trail.path / "head.db")) as file, file:
        file.execute("ALTER TABLE log RENAME TO lost")

    assert 0.0 == value_of(collector, "indelible_ready", condition="store")
    assert value_of(collector, "indelible_disk_free_bytes") > 0
    assert "indelible_entries_total" not in samples_of(collector)


# ---- Whether it still holds ----


def scrubbed(trail: Trail) -> Scrubbed:
    """Go over all that is kept once; return what came of it."""
    scrubber = Scrubber(Collector(trail, Settings(scrub_every=1)))
    while True:
        found = scrubber.step()
        if not found.log:
            return found


def test_a_round_verifies_everything(trail: Trail) -> None:
    """All segments are held against the signed checkpoints, all values are accounted for."""
    collector = Collector(trail, OPEN)
    record(trail, 300)
    assert [] == samples_of(collector).get("indelible_scrub_timestamp_seconds", [])

    found = scrubbed(trail)

    assert () == found.wrong
    assert 0 == found.missing
    assert 1.0 == value_of(collector, "indelible_scrub_coverage_ratio")
    assert 0.0 == value_of(collector, "indelible_scrub_findings")
    assert 0.0 == value_of(collector, "indelible_missing_values")
    assert time.time() - 60 < value_of(collector, "indelible_scrub_timestamp_seconds")


def test_a_changed_entry_is_found_and_recorded(trail: Trail) -> None:
    """Whoever changes what is kept is found within a round; the custody stream says it once."""
    record(trail, 3)
    with closing(sqlite3.connect(trail.path / "head.db")) as file, file:
        rows = file.execute("SELECT key, bodies FROM tail").fetchall()
        changed = [(data.replace(b"INV-1", b"INV-9"), key) for key, data in rows]
        file.executemany("UPDATE tail SET bodies = ? WHERE key = ?", changed)

    first = scrubbed(trail)
    second = scrubbed(trail)

    said = trail.search("action:scrub.finding").items
    assert ["user, segment 0: entry 1: its bytes do not have the recorded leaf hash"] == [
        finding for finding in first.wrong if finding.startswith("user")
    ]
    assert first.wrong == second.wrong
    assert len(first.wrong) == len(said)


def test_a_value_that_was_removed_is_missing(trail: Trail) -> None:
    """A value that somebody has deleted quietly is counted, and an alarm can be raised."""
    collector = Collector(trail, OPEN)
    record(trail)
    with closing(sqlite3.connect(trail.path / "head.db")) as file, file:
        file.execute("DELETE FROM vault WHERE rowid IN (SELECT max(rowid) FROM vault)")

    scrubbed(trail)

    assert value_of(collector, "indelible_missing_values") > 0
    assert value_of(collector, "indelible_scrub_findings") > 0


def test_a_checkpoint_of_other_entries_is_found(trail: Trail) -> None:
    """Entries that hang together are not enough: they must be those that were signed."""
    record(trail, 3)
    with closing(sqlite3.connect(trail.path / "head.db")) as file, file:
        file.execute(
            "UPDATE log SET checkpoint = (SELECT checkpoint FROM log WHERE name = ?)", (CUSTODY,)
        )

    found = scrubbed(trail)

    assert any(finding.startswith("user, segment 0") for finding in found.wrong)


def test_collectors_over_one_store_share_the_work(trail: Trail) -> None:
    """How far a round is stands in the store: whoever is next goes on where the last one was."""
    record(trail)
    scrubbers = [Scrubber(Collector(trail, Settings(scrub_every=3600))) for _ in range(2)]

    first, second = scrubbers[0].step(), scrubbers[1].step()
    done = scrubbers[0].step()
    again = scrubbers[1].step()

    assert [(CUSTODY, 1), ("user", 2)] == [(each.log, each.done) for each in (first, second)]
    assert ("", 2, 2) == (done.log, done.done, done.total)
    assert done == again


def test_a_key_that_was_handed_over_still_verifies(trail: Trail) -> None:
    """After a rotation the new key is trusted because the pinned one has signed it."""
    record(trail)
    trail.rotate_key("user")
    record(trail)

    assert () == scrubbed(trail).wrong


def test_scrubbing_begins_and_ends_with_the_application(trail: Trail) -> None:
    """It runs beside the requests, and stops with them."""
    collector = Collector(trail, Settings(public_metrics=True, scrub_pause=0.001))
    with serving(collector) as client:
        while "indelible_scrub_timestamp_seconds" not in client.get("/metrics").text:
            time.sleep(0.01)

    assert 1.0 == value_of(collector, "indelible_scrub_coverage_ratio")


# ---- Spans ----


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where spans arrive; there is one provider in a process."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    spans.set_tracer_provider(provider)
    return made


def test_a_request_is_a_span_in_the_trace_that_it_names(
    trail: Trail, exporter: InMemorySpanExporter
) -> None:
    """The span has the route's template and the status; nothing of what was asked for."""
    with serving(Collector(trail, OPEN)) as client:
        exporter.clear()
        client.get(
            "/v1/producers/secret?q=secret",
            headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "Indelible-Purpose": "secret"},
        )

    (span,) = exporter.get_finished_spans()
    assert "GET /v1/producers/{origin}" == span.name
    assert SpanKind.SERVER == span.kind
    assert span.parent is not None
    assert (TRACE_ID, SPAN_ID) == (
        spans.format_trace_id(span.parent.trace_id),
        spans.format_span_id(span.parent.span_id),
    )
    assert {
        "http.request.method": "GET",
        "http.route": "/v1/producers/{origin}",
        "http.response.status_code": 401,
    } == dict(span.attributes or {})
    assert () == span.events


def test_a_span_says_how_many_entries_it_took(trail: Trail, exporter: InMemorySpanExporter) -> None:
    """What is counted inside a request stands at its span, too."""
    metrics = Collector(trail, OPEN).metrics
    exporter.clear()
    with spans.get_tracer("tests").start_as_current_span("request"):
        metrics.read(7)

    (span,) = exporter.get_finished_spans()
    assert {"indelible.entries": 7} == dict(span.attributes or {})


def test_without_opentelemetry_there_are_no_spans() -> None:
    """Who has not installed it runs the same collector, and misses nothing else."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from indelible.collector import app, spans\n"
        "assert spans.middleware() == []\n"
        "spans.count(1)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
