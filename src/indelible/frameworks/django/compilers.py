"""
The one place where Django writes rows: the compilers of INSERT, UPDATE and DELETE.

Every way to change rows (`save`, `update`, `bulk_create`, many-to-many relations,
cascades) ends in `execute_sql` of one of them, so here each statement on a captured table
is run so that it tells what it did, and that is written into the outbox in the same
transaction. They are private to Django; `install` looks whether they are what it knows,
and `indelible.frameworks.django.selftest` whether they do what it expects.

Old values are those of rows that are locked:

- a DELETE returns the rows that it deleted, an INSERT those that it made;
- an UPDATE on PostgreSQL 18 returns the old and the new row;
- elsewhere the rows are selected for update first and the UPDATE is held to these, so
  that a row which another transaction adds in between is not changed unseen. SQLite
  has no locks of rows: there the transaction takes the one write lock before it looks.

When the outbox cannot be written, the statement is rolled back.
"""

from __future__ import annotations

import inspect
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet, FullResultSet, ImproperlyConfigured
from django.db import NotSupportedError, transaction
from django.db.models.constants import OnConflict
from django.db.models.lookups import Exact
from django.db.models.sql import compiler as sql_compiler

from indelible.frameworks.django.statements import Statement, begun
from indelible.frameworks.django.tracking import Link, Table, table_of
from indelible.outbox import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from indelible.capture import Row

VENDORS = ("sqlite", "postgresql")
"""Databases whose statements can tell what they did."""

_ATTEMPTS = 5
"""How often an upsert is begun anew when others insert the same rows at that moment."""

_OLD, _NEW = "indelible_old", "indelible_new"
_WRITE_LOCK = f"UPDATE {TABLE} SET seq = seq WHERE 0"  # noqa: S608 - a name of our own

_EXPECTED = {
    "SQLInsertCompiler": {"execute_sql": ["self", "returning_fields"]},
    "SQLUpdateCompiler": {"execute_sql": ["self", "result_type"]},
    "SQLDeleteCompiler": {"as_sql": ["self"]},
}

_installed = False


def install() -> None:
    """
    Let the compilers capture.

    Raises:
        ImproperlyConfigured: They are not what this version knows.
    """
    global _installed  # noqa: PLW0603 - the compilers are classes of the whole process
    if _installed:
        return
    for name, methods in _EXPECTED.items():
        for method, names in methods.items():
            function = getattr(sql_compiler, name).__dict__.get(method)
            found = None if function is None else list(inspect.signature(function).parameters)
            if found != names:
                raise ImproperlyConfigured(
                    f"Django's {name}.{method} takes {found}, expected {names}: this version of"
                    " Django is not supported yet, and nothing would be captured"
                )
    insert, update = sql_compiler.SQLInsertCompiler, sql_compiler.SQLUpdateCompiler
    delete = sql_compiler.SQLDeleteCompiler
    insert.execute_sql = _insert(insert.execute_sql)
    update.execute_sql = _update(update.execute_sql)
    if hasattr(update, "execute_returning_sql"):
        update.execute_returning_sql = _update_returning(update.execute_returning_sql)
    delete.execute_sql = _delete(delete.execute_sql)
    _installed = True


def _captured(compiler: Any) -> Table | Link | None:
    table = table_of(compiler.query.model)
    if table is None:
        return None
    vendor = compiler.connection.vendor
    if vendor not in VENDORS:
        raise NotSupportedError(
            f"{table.model._meta.label} is captured, and {vendor} cannot tell what a statement did;"
            f" expected one of {', '.join(VENDORS)}"
        )
    if table.triggers and vendor != "postgresql":
        raise NotSupportedError(
            f"{table.model._meta.label} is captured by triggers, which {vendor} does not have;"
            " expected postgresql"
        )
    return table


def _insert(original: Callable[..., Any]) -> Callable[..., Any]:
    def execute_sql(self: Any, returning_fields: Any = None) -> Any:
        table = _captured(self)
        if table is None:
            return original(self, returning_fields)
        is_upsert = self.query.on_conflict is OnConflict.UPDATE
        with begun(self, table, joined=is_upsert) as statement:
            if table.triggers:
                return original(self, returning_fields)
            asked = list(returning_fields or ())
            if is_upsert:
                found = _upserted(statement, asked)
            else:
                columns = [*table.columns, *asked]
                found = _inserted(statement, columns, f"RETURNING {statement.columns(columns)}")
                statement.rows += [table.created(row[: len(table.columns)]) for row in found]
            # Where conflicts are ignored fewer rows come back than were given, so that
            # nobody may ask which is which; Django does not.
            return [tuple(row[len(table.columns) :]) for row in found] if asked else []

    return execute_sql


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def execute_sql(self: Any, result_type: Any) -> Any:
        table = _captured(self)
        if table is None or not self.query.values:
            # Where there are no values, there may be tables that the model inherits from:
            # each of them comes here again.
            return original(self, result_type)
        with begun(self, table, joined=bool(self.query.related_updates)) as statement:
            if table.triggers:
                return original(self, result_type)
            try:
                count = len(_updated(statement, []))
            except EmptyResultSet:
                count = 0
            for query in self.query.get_related_updates():
                others = query.get_compiler(self.using).execute_sql(result_type)
                count = count or others or 0
            return count

    return execute_sql


def _update_returning(original: Callable[..., Any]) -> Callable[..., Any]:
    def execute_returning_sql(self: Any, returning_fields: Any) -> Any:
        table = _captured(self)
        if table is None or table.triggers or not returning_fields or not self.query.values:
            return original(self, returning_fields)
        with begun(self, table) as statement:
            try:
                return _updated(statement, list(returning_fields))
            except EmptyResultSet:
                return []

    return execute_returning_sql


def _delete(original: Callable[..., Any]) -> Callable[..., Any]:
    def execute_sql(self: Any, *args: Any, **kwargs: Any) -> Any:
        table = _captured(self)
        if table is None:
            return original(self, *args, **kwargs)
        with begun(self, table) as statement:
            if table.triggers:
                return original(self, *args, **kwargs)
            try:
                sql, params = self.as_sql()
            except EmptyResultSet:
                return 0
            told = f"{sql} RETURNING {statement.columns(table.columns)}"
            found = statement.converted(table.columns, statement.run(told, params))
            statement.rows += [table.deleted(row) for row in found]
            return len(found)

    return execute_sql


def _updated(statement: Statement, asked: list[Any]) -> list[Any]:
    """Run an UPDATE, note what it did, and return the *asked* fields of each row."""
    compiler, table = statement.compiler, statement.table
    # What the database computes may change with any other field.
    changed = {
        each.name: each
        for each, _, _ in compiler.query.values
        if each.name in table.fields or each in table.key
    }
    if isinstance(table, Link):
        changed.update(table.fields)  # one of the two says nothing
    changed.update((name, table.fields[name]) for name in getattr(table, "generated", ()))
    sql, params = compiler.as_sql()
    columns = [*table.key, *changed.values()]
    if _tells_old(statement.connection):
        old = statement.columns(columns, _OLD)
        new = statement.columns([*columns[len(table.key) :], *asked], _NEW)
        told = ", ".join(part for part in (old, new) if part)
        sql += f" RETURNING WITH (OLD AS {_OLD}, NEW AS {_NEW}) {told}"
        every = [*columns, *columns[len(table.key) :], *asked]
        found = statement.converted(every, statement.run(sql, params))
        pairs = [(row[: len(columns)], row[len(columns) :]) for row in found]
    else:
        pairs = _update_locked(statement, sql, params, columns, asked)
    for before, after in pairs:
        key, values = before[: len(table.key)], before[len(table.key) :]
        new_values = dict(zip(changed, after, strict=False))
        statement.rows += table.updated(key, dict(zip(changed, values, strict=True)), new_values)
    return [tuple(after[len(changed) :]) for _, after in pairs]


def _update_locked(
    statement: Statement,
    sql: str,
    params: Sequence[Any],
    columns: list[Any],
    asked: list[Any],
) -> list[tuple[Any, Any]]:
    """Lock the rows of an UPDATE, run it on these, and return each before and after."""
    compiler, table = statement.compiler, statement.table
    where, where_params = "", []
    with suppress(FullResultSet):
        where, where_params = compiler.compile(compiler.query.where)
    name = compiler.connection.ops.quote_name(table.model._meta.db_table)
    select = f"SELECT {statement.columns(columns)} FROM {name}"  # noqa: S608 - Django's own
    if where:
        select += f" WHERE {where}"
    before = _lock(statement, columns, select, where_params)
    if not before:
        return []
    size = len(table.key)
    moved = [each for each, _, _ in compiler.query.values if each in table.key]
    if moved and len(before) > 1:
        raise NotSupportedError(
            f"{table.model._meta.label}: an UPDATE of the primary keys of {len(before)} rows cannot"
            " be captured, for which of them is which afterwards nobody can tell; update one"
            " at a time, or let triggers capture this model: track(triggers=True)"
        )
    set_params = params[: len(params) - len(where_params)]
    if not _is_one(compiler, table) and _takes(
        compiler.connection, len(set_params) + size * len(before)
    ):
        # A row that began to match meanwhile is not locked, and so not to be changed: to
        # the database it comes after this statement. Nor is the condition asked again,
        # which may choose others each time.
        keys, key_params = _among(compiler, table, [row[:size] for row in before])
        head = sql[: -len(where)] if where else f"{sql} WHERE "
        sql, params = head + keys, [*set_params, *key_params]
    sql += f" RETURNING {statement.columns([*columns, *asked])}"
    after = statement.converted([*columns, *asked], statement.run(sql, params))
    if len(before) == 1 == len(after):
        return [(before[0], after[0][size:])]
    olds = {tuple(row[:size]): row for row in before}
    return [(olds[tuple(row[:size])], row[size:]) for row in after]


def _upserted(statement: Statement, asked: list[Any]) -> list[Any]:
    """Run an INSERT that updates where there is a row; return all columns of each row."""
    table, rows = statement.table, statement.rows
    columns, size = table.columns, len(table.columns)
    if _tells_old(statement.connection):
        told = (
            f"RETURNING WITH (OLD AS {_OLD}, NEW AS {_NEW})"
            f" {statement.columns(columns, _OLD)}, {statement.columns([*columns, *asked], _NEW)}"
        )
        found = _inserted(statement, [*columns, *columns, *asked], told)
        for row in found:
            before = row[:size] if row[0] is not None else None
            _add_upserted(table, before, row[size : 2 * size], rows)
        return [row[size:] for row in found]
    told = f"RETURNING {statement.columns([*columns, *asked])}"
    if statement.connection.vendor == "sqlite":
        olds = _conflicting(statement)
        found = _inserted(statement, [*columns, *asked], told)
    else:
        olds, found = _upserted_unseen(statement, [*columns, *asked], told)
    for row in found:
        _add_upserted(table, olds.get(_key(table, row)), row[:size], rows)
    return [row[: size + len(asked)] for row in found]


def _upserted_unseen(
    statement: Statement, columns: Sequence[Any], told: str
) -> tuple[dict[Any, Any], list[Any]]:
    """Run an upsert of which it has to be found out what it updates; return old and new rows."""
    table = statement.table
    for _ in range(_ATTEMPTS):
        try:
            with transaction.atomic(using=statement.compiler.using):
                olds = _conflicting(statement)
                found = _inserted(statement, columns, f"{told}, (xmax = 0)")
                if all(row[-1] or _key(table, row) in olds for row in found):
                    return olds, found
                raise _UnseenError  # noqa: TRY301 - it is this error that undoes
        except _UnseenError:
            # Others inserted one of them after it was looked for: now it can be locked.
            continue
    raise NotSupportedError(
        f"{table.model._meta.label}: other transactions insert the same rows all the time"
    )


class _UnseenError(Exception):
    """A row was updated whose old values nobody has seen."""


def _key(table: Table | Link, row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(row[: len(table.key)])


def _add_upserted(
    table: Table | Link,
    before: Sequence[Any] | None,
    after: Sequence[Any],
    rows: list[Row],
) -> None:
    if before is None:
        rows.append(table.created(after))
        return
    size = len(table.key)
    old = dict(zip(table.fields, before[size:], strict=True))
    new = dict(zip(table.fields, after[size:], strict=True))
    rows += table.updated(before[:size], old, new)


def _conflicting(statement: Statement) -> dict[Any, Any]:
    """Lock the rows that the given objects may conflict with, and return them by their keys."""
    compiler, table = statement.compiler, statement.table
    unique = list(compiler.query.unique_fields)
    groups = [
        [compiler.prepare_value(each, compiler.pre_save_val(each, obj)) for each in unique]
        for obj in compiler.query.objs
    ]
    known = [group for group in groups if not any(value is None for value in group)]
    found: list[Any] = []
    quote = compiler.connection.ops.quote_name
    name = quote(table.model._meta.db_table)
    names = ", ".join(quote(each.column) for each in unique)
    most = 900 // len(unique)
    for first in range(0, len(known), most):
        part = known[first : first + most]
        texts, params = [], []
        for group in part:
            said = [
                compiler.compile(value) if hasattr(value, "as_sql") else ("%s", [value])
                for value in group
            ]
            texts.append("(" + ", ".join(text for text, _ in said) + ")")
            params += [value for _, values in said for value in values]
        select = (
            f"SELECT {statement.columns(table.columns)} FROM {name}"  # noqa: S608 - Django's own
            f" WHERE ({names}) IN (VALUES {', '.join(texts)})"
        )
        found += _lock(statement, table.columns, select, params)
    return {_key(table, row): row for row in found}


def _lock(
    statement: Statement,
    columns: Sequence[Any],
    select: str,
    params: Sequence[Any],
) -> list[Any]:
    """Select rows so that nobody else changes them before this transaction ends."""
    if statement.connection.vendor == "postgresql":
        # As UPDATE itself locks: a foreign key that others just checked is no hindrance,
        # and two who did so do not wait for each other.
        select += " FOR NO KEY UPDATE"
    else:
        # A reader that becomes a writer fails at once where another wrote in between;
        # a writer waits for its turn.
        with statement.connection.cursor() as cursor:
            cursor.execute(_WRITE_LOCK)
    return statement.converted(columns, statement.run(select, params))


def _takes(connection: Any, count: int) -> bool:
    """
    Tell whether a statement can be held to its rows, with so many parameters.

    SQLite has a bound for them. There nobody else writes meanwhile, so beyond it the
    condition can stand for the rows.
    """
    if connection.vendor != "sqlite":
        return True
    return bool(count <= connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER))


def _is_one(compiler: Any, table: Table | Link) -> bool:
    """Tell whether the statement names one row by its primary key, and no other condition."""
    children = compiler.query.where.children
    return (
        len(children) == 1
        and len(table.key) == 1
        and isinstance(children[0], Exact)
        and getattr(children[0].lhs, "target", None) is table.key[0]
        and not hasattr(children[0].rhs, "as_sql")
        and not compiler.query.where.negated
    )


def _among(
    compiler: Any,
    table: Table | Link,
    keys: Sequence[Sequence[Any]],
) -> tuple[str, list[Any]]:
    """Return a condition that a row has one of these primary keys."""
    connection = compiler.connection
    names = ", ".join(connection.ops.quote_name(each.column) for each in table.key)
    one = "(" + ", ".join(["%s"] * len(table.key)) + ")"
    params = [
        each.get_db_prep_value(value, connection)
        for key in keys
        for each, value in zip(table.key, key, strict=True)
    ]
    return f"({names}) IN (VALUES {', '.join([one] * len(keys))})", params


def _inserted(statement: Statement, columns: Sequence[Any], told: str) -> list[Any]:
    """Run an INSERT with *told* at its end, which returns *columns*."""
    compiler = statement.compiler
    compiler.returning_fields = None
    found: list[Any] = []
    for sql, params in compiler.as_sql():
        found += statement.converted(columns, statement.run(f"{sql} {told}", params))
    return found


def _tells_old(connection: Any) -> bool:
    return connection.vendor == "postgresql" and bool(connection.pg_version >= 180000)  # noqa: PLR2004
