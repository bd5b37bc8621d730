"""The pure parts of the client: URLs and answers, hashes, the memory, and the keys given."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.client.connection import Address, AsyncConnection, Connection
from indelible.client.exchange import LONGEST_WAIT, Answer, Busy, Request, base_of, check
from indelible.client.hashes import Hashes, Wanting
from indelible.client.memory import Memory
from indelible.client.reading import _checked
from indelible.client.recording import _post, _receipt
from indelible.client.trusting import keys_of
from indelible.errors import (
    CallerError,
    Damaged,
    Forbidden,
    IndelibleError,
    InvalidCursor,
    InvalidEvent,
    InvalidProof,
    InvalidQuery,
    Malformed,
    NotFound,
    Rollback,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.keys import SigningKey
from indelible.mark import Known
from indelible.merkle import HASH_SIZE, Edge, leaf_hash, root_of
from indelible.pins import Pin
from indelible.recorder import State, build
from indelible.tiles import TILE_HEIGHT, TILE_WIDTH
from indelible.wire import (
    CASE_HEADER,
    PROBLEM,
    PURPOSE_HEADER,
    EventResult,
    EventResults,
    ExportShown,
    Problem,
)
from tests.collector.server import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from indelible.client.exchange import Steps
    from indelible.note import VerifierKey

T = TypeVar("T")

URL = "https://collector"
LEAVES = [leaf_hash(b"%d" % number) for number in range(66_000)]


def key(log: str = "user") -> VerifierKey:
    """Return a verifier key of a log."""
    return SigningKey.generate(f"audit.example.com/collector/{log}").verifier


# ---- URLs and answers ----


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("https://Collector/", URL),
        ("https://collector:443", URL),
        ("https://collector:8443/audit/", "https://collector:8443/audit"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_a_collector_is_known_by_one_url(given_: str, kept: str) -> None:
    """What was seen of a collector is found again, however its URL is written."""
    assert kept == base_of(given_)


def answer(status: int, kind: str = "", media_type: str = PROBLEM, retry: float = 0) -> Answer:
    """Return a problem."""
    problem = Problem(type=f"/problems/{kind}", title="title", status=status, detail="detail")
    body = msgspec.json.encode(problem)
    return Answer(status=status, media_type=media_type, body=body, retry_after=retry)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answer(400, "invalid-cursor"), InvalidCursor),
        (answer(400, "invalid-query"), InvalidQuery),
        (answer(400, "invalid-request"), CallerError),
        (answer(401, "unauthenticated"), Forbidden),
        (answer(403, "forbidden"), Forbidden),
        (answer(404, "not-found"), NotFound),
        (answer(404, "unknown-stream"), UnknownStream),
        (answer(410, "purged"), NotFound),
        (answer(429, "too-many"), StoreError),
        (answer(500, "damaged"), Damaged),
        (answer(500, "internal"), StoreError),
        (answer(503, "store-away"), StoreError),
        (answer(502, media_type="text/html"), StoreError),
        (answer(302), CallerError),
        (answer(418), CallerError),
        (Answer(status=400, media_type=PROBLEM, body=b"<html>"), CallerError),
    ],
)
def test_a_problem_is_the_error_that_it_is_at_home(
    found: Answer, expected: type[IndelibleError]
) -> None:
    """Whoever handles the errors of a trail handles those of a collector."""
    with pytest.raises(expected) as raised:
        check(found)

    assert isinstance(raised.value, IndelibleError)


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (429, "too-many", StoreError),
        (503, "store-away", StoreError),
        (503, "uncertain", WriteUncertain),
        (500, "internal", WriteUncertain),
        (502, "", WriteUncertain),
    ],
)
def test_what_may_have_been_taken_is_not_called_lost(
    status: int, kind: str, expected: type[IndelibleError]
) -> None:
    """Only where nothing was certainly written is it said that nothing was."""
    with pytest.raises(expected):
        check(answer(status, kind), writing=True)


def test_a_file_that_is_not_the_one_that_was_made_is_not_kept(tmp_path: Path) -> None:
    """What was changed on its way is taken away again."""
    made = ExportShown(id="1", state="ready", format="csv", made_at="", sha256="00" * 32)
    (tmp_path / "file").touch()

    with pytest.raises(Damaged, match="export 1: its file has SHA-256 11"):
        _checked(made, "11" * 32, tmp_path / "file")

    assert not (tmp_path / "file").exists()


# ---- Posting ----


def sent(*answers: Answer | IndelibleError) -> tuple[list[float], Callable[[], object]]:
    """Return how long was waited before each time, and what posts one event to these answers."""
    waits: list[float] = []

    def post() -> object:
        steps = _post([b"{}"])
        asked = next(steps)
        try:
            for each in answers:
                waits.append(asked[0].after)
                asked = steps.send([each]) if isinstance(each, Answer) else steps.throw(each)
        except StopIteration as done:
            return done.value
        raise AssertionError("it asks once more")

    return waits, post


KEPT = Answer(
    status=207,
    media_type="application/json",
    body=msgspec.json.encode(EventResults(results=(EventResult(status=201),))),
)


def test_a_busy_collector_is_waited_for_and_not_for_long() -> None:
    """It says how long, and whoever waits has something to do."""
    waits, post = sent(answer(503, retry=2), answer(429, retry=3_600), KEPT)

    assert (EventResult(status=201),) == post()
    assert [0, 2, LONGEST_WAIT] == waits


def test_one_unheard_answer_leaves_it_uncertain() -> None:
    """What may have been taken the first time is not called lost the third time."""
    _, post = sent(WriteUncertain("no answer"), StoreError("refused"), StoreError("refused"))
    _, refused = sent(StoreError("1"), Busy("2", 0), StoreError("3"))

    with pytest.raises(WriteUncertain, match="may have been taken before"):
        post()
    with pytest.raises(StoreError, match="3"):
        refused()


def test_as_many_results_as_events() -> None:
    """An answer speaks of each event."""
    none = Answer(status=207, media_type="", body=b'{"results":[]}')

    with pytest.raises(Malformed, match="found 0 results, expected 1"):
        sent(none)[1]()


def problem(status: int, kind: str, detail: str) -> EventResult:
    """Return what became of an event that was not recorded."""
    found = Problem(type=f"/problems/{kind}", title="title", status=status, detail=detail)
    return EventResult(status=status, problem=found)


@pytest.mark.parametrize(
    ("result", "expected", "message"),
    [
        (
            problem(422, "invalid-event", "rationale: found None, expected one"),
            InvalidEvent,
            "rationale: found None, expected one",
        ),
        (problem(422, "invalid-event", "whatever"), CallerError, "whatever"),
        (problem(422, "unknown-stream", "stream: none"), UnknownStream, "stream: none"),
        (problem(403, "forbidden", "not you"), Forbidden, "not you"),
        (problem(410, "too-old", "one of this week"), InvalidEvent, "id: found"),
        (problem(503, "store-away", "away"), StoreError, "away"),
        (problem(500, "internal", "oh"), WriteUncertain, "oh"),
        (EventResult(status=500), WriteUncertain, "answered 500"),
        (EventResult(status=201, id="another", index=1), Malformed, "a receipt of 'another'"),
        (EventResult(status=201), Malformed, "a receipt of ''"),
    ],
)
def test_an_event_that_was_not_recorded_raises_as_at_home(
    result: EventResult, expected: type[IndelibleError], message: str
) -> None:
    """What a policy demands is said in the same words from afar."""
    with pytest.raises(expected, match=message):
        _receipt(build("x.y", resource="invoice:1"), result)


def test_a_receipt_is_whole() -> None:
    """A receipt says where the entry is, or that the policy does not capture it."""
    event = build("x.y", resource="invoice:1")
    result = EventResult(status=201, id=event.id, stream="user", log="user", index=3)

    found = _receipt(event, msgspec.structs.replace(result, leaf_hash="00" * 32))

    assert (State.COLLECTED, 3, bytes(32)) == (found.state, found.index, found.leaf_hash)
    assert State.NOT_CAPTURED is _receipt(event, EventResult(status=204)).state
    with pytest.raises(Malformed, match="not in hex"):
        _receipt(event, msgspec.structs.replace(result, leaf_hash="xx"))


# ---- Hashes ----


def tile_of(leaves: Sequence[bytes], level: int, number: int, width: int) -> bytes:
    """Return a tile as an honest log serves it."""
    span = 1 << (TILE_HEIGHT * level)
    first = number * TILE_WIDTH
    return b"".join(
        root_of(leaves[place * span : (place + 1) * span]) for place in range(first, first + width)
    )


def proven(hashes: Hashes, leaves: Sequence[bytes], prove: Callable[[], T]) -> T:
    """Return what *prove* does once all that it wants is there."""
    while True:
        try:
            return prove()
        except Wanting as more:
            for tile in more.tiles:
                hashes.add(tile, tile_of(leaves, *tile))


@given(st.data())
def test_tiles_prove_what_the_tree_holds(data: st.DataObject) -> None:
    """Proofs that are made of tiles are those of the whole tree, for trees of every shape."""
    size = data.draw(st.integers(1, 1_500))
    index = data.draw(st.integers(0, size - 1))
    before = data.draw(st.integers(0, size))
    leaves = LEAVES[:size]
    hashes = Hashes(Known(size, root_of(leaves)), {})
    known = Known(before, root_of(leaves[:before]))

    proven(hashes, leaves, partial(hashes.verify_included, {index: leaves[index]}))
    proven(hashes, leaves, partial(hashes.verify_begins_with, known))
    assert known.root == proven(hashes, leaves, partial(hashes.root_at, before))
    with pytest.raises(InvalidProof):
        proven(hashes, leaves, partial(hashes.verify_included, {index: bytes(HASH_SIZE)}))
    if before:
        with pytest.raises(Rollback, match="are not those that were signed"):
            other = Known(before, bytes(HASH_SIZE))
            proven(hashes, leaves, partial(hashes.verify_begins_with, other))


def test_a_large_log_is_proven_with_few_tiles() -> None:
    """One entry of 66,000 takes a tile of each level, and the ends of these."""
    hashes = Hashes(Known(len(LEAVES), Edge().extend(LEAVES)[0].root), {})

    proven(hashes, LEAVES, partial(hashes.verify_included, {300: LEAVES[300]}))

    assert {(0, 1, 256), (0, 257, 208), (1, 0, 256), (1, 1, 1), (2, 0, 1)} >= set(hashes.fetched)


def test_a_smaller_tree_is_a_rollback() -> None:
    """Less than was signed is never what was signed."""
    hashes = Hashes(Known(3, root_of(LEAVES[:3])), {})

    with pytest.raises(Rollback, match="holds 3 entries, but 4 were signed"):
        hashes.verify_begins_with(Known(4, root_of(LEAVES[:4])))


# ---- Memory ----


def test_what_was_seen_only_moves_forward(tmp_path: Path) -> None:
    """A file that was put back or taken away makes nobody forget."""
    memory, mine = Memory(URL, tmp_path), key()
    memory.trust(mine)
    seen = Pin(mine, Known(2, root_of(LEAVES[:2])))
    (begun,) = memory.recall().values()
    assert seen == memory.advance(begun, seen)
    later = Pin(mine, Known(5, root_of(LEAVES[:5])))
    old = memory.path.read_bytes()
    memory.advance(seen, later)

    memory.path.write_bytes(old)
    assert later == memory.recall()[mine.name], "put back"
    memory.path.unlink()
    assert later == memory.recall()[mine.name], "taken away"
    newest = Pin(mine, Known(6, root_of(LEAVES[:6])))
    assert newest == memory.advance(later, newest)
    assert {mine.name: newest} == Memory(URL, tmp_path).recall()


def test_who_comes_second_is_told_what_is_there(tmp_path: Path) -> None:
    """Of two readers that have seen different trees, the second must look again."""
    one, other, mine = Memory(URL, tmp_path), Memory(URL, tmp_path), key()
    one.trust(mine)
    (begun,) = other.recall().values()
    first = Pin(mine, Known(2, root_of(LEAVES[:2])))
    one.advance(begun, first)

    assert first == other.advance(begun, Pin(mine, Known(3, root_of(LEAVES[:3]))))
    assert {mine.name: first} == Memory(URL, tmp_path).recall()


def test_many_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    """Threads that see a log grow leave the largest tree."""
    mine = key()
    Memory(URL, tmp_path).trust(mine)

    def grow(size: int) -> None:
        memory = Memory(URL, tmp_path)
        pin = Pin(mine, Known(size, root_of(LEAVES[:size])))
        while True:
            there = memory.recall()[mine.name]
            if there.known is not None and there.known.size >= size:
                return
            if memory.advance(there, pin) == pin:
                return

    threads = [threading.Thread(target=grow, args=(size,)) for size in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    known = Memory(URL, tmp_path).recall()[mine.name].known
    assert known is not None
    assert 8 == known.size


@pytest.mark.parametrize("data", [b"", b"[]", b'{"trail":"https://other"}', b"\x80\x04"])
def test_a_hostile_memory_is_refused(tmp_path: Path, data: bytes) -> None:
    """A file that was not written here is believed in nothing, and nothing in it is run."""
    memory = Memory(URL, tmp_path)
    memory.path.write_bytes(data)

    with pytest.raises(Malformed):
        memory.recall()


def test_a_memory_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    """Where nothing can be written, whoever reads is told what to give."""
    (tmp_path / "file").touch()

    with pytest.raises(CallerError, match="name a directory that can be written with state="):
        Memory(URL, tmp_path / "file").trust(key())


# ---- Keys ----


def test_keys_are_given_as_texts_or_in_files(tmp_path: Path) -> None:
    """A key may be given as it was told, or several in a file."""
    user, admin = key(), key("admin")
    file = tmp_path / "keys"
    file.write_text(f"# told by carol\n{user.to_text()}\n\n{admin.to_text()}\n")

    assert [user, admin] == keys_of(file) == keys_of(str(file))
    assert [user] == keys_of(user) == keys_of(user.to_text())
    assert [admin, user, admin] == keys_of([admin, file])
    assert [] == keys_of(None)


@pytest.mark.parametrize("text", ["no key at all", "a+b+c", ""])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """Nobody trusts nothing by mistake."""
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(CallerError, match="trust: "):
        keys_of(file)
    with pytest.raises(CallerError, match="trust: "):
        keys_of([text])


# ---- The connection ----


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"token": ""}, "token: found none"),
        ({"token": "two words"}, "token: found none as it was issued"),
        ({"token": "line\nfeed"}, "token: found none as it was issued"),
        ({"token": Path("nowhere")}, "token: nowhere: No such file"),
        ({"ca": "nowhere"}, "ca: cannot be read"),
        ({"certificate": "nowhere"}, "certificate: cannot be read"),
        ({"certificate": ("nowhere", "nowhere")}, "certificate: cannot be read"),
        ({"purpose": "two\nlines"}, "Indelible-Purpose: found a character that is not seen"),
    ],
)
def test_what_cannot_be_used_is_named_before_anything_is_sent(
    settings: dict[str, Any], what: str
) -> None:
    """A wrong token or file is the caller's turn, and no secret is shown."""
    with pytest.raises(CallerError, match=what) as raised:
        Address(url=URL, **{"token": "indelible_none", **settings}).settings()

    assert "two words" not in str(raised.value)


def test_purpose_and_case_go_as_utf_8() -> None:
    """Why somebody reads is said in their own language."""
    address = Address(url=URL, token="indelible_none", purpose="Prüfung", case="Q4")  # noqa: S106

    headers = address.settings()["headers"]

    assert ("Prüfung".encode(), b"Q4") == (headers[PURPOSE_HEADER], headers[CASE_HEADER])


def test_no_more_is_read_of_an_answer_than_it_may_have(tmp_path: Path) -> None:
    """A collector cannot fill the memory of its readers."""
    authority = Authority(tmp_path)
    certificate, key_file = authority.issue("endless")

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(65_536))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = Address(
        url=f"https://127.0.0.1:{server.server_port}",
        token="indelible_none",  # noqa: S106
        ca=authority.file,
    )

    def steps() -> Steps[None]:
        yield (Request(path="/v1/checkpoints", most=100_000),)

    async def ask() -> None:
        with pytest.raises(Malformed, match="found more than 100000 bytes"):
            await AsyncConnection(address).run(steps())

    try:
        with pytest.raises(Malformed, match="found more than 100000 bytes"):
            Connection(address).run(steps())
        asyncio.run(ask())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
