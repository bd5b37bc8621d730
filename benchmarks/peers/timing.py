"""How workers take the time."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from benchmarks.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

SINGLE = 300
"""Operations on one row, each in a transaction of its own, that are measured together."""

ROUNDS = 5
"""How often a worker measures; the least counts, as what else runs can only add to it."""


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that *work* takes, whatever is alive already."""
    gc.collect()
    gc.freeze()
    watch = Stopwatch()
    with watch.running():
        work()
    gc.unfreeze()
    return watch.wall * 1_000
