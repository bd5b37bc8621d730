"""A trail just below every edge, children to kill, and how to look at what they left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.checkpoint import Checkpoint
from indelible.entry import Entry, verify_link
from indelible.event import Actor, Event, Outcome, Resource
from indelible.log import restore
from indelible.merkle import leaf_hash, root_at, root_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from indelible.note import VerifierKey

HERE = Path(__file__).parent
USER, AUTH = 65_500, 200


def event(action: str = "order.ship", number: int = 0) -> Event:
    """Return an event that goes to the stream of its *action*."""
    return Event(
        action=action,
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(f"user:u{number % 7}"),
        resource=Resource.parse(f"order:{number}"),
    )


def filling(count: int) -> Iterator[Event]:
    """
    Yield events that fill a log; 64 of each 4,096 name a person, the others a service.

    To verify that few values is a matter of a tenth of the time.
    """
    service = Actor(type="service", id="shop")
    for number in range(count):
        one = event(number=number)
        named = number % 4_096 < 64
        yield one if named else msgspec.structs.replace(one, actor=service)


class Children:
    """Starts children from a process that has everything loaded; see ``child.py``."""

    def __init__(self, preload: Path) -> None:
        self._server = subprocess.Popen(
            [sys.executable, HERE / "child.py", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(preload)},
        )

    def run(self, work: str, path: Path, **task: Any) -> tuple[list[dict[str, Any]], int]:
        """Let a child do *work*; return what it acknowledged and how it ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        task = {"work": work, "path": str(path), "config": os.environ["XDG_CONFIG_HOME"], **task}
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        return answer["acks"], answer["status"]

    def close(self) -> None:
        """End the server, which has no children left by then."""
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


class Books:
    """
    What a trail holds, read from its store and recomputed from the bytes.

    Args:
        since: Per log, the index from which on entries are looked at.
    """

    def __init__(
        self,
        trail: indelible.Trail,
        since: Mapping[str, int] | None = None,
        keys: Mapping[str, VerifierKey] | None = None,
    ) -> None:
        self.leaves: dict[str, dict[int, bytes]] = {}
        self.ids: Counter[str] = Counter()
        self.actions: dict[str, list[str]] = {}
        keys = {log: pin.key for log, pin in trail.pins().read().items()} if keys is None else keys
        with trail.store.read() as view:
            self.sizes = {log: head.size for log, head in view.heads().items()}
            for log, head in view.heads().items():
                first = min((since or {}).get(log, 0), head.size)
                entries = [restore(stored) for stored in view.stored(log, range(first, head.size))]
                leaves = [leaf_hash(entry) for entry in entries]
                self.leaves[log] = dict(enumerate(leaves, first))
                self.actions[log] = []
                for number, entry in enumerate(entries):
                    parsed = Entry.from_bytes(entry)
                    assert first + number == parsed.index
                    if number:
                        verify_link(parsed, leaves[number - 1])
                    found = json.loads(parsed.event)
                    self.ids[found["id"]] += 1
                    self.actions[log].append(found["action"])
                if first == 0:
                    assert root_of(leaves) == head.edge.root
                assert root_at(head.size, partial(view.node, log)) == head.edge.root
                if head.size and not view.rotations(log) and log in keys:
                    opened = Checkpoint.open(head.checkpoint, [keys[log]])
                    assert (head.size, head.edge.root) == (opened.size, opened.root)

    def hold(self, acks: Iterable[Mapping[str, Any]]) -> None:
        """Check that everything acknowledged is there, at its place, exactly once."""
        assert {1} >= set(self.ids.values()), "an entry is there twice"
        for ack in acks:
            if "index" in ack:
                assert ack["leaf"] == self.leaves[ack["log"]][ack["index"]].hex()
                assert 1 == self.ids[ack["id"]], "an acknowledged entry is missing"
            for one in ack.get("ids", ()):
                assert 1 == self.ids[one], "an entry of an acknowledged batch is missing"


@pytest.fixture
def books() -> type[Books]:
    """Read what a trail holds."""
    return Books


@pytest.fixture
def make_event() -> Callable[..., Event]:
    """Make an event of an action, by default one of the user stream."""
    return event


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration, with the pins of this test alone."""
    path = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def edge_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail whose logs end just below the edges of a tile and of a segment."""
    base = tmp_path_factory.mktemp("edge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with indelible.open(base / "trail", origin="edge.example") as trail:
            trail.record_many(filling(USER), batch=4_000)
            trail.record_many(event("auth.login", n) for n in range(AUTH))
    return base


@pytest.fixture
def edge(edge_master: Path, tmp_path: Path, config: Path) -> Path:
    """A copy of it, with its pins."""
    shutil.copytree(edge_master / "config", config)
    shutil.copytree(edge_master / "trail", tmp_path / "trail")
    return tmp_path / "trail"


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library between a program and libc that ``record_io.c`` makes."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.fail("no C compiler: install gcc and libc6-dev (`make system` does)")
    path = tmp_path_factory.mktemp("record_io") / "record_io.so"
    command: list[str | Path] = [compiler, "-Wall", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", path, HERE / "record_io.c", "-ldl", "-lpthread"], check=True)
    return path


@pytest.fixture(scope="session")
def children(recorder: Path) -> Iterator[Children]:
    """Children of one process that is loaded once."""
    with closing(Children(recorder)) as made:
        yield made
