"""
Reader: all that one viewer may ask of a trail, limited to what concerns it.

It puts together queries, the vault and the custody stream: what is shown is opened for
the viewer's role, and recorded. Streams and the tenant that a caller is limited to are
applied here, before anything is read, counted or opened: what lies outside is not there.
"""

from __future__ import annotations

import hmac
import time
from base64 import urlsafe_b64decode
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from indelible import custody, policies, query
from indelible.box import Row
from indelible.disclosure import commitment_of
from indelible.entry import hash_to_text
from indelible.errors import (
    CallerError,
    Damaged,
    Forbidden,
    InvalidQuery,
    Moved,
    NotFound,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.log import restore
from indelible.merkle import HASH_SIZE, consistency_proof
from indelible.openings import OPENED, READ, Reading
from indelible.policy import CUSTODY, OWNER
from indelible.query import Bound, Item, Page, Query
from indelible.tiles import TILE_HEIGHT, TILE_WIDTH, encode_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from indelible.access import Viewer
    from indelible.box import Found
    from indelible.covers import Covers
    from indelible.evidence import EvidenceVerdict
    from indelible.facets import Counted, Facet
    from indelible.history import State
    from indelible.openings import Openings
    from indelible.policy import Policy
    from indelible.proof import Proof
    from indelible.rights import Caller
    from indelible.store import Head, View
    from indelible.subject import Answer
    from indelible.vault import Opener


class Owner(custody.VaultOwner, Protocol):
    """The trail that is read."""

    @property
    def origin(self) -> str:
        """What its logs' origins begin with."""
        ...

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...

    @property
    def openings(self) -> Openings:
        """What hears of each reading."""
        ...

    def check_open(self) -> None:
        """Raise `TrailClosed` where it was closed."""
        ...

    def covers(self, view: View) -> Covers:
        """Return what erasures and purges have taken."""
        ...


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """
    The part of a trail that a reader is limited to.

    Attributes:
        streams: Those that it sees; all where there are none.
        tenant: Whose entries alone it sees: those that name it in clear.
    """

    streams: tuple[str, ...] = ()
    tenant: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is no limit at all."""
        return not self.streams and self.tenant is None

    def sees_stream(self, stream: str) -> bool:
        """Tell whether it has entries of *stream*."""
        return not self.streams or stream in self.streams

    def sees(self, item: Item) -> bool:
        """Tell whether *item* is in it."""
        return self.sees_stream(item.stream) and self.tenant in {None, item.clear.tenant}

    def heads(self, view: View) -> dict[str, Head]:
        """Return the heads of its logs."""
        return {log: head for log, head in view.heads().items() if self.sees_stream(head.stream)}

    def narrow(self, asked: Query, view: View) -> Query | None:
        """
        Return what asks for that part of *asked* that is in it; None where nothing is.

        Raises:
            UnknownStream: It asks for a stream that is not in it, or nowhere.
        """
        if self.is_whole:
            return asked
        narrowed = asked
        if self.streams:
            streams = list(dict.fromkeys(head.stream for head in self.heads(view).values()))
            for stream in asked.stream:
                _check_stream(stream, streams)
            # As in `query.logs_of`: who asks for nothing by name does not mean custody,
            # unless it sees nothing else.
            meant = streams if asked.names() else [each for each in streams if each != CUSTODY]
            chosen = asked.stream or tuple(meant or streams)
            if not chosen:
                return None
            narrowed = replace(narrowed, stream=chosen)
        if self.tenant is not None:
            if asked.tenant and self.tenant not in asked.tenant:
                return None
            narrowed = replace(narrowed, tenant=(self.tenant,))
        return narrowed


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """
    Part of a log in its order, see `Reader.feed`.

    Attributes:
        after: Index of the last entry that was looked at: what to go on with.
        head: Of the log, as it was then.
        successor: Name of the log that follows this one.
    """

    items: tuple[Item, ...]
    after: int
    head: Head
    successor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    What an actor has done, see `Reader.actor`.

    Attributes:
        first: Its first entry.
        recent: Its newest ones, the last first.
        counted: Its actions and outcomes.
    """

    first: Item
    recent: tuple[Item, ...]
    counted: Counted


class Reader:
    """
    What *viewer* may ask of the trail *owner*.

    Args:
        caller: Of a collector, who comes with a request: limits what is there, and is named
            where it is recorded that it has read. Without one the process reads for itself.
    """

    def __init__(self, owner: Owner, viewer: Viewer, caller: Caller | None = None) -> None:
        self.viewer = viewer
        self.scope = (
            EVERYTHING if caller is None else Scope(streams=caller.streams, tenant=caller.tenant)
        )
        self._owner = owner
        self._caller = caller

    # ---- Entries ----

    def search(
        self,
        query_: Query | str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        most: int | None = None,
        **fields: Any,
    ) -> Page:
        """
        Answer a page of entries, verified against the tree.

        Args:
            query_: A `Query`, or its text (``actor:user:alice action:invoice.*``);
                or give its *fields* by name.
            cursor: The page before's, to go on after it.
            most: Entries that are read; the page ends there, perhaps empty, with a cursor.
                By default all that it takes to fill it.

        Raises:
            InvalidQuery: The query or the limit means nothing.
            InvalidCursor: The cursor is of another query or reader, or was changed.
            UnknownStream: A stream that is asked for does not exist.
            Forbidden: It asks by values that the viewer's role does not see.
            Damaged: An entry that belongs to the answer cannot be read.
        """
        asked = asked_by(query_, fields)
        with self._looking(asked.to_text(), proving=True) as look:
            narrowed = self.scope.narrow(asked, look.view)
            if narrowed is None:
                return Page(items=(), cursor=None, sizes={})
            page = query.search(
                look.view,
                narrowed,
                limit=limit,
                cursor=cursor,
                secret=self._secret(),
                opener=look.opener,
                most=most,
            )
            look.read = len(page.items)
            return replace(page, items=self._proven(look, page.items))

    def matches(self, query_: Query | str | None = None, **fields: Any) -> Iterator[Item]:
        """
        Yield all that a query asks for, in its order, reading only as far as is asked.

        Raises:
            InvalidQuery, UnknownStream, Forbidden, Damaged: As `search`.
        """
        asked = asked_by(query_, fields)
        with self._looking(asked.to_text(), also_when_cut_off=True) as look:
            for item in self._matches(look.view, asked, look.opener):
                look.read += 1
                yield item

    def get(self, event_id: str) -> Item:
        """
        Return the entry of the event with this id.

        Raises:
            NotFound: There is none.
        """
        with self._looking(f"id:{event_id}", proving=True) as look:
            (item,) = self._proven(look, [self._find(look, event_id, look.opener)])
            return item

    def at(self, log: str, index: int) -> Item:
        """
        Return the entry at *index* of *log*.

        Raises:
            NotFound: There is none.
        """
        with self._looking(f"{log}#{index}") as look:
            head = self.scope.heads(look.view).get(log)
            if head is None or not 0 <= index < head.size:
                raise NotFound(f"entry: no entry {log}#{index}")
            if self.scope.tenant is None:
                found = query.items(look.view, log, [index], look.opener)
            else:
                found = self._in_log(look, head, index, index + 1)
            for item in found:
                look.read = 1
                return item
            raise NotFound(f"entry: no entry {log}#{index}")

    def history(self, resource: str, *, until: datetime | None = None) -> list[Item]:
        """
        Return all entries about *resource*, oldest first.

        Raises:
            InvalidQuery: *resource* is not ``type:id``.
        """
        from indelible.history import about  # noqa: PLC0415 - recording needs none of it

        with self._looking(f"resource:{resource}") as look:
            items = list(self._matches(look.view, about(resource, until=until), look.opener))
            look.read = len(items)
            return items

    def state(self, resource: str, *, at: datetime | None = None, most: int | None = None) -> State:
        """
        Return the values of *resource* as the recorded changes leave them at a time.

        Args:
            most: Entries that are read at most; by default all there are.

        Raises:
            InvalidQuery: *resource* is not ``type:id``, or has more entries.
        """
        from indelible.history import about, fold  # noqa: PLC0415 - recording needs none of it

        with self._looking(f"resource:{resource}") as look:
            bound = None if most is None else Bound(most)
            items = list(self._matches(look.view, about(resource, at=at), look.opener, bound))
            if bound is not None and bound.is_cut:
                raise InvalidQuery(f"resource: has more than {most} entries; ask for its history")
            look.read = len(items)
            return fold(items)

    # ---- Counts ----

    def facets(
        self,
        query_: Query | str | None = None,
        *,
        fields: Sequence[str] = ("actor", "action", "resource", "outcome"),
        top: int = 10,
        **filters: Any,
    ) -> dict[str, Facet]:
        """
        Count the values of *fields* over what matches, the most frequent first.

        Raises:
            InvalidQuery: The query means nothing.
        """
        found = self.count(query_, fields=fields, top=top, most=None, **filters)
        return dict(found.facets)

    def count(
        self,
        query_: Query | str | None = None,
        *,
        fields: Sequence[str] = ("actor", "action", "resource", "outcome"),
        top: int = 10,
        most: int | None = 10_000,
        **filters: Any,
    ) -> Counted:
        """
        Count as `facets`, over the newest of what matches, looking at no more than *most* entries.

        Raises:
            InvalidQuery: The query means nothing.
        """
        from indelible.facets import count  # noqa: PLC0415 - recording needs none of it

        asked = asked_by(query_, filters)
        with self._looking(asked.to_text()) as look:
            return count(
                look.view,
                self.scope.narrow(asked, look.view),
                fields=tuple(fields),
                top=top,
                opener=look.opener,
                most=most,
            )

    def actor(self, actor: str, *, recent: int = 10, most: int = 10_000) -> Seen:
        """
        Return when *actor* was seen first and last, and what it did how often.

        Args:
            recent: How many of its newest entries are returned.
            most: Entries that are read to be counted.

        Raises:
            InvalidQuery: *actor* is none.
            Forbidden: The viewer's role does not see such actors.
            NotFound: There is no entry of it.
        """
        from indelible.facets import count  # noqa: PLC0415 - recording needs none of it

        asked = Query(actor=actor)
        with self._looking(asked.to_text(), proving=True) as look:
            oldest = replace(asked, newest_first=False)
            first = next(self._matches(look.view, oldest, look.opener), None)
            if first is None:
                raise NotFound(f"actor: no entry of {actor!r}")
            newest = tuple(islice(self._matches(look.view, asked, look.opener), recent))
            look.read = len(newest) + 1
            counted = count(
                look.view,
                self.scope.narrow(asked, look.view),
                fields=("action", "outcome"),
                top=recent,
                opener=look.opener,
                most=most,
            )
            return Seen(first=first, recent=self._proven(look, newest), counted=counted)

    def subject(self, subject: str) -> Answer:
        """
        Return what is held about *subject*, and who has opened it; see `indelible.subject`.

        Raises:
            CallerError, Forbidden, KeyUnavailable, Damaged: As `indelible.subject.answer`.
            Forbidden: The reader is limited to a part of the trail: its answer would not be
                whole.
        """
        from indelible.subject import answer, question  # noqa: PLC0415 - recording needs none

        self._check_whole("subject")
        owner = self._owner
        with self._looking(question(subject)) as look:
            found = answer(
                look.view,
                owner.vault,
                owner.policy,
                look.opener,
                subject,
                trail=owner.id,
                origin=owner.origin,
                now=datetime.now(UTC),
            )
            look.read = len(found.entries)
            return found

    # ---- Evidence ----

    def prove(self, event_id: str) -> tuple[Item, Proof]:
        """
        Return an entry and the proof that the log's signed checkpoint covers it.

        Raises:
            NotFound: There is no such entry.
        """
        with self._looking(f"id:{event_id}") as look:
            item = self._find(look, event_id, look.opener)
            return item, query.prove(look.view, item.log, item.index)

    def disclose(
        self, event_id: str, target: Path, *, paths: Sequence[str] | None = None
    ) -> EvidenceVerdict:
        """
        Write evidence of an entry, with chosen values opened; see `indelible.evidence`.

        That they were opened is recorded, with their paths, before they are written.

        Args:
            target: A folder that is missing or empty.
            paths: Of the values; without it, all that the role sees.

        Raises:
            NotFound: There is no such entry.
            Forbidden: The role does not see one of the values; or entries that the reader is
                not to see belong to the evidence.
            CallerError: One is not there, or *target* holds something.
        """
        from indelible.evidence import choose, write  # noqa: PLC0415 - recording needs none of it

        asked = f"id:{event_id} {' '.join(['all'] if paths is None else paths)}"
        self._owner.check_open()
        with self._owner.store.read() as view:
            look = _Look(view, self._opener(view))
            chosen = choose(view, look.opener, self._find(look, event_id), paths)
            if chosen.covers:
                self._check_whole("evidence")
            look.opener.opened += bool(chosen.opened)
            self._say(look, asked, final=True)
            return write(view, chosen, target)

    # ---- Following ----

    def follow(self, stream: str | None = None, *, poll: float = 0.2) -> Iterator[Item]:
        """
        Yield entries as they are recorded, from now on, in the order of each log.

        Args:
            poll: Seconds between looks at the trail.

        Raises:
            UnknownStream: The trail has no such stream.
        """
        self._owner.check_open()
        with self._owner.store.read() as view:
            seen = {log: head.size for log, head in self.scope.heads(view).items()}
        if stream is not None:
            _check_stream(stream, [log.partition("~")[0] for log in seen])
        while True:
            items: list[Item] = []
            with self._looking(f"stream:{stream}" if stream else "") as look:
                for log, head in self.scope.heads(look.view).items():
                    if stream is None or head.stream == stream:
                        first = max(seen.get(log, 0), head.first)
                        items += self._in_log(look, head, first, head.size)
                        seen[log] = head.size
                look.read, look.is_idle = len(items), not items
            yield from sorted(items, key=lambda item: (item.entry.recorded_at, item.origin))
            if not items:
                time.sleep(poll)

    def feed(self, log: str, *, after: int = -1, limit: int = 1_000) -> Portion:
        """
        Return what follows the entry at *after* in *log*, in its order and without a gap.

        Entries that the reader does not see are left out, and `Portion.after` is behind them.
        Where the first entries were purged, it begins with the first that is left.

        Raises:
            NotFound: There is no such log.
            InvalidQuery: *after* or *limit* means nothing here.
        """
        if not 1 <= limit <= query.MAX_LIMIT:
            raise InvalidQuery(f"limit: found {limit}, expected 1 to {query.MAX_LIMIT}")
        with self._looking(f"stream:{log.partition('~')[0]}", proving=True) as look:
            head = self._head(look.view, log)
            if not -1 <= after < max(head.size, 1):
                raise InvalidQuery(
                    f"after: found {after}, but log {log} has {head.size} entries;"
                    " expected the index of one, or -1"
                )
            found = self._in_log(look, head, max(after + 1, head.first), head.size)
            items = self._proven(look, tuple(islice(found, limit)))
            look.read, look.is_idle = len(items), not items
            end = items[-1].index if len(items) == limit else max(after, head.size - 1)
            return Portion(items=items, after=end, head=head, successor=_successor(look.view, head))

    # ---- Trees ----

    def head(self, log: str) -> Head:
        """
        Return the head of *log*, with its signed checkpoint.

        Raises:
            NotFound: There is no such log.
        """
        self._owner.check_open()
        with self._owner.store.read() as view:
            return self._head(view, log)

    def tile(self, log: str, level: int, n: int, width: int = TILE_WIDTH) -> bytes:
        """
        Return the hashes of a tile, see `indelible.tiles`.

        Raises:
            NotFound: There is no such log, or it has fewer hashes.
        """
        self._owner.check_open()
        with self._owner.store.read() as view:
            head = self._head(view, log)
            first, last = n * TILE_WIDTH, n * TILE_WIDTH + width
            if last > head.size >> TILE_HEIGHT * level:
                raise NotFound(f"log {log}: no tile {level}/{n} of {width} hashes yet")
            if level == 0:
                return b"".join(view.leaves(log, first, last))
            return b"".join(view.node(log, TILE_HEIGHT * level, at) for at in range(first, last))

    def bundle(self, log: str, n: int, width: int = TILE_WIDTH) -> bytes:
        """
        Return the entries whose hashes stand in the tile of level 0 with this number.

        Raises:
            NotFound: There is no such log, or it has fewer entries.
            Purged: Some of them were purged.
            Forbidden: The reader is limited to a tenant.
        """
        if self.scope.tenant is not None:
            raise Forbidden("bundle: holds entries of all tenants, and the caller sees one's")
        first, last = n * TILE_WIDTH, n * TILE_WIDTH + width
        with self._looking(f"{log}#{first}-{last - 1}") as look:
            if last > self._head(look.view, log).size:
                raise NotFound(f"log {log}: no bundle {n} of {width} entries yet")
            entries = [restore(each) for each in look.view.stored(log, range(first, last))]
            look.read = len(entries)
            return encode_bundle(entries)

    def consistency(self, log: str, first: int, second: int) -> list[bytes]:
        """
        Return the proof that the tree of *second* entries of *log* begins with that of *first*.

        Raises:
            NotFound: There is no such log.
            InvalidQuery: It never had these sizes, or not in this order.
        """
        self._owner.check_open()
        with self._owner.store.read() as view:
            head = self._head(view, log)
            if not 0 <= first <= second <= head.size:
                raise InvalidQuery(
                    f"consistency: found {first} and {second}, expected sizes up to {head.size}"
                    " of which the first is not the larger"
                )
            return consistency_proof(first, second, partial(view.node, log))

    # ---- How it is read, and what is said of it ----

    @contextmanager
    def _looking(
        self, asked: str, *, also_when_cut_off: bool = False, proving: bool = False
    ) -> Iterator[_Look]:
        """
        Look at the trail inside the block, with values open for the viewer; that is an entry.

        The first reading of an hour is recorded at once, further ones with the next or
        when the trail is closed: so what follows the trail does not feed itself.

        Args:
            also_when_cut_off: What was read is shown before the block ends, however it does.
            proving: What opens the values is kept, for `_proven`.
        """
        self._owner.check_open()
        with self._owner.store.read() as view:
            look = _Look(view, self._opener(view))
            if proving and self._caller is not None:
                look.opener.disclosures = {}
            try:
                yield look
            except BaseException:
                if also_when_cut_off:
                    self._say(look, asked)
                raise
        # After the view was given back: who waits for the writer holds up no other reader.
        self._say(look, asked)

    def _opener(self, view: View) -> Opener:
        return self._owner.vault.opener(
            self.viewer,
            self._owner.policy,
            partial(self._explain, view),
            lambda: policies.ever(view),
        )

    def _explain(self, view: View, log: str, index: int, path: str) -> Found:
        """Say what became of a value that is gone."""
        return self._owner.covers(view).explain(log, index, path)

    def _say(self, look: _Look, asked: str, *, final: bool = False) -> None:
        openings, purpose = self._owner.openings, self.viewer.purpose
        if look.opener.opened:
            openings.add(self._reading(OPENED), look.opener.opened, asked, purpose)
        elif self._caller is None:
            return
        if self._caller is not None and not look.is_idle:
            openings.add(self._reading(READ), look.read, asked, purpose)
        try:
            openings.say(final=final)
        except (StoreError, WriteUncertain, CallerError) as error:
            # The owner may read where nothing can be written, a copy on a disc perhaps;
            # others see nothing that is not recorded.
            if self.viewer.role != OWNER or isinstance(error, Moved):
                raise

    def _reading(self, action: str) -> Reading:
        caller = self._caller
        return Reading(
            action=action,
            role=self.viewer.role,
            caller=None if caller is None else caller.id,
            name=None if caller is None else caller.name,
        )

    def _matches(
        self, view: View, asked: Query, opener: Opener | None, bound: Bound | None = None
    ) -> Iterator[Item]:
        narrowed = self.scope.narrow(asked, view)
        return iter(()) if narrowed is None else query.matches(view, narrowed, opener, bound)

    def _in_log(self, look: _Look, head: Head, first: int, last: int) -> Iterator[Item]:
        """Yield what is seen of [*first*, *last*) of one log, in its order."""
        asked = Query(tenant=self.scope.tenant or (), newest_first=False)
        return query.matches_in_log(look.view, head, asked, first, last, look.opener)

    def _proven(self, look: _Look, items: Sequence[Item]) -> tuple[Item, ...]:
        """Return *items* with what proves the values that are shown, if it was kept."""
        kept = look.opener.disclosures
        if kept is None:
            return tuple(items)
        rows: dict[tuple[str, int], bytes] = {}
        for log in {item.log for item in items}:
            indexes = [item.index for item in items if item.log == log and item.clear.committed]
            found = look.view.rows(log, indexes) if indexes else []
            rows.update(zip([(log, index) for index in indexes], found, strict=True))
        return tuple(
            replace(
                item, disclosures=_disclosures(item, rows.get((item.log, item.index), b""), kept)
            )
            for item in items
        )

    def _find(self, look: _Look, event_id: str, opener: Opener | None = None) -> Item:
        # The oldest: what somebody brings later under the same id does not stand before it.
        asked = Query(id=event_id, newest_first=False)
        for item in self._matches(look.view, asked, opener):
            look.read = 1
            return item
        raise NotFound(f"id: no entry of {event_id!r}")

    def _head(self, view: View, log: str) -> Head:
        heads = self.scope.heads(view)
        if log not in heads:
            raise NotFound(f"log: found {log[:100]!r}, expected one of {', '.join(heads)}")
        return heads[log]

    def _check_whole(self, what: str) -> None:
        if not self.scope.is_whole:
            raise Forbidden(f"{what}: needs the whole trail, and the caller sees a part of it")

    def _secret(self) -> bytes:
        """Return what authenticates cursors, of this reader alone."""
        if self._caller is None:
            # Against mistakes, not against the trail's owner, who may read everything
            # anyway; and who reads what is public needs no key.
            return self._owner.id.encode("ascii")
        secret = self._owner.vault.keyring.secret("cursors")
        return hmac.digest(secret, self._caller.id.encode(), "sha256")


class _Look:
    """
    One look at a trail.

    Attributes:
        read: How many entries it has shown.
        is_idle: There was nothing new: nothing to record.
    """

    def __init__(self, view: View, opener: Opener) -> None:
        self.view, self.opener = view, opener
        self.read = 0
        self.is_idle = False


def _disclosures(
    item: Item, row: bytes, kept: Mapping[tuple[str, int, str], bytes]
) -> tuple[bytes, ...]:
    """Return what opens each shown value of *item*, or its leaf hash; nothing without these."""
    committed = item.clear.committed
    try:
        spine = Row.from_bytes(row).spine if row else b""
    except Damaged:
        spine = b""
    leaves = [spine[at : at + HASH_SIZE] for at in range(0, len(spine), HASH_SIZE)]
    commitment = urlsafe_b64decode(f"{item.clear.commitment or ''}=")
    if len(leaves) != len(committed) or not leaves or commitment_of(leaves) != commitment:
        return ()
    return tuple(
        kept.get((item.log, item.index, path), b'"%b"' % hash_to_text(leaf))
        for path, leaf in zip(committed, leaves, strict=True)
    )


def asked_by(given: Query | str | None, fields: Mapping[str, Any]) -> Query:
    """
    Return the query that is *given*, whole or by its *fields*.

    Raises:
        CallerError: It is given in both ways.
        InvalidQuery: It means nothing.
    """
    if given is None:
        return Query(**fields)
    if fields:
        raise CallerError("a query is given whole or by its fields, not both")
    return Query.parse(given) if isinstance(given, str) else given


def _check_stream(stream: str, streams: Iterable[str]) -> None:
    known = list(dict.fromkeys(streams))
    if stream not in known:
        raise UnknownStream(f"stream: found {stream!r}, expected one of {', '.join(known)}")


def _successor(view: View, head: Head) -> str | None:
    logs = [log for log, each in view.heads().items() if each.stream == head.stream]
    following = logs[logs.index(head.log) + 1 :]
    return following[0] if following else None
