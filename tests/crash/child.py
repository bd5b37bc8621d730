"""
The process that is killed: does one piece of work on a trail and says what was acknowledged.

``serve`` imports everything once, opens nothing, and forks a child for each line on
its standard input; so a test can kill hundreds of children without paying for
their start. ``run`` does one piece of work and ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import indelible
import indelible.backup
import indelible.expiry
import indelible.purging
import indelible.stores.sqlite
import indelible.verify
from indelible.event import Actor, Event, Outcome, Resource
from indelible.policies import Consent

if TYPE_CHECKING:
    from collections.abc import Callable

    Ack = Callable[..., None]

ACTIONS = {"user": "order.ship", "auth": "auth.login", "admin": "role.grant"}


def event(generator: random.Random) -> Event:
    """An event of some stream and size."""
    return Event(
        action=generator.choice(list(ACTIONS.values())),
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(f"user:u{generator.randrange(20)}"),
        resource=Resource.parse(f"order:{generator.randrange(1_000)}"),
        data={"text": "x" * generator.choice([0, 10, 300, 5_000])},
    )


def create(path: Path, ack: Ack, **_: Any) -> None:
    """Make the trail and record in it."""
    with indelible.open(path) as trail:
        record_one(
            trail,
            ack,
            Event(
                action="order.ship",
                outcome=Outcome.SUCCESS,
                actor=Actor.parse("user:a"),
                resource=Resource.parse("order:1"),
            ),
        )


def record_one(trail: indelible.Trail, ack: Ack, one: Event) -> None:
    """Record an event, then say where it is."""
    receipt = trail.record(one)
    assert receipt.leaf_hash is not None
    ack(log=receipt.log, index=receipt.index, leaf=receipt.leaf_hash.hex(), id=receipt.id)


def load(path: Path, ack: Ack, *, seed: int, threads: int = 4, turns: int = 1_000_000) -> None:
    """Record single events and batches from several threads."""
    trail = indelible.open(path)

    def work(number: int) -> None:
        generator = random.Random(seed * 100 + number)
        for _ in range(turns):
            if generator.random() < 0.8:
                record_one(trail, ack, event(generator))
            else:
                batch = [event(generator) for _ in range(generator.randrange(2, 30))]
                trail.record_many(batch, batch=100)
                ack(ids=[one.id for one in batch])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    trail.close()


def settle(path: Path, ack: Ack, **_: Any) -> None:
    """Complete a segment and close it."""
    with indelible.open(path) as trail:
        record_one(
            trail,
            ack,
            Event(
                action="order.ship",
                outcome=Outcome.SUCCESS,
                actor=Actor.parse("user:a"),
                resource=Resource.parse("order:1"),
            ),
        )
        trail.settle()
        ack(settled=True)


def rotate(path: Path, ack: Ack, **_: Any) -> None:
    """Let other keys sign, and go on."""
    with indelible.open(path) as trail:
        for stream in ("user", "custody", "user"):
            key = trail.rotate_key(stream)
            ack(key=key.to_text())
            record_one(
                trail,
                ack,
                Event(
                    action="order.ship",
                    outcome=Outcome.SUCCESS,
                    actor=Actor.parse("user:a"),
                    resource=Resource.parse("order:1"),
                ),
            )


def backup(path: Path, ack: Ack, *, target: str, **_: Any) -> None:
    """Copy the trail."""
    with indelible.open(path) as trail:
        ack(sizes=trail.backup(target))


def restore(path: Path, ack: Ack, *, source: str, **_: Any) -> None:
    """Put a copy into place."""
    ack(lost=indelible.backup.restore(source, path))


def erase(path: Path, ack: Ack, *, consent: list[str], **_: Any) -> None:
    """Carry out the plan of an erasure; its file stands first, then those of its approvals."""
    plan, *approvals = (Path(each).read_bytes() for each in consent)
    with indelible.open(path) as trail:
        trail.erase(Consent(plan=plan, approvals=tuple(approvals)))
        ack(done=True)


def purge(path: Path, ack: Ack, *, plan: str, at: str, **_: Any) -> None:
    """Carry out the plan of a purge in the file *plan*, as if it were *at*."""
    consent = Consent(plan=Path(plan).read_bytes())
    with indelible.open(path) as trail:
        indelible.expiry.carry_out(trail, consent, datetime.fromisoformat(at))
        ack(done=True)


def purge_prefix(path: Path, ack: Ack, *, first: int, **_: Any) -> None:
    """Purge the entries before *first*."""
    with indelible.open(path) as trail:
        now = datetime.now(UTC)
        indelible.purging.purge_prefix(trail, "user", first, plan_digest=None, now=now)
        ack(purged=first)


def faulty_disk(path: Path, ack: Ack, *, at: int, count: int, error: int, **_: Any) -> None:
    """Record while some operations of the disk fail, and say how each event ended."""
    recorder = ctypes.CDLL(os.environ["LD_PRELOAD"])
    generator = random.Random(at)
    with indelible.open(path) as trail:
        record_one(trail, ack, event(generator))
        first = recorder.record_io_count()
        recorder.record_io_fail(ctypes.c_long(first + at), ctypes.c_long(count), error)
        for _turn in range(3):
            one = event(generator)
            try:
                record_one(trail, ack, one)
            except indelible.errors.IndelibleError as raised:
                ack(failed=type(raised).__name__, id_=one.id)
        ack(tried=recorder.record_io_count() - first)
        recorder.record_io_fail(ctypes.c_long(0), ctypes.c_long(0), 0)
        record_one(trail, ack, event(generator))


WORK = {
    work.__name__: work
    for work in (
        create,
        load,
        settle,
        rotate,
        backup,
        restore,
        erase,
        purge,
        purge_prefix,
        faulty_disk,
    )
}


class Careless(sqlite3.Connection):
    """A connection that syncs nothing, whatever it is told."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Execute *sql*."""
        if sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous=OFF"
        return super().execute(sql, *parameters)


def unsafe() -> None:
    """Let SQLite sync nothing: for showing that the tests notice."""
    vars(sqlite3)["connect"] = partial(sqlite3.connect, factory=Careless)


def do(task: dict[str, Any], out: int) -> None:
    """Do one piece of work; each acknowledgement is one write to *out*."""
    os.environ["XDG_CONFIG_HOME"] = task["config"]

    def ack(**what: Any) -> None:
        os.write(out, json.dumps(what).encode() + b"\n")

    if "watched" in task:
        recorder = ctypes.CDLL(os.environ["LD_PRELOAD"])
        log = task["log"].encode() if "log" in task else None
        recorder.record_io_start(task["watched"].encode(), log)
        recorder.record_io_kill_at(ctypes.c_long(task.get("kill_at", 0)))
    if task.get("unsafe"):
        unsafe()
    WORK[task["work"]](Path(task["path"]), ack, **task.get("options", {}))
    if "watched" in task:
        ack(operations=recorder.record_io_count())


def one_child(task: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for *task*, kill it when that is asked for, and tell what it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            do(task, writing)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    said = bytearray()
    deadline: float | None = None
    killed = False
    while True:
        left = 60.0 if deadline is None else max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([reading], [], [], left)
        if not ready:
            killed = True
            os.kill(child, signal.SIGKILL)
            deadline = None
        elif data := os.read(reading, 1 << 16):
            said += data
        else:
            break
        if not killed and deadline is None and said.count(b"\n") >= task.get("acks", 1 << 30):
            deadline = time.monotonic() + task["seconds"]
    os.close(reading)
    _, status = os.waitpid(child, 0)
    # A write to a pipe of up to 4,096 bytes is whole or not at all.
    return {
        "acks": [json.loads(line) for line in said.splitlines()],
        "status": os.waitstatus_to_exitcode(status),
    }


def serve() -> None:
    """Answer one line with one line."""
    for line in sys.stdin:
        print(json.dumps(one_child(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        do(json.loads(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
