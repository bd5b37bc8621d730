"""The door for applications: what goes in, by whom, and what happens if it cannot."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.custody import Custody
from indelible.document import default
from indelible.entry import Entry
from indelible.errors import (
    CallerError,
    EventTooLarge,
    InvalidEvent,
    KeyUnavailable,
    StoreError,
    StoreFull,
    TrailClosed,
    UnknownStream,
    WriteUncertain,
)
from indelible.event import Actor, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.log import restore
from indelible.policy import Policy, Rule, Stream
from indelible.recorder import Receipt, Recorder, State
from indelible.store import Head
from indelible.testing import Faulty, FrozenClock, MemoryStore
from indelible.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.store import Store, Transaction

EASYGOING = Policy(
    streams={"user": Stream(), "access": Stream(on_failure="continue"), "custody": Stream()},
    rules=(Rule(stream="access", action="page.*"), Rule(stream="user")),
)


class Gate(Faulty):
    """
    A store whose writes wait until it is opened.

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


class Desk:
    """A recorder over a store in memory, and what can be seen of it."""

    def __init__(
        self, policy: Policy | None = None, *plan: bool | None, gate: bool = False
    ) -> None:
        policy = policy or default()
        memory = MemoryStore()
        keys = {stream: SigningKey.generate(f"x.example/{stream}") for stream in policy.streams}
        with memory.write() as transaction:
            for stream, key in keys.items():
                transaction.create(Head(log=stream, origin=key.name))
        self.gate = Gate(memory)
        if not gate:
            self.gate.opened.set()
        self.faulty = Faulty(self.gate, *plan, error=lambda: StoreFull("store: the disk is full"))
        self.custody = Custody("01a20c39-dd97-7a23-9bb2-000000000000")
        self.writer = Writer(
            self.faulty,
            signer_of=lambda head: keys[head.stream],
            now=FrozenClock(1_764_000_000_000_000),
            custody=self.custody,
            committed=lambda _: None,
        )
        self.recorder = Recorder(policy, self.writer.submit, self.custody.lose)

    def entries(self, stream: str = "user") -> list[bytes]:
        """The exact bytes of the entries of a log, verified one by one."""
        with self.faulty.read() as view:
            size = view.heads()[stream].size
            return [restore(stored) for stored in view.stored(stream, range(size))]

    def events(self, stream: str = "user") -> list[dict[str, Any]]:
        """The events in a log."""
        return [msgspec.json.decode(Entry.from_bytes(e).event) for e in self.entries(stream)]

    def actions(self, stream: str = "user") -> list[str]:
        """Their actions."""
        return [event["action"] for event in self.events(stream)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A recorder with the default policy over a store that works."""
    made = Desk()
    yield made
    made.writer.stop()


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[indelible.Trail]:
    """A new trail on disk."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "audit") as made:
        yield made


def event(action: str = "invoice.approve", **fields: Any) -> Event:
    """A whole event."""
    return Event(
        action=action,
        outcome=Outcome.SUCCESS,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse("invoice:7"),
        **fields,
    )


def test_a_receipt_names_the_entry(trail: indelible.Trail) -> None:
    """Index and leaf hash of a receipt are those of the entry with the event's id."""
    receipts = [
        trail.record("invoice.approve", actor="user:alice", resource="invoice:INV-7"),
        trail.record("auth.login", actor="user:alice", resource="session:1"),
        trail.record(event("role.grant")),
    ]

    assert ["user", "auth", "admin"] == [receipt.stream for receipt in receipts]
    for receipt in receipts:
        item = trail.get(receipt.id)
        assert State.KEPT == receipt.state
        assert (receipt.log, receipt.index) == (item.log, item.index)
        assert receipt.leaf_hash == item.entry.leaf_hash


def test_threads_get_their_own_receipts(trail: indelible.Trail) -> None:
    """However many threads record at once, each is told about its own event alone."""
    receipts: list[tuple[int, Receipt]] = []

    def work(worker: int) -> None:
        for turn in range(25):
            number = worker * 100 + turn
            receipt = trail.record("order.ship", actor="user:bob", resource=f"order:{number}")
            receipts.append((number, receipt))

    in_threads(work, 8)

    assert list(range(200)) == sorted(receipt.index or 0 for _, receipt in receipts)
    for number, receipt in receipts:
        item = trail.get(receipt.id)
        assert f"order:{number}" == str(item.event.resource)
        assert (receipt.index, receipt.leaf_hash) == (item.index, item.entry.leaf_hash)
    trail.verify().require()


def test_waiting_for_the_disk_does_not_hold_up_the_event_loop() -> None:
    """While a store takes its time, the loop that awaits it goes on with everything else."""
    desk = Desk(gate=True)

    async def main() -> tuple[int, list[Receipt]]:
        waiting = [
            asyncio.create_task(desk.recorder.arecord(event(data={"number": number})))
            for number in range(50)
        ]
        ticks = 0
        for _ in range(10_000):
            await asyncio.sleep(0)
            ticks += not any(task.done() for task in waiting)
        desk.gate.opened.set()
        return ticks, await asyncio.gather(*waiting)

    ticks, receipts = asyncio.run(main())
    desk.writer.stop()

    assert 10_000 == ticks
    assert list(range(50)) == [receipt.index for receipt in receipts]
    assert list(range(50)) == [found["data"]["number"] for found in desk.events()]
    assert 3 >= desk.faulty.writes


def test_a_cancelled_task_does_not_take_its_event_back() -> None:
    """What was handed over is kept, even if nobody waits for it any more."""
    desk = Desk(gate=True)

    async def main() -> None:
        task = asyncio.create_task(desk.recorder.arecord(event("order.cancel")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert desk.gate.reached.wait(30)
        desk.gate.opened.set()
        await desk.recorder.arecord(event("order.ship"))

    asyncio.run(main())
    desk.writer.stop()

    assert ["order.cancel", "order.ship"] == desk.actions()
    assert {} == desk.custody.lost()


@pytest.mark.parametrize("stream", ["user", "access"])
def test_a_loss_that_nobody_waits_for_is_counted(stream: str) -> None:
    """If the event of a cancelled task cannot be kept, the custody stream says so."""
    desk = Desk(EASYGOING, False, gate=True)

    async def main() -> None:
        task = asyncio.create_task(desk.recorder.arecord(event("order.cancel"), stream=stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert desk.gate.reached.wait(30)
        desk.gate.opened.set()
        await desk.recorder.arecord(event("order.ship"))

    asyncio.run(main())
    desk.writer.stop()

    assert ["order.ship"] == desk.actions()
    assert {stream: 1} == desk.custody.lost()
    assert "events.lost" in desk.actions("custody")


def test_a_loss_after_the_loop_has_ended_is_counted() -> None:
    """A loop that is gone before the disk answers does not make a loss disappear."""
    desk = Desk(None, False, gate=True)
    loop = asyncio.new_event_loop()
    task = loop.create_task(desk.recorder.arecord(event()))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()

    desk.gate.opened.set()
    desk.writer.stop()

    assert {"user": 1} == desk.custody.lost()


def test_arecord_raises_what_record_raises() -> None:
    """The same mistakes and failures come back to the task as to a thread."""
    desk = Desk(None, False)

    async def main() -> None:
        with pytest.raises(InvalidEvent):
            await desk.recorder.arecord("invoice.approve", actor="alice", resource="invoice:7")
        with pytest.raises(UnknownStream):
            await desk.recorder.arecord(event(), stream="nowhere")
        with pytest.raises(StoreFull):
            await desk.recorder.arecord(event())
        assert 0 == (await desk.recorder.arecord(event())).index

    asyncio.run(main())
    desk.writer.stop()


def test_many_events_are_kept_in_order_with_a_sync_for_each_batch(desk: Desk) -> None:
    """A batch costs one write; nothing is reordered between streams or batches."""
    events = (event(("order.ship", "auth.login")[n % 4 == 3], data={"n": n}) for n in range(1_000))

    count = desk.recorder.record_many(events, batch=300)

    assert 1_000 == count
    assert 4 == desk.faulty.writes
    assert [n for n in range(1_000) if n % 4 != 3] == [e["data"]["n"] for e in desk.events()]
    assert [n for n in range(1_000) if n % 4 == 3] == [e["data"]["n"] for e in desk.events("auth")]


def test_of_many_events_none_is_kept_beyond_a_wrong_one(desk: Desk) -> None:
    """Whole batches before a mistake are kept, and nothing of the batch that holds it."""

    def events() -> Iterator[Any]:
        for number in range(25):
            yield event(data={"n": number})
        yield "not an event"

    with pytest.raises(InvalidEvent, match="expected an Event"):
        desk.recorder.record_many(events(), batch=10)

    assert 20 == len(desk.entries())
    assert 0 == desk.recorder.record_many([])


def test_of_many_events_whole_batches_fail() -> None:
    """A batch is in the log as a whole or not at all."""
    desk = Desk(None, None, False)

    with pytest.raises(StoreFull):
        desk.recorder.record_many((event(data={"n": n}) for n in range(25)), batch=10)
    desk.writer.stop()

    assert 10 == len(desk.entries())


def test_of_many_events_those_of_easygoing_streams_are_counted() -> None:
    """Where the application goes on, a batch that is lost is counted, event by event."""
    desk = Desk(EASYGOING, False)

    kept = desk.recorder.record_many((event("page.view") for _ in range(25)), batch=10)
    desk.writer.stop()

    assert 15 == kept == len(desk.entries("access"))
    assert {"access": 10} == desk.custody.lost()


def test_the_context_fills_what_is_not_given(desk: Desk) -> None:
    """Actor, client and reason of the work in progress stand in every event recorded within."""
    with indelible.context(actor="user:alice", client="192.0.2.7", tenant="acme", session="s1"):
        desk.recorder.record("order.ship", resource="order:1")
        desk.recorder.record("order.ship", resource="order:2", actor="user:bob", tenant="other")
    desk.recorder.record("order.ship", resource="order:3")

    inside, given, outside = desk.events()
    assert {"type": "user", "id": "alice"} == inside["actor"]
    assert ("192.0.2.7", "acme", "s1") == (
        inside["client"]["ip"],
        inside["tenant"],
        inside["session"],
    )
    assert ("bob", "other", "s1") == (given["actor"]["id"], given["tenant"], given["session"])
    assert "unknown" == outside["actor"]["type"]
    assert outside.keys().isdisjoint({"client", "tenant", "session"})


def test_a_context_is_given_back_by_its_block(desk: Desk) -> None:
    """An inner block adds to the outer one and takes nothing away, also when it raises."""
    with indelible.context(actor="user:alice", rationale="monthly run"):
        with (
            pytest.raises(ZeroDivisionError),
            indelible.context(actor="user:bob", tenant="acme"),
        ):
            desk.recorder.record("order.ship", resource="order:1")
            raise ZeroDivisionError
        desk.recorder.record("order.ship", resource="order:2")
    with pytest.raises(InvalidEvent), indelible.context(nonsense=1):
        pass
    desk.recorder.record("order.ship", resource="order:3")

    first, second, third = desk.events()
    assert ("bob", "acme") == (first["actor"]["id"], first["tenant"])
    assert first["rationale"] == second["rationale"]
    assert "alice" == second["actor"]["id"]
    assert "tenant" not in second
    assert "rationale" not in third


def test_a_context_does_not_leak_into_other_work(desk: Desk) -> None:
    """Tasks and threads that work at the same time never get each other's actor."""

    async def task(name: str) -> None:
        with indelible.context(actor=f"user:{name}"):
            for _ in range(5):
                await asyncio.sleep(0)
                await desk.recorder.arecord("order.ship", resource=f"order:{name}")

    async def main() -> None:
        await asyncio.gather(*(task(f"t{number}") for number in range(20)))

    asyncio.run(main())
    with indelible.context(actor="user:main"):
        in_threads(lambda n: desk.recorder.record("order.ship", resource=f"order:{n}"), 4)

    events = desk.events()
    assert 104 == len(events)
    assert all(found["actor"]["id"] == found["resource"]["id"] for found in events[:100])
    assert all("unknown" == found["actor"]["type"] for found in events[100:])


def test_an_audited_call_is_recorded_with_its_outcome(desk: Desk) -> None:
    """Success, failure and refusal each leave an entry; result and error stay the same."""

    @desk.recorder.audited("invoice.void", resource="invoice:{invoice_id}", rationale="cleanup")
    def void(invoice_id: str, *, error: type[Exception] | None = None) -> str:
        """Void it."""
        if error is not None:
            raise error("the message may hold a secret")
        return f"voided {invoice_id}"

    assert "voided INV-1" == void("INV-1")
    with pytest.raises(PermissionError):
        void("INV-2", error=PermissionError)
    with pytest.raises(KeyError):
        void(invoice_id="INV-3", error=KeyError)

    assert ("void", "Void it.") == (void.__name__, void.__doc__)
    assert [
        ("INV-1", "success", None),
        ("INV-2", "denied", "PermissionError"),
        ("INV-3", "failure", "KeyError"),
    ] == [(e["resource"]["id"], e["outcome"], e.get("reason")) for e in desk.events()]
    assert not any(b"secret" in entry for entry in desk.entries())


def test_an_audited_coroutine_is_recorded_with_its_outcome(desk: Desk) -> None:
    """The same for functions that are awaited, and for a task that is cancelled inside one."""
    began = asyncio.Event()

    @desk.recorder.audited("invoice.void", resource=lambda number: f"invoice:{number}")
    async def void(number: int) -> int:
        if number == 2:
            raise PermissionError
        if number == 3:
            began.set()
            await asyncio.Event().wait()
        return number

    async def main() -> None:
        assert 1 == await void(1)
        with pytest.raises(PermissionError):
            await void(2)
        task = asyncio.create_task(void(3))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert [("1", "success"), ("2", "denied"), ("3", "failure")] == [
        (found["resource"]["id"], found["outcome"]) for found in desk.events()
    ]


def test_an_audited_call_takes_its_fields_from_the_arguments(desk: Desk) -> None:
    """Templates see defaults and attributes; fields may be functions of the same arguments."""

    class Invoice:
        number = 5

    @desk.recorder.audited(
        "invoice.pay",
        resource="invoice:{invoice.number}-{part}",
        denied=(ValueError,),
        data=lambda invoice, part="a": {"number": invoice.number, "part": part},
    )
    def pay(invoice: Invoice, part: str = "a") -> None:
        invoice.number = 6  # what the function changes is not what it was called with
        if part == "b":
            raise ValueError(part)

    invoice = Invoice()
    pay(invoice)
    with pytest.raises(ValueError, match="b"):
        pay(invoice, part="b")

    assert [
        ("5-a", {"number": 5, "part": "a"}, "success"),
        ("6-b", {"number": 6, "part": "b"}, "denied"),
    ] == [(found["resource"]["id"], found["data"], found["outcome"]) for found in desk.events()]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resource": "{empty}"}, InvalidEvent),
        ({"resource": "invoice:{nothing}"}, KeyError),
        ({"resource": "invoice:7", "actor": "alice"}, InvalidEvent),
        ({"resource": "invoice:7", "stream": "nowhere"}, UnknownStream),
        ({"resource": "invoice:7", "stream": "custody"}, UnknownStream),
        (
            {
                "resource": "invoice:7",
                "actor": lambda empty: Actor(type="user", id="a", roles=(empty + "x" * 70_000,)),
            },
            EventTooLarge,
        ),
    ],
)
def test_an_audited_call_that_cannot_be_recorded_is_not_made(
    desk: Desk, options: dict[str, Any], error: type[Exception]
) -> None:
    """A mistake in the decoration shows before the function has done anything."""
    calls: list[str] = []

    @desk.recorder.audited("invoice.void", **options)
    def void(empty: str) -> None:
        calls.append(empty)

    with pytest.raises(error):
        void("")

    assert [] == calls
    assert 0 == desk.faulty.writes


def test_a_stream_that_refuses_raises() -> None:
    """Where an action may not happen unrecorded, a full disk is an error of the call."""
    desk = Desk(EASYGOING, False)

    with pytest.raises(StoreFull):
        desk.recorder.record(event())
    receipt = desk.recorder.record(event())
    desk.writer.stop()

    assert 0 == receipt.index
    assert {} == desk.custody.lost()
    assert "events.lost" not in desk.actions("custody")


def test_a_stream_that_continues_counts_and_names_what_is_lost() -> None:
    """Where the application goes on, the next commit says how many are missing and when."""
    desk = Desk(EASYGOING, False, True, True, True)

    lost = [desk.recorder.record(event("page.view")) for _ in range(2)]
    kept = desk.recorder.record(event("page.view"))
    desk.writer.stop()

    assert [State.LOST] * 2 == [receipt.state for receipt in lost]
    assert [(None, None, None)] * 2 == [(r.log, r.index, r.leaf_hash) for r in lost]
    assert State.KEPT == kept.state
    assert {"access": 2} == desk.custody.lost()
    named = [found["data"] for found in desk.events("custody") if found["action"] == "events.lost"]
    assert [("access", 1), ("access", 1)] == [(loss["stream"], loss["count"]) for loss in named]
    assert all(loss["since"] <= loss["until"] for loss in named)


def test_an_uncertain_write_raises_where_the_stream_refuses() -> None:
    """Nobody is told that an event was not kept when it may have been."""
    desk = Desk(EASYGOING, True, True, True)

    with pytest.raises(WriteUncertain):
        desk.recorder.record(event())
    desk.writer.stop()

    assert 1 == len(desk.entries())


@pytest.mark.parametrize(
    "fields",
    [
        {"actor": "alice", "resource": "invoice:7"},
        {"actor": "user:alice", "resource": "7"},
        {"actor": "user:alice", "resource": "invoice:7", "outcome": "perhaps"},
        {"actor": "user:alice", "resource": "invoice:7", "data": {"text": "\ud800"}},
        {"actor": "user:alice", "resource": "invoice:7", "data": {"text": "a\0b"}},
        {"actor": "user:alice", "resource": "invoice:7", "data": {"text": "x" * 60_000}},
    ],
)
def test_a_wrong_event_raises_and_leaves_nothing(desk: Desk, fields: dict[str, Any]) -> None:
    """A mistake is the caller's, in the caller's thread, and reaches neither log nor disk."""
    with pytest.raises(InvalidEvent):
        desk.recorder.record("invoice.approve", **fields)

    assert 0 == desk.faulty.writes
    assert 0 == desk.recorder.record(event()).index


def test_fields_beside_a_whole_event_are_refused(desk: Desk) -> None:
    """An event is given whole or by its fields, so that nothing that was said is ignored."""
    with pytest.raises(InvalidEvent, match="no fields beside"):
        desk.recorder.record(event(), tenant="acme")


def test_the_custody_stream_is_the_trail_s_own(desk: Desk) -> None:
    """No application writes what the trail says about itself, and no stream is made by a typo."""
    for stream in ("custody", "nowhere", ""):
        with pytest.raises(UnknownStream):
            desk.recorder.record(event(), stream=stream)
        with pytest.raises(UnknownStream):
            desk.recorder.record_many([event()], stream=stream)

    assert 0 == desk.faulty.writes


def test_a_stream_that_the_trail_was_not_made_with_is_refused(trail: indelible.Trail) -> None:
    """A policy that names a new stream does not make it; the caller is told, and others go on."""
    with pytest.raises(UnknownStream, match="new"):
        trail.record(event(), stream="new")

    assert 0 == trail.record(event()).index


def test_a_closed_trail_takes_nothing(trail: indelible.Trail) -> None:
    """Whoever records after the end is told so, in whatever way they record."""
    trail.record(event())
    trail.close()
    trail.close()

    with pytest.raises(TrailClosed):
        trail.record(event())
    with pytest.raises(TrailClosed):
        trail.record_many([event()])
    with pytest.raises(TrailClosed):
        asyncio.run(trail.arecord(event()))


def test_a_lost_key_is_an_error_of_the_call(trail: indelible.Trail) -> None:
    """Nothing is written that nobody can sign; other streams go on."""
    (trail.path / "keys" / "auth.key").unlink()

    with pytest.raises(KeyUnavailable):
        trail.record(event("auth.login"))

    assert 0 == trail.record(event()).index
    with pytest.raises(CallerError):
        trail.checkpoint("auth")


def test_another_key_in_the_place_of_the_right_one_is_not_used(trail: indelible.Trail) -> None:
    """A log is never signed by a key that its verifiers were not led to."""
    trail.record(event())
    trail.close()
    path = trail.path / "keys" / "user.key"
    path.write_text(SigningKey.generate(f"{trail.origin}/user").to_text() + "\n")

    with indelible.open(trail.path) as again:
        with pytest.raises(KeyUnavailable, match="another key"):
            again.record(event())
        again.verify().require()


def test_an_error_of_the_disk_is_a_store_error(trail: indelible.Trail) -> None:
    """What goes wrong below is said in the words of this package."""
    assert issubclass(StoreFull, StoreError)
    trail.record(event())
    trail.store.close()
    (trail.path / "head.db").rename(trail.path / "gone.db")

    with pytest.raises(StoreError):
        trail.record(event())

    (trail.path / "gone.db").rename(trail.path / "head.db")
    assert 1 == trail.record(event()).index


def in_threads(work: Callable[[int], object], count: int) -> None:
    """Do *work* in so many threads at once, and fail if one does not end."""
    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
