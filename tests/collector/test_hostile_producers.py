"""What somebody can do who has a producer's key and its token, and what nobody can without."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible import policies
from indelible.checkpoint import Checkpoint
from indelible.collector.ingest import MOST_POLICIES
from indelible.collector.producers import enrol_all
from indelible.disclosure import commitment_of, leaf_of, write
from indelible.document import for_collector
from indelible.entry import MAX_ENTRY, NO_PREVIOUS, Entry, hash_to_text
from indelible.errors import CallerError
from indelible.event import uuid7
from indelible.keys import SigningKey
from indelible.merkle import leaf_hash, root_of
from indelible.rights import Caller
from indelible.trail import Trail
from indelible.wire import Enrolment, Shipment
from tests.collector.conftest import bearer, issued

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from httpx import Response

    from indelible.collector.state import Collector
    from tests.collector.conftest import Served

ORIGIN = "shop.example.com/web-1/user"
OPERATOR = Caller(id="0", name="alice", role="operator")


def event(**parts: Any) -> dict[str, Any]:
    """Return a sealed event, with some *parts* other than they should be."""
    plain = {
        "id": uuid7(time.time_ns(), os.urandom(10)),
        "occurred_at": "2026-11-24T10:00:00Z",
        "action": "invoice.pay",
        "outcome": "success",
        "actor": {"type": "service", "id": "till"},
        "resource": {"type": "invoice", "id": "INV-1"},
    }
    return plain | parts


def committing(
    values: Sequence[tuple[str, Any]], **parts: Any
) -> tuple[dict[str, Any], list[bytes]]:
    """Return a sealed event that commits to *values* by their paths, and what opens these."""
    given = write(values, os.urandom)
    root = hash_to_text(commitment_of([leaf_of(each) for each in given])).decode()
    said = {"committed": [path for path, _ in values], "commitment": root}
    return event(**parts) | said, given


class Log:
    """A log of which somebody has the key, and writes into it what no recorder would."""

    def __init__(self, seed: int = 1, origin: str = ORIGIN) -> None:
        self.key = SigningKey.from_seed(origin, bytes([seed]) * 32)
        self._entries: list[bytes] = []
        self._opened: dict[str, tuple[msgspec.Raw, ...]] = {}

    def add(self, said: dict[str, Any], opened: Sequence[bytes] = ()) -> None:
        """Add an entry of the event that is *said*."""
        index, leaves = len(self._entries), self.leaves
        entry = Entry(
            index=index,
            previous=leaves[-1] if leaves else NO_PREVIOUS,
            recorded_at=time.time_ns() // 1_000,
            event=msgspec.json.encode(said),
        )
        self._entries.append(entry.to_bytes())
        if opened:
            self._opened[str(index)] = tuple(map(msgspec.Raw, opened))

    @property
    def leaves(self) -> list[bytes]:
        """The leaf hashes of all entries."""
        return [leaf_hash(each) for each in self._entries]

    def shipment(self, first: int = 0, **more: Any) -> Shipment:
        """Return the entries from *first* on, signed."""
        leaves = self.leaves
        tree = Checkpoint(origin=self.key.name, size=len(leaves), root=root_of(leaves))
        return Shipment(
            entries=tuple(map(msgspec.Raw, self._entries[first:])),
            disclosures=self._opened,
            checkpoint=tree.sign(self.key).to_bytes().decode(),
            **more,
        )


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make the trail of a collector that has entries of others, with the log as a producer."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    origin = "audit.example.com/collector"
    with Trail.create(tmp_path / "trail", origin=origin, policy=for_collector()) as made:
        made.record("invoice.approve", actor="user:alice", resource="invoice:INV-7", session="s-1")
        enrol_all(made, Enrolment(keys=(Log().key.verifier.to_text(),)), OPERATOR, 1)
        yield made


class Shipper:
    """Whoever ships with a token for the log."""

    def __init__(self, client: Served, collector: Collector) -> None:
        self.client = client
        token = issued(collector, "recorder", producer=ORIGIN.rpartition("/")[0])
        self._headers = {**bearer(token), "Content-Type": "application/json"}

    def post(self, shipment: Shipment) -> Response:
        """Send a shipment."""
        path = f"/v1/producers/{ORIGIN}/entries"
        return self.client.post(path, content=msgspec.json.encode(shipment), headers=self._headers)


@pytest.fixture
def shipper(client: Served, collector: Collector) -> Shipper:
    """Come with a token for the log."""
    return Shipper(client, collector)


def alarms(trail: Trail) -> int:
    """Return how many alarms the custody stream has."""
    return len(trail.search("stream:custody action:producer.alarm").items)


def deep(levels: int) -> list[Any]:
    """Return a list in a list in a list."""
    return [deep(levels - 1)] if levels else []


NO_EVENTS: dict[str, dict[str, Any]] = {
    "action": event(action="Pay it!"),
    "id": event(id="x"),
    "time": event(occurred_at="0001-01-01T00:00:00+14:00"),
    "data": event(data=[1]),
    "nesting": event(data={"a": deep(100)}),
    "actor": event(actor={"type": "user"}),
    "size": event(data={"a": "x" * MAX_ENTRY}),
    "path": committing([("/actor/type", "user")])[0],
    "twice": committing([("/data/a", 1), ("/data/a", 2)])[0],
}


@pytest.mark.parametrize("wrong", NO_EVENTS)
def test_what_nobody_could_read_is_not_taken(
    trail: Trail, client: Served, collector: Collector, shipper: Shipper, wrong: str
) -> None:
    """A signed entry that holds no event is refused: kept, it would end every answer it is in."""
    log = Log()
    log.add(event())
    log.add(NO_EVENTS[wrong])

    answer = shipper.post(log.shipment())

    assert (422, "/problems/malformed") == (answer.status_code, answer.json()["type"])
    read = client.get("/v1/entries", headers=bearer(issued(collector, "reader")))
    assert 1 == len(read.json()["items"])
    assert trail.verify().passed


@pytest.mark.parametrize(
    "value",
    [("/actor/id", 5), ("/client/ip", ["x"]), ("/rationale", 1), ("/data/a", deep(100))],
    ids=lambda value: value[0],
)
def test_a_value_that_is_none_of_its_field_is_marked_and_not_kept(
    client: Served, collector: Collector, shipper: Shipper, value: tuple[str, Any]
) -> None:
    """Of values that an event cannot hold, the entry is kept and named, and read without them."""
    log = Log()
    log.add(*committing([value], actor={"type": "unknown"}))

    answer = shipper.post(log.shipment())

    assert [0] == [each["index"] for each in answer.json()["refused"]]
    for role in ("reader", "privacy_officer"):
        found = client.get("/v1/entries?q=pay", headers=bearer(issued(collector, role)))
        assert 200 == found.status_code
        items = client.get("/v1/entries", headers=bearer(issued(collector, role))).json()["items"]
        assert 2 == len(items)


def test_who_has_a_token_and_no_key_accuses_nobody(trail: Trail, shipper: Shipper) -> None:
    """That a producer has rewritten its past is said of what it has signed, and of nothing else."""
    log, forged = Log(), Log(seed=2)
    log.add(event())
    forged.add(event())
    shipper.post(log.shipment())

    answer = shipper.post(forged.shipment())

    assert "/problems/invalid-signature" == answer.json()["type"]
    assert 0 == alarms(trail)


def test_two_trees_of_one_size_are_a_conflict(trail: Trail, shipper: Shipper) -> None:
    """A producer that signs another tree than the one it has brought is caught by that alone."""
    log, fork = Log(), Log()
    log.add(event())
    log.add(event())
    fork.add(event())
    fork.add(event())
    shipper.post(log.shipment())

    answer = shipper.post(
        msgspec.structs.replace(log.shipment(), checkpoint=fork.shipment().checkpoint)
    )

    assert "/problems/conflict" == answer.json()["type"]
    assert 1 == alarms(trail)


def test_a_producer_does_not_fill_the_custody_stream_with_alarms(
    trail: Trail, shipper: Shipper
) -> None:
    """Of what does not hold, one thing an hour is said, however much else there is."""
    for _ in range(3):
        log = Log()
        log.add(event())
        answer = shipper.post(log.shipment())

    assert "/problems/conflict" == answer.json()["type"]
    assert 1 == alarms(trail)


def policy(number: int) -> str:
    """Return the document of a policy."""
    return f'policy = {{ id = "shop-{number}", version = 1 }}\n[streams]\nuser = {{}}\n'


def label(number: int) -> str:
    """Return what entries call it."""
    return f"shop-{number}/1#{sha256(policy(number).encode()).hexdigest()[:8]}"


def kept(trail: Trail) -> int:
    """Return how many policies of producers are kept."""
    with trail.store.read() as view:
        return sum(1 for _ in view.facts(policies.KIND))


def test_policies_are_kept_that_entries_name_and_not_too_many(
    trail: Trail, shipper: Shipper
) -> None:
    """A producer does not make what everybody reads by grow without end."""
    log = Log()
    log.add(event(policy=label(0)))
    log.add(event(policy="shop/1#00000000"))
    shipper.post(log.shipment(policies=(policy(0), policy(1), "nothing = 1")))
    before = kept(trail)
    for number in range(2 * MOST_POLICIES):
        log.add(event(policy=label(number)))

    answer = shipper.post(log.shipment(2, policies=tuple(map(policy, range(2 * MOST_POLICIES)))))

    assert 200 == answer.status_code, answer.text
    assert 1 == before
    assert kept(trail) == MOST_POLICIES


def test_no_policy_is_kept_as_another_text(
    trail: Trail, client: Served, collector: Collector, shipper: Shipper
) -> None:
    """A policy that says it is another text is none; it would be in the way of all who search."""
    text = b64encode(b"no policy").decode()
    document = msgspec.json.encode({"id": "x", "text": text, "streams": {}, "rules": []})
    log = Log()
    log.add(event(policy=f"x/1#{sha256(document).hexdigest()[:8]}"))
    log.add(event(policy=f"x/1#{sha256(b'no policy').hexdigest()[:8]}"))

    answer = shipper.post(log.shipment(policies=(document.decode(),)))

    assert "/problems/malformed" == answer.json()["type"]
    officer = bearer(issued(collector, "privacy_officer"))
    found = client.get("/v1/entries?q=session:s-1", headers=officer)
    assert 1 == len(found.json()["items"])
    assert 0 == kept(trail)


def test_a_log_with_an_endless_name_is_not_enrolled(trail: Trail) -> None:
    """A name has room in each entry beside what is collected."""
    endless = Log(origin=f"{'x' * 600}/user").key.verifier.to_text()

    with pytest.raises(CallerError, match="at most 500"):
        enrol_all(trail, Enrolment(keys=(endless,)), OPERATOR, 1)
