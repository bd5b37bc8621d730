"""
Governing: policy, legal holds, erasures and approvals, as callers ask for them over the network.

::

    plan      what would be done, as bytes that people sign; kept with whoever has asked
    approve   notes that people have signed with keys of the policy, collected until enough
    do        the core decides whether they are; what it does names the caller

The owner, who holds the trail's keys, is not here: what the owner alone has to approve is
done where the keys are.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from indelible import approval, custody, erasure, holds, loosening, policies
from indelible.access import MASK, Viewer
from indelible.approval import Approval
from indelible.collector.callers import asks
from indelible.collector.exports import Exports
from indelible.collector.problems import Refusal
from indelible.collector.reading import READS, rest_of
from indelible.collector.state import Collector
from indelible.covers import Covers
from indelible.custody import own_event
from indelible.entry import moment_of
from indelible.errors import (
    CallerError,
    Forbidden,
    InvalidSignature,
    Malformed,
    Moved,
    NotApproved,
    NotFound,
)
from indelible.grants import person_of
from indelible.log import head_of
from indelible.note import Note
from indelible.openings import OPENED, Reading
from indelible.plan import Plan, text_of
from indelible.policies import Consent
from indelible.policy import CUSTODY, OWNER
from indelible.reader import Reader
from indelible.removal import covered_values
from indelible.rights import Caller, Verb
from indelible.wire import (
    ApprovalNote,
    ErasureDone,
    ErasureRequest,
    ErasureShown,
    HoldRequest,
    HoldShown,
    Needed,
    PlanShown,
    PolicyChange,
    PolicyShown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from indelible.covers import Cover
    from indelible.keys import Signer
    from indelible.policy import Approvals, Policy
    from indelible.retention import Hold
    from indelible.store import Head, Store, Transaction, View
    from indelible.trail import Trail
    from indelible.vault import Vault

ACTED = "caller.act"
"""
The action of the entries that name the caller on whose behalf the custody stream was written
to; they stand right behind what was written, and come with it or not at all.
"""

KIND = "proposal"
"""Of the facts that collect approvals; key: the digest of the plan."""

MOST_PLAN = 2 * 1024 * 1024
"""Bytes of the largest plan that is made over the network."""

_MOST_OPEN = 200
_MOST_APPROVALS = 50


# ---- On behalf of a caller ----


class Acting:
    """
    A trail on behalf of a caller: whatever it writes about itself says who has asked for it.

    Args:
        does: What the caller has asked for: ``hold.release``.
    """

    def __init__(self, trail: Trail, caller: Caller, does: str) -> None:
        self._trail, self._caller, self._does = trail, caller, does
        self.store = cast("Store", _ActingStore(self, trail.store))

    @property
    def id(self) -> str:
        """The trail's id."""
        return self._trail.id

    @property
    def origin(self) -> str:
        """What its logs' origins begin with."""
        return self._trail.origin

    @property
    def vault(self) -> Vault:
        """Where its values are kept."""
        return self._trail.vault

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        return self._trail.signer_of(head)

    def new_signer(self, log: str) -> Signer:
        """Make the key of a log that does not exist yet."""
        return self._trail.new_signer(log)

    def forgetting(self) -> AbstractContextManager[None]:
        """Hold off other removals inside the block."""
        return self._trail.forgetting()

    def forgotten(self) -> None:
        """Take note that values are gone."""
        self._trail.forgotten()

    @contextmanager
    def naming(self, transaction: Transaction) -> Iterator[Transaction]:
        """Name the caller behind what the block writes into the custody stream, if it does."""
        before = head_of(transaction.heads(), CUSTODY)
        yield transaction
        after = head_of(transaction.heads(), CUSTODY)
        if (after.log, after.size) == (before.log, before.size):
            return
        said = own_event(
            self.id,
            ACTED,
            does=self._does,
            caller=self._caller.id,
            name=self._caller.name,
            role=self._caller.role,
            log=after.log,
            first=before.size if before.log == after.log else 0,
            size=after.size,
        )
        custody.add(self, transaction, [said], after.recorded_at)


class _ActingStore:
    """The store of a trail, whose transactions name a caller."""

    def __init__(self, acting: Acting, store: Store) -> None:
        self._acting, self._store = acting, store

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with self._store.write() as transaction, self._acting.naming(transaction):
            yield transaction

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a store has
        return getattr(self._store, name)


def check_whole(caller: Caller, what: str) -> None:
    """
    Check that *caller* is not limited to a part of the trail, which is governed as a whole.

    Raises:
        Forbidden: It is.
    """
    if caller.streams or caller.tenant is not None:
        raise Forbidden(f"{what}: concerns the whole trail, and the caller sees a part of it")


def requester_of(caller: Caller, policy: Policy) -> str:
    """Return as whom *caller* asks: a person of the policy, who then may not approve it."""
    person = person_of(caller)
    if person in policy.people:
        return person
    return "".join(
        each if each.isascii() and (each.isalnum() or each in "-_.:@/") else "_"
        for each in f"caller:{caller.id}"
    )


# ---- Proposals ----


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """
    A plan that waits to be approved.

    Attributes:
        caller: Id of whoever has asked for it.
        document: Digest of the policy that is to be set, in hex.
        expires: Microseconds since 1970.
        approvals: The notes that were handed in.
    """

    kind: str
    caller: str
    document: str = ""
    expires: int
    approvals: tuple[str, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> Proposal:
        """Read what `to_bytes` writes."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.json.encode(self)


def proposals(view: View, now: int) -> dict[bytes, Proposal]:
    """Return what waits, by the digests of the plans."""
    found = {key: Proposal.from_bytes(kept) for key, kept in view.facts(KIND)}
    return {key: each for key, each in found.items() if now <= each.expires}


def propose(
    collector: Collector, caller: Caller, plan: Plan, *, documents: Iterable[bytes] = ()
) -> None:
    """
    Keep *plan* until people have approved it, and record that *caller* has asked for it.

    Raises:
        CallerError: It is too large, or too many wait.
    """
    trail, now = collector.trail, collector.now()
    data = plan.to_bytes()
    if len(data) > MOST_PLAN:
        raise CallerError(
            f"plan: found {len(data)} bytes, expected at most {MOST_PLAN}; larger ones are made"
            " where the trail's keys are"
        )
    with trail.store.read() as view:
        open_ = proposals(view, now)
        over = [key for key, _ in view.facts(KIND) if key not in open_]
    if len(open_) >= _MOST_OPEN:
        raise CallerError(f"plans: {len(open_)} wait already, expected fewer")
    proposal = Proposal(
        kind=plan.kind,
        caller=caller.id,
        document=str(plan.detail.get("digest", "")),
        expires=int(plan.expires.timestamp() * 1_000_000),
    )
    event = own_event(
        trail.id,
        f"{plan.kind}.plan",
        plan=plan.digest.hex(),
        requester=plan.requester,
        basis=plan.basis,
        entries=len(plan.cover),
        values=sum(len(each.paths) for each in plan.cover),
        expires=text_of(plan.expires),
    )
    with Acting(trail, caller, f"{plan.kind}.plan").store.write() as transaction:
        for document in (data, *documents):
            transaction.add_document(document)
        for key in over:
            transaction.put(KIND, key, None)
        transaction.put(KIND, plan.digest, proposal.to_bytes())
        custody.add(trail, transaction, [event], now)


def approve(collector: Collector, caller: Caller, note: str) -> tuple[Plan, Proposal]:
    """
    Keep the approval in *note* with the plan that it is for, and return both.

    That it counts is checked here as far as it can be by itself; whether all that were
    handed in suffice, the core says when the plan is carried out.

    Raises:
        NotFound: No such plan waits.
        NotApproved: It does not count: of whom it is, or for what.
        Refusal: 422: it is no approval, or a wrong signature.
    """
    trail, now = collector.trail, collector.now()
    try:
        said = Approval.from_text(Note.from_bytes(note.encode()).text)
        with trail.store.read() as view:
            proposal = _proposal(view, said.plan, now)
            plan = Plan.from_bytes(policies.document(view, said.plan))
            policy = policies.current(view)
        if said.person == OWNER:
            raise NotApproved(
                "approval: found the owner's, expected that of a person of the policy; what the"
                " owner approves is carried out where the trail's keys are"
            )
        if any(person == said.person for person in people_of(proposal)):
            raise NotApproved(f"approval of {said.person}: was handed in already")
        _verify_alone(plan, note, policy, trail.id, now)
    except (Malformed, InvalidSignature) as error:
        raise Refusal(422, "malformed", str(error)) from None
    event = own_event(trail.id, f"{plan.kind}.approve", plan=plan.digest.hex(), person=said.person)
    with Acting(trail, caller, f"{plan.kind}.approve").store.write() as transaction:
        kept = transaction.fact(KIND, plan.digest)
        if kept is None or len((known := Proposal.from_bytes(kept)).approvals) >= _MOST_APPROVALS:
            raise Moved("plan: was carried out meanwhile")
        if said.person in people_of(known):
            raise Moved("plan: was approved by the same person meanwhile")
        added = msgspec.structs.replace(known, approvals=(*known.approvals, note))
        transaction.put(KIND, plan.digest, added.to_bytes())
        custody.add(trail, transaction, [event], now)
    return plan, added


def _verify_alone(plan: Plan, note: str, policy: Policy, trail: str, now: int) -> None:
    """Check of one approval that it would count when the plan's time has come."""
    needed = msgspec.structs.replace(_needed(policy, plan.kind), n=1)
    approval.verify_approvals(
        plan,
        [note.encode()],
        policy=policy,
        needed=needed,
        owner_keys=(),
        now=max(moment_of(now), plan.not_before),
        trail=trail,
    )


def _proposal(view: View, digest: bytes, now: int) -> Proposal:
    found = proposals(view, now).get(digest)
    if found is None:
        raise NotFound("plan: found none of this digest that waits")
    return found


def _needed(policy: Policy, kind: str) -> Approvals:
    governance = policy.governance
    return governance.loosening if kind == "policy" else governance.erasure


def people_of(proposal: Proposal) -> tuple[str, ...]:
    """Return who has approved it."""
    return tuple(
        Approval.from_text(Note.from_bytes(note.encode()).text).person
        for note in proposal.approvals
    )


def check_people_may(needed: Approvals, what: str, command: str) -> None:
    """
    Check that others than the owner can approve what is asked for.

    Args:
        command: By which the owner does it.

    Raises:
        NotApproved: The policy asks for the owner alone, who is not here.
    """
    if set(needed.from_) <= {OWNER}:
        raise NotApproved(
            f"{what}: the policy asks whoever holds the trail's keys to approve it, and nobody"
            f" can over the network; use {command} where they are"
        )


def plan_shown(
    trail: Trail, view: View, plan: Plan, proposal: Proposal, *, whole: bool
) -> PlanShown:
    """
    Return a plan as it is sent.

    Args:
        whole: With its bytes, to be signed.
    """
    policy = policies.current(view)
    needed = _needed(policy, plan.kind)
    values = covered_values(view, trail.vault.keyring, plan, policy)
    deferred: Counter[str] = Counter()
    for each in plan.deferred:
        deferred[each.ground] += len(each.paths)
    return PlanShown(
        digest=plan.digest.hex(),
        kind=plan.kind,
        plan=b64encode(plan.to_bytes()).decode() if whole else None,
        basis=plan.basis,
        requester=plan.requester,
        created_at=text_of(plan.created_at),
        not_before=text_of(plan.not_before),
        expires=text_of(plan.expires),
        entries=len(plan.cover),
        values=dict(sorted(Counter(value.class_.value for value in values).items())),
        deferred=dict(sorted(deferred.items())),
        in_clear=int(plan.detail.get("in_clear", 0)),
        needed=Needed(n=max(1, needed.n), of=needed.from_),
        approved_by=people_of(proposal),
    )


# ---- Policy ----


def set_policy(collector: Collector, caller: Caller, document: bytes) -> None:
    """
    Put the trail under the policy in *document*.

    Raises:
        InvalidPolicy: It is none, or does not follow the one in force.
        Refusal: 409: it loosens the one in force and was not approved yet; the answer has
            the plan that people are to sign.
        NotApproved: It does, and only the owner could approve it.
    """
    trail, now = collector.trail, collector.now()
    new = policies.checked(policies.parse(document))
    with trail.store.read() as view:
        old = policies.current(view)
    if new.digest == old.digest:
        trail.set_policy(new)
        return
    consent = None
    if loosening.loosened(old, new):
        check_people_may(old.governance.loosening, f"policy {new.label}", "indelible policy set")
        if old.id != "default" or new.id == "default":
            loosening.verify_succession(old, new)
        consent = _consent_to(collector, caller, old, new, document)
    acting = Acting(trail, caller, policies.SET)
    try:
        policies.change(acting, new, moment_of(now), consent)
    except NotApproved as error:
        if consent is None:
            raise
        raise _to_be_signed(trail, consent.plan, str(error), now) from None
    if consent is not None:
        _settle(trail, Plan.from_bytes(consent.plan).digest)
    # It is in force: this takes it into use here, and pins the keys of new logs.
    trail.set_policy(new)


def _consent_to(
    collector: Collector, caller: Caller, old: Policy, new: Policy, document: bytes
) -> Consent:
    """Return the plan of the change with its approvals, if one waits; else make it."""
    trail, now = collector.trail, collector.now()
    with trail.store.read() as view:
        for digest, proposal in proposals(view, now).items():
            if proposal.document == new.digest.hex():
                data = policies.document(view, digest)
                if Plan.from_bytes(data).policy == old.digest.hex():
                    notes = tuple(note.encode() for note in proposal.approvals)
                    return Consent(plan=data, approvals=notes)
    plan = policies.plan_change(trail, new, moment_of(now), requester=requester_of(caller, old))
    propose(collector, caller, plan, documents=[document])
    return Consent(plan=plan.to_bytes())


def _to_be_signed(trail: Trail, data: bytes, why: str, now: int) -> Refusal:
    plan = Plan.from_bytes(data)
    with trail.store.read() as view:
        shown = plan_shown(trail, view, plan, _proposal(view, plan.digest, now), whole=True)
    return Refusal(409, "not-approved", why, errors=(msgspec.to_builtins(shown),))


def _settle(trail: Trail, digest: bytes) -> None:
    """Forget the approvals of a plan that was carried out; its entry has them."""
    with trail.store.write() as transaction:
        transaction.put(KIND, digest, None)


# ---- Erasures ----


def carry_out(collector: Collector, caller: Caller, digest: bytes) -> ErasureDone:
    """
    Erase what the plan with this *digest* covers, or go on where a crash has cut it off.

    Raises:
        NotFound: There is no such plan.
        NotApproved: It may not be carried out.
        StoreError: It may be half done; repeat it.
    """
    trail, now = collector.trail, collector.now()
    with trail.store.read() as view:
        waiting = proposals(view, now).get(digest)
        begun = Covers.read(view, only=digest.hex()).covers.get(digest.hex())
        if waiting is None and begun is None:
            raise NotFound("plan: found none of this digest that waits")
        data = policies.document(view, digest)
        if waiting is not None and begun is None:
            check_people_may(
                policies.current(view).governance.erasure, "erasure", "indelible erase"
            )
    given = () if waiting is None else waiting.approvals
    notes = tuple(note.encode() for note in given) if begun is None else begun.approvals
    acting = Acting(trail, caller, "erase")
    done = erasure.carry_out(acting, Consent(plan=data, approvals=notes), moment_of(now))
    _settle(trail, digest)
    return ErasureDone(plan=digest.hex(), entries=done.entries, values=done.values, keys=done.keys)


def ledger(view: View, now: int) -> Iterator[ErasureShown]:
    """Yield each erasure and purge that was begun, and what is planned, the oldest first."""
    covers = Covers.read(view)
    for digest, cover in covers.covers.items():
        yield _begun(digest, cover)
    for key, proposal in proposals(view, now).items():
        if proposal.kind == "erase" and key.hex() not in covers.covers:
            plan = Plan.from_bytes(policies.document(view, key))
            yield ErasureShown(
                kind=plan.kind,
                plan=key.hex(),
                state="planned",
                at=text_of(plan.created_at),
                basis=plan.basis,
                requester=plan.requester,
                entries=len(plan.cover),
                values=sum(len(each.paths) for each in plan.cover),
                approved_by=people_of(proposal),
            )


def _begun(digest: str, cover: Cover) -> ErasureShown:
    plan = cover.plan
    shown = ErasureShown(
        kind="erase" if plan is None else plan.kind,
        plan=digest,
        state="invalid" if cover.wrong else "effective" if cover.effective else "begun",
        entry=cover.entry,
        at=text_of(cover.began_at),
        approved_by=cover.approved_by,
        self_approved=cover.self_approved,
        why=cover.wrong,
    )
    if plan is None:
        return shown
    return msgspec.structs.replace(
        shown,
        basis=plan.basis,
        requester=plan.requester,
        entries=len(plan.cover),
        values=sum(len(each.paths) for each in plan.cover),
    )


# ---- Holds ----


def holds_shown(collector: Collector, caller: Caller) -> list[HoldShown]:
    """Return all legal holds, with what the caller's role sees of whom they are on, and why."""
    trail = collector.trail
    viewer = Viewer.of(trail.policy, caller.role)
    found = trail.holds()
    if found and any(viewer.sees(class_) for class_ in custody.PRIVATE.values()):
        reading = Reading(action=OPENED, role=caller.role, caller=caller.id, name=caller.name)
        trail.openings.add(reading, len(found), "holds")
        trail.openings.say()
    return [_hold_shown(each, viewer) for each in found]


def _hold_shown(hold: Hold, viewer: Viewer) -> HoldShown:
    def seen(name: str, value: str | None) -> str | None:
        return value if value is None or viewer.sees(custody.PRIVATE[name]) else MASK

    return HoldShown(
        id=hold.id,
        ground=seen("ground", hold.ground) or "",
        subject=seen("subject", hold.subject),
        query=seen("query", hold.query),
        placed_at=text_of(hold.placed_at),
        released_at=None if hold.released_at is None else text_of(hold.released_at),
    )


# ---- Routes ----


_SEES_POLICY = asks(Verb.READ, Verb.OBSERVE)
_ERASES = asks(Verb.ERASE)


@get("/v1/policy", guards=_SEES_POLICY, sync_to_thread=True, tags=["governing"])
def policy_shown(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> PolicyShown:
    """Answer the policy in force."""
    check_whole(caller, "policy")
    with collector.trail.store.read() as view:
        return _policy_shown(policies.current(view))


def _policy_shown(policy: Policy) -> PolicyShown:
    return PolicyShown(
        label=policy.label,
        digest=policy.digest.hex(),
        version=policy.version,
        document=policies.text_of(policy).decode(),
    )


@put("/v1/policy", guards=asks(Verb.CONFIGURE), sync_to_thread=True, tags=["governing"])
def policy_set(
    data: JSONBody[PolicyChange],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> PolicyShown:
    """Put the trail under another policy; what loosens the one in force must be approved first."""
    check_whole(caller, "policy")
    set_policy(collector, caller, data.document.encode())
    return _policy_shown(collector.trail.policy)


@get("/v1/holds", guards=_ERASES, sync_to_thread=True, tags=["governing"])
def all_holds(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[HoldShown]:
    """List every legal hold that was ever placed, the oldest first."""
    check_whole(caller, "holds")
    return holds_shown(collector, caller)


@post("/v1/holds", guards=_ERASES, sync_to_thread=True, tags=["governing"])
def hold(
    data: JSONBody[HoldRequest],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> HoldShown:
    """Place a legal hold: what it is on is neither erased nor purged while it lasts."""
    check_whole(caller, "holds")
    if [data.subject is not None, data.query is not None, data.everything].count(True) != 1:
        raise CallerError("hold: expected exactly one of subject, query and everything")
    now = moment_of(collector.now())
    name = holds.add(
        Acting(collector.trail, caller, holds.ADDED),
        ground=data.ground,
        subject=data.subject,
        query=data.query,
        now=now,
    )
    return HoldShown(
        id=name,
        ground=data.ground,
        subject=data.subject,
        query=data.query,
        placed_at=text_of(now),
    )


@delete("/v1/holds/{hold_id:str}", guards=_ERASES, sync_to_thread=True, tags=["governing"])
def release(
    hold_id: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> None:
    """Release a legal hold."""
    check_whole(caller, "holds")
    acting = Acting(collector.trail, caller, holds.RELEASED)
    holds.release(acting, hold_id, now=moment_of(collector.now()))


@post("/v1/erasures", guards=_ERASES, sync_to_thread=True, tags=["governing"])
def plan_erasure(
    data: JSONBody[ErasureRequest],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> PlanShown:
    """Plan an erasure: what there is of the subject, less what a hold or a floor keeps."""
    check_whole(caller, "erasure")
    trail, now = collector.trail, collector.now()
    check_people_may(trail.policy.governance.erasure, "erasure", "indelible erase")
    plan = erasure.plan_erasure(
        trail,
        data.subject,
        basis=data.basis,
        paths=data.paths,
        requester=requester_of(caller, trail.policy),
        now=moment_of(now),
    )
    propose(collector, caller, plan)
    with trail.store.read() as view:
        return plan_shown(trail, view, plan, _proposal(view, plan.digest, now), whole=True)


@get(
    "/v1/erasures",
    guards=asks(Verb.ERASE, Verb.OBSERVE),
    sync_to_thread=True,
    tags=["governing"],
)
def erasures(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[ErasureShown]:
    """Answer the ledger of erasures and purges: what was planned, begun, and is effective."""
    check_whole(caller, "erasures")
    with collector.trail.store.read() as view:
        return list(ledger(view, collector.now()))


@post(
    "/v1/erasures/{digest:str}/carry-out",
    guards=_ERASES,
    status_code=200,
    sync_to_thread=True,
    tags=["governing"],
)
def carry_out_erasure(
    digest: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    exports: NamedDependency[Exports],
) -> ErasureDone:
    """Carry out an erasure that was approved; the values are gone for good."""
    check_whole(caller, "erasure")
    try:
        return carry_out(collector, caller, _digest(digest))
    finally:
        # What was taken away in files before is among what is to be forgotten.
        exports.sweep()


@get(
    "/v1/approvals",
    guards=asks(Verb.APPROVE),
    sync_to_thread=True,
    tags=["governing"],
)
def waiting(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[PlanShown]:
    """List the plans that wait to be approved."""
    check_whole(caller, "approvals")
    trail = collector.trail
    with trail.store.read() as view:
        return [
            plan_shown(
                trail,
                view,
                Plan.from_bytes(policies.document(view, digest)),
                proposal,
                whole=False,
            )
            for digest, proposal in proposals(view, collector.now()).items()
        ]


@get(
    "/v1/approvals/{digest:str}",
    guards=asks(Verb.APPROVE, Verb.ERASE, Verb.CONFIGURE),
    sync_to_thread=True,
    tags=["governing"],
)
def plan_to_sign(
    digest: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> PlanShown:
    """Answer a plan with the exact bytes that people are to sign."""
    check_whole(caller, "approvals")
    trail, key = collector.trail, _digest(digest)
    with trail.store.read() as view:
        proposal = _proposal(view, key, collector.now())
        plan = Plan.from_bytes(policies.document(view, key))
        # What an erasure covers links the entries of one person.
        erases = plan.kind != "policy"
        if erases and caller.verbs(trail.policy).isdisjoint({Verb.APPROVE, Verb.ERASE}):
            raise NotFound("plan: found none of this digest that waits")
        return plan_shown(trail, view, plan, proposal, whole=True)


@post("/v1/approvals", guards=asks(Verb.APPROVE), sync_to_thread=True, tags=["governing"])
def hand_in(
    data: JSONBody[ApprovalNote],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> PlanShown:
    """Hand in the note by which a person of the policy approves a plan."""
    check_whole(caller, "approvals")
    plan, proposal = approve(collector, caller, data.note)
    with collector.trail.store.read() as view:
        return plan_shown(collector.trail, view, plan, proposal, whole=False)


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise NotFound("plan: found no digest, expected 64 hex digits") from None


@get(
    "/v1/subjects/{subject_type:str}/{subject_id:path}",
    guards=_ERASES,
    dependencies=READS,
    sync_to_thread=True,
    tags=["governing"],
)
def subject(
    request: Request[Any, Any, Any],
    reader: NamedDependency[Reader],
    subject_type: FromPath[str],
    subject_id: FromPath[str],
) -> Response[msgspec.Raw]:
    """Answer what is held about a person, and who has opened it."""
    named = rest_of(request, f"/v1/subjects/{subject_type}/") or subject_id.removeprefix("/")
    found = reader.subject(f"{subject_type}:{named}")
    return Response(msgspec.Raw(found.to_json()), headers={"Cache-Control": "no-store"})


ROUTES: list[Any] = [
    policy_shown,
    policy_set,
    all_holds,
    hold,
    release,
    plan_erasure,
    erasures,
    carry_out_erasure,
    waiting,
    plan_to_sign,
    hand_in,
    subject,
]
