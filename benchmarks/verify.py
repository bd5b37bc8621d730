"""
Verify: a whole trail in clear, every byte hashed again, in one process and in two.

Value accounting, which `benchmarks.erasure` measures, has nothing to do here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Result, Task, result
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import home_of, opened, size_of, whole_segments

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.trail import Trail


def run(task: Task) -> Result:
    """Measure it."""
    home = home_of(task, whole_segments(task.entries))
    with opened(home) as trail:
        entries = size_of(trail)
        _read_once(home / "trail")
        one, two, again = (_verify(trail, jobs) for jobs in (1, 2, 1))
    rates = [verified / watch.wall for watch, verified in (one, two, again)]
    watch, verified = one
    single = 2 / (1 / rates[0] + 1 / rates[2])
    return result(
        "verify",
        entries,
        Figure(
            key="verify.core", value=single, unit="entries/s", note="files in the system's cache"
        ),
        Figure(
            key="verify.cpu", value=verified / watch.process, unit="entries/s", note="by CPU time"
        ),
        Figure(
            key="verify.both",
            value=rates[1],
            unit="entries/s",
            note="two processes, starting them included",
        ),
        Figure(key="verify.two", value=rates[1] / single, unit="×"),
    )


def _verify(trail: Trail, jobs: int) -> tuple[Stopwatch, int]:
    watch = Stopwatch()
    with watch.running():
        verdict = trail.verify(jobs=jobs)
    verdict.require()
    return watch, verdict.entries


def _read_once(directory: Path) -> None:
    """Bring the files into the system's cache, so that the first run has no handicap."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
