"""
Rows of other libraries' tables, as parts of an event.

What a row of a history says is all values of an object, at one moment; here it is compared
with the row before it. It knows no library and no SQL.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from indelible.capture import changed, exact
from indelible.errors import InvalidEvent
from indelible.event import Change

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["as_bytes", "compared", "decoded", "moment", "name_of"]

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def moment(field: str, value: object) -> datetime:
    """
    Read a time as a database gives it; one without a zone is in UTC, as Django writes it.

    Raises:
        InvalidEvent: It is none.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidEvent(field, value, "a time") from None
    if not isinstance(value, datetime):
        raise InvalidEvent(field, value, "a time")
    return value if value.utcoffset() is not None else value.replace(tzinfo=UTC)


def decoded(field: str, value: object) -> Any:  # noqa: ANN401 - any JSON
    """
    Return JSON as a value: SQLite keeps it as a text.

    Raises:
        InvalidEvent: It is a text that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value.encode("utf-8", "surrogateescape"))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidEvent(field, value, "JSON") from None


def compared(
    verb: str, values: Mapping[str, object], before: Mapping[str, object] | None
) -> dict[str, Change]:
    """
    Return what happened to an object that now has *values*.

    Args:
        verb: Of what came all values are new, and of what was deleted all are old.
        before: Those of the row before; of the first row there are none.
    """
    if verb == "delete":
        return {name: Change(exact(value), UNSET) for name, value in values.items()}
    if verb == "create" or before is None:
        return {name: Change(UNSET, exact(value)) for name, value in values.items()}
    return changed(before, values)


def name_of(text: str) -> str:
    """Return *text* as a part of an action, or of a type, may be called."""
    return _NO_NAME.sub("_", text).strip("_") or "unnamed"


def as_bytes(row: Mapping[str, object]) -> bytes:
    """Return a row for the dead letters."""
    return msgspec.json.encode({name: exact(value) for name, value in row.items()})
