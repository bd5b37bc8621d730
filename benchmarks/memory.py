"""
Memory: what a process needs while it records, or imports, many events, and how flat it stays.

The events stand in clear.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.events import chunks, events
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.trails import made
from indelible.importing import import_events
from indelible.seal import seal
from indelible.sources import open_source
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue

    from indelible.importing import Summary

_SAMPLES = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


def run(task: Task) -> Result:
    """Measure it."""
    lines = task.scratch / "events.jsonl"
    with lines.open("wb") as file:
        for part in chunks(task.entries):
            file.writelines(seal(event).event + b"\n" for event in part)
    peak, samples = _measure(record, task.scratch / "recorded", task.entries)
    import_peak, import_samples = _measure(import_lines, task.scratch / "imported", task.entries)
    growth = max(_growth(samples), _growth(import_samples))
    return result(
        "memory",
        task.entries,
        Figure(key="memory.record", value=peak, unit="MB", note=_row(samples)),
        Figure(key="memory.import", value=import_peak, unit="MB", note=_row(import_samples)),
        Figure(key="memory.growth", value=growth, unit="×"),
    )


def record(path: Path, entries: int, measured: SimpleQueue[float]) -> None:
    """Record so many *entries*, as a process that builds its events as it goes."""
    with Trail(path) as trail:
        source = events(entries)
        while trail.record_many(islice(source, max(entries // _SAMPLES, 1))):
            measured.put(_resident())
        trail.settle()
    measured.put(-_peak())


def import_lines(path: Path, entries: int, measured: SimpleQueue[float]) -> None:
    """Import the lines that lie beside the trail's home."""
    lines = path.parent.parent / "events.jsonl"
    with Trail(path) as trail:
        import_events(
            trail,
            open_source("jsonl", [lines]),
            dead_letters=path.parent / "dead",
            on_progress=_sampler(entries, measured),
        )
        trail.settle()
    measured.put(-_peak())


def _sampler(entries: int, measured: SimpleQueue[float]) -> Callable[[Summary], None]:
    due = step = max(entries // _SAMPLES, 1)

    def sample(summary: Summary) -> None:
        nonlocal due
        if summary.imported >= due:
            due += step
            measured.put(_resident())

    return sample


def _measure(
    target: Callable[[Path, int, SimpleQueue[float]], None], home: Path, entries: int
) -> tuple[float, list[float]]:
    """Run *target* in a process of its own; return its peak and its samples, in MB."""
    with made(home) as trail:
        path = trail.path
    context = multiprocessing.get_context("spawn")
    measured: SimpleQueue[float] = context.SimpleQueue()
    process = context.Process(target=target, args=(path, entries, measured))
    process.start()
    samples = []
    # Not a timeout: a process that dies closes the pipe, but this one holds it too.
    while process.is_alive() or not measured.empty():
        process.join(0.05)
        while not measured.empty():
            samples.append(measured.get())
    if process.exitcode or not samples or samples[-1] >= 0:
        raise AssertionError(f"{target.__name__}: exit code {process.exitcode}")
    return -samples.pop(), samples


def _growth(samples: list[float]) -> float:
    return samples[-1] / samples[len(samples) // 2]


def _row(samples: list[float]) -> str:
    return "samples " + " ".join(f"{sample:.0f}" for sample in samples)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE / 1e6


def _peak() -> float:
    # Not from getrusage: that one still counts what this process was forked from.
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1_024 / 1e6 if found else 0.0
