"""The tree of a log is that of RFC 6962, and nothing else verifies."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indelible.errors import CallerError, InvalidProof, Malformed
from indelible.merkle import (
    EMPTY_ROOT,
    Edge,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    root_of,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVES = [leaf_hash(b"%d" % index) for index in range(300)]
SIZES = range(len(LEAVES) + 1)
SMALL = range(1, 34)


# The definitions of RFC 6962, section 2.1, word by word.


def split(n: int) -> int:
    """Return k, the largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    """MTH(D[n])."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b)."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


NODES = {
    (level, index): mth(LEAVES[index << level : (index + 1) << level])
    for level in range(9)
    for index in range(len(LEAVES) >> level)
}


def node(level: int, index: int) -> bytes:
    """Return the hash of a complete subtree."""
    return NODES[level, index]


def test_leaves_and_nodes_cannot_be_taken_for_each_other() -> None:
    """An entry and a node are hashed behind different bytes."""
    left, right = LEAVES[:2]

    assert hashlib.sha256(b"\x00entry").digest() == leaf_hash(b"entry")
    assert hashlib.sha256(b"\x01" + left + right).digest() == node_hash(left, right)


@pytest.mark.parametrize("size", SIZES)
def test_a_root_is_the_same_however_it_is_computed(size: int) -> None:
    """From all leaves or from complete subtrees, the root is that of RFC 6962."""
    expected = mth(LEAVES[:size])

    assert expected == root_of(LEAVES[:size])
    assert expected == root_at(size, node)


def test_a_tree_grows_leaf_by_leaf() -> None:
    """Adding single leaves gives the root of RFC 6962 at every size."""
    edge = Edge()

    for size, leaf in enumerate(LEAVES):
        assert (size, mth(LEAVES[:size])) == (edge.size, edge.root)

        edge, _ = edge.extend([leaf])


@given(st.lists(st.integers(0, len(LEAVES)), max_size=6).map(sorted))
def test_a_tree_grows_the_same_in_any_batches(boundaries: list[int]) -> None:
    """However entries are batched, edge, root and stored subtrees are the same."""
    edge = Edge()
    stored = {}

    for start, end in pairwise([0, *boundaries]):
        grown, levels = edge.extend(LEAVES[start:end])
        for level, nodes in enumerate(levels):
            first = edge.size >> level
            assert nodes
            stored.update({(level, first + at): each for at, each in enumerate(nodes)})
        edge = grown

    assert {key: NODES[key] for key in NODES if (key[1] + 1) << key[0] <= edge.size} == stored
    assert (len(stored) > 0, mth(LEAVES[: edge.size])) == (edge.size > 0, edge.root)
    assert edge == Edge.from_bytes(edge.size, edge.to_bytes())


def test_adding_nothing_changes_nothing() -> None:
    """An empty batch leaves the tree as it was."""
    edge, _ = Edge().extend(LEAVES[:7])

    assert (edge, []) == edge.extend([])


@pytest.mark.parametrize("height", range(9))
def test_a_perfect_subtree_is_computed_from_any_of_its_levels(height: int) -> None:
    """The root of 2**height leaves follows from the leaves or from any nodes above."""
    for level in range(height + 1):
        row = [node(level, index) for index in range(1 << (height - level))]

        assert node(height, 0) == subtree_root(row)


@pytest.mark.parametrize("count", [0, 3, 255])
def test_a_subtree_that_is_not_perfect_is_refused(count: int) -> None:
    """Hashes that make no perfect subtree get no root."""
    with pytest.raises(CallerError, match=f"found {count} hashes"):
        subtree_root(LEAVES[:count])


def all_inclusions() -> Iterator[tuple[int, int]]:
    """Yield each index below each size."""
    return ((index, size) for size in SMALL for index in range(size))


def all_consistencies() -> Iterator[tuple[int, int]]:
    """Yield each first size up to each second one."""
    return ((first, second) for second in SMALL for first in range(1, second + 1))


def test_every_leaf_of_a_small_tree_can_be_proven() -> None:
    """The proof of RFC 6962 is made, and accepted, for each leaf of each size."""
    for index, size in all_inclusions():
        proof = inclusion_proof(index, size, node)

        assert path(index, LEAVES[:size]) == proof
        verify_inclusion(LEAVES[index], index, size, proof, mth(LEAVES[:size]))


@given(st.data())
def test_every_leaf_of_a_larger_tree_can_be_proven(data: st.DataObject) -> None:
    """The proof of RFC 6962 is made, and accepted, whatever the size."""
    size = data.draw(st.integers(1, len(LEAVES)))
    index = data.draw(st.integers(0, size - 1))

    proof = inclusion_proof(index, size, node)

    assert path(index, LEAVES[:size]) == proof
    verify_inclusion(LEAVES[index], index, size, proof, mth(LEAVES[:size]))


def test_every_growth_of_a_small_tree_can_be_proven() -> None:
    """The proof of RFC 6962 is made, and accepted, between each two sizes."""
    for first, second in all_consistencies():
        proof = consistency_proof(first, second, node)

        assert subproof(first, LEAVES[:second], whole=True) == proof
        verify_consistency(first, second, proof, mth(LEAVES[:first]), mth(LEAVES[:second]))


@given(st.data())
def test_every_growth_of_a_larger_tree_can_be_proven(data: st.DataObject) -> None:
    """The proof of RFC 6962 is made, and accepted, whatever the sizes."""
    second = data.draw(st.integers(1, len(LEAVES)))
    first = data.draw(st.integers(1, second))

    proof = consistency_proof(first, second, node)

    assert subproof(first, LEAVES[:second], whole=True) == proof
    verify_consistency(first, second, proof, mth(LEAVES[:first]), mth(LEAVES[:second]))


def wrong(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Yield every proof with one hash changed, missing, added or out of place."""
    extra = leaf_hash(b"extra")
    for at, each in enumerate(proof):
        yield [*proof[:at], bytes([each[0] ^ 1]) + each[1:], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[:at], each[:-1], *proof[at + 1 :]]
    for at in range(len(proof) + 1):
        yield [*proof[:at], extra, *proof[at:]]
        yield [*proof[:at], b"", *proof[at:]]
    for at in range(len(proof) - 1):
        yield [*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]]


def test_a_changed_inclusion_proof_is_refused() -> None:
    """No hash of a proof can be changed, left out, added or moved."""
    for index, size in all_inclusions():
        for proof in wrong(inclusion_proof(index, size, node)):
            with pytest.raises(InvalidProof):
                verify_inclusion(LEAVES[index], index, size, proof, mth(LEAVES[:size]))


def test_a_changed_consistency_proof_is_refused() -> None:
    """No hash of a proof can be changed, left out, added or moved."""
    for first, second in all_consistencies():
        for proof in wrong(consistency_proof(first, second, node)):
            with pytest.raises(InvalidProof):
                verify_consistency(first, second, proof, mth(LEAVES[:first]), mth(LEAVES[:second]))


def test_another_leaf_or_root_is_refused() -> None:
    """A proof holds for its own leaf and root only."""
    proof = inclusion_proof(4, 7, node)
    root = mth(LEAVES[:7])

    with pytest.raises(InvalidProof, match="inclusion proof of 4 in 7: found root"):
        verify_inclusion(LEAVES[5], 4, 7, proof, root)
    with pytest.raises(InvalidProof, match="inclusion proof of 4 in 7: found root"):
        verify_inclusion(LEAVES[4], 4, 7, proof, mth(LEAVES[:8]))


@pytest.mark.parametrize(("first", "second"), [(8, 20), (11, 20)])
def test_another_history_is_refused(first: int, second: int) -> None:
    """A tree that does not begin with the earlier one is not consistent with it."""
    proof = consistency_proof(first, second, node)
    roots = mth(LEAVES[:first]), mth(LEAVES[:second])
    other = mth(LEAVES[1 : first + 1]), mth(LEAVES[1 : second + 1])

    with pytest.raises(
        InvalidProof, match=f"consistency proof from {first} to {second}: found root"
    ):
        verify_consistency(first, second, proof, other[0], roots[1])
    with pytest.raises(
        InvalidProof, match=f"consistency proof from {first} to {second}: found root"
    ):
        verify_consistency(first, second, proof, roots[0], other[1])


def test_size_and_index_must_not_be_taken_from_a_proof() -> None:
    """A path fits leaf 4 of 5 and leaf 1 of 2 alike: only the checkpoint's size tells."""
    proof = inclusion_proof(4, 5, node)
    root = mth(LEAVES[:5])

    verify_inclusion(LEAVES[4], 4, 5, proof, root)
    verify_inclusion(LEAVES[4], 1, 2, proof, root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (5, 5), (6, 5), (-1, 5), (0, -1)])
def test_an_index_beyond_the_tree_is_refused(index: int, size: int) -> None:
    """Nothing is at an index that is not below the size."""
    with pytest.raises(InvalidProof, match=f"inclusion proof of {index} in {size}"):
        verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])
    with pytest.raises(CallerError, match=f"found index {index}"):
        inclusion_proof(index, size, node)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 0), (-1, 1), (-1, -1)])
def test_sizes_out_of_order_are_refused(first: int, second: int) -> None:
    """A tree does not shrink."""
    with pytest.raises(InvalidProof, match="expected sizes in order"):
        verify_consistency(first, second, [], LEAVES[0], LEAVES[0])
    with pytest.raises(CallerError, match=f"found sizes {first} and {second}"):
        consistency_proof(first, second, node)


@pytest.mark.parametrize("second", [0, 1, 7])
def test_the_empty_tree_begins_every_tree(second: int) -> None:
    """From size 0 only the empty proof and the root of no leaves are taken."""
    root = mth(LEAVES[:second])

    verify_consistency(0, second, consistency_proof(0, second, node), EMPTY_ROOT, root)
    with pytest.raises(InvalidProof, match="found 1 hashes, expected none"):
        verify_consistency(0, second, [root], EMPTY_ROOT, root)
    with pytest.raises(InvalidProof, match="found root"):
        verify_consistency(0, second, [], LEAVES[0], root)


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_a_tree_is_consistent_with_itself_alone(size: int) -> None:
    """Between equal sizes only the empty proof and equal roots are taken."""
    root = mth(LEAVES[:size])

    verify_consistency(size, size, consistency_proof(size, size, node), root, root)
    with pytest.raises(InvalidProof, match="found 1 hashes, expected none"):
        verify_consistency(size, size, [root], root, root)
    with pytest.raises(InvalidProof, match="found root"):
        verify_consistency(size, size, [], root, LEAVES[-1])
    with pytest.raises(InvalidProof, match="found root"):
        verify_consistency(size, size, [], LEAVES[-1], root)


@pytest.mark.parametrize("hash_", [b"", b"\x00" * 31, b"\x00" * 33])
def test_a_hash_of_another_length_is_refused(hash_: bytes) -> None:
    """Equal roots and fitting paths are worth nothing when they are no hashes."""
    with pytest.raises(InvalidProof, match=f"found a hash of {len(hash_)} bytes, expected 32"):
        verify_inclusion(hash_, 0, 1, [], hash_)
    with pytest.raises(InvalidProof, match=f"found a hash of {len(hash_)} bytes, expected 32"):
        verify_consistency(1, 1, [], hash_, hash_)
    with pytest.raises(CallerError, match="not 32 bytes"):
        Edge(size=1, hashes=(hash_,))
    with pytest.raises(Malformed, match=f"found {len(hash_)} bytes"):
        Edge.from_bytes(1, hash_)


@pytest.mark.parametrize("size", [-1, 0, 2, 3])
def test_an_edge_has_one_hash_for_each_set_bit_of_its_size(size: int) -> None:
    """An edge that does not fit its size cannot be built."""
    hashes = tuple(LEAVES[: size.bit_count() + 1])

    with pytest.raises(
        CallerError, match=f"found {len(hashes)} hashes for a tree of {size} leaves"
    ):
        Edge(size=size, hashes=hashes)
    with pytest.raises(Malformed, match=f"for a tree of {size} leaves"):
        Edge.from_bytes(size, b"".join(hashes))


@settings(deadline=None)
@given(st.integers(1, 2**63 - 1), st.data())
def test_proofs_of_the_largest_trees_stay_short(size: int, data: st.DataObject) -> None:
    """Making and checking a proof takes no more steps than the tree has levels."""
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))

    # The same hash everywhere makes no tree, but shows how many are asked for.
    inclusion = inclusion_proof(index, size, lambda _level, _index: EMPTY_ROOT)
    consistency = consistency_proof(first, size, lambda _level, _index: EMPTY_ROOT)

    assert len(inclusion) <= 63
    assert len(consistency) <= 64
    with pytest.raises(
        InvalidProof, match=f"found {len(inclusion) + 1} hashes, expected {len(inclusion)}"
    ):
        verify_inclusion(EMPTY_ROOT, index, size, [*inclusion, EMPTY_ROOT], EMPTY_ROOT)
