"""A relay in the application's own process."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

import indelible
from indelible.background import BackgroundRelay
from indelible.capture import Tracked, created
from indelible.context import Context
from indelible.errors import StoreError
from indelible.outbox import pack
from indelible.outboxes import open_outbox
from indelible.outboxes.sqlite import SCHEMA
from indelible.relay import Done, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """An empty trail."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail") as audit:
        yield audit


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with an empty outbox."""
    path = tmp_path / "database.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(SCHEMA)
    connection.close()
    return path


def write(path: Path, *numbers: int) -> None:
    """Let rows come, as a transaction of the application does."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only here

    rows = [created(Tracked(type="invoice"), [n], {"n": n}) for n in numbers]
    (body,) = pack(rows, Context(), at=datetime.now(UTC), entropy=os.urandom(12))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO indelible_outbox (body) VALUES (?)", (body,))
    connection.close()


class Watched(Relay):
    """Tells when it has moved something."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moved = threading.Event()

    def drain(self) -> Done:
        """Move what waits."""
        done = super().drain()
        if done.rows:
            self.moved.set()
        return done


def test_what_was_committed_is_moved_when_it_is_told(trail: Trail, database: Path) -> None:
    """Nothing waits for a time to pass: who committed says so."""
    relay = Watched(trail, open_outbox(f"sqlite:///{database}"))
    background = BackgroundRelay(lambda: relay, poll=3600)

    write(database, 1, 2)
    background.kick()

    assert relay.moved.wait(10)
    assert 2 == len(trail.search("action:invoice.create").items)
    background.stop()


def test_what_waits_is_moved_before_it_ends(trail: Trail, database: Path) -> None:
    """An application that stops leaves nothing behind in its database."""
    with BackgroundRelay(lambda: Relay(trail, open_outbox(f"sqlite:///{database}")), poll=3600):
        write(database, 1)

    assert 1 == len(trail.search("action:invoice.create").items)


def test_an_error_does_not_end_it(
    trail: Trail,
    database: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database or a trail that is away is tried again, and that is said in the log."""
    # Whatever has configured logging in this process may have switched it off.
    monkeypatch.setattr(logging.getLogger("indelible"), "disabled", False)
    monkeypatch.setattr(logging.getLogger("indelible"), "propagate", True)
    caplog.set_level(logging.WARNING, "indelible")
    relay = Watched(trail, open_outbox(f"sqlite:///{database}"))
    failed = iter([StoreError("it is away"), ValueError("secret value")])

    def make() -> Relay:
        if (error := next(failed, None)) is not None:
            raise error
        return relay

    write(database, 1)
    background = BackgroundRelay(make, poll=3600)
    background.kick()

    assert relay.moved.wait(10)
    background.stop()
    assert "it is away" in caplog.text
    assert "secret value" not in caplog.text


def test_a_forked_process_has_a_thread_of_its_own(trail: Trail, database: Path) -> None:
    """A server that forks its workers has in each of them a relay that works."""
    background = BackgroundRelay(
        lambda: Relay(trail, open_outbox(f"sqlite:///{database}")), poll=3600
    ).start()
    child = os.fork()
    if child == 0:
        try:
            write(database, 1)
            background.kick()
            background.stop()
            trail.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    background.stop()
    assert 1 == len(trail.search("action:invoice.create").items)
