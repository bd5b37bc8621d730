"""
Memory store: for tests and for trying things out; nothing outlives the process.

It has no segments: everything is open, and a scan is all there is.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from indelible.entry import NO_PREVIOUS
from indelible.errors import Purged
from indelible.merkle import subtree_root
from indelible.segment import TILE, Columns
from indelible.store import Head, Stored, Tile, Work
from indelible.terms import LOOKUPS, NO_TRACE, Terms, field_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.segment import Segment
    from indelible.store import Batch, Forgotten, Wanted

_GONE = Terms(terms=(), id=0, id_time=0, trace=NO_TRACE, occurred_at=0)


@dataclass(slots=True)
class _Log:
    """What was committed of one log; lists only grow, so a size is a snapshot."""

    bodies: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    terms: list[Terms] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    rows: dict[int, bytes] = field(default_factory=dict)
    rotations: list[bytes] = field(default_factory=list)

    def without(self, last: int) -> _Log:
        """Return another of which the hashes are all that is left before *last*."""
        return _Log(
            bodies=[b""] * last + self.bodies[last:],
            leaves=self.leaves,
            terms=[_GONE] * last + self.terms[last:],
            recorded=[0] * last + self.recorded[last:],
            rows={index: row for index, row in self.rows.items() if index >= last},
            rotations=self.rotations,
        )


class MemoryStore:
    """Implements `indelible.store.Store` for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, _Log] = {}
        self._heads: dict[str, Head] = {}
        self._documents: dict[bytes, bytes] = {}
        self._facts: dict[tuple[str, bytes], bytes] = {}

    @contextmanager
    def write(self) -> Iterator[_Transaction]:
        """Begin the one transaction that writes; see `indelible.store.Store.write`."""
        with self._lock:
            transaction = _Transaction(self._logs, dict(self._heads), dict(self._facts))
            yield transaction
            for name in transaction.created:
                self._logs[name] = _Log()
            for batch in transaction.batches:
                log = self._logs[batch.head.log]
                log.bodies += batch.bodies
                log.leaves += batch.leaves
                log.terms += batch.terms
                log.recorded += [batch.head.recorded_at] * len(batch.bodies)
                log.rows.update(enumerate(batch.rows, batch.first))
            for name, note in transaction.notes:
                self._logs[name].rotations.append(note)
            for name, first in transaction.purged.items():
                # Another one, so that whoever reads meanwhile goes on to see all of it.
                self._logs[name] = self._logs[name].without(first)
            self._heads, self._facts = transaction.changed, transaction.facts
            self._documents.update({sha256(data).digest(): data for data in transaction.documents})

    @contextmanager
    def read(self) -> Iterator[_View]:
        """Look at one state of the store; see `indelible.store.Store.read`."""
        with self._lock:
            view = _View(self._logs, self._heads, self._documents, self._facts)
        yield view

    def close_segments(self) -> Iterator[Segment]:
        """Yield nothing: there are no segments here."""
        yield from ()

    def purge_segments(self) -> Iterator[Segment]:
        """Yield nothing: what is purged here is gone at once."""
        yield from ()

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """Leave of *entries* only what is said; see `indelible.store.Store.forget`."""
        with self._lock:
            for name, forgotten in entries.items():
                log, first = self._logs[name], self._heads[name].first
                for index, left in forgotten.items():
                    if index < first:
                        continue
                    log.rows[index] = left.row
                    terms = log.terms[index]
                    kept = tuple(each for each in terms.lookups if each not in left.lookups)
                    log.terms[index] = msgspec.structs.replace(terms, lookups=kept)

    def close(self) -> None:
        """Keep everything: it is the process that forgets."""


class _Transaction:
    """Implements `indelible.store.Transaction`."""

    def __init__(
        self,
        logs: Mapping[str, _Log],
        heads: dict[str, Head],
        facts: dict[tuple[str, bytes], bytes],
    ) -> None:
        self._logs = logs
        self.facts = facts
        self.changed = heads
        self.created: list[str] = []
        self.batches: list[Batch] = []
        self.notes: list[tuple[str, bytes]] = []
        self.purged: dict[str, int] = {}
        self.documents: list[bytes] = []

    def heads(self) -> Mapping[str, Head]:
        return dict(self.changed)

    def leaf(self, log: str, index: int) -> bytes:
        return self._logs[log].leaves[index]

    def create(self, head: Head) -> None:
        self.created.append(head.log)
        self.changed[head.log] = head

    def append(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.changed[batch.head.log] = batch.head

    def add_document(self, data: bytes) -> None:
        self.documents.append(data)

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return self.facts.get((kind, key))

    def put(self, kind: str, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.facts.pop((kind, key), None)
        else:
            self.facts[kind, key] = value

    def rotate(self, log: str, note: bytes, checkpoint: bytes) -> None:
        self.notes.append((log, note))
        self.changed[log] = replace(self.changed[log], checkpoint=checkpoint)

    def purge(self, log: str, first: int) -> None:
        self.changed[log] = self.changed[log].without(first)
        self.purged[log] = first

    def register(self, segment: Segment) -> None:
        raise AssertionError(f"no segment is ever built here, and so not {segment.number}")


class _View:
    """Implements `indelible.store.View`."""

    def __init__(
        self,
        logs: Mapping[str, _Log],
        heads: Mapping[str, Head],
        documents: Mapping[bytes, bytes],
        facts: Mapping[tuple[str, bytes], bytes],
    ) -> None:
        self.work = Work()
        self._facts = facts
        self._documents = dict(documents)
        self._logs = dict(logs)
        self._heads = dict(heads)

    def heads(self) -> Mapping[str, Head]:
        return self._heads

    def rotations(self, log: str) -> list[bytes]:
        return list(self._logs[log].rotations)

    def segments(self, log: str) -> list[Segment]:  # noqa: ARG002 - there are none
        return []

    def stored(self, log: str, indexes: Sequence[int]) -> list[Stored]:
        kept, first = self._logs[log], self._heads[log].first
        for index in indexes:
            if index < first:
                raise Purged(log, index)
        self.work.blocks_read += len(indexes)
        return [
            Stored(
                index=index,
                previous=kept.leaves[index - 1] if index else NO_PREVIOUS,
                body=kept.bodies[index],
                leaf=kept.leaves[index],
            )
            for index in indexes
        ]

    def rows(self, log: str, indexes: Sequence[int]) -> list[bytes]:
        return [self._logs[log].rows.get(index, b"") for index in indexes]

    def lookups(self, log: str, first: int, last: int) -> Iterator[tuple[int, Sequence[int]]]:
        head = self._heads[log]
        for index in range(max(first, head.first), min(last, head.size)):
            if lookups := self._logs[log].terms[index].lookups:
                yield index, lookups

    def document(self, digest: bytes) -> bytes | None:
        return self._documents.get(digest)

    def fact(self, kind: str, key: bytes) -> bytes | None:
        return self._facts.get((kind, key))

    def facts(
        self, kind: str, first: bytes = b"", last: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        for (each, key), value in sorted(self._facts.items()):
            if each == kind and first <= key and (last is None or key < last):
                yield key, value

    def tiles(self, log: str, first: int, last: int) -> Iterator[Tile]:
        kept, head = self._logs[log], self._heads[log]
        for start in range(first, min(last, head.size), TILE):
            end = min(start + TILE, head.size)
            leaves = kept.leaves[start:end]
            purged = start < head.first
            yield Tile(
                first=start,
                previous=kept.leaves[start - 1] if start else NO_PREVIOUS,
                bodies=() if purged else kept.bodies[start:end],
                leaves=b"".join(leaves),
                root=subtree_root(leaves) if len(leaves) == TILE else None,
                columns=None if purged else Columns.of(kept.terms[start:end]),
                purged=purged,
            )

    def leaves(self, log: str, first: int, last: int) -> list[bytes]:
        return self._logs[log].leaves[first:last]

    def node(self, log: str, level: int, index: int) -> bytes:
        return subtree_root(self._logs[log].leaves[index << level : index + 1 << level])

    def candidates(
        self, log: str, wanted: Wanted, first: int, last: int, *, newest_first: bool
    ) -> Iterator[int]:
        kept, head = self._logs[log], self._heads[log]
        indexes = range(max(first, head.first), min(last, head.size))
        for index in reversed(indexes) if newest_first else indexes:
            terms = kept.terms[index]
            if (
                all(
                    not group.isdisjoint(terms.terms) or not group.isdisjoint(terms.lookups)
                    for group in wanted.groups
                )
                and (wanted.id is None or wanted.id == (terms.id, terms.id_time))
                and (wanted.trace is None or wanted.trace == terms.trace)
                and wanted.recorded[0] <= kept.recorded[index] < wanted.recorded[1]
                and wanted.occurred[0] <= terms.occurred_at < wanted.occurred[1]
            ):
                yield index

    def with_ids(
        self, log: str, fingerprints: frozenset[int], times: tuple[int, int]
    ) -> Iterator[int]:
        for index in range(self._heads[log].first, self._heads[log].size):
            terms = self._logs[log].terms[index]
            if terms.id in fingerprints and times[0] <= terms.id_time < times[1]:
                yield index

    def tally(
        self, log: str, field: int, indexes: Sequence[int] | None
    ) -> dict[int, tuple[int, int]]:
        totals: dict[int, tuple[int, int]] = {}
        kept = range(self._heads[log].first, self._heads[log].size)
        for index in kept if indexes is None else [each for each in indexes if each in kept]:
            terms = self._logs[log].terms[index]
            for term in terms.lookups if field in LOOKUPS else terms.terms:
                if field_of(term) == field:
                    count, _ = totals.get(term, (0, 0))
                    totals[term] = (count + 1, index)
        return totals
