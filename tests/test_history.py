"""A resource's history says what became of it, who set each field, and where it has gaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from indelible.entry import Entry
from indelible.errors import InvalidQuery
from indelible.event import Actor, Change, Event, Outcome, Resource, uuid7
from indelible.history import State, Unexplained, Value, fold, history, state
from indelible.keys import SigningKey
from indelible.log import append
from indelible.query import Item
from indelible.seal import seal, unseal
from indelible.store import Head
from indelible.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MICROSECONDS = 1_767_268_800_000_000


def event(
    changes: dict[str, Change] | None,
    *,
    outcome: Outcome = Outcome.SUCCESS,
    resource: str = "invoice:INV-7",
    occurred_at: datetime = NOON,
) -> Event:
    """Return an event that *changes* a resource."""
    return Event(
        id=uuid7(MICROSECONDS * 1000, bytes(10)),
        occurred_at=occurred_at,
        action="invoice.change",
        outcome=outcome,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse(resource),
        changes=changes,
    )


def item(index: int, changes: dict[str, Change] | None, **fields: Any) -> Item:
    """Return the item at an *index*, recorded that many seconds after noon."""
    sealed = event(changes, **fields)
    entry = Entry(
        index=index,
        previous=bytes(32),
        recorded_at=MICROSECONDS + index * 1_000_000,
        event=seal(sealed).event,
    )
    return Item(
        log="user",
        origin="x.example/user",
        index=index,
        leaf_hash=entry.leaf_hash,
        entry=entry,
        clear=unseal(entry.event),
        event=sealed,
        states={},
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """The history of INV-7 over two streams, with another invoice in between."""
    store = SqliteStore(tmp_path, create=True)
    keys = {log: SigningKey.from_seed(f"x.example/{log}", bytes(32)) for log in ("user", "admin")}
    with store.write() as transaction:
        for log in keys:
            transaction.create(Head(log=log, origin=f"x.example/{log}"))
    # The actors' clocks run backwards: they order nothing.
    steps = [
        ("user", 0, event({"status": Change(new="draft")}, occurred_at=NOON + timedelta(hours=1))),
        ("user", 1, event({"status": Change(new="draft")}, resource="invoice:INV-77")),
        ("admin", 2, event({"status": Change("draft", "held")})),
        ("user", 3, event({"status": Change("held", "paid")}, outcome=Outcome.DENIED)),
        ("user", 4, event({"status": Change("held", "paid"), "amount": Change(10, 12)})),
    ]
    for log, seconds, each in steps:
        with store.write() as transaction:
            head = transaction.heads()[log]
            at = MICROSECONDS + seconds * 1_000_000
            append(transaction, head, [seal(each)], keys[log], at)
    yield store
    store.close()


def test_a_history_is_all_entries_about_a_resource_oldest_first(store: SqliteStore) -> None:
    """Entries of all streams come in the order in which they were recorded."""
    with store.read() as view:
        found = [(item.log, item.index) for item in history(view, "invoice:INV-7")]

    assert [("user", 0), ("admin", 0), ("user", 2), ("user", 3)] == found


def test_a_history_can_end_before_a_time(store: SqliteStore) -> None:
    """Until a time is what was recorded before it."""
    with store.read() as view:
        until = NOON + timedelta(seconds=2)
        found = [item.index for item in history(view, "invoice:INV-7", until=until)]

    assert [0] == found


def test_a_history_reads_only_its_entries(store: SqliteStore) -> None:
    """Two logs of one block each cost two blocks."""
    with store.read() as view:
        list(history(view, "invoice:INV-7"))

        assert 2 == view.work.blocks_read


def test_a_state_names_the_entry_that_set_each_field(store: SqliteStore) -> None:
    """Every value has an entry to blame, and so an actor and a proof."""
    with store.read() as view:
        now = state(view, "invoice:INV-7")

    values = {field: (value.value, value.since.index) for field, value in now.values.items()}
    assert {"status": ("paid", 3), "amount": (12, 3)} == values
    assert () == now.unexplained


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-1, None), (0, "draft"), (1.9, "draft"), (2, "held"), (3, "held")]
)
def test_a_state_at_a_time_is_what_was_recorded_by_then(
    store: SqliteStore, seconds: float, expected: str | None
) -> None:
    """What was recorded at that very moment counts."""
    with store.read() as view:
        then = state(view, "invoice:INV-7", NOON + timedelta(seconds=seconds))

    assert expected == (then.values["status"].value if then.values else None)


def test_the_end_of_time_is_a_time(store: SqliteStore) -> None:
    """The latest moment there is means everything."""
    with store.read() as view:
        now, end = (
            state(view, "invoice:INV-7", at) for at in (None, datetime.max.replace(tzinfo=UTC))
        )

    assert now == end


@pytest.mark.parametrize("resource", ["invoice", "invoice:*", "invoice:"])
def test_a_history_is_of_one_resource(store: SqliteStore, resource: str) -> None:
    """A type has no history, and neither has a wildcard."""
    with store.read() as view, pytest.raises(InvalidQuery, match="resource: found"):
        history(view, resource)


def test_a_time_without_a_zone_is_refused(store: SqliteStore) -> None:
    """Nobody knows when it is."""
    with store.read() as view, pytest.raises(InvalidQuery, match="a datetime with a time zone"):
        state(view, "invoice:INV-7", datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.FAILURE, Outcome.UNKNOWN])
def test_what_did_not_succeed_changes_nothing(outcome: Outcome) -> None:
    """A change that was refused, failed, or is not known to have happened is not folded."""
    created = item(0, {"status": Change(new="draft")})

    found = fold([created, item(1, {"status": Change("draft", "paid")}, outcome=outcome)])

    assert State(values={"status": Value(value="draft", since=created)}, unexplained=()) == found


def test_a_change_that_finds_another_value_is_a_gap() -> None:
    """Who changes a field past the trail is noticed by the next change within it."""
    created = item(0, {"status": Change(new="draft")})
    paid = item(1, {"status": Change("approved", "paid")})

    found = fold([created, paid])

    gap = Unexplained(
        field="status", expected="draft", found="approved", after=created, before=paid
    )
    assert State(values={"status": Value(value="paid", since=paid)}, unexplained=(gap,)) == found


def test_a_field_seen_for_the_first_time_explains_itself() -> None:
    """A trail may begin after the resource: its first old value is believed."""
    assert () == fold([item(0, {"status": Change("draft", "paid")})]).unexplained


def test_a_removed_field_is_gone_but_remembered() -> None:
    """After a removal the field has no value; one that comes from nowhere is a gap."""
    removed = item(0, {"note": Change("x", UNSET)})

    assert {} == fold([removed]).values
    assert () == fold([removed, item(1, {"note": Change(new="y")})]).unexplained
    (gap,) = fold([removed, item(1, {"note": Change("x", "y")})]).unexplained
    assert (UNSET, "x") == (gap.expected, gap.found)


@pytest.mark.parametrize(
    ("left", "found", "gaps"),
    [
        (1, True, 1),
        (0, False, 1),
        (None, UNSET, 1),
        ("1", 1, 1),
        ({"a": 1, "b": [1]}, {"b": [1], "a": 1}, 0),
        ([1, 2], [2, 1], 1),
    ],
)
def test_values_are_equal_as_json(left: object, found: object, gaps: int) -> None:
    """True is not 1 and null is not absent; the order of keys means nothing."""
    items = [item(0, {"f": Change(new=left)}), item(1, {"f": Change(found, "z")})]

    assert gaps == len(fold(items).unexplained)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), max_size=12))
def test_changes_that_fit_leave_the_last_values_and_no_gap(steps: list[tuple[str, int]]) -> None:
    """When each change names what the one before has left, the state is the last of each field."""
    last: dict[str, int] = {}
    items = []
    for index, (field, new) in enumerate(steps):
        items.append(item(index, {field: Change(last.get(field, UNSET), new)}))
        last[field] = new

    found = fold(items)

    assert last == {field: value.value for field, value in found.values.items()}
    assert () == found.unexplained
