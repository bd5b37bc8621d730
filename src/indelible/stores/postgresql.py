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
    change_all,
    commit,
    copy,
    next_rows,
    rows,
    translated,
)
from indelible.stores.postgresql_schema import check, refuse_newer
from indelible.stores.postgresql_view import FACT, View, fact_of
from indelible.stores.rows import SPANS, join_spans, key_of, row_of, segment_from_row, span_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from indelible.store import Batch
    from indelible.stores.postgresql_connections import Connection, Statement

_LOCKS = 0x696E6465
"""First half of the advisory locks of a store; the second is the epoch: to write, as it is,
and to close, purge or forget, negative. So nobody waits for whoever was left behind in one."""

# A writer that stopped in the middle does not stop all others for ever.
_WRITING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '60s'"
)
# Each of these sees what was committed before it began: the heads, those of whoever had the
# lock before.
_LOCKING = "SELECT pg_advisory_xact_lock({}, {})"
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
_GUARD = "SELECT indelible.guard(%s)"
"""Holds the epoch to the end of the transaction, or raises: who takes over waits for that."""

_FEW = 64
"""So many rows are added to a table at most without a COPY, which has answers of its own."""

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
                self.epoch = self._check_server(rows(connection, _WRITER))
        except BaseException:
            self._connections.close()
            raise

    @contextmanager
    def write(self) -> Iterator[_Transaction]:
        """Begin the one transaction that writes; see `indelible.store.Store.write`."""
        locking = _LOCKING.format(_LOCKS, self.epoch)
        with self._connections.asked(f"{_WRITING}; {locking}; {_WRITER}; {_HEADS}") as answer:
            with translated():
                next_rows(answer)
                _check_epoch(self._check_server(next_rows(answer)), self.epoch)
                transaction = _Transaction(answer.connection, self.epoch, next_rows(answer))
                yield transaction
            if not transaction.is_changed:
                return
            commit(answer.connection, transaction.left)
            heads = transaction.heads()
        # Crash here: the mark is one commit behind, which only notices less.
        with suppress(OSError, Damaged):
            self._move_mark(heads)

    @contextmanager
    def read(self) -> Iterator[View]:
        """Look at one state of the store; see `indelible.store.Store.read`."""
        with self._connections.asked(f"{_READING}; {_HEADS}") as answer, translated():
            numbers, heads = _heads_of(next_rows(answer))
            yield View(answer.connection, numbers, heads, self._closed)

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

    def _check_server(self, said: Sequence[Sequence[Any]]) -> int:
        """Check that it is one that this version knows, and keeps what it commits; its epoch."""
        ((epoch, version, commits, standbys, fsync),) = said
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
                change(connection, _GUARD, self.epoch)
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
    """
    Implements `indelible.store.Transaction`.

    What it changes is sent when something is asked that may depend on it, and else together
    with its end: with one answer to wait for, however many statements there are.

    Attributes:
        left: What is to be sent with the end.
        is_changed: Whether anything is.
    """

    def __init__(self, connection: Connection, epoch: int, heads: Iterable[Sequence[Any]]) -> None:
        self._connection = connection
        self._epoch = epoch
        self.is_changed = False
        self.left: list[Statement] = []
        self.numbers, self._heads = _heads_of(heads)

    def heads(self) -> Mapping[str, Head]:
        return self._heads

    def leaf(self, log: str, index: int) -> bytes:
        number = self.numbers[log]
        found = self._rows(
            "SELECT key, leaves FROM indelible.tail WHERE key BETWEEN %s AND %s"
            " ORDER BY key DESC LIMIT 1",
            key_of(number, index - index % TILE),
            key_of(number, index),
        )
        if found:
            return _hash(found[0][1], index - row_of(found[0][0]))
        found = self._rows(
            "SELECT leaves FROM indelible.tile WHERE key = %s",
            key_of(number, index // TILE),
        )
        if not found:
            raise StoreError(f"log {log}: entry {index} is in no tile")
        return _hash(found[0][0], index % TILE)

    def create(self, head: Head) -> None:
        number = max(self.numbers.values(), default=0) + 1
        self._change(
            "INSERT INTO indelible.log VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0)",
            number,
            head.log,
            head.origin,
            *_head_columns(head),
        )
        self.numbers = {**self.numbers, head.log: number}
        self._heads = {**self._heads, head.log: head}

    def append(self, batch: Batch) -> None:
        number, end = self.numbers[batch.head.log], batch.first + len(batch.bodies)
        # From the first entry of a segment to the last, its tables are there.
        for segment in range(-(-batch.first // SEGMENT), -(-end // SEGMENT)):
            self._change("SELECT indelible.make_room(%s, %s)", number, segment)
        self._add_rows(number, batch)
        if batch.rows:
            first = key_of(number, batch.first)
            self._add(
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
        self._add("indelible.tail", (*_TAIL, *_ROW), tails)

    def _add_tiles(self, number: int, tiles: Sequence[tuple[int, _Rows, bytes]]) -> None:
        per_tile = TILE // BLOCK
        self._add(
            "indelible.tile",
            _TILE,
            [(key_of(number, tile), *part.spans, root, part.leaves) for tile, part, root in tiles],
        )
        self._add(
            "indelible.tile_columns",
            ("key int8", *_ROW[:2]),
            [(key_of(number, tile), *part.packed()[:2]) for tile, part, _ in tiles],
        )
        self._add(
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
        taken = self._rows(
            "WITH taken AS (DELETE FROM indelible.tail WHERE key >= %s AND key < %s RETURNING *)"  # noqa: S608 - names of ours
            f" SELECT entries, columns, lookups, leaves, bodies, {SPANS} FROM taken ORDER BY key",
            key_of(number, first),
            key_of(number, first + TILE),
        )
        return _Rows.joined([*map(_Rows.from_row, taken), part])

    def add_document(self, data: bytes) -> None:
        self._change(
            "INSERT INTO indelible.document VALUES (%s, %s) ON CONFLICT DO NOTHING",
            sha256(data).digest(),
            data,
        )

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return fact_of(self._rows(FACT, kind, key))

    def put(self, kind: str, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._change(
                "DELETE FROM indelible.fact WHERE kind = %s AND key = %s",
                kind,
                key,
            )
        else:
            self._change(
                "INSERT INTO indelible.fact VALUES (%s, %s, %s)"
                " ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
                kind,
                key,
                value,
            )

    def rotate(self, log: str, note: bytes, checkpoint: bytes) -> None:
        first = key_of(self.numbers[log], 0)
        self._change(
            "INSERT INTO indelible.rotation SELECT %s + count(*), %s FROM indelible.rotation"
            " WHERE key >= %s AND key < %s",
            first,
            note,
            first,
            key_of(self.numbers[log] + 1, 0),
        )
        self._move(replace(self._heads[log], checkpoint=checkpoint))

    def register(self, segment: Segment) -> None:
        number = self.numbers[segment.log]
        if segment.purged:
            self._change(
                "SELECT indelible.purge_segment(%s, %s)",
                key_of(number, segment.number),
                segment.purged,
            )
        self._change(
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
        self._change(
            "DELETE FROM indelible.tile_columns WHERE key >= %s AND key < %s",
            key_of(number, segment.number * TILE),
            key_of(number, segment.number * TILE + TILE),
        )

    def purge(self, log: str, first: int) -> None:
        head = self._heads[log].without(first)
        self._change("SELECT indelible.purge(%s, %s)", self.numbers[log], first)
        self._heads = {**self._heads, log: head}

    def forget(
        self, entries: Mapping[str, Mapping[int, Forgotten]]
    ) -> dict[tuple[str, int], dict[int, Forgotten]]:
        """Forget rows, and lookups of open entries; return the rest by log and segment."""
        closed: dict[tuple[str, int], dict[int, Forgotten]] = {}
        left: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        for log, forgotten in entries.items():
            number = self.numbers[log]
            ((segments,),) = self._rows(
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
            self._change(
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
        ((key,),) = self._rows(
            "SELECT max(key) FROM indelible.tail WHERE key <= %s",
            key_of(number, index),
        )
        return "tail", key

    def _forget_lookups(self, row: tuple[str, int], forgotten: Mapping[int, Forgotten]) -> None:
        table, key = row
        width, entries = (TILE, str(TILE)) if table == "tile_columns" else (1, "entries")
        first = row_of(key) * width
        ((count, data),) = self._rows(
            f"SELECT {entries}, lookups FROM indelible.{table} WHERE key = %s",  # noqa: S608 - names of ours
            key,
        )
        left = Lookups.from_bytes(count, data).without(
            {index - first: each.lookups for index, each in forgotten.items()}
        )
        self._change(
            f"UPDATE indelible.{table} SET lookups = %s WHERE key = %s",  # noqa: S608 - names of ours
            left.to_bytes(),
            key,
        )

    def forget_findings(self, log: str, number: int, forgotten: Mapping[int, Forgotten]) -> None:
        """Forget lookups by which entries at some places of a closed segment are found."""
        key = key_of(self.numbers[log], number)
        ((purged,),) = self._rows("SELECT purged FROM indelible.segment WHERE key = %s", key)
        pages = self._rows(FINDINGS, key, purged, "l")
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
        self._change("SELECT indelible.drop_lookups(%s)", key)
        self._add(
            "indelible.finding",
            FINDING,
            [(key, purged, "l", least, page) for least, page in Postings.pages(places)],
        )
        self._change(
            "UPDATE indelible.segment SET lookups = %s WHERE key = %s",
            Filter.build(places) if places else b"",
            key,
        )

    def _add(self, table: str, columns: Sequence[str], given: Sequence[Sequence[Any]]) -> None:
        """Add rows to a table."""
        if len(given) > _FEW:
            self._begin_to_change()
            self._rows("SELECT")  # A COPY cannot be sent together with others.
            copy(self._connection, table, columns, given)
        elif given:
            names = ", ".join(column.partition(" ")[0] for column in columns)
            marks = ", ".join(["%s"] * len(columns))
            self._change(
                f"INSERT INTO {table} ({names}) VALUES {', '.join([f'({marks})'] * len(given))}",  # noqa: S608 - names of ours
                *[value for row in given for value in row],
            )

    def _change(self, query: str, *values: Any) -> None:
        """Execute a statement before anything else is asked, or at the end."""
        self._begin_to_change()
        self.left.append((query, values))

    def _begin_to_change(self) -> None:
        if not self.is_changed:
            self.is_changed = True
            self.left.append((_GUARD, (self._epoch,)))

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that *query* finds after all that was changed before."""
        left, self.left = self.left, []
        return change_all(self._connection, left, query, *values)

    def _move(self, head: Head) -> None:
        before = self._heads[head.log].size
        self._change(
            "SELECT indelible.move(%s, %s, %s, %s, %s, %s, %s)",
            self.numbers[head.log],
            before,
            *_head_columns(head),
        )
        self._heads = {**self._heads, head.log: head}


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


def _check_epoch(found: int, epoch: int) -> None:
    if found != epoch:
        raise Moved(
            f"store: found epoch {found}, expected {epoch}: another writer has taken over;"
            " open the trail anew"
        )


def _heads_of(found: Iterable[Sequence[Any]]) -> tuple[dict[str, int], dict[str, Head]]:
    numbers, heads = {}, {}
    for number, name, origin, size, edge, last_leaf, recorded_at, checkpoint, first in found:
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
