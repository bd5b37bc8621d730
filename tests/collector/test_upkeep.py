"""What a collector does by itself, hour by hour."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

from indelible.collector.events import Receiving
from indelible.collector.upkeep import Upkeep
from indelible.merkle import leaf_hash
from tests.collector.test_ingest import fill, next_of, own_entries, shipper, shop, trail

if TYPE_CHECKING:
    from indelible.collector.state import Collector
    from indelible.trail import Trail
    from tests.collector.test_ingest import Shipper

__all__ = ["shipper", "shop", "trail"]


def test_what_all_producers_have_signed_is_named(
    collector: Collector, trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """The custody stream names the root over producers' checkpoints, once for each that changes."""
    upkeep = Upkeep(collector, Receiving(collector))
    upkeep.step()
    fill(shop, 2)
    sent = next_of(shop).shipment
    shipper.post(sent)

    upkeep.step()
    upkeep.step()

    (said,) = own_entries(trail, "producers.heads")
    assert 1 == said["count"]
    assert leaf_hash(sent.checkpoint.encode()) == b64decode(said["root"])
