"""The one suite that every outbox passes: `indelible.outbox.Outbox` as tests."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from indelible.errors import CallerError, StoreError
from indelible.outboxes import open_outbox, postgresql, sqlite
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.outbox import Outbox

INSERT = "INSERT INTO indelible_outbox (body) VALUES ('{}')"


@pytest.fixture(scope="module")
def postgresql_16() -> Iterator[Server]:
    """PostgreSQL 16, as it is installed."""
    with server(16) as running:
        yield running


@pytest.fixture(scope="module")
def postgresql_18() -> Iterator[Server]:
    """PostgreSQL 18, which keeps the times of commits."""
    with server(18, commit_times=True) as running:
        yield running


@dataclass(frozen=True)
class Database:
    """An application's database with an empty outbox, and how it is reached and lost."""

    url: str
    connect: Callable[[], Any]
    stop: Callable[[], object]
    start: Callable[[], object]

    def write(self, *bodies: str) -> None:
        """Write rows, each in a transaction of its own."""
        for body in bodies:
            connection = self.connect()
            connection.execute(INSERT.format(body))
            connection.commit()
            connection.close()


def in_sqlite(path: Path) -> Database:
    """A database in a file; it is lost by moving the file away."""
    away = path.with_suffix(".away")
    with sqlite3.connect(path) as connection:
        connection.execute(sqlite.SCHEMA)
    connection.close()
    return Database(
        f"sqlite:///{path}",
        lambda: sqlite3.connect(path),
        lambda: path.rename(away),
        lambda: away.rename(path),
    )


def in_postgresql(running: Server) -> Database:
    """A database on a server; it is lost by stopping that."""
    url = running.database()
    with psycopg.connect(url) as connection:
        connection.execute(postgresql.SCHEMA)
    return Database(url, lambda: psycopg.connect(url), running.stop, running.start)


@pytest.fixture(params=["sqlite", "postgresql_16", "postgresql_18"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A database of each kind."""
    if request.param == "sqlite":
        return in_sqlite(tmp_path / "shop.sqlite3")
    return in_postgresql(request.getfixturevalue(request.param))


@pytest.fixture(params=["postgresql_16", "postgresql_18"])
def on_a_server(request: pytest.FixtureRequest) -> Database:
    """A database of each version of PostgreSQL."""
    return in_postgresql(request.getfixturevalue(request.param))


@pytest.fixture
def outbox(database: Database) -> Iterator[Outbox]:
    """The outbox of the database."""
    opened = open_outbox(database.url)
    yield opened
    opened.close()


def bodies(outbox: Outbox, most: int = 100) -> list[str]:
    """Claim rows, let them go, and return what they hold."""
    with outbox.claim(most) as claim:
        return [body for _, body in claim.rows]


def test_what_is_claimed_is_gone_when_the_claim_ends(database: Database, outbox: Outbox) -> None:
    """Rows whose events are in the trail are not read again, by this relay or another."""
    database.write("a", "b")
    other = open_outbox(database.url)

    assert ["a", "b"] == bodies(outbox)
    assert [] == bodies(outbox) == bodies(other)
    assert (0, None, 0) == outbox.waiting()
    other.close()


def test_no_more_is_claimed_than_was_asked_for(database: Database, outbox: Outbox) -> None:
    """A relay has a batch in its hands, whatever waits; the rest comes after it, in order."""
    database.write(*"abcde")

    assert [["a", "b"], ["c", "d"], ["e"], []] == [bodies(outbox, 2) for _ in range(4)]


def test_a_claim_that_raises_leaves_the_rows_as_they_were(
    database: Database, outbox: Outbox
) -> None:
    """What could not be recorded waits, also what was to be put aside."""
    database.write("a", "b")

    with pytest.raises(RuntimeError), outbox.claim(100) as claim:
        claim.quarantine(claim.rows[0][0], "no event")
        raise RuntimeError

    assert (2, "a", 0) == outbox.waiting()
    assert ["a", "b"] == bodies(outbox)


def test_an_uncommitted_row_is_not_there(database: Database, outbox: Outbox) -> None:
    """What may yet be rolled back has not happened."""
    connection = database.connect()
    connection.execute(INSERT.format("a"))

    before = bodies(outbox)
    connection.commit()

    assert [[], ["a"]] == [before, bodies(outbox)]
    connection.close()


def test_a_row_that_was_rolled_back_never_is_there(database: Database, outbox: Outbox) -> None:
    """What did not happen does not get into the trail."""
    connection = database.connect()
    connection.execute(INSERT.format("a"))

    connection.rollback()

    assert [] == bodies(outbox)
    connection.close()


def test_what_is_put_aside_holds_up_nothing_and_is_kept(database: Database, outbox: Outbox) -> None:
    """A row that holds no event is neither lost nor tried for ever, and says what is wrong."""
    database.write("a", "poison", "b")

    with outbox.claim(100) as claim:
        number = next(number for number, body in claim.rows if body == "poison")
        claim.quarantine(number, "no event")

    assert (0, None, 1) == outbox.waiting()
    assert [] == bodies(outbox)
    assert [(number, "poison", "no event")] == list(outbox.quarantined())


def test_what_was_put_aside_can_be_released(database: Database, outbox: Outbox) -> None:
    """When the cause is gone, the row takes its way like any other."""
    database.write("poison")
    with outbox.claim(100) as claim:
        claim.quarantine(claim.rows[0][0], "no event")

    assert 1 == outbox.release()
    assert (1, "poison", 0) == outbox.waiting()
    assert ["poison"] == bodies(outbox)
    assert 0 == outbox.release()


def test_how_much_waits_can_be_asked_while_rows_are_claimed(
    database: Database, outbox: Outbox
) -> None:
    """Whoever watches does not end the claim of whoever moves: if that fails, all is there."""
    database.write("a", "b")

    with pytest.raises(RuntimeError), outbox.claim(100):
        outbox.waiting()
        list(outbox.quarantined())
        outbox.release()
        raise RuntimeError

    assert ["a", "b"] == bodies(outbox)


def test_threads_may_share_an_outbox(database: Database, outbox: Outbox) -> None:
    """No answer is torn, and no claim broken, by another thread's."""
    database.write(*map(str, range(40)))
    begun = threading.Barrier(2)
    failed: list[BaseException] = []

    def watch() -> None:
        begun.wait()
        try:
            for _ in range(20):
                outbox.waiting()
        except BaseException as error:  # noqa: BLE001 - it is asserted below
            failed.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    begun.wait()
    found = [body for _ in range(20) for body in bodies(outbox, 2)]
    thread.join()

    assert [] == failed
    assert [str(number) for number in range(40)] == found


def test_a_database_that_is_away_is_waited_for(database: Database, outbox: Outbox) -> None:
    """It is the kind of error after which trying again is safe, and trying again works."""
    database.write("a")
    assert (1, "a", 0) == outbox.waiting()
    outbox.close()

    database.stop()
    try:
        with pytest.raises(StoreError, match="outbox"):
            bodies(outbox)
        with pytest.raises(StoreError, match="outbox"):
            outbox.waiting()
    finally:
        database.start()

    assert ["a"] == bodies(outbox)


def test_a_table_that_is_not_there_is_named(tmp_path: Path, on_a_server: Database) -> None:
    """Who forgot the migration learns which table is missing."""
    (tmp_path / "empty.sqlite3").touch()
    with psycopg.connect(on_a_server.url) as connection:
        connection.execute("DROP TABLE indelible_outbox")

    for url in (f"sqlite:///{tmp_path / 'empty.sqlite3'}", on_a_server.url):
        outbox = open_outbox(url)
        with pytest.raises(StoreError, match="indelible_outbox"):
            bodies(outbox)
        outbox.close()


def test_claims_exclude_each_other(on_a_server: Database) -> None:
    """Two relays never have the same row in their hands, and neither waits for the other."""
    on_a_server.write(*"abcd")
    one, other = open_outbox(on_a_server.url), open_outbox(on_a_server.url)

    with one.claim(2) as mine, other.claim(100) as its:
        assert [["a", "b"], ["c", "d"]] == [[body for _, body in each.rows] for each in (mine, its)]

    assert (0, None, 0) == one.waiting()
    one.close()
    other.close()


def test_a_server_that_goes_away_within_a_claim_loses_nothing(on_a_server: Database) -> None:
    """The rows come back with the server, and the claim says that it did not end."""
    on_a_server.write("a")
    outbox = open_outbox(on_a_server.url)

    with pytest.raises(StoreError, match="outbox"), outbox.claim(100):
        on_a_server.stop()
        on_a_server.start()

    assert ["a"] == bodies(outbox)
    outbox.close()


def test_a_role_with_few_rights_suffices(on_a_server: Database) -> None:
    """Whoever runs the relay need not be able to do anything else in the database."""
    role = f"relay_{on_a_server.url.partition('/test_')[2].partition('?')[0]}"
    with psycopg.connect(on_a_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN')
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON indelible_outbox TO "{role}"')
    on_a_server.write("a", "poison")
    outbox = open_outbox(on_a_server.url.replace("://postgres:", f"://{role}:"))

    with outbox.claim(100) as claim:
        claim.quarantine(claim.rows[1][0], "no event")

    assert (0, None, 1) == outbox.waiting()
    assert 1 == outbox.release()
    assert ["poison"] == bodies(outbox)
    outbox.close()


def test_rows_come_in_the_order_of_their_commits(postgresql_18: Server) -> None:
    """
    Where the server keeps the times, who committed first comes first.

    Also if the other began to write earlier, and wrote below a savepoint.
    """
    database = in_postgresql(postgresql_18)
    early, late = database.connect(), database.connect()
    early.execute("SAVEPOINT one")
    early.execute(INSERT.format("written first"))
    early.execute("RELEASE one")
    late.execute(INSERT.format("committed first"))
    late.execute(INSERT.format("committed first, written after that"))
    late.commit()
    early.commit()
    outbox = open_outbox(database.url)

    found = [*bodies(outbox, 1), *bodies(outbox, 2)]

    assert ["committed first", "committed first, written after that", "written first"] == found
    for connection in (early, late, outbox):
        connection.close()


def test_rows_come_in_the_order_of_their_numbers_where_no_times_are_kept(
    postgresql_16: Server,
) -> None:
    """Without the times of commits, who began to write earlier comes first, and none is missed."""
    database = in_postgresql(postgresql_16)
    early, late = database.connect(), database.connect()
    early.execute(INSERT.format("a"))
    late.execute(INSERT.format("b"))
    late.commit()
    outbox = open_outbox(database.url)

    meanwhile = bodies(outbox)
    late.execute(INSERT.format("c"))
    late.commit()
    early.commit()

    assert [["b"], ["a", "c"]] == [meanwhile, bodies(outbox)]
    for connection in (early, late, outbox):
        connection.close()


@pytest.mark.parametrize("literal", ["CAST(X'7bff7d' AS TEXT)", "X'7bff7d'"])
def test_a_text_that_is_none_holds_up_no_other(tmp_path: Path, literal: str) -> None:
    """SQLite keeps any bytes as a text; they are seen to be none, and put aside."""
    database = in_sqlite(tmp_path / "shop.sqlite3")
    with sqlite3.connect(tmp_path / "shop.sqlite3") as connection:
        connection.execute(f"INSERT INTO indelible_outbox (body) VALUES ({literal})")  # noqa: S608
    connection.close()
    database.write("a")
    outbox = open_outbox(database.url)

    with outbox.claim(100) as claim:
        assert [b"{\xff}", b"a"] == [
            body.encode("utf-8", "surrogateescape") for _, body in claim.rows
        ]
        claim.quarantine(1, "no text")

    assert [(1, "{\udcff}", "no text")] == list(outbox.quarantined())
    outbox.close()


@pytest.mark.parametrize(
    "url", ["", "shop.db", "mysql://alice:pw-7@db/shop", "sqlite://", "sqlite:///", "alice:pw-7@db"]
)
def test_another_kind_of_database_is_refused(url: str) -> None:
    """The message names what is expected, and shows nothing of a password."""
    with pytest.raises(CallerError, match="expected postgresql://") as caught:
        open_outbox(url)

    assert "pw-7" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alice:pw-7%@db/shop",
        "postgresql://alice:p@pw-7@db/shop",
        "postgresql://alice:p/pw-7@db/shop",
        "postgresql://alice:pw-7/p@db/shop",
        "postgresql://alice:p@[pw-7/shop",
    ],
)
def test_a_password_that_breaks_the_url_is_not_shown(url: str) -> None:
    """The driver would show what it took for a host or a port."""
    with pytest.raises(CallerError, match="cannot be read") as caught:
        open_outbox(url)

    assert "pw-7" not in str(caught.value)


def test_no_message_shows_the_password() -> None:
    """A server that cannot be reached is named without how to get in."""
    outbox = open_outbox("postgresql://alice:pw-7@127.0.0.1:1/shop")

    with pytest.raises(StoreError) as caught:
        bodies(outbox)

    assert "pw-7" not in str(caught.value)
    assert "pw-7" not in repr(caught.value.__cause__)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A wrong path is an error, and not an empty outbox."""
    outbox = open_outbox(f"sqlite:///{tmp_path / 'nowhere.sqlite3'}")

    with pytest.raises(StoreError, match="outbox"):
        bodies(outbox)

    assert [] == list(tmp_path.iterdir())
