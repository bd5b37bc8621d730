"""Two collectors on one database, killed one after the other while producers ship."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import indelible
from indelible.collected import verify_producers
from indelible.collector.producers import enrol_all
from indelible.collector.serving import open_trail
from indelible.collector.state import Collector
from indelible.producer import HELD_KIND, Held, key_of
from indelible.query import Query, matches
from indelible.rights import Caller
from indelible.sinks.collector import Shipper
from indelible.wire import Enrolment
from tests import postgres
from tests.collector.conftest import FAST, issued
from tests.collector.server import Authority, Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from indelible.trail import Trail

ROUNDS, EACH = 12, 4
PATIENCE = 60.0


def record_and_ship(
    trail: Trail, servers: list[Server], token: str, reached: Callable[[int], object]
) -> int:
    """Record a little and ship it to one collector after the other; return how much."""
    shippers = [
        Shipper(
            trail,
            server.url,
            token,
            ca=server.authority.file,
            draw=lambda: 0.02,
            on_fault=lambda *_: None,
        )
        for server in servers
    ]
    for number in range(ROUNDS):
        for place in range(EACH):
            trail.record(
                "invoice.approve",
                actor="user:alice",
                resource=f"invoice:{number}-{place}",
                rationale="PO-99",
            )
        shipper = shippers[number % len(shippers)]
        shipper.drain(PATIENCE)
        shipper.close()
        reached(number)
    return ROUNDS * EACH


def test_what_was_acknowledged_survives_whatever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Collectors and database die in the middle, and each entry is there once and in order.

    Two producers ship to two collectors by turns; database and collectors are killed, one
    after the other, and begin again by themselves or by whoever runs them.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    authority = Authority(tmp_path)
    with postgres.server(18, durable=True) as database:
        url = database.database()
        origins = ["shop.example.com/web-1", "shop.example.com/web-2"]
        trails = [
            indelible.open(tmp_path / f"shop-{number}", origin=origin)
            for number, origin in enumerate(origins)
        ]
        with open_trail(str(tmp_path / "collector"), url) as made:
            keys = tuple(
                each.verifier_key(stream).to_text() for each in trails for stream in STREAMS
            )
            operator = Caller(id="0", name="alice", role="operator")
            enrol_all(made, Enrolment(keys=keys), operator, 1)
            token = issued(Collector(made, FAST), "recorder", producer="shop.example.com/*")
        servers = [
            Server(tmp_path / "collector", authority, store=url, config=tmp_path / "config")
            for _ in range(2)
        ]
        steps = [threading.Event() for _ in range(ROUNDS)]
        with servers[0], servers[1], ThreadPoolExecutor(2) as pool:
            shipping = [
                pool.submit(
                    record_and_ship,
                    trail,
                    servers if number == 0 else servers[::-1],
                    token,
                    lambda round_: steps[round_].set(),
                )
                for number, trail in enumerate(trails)
            ]
            assert steps[1].wait(PATIENCE)
            database.kill()
            database.start()
            assert steps[4].wait(PATIENCE)
            servers[0].kill()
            servers[0].start()
            assert steps[7].wait(PATIENCE)
            servers[1].kill()
            servers[1].start()
            counts = [each.result(PATIENCE) for each in shipping]

        with open_trail(str(tmp_path / "collector"), None) as trail:
            with trail.store.read() as view:
                assert [] == list(verify_producers(view))
                for origin, producer, count in zip(origins, trails, counts, strict=True):
                    held = Held.from_bytes(view.fact(HELD_KIND, key_of(f"{origin}/user")))
                    with producer.store.read() as theirs:
                        head = theirs.heads()["user"]
                    assert (count, head.edge.root) == (held.size, held.tree.root)
                    asked = Query(producer=f"{origin}/user", newest_first=False)
                    found = [item.entry.collected for item in matches(view, asked)]
                    indexes = [each.parse().index for each in found if each is not None]
                    assert list(range(count)) == indexes
            assert trail.verify().passed
        for each in trails:
            with closing(each):
                assert each.verify().passed


STREAMS = ("user", "admin", "auth", "custody")
