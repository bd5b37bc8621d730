"""Callers: who comes with a request, and whether it may ask for what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware.authentication import (
    AbstractAuthenticationMiddleware,
    AuthenticationResult,
)

from indelible import tokens
from indelible.collector.problems import Refusal
from indelible.errors import Forbidden
from indelible.tokens import AccessToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.collector.state import Collector
    from indelible.rights import Caller, Verb


class Callers(AbstractAuthenticationMiddleware):
    """Names the caller of each request by its bearer token."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        """Return who comes, or nobody where no token was sent."""
        header = connection.headers.get("authorization")
        if header is None:
            return AuthenticationResult(user=None, auth=None)
        collector: Collector = connection.app.state.collector
        caller = await anyio.to_thread.run_sync(identify, collector, header)
        return AuthenticationResult(user=caller, auth=header)


def identify(collector: Collector, header: str) -> Caller:
    """
    Return who comes with this ``Authorization``.

    Raises:
        Refusal: 401, whatever is wrong with it.
    """
    scheme, _, text = header.partition(" ")
    try:
        if scheme.lower() != "bearer":
            raise Forbidden("authorization: expected Bearer")
        token_id, secret = tokens.taken_apart(text)
        with collector.trail.store.read() as view:
            kept = view.fact(tokens.KIND, token_id.encode())
        if kept is None:
            raise Forbidden("access token: is unknown, expired or revoked")
        token = AccessToken.from_bytes(kept)
        token.verify(secret, collector.now())
    except Forbidden as error:
        raise unauthenticated(str(error)) from None
    return token.caller


def unauthenticated(detail: str) -> Refusal:
    """Return the refusal of somebody who is not known."""
    return Refusal(401, "unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


def asks(*verbs: Verb) -> list[Callable[..., None]]:
    """Return the guards of a route that is for whoever may do one of *verbs*."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        caller: Caller | None = connection.scope.get("user")
        if caller is None:
            raise unauthenticated("access token: found none, expected Authorization: Bearer")
        collector: Collector = connection.app.state.collector
        caller.check_may(verbs, collector.trail.policy)

    return [guard]
