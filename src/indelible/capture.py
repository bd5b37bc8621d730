r"""
Capture: what a statement did to the rows of a database, as changes of an event.

An adapter says which values the database held before and after; here they become what
JSON carries exactly, or are marked as something else. It knows no ORM and no SQL.

A value that JSON cannot carry is an object with one key that begins with ``$``::

    {"$bytes": "AAEC"}                        binary, in base64
    {"$float": "NaN"}                         no finite number
    {"$int": "36893488147419103232"}          more than 64 bits
    {"$text": "\\udc80"}                          a text with NUL or half a character, escaped
    {"$sha256": "9f86…", "size": 70000}       of more than `MOST`: of its bytes, and how many
    {"$repr": "<Point 1 2>"}                  any other type, as Python shows it
    {"$object": {"$ref": 1}}                  an object that looks like one of these
    {"$member": "7"}                          one of several: it came to the field, or went
    {"$secret": true}                         left out: whoever declared the field said so
"""

from __future__ import annotations

import math
from base64 import b64encode
from datetime import datetime
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from indelible.errors import InvalidEvent
from indelible.event import MAX_NESTING, Change, Kind, plain

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

MOST = 8_192
"""Characters or bytes of a value; of a larger one its digest is kept."""

SECRET: dict[str, Any] = {"$secret": True}
"""Stands for a value that is left out."""

MEMBER = "$member"
"""The mark of one value among several that a field has."""

_MOST_KEY = 900
_MOST_REPR = 200
_MOST_INT, _LEAST_INT = 2**64 - 1, -(2**63)


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """
    A table whose rows are captured.

    Attributes:
        type: Type of the resource that a row is: ``invoice``.
        exclude: Fields that are left out; a change of nothing else is no event.
        secret: Fields of which only that they changed is kept.
        personal: Fields that name people, which the policy must class so.
    """

    type: str
    exclude: frozenset[str] = frozenset()
    secret: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()


class Row(msgspec.Struct, frozen=True, array_like=True):
    """
    What happened to one row.

    Attributes:
        action: ``invoice.update``.
        type, id: The resource that the row is.
        changes: Old and new value by field; of a row that came or went, one of them.
        kind: What the change is.
    """

    action: str
    type: str
    id: str
    changes: dict[str, Change]
    kind: Kind = "data_change"


def created(tracked: Tracked, key: Iterable[object], values: Mapping[str, object]) -> Row:
    """Return what happened to a row that came."""
    secret = tracked.secret
    changes = {
        name: Change(UNSET, SECRET if name in secret else exact(value))
        for name, value in values.items()
    }
    return Row(f"{tracked.type}.create", tracked.type, key_text(key), changes)


def deleted(tracked: Tracked, key: Iterable[object], values: Mapping[str, object]) -> Row:
    """Return what happened to a row that went."""
    secret = tracked.secret
    changes = {
        name: Change(SECRET if name in secret else exact(value), UNSET)
        for name, value in values.items()
    }
    return Row(f"{tracked.type}.delete", tracked.type, key_text(key), changes)


def updated(
    tracked: Tracked,
    key: Iterable[object],
    old: Mapping[str, object],
    new: Mapping[str, object],
) -> Row | None:
    """Return what happened to a row whose values are now *new*; nothing where none changed."""
    changes = changed(old, new, tracked.secret)
    if not changes:
        return None
    return Row(f"{tracked.type}.update", tracked.type, key_text(key), changes)


def linked(
    type_: str, name: str, owner: Iterable[object], member: Iterable[object], kind: Kind
) -> Row:
    """Return what happened when *owner* got one more *member* in its relation *name*."""
    change = Change(new={MEMBER: key_text(member)})
    return Row(f"{type_}.{name}.add", type_, key_text(owner), {name: change}, kind)


def unlinked(
    type_: str, name: str, owner: Iterable[object], member: Iterable[object], kind: Kind
) -> Row:
    """Return what happened when *owner* had one *member* less in its relation *name*."""
    change = Change(old={MEMBER: key_text(member)})
    return Row(f"{type_}.{name}.remove", type_, key_text(owner), {name: change}, kind)


def changed(
    old: Mapping[str, object], new: Mapping[str, object], secret: Container[str] = ()
) -> dict[str, Change]:
    """Return the change of each field of *new* that has another value in *old*."""
    changes = {}
    for name, value in new.items():
        before = old[name]
        kind = type(value)
        if before is value or (type(before) is kind and kind in _PLAIN and before == value):
            continue
        left, right = exact(before), exact(value)
        # As JSON: to Python 1 is True, and 1.0, also deep inside.
        if left is not right and _ordered(left) != _ordered(right):
            changes[name] = Change(SECRET, SECRET) if name in secret else Change(left, right)
    return changes


_PLAIN = frozenset({str, int, bool, bytes, Decimal})
_ordered = msgspec.json.Encoder(order="deterministic").encode


def key_text(values: Iterable[object]) -> str:
    """
    Return the id of the row with this primary key.

    The parts of a composite key stand with a comma between them; a comma, and the percent
    sign, of their own as in a URL.
    """
    parts = [_key_part(value) for value in values]
    if len(parts) > 1:
        parts = [part.replace("%", "%25").replace(",", "%2C") for part in parts]
    text = ",".join(parts)
    if len(text) <= _MOST_KEY:
        return text
    # An id has its bounds; the triggers of PostgreSQL write the same.
    digest = _digest(text.encode("utf-8", "surrogatepass"))
    return msgspec.json.encode(digest).decode("utf-8")


def _key_part(value: object) -> str:
    if type(value) is str:
        part = value
    elif type(value) is int:
        return str(value)
    else:
        form = exact(value)
        part = form if isinstance(form, str) else msgspec.json.encode(form).decode("utf-8")
    return _escaped(part) or "''"  # an id has to be something


def exact(value: object) -> Any:  # noqa: ANN401, PLR0911 - any JSON
    """Return *value* as JSON carries it exactly, or marked; it never raises."""
    kind = type(value)
    if kind is str:
        if len(value) <= MOST and value.isascii() and "\0" not in value:  # type: ignore[arg-type, attr-defined, operator]
            return value
        return _text(value)  # type: ignore[arg-type]
    if kind is bool or value is None:
        return value
    if kind is int:
        if _LEAST_INT <= value <= _MOST_INT:  # type: ignore[operator]
            return value
        # Python writes no number of more than a few thousand digits.
        few = value.bit_length() <= MOST  # type: ignore[attr-defined]
        return {"$int": str(value)} if few else _digest(hex(value).encode())  # type: ignore[arg-type]
    try:
        return _exact(value, 0)
    except Exception:  # noqa: BLE001 - whatever a type of the application raises when asked
        return {"$repr": f"<{kind.__module__}.{kind.__qualname__}>"}


def shown(value: object) -> str:
    """Return *value*, as `exact` has made it, for people to read."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        mark, inner = next(iter(value.items()))
        if value == SECRET:
            return "(secret)"
        if mark == "$sha256":
            return f"SHA-256 {inner} of {value.get('size')} bytes"
        if len(value) == 1 and mark in _TEXTS and isinstance(inner, str):
            return inner
    return msgspec.json.encode(value).decode("utf-8")


_TEXTS = frozenset({"$float", "$int", "$repr", "$text", MEMBER})
"""Marks whose text says it all."""


def _exact(value: object, depth: int) -> Any:  # noqa: ANN401, C901, PLR0911 - any JSON
    if value is None or type(value) in (str, bool, int):
        return exact(value)
    if isinstance(value, Enum):
        return exact(value.value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else {"$float": str(value)}
    if isinstance(value, datetime) and value.utcoffset() is None:
        return value.isoformat()  # a column without a zone holds just this
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        if len(data) > MOST:
            return _digest(data)
        return {"$bytes": b64encode(data).decode("ascii")}
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return _container(value, depth)
    if isinstance(value, str):
        return _text(str.__str__(value))
    try:
        return plain(value, "value")
    except InvalidEvent:
        return _repr(value)


def _container(value: Any, depth: int) -> Any:  # noqa: ANN401 - any JSON
    if depth >= MAX_NESTING // 2:
        return _repr(value)
    form: Any
    if isinstance(value, dict):
        form = {_escaped(str(name)): _exact(item, depth + 1) for name, item in value.items()}
        if len(form) == 1 and next(iter(form)).startswith("$"):
            form = {"$object": form}  # or it would look like a mark of ours
    else:
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        form = [_exact(item, depth + 1) for item in items]
    if depth == 0:
        data = msgspec.json.encode(form)
        if len(data) > MOST:
            return _digest(data)
    return form


def _text(value: str) -> Any:  # noqa: ANN401 - a text, or what stands for it
    if len(value) > MOST:
        return _digest(value.encode("utf-8", "surrogatepass"))
    form = _escaped(value)
    return form if form == value else {"$text": form}


def _escaped(value: str) -> str:
    """Return *value*, or where it cannot stand in an entry its escaped form."""
    if "\0" in value:
        return ascii(value)[1:-1]
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return ascii(value)[1:-1]
    return value


def _repr(value: object) -> dict[str, Any]:
    text = repr(value)
    # Not its beginning: of two values that begin alike one would be taken for the other.
    if len(text) > _MOST_REPR:
        return _digest(text.encode("utf-8", "surrogatepass"))
    return {"$repr": _escaped(text)}


def _digest(data: bytes) -> dict[str, Any]:
    return {"$sha256": sha256(data).hexdigest(), "size": len(data)}
