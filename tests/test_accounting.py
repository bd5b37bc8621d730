"""Whoever changes, removes or puts back a value behind the trail's back is found and named."""

from __future__ import annotations

import shutil
import sqlite3
from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible import policies
from indelible.accounting import MAX_ALARMS, account, account_for
from indelible.approval import Approval
from indelible.box import Box, Row, ValueState
from indelible.custody import own_event
from indelible.entry import microseconds
from indelible.event import (
    Actor,
    Change,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Source,
)
from indelible.keys import SigningKey
from indelible.log import append, head_of
from indelible.plan import Covered, Plan
from indelible.policies import Consent
from indelible.policy import CUSTODY
from indelible.seal import NETTED
from indelible.segment import SEGMENT, Lookups
from indelible.store import Forgotten
from indelible.terms import Field
from indelible.verdict import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from indelible.accounting import Accounts
    from indelible.policy import Policy
    from indelible.trail import Trail
    from indelible.verdict import Verdict

MISSING, TAMPERED = ValueState.MISSING, ValueState.TAMPERED

KEYS = {
    name: SigningKey.from_seed(name, bytes([n]) * 32) for n, name in enumerate(["alice", "bob"])
}
STRANGER = SigningKey.from_seed("alice", b"s" * 32)
NOBODY = SigningKey.from_seed("carol", b"c" * 32)

POLICY = """\
policy = {{ id = "shop", version = 1 }}
[streams]
user = {{ retention = "short" }}
[retention]
short = {{ ceiling = "30d" }}
[[rule]]
name = "all"
action = "*"
stream = "user"
[fields]
"*" = {{ class = "personal" }}
"/actor/id" = {{ class = "accountable", subject = "actor", search = "exact" }}
"/actor/id@service" = {{ class = "public" }}
"/resource/id" = {{ class = "public" }}
"/resource/id@customer" = {{ class = "personal", subject = "resource", search = "exact" }}
"/changes/*" = {{ class = "personal", subject = "resource" }}
"/rationale" = {{ class = "internal" }}
[people.alice]
name = "The data protection officer"
key = "ed25519:{alice}"
roles = ["dpo"]
[people.bob]
name = "The head of audit"
key = "ed25519:{bob}"
roles = ["audit"]
[governance.erasure]
approvals = {{ n = 2, from = ["dpo", "audit"], valid = "7d" }}
[governance.loosening]
approvals = {{ n = 1, from = ["dpo"] }}
"""

VALUES = ("/actor/id", "/resource/id", "/changes/email", "/rationale")
"""Those of every entry about a customer, in the order of the entry."""

ERASED = ("/changes/email", "/resource/id")
"""Those that are the customer's."""

PLACES = {"closed": 10, "open": SEGMENT + 10}
"""Entries about customer 7 that were not erased, in a closed segment and after it."""

GONE = {"closed": 0, "open": SEGMENT}
"""Entries about customer 8, whose values were erased."""


SHORT = 10
"""An entry about customer 7 in the trail without a closed segment."""

LATER = 1_000
"""Five entries about customer 9 begin here, far from the others."""


def policy_text(**people: SigningKey) -> bytes:
    """Return the policy under which *people* approve, by default those whose keys we have."""
    keys = {**KEYS, **people}
    public = {name: b64encode(key.verifier.public).decode() for name, key in keys.items()}
    return POLICY.format(**public).encode()


def about(customer: str, number: int) -> Event:
    """Return an event with values of user *number* and of a customer."""
    return Event(
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor(type="user", id=f"u{number}"),
        resource=Resource(type="customer", id=customer),
        changes={"email": Change(f"old{number}@example.com", f"new{number}@example.com")},
        rationale=Rationale(text=f"request {number}"),
    )


def plain(number: int) -> Event:
    """Return an event that commits to nothing."""
    return Event(
        action="order.ship",
        outcome=Outcome.SUCCESS,
        actor=Actor(type="service", id="shop"),
        resource=Resource(type="order", id=str(number)),
    )


def approved(plan: Plan, at: datetime | None = None) -> Consent:
    """Return the *plan* with the approvals that the policy asks for."""
    at = datetime.now(UTC) if at is None else at
    notes = tuple(Approval.sign(plan, name, key, at) for name, key in KEYS.items())
    return Consent(plan=plan.to_bytes(), approvals=notes)


EVENTS = (
    *(about("8", number) for number in range(5)),
    *(plain(number) for number in range(5, 10)),
    *(about("7", number) for number in range(10, 15)),
)


@dataclass(frozen=True)
class Kept:
    """A trail before and after values of customer 8 were erased, and the pins of both."""

    before: Path
    after: Path
    pins: Path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Make a trail with a closed segment and entries after it, and erase what is of customer 8."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(root / "pins"))
        path = root / "trail"
        policy = policies.parse(policy_text())
        with indelible.open(path, origin="audit.example.com/shop", policy=policy) as audit:
            later = [plain(number) for number in range(15, LATER)]
            later += [about("9", number) for number in range(LATER, LATER + 5)]
            later += [plain(number) for number in range(LATER + 5, SEGMENT)]
            audit.record_many([*EVENTS, *later], batch=8_192)
            audit.settle()
            audit.record_many(EVENTS)
        shutil.copytree(path, root / "before")
        with indelible.open(path) as audit:
            audit.erase(approved(audit.plan_erasure("customer:8", basis="GDPR Art. 17")))
        yield Kept(before=root / "before", after=path, pins=root / "pins")


@pytest.fixture
def trail(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the trail after the erasure, to spoil."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shutil.copytree(kept.pins, tmp_path / "pins")))
    return shutil.copytree(kept.after, tmp_path / "trail")


@pytest.fixture(scope="module")
def kept_short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a trail of a few entries, erase what is of customer 8, and keep its pins beside it."""
    root = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(root / "pins"))
        policy = policies.parse(policy_text())
        with indelible.open(root / "trail", origin="audit.example.com/short", policy=policy) as it:
            it.record_many(EVENTS)
            it.erase(approved(it.plan_erasure("customer:8", basis="GDPR Art. 17")))
    return root


@pytest.fixture
def short(kept_short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it, for what custody and plans say; verifying it takes no time."""
    pins = shutil.copytree(kept_short / "pins", tmp_path / "pins")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pins))
    return shutil.copytree(kept_short / "trail", tmp_path / "trail")


def verdict_on(path: Path) -> Verdict:
    """Verify the trail at *path*."""
    with indelible.open(path, mode="r") as audit:
        return audit.verify()


def accounts_of(path: Path) -> Accounts:
    """Account for the values of the trail at *path*."""
    with indelible.open(path, mode="r") as audit, audit.store.read() as view:
        return account(view, audit.vault)


def alarms_of(path: Path) -> set[tuple[int, str, ValueState]]:
    """Return the values of the stream ``user`` that are alarms; each of them is a finding."""
    accounts = accounts_of(path)
    verdict = verdict_on(path)
    said = {(finding.where, finding.what.partition(":")[0]) for finding in verdict.findings}
    assert {(f"entry {a.index} {a.path}", str(a.state)) for a in accounts.alarms} <= said
    assert Level.TAMPERED == verdict.level
    return {(each.index, each.path, each.state) for each in accounts.alarms if each.log == "user"}


class Rows:
    """The rows of the vault, for somebody who can write the files of the trail."""

    def __init__(self, path: Path, index: int) -> None:
        closed = index < SEGMENT
        self._file = path / ("vault/user/000000" if closed else "head.db")
        self._where = ("place", 0) if closed else ("key", self._first())

    def _first(self) -> int:
        with closing(sqlite3.connect(self._file)) as file:
            (number,) = file.execute("SELECT number FROM log WHERE name = 'user'").fetchone()
        return int(number) << 40

    def __getitem__(self, index: int) -> Row:
        column, first = self._where
        with closing(sqlite3.connect(self._file)) as file:
            (row,) = file.execute(
                f"SELECT row FROM vault WHERE {column} = ?",  # noqa: S608
                (first + index,),
            ).fetchone()
        return Row.from_bytes(row)

    def __setitem__(self, index: int, row: Row | bytes) -> None:
        column, first = self._where
        data = row if isinstance(row, bytes) else row.to_bytes()
        with closing(sqlite3.connect(self._file)) as file, file:
            file.execute(
                f"INSERT OR REPLACE INTO vault ({column}, row) VALUES (?, ?)",  # noqa: S608
                (first + index, data),
            )

    def __delitem__(self, index: int) -> None:
        column, first = self._where
        with closing(sqlite3.connect(self._file)) as file, file:
            file.execute(f"DELETE FROM vault WHERE {column} = ?", (first + index,))  # noqa: S608


def with_boxes(row: Row, boxes: Sequence[Box]) -> Row:
    """Return *row* with other boxes."""
    return Row(row.spine, tuple(boxes))


def box_of(row: Row, path: str) -> Box:
    """Return the box of *row* that opens the value at *path*."""
    return next(box for box in row.boxes if VALUES.index(path) in box.positions)


def edit_documents(path: Path, before: bytes, after: bytes | None) -> None:
    """Change each document that the trail keeps and that holds *before*, or remove it."""
    with closing(sqlite3.connect(path / "head.db")) as file, file:
        for digest, data in file.execute("SELECT digest, data FROM document").fetchall():
            if before in data and after is None:
                file.execute("DELETE FROM document WHERE digest = ?", (digest,))
            elif before in data and after is not None:
                changed = (data.replace(before, after), digest)
                file.execute("UPDATE document SET data = ? WHERE digest = ?", changed)


def edit_tail(path: Path, before: bytes, after: bytes) -> None:
    """Change an entry after the last complete tile of a log."""
    with closing(sqlite3.connect(path / "head.db")) as file, file:
        rows = file.execute("SELECT key, bodies FROM tail").fetchall()
        changed = [(data.replace(before, after), key) for key, data in rows if before in data]
        file.executemany("UPDATE tail SET bodies = ? WHERE key = ?", changed)
    assert changed


# ---- As it should be ----


def test_every_value_has_one_state(trail: Path) -> None:
    """What was erased with approvals is erased by an entry, all else is open, and none is left."""
    accounts = accounts_of(trail)
    verdict = verdict_on(trail)

    assert {ValueState.OPEN: 80, ValueState.ERASED: 20} == accounts.totals
    assert {"OPEN": 80, "ERASED": 20} == verdict.values
    assert not accounts.alarming
    assert [(("alice", "bob"), False, True)] == [
        (cover.approved_by, cover.self_approved, cover.effective) for cover in accounts.covers
    ]
    assert verdict.passed
    assert not [text for text in verdict.does_not_show if "self-approved" in text]


def test_what_the_net_has_caught_is_accounted_for_like_any_other_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that the policy calls public, and that looked like a secret, is found and open."""
    card = "4111111111111111"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "pins"))
    rules, fields, _ = policy_text().partition(b"[fields]")
    policy = policies.parse(rules + fields + b'\n"*" = { class = "public" }\n')
    with indelible.open(tmp_path / "trail", policy=policy) as audit:
        audit.record(
            Event(
                action="card.charge",
                outcome=Outcome.SUCCESS,
                reason=f"declined: {card}",
                actor=Actor(type="service", id="shop"),
                resource=Resource(type="card", id=card, name=card),
                changes={"method": Change("cash", {"paid": [card, 7]})},
                data={"by": [card]},
                rationale=Rationale(text=f"agreed: {card}"),
                session=card,
                request=f"GET /pay?card={card}",
                client=Client(user_agent=card),
                tenant=card,
                source=Source(format="jsonl", id=card),
            )
        )
        verdict = audit.verify()
        (item,) = audit.search(f"resource:card:{card}").items

    assert NETTED | {"/changes", "/data"} == set(item.clear.caught)
    assert {"OPEN": 11} == verdict.values
    assert verdict.passed, verdict.findings


def test_what_only_the_owner_has_approved_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure that whoever holds the keys has approved alone passes, and is never hidden."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "pins"))
    with indelible.open(tmp_path / "trail", origin="audit.example.com/shop") as audit:
        audit.record(about("8", 1))
        plan = audit.plan_erasure("customer:8", basis="GDPR Art. 17")
        audit.erase(Consent(plan=plan.to_bytes(), approvals=(audit.approve(plan),)))
        verdict = audit.verify()

    assert verdict.passed
    assert 1 == len([text for text in verdict.does_not_show if "(self-approved)" in text])


def test_values_can_be_left_out_of_a_verdict(trail: Path) -> None:
    """Whoever asks only for the logs gets a verdict that says nothing of values."""
    del Rows(trail, PLACES["open"])[PLACES["open"]]

    with indelible.open(trail, mode="r") as audit:
        verdict = audit.verify(values=False)

    assert verdict.passed
    assert {} == verdict.values


# ---- Boxes and rows ----


@pytest.mark.parametrize("place", ["closed", "open"])
def test_a_row_that_was_removed_quietly_is_missing(trail: Path, place: str) -> None:
    """Of an entry whose row is gone without an entry that says so, every value is missing."""
    index = PLACES[place]
    del Rows(trail, index)[index]

    alarms = alarms_of(trail)

    assert {(index, path, MISSING) for path in VALUES} == alarms


@pytest.mark.parametrize("place", ["closed", "open"])
def test_a_box_that_was_removed_quietly_is_missing(trail: Path, place: str) -> None:
    """What one box held is missing; what the others hold stays proven."""
    index = PLACES[place]
    rows = Rows(trail, index)
    row = rows[index]
    rows[index] = with_boxes(row, [box for box in row.boxes if box != box_of(row, ERASED[0])])

    alarms = alarms_of(trail)

    assert {(index, path, MISSING) for path in ERASED} == alarms


@pytest.mark.parametrize("place", ["closed", "open"])
def test_rows_that_changed_places_were_tampered_with(trail: Path, place: str) -> None:
    """A row opens only the entry that it was made for."""
    index = PLACES[place]
    rows = Rows(trail, index)
    rows[index], rows[index + 1] = rows[index + 1], rows[index]

    alarms = alarms_of(trail)

    assert {(at, path, TAMPERED) for at in (index, index + 1) for path in VALUES} == alarms


@pytest.mark.parametrize("place", ["closed", "open"])
def test_boxes_that_changed_places_were_tampered_with(trail: Path, place: str) -> None:
    """Nobody can give an entry the values of another, not even under one data key."""
    index = PLACES[place]
    rows = Rows(trail, index)
    row, other = rows[index], rows[index + 1]
    mine, theirs = box_of(row, "/resource/id"), box_of(other, "/resource/id")
    rows[index] = with_boxes(row, [theirs if box == mine else box for box in row.boxes])

    alarms = alarms_of(trail)

    assert mine.key == theirs.key
    assert {(index, path, TAMPERED) for path in ERASED} == alarms


@pytest.mark.parametrize("place", ["closed", "open"])
def test_bytes_that_changed_in_a_box_were_tampered_with(trail: Path, place: str) -> None:
    """One bit of a box is enough."""
    index = PLACES[place]
    rows = Rows(trail, index)
    row = rows[index]
    mine = box_of(row, "/rationale")
    spoiled = Box(
        mine.number, mine.positions, mine.key, mine.data[:-1] + bytes([mine.data[-1] ^ 1])
    )
    rows[index] = with_boxes(row, [spoiled if box == mine else box for box in row.boxes])

    alarms = alarms_of(trail)

    assert {(index, "/rationale", TAMPERED)} == alarms


@pytest.mark.parametrize("row", [b"\x92", b"\x00", Row(b"", ()).to_bytes()])
def test_a_row_that_is_none_is_an_alarm(trail: Path, row: bytes) -> None:
    """Whatever stands in the place of a row, it is no way to be rid of the values."""
    index = PLACES["open"]
    Rows(trail, index)[index] = row

    alarms = alarms_of(trail)

    assert set(VALUES) == {path for at, path, _ in alarms if at == index}


def test_a_box_that_claims_the_places_of_another_is_an_alarm(trail: Path) -> None:
    """A box opens the values it was made with; renaming its places hides nothing."""
    index = PLACES["open"]
    rows = Rows(trail, index)
    row = rows[index]
    mine = box_of(row, "/rationale")
    moved = Box(mine.number, (VALUES.index("/actor/id"),), mine.key, mine.data)
    others = [box for box in row.boxes if box not in {mine, box_of(row, "/actor/id")}]
    rows[index] = with_boxes(row, [moved, *others])

    alarms = alarms_of(trail)

    assert {(index, "/actor/id", TAMPERED), (index, "/rationale", MISSING)} == alarms


def test_leaf_hashes_that_changed_leave_what_is_there_proven(trail: Path) -> None:
    """Where all values are there they show themselves; where one is gone the others cannot."""
    whole, partly = PLACES["open"], GONE["open"]
    rows = Rows(trail, whole)
    for index in (whole, partly):
        rows[index] = Row(bytes(len(rows[index].spine)), rows[index].boxes)

    alarms = alarms_of(trail)

    assert {(partly, path, TAMPERED) for path in VALUES if path not in ERASED} == alarms


# ---- What comes back ----


@pytest.mark.parametrize("place", ["closed", "open"])
def test_a_row_from_before_an_erasure_is_found(kept: Kept, trail: Path, place: str) -> None:
    """Values that were erased and are here again are an alarm, which names the erasure."""
    index = GONE[place]
    Rows(trail, index)[index] = Rows(kept.before, index)[index]

    alarms = alarms_of(trail)
    named = {each.entry for each in accounts_of(trail).alarms}

    assert {(index, path, TAMPERED) for path in ERASED} == alarms
    assert named == {cover.entry for cover in accounts_of(trail).covers}


def test_an_older_vault_with_the_keyring_of_today_is_found(kept: Kept, trail: Path) -> None:
    """Files of the vault that were put back bring nothing back, and do not go unnoticed."""
    shutil.copyfile(kept.before / "vault/user/000000", trail / "vault/user/000000")

    alarms = alarms_of(trail)
    why = {each.why for each in accounts_of(trail).alarms}

    assert {(index, path, TAMPERED) for index in range(5) for path in ERASED} == alarms
    assert all("is here again" in text for text in why)


def test_an_older_vault_and_keyring_are_found(kept: Kept, trail: Path) -> None:
    """Also with the keys of before, what was erased is an alarm and no value like others."""
    shutil.copyfile(kept.before / "vault/user/000000", trail / "vault/user/000000")
    for name in ("keyring.db", "keyring.db-wal", "keyring.db-shm"):
        (trail / name).unlink(missing_ok=True)
        if (kept.before / name).exists():
            shutil.copyfile(kept.before / name, trail / name)

    alarms = alarms_of(trail)

    assert {(index, path, TAMPERED) for index in range(5) for path in ERASED} <= alarms


# ---- What values are found by ----


def hidden_in(path: Path) -> dict[str, str]:
    """Return which entries are not found by what they hold, and what is said of each."""
    accounts = accounts_of(path)
    verdict = verdict_on(path)
    hidden = {each.entry: each.what for each in accounts.hidden}
    said = {
        f"{each.log}#{each.where.removeprefix('entry ')}": each.what for each in verdict.findings
    }
    assert accounts.alarming
    assert Level.TAMPERED == verdict.level
    assert hidden.items() <= said.items()
    return hidden


def edit_lookups(path: Path, change: Callable[[list[list[int]]], None]) -> None:
    """Change what entries after the last complete tile of the stream ``user`` are found by."""
    with closing(sqlite3.connect(path / "head.db")) as file, file:
        (log,) = file.execute("SELECT number FROM log WHERE name = 'user'").fetchone()
        key, entries, data = file.execute(
            "SELECT key, entries, lookups FROM tail WHERE key >= ? AND key < ?",
            (log << 40, (log + 1) << 40),
        ).fetchone()
        assert SEGMENT == key - (log << 40)
        packed, numbers, at = Lookups.from_bytes(entries, data), list[list[int]](), 0
        for count in packed.counts:
            numbers.append(list(packed.terms[at : at + count]))
            at += count
        change(numbers)
        changed = Lookups.of(numbers).to_bytes()
        file.execute("UPDATE tail SET lookups = ? WHERE key = ?", (changed, key))


def test_an_entry_that_is_hidden_from_queries_is_found(trail: Path) -> None:
    """Whoever takes from an entry what it is found by hides it from answers, and is noticed."""
    place = PLACES["open"] - SEGMENT

    edit_lookups(trail, lambda numbers: numbers[place].clear())

    assert {f"user#{PLACES['open']}": "is hidden from who asks for /actor/id, /resource/id"} == (
        hidden_in(trail)
    )


def test_an_entry_that_is_hidden_from_erasure_is_found(trail: Path) -> None:
    """So is who takes away whose values it has."""
    place = PLACES["open"] - SEGMENT

    def change(numbers: list[list[int]]) -> None:
        numbers[place] = [each for each in numbers[place] if each & 15 != Field.SUBJECT_LOOKUP]

    edit_lookups(trail, change)

    assert {f"user#{PLACES['open']}": "is hidden from who asks what is held about somebody"} == (
        hidden_in(trail)
    )


def test_an_entry_that_is_found_by_what_it_does_not_hold_is_found(trail: Path) -> None:
    """Nor can counts be stuffed, or what was erased be found again."""
    kept, gone = PLACES["open"] - SEGMENT, GONE["open"] - SEGMENT

    def change(numbers: list[list[int]]) -> None:
        numbers[gone] += numbers[kept]

    edit_lookups(trail, change)

    assert {f"user#{GONE['open']}": "is found by values that it does not have"} == hidden_in(trail)


def test_what_a_closed_segment_is_searched_by_is_held_against_its_values(trail: Path) -> None:
    """In a vault file whose postings are gone, every entry with a searchable value is hidden."""
    with closing(sqlite3.connect(trail / "vault/user/000000")) as file, file:
        file.execute("DELETE FROM posting")

    hidden = hidden_in(trail)

    places = [*range(5), *range(10, 15), *range(LATER, LATER + 5)]
    assert {f"user#{index}" for index in places} == hidden.keys()


def test_a_filter_that_passes_over_a_segment_is_found(trail: Path) -> None:
    """What keeps a query from opening a segment is held against what the segment holds."""
    with closing(sqlite3.connect(trail / "head.db")) as file, file:
        file.execute("UPDATE segment SET lookups = zeroblob(length(lookups))")

    hidden = hidden_in(trail)

    assert {"is hidden by the filter of its segment"} == set(hidden.values())


# ---- The log ----


def test_an_entry_that_forgets_what_it_committed_to_is_found(trail: Path) -> None:
    """The list of paths is part of the entry, which the tree covers."""
    edit_tail(trail, b'"/changes/email","/rationale"]', b'"/changes/emaim","/rationale"]')

    verdict = verdict_on(trail)

    assert Level.TAMPERED == verdict.level
    assert any("leaf hash" in finding.what for finding in verdict.findings)


def test_the_entry_that_began_an_erasure_cannot_go(short: Path) -> None:
    """Without it its values are missing, and the custody log does not hold."""
    edit_tail(short, b'"action":"erase.begin"', b'"action":"erase.bagin"')

    verdict = verdict_on(short)

    assert Level.TAMPERED == verdict.level
    assert CUSTODY in {finding.log for finding in verdict.findings}


# ---- Plans, approvals, policies ----


@pytest.mark.parametrize("after", [None, b'["user",9,'], ids=["removed", "edited"])
def test_a_cover_list_that_is_not_the_approved_one_covers_nothing(
    trail: Path, after: bytes | None
) -> None:
    """Whoever edits or removes the plan of an erasure uncovers it."""
    edit_documents(trail, b'["user",0,', after)

    alarms = alarms_of(trail)
    accounts = accounts_of(trail)

    gone = {first + number for first in GONE.values() for number in range(5)}
    assert {(index, path, MISSING) for index in gone for path in ERASED} == alarms
    assert [cover.entry for cover in accounts.covers] == [wrong.entry for wrong in accounts.wrong]
    assert {wrong.entry for wrong in accounts.wrong} <= {
        f"{finding.log}#{finding.where.removeprefix('entry ')}"
        for finding in verdict_on(trail).findings
    }


def test_people_that_were_edited_in_the_policy_are_found(short: Path) -> None:
    """Keys of people stand in a document that an entry names by its digest."""
    before, after = KEYS["alice"].verifier.public, STRANGER.verifier.public
    edit_documents(short, b64encode(before), b64encode(after))

    verdict = verdict_on(short)
    said = [each.what for each in verdict.findings if each.log == CUSTODY]

    assert Level.TAMPERED == verdict.level
    assert any(
        text.startswith("policy shop/1#") and "is not the one that was set" in text for text in said
    )


class Forger:
    """Whoever holds the keys of the trail, and writes what custody entry they like."""

    def __init__(self, audit: Trail) -> None:
        self.audit = audit
        self.now = datetime.now(UTC)

    def plan(self, kind: str = "erase", **changes: object) -> Plan:
        """Return a plan over an entry that nobody erased."""
        with self.audit.store.read() as view:
            sizes = {head.origin: head.size for head in view.heads().values()}
        plan = Plan(
            kind=kind,  # type: ignore[arg-type]  # of the test's choice
            trail=self.audit.id,
            logs=sizes,
            policy=self.audit.policy.digest.hex(),
            requester="owner",
            basis="none of your business",
            nonce=bytes(16),
            created_at=self.now,
            not_before=self.now,
            expires=self.now + timedelta(days=7),
            cover=(Covered(log="user", index=SHORT, paths=("/rationale",)),),
        )
        return msgspec.structs.replace(plan, **changes)

    def begin(
        self,
        plan: Plan,
        notes: Sequence[bytes],
        *,
        action: str = "erase.begin",
        cover_root: str | None = None,
        document: Plan | None = None,
        later: timedelta = timedelta(minutes=1),
    ) -> None:
        """Write the entry that begins *plan*."""
        said = {
            "plan": plan.digest.hex(),
            "cover_root": plan.cover_root.hex() if cover_root is None else cover_root,
            "policy": plan.policy,
            "approvals": [note.decode() for note in notes],
        }
        event = own_event(self.audit.id, action, **said)
        with self.audit.store.write() as transaction:
            transaction.add_document((plan if document is None else document).to_bytes())
            head = head_of(transaction.heads(), CUSTODY)
            append(
                transaction,
                head,
                [event],
                self.audit.signer_of(head),
                microseconds(self.now + later),
            )

    def carry_out(self, plan: Plan, notes: Sequence[bytes], **said: Any) -> None:
        """Write the entry that begins *plan*, and remove a value of the entry that it covers."""
        self.begin(plan, notes, **said)
        index = SHORT
        with self.audit.store.read() as view:
            row = Row.from_bytes(view.rows("user", [index])[0])
        left = with_boxes(row, [box for box in row.boxes if box != box_of(row, "/rationale")])
        self.audit.store.forget({"user": {index: Forgotten(row=left.to_bytes())}})

    def consents(self, plan: Plan, *keys: SigningKey, at: datetime | None = None) -> list[bytes]:
        """Return an approval of *plan* by each of *keys*."""
        at = self.now if at is None else at
        return [Approval.sign(plan, key.name, key, at) for key in keys]


ALICE, BOB = KEYS["alice"], KEYS["bob"]


def _honest(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB))


def _nobody(forger: Forger) -> None:
    forger.carry_out(forger.plan(), [])


def _one_of_two(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, ALICE))


def _one_twice(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, ALICE, ALICE))


def _owner(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, [*forger.consents(plan, ALICE), forger.audit.approve(plan)])


def _strange_key(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, STRANGER, BOB))


def _no_approver(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, ALICE, NOBODY))


def _another_plan(forger: Forger) -> None:
    other = forger.plan(basis="another")
    forger.carry_out(forger.plan(), forger.consents(other, ALICE, BOB))


def _too_late(forger: Forger) -> None:
    plan = forger.plan()
    notes = forger.consents(plan, ALICE, BOB)
    forger.carry_out(plan, notes, later=timedelta(days=8))


def _another_trail(forger: Forger) -> None:
    plan = forger.plan(trail="another")
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB))


def _another_kind(forger: Forger) -> None:
    plan = forger.plan("purge")
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB))


def _another_root(forger: Forger) -> None:
    plan = forger.plan()
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB), cover_root="00" * 32)


def _stretched(forger: Forger) -> None:
    paths = ("/actor/id", "/rationale")
    plan = forger.plan(cover=(Covered(log="user", index=SHORT + 1, paths=paths),))
    stretched = msgspec.structs.replace(plan, cover=(*forger.plan().cover, *plan.cover))
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB), document=stretched)


def _another_policy(forger: Forger) -> None:
    plan = forger.plan(policy="00" * 32)
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB))


def _the_future(forger: Forger) -> None:
    plan = forger.plan(logs={"audit.example.com/short/user": SHORT})
    forger.carry_out(plan, forger.consents(plan, ALICE, BOB))


def _no_notes(forger: Forger) -> None:
    forger.carry_out(forger.plan(), [b"alice agrees\n", b"bob agrees\n"])


FORGERIES = [
    _nobody,
    _one_of_two,
    _one_twice,
    _owner,
    _strange_key,
    _no_approver,
    _another_plan,
    _too_late,
    _another_trail,
    _another_kind,
    _another_root,
    _stretched,
    _another_policy,
    _the_future,
    _no_notes,
]


def test_an_erasure_that_two_people_approved_covers_its_values(short: Path) -> None:
    """What the forgeries below are measured against: the same entry with approvals that count."""
    with indelible.open(short) as audit:
        _honest(Forger(audit))

    assert not accounts_of(short).alarming


@pytest.mark.parametrize("forge", FORGERIES, ids=[forge.__name__ for forge in FORGERIES])
def test_who_holds_the_keys_cannot_erase_what_others_must_approve(
    short: Path, forge: Callable[[Forger], None]
) -> None:
    """The entry is in the log and well signed; it does not count, and the value is missing."""
    with indelible.open(short) as audit:
        forge(Forger(audit))

    alarms = alarms_of(short)
    wrong = accounts_of(short).wrong

    assert {(SHORT, "/rationale", MISSING)} == alarms
    assert 1 == len(wrong)


def set_policy(audit: Trail, policy: Policy, **said: object) -> None:
    """Put the trail under *policy* past everything that checks whether that is approved."""
    event = own_event(audit.id, policies.SET, **policies.set_by(policy, **said))
    with audit.store.write() as transaction:
        transaction.add_document(policies.text_of(policy))
        head = head_of(transaction.heads(), CUSTODY)
        now = microseconds(datetime.now(UTC))
        append(transaction, head, [event], audit.signer_of(head), now)


LOOSER = policy_text().replace(b"version = 1", b"version = 2").replace(b"n = 2", b"n = 1")


def test_a_policy_that_loosens_needs_its_approvals_too(short: Path) -> None:
    """Whoever sets a policy of their own past the approvals is found by the entry that says so."""
    with indelible.open(short) as audit:
        set_policy(audit, policies.parse(LOOSER))

    wrong = accounts_of(short).wrong
    verdict = verdict_on(short)

    assert 1 == len(wrong)
    assert "found no approval" in wrong[0].what
    assert wrong[0].what in {finding.what for finding in verdict.findings}


@pytest.mark.parametrize(("people", "count"), [((ALICE,), 0), ((BOB,), 1), ((STRANGER,), 1)])
def test_only_who_must_approve_a_policy_can(
    short: Path, people: Sequence[SigningKey], count: int
) -> None:
    """The policy that is loosened says who may loosen it, and not the new one."""
    policy = policies.parse(LOOSER)
    with indelible.open(short) as audit:
        forger = Forger(audit)
        plan = forger.plan("policy", cover=(), detail={"digest": policy.digest.hex()})
        notes = [note.decode() for note in forger.consents(plan, *people)]
        with audit.store.write() as transaction:
            transaction.add_document(plan.to_bytes())
        set_policy(audit, policy, plan=plan.digest.hex(), approvals=notes)

    wrong = accounts_of(short).wrong

    assert count == len(wrong)


# ---- Retention ----


@pytest.mark.parametrize(
    ("later", "state"),
    [(timedelta(days=31), ValueState.PURGED), (timedelta(days=29), ValueState.MISSING)],
)
def test_a_purge_counts_only_after_the_ceiling(
    short: Path, later: timedelta, state: ValueState
) -> None:
    """What retention has not released yet cannot be said to have been purged."""
    with indelible.open(short) as audit:
        forger = Forger(audit)
        plan = forger.plan("purge", expires=forger.now + timedelta(days=60))
        forger.carry_out(plan, [], action="purge.begin", later=later)

    accounts = accounts_of(short)

    assert 1 == accounts.totals[state]
    assert (state is MISSING) == accounts.alarming


# ---- Keys ----


def test_a_lost_keyring_leaves_everything_else(trail: Path) -> None:
    """Without the keyring values are unreadable, not missing; the log stays proven and readable."""
    for name in ("keyring.db", "keyring.db-wal", "keyring.db-shm"):
        (trail / name).unlink(missing_ok=True)

    verdict = verdict_on(trail)
    accounts = accounts_of(trail)
    with indelible.open(trail, mode="r") as audit:
        found = audit.search("action:customer.update", limit=100).items

    assert verdict.passed
    assert {"UNREADABLE": 80, "ERASED": 20} == verdict.values
    assert [80] == list(accounts.unreadable.values())
    assert all("keyring" in why for why in accounts.unreadable)
    assert any(text.startswith("80 values: what they are") for text in verdict.does_not_show)
    assert 25 == len(found)


def test_a_lost_kek_is_named(trail: Path) -> None:
    """Where the key that locks the keyring is gone, its version is what is named."""
    (trail / "keys/vault-1.key").unlink()

    accounts = accounts_of(trail)

    assert {ValueState.UNREADABLE: 80, ValueState.ERASED: 20} == accounts.totals
    assert all("vault key version 1" in why for why in accounts.unreadable)
    assert not accounts.alarming


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DELETE FROM data_key WHERE id = ?", "is not in the keyring"),
        ("UPDATE data_key SET wrapped = zeroblob(60) WHERE id = ?", "vault key version 1"),
    ],
    ids=["removed", "changed"],
)
def test_a_data_key_that_is_gone_is_no_way_to_delete(trail: Path, statement: str, why: str) -> None:
    """Where the keyring is open and one key is wanting, that is an alarm that names the key."""
    index = PLACES["open"]
    key = box_of(Rows(trail, index)[index], "/actor/id").key
    with closing(sqlite3.connect(trail / "keyring.db")) as file, file:
        file.execute(statement, (key,))

    accounts = accounts_of(trail)
    findings = verdict_on(trail).findings

    assert (2, 78) == (
        accounts.totals[ValueState.UNREADABLE],
        accounts.totals[ValueState.OPEN],
    )
    assert accounts.alarming
    assert [("keyring", True, True)] == [
        (each.where, key.hex() in each.what, why in each.what) for each in findings
    ]


def test_a_box_under_a_key_that_never_was_is_no_way_to_delete(trail: Path) -> None:
    """Whoever puts bytes in the place of a box, under a key nobody has, is found."""
    index = PLACES["open"]
    rows = Rows(trail, index)
    row = rows[index]
    mine = box_of(row, "/rationale")
    junk = Box(mine.number, mine.positions, bytes(16), bytes(len(mine.data)))
    rows[index] = with_boxes(row, [junk if box == mine else box for box in row.boxes])

    verdict = verdict_on(trail)

    assert Level.TAMPERED == verdict.level
    assert ["keyring"] == [finding.where for finding in verdict.findings]


# ---- Many ----


def test_of_very_many_alarms_the_totals_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault that is gone as a whole is counted to the last value, and named only in part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "pins"))
    path = tmp_path / "trail"
    with indelible.open(path, origin="audit.example.com/shop") as audit:
        audit.record_many([about("8", number) for number in range(300)])
    with closing(sqlite3.connect(path / "head.db")) as file, file:
        file.execute("DELETE FROM vault")

    accounts = accounts_of(path)
    verdict = verdict_on(path)

    assert 1_200 == accounts.totals[MISSING] == accounts.alarm_count
    assert MAX_ALARMS == len(accounts.alarms)
    assert "200 more values are missing or were tampered with" in {
        finding.what for finding in verdict.findings
    }


def test_an_erasure_that_begins_meanwhile_is_no_alarm(trail: Path) -> None:
    """Values that leave their file between two looks of the auditor are accounted for as erased."""
    rows = Rows(trail, LATER)
    with indelible.open(trail) as audit, indelible.open(trail, mode="r") as auditor:
        forger = Forger(audit)
        entries = range(LATER, LATER + 5)
        paths = tuple(sorted(VALUES))
        cover = tuple(Covered(log="user", index=index, paths=paths) for index in entries)
        plans = [forger.plan(cover=cover)]

        def meanwhile(_done: int, _total: int) -> None:
            while plans:
                plan = plans.pop()
                forger.begin(plan, forger.consents(plan, ALICE, BOB))
                for index in entries:
                    del rows[index]

        accounts = account_for(auditor.store, auditor.vault, progress=meanwhile)

    assert not accounts.alarming
    assert {ValueState.OPEN: 60, ValueState.ERASED: 40} == accounts.totals


def test_progress_is_told_to_the_end(trail: Path) -> None:
    """Whoever waits sees how far it has come."""
    seen: list[tuple[int, int]] = []

    with indelible.open(trail, mode="r") as audit, audit.store.read() as view:
        account(view, audit.vault, progress=lambda done, total: seen.append((done, total)))
        size = sum(head.size for head in view.heads().values())

    assert (size, size) == seen[-1]
