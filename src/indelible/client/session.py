"""
Session: what a reader asks a collector, and what must hold of the answers.

::

    answer  ->  item: its bytes say what is shown        indelible.client.items
            ->  its leaf hash leads to the root          indelible.client.hashes
            ->  of a checkpoint that the trusted key has signed, which begins with the
                largest tree that was seen before        indelible.client.memory
            ->  it is what was asked for, in order

Pure: steps that yield requests and are sent answers (`indelible.client.exchange`), and a
memory that is given. Keys come from the reader, never with an answer.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import quote

import msgspec

from indelible.checkpoint import Checkpoint, Rotation
from indelible.client.exchange import Request, Steps, check, decoded
from indelible.client.hashes import Hashes, Wanting
from indelible.client.items import ActorSeen, Facet, Item, Page, facet_of, read_item
from indelible.errors import (
    CallerError,
    Damaged,
    InvalidProof,
    InvalidQuery,
    InvalidSignature,
    Malformed,
    NotFound,
    Rollback,
    StoreError,
    UnknownStream,
)
from indelible.mark import Known
from indelible.merkle import HASH_SIZE
from indelible.note import Note
from indelible.pins import Pin
from indelible.proof import Proof
from indelible.query import MAX_LIMIT, Query
from indelible.tiles import TILE_WIDTH, tile_path
from indelible.verify import first_of, verify_rotations
from indelible.wire import (
    ActorShown,
    EntryItem,
    EntryPage,
    ExportRequest,
    ExportShown,
    FacetsShown,
    FeedPage,
    LogShown,
    LogsShown,
    ViewShown,
    ViewsShown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.client.hashes import Tile
    from indelible.client.memory import Memory
    from indelible.note import VerifierKey
    from indelible.query import Item as HeldItem
    from indelible.verify import Tree

T = TypeVar("T")

_MOST_TILES = 1_024
"""Hash tiles that are kept of one log: 8 MiB."""

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds before it is asked again how far an export has come."""

_KEY_BY_HAND = (
    "get it from whoever runs the collector, on another way than from the collector itself"
    " (`indelible key DIR` prints it there)"
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A tree of a log that holds, and the note that says so."""

    tree: Known
    note: bytes
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of a log in its order.

    Attributes:
        after: What to ask with next.
    """

    items: tuple[Item, ...]
    after: int
    size: int


class Session:
    """
    What is known of one collector.

    Args:
        memory: What was seen of it before.
        keys: Verifier keys of its logs that the reader trusts; without any, those that
            were trusted before.

    Raises:
        CallerError: No key is trusted, or two of them are for logs of one name.
        Malformed: The memory cannot be read.
    """

    def __init__(self, url: str, memory: Memory, keys: Iterable[VerifierKey] = ()) -> None:
        self.url = url
        self._memory = memory
        self._given = {key.name: key for key in keys}
        for key in self._given.values():
            memory.trust(key)
        self._origins: dict[str, str] = {}
        for origin in memory.recall():
            log = origin.rpartition("/")[2]
            if self._origins.setdefault(log, origin) != origin:
                raise CallerError(
                    f"trust: found keys of {self._origins[log]} and {origin}, expected one"
                    f" origin for log {log} of {url}"
                )
        if not self._origins:
            raise CallerError(f"{url}: no key of its logs is trusted yet; {_KEY_BY_HAND}")
        self._signed: dict[str, Signed] = {}
        self._rotations: dict[str, tuple[str, ...]] = {}
        self._tiles: dict[str, dict[Tile, bytes]] = {}

    @property
    def origins(self) -> Mapping[str, str]:
        """The origin of each log whose key is trusted."""
        return self._origins

    def known(self) -> Mapping[str, Pin]:
        """Return the key and the largest tree that were seen of each log, by its origin."""
        return self._memory.recall()

    # ---- What is asked ----

    def page(
        self,
        query: Query,
        *,
        limit: int = 50,
        cursor: str | None = None,
        after: Item | None = None,
    ) -> Steps[Page]:
        """
        Ask for a page.

        Args:
            after: The last item of the page before, which this one must go on from.

        Raises:
            InvalidQuery: The limit is none, or the collector knows no such query.
            VerificationError: An item does not hold, or was not asked for.
        """
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise InvalidQuery(f"limit: found {limit!r}, expected a number from 1 to {MAX_LIMIT}")
        seen = self._memory.recall()
        request = Request(
            path="/v1/entries",
            parameters=_given(q=query.to_text(), limit=str(limit), cursor=cursor),
        )
        (answer,) = yield (request,)
        found = decoded(answer, EntryPage)
        if cursor is None:
            self._check_sizes(found.sizes, seen)
        if len(found.items) > limit:
            raise Malformed(f"page: found {len(found.items)} items, expected at most {limit}")
        items = yield from self._verified(found.items)
        _check_asked(query, items, after)
        return Page(items=items, cursor=found.cursor, sizes=found.sizes)

    def get(self, event_id: str) -> Steps[Item]:
        """
        Ask for the entry of the event with this id.

        Raises:
            NotFound: There is none that the caller may see.
            InvalidQuery: It is no id.
            VerificationError: The answer does not hold, or is another entry.
        """
        (wanted,) = Query(id=event_id).id
        (answer,) = yield (Request(path=f"/v1/entries/{quote(wanted, safe='')}"),)
        (item,) = yield from self._verified([decoded(answer, EntryItem)])
        if item.event.id != wanted:
            raise Damaged(f"{item.log}#{item.index}: is event {item.event.id}, expected {wanted}")
        return item

    def at(self, log: str, index: int) -> Steps[Item]:
        """
        Ask for the entry at *index* of *log*.

        Raises:
            NotFound: There is none that the caller may see.
            VerificationError: The answer does not hold, or is another entry.
        """
        part = yield from self.part(log, after=index - 1, limit=1, whole=False)
        if not part.items or part.items[0].index != index:
            raise NotFound(f"entry: no entry {log}#{index}")
        return part.items[0]

    def prove(self, item: HeldItem) -> Steps[Proof]:
        """
        Return the proof that the log's signed checkpoint covers *item*.

        Raises:
            InvalidProof: There is none.
            VerificationError: The log does not hold.
        """
        signed = yield from self._covering(item.log, item.index)
        with _named(item.log):
            hashes = yield from self._proven(
                item.log, signed.tree, lambda tree: tree.prove(item.index)
            )
        proof = Proof(index=item.index, hashes=hashes, checkpoint=signed.note)
        proof.verify(item.entry.to_bytes(), [signed.key], index=item.index)
        return proof

    def facets(self, query: Query, fields: Sequence[str], top: int) -> Steps[dict[str, Facet]]:
        """
        Ask how often the values of *fields* occur; the counts are the collector's word.

        Raises:
            InvalidQuery: The collector knows no such query or field.
            Malformed: The answer says nothing of a field, or something of another.
        """
        request = Request(
            path="/v1/facets",
            parameters=_given(q=query.to_text(), fields=",".join(fields), top=str(top)),
        )
        (answer,) = yield (request,)
        found = decoded(answer, FacetsShown).facets
        if set(found) != set(fields):
            raise Malformed(f"facets: found {', '.join(found)}, expected {', '.join(fields)}")
        return {field: facet_of(found[field]) for field in fields}

    def views(self) -> Steps[tuple[ViewShown, ...]]:
        """Ask for the curated views."""
        (answer,) = yield (Request(path="/v1/views"),)
        return decoded(answer, ViewsShown).views

    def actor(self, actor: str) -> Steps[ActorSeen]:
        """
        Ask when an actor was seen and what it did; all but its entries is the collector's word.

        Raises:
            InvalidQuery: *actor* is not ``type:id``.
            NotFound: It has done nothing that the caller may see.
            VerificationError: An entry does not hold, or is another's.
        """
        asked = Query(actor=actor)
        (answer,) = yield (Request(path=f"/v1/actors/{quote(actor, safe='')}"),)
        found = decoded(answer, ActorShown)
        recent = yield from self._verified(found.recent)
        _check_asked(asked, recent, None)
        return ActorSeen(
            first_seen=found.first_seen,
            last_seen=found.last_seen,
            actions=facet_of(found.actions),
            outcomes=facet_of(found.outcomes),
            recent=recent,
        )

    def export(self, query: Query, made_as: str, rationale: str) -> Steps[ExportShown]:
        """
        Have the collector make a file of what *query* finds, and wait until it is made.

        Raises:
            InvalidQuery: The collector knows no such query.
            CallerError: It makes no such file.
            StoreError: It could not make it; try again.
        """
        asked = ExportRequest(query=query.to_text(), format=made_as, rationale=rationale)
        body = msgspec.json.encode(asked)
        (answer,) = yield (Request(method="POST", path="/v1/exports", body=body),)
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        while (found := decoded(answer, ExportShown)).state in {"waiting", "running"}:
            path = f"/v1/exports/{quote(found.id, safe='')}"
            (answer,) = yield (Request(path=path, after=next(pauses)),)
        if found.state != "ready":
            raise StoreError(f"export {found.id}: is {found.state}; {found.why}")
        return found

    def part(
        self,
        log: str,
        *,
        after: int,
        limit: int = MAX_LIMIT,
        wait: float = 0.0,
        whole: bool = True,
    ) -> Steps[Part]:
        """
        Ask for what follows the entry *after* in the order of *log*.

        Args:
            wait: Seconds to wait for something where there is nothing yet.
            whole: Whether a gap is an error; it is none for a token that may see part of
                the log only.

        Raises:
            Damaged: An entry was left out.
            VerificationError: The answer does not hold.
        """
        origin = self._origin_of(log)
        before = self._memory.recall()[origin]
        request = Request(
            path=f"/v1/feed/{quote(log, safe='~')}",
            parameters=_given(after=str(after), limit=str(limit), wait=f"{wait:g}"),
            patience=wait,
        )
        (answer,) = yield (request,)
        found = decoded(answer, FeedPage)
        yield from self._accept_fed(log, found.checkpoint, before)
        items = yield from self._verified(found.items)
        _check_part(log, items, found, after=after, limit=limit, whole=whole)
        return Part(items=items, after=found.after, size=found.size)

    def checkpoints(self) -> Steps[dict[str, LogShown]]:
        """
        Ask for the checkpoints of all logs, verify those whose keys are trusted, return these.

        Raises:
            Rollback: A log is smaller than it was, or another.
            VerificationError: Something does not hold.
        """
        before = self._memory.recall()
        found = yield from self.listed()
        yield from self.accept(found, before)
        return found

    def listed(self) -> Steps[dict[str, LogShown]]:
        """Ask for the same, and verify nothing of it yet."""
        (answer,) = yield (Request(path="/v1/checkpoints"),)
        found = {each.log: each for each in decoded(answer, LogsShown).logs}
        return {log: found[log] for log in self._origins if log in found}

    def accept(self, listed: Mapping[str, LogShown], before: Mapping[str, Pin]) -> Steps[None]:
        """
        Verify and remember checkpoints.

        Args:
            before: What was known when they were asked for.

        Raises:
            VerificationError: One does not hold.
        """
        for log, said in listed.items():
            pin = before[self._origin_of(log)]
            yield from self._accept(log, said.checkpoint, said.rotations, pin)

    def newest(self, stream: str) -> Steps[str]:
        """
        Return the log that a stream is written to now, or the one that is named itself.

        Raises:
            UnknownStream: None of that stream is trusted, or may be read.
        """
        found = yield from self.checkpoints()
        logs = [log for log in found if log.partition("~")[0] == stream]
        if "~" in stream and stream in found:
            return stream
        if not logs:
            known = ", ".join(dict.fromkeys(log.partition("~")[0] for log in found))
            raise UnknownStream(f"stream: found {stream!r}, expected one of {known or 'none'}")
        return max(logs, key=_succession)

    def signed(self, log: str) -> Signed:
        """
        Return the largest tree of *log* that was verified.

        Raises:
            NotFound: There is no entry in it.
        """
        if log not in self._signed:
            raise NotFound(f"log {log}: holds no entry and so no checkpoint yet")
        return self._signed[log]

    def chain(self, log: str, rotations: Sequence[str]) -> list[VerifierKey]:
        """
        Return the keys that *log* has had, from the first that the trusted one vouches for.

        Raises:
            Malformed: A note is no rotation.
        """
        pinned = self._memory.recall()[self._origin_of(log)].key
        notes = [note.encode() for note in rotations]
        return [first_of(pinned, notes), *map(_new_key, notes)]

    # ---- What must hold ----

    def _origin_of(self, log: str) -> str:
        origin = self._origins.get(log)
        if origin is None:
            raise CallerError(f"log {log[:80]}: its key is not trusted yet; {_KEY_BY_HAND}")
        return origin

    def _check_sizes(self, sizes: Mapping[str, int], seen: Mapping[str, Pin]) -> None:
        """Check that an answer is over no less than had been seen before it was asked for."""
        for log, size in sizes.items():
            pin = seen.get(self._origins.get(log, ""))
            if pin is not None and pin.known is not None and size < pin.known.size:
                raise Rollback(
                    f"log {log}: the answer is over {size} entries,"
                    f" but {pin.known.size} were signed"
                )

    def _verified(self, found: Sequence[EntryItem]) -> Steps[tuple[Item, ...]]:
        """Return the entries that *found* are, each one proven to be in its log."""
        items = tuple(read_item(each, self._origin_of(each.integrity.log)) for each in found)
        for log in dict.fromkeys(item.log for item in items):
            leaves = {item.index: item.leaf_hash for item in items if item.log == log}
            signed = yield from self._covering(log, max(leaves))
            with _named(log):
                yield from self._proven(
                    log, signed.tree, partial(Hashes.verify_included, leaves=leaves)
                )
        return items

    def _covering(self, log: str, index: int) -> Steps[Signed]:
        """Return a verified tree that has an entry at *index*."""
        self._origin_of(log)
        signed = self._signed.get(log)
        if signed is None or signed.tree.size <= index:
            yield from self.checkpoints()
            signed = self._signed.get(log)
        if signed is None or signed.tree.size <= index:
            size = 0 if signed is None else signed.tree.size
            raise Damaged(f"{log}#{index}: the signed checkpoint covers {size} entries only")
        return signed

    def _accept_fed(self, log: str, note: str, before: Pin) -> Steps[None]:
        """Accept a checkpoint that comes alone: without rotation notes, which are asked for."""
        rotations = self._rotations.get(log, ())
        try:
            yield from self._accept(log, note or None, rotations, before)
        except InvalidSignature:
            yield from self.checkpoints()
            if self._rotations.get(log, ()) == rotations:
                raise
            yield from self._accept(log, note, self._rotations[log], before)

    def _accept(
        self, log: str, signed: str | None, rotations: Sequence[str], before: Pin
    ) -> Steps[None]:
        """
        Verify the checkpoint of a log, and remember it where it is the largest.

        Args:
            signed: The note; none where nothing was signed yet.
            before: What was known when it was asked for: it must not be smaller.
        """
        origin = self._origin_of(log)
        with _named(log):
            if signed is None:
                if before.known is not None and before.known.size:
                    raise Rollback(f"holds nothing, but {before.known.size} entries were signed")
                return
            note = signed.encode()
            claimed = Checkpoint.from_text(Note.from_bytes(note).text)
            tree = Known(claimed.size, claimed.root)
            notes = [each.encode() for each in rotations]
            first = first_of(before.key, notes)
            key = yield from self._proven(
                log,
                tree,
                # It asks a tree for its size and its roots, and no more.
                lambda hashes: verify_rotations(cast("Tree", hashes), origin, first, notes),
            )
            self._check_given(origin, first, key, notes)
            Checkpoint.open(note, [key])
            if before.known is not None and tree.size < before.known.size:
                raise Rollback(f"holds {tree.size} entries, but {before.known.size} were signed")
            yield from self._remember(log, before, Pin(key, tree))
            largest = self._signed.get(log)
            if largest is None or largest.tree.size <= tree.size:
                self._signed[log] = Signed(tree, note, key)
                self._rotations[log] = tuple(rotations)

    def _check_given(
        self, origin: str, first: VerifierKey, last: VerifierKey, rotations: Sequence[bytes]
    ) -> None:
        """Check that the key that the reader has given is of the chain that leads to *last*."""
        given = self._given.get(origin, last)
        if given not in {first, *map(_new_key, rotations)}:
            raise InvalidSignature(
                f"found key {last.to_text()}, which was trusted before,"
                f" expected the one that is trusted now, {given.to_text()}"
            )

    def _remember(self, log: str, before: Pin, verified: Pin) -> Steps[None]:
        """Hold a verified tree against the largest one, whoever has seen that, and keep it."""
        mine, origin = verified.known, verified.key.name
        assert mine is not None  # noqa: S101 - it is what was verified
        while True:
            there = self._memory.recall()[origin]
            seen = there.known
            if seen is not None and seen.size > mine.size:
                # Somebody else was ahead meanwhile: it must be one log all the same.
                yield from self._proven(log, seen, partial(Hashes.verify_begins_with, known=mine))
                return
            if seen is not None:
                yield from self._proven(log, mine, partial(Hashes.verify_begins_with, known=seen))
            # A key that somebody else has seen meanwhile is a later one.
            key = verified.key if there.key == before.key else there.key
            if self._memory.advance(there, Pin(key, mine)).known == mine:
                return

    def _proven(self, log: str, tree: Known, prove: Callable[[Hashes], T]) -> Steps[T]:
        """Return what *prove* does of a tree's hashes, once all tiles that it takes are here."""
        kept = self._tiles.setdefault(log, {})
        hashes = Hashes(tree, kept)
        while True:
            try:
                proven = prove(hashes)
            except Wanting as more:
                answers = yield [
                    Request(
                        path=f"/log/{quote(log, safe='~')}/{tile_path(*tile)}",
                        most=TILE_WIDTH * HASH_SIZE,
                    )
                    for tile in more.tiles
                ]
                for tile, answer in zip(more.tiles, answers, strict=True):
                    check(answer)
                    hashes.add(tile, answer.body)
                continue
            # Kept only now: what they led to holds, so they are the log's.
            kept.update(hashes.fetched)
            while len(kept) > _MOST_TILES:
                kept.pop(next(iter(kept)), None)
            return proven


def _new_key(rotation: bytes) -> VerifierKey:
    return Rotation.from_text(Note.from_bytes(rotation).text).new


def _check_asked(query: Query, items: Sequence[Item], after: Item | None) -> None:
    """Check that *items* are what *query* asks for, in its order, none of them twice."""
    for item in items:
        where = f"{item.log}#{item.index}"
        in_stream = not query.stream or item.stream in query.stream
        if not in_stream or not query.matches(item.entry, item.event):
            raise Damaged(f"{where}: is not what was asked for")
        if after is not None:
            earlier, later = (item, after) if query.newest_first else (after, item)
            if earlier.place >= later.place:
                raise Damaged(f"{where}: stands after {after.log}#{after.index} in the answer")
        after = item


def _check_part(
    log: str, items: Sequence[Item], found: FeedPage, *, after: int, limit: int, whole: bool
) -> None:
    """Check that *items* follow *after* in the order of the log, and that none is left out."""
    if len(items) > limit:
        raise Malformed(f"feed: found {len(items)} items, expected at most {limit}")
    last = after
    for item in items:
        if item.log != log:
            raise Damaged(f"feed of {log}: found an entry of {item.log}")
        if item.index <= last:
            raise Damaged(f"feed of {log}: found entry {item.index} after entry {last}")
        # Only where it begins may entries have been purged.
        purged = item is items[0] and item.index == found.first and not found.first % TILE_WIDTH
        if whole and item.index != last + 1 and not purged:
            raise Damaged(f"feed of {log}: found entry {item.index}, expected {last + 1}")
        last = item.index
    if not items and found.first > last and not found.first % TILE_WIDTH:
        last = found.first - 1  # all that there was until there was purged
    if found.after < last or (whole and found.after != last):
        raise Damaged(f"feed of {log}: goes on after {found.after}, expected after {last}")


def _succession(log: str) -> int:
    number = log.partition("~")[2]
    return int(number) if number.isascii() and number.isdigit() else 1


def _given(**parameters: str | None) -> tuple[tuple[str, str], ...]:
    """Return the parameters that say something."""
    return tuple((name, value) for name, value in parameters.items() if value)


@contextmanager
def _named(log: str) -> Iterator[None]:
    """Say of which log it is that something does not hold."""
    try:
        yield
    except (Rollback, InvalidProof, InvalidSignature) as error:
        raise type(error)(f"log {log}: {error}") from None
