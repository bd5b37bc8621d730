"""
What a statement does to rows: they are read before it and after it, in its transaction.

Rows are locked before they are changed, so that what is read is what the database held
when it changed them, whoever else writes; and where its condition could reach a row that
came only after they were read, the statement is held to those that were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Insert,
    Table,
    Update,
    and_,
    bindparam,
    event,
    false,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, Grouping
from sqlalchemy.sql.lambdas import StatementLambdaElement
from sqlalchemy.sql.selectable import CTE, FromClause, TableClause

from indelible.errors import StoreError
from indelible.frameworks.sqlalchemy.inserts import (
    Asked,
    asked,
    bound,
    conflicts,
    contended,
    table_of,
    updates,
)
from indelible.frameworks.sqlalchemy.tables import KEYS, given, within
from indelible.frameworks.sqlalchemy.transaction import OWN, enter, undone, write, write_event
from indelible.frameworks.sqlalchemy.unparsed import Unparsed, unparsed
from indelible.outbox import TABLE
from indelible.recorder import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, CursorResult, Engine, Select

    from indelible.capture import Row
    from indelible.frameworks.sqlalchemy.tables import Key, Tables, Values, Watched

    Image = dict[Watched, dict[Key, Values]]
    Sets = Sequence[Mapping[str, Any]]

_PENDING = "indelible_pending"
"""Execution option of a statement: what was read before it."""

_CHUNK = 500
_TELLS_OLD = (18,)
"""From this version on PostgreSQL returns old values."""
_MOST_PARAMETERS = 10_000


@dataclass(slots=True, kw_only=True)
class Pending:
    """
    A statement between what was read before it and what is read after it.

    Attributes:
        before: The rows that it may change.
        renamed: The keys that it gives to some of them.
        pairs: Whether it returns each row as it was and as it is.
        asked: How it tells the keys of the rows that it adds.
        follows: Names of tables that the database itself changes with it, unseen.
    """

    watched: Watched
    before: Image = field(default_factory=dict)
    renamed: dict[Key, Key] = field(default_factory=dict)
    pairs: bool = False
    asked: Asked | None = None
    follows: list[str] = field(default_factory=list)


class Capture:
    """What is captured on one engine."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def listen(self, engine: Engine) -> None:
        """Capture what is done on *engine* from now on."""
        event.listen(engine, "before_execute", self._before, retval=True)
        event.listen(engine, "after_execute", self._after)
        event.listen(engine, "before_cursor_execute", self._before_text)
        event.listen(engine, "after_cursor_execute", self._after_text)

    def watched(self, table: object) -> Watched | None:
        """Return what *table* is watched as."""
        return self._tables.watched.get(cast("Table", table))

    # -- Statements that SQLAlchemy has built.

    def _before(
        self,
        connection: Connection,
        clause: Any,  # noqa: ANN401 - whatever is executed
        multiparams: Any,  # noqa: ANN401
        params: Any,  # noqa: ANN401
        options: Mapping[str, Any],
    ) -> tuple[Any, Any, Any]:
        same = (clause, multiparams, params)
        if isinstance(clause, StatementLambdaElement):
            clause = clause._resolved  # noqa: SLF001 - what the lambda returned
        if not isinstance(clause, UpdateBase) or OWN in options:
            return same
        target = table_of(clause)
        watched = self.watched(getattr(target, "element", target))
        if watched is None or _nests(clause):
            return same  # after it is seen whether that says something
        sets = multiparams or [params or {}]
        enter(connection)
        changes = _Changes(connection, watched, self._tables, options)
        if isinstance(clause, Insert):
            clause, pending = changes.insert(clause, sets)
        elif isinstance(clause, Update):
            clause, pending = changes.update(clause, sets)
        else:
            clause, pending = changes.delete(cast("Delete", clause), sets)
        return clause.execution_options(**{_PENDING: pending}), multiparams, params

    def _after(
        self,
        connection: Connection,
        clause: Any,  # noqa: ANN401 - whatever was executed
        _multiparams: object,
        _params: object,
        options: Mapping[str, Any],
        result: CursorResult[Any],
    ) -> None:
        pending = _pending(clause)
        if pending is None:
            return
        with undone(connection):
            changes = _Changes(connection, pending.watched, self._tables, options)
            write(connection, changes.told(pending, result))
            for table in pending.follows:
                _write_statement(connection, Unparsed("update", table), {})

    # -- Statements that are only text, or cannot be looked into.

    def _before_text(
        self,
        connection: Connection,
        _cursor: object,
        statement: str,
        _parameters: object,
        context: Any,  # noqa: ANN401 - of the dialect
        _many: bool,  # noqa: FBT001 - as SQLAlchemy calls it
    ) -> None:
        if self._opaque(statement, context):
            enter(connection)

    def _after_text(
        self,
        connection: Connection,
        cursor: Any,  # noqa: ANN401 - of the driver
        statement: str,
        _parameters: object,
        context: Any,  # noqa: ANN401 - of the dialect
        _many: bool,  # noqa: FBT001 - as SQLAlchemy calls it
    ) -> None:
        for found in self._opaque(statement, context):
            data: dict[str, Any] = {}
            if cursor.rowcount >= 0 and not getattr(context.compiled, "ctes", None):
                data["rows"] = cursor.rowcount
            with undone(connection):
                _write_statement(connection, found, data)

    def _opaque(self, statement: str, context: Any) -> list[Unparsed]:  # noqa: ANN401 - of the dialect
        if OWN in context.execution_options or context.isddl:
            return []
        compiled = context.compiled
        if compiled is None or not getattr(compiled, "compile_state", None):
            found = unparsed(statement)
            return [found] if found is not None and self._tells(found) else []
        every = []
        if context.is_crud and _pending(context.invoked_statement) is None:
            every.append(compiled.compile_state.statement)
        every.extend(
            cte.element for cte in compiled.ctes or () if isinstance(cte.element, UpdateBase)
        )
        return [found for each in every if self._tells(found := _said_by(each))]

    def _tells(self, found: Unparsed) -> bool:
        """Tell whether *found* may change a table that is captured."""
        if found.table is None:
            return True
        name = found.table.rpartition(".")[2].lower()
        return name in self._tables.names or name not in {*self._tables.others, TABLE}


class _Changes:
    """The changes that one statement makes to a table."""

    def __init__(
        self,
        connection: Connection,
        watched: Watched,
        tables: Tables,
        options: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._watched = watched
        self._tables = tables
        self._options: dict[str, Any] = {OWN: True}
        if "schema_translate_map" in options:
            self._options["schema_translate_map"] = options["schema_translate_map"]

    def insert(self, clause: Insert, sets: Sets) -> tuple[Insert, Pending]:
        """Return *clause* so that it tells its keys; read what it may update instead."""
        how = asked(clause, self._watched, many=len(sets) > 1)
        pending = Pending(watched=self._watched, asked=how)
        if updates(clause):
            rows = self._conflicting(clause, sets)
            keys = contended(clause, sets, self._watched)
            if len(rows) < len(keys) and self._connection.dialect.name == "postgresql":
                # Another upsert of the same key would wait for this one in any case: here it
                # waits before it looks, and then finds the row.
                wait = select(
                    func.pg_advisory_xact_lock(func.unnest(array(keys, type_=BigInteger)))
                )
                self._connection.execute(wait, execution_options=self._options)
                rows = self._conflicting(clause, sets)
            pending.before[self._watched] = rows
        return how.clause, pending

    def _conflicting(self, clause: Insert, sets: Sets) -> dict[Key, Values]:
        """Read and lock the rows that *clause* may update instead of adding its own."""
        rows: dict[Key, Values] = {}
        for condition in conflicts(clause, sets, self._watched):
            statement = select(*self._watched.columns).where(condition)
            rows |= self._found(statement.with_for_update(key_share=True))
        return rows

    def update(self, clause: Update, sets: Sets) -> tuple[Update, Pending]:
        """Read the rows that *clause* changes, and hold it to them."""
        pending = Pending(watched=self._watched)
        assigned = self._assigned(clause, sets)
        keys = {column.name for column in self._watched.key}
        new_keys = {name: value for name, value in assigned.items() if name in keys}
        followers = self._tables.followers.get(self._watched.table, ())
        if not followers and self._tells_old(clause, sets):
            pending.pairs = True
            return clause.returning(*self._pairs()), pending
        lock = {"key_share": not new_keys}
        clause, rows = self._held(clause, sets, lock, pending, new_keys)
        pending.before[self._watched] = rows
        if rows:
            pending.follows += [each.table for each in followers if each.referred & assigned.keys()]
        return clause, pending

    def _tells_old(self, clause: Update, sets: Sets) -> bool:
        """Tell whether the database can return which rows *clause* changes, old and new."""
        dialect = self._connection.dialect
        return (
            dialect.name == "postgresql"
            and (dialect.server_version_info or (0,)) >= _TELLS_OLD
            and len(sets) == 1
            and clause.table is self._watched.table
            # Of what the ORM builds itself it would read the rows as entities.
            and "compile_state_plugin" not in clause._propagate_attrs  # noqa: SLF001 - it has no public name
            and not clause._returning  # noqa: SLF001
            and not clause._return_defaults  # noqa: SLF001
        )

    def _pairs(self) -> list[ColumnElement[Any]]:
        quote = self._connection.dialect.identifier_preparer.quote
        columns = self._watched.columns
        old = [
            literal_column(f"old.{quote(column.name)}", column.type).label(f"indelible_old_{n}")
            for n, column in enumerate(columns)
        ]
        return [*old, *columns]

    def delete(self, clause: Delete, sets: Sets) -> tuple[Delete, Pending]:
        """Read the rows that *clause* deletes, and what goes with them; hold it to them."""
        pending = Pending(watched=self._watched)
        clause, rows = self._held(clause, sets, {}, pending, {})
        pending.before[self._watched] = rows
        self._reach(pending.before, rows)
        return clause, pending

    def told(self, pending: Pending, result: CursorResult[Any]) -> list[Row]:
        """Return what happened to the rows, now that the statement was executed."""
        if pending.asked is not None:
            return self._added(pending, result)
        found: list[Row] = []
        if pending.pairs:
            size = len(self._watched.columns)
            for row in map(tuple, result.all()):
                found += self._watched.rows(row[:size], row[size:])
            return found
        for watched, before in pending.before.items():
            if watched is self._watched and pending.renamed:
                for old_key, old in before.items():
                    new_key = pending.renamed.get(old_key, old_key)
                    rows = self._by_keys(watched, [new_key], watched.lookup)
                    found += watched.rows(old, next(iter(rows.values()), None))
                continue
            after = self._by_keys(watched, before, watched.lookup)
            for key, old in before.items():
                found += watched.rows(old, after.get(key))
        return found

    def _added(self, pending: Pending, result: CursorResult[Any]) -> list[Row]:
        watched = self._watched
        keys = set(cast("Asked", pending.asked).keys(result, watched))
        before = pending.before.get(watched)
        checks = before is not None and self._connection.dialect.name == "postgresql"
        lookup = watched.lookup
        if checks:
            lookup = lookup.add_columns(literal_column("xmax = 0"))
        after = self._by_keys(watched, keys, lookup)
        if len(after) != len(keys) and not (len(keys) == 1 and result.rowcount == 0):
            raise StoreError(
                f"table {watched.table.fullname}: found {len(after)} of {len(keys)} rows after"
                " they were inserted, expected all: a trigger or a policy of the database hides"
                " them"
            )
        old_rows = before or {}
        found: list[Row] = []
        after |= self._by_keys(watched, old_rows.keys() - after.keys(), lookup)
        for key, new in after.items():
            old = old_rows.get(key)
            if checks and old is None and not new[-1]:
                raise StoreError(
                    f"table {watched.table.fullname}: another transaction has inserted the same"
                    " row meanwhile; try again"
                )
            found += watched.rows(old, new[: len(watched.columns)])
        return found

    def _held(
        self,
        clause: Any,  # noqa: ANN401 - an Update or a Delete
        sets: Sets,
        lock: Mapping[str, Any],
        pending: Pending,
        new_keys: Mapping[str, Any],
    ) -> tuple[Any, dict[Key, Values]]:
        target = clause.table
        rows: dict[Key, Values] = {}
        if not new_keys:
            keys = _fixed_keys(clause, sets, self._watched)
            if keys is not None:
                lookup = self._watched.lookup.with_for_update(**lock)
                rows = self._by_keys(self._watched, keys, lookup)
                if len(rows) == len(keys):
                    return clause, rows
        if new_keys or keys is None:
            statement = self._criteria(clause, new_keys)
            statement = statement.with_for_update(of=target, **lock)
            for one in sets:
                for key, values in self._found(statement, one).items():
                    row = values[: len(self._watched.columns)]
                    rows.setdefault(key, row)
                    if new_keys:
                        named = dict(zip(new_keys, values[len(row) :], strict=True))
                        pending.renamed[key] = self._renamed(key, named, one)
        return clause.where(self._restriction(target, rows, many=len(sets) > 1)), rows

    def _criteria(self, clause: Any, new_keys: Mapping[str, Any]) -> Select[Any]:  # noqa: ANN401 - an Update or a Delete
        target = clause.table
        extra = [
            (literal_column("NULL") if value is None else value).label(f"indelible_{name}")
            for name, value in new_keys.items()
        ]
        columns = [target.c[column.key] for column in self._watched.columns]
        statement = select(*columns, *extra)
        attributes = clause._propagate_attrs  # noqa: SLF001 - that the ORM built it
        mapper = attributes.get("plugin_subject")
        if mapper is not None and (mapper.mapper.single or clause._with_options):  # noqa: SLF001
            # The ORM adds its own conditions to a SELECT as it does to this.
            statement = statement.select_from(mapper).options(*clause._with_options)  # noqa: SLF001
        if clause.whereclause is not None:
            statement = statement.where(clause.whereclause)
        return statement

    def _assigned(self, clause: Update, sets: Sets) -> dict[str, Any]:
        """Return what each column is set to: an expression, or None where parameters tell it."""
        said: dict[Any, Any] = {
            **dict(getattr(clause, "_ordered_values", None) or ()),
            **(clause._values or {}),  # noqa: SLF001
        }
        found = {}
        for name, value in said.items():
            told = isinstance(value, BindParameter) and value.key in sets[0]
            found[self._watched.column(name)] = None if told else value
        found.update((self._watched.column(name), None) for name in sets[0])
        return found

    def _renamed(self, key: Key, named: Mapping[str, Any], one: Mapping[str, Any]) -> Key:
        new: dict[str, Any] = {self._watched.column(name): value for name, value in one.items()}
        return tuple(
            new.get(column.name, named.get(column.name, old))
            for column, old in zip(self._watched.key, key, strict=True)
        )

    def _restriction(
        self,
        target: Any,  # noqa: ANN401 - a table or its alias
        rows: Iterable[Key],
        *,
        many: bool,
    ) -> ColumnElement[bool]:
        keys = list(rows)
        columns = [target.c[column.key] for column in self._watched.key]
        if not keys:
            return false()
        if many:  # no list may stand in a statement that is executed many times
            pairs = [zip(columns, key, strict=True) for key in keys]
            return or_(*(and_(*(column == value for column, value in pair)) for pair in pairs))
        literal = len(keys) * len(columns) > _MOST_PARAMETERS
        parameter: BindParameter[Any] = bindparam(
            None, given(keys), expanding=True, literal_execute=literal
        )
        return cast("ColumnElement[bool]", within(columns, parameter))

    def _reach(self, image: Image, gone: dict[Key, Values]) -> None:
        """Add to *image* what the database itself deletes or changes when rows go."""
        fresh = [(self._watched, gone)]
        while fresh:
            parent, rows = fresh.pop()
            for dependent in self._tables.dependents.get(parent.table, ()):
                child = dependent.watched
                values = {tuple(row[n] for n in dependent.referred) for row in rows.values()}
                columns = [child.columns[n] for n in dependent.columns]
                known = image.setdefault(child, {})
                new: dict[Key, Values] = {}
                lookup = select(*child.columns).where(
                    within(columns, bindparam(KEYS, expanding=True))
                )
                lookup = lookup.with_for_update()
                found = self._by_keys(child, values, lookup)
                new = {key: row for key, row in found.items() if key not in known}
                known |= new
                if dependent.goes and new:
                    fresh.append((child, new))

    def _by_keys(
        self, watched: Watched, keys: Iterable[Key], lookup: Select[Any]
    ) -> dict[Key, Values]:
        every = given(keys)
        rows: dict[Key, Values] = {}
        for first in range(0, len(every), _CHUNK):
            rows |= self._found(lookup, {KEYS: every[first : first + _CHUNK]}, watched)
        return rows

    def _found(
        self,
        statement: Select[Any],
        parameters: Mapping[str, Any] | None = None,
        watched: Watched | None = None,
    ) -> dict[Key, Values]:
        key_of = (watched or self._watched).key_of
        result = self._connection.execute(
            statement, dict(parameters or {}), execution_options=self._options
        )
        return {key_of(values): values for values in map(tuple, result)}


def _write_statement(connection: Connection, found: Unparsed, data: dict[str, Any]) -> None:
    resource = f"table:{found.table or 'unknown'}"
    said = {"verb": found.verb, **data}
    write_event(connection, build("database.statement", resource=resource, data=said))


def _pending(clause: Any) -> Pending | None:  # noqa: ANN401 - whatever is executed
    options: Mapping[str, Any] = getattr(clause, "get_execution_options", dict)()
    return options.get(_PENDING)


def _nests(clause: UpdateBase) -> bool:
    """Tell whether another change stands inside *clause*, which must not be made twice."""
    todo: list[Any] = [clause, *clause._independent_ctes]  # noqa: SLF001 - it has no public name
    seen = set()
    while todo:
        for element in visitors.iterate(todo.pop()):
            if isinstance(element, CTE) and isinstance(element.element, UpdateBase):
                return True
            source = getattr(element, "table", None)
            # A column does not lead to what it is of.
            if not isinstance(source, TableClause) and isinstance(source, FromClause):
                if source not in seen:
                    todo.append(source)
                seen.add(source)
    return False


def _said_by(clause: UpdateBase) -> Unparsed:
    table = table_of(clause)
    named = getattr(table, "element", table)
    return Unparsed(clause.__visit_name__, getattr(named, "name", None))


def _fixed_keys(clause: Any, sets: Sets, watched: Watched) -> set[Key] | None:  # noqa: ANN401 - an Update or a Delete
    """Return the keys of the only rows that *clause* can reach, where it names them."""
    columns = {clause.table.c[column.key]: column for column in watched.key}
    found: dict[Any, BindParameter[Any]] = {}
    for condition in _conjuncts(clause.whereclause):
        if isinstance(condition, BinaryExpression) and condition.operator is operators.eq:
            left, right = condition.left, condition.right
            if isinstance(right, BindParameter) and left in columns:
                found[columns[left]] = right
    if len(found) < len(columns):
        return None
    try:
        return {tuple(bound(found[column], one) for column in watched.key) for one in sets}
    except TypeError:  # a key that cannot be hashed
        return None


def _conjuncts(clause: Any) -> Iterable[Any]:  # noqa: ANN401 - any condition
    if isinstance(clause, Grouping):
        yield from _conjuncts(clause.element)
    elif isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for each in clause.clauses:
            yield from _conjuncts(each)
    elif clause is not None:
        yield clause
