"""A whole trail whose logs and keyring are in PostgreSQL, from its making to an erasure."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

import indelible
from indelible.creation import describe
from indelible.errors import CallerError, Rollback
from indelible.policies import Consent
from indelible.stores.postgresql import PostgresqlStore
from indelible.stores.postgresql_schema import create
from indelible.verdict import Level
from tests.postgres import server
from tests.stores.conftest import connected, standby_that_never_comes, wait_until_somebody

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail
    from tests.postgres import Server


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    """A server that says that it syncs to its disk."""
    with server(18, synced=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))


@pytest.fixture
def url(postgresql: Server) -> str:
    """The URL of an empty database."""
    return postgresql.database()


@pytest.fixture
def trail(tmp_path: Path, url: str) -> Iterator[Trail]:
    """An empty trail."""
    with indelible.open(tmp_path / "trail", store=url) as audit:
        yield audit


def record(trail: Trail, count: int, actor: str = "user:alice") -> None:
    """Record events that say whose they are."""
    for number in range(count):
        trail.record(
            "invoice.approve",
            actor=actor,
            resource=f"invoice:INV-{number}",
            changes={"status": ("draft", "paid")},
            rationale="PO-99",
        )


def test_a_trail_in_a_database_records_finds_and_verifies(tmp_path: Path, url: str) -> None:
    """What is promised of a trail holds wherever its logs are kept, and when it is opened again."""
    with indelible.open(tmp_path / "trail", store=url) as audit:
        record(audit, 300)
        assert isinstance(audit.store, PostgresqlStore)

    with indelible.open(tmp_path / "trail") as audit:
        record(audit, 2, actor="user:bob")
        found = audit.search("actor:user:bob")
        verdict = audit.verify(deep=True)

    assert 2 == len(found.items)
    assert found.items[0].event.rationale is not None
    assert "PO-99" == found.items[0].event.rationale.text
    assert Level.SIGNED == verdict.level
    assert () == tuple(verdict.findings)
    assert not (tmp_path / "trail" / "head.db").exists()
    assert not (tmp_path / "trail" / "keyring.db").exists()


def test_somebody_can_be_erased_from_a_database(trail: Trail) -> None:
    """After an erasure the values of one person are gone, and all the rest verifies."""
    record(trail, 3)
    record(trail, 3, actor="user:bob")

    plan = trail.plan_erasure("user:alice", basis="Art. 17")
    trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))

    assert [] == list(trail.search("actor:user:alice").items)
    assert 3 == len(trail.search("actor:user:bob").items)
    assert Level.SIGNED == trail.verify().level


def test_a_trail_whose_database_was_put_back_is_refused(tmp_path: Path, url: str) -> None:
    """A database that holds less than was signed before does not go on as if nothing had been."""
    with indelible.open(tmp_path / "trail", store=url) as audit:
        record(audit, 3)
    with connected(url) as connection:
        connection.execute("CREATE TABLE public.older AS TABLE indelible.log")
    with indelible.open(tmp_path / "trail") as audit:
        record(audit, 3)
    with connected(url) as connection:
        connection.execute(
            "UPDATE indelible.log SET size = o.size, edge = o.edge, last_leaf = o.last_leaf,"
            " recorded_at = o.recorded_at, checkpoint = o.checkpoint"
            " FROM public.older AS o WHERE o.number = log.number"
        )

    with pytest.raises(Rollback):
        indelible.open(tmp_path / "trail")


def test_a_database_holds_one_trail(trail: Trail, tmp_path: Path, url: str) -> None:
    """Nobody makes a trail over another that lies in the same database."""
    record(trail, 1)

    with pytest.raises(CallerError, match="the database of its store holds another trail"):
        indelible.open(tmp_path / "other", store=url)


@pytest.mark.parametrize(
    "step", ["indelible_keyring.kek", "indelible_keyring.index_key", "indelible.document", "COMMIT"]
)
def test_a_trail_whose_making_was_killed_is_made_by_who_comes_next(
    tmp_path: Path, url: str, step: str
) -> None:
    """Wherever a process was killed while it made a trail, the next one finishes it."""
    path = tmp_path / "trail"
    create(url)
    with (
        connected(url) as owner,
        connected(url) as connection,
        standby_that_never_comes(url) as wait_for_standby,
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import indelible, sys; indelible.open(*sys.argv[1:2], store=sys.argv[2])",
                str(path),
                url,
            ]
        ) as maker,
    ):
        table = "indelible.document" if step == "COMMIT" else step
        with owner.transaction(force_rollback=True):
            owner.execute(f"LOCK TABLE {table}".encode())
            wait_until_somebody(connection, "relation")
            if step == "COMMIT":
                wait_for_standby()
            else:
                maker.kill()
        if step == "COMMIT":
            wait_until_somebody(connection, "SyncRep")
            maker.kill()
    assert not (path / "trail.json").exists()

    with indelible.open(path, store=url) as audit:
        record(audit, 3)
        found = audit.search("actor:user:alice")
        verdict = audit.verify()

    assert 3 == len(found.items)
    assert found.items[0].event.rationale is not None
    assert Level.SIGNED == verdict.level


def test_a_trail_keeps_the_url_of_its_database_without_the_password(
    tmp_path: Path, url: str
) -> None:
    """Whoever reads the directory does not get into the database with what stands there."""
    given = url.replace(":@", ":correct%40horse@").replace("?", "?sslpassword=staple&")
    with indelible.open(tmp_path / "trail", store=given) as audit:
        record(audit, 1)
        assert Level.SIGNED == audit.verify().level

    with indelible.open(tmp_path / "trail", store=given) as audit:
        record(audit, 1)
        assert given == getattr(audit.store, "url", None)
    with indelible.open(tmp_path / "trail") as audit:
        record(audit, 1)

    said = (tmp_path / "trail" / "trail.json").read_text()
    assert url.replace(":@", "@") == describe(tmp_path / "trail").store
    assert "horse" not in said
    assert "staple" not in said


def test_a_trail_in_files_takes_no_database(tmp_path: Path, url: str) -> None:
    """A database that is named for a trail that lies elsewhere is a mistake, and is said."""
    indelible.open(tmp_path / "trail").close()

    with pytest.raises(CallerError, match="its logs are in the directory"):
        indelible.open(tmp_path / "trail", store=url)


def test_the_custody_stream_does_not_name_the_database(trail: Trail, url: str) -> None:
    """A database may move to another host, and its URL is nobody's business but the operator's."""
    first = trail.at("custody", 0)

    assert url == describe(trail.path).store
    assert str(psycopg.conninfo.conninfo_to_dict(url)["dbname"]).encode() not in (
        first.entry.to_bytes()
    )


def test_a_trail_in_a_database_is_copied_by_the_database(trail: Trail, tmp_path: Path) -> None:
    """A backup of files would hold nothing of what is in the database, and is refused."""
    with pytest.raises(CallerError, match="kept in a database"):
        trail.backup(tmp_path / "backup")

    assert not (tmp_path / "backup").exists()
