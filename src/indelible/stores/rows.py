"""
Rows: what the rows of a store's tables are, whichever database they are in.

How a row is found by the number of its log and its own, how the times of several entries
stand in it, and what one of the manifest says of a segment. It knows no database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from indelible.errors import Damaged
from indelible.segment import Segment, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

SPANS = "recorded_least, recorded_most, occurred_least, occurred_most, id_time_least, id_time_most"
"""Columns of the rows that carry the times of several entries."""

_LOG_SHIFT = 40


def key_of(number: int, row: int) -> int:
    """Return the key of row *row* of the log with this number."""
    return number << _LOG_SHIFT | row


def row_of(key: int) -> int:
    """Return the number of a row within its log."""
    return key & ((1 << _LOG_SHIFT) - 1)


def span_columns(recorded: Span, occurred: Span, id_times: Span) -> tuple[int, ...]:
    """Return the values of the columns `SPANS`."""
    return (
        recorded.least,
        recorded.most,
        occurred.least,
        occurred.most,
        id_times.least,
        id_times.most,
    )


def join_spans(spans: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the values of `SPANS` that cover all those of *spans*."""
    columns = list(zip(*spans, strict=True))
    return tuple(min(column) if n % 2 == 0 else max(column) for n, column in enumerate(columns))


def segment_from_row(log: str, row: Sequence[Any]) -> Segment:
    """
    Return the segment that a row of the manifest describes; the spans stand last.

    Raises:
        Damaged: Its counts cannot be read.
    """
    key, root, file_hash, file_size, purged, packed, filter_, lookups, *spans = row
    try:
        counts = msgspec.msgpack.decode(packed, type=dict[int, tuple[int, int]])
    except msgspec.MsgspecError as error:
        raise Damaged(f"segment {log}/{row_of(key):06d}: its counts: {error}") from error
    return Segment(
        log=log,
        number=row_of(key),
        root=root,
        file_hash=file_hash,
        file_size=file_size,
        recorded=Span(*spans[0:2]),
        occurred=Span(*spans[2:4]),
        id_times=Span(*spans[4:6]),
        filter=filter_,
        counts=counts,
        lookups=lookups,
        purged=purged,
    )
