"""
Layout: what is common to all that reads or writes the SQLite store's files.

Connections and their promises, files and their names, and whose turn it is when
SQLite fails.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from indelible.durable import sync_directory
from indelible.errors import Damaged, IndelibleError, StoreError, StoreFull, StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHECKPOINT_PAGES = 4_000
_sql = files("indelible.stores") / "sql"


def schema(name: str) -> list[str]:
    """Return the statements of the file *name* in ``sql/``."""
    return (_sql / f"{name}.sql").read_text("utf-8").split(";\n")


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a head, so that what is committed survives a crash of the machine."""
    name = f"{path.absolute().as_uri()}?mode=ro&immutable=1" if _is_frozen(path) else str(path)
    connection = sqlite3.connect(
        name, isolation_level=None, check_same_thread=False, timeout=30, uri=name != str(path)
    )
    try:
        with suppress(sqlite3.OperationalError):  # a directory that may only be read
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA trusted_schema=OFF")
        # What is deleted is overwritten: boxes and lookups that were erased, and those
        # that were moved to a vault file, from which they may be erased later.
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def truncate_wal(connection: sqlite3.Connection) -> None:
    """
    Empty what was written ahead, so that nothing of what was deleted is left there.

    Raises:
        StoreError: A reader still looks at an older state; repeating it is safe.
    """
    # The busy handler waits for readers of this and other processes.
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(
            "store: a reader still holds an older state open, in which deleted values are;"
            " repeat this when it has ended"
        )


def _is_frozen(path: Path) -> bool:
    """
    Tell whether nobody can write the head at *path*, which holds everything by itself.

    Then SQLite may read it without the locks and the shared memory that it could not
    make on a medium that is only read.
    """
    read_only = bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    wal = path.with_name(f"{path.name}-wal")
    return read_only and not (wal.exists() and wal.stat().st_size)


@contextmanager
def translated() -> Iterator[None]:
    """Let the errors of SQLite and of the system say whose turn it is."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error) from error
    except UnicodeDecodeError as error:
        # SQLite's own message about a damaged schema quotes the damaged bytes.
        raise Damaged(f"head.db: {error}") from error
    except OSError as error:
        kind: type[StoreError] = StoreError
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            kind = StoreFull
        elif error.errno in (1, 13, 30):  # EPERM, EACCES, EROFS
            kind = StoreReadOnly
        raise kind(f"store: {error}") from error


def store_error(error: sqlite3.Error) -> IndelibleError:
    """Return the error of ours that says whose turn it is."""
    name = getattr(error, "sqlite_errorname", "") or ""
    text = f"store: {error} ({name or type(error).__name__})"
    if name == "SQLITE_FULL":
        return StoreFull(text)
    if name == "SQLITE_READONLY_DIRECTORY":
        text += "; whoever may not write there can only read while the application runs, or a copy"
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return StoreReadOnly(text)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Damaged(f"head.db: {error}")
    return StoreError(text)


def segment_path(path: Path, log: str, number: int, purged: int = 0) -> Path:
    """
    Return where the file of a closed segment is.

    Args:
        purged: Of how many tiles it has only the hashes. With each purge it gets another
            name, so that at no moment a name and what is recorded of its file disagree.
    """
    name = f"{number:06d}-{purged:03d}" if purged else f"{number:06d}"
    return path / "segments" / log / name


def discard(path: Path) -> None:
    """Remove a file of which nothing is to be left, also if somebody has it open."""
    with path.open("r+b") as file:
        file.truncate(0)
    path.unlink()
    sync_directory(path.parent)


def hash_file(path: Path) -> tuple[bytes, int]:
    """Return SHA-256 and size of the file at *path*."""
    digest, size = sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.digest(), size
