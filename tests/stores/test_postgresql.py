"""What PostgreSQL adds to the contract: epochs, lost connections, migrations, rights, forks."""

from __future__ import annotations

import os
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

from indelible import log
from indelible.errors import (
    CallerError,
    IndelibleError,
    Moved,
    NotATrail,
    StoreError,
    StoreReadOnly,
    UnsupportedVersion,
    WriteUncertain,
)
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.mark import Mark
from indelible.seal import seal
from indelible.store import Forgotten, Head
from indelible.stores import postgresql_schema
from indelible.stores.postgresql import PostgresqlStore
from indelible.stores.postgresql_connections import without_password
from tests.stores.conftest import (
    StoreServer,
    connected,
    standby_that_never_comes,
    wait_until_somebody,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.stores.postgresql import _Transaction

KEY = SigningKey.from_seed("audit.example.com/user", bytes(range(32)))
CUSTODY = SigningKey.from_seed("audit.example.com/custody", bytes(range(1, 33)))


BOTH = pytest.mark.parametrize("url", ["postgresql_16", "postgresql_18"], indirect=True)
"""For what each version of PostgreSQL does in its own way."""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    running: StoreServer = request.getfixturevalue(getattr(request, "param", "postgresql_18"))
    return running.store()


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], PostgresqlStore]]:
    """Return what opens the store once more, as another process does."""
    made: list[PostgresqlStore] = []

    def open_store() -> PostgresqlStore:
        made.append(PostgresqlStore(url, synced=False))
        return made[-1]

    with open_store().write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
    yield open_store
    for each in made:
        each.close()


def place(transaction: _Transaction, count: int = 1, name: str = "user") -> log.Placed:
    """Append events within a transaction."""
    key = KEY if name == "user" else CUSTODY
    event = seal(
        Event(
            action="invoice.void",
            outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse("invoice:1"),
        )
    )
    return log.append(
        transaction,
        transaction.heads()[name],
        [msgspec.structs.replace(event, row=b"row") for _ in range(count)],
        key,
        1_000,
    )


def add(store: PostgresqlStore, count: int = 1) -> log.Placed:
    """Append events in one transaction."""
    with store.write() as transaction:
        return place(transaction, count)


def size(store: PostgresqlStore) -> int:
    """How many entries there are."""
    with store.read() as view:
        return view.heads()["user"].size


def cut(url: str) -> None:
    """End all other connections to the database, as a network does that breaks."""
    with connected(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# ---- Who may write ----


@pytest.mark.parametrize(
    "when",
    ["before it reads", "after it has read", "after it has added", "after it has sent"],
)
def test_a_writer_that_was_taken_over_from_writes_nothing(
    opened: Callable[[], PostgresqlStore], when: str
) -> None:
    """Wherever it stopped when another took over: what it was about to write never happens."""
    zombie, other = opened(), opened()
    add(zombie, 3)

    def write() -> None:
        if when == "before it reads":
            other.take_over()
        with zombie.write() as transaction:
            if when == "after it has read":
                other.take_over()
                assert 3 == add(other).first
            place(transaction)
            if when == "after it has sent":
                # Who asks is answered for all that was changed before.
                transaction.fact("cursor", b"shop")
            if when in {"after it has added", "after it has sent"}:
                other.take_over()
                assert 3 == add(other).first

    # When its connection was ended by who took over, it cannot tell, and says so.
    with pytest.raises(WriteUncertain if when == "after it has sent" else Moved):
        write()
    with pytest.raises(Moved, match="found epoch 2, expected 1"):
        add(zombie)

    assert add(other).first == (3 if when == "before it reads" else 4)
    assert other.epoch == 2


@pytest.mark.parametrize("change", ["document", "fact", "forget", "create", "purge", "rotate"])
def test_every_change_is_fenced(opened: Callable[[], PostgresqlStore], change: str) -> None:
    """Not only entries: nothing at all is changed by whoever began in an epoch that is over."""
    zombie, other = opened(), opened()
    add(zombie, 300)
    changes: dict[str, Callable[[_Transaction], object]] = {
        "document": lambda transaction: transaction.add_document(b"policy"),
        "fact": lambda transaction: transaction.put("cursor", b"shop", b"7"),
        "forget": lambda transaction: transaction.forget({"user": {0: Forgotten()}}),
        "create": lambda transaction: transaction.create(Head(log="admin", origin="other")),
        "purge": lambda transaction: transaction.purge("user", 256),
        "rotate": lambda transaction: transaction.rotate("user", b"note", b"checkpoint"),
    }

    def write() -> None:
        with zombie.write() as transaction:
            other.take_over()
            changes[change](transaction)

    with other.read() as view:
        before = view.heads()
    with pytest.raises(Moved):
        write()

    with other.read() as view:
        assert before == view.heads()
        assert [b"row"] == view.rows("user", [0])


def test_who_was_taken_over_from_rewrites_no_table(opened: Callable[[], PostgresqlStore]) -> None:
    """What is done beside the one who writes, to close, purge and forget, is fenced as well."""
    zombie, other = opened(), opened()
    add(zombie, 300)
    with zombie.write() as transaction:
        transaction.purge("user", 256)
    other.take_over()

    with pytest.raises(Moved):
        list(zombie.purge_segments())
    with pytest.raises(Moved):
        zombie.forget({"user": {299: Forgotten()}})

    with other.read() as view:
        assert [b"row"] == view.rows("user", [299])


def test_a_reader_of_an_older_epoch_goes_on(opened: Callable[[], PostgresqlStore]) -> None:
    """To read, nobody has to be the one who writes."""
    reader, writer = opened(), opened()
    writer.take_over()
    add(writer, 5)

    assert 5 == size(reader)


def test_writers_of_one_epoch_wait_for_each_other(opened: Callable[[], PostgresqlStore]) -> None:
    """Stores of several processes take turns, and neither sees half of what the other does."""
    first, second = opened(), opened()
    places: list[int] = []
    waiting = threading.Event()

    def write() -> None:
        waiting.set()
        places.append(add(second).first)

    with first.write() as transaction:
        thread = threading.Thread(target=write)
        thread.start()
        waiting.wait()
        places.append(place(transaction).first)
        assert 1 == len(places)
    thread.join()

    assert [0, 1] == places


def test_a_failed_statement_is_not_taken_for_a_commit(
    opened: Callable[[], PostgresqlStore],
) -> None:
    """PostgreSQL rolls back what has failed without calling it an error; here it is one."""
    store = opened()

    def write() -> None:
        with store.write() as transaction:
            place(transaction)
            with suppress(psycopg.Error):
                transaction.create(Head(log="user", origin="taken"))
                transaction.fact("cursor", b"shop")

    with pytest.raises(StoreError, match="nothing was written"):
        write()

    assert 0 == size(store)


# ---- Lost connections ----


def test_a_connection_that_was_lost_between_transactions_is_made_anew(
    opened: Callable[[], PostgresqlStore], url: str
) -> None:
    """A server that was restarted while nobody wrote is nobody's error."""
    store = opened()
    add(store)
    cut(url)

    assert 1 == add(store).first
    cut(url)
    assert 2 == size(store)


@pytest.mark.parametrize("when", ["before it asks", "before its end", "after its change"])
def test_what_was_not_committed_when_the_connection_broke_is_not_there(
    opened: Callable[[], PostgresqlStore], url: str, when: str
) -> None:
    """
    Who has lost the answer to the end does not know, says so, and finds out by looking.

    Before that, nothing was written, and the caller may repeat.
    """
    store = opened()

    def write() -> None:
        with store.write() as transaction:
            if when != "after its change":
                cut(url)
            if when == "before it asks":
                transaction.fact("cursor", b"shop")
            place(transaction)
            if when == "after its change":
                cut(url)

    with pytest.raises(StoreError if when == "before it asks" else WriteUncertain):
        write()

    assert 0 == size(store)
    assert 0 == add(store).first


@BOTH
@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_commit_that_was_not_waited_for_is_uncertain(
    opened: Callable[[], PostgresqlStore], url: str, end: str
) -> None:
    """
    A commit whose answer was lost, or that no standby has confirmed, is no promise.

    The server has it, and whoever looks finds it; a failover may lose it.
    """
    store = opened()
    failures: list[IndelibleError] = []

    def write() -> None:
        try:
            add(store)
        except IndelibleError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    with standby_that_never_comes(url) as wait_for_standby, connected(url) as connection:
        wait_for_standby()
        thread.start()
        wait_until_somebody(connection, "SyncRep")
        connection.execute(
            f"SELECT {end}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'".encode()  # noqa: S608 - names of ours
        )
        thread.join()

    assert [WriteUncertain] == [type(failure) for failure in failures]
    assert 1 == size(store)


_DIES = """
CREATE FUNCTION public.die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid());
    RETURN NULL;
END
$$
"""


@pytest.mark.parametrize(
    ("step", "when"),
    [
        *((f"{step}", "AFTER INSERT") for step in ("tail", "tile", "tile_columns", "block")),
        ("vault", "AFTER INSERT"),
        ("document", "AFTER INSERT"),
        ("fact", "AFTER INSERT"),
        ("tail", "AFTER DELETE"),
        ("log", "BEFORE UPDATE"),
        ("log", "AFTER UPDATE"),
    ],
)
def test_a_server_process_that_ends_within_a_transaction_leaves_nothing_of_it(
    opened: Callable[[], PostgresqlStore], url: str, step: str, when: str
) -> None:
    """At whatever step it ends: nothing of the transaction is there, and the next one goes on."""
    store = opened()
    add(store, 100)
    with connected(url) as connection:
        connection.execute(_DIES)
        trigger = f"CREATE TRIGGER die {when} ON indelible.{step} EXECUTE FUNCTION public.die()"
        connection.execute(trigger.encode())
        before = _contents(connection)

    def write() -> None:
        with store.write() as transaction:
            transaction.add_document(b"policy")
            transaction.put("cursor", b"shop", b"7")
            place(transaction, 500)

    # The last change is sent together with the end.
    with pytest.raises(WriteUncertain if step == "log" else StoreError):
        write()

    with connected(url) as connection:
        assert before == _contents(connection)
        connection.execute(f"DROP TRIGGER die ON indelible.{step}".encode())
    write()
    assert 600 == size(store)


def test_a_server_process_that_ends_at_commit_leaves_all_or_nothing(
    opened: Callable[[], PostgresqlStore], url: str
) -> None:
    """What ends between the last change and the commit is uncertain, and here did not happen."""
    store = opened()
    with connected(url) as connection:
        connection.execute(_DIES)
        connection.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON indelible.document"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.die()"
        )
        before = _contents(connection)

    def write() -> None:
        with store.write() as transaction:
            transaction.add_document(b"policy")
            place(transaction, 500)

    with pytest.raises(WriteUncertain):
        write()

    with connected(url) as connection:
        assert before == _contents(connection)
    assert 0 == add(store).first


def _contents(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    tables = ("log", "tail", "tile", "tile_columns", "block", "vault", "document", "fact", "writer")
    return {
        name: connection.execute(f"TABLE indelible.{name} ORDER BY 1".encode()).fetchall()
        for name in tables
    }


# ---- What the server must keep ----


@BOTH
@pytest.mark.parametrize(
    ("setting", "standbys"),
    [("off", False), ("local", True)],
)
def test_a_server_that_confirms_what_it_may_lose_is_refused(
    url: str, setting: str, standbys: bool
) -> None:
    """Nothing is acknowledged that a crash, or a failover to the standby, could take back."""
    separator = "&" if "?" in url else "?"
    loose = f"{url}{separator}options=-csynchronous_commit%3D{setting}"

    with standby_that_never_comes(url) as wait_for_standby:
        if standbys:
            wait_for_standby()

        with pytest.raises(StoreError, match=f"found synchronous_commit = {setting}"):
            PostgresqlStore(loose, synced=False)


def test_a_server_that_does_not_sync_is_refused(url: str) -> None:
    """A server without fsync loses what it has confirmed when the machine goes down."""
    with pytest.raises(StoreError, match="found fsync = off, expected on"):
        PostgresqlStore(url)


def test_a_database_that_may_only_be_read_says_so(
    opened: Callable[[], PostgresqlStore], url: str
) -> None:
    """Where nothing may be written, reading goes on, and writing is refused as such."""
    add(opened(), 3)
    separator = "&" if "?" in url else "?"
    only_read = f"{url}{separator}options=-cdefault_transaction_read_only%3Don"

    with closing(PostgresqlStore(only_read, synced=False)) as store:
        assert 3 == size(store)
        with pytest.raises(StoreReadOnly):
            add(store)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alice:secret@host:5432/audit?no=such",
        "postgresql://alice:sec@ret@host/audit",
        "postgresql://alice:@secret@host/audit",
        "postgresql://alice:sec/ret@host/audit",
        "postgresql://alice:sec%ret@host/audit",
        "postgresql://alice:sec:ret/@host/audit",
        "host=localhost user=alice password=sec ret",
        "host=localhost user=alice password='secret",
    ],
)
def test_an_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    """A mistyped URL is refused without its password, or any part of it."""
    with pytest.raises(CallerError, match="found a URL that cannot be read") as caught:
        PostgresqlStore(url)

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for part in ("sec", "ret"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://alice@host/audit", "postgresql://alice@host/audit"),
        ("postgresql://alice:secret@host/audit", "postgresql://alice@host/audit"),
        ("postgresql://alice:se%40cret@[::1]:1,b:2/a", "postgresql://alice@[::1]:1,b:2/a"),
        ("postgres:///audit?password=x&host=%2Ftmp", "postgres:///audit?host=%2Ftmp"),
        ("postgresql://h/a?sslpassword=x&sslkey=k", "postgresql://h/a?sslkey=k"),
        ("postgresql://alice:s?e#c[ret@host/a", "postgresql://alice@host/a"),
        ("host=h password=secret dbname=a", "dbname=a host=h"),
    ],
)
def test_an_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """What is kept of a URL says where the database is, and lets nobody in."""
    assert shown == without_password(url)


# ---- The mark ----


def test_the_mark_says_what_was_committed_last(
    opened: Callable[[], PostgresqlStore], url: str, tmp_path: Path
) -> None:
    """The mark lies outside of the database, and never goes back."""
    opened()
    mark = tmp_path / "mark"

    with closing(PostgresqlStore(url, mark=mark, synced=False)) as store:
        add(store, 3)
        with store.read() as view:
            older = view.heads()
        add(store, 4)
        store._move_mark(older)  # noqa: SLF001 - as another process that was overtaken does

    assert 7 == Mark(mark).read()["user"].size


# ---- Waiting ----


@pytest.mark.parametrize("logs", [("user",), ("user", "custody")])
def test_who_records_waits_for_the_server_twice(
    opened: Callable[[], PostgresqlStore], tmp_path: Path, logs: tuple[str, ...]
) -> None:
    """However many logs and facts a transaction changes: it begins, and it ends."""
    store = opened()
    _custody(store)
    for name in logs:
        with store.write() as transaction:
            place(transaction, name=name)
    (connection,) = store._connections._idle  # noqa: SLF001 - what it says to the server

    with (tmp_path / "said").open("w") as file:
        connection.pgconn.trace(file.fileno())
        with store.write() as transaction:
            for name in logs:
                place(transaction, name=name)
            transaction.put("cursor", b"shop", b"7")
        connection.pgconn.untrace()
    said = (tmp_path / "said").read_text().splitlines()

    # The server answers when it has read one of these.
    assert 2 == sum("\tF\t" in line and line.split("\t")[3] in {"Query", "Sync"} for line in said)


# ---- Facts ----


def test_any_number_of_facts_is_read_in_order(
    opened: Callable[[], PostgresqlStore],
) -> None:
    """However many there are, each comes once, and in the order of the keys."""
    store = opened()
    keys = sorted(b"%d\x00" % number for number in range(600))
    with store.write() as transaction:
        for key in keys:
            transaction.put("token", key, b"")

    with store.read() as view:
        assert keys == [key for key, _ in view.facts("token")]
        assert keys[7:560] == [key for key, _ in view.facts("token", keys[7], keys[560])]


# ---- Many segments ----


@BOTH
def test_a_transaction_locks_the_tables_of_its_segments_alone(
    opened: Callable[[], PostgresqlStore], url: str
) -> None:
    """With thousands of segments a server would have no room for locks on the tables of all."""
    store = opened()
    add(store, 300)
    with connected(url) as connection:
        connection.execute("SELECT indelible.make_room(1, n) FROM generate_series(1, 20) AS n")

    for _ in range(12):  # so often a plan that is kept would be one for any values
        with store.write() as transaction:
            place(transaction, 256)
            transaction.forget({"user": {4: Forgotten()}})
            transaction.purge("user", transaction.heads()["user"].first + 256)
            written = _locked(transaction._connection)  # noqa: SLF001 - whose locks they are
        with store.read() as view:
            head = view.heads()["user"]
            for indexes in ((), range(head.first), range(head.first, head.size)):
                view.rows("user", indexes)
            view.stored("user", ())
            view.stored("user", range(head.first, head.size))
            read = _locked(view._connection)  # noqa: SLF001

    assert {"block_1_0", "vault_1_0"} == written
    assert {"block_1_0", "vault_1_0"} == read


def _locked(connection: psycopg.Connection[Any]) -> set[str]:
    return {
        name
        for (name,) in connection.execute(
            "SELECT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid = pg_backend_pid() AND relname ~ '^(block|vault|finding)_[0-9]+_[0-9]+$'"
        )
    }


# ---- The schema ----


def _objects(url: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return connection.execute(
            """
            SELECT 'column', table_schema, table_name, column_name, data_type, is_nullable,
                column_default, attstorage::text || coalesce(attstattarget, -1), reloptions::text,
                relkind::text
            FROM information_schema.columns
            JOIN pg_class ON oid = format('%I.%I', table_schema, table_name)::regclass
            JOIN pg_attribute ON attrelid = pg_class.oid AND attname = column_name
            WHERE table_schema LIKE 'indelible%'
            UNION ALL
            SELECT 'constraint', '', conrelid::regclass::text, conname,
                pg_get_constraintdef(oid), '', '', '', '', ''
            FROM pg_constraint WHERE connamespace::regnamespace::text LIKE 'indelible%'
            UNION ALL
            SELECT 'index', schemaname, tablename, indexname, indexdef, '', '', '', '', ''
            FROM pg_indexes WHERE schemaname LIKE 'indelible%'
            UNION ALL
            SELECT 'function', '', oid::regprocedure::text, proacl::text,
                pg_get_functiondef(oid), '', '', '', '', ''
            FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'indelible%'
            UNION ALL
            SELECT 'trigger', '', tgname, pg_get_triggerdef(oid), '', '', '', '', '', ''
            FROM pg_trigger WHERE tgrelid::regclass::text LIKE 'indelible%'
            ORDER BY 1, 2, 3, 4
            """
        ).fetchall()


@pytest.mark.parametrize("version", ["postgresql_16", "postgresql_18"])
def test_the_migrations_lead_to_the_schema(request: pytest.FixtureRequest, version: str) -> None:
    """A database that was brought up to date step by step is like one that was made now."""
    running: StoreServer = request.getfixturevalue(version)
    made, migrated = running.store(), running.running.database()

    assert postgresql_schema.VERSION == postgresql_schema.migrate(migrated)
    assert 0 == postgresql_schema.migrate(migrated)
    assert 0 == postgresql_schema.migrate(made)

    assert _objects(made) == _objects(migrated)
    assert len(_objects(made)) > 80
    with closing(PostgresqlStore(migrated, synced=False)) as store:
        assert 1 == store.epoch


def test_a_database_without_the_tables_is_no_trail(postgresql_18: StoreServer) -> None:
    """Who opens the wrong database is told so, and nothing is made there."""
    url = postgresql_18.running.database()

    with pytest.raises(NotATrail, match="found tables of layout 0, expected"):
        PostgresqlStore(url, synced=False)

    assert [] == _objects(url)


def test_tables_of_a_newer_version_are_not_touched(url: str) -> None:
    """An older program does not write what a newer one would read otherwise."""
    with closing(PostgresqlStore(url, synced=False)) as store:
        with connected(url) as connection:
            connection.execute("INSERT INTO indelible.migration VALUES (99, now())")

        with pytest.raises(UnsupportedVersion, match="found tables of layout 99"):
            PostgresqlStore(url, synced=False)
        with pytest.raises(UnsupportedVersion), store.write() as transaction:
            transaction.create(Head(log="user", origin=KEY.name))
        with pytest.raises(UnsupportedVersion):
            postgresql_schema.migrate(url)


def test_tables_are_made_once(url: str) -> None:
    """Nobody makes a trail over another."""
    with pytest.raises(StoreError, match="found tables of a trail already"):
        postgresql_schema.create(url)


# ---- Rights ----


@pytest.fixture
def as_role(url: str) -> Callable[[str, postgresql_schema.Right], str]:
    """Return what makes a role with some right, and returns the URL to connect as it."""

    def make(*rights: postgresql_schema.Right) -> str:
        with connected(url) as connection:
            (name,) = connection.execute(
                "SELECT 'role_' || replace(gen_random_uuid()::text, '-', '')"
            ).fetchone() or ("",)
            connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        for right in rights:
            postgresql_schema.grant(url, name, right)
        return psycopg.conninfo.make_conninfo(url, user=name)

    return make  # type: ignore[return-value]


def _custody(store: PostgresqlStore) -> None:
    with store.write() as transaction:
        transaction.create(Head(log="custody", origin=CUSTODY.name))


def test_who_ingests_can_add_and_read(
    opened: Callable[[], PostgresqlStore], as_role: Callable[..., str]
) -> None:
    """The right to record is enough to record, over the edges of tiles."""
    opened()

    with closing(PostgresqlStore(as_role("ingest"), synced=False)) as store:
        add(store, 200)
        add(store, 200)
        _custody(store)
        for value in (b"1", b"2", None):
            with store.write() as transaction:
                transaction.put("cursor", b"shop", value)

        assert 400 == size(store)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM indelible.block",
        "DELETE FROM indelible.vault",
        "DELETE FROM indelible.tile",
        "DELETE FROM indelible.segment",
        "DELETE FROM indelible.log",
        "DELETE FROM indelible.document",
        "UPDATE indelible.block SET data = ''",
        "UPDATE indelible.vault SET row = ''",
        "UPDATE indelible.tile SET leaves = ''",
        "UPDATE indelible.log SET first = 256",
        "UPDATE indelible.segment SET root = ''",
        "TRUNCATE indelible.vault",
        "DROP TABLE indelible.vault",
        "ALTER FUNCTION indelible.check_purge() RENAME TO other",
        "ALTER TABLE indelible.purge DISABLE TRIGGER ALL",
        "SELECT indelible.forget(1, 0, ARRAY[]::bigint[], ARRAY[]::bytea[])",
        "SELECT indelible.clear_tiles(0, 1)",
        "SELECT indelible.rewrite(1, 0)",
        "SELECT * FROM indelible_keyring.kek",
        "CREATE TABLE indelible.other (x int)",
    ],
)
def test_who_ingests_can_take_nothing_away(ingester: str, statement: str) -> None:
    """Whoever steals the connection that records can neither delete nor change what is kept."""
    with (
        connected(ingester) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def ingester(postgresql_18: StoreServer) -> str:
    """The URL to connect as who ingests."""
    url = postgresql_18.store()
    with connected(url) as connection:
        connection.execute("CREATE ROLE ingester LOGIN")
    postgresql_schema.grant(url, "ingester", "ingest")
    return psycopg.conninfo.make_conninfo(url, user="ingester")


def test_who_reads_can_only_read(
    opened: Callable[[], PostgresqlStore], as_role: Callable[..., str]
) -> None:
    """The right to read does not let anybody add an entry, or stop those who do."""
    add(opened(), 3)

    with closing(PostgresqlStore(as_role("read"), synced=False)) as store:
        assert 3 == size(store)
        with pytest.raises(StoreReadOnly):
            add(store)
        with pytest.raises(StoreReadOnly):
            store.take_over()


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_purge_that_is_not_recorded_does_not_happen(
    opened: Callable[[], PostgresqlStore], as_role: Callable[..., str], is_recorded: bool
) -> None:
    """The database itself commits no purge without an entry in the custody log."""
    _custody(opened())

    with closing(PostgresqlStore(as_role("ingest"), synced=False)) as store:
        add(store, 300)

        def purge() -> None:
            with store.write() as transaction:
                transaction.purge("user", 256)
                if is_recorded:
                    place(transaction, name="custody")

        if is_recorded:
            purge()
        else:
            with pytest.raises(StoreError, match="is purged without a custody entry"):
                purge()

        with store.read() as view:
            assert (256 if is_recorded else 0) == view.heads()["user"].first


def test_who_erases_leaves_nothing_in_the_files(
    opened: Callable[[], PostgresqlStore], as_role: Callable[..., str]
) -> None:
    """The right to erase is enough to forget values, and to write tables anew."""
    add(opened(), 300)

    with closing(PostgresqlStore(as_role("ingest", "erase"), synced=False)) as store:
        store.forget({"user": {3: Forgotten(), 299: Forgotten()}})

        with store.read() as view:
            assert [b"", b"row", b""] == view.rows("user", [3, 4, 299])


# ---- Forks ----


def test_both_sides_of_a_fork_go_on(opened: Callable[[], PostgresqlStore]) -> None:
    """No connection is shared with a child: parent and child write, each on its own."""
    store = opened()
    add(store, 5)

    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            add(store, 7)
            store.close()
            code = 0
        os._exit(code)
    add(store, 11)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    assert 23 == size(store)


def test_a_fork_waits_for_a_transaction(opened: Callable[[], PostgresqlStore]) -> None:
    """A child that is forked while another thread writes does not hold that thread's connection."""
    store = opened()
    began, forked = threading.Event(), threading.Event()
    order: list[str] = []

    def write() -> None:
        with store.write() as transaction:
            began.set()
            place(transaction)
            # Another connection of the same store, while a fork waits for this one.
            assert not forked.wait(0.2)
            with store.read() as view:
                assert 0 == view.heads()["user"].size
            order.append("written")

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    child = os.fork()
    if not child:
        os._exit(0)
    forked.set()
    order.append("forked")
    thread.join()
    os.waitpid(child, 0)

    assert ["written", "forked"] == order
    assert 1 == size(store)
