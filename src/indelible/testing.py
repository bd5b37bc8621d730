"""
For tests of applications: a trail in memory, a clock that stands, a store that fails.

Nothing here is imported by the package itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from indelible.errors import StoreError, WriteUncertain
from indelible.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from indelible.segment import Segment
    from indelible.store import Forgotten, Store, Transaction, View

__all__ = ["Faulty", "FrozenClock", "MemoryStore"]


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
