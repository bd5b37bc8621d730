from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible import document
from indelible.event import Actor, Event, Outcome, Resource
from indelible.log import append, head_of
from indelible.seal import seal
from indelible.segment import TILE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Answer, Shell

BASIS = ("--basis", "GDPR Art. 17(1)(b)")
GOVERNED = """
[people]
dpo = {{ name = "Data protection officer", key = "{dpo}", roles = ["dpo"] }}
lead = {{ name = "Audit lead", key = "{lead}", roles = ["audit-lead"] }}
[governance]
erasure = {{ approvals = {{ n = 2, from = ["dpo", "audit-lead"] }}, valid = "7d" }}
"""


@pytest.fixture
def plan(shell: Shell, trail: Path, tmp_path: Path) -> Path:
    """Plan to erase alice, with her name on nothing else."""
    path = tmp_path / "alice.plan"
    made = shell("erase", trail, "--subject", "user:alice", *BASIS, "--out", path)
    assert 0 == made.code
    return path


def values(shell: Shell, trail: Path) -> dict[str, int]:
    """Return how many values are in which state."""
    found: dict[str, int] = shell("accounting", trail, "--json").json["values"]
    return found


def test_an_erasure_is_planned_approved_and_carried_out(
    shell: Shell, trail: Path, plan: Path
) -> None:
    """Three commands: none of them does what belongs to another."""
    planned = values(shell, trail)

    approved = shell("approve", trail, plan)
    before = values(shell, trail)
    erased = shell("erase", trail, "--plan", plan)

    assert "ERASED" not in planned
    assert planned == before
    assert 0 == approved.code
    assert ["approved by", "owner"] in approved.rows
    assert ["erased", "1 value of 1 entry"] in erased.rows
    assert ["self-approved", "by whoever holds the trail's keys"] in erased.rows
    assert 1 == values(shell, trail)["ERASED"]
    assert 0 == shell("verify", trail).code
    assert [] == shell("search", trail, "actor:user:alice", "--json").json["items"]


def test_a_plan_says_what_goes_what_stays_and_who_must_approve(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """Whoever plans sees it, before anything is done, as people and as programs."""
    hold = shell("hold", "add", trail, "--query", "actor:user:bob", "--ground", "case 7", "--json")

    alice = shell("erase", trail, "--subject", "user:alice", *BASIS, "--out", tmp_path / "a")
    bob = shell("erase", trail, "--subject", "user:bob", *BASIS, "--out", tmp_path / "b", "--json")

    assert ["accountable", "1 value"] in alice.rows
    assert ["must approve", "1 of owner"] in alice.rows
    assert ({}, {f"hold:{hold.json['hold']}": 1}) == (bob.json["values"], bob.json["deferred"])
    assert {"n": 1, "from": ["owner"]} == bob.json["approvals"]
    assert bob.json["digest"] in shell("approve", trail, tmp_path / "b").stdout


def govern(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Put the trail under a policy under which two people must approve an erasure."""
    keys = {
        name: shell("person-key", tmp_path / name, "--name", name, "--json").json["key"]
        for name in ("dpo", "lead", "clerk")
    }
    text = document.default().text.decode().partition("[governance]")[0]
    text = text.replace('id = "default"', 'id = "shop"')
    policy = document.parse((text + GOVERNED.format(**keys)).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(shell.home / "config"))
        with indelible.open(trail) as opened:
            opened.set_policy(policy)


def test_people_approve_with_keys_of_their_own(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Each signs for themselves, the approvals are found beside the plan, and two are enough."""
    govern(shell, trail, tmp_path)
    plan = tmp_path / "alice.plan"
    made = shell("erase", trail, "--subject", "user:alice", *BASIS, "--out", plan)

    first = shell("approve", trail, plan, "--key", tmp_path / "dpo")
    alone = shell("erase", trail, "--plan", plan)
    second = shell("approve", trail, plan, "--key", tmp_path / "lead", "--as", "lead", "--json")
    erased = shell("erase", trail, "--plan", plan, "--json")

    assert ["must approve", "2 of dpo, audit-lead"] in made.rows
    assert (0, 2, 0, 0) == (first.code, alone.code, second.code, erased.code)
    assert "found approvals of dpo, expected 2 of dpo, audit-lead" in alone.stderr
    assert str(tmp_path / "alice.plan.approval-lead") == second.json["approval"]
    assert not erased.json["erased"]["self_approved"]
    assert 1 == len(shell("search", trail, "action:erase.refuse", "--json").json["items"])


def test_who_is_not_known_to_the_policy_cannot_approve(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """A key that the policy does not name, or names for somebody else, signs nothing."""
    govern(shell, trail, tmp_path)
    plan = tmp_path / "alice.plan"
    shell("erase", trail, "--subject", "user:alice", *BASIS, "--out", plan)

    stranger = shell("approve", trail, plan, "--key", tmp_path / "clerk")
    another = shell("approve", trail, plan, "--key", tmp_path / "dpo", "--as", "lead")
    keyless = shell("approve", trail, plan, "--as", "dpo")

    assert (2, 2, 2) == (stranger.code, another.code, keyless.code)
    assert "knows no such person" in stranger.stderr
    assert "is not the key that policy" in another.stderr
    assert "expected the key of dpo" in keyless.stderr
    assert [] == [*tmp_path.glob("*.approval-*")]


def test_a_plan_of_another_trail_is_not_approved(
    shell: Shell, trail: Path, plan: Path, tmp_path: Path
) -> None:
    """An approval that could be of no use is not made."""
    shell("init", tmp_path / "other")

    answer = shell("approve", tmp_path / "other", plan)

    assert (2, True) == (answer.code, "is for trail" in answer.stderr)
    assert trail.exists()


def test_nothing_is_overwritten_by_a_plan(shell: Shell, trail: Path, plan: Path) -> None:
    """Neither a plan nor an approval takes the place of a file that is there."""
    again = shell("erase", trail, "--subject", "user:bob", *BASIS, "--out", plan)
    shell("approve", trail, plan)
    twice = shell("approve", trail, plan)

    assert (2, 2) == (again.code, twice.code)
    assert "found a file, expected none" in again.stderr


def refused(answer: Answer) -> str:
    """Return why a command was refused as it stands."""
    assert 2 == answer.code
    return answer.stderr


def test_a_call_that_says_too_little_or_too_much_is_told_what_to_say(
    shell: Shell, trail: Path, plan: Path
) -> None:
    """Every message names what was found and what is expected."""
    assert "make one with --subject" in refused(shell("erase", trail))
    assert "make one with --subject" in refused(shell("erase", trail, "--subject", "user:bob"))
    both = shell("erase", trail, "--plan", plan, "--subject", "user:bob")
    assert "expected --approval alone" in refused(both)
    assert "exactly one of" in refused(shell("hold", "add", trail, "--ground", "case 7"))
    assert "found no value" in refused(shell("erase", trail, "--subject", "user:mallory", *BASIS))
    assert "PLAN: found none" in refused(shell("approve", trail))
    unknown = shell("hold", "release", trail, "nope")
    assert "found 'nope', expected one of none" in refused(unknown)


def test_holds_are_listed_and_released(shell: Shell, trail: Path) -> None:
    """Whoever keeps the trail sees each hold, and what became of it."""
    placed = shell("hold", "add", trail, "--everything", "--ground", "an order").rows[0][1]
    first = shell("hold", "list", trail)
    released = shell("hold", "release", trail, placed, "--json")
    listed = shell("hold", "list", trail, "--json").json["holds"]

    assert [placed, "", "everything", "an order"] == [first.rows[0][at] for at in (0, 2, 3, 4)]
    assert {"released": placed} == released.json
    assert listed[0]["released_at"] is not None


def test_a_purge_takes_what_is_due_and_says_so(shell: Shell, trail: Path) -> None:
    """Where nothing is due, nothing goes, and that is no error."""
    dry = shell("purge", trail, "--dry-run")
    purged = shell("purge", trail, "--json")

    assert (0, 0) == (dry.code, purged.code)
    assert "found nothing whose ceiling has passed" in dry.stdout
    assert 0 == purged.json["purged"]["values"]


APPROVED = 'purge = { approvals = { n = 1, from = ["owner"] } }'


def keep_shortly(shell: Shell, trail: Path, governance: str = "") -> None:
    """Let users' events be kept for a month, and record a tile of them as if a year ago."""
    text = document.default().text.decode().replace('id = "default"', 'id = "shop"')
    text = text.replace("user = { ", 'user = { retention = "short", ', 1)
    text += f'{governance}\n[retention]\nshort = {{ ceiling = "30d" }}\n'
    policy = document.parse(text.encode())
    one = Event(
        action="order.ship",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse("user:alice"),
        resource=Resource.parse("order:1"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(shell.home / "config"))
        with indelible.open(trail, origin="audit.example.com/t", policy=policy) as opened:
            sealed = [
                opened.vault.enclose(seal(one, policy.rule_on(one), policy), "user")
                for _ in range(TILE)
            ]
            with opened.store.write() as transaction:
                opened.vault.keyring.keep(key for each in sealed for key in each.keys)
                head = head_of(transaction.heads(), "user")
                year_ago = time.time_ns() // 1_000 - 365 * 86_400 * 1_000_000
                append(transaction, head, sealed, opened.signer_of(head), year_ago)


def test_what_is_over_is_purged(shell: Shell, tmp_path: Path) -> None:
    """Values and then entries go whose ceiling has passed; a second purge finds nothing."""
    trail = tmp_path / "short"
    keep_shortly(shell, trail)

    dry = shell("purge", trail, "--dry-run", "--json")
    purged = shell("purge", trail)
    again = shell("purge", trail, "--json")

    assert ({"accountable": TILE}, {"prefixes": {"user": TILE}}) == (
        dry.json["values"],
        dry.json["detail"],
    )
    assert ["purged", f"{TILE} values of {TILE} entries"] in purged.rows
    assert ["begins", f"user at {TILE}"] in purged.rows
    assert (0, 0) == (again.code, again.json["purged"]["values"])
    assert 0 == shell("verify", trail).code


def test_a_purge_waits_for_approvals_where_the_policy_says_so(shell: Shell, tmp_path: Path) -> None:
    """Then it is planned, approved and carried out as an erasure is."""
    trail, plan = tmp_path / "short", tmp_path / "purge.plan"
    keep_shortly(shell, trail, APPROVED)

    alone = shell("purge", trail)
    planned = shell("purge", trail, "--out", plan)
    shell("approve", trail, plan)
    purged = shell("purge", trail, "--plan", plan, "--json")

    assert (2, True) == (alone.code, "write a plan with --out PLAN" in alone.stderr)
    assert ["must approve", "1 of owner"] in planned.rows
    assert {"user": TILE} == purged.json["purged"]["begins"]
    assert 0 == shell("verify", trail).code


def test_a_restored_trail_stays_without_what_was_erased(
    shell: Shell, trail: Path, plan: Path, tmp_path: Path
) -> None:
    """A copy from before an erasure is restored beside the newest keyring."""
    shell("backup", trail, tmp_path / "copy")
    shell("approve", trail, plan)
    shell("erase", trail, "--plan", plan)
    shell("backup", trail, tmp_path / "newer")
    trail.rename(tmp_path / "lost")

    restored = shell(
        *("restore", tmp_path / "copy", trail),
        *("--keyring", tmp_path / "newer" / "keyring.db"),
    )

    assert 0 == restored.code
    assert 1 == values(shell, trail)["ERASED"]
    assert 0 == shell("verify", trail).code
