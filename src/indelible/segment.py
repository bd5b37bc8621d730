"""
Segment: 65,536 consecutive entries, and how entries are packed for keeping.

A segment is 256 tiles, a tile is 256 entries or 4 blocks, a block is 64 bodies
compressed together. The root of a closed segment is one node of the tree, so
segments are verified in parallel and on their own. What entries can be found by
is packed beside them: `Columns` for the tiles of the open part, which are
scanned; `Postings` and a `Filter` for a closed segment, which are looked up.

Everything here is bytes in, bytes out. All numbers are little-endian.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import accumulate, chain, compress, groupby, repeat
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import Damaged
from indelible.terms import FEW_VALUES, LOOKUPS, NO_TRACE, field_of

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from indelible.terms import Terms

BLOCK = 64
TILE = 256
SEGMENT = TILE * TILE
TILES_LEVEL, SEGMENTS_LEVEL = 8, 16
"""Levels of the tree at which one node is a tile's, or a segment's, root."""

_PAGE_TERMS = 256
_DENSE = 4_096
_FILTER_BITS_PER_TERM = 16


@dataclass(frozen=True, slots=True)
class Span:
    """The least and the greatest of some numbers."""

    least: int
    most: int

    @classmethod
    def of(cls, numbers: Collection[int]) -> Span:
        """Return the span of *numbers*, of which there is at least one."""
        return cls(min(numbers), max(numbers))

    @classmethod
    def over(cls, spans: Collection[Span]) -> Span:
        """Return the span that covers all *spans*."""
        return cls(min(span.least for span in spans), max(span.most for span in spans))

    def meets(self, first: int, last: int) -> bool:
        """Tell whether any number of [*first*, *last*) may lie within."""
        return self.least < last and first <= self.most


NOTHING = Span(2**63 - 1, -(2**63))
"""The span of no numbers: it meets no range, and changes no span that covers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """
    What the store's head keeps of one closed segment.

    Attributes:
        number: Its first entry is at ``number * 65_536``.
        root: Hash of its complete subtree.
        file_hash: SHA-256 of the file that holds it.
        file_size: Bytes of that file.
        recorded, occurred, id_times: What its entries' times lie within.
        filter: Which terms it may hold, see `Filter`.
        counts: Per term of a field with few values: how often, and the place of one.
        lookups: Which lookups its vault file may hold; empty where there are none. It
            shrinks when values are forgotten, and so is no part of `index_hash`.
        purged: How many of its tiles the file has only the hashes of, from the first on.
    """

    log: str
    number: int
    root: bytes
    file_hash: bytes
    file_size: int
    recorded: Span
    occurred: Span
    id_times: Span
    filter: bytes
    counts: Mapping[int, tuple[int, int]]
    lookups: bytes = b""
    purged: int = 0

    @property
    def index_hash(self) -> bytes:
        """SHA-256 of what queries skip it by: spans, counts and filter."""
        spans = [
            number
            for span in (self.recorded, self.occurred, self.id_times)
            for number in (span.least, span.most)
        ]
        counts = sorted((term, *counted) for term, counted in self.counts.items())
        return sha256(msgspec.msgpack.encode((spans, counts, self.filter))).digest()

    @property
    def first(self) -> int:
        """Index of its first entry."""
        return self.number * SEGMENT

    def tiles_before(self, index: int) -> int:
        """Return how many of its tiles lie wholly before the entry at *index*."""
        return min(max(index - self.first, 0) // TILE, TILE)


@dataclass(frozen=True, slots=True)
class Columns:
    """
    What some consecutive entries can be found by, in the order of the entries.

    Attributes:
        counts: How many terms each entry has.
        terms: Their terms, one entry after the other.
        ids, traces: A fingerprint each; no traces where no entry has one, and no ids
            of entries that were purged.
    """

    counts: bytes
    terms: array[int]
    ids: array[int]
    traces: array[int]

    @classmethod
    def of(cls, terms: Sequence[Terms]) -> Columns:
        """Pack the *terms* of entries."""
        traces = [entry.trace for entry in terms]
        return cls(
            bytes([len(entry.terms) for entry in terms]),
            array("q", chain.from_iterable([entry.terms for entry in terms])),
            array("I", [entry.id for entry in terms]),
            array("I", traces if any(traces) else ()),
        )

    @classmethod
    def purged(cls, entries: int) -> Columns:
        """Return the columns of that many *entries* by which none of them is found."""
        return cls(bytes(entries), array("q"), array("I"), array("I"))

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Return the columns of all entries of *parts*."""
        if len(parts) == 1:
            return parts[0]
        traces: array[int] = array("I")
        if any(part.traces for part in parts):
            for part in parts:
                traces.extend(part.traces or array("I", [NO_TRACE]) * len(part.counts))
        return cls(
            b"".join(part.counts for part in parts),
            array("q", chain.from_iterable(part.terms for part in parts)),
            array("I", chain.from_iterable(part.ids for part in parts)),
            traces,
        )

    def to_bytes(self) -> bytes:
        """Return counts, ids, terms, traces, one after the other."""
        return b"".join((self.counts, pack(self.ids), pack(self.terms), pack(self.traces)))

    @classmethod
    def from_bytes(cls, entries: int, data: bytes) -> Columns:
        """
        Read the columns of that many *entries*.

        Raises:
            Damaged: The parts do not fit together.
        """
        counts = data[:entries]
        ids_end = entries * 5
        terms_end = ids_end + 8 * sum(counts)
        if len(counts) != entries or len(data) not in (terms_end, terms_end + 4 * entries):
            raise Damaged(f"columns of {entries} entries: found {len(data)} bytes, not what fits")
        return cls(
            counts,
            _unpack("q", data[ids_end:terms_end]),
            _unpack("I", data[entries:ids_end]),
            _unpack("I", data[terms_end:]),
        )

    def positions(self, term: int) -> set[int]:
        """Return the places of the entries that have *term*."""
        return set(_places(pack(self.terms), term, self.counts))


@dataclass(frozen=True, slots=True)
class Lookups:
    """
    By what the committed values of some consecutive entries can be found, in their order.

    Kept beside `Columns`, never in them: these can be forgotten. A count has two bytes,
    since a list of many texts may be searchable.
    """

    counts: array[int]
    terms: array[int]

    @classmethod
    def of(cls, lookups: Sequence[Sequence[int]]) -> Lookups:
        """Pack the *lookups* of entries."""
        return cls(
            array("H", [len(each) for each in lookups]), array("q", chain.from_iterable(lookups))
        )

    @classmethod
    def joined(cls, parts: Sequence[Lookups]) -> Lookups:
        """Return the lookups of all entries of *parts*."""
        return cls(
            array("H", chain.from_iterable(part.counts for part in parts)),
            array("q", chain.from_iterable(part.terms for part in parts)),
        )

    def to_bytes(self) -> bytes:
        """Return counts and terms, one after the other; nothing where there are no terms."""
        return pack(self.counts) + pack(self.terms) if self.terms else b""

    @classmethod
    def from_bytes(cls, entries: int, data: bytes) -> Lookups:
        """
        Read the lookups of that many *entries*.

        Raises:
            Damaged: The parts do not fit together.
        """
        if not data:
            return cls(array("H", bytes(2 * entries)), array("q"))
        end = 2 * entries
        counts = _unpack("H", data[:end]) if len(data) >= end else array("H")
        if len(counts) != entries or len(data) != end + 8 * sum(counts):
            raise Damaged(f"lookups of {entries} entries: found {len(data)} bytes")
        return cls(counts, _unpack("q", data[end:]))

    def without(self, gone: Mapping[int, Collection[int]]) -> Lookups:
        """Return them without those that *gone* names for each place."""
        kept, start = [], 0
        for place, count in enumerate(self.counts):
            left_out = gone.get(place, ())
            kept.append([t for t in self.terms[start : start + count] if t not in left_out])
            start += count
        return Lookups.of(kept)


def find_in_columns(
    data: bytes, entries: int, groups: Iterable[Iterable[int]], lookups: bytes = b""
) -> set[int] | None:
    """
    Return the places of entries that have a term of each group, or None for all.

    Works on the bytes of `Columns.to_bytes` and `Lookups.to_bytes`: the search runs over
    memory, and most tiles hold no rare term.
    """
    found: set[int] | None = None
    counts = data[:entries]
    start = entries * 5
    if lookups and len(lookups) < 2 * entries:
        raise Damaged(f"lookups of {entries} entries: found {len(lookups)} bytes")
    kept: tuple[tuple[bytes, Sequence[int]], ...] = (
        (data[start : start + 8 * sum(counts)], counts),
        (lookups[2 * entries :], _unpack("H", lookups[: 2 * entries])),
    )
    for group in groups:
        places = {place for term in group for place in _places(*_of_field(kept, term))}
        found = places if found is None else found & places
        if not found:
            return found
    return found


def find_fingerprint(data: bytes, fingerprint: int) -> Iterator[int]:
    """Yield the places of *fingerprint* in the bytes of a column of fingerprints."""
    needle = fingerprint.to_bytes(4, "little")
    at = data.find(needle)
    while at >= 0:
        if at % 4 == 0:
            yield at // 4
        at = data.find(needle, at + 1)


def _of_field(
    kept: tuple[tuple[bytes, Sequence[int]], ...], term: int
) -> tuple[bytes, int, Sequence[int]]:
    terms, counts = kept[field_of(term) in LOOKUPS]
    return terms, term, counts


def _places(terms: bytes, term: int, counts: Sequence[int]) -> Iterator[int]:
    needle = term.to_bytes(8, "little")
    at = terms.find(needle)
    if at < 0:
        return
    ends = list(accumulate(counts))
    place = 0
    while at >= 0:
        if at % 8 == 0:
            while ends[place] * 8 <= at:
                place += 1
            yield place
        at = terms.find(needle, at + 1)


def pack_block(bodies: Sequence[bytes]) -> bytes:
    """Compress the *bodies* of up to 64 entries; none of them holds a line feed."""
    return _compress(b"\n".join(bodies), ZstdCompressor.FLUSH_FRAME)


def unpack_block(data: bytes) -> list[bytes]:
    """
    Return the bodies of a block.

    Raises:
        Damaged: It does not decompress, or to more than a block can be.
    """
    reader = ZstdDecompressor()
    try:
        bodies = reader.decompress(data, _MAX_BLOCK)
    except ZstdError as error:
        raise Damaged(f"block: {error}") from error
    if not reader.eof or reader.unused_data:
        raise Damaged("block: longer or shorter than one frame")
    return bodies.split(b"\n")


# Level 1: on blocks of this size level 6 costs four times the time for 5 % of the
# bytes, see docs/performance.md. The checksum makes a flipped bit an error
# here rather than a wrong body that only the tree would notice. One compressor serves
# all threads: each call writes a whole frame under the compressor's own lock.
_compress = ZstdCompressor(
    options={CompressionParameter.compression_level: 1, CompressionParameter.checksum_flag: 1}
).compress

_MAX_BLOCK = BLOCK * 65_536


class Filter:
    """
    Which terms a segment may hold: a Bloom filter with two probes.

    Terms are hashes already, so their own bits are the probes. At 16 to 32 bits
    a term, about one segment in a hundred is opened for nothing.
    """

    @staticmethod
    def build(terms: Collection[int]) -> bytes:
        """Return the filter of *terms*; its length is a power of two."""
        bits = 1 << max(len(terms) * _FILTER_BITS_PER_TERM - 1, 1 << 10).bit_length()
        mask, data = bits - 1, bytearray(bits // 8)
        for term in terms:
            probe = term >> 4
            data[(probe & mask) >> 3] |= 1 << (probe & 7)
            probe >>= 24
            data[(probe & mask) >> 3] |= 1 << (probe & 7)
        return bytes(data)

    @staticmethod
    def may_hold(data: bytes, term: int) -> bool:
        """
        Tell whether *term* may be among those that the filter was built of.

        Raises:
            Damaged: It is no filter.
        """
        if len(data).bit_count() != 1:
            raise Damaged(f"filter: found {len(data)} bytes, expected a power of two")
        mask, probe = len(data) * 8 - 1, term >> 4
        if not data[(probe & mask) >> 3] >> (probe & 7) & 1:
            return False
        probe >>= 24
        return bool(data[(probe & mask) >> 3] >> (probe & 7) & 1)


class Postings:
    """
    Per term of a segment, the places that have it, in pages of up to 256 terms.

    A page is ``u16 n · n × i64 term · n × u16 (count - 1) · places``; the places of
    a term are u16 each, or a bitmap of 8 KiB where that is shorter.
    """

    @staticmethod
    def collect(tiles: Iterable[Columns | Lookups]) -> dict[int, array[int]]:
        """Return the places of each term of consecutive *tiles*, the first at place 0."""
        # Arrays, not lists: the garbage collector does not count them.
        places: defaultdict[int, array[int]] = defaultdict(partial(array, "H"))
        start = 0
        for tile in tiles:
            counts = tile.counts
            owners = chain.from_iterable(map(repeat, range(start, start + len(counts)), counts))
            for term, place in zip(tile.terms, owners, strict=True):
                places[term].append(place)
            start += len(counts)
        return places

    @staticmethod
    def pages(places: Mapping[int, array[int]]) -> Iterator[tuple[int, bytes]]:
        """Yield each page with its least term."""
        terms = sorted(places)
        for start in range(0, len(terms), _PAGE_TERMS):
            page = terms[start : start + _PAGE_TERMS]
            lists = [places[term] for term in page]
            yield (
                page[0],
                b"".join(
                    (
                        len(page).to_bytes(2, "little"),
                        pack(array("q", page)),
                        pack(array("H", [len(places) - 1 for places in lists])),
                        *_pack_lists(lists),
                    )
                ),
            )

    @staticmethod
    def find(page: bytes, term: int) -> array[int] | None:
        """
        Return the places of *term*, if *page* has it.

        Raises:
            Damaged: It is no page.
        """
        terms, counts = _page_head(page)
        at = bisect_left(terms, term)
        if at == len(terms) or terms[at] != term:
            return None
        start = 2 + 10 * len(terms) + sum(map(_places_size, counts[:at]))
        return _unpack_places(page[start : start + _places_size(counts[at])], counts[at] + 1)

    @staticmethod
    def read(page: bytes) -> Iterator[tuple[int, array[int]]]:
        """
        Yield each term of *page* with its places.

        Raises:
            Damaged: It is no page.
        """
        terms, counts = _page_head(page)
        start = 2 + 10 * len(terms)
        for term, count in zip(terms, counts, strict=True):
            end = start + _places_size(count)
            yield term, _unpack_places(page[start:end], count + 1)
            start = end
        if start != len(page):
            raise Damaged(f"page of postings: found {len(page)} bytes, expected {start}")

    @staticmethod
    def after(pages: Iterable[bytes], first: int) -> dict[int, array[int]]:
        """
        Return the places from *first* on of each term of *pages* that has any.

        Raises:
            Damaged: One is no page.
        """
        places: dict[int, array[int]] = {}
        for page in pages:
            for term, where in Postings.read(page):
                if kept := where[bisect_left(where, first) :]:
                    places[term] = kept
        return places

    @staticmethod
    def few(places: Mapping[int, array[int]]) -> dict[int, tuple[int, int]]:
        """Count the terms of fields with few values."""
        return {
            term: (len(where), where[0])
            for term, where in places.items()
            if field_of(term) in FEW_VALUES
        }


def _page_head(page: bytes) -> tuple[array[int], array[int]]:
    count = int.from_bytes(page[:2], "little")
    if len(page) < 2 + 10 * count or not count:
        raise Damaged("page of postings: cut short")
    middle = 2 + 8 * count
    return _unpack("q", page[2:middle]), _unpack("H", page[middle : middle + 2 * count])


def _places_size(count_minus_one: int) -> int:
    return SEGMENT // 8 if count_minus_one >= _DENSE else 2 * (count_minus_one + 1)


def _pack_lists(lists: Iterable[array[int]]) -> Iterator[bytes]:
    for dense, run in groupby(lists, lambda places: len(places) > _DENSE):
        if dense:
            yield from map(_bitmap, run)
        else:
            yield pack(array("H", chain.from_iterable(run)))


def _bitmap(places: Iterable[int]) -> bytes:
    digits = bytearray(b"0") * SEGMENT
    for place in places:
        digits[-1 - place] = 49  # "1"
    return int(digits, 2).to_bytes(SEGMENT // 8, "little")


def _unpack_places(data: bytes, count: int) -> array[int]:
    if len(data) != _places_size(count - 1):
        raise Damaged(f"postings: found {len(data)} bytes of {count} places")
    if count > _DENSE:
        places = array(
            "H", compress(range(SEGMENT), chain.from_iterable(map(_BITS.__getitem__, data)))
        )
    else:
        places = _unpack("H", data)
    if len(places) != count:
        raise Damaged(f"postings: found {len(places)} places, expected {count}")
    return places


_BITS = [tuple(byte >> bit & 1 for bit in range(8)) for byte in range(256)]


def pack(numbers: array[int]) -> bytes:
    """Return *numbers* as bytes, little-endian on every machine."""
    if sys.byteorder == "big":  # pragma: no cover - files are the same everywhere
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _unpack(typecode: str, data: bytes) -> array[int]:
    numbers: array[int] = array(typecode)
    numbers.frombytes(data)
    if sys.byteorder == "big":  # pragma: no cover - files are the same everywhere
        numbers.byteswap()
    return numbers
