"""
The Merkle tree under every log, as pure functions of hashes.

Follows RFC 6962 (section 2.1) with SHA-256; proofs are verified from the leaf
up, as RFC 9162 (section 2.1) does, so that their length is exact as well.
A tree is split at the largest power of two below its size, so that a subtree
of 2**level leaves, once complete, never changes: it is named by its level and
its index, and it is the only kind of node that is ever stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indelible.errors import CallerError, InvalidProof, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Node = Callable[[int, int], bytes]
    """Gives the hash of the complete subtree of 2**level leaves number *index*."""

HASH_SIZE = 32
"""Bytes of a SHA-256 hash."""

EMPTY_ROOT = hashlib.sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash the bytes of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into the one above them."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Compute the root of a tree from all its leaf hashes."""
    edge, _ = Edge().extend(leaves)
    return edge.root


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """
    Compute the root of a perfect subtree from the hashes of one of its levels.

    Raises:
        CallerError: Their number is not a power of two.
    """
    if len(hashes).bit_count() != 1:
        raise CallerError(f"perfect subtree: found {len(hashes)} hashes, expected a power of two")
    while len(hashes) > 1:
        hashes = _parents(hashes)
    return hashes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """
    The right edge of a tree: all that is needed to add to it.

    One hash for each set bit of *size*, that of the largest complete subtree
    first. Without arguments it is the edge of the empty tree.

    Raises:
        CallerError: The hashes are not those of a tree of this size.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise CallerError(
                f"edge: found {len(self.hashes)} hashes for a tree of {self.size} leaves"
            )
        if any(len(each) != HASH_SIZE for each in self.hashes):
            raise CallerError(f"edge: found a hash that has not {HASH_SIZE} bytes")

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Edge:
        """
        Read the edge of a tree of *size* leaves.

        Raises:
            Malformed: These are not as many hashes as the size has set bits.
        """
        if size < 0 or len(data) != size.bit_count() * HASH_SIZE:
            raise Malformed(f"edge: found {len(data)} bytes for a tree of {size} leaves")
        hashes = (data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))
        return cls(size=size, hashes=tuple(hashes))

    def to_bytes(self) -> bytes:
        """Write the hashes one after another; the size is kept beside them."""
        return b"".join(self.hashes)

    @property
    def root(self) -> bytes:
        """The root of the tree."""
        return _joined(self.hashes) if self.hashes else EMPTY_ROOT

    def extend(self, leaves: Sequence[bytes]) -> tuple[Edge, list[list[bytes]]]:
        """
        Add leaf hashes on the right.

        Returns:
            The new edge and, for each level from 0 (the leaves themselves), the
            subtrees that have become complete. The first of them has the index
            ``self.size >> level``.
        """
        pending = list(self.hashes)
        edge: list[bytes] = []
        levels: list[list[bytes]] = []
        complete, nodes = self.size, list(leaves)
        while nodes:
            levels.append(nodes)
            # An odd number of complete subtrees leaves the last one without a
            # right sibling: it waits in the edge for the first of the new ones.
            row = [pending.pop(), *nodes] if complete & 1 else nodes
            if len(row) & 1:
                edge.append(row[-1])
            complete, nodes = complete >> 1, _parents(row)
        hashes = (*pending, *reversed(edge))
        return Edge(size=self.size + len(leaves), hashes=hashes), levels


def root_at(size: int, node: Node) -> bytes:
    """Compute the root that the tree had when it had *size* leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """
    Prove that a tree of *size* leaves holds the leaf at *index*.

    Returns:
        PATH(index, D[size]) of RFC 6962: the sibling of the leaf first.

    Raises:
        CallerError: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise CallerError(f"inclusion proof: found index {index}, expected one below {size}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = _middle(start, end)
        if index < middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start = middle
    return path[::-1]


def consistency_proof(first: int, second: int, node: Node) -> list[bytes]:
    """
    Prove that the tree of *second* leaves begins with that of *first* leaves.

    Returns:
        PROOF(first, D[second]) of RFC 6962; nothing when *first* is 0 or equal
        to *second*.

    Raises:
        CallerError: The sizes are not in order.
    """
    if not 0 <= first <= second:
        raise CallerError(
            f"consistency proof: found sizes {first} and {second}, expected them in order"
        )
    if first == 0:
        return []
    path = []
    start, end = 0, second
    while end != first:
        middle = _middle(start, end)
        if first <= middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start = middle
    # When nothing stands left of the last subtree, it is the whole first tree,
    # whose root the verifier knows.
    if start > 0:
        path.append(_range_root(start, end, node))
    return path[::-1]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """
    Check that the tree of this *size* and *root* holds *leaf* at *index*.

    *size* must come with *root* from a verified checkpoint, and *index* from
    the request: a path that fits leaf 4 of 5 also fits leaf 1 of 2.

    Args:
        leaf: The leaf hash of the entry.

    Raises:
        InvalidProof: The proof does not lead from the leaf to the root.
    """
    what = f"inclusion proof of {index} in {size}"
    if not 0 <= index < size:
        raise InvalidProof(f"{what}: expected an index below the size")
    _check_hashes(what, (leaf, root, *proof))

    sides = list(_sides(index, size - 1))
    if len(proof) != len(sides):
        raise InvalidProof(f"{what}: found {len(proof)} hashes, expected {len(sides)}")
    found = leaf
    for sibling, is_left in zip(proof, sides, strict=True):
        found = node_hash(sibling, found) if is_left else node_hash(found, sibling)
    _check_root(what, found, root)


def verify_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """
    Check that the tree of *second* leaves begins with that of *first* leaves.

    Raises:
        InvalidProof: The proof does not lead to both roots.
    """
    what = f"consistency proof from {first} to {second}"
    if not 0 <= first <= second:
        raise InvalidProof(f"{what}: expected sizes in order")
    _check_hashes(what, (first_root, second_root, *proof))
    if first == second:
        _check_root(what, second_root, first_root)
    if first == 0:
        _check_root(what, first_root, EMPTY_ROOT)
    if first in {0, second}:
        if proof:
            raise InvalidProof(f"{what}: found {len(proof)} hashes, expected none")
        return

    # Both roots are computed from the last complete subtree of the first tree.
    # If that is the whole first tree, its root is known and not in the proof.
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    sides = list(_sides(node, last))
    expected = len(sides) + 1 if node else len(sides)
    if len(proof) != expected:
        raise InvalidProof(f"{what}: found {len(proof)} hashes, expected {expected}")
    path = [*proof] if node else [first_root, *proof]
    found_first = found_second = path[0]
    for sibling, is_left in zip(path[1:], sides, strict=True):
        if is_left:
            found_first = node_hash(sibling, found_first)
            found_second = node_hash(sibling, found_second)
        else:
            # What stands on the right came after the first tree.
            found_second = node_hash(found_second, sibling)
    _check_root(what, found_first, first_root)
    _check_root(what, found_second, second_root)


def _sides(node: int, last: int) -> Iterator[bool]:
    # The way from a node up to the root, *last* being the last node of the same
    # level: whether each sibling stands on the left. RFC 9162, section 2.1.3.2.
    while last:
        if node & 1:
            yield True
        elif node < last:
            yield False
        # Otherwise the right edge has no sibling and is carried up as it is.
        node, last = node >> 1, last >> 1


def _parents(row: Sequence[bytes]) -> list[bytes]:
    # The hot path of every write: one comprehension for a whole level; a last
    # node without a sibling is left out.
    sha256 = hashlib.sha256
    pairs = zip(row[::2], row[1::2], strict=False)
    return [sha256(b"\x01" + left + right).digest() for left, right in pairs]


def _joined(hashes: Sequence[bytes]) -> bytes:
    # Complete subtrees, the largest first, make one tree from the right.
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _middle(start: int, end: int) -> int:
    # RFC 6962's k: the largest power of two smaller than the number of leaves.
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _range_root(start: int, end: int, node: Node) -> bytes:
    # Every range that a split yields starts at a multiple of the power of two
    # not below its width, so its complete subtrees are nodes of the tree.
    complete = []
    for level in reversed(range((end - start).bit_length())):
        if ((end - start) >> level) & 1:
            complete.append(node(level, start >> level))
            start += 1 << level
    return _joined(complete)


def _check_hashes(what: str, hashes: Iterable[bytes]) -> None:
    for each in hashes:
        if len(each) != HASH_SIZE:
            raise InvalidProof(f"{what}: found a hash of {len(each)} bytes, expected {HASH_SIZE}")


def _check_root(what: str, found: bytes, expected: bytes) -> None:
    if found != expected:
        raise InvalidProof(f"{what}: found root {found.hex()}, expected {expected.hex()}")
