"""
An entry: the exact bytes at one index of a log, and back.

::

    {"v":1,"index":12,"prev":"<b64url leaf hash of entry 11>","recorded_at":"…Z","event":{…}}
    └──────────── place ────────────────────────────────────┘└────────── body ──────────────┘

The *body* is fixed when the event is recorded; the *place* follows from the log.
Since a place can be computed again from the tree, stores may keep bodies alone
and restore the entry with `assemble`; its leaf hash shows whether they did so
rightly. ``prev`` is readable with ``sha256sum`` and is checked in full scans, but
no proof relies on it.

A collector's log holds entries of its producers' logs, each as it is, in a body that says
whose it is::

    "recorded_at":"…Z","producer":"shop.example.com/web-3/user","entry":{…exact bytes…}}
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import BrokenChain, Malformed
from indelible.merkle import EMPTY_ROOT, leaf_hash

if TYPE_CHECKING:
    from typing import Self

MAX_ENTRY = 65_535
"""Most bytes of an entry: what a C2SP entry bundle can carry."""

NO_PREVIOUS = EMPTY_ROOT
"""What entry 0 names as the leaf hash before it: the hash of nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    index: int
    prev: str
    recorded_at: str
    event: msgspec.Raw = msgspec.Raw()
    producer: str = ""
    entry: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    One entry, taken apart.

    Attributes:
        previous: Leaf hash of the entry before, or `NO_PREVIOUS`.
        recorded_at: The log's clock, microseconds since 1970.
        event: The sealed event's exact bytes.
        collected: The producer's entry that holds the event, where a collector wrote this one.
    """

    index: int
    previous: bytes
    recorded_at: int
    event: bytes
    collected: Collected | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """
        Read an entry.

        Raises:
            Malformed: These are not an entry's exact bytes.
        """
        try:
            line = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"entry: {error}") from error
        event, collected = bytes(line.event), None
        if line.producer:
            collected = Collected(producer=line.producer, entry=bytes(line.entry))
            event = collected.event
        entry = cls(
            index=line.index,
            previous=_hash_from_text(line.prev),
            recorded_at=time_from_text(line.recorded_at),
            event=event,
            collected=collected,
        )
        # One comparison holds the form: key order, spaces, numbers, version.
        if entry.index < 0 or entry.to_bytes() != data:
            raise Malformed(f"entry {entry.index}: not in the exact form of version 1")
        return entry

    @classmethod
    def following(cls, data: bytes, index: int, previous: bytes) -> Self:
        """
        Read an entry of which it is known where it should stand, and after which leaf hash.

        Of one that does, it takes a part of the time of `from_bytes`; that its event is one,
        and whole, is for whoever reads the event to see (`indelible.seal.unseal`).

        Raises:
            Malformed: These are not an entry's exact bytes.
        """
        place = b'{"v":1,"index":%d,"prev":"%b",' % (index, hash_to_text(previous))
        found = _BODY.fullmatch(data, len(place)) if data.startswith(place) else None
        if found is None:
            return cls.from_bytes(data)
        return cls(
            index=index,
            previous=previous,
            recorded_at=_known_time(found[1].decode("ascii")),
            event=found[2],
        )

    def to_bytes(self) -> bytes:
        """Return the bytes whose hash is in the tree."""
        time = time_to_text(self.recorded_at)
        if self.collected is None:
            return assemble(self.index, self.previous, body(time, self.event))
        return assemble(self.index, self.previous, self.collected.body(time))

    @property
    def leaf_hash(self) -> bytes:
        """The hash by which the tree knows this entry."""
        return leaf_hash(self.to_bytes())


class Collected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    An entry of a producer's log, as a collector keeps it.

    Attributes:
        producer: Origin of the producer's log.
        entry: The exact bytes of the entry there.
    """

    producer: str
    entry: bytes

    def parse(self) -> Entry:
        """
        Read the producer's entry.

        Raises:
            Malformed: These are not an entry's exact bytes, or a collector's.
        """
        entry = Entry.from_bytes(self.entry)
        if entry.collected is not None:
            raise Malformed(f"entry {entry.index} of {self.producer}: was itself collected")
        return entry

    @property
    def event(self) -> bytes:
        """The sealed event's exact bytes; raises `Malformed` as `parse`."""
        return self.parse().event

    @property
    def member(self) -> bytes:
        """What stands in a collector's entry where its own have ``"event":{…}``."""
        return b'"producer":%b,"entry":%b' % (_quoted(self.producer), self.entry)

    def body(self, recorded_at: str) -> bytes:
        """Return the part of the collector's entry that does not depend on its place."""
        return b'"recorded_at":"%b",%b}' % (recorded_at.encode("ascii"), self.member)


_quoted = lru_cache(maxsize=4_096)(msgspec.json.encode)


def body(recorded_at: str, event: bytes) -> bytes:
    """Return the part of an entry that does not depend on its place."""
    return b'"recorded_at":"%b","event":%b}' % (recorded_at.encode("ascii"), event)


def event_in(body: bytes) -> tuple[bytes, str]:
    """
    Return the sealed event in the *body* of an entry that was hashed, and its producer.

    Raises:
        Malformed: It holds none.
    """
    if body[_MEMBER_AT:].startswith(_EVENT):
        return body[_MEMBER_AT + len(_EVENT) : -1], ""
    entry = Entry.from_bytes(assemble(0, NO_PREVIOUS, body))
    return entry.event, "" if entry.collected is None else entry.collected.producer


_MEMBER_AT = len('"recorded_at":"0000-00-00T00:00:00.000000Z",')
_EVENT = b'"event":'


def assemble(index: int, previous: bytes, body: bytes) -> bytes:
    """Return the entry at *index* after the entry with leaf hash *previous*."""
    return b'{"v":1,"index":%d,"prev":"%b",%b' % (index, hash_to_text(previous), body)


def take_body(entry: bytes) -> bytes:
    """
    Return the body of *entry*, the inverse of `assemble`.

    Raises:
        Malformed: It is not an entry.
    """
    start = entry.find(b'"recorded_at":"')
    if start < 0:
        raise Malformed("entry: no recorded_at")
    return entry[start:]


def verify_link(entry: Entry, previous: bytes) -> None:
    """
    Check that *entry* names *previous*, the leaf hash of the entry before it.

    Raises:
        BrokenChain: It names another.
    """
    if entry.previous != previous:
        raise BrokenChain(
            f"entry {entry.index} names {hash_to_text(entry.previous).decode()} as its predecessor,"
            f" the entry before it has {hash_to_text(previous).decode()}"
        )


def hash_to_text(value: bytes) -> bytes:
    """Return a 32-byte hash as 43 characters of base64url."""
    return urlsafe_b64encode(value)[:43]


def time_to_text(microseconds: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC with six digits."""
    return moment_of(microseconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def time_from_text(text: str) -> int:
    """
    Read what `time_to_text` writes.

    Raises:
        Malformed: It is another form, or no such time.
    """
    if not _TIME.match(text):
        raise Malformed(f"time: found {text!r}, expected YYYY-MM-DDTHH:MM:SS.ffffffZ")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Malformed(f"time: {error}") from error
    return microseconds(moment)


def microseconds(moment: datetime) -> int:
    """Return an aware time as microseconds since 1970, exactly."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment_of(microseconds: int) -> datetime:
    """Return the aware time, in UTC, of microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=microseconds)


_BODY = re.compile(
    rb'"recorded_at":"([0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z)","event":(\{.*\})\}', re.DOTALL
)
_known_time = lru_cache(maxsize=1_024)(time_from_text)
"""Entries of one commit have one time."""


def _hash_from_text(text: str) -> bytes:
    # 43 characters carry 258 bits: the two that remain must be zero, or one hash
    # would have four spellings. Comparing the rewritten entry sees to that.
    try:
        value = binascii.a2b_base64(text.translate(_FROM_URLSAFE) + "=", strict_mode=True)
    except (ValueError, binascii.Error) as error:
        raise Malformed(f"prev: found {text!r}, expected 43 characters of base64url") from error
    if len(value) != len(NO_PREVIOUS):
        raise Malformed(f"prev: found {text!r}, expected 43 characters of base64url")
    return value


_FROM_URLSAFE = str.maketrans("-_", "+/")
