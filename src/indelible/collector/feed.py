"""
Feed: a log in its order and without a gap, for whoever follows it.

An answer comes as soon as there are entries. Who waits holds no thread: one bell rings for
all who wait, with each commit of this process, and when it finds that another has written.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from indelible.collector.callers import UNTURNED, Gate
from indelible.collector.problems import Refusal
from indelible.collector.reading import READ, READS, item_of
from indelible.query import MAX_LIMIT
from indelible.reader import Reader
from indelible.rights import Caller
from indelible.wire import FeedPage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from types import FrameType

    from litestar import Litestar

    from indelible.reader import Portion
    from indelible.store import Head
    from indelible.trail import Trail

MOST_WAIT = 60
"""Seconds for which an answer may be waited for."""

MOST_WAITING = 64
"""Requests of one caller that may wait at a time: what waits takes a place from others."""

LOOK = 0.2
"""Seconds between looks at what other processes have written, while anybody waits."""


class Bell:
    """
    Rings in this event loop when a log of *trail* has grown.

    Attributes:
        sizes: Of each log, as far as it was heard of.
    """

    def __init__(self, trail: Trail) -> None:
        self.sizes: dict[str, int] = {}
        self._trail = trail
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._looked_at = -LOOK
        self._waiting: Counter[str] = Counter()
        self._end: Callable[[], None] = trail.listen(self._hear)

    async def wait(self, log: str, size: int, seconds: float) -> bool:
        """Return whether *log* has become larger than *size* within so many *seconds*."""
        until = self._loop.time() + seconds
        while self.sizes.get(log, 0) <= size:
            rung, left = self._rung, until - self._loop.time()
            if left <= 0 or self._stopped:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK)):
                    await rung.wait()
            # One looks for all.
            if self._loop.time() - self._looked_at >= LOOK:
                self._looked_at = self._loop.time()
                self._ring(await anyio.to_thread.run_sync(self._look))
        return True

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """
        Count a request of *caller* that may wait inside the block.

        Raises:
            Refusal: 429: too many of its requests wait.
        """
        if self._waiting[caller.id] >= MOST_WAITING:
            raise Refusal(
                429,
                "too-many-requests",
                f"feed: {MOST_WAITING} requests of this caller wait already",
                headers={"Retry-After": "5"},
            )
        self._waiting[caller.id] += 1
        try:
            yield
        finally:
            self._waiting[caller.id] -= 1
            self._waiting += Counter()  # forgets who has none

    def stop(self) -> None:
        """Let nobody wait any longer; to be called from any thread, or by a signal."""
        self._end()
        with suppress(RuntimeError):  # the loop was closed, so nobody waits
            self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._stopped = True
        self._rung.set()

    def _look(self) -> dict[str, int]:
        with self._trail.store.read() as view:
            return _sizes(view.heads())

    def _hear(self, heads: Mapping[str, Head]) -> None:
        """Take note of a commit, in the writer's thread."""
        try:
            self._loop.call_soon_threadsafe(self._ring, _sizes(heads))
        except RuntimeError:  # the loop was closed, so nobody waits any more
            self._end()

    def _ring(self, sizes: dict[str, int]) -> None:
        grown = {log: size for log, size in sizes.items() if size > self.sizes.get(log, -1)}
        if grown:
            self.sizes.update(grown)
            self._rung.set()
            self._rung = asyncio.Event()


def _sizes(heads: Mapping[str, Head]) -> dict[str, int]:
    return {log: head.size for log, head in heads.items()}


@asynccontextmanager
async def waiting(app: Litestar) -> AsyncIterator[None]:
    """Have a bell while the application runs, and let nobody wait when it is told to stop."""
    bell = app.state.bell = Bell(app.state.collector.trail)
    try:
        with _when_told_to_stop(bell.stop):
            yield
    finally:
        bell.stop()


@contextmanager
def _when_told_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """
    Call *stop* as well when this process gets SIGTERM.

    A server ends when the last request has been answered, and whoever waits would hold it up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def told(number: int, frame: FrameType | None) -> None:
        stop()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, told)
    signal.siginterrupt(signal.SIGTERM, False)  # noqa: FBT003 - takes nothing by name
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bell(request: Request[Any, Any, Any]) -> Bell:
    bell: Bell = request.app.state.bell
    return bell


@get(
    "/v1/feed/{stream:str}",
    guards=READ,
    dependencies=READS,
    opt={UNTURNED: True},
    tags=["reading"],
)
async def feed(
    *,
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    caller: NamedDependency[Caller],
    gate: NamedDependency[Gate],
    stream: Annotated[str, PathParameter(description="A stream, or the name of its log.")],
    after: Annotated[
        int,
        QueryParameter(ge=-1, description="Index of the last entry that is known; -1 for none."),
    ] = -1,
    wait: Annotated[
        float,
        QueryParameter(ge=0, le=MOST_WAIT, description="Seconds to wait where nothing is new."),
    ] = 0,
    limit: Annotated[
        int, QueryParameter(ge=1, le=MAX_LIMIT, description="Most entries.")
    ] = MAX_LIMIT,
) -> FeedPage:
    """
    Answer the entries of a log that follow one, in its order and without a gap.

    Entries that the caller does not see are left out, and `after` is behind them. Where the
    first entries of a log were purged, it begins with the one at `first`.
    """
    look = partial(_in_turn, gate, caller, reader, stream, limit)
    with _bell(request).place(caller) if wait else nullcontext():
        portion = await _awaited(_bell(request), look, after=after, wait=wait)
    return FeedPage(
        items=tuple(map(item_of, portion.items)),
        after=portion.after,
        size=portion.head.size,
        first=portion.head.first,
        checkpoint=portion.head.checkpoint.decode(),
        successor=portion.successor,
    )


async def _awaited(
    bell: Bell, look: Callable[[int], Awaitable[Portion]], *, after: int, wait: float
) -> Portion:
    """Return what follows, once something does or the time is up."""
    until = asyncio.get_running_loop().time() + wait
    while True:
        portion = await look(after)
        left = until - asyncio.get_running_loop().time()
        if portion.items or portion.after + 1 < portion.head.size or left <= 0:
            break
        after = portion.after
        if not await bell.wait(portion.head.log, portion.head.size, left):
            break
    return portion


async def _in_turn(  # noqa: PLR0917 - who looks, and where
    gate: Gate, caller: Caller, reader: Reader, log: str, limit: int, after: int
) -> Portion:
    # Whoever waits takes turns as well, whenever there is something to be read.
    async with gate.turn(caller):
        return await anyio.to_thread.run_sync(_portion, reader, log, after, limit)


def _portion(reader: Reader, log: str, after: int, limit: int) -> Portion:
    return reader.feed(log, after=after, limit=limit)


ROUTES: list[Any] = [feed]
