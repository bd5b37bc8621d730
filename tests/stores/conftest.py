"""Real PostgreSQL servers, for the tests of stores."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from indelible.stores.postgresql_schema import create
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_EMPTY = """
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits
        JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'
    LOOP
        EXECUTE 'DROP TABLE ' || name;
    END LOOP;
    TRUNCATE indelible.log, indelible.tail, indelible.tile, indelible.tile_columns,
        indelible.segment, indelible.document, indelible.rotation, indelible.fact;
END
$$
"""


class StoreServer:
    """A server, and databases in it with the tables of a store."""

    def __init__(self, running: Server) -> None:
        self.running = running
        self._empty = running.database()
        create(self._empty)
        self._used = self.store()

    def store(self) -> str:
        """Return the URL of a database with an empty store."""
        return self.copy(self._empty)

    def emptied(self) -> str:
        """
        Return the URL of a database that this returns each time, its store made empty.

        Faster than another one, for who does not mind: nobody else is connected to it.
        """
        with connected(self._used) as connection:
            connection.execute(_EMPTY)
        return self._used

    def copy(self, url: str) -> str:
        """Return the URL of a copy of a database that nobody is connected to."""
        return self.running.database(str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]))


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection beside the store's own, as somebody who has the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def wait_until_somebody(connection: psycopg.Connection[Any], event: str) -> None:
    """Wait until another connection to the server waits for *event*."""
    for _ in range(1_000):
        if connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = %s", (event,)
        ).fetchall():
            return
        connection.execute("SELECT pg_sleep(0.01)")
    raise AssertionError(f"nobody waits for {event}")


@contextmanager
def standby_that_never_comes(url: str) -> Iterator[Callable[[], None]]:
    """Yield what lets each commit wait for a standby from then on, to the end of the block."""

    def begin() -> None:
        with connected(url) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW synchronous_standby_names").fetchone() == ("",):
                connection.execute("SELECT pg_sleep(0.01)")

    try:
        yield begin
    finally:
        with connected(url) as connection:
            # Whatever is still waiting for one would wait here, too.
            connection.execute("SET synchronous_commit = 'local'")
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW synchronous_standby_names").fetchone() != ("",):
                connection.execute("SELECT pg_sleep(0.01)")


@pytest.fixture(scope="session")
def postgresql_16() -> Iterator[StoreServer]:
    """PostgreSQL 16."""
    with server(16) as running:
        yield StoreServer(running)


@pytest.fixture(scope="session")
def postgresql_18() -> Iterator[StoreServer]:
    """PostgreSQL 18."""
    with server(18) as running:
        yield StoreServer(running)
