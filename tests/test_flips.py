"""Wherever a bit flips in a trail, it is found and named, or every answer stays the same."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

import indelible
from indelible.errors import Damaged, IndelibleError, KeyUnavailable, NotATrail
from indelible.event import Actor, Change, Event, Outcome, Resource, Trace, uuid7
from indelible.mark import Mark
from indelible.segment import SEGMENT
from indelible.stores.sqlite import SqliteStore
from indelible.stores.sqlite_check import check_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

START = datetime(2026, 11, 24, tzinfo=UTC)
QUERIES = (
    "",
    "actor:user:mallory",
    "action:invoice.*",
    "resource:invoice:7",
    "outcome:denied",
    "stream:custody",
    "-actor:user:u1 action:order.ship",
    f"trace:{4:032x}",
)


def event(number: int) -> Event:
    """
    Return the event with this number: the same one each time.

    Of large numbers few name a person or a change: to open each value of a large trail
    again for each flip would take most of the time.
    """
    named = number < 1_000 or number % 4_096 < 64
    name = "mallory" if number % 400 == 3 else f"u{number % 7}"
    at = START + timedelta(milliseconds=number)
    return Event(
        id=uuid7(int(at.timestamp() * 1_000) * 1_000_000, sha256(b"%d" % number).digest()[:10]),
        occurred_at=at,
        action=("invoice.approve", "invoice.void", "order.ship")[number % 3],
        outcome=Outcome.DENIED if number % 50 == 9 else Outcome.SUCCESS,
        actor=Actor(type="user" if named else "service", id=name),
        resource=Resource(type="invoice", id=str(number % 211)),
        changes={"status": Change("open", number)} if named and number % 20 == 7 else None,
        trace=Trace(trace_id=f"{number:032x}") if number % 4 == 0 else None,
    )


@pytest.fixture(scope="module", autouse=True)
def _configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep pins where nothing of the user's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="module")
def small_trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a trail of complete and partial tiles, a rotated key and several commits."""
    path = tmp_path_factory.mktemp("kept") / "small"
    with indelible.open(path, origin="x.example/small") as audit:
        audit.record_many([event(number) for number in range(600)], batch=250)
        audit.rotate_key()
        audit.record(event(600))
        audit.record(event(601), stream="admin")
    return path


@pytest.fixture(scope="module")
def large_trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a trail with one closed segment and entries after it."""
    path = tmp_path_factory.mktemp("kept") / "large"
    with indelible.open(path, origin="x.example/large") as audit:
        audit.record_many((event(number) for number in range(SEGMENT + 300)), batch=4_096)
        audit.settle()
        audit.record(event(SEGMENT + 300), stream="admin")
    return path


def copied(trail: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy *trail* and its pins, which remember what is seen of it."""
    pins = shutil.copytree(os.environ["XDG_CONFIG_HOME"], tmp_path / "configuration")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pins))
    return shutil.copytree(trail, tmp_path / trail.name)


@pytest.fixture
def small(small_trail: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy to spoil."""
    return copied(small_trail, tmp_path, monkeypatch)


@pytest.fixture
def large(large_trail: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy to spoil."""
    return copied(large_trail, tmp_path, monkeypatch)


@contextmanager
def flipped(file: Path, bit: int) -> Iterator[None]:
    """Flip one bit of *file* within the block, and put everything back."""
    with put_back(file.parent, file), file.open("r+b") as opened:
        before = os.pread(opened.fileno(), 1, bit // 8)
        os.pwrite(opened.fileno(), bytes([before[0] ^ 1 << bit % 8]), bit // 8)
        try:
            yield
        finally:
            os.pwrite(opened.fileno(), before, bit // 8)


@contextmanager
def put_back(path: Path, *files: Path) -> Iterator[None]:
    """Put back after the block what it changes: whoever opens values leaves an entry."""
    kept = {
        each: each.read_bytes()
        for each in (path / "head.db", path / "keyring.db", path / "mark", *files)
        if each.is_file() and each.stat().st_size < 40_000_000
    }
    try:
        yield
    finally:
        for each, data in kept.items():
            each.write_bytes(data)
        for name in ("head.db", "keyring.db"):
            for aside in ("wal", "shm"):
                (path / f"{name}-{aside}").unlink(missing_ok=True)


def verdict_of(path: Path) -> indelible.Verdict:
    """Verify the trail at *path*."""
    with indelible.open(path, mode="r") as audit:
        return audit.verify()


def said(path: Path, *, export: bool = True) -> list[Any]:
    """Return what the trail answers to everything that can be asked."""
    with put_back(path), indelible.open(path, mode="r") as audit:
        pages = [audit.search(query, limit=400) for query in QUERIES]
        times = (START + timedelta(milliseconds=100), START + timedelta(milliseconds=140))
        pages.append(audit.search(occurred_since=times[0], occurred_until=times[1]))
        some = event(5)
        item, proof = audit.prove(some.id)
        # To open values is an entry of its own, which is no part of the answers.
        answers: list[Any] = [
            (
                [item for item in page.items if item.log != "custody"],
                {log: size for log, size in page.sizes.items() if log != "custody"},
            )
            for page in pages
        ]
        answers += [item, proof.to_bytes(), audit.get(event(299).id)]
        answers += [audit.history("invoice:7"), audit.state("invoice:7")]
        answers += [audit.facets(), audit.facets("outcome:denied", fields=("session", "action"))]
        for stream in ("user", "admin"):
            answers += [audit.checkpoint(stream), audit.verifier_key(stream)]
        answers += [audit.existing([some.id])]
        if export:
            target = path.with_name("export")
            audit.export("user", target)
            answers += [
                {
                    file.relative_to(target).as_posix(): file.read_bytes()
                    for file in target.rglob("*")
                    if file.is_file()
                }
            ]
            shutil.rmtree(target)
        return answers


def silent_flips(
    path: Path, file: Path, bits: Iterable[int], expected: list[Any], *, export: bool = True
) -> int:
    """Flip each of *bits* of *file*; return how many nobody noticed, since nothing changed."""
    unnoticed = 0
    for bit in bits:
        with flipped(file, bit):
            try:
                verdict = verdict_of(path)
            except IndelibleError:
                continue
            if not verdict.passed:
                assert all(finding.where and finding.what for finding in verdict.findings)
                assert verdict.findings
                continue
            unnoticed += 1
            try:
                found = said(path, export=export)
            except IndelibleError as error:  # an answer that is refused is no wrong one
                pytest.fail(f"bit {bit} of {file.name} is only found by asking: {error!r}")
            finally:
                shutil.rmtree(path.with_name("export"), ignore_errors=True)
            assert expected == found, f"bit {bit} of {file.name}"
    return unnoticed


def sampled(file: Path, count: int, seed: int) -> list[int]:
    """Return *count* bits of *file*, always the same ones."""
    size = file.stat().st_size * 8
    return random.Random(seed).sample(range(size), min(count, size))


def each_byte(file: Path) -> list[int]:
    """Return one bit of every byte of *file*."""
    return [place * 8 + (place * 5 + 3) % 8 for place in range(file.stat().st_size)]


# ---- A small trail: every file ----


def test_the_trail_passes_before_anything_is_done_to_it(small: Path) -> None:
    """What follows is found because of the flip alone."""
    verdict = verdict_of(small)

    assert () == verdict.findings
    assert verdict.passed
    assert said(small) == said(small)


def test_each_flip_in_what_a_trail_says_of_itself_is_found(small: Path) -> None:
    """``trail.json`` is held against the first custody entry, which says what it was."""
    file = small / "trail.json"

    assert 0 == silent_flips(small, file, each_byte(file), [])


def test_a_changed_origin_is_named(small: Path) -> None:
    """The verdict says which part of ``trail.json`` is not what it was when the trail was made."""
    file = small / "trail.json"
    file.write_bytes(file.read_bytes().replace(b"x.example/small", b"x.example/smart"))

    assert (
        "custody, trail.json: origin: found 'x.example/smart', expected what custody entry 0 says"
        in map(str, verdict_of(small).findings)
    )


def test_each_flip_in_the_mark_leaves_what_was_signed_or_is_found(small: Path) -> None:
    """A damaged slot of the high-water mark is never read: the other one is, or none."""
    file = small / "mark"
    newest = Mark(file).read()
    data = file.read_bytes()
    written = [bit for bit in each_byte(file) if data[bit // 8]]
    empty = [bit for bit in sampled(file, 50, seed=1) if not data[bit // 8]]
    older = set()

    for bit in written + empty:
        with flipped(file, bit):
            found = Mark(file).read()
        older.add(tuple(sorted((log, known.size) for log, known in found.items())))
        assert all(known.size <= newest[log].size for log, known in found.items())

    assert 2 == len(older)
    assert verdict_of(small).passed


def test_a_flip_in_the_mark_changes_no_answer(small: Path) -> None:
    """What was seen before is only compared with; no entry hangs on it."""
    file = small / "mark"
    expected = said(small)

    silent_flips(small, file, [*sampled(file, 10, seed=2), 3, 70 * 8, 16_384 * 8 + 90], expected)


def test_each_flip_in_a_key_is_refused_before_anything_is_signed(small: Path) -> None:
    """A signing key that is not the one that was made signs nothing, and its file is named."""
    with indelible.open(small, mode="r") as audit:
        before = audit.checkpoint()
        for log in ("user", "admin", "custody"):
            file = small / "keys" / f"{log}.key"
            for bit in each_byte(file):
                with flipped(file, bit), pytest.raises(KeyUnavailable, match=f"{log}.key: "):
                    audit.signer(log)
        with flipped(small / "keys/user.key", 80 * 8), pytest.raises(KeyUnavailable, match="user"):
            audit.record(event(700))

        assert before == audit.checkpoint()
        assert 601 == audit.record(event(700)).index


def test_a_flip_in_a_key_is_no_finding_about_the_entries(small: Path) -> None:
    """What was recorded stays proven, whatever happens to the key that goes on."""
    file = small / "keys/user.key"
    expected = said(small)

    assert 3 == silent_flips(small, file, sampled(file, 3, seed=3), expected)


def test_a_flip_in_the_head_is_found_or_changes_nothing(small: Path) -> None:
    """Places all over the database: no answer is ever a wrong one that passes."""
    file = small / "head.db"
    expected = said(small)

    unnoticed = silent_flips(small, file, sampled(file, 100, seed=4), expected)

    # What was deleted, and pages that hold nothing, may change without a trace.
    assert unnoticed < 100


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("log", ("origin", "edge", "last_leaf", "checkpoint")),
        ("tail", ("columns", "leaves", "bodies")),
        ("tile", ("root", "columns", "leaves")),
        ("document", ("data",)),
        ("block", ("data",)),
        ("rotation", ("note",)),
    ],
)
def test_a_flip_in_any_column_of_the_head_is_found(
    small: Path, table: str, columns: tuple[str, ...]
) -> None:
    """Each kind of thing that is kept is covered: places, hashes, entries, signatures."""
    file = small / "head.db"
    data = file.read_bytes()
    chance = random.Random(5)
    for column in columns:
        with closing(sqlite3.connect(file)) as head:
            longest = f"SELECT {column} FROM {table} ORDER BY length({column}) DESC"  # noqa: S608
            (value,) = head.execute(longest).fetchone()
        value = value.encode() if isinstance(value, str) else value
        # Small enough to lie within one page, so it can be found in the file.
        for place, length in ((0, 300), (0, 32), (len(value) // 3, 32)):
            piece = value[place : place + length]
            if (start := data.rfind(piece)) >= 0:
                break
        assert start >= 0, column

        bits = [start * 8 + chance.randrange(len(piece) * 8) for _ in range(4)]

        assert 0 == silent_flips(small, file, bits, []), column


# ---- A trail with a closed segment ----


def test_each_flip_in_a_segment_is_found_by_its_file(large: Path) -> None:
    """A hundred places all over a closed segment: its file is not the one that was closed."""
    file = large / "segments/user/000000"
    with closing(SqliteStore(large)) as store, store.read() as view:
        (segment,) = view.segments("user")

    check_file(large, segment, deep=False)
    for bit in sampled(file, 100, seed=6):
        with flipped(file, bit), pytest.raises(Damaged, match="with SHA-256"):
            check_file(large, segment, deep=False)


def place_of(file: Path, query: str) -> int:
    """Return the bit in *file* at which the bytes that *query* selects lie."""
    with closing(sqlite3.connect(file)) as connection:
        (value,) = connection.execute(query).fetchone()
    data = file.read_bytes()
    pieces = [value[at : at + 24] for at in range(0, min(len(value), 4_000) - 23, 8)]
    # A piece that lies within one page, and nowhere else if possible.
    there = [piece for piece in pieces if piece in data]
    return data.index(min(there, key=data.count)) * 8


SEGMENT_PLACES = {
    "postings page": "SELECT page FROM posting LIMIT 1",
    "ids": "SELECT ids FROM tile WHERE number = 100",
    "traces": "SELECT traces FROM tile WHERE number = 100",
    "root": "SELECT root FROM tile WHERE number = 3",
    "leaf hashes": "SELECT hashes FROM leaves WHERE number = 17",
    "block": "SELECT data FROM block WHERE number = 500",
}
HEAD_PLACES = {
    "filter": "SELECT filter FROM segment",
    "counts": "SELECT counts FROM segment",
    "file hash": "SELECT file_hash FROM segment",
    "root": "SELECT root FROM segment",
    "checkpoint": "SELECT checkpoint FROM log WHERE name = 'user'",
}


@pytest.mark.parametrize(
    ("name", "query"),
    [("segments/user/000000", query) for query in SEGMENT_PLACES.values()]
    + [("head.db", query) for query in HEAD_PLACES.values()],
    ids=[*SEGMENT_PLACES, *(f"head: {place}" for place in HEAD_PLACES)],
)
def test_a_flip_in_what_a_segment_is_found_or_proven_by_is_named(
    large: Path, name: str, query: str
) -> None:
    """Index, hashes, blocks and the manifest: the verdict names the segment or the log."""
    file = large / name

    with flipped(file, place_of(file, query) + 5):
        try:
            findings = list(map(str, verdict_of(large).findings))
        except Damaged as error:
            findings = [str(error)]

    assert findings
    assert all(re.match("user, |segment user/000000: ", finding) for finding in findings)


def test_a_flip_in_the_head_of_a_larger_trail_is_found_or_changes_nothing(large: Path) -> None:
    """The manifest of closed segments and the open part beside them are covered, too."""
    file = large / "head.db"

    silent_flips(large, file, sampled(file, 8, seed=7), said(large, export=False), export=False)


def test_a_damaged_segment_leaves_the_others_readable(large: Path) -> None:
    """The verdict names what is damaged; what lies outside of it is read and proven as before."""
    file = large / "segments/user/000000"
    block = place_of(file, SEGMENT_PLACES["block"])  # of entries 32,000 to 32,063

    with flipped(file, block), indelible.open(large, mode="r") as audit:
        findings = "\n".join(map(str, audit.verify().findings))
        for number in (5, SEGMENT - 1, SEGMENT, SEGMENT + 299, SEGMENT + 300):
            item, proof = audit.prove(event(number).id)
            log = item.log
            proof.verify(item.entry.to_bytes(), [audit.verifier_key(log)])
            assert event(number) == item.event
        with pytest.raises(Damaged, match="segment user/000000: block"):
            audit.get(event(32_010).id)
        assert 300 == len(audit.search(limit=300, stream="user").items)

    assert "user, file of segment user/000000: found" in findings
    assert "user, segment user/000000: segment user/000000: tile 125: block" in findings
    assert verdict_of(large).passed


def test_a_segment_that_is_gone_leaves_the_others_readable(large: Path) -> None:
    """Where a file is missing, what it held is missing, and nothing else."""
    file = large / "segments/user/000000"
    file.rename(large / "elsewhere")

    with indelible.open(large) as audit:
        assert 200 == len(audit.search(limit=200, stream="user").items)
        with pytest.raises(Damaged, match="segment file user/000000 is missing"):
            audit.get(event(5).id)
        assert SEGMENT + 300 == audit.record(event(SEGMENT + 400)).index
        findings = "\n".join(map(str, audit.verify().findings))
        (large / "elsewhere").rename(file)

        assert event(5) == audit.get(event(5).id).event
        assert audit.verify().passed

    assert "user, file of segment user/000000: cannot be read: No such file" in findings


@pytest.mark.soak
def test_thousands_of_flips_in_a_small_trail_are_found_or_change_nothing(small: Path) -> None:
    """The same for five thousand places of the database."""
    file = small / "head.db"

    silent_flips(small, file, sampled(file, 5_000, seed=8), said(small))


@pytest.mark.soak
def test_hundreds_of_flips_in_a_larger_trail_are_found_or_change_nothing(large: Path) -> None:
    """The same for three hundred places of the database of a trail with a closed segment."""
    file = large / "head.db"

    silent_flips(large, file, sampled(file, 300, seed=9), said(large, export=False), export=False)


def test_a_directory_without_its_description_is_no_trail(small: Path) -> None:
    """A trail whose ``trail.json`` is gone is refused, and no new one is made over its entries."""
    (small / "trail.json").unlink()

    with pytest.raises(NotATrail, match="holds no trail"):
        indelible.open(small)
    with suppress(FileNotFoundError):
        (small / "head.db-wal").unlink()
    assert (small / "head.db").stat().st_size
