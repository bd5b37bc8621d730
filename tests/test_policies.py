"""Policies: which one a trail is under, and that nobody alone makes it weaker."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from base64 import b64encode
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible import policies
from indelible.approval import Approval
from indelible.document import default, default_text, parse
from indelible.errors import (
    Damaged,
    InvalidPolicy,
    InvalidSignature,
    Malformed,
    NotApproved,
    NotFound,
    StoreError,
    UnknownStream,
    WriteUncertain,
)
from indelible.keys import SigningKey
from indelible.plan import Plan
from indelible.policies import Consent
from indelible.policy import FieldClass, FieldRule, Policy, Rule, Stream
from indelible.stores.memory import MemoryStore
from indelible.testing import Faulty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.store import Store

KEYS = {
    name: SigningKey.from_seed(name, bytes([number]) * 32)
    for number, name in enumerate(("alice", "bob", "carol"), 1)
}
ALICE, BOB, CAROL = KEYS.values()
PEOPLE = "[people]\n" + "".join(
    f'{name} = {{ name = "{name}", key = "ed25519:'
    f'{b64encode(key.verifier.public).decode()}", roles = ["{role}"] }}\n'
    for (name, key), role in zip(KEYS.items(), ("dpo", "ciso", "clerk"), strict=True)
)
OWNERS = 'loosening = { approvals = { n = 1, from = ["owner"] } }'
BY_TWO = 'loosening = { approvals = { n = 2, from = ["dpo", "ciso"] }, valid = "7d" }'
TIGHTER = ('"/request" = { class = "public" }', '"/request" = { class = "personal" }')
LOOSER = (
    '"/session" = { class = "personal", subject',
    '"/session" = { class = "internal", subject',
)
BILLING = ('auth = { on_failure = "refuse" }\n', 'auth = { on_failure = "refuse" }\nbilling = {}\n')


def shop(*edits: tuple[str, str], after: Policy | None = None, governed: bool = True) -> Policy:
    """Return the version after another; without edits, it protects what the default does."""
    text = default_text().decode()
    if governed:
        edits = ((OWNERS, f"{BY_TWO}\n{PEOPLE}"), *edits)
    version, supersedes = 1, ""
    if after is not None:
        version, supersedes = after.version + 1, f', supersedes = "sha256:{after.digest.hex()}"'
    head = f'{{ id = "shop", version = {version}{supersedes} }}'
    for old, new in (('{ id = "default", version = 1 }', head), *edits):
        assert old in text
        text = text.replace(old, new, 1)
    return parse(text.encode())


FIRST = shop()


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[indelible.Trail]:
    """Return a trail under a policy of its own, which two people must consent to loosen."""
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=FIRST) as made:
        yield made


def history(trail: indelible.Trail) -> list[Policy]:
    """Return the versions that the trail was under, the oldest first."""
    with trail.store.read() as view:
        return [each.policy for each in policies.versions(view)][::-1]


def said(trail: indelible.Trail) -> dict[str, Any]:
    """Return what the custody stream says of the last change."""
    with trail.store.read() as view:
        found: dict[str, Any] = next(policies.versions(view)).item.event.data
        return found


def custody(trail: indelible.Trail) -> int:
    """Return how many custody entries there are."""
    with trail.store.read() as view:
        return view.heads()["custody"].size


def approved(plan: Plan, *keys: SigningKey, at: datetime | None = None) -> Consent:
    """Return the plan with approvals."""
    now = plan.created_at if at is None else at
    return Consent(
        plan=plan.to_bytes(),
        approvals=tuple(Approval.sign(plan, key.name, key, now) for key in keys),
    )


class Owner:
    """A trail whose store may be another's."""

    def __init__(self, trail: indelible.Trail, store: Store) -> None:
        self._trail, self.store = trail, store
        self.id, self.origin = trail.id, trail.origin
        self.signer_of, self.new_signer = trail.signer_of, trail.new_signer


# ---- Recorded ----


def test_a_trail_begins_under_a_policy_that_is_recorded(tmp_path: Path) -> None:
    """From its first entry on, a trail says what it captures, and how."""
    with indelible.Trail.create(tmp_path / "trail", origin="audit.example.com/t") as trail:
        assert [default()] == history(trail)
        assert {
            "policy": default().label,
            "digest": default().digest.hex(),
            "supersedes": None,
        } == (said(trail))
        with trail.store.read() as view:
            assert default_text() == policies.document(view, default().digest)


def test_every_version_is_recorded_and_kept(trail: indelible.Trail) -> None:
    """The custody stream names each version, and its exact text can be read for ever."""
    second = shop(TIGHTER, after=FIRST)
    third = shop(TIGHTER, BILLING, after=second)

    trail.set_policy(second)
    trail.set_policy(third)

    assert [FIRST, second, third] == history(trail)
    assert third == trail.policy
    with trail.store.read() as view:
        for version in (FIRST, second, third):
            assert version.text == policies.document(view, version.digest)
            assert version == policies.of_label(view, version.label)
        assert policies.of_label(view, default().label) is None
    assert f"sha256:{second.digest.hex()}" == said(trail)["supersedes"]
    assert trail.verify().passed


def test_entries_name_the_policy_and_the_rule_that_decided(trail: indelible.Trail) -> None:
    """What was recorded before a change goes on to be explained by the older version."""
    second = shop(TIGHTER, after=FIRST)
    trail.record("auth.login", resource="session:1", actor="user:alice")
    trail.set_policy(second)
    trail.record("order.ship", resource="order:1", actor="user:alice")

    before, after = (trail.at(stream, 0).clear for stream in ("auth", "user"))

    assert before is not None
    assert after is not None
    assert (FIRST.label, "auth.*") == (before.policy, before.rule)
    assert (second.label, "everything else") == (after.policy, after.rule)
    assert "/request" in trail.policy.fields


def test_the_same_policy_is_not_set_twice(trail: indelible.Trail) -> None:
    """To set what is in force writes nothing."""
    before = custody(trail)

    trail.set_policy(parse(FIRST.text))

    assert before == custody(trail)


def test_a_trail_was_never_without_a_policy() -> None:
    """A store in which none was set says so."""
    with MemoryStore().read() as view, pytest.raises(NotFound, match="never given one"):
        policies.current(view)


# ---- In which order ----


def test_the_first_policy_of_its_own_replaces_the_default(tmp_path: Path) -> None:
    """It follows no other; what it loosens is recorded, with who has approved it."""
    looser = shop(LOOSER, governed=False)
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t") as trail:
        trail.set_policy(looser)

        assert ["/session: personal becomes internal"] == said(trail)["loosens"]
        assert said(trail)["self_approved"] is True
        assert [default(), looser] == history(trail)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (shop(TIGHTER), "version"),
        (shop(TIGHTER, after=shop(TIGHTER)), "supersedes"),
        (shop(TIGHTER, ('id = "shop"', 'id = "other"'), after=FIRST), "id"),
        (default(), "id"),
        (
            shop(TIGHTER, (f', supersedes = "sha256:{FIRST.digest.hex()}"', ""), after=FIRST),
            "supers",
        ),
    ],
)
def test_a_version_follows_the_one_in_force(
    trail: indelible.Trail, other: Policy, expected: str
) -> None:
    """Of the same policy, later, and naming it by its digest: no version is skipped or undone."""
    before = custody(trail)

    with pytest.raises(InvalidPolicy, match=f"policy.{expected}"):
        trail.set_policy(other)

    assert before == custody(trail)
    assert FIRST == trail.policy


def test_of_two_changes_at_once_one_follows_the_other(trail: indelible.Trail) -> None:
    """Who was slower is held against what is in force by then, not against what they saw."""
    faster, slower = shop(TIGHTER, after=FIRST), shop(TIGHTER, BILLING, after=FIRST)
    once = iter([True])

    class Busy(Faulty):
        """A store to which somebody else writes first."""

        @contextmanager
        def write(self) -> Iterator[Any]:
            if next(once, False):
                trail.set_policy(faster)
            with super().write() as transaction:
                yield transaction

    with pytest.raises(InvalidPolicy, match=r"policy\.version"):
        policies.change(Owner(trail, Busy(trail.store)), slower, datetime.now(UTC))

    assert [FIRST, faster] == history(trail)


def test_a_change_among_other_custody_entries_goes_through(trail: indelible.Trail) -> None:
    """That others write to the custody stream meanwhile stops nobody who tries again."""
    second = shop(TIGHTER, after=FIRST)
    times = iter(range(2))

    class Busy(Faulty):
        """A store to which somebody else writes first."""

        @contextmanager
        def write(self) -> Iterator[Any]:
            if next(times, None) is not None:
                trail.hold(ground="case 7")
            with super().write() as transaction:
                yield transaction

    policies.change(Owner(trail, Busy(trail.store)), second, datetime.now(UTC))

    assert [FIRST, second] == history(trail)


# ---- Who must consent ----


def test_to_tighten_needs_nobody(trail: indelible.Trail) -> None:
    """Whoever runs a trail may protect more at once, and the entry says that nothing loosens."""
    trail.set_policy(shop(TIGHTER, after=FIRST))

    assert [] == said(trail)["loosens"]
    assert "self_approved" not in said(trail)


def test_to_loosen_needs_those_whom_the_policy_asks(trail: indelible.Trail) -> None:
    """Without their approval nothing is written, and it is said who is missing."""
    before = custody(trail)

    with pytest.raises(NotApproved, match="found no approval, expected 2 of dpo, ciso"):
        trail.set_policy(shop(LOOSER, after=FIRST))

    assert before == custody(trail)
    assert FIRST == trail.policy


def test_two_distinct_people_can_loosen(trail: indelible.Trail) -> None:
    """Plan and approvals stand in the entry, so that anybody can check them later."""
    second = shop(LOOSER, after=FIRST)
    plan = trail.plan_policy(second)

    trail.set_policy(second, approved(plan, ALICE, BOB, at=datetime.now(UTC)))

    assert [FIRST, second] == history(trail)
    assert ["/session: personal becomes internal"] == said(trail)["loosens"]
    assert said(trail)["self_approved"] is False
    assert plan.digest.hex() == said(trail)["plan"]
    assert ["alice", "bob"] == [
        Approval.open(note.encode(), KEYS[name].verifier).person
        for note, name in zip(said(trail)["approvals"], ("alice", "bob"), strict=True)
    ]
    with trail.store.read() as view:
        assert plan.to_bytes() == policies.document(view, plan.digest)
    assert trail.verify().passed


@pytest.mark.parametrize(
    ("keys", "requester", "expected"),
    [
        ((), "owner", "found approvals of nobody, expected 2 of dpo, ciso"),
        ((ALICE,), "owner", "found approvals of alice, expected 2"),
        ((ALICE, ALICE), "owner", "approval of alice: found a second one"),
        ((ALICE, CAROL), "owner", "approval of carol: found clerk, expected dpo, ciso"),
        ((ALICE, BOB), "bob", "approval of bob: found who asks for the plan"),
    ],
)
def test_fewer_than_two_distinct_people_cannot_loosen(
    trail: indelible.Trail, keys: tuple[SigningKey, ...], requester: str, expected: str
) -> None:
    """Nobody, one alone or twice, who was not asked, and who asks: none of them is enough."""
    second = shop(LOOSER, after=FIRST)
    plan = trail.plan_policy(second, requester=requester)

    with pytest.raises(NotApproved, match=expected):
        trail.set_policy(second, approved(plan, *keys, at=datetime.now(UTC)))

    assert [FIRST] == history(trail)


def test_the_owner_does_not_stand_in_for_people(trail: indelible.Trail) -> None:
    """Whoever holds the trail's keys cannot approve where the policy asks others."""
    second = shop(LOOSER, after=FIRST)
    plan = trail.plan_policy(second)

    with pytest.raises(NotApproved, match="approval of owner: found the owner"):
        trail.set_policy(second, Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))


def test_an_approval_is_of_one_policy_alone(trail: indelible.Trail) -> None:
    """Whoever approved one text has approved no other, however small the difference."""
    second = shop(LOOSER, after=FIRST)
    other = shop(LOOSER, ("[governance]", "[governance]\n"), after=FIRST)
    plan = trail.plan_policy(second)
    consent = approved(plan, ALICE, BOB, at=datetime.now(UTC))

    with pytest.raises(NotApproved, match="is not for policy shop/2#"):
        trail.set_policy(other, consent)

    assert [FIRST] == history(trail)


def test_an_approval_is_used_once(trail: indelible.Trail) -> None:
    """What was approved is done; it is not done again, nor anything like it."""
    second = shop(LOOSER, after=FIRST)
    consent = approved(trail.plan_policy(second), ALICE, BOB, at=datetime.now(UTC))
    trail.set_policy(second, consent)
    third = shop(LOOSER, BILLING, (BY_TWO, OWNERS), after=second)

    with pytest.raises(NotApproved, match="is not for policy shop/3#"):
        trail.set_policy(third, consent)
    forged = msgspec.structs.replace(
        Plan.from_bytes(consent.plan), detail={"digest": third.digest.hex()}
    )
    with pytest.raises(NotApproved, match="was made under policy"):
        trail.set_policy(third, approved(forged, ALICE, BOB, at=datetime.now(UTC)))

    assert [FIRST, second] == history(trail)


def test_a_plan_of_another_kind_changes_no_policy(trail: indelible.Trail) -> None:
    """Who has approved something else has not approved this."""
    second = shop(LOOSER, after=FIRST)
    plan = msgspec.structs.replace(trail.plan_policy(second), kind="grant")

    with pytest.raises(NotApproved, match="is not for policy"):
        trail.set_policy(second, approved(plan, ALICE, BOB, at=datetime.now(UTC)))


def test_what_is_no_plan_or_approval_is_refused(trail: indelible.Trail) -> None:
    """A damaged or forged file ends in an error, and in no change."""
    second = shop(LOOSER, after=FIRST)
    plan = trail.plan_policy(second)
    forger = SigningKey.from_seed("bob", b"x" * 32)

    with pytest.raises(Malformed):
        trail.set_policy(second, Consent(plan=plan.to_bytes()[:-1]))
    with pytest.raises(Malformed):
        trail.set_policy(second, Consent(plan=plan.to_bytes(), approvals=(b"yes",)))
    with pytest.raises(InvalidSignature):
        trail.set_policy(second, approved(plan, ALICE, forger, at=datetime.now(UTC)))

    assert [FIRST] == history(trail)


def test_an_approval_expires(trail: indelible.Trail) -> None:
    """A change that nobody carried out within the time is approved anew or not at all."""
    second = shop(LOOSER, after=FIRST)
    plan = trail.plan_policy(second)
    consent = approved(plan, ALICE, BOB)

    with pytest.raises(NotApproved, match="expired"):
        policies.change(trail, second, plan.created_at + timedelta(days=8), consent)

    policies.change(trail, second, plan.created_at + timedelta(days=6), consent)
    assert [FIRST, second] == history(trail)


COOLING = 'loosening = { approvals = { n = 1, from = ["owner"] }, cooling_off = "72h" }'


def test_who_must_wait_cannot_approve_on_the_spot(tmp_path: Path) -> None:
    """Where the policy asks for time to think, the owner alone plans first, and waits as well."""
    first = shop((OWNERS, COOLING), governed=False)
    second = shop((OWNERS, COOLING), LOOSER, after=first, governed=False)
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=first) as trail:
        with pytest.raises(NotApproved, match="found no approval, expected 1 of owner"):
            trail.set_policy(second)
        plan = trail.plan_policy(second)
        consent = Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),))
        soon, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (71, 73))

        with pytest.raises(NotApproved, match="expected not before"):
            policies.change(trail, second, soon, consent)

        policies.change(trail, second, later, consent)
        assert [first, second] == [each for each in history(trail) if each.id == "shop"]
        assert said(trail)["self_approved"] is True


# ---- Streams ----


def test_a_new_stream_is_a_log_of_its_own(trail: indelible.Trail) -> None:
    """It has a key, which is pinned and named in the custody stream, and can be verified."""
    second = shop(BILLING, after=FIRST)
    with pytest.raises(UnknownStream):
        trail.record("invoice.send", resource="invoice:1", stream="billing")

    trail.set_policy(second)
    receipt = trail.record("invoice.send", resource="invoice:1", stream="billing")

    assert ("billing", 0) == (receipt.log, receipt.index)
    assert trail.verifier_key("billing") == trail.pins().read()["billing"].key
    made = trail.search("stream:custody action:key.create").items[0].event.data
    assert {"log": "billing", "key": trail.verifier_key("billing").to_text()} == made
    assert trail.verify().passed
    assert "audit.example.com/t/billing" == trail.verifier_key("billing").name


def test_a_stream_that_is_gone_can_still_be_read(trail: indelible.Trail) -> None:
    """A policy says where entries go, not which there are."""
    second = shop(BILLING, after=FIRST)
    third = shop(after=second)
    trail.set_policy(second)
    trail.record("invoice.send", resource="invoice:1", stream="billing")

    consent = approved(trail.plan_policy(third), ALICE, BOB, at=datetime.now(UTC))
    trail.set_policy(third, consent)

    with pytest.raises(UnknownStream):
        trail.record("invoice.send", resource="invoice:2", stream="billing")
    assert "invoice.send" == trail.at("billing", 0).event.action
    assert trail.verify().passed
    again = shop(BILLING, after=third)
    trail.set_policy(again)
    assert 1 == trail.record("invoice.send", resource="invoice:2", stream="billing").index


@pytest.mark.parametrize("persists", [False, True])
def test_a_change_that_was_cut_off_is_repeated(trail: indelible.Trail, persists: bool) -> None:
    """Whether or not it took effect, the trail holds together, and repeating it makes it whole."""
    second = shop(BILLING, after=FIRST)
    owner = Owner(trail, Faulty(trail.store, persists))

    with pytest.raises(WriteUncertain):
        policies.change(owner, second, datetime.now(UTC))
    assert () == trail.verify().findings
    trail.set_policy(second)

    trail.record("invoice.send", resource="invoice:1", stream="billing")
    assert [FIRST, second] == history(trail)
    assert trail.signer("billing").verifier == trail.pins().read()["billing"].key
    assert trail.verify().passed


# ---- Damage ----


def spoil(trail: indelible.Trail, digest: bytes, statement: str, *values: object) -> None:
    """Change a document behind the trail's back."""
    trail.close()
    with closing(sqlite3.connect(trail.path / "head.db")) as head:
        assert 1 == head.execute(statement, (*values, digest)).rowcount
        head.commit()


@pytest.mark.parametrize(
    "edited",
    [
        FIRST.text.replace(
            b'"/session" = { class = "personal"', b'"/session" = { class = "public"'
        ),
        default_text(),
        b"",
        b'{"a',
    ],
)
def test_an_edited_policy_is_found(trail: indelible.Trail, edited: bytes) -> None:
    """Nobody records under a policy that was changed on the disk; the log can still be read."""
    trail.record("order.ship", resource="order:1", actor="user:alice")
    spoil(trail, FIRST.digest, "UPDATE document SET data = ? WHERE digest = ?", edited)

    with pytest.raises(Damaged, match=f"document {FIRST.digest.hex()}: is not the one that was"):
        indelible.open(trail.path)

    with indelible.open(trail.path, mode="r") as reading:
        assert not reading.verify().passed
        assert "order.ship" == reading.at("user", 0).event.action


def test_a_missing_policy_is_found(trail: indelible.Trail) -> None:
    """A document that is gone is named by its digest."""
    spoil(trail, FIRST.digest, "DELETE FROM document WHERE digest = ?")

    with pytest.raises(Damaged, match=f"document {FIRST.digest.hex()}: is missing"):
        indelible.open(trail.path)


# ---- Opened with a policy ----


def test_a_trail_is_opened_with_a_file(tmp_path: Path) -> None:
    """An application names the file of its policy, and is under it from then on."""
    file = tmp_path / "policy.toml"
    file.write_bytes(FIRST.text)
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=file) as trail:
        assert [FIRST] == history(trail)
    second = shop(TIGHTER, after=FIRST)
    file.write_bytes(second.text)

    for _ in range(2):
        with indelible.open(tmp_path / "trail", policy=str(file)) as trail:
            assert second == trail.policy
            assert [FIRST, second] == history(trail)

    with indelible.open(tmp_path / "trail") as trail:
        assert second == trail.policy


def test_a_file_that_loosens_does_not_open(trail: indelible.Trail, tmp_path: Path) -> None:
    """A deployment cannot loosen what people must approve; the trail stays as it was."""
    file = tmp_path / "policy.toml"
    file.write_bytes(shop(LOOSER, after=FIRST).text)

    with pytest.raises(NotApproved):
        indelible.open(trail.path, policy=file)

    assert [FIRST] == history(trail)
    trail.record("order.ship", resource="order:1")


def test_a_reader_sets_no_policy(trail: indelible.Trail) -> None:
    """Who opens a trail only to read sees it as it is."""
    with indelible.open(trail.path, mode="r", policy=shop(TIGHTER, after=FIRST)) as reading:
        assert FIRST == reading.policy

    assert [FIRST] == history(trail)


SETTING = """
import sys
import indelible
indelible.open(sys.argv[1], policy=sys.argv[2]).close()
"""


def test_what_another_process_set_is_seen_at_the_next_open(
    trail: indelible.Trail, tmp_path: Path
) -> None:
    """A running process goes on under the version that its entries name."""
    second = shop(TIGHTER, after=FIRST)
    file = tmp_path / "policy.toml"
    file.write_bytes(second.text)

    done = subprocess.run(
        [sys.executable, "-c", SETTING, str(trail.path), str(file)],
        env=dict(os.environ),
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (0, b"") == (done.returncode, done.stderr)
    assert [FIRST, second] == history(trail)
    trail.record("order.ship", resource="order:1")
    clear = trail.at("user", 0).clear
    assert clear is not None
    assert FIRST.label == clear.policy
    with indelible.open(trail.path) as opened:
        assert second == opened.policy


# ---- Documents ----


CODED = Policy(
    id="coded",
    streams={"user": Stream(), "custody": Stream()},
    rules=(Rule(name="all"),),
    fields={
        "*": FieldRule(class_=FieldClass.INTERNAL),
        "/session@user": FieldRule(class_=FieldClass.PUBLIC),
    },
)


def test_a_policy_built_in_code_is_kept_as_its_parts(tmp_path: Path) -> None:
    """It has a digest and a document as well, and comes back as the policy that it was."""
    with indelible.open(tmp_path / "trail", origin="audit.example.com/t", policy=CODED) as trail:
        trail.record("order.ship", resource="order:1")
    with indelible.open(tmp_path / "trail") as trail:
        assert CODED == trail.policy
        assert (CODED.label, CODED.digest) == (trail.policy.label, trail.policy.digest)
        with trail.store.read() as view:
            assert policies.text_of(CODED) == policies.document(view, CODED.digest)


@pytest.mark.parametrize("made", [FIRST, CODED, default()])
def test_a_document_is_read_as_it_was_written(made: Policy) -> None:
    """Text and policy lead to each other."""
    text = policies.text_of(made)

    found = policies.parse(text)

    assert made == found
    assert text == policies.text_of(found)


@pytest.mark.parametrize(
    "data", [b'{"', b'{"id":1}', b'{"id":"a","streams":{},"rules":[{"unknown":1}]}', b"[", b"\xff"]
)
def test_what_is_no_policy_is_refused(data: bytes) -> None:
    """Whatever lies in a document: it is a policy, or it is an error that says so."""
    with pytest.raises(InvalidPolicy):
        policies.parse(data)


def test_a_store_that_fails_changes_nothing(trail: indelible.Trail) -> None:
    """Either the version, its document and its logs are all there, or none of them is."""
    second = shop(BILLING, after=FIRST)
    owner = Owner(trail, Faulty(trail.store, False, error=lambda: StoreError("full")))

    with pytest.raises(StoreError, match="full"):
        policies.change(owner, second, datetime.now(UTC))

    assert [FIRST] == history(trail)
    with trail.store.read() as view:
        assert view.document(second.digest) is None
        assert "billing" not in view.heads()
