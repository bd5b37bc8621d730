"""
Tiles and entry bundles: a log as static files that anyone can fetch and check.

Follows c2sp.org/tlog-tiles. A tile holds 256 consecutive hashes of one level of
the tree, every eighth level has tiles, and a bundle holds the entries whose leaf
hashes stand in the tile of level 0 with the same number. The last tile of a
level is partial until it is full; its width then stands in its path.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from indelible.errors import CallerError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TILE_WIDTH = 256
"""Hashes in a full tile, entries in a full bundle."""

TILE_HEIGHT = 8
"""Levels of the tree from one level of tiles to the next."""

MAX_ENTRY = 65_535
"""Bytes of the largest entry: its length is written in 16 bits."""

_MAX_LEVEL = 63
_MAX_NUMBER = 2**63 - 1
_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<n>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?"
)


def tile_path(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """
    Name the tile number *n* of a level of tiles.

    Raises:
        CallerError: There is no such tile.
    """
    if not 0 <= level <= _MAX_LEVEL:
        raise CallerError(f"tile: found level {level}, expected 0 to {_MAX_LEVEL}")
    return f"tile/{level}/{_number(n, width)}"


def entries_path(n: int, width: int = TILE_WIDTH) -> str:
    """
    Name the entry bundle number *n*.

    Raises:
        CallerError: There is no such bundle.
    """
    return f"tile/entries/{_number(n, width)}"


def parse_path(path: str) -> tuple[int | None, int, int]:
    """
    Read what `tile_path` and `entries_path` write.

    Returns:
        Level, number and width; no level for an entry bundle.

    Raises:
        Malformed: It is not exactly the path of a tile or a bundle.
    """
    if not (match := _PATH.fullmatch(path)):
        raise Malformed(f"tile: found path {path[:100]!r}, expected tile/<level>/<number>")
    level = None if match["level"] == "entries" else int(match["level"])
    n = int(match["n"].replace("x", "").replace("/", ""))
    width = int(match["width"]) if match["width"] else TILE_WIDTH
    try:
        exact = entries_path(n, width) if level is None else tile_path(level, n, width)
    except CallerError as fault:
        raise Malformed(str(fault)) from None
    # Leading zeros, or the width of a full tile, would give it a second name.
    if exact != path:
        raise Malformed(f"tile: found path {path!r}, expected {exact!r}")
    return level, n, width


def partial_width(level: int, size: int) -> int:
    """Count the hashes in the partial tile of a level of tiles; 0 if it has none."""
    return (size >> (TILE_HEIGHT * level)) % TILE_WIDTH


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield level, number and width of every hash tile of a tree of *size* leaves."""
    level = 0
    while hashes := size >> (TILE_HEIGHT * level):
        for n in range(hashes // TILE_WIDTH):
            yield level, n, TILE_WIDTH
        if width := partial_width(level, size):
            yield level, hashes // TILE_WIDTH, width
        level += 1


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """
    Write the entries of one bundle, each behind its length.

    Raises:
        CallerError: They are none or too many, or one is too large.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise CallerError(f"bundle: found {len(entries)} entries, expected 1 to {TILE_WIDTH}")
    if (largest := max(map(len, entries))) > MAX_ENTRY:
        raise CallerError(
            f"bundle: found an entry of {largest} bytes, expected at most {MAX_ENTRY}"
        )
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def decode_bundle(data: bytes) -> list[bytes]:
    """
    Read the entries of one bundle.

    Raises:
        Malformed: The data ends inside an entry, or holds none or too many.
    """
    entries = []
    at = 0
    while at < len(data):
        start = at + 2
        at = start + int.from_bytes(data[at:start])
        entries.append(data[start:at])
    # A cut length or entry is seen here: the last one would end beyond the data.
    if at != len(data):
        raise Malformed(
            f"bundle: found {len(data)} bytes, expected {at} by the length of the last entry"
        )
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise Malformed(f"bundle: found {len(entries)} entries, expected 1 to {TILE_WIDTH}")
    return entries


def _number(n: int, width: int) -> str:
    if not 0 <= n <= _MAX_NUMBER:
        raise CallerError(f"tile: found number {n}, expected 0 to {_MAX_NUMBER}")
    if not 1 <= width <= TILE_WIDTH:
        raise CallerError(f"tile: found width {width}, expected 1 to {TILE_WIDTH}")
    # Groups of three digits keep directories small; the x tells a directory
    # from a tile.
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *directories, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
    number = "/".join([*(f"x{each}" for each in directories), last])
    return number if width == TILE_WIDTH else f"{number}.p/{width}"
