"""
Databases that a source reads: their tables, and rows of them, at one moment.

Both kinds are read in one transaction that only reads, so that what is written meanwhile
is not half in it. A value that Python cannot hold is a text. It knows no library's tables.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from indelible.errors import CallerError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Database", "Table", "check_urls", "opened", "quoted", "shown"]

_AT_ONCE = 1_000

_COLUMNS = """
SELECT c.relname, a.attname, coalesce(a.attnum = ANY (i.indkey::pg_catalog.int2[]), false)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)
    AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace
ORDER BY c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, its columns, and those of its primary key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


class Database(Protocol):
    """A database at one moment."""

    def tables(self) -> Mapping[str, Table]:
        """Return the tables by their names."""
        ...

    def rows(self, query: str) -> Iterator[Sequence[Any]]:
        """
        Yield what *query* finds; never all of it is held in memory.

        Raises:
            StoreError: The database has failed.
        """
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


def check_urls(urls: Sequence[str]) -> None:
    """
    Check that each of *urls* can be connected to.

    Raises:
        CallerError: It cannot, or names another kind of database.
    """
    for url in urls:
        with closing(opened(url)):
            pass


def opened(url: str) -> Database:
    """
    Connect to the database at *url*.

    Args:
        url: ``postgresql://user@host/database``, or ``sqlite:///shop.db``
            (``sqlite:////`` before an absolute path).

    Raises:
        CallerError: It names another kind of database, cannot be connected to, or the driver
            is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgresql", "postgres"}:
        return _Postgresql(url)
    if separator and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return _Sqlite(rest[1:])
    # Not the URL itself, in which a password may stand.
    raise CallerError(
        f"database: found a URL of {scheme[:20]!r}, expected postgresql://… or sqlite:///…"
    )


def shown(url: str) -> str:
    """Return *url* without its password and its options."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return url
    # Whatever stands before an @ may be of a password that is written wrongly.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def quoted(name: str) -> str:
    """Return *name* as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


class _Sqlite:
    def __init__(self, path: str) -> None:
        try:
            self._connection = sqlite3.connect(
                f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
        except sqlite3.Error as error:
            raise CallerError(f"{path}: {error}") from error
        self._connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        try:
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            self._connection.close()
            raise CallerError(f"{path}: {error}") from error

    def tables(self) -> Mapping[str, Table]:
        names = [
            name
            for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        found = {}
        for name in sorted(names):
            columns = list(self.rows(f"PRAGMA table_info({quoted(name)})"))
            found[name] = Table(
                name=name,
                columns=tuple(each[1] for each in columns),
                key=tuple(each[1] for each in sorted(columns, key=lambda c: int(c[5])) if each[5]),
            )
        return found

    def rows(self, query: str) -> Iterator[Sequence[Any]]:
        try:
            yield from self._connection.execute(query)
        except sqlite3.Error as error:
            raise StoreError(f"database: {error}") from error

    def close(self) -> None:
        self._connection.close()


class _Postgresql:
    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise CallerError("postgresql://: pip install 'indelible[postgresql]'") from error
        self._error = psycopg.Error
        self._cursors = 0
        try:
            self._connection = psycopg.connect(url, connect_timeout=10)
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            self._connection.execute("SET TimeZone = 'UTC'")
            self._connection.execute("SET DateStyle = 'ISO'")
        except psycopg.Error as error:
            # What is said of an URL that is none may show all of it.
            said = _first_line(error) if isinstance(error, psycopg.OperationalError) else "no URL"
            raise CallerError(f"{shown(url)}: {said}") from error
        _read_any_time(self._connection)

    def tables(self) -> Mapping[str, Table]:
        columns: dict[str, list[tuple[str, bool]]] = {}
        for table, column, in_key in self.rows(_COLUMNS):
            columns.setdefault(table, []).append((column, in_key))
        return {
            table: Table(
                name=table,
                columns=tuple(name for name, _ in each),
                key=tuple(name for name, in_key in each if in_key),
            )
            for table, each in columns.items()
        }

    def rows(self, query: str) -> Iterator[Sequence[Any]]:
        self._cursors += 1
        try:
            with self._connection.cursor(f"rows_{self._cursors}") as cursor:
                cursor.itersize = _AT_ONCE
                yield from cursor.execute(query)
        except self._error as error:
            raise StoreError(f"database: {_first_line(error)}") from error

    def close(self) -> None:
        self._connection.close()


def _read_any_time(connection: Any) -> None:  # noqa: ANN401 - psycopg is an extra
    """Make *connection* read a time that Python cannot hold as its text, and fail at none."""
    from psycopg import DataError  # noqa: PLC0415 - an extra
    from psycopg.types import datetime  # noqa: PLC0415

    def lenient(loader: Any) -> Any:  # noqa: ANN401
        def load(self: Any, data: Any) -> Any:  # noqa: ANN401
            try:
                return loader.load(self, data)
            except (DataError, ValueError, OverflowError):
                return bytes(data).decode("utf-8", "replace")

        return type(loader.__name__, (loader,), {"load": load})

    for name in ("Date", "Time", "Timetz", "Timestamp", "Timestamptz", "Interval"):
        loader = getattr(datetime, f"{name}Loader")
        connection.adapters.register_loader(name.lower(), lenient(loader))


def _first_line(error: BaseException) -> str:
    # The others may show values of a row.
    return str(error).partition("\n")[0] or type(error).__name__
