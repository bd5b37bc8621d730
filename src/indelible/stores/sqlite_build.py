"""
Building the file of a complete segment, here or in a process of its own.

The file follows from the rows of the head alone, so a crash costs only the time.
In a process of its own (``python -m indelible.stores.sqlite_build``) it costs the
recording process nothing but the wait for its disk.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from indelible.durable import sync_directory, sync_file
from indelible.errors import StoreError
from indelible.merkle import subtree_root
from indelible.segment import (
    BLOCK,
    TILE,
    Columns,
    Filter,
    Postings,
    Segment,
    Span,
    pack,
)
from indelible.stores.sqlite_layout import (
    SPANS,
    connect,
    hash_file,
    join_spans,
    key_of,
    row_of,
    schema,
    segment_from_row,
    segment_path,
    span_columns,
)
from indelible.stores.sqlite_vault import build_vault


def build(directory: Path, log: str, log_number: int, number: int) -> Segment:
    """
    Write the file of a complete segment, and return what the head keeps of it.

    The heavy statements run within SQLite, which lets other threads run meanwhile.
    """
    path = segment_path(directory, log, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_suffix(".building")
    building.unlink(missing_ok=True)
    connection = connect(directory / "head.db")
    try:
        connection.execute("ATTACH ? AS seg", (str(building),))
        # Small pages: rows of leaf hashes and blocks that are a little over half a
        # large page would leave the rest of it empty, a fifth of the file.
        connection.execute("PRAGMA seg.page_size=4096")
        connection.execute("PRAGMA seg.journal_mode=OFF")
        connection.execute("PRAGMA seg.synchronous=OFF")
        connection.execute("BEGIN")
        for statement in schema("segment"):
            connection.execute(statement)
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
        columns = [Columns.from_bytes(TILE, row[1]) for row in rows]
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
    sync_file(building)
    file_hash, file_size = hash_file(building)
    # Crash here: the file is whole but under a name that nobody reads.
    building.rename(path)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)
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
    )


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
        msgspec.msgpack.encode(segment.counts),
        segment.filter,
        segment.lookups,
        *span_columns(segment.recorded, segment.occurred, segment.id_times),
    )
    sys.stdout.buffer.write(msgspec.msgpack.encode(row))


if __name__ == "__main__":
    _main(*sys.argv[1:])
