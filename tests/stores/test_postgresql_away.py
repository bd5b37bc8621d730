"""A PostgreSQL server that is away, goes down, or is cut off: noticed soon, and got over."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

import indelible
from indelible import log
from indelible.errors import StoreError, WriteUncertain
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.seal import seal
from indelible.store import Head
from indelible.stores.postgresql import PostgresqlStore
from indelible.stores.postgresql_connections import connect
from indelible.verdict import Level
from tests.postgres import server
from tests.proxy import Proxy
from tests.stores.conftest import StoreServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgres import Server

KEY = SigningKey.from_seed("audit.example.com/user", bytes(range(32)))
SOON = 1.0
"""Seconds within which an error comes that nothing has to be waited for."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A server of its own, which is reached through the network, too."""
    with server(18, synced=True, listens=True) as found:
        yield found


@pytest.fixture(scope="module")
def stores(running: Server) -> StoreServer:
    """The same, with the tables of stores."""
    return StoreServer(running)


@pytest.fixture
def network(running: Server) -> Iterator[Proxy]:
    """The network between a store and the server."""
    assert running.port is not None
    with Proxy(("127.0.0.1", running.port)) as proxy:
        yield proxy


@pytest.fixture
def store(stores: StoreServer, network: Proxy) -> Iterator[PostgresqlStore]:
    """A store with three entries, reached through the network."""
    with closing(PostgresqlStore(through(network, stores.store()))) as made:
        with made.write() as transaction:
            transaction.create(Head(log="user", origin=KEY.name))
        add(made, 3)
        yield made


def through(network: Proxy, url: str) -> str:
    """Where the database at *url* is in the network."""
    host, port = network.address
    return psycopg.conninfo.make_conninfo(url, host=host, port=port)


def add(
    store: PostgresqlStore, count: int = 1, *, before_the_end: Callable[[], object] | None = None
) -> int:
    """Append events in one transaction; return the place of the first."""
    event = seal(
        Event(
            action="invoice.void",
            outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse("invoice:1"),
        )
    )
    with store.write() as transaction:
        head = transaction.heads()["user"]
        placed = log.append(transaction, head, [event] * count, KEY, 1_000)
        if before_the_end is not None:
            before_the_end()
    return placed.first


def size(store: PostgresqlStore) -> int:
    """How many entries there are."""
    with store.read() as view:
        return view.heads()["user"].size


@pytest.mark.parametrize("step", ["between", "before the end"])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_went_down_and_came_back_has_all_that_it_confirmed(
    stores: StoreServer, end: str, step: str
) -> None:
    """What was confirmed is there when it is back, and no more; who writes goes on by itself."""
    go_down = stores.running.stop if end == "stop" else stores.running.kill
    with closing(PostgresqlStore(stores.store())) as store:
        with store.write() as transaction:
            transaction.create(Head(log="user", origin=KEY.name))
        add(store, 300)
        try:
            if step == "between":
                go_down()
            with pytest.raises(StoreError if step == "between" else WriteUncertain):
                add(store, before_the_end=go_down)
            began = time.monotonic()
            with pytest.raises(StoreError):
                size(store)
            with pytest.raises(StoreError):
                add(store)
            assert time.monotonic() - began < SOON
        finally:
            stores.running.start()

        assert 300 == size(store)
        assert 300 == add(store)


def test_a_server_that_refuses_is_noticed_at_once(store: PostgresqlStore, network: Proxy) -> None:
    """While nobody listens, each call says so, and the first one after that works."""
    network.cut()
    network.refuse()

    began = time.monotonic()
    with pytest.raises(StoreError):
        add(store)
    with pytest.raises(StoreError):
        size(store)
    assert time.monotonic() - began < SOON
    network.accept()

    assert 3 == add(store)


def test_a_server_that_does_not_answer_is_not_waited_for(
    stores: StoreServer, network: Proxy
) -> None:
    """Whoever connects to what is silent is told so after a few seconds."""
    url = f"{through(network, stores.store())} connect_timeout=2"
    network.half_open()

    began = time.monotonic()
    with pytest.raises(StoreError):
        PostgresqlStore(url)

    assert time.monotonic() - began < 2 + SOON


def test_a_host_that_went_silent_is_noticed(stores: StoreServer, network: Proxy) -> None:
    """The system looks after connections, whatever they wait for, unless the URL says otherwise."""
    url = through(network, stores.store())

    with closing(connect(url)) as usual, closing(connect(f"{url} tcp_user_timeout=1234")) as other:
        said = usual.info.get_parameters()
        options = {
            name: _option(usual, getattr(socket, name))
            for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        }
        otherwise = _option(other, socket.TCP_USER_TIMEOUT)

    assert "5" == said["connect_timeout"]
    assert 10_000 == options["TCP_USER_TIMEOUT"]
    assert 10 == options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"]
    assert 1_234 == otherwise


def _option(connection: psycopg.Connection[tuple[object, ...]], name: int) -> int:
    with socket.socket(fileno=connection.fileno()) as same:
        try:
            return same.getsockopt(socket.IPPROTO_TCP, name)
        finally:
            same.detach()  # The connection closes it.


def test_a_commit_whose_answer_was_lost_is_found(store: PostgresqlStore, network: Proxy) -> None:
    """What the server has, though the network took its answer away, is there for who looks."""
    with pytest.raises(WriteUncertain):
        add(store, before_the_end=lambda: network.lose_answers(1))

    assert 4 == size(store)
    assert 4 == add(store)


def test_a_commit_that_did_not_reach_the_server_is_not_there(
    store: PostgresqlStore, network: Proxy
) -> None:
    """What the network took away on its way did not happen, and can be repeated."""
    with pytest.raises(WriteUncertain):
        add(store, before_the_end=network.cut)

    assert 3 == size(store)
    assert 3 == add(store)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_broken_network_neither_loses_nor_doubles_an_event(
    tmp_path: Path,
    running: Server,
    network: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    arrives: bool,
) -> None:
    """Whoever records through a network that fails once has recorded once, and hears nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail", store=through(network, running.database())) as audit:
        audit.record("invoice.void", actor="user:alice", resource="invoice:1")
        if arrives:
            # The answer to the beginning, which the server has forgotten by the next one.
            network.lose_answers(1)
        else:
            network.cut()
        audit.record("invoice.void", actor="user:alice", resource="invoice:2")

        assert ["2", "1"] == [item.event.resource.id for item in audit.search("invoice").items]
        assert Level.SIGNED == audit.verify().level
