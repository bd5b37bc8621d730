"""
Capture: what recording every change of a row costs an ORM, beside the libraries people use.

Each library runs in a process and a database of its own, in the environment that ``make
peers`` makes, or that ``INDELIBLE_PEERS`` names. All take turns, several times. A process measures
each operation several times and hands back the least, the median of the processes counts,
and of it what is more than that of the bare ORM. Nothing is tuned; no relay runs, as the
others have none.

Afterwards each has changed rows in every way that an ORM knows, and what it recorded is
held against what the database held. Of raw SQL only triggers can know.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Result, Task, number, result
from benchmarks.peers.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS = 3
RAW = "raw SQL"
"""The step that no ORM sees."""

_ROOT = Path(__file__).parent.parent
_SINGLE = ("save", "create")
_BULK = ("insert", "update", "delete")
_DJANGO = (
    "none",
    "indelible",
    "indelible-triggers",
    "auditlog",
    "simple-history",
    "pghistory",
    "pghistory-statement",
    "easyaudit",
)
_SQLALCHEMY = ("none", "indelible", "continuum", "postgresql-audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """
    Where some libraries run side by side.

    Attributes:
        name: The ORM and the database: ``django.18``.
    """

    name: str
    libraries: Sequence[str]
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def run(self, database: Callable[[], str], rows: int, rounds: int = ROUNDS) -> Course:
        """Let all libraries take turns, each time on a new *database*, and print what they did."""
        worker = f"benchmarks.peers.{self.name.partition('.')[0]}_worker"
        for turn in range(rounds):
            place = turn * 3 % len(self.libraries)
            for library in (*self.libraries[place:], *self.libraries[:place]):
                answer = _answer(worker, library, database(), rows)
                self.answers.setdefault(library, []).append(answer)
        print(f"\n{self.to_text()}\n", flush=True)
        return self

    def more(self, library: str, operation: str) -> float:
        """Return the milliseconds that *library* takes more than the ORM alone."""
        return self._middle(library, operation) - self.bare(operation)

    def bare(self, operation: str) -> float:
        """Return the milliseconds that the ORM takes alone."""
        return self._middle("none", operation)

    def _middle(self, library: str, operation: str) -> float:
        return median(each.milliseconds[operation] for each in self.answers[library])

    def worst(self, library: str, peer: str, *operations: str) -> float:
        """Return the ratio of the extra times, of the operation for which it is greatest."""
        return max(self.more(library, each) / self.more(peer, each) for each in operations)

    def untrue(self, library: str) -> int:
        """Return the number of steps of which something else was recorded than happened."""
        score = self.answers[library][-1].score
        return sum(said != "true" for step, said in score.items() if step != RAW)

    def figures(self) -> Iterator[Figure]:
        """Yield what each took, and how many steps of the matrix it told truly."""
        for operation in self.answers["none"][0].milliseconds:
            for library in self.libraries:
                alone = library == "none"
                value = self.bare(operation) if alone else self.more(library, operation)
                single = operation in _SINGLE
                yield Figure(
                    key=f"capture.{self.name}.{operation}.{library}",
                    value=value / _SINGLES * 1_000 if single else value,
                    unit="µs" if single else "ms",
                    note="alone" if alone else "more",
                )
        for library, answers in self.answers.items():
            if score := answers[-1].score:
                yield Figure(
                    key=f"capture.{self.name}.true.{library}",
                    value=sum(said == "true" for said in score.values()),
                    unit=f"of {len(score)}",
                    note=answers[-1].version,
                )

    def to_text(self) -> str:
        """Write times and scores as two tables of Markdown."""
        operations = list(self.answers["none"][0].milliseconds)
        lines = [f"{self.name}: alone, and what each takes more", ""]
        lines += _table(
            [
                "",
                *(f"{each}, {'µs' if each in _SINGLE else 'ms'}" for each in operations),
            ],
            [
                [library, *(number(self._shown(library, each)) for each in operations)]
                for library in self.libraries
            ],
        )
        scored = [each for each in self.libraries if self.answers[each][-1].score]
        if scored:
            steps = self.answers[scored[0]][-1].score
            lines += ["", f"{self.name}: what was recorded", ""]
            lines += _table(
                ["", *scored],
                [
                    [step, *(self.answers[each][-1].score[step] for each in scored)]
                    for step in steps
                ],
            )
        return "\n".join(lines)

    def _shown(self, library: str, operation: str) -> float:
        value = self.bare(operation) if library == "none" else self.more(library, operation)
        return round(value / _SINGLES * 1_000) if operation in _SINGLE else round(value, 1)


_SINGLES = 300
"""`benchmarks.peers.timing.SINGLE`, which needs not be imported here."""


def run(task: Task) -> Result:
    """Measure it."""
    from tests.postgres import server  # noqa: PLC0415 - a server is not for other benchmarks

    rows, files = task.entries, iter(range(1_000))

    def file() -> str:
        path = task.scratch / f"{next(files)}.sqlite3"
        path.touch()
        return f"sqlite:///{path}"

    with ExitStack() as stack:
        new, old = stack.enter_context(server(18)), stack.enter_context(server(16))
        django = Course(name="django.18", libraries=_DJANGO).run(new.database, rows)
        alchemy = Course(name="sqlalchemy.18", libraries=_SQLALCHEMY).run(new.database, rows)
        others = [
            Course(name="django.16", libraries=_DJANGO[:3]).run(old.database, rows),
            Course(name="sqlalchemy.16", libraries=_SQLALCHEMY[:2]).run(old.database, rows),
            Course(name="django.sqlite", libraries=_DJANGO[:2]).run(file, rows),
            Course(name="sqlalchemy.sqlite", libraries=_SQLALCHEMY[:2]).run(file, rows),
        ]
    courses = [django, alchemy, *others]
    untrue = sum(course.untrue("indelible") for course in courses)
    untrue += sum(course.untrue("indelible-triggers") for course in (django, others[0]))
    return result(
        "capture",
        rows,
        *(figure for course in courses for figure in course.figures()),
        _ratio("capture.save", django.worst("indelible", "auditlog", "save")),
        _ratio("capture.bulk", django.worst("indelible", "pghistory", *_BULK)),
        _ratio("capture.triggers", django.worst("indelible-triggers", "pghistory", *_BULK)),
        _ratio("capture.triggers.save", django.worst("indelible-triggers", "pghistory", *_SINGLE)),
        _ratio("capture.flush", alchemy.worst("indelible", "continuum", "save", "flush")),
        Figure(key="capture.untrue", value=untrue, unit="", note="steps through an ORM"),
    )


def _answer(worker: str, library: str, url: str, rows: int) -> Answer:
    home = Path(os.environ.get("INDELIBLE_PEERS") or _ROOT / ".venv-peers")
    python = home / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"found no environment of the peers in {home}: make peers")
    done = subprocess.run(  # noqa: S603 - our own
        [python, "-W", "ignore", "-m", worker, library, url, str(rows)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{library}: {done.stderr[-2_000:]}")
    return Answer.from_text(done.stdout.splitlines()[-1])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in every]


def _ratio(key: str, value: float) -> Figure:
    return Figure(key=key, value=value, unit="×")
