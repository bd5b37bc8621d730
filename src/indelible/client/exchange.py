"""
Exchange: what is asked of a collector and what it answers, without the network.

What talks to a collector is written once, as a generator of *steps*: it yields requests
and is sent their answers, or thrown the error where there is none. `indelible.client.connection`
runs the steps, blocking or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from indelible.errors import (
    CallerError,
    Damaged,
    Forbidden,
    IndelibleError,
    InvalidCursor,
    InvalidQuery,
    Malformed,
    NotApproved,
    NotFound,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.wire import PROBLEM, Problem

T = TypeVar("T")

MOST = 256 * 1024 * 1024
"""Most bytes of an answer, where nothing smaller is known: a page with large values."""

LONGEST_WAIT = 5.0
"""Most seconds that a collector may have a request wait before it is repeated."""

_SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    One question.

    Attributes:
        most: More bytes than these are no answer to it.
        patience: Seconds that the collector may take longer than usual.
        after: Seconds to wait before it is asked.
    """

    method: str = "GET"
    path: str
    parameters: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    most: int = MOST
    patience: float = 0.0
    after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What came back.

    Attributes:
        retry_after: Seconds that the collector asks to wait.
    """

    status: int
    media_type: str
    body: bytes
    retry_after: float = 0.0


Steps = Generator[Sequence[Request], Sequence[Answer], T]
"""Yields what to ask, is sent the answers in the same order, and returns what came of them."""


class Busy(StoreError):
    """The collector takes nothing now; it says for how many seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = min(max(retry_after, 0.0), LONGEST_WAIT)
        super().__init__(message)


def base_of(url: str) -> str:
    """
    Return *url* in the one form by which a collector is known.

    Raises:
        CallerError: It is not ``https://host[:port][/path]``.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = f"[{ip_address(host)}]" if ":" in host else host
    except ValueError:
        raise _no_url("something else") from None
    if parts.scheme != "https":
        raise _no_url(f"scheme {parts.scheme[:20]!r}")
    if parts.username is not None or parts.password is not None:
        # Not shown: it may be a secret that belongs into the token.
        raise _no_url("a name or password")
    if not host or parts.query or parts.fragment:
        raise _no_url("no host" if not host else "a query or a fragment")
    return f"https://{host}{'' if port in {None, 443} else f':{port}'}{parts.path.rstrip('/')}"


def decoded(answer: Answer, kind: type[T]) -> T:
    """
    Return what *answer* says.

    Raises:
        IndelibleError: As `check` raises.
        Malformed: It is not of this *kind*.
    """
    check(answer)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"answer: {error}") from error


def check(answer: Answer, *, writing: bool = False) -> None:
    """
    Check that *answer* is no problem.

    Args:
        writing: It answers something that was to be kept.

    Raises:
        IndelibleError: It is one: the error that the core has for it.
    """
    if answer.status // 100 == 2:  # noqa: PLR2004 - HTTP
        return
    found = _problem_in(answer)
    detail = found.detail or found.title
    raise error_of(
        answer.status,
        found.type.rpartition("/")[2],
        detail[:_SHOWN],
        retry_after=answer.retry_after,
        writing=writing,
    )


def error_of(
    status: int, kind: str, detail: str, *, retry_after: float = 0.0, writing: bool = False
) -> IndelibleError:
    """Return the error that a problem of this *status* and *kind* stands for."""
    if kind == "damaged":
        return Damaged(f"collector: {detail}")
    if status in _BUSY and kind != _UNCERTAIN:
        return Busy(f"collector: {detail}", retry_after)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # It was taken, perhaps, before what went wrong.
        return (WriteUncertain if writing else StoreError)(f"collector: {status}, {detail}")
    known = _ERRORS.get((status, kind)) or _ERRORS.get((status, ""))
    if known is not None:
        return known(detail)
    # A redirection is none either: a token is for one collector, and does not follow to
    # wherever that one points.
    return CallerError(f"collector: {status}, {detail}")


_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_UNCERTAIN = "uncertain"
_ERRORS: dict[tuple[int, str], type[IndelibleError]] = {
    (400, "invalid-cursor"): InvalidCursor,
    (400, "invalid-query"): InvalidQuery,
    (401, ""): Forbidden,
    (403, ""): Forbidden,
    (404, "unknown-stream"): UnknownStream,
    (404, ""): NotFound,
    (409, "not-approved"): NotApproved,
    (410, ""): NotFound,
}
"""What a problem of this status becomes, of this kind or of any."""


def _problem_in(answer: Answer) -> Problem:
    """Return the problem that *answer* is, or what can be said where it is none."""
    if answer.media_type == PROBLEM:
        try:
            return msgspec.json.decode(answer.body, type=Problem)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    # A proxy's, perhaps: whatever it says is a page for people.
    return Problem(type="", title=f"answered {answer.status}", status=answer.status)


def _no_url(found: str) -> CallerError:
    return CallerError(f"url: found {found}, expected https://host[:port]")
