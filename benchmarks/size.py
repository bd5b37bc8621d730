"""
Size: bytes on disk for each entry, all in, and what they are.

Of a trail that keeps everything in clear; `benchmarks.guarded` measures one with a vault.
"""

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
_IN_VAULT = {
    "vault rows": "SELECT sum(length(row)) FROM vault",
    "lookups": "SELECT sum(length(page)) FROM posting",
}
_IN_HEAD = {
    "filters": "SELECT sum(length(filter) + length(lookups)) FROM segment",
    "counts": "SELECT sum(length(counts)) FROM segment",
    "open entries": (
        "SELECT (SELECT coalesce(sum(length(columns) + length(leaves)), 0) FROM tile)"
        " + (SELECT coalesce(sum(length(data)), 0) FROM block)"
        " + (SELECT coalesce(sum(length(columns) + length(leaves) + length(bodies)), 0) FROM tail)"
        " + (SELECT coalesce(sum(length(row)), 0) FROM vault)"
    ),
}
FREE = "free pages of the head"
"""What the head keeps for the next segment, however large the trail is."""


def run(task: Task) -> Result:
    """Measure it."""
    home = home_of(task, task.entries)
    # Opened and closed: so the head's write-ahead log is in the head.
    with opened(home) as trail:
        entries = size_of(trail)
    parts = parts_of(home / "trail")
    total = sum(parts.values())
    closed = entries // SEGMENT
    return result(
        "size",
        entries,
        Figure(
            key="size.entry",
            value=total / entries,
            unit="B",
            note=f"{total:,} bytes, {closed} segments closed,"
            f" {entries - closed * SEGMENT:,} entries open",
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


def parts_of(trail: Path) -> dict[str, int]:
    """Return the bytes of all files of a trail that is closed, by what they are."""
    files = [path for path in trail.rglob("*") if path.is_file()]
    by_folder = {
        folder: [path for path in files if path.parent.parent.name == folder]
        for folder in ("segments", "vault")
    }
    parts = _with_the_rest(by_folder["segments"], _IN_SEGMENTS, "SQLite's own in segments")
    if by_folder["vault"]:
        parts |= _with_the_rest(by_folder["vault"], _IN_VAULT, "SQLite's own in vault files")
    head = trail / "head.db"
    in_head = {**_parts([head], _IN_HEAD), FREE: _free(head)}
    parts |= in_head
    parts["head, the rest"] = head.stat().st_size - sum(in_head.values())
    parts["keyring"] = (trail / "keyring.db").stat().st_size
    parts["other files"] = sum(path.stat().st_size for path in files) - sum(parts.values())
    return parts


def _with_the_rest(files: list[Path], queries: dict[str, str], rest: str) -> dict[str, int]:
    parts = _parts(files, queries)
    return {**parts, rest: sum(path.stat().st_size for path in files) - sum(parts.values())}


def _parts(files: list[Path], queries: dict[str, str]) -> dict[str, int]:
    sizes = dict.fromkeys(queries, 0)
    for path in files:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            for name, query in queries.items():
                sizes[name] += database.execute(query).fetchone()[0] or 0
    return sizes


def _free(path: Path) -> int:
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
