"""
Custody: what the trail writes about itself, and when.

The custody stream names when a process begins and ends to record, the keys, the
segments that were closed, what could not be kept, and the sizes and roots of the
other logs: so emptying one of them contradicts another.
"""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from indelible.event import Actor, Event, Outcome, Resource
from indelible.policy import CUSTODY
from indelible.seal import seal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.seal import Sealed
    from indelible.store import Head

HEARTBEAT = 60.0
"""Seconds after which the sizes and roots of logs that have grown are named."""

_SELF = Actor(type="system", id="indelible")


class Custody:
    """
    What the custody stream of *trail* has heard, and has yet to hear, of this process.

    Attributes:
        started: It knows that this process records.
        stopping: The next commit is the last.
    """

    def __init__(self, trail: str) -> None:
        self._trail = trail
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """Begin as a process that nothing has been heard of."""
        self._lock = threading.Lock()
        self.started = False
        self.stopping = False
        self._trees: dict[str, dict[str, Any]] = {}
        self._named_at = 0.0
        self._grown = False
        self._unnamed: dict[str, tuple[int, str, str]] = {}
        self._lost: dict[str, int] = {}

    def seconds_left(self) -> float:
        """Return how long until something is to be written even if nobody records."""
        return self._named_at + HEARTBEAT - monotonic() if self._grown else HEARTBEAT

    def events(self, heads: Mapping[str, Head]) -> list[Sealed]:
        """Return what to write with this commit, given the *heads* that are durable."""
        now = monotonic()
        trees = {log: _tree(head) for log, head in heads.items() if head.stream != CUSTODY}
        events = [
            self.event("events.lost", stream=stream, count=count, since=since, until=until)
            for stream, (count, since, until) in self._take_losses().items()
        ]
        self._grown = True
        if not self.started:
            self.started = True
            events.append(self.event("trail.start", logs=trees, process=os.getpid()))
        elif self.stopping:
            events.append(self.event("trail.stop", logs=trees, process=os.getpid()))
        elif now >= self._named_at + HEARTBEAT and trees != self._trees:
            events.append(self.event("trail.heads", logs=trees))
        elif now < self._named_at + HEARTBEAT:
            return events
        else:
            self._grown = False
        self._trees, self._named_at = trees, now
        return events

    def event(self, action: str, **data: Any) -> Sealed:
        """Return the sealed event of what the trail did itself."""
        return own_event(self._trail, action, **data)

    def lose(self, stream: str, count: int) -> None:
        """Count events that could not be kept, to be named as soon as writing works again."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        with self._lock:
            before, since, _ = self._unnamed.get(stream, (0, now, now))
            self._unnamed[stream] = (before + count, since, now)
            self._lost[stream] = self._lost.get(stream, 0) + count

    def lost(self) -> dict[str, int]:
        """Return how many events of each stream this process could not keep."""
        with self._lock:
            return dict(self._lost)

    def _take_losses(self) -> dict[str, tuple[int, str, str]]:
        with self._lock:
            losses, self._unnamed = self._unnamed, {}
        return losses


def own_event(trail: str, action: str, **data: Any) -> Sealed:
    """Return the sealed event of what *trail* did itself."""
    return seal(
        Event(
            action=action,
            outcome=Outcome.SUCCESS,
            actor=_SELF,
            resource=Resource(type="trail", id=trail),
            data=data,
        )
    )


def _tree(head: Head) -> dict[str, Any]:
    return {"size": head.size, "root": b64encode(head.edge.root).decode("ascii")}
