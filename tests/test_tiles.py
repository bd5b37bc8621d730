"""A log as static files has the paths and bytes of c2sp.org/tlog-tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import CallerError, Malformed
from indelible.tiles import (
    MAX_ENTRY,
    TILE_WIDTH,
    decode_bundle,
    encode_bundle,
    entries_path,
    parse_path,
    partial_width,
    tile_path,
    tiles_of,
)


@pytest.mark.parametrize(
    ("n", "number"),
    [
        (0, "000"),
        (67, "067"),
        (999, "999"),
        (1000, "x001/000"),
        (1234067, "x001/x234/067"),
        (10**18, "x001/x000/x000/x000/x000/x000/000"),
    ],
)
def test_numbers_are_written_in_groups_of_three_digits(n: int, number: str) -> None:
    """Paths are those that other tools ask for."""
    assert f"tile/0/{number}" == tile_path(0, n)
    assert f"tile/63/{number}.p/255" == tile_path(63, n, 255)
    assert f"tile/entries/{number}" == entries_path(n)
    assert f"tile/entries/{number}.p/1" == entries_path(n, 1)


@given(st.none() | st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_a_path_names_one_tile(level: int | None, n: int, width: int) -> None:
    """From its path follows which tile or bundle it is."""
    path = entries_path(n, width) if level is None else tile_path(level, n, width)

    assert (level, n, width) == parse_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/x000/000",
        "tile/0/000/000",
        "tile/0/x1/000",
        "tile/0/\uff11\uff12\uff13",
        "tile/-1/000",
        "tile/00/000",
        "tile/64/000",
        "tile/data/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
        "tile/0/../000",
        "tile/entries/../000",
    ],
)
def test_what_is_not_exactly_a_path_is_refused(path: str) -> None:
    """A tile has one name, and no other file can be asked for."""
    with pytest.raises(Malformed, match="tile: found"):
        parse_path(path)


@pytest.mark.parametrize(
    ("level", "n", "width", "found"),
    [
        (-1, 0, 256, "level -1"),
        (64, 0, 256, "level 64"),
        (0, -1, 256, "number -1"),
        (0, 2**63, 256, f"number {2**63}"),
        (0, 0, 0, "width 0"),
        (0, 0, 257, "width 257"),
    ],
)
def test_a_tile_that_cannot_be_has_no_path(level: int, n: int, width: int, found: str) -> None:
    """What is wrong gets no name."""
    with pytest.raises(CallerError, match=f"tile: found {found}"):
        tile_path(level, n, width)


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    """The worked example of c2sp.org/tlog-tiles."""
    tiles = list(tiles_of(70_000))

    assert [(0, n, 256) for n in range(273)] == tiles[:273]
    assert [(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)] == tiles[273:]
    assert [112, 17, 1, 0] == [partial_width(level, 70_000) for level in range(4)]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        (0, []),
        (1, [(0, 0, 1)]),
        (255, [(0, 0, 255)]),
        (256, [(0, 0, 256), (1, 0, 1)]),
        (257, [(0, 0, 256), (0, 1, 1), (1, 0, 1)]),
    ],
)
def test_a_small_tree_has_few_tiles(size: int, tiles: list[tuple[int, int, int]]) -> None:
    """A full tile has one hash in the level above, and an empty tile is none."""
    assert tiles == list(tiles_of(size))


@given(st.integers(0, 200_000))
def test_tiles_hold_every_complete_subtree_of_their_levels(size: int) -> None:
    """Tiles follow one another without a gap, and end where the tree does."""
    counted: dict[int, int] = {}

    for level, n, width in tiles_of(size):
        assert counted.get(level, 0) == n * TILE_WIDTH
        counted[level] = n * TILE_WIDTH + width

    assert {level: size >> (8 * level) for level in range(3) if size >> (8 * level)} == counted


def test_a_bundle_holds_each_entry_behind_its_length() -> None:
    """The bytes are those of c2sp.org/tlog-tiles."""
    entries = [b"alpha", b"", b"x" * MAX_ENTRY]

    bundle = encode_bundle(entries)

    assert b"\x00\x05alpha" + b"\x00\x00" + b"\xff\xff" + b"x" * MAX_ENTRY == bundle
    assert entries == decode_bundle(bundle)


@pytest.mark.parametrize("entries", [[], [b""] * 257, [b"x" * 65_536]])
def test_what_does_not_fit_into_a_bundle_is_refused(entries: list[bytes]) -> None:
    """A length that cannot be written is not cut."""
    with pytest.raises(CallerError, match="bundle: found"):
        encode_bundle(entries)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x01",
        b"\x00\x02x",
        b"\x00\x00\x00",
        b"\x00\x01x\x00",
        b"\xff\xffx",
        b"\x00\x00" * 257,
    ],
)
def test_what_is_not_exactly_a_bundle_is_refused(data: bytes) -> None:
    """No entry is read from half of its bytes."""
    with pytest.raises(Malformed, match="bundle: found"):
        decode_bundle(data)
