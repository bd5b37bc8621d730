"""What a collector takes from a producer, and what it refuses, decided without any server."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from indelible import log
from indelible.checkpoint import Checkpoint, Rotation
from indelible.document import default, for_collector
from indelible.entry import hash_to_text
from indelible.errors import (
    BrokenChain,
    CallerError,
    InvalidProof,
    InvalidSignature,
    Malformed,
    VerificationError,
)
from indelible.event import Actor, Client, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.merkle import consistency_proof, leaf_hash, root_of
from indelible.producer import (
    PRODUCERS,
    Conflict,
    ForeignTenant,
    Gap,
    Held,
    Producer,
    Revoked,
    admit,
    enrol,
    heads_of,
)
from indelible.seal import seal
from indelible.segment import TILE
from indelible.store import Head
from indelible.stores.memory import MemoryStore
from indelible.wire import Shipment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indelible.producer import Admission
    from indelible.seal import Sealed

NOW = 1_764_000_000_000_000
ORIGIN = "shop.example.com/web-1/user"
KEY = SigningKey.from_seed(ORIGIN, bytes(range(32)))
OTHER = SigningKey.from_seed(ORIGIN, bytes(range(1, 33)))


def sealed(number: int, *, tenant: str | None = None) -> Sealed:
    """Event *number*: its actor, address and the rest are committed as the default policy says."""
    event = Event(
        id=f"01a20c39-dd97-7a23-9bb2-{number:012x}",
        occurred_at=datetime(2026, 11, 24, tzinfo=UTC),
        action="invoice.approve",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse(f"invoice:{number}"),
        client=Client(ip="203.0.113.9"),
        tenant=tenant,
    )
    policy = default()
    return seal(event, policy.rule_on(event), policy, entropy=bytes)


class Source:
    """A producer's log in memory."""

    def __init__(self, key: SigningKey = KEY) -> None:
        self.key = key
        self.store = MemoryStore()
        self.sealed: list[Sealed] = []
        with self.store.write() as transaction:
            transaction.create(Head(log="user", origin=key.name))

    def add(self, count: int, *, start: int | None = None, tenant: str | None = None) -> Source:
        """Record so many events, the first of which is number *start*."""
        start = len(self.sealed) if start is None else start
        events = [sealed(start + each, tenant=tenant) for each in range(count)]
        with self.store.write() as transaction:
            log.append(transaction, transaction.heads()["user"], events, self.key, NOW)
        self.sealed += events
        return self

    def ship(self, first: int, last: int) -> Shipment:
        """Return the shipment of [*first*, *last*) under the checkpoint of now."""
        with self.store.read() as view:
            head = view.heads()["user"]
            proof = consistency_proof(last, head.size, partial(view.node, "user"))
            return Shipment(
                entries=tuple(
                    msgspec.Raw(log.restore(each))
                    for each in view.stored("user", range(first, last))
                ),
                disclosures={
                    str(index): tuple(map(msgspec.Raw, self.sealed[index].disclosures))
                    for index in range(first, last)
                },
                checkpoint=head.checkpoint.decode(),
                consistency=tuple(b64encode(each).decode() for each in proof),
            )


class Collector:
    """What a collector would remember of one producer."""

    def __init__(self, *, tenant: str | None = None, revoked_at: int | None = None) -> None:
        self.producer = Producer(
            origin=ORIGIN,
            key=KEY.verifier.to_text(),
            stream="user",
            tenant=tenant,
            enrolled_at=NOW,
            enrolled_by="alice",
            revoked_at=revoked_at,
        )
        self.held = Held()
        self.leaves: list[bytes] = []
        self.tiles: dict[int, bytes] = {}

    def take(self, shipment: Shipment) -> Admission:
        """Take a shipment in, and go on from what is held then."""
        found = admit(
            self.producer,
            Held.from_bytes(self.held.to_bytes()),
            shipment,
            lambda first, last: self.leaves[first:last],
            lambda _: default(),
            NOW + 1,
        )
        for each in found.entries:
            assert each.collected is not None
            self.leaves.append(leaf_hash(each.collected.entry))
        self.tiles.update(found.tiles)
        self.held = found.held
        return found


@pytest.mark.parametrize("steps", [[1], [3, 4, 300], [256, 1], [255, 1, 256, 600]])
def test_what_was_shipped_is_the_producers_tree(steps: Sequence[int]) -> None:
    """However a log is cut into shipments, what is held is exactly its tree and its bytes."""
    source, collector = Source().add(sum(steps)), Collector()

    at = 0
    for step in steps:
        found = collector.take(source.ship(at, at + step))
        at += step
        assert step == len(found.entries)
        assert not found.refused

    with source.store.read() as view:
        head = view.heads()["user"]
        leaves = view.leaves("user", 0, head.size)
    assert leaves == collector.leaves
    assert head.edge.root == collector.held.tree.root == root_of(leaves)
    assert head.last_leaf == collector.held.last_leaf
    whole = len(leaves) // TILE
    assert [b"".join(leaves[n * TILE : (n + 1) * TILE]) for n in range(whole)] == [
        collector.tiles[n] for n in range(whole)
    ]
    assert b"".join(leaves[whole * TILE :]) == collector.held.rest


def test_values_are_opened_as_their_policy_has_classified_them() -> None:
    """What a shipment discloses is what was committed, under the producer's own classification."""
    source, collector = Source().add(1), Collector()

    (entry,) = collector.take(source.ship(0, 1)).entries

    assert source.sealed[0].commitment == entry.commitment
    assert source.sealed[0].values == entry.values
    assert ("user:alice", "invoice:0") == (entry.actor, entry.resource)


def test_what_is_sent_again_is_held_already() -> None:
    """A shipment that comes twice, whole or in part, is taken once."""
    source, collector = Source().add(10), Collector()
    collector.take(source.ship(0, 6))

    again = collector.take(source.ship(0, 6))
    overlapping = collector.take(source.ship(3, 10))

    assert () == again.entries
    assert [6, 7, 8, 9] == [
        each.collected.parse().index for each in overlapping.entries if each.collected
    ]
    assert 10 == collector.held.size


def test_a_gap_is_refused_with_the_place_to_go_on_from() -> None:
    """Entries that do not follow what is held are refused, and it is said which would."""
    source, collector = Source().add(10), Collector()
    collector.take(source.ship(0, 4))

    with pytest.raises(Gap, match="found entry 6, expected 4") as caught:
        collector.take(source.ship(6, 10))

    assert 4 == caught.value.expected


def test_other_bytes_at_a_held_index_are_a_conflict() -> None:
    """A producer that rewrites what it has shipped is caught, whatever it signs."""
    collector = Collector()
    collector.take(Source().add(5).ship(0, 5))
    rewritten = Source().add(4).add(3, start=900)

    with pytest.raises(Conflict, match="entry 4 has leaf hash"):
        collector.take(rewritten.ship(0, 7))


def test_a_past_that_was_rewritten_before_it_was_shipped_is_caught() -> None:
    """A tree that was signed, and is not the one that comes, contradicts its producer."""
    collector = Collector()
    collector.take(Source().add(8).ship(0, 3))
    rewritten = Source().add(3).add(9, start=900)

    with pytest.raises(Conflict, match="its first 8 entries have root"):
        collector.take(rewritten.ship(3, 12))


def test_a_fork_is_caught_when_its_end_is_reached() -> None:
    """The next tree that was signed is remembered until the entries get there."""
    honest, rewritten = Source().add(8), Source().add(3).add(17, start=900)
    collector = Collector()
    collector.take(honest.ship(0, 2))
    collector.take(honest.ship(2, 3))
    collector.take(rewritten.ship(3, 7))

    with pytest.raises(Conflict, match="its first 8 entries"):
        collector.take(rewritten.ship(7, 9))


def test_only_the_producers_key_speaks_for_it() -> None:
    """A checkpoint signed with another key is refused."""
    with pytest.raises(InvalidSignature):
        Collector().take(Source(OTHER).add(2).ship(0, 2))


def changed(shipment: Shipment, **fields: object) -> Shipment:
    """The same with other *fields*."""
    return msgspec.structs.replace(shipment, **fields)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda s: changed(s, entries=()), Malformed),
        (lambda s: changed(s, entries=s.entries[1:] + s.entries[:1]), Malformed),
        (lambda s: changed(s, entries=(s.entries[0], s.entries[2])), Malformed),
        (lambda s: changed(s, entries=(msgspec.Raw(b"{}"), *s.entries[1:])), Malformed),
        (lambda s: changed(s, entries=(msgspec.Raw(b" " + bytes(s.entries[0])),)), Malformed),
        (lambda s: changed(s, entries=s.entries[:2]), InvalidProof),
        (lambda s: changed(s, consistency=("AAAA",)), VerificationError),
        (lambda s: changed(s, consistency=(b64encode(bytes(32)).decode(),)), InvalidProof),
        (lambda s: changed(s, checkpoint=""), Malformed),
        (lambda s: changed(s, checkpoint=s.checkpoint.replace("\n3\n", "\n4\n")), InvalidSignature),
        (lambda s: changed(s, rotations=("nothing",)), Malformed),
        (
            lambda s: changed(
                s, entries=(msgspec.Raw(bytes(s.entries[0]).replace(b"alice", b"mallo")),)
            ),
            VerificationError,
        ),
        (
            lambda s: changed(
                s,
                entries=(
                    s.entries[0],
                    msgspec.Raw(bytes(s.entries[1]).replace(b'"prev":"', b'"prev":"A')[:-1]),
                ),
            ),
            Malformed,
        ),
    ],
)
def test_what_is_not_what_was_signed_is_refused_whole(wrong: object, error: type) -> None:
    """A shipment whose bytes, order or proof is not the producer's is refused as a whole."""
    collector, source = Collector(), Source().add(3)

    with pytest.raises(error):
        collector.take(wrong(source.ship(0, 3)))  # type: ignore[operator]

    assert 0 == collector.held.size


def test_an_entry_that_names_another_before_it_is_refused() -> None:
    """The links between entries are checked, though no proof relies on them."""
    forged = Source().add(2)
    with forged.store.read() as view:
        first, second = (log.restore(each) for each in view.stored("user", [0, 1]))
    loose = second.replace(second[second.index(b'"prev":"') + 8 :][:43], b"A" * 43)
    edge = root_of([leaf_hash(first), leaf_hash(loose)])
    note = Checkpoint(origin=ORIGIN, size=2, root=edge).sign(KEY).to_bytes().decode()

    with pytest.raises(BrokenChain, match="entry 1 names"):
        Collector().take(
            Shipment(entries=(msgspec.Raw(first), msgspec.Raw(loose)), checkpoint=note)
        )


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda given: given[:-1], "expected"),
        (lambda _: (), "disclosures: found 0"),
        (lambda given: (given[0], given[0], *given[2:]), "found path"),
        (
            lambda given: (msgspec.Raw(bytes(given[0]).replace(b"alice", b"mallo")), *given[1:]),
            "do not open",
        ),
        (lambda given: (msgspec.Raw(b"[1]"), *given[1:]), "disclosure"),
        (lambda given: (msgspec.Raw(b'"short"'), *given[1:]), "no leaf hash"),
    ],
)
def test_an_entry_that_does_not_open_is_kept_and_marked(wrong: object, why: str) -> None:
    """What does not open an entry's commitment is not taken; the entry is, and it is said."""
    collector, source = Collector(), Source().add(3)
    shipment = source.ship(0, 3)
    disclosures = {**shipment.disclosures, "1": wrong(shipment.disclosures["1"])}  # type: ignore[operator]

    found = collector.take(changed(shipment, disclosures=disclosures))

    assert 3 == len(found.entries) == collector.held.size
    assert [1] == [each.index for each in found.refused]
    assert why in found.refused[0].why
    assert not found.entries[1].values
    assert found.entries[0].values
    assert found.entries[2].values


def test_a_value_that_is_gone_is_proven_by_its_leaf_hash() -> None:
    """The others of an entry are taken where one was erased before it was shipped."""
    collector, source = Collector(), Source().add(1)
    shipment = source.ship(0, 1)
    kept = source.sealed[0]
    gone = msgspec.Raw(b'"%b"' % hash_to_text(kept.leaves[0]))
    disclosures = {"0": (gone, *shipment.disclosures["0"][1:])}

    (entry,) = collector.take(changed(shipment, disclosures=disclosures)).entries

    assert kept.leaves == entry.leaves
    assert entry.values[0].rule is None
    assert kept.values[1:] == entry.values[1:]


def test_a_tenants_producer_brings_its_events_alone() -> None:
    """Events of another tenant are not taken: they would stand among those of that one."""
    collector = Collector(tenant="north")
    source = Source().add(1, tenant="north").add(1, tenant="south").add(1)

    collector.take(source.ship(0, 1))
    for first, last in ((1, 2), (1, 3)):
        with pytest.raises(ForeignTenant, match="entry 1 is of another tenant"):
            collector.take(source.ship(first, last))

    assert 1 == collector.held.size


def test_nothing_more_is_taken_after_a_producer_was_revoked() -> None:
    """What was recorded before a key was revoked still gets in, and nothing after it."""
    collector, source = Collector(revoked_at=4), Source().add(6)

    collector.take(source.ship(0, 4))
    with pytest.raises(Revoked, match="revoked at size 4"):
        collector.take(source.ship(4, 6))

    assert 4 == collector.held.size


def test_a_producer_may_change_its_key() -> None:
    """Rotation notes lead from the enrolled key to the one that signs, and bind the boundary."""
    source, collector = Source().add(4), Collector()
    collector.take(source.ship(0, 2))
    with source.store.read() as view:
        root = view.heads()["user"].edge.root
    boundary = Rotation(origin=ORIGIN, old=KEY.verifier, new=OTHER.verifier, size=4, root=root)
    note = boundary.sign(KEY, OTHER).to_bytes().decode()
    source.key = OTHER
    source.add(3)

    collector.take(changed(source.ship(2, 7), rotations=(note,)))
    again = collector.take(source.ship(3, 7))

    assert () == again.entries
    assert (note.encode(),) == collector.held.rotations
    wrong = Rotation(origin=ORIGIN, old=KEY.verifier, new=OTHER.verifier, size=4, root=bytes(32))
    with pytest.raises(Conflict, match="its first 4 entries"):
        other = Collector()
        other.take(
            changed(source.ship(0, 7), rotations=(wrong.sign(KEY, OTHER).to_bytes().decode(),))
        )


def test_what_a_producer_says_of_itself_is_not_what_the_collector_says() -> None:
    """A producer's custody stream goes into a stream of its own, never into the collector's."""
    key = SigningKey.from_seed("shop.example.com/web-1/custody", bytes(range(32)))

    found = enrol(
        key.verifier, stream=None, tenant=None, policy=for_collector(), now=NOW, by="alice"
    )

    assert PRODUCERS == found.stream
    for stream in (None, "custody", "nowhere"):
        with pytest.raises(CallerError, match="expected one of"):
            enrol(key.verifier, stream=stream, tenant=None, policy=default(), now=NOW, by="alice")


def test_one_root_stands_for_what_all_producers_have_signed() -> None:
    """The root that the custody stream names changes with each checkpoint of a producer."""
    collector, source = Collector(), Source().add(3)

    before = heads_of(iter([(collector.producer, collector.held)]))
    collector.take(source.ship(0, 2))
    after = heads_of(iter([(collector.producer, collector.held)]))

    assert 0 == before[0]
    assert (1, leaf_hash(source.ship(0, 2).checkpoint.encode())) == after
