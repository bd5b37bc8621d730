"""Facets count exactly what a query finds."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.errors import Damaged, InvalidQuery, UnknownStream
from indelible.event import Actor, Event, Outcome, Resource, Trace, uuid7
from indelible.facets import FEW, Facet, facets
from indelible.keys import SigningKey
from indelible.log import append
from indelible.query import Query, matches
from indelible.seal import seal
from indelible.segment import SEGMENT
from indelible.store import Head
from indelible.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTIONS = ("invoice.approve", "invoice.line.add", "auth.login", "login")
FIELDS = ("actor", "action", "resource", "outcome", "session")


def event(number: int, rng: random.Random) -> Event:
    """Return an event of a *number*, with values that differ in how frequent they are."""
    return Event(
        id=uuid7((NOON + number * SECOND) * 1000, number.to_bytes(10, "big")),
        occurred_at=EPOCH + timedelta(microseconds=NOON + rng.randrange(90_000) * SECOND),
        action=rng.choice(ACTIONS),
        outcome=rng.choice(list(Outcome)),
        actor=Actor.parse(f"user:u{int(rng.expovariate(0.1))}"),
        resource=Resource.parse(f"invoice:INV-{int(rng.expovariate(0.002))}"),
        session=rng.choice((None, "s-1", "s-2")),
        trace=rng.choice((None, Trace(trace_id="t-1"))),
        reason=rng.choice((None, None, None, "card declined")),
    )


def store_of(path: Path, *logs: str) -> SqliteStore:
    """Return a store of empty *logs*."""
    store = SqliteStore(path, create=True)
    with store.write() as transaction:
        for log in logs:
            transaction.create(Head(log=log, origin=f"x.example/{log}"))
    return store


def record(store: SqliteStore, log: str, at: int, events: Sequence[Event]) -> None:
    """Append *events* to *log* at a time."""
    key = SigningKey.from_seed(f"x.example/{log}", bytes(32))
    with store.write() as transaction:
        append(transaction, transaction.heads()[log], [seal(each) for each in events], key, at)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """A log with a closed segment and an open part, its successor, and another stream."""
    rng = random.Random(9)
    store = store_of(tmp_path_factory.mktemp("facets"), "user", "user~2", "admin")
    for start in range(0, SEGMENT + 1000, 1024):
        numbers = range(start, min(start + 1024, SEGMENT + 1000))
        record(store, "user", NOON + start * SECOND, [event(n, rng) for n in numbers])
    for log in ("user~2", "admin"):
        record(store, log, NOON + 70_000 * SECOND, [event(n, rng) for n in range(300)])
    for segment in store.close_segments():
        with store.write() as transaction:
            transaction.register(segment)
    yield store
    store.close()


def value(event: Event, field: str) -> str | None:
    """Return the text of a *field* as people write it."""
    found: Any = getattr(event, field)
    return None if found is None else str(found)


QUERIES = [
    "",
    "stream:admin",
    "actor:user:u7",
    "actor:user:* stream:admin",
    "action:invoice.* -outcome:(success OR unknown)",
    "-actor:user:u1 stream:admin",
    "outcome:denied session:(s-1 OR s-2)",
    "since:2026-01-02T06:00:00Z until:2026-01-02T06:30:00Z",
    "since:2026-01-02 outcome:failure",
    "until:2025-12-31",
    "occurred_since:2026-01-02T12:00:00Z stream:admin",
    "declined actor:user:u3",
    "trace:t-1 actor:user:u3 action:login",
    "actor:user:nobody",
]


@pytest.mark.parametrize("text", QUERIES)
def test_facets_count_what_the_query_finds(store: SqliteStore, text: str) -> None:
    """Each count is the number of entries that the same query lists with this value."""
    query = Query.parse(text)

    with store.read() as view:
        found = [item.event for item in matches(view, query)]
        answer = facets(view, query, FIELDS, top=5)

    assert list(FIELDS) == list(answer)
    for field, facet in answer.items():
        expected = Counter(name for each in found if (name := value(each, field)) is not None)
        assert expected.total() == facet.total
        assert len(expected) == facet.distinct
        assert dict(facet.counts) == {name: expected[name] for name, _ in facet.counts}
        frequent = sorted(expected.values(), reverse=True)[:5]
        assert frequent == [count for _, count in facet.counts]


def test_the_whole_trail_is_counted_without_reading_it(store: SqliteStore) -> None:
    """What each segment has counted beforehand is added up, and no segment is opened."""
    with store.read() as view:
        answer = facets(view, Query(), ["outcome"], top=0)
        work = view.work

    assert SEGMENT + 1600 == answer["outcome"].total
    assert (0, 0) == (work.segments_opened, work.blocks_read)


def test_many_matches_are_counted_without_reading_them(store: SqliteStore) -> None:
    """Counting over the index costs no blocks but those that name the values."""
    with store.read() as view:
        answer = facets(view, Query(outcome="denied", stream="user"), ["action"])
        work = view.work

    assert answer["action"].total > FEW
    assert len(ACTIONS) + 5 >= work.blocks_read


def test_a_time_is_found_without_reading_all_before(store: SqliteStore) -> None:
    """Where a span of time begins and ends is found by halving."""
    query = Query(since=EPOCH + timedelta(microseconds=NOON + 3000 * SECOND), stream="user")
    with store.read() as view:
        answer = facets(view, query, ["outcome"], top=0)
        work = view.work

    assert SEGMENT + 1300 - 3072 == answer["outcome"].total
    assert 30 >= work.blocks_read


def test_values_of_equal_count_are_named_in_order(tmp_path: Path) -> None:
    """The most frequent stand first; of equal ones, the order is that of the alphabet."""
    rng = random.Random(1)
    store = store_of(tmp_path, "user")
    actors = ["user:b", "user:c", "user:a", "user:c"]
    events = [event(number, rng) for number in range(4)]
    record(
        store,
        "user",
        NOON,
        [
            Event(
                id=each.id,
                occurred_at=each.occurred_at,
                action="login",
                outcome=Outcome.SUCCESS,
                actor=Actor.parse(actor),
                resource=each.resource,
            )
            for each, actor in zip(events, actors, strict=True)
        ],
    )

    with store.read() as view:
        answer = facets(view, Query(), ["actor", "session"])
    store.close()

    expected = Facet(counts=(("user:c", 2), ("user:a", 1), ("user:b", 1)), distinct=3, total=4)
    assert {"actor": expected, "session": Facet(counts=(), distinct=0, total=0)} == answer


def test_an_index_that_names_another_entry_is_damaged(tmp_path: Path) -> None:
    """A count whose example does not have the value is an alarm, not an answer."""
    rng = random.Random(1)
    store = store_of(tmp_path, "user")
    one = event(1, rng)
    sealed, other = seal(one), seal(event(2, random.Random(2)))
    key = SigningKey.from_seed("x.example/user", bytes(32))
    lie = msgspec.structs.replace(sealed, clear=other.clear)
    with store.write() as transaction:
        append(transaction, transaction.heads()["user"], [lie], key, NOON)

    with store.read() as view, pytest.raises(Damaged, match="entry 0 does not have the actor"):
        facets(view, Query(), ["actor"])
    store.close()


def test_what_cannot_be_counted_is_refused(store: SqliteStore) -> None:
    """An unknown field, number or stream is an error that says what is expected."""
    with store.read() as view:
        with pytest.raises(InvalidQuery, match="found 'colour', expected one of actor, action"):
            facets(view, Query(), ["colour"])
        with pytest.raises(InvalidQuery, match="top: found -1"):
            facets(view, Query(), top=-1)
        with pytest.raises(UnknownStream):
            facets(view, Query(stream="users"))
