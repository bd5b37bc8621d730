"""What was done to a trail behind its back is found and named, or changes nothing it says."""

from __future__ import annotations

import random
import shutil
import sqlite3
from base64 import b64encode
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from indelible.checkpoint import Rotation
from indelible.entry import NO_PREVIOUS
from indelible.errors import (
    BrokenChain,
    Damaged,
    IndelibleError,
    Malformed,
    Rollback,
    VerificationError,
)
from indelible.event import Actor, Event, Outcome, Resource, Trace, uuid7
from indelible.keys import SigningKey
from indelible.log import append, place, sign
from indelible.mark import Known, Mark
from indelible.merkle import Edge, root_of, subtree_root
from indelible.note import Note
from indelible.seal import Sealed, seal
from indelible.segment import SEGMENT, TILE, Filter, pack_block, unpack_block
from indelible.sinks.directory import export_log
from indelible.store import Head, Tile, Wanted
from indelible.stores.memory import MemoryStore
from indelible.stores.sqlite import SqliteStore
from indelible.stores.sqlite_check import check_file
from indelible.stores.sqlite_layout import hash_file
from indelible.terms import Field, term
from indelible.verdict import Level
from indelible.verify import (
    Seen,
    Tree,
    first_of,
    verify_known,
    verify_log,
    verify_segment,
    verify_tile,
    verify_times,
    verify_trail,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from indelible.note import VerifierKey
    from indelible.store import Store
    from indelible.verdict import Verdict

START = 1_764_000_000_000_000
KEYS = {
    log: SigningKey.from_seed(f"x.example/{log}", bytes([number]) * 32)
    for number, log in enumerate(("custody", "user", "admin"))
}
PINNED = {log: key.verifier for log, key in KEYS.items()}
ATTACKER = SigningKey.from_seed("x.example/user", b"\xff" * 32)
NEXT = SigningKey.from_seed("x.example/user", b"\xfe" * 32)
OPEN = 700
MALLORY = term(Field.ACTOR, "user:mallory")


def sealed(number: int) -> Sealed:
    """Return the event with this number: the same one each time."""
    at = START + number * 1_000
    return seal(
        Event(
            id=uuid7(at * 1_000, sha256(b"%d" % number).digest()[:10]),
            occurred_at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at),
            action=("invoice.approve", "invoice.read", "login")[number % 3],
            outcome=Outcome.SUCCESS,
            actor=Actor(type="user", id="alice" if number % 50 else "mallory"),
            resource=Resource(type="invoice", id=f"INV-{number % 1_000}"),
            trace=Trace(trace_id=f"{number:032x}") if number % 2 else None,
        )
    )


def said(action: str, **data: Any) -> Sealed:
    """Return an event of the custody stream."""
    return seal(
        Event(
            action=action,
            outcome=Outcome.SUCCESS,
            actor=Actor(type="system", id="indelible"),
            resource=Resource(type="trail", id="T"),
            data=data,
        )
    )


def begin(path: Path, *logs: str) -> SqliteStore:
    """Make a store with empty logs."""
    path.mkdir()
    store = SqliteStore(path, create=True)
    with store.write() as tx:
        for log in logs:
            tx.create(Head(log=log, origin=KEYS[log].name))
    return store


def record(
    store: Store,
    log: str,
    events: Sequence[Sealed],
    *,
    now: int = START,
    key: SigningKey | None = None,
) -> None:
    """Append *events* in commits of up to 4,096."""
    for start in range(0, len(events), 4_096):
        with store.write() as tx:
            part = events[start : start + 4_096]
            append(tx, tx.heads()[log], part, key or KEYS[log], now + start)


def heads_of(store: SqliteStore) -> dict[str, Head]:
    """Return the heads of all logs."""
    with store.read() as view:
        return dict(view.heads())


def name_heads(store: SqliteStore, action: str = "trail.heads", *, now: int = START) -> None:
    """Let the custody stream name the other logs' trees."""
    trees = {
        log: {"size": head.size, "root": b64encode(head.edge.root).decode()}
        for log, head in heads_of(store).items()
        if log != "custody"
    }
    record(store, "custody", [said(action, logs=trees)], now=now)


def close_segments(store: SqliteStore) -> None:
    """Close what is complete, and name it in the custody stream."""
    for segment in store.close_segments():
        event = said(
            "segment.close",
            log=segment.log,
            number=segment.number,
            root=b64encode(segment.root).decode(),
            file_hash=segment.file_hash.hex(),
            index_hash=segment.index_hash.hex(),
        )
        with store.write() as tx:
            tx.register(segment)
            append(tx, tx.heads()["custody"], [event], KEYS["custody"], START)


@pytest.fixture(scope="module")
def large_trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two logs with a closed segment each, one with an open part too, and custody."""
    path = tmp_path_factory.mktemp("kept") / "large"
    events = [sealed(number) for number in range(SEGMENT + OPEN)]
    with closing(begin(path, "custody", "user", "admin")) as store:
        name_heads(store, "trail.start")
        record(store, "user", events)
        record(store, "admin", events[:SEGMENT], now=START + 1)
        close_segments(store)
        name_heads(store)
    return path


@pytest.fixture(scope="module")
def small_trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two complete tiles and a partial one in three commits, and custody."""
    path = tmp_path_factory.mktemp("kept") / "small"
    with closing(begin(path, "custody", "user")) as store:
        name_heads(store, "trail.start")
        record(store, "user", [sealed(number) for number in range(300)])
        name_heads(store)
        record(store, "user", [sealed(number) for number in range(300, OPEN)], now=START + 5)
        record(store, "user", [sealed(OPEN)], now=START + 9)
        name_heads(store, "trail.stop")
    return path


@pytest.fixture
def large(large_trail: Path, tmp_path: Path) -> Path:
    """Return a copy to attack."""
    return shutil.copytree(large_trail, tmp_path / "large")


@pytest.fixture
def small(small_trail: Path, tmp_path: Path) -> Path:
    """Return a copy to attack."""
    return shutil.copytree(small_trail, tmp_path / "small")


LARGE, SMALL = ("custody", "user", "admin"), ("custody", "user")


def verify(
    path: Path,
    *,
    keys: Mapping[str, VerifierKey] | None = None,
    known: Iterable[Seen] = (),
    deep: bool = False,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Verify with the pinned keys of the logs that this trail had before it was attacked."""
    logs = LARGE if path.name == "large" else SMALL
    return verify_trail(
        partial(SqliteStore, path),
        {log: PINNED[log] for log in logs} if keys is None else keys,
        known,
        check_file=partial(check_file, path),
        deep=deep,
        jobs=jobs,
        progress=progress,
    )


def found(verdict: Verdict) -> str:
    """Return the findings as text; such a verdict does not pass."""
    assert Level.TAMPERED == verdict.level
    assert not verdict.passed
    with pytest.raises(VerificationError, match="verdict: tampered"):
        verdict.require()
    return "\n".join(map(str, verdict.findings))


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of the store past everything that guards it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def rows_of(path: Path, log: str) -> tuple[int, int]:
    """Return the first and last key that rows of *log* can have in the head."""
    with database(path / "head.db") as head:
        (number,) = head.execute("SELECT number FROM log WHERE name = ?", (log,)).fetchone()
    return number << 40, (number + 1 << 40) - 1


def wipe(path: Path, log: str) -> None:
    """Leave nothing of *log* but its name."""
    rows = rows_of(path, log)
    with database(path / "head.db") as head:
        for table in ("tail", "tile", "block", "segment", "rotation"):
            head.execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", rows)  # noqa: S608
        head.execute(
            "UPDATE log SET size = 0, edge = x'', last_leaf = ?, recorded_at = 0, checkpoint = x''"
            " WHERE name = ?",
            (NO_PREVIOUS, log),
        )


def change_block(file: Path, key: int, old: bytes, new: bytes) -> None:
    """Replace bytes in the block *key* and compress it again."""
    column = "key" if file.name == "head.db" else "number"
    with database(file) as connection:
        (data,) = connection.execute(
            f"SELECT data FROM block WHERE {column} = ?",  # noqa: S608
            (key,),
        ).fetchone()
        bodies = [each.replace(old, new) for each in unpack_block(data)]
        assert bodies != unpack_block(data)
        connection.execute(
            f"UPDATE block SET data = ? WHERE {column} = ?",  # noqa: S608
            (pack_block(bodies), key),
        )


def adapt_manifest(path: Path, log: str, file: Path) -> None:
    """Let the manifest say that the file as it is now is the one that was closed."""
    file_hash, size = hash_file(file)
    with database(path / "head.db") as head:
        head.execute(
            "UPDATE segment SET file_hash = ?, file_size = ? WHERE key BETWEEN ? AND ?",
            (file_hash, size, *rows_of(path, log)),
        )


# ---- What passes, and what it says ----


def test_an_untouched_trail_passes_and_says_how_far(large_trail: Path) -> None:
    """A trail whose pinned keys signed all that it holds is signed, up to its last entry."""
    verdict = verify(large_trail, deep=True)

    assert () == verdict.findings
    assert verdict.passed
    assert Level.SIGNED == verdict.level
    assert {"custody": 4, "user": SEGMENT + OPEN, "admin": SEGMENT} == {
        log.log: log.size for log in verdict.logs
    }
    assert 4 + 2 * SEGMENT + OPEN == verdict.entries
    assert "user: 66236 entries up to 2025-11-24T16:00:00.065536Z, root " in verdict.reaches[1]
    assert all(
        "whoever holds the key could have rewritten" in each for each in verdict.does_not_show
    )
    verdict.require()


def test_a_verdict_says_that_indexes_were_not_compared(large_trail: Path) -> None:
    """Unless asked to be deep, verification does not speak for the indexes of closed segments."""
    shallow = verify(large_trail)

    assert shallow.passed
    assert "closed segments: that their indexes were built rightly" in shallow.does_not_show[-1]


def test_several_processes_come_to_the_same_verdict(large_trail: Path) -> None:
    """It does not matter how many processes verify, and progress reaches the end."""
    seen: list[tuple[int, int]] = []

    verdict = verify(large_trail, jobs=2, progress=lambda done, total: seen.append((done, total)))

    assert verify(large_trail) == verdict
    assert (verdict.entries, verdict.entries) == seen[-1]
    assert sorted(seen) == seen


def test_damage_found_by_another_process_is_named(large: Path) -> None:
    """What a process of its own finds in a segment is in the verdict."""
    (large / "segments/admin/000000").unlink()

    findings = found(verify(large, jobs=2))

    assert "admin, file of segment admin/000000: cannot be read: No such file" in findings
    assert "admin, segment admin/000000: segment file admin/000000 is missing" in findings


def test_bytes_are_those_of_the_entries(small: Path, tmp_path: Path) -> None:
    """The verdict counts exactly the bytes whose hashes are in the tree."""
    with closing(SqliteStore(small)) as store, store.read() as view:
        for log in ("user", "custody"):
            export_log(view, log, tmp_path / log)
    # Each entry has its length in two bytes before it.
    sizes = [file.stat().st_size for file in tmp_path.rglob("tile/entries/**/*") if file.is_file()]

    verdict = verify(small)

    assert sum(sizes) - 2 * verdict.entries == verdict.bytes


def test_without_a_key_nothing_passes(small: Path) -> None:
    """A trail that holds together is not evidence as long as nobody says who may sign."""
    verdict = verify(small, keys={"custody": PINNED["custody"]})

    assert () == verdict.findings
    assert Level.UNAUTHENTICATED == verdict.level
    assert not verdict.passed
    assert "user: who signed it; no key was pinned or given" in verdict.does_not_show
    with pytest.raises(VerificationError, match="unauthenticated"):
        verdict.require()


def test_nothing_at_all_does_not_pass(tmp_path: Path) -> None:
    """A store without any log proves nothing."""
    begin(tmp_path / "none").close()

    assert Level.UNAUTHENTICATED == verify(tmp_path / "none", keys={}).level


def test_an_empty_log_passes_and_says_that_nothing_was_signed(tmp_path: Path) -> None:
    """A new trail passes, but no signature says that a log was always empty."""
    begin(tmp_path / "new", "custody", "user").close()

    verdict = verify(tmp_path / "new")

    assert verdict.passed
    assert "custody, user: that it was always empty" in verdict.does_not_show[0]


def test_an_anchored_tree_lifts_the_level_up_to_its_size(small: Path) -> None:
    """Whoever holds the keys could not have rewritten what an anchor covers."""
    with closing(SqliteStore(small)) as store:
        heads = heads_of(store)
    anchors = [
        Seen(log=log, where="WORM", tree=Known(head.size, head.edge.root), anchor=True)
        for log, head in heads.items()
    ]

    assert Level.ANCHORED == verify(small, known=anchors).level
    assert () == verify(small, known=anchors).does_not_show
    assert Level.SIGNED == verify(small, known=anchors[:1]).level


def test_any_store_can_be_verified() -> None:
    """Verification knows the contract of a store, not what is behind it."""
    store = MemoryStore()
    with store.write() as tx:
        tx.create(Head(log="user", origin=KEYS["user"].name))
    record(store, "user", [sealed(number) for number in range(OPEN)])

    verdict = verify_trail(lambda: store, {"user": PINNED["user"]})

    assert verdict.passed
    assert OPEN == verdict.entries


def test_one_log_can_be_verified_alone(small: Path) -> None:
    """A log needs neither the others nor the custody stream to be verified."""
    with closing(SqliteStore(small)) as store, store.read() as view:
        head = view.heads()["user"]
        verdict, findings = verify_log(view, head, PINNED["user"])

    assert [] == findings
    assert (Level.SIGNED, head.edge.root, PINNED["user"]) == (
        verdict.level,
        verdict.root,
        verdict.key,
    )


# ---- A tile ----


def tile(first: int = 0, count: int = TILE) -> Tile:
    """Return a tile as a store hands it out."""
    head = Head(log="user", origin="o")
    before = place(head, [sealed(number) for number in range(first)], START).head if first else head
    batch = place(before, [sealed(number) for number in range(first, first + count)], START)
    return Tile(
        first=first,
        previous=before.last_leaf,
        bodies=batch.bodies,
        leaves=b"".join(batch.leaves),
        root=subtree_root(batch.leaves) if count == TILE else None,
        columns=None,
    )


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, TILE), (TILE, TILE), (1024, 7)])
def test_a_tile_gives_the_hashes_that_the_log_gave(first: int, count: int) -> None:
    """What the writer's fast path hashed, the verifier's fast path hashes to the same."""
    whole = tile(first, count)

    leaves, root, size = verify_tile(whole)

    assert whole.leaves == b"".join(leaves)
    assert whole.root == root
    assert sum(map(len, whole.bodies)) < size


def test_each_byte_of_a_body_counts() -> None:
    """One changed byte in one body is found, and the entry is named."""
    whole = tile(TILE)
    bodies = list(whole.bodies)
    bodies[45] = bodies[45].replace(b"alice", b"alicf")

    with pytest.raises(Damaged, match=r"^entry 301: its bytes do not have the recorded leaf hash"):
        verify_tile(replace(whole, bodies=bodies))


def test_the_order_of_entries_counts() -> None:
    """Two entries that changed places are found, and the first is named."""
    whole = tile()
    bodies = list(whole.bodies)
    bodies[7], bodies[8] = bodies[8], bodies[7]

    with pytest.raises(Damaged, match=r"^entry 7:"):
        verify_tile(replace(whole, bodies=bodies))


def test_the_place_of_a_tile_counts() -> None:
    """Entries that were moved to other indexes, or behind another entry, are found."""
    with pytest.raises(Damaged, match=r"^entry 256:"):
        verify_tile(replace(tile(), first=TILE))
    with pytest.raises(Damaged, match=r"^entry 0:"):
        verify_tile(replace(tile(), previous=sha256().digest()[::-1]))


def test_each_leaf_hash_and_the_root_count() -> None:
    """A leaf hash or root that does not follow from the entries is found."""
    whole = tile()
    leaves = bytearray(whole.leaves)
    leaves[9 * 32] ^= 1

    with pytest.raises(Damaged, match=r"^entry 9:"):
        verify_tile(replace(whole, leaves=bytes(leaves)))
    with pytest.raises(Damaged, match=r"entries 0 to 255: has not the recorded root"):
        verify_tile(replace(whole, root=bytes(32)))


def test_a_tile_has_as_many_bodies_as_leaf_hashes() -> None:
    """No entry without its hash, and no hash without its entry."""
    whole = tile()

    for bodies in (whole.bodies[:-1], [*whole.bodies, b"{}"], []):
        with pytest.raises(Damaged, match="bodies"):
            verify_tile(replace(whole, bodies=bodies))


def test_time_does_not_run_backwards() -> None:
    """An entry is never recorded before the one in front of it, and says when it was."""
    early, late = (
        b'"recorded_at":"2025-11-24T16:00:0%d.000000Z","event":{}}' % second for second in (1, 2)
    )

    assert (b"2025-11-24T16:00:01.000000Z", b"2025-11-24T16:00:02.000000Z") == verify_times(
        [early, early, late]
    )
    with pytest.raises(Damaged, match=r"found 2025-11-24T16:00:01.* after 2025-11-24T16:00:02"):
        verify_times([early, late, early])
    for wrong in (early.replace(b"T", b" "), early.replace(b":{", b":["), b""):
        with pytest.raises(Malformed, match="expected each body to begin"):
            verify_times([early, wrong])


# ---- What the tree and the signature hold ----


def test_a_changed_entry_in_a_closed_segment_leaves_the_others_proven(large: Path) -> None:
    """The verdict names the damaged entry; everything else is still under the signed root."""
    file = large / "segments/user/000000"
    change_block(file, 500, b"alice", b"alicf")
    adapt_manifest(large, "user", file)

    verdict = verify(large)

    findings = found(verdict).split("\n")
    assert "user, segment user/000000: entry 32001: its bytes do not have" in findings[0]
    assert "segment user/000000: is not the one that custody entry 1 says" in findings[1]
    assert [Level.SIGNED, Level.TAMPERED, Level.SIGNED] == [log.level for log in verdict.logs]
    assert verdict.logs[1].root is not None
    assert 4 + SEGMENT + OPEN == verdict.entries


def test_a_missing_segment_is_named(large: Path) -> None:
    """A segment whose file is gone is named, and the log's root still follows from the others."""
    (large / "segments/user/000000").unlink()

    verdict = verify(large)

    assert "segment file user/000000 is missing" in found(verdict)
    assert verdict.logs[1].root is not None


def test_another_log_s_segment_does_not_pass_for_this_one(large: Path) -> None:
    """A whole segment that was exchanged is found, even if it fits in itself."""
    shutil.copy(large / "segments/admin/000000", large / "segments/user/000000")
    with database(large / "head.db") as head:
        head.execute("UPDATE segment SET root = (SELECT root FROM segment ORDER BY key LIMIT 1)")

    findings = found(verify(large))

    assert "file of segment user/000000" in findings


def test_a_changed_entry_of_the_open_part_is_named(small: Path) -> None:
    """An open entry is held against its hash like any other."""
    change_block(small / "head.db", rows_of(small, "user")[0] + 1, b"alice", b"alicf")

    assert "user, segment user/000000: entry 64: its bytes" in found(verify(small))


@pytest.mark.parametrize("swap", [(0, 1), (100, 101)])
def test_swapped_entries_of_the_last_commits_are_found(small: Path, swap: tuple[int, int]) -> None:
    """Entries that are in no complete tile yet have their order, too."""
    with database(small / "head.db") as head:
        key, data = head.execute(
            "SELECT key, bodies FROM tail WHERE key >= ? ORDER BY key", rows_of(small, "user")[:1]
        ).fetchone()
        bodies = data.split(b"\n")
        first, second = swap
        bodies[first], bodies[second] = bodies[second], bodies[first]
        head.execute("UPDATE tail SET bodies = ? WHERE key = ?", (b"\n".join(bodies), key))

    assert f"entry {512 + swap[0]}: its bytes" in found(verify(small))


def test_an_entry_cannot_be_left_out_without_the_key(small: Path) -> None:
    """Who hashes everything again after removing an entry still has no signature for it."""
    with closing(SqliteStore(small)) as store:
        checkpoint = heads_of(store)["user"].checkpoint
    wipe(small, "user")
    with closing(SqliteStore(small)) as store:
        events = [sealed(number) for number in range(OPEN + 1) if number != 50]
        record(store, "user", events, key=ATTACKER)

    replaced = found(verify(small))
    with database(small / "head.db") as head:
        head.execute("UPDATE log SET checkpoint = ? WHERE name = 'user'", (checkpoint,))
    kept = found(verify(small))

    assert "user, checkpoint: note: found no signature by a known key" in replaced
    assert "user, checkpoint: found one over 701 entries, but there are 700" in kept


def test_an_entry_cannot_be_exchanged_without_the_key(small: Path) -> None:
    """A tree of the same size over another entry does not have the root that was signed."""
    with closing(SqliteStore(small)) as store:
        checkpoint = heads_of(store)["user"].checkpoint
    wipe(small, "user")
    with closing(SqliteStore(small)) as store:
        record(store, "user", [sealed(number + 1) for number in range(OPEN + 1)], key=ATTACKER)
    with database(small / "head.db") as head:
        head.execute("UPDATE log SET checkpoint = ? WHERE name = 'user'", (checkpoint,))

    assert "user, checkpoint: signed is root" in found(verify(small))


def test_a_cut_tail_is_found_by_what_was_seen_before(small: Path) -> None:
    """A log that was cut back to an older, truly signed state contradicts custody and marks."""
    with closing(SqliteStore(small)) as store:
        head = heads_of(store)["user"]
    wipe(small, "user")
    with closing(SqliteStore(small)) as store:
        record(store, "user", [sealed(number) for number in range(300)])
    mark = Seen(log="user", where="mark", tree=Known(head.size, head.edge.root))

    findings = found(verify(small, known=[mark]))

    assert "user, mark: holds 300 entries, but 701 were signed" in findings
    assert "user, tree named by custody entry 2: holds 300 entries, but 701" in findings
    assert "custody entry 1" not in findings


def test_an_emptied_log_is_found_by_the_custody_stream(small: Path) -> None:
    """A log with nothing in it and no checkpoint does not pass for a new one."""
    wipe(small, "user")

    findings = found(verify(small))

    assert "user, tree named by custody entry 1: holds 0 entries, but 300 were signed" in findings


def test_a_log_that_is_gone_is_named(small: Path) -> None:
    """A log that has a pin, or that custody names, cannot just be absent."""
    wipe(small, "user")
    with database(small / "head.db") as head:
        head.execute("DELETE FROM log WHERE name = 'user'")

    assert "user, log: is pinned or was signed, but is not here" in found(verify(small))
    assert "user, log:" in found(verify(small, keys={"custody": PINNED["custody"]}))


def test_another_key_is_not_the_pinned_one(small: Path) -> None:
    """A trail that was signed again with another key of the same name does not pass."""
    with closing(SqliteStore(small)) as store, store.write() as tx:
        head = tx.heads()["user"]
        tx.rotate("user", b"", sign(head, ATTACKER))
    with database(small / "head.db") as connection:
        connection.execute("DELETE FROM rotation")

    assert "user, checkpoint: note: found no signature by a known key" in found(verify(small))


def test_a_key_of_another_log_does_not_vouch_for_this_one(small: Path) -> None:
    """A key is pinned for one origin."""
    keys = {"custody": PINNED["custody"], "user": PINNED["admin"]}

    assert "found origin x.example/user, expected x.example/admin" in found(
        verify(small, keys=keys)
    )


def test_a_fork_is_found_by_a_tree_of_the_other_branch(small: Path, tmp_path: Path) -> None:
    """Two histories that are both signed cannot both begin with what was seen of one."""
    other = shutil.copytree(small, tmp_path / "other" / "small")
    for path, number in ((small, 1), (other, 2)):
        with closing(SqliteStore(path)) as store:
            record(store, "user", [sealed(OPEN + number)], now=START + 20)
            head = heads_of(store)["user"]
    seen = Seen(log="user", where="pin", tree=Known(head.size, head.edge.root))

    assert verify(other, known=[seen]).passed
    assert "user, pin: its first 702 entries are not those" in found(verify(small, known=[seen]))


def test_an_older_copy_is_found_by_the_mark(small: Path, tmp_path: Path) -> None:
    """A backup put in place of the trail holds less than the mark beside it says."""
    older = shutil.copytree(small, tmp_path / "older" / "small")
    with closing(SqliteStore(small)) as store:
        record(store, "user", [sealed(OPEN + 1)], now=START + 20)
    marked = Mark(small / "mark").read()
    known = [Seen(log=log, where="mark", tree=tree) for log, tree in marked.items()]

    assert verify(small, known=known).passed
    assert "user, mark: holds 701 entries, but 702 were" in found(verify(older, known=known))


def test_who_holds_all_keys_can_rewrite_only_what_nobody_saw(small: Path) -> None:
    """Against whoever holds all keys, a tree that was kept elsewhere shows what was rewritten."""
    with closing(SqliteStore(small)) as store:
        head = heads_of(store)["user"]
    for log in ("user", "custody"):
        wipe(small, log)
    with closing(SqliteStore(small)) as store:
        record(store, "user", [sealed(number + 1) for number in range(OPEN + 1)])
        name_heads(store, "trail.start")
    seen = Seen(log="user", where="auditor", tree=Known(300, root_of(leaves(300))))

    unseen = verify(small)

    assert unseen.passed
    assert "custody, user: that its entries are the first ones" in unseen.does_not_show[0]
    assert "user, auditor: its first 300 entries are not those" in found(
        verify(small, known=[seen, replace(seen, tree=Known(head.size, head.edge.root))])
    )


def leaves(count: int) -> list[bytes]:
    """Return the leaf hashes of the first entries of the small trail."""
    head = Head(log="user", origin="o")
    return list(place(head, [sealed(number) for number in range(count)], START).leaves)


@pytest.mark.parametrize(
    ("column", "value", "finding"),
    [
        ("last_leaf", bytes(32), "head: its last leaf hash is not that of the last entry"),
        ("recorded_at", START, "head: its time is not that of the last entry"),
        ("edge", bytes(32 * 7), "head: its edge is not that of the entries' tree"),
        ("origin", "y.example/user", "checkpoint: found origin y.example/user"),
        ("checkpoint", b"", "checkpoint: note: found no signature lines"),
    ],
)
def test_the_place_of_the_next_entry_is_verified(
    small: Path, column: str, value: object, finding: str
) -> None:
    """What the log would be continued by follows from its entries."""
    with database(small / "head.db") as head:
        head.execute(f"UPDATE log SET {column} = ? WHERE name = 'user'", (value,))  # noqa: S608

    assert f"user, {finding}" in found(verify(small))


def test_the_order_of_time_is_verified_over_tiles(tmp_path: Path) -> None:
    """A log whose own writer set its clock back is found."""
    with closing(begin(tmp_path / "small", "user")) as store:
        record(store, "user", [sealed(number) for number in range(TILE)], now=START)
        with store.write() as tx:
            head = replace(tx.heads()["user"], recorded_at=0)
            append(tx, head, [sealed(TILE)], KEYS["user"], START - 1)

    findings = found(verify(tmp_path / "small", keys={"user": PINNED["user"]}))

    assert "entry 256: recorded before the entry in front of it" in findings


def test_a_tile_that_names_another_predecessor_is_found(small: Path) -> None:
    """Links hold between tiles as within them."""
    with closing(SqliteStore(small)) as store, store.read() as view:
        first, second, *_ = view.tiles("user", 0, OPEN)

        class Broken:
            """A view whose second tile begins a chain of its own."""

            def __getattr__(self, name: str) -> object:
                return getattr(view, name)

            def tiles(self, *_: object) -> Iterator[Tile]:
                """Return the first tile, and one that names nothing before it."""
                batch = place(
                    Head(log="user", origin="o", edge=Edge(size=TILE, hashes=(bytes(32),))),
                    [sealed(TILE)],
                    START,
                )
                joined = b"".join(batch.leaves)
                yield replace(first, columns=None)
                yield replace(
                    second,
                    previous=NO_PREVIOUS,
                    bodies=batch.bodies,
                    leaves=joined,
                    root=None,
                    columns=None,
                )

        with pytest.raises(BrokenChain, match="entry 256: does not name the entry before it"):
            verify_segment(Broken(), "user", 0)  # type: ignore[arg-type]


def test_links_and_times_hold_between_segments(large_trail: Path) -> None:
    """Segments that were verified apart must follow each other."""
    with closing(SqliteStore(large_trail)) as store, store.read() as view:
        head = view.heads()["user"]
        first, second = (verify_segment(view, "user", number) for number in (0, 1))
        second = replace(second, previous=bytes(32), recorded=(b"2024", b"2024"))
        parts = [replace(first, previous=bytes(32)), second]

        _, findings = verify_log(view, head, PINNED["user"], parts=parts)

    assert [
        "user, entry 0: names an entry before it",
        "user, entry 65536: does not name the entry before it",
        "user, entry 65536: recorded before the entry in front of it",
        "user, head: its time is not that of the last entry",
    ] == list(map(str, findings))


def test_a_tree_inside_a_missing_segment_cannot_be_confirmed(large: Path) -> None:
    """What hangs on entries that are gone is said to be unknown, not assumed."""
    (large / "segments/admin/000000").unlink()
    known = Seen(log="admin", where="pin", tree=Known(1_000, bytes(32)))

    assert "admin, pin: the tree below level" in found(verify(large, known=[known]))


@pytest.mark.parametrize("table", ["tile", "block", "tail"])
def test_rows_that_are_gone_are_named(small: Path, table: str) -> None:
    """Whatever row of a log is missing, the segment that it belongs to is named."""
    with database(small / "head.db") as head:
        head.execute(f"DELETE FROM {table} WHERE key >= ?", rows_of(small, "user")[:1])  # noqa: S608

    assert "user, segment user/000000: " in found(verify(small))


def test_an_unsigned_claim_is_held_against_the_log_all_the_same(small: Path) -> None:
    """Without a key a checkpoint proves nothing, but it can still contradict the log."""
    with database(small / "head.db") as head:
        head.execute("UPDATE log SET origin = 'y.example/user' WHERE name = 'user'")

    findings = found(verify(small, keys={}))

    assert "user, checkpoint: found origin x.example/user, expected y.example/user" in findings


def test_an_empty_log_names_no_last_entry(tmp_path: Path) -> None:
    """The first entry of a log follows nothing."""
    begin(tmp_path / "small", "custody", "user").close()
    with database(tmp_path / "small" / "head.db") as head:
        head.execute("UPDATE log SET last_leaf = zeroblob(32)")

    verdict = verify(tmp_path / "small")

    assert "user, head: names a last entry, but there is none" in found(verdict)
    assert () == verdict.reaches


# ---- Rotation of keys ----


def rotate(store: SqliteStore, old: SigningKey, new: SigningKey) -> None:
    """Hand the user log over from one key to the next."""
    with store.write() as tx:
        head = tx.heads()["user"]
        rotation = Rotation(
            origin=head.origin,
            old=old.verifier,
            new=new.verifier,
            size=head.size,
            root=head.edge.root,
        )
        tx.rotate("user", rotation.sign(old, new).to_bytes(), sign(head, new))


@pytest.fixture
def rotated(small: Path) -> Path:
    """Return the small trail after its user log changed its key and grew."""
    with closing(SqliteStore(small)) as store:
        rotate(store, KEYS["user"], NEXT)
        record(store, "user", [sealed(OPEN + 1)], now=START + 20, key=NEXT)
    return small


def test_the_pinned_key_may_hand_over(rotated: Path) -> None:
    """Whoever pinned the first key can verify what the next one signed."""
    verdict = verify(rotated)

    assert verdict.passed
    assert NEXT.verifier == verdict.logs[1].key


def test_today_s_key_cannot_sign_another_past(rotated: Path) -> None:
    """A past that was rewritten contradicts the handover, which the old key has signed."""
    with database(rotated / "head.db") as head:
        (note,) = head.execute("SELECT note FROM rotation").fetchone()
    wipe(rotated, "user")
    with closing(SqliteStore(rotated)) as store:
        record(store, "user", [sealed(number + 1) for number in range(OPEN + 2)], key=NEXT)

    without = found(verify(rotated))
    with database(rotated / "head.db") as head:
        head.execute("INSERT INTO rotation VALUES (?, ?)", (rows_of(rotated, "user")[0], note))
    with_note = found(verify(rotated))

    assert "user, checkpoint: note: found no signature by a known key" in without
    assert "user, checkpoint: its first 701 entries are not those that were signed" in with_note


def test_an_old_key_cannot_sign_what_came_after_it(rotated: Path) -> None:
    """After the handover, only the last key of the chain speaks for the log."""
    with closing(SqliteStore(rotated)) as store:
        checkpoint = sign(heads_of(store)["user"], KEYS["user"])
    with database(rotated / "head.db") as head:
        head.execute("UPDATE log SET checkpoint = ? WHERE name = 'user'", (checkpoint,))

    assert "user, checkpoint: note: found no signature by a known key" in found(verify(rotated))


def test_a_handover_needs_both_keys(rotated: Path) -> None:
    """Who has only a new key cannot make himself the successor of the old one."""
    with database(rotated / "head.db") as head:
        (data,) = head.execute("SELECT note FROM rotation").fetchone()
        note = Note.from_bytes(data)
        alone = replace(note, signatures=note.signatures[1:]).to_bytes()
        head.execute("UPDATE rotation SET note = ?", (alone,))

    assert "user, checkpoint: note: found no signature by a known key" in found(verify(rotated))


def test_a_log_does_not_go_back_to_a_key_it_has_left(rotated: Path) -> None:
    """A key that was handed over stays retired."""
    with closing(SqliteStore(rotated)) as store:
        rotate(store, NEXT, KEYS["user"])

    assert "goes back to an older key or size" in found(verify(rotated))


# ---- What queries go by ----


def test_entries_of_the_open_part_cannot_be_hidden(small: Path) -> None:
    """The columns that open tiles are searched by follow from their entries."""
    with database(small / "head.db") as head:
        key = rows_of(small, "user")[0]
        (data,) = head.execute("SELECT columns FROM tile WHERE key = ?", (key,)).fetchone()
        hidden = data.replace(
            MALLORY.to_bytes(8, "little"), term(Field.ACTOR, "user:alice").to_bytes(8, "little")
        )
        assert data != hidden
        head.execute("UPDATE tile SET columns = ? WHERE key = ?", (hidden, key))
    with closing(SqliteStore(small)) as store, store.read() as view:
        wanted = Wanted(groups=(frozenset({MALLORY}),))
        assert 300 == next(view.candidates("user", wanted, 0, OPEN, newest_first=False))

    assert "tile of entry 0: hides entries, its columns are not theirs" in found(verify(small))


@pytest.mark.parametrize("span", ["recorded", "occurred", "id_time"])
@pytest.mark.parametrize(
    ("table", "entry"), [("tile", {0, 255}), ("tail", {512})], ids=["tile", "tail"]
)
def test_entries_of_the_open_part_cannot_be_hidden_by_time(
    small: Path, table: str, entry: set[int], span: str
) -> None:
    """The times that open tiles are skipped by cover those of their entries."""
    with database(small / "head.db") as head:
        head.execute(
            f"UPDATE {table} SET {span}_least = {span}_least + 1, {span}_most = {span}_least"  # noqa: S608
            " WHERE key = (SELECT MIN(key) FROM {table} WHERE key >= ?)".format(table=table),
            rows_of(small, "user")[:1],
        )

    findings = found(verify(small))

    assert any(f"entry {each}: is hidden from queries" in findings for each in entry)


@pytest.mark.parametrize("column", ["ids", "traces", "recorded_most"])
def test_entries_of_a_closed_segment_cannot_be_hidden_in_its_tiles(
    large: Path, column: str
) -> None:
    """Changing what a closed segment is searched by changes the file that custody names."""
    file = large / "segments/user/000000"
    with database(file) as connection:
        value = "recorded_least - 1" if column == "recorded_most" else "x''"
        connection.execute(f"UPDATE tile SET {column} = {value} WHERE number = 3")  # noqa: S608

    before = found(verify(large))
    adapt_manifest(large, "user", file)
    after = found(verify(large))

    assert "user, file of segment user/000000: found" in before
    assert "user, segment user/000000: is not the one that custody entry 1 says" in after
    with closing(SqliteStore(large)) as store, store.read() as view:
        (segment,) = view.segments("user")
    with pytest.raises(Damaged, match="tiles: do not follow from the entries"):
        check_file(large, segment, deep=True)


def test_entries_of_a_closed_segment_cannot_be_hidden_in_its_postings(large: Path) -> None:
    """A deep verification builds the index anew and names the one that hides entries."""
    file = large / "segments/user/000000"
    with database(file) as connection:
        connection.execute(
            "DELETE FROM posting WHERE least_term = (SELECT MAX(least_term) FROM posting)"
        )
    adapt_manifest(large, "user", file)

    findings = found(verify(large, deep=True, keys={"user": PINNED["user"]}))

    assert "user, file of segment user/000000: postings: do not follow" in findings


def test_a_deep_verification_compares_the_manifest_with_the_entries(large: Path) -> None:
    """Filter, counts and times that whole segments are skipped by follow from their entries."""
    with closing(SqliteStore(large)) as store, store.read() as view:
        (segment,) = view.segments("user")
    empty = Filter.build([])
    fewer = dict(list(segment.counts.items())[1:])
    later = replace(segment.occurred, least=segment.occurred.least + 1)

    for what, changed in (
        ("filter", replace(segment, filter=empty)),
        ("counts", replace(segment, counts=fewer)),
        ("times", replace(segment, occurred=later)),
    ):
        with pytest.raises(Damaged, match=f"^{what}: do not follow from the entries"):
            check_file(large, changed, deep=True)


def test_a_segment_that_custody_does_not_name_is_found(large: Path) -> None:
    """Each closed segment was named when it was closed, and each one that was named is there."""
    wipe(large, "custody")
    with closing(SqliteStore(large)) as store:
        root = b64encode(bytes(32)).decode()
        event = said(
            "segment.close", log="user", number=7, root=root, file_hash="00", index_hash="00"
        )
        record(store, "custody", [event])

    findings = found(verify(large))

    assert "user, segment user/000007: custody entry 0 says it was closed, but" in findings
    assert "user, segment user/000000: no custody entry says that it was closed" in findings
    assert "admin, segment admin/000000: no custody entry says that it was closed" in findings


@pytest.mark.parametrize(
    ("action", "data"),
    [
        ("trail.heads", {}),
        ("trail.heads", {"logs": {"user": {"size": -1, "root": ""}}}),
        ("trail.stop", {"logs": {"user": {"size": 1, "root": "AA"}}}),
        ("segment.close", {"log": "user", "number": 0}),
    ],
)
def test_a_custody_entry_that_says_nothing_is_found(
    small: Path, action: str, data: dict[str, Any]
) -> None:
    """What the custody stream says about other logs is understood, or it is a finding."""
    with closing(SqliteStore(small)) as store:
        record(store, "custody", [said(action, **data)])

    assert "custody, segment custody/000000: " in found(verify(small))


# ---- The tree, asked again ----


@pytest.mark.parametrize("size", [0, 1, TILE - 1, TILE, 3 * TILE + 5, 5 * TILE])
def test_a_recomputed_tree_knows_its_root_at_each_size(size: int) -> None:
    """Older trees are held against the recomputed hashes, at whatever size they were."""
    hashes = [sha256(b"%d" % number).digest() for number in range(size)]
    tiles = [hashes[start : start + TILE] for start in range(0, size, TILE)]
    full = size // TILE
    tree = Tree(
        size=size,
        roots=[subtree_root(each) for each in tiles[:full]],
        rest=tiles[full] if size % TILE else (),
        claimed=(),
        leaves=tiles.__getitem__,
    )

    for earlier in {0, 1, size // 3, size // 2, max(size - 1, 0), size}:
        verify_known(tree, Known(min(earlier, size), root_of(hashes[: min(earlier, size)])))
    with pytest.raises(Rollback, match=f"holds {size} entries, but {size + 1} were signed"):
        verify_known(tree, Known(size + 1, bytes(32)))


def test_leaf_hashes_that_changed_meanwhile_are_not_believed() -> None:
    """What is read again for an older tree must be what was verified."""
    hashes = [sha256(b"%d" % number).digest() for number in range(TILE)]
    tree = Tree(
        size=TILE, roots=[subtree_root(hashes)], rest=(), claimed=(), leaves=lambda _: hashes[::-1]
    )

    with pytest.raises(Damaged, match="tile 0: its leaf hashes do not have its root"):
        verify_known(tree, Known(5, root_of(hashes[:5])))


# ---- Bit flips ----


def answers(path: Path) -> object:
    """Return what the trail says: each log as exported, and what queries are offered."""
    with closing(SqliteStore(path)) as store, store.read() as view:
        said = []
        for log, head in view.heads().items():
            said += [log, head, view.rotations(log), list(view.segments(log))]
            said += [view.stored(log, range(head.size))]
            for wanted in (Wanted(), Wanted(groups=(frozenset({MALLORY}),)), Wanted(trace=1)):
                said += [list(view.candidates(log, wanted, 0, head.size, newest_first=True))]
            said += [view.tally(log, field, None) for field in Field]
        return said


def flipped(file: Path, bit: int) -> bytes:
    """Flip one bit of *file* in place, and return what was there."""
    before = file.read_bytes()
    after = bytearray(before)
    after[bit // 8] ^= 1 << bit % 8
    file.write_bytes(after)
    return before


def check_flips(path: Path, count: int, seed: int) -> int:
    """Flip *count* bits, one at a time; return how many changed nothing that the trail says."""
    chance = random.Random(seed)
    marked = Mark(path / "mark").read()
    known = [Seen(log=log, where="mark", tree=tree) for log, tree in marked.items()]
    files = {
        file.relative_to(path): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.stat().st_size
    }

    def put_back() -> None:
        for extra in ("head.db-wal", "head.db-shm"):
            (path / extra).unlink(missing_ok=True)
        for name, data in files.items():
            (path / name).write_bytes(data)

    expected = answers(path)
    put_back()
    harmless = 0
    for _ in range(count):
        name = chance.choice(list(files))
        bit = chance.randrange(len(files[name]) * 8)
        flipped(path / name, bit)
        try:
            passed = verify(path, known=known).passed
        except IndelibleError:
            passed = False
        if passed:
            harmless += 1
            assert expected == answers(path), f"bit {bit} of {name}"
        put_back()
    return harmless


def test_a_flipped_bit_is_found_or_changes_nothing(small: Path) -> None:
    """Whichever bit flips in a trail, it is found, or every answer stays the same."""
    # Only the mark, and pages of the database that hold nothing, may change unseen.
    assert check_flips(small, 150, seed=1) < 150


def test_a_flipped_bit_in_what_a_crash_left_is_found_or_changes_nothing(
    small: Path, tmp_path: Path
) -> None:
    """Commits that only the database's journal holds are verified like the others."""
    with closing(SqliteStore(small)) as store:
        record(store, "user", [sealed(OPEN + number) for number in range(1, 90)], now=START + 20)
        crashed = shutil.copytree(small, tmp_path / "crashed" / "small")
    (crashed / "head.db-shm").unlink()
    assert (crashed / "head.db-wal").stat().st_size

    assert check_flips(crashed, 60, seed=4) < 60


@pytest.mark.soak
def test_flipped_bits_are_found_or_change_nothing(small: Path) -> None:
    """The same, for thousands of bits."""
    check_flips(small, 5_000, seed=2)


def test_a_flipped_bit_in_a_segment_file_is_found(large: Path) -> None:
    """Whichever bit flips in a closed segment, its file is not the one that was closed."""
    with closing(SqliteStore(large)) as store, store.read() as view:
        (segment,) = view.segments("user")
    file = large / "segments/user/000000"
    chance = random.Random(3)

    for _ in range(40):
        before = flipped(file, chance.randrange(file.stat().st_size * 8))
        with pytest.raises(Damaged, match="with SHA-256"):
            check_file(large, segment, deep=False)
        file.write_bytes(before)


def test_any_key_of_a_chain_leads_to_the_first(small: Path) -> None:
    """Whoever trusts today's key verifies the past it took over; a foreign key leads nowhere."""
    old, new = KEYS["user"], SigningKey.from_seed(KEYS["user"].name, bytes([77] * 32))
    foreign = SigningKey.from_seed(KEYS["user"].name, bytes([78] * 32))
    with closing(SqliteStore(small)) as store:
        with store.write() as tx:
            head = tx.heads()["user"]
            rotation = Rotation(
                origin=head.origin,
                old=old.verifier,
                new=new.verifier,
                size=head.size,
                root=head.edge.root,
            )
            tx.rotate("user", rotation.sign(old, new).to_bytes(), sign(head, new))
        with store.read() as view:
            notes = view.rotations("user")

    assert old.verifier == first_of(old.verifier, notes)
    assert old.verifier == first_of(new.verifier, notes)
    assert foreign.verifier == first_of(foreign.verifier, notes)
    assert old.verifier == first_of(old.verifier, [])
