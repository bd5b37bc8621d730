from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec import UNSET

import indelible
from indelible.errors import CallerError
from indelible.event import Actor, Change, Rationale, Source
from indelible.importing import import_events
from indelible.sources import Found, Item, Rejected, open_source

if TYPE_CHECKING:
    from pathlib import Path

    from indelible import Event

COLUMNS = """
    history_id integer PRIMARY KEY, history_date datetime, history_change_reason varchar(100),
    history_type varchar(1), history_user_id integer
"""
TABLES = f"""
CREATE TABLE shop_invoice (id integer PRIMARY KEY, status text, total decimal);
CREATE TABLE shop_historicalinvoice (id bigint, status text, total decimal, {COLUMNS});
CREATE TABLE shop_historicalinvoice_tags (
    id bigint, m2m_history_id integer PRIMARY KEY, history_id integer, tag_id bigint);
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database as django-simple-history makes it."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    return f"sqlite:///{path}"


def write(url: str, script: str) -> None:
    """Run *script* in the database."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.executescript(script)


def read(url: str) -> list[Item]:
    """Read the database as the import does."""
    return list(open_source("simple_history", [url]))


def events(url: str) -> list[Event]:
    """Return the events in the database, of which none is rejected."""
    found = read(url)
    return [item.event for item in found if isinstance(item, Found)][: len(found)]


def test_a_row_is_told_by_what_changed_since_the_one_before(url: str) -> None:
    """Full copies become changes: of each field its old and its new value."""
    write(
        url,
        """
        INSERT INTO shop_historicalinvoice VALUES
            (7, 'draft', 1.5, 1, '2026-01-31 09:30:00', 'because', '+', 3),
            (8, 'other', 9.5, 2, '2026-01-31 09:30:01', NULL, '+', NULL),
            (7, 'paid', 1.5, 3, '2026-01-31 09:30:02.500000', '', '~', 4),
            (7, 'paid', 1.5, 4, '2026-01-31 09:30:03', NULL, '~', 4),
            (7, 'paid', 1.5, 5, '2026-01-31 09:30:04', NULL, '-', 4);
        """,
    )

    first, _, second, third, last = events(url)

    assert [
        (
            "invoice.create",
            "invoice:7",
            {"id": Change(new=7), "status": Change(new="draft"), "total": Change(new=1.5)},
        ),
        ("invoice.update", "invoice:7", {"status": Change("draft", "paid")}),
        ("invoice.update", "invoice:7", {}),
        (
            "invoice.delete",
            "invoice:7",
            {
                "id": Change(7, UNSET),
                "status": Change("paid", UNSET),
                "total": Change(1.5, UNSET),
            },
        ),
    ] == [(e.action, str(e.resource), e.changes) for e in (first, second, third, last)]
    assert (Actor(type="user", id="3"), Rationale(text="because")) == (first.actor, first.rationale)
    assert (Actor(type="user", id="4"), None) == (second.actor, second.rationale)
    assert "2026-01-31T09:30:02.500000+00:00" == second.occurred_at.isoformat()
    assert Source(format="simple_history", id="shop_historicalinvoice:3") == second.source


def test_a_history_that_began_late_is_told_as_far_as_it_goes(url: str) -> None:
    """Of the first row of an object nobody knows what was before."""
    write(
        url,
        "INSERT INTO shop_historicalinvoice VALUES (7, 'a', 1, 1, '2026-01-31', NULL, '~', NULL)",
    )

    (event,) = events(url)

    assert ("invoice.update", Change(new="a"), Actor(type="unknown")) == (
        event.action,
        (event.changes or {})["status"],
        event.actor,
    )


def test_tables_are_told_together_by_their_time(url: str) -> None:
    """Several models make one history, and those of one name in two apps stay two."""
    write(
        url,
        f"""
        CREATE TABLE my_blog_historicalinvoice (id bigint, {COLUMNS});
        CREATE TABLE shop_historicalnote (no text, {COLUMNS});
        CREATE TABLE shop_note (no text PRIMARY KEY);
        INSERT INTO shop_historicalinvoice VALUES
            (1, 'a', 1, 1, '2026-01-31 01:00:00', NULL, '+', NULL),
            (1, 'b', 1, 2, '2026-01-31 03:00:00', NULL, '~', NULL);
        INSERT INTO my_blog_historicalinvoice VALUES (1, 1, '2026-01-31 02:00:00', NULL, '+', 1);
        INSERT INTO shop_historicalnote VALUES ('N-1', 1, '2026-01-31 04:00:00', NULL, '+', 1);
        """,  # noqa: S608 - columns of our own
    )

    assert ["shop.invoice:1", "my_blog.invoice:1", "shop.invoice:1", "note:N-1"] == [
        str(event.resource) for event in events(url)
    ]


def test_a_row_that_is_wrong_is_put_aside(url: str) -> None:
    """One bad row is named, kept as it is, and holds up no other."""
    write(
        url,
        """
        INSERT INTO shop_historicalinvoice VALUES
            (7, 'a', 1, 1, 'once', NULL, '+', NULL),
            (7, 'b', 1, 2, '2026-01-31 09:30:01', NULL, '?', NULL),
            (7, 'c', 1, 3, '2026-01-31 09:30:02', NULL, '~', NULL);
        """,
    )

    items = {item.line: item for item in read(url)}

    errors = [item.error for item in items.values() if isinstance(item, Rejected)]
    assert [
        "history_date: found a text, expected a time",
        "history_type: found a text, expected +, ~ or -",
    ] == sorted(errors)
    assert isinstance(items[2], Rejected)
    assert "b" == json.loads(items[2].raw)["status"]
    assert isinstance(items[3], Found)


def test_importing_twice_doubles_nothing(url: str, tmp_path: Path) -> None:
    """An import can be repeated while the old library still writes."""
    row = "INSERT INTO shop_historicalinvoice VALUES (7, '{0}', 1, {0}, '2026-01-0{0}', '', '~', 1)"
    write(url, row.format(1))
    done = []
    with indelible.open(tmp_path / "trail") as trail:
        for number in (2, 3):
            items = open_source("simple_history", [url])
            done.append(import_events(trail, items, dead_letters=tmp_path / "dead.jsonl"))
            write(url, row.format(number))

    assert [(1, 0), (1, 1)] == [(each.imported, each.duplicates) for each in done]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("DROP TABLE shop_historicalinvoice", "found no table with history_date, history_id"),
        (
            f"CREATE TABLE shop_historicalnote (no text, {COLUMNS})",
            "shop_historicalnote: found neither the table that it is of nor a column id",
        ),
    ],
)
def test_tables_that_cannot_be_told_are_refused(url: str, script: str, error: str) -> None:
    """Nothing is imported by guesses about whose rows they are."""
    write(url, script)

    with pytest.raises(CallerError, match=error):
        open_source("simple_history", [url])
