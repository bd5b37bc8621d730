"""
The keyring of the SQLite store: ``keyring.db``, beside the head and apart from it.

Apart, since its backups must live shortly: whoever has a copy of a key can open the
boxes in an old copy of the vault. What is destroyed here is overwritten, and not left
in the log that SQLite writes ahead.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from indelible.durable import sync_directory
from indelible.errors import KeyUnavailable, Moved, StoreError
from indelible.keyring import WrappedDataKey, WrappedIndexKey, WrappedKek
from indelible.policy import FieldClass
from indelible.stores.sqlite_layout import connect, schema, translated, truncate_wal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

VERSION = 1
_AT_ONCE = 500


class SqliteKeyring:
    """Implements `indelible.keyring.KeyStore` in the file ``keyring.db`` of a directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "keyring.db"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._connections = 0
        with _opening:
            _keyrings.add(self)

    def create(self) -> None:
        """
        Make the file, where there is none.

        Raises:
            StoreError: It cannot be written.
        """
        with self._lock, translated():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = connect(self.path)
            try:
                connection.execute("BEGIN EXCLUSIVE")
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in schema("keyring"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            sync_directory(self.path.parent)

    def keks(self) -> list[WrappedKek]:
        """Return the versions of the KEK; see `indelible.keyring.KeyStore`."""
        return [
            WrappedKek(version=version, kind=kind, wrapped=wrapped, created_at=at)
            for version, kind, wrapped, at in self._rows(
                "SELECT version, kind, wrapped, created_at FROM kek ORDER BY version"
            )
        ]

    def index_keys(self) -> list[WrappedIndexKey]:
        """Return the index keys; see `indelible.keyring.KeyStore`."""
        return [
            WrappedIndexKey(number=number, kek=kek, wrapped=wrapped, created_at=at)
            for number, kek, wrapped, at in self._rows(
                "SELECT number, kek, wrapped, created_at FROM index_key ORDER BY number"
            )
        ]

    def data_keys(self, ids: Collection[bytes]) -> list[WrappedDataKey]:
        """Return those of the keys that there are; see `indelible.keyring.KeyStore`."""
        return self._data_keys("id", list(ids))

    def find(self, subjects: Collection[bytes]) -> list[WrappedDataKey]:
        """Return the keys of some subjects; see `indelible.keyring.KeyStore`."""
        return self._data_keys("subject", list(subjects))

    def newest(self) -> bytes | None:
        """Return the id of the newest data key; see `indelible.keyring.KeyStore`."""
        found: bytes | None = self._rows("SELECT MAX(id) FROM data_key")[0][0]
        return found

    def under(self, kek: int, limit: int) -> list[WrappedDataKey]:
        """Return keys wrapped under a version; see `indelible.keyring.KeyStore`."""
        return [
            _data_key(row)
            for row in self._rows(
                "SELECT id, subject, class, month, kek, wrapped FROM data_key WHERE kek = ?"
                " LIMIT ?",
                (kek, limit),
            )
        ]

    def count(self) -> dict[int, int]:
        """Count the keys under each version; see `indelible.keyring.KeyStore`."""
        return dict(self._rows("SELECT kek, COUNT(*) FROM data_key GROUP BY kek"))

    def add(
        self,
        *,
        keks: Iterable[WrappedKek] = (),
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """
        Keep keys; see `indelible.keyring.KeyStore`.

        Raises:
            Moved: A version or a number is taken, or one is wrapped under another version
                of the KEK than the newest.
        """
        with self._writing() as connection:
            for key in keks:
                _take(connection, "kek", (key.version, key.kind, key.wrapped, key.created_at))
            for each in index_keys:
                _check_newest(connection, each.kek)
                _take(
                    connection,
                    "index_key",
                    (each.number, each.kek, each.wrapped, each.created_at),
                )
            rows = [
                (key.id, key.subject, key.class_.value, key.month, key.kek, key.wrapped)
                for key in data_keys
            ]
            for version in {row[4] for row in rows}:
                _check_newest(connection, version)
            connection.executemany("INSERT OR IGNORE INTO data_key VALUES (?, ?, ?, ?, ?, ?)", rows)

    def rewrap(
        self,
        *,
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """
        Keep other wrappings of keys; see `indelible.keyring.KeyStore`.

        Raises:
            Moved: One is wrapped under another version of the KEK than the newest.
        """
        with self._writing() as connection:
            for table, column, rows in (
                ("index_key", "number", [(k.kek, k.wrapped, k.number) for k in index_keys]),
                ("data_key", "id", [(k.kek, k.wrapped, k.id) for k in data_keys]),
            ):
                for version in {row[0] for row in rows}:
                    _check_newest(connection, version)
                connection.executemany(
                    f"UPDATE {table} SET kek = ?, wrapped = ? WHERE {column} = ?",  # noqa: S608
                    rows,
                )

    def destroy(
        self,
        *,
        data_keys: Collection[bytes] = (),
        index_keys: Collection[int] = (),
        keks: Collection[int] = (),
    ) -> None:
        """Destroy keys; see `indelible.keyring.KeyStore`."""
        with self._writing() as connection:
            for table, column, named in (
                ("data_key", "id", data_keys),
                ("index_key", "number", index_keys),
                ("kek", "version", keks),
            ):
                connection.executemany(
                    f"DELETE FROM {table} WHERE {column} = ?",  # noqa: S608
                    [(each,) for each in named],
                )
        # Crash here: they are gone, but stand in what SQLite wrote ahead; who repeats
        # the call empties that as well.
        with self._lock, translated():
            truncate_wal(self._connected())

    def version(self) -> int:
        """Return what changes with the keys; see `indelible.keyring.KeyStore`."""
        with self._lock:
            # SQLite's number is that of one connection, and begins anew with the next.
            with translated():
                connection = self._connected()
                (changed,) = connection.execute("PRAGMA data_version").fetchone()
            return self._connections << 32 | int(changed)

    def add_erasure(self, digest: bytes, data: bytes) -> None:
        """Keep what an erasure did; see `indelible.keyring.KeyStore`."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO erasure VALUES (?, ?)", (digest, data))

    def erasures(self) -> dict[bytes, bytes]:
        """Return what was kept of erasures; see `indelible.keyring.KeyStore`."""
        return dict(self._rows("SELECT digest, data FROM erasure ORDER BY digest"))

    def backup(self, target: Path) -> None:
        """
        Copy the keyring as it is now into the new file *target*, while others write.

        Raises:
            StoreError: It cannot be written.
        """
        with self._lock, translated():
            copy = sqlite3.connect(target)
            try:
                self._connected().backup(copy, pages=-1)
                copy.execute("PRAGMA journal_mode=DELETE")
            finally:
                copy.close()

    def close(self) -> None:
        """Give back the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _data_keys(self, column: str, values: Sequence[bytes]) -> list[WrappedDataKey]:
        found: list[WrappedDataKey] = []
        for at in range(0, len(values), _AT_ONCE):
            part = values[at : at + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            found += [
                _data_key(row)
                for row in self._rows(
                    "SELECT id, subject, class, month, kek, wrapped FROM data_key"  # noqa: S608
                    f" WHERE {column} IN ({marks})",
                    part,
                )
            ]
        return found

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock, translated():
            return self._connected().execute(query, tuple(values)).fetchall()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self.path.is_file():
                raise KeyUnavailable(
                    f"{self.path}: the keyring is missing; values stay closed until a backup"
                    " of it is put back"
                )
            self._connection = connect(self.path)
            self._connections += 1
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                self.close()
                raise KeyUnavailable(f"{self.path}: found layout {version}, expected {VERSION}")
        return self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def before_fork(self) -> None:
        """Hold no connection: SQLite's do not survive a fork."""
        self._lock.acquire()
        self.close()

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        self._lock.release()


def _take(connection: sqlite3.Connection, table: str, row: tuple[object, ...]) -> None:
    """Insert a *row* whose version or number nobody has taken."""
    marks = ", ".join("?" * len(row))
    taken = connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
    if taken.rowcount == 0:
        raise Moved(f"keyring: found {table} {row[0]} already, expected none; repeat this")


def _check_newest(connection: sqlite3.Connection, version: int) -> None:
    """Check that keys wrapped under this *version* are not about to be lost with it."""
    (newest,) = connection.execute("SELECT MAX(version) FROM kek").fetchone()
    if version != newest:
        raise Moved(f"keyring: found a key under vault key version {version}, expected {newest}")


def _data_key(row: tuple[Any, ...]) -> WrappedDataKey:
    key_id, subject, class_, month, kek, wrapped = row
    try:
        known = FieldClass(class_)
    except ValueError:
        raise StoreError(f"keyring: found class {class_!r} of a data key") from None
    return WrappedDataKey(
        id=key_id, subject=subject, class_=known, month=month, kek=kek, wrapped=wrapped
    )


_keyrings: weakref.WeakSet[SqliteKeyring] = weakref.WeakSet()
_forking: list[SqliteKeyring] = []
_opening = threading.Lock()


def _before_fork() -> None:
    # One that another thread opened meanwhile would use SQLite in the middle of it.
    _opening.acquire()
    _forking[:] = list(_keyrings)
    for keyring in _forking:
        keyring.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()
    _opening.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
