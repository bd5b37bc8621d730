from __future__ import annotations

import json
import stat
from base64 import b64decode
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from indelible.errors import CallerError, StoreError, WriteUncertain
from indelible.event import Actor, Event, Outcome, Resource
from indelible.importing import Summary, import_events
from indelible.seal import seal
from indelible.sources import Found, Rejected, derived_id
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from indelible.sources import Item

START = datetime(2026, 11, 24, 3, 33, 46, tzinfo=UTC)


class TrailInMemory:
    """Keeps what is recorded; fails at its *fails*-th batch, before or after keeping it."""

    def __init__(self, *, fails: int = 0, persists: bool = False) -> None:
        self.events: list[Event] = []
        self.batches: list[int] = []
        self.locked = False
        self._fails = fails
        self._persists = persists

    @contextmanager
    def import_lock(self) -> Iterator[None]:
        """Let one import in."""
        if self.locked:
            raise StoreError("another import is under way")
        self.locked = True
        try:
            yield
        finally:
            self.locked = False

    def content(self, event: Event) -> bytes:
        """Return all of *event*: nothing is dropped here."""
        return seal(event).event

    def existing(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return what is here of *ids*."""
        return {event.id: seal(event).event for event in self.events if event.id in set(ids)}

    def record_many(self, events: Iterable[Event]) -> int:
        """Keep *events*, or fail."""
        assert self.locked
        new = list(events)
        self.batches.append(len(new))
        fails = len(self.batches) == self._fails
        if not fails or self._persists:
            self.events += new
        if fails:
            raise WriteUncertain("no answer")
        return len(new)


def event(number: int, *, action: str = "invoice.approve") -> Event:
    """Return the event that a source knows under *number*."""
    when = START + timedelta(seconds=number)
    return Event(
        id=derived_id("erp", str(number), when),
        occurred_at=when,
        action=action,
        outcome=Outcome.SUCCESS,
        actor=Actor(type="user", id="alice"),
        resource=Resource(type="invoice", id=f"INV-{number}"),
    )


def found(*numbers: int) -> list[Item]:
    """Return what a source yields for events with these *numbers*."""
    return [Found(line, event(number)) for line, number in enumerate(numbers, start=1)]


def letters(path: Path) -> list[dict[str, Any]]:
    """Read the dead letters."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """Name a file for dead letters that is not there yet."""
    return tmp_path / "rejected.jsonl"


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_events_go_in_once_and_in_their_order(dead: Path, batch: int) -> None:
    """Every event of a source is in the trail afterwards, in the source's order."""
    trail = TrailInMemory()

    summary = import_events(trail, found(3, 1, 2, 5, 4), dead_letters=dead, batch=batch)

    assert [event(n) for n in (3, 1, 2, 5, 4)] == trail.events
    assert Summary(imported=5) == summary
    assert not dead.exists()


def test_importing_again_changes_nothing(dead: Path) -> None:
    """The same file, imported twice, is in the trail once."""
    trail = TrailInMemory()
    import_events(trail, found(1, 2, 3), dead_letters=dead)

    summary = import_events(trail, found(1, 2, 3, 4), dead_letters=dead)

    assert [event(n) for n in (1, 2, 3, 4)] == trail.events
    assert Summary(imported=1, duplicates=3) == summary
    assert not dead.exists()


@pytest.mark.parametrize("batch", [1, 10])
def test_an_event_that_comes_twice_is_recorded_once(dead: Path, batch: int) -> None:
    """Two copies in one file are one event, whether or not they are recorded together."""
    trail = TrailInMemory()

    summary = import_events(trail, found(1, 1, 2, 1), dead_letters=dead, batch=batch)

    assert [event(1), event(2)] == trail.events
    assert Summary(imported=2, duplicates=2) == summary


@pytest.mark.parametrize("batch", [1, 10])
def test_other_content_under_a_known_id_is_kept_out_and_reported(dead: Path, batch: int) -> None:
    """What was recorded first stays; what contradicts it is found among the dead letters."""
    trail = TrailInMemory()
    other = event(1, action="invoice.reject")

    summary = import_events(
        trail, [*found(1), Found(9, other), *found(2)], dead_letters=dead, batch=batch
    )

    assert [event(1), event(2)] == trail.events
    assert Summary(imported=2, conflicts=1) == summary
    [letter] = letters(dead)
    assert 9 == letter["line"]
    assert event(1).id in letter["error"]
    assert seal(other).event.decode() == letter["raw"]


def test_what_is_no_event_is_kept_aside_and_the_rest_goes_in(dead: Path) -> None:
    """A line that cannot be read is kept with its number, its fault and its exact bytes."""
    trail = TrailInMemory()
    items: list[Item] = [
        Rejected(1, "line: found 'x'", b"x\0"),
        *found(1),
        Rejected(3, "line: found no UTF-8", b"\xff\xfe", "audit.log"),
    ]

    summary = import_events(trail, items, dead_letters=dead)

    text, binary = letters(dead)
    assert [event(1)] == trail.events
    assert Summary(imported=1, rejected=2) == summary
    assert 2 == summary.kept_out
    assert {"line": 1, "error": "line: found 'x'", "raw": "x\0"} == text
    assert (3, "audit.log", "base64") == (binary["line"], binary["file"], binary["encoding"])
    assert b"\xff\xfe" == b64decode(binary["raw"])


def test_dead_letters_are_for_their_owner_alone(dead: Path) -> None:
    """What the trail would have protected lies open to nobody else."""
    import_events(TrailInMemory(), [Rejected(1, "bad", b"x")], dead_letters=dead)

    assert 0o600 == stat.S_IMODE(dead.stat().st_mode)


def test_dead_letters_of_an_earlier_import_stay(dead: Path) -> None:
    """Nothing that was kept aside is overwritten."""
    import_events(TrailInMemory(), [Rejected(1, "bad", b"x")], dead_letters=dead)
    import_events(TrailInMemory(), [Rejected(2, "bad", b"y")], dead_letters=dead)

    assert [1, 2] == [letter["line"] for letter in letters(dead)]


def test_where_nothing_can_be_kept_aside_nothing_is_passed_over(tmp_path: Path) -> None:
    """Without a place for what is rejected the import ends, instead of losing it."""
    with pytest.raises(CallerError, match="dead letters"):
        import_events(
            TrailInMemory(), [Rejected(1, "bad", b"x")], dead_letters=tmp_path / "no/where"
        )


@pytest.mark.parametrize("persists", [False, True])
def test_an_import_that_was_cut_off_is_finished_by_repeating_it(dead: Path, persists: bool) -> None:
    """Whether or not the write behind a lost answer happened, repeating brings each event once."""
    trail = TrailInMemory(fails=2, persists=persists)

    with pytest.raises(WriteUncertain):
        import_events(trail, found(1, 2, 3, 4, 5), dead_letters=dead, batch=2)
    summary = import_events(trail, found(1, 2, 3, 4, 5), dead_letters=dead, batch=2)

    assert [event(n) for n in (1, 2, 3, 4, 5)] == trail.events
    assert 5 == summary.imported + summary.duplicates
    assert not trail.locked


def test_only_one_import_runs_at_a_time(dead: Path) -> None:
    """Two imports at once could each record what the other does not see yet."""
    trail = TrailInMemory()

    with trail.import_lock(), pytest.raises(StoreError, match="under way"):
        import_events(trail, found(1), dead_letters=dead)

    assert [] == trail.events


def test_no_more_than_a_batch_is_held(dead: Path) -> None:
    """An import of any length reads on only after what it read is recorded."""
    trail = TrailInMemory()
    ahead: list[int] = []

    def items() -> Iterator[Item]:
        for number in range(1, 1_001):
            ahead.append(number - len(trail.events))
            yield Found(number, event(number))

    import_events(trail, items(), dead_letters=dead, batch=10)

    assert 10 == max(ahead)
    assert [10] * 100 == trail.batches


def test_large_events_are_held_by_their_size(dead: Path) -> None:
    """A batch of the largest events there may be is recorded before it fills the memory."""
    trail = TrailInMemory()
    items = [
        Found(n, Event(**{**_fields(event(n)), "data": {"a": "x" * 59_000}})) for n in range(200)
    ]

    import_events(trail, items, dead_letters=dead)

    assert 200 == len(trail.events)
    assert 150 > max(trail.batches)


def test_progress_is_told_after_each_batch(dead: Path) -> None:
    """Whoever watches a long import sees what is in the trail so far."""
    seen: list[int] = []

    import_events(
        TrailInMemory(),
        found(1, 2, 3, 4, 5),
        dead_letters=dead,
        batch=2,
        on_progress=lambda summary: seen.append(summary.imported),
    )

    assert [2, 4, 5] == seen


def test_a_batch_of_nothing_is_refused(dead: Path) -> None:
    """A batch has one event at least."""
    with pytest.raises(CallerError, match="batch: found 0, expected a number from 1"):
        import_events(TrailInMemory(), found(1), dead_letters=dead, batch=0)


def test_a_trail_on_disk_takes_an_import_once(dead: Path, tmp_path: Path) -> None:
    """What was imported is durable: a trail that is opened again knows every event."""
    with Trail.create(tmp_path / "audit") as trail:
        first = import_events(trail, found(1, 2, 3), dead_letters=dead, batch=2)
    other = Found(9, event(2, action="invoice.reject"))

    with Trail(tmp_path / "audit") as trail:
        again = import_events(trail, [*found(1, 2, 3, 4), other], dead_letters=dead, batch=2)
        kept = trail.existing([event(n).id for n in range(6)])

    assert Summary(imported=3) == first
    assert Summary(imported=1, duplicates=3, conflicts=1) == again
    assert {event(n).id: seal(event(n)).event for n in (1, 2, 3, 4)} == kept


def _fields(of: Event) -> dict[str, Any]:
    return {field: getattr(of, field) for field in of.__struct_fields__}
