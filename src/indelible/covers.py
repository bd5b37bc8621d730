"""
Covers: which values are rightly gone, as custody entries say and people have approved.

An erasure and a purge each begin with an entry that names a plan; the plan lists what it
covers, and is kept under its digest. A cover counts only if the plan is the one that was
approved, by those that the policy in force then asked for. What no valid cover names is
missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies, query
from indelible.box import Found, ValueState
from indelible.errors import CallerError, Damaged, NotApproved, VerificationError
from indelible.policy import COMMITTED, CUSTODY, OWNER, FieldClass
from indelible.query import Query
from indelible.retention import Value, ceiling_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from indelible.approval import Verified
    from indelible.note import VerifierKey
    from indelible.plan import Plan
    from indelible.policy import Approvals, Policy
    from indelible.query import Item
    from indelible.seal import Clear
    from indelible.store import View

REPLAY = "erase.replay"
"""
Action of the entry by which a restored trail repeats an erasure that it has lost the entry of.

It counts as that one did, if it can have been among what was lost.
"""

BEGUN = {
    "erase.begin": ValueState.ERASED,
    REPLAY: ValueState.ERASED,
    "purge.begin": ValueState.PURGED,
}
"""Actions of the entries that a value may be gone by, and what it is then."""

EFFECTIVE = frozenset({"erase.effective", "purge.effective"})
"""Actions of the entries that say that nothing is left."""


class Cover(msgspec.Struct, frozen=True, kw_only=True):
    """
    One erasure or purge.

    Attributes:
        entry: The place of the entry that began it, such as ``custody#12``.
        plan: None where it cannot be read.
        policy: The one that was in force; None where that cannot be said.
        policy_entry: The place of the entry that set it.
        wrong: Why it does not count; empty where it does.
        effective: An entry says that nothing of it is left.
        approvals: The notes in which people have approved it, as the entry has them.
        approved_by: Who has; a purge may do without.
        self_approved: Only whoever holds the trail's keys has approved it.
    """

    state: ValueState
    entry: str
    began_at: datetime
    plan: Plan | None = None
    policy: Policy | None = None
    policy_entry: str = ""
    wrong: str = ""
    effective: bool = False
    approvals: tuple[bytes, ...] = ()
    approved_by: tuple[str, ...] = ()
    self_approved: bool = False


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """
    A custody entry that does not hold: what it names is gone or another, or nobody approved it.

    Attributes:
        entry: Its place, such as ``custody#12``.
    """

    entry: str
    what: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.what}"


class Covers:
    """
    Every erasure and purge that a trail records, and what each covers.

    Attributes:
        covers: In the order in which they began, by the digest of their plan in hex.
        wrong: The custody entries about policies and plans that do not hold.
        policies: Those that the trail was under and that can be read, by their labels.
    """

    def __init__(
        self,
        covers: Mapping[str, Cover],
        wrong: Sequence[Wrong] = (),
        policies: Mapping[str, Policy] | None = None,
    ) -> None:
        self.covers, self.wrong = covers, tuple(wrong)
        self.policies: Mapping[str, Policy] = {} if policies is None else policies
        self._by_entry: dict[tuple[str, int], list[tuple[Cover, frozenset[str]]]] = {}
        # Many entries have the same few paths: one set serves them all.
        sets: dict[tuple[str, ...], frozenset[str]] = {}
        for cover in covers.values():
            for item in () if cover.plan is None else cover.plan.cover:
                paths = sets.setdefault(item.paths, frozenset(item.paths))
                self._by_entry.setdefault((item.log, item.index), []).append((cover, paths))

    @classmethod
    def read(cls, view: View, *, only: str | None = None) -> Covers:
        """
        Read what the custody stream says, and check each plan and its approvals.

        Args:
            only: Digest of the one plan that is asked for, in hex.

        Raises:
            Damaged: An entry of the custody stream cannot be read.
        """
        covers: dict[str, Cover] = {}
        if CUSTODY not in view.heads():
            return cls(covers)
        past = _Past(view)
        wrong = list(past.wrong)
        asked = Query(stream=CUSTODY, action=(*BEGUN, *EFFECTIVE), newest_first=False)
        for item in query.matches(view, asked):
            digest = str(said_by(item).get("plan", ""))
            if only not in {None, digest}:
                continue
            if item.event.action in EFFECTIVE:
                if digest in covers:
                    covers[digest] = msgspec.structs.replace(covers[digest], effective=True)
            elif digest not in covers:
                covers[digest] = found = _cover(past, item, digest)
                if found.wrong:
                    wrong.append(Wrong(entry=found.entry, what=found.wrong))
        return cls(covers, wrong, past.policies)

    def touch(self, log: str, index: int) -> bool:
        """Tell whether any of them is about values of an entry."""
        return (log, index) in self._by_entry

    def done(self, log: str, index: int) -> bool:
        """Tell whether all of them that are about an entry count, and have left nothing."""
        found = self._by_entry.get((log, index), ())
        return all(cover.effective and not cover.wrong for cover, _ in found)

    def of(self, log: str, index: int, path: str) -> Cover | None:
        """Return what covers a value; one that counts, if there is any."""
        found = [cover for cover, paths in self._by_entry.get((log, index), ()) if path in paths]
        return next((cover for cover in found if not cover.wrong), found[0] if found else None)

    def explain(self, log: str, index: int, path: str) -> Found:
        """Say what became of a value that is gone."""
        cover = self.of(log, index, path)
        if cover is None:
            unread = [each.entry for each in self.covers.values() if each.plan is None]
            why = "nothing says why it is gone"
            if unread:
                why += f", unless the plan of {', '.join(unread)} does, which cannot be read"
            return Found(state=ValueState.MISSING, why=why)
        if cover.wrong:
            why = f"{cover.entry} does not count: {cover.wrong}"
            return Found(state=ValueState.MISSING, why=why)
        return Found(state=cover.state, why=cover.entry)


def needed_for(policy: Policy, kind: str) -> Approvals | None:
    """Return whose approval *policy* asks for; None where none is needed."""
    if kind == "erase":
        return policy.governance.erasure
    return policy.governance.purge if kind == "purge" else policy.governance.grants


def said_by(item: Item) -> Mapping[str, Any]:
    """Return the data of a custody entry; none where it has none that are named."""
    data = item.event.data
    return data if isinstance(data, dict) else {}


def verify_begun(
    plan: Plan,
    said: Mapping[str, Any],
    *,
    kind: str,
    policy: Policy,
    owner_keys: Iterable[VerifierKey],
    at: datetime,
    trail: str | None,
) -> Verified | None:
    """
    Check that what an entry began is its plan, approved as *policy* asks for.

    Args:
        said: The data of the entry.
        policy: The one that was in force.
        owner_keys: Those that the trail's own custody log has and had.
        at: When the entry was recorded.

    Returns:
        Who has approved it; None where nobody had to.

    Raises:
        NotApproved: It was not approved.
        InvalidSignature, Malformed: An approval is none.
        Damaged: The plan is another.
    """
    from indelible.approval import (  # noqa: PLC0415 - most trails have none
        verify_approvals,
        verify_plan,
    )

    if plan.kind != kind or said.get("cover_root") != plan.cover_root.hex():
        raise Damaged(f"plan {plan.digest.hex()}: is not the one that was begun")
    if plan.policy != policy.digest.hex():
        raise Damaged(f"plan {plan.digest.hex()}: was not made under the policy in force then")
    needed = needed_for(policy, kind)
    if needed is None:
        verify_plan(plan, policy=policy, needed=None, now=at, trail=trail)
        return None
    return verify_approvals(
        plan,
        _notes(said),
        policy=policy,
        needed=needed,
        owner_keys=owner_keys,
        now=at,
        trail=trail,
    )


def verify_released(
    cover: Cover, clear: Clear, path: str, *, log: str, index: int, recorded_at: datetime
) -> None:
    """
    Check that a value that was purged without an approval had been kept long enough.

    Args:
        clear: Of the value's entry, which was *recorded_at* that time.

    Raises:
        NotApproved: Its ceiling had not passed when the purge began.
    """
    if cover.state is not ValueState.PURGED or cover.approved_by or cover.policy is None:
        return
    rule = cover.policy.field(path, clear.actor.type, clear.resource.type)
    value = Value(
        log=log,
        stream=log.partition("~")[0],
        index=index,
        path=path,
        # The class it was recorded with has gone with its key; the ceiling does not ask for it.
        class_=rule.class_ if rule.class_ in COMMITTED else FieldClass.PERSONAL,
        rule=rule,
        recorded_at=recorded_at,
    )
    ceiling = None if value.stream == CUSTODY else ceiling_of(value, cover.policy)
    if ceiling is None or cover.began_at < ceiling:
        when = "which never passes" if ceiling is None else f"which passed at {ceiling.isoformat()}"
        raise NotApproved(
            f"found a purge at {cover.began_at.isoformat()}, expected none before the ceiling,"
            f" {when}"
        )


class _Past:
    """
    What the custody stream says of the trail, its keys and its policies, from its beginning.

    Attributes:
        trail: Id of the trail; None where the first entry does not say it.
        owner_keys: Those that the custody log has and had.
        wrong: The entries by which policies were set that do not hold.
        policies: Those that can be read, by their labels.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.trail: str | None = None
        if view.heads()[CUSTODY].size:
            (first,) = query.items(view, CUSTODY, [0])
            if first.event.action == "trail.create":
                self.trail = str(said_by(first).get("id"))
        self.owner_keys = policies.owner_keys(view)
        self.wrong: list[Wrong] = []
        self._set: list[tuple[Item, Policy | None]] = []
        used: set[bytes] = set()
        asked = Query(stream=CUSTODY, action=policies.SET, newest_first=False)
        for item in query.matches(view, asked):
            policy: Policy | None = None
            try:
                policy = _policy_of(view, item)
                if self._set and (before := self._set[-1][1]) is not None:
                    self._verify_change(before, policy, item, used)
            except (CallerError, VerificationError) as error:
                self.wrong.append(Wrong(entry=place_of(item), what=str(error)))
            self._set.append((item, policy))
        self.policies = {policy.label: policy for _, policy in self._set if policy is not None}

    def in_force(self, item: Item) -> tuple[Policy, str]:
        """
        Return the policy that was in force when *item* was recorded, and what set it.

        Raises:
            Damaged: There was none, or it cannot be read.
        """
        before = [each for each in self._set if each[0].place < item.place]
        if not before:
            raise Damaged("no policy was in force then")
        found, policy = before[-1]
        if policy is None:
            raise Damaged(f"the policy in force then, of {place_of(found)}, cannot be read")
        return policy, place_of(found)

    def _verify_change(self, old: Policy, new: Policy, item: Item, used: set[bytes]) -> None:
        """
        Check that a policy that loosens the one before was approved as that one asks for.

        Raises:
            NotApproved, InvalidSignature, Malformed: It was not.
            Damaged: Its plan is gone, or another.
        """
        from indelible.approval import verify_approvals  # noqa: PLC0415 - most trails have none
        from indelible.loosening import loosened  # noqa: PLC0415 - the same
        from indelible.plan import Plan  # noqa: PLC0415 - the same

        said = said_by(item)
        needed = old.governance.loosening
        digest = said.get("plan")
        if not loosened(old, new) or (digest is None and needed.n == 1 and OWNER in needed.from_):
            return
        if digest is None:
            raise NotApproved(
                f"policy {new.label}: loosens {old.label}; found no approval, expected {needed.n}"
                f" of {', '.join(needed.from_)}"
            )
        plan = Plan.from_bytes(policies.document(self.view, _digest(digest)))
        if plan.kind != "policy" or plan.detail.get("digest") != new.digest.hex():
            raise Damaged(f"plan {digest}: is not for policy {new.label}")
        verify_approvals(
            plan,
            _notes(said),
            policy=old,
            needed=needed,
            owner_keys=self.owner_keys,
            now=item.recorded_at,
            used=used,
            trail=self.trail,
        )
        used.add(plan.digest)


def _cover(past: _Past, item: Item, digest: str) -> Cover:
    from indelible.plan import Plan  # noqa: PLC0415 - most trails have none

    cover = Cover(
        state=BEGUN[item.event.action],
        entry=place_of(item),
        began_at=item.recorded_at,
        approvals=tuple(_notes(said_by(item))),
    )
    try:
        plan = Plan.from_bytes(policies.document(past.view, _digest(digest)))
    except VerificationError as error:
        return msgspec.structs.replace(cover, wrong=str(error))
    cover = msgspec.structs.replace(cover, plan=plan)
    try:
        policy, entry = past.in_force(item)
        cover = msgspec.structs.replace(cover, policy=policy, policy_entry=entry)
        if item.event.action == REPLAY:
            cover = msgspec.structs.replace(cover, began_at=_replayed_from(past.view, item))
        verified = verify_begun(
            plan,
            said_by(item),
            kind=item.event.action.partition(".")[0],
            policy=policy,
            owner_keys=past.owner_keys,
            at=cover.began_at,
            trail=past.trail,
        )
        _verify_was_there(past.view, plan, item)
    except (CallerError, VerificationError) as error:
        return msgspec.structs.replace(cover, wrong=str(error))
    return msgspec.structs.replace(
        cover,
        approved_by=() if verified is None else verified.people,
        self_approved=verified is not None and verified.self_approved,
    )


def _verify_was_there(view: View, plan: Plan, item: Item) -> None:
    """
    Check that all that a plan covers was recorded before the plan was made and begun.

    Else values of the future could be approved away before anybody knows them.

    Raises:
        Damaged: It was not.
    """
    heads = view.heads()
    replayed = item.event.action == REPLAY
    # In order of their index, so the last one of each log is the youngest.
    for log, index in {each.log: each.index for each in plan.cover}.items():
        head = heads.get(log)
        if replayed and (head is None or index >= head.size):
            continue  # it was lost as well
        if head is not None and index < head.first:
            continue  # retention has removed all of them since
        if head is None or index >= min(head.size, plan.logs.get(head.origin, 0)):
            raise Damaged(f"it covers {log}#{index}, which was not there when it was planned")
        (youngest,) = query.items(view, log, [index])
        if youngest.entry.recorded_at > item.entry.recorded_at:
            raise Damaged(f"it covers {log}#{index}, which was recorded after it began")


_RESTORING = frozenset({"log.succeed", "key.create", REPLAY, "erase.effective"})
"""What a trail says about itself while it is being restored."""


def _replayed_from(view: View, item: Item) -> datetime:
    """
    Return when an erasure began that *item* repeats.

    Only what was lost can be repeated: it began after the last thing that the custody
    stream still knows from before the trail was restored. So nobody can use an approval
    that has expired.

    Raises:
        Damaged: It began at another time.
    """
    from indelible.plan import time_of  # noqa: PLC0415 - most trails have none

    began, before = time_of(str(said_by(item).get("began_at"))), item
    logs = [log for log, head in view.heads().items() if head.stream == CUSTODY]
    while before.event.action in _RESTORING:
        log, index = before.log, before.index - 1
        if index < 0:
            at = logs.index(log) - 1
            if at < 0:
                break
            log, index = logs[at], view.heads()[logs[at]].size - 1
        (before,) = query.items(view, log, [index])
    if not before.recorded_at <= began <= item.recorded_at:
        raise Damaged(
            f"it repeats what began at {began.isoformat()}, expected after {place_of(before)},"
            f" which was recorded at {before.recorded_at.isoformat()}, and before itself"
        )
    return began


def _policy_of(view: View, item: Item) -> Policy:
    """
    Return the policy that an entry put the trail under.

    Raises:
        Damaged: Its document is gone, or is not the one that was set.
    """
    said = said_by(item)
    label = str(said.get("policy"))
    try:
        policy = policies.parse(policies.document(view, _digest(said.get("digest"))))
    except (CallerError, VerificationError) as error:
        raise Damaged(f"policy {label} is not the one that was set: {error}") from error
    if policy.label != label:
        raise Damaged(f"policy {label} is not the one that was set: found {policy.label}")
    return policy


def _notes(said: Mapping[str, Any]) -> Collection[bytes]:
    notes = said.get("approvals", ())
    return [str(note).encode() for note in notes] if isinstance(notes, list) else ()


def _digest(text: object) -> bytes:
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        raise Damaged(f"found {text!r}, expected the digest of a document") from None


def place_of(item: Item) -> str:
    """Return where an entry stands: ``custody#12``."""
    return f"{item.log}#{item.index}"
