"""Import: what ``import indelible`` adds to a bare Python, in time and in packages of others."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benchmarks.figures import Figure, Result, Task, result

_LIST = """
import sys
before = set(sys.modules)
import indelible
from importlib.metadata import packages_distributions
owners = packages_distributions()
names = {name.partition(".")[0] for name in set(sys.modules) - before}
found = {tuple(owners[name])[0] for name in names if name in owners} - {"indelible"}
print(*sorted(found), sep="\\n")
"""


def run(task: Task) -> Result:
    """Measure it."""
    bare, whole = [], []
    for _ in range(task.entries):
        bare.append(_start("pass"))
        whole.append(_start("import indelible"))
    packages = _python(_LIST).split()
    return result(
        "import",
        task.entries,
        Figure(key="import.bare", value=median(bare), unit="ms"),
        Figure(key="import.indelible", value=median(whole), unit="ms"),
        Figure(key="import.time", value=median(whole) - median(bare), unit="ms"),
        Figure(key="import.packages", value=len(packages), unit="", note=", ".join(packages)),
    )


def _start(code: str) -> float:
    started = perf_counter()
    _python(code)
    return (perf_counter() - started) * 1e3


def _python(code: str) -> str:
    return subprocess.run(  # noqa: S603 - this Python, and code from above
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
