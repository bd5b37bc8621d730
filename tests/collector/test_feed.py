"""Whoever follows a log gets each entry once, in its order, as soon as it is there."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from threading import Event as Signal
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import httpx

from indelible.collector.feed import MOST_WAITING, Bell
from indelible.collector.state import Collector
from indelible.event import Actor, Event, Outcome, Resource
from indelible.log import head_of
from indelible.purging import purge_prefix
from indelible.rights import Caller
from indelible.store import Head
from indelible.tokens import taken_apart
from indelible.trail import Trail
from tests.collector.conftest import FAST, bearer, issued
from tests.collector.server import Authority, Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from httpx import Response

    from tests.collector.conftest import Served

LONG = 30
SOON = 1.0
_WAITING = 60
"""More than an event loop has threads."""


def record(trail: Trail, count: int = 1, tenant: str | None = "shop") -> None:
    """Record so many events in the stream user."""
    for number in range(count):
        trail.record(
            "invoice.pay", actor="service:web", resource=f"invoice:{number}", tenant=tenant
        )


def asking(client: Served, collector: Collector, **limits: Any) -> Callable[..., dict[str, Any]]:
    """Return what asks for a feed as an auditor."""
    headers = bearer(issued(collector, "auditor", **limits))

    def ask(**parameters: float) -> dict[str, Any]:
        answer = client.get("/v1/feed/user", params=parameters, headers=headers)
        assert 200 == answer.status_code, answer.text[:300]
        found: dict[str, Any] = answer.json()
        return found

    return ask


def indexes(page: dict[str, Any]) -> list[int]:
    """Return which entries a page holds."""
    return [item["integrity"]["index"] for item in page["items"]]


def is_waited_for(client: Served) -> None:
    """Return when somebody has waited for the bell so long that it has looked around."""
    until = monotonic() + LONG
    while monotonic() < until and not ("bell" in client.app.state and client.app.state.bell.sizes):
        sleep(0.005)


def test_a_feed_is_the_log_in_its_order(client: Served, collector: Collector, trail: Trail) -> None:
    """Portion by portion, each entry once, and then nothing until more is recorded."""
    record(trail, 7)
    ask = asking(client, collector)

    pages, after = [], -1
    for _ in range(4):
        pages.append(ask(after=after, limit=3))
        after = pages[-1]["after"]
    record(trail)

    assert [[0, 1, 2], [3, 4, 5], [6], []] == [indexes(page) for page in pages]
    assert (6, 7, 0) == (after, pages[-1]["size"], pages[-1].get("first", 0))
    assert [7] == indexes(ask(after=after))
    assert trail.checkpoint("user").decode() == ask(after=7)["checkpoint"]


def test_whoever_waits_is_answered_as_soon_as_something_is_recorded(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """By this process, whose commits ring the bell."""
    record(trail)
    ask = asking(client, collector)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, after=0, wait=LONG)
        is_waited_for(client)
        began = monotonic()
        record(trail)
        page = waiting.result()

    assert [1] == indexes(page)
    assert monotonic() - began < SOON


def test_whoever_waits_is_answered_when_another_process_has_recorded(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """Of its commits nobody hears, so they are looked for while anybody waits."""
    ask = asking(client, collector)

    with ThreadPoolExecutor(1) as pool, Trail(trail.path) as other:
        waiting = pool.submit(ask, wait=LONG)
        is_waited_for(client)
        began = monotonic()
        record(other)
        page = waiting.result()

    assert [0] == indexes(page)
    assert monotonic() - began < SOON


def test_a_wait_ends_without_anything(client: Served, collector: Collector, trail: Trail) -> None:
    """After the seconds that were asked for, with where to go on; on an empty log, too."""
    ask = asking(client, collector)

    empty = ask(wait=0.1)
    record(trail)
    began = monotonic()
    nothing = ask(after=0, wait=0.3)

    assert ([], -1, 0) == (empty["items"], empty["after"], empty["size"])
    assert ([], 0, 1) == (nothing["items"], nothing["after"], nothing["size"])
    assert 0.3 <= monotonic() - began < LONG


def test_others_entries_are_left_out_and_passed(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """A tenant's follower is woken by its own entries, and is behind all others by then."""
    for tenant in ("billing", "shop", None, "billing"):
        record(trail, 2, tenant)
    ask = asking(client, collector, tenant="shop")

    first, behind = ask(), ask(limit=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, after=first["after"], wait=LONG)
        is_waited_for(client)
        record(trail, 3, "billing")
        record(trail, 1, "shop")
        later = waiting.result()

    assert ([2, 3], 7) == (indexes(first), first["after"])
    assert ([2], 2) == (indexes(behind), behind["after"])
    assert ([11], 11) == (indexes(later), later["after"])
    assert "billing" not in str(first["items"])


def test_a_feed_begins_behind_what_was_purged(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """And says where: the gap is one that the trail accounts for."""
    trail.record_many(
        [
            Event(
                action="invoice.pay",
                outcome=Outcome.SUCCESS,
                actor=Actor(type="service", id="web"),
                resource=Resource(type="invoice", id=str(number)),
            )
            for number in range(258)
        ]
    )
    purge_prefix(trail, "user", 256, plan_digest=None, now=datetime.now(UTC))

    page = asking(client, collector)()

    assert ([256, 257], 256, 258) == (indexes(page), page["first"], page["size"])


def test_a_feed_names_the_log_that_goes_on(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """A log that was succeeded grows no more, and whoever follows it is told where to go."""
    record(trail)
    with trail.store.write() as transaction:
        head = head_of(transaction.heads(), "user")
        transaction.create(Head(log="user~2", origin=f"{head.origin}~2"))

    ask = asking(client, collector)
    headers = bearer(issued(collector, "auditor"))
    last = client.get("/v1/feed/user~2", headers=headers).json()

    assert "user~2" == ask()["successor"]
    assert "successor" not in last


def test_whoever_waits_holds_no_thread(client: Served, collector: Collector, trail: Trail) -> None:
    """More wait than there are threads, and others are answered meanwhile."""
    ask = asking(client, collector)
    headers = bearer(issued(collector, "auditor"))

    with ThreadPoolExecutor(_WAITING) as pool:
        waiting = [pool.submit(ask, wait=LONG) for _ in range(_WAITING)]
        is_waited_for(client)
        began = monotonic()
        entries = client.get("/v1/entries", headers=headers)
        answered = monotonic() - began
        done = [each for each in waiting if each.done()]
        record(trail)
        pages = [each.result() for each in waiting]

    assert 200 == entries.status_code
    assert [] == done
    assert answered < LONG / 3
    assert [[0]] * _WAITING == [indexes(page) for page in pages]


def test_no_caller_takes_all_the_places_there_are_to_wait(
    client: Served, collector: Collector
) -> None:
    """Whose requests wait in numbers gets no more of them, and others do, as before and after."""
    secret = issued(collector, "auditor")
    caller = Caller(id=taken_apart(secret)[0], name="the auditor", role="auditor")
    other = bearer(issued(collector, "auditor"))

    def status(headers: dict[str, str], wait: float = 0.01) -> int:
        return client.get("/v1/feed/user", params={"wait": wait}, headers=headers).status_code

    with ExitStack() as waiting:
        for _ in range(MOST_WAITING):
            waiting.enter_context(client.app.state.bell.place(caller))

        assert 429 == status(bearer(secret))
        assert 200 == status(bearer(secret), wait=0)
        assert 200 == status(other)
    assert 200 == status(bearer(secret))


def test_a_bell_whose_loop_has_ended_rings_no_more(trail: Trail) -> None:
    """What is recorded afterwards disturbs nobody, and the trail lets go of it."""

    async def hang() -> ReferenceType[Bell]:
        return ref(Bell(trail))

    async def stay() -> Bell:
        return Bell(trail)

    hung, stayed = asyncio.run(hang()), asyncio.run(stay())
    before = hung()

    record(trail)
    del before
    gc.collect()

    assert hung() is None
    assert {} == stayed.sizes


def test_whoever_waits_does_not_hold_up_a_stop(trail: Trail, tmp_path: Path) -> None:
    """Told to stop, a collector answers all who wait at once, with nothing, and ends in order."""
    collector = Collector(trail, FAST)
    headers = bearer(issued(collector, "auditor"))
    began = Signal()

    def wait(server: Server) -> Response:
        with httpx.Client(base_url=server.url, verify=server.context(), headers=headers) as client:
            client.get("/v1/feed/user")
            began.set()
            return client.get("/v1/feed/user", params={"wait": LONG}, timeout=LONG)

    with Server(trail.path, Authority(tmp_path)) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, server)
        assert began.wait(LONG)
        sleep(SOON / 2)  # that it waits by now, nobody outside can tell
        at = monotonic()
        code = server.stop()
        took = monotonic() - at
        page = waiting.result().json()

    assert (0, [], 0) == (code, page["items"], page["size"])
    assert took < LONG / 3
    assert not [line for line in server.said if "WARNING" in line]
