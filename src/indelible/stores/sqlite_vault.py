"""
The vault files of the SQLite store: one beside each closed segment that has values.

::

    vault/user/000000        rows of the vault, and what they are looked up by

Built when the segment is closed, from the rows of the head; rows leave it when values
are erased or purged, and then nothing of them is left in the file. A segment's own file
never changes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from indelible.durable import sync_directory, sync_file
from indelible.errors import Damaged
from indelible.segment import SEGMENT, TILE, Filter, Lookups, Postings
from indelible.stores.rows import key_of
from indelible.stores.sqlite_layout import discard, schema, translated

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from indelible.store import Forgotten

_MOST_OPEN = 256
_PAGE_SIZE = 8_192


def vault_path(path: Path, log: str, number: int) -> Path:
    """Return where the vault file of a closed segment is."""
    return path / "vault" / log / f"{number:06d}"


def build_vault(
    connection: sqlite3.Connection, directory: Path, log: str, log_number: int, number: int
) -> bytes:
    """
    Write the vault file of a complete segment, and return the filter of its lookups.

    Args:
        connection: To the head, in no transaction.
    """
    path = vault_path(directory, log, number)
    building = path.with_suffix(".building")
    entries = (key_of(log_number, number * SEGMENT), key_of(log_number, (number + 1) * SEGMENT))
    tiles = (key_of(log_number, number * TILE), key_of(log_number, (number + 1) * TILE))
    lookups = [
        Lookups.from_bytes(TILE, data)
        for (data,) in connection.execute(
            "SELECT lookups FROM main.tile WHERE key >= ? AND key < ? ORDER BY key", tiles
        )
    ]
    found = connection.execute(
        "SELECT 1 FROM main.vault WHERE key >= ? AND key < ? LIMIT 1", entries
    ).fetchone()
    if found is None:
        # What an earlier attempt built from rows that were forgotten since.
        path.unlink(missing_ok=True)
        return b""
    path.parent.mkdir(parents=True, exist_ok=True)
    building.unlink(missing_ok=True)
    connection.execute("ATTACH ? AS vlt", (str(building),))
    try:
        connection.execute(f"PRAGMA vlt.page_size={_PAGE_SIZE}")
        connection.execute("PRAGMA vlt.journal_mode=OFF")
        connection.execute("PRAGMA vlt.synchronous=OFF")
        connection.execute("BEGIN")
        for statement in schema("vault"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO vlt.vault SELECT key - ?1, row FROM main.vault"
            " WHERE key >= ?1 AND key < ?2 ORDER BY key",
            entries,
        )
        places = Postings.collect(lookups)
        connection.executemany("INSERT INTO vlt.posting VALUES (?, ?)", Postings.pages(places))
        connection.execute("COMMIT")
    finally:
        connection.execute("DETACH vlt")
    building.chmod(0o600)
    sync_file(building)
    building.rename(path)
    for above in (path.parent, path.parent.parent, directory):
        sync_directory(above)
    # Crash here: a file of a segment that is not registered; it is built again over
    # this one, or what it holds is forgotten with what the head holds.
    return Filter.build(places)


def forget_in_file(
    directory: Path, log: str, number: int, forgotten: Mapping[int, Forgotten]
) -> bytes | None:
    """
    Leave of the entries at some places of a closed segment only what is said of each.

    Returns:
        The filter of the lookups that are left; None where there is no vault file.
    """
    path = vault_path(directory, log, number)
    if not path.exists():
        return None
    with _changing(path) as file:
        for place, left in forgotten.items():
            if left.row:
                file.execute("UPDATE vault SET row = ? WHERE place = ?", (left.row, place))
            else:
                file.execute("DELETE FROM vault WHERE place = ?", (place,))
        places: dict[int, array[int]] = {}
        gone = {(lookup, place) for place, left in forgotten.items() for lookup in left.lookups}
        named = {lookup for lookup, _ in gone}
        for (page,) in file.execute("SELECT page FROM posting ORDER BY least_term").fetchall():
            for lookup, where in Postings.read(page):
                if lookup in named:
                    for place in [each for each in where if (lookup, each) in gone]:
                        where.remove(place)
                if where:
                    places[lookup] = where
        if gone:
            file.execute("DELETE FROM posting")
            file.executemany("INSERT INTO posting VALUES (?, ?)", Postings.pages(places))
    return Filter.build(places)


def purge_in_file(directory: Path, log: str, number: int, first: int) -> bytes:
    """
    Leave nothing of the entries before place *first* of a closed segment.

    Returns:
        The filter of the lookups that are left; empty where there is no vault file.
    """
    path = vault_path(directory, log, number)
    if not path.exists():
        return b""
    if first == SEGMENT:
        discard(path)
        return b""
    with _changing(path) as file:
        file.execute("DELETE FROM vault WHERE place < ?", (first,))
        pages = file.execute("SELECT page FROM posting ORDER BY least_term").fetchall()
        places = Postings.after([page for (page,) in pages], first)
        file.execute("DELETE FROM posting")
        file.executemany("INSERT INTO posting VALUES (?, ?)", Postings.pages(places))
    return Filter.build(places)


@contextmanager
def _changing(path: Path) -> Iterator[sqlite3.Connection]:
    with translated(), closing(_connect(path, "rw")) as file:
        # The old bytes are overwritten, not just unlinked; and the journal, which holds
        # them until the commit, is deleted with it.
        file.execute("PRAGMA secure_delete=ON")
        file.execute("PRAGMA journal_mode=DELETE")
        file.execute("PRAGMA synchronous=EXTRA")
        file.execute("BEGIN IMMEDIATE")
        # Crash here, or anywhere within: the journal rolls it back when the file is next
        # opened, and who repeats the call does it all.
        yield file
        file.execute("COMMIT")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30,
    )


class VaultFiles:
    """The vault files that were read last; a file is used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: OrderedDict[tuple[str, int], tuple[Path, sqlite3.Connection]] = OrderedDict()
        self._lock = threading.RLock()

    @contextmanager
    def opened(self, log: str, number: int) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection to read with, or None where there is no file."""
        with self._lock:
            known = self._open.pop((log, number), None)
            path = vault_path(self._directory, log, number) if known is None else known[0]
            if not path.is_file():
                if known is not None:
                    known[1].close()
                yield None
                return
            # To write as well, where that may be: else what a crash left half done in it
            # could not be rolled back, and nothing in it be read.
            may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
            connection = _connect(path, "rw" if may_write else "ro") if known is None else known[1]
            self._open[log, number] = (path, connection)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)[1][1].close()
            try:
                yield connection
            except sqlite3.Error as error:
                raise Damaged(f"vault file {log}/{number:06d}: {error}") from error

    def close(self) -> None:
        """Give back the files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1][1].close()

    def before_fork(self) -> None:
        """Hold no connection: SQLite's do not survive a fork."""
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        self._lock.release()
