"""A trail's logs get to a collector whole and once, whatever fails in between."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import closing
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.errors import (
    CallerError,
    Forbidden,
    IndelibleError,
    KeyUnavailable,
    NotFound,
    Rollback,
    StoreError,
    UnknownStream,
    VerificationError,
)
from indelible.log import restore
from indelible.shipping import progress_of
from indelible.sinks.collector import BackgroundShipper, Sent, Shipper
from tests.sinks.taker import (
    TOKEN,
    Taker,
    answers_without_end,
    breaks_off,
    drops_the_request,
    loses_the_answer,
    refuses,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible import Trail
    from tests.sinks.taker import Fault

ORIGIN = "audit.example.com/shop"


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """A trail in which two invoices were approved."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail", origin=ORIGIN) as audit:
        record(audit, 2)
        yield audit


@pytest.fixture
def taker(trail: Trail) -> Iterator[Taker]:
    """The collector."""
    with Taker(trail) as taker:
        yield taker


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.time


class Heard:
    """What a shipper has said."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.faults: list[tuple[str, IndelibleError, bool]] = []

    def fault(self, log: str, error: IndelibleError, is_stuck: bool) -> None:
        """Take note."""
        self.faults.append((log, error, is_stuck))


@pytest.fixture
def heard() -> Heard:
    """Nothing yet."""
    return Heard()


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def shipper(trail: Trail, taker: Taker, clock: Clock, heard: Heard) -> Iterator[Shipper]:
    """One of the user stream, whose pauses are as long as they may be."""
    shipper = Shipper(
        trail,
        taker.url,
        TOKEN,
        streams=["user"],
        allow_plaintext=True,
        now=clock,
        draw=lambda: 1.0,
        on_sent=heard.sent.append,
        on_fault=heard.fault,
    )
    yield shipper
    shipper.close()


def eager(trail: Trail, taker: Taker, **more: object) -> Shipper:
    """Return a shipper of all streams that tries again at once."""
    return Shipper(trail, taker.url, TOKEN, allow_plaintext=True, draw=lambda: 0.0, **more)  # type: ignore[arg-type]


def record(trail: Trail, times: int = 1) -> None:
    """Let an invoice be approved that often."""
    for number in range(times):
        trail.record("invoice.approve", actor="user:alice", resource=f"invoice:INV-{number}")


def entries(trail: Trail, log: str = "user") -> list[bytes]:
    """Return the exact entries of a log."""
    with trail.store.read() as view:
        return [*map(restore, view.stored(log, range(view.heads()[log].size)))]


def arrived(trail: Trail, taker: Taker, log: str = "user") -> bool:
    """Tell whether the collector has exactly what the log holds."""
    return entries(trail, log) == taker.taken[f"{ORIGIN}/{log}"]


def test_all_logs_arrive(trail: Trail, taker: Taker) -> None:
    """What was recorded, and what the trail says about itself, is at the collector."""
    with closing(eager(trail, taker)) as shipper:
        shipper.drain(10)

    assert arrived(trail, taker)
    assert arrived(trail, taker, "custody")
    with trail.store.read() as view:
        progress = progress_of(view, "user")
    assert progress is not None
    assert (taker.url, 2, "over 2\n") == (progress.url, progress.size, progress.checkpoint)


def test_only_chosen_streams_are_shipped(trail: Trail, taker: Taker) -> None:
    """Whoever ships one stream gives the collector no other."""
    with closing(eager(trail, taker, streams=["user"])) as shipper:
        shipper.drain(10)

    assert (2, 0) == (taker.size("user"), taker.size("custody"))
    with pytest.raises(UnknownStream):
        eager(trail, taker, streams=["payments"])


def test_what_was_sent_is_not_sent_again(trail: Trail, taker: Taker, shipper: Shipper) -> None:
    """A collector is asked once what it has, and then only told what is new."""
    shipper.drain()
    record(trail)
    shipper.drain()

    path = f"/v1/producers/{ORIGIN}/user"
    assert [("GET", path), *[("POST", f"{path}/entries")] * 2] == taker.asked
    assert [2, 1] == [len(each.entries) for each in taker.shipments]
    assert [1, 0] == [len(each.policies) for each in taker.shipments]


def test_what_a_collector_has_already_is_gone_on_with(trail: Trail, taker: Taker) -> None:
    """A process that begins asks the collector, not its own memory."""
    with closing(eager(trail, taker)) as first:
        first.drain(10)
    record(trail)
    taker.shipments.clear()

    with closing(eager(trail, taker, streams=["user"])) as again:
        again.drain(10)

    assert [1] == [len(each.entries) for each in taker.shipments]
    assert arrived(trail, taker)


FAULTS: tuple[Fault, ...] = (
    drops_the_request,
    loses_the_answer,
    breaks_off,
    answers_without_end,
    refuses(429, "too-many", Retry_After="0"),
    refuses(503, "store-away", Retry_After="0"),
    refuses(500, "internal"),
    refuses(408, "too-slow"),
    says(502, b"<html>Bad Gateway</html>"),
    says(200, b"<html>Welcome</html>"),
    says(200, b'{"producer":"x"}'),
    says(200, b'{"producer":"x","size":1,"stream":"s","log":"l","checkpoint":""}'),
    says(200, b"[" * 100_000),
)


def test_what_goes_wrong_loses_and_doubles_nothing(trail: Trail, taker: Taker) -> None:
    """Before it took effect or after, every failure ends with each entry there once."""
    with closing(eager(trail, taker, streams=["user"], on_fault=lambda *_: None)) as shipper:
        for fault in FAULTS:
            record(trail)
            # What the collector is sent, and what it is asked when that went wrong.
            taker.faults.extend([fault, fault])
            shipper.drain(10)

            assert not taker.faults
            assert arrived(trail, taker)


def test_an_outage_of_any_length_is_waited_for(
    trail: Trail, taker: Taker, shipper: Shipper, clock: Clock, heard: Heard
) -> None:
    """Pauses double from half a second to a minute, it is said once, and nothing is lost."""
    taker.faults.extend([refuses(500, "internal")] * 10)
    pauses = []
    while taker.faults:
        shipper.ship()
        waited = 0.0
        while shipper.seconds_left() > 0:
            waited += shipper.seconds_left()
            clock.time += shipper.seconds_left()
        pauses.append(waited)

    record(trail)
    shipper.ship()

    assert pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]) == pauses
    assert [("user", False)] == [(log, is_stuck) for log, _, is_stuck in heard.faults]
    assert arrived(trail, taker)


def test_a_collector_that_asks_for_time_is_given_it(
    trail: Trail, taker: Taker, shipper: Shipper, clock: Clock
) -> None:
    """As long as it says, within five minutes, whatever it says it in."""
    for asked, waits in (
        ("7", 7),
        ("86400", 300),
        ("99999999999999999999", 300),
        (formatdate(4_000_000_000, usegmt=True), 300),
        (formatdate(0, usegmt=True), 0),
        ("soon", 0),
        ("-1", 0),
    ):
        record(trail)
        taker.faults.append(refuses(429, "too-many", Retry_After=asked))
        shipper.ship()

        clock.time += waits + 0.4  # half a second is the first pause
        shipper.ship()
        assert not arrived(trail, taker)
        clock.time += 0.2
        shipper.ship()
        assert arrived(trail, taker)


def test_what_needs_a_person_is_said_once_and_tried_every_five_minutes(
    trail: Trail, taker: Taker, shipper: Shipper, clock: Clock, heard: Heard
) -> None:
    """A log that a collector refuses waits for somebody, loses nothing, and then goes on."""
    for status, kind, error in (
        (401, "unauthenticated", Forbidden),
        (403, "revoked", Forbidden),
        (404, "not-found", NotFound),
        (409, "conflict", VerificationError),
        (409, "forked", VerificationError),
        (422, "inconsistent", VerificationError),
        (400, "malformed", CallerError),
        (413, "too-large", CallerError),
        (307, "elsewhere", CallerError),
    ):
        record(trail)
        heard.faults.clear()
        taker.faults.extend([refuses(status, kind)] * 2)
        with pytest.raises(error, match="why it is so"):
            shipper.drain(10)
        asked = len(taker.asked)

        clock.time += 299
        shipper.ship()
        assert asked == len(taker.asked)
        clock.time += 1
        shipper.ship()
        assert asked + 1 == len(taker.asked)
        clock.time += 300
        shipper.ship()

        assert [("user", True)] == [(log, is_stuck) for log, _, is_stuck in heard.faults]
        assert arrived(trail, taker)


def test_a_log_that_is_refused_holds_up_no_other(trail: Trail, taker: Taker) -> None:
    """Each log has its own way, and what stands in it is its own."""
    del taker.producers[f"{ORIGIN}/custody"]
    shipper = eager(trail, taker)

    with pytest.raises(NotFound, match=r"is audit\.example\.com/shop/custody enrolled"):
        shipper.drain(10)
    shipper.close()

    assert arrived(trail, taker)


def test_a_collector_that_lost_entries_gets_them_again(
    trail: Trail, taker: Taker, shipper: Shipper, clock: Clock
) -> None:
    """One that was restored from before they came says so, and has them soon."""
    shipper.drain()
    taker.forget(f"{ORIGIN}/user")
    record(trail)

    shipper.ship()
    clock.time += 1
    shipper.ship()

    assert arrived(trail, taker)


def test_a_collector_that_has_another_log_gets_nothing(trail: Trail, tmp_path: Path) -> None:
    """Two logs of one name are never joined into one, and somebody is told."""
    with indelible.open(tmp_path / "other", origin=ORIGIN) as other, Taker(other) as elsewhere:
        record(other, 3)
        elsewhere.enrol("user")
        with closing(eager(other, elsewhere, streams=["user"])) as shipper:
            shipper.drain(10)
        record(trail, 3)
        shipper = eager(trail, elsewhere, streams=["user"])

        with pytest.raises(Rollback, match="found root"):
            shipper.drain(10)
        shipper.close()

        assert 3 == elsewhere.size("user")


def test_values_whose_key_is_away_wait(
    trail: Trail, taker: Taker, tmp_path: Path, heard: Heard
) -> None:
    """It is no error of the log: when the key is back, the values go."""
    trail.close()
    key, elsewhere = tmp_path / "trail" / "keys" / "vault-1.key", tmp_path / "elsewhere"
    key.rename(elsewhere)
    with indelible.open(tmp_path / "trail", mode="r") as locked:
        shipper = eager(locked, taker, streams=["user"], on_fault=heard.fault)
        with pytest.raises(StoreError, match="has not all of user: "):
            shipper.drain(0)
        elsewhere.rename(key)
        shipper.drain(10)
        shipper.close()

    assert [False] == [is_stuck for _, _, is_stuck in heard.faults]
    assert isinstance(heard.faults[0][1], KeyUnavailable)
    assert 2 == taker.size("user")


def test_a_new_token_is_taken_into_use(trail: Trail, taker: Taker, tmp_path: Path) -> None:
    """A token in a file may be replaced before it expires, and nothing is restarted."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    shipper = Shipper(trail, taker.url, file, streams=["user"], allow_plaintext=True)
    shipper.drain(10)
    record(trail)
    taker.token = "indelible_another"  # noqa: S105 - of a test

    with pytest.raises(Forbidden):
        shipper.drain(10)
    file.write_text(taker.token)
    shipper.drain(10)
    shipper.close()

    assert arrived(trail, taker)


def test_nothing_goes_to_what_is_no_url_of_a_collector(trail: Trail) -> None:
    """Values of people travel under TLS alone, and a password in a URL is not shown."""
    for url, message in (
        ("http://collector.example.com", "found 'http', expected 'https'"),
        ("ftp://127.0.0.1", "found 'ftp', expected 'https'"),
        ("https://alice:secret@collector.example.com", "found user, query"),
        ("https://collector.example.com?a=secret", "found user, query"),
        ("collector.example.com", "found user, query, fragment or no host"),
        ("https://", "no host"),
        ("https://collector.example.com:port", "URL of the collector: "),
    ):
        with pytest.raises(CallerError, match=message) as caught:
            Shipper(trail, url, TOKEN, allow_plaintext=True)

        assert "secret" not in str(caught.value)
    with pytest.raises(CallerError, match="expected 'https'"):
        Shipper(trail, "http://127.0.0.1:1", TOKEN)


def test_what_no_header_can_carry_is_no_token(trail: Trail) -> None:
    """It is said at once, and without showing it."""
    for token in ("", "secret token", "secret\n", "sécret"):
        with pytest.raises(CallerError, match="found none that a header can carry") as caught:
            Shipper(trail, "https://collector.example.com", token)

        assert "cret" not in str(caught.value)


def test_a_file_that_cannot_be_used_is_named(trail: Trail, tmp_path: Path) -> None:
    """Token, authority and certificate are looked at before anything is sent."""
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_text("")
    url = "https://collector.example.com"

    for given, message in (
        ({"token": missing}, "token in .*missing: No such file"),
        ({"token": TOKEN, "ca": missing}, "ca .*missing: No such file"),
        ({"token": TOKEN, "ca": empty}, "ca .*empty: "),
        ({"token": TOKEN, "certificate": empty}, "certificate .*empty: "),
    ):
        with pytest.raises(CallerError, match=message):
            Shipper(trail, url, **given)


def test_a_library_that_is_missing_is_named(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message holds the command that installs it."""
    monkeypatch.setitem(sys.modules, "httpx2", None)

    with pytest.raises(CallerError, match=r"pip install 'indelible\[client\]'"):
        Shipper(trail, "https://collector.example.com", TOKEN)


def test_one_process_at_a_time_ships_a_trail(trail: Trail, taker: Taker) -> None:
    """A second one stands by, sees what has arrived, and takes over when the first ends."""
    first, second = (eager(trail, taker, streams=["user"]) for _ in range(2))
    first.drain(10)
    asked = len(taker.asked)

    second.drain(10)
    record(trail)
    with pytest.raises(StoreError, match="another process ships this trail"):
        second.drain(0)
    assert asked == len(taker.asked)

    first.close()
    second.drain(10)
    second.close()
    assert arrived(trail, taker)


def test_what_is_recorded_is_shipped_when_it_is_told(trail: Trail, taker: Taker) -> None:
    """Nothing waits for a time to pass: who recorded says so."""
    background = BackgroundShipper(eager(trail, taker), poll=3600)
    background.kick()
    taker.wait_for("user", 2)

    record(trail)
    background.kick()
    taker.wait_for("user", 3)

    background.stop()
    assert arrived(trail, taker)


def test_what_others_record_is_shipped_too(trail: Trail, taker: Taker) -> None:
    """It looks by itself: another process has nobody to tell it."""
    with BackgroundShipper(eager(trail, taker), poll=0.01):
        taker.wait_for("user", 2)
        record(trail)
        taker.wait_for("user", 3)


def test_what_waits_is_sent_before_it_ends(trail: Trail, taker: Taker) -> None:
    """A program that runs for a moment leaves nothing behind that the collector would take."""
    with BackgroundShipper(eager(trail, taker), poll=3600):
        taker.wait_for("custody", 1)
        record(trail, 3)

    assert arrived(trail, taker)
    assert arrived(trail, taker, "custody")


def test_recording_waits_for_no_collector(trail: Trail, taker: Taker) -> None:
    """While a flight hangs in the air, events are recorded; they go when it has landed."""
    hangs, flies = threading.Event(), threading.Event()

    def hang(request: object, act: Callable[[], tuple[int, dict[str, str], bytes]]) -> None:
        hangs.set()
        flies.wait(10)
        request.say(*act())  # type: ignore[attr-defined]

    taker.faults.append(hang)
    background = BackgroundShipper(eager(trail, taker, streams=["user"])).start()
    assert hangs.wait(10)

    record(trail, 5)

    assert 0 == taker.size("user")
    flies.set()
    background.stop()
    assert 7 == taker.size("user")
    assert arrived(trail, taker)


def test_it_stops_after_the_flight_under_way(trail: Trail, taker: Taker) -> None:
    """However much waits, who stops it waits for one shipment."""
    event = indelible.Event.data_change("user:alice", "update", "invoice:INV-7", {"a": (1, 2)})
    trail.record_many([event] * 2_000)
    stop = threading.Event()
    shipper = eager(trail, taker, on_sent=lambda _: stop.set())

    shipper.run(stop, patience=0)

    assert 1 == len(taker.shipments)


def test_an_error_of_the_trail_itself_does_not_end_it(
    trail: Trail, taker: Taker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trail's own directory cannot be written, it waits until it can."""
    # Whatever has configured logging in this process may have switched it off.
    monkeypatch.setattr(logging.getLogger("indelible"), "disabled", False)
    lock = trail.path / "ship.lock"
    lock.mkdir()
    background = BackgroundShipper(eager(trail, taker), poll=0.01).start()
    background.kick()
    while "Is a directory" not in caplog.text:
        threading.Event().wait(0.01)

    lock.rmdir()
    taker.wait_for("user", 2)

    background.stop()
    assert arrived(trail, taker)


def test_a_forked_process_has_a_thread_of_its_own(trail: Trail, taker: Taker) -> None:
    """A worker that a server forks off ships what it records when the server itself ended."""
    background = BackgroundShipper(eager(trail, taker), poll=0.01).start()
    taker.wait_for("user", 2)
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(end)
            os.read(ended, 1)
            record(trail)
            background.kick()
            background.drain(10)
            background.stop()
            code = 0
        finally:
            os._exit(code)

    background.stop()
    os.close(ended)
    os.close(end)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    assert 3 == taker.size("user")
    assert arrived(trail, taker)


def test_it_says_what_goes_wrong(
    trail: Trail, taker: Taker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is a warning, what needs a person an error, each once; and no token is in it."""
    monkeypatch.setattr(logging.getLogger("indelible"), "disabled", False)
    caplog.set_level(logging.INFO, "indelible")
    shipper = eager(trail, taker, streams=["user"])
    taker.faults.extend([drops_the_request, refuses(401, "unauthenticated"), drops_the_request])

    shipper.ship()
    shipper.ship()
    with pytest.raises(IndelibleError):
        shipper.drain(0)
    shipper.drain(10)
    shipper.close()

    said = [(each.levelname, each.getMessage()) for each in caplog.records if "ship" in each.msg]
    assert ["WARNING", "ERROR", "WARNING", "INFO"] == [level for level, _ in said]
    assert TOKEN not in caplog.text
