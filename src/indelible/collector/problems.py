"""Problems: every error as problem+json (RFC 9457), with the right status and no trace."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from indelible.errors import (
    CallerError,
    Forbidden,
    IndelibleError,
    InvalidCursor,
    InvalidEvent,
    InvalidQuery,
    KeyUnavailable,
    NotApproved,
    NotFound,
    Purged,
    StoreError,
    UnknownStream,
    VerificationError,
    WriteUncertain,
)
from indelible.wire import PROBLEM, Problem

if TYPE_CHECKING:
    from litestar import Request
    from litestar.types import ExceptionHandlersMap

_log = logging.getLogger("indelible")
_RETRY_AFTER = 5


class Refusal(Exception):
    """
    An answer that is a problem.

    Args:
        kind: The last part of the problem's type: ``forked``.
        headers: Further ones of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: tuple[dict[str, Any], ...] = (),
        expected: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = headers or {}
        self.problem = problem(status, kind, detail, errors=errors, expected=expected)


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    errors: tuple[dict[str, Any], ...] = (),
    expected: int | None = None,
) -> Problem:
    """Return the problem of this *kind*."""
    return Problem(
        type=f"/problems/{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=errors,
        expected=expected,
    )


_KINDS: tuple[tuple[type[IndelibleError], int, str], ...] = (
    (Purged, 410, "purged"),
    (NotFound, 404, "not-found"),
    (UnknownStream, 404, "unknown-stream"),
    (Forbidden, 403, "forbidden"),
    (InvalidCursor, 400, "invalid-cursor"),
    (InvalidQuery, 400, "invalid-query"),
    (InvalidEvent, 422, "invalid-event"),
    (NotApproved, 409, "not-approved"),
    (KeyUnavailable, 503, "locked"),
    (CallerError, 400, "invalid-request"),
    (WriteUncertain, 503, "uncertain"),
    (StoreError, 503, "store-away"),
    (VerificationError, 500, "damaged"),
)
"""The first that an error is an instance of says what it becomes."""


def problem_of(error: IndelibleError) -> Problem:
    """Return what an *error* of the core is as a problem."""
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            # What the store says of itself may name hosts and files.
            detail = "store or keys cannot be reached; try again" if status == 503 else str(error)  # noqa: PLR2004
            return problem(status, name, detail)
    return problem(500, "internal", "something is wrong here; it was logged")


def status_of(error: Exception) -> int:
    """Return the status that *error* is answered with."""
    if isinstance(error, Refusal):
        return error.problem.status
    if isinstance(error, IndelibleError):
        return problem_of(error).status
    return error.status_code if isinstance(error, HTTPException) else 500


def answer(found: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Return the response that says *found*."""
    more = (
        {"Retry-After": str(_RETRY_AFTER)} if found.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    )
    return Response(
        msgspec.json.encode(found),
        status_code=found.status,
        media_type=PROBLEM,
        headers={**more, **(headers or {})},
    )


def _refusal(_: Request[Any, Any, Any], error: Refusal) -> Response[bytes]:
    return answer(error.problem, error.headers)


def _core(_: Request[Any, Any, Any], error: IndelibleError) -> Response[bytes]:
    found = problem_of(error)
    if found.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", type(error).__name__, error)
    return answer(found)


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    kind = HTTPStatus(status).phrase.lower().replace(" ", "-")
    errors = tuple(
        {key: str(value) for key, value in each.items() if key in ("key", "message", "source")}
        for each in (error.extra if isinstance(error.extra, list) else ())
        if isinstance(each, dict)
    )
    detail = error.detail if status < HTTPStatus.INTERNAL_SERVER_ERROR else ""
    return answer(problem(status, kind, detail, errors=errors), dict(error.headers or {}))


def _any(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    # Its type alone: a message may hold what must not be kept.
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    return answer(problem(500, "internal", "something is wrong here; it was logged"))


def _too_deep(_: Request[Any, Any, Any], error: RecursionError) -> Response[bytes]:
    _log.warning("%s", error)
    return answer(problem(400, "malformed", "body: is nested too deep"))


HANDLERS: ExceptionHandlersMap = {
    RecursionError: _too_deep,
    Refusal: _refusal,
    IndelibleError: _core,
    HTTPException: _http,
    Exception: _any,
}
