"""Placing: what the log adds to an event, and that it follows from what came in."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.checkpoint import Checkpoint
from indelible.entry import NO_PREVIOUS, Entry, assemble, time_from_text, verify_link
from indelible.errors import Damaged, UnknownStream
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.log import append, head_of, place, restore
from indelible.merkle import leaf_hash, root_of, subtree_root
from indelible.seal import Sealed, seal
from indelible.store import Head, Stored
from indelible.stores.memory import MemoryStore

KEY = SigningKey.from_seed("audit.example.com/user", bytes(32))
NOW = 1_764_000_000_000_000


def sealed(number: int) -> Sealed:
    """Event *number*, always the same."""
    return seal(
        Event(
            id=f"01a20c39-dd97-7a23-9bb2-{number:012x}",
            occurred_at=datetime(2026, 11, 24, tzinfo=UTC),
            action="invoice.approve",
            outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse(f"invoice:{number}"),
        )
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_an_entry_is_exactly_its_place_and_its_event(sizes: list[int]) -> None:
    """The fast line in `place` gives the bytes and hashes of the plain definition."""
    head = Head(log="user", origin=KEY.name)
    previous, leaves, number = NO_PREVIOUS, [], 0

    for size in sizes:
        batch = place(head, [sealed(number + n) for n in range(size)], NOW + number)
        for offset, body in enumerate(batch.bodies):
            entry = assemble(number + offset, previous, body)
            parsed = Entry.from_bytes(entry)
            verify_link(parsed, previous)
            previous = leaf_hash(entry)
            leaves.append(previous)
            assert number + offset == parsed.index
            assert sealed(number + offset).event == parsed.event
            assert NOW + number == parsed.recorded_at
        assert leaves[number:] == list(batch.leaves)
        head, number = batch.head, number + size

    assert previous == head.last_leaf
    assert root_of(leaves) == head.edge.root


def test_the_same_events_after_the_same_head_give_the_same_bytes() -> None:
    """Placing is a function of what came in, so recovery never forks history."""
    head = Head(log="user", origin=KEY.name)
    events = [sealed(number) for number in range(50)]

    assert place(head, events, NOW) == place(head, events, NOW)


def test_a_clock_that_is_set_back_does_not_show() -> None:
    """The log's time never decreases, whatever the machine's clock does."""
    generator = random.Random(3)
    head = Head(log="user", origin=KEY.name)
    times = []

    for number in range(60):
        batch = place(head, [sealed(number)], NOW + generator.randrange(-(10**9), 10**9))
        head = batch.head
        times.append(Entry.from_bytes(assemble(number, bytes(32), batch.bodies[0])).recorded_at)

    assert times == sorted(times)


def test_tile_roots_are_named_as_tiles_are_completed() -> None:
    """A batch over the edge of tiles carries the roots of exactly those it completed."""
    head = Head(log="user", origin=KEY.name)
    first = place(head, [sealed(number) for number in range(200)], NOW)
    second = place(first.head, [sealed(number) for number in range(200, 800)], NOW)
    leaves = [*first.leaves, *second.leaves]

    assert [] == list(first.tile_roots)
    assert [subtree_root(leaves[at : at + 256]) for at in (0, 256, 512)] == list(second.tile_roots)


def test_a_checkpoint_is_signed_over_each_head() -> None:
    """What a transaction commits is under a checkpoint of exactly its size."""
    store = MemoryStore()
    with store.write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
        head = transaction.heads()["user"]
        placed = append(transaction, head, [sealed(0), sealed(1)], KEY, NOW)

    with store.read() as view:
        head = view.heads()["user"]

    checkpoint = Checkpoint.open(head.checkpoint, [KEY.verifier])
    assert (2, root_of(list(placed.leaves))) == (checkpoint.size, checkpoint.root)


@pytest.mark.parametrize("change", ["index", "previous", "body", "leaf"])
def test_a_stored_entry_that_was_changed_is_refused(change: str) -> None:
    """Bytes that do not have the recorded leaf hash are never handed out."""
    batch = place(Head(log="user", origin=KEY.name), [sealed(0)], NOW)
    parts = {"index": 0, "previous": NO_PREVIOUS, "body": batch.bodies[0], "leaf": batch.leaves[0]}
    other = {"index": 1, "previous": bytes(32), "body": batch.bodies[0] + b" ", "leaf": bytes(32)}

    assert batch.bodies[0] in restore(Stored(**parts))  # type: ignore[arg-type]
    with pytest.raises(Damaged):
        restore(Stored(**{**parts, change: other[change]}))  # type: ignore[arg-type]


def test_a_stream_is_written_to_the_last_of_its_logs() -> None:
    """After a successor began, nothing is added to the log before it."""
    heads = {
        name: Head(log=name, origin=f"audit.example.com/{name}")
        for name in ("user", "admin", "user~2")
    }

    assert "user~2" == head_of(heads, "user").log
    assert "admin" == head_of(heads, "admin").log
    with pytest.raises(UnknownStream, match="expected one of user, admin"):
        head_of(heads, "auth")


def test_times_have_one_spelling() -> None:
    """A time is read only in the form in which it is written."""
    assert 1_764_000_000_000_001 == time_from_text("2025-11-24T16:00:00.000001Z")
