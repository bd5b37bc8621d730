"""An outsider with a folder and a key knows what an entry said, and what became of the rest."""

from __future__ import annotations

import shutil
from base64 import b64encode, urlsafe_b64decode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible import evidence, expiry, policies, query
from indelible.accounting import account
from indelible.approval import Approval
from indelible.box import ValueState
from indelible.checkpoint import Checkpoint
from indelible.covers import Covers
from indelible.custody import own_event
from indelible.entry import microseconds
from indelible.errors import CallerError, Forbidden, VerificationError
from indelible.event import Actor, Change, Client, Event, Outcome, Rationale, Resource
from indelible.evidence import UNPROVEN, Chosen, check, pack, verify
from indelible.keys import SigningKey, read_key
from indelible.log import append, head_of
from indelible.plan import Covered, Plan
from indelible.policies import Consent
from indelible.policy import CUSTODY
from indelible.proof import Proof
from indelible.store import Forgotten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.evidence import EvidenceVerdict
    from indelible.note import VerifierKey
    from indelible.trail import Trail

ALICE = SigningKey.from_seed("alice", b"a" * 32)
BOB = SigningKey.from_seed("bob", b"b" * 32)

POLICY = f"""\
policy = {{ id = "shop", version = 1 }}
[streams]
user = {{}}
[[rule]]
name = "all"
action = "*"
stream = "user"
[fields]
"*" = {{ class = "personal" }}
"/actor/id" = {{ class = "accountable", subject = "actor", search = "exact" }}
"/resource/id" = {{ class = "personal", subject = "resource", search = "exact" }}
"/changes/*" = {{ class = "personal", subject = "resource" }}
"/rationale" = {{ class = "internal" }}
"/client/ip" = {{ class = "personal", subject = "actor", ceiling = "30d" }}
[people.alice]
name = "The data protection officer"
key = "ed25519:{b64encode(ALICE.verifier.public).decode()}"
roles = ["dpo"]
[people.bob]
name = "The head of audit"
key = "ed25519:{b64encode(BOB.verifier.public).decode()}"
roles = ["audit"]
[governance.erasure]
approvals = {{ n = 2, from = ["dpo", "audit"] }}
""".encode()

SECRETS = {
    "/actor/id": b"u-nina",
    "/resource/id": b"c-omar",
    "/changes/email": b"omar@example.com",
    "/rationale": b"asked by telephone",
    "/client/ip": b"203.0.113.77",
}
"""What each value of the entry holds, in the order of the entry."""

PATHS = tuple(SECRETS)
ERASED = ("/changes/email", "/resource/id")


def event(number: int, customer: str = "c-omar") -> Event:
    """Return an event with values."""
    return Event(
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor(type="user", id="u-nina"),
        resource=Resource(type="customer", id=customer),
        changes={"email": Change(None, "omar@example.com")},
        client=Client(ip="203.0.113.77"),
        rationale=Rationale(text=f"asked by telephone {number}"),
    )


def approved(plan: Plan) -> Consent:
    """Return *plan* with the approvals that the policy asks for."""
    notes = [Approval.sign(plan, key.name, key, datetime.now(UTC)) for key in (ALICE, BOB)]
    return Consent(plan=plan.to_bytes(), approvals=tuple(notes))


def ids_of(audit: Trail) -> list[str]:
    """Return the ids of the events in the order of the log."""
    with audit.store.read() as view:
        size = view.heads()["user"].size
        return [item.event.id for item in query.items(view, "user", range(size))]


@dataclass(frozen=True)
class Given:
    """
    A trail in which the customer of entry 3 was erased, and evidence of that entry.

    Attributes:
        first: The keys that the logs began with.
        keys: Those that sign now.
        old: The key that signed the stream ``user`` before, which was stolen.
    """

    trail: Path
    folder: Path
    first: list[VerifierKey]
    keys: list[VerifierKey]
    old: SigningKey


@pytest.fixture(scope="module", autouse=True)
def _configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep pins where nothing of the user's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Make the trail, rotate its keys before and after the erasure, and write the evidence."""
    root = tmp_path_factory.mktemp("given")
    policy = policies.parse(POLICY)
    with indelible.open(root / "trail", origin="audit.example.com/shop", policy=policy) as audit:
        first = [audit.verifier_key(stream) for stream in ("user", CUSTODY)]
        audit.record_many([event(number, f"c-{number}") for number in range(3)])
        audit.record(event(3))
        old = read_key(root / "trail/keys/user.key")
        audit.rotate_key("user")
        audit.rotate_key(CUSTODY)
        audit.record_many([event(number, f"c-{number}") for number in range(4, 300)])
        audit.erase(approved(audit.plan_erasure("customer:c-omar", basis="GDPR Art. 17")))
        audit.rotate_key(CUSTODY)
        audit.record(event(300, "c-300"))
        audit.disclose(ids_of(audit)[3], root / "folder", paths=["/actor/id"])
        keys = [audit.verifier_key(stream) for stream in ("user", CUSTODY)]
    return Given(trail=root / "trail", folder=root / "folder", first=first, keys=keys, old=old)


@pytest.fixture
def folder(given: Given, tmp_path: Path) -> Path:
    """Return a copy of the evidence, to spoil."""
    return shutil.copytree(given.folder, tmp_path / "folder")


def states_of(verdict: EvidenceVerdict) -> dict[str, tuple[str, bool]]:
    """Return of each value its state, and whether that is proven."""
    return {each.path: (each.state, each.proven) for each in verdict.values}


# ---- What it shows ----


def test_a_folder_and_the_keys_show_an_entry_and_its_values(given: Given) -> None:
    """What was opened is proven, and so is which erasure took the rest, and who approved it."""
    verdict = verify(given.folder, given.keys)

    assert ("user", 3) == (verdict.log, verdict.entry.index)
    assert "u-nina" == next(each.value for each in verdict.values if each.path == "/actor/id")
    assert {
        "/actor/id": ("OPEN", True),
        "/resource/id": ("ERASED", True),
        "/changes/email": ("ERASED", True),
        "/rationale": ("WITHHELD", False),
        "/client/ip": ("WITHHELD", False),
    } == states_of(verdict)
    assert [("GDPR Art. 17", ("alice", "bob"), False)] == [
        (each.basis, each.approved_by, each.self_approved) for each in verdict.removals
    ]
    assert any(text.startswith("2 values: ") for text in verdict.does_not_show)


def test_values_that_were_not_chosen_are_nowhere_in_it(given: Given) -> None:
    """No file of the folder holds another value, nor the salt that one could be guessed by."""
    with indelible.open(given.trail, mode="r") as audit, audit.store.read() as view:
        (item,) = query.items(view, "user", [3])
        opener = audit.vault.opener(audit.viewer, audit.policy)
        chosen = evidence.choose(view, opener, item)
    salts = {path: data[2:45] for path, data in chosen.opened.items()}

    files = {path: path.read_bytes() for path in given.folder.rglob("*") if path.is_file()}

    hidden = [value for path, value in SECRETS.items() if path != "/actor/id"]
    hidden += [salt for path, salt in salts.items() if path != "/actor/id"]
    assert {"/actor/id", "/rationale", "/client/ip"} == set(salts)
    assert [] == [path for path, data in files.items() for each in hidden if each in data]
    assert any(SECRETS["/actor/id"] in data for data in files.values())


def test_sha256_alone_shows_what_was_opened(given: Given) -> None:
    """As the folder says of itself, no tool of ours is needed to check a value."""
    spine = msgspec.json.decode((given.folder / "spine.json").read_bytes())
    entry = msgspec.json.decode((given.folder / "entry.json").read_bytes())
    disclosure = (given.folder / "disclosures/00.json").read_bytes()

    level = [bytes.fromhex(leaf) for leaf in spine]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [
            sha256(b"\1" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs
        ]

    assert spine[0] == sha256(b"\0" + disclosure).hexdigest()
    assert level[0] == urlsafe_b64decode(entry["event"]["commitment"] + "=")
    assert "/actor/id" == entry["event"]["committed"][0]


def test_all_that_the_role_sees_can_be_opened(given: Given, tmp_path: Path) -> None:
    """Without a choice, everything that is left is opened, and what is gone stays gone."""
    with indelible.open(given.trail) as audit:
        audit.disclose(ids_of(audit)[3], tmp_path / "all")

    verdict = verify(tmp_path / "all", given.keys)

    assert {"OPEN", "ERASED"} == {state for state, _ in states_of(verdict).values()}
    assert all(each.proven for each in verdict.values)


def test_an_entry_without_values_is_evidence_as_well(given: Given, tmp_path: Path) -> None:
    """What an entry says in clear needs no more than its proof."""
    with indelible.open(given.trail, mode="r") as audit:
        audit.disclose(audit.at(CUSTODY, 0).event.id, tmp_path / "custody")

    verdict = verify(tmp_path / "custody", given.keys)

    assert "trail.create" == verdict.clear.action
    assert () == verdict.values


def test_what_the_owner_alone_approved_is_said(tmp_path: Path) -> None:
    """Evidence of a self-approved erasure says so, in the verdict and to people."""
    with indelible.open(tmp_path / "trail", origin="audit.example.com/own") as audit:
        audit.record(event(0))
        plan = audit.plan_erasure("customer:c-omar", basis="GDPR Art. 17")
        audit.erase(Consent(plan=plan.to_bytes(), approvals=(audit.approve(plan),)))
        audit.disclose(ids_of(audit)[0], tmp_path / "folder", paths=[])
        keys = [audit.verifier_key(stream) for stream in ("user", CUSTODY)]

    verdict = verify(tmp_path / "folder", keys)

    assert [True] == [each.self_approved for each in verdict.removals]
    assert any("(self-approved)" in text for text in verdict.does_not_show)
    assert "(self-approved)" in (tmp_path / "folder/README.txt").read_text("utf-8")


def test_a_purge_after_the_ceiling_is_proven(given: Given, tmp_path: Path) -> None:
    """A value that retention has released is gone by the policy alone, which the folder holds."""
    trail = shutil.copytree(given.trail, tmp_path / "trail")
    later = datetime.now(UTC) + timedelta(days=31)
    with indelible.open(trail) as audit:
        plan = expiry.plan_expiry(audit, later)
        expiry.carry_out(audit, Consent(plan=plan.to_bytes()), later)
        audit.disclose(ids_of(audit)[3], tmp_path / "folder", paths=[])

    verdict = verify(tmp_path / "folder", given.keys)

    assert ("PURGED", True) == states_of(verdict)["/client/ip"]
    assert {ValueState.ERASED: ("alice", "bob"), ValueState.PURGED: ()} == {
        each.state: each.approved_by for each in verdict.removals
    }


# ---- Who may hand out what ----


def test_a_role_hands_out_only_what_it_sees(given: Given, tmp_path: Path) -> None:
    """What is withheld from a reader cannot be passed on by them, nor as a pseudonym's ground."""
    for case in (None, "case-7"):
        with indelible.open(given.trail, mode="r", role="reader", case=case) as audit:
            event_id = ids_of(audit)[3]

            with pytest.raises(Forbidden):
                audit.disclose(event_id, tmp_path / "no", paths=["/actor/id"])
            audit.disclose(event_id, tmp_path / f"all-{case}")

        verdict = verify(tmp_path / f"all-{case}", given.keys)
        assert {"WITHHELD", "ERASED"} == {state for state, _ in states_of(verdict).values()}
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("path", ["/changes/email", "/changes/phone", "email"])
def test_what_is_not_there_cannot_be_handed_out(given: Given, tmp_path: Path, path: str) -> None:
    """A value that was erased, or never was, is the caller's error, and nothing is written."""
    with (
        indelible.open(given.trail, mode="r") as audit,
        pytest.raises(CallerError, match="found"),
    ):
        audit.disclose(ids_of(audit)[3], tmp_path / "no", paths=[path])

    assert not (tmp_path / "no").exists()


def test_handing_out_is_recorded(given: Given, tmp_path: Path) -> None:
    """Which values of which entry were opened for an outsider, and why, is a custody entry."""
    trail = shutil.copytree(given.trail, tmp_path / "trail")
    with indelible.open(trail, role="privacy_officer", purpose="court order 7") as audit:
        event_id = ids_of(audit)[3]
        audit.disclose(event_id, tmp_path / "folder", paths=["/actor/id", "/client/ip"])

        said = audit.search("stream:custody action:values.open", limit=1).items[0].event

    assert said.rationale is not None
    assert "court order 7" == said.rationale.text
    assert f"id:{event_id} /actor/id /client/ip" == said.data["query"]


def test_evidence_is_not_overwritten(given: Given, folder: Path) -> None:
    """A folder that holds something is left as it is."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with indelible.open(given.trail, mode="r") as audit, pytest.raises(CallerError, match="holds"):
        audit.disclose(ids_of(audit)[4], folder, paths=[])

    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- What does not hold ----


def edited(name: str, before: bytes, after: bytes) -> Callable[[Path], None]:
    """Return what changes the file with this name, or the first that begins so."""

    def edit(folder: Path) -> None:
        path = next(iter(sorted(folder.glob(name))))
        data = path.read_bytes()
        assert before in data
        path.write_bytes(data.replace(before, after, 1))

    return edit


def _swapped(one: str, other: str) -> Callable[[Path], None]:
    def swap(folder: Path) -> None:
        first, second = folder / one, max(folder.glob(other))
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)

    return swap


def removed(name: str) -> Callable[[Path], None]:
    """Return what removes the files with this name."""

    def remove(folder: Path) -> None:
        found = list(folder.glob(name))
        assert found
        for path in found:
            path.unlink()

    return remove


def _claims(path: str, **said: Any) -> Callable[[Path], None]:
    def claim(folder: Path) -> None:
        states = msgspec.json.decode((folder / "states.json").read_bytes())
        erased = next(each for each in states["states"] if each["state"] == "ERASED")
        for each in states["states"]:
            if each["path"] == path:
                each.clear()
                each.update(
                    {"path": path, **{name: value or erased[name] for name, value in said.items()}}
                )
        (folder / "states.json").write_bytes(msgspec.json.encode(states))

    return claim


def _renamed(before: str, after: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        (folder / before).rename(folder / after)

    return rename


def _doubled(folder: Path) -> None:
    states = msgspec.json.decode((folder / "states.json").read_bytes())
    states["states"].append(states["states"][0])
    (folder / "states.json").write_bytes(msgspec.json.encode(states))


def _forgotten(folder: Path) -> None:
    states = msgspec.json.decode((folder / "states.json").read_bytes())
    states["states"].pop()
    (folder / "states.json").write_bytes(msgspec.json.encode(states))


def _moved(folder: Path) -> None:
    (folder / "disclosures/00.json").rename(folder / "disclosures/03.json")
    states = msgspec.json.decode((folder / "states.json").read_bytes())
    for each in states["states"]:
        if each["path"] == PATHS[3]:
            each["path"] = PATHS[0]
    (folder / "states.json").write_bytes(msgspec.json.encode(states))


def _other_hashes(folder: Path) -> None:
    spine = msgspec.json.decode((folder / "spine.json").read_bytes())
    (folder / "spine.json").write_bytes(msgspec.json.encode(spine[::-1]))


SPOILED = {
    "another entry": (
        edited("entry.json", b'"outcome":"success"', b'"outcome":"failure"'),
        "inclusion proof",
    ),
    "another place": (edited("proof.tlog-proof", b"index 3", b"index 2"), "expected 3"),
    "another tree": (edited("proof.tlog-proof", b"\n301\n", b"\n302\n"), "signature"),
    "another value": (edited("disclosures/00.json", b"u-nina", b"u-vera"), "committed"),
    "another place of a value": (_moved, "found path '/actor/id', expected '/rationale'"),
    "a value that has no place": (
        _renamed("disclosures/00.json", "disclosures/77.json"),
        "say nothing of /actor/id",
    ),
    "a value without leaf hashes": (removed("spine.json"), "found no spine"),
    "other leaf hashes": (_other_hashes, "has root"),
    "more leaf hashes": (
        edited("spine.json", b'["', b'["' + b"0" * 64 + b'","'),
        "a hash in hex for each of 5",
    ),
    "no states": (removed("states.json"), "is missing"),
    "no proof": (removed("proof.tlog-proof"), "is missing"),
    "another version": (edited("states.json", b"evidence/1", b"evidence/2"), "exact form"),
    "loose states": (edited("states.json", b'"v":', b'"v": '), "exact form"),
    "a path twice": (_doubled, "a path twice"),
    "a path left out": (_forgotten, "say nothing of /client/ip"),
    "an unopened value that is open": (_claims("/rationale", state="OPEN"), "no disclosure"),
    "an erasure that does not cover it": (
        _claims("/rationale", state="ERASED", entry="", policy=""),
        "does not cover it",
    ),
    "a purge that was an erasure": (
        _claims("/changes/email", state="PURGED", entry="", policy=""),
        "does not cover it",
    ),
    "an erasure by no entry": (_claims("/changes/email", state="ERASED"), "found no entry"),
    "an entry of another log": (
        _claims("/changes/email", state="ERASED", entry="user#3", policy=""),
        "an entry of the custody log",
    ),
    "a policy that was set after it": (
        _claims("/changes/email", state="ERASED", entry="", policy="custody#7"),
        "expected policy.set",
    ),
    "an entry for what is kept": (
        _claims("/rationale", state="WITHHELD", entry=""),
        "an entry for",
    ),
    "another plan": (edited("covers/plan-*.json", b'"user",3,', b'"user",4,'), "not the document"),
    "another policy": (edited("covers/policy-*.txt", b"n = 2", b"n = 0"), "not the document"),
    "another custody entry": (
        edited("covers/custody-*.json", b'"outcome":"success"', b'"outcome":"failure"'),
        "inclusion proof",
    ),
    "custody entries that changed places": (
        _swapped("covers/custody-0.json", "covers/custody-*.json"),
        "inclusion proof",
    ),
    "no proof of a handover": (removed("rotations/*-0.consistency"), "is missing"),
    "another past": (edited("rotations/custody-0.consistency", b"=\n", b"=\n=\n"), "base64"),
    "another handover": (edited("rotations/user-0.note", b"rotation/1", b"rotation/2"), "rotation"),
}


@pytest.mark.parametrize(
    ("spoil", "why"), SPOILED.values(), ids=[name.replace(" ", "-") for name in SPOILED]
)
def test_whatever_is_changed_in_it_is_refused(
    given: Given, folder: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """Nothing that the folder says is believed against what the log's keys have signed."""
    spoil(folder)

    with pytest.raises(VerificationError, match=why):
        verify(folder, given.first)


@pytest.mark.parametrize(
    ("name", "wanting"),
    [
        ("covers/custody-*", "is not there"),
        ("covers/plan-*", "is not there"),
        ("covers/policy-*", "is not there"),
        ("covers/custody-0.*", "is not there"),
    ],
)
def test_an_erasure_that_is_not_shown_is_unproven(
    given: Given, folder: Path, name: str, wanting: str
) -> None:
    """Where a part is wanting, a value is said to be gone, and never called erased."""
    removed(name)(folder)

    verdict = verify(folder, given.keys)

    states = states_of(verdict)
    assert {(UNPROVEN, False)} == {states[path] for path in ERASED}
    assert all(wanting in each.why for each in verdict.values if each.path in ERASED)
    assert ("OPEN", True) == states["/actor/id"]
    assert any(text.startswith("/changes/email: ") for text in verdict.does_not_show)


def test_without_the_custody_key_no_erasure_is_proven(given: Given) -> None:
    """Whoever trusts only the log's key learns what the entry says, and no more."""
    verdict = verify(given.folder, given.keys[:1])

    assert {UNPROVEN} == {states_of(verdict)[path][0] for path in ERASED}
    assert () == verdict.removals


def test_without_the_logs_key_nothing_is_shown(given: Given) -> None:
    """A verifier key of another log is the caller's error."""
    with pytest.raises(CallerError, match=r"audit\.example\.com/shop/user"):
        verify(given.folder, given.keys[1:])


def test_a_strangers_key_is_refused(given: Given) -> None:
    """A key of the right name that has signed nothing proves nothing."""
    stranger = SigningKey.generate("audit.example.com/shop/user").verifier

    with pytest.raises(VerificationError):
        verify(given.folder, [stranger, given.keys[1]])


def test_what_is_no_folder_of_evidence_is_the_callers_error(tmp_path: Path) -> None:
    """An empty or missing folder is named."""
    with pytest.raises(CallerError, match="evidence"):
        verify(tmp_path, [])
    with pytest.raises(CallerError, match="missing"):
        verify(tmp_path / "missing", [])


# ---- Keys that were replaced ----


def test_the_pinned_key_leads_to_the_one_of_today(given: Given) -> None:
    """Whoever has the key that a log began with can go on verifying, over every handover."""
    by_first = verify(given.folder, given.first)
    by_last = verify(given.folder, given.keys)

    assert by_first == by_last
    assert given.keys[0] == by_first.key != given.first[0]


def test_a_key_that_was_replaced_signs_no_more(given: Given, folder: Path) -> None:
    """A checkpoint that a stolen old key has signed is refused, whatever it is over."""
    proof = Proof.from_bytes((folder / "proof.tlog-proof").read_bytes())
    checkpoint = Checkpoint.open(proof.checkpoint, given.keys)
    stolen = Proof(
        index=proof.index, hashes=proof.hashes, checkpoint=checkpoint.sign(given.old).to_bytes()
    )
    (folder / "proof.tlog-proof").write_bytes(stolen.to_bytes())

    with pytest.raises(VerificationError):
        verify(folder, given.first)


# ---- Packs by whoever holds the keys of the trail ----


def forged(
    audit: Trail, later: timedelta, *, action: str, kind: str, paths: tuple[str, ...], **said: Any
) -> dict[str, bytes]:
    """Return evidence that a value of entry 5 is gone by an entry that does not count."""
    now = datetime.now(UTC)
    with audit.store.read() as view:
        sizes = {head.origin: head.size for head in view.heads().values()}
    plan = Plan(
        kind=kind,  # type: ignore[arg-type]  # of the test's choice
        trail=audit.id,
        logs=sizes,
        policy=audit.policy.digest.hex(),
        requester="owner",
        basis="none",
        nonce=bytes(16),
        created_at=now,
        not_before=now,
        expires=now + timedelta(days=90),
        cover=(Covered(log="user", index=5, paths=paths),),
    )
    digest = plan.digest.hex()
    event = own_event(audit.id, action, plan=digest, cover_root=plan.cover_root.hex(), **said)
    with audit.store.write() as transaction:
        transaction.add_document(plan.to_bytes())
        head = head_of(transaction.heads(), CUSTODY)
        at = microseconds(now + later)
        append(transaction, head, [event], audit.signer_of(head), at)
    with audit.store.read() as view:
        (item,) = query.items(view, "user", [5])
        cover = Covers.read(view).covers[digest]
        opener = audit.vault.opener(audit.viewer, audit.policy)
        honest = evidence.choose(view, opener, item, [])
        states = {
            path: (cover.state, cover.entry) if path in paths else state
            for path, state in honest.states.items()
        }
        return pack(
            view, Chosen(item=item, opened={}, states=states, spine=honest.spine, covers=(cover,))
        )


@pytest.mark.parametrize(
    ("later", "action", "kind"),
    [
        (timedelta(0), "erase.begin", "erase"),
        (timedelta(days=29), "purge.begin", "purge"),
        (timedelta(days=31), "purge.begin", "erase"),
    ],
)
def test_who_holds_the_keys_cannot_show_an_erasure_that_does_not_count(
    given: Given, tmp_path: Path, later: timedelta, action: str, kind: str
) -> None:
    """An entry that is proven, but unapproved or before its time, is refused by the outsider."""
    with indelible.open(shutil.copytree(given.trail, tmp_path / "trail")) as audit:
        files = forged(audit, later, action=action, kind=kind, paths=("/client/ip",))

    with pytest.raises(VerificationError):
        check(files, given.keys)


def test_a_value_that_is_missing_is_shown_as_missing(given: Given, tmp_path: Path) -> None:
    """What somebody deleted quietly is no better for being put into a folder."""
    with indelible.open(shutil.copytree(given.trail, tmp_path / "trail")) as audit:
        audit.store.forget({"user": {5: Forgotten()}})
        with audit.store.read() as view:
            missing = account(view, audit.vault).totals[ValueState.MISSING]
        audit.disclose(ids_of(audit)[5], tmp_path / "folder", paths=[])

    verdict = verify(tmp_path / "folder", given.keys)

    assert len(PATHS) == missing
    assert {("MISSING", False)} == set(states_of(verdict).values())
    assert any(text.endswith("why it is MISSING") for text in verdict.does_not_show)


# ---- For people ----


class _Page(HTMLParser):
    """Collects what a page loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_the_page_runs_nothing_and_loads_nothing(tmp_path: Path) -> None:
    """Whatever a value holds, the page shows it as text; it asks nobody for anything."""
    nasty = "<script>alert(1)</script><img src=https://example.com/x onerror=alert(1)>\u202e"
    with indelible.open(tmp_path / "trail", origin="audit.example.com/nasty") as audit:
        audit.record(msgspec.structs.replace(event(0), rationale=Rationale(text=nasty)))
        audit.disclose(ids_of(audit)[0], tmp_path / "folder")

    text = (tmp_path / "folder/index.html").read_text("utf-8")
    page = _Page()
    page.feed(text)

    assert {"script", "img", "link", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href"} or name[:2] == "on"]
    assert "&lt;script&gt;alert(1)" in text
    assert "\u202e" not in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text


def test_people_read_what_the_verifier_finds(given: Given) -> None:
    """Both texts name the value that was opened, the erasure, and what is not shown."""
    verdict = verify(given.folder, given.keys)

    texts = [(given.folder / name).read_text("utf-8") for name in ("README.txt", "index.html")]

    for text in texts:
        assert "/actor/id" in text
        assert verdict.removals[0].entry in text
        assert "alice, bob" in text
        assert "GDPR Art. 17" in text
        assert verdict.checkpoint.root.hex() in text
    assert "u-nina" in texts[1]
    assert all(limit in texts[0] for limit in verdict.does_not_show)
