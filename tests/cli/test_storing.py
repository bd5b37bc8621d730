from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from indelible.stores import postgresql_schema
from tests.postgres import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Shell
    from tests.postgres import Server

PASSWORD = "correct@horse/7"  # noqa: S105 - one that must not be shown


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A server that says that it syncs to its disk."""
    with server(18, synced=True) as running:
        yield running


@pytest.fixture
def url(postgresql: Server) -> str:
    """The URL of an empty database."""
    return postgresql.database()


def test_a_trail_is_made_in_a_database_that_was_prepared(
    shell: Shell, tmp_path: Path, url: str
) -> None:
    """An operator makes the tables, then the trail in them, and entries in it verify."""
    path = tmp_path / "audit"

    prepared = shell("store", "create", url, "--json")
    made = shell("init", path, "--store", url, "--origin", "audit.example.com/shop")
    recorded = shell(
        *("record", path, "--action", "role.grant", "--actor", "user:carol"),
        *("--resource", "user:bob"),
    )
    checked = shell("store", "check", "--json", INDELIBLE_STORE=url)

    assert {"layout": postgresql_schema.VERSION} == prepared.json
    assert (0, 0) == (made.code, recorded.code)
    assert 0 == shell("verify", path).code
    assert 1 == checked.json["logs"]["admin"]
    assert not (path / "head.db").exists()


def test_a_role_with_its_rights_can_make_a_trail_and_record(
    shell: Shell, tmp_path: Path, url: str
) -> None:
    """Whoever runs the application needs neither the tables nor the database to be theirs."""
    path = tmp_path / "audit"
    shell("store", "create", url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE shop LOGIN")

    granted = shell(
        *("store", "grant", url, "--role", "shop", "--right", "ingest", "--right", "keys"),
        "--json",
    )
    # The last one that is named counts.
    made = shell("init", path, "--store", f"{url}&user=shop")
    recorded = shell(
        *("record", path, "--action", "role.grant", "--actor", "user:carol"),
        *("--resource", "user:bob"),
    )

    assert {"role": "shop", "rights": ["ingest", "keys"]} == granted.json
    assert (0, "") == (made.code, made.stderr)
    assert (0, "") == (recorded.code, recorded.stderr)


def test_a_right_that_there_is_not_is_named(shell: Shell) -> None:
    """A right that is misspelt grants nothing."""
    answer = shell("store", "grant", "postgresql:///audit", "--role", "shop", "--right", "write")

    assert 2 == answer.code
    assert "--right: found write, expected one of read, ingest, erase, keys" in answer.stderr


def test_migrating_can_be_repeated(shell: Shell, url: str) -> None:
    """An upgrade may run migrate each time: where all is up to date, it takes no step."""
    first = shell("store", "migrate", url, "--json")
    second = shell("store", "migrate", url, "--json")

    assert postgresql_schema.VERSION == first.json["steps"]
    assert 0 == second.json["steps"]


def test_a_database_without_tables_says_how_to_get_them(shell: Shell, url: str) -> None:
    """Who checks a database before a trail is in it is told the command to call."""
    answer = shell("store", "check", url)

    assert 2 == answer.code
    assert "`indelible store migrate`" in answer.stderr


def test_tables_are_made_over_no_others(shell: Shell, url: str) -> None:
    """Creating twice is an error, and not a second, empty trail."""
    shell("store", "create", url)

    answer = shell("store", "create", url)

    assert 1 == answer.code
    assert "found tables of a trail already" in answer.stderr


def test_a_server_that_may_lose_what_it_confirmed_does_not_pass(shell: Shell, url: str) -> None:
    """A database whose commits are confirmed before they are on disk is a finding."""
    shell("store", "create", url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f'ALTER DATABASE "{connection.info.dbname}" SET synchronous_commit = off'.encode()
        )

    answer = shell("store", "check", url)

    assert 1 == answer.code
    assert "found synchronous_commit = off, expected on" in answer.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://shop:{PASSWORD}@127.0.0.1:1/audit",
        "postgresql://shop:correct@horse@127.0.0.1:1/audit",
        "postgresql://shop:horse/7@127.0.0.1:1/audit",
        "postgresql://shop:correct%40horse%2F7@127.0.0.1:1/audit",
        "mysql://shop:horse@127.0.0.1:1/audit",
    ],
)
@pytest.mark.parametrize("command", [("check",), ("create", "--json"), ("migrate",)])
def test_no_error_shows_a_password(shell: Shell, command: tuple[str, ...], url: str) -> None:
    """Whether a URL cannot be read or its server is away: its password is not printed."""
    answer = shell("store", *command, INDELIBLE_STORE=url)

    assert 0 != answer.code
    assert answer.stderr
    assert "horse" not in answer.stdout + answer.stderr
    assert "correct" not in answer.stdout + answer.stderr


def test_a_database_is_asked_for(shell: Shell) -> None:
    """Without a URL and without the variable, the error names both."""
    answer = shell("store", "check", INDELIBLE_STORE="")

    assert 2 == answer.code
    assert "URL: found none, and INDELIBLE_STORE holds none" in answer.stderr


def test_a_trail_whose_making_failed_is_made_by_the_same_command(
    shell: Shell, tmp_path: Path, url: str
) -> None:
    """What failed is repeated as it was, and goes on with the keys that it had made."""
    path = tmp_path / "audit"
    shell("store", "create", url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE indelible.log ADD CONSTRAINT full_ CHECK (number < 0)")
    failed = shell("init", path, "--store", url, "--origin", "audit.example.com/shop")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE indelible.log DROP CONSTRAINT full_")

    elsewhere = shell("init", tmp_path / "other", "--store", url)
    otherwise = shell("init", path, "--store", url, "--origin", "audit.example.com/other")
    repeated = shell("init", path, "--store", url, "--origin", "audit.example.com/shop")
    recorded = shell(
        *("record", path, "--action", "role.grant", "--actor", "user:carol"),
        *("--resource", "user:bob"),
    )

    assert (1, 2, 2) == (failed.code, elsewhere.code, otherwise.code)
    assert "the database of its store holds the keyring of another trail" in elsewhere.stderr
    assert "expected 'audit.example.com/shop': a trail was begun here with it" in otherwise.stderr
    assert (0, 0) == (repeated.code, recorded.code)
    assert 0 == shell("verify", path).code
