"""Expiry: what has passed its ceiling goes, and what a hold or a floor keeps does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

import indelible
from indelible import document, erasure, expiry
from indelible.accounting import account
from indelible.backup import restore
from indelible.box import Row, ValueState
from indelible.custody import own_event, write
from indelible.entry import microseconds
from indelible.errors import KeyUnavailable, NotApproved, NotFound, StoreError
from indelible.event import Actor, Client, Event, Outcome, Resource
from indelible.plan import Covered
from indelible.policies import Consent
from indelible.policy import Approvals, FieldClass, FieldRule, Governance, Retention, Stream
from indelible.removal import what_it_covers
from indelible.segment import TILE
from tests.raw import files_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from indelible.accounting import Accounts
    from indelible.plan import Plan
    from indelible.policy import Policy
    from indelible.removal import Done
    from indelible.store import Forgotten

PLAIN = document.default()
NOW = datetime.now(UTC)


def rule(ceiling: str | None, *, floor: str | None = None) -> FieldRule:
    """Return the rule of a personal field of the actor."""
    return FieldRule(
        class_=FieldClass.PERSONAL, subject="actor", ceiling=ceiling, floor=floor, search="exact"
    )


def keeping(
    fields: Mapping[str, FieldRule] | None = None,
    *,
    stream: Retention | None = None,
    governance: Governance | None = None,
) -> Policy:
    """Return a policy under which addresses are kept for 90 days."""
    return msgspec.structs.replace(
        PLAIN,
        id="shop",
        text=b"",
        fields={**PLAIN.fields, "/client/ip": rule("90d"), **(fields or {})},
        streams={**PLAIN.streams, "user": Stream(retention=None if stream is None else "std")},
        retention={} if stream is None else {"std": stream},
        governance=governance or PLAIN.governance,
    )


def event(actor: str = "user:alice", number: int = 0) -> Event:
    """Return an event with an address and a session in one box."""
    return Event(
        action="order.ship",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse("order:1"),
        session=f"session-{number}",
        client=Client(ip="192.0.2.7"),
    )


@pytest.fixture
def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., indelible.Trail]]:
    """Make a trail with two entries of alice and one of bob."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made: list[indelible.Trail] = []

    def make(policy: Policy | None = None) -> indelible.Trail:
        policy = keeping() if policy is None else policy
        trail = indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=policy)
        made.append(trail)
        trail.record_many([event(), event(number=1), event("user:bob", number=2)])
        return trail

    yield make
    for trail in made:
        trail.close()


def plan(trail: indelible.Trail, days: int, most: int = expiry.MOST) -> Plan:
    """Plan a purge as if that many days had passed."""
    return expiry.plan_expiry(trail, NOW + timedelta(days=days), most=most)


def purge(trail: indelible.Trail, days: int) -> Done:
    """Purge what is due after that many days."""
    made = plan(trail, days)
    return expiry.carry_out(trail, Consent(plan=made.to_bytes()), NOW + timedelta(days=days))


def accounts(trail: indelible.Trail) -> Accounts:
    """Account for all values."""
    with trail.store.read() as view:
        return account(view, trail.vault)


def purged(trail: indelible.Trail) -> int:
    """Return how many values were purged; all others are there, and can be read."""
    found = accounts(trail)
    assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
    assert found.totals.keys() <= {ValueState.OPEN, ValueState.PURGED}
    return found.totals.get(ValueState.PURGED, 0)


def test_a_value_goes_on_the_day_its_ceiling_passes(
    make: Callable[..., indelible.Trail],
) -> None:
    """Not a day before, and the values beside it stay, under a key that opens no old copy."""
    trail = make()
    with trail.store.read() as view:
        rows = [Row.from_bytes(row) for row in view.rows("user", [0, 1, 2])]
    keys = {box.key for row in rows for box in row.boxes if len(box.positions) > 1}

    with pytest.raises(NotFound, match="found nothing whose ceiling has passed"):
        plan(trail, 89)
    done = purge(trail, 91)

    assert (3, 3, 2) == (done.entries, done.values, done.keys)
    assert 3 == purged(trail)
    assert [] == trail.vault.keyring.wrapped(keys)
    item = trail.at("user", 0)
    assert ("PURGED", "OPEN") == (item.states["/client/ip"], item.states["/session"])
    assert "session-0" == item.event.session
    assert () == trail.search("ip:192.0.2.7").items
    assert 1 == len(trail.search("session:session-1").items)
    trail.verify().require()


def test_nothing_of_what_was_purged_is_in_any_file(make: Callable[..., indelible.Trail]) -> None:
    """A purge is as thorough as an erasure, also where a value is nobody's."""
    trail = make(keeping({"/session": FieldRule(class_=FieldClass.PERSONAL, ceiling="30d")}))
    with trail.store.read() as view:
        boxes = [box for row in view.rows("user", [0, 1, 2]) for box in Row.from_bytes(row).boxes]
    keys = {key.id: key for key in trail.vault.keyring.wrapped({box.key for box in boxes})}
    nobodys = [box for box in boxes if not keys[box.key].subject]
    needles = [box.data for box in nobodys] + [keys[box.key].wrapped for box in nobodys]
    assert files_with(trail.path, needles)

    purge(trail, 31)

    assert [] == files_with(trail.path, needles)
    assert 3 == purged(trail)


def test_a_key_of_nobody_stays_while_any_value_is_under_it(
    make: Callable[..., indelible.Trail],
) -> None:
    """Values that are nobody's share a key; it goes with the last of them."""
    trail = make(keeping({"/session": FieldRule(class_=FieldClass.PERSONAL, ceiling="30d")}))
    made = plan(trail, 31, most=2)
    expiry.carry_out(trail, Consent(plan=made.to_bytes()), NOW + timedelta(days=31))

    assert 2 == purged(trail)
    assert 1 == purge(trail, 31).keys
    assert 3 == purged(trail)


def test_holds_and_floors_come_before_a_ceiling(make: Callable[..., indelible.Trail]) -> None:
    """What is under hold, or must be kept for longer than it may be, stays."""
    trail = make(keeping({"/session": rule("30d", floor="1y")}))
    hold = trail.hold(ground="case 7", subject="user:alice")

    made = plan(trail, 91)
    trail.release(hold)
    purge(trail, 91)

    assert [(2, ("/client/ip",))] == [(each.index, each.paths) for each in made.cover]
    assert 3 == purged(trail)
    assert 3 == purge(trail, 370).values


def test_what_the_trail_says_about_itself_is_never_purged(
    make: Callable[..., indelible.Trail],
) -> None:
    """Custody entries outlive everything: they say why the rest is gone."""
    trail = make(keeping(stream=Retention(ceiling="30d")))
    trail.hold(ground="case 7", subject="user:bob")

    made = plan(trail, 100_000)

    assert {"user"} == {each.log for each in made.cover}


def test_a_stream_s_ceiling_is_that_of_all_its_values(
    make: Callable[..., indelible.Trail],
) -> None:
    """Where a field has none of its own."""
    trail = make(keeping(stream=Retention(ceiling="30d")))

    purge(trail, 31)
    purge(trail, 91)

    assert {"PURGED"} == set(trail.at("user", 0).states.values())


def test_entries_go_in_whole_tiles_once_their_values_are_gone(
    make: Callable[..., indelible.Trail],
) -> None:
    """What retention has released of a log leaves it from the start, and it verifies as before."""
    trail = make(keeping(stream=Retention(ceiling="90d")))
    trail.record_many([event(number=number) for number in range(TILE)])
    roots = trail.checkpoint()

    done = purge(trail, 91)

    with trail.store.read() as view:
        assert TILE == view.heads()["user"].first
    assert {"user": TILE} == done.prefixes
    assert roots == trail.checkpoint()
    assert 9 == purged(trail)
    trail.verify().require()
    with pytest.raises(NotFound):
        plan(trail, 91)


def test_entries_stop_going_before_the_first_that_is_held(
    make: Callable[..., indelible.Trail],
) -> None:
    """A hold on one entry keeps it, and all after it, in the log."""
    trail = make(keeping(stream=Retention(ceiling="90d")))
    trail.record_many([event(number=number) for number in range(2 * TILE)])
    trail.hold(ground="case 7", query=f"session:session-{TILE}")

    done = purge(trail, 91)

    assert {"user": TILE} == done.prefixes
    assert {"OPEN"} == set(trail.at("user", TILE + 3).states.values())


def test_a_purge_that_people_must_approve_is_refused_without(
    make: Callable[..., indelible.Trail],
) -> None:
    """Where the policy asks for approvals, its ceilings alone are not enough."""
    trail = make(keeping(governance=Governance(purge=Approvals())))
    made = plan(trail, 91)

    with pytest.raises(NotApproved, match="found approvals of nobody"):
        expiry.carry_out(trail, Consent(plan=made.to_bytes()), NOW + timedelta(days=91))

    assert 0 == purged(trail)
    assert 1 == len(trail.search("stream:custody action:purge.refuse").items)


@pytest.mark.parametrize(
    ("days", "changes", "why"),
    [
        (91, {"trail": "other"}, "is for trail other"),
        (91, {"policy": "0" * 64}, "was made under policy"),
        (200, {}, "found"),
        (91, {"cover": (Covered(log="user", index=0, paths=("/session",)),)}, "may not go"),
        (91, {"cover": (Covered(log="user", index=9, paths=("/session",)),)}, "was not there"),
        (91, {"cover": (), "detail": {"prefixes": {"user": 256}}}, "may not go yet"),
        (91, {"cover": (), "detail": {"prefixes": {"nope": 256}}}, "found no such log"),
        (91, {"cover": (), "detail": {"prefixes": 1}}, "prefixes"),
    ],
)
def test_a_plan_that_retention_did_not_make_is_refused(
    make: Callable[..., indelible.Trail], days: int, changes: dict[str, object], why: str
) -> None:
    """Nobody can purge early, or anything else, by writing a plan by hand."""
    trail = make()
    made = msgspec.structs.replace(plan(trail, 91), **changes)

    with pytest.raises(NotApproved, match=why):
        expiry.carry_out(trail, Consent(plan=made.to_bytes()), NOW + timedelta(days=days))

    assert 0 == purged(trail)


@pytest.mark.parametrize(
    ("days", "changes", "why"),
    [
        (91, {"trail": "other"}, "is for trail other"),
        (90, {}, "expected not before"),
        (200, {}, "expired"),
    ],
)
def test_a_past_purge_by_a_plan_for_elsewhere_is_no_ground(
    make: Callable[..., indelible.Trail], days: int, changes: dict[str, object], why: str
) -> None:
    """Whoever holds the keys cannot write that a plan was begun which was not for then and here."""
    trail = make()
    made = msgspec.structs.replace(plan(trail, 91), **changes)
    begun = own_event(trail.id, "purge.begin", **what_it_covers(made), approvals=[])

    write(trail, lambda: [begun], microseconds(NOW + timedelta(days=days)), [made.to_bytes()])

    (wrong,) = accounts(trail).wrong
    assert why in wrong.what


def test_what_came_under_hold_since_the_plan_stays(make: Callable[..., indelible.Trail]) -> None:
    """A plan from before a hold is not carried out after it."""
    trail = make()
    made = plan(trail, 91)
    trail.hold(ground="case 7", subject="user:bob")

    with pytest.raises(NotApproved, match="may not go, found hold:"):
        expiry.carry_out(trail, Consent(plan=made.to_bytes()), NOW + timedelta(days=91))

    assert 0 == purged(trail)


class CutOff:
    """A trail whose store fails after it has forgotten what it should."""

    def __init__(self, trail: indelible.Trail) -> None:
        self.store, self._forget = self, trail.store.forget
        self.id, self.vault, self.policy = trail.id, trail.vault, trail.policy
        self.read, self.write = trail.store.read, trail.store.write
        self.signer_of, self.forgotten = trail.signer_of, trail.forgotten
        self.forgetting = trail.forgetting

    def forget(self, entries: Mapping[str, Mapping[int, Forgotten]]) -> None:
        """Forget, and fail."""
        self._forget(entries)
        raise StoreError("cut off")


def test_a_purge_that_was_cut_off_is_finished_by_the_next(
    make: Callable[..., indelible.Trail],
) -> None:
    """Also if nobody has its plan any more: the trail itself keeps it."""
    trail = make()
    made, later = plan(trail, 91), NOW + timedelta(days=91)
    with pytest.raises(StoreError, match="cut off"):
        expiry.carry_out(cast("expiry.Owner", CutOff(trail)), Consent(plan=made.to_bytes()), later)

    done = expiry.resume(trail, NOW + timedelta(days=92))

    assert [2] == [each.keys for each in done]
    assert 3 == purged(trail)
    assert [] == trail.resume()


def test_a_purge_that_was_cut_off_is_not_finished_as_an_erasure(
    make: Callable[..., indelible.Trail],
) -> None:
    """An erasure removes no entries, so it would call done what is only half done."""
    trail = make()
    made, later = plan(trail, 91), NOW + timedelta(days=91)
    consent = Consent(plan=made.to_bytes())
    with pytest.raises(StoreError, match="cut off"):
        expiry.carry_out(cast("expiry.Owner", CutOff(trail)), consent, later)

    with pytest.raises(NotApproved, match="is for purge, expected erase"):
        erasure.carry_out(trail, consent, later)

    assert [made.digest] == [done.plan for done in expiry.resume(trail, later)]


def test_a_restored_copy_purges_again(make: Callable[..., indelible.Trail], tmp_path: Path) -> None:
    """What retention had released when a copy was restored goes with the next purge."""
    trail = make()
    trail.backup(tmp_path / "copy")
    purge(trail, 91)
    trail.close()

    restore(tmp_path / "copy", trail.path)

    with indelible.open(trail.path) as restored:
        assert 3 == purge(restored, 92).values
        found = accounts(restored)
    assert ((), 3) == (found.alarms, found.totals[ValueState.PURGED])


def test_a_locked_keyring_stops_a_purge(make: Callable[..., indelible.Trail]) -> None:
    """Where a hold cannot be looked up, nothing goes."""
    trail = make()
    trail.hold(ground="case 7", subject="user:alice")
    trail.close()
    (trail.path / "keys" / "vault-1.key").rename(trail.path / "keys" / "away")

    with indelible.open(trail.path) as locked, pytest.raises(KeyUnavailable):
        plan(locked, 91)
