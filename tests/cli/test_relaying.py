from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.capture import Row
from indelible.context import Context
from indelible.event import Actor, Change
from indelible.outbox import pack
from indelible.outboxes import sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Shell

SECRET = "4111111111111111"  # noqa: S105 - a value that must not be shown


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The database of an application, in whose outbox two invoices have changed."""
    path = tmp_path / "shop.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sqlite.SCHEMA)
    for number in (1, 2):
        change(path, number)
    return path


def change(path: Path, number: int) -> None:
    """Write into the outbox that an invoice has changed."""
    row = Row("invoice.update", "invoice", str(number), {"total": Change(1, 2)})
    at = datetime.now(UTC) - timedelta(seconds=60)
    context = Context(actor=Actor.parse("user:alice"))
    (body,) = pack([row], context, at=at, entropy=os.urandom(12))
    write(path, body)


def write(path: Path, body: str) -> None:
    """Write a row into the outbox."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("INSERT INTO indelible_outbox (body) VALUES (?)", (body,))
        connection.commit()


@pytest.fixture
def poisoned(shop: Path) -> Path:
    """The same database, in whose outbox a row has been damaged."""
    write(shop, f'{{"card": "{SECRET}"')
    return shop


def moved(shell: Shell, trail: Path) -> set[str]:
    """Return the invoices of which the trail says that they were changed."""
    found = shell("search", trail, "action:invoice.update", "--json").json
    return {item["event"]["resource"]["id"] for item in found["items"]}


def test_what_waits_is_moved_once(shell: Shell, trail: Path, shop: Path) -> None:
    """The command moves every event into the trail, says so, and does not do it twice."""
    first = shell("relay", trail, "--from", f"sqlite:///{shop}", "--once")
    again = shell("relay", trail, "--from", f"sqlite:///{shop}", "--once", "--json")

    assert [["rows", "2"], ["events", "2"], ["repeated", "0"], ["quarantined", "0"]] == first.rows
    assert {"rows": 0, "events": 0, "repeated": 0, "quarantined": 0} == again.json
    assert (0, 0) == (first.code, again.code)
    assert {"1", "2"} == moved(shell, trail)


def test_the_database_may_be_named_by_the_environment(
    shell: Shell, trail: Path, shop: Path
) -> None:
    """A password need not stand where every user of the host can read it."""
    answer = shell(
        *("relay", "--once", "--json"),
        INDELIBLE_TRAIL=str(trail),
        INDELIBLE_OUTBOX=f"sqlite:///{shop}",
    )

    assert (0, 2) == (answer.code, answer.json["events"])


def test_the_status_says_how_far_behind_the_trail_is(shell: Shell, shop: Path) -> None:
    """Whoever watches needs no trail, and moves nothing."""
    answer = shell("relay", "--status", "--json", "--from", f"sqlite:///{shop}")
    again = shell("relay", "--status", "--from", f"sqlite:///{shop}")

    assert (0, 2, 0) == (answer.code, answer.json["rows"], answer.json["quarantined"])
    assert 60 <= answer.json["seconds"] <= 120
    assert ["rows", "2"] == again.rows[0]


def test_a_row_that_holds_no_event_is_a_finding(shell: Shell, trail: Path, poisoned: Path) -> None:
    """It is put aside and reported, everything else moves, and no value of it is shown."""
    url = f"sqlite:///{poisoned}"

    done = shell("relay", trail, "--from", url, "--once", "--json")
    status = shell("relay", "--from", url, "--status", "--json")
    listed = shell("relay", "--from", url, "--quarantined", "--json")
    table = shell("relay", "--from", url, "--quarantined")

    assert (1, 3, 2, 1) == (
        done.code,
        done.json["rows"],
        done.json["events"],
        done.json["quarantined"],
    )
    assert "Quarantined" == msgspec.json.decode(done.stderr)["error"]["type"]
    assert (1, 1) == (status.code, status.json["quarantined"])
    assert (0, 3) == (listed.code, listed.json["number"])
    assert [["3", str(listed.json["bytes"]), listed.json["error"]]] == table.rows
    for answer in (done, status, listed, table):
        assert SECRET not in answer.stdout + answer.stderr


def test_what_was_put_aside_is_released(shell: Shell, trail: Path, poisoned: Path) -> None:
    """Mended, or under another version, it takes its way like any other row."""
    url = f"sqlite:///{poisoned}"
    shell("relay", trail, "--from", url, "--once")

    released = shell("relay", "--from", url, "--release", "--json")
    again = shell("relay", "--from", url, "--release")

    assert (0, {"released": 1}) == (released.code, released.json)
    assert [["released", "0"]] == again.rows
    assert 1 == shell("relay", "--from", url, "--status", "--json").json["rows"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "INDELIBLE_OUTBOX holds none"),
        (("--from", "mysql://alice:pw-7@db/shop"), "expected postgresql://"),
        (("--from", "alice:pw-7@db/shop"), "expected postgresql://"),
        (("--from", "postgresql://alice:pw-7%@db/shop"), "cannot be read"),
        (("--from", "postgresql://alice:p@pw-7@db/shop"), "cannot be read"),
        (("--from", "postgresql://alice:pw-7/p@db/shop"), "cannot be read"),
        (("--from", "sqlite:///x", "--once", "--status"), "found several of --once"),
        (("--from", "sqlite:///x", "--release", "--metrics", "f"), "measure nothing"),
        (("--from", "sqlite:///x", "--poll", "0"), "--poll"),
    ],
)
def test_a_call_that_cannot_succeed_says_why(
    shell: Shell, trail: Path, options: tuple[str, ...], said: str
) -> None:
    """It is one line, it is no finding, and no part of a password is in it."""
    answer = shell("relay", trail, *options)

    assert 2 == answer.code
    assert said in answer.stderr
    assert 1 == answer.stderr.count("\n")
    assert "pw-7" not in answer.stderr


def test_a_database_without_an_outbox_is_named(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Who forgot the migration learns which table is missing."""
    (tmp_path / "empty.sqlite3").touch()

    answer = shell("relay", trail, "--once", "--from", f"sqlite:///{tmp_path / 'empty.sqlite3'}")

    assert 1 == answer.code
    assert "indelible_outbox" in answer.stderr


def test_metrics_need_their_extra(
    shell: Shell, trail: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is named with the command that installs it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    answer = shell("relay", trail, "--from", f"sqlite:///{shop}", "--once", "--metrics", "file")

    assert 2 == answer.code
    assert "pip install 'indelible[metrics]'" in answer.stderr


class Running:
    """A relay in a process of its own, until it is told to stop."""

    def __init__(self, shell: Shell, *args: str | Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "indelible", "relay", *map(str, args)],
            env=shell.variables(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def failed(self) -> str:
        """Return the next line of its errors."""
        assert self._process.stderr is not None
        return self._process.stderr.readline()

    def stop(self, number: int) -> tuple[int, str]:
        """Stop it; return its exit code and the rest of its errors."""
        self._process.send_signal(number)
        _, errors = self._process.communicate(timeout=30)
        return self._process.returncode, errors

    def end(self) -> None:
        """Take it away, whatever it does."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """Relays that are taken away after the test."""
    started: list[Running] = []
    yield started
    for each in started:
        each.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_runs_until_it_is_told_to_stop(
    shell: Shell, trail: Path, shop: Path, running: list[Running], number: int
) -> None:
    """It moves what comes, tells of each batch, and a signal ends it cleanly."""
    relay = Running(shell, trail, "--from", f"sqlite:///{shop}", "--poll", "0.01", "--json")
    running.append(relay)

    first: Any = msgspec.json.decode(relay.said())
    change(shop, 3)
    second: Any = msgspec.json.decode(relay.said())

    assert (0, "") == relay.stop(number)
    assert [2, 1] == [first["events"], second["events"]]
    assert {"1", "2", "3"} == moved(shell, trail)


def test_a_relay_waits_for_a_database_that_is_away(
    shell: Shell, trail: Path, shop: Path, running: list[Running]
) -> None:
    """It says what is missing, and goes on when that is there."""
    away = shop.rename(shop.with_suffix(".away"))
    relay = Running(shell, trail, "--from", f"sqlite:///{shop}")
    running.append(relay)

    said = relay.failed()
    away.rename(shop)

    assert "trying again" in said
    assert "events 2" in relay.said()
    assert 0 == relay.stop(signal.SIGTERM)[0]


@pytest.mark.parametrize("mode", ["--once", "--status"])
def test_metrics_say_how_far_behind_the_trail_is(
    shell: Shell, trail: Path, poisoned: Path, tmp_path: Path, mode: str
) -> None:
    """Whoever is on call is told by what is watched anyway."""
    answer = shell(
        *("relay", trail, "--from", f"sqlite:///{poisoned}", mode),
        *("--metrics", tmp_path / "indelible.prom"),
    )

    values = samples(tmp_path / "indelible.prom")
    done = mode == "--once"
    assert done == answer.code
    assert (0 if done else 3) == values["indelible_outbox_rows_waiting"]
    assert done == (0 == values["indelible_outbox_lag_seconds"])
    assert done == values["indelible_outbox_rows_quarantined"]
    assert (2 if done else 0) == values["indelible_relay_rows_moved_total"]
    assert (2 if done else 0) == values["indelible_relay_events_recorded_total"]


def test_a_running_relay_keeps_its_metrics(
    shell: Shell, trail: Path, shop: Path, tmp_path: Path, running: list[Running]
) -> None:
    """They are there from its start, and are the last ones when it has stopped."""
    file = tmp_path / "indelible.prom"
    relay = Running(shell, trail, "--from", f"sqlite:///{shop}", "--metrics", file)
    running.append(relay)
    relay.said()
    begun = samples(file)

    assert (0, "") == relay.stop(signal.SIGTERM)
    assert 2 == begun["indelible_outbox_rows_waiting"]
    assert 2 == samples(file)["indelible_relay_rows_moved_total"]
    assert 0 == samples(file)["indelible_outbox_rows_waiting"]


def test_metrics_that_cannot_be_written_are_an_error(
    shell: Shell, trail: Path, shop: Path, tmp_path: Path
) -> None:
    """A relay that nobody could watch does not begin."""
    answer = shell(
        *("relay", trail, "--from", f"sqlite:///{shop}", "--metrics", tmp_path / "no" / "file")
    )

    assert 1 == answer.code
    assert "No such file" in answer.stderr


def samples(path: Path) -> dict[str, float]:
    """Return the values in a file of metrics."""
    from prometheus_client.parser import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - an extra
        text_string_to_metric_families,
    )

    families = text_string_to_metric_families(path.read_text("utf-8"))
    return {sample.name: sample.value for family in families for sample in family.samples}
