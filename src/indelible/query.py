"""
Query: which entries a reader asks for, and the pages that answer.

A query is a value; what is wrong cannot be built. It plans what the index is asked
for (`Query.wanted`), and tells of each entry that the index proposes whether it is
one (`Query.matches`): a term only proposes. Entries are verified against their leaf
hash first, and parsed from exactly those bytes. Values that were committed are opened
for the viewer's role before anything is compared: who may not see one cannot find by it.

Within a log the order is the index, and it is the true order. Over several logs it
is (recorded_at, origin, index). A cursor holds on to the tree sizes of the first
page, so that entries recorded meanwhile shift no page.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from hashlib import sha256
from heapq import merge
from ipaddress import ip_address, ip_network
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID

import msgspec

from indelible.box import ValueState
from indelible.entry import Entry, microseconds, moment_of
from indelible.errors import InvalidCursor, InvalidEvent, InvalidQuery, NotFound, UnknownStream
from indelible.event import (
    Actor,
    ActorType,
    Outcome,
    Resource,
    check_action,
    id_time,
    parse_outcome,
)
from indelible.fields import split
from indelible.keyring import networks_of
from indelible.log import restore
from indelible.merkle import inclusion_proof
from indelible.policy import CUSTODY, Sight
from indelible.proof import Proof
from indelible.seal import unseal
from indelible.segment import BLOCK
from indelible.store import Wanted
from indelible.syntax import Clause, parse_clauses, parse_words
from indelible.terms import Field, fingerprint, term
from indelible.vault import texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.event import Event
    from indelible.keyring import DataKey
    from indelible.seal import Clear
    from indelible.store import Head, Stored, View
    from indelible.vault import Opener

MAX_LIMIT = 1_000
"""Most items of a page."""

MAX_ALTERNATIVES = 100
"""Most values that one field of a query takes."""

_MAX_TEXT = 1_000
_EXCLUDABLE = ("actor", "action", "resource", "outcome")
_SEVERAL = (
    *_EXCLUDABLE,
    "stream",
    "session",
    "ip",
    "value",
    "trace",
    "id",
    "producer",
    "tenant",
)
_TIMES = ("since", "until", "occurred_since", "occurred_until")
_KEYS = (*_SEVERAL, *_TIMES, "order")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)
_ALWAYS = Wanted()


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """
    What is asked for. All fields given must hold; of a field's values, any may.

    Args:
        actor: ``user:alice``, ``user:*``, or ``anonymous`` where there is no id.
        action: ``invoice.approve``, or ``invoice.*`` for all that begins so.
        resource: ``invoice:INV-7`` or ``invoice:*``.
        stream: The part of the trail, successors of its log included. Without it,
            entries of the custody stream are only answered to a query that asks for
            something by name.
        without_actor: Whose entries are left out; the same for the other fields.
        ip: The client's address, or its network: /24 of IPv4, /48 of IPv6.
        value: Any other value that the policy makes searchable, with its path:
            ``/changes/email=alice@example.com``.
        producer: Origin of the log that a collector has the entry from.
        tenant: Whose data the event was about, where that stands in clear.
        since, until: When it was recorded, from (inclusive) and to (exclusive).
        occurred_since, occurred_until: The same, by the actor's clock.
        text: Words, and phrases in quotes, that must occur in the event's values,
            be they parts of longer words, in upper or lower case. Given as several
            texts, each is a phrase.

    Raises:
        InvalidQuery: A value means nothing; it says which, what was found and what
            is expected.
    """

    actor: tuple[str, ...]
    action: tuple[str, ...]
    resource: tuple[str, ...]
    outcome: tuple[Outcome, ...]
    stream: tuple[str, ...]
    session: tuple[str, ...]
    ip: tuple[str, ...]
    value: tuple[str, ...]
    trace: tuple[str, ...]
    id: tuple[str, ...]
    producer: tuple[str, ...]
    tenant: tuple[str, ...]
    without_actor: tuple[str, ...]
    without_action: tuple[str, ...]
    without_resource: tuple[str, ...]
    without_outcome: tuple[Outcome, ...]
    since: datetime | None
    until: datetime | None
    occurred_since: datetime | None
    occurred_until: datetime | None
    text: tuple[str, ...]
    newest_first: bool

    def __init__(
        self,
        *,
        actor: str | Iterable[str] = (),
        action: str | Iterable[str] = (),
        resource: str | Iterable[str] = (),
        outcome: str | Iterable[str] = (),
        stream: str | Iterable[str] = (),
        session: str | Iterable[str] = (),
        ip: str | Iterable[str] = (),
        value: str | Iterable[str] = (),
        trace: str | Iterable[str] = (),
        id: str | Iterable[str] = (),  # noqa: A002 - the field's name
        producer: str | Iterable[str] = (),
        tenant: str | Iterable[str] = (),
        without_actor: str | Iterable[str] = (),
        without_action: str | Iterable[str] = (),
        without_resource: str | Iterable[str] = (),
        without_outcome: str | Iterable[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        occurred_since: datetime | None = None,
        occurred_until: datetime | None = None,
        text: str | Iterable[str] = (),
        newest_first: bool = True,
    ) -> None:
        several = {
            "actor": actor,
            "action": action,
            "resource": resource,
            "outcome": outcome,
            "stream": stream,
            "session": session,
            "ip": ip,
            "value": value,
            "trace": trace,
            "id": id,
            "producer": producer,
            "tenant": tenant,
            "without_actor": without_actor,
            "without_action": without_action,
            "without_resource": without_resource,
            "without_outcome": without_outcome,
            "text": parse_words(text) if isinstance(text, str) else text,
        }
        times = {
            "since": since,
            "until": until,
            "occurred_since": occurred_since,
            "occurred_until": occurred_until,
        }
        for field, values in several.items():
            object.__setattr__(self, field, _parse_several(field, values))
        for field, moment in times.items():
            object.__setattr__(self, field, None if moment is None else _in_utc(field, moment))
        object.__setattr__(self, "newest_first", newest_first)
        _check_order("since", self.since, "until", self.until)
        _check_order("occurred_since", self.occurred_since, "occurred_until", self.occurred_until)

    @classmethod
    def parse(cls, q: str) -> Query:
        """
        Read a query as `indelible.syntax` describes it.

        The keys are the names of the fields and ``order`` (``newest``, ``oldest``);
        ``-`` before actor, action, resource and outcome leaves entries out. Times
        are RFC 3339, or a date, which means the whole day in UTC.

        Raises:
            InvalidQuery: It is none; it says where, or which field.
        """
        fields: dict[str, Any] = {}
        for clause in parse_clauses(q):
            name = _field_of(clause)
            if name == "text" or clause.excluded:
                fields[name] = (*fields.get(name, ()), *clause.values)
            elif name in fields:
                raise _invalid(name, "it twice", f"{name}:(a OR b) for one of several")
            elif name in _TIMES:
                fields[name] = _time_from_text(name, _single(clause))
            elif name == "order":
                fields[name] = _order_from_text(_single(clause))
            else:
                fields[name] = clause.values
        return cls(newest_first=fields.pop("order", True), **fields)

    def to_text(self) -> str:
        """Write the query as text; `parse` is the inverse."""
        clauses = [
            *(Clause(key=key, values=getattr(self, key)) for key in _SEVERAL),
            *(
                Clause(key=key, excluded=True, values=getattr(self, f"without_{key}"))
                for key in _EXCLUDABLE
            ),
            *(
                Clause(key=key, values=(moment.isoformat().replace("+00:00", "Z"),))
                for key in _TIMES
                if (moment := getattr(self, key)) is not None
            ),
            *([] if self.newest_first else [Clause(key="order", values=("oldest",))]),
            Clause(values=self.text),
        ]
        return " ".join(clause.to_text() for clause in clauses if clause.values)

    def names(self) -> bool:
        """Tell whether it asks for anything by name, rather than for all or for a time."""
        return bool(
            self.actor
            or self.action
            or self.resource
            or self.session
            or self.ip
            or self.value
            or self.trace
            or self.id
            or self.producer
            or self.tenant
            or self.text
        )

    def wanted(self, opener: Opener | None = None) -> tuple[Wanted, ...]:
        """
        Return what to ask the index of a log for; each that it proposes to any may match.

        Args:
            opener: Knows by what committed values can be found.
        """
        groups = (
            _terms(field, values, opener)
            for field in (*_EXCLUDABLE, "session", "ip", "value", "producer", "tenant")
            if (values := getattr(self, field))
        )
        base = Wanted(
            groups=tuple(group for group in groups if group is not None),
            recorded=_range(self.since, self.until, _ALWAYS.recorded),
            occurred=_range(self.occurred_since, self.occurred_until, _ALWAYS.occurred),
        )
        if self.id:
            return tuple(replace(base, id=(fingerprint(each), id_time(each))) for each in self.id)
        if self.trace:
            return tuple(replace(base, trace=fingerprint(each)) for each in self.trace)
        return (base,)

    def unwanted(self, opener: Opener | None = None) -> tuple[frozenset[int], ...]:
        """Return the terms of what is left out, a set for each field."""
        groups = (
            _terms(field, values, opener)
            for field in _EXCLUDABLE
            if (values := getattr(self, f"without_{field}"))
        )
        return tuple(group for group in groups if group is not None)

    def matches(self, entry: Entry, event: Event) -> bool:
        """Tell whether this *entry* with this *event* is asked for, in a stream that is."""
        return (
            self._matches_names(event)
            and (not self.session or event.session in self.session)
            and (not self.ip or _has_address(event, self.ip))
            and (not self.value or any(_has_value(event, each) for each in self.value))
            and (not self.id or event.id in self.id)
            and (not self.producer or producer_of(entry) in self.producer)
            and (not self.tenant or event.tenant in self.tenant)
            and (not self.trace or (event.trace is not None and event.trace.trace_id in self.trace))
            and (self.since is None or microseconds(self.since) <= entry.recorded_at)
            and (self.until is None or entry.recorded_at < microseconds(self.until))
            and (self.occurred_since is None or self.occurred_since <= event.occurred_at)
            and (self.occurred_until is None or event.occurred_at < self.occurred_until)
            and (not self.text or self._matches_text(event))
        )

    def may_match(self, entry: bytes) -> bool:
        """Tell, without parsing it, whether the text may occur in an entry."""
        if not self.text or _COMMITTED in entry or _DROPPED in entry:
            return True
        haystack = entry.decode(errors="replace").casefold()
        return all(part in haystack for part in _plain_parts(self.text))

    def _matches_names(self, event: Event) -> bool:
        for field, names_of in _NAMES.items():
            wanted, unwanted = getattr(self, field), getattr(self, f"without_{field}")
            if not wanted and not unwanted:
                continue
            names = names_of(event)
            if wanted and not any(name in wanted for name in names):
                return False
            if any(name in unwanted for name in names):
                return False
        return True

    def _matches_text(self, event: Event) -> bool:
        # NUL stands in no event and no query, so that no phrase spans two values.
        haystack = "\0".join(_texts(event)).casefold()
        return all(text.casefold() in haystack for text in self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """
    One entry of an answer, verified against its leaf hash.

    Attributes:
        log: Name of the log.
        origin: Origin of the log's checkpoints.
        clear: What the entry says itself.
        event: That, with the committed values that the viewer may see, and masks for others.
        states: Of each committed path, what there is of its value for the viewer.
        disclosures: In the order of ``committed``, what opens each value that is shown, or its
            leaf hash; filled by who hands the item to somebody who verifies it.
    """

    log: str
    origin: str
    index: int
    leaf_hash: bytes
    entry: Entry
    clear: Clear
    event: Event
    states: Mapping[str, ValueState]
    disclosures: tuple[bytes, ...] = ()

    @property
    def stream(self) -> str:
        """The stream that the log, or the one it succeeds, belongs to."""
        return self.log.partition("~")[0]

    @property
    def producer(self) -> str | None:
        """Origin of the log that a collector has the entry from."""
        return producer_of(self.entry)

    @property
    def recorded_at(self) -> datetime:
        """The log's clock when it was recorded."""
        return moment_of(self.entry.recorded_at)

    @property
    def place(self) -> tuple[int, str, int]:
        """What orders items of several logs."""
        return (self.entry.recorded_at, self.origin, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    Part of an answer.

    Attributes:
        cursor: Where the next page begins; none after the last one. There is one as long as
            a log is not read to its end, so the page after this one may be empty.
        sizes: The size of each log's tree that the answer is over.
    """

    items: tuple[Item, ...]
    cursor: str | None
    sizes: Mapping[str, int]


class Bound:
    """
    How many entries an answer may read, so that no question costs more than that.

    Args:
        least: So many of each log it may read in any case.

    Attributes:
        taken: How many it has read.
    """

    def __init__(self, most: int, *, least: int = 0) -> None:
        self._most, self._least = most, least
        self.taken = 0
        self._stopped: dict[str, int] = {}

    @property
    def is_cut(self) -> bool:
        """Whether there were more."""
        return bool(self._stopped)

    def take(self, log: str, indexes: Iterable[int]) -> Iterator[int]:
        """Yield *indexes* of *log* as long as they may be read."""
        for number, index in enumerate(indexes):
            if self.taken >= self._most and number >= self._least:
                self._stopped[log] = index
                return
            self.taken += 1
            yield index

    def stopped_at(self, log: str) -> int | None:
        """Return the index of the first entry of *log* that was not read any more."""
        return self._stopped.get(log)


def search(
    view: View,
    query: Query,
    *,
    limit: int = 50,
    cursor: str | None = None,
    secret: bytes,
    opener: Opener | None = None,
    most: int | None = None,
) -> Page:
    """
    Answer one page of *query*.

    All pages together hold each match once, also while others write. No more is
    read than the page needs: a block of entries at a time of each log.

    Args:
        cursor: That of the page before, for the same query.
        secret: Authenticates cursors; the same for all who take them.
        opener: Opens committed values for who asks; without one they are withheld.
        most: Entries that are read for the page, and a block of each log: it ends there,
            perhaps empty, with a cursor to go on from there.

    Raises:
        InvalidQuery: The limit is none.
        InvalidCursor: The cursor is of another query, role, case or trail, or was changed.
        UnknownStream: A stream that is asked for does not exist.
        Forbidden: It asks by values that the viewer's role does not see.
        Damaged: An entry that may belong to the answer cannot be read.
    """
    check_allowed(query, opener)
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise _invalid("limit", repr(limit), f"a number from 1 to {MAX_LIMIT}")
    heads = logs_of(view, query)
    asked = _digest(query, opener)
    # What was found and not taken is read again for the next page. Each log may go a block
    # further all the same, or pages of many logs would never get on.
    bound = None if most is None else Bound(most, least=BLOCK)
    if cursor is None:
        readers = [
            _Reader(view, head, query, head.size, opener=opener, bound=bound) for head in heads
        ]
    else:
        places = _Cursor.from_text(cursor, secret, asked).places
        known = {head.log: head for head in heads}
        for log, size, position in places:
            if log not in known or not 0 <= position <= size <= known[log].size:
                raise InvalidCursor(
                    f"cursor: found {size} entries of log {log}, expected no more than it has;"
                    " the trail was restored since"
                )
        readers = [
            _Reader(view, known[log], query, size, position, opener=opener, bound=bound)
            for log, size, position in places
        ]
    items: list[Item] = []
    while len(items) < limit and (item := _take_next(readers, query)) is not None:
        items.append(item)
    following = _Cursor(
        query=asked,
        places=tuple((reader.log, reader.size, reader.position) for reader in readers),
    )
    return Page(
        items=tuple(items),
        cursor=following.to_text(secret) if any(map(_Reader.has_more, readers)) else None,
        sizes={reader.log: reader.size for reader in readers},
    )


def matches(
    view: View, query: Query, opener: Opener | None = None, bound: Bound | None = None
) -> Iterator[Item]:
    """
    Yield all that *query* asks for, in its order, reading only as far as is asked.

    Args:
        bound: Ends it where no more may be read.

    Raises:
        UnknownStream: A stream that is asked for does not exist.
        Forbidden: It asks by values that the viewer's role does not see.
        Damaged: An entry that may belong to the answer cannot be read.
    """
    check_allowed(query, opener)
    readers = [
        _Reader(view, head, query, head.size, opener=opener, bound=bound)
        for head in logs_of(view, query)
    ]
    while (item := _take_next(readers, query)) is not None:
        yield item


def matches_in_log(  # noqa: PLR0917 - as `matches`, of a part of one log
    view: View,
    head: Head,
    query: Query,
    first: int,
    last: int,
    opener: Opener | None = None,
    bound: Bound | None = None,
) -> Iterator[Item]:
    """
    Yield what *query* asks for in [*first*, *last*) of one log, in its order.

    Args:
        bound: Ends it where no more may be read.

    Raises:
        Damaged: An entry that may belong to the answer cannot be read.
    """
    proposed = [
        view.candidates(head.log, wanted, first, last, newest_first=query.newest_first)
        for wanted in query.wanted(opener)
    ]
    candidates = (
        proposed[0]
        if len(proposed) == 1
        else (index for index, _ in groupby(merge(*proposed, reverse=query.newest_first)))
    )
    if bound is not None:
        candidates = bound.take(head.log, candidates)
    for item in _read(view, head, candidates, opener, query.may_match):
        if query.matches(item.entry, item.event):
            yield item


def items(
    view: View, log: str, indexes: Iterable[int], opener: Opener | None = None
) -> Iterator[Item]:
    """
    Yield the entries of *log* at *indexes*, in that order.

    Raises:
        Damaged: One of them cannot be read.
    """
    yield from _read(view, view.heads()[log], indexes, opener)


def check_allowed(query: Query, opener: Opener | None) -> None:
    """
    Check that *query* asks only by values that the viewer sees: who finds by one, knows it.

    Raises:
        Forbidden: It does not.
    """
    if opener is None:
        return
    for field in ("actor", "resource"):
        for value in (*getattr(query, field), *getattr(query, f"without_{field}")):
            kind, _, identity = value.partition(":")
            if identity and identity != "*" and not opener.is_pseudonym(identity):
                opener.check_may_find(field, f"/{field}/id", kind)
    if query.session:
        opener.check_may_find("session", "/session")
    if query.ip:
        opener.check_may_find("ip", "/client/ip")
    for value in query.value:
        opener.check_may_find("value", value.partition("=")[0])


def prove(view: View, log: str, index: int) -> Proof:
    """
    Prove that *log*, as its checkpoint of now signs it, holds the entry at *index*.

    Raises:
        NotFound: There is no such entry.
        Damaged: The hashes that the proof needs cannot be read.
    """
    head = view.heads().get(log)
    if head is None or not 0 <= index < head.size:
        raise NotFound(f"log {log}: found {0 if head is None else head.size} entries, not {index}")
    return Proof(
        index=index,
        hashes=tuple(inclusion_proof(index, head.size, partial(view.node, log))),
        checkpoint=head.checkpoint,
    )


def logs_of(view: View, query: Query) -> list[Head]:
    """
    Return the heads of the logs that *query* is about.

    Raises:
        UnknownStream: A stream that is asked for does not exist.
    """
    heads = list(view.heads().values())
    if not query.stream:
        # What the trail writes about itself would drown a look at everything; it is
        # there for whoever asks for its stream or for anything by name.
        return heads if query.names() else [head for head in heads if head.stream != CUSTODY]
    streams = {head.stream: None for head in heads}
    for stream in query.stream:
        if stream not in streams:
            raise UnknownStream(f"stream: found {stream!r}, expected one of {', '.join(streams)}")
    return [head for head in heads if head.stream in query.stream]


class _Reader:
    """
    The matches of one log, and how far they were looked at.

    The *position* is where a later page goes on: the index after the last item
    taken, or of an item that was found but not taken.
    """

    def __init__(
        self,
        view: View,
        head: Head,
        query: Query,
        size: int,
        position: int | None = None,
        *,
        opener: Opener | None = None,
        bound: Bound | None = None,
    ) -> None:
        self.log, self.size = head.log, size
        self._bound = bound
        self._down = query.newest_first
        self._end = 0 if self._down else size
        self.position = (size if self._down else 0) if position is None else position
        first, last = (0, self.position) if self._down else (self.position, size)
        self._matches = matches_in_log(view, head, query, first, last, opener, bound)
        self._ahead: Item | None = None

    def has_more(self) -> bool:
        """Tell whether part of the log was not looked at."""
        return self.position != self._end

    def peek(self) -> Item | None:
        """Return the next match, if there is one."""
        if self._ahead is None and self.has_more():
            self._ahead = next(self._matches, None)
            at = self._stopped() if self._ahead is None else self._ahead.index
            self.position = self._end if at is None else at + (1 if self._down else 0)
        return self._ahead

    def is_cut(self) -> bool:
        """Tell whether there may be a next match that may not be looked for."""
        return self._ahead is None and self._stopped() is not None

    def _stopped(self) -> int | None:
        return None if self._bound is None else self._bound.stopped_at(self.log)

    def go_past(self, item: Item) -> None:
        """Go on after *item*, which `peek` has returned."""
        self._ahead = None
        self.position = item.index + (0 if self._down else 1)


def _take_next(readers: Sequence[_Reader], query: Query) -> Item | None:
    """Return the match of all logs that comes next, and go past it."""
    found = [(item, reader) for reader in readers if (item := reader.peek()) is not None]
    if not found or any(map(_Reader.is_cut, readers)):
        return None
    choose: Callable[..., tuple[Item, _Reader]] = max if query.newest_first else min
    item, reader = choose(found, key=lambda pair: pair[0].place)
    reader.go_past(item)
    return item


class _Cursor(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """
    Where a page ended.

    Attributes:
        query: Digest of the query, and of who asks.
        places: Of each log its name, its size at the first page, and the position.
    """

    version: int = 1
    query: bytes
    places: tuple[tuple[str, int, int], ...]

    def to_text(self, secret: bytes) -> str:
        data = msgspec.msgpack.encode(self)
        return urlsafe_b64encode(_mac(data, secret) + data).rstrip(b"=").decode("ascii")

    @classmethod
    def from_text(cls, text: str, secret: bytes, query: bytes) -> _Cursor:
        """
        Read the cursor of the *query* of this digest that was written with *secret*.

        Raises:
            InvalidCursor: It is none.
        """
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            data = b""
        # One comparison holds the form: foreign characters, padding, stray bits.
        if urlsafe_b64encode(data).rstrip(b"=") != text.encode(errors="replace"):
            raise InvalidCursor("cursor: found no base64url, expected the cursor of a page")
        mac, data = data[:_MAC_SIZE], data[_MAC_SIZE:]
        if not hmac.compare_digest(mac, _mac(data, secret)):
            raise InvalidCursor("cursor: found one that was changed, or is of another trail")
        try:
            cursor = msgspec.msgpack.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise InvalidCursor(f"cursor: {error}") from error
        if cursor.version != 1:
            raise InvalidCursor(f"cursor: found version {cursor.version}, expected 1")
        if cursor.query != query:
            raise InvalidCursor(
                "cursor: found that of another query, role or case, expected this one's"
            )
        return cursor


_MAC_SIZE = 16


def _mac(data: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, b"indelible-cursor/1\0" + data, "sha256")[:_MAC_SIZE]


def _digest(query: Query, opener: Opener | None) -> bytes:
    # One role's cursor leads into what that role was answered, and no other's.
    asker = None if opener is None else (opener.viewer.role, opener.viewer.case)
    return sha256(msgspec.msgpack.encode((query.to_text(), asker))).digest()[:16]


def _read(
    view: View,
    head: Head,
    indexes: Iterable[int],
    opener: Opener | None,
    chosen: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[Item]:
    """Yield entries, verified and opened a block at a time, that *chosen* may want."""
    for _, block in groupby(indexes, key=lambda index: index // BLOCK):
        found = [
            (stored, data)
            for stored in view.stored(head.log, list(block))
            if chosen(data := restore(stored))
        ]
        rows: dict[int, bytes] = {}
        if opener is not None:
            closed = [stored.index for stored, data in found if _COMMITTED in data]
            rows = dict(zip(closed, view.rows(head.log, closed), strict=True)) if closed else {}
        keys = opener.keys(list(rows.values())) if opener is not None and rows else {}
        for stored, data in found:
            yield _item(head, stored, data, opener, rows.get(stored.index, b""), keys)


_COMMITTED = b'"committed":['
_DROPPED = b'"dropped":['


def _item(  # noqa: PLR0917
    head: Head,
    stored: Stored,
    data: bytes,
    opener: Opener | None,
    row: bytes,
    keys: Mapping[bytes, DataKey],
) -> Item:
    entry = Entry.from_bytes(data)
    clear = unseal(entry.event)
    states: Mapping[str, ValueState]
    if not clear.committed:
        event, states = clear.event(), {}
    elif opener is None:
        event, states = clear.event(), dict.fromkeys(clear.committed, ValueState.WITHHELD)
    else:
        event, states = opener.reveal(head.log, entry.index, clear, row, keys)
    return Item(
        log=head.log,
        origin=head.origin,
        index=entry.index,
        leaf_hash=stored.leaf,
        entry=entry,
        clear=clear,
        event=event,
        states=states,
    )


def _field_of(clause: Clause) -> str:
    if not clause.key:
        return "text"
    if clause.excluded:
        if clause.key not in _EXCLUDABLE:
            raise _invalid("q", repr(f"-{clause.key}:"), f"one of -{', -'.join(_EXCLUDABLE)}")
        return f"without_{clause.key}"
    if clause.key not in _KEYS:
        raise _invalid(
            "q",
            f"key {clause.key[:60]!r}",
            f"one of {', '.join(_KEYS)}; a word that holds a colon stands in quotes",
        )
    return clause.key


def _single(clause: Clause) -> str:
    if len(clause.values) != 1:
        raise _invalid(clause.key, f"{len(clause.values)} values", "one")
    return clause.values[0]


def _parse_several(field: str, given: str | Iterable[str]) -> tuple[str, ...]:
    try:
        values = (given,) if isinstance(given, str) else tuple(given)
    except TypeError:
        raise _invalid(field, _clipped(given), "a text or several texts") from None
    if len(values) > MAX_ALTERNATIVES:
        raise _invalid(field, f"{len(values)} values", f"at most {MAX_ALTERNATIVES}")
    return tuple(dict.fromkeys(_parse_value(field, value) for value in values))


def _parse_value(field: str, value: str) -> str:
    _check_text(field, value)
    parse, expected = _FORMS.get(field.removeprefix("without_"), (str, ""))
    try:
        return parse(value)
    except (InvalidEvent, ValueError):
        raise _invalid(field, _clipped(value), expected) from None


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise _invalid(field, _clipped(value), f"a text of 1 to {_MAX_TEXT} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(field, _clipped(value), "whole Unicode characters without NUL")


def _parse_actor(text: str) -> str:
    kind, _, identity = text.partition(":")
    if identity == "*":
        if kind not in get_args(ActorType):
            raise ValueError(kind)
    elif identity.endswith("*"):
        raise ValueError(identity)
    else:
        Actor.parse(text)
    return text


def _parse_resource(text: str) -> str:
    kind, _, identity = text.partition(":")
    if identity != "*" and identity.endswith("*"):
        raise ValueError(identity)
    return str(Resource(type=kind, id=identity))


def _parse_action(text: str) -> str:
    check_action(text.removesuffix(".*"))
    return text


def _parse_ip(text: str) -> str:
    if "/" not in text:
        return str(ip_address(text))
    network = ip_network(text)
    if network.prefixlen != (24 if network.version == 4 else 48):  # noqa: PLR2004 - IP
        raise ValueError(text)
    return str(network)


def _parse_searched(text: str) -> str:
    path, equals, _ = text.partition("=")
    if not path.startswith("/") or not equals:
        raise ValueError(text)
    return text


def _parse_id(text: str) -> str:
    lower = text.lower()
    if str(UUID(text)) != lower or lower[14] != "7":
        raise ValueError(text)
    return lower


_FORMS: dict[str, tuple[Callable[[str], str], str]] = {
    "actor": (
        _parse_actor,
        f"TYPE:ID such as user:alice, or user:*; types are {', '.join(get_args(ActorType))}",
    ),
    "action": (_parse_action, "a dotted name such as invoice.approve, or invoice.*"),
    "resource": (_parse_resource, "TYPE:ID such as invoice:INV-7, or invoice:*"),
    "outcome": (parse_outcome, f"one of {', '.join(Outcome)}"),
    "id": (_parse_id, "a UUIDv7"),
    "ip": (_parse_ip, "an address, or a network of /24 (IPv4) or /48 (IPv6)"),
    "value": (_parse_searched, "PATH=TEXT such as /changes/email=alice@example.com"),
}


def producer_of(entry: Entry) -> str | None:
    """Return the origin of the log that a collector has *entry* from."""
    return None if entry.collected is None else entry.collected.producer


def _of_actor(event: Event) -> tuple[str, ...]:
    return (str(event.actor), f"{event.actor.type}:*")


def _of_action(event: Event) -> tuple[str, ...]:
    parts = event.action.split(".")
    return (event.action, *(".".join(parts[:n]) + ".*" for n in range(1, len(parts))))


def _of_resource(event: Event) -> tuple[str, ...]:
    return (str(event.resource), f"{event.resource.type}:*")


def _of_outcome(event: Event) -> tuple[str, ...]:
    return (event.outcome,)


_NAMES: dict[str, Callable[[Event], tuple[str, ...]]] = {
    "actor": _of_actor,
    "action": _of_action,
    "resource": _of_resource,
    "outcome": _of_outcome,
}
_FIELDS = {
    "actor": (Field.ACTOR, Field.ACTOR_TYPE),
    "resource": (Field.RESOURCE, Field.RESOURCE_TYPE),
}
"""Fields of a type and an id, and what the index knows each by."""


def _has_address(event: Event, wanted: Sequence[str]) -> bool:
    if event.client is None or event.client.ip is None:
        return False
    # As it was given, or a network that it lies in.
    found = [event.client.ip, *networks_of(event.client.ip)]
    return any(each in wanted for each in found)


def _has_value(event: Event, wanted: str) -> bool:
    path, _, text = wanted.partition("=")
    found = value_at(event, path)
    return found is not None and text in texts_of(found)


def value_at(event: Event, path: str) -> object:
    """Return the value at *path* of an event, or None where there is none."""
    container, name = split(path)
    if name is not None:
        names = getattr(event, container[1:])
        return names.get(name) if isinstance(names, dict) else None
    found: object = event
    for part in path.split("/")[1:]:
        found = getattr(found, part, None)
    return found


def _terms(field: str, values: Sequence[str], opener: Opener | None) -> frozenset[int] | None:
    """Return what the index may know *values* by; None where only reading all can tell."""
    found: set[int] = set()
    for value in values:
        if field in _LOOKED_UP:
            terms = _looked_up(field, value, opener)
            if terms is None:
                return None
            found |= terms
        elif field == "action" and value.endswith(".*"):
            found.add(term(Field.ACTION_WILDCARD, value))
        else:
            found.add(term(Field[field.upper()], value))
    return frozenset(found)


_LOOKED_UP = {
    "actor": Field.ACTOR_LOOKUP,
    "resource": Field.RESOURCE_LOOKUP,
    "session": Field.SESSION_LOOKUP,
    "ip": Field.VALUE_LOOKUP,
    "value": Field.VALUE_LOOKUP,
}
"""Fields whose values may be committed, and so be found by lookups."""


def _looked_up(field: str, value: str, opener: Opener | None) -> frozenset[int] | None:
    kind, _, identity = value.partition(":") if field in _FIELDS else ("", "", value)
    if field in _FIELDS and identity == "*":
        return frozenset({term(_FIELDS[field][1], kind)})
    in_clear = frozenset[int]() if field in ("ip", "value") else _in_clear(field, value)
    if opener is None:
        return in_clear
    # The index proposes nothing for a value that the viewer does not see: what is read, and
    # so how long it takes and what it says of openings, must not depend on it.
    path = _path_of(field, value)
    seen = None if opener.is_pseudonym(identity) else opener.finds(path)
    if seen is None or (field in ("ip", "value") and opener.may_be_clear(path)):
        return frozenset({term(_FIELDS[field][1], kind)}) if field in _FIELDS else None
    if seen is not Sight.PLAIN:
        return in_clear
    text = f"{path}={value}" if field == "ip" else value
    return in_clear | opener.lookups(_LOOKED_UP[field], text)


def _in_clear(field: str, value: str) -> frozenset[int]:
    return frozenset({term(Field[field.upper()], value)})


def _path_of(field: str, value: str) -> str:
    if field == "value":
        return value.partition("=")[0]
    return {"ip": "/client/ip", "session": "/session"}.get(field, f"/{field}/id")


def _range(
    first: datetime | None, last: datetime | None, always: tuple[int, int]
) -> tuple[int, int]:
    return (
        always[0] if first is None else microseconds(first),
        always[1] if last is None else microseconds(last),
    )


def _in_utc(field: str, moment: object) -> datetime:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise _invalid(field, _clipped(moment), "a datetime with a time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise _invalid(field, _clipped(moment), "a time in the years 1 to 9999 in UTC") from None


def _check_order(
    first_name: str, first: datetime | None, last_name: str, last: datetime | None
) -> None:
    if first is not None and last is not None and first > last:
        expected = f"a time not after {last_name}, {last.isoformat()}"
        raise _invalid(first_name, first.isoformat(), expected)


def _time_from_text(field: str, text: str) -> datetime:
    try:
        if _DATE.match(text):
            day = datetime.fromisoformat(text).replace(tzinfo=UTC)
            return day + timedelta(days=1) if field.endswith("until") else day
        if _RFC3339.match(text):
            return datetime.fromisoformat(text.upper())
    except (ValueError, OverflowError):
        pass
    raise _invalid(
        field, _clipped(text), "a time such as 2026-01-31T09:30:00Z, or a date such as 2026-01-31"
    )


def _order_from_text(text: str) -> bool:
    if text not in ("newest", "oldest"):
        raise _invalid("order", _clipped(text), "newest or oldest")
    return text == "newest"


@lru_cache(maxsize=64)
def _plain_parts(texts: tuple[str, ...]) -> tuple[str, ...]:
    # What stands in JSON as it stands in the text: everything but what JSON
    # escapes, and the colon that joins type and id.
    return tuple(
        part for text in texts for part in re.split(r'[":\\\x00-\x1f\x7f]', text.casefold()) if part
    )


def _texts(value: object) -> Iterator[str]:
    """Yield each text and number of an event, names of changed fields and of data included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        if isinstance(value, (Actor, Resource)):
            yield str(value)
        for name in value.__struct_fields__:
            yield from _texts(getattr(value, name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield msgspec.json.encode(value).decode("ascii")


def _clipped(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004


def _invalid(field: str, found: str, expected: str) -> InvalidQuery:
    return InvalidQuery(f"{field}: found {found}, expected {expected}")
