"""Group commit: who waits, who is told what, and what is in the log afterwards."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from indelible.custody import Custody
from indelible.document import default
from indelible.entry import Entry
from indelible.errors import (
    KeyUnavailable,
    Moved,
    StoreError,
    StoreFull,
    TrailClosed,
    WriteUncertain,
)
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.log import restore
from indelible.merkle import leaf_hash, root_of
from indelible.seal import seal
from indelible.store import Head
from indelible.testing import Faulty, FrozenClock, MemoryStore
from indelible.writer import MOST_EVENTS, Pending, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.keys import Signer
    from indelible.log import Placed
    from indelible.seal import Sealed
    from indelible.store import Store, Transaction

NOW = 1_764_000_000_000_000
KEYS = {
    stream: SigningKey.from_seed(f"audit.example.com/{stream}", bytes([number]) * 32)
    for number, stream in enumerate(default().streams)
}


class Gate(Faulty):
    """
    A store whose writes wait until it is opened; what it then does is *store*'s.

    Attributes:
        reached: Set as soon as a write waits here.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reached = threading.Event()
        self.opened = threading.Event()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction once the gate is open."""
        self.reached.set()
        assert self.opened.wait(30)
        with self.store.write() as transaction:
            yield transaction


@dataclass
class Bench:
    """A writer over a store in memory, and all that is needed to look at what it did."""

    faulty: Faulty
    writer: Writer
    custody: Custody
    committed: list[Mapping[str, Head]] = field(default_factory=list)

    def entries(self, stream: str = "user") -> list[bytes]:
        """The exact bytes of the entries of a log, verified one by one."""
        with self.faulty.read() as view:
            head = view.heads()[stream]
            entries = [restore(stored) for stored in view.stored(stream, range(head.size))]
            assert root_of([leaf_hash(entry) for entry in entries]) == head.edge.root
        return entries

    def actions(self, stream: str = "custody") -> list[str]:
        """The actions of the entries of a log."""
        return [
            msgspec.json.decode(Entry.from_bytes(entry).event)["action"]
            for entry in self.entries(stream)
        ]

    def submit(self, *numbers: int, stream: str = "user") -> Pending:
        """Hand events over in one piece."""
        pending = Pending({stream: [sealed(number) for number in numbers]})
        self.writer.submit(pending)
        return pending


def bench(
    faulty: Faulty,
    *,
    now: Callable[[], int] = lambda: NOW,
    signer_of: Callable[[Head], Signer] = lambda head: KEYS[head.stream],
    committed: Callable[[Mapping[str, Head]], object] | None = None,
) -> Bench:
    """A writer over *faulty*, with a log for each stream."""
    custody = Custody("01a20c39-dd97-7a23-9bb2-000000000000")
    made: list[Mapping[str, Head]] = []
    writer = Writer(
        faulty,
        signer_of=signer_of,
        now=now,
        custody=custody,
        committed=made.append if committed is None else committed,
    )
    return Bench(faulty, writer, custody, made)


def memory() -> MemoryStore:
    """An empty log for each stream."""
    store = MemoryStore()
    with store.write() as transaction:
        for stream, key in KEYS.items():
            transaction.create(Head(log=stream, origin=key.name))
    return store


def sealed(number: int) -> Sealed:
    """An event that names *number*."""
    return seal(
        Event(
            action="invoice.approve",
            outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse(f"invoice:{number}"),
        )
    )


def assert_places_are_right(
    found: Bench, taken: Sequence[tuple[Pending, Mapping[str, Placed]]]
) -> None:
    """Each caller was told the places of exactly its own events."""
    entries = {stream: found.entries(stream) for stream in default().streams}
    for pending, placed in taken:
        assert pending.events.keys() == placed.keys()
        for stream, events in pending.events.items():
            where = placed[stream]
            there = entries[where.log][where.first : where.first + len(events)]
            assert [event.event for event in events] == [
                Entry.from_bytes(entry).event for entry in there
            ]
            assert list(where.leaves) == [leaf_hash(entry) for entry in there]


def test_all_who_wait_share_the_next_commit() -> None:
    """While one commit is under way, any number of callers gather for the next one."""
    gate = Gate(memory())
    made = bench(Faulty(gate))
    first = made.submit(0)
    assert gate.reached.wait(30)
    others = [made.submit(number) for number in range(1, 201)]

    gate.opened.set()
    for pending in (first, *others):
        pending.result()

    assert 2 == made.faulty.writes
    assert 201 == len(made.entries())
    made.writer.stop()


def test_a_commit_is_bounded() -> None:
    """A group that is large enough is written, whoever else waits."""
    gate = Gate(memory())
    made = bench(Faulty(gate))
    first = made.submit(0)
    assert gate.reached.wait(30)
    half = MOST_EVENTS // 2
    others = [made.submit(*range(half)) for _ in range(6)]

    gate.opened.set()
    for pending in (first, *others):
        pending.result()

    assert 1 + 3 == made.faulty.writes
    made.writer.stop()


def test_each_caller_is_told_its_own_places() -> None:
    """Whoever shares a commit, each receipt names the caller's own entry."""
    made = bench(Faulty(memory()))
    taken: list[tuple[Pending, Mapping[str, Placed]]] = []

    def work(worker: int) -> None:
        streams = list(default().streams)[:3]
        for turn in range(20):
            count = 1 + (worker + turn) % 4
            chosen = streams[: 1 + turn % 3]
            pending = Pending({stream: [sealed(turn) for _ in range(count)] for stream in chosen})
            made.writer.submit(pending)
            taken.append((pending, pending.result()))

    in_threads(work, 12)
    made.writer.stop()

    assert 240 == len(taken)
    assert_places_are_right(made, taken)


def test_events_of_one_thread_keep_their_order() -> None:
    """What one thread recorded later has the higher index."""
    made = bench(Faulty(memory()))
    places: dict[int, list[int]] = {}

    def work(worker: int) -> None:
        mine = [made.submit(turn).result()["user"].first for turn in range(50)]
        places[worker] = mine

    in_threads(work, 6)
    made.writer.stop()

    assert list(range(300)) == sorted(index for mine in places.values() for index in mine)
    assert all(mine == sorted(mine) for mine in places.values())


def test_no_time_of_a_log_is_before_the_last_one() -> None:
    """A clock that is set back, by hours even, never shows in a log."""
    clock = FrozenClock(NOW)
    made = bench(Faulty(memory()), now=clock)

    for number, moved in enumerate([0, 5, -3_600_000_000, 1, 7_200_000_000, -1]):
        clock.move(moved)
        made.submit(number).result()
    made.writer.stop()

    times = [Entry.from_bytes(entry).recorded_at for entry in made.entries()]
    assert [NOW, NOW + 5, NOW + 5, NOW + 5] == times[:4]
    assert times == sorted(times)


def test_stopping_writes_what_was_handed_over() -> None:
    """An orderly end loses nothing, and the custody stream names it."""
    gate = Gate(memory())
    made = bench(Faulty(gate))
    waiting = [made.submit(number) for number in range(30)]
    assert gate.reached.wait(30)
    made.custody.stopping = True
    stopping = threading.Thread(target=made.writer.stop)
    stopping.start()

    gate.opened.set()
    stopping.join()

    assert sorted(pending.result()["user"].first for pending in waiting) == list(range(30))
    assert ["trail.start", "trail.stop"] == made.actions()


def test_whoever_comes_too_late_is_told() -> None:
    """At the end, an event is either written or refused: nobody hangs."""
    for _ in range(30):
        made = bench(Faulty(memory()))
        kept: list[int] = []
        refused: list[int] = []
        began = threading.Barrier(5)

        def work(
            worker: int,
            made: Bench = made,
            kept: list[int] = kept,
            refused: list[int] = refused,
            began: threading.Barrier = began,
        ) -> None:
            began.wait()
            for _ in range(1_000_000):
                try:
                    kept.append(made.submit(worker).result()["user"].first)
                except TrailClosed:
                    refused.append(worker)
                    return

        threads = [
            threading.Thread(target=work, args=(worker,), daemon=True) for worker in range(4)
        ]
        for thread in threads:
            thread.start()
        began.wait()
        made.submit(99).result()
        made.writer.stop()
        for thread in threads:
            thread.join(30)

        assert not any(thread.is_alive() for thread in threads)
        assert [0, 1, 2, 3] == sorted(refused)
        assert len(kept) + 1 == len(made.entries())


def test_the_fault_of_one_is_not_that_of_the_others() -> None:
    """An event that cannot be signed fails alone, whoever shares its commit."""

    def signer_of(head: Head) -> Signer:
        if head.stream == "auth":
            raise KeyUnavailable("auth.key: found no file, expected the signing key")
        return KEYS[head.stream]

    gate = Gate(memory())
    made = bench(Faulty(gate), signer_of=signer_of)
    first = made.submit(0)
    assert gate.reached.wait(30)
    before, bad, after = made.submit(1), made.submit(2, stream="auth"), made.submit(3)

    gate.opened.set()

    assert [0, 1, 2] == [pending.result()["user"].first for pending in (first, before, after)]
    with pytest.raises(KeyUnavailable):
        bad.result()
    assert [] == made.entries("auth")
    made.writer.stop()


def test_what_fails_after_the_commit_does_not_deny_it() -> None:
    """An event that is durable is acknowledged, whatever goes wrong afterwards."""

    def committed(_: Mapping[str, Head]) -> None:
        raise RuntimeError("can't start new thread")

    made = bench(Faulty(memory()), committed=committed)

    assert 0 == made.submit(0).result()["user"].first
    assert 1 == made.submit(1).result()["user"].first
    made.writer.stop()


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(5, "Input/output error")])
def test_every_error_reaches_whoever_waits(error: Exception) -> None:
    """An error that nobody thought of is raised to the callers, and the writer goes on."""
    made = bench(Faulty(memory(), False, error=lambda: error))

    with pytest.raises(StoreError, match=str(error.args[-1])):
        made.submit(0).result()

    assert 0 == made.submit(1).result()["user"].first
    made.writer.stop()


LOST, UNDONE, FINE = True, False, None


@pytest.mark.parametrize("already", [0, 255, 256])
@pytest.mark.parametrize(
    "plan",
    [(FINE,), (LOST,), (UNDONE,), (LOST, LOST), (LOST, UNDONE), (UNDONE, LOST), (UNDONE, UNDONE)],
)
def test_a_lost_answer_neither_loses_nor_doubles_an_entry(
    plan: tuple[bool | None, ...], already: int
) -> None:
    """Whether or not the write behind a lost answer happened, the log holds the entries once."""
    store = memory()
    if already:
        before = bench(Faulty(store))
        before.submit(*range(already)).result()
        before.writer.stop()
    made = bench(Faulty(store, *plan))

    pending = Pending({"user": [sealed(1), sealed(2)], "auth": [sealed(3)]})
    made.writer.submit(pending)
    placed = pending.result()
    made.writer.stop()

    assert already == placed["user"].first
    assert already + 2 == len(made.entries())
    assert 1 == len(made.entries("auth"))
    assert_places_are_right(made, [(pending, placed)])
    assert bool(already) + 1 == made.actions().count("trail.start")


@pytest.mark.parametrize("plan", [(LOST, LOST, LOST), (UNDONE, LOST, UNDONE), (UNDONE,) * 3])
def test_three_lost_answers_are_said_to_be_uncertain(plan: tuple[bool, ...]) -> None:
    """Who cannot be told whether an event was kept is told just that; it is never there twice."""
    made = bench(Faulty(memory(), *plan))

    with pytest.raises(WriteUncertain):
        made.submit(0).result()

    assert 3 == made.faulty.writes
    assert any(plan) == len(made.entries())
    made.submit(1).result()
    made.writer.stop()
    assert any(plan) + 1 == len(made.entries())


def test_what_failed_for_sure_is_not_tried_again() -> None:
    """A write that certainly did not happen is the caller's to repeat."""
    made = bench(Faulty(memory(), False, error=lambda: StoreFull("store: the disk is full")))

    with pytest.raises(StoreFull):
        made.submit(0).result()

    assert 1 == made.faulty.writes
    assert [] == made.entries()
    assert 0 == made.submit(0).result()["user"].first
    made.writer.stop()
    assert 1 == len(made.entries())


def test_a_failure_after_a_lost_answer_leaves_it_uncertain() -> None:
    """When the second look fails for sure, the first write may still have happened."""
    made = bench(Faulty(memory(), True, False, error=lambda: StoreError("gone")))

    with pytest.raises(WriteUncertain, match="before that"):
        made.submit(0).result()

    assert 1 == len(made.entries())
    made.writer.stop()


@pytest.mark.parametrize("plan", [(UNDONE,), (LOST,), (UNDONE, LOST)])
def test_a_start_is_named_once_however_often_it_was_tried(plan: tuple[bool, ...]) -> None:
    """A commit that failed takes nothing with it that the custody stream has yet to hear."""
    error = StoreError("store: away")
    made = bench(Faulty(memory(), *plan, error=lambda: error))

    for number in range(3):
        try:
            made.submit(number).result()
        except (StoreError, WriteUncertain) as raised:
            assert error is raised.__cause__ or error is raised  # noqa: PT017 - it may not raise
    made.writer.stop()

    assert ["trail.start"] == made.actions()


def test_a_loss_is_named_even_if_nobody_records_any_more() -> None:
    """As soon as writing works again, lost events are counted in the custody stream."""
    named = threading.Event()

    def committed(heads: Mapping[str, Head]) -> None:
        if heads["custody"].size:
            named.set()

    full = StoreFull("store: the disk is full")
    made = bench(Faulty(memory(), False, False, error=lambda: full), committed=committed)
    with pytest.raises(StoreFull):
        made.submit(0).result()
    made.custody.lose("user", 7)

    assert named.wait(30)
    assert 3 == made.faulty.writes
    assert ["events.lost", "trail.start"] == made.actions()
    lost = msgspec.json.decode(Entry.from_bytes(made.entries("custody")[0]).event)["data"]
    assert ("user", 7) == (lost["stream"], lost["count"])
    assert lost["since"] == lost["until"]
    made.writer.stop()


def test_losses_that_come_while_others_are_named_are_named_next() -> None:
    """No loss is named twice or forgotten, whenever it was counted."""
    custody = Custody("01a20c39-dd97-7a23-9bb2-000000000000")
    custody.lose("user", 2)
    custody.lose("auth", 1)

    first = custody.events({})
    custody.lose("user", 3)
    again = custody.events({})
    custody.lose("user", 4)
    custody.written()
    last = custody.events({})

    def named(events: Sequence[Sealed]) -> dict[str, int]:
        data = [msgspec.json.decode(event.event) for event in events]
        return {
            event["data"]["stream"]: event["data"]["count"]
            for event in data
            if event["action"] == "events.lost"
        }

    assert {"user": 2, "auth": 1} == named(first)
    assert {"user": 5, "auth": 1} == named(again)
    assert {"user": 4} == named(last)
    assert {"user": 9, "auth": 1} == custody.lost()


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Do *work* in so many threads at once, and fail if one does not end."""
    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_what_is_put_beside_events_is_kept_with_them() -> None:
    """What a caller adds to the transaction of its events is kept with them, or neither is."""
    found = bench(Faulty(memory(), False, True))

    def within(transaction: Transaction, placed: Mapping[str, Placed]) -> None:
        transaction.put("place", b"of it", str(placed["user"].first).encode())

    pending = Pending({"user": [sealed(1)]}, within=within)
    found.writer.submit(pending)

    assert 0 == pending.result()["user"].first
    with found.faulty.read() as view:
        assert b"0" == view.fact("place", b"of it")
        assert 1 == view.heads()["user"].size
    found.writer.stop()


def test_who_takes_its_events_back_stops_nobody_else() -> None:
    """Events that their caller takes back in the transaction leave those of others as they are."""
    gate = Gate(memory())
    found = bench(gate)

    def refuse(*_: object) -> None:
        raise Moved("somebody else was faster")

    found.submit(0)
    assert gate.reached.wait(30)
    before = found.submit(1)
    refused = Pending({"user": [sealed(2)]}, within=refuse)
    found.writer.submit(refused)
    after = found.submit(3)
    gate.opened.set()

    assert 1 == before.result()["user"].first
    assert 2 == after.result()["user"].first
    with pytest.raises(Moved, match="faster"):
        refused.result()
    found.writer.stop()
