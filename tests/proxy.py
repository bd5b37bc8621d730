"""A TCP proxy that breaks the network between a client and a server; it never looks into TLS."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

CHUNK = 65_536
TICK = 0.05
"""How often, in seconds, a throttled direction passes on its share."""

SLACK = 64
"""By what handshakes vary: a signature's length, a protocol's name. An answer is longer."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with the network at a moment; nothing, unless told."""

    delay: float = 0
    rate: float = math.inf
    half_open: bool = False
    duplicates: int = 0
    cuts: int = 0
    cut_after: int = 0
    losses: int = 0
    lost_after: int = 0
    lost_beyond: int = 0


class Cut(Exception):
    """A fault ends this connection."""


@dataclass(eq=False, slots=True, kw_only=True)
class Connection:
    """A client's connection, the one to the server, and its twin if it is replayed."""

    client: socket.socket
    server: socket.socket
    twin: socket.socket | None
    swallowed: bool
    to_server: int = 0
    to_client: int = 0
    ended: bool = False

    def close(self) -> None:
        """Give the sockets back; the peers see a reset unless both had ended."""
        for end in (self.client, self.server, self.twin):
            if end is not None:
                if not self.ended:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                end.close()


class Proxy:
    """
    Stand between clients and the server at *target* (IPv4), from its making until `close`.

    A fault takes effect before the call that sets it returns, on the connections of now and of
    later; `heal` takes all of them back. A connection whose server is away is reset.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = (socket.gethostbyname(target[0]), target[1])
        # Bound but never listening: nobody else gets the port while connections are refused.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._place.getsockname()
        self.port = self.address[1]

        self.connections = 0
        self.replays = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._counted = threading.Condition()

        self._listener: socket.socket | None = None
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._faults = Faults()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset all connections, refuse new ones and end the thread."""
        if self._loop.is_closed():
            return
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._place.close()

    # Faults

    def cut(self) -> None:
        """
        Reset both sides of all connections; new ones are welcome.

        Under TLS, Python's `ssl` tells a reset on reading as an end without a goodbye.
        """
        self._call(self._cut(only_swallowed=False))

    def refuse(self) -> None:
        """Refuse new connections; those of now carry on."""
        self._call(self._refuse())

    def accept(self) -> None:
        """Take new connections again, at the same port."""
        self._call(self._accept())

    def delay(self, seconds: float) -> None:
        """Hold each chunk back for so long, each way; 0 takes it back, for those held too."""
        self._set(delay=seconds)

    def throttle(self, bytes_per_second: float) -> None:
        """Pass on no more than this on each connection, each way; `math.inf` takes it back."""
        self._set(rate=bytes_per_second)

    def half_open(self) -> None:
        """
        Be a black hole: take connections and bytes, never answer, never close.

        The server sees neither a new connection nor the end of an old one.
        """
        self._set(half_open=True)

    def heal(self) -> None:
        """
        Take all faults back and take new connections.

        A connection that lost bytes in a black hole is reset: what is gone cannot be sent again.
        """
        self._call(self._heal())

    def lose_answers(self, n: int, *, after: int = 0, beyond: int = 0) -> None:
        """
        Let the next *n* requests reach the server, and reset both ends when it answers.

        No byte of the answer gets through. The proxy cannot read, so an answer is what the server
        sends once, on this connection, the client has sent more than *after* bytes and the server
        more than *beyond*. Without TLS both stay 0. With TLS they are what `handshake` returns: a
        server of TLS 1.3 sends tickets when the request is under way, and they are no answer.
        HTTP/2, whose server speaks unasked, is beyond this.
        """
        self._set(losses=n, lost_after=after, lost_beyond=beyond)

    def cut_requests(self, after: int, n: int) -> None:
        """
        Reset the next *n* connections that send as much, when *after* bytes went to the server.

        The server is sent exactly so many, counted from the connection's beginning. One that is
        already past them, and any if *after* is 0, is reset at the client's next byte.
        """
        self._set(cuts=n, cut_after=after)

    def duplicate(self, n: int) -> None:
        """
        Send what the client sends on the next *n* connections to the server twice.

        The second time is a connection of its own, a step behind, whose answers nobody sees. It
        ends when the client's ends. A server without TLS cannot tell it from another client; with
        TLS it must refuse the replay, as the client's half of a handshake fits no other one.
        """
        self._set(duplicates=n)

    # What was seen

    def wait_for_connection(self, timeout: float, *, count: int = 1) -> None:
        """
        Wait until *count* connections were taken since the proxy was made.

        Raises:
            TimeoutError: There were fewer after *timeout* seconds.
        """
        self._wait(lambda: self.connections, count, "connections", timeout)

    def wait_for_replay(self, timeout: float, *, count: int = 1) -> None:
        """
        Wait until the server has ended *count* replays, whether it answered or refused them.

        Raises:
            TimeoutError: There were fewer after *timeout* seconds.
        """
        self._wait(lambda: self.replays, count, "replays", timeout)

    def handshake(self, context: ssl.SSLContext, name: str = "localhost") -> tuple[int, int]:
        """
        Shake hands with the server through the idle proxy; return what `lose_answers` must let by.

        The bytes of the client and of the server, tickets included. A client that resumes a
        session needs fewer, so it must not.
        """
        before = (self.bytes_to_server, self.bytes_to_client)
        with (
            socket.create_connection(self.address, PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            # Ends the client's side without a word, and reads the tickets as the bytes they are.
            secured.shutdown(socket.SHUT_WR)
            while secured.recv(CHUNK):
                pass
        return (
            self.bytes_to_server - before[0] + SLACK,
            self.bytes_to_client - before[1] + SLACK,
        )

    def _wait(self, number: Callable[[], int], count: int, what: str, timeout: float) -> None:
        with self._counted:
            if not self._counted.wait_for(lambda: number() >= count, timeout):
                raise TimeoutError(f"{number()} {what} after {timeout} s, not {count}")

    def _set(self, **changes: Any) -> None:
        self._call(self._change(**changes))

    def _call(self, step: Coroutine[Any, Any, None]) -> None:
        """Run *step* in the proxy's own thread, where all below runs, and wait for its end."""
        asyncio.run_coroutine_threadsafe(step, self._loop).result(PATIENCE)

    async def _change(self, **changes: Any) -> None:
        self._take()
        self._faults = replace(self._faults, **changes)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(self.address)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._take)

    async def _refuse(self) -> None:
        self._take()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _cut(self, *, only_swallowed: bool) -> None:
        self._take()
        doomed = [
            task
            for task, connection in self._open.items()
            if connection.swallowed or not only_swallowed
        ]
        for task in doomed:
            task.cancel()
        if doomed:
            await asyncio.wait(doomed)

    async def _heal(self) -> None:
        await self._change(**asdict(Faults()))
        await self._cut(only_swallowed=True)
        await self._accept()

    def _take(self) -> None:
        """Take every connection that clients believe they have."""
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        faults = self._faults
        twin = None
        if faults.duplicates and not faults.half_open:
            self._faults = replace(faults, duplicates=faults.duplicates - 1)
            twin = socket.socket()
        connection = Connection(
            client=client, server=socket.socket(), twin=twin, swallowed=faults.half_open
        )
        for end in (client, connection.server, twin):
            if end is not None:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._carry(connection))
        self._open[task] = connection
        # Not within the task: one that is cancelled before its first step never runs.
        task.add_done_callback(lambda task: self._open.pop(task).close())
        with self._counted:
            self.connections += 1
            self._counted.notify_all()

    async def _carry(self, connection: Connection) -> None:
        try:
            if not connection.swallowed:
                await self._loop.sock_connect(connection.server, self._target)
            if connection.twin is not None:
                await self._loop.sock_connect(connection.twin, self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry_requests(connection))
                if not connection.swallowed:
                    group.create_task(self._carry_answers(connection))
                if connection.twin is not None:
                    group.create_task(self._end_replay(connection.twin))
        except* (OSError, Cut):
            pass
        else:
            connection.ended = True

    async def _carry_requests(self, connection: Connection) -> None:
        while chunk := await self._next(connection, connection.client):
            faults = self._faults
            room = faults.cut_after - connection.to_server
            cut = faults.cuts > 0 and len(chunk) >= room
            if cut:
                self._faults = replace(faults, cuts=faults.cuts - 1)
                chunk = chunk[: max(0, room)]
            connection.to_server += len(chunk)
            self.bytes_to_server += len(chunk)
            await self._send(connection, chunk, connection.server)
            if connection.twin is not None:
                with suppress(OSError):  # refused, which is no matter of the client's
                    await self._send(connection, chunk, connection.twin)
            if cut:
                raise Cut
        connection.server.shutdown(socket.SHUT_WR)
        if connection.twin is not None:
            with suppress(OSError):
                connection.twin.shutdown(socket.SHUT_WR)

    async def _carry_answers(self, connection: Connection) -> None:
        while chunk := await self._next(connection, connection.server):
            faults = self._faults
            room = faults.lost_beyond - connection.to_client
            asked = connection.to_server > faults.lost_after
            if faults.losses and asked and len(chunk) > room:
                self._faults = replace(faults, losses=faults.losses - 1)
                raise Cut
            connection.to_client += len(chunk)
            self.bytes_to_client += len(chunk)
            await self._send(connection, chunk, connection.client)
        connection.client.shutdown(socket.SHUT_WR)

    async def _end_replay(self, twin: socket.socket) -> None:
        with suppress(OSError):
            while await self._loop.sock_recv(twin, CHUNK):
                pass
        with self._counted:
            self.replays += 1
            self._counted.notify_all()

    async def _next(self, connection: Connection, source: socket.socket) -> bytes:
        """Return what *source* sent and no black hole swallowed; nothing once it has ended."""
        while True:
            chunk = await self._loop.sock_recv(source, CHUNK)
            await self._hold(lambda: self._faults.delay)
            if not self._swallows(connection):
                return chunk
            if not chunk:
                await self._loop.create_future()  # until it is cut

    async def _send(self, connection: Connection, chunk: bytes, sink: socket.socket) -> None:
        """Pass *chunk* on, no faster than the throttle allows."""
        while chunk:
            size = int(min(len(chunk), max(1, self._faults.rate * TICK)))
            await self._hold(partial(self._time_of, size))
            if self._swallows(connection):
                return
            await self._loop.sock_sendall(sink, chunk[:size])
            chunk = chunk[size:]

    def _swallows(self, connection: Connection) -> bool:
        """Return whether a black hole has the connection; it never gives it back."""
        connection.swallowed |= self._faults.half_open
        return connection.swallowed

    def _time_of(self, size: int) -> float:
        return size / self._faults.rate

    async def _hold(self, seconds: Callable[[], float]) -> None:
        """Wait for so long, or for as long as a fault that changes meanwhile still asks for."""
        since = self._loop.time()
        while (left := since + seconds() - self._loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
