"""
For tests of applications: what they have recorded, a clock that stands, a store that fails.

Nothing here is imported by the package itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from indelible.errors import CallerError, StoreError, WriteUncertain
from indelible.event import Change, Event, parse_changes, plain
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.stores.memory import MemoryStore
from indelible.trail import ENVIRONMENT, Trail
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from indelible.policy import Policy
    from indelible.query import Item
    from indelible.segment import Segment
    from indelible.store import Forgotten, Store, Transaction, View

__all__ = ["Captured", "Faulty", "FrozenClock", "MemoryStore", "captured"]

_NEAREST = 5
"""Most entries that the message of a failed expectation shows."""


class Captured:
    """
    What has been recorded into *trail* since this was made.

    Attributes:
        trail: To record into it, or to give it to the application under test.
    """

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self._since = self._sizes()

    @property
    def entries(self) -> list[Item]:
        """The entries, the oldest first; not those that the trail writes about itself."""
        found: list[Item] = []
        cursor = None
        while True:
            page = self.trail.search(Query(newest_first=False), limit=1_000, cursor=cursor)
            found += [item for item in page.items if item.index >= self._since.get(item.log, 0)]
            cursor = page.cursor
            if cursor is None:
                return found

    @property
    def count(self) -> int:
        """How many entries there are."""
        return sum(size - self._since.get(log, 0) for log, size in self._sizes().items())

    def recorded(self, action: str, **fields: Any) -> Item:
        """
        Assert that an entry of *action* was recorded with these *fields*; return the latest.

        Args:
            fields: As they are given to `indelible.Trail.record`. Of ``changes`` and
                ``data`` the names that are given must be as they are given.

        Raises:
            AssertionError: There is none; it names the nearest ones and where they differ.
            CallerError: No event has such a field.
        """
        if unknown := fields.keys() - {"stream", *Event.__struct_fields__}:
            raise CallerError(f"recorded: found {min(unknown)!r}, expected a field of an event")
        wanted = {"action": action, **fields}
        misses: list[tuple[dict[str, object], Item]] = []
        for item in reversed(self.entries):
            differing = _differing(item, wanted)
            if not differing:
                return item
            misses.append((differing, item))
        raise AssertionError(_said(wanted, misses))

    def nothing_recorded(self) -> None:
        """
        Assert that no entry was recorded.

        Raises:
            AssertionError: There is one; it names them.
        """
        found = self.entries
        if found:
            lines = [f"found {_counted(len(found))}, expected none:"]
            lines += [f"  {_shown(item)}" for item in found[:_NEAREST]]
            raise AssertionError("\n".join(lines))

    def _sizes(self) -> dict[str, int]:
        with self.trail.store.read() as view:
            heads = view.heads()
        return {log: head.size for log, head in heads.items() if head.stream != CUSTODY}


@contextmanager
def captured(
    trail: Trail | None = None, *, policy: Policy | Path | str | None = None
) -> Iterator[Captured]:
    """
    Capture what is recorded inside the block.

    Args:
        trail: Where the application records. Without one, there is an empty trail in a
            temporary directory, which ``INDELIBLE_TRAIL`` names inside the block; its
            pins lie beside it.
        policy: Of that empty trail, see `indelible.open`.
    """
    if trail is not None:
        yield Captured(trail)
        return
    with (
        tempfile.TemporaryDirectory(prefix="indelible-") as folder,
        _environment(
            {ENVIRONMENT: f"{folder}/audit", "XDG_CONFIG_HOME": f"{folder}/configuration"}
        ),
        open_trail(policy=policy) as made,
    ):
        yield Captured(made)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _differing(item: Item, wanted: Mapping[str, Any]) -> dict[str, object]:
    """Return what *item* holds in place of what is wanted, by field."""
    found: dict[str, object] = {}
    for name, value in wanted.items():
        held: Any = item.stream if name == "stream" else getattr(item.event, name)
        if name == "changes" and isinstance(value, Mapping):
            changes = held or {}
            for field, change in parse_changes(value).items():
                if changes.get(field) != change:
                    found[f"changes.{field}"] = _pair(changes.get(field))
        elif name == "data" and isinstance(data := plain(value, name), dict):
            known = held if isinstance(held, dict) else {}
            for field, part in data.items():
                if known.get(field, UNSET) != part:
                    found[f"data.{field}"] = known.get(field, UNSET)
        elif not _is(held, value):
            found[name] = held
    return found


def _is(held: object, wanted: object) -> bool:
    """Tell whether a field holds what is wanted, also where a text stands for a value."""
    return held == wanted or (isinstance(wanted, str) and _text(held) == wanted)


_SHORT = {"Rationale": "text", "Client": "ip", "Trace": "trace_id", "Service": "name"}
"""Which of its parts a text stands for, where an event is recorded."""


def _text(held: object) -> str:
    part = _SHORT.get(type(held).__name__)
    return str(held if part is None else getattr(held, part))


def _pair(change: Change | None) -> object:
    return UNSET if change is None else (change.old, change.new)


def _said(wanted: Mapping[str, Any], misses: list[tuple[dict[str, object], Item]]) -> str:
    expected = ", ".join(f"{name} {_written(value)}" for name, value in wanted.items())
    lines = [f"found no entry with {expected}", f"recorded: {_counted(len(misses))}"]
    misses.sort(key=lambda miss: ("action" in miss[0], len(miss[0])))
    for differing, item in misses[:_NEAREST]:
        lines.append(f"  {_shown(item)}")
        lines += [f"    {name} is {_written(value)}" for name, value in differing.items()]
    return "\n".join(lines)


def _shown(item: Item) -> str:
    event = item.event
    return (
        f"{item.log}#{item.index}: {event.actor} {event.action} {event.resource}"
        f" {event.outcome.value}"
    )


def _written(value: object) -> str:
    if value is UNSET:
        return "not there"
    return repr(_text(value)) if isinstance(value, (str, msgspec.Struct)) else repr(value)


def _counted(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


class FrozenClock:
    """
    A clock that shows *now*, in microseconds since 1970, until it is moved.

    Call it where a clock is asked for.
    """

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        """Return the time that is shown."""
        return self.now

    def move(self, microseconds: int) -> None:
        """Let time pass, or go back."""
        self.now += microseconds


class Faulty:
    """
    A store whose writes fail as planned, and which else does what *store* does.

    Args:
        persists: For each of the next writes, whether it takes effect before it
            fails: True (its answer is lost), False (nothing happened), or None
            (it does not fail). After the last one nothing fails.
        error: What a write raises that had no effect.
    """

    def __init__(
        self,
        store: Store,
        *persists: bool | None,
        error: Callable[[], Exception] = lambda: WriteUncertain("the answer was lost"),
    ) -> None:
        self.store = store
        self._plan = list(persists)
        self._error = error
        self.writes = 0

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction that may fail at its end."""
        self.writes += 1
        persists = self._plan.pop(0) if self._plan else None
        if persists is False:
            with _undone(self.store) as transaction:
                yield transaction
            raise self._error()
        with self.store.write() as transaction:
            yield transaction
        if persists:
            raise WriteUncertain("the answer was lost")

    def read(self) -> AbstractContextManager[View]:
        """Look at the store."""
        return self.store.read()

    def close_segments(self) -> Iterator[Segment]:
        """Build segments."""
        return self.store.close_segments()

    def purge_segments(self) -> Iterator[Segment]:
        """Build segments without what was purged."""
        return self.store.purge_segments()

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """Forget values, which is one of the writes that may fail, before or after."""
        self.writes += 1
        persists = self._plan.pop(0) if self._plan else None
        if persists is False:
            raise StoreError("the answer was lost")
        self.store.forget(entries)
        if persists:
            raise StoreError("the answer was lost")

    def close(self) -> None:
        """Close the store."""
        self.store.close()


class _UndoneError(StoreError):
    """Makes a transaction end without effect."""


@contextmanager
def _undone(store: Store) -> Iterator[Transaction]:
    try:
        with store.write() as transaction:
            yield transaction
            raise _UndoneError  # noqa: TRY301 - it is this error that undoes
    except _UndoneError:
        return
