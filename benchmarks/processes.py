"""
Processes: eight that write one trail at once, against one that writes as much.

Afterwards every event of every process must be there, once, and the trail verify. Events
stand in clear.
"""

from __future__ import annotations

import gc
import multiprocessing
import re
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.events import events
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import LOG, made, whole_segments
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

_PROCESSES = 8
_LONGEST = 3_600
_ID = re.compile(rb'"event":\{"id":"([0-9a-f-]{36})"')


def run(task: Task) -> Result:
    """Measure it."""
    entries = whole_segments(task.entries)
    note = sync_note(task.scratch)
    one, wrong = _measure(task.scratch / "one", 1, entries)
    many, wrong_of_many = _measure(task.scratch / "many", _PROCESSES, entries)
    again, wrong_again = _measure(task.scratch / "again", 1, entries)
    alone = (one + again) / 2
    note += f" before, {sync_note(task.scratch)} after"
    return result(
        "processes",
        entries,
        Figure(key="processes.one", value=entries / alone, unit="entries/s", note=note),
        Figure(key="processes.eight", value=entries / many, unit="entries/s", note=note),
        Figure(key="processes.ratio", value=alone / many, unit="×"),
        Figure(key="processes.wrong", value=wrong + wrong_of_many + wrong_again, unit=""),
    )


def _measure(home: Path, processes: int, entries: int) -> tuple[float, int]:
    """Return the seconds that *processes* take for *entries*, and how much is wrong then."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes + 1)
    ended: SimpleQueue[str] = context.SimpleQueue()
    share = entries // processes
    watch = Stopwatch()
    with made(home, closing="process") as trail:
        workers = [
            context.Process(target=produce, args=(trail.path, producer, share, start, ended))
            for producer in range(processes)
        ]
        for worker in workers:
            worker.start()
        start.wait(_LONGEST)
        with watch.running():
            errors = [error for _ in workers if (error := ended.get())]
            trail.settle()
        for worker in workers:
            worker.join()
        errors += [f"exit code {worker.exitcode}" for worker in workers if worker.exitcode]
        for error in errors:
            print(f"  a process failed: {error}")
        found = Counter(_ids(trail))
        trail.verify().require()
    for producer in range(processes):
        found.subtract(event.id for event in events(share, producer=producer))
    return watch.wall, len(errors) + sum(map(abs, found.values()))


def produce(path: Path, producer: int, count: int, start: Barrier, ended: SimpleQueue[str]) -> None:
    """Record *count* events as one of the processes; say what went wrong, or nothing."""
    waiting = list(events(count, producer=producer))
    gc.freeze()
    with Trail(path, closing="process") as trail:
        start.wait(_LONGEST)
        try:
            trail.record_many(waiting)
        except Exception as error:  # noqa: BLE001 - the figure is about errors
            ended.put(f"{type(error).__name__}: {error}")
        else:
            ended.put("")


def _ids(trail: Trail) -> Iterator[str]:
    """Yield the id of every event, straight from the stored bytes."""
    with trail.store.read() as view:
        for tile in view.tiles(LOG, 0, view.heads()[LOG].size):
            for body in tile.bodies:
                found = _ID.search(body)
                yield "none" if found is None else found[1].decode("ascii")
