"""Whoever asks what is held about them is told all of it, and nothing of anybody else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible import document
from indelible.box import ValueState
from indelible.errors import CallerError, Forbidden
from indelible.event import Actor
from indelible.policies import Consent
from indelible.policy import FieldClass, FieldRule, Policy, Retention, Stream
from indelible.subject import CLEAR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.subject import Answer, HeldEntry, HeldValue
    from indelible.trail import Trail

PLAIN = document.default()

POLICY = msgspec.structs.replace(
    PLAIN,
    id="shop",
    text=b"",
    streams={**PLAIN.streams, "user": Stream(retention="std")},
    retention={"std": Retention(floor="1y", ceiling="2y")},
    fields={
        **PLAIN.fields,
        "/changes/status": FieldRule(class_=FieldClass.PUBLIC, subject="resource"),
        "/client/ip": FieldRule(
            class_=FieldClass.PERSONAL,
            subject="actor",
            search="prefix",
            ceiling="90d",
            why="to find abuse",
        ),
    },
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a trail about alice and others, and forget what was opened of it."""
    base = tmp_path_factory.mktemp("subject")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        fill(base / "audit", POLICY)
        yield base / "audit"


def fill(path: Path, policy: Policy) -> None:
    """Record what alice and bob do, at *path*."""
    with indelible.open(path, origin="audit.example.com/shop", policy=policy) as trail:
        trail.record(
            "customer.update",
            actor="user:alice",
            resource="customer:carol",
            changes={"email": ("carol@example.com", "c@example.com"), "status": ("new", "old")},
            client="203.0.113.9",
            session="alice-1",
            rationale="carol asked by telephone",
        )
        trail.record("customer.read", actor="user:bob", resource="customer:carol", session="bob-1")
        trail.record(
            "user.update",
            actor="user:bob",
            resource="user:alice",
            changes={"email": ("alice@example.com", "<b>\u202ealice</b>"), "status": ("a", "b")},
            session="bob-1",
        )
        trail.record("invoice.pay", actor="service:billing", resource="invoice:7")
        trail.record(
            "invoice.read",
            actor=Actor(type="service", id="billing", on_behalf_of=Actor(type="user", id="alice")),
            resource="invoice:7",
        )


@contextmanager
def reading(path: Path, role: str = "owner", **given: Any) -> Iterator[Trail]:
    """Open the trail to read."""
    with indelible.open(path, mode="r", role=role, **given) as trail:
        yield trail


def asked(path: Path, subject: str = "user:alice", role: str = "owner") -> Answer:
    """Return the answer that a role gets about somebody."""
    with reading(path, role) as trail:
        return trail.subject(subject)


def value_of(entry: HeldEntry, path: str) -> HeldValue:
    """Return the one value at *path*."""
    (found,) = [value for value in entry.values if value.path == path]
    return found


def test_every_value_of_the_subject_is_there(path: Path) -> None:
    """As actor and as resource: each value with its class and its state."""
    as_actor, as_resource = asked(path).entries

    assert ("user#0", "customer.update") == (as_actor.entry, as_actor.action)
    assert {
        "/actor/id": "alice",
        "/rationale": {"text": "carol asked by telephone"},
        "/session": "alice-1",
        "/client/ip": "203.0.113.9",
    } == {value.path: value.value for value in as_actor.values}
    assert ("user#2", "user.update") == (as_resource.entry, as_resource.action)
    assert {
        "/resource/id": "alice",
        "/changes/email": {"old": "alice@example.com", "new": "<b>\u202ealice</b>"},
        "/changes/status": {"old": "a", "new": "b"},
    } == {value.path: value.value for value in as_resource.values}
    assert {"/session": FieldClass.PERSONAL, "/actor/id": FieldClass.ACCOUNTABLE}.items() <= {
        value.path: value.class_ for value in as_actor.values
    }.items()


def test_values_of_others_in_the_same_entries_are_not_there(path: Path) -> None:
    """The answer can be handed out: it tells nobody's secrets but the subject's own."""
    answer = asked(path)

    whole = answer.to_json().decode() + answer.to_html()
    for of_others in ("carol@example.com", "bob", "c@example.com", "customer:carol"):
        assert of_others not in whole
    assert "customer:[not of this subject]" == answer.entries[0].resource
    assert "user:[not of this subject]" == answer.entries[1].actor
    assert [2, 2] == [entry.others for entry in answer.entries]


def test_what_stands_in_clear_is_told_as_such(path: Path) -> None:
    """A value in the log itself stays as long as the entry, and the answer says so."""
    status = value_of(asked(path).entries[1], "/changes/status")

    assert (CLEAR, FieldClass.PUBLIC) == (status.state, status.class_)
    assert "stays as long as its entry does" == status.becomes


def test_what_is_in_clear_and_names_the_subject_is_found(path: Path) -> None:
    """An identity that the policy left in the log is found by the log's own index."""
    (read, paid) = asked(path, "invoice:7").entries

    assert [("user#3", ("/resource/id",)), ("user#4", ("/resource/id",))] == [
        (read.entry, read.named),
        (paid.entry, paid.named),
    ]
    assert (CLEAR, "7") == (read.values[0].state, read.values[0].value)


def test_what_will_become_of_a_value_is_told(path: Path) -> None:
    """From when it may be erased, when it goes by itself, and why it is kept."""
    entry = asked(path).entries[0]
    year = entry.recorded_at.year

    actor, address = value_of(entry, "/actor/id"), value_of(entry, "/client/ip")

    assert (year + 1, year + 2) == (actor.floor and actor.floor.year, actor.ceiling.year)  # type: ignore[union-attr]
    assert "policy " in actor.because
    assert "retention std" in actor.because
    assert actor.becomes.startswith("may not be erased before ")
    assert address.floor is None
    assert 90 == (address.ceiling - entry.recorded_at).days  # type: ignore[operator]
    assert "to find abuse" == address.because


def test_who_does_not_see_values_is_not_told_whose_they_are(path: Path) -> None:
    """To learn which entries are about somebody is to learn something about them."""
    with pytest.raises(Forbidden, match="role operator sees no values"):
        asked(path, role="operator")
    with pytest.raises(Forbidden, match="role reader sees no values"):
        asked(path, role="reader")


def test_a_role_is_told_what_it_could_find_itself(path: Path) -> None:
    """An auditor sees staff act, and not which customer is whom."""
    staff, customer = asked(path, role="auditor"), asked(path, "customer:carol", "auditor")

    (entry,) = staff.entries
    assert ("WITHHELD", None) == (value_of(entry, "/client/ip").state, entry.values[2].value)
    assert "alice" == value_of(entry, "/actor/id").value
    assert "alice-1" not in staff.to_json().decode()
    assert () == customer.entries
    assert any("does not see personal values" in said for said in staff.says)


@pytest.mark.parametrize("subject", ["alice", "user:", ":alice", "", "user"])
def test_a_subject_has_a_type_and_an_id(path: Path, subject: str) -> None:
    """What is no subject is never answered with nothing."""
    with pytest.raises(CallerError, match="expected type:id"):
        asked(path, subject)


def test_about_a_stranger_nothing_is_held(path: Path) -> None:
    """Who is in no entry gets an answer all the same."""
    answer = asked(path, "user:mallory")

    assert ((), {}, ()) == (answer.entries, answer.totals, answer.openings)
    assert "None." in answer.to_html()


# ---- Who has seen it ----


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a trail for one test alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fill(tmp_path / "audit", POLICY)
    return tmp_path / "audit"


def test_who_has_opened_values_is_told(own: Path) -> None:
    """Each opening has role, purpose and question, and what it has to do with the subject."""
    with reading(own, "auditor", purpose="yearly audit") as trail:
        trail.search("actor:user:alice")
    with reading(own) as trail:
        trail.search("action:customer.*")
    with reading(own) as trail:
        trail.search("action:customer.read")
    with reading(own) as trail:
        trail.subject("user:alice")

    openings = asked(own).openings

    assert [
        ("auditor", "actor:user:alice", "yearly audit", "named"),
        ("owner", "action:customer.*", None, "found"),
        ("owner", "subject:user:alice", None, "named"),
    ] == [(each.role, each.asked, each.purpose, each.concerns) for each in openings]


def test_an_opening_of_more_than_is_recorded_may_concern_anybody(own: Path) -> None:
    """Of several questions one is recorded: so the others may have been about the subject."""
    with reading(own) as trail:
        trail.search("action:customer.read")
        trail.search("actor:user:alice")
        trail.search("action:customer.read")

    openings = asked(own).openings

    assert [(1, None), (2, "perhaps")][1:] == [
        (each.times, each.concerns) for each in openings if each.times > 1
    ]


def test_an_answer_leaves_an_opening_of_its_own(own: Path) -> None:
    """Who has asked what is held about somebody has seen it, and that is recorded."""
    with reading(own, purpose="asked by letter") as trail:
        trail.subject("user:alice")

    with reading(own) as trail:
        (opened,) = trail.search("action:values.open stream:custody").items

    assert "subject:user:alice" == opened.event.data["query"]
    assert 2 == opened.event.data["entries"]
    assert opened.event.rationale is not None
    assert "asked by letter" == opened.event.rationale.text


def test_an_auditor_does_not_see_questions(own: Path) -> None:
    """The questions of others may hold what the role does not see."""
    with reading(own) as trail:
        trail.search("session:alice-1")

    (opening,) = asked(own, role="auditor").openings

    assert (None, "perhaps") == (opening.asked, opening.concerns)


# ---- What is gone ----


def erase(path: Path, subject: str) -> None:
    """Erase what may be erased of a subject."""
    with indelible.open(path) as trail:
        plan = trail.plan_erasure(subject, basis="GDPR Art. 17(1)(b)")
        trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))


def test_what_was_erased_is_told_with_the_entry_that_says_so(own: Path) -> None:
    """Personal values are gone; what a floor keeps is there, and why."""
    erase(own, "user:alice")

    answer = asked(own)
    entry = answer.entries[0]

    for path in ("/client/ip", "/session"):
        gone = value_of(entry, path)
        assert (ValueState.ERASED, None) == (gone.state, gone.value)
        assert gone.why.startswith("custody#")
    kept = value_of(entry, "/actor/id")
    assert ("OPEN", "alice") == (kept.state, kept.value)
    assert kept.deferred.startswith("floor:")
    assert {"ERASED": 2}.items() <= answer.totals.items()
    assert 1 <= answer.deferred


def test_what_a_hold_keeps_is_told_to_those_who_see_everything(own: Path) -> None:
    """A legal hold is named by its id; whom else it is on is not told."""
    with indelible.open(own) as trail:
        hold = trail.hold(ground="a dispute", subject="user:alice")

    kept = value_of(asked(own).entries[0], "/session")

    assert (hold,) == kept.holds
    assert kept.becomes.startswith(f"stays while hold {hold} lasts")
    assert "dispute" not in asked(own).to_json().decode()
    assert hold not in asked(own, role="auditor").to_json().decode()


# ---- The page ----


def test_the_page_needs_nothing_and_runs_nothing(path: Path) -> None:
    """One file, which loads nothing from elsewhere, and whose values are text."""
    page = asked(path).to_html()

    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    for forbidden in ("<script", "src=", "href=", "url(", "<b>", "\u202e", "@import"):
        assert forbidden not in page
    assert "&lt;b&gt;\\u202ealice&lt;/b&gt;" in page.replace("\\\\", "\\")
    assert "@media print" in page


def test_the_answer_as_json_says_the_same(path: Path) -> None:
    """Programs get what people get."""
    answer = asked(path)

    document_ = msgspec.json.decode(answer.to_json())

    assert ("user:alice", 2) == (document_["subject"], len(document_["entries"]))
    assert {"path", "class", "state", "value"} <= document_["entries"][0]["values"][0].keys()
