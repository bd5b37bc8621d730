"""
One captured statement: the transaction around it, and what it is found to have done.

Within a transaction of the application a statement joins it. One that would be committed
by itself gets a transaction of its own, in which the outbox is written, too. On PostgreSQL
that is opened and ended together with the statements that it holds, so that it takes two
trips to the server and not five.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import NotSupportedError, connections, transaction

from indelible.context import current, to_message
from indelible.frameworks.django import relaying
from indelible.outbox import TABLE, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from indelible.capture import Row
    from indelible.context import Context
    from indelible.frameworks.django.tracking import Link, Table

_INSERT = f"INSERT INTO {TABLE} (body) VALUES "  # noqa: S608 - a name of our own
_CONTEXT = "SELECT set_config('indelible.context', %s, true)"


class Statement:
    """
    A statement that is run by *compiler* on *table*.

    Attributes:
        rows: What it is found to have done; written into the outbox when it ends.
    """

    def __init__(self, compiler: Any, table: Table | Link) -> None:
        self.compiler = compiler
        self.table = table
        self.rows: list[Row] = []
        # Now: whoever is asked who acts may look into the database, or write to it, and
        # that is not a part of this statement.
        self.context = current()

    @property
    def connection(self) -> Any:
        """The database that it runs in."""
        return self.compiler.connection

    def run(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """Run *sql* and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, tuple(params))
            return list(cursor.fetchall())

    def converted(self, fields: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
        """Return *rows* as Django would read them; what stands after *fields* stays as it is."""
        if not rows:
            return []
        name = self.table.model._meta.db_table
        converters = self.compiler.get_converters([each.get_col(name) for each in fields])
        return list(self.compiler.apply_converters(rows, converters)) if converters else list(rows)

    def columns(self, fields: Sequence[Any], alias: str | None = None) -> str:
        """Return the names of *fields*, as they stand in SQL."""
        quote = self.connection.ops.quote_name
        of = quote(self.table.model._meta.db_table) if alias is None else alias
        return ", ".join([f"{of}.{quote(each.column)}" for each in fields])


class _Alone(Statement):
    """One that nothing else is in a transaction with, on PostgreSQL."""

    _begun = False

    def run(self, sql: str, params: Sequence[Any]) -> list[Any]:
        if self._begun:
            return super().run(sql, params)
        with self.connection.cursor() as cursor:
            cursor.execute(f"BEGIN; {sql}", tuple(params))
            self._begun = True
            cursor.nextset()
            return list(cursor.fetchall())

    def end(self) -> None:
        """Write what it did, and commit."""
        if not self._begun:
            return
        bodies = _bodies(self.rows, self.context)
        # Crash here, or at any time before the server has committed: neither the rows nor
        # what is said of them was ever there.
        with self.connection.cursor() as cursor:
            if bodies:
                cursor.execute(f"{_insert_of(bodies)}; COMMIT", tuple(bodies))
            else:
                cursor.execute("COMMIT")
        if bodies:
            relaying.written(self.connection.alias)

    def undo(self) -> None:
        """Let nothing have happened."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - what made it fail is on its way already
            with suppress(Exception):
                self.connection.close()


@contextmanager
def begun(compiler: Any, table: Table | Link, *, joined: bool = False) -> Iterator[Statement]:
    """
    Hold one transaction around a statement.

    Args:
        joined: It consists of several, which Django has to know the transaction of.
    """
    if not joined and not table.triggers and _may_be_alone(compiler.connection):
        alone = _Alone(compiler, table)
        try:
            yield alone
            alone.end()
        except BaseException:
            alone.undo()
            raise
        return
    statement = Statement(compiler, table)
    if not joined and not table.triggers and _is_begun(compiler.connection):
        # By SQL of the application: what fails in it fails as a whole, and to commit is
        # the application's.
        yield statement
        write(compiler.using, _bodies(statement.rows, statement.context))
        return
    if not joined and table.triggers and _takes_several(compiler.connection):
        # Sent together they are one transaction, or part of the one there is.
        with compiler.connection.execute_wrapper(_with_context):
            yield statement
        return
    with transaction.atomic(using=compiler.using, savepoint=False):
        if table.triggers and statement.connection.vendor == "postgresql":
            # Now, as a savepoint that was rolled back may have taken it away again.
            statement.run(_CONTEXT, (to_message(statement.context),))
        yield statement
        # Crash here: the same.
        write(compiler.using, _bodies(statement.rows, statement.context))


def write(using: str, bodies: Sequence[str]) -> None:
    """Write rows of the outbox into the database *using*, in its transaction."""
    if not bodies:
        return
    with connections[using].cursor() as cursor:
        cursor.execute(_insert_of(bodies), tuple(bodies))
    relaying.written(using)


def _insert_of(bodies: Sequence[str]) -> str:
    """Return the INSERT that takes *bodies* as its parameters."""
    return _INSERT + ", ".join(["(%s)"] * len(bodies))


def _bodies(rows: Sequence[Row], context: Context) -> list[str]:
    if not rows:
        return []
    return pack(rows, context, at=datetime.now(UTC), entropy=os.urandom(12))


def _with_context(
    execute: Callable[..., Any],
    sql: str,
    params: Any,
    many: bool,  # noqa: FBT001 - as Django calls it
    context: Any,
) -> Any:
    """Execute *sql*, and in the same trip tell the triggers who acts."""
    if many:
        raise NotSupportedError("triggers: found executemany(), expected one statement")
    result = execute(f"{_CONTEXT}; {sql}", (to_message(current()), *(params or ())), many, context)
    context["cursor"].nextset()
    return result


def _may_be_alone(connection: Any) -> bool:
    return (
        not connection.in_atomic_block
        and _takes_several(connection)
        and connection.get_autocommit()
        and not _is_begun(connection)
    )


def _is_begun(connection: Any) -> bool:
    """Tell whether there is a transaction that Django knows nothing of."""
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        return False
    if not connection.get_autocommit():
        return False
    status = connection.connection.info.transaction_status
    return bool(status != type(status)(0))  # of libpq: idle


def _takes_several(connection: Any) -> bool:
    """Tell whether several statements can be sent at a time."""
    # They are not for the extended protocol, nor for psycopg 2.
    return (
        connection.vendor == "postgresql"
        and not connection.features.uses_server_side_binding
        and _IS_PSYCOPG3
    )


def _is_psycopg3() -> bool:
    try:
        from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415
    except Exception:  # noqa: BLE001 - Django says in its own words that no driver is there
        return False
    return bool(is_psycopg3)


_IS_PSYCOPG3 = _is_psycopg3()
