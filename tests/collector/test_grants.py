"""A grant shows more for a while, of chosen entries, because somebody else has consented."""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible import grants
from indelible.collector.grants import reader_for
from indelible.collector.state import Collector
from indelible.document import default, default_text, parse
from indelible.errors import CallerError, Forbidden, NotApproved
from indelible.event import Actor, Client, Event, Outcome, Resource
from indelible.grants import Grant
from indelible.policy import Approvals, BreakGlass, FieldClass, Governance, Person, Policy, Sight
from indelible.rights import Caller
from indelible.trail import Trail
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from httpx import Response

    from tests.collector.conftest import Served

    Said = Callable[..., list[Any]]

HOUR = 3_600_000_000
NOW = 1_800_000_000_000_000
WHY = "incident 12"
IP, OTHER = "192.0.2.7", "198.51.100.9"

GOVERNED = default_text() + (
    b'grants = { max = "2h" }\n'
    b'break_glass = { max = "1h", who = ["auditor"], alert = ["ciso"], review = "24h" }\n'
)
AUDITOR = Caller(id="a1", name="an auditor", role="auditor")
OFFICER = Caller(id="p1", name="an officer", role="privacy_officer")
SECOND = Caller(id="p2", name="another officer", role="privacy_officer")


# ---- What is decided ----


def asked(caller: Caller = AUDITOR, policy: Policy | None = None, **more: Any) -> Grant:
    """Return a request for two hours."""
    given = {"duration": "2h", "now": NOW, "name": "g", **more}
    return grants.ask(caller, default() if policy is None else policy, **given)


def decided(
    grant: Grant, *callers: Caller, approves: bool = True, policy: Policy | None = None
) -> Grant:
    """Return the request as it stands when these have decided."""
    for caller in callers:
        in_force = default() if policy is None else policy
        grant = grants.decide(grant, caller, in_force, approves=approves, now=NOW)
    return grant


def under(**governance: Any) -> Policy:
    """Return the default policy under another governance."""
    return msgspec.structs.replace(
        default(),
        text=b"",
        people={"dora": Person(name="Dora", key="ed25519:", roles=("dpo",))},
        governance=Governance(**governance),
    )


def test_a_grant_is_for_what_the_role_sees_under_one() -> None:
    """By default all of it; what the role sees anyway, or never, is not granted."""
    assert (FieldClass.PERSONAL,) == asked().classes
    assert (FieldClass.PERSONAL,) == asked(classes=["personal"]).classes
    for class_ in ("internal", "secret", "rubbish"):
        with pytest.raises(CallerError, match="expected personal"):
            asked(classes=[class_])


@pytest.mark.parametrize("role", ["reader", "operator", "privacy_officer", "recorder", "nobody"])
def test_a_role_that_sees_nothing_under_a_grant_asks_for_none(role: str) -> None:
    """An operator sees no values, whatever anybody consents to."""
    with pytest.raises(Forbidden, match="sees nothing under a grant"):
        asked(msgspec.structs.replace(AUDITOR, role=role))


def test_a_viewer_token_holds_no_grant() -> None:
    """Many may come with one."""
    with pytest.raises(Forbidden, match="viewer token"):
        asked(msgspec.structs.replace(AUDITOR, id="viewer:a1"))


@pytest.mark.parametrize("duration", ["9h", "1d", "2", "-1h", ""])
def test_a_grant_lasts_no_longer_than_the_policy_says(duration: str) -> None:
    """Eight hours where it says nothing."""
    with pytest.raises(CallerError, match="duration"):
        asked(duration=duration)


def test_a_grant_begins_with_approval_and_ends_by_itself() -> None:
    """To the microsecond, and nobody has to do anything."""
    grant = decided(asked(), OFFICER)

    assert ["active", "active", "ended"] == [
        grant.state(at) for at in (NOW, NOW + 2 * HOUR - 1, NOW + 2 * HOUR)
    ]


def test_a_request_that_nobody_decides_lapses() -> None:
    """After a week it can be approved no more."""
    grant, later = asked(), NOW + 7 * 24 * HOUR

    assert ["asked", "lapsed"] == [grant.state(later - 1), grant.state(later)]
    with pytest.raises(NotApproved, match="is lapsed"):
        grants.decide(grant, OFFICER, default(), approves=True, now=later)


@pytest.mark.parametrize(
    "same",
    [
        AUDITOR,
        msgspec.structs.replace(OFFICER, name=AUDITOR.name),
        msgspec.structs.replace(OFFICER, id="oidc:an auditor", name="somebody"),
    ],
    ids=["the caller", "the same name", "the same person at the provider"],
)
def test_nobody_decides_on_their_own_request(same: Caller) -> None:
    """Four eyes, whatever token the same person comes with."""
    with pytest.raises(Forbidden, match="own"):
        decided(asked(), same)


def test_as_many_have_to_approve_as_the_policy_says() -> None:
    """Two are two distinct callers, and one refusal is enough to stop it."""
    policy = under(grants=Approvals(n=2, valid="8h"))
    grant = asked(policy=policy)

    one = decided(grant, OFFICER, policy=policy)

    assert "asked" == one.state(NOW)
    assert "active" == decided(one, SECOND, policy=policy).state(NOW)
    assert "refused" == decided(one, SECOND, approves=False, policy=policy).state(NOW)
    with pytest.raises(NotApproved, match="decided already"):
        decided(one, OFFICER, policy=policy)
    with pytest.raises(NotApproved, match="decided already"):
        decided(one, msgspec.structs.replace(OFFICER, id="p3"), policy=policy)


def test_whoever_the_policy_names_decides() -> None:
    """By the roles of people, known by token or by the provider; nobody else."""
    policy = under(grants=Approvals(from_=("dpo",), valid="8h"))
    grant = asked(policy=policy)
    dora = Caller(id="p9", name="dora", role="privacy_officer")
    at_provider = Caller(id="oidc:dora", name="Dora D.", role="privacy_officer")
    pretender = Caller(id="oidc:mallory", name="dora", role="privacy_officer")

    assert "active" == decided(grant, dora, policy=policy).state(NOW)
    assert "active" == decided(grant, at_provider, policy=policy).state(NOW)
    for other in (OFFICER, pretender):
        with pytest.raises(Forbidden, match="expected dpo to decide"):
            decided(grant, other, policy=policy)


def test_what_is_decided_is_decided() -> None:
    """A refused request is not approved after all, an ended grant is not refused."""
    refused, active = decided(asked(), OFFICER, approves=False), decided(asked(), OFFICER)

    for grant in (refused, active):
        with pytest.raises(NotApproved, match="expected one that waits"):
            decided(grant, SECOND)


def test_a_grant_can_be_revoked_until_it_ends() -> None:
    """It ends at once; what has ended is not revoked."""
    grant = grants.revoke(decided(asked(), OFFICER), now=NOW + 1)

    assert "revoked" == grant.state(NOW + 1)
    with pytest.raises(NotApproved, match="is revoked already"):
        grants.revoke(grant, now=NOW + 2)


def test_who_breaks_glass_begins_at_once_and_is_reviewed() -> None:
    """Whoever the policy lets; a review that does not approve ends it."""
    policy = under(break_glass=BreakGlass(max="1h", who=("dpo",), review="24h"))
    dora = Caller(id="oidc:dora", name="Dora", role="auditor")

    grant = asked(dora, policy, duration="1h", break_glass=True)

    assert ("active", NOW + 24 * HOUR) == (grant.state(NOW), grant.review_by)
    assert "active" == decided(grant, OFFICER, policy=policy).state(NOW)
    assert "revoked" == decided(grant, OFFICER, approves=False, policy=policy).state(NOW)
    with pytest.raises(CallerError, match="at most 1h"):
        asked(dora, policy, duration="2h", break_glass=True)
    for policy_, caller in ((policy, AUDITOR), (default(), dora)):
        with pytest.raises(Forbidden, match="break_glass"):
            asked(caller, policy_, duration="1h", break_glass=True)


def test_the_name_of_a_token_that_operators_issue_says_nothing() -> None:
    """Who may choose it must not become somebody the policy trusts."""
    policy = msgspec.structs.replace(
        under(break_glass=BreakGlass(max="1h", who=("dora",))),
        roles={"reader": {FieldClass.PERSONAL: Sight.GRANT}},
    )
    chosen = Caller(id="t", name="dora", role="reader")

    with pytest.raises(Forbidden, match="break_glass"):
        asked(chosen, policy, duration="1h", break_glass=True)


def test_a_grant_widens_only_what_the_policy_leaves_to_grants() -> None:
    """A policy that hides a class since then is stronger than a grant."""
    grant = decided(asked(), OFFICER)

    assert {FieldClass.PERSONAL: Sight.PLAIN} == grant.widens({FieldClass.PERSONAL: Sight.GRANT})
    assert {} == grant.widens({FieldClass.PERSONAL: Sight.HIDE})


# ---- What is shown ----


def event(ip: str, actor: str = "alice", **more: Any) -> Event:
    """Return an event from that address."""
    return Event(
        action="invoice.approve",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(f"user:{actor}"),
        resource=Resource.parse("invoice:INV-7"),
        client=Client(ip=ip, user_agent="a browser"),
        **more,
    )


class Clock:
    """Microseconds since 1970, by the trail's clock and what was added."""

    def __init__(self) -> None:
        self.passed = 0

    def __call__(self) -> int:
        """Return the time."""
        return time.time_ns() // 1_000 + self.passed


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Be a collector with three entries of two addresses, one of them of another tenant."""
    base = tmp_path_factory.mktemp("grants")
    policy = parse(GOVERNED.replace(b'id = "default"', b'id = "own"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        origin = "audit.example.com/collector"
        with Trail.create(base / "trail", origin=origin, policy=policy) as trail:
            trail.record_many(
                [event(IP, tenant="shop"), event(OTHER, tenant="shop"), event(IP, tenant="billing")]
            )
            yield Collector(trail, FAST, now=Clock())


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve the collector in this process."""
    with serving(collector) as served:
        yield served


@pytest.fixture
def clock(collector: Collector) -> Iterator[Clock]:
    """Be the collector's clock, which can be put forward."""
    clock = collector.now
    assert isinstance(clock, Clock)
    yield clock
    clock.passed = 0


class Ask:
    """Asks as somebody who has not asked before: ``ask("auditor", "GET", "/v1/entries")``."""

    def __init__(self, client: Served, collector: Collector) -> None:
        self._client = client
        self.headers = {
            who: bearer(issued(collector, role, name=who, lasts=24 * HOUR, **limits))
            for who, role, limits in (
                ("auditor", "auditor", {}),
                ("other auditor", "auditor", {}),
                ("shop auditor", "auditor", {"tenant": "shop"}),
                ("officer", "privacy_officer", {}),
                ("shop officer", "privacy_officer", {"tenant": "shop"}),
                ("operator", "operator", {}),
            )
        }

    def at(self, client: Served) -> Ask:
        """Return what asks another client as the same callers."""
        other = copy(self)
        other._client = client  # noqa: SLF001 - its own
        return other

    def __call__(self, who: str, method: str, path: str, **more: Any) -> Response:
        """Return the answer."""
        return self._client.request(method, path, headers=self.headers[who], **more)


@pytest.fixture
def ask(client: Served, collector: Collector) -> Ask:
    """Return what asks as callers that are new."""
    return Ask(client, collector)


@pytest.fixture
def said(collector: Collector) -> Callable[..., list[Any]]:
    """Return what returns custody entries of this test with some actions, the oldest first."""
    with collector.trail.store.read() as view:
        first = view.heads()["custody"].size

    def said(*actions: str) -> list[Any]:
        query = f"stream:custody action:({' OR '.join(actions)})"
        items = collector.trail.search(query, limit=200).items
        return [item.event for item in reversed(items) if item.index >= first]

    return said


def request(ask: Ask, who: str = "auditor", **more: Any) -> Response:
    """Ask for the values of entries from one address."""
    body = {"query": f"ip:{IP}", "rationale": WHY, "duration": "2h", **more}
    return ask(who, "POST", "/v1/access-requests", json=body)


def granted(ask: Ask, who: str = "auditor", by: str = "officer", **more: Any) -> str:
    """Ask for it, have it approved, and return its id."""
    name = str(request(ask, who, **more).json()["id"])
    answer = decide(ask, name, by=by)
    assert "active" == answer.json()["state"]
    return name


def decide(ask: Ask, name: str, *, by: str = "officer", approve: bool = True) -> Response:
    """Decide on it."""
    body = {"approve": approve, "rationale": "it is needed"}
    return ask(by, "POST", f"/v1/access-requests/{name}/decision", json=body)


def addresses(ask: Ask, who: str = "auditor", q: str = "stream:user order:oldest") -> list[str]:
    """Return the addresses that somebody sees, of the three oldest entries."""
    items = ask(who, "GET", "/v1/entries", params={"q": q, "limit": 3}).json()["items"]
    return [item["event"]["client"]["ip"] for item in items]


def second_of(ask: Ask) -> str:
    """Return the id of the second entry."""
    items = ask("auditor", "GET", "/v1/entries", params={"q": "stream:user order:oldest"}).json()
    return str(items["items"][1]["id"])


HIDDEN = "[withheld]"


def test_under_a_grant_its_entries_are_shown_and_no_others(ask: Ask) -> None:
    """What the query of the request finds, to whoever has asked, and to nobody else."""
    before = addresses(ask)

    granted(ask)

    assert [HIDDEN] * 3 == before
    assert [IP, HIDDEN, IP] == addresses(ask)
    assert [HIDDEN] * 3 == addresses(ask, "other auditor")


def test_only_the_paths_that_were_asked_for_are_shown(ask: Ask) -> None:
    """Others of the same class stay withheld, and are named as such."""
    granted(ask, paths=["/client/ip"])

    item = ask("auditor", "GET", "/v1/entries", params={"q": "stream:user order:oldest"}).json()[
        "items"
    ][0]

    assert {"ip": IP, "user_agent": HIDDEN} == item["event"]["client"]
    assert {"/client/user_agent": "WITHHELD"} == item["redactions"]
    assert "OPEN" == item["values"]["/client/ip"]


def test_a_grant_can_be_for_one_entry(ask: Ask) -> None:
    """By the id of its event."""
    second = second_of(ask)

    granted(ask, query=None, entry=second)

    assert [HIDDEN, OTHER, HIDDEN] == addresses(ask)
    one = ask("auditor", "GET", f"/v1/entries/{second}").json()
    assert OTHER == one["event"]["client"]["ip"]


def test_what_is_recorded_later_is_not_under_the_grant(ask: Ask, collector: Collector) -> None:
    """Nobody has consented to what nobody could know of."""
    granted(ask)

    collector.trail.record_many([event(IP, tenant="later")])

    assert [HIDDEN] == addresses(ask, q="tenant:later")
    assert [IP, HIDDEN, IP] == addresses(ask)


def test_by_what_a_grant_shows_nobody_searches(ask: Ask) -> None:
    """Else whoever holds one could find out of all other entries what they hold."""
    granted(ask)

    answer = ask("auditor", "GET", "/v1/entries", params={"q": f"ip:{IP}"})

    assert 403 == answer.status_code


def test_when_a_grant_ends_nothing_more_is_shown(ask: Ask, clock: Clock) -> None:
    """By itself, at its time."""
    granted(ask)
    shown = addresses(ask)

    clock.passed += 2 * HOUR

    assert [IP, HIDDEN, IP] == shown
    assert [HIDDEN] * 3 == addresses(ask)
    (grant,) = ask("auditor", "GET", "/v1/access-requests").json()
    assert "ended" == grant["state"]


@pytest.mark.parametrize("who", ["auditor", "officer"])
def test_a_revoked_grant_shows_nothing_more(ask: Ask, said: Said, who: str) -> None:
    """Whether its holder gives it back, or somebody takes it; that is recorded."""
    name = granted(ask)
    addresses(ask)

    answer = ask(who, "DELETE", f"/v1/access-requests/{name}")

    assert 204 == answer.status_code
    assert [HIDDEN] * 3 == addresses(ask)
    (revoked,) = said("grant.revoke")
    assert (name, 1, 2) == tuple(revoked.data[each] for each in ("grant", "uses", "entries"))


def test_each_use_is_counted_and_the_first_is_an_entry(
    ask: Ask, collector: Collector, said: Said
) -> None:
    """How often, and for how many entries; and what was opened names the grant."""
    name = granted(ask)

    for _ in range(3):
        addresses(ask)
    addresses(ask, q="stream:user tenant:billing")

    (grant,) = ask("auditor", "GET", "/v1/access-requests").json()
    assert (4, 7) == (grant["uses"], grant["entries"])
    (used,) = said("grant.use")
    assert name == used.data["grant"]
    collector.trail.openings.say(final=True)
    opened = [each.rationale.text for each in said("values.open") if each.rationale]
    assert any(f"grant {name}" in text for text in opened)


def test_what_shows_nothing_under_a_grant_is_no_use(ask: Ask) -> None:
    """A page without its entries leaves the count as it was."""
    second = second_of(ask)
    granted(ask)

    shown = addresses(ask, q=f"id:{second}")

    (grant,) = ask("auditor", "GET", "/v1/access-requests").json()
    assert [HIDDEN] == shown
    assert 0 == grant.get("uses", 0)


def test_a_grant_shows_nothing_beyond_what_its_holder_is_limited_to(ask: Ask) -> None:
    """Also where the query of the request finds more."""
    granted(ask, "shop auditor")

    assert [IP, HIDDEN] == addresses(ask, "shop auditor")


def test_a_grant_of_another_role_is_none(ask: Ask, collector: Collector) -> None:
    """Who comes with another role since sees what that sees."""
    name = granted(ask)
    with collector.trail.store.read() as view:
        kept = Grant.from_bytes(view.fact(grants.KIND, name.encode()) or b"")
        holder = Caller(id=kept.caller, name=kept.name, role="auditor")
        as_reader = msgspec.structs.replace(holder, role="reader")

        found = [grants.active(view, each, collector.now()) for each in (holder, as_reader)]

    assert [[kept], []] == found


def test_a_grant_that_ends_while_it_is_used_shows_nothing(
    ask: Ask, collector: Collector, clock: Clock
) -> None:
    """It is looked at once more before anything is shown."""
    name = granted(ask)
    with collector.trail.store.read() as view:
        kept = Grant.from_bytes(view.fact(grants.KIND, name.encode()) or b"")
    holder = Caller(id=kept.caller, name=kept.name, role="auditor")
    viewer = msgspec.structs.replace(
        collector.trail.viewer,
        role="auditor",
        sights=dict(collector.trail.policy.sights("auditor") or {}),
    )
    reader = reader_for(collector, holder, viewer)

    matches = reader.matches("stream:user order:oldest")
    first = next(matches)
    clock.passed += 2 * HOUR

    assert first.event.client is not None
    assert IP == first.event.client.ip
    with pytest.raises(Exception, match="has ended meanwhile"):
        list(matches)


# ---- Who may ask and decide ----


def test_a_request_and_its_decision_are_entries_with_their_rationale(ask: Ask, said: Said) -> None:
    """Who has asked for what and why, and who has consented and why."""
    name = granted(ask)

    asked_, decided_ = said("grant.ask", "grant.decide")

    assert (name, name) == (asked_.data["grant"], decided_.data["grant"])
    assert (WHY, "it is needed") == (asked_.rationale.text, decided_.rationale.text)
    assert ("auditor", f"ip:{IP}") == (asked_.data["name"], asked_.data["query"])
    assert ("officer", True) == (decided_.data["name"], decided_.data["approves"])


def test_what_was_asked_is_committed_in_the_custody_stream(collector: Collector, ask: Ask) -> None:
    """It may name people, so it stands neither in the log nor in a fact."""
    name = granted(ask)

    (item,) = collector.trail.search("stream:custody action:grant.ask", limit=1).items

    assert {"/rationale", "/data/query"} == set(item.clear.committed)
    with collector.trail.store.read() as view:
        fact = view.fact(grants.KIND, name.encode()) or b""
    assert IP.encode() not in fact
    assert WHY.encode() not in fact


def test_a_refused_request_shows_nothing(ask: Ask, said: Said) -> None:
    """The refusal is an entry as well."""
    name = request(ask).json()["id"]

    answer = decide(ask, name, approve=False)

    assert "refused" == answer.json()["state"]
    assert [HIDDEN] * 3 == addresses(ask)
    (decision,) = said("grant.decide")
    assert Outcome.DENIED is decision.outcome


def test_a_request_is_decided_once(ask: Ask) -> None:
    """By somebody who may, and of which there is one."""
    name = granted(ask)

    assert 409 == decide(ask, name).status_code
    assert 403 == decide(ask, name, by="other auditor").status_code
    assert 404 == decide(ask, "none").status_code


def test_whoever_asks_sees_their_own_requests_alone(ask: Ask) -> None:
    """In their own words; whoever decides sees all, as its role does."""
    request(ask)
    mine = ask("auditor", "GET", "/v1/access-requests").json()
    others = ask("other auditor", "GET", "/v1/access-requests").json()
    all_ = ask("officer", "GET", "/v1/access-requests").json()
    name = mine[0]["id"]

    assert [(f"ip:{IP}", WHY, "asked")] == [
        (each["query"], each["rationale"], each["state"]) for each in mine
    ]
    assert [] == others
    assert mine == [each for each in all_ if each["by"] == "auditor"][-1:]
    assert [200, 404, 200] == [
        ask(who, "GET", f"/v1/access-requests/{name}").status_code
        for who in ("auditor", "other auditor", "officer")
    ]
    assert 404 == ask("other auditor", "DELETE", f"/v1/access-requests/{name}").status_code


def test_whoever_is_limited_decides_on_those_who_are_limited_alike(ask: Ask) -> None:
    """A request of somebody who sees more is not there for them."""
    name, of_shop = (request(ask, who).json()["id"] for who in ("auditor", "shop auditor"))

    assert 404 == decide(ask, name, by="shop officer").status_code
    seen = [each["id"] for each in ask("shop officer", "GET", "/v1/access-requests").json()]
    assert of_shop in seen
    assert name not in seen
    assert 200 == decide(ask, of_shop, by="shop officer").status_code


@pytest.mark.parametrize(
    "wrong",
    [
        {"rationale": " "},
        {"rationale": "x" * 1_001},
        {"query": None},
        {"query": ""},
        {"query": "rubbish:x"},
        {"entry": "0193"},
        {"classes": ["internal"]},
        {"paths": ["client"]},
        {"duration": "3h"},
        {"unknown": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_request_says_why_and_for_what(ask: Ask, said: Said, wrong: Any) -> None:  # noqa: ANN401
    """Else it is refused, and nobody has to look at it."""
    answer = request(ask, **wrong)

    assert 400 == answer.status_code
    assert [] == said("grant.ask")


def test_an_operator_is_granted_nothing(ask: Ask) -> None:
    """It runs the collector, and sees no values."""
    assert 403 == request(ask, "operator").status_code


def test_who_asks_again_and_again_is_stopped(ask: Ask) -> None:
    """Twenty requests wait at most, for each caller."""
    answers = [request(ask).status_code for _ in range(21)]

    assert [201] * 20 + [400] == answers
    assert 201 == request(ask, "other auditor").status_code


def test_who_breaks_glass_sees_at_once_and_is_called_to_account(
    ask: Ask, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an entry that names whom to alert, it is logged, and a review can end it."""
    name = request(ask, break_glass=True, duration="1h").json()["id"]
    shown = addresses(ask)

    answer = decide(ask, name, approve=False)

    assert [IP, HIDDEN, IP] == shown
    assert "revoked" == answer.json()["state"]
    assert [HIDDEN] * 3 == addresses(ask)
    (asked_,) = said("grant.ask")
    assert (True, ["ciso"]) == (asked_.data["break_glass"], asked_.data["alert"])
    assert "break-glass" in caplog.text


def test_grants_outlive_a_restart(ask: Ask, collector: Collector) -> None:
    """They are kept with the trail, and not in a process."""
    granted(ask)

    with serving(Collector(collector.trail, FAST)) as another:
        shown = addresses(ask.at(another))

    assert [IP, HIDDEN, IP] == shown
