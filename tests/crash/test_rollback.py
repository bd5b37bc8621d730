"""Older states put back, by mistake or on purpose: found, and never gone on with unseen."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.backup import restore
from indelible.errors import AlreadyATrail, CallerError, Damaged, NotATrail, Rollback
from indelible.mark import Known, Mark
from indelible.merkle import root_at
from indelible.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.event import Event
    from tests.crash.conftest import Books


@pytest.fixture
def path(tmp_path: Path, make_event: Callable[..., Event]) -> Path:
    """A trail with ten entries of users and one login, closed."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many(make_event(number=number) for number in range(10))
        trail.record(make_event("auth.login"))
    return tmp_path / "trail"


def grow(path: Path, count: int = 5) -> None:
    """Record some more."""
    with indelible.open(path) as trail:
        for number in range(count):
            trail.record("order.ship", resource=f"order:{number}")


def put_back(copy: Path, path: Path) -> None:
    """Put an older copy into the place of the trail."""
    shutil.rmtree(path)
    shutil.copytree(copy, path)


def findings(path: Path) -> set[tuple[str, str]]:
    """What verification finds: in which log, and what it contradicts."""
    with indelible.open(path, mode="r") as trail:
        verdict = trail.verify()
    assert not verdict.passed
    assert indelible.Level.TAMPERED == verdict.level
    return {(finding.log, finding.where) for finding in verdict.findings}


def test_an_older_copy_of_everything_is_found_by_the_pins(path: Path, tmp_path: Path) -> None:
    """The whole directory set back, mark included, contradicts what this user has seen of it."""
    shutil.copytree(path, tmp_path / "older")
    grow(path)

    put_back(tmp_path / "older", path)

    with pytest.raises(Rollback, match="log user: holds 10 entries, but 15 were signed"):
        indelible.open(path)
    assert {("user", "pin"), ("custody", "pin")} == findings(path)


def test_an_older_head_alone_is_found_by_the_mark(path: Path, tmp_path: Path) -> None:
    """The database set back contradicts the mark beside it, even where nothing is pinned."""
    shutil.copytree(path, tmp_path / "older")
    grow(path)
    shutil.rmtree(tmp_path / "config")

    shutil.copy(tmp_path / "older" / "head.db", path / "head.db")

    with pytest.raises(Rollback, match="but 15 were signed"):
        indelible.open(path)
    assert {("user", "high-water mark"), ("custody", "high-water mark")} == findings(path)


def test_an_older_copy_is_found_by_a_checkpoint_that_left_the_machine(
    path: Path, tmp_path: Path
) -> None:
    """Where mark and pins are set back, too, a checkpoint that somebody kept still tells."""
    for name in ("trail", "config"):
        shutil.copytree(tmp_path / name, tmp_path / "older" / name)
    grow(path)
    with indelible.open(path) as trail:
        kept = trail.checkpoint()

    for name in ("trail", "config"):
        put_back(tmp_path / "older" / name, tmp_path / name)

    with indelible.open(path) as trail:
        trail.verify().require()
        verdict = trail.verify(checkpoints=[kept])
    assert [("user", "checkpoint over 15 entries")] == [
        (finding.log, finding.where) for finding in verdict.findings
    ]


@pytest.mark.parametrize("log", ["user", "auth"])
def test_an_emptied_log_is_found(path: Path, log: str) -> None:
    """A log from which everything was removed contradicts mark, pins and custody entries."""
    with indelible.open(path) as trail:
        store = trail.store
        assert isinstance(store, SqliteStore)
        with store.write() as transaction:
            connection = transaction._connection  # noqa: SLF001 - what an attacker has
            (number,) = connection.execute(
                "SELECT number FROM log WHERE name = ?", (log,)
            ).fetchone()
            connection.execute("DELETE FROM tail WHERE key >> 40 = ?", (number,))
            connection.execute(
                "UPDATE log SET size = 0, edge = x'', checkpoint = x'' WHERE number = ?", (number,)
            )
        trail._custody.started = False  # noqa: SLF001 - so that closing writes no more

    with pytest.raises(Rollback, match=rf"log {log}: holds 0 entries"):
        indelible.open(path)
    assert log in {found for found, _ in findings(path)}


def test_a_deleted_head_is_no_new_trail(path: Path) -> None:
    """A trail whose database is gone is not made anew over its remains."""
    for file in path.glob("head.db*"):
        file.unlink()

    with pytest.raises(NotATrail, match=r"head\.db"):
        indelible.open(path)
    (path / "trail.json").unlink()
    with pytest.raises(NotATrail):
        indelible.open(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda mark: mark.unlink(),
        lambda mark: mark.write_bytes(b""),
        lambda mark: mark.write_bytes(mark.read_bytes()[:100]),
        lambda mark: mark.write_bytes(bytes(32_768)),
        lambda mark: mark.write_bytes(b"\xff" * 40_000),
    ],
    ids=["missing", "empty", "torn", "zeros", "rubbish"],
)
def test_recording_goes_on_without_a_mark(
    path: Path, books: type[Books], damage: Callable[[Path], object]
) -> None:
    """A mark that is missing or damaged stops nobody, and the next commit writes it anew."""
    damage(path / "mark")

    grow(path, 1)

    with indelible.open(path) as trail:
        sizes = books(trail).sizes
        assert isinstance(trail.store, SqliteStore)
        assert sizes == {log: known.size for log, known in trail.store.mark().read().items()}
        trail.verify().require()


def test_one_torn_slot_of_the_mark_leaves_the_other(path: Path) -> None:
    """Whichever half of the mark a crash has torn, what was signed before is still known."""
    grow(path)
    whole = (path / "mark").read_bytes()
    sizes = set()

    for at in (0, 16_384):
        (path / "mark").write_bytes(whole[:at] + bytes(100) + whole[at + 100 :])
        sizes.add(Mark(path / "mark").read()["custody"].size)
    (path / "mark").write_bytes(bytes(100) + whole[100:16_384] + bytes(100) + whole[16_484:])

    with indelible.open(path) as trail, trail.store.read() as view:
        size = view.heads()["custody"].size
    assert {size, size - 1} == sizes
    with pytest.raises(Damaged):
        Mark(path / "mark").read()


def test_a_mark_of_another_history_is_found(path: Path, tmp_path: Path) -> None:
    """A log of the same size that is not the one that was signed is no less a rollback."""
    with indelible.open(path) as trail, trail.store.read() as view:
        heads = view.heads()
    known = {log: (head.size, head.edge.root) for log, head in heads.items()}
    mark = Mark(path / "mark")
    for _ in range(2):
        mark.write({**heads, "user": heads["auth"]})  # a tree of one entry, but another one
    shutil.rmtree(tmp_path / "config")

    assert known["user"][1] != mark.read()["user"].root
    with pytest.raises(Rollback, match="log user: is not the one"):
        indelible.open(path)


def test_a_backup_while_others_write_is_one_moment(
    path: Path, tmp_path: Path, books: type[Books], make_event: Callable[..., Event]
) -> None:
    """A copy that is made under load verifies, holds what was kept before it, and opens."""
    with indelible.open(path) as trail:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                trail.record(make_event())
                trail.record_many([make_event("auth.login"), make_event()])

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        copies = []
        for number in range(10):
            before = trail.record(make_event())
            copies.append((before, trail.backup(tmp_path / f"copy-{number}")))
        stop.set()
        for thread in threads:
            thread.join()
        found = books(trail)

    for number, (before, sizes) in enumerate(copies):
        with indelible.open(tmp_path / f"copy-{number}", mode="r") as copy:
            copied = books(copy)
            assert sizes == copied.sizes
            assert before.index is not None
            assert before.leaf_hash == copied.leaves["user"][before.index]
            assert all(
                found.leaves[log][n] == leaf
                for log in sizes
                for n, leaf in copied.leaves[log].items()
            )


def test_a_complete_copy_simply_opens(path: Path, tmp_path: Path, books: type[Books]) -> None:
    """A copy that holds everything that was signed goes on where it ends."""
    with indelible.open(path) as trail:
        pass
    with indelible.open(path, mode="r") as trail:
        trail.backup(tmp_path / "copy")

    assert {} == restore(tmp_path / "copy", path)

    with indelible.open(path) as trail:
        receipt = trail.record("order.ship", resource="order:1")
        assert ("user", 10) == (receipt.log, receipt.index)
        assert {"user", "auth", "admin", "custody"} == books(trail).sizes.keys()
        trail.verify().require()


def declared(trail: indelible.Trail) -> Iterator[dict[str, Any]]:
    """What successors say of those before them."""
    for item in trail.search("action:log.succeed").items:
        if not item.log.startswith("custody"):
            yield msgspec.convert(item.event.data, dict[str, Any])


def test_an_older_copy_goes_on_only_as_a_successor(
    path: Path, tmp_path: Path, books: type[Books]
) -> None:
    """A new log, with a new key, begins by naming the last tree that is known and what is lost."""
    with indelible.open(path) as trail:
        trail.backup(tmp_path / "copy")
    grow(path)
    with indelible.open(path) as trail, trail.store.read() as view:
        tree = view.heads()["user"].edge

    lost = restore(tmp_path / "copy", path)

    assert (10, 15) == lost["user"]
    assert lost.keys() == {"user", "custody"}
    with indelible.open(path) as trail:
        receipt = trail.record("order.ship", resource="order:1")
        assert ("user~2", 1) == (receipt.log, receipt.index)
        assert ("auth", 1) == (
            (login := trail.record("auth.login", resource="session:1")).log,
            login.index,
        )
        assert ["log.succeed", "order.ship"] == books(trail).actions["user~2"]
        (said,) = declared(trail)
        assert ("user", 10) == (said["predecessor"], said["size"])
        assert tree.size == said["known"]["size"]
        assert msgspec.json.encode(tree.root).decode().strip('"') == said["known"]["root"]
        assert trail.pins().read()["user~2"].key.to_text() == said["key"]
        assert 10 == books(trail).sizes["user"]
        trail.verify().require()


def test_a_copy_without_pins_and_mark_is_told_what_is_known(path: Path, tmp_path: Path) -> None:
    """On a new machine, a checkpoint that somebody kept decides whether the copy may go on."""
    with indelible.open(path) as trail:
        trail.backup(tmp_path / "copy")
    grow(path)
    with indelible.open(path) as trail, trail.store.read() as view:
        head = view.heads()["user"]
    shutil.rmtree(path)
    shutil.rmtree(tmp_path / "config")

    lost = restore(tmp_path / "copy", path, known={"user": Known(head.size, head.edge.root)})

    assert {"user": (10, 15)} == lost
    with indelible.open(path) as trail:
        assert "user~2" == trail.record("order.ship", resource="order:1").log


def test_restoring_twice_does_not_forget_the_first_loss(path: Path, tmp_path: Path) -> None:
    """What one restore has named lost, the next one names as well."""
    with indelible.open(path) as trail:
        trail.backup(tmp_path / "copy")
    grow(path)
    restore(tmp_path / "copy", path)
    grow(path, 2)

    lost = restore(tmp_path / "copy", path)

    assert ((10, 15), (0, 3)) == (lost["user"], lost["user~2"])
    with indelible.open(path) as trail:
        assert "user~3" == trail.record("order.ship", resource="order:1").log
        assert {"user": 15, "user~2": 3} == {
            said["predecessor"]: said["known"]["size"] for said in declared(trail)
        }
        trail.verify().require()


def test_a_copy_of_a_successor_simply_opens(path: Path, tmp_path: Path) -> None:
    """A loss that a copy names itself does not make it older than what is known."""
    with indelible.open(path) as trail:
        trail.backup(tmp_path / "copy")
    grow(path)
    restore(tmp_path / "copy", path)
    grow(path, 2)
    with indelible.open(path, mode="r") as trail:
        trail.backup(tmp_path / "second")
    shutil.rmtree(path)

    assert {} == restore(tmp_path / "second", path)

    with indelible.open(path) as trail:
        receipt = trail.record("order.ship", resource="order:1")
        assert ("user~2", 3) == (receipt.log, receipt.index)
        trail.verify().require()


def test_another_history_is_refused(path: Path, tmp_path: Path) -> None:
    """A copy that went its own way is not older: it is another log under the same name."""
    shutil.copytree(path, tmp_path / "fork")
    shutil.copytree(tmp_path / "config", tmp_path / "before")
    grow(path, 3)
    after = tmp_path / "after"
    (tmp_path / "config").rename(after)
    shutil.copytree(tmp_path / "before", tmp_path / "config")
    grow(tmp_path / "fork", 7)
    put_back(after, tmp_path / "config")

    with pytest.raises(Rollback, match="another history"):
        restore(tmp_path / "fork", path)

    with indelible.open(path) as trail:
        trail.verify().require()


def test_a_backup_of_another_trail_is_refused(path: Path, tmp_path: Path) -> None:
    """A trail, or anything else that is in the way, is never replaced by another one."""
    with indelible.open(tmp_path / "other") as other:
        other.record("order.ship", resource="order:1")
        other.backup(tmp_path / "copy")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "diary").touch()

    with pytest.raises(AlreadyATrail):
        restore(tmp_path / "copy", path)
    with pytest.raises(NotATrail):
        restore(tmp_path / "copy", tmp_path / "stranger")
    with pytest.raises(NotATrail):
        restore(tmp_path / "stranger", path)
    with indelible.open(path) as trail, pytest.raises(CallerError):
        trail.backup(tmp_path / "stranger")

    assert (tmp_path / "stranger" / "diary").exists()


def test_restoring_deletes_nothing(path: Path, tmp_path: Path, books: type[Books]) -> None:
    """A trail that is in the way is moved aside, whole, however often that happens."""
    with indelible.open(path) as trail:
        trail.backup(tmp_path / "copy")
    grow(path)
    with indelible.open(path, mode="r") as living:
        before = books(living)

        restore(tmp_path / "copy", path)
        restore(tmp_path / "copy", path)

        assert before.ids == books(living).ids
    moved = [tmp_path / f"trail.replaced-{number}" for number in (1, 2)]
    with indelible.open(moved[0], mode="r") as old:
        assert before.leaves == books(old).leaves
    assert moved == sorted(tmp_path.glob("trail.replaced-*"))
    assert [] == [*tmp_path.glob(".*")]


def test_a_backup_takes_the_keys_that_belong_to_it(
    path: Path, tmp_path: Path, make_event: Callable[..., Event]
) -> None:
    """While keys are rotated, a copy never gets a key that its own log does not know."""
    with indelible.open(path) as trail:
        for number in range(12):
            rotating = threading.Thread(target=trail.rotate_key)
            rotating.start()
            trail.backup(tmp_path / f"copy-{number}")
            rotating.join()
        trail.record(make_event())
        trail.verify().require()
    shutil.rmtree(tmp_path / "config")

    for number in range(12):
        with indelible.open(tmp_path / f"copy-{number}") as copy:
            copy.record(make_event())


def test_a_process_that_slept_through_a_rotation_signs_with_the_new_key(path: Path) -> None:
    """However many processes have the old key in memory, none signs with it any more."""
    with indelible.open(path) as first, indelible.open(path) as second:
        first.record("order.ship", resource="order:1")
        second.record("order.ship", resource="order:2")
        for _ in range(2):
            first.rotate_key()
            second.record("order.ship", resource="order:3")
            second.rotate_key("custody")
            second.rotate_key()
            first.record("order.ship", resource="order:4")
        second.verify().require()


def test_the_root_at_an_earlier_size_is_that_of_then(path: Path) -> None:
    """What a mark, a pin or a checkpoint names is compared with the same tree, grown."""
    with indelible.open(path) as trail:
        with trail.store.read() as view:
            before = view.heads()["user"].edge
        trail.record("order.ship", resource="order:1")

        with trail.store.read() as view:
            assert before.root == root_at(before.size, lambda *at: view.node("user", *at))
