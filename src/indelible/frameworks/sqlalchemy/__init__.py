"""
SQLAlchemy: every change of a row, by Core or ORM, in the outbox of its own transaction.

``install(engine, Base)`` captures what is done on an engine to the classes that have
``__audit__`` and the tables that have ``info={"audit": {}}``::

    class Invoice(Base):
        __tablename__ = "invoice"
        __audit__ = {"exclude": {"cached"}, "secret": {"token"}, "personal": {"email"}}

`indelible.relay` moves what is captured into a trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from indelible.errors import CallerError

try:
    from sqlalchemy import Connection, Engine, Insert, event
    from sqlalchemy.orm import Session, sessionmaker
except ImportError as error:
    raise CallerError("sqlalchemy: pip install 'indelible[sqlalchemy]'") from error

from indelible.frameworks.sqlalchemy.inserts import returning, unreturned
from indelible.frameworks.sqlalchemy.statements import Capture
from indelible.frameworks.sqlalchemy.tables import tables_of
from indelible.frameworks.sqlalchemy.transaction import columns, enter, outbox_table, write_event
from indelible.outbox import TABLE
from indelible.recorder import build

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect, Result
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_sessionmaker,
    )
    from sqlalchemy.orm import ORMExecuteState

    from indelible.event import Event, Resource

# By dialect: an engine and those made of it by execution_options() have the same.
_installed: WeakKeyDictionary[Dialect, Capture] = WeakKeyDictionary()


def install(
    target: Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any],
    *declared: object,
) -> None:
    """
    Capture what is done on an engine from now on.

    Args:
        target: The engine, or what makes sessions on it.
        declared: Where the tables are declared: the declarative base, whose classes are
            all imported by now; `MetaData`, registries or tables.

    Raises:
        CallerError: A declaration means nothing, a table has no primary key, the database
            is none of PostgreSQL and SQLite, or the engine has been installed already.
    """
    engine = _engine(target)
    dialect = engine.dialect
    if dialect.name not in ("postgresql", "sqlite"):
        raise CallerError(f"sqlalchemy: found {dialect.name}, expected postgresql or sqlite")
    if dialect in _installed:
        raise CallerError("sqlalchemy: found an engine that is installed, expected another one")
    capture = Capture(tables_of(*declared))
    capture.listen(engine)
    _installed[dialect] = capture
    if not event.contains(Session, "do_orm_execute", _tell_keys):
        event.listen(Session, "do_orm_execute", _tell_keys)


def _engine(target: Any) -> Engine:  # noqa: ANN401 - what install() takes
    if hasattr(target, "kw"):  # sessionmaker, async_sessionmaker
        target = target.kw.get("bind")
    target = getattr(target, "sync_engine", target)
    if not isinstance(target, Engine):
        raise CallerError(
            f"sqlalchemy: found {type(target).__name__}, expected an engine, or what makes"
            " sessions on one"
        )
    return target


def _tell_keys(state: ORMExecuteState) -> Result[Any] | None:
    """Let an INSERT that returns something return its keys, too, and hide them again."""
    clause = state.statement
    if not (isinstance(clause, Insert) and clause._returning):  # noqa: SLF001 - it has no public name
        return None
    # With parameters it is a bulk INSERT, for which the ORM asks for the keys itself, but
    # not for those that were given: which of them were skipped must be told.
    if state.parameters and clause._post_values_clause is None:  # noqa: SLF001
        return None
    capture = _installed.get(state.session.get_bind(**state.bind_arguments).dialect)
    watched = None if capture is None else capture.watched(clause.table)
    missing = [] if watched is None else unreturned(clause, watched)
    if not missing:
        return None
    result = state.invoke_statement(returning(clause, missing))
    return result.columns(*range(len(result.keys()) - len(missing)))


def record(
    target: Session | Connection, /, action: str, *, resource: Resource | str, **fields: Any
) -> Event:
    """
    Record an event in the transaction of *target*: it is kept if, and when, that commits.

    Args:
        fields: Further fields of the event, as `indelible.Recorder.record` takes them.

    Returns:
        The event, whose id the trail will know.

    Raises:
        InvalidEvent: A field is missing or wrong.
        CallerError: The connection is in AUTOCOMMIT.
    """
    found = build(action, resource=resource, **fields)
    connection = target.connection() if isinstance(target, Session) else target
    enter(connection)
    write_event(connection, found)
    return found


async def arecord(
    target: AsyncSession | AsyncConnection,
    /,
    action: str,
    *,
    resource: Resource | str,
    **fields: Any,
) -> Event:
    """
    Record an event in the transaction of *target*; see `record`.

    Raises:
        InvalidEvent: A field is missing or wrong.
        CallerError: The connection is in AUTOCOMMIT.
    """
    return await target.run_sync(record, action, resource=resource, **fields)


def create_outbox(op: Any) -> None:  # noqa: ANN401 - the module alembic.op, or Operations
    """Create the outbox in a migration of Alembic: in ``upgrade()``, ``create_outbox(op)``."""
    op.create_table(TABLE, *columns(), sqlite_autoincrement=True)


def drop_outbox(op: Any) -> None:  # noqa: ANN401 - the module alembic.op, or Operations
    """Drop it again, with all that waits in it."""
    op.drop_table(TABLE)


__all__ = ["arecord", "create_outbox", "drop_outbox", "install", "outbox_table", "record"]
