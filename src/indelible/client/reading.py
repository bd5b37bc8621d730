"""
Reading: the client of a collector for those who read, blocking and not.

Both are thin: what is asked and what must hold says `indelible.client.session`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from indelible.client.connection import Address, AsyncConnection, Connection
from indelible.client.exchange import Request, base_of
from indelible.client.memory import Memory
from indelible.client.session import Session
from indelible.client.trusting import keys_of
from indelible.errors import CallerError, Damaged
from indelible.history import about, fold
from indelible.query import MAX_LIMIT
from indelible.reader import asked_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from indelible.client.items import ActorSeen, Facet, Item, Page
    from indelible.client.trusting import Trust
    from indelible.history import State
    from indelible.note import VerifierKey
    from indelible.proof import Proof
    from indelible.query import Item as HeldItem
    from indelible.query import Query
    from indelible.verdict import Verdict
    from indelible.wire import ExportShown, ViewShown

FACETS = ("actor", "action", "resource", "outcome")
"""The fields that are counted where none are named."""


class _Client:
    """What both kinds of client are made with."""

    def __init__(
        self,
        url: str,
        token: str | Path | None = None,
        *,
        trust: Trust | None = None,
        ca: Path | str | None = None,
        certificate: tuple[Path | str, Path | str] | Path | str | None = None,
        state: Path | str | None = None,
        case: str | None = None,
        purpose: str | None = None,
    ) -> None:
        self.url = base_of(url)
        self._address = Address(
            url=self.url, token=token, ca=ca, certificate=certificate, case=case, purpose=purpose
        )
        memory = Memory(self.url, None if state is None else Path(state))
        self._session = Session(self.url, memory, keys_of(trust))


class Client(_Client):
    """
    Reads from the collector at *url*, and verifies what it is answered.

    Each entry that is returned was hashed, and proven to be in its log under a checkpoint
    that the trusted key has signed and that begins with the largest tree seen before.
    What is shown is read from exactly those bytes; values that the collector opens count as
    proven where their disclosures come with them, else `Item.unproven` names them. Usable
    from several threads.

    Args:
        url: ``https://…``.
        token: An access token of a role that may read, or the file that holds it; by default
            what ``INDELIBLE_TOKEN`` holds.
        trust: Verifier keys of the collector's logs, or a file of them. They are remembered,
            so that they are needed once. A key that comes with an answer is never trusted.
        ca: File of the certificates that vouch for the collector's own.
        certificate: Files of a client certificate and its key.
        state: Directory where is kept what was seen; by default in the user's configuration.
        case: What the reader works on: masked identities become pseudonyms within it.
        purpose: Why values are opened, in words; kept with the opening.

    Raises:
        CallerError: The URL, the token or a file is none, or no key is trusted yet.
    """

    def __init__(self, url: str, token: str | Path | None = None, **settings: Any) -> None:
        super().__init__(url, token, **settings)
        self._connection = Connection(self._address)
        self._run = self._connection.run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def search(
        self,
        query: Query | str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        **fields: Any,
    ) -> Page:
        """
        Return a page of entries, which are what was asked for.

        That none was left out is not shown by a page: `feed` and `verify` leave out none.

        Args:
            query: A `Query`, or its text; or give its *fields* by name.
            cursor: The page before's, to go on after it.

        Raises:
            InvalidQuery, InvalidCursor, Forbidden: The collector refuses it.
            StoreError: The collector cannot be reached or is busy; try again.
            VerificationError: The answer does not hold.
        """
        return self._run(self._session.page(asked_by(query, fields), limit=limit, cursor=cursor))

    def iter(self, query: Query | str | None = None, **fields: Any) -> Iterator[Item]:
        """
        Yield all entries that *query* asks for, page by page, each once.

        Raises:
            IndelibleError: As `search`.
        """
        asked, cursor, last = asked_by(query, fields), None, None
        while True:
            page = self._run(self._session.page(asked, limit=MAX_LIMIT, cursor=cursor, after=last))
            yield from page.items
            cursor, last = page.cursor, _last(page, last)
            if cursor is None:
                return

    def get(self, event_id: str) -> Item:
        """
        Return the entry of the event with this id.

        Raises:
            NotFound: There is none that this token may see.
            IndelibleError: As `search`.
        """
        return self._run(self._session.get(event_id))

    def at(self, log: str, index: int) -> Item:
        """
        Return the entry at *index* of *log*.

        Raises:
            NotFound: There is none that this token may see.
            IndelibleError: As `search`.
        """
        return self._run(self._session.at(log, index))

    def prove(self, event_id: str) -> tuple[Item, Proof]:
        """
        Return an entry, and the proof that its log holds it, which needs no collector.

        Raises:
            NotFound: There is none that this token may see.
            IndelibleError: As `search`.
        """
        item = self._run(self._session.get(event_id))
        return item, self._run(self._session.prove(item))

    def proof_of(self, item: HeldItem) -> Proof:
        """
        Return the proof that its log holds *item*.

        Raises:
            InvalidProof: There is none.
            IndelibleError: As `search`.
        """
        return self._run(self._session.prove(item))

    def history(self, resource: str, *, until: datetime | None = None) -> list[Item]:
        """
        Return all entries about *resource*, oldest first.

        Raises:
            InvalidQuery: *resource* is not ``type:id``.
            IndelibleError: As `search`.
        """
        return list(self.iter(about(resource, until=until)))

    def state(self, resource: str, *, at: datetime | None = None) -> State:
        """
        Return the values of *resource* as the recorded changes leave them at a time.

        It is worked out here, from entries that were verified.

        Raises:
            InvalidQuery: *resource* is not ``type:id``.
            IndelibleError: As `search`.
        """
        return fold(self.iter(about(resource, at=at)))

    def facets(
        self,
        query: Query | str | None = None,
        *,
        fields: Sequence[str] = FACETS,
        top: int = 10,
        **filters: Any,
    ) -> dict[str, Facet]:
        """
        Count the values of *fields* over what matches; the counts are the collector's word.

        Raises:
            IndelibleError: As `search`.
        """
        return self._run(self._session.facets(asked_by(query, filters), tuple(fields), top))

    def views(self) -> tuple[ViewShown, ...]:
        """Return the collector's curated views, each with its query."""
        return self._run(self._session.views())

    def actor(self, actor: str) -> ActorSeen:
        """
        Return when an actor was seen, what it did how often, and its newest entries.

        Raises:
            NotFound: It has done nothing that this token may see.
            IndelibleError: As `search`.
        """
        return self._run(self._session.actor(actor))

    def export(
        self,
        query: Query | str,
        target: Path | str,
        *,
        rationale: str,
        format: str = "jsonl",  # noqa: A002 - what it is called
    ) -> str:
        """
        Write what a query finds into a new file, as the collector makes it for this token.

        The file is the one that the collector says it made, by its SHA-256, which an entry of
        the custody stream names, too. What stands in it is the collector's word; only a file
        of the format ``evidence`` can be verified by itself.

        Args:
            format: ``jsonl``, ``csv``, ``ocsf``, ``ecs``, ``parquet`` or ``evidence``.
            rationale: Why, in words; kept with the export.

        Returns:
            The SHA-256.

        Raises:
            CallerError: There is no such format, or there is a file already.
            Damaged: The file is not the one that was made.
            IndelibleError: As `search`.
        """
        steps = self._session.export(asked_by(query, {}), format, rationale)
        made = self._run(steps)
        return _checked(made, self._connection.save(_file_of(made), Path(target)), Path(target))

    def feed(
        self, stream: str = "user", *, after: int = -1, wait: float = 30.0, whole: bool = True
    ) -> Iterator[Item]:
        """
        Yield the entries of a stream in the order of its log, without end and without a gap.

        Args:
            after: Index of the last entry that was seen; its successors are yielded.
            wait: Seconds that the collector has each request wait for something new; 0 to
                end where there is nothing more.
            whole: Whether a gap is an error. It is none for a token that is limited to a
                tenant, and sees part of the log only.

        Raises:
            Damaged: An entry was left out.
            IndelibleError: As `search`; go on with ``after`` the last one.
        """
        log = self._run(self._session.newest(stream))
        while True:
            part = self._run(self._session.part(log, after=after, wait=wait, whole=whole))
            yield from part.items
            if not wait and part.after == after:
                return
            after = part.after

    def follow(self, stream: str | None = None, *, poll: float = 1.0) -> Iterator[Item]:
        """
        Yield entries as they are recorded, from now on, in the order of each log.

        Args:
            stream: Of one stream; by default of all that this token sees.
            poll: Seconds between looks at several logs.

        Raises:
            IndelibleError: As `search`.
        """
        after = {
            log: self._session.signed(log).tree.size - 1 if said.checkpoint else -1
            for log, said in self._run(self._session.checkpoints()).items()
            if stream in {None, said.stream}
        }
        if not after:
            raise CallerError(f"stream: found {stream!r}, expected one whose key is trusted")
        wait = poll / len(after)
        while True:
            for log, seen in after.items():
                part = self._run(
                    self._session.part(log, after=seen, wait=max(wait, 1.0), whole=False)
                )
                after[log] = part.after
                yield from part.items

    def checkpoint(self, stream: str = "user") -> bytes:
        """
        Return the signed note over the stream's log as it is now, which was verified.

        Raises:
            UnknownStream: There is none, or its key is not trusted.
            NotFound: Nothing was recorded in it yet.
            IndelibleError: As `search`.
        """
        return self._session.signed(self._run(self._session.newest(stream))).note

    def verifier_key(self, stream: str = "user") -> VerifierKey:
        """
        Return the key that signs the stream's log now, which the trusted one vouches for.

        Raises:
            IndelibleError: As `checkpoint`.
        """
        return self._session.signed(self._run(self._session.newest(stream))).key

    def verify(
        self,
        *,
        checkpoints: Iterable[bytes] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """
        Fetch every log whose key is trusted, and verify every byte, link, node and signature.

        Args:
            checkpoints: Older signed notes that the logs must be consistent with.
            progress: Told how many entries of how many are here.

        Raises:
            Forbidden: This token may not have the entries.
            StoreError: The collector cannot be reached or is busy; try again.
        """
        from indelible.client.mirror import verify  # noqa: PLC0415 - only for this

        return verify(self._session, self._connection, checkpoints=checkpoints, progress=progress)


class AsyncClient(_Client):
    """
    Does what `Client` does without blocking the event loop; `verify` only that one does.

    To be used within one event loop.
    """

    def __init__(self, url: str, token: str | Path | None = None, **settings: Any) -> None:
        super().__init__(url, token, **settings)
        self._connection = AsyncConnection(self._address)
        self._run = self._connection.run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()

    async def search(
        self,
        query: Query | str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        **fields: Any,
    ) -> Page:
        """Return a page of entries; see `Client.search`."""
        return await self._run(
            self._session.page(asked_by(query, fields), limit=limit, cursor=cursor)
        )

    async def iter(self, query: Query | str | None = None, **fields: Any) -> AsyncIterator[Item]:
        """Yield all entries that *query* asks for; see `Client.iter`."""
        asked, cursor, last = asked_by(query, fields), None, None
        while True:
            page = await self._run(
                self._session.page(asked, limit=MAX_LIMIT, cursor=cursor, after=last)
            )
            for item in page.items:
                yield item
            cursor, last = page.cursor, _last(page, last)
            if cursor is None:
                return

    async def get(self, event_id: str) -> Item:
        """Return the entry of the event with this id; see `Client.get`."""
        return await self._run(self._session.get(event_id))

    async def at(self, log: str, index: int) -> Item:
        """Return the entry at *index* of *log*; see `Client.at`."""
        return await self._run(self._session.at(log, index))

    async def prove(self, event_id: str) -> tuple[Item, Proof]:
        """Return an entry, and the proof that its log holds it; see `Client.prove`."""
        item = await self._run(self._session.get(event_id))
        return item, await self._run(self._session.prove(item))

    async def proof_of(self, item: HeldItem) -> Proof:
        """Return the proof that its log holds *item*; see `Client.proof_of`."""
        return await self._run(self._session.prove(item))

    async def history(self, resource: str, *, until: datetime | None = None) -> list[Item]:
        """Return all entries about *resource*, oldest first; see `Client.history`."""
        return [item async for item in self.iter(about(resource, until=until))]

    async def state(self, resource: str, *, at: datetime | None = None) -> State:
        """Return the values of *resource* at a time; see `Client.state`."""
        return fold([item async for item in self.iter(about(resource, at=at))])

    async def facets(
        self,
        query: Query | str | None = None,
        *,
        fields: Sequence[str] = FACETS,
        top: int = 10,
        **filters: Any,
    ) -> dict[str, Facet]:
        """Count the values of *fields* over what matches; see `Client.facets`."""
        return await self._run(self._session.facets(asked_by(query, filters), tuple(fields), top))

    async def views(self) -> tuple[ViewShown, ...]:
        """Return the curated views; see `Client.views`."""
        return await self._run(self._session.views())

    async def actor(self, actor: str) -> ActorSeen:
        """Return what an actor has done; see `Client.actor`."""
        return await self._run(self._session.actor(actor))

    async def export(
        self,
        query: Query | str,
        target: Path | str,
        *,
        rationale: str,
        format: str = "jsonl",  # noqa: A002 - what it is called
    ) -> str:
        """Write what a query finds into a new file; see `Client.export`."""
        made = await self._run(self._session.export(asked_by(query, {}), format, rationale))
        digest = await self._connection.save(_file_of(made), Path(target))
        return _checked(made, digest, Path(target))

    async def feed(
        self, stream: str = "user", *, after: int = -1, wait: float = 30.0, whole: bool = True
    ) -> AsyncIterator[Item]:
        """Yield the entries of a stream in order and without a gap; see `Client.feed`."""
        log = await self._run(self._session.newest(stream))
        while True:
            part = await self._run(self._session.part(log, after=after, wait=wait, whole=whole))
            for item in part.items:
                yield item
            if not wait and part.after == after:
                return
            after = part.after

    async def checkpoint(self, stream: str = "user") -> bytes:
        """Return the verified checkpoint of a stream; see `Client.checkpoint`."""
        return self._session.signed(await self._run(self._session.newest(stream))).note

    async def verifier_key(self, stream: str = "user") -> VerifierKey:
        """Return the key that signs a stream now; see `Client.verifier_key`."""
        return self._session.signed(await self._run(self._session.newest(stream))).key


def _file_of(made: ExportShown) -> Request:
    return Request(path=f"/v1/exports/{quote(made.id, safe='')}/file")


def _checked(made: ExportShown, digest: str, target: Path) -> str:
    if digest != made.sha256:
        target.unlink(missing_ok=True)
        raise Damaged(f"export {made.id}: its file has SHA-256 {digest}, expected {made.sha256}")
    return digest


def _last(page: Page, before: Item | None) -> Item | None:
    return page.items[-1] if page.items else before
