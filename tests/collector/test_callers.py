from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from indelible import tokens
from indelible.collector.callers import IN_TURN, KNOWN_FOR, MOST_IN_LINE, Gate, KnownTokens
from indelible.collector.limits import Rate, neighbourhood
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector, Settings
from indelible.errors import CallerError
from indelible.rights import Caller
from indelible.testing import FrozenClock
from indelible.trail import Trail
from tests.collector.conftest import FAST, Counted, bearer, issued, serving

if TYPE_CHECKING:
    from tests.collector.conftest import Issue, Served

NOW = 1_800_000_000_000_000
HERE = "203.0.113.7"
UNKNOWN = "access token: is unknown, expired or revoked"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time that is shown."""
        return self.now


@pytest.fixture
def counted(trail: Trail) -> Counted:
    """Count how often the trail's store is read from now on."""
    trail.store = counted = Counted(trail.store)
    return counted


# ---- Known without a query ----


def test_a_caller_costs_one_query_in_two_seconds(collector: Collector, counted: Counted) -> None:
    """However many requests come with a token."""
    clock = Clock()
    gate, header = Gate(collector, clock=clock), f"Bearer {issued(collector, 'reader')}"
    counted.reads = 0

    for _ in range(100):
        gate.identify(header, HERE)
    clock.now += KNOWN_FOR
    gate.identify(header, HERE)

    assert 2 == counted.reads


def test_a_revocation_holds_within_two_seconds(collector: Collector) -> None:
    """Also at a process that has just let the token pass, and did not revoke it."""
    clock = Clock()
    gate, header = Gate(collector, clock=clock), f"Bearer {issued(collector, 'reader')}"
    caller = gate.identify(header, HERE)
    tokens.revoke(collector.trail, caller.id, by="owner", now=collector.now())

    clock.now += KNOWN_FOR

    with pytest.raises(Refusal, match=UNKNOWN):
        gate.identify(header, HERE)


def test_a_token_expires_while_it_is_known(trail: Trail) -> None:
    """What is remembered of a token does not lengthen its life."""
    now = FrozenClock(NOW)
    collector = Collector(trail, FAST, now=now)
    gate, header = Gate(collector, clock=Clock()), f"Bearer {issued(collector, 'reader', lasts=10)}"
    gate.identify(header, HERE)

    now.move(10)

    with pytest.raises(Refusal, match=UNKNOWN):
        gate.identify(header, HERE)


def test_an_unknown_token_costs_one_query_in_two_seconds(
    collector: Collector, counted: Counted
) -> None:
    """A program that goes on with a token that is none does not keep the store busy."""
    gate, header = Gate(collector, clock=Clock()), f"Bearer indelible_{'0' * 16}_{'a' * 43}"
    counted.reads = 0

    for _ in range(100):
        with pytest.raises(Refusal, match=UNKNOWN):
            gate.identify(header, HERE)

    assert 1 == counted.reads


def test_guessing_costs_no_queries(trail: Trail, counted: Counted) -> None:
    """Whoever has guessed too often is turned away before anybody looks."""
    gate = Gate(Collector(trail, Settings(requests=10)), clock=Clock())
    counted.reads = 0

    statuses = {refused(gate, f"Bearer indelible_{n:016x}_{'a' * 43}") for n in range(200)}

    assert {401, 429} == statuses
    assert 20 == counted.reads


def refused(gate: Gate, header: str, address: str = HERE) -> int:
    """Return the status that a request is refused with."""
    with pytest.raises(Refusal) as caught:
        gate.identify(header, address)
    return caught.value.problem.status


def test_who_is_known_passes_where_others_guess(trail: Trail) -> None:
    """Behind one address may be many, and one of them does not shut out the others."""
    collector = Collector(trail, Settings(requests=10))
    clock = Clock()
    gate, header = Gate(collector, clock=clock), f"Bearer {issued(collector, 'reader')}"
    gate.identify(header, HERE)

    clock.now += KNOWN_FOR
    for n in range(100):
        refused(gate, f"Bearer indelible_{n:016x}_{'a' * 43}")

    assert "reader" == gate.identify(header, HERE).role


def test_who_knocks_without_a_token_shuts_out_nobody_who_has_one(trail: Trail) -> None:
    """Also where the token comes from the same address, and for the first time."""
    collector = Collector(trail, Settings(requests=10))
    gate, header = Gate(collector, clock=Clock()), f"Bearer {issued(collector, 'reader')}"
    for _ in range(2):
        gate.meet_stranger(HERE)
    with pytest.raises(Refusal, match="too many requests"):
        gate.meet_stranger(HERE)

    assert "reader" == gate.identify(header, HERE).role


def test_guessing_makes_nobody_forgotten(collector: Collector, counted: Counted) -> None:
    """What is remembered is bounded, and those who are known have a place of their own."""
    known = KnownTokens(collector.trail.store, Clock(), most=10)
    token_id, _ = tokens.taken_apart(issued(collector, "reader"))
    known.find(token_id)
    for n in range(100):
        known.find(f"{n:016x}")
    counted.reads = 0

    found = known.find(token_id)

    assert found is not None
    assert 0 == counted.reads
    assert [False] * 90 + [True] * 10 == [known.has_met(f"{n:016x}") for n in range(100)]


def test_a_locked_vault_is_not_described_to_strangers(
    trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    """That viewer tokens cannot be checked is said; where the key should lie is logged."""
    trail.close()
    key = next(trail.path.glob("keys/vault-*.key"))
    key.unlink()
    with Trail(trail.path) as locked:
        gate = Gate(Collector(locked, FAST))

        with pytest.raises(Refusal) as caught:
            gate.identify("Bearer indelible-viewer.e30.AAAA", HERE)

    assert 503 == caught.value.problem.status
    assert str(trail.path) not in caught.value.problem.detail
    assert key.name in caplog.text


# ---- Over HTTP ----


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWxpY2U6c2VjcmV0",
        "Bearer indelible_",
        f"Bearer indelible_{'0' * 16}_{'a' * 43}",
        "Bearer indelible-viewer.e30.AAAA",
        "Bearer a.b.c",
        "Bearer \xff",
    ],
)
def test_whoever_is_not_known_is_told_no_more(client: Served, header: str) -> None:
    """Whatever was wrong, the answer is 401 and holds nothing of what was sent."""
    answer = client.get("/v1/tokens", headers=[(b"Authorization", header.encode("latin-1"))])

    assert 401 == answer.status_code
    assert "Bearer" == answer.headers["www-authenticate"]
    assert "application/problem+json" == answer.headers["content-type"]
    assert answer.json()["detail"] in {UNKNOWN, "authorization: expected Bearer"}


def test_the_secret_must_be_the_tokens(client: Served, token: Issue) -> None:
    """An id, which entries name, opens nothing with another's secret."""
    mine, other = token("operator"), token("operator")
    mixed = mine[: len("indelible_") + 17] + other[len("indelible_") + 17 :]

    assert 200 == client.get("/v1/tokens", headers=bearer(mine)).status_code
    assert 401 == client.get("/v1/tokens", headers=bearer(mixed)).status_code


def test_when_a_token_was_used_last_is_known(trail: Trail) -> None:
    """So that nobody keeps a token that nobody uses; it is written after the answer."""
    now = FrozenClock(NOW)
    collector = Collector(trail, FAST, now=now)
    secret = issued(collector, "operator")

    with serving(collector) as client:
        client.get("/v1/tokens", headers=bearer(secret))

    with trail.store.read() as view:
        (token,) = tokens.everything(view)
    assert NOW == token.last_used_at


# ---- How often ----


def test_a_steady_rate_with_some_more_at_once() -> None:
    """What was not used is saved up, and no more than that."""
    rate = Rate(10, at_once=3)

    at_once = [rate.take("alice", 0.0) for _ in range(4)]
    later = [rate.take("alice", 0.1), rate.take("alice", 0.1)]
    rested = [rate.take("alice", 100.0) for _ in range(4)]

    assert [0, 0, 0] == at_once[:3] == rested[:3]
    assert [pytest.approx(0.1)] * 2 == [at_once[3], rested[3]]
    assert [0, pytest.approx(0.1)] == later


def test_who_has_to_wait_may_come_when_it_was_told() -> None:
    """The time that is named suffices, and to ask in vain costs nothing."""
    rate = Rate(2, at_once=1)
    rate.take("alice", 0.0)
    waits = [rate.take("alice", 0.0) for _ in range(10)]

    assert [0.5] * 10 == waits
    assert 0 == rate.take("alice", 0.5)


def test_one_caller_takes_nothing_from_another() -> None:
    """Each has a rate of its own, of which a bounded number is kept."""
    rate = Rate(1, at_once=1, most=2)

    assert [0, 0, 0] == [rate.take(who, 0.0) for who in ("alice", "bob", "carol")]
    assert 0 < rate.take("carol", 0.0)
    assert 0 < rate.take("bob", 0.0)
    assert 0 == rate.take("alice", 0.0)


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", "a socket"),
    ],
)
def test_one_holder_has_many_addresses(address: str, counted_as: str) -> None:
    """A network of IPv6 is one stranger, or nobody could be slowed down."""
    assert counted_as == neighbourhood(address)


def test_who_comes_too_often_is_told_when_to_come_again(trail: Trail) -> None:
    """429 with a time, while others and the probes of the machine go on."""
    collector = Collector(trail, Settings(requests=2, scrub_every=0))
    fast, slow = issued(collector, "operator"), issued(collector, "operator")

    with serving(collector) as client:
        answers = [client.get("/v1/tokens", headers=bearer(fast)) for _ in range(6)]
        other = client.get("/v1/tokens", headers=bearer(slow))
        alive = [client.get("/health/live") for _ in range(20)]

    assert [200, 200, 200, 200] == [answer.status_code for answer in answers[:4]]
    assert 429 == answers[-1].status_code
    assert "1" == answers[-1].headers["retry-after"]
    assert "/problems/too-many-requests" == answers[-1].json()["type"]
    assert 200 == other.status_code
    assert {200} == {answer.status_code for answer in alive}


def test_strangers_are_slowed_down_sooner(trail: Trail) -> None:
    """A tenth of what a caller may, for each address."""
    collector = Collector(trail, Settings(requests=10, scrub_every=0))

    with serving(collector) as client:
        answers = [client.get("/v1/tokens") for _ in range(6)]

    assert [401, 401, 429] == [answer.status_code for answer in answers[:3]]
    assert 1 <= int(answers[-1].headers["retry-after"])


@pytest.mark.parametrize("requests", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(trail: Trail, requests: float) -> None:
    """Nobody shuts everybody out by a slip."""
    with pytest.raises(CallerError, match="requests: found"):
        Gate(Collector(trail, Settings(requests=requests)))


@pytest.mark.parametrize("query", ["x=1", "limit=10", "token=secret"])
def test_a_parameter_that_a_route_does_not_know_is_refused(
    client: Served, token: Issue, query: str
) -> None:
    """One that is misspelt would else be a condition that does not hold."""
    answer = client.get(f"/v1/tokens?{query}", headers=bearer(token("operator")))

    assert 400 == answer.status_code
    assert query.partition("=")[0] in answer.json()["detail"]
    assert "secret" not in answer.text


def test_who_asks_for_much_at_once_waits_for_itself_alone(collector: Collector) -> None:
    """Of one caller some requests are worked on at a time, and the next when one is done."""
    gate = Gate(collector)
    one, other = (Caller(id=name, name=name, role="reader") for name in ("one", "other"))

    async def asked() -> None:
        at_work: list[int] = []
        go_on = anyio.Event()

        async def ask(number: int) -> None:
            async with gate.turn(one):
                at_work.append(number)
                await go_on.wait()

        async with anyio.create_task_group() as group:
            for number in range(MOST_IN_LINE):
                group.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            assert IN_TURN == len(at_work)
            with pytest.raises(Refusal) as refused:
                async with gate.turn(one):
                    pass
            assert 429 == refused.value.problem.status
            async with gate.turn(other):
                go_on.set()
        assert MOST_IN_LINE == len(at_work)

        async with gate.turn(one):
            pass

    anyio.run(asked)


def test_what_is_recorded_does_not_wait_for_what_is_read(client: Served, token: Issue) -> None:
    """Where all turns of a caller are taken, what it reads waits, and what it brings does not."""
    reads, records = token("reader"), token("recorder")
    gate: Gate = client.app.dependencies["gate"].dependency()

    with ExitStack() as turns, ThreadPoolExecutor(1) as pool:
        for secret in (reads, records):
            caller = Caller(id=tokens.taken_apart(secret)[0], name="", role="")
            for _ in range(IN_TURN):
                turn = client.blocking_portal.wrap_async_context_manager(gate.turn(caller))
                turns.enter_context(turn)
        reading = pool.submit(client.get, "/v1/entries", headers=bearer(reads))
        recorded = client.post("/v1/events", headers=bearer(records), json={"events": []})
        waits = not reading.done()
        turns.close()

    assert 422 == recorded.status_code
    assert waits
    assert 200 == reading.result().status_code
