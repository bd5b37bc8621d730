"""What holds around the capture in SQLAlchemy: races, failures, text, contexts, migrations."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from msgspec import UNSET
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    literal,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    sessionmaker,
    with_loader_criteria,
)

from indelible import context
from indelible.errors import CallerError, InvalidEvent, StoreError
from indelible.frameworks import sqlalchemy as audit
from indelible.outbox import TABLE
from indelible.outboxes import open_outbox
from indelible.outboxes import postgresql as postgresql_outbox
from indelible.outboxes import sqlite as sqlite_outbox
from indelible.relay import Relay
from tests.frameworks.sqlalchemy_shop import (
    INVOICE,
    LINE,
    Base,
    Invoice,
    Line,
    fill,
    held,
    outbox,
    plainly,
    replay,
    told,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail
    from tests.postgres import Server


@pytest.fixture
def plain(database: str) -> Iterator[Engine]:
    """An engine on which nothing is captured, and the shop in its database."""
    engine = plainly(database)
    Base.metadata.create_all(engine)
    fill(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def installed(database: str, plain: Engine) -> Iterator[Engine]:  # noqa: ARG001 - it is filled first
    """An engine on which everything is captured."""
    engine = plainly(database)
    audit.install(engine, Base)
    yield engine
    engine.dispose()


@pytest.fixture(params=["postgresql_16", "postgresql_18"])
def server_url(request: pytest.FixtureRequest) -> str:
    """An empty database in which many can write at once."""
    server: Server = request.getfixturevalue(request.param)
    return server.database()


@pytest.fixture
def shared(server_url: str) -> Iterator[tuple[Engine, Engine]]:
    """The shop in PostgreSQL: an engine on which all is captured, one on which nothing is."""
    captured, plain = plainly(server_url), plainly(server_url)
    Base.metadata.create_all(plain)
    fill(plain)
    audit.install(captured, Base)
    yield captured, plain
    captured.dispose()
    plain.dispose()


def meanwhile(
    engine: Engine, other: Engine, theirs: Any, ours: Any, *, commits: bool = True
) -> list[Any]:
    """
    Let *ours* run on *engine* while another transaction has done *theirs*, and then ends.

    It ends when the server says that ours waits for it.
    """
    outcome: list[Any] = []

    def work() -> None:
        with Session(engine) as session:
            try:
                outcome.append(ours(session))
                session.commit()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                outcome.append(error)

    with other.connect() as connection:
        connection.execute(theirs)
        thread = threading.Thread(target=work)
        thread.start()
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with other.connect() as watch:
            while thread.is_alive() and not watch.scalar(text(waits)):
                watch.rollback()
                thread.join(0.01)
        connection.commit() if commits else connection.rollback()
        thread.join()
    return outcome


def changes_of(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    """Return action and changes of each event."""
    return [
        (
            each.action,
            {name: (change.old, change.new) for name, change in (each.changes or {}).items()},
        )
        for each in told(engine)
    ]


# -- Others who write at the same time.


@pytest.mark.parametrize("by_key", [True, False])
def test_the_old_value_is_the_one_another_writer_has_left(
    shared: tuple[Engine, Engine], by_key: bool
) -> None:
    """A value that the application never saw, since it came in between, is the old value."""
    captured, plain = shared
    with plain.begin() as connection:
        connection.execute(update(INVOICE).values(total=1, touched=0))
    condition = INVOICE.c.id == 1 if by_key else INVOICE.c.number == "N-1"

    def ours(session: Session) -> None:
        assert 1 == session.scalar(select(Invoice.total).where(Invoice.id == 1))
        session.execute(update(Invoice).where(condition).values(total=2, touched=0))

    theirs = update(INVOICE).where(INVOICE.c.id == 1).values(total=500, touched=0)
    meanwhile(captured, plain, theirs, ours)

    assert [("invoice.update", {"total": (500, 2), "doubled": (1000, 4)})] == changes_of(plain)


def test_an_object_of_the_session_tells_the_value_that_the_database_held(
    shared: tuple[Engine, Engine],
) -> None:
    """What the session believes to be the old value is not asked."""
    captured, plain = shared

    def ours(session: Session) -> None:
        invoice = session.get_one(Invoice, 1)
        invoice.total = 2

    theirs = update(INVOICE).where(INVOICE.c.id == 1).values(total=500, touched=0)
    meanwhile(captured, plain, theirs, ours)

    expected = {"total": (500, 2), "touched": (0, 7), "doubled": (1000, 4)}
    assert [("invoice.update", expected)] == changes_of(plain)


@pytest.mark.parametrize("by_key", [True, False])
def test_a_row_that_begins_to_match_in_between_is_not_changed_unseen(
    shared: tuple[Engine, Engine], by_key: bool
) -> None:
    """
    A row that comes between reading and changing is left alone, or told.

    PostgreSQL 18 tells what an UPDATE found; before, what is changed is what was read.
    """
    captured, plain = shared
    condition = INVOICE.c.id == 77 if by_key else INVOICE.c.note == "now"
    with captured.connect() as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def _after_reading(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if statement.startswith("UPDATE invoice"):
                with plain.begin() as other:
                    other.execute(insert(INVOICE).values(id=77, note="now", total=5))

        result = connection.execute(update(INVOICE).where(condition).values(total=0))
        connection.commit()
        is_told = (connection.dialect.server_version_info or (0,)) >= (18,)

    total = held(plain)["invoice", "77"]["total"]
    said = [changes["total"] for _, changes in changes_of(plain)]
    assert int(is_told) == result.rowcount
    assert ((0, [(5, 0)]) if is_told else (5, [])) == (total, said)


def test_a_delete_tells_what_another_writer_has_left(shared: tuple[Engine, Engine]) -> None:
    """The last values of a row are those that were deleted."""
    captured, plain = shared

    def ours(session: Session) -> None:
        session.execute(delete(Line).where(Line.invoice_id == 1))

    meanwhile(captured, plain, update(LINE).values(item="other"), ours)

    assert ["other", "other"] == [changes["item"][0] for _, changes in changes_of(plain)]


def test_an_upsert_that_meets_a_row_it_could_not_read_is_refused(
    shared: tuple[Engine, Engine],
) -> None:
    """Where the old value cannot be told, nothing is changed, and trying again is safe."""
    captured, plain = shared
    statement = postgresql.insert(INVOICE).values(number="race", total=2)
    statement = statement.on_conflict_do_update(index_elements=["number"], set_={"total": 2})

    outcome = meanwhile(
        captured,
        plain,
        insert(INVOICE).values(number="race", total=1),
        lambda session: session.connection().execute(statement),
    )

    assert isinstance(outcome[0], StoreError)
    assert [] == told(plain)
    with plain.connect() as connection:
        assert 1 == connection.scalar(select(INVOICE.c.total).where(INVOICE.c.number == "race"))

    with Session(captured) as session:
        session.execute(statement)
        session.commit()

    assert [("invoice.update", {"total": (1, 2), "doubled": (2, 4)})] == changes_of(plain)


def test_upserts_that_race_tell_the_truth(shared: tuple[Engine, Engine]) -> None:
    """Of upserts of one key at once, one has added the row, and each other tells what it found."""
    captured, plain = shared
    barrier = threading.Barrier(4)

    def upsert_all(worker: int) -> None:
        barrier.wait()
        for turn in range(10):
            total = worker * 100 + turn
            statement = postgresql.insert(INVOICE).values(number=f"race{turn}", total=total)
            with captured.begin() as connection:
                connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["number"], set_={"total": total}
                    )
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upsert_all, range(1, 5)))

    said = told(plain)
    rows = {each.resource.id for each in said}
    assert 10 == len(rows) == sum(each.action == "invoice.create" for each in said)
    for row in rows:
        totals = [(each.changes or {})["total"] for each in said if each.resource.id == row]
        assert [change.new for change in totals[:-1]] == [change.old for change in totals[1:]]


def test_two_sqlite_writers_wait_for_each_other(tmp_path: Path) -> None:
    """Who reads before it writes holds off the others first, so that nobody has to give up."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    plain, captured = plainly(url), plainly(url)
    with plain.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    Base.metadata.create_all(plain)
    fill(plain)
    audit.install(captured, Base)
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                with captured.begin() as connection:
                    connection.execute(update(INVOICE).values(total=INVOICE.c.total + 1))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    before = held(plain)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == errors
    assert 180 == len(told(plain))
    assert without_secrets(held(plain)) == without_secrets(replay(before, told(plain)))
    captured.dispose()
    plain.dispose()


# -- What fails.


def test_without_an_outbox_nothing_is_changed(installed: Engine, plain: Engine) -> None:
    """A change that cannot be told does not happen, even if its error is swallowed."""
    before = held(plain)
    outbox.drop(plain)

    with Session(installed) as session:
        with pytest.raises((OperationalError, ProgrammingError), match=TABLE):
            session.execute(update(Invoice).values(total=0))
        with suppress(InvalidRequestError):
            session.commit()

    assert before == held(plain)


def test_what_was_changed_before_its_event_could_not_be_written_is_taken_back(
    installed: Engine, plain: Engine
) -> None:
    """An outbox that refuses takes the whole transaction with it."""
    before = held(plain)
    with installed.begin() as connection:
        if installed.dialect.name == "sqlite":
            connection.exec_driver_sql(
                f"CREATE TRIGGER full BEFORE INSERT ON {TABLE}"
                " BEGIN SELECT raise(ABORT, 'no room'); END"
            )
        else:
            connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD CHECK (body = 'no room')")

    with installed.connect() as connection:
        with pytest.raises(IntegrityError, match=r"room|check"):
            connection.execute(update(INVOICE).values(total=0))
        with pytest.raises(InvalidRequestError):
            connection.execute(select(1))
        with pytest.raises(InvalidRequestError):
            connection.commit()
        connection.rollback()
        assert 1 == connection.scalar(select(1))

    assert before == held(plain)


def test_a_flush_that_was_not_told_cannot_be_committed(installed: Engine, plain: Engine) -> None:
    """A session whose change was taken back says so when it commits."""
    before = held(plain)
    with installed.begin() as connection:
        if installed.dialect.name == "sqlite":
            connection.exec_driver_sql(
                f"CREATE TRIGGER full BEFORE INSERT ON {TABLE}"
                " BEGIN SELECT raise(ABORT, 'no room'); END"
            )
        else:
            connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD CHECK (body = 'no room')")

    with Session(installed) as session:
        session.get_one(Invoice, 1).total = 5
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(InvalidRequestError):
            session.execute(update(Invoice).values(total=0))
        session.rollback()
        session.commit()

    assert before == held(plain)


def test_a_change_that_fails_is_not_told(installed: Engine, plain: Engine) -> None:
    """A constraint that refuses a change leaves no event behind."""
    with Session(installed) as session:
        with pytest.raises(IntegrityError):
            session.execute(update(Invoice).values(number="same"))
        session.commit()

    assert [] == told(plain)


def test_what_each_statement_would_commit_by_itself_is_refused(
    installed: Engine, plain: Engine
) -> None:
    """In AUTOCOMMIT a change could be kept whose event is not."""
    before = held(plain)
    with installed.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in (
            update(INVOICE).values(total=0),
            insert(INVOICE).values(total=0),
            delete(LINE),
            text("DELETE FROM line"),
        ):
            with pytest.raises(CallerError, match="AUTOCOMMIT"):
                connection.execute(statement)
        with pytest.raises(CallerError, match="AUTOCOMMIT"):
            audit.record(connection, "invoice.approve", resource="invoice:1")

    assert before == held(plain)
    assert [] == told(plain)


def test_insert_or_replace_is_refused() -> None:
    """A statement that deletes rows and names none of them is refused, with the way out."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    audit.install(engine, Base)

    with engine.connect() as connection:
        connection.execute(insert(INVOICE).values(id=1).prefix_with("OR IGNORE"))
        with pytest.raises(CallerError, match="on_conflict_do_update"):
            connection.execute(insert(INVOICE).values(id=1).prefix_with("OR REPLACE"))


def test_a_row_that_the_database_hides_is_not_inserted_untold(
    shared: tuple[Engine, Engine],
) -> None:
    """Where a new row cannot be read, its transaction is taken back."""
    captured, plain = shared
    before = held(plain)
    with plain.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.id := NEW.id + 1000; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER moves BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION moves()"
        )

    with captured.connect() as connection:
        with pytest.raises(StoreError, match="invoice"):
            connection.execute(insert(INVOICE).values(id=77))
        connection.rollback()

    assert before == held(plain)


def test_what_a_trigger_makes_of_a_value_is_the_new_value(
    shared: tuple[Engine, Engine],
) -> None:
    """The new value is what the database holds, not what it was given."""
    captured, plain = shared
    with plain.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION doubles() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.total := NEW.total * 2; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER doubles BEFORE UPDATE ON invoice FOR EACH ROW"
            " EXECUTE FUNCTION doubles()"
        )

    with captured.begin() as connection:
        connection.execute(update(INVOICE).where(INVOICE.c.id == 1).values(total=7, touched=0))

    assert [("invoice.update", {"total": (10, 14), "doubled": (20, 28)})] == changes_of(plain)


# -- Conflicts.


CONFLICTS = MetaData()
SLOT = Table(
    "slot",
    CONFLICTS,
    Column("id", Integer, primary_key=True),
    Column("room", Integer, default=1),
    Column("hour", Integer),
    Column("name", String, unique=True, default=lambda: "drawn"),
    Column("guest", String),
    UniqueConstraint("room", "hour"),
    UniqueConstraint("guest", name="one_each"),
    info={"audit": {}},
)
audit.outbox_table(CONFLICTS)


@pytest.fixture
def slots(database: str) -> Iterator[Engine]:
    """A table with several things that must be unique, all of them captured."""
    engine = plainly(database)
    CONFLICTS.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(SLOT).values(id=1, hour=9, name="a", guest="alice"))
    audit.install(engine, CONFLICTS)
    yield engine
    engine.dispose()


def upsert(engine: Engine) -> Any:
    """Return an INSERT into the slots that knows conflicts."""
    return (sqlite if engine.dialect.name == "sqlite" else postgresql).insert(SLOT)


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ({"index_elements": ["room", "hour"]}, {"hour": 9, "name": "b"}),
        ({"index_elements": [SLOT.c.name]}, {"name": "a"}),
        ({"constraint": "slot_room_hour_key"}, {"hour": 9, "name": "b"}),
        ({"constraint": "one_each"}, {"guest": "alice", "name": "b"}),
        ({"constraint": "slot_pkey"}, {"id": 1, "name": "b"}),
        ({"index_elements": ["id"]}, {"id": literal(0) + 1, "name": "b"}),
    ],
)
def test_an_upsert_is_told_by_whatever_it_conflicts_on(
    slots: Engine, target: dict[str, Any], values: dict[str, Any]
) -> None:
    """The row that was there is found by the columns that its statement names."""
    if slots.dialect.name == "sqlite" and "constraint" in target:
        target = {}  # SQLite knows no names, but conflicts on anything
    with slots.begin() as connection:
        statement = upsert(slots).values(**values)
        connection.execute(statement.on_conflict_do_update(**target, set_={"guest": "bob"}))

    assert [("slot.update", {"guest": ("alice", "bob")})] == changes_of(slots)


def test_an_upsert_whose_old_row_cannot_be_found_is_refused(slots: Engine) -> None:
    """Before it changes anything, and with what to do instead."""
    for target, values, message in (
        ({"index_elements": ["name"]}, {"hour": 3}, "name, whose value is not given"),
        ({"index_elements": [text("lower(name)")]}, {"name": "a"}, "expected columns"),
        ({"constraint": "unheard_of"}, {"name": "a"}, "unheard_of"),
    ):
        if slots.dialect.name == "sqlite" and "constraint" in target:
            continue
        statement = upsert(slots).values(**values)
        with slots.begin() as connection, pytest.raises(CallerError, match=message):
            connection.execute(statement.on_conflict_do_update(**target, set_={"guest": "bob"}))

    assert [] == told(slots)


def test_what_a_pair_says_beside_its_two_sides_is_told_of_its_owner() -> None:
    """A further column of a many-to-many table belongs to the class that owns the pairs."""

    class Own(DeclarativeBase):
        pass

    seat = Table(
        "seat",
        Own.metadata,
        Column("guest_id", ForeignKey("guest.id"), primary_key=True),
        Column("table_id", ForeignKey("table.id"), primary_key=True),
        Column("since", Integer),
    )

    class Place(Own):
        __tablename__ = "table"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Guest(Own):
        __tablename__ = "guest"
        __audit__: dict[str, Any] = {}
        id: Mapped[int] = mapped_column(primary_key=True)
        places = relationship(Place, secondary=seat)

    audit.outbox_table(Own.metadata)
    engine = create_engine("sqlite://")
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Guest(id=1), Place(id=5), Place(id=6)])
        session.flush()
        session.execute(insert(seat).values(guest_id=1, table_id=5, since=3))
        session.commit()
    audit.install(engine, Own)

    with engine.begin() as connection:
        connection.execute(update(seat).values(since=3))
        connection.execute(update(seat).values(since=4))
        connection.execute(update(seat).values(table_id=6))

    five, six = {"$member": "5"}, {"$member": "6"}
    assert [
        ("guest.places.update", {"since": (3, 4), "places": (five, five)}),
        ("guest.places.remove", {"places": (five, UNSET)}),
        ("guest.places.add", {"places": (UNSET, six)}),
    ] == changes_of(engine)


# -- Statements that cannot be looked into.


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE invoice SET total = 0", {"verb": "update", "rows": 3}),
        ('-- a comment\n  delete from "line" where place = 1', {"verb": "delete", "rows": 3}),
        ("INSERT INTO invoice_tag VALUES (1, 3)", {"verb": "insert", "rows": 1}),
        (
            "WITH a AS (SELECT 2 AS n) UPDATE invoice SET total = 0 WHERE id IN (SELECT n FROM a)",
            {"verb": "update"},
        ),
    ],
)
def test_text_is_visible_and_opaque(
    installed: Engine, plain: Engine, statement: str, expected: dict[str, Any]
) -> None:
    """SQL that was written by hand is told by its verb and its table, and by no value."""
    with installed.begin() as connection:
        connection.execute(text(statement))
        connection.exec_driver_sql("SELECT * FROM invoice WHERE number = 'UPDATE invoice SET'")

    found = told(plain)

    assert ["database.statement"] == [each.action for each in found]
    assert found[0].data is not None
    assert expected.items() <= found[0].data.items()
    assert found[0].resource.type == "table"
    assert found[0].resource.id in {"invoice", "line", "invoice_tag"}


def test_text_that_is_taken_back_or_of_other_tables_is_not_told(
    installed: Engine, plain: Engine
) -> None:
    """A table that was declared without asking to capture it is left alone, in text, too."""
    with installed.connect() as connection:
        connection.execute(text("UPDATE invoice SET total = 0"))
        connection.rollback()
        connection.execute(text("UPDATE folder SET id = id"))
        connection.commit()

    assert [] == told(plain)


def test_a_table_by_another_object_of_the_same_name_is_visible(
    installed: Engine, plain: Engine
) -> None:
    """A statement over a table that somebody else has described is told as text is."""
    other = Table("invoice", MetaData(), autoload_with=plain)
    light = table("line")

    with installed.begin() as connection:
        connection.execute(update(other).values(total=0))
        connection.execute(delete(light))

    found = told(plain)
    assert ["database.statement"] * 2 == [each.action for each in found]
    assert ["table:invoice", "table:line"] == [str(each.resource) for each in found]


def test_a_change_inside_another_statement_is_visible_and_made_once(
    shared: tuple[Engine, Engine],
) -> None:
    """What stands in a WITH is told by verb and table; it is not run a second time to look."""
    captured, plain = shared
    moved = delete(LINE).where(LINE.c.place == 1).returning(LINE.c.invoice_id).cte("moved")

    with captured.begin() as connection:
        assert 3 == len(connection.execute(select(moved)).all())
        more = delete(LINE).where(LINE.c.place == 2).returning(LINE.c.invoice_id).cte("more")
        found = update(INVOICE).where(INVOICE.c.id == more.c.invoice_id)
        found = found.values(total=1, touched=0)
        assert 3 == connection.execute(found).rowcount

    assert [
        ("database.statement", "table:invoice", "update"),
        ("database.statement", "table:line", "delete"),
        ("database.statement", "table:line", "delete"),
    ] == sorted((each.action, str(each.resource), each.data["verb"]) for each in told(plain))


def test_what_the_database_changes_along_is_visible(database: str) -> None:
    """Rows that follow a key by ON UPDATE CASCADE are told by their table."""
    metadata = MetaData()
    lands = Table("land", metadata, Column("code", String(2), primary_key=True))
    towns = Table(
        "town",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("land", ForeignKey("land.code", onupdate="CASCADE")),
        info={"audit": {}},
    )
    audit.outbox_table(metadata)
    engine = plainly(database)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(lands).values(code="AA"))
        connection.execute(insert(towns).values(id=1, land="AA"))
    audit.install(engine, metadata)

    with engine.begin() as connection:
        connection.execute(update(lands).where(lands.c.code == "ZZ").values(code="CC"))
        connection.execute(update(lands).where(lands.c.code == "AA").values(code="BB"))
        assert "BB" == connection.scalar(select(towns.c.land))

    found = told(engine)
    assert [("database.statement", "table:town")] == [
        (each.action, str(each.resource)) for each in found
    ]
    engine.dispose()


# -- What is said of it.


def test_who_acts_is_who_acted_when_the_statement_ran(installed: Engine, plain: Engine) -> None:
    """The context is that of the statement, not that of the commit."""
    with Session(installed) as session:
        with context(actor="user:alice", rationale="PO-99"):
            session.execute(update(Invoice).where(Invoice.id == 1).values(total=0))
        with context(actor="user:bob"):
            session.execute(update(Invoice).where(Invoice.id == 2).values(total=0))
        session.commit()

    found = told(plain)
    assert ["user:alice", "user:bob"] == [str(each.actor) for each in found]
    assert found[0].rationale is not None
    assert found[1].rationale is None


def test_an_event_of_the_application_is_kept_with_its_transaction(
    installed: Engine, plain: Engine
) -> None:
    """What the application records is kept if the change is kept, and not otherwise."""
    with Session(installed) as session:
        with context(actor="user:alice"):
            kept = audit.record(session, "invoice.approve", resource="invoice:1", rationale="ok")
        session.commit()
        audit.record(session, "invoice.reject", resource="invoice:1")
        session.rollback()
    with installed.begin() as connection:
        also = audit.record(connection, "invoice.send", resource="invoice:1", data={"n": 1})
        with pytest.raises(InvalidEvent):
            audit.record(connection, "no action", resource="invoice:1")

    found = told(plain)
    assert [kept, also] == found
    assert "user:alice" == str(found[0].actor)


def test_neither_secrets_nor_what_is_excluded_stand_in_the_outbox(
    installed: Engine, plain: Engine
) -> None:
    """A secret that changed is told as having changed; what is excluded is not told at all."""
    with Session(installed) as session:
        session.add(Invoice(id=9, token="hidden-1", cached="hidden-2"))
        session.flush()
        session.execute(update(Invoice).where(Invoice.id == 9).values(token="hidden-3", touched=0))
        session.execute(delete(Invoice).where(Invoice.id == 9))
        session.commit()

    with plain.connect() as connection:
        bodies = "".join(connection.scalars(select(outbox.c.body)))
    assert "hidden" not in bodies
    assert "cached" not in bodies
    assert {"token": ({"$secret": True}, {"$secret": True})} == changes_of(plain)[1][1]


def test_a_relay_brings_them_into_a_trail(
    database: str, installed: Engine, plain: Engine, trail: Trail
) -> None:
    """From the ORM to a search of the trail, each change is there once."""
    with context(actor="user:alice"), Session(installed) as session:
        session.add(Invoice(number="R-1", total=3))
        session.execute(update(Invoice).where(Invoice.id == 1).values(total=99, touched=0))
        audit.record(session, "invoice.approve", resource="invoice:1")
        session.execute(text("DELETE FROM invoice_tag"))
        session.commit()
    outbox_ = open_outbox(database)

    done = Relay(trail, outbox_).drain()
    outbox_.close()

    assert 4 == done.events
    assert 0 == done.quarantined
    assert 4 == len(trail.search("actor:user:alice").items)
    item = trail.search("action:invoice.update").items[0]
    assert "invoice:1" == str(item.event.resource)
    assert [] == told(plain)


def test_many_rows_are_told_in_parts(shared: tuple[Engine, Engine]) -> None:
    """A statement over very many rows is told whole, in rows of the outbox of a bounded size."""
    installed, plain = shared
    rows = [{"number": f"B-{n}", "total": n} for n in range(10_100)]
    with plain.begin() as connection:
        connection.execute(insert(INVOICE), rows)
    before = held(plain)

    with installed.begin() as connection:
        result = connection.execute(update(INVOICE).where(INVOICE.c.total >= 0).values(total=-1))
        connection.execute(delete(INVOICE).where(INVOICE.c.number.startswith("B-")))

    assert 10_103 == result.rowcount
    found = told(plain)
    assert 20_203 == len(found)
    assert without_secrets(held(plain)) == without_secrets(replay(before, found))


# -- What is installed, and what is not.


@pytest.mark.usefixtures("installed")
def test_an_engine_that_was_not_installed_is_left_alone(plain: Engine) -> None:
    """A replica, a tool or a test with an engine of its own is not captured."""
    with Session(plain) as session:
        session.execute(update(Invoice).values(total=0))
        session.scalars(insert(Invoice).values(number="x").returning(Invoice.total)).all()
        session.commit()

    assert [] == told(plain)


def test_an_engine_with_other_options_is_captured_as_well(installed: Engine, plain: Engine) -> None:
    """What is made of an installed engine is captured by it."""
    other = installed.execution_options(logging_token="other")

    with Session(other) as session:
        session.scalars(insert(Invoice).values(number="x").returning(Invoice.total)).all()
        session.commit()

    assert ["invoice.create"] == [each.action for each in told(plain)]


def test_sessionmakers_and_async_engines_are_taken_for_their_engines() -> None:
    """Whatever makes sessions can be installed, and what makes none says so."""
    engine = create_engine("sqlite://")
    audit.install(sessionmaker(engine), Base)
    with pytest.raises(CallerError, match="installed"):
        audit.install(engine, Base)
    with pytest.raises(CallerError, match="NoneType"):
        audit.install(sessionmaker(), Base)
    with pytest.raises(CallerError, match="mysql"):
        audit.install(_mysql(), Base)


def _mysql() -> Engine:
    class Driver:
        paramstyle = "format"
        Error = Exception

    return create_engine("mysql+pymysql://", module=Driver())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secrets": {"a"}}, "secrets"),
        ({"secret": "a"}, "set of names"),
        ({"secret": {"b"}}, "'b'"),
        ({"type": "no type"}, "no type"),
        ({"secret": {"id"}}, "primary key"),
        ({"permissions": {"roles"}}, "'roles'"),
        (["a"], "dictionary"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(options: Any, message: str) -> None:
    """A name that was mistyped must not leave a secret in the open."""
    metadata = MetaData()
    Table(
        "t",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("a", String),
        info={"audit": options},
    )

    class Own(DeclarativeBase):
        pass

    class T(Own):
        __tablename__ = "t"
        __audit__ = options
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[str]

    for declared in (metadata, Own):
        with pytest.raises(CallerError, match=message):
            audit.install(create_engine("sqlite://"), declared)


def test_a_table_without_a_key_cannot_be_captured() -> None:
    """Rows that cannot be told apart cannot be told of."""
    metadata = MetaData()
    Table("t", metadata, Column("a", String), info={"audit": {}})

    with pytest.raises(CallerError, match="table t: found no primary key"):
        audit.install(create_engine("sqlite://"), metadata)


def test_nothing_to_capture_is_said() -> None:
    """Whoever installs and declares nothing is told so, at once."""
    for declared in ((), (MetaData(),)):
        with pytest.raises(CallerError, match="no table"):
            audit.install(create_engine("sqlite://"), *declared)
    with pytest.raises(CallerError, match="expected a declarative base"):
        audit.install(create_engine("sqlite://"), object)


def test_tables_of_core_are_captured_by_their_info(database: str) -> None:
    """Without any class, a table says by its info what is captured of it."""
    metadata = MetaData()
    items = Table(
        "items",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", Text, key="label"),
        Column("noise", Text),
        info={"audit": {"type": "item", "exclude": {"noise"}}},
    )
    audit.outbox_table(metadata)
    engine = plainly(database)
    metadata.create_all(engine)
    audit.install(engine, metadata)

    with engine.begin() as connection:
        connection.execute(insert(items).values(label="a", noise="b"))
        connection.execute(update(items).values(noise="c"))
        connection.execute(update(items).values(label="d"))

    assert [
        ("item.create", {"id": (UNSET, 1), "name": (UNSET, "a")}),
        ("item.update", {"name": ("a", "d")}),
    ] == changes_of(engine)
    engine.dispose()


def test_conditions_that_the_orm_adds_hold_for_what_is_read(
    installed: Engine, plain: Engine
) -> None:
    """A filter over a whole session narrows what is changed, and so what is told."""
    with Session(installed) as session:
        session.execute(
            update(Invoice)
            .values(total=0, touched=0)
            .options(with_loader_criteria(Invoice, Invoice.id == 2))
        )
        session.commit()

    assert [("invoice.update", {"total": (20, 0), "doubled": (40, 0)})] == changes_of(plain)


def test_what_gives_permissions_says_so() -> None:
    """Who got a role, or became an administrator, is found among the changes of permissions."""

    class Own(DeclarativeBase):
        pass

    member = Table(
        "member",
        Own.metadata,
        Column("user_id", ForeignKey("user.id"), nullable=False),
        Column("role_id", ForeignKey("role.id"), nullable=False),
    )

    class Role(Own):
        __tablename__ = "role"
        id: Mapped[int] = mapped_column(primary_key=True)

    class User(Own):
        __tablename__ = "user"
        __audit__ = {"permissions": {"roles", "admin"}}
        id: Mapped[int] = mapped_column(primary_key=True)
        name = mapped_column(String)
        admin = mapped_column(Integer)
        roles = relationship(Role, secondary=member)

    audit.outbox_table(Own.metadata)
    engine = create_engine("sqlite://")
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([User(id=1), Role(id=5), Role(id=6)])
        session.commit()
    audit.install(engine, Own)

    with Session(engine) as session:
        user = session.get_one(User, 1)
        user.roles = session.scalars(select(Role)).all()
        session.flush()
        session.execute(delete(member).where(member.c.role_id == 5))
        session.execute(update(User).values(name="alice"))
        session.execute(update(User).values(admin=1))
        session.commit()

    assert [
        ("user.roles.add", "permission_change"),
        ("user.roles.add", "permission_change"),
        ("user.roles.remove", "permission_change"),
        ("user.update", "data_change"),
        ("user.update", "permission_change"),
    ] == [(each.action, each.kind) for each in told(engine)]
    assert {"user:1"} == {str(each.resource) for each in told(engine)}


# -- asyncio.


@pytest.fixture(params=["sqlite", "postgresql_16", "postgresql_18"])
def async_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, for asyncio, with the shop in it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'shop.db'}"
    else:
        server: Server = request.getfixturevalue(request.param)
        url = server.database()
    engine = plainly(url)
    Base.metadata.create_all(engine)
    fill(engine)
    engine.dispose()
    return url


def test_asyncio_is_captured_like_the_rest(async_url: str) -> None:
    """An AsyncSession changes rows as a Session does, and each task is its own actor."""
    plain = plainly(async_url)
    before = held(plain)

    async def work() -> None:
        url = async_url.replace("sqlite:", "sqlite+aiosqlite:")
        engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        make = async_sessionmaker(engine, expire_on_commit=False)
        audit.install(make, Base)
        async with make() as session:
            session.add(Invoice(number="async", total=1))
            await session.flush()
            found = (await session.scalars(select(Invoice).where(Invoice.id < 3))).all()
            for invoice in found:
                invoice.total += 1
            await session.execute(update(Invoice).values(total=Invoice.total * 2))
            rows = [{"number": f"a-{n}"} for n in range(3)]
            assert 3 == len(
                (await session.scalars(insert(Invoice).returning(Invoice.total), rows)).all()
            )
            await session.execute(delete(Line).where(Line.place == 1))
            await session.commit()
            async with session.begin_nested() as savepoint:
                await session.execute(update(Invoice).values(total=0))
                await savepoint.rollback()
            await session.commit()

        async def one(who: str, number: int) -> None:
            with context(actor=who):
                async with make() as session:
                    await session.execute(
                        update(Invoice).where(Invoice.id == number).values(note=who)
                    )
                    await audit.arecord(session, "invoice.approve", resource=f"invoice:{number}")
                    await session.commit()

        await asyncio.gather(one("user:alice", 1), one("user:bob", 2))
        async with engine.connect() as connection:
            with pytest.raises(CallerError, match="AUTOCOMMIT"):
                await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
                    update(INVOICE).values(total=0)
                )
        await engine.dispose()

    asyncio.run(work())

    found = told(plain)
    changes = [each for each in found if each.action != "invoice.approve"]
    assert without_secrets(held(plain)) == without_secrets(replay(before, changes))
    last = {(str(each.actor), str(each.resource)) for each in found[-4:]}
    assert {("user:alice", "invoice:1"), ("user:bob", "invoice:2")} == last
    plain.dispose()


# -- The table.


def columns_of(engine: Engine) -> list[tuple[str, str, bool]]:
    """Return what the database says of the columns of the outbox."""
    found = inspect(engine)
    key = found.get_pk_constraint(TABLE)["constrained_columns"]
    return [
        (column["name"], str(column["type"]), column["nullable"] and column["name"] not in key)
        for column in found.get_columns(TABLE)
    ]


def test_the_outbox_is_the_same_however_it_was_made(database: str) -> None:
    """metadata.create_all(), a migration of Alembic and the schema itself make one table."""
    engine = plainly(database)
    schema = (sqlite_outbox if engine.dialect.name == "sqlite" else postgresql_outbox).SCHEMA
    with engine.begin() as connection:
        connection.exec_driver_sql(schema)
    expected = columns_of(engine)
    with engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        audit.drop_outbox(op)
        audit.create_outbox(op)
    migrated = columns_of(engine)
    with engine.begin() as connection:
        audit.drop_outbox(Operations(MigrationContext.configure(connection)))
    metadata = MetaData(schema="elsewhere")
    assert audit.outbox_table(metadata) is audit.outbox_table(metadata)
    metadata.create_all(engine)

    assert [expected, expected] == [migrated, columns_of(engine)]
    with engine.begin() as connection:
        for _ in range(2):
            audit.record(connection, "a.b", resource="c:d")
        connection.execute(delete(outbox))
        audit.record(connection, "a.b", resource="c:d")
        assert [3] == list(connection.scalars(select(outbox.c.seq)))
    engine.dispose()


def test_the_outbox_is_found_whatever_schema_tables_are_mapped_to(
    shared: tuple[Engine, Engine],
) -> None:
    """Where each tenant has a schema, tables are in it, and the outbox where it was."""
    captured, plain = shared
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.exec_driver_sql("CREATE TABLE tenant.line (LIKE line INCLUDING ALL)")
        connection.exec_driver_sql("INSERT INTO tenant.line VALUES (7, 1, 'theirs')")

    mapped = captured.execution_options(schema_translate_map={None: "tenant"})
    with mapped.begin() as connection:
        connection.execute(update(LINE).values(item="x"))
    with captured.begin() as connection:
        connection.execute(
            update(LINE).values(item="y"),
            execution_options={"schema_translate_map": {None: "tenant"}},
        )

    assert [
        ("line.update", {"item": ("theirs", "x")}),
        ("line.update", {"item": ("x", "y")}),
    ] == changes_of(plain)
