"""
Refusals: which access was refused to whom, and when the custody stream hears of it.

The first refusal of each caller and route is said at once, further ones once an hour and at
the end; of how many that is kept is bounded. So nobody can flood the log by knocking, and
none is left out.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
from litestar.exceptions import HTTPException

from indelible import custody
from indelible.collector.problems import Refusal, problem_of
from indelible.custody import private_event
from indelible.entry import time_to_text
from indelible.errors import IndelibleError
from indelible.event import Outcome

if TYPE_CHECKING:
    from indelible.custody import VaultOwner
    from indelible.rights import Caller
    from indelible.seal import Sealed

ACTION = "access.refused"
"""Of the entries by which the trail says so."""

HOUR = 3_600_000_000

_MOST_OF_CALLERS = 1_000
_MOST_OF_STRANGERS = 200
_REFUSED = {401, 403, 429}
_NOT_FOUND = 404


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """
    One kind of refused access.

    Attributes:
        caller: Its id; none where nobody knows who it was.
        address: Where a stranger came from; none where too many have come to keep it of each.
        route: Method and template: ``GET /v1/entries/{id}``.
        verb: What the route asks for.
    """

    caller: str | None = None
    role: str | None = None
    address: str | None = None
    route: str = ""
    verb: str = ""
    status: int


class _Count:
    """How often something was refused since that was said, and from when to when."""

    __slots__ = ("first", "last", "said_at", "times")

    def __init__(self) -> None:
        self.times = 0
        self.first = self.last = 0
        self.said_at: int | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one kind: how often, and from when to when (microseconds since 1970)."""

    refused: Refused
    times: int
    first: int
    last: int


class Refusals:
    """Counts refused access until the custody stream of *owner* has heard of it."""

    def __init__(self, owner: VaultOwner) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._counts: dict[Refused, _Count] = {}
        self._strangers = 0

    def add(self, refused: Refused, now: int) -> bool:
        """
        Count that access was refused; return whether that is to be said at once.

        Args:
            now: Microseconds since 1970.
        """
        with self._lock:
            count = self._count_of(refused)
            if not count.times:
                count.first = now
            count.times += 1
            count.last = now
            return count.said_at is None

    def _count_of(self, refused: Refused) -> _Count:
        found = self._counts.get(refused)
        if found is not None:
            return found
        is_stranger = refused.caller is None
        of_this_kind = self._strangers if is_stranger else len(self._counts) - self._strangers
        if of_this_kind >= (_MOST_OF_STRANGERS if is_stranger else _MOST_OF_CALLERS):
            # All others together: how many there were is still known, not who.
            refused = Refused(status=refused.status, caller=None if is_stranger else "others")
        found = self._counts.get(refused)
        if found is None:
            found = self._counts[refused] = _Count()
            self._strangers += is_stranger
        return found

    def write(self, now: int, *, final: bool = False) -> None:
        """
        Write down what is due.

        Args:
            now: Microseconds since 1970.
            final: Also what is not due yet.

        Raises:
            StoreError, WriteUncertain, CallerError: It is said next time.
        """
        due = self._take(now, final=final)
        if not due:
            return
        try:
            custody.write(self._owner, lambda: [self._event(each) for each in due], now)
        except BaseException:
            self._give_back(due)
            raise

    def _take(self, now: int, *, final: bool) -> list[Said]:
        due = []
        with self._lock:
            for refused, count in list(self._counts.items()):
                is_time = count.said_at is None or now >= count.said_at + HOUR
                if count.times and (is_time or final):
                    due.append(
                        Said(refused=refused, times=count.times, first=count.first, last=count.last)
                    )
                    count.times, count.said_at = 0, now
                elif is_time and not count.times:
                    del self._counts[refused]
                    self._strangers -= refused.caller is None
        return due

    def _give_back(self, due: list[Said]) -> None:
        with self._lock:
            for said in due:
                count = self._count_of(said.refused)
                count.last = count.last if count.times else said.last
                count.times += said.times
                count.first, count.said_at = said.first, None

    def _event(self, said: Said) -> Sealed:
        refused = said.refused
        found = {
            "caller": refused.caller,
            "role": refused.role,
            # Addresses are people's: committed, and gone when they are to be forgotten.
            "subject": None if refused.address is None else f"address:{refused.address}",
            "route": refused.route or None,
            "verb": refused.verb or None,
        }
        return private_event(
            self._owner.vault,
            self._owner.id,
            ACTION,
            outcome=Outcome.DENIED,
            status=refused.status,
            count=said.times,
            since=time_to_text(said.first),
            until=time_to_text(said.last),
            **{name: value for name, value in found.items() if value is not None},
        )


def refused_status(error: Exception, caller: Caller | None) -> int | None:
    """
    Return the status that *error* refuses access with; None where it does not.

    To somebody who is limited, what belongs to others is not there: so to find nothing is
    counted as well.
    """
    if isinstance(error, Refusal):
        status = error.problem.status
    elif isinstance(error, IndelibleError):
        status = problem_of(error).status
    elif isinstance(error, HTTPException):
        status = error.status_code
    else:
        return None
    is_limited = caller is not None and bool(caller.tenant or caller.streams or caller.producer)
    return status if status in _REFUSED or (status == _NOT_FOUND and is_limited) else None
