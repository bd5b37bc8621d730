"""
Erasure: two people with 10,000 entries each go from a large trail, one after the other.

Timed is what the owner waits for: the plan, an approval, and carrying it out until the
values, their keys and what they were found by are in no file. Not timed, but held to be
so: not a byte of the log has changed, what was proven before can be proven still, by
the old proofs and by new ones, and every committed value is accounted for.
"""

from __future__ import annotations

from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from benchmarks import policies
from benchmarks.events import CHUNK, chunk
from benchmarks.figures import Figure, Result, Task, result
from benchmarks.machine import sync_note
from benchmarks.stopwatch import Stopwatch
from benchmarks.trails import LOG, made, opened, size_of
from indelible.accounting import account
from indelible.box import ValueState
from indelible.event import Actor
from indelible.policies import Consent
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.event import Event
    from indelible.proof import Proof
    from indelible.trail import Trail

SUBJECTS = ("user:alice", "user:bob")
_EACH = 10_000
_PROOFS = 50
_MOST_ACCOUNTED = 500_000
"""Of larger trails not every value is accounted for here: it takes its time."""

_BASIS = "GDPR Art. 17(1)(b)"


def run(task: Task) -> Result:
    """Measure it."""
    home = task.scratch / "home"
    build(home, task.entries, min(_EACH, task.entries // 4))
    note = sync_note(task.scratch)
    with opened(home) as trail:
        entries = size_of(trail)
        before = _Log.of(trail)
        proofs = list(_proofs(trail))
        erased = [erase(trail, subject) for subject in SUBJECTS]
        _check_proofs(trail, proofs)
        if before != _Log.of(trail):
            raise AssertionError("erasure: the log has changed")
        accounting = list(_accounting(trail, entries, erased))
    note = f"{erased[0].entries:,} of {entries:,} entries, {erased[0].values:,} values; {note}"
    times = [one.plan.wall + one.carry_out.wall for one in erased]
    return result(
        "erasure",
        entries,
        Figure(key="erasure.time", value=max(times), unit="s", note=note),
        Figure(key="erasure.time.first", value=times[0], unit="s"),
        Figure(key="erasure.time.second", value=times[1], unit="s"),
        Figure(key="erasure.plan", value=erased[0].plan.wall, unit="s"),
        Figure(key="erasure.carry_out", value=erased[0].carry_out.wall, unit="s"),
        Figure(
            key="erasure.cpu",
            value=erased[0].plan.process + erased[0].carry_out.process,
            unit="s CPU",
        ),
        *accounting,
    )


def build(home: Path, entries: int, each: int = _EACH) -> None:
    """Build a trail in which each of `SUBJECTS` has so many entries, all over it."""
    every = entries // each
    with made(home, closing="process", policy=policies.guarded()) as trail:
        for number in range(-(-entries // CHUNK)):
            trail.record_many(_with_subjects(number, every)[: entries - CHUNK * number])
        trail.settle()


def _with_subjects(number: int, every: int) -> list[Event]:
    events = chunk(number)
    for place, subject in enumerate(SUBJECTS):
        for index in range((place - CHUNK * number) % every, CHUNK, every):
            events[index] = msgspec.structs.replace(events[index], actor=Actor.parse(subject))
    return events


class Erased(NamedTuple):
    """What an erasure took, and how much it was."""

    plan: Stopwatch
    carry_out: Stopwatch
    entries: int
    values: int


def erase(trail: Trail, subject: str) -> Erased:
    """Plan an erasure, approve it, and carry it out."""
    planning, carrying_out = Stopwatch(), Stopwatch()
    with planning.running():
        plan = trail.plan_erasure(subject, basis=_BASIS)
    with carrying_out.running():
        done = trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))
    return Erased(planning, carrying_out, done.entries, done.values)


class _Log(NamedTuple):
    """Every byte of the log: the files of its segments, the open entries, and the checkpoint."""

    files: dict[str, str]
    entries: str
    checkpoint: bytes

    @classmethod
    def of(cls, trail: Trail) -> _Log:
        files = {}
        for path in sorted(trail.path.glob(f"segments/{LOG}/*")):
            with path.open("rb") as file:
                digest = sha256()
                while data := file.read(1 << 20):
                    digest.update(data)
            files[path.name] = digest.hexdigest()
        opened = sha256()
        with trail.store.read() as view:
            closed = len(view.segments(LOG)) * SEGMENT
            for tile in view.tiles(LOG, closed, view.heads()[LOG].size):
                opened.update(b"\n".join(tile.bodies))
        return cls(files, opened.hexdigest(), trail.checkpoint(LOG))


def _proofs(trail: Trail) -> Iterator[tuple[str, bytes, Proof]]:
    """Yield ids, entries and proofs of the subjects' newest entries, and of others'."""
    for asked in (*(f"actor:{subject}" for subject in SUBJECTS), "stream:user"):
        for found in trail.search(asked, limit=_PROOFS).items:
            item, proof = trail.prove(found.event.id)
            yield item.event.id, item.entry.to_bytes(), proof


def _check_proofs(trail: Trail, proofs: list[tuple[str, bytes, Proof]]) -> None:
    keys = [trail.verifier_key(LOG)]
    for event_id, entry, proof in proofs:
        proof.verify(entry, keys)
        item, again = trail.prove(event_id)
        if entry != item.entry.to_bytes() or again != proof:
            raise AssertionError(f"erasure: entry {event_id} or its proof has changed")


def _accounting(trail: Trail, entries: int, erased: list[Erased]) -> Iterator[Figure]:
    if entries > _MOST_ACCOUNTED:
        return
    started = perf_counter()
    with trail.store.read() as view:
        accounts = account(view, trail.vault)
    seconds = perf_counter() - started
    gone = sum(each.values for each in erased)
    if accounts.alarming or accounts.totals[ValueState.ERASED] != gone:
        raise AssertionError(f"accounting: found {accounts.totals}, expected {gone} erased")
    yield Figure(
        key="erasure.accounting",
        value=sum(accounts.totals.values()) / seconds,
        unit="values/s",
        note=f"{sum(accounts.totals.values()):,} values accounted for",
    )
