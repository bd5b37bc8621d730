"""Whatever is wrong outside: the error is clear, nothing is lost, and nothing is half written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import pytest

import indelible
from indelible.errors import (
    CallerError,
    Damaged,
    EventTooLarge,
    IndelibleError,
    InvalidCursor,
    InvalidEvent,
    InvalidQuery,
    KeyUnavailable,
    NotATrail,
    NotFound,
    StoreError,
    StoreReadOnly,
    UnknownStream,
    UnsupportedFileSystem,
    UnsupportedVersion,
    VerificationError,
)
from indelible.event import Actor, Change, Event, Outcome, Resource
from indelible.log import append
from indelible.seal import seal
from indelible.stores.sqlite import check_file_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Mode = Literal["a", "r"]
MODES: tuple[Mode, Mode] = ("a", "r")


@pytest.fixture(autouse=True)
def _configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pins where nothing of the user's is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the directory of a trail with two entries, closed."""
    with indelible.open(tmp_path / "audit", origin="x.example/audit") as audit:
        record(audit)
        record(audit)
    return tmp_path / "audit"


def record(audit: indelible.Trail, **fields: Any) -> indelible.Receipt:
    """Record something that is right, but for *fields*."""
    return audit.record(
        fields.pop("action", "invoice.approve"),
        **{"actor": "user:alice", "resource": "invoice:INV-7", **fields},
    )


def content(path: Path) -> dict[str, bytes]:
    """Return each file below *path*, but for what SQLite and locks make of a visit."""
    passing = {"head.db-wal", "head.db-shm", "writer.lock"}
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in passing
    }


@contextmanager
def database(file: Path) -> Iterator[sqlite3.Connection]:
    """Change a database behind its owner's back."""
    with closing(sqlite3.connect(file)) as connection, connection:
        yield connection


def require(path: Path, mode: Mode) -> None:
    """Open a trail and ask for all that it holds, verified."""
    with indelible.open(path, mode=mode) as audit:
        audit.verify().require()
        audit.search()


# ---- Directories ----


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """Whoever only wants to read a trail that is not there is told so, and none appears."""
    with pytest.raises(NotATrail, match=r"audit: holds no trail \(no trail.json\)$"):
        indelible.open(tmp_path / "audit", mode="r")

    assert not (tmp_path / "audit").exists()


def test_no_directory_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory there is no trail in some place that nobody chose."""
    monkeypatch.delenv("INDELIBLE_TRAIL", raising=False)

    with pytest.raises(NotATrail, match=r"^no directory is given, and INDELIBLE_TRAIL names none"):
        indelible.open()


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("name", ["notes.txt", "head.db", "keys/user.key", ".hidden"])
def test_somebody_else_s_directory_is_left_alone(tmp_path: Path, name: str, mode: Mode) -> None:
    """A directory that holds something else is no place for a trail, and nothing of it changes."""
    (tmp_path / "other" / name).parent.mkdir(parents=True)
    (tmp_path / "other" / name).write_bytes(b"mine")

    with pytest.raises(NotATrail, match=r"other: (holds no trail|is not empty)"):
        indelible.open(tmp_path / "other", mode=mode)

    assert {name: b"mine"} == content(tmp_path / "other")


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_file_is_no_directory(tmp_path: Path, mode: Mode) -> None:
    """A path that leads to a file is named, and the file stays."""
    (tmp_path / "file").write_bytes(b"mine")

    for path in (tmp_path / "file", tmp_path / "file" / "audit"):
        with pytest.raises((NotATrail, StoreError), match=f"^{path}: "):
            indelible.open(path, mode=mode)

    assert b"mine" == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"format":"1"}',
        b'{"format":1,"id":5}',
        b'{"format":1,"id":"a","origin":"b","keys":"c","created_at":"d","more":1}',
        b"[" * 100_000,
    ],
)
def test_a_description_that_is_none_is_refused(path: Path, data: bytes) -> None:
    """A directory that does not say what it is, is not written to."""
    (path / "trail.json").write_bytes(data)
    before = content(path)

    for mode in MODES:
        with pytest.raises(NotATrail, match=r"trail.json"):
            indelible.open(path, mode=mode)

    assert before == content(path)


def test_a_trail_without_its_head_is_refused(path: Path) -> None:
    """Where entries are gone, no empty trail takes their place."""
    for file in path.glob("head.db*"):
        file.unlink()

    for mode in MODES:
        with pytest.raises(NotATrail, match=r"holds no head.db"):
            indelible.open(path, mode=mode)

    assert not (path / "head.db").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"no database",
        lambda data: bytes(len(data)),
        lambda data: data[:50],
        lambda data: data[:4096],
        lambda data: data[:-4096],
        lambda data: b"x" * 200 + data[200:],
        lambda data: data[:4096] + bytes(len(data) - 4096),
    ],
    ids=["empty", "foreign", "zeros", "50", "a page", "short", "header", "pages"],
)
def test_a_damaged_head_is_named_and_not_repaired(
    path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """What cannot be read is an error of ours that says so, whatever is asked for."""
    head = path / "head.db"
    head.write_bytes(spoil(head.read_bytes()))
    for aside in ("head.db-wal", "head.db-shm"):
        (path / aside).unlink(missing_ok=True)

    for mode in MODES:
        with pytest.raises((VerificationError, StoreError, NotATrail)):
            require(path, mode)


def test_another_trail_s_head_is_found(path: Path, tmp_path: Path) -> None:
    """The entries of one trail do not pass for those of another."""
    with indelible.open(tmp_path / "other") as other:
        for _ in range(5):
            record(other)
    shutil.copy(tmp_path / "other/head.db", path / "head.db")

    with pytest.raises(VerificationError):
        indelible.open(path)
    with indelible.open(path, mode="r") as audit:
        assert indelible.Level.TAMPERED == audit.verify().level


# ---- Versions ----


def test_a_newer_head_is_not_touched(path: Path) -> None:
    """What a newer version of Indelible wrote is neither read wrongly nor changed."""
    with database(path / "head.db") as head:
        head.execute("PRAGMA user_version = 2")
    before = content(path)

    for mode in MODES:
        with pytest.raises(UnsupportedVersion, match=r"found layout 2, this version .* knows 1"):
            indelible.open(path, mode=mode)

    assert before == content(path)


def test_a_newer_directory_is_not_touched(path: Path) -> None:
    """A description with fields of a later format is told from a damaged one."""
    description = json.loads((path / "trail.json").read_bytes()) | {"format": 2, "vault": "vault"}
    (path / "trail.json").write_bytes(json.dumps(description).encode())
    before = content(path)

    for mode in MODES:
        with pytest.raises(UnsupportedVersion, match=r"found format 2, this version .* knows 1"):
            indelible.open(path, mode=mode)

    assert before == content(path)


def test_a_process_that_was_overtaken_by_an_upgrade_stops_writing(path: Path) -> None:
    """Two versions at once: the older one refuses to write from the moment the newer has begun."""
    with indelible.open(path) as audit:
        assert 2 == record(audit).index
        with database(path / "head.db") as head:
            head.execute("PRAGMA user_version = 2")

        with pytest.raises(UnsupportedVersion, match=r"head.db: found layout 2"):
            record(audit)
        with pytest.raises(UnsupportedVersion, match=r"head.db: found layout 2"):
            audit.record_many([event()])

        with database(path / "head.db") as head:
            head.execute("PRAGMA user_version = 1")
        assert 3 == record(audit).index


# ---- Permissions, as a user who is not root ----


AS_NOBODY = """
import json, os, sys
import indelible, indelible.stores.sqlite, indelible.stores.sqlite_check
import indelible.document, indelible.stores.sqlite_keyring, tomllib
from indelible.sinks import directory
from indelible.errors import IndelibleError

os.setgroups([])
os.setgid(65_534)
os.setuid(65_534)
answers = {}
for name in sys.argv[2:]:
    mode, path = name.split(":")
    try:
        with indelible.open(sys.argv[1] + "/" + path, mode=mode) as audit:
            answers[name] = len(audit.search().items)
            try:
                audit.record("a.b", resource="c:d")
                answers[name] = "recorded"
            except IndelibleError as error:
                answers[name] = [answers[name], type(error).__name__, str(error)]
    except IndelibleError as error:
        answers[name] = [type(error).__name__, str(error)]
    except Exception as error:
        answers[name] = repr(error)
print(json.dumps(answers))
"""


def ask_as_nobody(root: Path, *questions: str) -> dict[str, Any]:
    """Open trails below *root* as a user without rights, and return what came of it."""
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(root), *questions],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "" == done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def let_read(path: Path) -> None:
    """Let everybody read what is at *path*, but not its keys."""
    for file in [path, *path.rglob("*")]:
        if file.suffix != ".key":
            file.chmod(0o755 if file.is_dir() else 0o644)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a directory that others may look into, unlike those of pytest."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_wrong_permissions_are_named_and_break_nothing(shared: Path) -> None:
    """A trail that may not be read or written is named, and nothing of it changes."""
    for trail in ("private", "readable", "keyless"):
        with indelible.open(shared / trail) as audit:
            record(audit)
            record(audit)
    (shared / "private").chmod(0o700)
    let_read(shared / "readable")
    for file in [shared / "keyless", *(shared / "keyless").rglob("*")]:
        if "keys" not in file.parts:
            os.chown(file, 65_534, 65_534)
    before = {trail: content(shared / trail) for trail in ("private", "readable")}

    answers = ask_as_nobody(
        shared, "a:private", "r:private", "a:readable", "r:readable", "a:keyless", "a:new"
    )

    for question in ("a:private", "r:private", "a:new"):
        assert "StoreReadOnly" == answers[question][0]
        assert str(shared) in answers[question][1]
    for question in ("a:readable", "r:readable"):
        assert "StoreReadOnly" == answers[question][0]
        assert "can only read while the application runs, or a copy" in answers[question][1]
    assert [2, "KeyUnavailable"] == answers["a:keyless"][:2]
    assert "the signing key cannot be read: Permission denied" in answers["a:keyless"][2]
    assert before == {trail: content(shared / trail) for trail in before}
    for trail in ("private", "readable"):
        with indelible.open(shared / trail) as audit:
            assert audit.verify().passed
            assert 2 == record(audit).index


def test_whoever_may_only_read_reads_while_the_application_records(shared: Path) -> None:
    """An auditor without the right to write sees what is recorded, and changes nothing."""
    with indelible.open(shared / "audit") as audit:
        record(audit)
        record(audit)
        let_read(shared / "audit")

        answers = ask_as_nobody(shared, "a:audit", "r:audit")

        assert [2, "StoreReadOnly"] == answers["a:audit"][:2]
        assert [2, "StoreReadOnly"] == answers["r:audit"][:2]
        assert 2 == record(audit).index
        assert audit.verify().passed


def mounted(disk: Path, size: str) -> Iterator[Path]:
    """Yield a file system of its own at *disk*."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("only root may mount; tests/crash has failing writes all the same")
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here; tests/crash has failing writes all the same")
    yield disk
    subprocess.run([umount, str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    """Change the *options* of the file system at *disk*."""
    subprocess.run([str(shutil.which("mount")), "-o", f"remount,{options}", str(disk)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of eight megabytes."""
    yield from mounted(tmp_path / "disk", "8m")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 64 kilobytes, which is too small for a trail."""
    yield from mounted(tmp_path / "disk", "64k")


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_medium_that_is_only_read_is_verified(disk: Path, mode: Mode) -> None:
    """Evidence on a disc or a snapshot is read and verified where it is; writing is refused."""
    with indelible.open(disk / "audit") as audit:
        receipt = record(audit)
    remount(disk, "ro")

    with indelible.open(disk / "audit", mode=mode) as audit:
        assert 0 == audit.get(receipt.id).index
        assert audit.verify(deep=True).passed
        with pytest.raises(StoreReadOnly, match="Read-only file system"):
            record(audit)
        with pytest.raises(StoreReadOnly, match="Read-only file system"):
            audit.rotate_key()

    remount(disk, "rw")
    with indelible.open(disk / "audit") as audit:
        assert 1 == record(audit).index


def test_a_trail_that_does_not_fit_is_not_half_made(full_disk: Path) -> None:
    """Making a trail on a full disk says so, and it is made whole once there is room."""
    with pytest.raises(StoreError, match=r"full|No space"):
        indelible.open(full_disk / "audit")
    with pytest.raises(NotATrail):
        indelible.open(full_disk / "audit", mode="r")

    remount(full_disk, "size=4m")
    with indelible.open(full_disk / "audit") as made:
        assert 0 == record(made).index
        assert made.verify().passed


# ---- Keys ----


def test_without_its_key_a_trail_is_read_but_not_written(path: Path) -> None:
    """A lost key costs no entry: all are there and proven, and writing says what is missing."""
    key = path / "keys" / "user.key"
    with indelible.open(path) as audit:
        record(audit)
    kept = key.read_bytes()
    key.unlink()

    with indelible.open(path) as audit:
        with pytest.raises(KeyUnavailable, match=r"user.key: found no file, expected the signing"):
            record(audit)
        with pytest.raises(KeyUnavailable, match=r"user.key: found no file"):
            audit.rotate_key()

        assert 3 == len(audit.search(stream="user").items)
        assert audit.verify().passed
        item, proof = audit.prove(audit.search(stream="user").items[0].event.id)
        proof.verify(item.entry.to_bytes(), [audit.verifier_key()])
        audit.backup(path.parent / "copy")
        # The other streams have keys of their own.
        assert 0 == record(audit, action="auth.login").index
        key.write_bytes(kept)
        key.chmod(0o600)
        assert 3 == record(audit).index


# ---- Events ----


def event(**fields: Any) -> Event:
    """Return an event that is right, but for *fields*."""
    return Event(
        **{
            "action": "invoice.approve",
            "outcome": Outcome.SUCCESS,
            "actor": Actor.parse("user:alice"),
            "resource": Resource.parse("invoice:INV-7"),
            **fields,
        }
    )


def nested(depth: int) -> object:
    """Return a list inside that many lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


BAD: dict[str, dict[str, Any]] = {
    "NUL": {"reason": "a\0b"},
    "NUL in a key": {"data": {"a\0b": 1}},
    "a lone surrogate": {"actor": "user:\ud800"},
    "a lone surrogate in a value": {"changes": {"name": ("a", "\udc80")}},
    "invalid UTF-8 as Python reads it": {
        "resource": b"file:\xff".decode("utf-8", "surrogateescape")
    },
    "bytes for a text": {"resource": b"file:1"},
    "NaN": {"data": {"amount": float("nan")}},
    "Infinity": {"changes": {"amount": (1.5, float("inf"))}},
    "an integer over 64 bits": {"data": {"amount": 2**64}},
    "a negative one": {"data": {"amount": -(2**63) - 1}},
    "an integer of 5,000 digits": {"data": {"amount": 10**5_000}},
    "deep nesting": {"data": {"a": nested(64)}},
    "nesting deeper than Python's own": {"data": {"a": nested(5_000)}},
    "a naive time": {"occurred_at": datetime(2026, 11, 24, tzinfo=UTC).replace(tzinfo=None)},
    "a naive time within": {
        "data": {"at": datetime(2026, 11, 24, tzinfo=UTC).replace(tzinfo=None)}
    },
    "the year 10000": {
        "occurred_at": datetime.fromisoformat("9999-12-31T23:59:59-01:00"),
    },
    "a text for a time": {"occurred_at": "2026-11-24T00:00:00Z"},
    "no action": {"action": ""},
    "a list for an action": {"action": ["invoice.approve"]},
    "a list for an actor": {"actor": ["user:alice"]},
    "a number for a resource": {"resource": 7},
    "an unknown outcome": {"outcome": "ok"},
    "a list for an outcome": {"outcome": ["success"]},
    "an empty session": {"session": ""},
    "a set of pairs for changes": {"changes": {("a", 1)}},
    "a dictionary for a client": {"client": {"ip": "203.0.113.9"}},
    "too many bytes in clear": {"actor": Actor(type="user", id="a", roles=("x" * 65_536,))},
    "too many bytes of a value": {"data": {"text": "x" * 8_400_000}},
    "too many bytes when escaped": {"data": {"text": "\x01" * 1_400_000}},
}


def test_what_cannot_be_kept_is_refused_and_takes_no_place(path: Path) -> None:
    """An event that is wrong raises an error that names it, and leaves no gap and no half entry."""
    with indelible.open(path) as audit:
        record(audit)
        before = audit.checkpoint("user"), audit.stats()["entries"]

        for what, fields in BAD.items():
            with pytest.raises(
                InvalidEvent, match=r"^[\x20-\x7e]+: found .+, expected .+"
            ) as raised:
                record(audit, **fields)
            assert len(str(raised.value)) < 300, what

        assert before == (audit.checkpoint("user"), audit.stats()["entries"])
        assert 3 == record(audit).index
        assert audit.verify().passed


def test_an_entry_may_be_as_large_as_one_can_be(path: Path) -> None:
    """What is just small enough is kept, found and proven; one byte more is refused."""
    with indelible.open(path) as audit:
        policy = audit.policy

        def large(length: int) -> Event:
            return event(actor=Actor(type="user", id="alice", roles=("x" * length,)))

        small = large(1)
        overhead = len(seal(small, policy.rule_on(small), policy).event) - 1
        largest = large(60_000 - overhead)
        with pytest.raises(EventTooLarge, match=r"^event: found '60001 bytes', expected at most"):
            audit.record(large(60_001 - overhead))
        receipt = audit.record(largest)

        item, proof = audit.prove(receipt.id)
        proof.verify(item.entry.to_bytes(), [audit.verifier_key()])
        assert largest == audit.get(receipt.id).event
        assert audit.verify().passed


def test_an_event_that_was_made_wrong_on_purpose_is_refused(path: Path) -> None:
    """Whoever goes around the checks of the constructor meets those of sealing."""
    with indelible.open(path) as audit:
        with pytest.raises(InvalidEvent, match=r"^event: found a text, expected an Event"):
            audit.record_many(["user:alice"])  # type: ignore[list-item]
        with pytest.raises(InvalidEvent, match=r"^reason: "):
            audit.record_many([event(), event(reason="\0")])

        assert 2 == record(audit).index


@pytest.mark.parametrize("stream", ["payments", "User", "user~2", "custody", "../user", ["user"]])
def test_an_unknown_stream_is_named(path: Path, stream: str | list[str]) -> None:
    """An event that names a stream that is not there is refused, and written to no other."""
    with indelible.open(path) as audit:
        with pytest.raises(UnknownStream, match=r"^stream"):
            record(audit, stream=stream)
        with pytest.raises(UnknownStream, match=r"^stream"):
            audit.record_many([event()], stream=stream)  # type: ignore[arg-type]

        assert 2 == len(audit.search(stream="user").items)
        if isinstance(stream, str) and stream != "custody":
            for ask in (audit.checkpoint, audit.verifier_key, audit.rotate_key):
                with pytest.raises(UnknownStream, match="expected one of user, auth, admin"):
                    ask(stream)
            with pytest.raises(UnknownStream, match="expected one of user, auth, admin"):
                audit.search(stream=stream)


@pytest.mark.parametrize("text", ["\ud800", "\0", "user:\udfff\0", "x" * 100_000, "\u2028", "💥"])
def test_a_question_that_means_nothing_is_answered_or_refused(path: Path, text: str) -> None:
    """Whatever text somebody asks for, the answer is one of ours: nothing, or what is wrong."""
    with indelible.open(path) as audit:
        for ask in (
            lambda: audit.search(text),
            lambda: audit.search(actor=text),
            lambda: audit.search(text=text),
            lambda: audit.search(session=text),
            lambda: audit.search(id=text),
            lambda: audit.search(cursor=text),
            lambda: audit.get(text),
            lambda: audit.history(text),
            lambda: audit.facets(fields=(text,)),
        ):
            with suppress(InvalidQuery, InvalidCursor, NotFound):
                ask()


# ---- Clocks ----


def test_a_clock_that_jumps_back_does_not_show_in_the_log(path: Path) -> None:
    """Times of a log never decrease, whatever the machine's clock does between two entries."""
    with indelible.open(path) as audit:
        record(audit)
        ahead = time.time_ns() // 1_000 + 30 * 60 * 1_000_000
        with audit.store.write() as transaction:
            head = transaction.heads()["user"]
            append(transaction, head, [seal(event())], audit.signer("user"), ahead)
        # From here on the clock is half an hour behind what the log has seen.
        receipt = record(audit)

        item = audit.get(receipt.id)
        assert ahead == item.entry.recorded_at
        assert item.event.occurred_at < datetime.now(UTC) + timedelta(minutes=1)
        assert audit.verify().passed


# ---- File systems ----


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /srv/nfs nfs4 rw,vers=4.2 0 0
//server/share /srv/with\\040space cifs rw 0 0
/dev/sdb1 /srv/nfs/local xfs rw 0 0
tmpfs /srv/nfsother tmpfs rw 0 0
user@host: /srv/ssh fuse.sshfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/nfs/audit", "nfs4 at /srv/nfs"),
        ("/srv/nfs", "nfs4 at /srv/nfs"),
        ("/srv/with space/audit", "cifs at /srv/with space"),
        ("/srv/ssh/deep/er/audit", "fuse.sshfs at /srv/ssh"),
    ],
)
def test_a_network_file_system_is_refused(path: str, kind: str) -> None:
    """Where locks do not hold between machines, no trail is opened."""
    with pytest.raises(UnsupportedFileSystem, match=rf"^{path}: lies on a network .* \({kind}\)"):
        check_file_system(Path(path), MOUNTS)


@pytest.mark.parametrize(
    "path", ["/srv/audit", "/srv/nfs/local/audit", "/srv/nfsother/audit", "/srv/nfs2/audit"]
)
@pytest.mark.parametrize("mounts", [MOUNTS, ""])
def test_a_local_file_system_is_taken(path: str, mounts: str) -> None:
    """A local disk is used, also below or beside a network file system."""
    check_file_system(Path(path), mounts)


# ---- Other arguments ----


@pytest.mark.parametrize(
    "origin", ["", "a b", "https://x.example/audit", "a+b", "/a", "a/", "a//b", "a\nb"]
)
def test_an_origin_that_cannot_be_signed_is_refused(tmp_path: Path, origin: str) -> None:
    """The name under which a trail is known fits into a checkpoint, or no trail is made."""
    with pytest.raises(CallerError, match=r"^origin: found "):
        indelible.Trail.create(tmp_path / "audit", origin=origin)

    assert not (tmp_path / "audit").exists()


def test_an_export_overwrites_nothing(path: Path, tmp_path: Path) -> None:
    """A directory that holds something else is no place to export to."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_bytes(b"mine")

    with indelible.open(path) as audit:
        with pytest.raises(IndelibleError):
            audit.export("user", tmp_path / "mine")
        with pytest.raises(CallerError, match="exists and is not empty"):
            audit.backup(tmp_path / "mine")

    assert {"notes.txt": b"mine"} == content(tmp_path / "mine")


@pytest.mark.parametrize("note", [b"", b"no note", b"\xff", b"x.example/audit/user\n1\n\n"])
def test_a_checkpoint_that_is_none_is_refused(path: Path, note: bytes) -> None:
    """What is given as an older checkpoint is one, or verification says that it is not."""
    with indelible.open(path) as audit, pytest.raises((VerificationError, CallerError)):
        audit.verify(checkpoints=[note])


def test_errors_of_a_damaged_entry_name_it(path: Path) -> None:
    """Whoever asks for an entry that was changed gets an error that names it, no wrong answer."""
    with database(path / "head.db") as head:
        changed = head.execute(
            "UPDATE tail SET bodies = CAST(replace(CAST(bodies AS TEXT), 'INV-7', 'INV-8') AS BLOB)"
            " WHERE CAST(bodies AS TEXT) LIKE '%INV-7%'"
        )
        assert changed.rowcount

    with indelible.open(path, mode="r") as audit:
        with pytest.raises(Damaged, match=r"entry [01]: its bytes do not have the recorded leaf"):
            audit.search(resource="invoice:INV-7")
        assert indelible.Level.TAMPERED == audit.verify().level


def test_changes_may_be_given_as_they_are(path: Path) -> None:
    """What is right is kept as it was given: the counterpart of all that is refused here."""
    with indelible.open(path) as audit:
        receipt = record(audit, changes={"a": (1, 2), "b": Change(new="\u2028 \x01 💥")})

        assert {"a": Change(1, 2), "b": Change(new="\u2028 \x01 💥")} == audit.get(
            receipt.id
        ).event.changes
