"""
Export: entries that a caller takes away in a file, and what such a file says of each.

It knows lines and rows, and how an export stands; which entries these are, and where the
file is kept, is for others. What is not shown to the caller is not in the file either.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from indelible.access import PSEUDONYM
from indelible.box import ValueState
from indelible.entry import time_to_text
from indelible.fields import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indelible.query import Item
    from indelible.rights import Caller

KIND = "export"
"""Of the facts that say how each export stands; key: its id."""

MADE = "entries.export"
"""The action of the custody entry: the manifest of a file."""

State = Literal["waiting", "running", "ready", "failed", "gone"]

COLUMNS = (
    "id",
    "recorded_at",
    "occurred_at",
    "stream",
    "log",
    "index",
    "kind",
    "action",
    "outcome",
    "reason",
    "actor",
    "actor_name",
    "resource",
    "resource_name",
    "changes",
    "data",
    "rationale",
    "session",
    "request",
    "ip",
    "user_agent",
    "trace",
    "service",
    "tenant",
    "producer",
    "redactions",
    "leaf_hash",
)
"""Of a table, a row for each entry; *changes*, *data* and *redactions* are JSON."""

_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """
    One export. Times are microseconds since 1970.

    Attributes:
        caller: Id of whoever has asked for it, and alone gets it, with the same limits.
        policy: Label of the policy under which values were shown.
        log, seen: The custody log, and how many entries it had before the first entry was
            read: what is erased later may be in the file.
        seen_at: When the process that makes it was last known to.
        size: Bytes of the file.
        why: Why there is no file.
    """

    id: str
    caller: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    policy: str
    format: str
    state: State = "waiting"
    made_at: int
    log: str = ""
    seen: int = 0
    seen_at: int
    expires_at: int | None = None
    entries: int = 0
    size: int = 0
    sha256: str | None = None
    why: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> Export:
        """Read what `to_bytes` writes."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.json.encode(self)

    def is_of(self, caller: Caller) -> bool:
        """Tell whether it was made for *caller*, as it is limited now."""
        return (self.caller, self.role, self.streams, self.tenant) == (
            caller.id,
            caller.role,
            caller.streams,
            caller.tenant,
        )

    def gone(self, why: str) -> Export:
        """Return it as it stands when its file was removed."""
        return msgspec.structs.replace(self, state="gone", why=why)


def seen(item: Item, path: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """
    Return the *value* at *path* of what is shown of *item*, if it is one.

    What stands for a value that is not shown is none; a pseudonym is.
    """
    if item.states.get(path, ValueState.OPEN) is ValueState.OPEN:
        return value
    return value if isinstance(value, str) and value.startswith(PSEUDONYM) else None


def redactions_of(item: Item) -> dict[str, str]:
    """Return of each value that is not shown, by its path, what there is of it."""
    return {
        path: state.value for path, state in item.states.items() if state is not ValueState.OPEN
    }


def changes_of(item: Item) -> dict[str, Any]:
    """Return the changes that are shown, as JSON."""
    hidden = {*redactions_of(item), *item.clear.dropped}
    if "/changes" in hidden:
        return {}
    return {
        name: msgspec.to_builtins(change)
        for name, change in (item.event.changes or {}).items()
        if f"/changes/{escape(name)}" not in hidden
    }


def without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """Return *value* without what says nothing, however deep."""
    parts = {name: _said(part) for name, part in value.items()}
    return {name: part for name, part in parts.items() if part not in (None, {}, [])}


def _said(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return without_nothing(value)
    return [_said(part) for part in value] if isinstance(value, list) else value


def row_of(item: Item) -> tuple[str, ...]:
    """Return the cells of `COLUMNS`."""
    event = item.event
    changes = None if event.changes is None else _json(event.changes)
    redactions = redactions_of(item)
    values: tuple[object, ...] = (
        event.id,
        time_to_text(item.entry.recorded_at),
        event.occurred_at.isoformat().replace("+00:00", "Z"),
        item.stream,
        item.log,
        item.index,
        event.kind,
        event.action,
        event.outcome.value,
        event.reason,
        str(event.actor),
        event.actor.name,
        str(event.resource),
        event.resource.name,
        changes,
        None if event.data is None else _json(event.data),
        None if event.rationale is None else event.rationale.text,
        event.session,
        event.request,
        None if event.client is None else event.client.ip,
        None if event.client is None else event.client.user_agent,
        None if event.trace is None else event.trace.trace_id,
        None if event.service is None else event.service.name,
        event.tenant,
        item.producer,
        _json(redactions) if redactions else None,
        item.leaf_hash.hex(),
    )
    return tuple("" if value is None else str(value) for value in values)


def csv_of(rows: Sequence[Sequence[str]]) -> bytes:
    """
    Write *rows* as RFC 4180 says.

    A cell that a spreadsheet would take for a formula begins with an apostrophe instead.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(map(_harmless, row) for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_BEGINS_FORMULA) else cell


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
