"""What is taken away in a file is what its caller sees, and the trail says what that was."""

from __future__ import annotations

import csv
import importlib.util
import io
import stat
import threading
import time
import zipfile
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from indelible import document, evidence
from indelible.access import Viewer
from indelible.approval import Approval
from indelible.collector.exports import DAY, Exports
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector
from indelible.entry import Entry
from indelible.errors import NotFound
from indelible.event import Actor, Change, Client, Event, Outcome, Rationale, Resource
from indelible.export import COLUMNS, KIND, csv_of, row_of
from indelible.keys import SigningKey
from indelible.plan import Plan
from indelible.policies import Consent
from indelible.rights import Caller
from indelible.shipping import Progress, remember
from indelible.sinks import ecs, ocsf
from indelible.trail import Trail
from indelible.wire import EntryItem, ExportRequest
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from httpx import Response

    from indelible.query import Item
    from tests.collector.conftest import Served

WHY = "audit 2026"
USER = "stream:user order:oldest"
FORMULA = '=HYPERLINK("https://shop.example.com")'
OFFICER = Caller(id="p1", name="an officer", role="privacy_officer")


def event(number: int, **more: Any) -> Event:
    """Return an event with a value of each class."""
    given: dict[str, Any] = {
        "action": "invoice.update",
        "kind": "data_change",
        "outcome": Outcome.SUCCESS,
        "actor": Actor(type="user", id="alice", roles=("staff",)),
        "resource": Resource(type="invoice", id=f"INV-{number}"),
        "changes": {"status": Change("draft", "paid")},
        "rationale": Rationale(text="PO-99"),
        "client": Client(ip="192.0.2.7", user_agent="a browser"),
        "tenant": ("shop", "billing")[number % 2],
        **more,
    }
    return Event(**given)


class Clock:
    """The trail's clock, which can be put forward."""

    def __init__(self) -> None:
        self.passed = 0

    def __call__(self) -> int:
        """Return the time, microseconds since 1970."""
        return time.time_ns() // 1_000 + self.passed


def recorded(trail: Trail) -> Collector:
    """Be a collector with four entries, two of each tenant."""
    trail.record_many([event(number) for number in range(4)], stream="user")
    return Collector(trail, FAST, now=Clock())


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """Be the collector of the tests that only read."""
    base = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with Trail.create(base / "trail", origin="audit.example.com/collector") as trail:
            yield recorded(trail)


@pytest.fixture(scope="module")
def client(collector: Collector) -> Iterator[Served]:
    """Serve it in this process."""
    with serving(collector) as served:
        yield served


@pytest.fixture
def clock(collector: Collector) -> Iterator[Clock]:
    """Be its clock, which can be put forward."""
    clock = collector.now
    assert isinstance(clock, Clock)
    yield clock
    clock.passed = 0


@pytest.fixture
def own(trail: Trail) -> Collector:
    """Be a collector of one test alone."""
    return recorded(trail)


def officer_of(collector: Collector) -> dict[str, str]:
    """Come as somebody who sees everything, and who has not come before."""
    return bearer(issued(collector, "privacy_officer", lasts=30 * DAY))


@pytest.fixture
def officer(collector: Collector) -> dict[str, str]:
    """Come to the collector as such a one."""
    return officer_of(collector)


def ask(client: Served, who: dict[str, str], format_: str = "jsonl", **more: Any) -> Response:
    """Ask for an export of what stands in one stream."""
    body = {"query": USER, "format": format_, "rationale": WHY, **more}
    return client.post("/v1/exports", headers=who, json=body)


def made(client: Served, who: dict[str, str], format_: str = "jsonl", **more: Any) -> Any:  # noqa: ANN401
    """Ask for an export, and return how it stands when it is made."""
    answer = ask(client, who, format_, **more)
    assert 202 == answer.status_code, answer.text
    return settled(client, who, answer.headers["location"])


def settled(client: Served, who: dict[str, str], location: str) -> Any:  # noqa: ANN401
    """Return how an export stands when nothing more becomes of it."""
    deadline = time.monotonic() + 20
    while (shown := client.get(location, headers=who).json())["state"] in {"waiting", "running"}:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    return shown


def taken(client: Served, who: dict[str, str], format_: str = "jsonl", **more: Any) -> bytes:
    """Return the file of an export."""
    shown = made(client, who, format_, **more)
    assert "ready" == shown["state"], shown
    answer = client.get(shown["file"], headers=who)
    assert 200 == answer.status_code
    assert shown["sha256"] == sha256(answer.content).hexdigest()
    return answer.content


def files(collector: Collector, name: str = "") -> list[Path]:
    """Return the files of exports that there are; or those of one."""
    folder = collector.trail.path / "exports"
    return sorted(folder.glob(f"{name}*")) if folder.exists() else []


# ---- What is in the file ----


def test_an_export_has_each_entry_as_it_is_read(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """The same JSON, an entry a line, in the order of the query, with the entry's exact bytes."""
    read = client.get("/v1/entries", headers=officer, params={"q": USER}).json()["items"]

    lines = [msgspec.json.decode(line) for line in taken(client, officer).splitlines()]

    assert read == lines
    kept = [item.entry for item in collector.trail.search(USER).items]
    exact = [
        msgspec.json.decode(line, type=EntryItem).entry
        for line in taken(client, officer).splitlines()
    ]
    assert kept == [Entry.from_bytes(bytes(each)) for each in exact]


def test_an_export_goes_over_many_pages(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """Each entry once, whatever is recorded meanwhile; and it says how many."""
    collector.trail.record_many([event(number) for number in range(1_100)], stream="auth")

    shown = made(client, officer, query="stream:auth")

    content = client.get(shown["file"], headers=officer).content
    indexes = [msgspec.json.decode(line)["integrity"]["index"] for line in content.splitlines()]
    assert (1_100, list(reversed(range(1_100)))) == (shown["entries"], indexes)


@pytest.mark.parametrize("format_", ["jsonl", "csv", "ocsf", "ecs", "evidence"])
def test_an_export_holds_nothing_that_its_caller_does_not_see(
    client: Served, collector: Collector, format_: str
) -> None:
    """An auditor sees no personal values, and none of them is in any file."""
    auditor = bearer(issued(collector, "auditor"))
    query = f"id:{collector.trail.search(USER).items[0].event.id}"

    content = taken(client, auditor, format_, query=query)

    if format_ == "evidence":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"192.0.2.7" not in content
    assert b"a browser" not in content
    assert b"draft" not in content
    assert b"alice" in content


def test_an_export_holds_nothing_that_a_grant_alone_shows(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """A grant is for looking, for a while; a file is for longer."""
    auditor = bearer(issued(collector, "auditor", name="another"))
    body = {"query": USER, "rationale": WHY, "duration": "1h"}
    asked = client.post("/v1/access-requests", headers=auditor, json=body).json()["id"]
    decision = {"approve": True, "rationale": WHY}
    client.post(f"/v1/access-requests/{asked}/decision", headers=officer, json=decision)

    content = taken(client, auditor)

    read = client.get("/v1/entries", headers=auditor, params={"q": USER}).text
    assert "192.0.2.7" in read
    assert b"192.0.2.7" not in content


def test_an_export_holds_nothing_of_another_tenant_or_stream(
    client: Served, collector: Collector
) -> None:
    """What a caller is limited to holds for what it takes away."""
    of_shop = bearer(issued(collector, "privacy_officer", tenant="shop"))
    of_admin = bearer(issued(collector, "privacy_officer", streams=("admin",)))

    lines = [msgspec.json.decode(line)["event"] for line in taken(client, of_shop).splitlines()]

    assert ["shop", "shop"] == [each["tenant"] for each in lines]
    assert 404 == ask(client, of_admin).status_code
    assert b"" == taken(client, of_admin, query="")


# ---- Formats ----


def test_a_table_has_a_row_for_each_entry(client: Served, officer: dict[str, str]) -> None:
    """With a head, and JSON where a cell holds more than one value."""
    content = taken(client, officer, "csv").decode()

    head, *rows = csv.reader(io.StringIO(content, newline=""))
    assert list(COLUMNS) == head
    assert 4 == len(rows)
    row = dict(zip(head, rows[0], strict=True))
    assert ("user:alice", "invoice:INV-0", "192.0.2.7") == (
        row["actor"],
        row["resource"],
        row["ip"],
    )
    assert {"status": {"old": "draft", "new": "paid"}} == msgspec.json.decode(row["changes"])


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_of_a_table_is_a_formula(cell: str) -> None:
    """A spreadsheet that opens it runs nothing that somebody has recorded."""
    (row,) = csv.reader(io.StringIO(csv_of([[cell, "harmless"]]).decode(), newline=""))

    assert [f"'{cell}", "harmless"] == row


def test_what_was_recorded_as_a_formula_is_harmless_in_a_table(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """In each cell that an event can fill."""
    collector.trail.record_many(
        [event(9_999, rationale=Rationale(text=FORMULA), session=FORMULA, reason=FORMULA)],
        stream="auth",
    )

    content = taken(client, officer, "csv", query="resource:invoice:INV-9999").decode()

    head, row = csv.reader(io.StringIO(content, newline=""))
    found = dict(zip(head, row, strict=True))
    assert [f"'{FORMULA}"] * 3 == [found[name] for name in ("rationale", "session", "reason")]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Make a trail whose entries are written in other forms."""
    base = tmp_path_factory.mktemp("mapped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with Trail.create(base / "trail", origin="audit.example.com/t") as trail:
            yield trail


def item_of(trail: Trail, viewer: Viewer | None = None, **more: Any) -> Item:
    """Record an event, and return its entry as somebody sees it."""
    trail.record_many([event(7, **more)], stream="auth")
    reader = trail.reader(Viewer() if viewer is None else viewer)
    return reader.search("stream:auth", limit=1).items[0]


@pytest.mark.parametrize(
    ("class_", "activity", "more"),
    [
        (3002, 1, {"kind": "authentication", "action": "auth.login"}),
        (3002, 2, {"kind": None, "action": "auth.logout"}),
        (3002, 99, {"kind": "authentication", "action": "auth.mfa"}),
        (3005, 1, {"kind": "permission_change", "action": "role.grant"}),
        (3005, 2, {"kind": None, "action": "permission.revoke"}),
        (3004, 3, {"kind": "data_change", "action": "invoice.update"}),
        (3004, 4, {"kind": None, "action": "user.delete", "resource": Resource.parse("user:bob")}),
        (6003, 2, {"kind": None, "action": "invoice.read"}),
        (6003, 2, {"kind": None, "action": "user.list", "resource": Resource.parse("user:bob")}),
        (6003, 99, {"kind": None, "action": "invoice.approve"}),
    ],
)
def test_an_event_of_ocsf_has_the_class_and_activity_of_what_was_done(
    mapped: Trail, class_: int, activity: int, more: dict[str, Any]
) -> None:
    """Authentication, access, entities, and API activity for all else."""
    found = ocsf.event_of(item_of(mapped, **more))

    assert (class_, activity, class_ * 100 + activity) == (
        found["class_uid"],
        found["activity_id"],
        found["type_uid"],
    )
    assert class_ // 1000 == found["category_uid"]


def test_an_event_of_ocsf_says_all_that_it_has_a_field_for(mapped: Trail) -> None:
    """And holds what proves it: the exact bytes, and their leaf hash."""
    item = item_of(mapped, outcome=Outcome.DENIED, reason="no right", session="s-1")

    found = ocsf.event_of(item)

    assert item.event.id == found["metadata"]["uid"]
    assert ("shop", "billing")[1] == found["metadata"]["tenant_uid"]
    assert (2, "denied", "no right") == (
        found["status_id"],
        found["status"],
        found["status_detail"],
    )
    assert ("alice", "s-1") == (found["actor"]["user"]["uid"], found["actor"]["session"]["uid"])
    assert ({"ip": "192.0.2.7"}, "PO-99") == (found["src_endpoint"], found["comment"])
    assert {"uid": "INV-7", "type": "invoice"} == found["entity"]
    assert {"status": {"old": "draft", "new": "paid"}} == found["unmapped"]["changes"]
    assert item.entry.leaf_hash == Entry.from_bytes(found["raw_data"].encode()).leaf_hash
    assert item.leaf_hash.hex() == found["raw_data_hash"]["value"]


def test_a_document_of_ecs_says_all_that_it_has_a_field_for(mapped: Trail) -> None:
    """And where in the log it is."""
    item = item_of(mapped, outcome=Outcome.DENIED, session="s-1")

    found = ecs.document_of(item)

    assert (item.event.id, "invoice.update", "failure") == (
        found["event"]["id"],
        found["event"]["action"],
        found["event"]["outcome"],
    )
    assert ({"id": "alice", "roles": ["staff"]}, {"ip": "192.0.2.7"}) == (
        found["user"],
        found["source"],
    )
    assert ("INV-7", "PO-99", "s-1") == (
        found["labels"]["resource_id"],
        found["labels"]["rationale"],
        found["labels"]["session"],
    )
    assert ("auth", item.index, item.leaf_hash.hex(), "denied") == tuple(
        found["indelible"][name] for name in ("log", "index", "leaf_hash", "outcome")
    )


def test_what_is_not_shown_is_left_out_of_typed_fields_and_named(mapped: Trail) -> None:
    """An address that is hidden is none, not the text that stands for it elsewhere."""
    viewer = Viewer.of(mapped.policy, "reader", case="case 7")
    item = item_of(mapped, viewer)

    of_ocsf, of_ecs = ocsf.event_of(item), ecs.document_of(item)

    assert "src_endpoint" not in of_ocsf
    assert "source" not in of_ecs
    assert of_ocsf["actor"]["user"]["uid"] == of_ecs["user"]["id"] == item.event.actor.id
    assert of_ecs["user"]["id"].startswith("p-")
    for redactions in (of_ocsf["unmapped"]["redactions"], of_ecs["indelible"]["redactions"]):
        assert {"/client/ip", "/rationale", "/changes/status"} <= redactions.keys()
    assert "changes" not in of_ecs["indelible"]
    assert "192.0.2.7" not in "".join(row_of(item))


def test_evidence_of_an_entry_can_be_verified_by_whoever_gets_it(
    client: Served, collector: Collector, officer: dict[str, str], tmp_path: Path
) -> None:
    """Offline, by the key of the log; and it is of exactly one entry."""
    trail = collector.trail
    entry = trail.search(USER).items[0]

    content = taken(client, officer, "evidence", query=f"id:{entry.event.id}")

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "evidence")
    verdict = evidence.verify(
        tmp_path / "evidence", [trail.verifier_key("user"), trail.verifier_key("custody")]
    )
    assert entry.event.id == verdict.clear.id
    assert set(entry.clear.committed) == {each.path for each in verdict.values}
    several = ask(client, officer, "evidence")
    none = ask(client, officer, "evidence", query="id:01932c07-0000-7000-8000-000000000000")
    assert [400, 404] == [several.status_code, none.status_code]


def test_a_format_that_there_is_not_is_refused(client: Served, officer: dict[str, str]) -> None:
    """Parquet where what it needs is not installed: the answer says how to install it."""
    has_arrow = importlib.util.find_spec("pyarrow") is not None

    rubbish, parquet = (ask(client, officer, name) for name in ("rubbish", "parquet"))

    assert 415 == rubbish.status_code
    assert (202 if has_arrow else 415) == parquet.status_code
    assert has_arrow or "pip install pyarrow" in parquet.json()["detail"]


# ---- What is recorded ----


def test_an_export_is_an_entry_that_names_its_file(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """Who has taken what away, why, and the digest of it: committed where it may name people."""
    shown = made(client, officer)

    (item,) = collector.trail.search("stream:custody action:entries.export", limit=1).items
    data = item.event.data
    assert (shown["id"], 4, shown["sha256"], shown["size"]) == tuple(
        data[name] for name in ("export", "entries", "sha256", "size")
    )
    assert ("the privacy_officer", "jsonl", USER) == tuple(
        data[name] for name in ("name", "format", "query")
    )
    assert WHY == item.event.rationale.text  # type: ignore[union-attr]
    assert {"/rationale", "/data/query"} == set(item.clear.committed)
    (opened,) = collector.trail.search("stream:custody action:values.open", limit=1).items
    assert data["caller"] == opened.event.data["caller"]


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (400, {"rationale": " "}),
        (400, {"rationale": "x" * 1_001}),
        (400, {"query": "rubbish:x"}),
        (404, {"query": "stream:rubbish"}),
        (400, {"unknown": 1}),
    ],
)
def test_what_cannot_be_answered_is_said_at_once(
    client: Served, officer: dict[str, str], status: int, more: dict[str, Any]
) -> None:
    """And nothing is made."""
    assert status == ask(client, officer, **more).status_code
    assert [] == client.get("/v1/exports", headers=officer).json()


def test_whoever_may_not_search_by_a_value_exports_nothing_by_it(
    client: Served, collector: Collector
) -> None:
    """Else the number of entries would tell what they hold."""
    auditor = bearer(issued(collector, "auditor"))

    assert 403 == ask(client, auditor, query="ip:192.0.2.7").status_code


# ---- Who gets it, and for how long ----


def test_an_export_is_for_whoever_has_asked_alone(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """To everybody else it is not there, whatever their role."""
    shown = made(client, officer)
    other = bearer(issued(collector, "privacy_officer", name="another"))
    location = f"/v1/exports/{shown['id']}"

    answers = [
        client.get(location, headers=other),
        client.get(shown["file"], headers=other),
        client.delete(location, headers=other),
    ]

    assert [404] * 3 == [each.status_code for each in answers]
    assert [] == client.get("/v1/exports", headers=other).json()
    assert 200 == client.get(shown["file"], headers=officer).status_code


def test_a_file_is_for_a_day(
    client: Served, collector: Collector, officer: dict[str, str], clock: Clock
) -> None:
    """Then it is gone, from the disk as well; after a week nothing is said of it any more."""
    shown = made(client, officer)
    clock.passed += DAY - 60_000_000
    before = client.get(shown["file"], headers=officer).status_code

    clock.passed += 61_000_000

    gone = client.get(shown["file"], headers=officer)
    assert (200, 410) == (before, gone.status_code)
    assert "time is over" in gone.json()["detail"]
    assert [] == files(collector, shown["id"])
    clock.passed += 7 * DAY
    assert [] == client.get("/v1/exports", headers=officer).json()


def test_files_are_for_the_collector_alone(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """Nobody else on the machine reads them."""
    shown = made(client, officer)

    (path,) = files(collector, shown["id"])

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


def test_an_export_can_be_dropped(
    client: Served, collector: Collector, officer: dict[str, str]
) -> None:
    """By whoever has it; nothing of it is left but its entry."""
    shown = made(client, officer)

    answer = client.delete(f"/v1/exports/{shown['id']}", headers=officer)

    assert 204 == answer.status_code
    assert [] == files(collector, shown["id"])
    assert 404 == client.get(shown["file"], headers=officer).status_code
    (item,) = collector.trail.search("stream:custody action:entries.export", limit=1).items
    assert shown["id"] == item.event.data["export"]


def test_an_export_that_is_dropped_while_it_is_made_leaves_nothing(own: Collector) -> None:
    """However far it had come."""
    officer = officer_of(own)
    own.trail.record_many([event(number) for number in range(1_500)], stream="auth")

    with serving(own) as client:
        location = ask(client, officer, query="stream:auth").headers["location"]
        dropped = client.delete(location, headers=officer)
        after = client.get(location, headers=officer)

    assert [204, 404] == [dropped.status_code, after.status_code]
    assert [] == files(own)
    with own.trail.store.read() as view:
        assert [] == list(view.facts(KIND))


def test_what_is_erased_is_erased_from_files_as_well(own: Collector) -> None:
    """Whoever has carried it out, here or where the trail's keys are."""
    officer = officer_of(own)
    with serving(own) as client:
        shown = made(client, officer)
        trail = own.trail
        plan = trail.plan_erasure("user:alice", basis="GDPR Art. 17(1)(b)")

        trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))

        answer = client.get(shown["file"], headers=officer)
        assert 410 == answer.status_code
        assert "removed since" in answer.json()["detail"]
        assert [] == files(own)
        assert b"alice" not in taken(client, officer)


def test_an_erasure_over_the_network_removes_files_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is answered that values are gone, they are in no file of the collector."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    key = SigningKey.generate("bob")
    people = (
        f'[people]\nbob = {{ name = "Bob", key = "ed25519:'
        f'{b64encode(key.verifier.public).decode()}", roles = ["dpo"] }}\n[governance]\n'
        'erasure = { approvals = { n = 1, from = ["dpo"] } }\n'
    )
    text = document.default_text().decode().partition("[governance]")[0] + people
    policy = document.parse(text.replace('id = "default"', 'id = "own"').encode())
    with Trail.create(tmp_path / "trail", origin="audit.example.com/t", policy=policy) as trail:
        trail.record_many([event(0)], stream="user")
        collector = Collector(trail, FAST)
        who = bearer(issued(collector, "privacy_officer"))
        with serving(collector) as client:
            made(client, who)
            body = {"subject": "user:alice", "basis": "GDPR Art. 17(1)(b)"}
            planned = client.post("/v1/erasures", headers=who, json=body).json()
            with trail.store.read() as view:
                data = view.document(bytes.fromhex(planned["digest"])) or b""
            note = Approval.sign(Plan.from_bytes(data), "bob", key, datetime.now(UTC)).decode()
            client.post("/v1/approvals", headers=who, json={"note": note})

            done = client.post(f"/v1/erasures/{planned['digest']}/carry-out", headers=who)

            assert 200 == done.status_code
            assert [] == files(collector)


def test_a_file_that_another_policy_has_shown_is_gone(own: Collector) -> None:
    """What was to be seen then may not be now."""
    officer = officer_of(own)
    with serving(own) as client:
        shown = made(client, officer)
        trail = own.trail
        text = document.default_text().replace(b'id = "default"', b'id = "own"')

        trail.set_policy(document.parse(text))

        answer = client.get(shown["file"], headers=officer)
        assert 410 == answer.status_code
        assert "another policy" in answer.json()["detail"]
        assert [] == files(own)


# ---- Bounds, and what a crash leaves ----


@pytest.fixture
def exports(own: Collector) -> Callable[[int], Exports]:
    """Return what makes exports that may take so many bytes."""
    return lambda most: Exports(own, most=most)


def wait_for(made_by: Exports, name: str, caller: Caller = OFFICER) -> Any:  # noqa: ANN401
    """Return how an export stands when nothing more becomes of it."""
    deadline = time.monotonic() + 20
    while (export := made_by.find(name, caller)).state in {"waiting", "running"}:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    return export


def begin(made_by: Exports, collector: Collector, caller: Caller = OFFICER) -> str:
    """Ask for an export, and return its id."""
    trail = collector.trail
    reader = trail.reader(Viewer.of(trail.policy, caller.role), caller)
    asked = ExportRequest(query=USER, format="jsonl", rationale=WHY)
    return made_by.ask(caller, asked, reader).id


def test_files_take_no_more_room_than_they_may(
    own: Collector, exports: Callable[[int], Exports]
) -> None:
    """One a quarter of it at most; and none more where the others leave no room."""
    one = exports(1 << 20)
    size = wait_for(one, begin(one, own)).size
    small, full = exports(3 * size), exports(4 * size)

    too_large = wait_for(small, begin(small, own))
    others = [wait_for(full, begin(full, own)) for _ in range(4)]

    assert ("failed", True) == (too_large.state, "is larger than" in too_large.why)
    assert ["ready", "ready", "ready", "failed"] == [each.state for each in others]
    assert "no room" in others[3].why
    assert 4 == len(files(own))


def test_a_caller_keeps_so_many_exports_at_most(
    own: Collector, exports: Callable[[int], Exports]
) -> None:
    """Twenty; whoever wants another drops one, and others are not held up."""
    made_by = exports(1 << 20)
    names = [begin(made_by, own) for _ in range(10)]
    for name in names:
        wait_for(made_by, name)
    names += [begin(made_by, own) for _ in range(10)]
    for name in names:
        wait_for(made_by, name)

    with pytest.raises(Refusal) as refused:
        begin(made_by, own)

    assert 429 == refused.value.problem.status
    begin(made_by, own, msgspec.structs.replace(OFFICER, id="p2"))
    made_by.drop(names[0], OFFICER)
    assert "ready" == wait_for(made_by, begin(made_by, own)).state


def test_what_was_cut_off_is_said_to_be(own: Collector, exports: Callable[[int], Exports]) -> None:
    """Nobody waits for an export that nobody makes any more; what it has left is removed."""
    first = exports(1 << 20)
    name = begin(first, own)
    export = wait_for(first, name)
    with own.trail.store.write() as transaction:
        running = msgspec.structs.replace(export, state="running")
        transaction.put(KIND, name.encode(), running.to_bytes())
    (own.trail.path / "exports" / f"{name}.jsonl.part").touch()
    (own.trail.path / "exports" / "stray.jsonl").touch()
    after_restart = exports(1 << 20)

    assert isinstance(own.now, Clock)
    own.now.passed += 600_000_000

    found = after_restart.find(name, OFFICER)
    assert ("failed", "it was cut off; ask for it anew") == (found.state, found.why)
    assert [] == files(own)


def test_an_export_stops_with_the_collector(own: Collector) -> None:
    """It is waited for no longer than a page takes, and it is said that it was not finished."""
    officer = officer_of(own)
    own.trail.record_many([event(number) for number in range(3_000)], stream="auth")

    with serving(own) as client:
        location = ask(client, officer, query="stream:auth").headers["location"]

    with serving(own) as client:
        shown = client.get(location, headers=officer).json()
    assert shown["state"] in {"failed", "ready"}
    assert len(files(own)) == (shown["state"] == "ready")


def test_an_export_of_another_role_is_not_there(
    own: Collector, exports: Callable[[int], Exports]
) -> None:
    """Who comes with another role, or other limits, since asks anew."""
    made_by = exports(1 << 20)
    name = begin(made_by, own)
    wait_for(made_by, name)

    for changed in ({"role": "auditor"}, {"tenant": "shop"}, {"streams": ("user",)}):
        with pytest.raises(NotFound):
            made_by.find(name, msgspec.structs.replace(OFFICER, **changed))


# ---- Sinks ----


def test_what_a_stream_is_also_sent_to_is_said(client: Served, collector: Collector) -> None:
    """How far that has come, and what the policy names; to whoever observes."""
    trail = collector.trail
    operator = bearer(issued(collector, "operator"))
    with trail.store.write() as transaction:
        progress = Progress(url="https://audit.example.com", size=3, checkpoint="", at=0)
        remember(transaction, "user", progress)

    (sink,) = client.get("/v1/sinks", headers=operator).json()

    assert ("https://audit.example.com", "user", 3, 4) == tuple(
        sink[name] for name in ("name", "stream", "size", "of")
    )
