"""Stopwatch: time that is counted only while it runs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Stopwatch:
    """
    Adds up what passes inside its `running` blocks.

    Attributes:
        wall: Seconds on the clock.
        process: Seconds of CPU, of all threads of this process and of processes that it
            has waited for.
        thread: Seconds of CPU, of the calling thread.
    """

    def __init__(self) -> None:
        self.wall = 0.0
        self.process = 0.0
        self.thread = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block runs."""
        wall, process, thread = perf_counter(), _process_time(), thread_time()
        try:
            yield
        finally:
            self.thread += thread_time() - thread
            self.process += _process_time() - process
            self.wall += perf_counter() - wall


def _process_time() -> float:
    ended = os.times()
    return process_time() + ended.children_user + ended.children_system


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that *percent* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
