from __future__ import annotations

import threading
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest
import sqlalchemy
from psycopg import sql

from indelible.capture import MOST, SECRET, Tracked, exact, key_text
from indelible.context import Context, context
from indelible.errors import CallerError, InvalidEvent
from indelible.event import Actor, Client, Rationale, Service
from indelible.outbox import MOST_BYTES, MOST_ROWS, unpack
from indelible.outboxes import open_outbox, triggers
from indelible.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible import Event, Trail
    from tests.postgres import Server

Connection = psycopg.Connection[Any]

ALICE = Context(actor=Actor(type="user", id="alice"), session="s-1")
INVOICE = Tracked(type="invoice")


@pytest.fixture(params=["postgresql_16", "postgresql_18"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    found: Server = request.getfixturevalue(request.param)
    return found.database()


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    """A connection of the owner, with a table of invoices that is captured."""
    with psycopg.connect(url) as found:
        found.execute(
            "CREATE TABLE invoice (id int PRIMARY KEY, status text, total numeric(10, 2),"
            " CHECK (total >= 0))"
        )
        triggers.install(found, "invoice", tracked=INVOICE)
        found.commit()
        yield found


@pytest.fixture(scope="module")
def shared(postgresql_18: Server) -> Iterator[Connection]:
    """A connection for tests that differ in one value only, and roll back."""
    with psycopg.connect(postgresql_18.database()) as found:
        found.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
        found.execute("CREATE TYPE pair AS (x int, y text)")
        found.execute("CREATE DOMAIN cents AS int CHECK (VALUE >= 0)")
        found.execute("CREATE DOMAIN listing AS int[]")
        found.execute("CREATE TABLE invoice (id int PRIMARY KEY, status text, total numeric)")
        triggers.install(found, "invoice", tracked=INVOICE)
        found.commit()
        yield found


@pytest.fixture
def unchanged(shared: Connection) -> Iterator[Connection]:
    """The shared connection, in a transaction of this test."""
    yield shared
    shared.rollback()


def bodies(connection: Connection) -> list[str]:
    """Return what waits in the outbox."""
    found = connection.execute("SELECT body FROM indelible_outbox ORDER BY seq")
    return [body for (body,) in found]


def events(connection: Connection) -> list[Event]:
    """Take what waits in the outbox, as the events that the relay would record."""
    found = [event for body in bodies(connection) for event in unpack(body)]
    connection.execute("DELETE FROM indelible_outbox")
    return found


def told(event: Event) -> tuple[str, str, dict[str, Any]]:
    """Return action, id and changes of an event."""
    return (
        event.action,
        event.resource.id,
        {name: msgspec.to_builtins(change) for name, change in (event.changes or {}).items()},
    )


def test_raw_sql_is_captured_with_old_and_new_values(connection: Connection) -> None:
    """Whatever SQL a program sends, what it did to a row is known with the values the row held."""
    triggers.set_context(connection, ALICE)

    connection.execute("INSERT INTO invoice VALUES (7, 'draft', 1.5)")
    connection.execute("UPDATE invoice SET status = 'paid', total = total")
    connection.execute("DELETE FROM invoice")

    found = events(connection)
    assert [
        (
            "invoice.create",
            "7",
            {"id": {"new": 7}, "status": {"new": "draft"}, "total": {"new": "1.50"}},
        ),
        ("invoice.update", "7", {"status": {"old": "draft", "new": "paid"}}),
        (
            "invoice.delete",
            "7",
            {"id": {"old": 7}, "status": {"old": "paid"}, "total": {"old": "1.50"}},
        ),
    ] == [told(event) for event in found]
    assert [("user:alice", "s-1")] * 3 == [(str(e.actor), e.session) for e in found]


VALUES = [
    ("boolean", "true"),
    ("smallint", "-7"),
    ("bigint", "9223372036854775807"),
    ("oid", "4294967295"),
    ("numeric", "1.50"),
    ("numeric", "-0.00000012"),
    ("numeric", "0.0000012"),
    ("numeric", "0.00000000"),
    ("numeric", "123456789012345678901234567890.5"),
    ("numeric", "NaN"),
    ("numeric", "Infinity"),
    ("numeric", "-Infinity"),
    ("real", "0.1"),
    ("double precision", "1"),
    ("double precision", "0.1"),
    ("double precision", "1e300"),
    ("double precision", "-1.5e-7"),
    ("double precision", "NaN"),
    ("double precision", "Infinity"),
    ("double precision", "-Infinity"),
    ("text", ""),
    ("text", 'Grüße\n\t"quoted" \\ \x01'),
    ("text", "é" * MOST),
    ("text", "é" * (MOST + 1)),
    ("varchar(9)", "NaN"),
    ("char(5)", "ab"),
    ("name", "carol"),
    ("timestamptz", "2026-11-24 03:33:46.2153+02"),
    ("timestamptz", "2026-11-24 03:33:46+00"),
    ("timestamptz", "0001-01-01 00:00:00+00"),
    ("timestamp", "2026-11-24 03:33:46.000001"),
    ("timestamp", "9999-12-31 23:59:59"),
    ("date", "0099-02-28"),
    ("time", "23:59:59.5"),
    ("time", "00:00"),
    ("timetz", "10:11:12.25+02"),
    ("timetz", "10:11:12-05:30"),
    ("interval", "1 year 2 mons 3 days 04:05:06.789"),
    ("interval", "-1 day +02:03:04"),
    ("uuid", "019ab437-5fd7-7123-8abc-0123456789ab"),
    ("bytea", r"\x00ff10"),
    ("bytea", "\\x" + "ab" * 100),
    ("bytea", "\\x" + "ab" * (MOST + 1)),
    ("json", '{"b": [1, 2.5, null], "a": "x"}'),
    ("jsonb", '{"b": [1, 2.5, null, true], "a": {"c": "ü"}}'),
    ("jsonb", '"text"'),
    ("jsonb", '{"$bytes": "AAEC"}'),
    ("jsonb", '{"a": [{"$ref": 1}], "$b": 2}'),
    ("jsonb", "[36893488147419103232, -9223372036854775809, 18446744073709551615]"),
    ("jsonb", "[1e400]"),
    ("jsonb", "{}"),
    ("jsonb", '["' + "x" * MOST + '", 1]'),
    ("integer[]", "{1,NULL,3}"),
    ("integer[]", "{}"),
    ("integer[]", "{{1,2},{3,4},{5,6}}"),
    ("integer[]", "{{{1},{2}},{{3},{4}}}"),
    ("text[]", '{"a,b",NULL,"NULL"}'),
    ("text[]", "{" + "x" * (MOST - 2) + "}"),
    ("numeric[]", "{1.50,NaN}"),
    ("timestamptz[]", "{2026-11-24 03:33:46+02}"),
    ("bytea[]", '{"\\\\x00"}'),
    ("integer", None),
    ("jsonb", None),
    ("text[]", None),
    ("point", None),
    ("interval", None),
    ("numeric", None),
]


def test_a_value_is_what_python_would_have_written(connection: Connection) -> None:
    """A change that a trigger saw and one that an ORM saw are told alike, type by type."""
    columns = [f"c{number}" for number in range(len(VALUES))]
    kinds = ", ".join(f"{c} {kind}" for c, (kind, _) in zip(columns, VALUES, strict=True))
    connection.execute(f"CREATE TABLE thing (id int PRIMARY KEY, {kinds})")
    triggers.install(connection, "thing", tracked=Tracked(type="thing"))
    connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    connection.execute("SET DateStyle = 'German'")
    connection.execute("SET IntervalStyle = 'iso_8601'")
    connection.execute("SET extra_float_digits = 0")

    connection.execute(
        f"INSERT INTO thing VALUES (1, {', '.join('%s' for _ in VALUES)})",
        [value for _, value in VALUES],
    )

    connection.execute("SET DateStyle = 'ISO'")
    connection.execute("SET IntervalStyle = 'postgres'")
    connection.execute("SET extra_float_digits = 1")
    row = connection.execute(f"SELECT {', '.join(columns)} FROM thing").fetchone()
    assert row is not None
    expected = {c: exact(value) for c, value in zip(columns, row, strict=True)}
    (event,) = events(connection)
    assert event.changes is not None
    found = {c: event.changes[c].new for c in columns}
    assert [
        (kind, msgspec.json.encode(expected[c], order="sorted"))
        for c, (kind, _) in zip(columns, VALUES, strict=True)
    ] == [
        (kind, msgspec.json.encode(found[c], order="sorted"))
        for c, (kind, _) in zip(columns, VALUES, strict=True)
    ]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("inet", "192.0.2.1", "192.0.2.1"),
        ("int4range", "[1,5)", "[1,5)"),
        ("point", "(1,2)", "(1,2)"),
        ("mood", "sad", "sad"),
        ("mood[]", "{sad,ok}", ["sad", "ok"]),
        ("pair", "(,)", "(,)"),
        ("pair", '(1,"a b")', '(1,"a b")'),
        ("cents", "12", 12),
        ("cents[]", "{1,2}", [1, 2]),
        ("listing", "{1,2}", [1, 2]),
        ("date", "infinity", "infinity"),
        ("timestamptz", "-infinity", "-infinity"),
        ("timestamp", "20000-01-01", "20000-01-01 00:00:00"),
        ("timestamp", "0044-03-15 BC", "0044-03-15 00:00:00 BC"),
        ("json", r'{"a": "\u0000"}', r'{"a": "\u0000"}'),
        ("json", '{"a": 1e1000000}', '{"a": 1e1000000}'),
    ],
)
def test_a_value_that_python_does_not_read_is_a_text(
    unchanged: Connection, kind: str, value: str, expected: object
) -> None:
    """A type without a counterpart is told as PostgreSQL shows it, and never stops a statement."""
    unchanged.execute(f"CREATE TABLE thing (id int PRIMARY KEY, c {kind})")
    triggers.install(unchanged, "thing", tracked=Tracked(type="thing"))

    unchanged.execute(f"INSERT INTO thing VALUES (1, NULL), (2, '{value}')")
    unchanged.execute(f"UPDATE thing SET c = '{value}'")
    unchanged.execute("DELETE FROM thing")

    assert [
        ("thing.create", "1", {"id": {"new": 1}, "c": {"new": None}}),
        ("thing.create", "2", {"id": {"new": 2}, "c": {"new": expected}}),
        ("thing.update", "1", {"c": {"old": None, "new": expected}}),
        ("thing.delete", "2", {"id": {"old": 2}, "c": {"old": expected}}),
        ("thing.delete", "1", {"id": {"old": 1}, "c": {"old": expected}}),
    ] == sorted((told(e) for e in events(unchanged)), key=_by_action)


def _by_action(found: tuple[str, str, dict[str, Any]]) -> tuple[int, int]:
    verb = found[0].partition(".")[2]
    number = int(found[1])
    return ["create", "update", "delete"].index(verb), -number if verb == "delete" else number


def test_a_nested_json_keeps_within_what_an_entry_takes(connection: Connection) -> None:
    """JSON of any depth is captured; what is too deep is shown cut off."""
    connection.execute("CREATE TABLE thing (id int PRIMARY KEY, c jsonb)")
    triggers.install(connection, "thing", tracked=Tracked(type="thing"))

    connection.execute(
        "INSERT INTO thing VALUES (1, %s::jsonb), (2, %s::jsonb)",
        ("[" * 31 + "]" * 31, "[" * 500 + "]" * 500),
    )

    kept, cut = events(connection)
    assert kept.changes is not None
    assert cut.changes is not None
    assert "[" * 31 + "]" * 31 == msgspec.json.encode(kept.changes["c"].new).decode()
    assert b'{"$repr":' in msgspec.json.encode(cut.changes["c"].new)


def test_a_statement_over_many_rows_is_few_rows_of_the_outbox(connection: Connection) -> None:
    """A bulk statement is captured row by row without a cost for each in the outbox."""
    rows = MOST_ROWS * 2 + 1

    counts = []
    for statement in (
        f"INSERT INTO invoice SELECT n, 'draft', n FROM generate_series(1, {rows}) AS n",
        "UPDATE invoice SET status = 'paid'",
        "DELETE FROM invoice",
    ):
        connection.execute(statement)
        waiting = bodies(connection)
        found = events(connection)
        counts.append((len(waiting), len({event.id for event in found})))
        assert {str(n) for n in range(1, rows + 1)} == {event.resource.id for event in found}

    assert [(3, rows)] * 3 == counts


def test_long_rows_are_split_by_their_size(connection: Connection) -> None:
    """No row of the outbox outgrows its bound, so that a relay can always read it."""
    connection.execute(
        "INSERT INTO invoice SELECT n, repeat(chr(233), 8000), 1 FROM generate_series(1, 600) AS n"
    )

    waiting = bodies(connection)

    assert 600 == sum(len(unpack(body)) for body in waiting)
    assert MOST_BYTES > max(len(body.encode()) for body in waiting)


def test_copy_is_captured(connection: Connection) -> None:
    """Rows that are loaded from a file are in the trail as those that are inserted."""
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY invoice (id, status, total) FROM STDIN") as copy,
    ):
        for number in (1, 2, 3):
            copy.write_row((number, "draft", Decimal(number)))

    assert ["1", "2", "3"] == [event.resource.id for event in events(connection)]


def test_an_upsert_is_told_as_what_it_did(connection: Connection) -> None:
    """An upsert is a creation for the rows it inserted, and an update for those it changed."""
    connection.execute("INSERT INTO invoice VALUES (1, 'draft', 1), (2, 'draft', 2)")
    events(connection)

    connection.execute(
        "INSERT INTO invoice VALUES (1, 'paid', 1), (2, 'draft', 2), (3, 'new', 3)"
        " ON CONFLICT (id) DO UPDATE SET status = excluded.status"
    )

    assert [
        (
            "invoice.create",
            "3",
            {"id": {"new": 3}, "status": {"new": "new"}, "total": {"new": "3.00"}},
        ),
        ("invoice.update", "1", {"status": {"old": "draft", "new": "paid"}}),
    ] == sorted((told(event) for event in events(connection)), key=lambda found: found[0])


def test_a_merge_is_told_as_what_it_did(connection: Connection) -> None:
    """MERGE is told branch by branch."""
    connection.execute("INSERT INTO invoice VALUES (1, 'draft', 1), (2, 'draft', 2)")
    events(connection)

    connection.execute(
        "MERGE INTO invoice USING (VALUES (1, 'paid'), (2, 'gone'), (3, 'new')) AS s (id, status)"
        " ON invoice.id = s.id"
        " WHEN MATCHED AND s.status = 'gone' THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET status = s.status"
        " WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.status, 0)"
    )

    assert {("invoice.create", "3"), ("invoice.delete", "2"), ("invoice.update", "1")} == {
        told(event)[:2] for event in events(connection)
    }


def test_a_cascade_is_captured(connection: Connection) -> None:
    """What a foreign key deletes or clears is told, though no statement names it."""
    connection.execute(
        "CREATE TABLE line (id int PRIMARY KEY,"
        " invoice int REFERENCES invoice ON DELETE CASCADE ON UPDATE CASCADE)"
    )
    triggers.install(connection, "line", tracked=Tracked(type="line"))
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    connection.execute("INSERT INTO line VALUES (10, 1), (11, 1)")
    events(connection)

    connection.execute("DELETE FROM invoice")

    assert [("invoice.delete", "1"), ("line.delete", "10"), ("line.delete", "11")] == sorted(
        told(event)[:2] for event in events(connection)
    )


def test_what_a_trigger_before_changed_is_what_is_told(connection: Connection) -> None:
    """The values told are those that the database holds, not those that the statement named."""
    connection.execute(
        "CREATE FUNCTION upper_status() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.status := upper(NEW.status); RETURN NEW; END $$"
    )
    connection.execute(
        "CREATE TRIGGER first BEFORE INSERT ON invoice FOR EACH ROW EXECUTE FUNCTION upper_status()"
    )

    connection.execute("INSERT INTO invoice VALUES (1, 'draft', 1)")

    (event,) = events(connection)
    assert "DRAFT" == told(event)[2]["status"]["new"]


def test_partitions_are_captured_once(connection: Connection) -> None:
    """A row of a partitioned table is told once, whichever table the statement names."""
    connection.execute(
        "CREATE TABLE sale (id int, year int, PRIMARY KEY (id, year)) PARTITION BY RANGE (year)"
    )
    connection.execute("CREATE TABLE sale_25 PARTITION OF sale FOR VALUES FROM (2025) TO (2026)")
    connection.execute("CREATE TABLE sale_26 (year int NOT NULL, id int NOT NULL)")
    connection.execute("ALTER TABLE sale ATTACH PARTITION sale_26 FOR VALUES FROM (2026) TO (2027)")
    triggers.install(connection, "sale", tracked=Tracked(type="sale"))

    connection.execute("INSERT INTO sale VALUES (1, 2025), (2, 2026)")
    connection.execute("INSERT INTO sale_26 VALUES (2026, 3)")
    connection.execute("UPDATE sale SET year = 2026 WHERE id = 1")
    connection.execute("DELETE FROM sale WHERE id = 3")
    connection.execute("TRUNCATE sale_26")
    connection.execute("TRUNCATE sale")

    assert [
        ("sale.create", "1,2025"),
        ("sale.create", "2,2026"),
        ("sale.create", "3,2026"),
        ("sale.delete", "1,2025"),
        ("sale.create", "1,2026"),
        ("sale.delete", "3,2026"),
        ("sale.truncate", "*/sale_26"),
    ] == [told(event)[:2] for event in events(connection)][:7]
    assert ["sale", "sale_25", "sale_26"] == [
        found.table for found in triggers.installed(connection) if found.tracked.type == "sale"
    ]


def test_truncate_is_one_event(connection: Connection) -> None:
    """A table that is emptied at once is told as that; which rows it had nobody reads."""
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1), (2, 'b', 2)")
    events(connection)

    connection.execute("TRUNCATE invoice")

    assert [("invoice.truncate", "*", {})] == [told(event) for event in events(connection)]


def test_an_update_that_changes_nothing_is_no_event(connection: Connection) -> None:
    """The trail is not filled with writes that left every value as it was."""
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1), (2, NULL, NULL)")
    events(connection)

    connection.execute("UPDATE invoice SET status = status, total = total * 1.0")
    connection.execute("UPDATE invoice SET status = 'b' WHERE id = 3")
    connection.execute("DELETE FROM invoice WHERE id = 3")

    assert [] == bodies(connection)


def test_a_row_that_gets_another_key_is_told_as_gone_and_come(connection: Connection) -> None:
    """A resource is known by its key: under a new key it is another, with all its values."""
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1), (2, 'b', 2)")
    events(connection)

    connection.execute("UPDATE invoice SET id = id + 1 WHERE id = 2")
    connection.execute("UPDATE invoice SET id = 9, status = 'c' WHERE id = 1")

    found = [told(event) for event in events(connection)]
    assert [
        ("invoice.delete", "2"),
        ("invoice.create", "3"),
        ("invoice.delete", "1"),
        ("invoice.create", "9"),
    ] == [each[:2] for each in found]
    assert {
        "id": {"old": 1},
        "status": {"old": "a"},
        "total": {"old": "1.00"},
    } == found[2][2]
    assert {"new": "c"} == found[3][2]["status"]


def test_secret_and_excluded_fields_stay_out(connection: Connection) -> None:
    """Of a secret no more than that it changed is kept, and of an excluded field nothing."""
    connection.execute("CREATE TABLE account (id int PRIMARY KEY, password text, seen int, n int)")
    triggers.install(
        connection,
        "account",
        tracked=Tracked(
            type="account", secret=frozenset({"password"}), exclude=frozenset({"seen"})
        ),
    )

    connection.execute("INSERT INTO account VALUES (1, 'hunter2', 1, 1)")
    connection.execute("UPDATE account SET password = 'hunter3', seen = 2")
    connection.execute("UPDATE account SET seen = 3")
    connection.execute("DELETE FROM account")

    assert "hunter" not in "".join(bodies(connection))
    assert [
        ("account.create", "1", {"id": {"new": 1}, "password": {"new": SECRET}, "n": {"new": 1}}),
        ("account.update", "1", {"password": {"old": SECRET, "new": SECRET}}),
        ("account.delete", "1", {"id": {"old": 1}, "password": {"old": SECRET}, "n": {"old": 1}}),
    ] == [told(event) for event in events(connection)]


def test_a_column_is_called_as_the_orm_calls_it(connection: Connection) -> None:
    """A field has one name in the trail, whichever way its change came."""
    connection.execute("CREATE TABLE note (id int PRIMARY KEY, owner_id int)")
    triggers.install(
        connection,
        "note",
        tracked=Tracked(type="note", exclude=frozenset({"id"})),
        names={"owner_id": 'the "owner"'},
    )

    connection.execute("INSERT INTO note VALUES (1, 7)")
    connection.execute("UPDATE note SET owner_id = 8")

    assert [
        ("note.create", "1", {'the "owner"': {"new": 7}}),
        ("note.update", "1", {'the "owner"': {"old": 7, "new": 8}}),
    ] == [told(event) for event in events(connection)]
    assert [{}, {"owner_id": 'the "owner"'}] == [
        found.names for found in triggers.installed(connection)
    ]


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        (["int", "text"], [7, "a,b%c"]),
        (["text"], [""]),
        (["text"], ["a,b%"]),
        (["uuid", "date"], ["019ab437-5fd7-7123-8abc-0123456789ab", "2026-11-24"]),
        (["bytea"], [b"\0\1"]),
        (["numeric", "boolean"], [Decimal("1.50"), True]),
        (["double precision"], [2.0]),
        (["timestamptz"], ["2026-11-24T03:33:46.5Z"]),
    ],
)
def test_an_id_is_what_python_would_have_written(
    unchanged: Connection, kinds: list[str], values: list[Any]
) -> None:
    """A resource has one id, whichever way its change came."""
    columns = ", ".join(f"k{number} {kind}" for number, kind in enumerate(kinds))
    names = ", ".join(f"k{number}" for number in range(len(kinds)))
    unchanged.execute(f"CREATE TABLE thing ({columns}, PRIMARY KEY ({names}))")
    triggers.install(unchanged, "thing", tracked=Tracked(type="thing"))

    unchanged.execute(f"INSERT INTO thing VALUES ({', '.join('%s' for _ in kinds)})", values)

    row = unchanged.execute(f"SELECT {names} FROM thing").fetchone()
    assert row is not None
    assert [key_text(row)] == [event.resource.id for event in events(unchanged)]


def test_a_long_key_is_an_id_still(connection: Connection) -> None:
    """Whatever a key holds, its row has an id that an event may have."""
    connection.execute("CREATE TABLE thing (k text PRIMARY KEY, n int)")
    triggers.install(connection, "thing", tracked=Tracked(type="thing"))

    connection.execute("INSERT INTO thing VALUES (repeat('é', 901), 1), (repeat('é', 900), 1)")
    connection.execute("UPDATE thing SET n = 2")

    long, whole, *updates = events(connection)
    assert long.resource.id.startswith('{"$sha256":')
    assert "é" * 900 == whole.resource.id
    assert {long.resource.id, whole.resource.id} == {event.resource.id for event in updates}


def test_a_column_may_be_called_anything(connection: Connection) -> None:
    """Names of tables and columns are taken as names, never as SQL."""
    table = "x\"; DROP TABLE invoice; --%s $$ 'quoted' Ü.t"
    columns = ["old", 'n."a"', "50% 'off'", "number", "form", "$1", "u", "c1", "%I%s{}", "r", 'o"']
    connection.execute(
        sql.SQL("CREATE TABLE {} ({} int, {}, PRIMARY KEY ({}, {}))").format(
            sql.Identifier(table),
            sql.Identifier("the key"),
            sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(c)) for c in columns),
            sql.Identifier("the key"),
            sql.Identifier("50% 'off'"),
        )
    )
    triggers.install(connection, table, tracked=Tracked(type="odd", secret=frozenset({"u"})))
    name = sql.Identifier(table)
    values = [c.upper() for c in columns]

    connection.execute(
        sql.SQL("INSERT INTO {} VALUES (1, {})").format(
            name, sql.SQL(", ").join(map(sql.Literal, values))
        )
    )
    connection.execute(sql.SQL("UPDATE {} SET number = 'n'").format(name))
    connection.execute(sql.SQL("DELETE FROM {}").format(name))

    came, changed, gone = (told(event) for event in events(connection))
    expected = dict(zip(columns, values, strict=True)) | {"u": SECRET, "the key": 1}
    assert expected == {name: change["new"] for name, change in came[2].items()}
    assert {"number": {"old": "NUMBER", "new": "n"}} == changed[2]
    assert expected | {"number": "n"} == {name: each["old"] for name, each in gone[2].items()}
    assert "1,50%25 'OFF'" == came[1] == changed[1] == gone[1]
    assert triggers.remove(connection, table)


def test_a_table_that_is_altered_is_captured_as_it_is(connection: Connection) -> None:
    """A migration needs not think of the triggers: new columns are told, secrets stay secret."""
    connection.execute("CREATE TABLE account (dropped int, id int PRIMARY KEY, password text)")
    triggers.install(
        connection, "account", tracked=Tracked(type="account", secret=frozenset({"password"}))
    )

    connection.execute("ALTER TABLE account ADD COLUMN email text DEFAULT 'none'")
    connection.execute("INSERT INTO account VALUES (0, 1, 'hunter2')")
    connection.execute("ALTER TABLE account RENAME COLUMN password TO passphrase")
    connection.execute("ALTER TABLE account DROP COLUMN dropped")
    connection.execute("UPDATE account SET passphrase = 'hunter3', email = 'a@example.com'")
    connection.execute("ALTER TABLE account DROP COLUMN id")
    connection.execute("UPDATE account SET email = 'b@example.com'")

    assert "hunter" not in "".join(bodies(connection))
    created, updated, lost = (told(event) for event in events(connection))
    assert {"new": "none"} == created[2]["email"]
    assert {
        "passphrase": {"old": SECRET, "new": SECRET},
        "email": {"old": "none", "new": "a@example.com"},
    } == updated[2]
    assert ("*", {"email": {"old": "a@example.com", "new": "b@example.com"}}) == lost[1:]


def test_a_column_that_follows_from_others_is_told_where_it_is_kept(
    connection: Connection,
) -> None:
    """A generated column that is stored is a value of the row, and told."""
    connection.execute(
        "CREATE TABLE thing (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2)"
        " STORED)"
    )
    triggers.install(connection, "thing", tracked=Tracked(type="thing"))

    connection.execute("INSERT INTO thing VALUES (1, 1)")
    connection.execute("UPDATE thing SET n = 2")

    _, updated = (told(event) for event in events(connection))
    assert {"n": {"old": 1, "new": 2}, "twice": {"old": 2, "new": 4}} == updated[2]


def test_a_virtual_column_does_not_disturb(postgresql_18: Server) -> None:
    """A generated column that is nowhere stored is left out."""
    with psycopg.connect(postgresql_18.database()) as connection:
        connection.execute(
            "CREATE TABLE thing (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2))"
        )
        triggers.install(connection, "thing", tracked=Tracked(type="thing"))

        connection.execute("INSERT INTO thing VALUES (1, 1)")
        connection.execute("UPDATE thing SET n = 2")

        created, updated = (told(event) for event in events(connection))
        assert {"id": {"new": 1}, "n": {"new": 1}} == created[2]
        assert {"n": {"old": 1, "new": 2}} == updated[2]


def test_a_statement_that_fails_leaves_no_event(connection: Connection) -> None:
    """What was not done is not told, also where a savepoint saves the rest."""
    triggers.set_context(connection, ALICE)
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
        connection.execute("UPDATE invoice SET total = 5")
        connection.execute("UPDATE invoice SET total = -1")
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("INSERT INTO invoice VALUES (2, 'b', 1), (1, 'b', 1)")

    connection.commit()

    assert [("invoice.create", "1")] == [told(event)[:2] for event in events(connection)]


def test_a_change_that_cannot_be_told_does_not_happen(connection: Connection, url: str) -> None:
    """Where the outbox cannot be written, the application's change is rolled back."""
    connection.execute("ALTER TABLE indelible_outbox ADD CHECK (length(body) < 10)")
    connection.commit()

    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    connection.rollback()

    with psycopg.connect(url) as other:
        assert (0,) == other.execute("SELECT count(*) FROM invoice").fetchone()


def test_the_context_lasts_until_its_savepoint_is_rolled_back(connection: Connection) -> None:
    """Who acts is named once a transaction, and again after a savepoint was rolled back."""
    bob = Context(actor=Actor(type="user", id="bob"))
    triggers.set_context(connection, ALICE)
    connection.execute("SAVEPOINT one")
    triggers.set_context(connection, bob)
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    connection.execute("SAVEPOINT two")
    connection.execute("ROLLBACK TO SAVEPOINT two")
    connection.execute("INSERT INTO invoice VALUES (2, 'a', 1)")
    connection.execute("ROLLBACK TO SAVEPOINT one")
    connection.execute("INSERT INTO invoice VALUES (3, 'a', 1)")
    triggers.set_context(connection, bob)
    connection.execute("INSERT INTO invoice VALUES (4, 'a', 1)")
    connection.commit()
    connection.execute("INSERT INTO invoice VALUES (5, 'a', 1)")

    assert [
        ("3", "user:alice"),
        ("4", "user:bob"),
        ("5", "unknown:postgresql:postgres"),
    ] == [(event.resource.id, str(event.actor)) for event in events(connection)]


def test_the_work_in_progress_is_the_context(connection: Connection) -> None:
    """Without a word more the triggers are told who acts in the request under way."""
    with context(
        actor=Actor(type="user", id="alice", name="Älice", roles=("admin",)),
        rationale=Rationale(text="it's due"),
        client=Client(ip="192.0.2.1"),
        tenant="t",
    ):
        triggers.set_context(connection)
        connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")

    (event,) = events(connection)
    assert (Actor(type="user", id="alice", name="Älice", roles=("admin",)), "it's due", "t") == (
        event.actor,
        event.rationale.text if event.rationale else None,
        event.tenant,
    )


def test_without_a_context_the_database_role_is_what_is_known(url: str) -> None:
    """Who it was at a psql prompt is unknown, but not under which role and from which program."""
    with psycopg.connect(url, application_name="psql") as connection:
        connection.execute("CREATE TABLE invoice (id int PRIMARY KEY)")
        triggers.install(connection, "invoice", tracked=INVOICE)

        connection.execute("INSERT INTO invoice VALUES (1)")

        (event,) = events(connection)
        assert Actor(type="unknown", id="postgresql:postgres") == event.actor
        assert Service(name="psql") == event.service


@pytest.mark.parametrize(
    "setting",
    [
        "no JSON",
        "[]",
        '"user:alice"',
        "null",
        '{"actor": "user:alice"}',
        '{"actor": {"type": "user"}}',
        '{"actor": {"type": "boss", "id": "x"}}',
        '{"actor": {"type": "user", "id": ""}}',
        '{"actor": {"type": "user", "id": "a", "roles": "admin"}}',
        '{"actor": {"type": "user", "id": "a", "roles": [1]}}',
        '{"actor": {"type": "user", "id": "a", "asserted": 1}}',
        '{"actor": {"type": "user", "id": "a", "on_behalf_of": {"type": "user"}}}',
        '{"session": 5}',
        '{"tenant": ""}',
        '{"client": "192.0.2.1"}',
        '{"client": {"ip": 5}}',
        '{"rationale": {}}',
        '{"trace": {"span_id": "x"}}',
        '{"service": {"name": null}}',
        '{"approval": {"n": 0, "distinct": true}}',
        '{"approval": {"n": 1}}',
        '{"actor": ' * 100 + "1" + "}" * 100,
        '{"actor": ' + '{"type": "system", "on_behalf_of": ' * 40 + "null" + "}" * 41,
    ],
)
def test_a_context_that_is_none_never_breaks_the_statement(
    unchanged: Connection, setting: str
) -> None:
    """A setting that means nothing costs the name of the actor, and neither change nor event."""
    unchanged.execute("SELECT set_config('indelible.context', %s, true)", (setting,))

    unchanged.execute("INSERT INTO invoice VALUES (1, 'a', 1)")

    (event,) = events(unchanged)
    assert "unknown:postgresql:postgres" == str(event.actor)


@pytest.mark.parametrize(
    "setting",
    [
        "{}",
        '{"actor": null, "session": null, "client": null, "rationale": null}',
        '{"actor": {"type": "anonymous"}}',
        '{"actor": {"type": "user", "id": "a", "on_behalf_of": {"type": "system"}}, "more": 1}',
        '{"approval": {"n": 2, "distinct": true, "approvers": ["user:bob"], "reference": "R"}}',
        '{"trace": {"trace_id": "t", "span_id": "s"}, "service": {"name": "n", "version": "1"}}',
        '{"rationale": {"text": "t", "code": "c", "reference": "r"}, "client": {"ip": "::1"}}',
    ],
)
def test_any_context_is_taken_as_it_is(unchanged: Connection, setting: str) -> None:
    """What the application told of itself reaches the trail unchanged."""
    unchanged.execute("SELECT set_config('indelible.context', %s, true)", (setting,))

    unchanged.execute("INSERT INTO invoice VALUES (1, 'a', 1)")

    (body,) = bodies(unchanged)
    assert msgspec.json.decode(setting) == msgspec.json.decode(body)["context"]
    assert 1 == len(unpack(body))


def test_who_captures_elsewhere_switches_the_triggers_off(connection: Connection) -> None:
    """What an ORM has captured is not told twice, and what comes after is told again."""
    with triggers.switched_off(connection):
        with triggers.switched_off(connection):
            pass
        connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    connection.execute("INSERT INTO invoice VALUES (2, 'a', 1)")
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        connection.transaction(),
        triggers.switched_off(connection),
    ):
        connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    connection.execute("INSERT INTO invoice VALUES (3, 'a', 1)")
    with pytest.raises(KeyError), triggers.switched_off(connection):
        raise KeyError
    connection.execute("INSERT INTO invoice VALUES (4, 'a', 1)")

    assert ["2", "3", "4"] == [event.resource.id for event in events(connection)]


@pytest.fixture
def clerk(connection: Connection, url: str) -> Iterator[Connection]:
    """A connection of a role that may write invoices, and has no right on the outbox."""
    connection.execute("SELECT pg_advisory_xact_lock(1)")
    name = connection.info.dbname.replace("test", "clerk")
    role = sql.Identifier(name)
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    connection.execute(
        sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON invoice TO {}").format(role)
    )
    connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(role))
    connection.commit()
    with psycopg.connect(url) as found:
        found.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(role))
        yield found


def test_a_role_without_rights_on_the_outbox_is_captured(
    connection: Connection, clerk: Connection
) -> None:
    """Who may change a table can neither read nor write the outbox, and is in it all the same."""
    clerk.execute("CREATE TEMP TABLE indelible_outbox (body text)")
    clerk.execute("CREATE TEMP TABLE new_rows (id int)")
    clerk.execute(
        "CREATE FUNCTION public.to_json(text) RETURNS json LANGUAGE sql AS 'SELECT NULL::json'"
    )
    clerk.execute("SET search_path = pg_temp, public, pg_catalog")
    clerk.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    clerk.execute("UPDATE invoice SET status = 'b'")
    clerk.execute("DELETE FROM invoice")
    clerk.execute("TRUNCATE invoice")
    clerk.commit()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        clerk.execute("SELECT * FROM public.indelible_outbox")
    clerk.rollback()

    found = events(connection)

    assert ["create", "update", "delete", "truncate"] == [e.action.split(".")[1] for e in found]
    assert [f"unknown:postgresql:{clerk.info.dbname.replace('test', 'clerk')}"] * 4 == [
        str(event.actor) for event in found
    ]


def test_a_role_without_rights_on_the_outbox_cannot_switch_it_off(
    connection: Connection, clerk: Connection
) -> None:
    """Only who could write anything into the outbox is believed, or can keep something out."""
    triggers.set_context(clerk, ALICE)
    with triggers.switched_off(clerk):
        clerk.execute("INSERT INTO invoice VALUES (1, 'a', 1)")
    clerk.commit()

    (event,) = events(connection)

    assert Actor(type="user", id="alice", asserted=True) == event.actor


def test_nobody_writes_into_the_outbox_by_a_table_of_their_own(
    connection: Connection, clerk: Connection
) -> None:
    """The right to create tables is no right to put events into the trail."""
    function = connection.execute(
        "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'indelible_insert'"
    ).fetchone()
    assert function is not None
    clerk.execute("CREATE TABLE forged (id int)")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        clerk.execute(
            "CREATE TRIGGER t AFTER INSERT ON forged REFERENCING NEW TABLE AS new_rows"
            f" EXECUTE FUNCTION {function[0]}()"
        )


def test_writers_at_the_same_time_each_have_their_own_truth(
    connection: Connection, url: str
) -> None:
    """Old and new values of writers that wait for each other make one unbroken chain."""
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 0)")
    connection.commit()
    events(connection)
    connection.commit()
    start = threading.Barrier(4)

    def write(actor: str) -> None:
        with psycopg.connect(url) as own:
            start.wait()
            for _ in range(25):
                triggers.set_context(own, Context(actor=Actor(type="user", id=actor)))
                own.execute("UPDATE invoice SET total = total + 1")
                own.commit()

    threads = [threading.Thread(target=write, args=(f"u{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = events(connection)
    steps = sorted(
        (Decimal(change["old"]), Decimal(change["new"]))
        for change in (told(event)[2]["total"] for event in found)
    )
    assert [(Decimal(n), Decimal(n + 1)) for n in range(100)] == steps
    assert {f"user:u{n}": 25 for n in range(4)} == {
        actor: sum(str(event.actor) == actor for event in found)
        for actor in sorted({str(event.actor) for event in found})
    }


def test_the_relay_brings_it_into_the_trail(connection: Connection, url: str, trail: Trail) -> None:
    """What raw SQL did is in the trail, with the time at which it was done."""
    triggers.set_context(connection, ALICE)
    connection.execute("INSERT INTO invoice SELECT n, 'draft', n FROM generate_series(1, 600) AS n")
    connection.execute("UPDATE invoice SET status = 'paid' WHERE id = 7")
    connection.execute("TRUNCATE invoice")
    now = connection.execute("SELECT clock_timestamp()").fetchone()
    connection.commit()

    with closing(open_outbox(url)) as outbox:
        done = Relay(trail, outbox).drain()

    assert (4, 602, 0) == (done.rows, done.events, done.quarantined)
    found = [entry.event for entry in trail.history("invoice:7")]
    assert ["invoice.create", "invoice.update"] == [event.action for event in found]
    assert now is not None
    assert timedelta(seconds=60) > now[0] - found[1].occurred_at >= timedelta(0)


def test_what_is_installed_can_be_listed_replaced_and_removed(connection: Connection) -> None:
    """Which tables are captured, and of which fields, can be read from the database."""
    connection.execute("CREATE SCHEMA shop")
    connection.execute("CREATE TABLE shop.invoice (no text PRIMARY KEY, a int, b int, c int)")
    tracked = Tracked(
        type="shop.invoice",
        exclude=frozenset({"a"}),
        secret=frozenset({"b"}),
        personal=frozenset({"c"}),
    )
    for _ in range(2):
        triggers.install(connection, "invoice", schema="shop", tracked=tracked)

    found = triggers.installed(connection)
    removed = [triggers.remove(connection, "invoice") for _ in range(2)]
    connection.execute("INSERT INTO invoice VALUES (1, 'a', 1)")

    assert [
        triggers.Installed(
            schema="public", table="invoice", tracked=INVOICE, key=("id",), names={}
        ),
        triggers.Installed(schema="shop", table="invoice", tracked=tracked, key=("no",), names={}),
    ] == found
    assert [True, False] == removed
    assert found[1:] == triggers.installed(connection)
    assert [] == bodies(connection)
    assert (1,) == connection.execute(
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture_%'"
    ).fetchone()


def test_a_migration_of_sqlalchemy_installs_them(url: str) -> None:
    """The connection under SQLAlchemy's, as Alembic has it, is one to install with."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as bind:
        bind.execute(sqlalchemy.text("CREATE TABLE invoice (id int PRIMARY KEY)"))
        triggers.install(bind.connection, "invoice", tracked=INVOICE)
        triggers.set_context(bind.connection, ALICE)
        bind.execute(sqlalchemy.text("INSERT INTO invoice VALUES (1)"))
        with triggers.switched_off(bind.connection):
            bind.execute(sqlalchemy.text("INSERT INTO invoice VALUES (2)"))
    engine.dispose()

    with psycopg.connect(url) as connection:
        assert [("invoice:1", "user:alice")] == [
            (str(event.resource), str(event.actor)) for event in events(connection)
        ]


def test_a_plan_for_one_row_serves_for_many(connection: Connection) -> None:
    """A session that began with small statements is not slowed down by a large one."""
    for n in range(-8, 0):
        connection.execute("INSERT INTO invoice VALUES (%s, 'a', 1)", (n,))
        connection.execute("UPDATE invoice SET status = 'b' WHERE id = %s", (n,))
    events(connection)
    connection.execute("SET LOCAL statement_timeout = '20s'")

    connection.execute("INSERT INTO invoice SELECT n, 'a', 1 FROM generate_series(1, 20000) AS n")
    connection.execute("UPDATE invoice SET status = 'c'")

    assert 40_008 == len(events(connection))


def test_where_nothing_is_installed_nothing_is_removed(url: str) -> None:
    """Asking a database without triggers for them is no error."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE invoice (id int PRIMARY KEY)")

        assert not triggers.remove(connection, "invoice")
        assert [] == triggers.installed(connection)


def test_another_key_needs_a_unique_index(connection: Connection) -> None:
    """The id of a resource is what tells its rows apart."""
    connection.execute("CREATE TABLE thing (a int, b int, c int, UNIQUE (a, b))")
    connection.execute("CREATE UNIQUE INDEX ON thing (c) WHERE c > 0")

    triggers.install(connection, "thing", tracked=Tracked(type="thing"), key=["b", "a"])
    connection.execute("INSERT INTO thing VALUES (1, NULL, 3)")

    assert ["null,1"] == [event.resource.id for event in events(connection)]
    with pytest.raises(CallerError, match="no unique index of just c"):
        triggers.install(connection, "thing", tracked=Tracked(type="thing"), key=["c"])


@pytest.mark.parametrize(
    ("table", "fields", "error"),
    [
        ("loose", {}, "loose: found no primary key"),
        ("absent", {}, "found none called 'absent'"),
        ("shown", {}, "found that 'shown' is none"),
        ("invoice", {"exclude": frozenset({"nothing"})}, "invoice: found no column 'nothing'"),
        ("invoice", {"secret": frozenset({"Status"})}, "invoice: found no column 'Status'"),
        ("invoice", {"secret": frozenset({"id"})}, "invoice: found the secret 'id' in its key"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    connection: Connection, table: str, fields: dict[str, Any], error: str
) -> None:
    """A table that could only be captured by halves is refused, by name."""
    connection.execute("CREATE TABLE loose (id int)")
    connection.execute("CREATE VIEW shown AS SELECT * FROM invoice")

    with pytest.raises(CallerError, match=error):
        triggers.install(connection, table, tracked=Tracked(type="thing", **fields))


def test_a_type_that_is_no_name_is_refused(connection: Connection) -> None:
    """What no event could be called is found out when triggers are made, not in the relay."""
    with pytest.raises(InvalidEvent, match=r"resource.type"):
        triggers.install(connection, "invoice", tracked=Tracked(type="in voice"))
