"""
Writer: group commit, one thread a process.

Whoever records hands over sealed events and waits; the thread takes all that has
come meanwhile, places and signs it in one transaction, and wakes them. So a sync
to disk is shared by everyone who waits for it.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING

from indelible.errors import (
    CallerError,
    IndelibleError,
    Moved,
    StoreError,
    TrailClosed,
    VerificationError,
    WriteUncertain,
)
from indelible.log import Placed, append, head_of
from indelible.policy import CUSTODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.custody import Custody
    from indelible.keys import Signer
    from indelible.seal import Sealed
    from indelible.store import Head, Store, Transaction

MOST_EVENTS = 4_096
"""After so many events a group is committed, whoever else waits."""

_OF_ONE = (CallerError, Moved, VerificationError)
"""Errors that are about some of the events of a group, and not about the store."""

_ATTEMPTS = 3
_MOST_LINGER = 0.002
_RETRY = 1.0
"""Seconds after which, when a commit failed, what custody has to say is tried again."""


class Pending:
    """
    Sealed events on their way into the trail: all of them or none.

    Args:
        events: Per stream, in order.
        on_done: Called once in the writer's thread when `result` will not wait.
        within: Called in the transaction that writes them, with their places: to look once
            more whether they may be written, and to keep facts beside them. What it raises
            stops these events and no others. It may be called more than once.
    """

    __slots__ = ("_done", "error", "events", "on_done", "placed", "size", "within")

    def __init__(
        self,
        events: Mapping[str, Sequence[Sealed]],
        on_done: Callable[[], object] | None = None,
        within: Callable[[Transaction, Mapping[str, Placed]], object] | None = None,
    ) -> None:
        self.events = events
        self.size = sum(map(len, events.values()))
        self.placed: dict[str, Placed] = {}
        self.error: Exception | None = None
        self.on_done = on_done
        self.within = within
        # A bare lock is the cheapest thing that one thread can wait on.
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self) -> None:
        """Wait until it is known what became of the events."""
        self._done.acquire()
        self._done.release()

    def result(self) -> dict[str, Placed]:
        """
        Wait until the events are durable; return where those of each stream are.

        Raises:
            StoreError: None of them was written.
            WriteUncertain: It is not known whether they were.
            IndelibleError: They cannot be written, for want of a key for example.
        """
        self.wait()
        if self.error is not None:
            raise self.error
        return self.placed

    def finish(self) -> None:
        """Wake whoever waits."""
        self._done.release()
        if self.on_done is not None:
            self.on_done()


class Writer:
    """
    The group commit of one process.

    Args:
        signer_of: The key of the log with this head.
        now: The log's clock, microseconds since 1970.
        custody: What the trail adds about itself.
        keep_keys: Makes data keys durable, before the boxes that need them.
        committed: Told the new heads after each commit.
    """

    def __init__(
        self,
        store: Store,
        *,
        signer_of: Callable[[Head], Signer],
        now: Callable[[], int],
        custody: Custody,
        committed: Callable[[Mapping[str, Head]], object],
        keep_keys: Callable[[Iterable[bytes]], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._signer_of = signer_of
        self._now = now
        self._custody = custody
        self._committed = committed
        self._keep_keys = keep_keys
        self._queue: SimpleQueue[Pending | None] = SimpleQueue()
        # Reentrant: a signal handler may record in the middle of a record.
        self._handing = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._unsure: dict[str, Placed] = {}
        _writers.add(self)

    def submit(self, pending: Pending) -> None:
        """
        Hand *pending* over; never waits for a disk.

        Raises:
            TrailClosed: The writer was stopped.
        """
        # Under a lock, or what comes while the writer stops would wait for ever.
        with self._handing:
            if self._stopped:
                raise TrailClosed("the trail was closed")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._queue,), name="indelible-writer", daemon=True
                )
                self._thread.start()
            self._queue.put(pending)

    def stop(self) -> None:
        """Write what was handed over, and what custody has to say last; then end."""
        with self._handing:
            self._stopped = True
            thread, self._thread = self._thread, None
            self._queue.put(None)
        if thread is not None:
            thread.join()

    def _run(self, queue: SimpleQueue[Pending | None]) -> None:
        previous, took = 0, 0.0
        stopping = failed = False
        while not stopping:
            group: list[Pending] = []
            with suppress(Empty):
                wait = _RETRY if failed else max(self._custody.seconds_left(), 0.001)
                first = queue.get(timeout=wait)
                stopping = first is None
                if first is not None:
                    group.append(first)
            stopping = self._take(queue, group) or stopping
            if not stopping and len(group) < previous:
                # Those who were woken last time are about to come again. To wait
                # for them a little saves the sync that each half would pay.
                stopping = self._linger(queue, group, previous, took)
            if not group and not stopping and self._custody.seconds_left() > 0:
                continue
            started = monotonic()
            failed = not self._commit(group)
            previous, took = len(group), monotonic() - started
            for pending in group:
                pending.finish()

    @staticmethod
    def _take(queue: SimpleQueue[Pending | None], group: list[Pending]) -> bool:
        """Add what is there to *group*; return whether the writer was asked to stop."""
        events = sum(pending.size for pending in group)
        with suppress(Empty):
            while events < MOST_EVENTS:
                pending = queue.get_nowait()
                if pending is None:
                    return True
                group.append(pending)
                events += pending.size
        return False

    def _linger(
        self, queue: SimpleQueue[Pending | None], group: list[Pending], previous: int, took: float
    ) -> bool:
        until = monotonic() + min(took / 2, _MOST_LINGER)
        while len(group) < previous and monotonic() < until:
            before = len(group)
            sleep(0.0002)
            if self._take(queue, group):
                return True
            if len(group) == before:
                break
        return False

    def _commit(self, group: list[Pending]) -> bool:
        """Write *group*, or let each of it know why not; return whether all was written."""
        try:
            placed = self._write(group)
        except Exception as error:  # noqa: BLE001 - every waiter gets it, none waits for ever
            if isinstance(error, _OF_ONE) and len(group) > 1:
                # The fault of one (a key that is lost or destroyed, a stream never made)
                # is not that of the others: each for itself.
                written = [self._commit([pending]) for pending in group]
                return all(written)
            failure = error if isinstance(error, IndelibleError) else StoreError(str(error))
            for pending in group:
                pending.error = failure
            return False
        for pending, own in zip(group, _shares(group, placed), strict=True):
            pending.placed = own
        return True

    def _write(self, group: list[Pending]) -> dict[str, Placed]:
        events = _by_stream(group)
        keys = {key for sealed in events.values() for each in sealed for key in each.keys}
        own: list[Sealed] | None = None
        attempt: dict[str, Placed] = {}
        for turn in range(_ATTEMPTS):
            try:
                with self._store.write() as transaction:
                    # Here, where nobody else writes: who erases destroys keys here, too.
                    self._keep_keys(keys)
                    self._look_back(transaction)
                    # Looking and writing again are one transaction, so nobody
                    # comes between; the sealed bytes are those of the first time.
                    if not (attempt and _is_kept(transaction, attempt)):
                        if own is None:
                            own = self._custody.events(transaction.heads())
                        attempt = self._append(transaction, events, own)
                        _let_in(transaction, group, attempt)
                    heads = transaction.heads()
            except WriteUncertain:
                if turn == _ATTEMPTS - 1:
                    self._unsure = attempt
                    raise
            except Exception as error:
                if turn and attempt:
                    self._unsure = attempt
                    raise WriteUncertain(
                        f"{error}; before that, a write may have happened"
                    ) from error
                raise
            else:
                self._custody.written()
                # It is written: whatever fails from here on is not the caller's.
                with suppress(Exception):
                    self._committed(heads)
                return attempt
        raise AssertionError("unreachable")  # pragma: no cover

    def _look_back(self, transaction: Transaction) -> None:
        """If the last commit ended uncertain, see whether custody has said in it what it had to."""
        unsure, self._unsure = self._unsure, {}
        with suppress(StoreError):
            if unsure and _is_kept(transaction, unsure):
                self._custody.written()

    def _append(
        self,
        transaction: Transaction,
        events: Mapping[str, Sequence[Sealed]],
        own: Sequence[Sealed],
    ) -> dict[str, Placed]:
        heads = transaction.heads()
        streams = {**events, CUSTODY: [*events.get(CUSTODY, ()), *own]}
        placed = {}
        for stream, sealed in streams.items():
            if not sealed:
                continue
            head = head_of(heads, stream)
            signer = self._signer_of(head)
            placed[stream] = append(transaction, head, sealed, signer, self._now())
        return placed

    def after_fork_in_child(self) -> None:
        """Begin anew: the thread, and what it was given, belong to the parent."""
        self._queue = SimpleQueue()
        self._handing = threading.RLock()
        self._thread = None
        self._unsure = {}


def _by_stream(group: Sequence[Pending]) -> dict[str, list[Sealed]]:
    events: dict[str, list[Sealed]] = {}
    for pending in group:
        for stream, sealed in pending.events.items():
            events.setdefault(stream, []).extend(sealed)
    return events


def _shares(group: Sequence[Pending], placed: Mapping[str, Placed]) -> Iterator[dict[str, Placed]]:
    """Yield where the events of each of *group* are, of all that were *placed* together."""
    taken = dict.fromkeys(placed, 0)
    for pending in group:
        share = {}
        for stream, events in pending.events.items():
            where, start = placed[stream], taken[stream]
            taken[stream] = end = start + len(events)
            share[stream] = Placed(
                log=where.log, first=where.first + start, leaves=where.leaves[start:end]
            )
        yield share


def _let_in(
    transaction: Transaction, group: Sequence[Pending], placed: Mapping[str, Placed]
) -> None:
    """Call what each of *group* wants to do in the transaction."""
    for pending, share in zip(group, _shares(group, placed), strict=True):
        if pending.within is not None:
            pending.within(transaction, share)


def _is_kept(transaction: Transaction, placed: Mapping[str, Placed]) -> bool:
    """Tell whether the transaction that placed these took effect; it did as a whole or not."""
    where = next(iter(placed.values()))
    head = transaction.heads()[where.log]
    return head.size > where.first and transaction.leaf(where.log, where.first) == where.leaves[0]


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
