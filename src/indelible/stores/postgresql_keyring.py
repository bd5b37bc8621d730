"""
The keyring in PostgreSQL: a schema of its own, in the trail's database or in another.

What is destroyed here leaves the tables at once, and their files as well: they are small,
and written anew. It does not leave what the server has written ahead, archived or sent to
standbys before: that is dead once the version of the KEK that it is wrapped under is
destroyed, see `indelible.keyring.Keyring.rotate`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import errors

from indelible.errors import KeyUnavailable, Moved, StoreError
from indelible.keyring import WrappedDataKey, WrappedIndexKey, WrappedKek
from indelible.policy import FieldClass
from indelible.stores.postgresql_connections import (
    Connections,
    change,
    change_each,
    commit,
    rows,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from indelible.stores.postgresql_connections import Connection

_MISSING = (errors.UndefinedTable, errors.InvalidSchemaName)
_DATA_KEY = "SELECT id, subject, class, month, kek, wrapped FROM indelible_keyring.data_key"
_READING = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " LOCK TABLE indelible_keyring.kek IN ACCESS SHARE MODE"
)
# Whoever adds a version waits for those who add keys under the last one, and they for it.
_WRITING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    " SET LOCAL idle_in_transaction_session_timeout = '60s';"
    " LOCK TABLE indelible_keyring.kek IN SHARE ROW EXCLUSIVE MODE"
)


class PostgresqlKeyring:
    """
    Implements `indelible.keyring.KeyStore` in the database at *url*.

    Its tables are there, see `indelible.stores.postgresql_schema.create`.
    """

    def __init__(self, url: str) -> None:
        self._connections = Connections(url, turn=1)

    def keks(self) -> list[WrappedKek]:
        """Return the versions of the KEK; see `indelible.keyring.KeyStore`."""
        return [
            WrappedKek(version=version, kind=kind, wrapped=wrapped, created_at=at)
            for version, kind, wrapped, at in self._rows(
                "SELECT version, kind, wrapped, created_at FROM indelible_keyring.kek"
                " ORDER BY version"
            )
        ]

    def index_keys(self) -> list[WrappedIndexKey]:
        """Return the index keys; see `indelible.keyring.KeyStore`."""
        return [
            WrappedIndexKey(number=number, kek=kek, wrapped=wrapped, created_at=at)
            for number, kek, wrapped, at in self._rows(
                "SELECT number, kek, wrapped, created_at FROM indelible_keyring.index_key"
                " ORDER BY number"
            )
        ]

    def data_keys(self, ids: Collection[bytes]) -> list[WrappedDataKey]:
        """Return those of the keys that there are; see `indelible.keyring.KeyStore`."""
        return self._data_keys("WHERE id = ANY(%s::bytea[])", list(ids))

    def find(self, subjects: Collection[bytes]) -> list[WrappedDataKey]:
        """Return the keys of some subjects; see `indelible.keyring.KeyStore`."""
        return self._data_keys("WHERE subject = ANY(%s::bytea[])", list(subjects))

    def newest(self) -> bytes | None:
        """Return the id of the newest data key; see `indelible.keyring.KeyStore`."""
        found = self._rows("SELECT id FROM indelible_keyring.data_key ORDER BY id DESC LIMIT 1")
        return found[0][0] if found else None

    def under(self, kek: int, limit: int) -> list[WrappedDataKey]:
        """Return keys wrapped under a version; see `indelible.keyring.KeyStore`."""
        return self._data_keys("WHERE kek = %s LIMIT %s", kek, limit)

    def count(self) -> dict[int, int]:
        """Count the keys under each version; see `indelible.keyring.KeyStore`."""
        return dict(self._rows("SELECT kek, count(*) FROM indelible_keyring.data_key GROUP BY kek"))

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
            for kek in keks:
                _take(connection, "kek", kek.version, kek.kind, kek.wrapped, kek.created_at)
            for each in index_keys:
                _check_newest(connection, each.kek)
                _take(connection, "index_key", each.number, each.kek, each.wrapped, each.created_at)
            added = list(data_keys)
            for version in {key.kek for key in added}:
                _check_newest(connection, version)
            if added:
                # One statement for all: they come by the thousand, each with a first entry.
                change(
                    connection,
                    "INSERT INTO indelible_keyring.data_key SELECT * FROM unnest(%b::bytea[],"
                    " %b::bytea[], %b::text[], %b::bigint[], %b::bigint[], %b::bytea[])"
                    " ON CONFLICT DO NOTHING",
                    [key.id for key in added],
                    [key.subject for key in added],
                    [key.class_.value for key in added],
                    [key.month for key in added],
                    [key.kek for key in added],
                    [key.wrapped for key in added],
                )

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
            for table, column, given in (
                ("index_key", "number", [(k.kek, k.wrapped, k.number) for k in index_keys]),
                ("data_key", "id", [(k.kek, k.wrapped, k.id) for k in data_keys]),
            ):
                for version in {row[0] for row in given}:
                    _check_newest(connection, version)
                change_each(
                    connection,
                    f"UPDATE indelible_keyring.{table} SET kek = %s, wrapped = %s"  # noqa: S608 - names of ours
                    f" WHERE {column} = %s",
                    given,
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
            for table, column, kind, named in (
                ("data_key", "id", "bytea", data_keys),
                ("index_key", "number", "bigint", index_keys),
                ("kek", "version", "bigint", keks),
            ):
                change(
                    connection,
                    f"DELETE FROM indelible_keyring.{table} WHERE {column} = ANY(%s::{kind}[])",  # noqa: S608 - names of ours
                    list(named),
                )
            # Also where nothing was deleted now: whoever repeats this after a crash may
            # have deleted it before. A row that is only deleted stays in the file.
            change(connection, "SELECT indelible_keyring.rewrite()")

    def version(self) -> int:
        """Return what changes with the keys; see `indelible.keyring.KeyStore`."""
        return int(self._rows("SELECT count FROM indelible_keyring.changes")[0][0])

    def add_erasure(self, digest: bytes, data: bytes) -> None:
        """Keep what an erasure did; see `indelible.keyring.KeyStore`."""
        with self._writing() as connection:
            change(
                connection,
                "INSERT INTO indelible_keyring.erasure VALUES (%s, %s)"
                " ON CONFLICT (digest) DO UPDATE SET data = excluded.data",
                digest,
                data,
            )

    def erasures(self) -> dict[bytes, bytes]:
        """Return what was kept of erasures; see `indelible.keyring.KeyStore`."""
        return dict(self._rows("SELECT digest, data FROM indelible_keyring.erasure"))

    def close(self) -> None:
        """Give back connections."""
        self._connections.close()

    def _data_keys(self, where: str, *values: object) -> list[WrappedDataKey]:
        return [_data_key(row) for row in self._rows(f"{_DATA_KEY} {where}", *values)]

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._begun(_READING) as connection, translated():
            return rows(connection, query, *values)

    @contextmanager
    def _begun(self, statement: str) -> Iterator[Connection]:
        try:
            with self._connections.begun(statement) as connection:
                yield connection
        except StoreError as error:
            if not isinstance(error.__cause__, _MISSING):
                raise
            raise KeyUnavailable(
                "keyring: its tables are missing from the database; values stay closed until a"
                " backup of them is put back"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._begun(_WRITING) as connection:
            with translated():
                yield connection
                change(connection, "UPDATE indelible_keyring.changes SET count = count + 1")
            commit(connection)


def _take(connection: Connection, table: str, *row: object) -> None:
    """Insert a *row* whose version or number nobody has taken."""
    marks = ", ".join(["%s"] * len(row))
    taken = change(
        connection,
        f"INSERT INTO indelible_keyring.{table} VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 - names of ours
        *row,
    )
    if not taken:
        raise Moved(f"keyring: found {table} {row[0]} already, expected none; repeat this")


def _check_newest(connection: Connection, version: int) -> None:
    """Check that keys wrapped under this *version* are not about to be lost with it."""
    ((newest,),) = rows(connection, "SELECT max(version) FROM indelible_keyring.kek")
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
