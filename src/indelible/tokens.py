"""
Access tokens: issued once, kept as hashes, limited, rotated and revoked, and known again.

::

    access token   random; its hash is a fact beside the logs; what becomes of it is an entry
    viewer token   signed, nothing is kept of it; works while the access token does that it
                   was issued with

Time and randomness come in as arguments. It knows neither how tokens are sent nor who may
ask for one.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from indelible import custody
from indelible.duration import Duration
from indelible.entry import microseconds, moment_of, time_to_text
from indelible.errors import CallerError, Forbidden, Moved, NotFound
from indelible.note import check_key_name
from indelible.policy import CUSTODY
from indelible.rights import Caller, check_role
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from indelible.log import Placed
    from indelible.policy import Policy
    from indelible.store import Store, Transaction, View

KIND = "token"
"""Of the facts: key is the id, value what `AccessToken.to_bytes` writes."""

LONGEST = 366 * 86_400_000_000
"""Microseconds that an access token may last at most."""

VIEWER_LONGEST = 3_600_000_000
"""Microseconds that a viewer token may last at most: nobody can be told apart later."""

UNKNOWN = "access token: is unknown, expired or revoked"
"""What is said of one that may not be used, whatever the cause."""

NO_SUCH = "access token: found none of this id"
"""What is said where there is no such token, or none that the caller may know of."""

VIEWER_SECRET = "viewer tokens"  # noqa: S105 - names the purpose of a key
"""What the keyring's secret that signs viewer tokens is for."""

USED_EVERY = 60_000_000
"""Microseconds after which it is kept again that an access token was used."""

_PREFIX = "indelible_"
_VIEWER_PREFIX = "indelible-viewer."
_MOST_NAME = 200
_FORM = re.compile(r"indelible_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z", re.ASCII)
_SECRET_SIZE = 32
_ID_SIZE = 8
_MOST_USES = 10_000


class Owner(Protocol):
    """The trail that keeps access tokens, and writes what becomes of them."""

    @property
    def id(self) -> str:
        """The trail's id."""
        ...

    @property
    def store(self) -> Store:
        """Where tokens are kept."""
        ...

    @property
    def policy(self) -> Policy:
        """Which says what roles and streams there are."""
        ...

    def submit(self, pending: Pending) -> None:
        """Hand over what is to be written; see `indelible.writer.Writer.submit`."""
        ...


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

    def is_used_anew(self, now: int) -> bool:
        """Tell whether that it is used *now* is to be kept."""
        return self.last_used_at is None or now >= self.last_used_at + USED_EVERY

    def verify(self, secret: str, now: int) -> None:
        """
        Check that *secret* is this token's and that it may be used *now*.

        Raises:
            Forbidden: It may not; the message says only that, whatever the cause.
        """
        found = sha256(secret.encode("ascii", "replace")).digest()
        fits = hmac.compare_digest(found, self.digest)
        if not fits or not self.works(now):
            raise Forbidden(UNKNOWN)

    def works(self, now: int) -> bool:
        """Tell whether it is neither revoked nor expired *now*."""
        return self.revoked_at is None and now < self.expires_at

    def check_is_valid(self, policy: Policy) -> None:
        """
        Check that there is what its role and its limits name, and that they go together.

        Raises:
            CallerError: They do not; it names the field.
        """
        check_role(self.role, policy)
        if self.expires_at > self.created_at + LONGEST:
            raise CallerError("expires_in: expected at most 366d")
        _check_limits(self.name, self.streams, self.tenant, policy)
        self._check_is_for_shipping()

    def _check_is_for_shipping(self) -> None:
        """Check what only tokens have that logs are shipped or enrolled with."""
        if self.producer is not None:
            if self.role not in {"recorder", "join"}:
                raise CallerError(f"producer: a token of role {self.role} ships nothing")
            _check_origin(self.producer)
        elif self.role == "join":
            raise CallerError("producer: found none; a join token says whom it may enrol")
        if self.uses_left is not None:
            if self.role != "join":
                raise CallerError("uses: only a join token is used up")
            if not 0 < self.uses_left <= _MOST_USES:
                raise CallerError(f"uses: found {self.uses_left}, expected 1 to {_MOST_USES}")


def _check_limits(name: str, streams: tuple[str, ...], tenant: str | None, policy: Policy) -> None:
    if not 0 < len(name) <= _MOST_NAME or not name.isprintable():
        raise CallerError(f"name: expected 1 to {_MOST_NAME} characters that can be seen")
    for stream in streams:
        if stream not in policy.streams:
            known = ", ".join(policy.streams)
            raise CallerError(f"streams: found {stream!r}, expected some of {known}")
    # One that is empty must not come to mean all of them.
    if tenant is not None and not (0 < len(tenant) <= _MOST_NAME and tenant.isprintable()):
        raise CallerError(f"tenant: expected 1 to {_MOST_NAME} characters that can be seen")


def _check_origin(origin: str) -> None:
    """Check that *origin* is that of a trail, or of all below it."""
    try:
        check_key_name(origin.removesuffix("/*"))
    except CallerError:
        raise CallerError(
            "producer: expected the origin of a trail, or one with /* for all below"
        ) from None


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
        uses: Of a join token; one without it.
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
        uses_left=1 if uses is None and role == "join" else uses,
    )
    return token, f"{_PREFIX}{token_id}_{secret}"


def lasting(text: str, now: int, field: str) -> int:
    """
    Return how many microseconds a duration such as ``90d`` is from *now* on.

    Raises:
        CallerError: It is none; the message names the *field*.
    """
    try:
        return microseconds(Duration.parse(text).after(moment_of(now))) - now
    except CallerError as error:
        raise CallerError(f"{field}: {error}") from None


def taken_apart(text: str) -> tuple[str, str]:
    """
    Return id and secret of a token as it is sent.

    Raises:
        Forbidden: It is none.
    """
    found = _FORM.match(text)
    if found is None:
        raise Forbidden(UNKNOWN)
    return found[1], found[2]


# ---- Kept by a trail ----


def find(view: View | Transaction, token_id: str) -> AccessToken:
    """
    Return the access token with this id.

    Raises:
        NotFound: There is none.
    """
    kept = view.fact(KIND, token_id.encode())
    if kept is None:
        raise NotFound(NO_SUCH)
    return AccessToken.from_bytes(kept)


def everything(view: View) -> list[AccessToken]:
    """Return all access tokens that there ever were, the oldest first."""
    found = [AccessToken.from_bytes(data) for _, data in view.facts(KIND)]
    return sorted(found, key=lambda token: (token.created_at, token.id))


def keep(owner: Owner, token: AccessToken) -> None:
    """
    Keep a new access token, and write that it was issued.

    Raises:
        CallerError: Its role or its limits mean nothing; nothing was kept.
    """
    token.check_is_valid(owner.policy)
    event = custody.own_event(
        owner.id, "token.issue", **_said(token), by=token.created_by, uses=token.uses_left
    )

    def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        _put(transaction, token)

    _write(owner, Pending({CUSTODY: [event]}, within=within))


def rotate(
    owner: Owner,
    token_id: str,
    *,
    by: str,
    now: int,
    overlap: int,
    entropy: Callable[[int], bytes],
) -> tuple[AccessToken, str]:
    """
    Return the successor of an access token, for as long as that was for, and its secret.

    The old one works for *overlap* more, so that whoever has it can change over.

    Args:
        now: Microseconds since 1970.
        overlap: Microseconds.

    Raises:
        NotFound: There is no such token.
        CallerError: It works no more, or is a join token.
    """
    with owner.store.read() as view:
        old = find(view, token_id)
    if old.role == "join":
        raise CallerError(f"access token {token_id}: a join token is not rotated, but issued anew")
    _check_works(old, now)
    new, secret = issue(
        name=old.name,
        role=old.role,
        created_by=by,
        now=now,
        lasts=old.expires_at - old.created_at,
        streams=old.streams,
        tenant=old.tenant,
        producer=old.producer,
        entropy=entropy,
    )
    new.check_is_valid(owner.policy)
    until = min(old.expires_at, now + overlap)
    event = custody.own_event(
        owner.id, "token.rotate", **_said(new), by=by, old=token_id, old_until=time_to_text(until)
    )

    def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        before = find(transaction, token_id)
        _check_works(before, now)
        if before.expires_at != old.expires_at:
            raise Moved(f"access token {token_id}: was rotated meanwhile")
        _put(transaction, msgspec.structs.replace(before, expires_at=until))
        _put(transaction, new)

    _write(owner, Pending({CUSTODY: [event]}, within=within))
    return new, secret


def revoke(owner: Owner, token_id: str, *, by: str, now: int) -> AccessToken:
    """
    Let an access token work no more; one that was revoked already stays as it is.

    Args:
        now: Microseconds since 1970.

    Raises:
        NotFound: There is no such token.
    """
    with owner.store.read() as view:
        token = find(view, token_id)
    if token.revoked_at is not None:
        return token
    event = custody.own_event(owner.id, "token.revoke", **_said(token), by=by)

    def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        _put(transaction, msgspec.structs.replace(find(transaction, token_id), revoked_at=now))

    _write(owner, Pending({CUSTODY: [event]}, within=within))
    return msgspec.structs.replace(token, revoked_at=now)


def mark_used(store: Store, used: Mapping[str, int]) -> None:
    """
    Keep when access tokens were used last, by id in microseconds since 1970.

    Of one for which that was kept within `USED_EVERY`, it is not kept again.
    """
    with store.write() as transaction:
        for token_id, at in used.items():
            kept = transaction.fact(KIND, token_id.encode())
            token = None if kept is None else AccessToken.from_bytes(kept)
            if token is not None and token.is_used_anew(at):
                _put(transaction, msgspec.structs.replace(token, last_used_at=at))


def _check_works(token: AccessToken, now: int) -> None:
    if not token.works(now):
        raise CallerError(f"access token {token.id}: is expired or revoked; issue another")


def _put(transaction: Transaction, token: AccessToken) -> None:
    transaction.put(KIND, token.id.encode(), token.to_bytes())


def _write(owner: Owner, pending: Pending) -> None:
    owner.submit(pending)
    pending.result()


def _said(token: AccessToken) -> dict[str, Any]:
    """Return what an entry says of *token*: never its secret, nor the hash of it."""
    return {
        "token": token.id,
        "name": token.name,
        "role": token.role,
        "streams": list(token.streams),
        "tenant": token.tenant,
        "producer": token.producer,
        "expires_at": time_to_text(token.expires_at),
    }


# ---- Viewer tokens ----


class ViewerToken(msgspec.Struct, frozen=True, kw_only=True):
    """
    A right to read for a short time, to be handed on to whoever looks at a product's pages.

    Attributes:
        issuer: Id of the access token that it was issued with, and works with.
        name: Who is to look, as the product knows them.
        expires_at: Microseconds since 1970.
    """

    issuer: str
    name: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    expires_at: int

    @classmethod
    def from_text(cls, text: str, *, secret: bytes, now: int) -> ViewerToken:
        """
        Read what `sign` writes, for use at this time.

        Raises:
            Forbidden: It was signed with another secret, or is expired.
        """
        payload, _, mac = text.removeprefix(_VIEWER_PREFIX).partition(".")
        if not hmac.compare_digest(_mac(secret, payload).encode(), mac.encode()):
            raise Forbidden(UNKNOWN)
        token = msgspec.json.decode(_from_base64(payload), type=cls)
        if now >= token.expires_at:
            raise Forbidden(UNKNOWN)
        return token

    def check_is_valid(self, policy: Policy) -> None:
        """
        Check that there is what its limits name.

        Raises:
            CallerError: There is not; it names the field.
        """
        _check_limits(self.name, self.streams, self.tenant, policy)

    def sign(self, secret: bytes) -> str:
        """Write it as it is sent."""
        payload = _base64(msgspec.json.encode(self))
        return f"{_VIEWER_PREFIX}{payload}.{_mac(secret, payload)}"

    @property
    def caller(self) -> Caller:
        """Who comes with it."""
        return Caller(
            id=f"viewer:{self.issuer}",
            name=self.name,
            role="reader",
            streams=self.streams,
            tenant=self.tenant,
        )


def is_viewer_token(text: str) -> bool:
    """Tell whether *text* is to be read as a viewer token."""
    return text.startswith(_VIEWER_PREFIX)


def is_access_token(text: str) -> bool:
    """Tell whether *text* is to be read as an access token."""
    return text.startswith(_PREFIX)


def _mac(secret: bytes, payload: str) -> str:
    return _base64(hmac.digest(secret, payload.encode(), "sha256"))


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
