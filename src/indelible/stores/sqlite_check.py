"""
What a closed segment's file has beside its entries, held against where it must come from.

Entries are `indelible.verify`'s business. Here it is the file as a whole, whose hash
the manifest and the custody stream name, and with *deep* everything that queries go
by: an index that leaves an entry out would hide it although the tree holds it.
"""

from __future__ import annotations

import sqlite3
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
from indelible.stores.sqlite_layout import hash_file, segment_path
from indelible.verify import found_by, verify_times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.segment import Segment
    from indelible.terms import Terms


def check_file(directory: Path, segment: Segment, *, deep: bool) -> None:
    """
    Check the file of *segment* in the store at *directory*; an `indelible.verify.CheckFile`.

    Raises:
        Damaged: It is not the file that was closed, or, with *deep*, it or the
            manifest hides entries from queries.
    """
    path = segment_path(directory, segment.log, segment.number, segment.purged)
    try:
        found = hash_file(path)
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror}") from error
    if found != (segment.file_hash, segment.file_size):
        raise Damaged(
            f"found {found[1]} bytes with SHA-256 {found[0].hex()},"
            f" expected {segment.file_size} with {segment.file_hash.hex()}"
        )
    if deep:
        try:
            with closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            ) as file:
                _check_index(file, segment)
        except sqlite3.Error as error:
            raise Damaged(f"cannot be read: {error}") from error


def _check_index(file: sqlite3.Connection, segment: Segment) -> None:
    """Build anew what queries go by, and compare it with what is there."""
    tiles: list[Columns] = []
    rows: list[tuple[Any, ...]] = []
    spans: list[tuple[Span, Span, Span]] = []
    for number, entries in enumerate(_tiles(file, segment.purged)):
        if entries is None:
            columns = Columns.purged(TILE)
            recorded = occurred = id_times = NOTHING
        else:
            columns = Columns.of([terms for _, terms in entries])
            recorded = Span.of([at for at, _ in entries])
            occurred = Span.of([terms.occurred_at for _, terms in entries])
            id_times = Span.of([terms.id_time for _, terms in entries])
        tiles.append(columns)
        spans.append((recorded, occurred, id_times))
        rows.append(
            (
                number,
                *(edge for span in spans[-1] for edge in (span.least, span.most)),
                pack(columns.ids),
                pack(columns.traces),
            )
        )
    _check("tiles", rows, file.execute(_TILES).fetchall())
    places = Postings.collect(tiles)
    _check("postings", list(Postings.pages(places)), file.execute(_POSTINGS).fetchall())
    whole = [Span.over(column) for column in zip(*spans, strict=True)]
    _check("times", whole, [segment.recorded, segment.occurred, segment.id_times])
    _check("counts", Postings.few(places), dict(segment.counts))
    _check("filter", Filter.build(places), segment.filter)


_TILES = """
    SELECT number, recorded_least, recorded_most, occurred_least, occurred_most,
           id_time_least, id_time_most, ids, traces
    FROM tile ORDER BY number
"""
_POSTINGS = "SELECT least_term, page FROM posting ORDER BY least_term"


def _tiles(file: sqlite3.Connection, purged: int) -> Iterator[list[tuple[int, Terms]] | None]:
    """Yield recorded_at and terms of the entries of each tile; nothing of those purged."""
    blocks = [data for (data,) in file.execute("SELECT data FROM block ORDER BY number")]
    per_tile = TILE // BLOCK
    if len(blocks) != SEGMENT // BLOCK - purged * per_tile:
        raise Damaged(
            f"found {len(blocks)} blocks, expected {SEGMENT // BLOCK - purged * per_tile}"
        )
    yield from [None] * purged
    for start in range(0, len(blocks), per_tile):
        bodies = [body for data in blocks[start : start + per_tile] for body in unpack_block(data)]
        verify_times(bodies)
        yield [found_by(body) for body in bodies]


def _check(what: str, expected: object, found: object) -> None:
    if found != expected:
        raise Damaged(f"{what}: do not follow from the entries; queries may not find them all")
