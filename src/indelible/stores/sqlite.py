"""
SQLite store: a trail in one directory, for one machine and several processes.

::

    head.db                  the only file that promises rest on (WAL, synchronous=FULL)
    mark                     high-water mark, see `indelible.mark`
    writer.lock              held by the one who writes
    closing.lock             held by the one who builds segments
    segments/user/000000     closed segments, immutable
    segments/user/000001-012 one of which 12 tiles were purged: only their hashes are left
    vault/user/000000        what is kept of their committed values, until it is forgotten

Closing a segment builds its file aside and syncs it; one transaction on ``head.db``
then registers it and drops the rows that it replaces. A file that is not
registered means nothing and is built again. A purge first moves the log's first index
in ``head.db``; from then on nobody finds the entries. Then files are built without them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import weakref
from array import array
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.durable import sync_directory
from indelible.errors import (
    Damaged,
    NotATrail,
    Purged,
    StoreError,
    StoreReadOnly,
    UnsupportedFileSystem,
    UnsupportedVersion,
    WriteUncertain,
)
from indelible.mark import Mark
from indelible.merkle import HASH_SIZE, Edge, subtree_root
from indelible.segment import (
    BLOCK,
    NOTHING,
    SEGMENT,
    SEGMENTS_LEVEL,
    TILE,
    TILES_LEVEL,
    Columns,
    Filter,
    Lookups,
    Postings,
    Segment,
    Span,
    find_fingerprint,
    find_in_columns,
    pack_block,
    unpack_block,
)
from indelible.store import Forgotten, Head, Stored, Tile, Wanted, Work
from indelible.stores import sqlite_keyring  # noqa: F401 - see the end of this module
from indelible.stores.rows import SPANS, join_spans, key_of, row_of, segment_from_row, span_columns
from indelible.stores.sqlite_build import build, build_aside, rebuild, sweep
from indelible.stores.sqlite_layout import (
    connect,
    schema,
    segment_path,
    store_error,
    translated,
    truncate_wal,
)
from indelible.stores.sqlite_vault import VaultFiles, forget_in_file
from indelible.terms import FEW_VALUES, LOOKUPS, field_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from indelible.store import Batch

VERSION = 1
"""Of the files' layout, as ``user_version`` of ``head.db``."""

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}
    | {"ncpfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs"}
    | {"fuse.juicefs", "virtiofs", "vboxsf"}
)
_OPEN_SEGMENTS = 256
_AT_ONCE = 500
"""Most values that one statement is given."""


class SqliteStore:
    """
    The store in the directory at *path*; implements `indelible.store.Store`.

    Args:
        create: Make the files, in a directory that exists.
        aside: Build the files of segments in a process of its own.

    Raises:
        NotATrail: There is no store in the directory.
        UnsupportedVersion: A newer version wrote it.
        UnsupportedFileSystem: It lies on a network file system.
        StoreError: The files cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False, aside: bool = False) -> None:
        self.path = path
        self._build = build_aside if aside else build
        check_file_system(path)
        self._writing = threading.Lock()
        self._building = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._readers = _Readers(path / "head.db")
        self._segment_files = _SegmentFiles(path)
        self._vault_files = VaultFiles(path)
        self._segments: dict[str, list[Segment]] = {}
        self._mark = Mark(path / "mark")
        with _opening:
            _stores.add(self)
        if create:
            with self._writing:
                self._create()
        elif not (path / "head.db").is_file():
            raise NotATrail(f"{path}: holds no head.db")
        with self._readers.connection() as connection:
            _check_version(connection)

    @contextmanager
    def write(self) -> Iterator[_Transaction]:
        """Begin the one transaction that writes; see `indelible.store.Store.write`."""
        with self._writing, self._locked():
            connection = self._writing_connection()
            with translated():
                connection.execute("BEGIN IMMEDIATE")
            try:
                with translated():
                    _check_version(connection)
                    transaction = _Transaction(connection)
                    yield transaction
            except BaseException:
                _roll_back(connection)
                raise
            # Crash before this line: nothing happened. Crash after it: everything
            # did, and nobody was told; the next start finds the entries.
            _commit(connection)
            heads = transaction.heads()
            # Crash here: the mark is one commit behind, which only notices less.
            with suppress(OSError):
                self._mark.write(heads)

    @contextmanager
    def read(self) -> Iterator[_View]:
        """Look at one state of the store; see `indelible.store.Store.read`."""
        with self._readers.connection() as connection, translated():
            connection.execute("BEGIN")
            try:
                yield _View(self, connection)
            except Damaged as error:
                with self._readers.connection() as later:
                    if _purges(later) == _purges(connection):
                        raise
                # Files that this view reads from may be gone, and rightly so.
                raise StoreError(
                    f"store: entries were purged while this was read; repeat it ({error})"
                ) from error
            finally:
                _roll_back(connection)

    def close_segments(self) -> Iterator[Segment]:
        """Build the files of complete segments; see `indelible.store.Store.close_segments`."""
        while True:
            with self._readers.connection() as connection, translated():
                due = _first_due(connection)
            if due is None:
                return
            with _try_lock(self.path / "closing.lock") as locked:
                if not locked:
                    return
                # Another process may have closed it since.
                with self._readers.connection() as connection, translated():
                    if due != _first_due(connection):
                        continue
                with self._building, translated():
                    segment = self._build(self.path, *due)
                yield segment

    def purge_segments(self) -> Iterator[Segment]:
        """Build segments without what was purged; see `indelible.store.Store.purge_segments`."""
        damaged: list[Damaged] = []
        # Nobody may build or register a segment meanwhile.
        with _lock(self.path / "closing.lock"):
            purged, due = self._to_purge()
            for segment, tiles in due:
                try:
                    with self._building, translated():
                        rebuilt = rebuild(self.path, segment, tiles)
                except Damaged as error:
                    damaged.append(error)
                    continue
                yield rebuilt
                # Crash here, or anywhere above: both files are there, and the manifest
                # names one of them. The other is removed by whoever comes here next.
                self._sweep(segment.log, purged[segment.log])
            for log, first in purged.items():
                self._sweep(log, first)
            if purged:
                with self._writing, self._locked(), translated():
                    truncate_wal(self._writing_connection())
        if damaged:
            raise damaged[0]

    def _to_purge(self) -> tuple[dict[str, int], list[tuple[Segment, int]]]:
        """Return where logs that were purged begin, and how many tiles segments are to lose."""
        with self.read() as view:
            purged = {log: head.first for log, head in view.heads().items() if head.first}
            return purged, [
                (segment, tiles)
                for log, first in purged.items()
                for segment in view.segments(log)
                if segment.purged < (tiles := segment.tiles_before(first))
            ]

    def _sweep(self, log: str, first: int) -> None:
        with self.read() as view:
            closed = {segment.number: segment.purged for segment in view.segments(log)}
        self._segment_files.close()
        self._vault_files.close()
        with self._building, translated():
            sweep(self.path, log, first, closed)

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """Leave of *entries* only what is said; see `indelible.store.Store.forget`."""
        # Nobody may move rows from the head to a vault file meanwhile.
        with self._building, _lock(self.path / "closing.lock"):
            with self.write() as transaction:
                closed = transaction.forget(entries)
            # Crash here, or between two files: some entries are forgotten; who repeats
            # the call finds those done already, and does the others.
            filters = {
                (log, number): forget_in_file(self.path, log, number, forgotten)
                for (log, number), forgotten in closed.items()
            }
            if filters:
                with self.write() as transaction:
                    transaction.refilter(filters)
            with self.read() as view, translated():
                for log in entries:
                    # What a crash has left of a segment that was being closed has them, too.
                    closed_now = {each.number: each.purged for each in view.segments(log)}
                    sweep(self.path, log, view.heads()[log].size, closed_now)
            self._segments.clear()
            self._vault_files.close()
            with self._writing, self._locked(), translated():
                truncate_wal(self._writing_connection())

    def mark(self) -> Mark:
        """Return the high-water mark beside this store."""
        return self._mark

    def segment_path(self, segment: Segment) -> Path:
        """Return where the file of a closed segment is."""
        return segment_path(self.path, segment.log, segment.number, segment.purged)

    def backup(self, target: Path) -> None:
        """
        Copy the head as it is now into the new file *target*, while others write.

        Raises:
            StoreError: It cannot be written.
        """
        with self._readers.connection() as connection, translated():
            copy = sqlite3.connect(target)
            try:
                connection.backup(copy, pages=-1)
                copy.execute("PRAGMA journal_mode=DELETE")
            finally:
                copy.close()

    def close(self) -> None:
        """Give back connections and files."""
        with self._writing:
            self._close_writer()
        self._readers.close()
        self._segment_files.close()
        self._vault_files.close()
        _stores.discard(self)

    def _create(self) -> None:
        with translated():
            # Before SQLite does, which would let others read; what it puts beside the
            # head has the head's permissions.
            os.close(os.open(self.path / "head.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = connect(self.path / "head.db")
            try:
                connection.execute("BEGIN EXCLUSIVE")
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in schema("head"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
        (self.path / "segments").mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # flock hands the lock over at once; SQLite's own busy handler sleeps and
        # is unfair to those who wait longest.
        if self._lock_file is None:
            with translated():
                self._lock_file = os.open(
                    self.path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _writing_connection(self) -> sqlite3.Connection:
        if self._writer is not None and self._writer.in_transaction:
            # It could not even roll back, so it can do nothing else.
            self._writer.close()
            self._writer = None
        if self._writer is None:
            with translated():
                if not os.access(self.path / "head.db", os.W_OK):
                    raise StoreReadOnly(f"{self.path}: head.db may not be written")
                self._writer = connect(self.path / "head.db")
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _closed(
        self, connection: sqlite3.Connection, log: str, number: int, first: int
    ) -> list[Segment]:
        """Return the closed segments of a log; those known before are not read again."""
        known = self._segments.get(log, [])
        if first:
            # These alone may have become others: since, or after this view began.
            purged = [
                tiles
                for (tiles,) in connection.execute(
                    "SELECT purged FROM segment WHERE key >= ? AND key < ? ORDER BY key",
                    (key_of(number, 0), key_of(number, -(-first // SEGMENT))),
                )
            ]
            if purged[: len(known)] != [segment.purged for segment in known[: len(purged)]]:
                known = []
        fresh = [
            segment_from_row(log, row)
            for row in connection.execute(
                "SELECT key, root, file_hash, file_size, purged, counts, filter,"  # noqa: S608
                f" lookups, {SPANS}"
                " FROM segment WHERE key >= ? AND key < ? ORDER BY key",
                (key_of(number, len(known)), key_of(number + 1, 0)),
            )
        ]
        if fresh:
            known = known + fresh
            self._segments[log] = known
        return known

    def before_fork(self) -> None:
        """Let what is under way end, and hold no connection: SQLite's do not survive a fork."""
        self._building.acquire()
        self._writing.acquire()
        self._close_writer()
        self._readers.before_fork()
        self._segment_files.before_fork()
        self._vault_files.before_fork()

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        self._vault_files.after_fork()
        self._segment_files.after_fork()
        self._readers.after_fork()
        self._writing.release()
        self._building.release()


class _Transaction:
    """Implements `indelible.store.Transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers, self._heads = _read_heads(connection)

    def heads(self) -> Mapping[str, Head]:
        return self._heads

    def leaf(self, log: str, index: int) -> bytes:
        number = self._numbers[log]
        row = self._connection.execute(
            "SELECT key, leaves FROM tail WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1",
            (key_of(number, index - index % TILE), key_of(number, index)),
        ).fetchone()
        if row is not None:
            return _hash(row[1], index - row_of(row[0]))
        row = self._connection.execute(
            "SELECT leaves FROM tile WHERE key = ?", (key_of(number, index // TILE),)
        ).fetchone()
        if row is None:
            raise StoreError(f"log {log}: entry {index} is in no open tile")
        return _hash(row[0], index % TILE)

    def create(self, head: Head) -> None:
        self._connection.execute(
            "INSERT INTO log (name, origin, size, edge, last_leaf, recorded_at, checkpoint)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (head.log, head.origin, *_head_columns(head)),
        )
        self._numbers, self._heads = _read_heads(self._connection)

    def append(self, batch: Batch) -> None:
        head = batch.head
        number = self._numbers[head.log]
        roots = iter(batch.tile_roots)
        done, total = 0, len(batch.bodies)
        while done < total:
            place = (batch.first + done) % TILE
            count = min(TILE - place, total - done)
            part = _Rows.of(batch, done, done + count)
            if place + count == TILE:
                if place:
                    part = self._take_tail(number, batch.first + done - place, part)
                self._add_tile(number, (batch.first + done) // TILE, part, next(roots))
            else:
                self._connection.execute(
                    "INSERT INTO tail VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        key_of(number, batch.first + done),
                        count,
                        *part.spans,
                        part.columns.to_bytes(),
                        part.lookups.to_bytes(),
                        part.leaves,
                        b"\n".join(part.bodies),
                    ),
                )
            done += count
        if batch.rows:
            first = key_of(number, batch.first)
            self._connection.executemany(
                "INSERT INTO vault VALUES (?, ?)",
                [(first + place, row) for place, row in enumerate(batch.rows) if row],
            )
        self._move(head)

    def add_document(self, data: bytes) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO document VALUES (?, ?)", (sha256(data).digest(), data)
        )

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return _fact(self._connection, kind, key)

    def put(self, kind: str, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._connection.execute("DELETE FROM fact WHERE kind = ? AND key = ?", (kind, key))
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", (kind, key, value)
            )

    def purge(self, log: str, first: int) -> None:
        head = self._heads[log].without(first)
        number, tile = self._numbers[log], first // TILE
        self._connection.execute("UPDATE log SET first = ? WHERE number = ?", (first, number))
        for table, width in (("block", BLOCK), ("vault", 1)):
            self._connection.execute(
                f"DELETE FROM {table} WHERE key >= ? AND key < ?",  # noqa: S608
                (key_of(number, 0), key_of(number, first // width)),
            )
        spans = ", ".join(f"{column} = ?" for column in SPANS.split(", "))
        self._connection.execute(
            f"UPDATE tile SET {spans}, columns = x'', lookups = x''"  # noqa: S608
            " WHERE key >= ? AND key < ?",
            (*span_columns(NOTHING, NOTHING, NOTHING), key_of(number, 0), key_of(number, tile)),
        )
        self._heads = {**self._heads, log: head}

    def forget(
        self, entries: Mapping[str, Mapping[int, Forgotten]]
    ) -> dict[tuple[str, int], dict[int, Forgotten]]:
        """Forget what is in the head; return the rest by log and segment, then by place."""
        closed: dict[tuple[str, int], dict[int, Forgotten]] = {}
        for log, forgotten in entries.items():
            number = self._numbers[log]
            (segments,) = self._connection.execute(
                "SELECT COUNT(*) FROM segment WHERE key >= ? AND key < ?",
                (key_of(number, 0), key_of(number + 1, 0)),
            ).fetchone()
            rows: dict[tuple[str, int], dict[int, Forgotten]] = {}
            for index, left in forgotten.items():
                if index < segments * SEGMENT:
                    closed.setdefault((log, index // SEGMENT), {})[index % SEGMENT] = left
                    continue
                key = key_of(number, index)
                if left.row:
                    self._connection.execute(
                        "UPDATE vault SET row = ? WHERE key = ?", (left.row, key)
                    )
                else:
                    self._connection.execute("DELETE FROM vault WHERE key = ?", (key,))
                if left.lookups:
                    rows.setdefault(self._row_of(number, index), {})[index] = left
            for row, those in rows.items():
                self._forget_lookups(row, those)
        return closed

    def _row_of(self, number: int, index: int) -> tuple[str, int]:
        """Return table and key of the row that has the columns of an open entry."""
        key = key_of(number, index // TILE)
        if self._connection.execute("SELECT 1 FROM tile WHERE key = ?", (key,)).fetchone():
            return "tile", key
        (key,) = self._connection.execute(
            "SELECT MAX(key) FROM tail WHERE key <= ?", (key_of(number, index),)
        ).fetchone()
        return "tail", key

    def _forget_lookups(self, row: tuple[str, int], forgotten: Mapping[int, Forgotten]) -> None:
        table, key = row
        width, entries = (TILE, str(TILE)) if table == "tile" else (1, "entries")
        first = row_of(key) * width
        count, data = self._connection.execute(
            f"SELECT {entries}, lookups FROM {table} WHERE key = ?",  # noqa: S608
            (key,),
        ).fetchone()
        left = Lookups.from_bytes(count, data).without(
            {index - first: each.lookups for index, each in forgotten.items()}
        )
        self._connection.execute(
            f"UPDATE {table} SET lookups = ? WHERE key = ?",  # noqa: S608
            (left.to_bytes(), key),
        )

    def refilter(self, filters: Mapping[tuple[str, int], bytes | None]) -> None:
        """Let the manifest say which lookups are left in some vault files."""
        for (log, segment), data in filters.items():
            self._connection.execute(
                "UPDATE segment SET lookups = ? WHERE key = ?",
                (data or b"", key_of(self._numbers[log], segment)),
            )

    def rotate(self, log: str, note: bytes, checkpoint: bytes) -> None:
        head = self._heads[log]
        number = self._numbers[log]
        self._connection.execute(
            "INSERT INTO rotation SELECT ? + COUNT(*), ? FROM rotation WHERE key >= ? AND key < ?",
            (key_of(number, 0), note, key_of(number, 0), key_of(number + 1, 0)),
        )
        self._move(replace(head, checkpoint=checkpoint))

    def register(self, segment: Segment) -> None:
        number = self._numbers[segment.log]
        key = key_of(number, segment.number)
        self._connection.execute(
            "DELETE FROM segment WHERE key = ? AND purged < ?", (key, segment.purged)
        )
        self._connection.execute(
            "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                segment.purged,
                *span_columns(segment.recorded, segment.occurred, segment.id_times),
                segment.root,
                segment.file_hash,
                segment.file_size,
                msgspec.msgpack.encode(segment.counts),
                segment.filter,
                segment.lookups,
            ),
        )
        for table, width in (("tile", TILE), ("block", BLOCK), ("vault", 1)):
            first = segment.first // width
            self._connection.execute(
                f"DELETE FROM {table} WHERE key >= ? AND key < ?",  # noqa: S608
                (key_of(number, first), key_of(number, first + SEGMENT // width)),
            )

    def _move(self, head: Head) -> None:
        self._connection.execute(
            "UPDATE log SET size = ?, edge = ?, last_leaf = ?, recorded_at = ?, checkpoint = ?"
            " WHERE number = ?",
            (*_head_columns(head), self._numbers[head.log]),
        )
        self._heads = {**self._heads, head.log: head}

    def _take_tail(self, number: int, first: int, part: _Rows) -> _Rows:
        keys = (key_of(number, first), key_of(number, first + TILE))
        rows = self._connection.execute(
            f"SELECT entries, columns, lookups, leaves, bodies, {SPANS} FROM tail"  # noqa: S608
            " WHERE key >= ? AND key < ? ORDER BY key",
            keys,
        ).fetchall()
        self._connection.execute("DELETE FROM tail WHERE key >= ? AND key < ?", keys)
        return _Rows.joined([*map(_Rows.from_row, rows), part])

    def _add_tile(self, number: int, tile: int, rows: _Rows, root: bytes) -> None:
        self._connection.execute(
            "INSERT INTO tile VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key_of(number, tile),
                *rows.spans,
                root,
                rows.columns.to_bytes(),
                rows.lookups.to_bytes(),
                rows.leaves,
            ),
        )
        per_tile = TILE // BLOCK
        self._connection.executemany(
            "INSERT INTO block VALUES (?, ?)",
            [
                (
                    key_of(number, tile * per_tile + block),
                    pack_block(rows.bodies[block * BLOCK : block * BLOCK + BLOCK]),
                )
                for block in range(per_tile)
            ],
        )


class _Rows:
    """Some consecutive entries on their way into a row."""

    __slots__ = ("bodies", "columns", "leaves", "lookups", "spans")

    def __init__(
        self,
        bodies: Sequence[bytes],
        leaves: bytes,
        columns: Columns,
        lookups: Lookups,
        spans: tuple[int, ...],
    ) -> None:
        self.bodies, self.leaves, self.columns, self.spans = bodies, leaves, columns, spans
        self.lookups = lookups

    @classmethod
    def of(cls, batch: Batch, start: int, end: int) -> _Rows:
        terms = batch.terms[start:end]
        return cls(
            batch.bodies[start:end],
            b"".join(batch.leaves[start:end]),
            Columns.of(terms),
            Lookups.of([entry.lookups for entry in terms]),
            span_columns(
                Span(batch.head.recorded_at, batch.head.recorded_at),
                Span.of([entry.occurred_at for entry in terms]),
                Span.of([entry.id_time for entry in terms]),
            ),
        )

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> _Rows:
        entries, columns, lookups, leaves, bodies, *spans = row
        return cls(
            bodies.split(b"\n"),
            leaves,
            Columns.from_bytes(entries, columns),
            Lookups.from_bytes(entries, lookups),
            tuple(spans),
        )

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        return cls(
            [body for part in parts for body in part.bodies],
            b"".join(part.leaves for part in parts),
            Columns.joined([part.columns for part in parts]),
            Lookups.joined([part.lookups for part in parts]),
            join_spans([part.spans for part in parts]),
        )


class _View:
    """Implements `indelible.store.View`."""

    def __init__(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        self.work = Work()
        self._store = store
        self._connection = connection
        self._numbers, self._heads = _read_heads(connection)
        self._segments: dict[str, Sequence[Segment]] = {}
        self._tile_leaves: dict[tuple[str, int], bytes] = {}
        self._tile_roots: dict[tuple[str, int], list[bytes]] = {}

    def heads(self) -> Mapping[str, Head]:
        return self._heads

    def rotations(self, log: str) -> list[bytes]:
        number = self._numbers[log]
        return [
            row[0]
            for row in self._connection.execute(
                "SELECT note FROM rotation WHERE key >= ? AND key < ? ORDER BY key",
                (key_of(number, 0), key_of(number + 1, 0)),
            )
        ]

    def segments(self, log: str) -> Sequence[Segment]:
        closed = self._segments.get(log)
        if closed is None:
            closed = self._segments[log] = self._closed(log)
        return closed

    def _closed(self, log: str) -> Sequence[Segment]:
        first = self._heads[log].first
        return self._store._closed(  # noqa: SLF001 - a view is a part of its store
            self._connection, log, self._numbers[log], first
        )

    def stored(self, log: str, indexes: Sequence[int]) -> list[Stored]:
        bodies: dict[int, list[bytes]] = {}
        found = []
        first = self._heads[log].first
        for index in indexes:
            if index < first:
                raise Purged(log, index)
            block = index // BLOCK
            if block not in bodies:
                bodies[block] = self._block(log, block)
            body = bodies[block]
            if index % BLOCK >= len(body):
                raise Damaged(f"log {log}: block {block} holds {len(body)} bodies, not {index}")
            found.append(
                Stored(
                    index=index,
                    previous=self._leaf(log, index - 1),
                    body=body[index % BLOCK],
                    leaf=self._leaf(log, index),
                )
            )
        return found

    def rows(self, log: str, indexes: Sequence[int]) -> list[bytes]:
        found: dict[int, bytes] = {}
        by_segment: dict[int | None, list[int]] = {}
        kept = self._heads[log].first
        for index in [each for each in indexes if each >= kept]:
            segment = self._segment_of(log, index)
            by_segment.setdefault(None if segment is None else segment.number, []).append(index)
        for number, those in by_segment.items():
            if number is None:
                first = key_of(self._numbers[log], 0)
                for key, row in self._select_rows(
                    self._connection, "key", [first + index for index in those]
                ):
                    found[row_of(key)] = row
                continue
            start = number * SEGMENT
            # What cannot be read is missing, which is an alarm by itself.
            with suppress(Damaged), self._vault_file(log, number) as file:
                if file is not None:
                    for place, row in self._select_rows(
                        file, "place", [index - start for index in those]
                    ):
                        found[start + place] = row
        return [found.get(index, b"") for index in indexes]

    @staticmethod
    def _select_rows(
        connection: sqlite3.Connection, column: str, keys: Sequence[int]
    ) -> Iterator[tuple[int, bytes]]:
        for at in range(0, len(keys), _AT_ONCE):
            part = keys[at : at + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            yield from connection.execute(
                f"SELECT {column}, row FROM vault WHERE {column} IN ({marks})",  # noqa: S608
                part,
            )

    @contextmanager
    def _vault_file(self, log: str, number: int) -> Iterator[sqlite3.Connection | None]:
        with self._store._vault_files.opened(log, number) as file:  # noqa: SLF001 - as `_open`
            yield file

    def lookups(self, log: str, first: int, last: int) -> Iterator[tuple[int, Sequence[int]]]:
        first = max(first, self._heads[log].first)
        for segment in self.segments(log):
            if segment.first >= last or segment.first + SEGMENT <= first or not segment.lookups:
                continue
            found: dict[int, list[int]] = {}
            for lookup, places in self._vault_postings(segment):
                for place in places:
                    found.setdefault(segment.first + place, []).append(lookup)
            yield from ((i, found[i]) for i in sorted(found) if first <= i < last)
        for start, entries, _, data in self._open_rows(log, first=first, last=last):
            if not data:
                continue
            lookups, at = Lookups.from_bytes(entries, data), 0
            for index, count in enumerate(lookups.counts, start):
                if count and first <= index < last:
                    yield index, lookups.terms[at : at + count]
                at += count

    def _vault_postings(self, segment: Segment) -> list[tuple[int, Sequence[int]]]:
        with self._vault_file(segment.log, segment.number) as file:
            pages = (
                []
                if file is None
                else file.execute("SELECT page FROM posting ORDER BY least_term").fetchall()
            )
        return [found for (page,) in pages for found in Postings.read(page)]

    def document(self, digest: bytes) -> bytes | None:
        row = self._connection.execute(
            "SELECT data FROM document WHERE digest = ?", (digest,)
        ).fetchone()
        return None if row is None else row[0]

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return _fact(self._connection, kind, key)

    def facts(
        self, kind: str, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from self._connection.execute(
            "SELECT key, value FROM fact WHERE kind = ? AND key >= ?"
            " AND (? IS NULL OR key < ?) ORDER BY key",
            (kind, first, last, last),
        )

    def tiles(self, log: str, first: int, last: int) -> Iterator[Tile]:
        last, kept = min(last, self._heads[log].size), self._heads[log].first
        previous = self._leaf(log, first - 1)
        for segment in self.segments(log):
            if segment.first >= last or segment.first + SEGMENT <= first:
                continue
            with self._open(segment) as file:
                tiles = range(
                    max(first, segment.first) // TILE % TILE,
                    (min(last, segment.first + SEGMENT) - segment.first + TILE - 1) // TILE,
                )
                for tile in tiles:
                    row = file.execute(
                        "SELECT root, hashes FROM tile JOIN leaves USING (number) WHERE number = ?",
                        (tile,),
                    ).fetchone()
                    start = segment.first + tile * TILE
                    if row is not None and start < kept:
                        yield _purged_tile(start, previous, row[1], row[0])
                        previous = row[1][-HASH_SIZE:]
                        continue
                    blocks = file.execute(
                        "SELECT data FROM block WHERE number >= ? AND number < ? ORDER BY number",
                        (tile * (TILE // BLOCK), (tile + 1) * (TILE // BLOCK)),
                    ).fetchall()
                    if row is None or len(blocks) != TILE // BLOCK:
                        raise Damaged(f"{_name(segment)}: tile {tile} is not whole")
                    try:
                        bodies = [body for (data,) in blocks for body in unpack_block(data)]
                    except Damaged as error:
                        raise Damaged(f"{_name(segment)}: tile {tile}: {error}") from error
                    yield Tile(
                        first=start,
                        previous=previous,
                        bodies=bodies,
                        leaves=row[1],
                        root=row[0],
                        columns=None,
                    )
                    previous = row[1][-HASH_SIZE:]
        closed = len(self.segments(log)) * SEGMENT
        for start in range(max(first, closed), last, TILE):
            blocks_of_tile = range(start // BLOCK, -(-min(start + TILE, last) // BLOCK))
            leaves = self._leaves_of_tile(log, start // TILE)
            if start < kept:
                yield _purged_tile(start, previous, leaves, self._open_root(log, start // TILE))
                previous = leaves[-HASH_SIZE:]
                continue
            yield Tile(
                first=start,
                previous=previous,
                bodies=[body for block in blocks_of_tile for body in self._block(log, block)],
                leaves=leaves,
                root=self._open_root(log, start // TILE),
                columns=self._open_columns(log, start),
            )
            previous = leaves[-HASH_SIZE:]

    def _open_root(self, log: str, tile: int) -> bytes | None:
        row = self._connection.execute(
            "SELECT root FROM tile WHERE key = ?", (key_of(self._numbers[log], tile),)
        ).fetchone()
        return None if row is None else row[0]

    def _open_columns(self, log: str, first: int) -> Columns:
        return Columns.joined(
            [
                Columns.from_bytes(entries, columns)
                for _, entries, columns, _ in self._open_rows(log, first=first, last=first + TILE)
            ]
        )

    def leaves(self, log: str, first: int, last: int) -> list[bytes]:
        joined = b"".join(
            self._leaves_of_tile(log, tile) for tile in range(first // TILE, -(-last // TILE))
        )
        start = first % TILE
        return [_hash(joined, place) for place in range(start, start + last - first)]

    def node(self, log: str, level: int, index: int) -> bytes:
        if level < TILES_LEVEL:
            first = index << level
            return subtree_root(self.leaves(log, first, first + (1 << level)))
        # A closed segment's own root stands in the manifest: its file may be damaged or
        # gone, and what lies outside of it is recorded and proven all the same.
        if level < SEGMENTS_LEVEL:
            per_segment = SEGMENTS_LEVEL - TILES_LEVEL
            first = index << (level - TILES_LEVEL)
            roots = self._roots_of_tiles(log, first >> per_segment)
            start = first % TILE
            return subtree_root(roots[start : start + (1 << (level - TILES_LEVEL))])
        width = level - SEGMENTS_LEVEL
        return subtree_root(
            [self._segment_root(log, n) for n in range(index << width, index + 1 << width)]
        )

    def candidates(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        first = max(first, self._heads[log].first)
        parts: list[Iterable[int]] = [
            self._in_segments(log, wanted, first, last, newest_first=newest_first),
            self._in_open_rows(log, wanted, first, last, newest_first=newest_first),
        ]
        for part in reversed(parts) if newest_first else parts:
            yield from part

    def with_ids(
        self, log: str, fingerprints: frozenset[int], times: tuple[int, int]
    ) -> Iterator[int]:
        kept = self._heads[log].first
        for segment in self.segments(log):
            if not segment.id_times.meets(*times) or segment.first + SEGMENT <= kept:
                continue
            with self._open(segment) as file:
                rows = file.execute(
                    "SELECT number, ids FROM tile WHERE id_time_least < ? AND id_time_most >= ?",
                    (times[1], times[0]),
                ).fetchall()
            for number, ids in rows:
                start = segment.first + number * TILE
                for index, found in enumerate(array("I", ids), start):
                    if found in fingerprints and index >= kept:
                        yield index
        number = self._numbers[log]
        for table, entries, width in (("tile", str(TILE), TILE), ("tail", "entries", 1)):
            for key, count, columns in self._connection.execute(
                f"SELECT key, {entries}, columns FROM {table} WHERE key >= ? AND key < ?"  # noqa: S608
                " AND id_time_least < ? AND id_time_most >= ?",
                (key_of(number, 0), key_of(number + 1, 0), times[1], times[0]),
            ):
                for place, found in enumerate(Columns.from_bytes(count, columns).ids):
                    if found in fingerprints:
                        yield row_of(key) * width + place

    def tally(
        self, log: str, field: int, indexes: Sequence[int] | None
    ) -> dict[int, tuple[int, int]]:
        totals: dict[int, tuple[int, int]] = {}
        first = self._heads[log].first
        chosen = None if indexes is None else {index for index in indexes if index >= first}
        for segment in self.segments(log):
            if segment.first + SEGMENT <= first:
                continue
            within = chosen
            if chosen is None and segment.purged < segment.tiles_before(first):
                # Its file and the manifest still count what was purged.
                within = set(range(first, segment.first + SEGMENT))
            for term, count, place in self._count_closed(segment, field, within):
                if field_of(term) == field:
                    total, _ = totals.get(term, (0, 0))
                    totals[term] = (total + count, segment.first + place)
        for start, entries, row, lookups in self._open_rows(log):
            columns: Columns | Lookups = (
                Lookups.from_bytes(entries, lookups)
                if field in LOOKUPS
                else Columns.from_bytes(entries, row)
            )
            for term, places in Postings.collect([columns]).items():
                if field_of(term) != field:
                    continue
                hits = [start + p for p in places if chosen is None or start + p in chosen]
                if hits:
                    total, _ = totals.get(term, (0, 0))
                    totals[term] = (total + len(hits), hits[-1])
        return totals

    def _count_closed(
        self, segment: Segment, field: int, chosen: set[int] | None
    ) -> Iterable[tuple[int, int, int]]:
        if field in LOOKUPS:
            return self._count_lookups(segment, field, chosen)
        if chosen is None and field in FEW_VALUES:
            return ((term, count, place) for term, (count, place) in segment.counts.items())
        if chosen is not None and chosen.isdisjoint(range(segment.first, segment.first + SEGMENT)):
            return ()
        return self._count_in_segment(segment, field, chosen)

    def _count_lookups(
        self, segment: Segment, field: int, chosen: set[int] | None
    ) -> Iterator[tuple[int, int, int]]:
        for lookup, places in self._vault_postings(segment) if segment.lookups else ():
            if field_of(lookup) == field:
                hits = [p for p in places if chosen is None or segment.first + p in chosen]
                if hits:
                    yield lookup, len(hits), hits[-1]

    def _count_in_segment(
        self, segment: Segment, field: int, chosen: set[int] | None
    ) -> Iterator[tuple[int, int, int]]:
        with self._open(segment) as file:
            for (page,) in file.execute("SELECT page FROM posting ORDER BY least_term"):
                for term, places in Postings.read(page):
                    if field_of(term) != field:
                        continue
                    hits = (
                        places
                        if chosen is None
                        else [place for place in places if segment.first + place in chosen]
                    )
                    if hits:
                        yield term, len(hits), hits[-1]

    def _in_segments(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        segments = self.segments(log)
        for segment in reversed(segments) if newest_first else segments:
            start = segment.first
            if start >= last or start + SEGMENT <= first:
                continue
            if not _may_hold(segment, wanted):
                self.work.segments_skipped += 1
                continue
            with self._open(segment) as file, self._vault_file(log, segment.number) as vault:
                places = _places_in_segment(file, vault, wanted)
            for place in reversed(places) if newest_first else places:
                if first <= start + place < last:
                    yield start + place

    def _in_open_rows(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        rows = self._open_rows(log, wanted, first, last, newest_first=newest_first)
        for start, entries, columns, lookups in rows:
            self.work.tiles_read += 1
            places: Iterable[int] = range(entries)
            if wanted.id is not None:
                ids = columns[entries : entries * 5]
                places = sorted(set(places).intersection(find_fingerprint(ids, wanted.id[0])))
            if wanted.trace is not None:
                traces = Columns.from_bytes(entries, columns).traces
                places = [p for p in places if p < len(traces) and traces[p] == wanted.trace]
            if wanted.groups and places:
                found = find_in_columns(columns, entries, wanted.groups, lookups) or set()
                places = sorted(found.intersection(places))
            for place in reversed(list(places)) if newest_first else places:
                if first <= start + place < last:
                    yield start + place

    def _open_rows(
        self,
        log: str,
        wanted: Wanted | None = None,
        first: int = 0,
        last: int | None = None,
        *,
        newest_first: bool = False,
    ) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield index of the first entry, number of entries, columns and lookups of open rows."""
        number, last = self._numbers[log], self._heads[log].size if last is None else last
        within, values = _within(wanted or Wanted())
        tables = [("tile", str(TILE), TILE), ("tail", "entries", 1)]
        order = "DESC" if newest_first else "ASC"
        for table, entries, width in reversed(tables) if newest_first else tables:
            start = first // TILE * TILE // width
            # A cursor, so that who needs only the newest reads only these.
            for key, count, columns, lookups in self._connection.execute(
                f"SELECT key, {entries}, columns, lookups FROM {table}"  # noqa: S608
                f" WHERE key >= ? AND key < ? {within} ORDER BY key {order}",
                (key_of(number, start), key_of(number, -(-last // width)), *values),
            ):
                yield row_of(key) * width, count, columns, lookups

    def _block(self, log: str, block: int) -> list[bytes]:
        self.work.blocks_read += 1
        segment = self._segment_of(log, block * BLOCK)
        if segment is not None:
            with self._open(segment) as file:
                row = file.execute(
                    "SELECT data FROM block WHERE number = ?",
                    (block - segment.first // BLOCK,),
                ).fetchone()
            if row is None:
                raise Damaged(f"{_name(segment)}: block {block} is missing")
            try:
                return unpack_block(row[0])
            except Damaged as error:
                raise Damaged(f"{_name(segment)}: {error}") from error
        number, size = self._numbers[log], self._heads[log].size
        if block * BLOCK < size // TILE * TILE:
            row = self._connection.execute(
                "SELECT data FROM block WHERE key = ?", (key_of(number, block),)
            ).fetchone()
            if row is None:
                raise Damaged(f"log {log}: block {block} is missing")
            return unpack_block(row[0])
        rows = self._connection.execute(
            "SELECT key, bodies FROM tail WHERE key >= ? AND key < ? ORDER BY key",
            (key_of(number, size // TILE * TILE), key_of(number + 1, 0)),
        )
        tail = [body for _, bodies in rows for body in bodies.split(b"\n")]
        start = block * BLOCK % TILE
        return tail[start : start + BLOCK]

    def _leaf(self, log: str, index: int) -> bytes:
        if index < 0:
            return Head(log=log, origin="").last_leaf
        return _hash(self._leaves_of_tile(log, index // TILE), index % TILE)

    def _leaves_of_tile(self, log: str, tile: int) -> bytes:
        cached = self._tile_leaves.get((log, tile))
        if cached is not None:
            return cached
        size = self._heads[log].size
        segment = self._segment_of(log, tile * TILE)
        if segment is not None:
            with self._open(segment) as file:
                rows = file.execute(
                    "SELECT hashes FROM leaves WHERE number = ?", (tile % TILE,)
                ).fetchall()
        elif tile < size // TILE:
            rows = self._connection.execute(
                "SELECT leaves FROM tile WHERE key = ?", (key_of(self._numbers[log], tile),)
            ).fetchall()
        else:
            number = self._numbers[log]
            rows = self._connection.execute(
                "SELECT leaves FROM tail WHERE key >= ? AND key < ? ORDER BY key",
                (key_of(number, tile * TILE), key_of(number + 1, 0)),
            ).fetchall()
        leaves = b"".join(row[0] for row in rows)
        if len(leaves) != HASH_SIZE * min(TILE, size - tile * TILE):
            where = f"log {log}" if segment is None else _name(segment)
            raise Damaged(f"{where}: tile {tile} holds {len(leaves)} bytes of leaf hashes")
        if len(self._tile_leaves) >= TILE:
            self._tile_leaves.clear()
        self._tile_leaves[log, tile] = leaves
        return leaves

    def _roots_of_tiles(self, log: str, segment_number: int) -> list[bytes]:
        cached = self._tile_roots.get((log, segment_number))
        if cached is not None:
            return cached
        segment = self._segment_of(log, segment_number * SEGMENT)
        if segment is not None:
            with self._open(segment) as file:
                rows = file.execute("SELECT root FROM tile ORDER BY number").fetchall()
        else:
            number, first = self._numbers[log], segment_number * TILE
            rows = self._connection.execute(
                "SELECT root FROM tile WHERE key >= ? AND key < ? ORDER BY key",
                (key_of(number, first), key_of(number, first + TILE)),
            ).fetchall()
        roots = [row[0] for row in rows]
        expected = min(TILE, self._heads[log].size // TILE - segment_number * TILE)
        if len(roots) != expected:
            raise Damaged(f"log {log}: found {len(roots)} tiles, expected {expected}")
        self._tile_roots[log, segment_number] = roots
        return roots

    def _segment_root(self, log: str, number: int) -> bytes:
        segments = self.segments(log)
        if number < len(segments):
            return segments[number].root
        return subtree_root(self._roots_of_tiles(log, number))

    def _segment_of(self, log: str, index: int) -> Segment | None:
        segments = self.segments(log)
        number = index // SEGMENT
        return segments[number] if number < len(segments) else None

    @contextmanager
    def _open(self, segment: Segment) -> Iterator[sqlite3.Connection]:
        self.work.segments_opened += 1
        files = self._store._segment_files  # noqa: SLF001 - a view is a part of its store
        with files.opened(segment) as file:
            try:
                yield file
            except sqlite3.Error as error:
                raise Damaged(f"{_name(segment)}: {error}") from error


class _Readers:
    """Connections for reading, kept for whoever reads next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        with self._changed:
            self._used += 1
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                with translated():
                    connection = connect(self._path)
            yield connection
        finally:
            with self._changed:
                self._used -= 1
                if connection is not None:
                    self._idle.append(connection)
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def before_fork(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._used)
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def after_fork(self) -> None:
        self._changed.release()


class _SegmentFiles:
    """The closed segments' files that were used last; a file is used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: OrderedDict[tuple[str, int, int], sqlite3.Connection] = OrderedDict()
        self._lock = threading.RLock()

    @contextmanager
    def opened(self, segment: Segment) -> Iterator[sqlite3.Connection]:
        # A page opens files hundreds of times, nearly always one that is open: no path then.
        key = (segment.log, segment.number, segment.purged)
        with self._lock:
            connection = self._open.pop(key, None)
            if connection is None:
                path = segment_path(self._directory, *key)
                if not path.is_file():
                    raise Damaged(f"segment file {path.parent.name}/{path.name} is missing")
                # Nobody writes to it any more: no locks, no WAL, no shared memory.
                connection = sqlite3.connect(
                    f"{path.absolute().as_uri()}?mode=ro&immutable=1",
                    uri=True,
                    isolation_level=None,
                    check_same_thread=False,
                )
            self._open[key] = connection
            while len(self._open) > _OPEN_SEGMENTS:
                self._open.popitem(last=False)[1].close()
            yield connection

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def before_fork(self) -> None:
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        self._lock.release()


def check_file_system(path: Path, mounts: str | None = None) -> None:
    """
    Refuse a network file system: SQLite's locks and memory maps do not hold there.

    Args:
        mounts: What is mounted where, by default as ``/proc/self/mounts`` lists it.

    Raises:
        UnsupportedFileSystem: *path* lies on one.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text("utf-8", "replace")
        except OSError:
            return  # No such list on this system; nothing to go by.
    target = path.absolute().resolve()
    best, kind = "", ""
    for line in mounts.split("\n"):
        parts = line.split(" ")
        if len(parts) < 3:  # noqa: PLR2004
            continue
        point = parts[1].replace("\\040", " ")
        if target.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, parts[2]
    if kind in _NETWORK:
        raise UnsupportedFileSystem(
            f"{path}: lies on a network file system ({kind} at {best}), where SQLite's locks do"
            " not hold; use a local directory, or ship to a collector"
        )


def _check_version(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise UnsupportedVersion(
            f"head.db: found layout {version}, this version of Indelible knows {VERSION};"
            " upgrade it"
        )
    if version < VERSION:
        raise NotATrail(f"head.db: found layout {version}, expected {VERSION}")


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        translated = store_error(error)
        _roll_back(connection)
        # A full disk or a lock stops before the commit record; after any other
        # error the record may lie in the file and count after a crash.
        name = getattr(error, "sqlite_errorname", "") or ""
        if name == "SQLITE_FULL" or name.startswith("SQLITE_BUSY"):
            raise translated from error
        raise WriteUncertain(f"store: {error} ({name}) at commit") from error


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _fact(connection: sqlite3.Connection, kind: str, key: bytes) -> bytes | None:
    row = connection.execute(
        "SELECT value FROM fact WHERE kind = ? AND key = ?", (kind, key)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _read_heads(connection: sqlite3.Connection) -> tuple[dict[str, int], dict[str, Head]]:
    numbers, heads = {}, {}
    for (
        number,
        name,
        origin,
        size,
        edge,
        last_leaf,
        recorded_at,
        checkpoint,
        first,
    ) in connection.execute(
        "SELECT number, name, origin, size, edge, last_leaf, recorded_at, checkpoint, first"
        " FROM log ORDER BY number"
    ):
        numbers[name] = number
        heads[name] = Head(
            log=name,
            origin=origin,
            edge=Edge.from_bytes(size, edge),
            last_leaf=last_leaf,
            recorded_at=recorded_at,
            checkpoint=checkpoint,
            first=first,
        )
    return numbers, heads


def _purges(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return two numbers that grow when entries are purged, and when files lose them."""
    (entries,) = connection.execute("SELECT IFNULL(SUM(first), 0) FROM log").fetchone()
    (tiles,) = connection.execute("SELECT IFNULL(SUM(purged), 0) FROM segment").fetchone()
    return entries, tiles


def _head_columns(head: Head) -> tuple[int, bytes, bytes, int, bytes]:
    return (head.size, head.edge.to_bytes(), head.last_leaf, head.recorded_at, head.checkpoint)


def _purged_tile(first: int, previous: bytes, leaves: bytes, root: bytes | None) -> Tile:
    return Tile(
        first=first,
        previous=previous,
        bodies=(),
        leaves=leaves,
        root=root,
        columns=None,
        purged=True,
    )


def _hash(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_SIZE : place * HASH_SIZE + HASH_SIZE]


def _within(wanted: Wanted) -> tuple[str, tuple[int, ...]]:
    """Return the condition, and its values, that a row's spans meet what is *wanted*."""
    clauses, values = [], []
    bounds = [("recorded", wanted.recorded), ("occurred", wanted.occurred)]
    if wanted.id is not None:
        bounds.append(("id_time", (wanted.id[1], wanted.id[1] + 1)))
    for name, (first, last) in bounds:
        clauses.append(f"AND {name}_least < ? AND {name}_most >= ?")
        values += [last, first]
    return " ".join(clauses), tuple(values)


def _may_hold(segment: Segment, wanted: Wanted) -> bool:
    return (
        segment.recorded.meets(*wanted.recorded)
        and segment.occurred.meets(*wanted.occurred)
        and (wanted.id is None or segment.id_times.meets(wanted.id[1], wanted.id[1] + 1))
        and all(any(_filter_may_hold(segment, term) for term in group) for group in wanted.groups)
    )


def _filter_may_hold(segment: Segment, term: int) -> bool:
    if field_of(term) in LOOKUPS:
        return bool(segment.lookups) and Filter.may_hold(segment.lookups, term)
    return Filter.may_hold(segment.filter, term)


def _places_in_segment(
    file: sqlite3.Connection, vault: sqlite3.Connection | None, wanted: Wanted
) -> Sequence[int]:
    within, values = _within(wanted)
    query = f"SELECT number FROM tile WHERE TRUE {within} ORDER BY number"  # noqa: S608
    tiles = [row[0] for row in file.execute(query, values)]
    lists: list[Sequence[int]] = [_places_of_group(file, vault, group) for group in wanted.groups]
    if wanted.id is not None:
        lists.append(_places_in_column(file, "ids", wanted.id[0], tiles))
    if wanted.trace is not None:
        lists.append(_places_in_column(file, "traces", wanted.trace, tiles))
    if not lists and len(tiles) == TILE:
        return range(SEGMENT)
    if not lists:
        return [tile * TILE + place for tile in tiles for place in range(TILE)]
    shortest, *others = sorted(lists, key=len)
    if not shortest:
        return []
    allowed, members = set(tiles), [set(places) for places in others]
    return [
        place
        for place in shortest
        if place // TILE in allowed and all(place in places for places in members)
    ]


def _places_in_column(
    file: sqlite3.Connection, column: str, fingerprint: int, tiles: Iterable[int]
) -> list[int]:
    query = f"SELECT {column} FROM tile WHERE number = ?"  # noqa: S608
    return [
        tile * TILE + place
        for tile in tiles
        for place in find_fingerprint(file.execute(query, (tile,)).fetchone()[0], fingerprint)
    ]


def _places_of_group(
    segment: sqlite3.Connection, vault: sqlite3.Connection | None, group: Iterable[int]
) -> array[int]:
    lists = []
    for term in group:
        file = vault if field_of(term) in LOOKUPS else segment
        if file is None:
            continue
        row = file.execute(
            "SELECT page FROM posting WHERE least_term <= ? ORDER BY least_term DESC LIMIT 1",
            (term,),
        ).fetchone()
        places = None if row is None else Postings.find(row[0], term)
        if places is not None:
            lists.append(places)
    if len(lists) == 1:
        return lists[0]
    return array("H", sorted(set().union(*lists)))


def _name(segment: Segment) -> str:
    return f"segment {segment.log}/{segment.number:06d}"


def _first_due(connection: sqlite3.Connection) -> tuple[str, int, int] | None:
    """Return name and number of a log with a complete open segment, and the segment's number."""
    for name, number, size in connection.execute("SELECT name, number, size FROM log"):
        closed = connection.execute(
            "SELECT COUNT(*) FROM segment WHERE key >= ? AND key < ?",
            (key_of(number, 0), key_of(number + 1, 0)),
        ).fetchone()[0]
        if closed < size // SEGMENT:
            return name, number, closed
    return None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock at *path*, however long others do."""
    while True:
        with _try_lock(path) as locked:
            if locked:
                yield
                return
        time.sleep(0.01)


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    with translated():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_forking: list[SqliteStore] = []
_opening = threading.Lock()
_held: set[int] = set()
"""Files of locks. A process that is forked shares the lock, and would keep it for life."""


def _before_fork() -> None:
    # A store that another thread opened meanwhile would use SQLite in the middle of it.
    _opening.acquire()
    _forking[:] = list(_stores)
    for store in _forking:
        store.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()
    _opening.release()


def _after_fork_in_child() -> None:
    while _held:
        os.close(_held.pop())
    _after_fork()


# After the keyring's, so that it comes before it: whoever reads or writes here may need the
# keyring to come to an end, but nobody needs this store while they hold the keyring.
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)
