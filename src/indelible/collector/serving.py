"""
Serving: a collector as a process that listens, with TLS, until it is told to stop.

One process supervises, others answer and have the trail open. One that dies is begun anew;
nothing that was acknowledged depends on it.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import threading
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Any

import msgspec
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from indelible import trail
from indelible.collector.app import create_app
from indelible.collector.metrics import SHARED
from indelible.collector.state import Collector, Settings
from indelible.errors import CallerError
from indelible.wire import is_this_machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar import Litestar

_ENVIRONMENT = "_INDELIBLE_SERVING"
"""Hands the worker what it is to serve; set by this module alone."""

_HEADERS_WITHIN = 10_000
"""Milliseconds within which the head of a request has to be there."""

_AT_ONCE = 512
_LOOK_AGAIN = 0.02
_GRACE = 20


class Serving(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is served, and where.

    Attributes:
        directory: Of the trail: its keys, and its store if that is not elsewhere.
        store: URL of a PostgreSQL database that the trail's logs are in.
        origin: Of a trail that is made; by default, of this host's name.
        certificate, key: PEM files; without them there is only plain HTTP, on loopback.
        client_ca: PEM file: whoever comes without a certificate of these is turned away.
        workers: How many processes answer; each has the trail open.
    """

    directory: str
    store: str | None = None
    origin: str | None = None
    host: str = "127.0.0.1"
    port: int = 8443
    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    workers: int = 1
    settings: Settings = Settings()

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}"


def serve(serving: Serving) -> None:
    """
    Answer requests until SIGTERM or SIGINT, then end what is under way.

    Raises:
        CallerError: There is no certificate, and others than this machine could listen in.
        IndelibleError: The trail cannot be opened.
    """
    _check(serving)
    # What is wrong with the trail is said here, in one line, and not by each worker.
    open_trail(serving.directory, serving.store, serving.origin).close()
    os.environ[_ENVIRONMENT] = msgspec.json.encode(serving).decode()
    # Each worker is a process of its own from the beginning: what this one holds stays here.
    multiprocessing.set_start_method("spawn", force=True)
    with ExitStack() as stack:
        if serving.workers > 1:
            # Whichever of them is asked answers for all.
            os.environ[SHARED] = stack.enter_context(TemporaryDirectory(prefix="indelible-"))
        Granian(f"{__name__}:application", factory=True, **_options(serving)).serve()


def _options(serving: Serving) -> dict[str, Any]:
    return {
        "interface": Interfaces.ASGI,
        "address": serving.host,
        "port": serving.port,
        "workers": serving.workers,
        "http": HTTPModes.auto,
        "websockets": False,
        "backpressure": _AT_ONCE,
        "http1_settings": HTTP1Settings(header_read_timeout=_HEADERS_WITHIN),
        "http2_settings": HTTP2Settings(
            max_concurrent_streams=100, keep_alive_interval=20_000, max_headers_size=64 * 1024
        ),
        "log_level": LogLevels.warning,
        "ssl_cert": _path(serving.certificate),
        "ssl_key": _path(serving.key),
        "ssl_ca": _path(serving.client_ca),
        "ssl_client_verify": serving.client_ca is not None,
        "respawn_failed_workers": True,
        "workers_kill_timeout": _GRACE,
    }


def _check(serving: Serving) -> None:
    if (serving.certificate is None) != (serving.key is None):
        raise CallerError("--tls-cert and --tls-key: found one without the other")
    if serving.certificate is None:
        if serving.client_ca is not None:
            raise CallerError("--client-ca: found no --tls-cert, without which there is no TLS")
        if not is_this_machine(serving.host):
            raise CallerError(
                f"--tls-cert: found none, expected one to listen on {serving.host}: without TLS"
                " a collector is for this machine alone"
            )


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def application() -> Litestar:
    """Return the application of this worker, as its parent has described it."""
    serving = msgspec.json.decode(os.environ[_ENVIRONMENT], type=Serving)
    opened = open_trail(serving.directory, serving.store, serving.origin)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        announcing = threading.Thread(
            target=_announce, args=(serving, opened.origin), name="indelible-ready", daemon=True
        )
        announcing.start()
        yield
        opened.close()

    return create_app(Collector(opened, serving.settings), lifespan=[lifespan])


def _announce(serving: Serving, origin: str) -> None:
    """Say where requests are answered, once they are: it listens after the application began."""
    while True:
        try:
            socket.create_connection((serving.host, serving.port), timeout=1).close()
        except OSError:
            sleep(_LOOK_AGAIN)
        else:
            break
    sys.stdout.write(f"indelible: {origin} answers at {serving.url}\n")
    sys.stdout.flush()


def open_trail(directory: str, store: str | None, origin: str | None = None) -> trail.Trail:
    """
    Open the trail of a collector; where there is none, it is made.

    Raises:
        IndelibleError: As `indelible.open`.
    """
    from indelible.document import for_collector  # noqa: PLC0415 - reads TOML

    more: dict[str, Any] = {} if store is None else {"store": store}
    path = Path(directory)
    made = not (path / "trail.json").exists()
    return trail.open(path, origin=origin, policy=for_collector() if made else None, **more)
