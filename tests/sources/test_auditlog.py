from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

import indelible
from indelible.errors import CallerError
from indelible.event import Actor, Change, Client, Source
from indelible.importing import import_events
from indelible.sources import Found, Item, Rejected, open_source

if TYPE_CHECKING:
    from pathlib import Path

    from indelible import Event

TABLES = """
CREATE TABLE django_content_type (id integer PRIMARY KEY, app_label text, model text);
INSERT INTO django_content_type
    VALUES (8, 'shop', 'invoice'), (9, 'shop', 'tag'), (10, 'blog', 'tag');
CREATE TABLE auditlog_logentry (
    id integer PRIMARY KEY, object_pk varchar(255), object_id bigint, object_repr text,
    action smallint, timestamp datetime, actor_id integer, content_type_id integer,
    remote_addr char(39), additional_data text, serialized_data text, cid varchar(255),
    changes_text text, changes text, remote_port integer, actor_email varchar(254));
"""
LEAST: dict[str, Any] = {
    "object_pk": "7",
    "action": 1,
    "timestamp": "2026-01-31 09:30:00.250000",
    "content_type_id": 8,
    "changes_text": "",
    "changes": json.dumps({"total": ["1.50", "2.00"]}),
}


class Database:
    """A database as django-auditlog makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(TABLES)

    def add(self, **fields: object) -> None:
        """Add the smallest entry with *fields*."""
        row = LEAST | fields
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                f"INSERT INTO auditlog_logentry ({', '.join(row)})"  # noqa: S608 - our own
                f" VALUES ({', '.join('?' for _ in row)})",
                list(row.values()),
            )

    def read(self) -> list[Item]:
        """Read it as the import does."""
        return list(open_source("auditlog", [self.url]))

    def event(self) -> Event:
        """Return the only event in it."""
        (item,) = self.read()
        assert isinstance(item, Found), item
        return item.event


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database."""
    return Database(tmp_path / "shop.db")


def test_an_entry_becomes_an_event_with_all_that_it_says(database: Database) -> None:
    """Who, what, when, from where and why of an old entry can be asked of the trail."""
    database.add(
        id=41,
        object_repr="INV-7",
        actor_id=3,
        actor_email="alice@example.com",
        remote_addr="192.0.2.1",
        remote_port=5000,
        cid="r-1",
        additional_data='{"why": "PO-99"}',
        serialized_data='{"pk": 7}',
    )

    event = database.event()

    assert ("invoice.update", "data_change", "r-1") == (event.action, event.kind, event.request)
    assert "2026-01-31T09:30:00.250000+00:00" == event.occurred_at.isoformat()
    assert Actor(type="user", id="3", name="alice@example.com") == event.actor
    assert ("invoice:7", "INV-7") == (str(event.resource), event.resource.name)
    assert {"total": Change("1.50", "2.00")} == event.changes
    assert Client(ip="192.0.2.1") == event.client
    assert {
        "model": "shop.invoice",
        "additional_data": {"why": "PO-99"},
        "serialized_data": {"pk": 7},
        "remote_port": 5000,
    } == event.data
    assert Source(format="auditlog", id="41") == event.source


@pytest.mark.parametrize(
    ("action", "verb", "change"),
    [
        (0, "create", Change(UNSET, "b")),
        (1, "update", Change("a", "b")),
        (2, "delete", Change("a", UNSET)),
        (3, "access", Change("a", "b")),
    ],
)
def test_each_action_is_told_as_what_it_was(
    database: Database, action: int, verb: str, change: Change
) -> None:
    """What came has no old values, and what was deleted no new ones."""
    database.add(action=action, changes='{"f": ["a", "b"]}')

    event = database.event()

    assert (f"invoice.{verb}", {"f": change}) == (event.action, event.changes)


def test_many_to_many_changes_are_told(database: Database) -> None:
    """What was added to a relation is new, and what was taken out of it old."""
    change = {"type": "m2m", "objects": ["a", "b"]}
    database.add(
        changes=json.dumps(
            {"x": change | {"operation": "add"}, "y": change | {"operation": "delete"}}
        )
    )

    assert {"x": Change(new=["a", "b"]), "y": Change(old=["a", "b"])} == database.event().changes


def test_changes_of_an_older_release_are_read(database: Database) -> None:
    """Entries that were never migrated to the column of JSON keep their changes."""
    database.add(changes=None, changes_text='{"total": ["1", "2"]}')

    assert {"total": Change("1", "2")} == database.event().changes


def test_an_entry_without_changes_is_an_event(database: Database) -> None:
    """That something was looked at is worth an entry, though nothing changed."""
    database.add(action=3, changes=None)

    event = database.event()

    assert (None, None) == (event.changes, event.kind)


@pytest.mark.parametrize(
    ("fields", "actor"),
    [
        ({}, Actor(type="unknown")),
        ({"actor_email": "bob@example.com"}, Actor(type="user", id="bob@example.com")),
        ({"actor_id": 3}, Actor(type="user", id="3")),
    ],
)
def test_the_actor_is_as_far_known_as_it_was(
    database: Database, fields: dict[str, Any], actor: Actor
) -> None:
    """A user who was deleted is still known by the address; nobody is made up."""
    database.add(**fields)

    assert actor == database.event().actor


def test_models_of_the_same_name_are_told_apart(database: Database) -> None:
    """Two apps may each have a tag, and their histories stay two."""
    database.add(content_type_id=9)
    database.add(content_type_id=10)

    found = [item.event.resource.type for item in database.read() if isinstance(item, Found)]

    assert ["shop.tag", "blog.tag"] == found


def test_entries_come_by_their_time(database: Database) -> None:
    """The trail has the entries in the order in which they happened."""
    database.add(id=1, timestamp="2026-01-31 09:30:02")
    database.add(id=2, timestamp="2026-01-31 09:30:01")

    assert [2, 1] == [item.line for item in database.read()]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"action": 9}, "action: found 9, expected 0, 1, 2 or 3"),
        ({"content_type_id": 99}, "content_type_id: found an integer, expected one in"),
        ({"timestamp": "yesterday"}, "timestamp: found a text, expected a time"),
        ({"timestamp": None}, "timestamp: found None, expected a time"),
        ({"object_pk": ""}, "object_pk: found '', expected a text that is not empty"),
        ({"changes": "{"}, "changes: found a text, expected JSON"),
        ({"changes": "[]"}, "changes: found [], expected an object"),
        ({"changes": '{"f": 1}'}, "changes.f: found an integer, expected"),
        ({"additional_data": "nope"}, "additional_data: found a text, expected JSON"),
        ({"object_repr": "x" * 2000}, "resource.name: found a text, expected at most 1000"),
        ({"changes": b"\xff\xfe"}, "changes: found bytes, expected an object"),
    ],
)
def test_an_entry_that_is_wrong_is_put_aside(
    database: Database, fields: dict[str, Any], error: str
) -> None:
    """One bad entry is named, kept as it is, and holds up no other."""
    database.add(id=1, **fields)
    database.add(id=2, timestamp="2026-02-01 00:00:00")

    items = {item.line: item for item in database.read()}

    rejected = items[1]
    assert isinstance(rejected, Rejected)
    assert error in rejected.error
    assert 1 == json.loads(rejected.raw)["id"]
    assert isinstance(items[2], Found)


def test_bytes_that_are_no_text_stop_no_import(database: Database) -> None:
    """SQLite may hold anything where a text is expected; as a value it is told escaped."""
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.execute(
            "INSERT INTO auditlog_logentry (id, object_pk, action, timestamp, content_type_id,"
            " cid) VALUES (1, CAST(x'37ff' AS text), 1, '2026-01-31', 8, NULL)"
        )

    (item,) = database.read()

    assert isinstance(item, Rejected)
    assert {"$text": "7\\udcff"} == json.loads(item.raw)["object_pk"]


def test_importing_twice_doubles_nothing(database: Database, tmp_path: Path) -> None:
    """An import can be repeated while the old library still writes."""
    database.add(id=1)
    with indelible.open(tmp_path / "trail") as trail:

        def imported() -> tuple[int, int]:
            items = open_source("auditlog", [database.url])
            done = import_events(trail, items, dead_letters=tmp_path / "dead.jsonl")
            return done.imported, done.duplicates

        first = imported()
        database.add(id=2)
        second = imported()
        sources = {entry.event.source for entry in trail.history("invoice:7")}

    assert [(1, 0), (1, 1)] == [first, second]
    assert {Source(format="auditlog", id="1"), Source(format="auditlog", id="2")} == sources


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite:///{}/absent.db", "unable to open"),
        ("sqlite:///{}/empty.db", "found no table auditlog_logentry"),
        ("sqlite:///{}/other.db", "found no auditlog_logentry.action"),
        ("sqlite:///{}/text.db", "file is not a database"),
        ("mysql://root:hunter2@host/db", "found a URL of 'mysql'"),
        ("{}/shop.db", "expected postgresql"),
        ("postgresql://alice:hunter2@localhost:1/none?x=hunter2", "postgresql://localhost:1/none"),
        ("postgresql://alice:hun@ter/2:hunter2@localhost:1/none", "postgresql://localhost:1/none"),
    ],
)
def test_a_database_that_cannot_be_read_is_refused(tmp_path: Path, url: str, error: str) -> None:
    """Nothing is imported from what is not what it was said to be, and no password is shown."""
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one" * 99)
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE auditlog_logentry (id integer)")

    with pytest.raises(CallerError) as raised:
        open_source("auditlog", [url.format(tmp_path)])

    assert error in str(raised.value)
    assert "hunter2" not in str(raised.value)
