"""Retention decides what may go, must go, and may not go yet: hold, floor, erasure, ceiling."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import CallerError
from indelible.policy import COMMITTED, FieldClass, FieldRule, Policy, Retention, Stream
from indelible.retention import (
    Deferred,
    Erasable,
    Hold,
    Value,
    ceiling_of,
    due,
    floor_of,
    may_erase,
    overshoot,
    purgeable_prefix,
)

THEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
LONG_AFTER = datetime(2100, 1, 1, tzinfo=UTC)

POLICY = Policy(
    streams={
        "user": Stream(retention="std"),
        "admin": Stream(),
        "odd": Stream(retention="odd"),
        "lost": Stream(retention="gone"),
        "custody": Stream(retention="std"),
    },
    retention={
        "std": Retention(floor="12mo", ceiling="13mo"),
        "odd": Retention(floor="2y", ceiling="1y"),
    },
    rules=(),
)

DURATIONS = st.none() | st.builds(
    "{}{}".format, st.integers(1, 500), st.sampled_from(["min", "h", "d", "w", "mo", "y"])
)
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is given beside it


def value(
    class_: FieldClass = FieldClass.PERSONAL,
    *,
    stream: str = "user",
    **rule: Any,
) -> Value:
    """Return a value of this class, whose field has this rule."""
    return Value(
        log=stream,
        stream=stream,
        index=7,
        path="/client/ip",
        class_=class_,
        rule=FieldRule(class_=class_, **rule),
        recorded_at=THEN,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Value, Policy, datetime]:
    """Draw any value, policy and time."""
    class_ = draw(st.sampled_from(COMMITTED))
    policy = Policy(
        streams={"user": Stream(retention=draw(st.sampled_from([None, "std"])))},
        retention={"std": Retention(floor=draw(DURATIONS), ceiling=draw(DURATIONS))},
        rules=(),
    )
    rule = FieldRule(class_=class_, floor=draw(DURATIONS), ceiling=draw(DURATIONS))
    stream = draw(st.sampled_from(["user", "custody", "former"]))
    return (
        Value(
            log=stream,
            stream=stream,
            index=0,
            path="/actor/id",
            class_=class_,
            rule=rule,
            recorded_at=draw(TIMES),
        ),
        policy,
        draw(TIMES),
    )


def erase(
    each: Value, *, holds: tuple[str, ...] = (), now: datetime = LONG_AFTER, named: bool = False
) -> Erasable | Deferred:
    """Decide about *each* under the policy."""
    return may_erase(each, policy=POLICY, holds=holds, now=now, named=named)


@given(cases(), st.sets(st.sampled_from("abc"), min_size=1), st.booleans())
def test_nothing_under_a_hold_may_or_must_go(
    case: tuple[Value, Policy, datetime], holds: set[str], named: bool
) -> None:
    """Whatever its class, age and policy: while a hold lasts, a value stays."""
    each, policy, now = case

    decided = may_erase(each, policy=policy, holds=holds, now=now, named=named)

    assert Deferred(f"hold:{min(holds)}") == decided
    assert not due(each, policy=policy, held=True, now=now)


@given(cases(), st.booleans())
def test_nothing_goes_before_its_floor(case: tuple[Value, Policy, datetime], named: bool) -> None:
    """Whatever its class, age and policy: until its floor has passed, a value stays."""
    each, policy, now = case
    floor = floor_of(each, policy)

    if floor is not None and now < floor:
        decided = may_erase(each, policy=policy, holds=(), now=now, named=named)
        assert Deferred(f"floor:{floor.date().isoformat()}") == decided
        assert not due(each, policy=policy, held=False, now=now)


@given(cases())
def test_nothing_must_go_before_its_ceiling(case: tuple[Value, Policy, datetime]) -> None:
    """Retention alone destroys only what has a ceiling that has passed."""
    each, policy, now = case
    ceiling = ceiling_of(each, policy)

    if ceiling is None or now < ceiling:
        assert not due(each, policy=policy, held=False, now=now)


def test_a_personal_value_may_be_erased_at_once() -> None:
    """The stream's floor keeps the entry, and no personal value of it."""
    assert floor_of(value(), POLICY) is None
    assert Erasable() == erase(value(), now=THEN)


def test_a_personal_value_can_have_a_floor_of_its_own() -> None:
    """Where a law asks for it, a field says how long it must stay."""
    kept = value(floor="90d")
    end = THEN + 90 * DAY

    assert end == floor_of(kept, POLICY)
    assert Deferred("floor:2026-05-01") == erase(kept, now=end - MICROSECOND)
    assert Erasable() == erase(kept, now=end)


def test_an_accountable_value_may_be_erased_after_its_floor() -> None:
    """Who did something is known for as long as the stream says, or the field."""
    staff = value(FieldClass.ACCOUNTABLE)
    end = datetime(2027, 1, 31, 12, tzinfo=UTC)

    assert Deferred("floor:2027-01-31") == erase(staff, now=end - MICROSECOND)
    assert Erasable() == erase(staff, now=end)
    assert Deferred("floor:2032-01-31") == erase(value(FieldClass.ACCOUNTABLE, floor="6y"), now=end)


def test_an_accountable_value_without_a_floor_may_be_erased() -> None:
    """Where the policy asks for no time, there is none to wait for."""
    assert Erasable() == erase(value(FieldClass.ACCOUNTABLE, stream="admin"), now=THEN)


def test_an_internal_value_is_erased_only_by_name() -> None:
    """An erasure of a person takes what is about the person; a rationale must be named."""
    internal = value(FieldClass.INTERNAL)

    assert Deferred("class:internal") == erase(internal)
    assert Erasable() == erase(internal, named=True)
    assert Deferred("floor:2027-01-31") == erase(internal, now=THEN, named=True)


def test_the_date_of_a_floor_is_that_of_utc() -> None:
    """The ground of a deferral does not depend on a time zone."""
    there = THEN.astimezone(timezone(timedelta(hours=-13)))
    kept = msgspec.structs.replace(value(floor="1d"), recorded_at=there)

    assert Deferred("floor:2026-02-01") == erase(kept, now=THEN)


def test_a_value_must_go_when_its_ceiling_has_passed() -> None:
    """A field's own ceiling counts, else that of the stream; to the microsecond."""
    end = datetime(2027, 2, 28, 12, tzinfo=UTC)

    assert end == ceiling_of(value(), POLICY)
    assert due(value(), policy=POLICY, held=False, now=end)
    assert not due(value(), policy=POLICY, held=False, now=end - MICROSECOND)
    assert due(value(ceiling="90d"), policy=POLICY, held=False, now=THEN + 90 * DAY)
    assert not due(value(stream="admin"), policy=POLICY, held=False, now=LONG_AFTER)


def test_a_floor_outlasts_a_ceiling() -> None:
    """Where the policy contradicts itself, values stay."""
    staff = value(FieldClass.ACCOUNTABLE, ceiling="90d")

    assert not due(staff, policy=POLICY, held=False, now=THEN + 90 * DAY)
    assert due(staff, policy=POLICY, held=False, now=datetime(2027, 1, 31, 12, tzinfo=UTC))


def test_what_the_trail_writes_about_itself_has_no_ceiling() -> None:
    """Retention alone never takes anything from the custody stream."""
    assert not due(value(stream="custody"), policy=POLICY, held=False, now=LONG_AFTER)


def test_a_stream_that_the_policy_no_longer_names_is_kept() -> None:
    """Taking a stream out of the policy does not make its entries go."""
    former = value(stream="former")

    assert ceiling_of(former, POLICY) is None
    assert not due(former, policy=POLICY, held=False, now=LONG_AFTER)


def test_a_retention_that_is_not_defined_is_an_error() -> None:
    """What the policy means to keep and does not define is never decided by chance."""
    lost = value(FieldClass.ACCOUNTABLE, stream="lost")

    with pytest.raises(CallerError, match="stream lost: found retention 'gone', expected one"):
        floor_of(lost, POLICY)
    with pytest.raises(CallerError, match="stream lost: found retention 'gone', expected one"):
        ceiling_of(lost, POLICY)


@pytest.mark.parametrize("class_", [FieldClass.PUBLIC, FieldClass.SECRET])
def test_only_committed_values_are_decided_about(class_: FieldClass) -> None:
    """What stands in the entry stays, and what was dropped is gone."""
    with pytest.raises(CallerError, match=f"user#7 /client/ip: found class {class_}, expected one"):
        value(class_)


def test_a_value_needs_a_time_with_a_zone() -> None:
    """When it was recorded is a moment."""
    with pytest.raises(CallerError, match="user#7: found a time without a time zone"):
        msgspec.structs.replace(value(), recorded_at=THEN.replace(tzinfo=None))


def test_a_hold_lasts_until_it_is_released() -> None:
    """From the moment it is placed, until the moment it is released."""
    hold = Hold(id="case-7", ground="court order", placed_at=THEN, subject="user:alice")
    released = msgspec.structs.replace(hold, released_at=THEN + DAY)

    assert not hold.lasts(THEN - MICROSECOND)
    assert hold.lasts(THEN)
    assert hold.lasts(LONG_AFTER)
    assert released.lasts(THEN + DAY - MICROSECOND)
    assert not released.lasts(THEN + DAY)


def test_a_hold_is_kept_as_json() -> None:
    """What a custody entry says of a hold gives back the hold."""
    hold = Hold(id="case-7", ground="court order", placed_at=THEN, log="user", index=0)

    assert hold == msgspec.json.decode(msgspec.json.encode(hold), type=Hold)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": ""}, "hold: found id ''"),
        ({"id": "case 7"}, "hold: found id 'case 7'"),
        ({"id": "case\n7"}, "hold: found id"),
        ({"ground": ""}, "hold case-7: found no ground"),
        ({"index": 3}, "hold case-7: found index 3, expected one of a log"),
        ({"index": -1, "log": "user"}, "hold case-7: found index -1"),
        ({"placed_at": THEN.replace(tzinfo=None)}, "found a time without a time zone"),
        ({"released_at": THEN.replace(tzinfo=None)}, "found a time without a time zone"),
        ({"released_at": THEN - DAY}, "expected none before 2026-01-31T12:00:00"),
    ],
)
def test_a_hold_that_means_nothing_cannot_be_built(fields: dict[str, Any], message: str) -> None:
    """A hold has an id that a plan can name, a ground, and times in order."""
    hold = Hold(id="case-7", ground="court order", placed_at=THEN)

    with pytest.raises(CallerError, match=message):
        msgspec.structs.replace(hold, **fields)


def tiles(*days: int, first: int = 0) -> list[tuple[int, datetime]]:
    """Return tiles whose last entries were recorded so many days later."""
    return [(first + 256 * at, THEN + day * DAY) for at, day in enumerate(days)]


def prefix(
    recorded: list[tuple[int, datetime]],
    *,
    stream: str = "user",
    first_held: int | None = None,
    now: datetime = datetime(2027, 2, 28, 12, tzinfo=UTC),
) -> int:
    """Return how much of a log may be purged under the policy."""
    return purgeable_prefix(recorded, stream=stream, policy=POLICY, first_held=first_held, now=now)


def test_whole_tiles_go_when_the_ceiling_of_their_last_entry_has_passed() -> None:
    """No entry goes early because it shares a tile with older ones."""
    assert 512 == prefix(tiles(-9, 0, 1, 2))
    assert 256 == prefix(tiles(-9, 0, 1), now=datetime(2027, 2, 28, 12, tzinfo=UTC) - MICROSECOND)
    assert 0 == prefix(tiles(1, -9))
    assert 0 == prefix([])


def test_a_purge_stops_before_the_first_held_entry() -> None:
    """The tile with the first entry under a hold stays, and all after it."""
    assert 256 == prefix(tiles(-9, -9, -9), first_held=256)
    assert 256 == prefix(tiles(-9, -9, -9), first_held=511)
    assert 0 == prefix(tiles(-9, -9, -9), first_held=0)
    assert 768 == prefix(tiles(-9, -9, -9), first_held=9_999)


def test_a_purge_goes_on_where_the_last_one_ended() -> None:
    """Tiles that are gone already are not counted anew, nor given back."""
    assert 1_024 == prefix(tiles(-9, -9, first=512))
    assert 512 == prefix(tiles(1, 1, first=512))
    assert 512 == prefix(tiles(-9, first=512), stream="admin")


def test_entries_without_a_ceiling_stay() -> None:
    """What the policy does not limit is kept for ever."""
    assert 0 == prefix(tiles(-9), stream="admin", now=LONG_AFTER)
    assert 0 == prefix(tiles(-9), stream="former", now=LONG_AFTER)


def test_a_floor_beyond_the_ceiling_keeps_entries() -> None:
    """Where the policy contradicts itself, entries stay for the longer of both."""
    assert 0 == prefix(tiles(0), stream="odd", now=THEN + 400 * DAY)
    assert 256 == prefix(tiles(0), stream="odd", now=THEN + 731 * DAY)


def test_the_custody_stream_is_never_purged() -> None:
    """What was done to the trail can be read for as long as there is one."""
    with pytest.raises(CallerError, match="found the custody stream, which is never purged"):
        prefix(tiles(-9), stream="custody", now=LONG_AFTER)


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (tiles(0, first=1), "found a tile from index 1, expected a multiple of 256"),
        (tiles(0, first=-256), "found a tile from index -256"),
        (tiles(0) + tiles(0, first=512), "from index 512 after that from 0, expected 256"),
        (tiles(0) + tiles(0), "from index 0 after that from 0, expected 256"),
    ],
)
def test_tiles_come_in_order_and_without_a_gap(
    recorded: list[tuple[int, datetime]], message: str
) -> None:
    """A list that leaves out a tile is never taken for a log."""
    with pytest.raises(CallerError, match=message):
        prefix(recorded)


@given(st.lists(st.integers(-800, 800), max_size=6), st.none() | st.integers(0, 2_000), TIMES)
def test_a_purge_takes_whole_tiles_that_are_old_and_free(
    days: list[int], first_held: int | None, now: datetime
) -> None:
    """Whatever the log and the time: no held entry, no young entry and no part of a tile goes."""
    recorded = tiles(*days)

    end = prefix(recorded, first_held=first_held, now=now)

    assert 0 == end % 256
    assert 0 <= end <= 256 * len(days)
    assert first_held is None or end <= first_held
    for index, last in recorded[: end // 256]:
        young = msgspec.structs.replace(value(), index=index, recorded_at=last)
        assert due(young, policy=POLICY, held=False, now=now)


def test_a_report_says_how_long_a_quiet_log_overshoots() -> None:
    """Nobody is told that entries go to the day when they go 256 at a time."""
    assert (
        "Entries of stream user are kept for at most 13mo, and then until a tile of 256 is"
        " complete, since only whole tiles go: at its pace, up to 26 days longer."
        " Their committed values go on time."
    ) == overshoot("user", policy=POLICY, per_day=10)
    assert "at its pace, up to 1 day longer" in overshoot("user", policy=POLICY, per_day=2_000)
    assert "while nothing is recorded there, that is without end" in overshoot(
        "user", policy=POLICY, per_day=0
    )
    for stream in ("admin", "custody", "former"):
        assert f"Stream {stream} has no ceiling: its entries stay." == overshoot(
            stream, policy=POLICY, per_day=10
        )
