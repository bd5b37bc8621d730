"""What each library for SQLAlchemy has recorded since it was last asked, in one form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from benchmarks.peers.judging import Recorded, Snapshots
from indelible.outbox import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

_snapshots = Snapshots()


def recorded(library: str, engine: Engine) -> Recorded:
    """Return what *library* has recorded since the last call."""
    return _READERS[library](engine)


def _indelible(engine: Engine) -> Recorded:
    return [
        (
            event.action.rpartition(".")[2],
            event.resource.id,
            {name: (change.old, change.new) for name, change in (event.changes or {}).items()},
        )
        for row in _taken(engine, "indelible_outbox", "seq")
        for event in unpack(row.body)
        if event.resource.type == "item"
    ]


def _continuum(engine: Engine) -> Recorded:
    verbs = {0: "create", 1: "update", 2: "delete"}
    found = _taken(engine, "item_version", "transaction_id")
    return _snapshots.compared([(verbs[row.operation_type], row) for row in found])


def _postgresql_audit(engine: Engine) -> Recorded:
    verbs = {"insert": "create", "update": "update", "delete": "delete"}
    said: Recorded = []
    for row in _taken(engine, "activity", "id"):
        old, new = row.old_data or {}, row.changed_data or {}
        # Triggers of statements have one row for each row that was changed.
        key = str(old.get("id", new.get("id")))
        changes = {name: (old.get(name), value) for name, value in new.items()}
        said.append((verbs[row.verb], key, changes))
    return said


def _taken(engine: Engine, table: str, order: str) -> list[Any]:
    """Return all rows of a log, and empty it."""
    with engine.begin() as connection:
        found = connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}")).all()  # noqa: S608 - our own
        connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608
    return list(found)


_READERS: dict[str, Callable[[Engine], Recorded]] = {
    "indelible": _indelible,
    "continuum": _continuum,
    "postgresql-audit": _postgresql_audit,
}
