"""
Producer: a log that is shipped to a collector, and what may be taken from it.

::

    shipment, what is held  ->  links, tree, signature, consistency  ->  sealed entries, what is
                                                                         held then, the refused

Pure: it is told what is held and answers what will be; nothing is read or kept here. A
shipment is all or nothing in the producer's tree. An entry whose values do not open is kept
and marked, never dropped, or the tree could not reach the root that was signed.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from indelible.checkpoint import Checkpoint, Rotation, handed_over
from indelible.disclosure import commitment_of, is_hash, leaf_of, open_at
from indelible.entry import MAX_ENTRY, NO_PREVIOUS, Collected, Entry, verify_link
from indelible.errors import CallerError, InvalidProof, Malformed, VerificationError
from indelible.fields import VALUES, split
from indelible.merkle import HASH_SIZE, Edge, leaf_hash, verify_consistency
from indelible.note import VerifierKey, parse_base64
from indelible.policy import CUSTODY, FieldClass, FieldRule
from indelible.seal import WITHHELD, Sealed, Value, unseal
from indelible.segment import TILE
from indelible.wire import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.policy import Policy
    from indelible.seal import Clear
    from indelible.wire import Shipment

KIND, HELD_KIND, TILE_KIND = "producer", "producer.held", "producer.tile"
"""Kinds of the facts that a collector keeps of producers; keys: `key_of`, `tile_key`."""

_MOST_NOTE = 8 * 1024
"""Bytes of a note: a few of them are evidence that fits into one entry."""

_MOST_ORIGIN = 500
_HOUR = 3_600_000_000
_PLACE = 160
"""Bytes of an entry before what is collected in it, at most."""


class Gap(CallerError):
    """
    Entries that do not follow what is held.

    Args:
        expected: The index to go on with.
    """

    def __init__(self, origin: str, found: int, expected: int) -> None:
        self.expected = expected
        super().__init__(f"{origin}: found entry {found}, expected {expected}")


class Revoked(CallerError):
    """A producer whose key was revoked before these entries."""


class ForeignTenant(CallerError):
    """Events of another tenant than the one that the producer is for."""


class Conflict(VerificationError):
    """Other bytes at an index that is held, or a tree that was signed and is not this one."""


class Producer(msgspec.Struct, frozen=True, kw_only=True):
    """
    A log that a collector takes in.

    Attributes:
        key: Text of the verifier key that it was enrolled with.
        stream: Of the collector, where its entries go.
        tenant: Whose events alone it may bring.
        enrolled_at: Microseconds since 1970.
        revoked_at: The size from which on nothing more is taken.
    """

    origin: str
    key: str
    stream: str
    tenant: str | None = None
    enrolled_at: int
    enrolled_by: str
    revoked_at: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Producer:
        """Read what `to_bytes` writes."""
        return msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.msgpack.encode(self)


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """
    A tree that the producer has signed.

    Attributes:
        note: In which it did so: the evidence, should its entries not lead there.
    """

    size: int
    root: bytes
    note: bytes


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a collector has of a producer's log.

    Attributes:
        edge: Right edge of the tree over its first *size* entries.
        rest: Leaf hashes after the last complete tile.
        rotations: Notes by which the log changed its key.
        promised: Trees that were signed and that the entries have yet to reach: the next,
            and the largest; and then the largest that was signed at all.
        seen_at: Microseconds since 1970.
        alarm: What did not hold the last time that something did not, as it was said.
        alarmed_at: When it was; microseconds since 1970.
    """

    size: int = 0
    edge: bytes = b""
    rest: bytes = b""
    last_leaf: bytes = NO_PREVIOUS
    rotations: tuple[bytes, ...] = ()
    promised: tuple[Promise, ...] = ()
    seen_at: int | None = None
    alarm: str | None = None
    alarmed_at: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Held:
        """Read what `to_bytes` writes; of a log that nothing came from yet, nothing."""
        return cls() if data is None else msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.msgpack.encode(self)

    @property
    def tree(self) -> Edge:
        """The tree over what is held."""
        return Edge.from_bytes(self.size, self.edge)

    def alarms(self, what: str, now: int) -> bool:
        """Tell whether *what* does not hold is to be said: once, and nothing else for an hour."""
        is_time = self.alarmed_at is None or now >= self.alarmed_at + _HOUR
        return self.alarm != what and is_time

    @property
    def most_promised(self) -> int:
        """The largest size that the producer has signed."""
        return max((each.size for each in self.promised), default=0)


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is to be kept of a shipment.

    Attributes:
        entries: Those that are new; their values are yet to be enclosed.
        held: What the collector will have of the log then.
        tiles: Number and leaf hashes of each tile that has become complete.
        refused: Those of *entries* that something is said against.
    """

    entries: tuple[Sealed, ...]
    held: Held
    tiles: tuple[tuple[int, bytes], ...]
    refused: tuple[Refused, ...]


def key_of(origin: str) -> bytes:
    """Return the key of the facts about the producer of this *origin*."""
    return origin.encode()


def tile_key(origin: str, number: int) -> bytes:
    """Return the key of the leaf hashes of complete tile *number* of a producer's log."""
    return sha256(origin.encode()).digest()[:16] + number.to_bytes(8, "big")


def enrol(
    key: VerifierKey,
    *,
    stream: str | None,
    tenant: str | None,
    policy: Policy,
    now: int,
    by: str,
) -> Producer:
    """
    Return the producer that the log with this *key* becomes.

    Args:
        stream: Where its entries go; by default the stream of the same name.
        policy: The collector's.

    Raises:
        CallerError: The collector has no such stream, or it is the one about itself.
    """
    if len(key.name.encode()) > _MOST_ORIGIN:
        raise CallerError(
            f"origin: found {len(key.name.encode())} bytes, expected at most {_MOST_ORIGIN}"
        )
    stream = stream or key.name.rpartition("/")[2].partition("~")[0]
    if stream == CUSTODY:
        # What a producer says of itself must not be taken for what the collector says.
        stream = PRODUCERS
    if stream not in policy.streams:
        known = ", ".join(each for each in policy.streams if each != CUSTODY)
        raise CallerError(f"stream of {key.name}: found {stream!r}, expected one of {known}")
    return Producer(
        origin=key.name,
        key=key.to_text(),
        stream=stream,
        tenant=tenant,
        enrolled_at=now,
        enrolled_by=by,
    )


def proof_text(origin: str, token_id: str) -> str:
    """
    Return the text of the note by which the log of *origin* asks to be taken in.

    Args:
        token_id: Of the join token: the note is for whoever issued that, and no other.
    """
    return f"indelible/enrol/1\n{origin}\n{token_id}\n"


PRODUCERS = "producers"
"""The collector's stream that the custody streams of producers go to."""


def admit(  # noqa: PLR0917 - whose it is, what is held, what came, and how to look things up
    producer: Producer,
    held: Held,
    shipment: Shipment,
    leaves_of: Callable[[int, int], list[bytes]],
    policy_of: Callable[[str | None], Policy],
    now: int,
) -> Admission:
    """
    Decide what is to be kept of *shipment*.

    Args:
        leaves_of: Leaf hashes of the entries [first, last) that are held.
        policy_of: The policy with this label: how values were classified when they were
            sealed. Of one that is not known, the collector's own.
        now: Microseconds since 1970.

    Raises:
        Malformed: An entry, or what proves it, has not the exact form.
        Gap: The entries do not follow what is held.
        Revoked: The producer's key was revoked before them.
        ForeignTenant: One is of another tenant. It could not be kept apart from that one's.
        InvalidSignature: The checkpoint, or a rotation, is not signed by the producer.
        InvalidProof, BrokenChain: They are not what the checkpoint was signed over.
        Conflict: They contradict what is held, or what was signed before.
    """
    data = [bytes(raw) for raw in shipment.entries]
    leaves = [leaf_hash(each) for each in data]
    entries = _parsed(data, leaves)
    first = _first_of(producer, entries)
    last = first + len(entries)
    if first > held.size:
        raise Gap(producer.origin, first, held.size)
    rotations, key, boundaries = _rotations(producer, held, shipment)
    note = _note_of(shipment.checkpoint, "checkpoint")
    signed = Checkpoint.open(note, [key])
    promise = Promise(size=signed.size, root=signed.root, note=note)
    # Only now: whoever has a token and not the key accuses nobody.
    _compare(producer, first, leaves[: held.size - first], leaves_of)
    if producer.revoked_at is not None and last > max(producer.revoked_at, held.size):
        raise Revoked(f"{producer.origin}: was revoked at size {producer.revoked_at}")
    if signed.size == held.size:
        _reach(producer, promise, held.tree)
    if last <= held.size:
        # All of it is held. What it promises is kept with the next shipment that is new.
        return Admission(entries=(), held=held, tiles=(), refused=())
    new = held.size - first
    _verify_links(entries[new:], held.last_leaf, leaves[new:])
    edge, _ = held.tree.extend(leaves[new:])
    if signed.size < last:
        raise InvalidProof(f"checkpoint: found one over {signed.size} entries, expected {last}")
    proof = [parse_base64(each, what="consistency proof") for each in shipment.consistency]
    verify_consistency(last, signed.size, proof, edge.root, signed.root)
    _verify_promises(producer, held, leaves[new:], [*held.promised, *boundaries, promise])
    opened = [
        _opened(producer, entry, raw, shipment.disclosures.get(str(entry.index)), policy_of)
        for entry, raw in zip(entries[new:], data[new:], strict=True)
    ]
    rest = held.rest + b"".join(leaves[new:])
    whole = len(rest) // (TILE * HASH_SIZE)
    return Admission(
        entries=tuple([sealed for sealed, _ in opened]),
        held=Held(
            size=last,
            edge=edge.to_bytes(),
            rest=rest[whole * TILE * HASH_SIZE :],
            last_leaf=leaves[-1],
            rotations=rotations,
            promised=_open_promises([*held.promised, *boundaries, promise], last),
            seen_at=now,
            alarm=held.alarm,
            alarmed_at=held.alarmed_at,
        ),
        tiles=tuple(
            (
                held.size // TILE + each,
                rest[each * TILE * HASH_SIZE : (each + 1) * TILE * HASH_SIZE],
            )
            for each in range(whole)
        ),
        refused=tuple(
            Refused(index=entry.index, why=why)
            for entry, (_, why) in zip(entries[new:], opened, strict=True)
            if why
        ),
    )


def _parsed(data: Sequence[bytes], leaves: Sequence[bytes]) -> list[Entry]:
    if not data:
        return []
    entries = [Entry.from_bytes(data[0])]
    index = entries[0].index
    for each, previous in zip(data[1:], leaves, strict=False):
        index += 1
        entries.append(Entry.following(each, index, previous))
    return entries


def _first_of(producer: Producer, entries: Sequence[Entry]) -> int:
    if not entries:
        raise Malformed(f"{producer.origin}: found no entries, expected at least one")
    first = entries[0].index
    for index, entry in enumerate(entries, first):
        if entry.index != index:
            raise Malformed(f"{producer.origin}: found entry {entry.index}, expected {index}")
        if entry.collected is not None:
            raise Malformed(f"{producer.origin}: entry {index} was itself collected")
    return first


def _compare(
    producer: Producer,
    first: int,
    leaves: Sequence[bytes],
    leaves_of: Callable[[int, int], list[bytes]],
) -> None:
    """Hold entries that come again against those that are held."""
    if not leaves:
        return
    for index, (found, kept) in enumerate(
        zip(leaves, leaves_of(first, first + len(leaves)), strict=True), first
    ):
        if found != kept:
            raise Conflict(
                f"{producer.origin}: entry {index} has leaf hash {found.hex()},"
                f" the one that is held has {kept.hex()}"
            )


def _rotations(
    producer: Producer, held: Held, shipment: Shipment
) -> tuple[tuple[bytes, ...], VerifierKey, list[Promise]]:
    """Walk from the enrolled key to the one that signs now; return what new notes promise."""
    given = tuple(_note_of(note, "rotation") for note in shipment.rotations)
    known = held.rotations
    if given[: len(known)] != known[: len(given)]:
        # Or whoever has a token could make a conflict of anything.
        handed_over(VerifierKey.from_text(producer.key), given)
        raise Conflict(f"{producer.origin}: has other rotation notes than those that are held")
    notes = max(given, known, key=len)
    key = VerifierKey.from_text(producer.key)
    boundaries = []
    for number, note in enumerate(notes):
        rotation = Rotation.open(note, key)
        key = rotation.new
        if number >= len(known) and rotation.size > held.size:
            boundaries.append(Promise(size=rotation.size, root=rotation.root, note=note))
        elif number >= len(known) and rotation.size == held.size:
            _reach(producer, Promise(size=rotation.size, root=rotation.root, note=note), held.tree)
    return notes, key, boundaries


def _note_of(text: str, what: str) -> bytes:
    """Return a note that a log has signed alone: what is kept, and shown where it is evidence."""
    note = text.encode()
    if len(note) > _MOST_NOTE:
        raise Malformed(f"{what}: found {len(note)} bytes, expected at most {_MOST_NOTE}")
    return note


def _verify_links(entries: Sequence[Entry], previous: bytes, leaves: Sequence[bytes]) -> None:
    for entry, leaf in zip(entries, leaves, strict=True):
        verify_link(entry, previous)
        previous = leaf


def _verify_promises(
    producer: Producer, held: Held, leaves: Sequence[bytes], promises: Sequence[Promise]
) -> None:
    """Hold the tree, as the new *leaves* make it grow, against each that was signed."""
    for promise in promises:
        if held.size < promise.size <= held.size + len(leaves):
            edge, _ = held.tree.extend(leaves[: promise.size - held.size])
            _reach(producer, promise, edge)


def _reach(producer: Producer, promise: Promise, edge: Edge) -> None:
    if edge.root != promise.root:
        raise Conflict(
            f"{producer.origin}: its first {promise.size} entries have root {edge.root.hex()},"
            f" it has signed {promise.root.hex()}"
        )


def _open_promises(promises: Sequence[Promise], size: int) -> tuple[Promise, ...]:
    """Return of *promises* the next that is not reached, and the largest of all."""
    largest = max(promises, key=lambda each: each.size)
    ahead = [each for each in promises if each.size > size]
    if not ahead:
        return (largest,)
    nearest = min(ahead, key=lambda each: each.size)
    return (nearest,) if nearest.size == largest.size else (nearest, largest)


def _opened(
    producer: Producer,
    entry: Entry,
    data: bytes,
    given: Sequence[msgspec.Raw] | None,
    policy_of: Callable[[str | None], Policy],
) -> tuple[Sealed, str]:
    """Return a new entry with the values that were opened, and what is to be said against it."""
    clear = unseal(entry.event)
    if producer.tenant is not None and clear.tenant != producer.tenant:
        raise ForeignTenant(f"{producer.origin}: entry {entry.index} is of another tenant")
    collected = Collected(producer=producer.origin, entry=data)
    _check_size(producer, collected)
    policy = policy_of(clear.policy)
    if not clear.committed:
        _check_readable(clear)
        return Sealed(event=entry.event, clear=clear, collected=collected), ""
    try:
        disclosures, leaves, values = _values(clear, given, policy)
        _check_readable(clear, values)
    except VerificationError as error:
        _check_readable(clear)
        return Sealed(event=entry.event, clear=clear, collected=collected), str(error)
    named = {each.path: each.value for each in values if each.rule is not None}
    actor = clear.actor.id or named.get("/actor/id")
    resource = clear.resource.id or named.get("/resource/id")
    return (
        Sealed(
            event=entry.event,
            clear=clear,
            actor=None if actor is None else f"{clear.actor.type}:{actor}",
            resource=None if resource is None else f"{clear.resource.type}:{resource}",
            values=tuple(values),
            disclosures=tuple(disclosures),
            leaves=tuple(leaves),
            commitment=urlsafe_b64decode(f"{clear.commitment}="),
            collected=collected,
        ),
        "",
    )


def _check_size(producer: Producer, collected: Collected) -> None:
    if len(collected.member) > MAX_ENTRY - _PLACE:
        raise Malformed(f"{producer.origin}: found an entry that is too large to be collected")


def _check_readable(clear: Clear, values: Sequence[Value] = ()) -> None:
    """
    Check that there is an event to be read, whatever is shown of its *values*.

    One that could not be read would stand in the way of all that is read with it.

    Raises:
        Malformed: There is none.
    """
    _check_paths(clear.committed, clear.dropped)
    there = {each.path: each.value for each in values if each.rule is not None}
    clear.event(there, dict.fromkeys(clear.committed, WITHHELD))


@lru_cache(maxsize=1_024)
def _check_paths(committed: tuple[str, ...], dropped: tuple[str, ...]) -> None:
    for path in (*committed, *dropped):
        if split(path)[1] is None and path not in VALUES:
            raise Malformed(f"event: found path {path[:80]!r}, at which nothing is committed")
    if len(set(committed)) != len(committed):
        raise Malformed("event: commits to a path twice")


def _values(
    clear: Clear, given: Sequence[msgspec.Raw] | None, policy: Policy
) -> tuple[list[bytes], list[bytes], list[Value]]:
    """
    Return the disclosures of an event, their leaf hashes, and the values.

    Raises:
        VerificationError: They do not open its commitment.
    """
    count = len(clear.committed)
    if given is None or len(given) != count:
        found = 0 if given is None else len(given)
        raise InvalidProof(f"disclosures: found {found}, expected {count}")
    rules = policy.classification(clear.actor.type, clear.resource.type)
    disclosures: list[bytes] = []
    leaves: list[bytes] = []
    values: list[Value] = []
    for path, raw in zip(clear.committed, given, strict=True):
        data = bytes(raw)
        if data[:1] == b'"':
            # Erased or purged where it was recorded: its leaf hash proves the others.
            leaf = _leaf_from_text(data)
            values.append(Value(path=path, value=None, rule=None))
        else:
            leaf = leaf_of(data)
            value = open_at(data, path)
            values.append(Value(path=path, value=value, rule=_rule_of(path, clear, rules)))
        disclosures.append(data)
        leaves.append(leaf)
    if commitment_of(leaves) != urlsafe_b64decode(f"{clear.commitment}="):
        raise InvalidProof("disclosures: do not open the commitment")
    return disclosures, leaves, values


def _rule_of(path: str, clear: Clear, rules: Mapping[str, FieldRule]) -> FieldRule:
    # What was committed although it is public looked like a secret when it was sealed.
    rule = rules[path]
    return _CAUGHT if rule.class_ is FieldClass.PUBLIC or path in clear.caught else rule


_CAUGHT = FieldRule(class_=FieldClass.PERSONAL, search="exact")


def _leaf_from_text(data: bytes) -> bytes:
    text = data[1:-1].decode("ascii", "replace")
    if not is_hash(text):
        raise Malformed("disclosure: found a text that is no leaf hash")
    return urlsafe_b64decode(f"{text}=")


def heads_of(producers: Iterator[tuple[Producer, Held]]) -> tuple[int, bytes]:
    """Return how many producers have signed something, and the root over the last of it."""
    notes = [
        max(held.promised, key=lambda each: each.size).note
        for _, held in producers
        if held.promised
    ]
    edge, _ = Edge().extend([leaf_hash(note) for note in notes])
    return len(notes), edge.root
