"""
Connection: asks a collector over TLS, blocking or not; the one part that touches the network.

Steps say what is asked (`indelible.client.exchange`); what an answer means is theirs, too.
"""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from indelible.client.exchange import Answer, base_of, check
from indelible.errors import (
    CallerError,
    IndelibleError,
    Malformed,
    StoreError,
    TrailClosed,
    WriteUncertain,
)
from indelible.wire import CASE_HEADER, PURPOSE_HEADER

if TYPE_CHECKING:
    import httpx2

    from indelible.client.exchange import Request, Steps

T = TypeVar("T")

ENVIRONMENT = "INDELIBLE_TOKEN"
"""Holds the access token where none is given."""

_CONNECT = 5.0
_READ = 30.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Address:
    """
    Where a collector is, who comes, and whom it is to be.

    Attributes:
        url: ``https://host[:port]``.
        token: The access token; or the file that holds it, which is read each time, so that
            it may be replaced. By default what ``INDELIBLE_TOKEN`` holds.
        ca: File of the certificates that vouch for the collector's; by default the system's.
        certificate: Files of the client's certificate and its key, or one of both.
        case, purpose: Of a reader, see `indelible.access.Viewer`.
    """

    url: str
    token: str | Path | None = None
    ca: Path | str | None = None
    certificate: tuple[Path | str, Path | str] | Path | str | None = None
    case: str | None = None
    purpose: str | None = None

    def settings(self) -> dict[str, Any]:
        """
        Return what an HTTP client is made with.

        Raises:
            CallerError: The client is not installed, or a file or the token is no such.
        """
        if find_spec("httpx2") is None:
            raise CallerError(
                "a collector is reached with httpx2, which is not installed:"
                " pip install 'indelible[client]'"
            )
        import httpx2  # noqa: PLC0415 - only who reaches a collector needs it

        self.authorization()
        return {
            "base_url": base_of(self.url),
            "headers": self._headers(),
            "verify": self._tls(),
            "timeout": httpx2.Timeout(_READ, connect=_CONNECT),
            "follow_redirects": False,
        }

    def authorization(self) -> str:
        """
        Return the header that says who comes.

        Raises:
            CallerError: There is no access token.
        """
        token = os.environ.get(ENVIRONMENT) if self.token is None else self.token
        where = f"token: found none, and {ENVIRONMENT} holds none"
        if isinstance(token, Path):
            where = f"token: {token} holds none"
            try:
                token = token.read_text("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                what = getattr(error, "strerror", None) or "is not text"
                raise CallerError(f"token: {token}: {what}") from None
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise CallerError(where if not token else "token: found none as it was issued")
        return f"Bearer {token}"

    def _headers(self) -> dict[str, str | bytes]:
        headers: dict[str, str | bytes] = {"User-Agent": "indelible"}
        for name, value in ((CASE_HEADER, self.case), (PURPOSE_HEADER, self.purpose)):
            if value is not None:
                if not value.isprintable():
                    raise CallerError(
                        f"{name}: found a character that is not seen, expected plain text"
                    )
                headers[name] = value.encode()
        return headers

    def _tls(self) -> ssl.SSLContext:
        what = "ca"
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            what = "certificate"
            if isinstance(self.certificate, tuple):
                context.load_cert_chain(*self.certificate)
            elif self.certificate is not None:
                context.load_cert_chain(self.certificate)
        except (OSError, ssl.SSLError) as error:
            raise CallerError(f"{what}: cannot be read ({error.strerror or error})") from None
        return context


class Connection:
    """
    Asks, and waits for the answer.

    Usable from several threads. A process that forks may go on using it on both sides.
    """

    def __init__(self, address: Address) -> None:
        self._address, self._settings = address, address.settings()
        self._process = os.getpid()
        self._client = self._new()

    def run(self, steps: Steps[T]) -> T:
        """
        Return what *steps* come to.

        Raises:
            IndelibleError: What they raise.
        """
        try:
            asked = next(steps)
            while True:
                try:
                    answers = [self._ask(each) for each in asked]
                except IndelibleError as error:
                    asked = steps.throw(error)
                else:
                    asked = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # of a generator that returns T

    def save(self, request: Request, target: Path) -> str:
        """
        Write what is answered to *request* into a new file at *target*.

        Returns:
            SHA-256 of it, in hex.

        Raises:
            CallerError: There is a file already, or it cannot be written.
            IndelibleError: As `indelible.client.exchange.check` raises.
        """
        import httpx2  # noqa: PLC0415 - as above

        try:
            with self._current().stream(**_arguments(request, self._address)) as response:
                if response.is_error:
                    body = _Body(request)
                    for part in response.iter_bytes():
                        body.add(part)
                    check(_answer(response, body))
                with _File(target) as file:
                    for part in response.iter_bytes():
                        file.add(part)
                return file.digest
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _lost(request, error) from error

    def close(self) -> None:
        """End it; what is asked afterwards raises `TrailClosed`."""
        self._client.close()

    def _ask(self, request: Request) -> Answer:
        import httpx2  # noqa: PLC0415 - as above

        if request.after:
            time.sleep(request.after)
        try:
            with self._current().stream(**_arguments(request, self._address)) as response:
                body = _Body(request)
                for part in response.iter_bytes():
                    body.add(part)
                return _answer(response, body)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _lost(request, error) from error

    def _current(self) -> httpx2.Client:
        _check_open(self._client)
        if self._process != os.getpid():
            # What was forked shares its sockets with its parent, and must not use them.
            self._client, self._process = self._new(), os.getpid()
        return self._client

    def _new(self) -> httpx2.Client:
        import httpx2  # noqa: PLC0415 - as above

        return httpx2.Client(**self._settings)


class AsyncConnection:
    """Asks without blocking the event loop, within which it was first used."""

    def __init__(self, address: Address) -> None:
        self._address, settings = address, address.settings()
        import httpx2  # noqa: PLC0415 - as above

        self._client = httpx2.AsyncClient(**settings)

    async def run(self, steps: Steps[T]) -> T:
        """
        Return what *steps* come to.

        Raises:
            IndelibleError: What they raise.
        """
        import asyncio  # noqa: PLC0415 - only who waits in a loop

        try:
            asked = next(steps)
            while True:
                try:
                    answers = await asyncio.gather(*map(self._ask, asked))
                except IndelibleError as error:
                    asked = steps.throw(error)
                else:
                    asked = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # of a generator that returns T

    async def save(self, request: Request, target: Path) -> str:
        """
        Do what `Connection.save` does.

        Raises:
            IndelibleError: As there.
        """
        import httpx2  # noqa: PLC0415 - as above

        _check_open(self._client)
        try:
            async with self._client.stream(**_arguments(request, self._address)) as response:
                if response.is_error:
                    body = _Body(request)
                    async for part in response.aiter_bytes():
                        body.add(part)
                    check(_answer(response, body))
                with _File(target) as file:
                    async for part in response.aiter_bytes():
                        file.add(part)
                return file.digest
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _lost(request, error) from error

    async def close(self) -> None:
        """End it; what is asked afterwards raises `TrailClosed`."""
        await self._client.aclose()

    async def _ask(self, request: Request) -> Answer:
        import asyncio  # noqa: PLC0415 - as above

        import httpx2  # noqa: PLC0415 - as above

        try:
            if request.after:
                await asyncio.sleep(request.after)
            _check_open(self._client)
            async with self._client.stream(**_arguments(request, self._address)) as response:
                body = _Body(request)
                async for part in response.aiter_bytes():
                    body.add(part)
                return _answer(response, body)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise _lost(request, error) from error


def _check_open(client: httpx2.Client | httpx2.AsyncClient) -> None:
    if client.is_closed:
        raise TrailClosed("collector: the connection was closed; open it again")


def _arguments(request: Request, address: Address) -> dict[str, Any]:
    import httpx2  # noqa: PLC0415 - as above

    headers = {"Authorization": address.authorization()}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    return {
        "method": request.method,
        # Joined to the base as it is: what is escaped in it stays so.
        "url": request.path,
        "params": request.parameters or None,
        "content": request.body,
        "headers": headers,
        "timeout": httpx2.Timeout(_READ + request.patience, connect=_CONNECT),
    }


def _answer(response: httpx2.Response, body: _Body) -> Answer:
    retry_after = response.headers.get("retry-after", "")
    return Answer(
        status=response.status_code,
        media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        body=body.whole(),
        # The other form is a date: then as long as ours say by default.
        retry_after=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0,
    )


class _Body:
    """What is received of an answer, up to what an answer may have."""

    def __init__(self, request: Request) -> None:
        self._request, self._parts, self._size = request, list[bytes](), 0

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._request.most:
            raise Malformed(
                f"{self._request.path}: found more than {self._request.most} bytes of an answer"
            )

    def whole(self) -> bytes:
        return b"".join(self._parts)


class _File:
    """A new file that is there whole or not at all."""

    def __init__(self, target: Path) -> None:
        self._target, self._hash = target, sha256()

    def __enter__(self) -> Self:
        try:
            self._file = self._target.open("xb")
        except OSError as error:
            raise CallerError(f"{self._target}: {error.strerror}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is not None:
            self._target.unlink(missing_ok=True)

    def add(self, part: bytes) -> None:
        self._hash.update(part)
        try:
            self._file.write(part)
        except OSError as error:
            raise StoreError(f"{self._target}: {error.strerror}") from error

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _lost(request: Request, error: Exception) -> IndelibleError:
    """Return what it means that there is no answer to *request*."""
    import httpx2  # noqa: PLC0415 - as above

    why = str(error)
    what = f"collector: no answer ({type(error).__name__}{why and f': {why}'})"
    unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
    if request.method == "GET" or isinstance(error, unsent):
        return StoreError(what)
    return WriteUncertain(what)
