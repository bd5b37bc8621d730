"""What happened, as typed values: what can be said, and that nothing wrong can be built."""

from __future__ import annotations

import dataclasses
import functools
import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from indelible.errors import EventTooLarge, InvalidEvent, Malformed
from indelible.event import (
    MAX_NESTING,
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
    id_time,
    parse_changes,
    parse_outcome,
    parse_rationale,
    plain,
    uuid7,
)
from indelible.seal import MAX_SEALED, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "01a20c39-dd97-7a23-9bb2-0f1e2d3c4b5a"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def event(**fields: Any) -> Event:
    """Return a small event with these *fields*."""
    return Event(
        **{
            "id": ID,
            "occurred_at": NOON,
            "action": "invoice.approve",
            "outcome": Outcome.SUCCESS,
            "actor": Actor.parse("user:alice"),
            "resource": Resource.parse("invoice:INV-7"),
            **fields,
        }
    )


def nested(depth: int) -> object:
    """Return a value inside that many dictionaries."""
    return functools.reduce(lambda inner, _: {"a": inner}, range(depth), 1)  # type: ignore[return-value, arg-type]


WHOLE = event(
    schema="invoice.approve/2",
    kind="administration",
    reason="limit exceeded",
    actor=Actor(
        type="service",
        id="billing",
        name="Billing",
        roles=("finance", "batch"),
        on_behalf_of=Actor.parse("user:alice"),
    ),
    resource=Resource(type="invoice", id="INV-7", name="Invoice 7"),
    changes={"status": Change("draft", "paid"), "note": Change(new="new"), "old": Change("gone")},
    data={"amount": "12.30", "lines": [1, 2.5, None, True]},
    rationale=Rationale(text="PO-99 agreed", code="PO", reference="TICKET-1"),
    session="s-1",
    request="r-1",
    client=Client(ip="203.0.113.9", user_agent="curl/8"),
    trace=Trace(trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="00f067aa0ba902b7"),
    service=Service(name="shop", version="3.1"),
    tenant="acme",
    approval=Approval.by("user:bob", "user:carol", reference="CAB-5"),
    source=Source(format="cloudtrail", id="e-1"),
)


class Money(msgspec.Struct):
    """A model of an application, made with msgspec."""

    amount: Decimal
    currency: str = "EUR"
    note: str | msgspec.UnsetType = UNSET


class Order(pydantic.BaseModel):
    """A model of an application, made with pydantic."""

    number: int
    placed_at: datetime


@dataclasses.dataclass
class Line:
    """A model of an application, made with a dataclass."""

    product: str
    price: Money


class Colour(Enum):
    """An enumeration of an application."""

    RED = "red"


class Shade(str, Enum):  # noqa: UP042 - whose str() is not its value
    """One whose members are strings, and say something else of themselves."""

    DARK = "dark"


class Size(IntEnum):
    """One whose members are integers."""

    LARGE = 3


class Text(str):
    """A string of an application's own kind."""

    __slots__ = ()


class Nowhere(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, _: datetime | None) -> None:
        """Return nothing."""

    dst = tzname = utcoffset


class Unspeakable:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


# ---- What can be said ----


def test_every_field_of_an_event_is_kept_in_its_place() -> None:
    """Who, what, to what, how it ended, why and from where: each has a name in the sealed bytes."""
    sealed = msgspec.json.decode(seal(WHOLE).event)

    assert [
        *("id", "schema", "kind", "occurred_at", "action", "outcome", "reason", "actor"),
        *("resource", "changes", "data", "rationale", "session", "request", "client", "trace"),
        *("service", "tenant", "approval", "source"),
    ] == list(sealed)
    assert {
        "type": "service",
        "id": "billing",
        "name": "Billing",
        "roles": ["finance", "batch"],
        "on_behalf_of": {"type": "user", "id": "alice"},
    } == sealed["actor"]
    assert {"type": "invoice", "id": "INV-7", "name": "Invoice 7"} == sealed["resource"]
    assert {
        "status": {"old": "draft", "new": "paid"},
        "note": {"new": "new"},
        "old": {"old": "gone"},
    } == sealed["changes"]
    assert {"text": "PO-99 agreed", "code": "PO", "reference": "TICKET-1"} == sealed["rationale"]
    assert {
        "n": 2,
        "distinct": True,
        "approvers": ["user:bob", "user:carol"],
        "reference": "CAB-5",
    } == sealed["approval"]
    assert "2026-11-24T12:00:00Z" == sealed["occurred_at"]


def test_what_is_not_said_is_absent() -> None:
    """An entry holds no empty fields."""
    assert (
        b'{"id":"%b","occurred_at":"2026-11-24T12:00:00Z","action":"invoice.approve",'
        b'"outcome":"success","actor":{"type":"user","id":"alice"},'
        b'"resource":{"type":"invoice","id":"INV-7"}}' % ID.encode() == seal(event()).event
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user:alice", Actor(type="user", id="alice")),
        ("user:a:b:c", Actor(type="user", id="a:b:c")),
        ("service:billing", Actor(type="service", id="billing")),
        ("system", Actor(type="system")),
        ("system:cron", Actor(type="system", id="cron")),
        ("anonymous", Actor(type="anonymous")),
        ("unknown", Actor(type="unknown")),
    ],
)
def test_an_actor_is_written_as_it_is_read(text: str, expected: Actor) -> None:
    """``user:alice`` names the same actor everywhere."""
    assert expected == Actor.parse(text)
    assert text == str(expected)


@pytest.mark.parametrize(
    "text", ["", ":", "user", "user:", "service", "alice", "User:alice", "robot:r2", "system:"]
)
def test_an_actor_has_a_known_type_and_a_name(text: str) -> None:
    """Nobody acts without being named, except where the type says why."""
    with pytest.raises(InvalidEvent, match=r"^actor"):
        Actor.parse(text)


@pytest.mark.parametrize("text", ["invoice:INV-7", "a.b-c_d:x:y", "file:/etc/passwd", "t: "])
def test_a_resource_is_written_as_it_is_read(text: str) -> None:
    """``invoice:INV-7`` names the same resource everywhere."""
    assert text == str(Resource.parse(text))


@pytest.mark.parametrize("text", ["", ":", "invoice", "invoice:", ":7", "in voice:7", "ärger:1"])
def test_a_resource_has_a_type_and_an_id(text: str) -> None:
    """What was acted on can be named and found again."""
    with pytest.raises(InvalidEvent, match=r"^resource"):
        Resource.parse(text)


def test_texts_and_typed_values_mean_the_same() -> None:
    """Strings are enough, and typed values are there for those who want them."""
    assert Outcome.DENIED is parse_outcome("denied")
    assert Rationale(text="PO-99") == parse_rationale("PO-99")
    assert {"a": Change(1, 2)} == parse_changes({"a": (1, 2)})
    assert {"a": Change(1, 2)} == parse_changes({"a": [1, 2]})  # type: ignore[dict-item]
    assert {"a": Change(new=2)} == parse_changes({"a": Change(new=2)})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": 1}, {"a": 1}),
        (Money(amount=Decimal("12.30")), {"amount": "12.30", "currency": "EUR"}),
        (
            Order(number=7, placed_at=NOON.astimezone(timezone(timedelta(hours=1)))),
            {"number": 7, "placed_at": "2026-11-24T12:00:00Z"},
        ),
        (
            Line(product="nail", price=Money(amount=Decimal(1))),
            {"product": "nail", "price": {"amount": "1", "currency": "EUR"}},
        ),
    ],
)
def test_data_may_be_a_model_of_the_application(data: object, expected: object) -> None:
    """msgspec, pydantic and dataclass models and dictionaries are kept alike."""
    made = event(data=data)

    assert expected == made.data
    assert made == unseal(seal(made).event).event()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NOON, "2026-11-24T12:00:00Z"),
        (date(2026, 11, 24), "2026-11-24"),
        (time(12, 30), "12:30:00"),
        (timedelta(minutes=1), 60.0),
        (Decimal("0.10"), "0.10"),
        (UUID(ID), ID),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        (Colour.RED, "red"),
        (Shade.DARK, "dark"),
        (Size.LARGE, 3),
        (Text("text"), "text"),
        ({Shade.DARK: {Text("k"): 1}}, {"dark": {"k": 1}}),
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
    ],
)
def test_values_are_kept_as_json_carries_them_exactly(value: object, expected: object) -> None:
    """Times, decimals, bytes and enumerations become texts that mean the same to every reader."""
    found = plain(value, "data")

    assert expected == found
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_a_change_of_any_kind_of_field_is_kept() -> None:
    """Old and new values may be of the application's own types, and so may the field's name."""
    changes = parse_changes({Shade.DARK: (Colour.RED, Decimal("1.5")), "tags": ({"b", "a"}, None)})

    assert {"dark": Change("red", "1.5"), "tags": Change(["a", "b"], None)} == changes
    assert changes == unseal(seal(event(changes=changes)).event).event().changes


# ---- Kinds ----


def test_an_authentication_is_about_the_account_that_was_tried() -> None:
    """A login that failed says which account, by which method, and why not."""
    made = Event.authentication(
        "user:alice", outcome="failure", method="password", reason="wrong", session="s"
    )

    assert ("authentication", "auth.login") == (made.kind, made.action)
    assert (Actor.parse("user:alice"), "user:alice") == (made.actor, str(made.resource))
    assert (Outcome.FAILURE, "wrong", "s") == (made.outcome, made.reason, made.session)
    assert {"method": "password"} == made.data
    assert "anonymous:anonymous" == str(Event.authentication("anonymous").resource)


def test_an_authentication_may_carry_a_model() -> None:
    """The method stands beside the application's own data."""
    made = Event.authentication("user:alice", method="totp", data=Money(amount=Decimal(1)))

    assert {"method": "totp", "amount": "1", "currency": "EUR"} == made.data


def test_a_data_change_names_resource_verb_and_values() -> None:
    """What business data was and became stands in the entry."""
    made = Event.data_change("user:alice", "pay", "invoice:7", {"status": ("open", "paid")})

    assert ("data_change", "invoice.pay") == (made.kind, made.action)
    assert {"status": Change("open", "paid")} == made.changes


@pytest.mark.parametrize(
    ("granted", "revoked", "action", "changes"),
    [
        (["admin"], [], "role.grant", {"admin": Change(old=False, new=True)}),
        ([], ["admin"], "role.revoke", {"admin": Change(old=True, new=False)}),
        (
            ["auditor"],
            ["admin"],
            "role.change",
            {"admin": Change(old=True, new=False), "auditor": Change(old=False, new=True)},
        ),
    ],
)
def test_a_permission_change_says_what_is_gained_and_lost(
    granted: list[str], revoked: list[str], action: str, changes: dict[str, Change]
) -> None:
    """Granting and revoking are told apart, role by role."""
    made = Event.permission_change("user:root", "user:alice", granted=granted, revoked=revoked)

    assert ("permission_change", action, changes) == (made.kind, made.action, made.changes)


@pytest.mark.parametrize("granted", ["admin", 5, [["admin"]], [""], ()])
def test_a_permission_change_names_each_permission(
    granted: str | int | list[object] | tuple[()],
) -> None:
    """One text is no list of names, and nothing at all is no change."""
    with pytest.raises(InvalidEvent, match=r"^granted: found .*, expected "):
        Event.permission_change("user:root", "user:alice", granted=granted)  # type: ignore[arg-type]


def test_an_administrator_always_says_why() -> None:
    """Nobody administers without a rationale."""
    made = Event.administration(
        "user:root", "config.update", "config:mail", "T-1", changes={"host": ("a", "b")}
    )

    assert ("administration", Rationale(text="T-1")) == (made.kind, made.rationale)
    assert {"host": Change("a", "b")} == made.changes
    with pytest.raises(InvalidEvent, match=r"^rationale: found None, expected a text"):
        Event.administration("user:root", "a.b", "c:d", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("approvers", "n", "distinct"),
    [(("a",), 1, True), (("a", "b"), 2, True), (("a", "a"), 2, False)],
)
def test_an_approval_says_whether_its_approvers_were_different_people(
    approvers: tuple[str, ...], n: int, distinct: bool
) -> None:
    """Two consents of the same person are not four eyes."""
    made = Approval.by(*approvers)

    assert (n, distinct, approvers) == (made.n, made.distinct, made.approvers)


# ---- Ids and times ----


def instant(unix_ns: int) -> tuple[int, int]:
    """Return the millisecond of a time, and the part of 4,096 of it: what an id can tell apart."""
    milliseconds, rest = divmod(unix_ns, 1_000_000)
    return milliseconds, rest * 4_096 // 1_000_000


@given(
    st.lists(st.integers(0, 2**47 * 1_000_000), min_size=2, max_size=2, unique_by=instant),
    st.lists(st.binary(min_size=10, max_size=10), min_size=2, max_size=2),
)
def test_ids_are_uuids_that_sort_by_time(moments: list[int], randomness: list[bytes]) -> None:
    """Ids are UUIDv7 (RFC 9562): the order of their texts is the order of their times."""
    ids = [uuid7(at, noise) for at, noise in zip(moments, randomness, strict=True)]

    assert [7, 7] == [UUID(text).version for text in ids]
    assert ["specified in RFC 4122"] * 2 == [UUID(text).variant for text in ids]
    assert [str(UUID(text)) for text in ids] == ids
    assert [at // 1_000_000 for at in moments] == [id_time(text) for text in ids]
    assert (moments[0] < moments[1]) == (ids[0] < ids[1])


def test_new_events_have_ids_in_the_order_they_are_made() -> None:
    """Events of one process sort by id as they came, and no two have the same."""
    ids = [Event(**_asdict(event(), without={"id"})).id for _ in range(100)]

    assert len(set(ids)) == 100
    assert [id_time(each) for each in ids] == sorted(id_time(each) for each in ids)


def _asdict(made: Event, without: set[str]) -> dict[str, Any]:
    return {
        name: value
        for name in made.__struct_fields__
        if name not in without and (value := getattr(made, name)) is not None
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID.upper(),
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"{ID}\n",
        ID.replace("-7", "-4", 1),
        ID.replace("-9", "-1", 1),
        ID.replace("0", "\u0660", 1),
        7,
        None,
        UUID(ID),
    ],
)
def test_an_id_has_one_form(text: object) -> None:
    """An id that could be written in two ways could be recorded twice."""
    with pytest.raises(InvalidEvent, match=r"^id: found .*, expected a UUIDv7 in lower case$"):
        event(id=text)


@pytest.mark.parametrize(
    "moment",
    [NOON.replace(tzinfo=None), datetime(2026, 11, 24, tzinfo=Nowhere())],
    ids=["no zone", "a zone without offset"],
)
@pytest.mark.parametrize("field", ["occurred_at", "data"])
def test_a_time_has_a_time_zone(moment: datetime, field: str) -> None:
    """A time that means different moments in different places is refused."""
    value = moment if field == "occurred_at" else {"at": moment}

    with pytest.raises(InvalidEvent, match=r"expected a time with a time zone$"):
        event(**{field: value})


@pytest.mark.parametrize(
    "moment", ["2026-11-24T12:00:00Z", 1764000000, date(2026, 11, 24), None, [NOON]]
)
def test_a_time_is_a_datetime(moment: object) -> None:
    """A text or a number is not guessed to be a time."""
    with pytest.raises(InvalidEvent, match=r"^occurred_at: found .*, expected a datetime"):
        event(occurred_at=moment)


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        max_value=datetime(9998, 12, 31, tzinfo=UTC).replace(tzinfo=None),
        timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_occurred_at_is_kept_in_utc(moment: datetime) -> None:
    """Whatever zone a time came in, the same moment is kept, in UTC."""
    made = event(occurred_at=moment)

    assert moment == made.occurred_at
    assert UTC is made.occurred_at.tzinfo
    assert made == unseal(seal(made).event).event()


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_a_time_outside_of_the_calendar_is_refused(moment: datetime) -> None:
    """The year 10000 cannot be written, so it is refused and not wrapped around."""
    with pytest.raises(InvalidEvent, match=r"^occurred_at: found .*, expected a time in the years"):
        event(occurred_at=moment)


# ---- What cannot be built ----


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("action", {"action": value}) for value in ("", "a..b", ".a", "a b", "ä", "a\n", "x" * 201)
]
WRONG += [
    (field, {field: value})
    for field in ("action", "outcome", "actor", "resource", "kind", "rationale", "client")
    for value in ([], {}, ["x"], {"x": 1}, 5, b"x", object())
    if not (value == {} and field == "kind")
]
WRONG += [
    (field, {field: value})
    for field in ("session", "request", "tenant", "schema", "reason")
    for value in ("", 5, ["x"], {"x": 1}, b"x", Text("x"))
]
WRONG += [
    (field, {field: value})
    for field in ("trace", "service", "approval", "source")
    for value in ("x", 5, ["x"], {"x": 1})
]
WRONG += [
    ("outcome", {"outcome": "success"}),
    ("session", {"session": "x" * 1001}),
    ("kind", {"kind": "other"}),
    ("kind", {"kind": Text("administration")}),
    ("changes", {"changes": [("a", 1)]}),
    ("changes", {"changes": {"": Change(1, 2)}}),
    ("changes", {"changes": {5: Change(1, 2)}}),
    ("changes.a", {"changes": {"a": (1, 2)}}),
    ("changes.a", {"changes": {"a": Change((1,), 2)}}),
    ("changes.a", {"changes": {"a": Change(float("nan"), 2)}}),
    ("changes.a", {"changes": {"a": Change(2**64, 2)}}),
    ("changes.a", {"changes": {"a": Change(Text("x"), 2)}}),
    ("changes.a", {"changes": {"a": Change({"k": [Size.LARGE]}, 2)}}),
    ("data", {"data": [1]}),
    ("data", {"data": "text"}),
    ("data", {"data": Money}),
    ("data", {"data": {5: 1}}),
    ("data.x", {"data": {"x": float("nan")}}),
    ("data.x", {"data": {"x": float("-inf")}}),
    ("data.x", {"data": {"x": Decimal("NaN")}}),
    ("data.x", {"data": {"x": 2**64}}),
    ("data.x", {"data": {"x": -(2**63) - 1}}),
    ("data.x", {"data": {"x": 10**5000}}),
    ("data.x", {"data": {"x": Size}}),
    ("data.x", {"data": {"x": Unspeakable()}}),
    ("data.a.a.a", {"data": nested(MAX_NESTING + 1)}),
]


@pytest.mark.parametrize(("field", "fields"), WRONG)
def test_a_wrong_event_cannot_be_built(field: str, fields: dict[str, Any]) -> None:
    """Whatever is wrong, the error names the field, what was found and what is expected."""
    with pytest.raises(
        InvalidEvent, match=rf"^{re.escape(field)}: found .+, expected .+"
    ) as raised:
        event(**fields)

    assert field == raised.value.field
    assert raised.value.expected in str(raised.value)


@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("actor.type", lambda: Actor(type=["user"], id="a")),  # type: ignore[arg-type]
        ("actor.type", lambda: Actor(type="robot", id="a")),  # type: ignore[arg-type]
        ("actor.type", lambda: Actor(type=Text("user"), id="a")),  # type: ignore[arg-type]
        ("actor.id", lambda: Actor(type="user")),
        ("actor.id", lambda: Actor(type="user", id="")),
        ("actor.id", lambda: Actor(type="system", id=5)),  # type: ignore[arg-type]
        ("actor.id", lambda: Actor(type="user", id="x" * 1001)),
        ("actor.name", lambda: Actor(type="user", id="a", name=[])),  # type: ignore[arg-type]
        ("actor.roles", lambda: Actor(type="user", id="a", roles=["r"])),  # type: ignore[arg-type]
        ("actor.roles", lambda: Actor(type="user", id="a", roles=(5,))),  # type: ignore[arg-type]
        ("actor.roles", lambda: Actor(type="user", id="a", roles="admin")),  # type: ignore[arg-type]
        ("actor.on_behalf_of", lambda: Actor(type="system", on_behalf_of="user:a")),  # type: ignore[arg-type]
        ("actor", lambda: Actor.parse(["user:a"])),  # type: ignore[arg-type]
        ("actor", lambda: Event.authentication({"user": "a"})),  # type: ignore[arg-type]
        ("resource.type", lambda: Resource(type=[], id="7")),  # type: ignore[arg-type]
        ("resource.id", lambda: Resource(type="invoice", id=7)),  # type: ignore[arg-type]
        ("resource", lambda: Resource.parse(None)),  # type: ignore[arg-type]
        ("rationale.text", lambda: Rationale(text="")),
        ("rationale", lambda: parse_rationale(["x"])),  # type: ignore[arg-type]
        ("client.ip", lambda: Client(ip=["203.0.113.9"])),  # type: ignore[arg-type]
        ("trace.trace_id", lambda: Trace(trace_id=5)),  # type: ignore[arg-type]
        ("service.name", lambda: Service(name="")),
        ("source.id", lambda: Source(format="git", id=5)),  # type: ignore[arg-type]
        ("approval.n", Approval.by),
        ("approval.n", lambda: Approval(n=0, distinct=True)),
        ("approval.n", lambda: Approval(n=True, distinct=True)),
        ("approval.n", lambda: Approval(n=2**64, distinct=True)),
        ("approval.n", lambda: Approval(n=[1], distinct=True)),  # type: ignore[arg-type]
        ("approval.distinct", lambda: Approval(n=1, distinct=1)),  # type: ignore[arg-type]
        ("approval.approvers", lambda: Approval.by(["user:bob"])),  # type: ignore[arg-type]
        ("outcome", lambda: parse_outcome(["success"])),  # type: ignore[arg-type]
        ("outcome", lambda: parse_outcome("Success")),
        ("changes", lambda: parse_changes(["a"])),  # type: ignore[arg-type]
        ("changes", lambda: parse_changes({5: (float("nan"), 1)})),  # type: ignore[dict-item]
        ("changes.a", lambda: parse_changes({"a": (1, 2, 3)})),  # type: ignore[dict-item]
        ("changes.a", lambda: parse_changes({"a": "ab"})),  # type: ignore[dict-item]
    ],
)
def test_a_wrong_part_cannot_be_built(field: str, build: Callable[[], object]) -> None:
    """No part of an event can hold a value of another type, however it got there."""
    with pytest.raises(InvalidEvent, match=rf"^{re.escape(field)}: found .+, expected .+"):
        build()


def test_a_chain_of_actors_has_an_end() -> None:
    """Acting on behalf of others is kept through every hand, but not without bound."""
    chain = Actor(type="system")
    for _ in range(MAX_NESTING):
        chain = Actor(type="user", id="a", on_behalf_of=chain)

    assert chain == unseal(seal(event(actor=chain)).event).event().actor
    with pytest.raises(InvalidEvent, match=r"^actor.on_behalf_of: found"):
        Actor(type="user", id="a", on_behalf_of=chain)


def test_values_nested_to_the_limit_are_kept() -> None:
    """Nesting is bounded, and what is within the bound comes back as it was."""
    made = event(data=nested(MAX_NESTING), changes={"a": Change(nested(MAX_NESTING), 1)})

    assert made == unseal(seal(made).event).event()


def test_a_value_that_holds_itself_is_refused() -> None:
    """Data without an end does not hang or crash the application."""
    endless: dict[str, Any] = {}
    endless["a"] = endless

    with pytest.raises(InvalidEvent, match="expected nesting of at most 64"):
        event(data=endless)


def test_an_error_cannot_forge_a_line_of_a_log() -> None:
    """Names that came from outside stand in a message without line feeds or broken characters."""
    with pytest.raises(InvalidEvent) as raised:
        event(data={"a\nroot: logged in \ud800": float("nan")})

    assert r"data.a\nroot: logged in \ud800: found nan, expected a finite number" == str(
        raised.value
    )


def test_an_error_shows_the_beginning_of_a_long_value() -> None:
    """A message stays readable, and a large value does not flood a log."""
    with pytest.raises(InvalidEvent) as raised:
        event(session="x" * 100_000)

    assert len(str(raised.value)) < 200


# ---- Sealing ----


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
filled = texts.filter(bool)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return *strategy*, or nothing."""
    return st.none() | strategy


actors = st.builds(
    Actor,
    type=st.sampled_from(["user", "service", "system", "anonymous", "unknown"]),
    id=filled,
    name=optional(filled),
    roles=st.lists(texts, max_size=2).map(tuple),
    on_behalf_of=st.none() | st.just(Actor(type="system")),
)
events = st.builds(
    Event,
    id=st.builds(uuid7, st.integers(0, 2**66), st.binary(min_size=10, max_size=10)),
    schema=optional(filled),
    kind=st.sampled_from([None, "authentication", "data_change"]),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    action=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,8}(\.[a-z]{1,8}){0,3}", fullmatch=True),
    outcome=st.sampled_from(Outcome),
    reason=optional(filled),
    actor=actors,
    resource=st.builds(
        Resource,
        type=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True),
        id=filled,
        name=optional(filled),
    ),
    changes=optional(
        st.dictionaries(
            filled,
            st.builds(Change, old=values | st.just(UNSET), new=values | st.just(UNSET)),
            max_size=3,
        )
    ),
    data=optional(st.dictionaries(texts, values, max_size=3)),
    rationale=optional(st.builds(Rationale, text=filled, code=optional(filled))),
    session=optional(filled),
    request=optional(filled),
    client=optional(st.builds(Client, ip=optional(filled), user_agent=optional(filled))),
    trace=optional(st.builds(Trace, trace_id=filled, span_id=optional(filled))),
    service=optional(st.builds(Service, name=filled, version=optional(filled))),
    tenant=optional(filled),
    approval=optional(
        st.builds(
            Approval,
            n=st.integers(1, 2**64 - 1),
            distinct=st.booleans(),
            approvers=st.lists(texts, max_size=2).map(tuple),
        )
    ),
    source=optional(st.builds(Source, format=filled, id=filled)),
)


@settings(deadline=None)
@given(events)
def test_unsealing_gives_the_event_that_was_sealed(made: Event) -> None:
    """Nothing that was said is lost or changed on the way into an entry and back."""
    sealed = seal(made)

    assert made == unseal(sealed.event).event()
    assert sealed.event == seal(unseal(sealed.event).event()).event
    assert made.id == sealed.id
    assert b"\n" not in sealed.event


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b" ",
        lambda data: b" " + data,
        lambda data: data.replace(b",", b", ", 1),
        lambda data: data.replace(b"success", b"succeeded"),
        lambda data: data.replace(b'"success"', b'"\\u0073uccess"'),
        lambda data: data.replace(b'"type":"user","id":"alice"', b'"id":"alice","type":"user"', 1),
        lambda data: data.replace(b'"id"', b'"extra":1,"id"', 1),
        lambda data: data.replace(b'"action"', b'"schema":null,"action"', 1),
        lambda data: data.replace(b"12:00:00Z", b"12:00:00+00:00"),
        lambda data: data.replace(b"12:00:00Z", b"12:00:00"),
        lambda data: data.replace(b"alice", b"\xff"),
        lambda data: data.replace(b'"alice"', b'"\\ud800"'),
        lambda data: data.replace(b'"user"', b'["user"]'),
        lambda data: data[:-1] + b',"data":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
        lambda data: data[:-1],
        lambda _: b"",
        lambda _: b"[]",
    ],
)
def test_what_is_not_exactly_a_sealed_event_is_refused(change: Callable[[bytes], bytes]) -> None:
    """One event has one form: nothing else is read as if it were the same."""
    with pytest.raises(Malformed):
        unseal(change(seal(event()).event)).event()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("reason", {"reason": "a{}b"}),
        ("session", {"session": "{}"}),
        ("actor.id", {"actor": Actor(type="user", id="{}")}),
        ("actor.roles.1", {"actor": Actor(type="user", id="a", roles=("r", "{}"))}),
        ("data.a.0.b", {"data": {"a": [{"b": "{}"}]}}),
        ("changes.a.new", {"changes": {"a": Change(1, "{}")}}),
    ],
)
@pytest.mark.parametrize("bad", ["\0", "\ud800", "\udfff"], ids=["NUL", "high", "low"])  # noqa: PT014 - which takes the two for one
def test_texts_are_whole_unicode_without_nul(path: str, fields: dict[str, Any], bad: str) -> None:
    """A text that other programs would cut short or could not write is refused, by its path."""

    def spoilt(value: object) -> object:
        if isinstance(value, str):
            return value.replace("{}", bad)
        if isinstance(value, dict):
            return {key: spoilt(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(spoilt, value))
        if isinstance(value, msgspec.Struct):
            return type(value)(
                **{name: spoilt(getattr(value, name)) for name in value.__struct_fields__}
            )
        return value

    with pytest.raises(InvalidEvent) as raised:
        seal(event(**{name: spoilt(value) for name, value in fields.items()}))

    assert path == raised.value.field
    assert str(raised.value).isprintable()


def test_a_text_may_hold_what_only_looks_like_nul() -> None:
    r"""The six characters ``\u0000`` are as good a text as any."""
    made = event(reason=r"\u0000")

    assert made == unseal(seal(made).event).event()


def test_an_event_has_at_most_60000_bytes() -> None:
    """What would not fit into an entry is refused before anything is written."""
    empty = len(seal(event(data={"a": ""})).event)

    assert MAX_SEALED == len(seal(event(data={"a": "x" * (MAX_SEALED - empty)})).event)
    with pytest.raises(EventTooLarge, match=r"^event: found '60001 bytes', expected at most 60000"):
        seal(event(data={"a": "x" * (MAX_SEALED - empty + 1)}))
