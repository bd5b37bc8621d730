"""State: the one trail that all requests share, the settings, and the clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.trail import Trail


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a collector is run; what is stored says the rest.

    Attributes:
        issuer, audience: Of the identity provider whose JWTs are taken, if any.
        key_set: File with the provider's keys (JWKS).
        role_claim: Name of the claim that holds the role.
        requests: Most requests per second and caller, as a steady rate.
        lag: Bytes of free space below which nothing is taken in (503).
    """

    issuer: str | None = None
    audience: str | None = None
    key_set: str | None = None
    role_claim: str = "indelible_role"
    requests: float = 100.0
    least_free: int = 512 * 1024 * 1024


class Collector:
    """
    What the routes of a collector share.

    Args:
        now: The collector's clock, microseconds since 1970.
    """

    def __init__(
        self,
        trail: Trail,
        settings: Settings,
        *,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.trail = trail
        self.settings = settings
        self.now = now
