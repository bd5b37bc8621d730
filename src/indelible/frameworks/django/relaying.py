"""From the outbox of Django's databases into the trail, in this process or another."""

from __future__ import annotations

import atexit
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction

import indelible
from indelible.background import BackgroundRelay
from indelible.frameworks.django.settings import Settings
from indelible.outboxes.postgresql import PostgresqlOutbox
from indelible.outboxes.sqlite import SqliteOutbox
from indelible.relay import Relay

if TYPE_CHECKING:
    from indelible import Trail
    from indelible.outbox import Outbox

SELFTEST = "indelible-selftest"
"""The database in memory in which the hooks are tried; nothing of it is real."""


class _Process:
    """What this process has open; the trail and its relays know of forks themselves."""

    def __init__(self) -> None:
        self.begin()
        self.trail: Trail | None = None
        self.relays: dict[str, BackgroundRelay] = {}

    def begin(self) -> None:
        """Have a lock that no thread holds which is not here."""
        self.lock = threading.Lock()


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
    # It is held for long, and closed and not given back: no pool could do with it.
    copy.settings_dict["OPTIONS"].pop("pool", None)
    connection = copy.get_new_connection(copy.get_connection_params())
    connection.autocommit = False
    return connection


def written(using: str) -> None:
    """Take note that the transaction of this thread wrote into the outbox of *using*."""
    settings = Settings.read()
    if not settings.relay or settings.trail is None or using == SELFTEST:
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
                relay = BackgroundRelay(lambda: Relay(trail(), outbox(using)))
                _process.relays[using] = relay
    relay.kick()


def stop() -> None:
    """Move what waits, end the relays of this process, and close its trail."""
    global _process
    old, _process = _process, _Process()
    for relay in old.relays.values():
        relay.stop()
    if old.trail is not None:
        old.trail.close()


def _after_fork_in_child() -> None:
    _process.begin()


atexit.register(stop)
os.register_at_fork(after_in_child=_after_fork_in_child)
