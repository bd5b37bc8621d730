"""
Tables that hold all values of an object again each time it changed, as some libraries keep them.

What changed is told by comparing each row with the one before it of the same object. It
does not know which library's a table is: a `Snapshots` says what its columns mean.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import merge
from typing import TYPE_CHECKING, Any

from indelible.errors import CallerError, InvalidEvent
from indelible.seal import seal
from indelible.sources import Found, Item, Rejected
from indelible.sources.databases import opened, quoted, shown
from indelible.sources.rows import as_bytes, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.event import Event
    from indelible.sources.databases import Database, Table

__all__ = ["Snapshot", "Snapshots", "key_of", "read_snapshots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshots:
    """
    A table of snapshots.

    Attributes:
        table: Its name.
        type: Of the resources that its objects are.
        number, time: Columns that order the rows of an object.
        key: Columns that tell the objects apart.
        about: Further columns of the library's own.
        fields: Columns of the object.
        joined: A table, a column of it that is needed, and the columns, its and ours, that
            are equal.
    """

    table: str
    type: str
    number: str
    time: str
    key: tuple[str, ...]
    about: tuple[str, ...]
    fields: tuple[str, ...]
    joined: tuple[str, str, str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    A row.

    Attributes:
        row: What the library says of it, by column, what was joined included.
        key: Of its object.
        values: Of its object, by column.
        before: Those of the row before of the same object; of the first there are none.
    """

    of: Snapshots
    row: Mapping[str, Any]
    key: tuple[Any, ...]
    values: Mapping[str, Any]
    before: Mapping[str, Any] | None


def key_of(table: Table | None, columns: Sequence[str], name: str) -> tuple[str, ...]:
    """
    Return which of *columns* tell the objects of a table of snapshots apart.

    Args:
        table: The one that the snapshots are of, if it is still there.
        name: Of the table of snapshots.

    Raises:
        CallerError: It cannot be told.
    """
    if table is not None and table.key and set(table.key) <= set(columns):
        return table.key
    if "id" in columns:
        return ("id",)
    raise CallerError(
        f"{name}: found neither the table that it is of nor a column id, expected one of them:"
        " whose rows these are cannot be told"
    )


def read_snapshots(
    urls: Sequence[str],
    find: Callable[[Database], list[Snapshots]],
    event_of: Callable[[Snapshot], Event],
    expected: str,
) -> Iterator[Item]:
    """
    Yield the events of the tables of snapshots in the databases at *urls*, by their time.

    Args:
        find: Tells which tables are some.
        event_of: Builds the event of a row, or raises `InvalidEvent`.
        expected: Columns by which such tables are known, for a message.

    Raises:
        CallerError: A database cannot be connected to, or holds no such table.
        StoreError: A database fails later on.
    """
    for url in urls:
        with closing(opened(url)) as database:
            if not find(database):
                raise CallerError(f"{shown(url)}: found no table with {expected}, expected one")
    return (item for url in urls for item in _read(url, find, event_of))


def _read(
    url: str,
    find: Callable[[Database], list[Snapshots]],
    event_of: Callable[[Snapshot], Event],
) -> Iterator[Item]:
    with closing(opened(url)) as database:
        tables = [_rows(database, each, url, event_of) for each in find(database)]
        for _, item in merge(*tables, key=lambda found: found[0]):
            yield item


def _rows(
    database: Database, of: Snapshots, url: str, event_of: Callable[[Snapshot], Event]
) -> Iterator[tuple[datetime, Item]]:
    """Yield the items of one table, each with its time."""
    about = (of.number, of.time, *of.about)
    columns = [f"t.{quoted(name)}" for name in (*about, *of.key, *of.fields)]
    before = [f"lag(t.{quoted(name)}) OVER w" for name in (of.number, *of.fields)]
    source = f"{quoted(of.table)} AS t"
    joined = "NULL"
    if of.joined is not None:
        table, wanted, theirs, ours = map(quoted, of.joined)
        source += f" LEFT JOIN {table} AS c ON c.{theirs} = t.{ours}"
        joined = f"c.{wanted}"
    order = f"t.{quoted(of.time)}, t.{quoted(of.number)}"
    query = (
        f"SELECT {', '.join([*columns, *before, joined])} FROM {source}"  # noqa: S608 - quoted
        f" WINDOW w AS (PARTITION BY {', '.join(f't.{quoted(name)}' for name in of.key)}"
        f" ORDER BY {order}) ORDER BY {order}"
    )
    file = f"{shown(url)}#{of.table}"
    last = datetime.min.replace(tzinfo=UTC)
    for place, found in enumerate(database.rows(query), 1):
        row = dict(zip(about, found[: len(about)], strict=True))
        line = number if type(number := row[of.number]) is int else place
        if of.joined is not None:
            row[of.joined[1]] = found[-1]
        start, end = len(about) + len(of.key), len(columns)
        values = dict(zip(of.fields, found[start:end], strict=True))
        previous, old = found[end], dict(zip(of.fields, found[end + 1 : -1], strict=True))
        snapshot = Snapshot(
            of=of,
            row=row,
            key=tuple(found[len(about) : start]),
            values=values,
            before=None if previous is None else old,
        )
        try:
            last = moment(of.time, row[of.time])
            event = event_of(snapshot)
            seal(event)
        except InvalidEvent as error:
            yield last, Rejected(line, str(error), as_bytes({**row, **values}), file)
        else:
            yield last, Found(line, event, file)
