"""
The shop in a real database, and what its tables say that a step has done to it.

What the events say is held against the tables: whatever they held before, and hold
afterwards, was not read through what is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections

from indelible.capture import MEMBER, SECRET, exact, key_text
from indelible.frameworks.django import tracking
from indelible.frameworks.django.models import Outbox
from indelible.outbox import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.db.models import Model

    from indelible import Event

Snapshot = dict[str, dict[str, Any]]


def use(database: Mapping[str, Any]) -> None:
    """Let *database* be the default one from now on."""
    connections["default"].close()
    del connections["default"]
    connections.settings["default"] = connections.configure_settings({"default": dict(database)})[
        "default"
    ]


def migrate() -> None:
    """Make all tables."""
    call_command("migrate", run_syncdb=True, verbosity=0, interactive=False)


def empty() -> None:
    """Delete all rows, past everything that captures."""
    with connection.cursor() as cursor:
        names = [
            connection.ops.quote_name(name)
            for name in connection.introspection.table_names(cursor)
            if name not in {"django_migrations", "django_content_type", "auth_permission"}
        ]
        if connection.vendor == "postgresql":
            cursor.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")
            return
        cursor.execute("PRAGMA foreign_keys = OFF")
        for name in names:
            cursor.execute(f"DELETE FROM {name}")
        cursor.execute("PRAGMA foreign_keys = ON")


def events() -> list[Any]:
    """Return what waits in the outbox, in its order."""
    bodies = Outbox.objects.order_by("seq").values_list("body", flat=True)
    return [event for body in bodies for event in unpack(body)]


def snapshot() -> Snapshot:
    """Return every row of every captured table of the shop, by the resource that it is."""
    found: Snapshot = {}
    for table in tracking.tables():
        if table.model._meta.app_label not in {"django_project", "auth"}:
            continue
        for row in _rows(table.model, table.columns):
            count = len(table.key)
            values = {
                name: SECRET if name in table.tracked.secret else exact(value)
                for name, value in zip(table.fields, row[count:], strict=True)
            }
            found[f"{table.tracked.type}:{key_text(row[:count])}"] = values
    for link in _links():
        for owner, member in _rows(link.model, link.fields.values()):
            row = found[f"{link.type}:{key_text([owner])}"]
            row[link.name] = sorted([*row.get(link.name, []), key_text([member])])
    return found


def _links() -> list[tracking.Link]:
    found = [tracking.table_of(model) for model in apps.get_models(include_auto_created=True)]
    return [each for each in found if isinstance(each, tracking.Link)]


def _rows(model: type[Model], fields: Any) -> Any:
    return model._base_manager.values_list(*(field.attname for field in fields))


def replayed(before: Snapshot, said: list[Event]) -> Snapshot:
    """Return what the tables hold after *said*, if all that it says of old values is true."""
    rows = {resource: dict(values) for resource, values in before.items()}
    for event in said:
        resource, changes = str(event.resource), event.changes or {}
        verb = event.action.rpartition(".")[2]
        assert changes or verb in {"create", "delete"}, f"{event.action} says nothing"
        if verb == "create":
            assert resource not in rows, f"{resource} was there"
            rows[resource] = {name: change.new for name, change in changes.items()}
        elif verb == "delete":
            values = {name: change.old for name, change in changes.items()}
            assert values == {k: v for k, v in rows.pop(resource).items() if v != []}
        elif verb in {"add", "remove"}:
            ((name, change),) = changes.items()
            members = rows[resource].setdefault(name, [])
            if verb == "add":
                assert change.new[MEMBER] not in members
                rows[resource][name] = sorted([*members, change.new[MEMBER]])
            else:
                members.remove(change.old[MEMBER])
        else:
            for name, change in changes.items():
                assert change.old == rows[resource][name], f"{resource} {name}: a false old value"
                assert change.old != change.new or change.new == SECRET, f"{name} did not change"
                rows[resource][name] = change.new
    return {
        resource: {name: value for name, value in values.items() if value != []}
        for resource, values in rows.items()
    }


def told(step: Callable[[], object]) -> list[Any]:
    """
    Do *step*, and return what was captured of it.

    Whatever that is, it must lead from what the tables held before exactly to what they
    hold afterwards.
    """
    Outbox.objects.all().delete()
    before = snapshot()
    step()
    said = events()
    rows = [event for event in said if event.kind != "authentication"]
    assert snapshot() == replayed(before, rows)
    return said
