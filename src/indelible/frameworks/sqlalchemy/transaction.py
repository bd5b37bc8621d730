"""What capturing needs of a connection: to be in its transaction, and to write into it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Identity, Integer, MetaData, Table, Text, insert
from sqlalchemy.schema import BLANK_SCHEMA

from indelible.context import current
from indelible.errors import CallerError
from indelible.outbox import TABLE, pack, pack_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from indelible.capture import Row
    from indelible.event import Event

OWN = "indelible_own"
"""Execution option of the statements that are ours, and are not captured."""

# With the schema's map of the application, in which the outbox has no place.
_OPTIONS = {OWN: True, "schema_translate_map": None}
_LOCK = f"UPDATE {TABLE} SET seq = seq WHERE 0"  # noqa: S608 - a name of our own


def columns() -> list[Column[Any]]:
    """Return the columns of the outbox."""
    return [
        Column(
            "seq",
            BigInteger().with_variant(Integer, "sqlite"),
            Identity(always=False),
            primary_key=True,
        ),
        Column("body", Text, nullable=False),
        Column("error", Text),
    ]


def outbox_table(metadata: MetaData) -> Table:
    """
    Return the outbox as a table of *metadata*, so that ``create_all`` and Alembic know it.

    It lies in the schema that the connection finds without a name.
    """
    if TABLE in metadata.tables:
        return metadata.tables[TABLE]
    return Table(TABLE, metadata, *columns(), schema=BLANK_SCHEMA, sqlite_autoincrement=True)


_INSERT = insert(outbox_table(MetaData())).inline()


def enter(connection: Connection) -> None:
    """
    See to it that what is done on *connection* from here on is one transaction.

    Raises:
        CallerError: Each statement is a transaction of its own.
    """
    if connection.dialect.name == "sqlite":
        # Who has read first and then writes may find that another has written between:
        # so the write comes first. It finds a missing outbox, too, before anything changes.
        connection.exec_driver_sql(_LOCK, execution_options=_OPTIONS)
        within = connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]
    else:
        within = not getattr(connection.connection.dbapi_connection, "autocommit", False)
    if not within:
        raise CallerError(
            "sqlalchemy: found a connection in AUTOCOMMIT, expected a transaction: what is"
            " changed and what is said of it must be kept, or not, as one"
        )


def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Write what happened to *rows* into the outbox, in the context of now."""
    if rows:
        bodies = pack(rows, current(), at=datetime.now(UTC), entropy=os.urandom(12))
        _insert(connection, bodies)


def write_event(connection: Connection, event: Event) -> None:
    """Write a whole *event* into the outbox."""
    _insert(connection, [pack_events([event], at=datetime.now(UTC), entropy=os.urandom(12))])


def _insert(connection: Connection, bodies: Sequence[str]) -> None:
    for body in bodies:
        connection.execute(_INSERT, {"body": body}, execution_options=_OPTIONS)


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """Take back the transaction of *connection* if the block raises: its change is not told."""
    try:
        yield
    except BaseException:
        transaction = connection.get_transaction()
        if transaction is not None and transaction.is_active:
            # As after a commit that failed: whoever has begun it has to end it, and no
            # later statement slips into a transaction of its own.
            transaction._connection_rollback_impl()  # noqa: SLF001 - rollback() would end it
            transaction._deactivate_from_connection()  # noqa: SLF001
        raise
