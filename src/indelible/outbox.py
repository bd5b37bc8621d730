"""
Outbox: events that wait in the application's own database, written by the same transaction.

A row of the outbox holds what one statement did: who and why once, and the rows that
changed, as JSON::

    {"id": "9c1f…", "at": "2026-11-24T13:28:51.000000Z",
     "context": {"actor": {"type": "user", "id": "alice"}},
     "rows": [["invoice.update", "invoice", "7", {"total": {"old": 1, "new": 2}}]]}

or whole events, which the application recorded in its transaction. PostgreSQL's triggers
write the same. The id of each event follows from that of the row and its place in it, so
that it is the same however often the row is read.

`Outbox` is the contract for where such rows lie; `indelible.relay` moves them on.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec

from indelible.capture import Row  # noqa: TC001 - msgspec reads the types at run time
from indelible.context import Context
from indelible.entry import microseconds, moment_of, time_from_text, time_to_text
from indelible.errors import InvalidEvent, Malformed
from indelible.event import Actor, Event, Outcome, Resource, uuid7

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

TABLE = "indelible_outbox"
"""Name of the table."""

MOST_ROWS = 500
"""Rows of a statement in one row of the outbox."""

MOST_BYTES = 4 * 1024 * 1024
"""Size of one row of the outbox, if more than one row of a statement is in it."""


class Statement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What stands in a row of the outbox.

    Attributes:
        id: 32 hexadecimal digits, random.
        at: When it happened, by the clock of whoever wrote it; RFC 3339 in UTC.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    at: str
    context: Context = Context()
    rows: tuple[Row, ...] = ()
    events: tuple[Event, ...] = ()


def pack(rows: Sequence[Row], context: Context, *, at: datetime, entropy: bytes) -> list[str]:
    """
    Return what to write into the outbox for what a statement did to *rows*.

    Args:
        context: Who acts, frozen.
        entropy: 12 random bytes; what is written in several parts is numbered below them.
    """
    moment = time_to_text(microseconds(at))
    found: list[str] = []
    for first in range(0, len(rows), MOST_ROWS):
        _pack(tuple(rows[first : first + MOST_ROWS]), context, moment, entropy, found)
    return found


def pack_events(events: Sequence[Event], *, at: datetime, entropy: bytes) -> str:
    """Return what to write into the outbox for whole *events*."""
    moment = time_to_text(microseconds(at))
    whole = Statement(id=_id(entropy, 0), at=moment, events=tuple(events))
    return _encode(whole).decode("utf-8")


def _pack(
    rows: tuple[Row, ...], context: Context, at: str, entropy: bytes, found: list[str]
) -> None:
    statement = Statement(id=_id(entropy, len(found)), at=at, context=context, rows=rows)
    data = _encode(statement)
    if len(data) > MOST_BYTES and len(rows) > 1:
        half = len(rows) // 2
        _pack(rows[:half], context, at, entropy, found)
        _pack(rows[half:], context, at, entropy, found)
    else:
        found.append(data.decode("utf-8"))


def _id(entropy: bytes, part: int) -> str:
    return entropy.hex() + f"{part:08x}"


def unpack(text: str | bytes) -> list[Event]:
    """
    Return the events of a row of the outbox.

    Raises:
        Malformed: It is not what `pack` or a trigger writes.
        InvalidEvent: A row or its resource has a name that no event can have.
    """
    try:
        statement = _decode(text)
        at = time_from_text(statement.at)
    except (msgspec.MsgspecError, InvalidEvent, UnicodeError, RecursionError) as error:
        raise Malformed(f"outbox: {error}") from error
    happened = moment_of(at)
    context = {
        field: value
        for field in Context.__struct_fields__
        if (value := getattr(statement.context, field)) is not None
    }
    actor = context.pop("actor", _UNKNOWN)
    prefix = bytes.fromhex(statement.id)
    events = [
        Event(
            id=uuid7(at * 1_000, sha256(prefix + place.to_bytes(4, "big")).digest()),
            kind=row.kind,
            action=row.action,
            outcome=Outcome.SUCCESS,
            actor=actor,
            resource=Resource(type=row.type, id=row.id),
            changes=row.changes,
            occurred_at=happened,
            **context,
        )
        for place, row in enumerate(statement.rows)
    ]
    return [*events, *statement.events]


_UNKNOWN = Actor(type="unknown")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Statement).decode


class Waiting(NamedTuple):
    """
    How much there is in an outbox.

    Attributes:
        rows: Of those that wait.
        oldest: What the one that waits longest holds; None where none waits.
        quarantined: Rows that hold no events, and are put aside.
    """

    rows: int
    oldest: str | None
    quarantined: int


class Claim(Protocol):
    """Rows of the outbox that one relay has in its hands, and no other."""

    @property
    def rows(self) -> Sequence[tuple[int, str]]:
        """
        Number and text of each.

        They come in the order in which their transactions were committed, as far as the
        database can tell, else in that of their numbers.
        """
        ...

    def quarantine(self, number: int, error: str) -> None:
        """Put a row aside, with what is wrong with it, when the claim ends."""
        ...


class Outbox(Protocol):
    """
    Where the rows lie: a table of the application's database.

    One relay of a trail works at a time; several trails must not share an outbox.
    """

    def claim(self, most: int) -> AbstractContextManager[Claim]:
        """
        Take up to *most* rows that are committed and that no other relay has.

        When the block ends without an error they are gone, durably, and those put aside
        are marked. When it raises, they are as they were.

        Raises:
            StoreError: The database cannot be reached; nothing has changed, or the rows
                are gone already, after the block ended.
        """
        ...

    def waiting(self) -> Waiting:
        """Return how much there is."""
        ...

    def quarantined(self) -> Iterator[tuple[int, str, str]]:
        """Yield number, text and error of each row that was put aside."""
        ...

    def release(self) -> int:
        """Let the rows that were put aside wait again; return how many."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...
