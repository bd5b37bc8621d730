"""Readiness: whether a collector can do its work now, and if not, which condition is wanting."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from indelible.errors import IndelibleError, KeyUnavailable, StoreError
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.collector.state import Collector
    from indelible.store import Transaction

KIND = "health"
"""Of the fact by which it is known that facts can be kept."""


class Readiness:
    """
    Whether *collector* can take in and answer.

    It is looked at once for all who ask within seconds: so asking often costs nothing.

    Args:
        patience: Seconds that a commit may take before it counts as too far behind.
        fresh: Seconds for which what was found is taken for granted.

    Attributes:
        looking: Held while somebody looks.
    """

    def __init__(self, collector: Collector, *, patience: float = 5.0, fresh: float = 5.0) -> None:
        self._collector = collector
        self._patience = patience
        self._fresh = fresh
        self.looking = threading.Lock()
        self._looked_at: float | None = None
        self._found: dict[str, str | None] = {}
        self._commit: _Commit | None = None

    def look(self) -> Mapping[str, str | None]:
        """Return for each condition why it does not hold, or None where it does."""
        if not self.looking.acquire(timeout=self._patience):
            return {**self._found, "store": "does not answer in time"}
        try:
            if self._looked_at is None or monotonic() > self._looked_at + self._fresh:
                self._found = self._examine()
                self._looked_at = monotonic()
            return self._found
        finally:
            self.looking.release()

    def _examine(self) -> dict[str, str | None]:
        found = {"room": self._has_room(), "store": self._reads()}
        # Each as long as the others let it be looked at.
        for condition, look in (("keys", self._has_keys), ("writing", self._writes)):
            if not any(found.values()):
                found[condition] = look()
        return found

    def _reads(self) -> str | None:
        try:
            with self._collector.trail.store.read() as view:
                view.heads()
        except IndelibleError:
            return "cannot be read"
        return None

    def _has_keys(self) -> str | None:
        trail = self._collector.trail
        with trail.store.read() as view:
            logs = list(view.heads())
        for log in logs:
            try:
                trail.signer(log)
            except KeyUnavailable:
                return f"the signing key of log {log} is missing, cannot be read or is another"
        try:
            trail.vault.keyring.secret(KIND)
        except KeyUnavailable:
            return "the vault is locked"
        return None

    def _has_room(self) -> str | None:
        if self._collector.room() < self._collector.settings.least_free:
            return "less is free than is to be left free"
        return None

    def _writes(self) -> str | None:
        """Commit with what others commit now: it waits as long as they do."""
        if self._commit is None:
            self._commit = _Commit(self._collector)
        if not self._commit.done.wait(self._patience):
            return f"a commit takes longer than {self._patience:g} s"
        error = self._commit.pending.error
        self._commit = None
        if isinstance(error, StoreError):
            return "the store cannot be written"
        return None if error is None else "the last commit failed"


class _Commit:
    """A commit that is under way, or over."""

    def __init__(self, collector: Collector) -> None:
        self.done = threading.Event()
        now = str(collector.now()).encode()

        def within(transaction: Transaction, _: object) -> None:
            transaction.put(KIND, b"", now)

        self.pending = Pending({}, on_done=self.done.set, within=within)
        collector.trail.submit(self.pending)
