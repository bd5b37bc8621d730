"""
Loosening: what a new version of a policy allows that the old one did not.

To protect less, to capture less, to keep for another time, to show more, to ask fewer
people: each is a loosening, and needs the approvals that the old version asks for. Two
versions are compared by what they do, not by how they are written: by the rule that decides
about each sort of event, and by the class of each field. Where it is open whether a change
loosens, it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

from indelible.document import Place, Source, Words
from indelible.duration import Duration
from indelible.event import ActorType, Kind, Outcome
from indelible.fields import OPEN, VALUES, split
from indelible.policy import (
    COMMITTED,
    OWNER,
    ROLES,
    FieldClass,
    Level,
    Retention,
    Rule,
    Sight,
    Stream,
    matches_action,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from indelible.policy import Approvals, BreakGlass, FieldRule, Person, Policy

_Way = Literal["loosens", "tightens", "changes"]
_Difference = tuple[_Way, str]


def loosened(old: Policy, new: Policy) -> list[str]:
    """Return a sentence for each thing that *new* allows and *old* did not."""
    return _said(old, new, "loosens")


def tightened(old: Policy, new: Policy) -> list[str]:
    """Return a sentence for each thing that *old* allowed and *new* does not."""
    return _said(old, new, "tightens")


def changed(old: Policy, new: Policy) -> list[str]:
    """Return a sentence for each other difference that is more than one of wording."""
    return _said(old, new, "changes")


def verify_succession(old: Policy, new: Policy) -> None:
    """
    Check that *new* is the version after *old*: of the same policy, later, and naming it.

    Raises:
        InvalidPolicy: It is not.
    """
    place = Place(Source(new.text or None), ("policy",))
    if new.id != old.id:
        raise (place / "id").refusal(new.id, f"that of the policy in force, {old.id!r}")
    if new.version <= old.version:
        raise (place / "version").refusal(new.version, f"one after {old.version}")
    expected, own = (f"sha256:{each.digest.hex()}" for each in (old, new))
    if new.supersedes is None:
        raise (place / "supersedes").refusal(Words("nothing"), f"{expected}, the policy in force")
    if new.supersedes != expected or old.supersedes == own:
        raise (place / "supersedes").refusal(
            new.supersedes, f"{expected}, the policy in force, and no circle"
        )


def _said(old: Policy, new: Policy, way: _Way) -> list[str]:
    differences = (difference for compare in _PARTS for difference in compare(old, new))
    return list(dict.fromkeys(sentence for found, sentence in differences if found == way))


def _about(what: str, differences: Iterable[_Difference]) -> Iterator[_Difference]:
    for way, sentence in differences:
        yield way, f"{what}: {sentence}"


# ---- Fields ----

_LESS_PROTECTED = (
    FieldClass.SECRET,
    FieldClass.PERSONAL,
    FieldClass.ACCOUNTABLE,
    FieldClass.INTERNAL,
    FieldClass.PUBLIC,
)
"""The classes, each less protected or harder to erase than the one before."""

_OTHER = "\0"
"""A name, type or action that no policy can name."""


def _fields(old: Policy, new: Policy) -> Iterator[_Difference]:
    keys = (*old.fields, *new.fields)
    below = {
        path
        for path, _, _ in (each.partition("@") for each in keys)
        if path.startswith(tuple(f"{each}/" for each in OPEN))
    }
    paths = dict.fromkeys(
        [*(path for path in VALUES if path not in OPEN), *sorted(below), *_ANY_BELOW]
    )
    resources = sorted({type_ for each in keys for type_ in each.partition("@")[2].split(",")})
    for path in paths:
        of_actor = path.startswith("/actor/")
        types = get_args(ActorType) if of_actor else [*filter(None, resources), _OTHER]
        found: dict[_Difference, list[str]] = {}
        for type_ in types:
            pair = (_rule_of(old, path, type_), _rule_of(new, path, type_))
            for difference in _of_field(*pair):
                found.setdefault(difference, []).append(type_)
        for (way, sentence), of in found.items():
            yield way, f"{path}{'' if len(of) == len(types) else _of_types(of)}: {sentence}"


_ANY_BELOW = tuple(f"{each}/*" for each in OPEN)


def _of_types(types: Sequence[str]) -> str:
    return f" of {', '.join('any other type' if each == _OTHER else each for each in types)}"


def _rule_of(policy: Policy, path: str, type_: str) -> FieldRule:
    container, name = split(path)
    if name is None:
        return policy.field(path, type_, type_)
    any_name = path in _ANY_BELOW
    return policy.classification(type_, type_).below(container, _OTHER if any_name else name)[1]


def _of_field(old: FieldRule, new: FieldRule) -> Iterator[_Difference]:
    if old.class_ is not new.class_:
        looser = _LESS_PROTECTED.index(new.class_) > _LESS_PROTECTED.index(old.class_)
        yield _way(looser), f"{old.class_} becomes {new.class_}"
    if old.class_ is new.class_ is FieldClass.SECRET and old.fingerprint is not new.fingerprint:
        kept = "a fingerprint is kept" if new.fingerprint else "no fingerprint is kept"
        yield _way(new.fingerprint), kept
    if old.class_ not in COMMITTED or new.class_ not in COMMITTED:
        return
    if old.subject != new.subject:
        if old.subject is None:
            yield "tightens", f"an erasure of the {new.subject} reaches it"
        elif new.subject is None:
            yield "loosens", f"an erasure of the {old.subject} no longer reaches it"
        else:
            yield "loosens", f"an erasure reaches it of the {new.subject}, before the {old.subject}"
    if old.search != new.search:
        found, before = (_or_none(each.search, "by nothing") for each in (new, old))
        yield "changes", f"is searched {found}, before {before}"
    yield from _limits(old, new)


def _limits(old: FieldRule | Retention, new: FieldRule | Retention) -> Iterator[_Difference]:
    yield from _span("the floor", old.floor, new.floor, longer="tightens")
    yield from _span("the ceiling", old.ceiling, new.ceiling, longer="loosens", none_is_long=True)


def _span(
    what: str,
    old: str | None,
    new: str | None,
    *,
    longer: Literal["loosens", "tightens"],
    none_is_long: bool = False,
) -> Iterator[_Difference]:
    """Compare two lengths of time, of which none is either no time or all of it."""
    if old == new:
        return
    sentence = f"{what} is {_or_none(new, 'none')}, before {_or_none(old, 'none')}"
    if old is None or new is None:
        is_longer = (new is None) is none_is_long
    else:
        before, after = Duration.parse(old).length, Duration.parse(new).length
        if before == after:
            yield "changes", sentence
            return
        is_longer = after > before
    yield _way(is_longer is (longer == "loosens")), sentence


def _way(looser: bool) -> _Way:  # noqa: FBT001 - the one thing it is told
    return "loosens" if looser else "tightens"


def _or_none(value: str | None, none: str) -> str:
    return none if value is None else value


# ---- Rules ----

_KEPT = (Level.NONE, Level.METADATA, Level.CHANGES, Level.FULL)
_NO_RULE = Rule(name="none")
"""What `Policy.rule_on` falls back to."""


@dataclass(frozen=True, slots=True)
class _Side:
    """
    One way in which events differ, and rules tell them apart.

    Attributes:
        values: Those that make a difference, each with what it is called.
        admits: Whether a rule is for events with such a value.
        is_free: Whether a rule is for events with any.
    """

    values: Sequence[tuple[str, object]]
    admits: Callable[[Rule, object], bool]
    is_free: Callable[[Rule], bool]


def _rules(old: Policy, new: Policy) -> Iterator[_Difference]:
    for what, before, after in _decisions(old, new):
        yield from _about(what, _of_events(old, new, before, after))
    yield from _names(
        "rule",
        [rule.label for rule in old.rules],
        [rule.label for rule in new.rules],
    )
    given = {(rule.label, rule.why, rule.controls, rule.approved_by) for rule in old.rules}
    labels = {rule.label for rule in old.rules}
    for rule in new.rules:
        said = (rule.label, rule.why, rule.controls, rule.approved_by)
        if rule.label in labels and said not in given:
            yield "changes", f"rule {rule.label}: gives other reasons, controls or approvers"


def _names(what: str, old: Collection[str], new: Collection[str]) -> Iterator[_Difference]:
    yield from (("changes", f"{what} {each}: is new") for each in new if each not in old)
    yield from (("changes", f"{what} {each}: is gone") for each in old if each not in new)


def _of_events(old: Policy, new: Policy, before: Rule, after: Rule) -> Iterator[_Difference]:
    """Compare what happens to events about which *before* decided, and *after* decides."""
    if before.level is not after.level:
        lower = _KEPT.index(after.level) < _KEPT.index(before.level)
        yield _way(lower), f"level {before.level} becomes {after.level}"
    if Level.NONE in {before.level, after.level}:
        return
    if before.stream != after.stream:
        yield "loosens", f"they go to stream {after.stream}, before {before.stream}"
    required = {*before.require, *_stream_of(old, before).require}
    requires = {*after.require, *_stream_of(new, after).require}
    if before.stream == after.stream:
        # What the stream itself asks for is said of the stream.
        said = {*_stream_of(old, before).require} ^ {*_stream_of(new, after).require}
        required, requires = required - said, requires - said
    yield from _required(required, requires)
    yield from _consent(before.approvals, after.approvals)
    if before.expect != after.expect:
        expected, was = (_or_none(each.expect, "nothing") for each in (after, before))
        way: _Way = "loosens" if after.expect is None else "changes"
        yield way, f"{expected} is expected of them, before {was}"


def _stream_of(policy: Policy, rule: Rule) -> Stream:
    return policy.streams.get(rule.stream, Stream())


def _required(old: Collection[str], new: Collection[str]) -> Iterator[_Difference]:
    for name in sorted({*old} - {*new}):
        yield "loosens", f"{name} is no longer required"
    for name in sorted({*new} - {*old}):
        yield "tightens", f"{name} is required"


def _decisions(old: Policy, new: Policy) -> Iterator[tuple[str, Rule, Rule]]:
    """
    Yield each two rules that decide about the same events, with what such events are.

    Of the events that could be, those are looked at that some rule tells from others. Events
    for which the same rules are left are the same from there on; so few are looked at, though
    all are covered, up to two roles of an actor.
    """
    rules = [*old.rules, _NO_RULE, *new.rules, _NO_RULE]
    middle = len(old.rules) + 1
    states: dict[_State, tuple[str, ...]] = {
        (tuple(range(middle)), tuple(range(middle, len(rules)))): ()
    }
    sides = _sides(rules)
    for place, side in enumerate(sides):
        later = sides[place + 1 :]
        sure = {
            number
            for number, rule in enumerate(rules)
            if all(other.is_free(rule) for other in later)
        }
        found: dict[_State, tuple[str, ...]] = {}
        for name, value in side.values:
            admitted = {number for number, rule in enumerate(rules) if side.admits(rule, value)}
            for (left, right), said in states.items():
                state = (_left(left, admitted, sure), _left(right, admitted, sure))
                found.setdefault(state, (*said, name) if name else said)
        states = found
    for (left, right), said in states.items():
        what = f"events such as {' '.join(said)}" if said else "any event"
        yield what, rules[left[0]], rules[right[0]]


_State = tuple[tuple[int, ...], tuple[int, ...]]
"""By their numbers, which rules of two policies may still decide about an event."""


def _left(
    numbers: Iterable[int], admitted: Collection[int], sure: Collection[int]
) -> tuple[int, ...]:
    """Return which rules may still decide: none after the first that surely matches."""
    left = []
    for number in numbers:
        if number in admitted:
            left.append(number)
            if number in sure:
                break
    return tuple(left)


def _sides(rules: Sequence[Rule]) -> list[_Side]:
    actions = sorted({rule.action for rule in rules if rule.action not in {None, "*"}}, key=str)
    roles = sorted({role for rule in rules for role in rule.actor_roles})
    pairs = [(role, other) for role in roles for other in roles if role < other]
    return [
        _Side(
            # For all that begins so stands one action that nothing else names.
            [(str(each), str(each).replace("*", _OTHER)) for each in actions]
            + [("any other action" if actions else "", _OTHER)],
            lambda rule, value: rule.action is None or matches_action(rule.action, str(value)),
            lambda rule: rule.action in {None, "*"},
        ),
        _side(rules, "resource", "to a resource of type"),
        _side(rules, "actor", "by an actor of type", get_args(ActorType)),
        _side(rules, "outcome", "with outcome", tuple(Outcome)),
        _side(rules, "kinds", "of kind", (*get_args(Kind), None)),
        _Side(
            [("", ()), *((f"by an actor with role {each}", (each,)) for each in roles)]
            + [(f"by an actor with roles {' and '.join(pair)}", pair) for pair in pairs],
            lambda rule, value: (
                not rule.actor_roles
                or any(role in rule.actor_roles for role in cast("tuple[str, ...]", value))
            ),
            lambda rule: not rule.actor_roles,
        ),
    ]


def _side(rules: Sequence[Rule], part: str, words: str, closed: Sequence[str | None] = ()) -> _Side:
    """Return the side of the *part* of a rule; *closed* are all values that there are."""
    named = sorted({value for rule in rules for value in getattr(rule, part)})
    values: list[tuple[str, object]] = [("", _OTHER)]
    if named:
        values = [] if closed else values
        values += [(f"{words} {each}" if each else "", each) for each in closed or named]
    return _Side(
        values,
        lambda rule, value: not getattr(rule, part) or value in getattr(rule, part),
        lambda rule: not getattr(rule, part),
    )


# ---- Streams ----


def _streams(old: Policy, new: Policy) -> Iterator[_Difference]:
    for name, before in old.streams.items():
        after = new.streams.get(name)
        if after is None:
            yield "loosens", f"stream {name}: is gone"
        else:
            yield from _about(f"stream {name}", _of_stream(before, after))
            limits = [
                policy.retention.get(stream.retention or "", Retention())
                for policy, stream in ((old, before), (new, after))
            ]
            yield from _about(f"stream {name}", _of_retention(*limits))
    for name in new.streams:
        if name not in old.streams:
            yield "changes", f"stream {name}: is new"


def _of_stream(old: Stream, new: Stream) -> Iterator[_Difference]:
    if old.on_failure != new.on_failure:
        goes_on = new.on_failure == "continue"
        then = "goes on" if goes_on else "is refused"
        yield _way(goes_on), f"where an event cannot be written, the action {then}"
    yield from _required(old.require, new.require)
    for sink in old.sinks:
        if sink not in new.sinks:
            yield "loosens", f"is no longer sent to {sink}"
    for sink in new.sinks:
        if sink not in old.sinks:
            yield "changes", f"is sent to {sink}"


def _of_retention(old: Retention, new: Retention) -> Iterator[_Difference]:
    yield from _limits(old, new)
    if old.worm is not new.worm:
        yield _way(old.worm), f"is {'' if new.worm else 'not '}kept where nothing can be rewritten"


# ---- Who sees, who approves ----

_SEEN = (Sight.HIDE, Sight.GRANT, Sight.MASKED, Sight.PLAIN)


def _roles(old: Policy, new: Policy) -> Iterator[_Difference]:
    for role in dict.fromkeys((*ROLES, *old.roles, *new.roles)):
        if role == OWNER:
            continue
        before, after = old.sights(role) or {}, new.sights(role) or {}
        for class_ in COMMITTED:
            had, has = before.get(class_, Sight.HIDE), after.get(class_, Sight.HIDE)
            if had is not has:
                yield (
                    _way(_SEEN.index(has) > _SEEN.index(had)),
                    f"role {role}: sees {class_} values: {has}, before {had}",
                )


def _people(old: Policy, new: Policy) -> Iterator[_Difference]:
    for person, after in new.people.items():
        before = old.people.get(person)
        if before is None:
            yield "loosens", f"person {person}: is new, with {_roles_of(after)}"
            continue
        if before.key != after.key:
            yield "loosens", f"person {person}: has another key"
        if {*before.roles} != {*after.roles}:
            yield "loosens", f"person {person}: has {_roles_of(after)}, before {_roles_of(before)}"
        if before.name != after.name:
            yield "changes", f"person {person}: is called {after.name}, before {before.name}"
    for person in old.people:
        if person not in new.people:
            yield "tightens", f"person {person}: is gone"


def _roles_of(person: Person) -> str:
    return f"roles {', '.join(person.roles)}" if person.roles else "no role"


def _governance(old: Policy, new: Policy) -> Iterator[_Difference]:
    before, after = old.governance, new.governance
    for name in ("erasure", "purge", "loosening", "grants"):
        yield from _about(name, _consent(getattr(before, name), getattr(after, name)))
    if before.purpose != after.purpose:
        yield _way(after.purpose == "optional"), f"grants: to say what for is {after.purpose}"
    yield from _about("break glass", _of_break_glass(before.break_glass, after.break_glass))
    if old.owner != new.owner:
        yield (
            "changes",
            f"owner: is {_or_none(new.owner, 'nobody')}, before {_or_none(old.owner, 'nobody')}",
        )


def _consent(old: Approvals | None, new: Approvals | None) -> Iterator[_Difference]:
    if old is None or new is None:
        if old is not None:
            yield "loosens", f"no approval is needed, before {old.n} of {', '.join(old.from_)}"
        if new is not None:
            yield "tightens", f"{new.n} of {', '.join(new.from_)} must approve, before nobody"
        return
    if old.n != new.n:
        yield _way(new.n < old.n), f"{new.n} must approve, before {old.n}"
    for name in new.from_:
        if name not in old.from_:
            yield "loosens", f"{name} may approve"
    for name in old.from_:
        if name not in new.from_:
            yield "tightens", f"{name} may no longer approve"
    yield from _span("how long it is valid", old.valid, new.valid, longer="loosens")
    yield from _span("cooling off", old.cooling_off, new.cooling_off, longer="tightens")


def _of_break_glass(old: BreakGlass | None, new: BreakGlass | None) -> Iterator[_Difference]:
    if old is None or new is None:
        if new is not None:
            yield "loosens", f"{', '.join(new.who)} may open values for {new.max}"
        if old is not None:
            yield "tightens", f"{', '.join(old.who)} may no longer open values"
        return
    for name in sorted({*new.who} ^ {*old.who}):
        may = name in new.who
        yield _way(may), f"{name} may {'' if may else 'no longer '}open values"
    for name in sorted({*new.alert} ^ {*old.alert}):
        told = name in new.alert
        yield _way(not told), f"{name} is {'' if told else 'no longer '}alerted"
    yield from _span("for how long", old.max, new.max, longer="loosens")
    yield from _span("the review", old.review, new.review, longer="loosens", none_is_long=True)


_PARTS = (_fields, _rules, _streams, _roles, _people, _governance)
