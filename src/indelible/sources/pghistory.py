"""
django-pghistory: the rows of its event tables, from the oldest on.

A path is the URL of a database; its tables are those with ``pgh_id``, ``pgh_created_at`` and
``pgh_label``. A row becomes ``invoice.create``, ``.update`` or ``.delete`` of ``invoice:7``
where its label says ``insert``, ``update`` or ``delete``, and else ``invoice.<label>``. The type
is the model's name, as the Django adapter names it (``shop.invoice`` where two apps have such
a model). Of the context ``user`` is the id of a user, its id is ``request``, and the rest,
``url`` say, stands under ``data``.

The library keeps all values of the object each time: those after an update and before a
deletion, unless it was told otherwise. Old values are those of the row before; of the first row
of an object, if that is no creation, every value stands as new.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO

from indelible.capture import exact, key_text
from indelible.errors import InvalidEvent
from indelible.event import Actor, Event, Outcome, Resource, Source, check_text
from indelible.sources import Item, derived_id
from indelible.sources.rows import compared, decoded, moment, name_of
from indelible.sources.snapshots import Snapshots, key_of, read_snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.sources.databases import Database, Table
    from indelible.sources.snapshots import Snapshot

FORMAT = "pghistory"

_NEEDED = {"pgh_id", "pgh_created_at", "pgh_label"}
_VERBS = {"insert": "create", "update": "update", "delete": "delete"}
_SUFFIX = "event"
_CONTEXT = "pghistory_context"
_TYPES = "django_content_type"


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
    known = _models(database, tables)
    models = Counter(_model(each.name, known)[1] for each in found)
    return [_snapshots(each, tables, _model(each.name, known), models) for each in found]


def _models(database: Database, tables: Mapping[str, Table]) -> dict[str, tuple[str, str]]:
    """Return app and model by the table's name, as far as Django says."""
    if _TYPES not in tables:
        return {}
    rows = database.rows(f"SELECT app_label, model FROM {_TYPES}")  # noqa: S608 - a name of our own
    return {f"{app}_{model}": (app, model) for app, model in rows}


def _model(table: str, known: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    app, model = known.get(table, ("", table))
    return app, name_of(model.removesuffix(_SUFFIX))


def _snapshots(
    table: Table,
    tables: Mapping[str, Table],
    named: tuple[str, str],
    models: Mapping[str, int],
) -> Snapshots:
    app, model = named
    fields = tuple(name for name in table.columns if not name.startswith("pgh_"))
    own = tuple(name for name in table.columns if name.startswith("pgh_"))
    joined = "pgh_context_id" in own and "pgh_context" not in own and _CONTEXT in tables
    return Snapshots(
        table=table.name,
        type=model if models[model] == 1 or not app else f"{name_of(app)}.{model}",
        number="pgh_id",
        time="pgh_created_at",
        key=("pgh_obj_id",)
        if "pgh_obj_id" in own
        else key_of(tables.get(table.name.removesuffix(_SUFFIX)), fields, table.name),
        about=tuple(name for name in own if name not in {"pgh_id", "pgh_created_at"}),
        fields=fields,
        joined=(_CONTEXT, "metadata", "id", "pgh_context_id") if joined else None,
    )


def _event(found: Snapshot) -> Event:
    row, kind = found.row, found.of.type
    label = row["pgh_label"]
    check_text("pgh_label", label)
    verb = _VERBS.get(label) or name_of(label)
    when = moment("pgh_created_at", row["pgh_created_at"])
    source = Source(format=FORMAT, id=f"{found.of.table}:{row['pgh_id']}")
    context = _context(row)
    user = context.pop("user", None)
    data = {"table": found.of.table, "label": label}
    return Event(
        id=derived_id(FORMAT, source.id, when),
        kind="data_change",
        occurred_at=when,
        action=f"{kind}.{verb}",
        outcome=Outcome.SUCCESS,
        actor=Actor(type="unknown") if user is None else Actor(type="user", id=key_text((user,))),
        resource=Resource(type=kind, id=key_text(found.key)),
        changes=compared(verb, found.values, found.before),
        data={**data, "context": exact(context)} if context else data,
        request=None if (number := row.get("pgh_context_id")) is None else str(number),
        source=source,
    )


def _context(row: Mapping[str, Any]) -> dict[str, Any]:
    name = "pgh_context" if "pgh_context" in row else "metadata"
    found = decoded(name, row.get(name))
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidEvent(name, found, "an object")
    return dict(found)
