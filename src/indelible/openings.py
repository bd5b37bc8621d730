"""
Openings: who has read and opened what, and when the custody stream hears of it.

The first of each reader is said at once, further ones once an hour and at the end: so
whoever follows a trail does not feed it, and yet none is left out.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import custody
from indelible.custody import private_event

if TYPE_CHECKING:
    from indelible.custody import VaultOwner
    from indelible.seal import Sealed

OPENED = "values.open"
"""The action of the entries by which the trail says that personal values were opened."""

READ = "entries.read"
"""The action of those by which it says that a caller of a collector has read entries."""

HOUR = 3600.0

_MOST_PURPOSES, _MOST_ASKED = 10, 2_000
"""What is said in one entry, so that nobody can make it grow; all is counted all the same."""

_CUT = ' "…'
"""Ends a question that was cut off, so that it is not taken for another that was asked."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who does what with entries.

    Attributes:
        action: `READ` or `OPENED`.
        caller, name: Id and name of the caller of a collector; none where the process itself
            reads.
    """

    action: str
    role: str
    caller: str | None = None
    name: str | None = None


class _Count:
    """What has yet to be said of one reading."""

    __slots__ = ("asked", "entries", "purposes", "said_at", "times")

    def __init__(self) -> None:
        self.said_at: float | None = None
        self.clear()

    def clear(self) -> None:
        self.entries = self.times = 0
        self.asked = ""
        self.purposes: dict[str, None] = {}

    def is_due(self, now: float, *, final: bool) -> bool:
        return self.times > 0 and (final or self.said_at is None or now >= self.said_at + HOUR)


class Openings:
    """What is done with the entries of *owner*, until its custody stream has heard of it."""

    def __init__(self, owner: VaultOwner) -> None:
        self._owner = owner
        self.begin()

    def begin(self) -> None:
        """Begin as a process that has read nothing."""
        # Reentrant: a signal handler may read in the middle of a read.
        self._lock = threading.RLock()
        self._saying = threading.RLock()
        self._counts: dict[Reading, _Count] = {}

    def add(self, reading: Reading, entries: int, asked: str, purpose: str | None = None) -> None:
        """Count a reading of that many *entries*, and what was asked for."""
        with self._lock:
            count = self._counts.setdefault(reading, _Count())
            count.entries += entries
            count.times += 1
            count.asked = asked if len(asked) <= _MOST_ASKED else asked[:_MOST_ASKED] + _CUT
            if purpose is not None and len(count.purposes) < _MOST_PURPOSES:
                count.purposes[purpose] = None

    def say(self, *, final: bool = False, now: float | None = None) -> None:
        """
        Write down what is due: what a reader does first, and what an hour has brought.

        Args:
            final: Also what is not due yet.
            now: Seconds of a clock that is never set back; by default the system's.

        Raises:
            StoreError, WriteUncertain, CallerError: It is not written, and said next time.
        """
        # One at a time: what another is just writing is not durable yet.
        with self._saying:
            due = self._take(time.monotonic() if now is None else now, final=final)
            if not due:
                return
            try:
                custody.write(
                    self._owner,
                    lambda: [self._event(*each) for each in due],
                    time.time_ns() // 1_000,
                )
            except BaseException:
                self._give_back(due)
                raise

    def _take(self, now: float, *, final: bool) -> list[tuple[Reading, dict[str, Any]]]:
        with self._lock:
            due = []
            for reading, count in list(self._counts.items()):
                if count.is_due(now, final=final):
                    due.append((reading, _said(count)))
                    count.clear()
                    count.said_at = now
                elif not count.times and count.said_at is not None and now >= count.said_at + HOUR:
                    del self._counts[reading]
            return due

    def _give_back(self, due: list[tuple[Reading, dict[str, Any]]]) -> None:
        with self._lock:
            for reading, said in due:
                count = self._counts.setdefault(reading, _Count())
                count.entries += said["entries"]
                count.times += said["times"]
                count.asked = count.asked or said["query"]
                count.purposes = {**dict.fromkeys(said["purposes"]), **count.purposes}
                count.said_at = None

    def _event(self, reading: Reading, said: dict[str, Any]) -> Sealed:
        if reading.caller is None:
            who: dict[str, Any] = {"uid": os.getuid()}
        else:
            who = {"caller": reading.caller, "name": reading.name}
        return private_event(
            self._owner.vault,
            self._owner.id,
            reading.action,
            rationale="; ".join(said["purposes"]) or None,
            role=reading.role,
            **who,
            **{name: value for name, value in said.items() if name != "purposes"},
        )


def _said(count: _Count) -> dict[str, Any]:
    return {
        "entries": count.entries,
        "times": count.times,
        "query": count.asked,
        "purposes": tuple(count.purposes),
    }
