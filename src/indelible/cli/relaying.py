"""The command that moves what waits in an application's database into the trail: relay."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_of
from indelible.cli.signals import told_by_signals
from indelible.errors import CallerError, StoreError
from indelible.outboxes import open_outbox
from indelible.relay import Done, Lag, Relay, lag_of
from indelible.trail import Trail

if TYPE_CHECKING:
    from indelible.outbox import Outbox

ENVIRONMENT = "INDELIBLE_OUTBOX"
"""Names the URL of the database where none is given."""

_MEASURED = 5.0
"""Seconds between two times that the metrics are written."""


def relay(
    *,
    directory: Directory = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Database with the outbox: postgresql://user@host/name or sqlite:///file. By"
            f" default what {ENVIRONMENT} holds; a URL with a password belongs there, where no"
            " list of processes shows it.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Move what waits now, and end.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Only say how much waits, and for how long.")
    ] = False,
    quarantined: Annotated[
        bool,
        typer.Option(
            "--quarantined", help="Only list the rows that were put aside, and what is wrong."
        ),
    ] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Only let the rows that were put aside wait again.")
    ] = False,
    poll: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="Between looks at an empty outbox.")
    ] = 0.2,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Keep the lag and what was moved there, in Prometheus' format."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Move events from an application's database into the trail, until it is stopped.

    Each is recorded exactly once, whatever fails in between. A database or a trail that
    is away is waited for. A row that holds no event is put aside and holds up no other;
    it is a finding of --once and --status.
    """
    if once + status + quarantined + release > 1:
        raise CallerError("found several of --once, --status, --quarantined and --release")
    if metrics is not None and (quarantined or release):
        raise CallerError("--metrics: found --quarantined or --release, which measure nothing")
    with closing(open_outbox(_url(source))) as outbox:
        measures = None if metrics is None else _Metrics(metrics)
        if quarantined:
            _list_quarantined(outbox, json=json)
        elif release:
            _print({"released": outbox.release()}, json=json)
        elif status:
            lag = lag_of(outbox, datetime.now(UTC))
            if measures is not None:
                measures.write(lag)
            _print(msgspec.structs.asdict(lag), json=json)
            if lag.quarantined:
                raise typer.Exit(1)
        else:
            with Trail(trail_of(directory)) as trail:
                running = Relay(trail, outbox)
                if once:
                    _move_once(running, measures, json=json)
                else:
                    _Run(running, measures, json=json).until_stopped(poll)


def _url(given: str | None) -> str:
    url = given or os.environ.get(ENVIRONMENT)
    if not url:
        raise CallerError(f"--from: found none, and {ENVIRONMENT} holds none")
    return url


def _print(values: dict[str, Any], *, json: bool) -> None:
    if json:
        output.print_json(values)
    else:
        output.print_fields((name, output.value_text(value)) for name, value in values.items())


def _list_quarantined(outbox: Outbox, *, json: bool) -> None:
    # Not what the rows hold: values stand there that few may see.
    rows = [
        {"number": number, "bytes": len(body.encode("utf-8", "surrogateescape")), "error": error}
        for number, body, error in outbox.quarantined()
    ]
    if json:
        for row in rows:
            output.print_json(row)
    else:
        output.print_table(
            ("number", "bytes", "error"), [list(map(str, each.values())) for each in rows]
        )


def _move_once(relay: Relay, measures: _Metrics | None, *, json: bool) -> None:
    done = relay.drain()
    if measures is not None:
        measures.add(done)
        measures.write(relay.lag(datetime.now(UTC)))
    _print(done._asdict(), json=json)
    if done.quarantined:
        _report_quarantined(done, json=json)
        raise typer.Exit(1)


def _report_quarantined(done: Done, *, json: bool) -> None:
    message = f"rows that hold no event: {done.quarantined} put aside, see --quarantined"
    output.report("Quarantined", message, json=json)


class _Run:
    """A relay that runs in a thread, while the main one waits for a signal to stop it."""

    def __init__(self, relay: Relay, measures: _Metrics | None, *, json: bool) -> None:
        self._relay = relay
        self._measures = measures
        self._json = json
        self._stop = threading.Event()
        # Unlike an event, it may be used in the handler of a signal.
        self._ended: SimpleQueue[Exception | None] = SimpleQueue()

    def until_stopped(self, poll: float) -> None:
        """Move what comes, until SIGTERM or SIGINT; what is under way is completed."""
        self._measure(first=True)
        thread = threading.Thread(target=self._move, args=(poll,), name="indelible-relay")
        with told_by_signals(lambda: self._ended.put(None)):
            thread.start()
            error = self._wait()
            self._stop.set()
            thread.join()
        if error is not None:
            raise error
        self._measure()

    def _wait(self) -> Exception | None:
        while True:
            try:
                return self._ended.get(timeout=None if self._measures is None else _MEASURED)
            except Empty:
                self._measure()

    def _move(self, poll: float) -> None:
        try:
            self._relay.run(self._stop, poll=poll, on_done=self._moved, on_error=self._failed)
        except Exception as error:  # noqa: BLE001 - it is raised in the main thread
            self._ended.put(error)

    def _moved(self, done: Done) -> None:
        if self._measures is not None:
            self._measures.add(done)
        if self._json:
            output.print_json(done._asdict())
        else:
            output.print_row([f"{name} {count}" for name, count in done._asdict().items()])
        if done.quarantined:
            _report_quarantined(done, json=self._json)

    def _failed(self, error: Exception) -> None:
        if self._measures is not None:
            self._measures.failed()
        output.report(type(error).__name__, f"{error}; trying again", json=self._json)

    def _measure(self, *, first: bool = False) -> None:
        """Write the metrics; a file that cannot be written ends nothing that has begun."""
        if self._measures is None:
            return
        try:
            lag = self._relay.lag(datetime.now(UTC))
        except StoreError:
            return  # the relay itself says so
        try:
            self._measures.write(lag)
        except OSError as error:
            if first:
                raise
            output.report(type(error).__name__, f"--metrics: {error.strerror}", json=self._json)


class _Metrics:
    """
    What a relay has done and how far it is behind, in the file at *path*.

    Raises:
        CallerError: The library that writes the format is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            import prometheus_client as prometheus  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise CallerError("--metrics: pip install 'indelible[metrics]'") from error
        self._path = path
        self._write = prometheus.write_to_textfile
        self._registry = registry = prometheus.CollectorRegistry()
        self._waiting = prometheus.Gauge(
            "indelible_outbox_rows_waiting", "Rows that wait in the outbox.", registry=registry
        )
        self._lag = prometheus.Gauge(
            "indelible_outbox_lag_seconds", "Age of the row that waits longest.", registry=registry
        )
        self._quarantined = prometheus.Gauge(
            "indelible_outbox_rows_quarantined", "Rows that were put aside.", registry=registry
        )
        self._rows = prometheus.Counter(
            "indelible_relay_rows_moved", "Rows that left the outbox.", registry=registry
        )
        self._events = prometheus.Counter(
            "indelible_relay_events_recorded", "Events recorded from them.", registry=registry
        )
        self._failures = prometheus.Counter(
            "indelible_relay_failures", "Batches that have to be tried again.", registry=registry
        )

    def add(self, done: Done) -> None:
        """Count what was done."""
        self._rows.inc(done.rows - done.quarantined)
        self._events.inc(done.events)

    def failed(self) -> None:
        """Count a batch that failed."""
        self._failures.inc()

    def write(self, lag: Lag) -> None:
        """Replace the file by what is known now."""
        self._waiting.set(lag.rows)
        self._lag.set(lag.seconds)
        self._quarantined.set(lag.quarantined)
        self._write(self._path, self._registry)
