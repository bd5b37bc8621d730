"""A role learns nothing of what it may not see, whatever it asks, and by whatever it is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indelible.access import MASK, Viewer
from indelible.box import ValueState
from indelible.cli import output
from indelible.creation import open_keyring
from indelible.custody import private_event
from indelible.errors import CallerError, Forbidden, InvalidCursor
from indelible.event import (
    Actor,
    Approval,
    Change,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Source,
    uuid7,
)
from indelible.facets import facets
from indelible.history import fold, history, state
from indelible.keys import SigningKey
from indelible.log import append
from indelible.policy import (
    COMMITTED,
    CUSTODY,
    OWNER,
    ROLES,
    FieldClass,
    FieldRule,
    Policy,
    Rule,
    Sight,
    Stream,
)
from indelible.query import Query, matches, search
from indelible.seal import seal
from indelible.store import Head
from indelible.stores.memory import MemoryStore
from indelible.subject import answer
from indelible.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from indelible.facets import Facet
    from indelible.keyring import Keyring
    from indelible.query import Item
    from indelible.vault import Opener

NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ORIGIN = "audit.example.com/shop"
TRAIL = "01a20d41-5aab-7da8-a6e3-ec7dc848d72f"
KEYS = {
    log: SigningKey.from_seed(f"{ORIGIN}/{log}", bytes(32)) for log in ("user", "admin", CUSTODY)
}
COUNTED = ("actor", "action", "resource", "outcome", "session")

PUBLIC, INTERNAL, ACCOUNTABLE, PERSONAL, SECRET = FieldClass
PLAIN, MASKED, GRANT, HIDE = Sight


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Keyring]:
    """Make the keys of a vault."""
    path = tmp_path_factory.mktemp("views")
    (path / "keys").mkdir()
    made = open_keyring(path, path / "keys", None, create=True)
    made.create()
    yield made
    made.close()


@dataclass
class World:
    """A trail in memory, and the policies that it was under."""

    vault: Vault
    policies: Sequence[Policy]

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        with self.store.write() as transaction:
            for log in KEYS:
                transaction.create(Head(log=log, origin=f"{ORIGIN}/{log}"))

    def record(self, event: Event, *, policy: int = 0, log: str = "user") -> None:
        """Record *event* under one of the policies."""
        rules = self.policies[policy]
        sealed = seal(event, rules.rule_on(event), rules, fingerprint=self.vault.fingerprint)
        self._append(self.vault.enclose(sealed, log), log)

    def opened(self, question: str) -> None:
        """Record that somebody has opened values, by a *question*."""
        event = private_event(
            self.vault, TRAIL, "values.open", role=OWNER, uid=1, entries=1, times=1, query=question
        )
        self._append(event, CUSTODY)

    def _append(self, sealed: Any, log: str) -> None:  # noqa: ANN401 - sealed, whatever it is
        self.vault.keyring.keep(sealed.keys)
        with self.store.write() as transaction:
            head = transaction.heads()[log]
            append(transaction, head, [sealed], KEYS[log], max(NOON, head.recorded_at + 1_000_000))

    def opener(self, viewer: Viewer) -> Opener:
        """Return what opens for *viewer*, under the last policy."""
        return self.vault.opener(
            viewer, self.policies[-1], policies=lambda: reversed(self.policies)
        )


# ---- Two trails that differ in nothing that is seen ----

CLASSES = st.sampled_from(list(FieldClass))
SEARCHES = st.sampled_from([None, None, "exact", "prefix"])
SUBJECTS = st.sampled_from([None, "actor", "resource"])
SIGHTS = st.sampled_from([PLAIN, PLAIN, MASKED, GRANT, HIDE])

PATTERNS = (
    "*",
    "/reason",
    "/actor/id",
    "/actor/id@service",
    "/actor/name",
    "/actor/on_behalf_of",
    "/resource/id",
    "/resource/id@customer",
    "/resource/name",
    "/changes",
    "/changes/*",
    "/changes/email",
    "/data",
    "/data/plan",
    "/rationale",
    "/session",
    "/request",
    "/client/ip",
    "/client/user_agent@customer",
    "/tenant",
    "/approval/approvers",
    "/approval/reference",
    "/source/id",
)

rules = st.builds(
    FieldRule, class_=CLASSES, subject=SUBJECTS, search=SEARCHES, fingerprint=st.booleans()
)
policies = st.dictionaries(st.sampled_from(PATTERNS), rules, max_size=len(PATTERNS)).map(
    lambda fields: Policy(
        streams={"user": Stream(), "admin": Stream(), CUSTODY: Stream()},
        rules=(Rule(),),
        fields=fields,
    )
)
sights = st.fixed_dictionaries(dict.fromkeys(COMMITTED, SIGHTS))

IDS = ["alice", "bob", "carol", "p-alice", "[masked]", "[withheld]", "4111111111111111"]
WORDS = ["late", "late again", "[masked]", "withheld", "alice", "user:alice", "xylophone", "p-q"]
ADDRESSES = ["203.0.113.9", "203.0.113.77", "198.51.100.1", "2001:db8::1", "none"]

ids, words, addresses = (st.sampled_from(each) for each in (IDS, WORDS, ADDRESSES))


def _pair(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Return two values for one place: what stands there in one trail, and in the other."""
    return st.tuples(values, values)


def _sometimes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any] | None]:
    return st.none() | _pair(values)


someone = st.builds(lambda each: Actor(type="user", id=each), ids)
fields = st.fixed_dictionaries(
    {
        "/reason": _sometimes(words),
        "/actor/id": _pair(ids),
        "/actor/name": _sometimes(words),
        "/actor/on_behalf_of": _sometimes(someone),
        "/resource/id": _pair(ids),
        "/resource/name": _sometimes(words),
        "/changes/email": _sometimes(st.builds(Change, words, words)),
        "/changes/status": _sometimes(st.builds(Change, words, words)),
        "/data/plan": _sometimes(words),
        "/data/other": _sometimes(st.lists(words, max_size=2)),
        "/rationale": _sometimes(
            st.builds(lambda text, code: Rationale(text=text, code=code), words, st.none() | ids)
        ),
        "/session": _sometimes(ids),
        "/request": _sometimes(ids),
        "/client/ip": _sometimes(addresses),
        "/client/user_agent": _sometimes(words),
        "/tenant": _sometimes(ids),
        "/approval/approvers": _sometimes(ids.map(lambda each: (each,))),
        "/approval/reference": _sometimes(words),
        "/source/id": _sometimes(ids),
    }
)


@dataclass(frozen=True)
class Twin:
    """An event, and the same with other values where they are hidden."""

    actor: str
    resource: str
    action: str
    outcome: Outcome
    policy: int
    log: str
    fields: dict[str, tuple[Any, Any] | None]

    def event(self, number: int, hides: Callable[[str], bool], *, other: bool) -> Event:
        """Return the one or the *other*; they differ in the fields that *hides* is true of."""
        given = {
            path: pair[1 if other and hides(path) else 0]
            for path, pair in self.fields.items()
            if pair is not None
        }

        def below(container: str) -> dict[str, Any] | None:
            found = {
                path.rsplit("/", 1)[1]: value
                for path, value in given.items()
                if path.startswith(f"{container}/")
            }
            return found or None

        actor, resource = below("/actor") or {}, below("/resource") or {}
        client, approval, source = below("/client"), below("/approval"), below("/source")
        return Event(
            id=uuid7(NOON * 1_000 + number, bytes(10)),
            occurred_at=datetime.fromtimestamp(NOON / 1e6, UTC) + timedelta(seconds=number),
            action=self.action,
            outcome=self.outcome,
            reason=given.get("/reason"),
            actor=Actor(type=self.actor, **actor),  # type: ignore[arg-type]
            resource=Resource(type=self.resource, **resource),
            changes=below("/changes"),
            data=below("/data"),
            rationale=given.get("/rationale"),
            session=given.get("/session"),
            request=given.get("/request"),
            client=None if client is None else Client(**client),
            tenant=given.get("/tenant"),
            approval=None if approval is None else Approval(n=1, distinct=True, **approval),
            source=None if source is None else Source(format="jsonl", **source),
        )


twins = st.builds(
    Twin,
    actor=st.sampled_from(["user", "service"]),
    resource=st.sampled_from(["customer", "user"]),
    action=st.sampled_from(["customer.read", "customer.update", "user.update"]),
    outcome=st.sampled_from([Outcome.SUCCESS, Outcome.DENIED]),
    policy=st.sampled_from([0, 1]),
    log=st.sampled_from(["user", "user", "admin"]),
    fields=fields,
)

named = st.builds(
    lambda kind, each: f"{kind}:{each}",
    st.sampled_from(["user", "service", "customer"]),
    st.sampled_from([*IDS, "*"]),
)
actors = named.filter(lambda name: not name.startswith("customer"))


def _query(asked: dict[str, Any]) -> Query:
    return Query(**asked)


questions = st.fixed_dictionaries(
    {},
    optional={
        "actor": actors,
        "resource": named,
        "without_actor": actors,
        "without_resource": named,
        "action": st.sampled_from(["customer.*", "user.update"]),
        "outcome": st.sampled_from(["success", "denied"]),
        "session": ids,
        "ip": st.sampled_from(["203.0.113.9", "203.0.113.0/24", "2001:db8::/48"]),
        "value": st.builds(
            lambda path, text: f"{path}={text}",
            st.sampled_from(
                ["/changes/email", "/data/plan", "/actor/name", "/tenant", "/client/ip"]
            ),
            st.one_of(words, ids, addresses),
        ),
        "text": st.one_of(words, ids).map(lambda word: (word,)),
        "newest_first": st.booleans(),
    },
).map(_query)


def hidden(policy: Policy, twin: Twin, viewer: Viewer) -> Callable[[str], bool]:
    """Return what tells whether *viewer* does not see the value at a path of *twin*."""
    known = policy.classification(twin.actor, twin.resource)

    def hides(path: str) -> bool:
        _, container, name = path.split("/", 2) if path.count("/") > 1 else ("", path[1:], "")
        rule = (
            known.below(f"/{container}", name)[1]
            if container in {"changes", "data"}
            else known[path]
        )
        if rule.class_ is SECRET:
            # An id is not kept; but whom the values beside it are about can be asked.
            is_asked = path in {"/actor/id", "/resource/id"} and all(map(viewer.sees, COMMITTED))
            return not (is_asked or (rule.fingerprint and viewer.sees(INTERNAL)))
        return not viewer.sees(rule.class_)

    return hides


def told(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever is answered
    """Return what a call answers, or how it is refused."""
    try:
        return call()
    except CallerError as error:
        return type(error).__name__, str(error)


def shown(item: Item) -> dict[str, Any]:
    """Return all that is shown of an entry, but for what is random."""
    rows = output.item_row(item), sorted(output.item_fields(item))
    whole = msgspec.json.decode(msgspec.json.encode(output.item_json(item)))
    for name in ("commitment", "nonce"):
        whole["sealed"].pop(name, None)
    del whole["leaf_hash"]
    return {
        "json": whole,
        "row": rows[0],
        "fields": [row for row in rows[1] if "hash" not in row[0]],
    }


def everything(world: World, viewer: Viewer, query: Query, about: str) -> list[Any]:
    """Ask a trail all that can be asked, and return all that is answered."""
    answers: list[Any] = []
    with world.store.read() as view:
        opener = world.opener(viewer)
        cursor: str | None = None
        while True:

            def ask(cursor: str | None = cursor) -> Any:  # noqa: ANN401
                return search(view, query, limit=2, cursor=cursor, secret=b"s", opener=opener)

            page = told(ask)
            if isinstance(page, tuple):
                answers.append(page)
                break
            answers += [[shown(item) for item in page.items], page.cursor, page.sizes]
            cursor = page.cursor
            if cursor is None:
                break
        answers += [
            told(partial(facets, view, asked, COUNTED, 3, opener)) for asked in (query, Query())
        ]
        answers.append(told(lambda: [shown(item) for item in history(view, about, opener=opener)]))
        answers.append(told(lambda: _state(state(view, about, opener=opener))))
        answers.append(opener.opened)
        answers.append(told(lambda: _answer(world, viewer, about)))
    return answers


def _state(found: Any) -> Any:  # noqa: ANN401
    return (
        {name: (value.value, shown(value.since)) for name, value in found.values.items()},
        [(gap.field, gap.expected, gap.found) for gap in found.unexplained],
    )


def _answer(world: World, viewer: Viewer, about: str) -> tuple[bytes, str]:
    with world.store.read() as view:
        found = answer(
            view,
            world.vault,
            world.policies[-1],
            world.opener(viewer),
            about,
            trail=TRAIL,
            origin=ORIGIN,
            now=NOW,
        )
    return found.to_json(), found.to_html()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.tuples(policies, policies),
    sees=sights,
    events=st.lists(twins, min_size=1, max_size=5),
    query=questions,
    about=named.filter(lambda name: "*" not in name),
)
def test_two_trails_that_differ_in_hidden_values_only_give_the_same_answers(
    keyring: Keyring,
    rules: tuple[Policy, Policy],
    sees: dict[FieldClass, Sight],
    events: list[Twin],
    query: Query,
    about: str,
) -> None:
    """
    Whoever does not see a value gets nothing that depends on it.

    Not by searching, excluding, counting, sorting, paging, following a resource or asking
    for a person, and not from an error.
    """
    viewer = Viewer(role="somebody", sights=sees)
    vault = Vault(keyring, ORIGIN)
    one, other = World(vault, rules), World(vault, rules)
    for number, twin in enumerate(events):
        hides = hidden(rules[twin.policy], twin, viewer)
        for world in (one, other):
            event = twin.event(number, hides, other=world is other)
            world.record(event, policy=twin.policy, log=twin.log)

    assert everything(one, viewer, query, about) == everything(other, viewer, query, about)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.tuples(policies, policies),
    sees=sights,
    case=st.sampled_from([None, "case-1"]),
    events=st.lists(twins, min_size=1, max_size=5),
)
def test_the_index_counts_what_reading_counts(
    keyring: Keyring,
    rules: tuple[Policy, Policy],
    sees: dict[FieldClass, Sight],
    case: str | None,
    events: list[Twin],
) -> None:
    """However a facet is counted, a role gets the same numbers."""
    viewer = Viewer(role="somebody", sights=sees, case=case)
    world = World(Vault(keyring, ORIGIN), rules)
    for number, twin in enumerate(events):
        event = twin.event(number, lambda _: False, other=False)
        world.record(event, policy=twin.policy, log=twin.log)

    with world.store.read() as view:
        opener = world.opener(viewer)
        by_index = facets(view, Query(), COUNTED, 20, opener)
        # The actor's clock is in no index, so each entry is read.
        since = datetime(1970, 1, 1, tzinfo=UTC)
        by_reading = facets(view, Query(occurred_since=since), COUNTED, 20, opener)

    assert by_reading == by_index


# ---- What roles see ----

FIELDS = {
    "*": FieldRule(class_=PERSONAL),
    "/actor/id": FieldRule(class_=ACCOUNTABLE, subject="actor", search="exact"),
    "/actor/name": FieldRule(class_=ACCOUNTABLE, subject="actor"),
    "/actor/id@service": FieldRule(class_=PUBLIC),
    "/resource/id": FieldRule(class_=PUBLIC),
    "/resource/id@user": FieldRule(class_=ACCOUNTABLE, subject="resource", search="exact"),
    "/resource/id@customer": FieldRule(class_=PERSONAL, subject="resource", search="exact"),
    "/changes/*": FieldRule(class_=PERSONAL, subject="resource", search="exact"),
    "/changes/status": FieldRule(class_=PUBLIC),
    "/rationale": FieldRule(class_=INTERNAL),
    "/session": FieldRule(class_=PERSONAL, subject="actor", search="exact"),
    "/client/ip": FieldRule(class_=PERSONAL, subject="actor", search="prefix"),
}


def policy(**changed: FieldRule) -> Policy:
    """Return the policy of the tests below."""
    return Policy(
        streams={"user": Stream(), CUSTODY: Stream()},
        rules=(Rule(),),
        fields={**FIELDS, **changed},
    )


def event(actor: str, resource: str, number: int = 0, **given: Any) -> Event:
    """Return an event; its values depend on its number."""
    return Event(
        id=uuid7(NOON * 1_000 + number, bytes(10)),
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource.parse(resource),
        changes={"email": Change(f"{number}@example.com", f"{number}@example.org")},
        rationale=Rationale(text=f"asked for by telephone, call {number}"),
        session=f"session-{number}",
        client=Client(ip=f"203.0.113.{number}"),
        **given,
    )


@pytest.fixture
def world(keyring: Keyring) -> World:
    """Make a trail in which alice and bob change customers, and a service an invoice."""
    made = World(Vault(keyring, ORIGIN), [policy()])
    for number, (actor, resource) in enumerate(
        [
            ("user:alice", "customer:carol"),
            ("user:bob", "customer:carol"),
            ("user:alice", "user:alice"),
            ("service:billing", "invoice:7"),
        ]
    ):
        made.record(event(actor, resource, number))
    return made


def as_(role: str, case: str | None = None) -> Viewer:
    """Return the viewer of a role."""
    return Viewer(role=role, sights=ROLES[role], case=case)


def found(world: World, viewer: Viewer, **asked: Any) -> list[Item]:
    """Return what a viewer finds, in the order of the log."""
    with world.store.read() as view:
        query = Query(**asked, newest_first=False)
        return list(matches(view, query, world.opener(viewer)))


def counted(world: World, viewer: Viewer, **asked: Any) -> dict[str, Facet]:
    """Return what a viewer counts."""
    with world.store.read() as view:
        return facets(view, Query(**asked), COUNTED, 10, world.opener(viewer))


@pytest.mark.parametrize(
    ("role", "actor", "resource", "rationale", "session"),
    [
        (OWNER, "user:alice", "customer:carol", "asked for by telephone, call 0", "session-0"),
        ("reader", "user:[masked]", "customer:[withheld]", "[withheld]", "[withheld]"),
        (
            "auditor",
            "user:alice",
            "customer:[withheld]",
            "asked for by telephone, call 0",
            "[withheld]",
        ),
        ("operator", "user:[withheld]", "customer:[withheld]", "[withheld]", "[withheld]"),
    ],
)
def test_each_role_sees_its_classes(
    world: World, role: str, actor: str, resource: str, rationale: str, session: str
) -> None:
    """What a role does not see is masked, by a mask that tells nothing of the value."""
    (seen, *_) = found(world, as_(role))

    assert (actor, resource) == (str(seen.event.actor), str(seen.event.resource))
    assert seen.event.rationale is not None
    assert (rationale, session) == (seen.event.rationale.text, seen.event.session)


@pytest.mark.parametrize(
    "asked",
    [
        {"actor": "user:alice"},
        {"without_actor": "user:alice"},
        {"actor": "user:[masked]"},
        {"resource": "customer:carol"},
        {"without_resource": "customer:nobody"},
        {"session": "session-0"},
        {"ip": "203.0.113.0/24"},
        {"value": "/changes/email=0@example.com"},
        {"value": "/actor/name=alice"},
        {"value": "/resource/id=carol"},
        {"action": "customer.update", "actor": "user:alice"},
    ],
)
def test_who_does_not_see_a_value_may_not_find_by_it(world: World, asked: dict[str, Any]) -> None:
    """A search by a hidden value is refused, whether anything has it or not."""
    for ask in (found, counted):
        with pytest.raises(Forbidden, match=r"^[a-z]+: role reader does not see"):
            ask(world, as_("reader"), **asked)


def test_text_is_looked_for_in_what_is_shown(world: World) -> None:
    """Free text finds no hidden value, and finds masks as what they are."""
    reader = as_("reader")

    assert [] == found(world, reader, text="telephone")
    assert [] == found(world, reader, text="carol")
    assert 3 == len(found(world, reader, text="user:[masked]"))
    assert 4 == len(found(world, as_(OWNER), text="telephone"))


def test_a_value_is_found_whether_or_not_the_index_knows_it(keyring: Keyring) -> None:
    """What stands in clear, or was recorded when it could not be searched, is found by reading."""
    later = policy(
        **{
            "/client/ip": FieldRule(class_=PUBLIC),
            "/session": FieldRule(class_=PERSONAL),
            "/actor/id": FieldRule(class_=ACCOUNTABLE),
            "/changes/*": FieldRule(class_=PERSONAL),
        }
    )
    world = World(Vault(keyring, ORIGIN), [policy(), later])
    for number, under in enumerate((0, 1)):
        plain = event("user:alice", "invoice:7", number)
        same = msgspec.structs.replace(plain, session="s", client=Client(ip="203.0.113.9"))
        world.record(
            msgspec.structs.replace(same, changes={"email": Change("a", "b")}), policy=under
        )
    owner = as_(OWNER)

    for asked in (
        {"ip": "203.0.113.9"},
        {"ip": "203.0.113.0/24"},
        {"session": "s"},
        {"actor": "user:alice"},
        {"value": "/changes/email=b"},
    ):
        assert [0, 1] == [each.index for each in found(world, owner, **asked)]
        assert 2 == counted(world, owner, **asked)["action"].total
    assert {"user:alice": 2} == dict(counted(world, owner)["actor"].counts)


def test_a_hidden_value_is_counted_and_not_told_apart(world: World) -> None:
    """A facet says how many entries have a value that is not shown, and no more."""
    for asked in ({}, {"occurred_since": datetime(1970, 1, 1, tzinfo=UTC)}):
        actors = counted(world, as_("reader"), **asked)["actor"]

        assert (("service:billing", 1),) == actors.counts
        assert (1, 1, 3) == (actors.distinct, actors.total, actors.withheld)


def test_a_value_that_a_policy_hid_stays_hidden_under_the_next(keyring: Keyring) -> None:
    """Loosening a policy opens nothing that was recorded before it."""
    looser = policy(**{"/actor/id": FieldRule(class_=PUBLIC), "/session": FieldRule(class_=PUBLIC)})
    world = World(Vault(keyring, ORIGIN), [policy(), looser])
    world.record(event("user:alice", "invoice:7"), policy=0)
    world.record(event("user:alice", "invoice:7", 1), policy=1)
    reader = as_("reader")

    assert [1] == [each.index for each in found(world, reader, actor="user:alice")]
    assert 1 == counted(world, reader, actor="user:alice")["action"].total
    assert 1 == counted(world, reader, without_actor="user:alice")["action"].total
    assert 0 == counted(world, reader, session="session-0")["action"].total
    assert (1, 1, 1) == _numbers(counted(world, reader)["actor"])


def test_a_secret_in_a_public_field_is_not_counted_for_those_who_do_not_see_it(
    keyring: Keyring,
) -> None:
    """What the net took out of the log is personal, whatever the policy says of its field."""
    world = World(Vault(keyring, ORIGIN), [policy()])
    for number, resource in enumerate(["4111111111111111", "4111111111111111", "5500000000000004"]):
        world.record(event("user:alice", f"card:{resource}", number))
    auditor = as_("auditor")

    assert [] == found(world, auditor, resource="card:4111111111111111")
    assert 0 == counted(world, auditor, resource="card:4111111111111111")["action"].total
    assert (0, 0, 3) == _numbers(counted(world, auditor)["resource"])


def _numbers(facet: Facet) -> tuple[int, int, int]:
    return facet.distinct, facet.total, facet.withheld


def test_an_auditor_does_not_read_personal_values_in_what_others_asked(world: World) -> None:
    """A question is as personal as its answer."""
    world.opened("value:/changes/email=0@example.com")

    (seen,) = found(world, as_("auditor"), stream=CUSTODY)

    assert "[withheld]" == seen.event.data["query"]
    assert "0@example.com" not in repr(seen)


def test_one_role_cannot_go_on_where_another_has_stopped(world: World) -> None:
    """A cursor is of one role and one case: another's is refused."""

    def page(viewer: Viewer, cursor: str | None = None) -> Any:  # noqa: ANN401
        with world.store.read() as view:
            opener = world.opener(viewer)
            return search(view, Query(), limit=1, cursor=cursor, secret=b"s", opener=opener)

    cursor = page(as_(OWNER)).cursor

    assert page(as_(OWNER), cursor).items
    for viewer in (as_("reader"), as_(OWNER, "case-1")):
        with pytest.raises(InvalidCursor, match="another query, role or case"):
            page(viewer, cursor)


def test_a_hidden_change_accuses_nobody_of_a_gap(keyring: Keyring) -> None:
    """Who does not see what was changed meanwhile is not told that something is missing."""
    rest = {"/changes/*": FieldRule(class_=PUBLIC), "/changes": FieldRule(class_=PERSONAL)}
    wide = msgspec.structs.replace(policy(), fields={"*": FIELDS["*"], **rest})
    narrow = msgspec.structs.replace(policy(), fields={"*": FIELDS["*"]})
    world = World(Vault(keyring, ORIGIN), [wide, narrow])
    for number, (old, new, under) in enumerate([("a", "b", 0), ("b", "c", 1), ("c", "d", 0)]):
        changed = msgspec.structs.replace(
            event("service:billing", "invoice:7", number), changes={"status": Change(old, new)}
        )
        world.record(
            msgspec.structs.replace(changed, resource=Resource.parse("invoice:7")), policy=under
        )
    sees = {**dict.fromkeys(COMMITTED, HIDE), ACCOUNTABLE: PLAIN}
    fields_of_all = {
        **world.policies[1].fields,
        "/resource/id": FieldRule(class_=PUBLIC),
    }
    world.policies = [
        *world.policies,
        msgspec.structs.replace(policy(), fields=fields_of_all),
    ]

    with world.store.read() as view:
        items = list(
            matches(view, Query(newest_first=False), world.opener(Viewer(role="x", sights=sees)))
        )

    assert () == fold(items).unexplained
    assert "d" == fold(items).values["status"].value


# ---- Cases ----


def test_within_a_case_people_are_told_apart_and_not_named(world: World) -> None:
    """An analyst counts and follows distinct people by pseudonyms, and learns no name."""
    analyst = as_("reader", "case-1")

    seen = found(world, analyst)
    alice, bob = (str(seen[number].event.actor) for number in (0, 1))

    assert alice.startswith("user:p-")
    assert alice not in {bob, "user:alice"}
    assert alice == str(seen[2].event.actor)
    assert alice == str(seen[2].event.resource)
    assert "customer:[withheld]" == str(seen[0].event.resource)
    assert [0, 2] == [each.index for each in found(world, analyst, actor=alice)]
    assert [1, 3] == [each.index for each in found(world, analyst, without_actor=alice)]
    assert [2] == [each.index for each in found(world, analyst, resource=alice)]
    assert [0, 2] == [each.index for each in found(world, analyst, text=alice)]


def test_within_a_case_pseudonyms_are_counted(world: World) -> None:
    """Facets count distinct people by their pseudonyms, however they are counted."""
    analyst = as_("reader", "case-1")
    alice, bob = (str(found(world, analyst)[number].event.actor) for number in (0, 1))

    for asked in ({}, {"occurred_since": datetime(1970, 1, 1, tzinfo=UTC)}):
        actors = counted(world, analyst, **asked)["actor"]

        assert {alice: 2, bob: 1, "service:billing": 1} == dict(actors.counts)
        assert (3, 4, 0) == _numbers(actors)
    assert 2 == counted(world, analyst, actor=alice)["action"].total
    assert 2 == counted(world, analyst, without_actor=alice)["action"].total


def test_pseudonyms_of_two_cases_have_nothing_in_common(world: World) -> None:
    """Who works on two cases cannot tell by a pseudonym that somebody is in both."""
    names = {
        case: {str(each.event.actor) for each in found(world, as_("reader", case))}
        for case in ("case-1", "case-2", "", "case-1\0")
    }

    shared = [names[one] & names[two] for one in names for two in names if one != two]

    assert [{"service:billing"}] * 12 == shared
    assert {len("user:p-") + 16} == {
        len(name) for each in names.values() for name in each - {"service:billing"}
    }


def test_a_pseudonym_of_one_type_is_none_of_another(keyring: Keyring) -> None:
    """A user and a service of one name are two; so is a name that somebody has for an id."""
    committed = {"/actor/id@service": FieldRule(class_=ACCOUNTABLE, search="exact")}
    world = World(Vault(keyring, ORIGIN), [policy(**committed)])
    world.record(event("user:alice", "invoice:7"))
    world.record(event("service:alice", "invoice:7", 1))
    plain = event("user:alice", "invoice:7", 2)
    world.record(msgspec.structs.replace(plain, actor=Actor(type="user", id="alice", name="alice")))

    user, service, both = (each.event.actor for each in found(world, as_("reader", "c")))

    assert user.id != service.id
    assert user.id == both.id
    assert both.name not in {both.id, "alice"}


def test_a_case_opens_nothing_for_a_role_that_masks_nothing(world: World) -> None:
    """To name a case is no right: an operator sees in it what an operator sees."""
    with_case = [shown(each) for each in found(world, as_("operator", "case-1"))]

    assert [shown(each) for each in found(world, as_("operator"))] == with_case
    assert (1, 1, 3) == _numbers(counted(world, as_("operator", "case-1"))["actor"])


def test_a_real_name_that_looks_like_a_pseudonym_is_not_found(world: World) -> None:
    """Who guesses that somebody is called like a pseudonym learns nothing."""
    world.record(event("user:p-alice", "invoice:7", 9))
    analyst = as_("reader", "case-1")

    assert [] == found(world, analyst, actor="user:p-alice")
    assert 0 == counted(world, analyst, actor="user:p-alice")["action"].total
    assert 5 == counted(world, analyst, without_actor="user:p-alice")["action"].total


def test_what_needs_a_grant_is_withheld_without_one(world: World) -> None:
    """An auditor sees that there is a personal value, and not the value."""
    (seen, *_) = found(world, as_("auditor"))

    assert ValueState.WITHHELD is seen.states["/session"]
    assert ValueState.OPEN is seen.states["/actor/id"]
    assert seen.event.client == Client(ip="[withheld]")
    assert MASK != seen.event.session
