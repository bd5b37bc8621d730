"""
Programs that fork while they record, each a function; run as ``forking.py NAME TRAIL ACKS``.

Every process has an alarm: one that hangs is killed, and its parent says so.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import indelible

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60
acks = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def record(trail: indelible.Trail, count: int, action: str = "order.ship") -> None:
    """Record some events and say where they are."""
    for number in range(count):
        receipt = trail.record(action, resource=f"order:{number}")
        assert receipt.leaf_hash is not None
        said = {
            "log": receipt.log,
            "index": receipt.index,
            "leaf": receipt.leaf_hash.hex(),
            "id": receipt.id,
            "process": os.getpid(),
        }
        os.write(acks, json.dumps(said).encode() + b"\n")


def fork(work: Callable[[], object], *, orderly: bool = False) -> int:
    """Let a child do *work*; it ends at once, or *orderly*, as a program does."""
    child = os.fork()
    if child:
        return child
    signal.alarm(PATIENCE)
    if orderly:
        work()
        sys.exit(0)
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def wait(*children: int) -> None:
    """Wait for children that must have ended well."""
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"child {child} ended with {os.waitstatus_to_exitcode(status)}")


def preload(path: Path) -> None:
    """Open and record, then fork, as gunicorn does with --preload."""
    trail = indelible.open(path)
    record(trail, 3)
    children = [fork(lambda: record(trail, 20), orderly=number % 2 == 0) for number in range(4)]
    record(trail, 20)
    wait(*children)
    record(trail, 3)


def prefork(path: Path) -> None:
    """Open, then fork before anything was recorded, as Celery does."""
    trail = indelible.open(path)
    wait(*[fork(lambda: record(trail, 20), orderly=number % 2 == 0) for number in range(4)])
    record(trail, 3)


def unused(path: Path) -> None:
    """Fork children that never record, in a parent that does."""
    trail = indelible.open(path)
    record(trail, 3)
    wait(*[fork(lambda: None, orderly=number % 2 == 0) for number in range(4)])
    record(trail, 3)


def writing(path: Path) -> None:
    """Fork again and again while other threads are writing."""
    trail = indelible.open(path)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            record(trail, 1)

    def child() -> None:
        record(trail, 2)
        trail.search(limit=5)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        wait(fork(child, orderly=number % 4 == 0))
    stop.set()
    for thread in threads:
        thread.join()
    record(trail, 1)


def reading(path: Path) -> None:
    """Fork again and again while other threads are reading and verifying."""
    trail = indelible.open(path)
    record(trail, 300)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            assert trail.search(limit=20).items
            trail.verify().require()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        wait(fork(lambda: record(trail, 2)))
    stop.set()
    for thread in threads:
        thread.join()


def closing(path: Path) -> None:
    """Fork while a segment is closed; children that live on do not keep it open."""
    trail = indelible.open(path)
    hold, release = os.pipe()
    children = []

    def child() -> None:
        os.close(release)
        record(trail, 2)
        os.read(hold, 1)  # until the parent has closed its segments

    trail.record_many(
        indelible.Event(
            action="order.ship",
            outcome=indelible.Outcome.SUCCESS,
            actor=indelible.Actor.parse("user:a"),
            resource=indelible.Resource.parse(f"order:{number}"),
        )
        for number in range(100)
    )
    for _ in range(12):
        children.append(fork(child))
        record(trail, 2)
    trail.settle()
    record(trail, 1)
    os.close(release)
    wait(*children)
    trail.settle()


def generations(path: Path) -> None:
    """Fork children that fork children."""
    trail = indelible.open(path)
    record(trail, 1)

    def child() -> None:
        record(trail, 5)
        wait(*[fork(lambda: record(trail, 5)) for _ in range(2)])
        record(trail, 5)

    wait(*[fork(child) for _ in range(3)])


def coroutines(path: Path) -> None:
    """Record from an event loop on both sides of a fork."""
    trail = indelible.open(path)

    async def main() -> None:
        await asyncio.gather(
            *(trail.arecord("order.ship", resource=f"order:{number}") for number in range(20))
        )
        await asyncio.to_thread(record, trail, 3)

    asyncio.run(main())
    wait(*[fork(lambda: asyncio.run(main())) for _ in range(3)])


def _work(path: str) -> None:
    signal.alarm(PATIENCE)
    with indelible.open(path) as trail:
        record(trail, 25)


_inherited: list[indelible.Trail] = []


def _work_inherited(_: int) -> None:
    record(_inherited[0], 25)


def pool(path: Path) -> None:
    """Record in the processes of `multiprocessing`, with the trail of the parent."""
    trail = indelible.open(path)
    record(trail, 1)
    _inherited.append(trail)
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as processes:
        processes.map(_work_inherited, range(8), chunksize=1)
    workers = [context.Process(target=_work_inherited, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
        assert 0 == worker.exitcode
    record(trail, 1)


def eight(path: Path) -> None:
    """Let eight processes write at once, each with a trail that it opened itself."""
    children = [fork(lambda: _work(str(path)), orderly=number % 2 == 0) for number in range(8)]
    wait(*children)


def making(path: Path) -> None:
    """Let eight processes find no trail and open it at once."""
    eight(path)


if __name__ == "__main__":
    signal.alarm(PATIENCE)
    globals()[sys.argv[1]](Path(sys.argv[2]))
