"""
Seal: an event to the exact bytes that a log will keep.

This is the seam where policy classifies fields and commits to those that must be
forgettable; until then all values stand in clear. Pure: no clock, no disk, no
randomness of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from indelible.entry import microseconds
from indelible.errors import EventTooLarge, InvalidEvent, Malformed
from indelible.event import Event
from indelible.terms import Terms, terms_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SEALED = 60_000
"""Most bytes of a sealed event, so that it still fits when a collector wraps its entry."""

_encode = msgspec.json.Encoder(decimal_format="string").encode


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """
    A sealed event on its way into a log; a retry uses the same bytes.

    Attributes:
        id: The event's id.
        event: The bytes that will stand under ``event`` in the entry.
        source: The event itself, for what the entry can be found by.
    """

    id: str
    event: bytes
    source: Event

    @property
    def terms(self) -> Terms:
        """
        What the entry can be found by.

        Derived when it is placed: in the writer's thread, not in the caller's.
        """
        return terms_of(self.source, microseconds(self.source.occurred_at))


def seal(event: Event) -> Sealed:
    """
    Seal *event*.

    Raises:
        InvalidEvent: A text holds NUL or a lone surrogate.
        EventTooLarge: It is over `MAX_SEALED` bytes.
    """
    try:
        data = _encode(event)
    except UnicodeEncodeError as error:
        raise _bad_text(event, "a text of whole Unicode characters") from error
    if len(data) > MAX_SEALED:
        raise EventTooLarge(
            "event", f"{len(data)} bytes", f"at most {MAX_SEALED} bytes when sealed"
        )
    # The escape is rare, and a text may hold its six characters literally: look
    # closer only when they are there.
    if b"\\u0000" in data and any("\0" in text for _, text in _texts(event)):
        raise _bad_text(event, "a text without NUL")
    return Sealed(event.id, data, event)


def unseal(data: bytes) -> Event:
    """
    Read a sealed event.

    Raises:
        Malformed: These are not a sealed event's exact bytes.
    """
    try:
        event = msgspec.json.decode(data, type=Event)
    except (msgspec.MsgspecError, InvalidEvent, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"event: {error}") from error
    if _encode(event) != data:
        raise Malformed(f"event {event.id}: not in the exact form")
    return event


def _bad_text(event: Event, expected: str) -> InvalidEvent:
    for path, text in _texts(event):
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            return InvalidEvent(path, text, expected)
    raise AssertionError("unreachable")  # pragma: no cover


def _texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text below *value*, keys included, with its path."""
    if isinstance(value, str):
        yield path or "event", value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _texts(getattr(value, field), f"{path}.{field}" if path else field)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", key
            yield from _texts(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{path}.{number}")
