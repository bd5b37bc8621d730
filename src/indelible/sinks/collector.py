"""
Collector: ships the logs of a trail to one, over HTTPS, for as long as it takes.

What goes next, `indelible.shipping` says; here it is sent, and what was answered is
understood. The trail's own log is the spool: nothing is dropped, and whoever records waits
for nothing of this. One process at a time ships a trail; another takes over when it ends.

Needs ``pip install 'indelible[client]'``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import ssl
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from indelible import shipping
from indelible.creation import system_errors
from indelible.errors import (
    CallerError,
    Forbidden,
    IndelibleError,
    KeyUnavailable,
    NotFound,
    StoreError,
    VerificationError,
    WriteUncertain,
)
from indelible.log import head_of
from indelible.shipping import Progress
from indelible.wire import Enrolled, Enrolment, Problem, ShipmentReceipt, Standing, is_this_machine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Self

    import httpx2

    from indelible.shipping import Consignment
    from indelible.store import View
    from indelible.trail import Trail

T = TypeVar("T")

ENVIRONMENT = "INDELIBLE_TOKEN"
"""Holds the access token where none is given."""

POLL = 1.0
"""Seconds after which it looks without having been told: other processes record, too."""

PATIENCE = 5.0
"""Seconds for which what still waits is sent when it is stopped."""

_GATHER = 0.2
"""Seconds between two shipments of little, so that each event is not one of its own."""

_LEAST_PAUSE, _MOST_PAUSE = 0.5, 60.0
_MOST_RETRY_AFTER = 300.0
_STUCK_PAUSE = 300.0
_REMEMBER = 1.0
_CONNECT, _READ = 5.0, 30.0
_ANSWER = 60.0
_MOST_ANSWERED = 4 * 1024 * 1024
_MOST_SAID = 300
_LEVEL = 3
_ZSTD = b"\x28\xb5\x2f\xfd"
"""What a zstd frame begins with, and no JSON."""

_TRY_AGAIN = frozenset({408, 425, 429})
_UNKNOWN = frozenset({401, 403})
_SERVER_ERROR = 500
_log = logging.getLogger("indelible")


class Away(StoreError):
    """
    A collector that cannot be reached, or takes nothing at the moment.

    Args:
        retry_after: Seconds for which it asks to be left alone.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Sent(NamedTuple):
    """
    A shipment that was taken.

    Attributes:
        entries: How many were sent.
        size: How many of the log's entries the collector has now.
        behind: How many more there were when it was sent.
    """

    log: str
    entries: int
    size: int
    behind: int


@dataclass(slots=True)
class _Course:
    """
    Where the shipping of one log has come to.

    Attributes:
        size: How many entries the collector has; None where it is to be asked.
        known: Labels of policies that it was sent.
        failures: How often in a row it went wrong.
        due: When it is tried again, by the monotonic clock.
        fault: What went wrong the last time.
    """

    size: int | None = None
    known: set[str] = field(default_factory=set)
    failures: int = 0
    due: float = 0.0
    fault: IndelibleError | None = None


class Shipper:
    """
    The way of a trail's logs to one collector; usable from several threads.

    Args:
        url: ``https://collector.example.com``; what comes before ``/v1``.
        token: An access token for a recorder; or the file that holds it, which is read
            each time, so that it may be replaced. By default what ``INDELIBLE_TOKEN`` holds.
        ca: File with the certificates that are trusted instead of the system's.
        certificate: File with the client's certificate and key, in PEM.
        streams: Those whose logs are shipped; by default all.
        allow_plaintext: Let ``http`` pass, to this host only: for tests.
        on_sent: Told of each shipment that was taken.
        on_fault: Told of a log, what went wrong with it, and whether a person is needed;
            once, until it goes on or becomes another matter.

    Raises:
        CallerError: The URL, the token, or a file cannot be used, or httpx2 is not installed.
        UnknownStream: The trail has no such stream.
    """

    def __init__(
        self,
        trail: Trail,
        url: str,
        token: str | Path | None = None,
        *,
        ca: Path | str | None = None,
        certificate: Path | str | None = None,
        streams: Collection[str] | None = None,
        allow_plaintext: bool = False,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        on_sent: Callable[[Sent], object] = lambda _: None,
        on_fault: Callable[[str, IndelibleError, bool], object] | None = None,
    ) -> None:
        self._trail = trail
        self._link = Link(
            url, token, ca=ca, certificate=certificate, allow_plaintext=allow_plaintext
        )
        self.url = self._link.url
        self._streams = None if streams is None else frozenset(streams)
        self._now, self._draw = now, draw
        self._on_sent = on_sent
        self._on_fault = _say if on_fault is None else on_fault
        with trail.store.read() as view:
            for stream in streams or ():
                head_of(view.heads(), stream)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._turn = _Turn(self._trail.path / "ship.lock")
        self._courses: dict[str, _Course] = {}
        self._unsaid: dict[str, Progress] = {}
        self._said_at = -_REMEMBER

    def ship(self, stop: threading.Event | None = None) -> bool:
        """
        Send one shipment of each log that has more and whose turn it is.

        Where it fails, it is tried again later, the later the more often it failed; nobody
        else is told but ``on_fault``.

        Args:
            stop: Once it is set, no further one is begun.

        Returns:
            Whether there is more that can be sent at once.

        Raises:
            StoreError: The trail itself cannot be read, or not be locked.
        """
        with self._lock:
            if not self._take_turn():
                return False
            more = False
            for log in self._logs():
                if stop is not None and stop.is_set():
                    break
                course = self._courses.setdefault(log, _Course())
                if self._now() >= course.due:
                    more = self._advance(log, course) or more
            self._remember()
            return more

    def drain(self, timeout: float | None = None) -> None:
        """
        Return when the collector has all that the trail holds now.

        Args:
            timeout: Seconds after which it is given up.

        Raises:
            StoreError: Time is up, or the trail itself cannot be read.
            CallerError, VerificationError: A log cannot be shipped without a person.
        """
        until = None if timeout is None else self._now() + timeout
        with self._lock, self._trail.store.read() as view:
            wanted = {log: view.heads()[log].size for log in self._logs(view)}
            for course in self._courses.values():
                course.due = 0.0
        pause = threading.Event()
        while behind := self._behind(wanted):
            if self.ship() or self._behind(wanted) != behind:
                continue
            faults = [self._courses[log].fault for log in behind if log in self._courses]
            stuck = [fault for fault in faults if fault is not None and _needs_person(fault)]
            if stuck and len(stuck) == len(behind):
                raise stuck[0]
            left = _GATHER if until is None else until - self._now()
            if left <= 0:
                raise self._given_up(behind)
            pause.wait(min(self.seconds_left(), _GATHER, left))
        with self._lock:
            self._remember(at_once=True)

    def run(
        self,
        stop: threading.Event,
        wake: threading.Event | None = None,
        *,
        poll: float = POLL,
        patience: float = PATIENCE,
    ) -> None:
        """
        Send what comes until *stop* is set, and then what is left; it ends by no error.

        Args:
            wake: Set when something was recorded, and with *stop*.
            poll: Seconds between looks without having been told.
            patience: Seconds for what is left, as long as the collector takes it.
        """
        wake = stop if wake is None else wake
        while not stop.is_set():
            if self._ship(stop):
                continue
            stop.wait(min(_GATHER, poll))
            wake.wait(min(poll, self.seconds_left()))
            if wake is not stop:
                wake.clear()
        until = self._now() + patience
        while self._now() < until and self._ship():
            pass
        self.close()

    def seconds_left(self) -> float:
        """Return how long until something that failed is to be tried again, `POLL` at most."""
        now = self._now()
        waits = [course.due - now for course in list(self._courses.values()) if course.fault]
        return max(0.0, min([POLL, *waits]))

    def close(self) -> None:
        """Keep how far the collector has come, and let go of connection and turn."""
        with self._lock:
            with suppress(IndelibleError):
                self._remember(at_once=True)
            self._link.close()
            self._turn.give_back()

    def after_fork_in_child(self) -> None:
        """Begin anew: connection and turn belong to the parent."""
        self._turn.leave()
        self._link.leave()
        self._begin()

    def _ship(self, stop: threading.Event | None = None) -> bool:
        try:
            return self.ship(stop)
        except Exception as error:  # noqa: BLE001 - or nothing would be shipped any more
            # Without its traceback, where values may stand.
            said = str(error) if isinstance(error, IndelibleError) else type(error).__name__
            _log.warning("shipping to %s waits: %s", self.url, said)
            return False

    def _take_turn(self) -> bool:
        if self._turn.is_held:
            return True
        # Whoever had it before may have come further.
        self._courses.clear()
        return self._turn.take()

    def _logs(self, view: View | None = None) -> list[str]:
        """Return the logs to be shipped that hold something."""
        if view is None:
            with self._trail.store.read() as opened:
                return self._logs(opened)
        return [
            log
            for log, head in view.heads().items()
            if head.size and (self._streams is None or head.stream in self._streams)
        ]

    def _advance(self, log: str, course: _Course) -> bool:
        """Send the next shipment of *log*; return whether there is one after it."""
        try:
            more = self._send(log, course)
        except Exception as error:  # noqa: BLE001 - the other logs go on
            known = isinstance(error, IndelibleError)
            self._failed(log, course, error if known else StoreError(type(error).__name__))  # type: ignore[arg-type]
            return False
        if course.fault is not None:
            _log.info("log %s: shipping to %s goes on", log, self.url)
        course.fault, course.failures = None, 0
        return more

    def _send(self, log: str, course: _Course) -> bool:
        trail = self._trail
        if course.size is None:
            self._ask(log, course)
        with trail.store.read() as view:
            consignment = shipping.consign(view, log, course.size or 0, trail.vault, course.known)
            size = view.heads()[log].size
        if consignment is None:
            return False
        receipt = self._link.send(consignment)
        if receipt.size < consignment.size:
            raise Away(
                f"{self.url}: log {log}: took {receipt.size} entries, expected {consignment.size}"
            )
        # Where it has more than it was sent, somebody else ships this log: we ask and compare.
        course.size = receipt.size if receipt.size == consignment.size else None
        course.known |= consignment.policies
        self._note(log, receipt.size, receipt.checkpoint)
        if consignment.left:
            places = ", ".join(consignment.left)
            _log.warning("log %s: values too large to be shipped stay here: %s", log, places)
        behind = max(size - receipt.size, 0)
        entries = len(consignment.shipment.entries)
        self._on_sent(Sent(log=log, entries=entries, size=receipt.size, behind=behind))
        return behind > 0

    def _ask(self, log: str, course: _Course) -> None:
        """Ask what the collector has of *log*, and compare."""
        with self._trail.store.read() as view:
            origin = view.heads()[log].origin
        standing = self._link.standing(origin)
        with self._trail.store.read() as view:
            shipping.verify_standing(view, log, standing)
            progress = shipping.progress_of(view, log)
        course.size = standing.size
        course.known.clear()
        if progress is None or (progress.url, progress.size) != (self.url, standing.size):
            self._note(log, standing.size, "")

    def _failed(self, log: str, course: _Course, error: IndelibleError) -> None:
        is_stuck = _needs_person(error)
        retry_after = error.retry_after if isinstance(error, Away) else None
        if retry_after is None:
            course.size = None
        # The whole of the pause is drawn, or all who lost a collector would be back at once.
        most = min(_LEAST_PAUSE * 2.0**course.failures, _MOST_PAUSE)
        pause = _STUCK_PAUSE if is_stuck else (retry_after or 0.0) + self._draw() * most
        course.due = self._now() + pause
        course.failures = min(course.failures + 1, 16)
        before, course.fault = course.fault, error
        if before is None or _needs_person(before) != is_stuck:
            self._on_fault(log, error, is_stuck)

    def _note(self, log: str, size: int, checkpoint: str) -> None:
        self._unsaid[log] = Progress(
            url=self.url, size=size, checkpoint=checkpoint, at=time.time_ns() // 1_000
        )

    def _remember(self, *, at_once: bool = False) -> None:
        """Keep how far the collector has come, once a second at most."""
        if not self._unsaid or (not at_once and self._now() < self._said_at + _REMEMBER):
            return
        # It is only shown: where it cannot be written now, it is with the next.
        with suppress(StoreError, WriteUncertain), self._trail.store.write() as transaction:
            for log, progress in self._unsaid.items():
                shipping.remember(transaction, log, progress)
        self._unsaid.clear()
        self._said_at = self._now()

    def _behind(self, wanted: dict[str, int]) -> list[str]:
        """Return the logs of which the collector has less than is *wanted*."""
        if self._turn.is_held:
            sizes = {log: course.size or 0 for log, course in list(self._courses.items())}
        else:
            with self._trail.store.read() as view:
                found = {log: shipping.progress_of(view, log) for log in wanted}
            sizes = {log: each.size for log, each in found.items() if each and each.url == self.url}
        return [log for log, size in wanted.items() if sizes.get(log, 0) < size]

    def _given_up(self, behind: list[str]) -> StoreError:
        faults = [course.fault for log in behind if (course := self._courses.get(log))]
        why = next((str(fault) for fault in faults if fault is not None), "time is up")
        if not self._turn.is_held:
            why = "another process ships this trail"
        return StoreError(f"{self.url}: has not all of {', '.join(behind)}: {why}")


def _needs_person(error: IndelibleError) -> bool:
    # A key may be back when the network or whoever keeps it is.
    return isinstance(error, (CallerError, VerificationError)) and not isinstance(
        error, KeyUnavailable
    )


def _say(log: str, error: IndelibleError, is_stuck: bool) -> None:  # noqa: FBT001 - a callback
    if is_stuck:
        _log.error("log %s is not shipped until somebody sees to it: %s", log, error)
    else:
        _log.warning("log %s waits to be shipped: %s", log, error)


class BackgroundShipper:
    """
    A shipper in a thread of the application's own process, from `start` to `stop`.

    A process that is forked off begins a thread of its own.

    Args:
        poll: Seconds between looks without having been told.
        patience: Seconds for which what still waits is sent when it is stopped.
    """

    def __init__(self, shipper: Shipper, *, poll: float = POLL, patience: float = PATIENCE) -> None:
        self._shipper = shipper
        self._poll, self._patience = poll, patience
        self.drain = shipper.drain
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def kick(self) -> None:
        """Let it look now; something was recorded."""
        if self._thread is None:
            self.start()
        self._wake.set()

    def start(self) -> Self:
        """Begin the thread, unless it has begun or was stopped."""
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._shipper.run,
                    args=(self._stopping, self._wake),
                    kwargs={"poll": self._poll, "patience": self._patience},
                    name="indelible-shipper",
                    daemon=True,
                )
                self._thread.start()
        return self

    def stop(self, timeout: float | None = None) -> None:
        """
        Send what waits now, as far as the collector takes it, and end the thread.

        Args:
            timeout: Seconds for a flight that is under way to end. One that hangs in the air
                is left behind then: what it carries is in the log, and is sent again.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
            self._wake.set()
        if thread is not None:
            thread.join(self._patience + _CONNECT if timeout is None else timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def after_fork_in_child(self) -> None:
        """Begin anew: the thread belongs to the parent."""
        self._shipper.after_fork_in_child()
        self._begin()


class _Turn:
    """The right to ship a trail, which one process has until it gives it back or ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process has it."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it, unless another process has it."""
        with system_errors(self._path.parent):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            # A process that was forked meanwhile may hold the descriptor, too.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.leave()

    def leave(self) -> None:
        """Close what was inherited; the parent still has it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Link:
    """Requests to one collector; its answers come back as values or as errors."""

    def __init__(
        self,
        url: str,
        token: str | Path | None,
        *,
        ca: Path | str | None,
        certificate: Path | str | None,
        allow_plaintext: bool,
    ) -> None:
        try:
            import httpx2  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise CallerError("collector: pip install 'indelible[client]'") from error
        self._http = httpx2
        self.url = self._checked(url, allow_plaintext=allow_plaintext)
        if token is None and not (token := os.environ.get(ENVIRONMENT)):
            raise CallerError(f"token: found none, and {ENVIRONMENT} holds none")
        self._token = token
        self._authorization()
        self._context = (
            _context(ca, certificate)
            if self.url.startswith("https:")
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and costs nothing
        )
        self._client: httpx2.Client | None = None

    def standing(self, origin: str) -> Standing:
        """
        Return what the collector has of the log of *origin*.

        Raises:
            StoreError, CallerError, VerificationError: As `send`.
        """
        return self._answered("GET", _path(origin), None, Standing)

    def send(self, consignment: Consignment) -> ShipmentReceipt:
        """
        Send a shipment, and return what the collector says when it is durable there.

        Raises:
            Away: It cannot be reached, or not now; it may have taken it.
            CallerError: It does not take this from us.
            VerificationError: It says that the evidence does not hold.
        """
        body = zstd.compress(msgspec.json.encode(consignment.shipment), level=_LEVEL)
        path = f"{_path(consignment.origin)}/entries"
        return self._answered("POST", path, body, ShipmentReceipt)

    def enrol(self, enrolment: Enrolment) -> Enrolled:
        """
        Ask to be taken in, and return what the collector says to that.

        Raises:
            StoreError, CallerError, VerificationError: As `send`.
        """
        return self._answered("POST", "/v1/producers", msgspec.json.encode(enrolment), Enrolled)

    def close(self) -> None:
        """Let go of the connection; the next request makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def leave(self) -> None:
        """Leave the connection, whose other end is the parent's, to the parent."""
        # To close it would wait for locks that no thread of this process gives back.
        if self._client is not None:
            _left.append(self._client)
            self._client = None

    def _answered(self, method: str, path: str, body: bytes | None, kind: type[T]) -> T:
        status, headers, data = self._request(method, path, body)
        if 200 <= status < 300:  # noqa: PLR2004 - what HTTP calls success
            try:
                return msgspec.json.decode(data, type=kind)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise Away(f"{self.url}: found no {kind.__name__} in its answer") from None
        problem = _problem(status, data)
        said = f"{self.url}: {status} {_shown(f'{problem.title}: {problem.detail}'.rstrip(': '))}"
        if status in _TRY_AGAIN or status >= _SERVER_ERROR or problem.expected is not None:
            # What does not follow what it has comes after it was asked what that is.
            raise Away(said, _retry_after(headers.get("retry-after")))
        if status in _UNKNOWN:
            raise Forbidden(said)
        if status == 404:  # noqa: PLR2004 - what HTTP calls it
            raise NotFound(f"{said} (is {path.removeprefix('/v1/producers/')} enrolled?)")
        if status in (409, 422):
            raise VerificationError(said)
        raise CallerError(said)

    def _request(
        self, method: str, path: str, body: bytes | None
    ) -> tuple[int, httpx2.Headers, bytes]:
        http = self._http
        headers = {"Accept-Encoding": "identity", "Authorization": self._authorization()}
        if body is not None:
            headers |= {"Content-Type": "application/json"}
            if body.startswith(_ZSTD):
                headers |= {"Content-Encoding": "zstd"}
        if self._client is None:
            self._client = http.Client(
                verify=self._context, timeout=http.Timeout(_READ, connect=_CONNECT)
            )
        data = bytearray()
        try:
            with self._client.stream(
                method, f"{self.url}{path}", headers=headers, content=body
            ) as response:
                until = time.monotonic() + _ANSWER
                for chunk in response.iter_raw():
                    data += chunk
                    if len(data) > _MOST_ANSWERED or time.monotonic() > until:
                        raise Away(f"{self.url}: its answer is too long, or takes too long")
        except http.HTTPError as error:
            said = _shown(f"{type(error).__name__}: {error}".rstrip(": "))
            raise Away(f"{self.url}: {said}") from error
        return response.status_code, response.headers, bytes(data)

    def _authorization(self) -> str:
        """Return the header's value; raises `CallerError` where there is no usable token."""
        token, where = self._token, "token"
        if isinstance(token, Path):
            where = f"token in {token}"
            try:
                token = token.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise CallerError(f"{where}: {_why(error)}") from None
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise CallerError(f"{where}: found none that a header can carry")
        return f"Bearer {token}"

    def _checked(self, text: str, *, allow_plaintext: bool) -> str:
        try:
            url = self._http.URL(text)
        except self._http.InvalidURL as error:
            raise CallerError(f"URL of the collector: {error}") from None
        # Not the URL itself, in which a password may stand.
        if url.userinfo or url.query or url.fragment or not url.host:
            raise CallerError(
                "URL of the collector: found user, query, fragment or no host, expected"
                " https://host"
            )
        is_plain = url.scheme == "http" and allow_plaintext and is_this_machine(url.host)
        if url.scheme != "https" and not is_plain:
            raise CallerError(f"URL of the collector: found {url.scheme!r}, expected 'https'")
        return str(url).rstrip("/")


_left: list[Any] = []
"""Connections of a parent process, which nobody here may touch, let alone close."""


def _context(ca: Path | str | None, certificate: Path | str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:
        raise CallerError(f"ca {ca}: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        try:
            context.load_cert_chain(str(certificate), password=_no_password)
        except (OSError, ValueError) as error:
            raise CallerError(f"certificate {certificate}: {_why(error)}") from None
    return context


def _no_password() -> str:
    # Or OpenSSL would ask for one on the terminal.
    raise ValueError("its key is encrypted")


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _path(origin: str) -> str:
    return f"/v1/producers/{quote(origin, safe='/')}"


def _problem(status: int, data: bytes) -> Problem:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(data, type=Problem)
    return Problem(type="about:blank", title="answered by something else", status=status)


def _shown(text: str) -> str:
    """Return what was said from afar as one line of something that can be seen."""
    line = "".join(each if each.isprintable() else " " for each in text[: _MOST_SAID + 1])
    return line if len(line) <= _MOST_SAID else f"{line[:_MOST_SAID]}..."


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that a header asks for, within bounds."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MOST_RETRY_AFTER)


_all: weakref.WeakSet[BackgroundShipper] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_all):
        each.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
