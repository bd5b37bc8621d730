"""
Verify: a whole trail, a log, a segment or a tile, offline; returns or raises.

::

    tile      every byte hashed, every link, the tile's root          verify_tile
    segment   its tiles, the links and times between them             verify_segment
    log       its segments joined: the root, the signed checkpoint,
              every change of key, every tree known from before       verify_log
    trail     its logs, and what the custody stream says of them      verify_trail

Nothing that a store says of its tree is believed: all hashes are computed again
from the entries, and what comes out must be what was signed. Of entries that were
purged the leaf hashes are all there is: these must lead to the same root, and a
custody entry must say that it was done. The first two raise at what does not hold;
the last two go on, so that one damaged segment leaves the others provable, and
return what they found as a `Verdict`.
"""

from __future__ import annotations

from binascii import b2a_base64
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec

from indelible.checkpoint import Checkpoint, Rotation
from indelible.entry import NO_PREVIOUS, event_in, microseconds, time_from_text, time_to_text
from indelible.errors import (
    BrokenChain,
    CallerError,
    Damaged,
    InvalidSignature,
    Malformed,
    Rollback,
    StoreError,
    VerificationError,
)
from indelible.mark import Known
from indelible.merkle import HASH_SIZE, Edge, node_hash, root_at, subtree_root
from indelible.note import Note, parse_base64
from indelible.policy import CUSTODY
from indelible.seal import unseal
from indelible.segment import SEGMENT, SEGMENTS_LEVEL, TILE, TILES_LEVEL, Columns
from indelible.store import Wanted
from indelible.terms import terms_of
from indelible.verdict import Finding, Level, LogVerdict, Verdict, collecting, limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.note import VerifierKey
    from indelible.segment import Segment
    from indelible.store import Head, Store, Tile, View
    from indelible.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    A tree of a log that was signed before, and where it is known from.

    Attributes:
        where: A pin, the high-water mark, an older checkpoint, a custody entry.
        anchor: It was kept where the trail's owner cannot rewrite it.
    """

    log: str
    where: str
    tree: Known
    anchor: bool = False


class CheckFile(Protocol):
    """Checks what a kind of store has beside a closed segment's entries: its file and indexes."""

    def __call__(self, segment: Segment, *, deep: bool) -> None:
        """
        Check that the file of *segment* is the one that was closed.

        Args:
            deep: Also that all that queries go by follows from the entries.

        Raises:
            Damaged: It does not hold.
        """
        ...


# ---- A tile: the hot path ----


def verify_tile(tile: Tile) -> tuple[list[bytes], bytes | None, int]:
    """
    Hash every byte of *tile*, every link between its entries, and its root.

    Whether `Tile.previous` is the leaf hash of the entry before is for the caller; so is
    whether a purged one, of which only the root can be checked, was rightly purged.

    Returns:
        The leaf hash of each entry, the root of a complete tile, and how many bytes
        the entries have.

    Raises:
        Damaged: A stored body, leaf hash or root is not what was recorded; it
            names the entry or the tile.
    """
    first, count = tile.first, len(tile.bodies)
    if tile.purged:
        return _verify_purged(tile)
    if len(tile.leaves) != count * HASH_SIZE or not 1 <= count <= TILE:
        raise Damaged(
            f"tile of entry {first}: found {count} bodies and {len(tile.leaves)} bytes of leaves"
        )
    # A store keeps bodies; place and link are put before them again. So a leaf hash
    # that comes out right shows the link to the entry before as well. One call
    # encodes all links: 33 bytes are 44 characters of base64, and the 43 in front
    # are those of the 32 bytes without their padding.
    before = tile.previous + tile.leaves[:-HASH_SIZE]
    links = b2a_base64(b"\0".join([*_hashes(before), b""]), newline=False).translate(_URLSAFE)
    inputs = [
        b'\0{"v":1,"index":%d,"prev":"%b",%b' % (index, links[at : at + 43], body)
        for index, at, body in zip(
            range(first, first + count), range(0, 44 * count, 44), tile.bodies, strict=True
        )
    ]
    leaves = [sha256(each).digest() for each in inputs]
    if b"".join(leaves) != tile.leaves:
        stored = _hashes(tile.leaves)
        wrong = next(place for place in range(count) if leaves[place] != stored[place])
        raise Damaged(f"entry {first + wrong}: its bytes do not have the recorded leaf hash")
    root = subtree_root(leaves) if count == TILE else None
    if tile.root not in {None, root}:
        raise Damaged(f"tile of entries {first} to {first + TILE - 1}: has not the recorded root")
    return leaves, root, sum(map(len, inputs)) - count


def _verify_purged(tile: Tile) -> tuple[list[bytes], bytes, int]:
    leaves = _hashes(tile.leaves)
    if len(tile.leaves) != TILE * HASH_SIZE or tile.bodies:
        raise Damaged(
            f"purged tile of entry {tile.first}: found {len(tile.bodies)} bodies and"
            f" {len(tile.leaves)} bytes of leaves, expected none and {TILE * HASH_SIZE}"
        )
    root = subtree_root(leaves)
    if tile.root != root:
        raise Damaged(
            f"purged tile of entries {tile.first} to {tile.first + TILE - 1}:"
            " has not the recorded root"
        )
    return leaves, root, 0


def verify_times(bodies: Sequence[bytes]) -> tuple[bytes, bytes]:
    """
    Check that time does not run backwards over *bodies*; return the first and last, as text.

    Raises:
        Malformed: One is not the body of an entry.
        Damaged: One is before the one in front of it.
    """
    beginnings = b"".join([body[:_MEMBER_AT] for body in bodies])
    if beginnings.translate(_DIGITS) != _BEGINNING * len(bodies):
        raise Malformed(f"entries: expected each body to begin like {_BEGINNING.decode()}")
    if not {body[_MEMBER] for body in bodies} <= _MEMBERS:
        raise Malformed("entries: expected each body to begin an event or a producer's entry")
    first, last = bodies[0][_TIME], bodies[-1][_TIME]
    # Entries of one commit have one time: then all bodies begin alike.
    if beginnings != bodies[0][:_MEMBER_AT] * len(bodies):
        for earlier, later in pairwise([body[_TIME] for body in bodies]):
            if later < earlier:
                raise Damaged(f"recorded_at: found {later.decode()} after {earlier.decode()}")
    return first, last


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]


_URLSAFE = bytes.maketrans(b"+/", b"-_")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_BEGINNING = b'"recorded_at":"0000-00-00T00:00:00.000000Z",'
_TIME = slice(15, 42)
_MEMBER_AT = len(_BEGINNING)
_MEMBERS = frozenset({b'"event":{', b'"producer'})
_MEMBER = slice(_MEMBER_AT, _MEMBER_AT + 9)


# ---- A segment, closed or open ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Entries of *log* that a restored copy did not have, as the custody stream declares."""

    log: str
    first: int
    last: int

    def __str__(self) -> str:
        if self.last - self.first == 1:
            return f"{self.log}: entry {self.first} is not in the restored copy"
        return f"{self.log}: entries {self.first} to {self.last - 1} are not in the restored copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """
    A closed segment, as entry *index* of the custody stream names it.

    Attributes:
        purged: It is one that was built anew, without entries that were purged.
    """

    index: int
    log: str
    number: int
    root: bytes
    file_hash: str
    index_hash: str
    purged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """
    What entry *index* of the custody stream says was purged of *log*.

    Attributes:
        count: How many entries, those before *first*.
        root: Of the tree over all that is gone since the log began.
        policy: Label of the policy that was in force.
    """

    index: int
    log: str
    first: int
    count: int
    root: bytes
    policy: str


Statement = Seen | Named | Loss | Purge
"""What an entry of the custody stream says of other logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    A segment's worth of a log, recomputed from its entries; the last is shorter.

    Attributes:
        previous: Leaf hash that its first entry names as the one before.
        roots: Roots of its complete tiles.
        rest: Leaf hashes after these.
        recorded: Times of the first and the last entry, as text; none where all of them
            were purged.
        entries, bytes: How many entries were hashed, and how many bytes they have.
        statements: What it says of other logs, where it is of the custody stream.
    """

    number: int
    previous: bytes
    roots: tuple[bytes, ...]
    rest: tuple[bytes, ...]
    last_leaf: bytes
    recorded: tuple[bytes, bytes] | None
    entries: int
    bytes: int
    statements: tuple[Statement, ...]


def verify_segment(view: View, log: str, number: int) -> Part:
    """
    Recompute segment *number* of *log*: 65,536 entries, or the last, fewer.

    Of open tiles also that queries are offered every entry.

    Raises:
        Damaged: Stored bytes are not those recorded, or the root is not the manifest's.
        BrokenChain: A tile names another predecessor than the last entry before it.
        Malformed: An entry has not the form of one.
    """
    start, head = number * SEGMENT, view.heads()[log]
    expected = min(SEGMENT, head.size - start)
    custody = _is_custody(log)
    roots: list[bytes] = []
    rest: tuple[bytes, ...] = ()
    statements: list[Statement] = []
    previous = last_leaf = None
    recorded: tuple[bytes, bytes] | None = None
    done = hashed = size = 0
    for tile in view.tiles(log, start, start + expected):
        if tile.first != start + done or rest:
            raise Damaged(f"tile of entry {start + done}: found entry {tile.first}")
        if tile.purged != (tile.first < head.first):
            raise Damaged(f"tile of entry {tile.first}: purged are those before {head.first}")
        leaves, root, length = verify_tile(tile)
        if last_leaf is not None and tile.previous != last_leaf:
            raise BrokenChain(f"entry {tile.first}: does not name the entry before it")
        recorded = _recorded_until(tile, recorded)
        if tile.columns is not None:
            verify_offered(view, log, tile)
        if custody:
            statements += _statements(tile)
        if root is None:
            rest = tuple(leaves)
        else:
            roots.append(root)
        previous = tile.previous if previous is None else previous
        last_leaf, done, size = leaves[-1], done + len(leaves), size + length
        hashed += len(tile.bodies)
    if done != expected or previous is None or last_leaf is None:
        raise Damaged(f"found {done} entries, expected {expected}")
    closed = view.segments(log)
    if number < len(closed) and (number, subtree_root(roots)) != (
        closed[number].number,
        closed[number].root,
    ):
        raise Damaged("its entries do not have the root that the manifest says")
    return Part(
        number=number,
        previous=previous,
        roots=tuple(roots),
        rest=rest,
        last_leaf=last_leaf,
        recorded=recorded,
        entries=hashed,
        bytes=size,
        statements=tuple(statements),
    )


def _recorded_until(tile: Tile, recorded: tuple[bytes, bytes] | None) -> tuple[bytes, bytes] | None:
    """Return the first and the last time up to *tile*, given those of the tiles before it."""
    if tile.purged:
        return recorded
    first, last = verify_times(tile.bodies)
    if recorded is None:
        return first, last
    if first < recorded[1]:
        raise Damaged(f"entry {tile.first}: recorded before the entry in front of it")
    return recorded[0], last


def verify_offered(view: View, log: str, tile: Tile) -> None:
    """
    Check that queries are offered every entry of *tile*, which is an open one.

    Raises:
        Damaged: What the tile is found by does not follow from its entries.
        Malformed: An entry holds no event.
    """
    entries = [found_by(body) for body in tile.bodies]
    terms = [terms for _, terms in entries]
    if tile.columns != Columns.of(terms):
        raise Damaged(f"tile of entry {tile.first}: hides entries, its columns are not theirs")
    recorded = [at for at, _ in entries]
    places: Iterable[int] = range(len(terms))
    if len(terms) == TILE:
        # Times are kept as one span a tile: it has them all if it has the outermost.
        places = {
            outermost
            for times in (recorded, [t.occurred_at for t in terms], [t.id_time for t in terms])
            for outermost in (times.index(min(times)), times.index(max(times)))
        }
    for place in places:
        each, at, index = terms[place], recorded[place], tile.first + place
        wanted = Wanted(
            id=(each.id, each.id_time),
            recorded=(at, at + 1),
            occurred=(each.occurred_at, each.occurred_at + 1),
        )
        if index not in view.candidates(log, wanted, index, index + 1, newest_first=False):
            raise Damaged(f"entry {index}: is hidden from queries for its time or id")


def found_by(body: bytes) -> tuple[int, Terms]:
    """
    Return what an entry is found by: when it was recorded, and its terms.

    Args:
        body: Of an entry that was hashed, and whose beginning `verify_times` has seen.

    Raises:
        Malformed: It holds no event.
    """
    event, producer = event_in(body)
    clear = unseal(event)
    at = time_from_text(body[_TIME].decode())
    return at, terms_of(clear, microseconds(clear.occurred_at), producer=producer)


class _Tree(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0)]
    root: str


class _Heads(msgspec.Struct):
    logs: dict[str, _Tree]


class _Closed(msgspec.Struct):
    log: str
    number: int
    root: str
    file_hash: str
    index_hash: str


class _Succeeded(msgspec.Struct):
    predecessor: str
    size: int
    known: _Tree


class _Purged(msgspec.Struct):
    log: str
    first: Annotated[int, msgspec.Meta(ge=0)]
    count: int
    roots: tuple[str, ...]
    policy: str


_NAMING_TREES = frozenset({"trail.start", "trail.heads", "trail.stop"})
_NAMING_SEGMENT = frozenset({"segment.close", "segment.purge"})
_NAMING_LOSS = "log.succeed"
_NAMING_PURGE = "log.purge"
_MARKERS = (b'"action":"trail.', b'"action":"segment.', b'"action":"log.')


def _statements(tile: Tile) -> Iterator[Statement]:
    """Yield what entries of the custody stream say about logs."""
    for index, body in enumerate(tile.bodies, tile.first):
        if not any(marker in body for marker in _MARKERS):
            continue
        data, producer = event_in(body)
        if producer:  # what others say of their logs, they say of no log here
            continue
        event = unseal(data)
        try:
            if event.action in _NAMING_TREES:
                for log, tree in msgspec.convert(event.data, _Heads).logs.items():
                    root = parse_base64(tree.root, what=f"root of {log}")
                    where = f"tree named by custody entry {index}"
                    yield Seen(log=log, where=where, tree=Known(tree.size, root))
            elif event.action in _NAMING_SEGMENT:
                said = msgspec.convert(event.data, _Closed)
                yield Named(
                    index=index,
                    log=said.log,
                    number=said.number,
                    root=parse_base64(said.root, what="root"),
                    file_hash=said.file_hash,
                    index_hash=said.index_hash,
                    purged=event.action == "segment.purge",
                )
            elif event.action == _NAMING_LOSS:
                lost = msgspec.convert(event.data, _Succeeded)
                yield Loss(log=lost.predecessor, first=lost.size, last=lost.known.size)
            elif event.action == _NAMING_PURGE:
                yield from _purge(index, msgspec.convert(event.data, _Purged))
        except (msgspec.ValidationError, CallerError) as error:
            raise Malformed(f"entry {index}: {event.action}: {error}") from error


def _purge(index: int, said: _Purged) -> Iterator[Purge | Seen]:
    """Yield what a custody entry says was purged, and the tree that the log must begin with."""
    roots = tuple(parse_base64(root, what=f"root of {said.log}") for root in said.roots)
    root = Edge(size=said.first, hashes=roots).root
    yield Purge(
        index=index,
        log=said.log,
        first=said.first,
        count=said.count,
        root=root,
        policy=said.policy,
    )
    where = f"purged tree named by custody entry {index}"
    yield Seen(log=said.log, where=where, tree=Known(said.first, root))


# ---- A log ----


class Tree:
    """
    A log's tree as it was recomputed, to ask which root it had at a size.

    Args:
        roots: Roots of the complete tiles; None where they are unknown.
        rest: Leaf hashes after these; None where they are unknown.
        claimed: Roots of segments, for those with unknown tiles: they are believed
            as far as the whole tree then has the root that was signed.
        leaves: Gives the stored leaf hashes of a complete tile by its number.
    """

    def __init__(
        self,
        *,
        size: int,
        roots: Sequence[bytes | None],
        rest: Sequence[bytes] | None,
        claimed: Sequence[bytes],
        leaves: Callable[[int], Sequence[bytes]],
    ) -> None:
        self.size = size
        self._rest, self._leaves = rest, leaves
        self._read: tuple[int, Sequence[bytes]] = (-1, ())
        self._levels: list[list[bytes | None]] = [list(roots)]
        while len(row := self._levels[-1]) > 1:
            parents = [
                None if left is None or right is None else node_hash(left, right)
                for left, right in zip(row[::2], row[1::2], strict=False)
            ]
            if len(self._levels) == SEGMENTS_LEVEL - TILES_LEVEL:
                for number, root in enumerate(claimed[: len(parents)]):
                    parents[number] = parents[number] or root
            self._levels.append(parents)

    def root_at(self, size: int) -> bytes:
        """
        Return the root over the first *size* entries.

        Raises:
            Damaged: It hangs on tiles that are unknown.
        """
        return root_at(size, self._node)

    def _node(self, level: int, index: int) -> bytes:
        if level >= TILES_LEVEL:
            found = self._levels[level - TILES_LEVEL][index]
            if found is None:
                raise Damaged(f"the tree below level {level}, number {index} is unknown")
            return found
        leaves = self._tile(index >> (TILES_LEVEL - level))
        start = (index << level) % TILE
        return subtree_root(leaves[start : start + (1 << level)])

    def _tile(self, number: int) -> Sequence[bytes]:
        roots = self._levels[0]
        if number == len(roots):
            if self._rest is None:
                raise Damaged(f"the entries from {number * TILE} on are unknown")
            return self._rest
        # Who asks for many sizes asks in order: one tile is remembered.
        if self._read[0] != number:
            leaves = self._leaves(number)
            if subtree_root(leaves) != roots[number]:
                raise Damaged(f"tile {number}: its leaf hashes do not have its root")
            self._read = (number, leaves)
        return self._read[1]


def verify_known(tree: Tree, known: Known) -> None:
    """
    Check that the log still begins with the tree that was *known* before.

    Raises:
        Rollback: It is smaller now, or another.
        Damaged: This cannot be said.
    """
    if tree.size < known.size:
        raise Rollback(f"holds {tree.size} entries, but {known.size} were signed")
    if (found := tree.root_at(known.size)) != known.root:
        raise Rollback(
            f"its first {known.size} entries are not those that were signed:"
            f" found root {found.hex()}, expected {known.root.hex()}"
        )


def verify_seen(tree: Tree, log: str, known: Iterable[Seen], findings: list[Finding]) -> int:
    """
    Hold the *tree* of *log* against every tree that was seen before.

    What does not hold is kept among *findings*.

    Returns:
        The size up to which the log is anchored; 0 where no anchor holds.
    """
    anchored = 0
    for seen in known:
        with collecting(findings, log, seen.where):
            verify_known(tree, seen.tree)
            if seen.anchor:
                anchored = max(anchored, seen.tree.size)
    return anchored


def first_of(key: VerifierKey, rotations: Sequence[bytes]) -> VerifierKey:
    """
    Return the key that the log began with, if *key* is of the chain of *rotations*.

    Whoever trusts any key of a chain can start at its first one: each rotation is
    signed by both of its keys, so a later key vouches for those before it, and
    `verify_rotations` checks every signature. Else *key* itself is returned, which
    will then have signed nothing.

    Raises:
        Malformed: A note is no rotation.
    """
    chain = [Rotation.from_text(Note.from_bytes(note).text) for note in rotations]
    if any(key in (rotation.old, rotation.new) for rotation in chain):
        return chain[0].old
    return key


def verify_rotations(
    tree: Tree, origin: str, key: VerifierKey, rotations: Iterable[bytes]
) -> VerifierKey:
    """
    Walk from the pinned *key* to the one that may sign now.

    Each key hands over to the next at a tree that the log still begins with: so
    today's key cannot have signed another past.

    Raises:
        InvalidSignature: The pinned key is that of another origin, or a rotation is
            not signed by both keys, or goes back to an old one.
        Malformed: It is no rotation.
        Rollback: The log does not begin with the tree of a rotation.
    """
    if key.name != origin:
        raise InvalidSignature(f"found origin {origin}, expected {key.name}")
    size, used = 0, {key}
    for note in rotations:
        rotation = Rotation.open(note, key)
        if rotation.size < size or rotation.new in used:
            raise InvalidSignature(
                f"rotation at {rotation.size}: goes back to an older key or size"
            )
        verify_known(tree, Known(rotation.size, rotation.root))
        size, key = rotation.size, rotation.new
        used.add(key)
    return key


def verify_log(
    view: View,
    head: Head,
    key: VerifierKey | None,
    *,
    known: Iterable[Seen] = (),
    parts: Sequence[Part | Finding] | None = None,
) -> tuple[LogVerdict, list[Finding]]:
    """
    Verify the log that ends in *head*.

    Args:
        key: The key pinned for it, or None: then nobody says who may sign.
        known: Its trees that were signed before.
        parts: Its segments, where they were verified already.
    """
    log = head.log
    if parts is None:
        parts = [_examine(view, log, number) for number in range(-(-head.size // SEGMENT))]
    findings = [part for part in parts if isinstance(part, Finding)]
    findings += _verify_joints(log, parts)
    tree = _tree_of(view, head, parts)
    root, signer = None, None
    with collecting(findings, log, "root"):
        root = tree.root_at(head.size)
    with collecting(findings, log, "checkpoint"):
        signer = _verify_checkpoint(head, key, root, tree, view.rotations(log))
    with collecting(findings, log, "head"):
        _verify_head(head, root, parts)
    anchored = verify_seen(tree, log, known, findings)
    verdict = LogVerdict(
        log=log,
        origin=head.origin,
        level=Level.of(pinned=key is not None, anchored=anchored, findings=findings),
        size=head.size,
        root=root,
        recorded_at=head.recorded_at if head.size else None,
        key=signer,
        anchored=anchored,
        first=head.first,
    )
    return verdict, findings


def _verify_joints(log: str, parts: Sequence[Part | Finding]) -> Iterator[Finding]:
    """Yield where a segment does not follow the one before it."""
    whole = [part for part in parts if isinstance(part, Part)]
    for part in whole:
        if part.number == 0 and part.previous != NO_PREVIOUS:
            yield Finding(log=log, where="entry 0", what="names an entry before it")
    for before, after in pairwise(whole):
        if before.number + 1 != after.number:
            continue  # The one between is damaged, which was found already.
        where = f"entry {after.number * SEGMENT}"
        if after.previous != before.last_leaf:
            yield Finding(log=log, where=where, what="does not name the entry before it")
        if before.recorded and after.recorded and after.recorded[0] < before.recorded[1]:
            yield Finding(log=log, where=where, what="recorded before the entry in front of it")


def _tree_of(view: View, head: Head, parts: Sequence[Part | Finding]) -> Tree:
    roots: list[bytes | None] = []
    rest: Sequence[bytes] | None = ()
    for number, part in enumerate(parts):
        if isinstance(part, Part):
            roots += part.roots
            rest = part.rest
            continue
        # What is stored of a damaged segment's tree is believed as far as the whole
        # tree then has the root that was signed: so all else is proven or not.
        end = min(head.size, (number + 1) * SEGMENT)
        for first in range(number * SEGMENT, end, TILE):
            try:
                leaves = view.leaves(head.log, first, min(first + TILE, end))
            except VerificationError:
                leaves = None
            if first + TILE > end:
                rest = leaves
            else:
                roots.append(None if leaves is None else subtree_root(leaves))
    return Tree(
        size=head.size,
        roots=roots,
        rest=rest,
        claimed=[segment.root for segment in view.segments(head.log)],
        leaves=lambda tile: view.leaves(head.log, tile * TILE, tile * TILE + TILE),
    )


def _verify_checkpoint(
    head: Head,
    key: VerifierKey | None,
    root: bytes | None,
    tree: Tree,
    rotations: Sequence[bytes],
) -> VerifierKey | None:
    """Check the checkpoint against the recomputed *root*, and return the key that signed it."""
    signer = None if key is None else verify_rotations(tree, head.origin, key, rotations)
    if head.size == 0 and not head.checkpoint and not rotations:
        return None  # An empty log has signed nothing yet; if it had, it is known elsewhere.
    if signer is None:
        checkpoint = Checkpoint.from_text(Note.from_bytes(head.checkpoint).text)
    else:
        checkpoint = Checkpoint.open(head.checkpoint, [signer])
    if checkpoint.origin != head.origin:
        raise InvalidSignature(f"found origin {checkpoint.origin}, expected {head.origin}")
    if checkpoint.size != head.size:
        raise Rollback(f"found one over {checkpoint.size} entries, but there are {head.size}")
    if root is not None and checkpoint.root != root:
        raise Damaged(f"signed is root {checkpoint.root.hex()}, but the entries have {root.hex()}")
    return signer


def _verify_head(head: Head, root: bytes | None, parts: Sequence[Part | Finding]) -> None:
    """Check what the next entry would be placed by."""
    if root is not None and head.edge.root != root:
        raise Damaged("its edge is not that of the entries' tree")
    if not parts:
        if head.last_leaf != NO_PREVIOUS:
            raise Damaged("names a last entry, but there is none")
    elif isinstance(last := parts[-1], Part):
        if head.last_leaf != last.last_leaf:
            raise Damaged("its last leaf hash is not that of the last entry")
        if last.recorded and time_to_text(head.recorded_at).encode() != last.recorded[1]:
            raise Damaged("its time is not that of the last entry")


# ---- A trail ----


def verify_trail(
    open_store: Callable[[], Store],
    keys: Mapping[str, VerifierKey],
    known: Iterable[Seen] = (),
    *,
    check_file: CheckFile | None = None,
    deep: bool = False,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """
    Verify every log of a trail, and hold the custody stream's statements against them.

    Args:
        keys: Per log, the key that was pinned for it.
        known: Trees that were signed before.
        check_file: How this kind of store checks the file of a closed segment.
        deep: Have it compare the file's indexes with the entries, too.
        jobs: Processes for closed segments; *open_store* and *check_file* must then
            be picklable.
        progress: Told how many entries of how many are done.

    Raises:
        StoreError: The store cannot be read now, or entries were purged meanwhile.
    """
    with closing(open_store()) as store, store.read() as view:
        heads = view.heads()
        check = None if check_file is None else partial(check_file, deep=deep)
        parts, findings = _examine_all(view, _Workers(open_store, check, jobs), progress)
        seen, named, losses = list(known), list[Named](), list[str]()
        purges: dict[str, list[Purge]] = {log: [] for log in heads}
        for said in (said for log in parts for part in parts[log] for said in _said(part)):
            if isinstance(said, Seen):
                seen.append(said)
            elif isinstance(said, Named):
                named.append(said)
            elif isinstance(said, Purge):
                purges.setdefault(said.log, []).append(said)
            else:
                losses.append(str(said))
        verdicts = []
        for log, head in heads.items():
            verdict, found = verify_log(
                view,
                head,
                keys.get(log),
                known=[each for each in seen if each.log == log],
                parts=parts[log],
            )
            policies = dict.fromkeys(each.policy for each in purges[log])
            verdicts.append(replace(verdict, purged_under=tuple(policies)))
            findings += found
            findings += _verify_purges(head, purges[log], readable=_is_custody_readable(parts))
        for log in dict.fromkeys([*keys, *(each.log for each in seen)]):
            if log not in heads:
                what = "is pinned or was signed, but is not here"
                findings.append(Finding(log=log, where="log", what=what))
        if any(head.stream == CUSTODY for head in heads.values()):
            findings += _verify_manifest(view, parts, named)
        closed = any(view.segments(log) for log in heads)
        if findings:
            _verify_nothing_purged_since(view, store)
    whole = [part for each in parts.values() for part in each if isinstance(part, Part)]
    level = Level.weakest(verdict.level for verdict in verdicts)
    return Verdict(
        level=Level.TAMPERED if findings else level,
        logs=tuple(verdicts),
        findings=tuple(findings),
        entries=sum(part.entries for part in whole),
        bytes=sum(part.bytes for part in whole),
        does_not_show=limits(
            verdicts,
            unchecked=[] if not closed or (deep and check) else [_INDEXES_UNCHECKED],
        ),
        losses=tuple(dict.fromkeys(losses)),
    )


_INDEXES_UNCHECKED = (
    "closed segments: that their indexes were built rightly; they are those that were"
    " closed, but were not compared with the entries"
)


def _said(part: Part | Finding) -> Sequence[Statement]:
    return part.statements if isinstance(part, Part) else ()


def _is_custody_readable(parts: Mapping[str, Sequence[Part | Finding]]) -> bool:
    """Tell whether no statement can stand in what cannot be read of the custody stream."""
    return all(isinstance(part, Part) for log in parts if _is_custody(log) for part in parts[log])


def _verify_purges(head: Head, purges: Sequence[Purge], *, readable: bool) -> Iterator[Finding]:
    """Yield where what is gone of a log is not what custody entries say was purged."""
    declared = 0
    for said in purges:
        where = f"purge named by custody entry {said.index}"
        if said.first - said.count != declared or said.count <= 0:
            what = f"says that {said.count} entries went before {said.first}, but {declared} had"
            yield Finding(log=head.log, where=where, what=what)
        declared = max(declared, said.first)
    if head.first < declared:
        what = f"entries from {head.first} to {declared - 1} were purged, but are here again"
        yield Finding(log=head.log, where="purge", what=what)
    if head.first and _is_custody(head.log):
        what = f"its first {head.first} entries are gone, but custody is never purged"
        yield Finding(log=head.log, where="purge", what=what)
    elif head.first > declared and readable:
        what = f"entries {declared} to {head.first - 1} are gone without an entry that says so"
        yield Finding(log=head.log, where="purge", what=what)


def _verify_nothing_purged_since(view: View, store: Store) -> None:
    # What is found may be files that were rightly removed while they were read.
    with store.read() as later:
        if _purged_of(later) != _purged_of(view):
            raise StoreError("store: entries were purged while it was verified; verify it again")


def _purged_of(view: View) -> dict[str, tuple[int, int]]:
    """Return of each log how many entries were purged, and how many tiles of closed segments."""
    return {
        log: (head.first, sum(segment.purged for segment in view.segments(log)))
        for log, head in view.heads().items()
    }


def _verify_manifest(
    view: View, parts: Mapping[str, Sequence[Part | Finding]], named: Sequence[Named]
) -> Iterator[Finding]:
    """Yield which closed segments are not those that the custody stream names."""
    manifest = {(log, each.number): each for log in parts for each in view.segments(log)}
    heads, unnamed = view.heads(), dict(manifest)
    # One that was built anew for a purge is named anew, and so is its file.
    last = {(said.log, said.number): at for at, said in enumerate(named) if said.purged}
    for at, said in enumerate(named):
        place = (said.log, said.number)
        unnamed.pop(place, None)
        segment = manifest.get(place)
        if segment is None:
            what = f"custody entry {said.index} says it was closed, but it is not here"
        elif segment.root != said.root:
            what = f"is not the one that custody entry {said.index} says was closed"
        elif said.purged and heads[said.log].first <= segment.first:
            what = f"custody entry {said.index} says it was purged, but nothing of it was"
        elif at < last.get(place, 0):
            continue
        elif segment.file_hash.hex() != said.file_hash:
            what = f"is not the one that custody entry {said.index} says was closed"
        elif segment.index_hash.hex() != said.index_hash:
            what = f"is skipped by other terms or times than custody entry {said.index} says"
        else:
            continue
        yield Finding(log=said.log, where=_name(said.log, said.number), what=what)
    if _is_custody_readable(parts):
        for log, number in unnamed:
            what = "no custody entry says that it was closed"
            yield Finding(log=log, where=_name(log, number), what=what)


# ---- Segments, one after the other or in several processes ----


@dataclass(frozen=True, slots=True)
class _Workers:
    """How closed segments are verified; a task of a process of its own."""

    open_store: Callable[[], Store]
    check: Callable[[Segment], None] | None
    jobs: int


def _examine_all(
    view: View, workers: _Workers, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, list[Part | Finding]], list[Finding]]:
    """Verify every segment of every log; a finding stands for one that does not hold."""
    heads = view.heads()
    closed = [segment for log in heads for segment in view.segments(log)]
    parts: dict[str, list[Part | Finding]] = {log: [] for log in heads}
    findings: list[Finding] = []
    done, total = 0, sum(head.size for head in heads.values())

    def keep(log: str, part: Part | Finding) -> None:
        nonlocal done
        done += min(SEGMENT, heads[log].size - len(parts[log]) * SEGMENT)
        parts[log].append(part)
        if progress is not None:
            progress(done, total)

    with ExitStack() as stack:
        for segment, (part, file) in zip(
            closed, _examine_closed(view, workers, closed, stack), strict=True
        ):
            keep(segment.log, part)
            findings += file
    for log, head in heads.items():
        while len(parts[log]) * SEGMENT < head.size:
            keep(log, _examine(view, log, len(parts[log])))
    return parts, findings


def _examine_closed(
    view: View, workers: _Workers, closed: Sequence[Segment], stack: ExitStack
) -> Iterator[tuple[Part | Finding, list[Finding]]]:
    # Closed segments never change: other processes look at them through views of
    # their own, and what is open is verified in this one.
    jobs = min(workers.jobs, len(closed))
    if jobs <= 1:
        return map(partial(_examine_segment, view, workers.check), closed)
    # Imported here: applications that record need no processes.
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_begin_worker,
        initargs=(workers.open_store,),
    )
    stack.enter_context(pool)
    return pool.map(partial(_examine_in_worker, workers.check), closed)


def _examine_segment(
    view: View, check: Callable[[Segment], None] | None, segment: Segment
) -> tuple[Part | Finding, list[Finding]]:
    findings: list[Finding] = []
    if check is not None:
        with collecting(findings, segment.log, f"file of {_name(segment.log, segment.number)}"):
            check(segment)
    return _examine(view, segment.log, segment.number), findings


def _examine_in_worker(
    check: Callable[[Segment], None] | None, segment: Segment
) -> tuple[Part | Finding, list[Finding]]:
    with _store.read() as view:
        return _examine_segment(view, check, segment)


_store: Store
"""That of this worker process."""


def _begin_worker(open_store: Callable[[], Store]) -> None:
    global _store  # noqa: PLW0603 - how a pool hands a process what its tasks share
    _store = open_store()


def _examine(view: View, log: str, number: int) -> Part | Finding:
    try:
        return verify_segment(view, log, number)
    except VerificationError as error:
        return Finding(log=log, where=_name(log, number), what=str(error))


def _is_custody(log: str) -> bool:
    return log.partition("~")[0] == CUSTODY


def _name(log: str, number: int) -> str:
    return f"segment {log}/{number:06d}"
