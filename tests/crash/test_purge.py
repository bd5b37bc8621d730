"""Killed at any moment of a purge: what is left is whole, and what is gone is gone for good."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import indelible
from indelible.purging import resume
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from indelible.event import Event
    from tests.crash.conftest import Books, Children

KILLED = -signal.SIGKILL
AFTER = 300
"""Entries after the closed segment."""


@pytest.fixture
def closed(edge: Path, make_event: Callable[..., Event]) -> Path:
    """A trail with a closed segment and some entries after it."""
    with indelible.open(edge) as trail:
        with trail.store.read() as view:
            size = view.heads()["user"].size
        trail.record_many((make_event(number=n) for n in range(size, SEGMENT + AFTER)), batch=4_000)
        trail.settle()
    return edge


def contents(path: Path) -> bytes:
    """Return all bytes of all files of a trail."""
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def probes(path: Path, first: int) -> tuple[list[bytes], list[bytes]]:
    """Return bytes that files hold of what comes before *first*, and of what comes after."""
    gone: list[bytes] = []
    left: list[bytes] = []
    for folder, rows, width in (
        ("segments", "SELECT number, data FROM block WHERE number % 64 = 1", 64),
        ("vault", "SELECT place, row FROM vault WHERE place % 4096 = 0", 1),
    ):
        with closing(sqlite3.connect(path / folder / "user" / "000000")) as file:
            for place, data in file.execute(rows):
                (gone if place * width < first else left).append(data[-40:])
    return gone, left


@pytest.mark.parametrize("first", [20_480, SEGMENT, SEGMENT + 256])
def test_a_purge_that_was_cut_off_is_completed_by_the_next(
    children: Children,
    books: type[Books],
    closed: Path,
    tmp_path: Path,
    config: Path,
    first: int,
) -> None:
    """
    Killed anywhere while it purges, a process leaves a trail that verifies and goes on.

    Either nothing was purged and nothing says so, or nobody finds the entries, and whoever
    comes next removes them from all files.
    """
    kept = tmp_path / "kept"
    closed.rename(kept)
    shutil.copytree(config, tmp_path / "known")
    gone, left = probes(kept, first)
    generator = random.Random(first)

    def run(kill_at: int) -> tuple[list[dict[str, Any]], int]:
        shutil.rmtree(closed, ignore_errors=True)
        shutil.rmtree(config, ignore_errors=True)
        shutil.copytree(kept, closed)
        shutil.copytree(tmp_path / "known", config)
        task = {"watched": str(closed), "kill_at": kill_at, "options": {"first": first}}
        return children.run("purge_prefix", closed, **task)

    said, status = run(0)
    assert 0 == status
    total = said[-1]["operations"]
    # Some while the vault and the file are written; most where files change their places.
    moments = {
        *generator.sample(range(1, total - 80), 2),
        *generator.sample(range(total - 80, total), 6),
    }
    begun = 0

    for moment in sorted(moments):
        said, status = run(moment)
        assert KILLED == status
        with indelible.open(closed) as trail:
            trail.verify(values=False).require()
            with trail.store.read() as view:
                purged = view.heads()["user"].first
            actions = books(trail, {"user": SEGMENT + 256}).actions["custody"]
            assert (first if "log.purge" in actions else 0) == purged
            begun += bool(purged)
            if purged:
                resume(trail, datetime.now(UTC))
                after = contents(closed)
                assert not any(each in after for each in gone)
                assert all(each in after for each in left)
                names = [file.name for file in (closed / "segments" / "user").iterdir()]
                assert [f"000000-{min(first, SEGMENT) // 256:03d}"] == names
                actions = books(trail, {"user": SEGMENT + 256}).actions["custody"]
                assert (1, 1) == (actions.count("log.purge"), actions.count("segment.purge"))
            if moment == max(moments):
                trail.record("order.ship", resource="order:2")
                trail.verify(deep=True).require()
    assert begun > len(moments) // 2
