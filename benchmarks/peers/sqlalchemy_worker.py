"""
One library in SQLAlchemy, measured.

``python -m benchmarks.peers.sqlalchemy_worker LIBRARY URL ROWS`` prints what
`benchmarks.peers.django_worker` prints. Each library is set up as its documentation says,
with its defaults.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from decimal import Decimal
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Column,
    Integer,
    MetaData,
    Numeric,
    String,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, configure_mappers, declarative_base

from benchmarks.peers.answer import Answer
from benchmarks.peers.judging import Rival, Rows, judged
from benchmarks.peers.sqlalchemy_logs import recorded
from benchmarks.peers.timing import ROUNDS, SINGLE, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

LIBRARIES = ("none", "indelible", "continuum", "postgresql-audit")
_DISTRIBUTIONS = {
    "none": "sqlalchemy",
    "continuum": "sqlalchemy-continuum",
    "postgresql-audit": "postgresql-audit",
}


def define(library: str) -> Any:  # noqa: ANN401 - a class of the ORM
    """Define the class, and let *library* record it."""
    base: Any = declarative_base()
    body: dict[str, Any] = {
        "__tablename__": "item",
        "id": Column(Integer, primary_key=True),
        "name": Column(String(100), nullable=False),
        "sku": Column(String(20), unique=True),
        "price": Column(Numeric(9, 2), nullable=False, default=Decimal("0.00")),
        "stock": Column(Integer, nullable=False, default=0),
        "active": Column(Boolean, nullable=False, default=True),
    }
    if library == "continuum":
        import_module("sqlalchemy_continuum").make_versioned(user_cls=None)
        body["__versioned__"] = {}
    elif library == "postgresql-audit":
        import_module("postgresql_audit").versioning_manager.init(base)
        body["__versioned__"] = {}
    elif library == "indelible":
        body["__audit__"] = {"type": "item"}
    item = type("Item", (base,), body)
    configure_mappers()
    return item


def create(library: str, item: Any, url: str) -> Engine:  # noqa: ANN401 - a class of the ORM
    """Make the tables, and return the engine."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    metadata: MetaData = item.metadata
    if library == "indelible":
        from indelible.frameworks import sqlalchemy as audit  # noqa: PLC0415 - no other needs it

        audit.outbox_table(metadata)
        metadata.create_all(engine)
        audit.install(engine, item.registry)
        return engine
    if library == "postgresql-audit":
        # Before the table that has triggers which call what comes with these.
        manager = import_module("postgresql_audit").versioning_manager
        for each in (manager.transaction_cls, manager.activity_cls):
            each.__table__.create(engine)
    metadata.create_all(engine)
    return engine


def measure(engine: Engine, item: Any, count: int) -> dict[str, float]:  # noqa: ANN401 - a class
    """Return the milliseconds of each operation, those on many rows on *count* of them."""
    with Session(engine) as session:
        one = item(name="one")
        session.add(one)
        session.commit()

        def save() -> None:
            for number in range(SINGLE):
                one.stock = number + 1
                session.commit()

        def create_each() -> None:
            for number in range(SINGLE):
                session.add(item(name=f"c{number}", stock=number))
                session.commit()

        def done(statement: Any, *parameters: Any) -> Callable[[], None]:  # noqa: ANN401
            def work() -> None:
                session.execute(statement, *parameters)
                session.commit()

            return work

        times = {"save": timed(save), "create": timed(create_each)}
        session.expunge_all()
        new = [item(name=f"n{n}", price=Decimal(n) / 4) for n in range(count)]

        def add_all() -> None:
            session.add_all(new)
            session.commit()

        times["add_all"] = timed(add_all)
        rows = [{"name": f"b{n}", "price": Decimal(n) / 4} for n in range(count)]
        times["insert"] = timed(done(insert(item), rows))
        many = item.name.startswith("b", autoescape=True)
        times["update"] = timed(done(update(item).where(many).values(stock=item.stock + 1)))
        times["delete"] = timed(done(delete(item).where(many)))
        loaded = session.scalars(select(item).where(item.name.startswith("n"))).all()

        def flush() -> None:
            for each in loaded:
                each.stock = 7
            session.commit()

        times["flush"] = timed(flush)
        session.execute(delete(item))
        session.commit()
    return times


def score(library: str, engine: Engine, item: Any, url: str) -> dict[str, str]:  # noqa: ANN401 - a class
    """Return of each step whether what was recorded of it is true."""
    rival = Rival(url, "item")

    @event.listens_for(engine, "before_cursor_execute")
    def executes(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
        rival.sees(statement)

    found = {}
    for name, step in _steps(item, rival).items():
        with Session(engine) as session:
            for each in session.scalars(select(item)):
                session.delete(each)
            session.commit()
            for n in range(1, 4):
                session.add(item(name=f"p{n}", sku=f"s{n}", stock=n))
                session.flush()
            session.commit()
        recorded(library, engine)
        before = _snapshot(engine, item)
        with Session(engine) as session:
            step(session)
            session.commit()
        before, said = rival.without(before, recorded(library, engine))
        found[name] = judged(before, _snapshot(engine, item), said)
    return found


def _steps(item: Any, rival: Rival) -> dict[str, Callable[[Session], object]]:  # noqa: ANN401 - a class
    table = item.__table__

    def first(session: Session, sku: str = "s1") -> Any:  # noqa: ANN401 - an object of the class
        return session.scalars(select(item).where(item.sku == sku)).one()

    def changed(session: Session, stock: Any = 9, sku: str = "s1") -> None:  # noqa: ANN401
        first(session, sku).stock = stock
        session.flush()

    def unchanged(session: Session) -> None:
        one = first(session)
        one.stock = int(str(one.stock))

    def stale(session: Session) -> None:
        one = first(session)
        rival.write()
        one.stock = 2
        session.commit()

    def raced(session: Session) -> None:
        one = first(session)
        with rival.waiting():
            one.stock = 2
            session.commit()

    def failing(session: Session) -> None:
        with suppress(IntegrityError):
            first(session).sku = "s2"
            session.flush()
        session.rollback()

    def rolled_back(session: Session) -> None:
        changed(session)
        session.execute(delete(item).where(item.sku == "s2"))
        session.rollback()

    def savepoint(session: Session) -> None:
        nested = session.begin_nested()
        changed(session)
        nested.rollback()
        changed(session, sku="s2")

    def many(session: Session) -> None:
        ids = session.scalars(select(item.id)).all()
        session.execute(update(item), [{"id": id_, "stock": 7} for id_ in ids])

    rows = [{"name": f"b{n}"} for n in range(5)]
    upsert = postgresql.insert(item).values(
        [{"name": "a", "sku": "s1"}, {"name": "b", "sku": "s9"}]
    )
    named = upsert.on_conflict_do_update(
        index_elements=["sku"], set_={"name": upsert.excluded.name}
    )
    return {
        "flush, new": lambda session: session.add(item(name="x")),
        "flush, changed": changed,
        "flush, expression": lambda session: changed(session, item.stock + 5),
        "flush, unchanged": unchanged,
        "flush, changed since it was read": stale,
        "flush, another writer at that moment": raced,
        "flush, deleted": lambda session: session.delete(first(session)),
        "insert(), many": lambda session: session.execute(insert(item), rows),
        "update() by key, many": many,
        "update(), value": lambda session: session.execute(update(item).values(active=False)),
        "update(), expression": lambda session: session.execute(
            update(item).values(stock=item.stock + 1)
        ),
        "update() of no row": lambda session: session.execute(
            update(item).where(item.stock == 99).values(stock=1)  # noqa: PLR2004 - what no row has
        ),
        "delete(), many": lambda session: session.execute(delete(item).where(item.stock > 1)),
        "insert(), ignoring": lambda session: session.execute(upsert.on_conflict_do_nothing()),
        "insert(), upsert": lambda session: session.execute(named),
        "Core insert": lambda session: session.connection().execute(table.insert(), rows),
        "Core update": lambda session: session.connection().execute(
            table.update().values(stock=table.c.stock + 1)
        ),
        "Core delete": lambda session: session.connection().execute(table.delete()),
        "flush that fails": failing,
        "transaction rolled back": rolled_back,
        "savepoint rolled back": savepoint,
        "raw SQL": lambda session: session.execute(text("UPDATE item SET stock = stock + 1")),
    }


def _snapshot(engine: Engine, item: Any) -> Rows:  # noqa: ANN401 - a class of the ORM
    with engine.connect() as connection:
        found = connection.execute(select(item.__table__)).mappings()
        return {
            str(row["id"]): {name: str(value) for name, value in row.items() if name != "id"}
            for row in found
        }


def main(library: str, url: str, count: int) -> None:
    """Measure *library* on the database at *url*."""
    item = define(library)
    engine = create(library, item, url)
    measure(engine, item, count)  # once for the caches
    times = [measure(engine, item, count) for _ in range(ROUNDS)]
    least = {name: min(each[name] for each in times) for name in times[0]}
    scored = library != "none" and url.startswith("postgresql")
    said = score(library, engine, item, url) if scored else {}
    of = _DISTRIBUTIONS.get(library)
    answer = Answer(
        library=library,
        version="" if of is None else version(of),
        milliseconds=least,
        score=said,
    )
    print(answer.to_text())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
