from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible.client.memory import Memory
from indelible.client.session import Session
from indelible.collector.state import Collector
from indelible.errors import (
    CallerError,
    Damaged,
    InvalidProof,
    InvalidQuery,
    InvalidSignature,
    Malformed,
    NotFound,
    Rollback,
    StoreError,
    UnknownStream,
    VerificationError,
)
from indelible.merkle import leaf_hash
from indelible.note import Note
from indelible.query import Query
from indelible.trail import Trail
from tests.client.conftest import Between
from tests.client.running import COUNT, fill
from tests.collector.conftest import FAST, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from indelible.client.exchange import Answer, Steps
    from indelible.client.items import Item

ALL = Query(stream="user", newest_first=False)
APPROVALS = Query(action="invoice.approve", newest_first=False)


def approvals(session: Session, between: Between) -> tuple[Item, ...]:
    """Ask for the two approvals, alice's first."""
    return between.run(session.page(APPROVALS)).items


# ---- What holds ----


def test_an_answer_is_what_the_trail_holds(session: Session, honest: Between) -> None:
    """What a reader is shown from afar is what the owner sees of the same entries."""
    found = honest.run(session.page(Query(), limit=1_000))
    held = honest.trail.search(limit=1_000)

    assert [(item.log, item.index, item.leaf_hash) for item in held.items] == [
        (item.log, item.index, item.leaf_hash) for item in found.items
    ]
    assert [item.event for item in held.items] == [item.event for item in found.items]
    assert [item.states for item in held.items] == [item.states for item in found.items]
    assert held.sizes == found.sizes


def test_pages_hold_each_entry_once(session: Session, honest: Between) -> None:
    """Page after page, all that was asked for comes in order, and none of it twice."""
    indexes: list[int] = []
    cursor, last = None, None
    while True:
        page = honest.run(session.page(ALL, limit=70, cursor=cursor, after=last))
        indexes += [item.index for item in page.items]
        cursor, last = page.cursor, page.items[-1] if page.items else last
        if cursor is None:
            break

    assert list(range(COUNT)) == indexes


def test_proofs_come_from_tiles_and_these_only_once(session: Session, honest: Between) -> None:
    """A page costs one request; the hashes that prove it are fetched once."""
    honest.run(session.page(ALL, limit=1_000))
    honest.asked.clear()

    honest.run(session.page(ALL, limit=1_000))

    assert ["/v1/entries"] == honest.asked


def test_a_proof_stands_without_the_collector(session: Session, honest: Between) -> None:
    """What a reader takes away is verified with the key alone."""
    (item, _) = approvals(session, honest)

    proof = honest.run(session.prove(item))

    checkpoint = proof.verify(item.entry.to_bytes(), honest.told_keys(), index=item.index)
    assert COUNT == checkpoint.size


def test_an_entry_is_found_by_its_place(session: Session, honest: Between) -> None:
    """An entry can be asked for by log and index, and that one is answered."""
    item = honest.run(session.at("user", 1))

    assert ("user", 1, "bob") == (item.log, item.index, item.event.actor.id)
    with pytest.raises(NotFound, match=r"user#300"):
        honest.run(session.at("user", COUNT))


def test_a_feed_has_no_gap(session: Session, honest: Between) -> None:
    """A log comes in its own order, from any place on, up to its end."""
    first = honest.run(session.part("user", after=9, limit=100))
    rest = honest.run(session.part("user", after=first.after))

    assert [*range(10, COUNT)] == [item.index for item in (*first.items, *rest.items)]
    assert COUNT - 1 == rest.after


def test_counts_and_views_are_passed_on(session: Session, honest: Between) -> None:
    """What nobody can prove is passed on as what it is: the collector's word."""
    facets = honest.run(session.facets(ALL, ("action",), 1))
    actor = honest.run(session.actor("user:alice"))
    views = honest.run(session.views())

    assert (("invoice.view", COUNT - 2),) == facets["action"].counts
    assert (("invoice.approve", 1),) == actor.actions.counts
    assert ["user#0"] == [f"{item.log}#{item.index}" for item in actor.recent]
    assert {"access-denied", "deletions"} & {view.name for view in views}


def test_an_export_that_failed_says_why(session: Session, honest: Between) -> None:
    """What the collector could not make is not waited for."""
    honest.lie_in_json("/v1/exports", lambda answer: answer.update(state="failed", why="full"))

    with pytest.raises(StoreError, match="is failed; full"):
        honest.run(session.export(APPROVALS, "jsonl", "quarterly sample"))


# ---- Lies about one entry ----


def _first(answer: dict[str, Any]) -> dict[str, Any]:
    return answer["items"][0]  # type: ignore[no-any-return]


def _set(path: str, value: object, answer: dict[str, Any]) -> None:
    *parts, last = path.split("/")
    found = _first(answer)
    for part in parts:
        found = found[part]
    found[last] = value


def _swap(name: str, answer: dict[str, Any]) -> None:
    one, other = answer["items"]
    one[name], other[name] = other[name], one[name]


def _in_event(change: Callable[[dict[str, Any]], None], answer: dict[str, Any]) -> None:
    change(_first(answer)["event"])


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another index": partial(_set, "integrity/index", 1),
    "an index that there is not": partial(_set, "integrity/index", 100_000),
    "another leaf hash": partial(_set, "integrity/leaf_hash", "00" * 32),
    "another log": partial(_set, "integrity/log", "admin"),
    "another origin": partial(_set, "integrity/origin", "audit.example.com/other/user"),
    "another stream": partial(_set, "stream", "admin"),
    "another time": partial(_set, "recorded_at", "2026-01-01T00:00:00.000000Z"),
    "another id": partial(_set, "id", "01a20e8d-72c6-7fd9-a1d3-1b953f96a28b"),
    "a producer": partial(_set, "integrity/producer", "audit.example.com/shop/user"),
    "the entry of another": partial(_swap, "entry"),
    "the event of another": partial(_swap, "event"),
    "the place of another": partial(_swap, "integrity"),
    "another time in the entry": partial(_set, "entry/recorded_at", "2026-01-01T00:00:00.000000Z"),
    "another outcome in the entry": partial(_set, "entry/event/outcome", "denied"),
    "another action": partial(_in_event, lambda event: event.update(action="invoice.reject")),
    "another outcome": partial(_in_event, lambda event: event.update(outcome="denied")),
    "another resource": partial(_in_event, lambda event: event["resource"].update(id="INV-8")),
    "a tenant": partial(_in_event, lambda event: event.update(tenant="shop")),
    "another type of actor": partial(
        _in_event, lambda event: event["actor"].update(type="service")
    ),
    "a change that there was not": partial(
        _in_event, lambda event: event["changes"].update(paid={"old": False, "new": True})
    ),
    "no actor": partial(_in_event, lambda event: event["actor"].update(type="unknown", id=None)),
    "an event that is none": partial(_in_event, lambda event: event.update(action=7)),
    "a value that nobody speaks of": lambda answer: _first(answer)["values"].pop("/data"),
    "a value that there is not": lambda answer: _first(answer)["values"].update(
        {"/reason": "OPEN"}
    ),
    "a state that means nothing": partial(_set, "values/~data", "OPEN"),
}


@pytest.mark.parametrize("lie", LIES)
def test_no_entry_is_believed_that_its_bytes_do_not_bear_out(
    session: Session, honest: Between, lie: str
) -> None:
    """Whatever a collector says of an entry is held against the bytes that the log holds."""
    honest.lie_in_json("/v1/entries", LIES[lie])

    with pytest.raises(VerificationError):
        approvals(session, honest)


def test_bytes_that_are_not_in_the_log_are_no_entry(session: Session, honest: Between) -> None:
    """An entry that fits everything but the tree is found by the tree."""

    def forged(answer: Answer) -> Answer:
        body = answer.body.replace(b"INV-7", b"INV-8")
        page = msgspec.json.decode(body)
        page["items"] = page["items"][:1]
        entry = msgspec.json.encode(page["items"][0]["entry"])
        page["items"][0]["integrity"]["leaf_hash"] = leaf_hash(entry).hex()
        return replace(answer, body=msgspec.json.encode(page))

    honest.lie("/v1/entries", forged)

    with pytest.raises(InvalidProof, match=r"log user: inclusion proof of 0"):
        approvals(session, honest)


def test_another_entry_is_no_answer(session: Session, honest: Between) -> None:
    """An entry that holds is no answer to the question for another one."""
    alices, bobs = approvals(session, honest)
    other = honest.raw(f"/v1/entries/{bobs.event.id}")
    honest.lie(f"/v1/entries/{alices.event.id}", lambda _: other)

    with pytest.raises(Damaged, match=r"user#1: is event"):
        honest.run(session.get(alices.event.id))


def test_what_was_not_asked_for_is_no_answer(session: Session, honest: Between) -> None:
    """A page holds what its query finds, and nothing else."""
    honest.lie("/v1/entries", lambda _: honest.raw("/v1/entries", q="action:invoice.approve"))

    for query in (Query(actor="user:alice"), Query(stream="admin"), Query(text="PO-98")):
        with pytest.raises(Damaged, match="is not what was asked for"):
            honest.run(session.page(query))


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer["items"].reverse(),
        lambda answer: answer["items"].append(answer["items"][0]),
    ],
)
def test_a_page_is_in_order_and_holds_nothing_twice(
    session: Session, honest: Between, change: Callable[[Any], None]
) -> None:
    """Entries that were reordered or doubled are found, each of which holds by itself."""
    honest.lie_in_json("/v1/entries", change)

    with pytest.raises(Damaged, match="in the answer"):
        approvals(session, honest)


def test_a_page_goes_on_where_the_last_one_ended(session: Session, honest: Between) -> None:
    """The first page again, given for the second, is found."""
    page = honest.run(session.page(ALL, limit=10))
    honest.lie("/v1/entries", lambda _: honest.raw("/v1/entries", q=ALL.to_text(), limit="10"))

    with pytest.raises(Damaged, match="in the answer"):
        honest.run(session.page(ALL, limit=10, cursor=page.cursor, after=page.items[-1]))


def test_a_page_is_not_longer_than_asked_for(session: Session, honest: Between) -> None:
    """A limit is one."""
    honest.lie("/v1/entries", lambda _: honest.raw("/v1/entries", q=ALL.to_text(), limit="10"))

    with pytest.raises(Malformed, match="found 10 items, expected at most 9"):
        honest.run(session.page(ALL, limit=9))
    with pytest.raises(InvalidQuery, match="limit: found 0"):
        honest.run(session.page(ALL, limit=0))


# ---- Lies about the log ----


def test_a_changed_tile_proves_nothing(session: Session, honest: Between) -> None:
    """Hashes are believed as far as they lead to the signed root."""
    honest.lie("/log/user/tile/0/000", lambda answer: replace(answer, body=bytes(32 * 256)))

    with pytest.raises(InvalidProof, match="log user"):
        honest.run(session.page(ALL))

    honest.tell_the_truth()
    assert honest.run(session.page(ALL)).items, "what did not hold was not kept"


@pytest.mark.parametrize("body", [b"", bytes(31), bytes(32 * 257)])
def test_a_tile_of_another_size_is_none(session: Session, honest: Between, body: bytes) -> None:
    """A tile has as many hashes as its path says."""
    honest.lie("/log/user/tile/0/", lambda answer: replace(answer, body=body))

    with pytest.raises(Malformed, match="tile 0/"):
        honest.run(session.page(ALL))


def test_a_missing_tile_is_no_proof(session: Session, honest: Between) -> None:
    """Without the hashes nothing is shown."""
    honest.lie("/log/user/tile/", lambda answer: replace(answer, status=404))

    with pytest.raises(NotFound):
        honest.run(session.page(ALL))


def _note_of(answer: dict[str, Any], log: str, note: str | None) -> None:
    for each in answer["logs"]:
        if each["log"] == log:
            each["checkpoint"] = note


def test_a_checkpoint_of_another_key_is_none(
    session: Session, honest: Between, tmp_path: Path
) -> None:
    """A checkpoint that is right in all but who signed it is no checkpoint."""
    with Trail.create(tmp_path / "other", origin="audit.example.com/collector") as other:
        fill(other)
        note = other.checkpoint("user").decode()
    honest.lie_in_json("/v1/checkpoints", lambda answer: _note_of(answer, "user", note))

    with pytest.raises(InvalidSignature, match="log user"):
        honest.run(session.page(ALL))


def test_a_checkpoint_of_another_log_is_none(session: Session, honest: Between) -> None:
    """The checkpoint of one log does not vouch for another."""
    note = honest.trail.checkpoint("admin").decode()
    honest.lie_in_json("/v1/checkpoints", lambda answer: _note_of(answer, "user", note))

    with pytest.raises(VerificationError, match="log user"):
        honest.run(session.page(ALL))


def test_what_no_checkpoint_covers_is_not_shown(session: Session, honest: Between) -> None:
    """An entry is shown once the log has signed that it holds it."""
    honest.lie_in_json("/v1/checkpoints", lambda answer: answer["logs"].clear())

    with pytest.raises(Damaged, match="the signed checkpoint covers 0 entries only"):
        honest.run(session.page(ALL))


def test_a_key_that_comes_with_an_answer_is_never_trusted(honest: Between, tmp_path: Path) -> None:
    """Whoever was told no key is told how to get one, and is shown nothing."""
    with pytest.raises(CallerError, match="no key of its logs is trusted yet"):
        Session("https://collector", Memory("https://collector", tmp_path))

    only = [key for key in honest.told_keys() if key.name.endswith("/admin")]
    session = Session("https://collector", Memory("https://collector", tmp_path), only)
    with pytest.raises(CallerError, match="log user: its key is not trusted yet"):
        honest.run(session.page(ALL))


# ---- What was seen before ----


class Twin:
    """A collector that was copied, keys and all, and went on otherwise."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with Trail.create(path / "one", origin="audit.example.com/collector") as trail:
            for number in range(5):
                trail.record("invoice.view", actor="user:bob", resource=f"invoice:{number}")
        shutil.copytree(path / "one", path / "other")
        self.paths = path / "one", path / "other"


def test_two_histories_for_one_reader_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that was rewritten with its own key is found by whoever has seen it before."""
    twin = Twin(tmp_path, monkeypatch)
    for path, name, count in ((twin.paths[0], "a", 3), (twin.paths[1], "b", 9)):
        with Trail(path, check=False) as trail:
            for number in range(count):
                trail.record("invoice.view", actor="user:bob", resource=f"invoice:{name}{number}")
    with Trail(twin.paths[0], check=False) as one, Trail(twin.paths[1], check=False) as other:
        keys = [one.verifier_key("user")]
        found: list[int | type[Exception]] = []
        for trail in (one, other, one):
            # Each time as another process would: all it knows is what was kept.
            session = Session("https://twin", Memory("https://twin", tmp_path / "seen"), keys)
            collector = Collector(trail, FAST)
            with serving(collector) as served:
                between = Between(trail, served, collector)
                try:
                    found.append(len(between.run(session.page(ALL)).items))
                except VerificationError as error:
                    found.append(type(error))

    assert [8, Rollback, 8] == found


def test_a_log_is_never_smaller_than_it_was(honest: Between, tmp_path: Path) -> None:
    """An older state of the log, signed as it is, is no answer to who has seen a newer one."""
    old = honest.raw("/v1/checkpoints")
    page = honest.raw("/v1/entries", q=APPROVALS.to_text())
    feed = honest.raw("/v1/feed/user", after="-1", limit="10")
    honest.trail.record("invoice.view", actor="service:mailer", resource="invoice:NEW")
    honest.run(honest.session(tmp_path).checkpoints())

    asked: dict[str, tuple[Answer, Callable[[Session], Steps[object]]]] = {
        "/v1/checkpoints": (old, Session.checkpoints),
        "/v1/entries": (page, partial(Session.page, query=APPROVALS)),
        "/v1/feed/user": (feed, partial(Session.part, log="user", after=-1, limit=10)),
    }
    for path, (answer, steps) in asked.items():
        honest.tell_the_truth()
        honest.lie(path, partial(_instead, answer))
        with pytest.raises(Rollback, match="user"):
            honest.run(steps(honest.session(tmp_path)))


def _instead(answer: Answer, _: Answer) -> Answer:
    return answer


def test_a_log_that_has_gone_is_found(honest: Between, session: Session) -> None:
    """A log that says that it never signed anything is held against what it had signed."""
    honest.run(session.checkpoints())
    honest.lie_in_json("/v1/checkpoints", lambda answer: _note_of(answer, "user", None))

    with pytest.raises(Rollback, match="holds nothing, but"):
        honest.run(session.checkpoints())


def test_keys_are_needed_once(honest: Between, tmp_path: Path) -> None:
    """Keys that were trusted once are remembered, and so is that they were others."""
    honest.run(honest.session(tmp_path).checkpoints())

    session = Session("https://collector", Memory("https://collector", tmp_path))
    assert honest.run(session.page(ALL)).items

    with Trail.create(tmp_path / "other", origin="audit.example.com/collector") as other:
        strange = [other.verifier_key("user")]
    session = Session("https://collector", Memory("https://collector", tmp_path), strange)
    with pytest.raises(InvalidSignature, match="which was trusted before"):
        honest.run(session.page(ALL))


# ---- Keys that change ----


def test_a_new_key_is_followed_and_an_old_one_never_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is replaced by a note that both keys have signed; then the old one signs no more."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    memory = partial(Memory, "https://rotating", tmp_path / "seen")
    with Trail.create(tmp_path / "trail", origin="audit.example.com/rotating") as trail:
        trail.record("invoice.view", actor="user:bob", resource="invoice:1")
        old = trail.verifier_key("user")
        collector = Collector(trail, FAST)
        with serving(collector) as served:
            between = Between(trail, served, collector)
            first = Session("https://rotating", memory(), [old])
            assert 1 == len(between.run(first.page(ALL)).items)
            before = between.raw("/v1/checkpoints")
            new = trail.rotate_key("user")
            trail.record("invoice.view", actor="user:bob", resource="invoice:2")

            assert 2 == len(between.run(first.page(ALL)).items), "walked from the old key"
            part = between.run(first.part("user", after=0))
            assert [1] == [item.index for item in part.items]
            assert new == first.signed("user").key

            # Remembered, given anew, given as the old one: all are of one chain.
            for keys in ([], [new], [old]):
                again = Session("https://rotating", memory(), keys)
                assert 2 == len(between.run(again.page(ALL)).items)
                assert 2 == len(between.run(again.part("user", after=-1)).items)

            between.lie("/v1/checkpoints", lambda _: before)
            with pytest.raises(VerificationError):
                between.run(Session("https://rotating", memory()).checkpoints())

            between.tell_the_truth()
            between.lie_in_json("/v1/checkpoints", _without_rotations)
            # Who knows the old key alone cannot be led past the note.
            fresh = Session("https://rotating", Memory("https://rotating", tmp_path / "new"), [old])
            with pytest.raises(InvalidSignature):
                between.run(fresh.checkpoints())


def _without_rotations(answer: dict[str, Any]) -> None:
    for each in answer["logs"]:
        each.pop("rotations", None)


def test_a_rotation_that_is_not_signed_by_both_keys_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes a log over with a note of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Trail.create(tmp_path / "trail", origin="audit.example.com/rotating") as trail:
        trail.record("invoice.view", actor="user:bob", resource="invoice:1")
        old = trail.verifier_key("user")
        trail.rotate_key("user")
        collector = Collector(trail, FAST)
        with serving(collector) as served:
            between = Between(trail, served, collector)

            def unsigned(answer: dict[str, Any]) -> None:
                for each in answer["logs"]:
                    for number, text in enumerate(each.get("rotations", ())):
                        note = Note.from_bytes(text.encode())
                        alone = Note(text=note.text, signatures=note.signatures[1:])
                        each["rotations"][number] = alone.to_bytes().decode()

            between.lie_in_json("/v1/checkpoints", unsigned)
            session = Session("https://rotating", Memory("https://rotating", tmp_path), [old])

            with pytest.raises(InvalidSignature):
                between.run(session.checkpoints())


# ---- The feed ----


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda answer: answer["items"].pop(3), "found entry 4, expected 3"),
        (lambda answer: answer["items"].pop(0), "found entry 1, expected 0"),
        (lambda answer: answer["items"].pop(), "goes on after 9, expected after 8"),
        (lambda answer: answer["items"].reverse(), "expected 0"),
        (lambda answer: answer.update(after=5), "goes on after 5"),
        (lambda answer: answer.update(items=[]), "goes on after 9, expected after -1"),
        (lambda answer: answer.update(first=1, items=answer["items"][1:]), "found entry 1"),
    ],
)
def test_an_entry_that_was_left_out_of_a_feed_is_found(
    session: Session, honest: Between, change: Callable[[Any], None], what: str
) -> None:
    """Who follows a log misses nothing without being told."""
    honest.lie_in_json("/v1/feed/user", change)

    with pytest.raises(Damaged, match=what):
        honest.run(session.part("user", after=-1, limit=10))


def test_an_entry_of_another_log_is_not_in_a_feed(session: Session, honest: Between) -> None:
    """A feed is of one log."""
    honest.lie("/v1/feed/user", lambda _: honest.raw("/v1/feed/admin", after="-1"))

    with pytest.raises(VerificationError):
        honest.run(session.part("user", after=-1))


def test_a_limited_reader_follows_with_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sees one tenant's entries alone says so, and is not alarmed by the others'."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Trail.create(tmp_path / "trail", origin="audit.example.com/tenants") as trail:
        for tenant in ("one", "two", "one"):
            trail.record("x.y", actor="user:bob", resource="invoice:1", tenant=tenant)
        collector = Collector(trail, FAST)
        with serving(collector) as served:
            between = Between(trail, served, collector)
            between.token = issued(collector, "auditor", tenant="one")
            session = between.session(tmp_path)

            part = between.run(session.part("user", after=-1, whole=False))
            with pytest.raises(Damaged, match="found entry 2, expected 1"):
                between.run(session.part("user", after=-1))

    assert ([0, 2], 2) == ([item.index for item in part.items], part.after)


def test_a_stream_that_is_not_there_is_named(session: Session, honest: Between) -> None:
    """Who asks for a stream that nobody has is told which there are."""
    with pytest.raises(UnknownStream, match="found 'nowhere', expected one of custody"):
        honest.run(session.newest("nowhere"))


# ---- Shapes ----


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"items":7}', b"\xff", b'{"items":[{}]}'])
def test_what_is_no_answer_is_malformed(session: Session, honest: Between, body: bytes) -> None:
    """Bytes that are not what they claim to be are refused as a whole."""
    honest.lie("/v1/", lambda answer: replace(answer, status=200, body=body))

    for steps in (
        session.page(ALL),
        session.get("01a20e8d-72c6-7fd9-a1d3-1b953f96a28b"),
        session.part("user", after=-1),
        session.checkpoints(),
        session.facets(ALL, ("actor",), 3),
        session.views(),
        session.actor("user:alice"),
    ):
        with pytest.raises(Malformed, match="answer:"):
            honest.run(steps)


def test_counts_of_other_fields_are_no_answer(session: Session, honest: Between) -> None:
    """Counts are those of the fields that were asked for."""
    honest.lie("/v1/facets", lambda _: honest.raw("/v1/facets", fields="outcome"))

    with pytest.raises(Malformed, match="found outcome, expected action"):
        honest.run(session.facets(ALL, ("action",), 1))
