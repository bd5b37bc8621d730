"""The OpenAPI document is true: what it says is taken is taken, what it says is answered is."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from indelible.collector.app import create_app
from indelible.collector.state import Collector
from indelible.rights import RIGHTS
from indelible.trail import Trail
from indelible.views import VIEWS
from indelible.wire import PROBLEM
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import Case
    from schemathesis.schemas import APIOperation
    from schemathesis.specs.openapi.schemas import OpenApiSchema

    from tests.collector.conftest import Served

    Headers = dict[str, str]
    Operation = APIOperation[Any, Any, Any, Any]

ORIGIN = "audit.example.com/shop/user"

PROBLEMS = {
    "GET /health/live": set(),
    "GET /health/ready": {503},
    "GET /v1/policy": {400, 401, 403, 429, 500, 503},
    "GET /v1/entries": {400, 401, 403, 404, 410, 429, 500, 503},
    "POST /v1/events": {400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503},
    "DELETE /v1/tokens/{token_id}": {400, 401, 403, 404, 409, 429, 500, 503},
    "GET /v1/exports/{export_id}/file": {400, 401, 403, 404, 409, 410, 429, 500, 503},
}
"""Which problems some operations may answer, by hand."""

MADE: dict[str, tuple[str, Any]] = {
    "POST /v1/holds": ("privacy_officer", {"ground": "case 7", "subject": "user:alice"}),
    "POST /v1/tokens": ("operator", {"name": "shop", "role": "reader"}),
    "POST /v1/viewer-tokens": ("reader", {"name": "carol"}),
    "POST /v1/exports": ("auditor", {"query": "", "format": "csv", "rationale": "case 7"}),
    "POST /v1/access-requests": (
        "auditor",
        {"query": "action:invoice.*", "rationale": "case 7", "duration": "1h"},
    ),
    "POST /v1/events:validate": ("recorder", {"events": [{}]}),
    "POST /v1/events": ("recorder", {"events": [{}]}),
}
"""By whom, and of what, some things are made."""

NOT_THERE = {
    # No producer is enrolled; plans wait where a policy has people who may approve them.
    *("GET /v1/producers/{origin}", "GET /v1/approvals/{digest}"),
}
"""What is shown of things that are not in this trail."""

WRONG = {
    "text for a truth": (b'{"ground": "case 7", "everything": "true"}', "application/json", 400),
    "an unknown field": (b'{"ground": "case 7", "all": true}', "application/json", 400),
    "not UTF-8": (b'{"ground": "\xff", "everything": true}', "application/json", 400),
    "no JSON": (b'{"ground": "case 7"', "application/json", 400),
    "nothing": (b"", "application/json", 400),
    "another type": (b'{"ground": "case 7", "everything": true}', "text/plain", 415),
}
"""Bodies that place no legal hold, and how they are answered."""


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Make a trail in which something was recorded."""
    path = tmp_path_factory.mktemp("schema")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with Trail.create(path / "trail", origin="audit.example.com/collector") as made:
            made.record(
                "invoice.approve",
                actor="user:alice",
                resource="invoice:INV-7",
                changes={"status": ("draft", "paid")},
                rationale="PO-99",
            )
            yield made


@pytest.fixture(scope="module")
def collector(trail: Trail) -> Collector:
    """Be a collector that slows nobody down."""
    return Collector(trail, FAST)


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve the collector in this process."""
    with serving(collector) as served:
        yield served


@pytest.fixture(scope="module")
def written(client: Served) -> dict[str, Any]:
    """Return the document as it is answered."""
    found: dict[str, Any] = client.get("/schema/openapi.json").json()
    return found


@pytest.fixture
def document(written: dict[str, Any], collector: Collector) -> OpenApiSchema:
    """Return the document with an application that is asked; it is stopped after each test."""
    found = schemathesis.openapi.from_dict(written)
    found.app = create_app(collector)
    # Each caller of ours comes with its own.
    found.config.generation.update(with_security_parameters=False)
    # What is of the documented shape may still mean nothing: a query, a role, a signed note.
    found.config.checks.positive_data_acceptance.enabled = False
    return found


@pytest.fixture(scope="module")
def callers(collector: Collector) -> dict[str, Headers]:
    """Return with what each role comes, and nothing for who has no token."""
    ships = {"recorder": "audit.example.com/*", "join": "audit.example.com/*"}
    found = {role: bearer(issued(collector, role, producer=ships.get(role))) for role in RIGHTS}
    return {"nobody": {}, **found}


@pytest.fixture(scope="module")
def there(client: Served, callers: dict[str, Headers], trail: Trail) -> dict[str, str]:
    """Return what stands in the paths of what is there, and of what is not."""
    (item,) = trail.search("stream:user action:invoice.approve").items
    made = {}
    for name in ("holds", "exports", "access-requests"):
        role, body = MADE[f"POST /v1/{name}"]
        made[name] = client.post(f"/v1/{name}", json=body, headers=callers[role]).json()["id"]
    state = "waiting"
    while state in {"waiting", "running"}:
        shown = client.get(f"/v1/exports/{made['exports']}", headers=callers["auditor"])
        state = shown.json()["state"]
    return {
        "event_id": item.event.id,
        "resource_type": "invoice",
        "rest": "INV-7/history",
        "actor": "user:alice",
        "stream": "user",
        "log": "user",
        "name": VIEWS[0].name,
        "subject_type": "user",
        "subject_id": "alice",
        "hold_id": made["holds"],
        "export_id": made["exports"],
        "request_id": made["access-requests"],
        "digest": "0" * 64,
        "origin": ORIGIN,
    }


def counted(text: str, **labels: str) -> float:
    """Return how many requests with these *labels* the metrics in *text* know of."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "indelible_request_seconds_count" and sample.labels == labels
    )


def operations(document: OpenApiSchema) -> dict[str, Operation]:
    """Return the operations by method and path."""
    found = {}
    for each in document.get_all_operations():
        assert isinstance(each, Ok), each
        found[each.ok().label] = each.ok()
    return found


def try_out(
    operation: Operation, mode: GenerationMode, callers: dict[str, Headers], *, examples: int
) -> None:
    """Send data of the documented shape, or of others, for each of *callers*; check answers."""

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def each(case: Case[Any]) -> None:
        for headers in callers.values():
            case.call_and_validate(headers=dict(headers))

    each()


def test_what_is_taken_and_answered_is_as_documented(
    document: OpenApiSchema, callers: dict[str, Headers]
) -> None:
    """Whoever asks, and whatever of the documented shape: no error of ours, nothing unsaid."""
    for operation in operations(document).values():
        try_out(operation, GenerationMode.POSITIVE, callers, examples=3)


def test_what_is_not_documented_is_refused(
    document: OpenApiSchema, callers: dict[str, Headers]
) -> None:
    """Data of another shape is refused, and with a problem that is documented."""
    for operation in operations(document).values():
        # Any text may stand in a path or a header: there, none is of another shape.
        if operation.query or operation.body:
            try_out(operation, GenerationMode.NEGATIVE, callers, examples=3)


def test_what_is_made_is_answered_as_documented(
    document: OpenApiSchema, callers: dict[str, Headers]
) -> None:
    """To who may, in the documented shape."""
    known = operations(document)

    for label, (role, body) in MADE.items():
        case = known[label].Case(body=body, media_type="application/json")
        answer = case.call_and_validate(headers=dict(callers[role]))

        assert answer.status_code < 300, label


def test_what_is_there_is_shown_as_documented(
    document: OpenApiSchema, callers: dict[str, Headers], there: dict[str, str]
) -> None:
    """Each operation that shows something shows it, in the documented shape, to some role."""
    shown = set()
    known = {label: each for label, each in operations(document).items() if each.method == "get"}

    for label, operation in known.items():
        path = "000.p/1" if "entries/{path}" in label else "0/000.p/1"
        query = {"first": 0} if "first" in operation.query else {}
        for headers in callers.values():
            case = operation.Case(path_parameters={**there, "path": path}, query=query)
            if case.call_and_validate(headers=dict(headers)).status_code == 200:
                shown.add(label)

    assert known.keys() - NOT_THERE == shown


def test_what_each_operation_may_answer_is_written(written: dict[str, Any]) -> None:
    """With the problems that it may answer, and no others."""
    found = {}
    for label in PROBLEMS:
        method, path = label.split(" ")
        answers = written["paths"][path][method.lower()]["responses"]
        found[label] = {int(status) for status in answers if status >= "400"}

    assert PROBLEMS == found


def test_a_path_answers_other_methods_with_those_that_it_has(
    client: Served, written: dict[str, Any]
) -> None:
    """And with a problem: 405, and ``Allow``."""
    for path, operations_there in written["paths"].items():
        there = {method.upper() for method in operations_there}
        if path.startswith("/v1/producers/{origin}"):
            # An origin holds slashes, so its end may be that of any of these paths.
            there = {"GET", "POST", "DELETE"}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - there:
            answer = client.request(method, re.sub(r"{\w+}", "0", path))

            assert 405 == answer.status_code, f"{method} {path}"
            assert PROBLEM == answer.headers["content-type"]
            assert there | {"OPTIONS"} == set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_body_is_taken_as_it_is_documented_or_not_at_all(
    client: Served, callers: dict[str, Headers], trail: Trail, wrong: str
) -> None:
    """Nothing is read into it: what would hold everything must say so, in JSON."""
    body, media_type, status = WRONG[wrong]
    before = trail.holds()

    answer = client.post(
        "/v1/holds",
        content=body,
        headers={**callers["privacy_officer"], "Content-Type": media_type},
    )

    assert (status, PROBLEM) == (answer.status_code, answer.headers["content-type"])
    assert before == trail.holds()


def test_who_is_turned_away_is_counted_as_what_is_answered(
    client: Served, collector: Collector
) -> None:
    """A token that is none is no error of the collector, which would raise an alert."""
    asked = {"method": "GET", "route": "/v1/tokens"}
    before = collector.metrics.exposed("")[0].decode()

    answer = client.get("/v1/tokens", headers={"Authorization": "Bearer rubbish"})

    after = collector.metrics.exposed("")[0].decode()
    assert 401 == answer.status_code
    refused = [counted(text, **asked, status="401") for text in (before, after)]
    failed = [counted(text, **asked, status="500") for text in (before, after)]
    assert (refused[0] + 1, failed[0]) == (refused[1], failed[1])


@pytest.mark.soak
@pytest.mark.parametrize("role", ["nobody", *RIGHTS])
def test_long_trying_finds_nothing_that_is_not_documented(
    document: OpenApiSchema, callers: dict[str, Headers], role: str
) -> None:
    """Every boundary of every parameter, other methods, random data, and chains of requests."""
    document.config.update(headers=dict(callers[role]))
    document.config.generation.update(max_examples=50, deterministic=True)
    # Paths of producers overlap, as is said above; and to OPTIONS, the framework leaves out
    # methods of a path that has several handlers.
    document.config.checks.allow_header_conformance.enabled = False

    tried: Counter[str] = Counter()
    failed = []
    for event in from_schema(document).execute():
        assert not isinstance(event, FatalError | NonFatalError), event
        if isinstance(event, ScenarioFinished):
            for checks in event.recorder.checks.values():
                tried.update(check.name for check in checks)
                failed += [check.failure_info for check in checks if check.failure_info]

    assert [] == failed
    assert tried["not_a_server_error"] > 1_000
    assert {"status_code_conformance", "response_schema_conformance"} <= tried.keys()
    assert {"negative_data_rejection", "unsupported_method"} <= tried.keys()
