"""A log in a directory is complete, and verified from its files alone."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from indelible.checkpoint import Checkpoint, Rotation
from indelible.directory import verify_directory
from indelible.entry import Entry
from indelible.errors import CallerError, Damaged, IndelibleError, Rollback, StoreError
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.log import append, sign
from indelible.mark import Known
from indelible.merkle import leaf_hash, root_of
from indelible.note import Note, VerifierKey
from indelible.seal import seal
from indelible.sinks.directory import export_log
from indelible.store import Head
from indelible.stores.memory import MemoryStore
from indelible.tiles import decode_bundle, encode_bundle, entries_path, tile_path, tiles_of
from indelible.verdict import Level
from indelible.verify import Seen

if TYPE_CHECKING:
    from indelible.store import Store
    from indelible.verdict import Verdict

VECTORS = Path(__file__).parents[2] / "shared/vectors/tlog"
VECTORS_KEY = VerifierKey.from_text(
    "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
)

KEY = SigningKey.from_seed("x.example/user", bytes(32))
NEXT = SigningKey.from_seed("x.example/user", bytes(range(32)))
START = 1_764_000_000_000_000
SIZE = 600


def record(store: Store, count: int, *, key: SigningKey = KEY, who: str = "alice") -> None:
    """Append that many entries."""
    events = [
        seal(
            Event(
                action="invoice.read",
                outcome=Outcome.SUCCESS,
                actor=Actor(type="user", id=who),
                resource=Resource(type="invoice", id=f"INV-{number}"),
            )
        )
        for number in range(count)
    ]
    with store.write() as tx:
        append(tx, tx.heads()["user"], events, key, START)


def new_store(count: int = SIZE, *, who: str = "alice") -> MemoryStore:
    """Make a store whose log has that many entries."""
    store = MemoryStore()
    with store.write() as tx:
        tx.create(Head(log="user", origin=KEY.name))
    if count:
        record(store, count, who=who)
    return store


def export(store: Store, target: Path) -> Checkpoint:
    """Export the log as it is now."""
    with store.read() as view:
        return export_log(view, "user", target)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Return an export of a log of two complete bundles and a partial one."""
    export(new_store(), tmp_path / "export")
    return tmp_path / "export"


def files_of(directory: Path) -> dict[str, bytes]:
    """Return path and content of each file."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def expected_files(size: int) -> set[str]:
    """Return the paths that a log of this size has by the specification."""
    return {
        "checkpoint",
        *(tile_path(*each) for each in tiles_of(size)),
        *(entries_path(n, width) for level, n, width in tiles_of(size) if level == 0),
    }


def found(verdict: Verdict) -> str:
    """Return the findings as text; such a verdict does not pass."""
    assert Level.TAMPERED == verdict.level
    assert not verdict.passed
    return "\n".join(map(str, verdict.findings))


def verify(path: Path) -> Verdict:
    """Verify with the log's key."""
    return verify_directory(path, KEY.verifier)


# ---- Export ----


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 600])
def test_an_export_has_the_files_of_the_specification_and_passes(tmp_path: Path, size: int) -> None:
    """Whatever its size, a log is exported in exactly the files that c2sp.org/tlog-tiles names."""
    checkpoint = export(new_store(size), tmp_path / "export")

    verdict = verify(tmp_path / "export")

    assert expected_files(size) == set(files_of(tmp_path / "export"))
    assert (Level.SIGNED, (), size) == (verdict.level, verdict.findings, verdict.entries)
    assert checkpoint.root == verdict.logs[0].root
    assert START == verdict.logs[0].recorded_at
    verdict.require()


def test_an_export_holds_the_exact_entries(exported: Path) -> None:
    """What is exported is what was hashed, byte for byte."""
    entries = [
        entry
        for n, width in ((0, 256), (1, 256), (2, 88))
        for entry in decode_bundle((exported / entries_path(n, width)).read_bytes())
    ]

    hashes = b"".join(
        (exported / tile_path(0, n, w)).read_bytes() for n, w in ((0, 256), (1, 256), (2, 88))
    )

    assert list(range(SIZE)) == [Entry.from_bytes(entry).index for entry in entries]
    assert hashes == b"".join(map(leaf_hash, entries))


def test_a_log_of_more_than_a_segment_has_tiles_of_three_levels(tmp_path: Path) -> None:
    """Tiles above the lowest are hashes of whole tiles, on every level."""
    checkpoint = export(new_store(65_536 + 300), tmp_path / "export")

    verdict = verify(tmp_path / "export")

    assert verdict.passed
    assert checkpoint.root == verdict.logs[0].root
    assert {"tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"} <= set(files_of(tmp_path / "export"))
    for path in ("tile/1/000", "tile/2/000.p/1"):
        flip(tmp_path / "export" / path, 77)
        assert f"{path}: its hashes are not those of the tiles below it" in found(
            verify(tmp_path / "export")
        )
        flip(tmp_path / "export" / path, 77)


def test_an_empty_log_is_not_exported(tmp_path: Path) -> None:
    """Without a checkpoint there is nothing that could be verified."""
    with pytest.raises(CallerError, match="is empty, there is nothing to export"):
        export(new_store(0), tmp_path / "export")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (200, 56), (256, 1), (250, 600), (600, 0)])
def test_an_export_is_brought_up_to_date(tmp_path: Path, before: int, after: int) -> None:
    """An earlier export of the log that grew becomes what a new one would be."""
    store = new_store(before)
    export(store, tmp_path / "export")
    full = {path for path in files_of(tmp_path / "export") if ".p/" not in path}
    times = {path: (tmp_path / "export" / path).stat().st_mtime_ns for path in full}
    if after:
        record(store, after)

    export(store, tmp_path / "export")
    export(store, tmp_path / "anew")

    assert files_of(tmp_path / "anew") == files_of(tmp_path / "export")
    assert verify(tmp_path / "export").passed
    for path in full - {"checkpoint"}:
        assert times[path] == (tmp_path / "export" / path).stat().st_mtime_ns


def test_an_empty_directory_may_be_the_target(tmp_path: Path) -> None:
    """A directory that holds nothing is taken for the export."""
    (tmp_path / "export").mkdir()

    export(new_store(1), tmp_path / "export")

    assert verify(tmp_path / "export").passed
    assert ["export"] == [path.name for path in tmp_path.iterdir()]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten but an earlier export of the same log."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    text = Checkpoint(origin="y.example/user", size=1, root=bytes(32)).to_text()
    note = Note(text=text, signatures=(KEY.sign(text),)).to_bytes()
    (other / "checkpoint").write_bytes(note)

    for target in (tmp_path / "file", tmp_path / "folder", other):
        with pytest.raises(CallerError):
            export(new_store(1), target)

    assert {"file": b"mine", "folder/file": b"mine", "other/checkpoint": note} == files_of(tmp_path)


def test_another_history_is_not_continued(tmp_path: Path) -> None:
    """An export that this log does not begin with is evidence, and stays as it is."""
    export(new_store(300), tmp_path / "export")
    before = files_of(tmp_path / "export")

    with pytest.raises(Rollback, match="its first 300 entries are not those exported"):
        export(new_store(400, who="bob"), tmp_path / "export")
    with pytest.raises(Rollback, match="holds 200 entries, but 300 were exported"):
        export(new_store(200), tmp_path / "export")

    assert before == files_of(tmp_path / "export")


def test_a_log_without_the_signed_root_is_not_exported(tmp_path: Path) -> None:
    """What would not verify does not become an export."""
    store = new_store()
    with store.write() as tx:
        other = new_store(SIZE, who="bob")
        with other.read() as view:
            head = view.heads()["user"]
        tx.rotate("user", b"", head.checkpoint)

    with pytest.raises(Damaged, match="does not have the root that was signed"):
        export(store, tmp_path / "export")

    assert [] == list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    """Trouble with the files is no finding."""
    (tmp_path / "file").write_text("mine")

    with pytest.raises(StoreError):
        export(new_store(1), tmp_path / "file" / "export")


def test_an_interrupted_update_is_named_and_repaired_by_the_next(tmp_path: Path) -> None:
    """A crash before the checkpoint leaves tiles beyond it, which the next export needs."""
    store = new_store(300)
    export(store, tmp_path / "export")
    old = (tmp_path / "export/checkpoint").read_bytes()
    record(store, 300)
    export(store, tmp_path / "export")
    (tmp_path / "export/checkpoint").write_bytes(old)

    assert "lies beyond the size that the checkpoint says" in found(verify(tmp_path / "export"))
    export(store, tmp_path / "export")
    assert verify(tmp_path / "export").passed


def test_rotation_notes_are_exported(tmp_path: Path) -> None:
    """Whoever pinned the first key can verify an export that the next one signed."""
    store = new_store(300)
    with store.write() as tx:
        head = tx.heads()["user"]
        rotation = Rotation(
            origin=head.origin,
            old=KEY.verifier,
            new=NEXT.verifier,
            size=head.size,
            root=head.edge.root,
        )
        tx.rotate("user", rotation.sign(KEY, NEXT).to_bytes(), sign(head, NEXT))
    record(store, 10, key=NEXT)
    export(store, tmp_path / "export")

    verdict = verify(tmp_path / "export")
    (tmp_path / "export/rotation/0").unlink()

    assert verdict.passed
    assert NEXT.verifier == verdict.logs[0].key
    assert "checkpoint: note: found no signature by a known key" in found(
        verify(tmp_path / "export")
    )


# ---- Verification ----


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def test_without_a_key_an_export_does_not_pass(exported: Path) -> None:
    """A directory that holds together is not evidence as long as nobody says who may sign."""
    verdict = verify_directory(exported)

    assert () == verdict.findings
    assert Level.UNAUTHENTICATED == verdict.level
    assert not verdict.passed


def test_another_key_does_not_vouch_for_an_export(exported: Path) -> None:
    """Neither another key of the log's name nor the key of another log passes."""
    other = SigningKey.generate("y.example/user").verifier

    assert "found no signature by a known key" in found(verify_directory(exported, NEXT.verifier))
    assert "found origin x.example/user, expected y.example/user" in found(
        verify_directory(exported, other)
    )


def test_an_export_without_a_checkpoint_shows_nothing(exported: Path) -> None:
    """No checkpoint, no size, no verdict over anything."""
    (exported / "checkpoint").unlink()

    assert "export, checkpoint: is missing" in found(verify(exported))
    assert 0 == verify(exported).entries


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001"]
)
def test_a_missing_file_is_named(exported: Path, path: str) -> None:
    """An export lacks nothing."""
    (exported / path).unlink()

    assert f"x.example/user, {path}: is missing" in found(verify(exported))


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/003",
        "tile/0/002.p/89",
        "tile/3/000.p/1",
        "tile/entries/002.p/89",
        "tile/entries/x001/000",
    ],
)
def test_a_file_beyond_the_checkpoint_is_named(exported: Path, path: str) -> None:
    """More tiles than the checkpoint says: it was put back, or an export was interrupted."""
    (exported / path).parent.mkdir(parents=True, exist_ok=True)
    (exported / path).write_bytes(bytes(32))

    assert f"{path}: lies beyond the size that the checkpoint says" in found(verify(exported))


@pytest.mark.parametrize("path", ["tile/0/0", "tile/0/000.p/256", "tile/readme", "tile/00/000"])
def test_a_file_that_is_no_tile_is_named(exported: Path, path: str) -> None:
    """Below ``tile/`` nothing else than tiles may lie."""
    (exported / path).parent.mkdir(parents=True, exist_ok=True)
    (exported / path).write_bytes(b"?")

    assert f"{path}: tile: found" in found(verify(exported))


def test_smaller_partial_tiles_may_remain(exported: Path) -> None:
    """Tiles of when the log was smaller are allowed, if the log begins with them."""
    (exported / "tile/0/001.p").mkdir()
    for path, whole, size in (
        ("tile/0/001.p/7", "tile/0/001", 7 * 32),
        ("tile/0/002.p/5", "tile/0/002.p/88", 5 * 32),
        ("tile/1/000.p/1", "tile/1/000.p/2", 32),
    ):
        (exported / path).write_bytes((exported / whole).read_bytes()[:size])
    bundle = decode_bundle((exported / "tile/entries/002.p/88").read_bytes())
    (exported / "tile/entries/002.p/5").write_bytes(encode_bundle(bundle[:5]))

    assert verify(exported).passed

    flip(exported / "tile/0/001.p/7", 3)
    (exported / "tile/entries/002.p/5").write_bytes(encode_bundle(bundle[1:6]))
    findings = found(verify(exported))
    assert "tile/0/001.p/7: is not the beginning of the tile that follows it" in findings
    assert "tile/entries/002.p/5: is not the beginning of the tile that follows it" in findings


def test_other_files_are_named_but_no_finding(exported: Path) -> None:
    """What is not the log's was not looked at, and the verdict says so."""
    (exported / "README").write_text("hello")

    verdict = verify(exported)

    assert verdict.passed
    assert "files that are not the log's: README" in verdict.does_not_show


def test_a_changed_entry_is_named_and_the_rest_still_proven(exported: Path) -> None:
    """The hash tiles still lead to the signed root, so only the changed entry is in doubt."""
    entries = decode_bundle((exported / "tile/entries/001").read_bytes())
    entries[4] = entries[4].replace(b"alice", b"alicf")
    (exported / "tile/entries/001").write_bytes(encode_bundle(entries))

    verdict = verify(exported)

    assert (
        "x.example/user, tile/entries/001: entry 260: has another hash than in its tile"
        == found(verdict)
    )
    assert verdict.logs[0].root is not None
    assert SIZE - 256 == verdict.entries


def test_entries_that_changed_places_are_found(exported: Path) -> None:
    """The order of entries is under the signed root."""
    path = exported / "tile/entries/000"
    entries = decode_bundle(path.read_bytes())
    entries[1], entries[2] = entries[2], entries[1]
    path.write_bytes(encode_bundle(entries))

    assert "entry 1: has another hash than in its tile" in found(verify(exported))


def test_an_entry_and_its_hash_cannot_be_exchanged_together(exported: Path) -> None:
    """Who changes an entry and its tile does not have the root that was signed."""
    entries = decode_bundle((exported / "tile/entries/002.p/88").read_bytes())
    entries[-1] = entries[-1].replace(b"alice", b"alicf")
    (exported / "tile/entries/002.p/88").write_bytes(encode_bundle(entries))
    (exported / "tile/0/002.p/88").write_bytes(b"".join(map(leaf_hash, entries)))

    assert "x.example/user, root: signed is " in found(verify(exported))


def signed_directory(path: Path, entries: list[bytes]) -> Path:
    """Write a log of one bundle of these entries, signed by the log's key."""
    leaves = list(map(leaf_hash, entries))
    root = root_of(leaves)
    note = Checkpoint(origin=KEY.name, size=len(entries), root=root).sign(KEY)
    for name, data in (
        ("checkpoint", note.to_bytes()),
        (tile_path(0, 0, len(entries)), b"".join(leaves)),
        (entries_path(0, len(entries)), encode_bundle(entries)),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_links_and_times_are_checked_even_if_the_log_signed_them(tmp_path: Path) -> None:
    """A log that signed entries out of order contradicts itself."""
    store = new_store(3)
    export(store, tmp_path / "export")
    first, second, third = decode_bundle((tmp_path / "export/tile/entries/000.p/3").read_bytes())
    late = Entry.from_bytes(third)
    early = Entry(
        index=2, previous=leaf_hash(second), recorded_at=late.recorded_at - 1, event=late.event
    )

    assert verify(signed_directory(tmp_path / "good", [first, second, third])).passed
    assert "entry 1: does not name its index and the entry before it" in found(
        verify(signed_directory(tmp_path / "order", [first, third, second]))
    )
    assert "recorded_at: found" in found(
        verify(signed_directory(tmp_path / "time", [first, second, early.to_bytes()]))
    )


def test_a_log_of_others_is_verified_without_links(tmp_path: Path) -> None:
    """Entries of other logs are only bytes: hashed, and held against the signed root."""
    verdict = verify(signed_directory(tmp_path / "other", [b"alpha", b"beta", b"\x00\xff"]))

    assert verdict.passed
    assert None is verdict.logs[0].recorded_at
    assert (
        "entries: links and times; they are not Indelible's, only hashed" in verdict.does_not_show
    )


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the public vectors are not in shared/vectors")
def test_a_log_of_another_implementation_passes() -> None:
    """A directory written by tessera is verified like one of ours, old partial tiles included."""
    verdict = verify_directory(VECTORS, VECTORS_KEY)

    assert verdict.passed
    assert 15 == verdict.entries
    assert any(each.startswith("files that are not the log's:") for each in verdict.does_not_show)


def test_known_trees_are_held_against_an_export(exported: Path, tmp_path: Path) -> None:
    """An export that is older than what was seen, or another history, does not pass."""
    export(new_store(300), tmp_path / "smaller")
    note = Note.from_bytes((exported / "checkpoint").read_bytes())
    checkpoint = Checkpoint.from_text(note.text)
    tree = Known(checkpoint.size, checkpoint.root)
    anchor = Seen(log="user", where="anchor", tree=tree, anchor=True)

    assert Level.ANCHORED == verify_directory(exported, KEY.verifier, [anchor]).level
    assert "anchor: holds 300 entries, but 600 were signed" in found(
        verify_directory(tmp_path / "smaller", KEY.verifier, [anchor])
    )
    other = Seen(log="user", where="pin", tree=Known(SIZE, bytes(32)))
    assert "pin: its first 600 entries are not those" in found(
        verify_directory(exported, KEY.verifier, [other])
    )


def test_a_file_that_is_too_large_is_not_read(exported: Path) -> None:
    """Nobody can fill the memory of a verifier with a huge file."""
    with (exported / "tile/entries/000").open("r+b") as file:
        file.truncate(1 << 30)

    assert "tile/entries/000: found 1073741824 bytes, expected at most" in found(verify(exported))


def test_every_flipped_bit_of_an_export_is_found(exported: Path) -> None:
    """Whichever bit flips in whichever file, the export does not pass."""
    chance = random.Random(1)
    files = list(files_of(exported))

    for _ in range(150):
        path = exported / chance.choice(files)
        bit = chance.randrange(path.stat().st_size * 8)
        flip(path, bit)
        with suppress(IndelibleError):
            assert not verify(exported).passed, f"bit {bit} of {path}"
        flip(path, bit)

    assert verify(exported).passed
