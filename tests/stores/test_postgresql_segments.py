"""Closed segments in PostgreSQL: found, counted, forgotten, purged, held against their hash."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from indelible import log
from indelible.errors import Damaged, Purged, StoreError
from indelible.event import Actor, Event, Outcome, Resource, Trace
from indelible.keys import SigningKey
from indelible.merkle import root_at
from indelible.seal import seal
from indelible.segment import SEGMENT, TILE
from indelible.store import Forgotten, Head, Wanted
from indelible.stores.postgresql import PostgresqlStore
from indelible.stores.postgresql_check import check_segment
from indelible.terms import Field, fingerprint, term
from tests.stores.conftest import StoreServer, connected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from indelible.seal import Sealed
    from indelible.segment import Segment

KEY = SigningKey.from_seed("audit.example.com/user", bytes(range(32)))
SIZE = SEGMENT + 900
NAMES = [term(Field.VALUE_LOOKUP, f"name {number}") for number in range(1_000)]
SUBJECTS = [term(Field.SUBJECT_LOOKUP, f"subject {number}") for number in range(7)]
TIME = int("01a20c39dd97", 16)
ACTORS = [Actor.parse(f"user:u{number}") for number in range(13)]
OF_ONE = Wanted(groups=(frozenset({term(Field.ACTOR, "user:u3")}),))
INVOICE = Resource.parse("invoice:1")


def id_of(number: int) -> str:
    """The id of event *number*."""
    return f"01a20c39-dd97-7a23-9bb2-{number:012x}"


def row_of(number: int) -> bytes:
    """What the vault keeps of event *number*."""
    return b"<row %d>" % number if number % 3 == 0 else b""


def lookups_of(number: int) -> tuple[int, ...]:
    """What event *number* is found by off the log."""
    return () if number % 3 else (NAMES[number % 1_000], SUBJECTS[number % 7])


def sealed(number: int) -> Sealed:
    """Event *number*, always the same."""
    event = seal(
        Event(
            id=id_of(number),
            occurred_at=datetime(2026, 11, 24, tzinfo=UTC),
            action="invoice.approve",
            outcome=Outcome.SUCCESS,
            actor=ACTORS[number % 13],
            resource=INVOICE,
            trace=Trace(trace_id=f"{number // 5:032x}") if number % 2 else None,
        )
    )
    return msgspec.structs.replace(event, row=row_of(number), lookups=lookups_of(number))


def add(store: PostgresqlStore, numbers: range) -> None:
    """Append events in one transaction."""
    with store.write() as transaction:
        events = [sealed(number) for number in numbers]
        log.append(transaction, transaction.heads()["user"], events, KEY, 1_000)


def close_segments(store: PostgresqlStore) -> list[Segment]:
    """Close what is complete."""
    closed = []
    for segment in store.close_segments():
        with store.write() as transaction:
            transaction.register(segment)
        closed.append(segment)
    return closed


def purge(store: PostgresqlStore, first: int) -> None:
    """Purge what comes before, and build what has to be built."""
    with store.write() as transaction:
        transaction.purge("user", first)
    for segment in store.purge_segments():
        with store.write() as transaction:
            transaction.register(segment)


@pytest.fixture(scope="module")
def open_template(postgresql_18: StoreServer) -> str:
    """A store with values in a complete segment, which is not closed yet, and after it."""
    url = postgresql_18.store()
    made = PostgresqlStore(url, synced=False)
    with made.write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
    for start in range(0, SIZE, 4_000):
        add(made, range(start, min(start + 4_000, SIZE)))
    made.close()
    return url


@pytest.fixture(scope="module")
def template(open_template: str, postgresql_18: StoreServer) -> str:
    """The same with the segment closed."""
    url = postgresql_18.copy(open_template)
    made = PostgresqlStore(url, synced=False)
    close_segments(made)
    made.close()
    with connected(url) as connection:
        # As the server does by itself after a while: it takes samples of all columns.
        connection.execute("ANALYZE")
    return url


@pytest.fixture
def still_open(open_template: str, postgresql_18: StoreServer) -> Iterator[PostgresqlStore]:
    """Open a copy of the store whose segment is not closed yet."""
    made = PostgresqlStore(postgresql_18.copy(open_template), synced=False)
    yield made
    made.close()


@pytest.fixture
def store(template: str, postgresql_18: StoreServer) -> Iterator[PostgresqlStore]:
    """Open a copy of the store whose segment is closed."""
    made = PostgresqlStore(postgresql_18.copy(template), synced=False)
    yield made
    made.close()


def found_by(store: PostgresqlStore, wanted: Wanted, size: int = SIZE) -> list[int]:
    """What is proposed, in either direction."""
    with store.read() as view:
        found = list(view.candidates("user", wanted, 0, size, newest_first=False))
        assert found[::-1] == list(view.candidates("user", wanted, 0, size, newest_first=True))
    return found


def check(store: PostgresqlStore, *, deep: bool = True) -> None:
    """Check each closed segment."""
    with store.read() as view:
        segments = view.segments("user")
    for segment in segments:
        check_segment(store.url, segment, deep=deep)


def left_in_files(store: PostgresqlStore, needles: Sequence[bytes]) -> set[bytes]:
    """Which of *needles* lie in files of the database, whoever could read them."""
    with connected(store.url) as connection:
        # What is written to tables later is in memory until then.
        connection.execute("CHECKPOINT")
        (folder,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        (number,) = connection.execute(
            "SELECT oid FROM pg_database WHERE datname = current_database()"
        ).fetchone() or (0,)
    found = set[bytes]()
    for file in (Path(folder) / "base" / str(number)).iterdir():
        data = file.read_bytes()
        found.update(needle for needle in needles if needle in data)
    return found


def test_a_closed_segment_is_searched_like_the_open_part(store: PostgresqlStore) -> None:
    """Where an entry lies makes no difference to what finds it, and nothing is left out."""
    actor = term(Field.ACTOR, "user:u3")
    with store.read() as view:
        assert [SEGMENT] == [segment.first + SEGMENT for segment in view.segments("user")]

    assert list(range(SIZE)) == found_by(store, Wanted())
    assert list(range(3, SIZE, 13)) == found_by(store, OF_ONE)
    assert [n for n in range(SIZE) if n % 13 == 3 or n % 21 == 9] == found_by(
        store, Wanted(groups=(frozenset({actor, SUBJECTS[2]}),))
    )
    assert [n for n in range(SIZE) if n % 13 == 3 and n % 21 == 9] == found_by(
        store, Wanted(groups=(frozenset({actor}), frozenset({SUBJECTS[2]})))
    )
    assert [385, 387, 389] == found_by(store, Wanted(trace=fingerprint(f"{77:032x}")))
    for number in (0, 70, SEGMENT - 1, SEGMENT, SIZE - 1):
        assert number in found_by(store, Wanted(id=(fingerprint(id_of(number)), TIME)))
    assert [] == found_by(store, Wanted(groups=(frozenset({term(Field.ACTOR, "user:no")}),)))
    with store.read() as view:
        ids = frozenset(fingerprint(id_of(n)) for n in (5, SEGMENT + 5))
        assert {5, SEGMENT + 5} <= set(view.with_ids("user", ids, (TIME, TIME + 1)))


def test_a_closed_segment_is_counted_like_the_open_part(store: PostgresqlStore) -> None:
    """Each entry is counted once, whether its segment is closed or not."""
    chosen = range(60_000, SIZE, 3)

    with store.read() as view:
        for field, total in ((Field.ACTION, SIZE), (Field.ACTOR, SIZE)):
            assert total == sum(n for n, _ in view.tally("user", field, None).values())
            assert len(chosen) == sum(n for n, _ in view.tally("user", field, chosen).values())
        subjects = view.tally("user", Field.SUBJECT_LOOKUP, None)
        lookups = {n: set(found) for n, found in view.lookups("user", 0, SIZE)}

    assert len(range(0, SIZE, 21)) == subjects[SUBJECTS[0]][0]
    assert {n: set(lookups_of(n)) for n in range(0, SIZE, 3)} == lookups


def test_closing_moves_no_entry_and_changes_no_hash(store: PostgresqlStore) -> None:
    """Entries come back as exactly their bytes, and the tree over them is that of the head."""
    places = [0, 1, 255, 256, 40_000, SEGMENT - 1, SEGMENT, SIZE - 1]

    with store.read() as view:
        head = view.heads()["user"]
        assert head.edge.root == root_at(SIZE, partial(view.node, "user"))
        entries = [log.restore(stored) for stored in view.stored("user", places)]
        tiles = list(view.tiles("user", 0, SIZE))
        assert [row_of(n) for n in places] == view.rows("user", places)

    assert all(id_of(n).encode() in entry for n, entry in zip(places, entries, strict=True))
    assert SIZE == sum(len(tile.bodies) for tile in tiles)
    assert [tile.first >= SEGMENT for tile in tiles] == [tile.columns is not None for tile in tiles]
    check(store)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE indelible.block SET data = data || '\\x00' WHERE key & 1023 = 7", "expected"),
        ("DELETE FROM indelible.finding WHERE kind = 't'", "expected"),
        ("UPDATE indelible.tile SET occurred_most = 0 WHERE key & 255 = 9", "expected"),
        ("UPDATE indelible.segment SET filter = '\\x00'", "filter"),
        ("UPDATE indelible.segment SET occurred_most = 0", "times"),
    ],
)
def test_whatever_hides_entries_is_found(store: PostgresqlStore, change: str, what: str) -> None:
    """Who owns the database can change what queries go by, but not without its being seen."""
    with connected(store.url) as connection:
        connection.execute(change.encode())

    with pytest.raises(Damaged, match=what):
        check(store)


def test_the_server_keeps_samples_of_no_value(store: PostgresqlStore) -> None:
    """What its planner remembers of columns would outlive the rows that are deleted."""
    with connected(store.url) as connection:
        sampled = connection.execute(
            "SELECT tablename, attname FROM pg_stats WHERE schemaname LIKE 'indelible%'"
        ).fetchall()

    assert [] == sampled


def test_what_is_forgotten_is_in_no_file_of_a_table(store: PostgresqlStore) -> None:
    """Neither rows nor lookups are left where they were, in closed segments and in the open."""
    places = [0, 999, 30_000, SEGMENT - 4, SEGMENT + 2, SEGMENT + 899]
    needles = [row_of(n) for n in places]
    assert set(needles) == left_in_files(store, needles)

    for _ in range(2):  # nothing is forgotten twice
        store.forget({"user": {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in places}})

    assert {row_of(3)} == left_in_files(store, [*needles, row_of(3)])
    with store.read() as view:
        left = {n: set(found) for n, found in view.lookups("user", 0, SIZE)}
        assert [b""] * len(places) == view.rows("user", places)
        assert [row_of(n) for n in (3, SEGMENT + 5)] == view.rows("user", [3, SEGMENT + 5])
    assert {n: set(lookups_of(n)) for n in range(0, SIZE, 3) if n not in places} == left
    check(store, deep=False)


def test_what_a_crash_left_of_forgetting_goes_when_it_is_repeated(store: PostgresqlStore) -> None:
    """Rows that were deleted by whoever died then are out of the files as well."""
    with store.write() as transaction:
        transaction.forget({"user": {0: Forgotten(), SEGMENT + 2: Forgotten()}})
    assert left_in_files(store, [row_of(0)])

    store.forget({"user": {0: Forgotten(), SEGMENT + 2: Forgotten()}})

    assert set() == left_in_files(store, [row_of(0), row_of(SEGMENT + 2)])


def test_a_segment_of_which_all_is_forgotten_is_not_searched(store: PostgresqlStore) -> None:
    """The manifest says which lookups are left, and nothing of those that are gone."""
    everything = {n: Forgotten(lookups=frozenset(lookups_of(n))) for n in range(0, SIZE, 3)}

    store.forget({"user": everything})

    with store.read() as view:
        wanted = Wanted(groups=(frozenset({SUBJECTS[2]}),))
        assert [] == list(view.candidates("user", wanted, 0, SIZE, newest_first=True))
        assert 1 == view.work.segments_skipped
        assert {} == view.tally("user", Field.SUBJECT_LOOKUP, None)
    assert set() == left_in_files(store, [each.to_bytes(8, "little") for each in SUBJECTS])


@pytest.mark.parametrize("first", [30_208, SEGMENT, SEGMENT + 512])
def test_what_is_purged_is_in_no_file_of_a_table(store: PostgresqlStore, first: int) -> None:
    """Of purged entries the hashes are all that is left, and all others stay as they were."""
    gone = [row_of(n) for n in (0, 300, first - 2, first - 1) if row_of(n)]
    with store.read() as view:
        before = view.leaves("user", 0, SIZE)

    purge(store, first)

    assert list(range(first, SIZE)) == found_by(store, Wanted())
    assert set() == left_in_files(store, gone)
    check(store)
    with store.read() as view:
        assert before == view.leaves("user", 0, SIZE)
        assert view.heads()["user"].edge.root == root_at(SIZE, partial(view.node, "user"))
        assert SIZE - first == sum(n for n, _ in view.tally("user", Field.ACTOR, None).values())
        assert SIZE - first == sum(len(tile.bodies) for tile in view.tiles("user", 0, SIZE))
        with pytest.raises(Purged):
            view.stored("user", [first - 1])
        assert [first] == [each.index for each in view.stored("user", [first])]
    with connected(store.url) as connection:
        blocks = connection.execute("SELECT min(key) FROM indelible.block").fetchone()
    assert blocks == ((1 << 40) + first // 64,)


def test_what_a_crash_left_of_a_purge_goes_when_it_is_resumed(store: PostgresqlStore) -> None:
    """Once it is done it is done: tables that were written anew are left alone."""
    with store.write() as transaction:
        transaction.purge("user", SEGMENT + 256)
    (segment,) = _registered_only(store)
    assert TILE == segment.purged
    assert left_in_files(store, [row_of(300)])

    purged = list(store.purge_segments())
    files = _tables(store)
    again = list(store.purge_segments())

    assert [] == purged == again
    assert set() == left_in_files(store, [row_of(300), row_of(SEGMENT + 2)])
    assert files["block_1_0"] == _tables(store)["block_1_0"]
    check(store)


def _registered_only(store: PostgresqlStore) -> list[Segment]:
    """Purge like a process that dies before it writes tables anew."""
    building = store.purge_segments()
    segment = next(building)
    with store.write() as transaction:
        transaction.register(segment)
    del building
    return [segment]


def _tables(store: PostgresqlStore) -> dict[str, int]:
    """Which file each table has."""
    with connected(store.url) as connection:
        return dict(
            connection.execute(
                "SELECT relname, relfilenode::bigint FROM pg_class"
                " WHERE relnamespace = 'indelible'::regnamespace AND relkind = 'r'"
            ).fetchall()
        )


def test_a_segment_is_checked_between_a_purge_and_its_building_anew(
    store: PostgresqlStore,
) -> None:
    """Until a segment is described anew, it is what was closed: a crash there is no alarm."""
    with store.write() as transaction:
        transaction.purge("user", 512)
    check(store, deep=False)

    (segment,) = store.purge_segments()
    check(store, deep=False)
    with store.write() as transaction:
        transaction.register(segment)

    check(store, deep=False)
    assert 2 == segment.purged


def test_a_changed_segment_is_not_purged(store: PostgresqlStore) -> None:
    """What somebody has made of a segment does not become right by a purge."""
    with connected(store.url) as connection:
        connection.execute("UPDATE indelible.block SET data = '' WHERE key & 1023 = 1000")
    with store.write() as transaction:
        transaction.purge("user", 512)

    with pytest.raises(Damaged, match="is not the one that was closed"):
        list(store.purge_segments())


def test_purged_tiles_of_a_segment_are_closed_as_such(still_open: PostgresqlStore) -> None:
    """A segment that loses entries while it is open is closed without them."""
    purge(still_open, 512)

    close_segments(still_open)

    check(still_open)
    with still_open.read() as view:
        assert [2] == [segment.purged for segment in view.segments("user")]
    assert list(range(512, SIZE)) == found_by(still_open, Wanted())


def test_a_crash_while_closing_costs_only_the_time(still_open: PostgresqlStore) -> None:
    """What was built and never registered is built again, and the entries stay searchable."""
    building = still_open.close_segments()
    lost = next(building)
    del building
    assert list(range(3, SIZE, 13)) == found_by(still_open, OF_ONE)

    (segment,) = close_segments(still_open)

    assert lost == segment
    assert 0 == segment.number
    check(still_open, deep=False)


def test_one_process_closes_at_a_time(still_open: PostgresqlStore) -> None:
    """Who comes while a segment is being built goes away with nothing."""
    other = PostgresqlStore(still_open.url, synced=False)
    building = still_open.close_segments()
    segment = next(building)

    assert [] == list(other.close_segments())

    with still_open.write() as transaction:
        transaction.register(segment)
    assert [] == list(building)
    with other.read() as view:
        assert [0] == [each.number for each in view.segments("user")]
    other.close()


def test_a_reader_makes_forgetting_wait_and_see_all_of_it(
    store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody still looks at an older state, deleted rows may not be out of the files."""
    monkeypatch.setattr("indelible.stores.postgresql._PATIENCE", 0.0)

    with store.read() as view:
        with pytest.raises(StoreError) as caught:
            _forget(store)
        assert [row_of(3)] == view.rows("user", [3])
    _forget(store)

    assert "a reader still holds an older state" in str(caught.value)
    assert set() == left_in_files(store, [row_of(3)])


def _forget(store: PostgresqlStore) -> None:
    store.forget({"user": {3: Forgotten()}})


def test_tiles_after_a_purged_prefix_keep_their_terms(store: PostgresqlStore) -> None:
    """Columns of the open part survive a purge of a closed one."""
    purge(store, SEGMENT)

    with store.read() as view:
        (first, *_) = view.tiles("user", SEGMENT, SIZE)

    assert not first.purged
    assert first.columns is not None
    assert TILE == len(first.columns.counts)
    assert replace(first, columns=None).columns is None
