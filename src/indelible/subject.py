"""
Subject: everything that is held about one person, and who has seen it (subject access).

An entry may be about several people. Here stands what is *of* the subject: the values that
the vault keeps in its boxes, what names it in clear, and what is known to be gone. Values
of others in the same entries are not shown, nor those that the policy gives no subject.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from html import escape as escape_html
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import holds, policies, query
from indelible.access import MASKS
from indelible.box import Row, ValueState
from indelible.covers import Covers
from indelible.errors import Damaged, Forbidden, InvalidQuery, VerificationError
from indelible.fields import OPEN, VALUES, escape
from indelible.policy import COMMITTED, CUSTODY, FieldClass, FieldRule, Policy
from indelible.query import Query, value_at
from indelible.retention import Value, ceiling_of, floor_of
from indelible.segment import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.box import Found
    from indelible.query import Item
    from indelible.store import View
    from indelible.vault import Opener, Vault

CLEAR = "CLEAR"
"""The state of a value that stands in the log itself."""

OF_OTHERS = "[not of this subject]"
"""Stands for values of others, and for those of nobody in particular."""

OPENED = "values.open"
"""The action of the entries by which the trail says that values were opened."""


class HeldValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One value of the subject.

    Attributes:
        state: A `ValueState`, or `CLEAR`.
        value: JSON, where it is open to whoever asks.
        why: In words, what is known of one that is not: the entry that removed it perhaps.
        floor, ceiling: Until when it is kept at least and at most; None where nothing says so.
        holds: Ids of the legal holds on it.
        becomes: In words, what will become of it.
        because: Why it is kept, as the policy says.
        deferred: Why an erasure has left it, if one did.
    """

    path: str
    class_: FieldClass | None = msgspec.field(name="class", default=None)
    state: str
    value: Any = None
    why: str = ""
    floor: datetime | None = None
    ceiling: datetime | None = None
    holds: tuple[str, ...] = ()
    becomes: str = ""
    because: str = ""
    deferred: str = ""


class HeldEntry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One entry about the subject.

    Attributes:
        entry: Its place, such as ``user#12``.
        named: Paths that name the subject in the log itself.
        others: How many values it has that are not of the subject.
    """

    entry: str
    id: str
    recorded_at: datetime
    occurred_at: datetime
    action: str
    outcome: str
    actor: str
    resource: str
    named: tuple[str, ...]
    values: tuple[HeldValue, ...]
    others: int


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """
    Values were opened, of the subject perhaps.

    Attributes:
        entry: The place of the custody entry that says so.
        uid: User id of the process.
        entries, times: How many entries were opened, by how many questions.
        asked: The last of these questions, where whoever asks may see it.
        concerns: ``named``: the last question names the subject. ``found``: it asks for
            something that an entry about the subject has. ``perhaps``: it may have, or
            another of the questions.
    """

    entry: str
    at: datetime
    role: str
    uid: int | None
    entries: int
    times: int
    asked: str | None
    purpose: str | None
    concerns: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is held about one subject, as somebody in *role* may know it.

    Attributes:
        totals: How many of its values are in each state.
        deferred: How many values an erasure has left, for a floor or a hold.
        says: What this answer rests on, and what it cannot know.
    """

    subject: str
    trail: str
    origin: str
    policy: str
    role: str
    made_at: datetime
    totals: dict[str, int]
    deferred: int
    entries: tuple[HeldEntry, ...]
    openings: tuple[Opening, ...]
    says: tuple[str, ...]

    def to_json(self) -> bytes:
        """Return the answer as one JSON document."""
        return msgspec.json.encode(self)

    def to_html(self) -> str:
        """Return the answer as one page that needs no other file, and can be printed."""
        return _page(self)


def answer(
    view: View,
    vault: Vault,
    policy: Policy,
    opener: Opener,
    subject: str,
    *,
    trail: str,
    origin: str,
    now: datetime,
) -> Answer:
    """
    Return what is held about *subject*.

    Args:
        opener: Opens for whoever asks; it counts the entries whose values it shows.
        subject: Such as ``user:alice``.
        trail, origin: Of the trail, by which the answer names it.

    Raises:
        CallerError: *subject* is not ``type:id``.
        Forbidden: The role sees no values, so it may not learn whose they are.
        KeyUnavailable: The keyring is locked, so nobody can say which entries these are.
        Damaged: An entry that may belong to the answer cannot be read.
    """
    subject = holds.checked_subject(subject)
    hidden = [class_ for class_ in COMMITTED if not opener.viewer.sees(class_)]
    if len(hidden) == len(COMMITTED):
        raise Forbidden(f"subject: role {opener.viewer.role} sees no values of anybody")
    search = _Search(view, vault, policy, opener, subject)
    found = [(item, entry) for item, entry in search.entries() if entry is not None]
    # In the order in which it was recorded, whatever log it is in.
    found.sort(key=lambda pair: pair[0].place)
    values = [value for _, entry in found for value in entry.values]
    return Answer(
        subject=subject,
        trail=trail,
        origin=origin,
        policy=policy.label,
        role=opener.viewer.role,
        made_at=now,
        totals=dict(sorted(Counter(value.state for value in values).items())),
        deferred=sum(bool(value.deferred) for value in values),
        entries=tuple(entry for _, entry in found),
        openings=tuple(search.openings([item for item, _ in found])),
        says=(*_SAYS, *([_HIDDEN.format(", ".join(hidden))] if hidden else [])),
    )


_SAYS = (
    (
        "An entry is about the subject if the subject is its actor or its resource. Who is"
        " only named elsewhere in it, on whose behalf another acted perhaps, is not looked for."
    ),
    (
        "Values are attributed by the policy that they were recorded under: one that it gave"
        " no subject is nobody's, and not here."
    ),
    (
        "Of what was erased, the path is left. An entry of which all that led to the subject"
        " was erased cannot be found by the subject any more, and is not here."
    ),
    (
        "Openings of values are recorded, an entry an hour and process, with the last question"
        " that was asked; which values it showed is not. What was opened within the last hour"
        " may not be recorded yet. Whoever holds the keys can read without Indelible, and that"
        " is recorded nowhere here."
    ),
)
_HIDDEN = (
    "The role does not see {} values: entries that it cannot tell to be about the subject are"
    " not here, nor what legal holds keep."
)


class _Search:
    """Finds what is of one subject."""

    def __init__(
        self,
        view: View,
        vault: Vault,
        policy: Policy,
        opener: Opener,
        subject: str,
    ) -> None:
        self._view, self._vault, self._policy, self._opener = view, vault, policy, opener
        self._subject = subject
        self._policies: dict[str | None, Policy] = {None: policy}
        # For what is read and not shown: it does not count as opened.
        self._reader = vault.opener(opener.viewer, policy)
        self._hashes = frozenset(vault.keyring.subject_hashes(subject))
        # Keys tell whose a value is, and holds what they are on: also what the role does
        # not see.
        self._sees_all = all(map(opener.viewer.sees, COMMITTED))
        self._held = holds.Held(view, vault, policy) if self._sees_all else None
        self._covers = Covers.read(view)
        self._deferred = {
            (item.log, item.index, path): item.ground
            for cover in self._covers.covers.values()
            if cover.plan is not None and not cover.wrong
            for item in cover.plan.deferred
            if self._held is not None or not item.ground.startswith("hold:")
            for path in item.paths
        }

    def entries(self) -> Iterator[tuple[Item, HeldEntry | None]]:
        """Yield each entry that may be about the subject, and what it holds of it."""
        by_log: dict[str, list[int]] = {}
        for log, index in holds.entries_about(self._view, self._reader, self._subject):
            by_log.setdefault(log, []).append(index)
        for log, found in by_log.items():
            indexes = sorted(found)
            for at in range(0, len(indexes), BLOCK):
                some = indexes[at : at + BLOCK]
                rows = self._view.rows(log, some)
                keys = self._vault.keyring.wrapped({box.key for row in rows for box in _boxes(row)})
                owners = {key.id: key.subject for key in keys}
                items = query.items(self._view, log, some, self._reader)
                for item, row in zip(items, rows, strict=True):
                    yield item, self._entry(item, row, owners)

    def _entry(self, item: Item, row: bytes, owners: Mapping[bytes, bytes]) -> HeldEntry | None:
        clear, committed = item.clear, item.clear.committed
        found = self._opener.look(item.log, item.index, clear, row, self._opener.keys([row]))
        boxed = {
            committed[at]: owners.get(box.key)
            for box in _boxes(row)
            for at in box.positions
            if 0 <= at < len(committed)
        }
        mine = set()
        if self._sees_all:
            mine = {path for path, owner in boxed.items() if owner in self._hashes}
        shown = {path: each for path, each in found.items() if self._is_shown(each)}
        named = self._named(item)
        parts = self._parts(item, named, shown)
        parts |= {part for path in mine if (part := self._sealed_by(item, path).subject)}
        if not parts and not mine:
            return None
        mine |= {f"/{part}/id" for part in parts}.intersection(committed)
        # Where no key may tell or can, whose a value is follows from who the actor is, and
        # the resource.
        mine |= {
            path
            for path in committed
            if (not self._sees_all or boxed.get(path) is None)
            and self._sealed_by(item, path).subject in parts
        }
        event = clear.event(
            {path: shown[path].value for path in mine if path in shown},
            {
                path: MASKS.get(found[path].state, MASKS[ValueState.WITHHELD])
                if path in mine
                else OF_OTHERS
                for path in committed
            },
        )
        if not mine.isdisjoint(shown):
            self._opener.opened += 1
        in_clear = list(self._in_clear(item, parts, named))
        return HeldEntry(
            entry=f"{item.log}#{item.index}",
            id=event.id,
            recorded_at=item.recorded_at,
            occurred_at=event.occurred_at,
            action=event.action,
            outcome=event.outcome.value,
            actor=str(event.actor),
            resource=str(event.resource),
            named=named,
            values=(
                *(self._value(item, path, found[path]) for path in committed if path in mine),
                *in_clear,
            ),
            others=len(committed) - len(mine),
        )

    def _is_shown(self, found: Found) -> bool:
        return (
            found.state is ValueState.OPEN
            and found.class_ is not None
            and self._opener.viewer.sees(found.class_)
        )

    def _named(self, item: Item) -> tuple[str, ...]:
        """Return the paths at which the log itself names the subject."""
        actor, resource = item.clear.actor, item.clear.resource
        behind = actor.on_behalf_of
        chain: list[str] = []
        while behind is not None:
            chain.append(str(behind))
            behind = behind.on_behalf_of
        return (
            *(["/actor/id"] if f"{actor.type}:{actor.id}" == self._subject else []),
            *(["/actor/on_behalf_of"] if self._subject in chain else []),
            *(["/resource/id"] if f"{resource.type}:{resource.id}" == self._subject else []),
        )

    def _parts(self, item: Item, named: Sequence[str], shown: Mapping[str, Found]) -> set[str]:
        """Return whether the subject is seen to be the entry's actor, its resource, or both."""
        parts = {part for part in _PARTS if f"/{part}/id" in named}
        for part in _PARTS:
            path = f"/{part}/id"
            kind = getattr(item.clear, part).type
            if path in shown and f"{kind}:{shown[path].value}" == self._subject:
                parts.add(part)
        return parts

    def _rule(self, item: Item, path: str) -> FieldRule:
        """Return how the policy in force classifies *path*: what retention goes by."""
        return self._policy.field(path, item.clear.actor.type, item.clear.resource.type)

    def _sealed_by(self, item: Item, path: str) -> FieldRule:
        """Return how *path* was classified when it was recorded: whose it is."""
        label = item.clear.policy
        policy = self._policies.get(label)
        if policy is None:
            policy = self._policy
            with suppress(VerificationError):  # a document that is damaged is verified elsewhere
                policy = policies.of_label(self._view, str(label)) or self._policy
            self._policies[label] = policy
        return policy.field(path, item.clear.actor.type, item.clear.resource.type)

    def _value(self, item: Item, path: str, found: Found) -> HeldValue:
        state, why = found.state, found.why
        rule = self._rule(item, path)
        class_ = found.class_
        if state is ValueState.MISSING:
            said = self._covers.explain(item.log, item.index, path)
            state, why = said.state, said.why
        is_shown = self._is_shown(found)
        if state is ValueState.OPEN and not is_shown:
            state = ValueState.WITHHELD
        if state not in _HERE:
            return HeldValue(path=path, class_=class_, state=state.value, why=why)
        if class_ is None:
            class_ = rule.class_ if rule.class_ in COMMITTED else FieldClass.INTERNAL
        value = Value(
            log=item.log,
            stream=item.stream,
            index=item.index,
            path=path,
            class_=class_,
            rule=rule,
            recorded_at=item.recorded_at,
        )
        floor, ceiling = floor_of(value, self._policy), ceiling_of(value, self._policy)
        if item.stream == CUSTODY:
            ceiling = None
        on_hold = () if self._held is None else tuple(self._held.of(item.log, item.index))
        return HeldValue(
            path=path,
            class_=class_,
            state=state.value,
            value=_plain(found.value) if is_shown else None,
            why=why,
            floor=floor,
            ceiling=ceiling,
            holds=on_hold,
            becomes=_becomes(floor, ceiling, on_hold),
            because=self._because(item.stream, rule),
            deferred=self._deferred.get((item.log, item.index, path), ""),
        )

    def _in_clear(self, item: Item, parts: set[str], named: Sequence[str]) -> Iterator[HeldValue]:
        """Yield what stands in the log itself and is of the subject."""
        gone = {*item.clear.committed, *item.clear.dropped}
        event = item.clear.event()
        for path in VALUES:
            if path in OPEN:
                names = getattr(item.clear, path[1:])
                given = [
                    (f"{path}/{escape(name)}", value)
                    for name, value in (names.items() if isinstance(names, dict) else ())
                ]
            else:
                given = [(path, value_at(event, path))]
            for each, value in given:
                if value is None or value == () or each in gone:
                    continue
                rule = self._sealed_by(item, each)
                if each in named or rule.subject in parts:
                    yield HeldValue(
                        path=each,
                        class_=FieldClass.PUBLIC,
                        state=CLEAR,
                        value=_plain(value),
                        becomes="stays as long as its entry does",
                        because=self._because(item.stream, rule),
                    )

    def _because(self, stream: str, rule: FieldRule) -> str:
        if rule.why is not None:
            return rule.why
        known = self._policy.streams.get(stream)
        if known is None or known.retention is None:
            return f"policy {self._policy.label}, stream {stream}"
        return f"policy {self._policy.label}, stream {stream}, retention {known.retention}"

    # ---- Who has seen it ----

    def openings(self, items: Sequence[Item]) -> Iterator[Opening]:
        """Yield what the trail says of openings that may have shown one of *items*."""
        if CUSTODY not in self._view.heads():
            return
        asked = Query(stream=CUSTODY, action=OPENED, newest_first=False)
        for opened in query.matches(self._view, asked, self._reader):
            said = opened.event.data if isinstance(opened.event.data, dict) else {}
            is_open = opened.states.get("/data/query", ValueState.OPEN) is ValueState.OPEN
            text = str(said.get("query", "")) if is_open else None
            times = _number(said.get("times")) or 0
            concerns = self._concern(text, times, items, opened)
            if concerns is None:
                continue
            purpose = opened.event.rationale
            yield Opening(
                entry=f"{opened.log}#{opened.index}",
                at=opened.recorded_at,
                role=str(said.get("role", "")),
                uid=_number(said.get("uid")),
                entries=_number(said.get("entries")) or 0,
                times=times,
                asked=text,
                purpose=None if purpose is None else purpose.text,
                concerns=concerns,
            )

    def _concern(
        self, text: str | None, times: int, items: Sequence[Item], opened: Item
    ) -> str | None:
        """Return what an opening has to do with the subject; None where it has nothing."""
        before = [item for item in items if item.recorded_at <= opened.recorded_at]
        if not before:
            return None
        if text is None:
            return "perhaps"
        if text == question(self._subject):
            return "named"
        try:
            asked = Query.parse(text)
        except InvalidQuery:
            asked = None
        if asked is not None and self._subject in (*asked.actor, *asked.resource):
            return "named"
        for item in before:
            if text == f"{item.log}#{item.index}" or (asked is not None and _finds(asked, item)):
                return "found"
        # It may have found what is gone since, or what the role does not see.
        certain = all(state is ValueState.OPEN for item in before for state in item.states.values())
        return None if certain and times == 1 and asked is not None else "perhaps"


_PARTS = ("actor", "resource")
_HERE = frozenset(
    {ValueState.OPEN, ValueState.WITHHELD, ValueState.UNREADABLE, ValueState.TAMPERED}
)
"""States of values that are still there, whoever can read them."""


def question(subject: str) -> str:
    """Return what an opening for subject access is recorded with."""
    return f"subject:{subject}"


def _finds(asked: Query, item: Item) -> bool:
    in_stream = item.stream in asked.stream if asked.stream else item.stream != CUSTODY
    return in_stream and asked.matches(item.entry, item.event)


def _boxes(row: bytes) -> Sequence[Any]:
    try:
        return Row.from_bytes(row).boxes if row else ()
    except Damaged:
        return ()


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON
    return msgspec.to_builtins(value)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _becomes(floor: datetime | None, ceiling: datetime | None, on_hold: Sequence[str]) -> str:
    parts = []
    if on_hold:
        parts.append(f"stays while hold {', '.join(on_hold)} lasts")
    if floor is not None:
        parts.append(f"may not be erased before {_day(floor)}")
    parts.append("stays until it is erased" if ceiling is None else f"goes after {_day(ceiling)}")
    return "; ".join(parts)


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


# ---- The page ----


def _page(answer: Answer) -> str:
    """Return the page: no script, nothing from elsewhere, and everything escaped."""
    entries = "".join(_entry_html(entry) for entry in answer.entries)
    facts = [
        ("Trail", f"{answer.origin} ({answer.trail})"),
        ("Policy", answer.policy),
        ("Seen as", answer.role),
        ("Made at", _time(answer.made_at)),
        ("Entries", str(len(answer.entries))),
        *((state, str(count)) for state, count in answer.totals.items()),
        ("Left by erasures", str(answer.deferred)),
    ]
    openings = _table(
        ("when", "role", "user id", "entries", "questions", "last question", "purpose", "about"),
        [
            (
                f"{_time(each.at)} ({each.entry})",
                each.role,
                "" if each.uid is None else str(each.uid),
                str(each.entries),
                str(each.times),
                "not shown to this role" if each.asked is None else each.asked or "everything",
                each.purpose or "",
                _CONCERNS[each.concerns],
            )
            for each in answer.openings
        ],
    )
    title = f"What is held about {_text(answer.subject)}"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{title}</h1>\n{_list(facts)}"
        f"<h2>Entries</h2>\n{entries or '<p>None.</p>'}\n"
        f"<h2>Who has opened values</h2>\n"
        f"{openings if answer.openings else '<p>Nobody, as far as is recorded.</p>'}\n"
        "<h2>What this answer rests on</h2>\n<ul>"
        + "".join(f"<li>{_text(each)}</li>" for each in answer.says)
        + "</ul>\n</body></html>\n"
    )


_CONCERNS = {
    "named": "asked for this subject",
    "found": "asked for what an entry about this subject has",
    "perhaps": "may have asked for such an entry",
}

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em;font-size:.9em}"
    "th,td{border:1px solid #bbb;padding:.25em .5em;text-align:left;vertical-align:top;"
    "overflow-wrap:anywhere}th{background:#eee}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em}dt{font-weight:600}"
    "dd{margin:0;overflow-wrap:anywhere}section{margin-bottom:2em}"
    "@media print{body{margin:0;max-width:none;font-size:11px}section,tr{break-inside:avoid}}"
)


def _entry_html(entry: HeldEntry) -> str:
    facts = [
        ("Place", f"{entry.entry} ({entry.id})"),
        ("Recorded", _time(entry.recorded_at)),
        ("Happened", _time(entry.occurred_at)),
        ("Actor", entry.actor),
        ("Resource", entry.resource),
        ("Outcome", entry.outcome),
    ]
    if entry.others:
        facts.append(("Not of this subject", f"{entry.others} further values, not shown"))
    rows = [
        (
            each.path,
            each.class_.value if each.class_ is not None else "",
            each.state,
            each.value if isinstance(each.value, str) else _json(each.value),
            each.becomes or each.why,
            f"{each.because}{f'; an erasure left it: {each.deferred}' if each.deferred else ''}",
        )
        for each in entry.values
    ]
    table = _table(("path", "class", "state", "value", "what becomes of it", "why"), rows)
    return f"<section><h3>{_text(entry.action)}</h3>\n{_list(facts)}{table}</section>\n"


def _json(value: object) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


def _list(facts: Sequence[tuple[str, str]]) -> str:
    pairs = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)
    return f"<dl>{pairs}</dl>\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(text: str) -> str:
    """Return *text* for the page: what cannot be seen, or turns text around, is written out."""
    visible = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
    return escape_html(visible)
