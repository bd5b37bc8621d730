"""
Collector: what one takes in and answers over HTTPS on loopback, on PostgreSQL beside it.

The collector runs as its users run it, in processes of its own; PostgreSQL 18 syncs each
commit; both, and the clients that load them, share the machine. Producers' logs were
recorded and packed into shipments of 500 entries before the clock starts: links, tree,
signature and every commitment are checked, values enclosed, and all of it durable, before a
shipment is answered.

Beside it the same events go into one table with the same five indexes, a row and a commit
each, through SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import sqlalchemy as sa

from benchmarks import policies
from benchmarks.events import chunk, events
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from indelible import document, tokens
from indelible.collector.producers import enrol_all
from indelible.collector.serving import open_trail
from indelible.event import uuid7
from indelible.policy import CUSTODY
from indelible.rights import Caller
from indelible.shipping import consign
from indelible.trail import Trail
from indelible.wire import Enrolment
from tests import postgres
from tests.collector.server import Authority, Server

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from indelible.event import Event

BATCH = 500
PRODUCERS = 2
RATE = 200
"""Plain events a second, whose receipts are waited for."""

_SECONDS = 10.0
_PAUSE = 1.0
"""Seconds between two rounds of an auditor who asks."""

_ROWS = 3_000
_HOUR = 3_600_000_000
_PAGE = os.sysconf("SC_PAGE_SIZE")
_QUERIES = (
    "/v1/entries?actor=user:{actor}&limit=50",
    "/v1/entries?action=invoice.*&limit=50",
    "/v1/entries?resource=invoice:*&outcome=failure&limit=50",
    "/v1/entries?action=invoice.approve&order=oldest&limit=20",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """
    A collector that runs, and who speaks to it.

    Attributes:
        shipments: Of each producer, path and body of each shipment, in order.
    """

    server: Server
    recorder: str
    auditor: str
    shipments: Sequence[Sequence[tuple[str, bytes]]]

    def client(self, token: str) -> httpx2.Client:
        """Return a client that comes with *token*."""
        return httpx2.Client(
            base_url=self.server.url,
            verify=self.server.context(),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )


def run(task: Task) -> Result:
    """Measure it."""
    note = f"two clients, {sync_note(task.scratch)}"
    figures: list[Figure] = []
    with ExitStack() as stack:
        server = stack.enter_context(postgres.server(18, durable=True))
        rows = _rows_per_second(server.database(), list(events(_ROWS)))
        for name, policy in (("clear", policies.clear()), ("guarded", document.default())):
            scratch = task.scratch / name
            scratch.mkdir()
            os.environ["XDG_CONFIG_HOME"] = str(scratch / "config")
            site = _site(scratch, server.database(), task.entries, policy)
            with site.server:
                rate = _ingest(site)
                figures.append(
                    Figure(key=f"collector.{name}", value=rate, unit="entries/s", note=note)
                )
                if name == "guarded":
                    figures += _under_load(site)
    guarded = figures[1].value
    return result(
        "collector",
        task.entries,
        *figures,
        Figure(key="collector.rows", value=rows, unit="rows/s", note="SQLAlchemy, one by one"),
        Figure(key="collector.ratio", value=guarded / rows, unit="×"),
    )


def _site(scratch: Path, url: str, entries: int, policy: Any) -> Site:  # noqa: ANN401 - a policy
    """Record what is to be shipped, and make a collector for it."""
    shipments = []
    keys: list[str] = []
    for number in range(PRODUCERS):
        origin = f"shop.example.com/web-{number}"
        with Trail.create(scratch / f"shop-{number}", origin=origin, policy=policy) as trail:
            trail.record_many(events(entries // PRODUCERS, producer=number))
            keys += [trail.verifier_key(each).to_text() for each in ("user", "admin", CUSTODY)]
            shipments.append(list(_packed(trail)))
    path = scratch / "collector"
    with open_trail(str(path), url) as made:
        operator = Caller(id="0", name="benchmark", role="operator")
        enrol_all(made, Enrolment(keys=tuple(keys)), operator, 1)
        recorder = _issued(made, "recorder", producer="shop.example.com/*")
        auditor = _issued(made, "auditor")
    more = ["--workers", str(PRODUCERS)]
    server = Server(path, Authority(scratch), *more, store=url, config=scratch / "config")
    return Site(server=server, recorder=recorder, auditor=auditor, shipments=shipments)


def _packed(trail: Trail) -> Iterator[tuple[str, bytes]]:
    with trail.store.read() as view:
        for log in ("user", "admin"):
            head, first = view.heads()[log], 0
            while first < head.size:
                found = consign(view, log, first, trail.vault, most=BATCH)
                if found is None:
                    return
                body = compress(msgspec.json.encode(found.shipment), level=3)
                yield f"/v1/producers/{head.origin}/entries", body
                first = found.size


def _issued(trail: Trail, role: str, producer: str | None = None) -> str:
    token, secret = tokens.issue(
        name=role,
        role=role,
        created_by="benchmark",
        now=time.time_ns() // 1_000,
        lasts=_HOUR,
        producer=producer,
        entropy=os.urandom,
    )
    tokens.keep(trail, token)
    return secret


def _ingest(site: Site) -> float:
    """Ship all logs at once, each in order; return entries a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(PRODUCERS) as pool:
        sizes = list(pool.map(lambda each: _ship(site, each), site.shipments))
    return sum(sizes) / (time.perf_counter() - began)


def _ship(site: Site, shipments: Sequence[tuple[str, bytes]]) -> int:
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    total = 0
    with site.client(site.recorder) as client:
        for path, body in shipments:
            answer = client.post(path, content=body, headers=headers)
            answer.raise_for_status()
            total += answer.json().get("entries", 0)
    return total


def _under_load(site: Site) -> Iterator[Figure]:
    """Ask, and wait for receipts and the feed, while plain events come in."""
    pages: list[float] = []
    lags: list[float] = []
    stop = Flag()
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(_ask, site, pages, stop)
        following = pool.submit(_follow, site, lags, stop)
        receipts = asyncio.run(_record(site))
        stop.set()
        asking.result()
        following.result()
    yield from _latency("receipt", receipts, f"one event each, {RATE}/s")
    yield from _latency("query", pages, "a page, meanwhile")
    yield Figure(key="collector.feed_lag", value=max(lags), unit="ms", note="the longest")
    yield Figure(key="collector.memory", value=_memory(site.server), unit="MB")


def _latency(name: str, seconds: Sequence[float], note: str) -> Iterator[Figure]:
    ordered = sorted(seconds)
    yield Figure(key=f"collector.{name}_p50", value=median(ordered) * 1e3, unit="ms", note=note)
    worst = ordered[int(len(ordered) * 0.99)]
    yield Figure(key=f"collector.{name}_p99", value=worst * 1e3, unit="ms", note=note)


async def _record(site: Site) -> list[float]:
    """Record events at a steady rate, whether those before are answered or not."""
    count = int(RATE * _SECONDS)
    waiting = [event for number in range(-(-count // 512)) for event in chunk(number)][:count]
    taken: list[float] = []

    async def one(client: httpx2.AsyncClient, event: Event, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        fresh = msgspec.structs.replace(event, id=uuid7(time.time_ns(), os.urandom(10)))
        body = msgspec.json.encode({"events": [fresh]})
        answer = await client.post(
            "/v1/events", content=body, headers={"Content-Type": "application/json"}
        )
        # From when it was due: whoever is kept waiting waits, too.
        taken.append(time.perf_counter() - due)
        if answer.json()["results"][0]["status"] != httpx2.codes.CREATED:
            raise RuntimeError(answer.text)

    async with httpx2.AsyncClient(
        base_url=site.server.url,
        verify=site.server.context(),
        headers={"Authorization": f"Bearer {site.recorder}"},
        timeout=60,
    ) as client:
        began = time.perf_counter() + 0.5
        await asyncio.gather(
            *(one(client, event, began + number / RATE) for number, event in enumerate(waiting))
        )
    return taken


def _ask(site: Site, taken: list[float], stop: Flag) -> None:
    with site.client(site.auditor) as client:
        while not stop.is_set():
            for query in _QUERIES:
                began = time.perf_counter()
                answer = client.get(query.format(actor="u7"))
                taken.append(time.perf_counter() - began)
                answer.raise_for_status()
            stop.wait(_PAUSE)


def _follow(site: Site, lags: list[float], stop: Flag) -> None:
    """Follow the feed; how late an item comes is what its own times say."""
    with site.client(site.auditor) as client:
        after = client.get("/v1/feed/user?after=-1&wait=0&limit=1").json()["size"] - 1
        while not stop.is_set():
            page = client.get(f"/v1/feed/user?after={after}&wait=1&limit=500").json()
            now = time.time()
            after = page["after"]
            lags += [now - _seconds(item["recorded_at"]) for item in page["items"][-1:]]
    lags[:] = [lag * 1e3 for lag in lags] or [0.0]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _memory(server: Server) -> float:
    """Return the resident memory of all processes of the collector, in MB."""
    pages = 0
    for process in server.processes():
        pages += int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return pages * _PAGE / 1e6


def _rows_per_second(url: str, waiting: Sequence[Event]) -> float:
    """Insert events into one table with five indexes, each in a transaction of its own."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    table = sa.Table(
        "event",
        sa.MetaData(),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), index=True),
        sa.Column("actor", sa.Text, index=True),
        sa.Column("action", sa.Text, index=True),
        sa.Column("resource", sa.Text, index=True),
        sa.Column("session", sa.Text, index=True),
        sa.Column("event", sa.LargeBinary),
    )
    table.metadata.create_all(engine)
    insert = table.insert()
    with engine.connect() as connection:
        began = time.perf_counter()
        for event in waiting:
            connection.execute(
                insert,
                {
                    "recorded_at": event.occurred_at,
                    "actor": str(event.actor),
                    "action": event.action,
                    "resource": str(event.resource),
                    "session": event.session,
                    "event": msgspec.json.encode(event),
                },
            )
            connection.commit()
        taken = time.perf_counter() - began
    engine.dispose()
    return len(waiting) / taken
