"""Figures: what benchmarks hand back; they are printed, and kept as JSON for the docs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from benchmarks.bars import BY_KEY
from benchmarks.machine import Machine  # noqa: TC001 - msgspec reads the annotation

if TYPE_CHECKING:
    from pathlib import Path


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured number; it has a bar where its key is one of `BY_KEY`."""

    key: str
    value: float
    unit: str
    note: str = ""

    def to_text(self) -> str:
        """Write the figure as a line."""
        text = f"{self.key:<28} {number(self.value):>12} {self.unit:<10}"
        bar = BY_KEY.get(self.key)
        if bar is not None:
            text += f" {'reached' if bar.reached(self.value) else 'MISSED'} ({bar.goal.strip()})"
        return f"{text}  {self.note}".rstrip()


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one benchmark measured."""

    benchmark: str
    entries: int
    measured_on: str
    figures: tuple[Figure, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run of the benchmarks measured, and on which machine."""

    machine: Machine
    results: tuple[Result, ...]

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    What a benchmark is asked to do.

    Attributes:
        entries: How many, or how many times where nothing is kept.
        scratch: An empty directory for it alone, removed afterwards.
        home: What `benchmarks.trails.build` built, where one was named.
    """

    entries: int
    scratch: Path
    home: Path | None = None


def result(benchmark: str, entries: int, *figures: Figure) -> Result:
    """Return what *benchmark* measured, now."""
    return Result(
        benchmark=benchmark,
        entries=entries,
        measured_on=datetime.now(UTC).date().isoformat(),
        figures=figures,
    )


def number(value: float) -> str:
    """Write *value* with as many digits as mean something."""
    if value == int(value) or abs(value) >= 1_000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:,.3g}"  # noqa: PLR2004
