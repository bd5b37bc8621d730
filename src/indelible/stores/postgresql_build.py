"""
Building what a closed segment is found by, and the hash over all that it is.

SQLite keeps a closed segment in a file, whose hash the custody stream names. Here its
"file" is the sequence of its rows, each as MessagePack: of each tile number, times, root,
leaves, ids and traces; then each block; then each page of postings. Nothing is moved to
close it: blocks and tiles are where they were.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.errors import Damaged
from indelible.merkle import subtree_root
from indelible.segment import (
    BLOCK,
    NOTHING,
    SEGMENT,
    TILE,
    Columns,
    Filter,
    Lookups,
    Postings,
    Segment,
    Span,
    pack,
)
from indelible.stores.postgresql_connections import change, copy, rows
from indelible.stores.rows import SPANS, join_spans, key_of, span_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indelible.stores.postgresql_connections import Connection

FINDING = ("key int8", "purged int4", "kind text", "place int8", "data bytea")
FINDINGS = """
SELECT place, data FROM indelible.finding
WHERE key = %s AND purged = %s AND kind = %s ORDER BY place
"""
_TILES = f"""
SELECT key - %s, {SPANS}, root, leaves FROM indelible.tile
WHERE key >= %s AND key < %s ORDER BY key
"""  # noqa: S608 - names of ours
_AT_ONCE = 64
"""Blocks that are read at once to be hashed."""


def build(connection: Connection, log: str, log_number: int, number: int) -> Segment:
    """
    Keep what a complete segment is found by; return what the manifest is to say of it.

    Nobody looks at it before the manifest does: a crash costs only the time.
    """
    key, first = key_of(log_number, number), key_of(log_number, number * TILE)
    tiles = read_tiles(connection, log_number, number)
    kept = {
        row[0] - first: (row[1], row[2])
        for row in rows(
            connection,
            "SELECT key, columns, lookups FROM indelible.tile_columns WHERE key >= %s AND key < %s",
            first,
            first + TILE,
        )
    }
    # Some may have been purged while they were open: always the first of all.
    purged = TILE - len(kept)
    columns = [Columns.purged(TILE)] * purged
    columns += [Columns.from_bytes(TILE, kept[place][0]) for place in range(purged, TILE)]
    lookups = Postings.collect(
        [Lookups.from_bytes(TILE, kept[n][1] if n in kept else b"") for n in range(TILE)]
    )
    places = Postings.collect(columns)
    change(connection, "SELECT indelible.drop_findings(%s, %s)", key, purged)
    copy(
        connection,
        "indelible.finding",
        FINDING,
        [
            *((key, purged, "t", least, page) for least, page in Postings.pages(places)),
            *((key, purged, "l", least, page) for least, page in Postings.pages(lookups)),
            *((key, purged, "i", place, pack(tile.ids)) for place, tile in enumerate(columns)),
            *((key, purged, "r", place, pack(tile.traces)) for place, tile in enumerate(columns)),
        ],
    )
    file_hash, file_size = hash_rows(connection, log_number, number, purged, tiles)
    spans = join_spans([row[1:7] for row in tiles])
    return Segment(
        log=log,
        number=number,
        root=subtree_root([row[7] for row in tiles]),
        file_hash=file_hash,
        file_size=file_size,
        recorded=Span(*spans[0:2]),
        occurred=Span(*spans[2:4]),
        id_times=Span(*spans[4:6]),
        filter=Filter.build(places),
        counts=Postings.few(places),
        lookups=Filter.build(lookups) if lookups else b"",
        purged=purged,
    )


def rebuild(connection: Connection, segment: Segment, log_number: int, purged: int) -> Segment:
    """
    Keep what a closed *segment* is found by anew, without the entries of its first tiles.

    Args:
        purged: How many tiles.

    Raises:
        Damaged: What is left of it is not what was closed.
    """
    key = key_of(log_number, segment.number)
    tiles = read_tiles(connection, log_number, segment.number)
    found = hash_rows(connection, log_number, segment.number, segment.purged, tiles)
    if found != (segment.file_hash, segment.file_size):
        # Else whatever somebody made of it would be declared right.
        raise Damaged(
            f"segment {segment.log}/{segment.number:06d}: is not the one that was closed;"
            " it cannot be purged"
        )
    gone = span_columns(NOTHING, NOTHING, NOTHING)
    tiles[:purged] = [(row[0], *gone, row[7], row[8]) for row in tiles[:purged]]
    places, lookups = (
        Postings.after(
            [page for _, page in rows(connection, FINDINGS, key, segment.purged, kind)],
            purged * TILE,
        )
        for kind in ("t", "l")
    )
    change(connection, "SELECT indelible.drop_findings(%s, %s)", key, purged)
    copy(
        connection,
        "indelible.finding",
        FINDING,
        [
            *((key, purged, "t", least, page) for least, page in Postings.pages(places)),
            *((key, purged, "l", least, page) for least, page in Postings.pages(lookups)),
            *(
                (key, purged, kind, place, b"" if place < purged else data)
                for kind in ("i", "r")
                for place, data in rows(connection, FINDINGS, key, segment.purged, kind)
            ),
        ],
    )
    file_hash, file_size = hash_rows(connection, log_number, segment.number, purged, tiles)
    spans = join_spans([row[1:7] for row in tiles])
    return replace(
        segment,
        file_hash=file_hash,
        file_size=file_size,
        recorded=Span(*spans[0:2]),
        occurred=Span(*spans[2:4]),
        id_times=Span(*spans[4:6]),
        filter=Filter.build(places),
        counts=Postings.few(places),
        lookups=Filter.build(lookups) if lookups else b"",
        purged=purged,
    )


def read_tiles(connection: Connection, log_number: int, number: int) -> list[tuple[Any, ...]]:
    """Return place, times, root and leaves of each tile of a segment."""
    first = key_of(log_number, number * TILE)
    return rows(connection, _TILES, first, first, first + TILE)


def hash_rows(
    connection: Connection,
    log_number: int,
    number: int,
    purged: int,
    tiles: Sequence[Sequence[Any]],
) -> tuple[bytes, int]:
    """Return SHA-256 and size of all that a segment is, but what may be forgotten."""
    digest, size = sha256(), 0
    key = key_of(log_number, number)

    def add(*row: object) -> None:
        nonlocal size
        data = msgspec.msgpack.encode(row)
        digest.update(data)
        size += len(data)

    ids: dict[int, bytes] = dict(rows(connection, FINDINGS, key, purged, "i"))
    traces: dict[int, bytes] = dict(rows(connection, FINDINGS, key, purged, "r"))
    for tile in tiles:
        add(*tile, ids.get(tile[0]), traces.get(tile[0]))
    first = key_of(log_number, number * (SEGMENT // BLOCK))
    for start in range(purged * (TILE // BLOCK), SEGMENT // BLOCK, _AT_ONCE):
        end = min(start + _AT_ONCE, SEGMENT // BLOCK)
        for block, data in rows(
            connection,
            "SELECT key - %s, data FROM indelible.block WHERE key >= %s AND key < %s ORDER BY key",
            first,
            first + start,
            first + end,
        ):
            add(block, data)
    for least, page in rows(connection, FINDINGS, key, purged, "t"):
        add(least, page)
    return digest.digest(), size
