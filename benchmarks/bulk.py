"""
Bulk: many events, durable and searchable, against one SQLite table with five indexes.

Everything stands in clear, there and here; `benchmarks.guarded` measures what it takes to
seal it. Both sync to disk after each 1,000 events, and both can be searched by actor, action,
resource, session and time when the clock stops: here, when the last segment is
closed. Segments are built in a process of their own, as advised for bulk loads
(``closing="process"``); the default, a thread, stands beside it.

The events are built while the clock stands, some segments' worth at a time. What
closes segments beside the writer must then have ended, so each of these parts pays
for it on the clock; an application that never pauses pays once, at the end.

Indelible is measured before and after the baseline, so that a machine that becomes
slower or faster meanwhile does so for both.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from benchmarks.baseline import Baseline
from benchmarks.events import CHUNK, blocks, chunk
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import made, size_of, whole_segments
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.event import Event
    from indelible.policy import Policy
    from indelible.trail import Closing

_PART = 8 * SEGMENT


def run(task: Task) -> Result:
    """Measure it."""
    entries = whole_segments(task.entries)
    note = sync_note(task.scratch)
    before = indelible(task.scratch / "before", entries)
    base = baseline(task.scratch / "baseline.db", entries)
    after = indelible(task.scratch / "after", entries)
    thread = indelible(task.scratch / "thread", entries, closing="thread")
    note += f" before, {sync_note(task.scratch)} after"
    ours = (before.wall + after.wall) / 2
    return result(
        "bulk",
        entries,
        _rate("bulk.baseline", entries, base.wall, note),
        _rate("bulk.indelible", entries, ours, f"{note}, no entry open"),
        _rate("bulk.indelible.first", entries, before.wall, ""),
        _rate("bulk.indelible.second", entries, after.wall, ""),
        _rate("bulk.indelible.thread", entries, thread.wall, "segments built in a thread"),
        Figure(key="bulk.ratio", value=base.wall / ours, unit="×"),
        Figure(key="bulk.ratio.thread", value=base.wall / thread.wall, unit="×"),
        _cpu("bulk.baseline.cpu", entries, base),
        _cpu("bulk.indelible.cpu", entries, before),
    )


def indelible(
    home: Path, entries: int, *, closing: Closing = "process", policy: Policy | None = None
) -> Stopwatch:
    """
    Record whole segments of *entries* in a new trail; return what it took.

    Args:
        policy: By default one that keeps everything in clear.
    """
    watch = Stopwatch()
    with made(home, closing=closing, policy=policy) as trail:
        for events in _parts(entries):
            with watch.running():
                trail.record_many(events)
                trail.settle()
        if size_of(trail) != entries:
            raise AssertionError(f"found {size_of(trail)} entries, expected {entries}")
        last = _last(entries)
        for found in (f"actor:{last.actor}", f"resource:{last.resource}", f"action:{last.action}"):
            if last.id != trail.search(found, limit=1).items[0].event.id:
                raise AssertionError(f"{found}: did not find the last event")
    return watch


def baseline(path: Path, entries: int) -> Stopwatch:
    """Insert *entries* into a new table; return what it took."""
    watch = Stopwatch()
    table = Baseline(path)
    for events in _parts(entries):
        with watch.running():
            table.record_many(events)
    last = _last(entries)
    for column in ("actor", "resource", "action"):
        if last.id not in table.newest(column, str(getattr(last, column))):
            raise AssertionError(f"{column}: did not find the last event")
    table.close()
    return watch


def _parts(entries: int) -> Iterator[list[Event]]:
    """Yield the events in parts that the garbage collector does not look at."""
    for events in blocks(entries, _PART):
        gc.collect()
        gc.freeze()
        yield events
        gc.unfreeze()


def _last(entries: int) -> Event:
    return chunk(entries // CHUNK - 1)[-1]


def _rate(key: str, entries: int, seconds: float, note: str) -> Figure:
    return Figure(key=key, value=entries / seconds, unit="entries/s", note=note)


def _cpu(key: str, entries: int, watch: Stopwatch) -> Figure:
    return Figure(key=key, value=watch.process / entries * 1e6, unit="µs CPU/e")
