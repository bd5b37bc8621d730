"""
Record: CPU that `record` takes from the thread that calls it, against stdlib logging.

An application logs or records once in a while and does other things between, so that
neither finds the processor's caches warm. The bar is measured like that: a pause before
each call, the same for all, their order shuffled. Two other figures stand beside it: calls
in a row, where logging runs warm while each `record` has waited for a sync of its own; and
a crowd of threads at once, which share syncs. The sync costs the caller no CPU; what
the writer's thread uses shows in the figures of the whole process.

Everything stands in clear, there and here; `benchmarks.sealing` measures what it takes
to seal it.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import chain
from random import Random
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from benchmarks import logging_baseline
from benchmarks.events import events
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from indelible.event import Event
    from indelible.trail import Trail

    Call = Callable[[], object]

_PAUSE = 0.0005
_ROW = 64
_CROWD = 32
_WARM_UP = 100


def run(task: Task) -> Result:
    """Measure it."""
    waiting = list(events(task.entries + _WARM_UP))
    with made(task.scratch / "home") as trail:
        calls: dict[str, list[Call]] = {
            "logging": _logging(waiting),
            "typed": [partial(trail.record, event) for event in waiting],
            "named": [_named(trail, event) for event in waiting],
        }
        for call in chain.from_iterable(each[:_WARM_UP] for each in calls.values()):
            call()
        calls = {name: each[_WARM_UP:] for name, each in calls.items()}
        apart = _apart(calls)
        rows = _rows(calls)
        crowds = {name: _crowd(each) for name, each in calls.items()}
    note = sync_note(task.scratch)
    return result(
        "record",
        task.entries,
        *_figures("apart", apart, task.entries, "each call after a pause"),
        Figure(key="record.cpu", value=_ratio(apart, "typed"), unit="×", note="record(Event(…))"),
        Figure(
            key="record.cpu.named",
            value=_ratio(apart, "named"),
            unit="×",
            note='record("order.amend", actor="user:…", …)',
        ),
        *_figures("row", rows, task.entries, "calls in a row"),
        Figure(key="record.cpu.row", value=_ratio(rows, "typed"), unit="×"),
        *_figures("crowd", crowds, task.entries, f"{_CROWD} threads at once"),
        Figure(key="record.cpu.crowd", value=_ratio(crowds, "typed"), unit="×"),
        *_process("row", rows, task.entries, f"a commit each, {note}"),
        *_process("crowd", crowds, task.entries, f"shared commits, {note}"),
        Figure(
            key="record.wall",
            value=rows["typed"].wall / task.entries * 1e6,
            unit="µs",
            note=f"a commit each, {note}",
        ),
    )


def _apart(calls: dict[str, list[Call]]) -> dict[str, Stopwatch]:
    watches = {name: Stopwatch() for name in calls}
    order, random = list(calls), Random(0)
    for place in range(len(calls["logging"])):
        random.shuffle(order)
        for name in order:
            call = calls[name][place]
            time.sleep(_PAUSE)
            with watches[name].running():
                call()
    return watches


def _rows(calls: dict[str, list[Call]]) -> dict[str, Stopwatch]:
    watches = {name: Stopwatch() for name in calls}
    for start in range(0, len(calls["logging"]), _ROW):
        for name, each in calls.items():
            row = each[start : start + _ROW]
            with watches[name].running():
                for call in row:
                    call()
    return watches


def _crowd(calls: Sequence[Call]) -> Stopwatch:
    """Let a crowd of threads do all *calls*; its thread's time is that of all of them."""
    whole, lock, source = Stopwatch(), Lock(), iter(calls)

    def work() -> None:
        own = Stopwatch()
        with own.running():
            for call in source:
                call()
        with lock:
            seconds.append(own.thread)

    seconds: list[float] = []
    threads = [Thread(target=work) for _ in range(_CROWD)]
    with whole.running():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    whole.thread = sum(seconds)
    return whole


def _ratio(watches: dict[str, Stopwatch], name: str) -> float:
    return watches[name].thread / watches["logging"].thread


def _figures(way: str, watches: dict[str, Stopwatch], count: int, note: str) -> Iterator[Figure]:
    for name, watch in watches.items():
        value = watch.thread / count * 1e6
        yield Figure(key=f"record.{way}.{name}", value=value, unit="µs CPU", note=note)


def _process(way: str, watches: dict[str, Stopwatch], count: int, note: str) -> Iterator[Figure]:
    for name in ("logging", "typed"):
        yield Figure(
            key=f"record.{way}.{name}.process",
            value=watches[name].process / count * 1e6,
            unit="µs CPU",
            note=note if name == "typed" else "",
        )


def _logging(waiting: Sequence[Event]) -> list[Call]:
    info = logging_baseline.logger().info
    return [
        partial(info, event.action, extra={"event": logging_baseline.fields(event)})
        for event in waiting
    ]


def _named(trail: Trail, event: Event) -> Call:
    """Return the call of an application that knows no typed values."""
    fields: dict[str, Any] = {
        "actor": str(event.actor),
        "resource": str(event.resource),
        "outcome": str(event.outcome),
        "data": event.data,
        "session": event.session,
        "service": event.service,
    }
    if event.changes is not None:
        fields["changes"] = {name: (each.old, each.new) for name, each in event.changes.items()}
    if event.rationale is not None:
        fields["rationale"] = event.rationale.text
    if event.client is not None:
        fields["client"] = event.client.ip
    return partial(trail.record, event.action, **fields)
