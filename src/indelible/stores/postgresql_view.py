"""
A reader's view of the PostgreSQL store: one snapshot, whatever is written meanwhile.

Hashes, blocks and rows of the vault are read the same way wherever an entry lies. What
entries are found by is scanned in the open part and looked up in closed segments.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from indelible.entry import NO_PREVIOUS
from indelible.errors import Damaged, Purged
from indelible.merkle import HASH_SIZE, subtree_root
from indelible.segment import (
    BLOCK,
    SEGMENT,
    SEGMENTS_LEVEL,
    TILE,
    TILES_LEVEL,
    Columns,
    Filter,
    Lookups,
    Postings,
    find_fingerprint,
    find_in_columns,
    unpack_block,
)
from indelible.store import Stored, Tile, Wanted, Work
from indelible.stores.postgresql_build import FINDINGS
from indelible.stores.postgresql_connections import rows
from indelible.stores.rows import key_of, row_of
from indelible.terms import FEW_VALUES, LOOKUPS, field_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.segment import Segment
    from indelible.store import Head
    from indelible.stores.postgresql_connections import Connection

    Closed = Callable[[Connection, str, int], Sequence[Segment]]

FACT = "SELECT value FROM indelible.fact WHERE kind = %s AND key = %s"

_FIRST_ROWS, _MOST_ROWS = 8, 256
"""How many rows a scan fetches first, and at most at once."""

_PAGE = """
SELECT DISTINCT ON (wanted.term) wanted.term, data
FROM unnest(%s::bigint[]) AS wanted (term)
JOIN indelible.finding ON finding.key = %s AND purged = %s AND kind = %s
    AND place <= wanted.term
ORDER BY wanted.term, place DESC
"""


class View:
    """
    Implements `indelible.store.View`.

    Args:
        numbers: Of the logs, by their names.
        closed: Returns the closed segments of the log with a name and a number.
    """

    def __init__(
        self,
        connection: Connection,
        numbers: Mapping[str, int],
        heads: Mapping[str, Head],
        closed: Closed,
    ) -> None:
        self.work = Work()
        self.numbers = numbers
        self._connection = connection
        self._heads = heads
        self._closed = closed
        self._segments: dict[str, Sequence[Segment]] = {}
        self._tile_leaves: dict[tuple[str, int], bytes] = {}
        self._tile_roots: dict[tuple[str, int], list[bytes]] = {}

    def heads(self) -> Mapping[str, Head]:
        """Return the heads; see `indelible.store.View.heads`."""
        return self._heads

    def rotations(self, log: str) -> list[bytes]:
        """Return the rotation notes; see `indelible.store.View.rotations`."""
        return [
            note for (note,) in self._range("SELECT note FROM indelible.rotation", log, 0, 1 << 40)
        ]

    def segments(self, log: str) -> Sequence[Segment]:
        """Return the closed segments; see `indelible.store.View.segments`."""
        closed = self._segments.get(log)
        if closed is None:
            closed = self._closed(self._connection, log, self.numbers[log])
            self._segments[log] = closed
        return closed

    def stored(self, log: str, indexes: Sequence[int]) -> list[Stored]:
        """Return entries; see `indelible.store.View.stored`."""
        first = self._heads[log].first
        for index in indexes:
            if index < first:
                raise Purged(log, index)
        blocks = self._blocks(log, dict.fromkeys(index // BLOCK for index in indexes))
        self._load_leaves(
            log, {each // TILE for index in indexes for each in (index, max(index - 1, 0))}
        )
        found = []
        for index in indexes:
            body = blocks[index // BLOCK]
            if index % BLOCK >= len(body):
                raise Damaged(
                    f"log {log}: block {index // BLOCK} holds {len(body)} bodies, not {index}"
                )
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
        """Return what the vault keeps; see `indelible.store.View.rows`."""
        start = key_of(self.numbers[log], 0)
        wanted = [start + index for index in indexes if index >= self._heads[log].first]
        # For no keys at all PostgreSQL would look into the tables of all segments.
        query = "SELECT key, row FROM indelible.vault WHERE key = ANY(%s::bigint[])"
        found: dict[int, bytes] = dict(rows(self._connection, query, wanted)) if wanted else {}
        return [found.get(start + index, b"") for index in indexes]

    def lookups(self, log: str, first: int, last: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield the lookups of entries; see `indelible.store.View.lookups`."""
        first = max(first, self._heads[log].first)
        for segment in self.segments(log):
            if segment.first >= last or segment.first + SEGMENT <= first or not segment.lookups:
                continue
            found: dict[int, list[int]] = {}
            for lookup, places in self._postings(segment, "l"):
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

    def document(self, digest: bytes) -> bytes | None:
        """Return a document; see `indelible.store.View.document`."""
        found = rows(
            self._connection, "SELECT data FROM indelible.document WHERE digest = %s", digest
        )
        return found[0][0] if found else None

    def fact(self, kind: str, key: bytes) -> bytes | None:
        """Return a fact; see `indelible.store.View.fact`."""
        return fact_of(rows(self._connection, FACT, kind, key))

    def facts(
        self, kind: str, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield facts; see `indelible.store.View.facts`."""
        begin = first
        while True:
            found = rows(
                self._connection,
                "SELECT key, value FROM indelible.fact WHERE kind = %s AND key >= %s"
                " AND (%s::bytea IS NULL OR key < %s) ORDER BY key LIMIT %s",
                kind,
                begin,
                last,
                last,
                _MOST_ROWS,
            )
            yield from found
            if len(found) < _MOST_ROWS:
                return
            # The least key after it.
            begin = found[-1][0] + b"\x00"

    def tiles(self, log: str, first: int, last: int) -> Iterator[Tile]:
        """Yield tiles; see `indelible.store.View.tiles`."""
        head = self._heads[log]
        last, closed = min(last, head.size), len(self.segments(log)) * SEGMENT
        previous = self._leaf(log, first - 1)
        for begin in range(first, last, SEGMENT // 16):
            end = min(begin + SEGMENT // 16, last)
            tiles = range(begin // TILE, -(-end // TILE))
            self._load_leaves(log, tiles)
            whole = range(max(begin, head.first) // BLOCK, -(-end // BLOCK))
            blocks = self._blocks(log, whole)
            roots = dict(self._tile_rows("root", log, tiles))
            for tile in tiles:
                start = tile * TILE
                leaves = self._tile_leaves[log, tile]
                purged = start < head.first
                those = range(start // BLOCK, -(-min(start + TILE, last) // BLOCK))
                yield Tile(
                    first=start,
                    previous=previous,
                    bodies=() if purged else [b for block in those for b in blocks[block]],
                    leaves=leaves,
                    root=roots.get(tile),
                    columns=None if purged or start < closed else self._columns(log, start),
                    purged=purged,
                )
                previous = leaves[-HASH_SIZE:]

    def leaves(self, log: str, first: int, last: int) -> list[bytes]:
        """Return leaf hashes; see `indelible.store.View.leaves`."""
        tiles = range(first // TILE, -(-last // TILE))
        joined = b"".join(
            leaves
            for at in range(0, len(tiles), TILE)
            for leaves in self._load_leaves(log, tiles[at : at + TILE])
        )
        start = first % TILE
        return [_hash(joined, place) for place in range(start, start + last - first)]

    def node(self, log: str, level: int, index: int) -> bytes:
        """Return a node of the tree; see `indelible.store.View.node`."""
        if level < TILES_LEVEL:
            first = index << level
            return subtree_root(self.leaves(log, first, first + (1 << level)))
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
        """Yield what may be wanted; see `indelible.store.View.candidates`."""
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
        """Yield entries by ids; see `indelible.store.View.with_ids`."""
        kept = self._heads[log].first
        for segment in self.segments(log):
            if not segment.id_times.meets(*times) or segment.first + SEGMENT <= kept:
                continue
            tiles = self._tiles_within(log, segment, Wanted(), times)
            for number, ids in self._tile_findings(segment, "i", tiles):
                start = segment.first + number * TILE
                for index, found in enumerate(_numbers(ids), start):
                    if found in fingerprints and index >= kept:
                        yield index
        for start, entries, columns, _ in self._open_rows(log, id_times=times, first=kept):
            for index, found in enumerate(Columns.from_bytes(entries, columns).ids, start):
                if found in fingerprints:
                    yield index

    def tally(
        self, log: str, field: int, indexes: Sequence[int] | None
    ) -> dict[int, tuple[int, int]]:
        """Count terms; see `indelible.store.View.tally`."""
        totals: dict[int, tuple[int, int]] = {}
        first = self._heads[log].first
        chosen = None if indexes is None else {index for index in indexes if index >= first}
        for segment in self.segments(log):
            if segment.first + SEGMENT <= first:
                continue
            within = chosen
            if chosen is None and segment.purged < segment.tiles_before(first):
                # Its findings and the manifest still count what was purged.
                within = set(range(first, segment.first + SEGMENT))
            for term, count, place in self._count_closed(segment, field, within):
                total, _ = totals.get(term, (0, 0))
                totals[term] = (total + count, segment.first + place)
        for start, entries, row, lookups in self._open_rows(log, first=first):
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
    ) -> Iterator[tuple[int, int, int]]:
        if field in FEW_VALUES and chosen is None:
            for term, (count, place) in segment.counts.items():
                if field_of(term) == field:
                    yield term, count, place
            return
        if field in LOOKUPS and not segment.lookups:
            return
        if chosen is not None and chosen.isdisjoint(range(segment.first, segment.first + SEGMENT)):
            return
        for term, places in self._postings(segment, "l" if field in LOOKUPS else "t"):
            if field_of(term) != field:
                continue
            hits = (
                places
                if chosen is None
                else [place for place in places if segment.first + place in chosen]
            )
            if hits:
                yield term, len(hits), hits[-1]

    # ---- Closed segments ----

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
            self.work.segments_opened += 1
            places = self._places(log, segment, wanted)
            for place in reversed(places) if newest_first else places:
                if first <= start + place < last:
                    yield start + place

    def _places(self, log: str, segment: Segment, wanted: Wanted) -> Sequence[int]:
        tiles = self._tiles_within(log, segment, wanted)
        lists: list[Sequence[int]] = [
            self._places_of_group(segment, group) for group in wanted.groups
        ]
        for kind, fingerprint in (
            ("i", None if wanted.id is None else wanted.id[0]),
            ("r", wanted.trace),
        ):
            if fingerprint is not None:
                lists.append(
                    [
                        tile * TILE + place
                        for tile, column in self._tile_findings(segment, kind, tiles)
                        for place in find_fingerprint(column, fingerprint)
                    ]
                )
        if not lists:
            return [tile * TILE + place for tile in tiles for place in range(TILE)]
        shortest, *others = sorted(lists, key=len)
        allowed, members = set(tiles), [set(places) for places in others]
        return [
            place
            for place in shortest
            if place // TILE in allowed and all(place in places for places in members)
        ]

    def _places_of_group(self, segment: Segment, group: Iterable[int]) -> Sequence[int]:
        lists = []
        for kind, terms in (
            ("t", [term for term in group if field_of(term) not in LOOKUPS]),
            ("l", [term for term in group if field_of(term) in LOOKUPS]),
        ):
            for term, page in (
                rows(self._connection, _PAGE, terms, *self._key(segment), kind) if terms else ()
            ):
                if (places := Postings.find(page, term)) is not None:
                    lists.append(places)
        if len(lists) == 1:
            return lists[0]
        return sorted(set().union(*lists))

    def _tiles_within(
        self,
        log: str,
        segment: Segment,
        wanted: Wanted,
        id_times: tuple[int, int] | None = None,
    ) -> list[int]:
        """Return the numbers within *segment* of the tiles whose times meet what is wanted."""
        within, values = _within(wanted, id_times)
        key = key_of(self.numbers[log], segment.number * TILE)
        return [
            found[0] - key
            for found in rows(
                self._connection,
                f"SELECT key FROM indelible.tile WHERE key >= %s AND key < %s {within}"  # noqa: S608 - names of ours
                " ORDER BY key",
                key,
                key + TILE,
                *values,
            )
        ]

    def _tile_findings(
        self, segment: Segment, kind: str, tiles: Sequence[int]
    ) -> list[tuple[int, bytes]]:
        return rows(
            self._connection,
            "SELECT place, data FROM indelible.finding"
            " WHERE key = %s AND purged = %s AND kind = %s AND place = ANY(%s::bigint[])"
            " ORDER BY place",
            *self._key(segment),
            kind,
            list(tiles),
        )

    def _postings(self, segment: Segment, kind: str) -> Iterator[tuple[int, array[int]]]:
        self.work.segments_opened += 1
        for _, page in rows(self._connection, FINDINGS, *self._key(segment), kind):
            yield from Postings.read(page)

    def _key(self, segment: Segment) -> tuple[int, int]:
        return key_of(self.numbers[segment.log], segment.number), segment.purged

    # ---- The open part ----

    def _in_open_rows(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        for start, entries, columns, lookups in self._open_rows(
            log, wanted, first=first, last=last, newest_first=newest_first
        ):
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
        *,
        first: int = 0,
        last: int | None = None,
        id_times: tuple[int, int] | None = None,
        newest_first: bool = False,
    ) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield index of the first entry, number of entries, columns and lookups of open rows."""
        head = self._heads[log]
        last = head.size if last is None else min(last, head.size)
        whole = head.size // TILE * TILE
        within, values = _within(wanted or Wanted(), id_times)
        parts = [
            (
                "indelible.tile_columns JOIN indelible.tile USING (key)",
                str(TILE),
                (first // TILE, -(-min(last, whole) // TILE)),
                TILE,
            ),
            # A row may begin before the first entry that is asked for.
            ("indelible.tail", "entries", (max(first // TILE * TILE, whole), last), 1),
        ]
        for table, entries, (begin, end), width in reversed(parts) if newest_first else parts:
            query = f"SELECT key, {entries}::integer, columns, lookups FROM {table}"  # noqa: S608 - names of ours
            for key, count, columns, lookups in self._scan(
                f"{query} WHERE key >= %s AND key < %s {within}",
                key_of(self.numbers[log], begin),
                key_of(self.numbers[log], end),
                values,
                newest_first=newest_first,
            ):
                yield row_of(key) * width, count, columns, lookups

    def _scan(
        self, query: str, begin: int, end: int, values: Sequence[int], *, newest_first: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows in the order of their keys: few at first, for who needs only the newest."""
        order, limit = "DESC" if newest_first else "ASC", _FIRST_ROWS
        while begin < end:
            found = rows(
                self._connection, f"{query} ORDER BY key {order} LIMIT {limit}", begin, end, *values
            )
            yield from found
            if len(found) < limit:
                return
            if newest_first:
                end = found[-1][0]
            else:
                begin = found[-1][0] + 1
            limit = min(limit * 4, _MOST_ROWS)

    def _columns(self, log: str, first: int) -> Columns:
        return Columns.joined(
            [
                Columns.from_bytes(entries, columns)
                for _, entries, columns, _ in self._open_rows(log, first=first, last=first + TILE)
            ]
        )

    # ---- Hashes and bodies, wherever they lie ----

    def _blocks(self, log: str, numbers: Iterable[int]) -> dict[int, list[bytes]]:
        """Return the bodies of some blocks."""
        whole = self._heads[log].size // TILE * (TILE // BLOCK)
        start = key_of(self.numbers[log], 0)
        wanted = list(numbers)
        self.work.blocks_read += len(wanted)
        query = "SELECT key, data FROM indelible.block WHERE key = ANY(%s::bigint[])"
        keys = [start + number for number in wanted if number < whole]
        packed: dict[int, bytes] = dict(rows(self._connection, query, keys)) if keys else {}
        found: dict[int, list[bytes]] = {}
        tail: list[bytes] | None = None
        for number in wanted:
            if number >= whole:
                tail = self._tail(log) if tail is None else tail
                at = (number - whole) * BLOCK
                found[number] = tail[at : at + BLOCK]
                continue
            where = f"log {log}: segment {number * BLOCK // SEGMENT:06d}: block {number}"
            if start + number not in packed:
                raise Damaged(f"{where} is missing")
            try:
                found[number] = unpack_block(packed[start + number])
            except Damaged as error:
                raise Damaged(f"{where}: {error}") from error
        return found

    def _tail(self, log: str) -> list[bytes]:
        found = self._range(
            "SELECT bodies FROM indelible.tail", log, self._heads[log].size // TILE * TILE, 1 << 40
        )
        return [body for (bodies,) in found for body in bodies.split(b"\n")]

    def _leaf(self, log: str, index: int) -> bytes:
        if index < 0:
            return NO_PREVIOUS
        (leaves,) = self._load_leaves(log, [index // TILE])
        return _hash(leaves, index % TILE)

    def _load_leaves(self, log: str, tiles: Iterable[int]) -> list[bytes]:
        """Return the leaf hashes of some tiles; what was read is not read again."""
        wanted = list(tiles)
        size = self._heads[log].size
        unknown = [tile for tile in wanted if (log, tile) not in self._tile_leaves]
        if unknown:
            if len(self._tile_leaves) + len(unknown) > 2 * TILE:
                self._tile_leaves.clear()
                unknown = wanted
            found = dict(self._tile_rows("leaves", log, unknown))
            if size // TILE in unknown and size % TILE:
                parts = self._range(
                    "SELECT leaves FROM indelible.tail", log, size // TILE * TILE, 1 << 40
                )
                found[size // TILE] = b"".join(leaves for (leaves,) in parts)
            for tile in unknown:
                leaves = found.get(tile, b"")
                if len(leaves) != HASH_SIZE * min(TILE, size - tile * TILE):
                    raise Damaged(
                        f"log {log}: segment {tile // TILE:06d}: tile {tile} holds"
                        f" {len(leaves)} bytes of leaf hashes"
                    )
                self._tile_leaves[log, tile] = leaves
        return [self._tile_leaves[log, tile] for tile in wanted]

    def _tile_rows(
        self, column: str, log: str, tiles: Iterable[int]
    ) -> Iterator[tuple[int, bytes]]:
        start = key_of(self.numbers[log], 0)
        for key, value in rows(
            self._connection,
            f"SELECT key, {column} FROM indelible.tile WHERE key = ANY(%s::bigint[])",  # noqa: S608 - names of ours
            [start + tile for tile in tiles],
        ):
            yield key - start, value

    def _roots_of_tiles(self, log: str, segment: int) -> list[bytes]:
        cached = self._tile_roots.get((log, segment))
        if cached is not None:
            return cached
        first = segment * TILE
        roots = [
            root
            for (root,) in self._range("SELECT root FROM indelible.tile", log, first, first + TILE)
        ]
        expected = min(TILE, self._heads[log].size // TILE - first)
        if len(roots) != expected:
            raise Damaged(f"log {log}: found {len(roots)} tiles, expected {expected}")
        self._tile_roots[log, segment] = roots
        return roots

    def _segment_root(self, log: str, number: int) -> bytes:
        segments = self.segments(log)
        if number < len(segments):
            return segments[number].root
        return subtree_root(self._roots_of_tiles(log, number))

    def _range(self, query: str, log: str, begin: int, end: int) -> list[tuple[Any, ...]]:
        start = key_of(self.numbers[log], 0)
        return rows(
            self._connection,
            f"{query} WHERE key >= %s AND key < %s ORDER BY key",
            start + begin,
            start + end,
        )


def fact_of(found: Sequence[Sequence[Any]]) -> bytes | None:
    """Return what `FACT` has found, if anything."""
    return found[0][0] if found else None


def _hash(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_SIZE : place * HASH_SIZE + HASH_SIZE]


def _numbers(column: bytes) -> memoryview | array[int]:
    numbers: array[int] = array("I")
    numbers.frombytes(column)
    return numbers


def _within(wanted: Wanted, id_times: tuple[int, int] | None = None) -> tuple[str, tuple[int, ...]]:
    """Return the condition, and its values, that a row's spans meet what is *wanted*."""
    clauses, values = [], []
    bounds = [("recorded", wanted.recorded), ("occurred", wanted.occurred)]
    if wanted.id is not None:
        bounds.append(("id_time", (wanted.id[1], wanted.id[1] + 1)))
    if id_times is not None:
        bounds.append(("id_time", id_times))
    for name, (first, last) in bounds:
        clauses.append(f"AND {name}_least < %s AND {name}_most >= %s")
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
