"""Machine: what a figure was measured on, and how long a sync to its disk takes."""

from __future__ import annotations

import os
import platform
import sqlite3
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec

_SYNCS = 50
_PAGE = bytes(4_096)


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine, as far as it matters to a figure."""

    cores: int
    processor: str
    system: str
    python: str
    sqlite: str
    sync_ms: float

    @classmethod
    def here(cls, directory: Path) -> Machine:
        """Look at this machine, and at the disk that *directory* is on."""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            processor=_processor(),
            system=f"{platform.system()} {platform.release()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            sqlite=sqlite3.sqlite_version,
            sync_ms=round(sync_ms(directory), 3),
        )

    def to_text(self) -> str:
        """Name the machine in one line."""
        return (
            f"{self.cores} cores ({self.processor}), {self.system}, {self.python},"
            f" SQLite {self.sqlite}, fsync {self.sync_ms:.2f} ms"
        )


def sync_ms(directory: Path) -> float:
    """Return the median of what an fsync of a grown file takes in *directory*, in milliseconds."""
    path = directory / "sync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(_PAGE)
            started = perf_counter()
            os.fsync(file.fileno())
            times.append(perf_counter() - started)
    path.unlink()
    return median(times) * 1e3


def sync_note(directory: Path) -> str:
    """Say what an fsync takes at this moment, to stand beside a durable figure."""
    return f"fsync {sync_ms(directory):.2f} ms"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
