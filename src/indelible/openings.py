"""
Openings: what this process has opened of personal values, and has yet to say.

The first opening is said at once, further ones once an hour and at the end: so whoever
follows a trail does not feed it, and yet none is left out.
"""

from __future__ import annotations

import threading
from typing import Any

HOUR = 3600.0


class Openings:
    """Counts openings until the custody stream has heard of them."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may read in the middle of a read.
        self._lock = threading.RLock()
        self._entries = self._times = 0
        self._asked = ""
        self._said_at: float | None = None

    def add(self, entries: int, asked: str) -> None:
        """Count an opening of that many *entries*, and what was asked for."""
        with self._lock:
            self._entries += entries
            self._times += 1
            self._asked = asked

    def due(self, now: float, *, final: bool) -> dict[str, Any] | None:
        """
        Return what to say now; nothing within an hour after it was said, unless *final*.

        It counts as said from now on; where it could not be written, `unsaid` takes it back.
        """
        with self._lock:
            if not self._times or (
                self._said_at is not None and now < self._said_at + HOUR and not final
            ):
                return None
            said = {"entries": self._entries, "times": self._times, "query": self._asked}
            self._entries = self._times = 0
            self._said_at = now
            return said

    def unsaid(self, said: dict[str, Any]) -> None:
        """Take back what `due` returned: it is still to be said, with the next opening."""
        with self._lock:
            self._entries += said["entries"]
            self._times += said["times"]
            self._said_at = None
