"""Whoever reads from a collector gets what its role and its limits let it see, and is named."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Signal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest

from indelible.access import PSEUDONYM, Viewer
from indelible.collector.problems import Refusal
from indelible.collector.reading import reader_of
from indelible.collector.state import Collector
from indelible.disclosure import Disclosure, commitment_of
from indelible.document import for_collector
from indelible.event import Actor, Change, Event, Outcome, Resource
from indelible.policy import CUSTODY
from indelible.proof import Proof
from indelible.query import Query, matches
from indelible.rights import Caller
from indelible.seal import unseal
from indelible.trail import Trail
from indelible.views import VIEWS
from indelible.wire import PROBLEM
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpx import Response

    from indelible.views import CuratedView
    from tests.collector.conftest import Served

STREAMS = ("user", "auth", "admin", "producers")
FILE = "document:2026/Q3//plan?"
ROUTES = (
    "/v1/entries",
    "/v1/entries?tenant=billing",
    "/v1/entries?q=of-billing",
    "/v1/resources/invoice/INV-1/history",
    "/v1/resources/invoice/INV-1/state",
    "/v1/facets",
    "/v1/views/denials",
    "/v1/feed/user",
)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Be the collector of two tenants that call their invoices the same."""
    base = tmp_path_factory.mktemp("reading")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        origin = "audit.example.com/collector"
        with Trail.create(base / "trail", origin=origin, policy=for_collector()) as trail:
            for number in range(48):
                tenant = ("shop", "billing")[number % 2]
                trail.record(
                    Event(
                        action=("invoice.approve", "invoice.pay", "auth.login")[number // 2 % 3],
                        outcome=Outcome.DENIED if number % 8 < 2 else Outcome.SUCCESS,
                        actor=Actor(type="service", id=f"of-{tenant}"),
                        resource=Resource(type="invoice", id=f"INV-{number // 2 % 2}"),
                        changes={"amount": Change(old=number, new=number + 1)},
                        tenant=tenant,
                    ),
                    stream=STREAMS[number // 12],
                )
            trail.record("document.read", actor="user:alice", resource=FILE, rationale="PO-99")
            yield Collector(trail, FAST)


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve it in this process."""
    with serving(collector) as served:
        yield served


class Asker:
    """Whoever comes with a token of *role* and asks."""

    def __init__(self, client: Served, collector: Collector, role: str, **limits: Any) -> None:
        self.client = client
        self.headers = bearer(issued(collector, role, **limits))

    def ask(self, path: str, **said: str) -> Response:
        """Return what is answered to whoever comes for a *purpose*, or with a *case*."""
        more = {f"Indelible-{name}".encode(): text.encode() for name, text in said.items()}
        mine = {name.encode(): text.encode() for name, text in self.headers.items()}
        return self.client.get(path, headers={**mine, **more})

    def items(self, path: str) -> list[dict[str, Any]]:
        """Return the entries of all pages, following the links from one to the next."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self.ask(path)
            assert 200 == answer.status_code, answer.text[:300]
            found += answer.json()["items"]
            if "next" not in answer.links:
                return found
            path = answer.links["next"]["url"]


@pytest.fixture(scope="module")
def auditor(client: Served, collector: Collector) -> Asker:
    """Come as an auditor who is limited to nothing."""
    return Asker(client, collector, "auditor")


def problem_of(answer: Response) -> tuple[int, str]:
    """Return status and kind of a problem."""
    assert PROBLEM == answer.headers["content-type"], answer.text[:300]
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def places(items: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return where *items* are."""
    return [(item["integrity"]["log"], item["integrity"]["index"]) for item in items]


# ---- Who may ----


@pytest.mark.parametrize("path", [*ROUTES, "/v1/views", "/v1/actors/service:of-shop"])
@pytest.mark.parametrize(
    ("role", "status"),
    [
        (None, 401),
        ("recorder", 403),
        ("operator", 403),
        ("reader", 200),
        ("auditor", 200),
        ("privacy_officer", 200),
    ],
)
def test_entries_are_for_roles_that_read(
    client: Served, collector: Collector, path: str, role: str | None, status: int
) -> None:
    """Whoever records or operates gets none, and a stranger is told nothing."""
    if role is None:
        answer = client.get(path)
    else:
        limits = {"producer": "shop.example.com"} if role == "recorder" else {}
        answer = Asker(client, collector, role, **limits).ask(path)

    assert status == answer.status_code
    assert (status == 200) or "of-billing" not in answer.text


def test_who_does_not_see_people_may_not_search_for_them(
    client: Served, collector: Collector, auditor: Asker
) -> None:
    """Whoever finds by a name knows it; and an answer shows what stands for it alone."""
    reader = Asker(client, collector, "reader")
    (read,) = reader.items("/v1/entries?action=document.read")
    (audited,) = auditor.items("/v1/entries?action=document.read")

    for path in ("/v1/entries?actor=user:alice", "/v1/actors/user:alice"):
        assert (403, "forbidden") == problem_of(reader.ask(path))
    assert ("[masked]", "alice") == (read["event"]["actor"]["id"], audited["event"]["actor"]["id"])
    assert {"/actor/id": "WITHHELD", "/rationale": "WITHHELD"} == read["redactions"]
    assert "redactions" not in audited
    assert {"/actor/id": "OPEN", "/rationale": "OPEN"} == audited["values"]
    assert "alice" not in reader.ask("/v1/facets").text


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "limits",
    [{"tenant": "shop"}, {"streams": ("user",), "tenant": "shop"}, {"streams": ("auth",)}],
)
def test_what_is_of_others_is_not_there(
    client: Served, collector: Collector, auditor: Asker, path: str, limits: dict[str, Any]
) -> None:
    """No route shows or counts an entry of another tenant, or of a stream that is not named."""
    asker = Asker(client, collector, "auditor", **limits)
    answer = asker.ask(path)

    if "streams" not in limits or "user" in limits["streams"] or "/feed/" not in path:
        assert 200 == answer.status_code
    if "tenant" in limits:
        assert "billing" not in answer.text
    if "streams" in limits:
        for item in answer.json().get("items", ()):
            assert item["stream"] in limits["streams"]
    total = len(auditor.items("/v1/entries?stream=user&stream=auth&stream=admin&stream=producers"))
    facets = asker.ask("/v1/facets?stream=user" if "user" in str(limits) else "/v1/facets").json()
    assert 0 < facets["facets"]["action"]["total"] <= total // 2


def test_an_entry_of_another_tenant_is_as_one_that_never_was(
    client: Served, collector: Collector, auditor: Asker
) -> None:
    """The same status and the same words, whatever is asked of it."""
    others = auditor.items("/v1/entries?tenant=billing&stream=user")[0]["id"]
    nothing = others[:-6] + "000000"
    shop = Asker(client, collector, "auditor", tenant="shop")

    for suffix in ("", "/proof"):
        hidden, missing = (shop.ask(f"/v1/entries/{each}{suffix}") for each in (others, nothing))
        assert (404, "not-found") == problem_of(hidden) == problem_of(missing)
        assert missing.text == hidden.text.replace(others, nothing)
    assert (404, "not-found") == problem_of(shop.ask("/v1/actors/service:of-billing"))
    assert [] == shop.items("/v1/entries?actor=service:of-billing")


def test_a_stream_that_is_not_named_is_as_one_that_never_was(
    client: Served, collector: Collector
) -> None:
    """Neither in what is found nor in what is said of what may be asked for."""
    asker = Asker(client, collector, "auditor", streams=("user",))

    for stream in ("admin", "never"):
        answer = asker.ask(f"/v1/entries?stream={stream}")
        assert (404, "unknown-stream") == problem_of(answer)
        assert f"stream: found '{stream}', expected one of user" == answer.json()["detail"]
        assert (404, "not-found") == problem_of(asker.ask(f"/v1/feed/{stream}"))


# ---- What is asked ----


@pytest.mark.parametrize(
    "path",
    [
        "/v1/entries?actr=user:alice",
        "/v1/entries?q=actr:alice",
        "/v1/entries?q=%22never+closed",
        "/v1/entries?q=%22never&actor=closed%22",
        "/v1/entries?actor=alice",
        "/v1/entries?action=invoice.approve&q=action:invoice.pay",
        "/v1/entries?outcome=good",
        "/v1/entries?since=yesterday",
        "/v1/entries?since=2026-02-30",
        "/v1/entries?since=2026-02-02&until=2026-01-01",
        "/v1/entries?time=local",
        "/v1/entries?order=random",
        "/v1/entries?limit=0",
        "/v1/entries?limit=1001",
        "/v1/entries?limit=many",
        "/v1/entries?cursor=abc",
        "/v1/entries?actor=",
        "/v1/entries/not-an-id",
        "/v1/entries/01a20e8b-4be0-7314-9cf8-daf54a4b79bc?full=1",
        "/v1/facets?fields=summary",
        "/v1/facets?top=-1",
        "/v1/facets?limit=3",
        "/v1/views/denials?q=more",
        "/v1/views?limit=3",
        "/v1/actors/alice",
        "/v1/actors/service:*",
        "/v1/resources/invoice/*/history",
        "/v1/resources/invoice/INV-1/state?at=then",
        "/v1/resources/invoice/INV-1/history?until=then",
        "/v1/feed/user?wait=61",
        "/v1/feed/user?after=-2",
        "/v1/feed/user?after=100000",
        "/v1/feed/user?limit=0",
        "/v1/feed/user?from=0",
    ],
)
def test_what_means_nothing_is_refused(auditor: Asker, path: str) -> None:
    """A condition that is misspelt is no condition that everything fulfils."""
    answer = auditor.ask(path)

    assert 400 == problem_of(answer)[0]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("actor=service:of-shop&actor=user:alice", "actor:(service:of-shop OR user:alice)"),
        ("action=invoice.*&outcome=denied", "action:invoice.* outcome:denied"),
        ("resource=invoice:INV-1&tenant=shop", "resource:invoice:INV-1 tenant:shop"),
        ("stream=auth&order=oldest", "stream:auth order:oldest"),
        (f"resource={quote(FILE)}", f"resource:{FILE}"),
        ("q=-outcome:success&action=auth.login", "-outcome:success action:auth.login"),
        ("since=2026-01-01&until=2126-01-01", "since:2026-01-01 until:2126-01-01"),
        ("since=2126-01-01", "since:2126-01-01"),
        (
            "time=occurred&since=2026-01-01&until=2026-01-02",
            "occurred_since:2026-01-01 occurred_until:2026-01-02",
        ),
        ("producer=shop.example.com/user", "producer:shop.example.com/user"),
    ],
)
def test_parameters_and_text_are_one_query(
    auditor: Asker, collector: Collector, path: str, query: str
) -> None:
    """What may be said by name may be said as text, and finds the same."""
    named = auditor.items(f"/v1/entries?{path}&limit=5")

    assert named == auditor.items(f"/v1/entries?q={quote(query)}&limit=1000")
    found = collector.trail.search(query, limit=1_000).items
    assert [item.event.id for item in found] == [each["id"] for each in named]


def test_a_cursor_goes_on_with_its_own_query_for_its_own_caller(
    client: Served, collector: Collector, auditor: Asker
) -> None:
    """It is worth nothing to others, and to nobody who changed it."""
    cursor = auditor.ask("/v1/entries?limit=5&tenant=shop").json()["cursor"]
    forged = f"{'B' if cursor.startswith('A') else 'A'}{cursor[1:]}"
    other = Asker(client, collector, "auditor")
    mine = f"/v1/entries?limit=5&tenant=shop&cursor={cursor}"

    assert 200 == auditor.ask(mine).status_code
    for answer in (
        auditor.ask(f"/v1/entries?limit=5&tenant=billing&cursor={cursor}"),
        auditor.ask(f"/v1/entries?limit=5&tenant=shop&cursor={forged}"),
        auditor.ask(f"/v1/entries?limit=5&tenant=shop&order=oldest&cursor={cursor}"),
        other.ask(mine),
    ):
        assert (400, "invalid-cursor") == problem_of(answer)


def test_all_pages_hold_each_entry_once_while_others_write(
    collector: Collector, auditor: Asker
) -> None:
    """What is recorded meanwhile shifts no page."""
    path = "/v1/entries?stream=auth&stream=admin&limit=3"
    before = places(auditor.items(path))
    stop = Signal()

    def write() -> int:
        count = 0
        while not stop.is_set():
            collector.trail.record(
                "auth.login", actor="service:of-shop", resource="session:1", stream="auth"
            )
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        first = auditor.ask(path)
        rest = auditor.items(first.links["next"]["url"])
        stop.set()
        assert writing.result() > 0

    found = places(first.json()["items"] + rest)
    assert len(found) == len(set(found))
    assert [place for place in found if place in set(before)] == before


# ---- What is answered ----


def test_an_item_proves_itself(collector: Collector, auditor: Asker) -> None:
    """Its exact bytes have its leaf hash, and the log's signed checkpoint covers them."""
    (item,) = auditor.items("/v1/entries?action=document.read")
    answer = auditor.ask(f"/v1/entries/{item['id']}/proof")

    proof = Proof.from_bytes(answer.content)
    found = collector.trail.get(item["id"])
    assert "text/plain" in answer.headers["content-type"]
    assert item["integrity"]["index"] == proof.index
    proof.verify(found.entry.to_bytes(), [collector.trail.verifier_key("user")])
    assert found.leaf_hash.hex() == item["integrity"]["leaf_hash"]
    assert item == auditor.ask(f"/v1/entries/{item['id']}").json()
    assert found.entry.to_bytes() in auditor.ask(f"/v1/entries/{item['id']}").content


@pytest.mark.parametrize("role", ["reader", "auditor", "privacy_officer"])
@pytest.mark.parametrize("path", ["entries?stream=user", "feed/user", "views/denials"])
def test_values_that_are_shown_are_proven_and_no_others(
    client: Served, collector: Collector, role: str, path: str
) -> None:
    """Each item carries what opens what it shows, and of the rest but hashes with salt in them."""
    items = Asker(client, collector, role).ask(f"/v1/{path}").json()["items"]

    for item in items:
        clear = unseal(msgspec.json.encode(item["entry"]["event"]))
        leaves = []
        for committed, given in zip(clear.committed, item.get("disclosures", ()), strict=True):
            is_open = item["values"][committed] == "OPEN"
            assert is_open == isinstance(given, list)
            if is_open:
                opened = Disclosure.from_bytes(msgspec.json.encode(given))
                assert committed == opened.path
                leaves.append(opened.leaf)
            else:
                leaves.append(urlsafe_b64decode(f"{given}="))
        if clear.commitment is not None:
            assert urlsafe_b64decode(f"{clear.commitment}=") == commitment_of(leaves)
    assert any(item.get("values") for item in items)


def test_a_resource_has_its_history_and_its_state(client: Served, collector: Collector) -> None:
    """Page by page, the oldest first; and its state at a time is blamed on an entry."""
    path = "/v1/resources/invoice/INV-1"
    officer = Asker(client, collector, "privacy_officer")
    history = officer.items(f"{path}/history?limit=5")
    done = [each for each in history if each["event"]["outcome"] == "success"]
    early = quote(done[3]["recorded_at"])

    state, before = (officer.ask(f"{path}/state{at}").json() for at in ("", f"?at={early}"))

    assert 24 == len(history)
    assert sorted(history, key=lambda each: each["recorded_at"]) == history
    assert done[-1]["id"] == state["values"]["amount"]["since"]
    assert done[3]["id"] == before["values"]["amount"]["since"]
    assert {"field", "after", "before"} <= state["unexplained"][0].keys()
    assert 3 == len(officer.items(f"{path}/history?until={quote(history[3]['recorded_at'])}"))
    assert (404, "not-found") == problem_of(officer.ask(f"{path}/blame"))


@pytest.mark.parametrize("named", [quote(FILE.partition(":")[2], safe=""), "2026/Q3//plan%3F"])
def test_an_id_may_hold_slashes(auditor: Asker, named: str) -> None:
    """Written as such or as %2F, none of them is lost."""
    history = auditor.items(f"/v1/resources/document/{named}/history")

    assert ["2026/Q3//plan?"] == [each["event"]["resource"]["id"] for each in history]


def test_an_actor_is_known_by_what_it_did(auditor: Asker) -> None:
    """When it was seen first and last, what it did how often, and what it did last."""
    found = auditor.ask("/v1/actors/service:of-billing").json()
    everything = auditor.items("/v1/entries?actor=service:of-billing&order=oldest")

    assert [each["recorded_at"] for each in (everything[0], everything[-1])] == [
        found["first_seen"],
        found["last_seen"],
    ]
    assert {"invoice.approve": 8, "invoice.pay": 8, "auth.login": 8} == {
        each["value"]: each["count"] for each in found["actions"]["counts"]
    }
    assert everything[:-11:-1] == found["recent"]


def test_facets_count_what_matches(auditor: Asker) -> None:
    """The most frequent values first, of the fields that are asked for."""
    found = auditor.ask("/v1/facets?action=invoice.*&fields=action,outcome&top=1").json()["facets"]

    assert {"action", "outcome"} == set(found)
    assert {
        "counts": [{"value": "invoice.approve", "count": 16}],
        "distinct": 2,
        "total": 32,
    } == found["action"]


def test_counts_are_capped_and_say_so(collector: Collector, auditor: Asker) -> None:
    """No question makes the collector count a whole log."""
    event = Event(
        action="page.view",
        outcome=Outcome.SUCCESS,
        actor=Actor(type="system", id="web"),
        resource=Resource(type="page", id="1"),
    )
    events = [
        Event(**{name: getattr(event, name) for name in ("action", "outcome", "actor", "resource")})
        for _ in range(10_001)
    ]
    collector.trail.record_many(events, stream="producers")

    found = auditor.ask("/v1/facets?action=page.*&fields=action").json()["facets"]["action"]

    assert ([{"value": "page.view", "count": 10_000}], True) == (found["counts"], found["gte"])
    answer = auditor.ask("/v1/resources/page/1/state")
    assert 400 == problem_of(answer)[0]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_each_view_is_a_query_that_anyone_can_read(auditor: Asker, view: CuratedView) -> None:
    """Its text is in the language of queries, and the collector answers it."""
    shown = auditor.ask("/v1/views").json()["views"]

    answer = auditor.ask(f"/v1/views/{view.name}?since=2026-01-01&order=oldest&limit=3")

    assert view.query in [each["query"] for each in shown]
    assert Query.parse(Query.parse(view.query).to_text()) == Query.parse(view.query)
    assert 200 == answer.status_code
    assert (404, "not-found") == problem_of(auditor.ask("/v1/views/never"))


def test_views_show_what_they_name(auditor: Asker) -> None:
    """Denials are denials, and who has read the trail is there for who asks."""
    denials = auditor.items("/v1/views/denials")
    reads = auditor.items("/v1/views/reads")

    assert {"denied"} == {each["event"]["outcome"] for each in denials}
    assert {"entries.read"} <= {each["event"]["action"] for each in reads}


# ---- Why, and what is said of it ----


def test_whoever_reads_is_recorded_with_its_purpose(client: Served, collector: Collector) -> None:
    """By id, name and role, with how much it read and why; the first time at once."""
    asker = Asker(client, collector, "privacy_officer", name="bob")

    asker.ask("/v1/entries?action=document.read", purpose="Prüfung 7")

    with collector.trail.store.read() as view:
        opener = collector.trail.vault.opener(Viewer(), collector.trail.policy)
        said = [
            item.event
            for item in matches(view, Query(stream=CUSTODY, action="entries.read"), opener)
            if (item.event.data or {}).get("name") == "bob"
        ]
    (event,) = said
    assert event.rationale is not None
    assert "Prüfung 7" == event.rationale.text
    assert {"entries": 1, "times": 1, "role": "privacy_officer"}.items() <= dict(
        event.data or {}
    ).items()
    assert "action:document.read" == (event.data or {})["query"]


def test_a_case_tells_people_apart_without_naming_them(
    client: Served, collector: Collector
) -> None:
    """Within one case the same pseudonym, in another one another."""
    reader = Asker(client, collector, "reader")

    found = [
        reader.ask("/v1/entries?action=document.read", case=case).json()
        for case in ("case-1", "case-1", "case-2")
    ]

    names = [each["items"][0]["event"]["actor"]["id"] for each in found]
    assert all(name.startswith(PSEUDONYM) for name in names)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("said", ["x" * 1_001, "two\tparts", "\xff\xfe"])
def test_a_purpose_is_a_text(collector: Collector, said: str) -> None:
    """It is kept, so it is to be read by people, and short."""
    caller = Caller(id="0", name="alice", role="auditor")

    for given in ({"purpose": said}, {"case": said}):
        with pytest.raises(Refusal) as refused:
            reader_of(collector, caller, **given)
        assert 400 == refused.value.problem.status
    assert reader_of(collector, caller, purpose="  ").viewer.purpose is None


def test_the_routes_are_documented(auditor: Asker) -> None:
    """Each with its parameters and what it answers, for tools that read OpenAPI."""
    paths = auditor.ask("/schema/openapi.json").json()["paths"]

    parameters = {each["name"] for each in paths["/v1/entries"]["get"]["parameters"]}
    assert {"stream", "actor", "q", "cursor", "Indelible-Purpose"} <= parameters
    for path in ("/v1/facets", "/v1/actors/{actor}", "/v1/feed/{stream}", "/log/{log}/checkpoint"):
        assert path in paths
