"""
Retention: floor, ceiling, legal hold: what may go, must go, may not go yet.

It decides, and does nothing. The order is hold, floor, erasure, ceiling: each gives way
to those before it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from indelible.duration import Duration
from indelible.errors import CallerError
from indelible.policy import COMMITTED, CUSTODY, FieldClass, FieldRule, Retention
from indelible.tiles import TILE_WIDTH

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from indelible.policy import Policy


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """
    A legal hold: while it lasts, nothing that it applies to goes away.

    Attributes:
        ground: Why, in words: a case, an order.
        log, index: One log, or one entry of it.
        subject: One person, such as ``user:alice``.
        query: What a query finds.

    What is None restricts nothing: a hold of none of them is on the whole trail.

    Raises:
        CallerError: A part is not that of a hold.
    """

    id: str
    ground: str
    placed_at: datetime
    log: str | None = None
    index: int | None = None
    subject: str | None = None
    query: str | None = None
    released_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.id.isprintable() or " " in self.id:
            raise CallerError(f"hold: found id {self.id!r}, expected one without spaces")
        if not self.ground:
            raise CallerError(f"hold {self.id}: found no ground")
        if self.index is not None and (self.log is None or self.index < 0):
            raise CallerError(f"hold {self.id}: found index {self.index}, expected one of a log")
        _check_zone(f"hold {self.id}", self.placed_at)
        if self.released_at is not None:
            _check_zone(f"hold {self.id}", self.released_at)
            if self.released_at < self.placed_at:
                raise CallerError(
                    f"hold {self.id}: found release at {self.released_at.isoformat()}, expected"
                    f" none before {self.placed_at.isoformat()}"
                )

    def lasts(self, now: datetime) -> bool:
        """Tell whether it is placed, and not released yet."""
        return self.placed_at <= now and (self.released_at is None or now < self.released_at)


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """
    A committed value: what is decided about.

    Attributes:
        rule: How the policy classifies its path now; of it come floor and ceiling.
        class_: The class it was recorded with.

    Raises:
        CallerError: Its class is not one whose values lie in the vault.
    """

    log: str
    stream: str
    index: int
    path: str
    class_: FieldClass
    rule: FieldRule
    recorded_at: datetime

    def __post_init__(self) -> None:
        if self.class_ not in COMMITTED:
            raise CallerError(
                f"{self.log}#{self.index} {self.path}: found class {self.class_}, expected one of"
                f" {', '.join(COMMITTED)}"
            )
        _check_zone(f"{self.log}#{self.index}", self.recorded_at)


class Erasable(msgspec.Struct, frozen=True):
    """An erasure may take it."""


class Deferred(msgspec.Struct, frozen=True):
    """
    An erasure may not take it yet.

    Attributes:
        ground: ``hold:<id>``, ``floor:<date>``, or ``class:internal`` of what was not
            named.
    """

    ground: str


def floor_of(value: Value, policy: Policy) -> datetime | None:
    """
    Return until when *value* must be kept; None where nothing says so.

    The stream's floor keeps the entry, and values that say who is accountable; a personal
    value only has a floor where its own field has one.

    Raises:
        CallerError: The policy does not define the stream's retention.
    """
    floor = value.rule.floor
    if floor is None and value.class_ is not FieldClass.PERSONAL:
        floor = _retention(value.stream, policy).floor
    return None if floor is None else Duration.parse(floor).after(value.recorded_at)


def ceiling_of(value: Value, policy: Policy) -> datetime | None:
    """
    Return until when *value* may be kept; None where nothing says so.

    Raises:
        CallerError: The policy does not define the stream's retention.
    """
    ceiling = value.rule.ceiling
    if ceiling is None:
        ceiling = _retention(value.stream, policy).ceiling
    return None if ceiling is None else Duration.parse(ceiling).after(value.recorded_at)


def may_erase(
    value: Value,
    *,
    policy: Policy,
    holds: Collection[str],
    now: datetime,
    named: bool = False,
) -> Erasable | Deferred:
    """
    Decide whether an erasure may take *value*, and if not, on what ground.

    Args:
        holds: Ids of the holds that apply to it and last.
        named: The erasure names its path; without that, internal values stay.

    Raises:
        CallerError: The policy does not define the stream's retention.
    """
    if holds:
        return Deferred(f"hold:{min(holds)}")
    floor = floor_of(value, policy)
    if floor is not None and now < floor:
        return Deferred(f"floor:{floor.astimezone(UTC).date().isoformat()}")
    if value.class_ is FieldClass.INTERNAL and not named:
        return Deferred("class:internal")
    return Erasable()


def due(value: Value, *, policy: Policy, held: bool, now: datetime) -> bool:
    """
    Tell whether *value* must go: its ceiling has passed, and no hold and no floor keeps it.

    What the trail writes about itself has no ceiling.

    Raises:
        CallerError: The policy does not define the stream's retention.
    """
    if held or value.stream == CUSTODY:
        return False
    floor, ceiling = floor_of(value, policy), ceiling_of(value, policy)
    return ceiling is not None and ceiling <= now and (floor is None or floor <= now)


def purgeable_prefix(
    recorded: Sequence[tuple[int, datetime]],
    *,
    stream: str,
    policy: Policy,
    first_held: int | None,
    now: datetime,
) -> int:
    """
    Return how many entries, counted from the start of a log, retention has released.

    Only whole tiles go, and only from the start: so the tree above them stays provable.

    Args:
        recorded: Of each complete tile of 256 entries, in order, the index of its first
            entry and when its last was recorded; what is before the first of them is gone
            already.
        first_held: Index of the first entry that a hold applies to, or one of whose
            values has a floor that has not passed.

    Raises:
        CallerError: It is the custody stream, which is never purged; these are not tiles
            in order; or the policy does not define the stream's retention.
    """
    if stream == CUSTODY:
        raise CallerError("purge: found the custody stream, which is never purged")
    _check_tiles([first for first, _ in recorded])
    retention = _retention(stream, policy)
    end = recorded[0][0] if recorded else 0
    if retention.ceiling is not None:
        for first, last_recorded_at in recorded:
            if _end(retention, last_recorded_at) > now:
                break
            end = first + TILE_WIDTH
    if first_held is None:
        return end
    return min(end, first_held - first_held % TILE_WIDTH)


def overshoot(stream: str, *, policy: Policy, per_day: float) -> str:
    """
    Say by how much a quiet log keeps entries beyond their ceiling, in words for a report.

    Args:
        per_day: How many entries the stream gets on a day.

    Raises:
        CallerError: The policy does not define the stream's retention.
    """
    ceiling = None if stream == CUSTODY else _retention(stream, policy).ceiling
    if ceiling is None:
        return f"Stream {stream} has no ceiling: its entries stay."
    said = (
        f"Entries of stream {stream} are kept for at most {ceiling}, and then until a tile of"
        f" {TILE_WIDTH} is complete, since only whole tiles go"
    )
    days = math.inf if per_day <= 0 else TILE_WIDTH / per_day
    if math.isinf(days):
        return f"{said}: while nothing is recorded there, that is without end. {_VALUES_GONE}"
    whole = math.ceil(days)
    more = f"{whole:,} day{'' if whole == 1 else 's'}"
    return f"{said}: at its pace, up to {more} longer. {_VALUES_GONE}"


_VALUES_GONE = "Their committed values go on time."


def _retention(stream: str, policy: Policy) -> Retention:
    # A stream that the policy no longer names has no retention: what it holds stays.
    known = policy.streams.get(stream)
    if known is None or known.retention is None:
        return Retention()
    found = policy.retention.get(known.retention)
    if found is None:
        raise CallerError(
            f"stream {stream}: found retention {known.retention!r}, expected one of"
            f" {', '.join(policy.retention) or 'none'}"
        )
    return found


def _end(retention: Retention, recorded_at: datetime) -> datetime:
    # A floor beyond the ceiling keeps what the ceiling would release.
    return max(
        Duration.parse(each).after(recorded_at)
        for each in (retention.floor, retention.ceiling)
        if each is not None
    )


def _check_tiles(firsts: Sequence[int]) -> None:
    if firsts and (firsts[0] < 0 or firsts[0] % TILE_WIDTH):
        raise CallerError(
            f"purge: found a tile from index {firsts[0]}, expected a multiple of {TILE_WIDTH}"
        )
    for before, after in pairwise(firsts):
        if after - before != TILE_WIDTH:
            raise CallerError(
                f"purge: found a tile from index {after} after that from {before}, expected"
                f" {before + TILE_WIDTH}"
            )


def _check_zone(what: str, moment: datetime) -> None:
    if moment.utcoffset() is None:
        raise CallerError(f"{what}: found a time without a time zone")
