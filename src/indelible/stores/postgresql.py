"""
PostgreSQL store: a trail in a database, for many applications and machines.

What the tables are, ``sql/postgresql.sql`` says. A transaction of the store is one of
PostgreSQL. Writers wait for each other on an advisory lock, which is all that it is good
for: what keeps a writer that was left behind from writing is the epoch. Each transaction
holds, from before its first change to its end, the row that says which epoch it is; who
takes over begins another, and whoever began in the one before gets `Moved`.

Blocks, leaves and rows of the vault are written once and stay where they are. Closing a
segment adds what its entries are found by. Erasing and purging delete rows, and then
write the tables of those segments anew, since PostgreSQL overwrites nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg

from indelible.errors import Damaged, Moved, StoreError
from indelible.mark import Mark
from indelible.merkle import HASH_SIZE, Edge
from indelible.segment import (
    BLOCK,
    SEGMENT,
    TILE,
    Columns,
    Filter,
    Lookups,
    Postings,
    Segment,
    Span,
    pack_block,
)
from indelible.store import Forgotten, Head
from indelible.stores.postgresql_build import FINDING, FINDINGS, build, rebuild
from indelible.stores.postgresql_connections import (
    Connections,
    change,
    commit,
    copy,
    rows,
    translated,
)
from indelible.stores.postgresql_schema import check, refuse_newer
from indelible.stores.postgresql_view import View, read_fact
from indelible.stores.rows import SPANS, join_spans, key_of, row_of, segment_from_row, span_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from indelible.store import Batch
    from indelible.stores.postgresql_connections import Connection

_LOCKS = 0x696E6465
"""First half of the advisory locks of a store; the second is the epoch: to write, as it is,
and to close, purge or forget, negative. So nobody waits for whoever was left behind in one."""

# A writer that stopped in the middle does not stop all others for ever.
_WRITING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '60s'"
)
# Who builds meanwhile does so on another connection, and for as long as it takes.
_HOLDING = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0"
# The lock comes before the snapshot, so that whoever holds it alone sees who holds it not.
_READING = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " LOCK TABLE indelible.reading IN ACCESS SHARE MODE"
)
_WRITER = """
SELECT epoch, (SELECT max(number) FROM indelible.migration),
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
    current_setting('fsync')
FROM indelible.writer
"""
_HEADS = """
SELECT number, name, origin, size, edge, last_leaf, recorded_at, checkpoint, first
FROM indelible.log ORDER BY number
"""
_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid <> pg_backend_pid()
"""
_SEGMENT = f"SELECT key, root, file_hash, file_size, purged, counts, filter, lookups, {SPANS}"
_TAIL = ("key int8", "entries int4", *(f"{span} int8" for span in SPANS.split(", ")))
_ROW = ("columns bytea", "lookups bytea", "leaves bytea", "bodies bytea")
_TILE = ("key int8", *(f"{span} int8" for span in SPANS.split(", ")), "root bytea", "leaves bytea")
_PATIENCE = 30.0
"""Seconds to wait for readers before tables are written anew."""


class PostgresqlStore:
    """
    The store in the database at *url*; implements `indelible.store.Store`.

    Args:
        url: ``postgresql://…``; its tables are there, see `postgresql_schema.create`.
        mark: Where the high-water mark is kept: not in the database, whose older copy
            would bring its own.
        synced: Refuse a server that does not sync to its disk (``fsync = off``), as one for
            tests may.

    Raises:
        NotATrail: The database has no such tables, or older ones.
        UnsupportedVersion: A newer version made them.
        StoreError: It cannot be reached, or loses what it has committed.
    """

    def __init__(self, url: str, *, mark: Path | None = None, synced: bool = True) -> None:
        self.url = url
        self._synced = synced
        self._mark = None if mark is None else Mark(mark)
        self._mark_path = mark
        self._connections = Connections(url, turn=0)
        self._segments: dict[int, tuple[int, Segment]] = {}
        try:
            with self._connections.begun("BEGIN READ ONLY") as connection, translated():
                check(connection)
                self.epoch = self._check_server(connection)
        except BaseException:
            self._connections.close()
            raise

    @contextmanager
    def write(self) -> Iterator[_Transaction]:
        """Begin the one transaction that writes; see `indelible.store.Store.write`."""
        with self._connections.begun(_WRITING) as connection:
            with translated():
                change(connection, "SELECT pg_advisory_xact_lock(%s, %s)", _LOCKS, self.epoch)
                _check_epoch(self._check_server(connection), self.epoch)
                transaction = _Transaction(connection, self.epoch)
                yield transaction
                if not transaction.guarded:
                    return  # Nothing was changed.
            commit(connection)
            heads = transaction.heads()
        # Crash here: the mark is one commit behind, which only notices less.
        with suppress(OSError, Damaged):
            self._move_mark(heads)

    @contextmanager
    def read(self) -> Iterator[View]:
        """Look at one state of the store; see `indelible.store.Store.read`."""
        with self._connections.begun(_READING) as connection, translated():
            numbers, heads = _read_heads(connection)
            yield View(connection, numbers, heads, self._closed)

    def close_segments(self) -> Iterator[Segment]:
        """Build each complete segment; see `indelible.store.Store.close_segments`."""
        while True:
            with self._connections.begun(_READING) as connection, translated():
                due = _first_due(connection)
            if due is None:
                return
            with self._connections.begun(_HOLDING) as locked:
                with translated():
                    taken = rows(
                        locked, "SELECT pg_try_advisory_xact_lock(%s, %s)", _LOCKS, -self.epoch
                    )
                    if not taken[0][0]:
                        return
                    # Another process may have closed it since.
                    if due != _first_due(locked):
                        continue
                with self._changing() as connection:
                    segment = build(connection, *due)
                # Crash here: findings of a segment that is not registered, which nobody
                # reads; the next closing builds them again.
                yield segment

    def purge_segments(self) -> Iterator[Segment]:
        """Build segments without what was purged; see `indelible.store.Store.purge_segments`."""
        damaged: list[Damaged] = []
        # Nobody may build or register a segment meanwhile.
        with self._alone():
            with self.read() as view:
                purged = {log: head.first for log, head in view.heads().items() if head.first}
                numbers = {log: view.numbers[log] for log in purged}
                due = [
                    (segment, tiles)
                    for log, first in purged.items()
                    for segment in view.segments(log)
                    if segment.purged < (tiles := segment.tiles_before(first))
                ]
            for segment, tiles in due:
                try:
                    with self._changing() as connection:
                        rebuilt = rebuild(connection, segment, numbers[segment.log], tiles)
                except Damaged as error:
                    damaged.append(error)
                    continue
                # Crash here: the manifest still describes the segment before; its findings
                # leave out what was purged, which nobody asks for any more.
                yield rebuilt
            for log, first in purged.items():
                for number in range(-(-first // SEGMENT)):
                    if not self._is_emptied(numbers[log], number):
                        self._rewrite(numbers[log], number)
        if damaged:
            raise damaged[0]

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """Leave of *entries* only what is said; see `indelible.store.Store.forget`."""
        # Nobody may turn what open entries are found by into findings meanwhile.
        with self._alone():
            with self.write() as transaction:
                closed = transaction.forget(entries)
                numbers = transaction.numbers
            # Crash here, or anywhere below: some of it is forgotten; who repeats the call
            # finds that done already, and does the rest.
            for (log, number), forgotten in closed.items():
                with self.write() as transaction:
                    transaction.forget_findings(log, number, forgotten)
            segments = {
                (numbers[log], index // SEGMENT)
                for log, those in entries.items()
                for index in those
            }
            for log_number, number in sorted(segments):
                self._rewrite(log_number, number)

    def take_over(self) -> int:
        """
        Begin a new epoch, and return it: whoever began to write before may not write again.

        What they have committed stays; what they are in the middle of never happens. Only
        this store goes on; others are opened anew.

        Raises:
            StoreError: Nothing has changed.
        """
        while True:
            with self._connections.begun("BEGIN; SET LOCAL lock_timeout = '500ms'") as connection:
                with translated():
                    ((before,),) = rows(connection, "SELECT epoch FROM indelible.writer")
                try:
                    with translated():
                        change(connection, "UPDATE indelible.writer SET epoch = epoch + 1")
                        ((epoch,),) = rows(connection, "SELECT epoch FROM indelible.writer")
                except StoreError as error:
                    if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                        raise
                else:
                    commit(connection)
                    self.epoch = int(epoch)
                    return self.epoch
            # Somebody is between a change and its commit, and may never come to it.
            with self._connections.begun("BEGIN") as connection, translated():
                rows(connection, _HOLDERS, _LOCKS, before)

    def mark(self) -> Mark | None:
        """Return the high-water mark of this store, where it has one."""
        return self._mark

    def close(self) -> None:
        """Give back connections."""
        self._connections.close()

    def _check_server(self, connection: Connection) -> int:
        """Check that it is one that this version knows, and keeps what it commits; its epoch."""
        ((epoch, version, commits, standbys, fsync),) = rows(connection, _WRITER)
        refuse_newer(version)
        if commits == "off" or (commits == "local" and standbys):
            raise StoreError(
                f"store: found synchronous_commit = {commits}, expected on: the server would"
                " confirm what it may still lose"
            )
        if self._synced and fsync != "on":
            raise StoreError("store: found fsync = off, expected on: the server loses what it had")
        return int(epoch)

    def _closed(self, connection: Connection, log: str, number: int) -> list[Segment]:
        """Return the closed segments of a log; those known before are not read again."""
        keys = (key_of(number, 0), key_of(number + 1, 0))
        # Which transaction wrote a row tells whether it is the one that is known.
        written: dict[int, int] = dict(
            rows(
                connection,
                "SELECT key, xmin::text::bigint FROM indelible.segment"
                " WHERE key >= %s AND key < %s ORDER BY key",
                *keys,
            )
        )
        unknown = [key for key, by in written.items() if self._segments.get(key, (None,))[0] != by]
        for row in rows(
            connection, f"{_SEGMENT} FROM indelible.segment WHERE key = ANY(%s)", unknown
        ):
            self._segments[row[0]] = (written[row[0]], segment_from_row(log, row))
        return [self._segments[key][1] for key in written]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold what only one process may do at a time, however long others do."""
        with self._connections.begun(_HOLDING) as connection:
            with translated():
                change(connection, "SELECT pg_advisory_xact_lock(%s, %s)", _LOCKS, -self.epoch)
            yield

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Yield a connection to change what nobody looks at yet, beside the one who writes."""
        with self._connections.begun(_WRITING) as connection:
            with translated():
                _guard(connection, self.epoch)
                yield connection
            commit(connection)

    def _is_emptied(self, log: int, segment: int) -> bool:
        """Tell whether the tables of a segment that was purged whole were written anew since."""
        names = [f"indelible.{table}_{log}_{segment}" for table in ("block", "vault")]
        with self._connections.begun("BEGIN READ ONLY") as connection, translated():
            ((size,),) = rows(
                connection,
                "SELECT sum(pg_relation_size(to_regclass(name)))::bigint"
                " FROM unnest(%s::text[]) AS name",
                names,
            )
            return not size

    def _rewrite(self, log: int, segment: int) -> None:
        """Write the tables of one segment anew, so that nothing of what was deleted is left."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                with self._changing() as connection:
                    # Not for long: who comes to read meanwhile has to wait behind.
                    connection.execute("SET LOCAL lock_timeout = '500ms'")
                    change(connection, "SELECT indelible.rewrite(%s, %s)", log, segment)
            except StoreError as error:
                if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                    raise
                if time.monotonic() > until:
                    raise StoreError(
                        "store: a reader still holds an older state open, in which deleted"
                        " values are; repeat this when it has ended"
                    ) from error
                time.sleep(0.5)
            else:
                return

    def _move_mark(self, heads: Mapping[str, Head]) -> None:
        """Let the mark say what is signed now, where it does not say more already."""
        if self._mark is None or self._mark_path is None:
            return
        lock = os.open(
            self._mark_path.with_name(f"{self._mark_path.name}.lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        try:
            # PostgreSQL's lock ended with the commit: another process of this machine may
            # have written a later mark since.
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._mark.read()
            if all(log in heads and seen.size <= heads[log].size for log, seen in known.items()):
                self._mark.write(heads)
        finally:
            os.close(lock)


class _Transaction:
    """Implements `indelible.store.Transaction`."""

    def __init__(self, connection: Connection, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self.guarded = False
        self.numbers, self._heads = _read_heads(connection)

    def heads(self) -> Mapping[str, Head]:
        return self._heads

    def leaf(self, log: str, index: int) -> bytes:
        number = self.numbers[log]
        found = rows(
            self._connection,
            "SELECT key, leaves FROM indelible.tail WHERE key BETWEEN %s AND %s"
            " ORDER BY key DESC LIMIT 1",
            key_of(number, index - index % TILE),
            key_of(number, index),
        )
        if found:
            return _hash(found[0][1], index - row_of(found[0][0]))
        found = rows(
            self._connection,
            "SELECT leaves FROM indelible.tile WHERE key = %s",
            key_of(number, index // TILE),
        )
        if not found:
            raise StoreError(f"log {log}: entry {index} is in no tile")
        return _hash(found[0][0], index % TILE)

    def create(self, head: Head) -> None:
        self._guard()
        number = max(self.numbers.values(), default=0) + 1
        change(
            self._connection,
            "INSERT INTO indelible.log VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0)",
            number,
            head.log,
            head.origin,
            *_head_columns(head),
        )
        self.numbers, self._heads = _read_heads(self._connection)

    def append(self, batch: Batch) -> None:
        self._guard()
        number, end = self.numbers[batch.head.log], batch.first + len(batch.bodies)
        # From the first entry of a segment to the last, its tables are there.
        for segment in range(-(-batch.first // SEGMENT), -(-end // SEGMENT)):
            change(self._connection, "SELECT indelible.make_room(%s, %s)", number, segment)
        self._add_rows(number, batch)
        if batch.rows:
            first = key_of(number, batch.first)
            copy(
                self._connection,
                "indelible.vault",
                ("key int8", "row bytea"),
                [(first + place, row) for place, row in enumerate(batch.rows) if row],
            )
        self._move(batch.head)

    def _add_rows(self, number: int, batch: Batch) -> None:
        roots = iter(batch.tile_roots)
        tails: list[Sequence[Any]] = []
        tiles: list[tuple[int, _Rows, bytes]] = []
        done, total = 0, len(batch.bodies)
        while done < total:
            index = batch.first + done
            place = index % TILE
            count = min(TILE - place, total - done)
            part = _Rows.of(batch, done, done + count)
            if place + count == TILE:
                if place:
                    part = self._take_tail(number, index - place, part)
                tiles.append((index // TILE, part, next(roots)))
            else:
                tails.append((key_of(number, index), count, *part.spans, *part.packed()))
            done += count
        self._add_tiles(number, tiles)
        copy(self._connection, "indelible.tail", (*_TAIL, *_ROW), tails)

    def _add_tiles(self, number: int, tiles: Sequence[tuple[int, _Rows, bytes]]) -> None:
        per_tile = TILE // BLOCK
        copy(
            self._connection,
            "indelible.tile",
            _TILE,
            [(key_of(number, tile), *part.spans, root, part.leaves) for tile, part, root in tiles],
        )
        copy(
            self._connection,
            "indelible.tile_columns",
            ("key int8", *_ROW[:2]),
            [(key_of(number, tile), *part.packed()[:2]) for tile, part, _ in tiles],
        )
        copy(
            self._connection,
            "indelible.block",
            ("key int8", "data bytea"),
            [
                (
                    key_of(number, tile * per_tile + block),
                    pack_block(part.bodies[block * BLOCK : block * BLOCK + BLOCK]),
                )
                for tile, part, _ in tiles
                for block in range(per_tile)
            ],
        )

    def _take_tail(self, number: int, first: int, part: _Rows) -> _Rows:
        taken = self._connection.execute(
            "WITH taken AS (DELETE FROM indelible.tail WHERE key >= %s AND key < %s RETURNING *)"  # noqa: S608 - names of ours
            f" SELECT entries, columns, lookups, leaves, bodies, {SPANS} FROM taken ORDER BY key",
            (key_of(number, first), key_of(number, first + TILE)),
            binary=True,
        ).fetchall()
        return _Rows.joined([*map(_Rows.from_row, taken), part])

    def add_document(self, data: bytes) -> None:
        self._guard()
        change(
            self._connection,
            "INSERT INTO indelible.document VALUES (%s, %s) ON CONFLICT DO NOTHING",
            sha256(data).digest(),
            data,
        )

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return read_fact(self._connection, kind, key)

    def put(self, kind: str, key: bytes, value: bytes | None) -> None:
        self._guard()
        if value is None:
            change(
                self._connection,
                "DELETE FROM indelible.fact WHERE kind = %s AND key = %s",
                kind,
                key,
            )
        else:
            change(
                self._connection,
                "INSERT INTO indelible.fact VALUES (%s, %s, %s)"
                " ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
                kind,
                key,
                value,
            )

    def rotate(self, log: str, note: bytes, checkpoint: bytes) -> None:
        self._guard()
        first = key_of(self.numbers[log], 0)
        change(
            self._connection,
            "INSERT INTO indelible.rotation SELECT %s + count(*), %s FROM indelible.rotation"
            " WHERE key >= %s AND key < %s",
            first,
            note,
            first,
            key_of(self.numbers[log] + 1, 0),
        )
        self._move(replace(self._heads[log], checkpoint=checkpoint))

    def register(self, segment: Segment) -> None:
        self._guard()
        number = self.numbers[segment.log]
        if segment.purged:
            change(
                self._connection,
                "SELECT indelible.purge_segment(%s, %s)",
                key_of(number, segment.number),
                segment.purged,
            )
        change(
            self._connection,
            "INSERT INTO indelible.segment"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            key_of(number, segment.number),
            segment.purged,
            *span_columns(segment.recorded, segment.occurred, segment.id_times),
            segment.root,
            segment.file_hash,
            segment.file_size,
            msgspec.msgpack.encode(segment.counts),
            segment.filter,
            segment.lookups,
        )
        change(
            self._connection,
            "DELETE FROM indelible.tile_columns WHERE key >= %s AND key < %s",
            key_of(number, segment.number * TILE),
            key_of(number, segment.number * TILE + TILE),
        )

    def purge(self, log: str, first: int) -> None:
        head = self._heads[log].without(first)
        self._guard()
        change(self._connection, "SELECT indelible.purge(%s, %s)", self.numbers[log], first)
        self._heads = {**self._heads, log: head}

    def forget(
        self, entries: Mapping[str, Mapping[int, Forgotten]]
    ) -> dict[tuple[str, int], dict[int, Forgotten]]:
        """Forget rows, and lookups of open entries; return the rest by log and segment."""
        self._guard()
        closed: dict[tuple[str, int], dict[int, Forgotten]] = {}
        left: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        for log, forgotten in entries.items():
            number = self.numbers[log]
            ((segments,),) = rows(
                self._connection,
                "SELECT count(*) FROM indelible.segment WHERE key >= %s AND key < %s",
                key_of(number, 0),
                key_of(number + 1, 0),
            )
            open_rows: dict[tuple[str, int], dict[int, Forgotten]] = {}
            for index, each in forgotten.items():
                segment = (number, index // SEGMENT)
                left.setdefault(segment, []).append((key_of(number, index), each.row))
                if not each.lookups or index < self._heads[log].first:
                    continue
                if index < segments * SEGMENT:
                    closed.setdefault((log, index // SEGMENT), {})[index % SEGMENT] = each
                else:
                    open_rows.setdefault(self._row_of(number, log, index), {})[index] = each
            for row, those in open_rows.items():
                self._forget_lookups(row, those)
        for (number, segment_number), kept in left.items():
            change(
                self._connection,
                "SELECT indelible.forget(%s, %s, %s::bigint[], %s::bytea[])",
                number,
                segment_number,
                [key for key, _ in kept],
                [row for _, row in kept],
            )
        return closed

    def _row_of(self, number: int, log: str, index: int) -> tuple[str, int]:
        """Return table and key of the row that has the columns of an open entry."""
        if index < self._heads[log].size // TILE * TILE:
            return "tile_columns", key_of(number, index // TILE)
        ((key,),) = rows(
            self._connection,
            "SELECT max(key) FROM indelible.tail WHERE key <= %s",
            key_of(number, index),
        )
        return "tail", key

    def _forget_lookups(self, row: tuple[str, int], forgotten: Mapping[int, Forgotten]) -> None:
        table, key = row
        width, entries = (TILE, str(TILE)) if table == "tile_columns" else (1, "entries")
        first = row_of(key) * width
        ((count, data),) = rows(
            self._connection,
            f"SELECT {entries}, lookups FROM indelible.{table} WHERE key = %s",  # noqa: S608 - names of ours
            key,
        )
        left = Lookups.from_bytes(count, data).without(
            {index - first: each.lookups for index, each in forgotten.items()}
        )
        change(
            self._connection,
            f"UPDATE indelible.{table} SET lookups = %s WHERE key = %s",  # noqa: S608 - names of ours
            left.to_bytes(),
            key,
        )

    def forget_findings(self, log: str, number: int, forgotten: Mapping[int, Forgotten]) -> None:
        """Forget lookups by which entries at some places of a closed segment are found."""
        self._guard()
        key = key_of(self.numbers[log], number)
        ((purged,),) = rows(
            self._connection, "SELECT purged FROM indelible.segment WHERE key = %s", key
        )
        pages = rows(self._connection, FINDINGS, key, purged, "l")
        gone = {(lookup, place) for place, left in forgotten.items() for lookup in left.lookups}
        named = {lookup for lookup, _ in gone}
        places = {}
        for _, page in pages:
            for lookup, where in Postings.read(page):
                if lookup in named:
                    for place in [each for each in where if (lookup, each) in gone]:
                        where.remove(place)
                if where:
                    places[lookup] = where
        change(self._connection, "SELECT indelible.drop_lookups(%s)", key)
        copy(
            self._connection,
            "indelible.finding",
            FINDING,
            [(key, purged, "l", least, page) for least, page in Postings.pages(places)],
        )
        change(
            self._connection,
            "UPDATE indelible.segment SET lookups = %s WHERE key = %s",
            Filter.build(places) if places else b"",
            key,
        )

    def _move(self, head: Head) -> None:
        before = self._heads[head.log]
        moved = change(
            self._connection,
            "UPDATE indelible.log SET size = %s, edge = %s, last_leaf = %s, recorded_at = %s,"
            " checkpoint = %s WHERE number = %s AND size = %s",
            *_head_columns(head),
            self.numbers[head.log],
            before.size,
        )
        if moved != 1:
            raise Moved(f"log {head.log}: does not end after {before.size} entries any more")
        self._heads = {**self._heads, head.log: head}

    def _guard(self) -> None:
        if not self.guarded:
            _guard(self._connection, self._epoch)
            self.guarded = True


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

    def packed(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the values of the columns ``_ROW``."""
        bodies = b"\n".join(self.bodies)
        return self.columns.to_bytes(), self.lookups.to_bytes(), self.leaves, bodies

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


def _guard(connection: Connection, epoch: int) -> None:
    """
    Hold the epoch to the end of the transaction; who takes over waits for it.

    Raises:
        Moved: It is over.
    """
    if not rows(connection, "SELECT FROM indelible.writer WHERE epoch = %s FOR SHARE", epoch):
        ((found,),) = rows(connection, "SELECT epoch FROM indelible.writer")
        _check_epoch(found, epoch)


def _check_epoch(found: int, epoch: int) -> None:
    if found != epoch:
        raise Moved(
            f"store: found epoch {found}, expected {epoch}: another writer has taken over;"
            " open the trail anew"
        )


def _read_heads(connection: Connection) -> tuple[dict[str, int], dict[str, Head]]:
    numbers, heads = {}, {}
    for number, name, origin, size, edge, last_leaf, recorded_at, checkpoint, first in rows(
        connection, _HEADS
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


def _head_columns(head: Head) -> tuple[int, bytes, bytes, int, bytes]:
    return (head.size, head.edge.to_bytes(), head.last_leaf, head.recorded_at, head.checkpoint)


def _hash(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_SIZE : place * HASH_SIZE + HASH_SIZE]


def _first_due(connection: Connection) -> tuple[str, int, int] | None:
    """Return name and number of a log with a complete open segment, and the segment's number."""
    for name, number, size in rows(connection, "SELECT name, number, size FROM indelible.log"):
        ((closed,),) = rows(
            connection,
            "SELECT count(*) FROM indelible.segment WHERE key >= %s AND key < %s",
            key_of(number, 0),
            key_of(number + 1, 0),
        )
        if closed < size // SEGMENT:
            return name, number, closed
    return None
