"""
Policies: which policy a trail is under, and which it was under before.

The custody stream says it: an entry ``policy.set`` names the digest of each version, and
the document itself is kept beside the log, under that digest. So a document that was
edited is noticed, and a version that was never recorded is none.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from indelible import custody, query
from indelible.custody import own_event
from indelible.entry import microseconds
from indelible.errors import Damaged, InvalidPolicy, NotApproved, NotFound, StoreError
from indelible.log import head_of
from indelible.note import VerifierKey
from indelible.policy import CUSTODY, OWNER, Policy
from indelible.query import Query
from indelible.store import Head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from indelible.keys import Signer
    from indelible.plan import Plan
    from indelible.policy import Approvals
    from indelible.query import Item
    from indelible.store import Transaction, View

SET = "policy.set"
"""The action of the custody entry."""

KIND = "policy"
"""Of the facts that name policies of producers; key: `name_of`, value: the digest."""

_ATTEMPTS = 5


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's bytes, and the notes in which people approve it."""

    plan: bytes
    approvals: tuple[bytes, ...] = ()


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """
    One version of a trail's policy, and since when it holds.

    Attributes:
        item: The custody entry that says so.
    """

    policy: Policy
    item: Any


def text_of(policy: Policy) -> bytes:
    """Return the document of *policy*; of one that was built in code, its parts as JSON."""
    return policy.text or msgspec.json.encode(policy, order="deterministic")


@lru_cache(maxsize=256)
def parse(data: bytes) -> Policy:
    """
    Read what `text_of` writes.

    Raises:
        InvalidPolicy: It is no policy.
    """
    if not data.startswith(b'{"'):
        from indelible.document import parse as parse_document  # noqa: PLC0415 - reads TOML

        return parse_document(data)
    try:
        policy = msgspec.json.decode(data, type=Policy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(f"policy: {error}") from error
    if policy.text:
        # It would be kept as that text, and be another when it is read.
        raise InvalidPolicy("policy: found a text within JSON, expected one or the other")
    return policy


def checked(policy: Policy) -> Policy:
    """
    Return *policy* as it will be read back from its document.

    Raises:
        InvalidPolicy: It would not be: it was built in code, of wrong types perhaps.
    """
    try:
        return parse(text_of(policy))
    except (TypeError, msgspec.MsgspecError) as error:
        raise InvalidPolicy(f"policy: {error}") from error


def set_by(policy: Policy, **said: Any) -> dict[str, Any]:
    """Return the data of the custody entry that sets *policy*."""
    return {
        "policy": policy.label,
        "digest": policy.digest.hex(),
        "supersedes": policy.supersedes,
        **said,
    }


def versions(view: View) -> Iterator[Version]:
    """
    Yield the versions that the trail was under, the newest first.

    Raises:
        Damaged: A document is gone, or is not the one that was set.
    """
    if CUSTODY not in view.heads():
        return
    asked = Query(stream=CUSTODY, action=SET)
    for item in query.matches(view, asked):
        yield Version(policy=_policy(view, item), item=item)


def current(view: View) -> Policy:
    """
    Return the policy that the trail is under.

    Raises:
        NotFound: None was ever set.
        Damaged: Its document is gone, or is not the one that was set.
    """
    for version in versions(view):
        return version.policy
    raise NotFound("policy: the trail was never given one")


def of_label(view: View, label: str) -> Policy | None:
    """Return the policy that entries name *label*, if the trail was ever under it."""
    return next((each.policy for each in versions(view) if each.policy.label == label), None)


def name_of(origin: str, label: str) -> bytes:
    """
    Return under what name a collector keeps the policy *label* of a producer.

    Each trail has its own: a label tells policies apart, but not from one that somebody
    made to have the same.

    Args:
        origin: Of the producer's log.
    """
    return f"{origin.rpartition('/')[0]}\0{label}".encode()


def ever(view: View) -> Iterator[Policy]:
    """
    Yield every policy that an entry may have been sealed under: ours, and those of producers.

    Raises:
        Damaged: A document is gone, or is not the one that was set or came.
    """
    for version in versions(view):
        yield version.policy
    for digest in {digest for _, digest in view.facts(KIND)}:
        yield parse(document(view, digest))


def document(view: View, digest: bytes) -> bytes:
    """
    Return the document with this SHA-256.

    Raises:
        Damaged: It is gone, or another.
    """
    data = view.document(digest)
    if data is None:
        raise Damaged(f"document {digest.hex()}: is missing")
    if sha256(data).digest() != digest:
        raise Damaged(f"document {digest.hex()}: is not the one that was recorded")
    return data


class Owner(custody.Owner, Protocol):
    """The trail whose policy changes."""

    @property
    def origin(self) -> str:
        """What its logs' origins begin with."""
        ...

    def new_signer(self, log: str) -> Signer:
        """Make the key of a log that does not exist yet."""
        ...


def change(owner: Owner, new: Policy, now: datetime, consent: Consent | None = None) -> None:
    """
    Let *new* be the policy of a trail from now on; it is recorded, with what it loosens.

    A stream that it adds gets a log. What loosens the policy in force needs the approvals
    that that policy asks for; with its default, the owner of the trail is enough, and the
    entry says that this was self-approved.

    Args:
        consent: The plan and its approvals, where they are needed.

    Raises:
        InvalidPolicy: It does not follow the one in force.
        NotApproved: It loosens it, and too few people have approved.
        InvalidSignature, Malformed: An approval, or the plan, is none.
        StoreError: Nothing was written.
    """
    new = checked(new)
    for _ in range(_ATTEMPTS):
        with owner.store.read() as view:
            seen = head_of(view.heads(), CUSTODY)
            old = current(view)
            if old.digest == new.digest:
                return
            said = _verify(owner, view, old, new, now, consent)
        with owner.store.write() as transaction:
            head = head_of(transaction.heads(), CUSTODY)
            # The policy in force, and the plans used, are what they were when it was checked.
            if (head.log, head.size) == (seen.log, seen.size):
                _set(owner, transaction, new, said, now, consent)
                return
    raise StoreError("custody stream: others wrote to it again and again; repeat this")


def _verify(  # noqa: PLR0917 - what is in force, and what is to be
    owner: Owner, view: View, old: Policy, new: Policy, now: datetime, consent: Consent | None
) -> dict[str, Any]:
    """
    Check that *new* may follow *old*; return what the entry says of it.

    Raises:
        InvalidPolicy, NotApproved, InvalidSignature, Malformed: It may not.
    """
    from indelible.approval import verify_approvals  # noqa: PLC0415 - recording needs none of it
    from indelible.loosening import loosened, verify_succession  # noqa: PLC0415 - the same

    if old.id != "default" or new.id == "default":  # the first of its own follows no other
        verify_succession(old, new)
    loosens = loosened(old, new)
    needed = old.governance.loosening
    if not loosens:
        return {"loosens": loosens}
    if consent is None and needed.n == 1 and OWNER in needed.from_ and needed.cooling_off is None:
        return {"loosens": loosens, "self_approved": True}
    plan = _plan_of(consent, new, needed)
    notes = () if consent is None else consent.approvals
    verified = verify_approvals(
        plan,
        notes,
        policy=old,
        needed=needed,
        owner_keys=owner_keys(view),
        now=now,
        used={bytes.fromhex(used) for used in _plans(view)},
        trail=owner.id,
    )
    return {
        "loosens": loosens,
        "self_approved": verified.self_approved,
        "plan": plan.digest.hex(),
        "approvals": [note.decode() for note in notes],
    }


def _set(  # noqa: PLR0917 - as `change`
    owner: Owner,
    transaction: Transaction,
    new: Policy,
    said: dict[str, Any],
    now: datetime,
    consent: Consent | None,
) -> None:
    """Write the entry that sets *new*, with its document and the logs that it adds."""
    transaction.add_document(text_of(new))
    if consent is not None:
        transaction.add_document(consent.plan)
    streams = {head.stream for head in transaction.heads().values()}
    events = []
    for stream in new.streams:
        if stream not in streams:
            # Crash before the transaction ends: a key that nothing knows; it is made
            # anew by whoever repeats this.
            signer = owner.new_signer(stream)
            transaction.create(Head(log=stream, origin=signer.name))
            events.append(
                own_event(owner.id, "key.create", log=stream, key=signer.verifier.to_text())
            )
    events.append(own_event(owner.id, SET, **set_by(new, **said)))
    custody.add(owner, transaction, events, microseconds(now))


def plan_change(owner: Owner, new: Policy, now: datetime, *, requester: str) -> Plan:
    """Return the plan that puts a trail under *new*, as the policy in force wants it approved."""
    from indelible.plan import plan_of  # noqa: PLC0415 - recording needs none of it

    with owner.store.read() as view:
        old = current(view)
        sizes = {head.origin: head.size for head in view.heads().values()}
    return plan_of(
        "policy",
        owner.id,
        policy=old,
        needed=old.governance.loosening,
        basis=f"policy {new.label}",
        requester=requester,
        now=now,
        sizes=sizes,
        detail={"digest": new.digest.hex()},
    )


def owner_keys(view: View) -> list[VerifierKey]:
    """Return the keys that custody entries say the custody logs were made with, and had since."""
    keys = []
    for item in query.matches(view, Query(stream=CUSTODY, action=("key.create", "key.rotate"))):
        said = item.event.data or {}
        if str(said.get("log", "")).partition("~")[0] == CUSTODY:
            keys += [
                VerifierKey.from_text(said[name]) for name in ("key", "old", "new") if name in said
            ]
    return keys


def first_keys(view: View) -> dict[str, VerifierKey]:
    """Return the key that custody entries say each log was made with."""
    found = query.matches(view, Query(stream=CUSTODY, action="key.create"))
    said = [item.event.data or {} for item in found]
    return {each["log"]: VerifierKey.from_text(each["key"]) for each in said}


def _plans(view: View) -> Iterator[str]:
    """Yield the digests of the plans that policies were set by; each is used once."""
    for item in query.matches(view, Query(stream=CUSTODY, action=SET)):
        if plan := (item.event.data or {}).get("plan"):
            yield str(plan)


def _plan_of(consent: Consent | None, new: Policy, needed: Approvals) -> Plan:
    from indelible.plan import Plan  # noqa: PLC0415 - recording needs none of it

    if consent is None:
        raise NotApproved(
            f"policy {new.label}: loosens the one in force; found no approval, expected"
            f" {needed.n} of {', '.join(needed.from_)}"
        )
    plan = Plan.from_bytes(consent.plan)
    if plan.kind != "policy" or plan.detail.get("digest") != new.digest.hex():
        raise NotApproved(f"plan {plan.digest.hex()}: is not for policy {new.label}")
    return plan


def _policy(view: View, item: Item) -> Policy:
    said = item.event.data
    try:
        digest = bytes.fromhex(said["digest"])
    except (TypeError, KeyError, ValueError) as error:
        raise Damaged(f"entry {item.log}#{item.index}: names no policy: {error}") from error
    try:
        return parse(document(view, digest))
    except InvalidPolicy as error:
        raise Damaged(f"policy {digest.hex()}: {error}") from error
