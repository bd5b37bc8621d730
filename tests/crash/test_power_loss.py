"""
What survives when the power fails at any moment: everything that was acknowledged.

A child's writes, syncs and acknowledgements are recorded in order (``record_io.c``)
and played back on a model of a disk that forgets what was not synced. The model:

- Bytes written to a file since it was last synced may be lost, all or some of them,
  in any order, and one write may be torn at a sector.
- Names (created, renamed, removed) are durable once their directory was synced.
  Until then they may be lost, all or some of them. As on ext4 and XFS, a file that is
  synced keeps the name that it was created under, but not one that it was renamed to.
- A directory that was not synced into its own parent loses everything below it.
- Shared memory (``head.db-shm``) never survives.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

import indelible
from indelible.errors import IndelibleError
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from indelible.event import Event
    from tests.crash.conftest import Books

SECTOR = 512
Mode = Literal["lost", "kept", "some"]


class Operation(NamedTuple):
    """One line of the record: see ``record_io.c``."""

    kind: str
    inode: int
    at: int
    one: str
    two: str
    data: bytes


@dataclass(eq=False)
class File:
    """A file's bytes: those that are durable, and what was done since."""

    durable: bytes = b""
    pending: list[Operation] = field(default_factory=list)

    def bytes_after(self, mode: Mode, generator: random.Random) -> bytes:
        """Return what may be read after a crash."""
        if mode == "lost" or not self.pending:
            return self.durable
        data = bytearray(self.durable)
        torn = generator.randrange(2 * len(self.pending))
        for number, operation in enumerate(self.pending):
            if mode == "some" and generator.random() < 0.5:
                continue
            if operation.kind == "T":
                data[operation.at :] = bytes(max(operation.at - len(data), 0))
                continue
            written = operation.data
            if mode == "some" and number == torn:
                written = written[: generator.randrange(0, len(written) + 1, SECTOR)]
            if len(data) < operation.at:
                data += bytes(operation.at - len(data))
            data[operation.at : operation.at + len(written)] = written
        return bytes(data)


@dataclass
class Names:
    """Which files and directories there are, by path."""

    files: dict[str, File] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {""})

    def apply(self, operation: Operation, file: File | None) -> None:
        """Do what was done to a name, where that can be."""
        one, two = operation.one, operation.two
        match operation.kind:
            case "O" if file is not None:
                self.files[one] = file
            case "U":
                self.files.pop(one, None)
            case "M":
                self.directories.add(one)
            case "X":
                self.directories.discard(one)
            case "R":
                if one in self.files:
                    self.files[two] = self.files.pop(one)
                elif one in self.directories:
                    inside = f"{one}/"
                    for path in [path for path in self.files if path.startswith(inside)]:
                        self.files[two + path[len(one) :]] = self.files.pop(path)
                    moved = {path for path in self.directories if f"{path}/".startswith(inside)}
                    self.directories -= moved
                    self.directories |= {two + path[len(one) :] for path in moved}

    def copy(self) -> Names:
        """Return names that can be changed alone."""
        return Names(dict(self.files), set(self.directories))

    def reachable(self) -> Iterator[tuple[str, File]]:
        """Yield what is below directories that are there."""
        for path, file in self.files.items():
            parent = path.rpartition("/")[0]
            while parent and parent in self.directories:
                parent = parent.rpartition("/")[0]
            if not parent:
                yield path, file


class Disk:
    """A disk that forgets what was not synced."""

    def __init__(self, root: Path) -> None:
        self.inodes: dict[int, File] = {}
        self.durable = Names()
        for path in root.rglob("*"):
            name = f"/{path.relative_to(root)}"
            if path.is_dir():
                self.durable.directories.add(name)
            else:
                self.durable.files[name] = file = File(path.read_bytes())
                self.inodes[path.stat().st_ino] = file
        self.pending: list[tuple[Operation, File | None]] = []

    def apply(self, operation: Operation) -> None:
        """Do what the child did."""
        match operation.kind:
            case "W" | "T":
                self.inodes[operation.inode].pending.append(operation)
            case "S":
                file = self.inodes[operation.inode]
                file.durable = file.bytes_after("kept", random.Random(0))
                file.pending.clear()
                created = [op.one for op, made in self.pending if op.kind == "O" and made is file]
                self._settle(lambda pending: bool({pending.one, pending.two} & {*created}))
            case "D":
                self._settle(
                    lambda pending: (
                        operation.one
                        in {path.rpartition("/")[0] for path in (pending.one, pending.two) if path}
                    )
                )
            case kind:
                made: File | None = None
                if kind == "O":
                    made = self.inodes[operation.inode] = File()
                self.pending.append((operation, made))

    def _settle(self, chosen: Callable[[Operation], bool]) -> None:
        left = []
        for operation, file in self.pending:
            if chosen(operation):
                self.durable.apply(operation, file)
            else:
                left.append((operation, file))
        self.pending = left

    def put(self, target: Path, mode: Mode, generator: random.Random) -> None:
        """Write what may be there after a crash into the directory *target*."""
        names = self.durable.copy()
        for operation, file in self.pending:
            if mode == "kept" or (mode == "some" and generator.random() < 0.5):
                names.apply(operation, file)
        for path in sorted(names.directories - {""}):
            if all(
                str(parent) in names.directories
                for parent in Path(path).parents
                if parent != Path("/")
            ):
                (target / path[1:]).mkdir(exist_ok=True)
        for path, file in names.reachable():
            if not path.endswith("-shm") and path != "/acks":
                place = target / path[1:]
                place.write_bytes(file.bytes_after(mode, generator))
                place.chmod(0o600)


def operations(log: Path) -> list[Operation]:
    """Read a record."""
    found = []
    data = memoryview(log.read_bytes())
    at = 0
    while at < len(data):
        end = at + bytes(data[at : at + 128]).index(b"\n")
        kind, *numbers = bytes(data[at:end]).decode().split(" ")
        inode, offset, *lengths = map(int, numbers)
        at = end + 1
        parts = []
        for length in lengths:
            parts.append(bytes(data[at : at + length]))
            at += length
        found.append(Operation(kind, inode, offset, parts[0].decode(), parts[1].decode(), parts[2]))
    return found


@dataclass
class Run:
    """What a child did, on a disk that was first as *disk* says."""

    disk: Disk
    operations: list[Operation]
    acks: int

    def moments(self, generator: random.Random, between: int) -> list[int]:
        """Return all moments before and after a sync, and some *between*."""
        total = len(self.operations)
        syncs = {number for number, op in enumerate(self.operations) if op.kind in "SD"}
        others = set(range(total + 1)) - syncs
        chosen = generator.sample(sorted(others), min(between, len(others)))
        return sorted(syncs | {number + 1 for number in syncs} | {*chosen, total})


class Recorded:
    """Lets a child work below *root* and records what it does to the disk."""

    def __init__(self, root: Path, recorder: Path) -> None:
        self.root = root
        self._recorder = recorder
        self._log = root.with_name("operations")
        (root / "acks").touch()

    def run(self, work: str, *, unsafe: bool = False, **options: Any) -> Run:
        """Let the child do *work*."""
        disk = Disk(self.root)
        task = {
            "work": work,
            "path": str(self.root / "trail"),
            "config": str(self.root / "config"),
            "watched": str(self.root),
            "log": str(self._log),
            "unsafe": unsafe,
            "options": options,
        }
        child = Path(__file__).with_name("child.py")
        subprocess.run(
            [sys.executable, child, "run", json.dumps(task), self.root / "acks"],
            env={**os.environ, "LD_PRELOAD": str(self._recorder)},
            check=True,
        )
        acks = (self.root / "acks").stat().st_ino
        return Run(disk, operations(self._log), acks)


@pytest.fixture
def recorded(tmp_path: Path, recorder: Path) -> Recorded:
    """A disk with nothing on it."""
    (tmp_path / "disk").mkdir()
    return Recorded(tmp_path / "disk", recorder)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A place to put what survived; in memory, where there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - only a temporary directory in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


def survivors(
    run: Run, moments: Iterable[int], scratch: Path, modes: Sequence[Mode], seed: int
) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Yield directories that may be there after a crash, and what was acknowledged by then."""
    generator = random.Random(seed)
    wanted = set(moments)
    said = bytearray()
    for number, operation in enumerate([*run.operations, None]):
        if number in wanted:
            acks = [json.loads(line) for line in said.splitlines()]
            for mode in modes:
                with tempfile.TemporaryDirectory(dir=scratch) as name:
                    place = Path(name)
                    run.disk.put(place, mode, generator)
                    yield place, acks
        if operation is not None:
            if operation.inode == run.acks and operation.kind == "W":
                said += operation.data
            run.disk.apply(operation)


def look(
    place: Path,
    acks: list[dict[str, Any]],
    books: type[Books],
    *,
    since: dict[str, int] | None = None,
    go_on: bool,
) -> None:
    """Open what survived, check that everything acknowledged is there once, and go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        with ExitStack() as stack:
            # In the right order when a check fails: the trail is closed with the patch in place.
            trail = stack.enter_context(indelible.open(place / "trail", origin="edge.example"))
            found = books(trail, since)
            found.hold(acks)
            if go_on:
                receipt = trail.record("order.ship", resource="order:9")
                assert found.sizes["user"] == receipt.index
                if trail.pins().read().keys() >= found.sizes.keys():
                    trail.verify().require()


def losses(
    run: Run,
    moments: Iterable[int],
    scratch: Path,
    books: type[Books],
    *,
    since: dict[str, int] | None = None,
    seed: int = 0,
    modes: Sequence[Mode] = ("lost", "kept", "some", "some"),
) -> Iterator[str]:
    """Yield what does not hold after a crash at one of the *moments*."""
    generator = random.Random(seed)
    for place, acks in survivors(run, moments, scratch, modes, seed):
        try:
            look(place, acks, books, since=since, go_on=generator.random() < 0.1)
        except (AssertionError, KeyError, IndelibleError) as error:
            yield f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in (2, 3))])
def test_what_was_acknowledged_survives_a_loss_of_power(
    recorded: Recorded, scratch: Path, books: type[Books], seed: int
) -> None:
    """From the first moment of a trail to its last, nothing that was promised is lost."""
    run = recorded.run("load", seed=seed, threads=3, turns=6)

    assert 5 <= sum(operation.inode == run.acks for operation in run.operations)
    moments = run.moments(random.Random(seed), 40)
    assert [] == list(losses(run, moments, scratch, books, seed=seed))


def test_a_store_that_does_not_sync_would_be_caught(
    recorded: Recorded, scratch: Path, books: type[Books]
) -> None:
    """The same test fails when SQLite is told not to sync, so it tests what it says."""
    run = recorded.run("load", seed=1, threads=1, turns=3, unsafe=True)

    moments = [
        number + 1 for number, operation in enumerate(run.operations) if operation.inode == run.acks
    ]
    found = list(losses(run, moments, scratch, books, modes=["lost"]))

    assert len(moments) == len(found)


def test_a_rotation_survives_a_loss_of_power(
    recorded: Recorded, scratch: Path, books: type[Books], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the power fails, the key that the log goes on with is among those left."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(recorded.root / "config"))
    with indelible.open(recorded.root / "trail", origin="edge.example") as trail:
        trail.record("order.ship", resource="order:1")
    run = recorded.run("rotate")

    for place, acks in survivors(
        run, run.moments(random.Random(1), 20), scratch, ("lost", "kept", "some"), 1
    ):
        look(place, acks, books, go_on=True)


def test_segments_survive_a_loss_of_power(
    recorded: Recorded,
    edge: Path,
    config: Path,
    scratch: Path,
    books: type[Books],
    make_event: Callable[..., Event],
) -> None:
    """While a segment is completed, closed and dropped from the head, no entry of it is lost."""
    with indelible.open(edge) as trail:
        sizes = books(trail, {"user": SEGMENT}).sizes
        trail.record_many(make_event(number=n) for n in range(sizes["user"], SEGMENT - 1))
    shutil.move(edge, recorded.root / "trail")
    shutil.move(config, recorded.root / "config")
    run = recorded.run("settle")

    generator = random.Random(2)
    moments = run.moments(generator, 0)
    found = list(losses(run, moments, scratch, books, since=sizes, seed=2, modes=("lost", "some")))
    assert [] == found
