"""
Lint: what a policy says that its author may not have meant.

A document that is read without an error (`indelible.document`) means something. These
remarks are about what follows from it: a rule that never matches, an erasure that does not
reach a field, a secret that is named in clear. An *error* should be mended, a *warning* be
known.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import msgspec

from indelible.detectors import find as find_secret
from indelible.document import Path, Source, key_text
from indelible.duration import Duration
from indelible.fields import OPEN, VALUES
from indelible.policy import (
    CUSTODY,
    OWNER,
    Approvals,
    FieldClass,
    FieldRule,
    Level,
    Policy,
    Rule,
    Stream,
    matches_action,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Severity = Literal["error", "warning"]


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something that the author of a policy should look at.

    Attributes:
        key: Path of the key in the document: ``rule[2].stream``.
        line: Of the document, from 1; None of a policy without one.
        what: What is to be known about it.
    """

    key: str
    line: int | None
    what: str
    severity: Severity


def lint(policy: Policy) -> list[Remark]:
    """Return what there is to say about *policy*, in the order of its document."""
    source = Source(policy.text or None)
    remarks = [
        Remark(key=key_text(path), line=source.line(path), what=what, severity=severity)
        for check in _CHECKS
        for path, severity, what in check(policy)
    ]
    return sorted(remarks, key=lambda remark: remark.line or 0)


_Found = tuple[Path, Severity, str]


def _error(path: Path, what: str) -> _Found:
    return path, "error", what


def _warning(path: Path, what: str) -> _Found:
    return path, "warning", what


# ---- Rules ----


def _excluded(policy: Policy) -> Iterator[_Found]:
    for number, rule in enumerate(policy.rules):
        if rule.level is Level.NONE:
            for name, given in (("why", rule.why), ("approved_by", rule.approved_by)):
                if not given:
                    yield _error(
                        ("rule", number, "level"),
                        f"leaves events out and has no {name!r}: an auditor will ask",
                    )


def _shadowed(policy: Policy) -> Iterator[_Found]:
    for number, rule in enumerate(policy.rules):
        for before, other in enumerate(policy.rules[:number]):
            if _takes_all_of(other, rule):
                yield _error(
                    ("rule", number),
                    f"never matches: rule[{before}] ({other.label}) takes all that it is for",
                )
                break


def _takes_all_of(rule: Rule, other: Rule) -> bool:
    """Tell whether each event that *other* matches is one that *rule* matches."""
    pairs: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
        (rule.resource, other.resource),
        (rule.actor, other.actor),
        (rule.actor_roles, other.actor_roles),
        (rule.outcome, other.outcome),
        (rule.kinds, other.kinds),
    )
    return _takes_action(rule.action or "*", other.action or "*") and all(
        not given or (narrower and set(narrower) <= set(given)) for given, narrower in pairs
    )


def _takes_action(pattern: str, other: str) -> bool:
    # A pattern below another begins with all that the other asks for.
    return pattern == "*" or (other != "*" and matches_action(pattern, other))


def _not_all(policy: Policy) -> Iterator[_Found]:
    if not policy.rules or not policy.rules[-1].matches_all:
        yield _warning(
            ("rule",),
            "the last rule does not match everything: what none matches goes to the stream"
            " 'user' in full, and its entries name the rule 'none'",
        )


def _same_label(policy: Policy) -> Iterator[_Found]:
    first: dict[str, int] = {}
    for number, rule in enumerate(policy.rules):
        before = first.setdefault(rule.label, number)
        if before != number:
            yield _warning(
                ("rule", number),
                f"is called {rule.label!r} like rule[{before}]: entries name a rule by that,"
                " give it a 'name'",
            )


def _unexplained(policy: Policy) -> Iterator[_Found]:
    """Where administration is captured without asking why."""
    silent: dict[str, list[str]] = defaultdict(list)
    for rule in policy.rules:
        if rule.level is not Level.NONE and _is_administration(rule):
            required = {*rule.require, *policy.streams.get(rule.stream, Stream()).require}
            if "rationale" not in required:
                silent[rule.stream].append(rule.label)
    for stream, labels in silent.items():
        yield _warning(
            ("streams", stream),
            f"takes in what administrators do (rules {', '.join(labels)}) without a rationale;"
            ' require = ["rationale"] would ask for one',
        )


def _is_administration(rule: Rule) -> bool:
    first = (rule.action or "").partition(".")[0]
    return (
        first in {"admin", "permission", "role"}
        or not {"administration", "permission_change"}.isdisjoint(rule.kinds)
        or not {"admin", "administrator", "staff", "root"}.isdisjoint(rule.actor_roles)
    )


# ---- Streams and retention ----


def _unused(policy: Policy) -> Iterator[_Found]:
    reached = {rule.stream for rule in policy.rules if rule.level is not Level.NONE}
    if not policy.rules or not policy.rules[-1].matches_all:
        reached.add("user")
    for name in policy.streams:
        if name not in reached and name != CUSTODY:
            yield _warning(
                ("streams", name),
                "no rule sends events here: only code that names the stream does",
            )
    used = {stream.retention for stream in policy.streams.values()}
    for name in policy.retention:
        if name not in used:
            yield _warning(("retention", name), "no stream has this retention")


def _overshoot(policy: Policy) -> Iterator[_Found]:
    for name, retention in policy.retention.items():
        streams = [each for each, stream in policy.streams.items() if stream.retention == name]
        if retention.ceiling is not None and streams:
            yield _warning(
                ("retention", name, "ceiling"),
                f"entries are purged in tiles of 256, the values in the vault to the day: where"
                f" few events come, entries of {', '.join(streams)} outlast {retention.ceiling}"
                " until their tile is full",
            )


def _floor_wins(policy: Policy) -> Iterator[_Found]:
    for pattern, rule in policy.fields.items():
        if rule.class_ is FieldClass.PERSONAL or rule.ceiling is None or rule.floor is not None:
            continue
        late = [
            name
            for name, stream in policy.streams.items()
            if stream.retention in policy.retention
            and (floor := policy.retention[stream.retention].floor) is not None
            and Duration.parse(floor).length > Duration.parse(rule.ceiling).length
        ]
        if late:
            yield _warning(
                ("fields", pattern, "ceiling"),
                f"{rule.ceiling} is shorter than the floor of {', '.join(late)}, and the floor"
                f" wins for {rule.class_} values",
            )


# ---- Fields ----


def _out_of_reach(policy: Policy) -> Iterator[_Found]:
    for pattern, paths in _decided(policy).items():
        rule = policy.fields.get(pattern, _UNKNOWN)
        if rule.class_ is not FieldClass.PERSONAL or rule.subject is not None:
            continue
        # Of what nobody classified the author may know; what they named they care about.
        remark = _warning if pattern == "*" else _error
        yield remark(
            ("fields", pattern),
            "is personal and has no 'subject': an erasure of a person does not reach"
            f" {', '.join(paths)}",
        )


def _decided(policy: Policy) -> dict[str, list[str]]:
    """Return the paths that each pattern decides about, whatever the types around them."""
    types = {"", *(each for key in policy.fields for each in _types(key))}
    named = {_path(key) for key in policy.fields} - {"*"}
    whole = {each for each in OPEN if f"{each}/*" in policy.fields}
    paths = dict.fromkeys((*VALUES, *(path for path in named if path.startswith(OPEN))))
    decided: dict[str, list[str]] = {}
    for path in paths:
        if path in whole:  # each name has a path of its own, so nothing stays together here
            continue
        for each in sorted(types):
            reached = decided.setdefault(policy.pattern(path, each, each)[0], [])
            if path not in reached:
                reached.append(path)
    return decided


def _secret_in_clear(policy: Policy) -> Iterator[_Found]:
    for pattern, rule in policy.fields.items():
        if rule.class_ is FieldClass.PUBLIC and _looks_secret(_path(pattern)):
            yield _error(
                ("fields", pattern, "class"),
                "is called like a secret, and public: it would stand in entries for ever",
            )


def _looks_secret(path: str) -> bool:
    words = path.rpartition("/")[2].lower().replace("-", "_").split("_")
    return find_secret(path, "something") is not None or (
        words[-1] in _NUMBERS or (len(words) > 1 and words[-2] in _NUMBERS and words[-1] in _NTH)
    )


_NUMBERS = frozenset(("card", "cvc", "cvv", "iban", "key", "pan", "pin", "ssn"))
_NTH = frozenset(("no", "nr", "number", "code"))


def _people_in_clear(policy: Policy) -> Iterator[_Found]:
    for path in ("/actor/id", "/actor/name", "/session", "/client/ip"):
        pattern, rule = policy.pattern(path, "user", "invoice")
        if rule.class_ is FieldClass.PUBLIC:
            yield _warning(
                ("fields", pattern, "class"),
                f"leaves {path} of people in clear for ever: no erasure reaches it",
            )


# ---- People ----


def _without_say(policy: Policy) -> Iterator[_Found]:
    named = {name for needed in _consents(policy) for name in needed.from_}
    for person, each in policy.people.items():
        if not each.roles and person not in named:
            yield _warning(
                ("people", person),
                "has no role and is named nowhere: there is nothing that they approve",
            )


def _consents(policy: Policy) -> Iterator[Approvals]:
    governance = policy.governance
    yield from (governance.erasure, governance.loosening, governance.grants)
    if governance.purge is not None:
        yield governance.purge
    yield from (rule.approvals for rule in policy.rules if rule.approvals is not None)


def _loosened_alone(policy: Policy) -> Iterator[_Found]:
    governance = policy.governance
    guarded = [
        name
        for name in ("erasure", "purge", "grants")
        if (needed := getattr(governance, name)) is not None and not _is_alone(needed)
    ]
    if guarded and _is_alone(governance.loosening):
        yield _warning(
            ("governance", "loosening"),
            f"the owner of the trail may loosen this policy alone, and so what it asks for"
            f" {', '.join(guarded)}, too",
        )


def _is_alone(needed: Approvals) -> bool:
    return needed.n == 1 and OWNER in needed.from_


_CHECKS = (
    _excluded,
    _shadowed,
    _not_all,
    _same_label,
    _unexplained,
    _unused,
    _overshoot,
    _floor_wins,
    _out_of_reach,
    _secret_in_clear,
    _people_in_clear,
    _without_say,
    _loosened_alone,
)

_UNKNOWN = FieldRule(class_=FieldClass.PERSONAL)


def _path(pattern: str) -> str:
    return pattern.rpartition("@")[0] if "@" in pattern else pattern


def _types(pattern: str) -> list[str]:
    return pattern.rpartition("@")[2].split(",") if "@" in pattern else []
