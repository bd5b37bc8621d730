"""Shipments at a collector's door: what gets in, what is answered, what is said of it."""

from __future__ import annotations

import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible import producer as producers
from indelible.checkpoint import Checkpoint
from indelible.collector.producers import enrol_all
from indelible.document import default_text, for_collector, parse
from indelible.keys import SigningKey
from indelible.merkle import consistency_proof, root_of
from indelible.note import Note
from indelible.policy import CUSTODY
from indelible.producer import proof_text
from indelible.query import Query, matches
from indelible.rights import Caller
from indelible.shipping import consign
from indelible.tokens import taken_apart
from indelible.trail import Trail
from indelible.wire import MAX_BODY, Enrolment, Shipment
from tests.collector.conftest import bearer, issued

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from httpx import Response

    from indelible.collector.state import Collector
    from indelible.shipping import Consignment
    from tests.collector.conftest import Served

ORIGIN = "shop.example.com/web-1"
OPERATOR = Caller(id="0", name="alice", role="operator")


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make the trail of a collector, with the policy of one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    origin = "audit.example.com/collector"
    with Trail.create(tmp_path / "trail", origin=origin, policy=for_collector()) as made:
        yield made


@pytest.fixture
def shop(trail: Trail, tmp_path: Path) -> Iterator[Trail]:
    """Make the trail of a producer that is enrolled."""
    with Trail.create(tmp_path / "shop", origin=ORIGIN) as made:
        keys = tuple(made.verifier_key(each).to_text() for each in ("user", "admin", CUSTODY))
        enrol_all(trail, Enrolment(keys=keys), OPERATOR, 1)
        yield made


def fill(shop: Trail, count: int) -> None:
    """Record so many events in the stream user."""
    for number in range(count):
        shop.record(
            "invoice.approve",
            actor="user:alice",
            resource=f"invoice:INV-{number}",
            client="203.0.113.9",
            rationale="PO-99",
        )


def next_of(shop: Trail, first: int = 0, log: str = "user") -> Consignment:
    """Return the shipment of *log* from *first* on."""
    with shop.store.read() as view:
        found = consign(view, log, first, shop.vault)
    assert found is not None
    return found


class Shipper:
    """Whoever ships the log of the shop, with a token for it."""

    def __init__(self, client: Served, collector: Collector, **limits: Any) -> None:
        self.client = client
        limits.setdefault("producer", ORIGIN)
        self.headers = {
            **bearer(issued(collector, "recorder", **limits)),
            "Content-Type": "application/json",
        }

    def post(
        self, shipment: Shipment | bytes, origin: str = f"{ORIGIN}/user", **more: str
    ) -> Response:
        """Send a shipment, or whatever is sent in its place."""
        data = shipment if isinstance(shipment, bytes) else msgspec.json.encode(shipment)
        return self.client.post(
            f"/v1/producers/{origin}/entries", content=data, headers={**self.headers, **more}
        )


@pytest.fixture
def shipper(client: Served, collector: Collector, shop: Trail) -> Shipper:
    """Come with a token that may ship the shop's log."""
    assert shop.id
    return Shipper(client, collector)


def own_entries(trail: Trail, action: str) -> list[dict[str, Any]]:
    """Return what entries of the custody stream with this action say."""
    with trail.store.read() as view:
        found = matches(view, Query(stream=CUSTODY, action=action))
        return [item.event.data for item in found]


def assert_problem(answer: Response, status: int, kind: str) -> dict[str, Any]:
    """Check that *answer* is the problem of this kind, with nothing of how it came to be."""
    assert status == answer.status_code, answer.text
    assert "application/problem+json" == answer.headers["content-type"]
    found: dict[str, Any] = answer.json()
    assert f"/problems/{kind}" == found["type"]
    assert status == found["status"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return found


def test_what_is_acknowledged_is_in_the_trail(trail: Trail, shop: Trail, shipper: Shipper) -> None:
    """A shipment is answered with a signed checkpoint over entries that hold its exact bytes."""
    fill(shop, 3)
    sent = next_of(shop)

    answer = shipper.post(sent.shipment)

    assert 200 == answer.status_code, answer.text
    said = answer.json()
    assert (3, "user", "user", 0) == (said["size"], said["stream"], said["log"], said["first"])
    note = said["checkpoint"].encode()
    assert 3 == Checkpoint.open(note, [trail.verifier_key("user")]).size
    items = trail.search(f"producer:{ORIGIN}/user order:oldest").items
    assert [bytes(raw) for raw in sent.shipment.entries] == [
        item.entry.collected.entry for item in items if item.entry.collected
    ]
    assert [item.event for item in shop.search("order:oldest").items] == [
        item.event for item in items
    ]
    assert trail.verify().passed


def test_every_log_of_a_producer_has_its_stream(
    trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """A producer's streams go to those of the same name, and its custody stream beside them."""
    fill(shop, 1)
    shop.record("role.grant", actor="user:alice", resource="role:admin")

    for log, stream in (("user", "user"), ("admin", "admin"), (CUSTODY, "producers")):
        answer = shipper.post(next_of(shop, log=log).shipment, f"{ORIGIN}/{log}")
        assert stream == answer.json()["stream"], answer.text

    assert trail.verify().passed
    assert 1 == len(trail.search("actor:user:alice stream:admin").items)


def test_a_shipment_that_comes_again_is_kept_once(
    trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """Whoever did not hear the answer may send the same again, and gets one."""
    fill(shop, 4)
    sent = next_of(shop)
    first = shipper.post(sent.shipment).json()

    again = shipper.post(sent.shipment)
    fill(shop, 2)
    more = shipper.post(next_of(shop, 2).shipment).json()

    assert 200 == again.status_code
    assert (4, None) == (again.json()["size"], again.json().get("first"))
    assert (6, 4) == (more["size"], more["first"])
    assert first["checkpoint"] == again.json()["checkpoint"]
    assert 6 == len(trail.search(f"producer:{ORIGIN}/user").items)


def test_a_gap_says_where_to_go_on(shop: Trail, shipper: Shipper) -> None:
    """Entries that do not follow are refused, with the index that would."""
    fill(shop, 4)

    answer = shipper.post(next_of(shop, 2).shipment)

    assert 0 == assert_problem(answer, 409, "gap").get("expected", 0)
    standing = shipper.client.get(f"/v1/producers/{ORIGIN}/user", headers=shipper.headers).json()
    assert (0, 0) == (standing["size"], standing["promised"])


def test_a_producer_that_rewrites_its_past_is_caught(
    trail: Trail, shop: Trail, shipper: Shipper, tmp_path: Path
) -> None:
    """Other entries at held indexes are refused, and the trail says so once, with the evidence."""
    fill(shop, 3)
    shipper.post(next_of(shop).shipment)
    rewriting = Trail.create(tmp_path / "rewritten", origin=ORIGIN)
    (tmp_path / "rewritten/keys/user.key").write_bytes(
        (tmp_path / "shop/keys/user.key").read_bytes()
    )
    fill(rewriting, 5)
    forged = next_of(rewriting).shipment

    for _ in range(2):
        found = assert_problem(shipper.post(forged), 409, "conflict")
        assert "entry 0" in found["detail"]

    (said,) = own_entries(trail, "producer.alarm")
    assert f"{ORIGIN}/user" == said["producer"]
    assert forged.checkpoint == said["shown"]
    assert 1 == len(said["promised"])
    standing = shipper.client.get(f"/v1/producers/{ORIGIN}/user", headers=shipper.headers).json()
    assert 3 == standing["size"]
    assert "entry 0" in standing["alarm"]
    rewriting.close()


def test_an_entry_that_does_not_open_is_kept_and_named(
    trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """An entry without what opens it is kept; the answer and the custody stream name it."""
    fill(shop, 3)
    sent = next_of(shop).shipment
    disclosures = {**sent.disclosures, "1": ()}

    answer = shipper.post(msgspec.structs.replace(sent, disclosures=disclosures))

    (refused,) = answer.json()["refused"]
    assert 1 == refused["index"]
    (said,) = own_entries(trail, "producer.refuse")
    assert [1] == [each["index"] for each in said["entries"]]
    assert 3 == len(trail.search(f"producer:{ORIGIN}/user").items)
    states = [set(item.states.values()) for item in trail.search("order:oldest stream:user").items]
    assert {"OPEN"} == states[0] == states[2]
    assert {"MISSING"} == states[1]


WRONG: list[tuple[Callable[[Shipment], Shipment | bytes], int, str]] = [
    (lambda s: msgspec.structs.replace(s, entries=()), 422, "malformed"),
    (lambda s: msgspec.structs.replace(s, entries=(s.entries[0],) * 1001), 422, "malformed"),
    (lambda s: msgspec.structs.replace(s, entries=(s.entries[0],)), 422, "inconsistent"),
    (lambda s: msgspec.structs.replace(s, checkpoint="x"), 422, "malformed"),
    (
        lambda s: msgspec.structs.replace(s, checkpoint=s.checkpoint[:-8] + "AAAAAAA\n"),
        422,
        "invalid-signature",
    ),
    (lambda s: msgspec.structs.replace(s, checkpoint=s.checkpoint * 50), 422, "malformed"),
    (lambda _: b"{}", 422, "malformed"),
    (lambda _: b"[]", 422, "malformed"),
    (lambda _: b"", 400, "malformed"),
    (lambda _: b"\xff", 400, "malformed"),
    (lambda _: b'{"entries":' + b"[" * 100_000, 400, "malformed"),
    (lambda _: b'{"entries":[],"checkpoint":"","more":1}', 422, "malformed"),
    (lambda _: b" " * (MAX_BODY + 1), 413, "request-entity-too-large"),
]
"""What is no shipment, with the status and the kind of the problem that it gets."""


def test_what_is_no_shipment_is_refused_and_nothing_kept(shop: Trail, shipper: Shipper) -> None:
    """What is no shipment, or not what was signed, gets a problem, and leaves nothing behind."""
    fill(shop, 3)
    sent = next_of(shop).shipment

    for wrong, status, kind in WRONG:
        assert_problem(shipper.post(wrong(sent)), status, kind)

    standing = shipper.client.get(f"/v1/producers/{ORIGIN}/user", headers=shipper.headers).json()
    assert 0 == standing["size"]


def test_bodies_are_unpacked_within_bounds(shop: Trail, shipper: Shipper) -> None:
    """A body may be zstd; a small one that unpacks to a large one is refused, as is a cut one."""
    fill(shop, 2)
    sent = msgspec.json.encode(next_of(shop).shipment)
    zstd = {"Content-Encoding": "zstd"}

    bomb = shipper.post(compress(b" " * (MAX_BODY + 1)), **zstd)
    cut = shipper.post(compress(sent)[:-4], **zstd)
    two = shipper.post(compress(sent) * 2, **zstd)
    none = shipper.post(sent, **zstd)
    gzip = shipper.post(sent, **{"Content-Encoding": "gzip"})
    form = shipper.post(sent, **{"Content-Type": "text/plain"})
    good = shipper.post(compress(sent), **zstd)

    assert_problem(bomb, 413, "too-large")
    for wrong in (cut, two, none):
        assert_problem(wrong, 400, "malformed")
    assert_problem(gzip, 415, "encoding")
    assert_problem(form, 415, "media-type")
    assert 200 == good.status_code


def test_who_does_not_ship_a_log_does_not_learn_of_it(
    client: Served, collector: Collector, shop: Trail, shipper: Shipper
) -> None:
    """A log of somebody else, or of nobody, is not found, and neither are others' standings."""
    fill(shop, 1)
    sent = next_of(shop).shipment
    stranger = Shipper(client, collector, producer="shop.example.com/web-2")

    for who, origin in (
        (stranger, f"{ORIGIN}/user"),
        (shipper, f"{ORIGIN}/nothing"),
        (shipper, "shop.example.com/web-10/user"),
    ):
        assert_problem(who.post(sent, origin), 404, "not-found")
        found = client.get(f"/v1/producers/{origin}", headers=who.headers)
        assert_problem(found, 404, "not-found")
    assert_problem(client.post("/v1/producers/x/entries", content=b"{}"), 401, "unauthenticated")


def test_a_revoked_producer_brings_nothing_more(
    client: Served, collector: Collector, trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """An operator ends a producer at a size: what came before stays, what comes after does not."""
    fill(shop, 4)
    shipper.post(next_of(shop).shipment)
    operator = bearer(issued(collector, "operator"))
    fill(shop, 2)

    said = client.delete(f"/v1/producers/{ORIGIN}/user?size=5", headers=operator).json()

    assert 5 == said["revoked_at"]
    assert_problem(shipper.post(next_of(shop, 4).shipment), 403, "revoked")
    within = msgspec.structs.replace(
        next_of(shop, 4).shipment,
        entries=next_of(shop, 4).shipment.entries[:1],
        consistency=_proof(shop, 5),
    )
    assert 200 == shipper.post(within).status_code
    (event,) = own_entries(trail, "producer.revoke")
    assert (5, "the operator") == (event["size"], event["by"])


def _proof(shop: Trail, size: int) -> tuple[str, ...]:
    with shop.store.read() as view:
        head = view.heads()["user"]
        proof = consistency_proof(size, head.size, partial(view.node, "user"))
    return tuple(b64encode(each).decode() for each in proof)


def test_whoever_holds_a_join_token_enrols_itself(
    client: Served, collector: Collector, tmp_path: Path
) -> None:
    """An instance that starts by itself joins with its keys, and gets a token of its own."""
    join = issued(collector, "join", producer="shop.example.com/*", uses=1)
    with Trail.create(tmp_path / "new", origin="shop.example.com/web-7") as new:
        fill(new, 2)
        signer = new.signer("user")
        text = proof_text(signer.name, taken_apart(join)[0])
        proof = Note(text=text, signatures=(signer.sign(text),)).to_bytes().decode()
        wish = {"keys": [signer.verifier.to_text()], "proofs": [proof]}

        joined = client.post("/v1/producers", json=wish, headers=bearer(join))

        assert 200 == joined.status_code, joined.text
        token = joined.json()["token"]
        shipped = client.post(
            "/v1/producers/shop.example.com/web-7/user/entries",
            content=msgspec.json.encode(next_of(new).shipment),
            headers={**bearer(token), "Content-Type": "application/json"},
        )
        assert 2 == shipped.json()["size"]
    again = client.post("/v1/producers", json=wish, headers=bearer(join))
    assert_problem(again, 400, "invalid-request")


@pytest.mark.parametrize("wrong", ["other key", "other name", "other token", "no proof"])
def test_nobody_joins_without_the_key(
    client: Served, collector: Collector, trail: Trail, wrong: str
) -> None:
    """A join token enrols only the logs it is for, and only whoever has their keys."""
    join = issued(collector, "join", producer="shop.example.com/*", uses=5)
    name = "bank.example.com/web-7/user" if wrong == "other name" else "shop.example.com/web-7/user"
    key = SigningKey.from_seed(name, bytes(range(32)))
    signer = SigningKey.from_seed(name, bytes(range(1, 33))) if wrong == "other key" else key
    text = proof_text(name, "0" * 16 if wrong == "other token" else taken_apart(join)[0])
    proof = Note(text=text, signatures=(signer.sign(text),)).to_bytes().decode()
    wish = {"keys": [key.verifier.to_text()], "proofs": [] if wrong == "no proof" else [proof]}

    answer = client.post("/v1/producers", json=wish, headers=bearer(join))

    assert answer.status_code in (400, 422), answer.text
    with trail.store.read() as view:
        assert not list(view.facts(producers.KIND))


def test_a_log_is_enrolled_with_one_key(client: Served, collector: Collector) -> None:
    """The key of a producer is not replaced by enrolling it anew."""
    operator = bearer(issued(collector, "operator"))
    name = "shop.example.com/web-7/user"
    keys = [SigningKey.from_seed(name, bytes([n]) * 32).verifier.to_text() for n in (1, 2)]

    first = client.post("/v1/producers", json={"keys": keys[:1]}, headers=operator)
    same = client.post("/v1/producers", json={"keys": keys[:1]}, headers=operator)
    other = client.post("/v1/producers", json={"keys": keys[1:]}, headers=operator)

    assert 200 == first.status_code == same.status_code
    assert_problem(other, 409, "enrolled")
    listed = client.get("/v1/producers", headers=operator).json()
    assert [(name, keys[0])] == [(each["origin"], each["key"]) for each in listed]


def test_a_disk_that_is_nearly_full_takes_nothing_in(
    collector: Collector, shop: Trail, shipper: Shipper
) -> None:
    """Where room runs out producers are told to come again, and keep what they have."""
    fill(shop, 1)
    collector.settings = msgspec.structs.replace(collector.settings, least_free=2**60)

    answer = shipper.post(next_of(shop).shipment)

    assert_problem(answer, 503, "no-room")
    assert int(answer.headers["retry-after"]) > 0


def test_who_ship_the_same_at_once_are_all_answered(
    trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """Of shipments of the same entries that meet in the writer, one is kept."""
    fill(shop, 20)
    sent = next_of(shop).shipment

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(shipper.post, [sent] * 16))

    assert {(200, 20)} == {(answer.status_code, answer.json()["size"]) for answer in answers}
    assert 20 == len(trail.search(f"producer:{ORIGIN}/user").items)


def test_the_collectors_log_holds_each_producers_tree(
    trail: Trail, shop: Trail, shipper: Shipper
) -> None:
    """From the collector's entries alone, a producer's root can be computed again."""
    fill(shop, 7)
    shipper.post(next_of(shop).shipment)

    items = trail.search(f"producer:{ORIGIN}/user order:oldest").items

    with shop.store.read() as view:
        expected = view.heads()["user"].edge.root
    assert expected == root_of(
        [item.entry.collected.parse().leaf_hash for item in items if item.entry.collected]
    )


def test_what_a_producer_leaves_in_clear_is_found_beside_what_others_commit(
    client: Served, collector: Collector, trail: Trail, tmp_path: Path
) -> None:
    """Each producer classifies for itself, and a search finds what each of them has sealed."""
    text = default_text().replace(
        b'"/client/ip" = { class = "personal", subject = "actor", search = "prefix" }',
        b'"/client/ip" = { class = "public" }',
    )
    policy = parse(text.replace(b'id = "default"', b'id = "open"'))
    for number, given in enumerate((None, policy)):
        origin = f"shop.example.com/web-{number}"
        with Trail.create(tmp_path / f"shop-{number}", origin=origin, policy=given) as made:
            key = made.verifier_key("user").to_text()
            enrol_all(trail, Enrolment(keys=(key,)), OPERATOR, 1)
            fill(made, 1)
            sent = next_of(made).shipment
        shipper = Shipper(client, collector, producer=origin)
        assert 200 == shipper.post(sent, f"{origin}/user").status_code

    found = trail.search("ip:203.0.113.9")

    clear = [b"203.0.113.9" in item.entry.event for item in found.items]
    assert [True, False] == clear
