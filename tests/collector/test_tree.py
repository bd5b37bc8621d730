"""What a collector says of its trees can be verified by whoever does not trust it."""

from __future__ import annotations

from base64 import b64decode
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from indelible.checkpoint import Checkpoint, Rotation
from indelible.collector.scrub import KIND as SCRUB
from indelible.collector.scrub import Scrubbed
from indelible.collector.state import Collector
from indelible.directory import verify_directory
from indelible.event import Actor, Event, Outcome, Resource
from indelible.merkle import root_at, verify_consistency
from indelible.note import Note, VerifierKey
from indelible.policy import CUSTODY
from indelible.producer import HELD_KIND, Held, Producer, key_of
from indelible.producer import KIND as PRODUCER
from indelible.tiles import TILE_WIDTH, entries_path, tile_path, tiles_of
from indelible.trail import Trail
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from httpx import Response

    from tests.collector.conftest import Served

SIZE = 300


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Be a collector with more than one tile, and with two producers."""
    base = tmp_path_factory.mktemp("tree")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with Trail.create(base / "trail", origin="audit.example.com/collector") as trail:
            trail.record_many(
                [
                    Event(
                        action="invoice.pay",
                        outcome=Outcome.SUCCESS,
                        actor=Actor(type="service", id="web"),
                        resource=Resource(type="invoice", id=str(number)),
                    )
                    for number in range(SIZE)
                ]
            )
            trail.record("auth.login", actor="service:web", resource="session:1", stream="auth")
            trail.rotate_key("user")
            enrol(trail, "shop.example.com/user", "shop", None)
            enrol(trail, "billing.example.com/user", "billing", "entry 3 has another leaf hash")
            yield Collector(trail, FAST)


def enrol(trail: Trail, origin: str, tenant: str, alarm: str | None) -> None:
    """Let the log of *origin* be a producer."""
    producer = Producer(
        origin=origin, key="", stream="user", tenant=tenant, enrolled_at=1, enrolled_by="alice"
    )
    with trail.store.write() as transaction:
        transaction.put(PRODUCER, key_of(origin), producer.to_bytes())
        transaction.put(HELD_KIND, key_of(origin), Held(size=7, alarm=alarm).to_bytes())
        transaction.put(SCRUB, b"", Scrubbed(started_at=1, finished_at=2, missing=0).to_bytes())


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve it in this process."""
    with serving(collector) as served:
        yield served


def ask(client: Served, collector: Collector, path: str, role: str, **limits: Any) -> Response:
    """Ask as somebody of *role* with these limits."""
    return client.get(path, headers=bearer(issued(collector, role, **limits)))


def test_a_log_is_verified_from_its_tiles_alone(
    client: Served, collector: Collector, tmp_path: Path
) -> None:
    """Whoever copies checkpoint, tiles, bundles and rotations needs but the first key."""
    headers = bearer(issued(collector, "auditor"))
    listed = {
        each["log"]: each for each in client.get("/v1/checkpoints", headers=headers).json()["logs"]
    }
    key = VerifierKey.from_text(listed["user"]["key"])
    files = {"checkpoint": client.get("/log/user/checkpoint", headers=headers).content}
    for level, n, width in tiles_of(SIZE):
        paths = [tile_path(level, n, width)]
        paths += [entries_path(n, width)] if level == 0 else []
        for path in paths:
            answer = client.get(f"/log/user/{path}", headers=headers)
            assert "application/octet-stream" == answer.headers["content-type"]
            files[path] = answer.content
    for number, note in enumerate(listed["user"]["rotations"]):
        files[f"rotation/{number}"] = note.encode()
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)

    verdict = verify_directory(tmp_path, key)

    assert verdict.passed
    assert files["checkpoint"].decode() == listed["user"]["checkpoint"]


def test_checkpoints_come_with_the_way_to_the_key_that_signs(
    client: Served, collector: Collector
) -> None:
    """From the first key, by the rotations, to the one that has signed; of every log."""
    logs = ask(client, collector, "/v1/checkpoints", "operator").json()["logs"]

    assert {"user", "auth", "admin", CUSTODY} == {each["log"] for each in logs}
    for each in logs:
        key = VerifierKey.from_text(each["key"])
        for note in each.get("rotations", ()):
            key = Rotation.open(note.encode(), key).new
        if each["size"]:
            checkpoint = Checkpoint.open(each["checkpoint"].encode(), [key])
            assert (each["origin"], each["size"]) == (checkpoint.origin, checkpoint.size)
            assert each["age"] >= 0
    assert [1] == [len(each["rotations"]) for each in logs if each["log"] == "user"]
    assert [{"log", "stream", "origin", "size", "key"}] == [
        set(each) for each in logs if each["log"] == "admin"
    ]


def test_two_trees_are_proven_to_be_one(client: Served, collector: Collector) -> None:
    """The later begins with the earlier; without a second size it is the tree of now."""
    found = ask(client, collector, "/log/user/consistency?first=200", "reader").json()
    between = ask(client, collector, "/log/user/consistency?first=200&second=256", "reader").json()

    roots = {}
    with collector.trail.store.read() as view:
        for size in (200, 256, SIZE):
            roots[size] = root_at(size, partial(view.node, "user"))
    for each, second in ((found, SIZE), (between, 256)):
        assert (200, second) == (each["first"], each["second"])
        hashes = [b64decode(text) for text in each["hashes"]]
        verify_consistency(200, second, hashes, roots[200], roots[second])
    for wrong in ("first=5&second=4", "first=-1", f"first=1&second={SIZE + 1}", "first=a", ""):
        answer = ask(client, collector, f"/log/user/consistency?{wrong}", "reader")
        assert 400 == answer.status_code


def test_full_tiles_may_be_kept_for_ever(client: Served, collector: Collector) -> None:
    """A partial one, and the checkpoint, are of this moment."""
    cached = {
        path: ask(client, collector, f"/log/user/{path}", "auditor").headers["cache-control"]
        for path in ("checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/entries/000")
    }

    assert "immutable" in cached["tile/0/000"]
    assert "immutable" in cached["tile/entries/000"]
    assert {"no-store"} == {cached["checkpoint"], cached["tile/0/001.p/44"]}


def test_a_partial_tile_that_has_grown_is_still_there(client: Served, collector: Collector) -> None:
    """Whoever verifies an older checkpoint needs the tile as it was."""
    small, large = (
        ask(client, collector, f"/log/user/tile/0/{path}", "auditor").content
        for path in ("000.p/100", "000")
    )

    assert 100 * 32 == len(small)
    assert TILE_WIDTH * 32 == len(large)
    assert large.startswith(small)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/002",
        "tile/0/001",
        "tile/1/000",
        "tile/0/x000/000",
        "tile/data/000",
        "tile/entries/001",
        "tile/entries/000.p/999",
        "tile/entries",
        "tile/0",
        "nothing",
    ],
)
def test_what_is_no_tile_is_not_there(client: Served, collector: Collector, path: str) -> None:
    """A path has one form; and what the log has not reached is not there yet."""
    assert 404 == ask(client, collector, f"/log/user/{path}", "auditor").status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v1/checkpoints",
        "/v1/integrity",
        "/log/user/checkpoint",
        "/log/user/tile/0/000",
        "/log/user/tile/entries/000",
        "/log/user/consistency?first=2",
    ],
)
def test_hashes_are_for_all_who_read_and_entries_for_whom_they_are(
    client: Served, collector: Collector, path: str
) -> None:
    """An operator sees that all is well, and no entry; a tenant, none of the others'."""
    is_bundle = "entries" in path

    assert 401 == client.get(path).status_code
    recorder = ask(client, collector, path, "recorder", producer="shop.example.com")
    assert 403 == recorder.status_code
    assert (403 if is_bundle else 200) == ask(client, collector, path, "operator").status_code
    assert 200 == ask(client, collector, path, "reader").status_code
    limited = ask(client, collector, path, "auditor", tenant="shop")
    assert (403 if is_bundle else 200) == limited.status_code
    elsewhere = ask(client, collector, path, "auditor", streams=("auth",))
    assert (200 if path.startswith("/v1/") else 404) == elsewhere.status_code
    assert "collector/user" not in elsewhere.text
    assert (
        400
        == ask(client, collector, f"{path}{'&' if '?' in path else '?'}x=1", "reader").status_code
    )


def test_whoever_takes_a_bundle_has_read_its_entries(client: Served, collector: Collector) -> None:
    """They are as good as a page of them, and recorded like one."""
    ask(client, collector, "/log/user/tile/entries/000", "auditor", name="carol")

    asked = collector.trail.search("stream:custody action:entries.read", limit=1_000)
    (said,) = [
        item.event.data for item in asked.items if (item.event.data or {}).get("name") == "carol"
    ]
    assert (256, "user#0-255") == (said["entries"], said["query"])


def test_what_does_not_hold_is_said_to_whom_it_concerns(
    client: Served, collector: Collector
) -> None:
    """Alarms of producers and findings of the scrub; of one's own tenant alone."""
    whole = ask(client, collector, "/v1/integrity", "operator").json()
    shop = ask(client, collector, "/v1/integrity", "auditor", tenant="shop").json()

    alarms = {each["origin"]: each.get("alarm") for each in whole["producers"]}
    assert {
        "shop.example.com/user": None,
        "billing.example.com/user": "entry 3 has another leaf hash",
    } == alarms
    assert (0, 0.0) == (whole["scrub"]["missing"], whole["scrub"]["coverage"])
    assert ["shop.example.com/user"] == [each["origin"] for each in shop["producers"]]
    assert "scrub" not in shop
    assert "billing" not in str(shop)


def test_an_empty_log_has_no_checkpoint_yet(client: Served, collector: Collector) -> None:
    """Nothing was signed over nothing."""
    answer = ask(client, collector, "/log/admin/checkpoint", "reader")

    assert 404 == answer.status_code
    note = ask(client, collector, "/log/auth/checkpoint", "reader")
    assert "text/plain" in note.headers["content-type"]
    assert (
        "audit.example.com/collector/auth"
        == Checkpoint.from_text(Note.from_bytes(note.content).text).origin
    )
