"""
Change one byte of what a trail has stored, as somebody with access to its files could.

    python demo/change_one_byte.py FILE OLD NEW

OLD and NEW are texts of one length that differ in one character.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def change_one_byte(file: Path, old: bytes, new: bytes) -> int:
    """Write *new* where *old* is stored in *file*; return which byte was changed."""
    (place,) = [n for n, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
    data = file.read_bytes()
    for match in re.finditer(re.escape(old), data):
        at = match.start() + place
        file.write_bytes(data[:at] + new[place : place + 1] + data[at + 1 :])
        # SQLite leaves old copies of a row in free space: one that no reader
        # sees would change nothing.
        if is_stored(file, new):
            return at
    file.write_bytes(data)
    raise SystemExit(f"{file}: does not hold {old.decode()!r}")


def is_stored(file: Path, text: bytes) -> bool:
    """Tell whether an entry that is read from *file* holds *text*."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as database:
        found = database.execute("SELECT 1 FROM tail WHERE instr(bodies, ?)", (text,))
        return found.fetchone() is not None


if __name__ == "__main__":
    path, before, after = sys.argv[1:]
    changed = change_one_byte(Path(path), before.encode(), after.encode())
    print(f"{path}: changed byte {changed:,}")
