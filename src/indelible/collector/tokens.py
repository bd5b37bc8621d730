"""Tokens: access tokens issued, shown, rotated and revoked, and short ones for viewers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from indelible import tokens
from indelible.collector.callers import Gate, asks
from indelible.collector.state import Collector
from indelible.entry import time_to_text
from indelible.errors import CallerError, Forbidden, NotFound
from indelible.rights import Caller, Verb
from indelible.tokens import AccessToken, ViewerToken
from indelible.wire import (
    Problem,
    TokenRequest,
    TokenRotation,
    TokenShown,
    ViewerTokenRequest,
    ViewerTokenShown,
)

if TYPE_CHECKING:
    from indelible.trail import Trail

_UNSEEN = {"Cache-Control": "no-store"}
"""Whoever passes an answer with a secret on does not keep it."""

_MAY_NOT = {403: ResponseSpec(Problem, description="Not a role, or not limits, to be given away")}


@get("/v1/tokens", guards=asks(Verb.CONFIGURE), sync_to_thread=True)
def show_all(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[TokenShown]:
    """List the access tokens that there ever were, the oldest first; never their secrets."""
    with collector.trail.store.read() as view:
        return [TokenShown.of(token) for token in tokens.everything(view) if _sees(caller, token)]


@post("/v1/tokens", guards=asks(Verb.CONFIGURE), sync_to_thread=True, responses=_MAY_NOT)
def issue(
    data: JSONBody[TokenRequest],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> Response[TokenShown]:
    """Issue an access token; its secret is in the answer, and nowhere else ever."""
    policy = collector.trail.policy
    caller.check_may_issue(data.role, policy, streams=data.streams, tenant=data.tenant)
    now = collector.now()
    token, secret = tokens.issue(
        name=data.name,
        role=data.role,
        created_by=caller.id,
        now=now,
        lasts=tokens.lasting(data.expires_in, now, "expires_in"),
        streams=data.streams,
        tenant=data.tenant,
        producer=data.producer,
        uses=data.uses,
        entropy=os.urandom,
    )
    tokens.keep(collector.trail, token)
    return Response(TokenShown.of(token, secret), headers=_UNSEEN)


@post(
    "/v1/tokens/{token_id:str}/rotate",
    guards=asks(Verb.CONFIGURE),
    sync_to_thread=True,
    responses=_MAY_NOT,
)
def rotate(
    token_id: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    data: JSONBody[TokenRotation | None] = None,
) -> Response[TokenShown]:
    """Issue the successor of an access token, which works for a while yet."""
    trail, now = collector.trail, collector.now()
    old = _seen(trail, token_id, caller)
    # Its secret goes to whoever asks, so that is to issue it.
    caller.check_may_issue(old.role, trail.policy, streams=old.streams, tenant=old.tenant)
    new, secret = tokens.rotate(
        trail,
        token_id,
        by=caller.id,
        now=now,
        overlap=tokens.lasting((data or TokenRotation()).overlap, now, "overlap"),
        entropy=os.urandom,
    )
    return Response(TokenShown.of(new, secret), headers=_UNSEEN)


@delete("/v1/tokens/{token_id:str}", guards=asks(Verb.CONFIGURE), sync_to_thread=True)
def revoke(
    token_id: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> None:
    """Let an access token, of whatever role, work no more."""
    _seen(collector.trail, token_id, caller)
    tokens.revoke(collector.trail, token_id, by=caller.id, now=collector.now())


@post(
    "/v1/viewer-tokens",
    guards=asks(Verb.READ, Verb.CONFIGURE),
    sync_to_thread=True,
    responses=_MAY_NOT,
)
def issue_viewer_token(
    data: JSONBody[ViewerTokenRequest],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    gate: NamedDependency[Gate],
) -> Response[ViewerTokenShown]:
    """Issue a short right to read, to be handed on; it works while the caller's own token does."""
    trail, now = collector.trail, collector.now()
    if gate.access_token(caller.id) is None:
        raise Forbidden("viewer tokens: are issued with an access token, expected one")
    streams, tenant = data.streams or caller.streams, data.tenant or caller.tenant
    caller.check_may_issue("reader", trail.policy, streams=streams, tenant=tenant)
    lasts = tokens.lasting(data.expires_in, now, "expires_in")
    if lasts > tokens.VIEWER_LONGEST:
        raise CallerError("expires_in: expected at most 1h")
    token = ViewerToken(
        issuer=caller.id, name=data.name, streams=streams, tenant=tenant, expires_at=now + lasts
    )
    token.check_is_valid(trail.policy)
    answer = ViewerTokenShown(
        token=token.sign(gate.viewer_secret()),
        name=token.name,
        streams=token.streams,
        tenant=token.tenant,
        expires_at=time_to_text(token.expires_at),
    )
    return Response(answer, headers=_UNSEEN)


def _sees(caller: Caller, token: AccessToken) -> bool:
    """Tell whether *token* is within what *caller* is limited to; others are not there."""
    return caller.includes(streams=token.streams, tenant=token.tenant)


def _seen(trail: Trail, token_id: str, caller: Caller) -> AccessToken:
    with trail.store.read() as view:
        token = tokens.find(view, token_id)
    if not _sees(caller, token):
        raise NotFound(tokens.NO_SUCH)
    return token


ROUTES = [show_all, issue, rotate, revoke, issue_viewer_token]
