"""What callers who are limited to a tenant or to streams get of what lies outside: nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
import pytest

from indelible.collector.producers import enrol_all
from indelible.document import for_collector
from indelible.rights import Caller
from indelible.shipping import Progress, consign, remember
from indelible.trail import Trail
from indelible.wire import Enrolment
from tests.collector.conftest import bearer, issued

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from indelible.collector.state import Collector
    from tests.collector.conftest import Served

OPERATOR = Caller(id="0", name="alice", role="operator")
SHOP = "shop.example.com/web-1"


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make the trail of a collector, with the policy of one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    origin = "audit.example.com/collector"
    with Trail.create(tmp_path / "trail", origin=origin, policy=for_collector()) as made:
        yield made


@pytest.fixture
def shop(trail: Trail, tmp_path: Path) -> Iterator[Trail]:
    """Make the trail of a producer of the tenant shop."""
    with Trail.create(tmp_path / "shop", origin=SHOP) as made:
        key = made.verifier_key("user").to_text()
        enrol_all(trail, Enrolment(keys=(key,), tenant="shop"), OPERATOR, 1)
        made.record("invoice.pay", actor="user:bob", resource="invoice:1", tenant="shop")
        yield made


OUTSIDE: list[dict[str, Any]] = [{"tenant": "billing"}, {"streams": ("admin",)}]


@pytest.mark.parametrize("role", ["auditor", "operator"])
@pytest.mark.parametrize("limits", OUTSIDE)
def test_producers_of_others_are_not_there(
    client: Served, collector: Collector, shop: Trail, role: str, limits: dict[str, Any]
) -> None:
    """Who sees a part of the trail is told of the producers that bring into it alone."""
    limited = bearer(issued(collector, role, **limits))
    whole = bearer(issued(collector, role))
    own = bearer(issued(collector, role, tenant="shop", streams=("user", "auth")))

    path = f"/v1/producers/{shop.origin}/user"

    assert 404 == client.get(path, headers=limited).status_code
    assert [] == client.get("/v1/producers", headers=limited).json()
    for headers in (whole, own):
        assert 200 == client.get(path, headers=headers).status_code
        assert 1 == len(client.get("/v1/producers", headers=headers).json())


@pytest.mark.parametrize("limits", OUTSIDE)
def test_an_operator_of_a_part_changes_no_producer_of_others(
    client: Served, collector: Collector, shop: Trail, limits: dict[str, Any]
) -> None:
    """An operator who is limited neither revokes others' producers, nor takes them for its own."""
    limited = bearer(issued(collector, "operator", **limits))
    path = f"/v1/producers/{SHOP}/user"
    wish = {"keys": [shop.verifier_key("user").to_text()]}

    revoked = client.delete(path, headers=limited)
    taken = client.post("/v1/producers", headers=limited, json=wish)

    assert 404 == revoked.status_code
    assert taken.status_code in {400, 409}
    standing = client.get(path, headers=bearer(issued(collector, "operator"))).json()
    assert ("shop", "user", None) == (
        standing["tenant"],
        standing["stream"],
        standing.get("revoked_at"),
    )


@pytest.mark.parametrize("limits", OUTSIDE)
def test_a_token_ships_within_its_limits(
    client: Served, collector: Collector, trail: Trail, shop: Trail, limits: dict[str, Any]
) -> None:
    """With a token for a tenant, or for streams, no log is shipped that brings others."""
    with shop.store.read() as view:
        sent = consign(view, "user", 0, shop.vault)
    assert sent is not None
    body = msgspec.json.encode(sent.shipment)
    path = f"/v1/producers/{SHOP}/user"

    def status(**more: Any) -> tuple[int, int]:
        token = issued(collector, "recorder", producer=SHOP, **more)
        headers = {**bearer(token), "Content-Type": "application/json"}
        asked = client.get(path, headers=headers).status_code
        return asked, client.post(f"{path}/entries", content=body, headers=headers).status_code

    assert (404, 404) == status(**limits)
    assert 0 == len(trail.search("stream:user").items)
    assert (200, 200) == status(tenant="shop", streams=("user",))


def test_what_is_shipped_on_is_told_within_the_streams_of_a_caller(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """Sinks of streams that a caller does not see are not there, and neither are metrics."""
    with trail.store.write() as transaction:
        progress = Progress(url="https://siem.example.com", size=0, checkpoint="", at=1)
        remember(transaction, "user", progress)
    elsewhere = {"X-Forwarded-For": "192.0.2.17"}
    limited = {**bearer(issued(collector, "auditor", streams=("admin",))), **elsewhere}
    whole = {**bearer(issued(collector, "auditor")), **elsewhere}

    assert [] == client.get("/v1/sinks", headers=limited).json()
    assert 1 == len(client.get("/v1/sinks", headers=whole).json())
    assert 403 == client.get("/metrics", headers=limited).status_code
    assert 200 == client.get("/metrics", headers=whole).status_code


def test_no_later_entry_stands_before_the_one_that_has_its_id(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """Whoever brings an event under an id that is taken hides nothing by it."""
    first = trail.record("role.grant", actor="user:bob", resource="role:admin", tenant="shop")
    recorder = bearer(issued(collector, "recorder"))
    event = {
        "id": first.id,
        "occurred_at": "2026-11-24T10:00:00Z",
        "action": "nothing.special",
        "actor": "system",
        "resource": "role:admin",
    }

    answer = client.post("/v1/events", headers=recorder, json={"events": [event]})

    assert 201 == answer.json()["results"][0]["status"]
    found = client.get(f"/v1/entries/{first.id}", headers=bearer(issued(collector, "auditor")))
    assert "role.grant" == found.json()["event"]["action"]


@pytest.mark.parametrize("name", ["日本", "müller", "a b?c#d%", "x\r\nSet-Cookie: a=b"])
def test_pages_go_on_whatever_an_id_is_written_in(
    client: Served, collector: Collector, trail: Trail, name: str
) -> None:
    """The link to the next page can be followed for an id of any characters, and is one header."""
    for _ in range(2):
        trail.record("invoice.pay", actor="user:bob", resource=f"invoice:{name}")
    auditor = bearer(issued(collector, "auditor"))
    path = f"/v1/resources/invoice/{quote(name, safe='')}/history?limit=1"

    page = client.get(path, headers=auditor)
    following = client.get(page.headers["link"].partition(">")[0][1:], headers=auditor)

    assert page.headers["link"].isascii()
    assert page.headers["link"].isprintable()
    assert [1] == [each["integrity"]["index"] for each in following.json()["items"]]


def test_a_body_that_is_nested_too_deep_is_refused(client: Served, collector: Collector) -> None:
    """It is the caller's fault, and said to be."""
    headers = {**bearer(issued(collector, "operator")), "Content-Type": "application/json"}

    answer = client.post("/v1/tokens", headers=headers, content=b"[" * 100_000)

    assert (400, "/problems/malformed") == (answer.status_code, answer.json()["type"])
