"""A collector as it is run: TLS and nothing else, and whoever is slow hinders nobody."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.collector.server import Authority, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return whose certificates are trusted."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a collector."""
    with Server(tmp_path_factory.mktemp("collector") / "trail", authority) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a collector that lets in whoever has a certificate."""
    path = tmp_path_factory.mktemp("guarded")
    clients = Authority(path, "clients")
    clients.issue("web-1")
    with Server(path / "trail", authority, client_ca=clients.file) as running:
        yield running


def alive(server: Server, context: ssl.SSLContext | None = None) -> int:
    """Return the status with which the collector answers whether it is alive."""
    with httpx2.Client(verify=context or server.context(), timeout=10) as client:
        return client.get(f"{server.url}/health/live").status_code


def test_a_collector_is_made_where_there_is_none(server: Server) -> None:
    """What is served is made at the first start, and says where it answers."""
    assert 200 == alive(server)
    assert any(server.url in line for line in server.said)
    assert (server.path / "trail.json").exists()


def test_plain_text_gets_no_answer(server: Server) -> None:
    """There is no way to speak to a collector's port without TLS."""
    with closing(socket.create_connection(server.address, timeout=10)) as plain:
        plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        try:
            while chunk := plain.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass

    assert b"HTTP" not in answer
    assert b"live" not in answer


def test_a_certificate_of_somebody_else_is_refused(server: Server, tmp_path: Path) -> None:
    """Whoever trusts another authority does not speak to this collector."""
    stranger = Authority(tmp_path, "stranger")
    context = ssl.create_default_context(cafile=str(stranger.file))

    with pytest.raises(httpx2.ConnectError, match="certificate"):
        alive(server, context)


def test_old_versions_of_tls_are_refused(server: Server) -> None:
    """Nothing below TLS 1.3 is spoken."""
    context = server.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(httpx2.ConnectError):
        alive(server, context)


def test_who_has_no_certificate_is_turned_away(guarded: Server, tmp_path: Path) -> None:
    """Where client certificates are demanded, one of the right authority is needed."""
    path = guarded.path.parent
    known = guarded.context()
    known.load_cert_chain(path / "web-1.pem", path / "web-1-key.pem")
    unknown = guarded.context()
    unknown.load_cert_chain(*Authority(tmp_path, "stranger").issue("web-2"))

    assert 200 == alive(guarded, known)
    for context in (guarded.context(), unknown):
        with pytest.raises(httpx2.TransportError):
            alive(guarded, context)


def test_connections_that_do_nothing_hinder_nobody(server: Server) -> None:
    """Half-open connections, cut handshakes and slow requests do not keep others waiting."""
    idle = [socket.create_connection(server.address, timeout=10) for _ in range(100)]
    for each in idle[:50]:
        each.sendall(b"\x16\x03\x01")
    slow = server.context().wrap_socket(
        socket.create_connection(server.address, timeout=10), server_hostname="127.0.0.1"
    )
    slow.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n")

    statuses = {alive(server) for _ in range(5)}

    assert {200} == statuses
    for each in (*idle, slow):
        each.close()


def test_a_request_is_no_larger_than_it_may_be(server: Server) -> None:
    """A head without an end is cut, and the collector goes on."""
    with closing(
        server.context().wrap_socket(
            socket.create_connection(server.address, timeout=10), server_hostname="127.0.0.1"
        )
    ) as talking:
        talking.sendall(b"GET /health/live HTTP/1.1\r\n")
        answer = b""
        try:
            for number in range(40):
                talking.sendall(b"X-%d: " % number + b"a" * 60_000 + b"\r\n")
            answer = talking.recv(4096)
        except OSError:
            pass

    assert not answer.startswith(b"HTTP/1.1 2")
    assert 200 == alive(server)


def test_a_collector_that_is_asked_to_end_ends(authority: Authority, tmp_path: Path) -> None:
    """SIGTERM ends a collector with exit code 0, and it starts again on what it has."""
    server = Server(tmp_path / "trail", authority, port=free_port())
    with server:
        assert 200 == alive(server)
        assert 0 == server.stop()
        server.start()
        assert 200 == alive(server)
