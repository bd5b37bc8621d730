"""
Expiry: what is over, since its ceiling has passed and nothing keeps it.

Values leave the vault exact to the day, whatever becomes of their entries; entries go from
the start of a log, in whole tiles (`indelible.purging`). It is planned and carried out as an
erasure is, but the policy alone is ground enough, unless it asks for approvals as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import msgspec

from indelible import holds, policies, purging, removal
from indelible.box import Row
from indelible.duration import Duration
from indelible.entry import Entry, moment_of
from indelible.errors import Malformed, NotApproved, NotFound
from indelible.log import restore
from indelible.plan import Covered, plan_of
from indelible.policy import CUSTODY, OWNER, Approvals
from indelible.removal import PREFIXES, Removal, classes_of, covered_values, kept_at
from indelible.retention import due, floor_of, purgeable_prefix
from indelible.segment import SEGMENT, TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from indelible.plan import Plan
    from indelible.policies import Consent
    from indelible.policy import FieldClass, Policy
    from indelible.removal import Done, Kept
    from indelible.store import Head, View

MOST = 100_000
"""The most entries that one plan covers: the next one takes those after."""

_AT_ONCE = 1_000


class Owner(removal.Owner, Protocol):
    """The trail in which what is over is purged."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...


def plan_expiry(
    owner: Owner,
    now: datetime,
    *,
    requester: str = OWNER,
    most: int = MOST,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Plan:
    """
    Return the plan that purges what has passed its ceiling; nothing changes.

    What a hold or a floor keeps is not in it.

    Args:
        most: Of how many entries it covers values at most, the oldest of each log first.

    Raises:
        NotFound: There is nothing.
        KeyUnavailable: The keyring is locked, so nobody can say what is under hold.
    """
    # It says so where the keyring is locked: then a hold holds everything, and nothing is due.
    owner.vault.keyring.subject_hashes("")
    with owner.store.read() as view:
        policy = policies.current(view)
        held = holds.Held(view, owner.vault, policy)
        cover: list[Covered] = []
        for head in view.heads().values():
            for kept, classes in _old(owner, view, head, policy, now):
                if len(cover) == most:
                    break
                on_hold = bool(held.of(kept.log, kept.index))
                paths = _due(kept, classes, policy=policy, held=on_hold, now=now)
                if paths:
                    cover.append(Covered(log=kept.log, index=kept.index, paths=tuple(paths)))
        prefixes = {
            log: first
            for log, head in view.heads().items()
            # Values go first, with the keys that nothing is left of.
            if len(cover) < most
            and (first := _prefix(owner, view, head, policy, held, now)) > head.first
        }
        sizes = {head.origin: head.size for head in view.heads().values()}
    if not cover and not prefixes:
        raise NotFound("purge: found nothing whose ceiling has passed and that nothing keeps")
    return plan_of(
        "purge",
        owner.id,
        policy=policy,
        needed=policy.governance.purge or Approvals(),
        basis=f"retention of policy {policy.label}",
        requester=requester,
        now=now,
        sizes=sizes,
        cover=cover,
        detail={PREFIXES: prefixes} if prefixes else {},
        entropy=entropy,
    )


def carry_out(owner: Owner, consent: Consent, now: datetime) -> Done:
    """
    Purge what the plan of *consent* covers, or go on where a crash has cut it off.

    Raises:
        NotApproved: The policy in force asks for approvals that are not there, or the plan
            covers what is not due. That it was refused is recorded.
        StoreError: It may be half done; repeat it.
    """
    return _Purging(owner, now).carry_out(consent)


def resume(owner: Owner, now: datetime) -> list[Done]:
    """
    Finish purges that were begun and cut off, as far as nothing stops them by now.

    Raises:
        StoreError: Some may be half done; repeat it.
    """
    return _Purging(owner, now).resume()


def _prefix(  # noqa: PLR0917 - what there is, then what decides
    owner: Owner, view: View, head: Head, policy: Policy, held: holds.Held, now: datetime
) -> int:
    """Return where a log begins once the entries are gone that retention has released."""
    if head.stream == CUSTODY:
        return head.first
    end = purgeable_prefix(
        list(_tiles(view, head, policy, now)),
        stream=head.stream,
        policy=policy,
        first_held=held.first(head.log),
        now=now,
    )
    # Only where there is something to lose, values are looked at for floors of their own.
    kept = _first_under_floor(owner, view, head, end, policy, now)
    return end if kept is None else kept - kept % TILE


def _tiles(view: View, head: Head, policy: Policy, now: datetime) -> Iterator[tuple[int, datetime]]:
    """Yield the complete tiles of a log, each with when its last entry was recorded, while old."""
    ceiling = _stream_ceiling(head.stream, policy)
    if ceiling is None:
        return
    closed = list(view.segments(head.log))
    for first in range(head.first, head.size - TILE + 1, TILE):
        segment = closed[first // SEGMENT] if first // SEGMENT < len(closed) else None
        if segment is not None and ceiling.after(moment_of(segment.recorded.most)) <= now:
            # All of it is old; the time of its last entry will do for each.
            recorded_at = segment.recorded.most
        else:
            (last,) = view.stored(head.log, [first + TILE - 1])
            recorded_at = Entry.from_bytes(restore(last)).recorded_at
        yield first, moment_of(recorded_at)
        if ceiling.after(moment_of(recorded_at)) > now:
            return


def _first_under_floor(  # noqa: PLR0917 - as `_prefix`
    owner: Owner, view: View, head: Head, end: int, policy: Policy, now: datetime
) -> int | None:
    """Return the first entry before *end* one of whose values has a floor that has not passed."""
    for kept, classes in _with_boxes(owner, view, head.log, head.first, end):
        for box in kept.row.boxes:
            for position in box.positions:
                path = kept.clear.committed[position]
                floor = floor_of(kept.value(path, classes.get(box.key), policy), policy)
                if floor is not None and now < floor:
                    return kept.index
    return None


def _old(
    owner: Owner, view: View, head: Head, policy: Policy, now: datetime
) -> Iterator[tuple[Kept, Mapping[bytes, FieldClass]]]:
    """Yield the entries of a log with values, as far as its shortest ceiling has passed."""
    ceilings = _ceilings(head.stream, policy)

    def is_young(recorded_at: int) -> bool:
        return all(ceiling.after(moment_of(recorded_at)) > now for ceiling in ceilings)

    if not ceilings:
        return
    # A log's time never decreases: after the first that is too young, all are.
    young = (each for each in view.segments(head.log) if is_young(each.recorded.least))
    first_young = next(young, None)
    last = head.size if first_young is None else first_young.first
    for kept, classes in _with_boxes(owner, view, head.log, head.first, last):
        if is_young(kept.recorded_at):
            return
        yield kept, classes


def _with_boxes(
    owner: Owner, view: View, log: str, first: int, last: int
) -> Iterator[tuple[Kept, Mapping[bytes, FieldClass]]]:
    """Yield the entries of [*first*, *last*) of a log that have boxes, with their classes."""
    for start in range(first, last, _AT_ONCE):
        indexes = range(start, min(start + _AT_ONCE, last))
        places = [
            (log, index)
            for index, row in zip(indexes, view.rows(log, indexes), strict=True)
            if row and Row.from_bytes(row).boxes
        ]
        found = list(kept_at(view, places))
        classes = classes_of(owner.vault.keyring, [kept.row for kept in found])
        for kept in found:
            yield kept, classes


def _ceilings(stream: str, policy: Policy) -> list[Duration]:
    """Return all ceilings that a value of *stream* may have."""
    if stream == CUSTODY:
        return []
    found = {rule.ceiling for rule in policy.fields.values()} - {None}
    whole = _stream_ceiling(stream, policy)
    return [Duration.parse(each) for each in found if each] + ([] if whole is None else [whole])


def _stream_ceiling(stream: str, policy: Policy) -> Duration | None:
    kept = policy.streams.get(stream)
    if kept is None or kept.retention is None:
        return None
    ceiling = policy.retention[kept.retention].ceiling
    return None if ceiling is None else Duration.parse(ceiling)


def _due(
    kept: Kept,
    classes: Mapping[bytes, FieldClass],
    *,
    policy: Policy,
    held: bool,
    now: datetime,
) -> list[str]:
    return sorted(
        path
        for box in kept.row.boxes
        for path in (kept.clear.committed[position] for position in box.positions)
        if due(kept.value(path, classes.get(box.key), policy), policy=policy, held=held, now=now)
    )


class _Purging(Removal):
    kind = "purge"
    remembered = False

    def __init__(self, owner: Owner, now: datetime) -> None:
        super().__init__(owner, now)
        self._trail = owner

    def check(self, view: View, policy: Policy, plan: Plan, *, begun: bool) -> None:
        held = holds.Held(view, self.owner.vault, policy)
        for log, first in _prefixes(plan).items():
            self._check_prefix(view, policy, held, log, first, begun=begun)
        if begun and not held.holds:
            return
        for value in covered_values(view, self.owner.vault.keyring, plan, policy):
            place = f"{value.log}#{value.index} {value.path}"
            if on_hold := held.of(value.log, value.index):
                raise NotApproved(f"{place}: may not go, found hold:{on_hold[0]}; make a new plan")
            if not begun and not due(value, policy=policy, held=False, now=self.now):
                raise NotApproved(f"{place}: may not go, its ceiling has not passed, or its floor")

    def _check_prefix(
        self, view: View, policy: Policy, held: holds.Held, log: str, first: int, *, begun: bool
    ) -> None:
        head = view.heads().get(log)
        if head is None:
            raise NotApproved(f"purge of {log}: found no such log")
        if head.first >= first:
            return  # it is done
        kept = held.first(log)
        if kept is not None and kept < first:
            raise NotApproved(f"{log}#{kept}: is under hold; make a new plan")
        if not begun and _prefix(self._trail, view, head, policy, held, self.now) < first:
            raise NotApproved(f"purge of {log}: entries before {first} may not go yet")

    def finish(self, plan: Plan) -> dict[str, int]:
        prefixes = _prefixes(plan)
        with self.owner.store.read() as view:
            begin = {log: head.first for log, head in view.heads().items()}
        for log, first in prefixes.items():
            if begin[log] < first:
                digest = plan.digest.hex()
                purging.purge_prefix(self._trail, log, first, plan_digest=digest, now=self.now)
        # Where a crash has cut it off, files may still hold what nobody finds any more.
        purging.resume(self._trail, self.now)
        return prefixes


def _prefixes(plan: Plan) -> dict[str, int]:
    """
    Return where logs begin once *plan* is carried out.

    Raises:
        Malformed: Its detail does not say so.
    """
    try:
        return msgspec.convert(plan.detail.get(PREFIXES, {}), dict[str, int])
    except msgspec.ValidationError as error:
        raise Malformed(f"plan detail, {PREFIXES}: {error}") from error
