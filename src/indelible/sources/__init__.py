"""
Sources: events that were recorded elsewhere, read for an import.

A source yields its events one by one, in the order in which they come, and never
stops at one that it cannot read::

    Found(line, event)            an event that `indelible.seal.seal` takes
    Rejected(line, error, raw)    bytes that are none, and what is wrong with them

``line`` is where it stands in its file, counted from 1: a line, or what the
format has in place of lines (a record of a document, a commit). So whoever holds
the file finds what the trail did not take.

The same input gives the same events, ids included: importing twice finds
everything there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from indelible.entry import microseconds
from indelible.errors import CallerError
from indelible.event import uuid7

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from indelible.event import Event

__all__ = ["FORMATS", "STDIN", "Found", "Item", "Rejected", "derived_id", "open_source"]

FORMATS = ("cloudtrail", "git", "jsonl", "auditlog", "pghistory", "simple_history")
"""What can be imported; each format is a module of this package."""

STDIN = "-"
"""The path that means standard input."""


@dataclass(frozen=True, slots=True)
class Found:
    """An event, where it stands, and the file where there are several."""

    line: int
    event: Event
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    What could not be read as an event.

    Attributes:
        error: Which field, what was found, what was expected.
        raw: The exact bytes; of what is too long, the beginning.
    """

    line: int
    error: str
    raw: bytes
    file: str | None = None


Item = Found | Rejected


class _Format(Protocol):
    def read(self, paths: Sequence[str], stdin: BinaryIO | None) -> Iterator[Item]: ...


def open_source(
    format: str,  # noqa: A002
    paths: Sequence[str | Path],
    *,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """
    Read *paths* as *format*; what cannot be opened is refused before the first event.

    Args:
        format: One of `FORMATS`.
        paths: Files, repositories for ``git``, or URLs of databases; ``-`` is standard input.
        stdin: Stands in for the standard input of the process.

    Raises:
        CallerError: There is no such format, or a path that cannot be read.
    """
    if format not in FORMATS:
        raise CallerError(f"format: found {format!r}, expected one of {', '.join(FORMATS)}")
    if not paths:
        raise CallerError(f"paths: found none, expected at least one ({STDIN} is standard input)")
    module = cast("_Format", import_module(f"{__name__}.{format}"))
    return module.read([str(path) for path in paths], stdin)


def derived_id(
    format: str,  # noqa: A002
    source_id: str,
    occurred_at: datetime,
) -> str:
    """
    Return the event id of what has *source_id* in *format*, always the same.

    A UUIDv7 with the time of *occurred_at* (from 1970 on) whose random bits are those of
    SHA-256(format ‖ 0 ‖ source id). It is no secret: who knows the source can compute it.
    """
    digest = sha256(f"{format}\0{source_id}".encode("utf-8", "surrogatepass")).digest()
    return uuid7(max(0, microseconds(occurred_at)) * 1_000, digest)
