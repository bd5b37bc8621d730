"""
Which models are captured, and which columns of their tables.

`track` only notes what was asked for; a `Table` is made of it when all models are there.
It runs no query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured

from indelible.capture import Row, Tracked, created, deleted, linked, unlinked, updated
from indelible.errors import InvalidEvent
from indelible.event import Resource, check_action

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from indelible.event import Kind

_asked: dict[Any, dict[str, Any]] = {}
_tables: dict[Any, Table | Link] = {}
_names: dict[str, Any] = {}


def track(
    *,
    exclude: Collection[str] = (),
    secret: Collection[str] = (),
    personal: Collection[str] = (),
    permissions: Collection[str] = (),
    type: str | None = None,  # noqa: A002 - the word of the trail
    triggers: bool = False,
) -> Callable[[Any], Any]:
    """
    Capture every change of the rows of the decorated model.

    Its many-to-many relations without a model of their own are captured with it, and so
    are the tables that it inherits from.

    Args:
        exclude: Fields that are left out; a change of nothing else is no event.
        secret: Fields of which only that they changed is kept. Their values never leave
            the database.
        personal: Fields that name people: `manage.py check` says where the policy of the
            trail classes them otherwise.
        permissions: Fields whose change is a change of rights.
        type: Type of the resource that a row is; by default the model's name.
        triggers: Triggers in the database capture this model, see `indelible.outboxes.triggers`;
            here only the context is handed to them.

    Raises:
        ImproperlyConfigured: A field that the model does not have, a proxy, or a type that
            two models have.
    """
    options = {
        "exclude": _names_of("exclude", exclude),
        "secret": _names_of("secret", secret),
        "personal": _names_of("personal", personal),
        "permissions": _names_of("permissions", permissions),
        "type": type,
        "triggers": triggers,
    }

    def decorate(model: Any) -> Any:
        if model._meta.proxy:
            raise ImproperlyConfigured(
                f"{model._meta.label} is a proxy: track {model._meta.concrete_model._meta.label}"
            )
        _asked[model] = options
        return model

    return decorate


def _names_of(option: str, names: Collection[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise ImproperlyConfigured(f"{option}: found a text, expected a collection of names")
    return frozenset(names)


class _Rows:
    """What is read of the rows of a captured table, whatever they mean."""

    model: Any
    fields: Mapping[str, Any]

    @cached_property
    def key(self) -> list[Any]:
        """The fields of the primary key."""
        return key_fields(self.model)

    @cached_property
    def columns(self) -> list[Any]:
        """What is read of a row: the primary key, and then each captured field."""
        return [*self.key, *self.fields.values()]


@dataclass(frozen=True, eq=False)
class Table(_Rows):
    """
    A table of which every row is a resource.

    Attributes:
        fields: Those that are captured, by their names.
        permissions: Those of them whose change is a change of rights.
    """

    model: Any
    tracked: Tracked
    fields: Mapping[str, Any]
    permissions: frozenset[str] = frozenset()
    triggers: bool = False

    @cached_property
    def generated(self) -> list[str]:
        """Fields that the database computes from others."""
        return [name for name, field in self.fields.items() if getattr(field, "generated", False)]

    def created(self, values: Sequence[Any]) -> Row:
        """Return what happened to a row that came; *values* are those of `columns`."""
        return self._kind(created(self.tracked, *self._apart(values)))

    def deleted(self, values: Sequence[Any]) -> Row:
        """Return what happened to a row that went."""
        return self._kind(deleted(self.tracked, *self._apart(values)))

    def updated(
        self, key: Sequence[Any], old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> list[Row]:
        """Return what happened to a row; nothing where no value is another one."""
        row = updated(self.tracked, key, old, new)
        return [] if row is None else [self._kind(row)]

    def _apart(self, values: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        count = len(self.key)
        return values[:count], dict(zip(self.fields, values[count:], strict=True))

    def _kind(self, row: Row) -> Row:
        if self.permissions.isdisjoint(row.changes):
            return row
        return Row(row.action, row.type, row.id, row.changes, "permission_change")


@dataclass(frozen=True, eq=False)
class Link(_Rows):
    """
    The table of a many-to-many relation: its rows are changes of those who have the relation.

    Attributes:
        name: Of the relation.
        source, target: Its two foreign keys.
        kind: ``permission_change`` where the relation is one of rights.
    """

    model: Any
    type: str
    name: str
    source: Any
    target: Any
    kind: Kind = "data_change"
    triggers: bool = False

    @cached_property
    def fields(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Its two foreign keys."""
        return {each.name: each for each in (self.source, self.target)}

    def created(self, values: Sequence[Any]) -> Row:
        """Return what happened when a row came."""
        return linked(self.type, self.name, values[-2:-1], values[-1:], self.kind)

    def deleted(self, values: Sequence[Any]) -> Row:
        """Return what happened when a row went."""
        return unlinked(self.type, self.name, values[-2:-1], values[-1:], self.kind)

    def updated(
        self,
        key: Sequence[Any],
        old: Mapping[str, Any],
        new: Mapping[str, Any],
    ) -> list[Row]:
        """Return what happened when a row came to join others: the one went, the other came."""
        before, after = ([*key, *(row[name] for name in self.fields)] for row in (old, new))
        return [] if before == after else [self.deleted(before), self.created(after)]


def key_fields(model: Any) -> list[Any]:
    """Return the fields of the primary key of *model*, of which there may be several."""
    return list(getattr(model._meta, "pk_fields", None) or [model._meta.pk])


def is_asked(model: Any) -> bool:
    """Tell whether somebody has asked to capture *model*."""
    return model in _asked


def table_of(model: Any) -> Table | Link | None:
    """Return the table of *model*, if it is captured."""
    return _tables.get(model) or _tables.get(model._meta.concrete_model)


def tables() -> list[Table]:
    """Return the tables whose rows are resources."""
    return [table for table in _tables.values() if isinstance(table, Table)]


def with_triggers() -> list[Table]:
    """Return the tables that triggers capture."""
    return [table for table in tables() if table.triggers]


def resolve() -> None:
    """
    Make the tables of all models that are tracked; again, where more came since.

    Raises:
        ImproperlyConfigured: As `track`.
    """
    _tables.clear()
    _names.clear()
    for model, options in list(_asked.items()):
        _add(model, options, asked=True)
        for parent in model._meta.get_parent_list():
            if parent not in _asked:
                _add(parent, {**options, "type": None}, asked=False)
    for model, options in _asked.items():
        _check_inherited(model, options["secret"])


def _check_name(label: str, what: str, name: str) -> None:
    try:
        Resource(type=name, id="1")
        check_action(f"{name}.create")
    except InvalidEvent:
        # Else each of its events would be put aside when it comes to the trail.
        raise ImproperlyConfigured(
            f"{label}: {what} {name!r} cannot stand in an event, expected letters of ASCII, digits,"
            " '_', '-' and '.'; give another one: track(type=…)"
        ) from None


def forget(model: Any) -> None:
    """Capture *model* no longer; for tests."""
    _asked.pop(model, None)
    resolve()


def _add(model: Any, options: Mapping[str, Any], *, asked: bool) -> None:
    meta = model._meta
    if model in _tables:
        return
    name = options["type"] or meta.model_name
    _check_name(meta.label, "type", name)
    other = _names.setdefault(name, model)
    if other is not model:
        raise ImproperlyConfigured(
            f"{meta.label} and {other._meta.label}: both are {name!r} in the trail;"
            " give one of them another type: track(type=…)"
        )
    if asked:
        for option in ("exclude", "secret", "personal", "permissions"):
            options = {**options, option: _fields_of(model, option, options[option])}
    exclude = options["exclude"]
    key = set(key_fields(model))
    fields = {
        each.name: each
        for each in meta.local_concrete_fields
        if each.column is not None and each not in key and each.name not in exclude
    }
    _tables[model] = Table(
        model=model,
        tracked=Tracked(
            type=name,
            exclude=exclude,
            secret=options["secret"],
            personal=options["personal"],
        ),
        fields=fields,
        permissions=options["permissions"] & fields.keys(),
        triggers=options["triggers"],
    )
    for relation in meta.local_many_to_many:
        through = relation.remote_field.through
        if relation.name in exclude or not through._meta.auto_created:
            continue
        _check_name(meta.label, "relation", relation.name)
        _tables[through] = Link(
            model=through,
            type=name,
            name=relation.name,
            source=through._meta.get_field(relation.m2m_field_name()),
            target=through._meta.get_field(relation.m2m_reverse_field_name()),
            kind="permission_change" if relation.name in options["permissions"] else "data_change",
            triggers=options["triggers"],
        )


def _fields_of(model: Any, option: str, names: Collection[str]) -> frozenset[str]:
    """Return the names of the fields that *names* are, which may name their columns."""
    found: set[str] = set()
    for name in names:
        try:
            each = model._meta.get_field(name)
        except FieldDoesNotExist:
            raise ImproperlyConfigured(
                f"{model._meta.label}: {option} names {name!r}, which is no field of it"
            ) from None
        if option == "secret" and (
            each in key_fields(model) or each.many_to_many or not getattr(each, "concrete", False)
        ):
            raise ImproperlyConfigured(
                f"{model._meta.label}: secret names {name!r}, which is no column besides the"
                " primary key: keys of rows stand in every event; exclude the relation, or do not"
                " track it"
            )
        found.add(each.name)
    return frozenset(found)


def _check_inherited(model: Any, names: Collection[str]) -> None:
    """Look whether those fields that *model* inherits are secret in the table that has them."""
    for name in names:
        each = model._meta.get_field(name)
        table = _tables.get(each.model._meta.concrete_model)
        if isinstance(table, Table) and each.name in table.fields.keys() - table.tracked.secret:
            raise ImproperlyConfigured(
                f"{model._meta.label}: {name!r} is secret here, and a column of"
                f" {table.model._meta.label}, which does not say so; track that model with"
                f" secret=[{each.name!r}]"
            )
