"""Reporting: the table of ``docs/performance.md``, from what the benchmarks wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bars import BARS
from benchmarks.figures import Figure, Report, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.machine import Machine

_OPEN = "to be measured"


def table(reports: Iterable[Report]) -> str:
    """
    Return the table of all bars in Markdown, and the machines below it.

    Args:
        reports: Where two measured the same, the later one counts.
    """
    machines: list[Machine] = []
    measured: dict[str, tuple[Figure, str, int, int]] = {}
    for report in reports:
        if report.machine not in machines:
            machines.append(report.machine)
        machine = machines.index(report.machine)
        for result in report.results:
            for figure in result.figures:
                measured[figure.key] = (figure, result.measured_on, result.entries, machine)
    return "\n".join([*_rows(measured), "", *_machines(machines)]).rstrip()


def _rows(measured: dict[str, tuple[Figure, str, int, int]]) -> Iterator[str]:
    yield "| bar | goal | measured | entries | machine | date |"
    yield "|---|---|---|---|---|---|"
    for bar in BARS:
        if bar.key not in measured:
            yield f"| {bar.text} | {bar.goal.strip()} | {_OPEN} | | | |"
            continue
        figure, date, entries, machine = measured[bar.key]
        value = f"{number(figure.value)} {figure.unit}".strip()
        if not bar.reached(figure.value):
            value = f"**{value}** (missed)"
        name = _name(machine)
        yield f"| {bar.text} | {bar.goal.strip()} | {value} | {entries:,} | {name} | {date} |"


def _machines(machines: list[Machine]) -> Iterator[str]:
    for place, machine in enumerate(machines):
        yield f"{_name(place)}: {machine.to_text()}."


def _name(machine: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[machine]
