"""Who acts, in which session, request and trace: set for a block, and given back by it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from indelible import context
from indelible.context import Context, current
from indelible.errors import InvalidEvent
from indelible.event import Actor, Approval, Client, Rationale, Service, Trace
from indelible.recorder import build

ALICE, BOB = Actor.parse("user:alice"), Actor.parse("user:bob")


def test_outside_of_every_block_nothing_is_known() -> None:
    """Nobody acts by accident under the name of somebody else."""
    assert Context() == current()
    assert Actor(type="unknown") == build("a.b", resource="c:d").actor


def test_a_context_takes_texts_or_typed_values() -> None:
    """Strings are enough, and mean what the typed values mean."""
    with context(
        actor="user:alice",
        rationale="PO-99",
        client="203.0.113.9",
        trace="4bf92f3577b34da6a3ce929d0e0e4736",
        service="shop",
    ) as texts:
        pass
    with context(
        actor=ALICE,
        rationale=Rationale(text="PO-99"),
        client=Client(ip="203.0.113.9"),
        trace=Trace(trace_id="4bf92f3577b34da6a3ce929d0e0e4736"),
        service=Service(name="shop"),
    ) as typed:
        pass

    assert typed == texts
    assert ALICE == typed.actor


def test_a_context_holds_every_field_that_work_in_progress_decides() -> None:
    """What an entry says of its surroundings can be named once for a whole request."""
    fields: dict[str, Any] = {
        "actor": ALICE,
        "rationale": Rationale(text="PO-99"),
        "session": "s",
        "request": "r",
        "client": Client(ip="203.0.113.9"),
        "trace": Trace(trace_id="t"),
        "service": Service(name="shop"),
        "tenant": "acme",
        "approval": Approval.by("user:bob"),
    }

    with context(**fields):
        event = build("a.b", resource="c:d")

    assert set(fields) == set(Context.__struct_fields__)
    assert fields == {name: getattr(event, name) for name in fields}


def test_an_inner_block_adds_and_overrides_for_itself_alone() -> None:
    """Each block gives back exactly what it found."""
    with context(actor=ALICE, session="outer", tenant="acme") as outer:
        with context(actor=BOB, request="r") as inner:
            assert (BOB, "outer", "r", "acme") == (
                inner.actor,
                inner.session,
                inner.request,
                inner.tenant,
            )
            assert inner == current()
        assert outer == current()
    assert Context() == current()


def test_a_block_that_fails_gives_back_what_it_found() -> None:
    """An error does not leave the name of its request behind for the next one."""
    with context(actor=ALICE), pytest.raises(ZeroDivisionError), context(actor=BOB):
        _ = 1 / 0

    assert Context() == current()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", "alice"),
        ("actor", ["user:alice"]),
        ("rationale", ""),
        ("rationale", 5),
        ("client", 5),
        ("trace", ["t"]),
        ("service", {}),
        ("session", 5),
        ("request", ["r"]),
        ("tenant", ""),
        ("approval", "user:bob"),
        ("colour", "red"),
        ("outcome", "success"),
    ],
)
def test_a_wrong_context_cannot_be_set(field: str, value: object) -> None:
    """What no event could hold is refused where it is said, and nothing is changed."""
    with context(actor=ALICE) as outer:
        with pytest.raises(InvalidEvent, match=rf"^{field}.*: found .+, expected .+"):
            context(**{field: value}).__enter__()  # type: ignore[arg-type]

        assert outer == current()


def test_tasks_of_one_loop_keep_their_contexts_apart() -> None:
    """However tasks take turns, each records under the name it was given."""

    async def request(name: str, seen: list[Actor | None]) -> None:
        with context(actor=Actor(type="user", id=name)):
            for _ in range(5):
                await asyncio.sleep(0)
                seen.append(current().actor)
                with context(session=name):
                    await asyncio.sleep(0)
                    seen.append(current().actor)
        seen.append(current().actor)

    async def serve() -> dict[str, list[Actor | None]]:
        seen: dict[str, list[Actor | None]] = {f"u{number}": [] for number in range(20)}
        async with asyncio.TaskGroup() as group:
            for name, into in seen.items():
                group.create_task(request(name, into))
        return seen

    for name, seen in asyncio.run(serve()).items():
        assert [Actor(type="user", id=name)] * 10 + [None] == seen


def test_a_task_begins_with_the_context_it_was_started_in() -> None:
    """What a request starts in the background still acts for it, and changes nothing for it."""

    async def background() -> Actor | None:
        await asyncio.sleep(0)
        found = current().actor
        context(actor=BOB).__enter__()  # never given back: it ends with its task
        return found

    async def serve() -> tuple[Actor | None, Actor | None]:
        with context(actor=ALICE):
            found = await asyncio.create_task(background())
            return found, current().actor

    assert (ALICE, ALICE) == asyncio.run(serve())


def test_a_thread_begins_with_no_context() -> None:
    """Work that is handed to a thread acts for nobody until somebody says so."""
    seen: list[Actor | None] = []
    with context(actor=ALICE), ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: seen.append(current().actor)).result()
        copied = contextvars.copy_context()
        pool.submit(lambda: seen.append(copied.run(current).actor)).result()

    assert [None, ALICE] == seen


def test_threads_keep_their_contexts_apart() -> None:
    """Two requests at the same time never record under each other's name."""
    meeting = threading.Barrier(8)

    def request(number: int) -> list[Actor | None]:
        seen = []
        with context(actor=Actor(type="user", id=f"u{number}")):
            for _ in range(20):
                meeting.wait()
                seen.append(current().actor)
        return seen

    with ThreadPoolExecutor(8) as pool:
        for number, seen in enumerate(pool.map(request, range(8))):
            assert [Actor(type="user", id=f"u{number}")] * 20 == seen


def test_asyncio_s_own_threads_act_for_their_request() -> None:
    """``asyncio.to_thread`` carries the context over, as it does every context variable."""

    async def serve() -> Actor | None:
        with context(actor=ALICE):
            return (await asyncio.to_thread(current)).actor

    assert ALICE == asyncio.run(serve())
