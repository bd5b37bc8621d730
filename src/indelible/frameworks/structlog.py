"""
structlog: a processor that records the events that say so, and leaves all others alone.

One says so with ``log.info("approved", audit={"action": …, "resource": …})``: fields of an
event as `indelible.recorder.build` takes them, and perhaps its ``stream``. What else is in
the event dictionary is not recorded.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from indelible.frameworks.logging import KEY, completed

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from indelible.frameworks.logging import Recording
    from indelible.recorder import Receipt

__all__ = ["AuditProcessor"]


class AuditProcessor:
    """
    Records into *trail* what the key ``audit`` holds, durable when the call returns.

    In its place stands where the entry is, ``user#12``, so that a log line leads to it; or
    the state of what has no place, ``lost`` or ``not_captured``. Put it where exceptions
    have not been made text yet.

    It raises what ``trail.record`` raises: an action that must not happen unrecorded does
    not go on.
    """

    def __init__(self, trail: Recording) -> None:
        self._trail = trail

    def __call__(
        self, _logger: object, _method: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """
        Record, and pass the event dictionary on.

        Raises:
            InvalidEvent, UnknownStream, StoreError, WriteUncertain: As ``trail.record``.
        """
        said = event_dict.get(KEY)
        if said is None:
            return event_dict
        receipt = self._trail.record(**completed(said, _error(event_dict.get("exc_info"))))
        event_dict[KEY] = _place(receipt)
        return event_dict


def _place(receipt: Receipt) -> str:
    return receipt.state.value if receipt.index is None else f"{receipt.log}#{receipt.index}"


def _error(exc_info: object) -> BaseException | None:
    """Return the exception that structlog's ``exc_info`` stands for, in any of its forms."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return next((part for part in exc_info if isinstance(part, BaseException)), None)
    return sys.exc_info()[1] if exc_info else None
