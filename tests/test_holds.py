"""Holds: what is under a legal hold stays, whatever else would take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import indelible
from indelible import holds
from indelible.errors import CallerError, InvalidQuery, KeyUnavailable, NotFound
from indelible.event import Actor, Event, Outcome, Resource
from indelible.policies import Consent
from indelible.store import Forgotten
from tests.raw import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def event(actor: str = "user:alice", resource: str = "order:1") -> Event:
    """Return an event of an actor."""
    return Event(
        action="order.ship",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse(resource),
    )


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[indelible.Trail]:
    """Return a trail in which alice has shipped two orders, and bob one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t") as made:
        made.record_many([event(), event("user:bob", "order:2"), event(resource="order:3")])
        yield made


def held(trail: indelible.Trail) -> list[int]:
    """Return the entries of the user stream that are held."""
    with trail.store.read() as view:
        found = holds.Held(view, trail.vault, trail.policy)
        return [at for at in range(view.heads()["user"].size) if found.of("user", at)]


def test_a_hold_says_why_and_on_what_and_until_when(trail: indelible.Trail) -> None:
    """Whoever asks learns of each hold: when it was placed and released, and its ground."""
    subject = trail.hold(ground="case 7", subject="user:alice")
    query = trail.hold(ground="case 8", query="resource:order:2")
    everything = trail.hold(ground="an order")

    trail.release(query)

    found = trail.holds()
    assert [subject, query, everything] == [hold.id for hold in found]
    assert ["case 7", "case 8", "an order"] == [hold.ground for hold in found]
    assert [("user:alice", None), (None, "resource:order:2"), (None, None)] == [
        (hold.subject, hold.query) for hold in found
    ]
    assert [False, True, False] == [hold.released_at is not None for hold in found]
    trail.verify().require()


def test_a_hold_on_a_subject_keeps_all_that_it_is_found_by(trail: indelible.Trail) -> None:
    """Also what is recorded later, and what names the subject in clear."""
    trail.hold(ground="case 7", subject="user:alice")
    trail.hold(ground="case 7", subject="order:2")

    trail.record(event())
    trail.record(event("user:carol"))

    assert [0, 1, 2, 3] == held(trail)


def test_a_hold_on_a_query_keeps_what_it_finds(trail: indelible.Trail) -> None:
    """Now and later."""
    trail.hold(ground="case 7", query="actor:user:bob")

    trail.record(event("user:bob"))

    assert [1, 3] == held(trail)


def test_a_hold_on_everything_keeps_everything(trail: indelible.Trail) -> None:
    """Until it is released."""
    hold = trail.hold(ground="an order")

    before = held(trail)
    trail.release(hold)

    assert ([0, 1, 2], []) == (before, held(trail))


def test_a_hold_that_cannot_be_read_keeps_everything(trail: indelible.Trail) -> None:
    """Where the vault has lost what a hold is on, nobody can say what it is not on."""
    trail.hold(ground="case 7", subject="user:bob")
    with trail.store.read() as view:
        last = view.heads()["custody"].size - 1
    forgotten = {"custody": {last: Forgotten()}}

    trail.store.forget(forgotten)

    assert [0, 1, 2] == held(trail)


def test_whom_a_hold_is_on_stands_nowhere_in_clear(trail: indelible.Trail) -> None:
    """A hold may name people, and its ground too: the log only commits to them."""
    trail.hold(ground="the case of dorothea", subject="user:dorothea")
    trail.hold(ground="another", query="actor:user:dorothea")

    assert [] == files_with(trail.path, [b"dorothea"])


def test_a_released_hold_no_longer_stops_an_erasure(trail: indelible.Trail) -> None:
    """Holds come first; after them, what was asked for before is done with a new plan."""
    hold = trail.hold(ground="case 7", subject="user:alice")
    deferred = trail.plan_erasure("user:alice", basis="GDPR Art. 17")
    trail.release(hold)

    plan = trail.plan_erasure("user:alice", basis="GDPR Art. 17")
    trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))

    assert ((), {f"hold:{hold}"}) == (deferred.cover, {each.ground for each in deferred.deferred})
    assert "ERASED" == trail.at("user", 0).states["/actor/id"]


def test_a_hold_must_mean_something(trail: indelible.Trail) -> None:
    """A hold without a ground, on two things at once, or on nothing that is one, is refused."""
    with pytest.raises(CallerError, match="ground"):
        trail.hold(ground="")
    with pytest.raises(CallerError, match="expected one of them"):
        trail.hold(ground="case 7", subject="user:alice", query="actor:user:alice")
    with pytest.raises(CallerError, match="type:id"):
        trail.hold(ground="case 7", subject="alice")
    with pytest.raises(InvalidQuery):
        trail.hold(ground="case 7", query="nonsense:1")
    assert [] == trail.holds()


def test_a_hold_is_released_once(trail: indelible.Trail) -> None:
    """To release what is no hold, or was released, is an error that names those there are."""
    hold = trail.hold(ground="case 7")

    with pytest.raises(NotFound, match=hold):
        trail.release("other")
    trail.release(hold)
    with pytest.raises(CallerError, match="was released already"):
        trail.release(hold)


def test_nothing_is_forgotten_while_the_keyring_is_locked(trail: indelible.Trail) -> None:
    """Where nobody can say what a hold is on, nobody erases or purges."""
    trail.hold(ground="case 7", query="actor:user:bob")
    trail.close()
    (trail.path / "keys" / "vault-1.key").rename(trail.path / "keys" / "away")

    with indelible.open(trail.path) as locked:
        with pytest.raises(KeyUnavailable):
            locked.plan_erasure("user:alice", basis="GDPR Art. 17")
        with pytest.raises(KeyUnavailable):
            locked.plan_purge()
