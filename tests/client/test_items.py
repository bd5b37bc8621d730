from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.access import Viewer
from indelible.box import Row, ValueState
from indelible.entry import hash_to_text
from indelible.errors import Damaged, Malformed, VerificationError
from indelible.merkle import HASH_SIZE
from indelible.policy import OWNER
from indelible.query import Query
from indelible.seal import unseal
from tests.collector.conftest import issued

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.client.items import Item
    from indelible.client.session import Session
    from tests.client.conftest import Between

PATHS = ("/actor/id", "/changes/status", "/data", "/rationale", "/session", "/client/ip")
SENT = Query(resource="invoice:INV-7", newest_first=False)


def disclosures_of(between: Between, index: int, *shown: str) -> list[msgspec.Raw]:
    """Return what proves the values at the paths *shown* of an entry, from the vault itself."""
    trail = between.trail
    with trail.store.read() as view:
        (row,) = view.rows("user", [index])
    clear = unseal(trail.at("user", index).entry.event)
    opener = trail.vault.opener(Viewer.of(trail.policy, OWNER), trail.policy)
    found = opener.look("user", index, clear, row, opener.keys([row]))
    spine = Row.from_bytes(row).spine
    return [
        msgspec.Raw(
            found[path].disclosure
            if path in shown
            else b'"%b"' % hash_to_text(spine[place * HASH_SIZE :][:HASH_SIZE])
        )
        for place, path in enumerate(clear.committed)
    ]


def disclosing(
    between: Between, *shown: str, change: Callable[[list[Any]], None] = lambda _: None
) -> None:
    """Have the collector prove the values at the paths *shown*, and *change* what proves them."""

    def disclose(answer: dict[str, Any]) -> None:
        for item in answer["items"]:
            given: list[Any] = [*disclosures_of(between, item["integrity"]["index"], *shown)]
            change(given)
            item["disclosures"] = given

    between.lie_in_json("/v1/entries", disclose)


def altering(between: Between, change: Callable[[dict[str, Any]], None]) -> None:
    """Change each item of a page."""

    def alter(answer: dict[str, Any]) -> None:
        for item in answer["items"]:
            change(item)

    between.lie_in_json("/v1/entries", alter)


@pytest.fixture
def sent(session: Session, honest: Between) -> Callable[[], Item]:
    """Return what asks for alice's entry, of which every value is committed."""

    def ask() -> Item:
        return honest.run(session.page(SENT, limit=1)).items[0]

    return ask


def test_a_collector_proves_all_that_it_shows(sent: Callable[[], Item]) -> None:
    """No value that a collector opens has to be believed."""
    item = sent()

    assert set(PATHS) == {p for p, state in item.states.items() if state is ValueState.OPEN}
    assert () == item.unproven


def test_values_that_come_with_their_disclosures_are_proven(
    honest: Between, sent: Callable[[], Item]
) -> None:
    """What a collector opens is held against the commitment in the log."""
    disclosing(honest, *PATHS)

    item = sent()

    assert () == item.unproven
    assert "alice" == item.event.actor.id
    assert {"batch": 12} == item.event.data
    assert set(PATHS) == {p for p, state in item.states.items() if state is ValueState.OPEN}


def test_values_without_disclosures_are_named(honest: Between, sent: Callable[[], Item]) -> None:
    """What is the collector's word alone is shown as such."""
    altering(honest, lambda item: item.pop("disclosures", None))

    assert set(PATHS) == set(sent().unproven)


def test_a_value_is_proven_beside_others_that_are_not(
    honest: Between, sent: Callable[[], Item]
) -> None:
    """One value can be proven with nothing of the others but their leaf hashes."""
    disclosing(honest, "/actor/id")

    item = sent()

    assert set(PATHS) - {"/actor/id"} == set(item.unproven)


def _event(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(item: dict[str, Any]) -> None:
        *parts, last = path.split("/")
        found = item["event"]
        for part in parts:
            found = found[part]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("actor/id", "bob"),
        ("changes/status", {"old": "draft", "new": "paid"}),
        ("data/batch", True),
        ("data/batch", 12.5),
        ("data/more", 1),
        ("rationale/text", "PO-98"),
        ("session", "s-2"),
        ("client/ip", "192.0.2.18"),
    ],
)
def test_another_value_than_the_proven_one_is_found(
    honest: Between, sent: Callable[[], Item], path: str, value: object
) -> None:
    """Nobody shows another value than the one that is proven."""
    disclosing(honest, *PATHS)
    altering(honest, _event(path, value))

    with pytest.raises(Damaged, match="is not the one that its bytes hold"):
        sent()


def _forged(given: list[Any]) -> None:
    salt, path, _ = msgspec.json.decode(given[0])
    given[0] = msgspec.Raw(msgspec.json.encode([salt, path, "bob"]))


@pytest.mark.parametrize(
    "change",
    [
        _forged,
        lambda given: given.pop(),
        lambda given: given.append(given[0]),
        lambda given: given.reverse(),
        lambda given: given.__setitem__(0, "A" * 43),
        lambda given: given.__setitem__(0, "no hash"),
        lambda given: given.__setitem__(0, ["salt", "/actor/id", "alice"]),
        lambda given: given.__setitem__(0, 7),
    ],
)
def test_a_disclosure_that_the_entry_did_not_commit_to_proves_nothing(
    honest: Between, sent: Callable[[], Item], change: Callable[[list[Any]], None]
) -> None:
    """Salts, paths and values are those that were committed to, in their order."""
    disclosing(honest, *PATHS, change=change)

    with pytest.raises(VerificationError, match="user#0"):
        sent()


def test_a_value_cannot_be_open_and_withheld(honest: Between, sent: Callable[[], Item]) -> None:
    """What is said of a value agrees with what is shown of it."""
    disclosing(honest, *PATHS)
    altering(honest, lambda item: item["values"].update({"/actor/id": "WITHHELD"}))

    with pytest.raises(Damaged, match="is WITHHELD, but a disclosure opens it"):
        sent()


def test_a_state_that_there_is_not_is_malformed(honest: Between, sent: Callable[[], Item]) -> None:
    """States are those that the core knows."""
    altering(honest, lambda item: item["values"].update({"/actor/id": "GONE"}))

    with pytest.raises(Malformed, match="'GONE' is not a valid ValueState"):
        sent()


@pytest.mark.parametrize("role", ["reader", "auditor", "privacy_officer"])
def test_each_role_is_shown_what_it_sees_and_no_mask_counts_as_a_value(
    honest: Between, session: Session, role: str
) -> None:
    """What is masked is told from what is shown, whoever asks."""
    honest.token = issued(honest.collector, role)
    trail = honest.trail
    reader = trail.reader(Viewer.of(trail.policy, role))

    found = honest.run(session.page(SENT)).items
    held = reader.search(SENT).items

    assert [item.event for item in held] == [item.event for item in found]
    assert [item.states for item in held] == [item.states for item in found]
    assert {()} == {item.unproven for item in found}


def test_a_value_in_the_place_of_a_mask_is_named(honest: Between, sent: Callable[[], Item]) -> None:
    """Whoever shows a name as if it were a mask has not proven it."""
    honest.token = issued(honest.collector, "reader")
    altering(honest, _event("actor/id", "mallory"))

    item = sent()

    assert ("mallory", ("/actor/id",)) == (item.event.actor.id, item.unproven)


def test_nothing_in_the_place_of_a_mask_is_found(honest: Between, sent: Callable[[], Item]) -> None:
    """A value that is not shown is not hidden either."""
    altering(honest, lambda item: item.pop("disclosures"))
    altering(honest, _event("session", None))

    with pytest.raises(Damaged, match="/session: found nothing that stands for its value"):
        sent()
