"""Plain events at a collector: sealed there, recorded once, answered one by one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from time import time_ns
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.collector.events import KEY_KIND, KIND, WINDOW, Receiving
from indelible.collector.state import Collector
from indelible.event import uuid7
from indelible.query import Query
from indelible.rights import Caller
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indelible.trail import Trail
    from tests.collector.conftest import Served

    Record = Callable[..., list[dict[str, Any]]]

CALLER = Caller(id="t", name="shop", role="recorder")


def event(number: int = 0, *, age: int = 0, **fields: object) -> dict[str, Any]:
    """An event as a program in another language sends it, *age* milliseconds old."""
    return {
        "id": uuid7(time_ns() - age * 1_000_000, number.to_bytes(10, "big")),
        "occurred_at": "2026-11-24T03:33:46Z",
        "action": "invoice.approve",
        "actor": "user:alice",
        "resource": f"invoice:INV-{number}",
        "rationale": "PO-99",
        **fields,
    }


@pytest.fixture
def record(client: Served, collector: Collector) -> Record:
    """Post events with a recorder's token; return what became of each."""
    headers = bearer(issued(collector, "recorder"))

    def post(*events: object, path: str = "/v1/events") -> list[dict[str, Any]]:
        answer = client.post(path, json={"events": events}, headers=headers)
        assert answer.status_code in (200, 207), answer.text
        found: list[dict[str, Any]] = answer.json()["results"]
        return found

    return post


def statuses(results: list[dict[str, Any]]) -> list[int]:
    """The status of each result."""
    return [result["status"] for result in results]


def test_events_are_sealed_and_kept(trail: Trail, record: Record) -> None:
    """Each event that was recorded is under a checkpoint, with its values in the vault."""
    sent = [event(0), event(1, action="role.grant")]

    results = record(*sent)

    assert [201, 201] == statuses(results)
    assert ["user", "admin"] == [result["stream"] for result in results]
    for given, result in zip(sent, results, strict=True):
        item = trail.get(given["id"])
        assert (item.log, item.index, item.leaf_hash.hex()) == (
            result["log"],
            result["index"],
            result["leaf_hash"],
        )
        assert "alice" not in item.entry.event.decode()
        assert "user:alice" == str(item.event.actor)
    assert trail.verify().passed


def test_each_event_is_answered_for_itself(record: Record) -> None:
    """One that is wrong holds up no other, and its problem says nothing of its values."""
    results = record(
        event(0),
        event(1, action="nonsense!"),
        event(2, resource=None),
        {**event(3), "more": "s3cret-value"},
        "no object",
        {"action": "invoice.approve"},
        event(5),
    )

    assert [201, 422, 422, 422, 422, 422, 201] == statuses(results)
    for result in results[1:-1]:
        assert "/problems/invalid-event" == result["problem"]["type"]
        assert "s3cret-value" not in str(result)


def test_a_repetition_gets_the_first_receipt(trail: Trail, record: Record) -> None:
    """Whoever sends the same again, in whatever order of its fields, has recorded it once."""
    sent = event(0)
    (first,) = record(sent)

    (again,) = record(dict(reversed(sent.items())))
    (other,) = record({**sent, "rationale": "PO-98"})
    twice = record(event(7), sent, sent)

    assert 200 == again["status"]
    assert {**first, "status": 200} == again
    assert 409 == other["status"]
    assert [201, 200, 200] == statuses(twice)
    assert 2 == len(trail.search("action:invoice.approve").items)


def test_an_id_twice_in_one_request_is_recorded_once(trail: Trail, record: Record) -> None:
    """Of two events under one new id in a request, the first is recorded."""
    sent = event(0)

    assert [201, 409] == statuses(record(sent, sent))
    assert 1 == len(trail.search("action:invoice.approve").items)


def test_who_sends_the_same_at_once_records_it_once(collector: Collector, trail: Trail) -> None:
    """Repetitions that meet in the writer are told apart from the first there."""
    receiving = Receiving(collector)
    sent = [msgspec.json.encode(event(number)) for number in range(5)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: receiving.take(sent, CALLER), range(16)))

    found = [result for answer in answers for result in answer]
    assert 5 == sum(result.status == 201 for result in found)
    assert 75 == sum(result.status == 200 for result in found)
    assert 5 == len({(result.log, result.index) for result in found})
    assert 5 == len(trail.search("action:invoice.approve").items)


def test_tokens_do_not_meet_in_their_ids(
    client: Served, collector: Collector, record: Record
) -> None:
    """The id of an event says nothing to another token about whether it was recorded."""
    sent = event(0)
    record(sent)
    other = bearer(issued(collector, "recorder"))

    answer = client.post("/v1/events", json={"events": [sent]}, headers=other)

    assert [201] == statuses(answer.json()["results"])


def test_what_is_too_old_to_know_is_refused(record: Record) -> None:
    """An id whose window is over may have been recorded, so it is not recorded again."""
    results = record(event(0, age=WINDOW + 60_000), event(1, age=WINDOW - 60_000))
    ahead = record(event(2, age=-2 * 3_600_000))

    assert [410, 201] == statuses(results)
    assert [422] == statuses(ahead)


def test_what_repetitions_are_known_by_is_destroyed(trail: Trail) -> None:
    """When a window is over, the key of its digests is gone, and the digests with it."""
    now = time_ns() // 1_000
    collector = Collector(trail, FAST, now=lambda: now)
    receiving = Receiving(collector)
    receiving.take([msgspec.json.encode(event(0, age=3_600_000))], CALLER)

    now += WINDOW * 1_000
    kept = receiving.forget()
    now += 2 * 86_400_000_000
    destroyed = receiving.forget()

    assert (0, 1) == (kept, destroyed)
    with trail.store.read() as view:
        assert not list(view.facts(KIND))
        assert not list(view.facts(KEY_KIND))


def test_what_is_kept_of_repetitions_names_nothing(trail: Trail, record: Record) -> None:
    """No id, no token and no value stands in what repetitions are known by."""
    sent = event(0)
    record(sent)

    with trail.store.read() as view:
        ((key, value),) = view.facts(KIND)

    for part in (sent["id"], "alice", "PO-99", "INV-0"):
        assert part.encode() not in key + value


def test_a_tenants_token_records_for_it_alone(
    client: Served, collector: Collector, trail: Trail
) -> None:
    """Events get the tenant of the token that brings them; those of another are refused."""
    headers = bearer(issued(collector, "recorder", tenant="north"))
    sent = [event(0), event(1, tenant="north"), event(2, tenant="south")]

    answer = client.post("/v1/events", json={"events": sent}, headers=headers)

    assert [201, 201, 403] == statuses(answer.json()["results"])
    assert 2 == len(trail.search("tenant:north").items)


def test_a_token_records_into_its_streams_alone(client: Served, collector: Collector) -> None:
    """An event that policy routes to another stream than the token's is refused."""
    headers = bearer(issued(collector, "recorder", streams=("user",)))
    sent = [event(0), event(1, action="role.grant")]

    answer = client.post("/v1/events", json={"events": sent}, headers=headers)

    assert [201, 403] == statuses(answer.json()["results"])


def test_what_policy_would_do_is_said_without_recording(trail: Trail, record: Record) -> None:
    """A dry run names stream, rule and what would be committed, and leaves nothing behind."""
    results = record(
        event(0),
        event(1, action="role.grant", changes={"password": ["a", "b"]}),
        event(2, action="!"),
        path="/v1/events:validate",
    )

    assert ("user", "everything else") == (results[0]["stream"], results[0]["rule"])
    assert "/actor/id" in results[0]["committed"]
    assert ["/changes/password"] == results[1]["dropped"]
    assert "/problems/invalid-event" == results[2]["problem"]["type"]
    assert not trail.search(Query(actor="user:alice")).items


@pytest.mark.parametrize("body", [{"events": []}, {"events": [1] * 1001}, {}, {"events": 1}])
def test_a_request_without_events_is_refused(
    client: Served, collector: Collector, body: object
) -> None:
    """A request holds 1 to 1,000 events."""
    headers = bearer(issued(collector, "recorder"))

    answer = client.post("/v1/events", json=body, headers=headers)

    assert 422 == answer.status_code
    assert "/problems/malformed" == answer.json()["type"]


@pytest.fixture
def crowd(trail: Trail) -> Iterator[Served]:
    """Serve a collector of its own."""
    with serving(Collector(trail, FAST)) as served:
        yield served


def test_collectors_of_one_trail_record_it_once(
    client: Served, crowd: Served, collector: Collector, trail: Trail
) -> None:
    """A repetition is known to every collector of a trail."""
    headers = bearer(issued(collector, "recorder"))
    sent = {"events": [event(int.from_bytes(os.urandom(4), "big"))]}

    first = client.post("/v1/events", json=sent, headers=headers).json()["results"]
    second = crowd.post("/v1/events", json=sent, headers=headers).json()["results"]

    assert [201] == statuses(first)
    assert [200] == statuses(second)
    assert 1 == len(trail.search("action:invoice.approve").items)
