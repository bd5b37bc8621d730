from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from indelible import tokens
from indelible.collector.state import Collector
from indelible.testing import FrozenClock
from tests.collector.conftest import FAST, HOUR, bearer, issued, serving

if TYPE_CHECKING:
    from indelible.trail import Trail
    from tests.collector.conftest import Issue, Served

NOW = 1_800_000_000_000_000
READER = {"name": "alice", "role": "reader"}


def entries(trail: Trail, action: str) -> list[dict[str, Any]]:
    """Return the data of the custody entries with this action, oldest first."""
    items = trail.search(f"stream:custody action:{action}").items
    return [dict(item.event.data or {}) for item in reversed(items)]


def id_of(secret: str) -> str:
    """Return the id of a token."""
    return tokens.taken_apart(secret)[0]


# ---- Issuing ----


def test_a_token_is_shown_once_and_works_at_once(client: Served, token: Issue) -> None:
    """Its secret is in no other answer, and no proxy keeps the one that it is in."""
    operator = bearer(token("operator"))

    made = client.post("/v1/tokens", headers=operator, json={**READER, "role": "operator"})
    listed = client.get("/v1/tokens", headers=operator)
    used = client.get("/v1/tokens", headers=bearer(made.json()["token"]))

    assert (201, 200, 200) == (made.status_code, listed.status_code, used.status_code)
    assert "no-store" == made.headers["cache-control"]
    secret = tokens.taken_apart(made.json()["token"])[1]
    assert secret not in listed.text
    assert made.json()["id"] in [each["id"] for each in listed.json()]


def test_who_issued_a_token_is_an_entry(client: Served, token: Issue, trail: Trail) -> None:
    """With its role and limits, and never its secret."""
    operator = token("operator")

    made = client.post(
        "/v1/tokens",
        headers=bearer(operator),
        json={
            "name": "shop",
            "role": "recorder",
            "producer": "audit.example.com/shop",
            "tenant": "shop",
        },
    ).json()

    entry = entries(trail, "token.issue")[-1]
    assert (made["id"], id_of(operator), "recorder", "audit.example.com/shop", "shop") == tuple(
        entry[name] for name in ("token", "by", "role", "producer", "tenant")
    )
    assert tokens.taken_apart(made["token"])[1] not in str(entry)


@pytest.mark.parametrize("role", ["auditor", "privacy_officer", "owner", "admin"])
def test_no_token_that_sees_values_is_issued_over_the_network(
    client: Served, token: Issue, trail: Trail, role: str
) -> None:
    """That takes the trail's own keys; an operator could else give itself every right."""
    answer = client.post(
        "/v1/tokens", headers=bearer(token("operator")), json={**READER, "role": role}
    )

    assert 403 == answer.status_code
    assert "indelible token issue" in answer.json()["detail"]
    assert ["operator"] == [entry["role"] for entry in entries(trail, "token.issue")]


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"expires_in": "90"}, 400, "expires_in"),
        ({"expires_in": "400d"}, 400, "at most 366d"),
        ({"streams": ["usr"]}, 400, "streams: found 'usr'"),
        ({"tenant": ""}, 400, "tenant"),
        ({"name": ""}, 400, "name"),
        ({"name": None}, 400, "name"),
        ({"unknown": 1}, 400, "unknown field"),
        ({"role": "join"}, 400, "producer: found none"),
    ],
)
def test_what_means_nothing_is_named(
    client: Served, token: Issue, wrong: dict[str, Any], status: int, said: str
) -> None:
    """The field, what was found and what is expected."""
    answer = client.post("/v1/tokens", headers=bearer(token("operator")), json={**READER, **wrong})

    assert status == answer.status_code
    assert said in answer.text


def test_an_operator_of_one_tenant_has_only_its_tokens(client: Served, token: Issue) -> None:
    """It issues none for others, and those of others are not there."""
    operator = bearer(token("operator", tenant="shop"))
    mine, other = id_of(token("reader", tenant="shop")), id_of(token("reader", tenant="billing"))

    wider = client.post("/v1/tokens", headers=operator, json=READER)
    listed = client.get("/v1/tokens", headers=operator).json()
    rotated = client.post(f"/v1/tokens/{other}/rotate", headers=operator)
    revoked = client.delete(f"/v1/tokens/{other}", headers=operator)
    missing = client.delete(f"/v1/tokens/{'0' * 16}", headers=operator)

    assert 403 == wider.status_code
    assert {"shop"} == {each["tenant"] for each in listed}
    assert mine in [each["id"] for each in listed]
    assert [404, 404] == [rotated.status_code, revoked.status_code]
    assert missing.json() == rotated.json() == revoked.json()


# ---- Rotating and revoking ----


def test_a_rotated_token_works_for_an_hour_yet(trail: Trail) -> None:
    """And its successor from now on."""
    now = FrozenClock(NOW)
    collector = Collector(trail, FAST, now=now)
    operator, old = issued(collector, "operator", lasts=9 * HOUR), issued(collector, "operator")

    with serving(collector) as client:
        path = f"/v1/tokens/{id_of(old)}/rotate"
        new = client.post(path, headers=bearer(operator), json={"overlap": "30min"})
        both = [
            client.get("/v1/tokens", headers=bearer(each)).status_code
            for each in (old, new.json()["token"])
        ]
    now.move(HOUR // 2)
    with serving(collector) as client:
        later = [
            client.get("/v1/tokens", headers=bearer(each)).status_code
            for each in (old, new.json()["token"])
        ]

    assert 201 == new.status_code
    assert [200, 200] == both
    assert [401, 200] == later
    assert [id_of(operator)] == [entry["by"] for entry in entries(trail, "token.rotate")]


def test_a_token_that_sees_values_is_not_rotated_over_the_network(
    client: Served, token: Issue
) -> None:
    """Its new secret would go to whoever asks."""
    auditor = token("auditor")

    answer = client.post(f"/v1/tokens/{id_of(auditor)}/rotate", headers=bearer(token("operator")))

    assert 403 == answer.status_code
    assert "token" not in answer.json()


def test_a_revoked_token_is_refused_by_a_new_process(
    client: Served, token: Issue, collector: Collector
) -> None:
    """Any token may be revoked by an operator, also one that it could not have issued."""
    auditor, operator = token("auditor"), token("operator")

    first = client.delete(f"/v1/tokens/{id_of(auditor)}", headers=bearer(operator))
    again = client.delete(f"/v1/tokens/{id_of(auditor)}", headers=bearer(operator))
    with serving(collector) as other:
        answer = other.get("/v1/tokens", headers=bearer(auditor))

    assert [204, 204] == [first.status_code, again.status_code]
    assert 401 == answer.status_code
    assert [id_of(operator)] == [entry["by"] for entry in entries(collector.trail, "token.revoke")]


# ---- Viewer tokens ----


def viewer(client: Served, issuer: str, **more: Any) -> Any:  # noqa: ANN401 - an answer
    """Return the answer to who asks for a viewer token."""
    return client.post("/v1/viewer-tokens", headers=bearer(issuer), json={"name": "bob", **more})


def test_a_viewer_token_is_limited_to_what_its_issuer_is(client: Served, token: Issue) -> None:
    """Without limits of its own it has the issuer's, and it may have narrower ones."""
    issuer = token("reader", tenant="shop", streams=("user", "admin"))

    same, narrower = viewer(client, issuer), viewer(client, issuer, streams=["user"])

    assert [201, 201] == [same.status_code, narrower.status_code]
    assert ("shop", ["user", "admin"]) == (same.json()["tenant"], same.json()["streams"])
    assert ("shop", ["user"]) == (narrower.json()["tenant"], narrower.json()["streams"])
    assert "no-store" == same.headers["cache-control"]


@pytest.mark.parametrize(
    "wider", [{"tenant": "billing"}, {"streams": ["auth"]}, {"streams": ["user", "auth"]}]
)
def test_a_viewer_token_is_never_wider(client: Served, token: Issue, wider: dict[str, Any]) -> None:
    """Nobody hands on what they have not."""
    issuer = token("auditor", tenant="shop", streams=("user",))

    assert 403 == viewer(client, issuer, **wider).status_code


@pytest.mark.parametrize("lasts", ["2h", "61min", "1", ""])
def test_a_viewer_token_lasts_an_hour_at_most(client: Served, token: Issue, lasts: str) -> None:
    """So that it need not be revoked."""
    answer = viewer(client, token("reader"), expires_in=lasts)

    assert 400 == answer.status_code
    assert answer.json()["detail"].startswith("expires_in: ")


def test_when_a_viewer_token_expires_is_said(client: Served, token: Issue) -> None:
    """Whoever hands it on knows when to ask for the next."""
    answer = viewer(client, token("reader"), expires_in="10min").json()

    expires = datetime.fromisoformat(answer["expires_at"])
    assert timedelta(minutes=9) < expires - datetime.now(expires.tzinfo) <= timedelta(minutes=10)


def test_a_viewer_token_reads_and_makes_no_further_ones(client: Served, token: Issue) -> None:
    """It is a reader's, whoever issued it, and ends when it ends."""
    held = viewer(client, token("auditor")).json()["token"]

    reading = client.get("/v1/entries", headers=bearer(held))
    exporting = client.get("/v1/tokens", headers=bearer(held))
    prolonging = viewer(client, held)

    assert 200 == reading.status_code
    assert [403, 403] == [exporting.status_code, prolonging.status_code]


def test_a_viewer_token_dies_with_the_token_that_issued_it(
    client: Served, token: Issue, collector: Collector
) -> None:
    """Nothing is kept of it, and yet it can be taken back."""
    issuer = token("reader")
    held = viewer(client, issuer).json()["token"]
    before = client.get("/v1/entries", headers=bearer(held)).status_code

    client.delete(f"/v1/tokens/{id_of(issuer)}", headers=bearer(token("operator")))
    with serving(collector) as other:
        after = other.get("/v1/entries", headers=bearer(held)).status_code

    assert [200, 401] == [before, after]


def test_who_looks_with_a_viewer_token_is_named(client: Served, token: Issue, trail: Trail) -> None:
    """What was read is an entry that says by whom, and whose token let them."""
    issuer = token("reader")
    held = viewer(client, issuer).json()["token"]

    client.get("/v1/entries", headers=bearer(held))

    (entry,) = entries(trail, "entries.read")
    assert (f"viewer:{id_of(issuer)}", "bob") == (entry["caller"], entry["name"])
