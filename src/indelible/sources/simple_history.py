"""
django-simple-history: the rows of its tables, from the oldest on.

A path is the URL of a database; its tables are those with ``history_id``, ``history_date``
and ``history_type``. A row becomes ``invoice.create``, ``.update`` or ``.delete`` of
``invoice:7``, the model's name being the type, as the Django adapter names it
(``shop.invoice`` where two apps have such a model). ``history_user_id`` is the id of a user,
``history_change_reason`` the rationale.

The library keeps all values of the object each time; old values are those of the row before.
So a change in between that it did not see, by ``update()`` say, is told with the next that it
saw, and of the first row of an object, if that is no creation, every value stands as new.
What it keeps of many-to-many fields is not imported.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO

from indelible.capture import key_text
from indelible.errors import InvalidEvent
from indelible.event import Actor, Event, Outcome, Rationale, Resource, Source
from indelible.sources import Item, derived_id
from indelible.sources.rows import compared, moment, name_of
from indelible.sources.snapshots import Snapshots, key_of, read_snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.sources.databases import Database, Table
    from indelible.sources.snapshots import Snapshot

FORMAT = "simple_history"

_NEEDED = {"history_id", "history_date", "history_type"}
_VERBS = {"+": "create", "~": "update", "-": "delete"}
_MARK = "_historical"


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:  # noqa: ARG001 - as every source
    """
    Yield the rows of the databases at *paths*, one database after the other.

    Raises:
        CallerError: A database cannot be connected to, or holds no such table.
        StoreError: A database fails later on.
    """
    return read_snapshots(paths, _find, _event, ", ".join(sorted(_NEEDED)))


def _find(database: Database) -> list[Snapshots]:
    tables = database.tables()
    found = [each for each in tables.values() if set(each.columns) >= _NEEDED]
    models = Counter(_model(each.name) for each in found)
    return [_snapshots(each, tables, models) for each in found]


def _snapshots(table: Table, tables: Mapping[str, Table], models: Mapping[str, int]) -> Snapshots:
    app, mark, _ = table.name.partition(_MARK)
    model = _model(table.name)
    fields = tuple(name for name in table.columns if not name.startswith("history_"))
    return Snapshots(
        table=table.name,
        type=model if models[model] == 1 or not mark else f"{name_of(app)}.{model}",
        number="history_id",
        time="history_date",
        key=key_of(tables.get(table.name.replace(_MARK, "_", 1)), fields, table.name),
        about=tuple(
            name
            for name in table.columns
            if name.startswith("history_") and name not in {"history_id", "history_date"}
        ),
        fields=fields,
    )


def _model(table: str) -> str:
    return name_of(table.partition(_MARK)[2] or table)


def _event(found: Snapshot) -> Event:
    row, kind = found.row, found.of.type
    if (verb := _VERBS.get(row["history_type"])) is None:
        raise InvalidEvent("history_type", row["history_type"], "+, ~ or -")
    when = moment("history_date", row["history_date"])
    source = Source(format=FORMAT, id=f"{found.of.table}:{row['history_id']}")
    reason = row.get("history_change_reason")
    return Event(
        id=derived_id(FORMAT, source.id, when),
        kind="data_change",
        occurred_at=when,
        action=f"{kind}.{verb}",
        outcome=Outcome.SUCCESS,
        actor=_actor(row.get("history_user_id")),
        resource=Resource(type=kind, id=key_text(found.key)),
        changes=compared(verb, found.values, found.before),
        data={"table": found.of.table},
        rationale=Rationale(text=reason) if reason else None,
        source=source,
    )


def _actor(user: Any) -> Actor:  # noqa: ANN401 - what the key of a user is
    return Actor(type="unknown") if user is None else Actor(type="user", id=key_text((user,)))
