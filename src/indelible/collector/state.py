"""State: the one trail that all requests share, the settings, and the clock."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from indelible.collector.gauges import Gauges
from indelible.collector.metrics import Metrics
from indelible.collector.problems import Refusal
from indelible.collector.readiness import Readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.trail import Trail

_LOOK_AGAIN = 1_000_000
"""Microseconds for which it is taken for granted how much room there is."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a collector is run; what is stored says the rest.

    Attributes:
        issuer, audience: Of the identity provider whose JWTs are taken, if any.
        key_set: File with the provider's keys (JWKS).
        role_claim: Name of the claim that holds the role.
        requests: Most requests per second and caller, as a steady rate.
        least_free: Bytes of free space below which nothing is taken in (503).
        public_metrics: Whether ``/metrics`` answers everybody, and not only who comes from
            this machine or may observe.
        scrub_every: Seconds after the beginning of a round over all that is kept until the
            next begins; 0 for none.
        scrub_pause: Seconds between two segments of a round.
    """

    issuer: str | None = None
    audience: str | None = None
    key_set: str | None = None
    role_claim: str = "indelible_role"
    requests: float = 100.0
    least_free: int = 512 * 1024 * 1024
    public_metrics: bool = False
    scrub_every: float = 86_400.0
    scrub_pause: float = 5.0


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
        self.metrics = Metrics(Gauges(self))
        self.readiness = Readiness(self)
        self._free = (0, 0)

    def room(self) -> int:
        """Return how many bytes are free where the trail lies, as of a second ago."""
        checked_at, free = self._free
        if self.now() - checked_at > _LOOK_AGAIN:
            usage = os.statvfs(self.trail.path)
            free = usage.f_bavail * usage.f_frsize
            self._free = (self.now(), free)
        return free

    def check_room(self) -> None:
        """
        Check that there is room for what is to be taken in.

        Raises:
            Refusal: 503: producers keep what they have until there is.
        """
        if self.room() < self.settings.least_free:
            raise Refusal(503, "no-room", "too little room is left to take anything in")
