"""
What a closed segment is in PostgreSQL, held against what it must come from.

Entries are `indelible.verify`'s business. Here it is the rows as a whole, whose hash the
manifest and the custody stream name, and with *deep* everything that queries go by.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from indelible.errors import Damaged
from indelible.segment import (
    BLOCK,
    NOTHING,
    SEGMENT,
    TILE,
    Columns,
    Filter,
    Postings,
    Span,
    pack,
    unpack_block,
)
from indelible.stores.postgresql_build import FINDINGS, hash_rows, read_tiles
from indelible.stores.postgresql_connections import connect, rows, translated
from indelible.stores.rows import key_of
from indelible.verify import found_by, verify_times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from indelible.segment import Segment
    from indelible.stores.postgresql_connections import Connection
    from indelible.terms import Terms

_READING = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " LOCK TABLE indelible.reading IN ACCESS SHARE MODE"
)


def check_segment(url: str, segment: Segment, *, deep: bool) -> None:
    """
    Check the rows of *segment* in the database at *url*; an `indelible.verify.CheckFile`.

    Raises:
        Damaged: They are not those that were closed, or, with *deep*, they or the
            manifest hide entries from queries.
        StoreError: The database cannot be read.
    """
    with closing(connect(url)) as connection, translated():
        connection.execute(_READING)
        ((log,),) = rows(
            connection, "SELECT number FROM indelible.log WHERE name = %s", segment.log
        )
        tiles = read_tiles(connection, log, segment.number)
        found = hash_rows(connection, log, segment.number, segment.purged, tiles)
        if found != (segment.file_hash, segment.file_size):
            raise Damaged(
                f"found {found[1]} bytes with SHA-256 {found[0].hex()},"
                f" expected {segment.file_size} with {segment.file_hash.hex()}"
            )
        if deep:
            _check_index(connection, segment, log, tiles)


def _check_index(
    connection: Connection, segment: Segment, log: int, kept: Sequence[tuple[Any, ...]]
) -> None:
    """Build anew what queries go by, and compare it with what is there."""
    tiles: list[Columns] = []
    spans: list[tuple[Span, Span, Span]] = []
    for entries in _tiles(connection, segment, log):
        if entries is None:
            tiles.append(Columns.purged(TILE))
            spans.append((NOTHING, NOTHING, NOTHING))
        else:
            tiles.append(Columns.of([terms for _, terms in entries]))
            recorded = Span.of([at for at, _ in entries])
            occurred = Span.of([terms.occurred_at for _, terms in entries])
            spans.append((recorded, occurred, Span.of([terms.id_time for _, terms in entries])))
    key = key_of(log, segment.number)

    def findings(kind: str) -> list[tuple[Any, ...]]:
        return rows(connection, FINDINGS, key, segment.purged, kind)

    times = [tuple(edge for span in each for edge in (span.least, span.most)) for each in spans]
    _check("tiles", times, [tuple(row[1:7]) for row in kept])
    _check("ids", [(n, pack(tile.ids)) for n, tile in enumerate(tiles)], findings("i"))
    _check("traces", [(n, pack(tile.traces)) for n, tile in enumerate(tiles)], findings("r"))
    places = Postings.collect(tiles)
    _check("postings", list(Postings.pages(places)), findings("t"))
    whole = [Span.over(column) for column in zip(*spans, strict=True)]
    _check("times", whole, [segment.recorded, segment.occurred, segment.id_times])
    _check("counts", Postings.few(places), dict(segment.counts))
    _check("filter", Filter.build(places), segment.filter)


def _tiles(
    connection: Connection, segment: Segment, log: int
) -> Iterator[list[tuple[int, Terms]] | None]:
    """Yield recorded_at and terms of the entries of each tile; nothing of those purged."""
    per_tile = TILE // BLOCK
    yield from [None] * segment.purged
    for tile in range(segment.purged, TILE):
        first = key_of(log, (segment.number * SEGMENT) // BLOCK + tile * per_tile)
        blocks = rows(
            connection,
            "SELECT data FROM indelible.block WHERE key >= %s AND key < %s ORDER BY key",
            first,
            first + per_tile,
        )
        if len(blocks) != per_tile:
            raise Damaged(f"tile {tile}: found {len(blocks)} blocks, expected {per_tile}")
        bodies = [body for (data,) in blocks for body in unpack_block(data)]
        verify_times(bodies)
        yield [found_by(body) for body in bodies]


def _check(what: str, expected: object, found: object) -> None:
    if found != expected:
        raise Damaged(f"{what}: do not follow from the entries; queries may not find them all")
