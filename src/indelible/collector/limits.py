"""Limits: how often each of many callers may come. It knows no clock, and no requests."""

from __future__ import annotations

import threading
from ipaddress import IPv6Address, ip_address

_INSTANT = 1e-6


class Rate:
    """
    A steady rate for each of many, with some more at once; what was not used is saved up.

    A token bucket, kept as the one time at which it would be full again (GCRA). Memory is
    bounded: beyond *most*, who has not come for the longest begins anew.

    Args:
        per_second: How many may come in the long run.
        at_once: How many may come at once.
        most: Of how many it is kept when they came.
    """

    def __init__(self, per_second: float, *, at_once: float, most: int = 10_000) -> None:
        self._pause = 1 / per_second
        self._saved = (at_once - 1) * self._pause
        self._most = most
        self._lock = threading.Lock()
        self._full_at: dict[str, float] = {}

    def take(self, who: str, now: float) -> float:
        """Count that *who* comes *now*; return 0, or the seconds to wait if that is too often."""
        with self._lock:
            full_at = max(self._full_at.pop(who, now), now)
            wait = self._wait(full_at, now)
            self._full_at[who] = full_at if wait else full_at + self._pause
            if len(self._full_at) > self._most:
                del self._full_at[next(iter(self._full_at))]
            return wait

    def wait(self, who: str, now: float) -> float:
        """Return how many seconds *who* would have to wait, and count nothing."""
        with self._lock:
            return self._wait(self._full_at.get(who, now), now)

    def _wait(self, full_at: float, now: float) -> float:
        wait = full_at - now - self._saved
        # What is left of sums of fractions is no time.
        return wait if wait > _INSTANT else 0.0


def neighbourhood(address: str) -> str:
    """
    Return what is limited as one of an *address*: of IPv6 the network, which one holder has whole.

    What is no address stays as it is.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{IPv6Address(int(found) >> 64 << 64)}/64"
