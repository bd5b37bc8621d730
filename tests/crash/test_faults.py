"""Answers that are lost, disks that fail or are full: nothing lost, nothing twice, nothing half."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

import indelible
from indelible.closer import Closer
from indelible.custody import Custody
from indelible.errors import StoreError, StoreFull, WriteUncertain
from indelible.seal import seal
from indelible.segment import SEGMENT, TILE
from indelible.testing import Faulty, FrozenClock
from indelible.writer import Pending, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.event import Event
    from indelible.keys import Signer
    from indelible.store import Head, Store
    from tests.crash.conftest import Books, Children

LOST, UNDONE, FINE = True, False, None


@pytest.fixture
def brim(edge: Path, make_event: Callable[..., Event]) -> Iterator[indelible.Trail]:
    """A trail in which one more entry completes a tile of one log, and a segment of another."""
    with indelible.open(edge) as trail:
        with trail.store.read() as view:
            sizes = {log: head.size for log, head in view.heads().items()}
        trail.record_many(make_event(number=n) for n in range(sizes["user"], SEGMENT - 1))
        trail.record_many(make_event("auth.login", n) for n in range(sizes["auth"], TILE - 1))
        yield trail


@pytest.mark.parametrize(
    "plan",
    [
        *[(LOST,), (UNDONE,), (LOST, LOST), (LOST, UNDONE), (UNDONE, LOST), (UNDONE, UNDONE)],
        *[(LOST, LOST, LOST), (UNDONE, LOST, UNDONE), (UNDONE, UNDONE, UNDONE)],
    ],
)
def test_a_lost_answer_at_the_edges_neither_loses_nor_doubles_an_entry(
    plan: tuple[bool, ...],
    brim: indelible.Trail,
    books: type[Books],
    make_event: Callable[..., Event],
) -> None:
    """The same holds where the entries complete a tile and a segment; a receipt is always right."""
    faulty = Faulty(brim.store, *plan)
    writer = Writer(
        faulty,
        signer_of=brim.signer_of,
        now=FrozenClock(2_000_000_000_000_000),
        custody=Custody(brim.id),
        committed=lambda _: None,
    )
    events = {
        "user": [seal(make_event()), seal(make_event())],
        "auth": [seal(make_event("auth.login")), seal(make_event("auth.login"))],
    }
    pending = Pending(events)

    writer.submit(pending)
    if len(plan) < 3:
        placed = pending.result()
    else:
        with pytest.raises(WriteUncertain):
            pending.result()
    writer.stop()

    found = books(brim, {"user": SEGMENT - 2, "auth": TILE - 2})
    kept = len(plan) < 3 or LOST in plan
    assert SEGMENT - 1 + 2 * kept == found.sizes["user"]
    assert TILE - 1 + 2 * kept == found.sizes["auth"]
    assert [kept] * 4 == [found.ids[one.id] for sealed in events.values() for one in sealed]
    if len(plan) < 3:
        for stream, first in (("user", SEGMENT - 1), ("auth", TILE - 1)):
            where = placed[stream]
            assert (stream, first) == (where.log, where.first)
            there = found.leaves[stream]
            assert [there[first], there[first + 1]] == list(where.leaves)
        assert len(plan) + 2 >= faulty.writes


@dataclass
class Owner:
    """What a closer needs of a trail, over another store."""

    id: str
    store: Store
    trail: indelible.Trail

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        return self.trail.signer_of(head)


@pytest.mark.parametrize("persists", [LOST, UNDONE])
def test_a_lost_answer_neither_loses_nor_doubles_a_segment(
    persists: bool, brim: indelible.Trail, books: type[Books], make_event: Callable[..., Event]
) -> None:
    """A segment is named closed once, whether or not the write that failed had closed it."""
    brim.record_many([make_event(), make_event()])
    closer = Closer(Owner(brim.id, Faulty(brim.store, persists), brim))

    try:
        closer.settle()
    except WriteUncertain:
        closer.settle()
    brim.settle()

    assert 1 == books(brim, {"user": SEGMENT}).actions["custody"].count("segment.close")
    with brim.store.read() as view:
        assert [0] == [segment.number for segment in view.segments("user")]
    brim.verify().require()


@pytest.mark.parametrize("persists", [LOST, UNDONE])
def test_after_a_lost_answer_the_right_key_signs(
    persists: bool, tmp_path: Path, make_event: Callable[..., Event]
) -> None:
    """Whether or not a rotation happened whose answer was lost, what follows can be verified."""
    with indelible.open(tmp_path / "trail") as trail:
        trail.record(make_event())
        old = trail.verifier_key()
        store = trail.store
        trail.store = cast("Any", Faulty(store, persists))

        with pytest.raises(WriteUncertain):
            trail.rotate_key()

        trail.store = store
        trail.record(make_event())
        assert persists == (old != trail.verifier_key())
        trail.verify().require()


DEFINITE = {"StoreError", "StoreFull", "StoreReadOnly"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("count", [1, 1_000_000])
def test_a_failing_disk_neither_loses_nor_doubles_an_entry(
    code: int, count: int, children: Children, books: type[Books], tmp_path: Path
) -> None:
    """
    Whichever operation of the disk fails, once or for good, each event ends as was said.

    What was acknowledged is there once; what raised `StoreError` is not there; and
    when the disk works again, so does recording.
    """
    path = tmp_path / "trail"
    with indelible.open(path) as trail:
        trail.record("order.ship", resource="order:1")
    kinds: set[str] = set()
    at, tried = 0, 1
    while at < tried:
        at += 1
        said, status = children.run(
            "faulty_disk",
            path,
            watched=str(path),
            options={"at": at, "count": count, "error": code},
        )
        assert 0 == status
        tried = max(ack.get("tried", 0) for ack in said)
        with indelible.open(path) as trail:
            found = books(trail)
        found.hold(said)
        assert 2 <= sum("index" in ack for ack in said)
        for ack in said:
            if "failed" in ack:
                kinds.add(ack["failed"])
                assert ack["failed"] in DEFINITE | {"WriteUncertain"}
                if ack["failed"] in DEFINITE:
                    assert 0 == found.ids[ack["id_"]]

    if count > 1:
        assert kinds & ({"StoreFull"} if code == errno.ENOSPC else DEFINITE | {"WriteUncertain"})
    with indelible.open(path) as trail:
        trail.verify().require()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("only root may mount; failing writes are tested above all the same")
    path = tmp_path / "disk"
    path.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here; failing writes are tested above all the same")
    yield path
    subprocess.run([umount, str(path)], check=True)


def test_on_a_full_disk_recording_is_refused_and_goes_on_when_there_is_room(
    small_disk: Path, books: type[Books], make_event: Callable[..., Event]
) -> None:
    """A full disk raises `StoreFull`, leaves nothing half written, and blocks nothing for good."""
    acks: list[dict[str, Any]] = []
    with indelible.open(small_disk / "trail") as trail:

        def record() -> None:
            receipt = trail.record(make_event())
            assert receipt.leaf_hash is not None
            acks.append(
                {
                    "log": receipt.log,
                    "index": receipt.index,
                    "id": receipt.id,
                    "leaf": receipt.leaf_hash.hex(),
                }
            )

        record()
        filler = small_disk / "filler"
        for _ in range(3):
            with (
                filler.open("wb", buffering=0) as file,
                pytest.raises(OSError, match="No space"),
            ):
                while True:
                    file.write(bytes(4_096))
            with pytest.raises(StoreFull):
                for _ in range(1_000):
                    record()
            with pytest.raises(StoreFull):
                trail.record_many([make_event()] * 100)
            filler.unlink()
            record()

        found = books(trail)
        found.hold(acks)
        assert len(acks) == found.sizes["user"]
        trail.verify().require()
    assert issubclass(StoreFull, StoreError)
