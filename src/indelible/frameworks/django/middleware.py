"""Begins a `Work` for each request of Django, in threads and in asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from indelible.context import Steps, Work, begun
from indelible.frameworks.django.settings import Settings
from indelible.frameworks.web import Proxies, context_of, given_service, session_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from indelible.context import Context
    from indelible.event import Actor


class AuditMiddleware:
    """
    Gives every event of a request its context.

    Who acts is looked up when an event is recorded: the user whom Django, Django REST
    framework or another authentication has put on the request by then.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        settings = Settings.read()
        self._get_response = get_response
        self._proxies = Proxies(settings.trusted_proxies)
        self._service = given_service(settings.service)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answer *request*, or return the coroutine that does."""
        if self._is_async:
            return self._answer(request)
        with begun(self._work(request)) as work:
            return _within(work, self._get_response(request))

    async def _answer(self, request: Any) -> Any:
        response: Awaitable[Any]
        with begun(self._work(request)) as work:
            response = self._get_response(request)
            return _within(work, await response)

    def _work(self, request: Any) -> Work:
        return Work(self._context(request), _Asked(request))

    def _context(self, request: Any) -> Context:
        meta = request.META

        def header(name: str) -> Sequence[str]:
            value = meta.get(f"HTTP_{name.upper().replace('-', '_')}")
            return () if value is None else (value,)

        context = context_of(
            meta.get("REMOTE_ADDR") or None, header, proxies=self._proxies, service=self._service
        )
        session = getattr(request, "session", None)
        # A session that was made up for this request has no key yet.
        key = None if session is None else session.session_key
        return msgspec.structs.replace(context, session=session_of(key)) if key else context


def _within(work: Work, response: Any) -> Any:
    """Let what a streaming *response* still does be a part of *work*."""
    if not getattr(response, "streaming", False):
        return response
    if getattr(response, "is_async", False):
        response.streaming_content = _async_parts(work, response.streaming_content)
    else:
        response.streaming_content = _parts(work, response.streaming_content)
    return response


def _parts(work: Work, content: Any) -> Any:
    iterator, steps = iter(content), Steps(work)
    while True:
        # Between two parts the thread may do something for another request.
        with steps.step():
            try:
                part = next(iterator)
            except StopIteration:
                return
        yield part


async def _async_parts(work: Work, content: Any) -> Any:
    iterator, steps = aiter(content), Steps(work)
    while True:
        with steps.step():
            try:
                part = await anext(iterator)
            except StopAsyncIteration:
                return
        yield part


class _Asked:
    """Says who makes a request, also after their own row was deleted in it."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._last: Actor | None = None

    def __call__(self) -> Actor | None:
        found = _actor(self._request)
        if found is not None:
            self._last = found
        return self._last


def _actor(request: Any) -> Actor | None:
    from django.core.exceptions import SynchronousOnlyOperation  # noqa: PLC0415

    from indelible.frameworks.django.authentication import actor_of  # noqa: PLC0415

    user = getattr(request, "user", None)
    try:
        return actor_of(user)
    except SynchronousOnlyOperation:
        # In a coroutine the user is not fetched yet; what authenticated it has fetched it.
        return actor_of(
            getattr(request, "_acached_user", None) or getattr(request, "_cached_user", None)
        )
