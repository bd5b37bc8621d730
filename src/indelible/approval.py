"""
Approval: consent of one person to exactly one plan.

A signed note, whose text is::

    indelible-approval/1
    <trail id>
    <SHA-256 of the plan, 64 hex>
    <SHA-256 of the policy in force, 64 hex>
    <person>
    <time>

It is signed with the key that the policy names for the person, under the person's id. The
person ``owner`` is whoever holds the trail's own keys, and signs with one of these: that
is allowed where the policy says so, and is called self-approved.

What an event says of approvals in the application is `indelible.event.Approval`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indelible.duration import Duration
from indelible.errors import CallerError, InvalidSignature, Malformed, NotApproved
from indelible.merkle import HASH_SIZE
from indelible.note import ED25519, Note, VerifierKey, check_key_name, parse_base64
from indelible.plan import text_of, time_of
from indelible.policy import OWNER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from indelible.keys import Signer
    from indelible.plan import Plan
    from indelible.policy import Approvals, Policy

_TITLE = "indelible-approval/1"
_LINES = 6
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KEY_PREFIX = "ed25519:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """
    What one person consents to.

    Attributes:
        trail: Id of the trail.
        plan: SHA-256 of the plan's bytes.
        policy: SHA-256 of the policy that the person knew to be in force.
        person: Their id in the policy, or ``owner``.
        at: When they consented, as they say.

    Raises:
        CallerError: A part cannot be that of an approval.
    """

    trail: str
    plan: bytes
    policy: bytes
    person: str
    at: datetime

    def __post_init__(self) -> None:
        check_key_name(self.trail)
        check_key_name(self.person)
        for what, digest in (("plan", self.plan), ("policy", self.policy)):
            if len(digest) != HASH_SIZE:
                raise CallerError(
                    f"approval {what}: found {len(digest)} bytes, expected {HASH_SIZE}"
                )
        if self.at.utcoffset() is None:
            raise CallerError("approval time: found one without a time zone")

    @classmethod
    def from_text(cls, text: str) -> Approval:
        """
        Read the text of an approval; it says nothing about the signature.

        Raises:
            Malformed: It is not exactly an approval.
        """
        *lines, rest = text.split("\n")
        if len(lines) != _LINES or rest:
            raise Malformed(f"approval: found {len(lines)} lines, expected {_LINES}")
        title, trail, plan, policy, person, at = lines
        if title != _TITLE:
            raise Malformed(f"approval: found {title!r}, expected {_TITLE!r}")
        try:
            return cls(
                trail=trail,
                plan=_digest("plan", plan),
                policy=_digest("policy", policy),
                person=person,
                at=time_of(at),
            )
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_text(self) -> str:
        """Write the text of an approval: what is signed."""
        lines = (
            _TITLE,
            self.trail,
            self.plan.hex(),
            self.policy.hex(),
            self.person,
            text_of(self.at),
        )
        return "".join(f"{line}\n" for line in lines)

    @staticmethod
    def sign(plan: Plan, person: str, signer: Signer, at: datetime) -> bytes:
        """
        Consent to *plan* as *person*, and return the note.

        Whether this person may, is for `verify_approvals` to say.

        Raises:
            CallerError: The key has another name than the person; that of the owner has
                its log's.
        """
        approval = Approval(
            trail=plan.trail,
            plan=plan.digest,
            policy=bytes.fromhex(plan.policy),
            person=person,
            at=at,
        )
        if person not in {signer.name, OWNER}:
            raise CallerError(f"approval of {person}: found a key of {signer.name}")
        text = approval.to_text()
        return Note(text=text, signatures=(signer.sign(text),)).to_bytes()

    @classmethod
    def open(cls, note: bytes, key: VerifierKey, *, person: str | None = None) -> Approval:
        """
        Verify an approval by the person whose *key* this is, and read it.

        Args:
            person: Whose key it is, where that is not its name: ``owner``.

        Raises:
            Malformed: These bytes are not exactly an approval.
            InvalidSignature: The key has not signed it, or signs for somebody else.
        """
        signed = Note.from_bytes(note)
        signed.verify([key])
        approval = cls.from_text(signed.text)
        # One person's key must not speak for another.
        expected = key.name if person is None else person
        if approval.person != expected:
            raise InvalidSignature(
                f"approval: found the consent of {approval.person} signed by {expected}"
            )
        return approval


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """
    Who has approved a plan.

    Attributes:
        people: Their ids, in the order of their approvals.
        distinct: How many people these are.
        self_approved: The owner was asked to consent to the owner's own plan, or nobody
            else has consented.
    """

    people: tuple[str, ...]
    distinct: int
    self_approved: bool


def verify_approvals(
    plan: Plan,
    approvals: Iterable[bytes],
    *,
    policy: Policy,
    needed: Approvals,
    owner_keys: Iterable[VerifierKey],
    now: datetime,
    used: Collection[bytes] = (),
    trail: str | None = None,
) -> Verified:
    """
    Check that those who must have approved *plan*, and that it may be carried out *now*.

    Each approval that is given must count: one that does not is never passed over.

    Args:
        policy: The one in force.
        needed: Whose consent it asks for.
        now: The time of the entry that begins it. An auditor gives that of the past one:
            nothing that expired since counts against it.
        owner_keys: Those that the trail's own custody log has and had.
        used: Digests of the plans that were carried out already.
        trail: Id of this trail. People may sign for several; whoever takes a plan from
            elsewhere names the trail that it must be for.

    Raises:
        NotApproved: It may not be carried out; the message says why.
        InvalidSignature: A signature by a person that the policy knows is wrong.
        Malformed: An approval is none.
    """
    verify_plan(plan, policy=policy, needed=needed, now=now, used=used, trail=trail)
    owner_keys = tuple(owner_keys)
    people: dict[str, None] = {}
    holders: dict[bytes, str] = {}
    for data in approvals:
        note = Note.from_bytes(data)
        approval = Approval.from_text(note.text)
        # Before the signature is verified, the text only says whose key to ask for.
        person = approval.person
        signed = note.verify(owner_keys if person == OWNER else [key_of(person, policy)])
        _check_consent(approval, plan, policy=policy, needed=needed, now=now)
        if person in people:
            raise NotApproved(f"approval of {person}: found a second one, expected one a person")
        for key in signed:
            # Two names for one key are one person.
            holder = holders.setdefault(key.public, person)
            if holder != person:
                raise NotApproved(
                    f"approval of {person}: found the key of {holder}, expected a key of their own"
                )
        people[person] = None
    expected = max(1, needed.n)
    if len(people) < expected:
        found = ", ".join(people) or "nobody"
        raise NotApproved(
            f"{_named(plan)}: found approvals of {found}, expected {expected} of"
            f" {', '.join(needed.from_)}"
        )
    alone = OWNER in people and (plan.requester == OWNER or len(people) == 1)
    return Verified(people=tuple(people), distinct=len(people), self_approved=alone)


def key_of(person: str, policy: Policy) -> VerifierKey:
    """
    Return the key with which *person* signs, as *policy* names it.

    Raises:
        NotApproved: The policy knows no such person.
        CallerError: What it names is no key.
    """
    known = policy.people.get(person)
    if known is None:
        raise NotApproved(f"approval of {person}: policy {policy.label} knows no such person")
    prefix, encoded = known.key[: len(_KEY_PREFIX)], known.key[len(_KEY_PREFIX) :]
    what = f"policy {policy.label}, key of {person}"
    if prefix != _KEY_PREFIX:
        raise CallerError(f"{what}: found {prefix!r}, expected {_KEY_PREFIX!r}")
    try:
        public = parse_base64(encoded, what=what)
    except Malformed as fault:
        raise CallerError(str(fault)) from None
    return VerifierKey(name=person, type=ED25519, public=public)


def verify_plan(
    plan: Plan,
    *,
    policy: Policy,
    needed: Approvals | None,
    now: datetime,
    used: Collection[bytes] = (),
    trail: str | None,
) -> None:
    """
    Check that *plan* is for this trail and policy, and may be carried out *now*, if approved.

    Args:
        needed: Whose consent the policy asks for, and after how long; None for nobody's.
        used, trail: As for `verify_approvals`.

    Raises:
        NotApproved: It is not; the message says why.
    """
    what = _named(plan)
    if trail is not None and plan.trail != trail:
        raise NotApproved(f"{what}: is for trail {plan.trail}, expected {trail}")
    if plan.policy != policy.digest.hex():
        raise NotApproved(
            f"{what}: was made under policy {plan.policy}, expected the one in force,"
            f" {policy.digest.hex()}"
        )
    if plan.digest in used:
        raise NotApproved(f"{what}: was carried out already, expected a new one")
    due = plan.not_before
    if needed is not None and needed.cooling_off is not None:
        due = max(due, Duration.parse(needed.cooling_off).after(plan.created_at))
    if now < due:
        raise NotApproved(f"{what}: found {text_of(now)}, expected not before {text_of(due)}")
    if now > plan.expires:
        raise NotApproved(
            f"{what}: expired, found {text_of(now)}, expected no later than {text_of(plan.expires)}"
        )


def _check_consent(
    approval: Approval, plan: Plan, *, policy: Policy, needed: Approvals, now: datetime
) -> None:
    what = f"approval of {approval.person}"
    if approval.trail != plan.trail:
        raise NotApproved(f"{what}: is for trail {approval.trail}, expected {plan.trail}")
    if approval.plan != plan.digest:
        raise NotApproved(
            f"{what}: is for plan {approval.plan.hex()}, expected {plan.digest.hex()}"
        )
    if approval.policy != policy.digest:
        raise NotApproved(
            f"{what}: was given under policy {approval.policy.hex()}, expected"
            f" {policy.digest.hex()}"
        )
    _check_role(approval.person, plan, policy=policy, needed=needed)
    at = text_of(approval.at)
    if approval.at < plan.created_at:
        raise NotApproved(
            f"{what}: found time {at}, expected none before the plan, {text_of(plan.created_at)}"
        )
    if approval.at > plan.expires:
        raise NotApproved(
            f"{what}: found time {at}, expected none after the plan expired,"
            f" {text_of(plan.expires)}"
        )
    if approval.at > now:
        raise NotApproved(f"{what}: found time {at}, expected none after now, {text_of(now)}")
    end = Duration.parse(needed.valid).after(approval.at)
    if end < now:
        raise NotApproved(
            f"{what}: was valid for {needed.valid} until {text_of(end)}, found {text_of(now)}"
        )


def _check_role(person: str, plan: Plan, *, policy: Policy, needed: Approvals) -> None:
    expected = ", ".join(needed.from_)
    if person == OWNER:
        if OWNER not in needed.from_:
            raise NotApproved(f"approval of {person}: found the owner, expected {expected}")
        return
    # No role of a person makes them the owner, whatever it is called.
    roles = policy.people[person].roles
    if {person, *roles}.isdisjoint(set(needed.from_) - {OWNER}):
        found = ", ".join(roles) or "no role"
        raise NotApproved(f"approval of {person}: found {found}, expected {expected}")
    if person == plan.requester:
        raise NotApproved(
            f"approval of {person}: found who asks for the plan, expected somebody else"
        )


def _named(plan: Plan) -> str:
    return f"plan {plan.digest.hex()}"


def _digest(what: str, text: str) -> bytes:
    if not _DIGEST.fullmatch(text):
        raise Malformed(f"approval {what}: found {text[:80]!r}, expected 64 hex digits")
    return bytes.fromhex(text)
