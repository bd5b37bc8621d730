"""Sealing: what of an event stays in the log for ever, and what leaves it."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from indelible.disclosure import Disclosure, leaf_of
from indelible.document import default
from indelible.errors import EventTooLarge, InvalidEvent, Malformed
from indelible.event import (
    Actor,
    Approval,
    Change,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Service,
    Source,
    Trace,
)
from indelible.fields import OPEN, VALUES, split
from indelible.merkle import root_of
from indelible.policy import FieldClass, FieldRule, Level, Policy, Rule, Stream
from indelible.seal import DROPPED, MAX_VALUE, NETTED, WITHHELD, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from indelible.seal import Sealed

ID = "01a20c39-dd97-7a23-9bb2-0f1e2d3c4b5a"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
CARD = "4111 1111 1111 1111"
PUBLIC = FieldRule(class_=FieldClass.PUBLIC)
PERSONAL = FieldRule(class_=FieldClass.PERSONAL)
SECRET = FieldRule(class_=FieldClass.SECRET)


def event(**fields: Any) -> Event:
    """Return an event with these *fields*."""
    return Event(
        **{
            "id": ID,
            "occurred_at": NOON,
            "action": "invoice.approve",
            "outcome": Outcome.SUCCESS,
            "actor": Actor(type="user", id="alice"),
            "resource": Resource(type="invoice", id="INV-7"),
            **fields,
        }
    )


WHOLE = event(
    schema="invoice/2",
    kind="data_change",
    outcome=Outcome.FAILURE,
    reason="over limit",
    actor=Actor(
        type="user",
        id="alice",
        name="Alice",
        roles=("clerk",),
        on_behalf_of=Actor(type="user", id="bob", name="Bob"),
    ),
    resource=Resource(type="invoice", id="INV-7", name="Invoice 7"),
    changes={"status": Change("draft", "paid"), "note": Change(new=None)},
    data={"amount": 5, "deep": {"er": [1, None, "text"]}},
    rationale=Rationale(text="agreed", code="PO", reference="T-1"),
    session="session-1",
    request="request-1",
    client=Client(ip="192.0.2.1", user_agent="browser/1"),
    trace=Trace(trace_id="0af7", span_id="b7ad"),
    service=Service(name="shop", version="3"),
    tenant="tenant-1",
    approval=Approval.by("user:carol", "user:dave", reference="A-1"),
    source=Source(format="jsonl", id="line-1"),
)
"""An event that has every field."""


def policy(
    fields: dict[str, FieldRule] | None = None,
    *,
    level: Level = Level.FULL,
    require: tuple[str, ...] = (),
) -> Policy:
    """Return a policy with one rule."""
    return Policy(
        id="shop",
        streams={"user": Stream(require=require)},
        rules=(Rule(name="all", level=level),),
        fields=fields or {},
    )


def sealed_by(made: Event, by: Policy, **given: Any) -> Sealed:
    """Seal an event as a policy says."""
    return seal(made, by.rule_on(made), by, **given)


def opened(sealed: Sealed) -> dict[str, Any]:
    """Return what the disclosures open, by path."""
    return {each.path: each.value for each in map(Disclosure.from_bytes, sealed.disclosures)}


def nowhere(text: str, sealed: Sealed) -> bool:
    """Tell whether *text* is in none of the bytes that are made of an event."""
    needle = text.encode()
    return all(needle not in each for each in (sealed.event, *sealed.disclosures))


# ---- Classes ----


def test_a_public_value_stays_in_clear() -> None:
    """What the policy calls public can be read in the log by whoever has the log."""
    sealed = sealed_by(WHOLE, policy({"*": PUBLIC}))

    assert WHOLE == unseal(sealed.event).event()
    assert ((), ()) == (sealed.clear.committed, sealed.disclosures)


@pytest.mark.parametrize(
    "class_", [FieldClass.INTERNAL, FieldClass.ACCOUNTABLE, FieldClass.PERSONAL]
)
def test_a_committed_value_leaves_the_log(class_: FieldClass) -> None:
    """Of what must be forgettable the log holds its path, and one hash over all of them."""
    sealed = sealed_by(WHOLE, policy({"*": FieldRule(class_=class_)}))

    clear = msgspec.json.decode(sealed.event)
    assert list(VALUES) == clear["committed"]
    assert {
        "id",
        "schema",
        "kind",
        "occurred_at",
        "action",
        "outcome",
        "actor",
        "resource",
        "trace",
        "service",
        "approval",
        "source",
        "policy",
        "rule",
        "committed",
        "commitment",
    } == clear.keys()
    assert {"type": "user", "roles": ["clerk"]} == clear["actor"]
    assert {"type": "invoice"} == clear["resource"]
    assert {"n": 2, "distinct": True} == clear["approval"]
    assert {"format": "jsonl"} == clear["source"]
    assert WHOLE == unseal(sealed.event).event(opened(sealed))


def test_a_field_that_nobody_classified_is_personal() -> None:
    """A policy that forgot a field commits to it: forgetting cannot publish."""
    sealed = sealed_by(WHOLE, policy())

    assert VALUES == sealed.clear.committed
    assert {FieldClass.PERSONAL} == {value.rule.class_ for value in sealed.values if value.rule}


def test_the_commitment_is_over_the_paths_in_their_order() -> None:
    """One hash covers all values; whoever has the values can compute it again."""
    sealed = sealed_by(WHOLE, policy())

    assert list(sealed.clear.committed) == list(opened(sealed))
    assert [leaf_of(each) for each in sealed.disclosures] == list(sealed.leaves)
    assert root_of(sealed.leaves) == sealed.commitment
    assert sealed.commitment == urlsafe_b64decode(f"{sealed.clear.commitment}=")


def test_a_secret_is_kept_nowhere() -> None:
    """Of a password there is only that it changed: no byte of it, and no hash of it."""
    made = event(
        reason="hunter2",
        changes={"password": Change("hunter2", "tr0ub4dor"), "email": Change("old", "new")},
        data={"pin": "hunter2"},
    )
    fields = {"/reason": SECRET, "/changes/password": SECRET, "/data/pin": SECRET}

    sealed = sealed_by(made, policy({**fields, "/changes/*": PERSONAL}))

    assert ("/reason", "/changes/password", "/data/pin") == sealed.clear.dropped
    assert "/changes/email" in sealed.clear.committed
    assert {"/reason", "/changes/password", "/data/pin"}.isdisjoint(sealed.clear.committed)
    assert nowhere("hunter2", sealed)
    assert nowhere("tr0ub4dor", sealed)
    shown = sealed.clear.event(opened(sealed))
    assert DROPPED == shown.reason
    assert Change(DROPPED, DROPPED) == (shown.changes or {})["password"]
    assert {"pin": DROPPED} == shown.data


def test_all_that_nobody_declared_can_be_secret() -> None:
    """What stays together below data is dropped together, names included."""
    made = event(data={"unknown": "hunter2", "amount": 5})

    sealed = sealed_by(made, policy({"/data": SECRET, "/data/amount": PUBLIC}))

    assert ("/data",) == sealed.clear.dropped
    assert nowhere("hunter2", sealed)
    assert nowhere("unknown", sealed)
    assert {"amount": 5} == sealed.clear.event(opened(sealed)).data


def fingerprint(path: str, value: object) -> str:
    """Make a fingerprint under a key that stands here."""
    return hmac.digest(b"key", msgspec.json.encode([path, value]), "sha256").hex()[:32]


def test_a_secret_can_be_compared_without_being_kept() -> None:
    """A keyed fingerprint says that two secrets are the same, and nothing of what they are."""
    rule = FieldRule(class_=FieldClass.SECRET, fingerprint=True)
    by = policy({"/changes/password": rule, "/session": rule, "*": PUBLIC, "/changes": PUBLIC})
    made = event(changes={"password": Change("hunter2", "tr0ub4dor")}, session="s-1")
    started = event(changes={"password": Change(new="hunter2")})

    one = sealed_by(made, by, fingerprint=fingerprint)
    other = sealed_by(started, by, fingerprint=fingerprint)

    before, after = (opened(each)["/changes/password"] for each in (one, other))
    assert fingerprint("/changes/password", "hunter2") == before["old"] == after["new"]
    assert before["old"] != before["new"]
    assert {"new"} == after.keys()
    assert fingerprint("/session", "s-1") == one.clear.event(opened(one)).session
    for text in ("hunter2", "tr0ub4dor", "s-1"):
        assert nowhere(text, one)
    assert ("/changes/password", "/session") == one.clear.dropped == one.clear.committed


def test_without_a_key_no_fingerprint_is_kept() -> None:
    """Where nobody can make a fingerprint, a secret is dropped like any other."""
    rule = FieldRule(class_=FieldClass.SECRET, fingerprint=True)

    sealed = sealed_by(event(session="s-1"), policy({"/session": rule, "*": PUBLIC}))

    assert ((), ("/session",)) == (sealed.clear.committed, sealed.clear.dropped)
    assert nowhere("s-1", sealed)


@pytest.mark.parametrize("path", [path for path in VALUES if path not in OPEN])
def test_a_fingerprint_of_any_field_can_be_read_again(path: str) -> None:
    """Whatever field is secret, its entry can be shown, with the fingerprint in its place."""
    rule = FieldRule(class_=FieldClass.SECRET, fingerprint=True)
    sealed = sealed_by(WHOLE, policy({path: rule, "*": PUBLIC}), fingerprint=fingerprint)

    shown = unseal(sealed.event).event(opened(sealed))

    assert (path,) == sealed.clear.committed
    assert opened(sealed)[path].encode() in msgspec.json.encode(shown)


def test_the_class_follows_the_types_around_a_field() -> None:
    """The id of a person is committed where that of an invoice stays in clear."""
    by = policy({"*": PUBLIC, "/actor/id@user": PERSONAL, "/resource/id@customer": PERSONAL})

    about_person = sealed_by(event(resource=Resource(type="customer", id="C-1")), by)
    by_service = sealed_by(event(actor=Actor(type="service", id="cron")), by)

    assert ("/actor/id", "/resource/id") == about_person.clear.committed
    assert () == by_service.clear.committed
    assert ("user:alice", "customer:C-1") == (about_person.actor, about_person.resource)


# ---- Levels, and what is required ----


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        (Level.METADATA, set[str]()),
        (Level.CHANGES, {"/changes"}),
        (Level.FULL, {"/changes", "/data"}),
    ],
)
def test_the_level_says_how_much_is_kept(level: Level, kept: set[str]) -> None:
    """What the level leaves out is in no byte, neither in clear nor committed."""
    sealed = sealed_by(WHOLE, policy(level=level))

    assert kept == {"/changes", "/data"}.intersection(sealed.clear.committed)
    assert ("/changes" in kept) != nowhere("draft", sealed)
    assert ("/data" in kept) != nowhere("amount", sealed)
    shown = sealed.clear.event(opened(sealed))
    assert WHOLE.rationale == shown.rationale
    assert (WHOLE.changes if "/changes" in kept else None) == shown.changes
    assert (WHOLE.data if "/data" in kept else None) == shown.data


def test_an_entry_names_what_decided_about_it() -> None:
    """Policy, version and rule stand in clear, so what was not captured can be explained."""
    by = policy()

    sealed = sealed_by(event(), by)

    assert (by.label, "all") == (sealed.clear.policy, sealed.clear.rule)
    assert by.label.startswith("shop/1#")


@pytest.mark.parametrize("field", ["rationale", "session", "client", "changes", "approval"])
def test_an_event_without_a_required_field_is_refused(field: str) -> None:
    """Where the policy asks for a field, nothing is recorded without it."""
    by = policy(require=(field,))

    with pytest.raises(InvalidEvent, match=f"^{field}: found None, expected one, as rule 'all'"):
        sealed_by(event(), by)

    sealed_by(WHOLE, by)


def test_what_the_level_leaves_out_can_still_be_required() -> None:
    """Whoever must say what changed must say it, even where only that is kept."""
    by = policy(level=Level.METADATA, require=("changes",))

    with pytest.raises(InvalidEvent):
        sealed_by(event(), by)

    assert sealed_by(WHOLE, by).clear.changes is None


# ---- Nonce, purity ----


def test_an_entry_without_a_commitment_has_a_nonce() -> None:
    """A purged entry leaves its hash: without a nonce, a plain event could be guessed from it."""
    first, second = (sealed_by(event(), policy({"*": PUBLIC})) for _ in range(2))

    assert first.event != second.event
    for sealed in (first, second):
        assert sealed.clear.nonce is not None
        assert 16 == len(urlsafe_b64decode(f"{sealed.clear.nonce}=="))
        assert sealed.clear.commitment is None
    assert sealed_by(event(), policy()).clear.nonce is None


def test_two_events_alike_are_committed_to_differently() -> None:
    """Nobody can tell from two entries that they hold the same value."""
    first, second = (sealed_by(event(), policy()) for _ in range(2))

    assert opened(first) == opened(second)
    assert first.commitment != second.commitment
    assert set(first.leaves).isdisjoint(second.leaves)


@pytest.mark.parametrize("by", [policy(), policy({"*": PUBLIC}), default()])
def test_sealing_is_a_function_of_what_it_is_given(by: Policy) -> None:
    """The same event, policy and randomness make the same bytes; the event is not changed."""
    before = msgspec.json.encode(WHOLE)

    first, second = (sealed_by(WHOLE, by, entropy=bytes) for _ in range(2))

    assert first == second
    assert before == msgspec.json.encode(WHOLE)


def test_what_the_trail_says_of_itself_is_sealed_whole() -> None:
    """Without a policy nothing leaves the event, and no nonce is added."""
    sealed = seal(WHOLE)

    assert WHOLE == unseal(sealed.event).event()
    assert (None, None, ()) == (sealed.clear.nonce, sealed.clear.commitment, sealed.values)


# ---- Names ----


NAMES = ["status", "a~b/c", "~1", "~0", "", "/", "**", "ünï 名", "A" * 500, '"', "\u2028"]


@pytest.mark.parametrize(
    ("container", "name"),
    [("/data", name) for name in NAMES] + [("/changes", name) for name in NAMES if name],
)
def test_a_declared_name_has_a_path_of_its_own(container: str, name: str) -> None:
    """Any name can be declared; its path is a JSON pointer, and leads back to the name."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    value: Any = Change("old", "new") if container == "/changes" else ["value"]
    made = event(**{container[1:]: {name: value, "other": value}})

    sealed = sealed_by(made, policy({"*": PUBLIC, f"{container}/{escaped}": PERSONAL}))

    assert (f"{container}/{escaped}",) == sealed.clear.committed
    assert made == sealed.clear.event(opened(sealed))
    assert "other" in (getattr(sealed.clear, container[1:]) or {})


@pytest.mark.parametrize("container", OPEN)
def test_names_that_nobody_declared_stay_together(container: str) -> None:
    """A name may be data, so it stands in clear only where the policy has it."""
    value: Any = Change("old", "new") if container == "/changes" else "value"
    made = event(**{container[1:]: {"alice@example.com": value, "b": value, "amount": value}})

    sealed = sealed_by(made, policy({f"{container}/amount": PERSONAL}))

    assert [f"{container}/amount", container] == [
        path for path in sealed.clear.committed if path.startswith(container)
    ]
    assert {"alice@example.com", "b"} == opened(sealed)[container].keys()
    assert b"alice@example.com" not in sealed.event
    assert made == sealed.clear.event(opened(sealed))


@pytest.mark.parametrize("container", OPEN)
def test_a_pattern_declares_all_names(container: str) -> None:
    """With a pattern for them, each field below has a value of its own to open or erase."""
    value: Any = Change("old", "new") if container == "/changes" else "value"
    made = event(**{container[1:]: {"b": value, "a": value}})

    sealed = sealed_by(made, policy({"*": PUBLIC, f"{container}/*": PERSONAL}))

    assert (f"{container}/b", f"{container}/a") == sealed.clear.committed


@pytest.mark.parametrize("container", OPEN)
def test_public_and_other_names_lie_side_by_side(container: str) -> None:
    """What stays in clear and what is opened make the event again, whole."""
    value: Any = Change("old", "new") if container == "/changes" else {"deep": ["value"]}
    made = event(**{container[1:]: {"open": value, "own": value, "rest": value}})
    fields = {f"{container}/open": PUBLIC, f"{container}/own": PERSONAL}

    sealed = sealed_by(made, policy(fields))

    assert {"open"} == (getattr(sealed.clear, container[1:]) or {}).keys()
    assert made == unseal(sealed.event).event(opened(sealed))


# ---- Size ----


def test_a_large_value_leaves_a_small_entry() -> None:
    """A megabyte lies in the vault; the entry holds 32 bytes for it."""
    made = event(data={"document": "x" * 1_000_000})

    sealed = sealed_by(made, policy())

    assert len(sealed.event) < 1_000
    assert made == sealed.clear.event(opened(sealed))


def test_a_value_has_at_most_8_mib() -> None:
    """A value that no vault should hold is refused, and the message shows nothing of it."""
    by = policy({"*": PUBLIC, "/data/document": PERSONAL})
    around = len(sealed_by(event(data={"document": ""}), by).disclosures[0])
    fits = event(data={"document": "x" * (MAX_VALUE - around)})
    made = event(data={"document": "x" * (MAX_VALUE - around + 1)})

    with pytest.raises(EventTooLarge, match=f"^value: found '{MAX_VALUE + 1} bytes', expected at"):
        sealed_by(made, by)

    assert MAX_VALUE == len(sealed_by(fits, by).disclosures[0])


@pytest.mark.parametrize("bad", ["\0", "\ud800"])
@pytest.mark.parametrize("by", [policy(), policy({"*": PUBLIC})])
def test_a_text_that_cannot_be_kept_is_refused(bad: str, by: Policy) -> None:
    """NUL and half characters are refused in committed values as in those in clear."""
    made = event(data={"a": ["b", {"c": f"text{bad}"}]})

    with pytest.raises(InvalidEvent, match=r"^data\.a\.1\.c: found a text, expected a text"):
        sealed_by(made, by)


# ---- The net ----


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/reason", {"reason": f"declined: {CARD}"}),
        ("/resource/id", {"resource": Resource(type="card", id=CARD)}),
        ("/resource/name", {"resource": Resource(type="card", id="1", name=CARD)}),
        ("/rationale", {"rationale": Rationale(text="agreed", reference=CARD)}),
        ("/session", {"session": CARD}),
        ("/request", {"request": f"GET /pay?card={CARD}"}),
        ("/client/user_agent", {"client": Client(ip="192.0.2.1", user_agent=CARD)}),
        ("/tenant", {"tenant": CARD}),
        ("/source/id", {"source": Source(format="jsonl", id=CARD)}),
    ],
)
def test_a_secret_in_a_public_field_is_caught(path: str, fields: dict[str, Any]) -> None:
    """What looks like a card number goes into the vault, though the policy called it public."""
    made = event(**fields)

    sealed = sealed_by(made, policy({"*": PUBLIC}))

    assert path in NETTED
    assert (path,) == sealed.clear.committed == sealed.clear.caught
    assert [FieldClass.PERSONAL] == [value.rule.class_ for value in sealed.values if value.rule]
    assert CARD.encode() not in sealed.event
    assert made == unseal(sealed.event).event(opened(sealed))


@pytest.mark.parametrize("container", OPEN)
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_secret_below_a_public_name_is_caught(container: str, is_declared: bool) -> None:
    """A caught value has a path of its own only where its name is declared."""
    value: Any = Change("paid by", CARD) if container == "/changes" else {"by": [CARD]}
    plain: Any = Change("a", "b") if container == "/changes" else "plain"
    made = event(**{container[1:]: {"method": value, "status": plain}})
    fields = {f"{container}/*": PUBLIC} if is_declared else {}

    sealed = sealed_by(made, policy({"*": PUBLIC, **fields}))

    path = f"{container}/method" if is_declared else container
    assert (path,) == sealed.clear.committed == sealed.clear.caught
    assert CARD.encode() not in sealed.event
    assert b"method" not in sealed.event or is_declared
    assert {"status"} == (getattr(sealed.clear, container[1:]) or {}).keys()
    assert made == unseal(sealed.event).event(opened(sealed))


def test_what_is_caught_twice_is_named_once() -> None:
    """Several finds in what stays together are one value with one path."""
    made = event(data={"a": CARD, "b": {"password": "hunter2"}, "c": 1})

    sealed = sealed_by(made, policy({"*": PUBLIC}))

    assert ("/data",) == sealed.clear.committed == sealed.clear.caught
    assert {"a", "b"} == opened(sealed)["/data"].keys()
    assert {"c": 1} == sealed.clear.data


# ---- Reading again ----


@pytest.mark.parametrize(
    "change",
    [
        {"committed": ["/session"]},
        {"commitment": "A" * 43},
        {"committed": ["/session"], "commitment": ""},
        {"committed": ["/session"], "commitment": "A" * 42},
        {"committed": ["/session"], "commitment": "A" * 42 + "B"},
        {"committed": ["/session"], "commitment": "A" * 42 + "="},
        {"committed": ["/session"], "commitment": "é" * 43},
        {"committed": []},
        {"dropped": []},
        {"unknown": 1},
        {"policy": None},
    ],
)
def test_what_is_no_sealed_event_is_refused(change: dict[str, Any]) -> None:
    """Paths and commitment come together, in their exact form, and nothing else stands there."""
    parts = msgspec.json.decode(seal(event()).event)

    with pytest.raises(Malformed, match="event"):
        unseal(msgspec.json.encode({**parts, **change}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/changes", ["list"]),
        ("/changes", {"a": 1}),
        ("/changes/a", "text"),
        ("/data", "text"),
        ("/data", 7),
        ("/rationale", "text"),
        ("/rationale", {"text": ""}),
        ("/actor/on_behalf_of", {"type": "nobody"}),
        ("/actor/id", 7),
        ("/actor/unknown", "x"),
        ("/resource/id", ""),
        ("/approval/approvers", 7),
        ("/approval/reference", 7),
        ("/client/ip", {}),
        ("/session", []),
        ("session", "x"),
        ("", "x"),
    ],
)
def test_values_that_make_no_event_are_malformed(path: str, value: object) -> None:
    """Whatever was committed to, reading it ends in an event or in one kind of error."""
    clear = unseal(seal(event()).event)
    clear.committed = (path,)

    with pytest.raises(Malformed, match=f"event {ID}"):
        clear.event({path: value})


def test_a_value_that_is_not_shown_has_a_mask() -> None:
    """An entry can be read without its values: a text stands for each, whatever its length."""
    sealed = sealed_by(WHOLE, policy({"/changes/*": PERSONAL, "/data/*": PERSONAL}))
    masks = dict.fromkeys(sealed.clear.committed, "[gone]")

    bare = sealed.clear.event()
    masked = sealed.clear.event({"/session": "session-1"}, masks)

    assert (WITHHELD, WITHHELD) == (bare.actor.id, bare.session)
    assert {"amount": WITHHELD, "deep": WITHHELD} == bare.data
    assert ("[gone]", "session-1") == (masked.actor.id, masked.session)
    assert Rationale(text="[gone]") == masked.rationale
    assert Change("[gone]", "[gone]") == (masked.changes or {})["status"]
    assert ("clerk",) == masked.actor.roles
    with pytest.raises(Malformed):
        sealed.clear.event({}, {})


# ---- Any event, any policy ----


# With a dot, which stands in no hash.
names = st.sampled_from(["q.a", "q.b/", "q.c~", "q.é", "q.d e"])
other_names = st.sampled_from(["r.a", "r.b/", "r.c~", "r.é", "r.d e"])
classes = st.sampled_from(FieldClass)


@st.composite
def marked_events(draw: st.DrawFn) -> Event:
    """Return an event in which each text occurs once."""
    texts = iter(f"mk.{number}.x" for number in range(1_000))

    def text() -> str:
        return next(texts)

    def perhaps() -> str | None:
        return next(texts) if draw(st.booleans()) else None

    def some() -> bool:
        return draw(st.booleans())

    def nested() -> Any:  # noqa: ANN401 - any JSON
        return draw(st.sampled_from([text(), [text(), 1], {"in": {"side": text()}}, None, 0.5]))

    return event(
        reason=perhaps(),
        actor=Actor(
            type=draw(st.sampled_from(["user", "service"])),
            id=text(),
            name=perhaps(),
            on_behalf_of=Actor(type="user", id=text(), name=perhaps()) if some() else None,
        ),
        resource=Resource(
            type=draw(st.sampled_from(["invoice", "customer"])), id=text(), name=perhaps()
        ),
        changes={
            name: Change(nested() if some() else UNSET, nested() if some() else UNSET)
            for name in draw(st.lists(names, unique=True))
        }
        if some()
        else None,
        data={name: nested() for name in draw(st.lists(other_names, unique=True))}
        if some()
        else None,
        rationale=Rationale(text=text(), code=perhaps()) if some() else None,
        session=perhaps(),
        request=perhaps(),
        client=Client(ip=perhaps(), user_agent=perhaps()) if some() else None,
        tenant=perhaps(),
        approval=Approval.by(text(), text(), reference=perhaps()) if some() else None,
        source=Source(format="jsonl", id=text()) if some() else None,
    )


paths = st.sampled_from(
    [
        "*",
        *VALUES,
        "/changes/*",
        "/data/*",
        "/actor/*",
        "/actor/id@user",
        "/resource/id@customer,person",
        "/changes/*@customer",
    ]
) | st.builds(
    lambda container, name: f"{container}/{name.replace('~', '~0').replace('/', '~1')}",
    st.sampled_from(OPEN),
    names | other_names,
)


def policies(classes: Iterable[FieldClass]) -> st.SearchStrategy[Policy]:
    """Return policies that classify fields at will."""
    rules = st.builds(lambda each: FieldRule(class_=each), st.sampled_from(list(classes)))
    return st.dictionaries(paths, rules, max_size=12).map(policy)


def parts_of(made: Event) -> dict[str, Any]:
    """Return the value at each path that a policy may classify; names apart."""
    found: dict[str, Any] = {}
    for path in VALUES:
        value: Any = made
        for name in path.split("/")[1:]:
            value = getattr(value, name, None)
        if path in OPEN:
            found |= {f"{path}/{name}": each for name, each in (value or {}).items()}
        elif value not in {None, ()}:
            found[path] = value
    return found


def marks_in(value: object) -> set[bytes]:
    """Return the texts in *value* that occur nowhere else."""
    encoded = msgspec.json.encode(value)
    return {part for part in encoded.split(b'"') if part.startswith(b"mk.")}


@settings(deadline=None)
@given(marked_events(), policies(each for each in FieldClass if each is not FieldClass.SECRET))
def test_what_is_opened_makes_the_event_again(made: Event, by: Policy) -> None:
    """Whatever is committed: with all its values, an entry is the event that was recorded."""
    sealed = sealed_by(made, by)

    clear = unseal(sealed.event)

    assert sealed.clear == clear
    assert made == clear.event(opened(sealed))


@settings(deadline=None)
@given(marked_events(), policies(FieldClass))
def test_only_public_values_stand_in_the_log(made: Event, by: Policy) -> None:
    """For any event and policy: each value is where its class says, and nowhere else."""
    sealed = sealed_by(made, by)

    rules = by.classification(made.actor.type, made.resource.type)
    in_boxes = {each.path: each.data for each in map(Disclosure.from_bytes, sealed.disclosures)}
    for place, value in parts_of(made).items():
        container, name = place, None
        if place.startswith(("/changes/", "/data/")):
            _, first, name = place.split("/", 2)
            container = f"/{first}"
        path, rule = (place, rules[place]) if name is None else rules.below(container, name)
        for mark in marks_in(value):
            assert (rule.class_ is FieldClass.PUBLIC) == (mark in sealed.event)
            holders = [each for each, data in in_boxes.items() if mark in data]
            assert ([] if rule.class_ in {FieldClass.PUBLIC, FieldClass.SECRET} else [path]) == (
                holders
            )
        # A name may stand below the other container as well, and there be public.
        once = sum(each.endswith(f"/{name}") for each in parts_of(made)) == 1
        hidden = path == container and rule.class_ is not FieldClass.PUBLIC
        if name is not None and hidden and once:
            assert msgspec.json.encode(name)[1:-1] not in sealed.event
        if rule.class_ is FieldClass.SECRET:
            assert path in sealed.clear.dropped


@settings(deadline=None)
@given(marked_events(), policies(FieldClass))
def test_paths_in_clear_are_declared_and_in_order(made: Event, by: Policy) -> None:
    """A path is made of names that the policy has, never of data; each stands once, in order."""
    sealed = sealed_by(made, by)

    committed, dropped = sealed.clear.committed, sealed.clear.dropped
    for path in (*committed, *dropped):
        container, name = split(path)
        assert container in VALUES
        if name is not None:
            pattern, _ = by.pattern(path, made.actor.type, made.resource.type)
            assert pattern.startswith(f"{container}/")
    for named in (committed, dropped):
        places = [VALUES.index(split(path)[0]) for path in named]
        assert sorted(places) == places
        assert len(set(named)) == len(named)
    assert set(committed).isdisjoint(dropped)
    assert bool(committed) == (sealed.clear.nonce is None)
