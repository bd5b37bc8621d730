"""
Query: a page of 50 for one actor, opening, and proofs, in a small trail and a large one.

The trails take turns. Busy actors fill a page in both; quiet ones do only in the
large one, and their entries are spread over many segments. Both keep everything in
clear; `benchmarks.guarded` compares pages with those of a trail that does not.
"""

from __future__ import annotations

from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.events import ACTORS, CHUNK, actor, chunk
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.stopwatch import percentile
from benchmarks.trails import build, home_of, opened, size_of
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SMALL = 100_000
_PAGE = 50
_SAMPLES = 200
_OPENINGS = 20
_BUSY = range(10, 10 + _SAMPLES)
_QUIET = range(ACTORS - _SAMPLES, ACTORS)
_WARM_UP = range(1_000, 1_020)


def run(task: Task) -> Result:
    """Measure it."""
    large_home = home_of(task, task.entries)
    small_home = task.scratch / "small"
    build(small_home, min(_SMALL, task.entries))
    with opened(large_home) as large, opened(small_home) as small:
        entries = size_of(large)
        _pages((large, small), _WARM_UP)
        busy, busy_small = _pages((large, small), _BUSY)
        quiet, quiet_small = _pages((large, small), _QUIET)
        ids = list(_ids(entries))
        proofs = _proofs(large, ids)
    openings, small_openings = _openings(large_home), _openings(small_home)
    return result(
        "query",
        entries,
        *busy.figures("page"),
        *busy_small.figures("page.small"),
        Figure(
            key="query.ratio",
            value=percentile(busy.times, 50) / percentile(busy_small.times, 50),
            unit="×",
        ),
        Figure(
            key="query.ratio.p99",
            value=percentile(busy.times, 99) / percentile(busy_small.times, 99),
            unit="×",
        ),
        *quiet.figures("quiet"),
        *quiet_small.figures("quiet.small"),
        Figure(key="query.proof.p50", value=percentile(proofs, 50), unit="ms"),
        Figure(key="query.proof", value=percentile(proofs, 99), unit="ms"),
        Figure(key="query.open", value=percentile(openings, 50), unit="ms"),
        Figure(key="query.open.small", value=percentile(small_openings, 50), unit="ms"),
    )


class _Pages:
    """What pages of one kind took, in milliseconds, and how full they were."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.items = 0

    def ask(self, trail: Trail, number: int) -> None:
        """Ask for the newest page of an actor."""
        query = f"actor:{actor(number)}"
        started = perf_counter()
        page = trail.search(query, limit=_PAGE)
        self.times.append((perf_counter() - started) * 1e3)
        self.items += len(page.items)

    def figures(self, name: str) -> Iterator[Figure]:
        """Yield median and 99th percentile."""
        note = f"{self.items / len(self.times):.0f} entries a page"
        for percent in (50, 99):
            yield Figure(
                key=f"query.{name}.p{percent}",
                value=percentile(self.times, percent),
                unit="ms",
                note=note,
            )


def _pages(trails: Sequence[Trail], actors: range) -> list[_Pages]:
    """Ask each of *trails* for the page of each of *actors*, one after the other."""
    pages = [_Pages() for _ in trails]
    for number in actors:
        for trail, asked in zip(trails, pages, strict=True):
            asked.ask(trail, number)
    return pages


def _ids(entries: int) -> Iterator[str]:
    """Yield ids of events from all over the trail."""
    random = Random(entries)
    for _ in range(_SAMPLES):
        index = random.randrange(entries)
        yield chunk(index // CHUNK)[index % CHUNK].id


def _openings(home: Path) -> list[float]:
    times = []
    for _ in range(_OPENINGS):
        started = perf_counter()
        trail = Trail(home / "trail")
        times.append((perf_counter() - started) * 1e3)
        trail.close()
    return times


def _proofs(trail: Trail, ids: Sequence[str]) -> list[float]:
    times = []
    for event_id in ids:
        started = perf_counter()
        trail.prove(event_id)
        times.append((perf_counter() - started) * 1e3)
    return times
