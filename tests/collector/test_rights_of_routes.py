"""Who may ask for what: every route of the application, and every role, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from litestar.routes import HTTPRoute

from indelible import tokens
from indelible.collector.state import Collector
from indelible.rights import RIGHTS
from indelible.trail import Trail
from tests.collector.conftest import FAST, HOUR, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.collector.conftest import Served

NOBODY_NEEDED = frozenset({"anybody"})
"""Also without a token: these say nothing of what is in the trail."""

RECORDERS = frozenset({"recorder"})
READERS = frozenset({"reader", "auditor", "privacy_officer"})
OBSERVERS = frozenset({"auditor", "operator"})
OPERATORS = frozenset({"operator"})
PRIVACY_OFFICERS = frozenset({"privacy_officer"})
EXPORTERS = frozenset({"auditor", "privacy_officer"})

WHO_MAY = {
    "GET /health/live": NOBODY_NEEDED,
    "GET /health/ready": NOBODY_NEEDED,
    "GET /metrics": OBSERVERS,
    # ---- Writing ----
    "POST /v1/producers/{target:path}": RECORDERS,
    "POST /v1/events": RECORDERS,
    "POST /v1/events:validate": RECORDERS,
    "POST /v1/producers": OPERATORS | {"join"},
    "GET /v1/producers": OBSERVERS,
    "GET /v1/producers/{origin:path}": OBSERVERS | RECORDERS,
    "DELETE /v1/producers/{origin:path}": OPERATORS,
    # ---- Access tokens ----
    "GET /v1/tokens": OPERATORS,
    "POST /v1/tokens": OPERATORS,
    "POST /v1/tokens/{token_id:str}/rotate": OPERATORS,
    "DELETE /v1/tokens/{token_id:str}": OPERATORS,
    "POST /v1/viewer-tokens": READERS | OPERATORS,
    # ---- Reading ----
    "GET /v1/entries": READERS,
    "GET /v1/entries/{event_id:str}": READERS,
    "GET /v1/entries/{event_id:str}/proof": READERS,
    "GET /v1/resources/{resource_type:str}/{rest:path}": READERS,
    "GET /v1/actors/{actor:path}": READERS,
    "GET /v1/facets": READERS,
    "GET /v1/views": READERS,
    "GET /v1/views/{name:str}": READERS,
    "GET /v1/feed/{stream:str}": READERS,
    # ---- Asking for more ----
    "POST /v1/access-requests": READERS | OPERATORS,
    "GET /v1/access-requests": READERS | OPERATORS,
    "GET /v1/access-requests/{request_id:str}": READERS | OPERATORS,
    "POST /v1/access-requests/{request_id:str}/decision": PRIVACY_OFFICERS,
    "DELETE /v1/access-requests/{request_id:str}": READERS | OPERATORS,
    # ---- Governing ----
    "GET /v1/policy": READERS | OPERATORS,
    "PUT /v1/policy": OPERATORS,
    "GET /v1/holds": PRIVACY_OFFICERS,
    "POST /v1/holds": PRIVACY_OFFICERS,
    "DELETE /v1/holds/{hold_id:str}": PRIVACY_OFFICERS,
    "GET /v1/erasures": PRIVACY_OFFICERS | OBSERVERS,
    "POST /v1/erasures": PRIVACY_OFFICERS,
    "POST /v1/erasures/{digest:str}/carry-out": PRIVACY_OFFICERS,
    "GET /v1/approvals": PRIVACY_OFFICERS,
    "POST /v1/approvals": PRIVACY_OFFICERS,
    "GET /v1/approvals/{digest:str}": PRIVACY_OFFICERS | OPERATORS,
    "GET /v1/subjects/{subject_type:str}/{subject_id:path}": PRIVACY_OFFICERS,
    # ---- Taking away ----
    "GET /v1/exports": EXPORTERS,
    "POST /v1/exports": EXPORTERS,
    "GET /v1/exports/{export_id:str}": EXPORTERS,
    "GET /v1/exports/{export_id:str}/file": EXPORTERS,
    "DELETE /v1/exports/{export_id:str}": EXPORTERS,
    "GET /v1/sinks": OBSERVERS,
    # ---- The tree: no values ----
    "GET /v1/checkpoints": READERS | OPERATORS,
    "GET /v1/integrity": READERS | OPERATORS,
    "GET /log/{log:str}/checkpoint": READERS | OPERATORS,
    "GET /log/{log:str}/tile/{path:path}": READERS | OPERATORS,
    "GET /log/{log:str}/tile/entries/{path:path}": READERS,
    "GET /log/{log:str}/consistency": READERS | OPERATORS,
}
"""Who may ask for each route, written here once more, and by hand."""

CONFIGURES = [
    *("POST /v1/producers", "DELETE /v1/producers/{origin:path}", "PUT /v1/policy"),
    *("POST /v1/tokens", "POST /v1/tokens/{token_id:str}/rotate"),
    *("DELETE /v1/tokens/{token_id:str}", "GET /v1/tokens"),
]
"""Routes that change how the collector works, or show who may use it."""

SECRETS = ("zaphod-4711", "galaxy-4712", "towel-4713", "vogon-4714", "fjord-4715", "magrathea-4716")
"""What was recorded: as actor, resource, changes, rationale, and in data."""

ROLES = ("recorder", "join", "reader", "auditor", "privacy_officer", "operator")
WITHOUT = ("no token", "an expired token", "a revoked token", "an unknown token")


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Make a trail in which something was recorded."""
    path = tmp_path_factory.mktemp("rights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with Trail.create(path / "trail", origin="audit.example.com/collector") as made:
            made.record(
                "invoice.approve",
                actor=f"user:{SECRETS[0]}",
                resource=f"invoice:{SECRETS[1]}",
                changes={"status": (SECRETS[2], SECRETS[3])},
                rationale=SECRETS[4],
                data={"note": SECRETS[5]},
            )
            yield made


@pytest.fixture(scope="module")
def collector(trail: Trail) -> Collector:
    """Be a collector whose metrics are for those who may observe, wherever they come from."""
    return Collector(trail, FAST)


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve the collector in this process."""
    with serving(collector) as served:
        yield served


@pytest.fixture(scope="module")
def headers(collector: Collector) -> dict[str, dict[str, str]]:
    """Return with what each kind of caller comes."""
    found = {
        role: bearer(
            issued(
                collector,
                role,
                producer="audit.example.com/*" if role in {"recorder", "join"} else None,
            )
        )
        for role in ROLES
    }
    expired = issued(collector, "operator", lasts=1)
    revoked = issued(collector, "operator", lasts=HOUR)
    tokens.revoke(collector.trail, tokens.taken_apart(revoked)[0], by="owner", now=collector.now())
    return {
        **found,
        "no token": {},
        "an expired token": bearer(expired),
        "a revoked token": bearer(revoked),
        "an unknown token": bearer(f"indelible_{'0' * 16}_{'a' * 43}"),
    }


def routes(collector: Collector) -> Iterator[str]:
    """Yield method and template of each route, but those that describe the others."""
    with serving(collector) as client:
        app = client.app
    for route in app.routes:
        if isinstance(route, HTTPRoute) and not route.path.startswith("/schema"):
            for method in route.methods - {"OPTIONS", "HEAD"}:
                yield f"{method} {route.path}"


def ask(client: Served, route: str, event_id: str, headers: dict[str, str]) -> Any:  # noqa: ANN401
    """Return the answer to a request for *route* that goes as far as it can."""
    method, template = route.split(" ")
    path = template
    for parameter, value in (
        ("{event_id:str}", event_id),
        ("{token_id:str}", "0" * 16),
        ("{request_id:str}", "0" * 16),
        ("{hold_id:str}", "0" * 16),
        ("{export_id:str}", "0" * 16),
        ("{digest:str}", "0" * 64),
        ("{subject_type:str}/{subject_id:path}", f"user/{SECRETS[0]}"),
        ("{resource_type:str}/{rest:path}", f"invoice/{SECRETS[1]}/history"),
        ("{actor:path}", "service:shop"),
        ("{log:str}/tile/entries/{path:path}", "user/tile/entries/000.p/1"),
        ("{log:str}/tile/{path:path}", "user/tile/0/000.p/1"),
        ("{log:str}", "user"),
        ("{stream:str}", "user"),
        ("{name:str}", "denied"),
        ("{target:path}", "audit.example.com/shop/user/entries"),
        ("{origin:path}", "audit.example.com/shop/user"),
    ):
        path = path.replace(parameter, value)
    assert "{" not in path, f"{route}: a parameter that this test has no value for"
    return client.request(
        method, path, headers=headers, json={} if method in {"POST", "PUT"} else None
    )


@pytest.fixture(scope="module")
def event_id(trail: Trail) -> str:
    """Return the id of what was recorded."""
    (item,) = trail.search("stream:user action:invoice.approve").items
    return item.event.id


def test_every_route_is_in_the_table(collector: Collector) -> None:
    """Who adds a route says here who may ask for it."""
    assert sorted(WHO_MAY) == sorted(routes(collector))


def test_every_role_is_asked_for() -> None:
    """Who adds a role says here what it may."""
    assert set(ROLES) == set(RIGHTS)


@pytest.mark.parametrize("route", WHO_MAY)
def test_each_role_may_what_the_table_says_and_no_more(
    client: Served, headers: dict[str, dict[str, str]], event_id: str, route: str
) -> None:
    """All others get 403, with nothing of what they asked for."""
    answers = {role: ask(client, route, event_id, headers[role]) for role in ROLES}

    allowed = {role for role, answer in answers.items() if answer.status_code not in {401, 403}}
    others = {answer.status_code for role, answer in answers.items() if role not in allowed}
    assert (set(ROLES) if WHO_MAY[route] is NOBODY_NEEDED else WHO_MAY[route]) == allowed
    assert others <= {403}
    assert not any(
        secret in answer.text
        for role, answer in answers.items()
        if role not in allowed
        for secret in SECRETS
    )
    assert max(answer.status_code for answer in answers.values()) < 500


@pytest.mark.parametrize("route", WHO_MAY)
def test_without_a_token_that_works_nobody_may_anything(
    client: Served, headers: dict[str, dict[str, str]], event_id: str, route: str
) -> None:
    """Without one, or with one that is expired, revoked or none: 401, and nothing else."""
    answers = [ask(client, route, event_id, headers[each]) for each in WITHOUT]

    if WHO_MAY[route] is NOBODY_NEEDED:
        assert {200} == {answer.status_code for answer in answers}
    else:
        assert [401] * 4 == [answer.status_code for answer in answers]
        assert {"application/problem+json"} == {
            answer.headers["content-type"] for answer in answers
        }


@pytest.mark.parametrize("route", WHO_MAY)
def test_an_operator_sees_no_value_that_was_recorded(
    client: Served, headers: dict[str, dict[str, str]], event_id: str, route: str
) -> None:
    """In no answer and in no header, also not what is public in the log."""
    answer = ask(client, route, event_id, headers["operator"])

    shown = f"{answer.text} {answer.headers}"
    assert [] == [secret for secret in SECRETS if secret in shown]


def test_a_reader_sees_what_an_operator_does_not(
    client: Served, headers: dict[str, dict[str, str]], event_id: str
) -> None:
    """The values are there; it is the role that does not see them."""
    shown = ask(client, "GET /v1/entries/{event_id:str}", event_id, headers["reader"]).text

    assert SECRETS[1] in shown


@pytest.mark.parametrize("route", CONFIGURES)
def test_an_auditor_configures_nothing(
    client: Served, headers: dict[str, dict[str, str]], event_id: str, route: str
) -> None:
    """Whoever looks at how a collector is run does not run it."""
    assert 403 == ask(client, route, event_id, headers["auditor"]).status_code


def test_what_describes_the_routes_says_nothing_of_the_trail(client: Served) -> None:
    """The OpenAPI document is for everybody, and the same before and after recording."""
    answer = client.get("/schema/openapi.json")

    assert 200 == answer.status_code
    assert [] == [secret for secret in SECRETS if secret in answer.text]
