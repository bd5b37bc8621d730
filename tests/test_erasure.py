"""Erasure: what is held about one person goes for good, and only what may go."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

import indelible
from indelible import document, erasure
from indelible.accounting import account
from indelible.approval import Approval
from indelible.backup import restore
from indelible.box import Row, ValueState
from indelible.custody import own_event, write
from indelible.entry import microseconds
from indelible.errors import CallerError, Moved, NotApproved, NotFound, StoreError
from indelible.event import Actor, Change, Client, Event, Outcome, Rationale, Resource
from indelible.keys import SigningKey
from indelible.plan import Covered, Plan, text_of
from indelible.policies import Consent
from indelible.policy import Approvals, FieldClass, FieldRule, Governance, Person, Policy
from indelible.seal import seal
from indelible.segment import SEGMENT
from indelible.store import Forgotten
from indelible.stores.sqlite import SqliteStore
from indelible.terms import Field
from indelible.writer import Pending
from tests.raw import files_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.accounting import Accounts
    from indelible.removal import Owner

KEYS = {name: SigningKey.from_seed(name, bytes([number]) * 32) for number, name in enumerate("abc")}
DPO, LEAD, CLERK = KEYS.values()
BASIS = "GDPR Art. 17(1)(b)"
PLAIN = document.default()


def governed(**fields: FieldRule) -> Policy:
    """Return a policy under which two of three people must approve an erasure."""
    people = {
        name: Person(
            name=name,
            key=f"ed25519:{b64encode(key.verifier.public).decode()}",
            roles=(role,),
        )
        for (name, key), role in zip(KEYS.items(), ("dpo", "audit-lead", "clerk"), strict=True)
    }
    return msgspec.structs.replace(
        PLAIN,
        id="shop",
        text=b"",
        people=people,
        fields={**PLAIN.fields, **fields},
        governance=Governance(erasure=Approvals(n=2, from_=("dpo", "audit-lead"))),
    )


def event(actor: str = "user:alice", resource: str = "customer:carol", number: int = 0) -> Event:
    """Return an event with values of its actor and of its resource."""
    return Event(
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse(resource),
        changes={"email": Change("old@example.com", f"{number}@example.com")},
        rationale=Rationale(text="asked by telephone"),
        session=f"session-{number}",
        client=Client(ip="192.0.2.7"),
    )


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., indelible.Trail]]:
    """Make a trail with two entries of alice and one of bob, all about carol."""
    made: list[indelible.Trail] = []

    def make(policy: Policy = PLAIN) -> indelible.Trail:
        trail = indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=policy)
        made.append(trail)
        trail.record_many([event(), event(number=1), event("user:bob", number=2)])
        return trail

    yield make
    for trail in made:
        trail.close()


@pytest.fixture
def trail(make: Callable[..., indelible.Trail]) -> indelible.Trail:
    """Return such a trail under the default policy: its owner approves."""
    return make()


def erase(trail: indelible.Trail, subject: str, *paths: str, scan: bool = False) -> Plan:
    """Erase what is held about a subject, approved by the owner."""
    plan = trail.plan_erasure(subject, basis=BASIS, paths=paths, scan=scan)
    trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))
    return plan


def accounts(trail: indelible.Trail) -> Accounts:
    """Account for all values."""
    with trail.store.read() as view:
        return account(view, trail.vault)


def erased(trail: indelible.Trail) -> int:
    """Return how many values were erased; all others are there, and can be read."""
    found = accounts(trail)
    assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
    assert found.totals.keys() <= {ValueState.OPEN, ValueState.ERASED}
    return found.totals.get(ValueState.ERASED, 0)


def states(trail: indelible.Trail, index: int) -> dict[str, str]:
    """Return the states of the values of an entry of the user stream."""
    return {path: state.value for path, state in trail.at("user", index).states.items()}


def actions(trail: indelible.Trail, *wanted: str) -> list[str]:
    """Return which of some custody entries there are, in order."""
    found = [item.event.action for item in trail.search("stream:custody order:oldest").items]
    return [action for action in found if action in wanted]


ALL = ("erase.begin", "erase.effective", "erase.refuse")


# ---- What goes, and what stays ----


def test_what_is_held_about_a_subject_goes_and_the_entry_that_took_it_is_named(
    trail: indelible.Trail,
) -> None:
    """After an erasure the subject's values are gone, with a reason, and nothing else is."""
    roots = trail.checkpoint()

    plan = erase(trail, "user:alice")

    gone = {"/actor/id", "/client/ip", "/session"}
    assert dict.fromkeys(gone, "ERASED") == {
        path: state for path, state in states(trail, 0).items() if state != "OPEN"
    }
    assert {"OPEN"} == set(states(trail, 2).values())
    assert 6 == erased(trail)
    assert roots == trail.checkpoint()
    assert ["erase.begin", "erase.effective"] == actions(trail, *ALL)
    assert [6, 2] == [sum(len(each.paths) for each in plan.cover), len(plan.cover)]
    assert () == trail.search("actor:user:alice").items
    trail.verify().require()


def test_a_plan_changes_nothing(trail: indelible.Trail) -> None:
    """Whoever plans an erasure has not begun it."""
    before = accounts(trail), trail.checkpoint("custody")

    trail.plan_erasure("user:alice", basis=BASIS)

    assert before == (accounts(trail), trail.checkpoint("custody"))


def test_internal_values_are_erased_only_where_they_are_named(trail: indelible.Trail) -> None:
    """A rationale is the organisation's own: it is deferred unless somebody asks for it."""
    plan = trail.plan_erasure("user:alice", basis=BASIS)
    named = erase(trail, "user:alice", "/rationale")

    assert {("/rationale",)} == {each.paths for each in plan.deferred}
    assert {"class:internal"} == {each.ground for each in plan.deferred}
    assert {("/rationale",)} == {each.paths for each in named.cover}
    assert "ERASED" == states(trail, 0)["/rationale"]


def test_what_shares_a_box_with_an_erased_value_stays_readable_and_provable(
    trail: indelible.Trail,
) -> None:
    """To erase one value of a person takes no other, under a key that opens no old copy."""
    with trail.store.read() as view:
        (before,) = view.rows("user", [0])

    erase(trail, "user:alice", "/client/ip")

    with trail.store.read() as view:
        (after,) = view.rows("user", [0])
    assert "ERASED" == states(trail, 0)["/client/ip"]
    assert {"OPEN"} == {s for path, s in states(trail, 0).items() if path != "/client/ip"}
    assert "session-0" == trail.at("user", 0).event.session
    old, new = (Row.from_bytes(row) for row in (before, after))
    changed = {box.key for box in old.boxes} - {box.key for box in new.boxes}
    assert 1 == len(changed)
    assert [] == trail.vault.keyring.wrapped(changed)
    assert () == accounts(trail).alarms


def test_two_subjects_in_one_entry_are_erased_apart(trail: indelible.Trail) -> None:
    """What an entry has of its actor and of its resource goes separately, and in any order."""
    erase(trail, "customer:carol")
    middle = states(trail, 0)
    erase(trail, "user:alice")

    carols = {"/resource/id", "/changes/email"}
    assert carols == {path for path, state in middle.items() if state == "ERASED"}
    assert {"/rationale"} == {path for path, state in states(trail, 0).items() if state == "OPEN"}
    assert {"/actor/id", "/client/ip", "/session", "/rationale"} == {
        path for path, state in states(trail, 2).items() if state == "OPEN"
    }
    assert () == accounts(trail).alarms


def test_what_is_recorded_afterwards_is_not_erased(trail: indelible.Trail) -> None:
    """A person who comes back is recorded anew, under a new key, and can be found."""
    erase(trail, "user:alice")

    trail.record(event(number=9))

    assert [3] == [item.index for item in trail.search("actor:user:alice").items]
    assert {"OPEN"} == set(states(trail, 3).values())


def test_a_hold_comes_before_an_erasure(trail: indelible.Trail) -> None:
    """What is under hold is deferred, and the plan says under which."""
    hold = trail.hold(ground="case 7", query="session:session-1")

    plan = erase(trail, "user:alice")

    assert {0} == {each.index for each in plan.cover}
    on_hold = {each for each in plan.deferred if each.ground == f"hold:{hold}"}
    assert {1} == {each.index for each in on_hold}
    assert {"OPEN"} == set(states(trail, 1).values())


def test_a_floor_comes_before_an_erasure(make: Callable[..., indelible.Trail]) -> None:
    """What has to be kept is deferred until a day that the plan names."""
    rule = FieldRule(class_=FieldClass.PERSONAL, subject="actor", floor="1y")
    trail = make(governed(**{"/session": rule}))

    plan = trail.plan_erasure("user:alice", basis=BASIS)

    deferred = {each.paths: each.ground for each in plan.deferred if "floor" in each.ground}
    assert [("/session",)] == list(deferred)
    day = datetime.now(UTC) + timedelta(days=365)
    assert deferred["/session",].startswith(f"floor:{day.year}-")


def test_nobody_unknown_is_erased(trail: indelible.Trail) -> None:
    """A subject of whom nothing is held is an error, and so is what is no subject."""
    with pytest.raises(NotFound, match="subject user:mallory: found no value"):
        trail.plan_erasure("user:mallory", basis=BASIS)
    with pytest.raises(NotFound, match="/data/x"):
        trail.plan_erasure("user:alice", basis=BASIS, paths=["/data/x"])
    with pytest.raises(CallerError, match="type:id"):
        trail.plan_erasure("alice", basis=BASIS)


def test_what_stands_in_clear_is_counted_and_said_to_stay(
    make: Callable[..., indelible.Trail],
) -> None:
    """A plan says how many entries name the subject in the log itself, which nobody erases."""
    clear = FieldRule(class_=FieldClass.PUBLIC)
    trail = make(governed(**{"/actor/id": clear}))

    plan = trail.plan_erasure("user:alice", basis=BASIS)

    assert 2 == plan.detail["in_clear"]


def test_a_scan_finds_what_the_index_has_lost(trail: indelible.Trail) -> None:
    """An erasure can do without lookups: the boxes themselves say whose they are."""
    trail.close()
    with sqlite3.connect(trail.path / "head.db") as head:
        head.execute("UPDATE tail SET lookups = zeroblob(2 * entries)")
    head.close()

    with indelible.open(trail.path) as opened:
        with pytest.raises(NotFound):
            opened.plan_erasure("user:alice", basis=BASIS)
        erase(opened, "user:alice", "/client/ip", scan=True)
        erase(opened, "user:alice", scan=True)

        assert 6 == erased(opened)


def test_an_index_key_that_was_rotated_hides_nothing(trail: indelible.Trail) -> None:
    """What is found under an old and under a new index key is erased as one."""
    trail.vault.keyring.rotate_index()
    trail.record(event(number=5))

    erase(trail, "user:alice", "/client/ip")
    erase(trail, "user:alice")
    erase(trail, "user:alice", "/rationale")

    assert 12 == erased(trail)
    lookups = trail.vault.keyring.lookups(Field.SUBJECT_LOOKUP, "user:alice")
    with trail.store.read() as view:
        there = {each for _, found in view.lookups("user", 0, 9) for each in found}
    assert 2 == len(lookups)
    assert set() == there & lookups


# ---- What is refused ----


class Case:
    """An erasure of alice under a policy that two people must consent to."""

    def __init__(self, trail: indelible.Trail) -> None:
        self.trail = trail
        self.now = datetime.now(UTC)
        self.plan = self.planned()

    def planned(self, requester: str = "owner") -> Plan:
        """Plan it."""
        return erasure.plan_erasure(
            self.trail, "user:alice", basis=BASIS, now=self.now, requester=requester
        )

    def approved(self, *keys: SigningKey, plan: Plan | None = None) -> Consent:
        """Return the plan with approvals."""
        plan = self.plan if plan is None else plan
        return Consent(
            plan=plan.to_bytes(),
            approvals=tuple(Approval.sign(plan, key.name, key, self.now) for key in keys),
        )

    def later(self, **passed: float) -> None:
        """Let time pass."""
        self.now += timedelta(**passed)

    def carry_out(self, consent: Consent) -> None:
        """Carry it out."""
        erasure.carry_out(self.trail, consent, self.now)


@pytest.fixture
def case(make: Callable[..., indelible.Trail]) -> Case:
    """Return such a case."""
    rule = FieldRule(class_=FieldClass.PERSONAL, subject="actor", floor="1y")
    return Case(make(governed(**{"/client/user_agent": rule})))


def nobody(case: Case) -> Consent:
    """Nobody approves."""
    return case.approved()


def one_alone(case: Case) -> Consent:
    """One approves where two must."""
    return case.approved(DPO)


def one_twice(case: Case) -> Consent:
    """The same person approves twice."""
    return case.approved(DPO, DPO)


def who_may_not(case: Case) -> Consent:
    """Somebody approves whom nobody asks."""
    return case.approved(DPO, CLERK)


def who_asks(case: Case) -> Consent:
    """Whoever asks approves as well."""
    return case.approved(DPO, LEAD, plan=case.planned(requester=DPO.name))


def a_stranger(case: Case) -> Consent:
    """A key that is not the person's signs in their name."""
    forged = SigningKey.from_seed(LEAD.name, b"\x66" * 32)
    return case.approved(DPO, forged)


def too_late(case: Case) -> Consent:
    """The approvals were valid for a week, eight days ago."""
    consent = case.approved(DPO, LEAD)
    case.later(days=8)
    return consent


def stretched(case: Case) -> Consent:
    """The plan covers another entry than people approved."""
    more = (*case.plan.cover, Covered(log="user", index=2, paths=("/actor/id",)))
    plan = msgspec.structs.replace(case.plan, cover=more)
    return Consent(plan=plan.to_bytes(), approvals=case.approved(DPO, LEAD).approvals)


def older_policy(case: Case) -> Consent:
    """The policy was changed since the plan was made."""
    policy = case.trail.policy
    newer = msgspec.structs.replace(
        policy, version=policy.version + 1, supersedes=f"sha256:{policy.digest.hex()}", owner="dpo"
    )
    case.trail.set_policy(newer)
    return case.approved(DPO, LEAD)


def used(case: Case) -> Consent:
    """The plan was carried out already."""
    consent = case.approved(DPO, LEAD)
    case.carry_out(consent)
    return consent


def of_another_trail(case: Case) -> Consent:
    """People approved it for another trail."""
    return case.approved(DPO, LEAD, plan=msgspec.structs.replace(case.plan, trail="other"))


def held_since(case: Case) -> Consent:
    """What it covers is under hold by now."""
    case.trail.hold(ground="case 7", subject="user:alice")
    return case.approved(DPO, LEAD)


def of_another_kind(case: Case) -> Consent:
    """It is a plan for something else."""
    return case.approved(DPO, LEAD, plan=msgspec.structs.replace(case.plan, kind="purge"))


def of_what_is_not_there(case: Case) -> Consent:
    """It covers an entry that was not there when it was made."""
    cover = (Covered(log="user", index=3, paths=("/actor/id",)),)
    case.trail.record(event(number=7))
    return case.approved(DPO, LEAD, plan=msgspec.structs.replace(case.plan, cover=cover))


def of_nothing(case: Case) -> Consent:
    """All of it is deferred."""
    return case.approved(DPO, LEAD, plan=msgspec.structs.replace(case.plan, cover=()))


def rubbish(case: Case) -> Consent:
    """It is no plan at all."""
    del case
    return Consent(plan=b"{}", approvals=())


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (nobody, "found approvals of nobody, expected 2 of dpo, audit-lead"),
        (one_alone, "found approvals of a, expected 2"),
        (one_twice, "found a second one, expected one a person"),
        (who_may_not, "approval of c: found clerk, expected dpo, audit-lead"),
        (who_asks, "found who asks for the plan, expected somebody else"),
        (a_stranger, "b"),
        (too_late, "expired"),
        (stretched, "is for plan"),
        (older_policy, "was made under policy"),
        (used, "was carried out already"),
        (of_another_trail, "is for trail other"),
        (held_since, "may not go, found hold:"),
        (of_another_kind, "is for purge, expected erase"),
        (of_what_is_not_there, "covers user#3, which was not there when it was made"),
        (of_nothing, "covers nothing"),
        (rubbish, "plan"),
    ],
)
def test_what_is_not_approved_is_refused_and_that_is_recorded(
    case: Case, prepare: Callable[[Case], Consent], why: str
) -> None:
    """An erasure that nobody may carry out takes nothing, and leaves an entry that says so."""
    consent = prepare(case)
    before = accounts(case.trail).totals, len(actions(case.trail, "erase.refuse"))

    with pytest.raises(NotApproved, match=why):
        case.carry_out(consent)

    recorded = case.trail.search("stream:custody action:erase.refuse").items[0].event
    open_values = {s: n for s, n in before[0].items() if s is not ValueState.OPEN}
    after = accounts(case.trail)
    assert open_values == {s: n for s, n in after.totals.items() if s is not ValueState.OPEN}
    assert before[1] + 1 == len(actions(case.trail, "erase.refuse"))
    assert Outcome.DENIED == recorded.outcome
    assert why in dict(recorded.data)["ground"]
    assert () == after.alarms


def test_two_distinct_people_who_may_are_enough(case: Case) -> None:
    """What was approved as the policy asks for is carried out, and not called self-approved."""
    done = erasure.carry_out(case.trail, case.approved(DPO, LEAD), case.now)

    assert not done.self_approved
    found = accounts(case.trail)
    assert (6, 0, ()) == (found.totals[ValueState.ERASED], found.self_approved, found.alarms)


def test_an_erasure_waits_for_its_time(make: Callable[..., indelible.Trail]) -> None:
    """Where the policy asks for time to think, not even all approvals can hurry it."""
    waits = Governance(erasure=Approvals(cooling_off="72h"))
    trail = make(msgspec.structs.replace(governed(), governance=waits))
    now = datetime.now(UTC)
    plan = erasure.plan_erasure(trail, "user:alice", basis=BASIS, now=now)
    consent = Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),))

    with pytest.raises(NotApproved, match="expected not before"):
        erasure.carry_out(trail, consent, now + timedelta(hours=71))
    erasure.carry_out(trail, consent, now + timedelta(hours=73))

    assert 6 == accounts(trail).totals[ValueState.ERASED]


def test_a_floor_cannot_be_approved_away(make: Callable[..., indelible.Trail]) -> None:
    """A plan that was written by hand takes nothing that has to be kept, whoever approves."""
    rule = FieldRule(class_=FieldClass.PERSONAL, subject="actor", floor="1y")
    case = Case(make(governed(**{"/session": rule})))
    by_hand = msgspec.structs.replace(
        case.plan, cover=(Covered(log="user", index=0, paths=("/session",)),), deferred=()
    )

    with pytest.raises(NotApproved, match="may not go, found floor:"):
        case.carry_out(case.approved(DPO, LEAD, plan=by_hand))


def test_a_hold_stops_an_erasure_that_was_cut_off(case: Case) -> None:
    """What an erasure has left when it was interrupted stays while a hold lasts on it."""
    consent = case.approved(DPO, LEAD)
    with pytest.raises(StoreError, match="cut off"):
        erasure.carry_out(cast("Owner", CutOff(case.trail)), consent, case.now)
    hold = case.trail.hold(ground="case 7", subject="user:alice")

    with pytest.raises(NotApproved, match=f"hold:{hold}"):
        case.carry_out(consent)
    assert {"OPEN"} == set(states(case.trail, 0).values())

    case.trail.release(hold)
    case.carry_out(consent)
    assert 6 == accounts(case.trail).totals[ValueState.ERASED]


class CutOff:
    """A trail whose store fails before it forgets anything."""

    def __init__(self, trail: indelible.Trail) -> None:
        self.store = self
        self.id, self.vault = trail.id, trail.vault
        self.read, self.write = trail.store.read, trail.store.write
        self.signer_of, self.forgotten = trail.signer_of, trail.forgotten
        self.forgetting = trail.forgetting

    def forget(self, _: object) -> None:
        """Fail."""
        raise StoreError("cut off")


# ---- Nothing is left ----


def remains(trail: indelible.Trail, subject: str, places: list[tuple[str, int]]) -> list[bytes]:
    """Return the bytes that may be nowhere once a subject is erased at *places*."""
    keyring = trail.vault.keyring
    keys = {key.id: key for key in keyring.of_subject(subject)}
    found = [key.wrapped for key in keys.values()]
    with trail.store.read() as view:
        for log, index in places:
            (row,) = view.rows(log, [index])
            found += [box.data for box in Row.from_bytes(row).boxes if box.key in keys]
    for field in (Field.SUBJECT_LOOKUP, Field.ACTOR_LOOKUP):
        found += [number.to_bytes(8, "little") for number in keyring.lookups(field, subject)]
    return found


ACCOUNTABLE = msgspec.structs.replace(
    PLAIN,
    id="shop",
    text=b"",
    fields={**PLAIN.fields, "/rationale": FieldRule(class_=FieldClass.INTERNAL)},
)
"""A policy under which a rationale is nobody's, so that nothing of a person has to stay."""


def test_nothing_of_what_was_erased_is_in_any_file(make: Callable[..., indelible.Trail]) -> None:
    """Boxes, wrapped keys and lookups are overwritten, also in what SQLite writes ahead."""
    trail = make(ACCOUNTABLE)
    needles = remains(trail, "user:alice", [("user", 0), ("user", 1)])
    before = files_with(trail.path, needles)

    erase(trail, "user:alice")
    while_open = files_with(trail.path, needles)
    trail.close()

    assert before
    assert [] == while_open
    assert [] == files_with(trail.path, needles)


ALICE, BOB = Actor(type="user", id="alice"), Actor(type="user", id="bob")


def actor_of(number: int) -> Actor:
    """Return who acted in an entry of a large trail: seldom a person, whose name is a value."""
    if number in {5, 300, 65_535, SEGMENT + 2}:
        return ALICE
    return BOB if number % 4_096 < 64 else Actor(type="service", id="shop")


@pytest.fixture(scope="module")
def closed_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail with a closed segment and an open part, and alice in both."""
    base = tmp_path_factory.mktemp("closed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with indelible.open(base / "trail", origin="audit.example.com/t", policy=ACCOUNTABLE) as t:
            order = Resource(type="order", id="1")
            t.record_many(
                (
                    Event(
                        action="order.ship",
                        outcome=Outcome.SUCCESS,
                        actor=actor_of(number),
                        resource=order,
                    )
                    for number in range(SEGMENT + 5)
                ),
                batch=4_000,
            )
            t.settle()
    return base


@pytest.fixture
def closed(closed_master: Path, tmp_path: Path) -> Path:
    """A copy of it, with its pins."""
    shutil.copytree(closed_master / "config", tmp_path / "config")
    shutil.copytree(closed_master / "trail", tmp_path / "trail")
    return tmp_path / "trail"


def test_an_erasure_reaches_closed_segments(closed: Path) -> None:
    """What was closed away years ago is erased as what was recorded today, and as thoroughly."""
    with indelible.open(closed) as trail:
        with trail.store.read() as view:
            (segment,) = view.segments("user")
        assert isinstance(trail.store, SqliteStore)
        data = trail.store.segment_path(segment).read_bytes()
        places = [("user", at) for at in (5, 300, 65_535, SEGMENT + 2)]
        needles = remains(trail, "user:alice", places)
        before = files_with(closed, needles)

        plan = erase(trail, "user:alice")

        assert {"head.db", "keyring.db", "vault/user/000000"} <= set(before)
        assert [] == files_with(closed, needles)
        assert places == [(each.log, each.index) for each in plan.cover]
        assert data == trail.store.segment_path(segment).read_bytes()
        assert [{"/actor/id": "ERASED"}] * 4 == [states(trail, at) for _, at in places]
        assert {"/actor/id": "OPEN"} == states(trail, 4)
        assert () == trail.search("actor:user:alice").items
        verdict = trail.verify(deep=True)
        bobs = [number for number in range(SEGMENT + 5) if actor_of(number) == BOB]
        assert {"OPEN": len(bobs), "ERASED": 4} == {
            state: count - (state == "OPEN") * CUSTODY_VALUES
            for state, count in verdict.values.items()
        }
        verdict.require()


CUSTODY_VALUES = 1
"""The query that was asked when values were opened, which is committed to as well."""


def test_a_restored_copy_forgets_what_was_erased_since(closed: Path, tmp_path: Path) -> None:
    """A backup from before an erasure cannot bring back what was erased, and accounts for it."""
    with indelible.open(closed) as trail:
        needles = remains(trail, "user:alice", [("user", 5), ("user", SEGMENT + 2)])
        trail.backup(tmp_path / "copy")
        erase(trail, "user:alice")
        trail.record(event("user:bob", number=3))

    restore(tmp_path / "copy", closed)

    with indelible.open(closed) as trail:
        assert {"/actor/id": "ERASED"} == states(trail, 5) == states(trail, SEGMENT + 2)
        assert {"/actor/id": "OPEN"} == states(trail, 4)
        assert 4 == erased(trail)
        assert ["erase.replay", "erase.effective"] == actions(trail, "erase.replay", *ALL)
        trail.verify().require()
        assert [] == files_with(closed, needles)


def test_a_copy_without_keys_is_restored_beside_the_newest_keyring(
    trail: indelible.Trail, tmp_path: Path
) -> None:
    """Who kept a copy of the values can open them only with the keys that are left today."""
    trail.backup(tmp_path / "copy", with_keys=False)
    erase(trail, "user:alice")
    trail.backup(tmp_path / "keys-of-today")
    trail.close()
    assert not [*(tmp_path / "copy").rglob("keyring*")]

    restore(
        tmp_path / "copy",
        tmp_path / "new",
        keys=trail.path / "keys",
        keyring=tmp_path / "keys-of-today" / "keyring.db",
    )

    with indelible.open(tmp_path / "new") as restored:
        assert 6 == erased(restored)
        assert "OPEN" == states(restored, 2)["/actor/id"]


def test_only_what_was_lost_is_repeated(trail: indelible.Trail) -> None:
    """Nobody can use an approval that has expired, by saying that a trail was restored."""
    now = datetime.now(UTC)
    plan = erasure.plan_erasure(trail, "user:alice", basis=BASIS, now=now)
    approval, later = trail.approve(plan), now + timedelta(days=30)
    said = {
        "plan": plan.digest.hex(),
        "cover_root": plan.cover_root.hex(),
        "approvals": [approval.decode()],
        "began_at": text_of(now + timedelta(hours=1)),
    }
    before = microseconds(now + timedelta(days=29))
    write(trail, lambda: [own_event(trail.id, "something.else")], before)

    replay = own_event(trail.id, "erase.replay", **said)
    write(trail, lambda: [replay], microseconds(later), [plan.to_bytes()])
    trail.store.forget({"user": {0: Forgotten(), 1: Forgotten()}})

    found = accounts(trail)
    assert "it repeats what began at" in str(found.wrong[0])
    assert {ValueState.MISSING} == {each.state for each in found.alarms}


def test_a_backup_is_one_state_while_values_are_erased(
    trail: indelible.Trail, tmp_path: Path
) -> None:
    """A copy that is made during an erasure has the values or not, and says which."""
    plan = trail.plan_erasure("user:alice", basis=BASIS)
    consent = Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),))
    thread = threading.Thread(target=trail.erase, args=(consent,))

    thread.start()
    trail.backup(tmp_path / "copy")
    thread.join()

    with indelible.open(tmp_path / "copy", mode="r") as copy, copy.store.read() as view:
        found = account(view, copy.vault)
    assert (set(), {}) == ({each.state for each in found.alarms}, found.unreadable)


# ---- Others record meanwhile ----

RECORDER = """
import sys, indelible
from indelible.event import Actor, Event, Outcome, Resource

with indelible.open(sys.argv[1]) as trail:
    print("ready", flush=True)
    for line in sys.stdin:
        trail.record(Event(
            action="order.ship", outcome=Outcome.SUCCESS,
            actor=Actor.parse("user:alice"), resource=Resource.parse("order:1"),
        ))
        print("done", flush=True)
"""


def test_another_process_that_holds_a_destroyed_key_seals_anew(trail: indelible.Trail) -> None:
    """No box ever lies under a key that an erasure has destroyed, whoever writes it."""
    command = [sys.executable, "-c", RECORDER, str(trail.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def record() -> None:
            other.stdin.write("\n")  # type: ignore[union-attr]  # it is there
            other.stdin.flush()  # type: ignore[union-attr]
            assert "done\n" == other.stdout.readline()  # type: ignore[union-attr]

        assert "ready\n" == other.stdout.readline()
        record()
        erase(trail, "user:alice")
        erase(trail, "user:alice", "/rationale")
        record()
        other.stdin.close()

    assert "ERASED" == states(trail, 3)["/actor/id"]
    assert "OPEN" == states(trail, 4)["/actor/id"]
    found = accounts(trail)
    assert ((), {}) == (found.alarms, found.unreadable)


def test_what_was_sealed_and_not_yet_written_is_sealed_anew(trail: indelible.Trail) -> None:
    """What waits to be written when its key is destroyed, in this process, is not written so."""
    one = event(number=4)
    sealed = trail.vault.enclose(seal(one, trail.policy.rule_on(one), trail.policy), "user")
    pending = Pending({"user": [sealed]})

    erase(trail, "user:alice")
    trail.submit(pending)  # what `record` does in another thread

    with pytest.raises(Moved):
        pending.result()
    trail.record(one)
    assert {"OPEN"} == set(states(trail, 3).values())


class Busy:
    """A trail in which somebody records before each write of whoever uses it through this."""

    def __init__(self, trail: indelible.Trail) -> None:
        self._trail, self.store = trail, self
        self.id, self.vault = trail.id, trail.vault
        self.read, self.forget = trail.store.read, trail.store.forget
        self.signer_of, self.forgotten = trail.signer_of, trail.forgotten
        self.forgetting = trail.forgetting

    @contextmanager
    def write(self) -> Iterator[Any]:
        """Record something about alice, then write."""
        self._trail.record(event(number=4))
        with self._trail.store.write() as transaction:
            yield transaction


def test_a_key_that_came_into_use_again_is_not_destroyed(trail: indelible.Trail) -> None:
    """What is recorded about a person until the last moment of an erasure stays readable."""
    plan = trail.plan_erasure("user:alice", basis=BASIS)
    consent = Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),))

    erasure.carry_out(cast("Owner", Busy(trail)), consent, datetime.now(UTC))

    assert 6 == erased(trail)
    assert {"OPEN"} == {state for at in range(3, 6) for state in states(trail, at).values()}


def test_two_erasures_at_once_bring_nothing_back(trail: indelible.Trail) -> None:
    """Erasures of two values in one box wait for each other: neither writes the other's back."""
    consents = []
    for path in ("/client/ip", "/session"):
        plan = trail.plan_erasure("user:alice", basis=BASIS, paths=[path])
        consents.append(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))
    threads = [threading.Thread(target=trail.erase, args=(each,)) for each in consents]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 == erased(trail)
