"""
Group: 100 threads that each wait for their own receipt, against one that does.

The store's sync takes 5 ms more than this machine's, as on a network disk. So one
thread is bound by it, and a hundred show how many receipts share one sync. Events
stand in clear.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from benchmarks.events import events
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import made
from indelible.custody import Custody
from indelible.recorder import Recorder
from indelible.testing import Faulty
from indelible.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.event import Event
    from indelible.store import Store, Transaction

_SYNC = 0.005
_THREADS = 100
_SHARE = 100
"""The one thread records one event where the hundred record so many."""


class SlowStore(Faulty):
    """A *store* whose commits take *seconds* longer; it never fails."""

    def __init__(self, store: Store, seconds: float) -> None:
        super().__init__(store)
        self._seconds = seconds

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction whose end takes long."""
        with self.store.write() as transaction:
            yield transaction
            time.sleep(self._seconds)


def run(task: Task) -> Result:
    """Measure it."""
    few = max(task.entries // _SHARE, 1)
    with made(task.scratch / "home") as trail:
        custody = Custody(trail.id)
        writer = Writer(
            SlowStore(trail.store, _SYNC),
            signer_of=trail.signer_of,
            now=lambda: time.time_ns() // 1_000,
            custody=custody,
            committed=lambda _: None,
        )
        recorder = Recorder(trail.policy, writer.submit, custody.lose, trail.vault)
        waiting = list(events(task.entries + 2 * few + 1))
        _record(recorder, waiting[:1], threads=1)
        one = _record(recorder, waiting[1 : few + 1], threads=1)
        many = _record(recorder, waiting[few + 1 : -few], threads=_THREADS)
        again = _record(recorder, waiting[-few:], threads=1)
        writer.stop()
    note = f"{sync_note(task.scratch)} and {_SYNC * 1e3:g} ms more"
    one_rate, many_rate = 2 * few / (one + again), task.entries / many
    return result(
        "group",
        task.entries,
        Figure(key="group.one", value=one_rate, unit="entries/s", note=note),
        Figure(key="group.hundred", value=many_rate, unit="entries/s", note=note),
        Figure(key="group.ratio", value=many_rate / one_rate, unit="×"),
    )


def _record(recorder: Recorder, waiting: list[Event], *, threads: int) -> float:
    """Let *threads* record what is *waiting*, each one event after the other; return seconds."""
    source = iter(waiting)
    watch = Stopwatch()

    def record() -> None:
        for event in source:
            recorder.record(event)

    recording = [Thread(target=record) for _ in range(threads)]
    with watch.running():
        for thread in recording:
            thread.start()
        for thread in recording:
            thread.join()
    return watch.wall
