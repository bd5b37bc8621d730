"""
Guarded: what the default policy costs, against keeping everything in clear.

Bulk recording is compared with one SQLite table with five indexes that keeps everything
in clear, as `benchmarks.bulk` does, and in the same way: before and after it. Each of the
events of the back office has four to six committed values in four boxes.

What is at rest, and what opening takes, is measured with events that have six committed
fields in three classes, see `benchmarks.profiles`. Pages for one actor and facets are those
of the back office: committed here, public there; both trails take turns, and every value is
opened and verified.
"""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from itertools import islice
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks import bulk, policies, profiles
from benchmarks.events import actor
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.size import FREE, parts_of
from benchmarks.stopwatch import percentile
from benchmarks.trails import LOG, made, opened, whole_segments
from indelible.box import Row, ValueState
from indelible.query import items
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from indelible.trail import Trail

_PAGE = 50
_SAMPLES = 100
_BUSY = range(10, 10 + _SAMPLES)
_WARM_UP = range(1_000, 1_020)
_COUNTS = 3
_BOXES = 3


def run(task: Task) -> Result:
    """Measure it."""
    entries = whole_segments(task.entries)
    guarded = policies.guarded()
    note = sync_note(task.scratch)
    before = bulk.indelible(task.scratch / "before", entries, policy=guarded)
    base = bulk.baseline(task.scratch / "baseline.db", entries)
    after = bulk.indelible(task.scratch / "after", entries, policy=guarded)
    clear = bulk.indelible(task.scratch / "clear", entries)
    note += f" before, {sync_note(task.scratch)} after"
    ours = (before.wall + after.wall) / 2
    _build_profiles(task.scratch / "profiles", SEGMENT)
    return result(
        "guarded",
        entries,
        Figure(key="guarded.bulk", value=entries / ours, unit="entries/s", note=note),
        Figure(key="guarded.bulk.baseline", value=entries / base.wall, unit="entries/s"),
        Figure(key="guarded.bulk.clear", value=entries / clear.wall, unit="entries/s"),
        Figure(key="guarded.ratio", value=base.wall / ours, unit="×", note="the goal is 1.5"),
        Figure(key="guarded.ratio.first", value=base.wall / before.wall, unit="×"),
        Figure(key="guarded.ratio.second", value=base.wall / after.wall, unit="×"),
        *(
            Figure(key=f"guarded.cpu{name}", value=watch.process / entries * 1e6, unit="µs CPU/e")
            for name, watch in (("", before), (".baseline", base), (".clear", clear))
        ),
        *_sizes("guarded.size", task.scratch / "profiles", SEGMENT),
        *_sizes("guarded.size.office", task.scratch / "after", entries),
        *_sizes("guarded.size.clear", task.scratch / "clear", entries),
        *_pages(task.scratch / "after", task.scratch / "clear"),
        *_facets(task.scratch / "after", task.scratch / "clear"),
        *_openings(task.scratch / "profiles", SEGMENT),
    )


def _build_profiles(home: Path, entries: int) -> None:
    with made(home, closing="process", policy=policies.profiles()) as trail:
        trail.record_many(profiles.events(entries))
        trail.settle()


# ---- At rest ----


def _sizes(key: str, home: Path, entries: int) -> Iterator[Figure]:
    parts = parts_of(home / "trail")
    free = parts.pop(FREE)
    yield Figure(
        key=key,
        value=sum(parts.values()) / entries,
        unit="B",
        note=f"{entries:,} entries; besides, the head keeps {free / 1e6:.0f} MB"
        " for the next segment",
    )
    if rows := parts.pop("vault rows", 0):
        parts |= _in_rows(home / "trail", rows)
    for name, size in parts.items():
        yield Figure(key=f"{key}.{name}", value=size / entries, unit="B")


def _in_rows(trail: Path, size: int) -> dict[str, int]:
    """Divide the bytes of all vault rows into what they are made of."""
    spines = boxes = 0
    for path in (trail / "vault" / LOG).iterdir():
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            for (data,) in file.execute("SELECT row FROM vault"):
                row = Row.from_bytes(data)
                spines += len(row.spine)
                boxes += sum(len(box.data) for box in row.boxes)
    return {"spines": spines, "boxes": boxes, "vault rows, the rest": size - spines - boxes}


# ---- Read ----


def _pages(guarded_home: Path, clear_home: Path) -> Iterator[Figure]:
    """Ask both trails for the newest page of the same actors, in turns."""
    times: dict[str, list[float]] = {"": [], ".clear": []}
    with opened(guarded_home) as guarded, opened(clear_home) as clear:
        for actors, is_counted in ((_WARM_UP, False), (_BUSY, True)):
            for number in actors:
                for name, trail in (("", guarded), (".clear", clear)):
                    started = perf_counter()
                    page = trail.search(f"actor:{actor(number)}", limit=_PAGE)
                    seconds = perf_counter() - started
                    if any(item.event.actor != actor(number) for item in page.items):
                        raise AssertionError(f"{actor(number)}: found entries of others")
                    if is_counted:
                        times[name].append(seconds * 1e3)
    for name, each in times.items():
        for percent in (50, 99):
            yield Figure(
                key=f"guarded.page{name}.p{percent}", value=percentile(each, percent), unit="ms"
            )
    yield Figure(
        key="guarded.page",
        value=percentile(times[""], 50) / percentile(times[".clear"], 50),
        unit="×",
        note=f"page of {_PAGE} for one actor, its values opened, against one in clear",
    )


def _facets(guarded_home: Path, clear_home: Path) -> Iterator[Figure]:
    """Count the actors of both trails."""
    found = []
    for name, home in (("", guarded_home), (".clear", clear_home)):
        with opened(home) as trail:
            times = []
            for _ in range(_COUNTS):
                started = perf_counter()
                facet = trail.facets("stream:user", fields=("actor",))["actor"]
                times.append((perf_counter() - started) * 1e3)
            # Not whose: of two that are as frequent, either may be named.
            found.append(([count for _, count in facet.counts], facet.distinct))
        yield Figure(
            key=f"guarded.facets{name}",
            value=percentile(times, 50),
            unit="ms",
            note="entries counted by actor" if not name else "",
        )
    if found[0] != found[1]:
        raise AssertionError(f"facets: found {found[0]} of committed actors, expected {found[1]}")


def _openings(home: Path, entries: int) -> Iterator[Figure]:
    """Open pages with three boxes each: of one person, and of whoever came one after the other."""
    random = Random(entries)
    with opened(home) as trail:
        ones = []
        for number in _BUSY:
            page = trail.search(f"actor:{actor(number)}", limit=_PAGE)
            ones.append([item.index for item in page.items])
    starts = [random.randrange(entries - _PAGE) for _ in range(_SAMPLES)]
    mixed = [list(range(start, start + _PAGE)) for start in starts]
    for name, pages, note in (
        ("", ones, "of one person"),
        (".mixed", mixed, "of whoever came one after the other"),
    ):
        # Opened anew, so that no data key is there yet.
        with opened(home) as trail:
            gc.collect()
            times = [_opening(trail, indexes) for indexes in islice(pages, _SAMPLES)]
        for key, percent in ((f"guarded.opening{name}", 50), (f"guarded.opening{name}.p99", 99)):
            yield Figure(
                key=key,
                value=percentile(times, percent),
                unit="ms",
                note=f"{_PAGE} entries with {_BOXES} boxes each, {note}",
            )


def _opening(trail: Trail, indexes: Sequence[int]) -> float:
    """Open the values of the entries at *indexes*, which were read; return milliseconds."""
    with trail.store.read() as view:
        clears = [item.clear for item in items(view, LOG, indexes)]
        opener = trail.vault.opener(trail.viewer, trail.policy)
        started = perf_counter()
        rows = view.rows(LOG, indexes)
        keys = opener.keys(rows)
        shown = [
            opener.reveal(LOG, index, clear, row, keys)
            for index, clear, row in zip(indexes, clears, rows, strict=True)
        ]
        milliseconds = (perf_counter() - started) * 1e3
    for row, (_, states) in zip(rows, shown, strict=True):
        if len(Row.from_bytes(row).boxes) != _BOXES or set(states.values()) != {ValueState.OPEN}:
            raise AssertionError("opening: found a value that is not open, or another row")
    return milliseconds
