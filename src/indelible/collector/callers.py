"""
Callers: who comes with a request, how often it may, and whether it may ask for what it asks.

::

    Authorization: Bearer …   access token    known for two seconds after it was looked up
                              viewer token    signed here, works while its access token does
                              JWT             of the identity provider, where there is one
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.middleware.authentication import (
    AbstractAuthenticationMiddleware,
    AuthenticationResult,
)

from indelible import tokens
from indelible.collector.identity import IdentityProvider
from indelible.collector.limits import Rate, neighbourhood
from indelible.collector.problems import Refusal
from indelible.collector.refusals import Refusals, Refused, refused_status
from indelible.errors import CallerError, Forbidden, IndelibleError, KeyUnavailable
from indelible.rights import Verb
from indelible.tokens import AccessToken, ViewerToken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litestar import Litestar
    from litestar.types import ASGIApp, Receive, Scope, Send

    from indelible.collector.state import Collector
    from indelible.rights import Caller
    from indelible.store import Store

KNOWN_FOR = 2.0
"""Seconds after which a token is looked up again; so a revocation holds within that."""

IN_TURN = 4
"""Requests of one caller that are worked on at a time, besides what it records; more wait."""

MOST_IN_LINE = 128
"""Requests of one caller that are worked on or wait."""

_SAVED_UP = 2
_STRANGERS = 0.1
"""How often somebody who is not known may come, of how often a caller may."""

_LOOK = 5.0
_PAUSE = 1.0
_PATIENCE = 30.0
_log = logging.getLogger("indelible")


class KnownTokens:
    """
    Access tokens as *store* had them at most two seconds ago.

    Ids that it does not have are remembered as well, and apart, so that guessing neither
    costs queries nor makes what is known forgotten.

    Args:
        clock: Seconds, of a clock that is never set back.
        most: How many of each kind are remembered.
    """

    def __init__(self, store: Store, clock: Callable[[], float], *, most: int = 10_000) -> None:
        self._store, self._clock, self._most = store, clock, most
        self._lock = threading.Lock()
        self._found: dict[str, tuple[AccessToken, float]] = {}
        self._missing: dict[str, float] = {}

    def has_met(self, token_id: str) -> bool:
        """Tell whether it was looked up before: if it is one, ever; if not, just now."""
        with self._lock:
            return token_id in self._found or self._is_missing(token_id)

    def find(self, token_id: str) -> AccessToken | None:
        """Return the access token with this id; None where there is none."""
        now = self._clock()
        with self._lock:
            token, read_at = self._found.get(token_id, (None, -math.inf))
            if token is not None and now < read_at + KNOWN_FOR:
                return token
            if self._is_missing(token_id):
                return None
        with self._store.read() as view:
            kept = view.fact(tokens.KIND, token_id.encode())
        token = None if kept is None else AccessToken.from_bytes(kept)
        with self._lock:
            self._found.pop(token_id, None)
            self._missing.pop(token_id, None)
            if token is None:
                self._missing[token_id] = now
            else:
                self._found[token_id] = token, now
            for known in (self._found, self._missing):
                if len(known) > self._most:
                    # What was looked up before all others is looked up again, if need be.
                    del known[next(iter(known))]
        return token

    def _is_missing(self, token_id: str) -> bool:
        return self._clock() < self._missing.get(token_id, -math.inf) + KNOWN_FOR


class Gate:
    """
    Knows the callers of *collector*, slows them down, and tells the trail whom it turned away.

    What is to be written is written in a thread, so that no request waits for it.

    Args:
        clock: Seconds, of a clock that is never set back.

    Raises:
        CallerError: The settings name an identity provider in part, or no rate.
    """

    def __init__(
        self, collector: Collector, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        requests = collector.settings.requests
        if not requests > 0:
            raise CallerError(f"requests: found {requests}, expected more than 0")
        self._collector = collector
        self._clock = clock
        self._provider = IdentityProvider.of(collector.settings)
        self._known = KnownTokens(collector.trail.store, clock)
        self._callers = Rate(requests, at_once=max(1.0, requests * _SAVED_UP))
        strangers = requests * _STRANGERS
        self._strangers = Rate(strangers, at_once=max(1.0, strangers * _SAVED_UP))
        # Of their own, or whoever knocks without a token would shut out those who have one
        # and come from behind the same address for the first time.
        self._guesses = Rate(requests, at_once=max(1.0, requests * _SAVED_UP))
        self._lines: dict[str, _Line] = {}
        self._refusals = Refusals(collector.trail)
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # ---- Who comes ----

    def identify(self, header: str, address: str) -> Caller:
        """
        Return who comes with this ``Authorization`` from this address; may ask the store.

        Raises:
            Refusal: 401 whatever is wrong with it, 429 where that is so too often.
        """
        try:
            return self._identify(header, address)
        except Forbidden as error:
            self.meet_stranger(address)
            raise unauthenticated(str(error)) from None

    def _identify(self, header: str, address: str) -> Caller:
        scheme, _, text = header.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer":
            raise Forbidden("authorization: expected Bearer")
        if tokens.is_viewer_token(text):
            return self._viewer(text)
        if tokens.is_access_token(text):
            return self._holder(text, address)
        if self._provider is not None:
            return self._provider.identify(text, self._collector.trail.policy)
        raise Forbidden(tokens.UNKNOWN)

    def _holder(self, text: str, address: str) -> Caller:
        token_id, secret = tokens.taken_apart(text)
        if not self._known.has_met(token_id):
            # Whoever has guessed too often already is not worth a query.
            _check_pace(self._guesses.wait(address, self._clock()))
        token = self._known.find(token_id)
        if token is None:
            self._guesses.take(address, self._clock())
            raise Forbidden(tokens.UNKNOWN)
        now = self._collector.now()
        token.verify(secret, now)
        if token.is_used_anew(now):
            with self._lock:
                self._used[token_id] = now
        return token.caller

    def _viewer(self, text: str) -> Caller:
        now = self._collector.now()
        viewer = ViewerToken.from_text(text, secret=self.viewer_secret(), now=now)
        if (issuer := self.access_token(viewer.issuer)) is None or not issuer.works(now):
            raise Forbidden(tokens.UNKNOWN)
        return viewer.caller

    def viewer_secret(self) -> bytes:
        """
        Return what viewer tokens are signed with.

        Raises:
            Refusal: 503: the vault is locked. Why, and where its key should lie, is for whoever
                operates the collector.
        """
        try:
            return self._collector.trail.vault.keyring.secret(tokens.VIEWER_SECRET)
        except KeyUnavailable as error:
            _log.error("viewer tokens: %s", error)
            raise Refusal(503, "locked", "viewer tokens cannot be checked now") from None

    def access_token(self, token_id: str) -> AccessToken | None:
        """Return the access token with this id, as it was at most two seconds ago."""
        return self._known.find(token_id)

    # ---- How often ----

    def meet(self, caller: Caller) -> None:
        """
        Count a request of *caller*.

        Raises:
            Refusal: 429: it comes too often.
        """
        _check_pace(self._callers.take(caller.id, self._clock()))

    def meet_stranger(self, address: str) -> None:
        """
        Count a request of somebody who is not known.

        Raises:
            Refusal: 429: such requests come from there too often.
        """
        _check_pace(self._strangers.take(address, self._clock()))

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """
        Wait until no more than `IN_TURN` requests of *caller* are worked on, holding no thread.

        So that who asks for much at once waits for itself, and nobody else for it.

        Raises:
            Refusal: 429: too many wait already.
        """
        line = self._lines.setdefault(caller.id, _Line())
        if line.length >= MOST_IN_LINE:
            _check_pace(1.0)
        line.length += 1
        try:
            async with line.turns:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[caller.id]

    # ---- Who was turned away ----

    async def after_exception(self, error: Exception, scope: Scope) -> None:
        """Count *error* if it refuses access."""
        caller: Caller | None = scope.get("user")
        status = refused_status(error, caller)
        handler: BaseRouteHandler | None = scope.get("route_handler")
        if status is None or handler is None:
            return
        refused = Refused(
            caller=None if caller is None else caller.id,
            role=None if caller is None else caller.role,
            address=None if caller is not None else address_of(scope),
            route=f"{scope.get('method', '')} {scope.get('path_template', '')}",
            verb=" or ".join(verbs_of(handler)),
            status=status,
        )
        if self._refusals.add(refused, self._collector.now()):
            self._wake.set()

    # ---- What is written ----

    @asynccontextmanager
    async def running(self, _: Litestar) -> AsyncIterator[None]:
        """Write what has to be written while the application runs, and the rest at its end."""
        self._thread = threading.Thread(target=self._run, name="indelible-gate", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._wake.set()
            await anyio.to_thread.run_sync(self._thread.join, _PATIENCE)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_LOOK)
            self._wake.clear()
            self.write()
            # Whoever knocks at a hundred doors at once makes one write of it.
            self._stopping.wait(_PAUSE)
        self.write(final=True)

    def write(self, *, final: bool = False) -> None:
        """Write which tokens were used, and what was refused, as far as that is due."""
        with self._lock:
            used, self._used = self._used, {}
        try:
            if used:
                tokens.mark_used(self._collector.trail.store, used)
            self._refusals.write(self._collector.now(), final=final)
        except IndelibleError as error:
            _log.warning("refused access and used tokens are written later: %s", error)
        except Exception as error:  # noqa: BLE001 - or nothing would be written any more
            _log.warning("refused access is written later: %s", type(error).__name__)


class _Line:
    """Requests of one caller, of which some are worked on."""

    def __init__(self) -> None:
        self.length = 0
        self.turns = anyio.Semaphore(IN_TURN)


def _check_pace(wait: float) -> None:
    if wait > 0:
        raise Refusal(
            429,
            "too-many-requests",
            "too many requests; try again later",
            headers={"Retry-After": str(math.ceil(wait))},
        )


class Callers(AbstractAuthenticationMiddleware):
    """Names the caller of each request to *gate*."""

    def __init__(self, app: ASGIApp, *, gate: Gate, exclude_from_auth_key: str) -> None:
        super().__init__(app, exclude_from_auth_key=exclude_from_auth_key)
        self._gate = gate

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        """Return who comes, or nobody where no token was sent."""
        address = address_of(connection.scope)
        header = connection.headers.get("authorization")
        if header is None:
            self._gate.meet_stranger(address)
            return AuthenticationResult(user=None, auth=None)
        caller = await anyio.to_thread.run_sync(self._gate.identify, header, address)
        # Also where it is slowed down it is known who it was.
        connection.scope["user"] = caller
        self._gate.meet(caller)
        return AuthenticationResult(user=caller, auth=header)


class Turns(ASGIMiddleware):
    """Has the requests of a caller take turns; what is recorded, and whoever waits, does not."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let the request pass when it is its turn."""
        caller: Caller | None = scope.get("user")
        handler = scope["route_handler"]
        if caller is None or handler.opt.get(UNTURNED) or Verb.RECORD in verbs_of(handler):
            await next_app(scope, receive, send)
            return
        async with self._gate.turn(caller):
            await next_app(scope, receive, send)


UNTURNED = "takes_turns_itself"
"""Marks a route that asks for a turn when it has something to do."""


def verbs_of(handler: BaseRouteHandler) -> list[Verb]:
    """Return what a route asks for."""
    return [verb for guard in handler.guards or () for verb in getattr(guard, "verbs", ())]


def address_of(scope: Scope) -> str:
    """Return where a request comes from, as far as it is told apart."""
    client = scope.get("client")
    return "unknown" if client is None else neighbourhood(client[0])


def unauthenticated(detail: str) -> Refusal:
    """Return the refusal of somebody who is not known."""
    return Refusal(401, "unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


class Asks:
    """The guard of a route that is for whoever may do one of *verbs*."""

    def __init__(self, *verbs: Verb) -> None:
        self.verbs = verbs

    def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """
        Let through who may, and asks for nothing that the route does not know.

        Raises:
            Forbidden: Its role may not.
            Refusal: 401 where nobody is known to have come; 400 for a parameter that is
                unknown: one that is misspelt would else be a condition that does not hold.
        """
        caller: Caller | None = connection.scope.get("user")
        if caller is None:
            raise unauthenticated("access token: found none, expected Authorization: Bearer")
        collector: Collector = connection.app.state.collector
        caller.check_may(self.verbs, collector.trail.policy)
        known = handler.parsed_fn_signature.parameters
        for name in connection.query_params:
            if name not in known:
                raise Refusal(
                    400, "invalid-query", f"parameter: found {name[:60]!r}, which is unknown"
                )


def asks(*verbs: Verb) -> list[Asks]:
    """Return the guards of a route that is for whoever may do one of *verbs*."""
    return [Asks(*verbs)]
