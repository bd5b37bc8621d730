"""A plan is exact bytes: what is approved is what is done, and nothing else."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from indelible.errors import CallerError, Malformed
from indelible.merkle import EMPTY_ROOT, leaf_hash, node_hash
from indelible.note import MAX_DECIMAL
from indelible.plan import Covered, Plan, Postponed, covers, text_of, time_of

NOON = datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=UTC)

PLAN = Plan(
    kind="erase",
    trail="0193-trail",
    logs={"shop.example.com/user": 40, "shop.example.com/admin": 2},
    policy="ab" * 32,
    requester="alice",
    basis="GDPR Art. 17(1)(b)",
    nonce=bytes(range(16)),
    created_at=NOON,
    not_before=NOON + timedelta(hours=72),
    expires=NOON + timedelta(days=7),
    cover=(
        Covered("admin", 1, ("/rationale",)),
        Covered("user", 2, ("/actor/id", "/client/ip")),
        Covered("user", 12, ("/actor/id",)),
    ),
    deferred=(
        Postponed("user", 2, ("/changes/email",), "floor:2027-01-31"),
        Postponed("user", 2, ("/session",), "hold:case-7"),
        Postponed("user", 3, ("/rationale",), "class:internal"),
    ),
    detail={"why": ["asked", {"by": "letter"}], "count": 3},
)

LINE = (
    b'{"v":"indelible-plan/1","kind":"erase","trail":"0193-trail",'
    b'"logs":{"shop.example.com/admin":2,"shop.example.com/user":40},'
    b'"policy":"abababababababababababababababababababababababababababababababab",'
    b'"requester":"alice","basis":"GDPR Art. 17(1)(b)","nonce":"AAECAwQFBgcICQoLDA0ODw",'
    b'"created_at":"2026-11-24T12:00:00.000005Z","not_before":"2026-11-27T12:00:00.000005Z",'
    b'"expires":"2026-12-01T12:00:00.000005Z",'
    b'"cover":[["admin",1,["/rationale"]],["user",2,["/actor/id","/client/ip"]],'
    b'["user",12,["/actor/id"]]],'
    b'"deferred":[["user",2,["/changes/email"],"floor:2027-01-31"],'
    b'["user",2,["/session"],"hold:case-7"],["user",3,["/rationale"],"class:internal"]],'
    b'"detail":{"count":3,"why":["asked",{"by":"letter"}]}}\n'
)

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is given beside it
PATHS = st.sets(
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda each: f"/{each}"),
    min_size=1,
    max_size=4,
)
PLACES = st.tuples(NAMES, st.integers(0, MAX_DECIMAL))
GROUNDS = st.one_of(
    NAMES.map(lambda name: f"hold:{name}"),
    st.dates().map(lambda date: f"floor:{date.isoformat()}"),
    st.just("class:internal"),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw any plan."""
    created, not_before, expires = sorted(draw(st.sets(TIMES, min_size=3, max_size=3)))
    cover = draw(st.dictionaries(PLACES, PATHS, max_size=5))
    later = draw(st.dictionaries(PLACES, st.tuples(PATHS, GROUNDS), max_size=3))
    return Plan(
        kind=draw(st.sampled_from(["erase", "purge", "policy", "grant"])),
        trail=draw(NAMES),
        logs=draw(st.dictionaries(NAMES, st.integers(0, MAX_DECIMAL), max_size=3)),
        policy=draw(st.binary(min_size=32, max_size=32)).hex(),
        requester=draw(NAMES),
        basis=draw(NAMES),
        nonce=draw(st.binary(min_size=16, max_size=16)),
        created_at=created,
        not_before=not_before,
        expires=expires,
        cover=tuple(
            Covered(log, index, tuple(sorted(paths)))
            for (log, index), paths in sorted(cover.items())
        ),
        deferred=tuple(
            Postponed(log, index, tuple(sorted(paths)), ground)
            for (log, index), (paths, ground) in sorted(later.items())
            if (log, index) not in cover
        ),
        detail=draw(st.dictionaries(NAMES, JSON, max_size=3)),
    )


def changed(**fields: Any) -> Plan:
    """Build the plan again with other *fields*."""
    return msgspec.structs.replace(PLAN, **fields)


def test_a_plan_is_one_line_of_json_in_one_form() -> None:
    """What people sign is exactly as specified, whatever order it was put together in."""
    assert LINE == PLAN.to_bytes()
    assert PLAN == Plan.from_bytes(LINE)
    assert hashlib.sha256(LINE).digest() == PLAN.digest


@given(plans())
def test_a_plan_is_read_as_it_was_written(plan: Plan) -> None:
    """The bytes that were approved give back the plan, and the plan the same bytes."""
    data = plan.to_bytes()

    again = Plan.from_bytes(data)

    assert plan == again
    assert data == again.to_bytes()
    assert plan.digest == again.digest


@given(plans(), st.data())
def test_a_changed_byte_makes_another_plan_or_none(plan: Plan, data: st.DataObject) -> None:
    """No two different texts are read as one plan."""
    original = plan.to_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    flipped = original[:at] + bytes([original[at] ^ data.draw(st.integers(1, 255))])
    other = flipped + original[at + 1 :]

    try:
        found = Plan.from_bytes(other)
    except Malformed:
        return

    assert other == found.to_bytes()
    assert plan.digest != found.digest


@given(plans(), PLACES, PATHS)
def test_a_stretched_cover_list_has_another_digest(
    plan: Plan, place: tuple[str, int], paths: set[str]
) -> None:
    """Whoever adds one entry to what was approved has a plan that nobody has approved."""
    assume(place not in {(each.log, each.index) for each in plan.cover})
    assume(place not in {(each.log, each.index) for each in plan.deferred})
    more = Covered(*place, tuple(sorted(paths)))

    stretched = msgspec.structs.replace(plan, cover=tuple(sorted((*plan.cover, more))))

    assert plan.digest != stretched.digest
    assert plan.cover_root != stretched.cover_root


def test_each_plan_is_another_by_its_nonce() -> None:
    """The same intervention planned twice needs two approvals."""
    assert PLAN.digest != changed(nonce=bytes(16)).digest


def test_the_cover_root_is_over_the_bytes_of_each_item() -> None:
    """One item of a cover list can be proven without showing the others."""
    first, second, third = (
        leaf_hash(b'["admin",1,["/rationale"]]'),
        leaf_hash(b'["user",2,["/actor/id","/client/ip"]]'),
        leaf_hash(b'["user",12,["/actor/id"]]'),
    )

    assert node_hash(node_hash(first, second), third) == PLAN.cover_root
    assert EMPTY_ROOT == changed(cover=()).cover_root


def test_a_plan_says_which_values_go() -> None:
    """Of each entry that is covered the paths are known; what is deferred is not covered."""
    assert {
        ("admin", 1): {"/rationale"},
        ("user", 2): {"/actor/id", "/client/ip"},
        ("user", 12): {"/actor/id"},
    } == covers(PLAN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v":"indelible-plan/1"', b'"v":"indelible-plan/2"'),
        (b'"kind":"erase"', b'"kind":"delete"'),
        (b'"kind":"erase"', b'"kind": "erase"'),
        (b'"kind":"erase"', b'"kind":"\\u0065rase"'),
        (b'"kind":"erase","trail":"0193-trail"', b'"trail":"0193-trail","kind":"erase"'),
        (b'"trail":"0193-trail",', b""),
        (b'"trail":"0193-trail"', b'"trail":"0193-trail","more":1'),
        (b'"trail":"0193-trail"', b'"trail":"0193-trail","trail":"0193-trail"'),
        (b'"shop.example.com/admin":2', b'"shop.example.com/admin":2.0'),
        (b'"shop.example.com/admin":2', b'"shop.example.com/admin":-2'),
        (b'"shop.example.com/admin":2,"shop.example.com/user":40', b'"y":40,"x":2'),
        (b"abab", b"ABAB"),
        (b"DA0ODw", b"DA0ODx"),
        (b"DA0ODw", b"DA0ODw=="),
        (b"DA0ODw", b"DA0OD"),
        (b"DA0ODw", b"DA0O w"),
        (b"DA0ODw", "DA0OÐw".encode()),
        (b"12:00:00.000005Z", b"12:00:00Z"),
        (b"2026-11-24T12:00:00.000005Z", b"2026-11-24T12:00:00.000005+00:00"),
        (b"2026-11-24T", b"2026-11-31T"),
        (b'["admin",1,', b'["admin",01,'),
        (b'["admin",1,', b'["admin",1.0,'),
        (b'["admin",1,', b'["admin",-1,'),
        (b'["admin",1,["/rationale"]]', b'["admin",1,["/rationale"],0]'),
        (b'["admin",1,["/rationale"]]', b'["admin",1]'),
        (b'["admin",1,["/rationale"]]', b'["admin",1,[]]'),
        (b'["admin",1,["/rationale"]]', b'["admin",1,["rationale"]]'),
        (b'["admin",1,["/rationale"]]', b'["admin",1,"/rationale"]'),
        (b'["/actor/id","/client/ip"]', b'["/client/ip","/actor/id"]'),
        (b'["/actor/id","/client/ip"]', b'["/actor/id","/actor/id"]'),
        (b'["user",12,', b'["user",2,'),
        (b'["user",12,', b'["user",0,'),
        (b"hold:case-7", b"hold:"),
        (b"hold:case-7", b"hold:case 7"),
        (b"hold:case-7", b"whim"),
        (b"floor:2027-01-31", b"floor:soon"),
        (b'"/session"', b'"/client/ip"'),
        (b'"/session"', b'"/changes/email"'),
        (b'"count":3', b'"count":3.0e0'),
        (b'"count":3', b'"count":NaN'),
        (b'"count":3', b'"count":1e400'),
        (b'"letter"', b"[" * 100_000),
        (b'"letter"', b'"\xff"'),
        (b'"letter"', b'"\\ud800"'),
        (b'{"count":3,', b'{"z":3,'),
        (b"}}\n", b"}}"),
        (b"}}\n", b"}}\n\n"),
        (b"}}\n", b"}}\r\n"),
    ],
)
def test_what_is_not_exactly_a_plan_is_refused(old: bytes, new: bytes) -> None:
    """There is one way to write a plan, and nothing else is read as one."""
    data = LINE.replace(old, new, 1)
    assert data != LINE

    with pytest.raises(Malformed, match=r"plan|time"):
        Plan.from_bytes(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "delete"}, "plan kind: found 'delete', expected erase"),
        ({"trail": ""}, "plan trail: found ''"),
        ({"trail": "a\nb"}, "plan trail: found"),
        ({"requester": "alice smith"}, "plan requester: found 'alice smith'"),
        ({"logs": {"a b": 1}}, "plan log: found 'a b'"),
        ({"logs": {"x": -1}}, "plan log x: found size -1"),
        ({"logs": {"x": MAX_DECIMAL + 1}}, "plan log x: found size"),
        ({"policy": "ab"}, "plan policy: found 'ab', expected 64"),
        ({"basis": ""}, "plan basis: found ''"),
        ({"basis": "two\nlines"}, "plan basis: found"),
        ({"nonce": bytes(15)}, "plan nonce: found 15 bytes, expected 16"),
        ({"created_at": datetime(2026, 1, 1)}, "found one without a time zone"),  # noqa: DTZ001 - that is the fault
        ({"created_at": NOON + timedelta(days=4)}, "in order"),
        ({"expires": PLAN.not_before}, "in order"),
        ({"cover": PLAN.cover[::-1]}, "plan cover: found user#12 before user#2"),
        ({"cover": (PLAN.cover[0], PLAN.cover[0])}, "plan cover: found admin#1 before admin#1"),
        ({"cover": (Covered("user", -1, ("/x",)),)}, "plan cover: found index -1"),
        ({"cover": (Covered("", 1, ("/x",)),)}, "plan cover: found ''"),
        ({"cover": (Covered("user", 1, ()),)}, r"plan cover: found paths \[\]"),
        ({"cover": (Covered("user", 1, ("/b", "/a")),)}, "each once and in order"),
        ({"cover": (Covered("user", 1, ("/\ud800",)),)}, "expected a JSON pointer"),
        ({"deferred": PLAN.deferred[::-1]}, "plan deferred: found user#3 before user#2"),
        ({"deferred": (Postponed("user", 3, ("/x",), "whim"),)}, "found ground 'whim'"),
        (
            {"deferred": (Postponed("user", 2, ("/actor/id",), "hold:a"),)},
            "found user#2 /actor/id twice",
        ),
        ({"detail": {"a": ("tuple",)}}, "plan detail: found what is not JSON"),
        ({"detail": {"a": NOON}}, "plan detail: found what is not JSON"),
        ({"detail": {"a": float("nan")}}, "plan detail: found what is not JSON"),
        ({"detail": {"a": {1: 2}}}, "plan detail: Only dicts with str keys"),
        ({"detail": {"a": "\ud800"}}, "plan detail"),
        ({"detail": {"a": object()}}, "plan detail"),
    ],
)
def test_a_plan_that_means_nothing_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    """What cannot be written, or contradicts itself, is refused before anybody signs it."""
    with pytest.raises(CallerError, match=message):
        changed(**fields)


def test_a_plan_covers_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a plan is not made to read without end."""
    monkeypatch.setattr("indelible.plan.MAX_COVER", 2)

    with pytest.raises(CallerError, match="plan cover: found 3 items, expected at most 2"):
        changed()


def test_times_are_written_in_utc() -> None:
    """A time in any zone is one text."""
    there = NOON.astimezone(timezone(timedelta(hours=2)))

    assert "2026-11-24T12:00:00.000005Z" == text_of(there)
    assert NOON == time_of(text_of(there))
    assert PLAN.digest == changed(created_at=there).digest
