"""
Removal: how values leave the vault for good, whoever has decided that they must.

::

    entry begin  ->  boxes, lookups  ->  data keys  ->  entry effective

The entry comes first: from then on the values may be gone, and whoever finds one gone
finds the entry. Each later step can be repeated, so a crash anywhere is made good by
carrying the same plan out again. No log changes, and every proof holds as before.

What may go is for `indelible.erasure` and `indelible.expiry` to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from indelible import custody, policies, query
from indelible.access import Viewer
from indelible.approval import verify_approvals, verify_plan
from indelible.box import Box, Found, Row, ValueState, enclose
from indelible.covers import Covers, needed_for, said_by
from indelible.custody import own_event, private_event
from indelible.entry import Entry, microseconds, moment_of
from indelible.errors import (
    Damaged,
    InvalidSignature,
    Malformed,
    NotApproved,
    StoreError,
)
from indelible.event import Outcome
from indelible.keyring import Erasure, subject_number
from indelible.log import head_of, restore
from indelible.plan import Plan, covers
from indelible.policies import Consent
from indelible.policy import COMMITTED, CUSTODY, FieldClass
from indelible.query import Query
from indelible.retention import Value
from indelible.seal import unseal
from indelible.segment import BLOCK, SEGMENT
from indelible.store import Forgotten, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from indelible.covers import Cover
    from indelible.keyring import DataKey, Keyring
    from indelible.policy import Policy
    from indelible.seal import Clear
    from indelible.store import View
    from indelible.vault import Vault

PREFIXES = "prefixes"
"""In the detail of a purge's plan: where each log begins whose first entries go."""

_ATTEMPTS = 5
_AT_ONCE = 1_000


class Owner(custody.VaultOwner, Protocol):
    """The trail from which values are removed."""

    def forgetting(self) -> AbstractContextManager[None]:
        """Hold off other removals inside the block, those of other processes as well."""
        ...

    def forgotten(self) -> None:
        """Take note that values are gone: nothing of them may stay in memory."""
        ...


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was removed.

    Attributes:
        plan: Digest of the plan.
        keys: How many data keys were destroyed.
        self_approved: Only whoever holds the trail's keys has approved it.
        prefixes: Of each log whose first entries went as well, where it begins since.
    """

    plan: bytes
    entries: int
    values: int
    keys: int
    self_approved: bool
    prefixes: dict[str, int] = {}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One entry with values: what the log and what the vault has of it."""

    log: str
    index: int
    recorded_at: int
    clear: Clear
    row: Row

    def value(self, path: str, class_: FieldClass | None, policy: Policy) -> Value:
        """
        Return the value at *path*, as retention decides about it.

        Args:
            class_: That it was recorded with; None where its key is gone, and only the
                policy can say.
        """
        rule = policy.field(path, self.clear.actor.type, self.clear.resource.type)
        if class_ is None:
            class_ = rule.class_ if rule.class_ in COMMITTED else FieldClass.INTERNAL
        return Value(
            log=self.log,
            stream=self.log.partition("~")[0],
            index=self.index,
            path=path,
            class_=class_,
            rule=rule,
            recorded_at=moment_of(self.recorded_at),
        )


def kept_at(view: View, places: Iterable[tuple[str, int]]) -> Iterator[Kept]:
    """
    Yield the entries at *places*, in order, that have a row in the vault.

    Raises:
        Damaged: A row, or an entry, cannot be read.
    """
    firsts = {log: head.first for log, head in view.heads().items()}
    by_block: dict[tuple[str, int], list[int]] = {}
    for log, index in places:
        if index >= firsts[log]:  # before it, retention has removed the entry itself
            by_block.setdefault((log, index // BLOCK), []).append(index)
    for (log, _), indexes in by_block.items():
        rows = view.rows(log, indexes)
        wanted = [(index, row) for index, row in zip(indexes, rows, strict=True) if row]
        stored = view.stored(log, [index for index, _ in wanted])
        for (index, row), each in zip(wanted, stored, strict=True):
            entry = Entry.from_bytes(restore(each))
            try:
                parsed = Row.from_bytes(row)
            except Damaged as error:
                raise Damaged(f"{log}#{index}: {error}") from error
            yield Kept(
                log=log,
                index=index,
                recorded_at=entry.recorded_at,
                clear=unseal(entry.event),
                row=parsed,
            )


def classes_of(keyring: Keyring, rows: Iterable[Row]) -> dict[bytes, FieldClass]:
    """Return the classes of the values in the boxes of *rows*, by the ids of their data keys."""
    ids = {box.key for row in rows for box in row.boxes}
    return {key.id: key.class_ for key in keyring.wrapped(ids)}


def covered_values(view: View, keyring: Keyring, plan: Plan, policy: Policy) -> Iterator[Value]:
    """Yield the values that *plan* covers and that are there."""
    sizes = {log: head.size for log, head in view.heads().items()}
    here = {place: paths for place, paths in covers(plan).items() if place[1] < sizes[place[0]]}
    for kept in kept_at(view, here):
        classes = classes_of(keyring, [kept.row])
        for box in kept.row.boxes:
            for position in box.positions:
                path = kept.clear.committed[position]
                if path in here[kept.log, kept.index]:
                    yield kept.value(path, classes.get(box.key), policy)


# ---- Carrying out ----


class Removal(ABC):
    """
    Carries out plans of one kind on *owner*, at the time *now*.

    Attributes:
        kind: ``erase`` or ``purge``; its custody entries are called by it.
        remembered: Its plans stay in the keyring, to be repeated on older copies.
    """

    kind: ClassVar[str]
    remembered: ClassVar[bool]

    def __init__(self, owner: Owner, now: datetime) -> None:
        self.owner, self.now = owner, now

    @abstractmethod
    def check(self, view: View, policy: Policy, plan: Plan, *, begun: bool) -> None:
        """
        Check that all that *plan* covers may go.

        Args:
            begun: Some of it may be gone already, and rightly: then only a hold stops it.

        Raises:
            NotApproved: Something has to stay.
        """

    def resume(self) -> list[Done]:
        """
        Finish what was begun and cut off, as far as nothing stops it by now.

        Raises:
            StoreError: Some may be half done; repeat it.
        """
        with self.owner.store.read() as view:
            cut_off = _unfinished(view, self.kind)
        done = []
        for consent in cut_off:
            with suppress(NotApproved):  # a hold came in between; that is recorded
                done.append(self.carry_out(consent))
        return done

    def finish(self, plan: Plan) -> dict[str, int]:  # noqa: ARG002 - of others
        """Do what *plan* asks for besides; return where logs begin since. May be repeated."""
        return {}

    def carry_out(self, consent: Consent) -> Done:
        """
        Remove what the plan of *consent* covers, or go on where a crash has cut it off.

        Raises:
            NotApproved: It may not be carried out, and the message says why. That it was
                refused is recorded.
            StoreError: It may be half done; repeat it.
        """
        owner = self.owner
        with owner.forgetting():
            try:
                plan, cover = self._begun(consent)
            except (NotApproved, InvalidSignature, Malformed) as refused:
                self._refuse(consent, str(refused))
                raise NotApproved(str(refused)) from refused
            # Crash here, or anywhere below: the entry is there, and some of the values.
            # They are still readable, and whoever repeats this removes them.
            keys = remove(owner, plan, cover)
            prefixes = self.finish(plan)
            declare_effective(owner, plan, keys, self.now)
            if not self.remembered:
                # Crash before this line: a plan that nobody needs any more.
                owner.vault.keyring.remember(
                    plan.digest, Erasure(plan=b"", approvals=(), began_at=0, keys=())
                )
        return Done(
            plan=plan.digest,
            entries=len(plan.cover),
            values=sum(len(each.paths) for each in plan.cover),
            keys=keys,
            self_approved=cover.self_approved,
            prefixes=prefixes,
        )

    def _begun(self, consent: Consent) -> tuple[Plan, Cover]:
        """Return the plan of *consent*, and the cover that the entry which begins it makes."""
        owner = self.owner
        plan = Plan.from_bytes(consent.plan)
        digest = plan.digest.hex()
        if plan.kind != self.kind:
            raise NotApproved(f"plan {digest}: is for {plan.kind}, expected {self.kind}")
        with owner.store.read() as view:
            cover = Covers.read(view, only=digest).covers.get(digest)
            if cover is not None:
                if cover.effective:
                    raise NotApproved(f"plan {digest}: was carried out already, expected a new one")
                if cover.wrong:
                    raise NotApproved(f"plan {digest}: {cover.entry} is no ground: {cover.wrong}")
                self.check(view, policies.current(view), plan, begun=True)
                return plan, cover
        self._begin(consent, plan)
        with owner.store.read() as view:
            cover = Covers.read(view, only=digest).covers[digest]
        if cover.wrong:
            raise NotApproved(f"plan {digest}: {cover.entry} is no ground: {cover.wrong}")
        return plan, cover

    def _begin(self, consent: Consent, plan: Plan) -> None:
        owner = self.owner
        for _ in range(_ATTEMPTS):
            with owner.store.read() as view:
                seen = head_of(view.heads(), CUSTODY)
                at = max(self.now, moment_of(seen.recorded_at))
                alone = self._verify(view, plan, consent, at)
            event = own_event(
                owner.id,
                f"{self.kind}.begin",
                **what_it_covers(plan),
                approvals=[note.decode() for note in consent.approvals],
                self_approved=alone,
                anchored=False,
            )
            with owner.store.write() as transaction:
                head = head_of(transaction.heads(), CUSTODY)
                # Policy and holds are what they were when this was checked.
                if (head.log, head.size) == (seen.log, seen.size):
                    transaction.add_document(consent.plan)
                    custody.add(owner, transaction, [event], microseconds(self.now))
                    return
        raise StoreError("custody stream: others wrote to it again and again; repeat this")

    def _verify(self, view: View, plan: Plan, consent: Consent, at: datetime) -> bool:
        """
        Check that *plan* may be carried out; return whether only the owner has approved it.

        Raises:
            NotApproved, InvalidSignature, Malformed: It may not.
        """
        policy = policies.current(view)
        what = f"plan {plan.digest.hex()}"
        if not plan.cover and not plan.detail.get(PREFIXES):
            raise NotApproved(f"{what}: covers nothing; all of it is deferred")
        sizes = {
            log: min(head.size, plan.logs.get(head.origin, 0)) for log, head in view.heads().items()
        }
        for each in plan.cover:
            if each.index >= sizes.get(each.log, 0):
                raise NotApproved(
                    f"{what}: covers {each.log}#{each.index}, which was not there when it was made"
                )
        needed = needed_for(policy, self.kind)
        if needed is None:
            verify_plan(plan, policy=policy, needed=None, now=at, trail=self.owner.id)
            self.check(view, policy, plan, begun=False)
            return False
        verified = verify_approvals(
            plan,
            consent.approvals,
            policy=policy,
            needed=needed,
            owner_keys=policies.owner_keys(view),
            now=at,
            trail=self.owner.id,
        )
        self.check(view, policy, plan, begun=False)
        return verified.self_approved

    def _refuse(self, consent: Consent, why: str) -> None:
        owner = self.owner
        custody.write(
            owner,
            lambda: [
                private_event(
                    owner.vault,
                    owner.id,
                    f"{self.kind}.refuse",
                    outcome=Outcome.DENIED,
                    plan=sha256(consent.plan).hexdigest(),
                    ground=why,
                )
            ],
            microseconds(self.now),
        )


def _unfinished(view: View, kind: str) -> list[Consent]:
    """Return the plans that were begun, and of which no entry says that they are effective."""
    begin, effective = f"{kind}.begin", f"{kind}.effective"
    asked = Query(stream=CUSTODY, action=(begin, effective), newest_first=False)
    begun: dict[str, list[str]] = {}
    for item in query.matches(view, asked):
        said = said_by(item)
        if item.event.action == begin:
            begun[str(said.get("plan"))] = said.get("approvals", [])
        else:
            begun.pop(str(said.get("plan")), None)
    return [
        Consent(
            plan=policies.document(view, bytes.fromhex(digest)),
            approvals=tuple(note.encode() for note in approvals),
        )
        for digest, approvals in begun.items()
    ]


def what_it_covers(plan: Plan) -> dict[str, Any]:
    """Return what the custody entry by which *plan* begins, or begins again, says of it."""
    return {
        "plan": plan.digest.hex(),
        "cover_root": plan.cover_root.hex(),
        "entries": len(plan.cover),
        "values": sum(len(each.paths) for each in plan.cover),
        "basis": plan.basis,
        "policy": plan.policy,
        "requester": plan.requester,
    }


def declare_effective(owner: Owner, plan: Plan, keys: int, now: datetime) -> None:
    """
    Record that all that *plan* covers is gone, and *keys* data keys with it.

    Raises:
        StoreError: Nothing was written.
        WriteUncertain: It may have been.
    """
    said = {"plan": plan.digest.hex(), "keys": keys}
    custody.write(
        owner,
        lambda: [own_event(owner.id, f"{plan.kind}.effective", **said)],
        microseconds(now),
    )


def remove(owner: Owner, plan: Plan, cover: Cover) -> int:
    """
    Remove what *plan* covers from the vault, and the data keys that nothing is left of.

    What is gone already is gone; so this may be repeated.

    Args:
        cover: What the entry that began it says.

    Returns:
        How many data keys were destroyed.

    Raises:
        Damaged: A box holds others' values as well and cannot be opened to keep them.
        StoreError: It may be half done.
    """
    vault = owner.vault
    known = vault.keyring.erasures().get(plan.digest)
    touched = set(() if known is None else known.keys)
    entries: dict[str, dict[int, Forgotten]] = {}
    with owner.store.read() as view:
        left = _Left(view, vault, policies.current(view), destroyed=frozenset(touched))
        sizes = {log: head.size for log, head in view.heads().items()}
        here = {
            place: paths
            for place, paths in covers(plan).items()
            if place[1] < sizes.get(place[0], 0)
        }
        for kept in kept_at(view, here):
            boxes, lookups = left.of(kept, here[kept.log, kept.index])
            touched |= {box.key for box in kept.row.boxes} - {box.key for box in boxes}
            entries.setdefault(kept.log, {})[kept.index] = Forgotten(
                row=Row(kept.row.spine, boxes).to_bytes(), lookups=lookups
            )
    # With the keys, so that an older copy of the boxes can be made to forget as well; and
    # before the boxes go, or a crash would leave keys that nobody looks for.
    vault.keyring.remember(
        plan.digest,
        Erasure(
            plan=plan.to_bytes(),
            approvals=cover.approvals,
            began_at=microseconds(cover.began_at),
            keys=tuple(sorted(touched)),
        ),
    )
    vault.keyring.keep(key.id for key in left.fresh.values())
    owner.store.forget(entries)
    # Crash here: keys of boxes that are gone; whoever repeats this destroys them.
    destroyed = _destroy_unused(owner, touched, scan=bool(plan.detail.get("scan")))
    owner.forgotten()
    return destroyed


# ---- What is left of an entry ----


class _Left:
    """
    Works out what is left of entries.

    Args:
        destroyed: Data keys that the same removal has destroyed before, if they are gone.

    Attributes:
        fresh: New data keys for what is left in a box, by the key that it was under.
    """

    def __init__(
        self, view: View, vault: Vault, policy: Policy, *, destroyed: frozenset[bytes]
    ) -> None:
        self.fresh: dict[bytes, DataKey] = {}
        self._destroyed = destroyed
        self._vault = vault
        self._opener = vault.opener(Viewer(), policy)
        self._lookups = _Lookups(view)

    def of(self, kept: Kept, paths: frozenset[str]) -> tuple[tuple[Box, ...], frozenset[int]]:
        """Return the boxes of an entry without *paths*, and the lookups that go with them."""
        row = kept.row.to_bytes()
        keys = self._opener.keys([row])
        found = self._opener.look(kept.log, kept.index, kept.clear, row, keys)
        boxes = self._without(kept, paths, found, keys)
        by_id = {**keys, **{key.id: key for key in self.fresh.values()}}
        owners = {by_id[box.key].lookup for box in boxes if box.key in by_id}
        lost = {keys[box.key].lookup for box in kept.row.boxes if box.key in keys} - owners
        whole = True
        for path in paths & found.keys():
            each = found[path]
            if each.state is ValueState.OPEN:
                lost |= self._opener.found_by(path, each.value, kept.clear, found)
            else:
                whole = whole and each.state is ValueState.MISSING
        if not whole:
            lost |= self._unexplained(kept, found.keys() - paths, found, owners)
        return boxes, frozenset(number for number in lost if number is not None)

    def _unexplained(
        self,
        kept: Kept,
        left: Collection[str],
        found: Mapping[str, Found],
        owners: Collection[int | None],
    ) -> frozenset[int]:
        """
        Return the lookups of an entry that no value which is left accounts for.

        So what a value was found by goes even where the value itself cannot be opened.
        """
        explained = {number for number in owners if number is not None}
        for path in left:
            if found[path].state is ValueState.OPEN:
                explained |= self._opener.found_by(path, found[path].value, kept.clear, found)
        return frozenset(self._lookups.of(kept.log, kept.index)) - explained

    def _without(
        self,
        kept: Kept,
        paths: frozenset[str],
        found: Mapping[str, Found],
        keys: Mapping[bytes, DataKey],
    ) -> tuple[Box, ...]:
        committed = kept.clear.committed
        boxes: list[Box] = []
        for box in kept.row.boxes:
            left = tuple(at for at in box.positions if committed[at] not in paths)
            if len(left) == len(box.positions):
                boxes.append(box)
            elif left and self._is_dead(box, keys):
                # Nobody can open it any more; it only says that there was something, and
                # by which key. Of what was destroyed on purpose nothing else stays.
                data = b"" if box.key in self._destroyed else box.data
                boxes.append(Box(box.number, left, box.key, data))
            elif left:
                boxes.append(self._reboxed(kept, box, left, found, keys))
        return tuple(boxes)

    def _is_dead(self, box: Box, keys: Mapping[bytes, DataKey]) -> bool:
        return box.key not in keys and not self._vault.keyring.wrapped([box.key])

    def _reboxed(
        self,
        kept: Kept,
        box: Box,
        left: Sequence[int],
        found: Mapping[str, Found],
        keys: Mapping[bytes, DataKey],
    ) -> Box:
        those = [found[kept.clear.committed[at]] for at in left]
        if any(each.state is not ValueState.OPEN for each in those):
            raise Damaged(
                f"{kept.log}#{kept.index}: box {box.number} holds other values, and cannot be"
                " opened to keep them; put its key back, or name these paths as well"
            )
        # What is left moves to a key of its own: the old one opens the old box, copies
        # of which may lie in backups.
        new = self.fresh.get(box.key)
        if new is None:
            new = self.fresh[box.key] = self._opener.successor_of(keys[box.key])
        bound = self._opener.bound(kept.log, kept.clear)
        return enclose(box.number, left, [each.disclosure for each in those], new, bound)


class _Lookups:
    """The lookups of single entries, read a segment at a time."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._at: tuple[str, int] | None = None
        self._found: dict[int, Sequence[int]] = {}

    def of(self, log: str, index: int) -> Sequence[int]:
        segment = index // SEGMENT
        if self._at != (log, segment):
            first = segment * SEGMENT
            self._found = dict(self._view.lookups(log, first, first + SEGMENT))
            self._at = (log, segment)
        return self._found.get(index, ())


# ---- Data keys that nothing is left of ----


def _destroy_unused(owner: Owner, ids: set[bytes], *, scan: bool) -> int:
    """Destroy those of the data keys *ids* that no box is under, and return how many."""
    keyring = owner.vault.keyring
    with owner.store.read() as view:
        seen = {log: head.size for log, head in view.heads().items()}
        unused = ids - _used(view, keyring, ids, scan=scan)
    with owner.store.write(), owner.store.read() as view:
        # While nobody may write, so that no box comes under one of them meanwhile; whoever
        # has sealed something under it, and not written it yet, is told to do it anew.
        for log, head in view.heads().items():
            unused -= _under(view, log, range(seen.get(log, 0), head.size), unused)
        keyring.destroy(unused)
    return len(unused)


def _used(view: View, keyring: Keyring, ids: set[bytes], *, scan: bool) -> set[bytes]:
    """Return those of the data keys *ids* that boxes are under."""
    subjects = {key.id: key.subject for key in keyring.wrapped(ids)}
    numbers = frozenset(subject_number(subject) for subject in subjects.values() if subject)
    used: set[bytes] = set()
    for log, head in view.heads().items() if numbers and not scan else ():
        wanted = Wanted(groups=(numbers,))
        used |= _under(
            view, log, list(view.candidates(log, wanted, 0, head.size, newest_first=False)), ids
        )
    # What is nobody's is found by nothing. The newest first: mostly one of them is in use.
    nobodys = {key for key, subject in subjects.items() if scan or not subject}
    for log, head in view.heads().items():
        for end in range(head.size, 0, -_AT_ONCE):
            if nobodys <= used:
                break
            used |= _under(view, log, range(max(end - _AT_ONCE, 0), end), nobodys)
    return used


def _under(view: View, log: str, indexes: Sequence[int], ids: Collection[bytes]) -> set[bytes]:
    """Return those of the data keys *ids* that boxes of the entries at *indexes* are under."""
    used: set[bytes] = set()
    for at in range(0, len(indexes), _AT_ONCE):
        for row in view.rows(log, indexes[at : at + _AT_ONCE]):
            if row:
                used.update(box.key for box in Row.from_bytes(row).boxes if box.key in ids)
    return used
