"""Policy, holds and erasures over the network: the core decides, and the caller is named."""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from indelible.approval import Approval
from indelible.collector.governing import ACTED
from indelible.collector.state import Collector
from indelible.document import default_text, parse
from indelible.event import Actor, Change, Event, Outcome, Resource
from indelible.keys import SigningKey
from indelible.plan import Plan
from indelible.trail import Trail
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from httpx import Response

    from tests.collector.conftest import Served

    Ask = Callable[..., Response]

KEYS = {
    name: SigningKey.from_seed(name, bytes([number]) * 32)
    for number, name in enumerate(("alice", "bob", "carol"))
}
ALICE, BOB, CAROL = KEYS.values()
BASIS = "GDPR Art. 17(1)(b)"
ROLES = {"alice": "dpo", "bob": "audit-lead", "carol": "clerk"}


def document(version: int = 1, supersedes: bytes | None = None, *, erasure_n: int = 2) -> bytes:
    """Return a policy under which two of three people must consent."""
    before = (
        "" if supersedes is None else f', supersedes = "sha256:{parse(supersedes).digest.hex()}"'
    )
    text = default_text().decode().partition("[governance]")[0]
    text = text.replace(
        'policy = { id = "default", version = 1 }',
        f'policy = {{ id = "shop", version = {version}{before} }}',
    )
    people = "".join(
        f'{name} = {{ name = "{name}", key = "ed25519:'
        f'{b64encode(key.verifier.public).decode()}", roles = ["{ROLES[name]}"] }}\n'
        for name, key in KEYS.items()
    )
    approvals = 'from = ["dpo", "audit-lead"]'
    return (
        f"{text}[people]\n{people}[governance]\n"
        f"erasure = {{ approvals = {{ n = {erasure_n}, {approvals} }} }}\n"
        f"loosening = {{ approvals = {{ n = 2, {approvals} }} }}\n"
    ).encode()


GOVERNED = document()
LOOSER = document(2, GOVERNED, erasure_n=1)
TIGHTER = document(2, GOVERNED).replace(
    b'"/request" = { class = "public" }', b'"/request" = { class = "internal" }'
)


def event(actor: str = "user:alice") -> Event:
    """Return an event with values of its actor and of its resource."""
    return Event(
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse("customer:carol"),
        changes={"email": Change("old@example.com", "new@example.com")},
        session="session-1",
    )


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make a trail that people govern, with entries of alice and bob."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Trail.create(
        tmp_path / "trail", origin="audit.example.com/collector", policy=parse(GOVERNED)
    ) as made:
        made.record_many([event(), event(), event("user:bob")])
        yield made


@pytest.fixture
def by_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Trail, Served]]:
    """Serve a trail under the default policy: its owner approves."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with (
        Trail.create(tmp_path / "owners", origin="audit.example.com/owners") as made,
        serving(Collector(made, FAST)) as served,
    ):
        made.record_many([event()])
        yield made, served


@pytest.fixture
def ask(client: Served, collector: Collector) -> Ask:
    """Return what asks as somebody: ``ask("operator", "PUT", "/v1/policy", json=…)``."""
    headers = {
        role: bearer(issued(collector, role, name=f"the {role}"))
        for role in ("operator", "privacy_officer", "auditor", "reader")
    }

    def ask(role: str, method: str, path: str, **more: Any) -> Response:
        return client.request(method, path, headers=headers.get(role) or bearer(role), **more)

    return ask


def note(answer: Response | Plan, signer: SigningKey, person: str | None = None) -> dict[str, str]:
    """Return the body that hands in the approval of a plan that was answered."""
    plan = answer if isinstance(answer, Plan) else Plan.from_bytes(b64decode(answer.json()["plan"]))
    name = signer.name if person is None else person
    return {"note": Approval.sign(plan, name, signer, datetime.now(UTC)).decode()}


def planned(ask: Ask, **more: Any) -> Response:
    """Plan the erasure of alice."""
    body = {"subject": "user:alice", "basis": BASIS, **more}
    return ask("privacy_officer", "POST", "/v1/erasures", json=body)


def said(trail: Trail, *actions: str) -> list[tuple[str, dict[str, Any]]]:
    """Return action and data of custody entries, the oldest first."""
    query = f"stream:custody action:({' OR '.join(actions)}) order:oldest"
    return [(item.event.action, item.event.data or {}) for item in trail.search(query).items]


def states(trail: Trail) -> list[set[str]]:
    """Return what there is of the values of each entry."""
    items = trail.search("stream:user order:oldest").items
    return [{state.value for state in item.states.values()} for item in items]


# ---- Whose the policy is ----


def test_the_policy_in_force_can_be_read(ask: Ask) -> None:
    """Whoever reads or observes learns by which rules, to the byte."""
    answer = ask("auditor", "GET", "/v1/policy").json()

    assert GOVERNED.decode() == answer["document"]
    assert parse(GOVERNED).label == answer["label"]
    assert parse(GOVERNED).digest.hex() == answer["digest"]


def test_what_tightens_a_policy_is_set_at_once_and_names_the_caller(ask: Ask, trail: Trail) -> None:
    """An operator may protect more; who it was stands behind the entry, in the same breath."""
    answer = ask("operator", "PUT", "/v1/policy", json={"document": TIGHTER.decode()})

    assert 200 == answer.status_code
    assert parse(TIGHTER).label == trail.policy.label
    (_, set_by), (acted, who) = said(trail, "policy.set", ACTED)[-2:]
    assert [] == set_by["loosens"]
    assert (ACTED, "policy.set", "the operator", "operator") == (
        acted,
        who["does"],
        who["name"],
        who["role"],
    )


def test_what_loosens_a_policy_waits_for_the_people_it_names(ask: Ask, trail: Trail) -> None:
    """The answer is a plan to be signed; with the notes of two people it is set."""
    body = {"document": LOOSER.decode()}

    first = ask("operator", "PUT", "/v1/policy", json=body)
    (shown,) = first.json()["errors"]
    plan = Plan.from_bytes(b64decode(shown["plan"]))
    ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, ALICE))
    second = ask("operator", "PUT", "/v1/policy", json=body)
    before = trail.policy.label
    ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, BOB))
    third = ask("operator", "PUT", "/v1/policy", json=body)

    assert [409, 409, 200] == [each.status_code for each in (first, second, third)]
    assert "/problems/not-approved" == first.json()["type"]
    assert shown["digest"] == second.json()["errors"][0]["digest"]
    assert ["alice"] == second.json()["errors"][0]["approved_by"]
    assert parse(GOVERNED).label == before
    assert parse(LOOSER).label == trail.policy.label
    assert [] == ask("privacy_officer", "GET", "/v1/approvals").json()
    assert not said(trail, "policy.set")[-1][1]["self_approved"]


def test_a_policy_that_does_not_follow_is_refused(ask: Ask, trail: Trail) -> None:
    """It names the one it supersedes, or it is not set; and nothing is planned."""
    stray = document(3, TIGHTER, erasure_n=1)

    answer = ask("operator", "PUT", "/v1/policy", json={"document": stray.decode()})
    no_policy = ask("operator", "PUT", "/v1/policy", json={"document": "policy = 1"})

    assert [400, 400] == [answer.status_code, no_policy.status_code]
    assert [] == said(trail, "policy.plan")


def test_the_owners_approval_is_not_given_over_the_network(
    by_owner: tuple[Trail, Served],
) -> None:
    """Where the policy asks for the owner alone, it is done where the trail's keys are."""
    trail, client = by_owner
    operator, officer = (
        bearer(issued(Collector(trail, FAST), role)) for role in ("operator", "privacy_officer")
    )
    text = default_text().replace(b'id = "default"', b'id = "own"')
    looser = text.replace(b'"/reason" = { class = "internal"', b'"/reason" = { class = "public"')

    policy = client.put("/v1/policy", headers=operator, json={"document": looser.decode()})
    erasure = client.post(
        "/v1/erasures", headers=officer, json={"subject": "user:alice", "basis": BASIS}
    )

    assert [409, 409] == [policy.status_code, erasure.status_code]
    assert "indelible policy set" in policy.json()["detail"]
    assert "indelible erase" in erasure.json()["detail"]
    assert "default" == trail.policy.id
    assert [] == said(trail, "erase.plan", "policy.plan", ACTED)


# ---- Erasures ----


def test_an_erasure_that_two_people_approved_is_carried_out(ask: Ask, trail: Trail) -> None:
    """Planned, approved and carried out: what is gone is gone rightly, and the trail verifies."""
    plan = planned(ask)
    for signer in (ALICE, BOB):
        ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, signer))
    ledger = ask("auditor", "GET", "/v1/erasures").json()
    path = f"/v1/erasures/{plan.json()['digest']}/carry-out"

    done = ask("privacy_officer", "POST", path)

    assert 201 == plan.status_code
    assert {"accountable": 2, "personal": 2} == plan.json()["values"]
    assert {"n": 2, "of": ["dpo", "audit-lead"]} == plan.json()["needed"]
    assert [("planned", ["alice", "bob"])] == [
        (each["state"], each["approved_by"]) for each in ledger
    ]
    assert (200, 2, 4) == (done.status_code, done.json()["entries"], done.json()["values"])
    assert [{"ERASED", "OPEN"}, {"ERASED", "OPEN"}, {"OPEN"}] == states(trail)
    (entry,) = ask("auditor", "GET", "/v1/erasures").json()
    assert ("effective", ["alice", "bob"]) == (entry["state"], entry["approved_by"])
    assert not entry.get("self_approved", False)
    verdict = trail.verify()
    assert verdict.passed


def test_every_step_of_an_erasure_names_who_asked_for_it(ask: Ask, trail: Trail) -> None:
    """Behind each entry that the trail writes about it stands the caller."""
    plan = planned(ask)
    for signer in (ALICE, BOB):
        ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, signer))

    ask("privacy_officer", "POST", f"/v1/erasures/{plan.json()['digest']}/carry-out")

    steps = ["erase.plan", "erase.approve", "erase.begin", "erase.effective"]
    found = [action for action, _ in said(trail, *steps, ACTED)]
    expected = ["erase.plan", "erase.approve", "erase.approve", "erase.begin", "erase.effective"]
    assert [each for step in expected for each in (step, ACTED)] == found
    assert {"the privacy_officer"} == {data["name"] for _, data in said(trail, ACTED)}


def test_an_erasure_is_carried_out_once(ask: Ask) -> None:
    """Who asks for it again is told so."""
    plan = planned(ask)
    for signer in (ALICE, BOB):
        ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, signer))
    path = f"/v1/erasures/{plan.json()['digest']}/carry-out"
    ask("privacy_officer", "POST", path)

    again = ask("privacy_officer", "POST", path)

    assert 409 == again.status_code
    assert "carried out already" in again.json()["detail"]


def test_without_enough_approvals_nothing_is_erased(ask: Ask, trail: Trail) -> None:
    """One person is not two; that it was refused is recorded, with who had asked."""
    plan = planned(ask)
    ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, ALICE))

    answer = ask("privacy_officer", "POST", f"/v1/erasures/{plan.json()['digest']}/carry-out")

    assert 409 == answer.status_code
    assert [{"OPEN"}] * 3 == states(trail)
    (refused, _), (_, who) = said(trail, "erase.refuse", ACTED)[-2:]
    assert ("erase.refuse", "the privacy_officer") == (refused, who["name"])


def test_an_approval_that_does_not_count_is_not_taken(
    ask: Ask, collector: Collector, trail: Trail
) -> None:
    """Not twice, not of the owner, not of whom the policy does not ask, not of whoever asks."""
    plan = planned(ask)
    alices = bearer(issued(collector, "privacy_officer", name="alice"))["Authorization"][7:]
    own = ask(alices, "POST", "/v1/erasures", json={"subject": "user:bob", "basis": BASIS})
    ask("privacy_officer", "POST", "/v1/approvals", json=note(plan, BOB))
    made = Plan.from_bytes(b64decode(plan.json()["plan"]))

    refused = [
        ask("privacy_officer", "POST", "/v1/approvals", json=body)
        for body in (
            note(plan, BOB),
            note(plan, CAROL),
            note(own, ALICE),
            {"note": trail.approve(made).decode()},
            {"note": note(plan, ALICE)["note"].replace(made.digest.hex()[:4], "0000", 1)},
            {"note": note(plan, SigningKey.generate("alice"))["note"]},
            {"note": "rubbish"},
        )
    ]

    assert "alice" == own.json()["requester"]
    assert [409, 409, 409, 409, 404, 422, 422] == [each.status_code for each in refused]
    (waiting,) = [
        each
        for each in ask("privacy_officer", "GET", "/v1/approvals").json()
        if each["digest"] == plan.json()["digest"]
    ]
    assert ["bob"] == waiting["approved_by"]


def test_people_get_the_exact_bytes_that_they_are_to_sign(ask: Ask) -> None:
    """Whoever approves reads the same plan as whoever made it."""
    plan = planned(ask).json()

    shown = ask("privacy_officer", "GET", f"/v1/approvals/{plan['digest']}").json()

    assert plan["plan"] == shown["plan"]


@pytest.mark.parametrize("digest", ["00" * 32, "rubbish", "00"])
def test_a_plan_that_nobody_made_is_not_there(ask: Ask, digest: str) -> None:
    """Whatever is asked for instead of a digest."""
    answers = [
        ask("privacy_officer", "GET", f"/v1/approvals/{digest}"),
        ask("privacy_officer", "POST", f"/v1/erasures/{digest}/carry-out"),
    ]

    assert [404, 404] == [each.status_code for each in answers]


def test_a_subject_of_whom_nothing_is_held_is_not_planned_for(ask: Ask, trail: Trail) -> None:
    """There is nothing to sign, and nothing waits."""
    answer = planned(ask, subject="user:nobody")

    assert 404 == answer.status_code
    assert [] == said(trail, "erase.plan")


# ---- Holds ----


def test_a_hold_is_placed_listed_and_released(ask: Ask, trail: Trail) -> None:
    """While it lasts, an erasure leaves what it is on."""
    body = {"ground": "case 7", "subject": "user:alice"}

    placed = ask("privacy_officer", "POST", "/v1/holds", json=body)
    name = placed.json()["id"]
    deferred = planned(ask).json()
    (listed,) = ask("privacy_officer", "GET", "/v1/holds").json()
    released = ask("privacy_officer", "DELETE", f"/v1/holds/{name}")
    again = ask("privacy_officer", "DELETE", f"/v1/holds/{name}")

    assert [201, 204, 400] == [each.status_code for each in (placed, released, again)]
    assert {f"hold:{name}": 4} == deferred["deferred"]
    assert (name, "case 7", "user:alice") == (listed["id"], listed["ground"], listed["subject"])
    found = [data["does"] for _, data in said(trail, ACTED)]
    assert ["hold.add", "erase.plan", "hold.release"] == found


def test_a_hold_says_what_it_is_on(ask: Ask, trail: Trail) -> None:
    """Not on two things, not on nothing by mistake, and not on a query that means nothing."""
    answers = [
        ask("privacy_officer", "POST", "/v1/holds", json={"ground": "case 7", **body})
        for body in ({}, {"subject": "user:a", "query": "x"}, {"subject": "a"}, {"query": "a:b"})
    ]

    assert [400] * 4 == [each.status_code for each in answers]
    assert [] == said(trail, "hold.add", ACTED)


def test_who_reads_holds_is_recorded(ask: Ask, trail: Trail) -> None:
    """They name people, so to see them is an opening."""
    ask("privacy_officer", "POST", "/v1/holds", json={"ground": "case 7", "everything": True})

    ask("privacy_officer", "GET", "/v1/holds")

    (opened,) = [data for _, data in said(trail, "values.open") if data["query"] == "holds"]
    assert "the privacy_officer" == opened["name"]


# ---- Subjects, and limits ----


def test_what_is_held_about_a_person_is_answered_and_recorded(ask: Ask, trail: Trail) -> None:
    """With the values, with who has opened them, and with the purpose that was given."""
    answer = ask("privacy_officer", "GET", "/v1/subjects/user/alice")

    assert "user:alice" == answer.json()["subject"]
    assert {"OPEN": 4} == answer.json()["totals"]
    assert "no-store" == answer.headers["cache-control"]
    assert "subject:user:alice" in [data["query"] for _, data in said(trail, "values.open")]


@pytest.mark.parametrize("limit", [{"tenant": "shop"}, {"streams": ("user",)}])
def test_whoever_sees_a_part_of_a_trail_does_not_govern_it(
    client: Served, collector: Collector, trail: Trail, limit: dict[str, Any]
) -> None:
    """A hold, an erasure and a policy are about all of it."""
    officer = bearer(issued(collector, "privacy_officer", **limit))
    operator = bearer(issued(collector, "operator", **limit))
    erasure = {"subject": "user:alice", "basis": BASIS}

    answers = [
        client.get("/v1/policy", headers=officer),
        client.put("/v1/policy", headers=operator, json={"document": TIGHTER.decode()}),
        client.get("/v1/holds", headers=officer),
        client.post("/v1/holds", headers=officer, json={"ground": "x", "everything": True}),
        client.delete("/v1/holds/x", headers=officer),
        client.post("/v1/erasures", headers=officer, json=erasure),
        client.get("/v1/erasures", headers=officer),
        client.post(f"/v1/erasures/{'00' * 32}/carry-out", headers=officer),
        client.get("/v1/approvals", headers=officer),
        client.get(f"/v1/approvals/{'00' * 32}", headers=officer),
        client.post("/v1/approvals", headers=officer, json={"note": "x"}),
        client.get("/v1/subjects/user/alice", headers=officer),
    ]

    assert [403] * len(answers) == [each.status_code for each in answers]
    assert [] == said(trail, ACTED)
