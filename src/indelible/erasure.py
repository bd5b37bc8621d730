"""
Erasure: forget what is held about one subject, and be able to prove that it was rightly done.

::

    plan      what there is of the subject, less what a hold or a floor keeps  (changes nothing)
    approve   people sign the plan's digest                                    `indelible.approval`
    carry out what the plan covers is removed                                  `indelible.removal`
    replay    the same again, on a copy of the trail from before               `indelible.backup`
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from indelible import holds, policies
from indelible.access import Viewer
from indelible.box import Row
from indelible.covers import REPLAY, Covers
from indelible.custody import own_event, write
from indelible.entry import microseconds, time_to_text
from indelible.errors import NotApproved, NotFound
from indelible.plan import Covered, Plan, Postponed, plan_of
from indelible.policy import CUSTODY, OWNER
from indelible.removal import (
    Removal,
    covered_values,
    declare_effective,
    kept_at,
    remove,
    what_it_covers,
)
from indelible.retention import Deferred, may_erase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from indelible.keyring import Erasure, WrappedDataKey
    from indelible.policies import Consent
    from indelible.policy import Policy
    from indelible.removal import Done, Kept, Owner
    from indelible.store import View

_AT_ONCE = 1_000


def plan_erasure(
    owner: Owner,
    subject: str,
    *,
    basis: str,
    now: datetime,
    paths: Sequence[str] = (),
    requester: str = OWNER,
    scan: bool = False,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Plan:
    """
    Return the plan that erases what is held about *subject*; nothing changes.

    What a hold or a floor keeps is deferred, with its ground. What names the subject in
    clear, in the log itself, cannot be erased; the plan's detail says how many entries do.

    Args:
        subject: Such as ``user:alice``.
        basis: Why it is lawful or due: ``GDPR Art. 17(1)(b)``.
        paths: Only these; values of the class internal are erased only where they are named.
        requester: Who asks: a person of the policy, or the owner.
        scan: Look into every row of the vault for the subject's boxes, instead of looking
            the subject up: for when lookups were lost.

    Raises:
        NotFound: Nothing is held about the subject that could be erased or is deferred.
        KeyUnavailable: The keyring is locked, so the subject cannot be looked up.
    """
    subject = holds.checked_subject(subject)
    vault = owner.vault
    with owner.store.read() as view:
        policy = policies.current(view)
        opener = vault.opener(Viewer(), policy)
        held = holds.Held(view, vault, policy)
        # Of the keys first: it says so where the keyring is locked.
        keys = {key.id: key for key in vault.keyring.of_subject(subject)}
        places = _places_under(view, keys) if scan else holds.entries_of(view, opener, subject)
        in_clear = len(holds.entries_naming(view, subject))
        cover: list[Covered] = []
        deferred: list[Postponed] = []
        for kept in kept_at(view, places):
            given, kept_back = _divide(
                kept, keys, policy=policy, held=held, now=now, named=frozenset(paths)
            )
            if given:
                cover.append(Covered(log=kept.log, index=kept.index, paths=tuple(given)))
            deferred += [
                Postponed(log=kept.log, index=kept.index, paths=tuple(those), ground=ground)
                for ground, those in kept_back.items()
            ]
        sizes = {head.origin: head.size for head in view.heads().values()}
    if not cover and not deferred:
        where = f" at {', '.join(paths)}" if paths else ""
        clear = f"; {in_clear} entries name it in clear, and stay" if in_clear else ""
        raise NotFound(f"subject {subject}: found no value of it in the vault{where}{clear}")
    return plan_of(
        "erase",
        owner.id,
        policy=policy,
        needed=policy.governance.erasure,
        basis=basis,
        requester=requester,
        now=now,
        sizes=sizes,
        cover=cover,
        deferred=deferred,
        detail={"in_clear": in_clear, **({"scan": True} if scan else {})},
        entropy=entropy,
    )


def carry_out(owner: Owner, consent: Consent, now: datetime) -> Done:
    """
    Erase what the plan of *consent* covers, or go on where a crash has cut it off.

    Raises:
        NotApproved: The plan was not approved as the policy in force asks for, was made
            for another trail or under another policy, was carried out already, or covers
            what a hold or a floor keeps by now. That it was refused is recorded.
        StoreError: It may be half done; repeat it.
    """
    return _Erasing(owner, now).carry_out(consent)


def resume(owner: Owner, now: datetime) -> list[Done]:
    """
    Finish erasures that were begun and cut off, as far as nothing stops them by now.

    Raises:
        StoreError: Some may be half done; repeat it.
    """
    return _Erasing(owner, now).resume()


def replay(owner: Owner, now: datetime) -> int:
    """
    Repeat each erasure that the keyring knows of on a copy of the trail that may be older.

    Where the copy's custody stream has lost the entry that began it, an entry says that it
    was repeated, on the same approvals. No box may be read before.

    Returns:
        How many were repeated.

    Raises:
        StoreError: Some may be half done; repeat it.
    """
    repeated = 0
    known = owner.vault.keyring.erasures()
    for digest, erasure in sorted(known.items(), key=lambda each: each[1].began_at):
        if not erasure.plan:
            continue  # a purge that was carried out
        plan = Plan.from_bytes(erasure.plan)
        with owner.store.read() as view:
            cover = Covers.read(view, only=digest.hex()).covers.get(digest.hex())
        if cover is not None and cover.effective:
            continue
        if cover is None and plan.kind != "erase":
            continue  # what it took is due again, and goes with the next purge
        if cover is None:
            begun = partial(_replayed, owner, plan, erasure)
            write(owner, begun, microseconds(now), [erasure.plan])
            with owner.store.read() as view:
                cover = Covers.read(view, only=digest.hex()).covers[digest.hex()]
        # Crash here: the keyring still knows it, and whoever restores again repeats it.
        keys = remove(owner, plan, cover)
        declare_effective(owner, plan, keys, now)
        repeated += 1
    return repeated


def _replayed(owner: Owner, plan: Plan, erasure: Erasure) -> list[Any]:
    event = own_event(
        owner.id,
        REPLAY,
        **what_it_covers(plan),
        began_at=time_to_text(erasure.began_at),
        approvals=[note.decode() for note in erasure.approvals],
    )
    return [event]


def _places_under(view: View, keys: Collection[bytes]) -> Iterator[tuple[str, int]]:
    """Yield the places of all entries that have a box under one of the data keys *keys*."""
    for log, head in view.heads().items():
        for first in range(head.first, head.size if log != CUSTODY else 0, _AT_ONCE):
            indexes = range(first, min(first + _AT_ONCE, head.size))
            for index, row in zip(indexes, view.rows(log, indexes), strict=True):
                if row and any(box.key in keys for box in Row.from_bytes(row).boxes):
                    yield log, index


def _divide(
    kept: Kept,
    keys: Mapping[bytes, WrappedDataKey],
    *,
    policy: Policy,
    held: holds.Held,
    now: datetime,
    named: frozenset[str],
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the paths of an entry that may go, and those that may not, by their ground."""
    given: list[str] = []
    kept_back: dict[str, list[str]] = {}
    on_hold = held.of(kept.log, kept.index)
    for box in kept.row.boxes:
        key = keys.get(box.key)
        if key is None:
            continue  # of another subject
        for path in (kept.clear.committed[position] for position in box.positions):
            if named and path not in named:
                continue
            decided = may_erase(
                kept.value(path, key.class_, policy),
                policy=policy,
                holds=on_hold,
                now=now,
                named=path in named,
            )
            if isinstance(decided, Deferred):
                kept_back.setdefault(decided.ground, []).append(path)
            else:
                given.append(path)
    return sorted(given), {ground: sorted(those) for ground, those in kept_back.items()}


class _Erasing(Removal):
    kind = "erase"
    remembered = True

    def check(self, view: View, policy: Policy, plan: Plan, *, begun: bool) -> None:
        held = holds.Held(view, self.owner.vault, policy)
        if begun and not held.holds:
            return
        for value in covered_values(view, self.owner.vault.keyring, plan, policy):
            on_hold = held.of(value.log, value.index)
            decided = may_erase(value, policy=policy, holds=on_hold, now=self.now, named=True)
            if isinstance(decided, Deferred) and (on_hold or not begun):
                raise NotApproved(
                    f"{value.log}#{value.index} {value.path}: may not go, found"
                    f" {decided.ground}; make a new plan"
                )
