"""Which tables are captured, as what, and what else the database changes with them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import ForeignKeyConstraint, MetaData, Table, bindparam, select, tuple_
from sqlalchemy.orm import registry

from indelible.capture import (
    MEMBER,
    Row,
    Tracked,
    changed,
    created,
    deleted,
    key_text,
    linked,
    unlinked,
    updated,
)
from indelible.errors import CallerError, InvalidEvent
from indelible.event import Change, Resource, check_action

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, Select
    from sqlalchemy.orm import Mapper, RelationshipProperty

    from indelible.event import Kind

Key = tuple[Any, ...]
Values = tuple[Any, ...]

KEYS = "indelible_keys"
"""Name of the parameter of `Watched.lookup`."""

_FIELDS = ("exclude", "secret", "personal")
_NAMES = (*_FIELDS, "permissions")
_OPTIONS = frozenset({"type", *_NAMES})
_MOVES = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """
    A relationship whose pairs are the rows of a table of its own.

    Attributes:
        type: Of the resource that owns the relationship.
        relationship: Its name there.
        owner, target: Places of the columns that name the two.
        kind: Whether a pair gives a permission.
    """

    type: str
    relationship: str
    owner: tuple[int, ...]
    target: tuple[int, ...]
    kind: Kind

    def row(self, names: Sequence[str], old: Values | None, new: Values | None) -> list[Row]:
        """Return what a pair that came, went or changed means to its owner."""
        if old is None or new is None:
            return [self._row(old, new)]
        key = (*self.owner, *self.target)
        if [old[place] for place in key] != [new[place] for place in key]:
            return [self._row(old, None), self._row(None, new)]
        changes = changed(dict(zip(names, old, strict=True)), dict(zip(names, new, strict=True)))
        if not changes:
            return []
        member = {MEMBER: self._of(new, self.target)}
        changes[self.relationship] = Change(member, member)
        owner = self._of(new, self.owner)
        return [
            Row(f"{self.type}.{self.relationship}.update", self.type, owner, changes, self.kind)
        ]

    def _row(self, old: Values | None, new: Values | None) -> Row:
        values: Any = old if new is None else new
        owner, member = ([values[place] for place in key] for key in (self.owner, self.target))
        made = unlinked if new is None else linked
        return made(self.type, self.relationship, owner, member, self.kind)

    @staticmethod
    def _of(values: Values, places: tuple[int, ...]) -> str:
        return key_text(values[place] for place in places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """
    A table whose rows are looked at before and after a statement.

    Attributes:
        key: Columns that tell its rows apart.
        places: Of the key in *columns*.
        columns: Those that are looked at, the key among them.
        kept: Places in *columns* of what stands in an event.
        told: What its rows are; nothing, where only other tables depend on it.
        permissions: Columns whose change is a change of rights.
        aliases: Names that a statement may use for a column.
        lookup: Selects the rows whose keys are in the parameter `KEYS`.
        names: Of the columns that are *kept*.
    """

    table: Table
    key: tuple[Column[Any], ...]
    places: tuple[int, ...]
    columns: tuple[Column[Any], ...]
    kept: tuple[int, ...]
    told: Tracked | Link | None
    permissions: frozenset[str]
    aliases: Mapping[str, str]
    lookup: Select[Any]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple([str(self.columns[place].name) for place in self.kept])
        object.__setattr__(self, "names", names)

    def key_of(self, values: Values) -> Key:
        """Return the key of a row."""
        return tuple(values[place] for place in self.places)

    def column(self, name: Any) -> str:  # noqa: ANN401 - a name, a column or an attribute
        """Return the name of the column that a statement calls so."""
        text = getattr(name, "key", name)
        return self.aliases.get(text, text)

    def rows(self, old: Values | None, new: Values | None) -> list[Row]:
        """Return what it means that a row was *old* and is *new*."""
        told, names = self.told, self.names
        if told is None:
            return []
        if isinstance(told, Link):
            return told.row([str(column.name) for column in self.columns], old, new)
        before = None if old is None else dict(zip(names, self._kept(old), strict=True))
        after = None if new is None else dict(zip(names, self._kept(new), strict=True))
        row: Row | None = None
        if before is None and new is not None:
            row = created(told, self.key_of(new), after or {})
        elif old is not None and after is None:
            row = deleted(told, self.key_of(old), before or {})
        elif old is not None:
            row = updated(told, self.key_of(old), before or {}, after or {})
        if row is None:
            return []
        if not self.permissions.isdisjoint(row.changes):
            row = Row(row.action, row.type, row.id, row.changes, "permission_change")
        return [row]

    def _kept(self, values: Values) -> Values:
        if len(self.kept) == len(self.columns):
            return values
        return tuple([values[place] for place in self.kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """
    A table that the database itself changes when rows of another one go.

    Attributes:
        columns: Places of its columns that refer to the other table, in `Watched.columns`.
        referred: Places of those that they refer to.
        goes: Whether its rows go, too, or lose a value.
    """

    watched: Watched
    columns: tuple[int, ...]
    referred: tuple[int, ...]
    goes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """
    A table that the database itself changes when another one gets other values.

    Attributes:
        referred: Columns of the other table that it refers to.
    """

    table: str
    referred: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """
    What is watched in an application's database.

    Attributes:
        watched: By table.
        dependents: By table: what goes or changes with its rows when they go.
        followers: By table: what changes with its rows when they change.
        names: Of all watched tables that are told of.
        others: Names of tables that are declared and not captured.
    """

    watched: Mapping[Table, Watched]
    dependents: Mapping[Table, Sequence[Dependent]]
    followers: Mapping[Table, Sequence[Follower]]
    names: frozenset[str]
    others: frozenset[str]


def given(keys: Iterable[Key]) -> list[Any]:
    """Return *keys* as a parameter that expands takes them."""
    return [key[0] if len(key) == 1 else key for key in keys]


def within(key: Sequence[Any], keys: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's own types
    """Return the condition that the columns *key* hold one of *keys*."""
    return key[0].in_(keys) if len(key) == 1 else tuple_(*key).in_(keys)


def tables_of(*declared: object) -> Tables:
    """
    Read the declarations of what is captured.

    Args:
        declared: Declarative bases, mapped classes, registries, `MetaData` or `Table`.

    Raises:
        CallerError: A declaration means nothing, or nothing is captured.
    """
    mappers, tables = _found(declared)
    options = _of_tables(tables) | _of_classes(mappers)
    told: dict[Table, Tracked | Link] = {
        table: _tracked(table, options[table]) for table in options
    }
    permissions = {
        table: frozenset(str(column.name) for column in options[table]["permissions"])
        for table in options
    }
    if not told:
        raise CallerError(
            "sqlalchemy: found no table to capture, expected classes with __audit__ = {} or"
            " tables with info={'audit': {}}"
        )
    _check_types(told)
    told.update(_links(mappers, told))
    metadata = {table.metadata: None for table in tables}
    known = {table: None for each in metadata for table in each.tables.values()}
    return _watched({**known, **dict.fromkeys(tables)}, told, permissions, mappers)


def _found(declared: Iterable[object]) -> tuple[list[Mapper[Any]], list[Table]]:
    mappers: dict[Mapper[Any], None] = {}
    tables: dict[Table, None] = {}
    for each in declared:
        if isinstance(each, Table):
            tables[each] = None
            continue
        if isinstance(each, MetaData):
            tables.update(dict.fromkeys(each.tables.values()))
            continue
        found = each if isinstance(each, registry) else getattr(each, "registry", None)
        if not isinstance(found, registry):
            raise CallerError(
                f"sqlalchemy: found {each!r}, expected a declarative base, MetaData or Table"
            )
        found.configure()
        mappers.update(dict.fromkeys(sorted(found.mappers, key=lambda mapper: str(mapper.class_))))
        tables.update(dict.fromkeys(found.metadata.tables.values()))
    for mapper in mappers:
        tables.update(dict.fromkeys(table for table in mapper.tables if isinstance(table, Table)))
    return list(mappers), list(tables)


_Declared = dict[Table, dict[str, Any]]
"""For each table its type, and its columns by option."""


def _of_classes(mappers: Iterable[Mapper[Any]]) -> _Declared:
    found: _Declared = {}
    for mapper in mappers:
        given = getattr(mapper.class_, "__audit__", None)
        table = mapper.local_table
        if given is None:
            continue
        where = f"{mapper.class_.__name__}.__audit__"
        _check_options(where, given)
        if not isinstance(table, Table):
            raise CallerError(f"{where}: found no table, expected a class mapped to one")
        into = found.setdefault(table, {"type": None, **{name: set() for name in _NAMES}})
        declaring = next(each for each in mapper.class_.__mro__ if "__audit__" in vars(each))
        above = mapper.inherits
        if not (above is not None and issubclass(above.class_, declaring)):
            # What a subclass has inherited names the type of the table above.
            into["type"] = given.get("type") or into["type"]
        names = _names(mapper)
        for option, name in _given(given):
            if option == "permissions" and name in mapper.relationships:
                continue
            if name not in names:
                raise CallerError(f"{where}: found no attribute or column {name!r}")
            into[option].update(column for column in names[name] if column.table is table)
    return found


def _of_tables(tables: Iterable[Table]) -> _Declared:
    found: _Declared = {}
    for table in tables:
        given = table.info.get("audit")
        if given is None:
            continue
        where = f"info['audit'] of table {table.fullname}"
        _check_options(where, given)
        into = found[table] = {"type": given.get("type"), **{name: set() for name in _NAMES}}
        for option, name in _given(given):
            if name not in table.c:
                raise CallerError(f"{where}: found no column {name!r}")
            into[option].add(table.c[name])
    return found


def _given(given: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    return ((option, name) for option in _NAMES for name in given.get(option, ()))


def _names(mapper: Mapper[Any]) -> dict[str, set[Column[Any]]]:
    found: dict[str, set[Any]] = defaultdict(set)
    for attribute in mapper.column_attrs:
        for column in attribute.columns:
            if isinstance(getattr(column, "table", None), Table):
                found[attribute.key].add(column)
                found[str(getattr(column, "name", attribute.key))].add(column)
    return found


def _check_options(where: str, given: object) -> None:
    if not isinstance(given, dict):
        raise CallerError(f"{where}: found {given!r}, expected a dictionary")
    if unknown := given.keys() - _OPTIONS:
        raise CallerError(
            f"{where}: found {min(unknown)!r}, expected some of {', '.join(sorted(_OPTIONS))}"
        )
    for option in _NAMES:
        names = given.get(option, ())
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise CallerError(f"{where}: {option}: found {names!r}, expected a set of names")


def _tracked(table: Table, given: dict[str, Any]) -> Tracked:
    name = str(given["type"] or table.name)
    try:
        Resource(type=name, id="1")
        check_action(f"{name}.create")
    except InvalidEvent as error:
        raise CallerError(
            f"table {table.fullname}: found {name!r}, which no resource can have as its type;"
            " expected another, declared as 'type'"
        ) from error
    if not table.primary_key.columns:
        raise CallerError(
            f"table {table.fullname}: found no primary key, expected one: without it the rows"
            " that a statement changes cannot be told apart"
        )
    if secret_key := given["secret"] & set(table.primary_key.columns):
        raise CallerError(
            f"table {table.fullname}: found the secret {min(column.name for column in secret_key)}"
            " in its primary key, expected another key: it is the id of every event"
        )
    return Tracked(
        type=name,
        **{option: frozenset(str(column.name) for column in given[option]) for option in _FIELDS},
    )


def _check_types(told: Mapping[Table, Tracked | Link]) -> None:
    of: dict[str, Table] = {}
    for table, tracked in told.items():
        other = of.setdefault(tracked.type, table)
        if other is not table:
            raise CallerError(
                f"table {table.fullname}: found the type {tracked.type!r}, which"
                f" {other.fullname} has; expected one of its own"
            )


def _links(
    mappers: Iterable[Mapper[Any]], told: Mapping[Table, Tracked | Link]
) -> dict[Table, Link]:
    """Return the tables that hold the pairs of relationships of classes that are captured."""
    found: dict[Table, tuple[int, Link]] = {}
    for mapper in mappers:
        for relationship in mapper.relationships:
            table = relationship.secondary
            if not isinstance(table, Table) or table in told or relationship.viewonly:
                continue
            if relationship.parent is not mapper:
                continue
            link = _link(relationship, table, told)
            if link is None:
                continue
            # Of the two classes that may own a pair, it is the one named first in its table.
            first = min(link.owner)
            if table not in found or first < found[table][0]:
                found[table] = (first, link)
    return {table: link for table, (_, link) in found.items()}


def _link(
    relationship: RelationshipProperty[Any],
    table: Table,
    told: Mapping[Table, Tracked | Link],
) -> Link | None:
    columns = list(table.c)
    own: list[tuple[Any, Any]] = list(relationship.synchronize_pairs)
    other: list[tuple[Any, Any]] = list(relationship.secondary_synchronize_pairs or ())
    owner = told.get(own[0][0].table)
    if not isinstance(owner, Tracked):
        return None
    permissions = (getattr(relationship.parent.class_, "__audit__", None) or {}).get(
        "permissions", ()
    )
    return Link(
        type=owner.type,
        relationship=relationship.key,
        owner=tuple(columns.index(column) for _, column in own),
        target=tuple(columns.index(column) for _, column in other),
        kind="permission_change" if relationship.key in permissions else "data_change",
    )


def _watched(
    tables: Iterable[Table],
    told: Mapping[Table, Tracked | Link],
    permissions: Mapping[Table, frozenset[str]],
    mappers: Iterable[Mapper[Any]],
) -> Tables:
    every = list(tables)
    references = [
        reference
        for table in every
        for reference in table.foreign_key_constraints
        if _MOVES & {(reference.ondelete or "").upper(), (reference.onupdate or "").upper()}
    ]
    # A table that is not told of matters if what goes with it is.
    needed: set[Table] = set(told)
    while more := {
        reference.referred_table
        for reference in references
        if reference.table in needed and reference.referred_table not in needed
    }:
        needed |= more
    attributes: dict[Table, dict[str, str]] = defaultdict(dict)
    for mapper in mappers:
        for name, columns in _names(mapper).items():
            for column in columns:
                attributes[column.table].setdefault(name, column.name)
    watched = {
        table: _watch(
            table,
            told.get(table),
            permissions.get(table, frozenset()),
            attributes[table],
            references,
        )
        for table in every
        if table in needed and (table in told or table.primary_key.columns)
    }
    dependents: dict[Table, list[Dependent]] = defaultdict(list)
    followers: dict[Table, list[Follower]] = defaultdict(list)
    for reference in references:
        if (reference.onupdate or "").upper() in _MOVES and reference.table in told:
            followers[reference.referred_table].append(
                Follower(
                    table=str(reference.table.name),
                    referred=frozenset(str(pair.column.name) for pair in reference.elements),
                )
            )
        if (reference.ondelete or "").upper() not in _MOVES:
            continue
        child, parent = watched.get(reference.table), watched.get(reference.referred_table)
        if child is not None and parent is not None:
            pairs = reference.elements
            dependents[parent.table].append(
                Dependent(
                    watched=child,
                    columns=tuple(child.columns.index(pair.parent) for pair in pairs),
                    referred=tuple(parent.columns.index(pair.column) for pair in pairs),
                    goes=(reference.ondelete or "").upper() == "CASCADE",
                )
            )
    return Tables(
        watched=watched,
        dependents=dict(dependents),
        followers=dict(followers),
        names=frozenset(table.name.lower() for table in told),
        others=frozenset(table.name.lower() for table in every if table not in told),
    )


def _watch(
    table: Table,
    told: Tracked | Link | None,
    permissions: frozenset[str],
    attributes: dict[str, str],
    references: Iterable[ForeignKeyConstraint],
) -> Watched:
    every = tuple(table.c)
    if isinstance(told, Link):
        key = tuple(every[place] for place in (*told.owner, *told.target))
        columns = every
    else:
        key = tuple(table.primary_key.columns)
        needed = set(key)
        for reference in references:
            if reference.table is table:
                needed |= set(reference.columns)
            if reference.referred_table is table:
                needed |= {element.column for element in reference.elements}
        excluded = told.exclude if told is not None else {column.name for column in every}
        columns = tuple(
            column for column in every if column in needed or column.name not in excluded
        )
    exclude = told.exclude if isinstance(told, Tracked) else frozenset()
    aliases = {**attributes, **{column.key: column.name for column in every}}
    return Watched(
        table=table,
        key=key,
        places=tuple(columns.index(column) for column in key),
        columns=columns,
        kept=tuple(place for place, column in enumerate(columns) if column.name not in exclude),
        told=told,
        permissions=permissions,
        aliases=aliases,
        lookup=select(*columns).where(within(key, bindparam(KEYS, expanding=True))),
    )
