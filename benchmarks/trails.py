"""
Trails to measure on, each in a directory of its own that also holds its pins.

::

    home/trail      the trail
    home/config     what the user's configuration would hold
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks import policies
from benchmarks.events import CHUNK, chunk
from indelible.segment import SEGMENT
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.figures import Task
    from indelible.event import Event
    from indelible.policy import Policy
    from indelible.trail import Closing

ORIGIN = "benchmark.example/trail"
LOG = "user"
"""Where all events of `benchmarks.events` go."""


def whole_segments(entries: int) -> int:
    """Return the next number of entries that leaves no segment half full."""
    return -(-entries // SEGMENT) * SEGMENT


@contextmanager
def made(
    home: Path, *, closing: Closing = "thread", policy: Policy | None = None
) -> Iterator[Trail]:
    """
    Make a trail in *home*; this process and those it starts pin there from now on.

    Args:
        policy: By default one that keeps everything in clear.
    """
    home.mkdir()
    _pin_in(home)
    Trail.create(
        home / "trail",
        origin=ORIGIN,
        policy=policies.clear() if policy is None else policy,
    ).close()
    with Trail(home / "trail", closing=closing) as trail:
        yield trail


@contextmanager
def opened(home: Path) -> Iterator[Trail]:
    """Open the trail in *home*; this process and those it starts pin there from now on."""
    _pin_in(home)
    with Trail(home / "trail") as trail:
        yield trail


def build(home: Path, entries: int, *, policy: Policy | None = None) -> None:
    """Build a trail of *entries* in *home*, for several benchmarks to measure on."""
    home.parent.mkdir(parents=True, exist_ok=True)
    started = perf_counter()
    with made(home, closing="process", policy=policy) as trail:
        done = 0
        while done < entries:
            done += trail.record_many(_part(done, min(SEGMENT, entries - done)))
            print(f"\r{done:,} of {entries:,} entries", end="", flush=True)
        trail.settle()
    print(f" in {perf_counter() - started:,.0f} s, making the events included")


def home_of(task: Task, entries: int) -> Path:
    """Return the home that *task* names, or build one of so many *entries*."""
    if task.home is not None:
        return task.home
    home = task.scratch / "home"
    build(home, entries)
    return home


def size_of(trail: Trail) -> int:
    """Return how many entries the log of `benchmarks.events` has."""
    with trail.store.read() as view:
        return view.heads()[LOG].size


def _part(first: int, count: int) -> Iterator[Event]:
    for number in range(first // CHUNK, -(-(first + count) // CHUNK)):
        yield from chunk(number)[: first + count - CHUNK * number]


def _pin_in(home: Path) -> None:
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")
