"""What the proxy of the shipping tests does to a connection, so that they may rely on it."""

from __future__ import annotations

import gc
import math
import os
import socket
import ssl
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 5
ANSWER = b"a" * 300


class Handler(BaseHTTPRequestHandler):
    """Keeps what each request brought, and answers it."""

    server: Shop
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def setup(self) -> None:
        """Shake hands in the connection's own thread."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def do_POST(self) -> None:
        """Read as much of the body as comes."""
        body = b""
        try:
            while len(body) < int(self.headers["Content-Length"]):
                body += self.rfile.read1()
        finally:
            self.server.bodies.put(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Shop(ThreadingHTTPServer):
    """A server that tells its test what came and what went wrong."""

    daemon_threads = False

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: SimpleQueue[bytes] = SimpleQueue()
        self.errors: SimpleQueue[BaseException] = SimpleQueue()
        self._context = context

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        return ("127.0.0.1", self.server_port)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, under TLS if it is meant to be."""
        taken, address = super().get_request()
        if self._context is not None:
            taken = self._context.wrap_socket(
                taken,
                server_side=True,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
        return taken, address

    def handle_error(self, *_: object) -> None:
        """Keep the error that ends a connection."""
        error = sys.exception()
        assert error is not None
        self.errors.put(error)


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Shop]:
    """Run a server inside the block."""
    with Shop(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A server without TLS."""
    with serving() as server:
        yield server


@pytest.fixture
def proxy(shop: Shop) -> Iterator[Proxy]:
    """A proxy before it."""
    with Proxy(shop.place) as between:
        yield between


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + signed.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture
def secure_shop(certificate: Path) -> Iterator[Shop]:
    """A server under TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as server:
        yield server


@pytest.fixture
def secure_proxy(secure_shop: Shop) -> Iterator[Proxy]:
    """A proxy before it."""
    with Proxy(secure_shop.place) as between:
        yield between


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    """What a client of the secure server trusts."""
    return ssl.create_default_context(cafile=certificate)


def connection(proxy: Proxy, *, trust: ssl.SSLContext | None = None) -> closing[HTTPConnection]:
    """Return a client that is connected through *proxy*, and closed with the block."""
    client = (
        HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
        if trust is None
        else HTTPSConnection("127.0.0.1", proxy.port, timeout=PATIENCE, context=trust)
    )
    client.connect()
    return closing(client)


def post(client: HTTPConnection, body: bytes) -> bytes:
    """Send *body* and return the answer."""
    client.request("POST", "/", body)
    return client.getresponse().read()


def beneath(client: HTTPConnection) -> socket.socket:
    """Return the client's connection without TLS, whose module takes a reset for an end."""
    return socket.socket(fileno=os.dup(client.sock.fileno()))


def seconds_of(client: HTTPConnection, body: bytes) -> float:
    """Send *body*, and return how long the answer took."""
    since = time.monotonic()
    post(client, body)
    return time.monotonic() - since


def open_descriptors() -> set[str]:
    """Return the files and sockets that this process holds."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_bytes_pass_unchanged_and_counted(shop: Shop, proxy: Proxy) -> None:
    """Without a fault a client and a server notice nothing, and the proxy counts what passed."""
    body = os.urandom(1_000_000)

    with connection(proxy) as client:
        answer = post(client, body)

    assert answer == ANSWER
    assert body == shop.bodies.get(timeout=PATIENCE)
    assert 1 == proxy.connections
    assert len(body) < proxy.bytes_to_server < len(body) + 300
    assert len(ANSWER) < proxy.bytes_to_client < len(ANSWER) + 300


def test_a_connection_is_waited_for(proxy: Proxy) -> None:
    """Whoever waits for a connection goes on when it is there, and is told when none comes."""
    with pytest.raises(TimeoutError, match=r"0 connections after 0\.01 s, not 1"):
        proxy.wait_for_connection(0.01)
    later = threading.Timer(0.02, lambda: socket.create_connection(proxy.address).close())
    later.start()

    proxy.wait_for_connection(PATIENCE)

    later.join()
    assert 1 == proxy.connections


def test_a_cut_resets_both_sides_of_all_connections(shop: Shop, proxy: Proxy) -> None:
    """After a cut the client and the server see a reset, no end; the next connection works."""
    with connection(proxy) as first, connection(proxy) as second:
        post(first, b"one")
        post(second, b"two")

        proxy.cut()

        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
            assert isinstance(shop.errors.get(timeout=PATIENCE), ConnectionResetError)
    with connection(proxy) as third:
        assert ANSWER == post(third, b"three")


def test_a_cut_reaches_a_connection_that_was_only_just_made(proxy: Proxy) -> None:
    """What a client believes to be connected is cut, even if the proxy has not taken it yet."""
    for _ in range(50):
        with socket.create_connection(proxy.address, PATIENCE) as client:
            proxy.cut()

            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_cut_resets_tls(secure_shop: Shop, secure_proxy: Proxy, trust: ssl.SSLContext) -> None:
    """Under TLS, too, both sides see a reset: no alert and no orderly end."""
    with connection(secure_proxy, trust=trust) as client:
        post(client, b"one")

        secure_proxy.cut()

        with beneath(client) as plain, pytest.raises(ConnectionResetError):
            plain.recv(1)
        assert isinstance(secure_shop.errors.get(timeout=PATIENCE), ssl.SSLEOFError)


def test_refusing_keeps_the_port_and_the_connections_of_now(proxy: Proxy) -> None:
    """New connections are refused and old ones carry on, until the same port takes them again."""
    with connection(proxy) as old:
        proxy.refuse()
        proxy.refuse()

        with pytest.raises(ConnectionRefusedError):
            connection(proxy)
        assert ANSWER == post(old, b"old")

        proxy.accept()
        with connection(proxy) as new:
            assert ANSWER == post(new, b"new")


def test_a_server_that_is_away_is_a_reset() -> None:
    """Where the proxy finds no server, it ends the client's connection."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = gone.getsockname()

    with (
        Proxy(nowhere) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, PATIENCE) as client,
    ):
        client.recv(1)


def test_a_delay_holds_each_way(proxy: Proxy) -> None:
    """A request and its answer are held once each, on a connection that was there before."""
    with connection(proxy) as client:
        proxy.delay(0.05)

        assert 0.1 <= seconds_of(client, b"")


def test_a_delay_that_is_taken_back_lets_go(shop: Shop, proxy: Proxy) -> None:
    """Bytes that a long delay holds pass at once when it is taken back."""
    proxy.delay(3600)
    with connection(proxy) as client:
        client.request("POST", "/", b"held")
        assert shop.bodies.empty()

        proxy.delay(0)

        assert ANSWER == client.getresponse().read()


def test_a_throttle_holds_to_its_rate(proxy: Proxy) -> None:
    """Bytes take at least the time that the rate asks for."""
    with connection(proxy) as client:
        proxy.throttle(100_000)

        assert 0.2 <= seconds_of(client, bytes(20_000))


def test_a_throttle_that_is_taken_back_lets_go(proxy: Proxy) -> None:
    """Bytes that would take hours pass at once when the rate is taken back."""
    proxy.throttle(1)
    with connection(proxy) as client:
        client.request("POST", "/", bytes(20_000))

        proxy.throttle(math.inf)

        assert ANSWER == client.getresponse().read()


def test_a_black_hole_takes_all_and_gives_nothing(shop: Shop, proxy: Proxy) -> None:
    """Old and new connections stay open without an answer, and the server hears of nothing."""
    with connection(proxy) as old:
        proxy.half_open()

        with connection(proxy) as new:
            for client in (old, new):
                client.request("POST", "/", bytes(1_000_000))
                client.sock.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    client.sock.recv(1)
    assert 2 == proxy.connections
    assert 0 == proxy.bytes_to_server
    assert shop.bodies.empty()
    assert shop.errors.empty()


def test_healing_resets_only_what_lost_bytes(proxy: Proxy) -> None:
    """After a black hole, a connection that lost bytes is reset; an idle one carries on."""
    with connection(proxy) as idle, connection(proxy) as busy:
        post(idle, b"before")
        proxy.half_open()
        busy.request("POST", "/", b"lost")
        busy.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            busy.sock.recv(1)

        proxy.heal()

        with pytest.raises(ConnectionResetError):
            busy.sock.recv(1)
        assert ANSWER == post(idle, b"after")
    with connection(proxy) as new:
        assert ANSWER == post(new, b"new")


def test_healing_takes_every_fault_back(proxy: Proxy) -> None:
    """One call ends all that was set."""
    proxy.refuse()
    proxy.delay(3600)
    proxy.throttle(1)
    proxy.lose_answers(1)
    proxy.cut_requests(1, 1)
    proxy.duplicate(1)

    proxy.heal()

    with connection(proxy) as client:
        assert ANSWER == post(client, b"well")


def test_a_lost_answer_belongs_to_a_request_that_arrived_whole(shop: Shop, proxy: Proxy) -> None:
    """The server has the request, the client a reset without a byte; after so many, all is well."""
    body = os.urandom(200_000)
    proxy.lose_answers(2)

    for _ in range(2):
        with connection(proxy) as client:
            client.request("POST", "/", body)
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
        assert body == shop.bodies.get(timeout=PATIENCE)

    assert 0 == proxy.bytes_to_client
    with connection(proxy) as client:
        assert ANSWER == post(client, b"well")


def test_an_answer_is_lost_under_tls(
    secure_shop: Shop, secure_proxy: Proxy, trust: ssl.SSLContext
) -> None:
    """The handshake and its tickets pass, the request arrives whole, its answer is lost."""
    body = os.urandom(200_000)
    after, beyond = secure_proxy.handshake(trust)
    secure_proxy.lose_answers(10, after=after, beyond=beyond)

    for _ in range(10):
        with connection(secure_proxy, trust=trust) as client, pytest.raises(ConnectionResetError):
            post(client, body)
        assert body == secure_shop.bodies.get(timeout=PATIENCE)

    with connection(secure_proxy, trust=trust) as client:
        assert ANSWER == post(client, b"well")


def test_a_later_answer_is_lost_under_tls(
    secure_shop: Shop, secure_proxy: Proxy, trust: ssl.SSLContext
) -> None:
    """On a connection that has answered before, the next answer is lost."""
    after, beyond = secure_proxy.handshake(trust)
    with connection(secure_proxy, trust=trust) as client:
        post(client, b"one")
        secure_proxy.lose_answers(1, after=after, beyond=beyond)

        with pytest.raises(ConnectionResetError):
            post(client, b"two")

    assert [b"one", b"two"] == [secure_shop.bodies.get(timeout=PATIENCE) for _ in range(2)]


def test_a_request_is_cut_at_its_byte(shop: Shop, proxy: Proxy) -> None:
    """The server gets exactly so many bytes and a reset, so does the client; the next passes."""
    proxy.cut_requests(50_000, 1)

    with connection(proxy) as client, pytest.raises(ConnectionResetError):
        post(client, bytes(60_000))

    assert 50_000 == proxy.bytes_to_server
    assert 49_000 < len(shop.bodies.get(timeout=PATIENCE)) < 50_000
    assert isinstance(shop.errors.get(timeout=PATIENCE), ConnectionResetError)
    with connection(proxy) as client:
        assert ANSWER == post(client, bytes(60_000))


def test_a_request_is_cut_before_its_first_byte(proxy: Proxy) -> None:
    """With none to pass, the connection stands until the client sends something."""
    proxy.cut_requests(0, 1)

    with connection(proxy) as client, pytest.raises(ConnectionResetError):
        post(client, b"none")

    assert 0 == proxy.bytes_to_server


def test_a_duplicate_reaches_the_server_byte_for_byte(shop: Shop, proxy: Proxy) -> None:
    """The server gets the same request twice, the client one answer; the next one comes once."""
    body = os.urandom(200_000)
    proxy.duplicate(1)

    with connection(proxy) as client:
        assert ANSWER == post(client, body)
    proxy.wait_for_replay(PATIENCE)
    with connection(proxy) as client:
        assert ANSWER == post(client, b"once")

    assert [body, body, b"once"] == [shop.bodies.get(timeout=PATIENCE) for _ in range(3)]
    assert 2 == proxy.connections
    assert 2 * len(ANSWER) < proxy.bytes_to_client < 3 * len(ANSWER)


def test_a_server_under_tls_refuses_a_replay(
    secure_shop: Shop, secure_proxy: Proxy, trust: ssl.SSLContext
) -> None:
    """The client's half of one handshake fits no other, so the request arrives once."""
    secure_proxy.duplicate(1)

    with connection(secure_proxy, trust=trust) as client:
        assert ANSWER == post(client, b"once")

    secure_proxy.wait_for_replay(PATIENCE)
    assert isinstance(secure_shop.errors.get(timeout=PATIENCE), ssl.SSLError)
    assert b"once" == secure_shop.bodies.get(timeout=PATIENCE)
    assert secure_shop.bodies.empty()


def test_closing_leaves_nothing_behind() -> None:
    """Whatever was going on, no thread, socket or listening port outlives the proxy."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), open_descriptors()

    with serving() as shop, Proxy(shop.place) as proxy:
        proxy.duplicate(1)
        with socket.create_connection(proxy.address, PATIENCE) as idle:
            proxy.delay(3600)
            with socket.create_connection(proxy.address, PATIENCE) as held:
                held.sendall(b"POST")
                proxy.half_open()
                with socket.create_connection(proxy.address, PATIENCE) as swallowed:
                    swallowed.sendall(b"POST")

                    proxy.close()

                    for client in (idle, held, swallowed):
                        with pytest.raises(ConnectionResetError):
                            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address, PATIENCE)

    assert threads == set(threading.enumerate())
    assert descriptors == open_descriptors()
