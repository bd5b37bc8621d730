"""
Logging: records the log records that say so, and leaves all others alone.

A record says so with ``extra={"audit": {"action": …, "resource": …}}``: fields of an event,
as `indelible.recorder.build` takes them, and perhaps its ``stream``. Its message is not
recorded, for nobody can tell what is in one.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from indelible.errors import InvalidEvent
from indelible.event import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from indelible.recorder import Receipt

KEY = "audit"
"""Under which a record holds the fields of an event."""


class Recording(Protocol):
    """What is asked of a trail."""

    def record(self, event: str, *, stream: str | None = None, **fields: Any) -> Receipt:
        """Record an event."""
        ...


class AuditHandler(logging.Handler):
    """
    Records into *trail* what log records say of themselves, durable when the call returns.

    As any handler it never raises into the application: what could not be recorded is
    reported by `logging.Handler.handleError`. Where an action must not happen unrecorded,
    call ``trail.record`` instead.

    Threads do not wait for each other, but share one sync to disk. A record that was
    logged by what records is left out.

    Args:
        trail: Where to; it stays open when the handler is closed.
        level: Records below are left out.
        fields_of: Returns the fields of the event that a record is, or nothing where it is
            none. By default what it holds as ``audit``.
    """

    def __init__(
        self,
        trail: Recording,
        level: int | str = logging.NOTSET,
        *,
        fields_of: Callable[[logging.LogRecord], Mapping[str, Any] | None] | None = None,
    ) -> None:
        super().__init__(level)
        self._trail = trail
        self._fields_of = _said if fields_of is None else fields_of

    def createLock(self) -> None:  # noqa: N802 - as logging has it
        """Make no lock: a trail is for many threads, which it lets share a sync to disk."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Record what *record* says, if it does."""
        if _recording.get():
            return
        try:
            said = self._fields_of(record)
            if said is None:
                return
            error = None if record.exc_info is None else record.exc_info[1]
            fields = completed(said, error)
            fields.setdefault("occurred_at", datetime.fromtimestamp(record.created, UTC))
            with _alone():
                self._trail.record(**fields)
        except Exception:  # noqa: BLE001 - logging never fails the application
            self.handleError(record)


def completed(said: Mapping[str, Any], error: BaseException | None) -> dict[str, Any]:
    """
    Return the fields of an event that was logged, ready for ``trail.record``.

    Args:
        error: What was logged with it: unless the fields say how it ended, it failed.

    Raises:
        InvalidEvent: They are no fields, or there is no action or no resource among them.
    """
    try:
        fields = dict(said)
    except (TypeError, ValueError):
        raise InvalidEvent(KEY, said, "fields of an event, by their names") from None
    for name in ("action", "resource"):
        if name not in fields:
            raise InvalidEvent(f"{KEY}.{name}", None, "one, as in every event")
    fields["event"] = fields.pop("action")
    if error is not None and "outcome" not in fields:
        # The type alone: a message may hold what must not be kept.
        fields["outcome"] = Outcome.FAILURE
        fields.setdefault("reason", type(error).__qualname__)
    return fields


def _said(record: logging.LogRecord) -> Mapping[str, Any] | None:
    return getattr(record, KEY, None)


_recording: ContextVar[bool] = ContextVar("indelible.frameworks.logging", default=False)


@contextmanager
def _alone() -> Iterator[None]:
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)
