"""
Background: a relay in a thread of the application's own process.

It looks when it is told that something was committed, and now and then for what others
have left behind. It never stops because of an error: the rows wait.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

from indelible.errors import IndelibleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from indelible.relay import Relay

POLL = 5.0
"""Seconds after which it looks without having been told."""

_LEAST_PAUSE, _MOST_PAUSE = 0.5, 30.0
_PATIENCE = 30.0
_log = logging.getLogger("indelible")


class BackgroundRelay:
    """
    Moves what an outbox holds into a trail, from when it is first told to until `stop`.

    Several processes may each have one: they take turns. A process that is forked off
    begins a thread of its own.

    Args:
        make: Returns the relay, over a connection of its own; called in the thread, and
            again after an error.
        poll: Seconds between looks without having been told.
    """

    def __init__(self, make: Callable[[], Relay], *, poll: float = POLL) -> None:
        self._make = make
        self._poll = poll
        self._lock = threading.Lock()
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def kick(self) -> None:
        """Let it look now; something was committed."""
        if self._thread is None:
            self.start()
        self._wake.set()

    def start(self) -> Self:
        """Begin the thread, unless it has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="indelible-relay", daemon=True
                )
                self._thread.start()
        return self

    def stop(self) -> None:
        """Move what waits now, and end the thread; what cannot be moved goes on waiting."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
            self._wake.set()
        if thread is not None:
            thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def after_fork_in_child(self) -> None:
        """Begin anew: the thread belongs to the parent."""
        self._lock = threading.Lock()
        self._begin()

    def _run(self) -> None:
        wake, stopping = self._wake, self._stopping
        relay: Relay | None = None
        pause = _LEAST_PAUSE
        while True:
            wake.wait(self._poll)
            is_last = stopping.is_set()
            wake.clear()
            try:
                if relay is None:
                    relay = self._make()
                relay.drain()
                pause = _LEAST_PAUSE
            except Exception as error:  # noqa: BLE001 - or nothing would be moved any more
                # Without its traceback, where values of rows may stand.
                said = str(error) if isinstance(error, IndelibleError) else type(error).__name__
                _log.warning("the relay waits: %s", said)
                if relay is not None:
                    relay.close()
                    relay = None
                stopping.wait(pause)
                pause = min(pause * 2, _MOST_PAUSE)
                wake.set()
            if is_last:
                if relay is not None:
                    relay.close()
                return


_all: weakref.WeakSet[BackgroundRelay] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_all):
        each.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
