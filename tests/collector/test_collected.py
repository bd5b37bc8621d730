"""Verification of a collector's trail: each producer's tree follows from what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.collected import verify_producers
from indelible.keys import SigningKey
from indelible.producer import HELD_KIND, KIND, Held, Producer, key_of
from indelible.segment import TILE
from tests.collector.test_ingest import ORIGIN, Shipper, fill, next_of, shipper, shop, trail

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.store import Transaction
    from indelible.trail import Trail

__all__ = ["shipper", "shop", "trail"]

KEY = key_of(f"{ORIGIN}/user")
OTHER = SigningKey.from_seed(f"{ORIGIN}/user", bytes(range(32))).verifier.to_text()


def ship(shop: Trail, shipper: Shipper, *, size: int) -> None:
    """Bring the log of the shop, until the collector has so many entries of it."""
    first = 0
    while first < size:
        first = shipper.post(next_of(shop, first).shipment).json()["size"]


def change(**fields: Any) -> Callable[[Transaction], None]:
    """Return what changes the fact about what is held."""

    def act(transaction: Transaction) -> None:
        held = Held.from_bytes(transaction.fact(HELD_KIND, KEY))
        transaction.put(HELD_KIND, KEY, msgspec.structs.replace(held, **fields).to_bytes())

    return act


def replace_key(transaction: Transaction) -> None:
    """Let the producer have another key than it was enrolled with."""
    kept = Producer.from_bytes(transaction.fact(KIND, KEY) or b"")
    transaction.put(KIND, KEY, msgspec.structs.replace(kept, key=OTHER).to_bytes())


def unsign(transaction: Transaction) -> None:
    """Let the collector say that the producer signed another tree."""
    held = Held.from_bytes(transaction.fact(HELD_KIND, KEY))
    promised = tuple(msgspec.structs.replace(each, root=bytes(32)) for each in held.promised)
    transaction.put(HELD_KIND, KEY, msgspec.structs.replace(held, promised=promised).to_bytes())


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (change(size=0, edge=b"", rest=b"", promised=()), "its 3 entries have root"),
        (replace_key, "its key is not the one that it was enrolled with"),
        (unsign, "is not what was held of it"),
        (lambda t: t.put(KIND, KEY, None), "was enrolled, and what was held of it is gone"),
    ],
)
def test_what_was_held_of_a_producer_cannot_be_changed_unnoticed(
    trail: Trail, shop: Trail, shipper: Shipper, act: Callable[[Transaction], None], what: str
) -> None:
    """What is held of a producer is held against its entries, signatures and enrolment."""
    fill(shop, 3)
    ship(shop, shipper, size=3)
    assert trail.verify().passed

    with trail.store.write() as transaction:
        act(transaction)

    verdict = trail.verify()
    assert not verdict.passed
    assert any(what in str(finding) and ORIGIN in str(finding) for finding in verdict.findings)


def test_a_producers_tree_survives_a_purge(trail: Trail, shop: Trail, shipper: Shipper) -> None:
    """Of entries that were purged, the hashes that are left lead to what the producer signed."""
    fill(shop, TILE + 10)
    ship(shop, shipper, size=TILE + 10)
    fill(shop, 5)
    ship(shop, shipper, size=TILE + 15)

    with trail.store.write() as transaction:
        transaction.purge("user", TILE)

    with trail.store.read() as view:
        assert TILE == view.heads()["user"].first
        assert [] == list(verify_producers(view))
