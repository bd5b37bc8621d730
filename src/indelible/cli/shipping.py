"""The command that takes a trail's logs to a collector: ship."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_of
from indelible.cli.signals import told_by_signals
from indelible.errors import CallerError
from indelible.sinks.collector import ENVIRONMENT, BackgroundShipper, Sent, Shipper
from indelible.sinks.joining import KEPT, join
from indelible.trail import Trail

if TYPE_CHECKING:
    from indelible.errors import IndelibleError

_FLIGHT = 60.0
"""Seconds within which a flight that is under way has ended, one way or the other."""


def ship(
    *,
    directory: Directory = None,
    url: Annotated[
        str, typer.Option("--to", metavar="URL", help="The collector: https://host or host:port.")
    ],
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Holds the access token, and is read each time. By default the token is what"
            f" {ENVIRONMENT} holds.",
        ),
    ] = None,
    join_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Holds a join token: the trail enrols itself, once, and keeps the access token"
            f" that it gets in DIR/{KEPT}.",
        ),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Certificates, PEM, that are trusted instead of the system's."
        ),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Certificate and key, PEM, to show to the collector."),
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option("--stream", metavar="STREAM", help="Ship only this one; may be repeated."),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Ship all that is there now, and end.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Give --drain up after so long."),
    ] = None,
    json: Json = False,
) -> None:
    """
    Ship the trail's logs to a collector, until it is stopped.

    Each entry is there exactly once, whatever fails in between. A collector that is away is
    waited for. One that refuses a log is tried again every five minutes, until somebody has
    seen to it; with --drain that ends the command. Of several that ship one trail, one does.
    """
    if timeout is not None and not drain:
        raise CallerError("--timeout: found no --drain, which alone ends by itself")
    if join_file is not None and token_file is not None:
        raise CallerError("--join-file: found --token-file, too; whoever has one has joined")
    with Trail(trail_of(directory)) as trail:
        token = None if token_file is None else Path(token_file)
        if join_file is not None:
            token = join(trail, url, Path(join_file), ca=ca, certificate=certificate)
        said = _Said(json=json)
        shipper = Shipper(
            trail,
            url,
            token,
            ca=ca,
            certificate=certificate,
            streams=streams,
            on_sent=said.sent,
            on_fault=said.fault,
        )
        with closing(shipper):
            if drain:
                shipper.drain(timeout)
            else:
                _until_stopped(shipper)


def _until_stopped(shipper: Shipper) -> None:
    """Ship in a thread until SIGTERM or SIGINT; a flight that is under way is completed."""
    ended: SimpleQueue[None] = SimpleQueue()
    background = BackgroundShipper(shipper, patience=0)
    with told_by_signals(lambda: ended.put(None)):
        background.start()
        ended.get()
        background.stop(_FLIGHT)


class _Said:
    """What is printed of each shipment, and reported of what goes wrong."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def sent(self, sent: Sent) -> None:
        """Print what was taken."""
        if self._json:
            output.print_json(sent._asdict())
        else:
            output.print_row([f"{name} {value}" for name, value in sent._asdict().items()])

    def fault(self, log: str, error: IndelibleError, is_stuck: bool) -> None:  # noqa: FBT001 - a callback
        """Report what holds a log up."""
        then = "waits for somebody to see to it" if is_stuck else "trying again"
        output.report(type(error).__name__, f"log {log}: {error}; {then}", json=self._json)
