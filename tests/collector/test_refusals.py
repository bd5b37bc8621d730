from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible import tokens
from indelible.collector.callers import Gate
from indelible.collector.refusals import HOUR, Refusals, Refused
from indelible.collector.state import Collector, Settings
from indelible.errors import StoreError
from indelible.testing import Faulty
from tests.collector.conftest import FAST, Counted, bearer, issued, refusals, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.keys import Signer
    from indelible.store import Head, Store
    from indelible.trail import Trail
    from indelible.vault import Vault

NOW = 1_800_000_000_000_000
HERE = "203.0.113.7"
NOBODY = Refused(address=HERE, route="GET /v1/entries", verb="read", status=401)
ALICE = Refused(
    caller="1" * 16, role="reader", route="POST /v1/tokens", verb="configure", status=403
)


class Owner:
    """A trail whose store fails as planned."""

    def __init__(self, trail: Trail, store: Faulty) -> None:
        self._trail, self._store = trail, store

    @property
    def id(self) -> str:
        """The trail's id."""
        return self._trail.id

    @property
    def store(self) -> Store:
        """The store that fails."""
        return self._store

    @property
    def vault(self) -> Vault:
        """The trail's vault."""
        return self._trail.vault

    def signer_of(self, head: Head) -> Signer:
        """Return the log's key."""
        return self._trail.signer_of(head)


class Told(Counted):
    """A store that tells when something was written."""

    def __init__(self, store: Store, written: threading.Event) -> None:
        super().__init__(store)
        self._written = written

    @contextmanager
    def write(self) -> Iterator[Any]:
        """Write, and tell of it."""
        with self._store.write() as transaction:
            yield transaction
        self._written.set()


def test_the_first_refusal_is_said_at_once_and_the_rest_within_the_hour(trail: Trail) -> None:
    """Knocking a thousand times makes two entries, and none is left out."""
    kept = Refusals(trail)

    first = kept.add(ALICE, NOW)
    kept.write(NOW)
    more = [kept.add(ALICE, NOW + n) for n in range(1, 1000)]
    kept.write(NOW + HOUR - 1)
    before = refusals(trail)
    kept.write(NOW + HOUR)

    assert first
    assert not any(more)
    assert [1] == [entry["count"] for entry in before]
    assert [1, 999] == [entry["count"] for entry in refusals(trail)]


def test_a_refusal_says_who_was_refused_what(trail: Trail) -> None:
    """The route as it is declared: what stood in the path may be somebody's."""
    kept = Refusals(trail)
    kept.add(ALICE, NOW)

    kept.write(NOW)

    (entry,) = refusals(trail)
    assert ("1" * 16, "reader", "POST /v1/tokens", "configure", 403) == tuple(
        entry[name] for name in ("caller", "role", "route", "verb", "status")
    )
    (item,) = trail.search("stream:custody action:access.refused").items
    assert "denied" == item.event.outcome


def test_where_strangers_came_from_is_committed(trail: Trail) -> None:
    """An address is personal: who may see it does, and it can be erased."""
    kept = Refusals(trail)
    kept.add(NOBODY, NOW)

    kept.write(NOW)

    (item,) = trail.search("stream:custody action:access.refused").items
    assert f"address:{HERE}" == (item.event.data or {})["subject"]
    assert HERE not in item.entry.event.decode()


def test_at_the_end_all_is_said(trail: Trail) -> None:
    """A stop loses nothing."""
    kept = Refusals(trail)
    for after in range(3):
        kept.add(NOBODY, NOW + after)
        kept.write(NOW + after)

    kept.write(NOW + 3, final=True)

    assert [1, 2] == [entry["count"] for entry in refusals(trail)]


@pytest.mark.parametrize("persists", [False, True])
def test_what_could_not_be_written_is_said_next_time(trail: Trail, *, persists: bool) -> None:
    """A store that is away loses no refusal; one whose answer is lost may have it twice."""
    faulty = Faulty(trail.store, persists)
    kept = Refusals(Owner(trail, faulty))
    kept.add(ALICE, NOW)

    with pytest.raises(Exception, match="the answer was lost"):
        kept.write(NOW)
    kept.add(ALICE, NOW + 1)
    kept.write(NOW + 1)

    assert [1, 2] if persists else [2] == [entry["count"] for entry in refusals(trail)]


def test_a_thousand_strangers_do_not_flood_the_log(trail: Trail) -> None:
    """Of the first two hundred it is said who, of all others how many; callers go on."""
    kept = Refusals(trail)
    for n in range(1_000):
        kept.add(msgspec.structs.replace(NOBODY, address=f"10.0.{n // 256}.{n % 256}"), NOW)
    kept.add(ALICE, NOW)

    kept.write(NOW)

    found = [entry for entry in refusals(trail) if "caller" not in entry]
    assert 201 == len(found)
    assert 1_000 == sum(entry["count"] for entry in found)
    assert 800 == max(entry["count"] for entry in found)
    assert 202 == len(refusals(trail))


def test_who_has_stayed_away_for_an_hour_makes_room(trail: Trail) -> None:
    """The table of who was refused is bounded, and is not filled for ever."""
    kept = Refusals(trail)
    for n in range(200):
        kept.add(msgspec.structs.replace(NOBODY, address=f"10.0.0.{n}"), NOW)
    kept.write(NOW)
    kept.write(NOW + HOUR)

    kept.add(NOBODY, NOW + HOUR)
    kept.write(NOW + HOUR)

    (newest,) = trail.search("stream:custody action:access.refused", limit=1).items
    assert f"address:{HERE}" == (newest.event.data or {})["subject"]


def test_every_kind_of_refused_access_is_an_entry(trail: Trail) -> None:
    """No token, not the role, too often, and of somebody who is limited: not there."""
    collector = Collector(trail, Settings(requests=3, scrub_every=0))
    reader = issued(collector, "reader")
    limited = issued(collector, "operator", tenant="shop")
    other, _ = tokens.taken_apart(issued(collector, "reader", tenant="billing"))

    with serving(collector) as client:
        client.get("/v1/tokens")
        for _ in range(7):
            client.get("/v1/tokens", headers=bearer(reader))
        client.delete(f"/v1/tokens/{other}", headers=bearer(limited))

    counts: dict[tuple[int, str], int] = {}
    for entry in refusals(trail):
        key = entry["status"], entry["route"]
        counts[key] = counts.get(key, 0) + entry["count"]
    assert {
        (401, "GET /v1/tokens"): 1,
        (403, "GET /v1/tokens"): 6,
        (429, "GET /v1/tokens"): 1,
        (404, "DELETE /v1/tokens/{token_id}"): 1,
    } == counts


def test_what_an_unlimited_caller_does_not_find_is_no_refusal(trail: Trail) -> None:
    """To ask for what is not there is not to ask for what is another's."""
    collector = Collector(trail, FAST)

    with serving(collector) as client:
        client.delete(f"/v1/tokens/{'0' * 16}", headers=bearer(issued(collector, "operator")))

    assert [] == refusals(trail)


def test_a_refusal_is_written_while_the_collector_runs(trail: Trail) -> None:
    """Whoever follows the custody stream sees it in seconds, and nobody waits for it."""
    collector = Collector(trail, FAST)
    written = threading.Event()
    store = trail.store
    trail.store = Told(store, written)

    with serving(collector) as client:
        client.get("/v1/tokens")
        assert written.wait(30)
        found = refusals(trail)
    trail.store = store

    assert [1] == [entry["count"] for entry in found]


def test_a_store_that_is_away_shuts_nobody_out(
    trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    """That a refusal cannot be written is logged, and it is written as soon as that works."""
    gate = Gate(Collector(trail, FAST))
    gate._refusals = Refusals(  # noqa: SLF001 - the store of these alone is away
        Owner(trail, Faulty(trail.store, False, error=lambda: StoreError("the disk is away")))
    )
    gate._refusals.add(ALICE, NOW)  # noqa: SLF001

    gate.write()
    before = refusals(trail)
    gate.write()

    assert [] == before
    assert "the disk is away" in caplog.text
    assert [1] == [entry["count"] for entry in refusals(trail)]
