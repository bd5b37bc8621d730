"""``manage.py indelible_relay``: move what the outbox holds into the trail."""

from __future__ import annotations

import json
import signal
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from indelible.errors import IndelibleError
from indelible.frameworks.django import relaying
from indelible.relay import Relay


class Command(BaseCommand):
    """Runs until it is told to stop, or with ``--once`` until nothing waits."""

    help = "Moves what Django's outbox holds into the trail, each event exactly once."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: Any) -> None:
        """Say what it takes."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="whose outbox")
        parser.add_argument("--once", action="store_true", help="end when nothing waits")
        parser.add_argument("--status", action="store_true", help="print what waits, as JSON")
        parser.add_argument(
            "--release", action="store_true", help="let rows that were put aside wait again"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Do it."""
        outbox = relaying.outbox(options["database"])
        try:
            if options["release"]:
                self.stdout.write(f"{outbox.release()} rows wait again")
            relay = Relay(relaying.trail(), outbox)
            if options["status"]:
                lag = relay.lag(datetime.now(UTC))
                self.stdout.write(json.dumps(msgspec.structs.asdict(lag)))
            elif options["once"]:
                done = relay.drain()
                self.stdout.write(
                    f"{done.events} events recorded, {done.repeated} were there already,"
                    f" {done.quarantined} rows put aside"
                )
            elif not options["release"]:
                self._run(relay)
        except IndelibleError as error:
            raise CommandError(str(error)) from error
        finally:
            outbox.close()

    def _run(self, relay: Relay) -> None:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        relay.run(
            stop,
            on_done=lambda done: self.stdout.write(f"{done.events} events recorded"),
            on_error=lambda error: self.stderr.write(f"waits: {error}"),
        )
