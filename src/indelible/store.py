"""
Store: the contract for where a trail keeps its logs' bytes.

A store keeps what it is given and hands it back; it knows nothing of events, keys
or proofs. Who writes asks for the head inside a transaction, places entries after
it (`indelible.log`), and hands the batch with its signed checkpoint back: so any
number of processes may write, and no state of the tree outlives a transaction.

One test suite, ``tests/stores/test_contract.py``, runs on every store.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from indelible.entry import NO_PREVIOUS
from indelible.errors import CallerError
from indelible.merkle import Edge
from indelible.segment import TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from indelible.segment import Columns, Segment
    from indelible.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """
    The end of a log: all that is needed to place the next entry.

    Attributes:
        log: Name of the log: its stream, or for a successor ``user~2``.
        origin: Origin of its checkpoints.
        edge: Size and right edge of its tree.
        last_leaf: Leaf hash of the last entry, or `NO_PREVIOUS`.
        recorded_at: Time of the last entry, microseconds since 1970.
        checkpoint: The signed note over exactly this size; empty before entry 0.
        first: Index of the first entry that was not purged: a multiple of 256, which only
            grows. Of those before, the hashes are all that is left.
    """

    log: str
    origin: str
    edge: Edge = field(default_factory=Edge)
    last_leaf: bytes = NO_PREVIOUS
    recorded_at: int = 0
    checkpoint: bytes = b""
    first: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.edge.size

    @property
    def stream(self) -> str:
        """The stream that this log, or the one it succeeds, belongs to."""
        return self.log.partition("~")[0]

    def without(self, first: int) -> Head:
        """
        Return the head after the entries before *first* were purged.

        Raises:
            CallerError: *first* is no multiple of 256 after what was purged already and
                within what the log holds.
        """
        if first % TILE or not self.first < first <= self.size:
            raise CallerError(
                f"purge of {self.log}: found entry {first}, expected a multiple of {TILE}"
                f" from {self.first + TILE} to {self.size}"
            )
        return replace(self, first=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """
    Entries that follow a head, all or none, and the head after them.

    Attributes:
        first: Index of the first entry.
        bodies: What `indelible.entry.body` returned for each.
        leaves: Leaf hash of each.
        terms: What each can be found by.
        tile_roots: Hashes of the complete subtrees of 256 entries that these
            entries completed, in order.
        head: The head after the last one, its checkpoint signed.
        rows: What the vault keeps of each (`indelible.box.Row`); empty for nothing, and
            no rows at all where none of the entries has one.
    """

    first: int
    bodies: Sequence[bytes]
    leaves: Sequence[bytes]
    terms: Sequence[Terms]
    tile_roots: Sequence[bytes]
    head: Head
    rows: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    Which entries a reader asks a store for. It may propose more, never fewer.

    Attributes:
        groups: An entry has a term of each group.
        id: Fingerprint of the event's id, with the milliseconds that it carries.
        trace: Fingerprint of the trace id.
        recorded: From (inclusive) and to (exclusive), microseconds since 1970.
        occurred: The same, of the actor's clock.
    """

    groups: tuple[frozenset[int], ...] = ()
    id: tuple[int, int] | None = None
    trace: int | None = None
    recorded: tuple[int, int] = (0, 2**63 - 1)
    occurred: tuple[int, int] = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """
    What is to be left of an entry in the vault.

    Attributes:
        row: Its new row; empty for none.
        lookups: Those by which it is not to be found any more.
    """

    row: bytes = b""
    lookups: frozenset[int] = frozenset()


@dataclass(slots=True)
class Work:
    """How much a reader made a store do; it does not depend on the machine."""

    segments_opened: int = 0
    segments_skipped: int = 0
    tiles_read: int = 0
    blocks_read: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An entry as a store keeps it: nothing of it is verified yet."""

    index: int
    previous: bytes
    body: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """
    Up to 256 consecutive entries as a store keeps them: nothing of it is verified yet.

    Attributes:
        first: Index of the first, a multiple of 256.
        previous: Leaf hash of the entry before the first.
        leaves: Leaf hash of each, one after the other.
        root: What the store holds for the root of a complete tile, else nothing.
        columns: What the store finds them by, where it keeps that beside the tile.
        purged: The entries are gone, and with them bodies and columns; a purged tile is a
            complete one.
    """

    first: int
    previous: bytes
    bodies: Sequence[bytes]
    leaves: bytes
    root: bytes | None
    columns: Columns | None
    purged: bool = False


class Transaction(Protocol):
    """
    The one writer's view of the store, from `Store.write`.

    Nothing that was done is visible to anyone before the transaction ends.
    """

    def heads(self) -> Mapping[str, Head]:
        """Return the head of each log, by the log's name."""
        ...

    def leaf(self, log: str, index: int) -> bytes:
        """Return the leaf hash of the entry at *index*, which is below the size."""
        ...

    def create(self, head: Head) -> None:
        """Begin an empty log."""
        ...

    def append(self, batch: Batch) -> None:
        """Add the entries of *batch*, which starts at its log's head, and move the head."""
        ...

    def add_document(self, data: bytes) -> None:
        """Keep *data* under its SHA-256, for ever; a document that is there already stays."""
        ...

    def fact(self, kind: str, key: bytes) -> bytes | None:
        """Return the fact of this *kind* under *key*, as this transaction leaves it."""
        ...

    def put(self, kind: str, key: bytes, value: bytes | None) -> None:
        """
        Keep a fact: a small *value* under *key* that may change; None removes it.

        No proof rests on facts. They are what a trail has to remember beside its logs, in
        the same transaction: how far a producer's log has come, which tokens there are.
        """
        ...

    def rotate(self, log: str, note: bytes, checkpoint: bytes) -> None:
        """Keep the rotation *note* of *log*, and the *checkpoint* that the new key signed."""
        ...

    def register(self, segment: Segment) -> None:
        """
        Let a closed *segment* take the place of the entries that it holds.

        One of which entries were purged takes the place of the one that it was built from.
        """
        ...

    def purge(self, log: str, first: int) -> None:
        """
        Let the entries before *first* be gone, all but their hashes.

        Nobody finds them any more. Files may still hold them: that these do not,
        `Store.purge_segments` sees to.

        Raises:
            CallerError: *first* is no multiple of 256 after what was purged already and
                within what the log holds.
        """
        ...


class View(Protocol):
    """
    A reader's consistent view of the store, from `Store.read`.

    Attributes:
        work: What this view has cost so far.
    """

    work: Work

    def heads(self) -> Mapping[str, Head]:
        """Return the head of each log, by the log's name."""
        ...

    def rotations(self, log: str) -> Sequence[bytes]:
        """Return the rotation notes of *log*, oldest first."""
        ...

    def segments(self, log: str) -> Sequence[Segment]:
        """Return the closed segments of *log*, in order, without gaps."""
        ...

    def stored(self, log: str, indexes: Sequence[int]) -> list[Stored]:
        """
        Return the entries at *indexes*, in that order.

        Raises:
            Purged: One of them is before the first that was not purged.
            Damaged: What is stored cannot be read; it names the segment or tile.
        """
        ...

    def rows(self, log: str, indexes: Sequence[int]) -> list[bytes]:
        """
        Return what the vault keeps of the entries at *indexes*, in that order.

        Nothing of it is verified yet; where there is nothing, or it cannot be read, an
        empty one stands.
        """
        ...

    def lookups(self, log: str, first: int, last: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield the lookups of each entry of [*first*, *last*) that has any, with its index."""
        ...

    def document(self, digest: bytes) -> bytes | None:
        """Return the document with this SHA-256; whether it has it is for the caller to check."""
        ...

    def fact(self, kind: str, key: bytes) -> bytes | None:
        """Return the fact of this *kind* under *key*, see `Transaction.put`."""
        ...

    def facts(
        self, kind: str, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values of [*first*, *last*), or from *first* on, in the keys' order."""
        ...

    def tiles(self, log: str, first: int, last: int) -> Iterator[Tile]:
        """
        Yield the complete and the last, partial tile that start in [*first*, *last*), in order.

        Raises:
            Damaged: What is stored cannot be read; it names the segment or tile.
        """
        ...

    def leaves(self, log: str, first: int, last: int) -> list[bytes]:
        """Return the leaf hashes from *first* (inclusive) to *last* (exclusive)."""
        ...

    def node(self, log: str, level: int, index: int) -> bytes:
        """Return the hash of the complete subtree number *index* of 2**level entries."""
        ...

    def candidates(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        """Yield the indexes in [*first*, *last*) that may hold what is *wanted*, in order."""
        ...

    def with_ids(
        self, log: str, fingerprints: frozenset[int], times: tuple[int, int]
    ) -> Iterator[int]:
        """
        Yield the indexes of entries whose event's id may be one of many.

        Args:
            fingerprints: Of the ids.
            times: Milliseconds from (inclusive) and to (exclusive) that the ids carry.
        """
        ...

    def tally(
        self, log: str, field: int, indexes: Sequence[int] | None
    ) -> Mapping[int, tuple[int, int]]:
        """
        Count the terms of *field* over *indexes*, ascending, or over the whole log.

        Returns:
            Per term, how often it occurs and the index of one entry that has it.
        """
        ...


class Store(Protocol):
    """
    An append-only home for the logs of a trail.

    Usable from several threads and processes at once.
    """

    def write(self) -> AbstractContextManager[Transaction]:
        """
        Begin a transaction; writers of all processes wait for each other.

        When the block ends without an error, everything done in it has happened
        at once and survives a crash of this machine. When the block raises,
        nothing has happened.

        Raises:
            StoreError: Nothing was written.
            WriteUncertain: Everything or nothing was written; look before retrying.
            UnsupportedVersion: A newer version has taken the store over.
        """
        ...

    def read(self) -> AbstractContextManager[View]:
        """
        Look at the store as it is now, whatever is written meanwhile.

        Raises:
            StoreError: The store cannot be reached.
        """
        ...

    def close_segments(self) -> Iterator[Segment]:
        """
        Build each complete segment that no one is building, and yield it.

        Nothing is registered here: the caller does it in a transaction, together
        with the custody entry that names the segment.
        """
        ...

    def purge_segments(self) -> Iterator[Segment]:
        """
        Build each closed segment anew that holds entries that were purged, and yield it.

        Nothing is registered here: the caller does it in a transaction, together with
        the custody entry that names the segment. When there is no further one, nothing
        of what was purged, nor of what the vault had of it, is in any file of the store,
        and that survives a crash. No hash is lost, and no proof.

        Raises:
            StoreError: Some of it may be left, in the files or in what a crash or a reader
                keeps of them; repeating it is safe.
            Damaged: A segment's file is not the one that was closed. It stays as it is;
                all others were purged.
        """
        ...

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """
        Leave of *entries*, by log and index, in the vault only what is said of each.

        When this returns, what was there before is in no file of the store, and that
        survives a crash. No log changes.

        Raises:
            StoreError: Some of it may be left, in the files or in what a crash or a reader
                keeps of them; repeating it is safe.
        """
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...
