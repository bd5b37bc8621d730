"""
Recording: plain events for a collector that keeps and seals them, where no disk is at hand.

It is a recorder like the one that a trail has, and waits for the collector's receipt. What
the policy says of an event is decided there; here is refused what no policy would take.
"""

from __future__ import annotations

import asyncio
import re
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, Self

import msgspec

from indelible.client.connection import Address, Connection
from indelible.client.exchange import Busy, Request, Steps, check, decoded, error_of
from indelible.context import authenticated, context, wrap
from indelible.errors import (
    CallerError,
    InvalidEvent,
    Malformed,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.policy import Policy, Stream
from indelible.recorder import Receipt, Recorder, State
from indelible.seal import seal
from indelible.wire import MAX_BODY, MOST_EVENTS, EventResult, EventResults

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from indelible.event import Event
    from indelible.policy import Ruling

_encode = msgspec.json.Encoder(decimal_format="string").encode

_PAUSES = (0.0, 0.2, 1.0)
"""Seconds before each time that the same events are sent."""

_KEPT = {200: State.COLLECTED, 201: State.COLLECTED, 204: State.NOT_CAPTURED}

_ANY = Policy(streams={"user": Stream()}, rules=())
"""One that takes every event that any policy could take."""


class RemoteRecorder(Recorder):
    """
    Records into the trail of the collector at *url*; `indelible.open` of a URL returns it.

    There is no spool: while the collector cannot be reached, recording raises. What was
    sent without an answer is sent again under the same id first, so that nothing doubles.
    Usable from several threads; a process that forks may go on using it on both sides.

    Args:
        token: An access token of the role ``recorder``, or the file that holds it; by default
            what ``INDELIBLE_TOKEN`` holds.
        ca: File of the certificates that vouch for the collector's own.
        certificate: Files of a client certificate and its key.

    Raises:
        CallerError: The URL, the token or a file is none.
    """

    def __init__(
        self,
        url: str,
        token: str | Path | None = None,
        *,
        ca: Path | str | None = None,
        certificate: tuple[Path | str, Path | str] | Path | str | None = None,
    ) -> None:
        super().__init__(_ANY, _never, _never)
        address = Address(url=url, token=token, ca=ca, certificate=certificate)
        self._connection = Connection(address)
        self.context = context
        self.authenticated = authenticated
        self.wrap = wrap

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what is recorded afterwards raises `TrailClosed`."""
        self._connection.close()

    def record(self, event: Event | str, *, stream: str | None = None, **fields: Any) -> Receipt:
        """
        Record an event; when this returns, the collector has it.

        Raises:
            InvalidEvent: A field is missing or wrong; where that can be told here, nothing
                was sent.
            UnknownStream: A stream is named: the collector's policy alone routes.
            StoreError: The collector did not take it.
            WriteUncertain: It may have taken it.
        """
        whole = self._whole(event, fields)
        self._check(whole, stream)
        (result,) = self._connection.run(_post([_encode(whole)]))
        return _receipt(whole, result)

    async def arecord(
        self, event: Event | str, *, stream: str | None = None, **fields: Any
    ) -> Receipt:
        """
        Do what `record` does in a thread, so that the event loop goes on.

        A task that is cancelled while it waits does not take the event back.

        Raises:
            InvalidEvent, UnknownStream, StoreError, WriteUncertain: As `record`.
        """
        whole = self._whole(event, fields)
        recording = partial(copy_context().run, self.record, whole, stream=stream)
        return await asyncio.get_running_loop().run_in_executor(None, recording)

    def record_many(
        self,
        events: Iterable[Event],
        *,
        stream: str | None = None,
        batch: int = MOST_EVENTS,
        may_lose: bool = True,  # noqa: ARG002 - nothing is ever lost silently here
    ) -> int:
        """
        Record *events* in order, at most *batch* with each request.

        Returns:
            How many the collector has when this returns, without those that its policy
            does not capture.

        Raises:
            InvalidEvent: One is wrong; others of its batch may have been recorded.
            StoreError, WriteUncertain: As `record`; whole batches before it were recorded.
        """
        total = 0
        ahead = iter(events)
        while group := [self._whole(each, {}) for each in islice(ahead, min(batch, MOST_EVENTS))]:
            for each in group:
                self._check(each, stream)
            for part in _parts([_encode(each) for each in group]):
                results = self._connection.run(_post([data for _, data in part]))
                for (place, _), result in zip(part, results, strict=True):
                    total += _receipt(group[place], result).state is State.COLLECTED
        return total

    def _check(self, event: Event, stream: str | None) -> None:
        """Check that some policy could take *event*."""
        self._ruling(event, stream)
        seal(event)

    def _ruling(self, event: Event, stream: str | None) -> Ruling:
        if stream is not None:
            raise UnknownStream(
                f"stream: found {stream!r}, expected none: a collector's policy says where"
                " plain events go"
            )
        return super()._ruling(event, None)


def _never(*_: object) -> NoReturn:
    raise AssertionError("a collector writes, and nothing here")  # pragma: no cover


def _parts(bodies: Sequence[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Yield as many of *bodies*, each with its place, as one request takes."""
    part: list[tuple[int, bytes]] = []
    size = 0
    for place, data in enumerate(bodies):
        if part and size + len(data) > MAX_BODY - _FRAME:
            yield part
            part, size = [], 0
        part.append((place, data))
        size += len(data) + 1
    if part:
        yield part


_FRAME = 64


def _post(events: Sequence[bytes]) -> Steps[tuple[EventResult, ...]]:
    """
    Send *events* until the collector has said what became of each.

    Raises:
        StoreError: It has certainly taken none.
        WriteUncertain: It may have taken them.
    """
    body = b'{"events":[%b]}' % b",".join(events)
    failed: StoreError | WriteUncertain = StoreError("collector: was not asked")
    uncertain = False
    for pause in _PAUSES:
        wait = max(pause, failed.retry_after) if isinstance(failed, Busy) else pause
        request = Request(method="POST", path="/v1/events", body=body, after=wait)
        try:
            (answer,) = yield (request,)
            check(answer, writing=True)
            results = decoded(answer, EventResults).results
        except WriteUncertain as error:
            failed, uncertain = error, True
        except StoreError as error:
            failed = error
        else:
            if len(results) != len(events):
                raise Malformed(f"answer: found {len(results)} results, expected {len(events)}")
            return results
    if uncertain and not isinstance(failed, WriteUncertain):
        raise WriteUncertain(f"{failed}; it may have been taken before") from failed
    raise failed


def _receipt(event: Event, result: EventResult) -> Receipt:
    """
    Return what the collector says of *event*.

    Raises:
        IndelibleError: It did not record it.
        Malformed: It says something else.
    """
    state = _KEPT.get(result.status)
    if state is None:
        raise _refused(event, result)
    if state is State.NOT_CAPTURED:
        return Receipt(
            id="", stream=result.stream or "", log=None, index=None, leaf_hash=None, state=state
        )
    if result.id != event.id or result.index is None:
        raise Malformed(f"answer: found a receipt of {result.id[:40]!r}, expected {event.id!r}")
    try:
        leaf_hash = bytes.fromhex(result.leaf_hash or "")
    except ValueError:
        raise Malformed("answer: found a leaf hash that is not in hex") from None
    return Receipt(
        id=event.id,
        stream=result.stream or "",
        log=result.log,
        index=result.index,
        leaf_hash=leaf_hash,
        state=state,
    )


def _refused(event: Event, result: EventResult) -> Exception:
    problem = result.problem
    detail = f"answered {result.status}" if problem is None else problem.detail or problem.title
    kind = "" if problem is None else problem.type.rpartition("/")[2]
    if kind == "unknown-stream":
        return UnknownStream(detail)
    if result.status == 422:  # noqa: PLR2004 - HTTP
        said = _INVALID.fullmatch(detail)
        return CallerError(detail) if said is None else _invalid(*said.groups())
    if result.status in {409, 410}:
        return InvalidEvent("id", event.id, detail)
    return error_of(result.status, kind, detail, writing=True)


def _invalid(field: str, said: str, expected: str) -> InvalidEvent:
    return InvalidEvent(field, None, expected, said=said)


_INVALID = re.compile(r"([^:]+): found (.*?), expected (.*)", re.DOTALL)
