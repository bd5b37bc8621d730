"""
Collected: every producer's tree, computed again from the entries that a collector keeps.

What the collector's own checkpoints cover is verified elsewhere (`indelible.verify`). Here
it is held against what the producers have signed: that their entries are all there, in
their order, and are those.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from indelible import query
from indelible.checkpoint import Checkpoint, handed_over
from indelible.errors import VerificationError
from indelible.merkle import HASH_SIZE, Edge, leaf_hash
from indelible.note import VerifierKey
from indelible.policy import CUSTODY
from indelible.producer import HELD_KIND, KIND, TILE_KIND, Held, Producer, tile_key
from indelible.query import Query
from indelible.segment import TILE
from indelible.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from indelible.producer import Promise
    from indelible.store import View

ENROLLED = "producer.enroll"
"""The action of the custody entry by which a log becomes a producer."""

_COLLECTED = re.compile(
    rb'"recorded_at":"[^"]{27}","producer":"((?:[^"\\]|\\.)*)","entry":(\{"v":1,"index":(\d+),)'
)


def verify_producers(view: View) -> Iterator[Finding]:
    """
    Compute the tree of each producer from the log, and yield what does not hold.

    Raises:
        Damaged: Stored entries cannot be read at all.
    """
    enrolled = _enrolled(view)
    known = {
        producer.origin: (producer, Held.from_bytes(view.fact(HELD_KIND, key)))
        for key, kept in view.facts(KIND)
        for producer in [Producer.from_bytes(kept)]
    }
    if not enrolled and not known:
        return
    trees = {origin: _Tree(view, held) for origin, (_, held) in known.items()}
    yield from _read(view, trees)
    for origin, key in enrolled.items():
        if origin not in known:
            yield _finding(origin, "was enrolled, and what was held of it is gone")
        elif known[origin][0].key != key:
            yield _finding(origin, "its key is not the one that it was enrolled with")
    for origin, (producer, held) in known.items():
        if origin not in enrolled:
            yield _finding(origin, "no custody entry says that it was enrolled")
        yield from _compared(producer, held, trees[origin])


def _enrolled(view: View) -> dict[str, str]:
    """Return the key of each producer, as the custody stream says it was enrolled with."""
    if CUSTODY not in view.heads():
        return {}
    found: dict[str, str] = {}
    asked = Query(stream=CUSTODY, action=ENROLLED, newest_first=False)
    for item in query.matches(view, asked):
        said = item.event.data or {}
        found.setdefault(str(said.get("producer")), str(said.get("key")))
    return found


class _Tree:
    """
    The tree of one producer, as its entries come.

    Attributes:
        reached: The root at each size that was signed.
        wrong: What was found first that does not hold.
    """

    def __init__(self, view: View, held: Held) -> None:
        self._view, self._held = view, held
        self._edge = Edge()
        self._leaves: list[bytes] = []
        self._signed = sorted({each.size for each in held.promised})
        self.reached: dict[int, bytes] = {}
        self.wrong: str | None = None

    @property
    def size(self) -> int:
        """How many entries it has come to."""
        return self._edge.size + len(self._leaves)

    def add(self, origin: str, index: int, leaf: bytes) -> None:
        """Take the next entry of the collector's log that is this producer's."""
        if not self.size and index:
            self._begin_after_purge(origin, index)
        if index != self.size and self.wrong is None:
            self.wrong = f"found entry {index}, expected {self.size}"
        self._leaves.append(leaf)
        if self.size in self._signed or len(self._leaves) == _AT_ONCE:
            self._grow()

    def root(self) -> bytes:
        """Return the root over all of it."""
        self._grow()
        return self._edge.root

    def _grow(self) -> None:
        self._edge, _ = self._edge.extend(self._leaves)
        self._leaves = []
        if self._edge.size in self._signed:
            self.reached[self._edge.size] = self._edge.root

    def _begin_after_purge(self, origin: str, index: int) -> None:
        """Go on from the hashes, where the entries before *index* were purged."""
        tiles = self._view.facts(TILE_KIND, tile_key(origin, 0), tile_key(origin, 2**63))
        joined = b"".join(data for _, data in tiles) + self._held.rest
        for at in range(0, min(index * HASH_SIZE, len(joined)), HASH_SIZE):
            self._leaves.append(joined[at : at + HASH_SIZE])
            if self.size in self._signed or len(self._leaves) == _AT_ONCE:
                self._grow()


_AT_ONCE = 16 * TILE


def _read(view: View, trees: Mapping[str, _Tree]) -> Iterator[Finding]:
    """Let the trees grow by all entries that are there."""
    strangers: set[str] = set()
    for log, head in view.heads().items():
        for tile in view.tiles(log, 0, head.size):
            for body in tile.bodies:
                found = _COLLECTED.match(body)
                if found is None:
                    continue
                origin = _unquoted(found[1])
                tree = trees.get(origin)
                if tree is not None:
                    entry = body[found.start(2) : -1]
                    tree.add(origin, int(found[3]), leaf_hash(entry))
                elif origin not in strangers:
                    strangers.add(origin)
                    yield _finding(origin, "there are entries of it, and it was never enrolled")


def _compared(producer: Producer, held: Held, tree: _Tree) -> Iterator[Finding]:
    origin = producer.origin
    if tree.wrong is not None:
        yield _finding(origin, tree.wrong)
        return
    root = tree.root()
    if held.size and not tree.size:
        return  # All of it was purged, and its hashes are what is held.
    if (tree.size, root) != (held.size, held.tree.root):
        yield _finding(
            origin,
            f"its {tree.size} entries have root {root.hex()}, what was held when they came is"
            f" {held.size} with {held.tree.root.hex()}",
        )
    try:
        keys = handed_over(VerifierKey.from_text(producer.key), held.rotations)
        for promise in held.promised:
            _verify(promise, keys, tree)
    except VerificationError as error:
        yield _finding(origin, str(error))


def _verify(promise: Promise, keys: list[VerifierKey], tree: _Tree) -> None:
    """Check that the producer has signed this tree, and that its entries lead there."""
    if promise.note.startswith(b"indelible/rotation/"):
        return  # Read with the keys.
    signed = Checkpoint.open(promise.note, keys)
    if (signed.size, signed.root) != (promise.size, promise.root):
        raise VerificationError("what it has signed is not what was held of it")
    reached = tree.reached.get(signed.size)
    if reached is not None and reached != signed.root:
        raise VerificationError(
            f"its first {signed.size} entries have root {reached.hex()}, it has signed"
            f" {signed.root.hex()}"
        )


def _unquoted(text: bytes) -> str:
    return msgspec.json.decode(b'"%b"' % text, type=str) if b"\\" in text else text.decode()


def _finding(origin: str, what: str) -> Finding:
    return Finding(log=CUSTODY, where=f"producer {origin}", what=what)
