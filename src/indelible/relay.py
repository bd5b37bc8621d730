"""
Relay: moves what the outbox holds into the trail, each event exactly once.

It claims rows, records their events, and only then lets the rows go. What a crash between
the two leaves behind is found by its ids in the trail the next time. A row that holds no
event is put aside, so that it holds up no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from indelible.entry import microseconds
from indelible.errors import InvalidEvent, Malformed, StoreError, UnknownStream, WriteUncertain
from indelible.event import id_time
from indelible.outbox import unpack

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from indelible.event import Event
    from indelible.outbox import Claim, Outbox

BATCH = 100
"""Rows of the outbox that are moved at a time."""

PORTION = 4 * 1024 * 1024
"""Characters of rows that are read at a time, if more than one row is."""

_LEAST_PAUSE, _MOST_PAUSE = 0.5, 30.0


class RelayTarget(Protocol):
    """What a relay asks of a trail."""

    def relay_lock(self) -> AbstractContextManager[object]:
        """Hold off every other relay into this trail while the block runs."""
        ...

    def recorded(self, ids: Sequence[str]) -> set[str]:
        """Return those of *ids* that the trail holds events of."""
        ...

    def record_many(self, events: Iterable[Event], *, may_lose: bool) -> int:
        """
        Record *events* in their order, durable on return; return how many.

        Raises:
            InvalidEvent, UnknownStream: One of them is wrong; some may be recorded.
            StoreError, WriteUncertain: Some may be recorded.
        """
        ...


class Done(NamedTuple):
    """
    What became of a claim.

    Attributes:
        rows: Of the outbox, those put aside included.
        events: Recorded now.
        repeated: In the trail already, from a claim that was cut off.
        quarantined: Rows that were put aside.
    """

    rows: int = 0
    events: int = 0
    repeated: int = 0
    quarantined: int = 0

    def plus(self, other: Done) -> Done:
        """Return the sum of both."""
        return Done(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far the trail is behind the database.

    Attributes:
        rows: Rows that wait.
        seconds: Age of the one that waits longest; 0 where none waits.
        quarantined: Rows that were put aside.
    """

    rows: int
    seconds: float
    quarantined: int


class Relay:
    """
    The way from one outbox into one trail.

    Args:
        batch: Most rows of the outbox to move at a time.
    """

    def __init__(self, trail: RelayTarget, outbox: Outbox, *, batch: int = BATCH) -> None:
        self._trail = trail
        self._outbox = outbox
        self._batch = batch

    def move(self) -> Done:
        """
        Move one batch; return what became of it.

        Raises:
            StoreError, WriteUncertain: The database or the trail cannot be reached. Nothing
                is lost, and to repeat it doubles nothing.
        """
        with self._trail.relay_lock(), self._outbox.claim(self._batch) as claim:
            done = Done()
            for rows in _portions(claim.rows):
                done = done.plus(self._move(rows, claim))
            # Crash here, or in the commit that ends the claim: the rows wait again, and
            # their events are found in the trail.
            return done

    def _move(self, rows: Sequence[tuple[int, str]], claim: Claim) -> Done:
        groups: list[tuple[int, list[Event]]] = []
        refused: dict[int, str] = {}
        for number, text in rows:
            try:
                groups.append((number, unpack(text)))
            except (Malformed, InvalidEvent) as error:
                refused[number] = str(error)
        events = [event for _, group in groups for event in group]
        recorded, repeated = self._record(events, groups, refused)
        for number, why in refused.items():
            claim.quarantine(number, why)
        return Done(len(rows), recorded, repeated, len(refused))

    def drain(self) -> Done:
        """
        Move all that waits now.

        Raises:
            StoreError, WriteUncertain: As `move`; what was moved before stays moved.
        """
        total = Done()
        while (done := self.move()).rows:
            total = total.plus(done)
            if done.rows < self._batch:
                break
        return total

    def run(
        self,
        stop: threading.Event,
        *,
        poll: float = 0.2,
        on_done: Callable[[Done], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        """
        Move what comes until *stop* is set; a database or a trail that is away is waited for.

        Args:
            poll: Seconds between looks at an empty outbox.
            on_done: Told of each batch that held something.
            on_error: Told why a batch could not be moved; it is tried again, later each time.
        """
        pause = _LEAST_PAUSE
        while not stop.is_set():
            try:
                done = self.move()
            except (StoreError, WriteUncertain) as error:
                if on_error is not None:
                    on_error(error)
                stop.wait(pause)
                pause = min(pause * 2, _MOST_PAUSE)
                continue
            pause = _LEAST_PAUSE
            if done.rows and on_done is not None:
                on_done(done)
            if done.rows < self._batch:
                stop.wait(poll)

    def close(self) -> None:
        """Let go of the outbox."""
        self._outbox.close()

    def lag(self, now: datetime) -> Lag:
        """
        Return how far the trail is behind.

        Raises:
            StoreError: The database cannot be reached.
        """
        return lag_of(self._outbox, now)

    def _record(
        self,
        events: list[Event],
        groups: list[tuple[int, list[Event]]],
        refused: dict[int, str],
    ) -> tuple[int, int]:
        """Record *events*, row by row where one is wrong; return how many, and of known ones."""
        new = self._new(events)
        try:
            return self._trail.record_many(new, may_lose=False), len(events) - len(new)
        except (InvalidEvent, UnknownStream):
            pass
        recorded = repeated = 0
        for number, group in groups:
            new = self._new(group)
            repeated += len(group) - len(new)
            try:
                recorded += self._trail.record_many(new, may_lose=False)
            except (InvalidEvent, UnknownStream) as error:
                refused[number] = str(error)
        return recorded, repeated

    def _new(self, events: Iterable[Event]) -> list[Event]:
        """Return those of *events* that the trail does not hold, each once."""
        by_id = {event.id: event for event in events}
        for event_id in self._trail.recorded(list(by_id)):
            del by_id[event_id]
        return list(by_id.values())


def _portions(rows: Sequence[tuple[int, str]]) -> Iterator[Sequence[tuple[int, str]]]:
    first = size = 0
    for place, (_, text) in enumerate(rows):
        if place > first and size + len(text) > PORTION:
            yield rows[first:place]
            first, size = place, 0
        size += len(text)
    if rows:
        yield rows[first:]


def lag_of(outbox: Outbox, now: datetime) -> Lag:
    """
    Return how far a trail is behind *outbox*.

    Raises:
        StoreError: The database cannot be reached.
    """
    waiting = outbox.waiting()
    since = None if waiting.oldest is None else _written_at(waiting.oldest)
    age = 0.0 if since is None else max(0.0, microseconds(now) / 1e6 - since)
    return Lag(rows=waiting.rows, seconds=age, quarantined=waiting.quarantined)


def _written_at(text: str) -> float | None:
    """Return the seconds since 1970 that a row names, as far as it can be read."""
    try:
        events = unpack(text)
    except (Malformed, InvalidEvent):
        return None
    return id_time(events[0].id) / 1_000 if events else None


__all__ = ["BATCH", "Done", "Lag", "Relay", "RelayTarget", "lag_of"]
