"""A collector in a thread of the test: it keeps the contract, unless it is told not to."""

from __future__ import annotations

import sys
import threading
from base64 import b64encode
from collections import deque
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import msgspec

from indelible.merkle import leaf_hash
from indelible.producer import Conflict, Gap, Held, Producer, admit
from indelible.wire import PROBLEM, Problem, Shipment, ShipmentReceipt, Standing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible import Trail

    Answer = tuple[int, dict[str, str], bytes]
    Fault = Callable[["Request", Callable[[], Answer]], None]

TOKEN = "indelible_0123456789abcdef_secret"  # noqa: S105 - of a test
PREFIX = "/v1/producers/"


class Taker:
    """
    What a collector holds of the logs of *trail*, from `start` to `stop`.

    Attributes:
        faults: What is wrong with the next answers, one each.
        asked: Method and path of each request.
        taken: The entries of each log, by origin.
    """

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self.token = TOKEN
        self.faults: deque[Fault] = deque()
        self.asked: list[tuple[str, str]] = []
        self.shipments: list[Shipment] = []
        self.producers: dict[str, Producer] = {}
        self.held: dict[str, Held] = {}
        self.taken: dict[str, list[bytes]] = {}
        self.came = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Request, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        with trail.store.read() as view:
            for log in view.heads():
                self.enrol(log)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def enrol(self, log: str) -> None:
        """Let the log be a producer."""
        origin = f"{self._trail.origin}/{log}"
        self.producers[origin] = Producer(
            origin=origin,
            key=self._trail.signer(log).verifier.to_text(),
            stream=log,
            enrolled_at=0,
            enrolled_by="alice",
        )
        self.forget(origin)

    def forget(self, origin: str) -> None:
        """Hold nothing of a log, as after a restore from before it came."""
        self.held[origin] = Held()
        self.taken[origin] = []

    def size(self, log: str) -> int:
        """Return how many entries of a log it has."""
        return len(self.taken[f"{self._trail.origin}/{log}"])

    def wait_for(self, log: str, size: int) -> None:
        """Return when it has as many entries of a log."""
        with self.came:
            assert self.came.wait_for(lambda: self.size(log) >= size, 10)

    def standing(self, origin: str) -> Answer:
        """Answer what it has of a log."""
        if origin not in self.producers:
            return refusal(404, "not-found")
        held = self.held[origin]
        return answer(
            Standing(
                origin=origin,
                key=self.producers[origin].key,
                stream="user",
                size=held.size,
                root=b64encode(held.tree.root).decode(),
                promised=held.most_promised,
                enrolled_at="2026-11-24T00:00:00Z",
            )
        )

    def take(self, origin: str, body: bytes) -> Answer:
        """Take a shipment."""
        shipment = msgspec.json.decode(zstd.decompress(body), type=Shipment)
        self.shipments.append(shipment)
        kept = [leaf_hash(entry) for entry in self.taken[origin]]
        try:
            admission = admit(
                self.producers[origin],
                self.held[origin],
                shipment,
                lambda first, last: kept[first:last],
                lambda _: self._trail.policy,
                0,
            )
        except Gap as gap:
            return refusal(409, "gap", expected=gap.expected)
        except Conflict as error:
            return refusal(409, "conflict", str(error))
        assert () == admission.refused
        with self.came:
            self.held[origin] = admission.held
            new = len(admission.entries)
            self.taken[origin] += [bytes(each) for each in shipment.entries][-new:] if new else []
            self.came.notify_all()
        return answer(
            ShipmentReceipt(
                producer=origin,
                size=admission.held.size,
                stream="user",
                log="user",
                checkpoint=f"over {admission.held.size}\n",
            )
        )

    def start(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer no more; whoever connects is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()


class Request(BaseHTTPRequestHandler):
    """One request after the other on a connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def __init__(self, taker: Taker, *args: Any) -> None:
        self._taker = taker
        super().__init__(*args)

    def do_GET(self) -> None:
        """Say how a producer stands."""
        self._answer(lambda origin, _: self._taker.standing(origin))

    def do_POST(self) -> None:
        """Take entries."""
        self._answer(lambda origin, body: self._taker.take(origin.removesuffix("/entries"), body))

    def _answer(self, given: Callable[[str, bytes], Answer]) -> None:
        taker = self._taker
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        taker.asked.append((self.command, self.path))
        assert self.path.startswith(PREFIX)
        origin = unquote(self.path.removeprefix(PREFIX))

        def act() -> Answer:
            if self.headers["authorization"] != f"Bearer {taker.token}":
                return refusal(401, "unauthenticated", "access token: is unknown")
            return given(origin, body)

        if taker.faults:
            taker.faults.popleft()(self, act)
        else:
            self.say(*act())

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self) -> None:
        """End the connection after this."""
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def answer(value: msgspec.Struct) -> Answer:
    """Return a value as an answer."""
    return 200, {"Content-Type": "application/json"}, msgspec.json.encode(value)


def refusal(status: int, kind: str, detail: str = "", *, expected: int | None = None) -> Answer:
    """Return a problem as an answer."""
    problem = Problem(
        type=f"/problems/{kind}",
        title=kind,
        status=status,
        detail=detail,
        expected=expected,
    )
    return status, {"Content-Type": PROBLEM}, msgspec.json.encode(problem)


def says(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Return the fault of one that answers so, and does nothing."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, _: request.say(status, named, body)


def refuses(status: int, kind: str, **headers: str) -> Fault:
    """Return the fault of one that answers with a problem, and does nothing."""
    return says(status, refusal(status, kind, "why it is so")[2], **headers)


def drops_the_request(request: Request, _: Callable[[], Answer]) -> None:
    """Hang up before anything happened."""
    request.hang_up()


def loses_the_answer(request: Request, act: Callable[[], Answer]) -> None:
    """Hang up after it has happened."""
    act()
    request.hang_up()


def breaks_off(request: Request, act: Callable[[], Answer]) -> None:
    """Hang up in the middle of the answer."""
    status, headers, body = act()
    request.say(status, {**headers, "Content-Length": str(len(body) + 9)}, body)
    request.hang_up()


def answers_without_end(request: Request, act: Callable[[], Answer]) -> None:
    """Answer with more than anybody may keep."""
    act()
    request.say(200, {}, b" " * (5 * 1024 * 1024))
    request.hang_up()
