"""An approval is the consent of one person to exactly one plan."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.approval import Approval, Verified, key_of, verify_approvals
from indelible.errors import CallerError, InvalidSignature, Malformed, NotApproved
from indelible.keys import SigningKey
from indelible.note import Note
from indelible.plan import Covered, Plan
from indelible.policy import Approvals, Person, Policy, Stream

CREATED = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
AT = CREATED + HOUR
NOW = CREATED + 80 * HOUR

ALICE, BOB, CAROL, DAVE, MALLORY = (
    SigningKey.from_seed(name, bytes([number] * 32))
    for number, name in enumerate(("alice", "bob", "carol", "dave", "mallory"))
)
OWNER = SigningKey.from_seed("shop.example.com/custody", bytes([7] * 32))
OLD_OWNER = SigningKey.from_seed("shop.example.com/custody", bytes([8] * 32))
OWNER_KEYS = (OLD_OWNER.verifier, OWNER.verifier)


def person(key: SigningKey, *roles: str) -> Person:
    """Return somebody of a policy who has this key."""
    encoded = b64encode(key.verifier.public).decode()
    return Person(name=key.name.title(), key=f"ed25519:{encoded}", roles=roles)


POLICY = Policy(
    id="shop",
    streams={"user": Stream()},
    rules=(),
    people={
        "alice": person(ALICE, "dpo"),
        "bob": person(BOB, "audit-lead"),
        "carol": person(CAROL, "dpo", "audit-lead"),
        "dave": person(DAVE, "developer"),
    },
)
LATER_POLICY = msgspec.structs.replace(POLICY, version=2)
TWO = Approvals(n=2, from_=("dpo", "audit-lead"), valid="7d", cooling_off="72h")
BY_OWNER = Approvals(n=1, from_=("owner",))

PLAN = Plan(
    kind="erase",
    trail="0193-trail",
    logs={"shop.example.com/user": 40},
    policy=POLICY.digest.hex(),
    requester="carol",
    basis="GDPR Art. 17(1)(b)",
    nonce=bytes(16),
    created_at=CREATED,
    not_before=CREATED,
    expires=CREATED + 30 * 24 * HOUR,
    cover=(Covered("user", 12, ("/actor/id",)),),
)


def by(*signers: SigningKey, plan: Plan = PLAN, at: datetime = AT) -> list[bytes]:
    """Return the approvals of these people."""
    return [Approval.sign(plan, each.name, each, at) for each in signers]


def by_owner(plan: Plan = PLAN, key: SigningKey = OWNER) -> bytes:
    """Return the approval of the owner."""
    return Approval.sign(plan, "owner", key, AT)


def changed(**fields: Any) -> Plan:
    """Build the plan again with other *fields*."""
    return msgspec.structs.replace(PLAN, **fields)


def verify(
    *approvals: bytes,
    plan: Plan = PLAN,
    policy: Policy = POLICY,
    needed: Approvals = TWO,
    now: datetime = NOW,
    **more: Any,
) -> Verified:
    """Verify approvals of the plan."""
    return verify_approvals(
        plan, approvals, policy=policy, needed=needed, owner_keys=OWNER_KEYS, now=now, **more
    )


def test_an_approval_is_six_lines() -> None:
    """What a person signs can be read, and is exactly as specified."""
    note = Note.from_bytes(Approval.sign(PLAN, "alice", ALICE, AT))

    expected = (
        "indelible-approval/1\n0193-trail\n"
        f"{PLAN.digest.hex()}\n{POLICY.digest.hex()}\nalice\n2026-11-24T13:00:00.000000Z\n"
    )
    assert expected == note.text
    assert expected == Approval.from_text(expected).to_text()


def test_an_approval_opens_with_the_key_of_the_person() -> None:
    """Whoever knows the key of a person can tell what they consented to."""
    approval = Approval(
        trail=PLAN.trail, plan=PLAN.digest, policy=POLICY.digest, person="alice", at=AT
    )

    assert approval == Approval.open(by(ALICE)[0], ALICE.verifier)
    assert replace(approval, person="owner") == Approval.open(
        by_owner(), OWNER.verifier, person="owner"
    )


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.datetimes(timezones=st.just(UTC)),
)
def test_an_approval_is_read_as_it_was_written(plan: bytes, policy: bytes, at: datetime) -> None:
    """The text of an approval gives back the approval."""
    approval = Approval(trail="t", plan=plan, policy=policy, person="alice", at=at)

    assert approval == Approval.from_text(approval.to_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("indelible-approval/1", "indelible-approval/2"),
        ("alice\n", "alice\nmore\n"),
        ("alice\n", "alice\r\n"),
        ("alice\n", "alice \n"),
        ("alice\n", "\n"),
        ("alice\n", "alice\u2028"),
        ("0193-trail\n", ""),
        ("0193-trail\n", "0193 trail\n"),
        (PLAN.digest.hex(), PLAN.digest.hex().upper()),
        (PLAN.digest.hex(), PLAN.digest.hex()[:-2]),
        (POLICY.digest.hex(), f" {POLICY.digest.hex()}"),
        (".000000Z", "Z"),
        (".000000Z\n", ".000000Z"),
        ("2026-11-24", "2026-11-31"),
    ],
)
def test_what_is_not_exactly_an_approval_is_refused(old: str, new: str) -> None:
    """There is one way to write an approval, and a signature makes none of another text."""
    text = Note.from_bytes(by(ALICE)[0]).text
    other = text.replace(old, new, 1)
    assert text != other

    with pytest.raises(Malformed):
        Approval.from_text(other)


def test_signed_text_that_is_no_approval_counts_for_nothing() -> None:
    """What a person signs elsewhere is not their consent."""
    text = "alice was here\n"
    note = Note(text=text, signatures=(ALICE.sign(text),)).to_bytes()

    with pytest.raises(Malformed, match="found 1 lines, expected 6"):
        Approval.open(note, ALICE.verifier)
    with pytest.raises(Malformed, match="found 1 lines, expected 6"):
        verify(note)


def test_an_approval_that_means_nothing_cannot_be_built() -> None:
    """Digests are 32 bytes, names are names, and a time has a zone."""
    approval = Approval(trail="t", plan=bytes(32), policy=bytes(32), person="alice", at=AT)

    with pytest.raises(CallerError, match="approval plan: found 31 bytes"):
        replace(approval, plan=bytes(31))
    with pytest.raises(CallerError, match="approval policy: found 0 bytes"):
        replace(approval, policy=b"")
    with pytest.raises(CallerError, match="key name: found 'a b'"):
        replace(approval, person="a b")
    with pytest.raises(CallerError, match="found one without a time zone"):
        replace(approval, at=AT.replace(tzinfo=None))


def test_nobody_signs_for_another() -> None:
    """The key has the name of the person, when it signs and when the approval is opened."""
    text = Note.from_bytes(by(ALICE)[0]).text
    note = Note(text=text, signatures=(BOB.sign(text),)).to_bytes()
    as_owner = Approval.sign(PLAN, "owner", BOB, AT)

    with pytest.raises(CallerError, match="approval of alice: found a key of bob"):
        Approval.sign(PLAN, "alice", BOB, AT)
    with pytest.raises(InvalidSignature, match="found the consent of alice signed by bob"):
        Approval.open(note, BOB.verifier)
    with pytest.raises(InvalidSignature, match="found the consent of owner signed by bob"):
        Approval.open(as_owner, BOB.verifier)
    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        verify(as_owner, needed=BY_OWNER)


def test_enough_people_who_may_can_approve() -> None:
    """Two distinct people with the roles that are asked for are enough, and more may."""
    assert Verified(people=("alice", "bob"), distinct=2, self_approved=False) == verify(
        *by(ALICE, BOB)
    )
    assert ("bob", "carol", "alice") == verify(
        *by(BOB, CAROL, ALICE, plan=changed(requester="dave")), plan=changed(requester="dave")
    ).people


def test_a_person_can_be_asked_for_by_name() -> None:
    """The policy names roles or people."""
    assert ("dave",) == verify(*by(DAVE), needed=Approvals(from_=("dave",))).people


def test_too_few_people_are_refused() -> None:
    """One approval of two, or none, does not do."""
    with pytest.raises(NotApproved, match="found approvals of alice, expected 2 of dpo, audit-"):
        verify(*by(ALICE))
    with pytest.raises(NotApproved, match="found approvals of nobody, expected 2"):
        verify()
    with pytest.raises(NotApproved, match="found approvals of nobody, expected 1"):
        verify(needed=Approvals(n=0))


def test_one_person_twice_is_refused() -> None:
    """A second approval by the same person, even another one, makes no second person."""
    with pytest.raises(NotApproved, match="approval of alice: found a second one"):
        verify(*by(ALICE, ALICE))
    with pytest.raises(NotApproved, match="approval of alice: found a second one"):
        verify(*by(ALICE), *by(ALICE, at=AT + HOUR), *by(BOB))


def test_one_key_under_two_names_is_refused() -> None:
    """Two people of the policy who share a key are one."""
    policy = msgspec.structs.replace(
        POLICY, people={**POLICY.people, "erin": person(ALICE, "audit-lead")}
    )
    plan = changed(policy=policy.digest.hex())
    erin = SigningKey.from_seed("erin", bytes(32))

    with pytest.raises(NotApproved, match="approval of erin: found the key of alice"):
        verify(*by(ALICE, erin, plan=plan), plan=plan, policy=policy)


def test_the_owner_s_key_is_no_second_person() -> None:
    """Whoever holds the trail's key, and is in the policy with it, is still one person."""
    policy = msgspec.structs.replace(POLICY, people={"erin": person(OWNER, "dpo")})
    plan = changed(policy=policy.digest.hex())
    erin = SigningKey.from_seed("erin", bytes([7] * 32))

    with pytest.raises(NotApproved, match="approval of owner: found the key of erin"):
        verify(
            *by(erin, plan=plan),
            by_owner(plan),
            plan=plan,
            policy=policy,
            needed=Approvals(n=2, from_=("owner", "dpo")),
        )


def test_the_requester_cannot_approve() -> None:
    """Whoever asks is not one of those who consent, whatever their role is."""
    with pytest.raises(NotApproved, match="approval of carol: found who asks for the plan"):
        verify(*by(ALICE, CAROL))


def test_an_owner_s_own_plan_is_self_approved() -> None:
    """Where the policy asks for the owner alone, that is enough, and is said."""
    own = changed(requester="owner")

    assert Verified(people=("owner",), distinct=1, self_approved=True) == verify(
        by_owner(own), plan=own, needed=BY_OWNER
    )


def test_what_only_the_owner_approves_is_self_approved() -> None:
    """Naming another requester does not hide that nobody else has consented."""
    both = Approvals(n=2, from_=("owner", "dpo"))

    assert verify(by_owner(), needed=BY_OWNER).self_approved
    assert not verify(by_owner(), *by(ALICE), needed=both).self_approved
    own = changed(requester="owner")
    assert verify(by_owner(own), *by(ALICE, plan=own), plan=own, needed=both).self_approved


def test_the_owner_cannot_approve_where_others_are_asked() -> None:
    """Where the policy asks for people, holding the trail's keys is no consent."""
    with pytest.raises(NotApproved, match="approval of owner: found the owner, expected dpo"):
        verify(by_owner(), *by(ALICE))


def test_a_role_called_owner_makes_nobody_the_owner() -> None:
    """The owner is known by the trail's keys, and by nothing that a policy calls so."""
    policy = msgspec.structs.replace(POLICY, people={"erin": person(MALLORY, "owner")})
    plan = changed(policy=policy.digest.hex())
    erin = SigningKey.from_seed("erin", bytes([4] * 32))

    with pytest.raises(NotApproved, match="approval of erin: found owner, expected owner"):
        verify(*by(erin, plan=plan), plan=plan, policy=policy, needed=BY_OWNER)


def test_the_owner_signs_with_any_key_the_custody_log_had() -> None:
    """What was approved before a key was changed stays approved; other keys never count."""
    other = SigningKey.from_seed(OWNER.name, bytes([9] * 32))

    assert ("owner",) == verify(by_owner(key=OLD_OWNER), needed=BY_OWNER).people
    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        verify(by_owner(key=other), needed=BY_OWNER)


def test_an_unknown_person_is_refused() -> None:
    """Only people whom the policy names can approve."""
    with pytest.raises(NotApproved, match=r"approval of mallory: policy shop/1#.* knows no such"):
        verify(*by(ALICE, MALLORY))


def test_a_person_without_the_role_is_refused() -> None:
    """Being in the policy is not enough; the role must be one that is asked for."""
    with pytest.raises(NotApproved, match="approval of dave: found developer, expected dpo, aud"):
        verify(*by(ALICE, DAVE))
    with pytest.raises(NotApproved, match="approval of bob: found audit-lead, expected dpo"):
        verify(*by(ALICE, BOB), needed=Approvals(n=2, from_=("dpo",)))


def test_an_approval_of_another_plan_is_refused() -> None:
    """Consent to one plan is none to another, be it wider by one entry or the same once more."""
    stretched = changed(cover=(*PLAN.cover, Covered("user", 13, ("/actor/id",))))

    with pytest.raises(NotApproved, match=r"approval of alice: is for plan .*, expected"):
        verify(*by(ALICE, BOB), plan=stretched)
    with pytest.raises(NotApproved, match=r"approval of bob: is for plan .*, expected"):
        verify(*by(ALICE), *by(BOB, plan=changed(nonce=bytes(range(16)))))


@given(st.integers(0, 2**63 - 1).filter(lambda index: index != 12))
def test_no_entry_can_be_added_to_an_approved_plan(index: int) -> None:
    """Whichever entry is added to the cover list, the approvals no longer fit."""
    more = Covered("user", index, ("/actor/id",))
    stretched = changed(cover=tuple(sorted((*PLAN.cover, more))))

    with pytest.raises(NotApproved, match="approval of alice: is for plan"):
        verify(*by(ALICE, BOB), plan=stretched)


def test_an_approval_under_another_policy_is_refused() -> None:
    """Who consented under other rules has not consented under these."""
    approval = Approval.open(by(BOB)[0], BOB.verifier)
    text = replace(approval, policy=LATER_POLICY.digest).to_text()
    other = Note(text=text, signatures=(BOB.sign(text),)).to_bytes()

    with pytest.raises(NotApproved, match="approval of bob: was given under policy"):
        verify(*by(ALICE), other)


def test_an_approval_for_another_trail_is_refused() -> None:
    """Consent goes for one trail."""
    text = replace(Approval.open(by(BOB)[0], BOB.verifier), trail="0194-other").to_text()
    other = Note(text=text, signatures=(BOB.sign(text),)).to_bytes()

    with pytest.raises(NotApproved, match="approval of bob: is for trail 0194-other, expected"):
        verify(*by(ALICE), other)


def test_a_plan_for_another_trail_is_refused() -> None:
    """What people approved for one trail cannot be carried out on another of theirs."""
    assert 2 == verify(*by(ALICE, BOB), trail="0193-trail").distinct

    with pytest.raises(NotApproved, match="is for trail 0193-trail, expected 0194-other"):
        verify(*by(ALICE, BOB), trail="0194-other")


def test_a_plan_made_under_an_older_policy_is_refused() -> None:
    """When the policy changes, what was planned is planned and approved anew."""
    with pytest.raises(NotApproved, match=r"plan .*: was made under policy .*, expected the one"):
        verify(*by(ALICE, BOB), policy=LATER_POLICY)


def test_an_approval_before_the_plan_is_refused() -> None:
    """Nobody consents to what is not planned yet."""
    verify(*by(ALICE, BOB, at=CREATED))

    with pytest.raises(NotApproved, match=r"approval of alice: .*expected none before the plan"):
        verify(*by(ALICE, BOB, at=CREATED - MICROSECOND))


def test_an_approval_after_the_plan_expired_is_refused() -> None:
    """Late consent is none."""
    plan = changed(expires=NOW)

    with pytest.raises(NotApproved, match=r"approval of alice: .*expected none after the plan exp"):
        verify(*by(ALICE, BOB, plan=plan, at=NOW + MICROSECOND), plan=plan)


def test_an_approval_from_the_future_is_refused() -> None:
    """A date ahead would make an approval last longer than the policy lets it."""
    verify(*by(ALICE, BOB, at=NOW))

    with pytest.raises(NotApproved, match=r"approval of alice: .*expected none after now"):
        verify(*by(ALICE, BOB, at=NOW + MICROSECOND))


def test_an_approval_that_is_too_old_is_refused() -> None:
    """An approval can be used for as long as the policy says, and no longer."""
    end = AT + 7 * 24 * HOUR
    verify(*by(ALICE, BOB), now=end)

    with pytest.raises(NotApproved, match="approval of alice: was valid for 7d until"):
        verify(*by(ALICE, BOB), now=end + MICROSECOND)


def test_a_plan_that_is_not_due_is_refused() -> None:
    """Nothing is carried out before the plan says."""
    plan = changed(not_before=NOW)
    verify(*by(ALICE, BOB, plan=plan), plan=plan)

    with pytest.raises(NotApproved, match=r"plan .*: found .*, expected not before"):
        verify(*by(ALICE, BOB, plan=plan), plan=plan, now=NOW - MICROSECOND)


def test_a_plan_that_is_cooling_off_is_refused() -> None:
    """Between a plan and its execution lies the time that the policy sets, at the least."""
    end = CREATED + 72 * HOUR
    verify(*by(ALICE, BOB), now=end)

    with pytest.raises(NotApproved, match=r"expected not before 2026-11-27T12:00:00.000000Z"):
        verify(*by(ALICE, BOB), now=end - MICROSECOND)


def test_a_plan_that_expired_is_refused() -> None:
    """A plan that nobody carried out in time is void."""
    plan = changed(expires=NOW)
    verify(*by(ALICE, BOB, plan=plan), plan=plan)

    with pytest.raises(NotApproved, match=r"plan .*: expired, found"):
        verify(*by(ALICE, BOB, plan=plan), plan=plan, now=NOW + MICROSECOND)


def test_a_plan_is_carried_out_once() -> None:
    """The same approvals do not serve a second time."""
    with pytest.raises(NotApproved, match=r"plan .*: was carried out already"):
        verify(*by(ALICE, BOB), used={PLAN.digest})


def test_a_wrong_signature_by_a_known_person_raises_the_alarm() -> None:
    """A forged or damaged approval is not one too few: it is evidence that does not hold."""
    note = Note.from_bytes(by(BOB)[0])
    (signature,) = note.signatures
    wrong = replace(
        note,
        signatures=(replace(signature, signature=bytes(len(signature.signature))),),
    )

    with pytest.raises(InvalidSignature, match=r"signature of bob\+.* is wrong"):
        verify(*by(ALICE), wrong.to_bytes())


@given(st.data())
def test_an_approval_with_a_changed_byte_never_counts(data: st.DataObject) -> None:
    """Whatever is changed about an approval, the plan is no longer approved."""
    alice, bob = by(ALICE, BOB)
    at = data.draw(st.integers(0, len(bob) - 1))
    changed_byte = bytes([bob[at] ^ data.draw(st.integers(1, 255))])

    with pytest.raises((NotApproved, InvalidSignature, Malformed)):
        verify(alice, bob[:at] + changed_byte + bob[at + 1 :])


def test_one_bad_approval_is_not_passed_over() -> None:
    """An approval that does not count is named, even beside enough that do."""
    with pytest.raises(NotApproved, match="approval of dave"):
        verify(*by(ALICE, BOB, DAVE))


def test_a_past_erasure_is_judged_by_its_own_time() -> None:
    """An auditor who looks years later finds approved what was approved, and nothing more."""
    asked = {"policy": POLICY, "needed": TWO, "owner_keys": OWNER_KEYS}

    assert ("alice", "bob") == verify_approvals(PLAN, by(ALICE, BOB), now=NOW, **asked).people  # type: ignore[arg-type]  # one dict for both
    with pytest.raises(NotApproved, match="expected not before"):
        verify_approvals(PLAN, by(ALICE, BOB), now=AT, **asked)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "found '', expected 'ed25519:'"),
        ("rsa:AAAA", "found 'rsa:AAAA', expected 'ed25519:'"),
        ("ed25519:AAAA", "key of alice: found 3 bytes, expected 32"),
        ("ed25519:?", "key of alice: found no base64"),
    ],
)
def test_a_policy_whose_key_is_none_is_refused(key: str, message: str) -> None:
    """Nobody can approve with a key that the policy names wrongly."""
    policy = msgspec.structs.replace(POLICY, people={"alice": Person(name="Alice", key=key)})

    with pytest.raises(CallerError, match=message):
        key_of("alice", policy)


def test_the_key_of_a_person_has_their_id_for_its_name() -> None:
    """Approvals are signed under the id that the policy gives a person."""
    assert ALICE.verifier == key_of("alice", POLICY)
