"""
Scrub: verifies all that is kept, a segment at a time, again and again, in the background.

::

    entries of a segment  ->  root of the segment  ->  root of the tree  ->  signed checkpoint

A round goes over every segment of every log, then over every committed value. How far it
has come stands in the store, so that it goes on after a start, and several collectors over
one store share the work. It is no verdict: what was signed and seen before, and where,
only `indelible.verify` takes into account.
"""

from __future__ import annotations

import logging
import threading
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from indelible.accounting import account_for
from indelible.checkpoint import Checkpoint, handed_over
from indelible.collector.beside import beside
from indelible.custody import own_event
from indelible.errors import Damaged, IndelibleError, Moved, TrailClosed, VerificationError
from indelible.merkle import node_hash, root_at, subtree_root
from indelible.note import Note
from indelible.policy import CUSTODY
from indelible.segment import SEGMENT, SEGMENTS_LEVEL, TILE, TILES_LEVEL
from indelible.verify import verify_segment
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from litestar import Litestar

    from indelible.accounting import Accounts
    from indelible.collector.state import Collector
    from indelible.note import VerifierKey
    from indelible.store import Head, Transaction, View
    from indelible.trail import Trail
    from indelible.verify import Part

_log = logging.getLogger("indelible")

KIND = "scrub"
"""Of the fact that says how far a round has come."""

SHARE = 0.25
"""The part of a processor that accounting for the values may take."""

_MOST_FINDINGS = 100


class Scrubbed(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far scrubbing has come.

    Attributes:
        started_at: When the round under way, or the last one, began; microseconds since 1970.
        finished_at: When a round was over last.
        log, number: The segment that is next; no log between two rounds.
        done: How many segments the round has verified.
        total: How many there were when it last looked.
        findings: What did not hold in this round.
        before: And in the one before.
        missing: Values that are missing or were tampered with, as the last whole round found.
    """

    started_at: int = 0
    finished_at: int | None = None
    log: str = ""
    number: int = 0
    done: int = 0
    total: int = 0
    findings: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    missing: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Scrubbed:
        """Read what `to_bytes` writes; before the first round, nothing."""
        return cls() if data is None else msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.msgpack.encode(self)

    @property
    def coverage(self) -> float:
        """Which part of the segments this round has verified, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def wrong(self) -> tuple[str, ...]:
        """What is known not to hold: found in this round, or in the one before."""
        return tuple(dict.fromkeys([*self.findings, *self.before]))

    def begun(self, now: int) -> Scrubbed:
        """Return the beginning of the next round."""
        return msgspec.structs.replace(
            self, started_at=now, done=0, findings=(), before=self.findings
        )

    def after(self, log: str, number: int, findings: Sequence[str]) -> Scrubbed:
        """Return where it is when it has verified a segment."""
        return msgspec.structs.replace(
            self, log=log, number=number + 1, done=self.done + 1, findings=self._with(findings)
        )

    def finished(self, now: int, missing: int, findings: Sequence[str]) -> Scrubbed:
        """Return where it is when it has accounted for the values, too."""
        return msgspec.structs.replace(
            self,
            finished_at=now,
            log="",
            number=0,
            findings=self._with(findings),
            before=(),
            missing=missing,
        )

    def _with(self, findings: Sequence[str]) -> tuple[str, ...]:
        return (*self.findings, *findings)[:_MOST_FINDINGS]


class Scrubber:
    """Verifies, a segment at a time, all that *collector* keeps."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._settings = collector.settings
        self._trail = collector.trail

    def run(self, stop: threading.Event) -> None:
        """Go on until *stop* is set; a store that is away is waited for."""
        while not stop.wait(self._settings.scrub_pause):
            try:
                self.step(stop)
            except (_Stopped, TrailClosed):
                return
            except IndelibleError as error:
                _log.warning("scrub: %s", error)

    def step(self, stop: threading.Event | None = None) -> Scrubbed:
        """
        Verify the next segment or, when that was the last, account for the values.

        Between two rounds, nothing happens.

        Returns:
            Where it is then.

        Raises:
            StoreError, WriteUncertain: It is to be repeated.
        """
        now = self._collector.now()
        with self._trail.store.read() as view:
            kept = view.fact(KIND, b"")
            begun = before = Scrubbed.from_bytes(kept)
            if not before.log:
                if now < before.started_at + self._settings.scrub_every * 1e6:
                    return before
                begun = before.begun(now)
            segments = _segments(view)
            begun = msgspec.structs.replace(begun, total=len(segments))
            ahead = [each for each in segments if each >= (begun.log, begun.number)]
            if ahead:
                found = [*_verified(self._trail, view, *ahead[0])]
                reached = begun.after(*ahead[0], found)
        if not ahead:
            accounts = account_for(
                self._trail.store, self._trail.vault, progress=_gently(stop or threading.Event())
            )
            reached = begun.finished(now, accounts.alarm_count, _wrong(accounts, begun.findings))
        self._keep(kept, reached, set(reached.findings) - set(before.wrong))
        return reached

    def _keep(self, kept: bytes | None, reached: Scrubbed, new: set[str]) -> None:
        """Keep how far it has come, unless others have gone on meanwhile; record what is new."""
        events = [
            own_event(self._trail.id, "scrub.finding", what=finding) for finding in sorted(new)
        ]

        def within(transaction: Transaction, _: object) -> None:
            if transaction.fact(KIND, b"") != kept:
                raise Moved("scrub: another collector has gone on")
            transaction.put(KIND, b"", reached.to_bytes())

        pending = Pending({CUSTODY: events} if events else {}, within=within)
        self._trail.submit(pending)
        with suppress(Moved):
            pending.result()


class _Stopped(Exception):
    """The collector is stopping."""


def _segments(view: View) -> list[tuple[str, int]]:
    return sorted(
        (log, number)
        for log, head in view.heads().items()
        for number in range(-(-head.size // SEGMENT))
    )


def _verified(trail: Trail, view: View, log: str, number: int) -> list[str]:
    """Hold the entries of a segment against the checkpoint; return what does not hold."""
    head = view.heads()[log]
    try:
        root = _root(view, head, verify_segment(view, log, number))
        key = _key(trail, view, log)
        if key is None:
            # Whose key it is, nobody here knows; that it is the same bytes can be seen.
            signed = Checkpoint.from_text(Note.from_bytes(head.checkpoint).text)
        else:
            signed = Checkpoint.open(head.checkpoint, [key])
        if (signed.origin, signed.size, signed.root) != (head.origin, head.size, root):
            raise Damaged("its entries are not those that the checkpoint was signed over")
    except VerificationError as error:
        return [f"{log}, segment {number}: {error}"]
    return []


def _root(view: View, head: Head, part: Part) -> bytes:
    """Return the root of the log's tree as it follows from the entries of one segment."""
    start = part.number * SEGMENT
    rest = start + TILE * len(part.roots)

    def node(level: int, index: int) -> bytes:
        first, last = index << level, (index + 1) << level
        if last <= start or start + SEGMENT <= first:
            return view.node(head.log, level, index)
        if level > SEGMENTS_LEVEL:
            return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
        if level >= TILES_LEVEL:
            return subtree_root(part.roots[(first - start) // TILE : (last - start) // TILE])
        return subtree_root(part.rest[first - rest : last - rest])

    return root_at(head.size, node)


def _key(trail: Trail, view: View, log: str) -> VerifierKey | None:
    """Return the key that the pinned one has handed the log over to."""
    pin = trail.pins().read().get(log)
    return None if pin is None else handed_over(pin.key, view.rotations(log))[-1]


def _gently(stop: threading.Event) -> Callable[[int, int], None]:
    """Return what holds accounting back to its `SHARE`, and ends it when *stop* is set."""
    since = monotonic()

    def progress(_done: int, _total: int) -> None:
        nonlocal since
        if stop.wait((monotonic() - since) * (1 / SHARE - 1)):
            raise _Stopped
        since = monotonic()

    return progress


def _wrong(accounts: Accounts, known: Sequence[str]) -> list[str]:
    # Where a log itself was found not to hold, that its values cannot be read is no news.
    damaged = {finding.partition(",")[0] for finding in known}
    return [
        *map(str, accounts.alarms),
        *(f"{each.entry}: {each.what}" for each in (*accounts.wrong, *accounts.hidden)),
        *(each for each in accounts.unaccounted if each.partition(":")[0] not in damaged),
    ]


@asynccontextmanager
async def scrubbing(app: Litestar) -> AsyncIterator[None]:
    """Scrub what the collector of *app* keeps for as long as the application runs."""
    collector: Collector = app.state.collector
    if not collector.settings.scrub_every:
        yield
        return
    async with beside("indelible-scrub", Scrubber(collector).run):
        yield
