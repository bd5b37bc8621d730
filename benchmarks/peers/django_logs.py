"""What each library for Django has recorded since it was last asked, in one form."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.peers.judging import Recorded, Snapshots

if TYPE_CHECKING:
    from collections.abc import Callable

_snapshots = Snapshots()


def recorded(library: str, model: Any) -> Recorded:  # noqa: ANN401 - a model
    """Return what *library* has recorded of *model* since the last call."""
    return _READERS[library](model)


def _indelible(_: object) -> Recorded:
    from indelible.frameworks.django.models import Outbox  # noqa: PLC0415 - once Django is set up
    from indelible.outbox import unpack  # noqa: PLC0415

    found = _taken(Outbox, "seq")
    return [
        (
            event.action.rpartition(".")[2],
            event.resource.id,
            {name: (change.old, change.new) for name, change in (event.changes or {}).items()},
        )
        for row in found
        for event in unpack(row.body)
    ]


def _auditlog(_: object) -> Recorded:
    verbs = {0: "create", 1: "update", 2: "delete"}
    return [
        (verbs[entry.action], str(entry.object_pk), dict(entry.changes or {}))
        for entry in _taken(import_module("auditlog.models").LogEntry, "pk")
    ]


def _simple_history(model: Any) -> Recorded:  # noqa: ANN401 - a model
    verbs = {"+": "create", "~": "update", "-": "delete"}
    found = _taken(model.history.model, "history_id")
    return _snapshots.compared([(verbs[row.history_type], row) for row in found])


def _pghistory(model: Any) -> Recorded:  # noqa: ANN401 - a model
    base = import_module("pghistory.models").Event
    models = model._meta.apps.get_models()  # noqa: SLF001 - Django's public name
    (events,) = [each for each in models if issubclass(each, base)]
    verbs = {"insert": "create", "update": "update", "delete": "delete"}
    found = _taken(events, "pgh_id")
    return _snapshots.compared([(verbs[row.pgh_label], row) for row in found])


def _easyaudit(_: object) -> Recorded:
    verbs = {1: "create", 2: "update", 3: "delete"}
    return [
        (
            verbs.get(event.event_type, str(event.event_type)),
            str(event.object_id),
            json.loads(event.changed_fields or "null") or {},
        )
        for event in _taken(import_module("easyaudit.models").CRUDEvent, "pk")
    ]


def _taken(model: Any, order: str) -> list[Any]:  # noqa: ANN401 - a model
    """Return all rows of a log, and empty it."""
    rows = model.objects.order_by(order)
    found = list(rows)
    rows.all()._raw_delete("default")  # noqa: SLF001 - no library hears of it
    return found


_READERS: dict[str, Callable[[Any], Recorded]] = {
    "indelible": _indelible,
    "indelible-triggers": _indelible,
    "auditlog": _auditlog,
    "simple-history": _simple_history,
    "pghistory": _pghistory,
    "pghistory-statement": _pghistory,
    "easyaudit": _easyaudit,
}
