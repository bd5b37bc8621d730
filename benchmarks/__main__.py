"""The command line: ``python -m benchmarks``, see `benchmarks`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

from benchmarks import (
    bulk,
    capture,
    collector,
    compression,
    erasure,
    group,
    guarded,
    imports,
    memory,
    processes,
    query,
    record,
    sealing,
    size,
    verify,
)
from benchmarks.figures import Report, Result, Task
from benchmarks.machine import Machine
from benchmarks.profiling import PROFILES
from benchmarks.reporting import table
from benchmarks.trails import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Benchmark:
    """
    What can be run by its name.

    Attributes:
        entries: How many for a quick run (of ``import``: how many starts).
    """

    run: Callable[[Task], Result]
    entries: int


BENCHMARKS = {
    "record": Benchmark(record.run, 2_048),
    "bulk": Benchmark(bulk.run, 300_000),
    "group": Benchmark(group.run, 20_000),
    "processes": Benchmark(processes.run, 262_144),
    "size": Benchmark(size.run, 262_144),
    "memory": Benchmark(memory.run, 200_000),
    "verify": Benchmark(verify.run, 262_144),
    "query": Benchmark(query.run, 500_000),
    "sealing": Benchmark(sealing.run, 20_480),
    "guarded": Benchmark(guarded.run, 131_072),
    "erasure": Benchmark(erasure.run, 200_000),
    "import": Benchmark(imports.run, 11),
    "compression": Benchmark(compression.run, 65_536),
    "capture": Benchmark(capture.run, 1_000),
    "collector": Benchmark(collector.run, 50_000),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what *arguments* say."""
    given = _parser().parse_args(arguments)
    directory = getattr(given, "directory", None) or _disk()
    entries = getattr(given, "entries", None)
    if given.what == "report":
        print(table(map(Report.read, given.files)))
    elif given.what == "build":
        build(given.home, entries or BENCHMARKS["verify"].entries)
    elif given.what == "profile":
        profile, usual = PROFILES[given.benchmark]
        with TemporaryDirectory(dir=directory, prefix="benchmark-") as scratch:
            profile(Task(entries=entries or usual, scratch=Path(scratch)))
    else:
        names = list(BENCHMARKS) if given.what is None else [given.what]
        home = getattr(given, "trail", None)
        machine = Machine.here(directory)
        print(machine.to_text())
        print(f"in {directory}; load {os.getloadavg()[0]:.1f}")
        results = [_run(name, entries, directory, home) for name in names]
        if path := getattr(given, "json", None):
            Report(machine=machine, results=tuple(results)).write(path)


def _run(name: str, entries: int | None, directory: Path, home: Path | None) -> Result:
    benchmark = BENCHMARKS[name]
    print(f"\n{name}", flush=True)
    with TemporaryDirectory(dir=directory, prefix="benchmark-") as scratch:
        task = Task(
            entries=entries or benchmark.entries,
            scratch=Path(scratch),
            home=home,
        )
        result = benchmark.run(task)
    print(f"  {result.entries:,} {'starts' if name == 'import' else 'entries'}")
    for figure in result.figures:
        print(f"  {figure.to_text()}", flush=True)
    return result


def _disk() -> Path:
    """Return where a sync reaches a disk, which it need not in ``/tmp``."""
    lasting = Path("/var/tmp")  # noqa: S108 - a directory of its own is made inside
    return lasting if lasting.is_dir() else Path(gettempdir())


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--directory", type=Path, help="where to measure (the disk matters)")
    shared.add_argument("--entries", type=int, help="how many, instead of a quick run's")
    measuring = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    measuring.add_argument("--json", type=Path, help="file to write the figures to")
    onto = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    onto.add_argument("--trail", type=Path, help="what `build` built, to measure on")

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Indelible beside what it is compared with.",
        parents=[measuring],
    )
    parser.add_argument("--directory", type=Path, default=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="what", metavar="NAME")
    for name in BENCHMARKS:
        parents = [shared, measuring, *([onto] if name in ("size", "verify", "query") else [])]
        commands.add_parser(name, parents=parents, help=f"measure {name} alone")
    building = commands.add_parser("build", parents=[shared], help="build a trail to measure on")
    building.add_argument("home", type=Path)
    profiling = commands.add_parser("profile", parents=[shared], help="show where time goes")
    profiling.add_argument("benchmark", choices=sorted(PROFILES))
    reporting = commands.add_parser("report", help="print the table for the docs")
    reporting.add_argument("files", type=Path, nargs="*", metavar="FILE.json")
    return parser


if __name__ == "__main__":
    main()
