"""Whole events, written into the outbox of the transaction that they belong to."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from indelible.frameworks.django import statements
from indelible.outbox import pack_events
from indelible.recorder import build, complete

if TYPE_CHECKING:
    from indelible.event import Event


def record(action: str, *, using: str = "default", **fields: Any) -> str:
    """
    Write an event into the outbox of *using*; return its id.

    Raises:
        InvalidEvent: A field is missing or wrong.
    """
    event = build(action, **fields)
    _put(event, using)
    return event.id


def write(event: Event, *, using: str = "default") -> None:
    """Write a whole *event* into the outbox of *using*; the context fills what it does not say."""
    _put(complete(event), using)


def _put(event: Event, using: str) -> None:
    body = pack_events([event], at=datetime.now(UTC), entropy=os.urandom(12))
    statements.write(using, [body])
