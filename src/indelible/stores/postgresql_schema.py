"""
Schema: the tables of the PostgreSQL store, made, checked, brought up to date, opened to roles.

``sql/postgresql.sql`` is what they are; ``sql/postgresql_1.sql`` and those that follow it
are the steps that lead there from nothing, each a transaction of its own.
"""

from __future__ import annotations

from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from indelible.errors import NotATrail, StoreError, UnsupportedVersion
from indelible.stores.postgresql_connections import connect, rows, translated

if TYPE_CHECKING:
    from indelible.stores.postgresql_connections import Connection

VERSION = 5
"""Number of the last migration."""

Right = Literal["read", "ingest", "erase", "keys"]

_sql = files("indelible.stores") / "sql"
_APPLIED = "CREATE TABLE indelible.migration (number integer PRIMARY KEY, applied_at timestamptz)"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('indelible.migrate'))"
_NOTE = "INSERT INTO indelible.migration SELECT %s, statement_timestamp()"


def migrate(url: str) -> int:
    """
    Make the tables where there are none, or bring them up to date; return how many steps it took.

    Raises:
        UnsupportedVersion: A newer version made them.
        StoreError: The database cannot be reached, or its user may not do that.
    """
    with closing(connect(url)) as connection, translated():
        steps = 0
        while _step(connection):
            steps += 1
        return steps


def create(url: str) -> None:
    """
    Make the tables, as they are to be in the end, in a database that has none.

    Raises:
        StoreError: There are some already, or it cannot be reached or changed.
    """
    with closing(connect(url)) as connection, translated(), connection.transaction():
        connection.execute(_LOCK)
        if version_of(connection):
            raise StoreError("store: found tables of a trail already, expected none")
        _run(connection, "postgresql")
        for number in range(1, VERSION + 1):
            connection.execute(_NOTE, (number,))


def check(connection: Connection) -> None:
    """
    Check that the tables are those that this version knows.

    Raises:
        NotATrail: There are none, or older ones.
        UnsupportedVersion: A newer version made them.
    """
    found = version_of(connection)
    refuse_newer(found)
    if found < VERSION:
        raise NotATrail(
            f"store: found tables of layout {found}, expected {VERSION};"
            " `indelible store migrate` brings them up to date"
        )


def version_of(connection: Connection) -> int:
    """Return the number of the last migration that was applied; 0 where there are no tables."""
    if rows(connection, "SELECT to_regclass('indelible.migration') IS NULL")[0][0]:
        return 0
    return int(rows(connection, "SELECT coalesce(max(number), 0) FROM indelible.migration")[0][0])


def grant(url: str, role: str, right: Right) -> None:
    """
    Let a *role* of the server do what one kind of user does, and no more.

    Args:
        right: ``read`` sees the logs, ``ingest`` adds to them, ``erase`` besides takes values
            away, ``keys`` has the keyring.

    Raises:
        StoreError: There is no such role, or it may not be granted.
    """
    text = _text(f"postgresql_{right}")
    with closing(connect(url)) as connection, translated(), connection.transaction():
        connection.execute(sql.SQL(text).format(role=sql.Identifier(role)))


def _step(connection: Connection) -> bool:
    with connection.transaction():
        # Two that migrate at once would take the same step.
        connection.execute(_LOCK)
        found = version_of(connection)
        refuse_newer(found)
        if found == VERSION:
            return False
        _run(connection, f"postgresql_{found + 1}")
        if not found:
            connection.execute(_APPLIED)
        connection.execute(_NOTE, (found + 1,))
    return True


def refuse_newer(found: int) -> None:
    """
    Refuse tables that this version does not know.

    Raises:
        UnsupportedVersion: A newer version made them.
    """
    if found > VERSION:
        raise UnsupportedVersion(
            f"store: found tables of layout {found}, this version of Indelible knows {VERSION};"
            " upgrade it"
        )


def _run(connection: Connection, name: str) -> None:
    connection.execute(_text(name).encode())


def _text(name: str) -> str:
    return (_sql / f"{name}.sql").read_text("utf-8")
