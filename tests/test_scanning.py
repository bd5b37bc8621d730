"""What looks like a secret and stands in a log is found, and never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import indelible
from indelible import document
from indelible.event import Actor, Change, Event, Outcome, Rationale, Resource
from indelible.keys import SigningKey
from indelible.log import append
from indelible.policy import FieldClass, FieldRule
from indelible.scanning import MAX_SPOTS, Spot, scan
from indelible.seal import seal
from indelible.store import Head
from indelible.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEY = SigningKey.from_seed("audit.example.com/user", bytes(32))
NOON = 1_767_268_800_000_000
CARD = "4111 1111 1111 1111"
TOKEN = "gh" + "p_" + "a1B2" * 9


def event(**fields: object) -> Event:
    """Return an event with these fields."""
    return Event(
        action="user.update",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse("user:alice"),
        **fields,  # type: ignore[arg-type]
    )


def trail_of(events: Sequence[Event]) -> MemoryStore:
    """Return a store in which these events stand in clear, as before there were policies."""
    store = MemoryStore()
    with store.write() as transaction:
        transaction.create(Head(log="user", origin=KEY.name))
    with store.write() as transaction:
        head = transaction.heads()["user"]
        append(transaction, head, [seal(each) for each in events], KEY, NOON)
    return store


FOUND = [
    event(changes={"password": Change("old-one", "new-one"), "status": Change("a", "b")}),
    event(data={"note": f"paid with {CARD}", "items": [{"pin": 1234}, {"pin": 5678}]}),
    event(rationale=Rationale(text=f"with token {TOKEN}"), reason="none"),
    event(data={"token_type": "bearer", "amount": 17}),
]


def test_each_place_is_named_with_its_kind() -> None:
    """A finding says path, kind and entry; lists are counted as one path."""
    with trail_of(FOUND).read() as view:
        scanned = scan(view)

    assert {
        ("/changes/password/new", "key name"): 1,
        ("/changes/password/old", "key name"): 1,
        ("/data/items/*/pin", "key name"): 2,
        ("/data/note", "card number"): 1,
        ("/rationale/text", "bearer token"): 1,
    } == scanned.found
    assert (4, 6) == (scanned.entries, scanned.total)
    assert Spot(log="user", index=1, path="/data/items/1/pin", kind="key name") in scanned.spots


def test_no_value_is_shown() -> None:
    """A report about secrets can be sent by mail."""
    with trail_of(FOUND).read() as view:
        scanned = scan(view)

    told = repr(scanned) + "".join(map(str, scanned.spots))
    for value in (CARD, TOKEN, "old-one", "new-one", "1234", "5678"):
        assert value not in told


def test_of_many_places_the_first_are_named_and_all_are_counted() -> None:
    """A trail full of secrets is still answered by a report of some size."""
    one = event(data={"pins": [{"pin": number} for number in range(1_000, 1_300)]})
    with trail_of([one] * 4).read() as view:
        scanned = scan(view)

    assert (1_200, MAX_SPOTS) == (scanned.total, len(scanned.spots))


def test_what_cannot_be_read_is_named() -> None:
    """Of damaged entries nothing is claimed."""
    store = trail_of(FOUND)
    store._logs["user"].bodies[2] += b" "  # noqa: SLF001 - a byte turns
    with store.read() as view:
        scanned = scan(view)

    assert ["user: entries 0 to 3: entry 2: its bytes do not have the recorded leaf hash"] == list(
        scanned.unread
    )


def test_progress_is_told() -> None:
    """Whoever waits sees how far it is."""
    told: list[tuple[int, int]] = []

    with trail_of(FOUND).read() as view:
        scan(view, progress=lambda done, total: told.append((done, total)))

    assert [(4, 4)] == told


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a trail is made."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "audit"


def test_what_the_trail_writes_about_itself_holds_no_secret(path: Path) -> None:
    """Keys that verify, roots and digests are taken for what they are."""
    with indelible.open(path, policy=document.default()) as trail:
        trail.record("user.update", resource="user:alice", changes={"password": ("a", "b")})
        trail.rotate_key()
        with trail.store.read() as view:
            scanned = scan(view)

    assert ({}, {}, ()) == (scanned.found, scanned.caught, scanned.unread)
    assert 8 <= scanned.entries


def test_what_the_net_has_caught_is_counted(path: Path) -> None:
    """A public field in which secrets arrive needs another class; the report says which."""
    default = document.default()
    policy = msgspec.structs.replace(
        default,
        id="shop",
        text=b"",
        fields={**default.fields, "/data/note": FieldRule(class_=FieldClass.PUBLIC)},
    )
    with indelible.open(path, policy=policy) as trail:
        for note in (f"paid with {CARD}", "paid in cash", f"with {TOKEN}"):
            trail.record("invoice.pay", resource="invoice:7", data={"note": note})
        with trail.store.read() as view:
            scanned = scan(view)

    assert ({}, {"/data/note": 2}) == (scanned.found, scanned.caught)
