"""
The outbox in SQLite.

A claim only reads. Its rows are deleted when their events are in the trail, in a short
transaction, so that the application's writers never wait for the trail; that no other
relay of the trail reads them meanwhile, the trail's lock sees to. SQLite has one writer
at a time, so rows are numbered in the order of their commits.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from indelible.errors import StoreError
from indelible.outbox import TABLE, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    seq integer PRIMARY KEY AUTOINCREMENT,
    body text NOT NULL,
    error text
)"""
"""Makes the table, as the migrations of the adapters do."""

# As bytes: a text that is none must be seen to be none, and hold up no other row.
_CLAIM = f"SELECT seq, CAST(body AS BLOB) FROM {TABLE} WHERE error IS NULL ORDER BY seq LIMIT ?"  # noqa: S608 - names of our own
_DONE = f"DELETE FROM {TABLE} WHERE seq = ?"  # noqa: S608
_QUARANTINE = f"UPDATE {TABLE} SET error = ? WHERE seq = ?"  # noqa: S608
_WAITING = f"""
SELECT count(*) FILTER (WHERE error IS NULL), count(*) FILTER (WHERE error IS NOT NULL),
    (SELECT CAST(body AS BLOB) FROM {TABLE} WHERE error IS NULL ORDER BY seq LIMIT 1)
FROM {TABLE}
"""  # noqa: S608
_QUARANTINED = f"""
SELECT seq, CAST(body AS BLOB), error FROM {TABLE} WHERE error IS NOT NULL ORDER BY seq
"""  # noqa: S608
_RELEASE = f"UPDATE {TABLE} SET error = NULL WHERE error IS NOT NULL"  # noqa: S608


def connector(path: str) -> Callable[[], sqlite3.Connection]:
    """Return what connects to the database in the file at *path*, which is there already."""
    uri = path if path.startswith("file:") else f"file:{_quoted(path)}?mode=rw"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False
        )

    return connect


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


class _Claim:
    def __init__(self, rows: list[tuple[int, str]]) -> None:
        self.rows = rows
        self.refused: dict[int, str] = {}

    def quarantine(self, number: int, error: str) -> None:
        """Put a row aside when the claim ends."""
        self.refused[number] = error


class SqliteOutbox:
    """
    The outbox of a database; see `indelible.outbox.Outbox`.

    Args:
        connect: Returns a new connection in autocommit, for any thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        # Whoever uses one takes it out: threads must not meet in one transaction.
        self._idle: list[sqlite3.Connection] = []

    @contextmanager
    def claim(self, most: int) -> Iterator[_Claim]:
        """Take up to *most* rows; see `indelible.outbox.Outbox.claim`."""
        with self._connected() as connection:
            found = connection.execute(_CLAIM, (most,)).fetchall()
        claim = _Claim([(number, _text(body)) for number, body in found])
        yield claim
        if not claim.rows:
            return
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            done = [(number,) for number, _ in claim.rows if number not in claim.refused]
            connection.executemany(_DONE, done)
            for number, error in claim.refused.items():
                connection.execute(_QUARANTINE, (error, number))
            connection.execute("COMMIT")

    def waiting(self) -> Waiting:
        """Return how much there is."""
        with self._connected() as connection:
            rows, quarantined, oldest = connection.execute(_WAITING).fetchone()
        return Waiting(rows, None if oldest is None else _text(oldest), quarantined)

    def quarantined(self) -> Iterator[tuple[int, str, str]]:
        """Yield number, text and error of each row that was put aside."""
        with self._connected() as connection:
            found = connection.execute(_QUARANTINED).fetchall()
        for number, body, error in found:
            yield number, _text(body), error

    def release(self) -> int:
        """Let the rows that were put aside wait again; return how many."""
        with self._connected() as connection:
            return connection.execute(_RELEASE).rowcount

    def close(self) -> None:
        """Give the connections back."""
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            yield connection
        except BaseException as error:
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()  # with it goes a transaction that is still open
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"outbox: {error}") from error
            raise
        self._idle.append(connection)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")
