"""Compression: what level of zstd suits blocks of 64 bodies; it has no bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks.events import blocks
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.stopwatch import Stopwatch
from indelible.seal import seal
from indelible.segment import BLOCK

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor
else:
    from backports.zstd import ZstdCompressor

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVELS = (1, 3, 6, 9)


def run(task: Task) -> Result:
    """Measure it."""
    watches = {level: Stopwatch() for level in _LEVELS}
    sizes = dict.fromkeys(_LEVELS, 0)
    compressors = {level: ZstdCompressor(level=level) for level in _LEVELS}
    for events in blocks(task.entries, BLOCK):
        block = b"\n".join(
            b'"recorded_at":"2026-01-01T00:00:00.000000Z","event":%b}' % seal(event).event
            for event in events
        )
        for level in _LEVELS:
            compressor = compressors[level]
            with watches[level].running():
                data = compressor.compress(block, ZstdCompressor.FLUSH_FRAME)
            sizes[level] += len(data)
    return result("compression", task.entries, *_figures(task.entries, watches, sizes))


def _figures(
    entries: int, watches: dict[int, Stopwatch], sizes: dict[int, int]
) -> Iterator[Figure]:
    for level in _LEVELS:
        yield Figure(key=f"compression.{level}.size", value=sizes[level] / entries, unit="B")
        yield Figure(
            key=f"compression.{level}.cpu",
            value=watches[level].thread / entries * 1e6,
            unit="µs CPU/e",
        )
