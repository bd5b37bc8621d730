"""
Events to measure with: those of a back office, always the same ones.

Sealed, each has 400 to 500 bytes. 5,000 actors and 20,000 resources, of which some
are busier than others; sessions of about 20 events, each from one address. They
come in chunks that are built one at a time, so that any number of them can be
walked through in little memory, and any chunk can be built again.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from indelible.event import (
    Actor,
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
    from collections.abc import Callable, Iterator

CHUNK = 4_096
ACTORS = 5_000
RESOURCES = 20_000

_SEED = "indelible"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_START_MICROSECONDS = int(_START.timestamp()) * 1_000_000
_STEP = 300_000
"""Microseconds from one event to the next."""

_SESSION = 20 * ACTORS
"""After so many events of everyone, an actor has begun another session."""

_SERVICE = Service(name="backoffice", version="4.1")
_REASONS = (
    "checked against order and goods received",
    "asked for by the customer by telephone",
    "typing mistake found in the monthly review",
    "agreed with the account manager",
    "sample of the external auditor for March",
    "released after a second pair of eyes",
    "late delivery, new date agreed",
    "duplicate, kept for reference",
)
_OUTCOMES = (Outcome.SUCCESS,) * 61 + (Outcome.DENIED,) * 2 + (Outcome.FAILURE,)
_CITIES = ("Rotterdam", "Antwerpen", "Hamburg", "Gdańsk", "Lyon", "Torino", "Bilbao", "Malmö")


def actor(number: int) -> Actor:
    """Return actor *number*; the lower the busier."""
    return _ACTORS[number]


def chunk(number: int, *, producer: int = 0) -> list[Event]:
    """
    Build chunk *number*: events ``CHUNK * number`` and on.

    Args:
        producer: Whose events; no two producers share an event's id.
    """
    random = Random(f"{_SEED}/{producer}/{number}")
    bits, text = random.getrandbits, random.randbytes
    clients: dict[str, Client] = {}
    sessions: dict[int, str] = {}
    events = []
    for index in range(CHUNK * number, CHUNK * number + CHUNK):
        # A root of evenly spread numbers: rank r of n has a share of 1 / (2 √(r n)).
        who = ACTORS * bits(20) ** 2 >> 40
        resource = _RESOURCES[RESOURCES * bits(20) ** 2 >> 40]
        if who not in sessions:
            sessions[who] = session = _session(producer, who, index // _SESSION)
            clients[session] = Client(ip=f"10.{bits(8)}.{bits(8)}.{who & 255}")
        session = sessions[who]
        verbs = _VERBS[resource.type]
        action, fields = verbs[bits(2) % len(verbs)]
        micros = _STEP * index + bits(18)
        events.append(
            Event(
                id=uuid7((_START_MICROSECONDS + micros) * 1_000 + bits(9), text(10)),
                occurred_at=_START + timedelta(microseconds=micros),
                action=action,
                outcome=_OUTCOMES[bits(6)],
                actor=_ACTORS[who],
                resource=resource,
                session=session,
                client=clients[session],
                service=_SERVICE,
                **fields(bits),
            )
        )
    return events


def chunks(count: int, *, producer: int = 0) -> Iterator[list[Event]]:
    """Yield *count* events in chunks."""
    for number in range(-(-count // CHUNK)):
        yield chunk(number, producer=producer)[: count - CHUNK * number]


def events(count: int, *, producer: int = 0) -> Iterator[Event]:
    """Yield *count* events, no more of them in memory than a chunk."""
    for part in chunks(count, producer=producer):
        yield from part


def blocks(count: int, size: int) -> Iterator[list[Event]]:
    """Yield *count* events in lists of *size*."""
    source = events(count)
    while block := list(islice(source, size)):
        yield block


def _session(producer: int, who: int, turn: int) -> str:
    digest = blake2b(f"{producer}/{who}/{turn}".encode(), digest_size=16).digest()
    return urlsafe_b64encode(digest)[:22].decode("ascii")


def _rationale(bits: Callable[[int], int]) -> Rationale:
    return Rationale(text=_REASONS[bits(3)], reference=f"T-{bits(17) + 100_000}")


def _amount(bits: Callable[[int], int]) -> str:
    return f"{bits(17) + 10_000}.{bits(6):02}"


def _approve(bits: Callable[[int], int]) -> dict[str, Any]:
    return {
        "changes": {"status": Change("submitted", "approved")},
        "rationale": _rationale(bits),
    }


def _amend(bits: Callable[[int], int]) -> dict[str, Any]:
    return {
        "changes": {"total": Change(_amount(bits), _amount(bits))},
        "rationale": _rationale(bits),
    }


def _move(bits: Callable[[int], int]) -> dict[str, Any]:
    return {
        "changes": {"address.city": Change(_CITIES[bits(3)], _CITIES[bits(3)])},
        "rationale": _rationale(bits),
    }


def _reschedule(bits: Callable[[int], int]) -> dict[str, Any]:
    old, days = bits(4), bits(3) + 1
    return {
        "changes": {"due": Change(f"2026-07-{old + 1:02}", f"2026-07-{old + days + 1:02}")},
        "rationale": _rationale(bits),
    }


def _raise_limit(bits: Callable[[int], int]) -> dict[str, Any]:
    return {
        "changes": {"limit": Change(bits(8) * 100, bits(9) * 100)},
        "rationale": _rationale(bits),
    }


def _export(bits: Callable[[int], int]) -> dict[str, Any]:
    return {
        "data": {"format": "csv", "rows": bits(14)},
        "rationale": _rationale(bits),
    }


_VERBS: dict[str, tuple[tuple[str, Callable[[Callable[[int], int]], dict[str, Any]]], ...]] = {
    "invoice": (
        ("invoice.approve", _approve),
        ("invoice.amend", _amend),
        ("invoice.read", _export),
    ),
    "order": (("order.reschedule", _reschedule), ("order.amend", _amend)),
    "customer": (("customer.move", _move), ("customer.limit.raise", _raise_limit)),
    "payment": (("payment.release", _approve), ("payment.amend", _amend)),
    "report": (("report.export", _export),),
}

_ACTORS = tuple(
    Actor(type="user", id=f"{name}.{number:04}")
    for number in range(ACTORS)
    for name in (("jansen", "peeters", "schmidt", "rossi", "garcia", "novak")[number % 6],)
)
_RESOURCES = tuple(
    Resource(type=kind, id=f"{kind[:3].upper()}-{number:06}")
    for number in range(RESOURCES)
    for kind in (tuple(_VERBS)[number % len(_VERBS)],)
)
