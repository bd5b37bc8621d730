"""A query finds what it asks for, all of it, once, and reads no more than it needs."""

from __future__ import annotations

import random
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indelible import query as query_module
from indelible.errors import Damaged, InvalidCursor, InvalidQuery, NotFound, UnknownStream
from indelible.event import Actor, Change, Event, Outcome, Resource, Trace, parse_changes, uuid7
from indelible.keys import SigningKey
from indelible.log import append
from indelible.query import Item, Page, Query, items, matches, prove, search
from indelible.seal import seal
from indelible.segment import BLOCK, SEGMENT
from indelible.store import Head
from indelible.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECRET = b"secret of this test"
NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTIONS = ("invoice.approve", "invoice.line.add", "invoicing.run", "auth.login", "login")
ACTORS = ("user:alice", "user:bob", "service:billing", "system", "system:cron", "anonymous")
RESOURCES = ("invoice:INV-7", "invoice:INV-77", "document:Q3 figures", "user:bob", "path:/a:b")
TRACES = ("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000001")
REASONS = ("Straße 7 gesperrt", 'said "no"', "card declined")


@dataclass(frozen=True)
class Row:
    """What a test recorded, and where it must be found."""

    log: str
    index: int
    recorded_at: int
    event: Event

    @property
    def place(self) -> tuple[int, str, int]:
        """What orders rows of several logs."""
        return (self.recorded_at, f"x.example/{self.log}", self.index)


class Trail:
    """A store, and beside it in memory all that was put into it."""

    def __init__(self, path: Path, *logs: str) -> None:
        self.store = SqliteStore(path, create=True)
        self.rows: list[Row] = []
        self.keys = {log: SigningKey.from_seed(f"x.example/{log}", bytes(32)) for log in logs}
        with self.store.write() as transaction:
            for log in logs:
                transaction.create(Head(log=log, origin=f"x.example/{log}"))

    def record(self, log: str, at: int, *events: Event) -> None:
        """Append *events* to *log* at a time."""
        with self.store.write() as transaction:
            head = transaction.heads()[log]
            append(transaction, head, [seal(event) for event in events], self.keys[log], at)
        self.rows += [Row(log, head.size + n, at, event) for n, event in enumerate(events)]

    def close_segments(self) -> None:
        """Close what is complete."""
        for segment in self.store.close_segments():
            with self.store.write() as transaction:
                transaction.register(segment)


def event(number: int, **fields: Any) -> Event:
    """Return the event of this *number*, a second after the one before."""
    fields = {
        "id": uuid7((NOON + number * SECOND) * 1000, number.to_bytes(10, "big")),
        "occurred_at": EPOCH + timedelta(microseconds=NOON + number * SECOND),
        "action": "invoice.approve",
        "outcome": Outcome.SUCCESS,
        "actor": "user:alice",
        "resource": "invoice:INV-7",
        **fields,
    }
    fields["actor"] = Actor.parse(fields["actor"])
    fields["resource"] = Resource.parse(fields["resource"])
    return Event(**fields)


def random_event(number: int, rng: random.Random) -> Event:
    """Return an event of few values, so that queries meet."""
    return event(
        number,
        occurred_at=EPOCH + timedelta(microseconds=NOON + rng.randrange(400) * SECOND),
        action=rng.choice(ACTIONS),
        outcome=rng.choice(list(Outcome)),
        actor=rng.choice(ACTORS),
        resource=rng.choice(RESOURCES),
        session=rng.choice((None, "s-1", "s-2")),
        trace=rng.choice((None, *(Trace(trace_id=each) for each in TRACES))),
        reason=rng.choice((None, *REASONS)),
        changes=rng.choice((None, parse_changes({"amount": (1200, 1300.5)}))),
        data=rng.choice((None, {"note": "ÉTÉ\\soir"})),
    )


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    """Two empty logs."""
    trail = Trail(tmp_path, "user", "admin")
    yield trail
    trail.store.close()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Three logs of two streams, 400 random entries, some recorded at the same time."""
    rng = random.Random(7)
    trail = Trail(tmp_path_factory.mktemp("mixed"), "user", "admin", "user~2")
    at, number = NOON, 0
    while number < 400:
        at += rng.choice((0, 0, SECOND))
        count = rng.choice((1, 2, 30))
        events = [random_event(number + n, rng) for n in range(count)]
        trail.record(rng.choice(("user", "admin", "user~2")), at, *events)
        number += count
    yield trail
    trail.store.close()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """One closed segment and an open part of 600; every 1000th entry is by user:rare."""
    rng = random.Random(8)
    trail = Trail(tmp_path_factory.mktemp("long"), "user")
    total = SEGMENT + 600
    for start in range(0, total, 1024):
        events = [
            event(
                number,
                actor="user:rare" if number % 1000 == 0 else f"user:u{rng.randrange(50)}",
                action=rng.choice(ACTIONS),
                resource=f"invoice:INV-{rng.randrange(5000)}",
                outcome=rng.choice(list(Outcome)),
            )
            for number in range(start, min(start + 1024, total))
        ]
        trail.record("user", NOON + start * SECOND, *events)
    trail.close_segments()
    yield trail
    trail.store.close()


def found(page: Page) -> list[tuple[str, int]]:
    """Return log and index of each item."""
    return [(item.log, item.index) for item in page.items]


def all_pages(
    store: SqliteStore, query: Query, limit: int, most: int | None = None
) -> list[tuple[str, int]]:
    """Return log and index of each item of all pages."""
    answer: list[tuple[str, int]] = []
    cursor = None
    while True:
        with store.read() as view:
            page = search(view, query, limit=limit, cursor=cursor, secret=SECRET, most=most)
        assert limit == len(page.items) or page.cursor is None or most is not None
        answer += found(page)
        cursor = page.cursor
        if cursor is None:
            return answer


def named(value: str, patterns: Sequence[str]) -> bool:
    """Tell whether any of *patterns* names *value*, or the type that it is alone."""
    return any(
        value.startswith(pattern[:-1]) or f"{value}:" == pattern[:-1]
        if pattern.endswith("*")
        else value == pattern
        for pattern in patterns
    )


def within(moment: datetime, first: datetime | None, last: datetime | None) -> bool:
    """Tell whether *moment* is at *first* or later, and before *last*."""
    return (first is None or first <= moment) and (last is None or moment < last)


def brute_force(rows: Sequence[Row], query: Query) -> list[tuple[str, int]]:
    """Answer *query* from memory, written apart from what it tests."""

    def holds(row: Row) -> bool:
        it = row.event
        values = {
            "actor": str(it.actor),
            "action": it.action,
            "resource": str(it.resource),
            "outcome": str(it.outcome),
            "stream": row.log.split("~")[0],
            "session": it.session or "",
            "trace": it.trace.trace_id if it.trace else "",
            "id": it.id,
        }
        texts = [*values.values(), it.reason or "", it.actor.id or "", it.actor.type]
        texts += ["amount", "1200", "1300.5"] if it.changes else []
        texts += ["note", "ÉTÉ\\soir"] if it.data else []
        recorded_at = EPOCH + timedelta(microseconds=row.recorded_at)
        return (
            all(
                named(value, getattr(query, field))
                for field, value in values.items()
                if getattr(query, field)
            )
            and not any(
                named(value, getattr(query, f"without_{field}", ()))
                for field, value in values.items()
            )
            and within(recorded_at, query.since, query.until)
            and within(it.occurred_at, query.occurred_since, query.occurred_until)
            and all(
                any(word.casefold() in text.casefold() for text in texts) for word in query.text
            )
        )

    chosen = sorted(filter(holds, rows), key=lambda row: row.place, reverse=query.newest_first)
    return [(row.log, row.index) for row in chosen]


def some(values: Sequence[str]) -> st.SearchStrategy[list[str]]:
    """Draw none, one or two of *values*."""
    return st.just([]) | st.lists(st.sampled_from(values), min_size=1, max_size=2)


MOMENTS = st.integers(-5, 405).map(lambda n: EPOCH + timedelta(microseconds=NOON + n * SECOND))
IDS = [event(number).id for number in (0, 3, 350, 10_000)]
OF_ACTOR = some([*ACTORS, "user:*", "system:*", "anonymous:*"])
OF_ACTION = some([*ACTIONS, "invoice.*", "invoice.line.*", "auth.*"])
OF_RESOURCE = some([*RESOURCES, "invoice:*", "report:*"])
OF_OUTCOME = some(list(Outcome))


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Draw a query that may find something in `mixed`."""
    fields: dict[str, Any] = {
        "actor": OF_ACTOR,
        "action": OF_ACTION,
        "resource": OF_RESOURCE,
        "outcome": OF_OUTCOME,
        "without_actor": OF_ACTOR,
        "without_action": OF_ACTION,
        "without_resource": OF_RESOURCE,
        "without_outcome": OF_OUTCOME,
        "stream": some(["user", "admin"]),
        "session": some(["s-1", "s-2", "s-3"]),
        "trace": some(TRACES),
        "id": some(IDS),
        "text": some(["inv-7", "strasse", "GESPERRT", 'said "no', "1300", "é", "Été\\", "b:b"]),
        "newest_first": st.booleans(),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=4))
    values = {name: draw(fields[name]) for name in sorted(chosen)}
    for first, last in (("since", "until"), ("occurred_since", "occurred_until")):
        if draw(st.booleans()):
            values[draw(st.sampled_from([first, last]))] = draw(MOMENTS)
        elif draw(st.booleans()):
            values[first], values[last] = sorted([draw(MOMENTS), draw(MOMENTS)])
    return Query(**values)


@given(queries())
def test_a_query_is_read_as_it_was_written(query: Query) -> None:
    """A query and its text are one and the same, so a link carries a query exactly."""
    assert query == Query.parse(query.to_text())


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text), max_size=3))
def test_any_text_to_search_for_can_be_written(texts: list[str]) -> None:
    """Quotes and backslashes carry whatever a phrase holds."""
    try:
        query = Query(text=texts)
    except InvalidQuery:
        assert any("\ud800" <= character <= "\udfff" for character in "".join(texts))
        return

    assert query == Query.parse(query.to_text())


def test_the_text_of_a_query_names_all_its_fields() -> None:
    """One text holds conditions, exclusions, alternatives, times and phrases."""
    query = Query.parse(
        "actor:user:alice action:(invoice.approve OR invoice.line.*) -outcome:success"
        ' -actor:service:cron -actor:system resource:"document:Q3 figures" stream:user'
        " since:2026-01-01 until:2026-01-31 occurred_since:2026-01-01T10:00:00+02:00"
        ' order:oldest urgent "second reminder"'
    )

    expected = Query(
        actor="user:alice",
        action=("invoice.approve", "invoice.line.*"),
        without_outcome="success",
        without_actor=("service:cron", "system"),
        resource="document:Q3 figures",
        stream="user",
        since=datetime(2026, 1, 1, tzinfo=UTC),
        until=datetime(2026, 2, 1, tzinfo=UTC),
        occurred_since=datetime(2026, 1, 1, 8, tzinfo=UTC),
        newest_first=False,
        text='urgent "second reminder"',
    )
    assert expected == query


def test_a_date_means_its_whole_day() -> None:
    """From a date is from its first moment, until a date is until its last one, in UTC."""
    query = Query.parse("since:2026-01-31 until:2026-01-31")

    assert datetime(2026, 1, 31, tzinfo=UTC) == query.since
    assert datetime(2026, 2, 1, tzinfo=UTC) == query.until


def test_times_are_held_in_utc() -> None:
    """A time means the moment, whatever zone it was written in."""
    query = Query(since=datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))

    assert "since:2026-01-01T00:00:00Z" == query.to_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actor": "alice"}, "actor: found 'alice', expected TYPE:ID such as user:alice"),
        ({"actor": "user"}, "actor: found 'user'"),
        ({"actor": "robot:*"}, "actor: found 'robot:\\*'"),
        ({"actor": "user:al*"}, "actor: found 'user:al\\*'"),
        ({"actor": ["user:alice", ""]}, "actor: found ''"),
        ({"actor": 7}, "actor: found 7"),
        ({"actor": [7]}, "actor: found 7"),
        ({"without_actor": "alice"}, "without_actor: found 'alice'"),
        ({"action": "approve invoice"}, "action: found 'approve invoice'"),
        ({"action": "*"}, "action: found '\\*'"),
        ({"resource": "INV-7"}, "resource: found 'INV-7'"),
        ({"resource": "invoice:INV-*"}, "resource: found 'invoice:INV-\\*'"),
        ({"outcome": "ok"}, "outcome: found 'ok', expected one of success, failure, denied"),
        ({"id": "7"}, "id: found '7', expected a UUIDv7"),
        ({"id": "0190d1b0-0000-4000-8000-000000000000"}, "id: found"),
        ({"id": "0190d1b000007000800000000000000a"}, "id: found"),
        ({"session": "a\0b"}, "session: found"),
        ({"text": ["\ud800"]}, "text: found"),
        ({"trace": "x" * 1001}, "trace: found"),
        ({"session": [str(n) for n in range(101)]}, "session: found 101 values"),
        ({"since": datetime(2026, 1, 1)}, "since: found .* expected a datetime with a time"),  # noqa: DTZ001
        ({"until": "2026-01-01"}, "until: found"),
        (
            {"since": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))},
            "since: found .* expected a time in the years 1 to 9999",
        ),
        (
            {
                "since": datetime(2026, 1, 2, tzinfo=UTC),
                "until": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "since: found 2026-01-02T00:00:00.00:00, expected a time not after until",
        ),
    ],
)
def test_a_value_that_means_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    """A mistake in a query is told, never answered with an empty page."""
    with pytest.raises(InvalidQuery, match=f"^{message}"):
        Query(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour:red", "q: found key 'colour', expected one of actor, action, resource, outcome"),
        ("see http://example.com", "q: found key 'http'.* stands in quotes"),
        ("-stream:user", "q: found '-stream:', expected one of -actor"),
        ("actor:user:a actor:user:b", r"actor: found it twice, expected actor:\(a OR b\)"),
        ("since:(2026-01-01 OR 2026-01-02)", "since: found 2 values"),
        ("since:yesterday", "since: found 'yesterday', expected a time such as"),
        ("since:2026-02-30", "since: found '2026-02-30'"),
        ("since:2026-01-01T09:00:00", "since: found"),
        ("until:9999-12-31", "until: found"),
        ("order:best", "order: found 'best', expected newest or oldest"),
    ],
)
def test_a_text_that_means_nothing_is_refused(text: str, message: str) -> None:
    """An unknown key is an error that names the known ones."""
    with pytest.raises(InvalidQuery, match=f"^{message}"):
        Query.parse(text)


@given(query=queries())
@settings(max_examples=60, deadline=None)
def test_a_query_finds_exactly_what_it_asks_for(mixed: Trail, query: Query) -> None:
    """An answer is what a reader of every entry would have picked, in the declared order."""
    expected = brute_force(mixed.rows, query)

    assert expected == all_pages(mixed.store, query, 1000)
    with mixed.store.read() as view:
        assert expected == [(item.log, item.index) for item in matches(view, query)]


@given(query=queries(), limit=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_pages_together_hold_each_match_once(mixed: Trail, query: Query, limit: int) -> None:
    """However an answer is cut into pages, nothing is lost and nothing comes twice."""
    assert brute_force(mixed.rows, query) == all_pages(mixed.store, query, limit)


@given(query=queries(), limit=st.integers(1, 40), most=st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_pages_that_read_no_more_than_they_may_hold_each_match_once(
    mixed: Trail, query: Query, limit: int, most: int
) -> None:
    """A page may end early, even empty; its cursor goes on, and no page is without progress."""
    assert brute_force(mixed.rows, query) == all_pages(mixed.store, query, limit, most)


def test_a_page_reads_no_more_than_it_may(long: Trail) -> None:
    """Nothing has this text: the page is empty, has read what it may, and knows where to go on."""
    with long.store.read() as view:
        page = search(view, Query(text="nothing-has-this"), most=1_000, secret=SECRET)

        assert ((), True) == (page.items, page.cursor is not None)
        assert view.work.blocks_read <= 1_000 // BLOCK + 3


@given(st.randoms(use_true_random=False), st.booleans(), st.integers(1, 7))
@settings(max_examples=15, deadline=None)
def test_what_is_recorded_meanwhile_shifts_no_page(
    rng: random.Random, newest_first: bool, limit: int
) -> None:
    """All pages together answer for the moment of the first one, while others write."""
    query = Query(actor="user:*", newest_first=newest_first)
    with tempfile.TemporaryDirectory() as directory:
        trail = Trail(Path(directory), "user", "admin")
        for number in range(20):
            log = rng.choice(("user", "admin"))
            trail.record(log, NOON + number // 3, random_event(number, rng))
        expected = brute_force(trail.rows, query)
        answer, cursor = [], None
        while True:
            with trail.store.read() as view:
                page = search(view, query, limit=limit, cursor=cursor, secret=SECRET)
            answer += found(page)
            trail.record(rng.choice(("user", "admin")), NOON + 7, random_event(99, rng))
            if (cursor := page.cursor) is None:
                break
        trail.store.close()

    assert expected == answer


@pytest.mark.parametrize(
    "text",
    [
        "actor:user:rare",
        "actor:user:rare order:oldest",
        "actor:user:u7 action:invoice.* -outcome:(success OR denied)",
        "resource:(invoice:INV-77 OR invoice:INV-78)",
        f"id:{event(5).id}",
        f"id:({event(5).id} OR {event(SEGMENT + 5).id})",
        "since:2026-01-02T06:00:00Z until:2026-01-02T06:30:00Z outcome:denied",
        "inv-4711",
    ],
)
def test_closed_segments_answer_as_the_open_part_does(long: Trail, text: str) -> None:
    """Closing a segment changes where entries are kept, and no answer."""
    query = Query.parse(text)
    expected = brute_force(long.rows, query)

    assert expected
    assert expected == all_pages(long.store, query, 1000)
    assert expected[:7] == all_pages(long.store, query, 7)[:7]


def test_the_newest_come_without_opening_older_segments(long: Trail) -> None:
    """A page costs the blocks that its items are in, not the length of the trail."""
    with long.store.read() as view:
        page = search(view, Query(), limit=50, secret=SECRET)
        work = view.work

    assert [("user", SEGMENT + 599 - n) for n in range(50)] == found(page)
    assert 0 == work.segments_opened
    assert 2 >= work.blocks_read


def test_a_page_reads_one_block_for_each_rare_match(long: Trail) -> None:
    """Ten matches far from each other cost ten blocks."""
    with long.store.read() as view:
        page = search(view, Query(actor="user:rare"), limit=10, secret=SECRET)
        work = view.work

    assert [66_000 - 1000 * n for n in range(10)] == [item.index for item in page.items]
    assert 10 == work.blocks_read


def test_segments_without_the_value_are_skipped(long: Trail) -> None:
    """What never occurs is known without opening a segment or reading an entry."""
    with long.store.read() as view:
        page = search(view, Query(actor="user:nobody"), secret=SECRET)
        work = view.work

    assert () == page.items
    assert page.cursor is None
    assert (0, 1, 0) == (work.segments_opened, work.segments_skipped, work.blocks_read)


def test_times_outside_skip_segments_and_tiles(long: Trail) -> None:
    """A query about the last minutes does not touch what is older."""
    since = EPOCH + timedelta(microseconds=NOON + SEGMENT * SECOND)
    with long.store.read() as view:
        search(view, Query(since=since, newest_first=False), limit=5, secret=SECRET)
        work = view.work

    assert (1, 1) == (work.segments_skipped, work.blocks_read)
    # The first entry after a segment names the leaf hash of the segment's last one.
    assert 1 == work.segments_opened


def test_a_page_goes_on_where_the_one_before_has_ended(long: Trail) -> None:
    """The second page reads nothing of the first one again."""
    query = Query(actor="user:rare")
    with long.store.read() as view:
        first = search(view, query, limit=5, secret=SECRET)
    with long.store.read() as view:
        second = search(view, query, limit=5, cursor=first.cursor, secret=SECRET)
        work = view.work

    assert [61_000 - 1000 * n for n in range(5)] == [item.index for item in second.items]
    assert 5 == work.blocks_read


def test_a_log_that_was_read_ahead_is_not_searched_again(trail: Trail) -> None:
    """A match that was found but is not due yet is where the next page begins in its log."""
    events = [event(number) for number in range(600)]
    trail.record("admin", NOON, event(0, action="trail.start"), *events)
    trail.record("user", NOON + SECOND, *(event(n, action="trail.stop") for n in range(9)))
    query = Query(text="trail.st")

    with trail.store.read() as view:
        first = search(view, query, limit=5, secret=SECRET)
    with trail.store.read() as view:
        second = search(view, query, limit=5, cursor=first.cursor, secret=SECRET)
        work = view.work

    assert [("user", 3), ("user", 2), ("user", 1), ("user", 0), ("admin", 0)] == found(second)
    assert 2 == work.blocks_read


def test_a_proposed_entry_is_compared_itself(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts may share a term; an answer holds only what really has the text."""
    trail.record("user", NOON, event(0), event(1, actor="user:bob"))
    with trail.store.read() as view:
        everything = view.candidates
        monkeypatch.setattr(
            view,
            "candidates",
            lambda log, wanted, first, last, newest_first: everything(
                log, replace(wanted, groups=()), first, last, newest_first=newest_first
            ),
        )
        page = search(view, Query(actor="user:bob"), secret=SECRET)

    assert [("user", 1)] == found(page)


def test_an_entry_that_was_changed_is_no_answer(trail: Trail) -> None:
    """Bytes are verified before they are parsed."""
    trail.record("user", NOON, event(0, reason="draft"), event(1))
    with trail.store.write() as transaction:
        transaction._connection.execute(  # noqa: SLF001
            "UPDATE tail SET bodies = CAST(replace(CAST(bodies AS TEXT), 'draft', 'drift') AS BLOB)"
        )

    with trail.store.read() as view, pytest.raises(Damaged, match="entry 0"):
        search(view, Query(), secret=SECRET)


def test_an_item_says_where_and_when_it_was_recorded(trail: Trail) -> None:
    """Log, origin, index, leaf hash and the log's own clock come with each entry."""
    trail.record("user", NOON, event(0))

    with trail.store.read() as view:
        (item,) = search(view, Query(), secret=SECRET).items

    assert ("user", "x.example/user", 0) == (item.log, item.origin, item.index)
    assert "user" == item.stream
    assert datetime(2026, 1, 1, 12, tzinfo=UTC) == item.recorded_at
    assert item.entry.leaf_hash == item.leaf_hash
    assert event(0) == item.event


def test_successors_belong_to_the_stream(mixed: Trail) -> None:
    """A stream is all logs that it was ever written to."""
    with mixed.store.read() as view:
        page = search(view, Query(stream="user"), limit=1000, secret=SECRET)

    assert {"user", "user~2"} == {item.log for item in page.items}
    assert {"user", "user~2"} == set(page.sizes)
    assert {"user"} == {item.stream for item in page.items}


def test_an_unknown_stream_is_an_error(mixed: Trail) -> None:
    """A misspelt stream is not an empty one."""
    with mixed.store.read() as view, pytest.raises(UnknownStream, match="expected one of user, a"):
        search(view, Query(stream="users"), secret=SECRET)


@pytest.mark.parametrize("limit", [0, -1, 1001, 2.5, True, "5"])
def test_a_page_has_1_to_1000_items(mixed: Trail, limit: int) -> None:
    """Nobody asks for everything at once."""
    with mixed.store.read() as view, pytest.raises(InvalidQuery, match=r"limit: found .* 1000"):
        search(view, Query(), limit=limit, secret=SECRET)


def test_a_cursor_is_for_its_query_alone(mixed: Trail) -> None:
    """Going on with another question would skip what it asks for."""
    with mixed.store.read() as view:
        cursor = search(view, Query(actor="user:*"), limit=1, secret=SECRET).cursor
        with pytest.raises(InvalidCursor, match="another query"):
            search(view, Query(actor="user:bob"), cursor=cursor, secret=SECRET)
        with pytest.raises(InvalidCursor, match="another query"):
            search(view, Query(actor="user:*", newest_first=False), cursor=cursor, secret=SECRET)


def test_no_bit_of_a_cursor_can_be_changed(mixed: Trail) -> None:
    """A cursor is opaque: whoever edits one, or makes one up, gets an error."""
    with mixed.store.read() as view:
        cursor = search(view, Query(), limit=1, secret=SECRET).cursor
        assert cursor is not None
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        changed = [
            bytes([*data[:n], data[n] ^ 1 << n % 8, *data[n + 1 :]]) for n in range(len(data))
        ]
        others = [urlsafe_b64encode(each).decode().rstrip("=") for each in changed]
        for other in [*others, "", "?", cursor + "A", cursor + "=", cursor + "\n", "\udcff"]:
            with pytest.raises(InvalidCursor):
                search(view, Query(), cursor=other, secret=SECRET)


def test_a_cursor_is_for_its_trail_alone(mixed: Trail) -> None:
    """A cursor that another secret has written is refused."""
    with mixed.store.read() as view:
        cursor = search(view, Query(), limit=1, secret=b"other").cursor
        with pytest.raises(InvalidCursor, match="another trail"):
            search(view, Query(), cursor=cursor, secret=SECRET)


def test_a_cursor_beyond_the_log_is_refused(mixed: Trail, trail: Trail) -> None:
    """A trail that has lost entries since does not answer as if it had not."""
    trail.record("user", NOON, event(0))
    with mixed.store.read() as view:
        cursor = search(view, Query(), limit=1, secret=SECRET).cursor

    with trail.store.read() as view, pytest.raises(InvalidCursor, match="the trail was restored"):
        search(view, Query(), cursor=cursor, secret=SECRET)


def test_cursors_of_other_versions_are_refused(mixed: Trail) -> None:
    """A cursor in a form that this version does not write is no cursor."""
    digest = query_module._digest(Query(), None)  # noqa: SLF001
    newer = query_module._Cursor(version=2, query=digest, places=())  # noqa: SLF001
    data = b"\x93\x01"
    mac = query_module._mac(data, SECRET)  # noqa: SLF001
    no_cursor = urlsafe_b64encode(mac + data).decode().rstrip("=")

    for text in (newer.to_text(SECRET), no_cursor):
        with mixed.store.read() as view, pytest.raises(InvalidCursor):
            search(view, Query(), cursor=text, secret=SECRET)


def test_an_answer_ends_with_the_oldest_entry(trail: Trail) -> None:
    """A page that holds the last entry of every log has no cursor, even if it is full."""
    trail.record("user", NOON, event(0), event(1))

    with trail.store.read() as view:
        assert search(view, Query(), limit=2, secret=SECRET).cursor is None
        assert search(view, Query(), limit=1, secret=SECRET).cursor is not None


def test_an_empty_trail_answers_with_an_empty_page(trail: Trail) -> None:
    """Nothing recorded is nothing found, not an error."""
    with trail.store.read() as view:
        page = search(view, Query(), secret=SECRET)

    assert Page(items=(), cursor=None, sizes={"user": 0, "admin": 0}) == page


def test_entries_can_be_read_by_index(mixed: Trail) -> None:
    """Who knows indexes gets their entries, in the order asked for."""
    rows = {row.index: row.event for row in mixed.rows if row.log == "admin"}

    with mixed.store.read() as view:
        read = list(items(view, "admin", [70, 3, 4, 71]))

    assert [70, 3, 4, 71] == [item.index for item in read]
    assert [rows[70], rows[3], rows[4], rows[71]] == [item.event for item in read]


def verify(item: Item, trail: Trail) -> int:
    """Prove *item*, verify the proof, and return the size that it is for."""
    with trail.store.read() as view:
        proof = prove(view, item.log, item.index)
    entry = item.entry.to_bytes()
    return proof.verify(entry, [trail.keys[item.log].verifier], index=item.index).size


def test_each_answer_can_be_proven(mixed: Trail, long: Trail) -> None:
    """An item's exact bytes are proven against the log's signed checkpoint."""
    for trail in (mixed, long):
        with trail.store.read() as view:
            sizes = {log: head.size for log, head in view.heads().items()}
            page = search(view, Query(), limit=5, secret=SECRET)
            rare = search(view, Query(newest_first=False), limit=5, secret=SECRET)
        for item in (*page.items, *rare.items):
            assert sizes[item.log] == verify(item, trail)


@pytest.mark.parametrize(("log", "index"), [("user", 1), ("user", -1), ("nowhere", 0)])
def test_what_is_not_there_is_not_proven(trail: Trail, log: str, index: int) -> None:
    """No proof is made for an index that the log does not have."""
    trail.record("user", NOON, event(0))

    with trail.store.read() as view, pytest.raises(NotFound, match=f"log {log}: found"):
        prove(view, log, index)


def test_free_text_looks_into_all_values(trail: Trail) -> None:
    """Names, reasons, changes and data are searched, but not across two values."""
    changes = {"status": Change("draft", "paid"), "tags": Change(new=["a", {"k": "deep"}])}
    trail.record("user", NOON, event(0, reason="card declined", changes=changes))

    def hits(text: str) -> int:
        with trail.store.read() as view:
            return len(search(view, Query(text=text), secret=SECRET).items)

    expected = dict.fromkeys(
        ["CARD", "alice", "user:ali", "status", "paid draft", "deep", "inv-7 approve"], 1
    )
    assert expected == {text: hits(text) for text in expected}
    assert 0 == hits('"draft paid"')
    assert 0 == hits("true")


def test_custody_entries_are_answered_to_whoever_asks_by_name(tmp_path: Path) -> None:
    """A look at everything shows what people did; what the trail did itself is there by name."""
    trail = Trail(tmp_path, "user", "custody")
    trail.record("user", NOON, event(0))
    trail.record("custody", NOON, event(1, action="trail.start", actor="system:indelible"))

    with trail.store.read() as view:
        for query, expected in (
            (Query(), ["user"]),
            (Query(since=datetime(2000, 1, 1, tzinfo=UTC)), ["user"]),
            (Query(stream="custody"), ["custody"]),
            (Query(action="trail.*"), ["custody"]),
            (Query(actor="system:indelible"), ["custody"]),
            (Query(id=event(1).id), ["custody"]),
        ):
            assert expected == [item.log for item in search(view, query, secret=SECRET).items]
    trail.store.close()
