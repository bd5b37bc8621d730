"""Profiling: where the time of a benchmark goes, thread by thread."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from cProfile import Profile
from pstats import Stats
from typing import TYPE_CHECKING

from benchmarks import bulk, erasure, policies, profiles
from benchmarks.events import events
from benchmarks.sealing import Sealing
from benchmarks.trails import made, opened, whole_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from benchmarks.figures import Task
    from indelible.policy import Policy

_ROWS = 30


def profile_bulk(task: Task) -> None:
    """Profile one bulk recording: the caller, the writer and who closes segments."""
    _profile_bulk(task, policies.clear())


def profile_guarded(task: Task) -> None:
    """Profile the same under the default policy."""
    _profile_bulk(task, policies.guarded())


def profile_sealing(task: Task) -> None:
    """Profile the way from events to sealed bytes and boxes, with all data keys there."""
    policy = policies.profiles()
    waiting = list(profiles.events(task.entries))
    with made(task.scratch / "home", policy=policy) as trail:
        sealing = Sealing(trail.vault, policy)
        for event in waiting:
            sealing(event)
        with _profiled() as found:
            for event in waiting:
                sealing(event)
    _show(found)


def profile_record(task: Task) -> None:
    """Profile single records, each with a commit of its own."""
    waiting = list(events(task.entries))
    with _profiled() as found, made(task.scratch / "home") as trail:
        for event in waiting:
            trail.record(event)
    _show(found)


def profile_erasure(task: Task) -> None:
    """Profile one erasure, from its plan until nothing is left."""
    home = task.scratch / "home"
    erasure.build(home, task.entries, task.entries // 4)
    with opened(home) as trail, _profiled() as found:
        erasure.erase(trail, erasure.SUBJECTS[0])
    _show(found)


def _profile_bulk(task: Task, policy: Policy) -> None:
    entries = whole_segments(task.entries)
    with _profiled() as found:
        bulk.indelible(task.scratch / "home", entries, closing="thread", policy=policy)
    _show(found)


PROFILES: dict[str, tuple[Callable[[Task], None], int]] = {
    "bulk": (profile_bulk, 65_536),
    "erasure": (profile_erasure, 40_000),
    "guarded": (profile_guarded, 65_536),
    "sealing": (profile_sealing, 20_480),
    "record": (profile_record, 2_000),
}
"""What can be profiled, with the number of entries."""


@contextmanager
def _profiled() -> Iterator[dict[str, Profile]]:
    """Profile this thread and each that starts meanwhile, all threads of one name together."""
    profiles: dict[str, list[Profile]] = {}

    def begin(_frame: FrameType, _event: str, _arg: object) -> None:
        # Called once a thread: the profile takes this function's place.
        profile = Profile()
        try:
            profile.enable()
        except ValueError:  # From Python 3.12 on there is one, and it sees every thread.
            threading.setprofile(None)
        else:
            profiles.setdefault(threading.current_thread().name, []).append(profile)

    caller = Profile()
    profiles["caller"] = [caller]
    named: dict[str, Profile] = {}
    threading.setprofile(begin)
    caller.enable()
    try:
        yield named
    finally:
        caller.disable()
        threading.setprofile(None)
        named.update(
            {f"{name} {n}": each for name in profiles for n, each in enumerate(profiles[name])}
        )


def _show(profiles: dict[str, Profile]) -> None:
    for name, profile in profiles.items():
        print(f"\n==== {name} ====")
        stats = Stats(profile)
        stats.strip_dirs().sort_stats("tottime").print_stats(_ROWS)
