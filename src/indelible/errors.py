"""
Every error of Indelible, as one tree that says whose turn it is.

::

    IndelibleError
    ├── CallerError            the caller's turn: change the call
    │   ├── InvalidEvent           a field is missing or wrong
    │   │   └── EventTooLarge      it does not fit into an entry
    │   ├── InvalidQuery           a query, filter or time that means nothing
    │   │   └── InvalidCursor      a cursor of another query, or a changed one
    │   ├── InvalidPolicy          a policy that means nothing, or does not follow the last
    │   ├── NotApproved            too few people have approved what is to be done
    │   ├── UnknownStream          the trail has no such stream
    │   ├── NotFound               no entry has this id
    │   │   └── Purged             it was there, and only its hash is left
    │   ├── NotATrail              this directory holds no trail
    │   ├── AlreadyATrail          this directory holds one already
    │   ├── UnsupportedVersion     a newer version of Indelible wrote this
    │   ├── UnsupportedFileSystem  SQLite's locks do not hold there
    │   ├── KeyUnavailable         a key is lost or may not be read
    │   ├── Forbidden              the role may not see, search or do this
    │   └── TrailClosed            the trail was closed
    ├── StoreError             try again: nothing was written
    │   ├── StoreFull              the disk or the quota is full
    │   ├── StoreReadOnly          the files may not be written
    │   └── Moved                  another writer has taken over (stale epoch)
    ├── WriteUncertain         outcome unknown: look before you retry
    └── VerificationError      evidence does not hold: never retry, raise the alarm
        ├── Malformed              bytes that are not the format they claim
        ├── InvalidSignature       a signature is missing, unknown or wrong
        ├── InvalidProof           a path that does not lead to the root
        ├── BrokenChain            an entry names another predecessor
        ├── Damaged                stored bytes that are not those recorded
        └── Rollback               less is here than was signed before

A message names the thing, what was found and what was expected.
"""

from __future__ import annotations

import math


class IndelibleError(Exception):
    """Any error that Indelible raises on purpose."""


class CallerError(IndelibleError):
    """The call cannot succeed as it stands."""


class InvalidEvent(CallerError):
    """
    An event that may not be recorded.

    Args:
        field: Path of the field, with dots: ``actor.id``.
        found: What was there. The message shows it where the event could not be
            understood without it (`_SHOWN_FIELDS`), and else says only of what kind it
            is: messages end up in logs, and a password that was given in the wrong place
            must not.
        expected: What may be there.
        said: What was there, in words that hold nothing of it.
    """

    def __init__(
        self, field: str, found: object, expected: str, *, said: str | None = None
    ) -> None:
        self.field = field
        self.found = found
        self.expected = expected
        # A field may be named by whoever sends the data: nothing of it that is not
        # printable, no line feed and no lone surrogate, gets into a message.
        path = field if field.isprintable() else repr(field)[1:-1]
        if said is None:
            said = _shown(found) if field in _SHOWN_FIELDS else _described(found)
        self._said = said
        super().__init__(f"{path}: found {said}, expected {expected}")

    def under(self, field: str) -> InvalidEvent:
        """Return the same error of what whoever called knows as *field*."""
        return InvalidEvent(field, self.found, self.expected, said=self._said)


class EventTooLarge(InvalidEvent):
    """An event whose sealed bytes do not fit into an entry."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field, found, expected, said=repr(found))


class InvalidQuery(CallerError):
    """A query that means nothing."""


class InvalidCursor(InvalidQuery):
    """A cursor that belongs to another query or was changed."""


class InvalidPolicy(CallerError):
    """
    A policy that means nothing, or does not follow the one in force.

    Args:
        message: What was found and what was expected.
        line: Of the document, from 1, where it is known.
        key: Path of the key in the document, such as ``rule[2].stream``.
    """

    def __init__(self, message: str, *, line: int | None = None, key: str | None = None) -> None:
        self.message, self.line, self.key = message, line, key
        where = "" if line is None else f"line {line}: "
        super().__init__(f"{where}{message}" if key is None else f"{where}{key}: {message}")


class NotApproved(CallerError):
    """Too few people have approved what is to be done, or they approved something else."""


class UnknownStream(CallerError):
    """The trail has no stream of this name."""


class NotFound(CallerError):
    """Nothing in the trail has this id."""


class Purged(NotFound):
    """
    An entry that was purged: its hash is all that is left of it.

    Args:
        log: Name of the log.
        index: Place of the entry.
    """

    def __init__(self, log: str, index: int) -> None:
        self.log, self.index = log, index
        super().__init__(f"entry {log}#{index}: was purged; its hash is all that is left")


class NotATrail(CallerError):
    """The directory is missing or holds something else."""


class AlreadyATrail(CallerError):
    """The directory holds a trail, or something else, already."""


class UnsupportedVersion(CallerError):
    """A newer version of Indelible wrote this; this one may not touch it."""


class UnsupportedFileSystem(CallerError):
    """A file system on which SQLite's locks do not hold."""


class KeyUnavailable(CallerError):
    """A key, to sign with or of the vault, is lost, unreadable, or readable by others."""


class Forbidden(CallerError):
    """The role of whoever asks may not see, search or do this."""


class TrailClosed(CallerError):
    """The trail was closed; open it again."""


class StoreError(IndelibleError):
    """The store failed; nothing was written, and trying again is safe."""


class StoreFull(StoreError):
    """No room is left."""


class StoreReadOnly(StoreError):
    """The store's files may not be written."""


class Moved(StoreError):
    """Another writer holds a newer epoch; this one may not write again."""


class WriteUncertain(IndelibleError):
    """The write may have happened; look at the head before retrying."""


class VerificationError(IndelibleError):
    """Evidence does not hold."""


class Malformed(VerificationError):
    """Bytes that are not an exact instance of the format they claim to be."""


class InvalidSignature(VerificationError):
    """A note without a signature that suffices, or with a wrong one."""


class InvalidProof(VerificationError):
    """A proof that does not lead from its leaf to its root."""


class BrokenChain(VerificationError):
    """An entry that names another leaf hash than its predecessor's."""


class Damaged(VerificationError):
    """Stored bytes that are not those that were recorded."""


class Rollback(VerificationError):
    """A log that is smaller than, or not consistent with, what was signed before."""


_SHOWN_FIELDS = frozenset(
    (
        "id",
        "schema",
        "kind",
        "occurred_at",
        "action",
        "outcome",
        "actor",
        "actor.type",
        "resource",
        "resource.type",
        "approval.n",
        "approval.distinct",
        "eventTime",
        "eventSource",
        "eventName",
        "--at",
    )
)
"""Fields that say what an event is about, and that no application keeps a secret in."""

_SHOWN = 80
_BITS = 64


def _shown(value: object) -> str:
    # Not what stands in a container, and not what an object says of itself.
    if type(value) is str and value:
        text = repr(value[: _SHOWN + 1])
        return text if len(value) <= _SHOWN else f"{text[:_SHOWN]}..."
    if type(value) is int and value.bit_length() <= 2 * _BITS:
        return str(value)
    return _described(value)


def _described(value: object) -> str:
    """Say what kind of thing *value* is, and nothing that it holds."""
    kind = type(value)
    if kind is bool or value is None:
        return str(value)
    if kind in _CALLED:
        return _CALLED[kind] if value else repr(value)
    if kind is int:
        bits = value.bit_length()  # type: ignore[attr-defined]
        return "an integer" if bits <= _BITS else f"an integer of {bits} bits"
    if kind is float:
        return "a number" if math.isfinite(value) else str(value)  # type: ignore[arg-type]
    return f"a value of type {kind.__name__}"


_CALLED: dict[type, str] = {
    str: "a text",
    bytes: "bytes",
    list: "a list",
    tuple: "a tuple",
    dict: "an object",
}
