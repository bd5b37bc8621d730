from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

import indelible
from indelible.errors import CallerError, StoreError
from indelible.event import Actor, Change, Source
from indelible.importing import import_events
from indelible.sources import Found, Item, Rejected, open_source
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Event

CONTEXT = "6863f8c5-cdc9-45d4-9064-c4946a170f66"
OWN = "pgh_id serial PRIMARY KEY, pgh_created_at timestamptz, pgh_label text"
TABLES = f"""
CREATE TABLE django_content_type (id int PRIMARY KEY, app_label text, model text);
INSERT INTO django_content_type VALUES (1, 'my_shop', 'invoice'), (2, 'my_shop', 'invoiceevent');
CREATE TABLE pghistory_context (id uuid PRIMARY KEY, metadata jsonb);
CREATE TABLE my_shop_invoiceevent ({OWN}, id bigint, total numeric, due timestamptz, meta jsonb,
    pgh_context_id uuid, pgh_obj_id bigint);
INSERT INTO pghistory_context VALUES ('{CONTEXT}', '{{"user": 3, "url": "/invoices/"}}');
"""  # noqa: S608 - values of our own


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A server."""
    with server(16) as running:
        yield running


@pytest.fixture
def url(postgresql: Server) -> str:
    """A database as django-pghistory makes it."""
    found = postgresql.database()
    write(found, TABLES)
    return found


def write(url: str, script: str) -> None:
    """Run *script* in the database."""
    with psycopg.connect(url) as connection:
        connection.execute(script)


def add(url: str, *rows: str) -> None:
    """Add rows, each from its label on, a second after each other."""
    for second, row in enumerate(rows):
        label, values = row.split(": ", 1)
        write(
            url,
            "INSERT INTO my_shop_invoiceevent (pgh_created_at, pgh_label, id, total, due, meta,"  # noqa: S608 - our own
            f" pgh_context_id, pgh_obj_id) VALUES ('2026-01-31 09:30:0{second}+00', '{label}',"
            f" {values})",
        )


def read(url: str) -> list[Item]:
    """Read the database as the import does."""
    return list(open_source("pghistory", [url]))


def events(url: str) -> list[Event]:
    """Return the events in the database."""
    return [item.event for item in read(url) if isinstance(item, Found)]


def test_a_row_is_told_by_what_changed_since_the_one_before(url: str) -> None:
    """Full copies become changes: of each field its old and its new value."""
    add(
        url,
        f"insert: 7, 1.50, NULL, '{{\"a\": 1}}', '{CONTEXT}', 7",
        "update: 7, 2.50, '2026-02-01 00:00:00+01', '{\"a\": 1}', NULL, 7",
        "invoice.sent: 7, 2.50, '2026-02-01 00:00:00+01', '{\"a\": 2}', NULL, 7",
        "delete: 7, 2.50, NULL, NULL, NULL, 7",
    )

    first, second, third, last = events(url)

    assert ["invoice.create", "invoice.update", "invoice.invoice_sent", "invoice.delete"] == [
        event.action for event in (first, second, third, last)
    ]
    assert {
        "id": Change(new=7),
        "total": Change(new="1.50"),
        "due": Change(new=None),
        "meta": Change(new={"a": 1}),
    } == first.changes
    assert {
        "total": Change("1.50", "2.50"),
        "due": Change(None, "2026-01-31T23:00:00Z"),
    } == second.changes
    assert {"meta": Change({"a": 1}, {"a": 2})} == third.changes
    assert Change(old="2.50") == (last.changes or {})["total"]
    assert "invoice:7" == str(first.resource)
    assert (Actor(type="user", id="3"), CONTEXT) == (first.actor, first.request)
    assert {
        "table": "my_shop_invoiceevent",
        "label": "insert",
        "context": {"url": "/invoices/"},
    } == first.data
    assert (Actor(type="unknown"), None) == (second.actor, second.request)
    assert Source(format="pghistory", id="my_shop_invoiceevent:2") == second.source


def test_a_context_in_the_row_itself_is_read(url: str) -> None:
    """A table that keeps its context beside the values loses neither actor nor address."""
    write(
        url,
        f"""
        CREATE TABLE note (id int PRIMARY KEY);
        CREATE TABLE noteevent ({OWN}, id int, pgh_context jsonb, pgh_context_id uuid);
        INSERT INTO noteevent VALUES
            (1, now(), 'insert', 1, '{{"user": "u-1", "ip": "192.0.2.1"}}', '{CONTEXT}'),
            (2, now(), 'insert', 2, '[]', NULL);
        """,  # noqa: S608 - values of our own
    )

    found, wrong = read(url)

    assert isinstance(found, Found)
    assert ("note:1", Actor(type="user", id="u-1")) == (
        str(found.event.resource),
        found.event.actor,
    )
    assert {"ip": "192.0.2.1"} == found.event.data["context"]
    assert isinstance(wrong, Rejected)
    assert "pgh_context: found [], expected an object" == wrong.error


def test_a_time_beyond_python_stops_no_import(url: str) -> None:
    """A value that Python cannot hold is a text, and a row without a time is put aside."""
    add(url, "insert: 7, 1, 'infinity', NULL, NULL, 7", "update: 7, 1, NULL, NULL, NULL, 7")
    write(url, "UPDATE my_shop_invoiceevent SET pgh_created_at = 'infinity' WHERE pgh_id = 2")

    found, rejected = read(url)

    assert isinstance(found, Found)
    assert Change(new="infinity") == (found.event.changes or {})["due"]
    assert isinstance(rejected, Rejected)
    assert "pgh_created_at: found a text, expected a time" == rejected.error


def test_rows_are_read_in_bounded_pieces_and_in_order(url: str) -> None:
    """A history of any size is read; what is written meanwhile waits for the next import."""
    write(
        url,
        "INSERT INTO my_shop_invoiceevent (pgh_created_at, pgh_label, id, total, pgh_obj_id)"
        " SELECT '2026-01-31'::timestamptz + n * interval '1 second', 'update', n % 10, n, n % 10"
        " FROM generate_series(1, 2500) AS n",
    )
    items = open_source("pghistory", [url])
    first = next(items)
    add(url, "insert: 7, 1, NULL, NULL, NULL, 7")

    found = [first, *items]

    assert list(range(1, 2501)) == [item.line for item in found]
    last = found[-1]
    assert isinstance(last, Found)
    assert {"total": Change("2490", "2500")} == last.event.changes


def test_a_database_that_goes_away_is_an_error_that_passes(url: str) -> None:
    """What was read before is told, and that the rest was not."""
    write(
        url,
        "INSERT INTO my_shop_invoiceevent (pgh_created_at, pgh_label, id, pgh_obj_id)"
        " SELECT now(), 'update', n, n FROM generate_series(1, 2500) AS n",
    )
    items = open_source("pghistory", [url])
    next(items)
    write(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )

    with pytest.raises(StoreError, match="database: "):
        list(items)


def test_importing_twice_doubles_nothing(url: str, tmp_path: Path) -> None:
    """An import can be repeated while the old library still writes."""
    add(url, "insert: 7, 1, NULL, NULL, NULL, 7")
    done = []
    with indelible.open(tmp_path / "trail") as trail:
        for _ in range(2):
            items = open_source("pghistory", [url])
            done.append(import_events(trail, items, dead_letters=tmp_path / "dead.jsonl"))
            add(url, "insert: 8, 1, NULL, NULL, NULL, 8")

    assert [(1, 0), (1, 1)] == [(each.imported, each.duplicates) for each in done]


def test_a_database_without_events_is_refused(postgresql: Server) -> None:
    """Nothing is imported from what is not what it was said to be."""
    with pytest.raises(CallerError, match="found no table with pgh_created_at, pgh_id, pgh_label"):
        open_source("pghistory", [postgresql.database()])
