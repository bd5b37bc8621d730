"""The client and the recorder against a collector of its own process, over TLS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

import indelible
from indelible.client import RemoteRecorder
from indelible.errors import (
    CallerError,
    Forbidden,
    InvalidEvent,
    NotFound,
    StoreError,
    TrailClosed,
    UnknownStream,
    WriteUncertain,
)
from indelible.recorder import State, build
from indelible.verdict import Level
from tests.client.running import COUNT
from tests.collector.server import Authority
from tests.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.client.items import Item
    from tests.client.running import Collector


# ---- Reading ----


def test_a_client_reads_what_the_trail_holds(collector: Collector, tmp_path: Path) -> None:
    """Over the network as in the process: the same entries, histories and states."""
    with collector.client(tmp_path) as client:
        found = client.search("action:invoice.approve order:oldest").items
        everything = list(client.iter(stream="user"))
        alices = client.get(found[0].event.id)
        item, proof = client.prove(found[1].event.id)
        state = client.state("invoice:INV-7")
        facets = client.facets("stream:user", fields=["action"], top=1)

        assert ["alice", "bob"] == [each.event.actor.id for each in found]
        assert len(everything) >= COUNT
        assert found[0] == alices
        proof.verify(item.entry.to_bytes(), [client.verifier_key("user")], index=1)
        assert "user#1" == f"{item.log}#{item.index}"
        assert client.proof_of(item) == proof
        assert [item.index for item in client.history("invoice:INV-7")] == [0, 1]
        assert {"status"} == set(state.values)
        assert state.values["status"].since == found[1]
        assert "invoice.view" == facets["action"].counts[0][0]
        assert client.at("user", 0) == found[0]
        assert client.actor("user:alice").recent == (found[0],)
        assert client.views()


def test_an_async_client_reads_the_same(collector: Collector, tmp_path: Path) -> None:
    """What blocks and what does not give the same answers."""

    async def read() -> None:
        settings = collector.told(tmp_path)
        async with indelible.AsyncClient(
            collector.server.url, collector.reads, **settings
        ) as client:
            page = await client.search("action:invoice.approve order:oldest")
            first = page.items[0]
            assert first == await client.get(first.event.id)
            assert first == await client.at("user", 0)
            item, proof = await client.prove(first.event.id)
            assert proof == await client.proof_of(item)
            assert [0, 1] == [each.index for each in await client.history("invoice:INV-7")]
            assert {"status"} == set((await client.state("invoice:INV-7")).values)
            assert await client.facets(stream="user")
            assert await client.views()
            assert (first,) == (await client.actor("user:alice")).recent
            assert (await client.verifier_key()).name in (await client.checkpoint()).decode()
            fed = [each.index async for each in client.feed("user", after=COUNT - 3, wait=0)]
            assert [COUNT - 2, COUNT - 1] == fed[:2]

    asyncio.run(read())


def test_whoever_follows_hears_of_each_entry(collector: Collector, tmp_path: Path) -> None:
    """A feed waits for what comes, and leaves nothing out."""
    with collector.client(tmp_path) as client:
        known = list(client.feed("user", wait=0))
        heard: list[Item] = []
        done = threading.Event()

        def listen() -> None:
            for item in client.feed("user", after=known[-1].index, wait=10):
                heard.append(item)
                if len(heard) == 3:
                    break
            done.set()

        listener = threading.Thread(target=listen)
        listener.start()
        for number in range(3):
            collector.trail.record(
                "invoice.view", actor="service:mailer", resource=f"invoice:{number}"
            )

        assert done.wait(20)
        listener.join()

    assert [item.index for item in known] == list(range(len(known)))
    assert [len(known), len(known) + 1, len(known) + 2] == [item.index for item in heard]


@pytest.mark.parametrize("stream", [None, "user"])
def test_whoever_looks_on_sees_what_is_recorded_from_now_on(
    collector: Collector, tmp_path: Path, stream: str | None
) -> None:
    """Nothing of the past, and all that comes, of one stream or of all whose keys are trusted."""
    with collector.client(tmp_path) as client:
        followed = client.follow(stream)
        seen: list[Item] = []
        first = threading.Thread(target=lambda: seen.append(next(followed)))
        first.start()
        # Whenever it begins to look: one of these comes after that.
        while first.is_alive():
            collector.trail.record("invoice.seen", actor="user:bob", resource="invoice:1")
            first.join(0.1)

        with pytest.raises(CallerError, match="whose key is trusted"):
            next(client.follow("nowhere"))
    assert "invoice.seen" == seen[0].event.action
    with pytest.raises(TrailClosed):
        client.search()


def test_a_whole_collector_is_verified_from_afar(collector: Collector, tmp_path: Path) -> None:
    """Every byte, link, node and signature of every log is checked by who trusts the keys only."""
    done: list[int] = []

    with collector.client(tmp_path) as client:
        verdict = client.verify(progress=lambda now, total: done.append(total - now))

    assert verdict.passed, verdict.findings
    assert Level.SIGNED is verdict.level
    assert {"user", "admin", "custody"} == {log.log.rpartition("/")[2] for log in verdict.logs}
    assert verdict.entries > COUNT
    assert 0 == done[-1]
    assert any("custody stream says" in text for text in verdict.does_not_show)


def test_entries_are_taken_away_in_a_file(collector: Collector, tmp_path: Path) -> None:
    """An export is the file that the collector says it made, whole, and overwrites nothing."""
    query, why = "action:invoice.approve", "quarterly sample"

    async def save() -> str:
        settings = collector.told(tmp_path / "seen")
        async with indelible.AsyncClient(
            collector.server.url, collector.reads, **settings
        ) as client:
            return await client.export(query, tmp_path / "b.jsonl", rationale=why)

    with collector.client(tmp_path / "seen") as client:
        digest = client.export(query, tmp_path / "a.jsonl", rationale=why)
        with pytest.raises(CallerError, match=r"a.jsonl: File exists"):
            client.export(query, tmp_path / "a.jsonl", rationale=why)
        with pytest.raises(CallerError, match="format"):
            client.export(query, tmp_path / "c", rationale=why, format="docx")
    other = asyncio.run(save())

    data = (tmp_path / "a.jsonl").read_bytes()
    assert sha256(data).hexdigest() == digest
    assert 2 == len(data.splitlines())
    assert sha256((tmp_path / "b.jsonl").read_bytes()).hexdigest() == other
    assert not (tmp_path / "c").exists()


def test_keys_are_asked_for_before_anything_else(collector: Collector, tmp_path: Path) -> None:
    """Without a key nothing is asked; once they were given, they are remembered."""
    settings = {"ca": collector.server.authority.file, "state": tmp_path}
    with pytest.raises(CallerError, match="no key of its logs is trusted yet"):
        indelible.Client(collector.server.url, collector.reads, **settings)

    file = tmp_path / "keys.txt"
    file.write_text(f"# told by carol\n\n{collector.trail.verifier_key('user').to_text()}\n")
    indelible.Client(collector.server.url, collector.reads, **settings, trust=file).close()

    with indelible.Client(collector.server.url, collector.reads, **settings) as client:
        assert client.search("action:invoice.approve").items


def test_who_comes_without_a_right_is_told(collector: Collector, tmp_path: Path) -> None:
    """A wrong token, a wrong role and a wrong authority each have their own error."""
    other = Authority(tmp_path, "other")
    told = collector.told(tmp_path)
    url = collector.server.url
    for client, expected, what in (
        (indelible.Client(url, "indelible_none", **told), Forbidden, "access token"),
        (indelible.Client(url, collector.records, **told), Forbidden, "may not read"),
        (collector.client(tmp_path, ca=other.file), StoreError, "no answer"),
    ):
        with client, pytest.raises(expected, match=what):
            client.search()
    with collector.client(tmp_path) as client, pytest.raises(NotFound):
        client.get("01a20e8d-72c6-7fd9-a1d3-1b953f96a28b")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://127.0.0.1", "found scheme 'http'"),
        ("https://", "found no host"),
        ("https://alice:secret@127.0.0.1", "found a name or password"),
        ("https://127.0.0.1/?a=b", "found a query"),
        ("https://127.0.0.1:port", "found something else"),
        ("https://[zz::]", "found something else"),
    ],
)
def test_a_collector_is_reached_over_tls_only(url: str, what: str, tmp_path: Path) -> None:
    """A token is never sent in clear, nor a password shown."""
    with pytest.raises(CallerError, match=what) as refused:
        indelible.Client(url, "indelible_none", state=tmp_path)

    assert "secret" not in str(refused.value)


# ---- Recording ----


def test_an_event_is_kept_when_recording_returns(collector: Collector) -> None:
    """A container without a disk has the collector's receipt before it goes on."""
    with collector.recorder() as audit, audit.context(actor="user:alice", session="s-9"):
        receipt = audit.record("invoice.pay", resource="invoice:INV-9", changes={"paid": (0, 1)})

    held = collector.trail.get(receipt.id)
    assert State.COLLECTED is receipt.state
    assert (held.log, held.index, held.leaf_hash) == (
        receipt.log,
        receipt.index,
        receipt.leaf_hash,
    )
    assert ("alice", "s-9") == (held.event.actor.id, held.event.session)
    assert held.event.changes is not None


def test_a_url_is_opened_like_a_directory(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An application takes the same line to record, with a disk or without one."""
    ca = collector.server.authority.file
    (tmp_path / "token").write_text(f"{collector.records}\n")

    with indelible.open(collector.server.url, token=tmp_path / "token", ca=ca) as audit:
        first = audit.record("invoice.pay", resource="invoice:OPEN", actor="user:bob")
    monkeypatch.setenv("INDELIBLE_TRAIL", collector.server.url)
    monkeypatch.setenv("INDELIBLE_TOKEN", collector.records)
    with indelible.open(ca=ca) as audit:
        second = audit.record("invoice.pay", resource="invoice:OPEN", actor="user:bob")

    assert [State.COLLECTED] * 2 == [first.state, second.state]
    with pytest.raises(CallerError, match="to read, use"):
        indelible.open(collector.server.url, mode="r")


def test_recording_does_not_block_the_event_loop(collector: Collector) -> None:
    """Many tasks record at once, each under its own actor."""

    async def record(audit: RemoteRecorder, number: int) -> indelible.Receipt:
        with audit.context(actor=f"user:{number}"):
            return await audit.arecord("invoice.pay", resource="invoice:INV-9")

    async def main() -> list[indelible.Receipt]:
        with closing(collector.recorder()) as audit:
            return await asyncio.gather(*(record(audit, number) for number in range(8)))

    receipts = asyncio.run(main())

    actors = [collector.trail.get(receipt.id).event.actor.id for receipt in receipts]
    assert [str(number) for number in range(8)] == actors


def test_calls_are_recorded_with_how_they_ended(collector: Collector) -> None:
    """A decorated function is recorded from afar as it is at home."""
    with closing(collector.recorder()) as audit:

        @audit.audited("invoice.void", resource="invoice:{number}", actor="user:bob")
        def void(number: str) -> None:
            raise PermissionError(number)

        with pytest.raises(PermissionError):
            void("INV-VOID")

    (item,) = collector.trail.search(resource="invoice:INV-VOID").items
    assert ("denied", "PermissionError") == (item.event.outcome, item.event.reason)


def test_many_events_are_recorded_in_order(collector: Collector) -> None:
    """Events in bulk go by batches, and their number is returned."""
    events = [
        build("invoice.view", actor="user:bob", resource=f"bulk:{number}") for number in range(25)
    ]

    with closing(collector.recorder()) as audit:
        assert 25 == audit.record_many(iter(events), batch=10)
        assert 25 == audit.record_many(events), "what was recorded before is answered again"

    held = collector.trail.search("resource:bulk:* order:oldest", limit=100).items
    assert [event.id for event in events] == [item.event.id for item in held]


def test_what_no_policy_would_take_is_not_sent(collector: Collector) -> None:
    """A wrong event raises where it was made, whether or not the collector is there."""
    with Proxy(collector.server.address) as proxy, closing(collector.recorder(proxy.port)) as audit:
        proxy.refuse()
        with pytest.raises(InvalidEvent, match="resource"):
            audit.record("invoice.pay", resource="none")
        with pytest.raises(InvalidEvent):
            audit.record("invoice.pay", resource="invoice:1", session="nul\0")
        with pytest.raises(InvalidEvent, match=r"event: found '\d+ bytes'"):
            audit.record("invoice.pay", resource="invoice:1", data={"text": "x" * 70_000})
        with pytest.raises(UnknownStream, match="a collector's policy says where"):
            audit.record("invoice.pay", resource="invoice:1", stream="user")


def test_a_collector_that_is_away_took_nothing(collector: Collector) -> None:
    """Where no connection was made, the application may do as it likes and try again."""
    event = build("invoice.pay", actor="user:bob", resource="invoice:AWAY")
    with Proxy(collector.server.address) as proxy, closing(collector.recorder(proxy.port)) as audit:
        proxy.refuse()
        with pytest.raises(StoreError, match="ConnectError"):
            audit.record(event)

        proxy.accept()
        audit.record(event)

    assert 1 == len(collector.trail.search(resource="invoice:AWAY").items)


def test_a_lost_answer_neither_loses_nor_doubles_an_event(collector: Collector) -> None:
    """What was sent without an answer is sent again under its id, and is there once."""
    event = build("invoice.pay", actor="user:bob", resource="invoice:LOST")
    with Proxy(collector.server.address) as proxy, closing(collector.recorder(proxy.port)) as audit:
        after, beyond = proxy.handshake(collector.server.context(), "127.0.0.1")
        proxy.lose_answers(2, after=after, beyond=beyond)
        receipt = audit.record(event)

    (item,) = collector.trail.search(resource="invoice:LOST").items
    assert (item.index, item.leaf_hash) == (receipt.index, receipt.leaf_hash)


def test_who_never_hears_back_is_told_that_nobody_knows(collector: Collector) -> None:
    """An event that may be there is neither called kept nor called lost."""
    event = build("invoice.pay", actor="user:bob", resource="invoice:UNHEARD")
    with Proxy(collector.server.address) as proxy, closing(collector.recorder(proxy.port)) as audit:
        after, beyond = proxy.handshake(collector.server.context(), "127.0.0.1")
        proxy.lose_answers(99, after=after, beyond=beyond)
        with pytest.raises(WriteUncertain, match="no answer"):
            audit.record(event)

    assert 1 == len(collector.trail.search(resource="invoice:UNHEARD").items)


def test_other_content_under_an_id_is_refused(collector: Collector) -> None:
    """An id stands for one event."""
    event = build("invoice.pay", actor="user:bob", resource="invoice:SAME")
    other = build("invoice.pay", actor="user:bob", resource="invoice:OTHER")
    other = msgspec.structs.replace(other, id=event.id)

    with closing(collector.recorder()) as audit:
        audit.record(event)
        with pytest.raises(InvalidEvent, match="another event was recorded under it"):
            audit.record(other)


def test_who_may_not_record_is_told(collector: Collector) -> None:
    """A reader's token records nothing."""
    url, ca = collector.server.url, collector.server.authority.file
    with (
        closing(RemoteRecorder(url, collector.reads, ca=ca)) as audit,
        pytest.raises(Forbidden, match="may not record"),
    ):
        audit.record("invoice.pay", resource="invoice:1", actor="user:bob")


FORKS = """
import os, sys
from indelible.client import RemoteRecorder

audit = RemoteRecorder(*sys.argv[1:3], ca=sys.argv[3])
record = lambda: audit.record("invoice.pay", resource="invoice:FORK", actor="user:bob")
record()
child = os.fork()
record()
if child:
    assert os.waitpid(child, 0)[1] == 0
    record()
"""


def test_a_forked_process_goes_on(collector: Collector) -> None:
    """A server that forks its workers after it opened the collector records in each."""
    subprocess.run(
        [
            *(sys.executable, "-c", FORKS),
            *(collector.server.url, collector.records, collector.server.authority.file),
        ],
        check=True,
    )

    assert 4 == len(collector.trail.search(resource="invoice:FORK").items)
