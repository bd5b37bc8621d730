"""A shop's tables in SQLAlchemy, and what holds events against what the database holds."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    Column,
    Computed,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from indelible.capture import MEMBER, exact, key_text
from indelible.frameworks.sqlalchemy import outbox_table
from indelible.outbox import unpack

if TYPE_CHECKING:
    from indelible.event import Event


class Base(DeclarativeBase):
    """What all tables of the shop are declared in."""


class Status(enum.Enum):
    """How far an invoice is."""

    DRAFT = "draft"
    PAID = "paid"


invoice_tag = Table(
    "invoice_tag",
    Base.metadata,
    Column("invoice_id", ForeignKey("invoice.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
)


class Invoice(Base):
    """A table with a column of each kind."""

    __tablename__ = "invoice"
    __audit__ = {"exclude": {"cached"}, "secret": {"token"}, "personal": {"email"}}

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str | None] = mapped_column(unique=True)
    total: Mapped[int] = mapped_column(default=0)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2), default=Decimal("1.50"))
    status: Mapped[Status] = mapped_column(default=Status.DRAFT)
    note: Mapped[str] = mapped_column(server_default="none")
    touched: Mapped[int] = mapped_column(default=0, onupdate=lambda: 7)
    doubled: Mapped[int] = mapped_column(Integer, Computed("total * 2", persisted=True))
    cached: Mapped[str | None]
    token: Mapped[str | None]
    email: Mapped[str | None] = mapped_column("e_mail")
    scan: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")
    tags: Mapped[list[Tag]] = relationship(secondary=invoice_tag, back_populates="invoices")


class Line(Base):
    """A table with a key of two parts."""

    __tablename__ = "line"
    __audit__: dict[str, Any] = {}

    invoice_id: Mapped[int] = mapped_column(ForeignKey("invoice.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item: Mapped[str] = mapped_column(String(50))


class Tag(Base):
    """The other side of a relationship whose pairs lie in a table of their own."""

    __tablename__ = "tag"
    __audit__ = {"type": "label"}

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    invoices: Mapped[list[Invoice]] = relationship(secondary=invoice_tag, back_populates="tags")


class Person(Base):
    """A class that others inherit from."""

    __tablename__ = "person"
    __audit__ = {"type": "somebody"}
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]


class Employee(Person):
    """Inherits, in a table of its own."""

    __tablename__ = "employee"
    __mapper_args__ = {"polymorphic_identity": "employee"}

    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    wage: Mapped[int]


class Guest(Person):
    """Inherits, in the same table."""

    __mapper_args__ = {"polymorphic_identity": "guest"}

    visits: Mapped[int | None]


class Folder(Base):
    """Not captured, and yet what lies in it goes with it."""

    __tablename__ = "folder"

    id: Mapped[int] = mapped_column(primary_key=True)
    documents: Mapped[list[Document]] = relationship(passive_deletes="all")


class Document(Base):
    """What the database itself deletes and changes."""

    __tablename__ = "document"
    __audit__: dict[str, Any] = {}
    __table_args__ = (UniqueConstraint("folder_id", "title"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int | None] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("document.id", ondelete="SET NULL"))
    title: Mapped[str]


outbox = outbox_table(Base.metadata)

INVOICE, LINE, TAG, PERSON, EMPLOYEE, DOCUMENT = (
    cast("Table", each.__table__) for each in (Invoice, Line, Tag, Person, Employee, Document)
)
TYPES = {
    "invoice": INVOICE,
    "line": LINE,
    "label": TAG,
    "somebody": PERSON,
    "employee": EMPLOYEE,
    "document": DOCUMENT,
}
"""Tables by the type of the resources that their rows are."""

SECRET = {"$secret": True}
State = dict[tuple[str, str], Any]


def plainly(url: str, **options: Any) -> Engine:
    """Return an engine on which nothing is captured."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), **options)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _foreign_keys(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys = ON")

    return engine


def held(engine: Engine) -> State:
    """Return what the database holds, as events would say it."""
    found: State = {}
    with engine.connect() as connection:
        for kind, table in TYPES.items():
            for row in connection.execute(select(table)):
                key = key_text(row._mapping[column] for column in table.primary_key)
                found[kind, key] = {
                    column.name: exact(row._mapping[column])
                    for column in table.columns
                    if column.name != "cached"
                }
        for owner, tag in connection.execute(select(invoice_tag)):
            found["invoice.tags", f"{owner},{tag}"] = {MEMBER: str(tag)}
    return found


def told(engine: Engine) -> list[Event]:
    """Return the events that wait in the outbox."""
    with engine.connect() as connection:
        bodies = connection.scalars(select(outbox.c.body).order_by(outbox.c.seq))
        return [each for body in bodies for each in unpack(body)]


def replay(state: State, events: list[Event]) -> State:
    """Return *state* after *events*; each must be possible when it comes."""
    state = {key: dict(values) for key, values in state.items()}
    for each in events:
        kind, id_ = each.resource.type, each.resource.id
        changes = each.changes or {}
        verb = each.action.rpartition(".")[2]
        if each.action.startswith("invoice.tags."):
            change = changes["tags"]
            member = change.new if verb == "add" else change.old
            pair = ("invoice.tags", f"{id_},{member[MEMBER]}")
            if verb == "add":
                assert pair not in state
                state[pair] = member
            else:
                del state[pair]
            continue
        assert f"{kind}.{verb}" == each.action
        if verb == "create":
            assert (kind, id_) not in state
            state[kind, id_] = {name: change.new for name, change in changes.items()}
            continue
        row = state.pop((kind, id_))
        for name, change in changes.items():
            assert change.old == (SECRET if name == "token" else row[name])
        if verb == "delete":
            assert row.keys() == changes.keys()
            continue
        assert "update" == verb
        assert changes
        row.update({name: change.new for name, change in changes.items()})
        key = key_text(row[column.name] for column in TYPES[kind].primary_key)
        state[kind, key] = row
    return state


def without_secrets(state: State) -> State:
    """Return *state* without the values that no event shows."""
    return {
        key: {name: value for name, value in row.items() if name != "token"}
        for key, row in state.items()
    }


def fill(engine: Engine) -> None:
    """Put the same rows in, and nothing into the outbox."""
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(table))
        if engine.dialect.name == "postgresql":
            for name, start in (("invoice", 100), ("tag", 100), ("person", 100), ("document", 100)):
                connection.exec_driver_sql(f"ALTER SEQUENCE {name}_id_seq RESTART WITH {start}")
    with Session(engine) as session:
        tags = [Tag(id=n, name=name) for n, name in enumerate(("red", "blue", "green"), start=1)]
        session.add_all(tags)
        session.add_all(
            Invoice(
                id=n,
                number=f"N-{n}",
                total=n * 10,
                token="t",
                email="alice@example.org",
                tags=tags[:n],
                lines=[Line(place=1, item="a"), Line(place=2, item="b")],
            )
            for n in (1, 2, 3)
        )
        session.add_all([Employee(id=1, name="alice", wage=5), Guest(id=2, name="bob", visits=1)])
        session.add(Person(id=3, name="carol"))
        folder = Folder(id=1, documents=[Document(id=1, title="a"), Document(id=2, title="b")])
        session.add_all([folder, Document(id=3, title="c", parent_id=2)])
        session.commit()
