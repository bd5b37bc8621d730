"""What waits in the outbox is read as it was written, or refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from indelible import outbox
from indelible.capture import Row, exact
from indelible.context import Context
from indelible.errors import InvalidEvent, Malformed
from indelible.event import Actor, Change, Client, Event, Outcome, Rationale, Resource, Trace
from indelible.outbox import MOST_BYTES, MOST_ROWS, pack, pack_events, unpack

AT = datetime(2026, 11, 24, 13, 28, 51, 123456, tzinfo=UTC)
ENTROPY = bytes(range(12))
CONTEXT = Context(
    actor=Actor(type="user", id="alice", roles=("clerk",)),
    rationale=Rationale(text="PO-99"),
    session="s",
    request="r",
    client=Client(ip="192.0.2.1"),
    trace=Trace(trace_id="4bf92f3577b34da6a3ce929d0e0e4736"),
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
CHANGES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(Change, VALUES, VALUES)
    | st.builds(Change, VALUES, st.just(UNSET))
    | st.builds(Change, st.just(UNSET), VALUES),
    max_size=3,
)
ROWS = st.builds(Row, NAMES.map("{}.update".format), NAMES, st.integers(0, 10**9).map(str), CHANGES)
HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["user", "alice", "a.b", "0" * 32, "2026-11-24T13:28:51.000000Z", "success", "7"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4)
            | st.sampled_from(
                ["id", "at", "context", "rows", "events", "actor", "type", "old", "new", "action"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def row(number: int, value: object = 2) -> Row:
    """What happened to a row."""
    return Row("invoice.update", "invoice", str(number), {"total": Change(1, value)})


@given(
    st.lists(ROWS, min_size=1, max_size=5),
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    st.binary(min_size=12, max_size=12),
)
def test_what_is_written_is_read(rows: list[Row], at: datetime, entropy: bytes) -> None:
    """Nothing of what a statement did is lost or altered between the database and the trail."""
    events = [
        event for text in pack(rows, CONTEXT, at=at, entropy=entropy) for event in unpack(text)
    ]

    assert [(row.action, row.type, row.id, row.changes) for row in rows] == [
        (event.action, event.resource.type, event.resource.id, event.changes) for event in events
    ]
    assert {at} == {event.occurred_at for event in events}
    assert {("data_change", Outcome.SUCCESS)} == {(event.kind, event.outcome) for event in events}
    for field in Context.__struct_fields__:
        assert all(getattr(CONTEXT, field) == getattr(event, field) for event in events)


@given(st.lists(ROWS, min_size=1, max_size=5), st.binary(min_size=12, max_size=12))
def test_an_event_has_the_same_id_whenever_it_is_read(rows: list[Row], entropy: bytes) -> None:
    """That is how what was moved already is known; and no two events share one."""
    texts = pack(rows, CONTEXT, at=AT, entropy=entropy)

    once = [event.id for text in texts for event in unpack(text)]
    again = [event.id for text in texts for event in unpack(text.encode())]

    assert once == again
    assert len(rows) == len(set(once))


def test_the_ids_are_the_same_in_every_version() -> None:
    """A row that an older version wrote, and perhaps moved, is not doubled by a newer one."""
    (text,) = pack([row(7)], Context(), at=AT, entropy=ENTROPY)

    assert ["01a20dbe-b2b3-774b-a719-1d88a3f0b05b"] == [event.id for event in unpack(text)]


def test_two_statements_have_other_ids() -> None:
    """The same done twice is two events."""
    (one,), (other,) = (pack([row(7)], CONTEXT, at=AT, entropy=bytes([n] * 12)) for n in (1, 2))

    assert unpack(one)[0].id != unpack(other)[0].id


def test_who_is_not_known_is_unknown() -> None:
    """A statement outside of every request is captured all the same."""
    (text,) = pack([row(7)], Context(), at=AT, entropy=ENTROPY)

    assert Actor(type="unknown") == unpack(text)[0].actor


def test_a_statement_on_very_many_rows_is_written_in_parts() -> None:
    """No row of the outbox grows without bound, and the parts hold every row once."""
    count = MOST_ROWS * 2 + 1

    texts = pack([row(number) for number in range(count)], CONTEXT, at=AT, entropy=ENTROPY)

    events = [event for text in texts for event in unpack(text)]
    assert [MOST_ROWS, MOST_ROWS, 1] == [len(unpack(text)) for text in texts]
    assert [str(number) for number in range(count)] == [event.resource.id for event in events]
    assert count == len({event.id for event in events})


def test_a_statement_on_large_rows_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is how much it is; a single row that is too large stands alone."""
    assert 1_000_000 < MOST_BYTES
    monkeypatch.setattr(outbox, "MOST_BYTES", 3_000)
    values = ["x" * size for size in (100, 2_000, 2_000, 9_000, 100)]

    texts = pack(
        [row(number, value) for number, value in enumerate(values)],
        CONTEXT,
        at=AT,
        entropy=ENTROPY,
    )

    events = [event for text in texts for event in unpack(text)]
    assert all(len(text) <= 3_000 or 1 == len(unpack(text)) for text in texts)
    assert values == [event.changes["total"].new for event in events if event.changes]
    assert 5 == len({event.id for event in events})


def test_nothing_that_happened_is_nothing_to_write() -> None:
    """A statement that touched no row leaves no row in the outbox."""
    assert [] == pack([], CONTEXT, at=AT, entropy=ENTROPY)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=4))
def test_whole_events_are_read_as_they_were_recorded(
    made: list[tuple[str, dict[str, Any]]],
) -> None:
    """What the application recorded in its transaction keeps its id and all its fields."""
    events = [
        Event(
            action=f"{name}.approve",
            outcome=Outcome.DENIED,
            actor=Actor.parse("user:alice"),
            resource=Resource.parse(f"{name}:7"),
            data=data,
            occurred_at=AT - timedelta(days=1),
        )
        for name, data in made
    ]

    assert events == unpack(pack_events(events, at=AT, entropy=ENTROPY))


@given(HOSTILE)
def test_no_json_makes_reading_fail_otherwise_than_it_says(document: object) -> None:
    """Whoever can write into the table cannot stop the relay with it."""
    with suppress(Malformed, InvalidEvent):
        unpack(msgspec.json.encode(document))


@given(HOSTILE, HOSTILE, st.sampled_from(["context", "rows", "events", "at", "id"]))
def test_no_part_makes_reading_fail_otherwise_than_it_says(
    value: object, other: object, part: str
) -> None:
    """The same for a statement that is right but for one of its parts."""
    (text,) = pack([row(7)], CONTEXT, at=AT, entropy=ENTROPY)
    document = {**msgspec.json.decode(text), part: value}
    if part == "rows":
        document[part] = [[other, other, value, {"total": {"old": other, "new": value}}], value]

    with suppress(Malformed, InvalidEvent):
        unpack(msgspec.json.encode(document))


@given(st.binary(max_size=60) | st.text(st.characters(), max_size=60))
def test_no_bytes_make_reading_fail_otherwise_than_it_says(data: bytes | str) -> None:
    """Nor for what is no JSON at all."""
    with pytest.raises(Malformed):
        unpack(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 100_000,
        '{"id": "0", "at": "2026-11-24T13:28:51.000000Z"}',
        f'{{"id": "{"0" * 32}\\n", "at": "2026-11-24T13:28:51.000000Z"}}',
        f'{{"id": "{"0" * 32}", "at": "yesterday"}}',
        f'{{"id": "{"0" * 32}", "at": "2026-02-30T13:28:51.000000Z"}}',
        f'{{"id": "{"0" * 32}", "at": "2026-11-24T13:28:51.000000Z", "rows": [["a.b", "c"]]}}',
        f'{{"id": "{"0" * 32}", "at": "2026-11-24T13:28:51.000000Z", "context": {{"actor": 1}}}}',
    ],
)
def test_what_is_no_statement_is_refused(text: str) -> None:
    """Each of these is put aside, with what is wrong with it."""
    with pytest.raises(Malformed):
        unpack(text)


@pytest.mark.parametrize(
    ("action", "kind", "identity", "at"),
    [
        ("no action", "invoice", "7", AT),
        ("invoice.update", "no type", "7", AT),
        ("invoice.update", "invoice", "", AT),
        ("invoice.update", "invoice", "7" * 2_000, AT),
        ("invoice.update", "invoice", "7", datetime(1900, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_row_that_can_be_no_event_is_refused(
    action: str, kind: str, identity: str, at: datetime
) -> None:
    """A name or a time that an entry cannot have does not get into one."""
    (text,) = pack([Row(action, kind, identity, {})], CONTEXT, at=at, entropy=ENTROPY)

    with pytest.raises(InvalidEvent):
        unpack(text)


@given(st.text(st.characters(), max_size=30) | st.binary(max_size=30) | st.floats())
def test_what_a_database_holds_can_always_be_written(value: object) -> None:
    """A value that was captured never makes the application's transaction fail."""
    (text,) = pack([row(7, exact(value))], CONTEXT, at=AT, entropy=ENTROPY)

    assert {"total": Change(1, exact(value))} == unpack(text)[0].changes
