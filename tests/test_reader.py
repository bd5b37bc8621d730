"""A reader that is limited to a part of a trail learns nothing of the rest, whatever it asks."""

from __future__ import annotations

from functools import partial
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.access import Viewer
from indelible.document import default
from indelible.entry import Entry
from indelible.errors import (
    CallerError,
    Forbidden,
    InvalidCursor,
    InvalidQuery,
    NotFound,
    StoreFull,
    TrailClosed,
    UnknownStream,
)
from indelible.event import Actor, Event, Outcome, Resource
from indelible.openings import HOUR, OPENED, READ, Openings, Reading
from indelible.policies import Consent
from indelible.policy import CUSTODY, OWNER
from indelible.query import Query, matches
from indelible.reader import Reader, Scope
from indelible.rights import Caller
from indelible.subject import Answer
from indelible.testing import Faulty
from indelible.tiles import decode_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.query import Item
    from indelible.store import Store
    from indelible.trail import Trail

TENANTS = ("shop", "billing", None)
STREAMS = ("user", "auth", "admin")
SCOPES = (
    Scope(streams=("user",)),
    Scope(streams=("auth", "admin", "never")),
    Scope(streams=(CUSTODY,)),
    Scope(tenant="shop"),
    Scope(tenant="nobody"),
    Scope(streams=("user", CUSTODY), tenant="billing"),
)


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Fill three streams with what happens to tenants who use the same names."""
    base = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with indelible.open(base / "audit", origin="audit.example.com/reader") as audit:
            for number in range(54):
                audit.record(
                    Event(
                        action=("invoice.approve", "invoice.pay")[number % 2],
                        outcome=Outcome.DENIED if number % 5 == 0 else Outcome.SUCCESS,
                        actor=Actor(type="user", id=("alice", "bob", "carol")[number % 3]),
                        resource=Resource(type="invoice", id=f"INV-{number % 4}"),
                        changes={"amount": indelible.Change(old=number, new=number + 1)},
                        tenant=TENANTS[number // 3 % 3],
                    ),
                    stream=STREAMS[number // 9 % 3],
                )
            yield audit


@pytest.fixture(scope="module")
def everything(trail: Trail) -> list[Item]:
    """Return all that the trail holds, custody included."""
    return [
        trail.at(log, index)
        for log in (*STREAMS, CUSTODY)
        for index in range(trail.stats()["logs"][log]["entries"])
    ]


def reader_of(trail: Trail, scope: Scope, role: str = "privacy_officer", **more: Any) -> Reader:
    """Return what reads for a caller of that *role* who is limited to *scope*."""
    caller = Caller(id="0f", name="the shop", role=role, streams=scope.streams, tenant=scope.tenant)
    return trail.reader(Viewer.of(trail.policy, role, **more), caller)


def seen(items: list[Item], scope: Scope) -> list[Item]:
    """Return those of *items* that are in *scope*, by the definition of it."""
    return [
        item
        for item in items
        if (not scope.streams or item.stream in scope.streams)
        and (scope.tenant is None or item.event.tenant == scope.tenant)
    ]


def places(items: list[Item]) -> set[tuple[str, int]]:
    """Return where *items* are."""
    return {(item.log, item.index) for item in items}


def _recorded(items: list[Item]) -> set[tuple[str, int]]:
    return places([item for item in items if item.stream != CUSTODY])


@pytest.mark.parametrize("scope", SCOPES)
def test_a_search_finds_what_is_in_its_scope_and_nothing_else(
    trail: Trail, everything: list[Item], scope: Scope
) -> None:
    """Pages hold each entry that the caller may see once, and no other."""
    reader = reader_of(trail, scope)
    inside = [item for item in seen(everything, scope) if item.stream != CUSTODY]

    first = reader.search(limit=7)
    pages, cursor = [first], first.cursor
    while cursor is not None:
        pages.append(reader.search(limit=7, cursor=cursor))
        cursor = pages[-1].cursor
    found = [item for page in pages for item in page.items if item.stream != CUSTODY]

    assert places(inside) == places(found)
    assert len(inside) == len(found)
    assert {log for page in pages for log in page.sizes} <= set(
        scope.streams or (*STREAMS, CUSTODY)
    )


@pytest.mark.parametrize("scope", SCOPES)
def test_no_query_leads_out_of_a_scope(trail: Trail, everything: list[Item], scope: Scope) -> None:
    """Neither by name nor by tenant, id, text or exclusion."""
    reader = reader_of(trail, scope)
    inside = seen(everything, scope)

    for text in (
        "actor:user:alice",
        "tenant:shop",
        "tenant:(billing OR nobody)",
        "-outcome:denied",
        "action:trail.*",
        "INV-1",
        f"id:{everything[4].event.id}",
    ):
        found = list(reader.matches(text))
        query = Query.parse(text)
        expected = [item for item in inside if query.matches(item.entry, item.event)]
        assert len(found) == len(seen(found, scope))
        # What is read meanwhile makes the custody stream grow.
        assert _recorded(expected) == _recorded(found)


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_asked_for_by_its_name_is_not_there(
    trail: Trail, everything: list[Item], scope: Scope, tmp_path: Path
) -> None:
    """By its id or its place an entry outside is found as little as one that never was."""
    reader = reader_of(trail, scope)
    inside = places(seen(everything, scope))

    for number, item in enumerate(everything):
        event_id = item.event.id
        if (item.log, item.index) in inside:
            assert item.leaf_hash == reader.get(event_id).leaf_hash
            assert item.leaf_hash == reader.at(item.log, item.index).leaf_hash
            assert item.index == reader.prove(event_id)[1].index
            continue
        for ask in (
            partial(reader.get, event_id),
            partial(reader.at, item.log, item.index),
            partial(reader.prove, event_id),
            partial(reader.disclose, event_id, tmp_path / f"{number}"),
        ):
            with pytest.raises(NotFound):
                ask()


@pytest.mark.parametrize("scope", SCOPES)
def test_history_and_state_are_of_the_part_that_is_seen(
    trail: Trail, everything: list[Item], scope: Scope
) -> None:
    """Two tenants may call their invoices the same: each sees its own."""
    reader = reader_of(trail, scope)
    inside = [
        item for item in seen(everything, scope) if str(item.event.resource) == "invoice:INV-2"
    ]

    assert places(inside) == places(reader.history("invoice:INV-2"))
    done = [item for item in inside if item.event.outcome is Outcome.SUCCESS]
    state = reader.state("invoice:INV-2")
    assert bool(done) == ("amount" in state.values)
    assert places(done) >= places([value.since for value in state.values.values()])
    assert places(inside) >= places([gap.before for gap in state.unexplained])


@pytest.mark.parametrize("scope", SCOPES)
def test_only_what_is_in_the_scope_is_counted(
    trail: Trail, everything: list[Item], scope: Scope
) -> None:
    """By the index or by reading: no number says anything of the rest."""
    reader = reader_of(trail, scope)
    inside = [item for item in seen(everything, scope) if item.stream != CUSTODY]
    asked = "action:invoice.*"

    counted = reader.count(asked, top=100)
    by_index = reader.facets(asked, top=100)

    for facets in (by_index, counted.facets):
        for field in ("actor", "action", "resource", "outcome"):
            facet = facets[field]
            names = [str(getattr(item.event, field)) for item in inside]
            assert {name: names.count(name) for name in names} == dict(facet.counts)
            assert (len(inside), 0) == (facet.total, facet.withheld)
    assert counted.whole


@pytest.mark.parametrize("scope", SCOPES)
def test_an_actor_is_known_by_what_is_in_the_scope(
    trail: Trail, everything: list[Item], scope: Scope
) -> None:
    """When somebody was seen first and last, the others' entries do not say."""
    reader = reader_of(trail, scope)
    inside = [item for item in seen(everything, scope) if str(item.event.actor) == "user:bob"]

    if not inside:
        with pytest.raises(NotFound):
            reader.actor("user:bob")
        return
    found = reader.actor("user:bob", recent=3)

    ordered = sorted(inside, key=lambda item: item.place)
    assert ordered[0].leaf_hash == found.first.leaf_hash
    assert [item.leaf_hash for item in ordered[:-4:-1]] == [each.leaf_hash for each in found.recent]
    assert len(inside) == found.counted.facets["action"].total


@pytest.mark.parametrize("scope", SCOPES)
def test_a_feed_leaves_out_what_is_not_seen_and_moves_on(
    trail: Trail, everything: list[Item], scope: Scope
) -> None:
    """Whoever follows a log gets each entry of its own once, and never waits for others'."""
    reader = reader_of(trail, scope)

    for log in STREAMS:
        if not scope.sees_stream(log):
            with pytest.raises(NotFound):
                reader.feed(log)
            continue
        inside = [item for item in seen(everything, scope) if item.log == log]
        after = -1
        found: list[Item] = []
        while (portion := reader.feed(log, after=after, limit=2)).after > after:
            after = portion.after
            found += portion.items

        assert [item.index for item in inside] == [item.index for item in found]
        assert 17 == after


@pytest.mark.parametrize("scope", SCOPES)
def test_trees_are_those_of_the_streams_that_are_seen(trail: Trail, scope: Scope) -> None:
    """Hashes say nothing of tenants, and bundles are for nobody who is limited to one."""
    reader = reader_of(trail, scope)

    for log in (*STREAMS, "nothing"):
        if log in STREAMS and scope.sees_stream(log):
            assert 18 == reader.head(log).size
            assert 17 * 32 == len(reader.tile(log, 0, 0, 17))
            assert reader.consistency(log, 3, 18)
            if scope.tenant is None:
                entries = decode_bundle(reader.bundle(log, 0, 18))
                assert list(range(18)) == [Entry.from_bytes(each).index for each in entries]
            else:
                with pytest.raises(Forbidden):
                    reader.bundle(log, 0, 18)
            continue
        for ask in (
            partial(reader.head, log),
            partial(reader.tile, log, 0, 0, 17),
            partial(reader.consistency, log, 3, 18),
        ):
            with pytest.raises(NotFound):
                ask()


@pytest.mark.parametrize("scope", SCOPES)
def test_what_needs_the_whole_trail_is_not_answered_in_part(trail: Trail, scope: Scope) -> None:
    """Half of what is held about somebody would look like all of it."""
    reader = reader_of(trail, scope)

    with pytest.raises(Forbidden):
        reader.subject("user:alice")


def test_a_stream_outside_is_named_by_no_error(trail: Trail) -> None:
    """Whoever guesses the name of a stream does not learn that there is one."""
    reader = reader_of(trail, Scope(streams=("user",)))

    with pytest.raises(UnknownStream) as asked:
        reader.search("stream:admin")
    with pytest.raises(UnknownStream) as followed:
        next(reader.follow("admin"))
    with pytest.raises(NotFound) as fed:
        reader.feed("admin")

    for refused in (asked, followed, fed):
        assert "expected one of user" in str(refused.value)
        assert "custody" not in str(refused.value)


def test_whoever_follows_sees_its_own_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, and of each stream that it may see."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "audit", origin="audit.example.com/follow") as audit:
        audit.record("invoice.pay", actor="user:alice", resource="invoice:1", tenant="shop")
        followed: list[Item] = []
        reader = reader_of(audit, Scope(streams=("user", "admin"), tenant="shop"))
        follower = reader.follow(poll=0.01)
        thread = Thread(target=lambda: followed.extend(islice(follower, 2)))
        thread.start()
        while thread.is_alive() and len(followed) < 2:
            for tenant, stream in (("billing", "user"), ("shop", "auth"), ("shop", "admin")):
                audit.record(
                    "invoice.pay",
                    actor="user:alice",
                    resource="invoice:2",
                    tenant=tenant,
                    stream=stream,
                )
            thread.join(0.05)

    assert {("admin", "shop")} == {(item.stream, item.event.tenant) for item in followed}


def test_evidence_shows_no_entry_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a value was erased is proven with custody entries, which are not of one tenant."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "audit", origin="audit.example.com/evidence") as audit:
        events = [
            audit.record(
                "invoice.pay",
                actor=f"user:{name}",
                resource=f"invoice:{name}",
                changes={"amount": (1, 2)},
                tenant="shop",
            ).id
            for name in ("alice", "bob")
        ]
        plan = audit.plan_erasure("user:alice", basis="art17-1a")
        audit.erase(Consent(plan=plan.to_bytes(), approvals=(audit.approve(plan),)))
        reader = reader_of(audit, Scope(tenant="shop"))

        shown = reader.disclose(events[1], tmp_path / "bob")

        assert shown is not None
        with pytest.raises(Forbidden):
            reader.disclose(events[0], tmp_path / "alice")
        assert audit.reader(Viewer()).disclose(events[0], tmp_path / "alice") is not None


def test_what_another_process_has_erased_is_known_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the trail open for long raises no alarm about what was rightly removed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "audit", origin="audit.example.com/erased") as audit:
        for name in ("alice", "bob"):
            audit.record("invoice.pay", actor=f"user:{name}", resource="invoice:1")
        states = []
        for name in ("alice", "bob"):
            with indelible.open(tmp_path / "audit") as other:
                plan = other.plan_erasure(f"user:{name}", basis="art17-1a")
                other.erase(Consent(plan=plan.to_bytes(), approvals=(other.approve(plan),)))
            states.append([item.states["/actor/id"].value for item in audit.search().items])

    assert [["OPEN", "ERASED"], ["ERASED", "ERASED"]] == states


def test_counts_read_no_more_than_they_may(trail: Trail) -> None:
    """Also where nothing matches; and they say that there may be more."""
    reader = trail.reader(Viewer())

    some = reader.count("-action:invoice.pay", fields=("action",), most=20)
    none = reader.count("nothing-has-this-text", most=20)

    assert (False, False) == (some.whole, none.whole)
    assert 0 < some.facets["action"].total <= 20
    assert 0 == none.facets["actor"].total
    with pytest.raises(InvalidQuery):
        reader.state("invoice:INV-1", most=3)


def test_a_cursor_is_of_one_reader(trail: Trail) -> None:
    """Another caller's cursor, or the process's own, leads nowhere."""
    own, other = trail.reader(Viewer()), reader_of(trail, Scope(tenant="shop"))
    mine = trail.reader(Viewer(), Caller(id="1a", name="mine", role=OWNER))
    cursor = mine.search(limit=5).cursor

    for reader in (own, other):
        with pytest.raises(InvalidCursor):
            reader.search(limit=5, cursor=cursor)
    assert mine.search(limit=5, cursor=cursor).items


def test_a_log_has_no_entries_before_or_behind_it(trail: Trail) -> None:
    """Whoever asks with an index that never was is told, rather than left to wait."""
    reader = trail.reader(Viewer())

    for after, limit in ((-2, 10), (18, 10), (0, 0), (0, 1_001)):
        with pytest.raises(InvalidQuery):
            reader.feed("user", after=after, limit=limit)
    for first, second in ((3, 2), (-1, 3), (3, 19)):
        with pytest.raises(InvalidQuery):
            reader.consistency("user", first, second)
    for level, n, width in ((0, 0, 19), (1, 0, 1), (0, 1, 1)):
        with pytest.raises(NotFound):
            reader.tile("user", level, n, width)
    with pytest.raises(NotFound):
        reader.bundle("user", 0, 19)
    portion = reader.feed("admin", after=17)
    assert (17, ()) == (portion.after, portion.items)


# ---- What is said of it ----


def said(trail: Trail, action: str) -> list[dict[str, Any]]:
    """Return what the custody stream says that was read or opened."""
    asked = Query(stream=CUSTODY, action=action, newest_first=False)
    with trail.store.read() as view:
        opener = trail.vault.opener(Viewer(), trail.policy)
        return [
            {
                **dict(item.event.data or {}),
                "rationale": item.event.rationale and item.event.rationale.text,
            }
            for item in matches(view, asked, opener)
        ]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make a trail of three entries that nobody has read."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with indelible.open(tmp_path / "audit", origin="audit.example.com/said") as audit:
        for name in ("alice", "bob", "carol"):
            audit.record("invoice.pay", actor=f"user:{name}", resource="invoice:1", tenant="shop")
        yield audit


def _full(store: Store) -> Faulty:
    return Faulty(store, False, False, error=lambda: StoreFull("disk: is full"))


def test_whoever_reads_is_named_with_role_and_purpose(fresh: Trail) -> None:
    """The first time at once, and what comes after it when the trail is closed."""
    reader = reader_of(fresh, Scope(tenant="shop"), "auditor", purpose="yearly audit")

    reader.search("actor:user:alice")
    after_one = said(fresh, READ), said(fresh, OPENED)
    reader.search()
    reader.get(fresh.search(limit=1).items[0].event.id)
    fresh.openings.say(final=True)

    who = {"role": "auditor", "caller": "0f", "name": "the shop", "rationale": "yearly audit"}
    assert [{**who, "entries": 1, "times": 1, "query": "actor:user:alice"}] == after_one[0]
    assert [{**who, "entries": 1, "times": 1, "query": "actor:user:alice"}] == after_one[1]
    assert (4, 2) == (said(fresh, READ)[1]["entries"], said(fresh, READ)[1]["times"])
    assert 2 == len(said(fresh, READ))


def test_a_reader_that_opens_nothing_is_named_all_the_same(fresh: Trail) -> None:
    """A collector's callers are recorded when they read what everybody may see, too."""
    reader = reader_of(fresh, Scope(), "reader")

    reader.search()

    assert [3] == [each["entries"] for each in said(fresh, READ)]
    assert [] == said(fresh, OPENED)


def test_nothing_is_said_of_a_feed_that_had_nothing(fresh: Trail) -> None:
    """Whoever waits reads nothing; and what it is told does not feed what it follows."""
    reader = reader_of(fresh, Scope(), "auditor")

    reader.feed("user", after=2)
    before = said(fresh, READ)
    reader.feed(CUSTODY)
    reader.feed(CUSTODY)

    assert [] == before
    assert 1 == len(said(fresh, READ))


def test_what_a_reader_took_before_it_stopped_is_said(fresh: Trail) -> None:
    """Whoever breaks off an export has read what it had by then."""
    reader = reader_of(fresh, Scope(), "auditor")
    taken = reader.matches("action:invoice.*")

    next(taken)
    next(taken)
    taken.close()  # type: ignore[attr-defined]

    assert [2] == [each["entries"] for each in said(fresh, READ)]


def test_a_role_sees_nothing_that_cannot_be_recorded(fresh: Trail) -> None:
    """A full disk stops a caller's reading; the owner, who has the keys, goes on."""
    fresh.store = _full(fresh.store)
    reader = reader_of(fresh, Scope(), "auditor")

    with pytest.raises(StoreFull):
        reader.search()
    assert 3 == len(fresh.reader(Viewer()).search().items)


def test_a_closed_trail_is_not_read(fresh: Trail) -> None:
    """Every method says so, rather than whatever the store says."""
    reader = fresh.reader(Viewer())
    fresh.close()

    for ask in (
        reader.search,
        partial(reader.head, "user"),
        partial(reader.feed, "user"),
        lambda: next(reader.follow()),
    ):
        with pytest.raises(TrailClosed):
            ask()


ALICE = Reading(action=READ, role="auditor", caller="0a", name="alice")
BOB = Reading(action=READ, role="auditor", caller="0b", name="bob")


def test_each_reader_is_named_once_an_hour(fresh: Trail) -> None:
    """However often it comes; and what others have left unsaid is said along with it."""
    openings = Openings(fresh)

    for at, reading in ((0, ALICE), (1, ALICE), (2, BOB), (3, ALICE), (HOUR + 1, BOB)):
        openings.add(reading, 10, f"at {at}")
        openings.say(now=float(at))
    openings.add(ALICE, 1, "last")
    openings.say(final=True, now=HOUR + 2)

    assert [
        ("alice", 10, 1, "at 0"),
        ("bob", 10, 1, "at 2"),
        ("alice", 20, 2, "at 3"),
        ("alice", 1, 1, "last"),
        ("bob", 10, 1, f"at {HOUR + 1}"),
    ] == [
        (each["name"], each["entries"], each["times"], each["query"]) for each in said(fresh, READ)
    ]


def test_what_could_not_be_said_is_said_next_time(fresh: Trail) -> None:
    """A disk that was full for a while has cost no opening."""
    openings, store = Openings(fresh), fresh.store
    fresh.store = _full(store)
    openings.add(ALICE, 10, "first", "to look")
    with pytest.raises(StoreFull):
        openings.say(now=0.0)
    fresh.store = store

    openings.add(ALICE, 1, "second", "to look again")
    openings.say(now=1.0)

    (found,) = said(fresh, READ)
    assert (11, 2, "second", "to look; to look again") == (
        found["entries"],
        found["times"],
        found["query"],
        found["rationale"],
    )


def test_nobody_makes_an_entry_grow(fresh: Trail) -> None:
    """Long questions are cut so that they are no other question, and purposes are bounded."""
    openings = Openings(fresh)
    question = " ".join(f"word-{number}" for number in range(1_000))

    openings.add(ALICE, 1, question, "first")
    openings.say(now=0.0)
    for number in range(50):
        openings.add(ALICE, 1, "", f"purpose {number}")
    openings.say(final=True, now=1.0)

    first, second = said(fresh, READ)
    assert len(first["query"]) < 2_100
    with pytest.raises(InvalidQuery):
        Query.parse(first["query"])
    assert (50, 10) == (second["times"], len(second["rationale"].split("; ")))


def test_a_query_is_given_in_one_way(trail: Trail) -> None:
    """Whole or by its fields: of both at once nobody knows what is meant."""
    with pytest.raises(CallerError):
        trail.search("actor:user:alice", action="invoice.pay")


def test_subject_access_of_the_whole_trail_is_answered(trail: Trail) -> None:
    """A caller that is not limited gets it as the owner does, as far as its role sees."""
    reader = reader_of(trail, Scope())

    assert isinstance(reader.subject("user:alice"), Answer)


def test_the_default_policy_leaves_the_tenant_in_clear() -> None:
    """Else nobody who is limited to one would see anything."""
    assert "public" == default().field("/tenant", "user", "invoice").class_
    assert msgspec.structs.asdict(Scope()) == {"streams": (), "tenant": None}
