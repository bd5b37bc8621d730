"""
Identity: who comes with a JWT of the identity provider that the collector trusts.

Its keys come from a file (JWKS), which is read again when it changes; nothing is fetched.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt

from indelible.collector.problems import Refusal
from indelible.errors import CallerError, Forbidden
from indelible.rights import Caller, is_role
from indelible.tokens import UNKNOWN

if TYPE_CHECKING:
    from indelible.collector.state import Settings
    from indelible.policy import Policy

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Signatures with a key pair alone: whoever can check one of these cannot make one."""

TENANT_CLAIM = "indelible_tenant"
STREAMS_CLAIM = "indelible_streams"

_SKEW = 60.0
_MOST = 16_384
_REQUIRED = ("iss", "aud", "sub", "exp", "nbf", "iat")
_log = logging.getLogger("indelible")


class IdentityProvider:
    """
    The provider whose JWTs are taken.

    Args:
        key_set: File with its public keys.
        role_claim: Name of the claim that holds the role.

    Raises:
        CallerError: The file cannot be read, or holds no key that can be used.
    """

    def __init__(self, *, issuer: str, audience: str, key_set: Path, role_claim: str) -> None:
        self._issuer, self._audience = issuer, audience
        self._path = key_set
        self._role_claim = role_claim
        self._lock = threading.Lock()
        self._seen = _state_of(key_set)
        self._keys = _read(key_set)

    @classmethod
    def of(cls, settings: Settings) -> IdentityProvider | None:
        """
        Return the one that *settings* name, if any.

        Raises:
            CallerError: They name it in part only, or its keys cannot be read.
        """
        named = (settings.issuer, settings.audience, settings.key_set)
        issuer, audience, key_set = named
        if issuer is None and audience is None and key_set is None:
            return None
        if not (issuer and audience and key_set):
            raise CallerError("identity provider: expected issuer, audience and key_set together")
        return cls(
            issuer=issuer,
            audience=audience,
            key_set=Path(key_set),
            role_claim=settings.role_claim,
        )

    def identify(self, text: str, policy: Policy) -> Caller:
        """
        Return who comes with this JWT.

        Raises:
            Forbidden: It is not the provider's, not for this collector, or not of now.
            Refusal: 403 where its claims name no role or limit that there is; 503 where the
                provider's keys cannot be read.
        """
        claims = self._claims(text)
        try:
            return self._caller(claims, policy)
        except CallerError as error:
            raise Refusal(403, "forbidden", str(error)) from None

    def _caller(self, claims: dict[str, Any], policy: Policy) -> Caller:
        subject, role = _text(claims["sub"]), _text(claims.get(self._role_claim))
        if subject is None:
            raise CallerError("claim sub: expected a name")
        if role is None or not is_role(role, policy):
            raise CallerError(f"claim {self._role_claim}: expected the name of a role")
        return Caller(
            # Not to be taken for an access token, whatever the provider calls people.
            id=f"oidc:{subject}",
            name=_text(claims.get("name")) or subject,
            role=role,
            streams=_streams(claims),
            tenant=_tenant(claims),
        )

    def _claims(self, text: str) -> dict[str, Any]:
        try:
            if len(text) > _MOST:
                raise jwt.InvalidTokenError
            name = jwt.get_unverified_header(text).get("kid")
            key = self._current().get(name) if isinstance(name, str) else None
            if key is None:
                raise jwt.InvalidTokenError
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_SKEW,
                options={"require": list(_REQUIRED), "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            # What was wrong is told to whoever operates the collector, not to who has come.
            _log.debug("a JWT was refused: %s", type(error).__name__)
            raise Forbidden(UNKNOWN) from None
        return claims

    def _current(self) -> dict[str, jwt.PyJWK]:
        with self._lock:
            state = _state_of(self._path)
            if state is None or state != self._seen:
                try:
                    # A key that was taken out is trusted no longer, also where what took
                    # its place cannot be read.
                    self._keys, self._seen = {}, None
                    self._keys, self._seen = _read(self._path), state
                except CallerError as error:
                    _log.error("identity provider: %s", error)
                    raise Refusal(
                        503, "identity", "the keys of the identity provider cannot be read"
                    ) from None
            return self._keys


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> dict[str, jwt.PyJWK]:
    """Return the keys in *path* that JWTs may be signed with, by name."""
    try:
        said = json.loads(path.read_bytes())
        found = jwt.PyJWKSet.from_dict(said).keys
    except (OSError, ValueError, RecursionError, AttributeError, jwt.PyJWTError):
        raise CallerError(f"{path}: cannot be read as a set of keys (JWKS)") from None
    keys: dict[str, jwt.PyJWK] = {}
    for key in found:
        if key.algorithm_name not in ALGORITHMS or key.public_key_use not in (None, "sig"):
            continue
        if hasattr(key.key, "sign"):
            raise CallerError(f"{path}: holds a private key, expected public ones alone")
        if not isinstance(key.key_id, str) or key.key_id in keys:
            raise CallerError(f"{path}: expected each key to have a name (kid) of its own")
        keys[key.key_id] = key
    if not keys:
        raise CallerError(f"{path}: expected a key for {', '.join(ALGORITHMS)}, found none")
    return keys


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isprintable() else None


def _tenant(claims: dict[str, Any]) -> str | None:
    if TENANT_CLAIM not in claims:
        return None
    tenant = _text(claims[TENANT_CLAIM])
    # What is there and names nothing must not come to mean all.
    if tenant is None:
        raise CallerError(f"claim {TENANT_CLAIM}: expected the name of a tenant")
    return tenant


def _streams(claims: dict[str, Any]) -> tuple[str, ...]:
    if STREAMS_CLAIM not in claims:
        return ()
    named = claims[STREAMS_CLAIM]
    if not (isinstance(named, list) and named and all(isinstance(each, str) for each in named)):
        raise CallerError(f"claim {STREAMS_CLAIM}: expected names of streams")
    return tuple(named)
