"""The one suite that every store passes: `indelible.store` as tests."""

from __future__ import annotations

import random
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

from indelible import log
from indelible.errors import CallerError, Purged, StoreError
from indelible.event import Actor, Event, Outcome, Resource, Trace
from indelible.keys import SigningKey
from indelible.merkle import leaf_hash, root_at, root_of
from indelible.note import Note
from indelible.seal import seal
from indelible.segment import SEGMENT, TILE
from indelible.store import Forgotten, Head, Wanted
from indelible.stores.memory import MemoryStore
from indelible.stores.postgresql import PostgresqlStore
from indelible.stores.sqlite import SqliteStore
from indelible.terms import Field, fingerprint, term
from indelible.testing import Faulty
from tests.raw import files_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from indelible.seal import Sealed
    from indelible.store import Store

KEY = SigningKey.from_seed("audit.example.com/user", bytes(range(32)))
ADMIN = SigningKey.from_seed("audit.example.com/admin", bytes(range(1, 33)))


@pytest.fixture(params=["memory", "sqlite", "postgresql_16", "postgresql_18"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind with two empty logs."""
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path, create=True)
    else:
        made = PostgresqlStore(request.getfixturevalue(request.param).emptied(), synced=False)
    with made.write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
        transaction.create(Head(log="admin", origin=ADMIN.name))
    yield made
    made.close()


def sealed(number: int) -> Sealed:
    """Event *number*, always the same."""
    return seal(
        Event(
            id=f"01a20c39-dd97-7a23-9bb2-{number:012x}",
            occurred_at=datetime(2026, 11, 24, tzinfo=UTC),
            action=("invoice.approve", "invoice.void", "order.ship")[number % 3],
            outcome=(Outcome.SUCCESS, Outcome.DENIED)[number % 7 == 0],
            actor=Actor.parse(f"user:u{number % 13}"),
            resource=Resource.parse(f"invoice:{number % 101}"),
            trace=Trace(trace_id=f"{number // 5:032x}") if number % 2 else None,
        )
    )


def add(store: Store, numbers: Sequence[int], name: str = "user", now: int = 1_000) -> log.Placed:
    """Append events in one transaction."""
    key = KEY if name == "user" else ADMIN
    with store.write() as transaction:
        head = transaction.heads()[name]
        return log.append(transaction, head, [sealed(number) for number in numbers], key, now)


def entries(store: Store, name: str = "user") -> list[bytes]:
    """The exact bytes of all entries, verified one by one."""
    with store.read() as view:
        indexes = range(view.heads()[name].size)
        return [log.restore(stored) for stored in view.stored(name, indexes)]


@pytest.mark.parametrize("sizes", [[1], [255, 1], [256], [257], [1] * 300, [100, 156, 1, 512, 7]])
def test_what_was_appended_is_what_is_read(store: Store, sizes: list[int]) -> None:
    """Batches of any size, across the edges of tiles, come back as exactly their bytes in order."""
    expected: list[bytes] = []
    for size in sizes:
        numbers = range(len(expected), len(expected) + size)
        expected += [sealed(number).event for number in numbers]
        add(store, numbers)

    found = entries(store)

    assert len(expected) == len(found)
    assert all(event in entry for event, entry in zip(expected, found, strict=True))


def test_the_tree_is_that_of_the_entries(store: Store) -> None:
    """Every node that a store answers follows from the hashes of the entries alone."""
    for size in (3, 253, 300, 1, 500):
        add(store, range(size))

    leaves = [leaf_hash(entry) for entry in entries(store)]

    with store.read() as view:
        head = view.heads()["user"]
        node = partial(view.node, "user")
        assert leaves == view.leaves("user", 0, head.size)
        assert leaves[250:700] == view.leaves("user", 250, 700)
        assert root_of(leaves) == head.edge.root == root_at(head.size, node)
        for size in (1, 255, 256, 257, 556, 1_000):
            assert root_of(leaves[:size]) == root_at(size, node)
        for level in range(10):
            width = 1 << level
            for index in range(head.size // width):
                part = leaves[index * width : (index + 1) * width]
                assert root_of(part) == node(level, index)


def test_a_checkpoint_covers_exactly_what_is_there(store: Store) -> None:
    """Whoever reads finds size, root and signed checkpoint of the same moment."""
    add(store, range(300))

    with store.read() as view:
        head = view.heads()["user"]
        note = Note.from_bytes(head.checkpoint)

    assert note.text.startswith(f"{KEY.name}\n300\n")
    assert (KEY.verifier,) == note.verify([KEY.verifier])


def test_a_transaction_that_raises_leaves_nothing_behind(store: Store) -> None:
    """An error between append and the end of the transaction undoes it whole."""
    add(store, range(5))
    before = entries(store)

    def fail() -> None:
        with store.write() as transaction:
            events = [sealed(number) for number in range(600)]
            log.append(transaction, transaction.heads()["user"], events, KEY, 1)
            raise StoreError("stop")

    with pytest.raises(StoreError):
        fail()

    assert before == entries(store)
    assert 5 == add(store, range(5, 7)).first


def test_a_reader_sees_one_moment(store: Store) -> None:
    """What is written while somebody reads does not show in what they read."""
    add(store, range(10))

    with store.read() as view:
        size = view.heads()["user"].size
        add(store, range(10, 900))

        assert size == view.heads()["user"].size
        assert size == len(view.stored("user", range(size)))


def test_logs_do_not_mix(store: Store) -> None:
    """Entries of one log never show in another, though they share a store."""
    add(store, range(300))
    add(store, range(300, 340), "admin")
    add(store, range(340, 350))

    assert 310 == len(entries(store))
    assert 40 == len(entries(store, "admin"))
    assert b'"index":0,' in entries(store, "admin")[0]


def test_writers_take_turns(store: Store) -> None:
    """Threads that write at once lose nothing and never take the same place."""
    places: list[int] = []

    def write(worker: int) -> None:
        for turn in range(25):
            placed = add(store, [worker * 1_000 + turn])
            places.append(placed.first)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(range(200)) == sorted(places)
    assert 200 == len(set(entries(store)))


def test_candidates_are_never_too_few(store: Store) -> None:
    """Whatever is asked for, no entry that fits is left out, in either direction."""
    generator = random.Random(7)
    total = 1_100
    start = 0
    for size in (1, 255, 256, 300, 288):
        add(store, range(start, start + size), now=1_000 + start)
        start += size
    choices: list[tuple[Wanted, Callable[[int], bool]]] = [
        (Wanted(), lambda _: True),
        (
            Wanted(groups=(frozenset({term(Field.ACTOR, "user:u3")}),)),
            lambda n: n % 13 == 3,
        ),
        (
            Wanted(
                groups=(
                    frozenset({term(Field.ACTION, "order.ship"), term(Field.ACTION, "none.such")}),
                    frozenset({term(Field.OUTCOME, "denied")}),
                )
            ),
            lambda n: n % 3 == 2 and n % 7 == 0,
        ),
        (
            Wanted(groups=(frozenset({term(Field.ACTION_WILDCARD, "invoice.*")}),)),
            lambda n: n % 3 != 2,
        ),
        (
            Wanted(trace=fingerprint(f"{77:032x}")),
            lambda n: n % 2 == 1 and n // 5 == 77,
        ),
    ]

    with store.read() as view:
        for wanted, fits in choices:
            for newest_first in (False, True):
                first, last = sorted(generator.sample(range(total + 1), 2))
                expected = [n for n in range(first, last) if fits(n)]
                found = list(
                    view.candidates("user", wanted, first, last, newest_first=newest_first)
                )
                assert found == sorted(found, reverse=newest_first)
                assert set(expected) <= set(found)
                assert set(found) <= set(range(first, last))


def test_an_id_is_found(store: Store) -> None:
    """An entry is found by its event's id, one at a time or many at once."""
    add(store, range(700))
    ids = [f"01a20c39-dd97-7a23-9bb2-{number:012x}" for number in (0, 255, 256, 699)]
    time = int("01a20c39dd97", 16)

    with store.read() as view:
        for index, event_id in zip((0, 255, 256, 699), ids, strict=True):
            wanted = Wanted(id=(fingerprint(event_id), time))
            assert index in list(view.candidates("user", wanted, 0, 700, newest_first=True))
        many = view.with_ids("user", frozenset(map(fingerprint, ids)), (time, time + 1))
        assert {0, 255, 256, 699} <= set(many)
        assert [] == list(view.with_ids("user", frozenset(map(fingerprint, ids)), (0, time)))


@pytest.mark.parametrize("chosen", [None, range(0, 700, 3)])
def test_a_tally_counts_every_entry_once(store: Store, chosen: range | None) -> None:
    """Counts by field add up to the number of entries, and each names an entry that has it."""
    add(store, range(700))
    over = range(700) if chosen is None else chosen

    with store.read() as view:
        tally = view.tally("user", Field.ACTOR, chosen)

    for number in range(13):
        count, example = tally[term(Field.ACTOR, f"user:u{number}")]
        assert sum(n % 13 == number for n in over) == count
        assert number == example % 13
        assert example in over
    assert len(over) == sum(count for count, _ in tally.values())


def test_tiles_come_whole_and_in_order(store: Store) -> None:
    """A scan gives each entry once, with the hash before it, its leaf and its terms."""
    add(store, range(700))

    with store.read() as view:
        leaves = view.leaves("user", 0, 700)
        tiles = list(view.tiles("user", 0, 700))
        assert [512] == [tile.first for tile in view.tiles("user", 512, 700)]

    assert [0, 256, 512] == [tile.first for tile in tiles]
    assert [TILE, TILE, 188] == [len(tile.bodies) for tile in tiles]
    assert b"".join(leaves) == b"".join(tile.leaves for tile in tiles)
    assert [leaves[255], leaves[511]] == [tile.previous for tile in tiles[1:]]
    assert [root_of(leaves[:256]), root_of(leaves[256:512]), None] == [tile.root for tile in tiles]
    for tile in tiles:
        assert tile.columns is not None
        assert len(tile.bodies) == len(tile.columns.counts)


def test_a_rotation_is_kept_with_the_checkpoint_of_the_new_key(store: Store) -> None:
    """The note over the boundary and the new signature appear in one step."""
    add(store, range(3))

    with store.write() as transaction:
        head = transaction.heads()["user"]
        transaction.rotate("user", b"note", log.sign(replace(head), KEY))

    with store.read() as view:
        assert [b"note"] == list(view.rotations("user"))
        assert [] == list(view.rotations("admin"))
        assert 3 == view.heads()["user"].size


# ---- What was purged ----

LOOKUP = term(Field.SUBJECT_LOOKUP, "subject")


def add_with_values(store: Store, numbers: range) -> None:
    """Append events that the vault keeps something of, and that are found by it."""
    events = [
        msgspec.structs.replace(sealed(number), row=b"row %d" % number, lookups=(LOOKUP,))
        for number in numbers
    ]
    with store.write() as transaction:
        log.append(transaction, transaction.heads()["user"], events, KEY, 1_000)


def purge(store: Store, first: int, name: str = "user") -> None:
    """Purge what comes before, and build what has to be built."""
    with store.write() as transaction:
        transaction.purge(name, first)
    for segment in store.purge_segments():
        with store.write() as transaction:
            transaction.register(segment)


@pytest.mark.parametrize("first", [256, 512, 768])
def test_nobody_finds_what_was_purged(store: Store, first: int) -> None:
    """Whatever is asked for, entries that were purged are neither proposed, counted nor read."""
    add_with_values(store, range(768))
    ids = frozenset(fingerprint(f"01a20c39-dd97-7a23-9bb2-{n:012x}") for n in range(768))
    time = int("01a20c39dd97", 16)
    kept = list(range(first, 768))

    purge(store, first)

    with store.read() as view:
        assert first == view.heads()["user"].first
        for wanted in (Wanted(), Wanted(groups=(frozenset({LOOKUP}),))):
            for order in (False, True):
                found = view.candidates("user", wanted, 0, 768, newest_first=order)
                assert sorted(kept, reverse=order) == list(found)
        assert kept == list(view.with_ids("user", ids, (time, time + 1)))
        assert [(index, [LOOKUP]) for index in kept] == [
            (index, list(lookups)) for index, lookups in view.lookups("user", 0, 768)
        ]
        for field in (Field.ACTION, Field.ACTOR, Field.SUBJECT_LOOKUP):
            for chosen in (None, range(768)):
                tally = view.tally("user", field, chosen)
                assert len(kept) == sum(count for count, _ in tally.values())
                assert all(example >= first for _, example in tally.values())
        assert [b""] * first == view.rows("user", range(first))
        assert [b"row %d" % index for index in kept] == view.rows("user", kept)
        for index in (0, first - 1):
            with pytest.raises(Purged, match=f"entry user#{index}: was purged"):
                view.stored("user", [index])


@pytest.mark.parametrize("first", [256, 512, 768])
def test_the_tree_of_what_was_purged_stays(store: Store, first: int) -> None:
    """All hashes are answered as before, and the other entries come back as exactly their bytes."""
    add_with_values(store, range(768))
    before = entries(store)
    with store.read() as view:
        node = partial(view.node, "user")
        roots = [root_at(size, node) for size in range(0, 769, 16)]
        leaves = view.leaves("user", 0, 768)

    purge(store, first)

    with store.read() as view:
        node = partial(view.node, "user")
        assert roots == [root_at(size, node) for size in range(0, 769, 16)]
        assert leaves == view.leaves("user", 0, 768)
        kept = view.stored("user", range(first, 768))
        assert before[first:] == [log.restore(stored) for stored in kept]


def test_tiles_of_what_was_purged_have_hashes_alone(store: Store) -> None:
    """A scan gives a purged tile as such: its leaf hashes, its root, the hash before it."""
    add(store, range(700))
    with store.read() as view:
        before = list(view.tiles("user", 0, 700))

    purge(store, 512)

    with store.read() as view:
        tiles = list(view.tiles("user", 0, 700))
    assert [True, True, False] == [tile.purged for tile in tiles]
    assert [(), ()] == [tuple(tile.bodies) for tile in tiles[:2]]
    assert [None, None] == [tile.columns for tile in tiles[:2]]
    assert before[2] == tiles[2]
    for old, new in zip(before, tiles, strict=True):
        assert (old.first, old.previous, old.leaves, old.root) == (
            new.first,
            new.previous,
            new.leaves,
            new.root,
        )


@pytest.mark.parametrize("first", [0, 1, 255, 256, 400, 768, 1_024, -256])
def test_only_whole_tiles_that_are_there_can_be_purged(store: Store, first: int) -> None:
    """A log loses tiles from its start, never a part of one, and never one that is to come."""
    add(store, range(700))
    purge(store, 256)

    with pytest.raises(CallerError, match="expected a multiple of 256 from 512 to 700"):
        purge(store, first)

    with store.read() as view:
        assert 256 == view.heads()["user"].first


def test_a_purge_that_raises_leaves_everything(store: Store) -> None:
    """An error before the end of the transaction undoes the purge with all the rest."""
    add_with_values(store, range(300))
    before = entries(store)

    def fail() -> None:
        with store.write() as transaction:
            transaction.purge("user", 256)
            assert 256 == transaction.heads()["user"].first
            raise StoreError("stop")

    with pytest.raises(StoreError):
        fail()

    assert before == entries(store)
    with store.read() as view:
        assert 0 == view.heads()["user"].first
        assert [b"row 7"] == view.rows("user", [7])


def test_a_purged_log_goes_on(store: Store) -> None:
    """After a purge entries are added as before it, purged in turn, and no other log changes."""
    add(store, range(300))
    add(store, range(300), "admin")
    purge(store, 256)
    add(store, range(300, 700))
    purge(store, 512)
    with store.write() as transaction:
        head = transaction.heads()["user"]
        transaction.rotate("user", b"note", log.sign(head, KEY))

    with store.read() as view:
        user, admin = view.heads()["user"], view.heads()["admin"]
        leaves = view.leaves("user", 0, 700)
        assert (700, 512) == (user.size, user.first)
        assert (300, 0) == (admin.size, admin.first)
        assert root_of(leaves) == user.edge.root
        assert sealed(650).event in view.stored("user", [650])[0].body
        assert sealed(0).event in view.stored("admin", [0])[0].body


def test_a_reader_sees_what_is_purged_meanwhile(store: Store) -> None:
    """Whoever began to look before a purge looks at the log as it was then."""
    add(store, range(300))

    with store.read() as view:
        with store.write() as transaction:
            transaction.purge("user", 256)

        assert 0 == view.heads()["user"].first
        assert sealed(3).event in view.stored("user", [3])[0].body
        assert [3] == list(view.candidates("user", Wanted(), 3, 4, newest_first=False))


def test_nothing_is_forgotten_twice(store: Store) -> None:
    """Values of an entry that was purged can be forgotten, which changes nothing."""
    add_with_values(store, range(300))
    purge(store, 256)

    store.forget({"user": {3: Forgotten(lookups=frozenset({LOOKUP})), 299: Forgotten()}})

    with store.read() as view:
        assert [b"", b"row 298", b""] == view.rows("user", [3, 298, 299])


# ---- Values, and what they are found by ----

NAMES = [term(Field.VALUE_LOOKUP, f"name {number}") for number in range(1_000)]
SUBJECTS = [term(Field.SUBJECT_LOOKUP, f"subject {number}") for number in range(7)]


def row_of(number: int) -> bytes:
    """What the vault keeps of event *number*: nothing of most."""
    return b"<row %d>" % number if number % 3 == 0 else b""


def lookups_of(number: int) -> tuple[int, ...]:
    """What event *number* is found by, besides what stands in it."""
    if number % 3:
        return ()
    return (NAMES[number % len(NAMES)], SUBJECTS[number % len(SUBJECTS)])


def add_some_with_values(store: Store, numbers: range, name: str = "user") -> None:
    """Append events, of some of which the vault keeps something."""
    key = KEY if name == "user" else ADMIN
    events = [
        msgspec.structs.replace(sealed(number), row=row_of(number), lookups=lookups_of(number))
        for number in numbers
    ]
    with store.write() as transaction:
        log.append(transaction, transaction.heads()[name], events, key, 1_000)


def lookups_in(store: Store, first: int, last: int, name: str = "user") -> dict[int, set[int]]:
    """The lookups of some entries, of those that have any."""
    with store.read() as view:
        return {index: set(found) for index, found in view.lookups(name, first, last)}


def found_by(store: Store, *groups: int | frozenset[int], name: str = "user") -> list[int]:
    """The entries that have a term of each group."""
    wanted = Wanted(groups=tuple(g if isinstance(g, frozenset) else frozenset({g}) for g in groups))
    with store.read() as view:
        size = view.heads()[name].size
        found = list(view.candidates(name, wanted, 0, size, newest_first=False))
        assert found[::-1] == list(view.candidates(name, wanted, 0, size, newest_first=True))
        return found


def rows_in(store: Store, indexes: Sequence[int], name: str = "user") -> list[bytes]:
    """What the vault keeps of some entries."""
    with store.read() as view:
        return view.rows(name, indexes)


@pytest.mark.parametrize("sizes", [[1], [256], [300], [7, 249, 300, 1], [1] * 40])
def test_values_come_back_with_their_entries(store: Store, sizes: list[int]) -> None:
    """Each row is that of its entry, whatever batches it came in; most entries have none."""
    total = sum(sizes)
    for number, size in enumerate(sizes):
        start = sum(sizes[:number])
        add_some_with_values(store, range(start, start + size))

    assert [row_of(index) for index in range(total)] == rows_in(store, range(total))
    assert [row_of(index) for index in range(total)][::-1] == rows_in(store, range(total)[::-1])
    assert [] == rows_in(store, [])


def test_lookups_are_kept_beside_their_entries(store: Store) -> None:
    """Only what an entry was given is it found by, and any range can be asked for."""
    add_some_with_values(store, range(256))
    add_some_with_values(store, range(256, 600))
    add_some_with_values(store, range(90), "admin")
    expected = {n: set(lookups_of(n)) for n in range(600) if lookups_of(n)}

    assert expected == lookups_in(store, 0, 600)
    assert {n: found for n, found in expected.items() if 250 <= n < 515} == lookups_in(
        store, 250, 515
    )
    assert {n: found for n, found in expected.items() if n < 90} == lookups_in(
        store, 0, 1_000, "admin"
    )


def test_entries_are_found_by_lookups_and_by_terms_alike(store: Store) -> None:
    """One group may hold what stands in the entry and what is kept off it; each finds its own."""
    add_some_with_values(store, range(256))
    add_some_with_values(store, range(256, 600))
    actor, action = term(Field.ACTOR, "user:u3"), term(Field.ACTION, "order.ship")

    subject = found_by(store, SUBJECTS[2])
    either = found_by(store, frozenset({SUBJECTS[2], actor}))
    both = found_by(store, SUBJECTS[2], actor)
    all_three = found_by(store, SUBJECTS[2], frozenset({actor, NAMES[9]}), action)

    assert [n for n in range(600) if n % 21 == 9] == subject
    assert [n for n in range(600) if n % 21 == 9 or n % 13 == 3] == either
    assert [n for n in range(600) if n % 21 == 9 and n % 13 == 3] == both
    assert [n for n in range(600) if n % 21 == 9 and n % 13 == 3 and n % 3 == 2] == all_three
    assert [300] == found_by(store, NAMES[300])
    assert [] == found_by(store, term(Field.SUBJECT_LOOKUP, "nobody"))


def test_lookups_leave_no_trace_in_what_is_verified(store: Store) -> None:
    """With or without them an entry has the same bytes, hash and terms: so they can go."""
    add_some_with_values(store, range(600))
    add(store, range(600), "admin")

    with store.read() as view:
        user, admin = (list(view.tiles(name, 0, 600)) for name in ("user", "admin"))
        tallies = [
            [view.tally(name, field, None) for field in (Field.ACTOR, Field.ACTION, Field.RESOURCE)]
            for name in ("user", "admin")
        ]

    for mine, other in zip(user, admin, strict=True):
        assert mine.columns is not None
        assert other.columns is not None
        assert other.columns.to_bytes() == mine.columns.to_bytes()
        assert other.leaves == mine.leaves
        assert list(other.bodies) == list(mine.bodies)
    assert tallies[0] == tallies[1]


def test_lookups_are_counted_like_terms(store: Store) -> None:
    """How many entries somebody's values are in follows from the index alone."""
    add_some_with_values(store, range(256))
    add_some_with_values(store, range(256, 600))

    with store.read() as view:
        whole = view.tally("user", Field.SUBJECT_LOOKUP, None)
        some = view.tally("user", Field.SUBJECT_LOOKUP, range(0, 600, 2))

    for number, subject in enumerate(SUBJECTS):
        has = [n for n in range(0, 600, 3) if n % 7 == number]
        assert len(has) == whole[subject][0]
        assert whole[subject][1] in has
        assert len([n for n in has if n % 2 == 0]) == some[subject][0]
    assert SUBJECTS == sorted(whole, key=SUBJECTS.index)


# ---- Documents ----


def test_a_document_is_kept_under_its_hash(store: Store) -> None:
    """What an entry names by its digest is found by it, and whoever asks can check it."""
    documents = [b"", b"policy", b"\0" * 100_000]

    with store.write() as transaction:
        for data in [*documents, b"policy"]:
            transaction.add_document(data)

    with store.read() as view:
        assert documents == [view.document(sha256(data).digest()) for data in documents]
        assert view.document(sha256(b"other").digest()) is None
        assert view.document(b"") is None


def test_a_document_comes_with_its_transaction(store: Store) -> None:
    """Either the entry and the document that it names are there, or neither is."""

    def fail() -> None:
        with store.write() as transaction:
            transaction.add_document(b"undone")
            raise StoreError("stop")

    with store.read() as before:
        with pytest.raises(StoreError):
            fail()
        with store.write() as transaction:
            transaction.add_document(b"kept")

        assert before.document(sha256(b"kept").digest()) is None

    with store.read() as view:
        assert view.document(sha256(b"undone").digest()) is None
        assert b"kept" == view.document(sha256(b"kept").digest())


# ---- What is forgotten ----


def forgets(store: Store, size: int, places: Sequence[int], name: str = "user") -> None:
    """Forget some entries' values, and check that they alone are forgotten, in each way to look."""
    before = entries(store, name)
    with store.read() as view:
        head = view.heads()[name]
    some, all_ = places[::2], places[1::2]
    left = {
        **{n: Forgotten(row=b"<less %d>" % n, lookups=frozenset({NAMES[n % 1_000]})) for n in some},
        **{n: Forgotten(lookups=frozenset(lookups_of(n))) for n in all_},
    }

    for _ in range(2):  # nothing is forgotten twice
        store.forget({name: left})

        kept = {n: set(lookups_of(n)) for n in range(size) if lookups_of(n)}
        kept |= {n: {SUBJECTS[n % 7]} for n in some}
        kept = {n: found for n, found in kept.items() if n not in all_}
        assert kept == lookups_in(store, 0, size, name)
        assert [left[n].row if n in left else row_of(n) for n in range(size)] == rows_in(
            store, range(size), name
        )
        for number in {n % 7 for n in places}:
            assert [n for n in kept if SUBJECTS[number] in kept[n]] == found_by(
                store, SUBJECTS[number], name=name
            )
        for n in places:
            assert n not in found_by(store, NAMES[n % 1_000], name=name)
        with store.read() as view:
            tally = view.tally(name, Field.SUBJECT_LOOKUP, None)
            assert sum(SUBJECTS[2] in found for found in kept.values()) == tally[SUBJECTS[2]][0]
            assert head == view.heads()[name]
    assert before == entries(store, name)


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([597, 594, 513], id="in the open tail"),
        pytest.param([3, 0, 252, 255], id="in a complete tile"),
        pytest.param([0, 255, 258, 510, 513, 597], id="in several"),
        pytest.param([9], id="one alone"),
    ],
)
def test_what_is_forgotten_is_not_found_by_any_way(store: Store, places: list[int]) -> None:
    """Rows and lookups go as they were told to; entries, hashes and all others stay."""
    add_some_with_values(store, range(256))
    add_some_with_values(store, range(256, 512))
    add_some_with_values(store, range(512, 560))
    add_some_with_values(store, range(560, 600))

    forgets(store, 600, places)


def test_logs_forget_apart(store: Store) -> None:
    """Several logs can be made to forget at once, and none forgets what another is told."""
    add_some_with_values(store, range(300))
    add_some_with_values(store, range(300), "admin")

    store.forget({"user": {3: Forgotten(), 299: Forgotten()}, "admin": {6: Forgotten(row=b"r")}})

    assert [b"", row_of(6)] == rows_in(store, [3, 6])
    assert [row_of(3), b"r"] == rows_in(store, [3, 6], "admin")
    assert set(lookups_of(3)) == lookups_in(store, 3, 4)[3]


def test_what_was_never_there_is_forgotten_without_a_word(store: Store) -> None:
    """Who repeats an erasure need not know what is left."""
    add_some_with_values(store, range(300))

    store.forget({"user": {1: Forgotten(lookups=frozenset({NAMES[1]})), 298: Forgotten()}})
    store.forget({"user": {}})
    store.forget({})

    assert [row_of(index) for index in range(300)] == rows_in(store, range(300))


def test_entries_come_after_what_was_forgotten(store: Store) -> None:
    """A tail that has forgotten becomes a tile that has forgotten."""
    add_some_with_values(store, range(200))
    store.forget(
        {"user": {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in range(0, 200, 3)}}
    )

    add_some_with_values(store, range(200, 300))

    assert min(lookups_in(store, 0, 300)) == 201
    assert [b""] * 200 == rows_in(store, range(200))
    assert [n for n in range(200, 300) if n % 21 == 9] == found_by(store, SUBJECTS[2])


@pytest.mark.parametrize("persists", [False, True])
def test_forgetting_that_failed_is_repeated(store: Store, persists: bool) -> None:
    """Whether or not it took effect before it failed: once it returns, all of it is gone."""
    add_some_with_values(store, range(300))
    faulty = Faulty(store, persists)
    left = {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in (3, 297)}

    with pytest.raises(StoreError):
        faulty.forget({"user": left})
    assert persists == (rows_in(faulty, [3, 297]) == [b"", b""])
    faulty.forget({"user": left})

    assert [b"", row_of(6), b""] == rows_in(faulty, [3, 6, 297])
    assert {3, 297}.isdisjoint(lookups_in(faulty, 0, 300))


# ---- In the files of SQLite ----

CLOSED = SEGMENT + 300


@pytest.fixture(scope="module")
def closed_segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail's files with a closed segment and an open part, both with values."""
    path = tmp_path_factory.mktemp("closed")
    made = SqliteStore(path, create=True)
    with made.write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
    add_some_with_values(made, range(CLOSED))
    for segment in made.close_segments():
        with made.write() as transaction:
            transaction.register(segment)
    made.close()
    return path


@pytest.fixture
def closed(closed_segment: Path, tmp_path: Path) -> Iterator[SqliteStore]:
    """Open a copy of it."""
    made = SqliteStore(shutil.copytree(closed_segment, tmp_path / "closed"))
    yield made
    made.close()


def test_a_closed_segment_forgets_as_the_open_part_does(closed: SqliteStore) -> None:
    """Where an entry lies makes no difference to what can be forgotten of it."""
    places = [0, 999, 30_000, 65_535 - 65_535 % 3, SEGMENT + 2, SEGMENT + 299]
    with closed.read() as view:
        assert 1 == len(view.segments("user"))

    for _ in range(2):
        closed.forget({"user": {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in places}})

    assert [b""] * len(places) == rows_in(closed, places)
    assert [row_of(3), row_of(SEGMENT - 4)] == rows_in(closed, [3, SEGMENT - 4])
    left = lookups_in(closed, 0, CLOSED)
    assert left.keys() == {n for n in range(0, CLOSED, 3) if n not in places}
    assert all(set(lookups_of(n)) == found for n, found in left.items())
    for number in (0, 999):
        assert [n for n in range(number, CLOSED, 1_000) if n % 3 == 0 and n not in places] == (
            found_by(closed, NAMES[number])
        )


def test_what_is_forgotten_is_in_no_file(closed: SqliteStore) -> None:
    """Neither in the database, nor in what SQLite writes ahead, nor in a segment's files."""
    places = [0, 30_000, SEGMENT - 4, SEGMENT + 2, SEGMENT + 299]
    needles = [row_of(n) for n in places]
    assert all(files_with(closed.path, [needle]) for needle in needles)

    for left in (b"<less>", b""):
        closed.forget({"user": {n: Forgotten(row=left) for n in places}})

    assert [] == files_with(closed.path, needles)
    assert [] == files_with(closed.path, [b"<less>"])
    assert files_with(closed.path, [row_of(3)])


def test_a_segment_of_which_all_is_forgotten_is_not_searched(closed: SqliteStore) -> None:
    """The manifest says which lookups are left, and nothing of those that are gone."""
    everything = {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in range(0, CLOSED, 3)}
    needles = [each.to_bytes(8, "little") for each in SUBJECTS]
    assert files_with(closed.path, needles)

    closed.forget({"user": everything})

    assert {} == lookups_in(closed, 0, CLOSED)
    with closed.read() as view:
        wanted = Wanted(groups=(frozenset({SUBJECTS[2]}),))
        assert [] == list(view.candidates("user", wanted, 0, CLOSED, newest_first=True))
        assert 1 == view.work.segments_skipped
        assert {} == view.tally("user", Field.SUBJECT_LOOKUP, None)
    assert [] == files_with(closed.path, needles)


def test_a_fact_is_what_was_put_last(store: Store) -> None:
    """A fact is read as it was put last, by the transaction itself and by readers after it."""
    with store.write() as transaction:
        transaction.put("cursor", b"a", b"1")
        transaction.put("cursor", b"b", b"")
        transaction.put("other", b"a", b"2")
        transaction.put("cursor", b"a", b"3")

        assert b"3" == transaction.fact("cursor", b"a")

    with store.write() as transaction:
        transaction.put("cursor", b"b", None)
        transaction.put("cursor", b"c", None)

        assert transaction.fact("cursor", b"b") is None

    with store.read() as view:
        assert b"3" == view.fact("cursor", b"a")
        assert view.fact("cursor", b"b") is None
        assert b"2" == view.fact("other", b"a")
        assert view.fact("none", b"a") is None


def test_facts_come_in_the_order_of_their_keys(store: Store) -> None:
    """Facts of one kind are read by ranges of their keys, which are compared as bytes."""
    keys = [b"", b"\x00", b"a", b"a\xff", b"b", b"\xff\xff"]
    with store.write() as transaction:
        for key in reversed(keys):
            transaction.put("kind", key, b"of " + key)
            transaction.put("kine", key, b"another")

    with store.read() as view:
        assert [(key, b"of " + key) for key in keys] == list(view.facts("kind"))
        assert keys[2:4] == [key for key, _ in view.facts("kind", b"a", b"b")]
        assert keys[4:] == [key for key, _ in view.facts("kind", b"b")]
        assert not list(view.facts("kind", b"c", b"d"))


def test_facts_come_and_go_with_their_transaction(store: Store) -> None:
    """Facts are kept in one step with the entries beside them, or not at all."""
    with store.write() as transaction:
        transaction.put("kind", b"key", b"before")

    with store.read() as earlier:
        before = earlier.fact("kind", b"key")
        with pytest.raises(ZeroDivisionError), store.write() as transaction:
            transaction.put("kind", b"key", b"after")
            log.append(transaction, transaction.heads()["user"], [sealed(0)], KEY, 1)
            raise ZeroDivisionError

    with store.read() as view:
        assert b"before" == before == view.fact("kind", b"key")
        assert 0 == view.heads()["user"].size
