"""
Trail: the streams' logs of one installation in one directory, and what may be asked of them.

::

    trail.json               format, id and origin; written last when a trail is made
    keys/user.key            a signing key for each log, mode 0600 (or elsewhere)
    keys/vault-1.key         what the keyring is locked with, unless another keeper is given
    keyring.db               the keys of the vault, see `indelible.keyring`
    head.db, segments/, …    the store, see `indelible.stores.sqlite`

`Trail` is the one object that an application holds. It puts the parts together:
recorder and writer on the way in, queries, proofs and verification on the way out.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import time
import weakref
from base64 import b64encode
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast

from indelible import custody, mark, policies, query
from indelible.access import Viewer
from indelible.box import ValueState
from indelible.checkpoint import Rotation, handed_over
from indelible.closer import Closer
from indelible.context import authenticated, context, wrap
from indelible.creation import (
    being_created,
    create,
    describe,
    open_keyring,
    open_store,
    system_errors,
)
from indelible.custody import Custody
from indelible.entry import moment_of
from indelible.errors import (
    AlreadyATrail,
    CallerError,
    Damaged,
    Malformed,
    NotATrail,
    NotFound,
    StoreError,
    TrailClosed,
    VerificationError,
    WriteUncertain,
)
from indelible.event import id_time
from indelible.log import append, head_of, sign
from indelible.merkle import root_at
from indelible.openings import Openings
from indelible.pins import Pin, Pins
from indelible.policy import CUSTODY, OWNER, Policy
from indelible.reader import Reader
from indelible.recorder import Recorder
from indelible.seal import seal
from indelible.signers import Signers
from indelible.terms import fingerprint
from indelible.vault import Vault
from indelible.writer import Pending, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from indelible.covers import Covers
    from indelible.event import Event
    from indelible.evidence import EvidenceVerdict
    from indelible.facets import Facet
    from indelible.history import State
    from indelible.kek import KeyEncryption
    from indelible.keys import Signer
    from indelible.mark import Known
    from indelible.note import VerifierKey
    from indelible.plan import Plan
    from indelible.policies import Consent
    from indelible.proof import Proof
    from indelible.query import Item, Page, Query
    from indelible.removal import Done
    from indelible.retention import Hold
    from indelible.rights import Caller
    from indelible.sinks.collector import BackgroundShipper
    from indelible.store import Head, Store, View
    from indelible.subject import Answer
    from indelible.verdict import Verdict

ENVIRONMENT = "INDELIBLE_TRAIL"
"""Names the directory where none is given."""

Closing = Literal["thread", "process"]

Listener: TypeAlias = "Callable[[Mapping[str, Head]], object]"
"""Told the heads after a commit."""


class Trail:
    """
    The trail in the directory at *path*; see `open` and `create`.

    Usable from several threads; other processes may use the same directory. A
    process that forks may go on using it on both sides.
    """

    def __init__(
        self,
        path: Path,
        *,
        policy: Policy | None = None,
        check: bool = True,
        closing: Closing = "thread",
        keeper: KeyEncryption | None = None,
        role: str = OWNER,
        case: str | None = None,
        purpose: str | None = None,
        store: str | None = None,
    ) -> None:
        self.path = path
        description = describe(path)
        if store is not None and description.store is None:
            raise CallerError(f"{path}: its logs are in the directory; found a database given")
        self.id: str = description.id
        self.origin: str = description.origin
        self._signers = Signers(path / description.keys)
        keyring = open_keyring(path, path / description.keys, keeper, url=store)
        self.vault = Vault(keyring, self.origin)
        # Read before the head, or a commit between the two would look like a rollback.
        known = _known(path, self.id) if check else {}
        self.store: Store = open_store(path, aside=closing == "process", url=store)
        try:
            if check:
                with self.store.read() as view:
                    mark.check(known, view.heads(), partial(_root_at, view))
            with self.store.read() as view:
                in_force = _policy_of(view, reading=not check)
        except BaseException:
            self.store.close()
            raise
        self.viewer = Viewer.of(in_force, role, case=case, purpose=purpose)
        self.openings = Openings(self)
        self._reader = Reader(self, self.viewer)
        self._listeners: tuple[Listener, ...] = ()
        self._shipper: BackgroundShipper | None = None
        self._covers: tuple[dict[str, int], Covers] | None = None
        self._closed = False
        self._custody = Custody(self.id)
        self._closer = Closer(self)
        self._writer = Writer(
            self.store,
            signer_of=self.signer_of,
            now=lambda: time.time_ns() // 1_000,
            custody=self._custody,
            committed=self._committed,
            keep_keys=keyring.keep,
        )
        self._recorder = Recorder(in_force, self.submit, self._custody.lose, self.vault)
        self.record = self._recorder.record
        self.arecord = self._recorder.arecord
        self.record_many = self._recorder.record_many
        self.audited = self._recorder.audited
        self.prepare = self._recorder.prepare
        self.context = context
        self.authenticated = authenticated
        self.wrap = wrap
        _trails.add(self)
        if policy is not None and check and policy.digest != in_force.digest:
            try:
                self.set_policy(policy)
            except BaseException:
                self.close()
                raise

    @property
    def policy(self) -> Policy:
        """The policy in force, as this process knows it."""
        return self._recorder.policy

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        origin: str | None = None,
        keys: Path | str | None = None,
        policy: Policy | None = None,
        keeper: KeyEncryption | None = None,
        store: str | None = None,
    ) -> Trail:
        """
        Make a trail in the directory *path*, which is missing or empty, and open it.

        Makes a key for each log, pins its verifier key in the user's configuration,
        and writes the first custody entries.

        Args:
            origin: Names the trail to the world, as a URL without its scheme:
                ``audit.example.com/shop``; by default host and directory.
            keys: Where the signing keys are kept; by default inside the trail.
            policy: What it captures; by default `indelible.document.default`.
            keeper: Who keeps the key of the vault's keys; by default a file beside the
                signing keys.
            store: Where logs and keyring are kept, ``postgresql://…``; by default in
                the directory.

        Raises:
            AlreadyATrail: There is a trail already.
            NotATrail: The directory holds something else.
            CallerError: The origin cannot stand in a checkpoint.
            StoreError: The directory cannot be written.
        """
        path = Path(path)
        if policy is None:
            from indelible.document import default  # noqa: PLC0415 - reads TOML

            policy = default()
        create(
            path,
            origin=origin,
            keys=None if keys is None else Path(keys),
            policy=policy,
            keeper=keeper,
            store=store,
        )
        return cls(path, keeper=keeper, store=store)

    def reader(self, viewer: Viewer, caller: Caller | None = None) -> Reader:
        """
        Return what answers *viewer*; see `indelible.reader`.

        Args:
            caller: Whom it answers, and what that is limited to; by default this process, and
                nothing.
        """
        return Reader(self, viewer, caller)

    def search(
        self,
        query_: Query | str | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        **fields: Any,
    ) -> Page:
        """Answer a page of entries, verified against the tree; see `Reader.search`."""
        return self._reader.search(query_, limit=limit, cursor=cursor, **fields)

    def get(self, event_id: str) -> Item:
        """Return the entry of the event with this id; see `Reader.get`."""
        return self._reader.get(event_id)

    def at(self, log: str, index: int) -> Item:
        """Return the entry at *index* of *log*; see `Reader.at`."""
        return self._reader.at(log, index)

    def history(self, resource: str, *, until: datetime | None = None) -> list[Item]:
        """Return all entries about *resource*, oldest first; see `Reader.history`."""
        return self._reader.history(resource, until=until)

    def state(self, resource: str, *, at: datetime | None = None) -> State:
        """Return the values that changes have left in *resource*; see `Reader.state`."""
        return self._reader.state(resource, at=at)

    def facets(
        self,
        query_: Query | str | None = None,
        *,
        fields: Sequence[str] = ("actor", "action", "resource", "outcome"),
        top: int = 10,
        **filters: Any,
    ) -> dict[str, Facet]:
        """Count the values of *fields* over what matches; see `Reader.facets`."""
        return self._reader.facets(query_, fields=fields, top=top, **filters)

    def subject(self, subject: str) -> Answer:
        """Return what is held about *subject*, and who has opened it; see `Reader.subject`."""
        return self._reader.subject(subject)

    def prove(self, event_id: str) -> tuple[Item, Proof]:
        """Return an entry and the proof that the log holds it; see `Reader.prove`."""
        return self._reader.prove(event_id)

    def disclose(
        self, event_id: str, target: Path | str, *, paths: Sequence[str] | None = None
    ) -> EvidenceVerdict:
        """Write evidence of an entry, with chosen values opened; see `Reader.disclose`."""
        return self._reader.disclose(event_id, Path(target), paths=paths)

    def follow(self, stream: str | None = None, *, poll: float = 0.2) -> Iterator[Item]:
        """Yield entries as they are recorded, from now on; see `Reader.follow`."""
        return self._reader.follow(stream, poll=poll)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """
        Call *listener* with the heads after each commit of this process, in the writer's thread.

        It is to be quick. What other processes write it does not hear of.

        Returns:
            What ends it.
        """
        self._listeners += (listener,)

        def end() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return end

    def ship_to(
        self, url: str, token: str | Path | None = None, *, ca: Path | str | None = None
    ) -> BackgroundShipper:
        """
        Ship the logs to the collector at *url* from now on, until the trail is closed.

        A thread does it, and nobody who records waits for it. Of several processes that have
        the trail open, one ships what all of them record.

        Args:
            token: Access token, or the file that holds it; by default what
                ``INDELIBLE_TOKEN`` holds.
            ca: File with the certificates that are trusted instead of the system's.

        Returns:
            What can be asked to `drain`: to return when the collector has it all.

        Raises:
            CallerError: URL, token or file cannot be used, or it is shipped already.
        """
        from indelible.sinks.collector import (  # noqa: PLC0415 - recording needs none of it
            BackgroundShipper,
            Shipper,
        )

        self.check_open()
        if self._shipper is not None:
            raise CallerError(f"{self.path}: is shipped to a collector already")
        shipper = BackgroundShipper(Shipper(self, url, token, ca=ca)).start()
        self.listen(lambda _: shipper.kick())
        self._shipper = shipper
        return shipper

    def checkpoint(self, stream: str = "user") -> bytes:
        """
        Return the signed note over the stream's log as it is now.

        Raises:
            UnknownStream: The trail has no such stream.
            NotFound: Nothing was recorded in it yet.
        """
        with self._reading() as view:
            head = head_of(view.heads(), stream)
        if not head.checkpoint:
            raise NotFound(f"stream {stream}: holds no entry and so no checkpoint yet")
        return head.checkpoint

    def verifier_key(self, stream: str = "user") -> VerifierKey:
        """
        Return the key that verifies the stream's checkpoints.

        It comes from the pin if there is one, else from the key file; an auditor
        should get it on another way than the trail itself.

        Raises:
            UnknownStream: The trail has no such stream.
            KeyUnavailable: There is neither pin nor key file.
        """
        with self._reading() as view:
            head = head_of(view.heads(), stream)
            rotations = view.rotations(head.log)
        pin = self.pins().read().get(head.log)
        if pin is None:
            return self.signer(head.log).verifier
        return handed_over(pin.key, rotations)[-1]

    def rotate_key(self, stream: str = "user") -> VerifierKey:
        """
        Let a new key sign the stream's log from now on, and destroy the old one.

        Both keys sign the boundary, so that verifiers can walk from the pinned key.

        Raises:
            UnknownStream: The trail has no such stream.
            NotFound: Nothing was recorded yet, so there is nothing to bind the keys to.
            KeyUnavailable: The old key is lost.
        """
        self.check_open()
        with self.store.write() as transaction:
            head = head_of(transaction.heads(), stream)
            if not head.size:
                raise NotFound(f"stream {stream}: holds no entry yet, so its key may stay")
            old, new = self._signers.prepare(head)
            rotation = Rotation(
                origin=head.origin,
                old=old.verifier,
                new=new.verifier,
                size=head.size,
                root=head.edge.root,
            )
            transaction.rotate(head.log, rotation.sign(old, new).to_bytes(), sign(head, new))
            heads = transaction.heads()
            event = self._custody.event(
                "key.rotate",
                log=head.log,
                size=head.size,
                old=old.verifier.to_text(),
                new=new.verifier.to_text(),
            )
            target = head_of(heads, CUSTODY)
            signer = new if target.log == head.log else self.signer_of(target)
            append(transaction, target, [event], signer, time.time_ns() // 1_000)
        # Crash here: the log knows the new key, the file still holds the old one; the
        # new one lies beside it and is taken into use by whoever next signs, as here.
        with suppress(StoreError, WriteUncertain), self.store.write() as transaction:
            self.signer_of(transaction.heads()[head.log])
        return new.verifier

    def plan_erasure(
        self,
        subject: str,
        *,
        basis: str,
        paths: Sequence[str] = (),
        requester: str = OWNER,
        scan: bool = False,
    ) -> Plan:
        """
        Return the plan that erases what is held about *subject*; nothing changes.

        Raises:
            NotFound, KeyUnavailable: As `indelible.erasure.plan_erasure`.
        """
        from indelible.erasure import plan_erasure  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        return plan_erasure(
            self,
            subject,
            basis=basis,
            paths=paths,
            requester=requester,
            scan=scan,
            now=datetime.now(UTC),
        )

    def approve(self, plan: Plan) -> bytes:
        """Return the owner's approval of *plan*, signed with the key of the custody log."""
        from indelible.approval import Approval  # noqa: PLC0415 - recording needs none of it

        with self._reading() as view:
            head = head_of(view.heads(), CUSTODY)
        return Approval.sign(plan, OWNER, self._signers.look_up(head), datetime.now(UTC))

    def erase(self, consent: Consent) -> Done:
        """
        Carry out the plan of an erasure; see `indelible.erasure.carry_out`.

        Raises:
            NotApproved, StoreError: As there.
        """
        from indelible.erasure import carry_out  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        return carry_out(self, consent, datetime.now(UTC))

    def hold(self, *, ground: str, subject: str | None = None, query: str | None = None) -> str:
        """
        Place a legal hold on what *subject* or *query* finds, or on everything; return its id.

        Raises:
            CallerError, KeyUnavailable: As `indelible.holds.add`.
        """
        from indelible import holds  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        now = datetime.now(UTC)
        return holds.add(self, ground=ground, subject=subject, query=query, now=now)

    def release(self, hold: str) -> None:
        """
        Release a legal hold.

        Raises:
            NotFound, CallerError: As `indelible.holds.release`.
        """
        from indelible import holds  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        holds.release(self, hold, now=datetime.now(UTC))

    def holds(self) -> list[Hold]:
        """Return every legal hold that was ever placed, the oldest first."""
        from indelible import holds  # noqa: PLC0415 - recording needs none of it

        with self._reading() as view:
            return holds.read(view, self.vault, self.policy)

    def plan_purge(self, *, requester: str = OWNER) -> Plan:
        """
        Return the plan that purges the values whose time is over; nothing changes.

        Raises:
            NotFound, KeyUnavailable: As `indelible.expiry.plan_expiry`.
        """
        from indelible.expiry import plan_expiry  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        return plan_expiry(self, datetime.now(UTC), requester=requester)

    def purge(self, consent: Consent) -> Done:
        """
        Carry out the plan of a purge; see `indelible.expiry.carry_out`.

        Raises:
            NotApproved, StoreError: As there.
        """
        from indelible.expiry import carry_out  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        return carry_out(self, consent, datetime.now(UTC))

    def resume(self) -> list[Done]:
        """
        Finish erasures and purges that were begun and cut off; where there are none, do nothing.

        Raises:
            StoreError: Some may be half done; repeat it.
        """
        from indelible import erasure, expiry  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        now = datetime.now(UTC)
        return [*erasure.resume(self, now), *expiry.resume(self, now)]

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """
        Hold off other erasures and purges, which would bring back what this one takes.

        Raises:
            StoreError: The directory may not be written.
        """
        with self._locked("forget.lock"):
            yield

    def forgotten(self) -> None:
        """Take note that values are gone: what was read about it before holds no more."""
        self._covers = None

    def set_policy(self, policy: Policy, consent: Consent | None = None) -> None:
        """
        Put the trail under *policy* from now on; see `indelible.policies.change`.

        Other processes that have the trail open take it into use when they open it anew.

        Raises:
            InvalidPolicy: It does not follow the one in force.
            NotApproved: It loosens that one, and too few people have approved.
        """
        self.check_open()
        policies.change(self, policy, datetime.now(UTC), consent)
        # Crash here: new logs that nobody has pinned, as every verdict says until this is
        # repeated. Pinned before they are there, they would look like logs taken away.
        with suppress(OSError, Malformed):
            self._pin_new_logs()
        self._recorder.policy = policy

    def plan_policy(self, policy: Policy, *, requester: str = OWNER) -> Plan:
        """Return the plan that puts the trail under *policy*, for people to approve."""
        self.check_open()
        return policies.plan_change(self, policy, datetime.now(UTC), requester=requester)

    def rotate_vault(self, *, index: bool = False) -> int:
        """
        Give the vault a new version of its key, and destroy the old ones.

        Args:
            index: A new key for lookups instead; older ones stay for what was recorded.

        Returns:
            The version, or the number of the index key.

        Raises:
            KeyUnavailable: The old key is lost.
            StoreError: It may be half done; repeat it.
        """
        self.check_open()
        keyring = self.vault.keyring
        number = keyring.rotate_index() if index else keyring.rotate()
        event = self._custody.event("vault.rotate", kind="index" if index else "kek", number=number)
        with self.store.write() as transaction:
            custody.add(self, transaction, [event], time.time_ns() // 1_000)
        return number

    def new_signer(self, log: str) -> Signer:
        """Make the key of a log that does not exist yet, in the place of one that nothing knows."""
        return self._signers.make(log, f"{self.origin}/{log}")

    def _pin_new_logs(self) -> None:
        """Pin the keys that the custody stream names of logs that came after it was pinned."""
        pins = self.pins()
        pinned = pins.read()
        with self._reading() as view:
            new = view.heads().keys() - pinned.keys()
            if new and CUSTODY in pinned:
                keys = policies.first_keys(view)
                pins.pin({log: keys[log] for log in new & keys.keys()})

    def verify(
        self,
        *,
        keys: Iterable[VerifierKey] = (),
        checkpoints: Iterable[bytes] = (),
        jobs: int = 1,
        deep: bool = False,
        values: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """
        Check every byte, link, node and signature, and account for every committed value.

        See `indelible.verify` and `indelible.accounting`.

        Args:
            keys: Keys to trust instead of the pinned ones; a key's name is the
                origin of the log that it is for.
            checkpoints: Older signed notes that the logs must be consistent with.
            jobs: Processes to verify closed segments in. With more than one, the
                calling program must be importable, as `multiprocessing` demands.
            deep: Also build the indexes of closed segments anew and compare.
            values: Also account for the values in the vault.
            progress: Told entries done and entries in total; of the logs, then of the values.

        Raises:
            CallerError: A key or a checkpoint is of no log of this trail.
            InvalidSignature: A checkpoint is not signed by a trusted key.
        """
        from indelible.trust import verify  # noqa: PLC0415 - recording needs none of it

        self.check_open()
        verdict = verify(
            self.path,
            self.store,
            self.pins(),
            keys=keys,
            checkpoints=checkpoints,
            jobs=jobs,
            deep=deep,
            progress=progress,
            vault=self.vault if values else None,
        )
        if verdict.passed:
            self._remember()
        return verdict

    def backup(self, target: Path | str, *, with_keys: bool = True) -> dict[str, int]:
        """
        Copy the trail as it is now into *target*, while others write; see `indelible.backup`.

        Returns:
            The size of each log in the copy.

        Raises:
            CallerError: *target* exists and is not empty.
            StoreError: It cannot be written.
        """
        from indelible.backup import backup  # noqa: PLC0415 - which imports this module

        self.check_open()
        return backup(self, Path(target), with_keys=with_keys)

    def export(self, stream: str, target: Path | str) -> None:
        """
        Write the stream's log as a directory in the format of C2SP tlog-tiles.

        Raises:
            UnknownStream: The trail has no such stream.
            CallerError: *target* holds something else.
        """
        from indelible.sinks.directory import export_log  # noqa: PLC0415 - writes files

        with self._reading() as view:
            export_log(view, head_of(view.heads(), stream).log, Path(target))

    def stats(self) -> dict[str, Any]:
        """Return what there is of what: entries, bytes, segments, times, losses."""
        with self._reading() as view:
            heads = view.heads()
            logs = {
                log: {
                    "entries": head.size,
                    "purged": head.first,
                    "segments": len(view.segments(log)),
                    "segment_bytes": sum(s.file_size for s in view.segments(log)),
                    "root": b64encode(head.edge.root).decode("ascii"),
                    "recorded_at": _iso(head.recorded_at) if head.size else None,
                    "collected": _collected(view, head),
                }
                for log, head in heads.items()
            }
        entries = sum(head.size for head in heads.values())
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return {
            "id": self.id,
            "origin": self.origin,
            "path": str(self.path),
            "entries": entries,
            "bytes": size,
            "bytes_per_entry": round(size / entries, 1) if entries else None,
            "lost": self._custody.lost(),
            "logs": logs,
        }

    def content(self, event: Event) -> bytes:
        """Return what the trail would give back of *event* to its owner, to be compared."""
        sealed = seal(event, self.policy.rule_on(event), self.policy)
        values = {value.path: value.value for value in sealed.values}
        return seal(sealed.clear.event(values)).event

    def existing(self, ids: Sequence[str]) -> dict[str, bytes]:
        """
        Return of those *ids* that the trail holds what it gives back of them, by id.

        Where some of it was erased, or cannot be opened, it is nothing.
        """
        if not ids:
            return {}
        wanted = frozenset(map(fingerprint, ids))
        chosen, found = set(ids), {}
        times = [id_time(event_id) for event_id in ids]
        with self._reading() as view:
            for log in view.heads():
                indexes = list(view.with_ids(log, wanted, (min(times), max(times) + 1)))
                opener = self.vault.opener(Viewer(), self.policy)
                for item in query.items(view, log, indexes, opener):
                    if item.event.id in chosen:
                        whole = all(state is ValueState.OPEN for state in item.states.values())
                        found[item.event.id] = seal(item.event).event if whole else b""
        return found

    def recorded(self, ids: Sequence[str]) -> set[str]:
        """Return those of *ids* that the trail holds events of."""
        if not ids:
            return set()
        wanted, chosen = frozenset(map(fingerprint, ids)), set(ids)
        times = [id_time(event_id) for event_id in ids]
        found: set[str] = set()
        with self._reading() as view:
            for log in view.heads():
                indexes = list(view.with_ids(log, wanted, (min(times), max(times) + 1)))
                found.update(item.event.id for item in query.items(view, log, indexes))
        return found & chosen

    @contextmanager
    def import_lock(self) -> Iterator[None]:
        """
        Hold off other imports into this trail, so that none doubles what another brings.

        Raises:
            StoreError: Another import is under way.
        """
        with self._locked("import.lock", busy="another import is under way"):
            yield

    @contextmanager
    def relay_lock(self) -> Iterator[None]:
        """
        Hold off other relays into this trail, so that none doubles what another brings.

        Raises:
            StoreError: The directory may not be written.
        """
        with self._locked("relay.lock"):
            yield

    @contextmanager
    def _locked(self, name: str, *, busy: str | None = None) -> Iterator[None]:
        """Hold the lock of the file *name*; where another has it wait, or raise *busy*."""
        with system_errors(self.path):
            descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise StoreError(f"{self.path}: {busy}") from None
            yield
            # A process that was forked meanwhile holds the descriptor, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def settle(self) -> None:
        """
        Close the segments that are complete, here and now.

        Applications need not call this: a thread does it while they go on.

        Raises:
            StoreError: A file cannot be written; the entries stay where they are.
        """
        self.check_open()
        self._closer.settle()

    def pins(self) -> Pins:
        """Return the pins of this trail in the user's configuration."""
        return Pins(self.id)

    def close(self) -> None:
        """Write what was handed over, say so in the custody stream, and let go of the files."""
        if self._closed:
            return
        self._closed = True
        _trails.discard(self)
        self._custody.stopping = True
        self._writer.stop()
        self._closer.join()
        with suppress(StoreError, WriteUncertain, CallerError):
            self.openings.say(final=True)
        if self._shipper is not None:
            self._shipper.stop()
        if self._custody.started:
            self._remember()
        self.store.close()
        self.vault.keyring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, pending: Pending) -> None:
        """
        Hand sealed events to the writer; see `indelible.writer.Writer.submit`.

        Raises:
            TrailClosed: The trail was closed.
        """
        self.check_open()
        self._writer.submit(pending)

    def check_open(self) -> None:
        """
        Check that it was not closed.

        Raises:
            TrailClosed: It was.
        """
        if self._closed:
            raise TrailClosed(f"{self.path}: the trail was closed")

    @contextmanager
    def _reading(self) -> Iterator[View]:
        self.check_open()
        with self.store.read() as view:
            yield view

    def covers(self, view: View) -> Covers:
        """Return what erasures and purges have taken, as far as *view* knows."""
        said = {log: head.size for log, head in view.heads().items() if head.stream == CUSTODY}
        known = self._covers
        # Another process may have removed what was here a moment ago.
        if known is None or known[0] != said:
            from indelible.covers import Covers  # noqa: PLC0415 - rarely needed

            known = self._covers = said, Covers.read(view)
        return known[1]

    def _committed(self, heads: Mapping[str, Head]) -> None:
        self._closer.look(heads)
        for listener in self._listeners:
            # It is written: what one of them cannot do is no other's fault.
            with suppress(Exception):
                listener(heads)

    def signer(self, log: str) -> Signer:
        """
        Return the key that signs *log* now.

        Raises:
            KeyUnavailable: It is lost or may not be read.
        """
        with self._reading() as view:
            head = view.heads()[log]
        return self._signers.look_up(head)

    def signer_of(self, head: Head) -> Signer:
        """
        Return the key that signs what follows *head*, while nobody else may write.

        Raises:
            KeyUnavailable: It is lost or may not be read, or another lies in its place.
        """
        return self._signers.signer_of(head)

    def _remember(self) -> None:
        with self.store.read() as view:
            heads = view.heads()
        # Somebody without a home directory still has an audit trail.
        with suppress(OSError, Malformed):
            self.pins().remember(heads)

    def after_fork_in_child(self) -> None:
        """Begin as a process of its own, which the custody stream has heard nothing of."""
        self._custody.begin()
        self._closer.begin()
        self.openings.begin()
        self.vault.keyring.forget()


def open(  # noqa: A001 - the name that applications read: indelible.open("audit")
    path: Path | str | None = None,
    *,
    origin: str | None = None,
    policy: Policy | Path | str | None = None,
    mode: Literal["a", "r"] = "a",
    closing: Closing = "thread",
    keeper: KeyEncryption | None = None,
    role: str = OWNER,
    case: str | None = None,
    purpose: str | None = None,
    store: str | None = None,
    collector: str | None = None,
    token: str | Path | None = None,
    ca: Path | str | None = None,
) -> Trail:
    """
    Open the trail at *path*, by default the one that ``INDELIBLE_TRAIL`` names.

    Args:
        path: A directory; or a collector's URL, for an application without a disk, with
            *token* and *ca* alone: what is returned then records, and does nothing else; see
            `indelible.client.RemoteRecorder`.
        origin: For a trail that is made, see `Trail.create`.
        policy: The policy that it is to be under, or the file of one: where it is
            another than now, `Trail.set_policy` sets it. Without one, it stays.
        mode: ``a`` to record: the trail is made where there is none, and one that
            is behind its high-water mark is refused. ``r`` only to read, whatever
            state it is in.

        closing: Where the files of complete segments are built: in a thread, or for
            bulk loads in a process of its own, which leaves this one's time alone.
        keeper: Who keeps the key of the vault's keys; by default a file.
        role: As whom to read, see `indelible.access.Viewer`. One process owns all
            keys, so here a role is a preview of what it would see.
        case: What the reader works on; masked identities become pseudonyms within it.
        purpose: Why values are opened, in words.
        store: For a trail that is made, see `Trail.create`; for one that is there, its
            database with the password, which ``trail.json`` does not keep.
        collector: URL of the collector that the logs are shipped to, with *token* and *ca*,
            see `Trail.ship_to`.

    Raises:
        NotATrail: There is none (``r``), or the directory holds something else.
        Rollback: It holds less than was signed before.
        UnsupportedVersion: A newer version wrote it.
        UnsupportedFileSystem: It lies on a network file system.
        StoreError: It cannot be read or written.
        CallerError: The collector's URL, the token or a file cannot be used.
    """
    if path is None:
        path = os.environ.get(ENVIRONMENT) or None
        if path is None:
            raise NotATrail(f"no directory is given, and {ENVIRONMENT} names none")
    if isinstance(path, str) and path.startswith(("https://", "http://")):
        only = collector is None and mode == "a" and role == OWNER
        return _remote(path, token, ca, records_only=only)
    path = Path(path)
    if isinstance(policy, (str, Path)):
        policy = policies.parse(Path(policy).read_bytes())
    if mode == "r":
        if collector is not None:
            raise CallerError("collector: found mode 'r', expected 'a' to ship a trail")
        return Trail(
            path,
            check=False,
            keeper=keeper,
            role=role,
            case=case,
            purpose=purpose,
            store=store,
        )
    with system_errors(path):
        missing = not (path / "trail.json").exists() and (
            not (path / "head.db").exists() or being_created(path)
        )
    if missing:
        with suppress(AlreadyATrail):  # another process was faster
            Trail.create(path, origin=origin, policy=policy, keeper=keeper, store=store).close()
    opened = Trail(
        path,
        policy=policy,
        closing=closing,
        keeper=keeper,
        role=role,
        case=case,
        purpose=purpose,
        store=store,
    )
    if collector is not None:
        try:
            opened.ship_to(collector, token, ca=ca)
        except BaseException:
            opened.close()
            raise
    return opened


def _remote(
    url: str, token: str | Path | None, ca: Path | str | None, *, records_only: bool
) -> Trail:
    """Return what records into a collector: the half of a trail that applications record with."""
    from indelible.client import RemoteRecorder  # noqa: PLC0415 - recording here needs none of it

    if not records_only:
        raise CallerError("open: a URL takes token and ca; to read, use indelible.Client")
    return cast("Trail", RemoteRecorder(url, token, ca=ca))


def _policy_of(view: View, *, reading: bool) -> Policy:
    try:
        return policies.current(view)
    except (NotFound, VerificationError):
        # What is damaged can still be read, and verified, by what everybody may see.
        if not reading:
            raise
        from indelible.document import default  # noqa: PLC0415 - reads TOML

        return default()


def _known(path: Path, trail_id: str) -> dict[str, Known]:
    """Return the largest tree of each log that the mark or the pins have seen."""
    known: dict[str, Known] = {}
    pins: dict[str, Pin] = {}
    with suppress(Malformed, OSError):
        pins = Pins(trail_id).read()
    # A damaged mark is verification's to report; recording goes on and writes it anew.
    with suppress(Damaged):
        known = mark.Mark(path / "mark").read()
    for log, pin in pins.items():
        if pin.known is not None and (log not in known or known[log].size < pin.known.size):
            known[log] = pin.known
    return known


def _root_at(view: View, log: str, size: int) -> bytes:
    return root_at(size, partial(view.node, log))


def _collected(view: View, head: Head) -> dict[str, Any] | None:
    """Return how far a collector has come with a log, if it is shipped to one."""
    from indelible.shipping import progress_of  # noqa: PLC0415 - recording needs none of it

    progress = progress_of(view, head.log)
    if progress is None:
        return None
    return {
        "by": progress.url,
        "entries": progress.size,
        "behind": max(head.size - progress.size, 0),
        "at": _iso(progress.at),
    }


def _iso(microseconds: int) -> str:
    return moment_of(microseconds).isoformat().replace("+00:00", "Z")


_trails: weakref.WeakSet[Trail] = weakref.WeakSet()


def _close_all() -> None:
    for trail in list(_trails):
        trail.close()


def _after_fork_in_child() -> None:
    for trail in list(_trails):
        trail.after_fork_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
