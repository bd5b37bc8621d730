"""Killed at any moment: what was acknowledged is there, once, and the trail goes on."""

from __future__ import annotations

import random
import shutil
import signal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.backup import restore
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.event import Event
    from tests.crash.conftest import Books, Children

KILLED = -signal.SIGKILL
KILLS = 24


def load_and_kill(
    children: Children, books: type[Books], path: Path, *, seed: int, kills: int
) -> None:
    """Kill children that record into the trail at *path*, and look after each kill."""
    generator = random.Random(seed)
    acks: list[dict[str, Any]] = []
    with indelible.open(path) as trail, trail.store.read() as view:
        first = seen = {log: head.size for log, head in view.heads().items()}
    for kill in range(kills):
        said, status = children.run(
            "load",
            path,
            acks=generator.randrange(60),
            seconds=generator.random() * 0.005,
            options={"seed": seed * 1_000 + kill},
        )
        acks += said
        assert KILLED == status
        with indelible.open(path) as trail:
            found = books(trail, seen)
            found.hold(said)
        # What nobody was told of may be there or not, but nothing disappears.
        assert all(found.sizes[log] >= size for log, size in seen.items())
        seen = found.sizes

    with indelible.open(path) as trail:
        books(trail, first).hold(acks)
        trail.record("order.ship", resource="order:1")
        trail.settle()
        trail.verify().require()


@pytest.mark.parametrize(
    "seed",
    [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 8))],
)
def test_what_was_acknowledged_survives_a_kill_under_load(
    children: Children, books: type[Books], tmp_path: Path, seed: int
) -> None:
    """A process that is killed while its threads record loses and doubles nothing it promised."""
    load_and_kill(children, books, tmp_path / "trail", seed=seed, kills=KILLS)


@pytest.mark.parametrize("seed", [100, pytest.param(101, marks=pytest.mark.soak)])
def test_what_was_acknowledged_survives_a_kill_at_the_edges(
    children: Children, books: type[Books], edge: Path, seed: int
) -> None:
    """The same while tiles and a segment are completed, and the segment is being closed."""
    load_and_kill(children, books, edge, seed=seed, kills=KILLS)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1_000, 1_040))
def test_what_was_acknowledged_survives_many_kills(
    children: Children, books: type[Books], edge: Path, seed: int
) -> None:
    """The same, a thousand times and more."""
    load_and_kill(children, books, edge, seed=seed, kills=60)


each_operation = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])


def killed_at_each_operation(
    children: Children,
    work: str,
    path: Path,
    watched: Path,
    prepare: Callable[[], None],
    *,
    step: int,
    **options: Any,
) -> Iterator[list[dict[str, Any]]]:
    """Kill a child before its first operation on the disk, a later one, and so on to its last."""
    operation = 1 - step
    while True:
        operation += step
        prepare()
        said, status = children.run(
            work, path, watched=str(watched), kill_at=operation, options=options
        )
        yield said
        if status == 0:
            assert operation > said[-1]["operations"]
            return
        assert KILLED == status


@each_operation
def test_a_trail_whose_making_was_cut_off_is_made_by_the_next(
    children: Children, books: type[Books], tmp_path: Path, step: int
) -> None:
    """Killed anywhere while it makes a trail, a process leaves one or none, never half of one."""
    base = tmp_path / "base"

    def prepare() -> None:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()

    for said in killed_at_each_operation(
        children, "create", base / "a" / "trail", base, prepare, step=step
    ):
        with indelible.open(base / "a" / "trail") as trail:
            trail.record("order.ship", resource="order:2")
            books(trail).hold(said)
            trail.verify().require()


@pytest.fixture
def small(tmp_path: Path, config: Path, make_event: Callable[..., Event]) -> Callable[[], None]:
    """A trail with a few entries and its pins, made new by each call."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record_many([make_event(number=number) for number in range(20)])
        trail.record(make_event("auth.login"))
    shutil.copytree(tmp_path / "trail", tmp_path / "kept" / "trail")
    shutil.copytree(config, tmp_path / "kept" / "config")

    def renew() -> None:
        shutil.rmtree(tmp_path / "trail", ignore_errors=True)
        shutil.rmtree(config, ignore_errors=True)
        shutil.copytree(tmp_path / "kept" / "trail", tmp_path / "trail")
        shutil.copytree(tmp_path / "kept" / "config", config)

    return renew


@each_operation
def test_a_rotation_that_was_cut_off_is_finished_or_undone(
    children: Children, books: type[Books], tmp_path: Path, small: Callable[[], None], step: int
) -> None:
    """Killed while a key is rotated, a process leaves a log that one key can go on with."""
    path = tmp_path / "trail"

    for said in killed_at_each_operation(children, "rotate", path, path, small, step=step):
        with indelible.open(path) as trail:
            for stream in ("order.ship", "auth.login"):
                trail.record(stream, resource="order:2")
            books(trail).hold(said)
            trail.verify().require()
            assert trail.rotate_key("user") == trail.verifier_key("user")
            trail.record("order.ship", resource="order:3")
            trail.verify().require()


@each_operation
def test_a_backup_that_was_cut_off_is_whole_or_not_there(
    children: Children, books: type[Books], tmp_path: Path, small: Callable[[], None], step: int
) -> None:
    """Killed anywhere while it copies, a process leaves no half copy under the copy's name."""
    path, target = tmp_path / "trail", tmp_path / "backups" / "copy"

    def prepare() -> None:
        small()
        shutil.rmtree(target.parent, ignore_errors=True)

    for _ in killed_at_each_operation(
        children, "backup", path, tmp_path, prepare, step=step, target=str(target)
    ):
        with indelible.open(path) as trail:
            if not target.exists():
                trail.backup(target)
            trail.verify().require()
        with indelible.open(target, mode="r") as copy:
            found = books(copy)
            assert 20 == found.sizes["user"]
        assert {"trail.json", "keys", "mark", "head.db", "segments"} <= {
            file.name for file in target.iterdir()
        }
        assert not (target.parent / ".copy.partial").exists()


@each_operation
def test_a_restore_that_was_cut_off_does_not_make_a_fork(
    children: Children,
    books: type[Books],
    tmp_path: Path,
    config: Path,
    small: Callable[[], None],
    make_event: Callable[..., Event],
    step: int,
) -> None:
    """
    Killed anywhere while it restores, a process leaves enough to know what is lost.

    The old copy goes on only as a successor, also if nothing but the trail that was
    moved aside knows how far its log had come.
    """
    small()
    path, copy, newer = tmp_path / "trail", tmp_path / "copy", tmp_path / "newer"
    with indelible.open(path) as trail:
        trail.backup(copy)
        pins = trail.pins().path.read_bytes()
        trail.record_many([make_event(number=number) for number in range(7)])
    trail.pins().path.write_bytes(pins)
    shutil.copytree(path, newer)
    shutil.copytree(config, tmp_path / "known")

    def prepare() -> None:
        for old in (path, *tmp_path.glob("trail.replaced-*"), config):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(newer, path)
        shutil.copytree(tmp_path / "known", config)

    for _ in killed_at_each_operation(
        children, "restore", path, tmp_path, prepare, step=step, source=str(copy)
    ):
        restore(copy, path)

        with indelible.open(path) as restored:
            restored.record("order.ship", resource="order:9")
            found = books(restored)
            successor = restored.search("action:log.succeed")
            restored.verify().require()
        assert 20 == found.sizes["user"]
        named = [msgspec.convert(item.event.data, dict[str, Any]) for item in successor.items]
        assert 27 in {known["known"]["size"] for known in named if known["predecessor"] == "user"}
        moved = [*tmp_path.glob("trail.replaced-*")]
        assert moved
        assert any(len([*old.glob("head.db")]) for old in moved)


def test_a_segment_whose_closing_was_cut_off_is_closed_again(
    children: Children,
    books: type[Books],
    edge: Path,
    tmp_path: Path,
    config: Path,
    make_event: Callable[..., Event],
) -> None:
    """Killed anywhere while it closes a segment, a process leaves it open or closed, and whole."""
    with indelible.open(edge) as trail:
        start = books(trail, {"user": SEGMENT}).sizes
        trail.record_many(make_event(number=n) for n in range(start["user"], SEGMENT - 1))
    kept = tmp_path / "kept"
    edge.rename(kept)
    shutil.copytree(config, tmp_path / "known")
    generator = random.Random(5)

    def run(kill_at: int) -> tuple[list[dict[str, Any]], int]:
        shutil.rmtree(edge, ignore_errors=True)
        shutil.rmtree(config, ignore_errors=True)
        shutil.copytree(kept, edge)
        shutil.copytree(tmp_path / "known", config)
        return children.run("settle", edge, watched=str(edge), kill_at=kill_at)

    said, status = run(0)
    assert 0 == status
    total = said[-1]["operations"]
    # Most operations write the file; the few that matter most come before the end.
    moments = {
        *generator.sample(range(1, total - 40), 3),
        *generator.sample(range(total - 40, total), 5),
    }

    for moment in sorted(moments):
        said, status = run(moment)
        assert KILLED == status
        with indelible.open(edge) as trail:
            books(trail, start).hold(said)
            trail.record("order.ship", resource="order:2")
            trail.settle()
            with trail.store.read() as view:
                assert 1 == len(view.segments("user"))
                assert SEGMENT <= view.heads()["user"].size
            trail.verify(deep=moment == max(moments)).require()
        assert ["000000"] == [file.name for file in (edge / "segments" / "user").iterdir()]
