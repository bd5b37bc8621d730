"""
Reference: what a policy means, for auditors: fields, classes, retention, who sees what.

The same sections as Markdown and as one HTML page without scripts, which prints well. They
say what the policy does not keep as plainly as what it keeps.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from indelible.errors import Malformed
from indelible.note import parse_base64
from indelible.policy import (
    COMMITTED,
    CUSTODY,
    OWNER,
    PERSONAL,
    ROLES,
    FieldClass,
    Level,
    Retention,
    Sight,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from indelible.policy import Approvals, Person, Policy, Rule


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    sentences: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def to_markdown(policy: Policy) -> str:
    """Write the reference of *policy* as Markdown, with tables."""
    parts = [f"# {_markdown(_title(policy))}"]
    for section in _sections(policy):
        parts.append(f"## {_markdown(section.title)}")
        if section.sentences:
            parts.append("\n".join(f"- {_markdown(each)}" for each in section.sentences))
        if section.rows:
            line = ["---"] * len(section.columns)
            cells = (map(_markdown, row) for row in (section.columns, *section.rows))
            first, *rest = (" | ".join(row) for row in cells)
            parts.append("\n".join(f"| {each} |" for each in (first, " | ".join(line), *rest)))
    return "\n\n".join(parts) + "\n"


def to_html(policy: Policy) -> str:
    """Write the reference of *policy* as one page that needs nothing else."""
    title = _html(_title(policy))
    parts = [f"<h1>{title}</h1>"]
    for section in _sections(policy):
        parts.append(f"<section>\n<h2>{_html(section.title)}</h2>")
        if section.sentences:
            items = "\n".join(f"<li>{_html(each)}</li>" for each in section.sentences)
            parts.append(f"<ul>\n{items}\n</ul>")
        if section.rows:
            head = "".join(f'<th scope="col">{_html(each)}</th>' for each in section.columns)
            body = "\n".join(
                f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>"
                for row in section.rows
            )
            parts.append(
                f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
            )
        parts.append("</section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _title(policy: Policy) -> str:
    return f"Policy {policy.label}"


def _sections(policy: Policy) -> Iterator[_Section]:
    yield _about(policy)
    yield _not_kept(policy)
    yield _fields(policy)
    yield _rules(policy)
    yield _streams(policy)
    yield _roles(policy)
    yield _people(policy)
    yield _governance(policy)


# ---- Sections ----


def _about(policy: Policy) -> _Section:
    return _Section(
        "What this is",
        [
            f"Version {policy.version} of the policy {policy.id}, of {policy.owner or 'nobody'}.",
            f"SHA-256 of its document: {policy.digest.hex()}.",
            "Each entry names the policy, and the rule that decided about it.",
            f"It supersedes {policy.supersedes}."
            if policy.supersedes
            else "It names no policy that it supersedes.",
            "This page says what the policy declares.",
            "That a trail keeps to it, its own entries and their verification have to show.",
        ],
    )


def _not_kept(policy: Policy) -> _Section:
    sentences = [
        f"Not captured: {_matched(rule)}{_because(rule)}."
        for rule in policy.rules
        if rule.level is Level.NONE
    ]
    sentences += [
        f"Captured without {_LEFT_OUT[rule.level]}: {_matched(rule)}{_because(rule)}."
        for rule in policy.rules
        if rule.level in _LEFT_OUT
    ]
    if not sentences:
        sentences.append("Every event is captured as a whole.")
    for kept in (False, True):
        secrets = [
            pattern
            for pattern, rule in policy.fields.items()
            if rule.class_ is FieldClass.SECRET and rule.fingerprint is kept
        ]
        if secrets:
            what = "a keyed fingerprint" if kept else "nothing but that it was there"
            sentences.append(f"Of secrets, {what} is kept: {', '.join(secrets)}.")
    unknown = policy.fields.get("*", PERSONAL)
    sentences.append(
        f"A field that no pattern names is {unknown.class_}: {_MEANING[unknown.class_]}."
    )
    clear = [pattern for pattern, rule in policy.fields.items() if rule.class_ is FieldClass.PUBLIC]
    if clear:
        sentences.append(
            "In clear, so that no erasure reaches it, and only a purge of the entry:"
            f" {', '.join(clear)}."
        )
    sentences.append(
        "What is erased or purged is not recoverable by us; that it was there, and by which"
        " entry it went, stays provable."
    )
    return _Section("What is not kept", sentences)


_LEFT_OUT = {Level.METADATA: "changes and data", Level.CHANGES: "data"}

_MEANING = {
    FieldClass.PUBLIC: "in clear in the entry, for ever",
    FieldClass.INTERNAL: "committed in the entry, its value in the vault; an erasure takes it only"
    " where it is named",
    FieldClass.ACCOUNTABLE: "committed in the entry, its value in the vault; erasable after its"
    " floor",
    FieldClass.PERSONAL: "committed in the entry, its value in the vault; erasable, after a floor"
    " only where the field has one of its own",
    FieldClass.SECRET: "dropped when the event is recorded",
}


def _fields(policy: Policy) -> _Section:
    return _Section(
        "Fields",
        [
            "The most specific pattern decides.",
            "After @ stand types: of the actor for what is below /actor, else of the resource.",
            *(f"{each.capitalize()}: {meaning}." for each, meaning in _MEANING.items()),
        ],
        ("field", "class", "whose value", "found by", "floor", "ceiling", "why"),
        [
            (
                pattern,
                rule.class_.value + (", fingerprint" if rule.fingerprint else ""),
                rule.subject or "",
                _SEARCHED.get(rule.search or "", ""),
                rule.floor or "",
                rule.ceiling or "",
                rule.why or "",
            )
            for pattern, rule in policy.fields.items()
        ],
    )


_SEARCHED = {"exact": "the whole value", "prefix": "the whole value, or its network"}


def _rules(policy: Policy) -> _Section:
    last = (
        []
        if policy.rules and policy.rules[-1].matches_all
        else ["What no rule matches goes to the stream user as a whole."]
    )
    return _Section(
        "Rules",
        ["The first rule that matches an event decides about it.", *last],
        (
            "",
            "rule",
            "matches",
            "level",
            "stream",
            "requires",
            "approvals",
            "expected",
            "why",
            "controls",
        ),
        [
            (
                str(number),
                rule.label,
                _matched(rule),
                rule.level.value,
                "" if rule.level is Level.NONE else rule.stream,
                ", ".join(rule.require),
                "" if rule.approvals is None else _consent(rule.approvals),
                rule.expect or "",
                (rule.why or "") + _agreed(rule),
                ", ".join(rule.controls),
            )
            for number, rule in enumerate(policy.rules, 1)
        ],
    )


def _matched(rule: Rule) -> str:
    parts = [
        f"action {rule.action}" if rule.action not in {None, "*"} else "",
        _any("resource of type", rule.resource),
        _any("actor of type", rule.actor),
        _any("actor with role", rule.actor_roles),
        _any("outcome", rule.outcome),
        _any("kind", rule.kinds),
    ]
    return ", ".join(filter(None, parts)) or "every event"


def _any(what: str, values: Iterable[str]) -> str:
    said = " or ".join(values)
    return f"{what} {said}" if said else ""


def _because(rule: Rule) -> str:
    return f" ({rule.why or 'no reason is given'}{_agreed(rule)})"


def _agreed(rule: Rule) -> str:
    return f"; agreed by {', '.join(rule.approved_by)}" if rule.approved_by else ""


def _streams(policy: Policy) -> _Section:
    retentions = {
        name: policy.retention.get(stream.retention or "", Retention())
        for name, stream in policy.streams.items()
    }
    sentences = [f"The stream {CUSTODY} is what the trail writes about itself; it is never purged."]
    endless = [
        name for name, each in retentions.items() if each.ceiling is None and name != CUSTODY
    ]
    if endless:
        sentences.append(
            f"Without a ceiling, and so kept until a policy gives one: {', '.join(endless)}."
        )
    if len(endless) + 1 < len(retentions):
        sentences.append(
            "Values in the vault go on the day of their ceiling; entries go in tiles of 256, so"
            " that those of a quiet stream stay until their tile is full."
        )
    return _Section(
        "Streams and retention",
        sentences,
        (
            "stream",
            "retention",
            "at least",
            "at most",
            "if it cannot be written",
            "requires",
            "also sent to",
        ),
        [
            (
                name,
                (stream.retention or "") + (", write-once" if retentions[name].worm else ""),
                retentions[name].floor or "",
                retentions[name].ceiling or "",
                _FAILED[stream.on_failure],
                ", ".join(stream.require),
                ", ".join(stream.sinks),
            )
            for name, stream in policy.streams.items()
        ],
    )


_FAILED = {
    "refuse": "the action is refused",
    "continue": "the action goes on, the loss is recorded",
}


def _roles(policy: Policy) -> _Section:
    names = [OWNER, *(each for each in dict.fromkeys((*ROLES, *policy.roles)) if each != OWNER)]
    return _Section(
        "Who sees what",
        [
            "Public values are seen by every role; secrets are kept nowhere.",
            "Masked: that there is a value, or a pseudonym within one case.",
            "Grant: nothing without a grant, which ends by itself.",
        ],
        ("role", *(each.value for each in COMMITTED)),
        [
            (name, *((policy.sights(name) or {}).get(each, Sight.HIDE).value for each in COMMITTED))
            for name in names
        ],
    )


def _people(policy: Policy) -> _Section:
    return _Section(
        "People who approve",
        [] if policy.people else ["Nobody is named: only the owner of the trail can approve."],
        ("person", "name", "roles", "key (SHA-256)"),
        [
            (person, each.name, ", ".join(each.roles), _fingerprint(each))
            for person, each in policy.people.items()
        ],
    )


def _fingerprint(person: Person) -> str:
    try:
        public = parse_base64(person.key.removeprefix("ed25519:"), what="key")
    except Malformed:
        return "no key"
    return sha256(public).hexdigest()


def _governance(policy: Policy) -> _Section:
    governance = policy.governance
    rows = [
        ("erase values", _consent(governance.erasure)),
        (
            "purge what retention has released",
            "nobody" if governance.purge is None else _consent(governance.purge),
        ),
        ("loosen the policy", _consent(governance.loosening)),
        (
            f"open values for up to {governance.grants.valid}",
            _consent(governance.grants, valid=False)
            + ("; a purpose must be given" if governance.purpose == "required" else ""),
        ),
    ]
    sentences = []
    named = [governance.erasure, governance.loosening, governance.grants, governance.purge]
    if any(each is not None and OWNER in each.from_ for each in named):
        sentences.append(
            "The owner is whoever holds the trail's own keys: what the owner approves is"
            " self-approved, and every report says so."
        )
    if (glass := governance.break_glass) is not None:
        sentences.append(
            f"In an emergency, {', '.join(glass.who)} may open values for {glass.max} before"
            f" anybody has approved; alerted: {', '.join(glass.alert) or 'nobody'}; looked at"
            f" {f'within {glass.review}' if glass.review else 'at no set time'}."
        )
    return _Section("Whose approval is needed", sentences, ("to", "must approve"), rows)


def _consent(needed: Approvals, *, valid: bool = True) -> str:
    said = f"{needed.n} of {', '.join(needed.from_)}"
    if valid:
        said += f", within {needed.valid}"
    if needed.cooling_off is not None:
        said += f", and not before {needed.cooling_off} after the plan"
    return said


# ---- Text ----


def _line(text: str) -> str:
    """Return *text* as one line, with nothing in it that is not seen."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in " ".join(text.split())
    )


def _markdown(text: str) -> str:
    return _SIGNS.sub(r"\\\g<0>", _line(text)) or " "


_SIGNS = re.compile(r"[\\`*_{}\[\]<>|~&]")


def _html(text: str) -> str:
    return html.escape(_line(text))


_STYLE = """\
body { font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0; }
main { max-width: 75rem; margin: 0 auto; padding: 1rem 1.5rem 3rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; }
th, td { border: 1px solid #bbb; padding: 0.3rem 0.5rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { background: #f0f0f0; }
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 9pt; }
  table { font-size: 7.5pt; }
  h2, thead { break-after: avoid; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
}
"""
