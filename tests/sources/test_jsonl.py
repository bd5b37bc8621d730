from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import CallerError, InvalidEvent
from indelible.event import Actor, Change, Rationale, Source
from indelible.seal import MAX_SEALED, seal
from indelible.sources import Found, Item, Rejected, derived_id, open_source
from indelible.sources.jsonl import parse_event
from indelible.sources.lines import MAX_LINE, split_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ID = "019ab437-5fd7-7123-8abc-0123456789ab"
LEAST = {
    "occurred_at": "2026-11-24T03:33:46Z",
    "action": "invoice.approve",
    "actor": "user:alice",
    "resource": "invoice:INV-7",
}


def line(**fields: object) -> bytes:
    """Return the smallest event with *fields* as one line."""
    return json.dumps(LEAST | fields).encode()


def read(data: bytes) -> list[Item]:
    """Read *data* as if it came from standard input."""
    return list(open_source("jsonl", ["-"], stdin=io.BytesIO(data)))


def test_a_sealed_event_is_read_back_as_the_same_event() -> None:
    """What a trail exports as sealed events goes into another trail byte for byte."""
    event = parse_event(
        line(
            id=ID,
            occurred_at="2026-11-24T03:33:46.215304Z",
            kind="data_change",
            outcome="denied",
            reason="limit",
            actor={
                "type": "user",
                "id": "alice",
                "roles": ["finance", "staff"],
                "on_behalf_of": "service:batch",
            },
            changes={"status": ["draft", "paid"], "note": {"new": None}},
            data={"amount": 12.5, "lines": [1, {"a": None}]},
            rationale={"text": "PO-99", "code": "R1", "reference": "T-1"},
            client={"ip": "203.0.113.9", "user_agent": "curl"},
            trace="4bf92f3577b34da6a3ce929d0e0e4736",
            service={"name": "shop", "version": "3.1"},
            approval={"n": 2, "distinct": True, "approvers": ["user:bob", "user:eve"]},
        )
    )

    again = parse_event(seal(event).event)

    assert event == again
    assert seal(event).event == seal(again).event


def test_every_bare_line_is_a_whole_event() -> None:
    """Time, actor, action and resource are enough; the outcome is success then."""
    [item] = read(line() + b"\n")

    assert isinstance(item, Found)
    assert 1 == item.line
    assert "success" == item.event.outcome
    assert "user:alice" == str(item.event.actor)
    assert "invoice:INV-7" == str(item.event.resource)


def test_short_and_long_forms_mean_the_same() -> None:
    """A text such as user:alice and its object are one and the same event."""
    short = parse_event(line(id=ID, client="203.0.113.9", service="shop", rationale="PO-99"))

    long = parse_event(
        line(
            id=ID,
            actor={"type": "user", "id": "alice"},
            resource={"type": "invoice", "id": "INV-7"},
            client={"ip": "203.0.113.9"},
            service={"name": "shop"},
            rationale={"text": "PO-99"},
        )
    )

    assert short == long
    assert Actor(type="user", id="alice") == short.actor
    assert Rationale(text="PO-99") == short.rationale


def test_null_is_absent_but_not_in_a_change() -> None:
    """A field that is null was not given; a value that became null did change."""
    event = parse_event(line(session=None, changes={"owner": ["alice", None]}))

    assert event.session is None
    assert {"owner": Change("alice", None)} == event.changes


def test_times_keep_their_instant_and_lose_what_is_below_the_microsecond() -> None:
    """A time with another zone is the same instant in UTC; nanoseconds are cut, not rounded."""
    event = parse_event(line(occurred_at="2026-11-24T05:03:46.215304999+01:30"))

    assert "2026-11-24T03:33:46.215304+00:00" == event.occurred_at.isoformat()


def test_a_uuid7_stays_the_id() -> None:
    """An event that has an id of ours keeps it."""
    event = parse_event(line(id=ID))

    assert event.id == ID
    assert event.source is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("A-17", "A-17"),
        (17, "17"),
        ("6f9619ff-8b86-4011-b42d-00cf4fc964ff",) * 2,
        (ID.upper(),) * 2,
    ],
)
def test_an_id_of_another_system_is_kept_as_the_source(given: object, kept: str) -> None:
    """An id that is no UUIDv7 in lower case becomes the source's, and ours follows from it."""
    event = parse_event(line(id=given))

    assert Source(format="jsonl", id=kept) == event.source
    assert derived_id("jsonl", kept, event.occurred_at) == event.id


def test_an_event_with_a_source_gets_the_id_of_that_source() -> None:
    """A line that names its source has the id that the source's own import would give."""
    event = parse_event(line(source={"format": "erp", "id": "17"}))

    assert derived_id("erp", "17", event.occurred_at) == event.id
    assert Source(format="erp", id="17") == event.source


def test_the_same_line_is_the_same_event() -> None:
    """A line without any id has the id that its bytes give, whatever line end it has."""
    first, second, third = (parse_event(data) for data in (line(), line() + b"\r", line(data={})))

    assert first == second
    assert first.id != third.id


def test_a_derived_id_carries_the_time_of_the_event() -> None:
    """Ids of imported events sort by the time at which the events occurred."""
    event = parse_event(line(id="A-17", occurred_at="2026-11-24T03:33:46.215Z"))

    assert 1795491226215 == int(event.id.replace("-", "")[:12], 16)
    assert "7" == event.id[14]


def test_an_event_before_1970_can_be_imported() -> None:
    """Records older than the clock of UUIDs have an id as well."""
    event = parse_event(line(occurred_at="1961-08-13T00:00:00+01:00"))

    assert event.id.startswith("00000000-0000-7")


DEEP = b"[" * 70 + b"]" * 70
BAD = [
    (b"{", "line: found '', expected JSON at character 2"),
    (b"[]", "line: found [], expected a JSON object"),
    (b"nonsense", "line: found a text, expected JSON at character 1"),
    (line() + line(), "expected JSON at character 121 (Extra data)"),
    (line().replace(b"alice", b"al\xffce"), "expected UTF-8 at byte 87"),
    (line().replace(b"alice", b"al\xed\xa0\x80"), "expected UTF-8 at byte 87"),
    (line(session="\ud800"), "session: found a text, expected a text of whole Unicode"),
    (line(data={"a\udfff": 1}), "data.a\\udfff: found a text, expected a text of whole"),
    (line(session="a\0b"), "session: found a text, expected a text without NUL"),
    (line(data={"n": float("nan")}), "data.n: found nan, expected a finite number"),
    (line(changes={"n": [1, float("inf")]}), "changes.n: found inf, expected a finite number"),
    (line().replace(b"}", b', "data": {"n": 1e999}}'), "data.n: found inf, expected a finite"),
    (
        line(data={"n": 2**64}),
        "data.n: found an integer of 65 bits, expected an integer of at most",
    ),
    (line(data={"n": -(2**63) - 1}), "expected an integer of at most 64 bits"),
    (line().replace(b"}", b', "data": {"n": ' + b"9" * 5000 + b"}}"), "64 bits"),
    (line(approval={"n": 2**64, "distinct": True}), "approval.n: found 18446744073709551616"),
    (line().replace(b"}", b', "data": {"d": ' + DEEP + b"}}"), "expected nesting of at most 64"),
    (b'{"data": ' + b"[" * 100_000, "expected nesting of at most 64"),
    (line(occurred_at="2026-11-24T03:33:46"), "occurred_at: found '2026-11-24T03:33:46', expected"),
    (line(occurred_at="2026-11-24"), "expected RFC 3339 with a time zone, such as 2026"),
    (line(occurred_at="10000-01-01T00:00:00Z"), "occurred_at: found '10000-01-01T00:00:00Z'"),
    (line(occurred_at="2026-02-30T00:00:00Z"), "occurred_at: found '2026-02-30T00:00:00Z', expect"),
    (line(occurred_at="0001-01-01T00:00:00+14:00"), "expected a time in the years 1 to 9999"),
    (line(occurred_at="9999-12-31T23:59:59-00:01"), "expected a time in the years 1 to 9999"),
    (line(occurred_at="2026-11-24T03:33:4٦Z"), "expected RFC 3339"),
    (line(occurred_at=1795491226), "occurred_at: found 1795491226, expected RFC 3339"),
    (line().replace(b"}", b', "action": "a"}'), "action: found the key twice in one object"),
    (line().replace(b"}", b', "data": {"a": 1, "a": 1}}'), "a: found the key twice"),
    (line(timestamp=1), "timestamp: found an integer, expected one of the fields id, schema"),
    (line(timestamp=None), "timestamp: found None, expected one of the fields"),
    (
        line(actor={"type": "user", "uid": 7}),
        "actor.uid: found an integer, expected one of type, id",
    ),
    (line(actor={"id": "alice"}), "actor.type: found None, expected a value"),
    (line(actor={"type": [], "id": "a"}), "actor.type: found [], expected a text"),
    (line(actor={"type": "user", "roles": "admin"}), "actor.roles: found a text, expected a list"),
    (line(actor={"type": "user", "id": "a", "roles": [1]}), "actor.roles: found a tuple, expected"),
    (line(actor="alice"), "actor: found 'alice', expected TYPE:ID such as user:alice"),
    (line(actor=None), "actor: found None, expected TYPE:ID such as user:alice, or an object"),
    (line(resource="invoice"), "resource: found 'invoice', expected TYPE:ID such as invoice:INV-7"),
    (line(resource=7), "resource: found 7, expected a text or an object with type, id, name"),
    (line(action="approve it"), "action: found 'approve it', expected a dotted name"),
    (line(action=["a"]), "action: found a list, expected a text"),
    (line(kind=["authentication"]), "kind: found a list, expected a text"),
    (line(kind="login"), "kind: found 'login', expected one of authentication"),
    (line(outcome="ok"), "outcome: found 'ok', expected one of success, failure, denied"),
    (line(outcome=[]), "outcome: found [], expected one of success"),
    (line(changes=[]), "changes: found [], expected an object"),
    (line(changes={"a": {"from": 1}}), 'changes.a: found an object, expected {"old": …, "new'),
    (line(changes={"a": {}}), "changes.a: found {}, expected"),
    (line(changes={"a": [1]}), "changes.a: found a list, expected"),
    (line(data=[1]), "data: found a list, expected an object"),
    (line(rationale={"code": "R"}), "rationale.text: found None, expected a value"),
    (line(rationale=""), "rationale.text: found '', expected a text that is not empty"),
    (line(approval="user:bob"), "approval: found a text, expected an object with n, distinct"),
    (line(session=""), "session: found '', expected a text that is not empty"),
    (line(id=""), "id: found '', expected a text that is not empty, or an integer"),
    (line(id=True), "id: found True, expected a text that is not empty, or an integer"),
    (line(id="A", source={"format": "f", "id": "1"}), "id: found 'A', expected a UUIDv7 in lower"),
    (line(data={"a": "x" * MAX_SEALED}), "event: found '60"),
    (b" " * (MAX_LINE + 1), f"line: found over {MAX_LINE} bytes"),
]


@pytest.mark.parametrize(("data", "error"), BAD)
def test_what_is_no_exact_event_is_rejected_with_what_was_expected(data: bytes, error: str) -> None:
    """What is not exactly an event stays out, and the message names the field and both sides."""
    [item] = read(data)

    assert isinstance(item, Rejected)
    assert error in item.error
    assert data[:MAX_LINE] == item.raw


def test_a_bad_line_does_not_touch_its_neighbours() -> None:
    """What stands before and after a line that cannot be read goes in, under its own number."""
    items = read(
        line() + b"\n\xff\n\r\n" + line(id=1) + b"\n" + b"x" * (2 * MAX_LINE) + b"\n" + line()
    )

    assert [1, 2, 4, 5, 6] == [item.line for item in items]
    assert [Found, Rejected, Found, Rejected, Found] == [type(item) for item in items]


def test_only_a_newline_ends_a_line() -> None:
    """Characters that some programs take for the end of a line stay inside of a text."""
    text = "a\u2028b\u0085c\x0bd"

    [item] = read(json.dumps(LEAST | {"session": text}, ensure_ascii=False).encode())

    assert isinstance(item, Found)
    assert text == item.event.session


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n", b"\n \t\n"])
def test_line_ends_of_other_systems_and_a_byte_order_mark_are_tolerated(ending: bytes) -> None:
    """Files as Windows and editors write them go in unchanged."""
    [item] = read(b"\xef\xbb\xbf" + line() + ending)

    assert isinstance(item, Found)
    assert parse_event(line()) == item.event


@given(st.lists(st.binary(max_size=12)), st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(
    parts: list[bytes], data: st.DataObject
) -> None:
    """However a file is cut into pieces on its way, its lines are the same."""
    whole = b"\n".join(parts)
    cut = data.draw(st.integers(0, len(whole)))

    lines = list(split_lines([whole[:cut], whole[cut:]]))

    expected = whole.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert expected == [found.data for found in lines]
    assert list(range(1, len(expected) + 1)) == [found.number for found in lines]


def test_a_compressed_file_is_read_like_any_other(tmp_path: Path) -> None:
    """Rotated logs go in as they are, also several after one another."""
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(line(id=1) + b"\n") + gzip.compress(line(id=2) + b"\n"))

    items = list(open_source("jsonl", [path]))

    assert [Found, Found] == [type(item) for item in items]
    assert [1, 2] == [item.line for item in items]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-9] + b"x" * 9])
def test_a_damaged_compressed_file_says_where_it_ends(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """The part of a file that cannot be unpacked is reported, and the next file is read."""
    broken, whole = tmp_path / "a.gz", tmp_path / "b"
    content = b"".join(line(id=n) + b"\n" for n in range(20_000))
    broken.write_bytes(damage(gzip.compress(content)))
    whole.write_bytes(line())

    *_, problem, last = open_source("jsonl", [broken, whole])

    assert isinstance(problem, Rejected)
    assert problem.error.startswith("gzip: ")
    assert str(broken) == problem.file
    assert isinstance(last, Found)


def test_a_path_that_cannot_be_read_is_refused_before_the_first_event(tmp_path: Path) -> None:
    """A mistyped path leaves the trail as it was."""
    good = tmp_path / "events.jsonl"
    good.write_bytes(line())

    with pytest.raises(CallerError, match="found nothing, expected a file"):
        open_source("jsonl", [good, tmp_path / "nope"])
    with pytest.raises(CallerError, match="found a directory, expected a file"):
        open_source("jsonl", [tmp_path])
    with pytest.raises(CallerError, match="paths: found none"):
        open_source("jsonl", [])


def test_an_unknown_format_is_answered_with_those_there_are() -> None:
    """Who asks for a format that does not exist learns which do."""
    with pytest.raises(CallerError, match="found 'csv', expected one of cloudtrail, git, jsonl"):
        open_source("csv", ["-"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["id", "kind", "actor", "changes", "approval", "trace", "source"]), JSON)
def test_nothing_in_a_line_ends_an_import(field: str, value: object) -> None:
    """Whatever a line holds, it is an event that can be kept or it is rejected."""
    data = line(**{field: value})

    try:
        event = parse_event(data)
    except InvalidEvent:
        return

    assert event.id == seal(event).id
