r"""
JSON lines: one event a line, in the shape of a sealed event.

::

    {"occurred_at": "2026-11-24T03:33:46Z", "action": "invoice.approve",
     "actor": "user:alice", "resource": "invoice:INV-7", "changes": {"status": ["draft", "paid"]}}

The keys are the fields of `Event`. ``occurred_at`` (RFC 3339 with a time zone;
digits below the microsecond are dropped), ``action``, ``actor`` and ``resource`` must be
there; ``outcome`` is ``success`` where none is given; null is the same as absent.
Short forms are taken beside the sealed ones: ``user:alice``, ``invoice:INV-7``, a
rationale's text, a client's address, a trace's id, a service's name, ``[old, new]``.

Read strictly, since what is in the trail stays there: unknown keys, keys that stand twice, NaN,
lone surrogates and NUL are rejected, never repaired. A byte order mark, ``\r\n``, empty lines
and a last line without an end are tolerated; gzip is unpacked.

Ids: a UUIDv7 in lower case stays. Any other id becomes ``source`` (its text, or its
number as text), and the event's id follows from it. Without an id it follows from
``source`` where the line has one, else from the exact bytes of the line: the same line is
the same event, so a line that stands twice without an id goes in once.
"""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec

from indelible.errors import CallerError, InvalidEvent
from indelible.event import (
    Actor,
    Approval,
    Change,
    Client,
    Event,
    Rationale,
    Resource,
    Service,
    Source,
    Trace,
    parse_changes,
    parse_outcome,
    plain,
)
from indelible.seal import seal
from indelible.sources import Found, Item, Rejected, derived_id
from indelible.sources.lines import (
    MAX_LINE,
    Line,
    check_paths,
    chunks_of,
    decode_object,
    is_blank,
    split_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FORMAT = "jsonl"

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
_PAIR = 2

_Part = TypeVar("_Part", bound=msgspec.Struct)


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:
    """
    Yield the events of *paths*, one file after the other.

    Raises:
        CallerError: A file is missing or cannot be read.
    """
    check_paths(paths)
    return (item for path in paths for item in _read_file(path, stdin))


def parse_event(data: bytes) -> Event:
    """
    Read one line as an event that can be sealed.

    Raises:
        InvalidEvent: It is none; it says which field, what was found and what is expected.
    """
    fields = decode_object(data)
    for key, value in fields.items():
        if key not in _PARSE:
            raise InvalidEvent(key, value, f"one of the fields {', '.join(_PARSE)}")
    for key, expected in _REQUIRED.items():
        if fields.get(key) is None:
            raise InvalidEvent(key, None, expected)
    parsed = {key: _PARSE[key](key, value) for key, value in fields.items() if value is not None}
    parsed.setdefault("outcome", parse_outcome("success"))
    event = Event(**{**parsed, **_identity(parsed, data)})
    seal(event)
    return event


def parse_time(field: str, value: object) -> datetime:
    """
    Read an RFC 3339 time with its zone; digits below the microsecond are dropped.

    Raises:
        InvalidEvent: It is something else, or no such time.
    """
    if not isinstance(value, str) or not _TIME.match(value):
        raise InvalidEvent(field, value, _REQUIRED["occurred_at"])
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidEvent(field, value, f"a time that exists ({error})") from error


def _read_file(path: str, stdin: BinaryIO | None) -> Iterator[Item]:
    number = 0
    try:
        for line in split_lines(chunks_of(path, stdin)):
            number = line.number
            if not is_blank(line):
                yield _read_line(line, path)
    except CallerError as error:
        yield Rejected(number + 1, str(error), b"", path)


def _read_line(line: Line, path: str) -> Item:
    if not line.whole:
        error = f"line: found over {MAX_LINE} bytes, expected at most that; raw is its beginning"
        return Rejected(line.number, error, line.data, path)
    try:
        return Found(line.number, parse_event(line.data), path)
    except InvalidEvent as invalid:
        return Rejected(line.number, str(invalid), line.data, path)


def _identity(parsed: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Return the id, and the source where the id was given by another system."""
    given, source, when = parsed.get("id"), parsed.get("source"), parsed["occurred_at"]
    if given is not None and _UUID7.match(given):
        return {}
    if given is not None and source is not None:
        raise InvalidEvent("id", given, "a UUIDv7 in lower case, or no id, beside a source")
    if given is not None:
        source = Source(format=FORMAT, id=given)
    if source is not None:
        return {"id": derived_id(source.format, source.id, when), "source": source}
    content = sha256(data.rstrip(b" \t\r")).hexdigest()
    return {"id": derived_id(FORMAT, content, when)}


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(field, value, "a text")
    return value


def _id(field: str, value: object) -> str:
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value:
        raise InvalidEvent(field, value, "a text that is not empty, or an integer")
    return value


def _object(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidEvent(field, value, "an object")
    return value


def _changes(field: str, value: object) -> dict[str, Change]:
    return parse_changes(
        {name: _change(f"{field}.{name}", pair) for name, pair in _object(field, value).items()}
    )


def _change(field: str, value: object) -> Change:
    if isinstance(value, list) and len(value) == _PAIR:
        return Change(*value)
    if isinstance(value, dict) and value and not value.keys() - {"old", "new"}:
        return Change(**value)
    raise InvalidEvent(
        field, value, '{"old": …, "new": …} with one of them at least, or [old, new]'
    )


def _part(
    kind: type[_Part], short: Callable[[str], _Part] | None = None
) -> Callable[[str, object], _Part]:
    """Return a parser of *kind* from an object, or from a text by *short*."""
    known = {field.name: field for field in msgspec.structs.fields(kind)}

    def parse(field: str, value: object) -> _Part:
        if short is not None and isinstance(value, str):
            return short(value)
        if not isinstance(value, dict):
            expected = "an object" if short is None else "a text or an object"
            raise InvalidEvent(field, value, f"{expected} with {', '.join(known)}")
        for name in value:
            if name not in known:
                raise InvalidEvent(f"{field}.{name}", value[name], f"one of {', '.join(known)}")
        for name, about in known.items():
            if about.required and name not in value:
                raise InvalidEvent(f"{field}.{name}", None, "a value")
        return kind(**{name: _member(f"{field}.{name}", name, value[name]) for name in value})

    return parse


def _member(field: str, name: str, value: object) -> object:
    if name in ("roles", "approvers"):
        if not isinstance(value, list):
            raise InvalidEvent(field, value, "a list of texts")
        return tuple(value)
    if name == "on_behalf_of" and value is not None:
        return _actor(field, value)
    if name == "type":
        return _text(field, value)
    if name == "n":
        return plain(value, field)
    return value


_actor = _part(Actor, Actor.parse)

_PARSE: dict[str, Callable[[str, Any], Any]] = {
    "id": _id,
    "schema": _text,
    "kind": _text,
    "occurred_at": parse_time,
    "action": _text,
    "outcome": lambda _, value: parse_outcome(value),
    "reason": _text,
    "actor": _actor,
    "resource": _part(Resource, Resource.parse),
    "changes": _changes,
    "data": _object,
    "rationale": _part(Rationale, lambda text: Rationale(text=text)),
    "session": _text,
    "request": _text,
    "client": _part(Client, lambda text: Client(ip=text)),
    "trace": _part(Trace, lambda text: Trace(trace_id=text)),
    "service": _part(Service, lambda text: Service(name=text)),
    "tenant": _text,
    "approval": _part(Approval),
    "source": _part(Source),
}

_REQUIRED = {
    "occurred_at": "RFC 3339 with a time zone, such as 2026-11-24T03:33:46Z",
    "action": "a dotted name such as invoice.approve",
    "actor": "TYPE:ID such as user:alice, or an object",
    "resource": "TYPE:ID such as invoice:INV-7, or an object",
}
