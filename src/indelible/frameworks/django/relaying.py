"""From the outbox of Django's databases into the trail, in this process or another."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction

import indelible
from indelible.errors import IndelibleError
from indelible.frameworks.django.settings import Settings
from indelible.outboxes.postgresql import PostgresqlOutbox
from indelible.outboxes.sqlite import SqliteOutbox
from indelible.relay import Relay

if TYPE_CHECKING:
    from indelible import Trail
    from indelible.outbox import Outbox

_log = logging.getLogger("indelible")
_POLL = 5.0
"""Seconds after which a relay looks without having been told: for what others left behind."""


class _Process:
    """What this process has open; another one, forked from it, begins anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.trail: Trail | None = None
        self.relays: dict[str, _InProcess] = {}


_process = _Process()


def trail() -> Trail:
    """
    Return the trail that the settings name, the same for the whole process.

    Raises:
        ImproperlyConfigured: They name none.
    """
    found = _process.trail
    if found is not None:
        return found
    settings = Settings.read()
    if settings.trail is None:
        raise ImproperlyConfigured(
            "INDELIBLE['TRAIL'] and INDELIBLE_TRAIL: found neither, expected the directory of a"
            " trail"
        )
    with _process.lock:
        if _process.trail is None:
            _process.trail = indelible.open(settings.trail, policy=settings.policy)
        return _process.trail


def outbox(using: str) -> Outbox:
    """Return the outbox of the database *using*, over a connection of its own."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        name = connection.settings_dict["NAME"]
        return SqliteOutbox(partial(_connect_sqlite, str(name)))
    if connection.vendor == "postgresql":
        return PostgresqlOutbox(partial(_connect_postgresql, using))
    raise ImproperlyConfigured(
        f"DATABASES[{using!r}]: found {connection.vendor}, expected sqlite or postgresql"
    )


def _connect_sqlite(name: str) -> Any:
    from indelible.outboxes.sqlite import connector  # noqa: PLC0415 - only where it is used

    return connector(name)()


def _connect_postgresql(using: str) -> Any:
    copy = connections[using].copy()
    connection = copy.get_new_connection(copy.get_connection_params())
    connection.autocommit = False
    return connection


def written(using: str) -> None:
    """Take note that the transaction of this thread wrote into the outbox of *using*."""
    settings = Settings.read()
    if not settings.relay or settings.trail is None:
        return
    connection = connections[using]
    # Once a transaction is enough.
    asked = connection.run_on_commit
    if asked and asked[-1][1] is _kick_of(using):
        return
    transaction.on_commit(_kick_of(using), using=using, robust=True)


_kicks: dict[str, Any] = {}


def _kick_of(using: str) -> Any:
    found = _kicks.get(using)
    if found is None:
        found = _kicks[using] = partial(_kick, using)
    return found


def _kick(using: str) -> None:
    relay = _process.relays.get(using)
    if relay is None:
        with _process.lock:
            relay = _process.relays.get(using)
            if relay is None:
                relay = _process.relays[using] = _InProcess(using)
    relay.kick()


class _InProcess:
    """The thread that moves what one database holds."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"indelible-relay-{using}", daemon=True
        )
        self._thread.start()

    def kick(self) -> None:
        """Let it look now."""
        self._wake.set()

    def stop(self) -> None:
        """End it when it has moved what waits."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        source = outbox(self._using)
        pause = 0.5
        try:
            while True:
                self._wake.wait(_POLL)
                stopping = self._stop.is_set()
                self._wake.clear()
                try:
                    Relay(trail(), source).drain()
                    pause = 0.5
                except Exception as error:  # noqa: BLE001 - or nothing would be moved any more
                    # Without its traceback, where values of rows may stand.
                    said = str(error) if isinstance(error, IndelibleError) else type(error).__name__
                    _log.warning("the relay of database %s waits: %s", self._using, said)
                    if not stopping:
                        self._stop.wait(pause)
                        self._wake.set()
                        pause = min(pause * 2, 30.0)
                if stopping:
                    return
        finally:
            source.close()


def stop() -> None:
    """Move what waits, end the relays of this process, and close its trail."""
    global _process
    old, _process = _process, _Process()
    for relay in old.relays.values():
        relay.stop()
    if old.trail is not None:
        old.trail.close()


def _after_fork_in_child() -> None:
    global _process
    # The trail may be used on both sides; it knows of forks itself.
    open_trail, _process = _process.trail, _Process()
    _process.trail = open_trail


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork_in_child)
