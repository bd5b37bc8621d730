"""
ASGI: begins a `Work` for each request and WebSocket of FastAPI, Starlette, Litestar and the like.

It needs none of them installed, and knows of them only what they put into a scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.context import Work, begun
from indelible.frameworks.web import Proxies, actor_of, context_of, given_actor, given_service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from indelible.context import Context
    from indelible.event import Actor, Service

    # Each framework has types of its own for these, and they exclude each other.
    Scope = Any
    Message = Any
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_WORK = "indelible.work"


class AuditMiddleware:
    """
    Gives every event recorded while *app* answers the context of its request.

    It holds for streamed responses and for background tasks, too. Who acts is looked up
    when an event is recorded, so it does not matter what authenticates the request, or
    where: whoever called `indelible.context.authenticated`, else *actor*, else the user
    that a middleware has put into the scope. Inside another one it does nothing.

    Args:
        app: The ASGI application.
        trusted_proxies: Whose ``X-Forwarded-For`` and ``X-Request-ID`` are believed, see
            `indelible.frameworks.web.Proxies`.
        service: The program that answers, or its name.
        actor: Asked with the scope who acts, instead of looking at ``scope["user"]``.

    Raises:
        CallerError: A trusted proxy is no address.
    """

    def __init__(
        self,
        app: Application,
        *,
        trusted_proxies: Iterable[str] = (),
        service: Service | str | None = None,
        actor: Callable[[Scope], Actor | str | None] | None = None,
    ) -> None:
        self.app = app
        self._proxies = Proxies(trusted_proxies)
        self._service = given_service(service)
        self._actor = actor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have *app* answer, with a `Work` begun."""
        if scope["type"] not in {"http", "websocket"} or _WORK in scope:
            await self.app(scope, receive, send)
            return
        work = Work(self._context(scope), lambda: self._who(scope))
        # The scope itself and no copy: what the application puts there, those around see.
        scope[_WORK] = work
        try:
            with begun(work):
                await self.app(scope, receive, send)
        finally:
            scope.pop(_WORK, None)

    def _context(self, scope: Scope) -> Context:
        def header(name: str) -> list[str]:
            wanted = name.encode("ascii")
            return [
                value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted
            ]

        client = scope.get("client")
        return context_of(
            client[0] if client else None, header, proxies=self._proxies, service=self._service
        )

    def _who(self, scope: Scope) -> Actor | None:
        if self._actor is not None:
            return given_actor(self._actor(scope))
        return actor_of(scope.get("user"))
