"""
Covers: which values are rightly gone, as custody entries say and people have approved.

An erasure and a purge each begin with an entry that names a plan; the plan lists what it
covers, and is kept under its digest. A cover counts only if the plan is the one that was
approved, by those that the policy in force then asked for. What no valid cover names is
missing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies, query
from indelible.box import Found, ValueState
from indelible.errors import CallerError, Damaged, VerificationError
from indelible.policy import CUSTODY
from indelible.query import Query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.plan import Plan
    from indelible.policy import Approvals, Policy
    from indelible.query import Item
    from indelible.store import View

BEGUN = {"erase.begin": ValueState.ERASED, "purge.begin": ValueState.PURGED}
"""Actions of the entries that a value may be gone by, and what it is then."""

EFFECTIVE = frozenset({"erase.effective", "purge.effective"})
"""Actions of the entries that say that nothing is left."""


class Cover(msgspec.Struct, frozen=True, kw_only=True):
    """
    One erasure or purge.

    Attributes:
        entry: The place of the entry that began it, such as ``custody#12``.
        plan: None where it cannot be read.
        wrong: Why it does not count; empty where it does.
        effective: An entry says that nothing of it is left.
        self_approved: Only whoever holds the trail's keys has approved it.
    """

    state: ValueState
    entry: str
    began_at: datetime
    plan: Plan | None
    wrong: str = ""
    effective: bool = False
    self_approved: bool = False


class Covers:
    """Every erasure and purge that a trail records, and what each covers."""

    def __init__(self, covers: Mapping[str, Cover]) -> None:
        self.covers = covers
        self._by_entry: dict[tuple[str, int], list[tuple[Cover, frozenset[str]]]] = {}
        for cover in covers.values():
            if cover.plan is not None:
                for item in cover.plan.cover:
                    self._by_entry.setdefault((item.log, item.index), []).append(
                        (cover, frozenset(item.paths))
                    )

    @classmethod
    def read(cls, view: View) -> Covers:
        """Read what the custody stream says, and check each plan and its approvals."""
        covers: dict[str, Cover] = {}
        if CUSTODY not in view.heads():
            return cls(covers)
        asked = Query(stream=CUSTODY, action=(*BEGUN, *EFFECTIVE), newest_first=False)
        for item in query.matches(view, asked):
            said = item.event.data or {}
            digest = str(said.get("plan", ""))
            if item.event.action in BEGUN:
                covers.setdefault(digest, _cover(view, item, digest))
            elif digest in covers:
                covers[digest] = msgspec.structs.replace(covers[digest], effective=True)
        return cls(covers)

    def of(self, log: str, index: int, path: str) -> Cover | None:
        """Return what covers a value; one that counts, if there is any."""
        found = [cover for cover, paths in self._by_entry.get((log, index), ()) if path in paths]
        return next((cover for cover in found if not cover.wrong), found[0] if found else None)

    def explain(self, log: str, index: int, path: str) -> Found:
        """Say what became of a value that is gone."""
        cover = self.of(log, index, path)
        if cover is None:
            return Found(state=ValueState.MISSING, why="nothing says why it is gone")
        if cover.wrong:
            why = f"{cover.entry} does not count: {cover.wrong}"
            return Found(state=ValueState.MISSING, why=why)
        return Found(state=cover.state, why=cover.entry)


def _cover(view: View, item: Item, digest: str) -> Cover:
    from indelible.plan import Plan  # noqa: PLC0415 - most trails have none

    state = BEGUN[item.event.action]
    entry = f"{item.log}#{item.index}"
    at = datetime.fromtimestamp(item.entry.recorded_at / 1e6, UTC)
    try:
        plan = Plan.from_bytes(policies.document(view, bytes.fromhex(digest)))
    except (VerificationError, ValueError) as error:
        return Cover(state=state, entry=entry, began_at=at, plan=None, wrong=str(error))
    wrong, alone = "", False
    try:
        alone = _verify(view, plan, item, at)
    except (CallerError, VerificationError) as error:
        wrong = str(error)
    return Cover(state=state, entry=entry, began_at=at, plan=plan, wrong=wrong, self_approved=alone)


def _verify(view: View, plan: Plan, item: Item, at: datetime) -> bool:
    """
    Check that what an entry began was approved; return whether by the owner alone.

    Raises:
        NotApproved: It was not.
        Damaged: The entry does not fit the plan.
    """
    from indelible.approval import verify_approvals  # noqa: PLC0415 - most trails have none

    said: dict[str, Any] = item.event.data or {}
    kind = item.event.action.partition(".")[0]
    if plan.kind != kind or said.get("cover_root") != plan.cover_root.hex():
        raise Damaged(f"{item.log}#{item.index}: found another plan than it began")
    policy = _policy_at(view, plan, item.entry.recorded_at)
    needed = needed_for(policy, kind)
    if needed is None:
        return False
    approvals = [str(note).encode() for note in said.get("approvals", ())]
    verified = verify_approvals(
        plan,
        approvals,
        policy=policy,
        needed=needed,
        owner_keys=policies.owner_keys(view),
        now=at,
    )
    return verified.self_approved


def needed_for(policy: Policy, kind: str) -> Approvals | None:
    """Return whose approval *policy* asks for; None where none is needed."""
    if kind == "erase":
        return policy.governance.erasure
    return policy.governance.purge if kind == "purge" else policy.governance.grants


def _policy_at(view: View, plan: Plan, at: int) -> Policy:
    """Return the policy that was in force at a time, which the plan must be made under."""
    for version in policies.versions(view):
        if version.item.entry.recorded_at <= at:
            if version.policy.digest.hex() != plan.policy:
                break
            return version.policy
    raise Damaged(f"plan {plan.digest.hex()}: was not made under the policy in force then")
