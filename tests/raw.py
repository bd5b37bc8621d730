"""What lies in the files of a trail, byte for byte, whatever reads them otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def files_with(path: Path, needles: Iterable[bytes]) -> list[str]:
    """Return the files below *path* that hold any of *needles*, logs of SQLite included."""
    wanted = list(needles)
    return [
        str(file.relative_to(path))
        for file in sorted(path.rglob("*"))
        if file.is_file() and any(map(file.read_bytes().__contains__, wanted))
    ]
