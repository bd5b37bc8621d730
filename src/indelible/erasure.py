"""
Erasure: forget what is held about one subject, and be able to prove that it was rightly done.

::

    plan      what there is of the subject, less what a hold or a floor keeps  (changes nothing)
    approve   people sign the plan's digest                                    `indelible.approval`
    carry out entry erase.begin  ->  boxes, lookups  ->  keys  ->  entry erase.effective

The entry comes first: from then on the values may be gone, and whoever finds one gone
finds the entry. Each later step can be repeated, so a crash anywhere is made good by
carrying the same plan out again. No log changes, and every proof holds as before.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from indelible import holds, policies
from indelible.access import Viewer
from indelible.approval import verify_approvals
from indelible.box import Box, Found, Row, ValueState, enclose
from indelible.covers import Covers
from indelible.custody import own_event, private_event
from indelible.duration import Duration
from indelible.entry import Entry, microseconds
from indelible.errors import CallerError, Damaged, NotApproved, NotFound
from indelible.event import Outcome
from indelible.keyring import Erasure, subject_number
from indelible.log import append, head_of, restore
from indelible.plan import Covered, Plan, Postponed
from indelible.policy import CUSTODY, OWNER, FieldClass
from indelible.retention import Deferred, Value, may_erase
from indelible.seal import unseal
from indelible.segment import BLOCK
from indelible.store import Forgotten, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.keyring import DataKey, WrappedDataKey
    from indelible.keys import Signer
    from indelible.policies import Consent
    from indelible.policy import Policy
    from indelible.seal import Clear
    from indelible.store import Head, Store, View
    from indelible.vault import Opener, Vault

BEGIN, EFFECTIVE, REFUSE = "erase.begin", "erase.effective", "erase.refuse"

_NONCE = 16
_AT_ONCE = 1_000


class Owner(Protocol):
    """The trail in which values are erased."""

    @property
    def id(self) -> str:
        """The trail's id."""
        ...

    @property
    def store(self) -> Store:
        """Where its logs are kept."""
        ...

    @property
    def vault(self) -> Vault:
        """Where its values are kept."""
        ...

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        ...

    def forgotten(self) -> None:
        """Take note that values are gone: nothing of them may stay in memory."""
        ...


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an erasure has removed.

    Attributes:
        plan: Digest of the plan.
        keys: How many data keys were destroyed.
        self_approved: Only whoever holds the trail's keys has approved it.
    """

    plan: bytes
    entries: int
    values: int
    keys: int
    self_approved: bool


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One entry with values of a subject: what the log and what the vault has of it."""

    log: str
    index: int
    recorded_at: int
    clear: Clear
    row: Row


def plan_erasure(
    owner: Owner,
    subject: str,
    *,
    basis: str,
    now: datetime,
    paths: Sequence[str] = (),
    requester: str = OWNER,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Plan:
    """
    Return the plan that erases what is held about *subject*; nothing changes.

    What a hold or a floor keeps is deferred, with its ground.

    Args:
        subject: Such as ``user:alice``.
        basis: Why it is lawful or due: ``GDPR Art. 17(1)(b)``.
        paths: Only these; values of the class internal are erased only where they are named.
        requester: Who asks: a person of the policy, or the owner.

    Raises:
        NotFound: Nothing is held about the subject that could be erased or is deferred.
        KeyUnavailable: The keyring is locked, so the subject cannot be looked up.
    """
    vault, policy = owner.vault, owner.policy
    with owner.store.read() as view:
        opener = vault.opener(Viewer(), policy)
        held = holds.Held(view, opener, holds.read(view, vault, policy), now)
        keys = {key.id: key for key in vault.keyring.of_subject(subject)}
        cover: list[Covered] = []
        deferred: list[Postponed] = []
        for kept in _entries(view, holds.entries_of(view, opener, subject)):
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
        raise NotFound(f"subject {subject}: nothing is held about it that could be erased")
    return _plan(
        owner,
        "erase",
        basis=basis,
        requester=requester,
        now=now,
        sizes=sizes,
        cover=cover,
        deferred=deferred,
        entropy=entropy,
    )


def _plan(
    owner: Owner,
    kind: Any,  # noqa: ANN401 - the kinds of `Plan`
    *,
    basis: str,
    requester: str,
    now: datetime,
    sizes: Mapping[str, int],
    cover: Iterable[Covered],
    deferred: Iterable[Postponed],
    entropy: Callable[[int], bytes],
) -> Plan:
    needed = owner.policy.governance.erasure
    begins = now if needed.cooling_off is None else Duration.parse(needed.cooling_off).after(now)
    return Plan(
        kind=kind,
        trail=owner.id,
        logs=dict(sizes),
        policy=owner.policy.digest.hex(),
        requester=requester,
        basis=basis,
        nonce=entropy(_NONCE),
        created_at=now,
        not_before=begins,
        expires=Duration.parse(needed.valid).after(begins),
        cover=tuple(sorted(cover, key=lambda each: (each.log, each.index))),
        deferred=tuple(sorted(deferred, key=lambda each: (each.log, each.index, each.ground))),
    )


def _entries(view: View, places: Iterable[tuple[str, int]]) -> Iterator[Kept]:
    """Yield the entries at *places* that have a row in the vault, read a block at a time."""
    by_block: dict[tuple[str, int], list[int]] = {}
    for log, index in places:
        by_block.setdefault((log, index // BLOCK), []).append(index)
    for (log, _), indexes in by_block.items():
        rows = view.rows(log, indexes)
        wanted = [(index, row) for index, row in zip(indexes, rows, strict=True) if row]
        stored = view.stored(log, [index for index, _ in wanted])
        for (index, row), each in zip(wanted, stored, strict=True):
            entry = Entry.from_bytes(restore(each))
            yield Kept(
                log=log,
                index=index,
                recorded_at=entry.recorded_at,
                clear=unseal(entry.event),
                row=Row.from_bytes(row),
            )


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
    actor, resource = kept.clear.actor.type, kept.clear.resource.type
    at = datetime.fromtimestamp(kept.recorded_at / 1e6, UTC)
    on_hold = held.of(kept.log, kept.index)
    for box in kept.row.boxes:
        key = keys.get(box.key)
        if key is None:
            continue  # of another subject
        for position in box.positions:
            path = kept.clear.committed[position]
            if named and path not in named:
                continue
            if not named and key.class_ is FieldClass.INTERNAL:
                continue
            value = Value(
                log=kept.log,
                stream=kept.log.partition("~")[0],
                index=kept.index,
                path=path,
                class_=key.class_,
                rule=policy.field(path, actor, resource),
                recorded_at=at,
            )
            decided = may_erase(value, policy=policy, holds=on_hold, now=now, named=path in named)
            if isinstance(decided, Deferred):
                kept_back.setdefault(decided.ground, []).append(path)
            else:
                given.append(path)
    return sorted(given), {ground: sorted(those) for ground, those in kept_back.items()}


# ---- Carrying out ----


def carry_out(owner: Owner, consent: Consent, now: datetime) -> Done:
    """
    Erase what the plan of *consent* covers, or go on where a crash has cut it off.

    Raises:
        NotApproved: The plan was not approved as the policy in force asks for, or was
            carried out already, or something that it covers is under hold by now. That it
            was refused is recorded.
        StoreError: It may be half done; repeat it.
    """
    plan = Plan.from_bytes(consent.plan)
    with owner.store.read() as view:
        begun = Covers.read(view).covers.get(plan.digest.hex())
        known = policies.owner_keys(view)
    alone = False
    if begun is None:
        alone = _begin(owner, plan, consent, known, now)
    elif begun.effective:
        _refuse(owner, plan, now, "it was carried out already, and a plan is used once")
    elif begun.wrong:
        _refuse(owner, plan, now, begun.wrong)
    else:
        alone = begun.self_approved
    # Crash here, or anywhere below: the entry is there, and some of the values. They are
    # still readable, and whoever repeats this removes them.
    keys = remove(owner, consent, now if begun is None else begun.began_at)
    _append(owner, [own_event(owner.id, EFFECTIVE, plan=plan.digest.hex(), keys=keys)], now)
    return Done(
        plan=plan.digest,
        entries=len(plan.cover),
        values=sum(len(each.paths) for each in plan.cover),
        keys=keys,
        self_approved=alone,
    )


def _begin(
    owner: Owner,
    plan: Plan,
    consent: Consent,
    known: Sequence[Any],
    now: datetime,
) -> bool:
    policy = owner.policy
    try:
        if plan.kind != "erase":
            raise NotApproved(f"plan {plan.digest.hex()}: is for {plan.kind}, expected erase")
        if not plan.cover:
            raise NotApproved(f"plan {plan.digest.hex()}: covers nothing; all of it is deferred")
        verified = verify_approvals(
            plan,
            consent.approvals,
            policy=policy,
            needed=policy.governance.erasure,
            owner_keys=known,
            now=now,
            trail=owner.id,
        )
        _check_holds(owner, plan, now)
    except CallerError as error:
        _refuse(owner, plan, now, str(error))
    event = own_event(
        owner.id,
        BEGIN,
        plan=plan.digest.hex(),
        cover_root=plan.cover_root.hex(),
        entries=len(plan.cover),
        values=sum(len(each.paths) for each in plan.cover),
        basis=plan.basis,
        policy=plan.policy,
        requester=plan.requester,
        approvals=[note.decode() for note in consent.approvals],
        self_approved=verified.self_approved,
        anchored=False,
    )
    _append(owner, [event], now, documents=[consent.plan])
    return verified.self_approved


def _check_holds(owner: Owner, plan: Plan, now: datetime) -> None:
    """
    Check that nothing the plan covers came under a hold since it was made.

    Raises:
        NotApproved: Something did.
    """
    with owner.store.read() as view:
        opener = owner.vault.opener(Viewer(), owner.policy)
        held = holds.Held(view, opener, holds.read(view, owner.vault, owner.policy), now)
        for each in plan.cover:
            if ids := held.of(each.log, each.index):
                raise NotApproved(
                    f"{each.log}#{each.index}: is under hold {', '.join(ids)} since the plan was"
                    " made; make a new one"
                )


def _refuse(owner: Owner, plan: Plan, now: datetime, why: str) -> None:
    event = private_event(
        owner.vault,
        owner.id,
        REFUSE,
        outcome=Outcome.DENIED,
        plan=plan.digest.hex(),
        ground=why,
    )
    owner.vault.keyring.keep(event.keys)
    _append(owner, [event], now)
    raise NotApproved(why)


def _append(
    owner: Owner, events: Sequence[Any], now: datetime, documents: Iterable[bytes] = ()
) -> None:
    with owner.store.write() as transaction:
        for document in documents:
            transaction.add_document(document)
        target = head_of(transaction.heads(), CUSTODY)
        append(transaction, target, events, owner.signer_of(target), microseconds(now))


def remove(owner: Owner, consent: Consent, began_at: datetime) -> int:
    """
    Remove what the plan of *consent* covers from the vault, and the keys nothing is left of.

    What is gone already is gone; so this may be repeated.

    Returns:
        How many data keys were destroyed.

    Raises:
        StoreError: It may be half done.
    """
    plan, vault = Plan.from_bytes(consent.plan), owner.vault
    covered = {(each.log, each.index): frozenset(each.paths) for each in plan.cover}
    entries: dict[str, dict[int, Forgotten]] = {}
    known = vault.keyring.erasures().get(plan.digest)
    touched = set(() if known is None else known.keys)
    fresh: dict[bytes, DataKey] = {}
    with owner.store.read() as view:
        opener = vault.opener(Viewer(), owner.policy)
        sizes = {log: head.size for log, head in view.heads().items()}
        here = [(log, index) for log, index in covered if index < sizes.get(log, 0)]
        for kept in _entries(view, here):
            left = _left(opener, kept, covered[kept.log, kept.index], fresh)
            touched |= {box.key for box in kept.row.boxes} - {box.key for box in left[0]}
            entries.setdefault(kept.log, {})[kept.index] = Forgotten(
                row=Row(kept.row.spine, left[0]).to_bytes(), lookups=left[1]
            )
    # With the keys, so that an older copy of the boxes can be made to forget as well; and
    # before the boxes go, or a crash would leave keys that nobody looks for.
    vault.keyring.remember(
        plan.digest,
        Erasure(
            plan=consent.plan,
            approvals=consent.approvals,
            began_at=microseconds(began_at),
            keys=tuple(sorted(touched)),
        ),
    )
    vault.keyring.keep(key.id for key in fresh.values())
    owner.store.forget(entries)
    # Crash here: keys of boxes that are gone; whoever repeats this destroys them.
    with owner.store.read() as view:
        unused = touched - _used(view, vault, touched)
    with owner.store.write():
        # While nobody may write: no box can come under one of them meanwhile.
        vault.keyring.destroy(unused)
    owner.forgotten()
    return len(unused)


def _left(
    opener: Opener, kept: Kept, paths: frozenset[str], fresh: dict[bytes, DataKey]
) -> tuple[tuple[Box, ...], frozenset[int]]:
    """Return the boxes of an entry less *paths*, and the lookups that it loses with them."""
    row = kept.row.to_bytes()
    keys = opener.keys([row])
    found = opener.look(kept.log, kept.index, kept.clear, row, keys)
    boxes = _without(opener, kept, paths, found, keys, fresh)
    lost: set[int] = set()
    for path in paths:
        each = found.get(path)
        if each is not None and each.state is ValueState.OPEN:
            lost |= opener.found_by(path, each.value, kept.clear, found)
    by_id = {**keys, **{key.id: key for key in fresh.values()}}
    left = {by_id[box.key].subject for box in boxes if box.key in by_id}
    lost |= {
        subject_number(keys[box.key].subject)
        for box in kept.row.boxes
        if box.key in keys and keys[box.key].subject not in left
    }
    return boxes, frozenset(lost)


def _used(view: View, vault: Vault, ids: set[bytes]) -> set[bytes]:
    """Return those of the data keys *ids* that boxes are under."""
    numbers = frozenset(
        subject_number(key.subject) for key in vault.keyring.wrapped(ids) if key.subject
    )
    wanted = Wanted(groups=(numbers,))
    used: set[bytes] = set()
    for log, head in view.heads().items():
        if not numbers:
            continue
        indexes = list(view.candidates(log, wanted, 0, head.size, newest_first=False))
        for at in range(0, len(indexes), _AT_ONCE):
            for row in view.rows(log, indexes[at : at + _AT_ONCE]):
                used |= {box.key for box in Row.from_bytes(row).boxes} if row else set()
    return used & ids


def _without(  # noqa: PLR0917 - as `_left`
    opener: Opener,
    kept: Kept,
    paths: frozenset[str],
    found: Mapping[str, Found],
    keys: Mapping[bytes, DataKey],
    fresh: dict[bytes, DataKey],
) -> tuple[Box, ...]:
    committed = kept.clear.committed
    boxes: list[Box] = []
    for box in kept.row.boxes:
        left = [at for at in box.positions if committed[at] not in paths]
        if len(left) == len(box.positions):
            boxes.append(box)
            continue
        if not left:
            continue
        if any(found[committed[at]].state is not ValueState.OPEN for at in left):
            raise Damaged(
                f"{kept.log}#{kept.index}: box {box.number} holds other values, and cannot be"
                " opened to keep them; erase these too, or put its key back"
            )
        # What is left moves to a key of its own: the old one opens the old box, copies
        # of which may lie in backups.
        new = fresh.get(box.key)
        if new is None:
            new = fresh[box.key] = opener.successor_of(keys[box.key])
        disclosures = [found[committed[at]].disclosure for at in left]
        bound = opener.bound(kept.log, kept.clear)
        boxes.append(enclose(box.number, left, disclosures, new, bound))
    return tuple(boxes)
