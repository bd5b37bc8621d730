"""What retention has released is gone for good, and everything else is proven as before."""

from __future__ import annotations

import shutil
import sqlite3
from base64 import b64encode
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

import indelible
from indelible import facets, history, query
from indelible.backup import restore
from indelible.custody import own_event
from indelible.directory import MINIMUM_INDEX, verify_directory
from indelible.entry import microseconds
from indelible.errors import (
    CallerError,
    Damaged,
    Purged,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.event import Actor, Event, Outcome, Resource, uuid7
from indelible.keys import SigningKey
from indelible.log import append
from indelible.merkle import Edge, consistency_proof, root_at, verify_consistency
from indelible.policy import CUSTODY, Policy, Rule, Stream
from indelible.purging import purge_prefix, resume
from indelible.query import Query
from indelible.seal import Sealed, seal
from indelible.segment import NOTHING, SEGMENT, TILE
from indelible.sinks.directory import export_log
from indelible.store import Head, Tile
from indelible.stores.memory import MemoryStore
from indelible.stores.sqlite import SqliteStore
from indelible.stores.sqlite_check import check_file
from indelible.stores.sqlite_layout import discard
from indelible.terms import Field, fingerprint, term
from indelible.testing import Faulty
from indelible.tiles import entries_path, tile_path
from indelible.verdict import Level
from indelible.verify import verify_segment, verify_tile, verify_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from indelible.keys import Signer
    from indelible.segment import Segment
    from indelible.store import Store, View
    from indelible.verdict import Verdict

START = 1_764_000_000_000_000
NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEYS = {
    log: SigningKey.from_seed(f"x.example/{log}", bytes([number]) * 32)
    for number, log in enumerate(("custody", "user"))
}
SIZE = SEGMENT + 700
POLICY = Policy(
    id="shop",
    version=7,
    streams={"user": Stream(), CUSTODY: Stream()},
    rules=(Rule(name="*", stream="user"),),
)
LOOKUP = term(Field.SUBJECT_LOOKUP, "subject")
EVERY = 100
"""Each one of so many entries has values."""


@dataclass
class Owner:
    """What a purge needs of a trail."""

    store: Store
    id: str = "T"
    policy: Policy = POLICY

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        return KEYS[head.stream]


def sealed(number: int) -> Sealed:
    """Return the event with this number, of which the vault keeps something now and then."""
    at = START + number * 1_000
    event = seal(
        Event(
            id=uuid7(at * 1_000, sha256(b"%d" % number).digest()[:10]),
            occurred_at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at),
            action=("invoice.approve", "invoice.read", "order.ship")[number % 3],
            outcome=Outcome.SUCCESS,
            actor=Actor(type="user", id=("alice", "bob")[number % 2]),
            resource=Resource(type="invoice", id=f"INV-{number % 1_000}"),
        )
    )
    if number % EVERY:
        return event
    return msgspec.structs.replace(event, row=kept_of(number), lookups=(LOOKUP,))


def kept_of(number: int) -> bytes:
    """Return what the vault keeps of an event: bytes that are nowhere else."""
    return sha256(b"value %d" % number).digest()


def record(store: Store, log: str, events: Sequence[Sealed], now: int = START) -> None:
    """Append *events* in commits of up to 4,096."""
    for start in range(0, len(events), 4_096):
        with store.write() as transaction:
            part = events[start : start + 4_096]
            append(transaction, transaction.heads()[log], part, KEYS[log], now + start)


def say(store: Store, action: str, **data: Any) -> None:
    """Let the custody stream say something."""
    record(store, "custody", [own_event("T", action, **data)], microseconds(NOW))


def name_heads(store: Store) -> None:
    """Let the custody stream name the tree of the other log."""
    with store.read() as view:
        head = view.heads()["user"]
    root = b64encode(head.edge.root).decode()
    say(store, "trail.heads", logs={"user": {"size": head.size, "root": root}})


def close_segments(store: Store) -> None:
    """Close what is complete, and name it in the custody stream."""
    for segment in store.close_segments():
        with store.write() as transaction:
            transaction.register(segment)
        say(
            store,
            "segment.close",
            log=segment.log,
            number=segment.number,
            root=b64encode(segment.root).decode(),
            file_hash=segment.file_hash.hex(),
            index_hash=segment.index_hash.hex(),
        )


def begin(store: Store) -> None:
    """Begin both logs."""
    with store.write() as transaction:
        for log, key in KEYS.items():
            transaction.create(Head(log=log, origin=key.name))


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a closed segment and an open part, of which custody knows some trees."""
    path = tmp_path_factory.mktemp("kept")
    with closing(SqliteStore(path, create=True)) as store:
        begin(store)
        record(store, "user", [sealed(number) for number in range(300)])
        name_heads(store)
        record(store, "user", [sealed(number) for number in range(300, SIZE)])
        close_segments(store)
        name_heads(store)
    return path


@pytest.fixture
def path(master: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return shutil.copytree(master, tmp_path / "store")


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """Open it."""
    with closing(SqliteStore(path)) as store:
        yield store


@pytest.fixture
def small() -> MemoryStore:
    """A log of two complete tiles and a partial one."""
    store = MemoryStore()
    begin(store)
    record(store, "user", [sealed(number) for number in range(600)])
    name_heads(store)
    return store


def purge(store: Store, first: int) -> int:
    """Purge what comes before."""
    return purge_prefix(Owner(store), "user", first, plan_digest="ab" * 32, now=NOW)


def only_begin(store: Store, first: int) -> None:
    """Purge, as far as a process came that was killed right after the first transaction."""

    class Cut(Faulty):
        def purge_segments(self) -> Iterator[Segment]:
            yield from ()

    purge_prefix(Owner(Cut(store)), "user", first, plan_digest=None, now=NOW)


def verify(
    path: Path, *, jobs: int = 1, progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Verify with the keys that were pinned, and the indexes of closed segments as well."""
    return verify_trail(
        partial(SqliteStore, path),
        {log: key.verifier for log, key in KEYS.items()},
        check_file=partial(check_file, path),
        deep=True,
        jobs=jobs,
        progress=progress,
    )


def verify_store(store: Store) -> Verdict:
    """Verify a store as it is."""
    return verify_trail(lambda: store, {log: key.verifier for log, key in KEYS.items()})


def found(verdict: Verdict) -> str:
    """Return the findings as text; such a verdict does not pass."""
    assert Level.TAMPERED == verdict.level
    assert not verdict.passed
    return "\n".join(map(str, verdict.findings))


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of the store past everything that guards it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def said(store: Store, *actions: str) -> list[dict[str, Any]]:
    """Return what custody entries of these *actions* say, oldest first."""
    with store.read() as view:
        asked = Query(stream="custody", action=actions, newest_first=False)
        return [dict(item.event.data or {}) for item in query.matches(view, asked)]


def contents(path: Path) -> bytes:
    """Return all bytes of all files of a store."""
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


BOUNDARIES = [TILE, 40_960, SEGMENT, SEGMENT + 512]


# ---- What stays ----


@pytest.mark.parametrize("first", BOUNDARIES)
def test_what_is_left_of_a_purged_log_is_proven_as_before(path: Path, first: int) -> None:
    """Checkpoint, roots, proofs of the other entries and of older trees verify after a purge."""
    with closing(SqliteStore(path)) as store:
        assert first == purge(store, first)

        with store.read() as view:
            node = partial(view.node, "user")
            head = view.heads()["user"]
            for index in (first, SIZE - 1):
                (item,) = query.items(view, "user", [index])
                proof = query.prove(view, "user", index)
                proof.verify(item.entry.to_bytes(), [KEYS["user"].verifier])
            for size in (1, first - 1, first, SIZE - 100):
                verify_consistency(
                    size,
                    SIZE,
                    consistency_proof(size, SIZE, node),
                    root_at(size, node),
                    head.edge.root,
                )
    verdict = verify(path)

    assert () == verdict.findings
    assert Level.SIGNED == verdict.level
    assert SIZE - first + verdict.logs[0].size == verdict.entries
    assert first == verdict.logs[1].first
    assert (
        f"user: what its first {first} entries said; they were purged under policy"
        f" {POLICY.label}" in verdict.does_not_show
    )
    assert f"user: {SIZE} entries (the first {first} purged) up to" in verdict.reaches[1]


def test_several_processes_come_to_the_same_verdict_on_a_purged_log(path: Path) -> None:
    """It does not matter how many processes verify what is left."""
    with closing(SqliteStore(path)) as store:
        purge(store, 512)

    assert verify(path) == verify(path, jobs=2)


@pytest.mark.parametrize("first", BOUNDARIES)
def test_queries_answer_from_what_is_left(store: SqliteStore, first: int) -> None:
    """Searches, counts and histories go on over the entries that were not purged, each once."""
    expected = [number for number in range(first, SIZE) if number % 1_000 == 7]
    purge(store, first)

    with store.read() as view:
        asked = Query(resource="invoice:INV-7", newest_first=False)
        assert expected == [item.index for item in query.matches(view, asked)]
        assert expected == [item.index for item in history.history(view, "invoice:INV-7")]
        counted = facets.facets(view, Query(), ("action", "actor"))
        assert [SIZE - first] * 2 == [facet.total for facet in counted.values()]
        since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START)
        assert counted == facets.facets(view, Query(since=since), ("action", "actor"))
        rows = view.rows("user", range(0, SIZE, EVERY))
        assert [kept_of(n) for n in range(0, SIZE, EVERY) if n >= first] == list(filter(None, rows))
        with pytest.raises(Purged):
            list(query.items(view, "user", [first - 1]))


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_cursor_into_what_was_purged_meanwhile_goes_on(
    store: SqliteStore, newest_first: bool
) -> None:
    """The pages after a purge hold what is left, each match once, and come to an end."""
    asked = Query(resource="invoice:INV-7", newest_first=newest_first)
    first, expected, cursor = SEGMENT, {7, 1_007, 65_007, 66_007}, None
    found_: list[int] = []

    with store.read() as view:
        page = query.search(view, asked, limit=2, secret=b"s")
    purge(store, first)
    while page.cursor is not None:
        found_ += [item.index for item in page.items]
        cursor = page.cursor
        with store.read() as view:
            page = query.search(view, asked, limit=2, cursor=cursor, secret=b"s")
    found_ += [item.index for item in page.items]

    assert len(found_) == len(set(found_))
    assert set(found_) <= expected
    assert 66_007 in found_


def test_custody_says_what_was_purged_and_which_files_there_are_since(store: SqliteStore) -> None:
    """The entries name range, count, subtree roots, policy and plan, and each rebuilt segment."""
    with store.read() as view:
        roots = [view.node("user", 8, 0)]

    assert TILE == purge(store, TILE)
    assert SEGMENT + 256 == purge(store, SEGMENT + 512)

    one, two = said(store, "log.purge")
    assert {
        "log": "user",
        "first": TILE,
        "count": TILE,
        "roots": [b64encode(root).decode() for root in roots],
        "policy": POLICY.label,
        "plan": "ab" * 32,
    } == one
    assert (SEGMENT + 512, SEGMENT + 256) == (two["first"], two["count"])
    with store.read() as view:
        (segment,) = view.segments("user")
        assert 2 == len(two["roots"])
        assert Edge(
            size=SEGMENT + 512, hashes=(segment.root, view.node("user", 9, SEGMENT >> 9))
        ).root == root_at(SEGMENT + 512, partial(view.node, "user"))
    rebuilt = said(store, "segment.purge")
    assert [0, 0] == [each["number"] for each in rebuilt]
    assert (segment.file_hash.hex(), segment.index_hash.hex()) == (
        rebuilt[1]["file_hash"],
        rebuilt[1]["index_hash"],
    )
    assert rebuilt[0]["file_hash"] != rebuilt[1]["file_hash"]


def test_a_segment_is_closed_without_what_was_purged_before(tmp_path: Path) -> None:
    """Entries that were purged while their segment was open are in no file of it later."""
    (tmp_path / "store").mkdir()
    with closing(SqliteStore(tmp_path / "store", create=True)) as store:
        begin(store)
        record(store, "user", [sealed(number) for number in range(SEGMENT)])
        purge(store, 512)

        close_segments(store)

        with store.read() as view:
            (segment,) = view.segments("user")
            assert 2 == segment.purged
            assert {kept_of(n) for n in range(600, SEGMENT, EVERY)} == {
                row for row in view.rows("user", range(SEGMENT)) if row
            }
        assert 0 == len(said(store, "segment.purge"))
    assert verify(tmp_path / "store").passed


# ---- What is gone ----


@pytest.mark.parametrize("first", BOUNDARIES)
def test_nothing_of_what_was_purged_is_in_any_file(path: Path, first: int) -> None:
    """When a purge has returned, files hold no entry and no value of it; others are all there."""
    with database(path / "segments" / "user" / "000000") as file:
        blocks = dict(file.execute("SELECT number, data FROM block WHERE number % 64 = 1"))
        ids = dict(file.execute("SELECT number, ids FROM tile WHERE number % 16 = 0"))
    with database(path / "head.db") as head:
        (number,) = head.execute("SELECT number FROM log WHERE name = 'user'").fetchone()
        blocks |= {
            key - (number << 40): data
            for key, data in head.execute("SELECT key, data FROM block WHERE key % 4 = 1")
            if key >> 40 == number
        }
    before = contents(path)

    with closing(SqliteStore(path)) as store:
        purge(store, first)
        after = contents(path)

    # A block may lie on several pages; the end of each is on one.
    for block, data in blocks.items():
        assert data[-40:] in before
        assert (block * 64 >= first) == (data[-40:] in after)
    for tile, column in ids.items():
        assert (tile * TILE >= first) == (column[-200:] in after)
    for number in range(0, SIZE, EVERY):
        if number % 1_000 == 0 or abs(number - first) < 2 * EVERY:
            assert (number >= first) == (kept_of(number) in after)


@pytest.mark.parametrize(("first", "names"), [(512, ["000000-002"]), (SEGMENT, ["000000-256"])])
def test_a_file_of_another_content_has_another_name(
    path: Path, first: int, names: list[str]
) -> None:
    """A rebuilt segment takes the place of the one before; its vault file goes with the last."""
    with closing(SqliteStore(path)) as store:
        purge(store, first)

    assert names == [file.name for file in (path / "segments" / "user").iterdir()]
    assert (first < SEGMENT) == (path / "vault" / "user" / "000000").exists()


def test_a_purged_segment_is_skipped_without_being_opened(store: SqliteStore) -> None:
    """Of a segment that is purged as a whole nothing is left to search in."""
    purge(store, SEGMENT)

    with store.read() as view:
        (segment,) = view.segments("user")
        found_ = list(view.candidates("user", Query().wanted()[0], 0, SIZE, newest_first=True))

        assert 0 == view.work.segments_opened
    assert (NOTHING, NOTHING, NOTHING) == (segment.recorded, segment.occurred, segment.id_times)
    assert {} == segment.counts
    assert SIZE - SEGMENT == len(found_)


# ---- What is cut off ----


def test_a_purge_that_was_cut_off_is_whole_for_readers(path: Path) -> None:
    """From the first transaction on nobody finds the entries, whatever files still hold."""
    first = 512
    with closing(SqliteStore(path)) as store:
        only_begin(store, first)

        with store.read() as view:
            assert 0 == view.segments("user")[0].purged
            assert [True, True, False] == [t.purged for t in view.tiles("user", 0, 768)]
            for field in (Field.ACTION, Field.RESOURCE):
                counted = view.tally("user", field, None).values()
                assert SIZE - first == sum(count for count, _ in counted)
            counted = view.tally("user", Field.SUBJECT_LOOKUP, None).values()
            assert len(range(600, SIZE, EVERY)) == sum(count for count, _ in counted)
            assert [600] == [index for index, _ in view.lookups("user", 0, 601)]
            assert [b""] == view.rows("user", [100])
            fingerprints = frozenset(fingerprint(sealed(number).id) for number in (100, 600))
            assert [600] == list(view.with_ids("user", fingerprints, (0, 2**63 - 1)))
            with pytest.raises(Purged):
                view.stored("user", [511])
    assert verify(path).passed


def test_what_was_cut_off_is_completed_once(path: Path) -> None:
    """Resuming removes what is left, says so in custody, and later changes nothing."""
    with closing(SqliteStore(path)) as store:
        only_begin(store, 512)
        for name in ("000000.building", "000000-001"):
            (path / "segments" / "user" / name).write_bytes(kept_of(100))
        (path / "segments" / "user" / "000001").write_bytes(b"of entries that are left")
        (path / "vault" / "user" / "000000.building").write_bytes(kept_of(100))

        resume(Owner(store), NOW)
        after = contents(path)
        resume(Owner(store), NOW)

        assert kept_of(100) not in after
        assert 1 == len(said(store, "segment.purge"))
    assert {"000000-002", "000001"} == {f.name for f in (path / "segments" / "user").iterdir()}
    assert {"000000"} == {f.name for f in (path / "vault" / "user").iterdir()}
    assert verify(path).passed


def test_where_nothing_was_purged_resuming_does_nothing(path: Path) -> None:
    """A trail that was never purged is not changed, nor is its custody stream."""
    with closing(SqliteStore(path)) as store:
        before = contents(path / "segments"), said(store, "segment.purge", "log.purge")

        resume(Owner(store), NOW)

        assert before == (contents(path / "segments"), said(store, "segment.purge", "log.purge"))


@pytest.mark.parametrize(
    "plan",
    [(True,), (False,), (None, True), (None, False), (True, True), (False, False)],
)
def test_a_lost_answer_neither_loses_nor_doubles_a_purge(
    path: Path, plan: tuple[bool | None, ...]
) -> None:
    """Whether or not a write behind a lost answer happened, repeating ends with one purge."""
    with closing(SqliteStore(path)) as store:
        owner = Owner(Faulty(store, *plan))
        for _ in range(3):
            try:
                with store.read() as view:
                    begun = view.heads()["user"].first == 512
                if begun:
                    resume(owner, NOW)
                else:
                    purge_prefix(owner, "user", 512, plan_digest=None, now=NOW)
            except WriteUncertain:
                continue

        assert [512] == [each["first"] for each in said(store, "log.purge")]
        assert 1 == len(said(store, "segment.purge"))
    assert ["000000-002"] == [file.name for file in (path / "segments" / "user").iterdir()]
    assert verify(path).passed


def test_a_segment_that_is_not_the_one_that_was_closed_is_not_declared_right(path: Path) -> None:
    """A file that somebody has changed is left as it is, and is found now as it was before."""
    with database(path / "segments" / "user" / "000000") as file:
        file.execute("DELETE FROM posting WHERE least_term = (SELECT MIN(least_term) FROM posting)")
    with closing(SqliteStore(path)) as store:
        with pytest.raises(Damaged, match="user/000000: is not the one that was closed"):
            purge(store, 512)

        assert [] == said(store, "segment.purge")
    assert "file of segment user/000000" in found(verify(path))


def test_a_segment_that_is_missing_cannot_be_purged(path: Path) -> None:
    """Where the file of a segment is gone, a purge says so, and does not end as if it was done."""
    with closing(SqliteStore(path)) as store:
        only_begin(store, 512)
        (path / "segments" / "user" / "000000").unlink()

        with pytest.raises(Damaged, match="user/000000: is missing; it cannot be purged"):
            resume(Owner(store), NOW)


def test_whoever_reads_while_files_are_removed_is_told_to_repeat_it(path: Path) -> None:
    """A view that is older than a purge may fail, but never as if somebody had tampered."""
    with closing(SqliteStore(path)) as store, closing(SqliteStore(path)) as other:
        only_begin(other, 512)

        def look() -> None:
            with store.read() as view:
                view.node("user", 16, 0)
                segment = next(other.purge_segments())
                with other.write() as transaction:
                    transaction.register(segment)
                discard(path / "segments" / "user" / "000000")
                view.stored("user", [1_000])

        with pytest.raises(StoreError, match="were purged while this was read; repeat it"):
            look()

        with store.read() as view:
            assert 1_000 == view.stored("user", [1_000])[0].index


def test_whoever_verifies_while_files_are_removed_is_told_to_repeat_it(path: Path) -> None:
    """A purge under way makes no verdict of tampering."""
    with closing(SqliteStore(path)) as other:
        only_begin(other, 512)

        def remove(*_: int) -> None:
            if (path / "segments" / "user" / "000000").exists():
                segment = next(other.purge_segments())
                with other.write() as transaction:
                    transaction.register(segment)
                discard(path / "segments" / "user" / "000000")

        with pytest.raises(StoreError, match="were purged while it was verified"):
            verify(path, progress=remove)


# ---- What is refused, and what is found ----


def test_custody_is_never_purged(small: MemoryStore) -> None:
    """What the trail says about itself stays for ever."""
    record(small, "custody", [own_event("T", "trail.heads", logs={}) for _ in range(300)])

    with pytest.raises(CallerError, match="found the custody stream, which is never purged"):
        purge_prefix(Owner(small), "custody", TILE, plan_digest=None, now=NOW)

    assert verify_store(small).passed


def test_a_log_that_is_not_there_cannot_be_purged(small: MemoryStore) -> None:
    """A purge names a log of the trail."""
    with pytest.raises(UnknownStream, match="found 'users', expected one of custody, user"):
        purge_prefix(Owner(small), "users", TILE, plan_digest=None, now=NOW)


@pytest.mark.parametrize("first", [0, 100, 1_024])
def test_a_purge_of_other_than_whole_tiles_is_refused_and_not_recorded(
    small: MemoryStore, first: int
) -> None:
    """Nothing is said to be purged that was not."""
    with pytest.raises(CallerError, match="expected a multiple of 256 from 256 to 600"):
        purge(small, first)

    assert [] == said(small, "log.purge")


def test_what_is_gone_without_an_entry_that_says_so_is_found(small: MemoryStore) -> None:
    """Whoever removes entries and does not declare it has tampered."""
    with small.write() as transaction:
        transaction.purge("user", 512)

    assert "user, purge: entries 0 to 511 are gone without an entry that says so" in found(
        verify_store(small)
    )


def test_what_is_gone_beyond_what_was_declared_is_found(small: MemoryStore) -> None:
    """An entry that declares a purge covers what it names and no more."""
    purge(small, 256)
    with small.write() as transaction:
        transaction.purge("user", 512)

    assert "user, purge: entries 256 to 511 are gone without an entry that says so" in found(
        verify_store(small)
    )


def test_purged_custody_is_found_whatever_it_says(small: MemoryStore) -> None:
    """No entry can declare that the custody stream itself was purged."""
    record(small, "custody", [own_event("T", "trail.heads", logs={}) for _ in range(300)])
    with small.read() as view:
        root = b64encode(view.node("custody", 8, 0)).decode()
    with small.write() as transaction:
        transaction.purge("custody", 256)
    say(small, "log.purge", log="custody", first=256, count=256, roots=[root], policy="shop/7")

    assert "custody, purge: its first 256 entries are gone, but custody is never purged" in found(
        verify_store(small)
    )


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"roots": [b64encode(bytes(32)).decode()]}, "its first 512 entries are not those that"),
        ({"count": 500}, "says that 500 entries went before 512, but 0 had"),
        ({"roots": []}, "edge: found 0 hashes for a tree of 512 leaves"),
        ({"roots": ["A"]}, "root of user"),
        ({"policy": 7}, "log.purge: Expected `str`, got `int`"),
        ({"first": -256}, "log.purge: Expected `int` >= 0"),
        ({"log": "sales"}, "sales, log: is pinned or was signed, but is not here"),
    ],
)
def test_a_declaration_that_does_not_fit_is_found(
    small: MemoryStore, changed: dict[str, Any], finding: str
) -> None:
    """What a custody entry says was purged must be the beginning of the log that was signed."""
    with small.read() as view:
        root = b64encode(view.node("user", 9, 0)).decode()
    with small.write() as transaction:
        transaction.purge("user", 512)
    right = {"log": "user", "first": 512, "count": 512, "roots": [root], "policy": "shop/7"}

    say(small, "log.purge", **{**right, **changed})

    assert finding in found(verify_store(small))


def test_entries_that_come_back_are_found(path: Path) -> None:
    """Whoever undoes a purge, with an older copy of the files perhaps, contradicts custody."""
    before = shutil.copytree(path, path.parent / "before")
    with closing(SqliteStore(path)) as store:
        purge(store, 512)
    shutil.copy(before / "segments" / "user" / "000000", path / "segments" / "user")
    with database(before / "head.db") as head:
        row = head.execute("SELECT * FROM segment").fetchone()
    with database(path / "head.db") as head:
        head.execute("UPDATE log SET first = 0 WHERE name = 'user'")
        head.execute("DELETE FROM segment")
        marks = ", ".join("?" * len(row))
        head.execute(f"INSERT INTO segment VALUES ({marks})", row)  # noqa: S608 - only marks

    findings = found(verify(path))

    assert "user, purge: entries from 0 to 511 were purged, but are here again" in findings
    assert "segment user/000000: custody entry 4 says it was purged, but nothing" in findings


def test_a_segment_that_a_purge_did_not_leave_is_found(path: Path) -> None:
    """After a purge the file that custody named last is the one that must be there."""
    with closing(SqliteStore(path)) as store:
        purge(store, 512)
    with database(path / "head.db") as head:
        head.execute("UPDATE segment SET file_hash = ?", (bytes(32),))

    assert "segment user/000000: is not the one that custody entry 4 says was closed" in found(
        verify(path)
    )


def test_changed_hashes_of_what_was_purged_are_found(path: Path) -> None:
    """Though the entries are gone, their leaf hashes must lead to the root that was signed."""
    with closing(SqliteStore(path)) as store:
        purge(store, SEGMENT)
    with database(path / "segments" / "user" / "000000-256") as file:
        (hashes,) = file.execute("SELECT hashes FROM leaves WHERE number = 7").fetchone()
        file.execute("UPDATE leaves SET hashes = ? WHERE number = 7", (bytes(32) + hashes[32:],))

    findings = found(verify(path))

    assert "purged tile of entries 1792 to 2047: has not the recorded root" in findings
    assert "file of segment user/000000" in findings


@pytest.mark.parametrize(
    "change",
    [
        lambda tile: replace(tile, leaves=tile.leaves[:-32]),
        lambda tile: replace(tile, bodies=(b"body",)),
        lambda tile: replace(tile, root=None),
        lambda tile: replace(tile, root=bytes(32)),
        lambda tile: replace(tile, leaves=bytes(32) + tile.leaves[32:]),
    ],
)
def test_a_purged_tile_is_whole_hashes_or_it_is_damaged(
    small: MemoryStore, change: Callable[[Tile], Tile]
) -> None:
    """A store cannot make something of a purged tile that its hashes do not say."""
    purge(small, 256)
    with small.read() as view:
        (tile,) = view.tiles("user", 0, 256)
    leaves, root, size = verify_tile(tile)

    with pytest.raises(Damaged, match="purged tile of entr"):
        verify_tile(change(tile))

    assert (256, tile.root, 0) == (len(leaves), root, size)


def test_a_store_cannot_call_purged_what_is_not(path: Path) -> None:
    """Files that have lost more than what was purged are damaged, not purged."""
    with closing(SqliteStore(path)) as store:
        purge(store, 512)
    with database(path / "segments" / "user" / "000000-002") as file:
        file.execute("DELETE FROM block WHERE number < 12")

    assert "segment user/000000: tile 2 is not whole" in found(verify(path))


class Lying:
    """A view that calls every tile purged, and has nothing of it but its hashes."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)

    def tiles(self, log: str, first: int, last: int) -> Iterator[Tile]:
        """Yield purged tiles."""
        for tile in self._view.tiles(log, first, last):
            yield replace(tile, bodies=(), columns=None, purged=True)


def test_a_tile_is_purged_only_before_the_first_entry_that_is_left(small: MemoryStore) -> None:
    """Where a log begins is said once, and held against custody; no tile says it for itself."""
    purge(small, 256)

    with small.read() as view:
        lying = cast("View", Lying(view))
        with pytest.raises(Damaged, match="tile of entry 256: purged are those before 256"):
            verify_segment(lying, "user", 0)


def test_a_deep_look_finds_what_a_purge_has_left_behind(path: Path) -> None:
    """Blocks, ids or times of purged tiles do not belong in a file, whatever its hash."""
    with closing(SqliteStore(path)) as store:
        purge(store, 512)
        with store.read() as view:
            (segment,) = view.segments("user")
        file = store.segment_path(segment)
        for statement in (
            "UPDATE tile SET ids = x'00' WHERE number = 1",
            "UPDATE tile SET recorded_least = 0 WHERE number = 0",
            "INSERT INTO block VALUES (0, x'00')",
        ):
            kept = file.read_bytes()
            with database(file) as connection:
                connection.execute(statement)
            changed = replace(
                segment,
                file_hash=sha256(file.read_bytes()).digest(),
                file_size=file.stat().st_size,
            )

            with pytest.raises(Damaged, match=r"do not follow|found 1017 blocks, expected 1016"):
                check_file(path, changed, deep=True)

            file.write_bytes(kept)
        check_file(path, segment, deep=True)


# ---- As a directory ----


def export(store: Store, target: Path) -> None:
    """Export the log as it is now."""
    with store.read() as view:
        export_log(view, "user", target)


def bundles(target: Path) -> list[str]:
    """Return the names of the bundles that are there."""
    folder = target / "tile" / "entries"
    return sorted(
        each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()
    )


def test_an_export_has_all_hashes_and_the_bundles_that_are_left(
    small: MemoryStore, tmp_path: Path
) -> None:
    """Whoever gets a purged log as files can prove each entry that is left, and knows the rest."""
    purge(small, 512)

    export(small, tmp_path / "export")

    verdict = verify_directory(tmp_path / "export", KEYS["user"].verifier)
    assert (Level.SIGNED, ()) == (verdict.level, verdict.findings)
    assert 88 == verdict.entries
    assert ["002.p/88"] == bundles(tmp_path / "export")
    assert all((tmp_path / "export" / tile_path(0, n)).exists() for n in range(2))
    assert b"512\n" == (tmp_path / "export" / MINIMUM_INDEX).read_bytes()
    assert (
        "x.example/user: what its first 512 entries said; they are gone, and nothing here"
        " shows that this is rightly so" in verdict.does_not_show
    )


def test_an_earlier_export_loses_what_was_purged_since(small: MemoryStore, tmp_path: Path) -> None:
    """Brought up to date, an export holds no bundle before the first entry that is left."""
    target = tmp_path / "export"
    export(small, target)
    purge(small, 256)
    export(small, target)
    assert ["001", "002.p/88"] == bundles(target)
    record(small, "user", [sealed(number) for number in range(600, 1_000)])
    purge(small, 768)

    export(small, target)

    assert ["003.p/232"] == bundles(target)
    verdict = verify_directory(target, KEYS["user"].verifier)
    assert (Level.SIGNED, 232) == (verdict.level, verdict.entries)


def test_an_export_of_which_all_was_purged_is_its_hashes(tmp_path: Path) -> None:
    """Of a log that is purged to its end the tree is left, and it still is the one signed."""
    store = MemoryStore()
    begin(store)
    record(store, "user", [sealed(number) for number in range(512)])
    purge(store, 512)

    export(store, tmp_path / "export")

    verdict = verify_directory(tmp_path / "export", KEYS["user"].verifier)
    assert (Level.SIGNED, (), 0) == (verdict.level, verdict.findings, verdict.entries)
    assert verify_store(store).passed
    record(store, "user", [sealed(512)])
    assert verify_store(store).passed


def test_bundles_that_a_crash_has_left_are_still_verified(
    small: MemoryStore, tmp_path: Path
) -> None:
    """What is there before the minimum index must be what was signed, as everything else."""
    target = tmp_path / "export"
    export(small, target)
    (target / MINIMUM_INDEX).write_bytes(b"512\n")
    (target / entries_path(0)).unlink()
    verdict = verify_directory(target, KEYS["user"].verifier)
    assert (Level.SIGNED, 344) == (verdict.level, verdict.entries)
    data = (target / entries_path(1)).read_bytes()

    (target / entries_path(1)).write_bytes(data.replace(b"alice", b"carol"))

    assert "entry 256: has another hash" in found(verify_directory(target))


@pytest.mark.parametrize(
    "text", [b"512", b"0512\n", b"+512\n", b"500\n", b"768\n", b"512\n\n", b""]
)
def test_a_minimum_index_is_exact(small: MemoryStore, tmp_path: Path, text: bytes) -> None:
    """The file holds one number of whole tiles within the log, and nothing else."""
    purge(small, 512)
    export(small, tmp_path / "export")

    (tmp_path / "export" / MINIMUM_INDEX).write_bytes(text)

    assert "expected a multiple of 256 up to 600" in found(verify_directory(tmp_path / "export"))


def test_a_bundle_after_the_minimum_index_may_not_be_missing(
    small: MemoryStore, tmp_path: Path
) -> None:
    """A purge explains what is gone before it, and nothing after."""
    purge(small, 256)
    export(small, tmp_path / "export")
    (tmp_path / "export" / entries_path(1)).unlink()

    assert "tile/entries/001: is missing" in found(verify_directory(tmp_path / "export"))


# ---- Backup and restore ----


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's configuration, with the pins of this test alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def ship(count: int) -> list[Event]:
    """Return that many events."""
    return [
        Event(
            action="order.ship",
            outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse(f"order:{number}"),
        )
        for number in range(count)
    ]


@pytest.mark.usefixtures("config")
def test_a_copy_of_a_purged_trail_is_purged(tmp_path: Path) -> None:
    """Backup and restore keep what was purged, and nothing of it comes back."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many(ship(600))
        purge_prefix(trail, "user", 512, plan_digest=None, now=datetime.now(UTC))
        trail.backup(tmp_path / "copy")
    shutil.rmtree(tmp_path / "trail")

    restore(tmp_path / "copy", tmp_path / "trail")

    with indelible.open(tmp_path / "trail") as trail:
        trail.verify().require()
        assert 88 == len(trail.search("action:order.ship", limit=1_000).items)
        with trail.store.read() as view:
            assert 512 == view.heads()["user"].first


@pytest.mark.usefixtures("config")
def test_a_restore_knows_what_is_lost_though_a_successor_was_purged(tmp_path: Path) -> None:
    """What a successor's first entries say is in custody, which is never purged."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many(ship(10))
        trail.backup(tmp_path / "copy")
        trail.record_many(ship(10))
    restore(tmp_path / "copy", tmp_path / "trail")
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many(ship(300))
        purge_prefix(trail, "user~2", 256, plan_digest=None, now=datetime.now(UTC))
        trail.verify().require()
        trail.backup(tmp_path / "newer")
        trail.record_many(ship(3))

    lost = restore(tmp_path / "newer", tmp_path / "trail")

    assert lost["user~2"][1] - lost["user~2"][0] == 3
    assert "user" not in lost
    with indelible.open(tmp_path / "trail") as trail:
        trail.verify().require()


@pytest.mark.usefixtures("config")
def test_a_purged_trail_is_read_as_before(tmp_path: Path) -> None:
    """A trail says of a purged entry that it was purged, and answers from all the others."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many(ship(600))
        purge_prefix(trail, "user", 512, plan_digest=None, now=datetime.now(UTC))

        with pytest.raises(Purged, match="entry user#3: was purged"):
            trail.at("user", 3)
        assert 512 == trail.at("user", 512).index
        assert ["order:550"] == [str(item.event.resource) for item in trail.history("order:550")]
        assert [] == trail.history("order:3")
        assert 600 == trail.stats()["logs"]["user"]["entries"]
