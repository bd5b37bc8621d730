"""What the outbox holds gets into the trail exactly once, whatever fails in between."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import indelible
from indelible.capture import Row
from indelible.context import Context
from indelible.errors import StoreError, StoreFull, WriteUncertain
from indelible.event import Actor, Change, Event, Outcome, Resource
from indelible.outbox import pack, pack_events, unpack
from indelible.outboxes import open_outbox, postgresql, sqlite
from indelible.recorder import Recorder
from indelible.relay import Done, Lag, Relay
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from indelible import Trail
    from indelible.outbox import Claim, Outbox
    from indelible.writer import Pending

ROOT = Path(__file__).parent.parent
AT = datetime(2026, 11, 24, 13, 28, 51, tzinfo=UTC)
CONTEXT = Context(actor=Actor.parse("user:alice"))
POLICY = """
policy = { id = "shop", version = 1 }
[streams]
user = {}
views = { on_failure = "continue" }
[[rule]]
action = "page.*"
stream = "views"
[[rule]]
action = "*"
"""


@pytest.fixture(scope="module")
def postgresql_18() -> Iterator[Server]:
    """A server."""
    with server(18) as running:
        yield running


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """An empty trail."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail") as audit:
        yield audit


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with an empty outbox."""
    if request.param == "sqlite":
        path = tmp_path / "shop.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(sqlite.SCHEMA)
            connection.execute("PRAGMA journal_mode = wal")
        return f"sqlite:///{path}"
    found: str = request.getfixturevalue("postgresql_18").database()
    with psycopg.connect(found) as connection:
        connection.execute(postgresql.SCHEMA)
    return found


@pytest.fixture
def outbox(url: str) -> Iterator[Outbox]:
    """The outbox of the database."""
    opened = open_outbox(url)
    yield opened
    opened.close()


def write(url: str, *bodies: str) -> None:
    """Write rows into the outbox, as an application does."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as connection:
            for body in bodies:
                connection.execute("INSERT INTO indelible_outbox (body) VALUES (?)", (body,))
                connection.commit()
        return
    with psycopg.connect(url) as server_connection:
        for body in bodies:
            server_connection.execute("INSERT INTO indelible_outbox (body) VALUES (%s)", (body,))
            server_connection.commit()


def statement(*numbers: int, action: str = "invoice.update") -> str:
    """What a statement that changed these invoices writes."""
    rows = [Row(action, "invoice", str(number), {"total": Change(1, 2)}) for number in numbers]
    (body,) = pack(rows, CONTEXT, at=AT, entropy=os.urandom(12))
    return body


def moved(trail: Trail, action: str = "invoice.update") -> list[str]:
    """Return the invoices that the trail holds events of, in its order."""
    found: list[str] = []
    cursor = None
    while True:
        page = trail.search(action=action, newest_first=False, limit=1_000, cursor=cursor)
        found += [item.event.resource.id for item in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


class CrashError(BaseException):
    """The process ends here: nothing may handle this."""


@dataclass
class Failing:
    """
    A trail and an outbox that fail as planned, and else do what the real ones do.

    Attributes:
        before, after: What recording raises before it takes effect, and after; one for
            each of the next calls, None for none.
        lost: What a claim raises when it ends, though it took effect.
        record: Records in the trail's place.
    """

    trail: Trail
    outbox: Outbox
    before: list[BaseException | None] = field(default_factory=list)
    after: list[BaseException | None] = field(default_factory=list)
    lost: list[BaseException | None] = field(default_factory=list)
    record: Callable[..., int] | None = None

    def relay_lock(self) -> Any:  # noqa: ANN401 - the trail's
        """Do what the trail does."""
        return self.trail.relay_lock()

    def recorded(self, ids: Sequence[str]) -> set[str]:
        """Do what the trail does."""
        return self.trail.recorded(ids)

    def record_many(self, events: Iterable[Event], *, may_lose: bool) -> int:
        """Record, and fail before or after it."""
        raise_next(self.before)
        count = (self.record or self.trail.record_many)(events, may_lose=may_lose)
        raise_next(self.after)
        return count

    @contextmanager
    def claim(self, most: int) -> Iterator[Claim]:
        """Claim, and fail after it."""
        with self.outbox.claim(most) as claim:
            yield claim
        raise_next(self.lost)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the outbox's
        return getattr(self.outbox, name)


def raise_next(plan: list[BaseException | None]) -> None:
    """Raise what is planned next, if anything is."""
    if plan and (error := plan.pop(0)) is not None:
        raise error


def test_every_change_is_an_entry_in_the_order_it_was_made(
    trail: Trail, url: str, outbox: Outbox
) -> None:
    """The trail tells what happened to the rows, when, and who did it."""
    write(url, statement(1, 2), statement(3))

    done = Relay(trail, outbox).drain()

    (last, *_) = trail.search("action:invoice.update").items
    assert Done(rows=2, events=3) == done
    assert ["1", "2", "3"] == moved(trail)
    assert ("user:alice", AT, {"total": Change(1, 2)}) == (
        str(last.event.actor),
        last.event.occurred_at,
        last.event.changes,
    )
    assert (0, None, 0) == outbox.waiting()


def test_batches_bound_what_is_claimed_at_a_time(trail: Trail, url: str, outbox: Outbox) -> None:
    """However much waits, it is moved bit by bit, and all of it, in order."""
    write(url, *(statement(number) for number in range(7)))

    done = Relay(trail, outbox, batch=2).drain()

    assert Done(rows=7, events=7) == done
    assert [str(number) for number in range(7)] == moved(trail)


def test_large_rows_are_read_one_by_one(
    trail: Trail, url: str, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much a claim holds, no more of it is unpacked at a time than fits."""
    sizes: list[int] = []

    def record(events: Sequence[Event], *, may_lose: bool) -> int:
        sizes.append(len(events))
        return trail.record_many(events, may_lose=may_lose)

    bodies = [statement(1), statement(2), statement(*range(3, 40)), statement(40), "poison"]
    monkeypatch.setattr("indelible.relay.PORTION", 2 * len(bodies[0]) + 10)
    write(url, *bodies)
    failing = Failing(trail, outbox, record=record)

    done = Relay(failing, failing).move()

    assert [2, 37, 1] == sizes
    assert Done(rows=5, events=40, quarantined=1) == done
    assert [str(number) for number in range(1, 41)] == moved(trail)


def test_whole_events_are_moved_as_they_were_recorded(
    trail: Trail, url: str, outbox: Outbox
) -> None:
    """What the application recorded in its transaction goes where the policy routes it."""
    event = Event.permission_change("user:carol", "user:bob", granted=["approver"])
    write(url, pack_events([event], at=AT, entropy=os.urandom(12)))

    Relay(trail, outbox).drain()

    assert "admin" == trail.get(event.id).stream
    assert event == trail.get(event.id).event


@pytest.mark.parametrize(
    "error", [CrashError(), StoreError("the disk is away"), WriteUncertain("the answer was lost")]
)
@pytest.mark.parametrize("when", ["before", "after", "lost"])
def test_a_failure_neither_loses_nor_doubles_an_event(
    trail: Trail, url: str, outbox: Outbox, when: str, error: BaseException
) -> None:
    """
    Each event is in the trail once, wherever the relay was cut off.

    Before it was recorded, after that but before the rows are gone, or after they are gone
    but before anybody heard of it.
    """
    write(url, statement(1, 2), statement(3))
    failing = Failing(trail, outbox)
    getattr(failing, when).append(error)

    with pytest.raises(type(error)):
        Relay(failing, failing).move()
    done = Relay(trail, outbox).drain()

    expected = {
        "before": Done(rows=2, events=3),
        "after": Done(rows=2, repeated=3),
        "lost": Done(),
    }
    assert expected[when] == done
    assert ["1", "2", "3"] == moved(trail)
    assert 0 == outbox.waiting().rows


def test_what_was_half_recorded_is_completed(trail: Trail, url: str, outbox: Outbox) -> None:
    """A claim that was cut off in its middle is taken up where it stands."""
    first, second = statement(1), statement(2)
    write(url, first, second)
    trail.record_many(unpack(first))

    done = Relay(trail, outbox).drain()

    assert Done(rows=2, events=1, repeated=1) == done
    assert ["1", "2"] == moved(trail)


def test_a_row_that_is_there_twice_is_recorded_once(trail: Trail, url: str, outbox: Outbox) -> None:
    """Rows that came back with a backup of the database double nothing."""
    body = statement(1, 2)
    write(url, body, body)

    done = Relay(trail, outbox).drain()

    assert Done(rows=2, events=2, repeated=2) == done
    assert ["1", "2"] == moved(trail)


POISON = (
    "no JSON",
    "{}",
    '{"id": "'
    + "0" * 32
    + '", "at": "2026-11-24T13:28:51.000000Z", "rows": [["a b", "c", "d", {}]]}',
    '{"id": "'
    + "0" * 32
    + '", "at": "2026-11-24T13:28:51.000000Z", "rows": [["a.b", "c", "", {}]]}',
)


@pytest.mark.parametrize("poison", [*POISON, "too large"])
def test_a_row_that_holds_no_event_holds_up_no_other(
    trail: Trail, url: str, outbox: Outbox, poison: str
) -> None:
    """It is put aside with what is wrong with it, and everything else moves."""
    if poison == "too large":
        rows = [Row("invoice.update", "invoice", "8", {"x" * 100_000: Change(1, 2)})]
        (poison,) = pack(rows, CONTEXT, at=AT, entropy=os.urandom(12))
    write(url, statement(1), poison, statement(2))

    done = Relay(trail, outbox).drain()

    ((_, body, error),) = outbox.quarantined()
    assert Done(rows=3, events=2, quarantined=1) == done
    assert ["1", "2"] == moved(trail)
    assert poison == body
    assert error


def test_a_row_is_put_aside_as_a_whole(trail: Trail, url: str, outbox: Outbox) -> None:
    """Of a statement that one row of is no event, no half gets into the trail unseen."""
    whole = [
        Row("invoice.update", "invoice", "1", {"total": Change(1, 2)}),
        Row("invoice.update", "invoice", "2", {"x" * 100_000: Change(1, 2)}),
    ]
    (body,) = pack(whole, CONTEXT, at=AT, entropy=os.urandom(12))
    write(url, body)

    Relay(trail, outbox).drain()

    assert [] == moved(trail)
    assert 1 == outbox.waiting().quarantined


def test_what_was_put_aside_moves_when_its_cause_is_gone(
    trail: Trail, url: str, outbox: Outbox
) -> None:
    """A stream that the policy lacked, say: released, the row takes its way."""
    body = statement(1)
    write(url, body)
    with outbox.claim(1) as claim:
        claim.quarantine(claim.rows[0][0], "stream: found 'user', expected one of …")

    outbox.release()

    assert Done(rows=1, events=1) == Relay(trail, outbox).drain()
    assert ["1"] == moved(trail)


def test_a_stream_that_goes_on_loses_nothing_through_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, outbox: Outbox
) -> None:
    """What lies in the outbox is kept there until it is in the trail; none is given up."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    (tmp_path / "policy.toml").write_text(POLICY, "utf-8")
    event = Event(
        action="page.view",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse("page:home"),
    )
    write(url, pack_events([event], at=AT, entropy=os.urandom(12)))
    lost: list[tuple[str, int]] = []

    def refuse(pending: Pending) -> None:
        pending.error = StoreFull("store: the disk is full")
        pending.finish()

    with indelible.open(tmp_path / "trail", policy=tmp_path / "policy.toml") as trail:
        full = Recorder(trail.policy, refuse, lambda *what: lost.append(what))
        assert 0 == full.record_many([event])
        failing = Failing(trail, outbox, record=full.record_many)

        with pytest.raises(StoreFull):
            Relay(failing, failing).move()
        done = Relay(trail, outbox).drain()

        assert [("views", 1)] == lost  # of what was recorded without a relay
        assert Done(rows=1, events=1) == done
        assert event == trail.get(event.id).event


def test_what_the_policy_does_not_capture_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, outbox: Outbox
) -> None:
    """A row of which nothing is to be recorded does not wait for ever."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    policy = POLICY.replace(
        'action = "*"',
        'action = "invoice.*"\nlevel = "none"\nwhy = "w"\napproved_by = ["security"]\n'
        '[[rule]]\naction = "*"',
    )
    (tmp_path / "policy.toml").write_text(policy, "utf-8")
    write(url, statement(1))

    with indelible.open(tmp_path / "trail", policy=tmp_path / "policy.toml") as trail:
        assert Done(rows=1) == Relay(trail, outbox).drain()

    assert (0, None, 0) == outbox.waiting()


def test_the_lag_is_the_age_of_what_waits_longest(trail: Trail, url: str, outbox: Outbox) -> None:
    """Whoever operates the relay sees how far the trail is behind."""
    relay = Relay(trail, outbox)
    assert Lag(rows=0, seconds=0.0, quarantined=0) == relay.lag(AT)
    write(url, statement(1), statement(2))

    assert Lag(rows=2, seconds=30.0, quarantined=0) == relay.lag(AT + timedelta(seconds=30))
    # The clock of the application's host may be ahead of this one's.
    assert Lag(rows=2, seconds=0.0, quarantined=0) == relay.lag(AT - timedelta(seconds=30))


def test_the_lag_of_what_cannot_be_read_is_none(trail: Trail, url: str, outbox: Outbox) -> None:
    """A row that holds no event, and no time, does not make the question fail."""
    write(url, "no JSON")

    assert Lag(rows=1, seconds=0.0, quarantined=0) == Relay(trail, outbox).lag(AT)


def test_a_relay_that_runs_moves_what_comes_and_stops_when_told(
    trail: Trail, url: str, outbox: Outbox
) -> None:
    """What is written while it runs is in the trail soon after, and it ends without a loss."""
    stop, has_moved = threading.Event(), threading.Event()
    relay = Relay(trail, outbox)
    thread = threading.Thread(
        target=relay.run, args=(stop,), kwargs={"poll": 0.01, "on_done": lambda _: has_moved.set()}
    )
    thread.start()

    write(url, statement(1))

    assert has_moved.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert ["1"] == moved(trail)


def test_a_relay_that_runs_waits_for_what_is_away(trail: Trail, url: str, outbox: Outbox) -> None:
    """A database or a disk that comes back finds the relay still there."""
    stop = threading.Event()
    error = StoreError("the disk is away")
    failing = Failing(trail, outbox, before=[error])
    told: list[Exception] = []
    write(url, statement(1))

    Relay(failing, failing).run(stop, on_error=told.append, on_done=lambda _: stop.set())

    assert [error] == told
    assert ["1"] == moved(trail)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.test_relay import statement, write
for first in range(int(sys.argv[3]), int(sys.argv[4]), 10):
    write(sys.argv[2], *(statement(number) for number in range(first, first + 10)))
"""
RELAY = """
import sys
import indelible
from indelible.outboxes import open_outbox
from indelible.recorder import Recorder
from indelible.relay import Relay
sys.stdin.readline()
with indelible.open(sys.argv[1]) as trail:
    relay = Relay(trail, open_outbox(sys.argv[2]), batch=7)
    while True:
        done = relay.move()
        print(done.rows, flush=True)
"""


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """Run *code* in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin(process: subprocess.Popen[str]) -> None:
    """Let a relay begin that is loaded and waits."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process, and wait until it is gone."""
    process.kill()
    process.communicate()
    assert -signal.SIGKILL == process.returncode


def test_two_relays_and_writers_at_once_move_each_event_once(
    trail: Trail, url: str, outbox: Outbox
) -> None:
    """A second relay, started by mistake or for a move to another host, doubles nothing."""
    writers = [start(WRITER, ROOT, url, first, first + 200) for first in (0, 200)]
    relays = [start(RELAY, trail.path, url) for _ in range(2)]
    for relay in relays:
        begin(relay)

    assert [0, 0] == [writer.wait() for writer in writers]
    for process in (*relays, *writers):
        process.kill()
        process.communicate()
    Relay(trail, outbox).drain()

    assert Counter(str(number) for number in range(400)) == Counter(moved(trail))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_relay_that_is_killed_at_any_moment_neither_loses_nor_doubles(
    trail: Trail, url: str, outbox: Outbox, seed: int
) -> None:
    """Outbox and trail together hold each event, and once it is moved on it is there once."""
    generator = random.Random(seed)
    count, kills = 300, 8
    write(url, *(statement(number) for number in range(count)))
    relays = [start(RELAY, trail.path, url) for _ in range(kills)]

    for relay in relays:
        begin(relay)
        assert relay.stdout is not None
        for _ in range(generator.randrange(1, 5)):
            relay.stdout.readline()
        # Between two of its answers there is no telling where it is.
        threading.Event().wait(generator.random() * 0.01)
        kill(relay)
        known = Counter(moved(trail))
        assert set(known.values()) <= {1}
        assert count <= sum(known.values()) + outbox.waiting().rows

    Relay(trail, outbox).drain()
    assert [str(number) for number in range(count)] == sorted(moved(trail), key=int)
    trail.verify().require()
