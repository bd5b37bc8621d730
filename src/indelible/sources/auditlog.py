"""
django-auditlog: what it kept in ``auditlog_logentry``, from the oldest on.

A path is the URL of a database. An entry becomes ``invoice.create``, ``.update``, ``.delete``
or ``.access`` of ``invoice:7``, the model's name being the type, as the Django adapter names it
(``shop.invoice`` where two apps have such a model). ``actor_id`` is the id of a user, the
correlation id is ``request``, and what else it holds stands under ``data``.

Its values are texts, as it wrote them: "None" may be one, or none. It does not see what
passes by the signals of Django, such as ``update()`` and bulk operations.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO

from indelible.capture import exact
from indelible.errors import CallerError, InvalidEvent
from indelible.event import Actor, Change, Client, Event, Outcome, Resource, Source, check_text
from indelible.seal import seal
from indelible.sources import Found, Item, Rejected, derived_id
from indelible.sources.databases import check_urls, opened, quoted, shown
from indelible.sources.rows import as_bytes, decoded, moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.sources.databases import Table

FORMAT = "auditlog"

_TABLE = "auditlog_logentry"
_TYPES = "django_content_type"
_NEEDED = ("id", "object_pk", "action", "timestamp", "content_type_id")
_VERBS = {0: "create", 1: "update", 2: "delete", 3: "access"}
_PAIR = 2


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:  # noqa: ARG001 - as every source
    """
    Yield the entries of the databases at *paths*, one database after the other.

    Raises:
        CallerError: A database cannot be connected to, or holds no such table.
        StoreError: A database fails later on.
    """
    check_urls(paths)
    for path in paths:
        with closing(opened(path)) as database:
            _check(database.tables(), path)
    return (item for path in paths for item in _read(path))


def _check(tables: Mapping[str, Table], path: str) -> None:
    for name, needed in ((_TABLE, _NEEDED), (_TYPES, ("id", "app_label", "model"))):
        if name not in tables:
            raise CallerError(f"{shown(path)}: found no table {name}, expected it")
        if missing := set(needed) - set(tables[name].columns):
            raise CallerError(f"{shown(path)}: found no {name}.{min(missing)}, expected it")


def _read(path: str) -> Iterator[Item]:
    with closing(opened(path)) as database:
        types = {
            number: (app, model)
            for number, app, model in database.rows(f"SELECT id, app_label, model FROM {_TYPES}")  # noqa: S608 - names of our own
        }
        models = Counter(model for _, model in types.values())
        columns = database.tables()[_TABLE].columns
        names = ", ".join(map(quoted, columns))
        query = f"SELECT {names} FROM {_TABLE} ORDER BY timestamp, id"  # noqa: S608 - quoted
        for place, values in enumerate(database.rows(query), 1):
            row = dict(zip(columns, values, strict=True))
            line = number if type(number := row["id"]) is int else place
            try:
                yield Found(line, _event(row, types, models), shown(path))
            except InvalidEvent as error:
                yield Rejected(line, str(error), as_bytes(row), shown(path))


def _event(
    row: Mapping[str, Any], types: Mapping[Any, tuple[str, str]], models: Mapping[str, int]
) -> Event:
    if (verb := _VERBS.get(row["action"])) is None:
        raise InvalidEvent("action", row["action"], "0, 1, 2 or 3")
    if (found := types.get(row["content_type_id"])) is None:
        raise InvalidEvent("content_type_id", row["content_type_id"], f"one in {_TYPES}")
    app, model = found
    kind = model if models[model] == 1 else f"{app}.{model}"
    when = moment("timestamp", row["timestamp"])
    source = Source(format=FORMAT, id=str(row["id"]))
    check_text("object_pk", row["object_pk"])
    address, cid = row.get("remote_addr"), row.get("cid")
    event = Event(
        id=derived_id(FORMAT, source.id, when),
        kind=None if verb == "access" else "data_change",
        occurred_at=when,
        action=f"{kind}.{verb}",
        outcome=Outcome.SUCCESS,
        actor=_actor(row),
        resource=Resource(type=kind, id=row["object_pk"], name=row.get("object_repr") or None),
        changes=_changes(row, verb) or None,
        data=_data(row, f"{app}.{model}"),
        request=cid or None,
        client=Client(ip=str(address).strip()) if address else None,
        source=source,
    )
    seal(event)
    return event


def _actor(row: Mapping[str, Any]) -> Actor:
    number, email = row.get("actor_id"), row.get("actor_email") or None
    if number is not None:
        return Actor(type="user", id=str(number), name=email)
    return Actor(type="user", id=email) if email else Actor(type="unknown")


def _changes(row: Mapping[str, Any], verb: str) -> dict[str, Change]:
    found = decoded("changes", row.get("changes"))
    if found is None and row.get("changes_text"):
        found = decoded("changes_text", row["changes_text"])  # as it was before 3.0
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidEvent("changes", found, "an object")
    return {name: _change(f"changes.{name}", value, verb) for name, value in found.items()}


def _change(field: str, value: object, verb: str) -> Change:
    if isinstance(value, list) and len(value) == _PAIR:
        old, new = (exact(each) for each in value)
        if verb == "create":
            return Change(new=new)
        return Change(old=old) if verb == "delete" else Change(old, new)
    if isinstance(value, dict) and value.get("type") == "m2m":
        objects = exact(value.get("objects"))
        return Change(new=objects) if value.get("operation") == "add" else Change(old=objects)
    raise InvalidEvent(field, value, "[old, new], or a many-to-many change")


def _data(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    found: dict[str, Any] = {"model": model}
    for name in ("additional_data", "serialized_data"):
        if (value := decoded(name, row.get(name))) is not None:
            found[name] = exact(value)
    if row.get("remote_port") is not None:
        found["remote_port"] = row["remote_port"]
    return found
