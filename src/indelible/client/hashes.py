"""
Hashes: proofs made from a log's hash tiles, whoever has served them.

Nothing that a tile says is believed: what is made of wrong hashes is a proof that does not
hold. It knows no network; which tiles are wanting it says by raising `Wanting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indelible.errors import InvalidProof, Malformed, Rollback
from indelible.merkle import (
    HASH_SIZE,
    consistency_proof,
    inclusion_proof,
    node_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from indelible.tiles import TILE_HEIGHT, TILE_WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from indelible.mark import Known

    Tile = tuple[int, int, int]
    """Level, number and width."""

_NOTHING = bytes(HASH_SIZE)


class Wanting(Exception):
    """Tiles that must be fetched before there is a proof."""

    def __init__(self, tiles: Iterable[Tile]) -> None:
        self.tiles = tuple(sorted(tiles))
        super().__init__(f"{len(self.tiles)} tiles")


class Hashes:
    """
    The hashes below one signed tree.

    Attributes:
        size: Of the tree.
        fetched: The tiles that `add` was given.

    Args:
        kept: Tiles from before: one of the same width never changes.
    """

    def __init__(self, tree: Known, kept: Mapping[Tile, bytes]) -> None:
        self.size, self._root = tree.size, tree.root
        self.fetched: dict[Tile, bytes] = {}
        self._kept = kept
        self._wanting: set[Tile] = set()
        self._rows: dict[Tile, list[list[bytes]]] = {}

    def add(self, tile: Tile, data: bytes) -> None:
        """
        Take a tile that was wanting.

        Raises:
            Malformed: It has not as many hashes as it is wide.
        """
        if len(data) != tile[2] * HASH_SIZE:
            raise Malformed(
                f"tile {tile[0]}/{tile[1]}: found {len(data)} bytes, expected {tile[2]} hashes"
            )
        self.fetched[tile] = data

    def prove(self, index: int) -> tuple[bytes, ...]:
        """
        Return the inclusion proof of the entry at *index*; whether it holds is not said.

        Raises:
            Wanting: Tiles are wanting.
        """
        proof = inclusion_proof(index, self.size, self._node)
        self._check_complete()
        return tuple(proof)

    def verify_included(self, leaves: Mapping[int, bytes]) -> None:
        """
        Check that the tree holds each of *leaves*, leaf hashes by their index.

        Raises:
            Wanting: Tiles are wanting.
            InvalidProof: One is not there.
        """
        proofs = {index: inclusion_proof(index, self.size, self._node) for index in leaves}
        self._check_complete()
        for index, proof in proofs.items():
            verify_inclusion(leaves[index], index, self.size, proof, self._root)

    def verify_begins_with(self, known: Known) -> None:
        """
        Check that the tree begins with one that is *known*.

        Raises:
            Wanting: Tiles are wanting.
            Rollback: It is smaller, or begins otherwise.
        """
        if self.size < known.size:
            raise Rollback(f"holds {self.size} entries, but {known.size} were signed")
        try:
            self._verify_consistent(known.size, known.root)
        except InvalidProof as error:
            raise Rollback(
                f"its first {known.size} entries are not those that were signed: {error}"
            ) from None

    def root_at(self, size: int) -> bytes:
        """
        Return the root of the tree of *size* entries that this one begins with.

        Raises:
            Wanting: Tiles are wanting.
            InvalidProof: The hashes do not lead to the signed root.
        """
        root = root_at(size, self._node)
        self._check_complete()
        self._verify_consistent(size, root)
        return root

    def _verify_consistent(self, size: int, root: bytes) -> None:
        proof = consistency_proof(size, self.size, self._node)
        self._check_complete()
        verify_consistency(size, self.size, proof, root, self._root)

    def _check_complete(self) -> None:
        if self._wanting:
            wanting, self._wanting = self._wanting, set()
            raise Wanting(wanting)

    def _node(self, level: int, index: int) -> bytes:
        height, above = divmod(level, TILE_HEIGHT)
        number, place = divmod(index << above, TILE_WIDTH)
        width = min(TILE_WIDTH, (self.size >> (TILE_HEIGHT * height)) - number * TILE_WIDTH)
        rows = self._rows_of((height, number, width))
        return _NOTHING if rows is None else rows[above][place >> above]

    def _rows_of(self, tile: Tile) -> list[list[bytes]] | None:
        """Return the hashes of a tile and, level by level, those of the nodes above them."""
        if (rows := self._rows.get(tile)) is not None:
            return rows
        data = self.fetched.get(tile) or self._kept.get(tile)
        if data is None:
            self._wanting.add(tile)
            return None
        rows = [[data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]]
        while len(row := rows[-1]) > 1:
            rows.append(
                [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
            )
        self._rows[tile] = rows
        return rows
