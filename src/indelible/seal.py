"""
Seal: an event and what a policy says of it, to the exact bytes that a log will keep.

::

    classify  ->  drop, commit or keep  ->  encode
                  secrets, values, rest

What must be forgettable leaves the event here: of each such value the sealed bytes name
the path, and one commitment covers them all (`indelible.disclosure`). What stays is
`Clear`. Pure: no clock, no disk; randomness comes in as *entropy*.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from datetime import datetime  # noqa: TC003 - msgspec reads the types at run time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET

from indelible.detectors import find as find_secret
from indelible.disclosure import commitment_of, is_hash, leaf_of, write
from indelible.entry import Collected, hash_to_text
from indelible.errors import EventTooLarge, InvalidEvent, Malformed
from indelible.event import (
    Actor,
    ActorType,
    Approval,
    Change,
    Client,
    Event,
    Kind,
    Outcome,
    Rationale,
    Resource,
    Service,
    Source,
    Trace,
)
from indelible.fields import split
from indelible.policy import FieldClass, FieldRule, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from indelible.policy import Policy, Ruling

MAX_SEALED = 60_000
"""Most bytes of a sealed event, so that it still fits when a collector wraps its entry."""

MAX_VALUE = 8 * 1024 * 1024
"""Most bytes of one committed value."""

NONCE_SIZE = 16

_encode = msgspec.json.Encoder(decimal_format="string").encode


class ClearActor(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What stays in clear of an `indelible.event.Actor`."""

    type: ActorType
    id: str | None = None
    name: str | None = None
    roles: tuple[str, ...] = ()
    on_behalf_of: Actor | None = None
    asserted: bool = False


class ClearResource(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What stays in clear of an `indelible.event.Resource`."""

    type: str
    id: str | None = None
    name: str | None = None


class ClearApproval(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What stays in clear of an `indelible.event.Approval`."""

    n: int
    distinct: bool
    approvers: tuple[str, ...] = ()
    reference: str | None = None


class ClearSource(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What stays in clear of an `indelible.event.Source`."""

    format: str
    id: str | None = None


class Clear(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """
    The sealed event: what stays in clear of an `Event`, and what it says of the rest.

    The order of the fields is the order of the keys in the bytes; absent ones are absent.

    Attributes:
        policy, rule: What decided, as `indelible.policy.Ruling` names it.
        committed: The paths that have a value, in the order of the commitment.
        dropped: The paths of secrets, whose values are kept nowhere.
        caught: Those of *committed* that the policy would have left in clear, but that
            looked like secrets.
        commitment: Root over the disclosures of *committed*, as text.
        nonce: Random, where nothing is committed: else the event could be guessed from
            its leaf hash when it is purged.
    """

    id: str
    schema: str | None = None
    kind: Kind | None = None
    occurred_at: Annotated[datetime, msgspec.Meta(tz=True)]
    action: str
    outcome: Outcome
    reason: str | None = None
    actor: ClearActor
    resource: ClearResource
    changes: dict[str, Change] | None = None
    data: Any = None
    rationale: Rationale | None = None
    session: str | None = None
    request: str | None = None
    client: Client | None = None
    trace: Trace | None = None
    service: Service | None = None
    tenant: str | None = None
    approval: ClearApproval | None = None
    source: ClearSource | None = None
    policy: str | None = None
    rule: str | None = None
    committed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    caught: tuple[str, ...] = ()
    commitment: str | None = None
    nonce: str | None = None

    def event(
        self,
        values: Mapping[str, Any] | None = None,
        masks: Mapping[str, str] | None = None,
    ) -> Event:
        """
        Return the event with *values* where they belong, and for others their *masks*.

        Args:
            values: JSON values by their paths in `committed`.
            masks: What stands for a value that is not shown, by its path; of a part that
                has no text to stand for it (`changes` or `data` as a whole) nothing is.

        Raises:
            Malformed: They are no event.
        """
        parts: dict[str, Any] = {
            "actor": msgspec.structs.asdict(self.actor),
            "resource": msgspec.structs.asdict(self.resource),
        }
        for name in ("approval", "source", "client"):
            part = getattr(self, name)
            if part is not None:
                parts[name] = msgspec.structs.asdict(part)
        for container in ("changes", "data"):
            part = getattr(self, container)
            if part is not None:
                parts[container] = dict(part) if isinstance(part, dict) else part
        plain: dict[str, Any] = {}
        try:
            for path in self.committed:
                if values is not None and path in values:
                    value = values[path]
                    # The fingerprint of a secret is a text, whatever the secret was.
                    is_print = path in self.dropped and isinstance(value, str)
                    (_mask if is_print else _put)(parts, plain, path, value)
                else:
                    _mask(parts, plain, path, WITHHELD if masks is None else masks[path])
            for path in self.dropped:
                # A fingerprint of it may be committed, and so be there already.
                if path not in self.committed:
                    _mask(parts, plain, path, DROPPED)
            return Event(
                id=self.id,
                schema=self.schema,
                kind=self.kind,
                occurred_at=self.occurred_at,
                action=self.action,
                outcome=self.outcome,
                reason=plain.get("reason", self.reason),
                actor=Actor(**parts["actor"]),
                resource=Resource(**parts["resource"]),
                changes=parts.get("changes"),
                data=parts.get("data"),
                rationale=plain.get("rationale", self.rationale),
                session=plain.get("session", self.session),
                request=plain.get("request", self.request),
                client=Client(**parts["client"]) if "client" in parts else None,
                trace=self.trace,
                service=self.service,
                tenant=plain.get("tenant", self.tenant),
                approval=Approval(**parts["approval"]) if "approval" in parts else None,
                source=Source(**parts["source"]) if "source" in parts else None,
            )
        except (
            InvalidEvent,
            msgspec.MsgspecError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
        ) as error:
            raise Malformed(f"event {self.id}: {error}") from error


WITHHELD = "[withheld]"
DROPPED = "[secret]"


def _put(parts: dict[str, Any], plain: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    container, name = split(path)
    if container == "/changes":
        changes = parts.setdefault("changes", {})
        given = {name: value} if name is not None else value
        for field, change in given.items():
            changes[field] = msgspec.convert(change, Change)
    elif container == "/data":
        data = parts.setdefault("data", {})
        data.update(value if name is None else {name: value})
    elif path == "/actor/on_behalf_of":
        parts["actor"]["on_behalf_of"] = msgspec.convert(value, Actor)
    elif path == "/approval/approvers":
        parts["approval"]["approvers"] = tuple(value)
    elif path == "/rationale":
        plain["rationale"] = msgspec.convert(value, Rationale)
    else:
        _, first, *rest = path.split("/")
        if rest:
            parts.setdefault(first, {})[rest[0]] = value
        else:
            plain[first] = value


def _mask(parts: dict[str, Any], plain: dict[str, Any], path: str, mask: str) -> None:
    container, name = split(path)
    if container == "/changes":
        if name is not None:
            parts.setdefault("changes", {})[name] = Change(mask, mask)
    elif container == "/data":
        if name is not None:
            parts.setdefault("data", {})[name] = mask
    elif path == "/actor/on_behalf_of":
        parts["actor"]["on_behalf_of"] = Actor(type="unknown", id=mask)
    elif path == "/approval/approvers":
        parts["approval"]["approvers"] = (mask,)
    elif path == "/rationale":
        plain["rationale"] = Rationale(text=mask)
    else:
        _put(parts, plain, path, mask)


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A value that left the event.

    Attributes:
        path: Where it stood.
        value: JSON, or a part of the event that is encoded as such.
        rule: How it is classified; None where it was not opened: it stays where it is.
    """

    path: str
    value: Any
    rule: FieldRule | None


class Sealed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A sealed event on its way into a log; a retry uses the same bytes and salts.

    Attributes:
        event: The bytes that will stand under ``event`` in the entry.
        clear: What they say.
        actor, resource: Whose values they are, as ``type:id``; None where there is no id.
        values: What is committed, in the order of the commitment.
        disclosures: The bytes of each.
        leaves: The leaf hash of each.
        commitment: Their root; empty where nothing is committed.
        row: What the vault keeps of it, once `indelible.vault` has enclosed the values.
        keys: The data keys of its boxes.
        lookups: What the values can be found by.
        collected: The producer's entry that the event is in, where a collector keeps it.
    """

    event: bytes
    clear: Clear
    actor: str | None = None
    resource: str | None = None
    values: tuple[Value, ...] = ()
    disclosures: tuple[bytes, ...] = ()
    leaves: tuple[bytes, ...] = ()
    commitment: bytes = b""
    row: bytes = b""
    keys: tuple[bytes, ...] = ()
    lookups: tuple[int, ...] = ()
    collected: Collected | None = None

    @property
    def id(self) -> str:
        """The event's id."""
        return self.clear.id


def seal(
    event: Event,
    ruling: Ruling | None = None,
    policy: Policy | None = None,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
    fingerprint: Callable[[str, object], str] | None = None,
) -> Sealed:
    """
    Seal *event* as *policy* with its *ruling* says.

    Without them everything stays in clear, and without a nonce: so are what the trail says
    about itself, which is never purged, and the exact content of an event to compare.

    Args:
        fingerprint: Makes of a secret, by its path, what it can be compared by.

    Raises:
        InvalidEvent: A text holds NUL or a lone surrogate, or a field that the ruling
            requires is missing.
        EventTooLarge: What stays in clear is over `MAX_SEALED` bytes, or a value over
            `MAX_VALUE`.
    """
    clear, values = _taken_apart(event, ruling, policy)
    if clear.dropped:
        values = _fingerprinted(values, fingerprint)
    disclosures: list[bytes] = []
    leaves: list[bytes] = []
    commitment = b""
    try:
        if values:
            disclosures = write([(each.path, each.value) for each in values], entropy)
            leaves = [leaf_of(each) for each in disclosures]
            commitment = commitment_of(leaves)
            clear.committed = tuple([each.path for each in values])
            clear.commitment = hash_to_text(commitment).decode("ascii")
        elif ruling is not None:
            clear.nonce = urlsafe_b64encode(entropy(NONCE_SIZE))[:22].decode("ascii")
        data = _encode(clear)
    except UnicodeEncodeError as error:
        raise _bad_text(event, "a text of whole Unicode characters") from error
    if len(data) > MAX_SEALED:
        raise EventTooLarge(
            "event", f"{len(data)} bytes", f"at most {MAX_SEALED} bytes when sealed"
        )
    whole = b"".join((data, *disclosures))
    if len(whole) > MAX_VALUE and (longest := max(map(len, disclosures), default=0)) > MAX_VALUE:
        raise EventTooLarge("value", f"{longest} bytes", f"at most {MAX_VALUE} bytes")
    # The escape is rare, and a text may hold its six characters literally: look
    # closer only when they are there.
    if b"\\u0000" in whole and any("\0" in text for _, text in _texts(event)):
        raise _bad_text(event, "a text without NUL")
    actor, resource = event.actor, event.resource
    return Sealed(
        event=data,
        clear=clear,
        actor=None if actor.id is None else f"{actor.type}:{actor.id}",
        resource=f"{resource.type}:{resource.id}",
        values=tuple(values),
        disclosures=tuple(disclosures),
        leaves=tuple(leaves),
        commitment=commitment,
    )


def unseal(data: bytes) -> Clear:
    """
    Read a sealed event.

    Raises:
        Malformed: These are not a sealed event's exact bytes.
    """
    try:
        clear = _decode(data)
    except (msgspec.MsgspecError, InvalidEvent, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"event: {error}") from error
    if _encode(clear) != data:
        raise Malformed(f"event {clear.id}: not in the exact form")
    if (clear.commitment is None) == bool(clear.committed):
        raise Malformed(f"event {clear.id}: found paths without a commitment, or one without them")
    if clear.commitment is not None and not is_hash(clear.commitment):
        raise Malformed(f"event {clear.id}: found a commitment that is no hash")
    return clear


_decode = msgspec.json.Decoder(Clear).decode


def _taken_apart(
    event: Event, ruling: Ruling | None, policy: Policy | None
) -> tuple[Clear, list[Value]]:
    """Return what stays in clear of *event*, and the values that do not."""
    actor, resource = event.actor, event.resource
    clear = Clear(
        id=event.id,
        schema=event.schema,
        kind=event.kind,
        occurred_at=event.occurred_at,
        action=event.action,
        outcome=event.outcome,
        reason=event.reason,
        actor=ClearActor(
            actor.type, actor.id, actor.name, actor.roles, actor.on_behalf_of, actor.asserted
        ),
        resource=ClearResource(resource.type, resource.id, resource.name),
        changes=event.changes,
        data=event.data,
        rationale=event.rationale,
        session=event.session,
        request=event.request,
        client=event.client,
        trace=event.trace,
        service=event.service,
        tenant=event.tenant,
    )
    if (approval := event.approval) is not None:
        clear.approval = ClearApproval(
            approval.n, approval.distinct, approval.approvers, approval.reference
        )
    if (source := event.source) is not None:
        clear.source = ClearSource(source.format, source.id)
    if ruling is None or policy is None:
        return clear, []
    if ruling.require:
        _check_required(event, ruling)
    clear.policy, clear.rule = ruling.policy, ruling.rule
    if ruling.level is not Level.FULL:
        clear.data = None
        if ruling.level is not Level.CHANGES:
            clear.changes = None
    return clear, _Taking(clear, policy).values


class _Taking:
    """Takes out of *clear* what the policy does not leave there, in the order of the fields."""

    __slots__ = ("_clear", "_rules", "values")

    def __init__(self, clear: Clear, policy: Policy) -> None:  # noqa: C901, PLR0912 - a line a field, on the hot path
        self._clear = clear
        self._rules = policy.classification(clear.actor.type, clear.resource.type)
        self.values: list[Value] = []
        take = self._take
        if clear.reason is not None and take("/reason", clear.reason):
            clear.reason = None
        actor = clear.actor
        if actor.id is not None and take("/actor/id", actor.id):
            actor.id = None
        if actor.name is not None and take("/actor/name", actor.name):
            actor.name = None
        if actor.on_behalf_of is not None and take("/actor/on_behalf_of", actor.on_behalf_of):
            actor.on_behalf_of = None
        resource = clear.resource
        if resource.id is not None and take("/resource/id", resource.id):
            resource.id = None
        if resource.name is not None and take("/resource/name", resource.name):
            resource.name = None
        if clear.changes is not None:
            clear.changes = self._take_below("/changes", clear.changes)
        if clear.data is not None:
            clear.data = self._take_below("/data", clear.data)
        if clear.rationale is not None and take("/rationale", clear.rationale):
            clear.rationale = None
        if clear.session is not None and take("/session", clear.session):
            clear.session = None
        if clear.request is not None and take("/request", clear.request):
            clear.request = None
        if (client := clear.client) is not None:
            ip, agent = client.ip, client.user_agent
            if ip is not None and take("/client/ip", ip):
                ip = None
            if agent is not None and take("/client/user_agent", agent):
                agent = None
            if ip is not client.ip or agent is not client.user_agent:
                some = ip is not None or agent is not None
                clear.client = Client(ip=ip, user_agent=agent) if some else None
        if clear.tenant is not None and take("/tenant", clear.tenant):
            clear.tenant = None
        if (approval := clear.approval) is not None:
            if approval.approvers and take("/approval/approvers", approval.approvers):
                approval.approvers = ()
            if approval.reference is not None and take("/approval/reference", approval.reference):
                approval.reference = None
        if (source := clear.source) is not None and take("/source/id", source.id):
            source.id = None

    def _take(self, path: str, value: object) -> bool:
        """Tell whether the value at *path* leaves, and keep it if it is to be committed."""
        rule = self._rules[path]
        if rule.class_ is _PUBLIC:
            if path not in NETTED or not _looks_secret(path, value):
                return False
            # The net: better a value in the vault that might have been public than a
            # secret in a log that never forgets.
            rule = _CAUGHT
            self._clear.caught += (path,)
        if rule.class_ is _SECRET:
            self._clear.dropped += (path,)
            if rule.fingerprint:
                self.values.append(Value(path=path, value=value, rule=rule))
            return True
        self.values.append(Value(path=path, value=value, rule=rule))
        return True

    def _take_below(self, container: str, given: dict[str, Any]) -> dict[str, Any] | None:
        rules = self._rules
        kept: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        whole = rules[container]
        for name, value in given.items():
            path, rule = rules.below(container, name)
            if path == container and rule.class_ is not _PUBLIC:
                rest[name] = value
                continue
            if rule.class_ is _PUBLIC:
                # What looks like a secret has a path of its own only where its name is
                # declared; else it goes with what stays together.
                if not _looks_secret(name, value):
                    kept[name] = value
                    continue
                self._clear.caught += (path,) if path not in self._clear.caught else ()
                if path == container:
                    rest[name] = value
                    continue
                rule = _CAUGHT
            if rule.class_ is _SECRET:
                self._clear.dropped += (path,)
                if not rule.fingerprint:
                    continue
            self.values.append(Value(path=path, value=value, rule=rule))
        if rest:
            if whole.class_ is _SECRET:
                self._clear.dropped += (container,)
            else:
                rule = _CAUGHT if whole.class_ is _PUBLIC else whole
                self.values.append(Value(path=container, value=rest, rule=rule))
        return kept or (given if not given else None)


def _fingerprinted(
    values: list[Value], fingerprint: Callable[[str, object], str] | None
) -> list[Value]:
    """Put fingerprints in the place of secrets; without a way to make them, nothing."""
    found = []
    for each in values:
        if each.rule is None or each.rule.class_ is not FieldClass.SECRET:
            found.append(each)
        elif fingerprint is not None:
            found.append(Value(path=each.path, value=_prints(each, fingerprint), rule=each.rule))
    return found


def _prints(value: Value, fingerprint: Callable[[str, object], str]) -> object:
    secret = value.value
    if isinstance(secret, Change):
        return Change(
            *(
                side if side is UNSET or side is None else fingerprint(value.path, side)
                for side in (secret.old, secret.new)
            )
        )
    return fingerprint(value.path, secret)


NETTED = frozenset(
    {
        "/reason",
        "/resource/id",
        "/resource/name",
        "/rationale",
        "/session",
        "/request",
        "/client/user_agent",
        "/tenant",
        "/source/id",
    }
)
"""
Fixed fields that an application fills with whatever it has: what looks like a secret there
is personal, whatever the policy says.
"""

_CAUGHT = FieldRule(class_=FieldClass.PERSONAL, search="exact")
"""Of whatever was caught: it is found by its whole text, wherever it stood."""

# Until Python 3.12 an enum finds its members in code of its own: too dear for each value.
_PUBLIC, _SECRET = FieldClass.PUBLIC, FieldClass.SECRET


def _looks_secret(name: str, value: object) -> bool:
    """Tell whether there is something in *value* that the net catches."""
    # What most events have is taken apart here: the net walks through anything, slowly.
    if type(value) is Change:
        old, new = value.old, value.new
        return (old is not UNSET and find_secret(name, old) is not None) or (
            new is not UNSET and find_secret(name, new) is not None
        )
    if type(value) is Rationale:
        code, reference = value.code, value.reference
        return (
            find_secret("text", value.text) is not None
            or (code is not None and find_secret("code", code) is not None)
            or (reference is not None and find_secret("reference", reference) is not None)
        )
    return find_secret(name, value) is not None


def _check_required(event: Event, ruling: Ruling) -> None:
    for name in sorted(ruling.require):
        if getattr(event, name, None) is None:
            raise InvalidEvent(name, None, f"one, as rule {ruling.rule!r} of the policy requires")


def _bad_text(event: Event, expected: str) -> InvalidEvent:
    for path, text in _texts(event):
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            return InvalidEvent(path, text, expected)
    raise AssertionError("unreachable")  # pragma: no cover


def _texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text below *value*, keys included, with its path."""
    if isinstance(value, str):
        yield path or "event", value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _texts(getattr(value, field), f"{path}.{field}" if path else field)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", key
            yield from _texts(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{path}.{number}")
