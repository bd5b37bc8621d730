"""
Baseline: what one writes without Indelible, one SQLite table with five indexes.

Everything stands in clear; nothing proves anything. It commits as often and as
durably as Indelible does, and is given what makes it faster: the same JSON encoder,
one prepared statement for each batch, and a page cache of 64 MiB instead of 2.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from indelible.event import Event

BATCH = 1_000

_SCHEMA = """
CREATE TABLE event (
    number      INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    resource    TEXT NOT NULL,
    session     TEXT,
    event       TEXT NOT NULL
);
CREATE INDEX event_recorded_at ON event (recorded_at);
CREATE INDEX event_actor ON event (actor);
CREATE INDEX event_action ON event (action);
CREATE INDEX event_resource ON event (resource);
CREATE INDEX event_session ON event (session);
"""
_INSERT = (
    "INSERT INTO event (recorded_at, actor, action, resource, session, event)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_encode = msgspec.json.Encoder().encode


class Baseline:
    """The table in the file at *path*, which is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA cache_size=-65536")
        self._connection.executescript(_SCHEMA)

    def record_many(self, events: Sequence[Event]) -> None:
        """Insert *events*, with one sync to disk for each `BATCH`."""
        for start in range(0, len(events), BATCH):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, _rows(events[start : start + BATCH]))
            self._connection.execute("COMMIT")

    def newest(self, column: str, value: str) -> str:
        """Return the newest event that has *value* in *column*."""
        row = self._connection.execute(
            f"SELECT event FROM event WHERE {column} = ? ORDER BY number DESC LIMIT 1",  # noqa: S608
            (value,),
        ).fetchone()
        return str(row[0])

    def close(self) -> None:
        """Close the file, with everything in it and none in its log."""
        self._connection.close()


def _rows(events: Iterable[Event]) -> Iterator[tuple[int, str, str, str, str | None, str]]:
    now = time.time_ns() // 1_000
    for event in events:
        actor, resource = event.actor, event.resource
        yield (
            now,
            f"{actor.type}:{actor.id}",
            event.action,
            f"{resource.type}:{resource.id}",
            event.session,
            _encode(event).decode(),
        )
