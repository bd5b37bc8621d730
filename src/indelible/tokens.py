"""
Access tokens: issued once, kept as hashes, limited, and known again.

Pure: time and randomness come in as arguments; where they are kept, the store's facts say.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import Forbidden
from indelible.rights import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

KIND = "token"
"""Of the facts: key is the id, value what `AccessToken.to_bytes` writes."""

_PREFIX = "indelible_"
_FORM = re.compile(r"indelible_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z", re.ASCII)
_SECRET_SIZE = 32
_ID_SIZE = 8


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is kept of an access token; the token itself is known to its holder alone.

    Attributes:
        digest: SHA-256 of its secret, which is random: nothing slower is needed.
        created_at, expires_at, last_used_at, revoked_at: Microseconds since 1970.
        uses_left: Of a join token, how many more producers it enrols.
    """

    id: str
    digest: bytes
    name: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    producer: str | None = None
    created_at: int
    created_by: str
    expires_at: int
    last_used_at: int | None = None
    revoked_at: int | None = None
    uses_left: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> AccessToken:
        """Read what `to_bytes` writes."""
        return msgspec.msgpack.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write what is kept."""
        return msgspec.msgpack.encode(self)

    @property
    def caller(self) -> Caller:
        """Who comes with it."""
        return Caller(
            id=self.id,
            name=self.name,
            role=self.role,
            streams=self.streams,
            tenant=self.tenant,
            producer=self.producer,
        )

    def verify(self, secret: str, now: int) -> None:
        """
        Check that *secret* is this token's and that it may be used *now*.

        Raises:
            Forbidden: It may not; the message says only that, whatever the cause.
        """
        found = sha256(secret.encode("ascii", "replace")).digest()
        fits = hmac.compare_digest(found, self.digest)
        if not fits or self.revoked_at is not None or now >= self.expires_at:
            raise Forbidden("access token: is unknown, expired or revoked")


def issue(
    *,
    name: str,
    role: str,
    created_by: str,
    now: int,
    lasts: int,
    streams: tuple[str, ...] = (),
    tenant: str | None = None,
    producer: str | None = None,
    uses: int | None = None,
    entropy: Callable[[int], bytes],
) -> tuple[AccessToken, str]:
    """
    Return what is kept of a new access token, and the token itself.

    Args:
        now: Microseconds since 1970.
        lasts: Microseconds until it expires.
    """
    token_id = entropy(_ID_SIZE).hex()
    secret = urlsafe_b64encode(entropy(_SECRET_SIZE))[:43].decode("ascii")
    token = AccessToken(
        id=token_id,
        digest=sha256(secret.encode()).digest(),
        name=name,
        role=role,
        streams=streams,
        tenant=tenant,
        producer=producer,
        created_at=now,
        created_by=created_by,
        expires_at=now + lasts,
        uses_left=uses,
    )
    return token, f"{_PREFIX}{token_id}_{secret}"


def taken_apart(text: str) -> tuple[str, str]:
    """
    Return id and secret of a token as it is sent.

    Raises:
        Forbidden: It is none.
    """
    found = _FORM.match(text)
    if found is None:
        raise Forbidden("access token: is unknown, expired or revoked")
    return found[1], found[2]
