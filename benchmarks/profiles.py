"""
Events with six committed fields in three classes: somebody changes a profile.

Under `benchmarks.policies.profiles` who did it is accountable; session, address and the
two changes are personal; the rationale is internal, and all of them are one person's:
three boxes. Where what is changed is an order, its changes are values of a subject of
their own (four boxes); and where it is a customer, for a reason that is nobody's, there
are eight fields in five.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

from benchmarks.events import CHUNK, actor
from indelible.event import (
    Change,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Service,
    uuid7,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ACTORS = 5_000

FIELDS = ("/actor/id", "/changes/email", "/changes/phone", "/rationale", "/session", "/client/ip")

_START = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = timedelta(milliseconds=300)
_SERVICE = Service(name="backoffice", version="4.1")


def events(count: int, *, resource: str = "profile") -> Iterator[Event]:
    """Yield *count* events about resources of this type, the same ones each time."""
    random = Random(f"profiles/{resource}")
    bits, text = random.getrandbits, random.randbytes
    sessions: dict[int, str] = {}
    reason = "the limit of changes in a day is reached" if resource == "customer" else None
    for number in range(count):
        # As in `benchmarks.events`: some are busier than others.
        who = ACTORS * bits(20) ** 2 >> 40
        # A session has about 20 events.
        if who not in sessions or bits(20) % 20 == 0:
            sessions[who] = text(11).hex()
        occurred_at = _START + number * _STEP
        yield Event(
            id=uuid7(int(occurred_at.timestamp() * 1e6) * 1_000 + bits(9), text(10)),
            occurred_at=occurred_at,
            action=f"{resource}.update",
            outcome=Outcome.SUCCESS if reason is None else Outcome.DENIED,
            reason=reason,
            actor=actor(who),
            resource=Resource(type=resource, id=f"{resource[:3].upper()}-{who:06}"),
            changes={
                "email": Change(_address(bits(16)), _address(bits(16))),
                "phone": Change(_telephone(bits(16)), _telephone(bits(16))),
            },
            rationale=Rationale(
                text="asked for by the customer by telephone",
                reference=f"T-{bits(17) + 100_000}",
            ),
            session=sessions[who],
            client=Client(ip=f"10.{bits(8)}.{who >> 8}.{who & 255}"),
            service=_SERVICE,
        )


def parts(count: int) -> Iterator[list[Event]]:
    """Yield the events about profiles in lists, few of them in memory."""
    source = events(count)
    while part := [event for event, _ in zip(source, range(CHUNK), strict=False)]:
        yield part


def _address(number: int) -> str:
    return f"person.{number}@example.com"


def _telephone(number: int) -> str:
    return f"+31 10 555 {number:05}"
