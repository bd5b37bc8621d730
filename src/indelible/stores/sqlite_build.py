"""
Building the file of a complete segment, here or in a process of its own.

The file follows from the rows of the head alone, so a crash costs only the time.
In a process of its own (``python -m indelible.stores.sqlite_build``) it costs the
recording process nothing but the wait for its disk. When entries were purged, the file
is built anew from the one before it, and that one is removed.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from indelible.durable import sync_directory, sync_file
from indelible.errors import Damaged, StoreError
from indelible.merkle import subtree_root
from indelible.segment import (
    BLOCK,
    NOTHING,
    SEGMENT,
    TILE,
    Columns,
    Filter,
    Postings,
    Segment,
    Span,
    pack,
)
from indelible.stores.rows import SPANS, join_spans, key_of, row_of, segment_from_row, span_columns
from indelible.stores.sqlite_layout import connect, discard, hash_file, schema, segment_path
from indelible.stores.sqlite_vault import build_vault, purge_in_file, vault_path

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(directory: Path, log: str, log_number: int, number: int) -> Segment:
    """
    Write the file of a complete segment, and return what the head keeps of it.

    The heavy statements run within SQLite, which lets other threads run meanwhile.
    """
    building = _building(directory, log, number)
    connection = connect(directory / "head.db")
    try:
        _begin(connection, building)
        tiles = (key_of(log_number, number * TILE), key_of(log_number, number * TILE + TILE))
        per_tile = TILE // BLOCK
        blocks = tuple(key_of(log_number, row_of(key) * per_tile) for key in tiles)
        connection.execute(
            "INSERT INTO seg.block SELECT key - ?1, data FROM main.block"
            " WHERE key >= ?1 AND key < ?2 ORDER BY key",
            blocks,
        )
        connection.execute(
            "INSERT INTO seg.leaves SELECT key - ?1, leaves FROM main.tile"
            " WHERE key >= ?1 AND key < ?2 ORDER BY key",
            tiles,
        )
        rows = connection.execute(
            f"SELECT root, columns, {SPANS} FROM main.tile"  # noqa: S608
            " WHERE key >= ? AND key < ? ORDER BY key",
            tiles,
        ).fetchall()
        # Some may have been purged while they were open: always the first of all.
        purged = sum(not row[1] for row in rows)
        columns = [Columns.purged(TILE)] * purged
        columns += [Columns.from_bytes(TILE, row[1]) for row in rows[purged:]]
        connection.executemany(
            "INSERT INTO seg.tile VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (place, *row[2:], row[0], pack(tile.ids), pack(tile.traces))
                for place, (row, tile) in enumerate(zip(rows, columns, strict=True))
            ],
        )
        places = Postings.collect(columns)
        connection.executemany("INSERT INTO seg.posting VALUES (?, ?)", Postings.pages(places))
        connection.execute("COMMIT")
        connection.execute("DETACH seg")
        lookups = build_vault(connection, directory, log, log_number, number)
    finally:
        connection.close()
    file_hash, file_size = _finish(building, segment_path(directory, log, number, purged))
    # Crash here: the file is in place but not registered; the next closing builds
    # it again over this one, and the rows are still in the head.
    spans = join_spans([row[2:] for row in rows])
    return Segment(
        log=log,
        number=number,
        root=subtree_root([row[0] for row in rows]),
        file_hash=file_hash,
        file_size=file_size,
        recorded=Span(*spans[0:2]),
        occurred=Span(*spans[2:4]),
        id_times=Span(*spans[4:6]),
        filter=Filter.build(places),
        counts=Postings.few(places),
        lookups=lookups,
        purged=purged,
    )


def rebuild(directory: Path, segment: Segment, purged: int) -> Segment:
    """
    Write the file of a closed *segment* anew, without the entries of its first tiles.

    Of these, root and leaf hashes are all that is left. The file before stays where it
    is, and what the vault had of the entries is removed from its file.

    Args:
        purged: How many tiles.

    Raises:
        Damaged: The file before is not the one that was closed; nothing was changed.
    """
    before = segment_path(directory, segment.log, segment.number, segment.purged)
    found = hash_file(before) if before.is_file() else None
    if found != (segment.file_hash, segment.file_size):
        # Else whatever somebody made of it would be declared right.
        what = "is missing" if found is None else "is not the one that was closed"
        raise Damaged(f"segment file {segment.log}/{before.name}: {what}; it cannot be purged")
    lookups = purge_in_file(directory, segment.log, segment.number, purged * TILE)
    # Crash here: the manifest may still propose entries by lookups that are gone; who
    # repeats this finds less to do.
    building = _building(directory, segment.log, segment.number)
    # Nobody writes to it any more: no locks, no WAL, no shared memory.
    connection = sqlite3.connect(
        f"{before.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
    )
    try:
        _begin(connection, building)
        connection.execute(
            "INSERT INTO seg.block SELECT number, data FROM main.block"
            " WHERE number >= ? ORDER BY number",
            (purged * (TILE // BLOCK),),
        )
        connection.execute(
            "INSERT INTO seg.leaves SELECT number, hashes FROM main.leaves ORDER BY number"
        )
        rows = connection.execute(
            f"SELECT number, {SPANS}, root, ids, traces FROM main.tile ORDER BY number"  # noqa: S608
        ).fetchall()
        gone = span_columns(NOTHING, NOTHING, NOTHING)
        rows[:purged] = [(row[0], *gone, row[7], b"", b"") for row in rows[:purged]]
        connection.executemany("INSERT INTO seg.tile VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        pages = connection.execute("SELECT page FROM main.posting ORDER BY least_term").fetchall()
        places = Postings.after([page for (page,) in pages], purged * TILE)
        connection.executemany("INSERT INTO seg.posting VALUES (?, ?)", Postings.pages(places))
        connection.execute("COMMIT")
    finally:
        connection.close()
    path = segment_path(directory, segment.log, segment.number, purged)
    file_hash, file_size = _finish(building, path)
    # Crash here: the new file is in place but not registered, and the old one still is;
    # the next purging builds it again over this one.
    spans = join_spans([row[1:7] for row in rows])
    return replace(
        segment,
        file_hash=file_hash,
        file_size=file_size,
        recorded=Span(*spans[0:2]),
        occurred=Span(*spans[2:4]),
        id_times=Span(*spans[4:6]),
        filter=Filter.build(places),
        counts=Postings.few(places),
        lookups=lookups,
        purged=purged,
    )


def sweep(directory: Path, log: str, first: int, closed: Mapping[int, int]) -> None:
    """
    Remove what builders and purges have left of segments that begin before entry *first*.

    These are files that nobody reads any more, and some that a crash left half-done.
    Nobody may be building meanwhile.

    Args:
        closed: Of each closed segment of the log, how many of its tiles were purged.
    """
    segments = {segment_path(directory, log, number, purged) for number, purged in closed.items()}
    vaults = {
        vault_path(directory, log, number) for number, purged in closed.items() if purged < TILE
    }
    # The journal of a change that was cut off belongs to its file.
    vaults |= {path.with_name(f"{path.name}-journal") for path in vaults}
    for folder, kept in (("segments", segments), ("vault", vaults)):
        for path in sorted((directory / folder / log).glob("[0-9]*")):
            number = int(_NUMBER.match(path.name)[0])  # type: ignore[index]  # a digit, at least
            if number * SEGMENT < first and path not in kept:
                discard(path)


_NUMBER = re.compile("[0-9]+")


def _building(directory: Path, log: str, number: int) -> Path:
    """Return where the file of a segment is written; nothing is there."""
    path = segment_path(directory, log, number).with_suffix(".building")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _begin(connection: sqlite3.Connection, building: Path) -> None:
    """Begin the transaction that writes the file of a segment, as ``seg``."""
    connection.execute("ATTACH ? AS seg", (str(building),))
    # Small pages: rows of leaf hashes and blocks that are a little over half a
    # large page would leave the rest of it empty, a fifth of the file.
    connection.execute("PRAGMA seg.page_size=4096")
    connection.execute("PRAGMA seg.journal_mode=OFF")
    connection.execute("PRAGMA seg.synchronous=OFF")
    connection.execute("BEGIN")
    for statement in schema("segment"):
        connection.execute(statement)


def _finish(building: Path, path: Path) -> tuple[bytes, int]:
    """Put a file that was written in its place; return its SHA-256 and size."""
    sync_file(building)
    found = hash_file(building)
    # Crash here: the file is whole but under a name that nobody reads.
    building.rename(path)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)
    return found


def build_aside(directory: Path, log: str, log_number: int, number: int) -> Segment:
    """
    Do what `build` does in a process of its own.

    Raises:
        StoreError: It failed; nothing is registered, and trying again is safe.
    """
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", __name__, str(directory), log, str(log_number), str(number)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise StoreError(
            f"closing segment {log}/{number:06d}: {done.stderr.decode(errors='replace')}"
        )
    return segment_from_row(log, msgspec.msgpack.decode(done.stdout))


def _main(directory: str, log: str, log_number: str, number: str) -> None:
    segment = build(Path(directory), log, int(log_number), int(number))
    row = (
        segment.number,
        segment.root,
        segment.file_hash,
        segment.file_size,
        segment.purged,
        msgspec.msgpack.encode(segment.counts),
        segment.filter,
        segment.lookups,
        *span_columns(segment.recorded, segment.occurred, segment.id_times),
    )
    sys.stdout.buffer.write(msgspec.msgpack.encode(row))


if __name__ == "__main__":
    _main(*sys.argv[1:])
