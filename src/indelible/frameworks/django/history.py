"""What a row was at a time, read from the trail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.capture import key_text
from indelible.errors import CallerError, NotFound
from indelible.frameworks.django.relaying import trail
from indelible.frameworks.django.tracking import Table, table_of

if TYPE_CHECKING:
    from datetime import datetime


def resource_of(instance: Any) -> str:
    """
    Return the resource that the row of *instance* is: ``invoice:7``.

    Raises:
        CallerError: Its model is not tracked, or it was never saved.
    """
    table = table_of(type(instance))
    if not isinstance(table, Table):
        raise CallerError(f"{type(instance)._meta.label}: found a model that is not tracked")
    if instance.pk is None:
        raise CallerError(f"{type(instance)._meta.label}: found one that was never saved")
    key = [getattr(instance, each.attname) for each in table.key]
    return f"{table.tracked.type}:{key_text(key)}"


def as_of(instance: Any, at: datetime) -> Any:
    """
    Return *instance* as it was at a time, as far as the trail knows.

    It is not saved, and what the trail does not know of it (excluded and secret fields,
    those set before it was tracked) is deferred: reading such a field asks the database for
    its value of now.

    Raises:
        CallerError: Its model is not tracked, or it was never saved.
        NotFound: It was not there at that time.
    """
    model = type(instance)
    resource = resource_of(instance)
    found: dict[str, Any] = {}
    for each in (model, *model._meta.get_parent_list()):
        table = table_of(each)
        if not isinstance(table, Table):
            continue
        key = resource.partition(":")[2]
        values = trail().state(f"{table.tracked.type}:{key}", at=at).values
        for name, field in table.fields.items():
            if name in values and not _is_marked(values[name].value):
                found[field.attname] = field.to_python(values[name].value)
    if not found:
        raise NotFound(f"{resource}: the trail knows nothing of it at {at.isoformat()}")
    for field in model._meta.concrete_fields:
        if field.primary_key or field in getattr(model._meta, "pk_fields", ()):
            found[field.attname] = getattr(instance, field.attname)
    names = [field.attname for field in model._meta.concrete_fields if field.attname in found]
    return model.from_db(instance._state.db, names, [found[name] for name in names])


def _is_marked(value: object) -> bool:
    return isinstance(value, dict) and any(name.startswith("$") for name in value)
