"""A producer and a collector in processes of their own, and a network that fails between."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.collector.serving import open_trail
from indelible.errors import CallerError, StoreError
from indelible.sinks.collector import BackgroundShipper, Shipper
from indelible.sinks.joining import KEPT, join
from tests.collector.server import Authority
from tests.proxy import Proxy
from tests.sinks.collecting import ORIGIN, Collector, enrolled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector that answers over TLS."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("collector")
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        collector = Collector(path)
    with collector.server:
        yield collector


@pytest.fixture
def trail(tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """A trail that the collector takes in, with three entries."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    origin = f"{ORIGIN}/{tmp_path.name.replace('_', '-')}"
    with indelible.open(tmp_path / "trail", origin=origin) as audit:
        collector.enrol(audit)
        record(audit, 3)
        yield audit


@contextmanager
def shipping(trail: Trail, collector: Collector, proxy: Proxy | None = None) -> Iterator[Shipper]:
    """Ship by way of a proxy; what goes wrong is tried again at once."""
    port = collector.server.port if proxy is None else proxy.port
    shipper = Shipper(
        trail,
        f"https://127.0.0.1:{port}",
        collector.recorder,
        ca=collector.authority.file,
        draw=lambda: 0.01,
    )
    with closing(shipper):
        yield shipper


def record(trail: Trail, times: int = 1) -> None:
    """Let invoices be approved."""
    for number in range(times):
        trail.record("invoice.approve", actor="user:alice", resource=f"invoice:INV-{number}")


def test_a_log_arrives_over_tls(collector: Collector, trail: Trail) -> None:
    """The collector has each entry once and in order, what the trail says of itself included."""
    with shipping(trail, collector) as shipper:
        shipper.drain(20)

    assert collector.holds(trail)
    assert collector.holds(trail, "custody")


def test_an_application_needs_one_argument_to_be_collected(
    collector: Collector, trail: Trail, tmp_path: Path
) -> None:
    """What it records is shipped by itself, and is at the collector when the trail is closed."""
    trail.close()
    token = tmp_path / "token"
    token.write_text(collector.recorder)
    with indelible.open(
        trail.path, collector=collector.server.url, token=token, ca=collector.authority.file
    ) as audit:
        record(audit, 2)
        with pytest.raises(CallerError, match="is shipped to a collector already"):
            audit.ship_to(collector.server.url, token)

    with indelible.open(trail.path, mode="r") as audit:
        assert collector.holds(audit)
        assert collector.holds(audit, "custody")
        said = audit.stats()["logs"]
    assert (collector.server.url, 5, 0) == tuple(
        said["user"]["collected"][name] for name in ("by", "entries", "behind")
    )
    assert said["admin"]["collected"] is None


def test_a_trail_joins_by_itself_and_once(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that nobody has enrolled enrols itself, and ships with a token of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    token = tmp_path / "join"
    token.write_text(collector.join)
    with indelible.open(tmp_path / "trail", origin=f"{ORIGIN}/web-9") as audit:
        record(audit, 2)
        url, ca = collector.server.url, collector.authority.file

        kept = join(audit, url, token, ca=ca)
        again = join(audit, url, tmp_path / "gone", ca=ca)

        assert kept == again == audit.path / KEPT
        assert 0o600 == kept.stat().st_mode & 0o777
        with closing(Shipper(audit, url, kept, ca=ca)) as shipper:
            shipper.drain(20)
        assert collector.holds(audit)
        assert collector.holds(audit, "custody")


def test_an_application_is_told_at_once_what_cannot_be_shipped(trail: Trail) -> None:
    """A trail that could not be shipped is not opened as if it were."""
    trail.close()

    for given, message in (
        ({"collector": "http://collector.example.com"}, "expected 'https'"),
        ({"collector": "https://collector.example.com"}, "INDELIBLE_TOKEN holds none"),
        ({"collector": "https://collector.example.com", "mode": "r"}, "found mode 'r'"),
    ):
        with pytest.raises(CallerError, match=message):
            indelible.open(trail.path, **given)  # type: ignore[arg-type]


def test_lost_answers_double_nothing(collector: Collector, trail: Trail) -> None:
    """Whatever was taken before the line broke, is not there twice, and nothing is missing."""
    with Proxy(collector.server.address) as proxy, shipping(trail, collector, proxy) as shipper:
        client, server = proxy.handshake(collector.server.context(), "127.0.0.1")
        shipper.drain(20)
        record(trail, 2)
        shipper._link.close()  # noqa: SLF001 - a new connection, whose bytes are counted
        proxy.lose_answers(3, after=client, beyond=server)

        shipper.drain(20)

        assert proxy.connections >= 5

    assert collector.holds(trail)


def test_a_network_that_breaks_off_loses_nothing(collector: Collector, trail: Trail) -> None:
    """Reset in the middle of requests, refused and slow, it all arrives in the end."""
    event = indelible.Event.data_change("user:alice", "update", "invoice:INV-7", {"a": (1, 2)})
    trail.record_many([event] * 2_000)
    with Proxy(collector.server.address) as proxy:
        proxy.cut_requests(3_000, 2)
        with shipping(trail, collector, proxy) as shipper:
            background = BackgroundShipper(shipper, poll=0.05).start()
            for fault in (
                proxy.cut,
                proxy.refuse,
                proxy.heal,
                lambda: proxy.delay(0.02),
                proxy.cut,
                lambda: proxy.cut_requests(20_000, 1),
                proxy.half_open,
                proxy.heal,
            ):
                record(trail, 2)
                background.kick()
                fault()

            background.drain(20)
            background.stop()

    assert collector.holds(trail)
    assert collector.holds(trail, "custody")


def test_a_collector_that_is_killed_loses_nothing_it_has_acknowledged(
    collector: Collector, trail: Trail
) -> None:
    """It is killed while entries come in, begins again, and what it lacks is sent again."""
    event = indelible.Event.data_change("user:alice", "update", "invoice:INV-7", {"a": (1, 2)})
    trail.record_many([event] * 3_000)
    first = threading.Event()
    shipper = Shipper(
        trail,
        collector.server.url,
        collector.recorder,
        ca=collector.authority.file,
        draw=lambda: 0.01,
        on_sent=lambda _: first.set(),
        on_fault=lambda *_: None,
    )
    with closing(shipper), BackgroundShipper(shipper, poll=0.05) as background:
        assert first.wait(20)
        collector.server.kill()
        record(trail, 2)
        collector.server.start()

        background.drain(20)

    assert collector.holds(trail)


def test_nothing_goes_to_a_server_that_nobody_vouches_for(
    collector: Collector, trail: Trail, tmp_path: Path
) -> None:
    """Neither token nor entries are shown to one whose certificate is not trusted."""
    other = Authority(tmp_path, "other")
    shipper = Shipper(trail, collector.server.url, collector.recorder, ca=other.file)

    with closing(shipper), pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
        shipper.drain(0)

    assert not collector.holds(trail)


def test_a_client_certificate_is_shown_where_it_is_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector may take entries only from machines that it knows."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    machines = Authority(tmp_path, "machines")
    certificate, key = machines.issue("web-3")
    both = tmp_path / "web-3-both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    collector = Collector(tmp_path, client_ca=machines.file)
    with indelible.open(tmp_path / "trail", origin=f"{ORIGIN}/shop") as trail:
        with open_trail(str(tmp_path / "collector"), None) as there:
            enrolled(there, trail)
        record(trail)
        ship = partial(
            Shipper,
            trail,
            collector.server.url,
            collector.recorder,
            ca=collector.authority.file,
        )

        with collector.server:
            with closing(ship()) as unknown, pytest.raises(StoreError):
                unknown.drain(0)
            with closing(ship(certificate=both)) as known:
                known.drain(20)
