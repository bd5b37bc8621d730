"""
What happened, as typed values: an `Event` and its parts.

Values are frozen and keyword-only; what is wrong cannot be built. Everything
here is what the application knows. Where an event is put (stream, index) and
when it arrived there (``recorded_at``) is the log's business.

The order of the fields is the order of the keys in the sealed bytes, see
`indelible.seal`. Absent optional fields are absent there, not null.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from base64 import b64encode
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from indelible.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ActorType = Literal["user", "service", "system", "anonymous", "unknown"]
Kind = Literal["authentication", "data_change", "permission_change", "administration"]

MAX_NESTING = 64
"""How deep the values of an event may be nested."""

_ACTOR_TYPES = frozenset(get_args(ActorType))
_KINDS = frozenset(get_args(Kind))
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\Z")
_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z").match
_MAX_NAME = 200
_MAX_ID = 1_000
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"
    UNKNOWN = "unknown"


class Actor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Who did it, written ``user:alice``.

    Attributes:
        asserted: A message of another process says so, and nothing here has proven it.

    Raises:
        InvalidEvent: The type is none of `ActorType`, or the id is missing for
            a type that needs one.
    """

    type: ActorType
    id: str | None = None
    name: str | None = None
    roles: tuple[str, ...] = ()
    on_behalf_of: Actor | None = None
    asserted: bool = False

    def __post_init__(self) -> None:
        kind: object = self.type  # a caller may not have checked its types
        if type(kind) is not str or kind not in _ACTOR_TYPES:
            raise InvalidEvent("actor.type", self.type, f"one of {', '.join(get_args(ActorType))}")
        if self.id is not None or self.type in ("user", "service"):
            check_text("actor.id", self.id, _MAX_ID)
        _check_optional_text("actor.name", self.name)
        if type(self.roles) is not tuple or not all(type(role) is str for role in self.roles):
            raise InvalidEvent("actor.roles", self.roles, "a tuple of strings")
        if self.on_behalf_of is not None:
            _check_chain(self.on_behalf_of)
        if type(self.asserted) is not bool:
            raise InvalidEvent("actor.asserted", self.asserted, "true or false")

    def __str__(self) -> str:
        return self.type if self.id is None else f"{self.type}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Actor:
        """
        Read ``type:id``, or the type alone where it needs no id.

        Raises:
            InvalidEvent: It is neither.
        """
        return _parse_actor(_str("actor", text, "TYPE:ID such as user:alice, or an Actor"))


class Resource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What it was done to, written ``invoice:INV-7``.

    Raises:
        InvalidEvent: Type or id is missing or not a string.
    """

    type: str
    id: str
    name: str | None = None

    def __post_init__(self) -> None:
        check_text("resource.type", self.type, _MAX_NAME)
        if not _TYPE.match(self.type):
            raise InvalidEvent("resource.type", self.type, "letters, digits, '_', '-' and '.'")
        check_text("resource.id", self.id, _MAX_ID)
        _check_optional_text("resource.name", self.name)

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Resource:
        """
        Read ``type:id``; the id may hold further colons.

        Raises:
            InvalidEvent: There is no type or no id.
        """
        return _parse_resource(
            _str("resource", text, "TYPE:ID such as invoice:INV-7, or a Resource")
        )


class Change(msgspec.Struct, frozen=True):
    """
    One field's old and new value; the one that is absent did not exist.

    Both are JSON values after `plain`.
    """

    old: Any = UNSET
    new: Any = UNSET


class Rationale(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why, in the actor's words, with a code and a reference such as a ticket."""

    text: str
    code: str | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        check_text("rationale.text", self.text, None)
        _check_optional_text("rationale.code", self.code)
        _check_optional_text("rationale.reference", self.reference)


class Client(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the actor's request came from, as far as the application trusts it."""

    ip: str | None = None
    user_agent: str | None = None

    def __post_init__(self) -> None:
        _check_optional_text("client.ip", self.ip)
        _check_optional_text("client.user_agent", self.user_agent)


class Trace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The W3C trace and span that the event happened in."""

    trace_id: str
    span_id: str | None = None

    def __post_init__(self) -> None:
        check_text("trace.trace_id", self.trace_id, _MAX_NAME)
        _check_optional_text("trace.span_id", self.span_id)


class Service(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The program that recorded the event."""

    name: str
    version: str | None = None

    def __post_init__(self) -> None:
        check_text("service.name", self.name, _MAX_NAME)
        _check_optional_text("service.version", self.version)


class Approval(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Who consented beforehand.

    ``n`` and ``distinct`` outlive an erasure of the approvers' identities.
    """

    n: int
    distinct: bool
    approvers: tuple[str, ...] = ()
    reference: str | None = None

    def __post_init__(self) -> None:
        if type(self.n) is not int or not 1 <= self.n <= _INT_MAX:
            raise InvalidEvent("approval.n", self.n, "a number of approvers from 1, of 64 bits")
        if type(self.distinct) is not bool:
            raise InvalidEvent("approval.distinct", self.distinct, "true or false")
        if type(self.approvers) is not tuple or not all(
            type(approver) is str for approver in self.approvers
        ):
            raise InvalidEvent("approval.approvers", self.approvers, "a tuple of strings")
        _check_optional_text("approval.reference", self.reference)

    @classmethod
    def by(cls, *approvers: str, reference: str | None = None) -> Approval:
        """
        Name the *approvers*, as ``user:bob``.

        Raises:
            InvalidEvent: There are none, or one is not a string.
        """
        return cls(
            n=len(approvers),
            # Not of a set: what cannot be hashed is refused below, by its type.
            distinct=all(who not in approvers[:place] for place, who in enumerate(approvers)),
            approvers=approvers,
            reference=reference,
        )


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where an imported event comes from, and its id there."""

    format: str
    id: str

    def __post_init__(self) -> None:
        check_text("source.format", self.format, _MAX_NAME)
        check_text("source.id", self.id, _MAX_ID)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Something that happened.

    Args:
        id: A UUIDv7 in lower-case text.
        occurred_at: The actor's clock, with a time zone; kept in UTC.
        action: What was done, dotted: ``invoice.approve``.
        reason: Why it failed or was denied (why it was done is the *rationale*).
        changes: Per field, its old and its new value.
        data: Further facts of the application: a msgspec, pydantic or
            dataclass model, or a dictionary.

    Raises:
        InvalidEvent: A field is missing or wrong; it says which, what was found
            and what is expected.
    """

    id: str = msgspec.field(default_factory=lambda: uuid7(time_ns(), os.urandom(10)))
    schema: str | None = None
    kind: Kind | None = None
    occurred_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    action: str
    outcome: Outcome
    reason: str | None = None
    actor: Actor
    resource: Resource
    changes: dict[str, Change] | None = None
    data: Any = None
    rationale: Rationale | None = None
    session: str | None = None
    request: str | None = None
    client: Client | None = None
    trace: Trace | None = None
    service: Service | None = None
    tenant: str | None = None
    approval: Approval | None = None
    source: Source | None = None

    def __post_init__(self) -> None:  # noqa: C901, PLR0912 - a line a field, on the hot path
        if type(self.id) is not str or not _UUID7(self.id):
            raise InvalidEvent("id", self.id, "a UUIDv7 in lower case")
        if type(self.action) is not str or self.action not in _known_actions:
            check_action(self.action)
        if type(self.outcome) is not Outcome:
            raise InvalidEvent("outcome", self.outcome, "an Outcome")
        if type(self.actor) is not Actor:
            raise InvalidEvent("actor", self.actor, "an Actor")
        if type(self.resource) is not Resource:
            raise InvalidEvent("resource", self.resource, "a Resource")
        if type(self.occurred_at) is not datetime:
            raise InvalidEvent("occurred_at", self.occurred_at, "a datetime with a time zone")
        if self.occurred_at.tzinfo is not UTC:
            msgspec.structs.force_setattr(self, "occurred_at", _utc(self.occurred_at))
        if self.changes is not None:
            _check_changes(self.changes)
        if self.data is not None:
            msgspec.structs.force_setattr(self, "data", _plain_data(self.data))
        if self.rationale is not None and type(self.rationale) is not Rationale:
            raise InvalidEvent("rationale", self.rationale, "a Rationale")
        if self.session is not None:
            check_text("session", self.session, _MAX_ID)
        if self.request is not None:
            check_text("request", self.request, _MAX_ID)
        if self.client is not None and type(self.client) is not Client:
            raise InvalidEvent("client", self.client, "a Client")
        if self.trace is not None and type(self.trace) is not Trace:
            raise InvalidEvent("trace", self.trace, "a Trace")
        if self.service is not None and type(self.service) is not Service:
            raise InvalidEvent("service", self.service, "a Service")
        if self.tenant is not None:
            check_text("tenant", self.tenant, _MAX_ID)
        if self.approval is not None and type(self.approval) is not Approval:
            raise InvalidEvent("approval", self.approval, "an Approval")
        if self.source is not None and type(self.source) is not Source:
            raise InvalidEvent("source", self.source, "a Source")
        kind: object = self.kind
        if kind is not None and (type(kind) is not str or kind not in _KINDS):
            raise InvalidEvent("kind", kind, f"one of {', '.join(get_args(Kind))}")
        if self.schema is not None:
            check_text("schema", self.schema, _MAX_NAME)
        if self.reason is not None:
            check_text("reason", self.reason, None)

    @classmethod
    def authentication(
        cls,
        actor: Actor | str,
        *,
        action: str = "auth.login",
        outcome: Outcome | str = Outcome.SUCCESS,
        method: str | None = None,
        reason: str | None = None,
        **fields: Any,
    ) -> Event:
        """
        Build the event of an authentication attempt: login, logout, a second factor.

        The account that was tried is both actor and resource, since an attempt
        that failed proves nothing about who made it.

        Raises:
            InvalidEvent: A field is missing or wrong.
        """
        who = actor if isinstance(actor, Actor) else Actor.parse(actor)
        if method is not None:
            data = fields.get("data")
            fields["data"] = {"method": method, **({} if data is None else _plain_data(data))}
        fields.setdefault("resource", Resource(type=who.type, id=who.id or who.type))
        return cls(
            kind="authentication",
            action=action,
            outcome=parse_outcome(outcome),
            actor=who,
            reason=reason,
            **_typed(fields),
        )

    @classmethod
    def data_change(
        cls,
        actor: Actor | str,
        verb: str,
        resource: Resource | str,
        changes: Mapping[str, Change | tuple[object, object]],
        *,
        outcome: Outcome | str = Outcome.SUCCESS,
        **fields: Any,
    ) -> Event:
        """
        Build the event of a change to business data; its action is ``<resource type>.<verb>``.

        Raises:
            InvalidEvent: A field is missing or wrong.
        """
        what = resource if isinstance(resource, Resource) else Resource.parse(resource)
        return cls(
            kind="data_change",
            action=f"{what.type}.{verb}",
            outcome=parse_outcome(outcome),
            actor=actor if isinstance(actor, Actor) else Actor.parse(actor),
            resource=what,
            changes=parse_changes(changes),
            **_typed(fields),
        )

    @classmethod
    def permission_change(
        cls,
        actor: Actor | str,
        resource: Resource | str,
        *,
        granted: Iterable[str] = (),
        revoked: Iterable[str] = (),
        action: str | None = None,
        outcome: Outcome | str = Outcome.SUCCESS,
        **fields: Any,
    ) -> Event:
        """
        Build the event of granting or revoking permissions or roles to *resource*.

        Raises:
            InvalidEvent: A field is missing or wrong, or nothing is granted or revoked.
        """
        gained, lost = _names("granted", granted), _names("revoked", revoked)
        if not gained and not lost:
            raise InvalidEvent("granted", gained, "something granted or revoked")
        if action is None:
            action = "role.change" if gained and lost else "role.grant" if gained else "role.revoke"
        return cls(
            kind="permission_change",
            action=action,
            outcome=parse_outcome(outcome),
            actor=actor if isinstance(actor, Actor) else Actor.parse(actor),
            resource=resource if isinstance(resource, Resource) else Resource.parse(resource),
            changes={
                role: Change(old=role in lost, new=role in gained)
                for role in dict.fromkeys(lost + gained)
            },
            **_typed(fields),
        )

    @classmethod
    def administration(
        cls,
        actor: Actor | str,
        action: str,
        resource: Resource | str,
        rationale: Rationale | str,
        *,
        outcome: Outcome | str = Outcome.SUCCESS,
        changes: Mapping[str, Change | tuple[object, object]] | None = None,
        **fields: Any,
    ) -> Event:
        """
        Build the event of an administrator's action; it always says why.

        Raises:
            InvalidEvent: A field is missing or wrong.
        """
        return cls(
            kind="administration",
            action=action,
            outcome=parse_outcome(outcome),
            actor=actor if isinstance(actor, Actor) else Actor.parse(actor),
            resource=resource if isinstance(resource, Resource) else Resource.parse(resource),
            rationale=parse_rationale(rationale),
            changes=None if changes is None else parse_changes(changes),
            **_typed(fields),
        )


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """Let texts stand for a rationale, a client's address and a trace id."""
    if isinstance(text := fields.get("rationale"), str):
        fields["rationale"] = Rationale(text=text)
    if isinstance(text := fields.get("client"), str):
        fields["client"] = Client(ip=text)
    if isinstance(text := fields.get("trace"), str):
        fields["trace"] = Trace(trace_id=text)
    return fields


def uuid7(unix_ns: int, randomness: bytes) -> str:
    """
    Build a UUIDv7 (RFC 9562) from a time in nanoseconds and 10 random bytes.

    The 12 bits after the milliseconds carry the fraction of the millisecond, so
    that ids of one process sort by time (RFC 9562, method 3).
    """
    milliseconds, rest = divmod(unix_ns, 1_000_000)
    number = int.from_bytes(randomness[:8], "big") & 0x3FFFFFFFFFFFFFFF | 0x8000000000000000
    number |= (milliseconds << 16 | 0x7000 | (rest << 12) // 1_000_000) << 64
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_time(event_id: str) -> int:
    """Return the milliseconds since 1970 that a UUIDv7 carries."""
    return int(event_id[:8] + event_id[9:13], 16)


def check_action(action: str) -> None:
    """
    Check that *action* is a dotted name.

    Raises:
        InvalidEvent: It is not.
    """
    # A set of the names seen spares the pattern; bounded, since a caller may
    # make names up without end.
    check_text("action", action, _MAX_NAME)
    if not _NAME.match(action):
        raise InvalidEvent("action", action, "a dotted name such as invoice.approve")
    if len(_known_actions) < 10_000:  # noqa: PLR2004
        _known_actions.add(action)


_known_actions: set[str] = set()


def parse_outcome(value: Outcome | str) -> Outcome:
    """
    Return the `Outcome` that *value* names.

    Raises:
        InvalidEvent: There is none.
    """
    if type(value) is Outcome:
        return value
    try:
        return Outcome(value)
    except ValueError:
        raise InvalidEvent("outcome", value, f"one of {', '.join(Outcome)}") from None


def parse_changes(changes: Mapping[str, Change | tuple[object, object]]) -> dict[str, Change]:
    """
    Return *changes* with each ``(old, new)`` made a `Change` of plain JSON values.

    Raises:
        InvalidEvent: Something else than a mapping to pairs, or a value that
            JSON cannot carry exactly.
    """
    try:
        items = changes.items()
    except AttributeError:
        raise InvalidEvent("changes", changes, "a mapping of field to (old, new)") from None
    parsed: dict[str, Change] = {}
    for field, change in items:
        if not isinstance(field, str):
            raise InvalidEvent("changes", field, "fields named by strings")
        if type(change) is Change:
            old, new = change.old, change.new
        elif isinstance(change, (tuple, list)) and len(change) == 2:  # noqa: PLR2004
            old, new = change
        else:
            raise InvalidEvent(f"changes.{field}", change, "a Change or a pair (old, new)")
        parsed[str.__str__(field)] = Change(
            old if old is UNSET else plain(old, "changes", field),
            new if new is UNSET else plain(new, "changes", field),
        )
    return parsed


def parse_rationale(rationale: Rationale | str) -> Rationale:
    """
    Return *rationale* as a `Rationale`.

    Raises:
        InvalidEvent: It is neither a text nor a `Rationale`.
    """
    if isinstance(rationale, Rationale):
        return rationale
    return Rationale(text=_str("rationale", rationale, "a text or a Rationale"))


def plain(value: object, *path: str, depth: int = 0) -> Any:  # noqa: ANN401, C901 - any JSON
    """
    Return *value* as JSON carries it exactly, or refuse it.

    Times, dates, UUIDs and decimals become text, bytes become base64; models
    (msgspec, pydantic, dataclass) become objects.

    Raises:
        InvalidEvent: NaN, Infinity, an integer over 64 bits, a naive time, keys
            that are not strings, nesting over `MAX_NESTING`, or a type that JSON
            has no word for.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            raise InvalidEvent(".".join(path), value, "an integer of at most 64 bits")
        return value
    if kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise InvalidEvent(".".join(path), value, "a finite number")
        return value
    if depth >= MAX_NESTING:
        raise InvalidEvent(".".join(path[:4]), kind.__name__, f"nesting of at most {MAX_NESTING}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidEvent(".".join(path), key, "keys that are strings")
        # Not str(): a subclass, an Enum of strings say, may answer with something else.
        return {
            str.__str__(key): plain(item, *path, key, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [plain(item, *path, str(n), depth=depth + 1) for n, item in enumerate(items)]
    return _plain_object(value, path, depth)


def _plain_object(value: object, path: tuple[str, ...], depth: int) -> Any:  # noqa: ANN401, C901, PLR0911 - any JSON
    if isinstance(value, Enum):
        return plain(value.value, *path, depth=depth + 1)
    if isinstance(value, datetime):
        return _utc(value, ".".join(path)).isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return plain(value.total_seconds(), *path, depth=depth + 1)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidEvent(".".join(path), value, "a finite number")
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(value).decode("ascii")
    if isinstance(value, (str, int, float)):  # subclasses
        base = next(base for base in (str, int, float) if isinstance(value, base))
        return plain(base(value), *path, depth=depth + 1)
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value)
        return plain(
            {key: item for key, item in fields.items() if item is not UNSET},
            *path,
            depth=depth + 1,
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain(fields, *path, depth=depth + 1)
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return plain(dump(), *path, depth=depth + 1)
    raise InvalidEvent(".".join(path), value, "a value that JSON can carry")


def _plain_data(data: object) -> dict[str, Any]:
    value = plain(data, "data")
    if not isinstance(value, dict):
        raise InvalidEvent("data", data, "a msgspec, pydantic or dataclass model, or a dictionary")
    return value


def _check_changes(changes: object) -> None:
    if type(changes) is not dict:
        raise InvalidEvent("changes", changes, "a dictionary of field to Change")
    for field, change in changes.items():
        if type(field) is not str or not field:
            raise InvalidEvent("changes", field, "fields named by strings")
        if type(change) is not Change:
            raise InvalidEvent(f"changes.{field}", change, "a Change")
        for value in (change.old, change.new):
            # `plain` has nothing to change in what `parse_changes` made; it is
            # here for events that are built by hand or read back.
            kind = type(value)
            if kind in _EXACT or (kind is float and math.isfinite(value)):
                continue
            if plain(value, "changes", field) != value or not _is_plain(value):
                raise InvalidEvent(f"changes.{field}", value, "a plain JSON value")


_EXACT = frozenset((str, bool, type(None), UnsetType))


def _is_plain(value: object) -> bool:
    # Only these very types: a subclass equals what JSON can carry, and is not encoded.
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) in _EXACT or type(value) in (int, float)


def _names(field: str, names: Iterable[str]) -> tuple[str, ...]:
    expected = "names of roles or permissions"
    if isinstance(names, str):  # whose characters would each become a name
        raise InvalidEvent(field, names, expected)
    try:
        found = tuple(names)
    except TypeError:
        raise InvalidEvent(field, names, expected) from None
    if not all(type(name) is str and name for name in found):
        raise InvalidEvent(field, found, expected)
    return found


def check_text(field: str, value: object, most: int | None = _MAX_ID) -> None:
    """
    Check that *value* is a text that is not empty, of at most that many characters.

    Raises:
        InvalidEvent: It is not.
    """
    if type(value) is not str:
        raise InvalidEvent(field, value, "a text")
    if not value:
        raise InvalidEvent(field, value, "a text that is not empty")
    if most is not None and len(value) > most:
        raise InvalidEvent(field, value, f"at most {most} characters")


def _check_optional_text(field: str, value: object) -> None:
    if value is not None:
        check_text(field, value, _MAX_ID)


def _str(field: str, value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(field, value, expected)
    return value


def _check_chain(actor: object) -> None:
    for _ in range(MAX_NESTING):
        if type(actor) is not Actor:
            raise InvalidEvent("actor.on_behalf_of", actor, "an Actor")
        if actor.on_behalf_of is None:
            return
        actor = actor.on_behalf_of
    raise InvalidEvent("actor.on_behalf_of", actor, f"a chain of at most {MAX_NESTING} actors")


def _utc(moment: datetime, field: str = "occurred_at") -> datetime:
    if moment.utcoffset() is None:  # with or without a tzinfo that knows none
        raise InvalidEvent(field, moment, "a time with a time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(field, moment, "a time in the years 1 to 9999 in UTC") from None


# The same actors and resources come again and again; frozen values can be shared.
@lru_cache(maxsize=8192)
def _parse_actor(text: str) -> Actor:
    kind, colon, identity = text.partition(":")
    if kind not in _ACTOR_TYPES or (colon and not identity):
        raise InvalidEvent("actor", text, "TYPE:ID such as user:alice")
    return Actor(type=kind, id=identity or None)  # type: ignore[arg-type]


@lru_cache(maxsize=8192)
def _parse_resource(text: str) -> Resource:
    kind, _, identity = text.partition(":")
    if not kind or not identity:
        raise InvalidEvent("resource", text, "TYPE:ID such as invoice:INV-7")
    return Resource(type=kind, id=identity)
