"""
Policy: which events are captured, how classified, where routed, how long kept, who sees what.

A policy is a value. It decides, and does nothing: `Policy.rule_on` says of an event
which stream it belongs to and how much of it is kept, `Policy.field` how one field of
it is classified. Ordered rules, the first that matches decides; of field patterns the
most specific. `indelible.document` reads one from its TOML text.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property, lru_cache
from hashlib import sha256
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import msgspec

from indelible.errors import UnknownStream
from indelible.event import Kind, Outcome  # noqa: TC001 - msgspec reads the types at run time
from indelible.fields import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.event import Event

OnFailure = Literal["refuse", "continue"]
Subject = Literal["actor", "resource"]

CUSTODY = "custody"
"""The stream in which the trail writes about itself."""

OWNER = "owner"
"""The role of the application's own process, which holds every key."""


class Level(StrEnum):
    """How much of an event is kept."""

    NONE = "none"
    """Nothing: it is not captured, and the policy that its neighbours name says so."""
    METADATA = "metadata"
    """Who did what to which resource and why, without `changes` and `data`."""
    CHANGES = "changes"
    """That and old and new values, without `data`."""
    FULL = "full"
    """Everything."""


class FieldClass(StrEnum):
    """What a field of an event is, and so how it is kept."""

    PUBLIC = "public"
    """In clear in the entry, for ever."""
    INTERNAL = "internal"
    """Committed; the value lies in the vault."""
    ACCOUNTABLE = "accountable"
    """Committed; erasable only after its floor."""
    PERSONAL = "personal"
    """Committed; erasable."""
    SECRET = "secret"  # noqa: S105 - the name of a class
    """Dropped: only that it changed is kept."""


COMMITTED = (FieldClass.INTERNAL, FieldClass.ACCOUNTABLE, FieldClass.PERSONAL)
"""The classes whose values lie in the vault."""


class Sight(StrEnum):
    """What a role sees of the values of a class."""

    PLAIN = "plain"
    MASKED = "masked"
    """That there is a value; or a pseudonym, where the reader works on a case."""
    GRANT = "grant"
    """Nothing without a time-bounded grant."""
    HIDE = "hide"


class FieldRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How the fields that a pattern matches are classified.

    Attributes:
        subject: Whose value it is: that of the event's actor or of its resource.
        search: ``exact`` to find entries by the whole value, ``prefix`` for an address
            by its network (/24, /48) as well.
        floor, ceiling: How long at least and at most, instead of the stream's.
        fingerprint: Of a secret: keep a keyed fingerprint, so that two can be compared.
    """

    class_: FieldClass = msgspec.field(name="class")
    subject: Subject | None = None
    search: Literal["exact", "prefix"] | None = None
    floor: str | None = None
    ceiling: str | None = None
    fingerprint: bool = False
    why: str | None = None


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A part of the trail.

    Attributes:
        retention: Name of the retention of its entries; for ever without one.
        on_failure: ``refuse`` (`record` raises, the action should not happen) or
            ``continue`` (it is counted, and named in the custody stream as soon as
            writing works again).
        require: Fields without which an event is refused, such as ``rationale``.
        sinks: What it is also sent to.
    """

    retention: str | None = None
    on_failure: OnFailure = "refuse"
    require: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long entries are kept: at least the floor, at most the ceiling."""

    floor: str | None = None
    ceiling: str | None = None
    worm: bool = False


class Approvals(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """
    Whose consent is needed.

    Attributes:
        n: How many distinct people.
        from_: Their roles or names. ``owner`` is whoever holds the trail's own keys:
            that is self-approved, and every report says so.
        valid: How long an approval can be used.
        cooling_off: How long after the plan it may be carried out at the earliest.
    """

    n: int = 1
    from_: tuple[str, ...] = (OWNER,)
    valid: str = "7d"
    cooling_off: str | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What happens to the events that match; a part that is not given matches everything.

    Attributes:
        name: What entries call it; by default its *action*.
        action: ``invoice.approve``, or ``invoice.*`` for all that begins so.
        resource: Types of resources.
        actor: Types of actors.
        actor_roles: An actor has one of these roles.
        expect: How often such an event is expected, ``1/h``; silence raises an alarm.
    """

    name: str | None = None
    action: str | None = None
    resource: tuple[str, ...] = ()
    actor: tuple[str, ...] = ()
    actor_roles: tuple[str, ...] = ()
    outcome: tuple[Outcome, ...] = ()
    kinds: tuple[Kind, ...] = ()
    level: Level = Level.FULL
    stream: str = "user"
    require: tuple[str, ...] = ()
    why: str | None = None
    controls: tuple[str, ...] = ()
    approvals: Approvals | None = None
    approved_by: tuple[str, ...] = ()
    expect: str | None = None

    @property
    def label(self) -> str:
        """What entries call it."""
        return self.name or self.action or "*"

    @property
    def matches_all(self) -> bool:
        """Whether every event is one of those this rule is for."""
        return self.action in (None, "*") and not (
            self.resource or self.actor or self.actor_roles or self.outcome or self.kinds
        )

    def matches(self, event: Event) -> bool:
        """Tell whether *event* is one of those this rule is for."""
        return (
            (self.action is None or matches_action(self.action, event.action))
            and (not self.resource or event.resource.type in self.resource)
            and (not self.actor or event.actor.type in self.actor)
            and (not self.actor_roles or not set(self.actor_roles).isdisjoint(event.actor.roles))
            and (not self.outcome or event.outcome in self.outcome)
            and (not self.kinds or event.kind in self.kinds)
        )


class Person(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who approves: a name, a verifier key in text (Ed25519), and roles."""

    name: str
    key: str
    roles: tuple[str, ...] = ()


class BreakGlass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Who may open values in an emergency before anybody has approved.

    Attributes:
        max: For how long.
        who, alert: Roles or names: of whoever may, and of whoever is told at once.
        review: Within what time it is looked at afterwards.
    """

    max: str
    who: tuple[str, ...]
    alert: tuple[str, ...] = ()
    review: str | None = None


class Governance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Whose approval each kind of intervention needs.

    Attributes:
        grants: `Approvals.valid` is how long a grant lasts at most.
        purpose: Whether whoever asks for a grant must say what for.
    """

    erasure: Approvals = Approvals()
    purge: Approvals | None = None
    loosening: Approvals = Approvals()
    grants: Approvals = Approvals(valid="8h")
    purpose: Literal["required", "optional"] = "optional"
    break_glass: BreakGlass | None = None


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a policy says of one event.

    Attributes:
        policy: The policy as entries name it: ``shop/7#3f9a02c1``.
        rule: The rule as entries name it.
        require: Fields without which the event is refused.
    """

    policy: str
    rule: str
    stream: str
    level: Level
    require: frozenset[str] = frozenset()


_HIDDEN = dict.fromkeys(COMMITTED, Sight.HIDE)

ROLES: dict[str, dict[FieldClass, Sight]] = {
    OWNER: dict.fromkeys(COMMITTED, Sight.PLAIN),
    "reader": {**_HIDDEN, FieldClass.ACCOUNTABLE: Sight.MASKED},
    "auditor": {**dict.fromkeys(COMMITTED, Sight.PLAIN), FieldClass.PERSONAL: Sight.GRANT},
    "privacy_officer": dict.fromkeys(COMMITTED, Sight.PLAIN),
    "operator": _HIDDEN,
}
"""What each role sees where a policy does not say it; public values are seen by all."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    One version of a policy.

    Attributes:
        text: The exact bytes of the document, over which the digest goes.
        streams: By name; `CUSTODY` is there without being named.
        rules: Tried in this order; what none matches goes to the stream ``user``.
        fields: By pattern, see `Policy.field`.
        roles: What each role sees of each class, besides `ROLES`.
    """

    id: str = "default"
    version: int = 1
    owner: str | None = None
    supersedes: str | None = None
    text: bytes = b""
    streams: dict[str, Stream]
    retention: dict[str, Retention] = {}
    rules: tuple[Rule, ...]
    fields: dict[str, FieldRule] = {}
    people: dict[str, Person] = {}
    roles: dict[str, dict[FieldClass, Sight]] = {}
    governance: Governance = Governance()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the document; of a policy without one, of its parts."""
        return sha256(self.text or msgspec.json.encode(self, order="deterministic")).digest()

    @cached_property
    def label(self) -> str:
        """How entries name it: ``shop/7#3f9a02c1``."""
        return f"{self.id}/{self.version}#{self.digest.hex()[:8]}"

    def rule_on(self, event: Event, stream: str | None = None) -> Ruling:
        """
        Return what happens to *event*; *stream* overrides where the rules would send it.

        Raises:
            UnknownStream: The policy has no such stream.
        """
        self._check_stream(stream)
        key = (
            event.action,
            event.kind,
            event.outcome,
            event.actor.type,
            event.actor.roles,
            event.resource.type,
            stream,
        )
        rulings = self._rulings
        found = rulings.get(key)
        if found is None:
            if len(rulings) >= _MOST_RULINGS:
                rulings.clear()
            found = rulings[key] = self._rule_on(event, stream)
        return found

    @cached_property
    def _rulings(self) -> dict[object, Ruling]:
        return {}

    def _rule_on(self, event: Event, stream: str | None) -> Ruling:
        rule = next((rule for rule in self.rules if rule.matches(event)), _CATCH_ALL)
        target = rule.stream if stream is None else stream
        self._check_stream(target)
        return Ruling(
            policy=self.label,
            rule=rule.label,
            stream=target,
            level=rule.level,
            require=frozenset((*self.streams[target].require, *rule.require)),
        )

    def _check_stream(self, stream: object) -> None:
        # A caller may not have checked its types.
        if stream is not None and (type(stream) is not str or stream not in self.streams):
            known = ", ".join(self.streams)
            raise UnknownStream(f"stream: found {stream!r}, expected one of {known}")

    def field(self, path: str, actor_type: str, resource_type: str) -> FieldRule:
        """
        Return how the field at *path* of an event is classified.

        A pattern is a path (``/client/ip``), a path whose last part is ``*``
        (``/changes/*``), or ``*`` alone. After ``@`` stand types: of the actor for a
        path below ``/actor``, else of the resource. What no pattern matches is personal.
        """
        return self.classification(actor_type, resource_type)[path]

    def pattern(self, path: str, actor_type: str, resource_type: str) -> tuple[str, FieldRule]:
        """Return the most specific pattern for *path*, and its rule; see `field`."""
        kind = actor_type if path.startswith("/actor/") else resource_type
        best: tuple[tuple[int, bool, bool], str, FieldRule] | None = None
        for each, pattern, types, rule in self._patterns:
            if (types and kind not in types) or not _covers(pattern, path):
                continue
            weight = _weight(pattern, types)
            if best is None or weight > best[0]:
                best = (weight, each, rule)
        return ("*", PERSONAL) if best is None else (best[1], best[2])

    def rules_of(self, path: str) -> list[FieldRule]:
        """Return how the field at *path* may be classified, whatever the types around it."""
        known = self._every_rule
        found = known.get(path)
        if found is None:
            if len(known) >= _MOST_RULINGS:
                known.clear()
            found = known[path] = self._rules_of(path)
        return found

    @cached_property
    def _every_rule(self) -> dict[str, list[FieldRule]]:
        return {}

    def _rules_of(self, path: str) -> list[FieldRule]:
        # By types, those of no pattern as one: what `pattern` finds, in one walk.
        best: dict[str, tuple[tuple[int, bool, bool], FieldRule]] = {}
        for _, pattern, types, rule in self._patterns:
            if _covers(pattern, path):
                weight = _weight(pattern, types)
                for kind in types or ("",):
                    if kind not in best or weight > best[kind][0]:
                        best[kind] = weight, rule
        anyone = best.setdefault("", ((-1, False, False), PERSONAL))
        return [max(each, anyone, key=itemgetter(0))[1] for each in best.values()]

    def classes_of(self, path: str) -> frozenset[FieldClass]:
        """Return the classes that the field at *path* may have, whatever the types around it."""
        return frozenset(rule.class_ for rule in self.rules_of(path))

    @cached_property
    def _patterns(self) -> list[tuple[str, str, frozenset[str], FieldRule]]:
        return [
            (each, pattern, frozenset(types.split(",")) if types else frozenset(), rule)
            for each, rule in self.fields.items()
            for pattern, _, types in [each.rpartition("@") if "@" in each else (each, "", "")]
        ]

    def classification(self, actor_type: str, resource_type: str) -> Classification:
        """Return how each field is classified of events of this type of actor and resource."""
        known = self._classifications
        found = known.get((actor_type, resource_type))
        if found is None:
            if len(known) >= _MOST_RULINGS:
                known.clear()
            found = known[actor_type, resource_type] = Classification(
                self, actor_type, resource_type
            )
        return found

    @cached_property
    def _classifications(self) -> dict[tuple[str, str], Classification]:
        return {}

    def sights(self, role: str) -> Mapping[FieldClass, Sight] | None:
        """Return what *role* sees of each class; None where there is no such role."""
        if role == OWNER:
            return ROLES[OWNER]
        given = self.roles.get(role)
        if given is None:
            return ROLES.get(role)
        return {**_HIDDEN, **given}


class Classification(dict[str, FieldRule]):
    """How *policy* classifies each path of events of one type of actor and resource."""

    def __init__(self, policy: Policy, actor_type: str, resource_type: str) -> None:
        self._policy, self._types = policy, (actor_type, resource_type)
        self._below: dict[tuple[str, str], tuple[str, FieldRule]] = {}

    def __missing__(self, path: str) -> FieldRule:
        if len(self) >= _MOST_RULINGS:
            self.clear()
        _, rule = self._policy.pattern(path, *self._types)
        self[path] = rule
        return rule

    def below(self, container: str, name: str) -> tuple[str, FieldRule]:
        """
        Return the path of *name* below *container*, and its rule.

        It is the container's own path where the policy declares no such name.
        """
        found = self._below.get((container, name))
        if found is None:
            if len(self._below) >= _MOST_RULINGS:
                self._below.clear()
            path = f"{container}/{escape(name)}"
            pattern, rule = self._policy.pattern(path, *self._types)
            found = (
                (path, rule)
                if pattern.startswith(f"{container}/")
                else (container, self[container])
            )
            self._below[container, name] = found
        return found


PERSONAL = FieldRule(class_=FieldClass.PERSONAL)
_CATCH_ALL = Rule(name="none")
_MOST_RULINGS = 10_000


def _weight(pattern: str, types: frozenset[str]) -> tuple[int, bool, bool]:
    """Return how specific a pattern is."""
    return (pattern.count("/"), not pattern.endswith("*"), bool(types))


def _covers(pattern: str, path: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith("/*"):
        return path.startswith(pattern[:-1])
    return path == pattern


@lru_cache(maxsize=65_536)
def matches_action(pattern: str, action: str) -> bool:
    """Tell whether *action* is *pattern*, or below it where it ends with ``.*``."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return action.startswith(pattern[:-1])
    return action == pattern
