"""Size: bytes on disk for each entry, all in, and what they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks.baseline import Baseline
from benchmarks.events import blocks
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.trails import home_of, opened, size_of
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from pathlib import Path

_BASELINE = 2 * SEGMENT
_IN_SEGMENTS = {
    "blocks": "SELECT sum(length(data)) FROM block",
    "leaf hashes": "SELECT sum(length(hashes)) FROM leaves",
    "postings": "SELECT sum(length(page)) FROM posting",
    "ids, traces, tile roots": (
        "SELECT sum(length(root) + length(ids) + length(traces) + 48) FROM tile"
    ),
}
_IN_HEAD = {
    "filters": "SELECT sum(length(filter)) FROM segment",
    "counts": "SELECT sum(length(counts)) FROM segment",
    "open entries": (
        "SELECT (SELECT coalesce(sum(length(columns) + length(leaves)), 0) FROM tile)"
        " + (SELECT coalesce(sum(length(data)), 0) FROM block)"
        " + (SELECT coalesce(sum(length(columns) + length(leaves) + length(bodies)), 0) FROM tail)"
    ),
}


def run(task: Task) -> Result:
    """Measure it."""
    home = home_of(task, task.entries)
    # Opened and closed: so the head's write-ahead log is in the head.
    with opened(home) as trail:
        entries = size_of(trail)
    trail_path = home / "trail"
    files = [path for path in trail_path.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    segments = [path for path in files if path.parent.parent.name == "segments"]
    parts = _parts(segments, _IN_SEGMENTS)
    of_segments = sum(path.stat().st_size for path in segments)
    parts["SQLite's own in segments"] = of_segments - sum(parts.values())
    in_head = _parts([trail_path / "head.db"], _IN_HEAD)
    of_head = (trail_path / "head.db").stat().st_size
    in_head["free pages of the head"] = _free(trail_path / "head.db")
    parts |= in_head
    parts["head, the rest"] = of_head - sum(in_head.values())
    parts["other files"] = total - of_segments - of_head
    return result(
        "size",
        entries,
        Figure(
            key="size.entry",
            value=total / entries,
            unit="B",
            note=f"{total:,} bytes, {len(segments)} segments closed,"
            f" {entries - len(segments) * SEGMENT:,} entries open",
        ),
        *(
            Figure(key=f"size.{name}", value=size / entries, unit="B")
            for name, size in parts.items()
        ),
        Figure(
            key="size.baseline",
            value=_baseline(task.scratch / "baseline.db"),
            unit="B",
            note=f"one SQLite table with five indexes, {_BASELINE:,} entries",
        ),
    )


def _parts(files: list[Path], queries: dict[str, str]) -> dict[str, int]:
    sizes = dict.fromkeys(queries, 0)
    for path in files:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            for name, query in queries.items():
                sizes[name] += database.execute(query).fetchone()[0] or 0
    return sizes


def _free(path: Path) -> int:
    """Return the bytes that the head keeps for what comes, however large the trail is."""
    with closing(sqlite3.connect(path)) as database:
        pages: int = database.execute("PRAGMA freelist_count").fetchone()[0]
        page: int = database.execute("PRAGMA page_size").fetchone()[0]
    return pages * page


def _baseline(path: Path) -> float:
    table = Baseline(path)
    for events in blocks(_BASELINE, SEGMENT):
        table.record_many(events)
    table.close()
    return path.stat().st_size / _BASELINE
