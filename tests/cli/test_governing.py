from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from indelible.document import default, default_text, parse
from indelible.keys import SigningKey, write_key

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.policy import Policy
    from tests.cli.conftest import Shell

OWNERS = 'loosening = { approvals = { n = 1, from = ["owner"] } }'
BY_TWO = 'loosening = { approvals = { n = 2, from = ["dpo", "ciso"] }, valid = "7d" }'
TIGHTER = ('"/request" = { class = "public" }', '"/request" = { class = "personal" }')
LOOSER = (
    '"/session" = { class = "personal", subject',
    '"/session" = { class = "internal", subject',
)
LOOSENED = "/session: personal becomes internal"
PERSON = '{} = {{ name = "{}", key = "ed25519:{}", roles = ["{}"] }}\n'
PASSPHRASE = {"INDELIBLE_VAULT_KEY": "passphrase", "INDELIBLE_PASSPHRASE": "correct horse"}


def written(
    path: Path, *edits: tuple[str, str], after: Policy | None = None, version: int = 1
) -> Policy:
    """Write the policy after another into a file."""
    text = default_text().decode()
    follows = ""
    if after is not None:
        version, follows = after.version + 1, f', supersedes = "sha256:{after.digest.hex()}"'
    head = f'{{ id = "shop", version = {version}{follows} }}'
    for old, new in (('{ id = "default", version = 1 }', head), *edits):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, "utf-8")
    return parse(text.encode())


@pytest.fixture
def governed(shell: Shell, trail: Path, tmp_path: Path) -> Policy:
    """Put the trail under a policy that two people, whose keys are files, must loosen."""
    people = "[people]\n"
    for number, (name, role) in enumerate({"alice": "dpo", "bob": "ciso"}.items(), 1):
        key = SigningKey.from_seed(name, bytes([number]) * 32)
        write_key(tmp_path / name, key)
        public = b64encode(key.verifier.public).decode()
        people += PERSON.format(name, name, public, role)
    policy = written(tmp_path / "first.toml", (OWNERS, f"{BY_TWO}\n{people}"))
    assert 0 == shell("policy", "set", trail, tmp_path / "first.toml").code
    return policy


def edits_of(policy: Policy) -> tuple[str, str]:
    """Return the edit that gives a later version the same people."""
    text = policy.text.decode()
    return OWNERS, text[text.index(BY_TWO) :].rstrip("\n")


# ---- policy show ----


def test_a_policy_is_printed_as_it_was_set(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Byte for byte, so that it can be compared, edited and set again."""
    second = written(tmp_path / "shop.toml", TIGHTER)

    before = shell("policy", "show", trail)
    changed = shell("policy", "set", trail, tmp_path / "shop.toml")
    after = shell("policy", "show", trail)

    assert (0, default_text().decode(), "") == (before.code, before.stdout, before.stderr)
    assert 0 == changed.code
    assert second.text.decode() == after.stdout


def test_a_policy_is_told_with_its_digest(shell: Shell, trail: Path) -> None:
    """Programs get the text and what entries call it."""
    told = shell("policy", "show", trail, "--json")

    policy = default()
    assert {
        "policy": policy.label,
        "digest": policy.digest.hex(),
        "version": 1,
        "text": default_text().decode(),
    } == told.json


def test_every_version_is_listed_with_its_entry(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Since when it holds, what it loosened and who approved: the newest first."""
    first = written(tmp_path / "first.toml", LOOSER)
    second = written(tmp_path / "second.toml", LOOSER, TIGHTER, after=first)
    shell("policy", "set", trail, tmp_path / "first.toml")
    shell("policy", "set", trail, tmp_path / "second.toml")

    told = shell("policy", "show", trail, "--history")
    rows = shell("policy", "show", trail, "--history", "--json").json_lines

    assert [second.label, first.label, default().label] == [row["policy"] for row in rows]
    assert [[], [LOOSENED], []] == [row["loosens"] for row in rows]
    assert [False, True, False] == [row["self_approved"] for row in rows]
    assert [each.digest.hex() for each in (second, first, default())] == [
        row["digest"] for row in rows
    ]
    assert [2, 1, 1] == [row["version"] for row in rows]
    assert all(row["entry"].startswith("custody#") for row in rows)
    assert [row["since"] for row in rows] == sorted((row["since"] for row in rows), reverse=True)
    assert 3 == len([line for line in told.stdout.splitlines() if "custody#" in line])
    assert "self-approved" in told.stdout
    assert LOOSENED in told.stdout


# ---- policy set ----


def test_what_a_change_loosens_is_said(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Whoever sets a policy reads what it gives up, and that nobody else has approved."""
    policy = written(tmp_path / "shop.toml", LOOSER)

    told = shell("policy", "set", trail, tmp_path / "shop.toml")
    again = shell("policy", "set", trail, tmp_path / "shop.toml", "--json")

    assert 0 == told.code
    assert ["policy", policy.label] in told.rows
    assert ["before", default().label] in told.rows
    assert ["loosens", LOOSENED] in told.rows
    assert ["approved", "self-approved"] in told.rows
    assert policy.label == again.json["before"] == again.json["policy"]
    assert 0 == shell("verify", trail).code


def test_a_policy_is_set_on_the_trail_of_the_environment(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """Where INDELIBLE_TRAIL names the trail, the file is the only argument."""
    policy = written(tmp_path / "shop.toml", TIGHTER)

    told = shell("policy", "set", tmp_path / "shop.toml", "--json", INDELIBLE_TRAIL=str(trail))

    assert (0, policy.label) == (told.code, told.json["policy"])
    assert [] == told.json["loosens"]


def test_a_policy_that_does_not_follow_is_refused(
    shell: Shell, trail: Path, governed: Policy, tmp_path: Path
) -> None:
    """The message names line and key, and the trail stays as it was."""
    written(tmp_path / "other.toml", TIGHTER, version=2)

    told = shell("policy", "set", trail, tmp_path / "other.toml")

    assert 2 == told.code
    assert f"supersedes: found nothing, expected sha256:{governed.digest.hex()}" in told.stderr
    assert governed.text.decode() == shell("policy", "show", trail).stdout


@pytest.mark.parametrize("text", ["policy = 1", "[", "\0"])
def test_what_is_no_policy_is_refused(shell: Shell, trail: Path, tmp_path: Path, text: str) -> None:
    """A damaged file changes nothing."""
    (tmp_path / "shop.toml").write_text(text, "utf-8")

    told = shell("policy", "set", trail, tmp_path / "shop.toml")
    missing = shell("policy", "set", trail, tmp_path / "none.toml")

    assert (2, "") == (told.code, told.stdout)
    assert missing.code > 0
    assert "none.toml" in missing.stderr
    assert 1 == len(shell("policy", "show", trail, "--history", "--json").json_lines)


def test_people_approve_a_loosening(
    shell: Shell, trail: Path, governed: Policy, tmp_path: Path
) -> None:
    """Refused at first, with a plan to sign; two sign it, and then it is set."""
    file, plan = tmp_path / "second.toml", tmp_path / "second.toml.plan"
    second = written(file, edits_of(governed), LOOSER, after=governed)

    refused = shell("policy", "set", trail, file)
    alone = shell("approve", trail, plan, "--key", tmp_path / "alice")
    too_few = shell("policy", "set", trail, file, "--plan", plan)
    shell("approve", trail, plan, "--key", tmp_path / "bob")
    done = shell("policy", "set", trail, file, "--plan", plan)

    assert (2, 0, 2, 0) == (refused.code, alone.code, too_few.code, done.code)
    assert f"which asks for 2 of dpo, ciso to approve: {plan}" in refused.stderr
    assert "found approvals of alice, expected 2 of dpo, ciso" in too_few.stderr
    assert ["policy", second.label] in done.rows
    assert ["loosens", LOOSENED] in done.rows
    assert "self-approved" not in done.stdout
    (first, *_) = shell("policy", "show", trail, "--history", "--json").json_lines
    assert (second.label, False) == (first["policy"], first["self_approved"])
    assert 0 == shell("verify", trail).code


def test_approvals_can_be_named(
    shell: Shell, trail: Path, governed: Policy, tmp_path: Path
) -> None:
    """Plan and approvals may lie anywhere; those that are named count, and no others."""
    file, plan = tmp_path / "second.toml", tmp_path / "change.plan"
    written(file, edits_of(governed), LOOSER, after=governed)
    shell("policy", "set", trail, file, "--out", plan)
    approvals = [
        shell("approve", trail, plan, "--key", tmp_path / name, "--json").json["approval"]
        for name in ("alice", "bob")
    ]

    one = shell("policy", "set", trail, file, "--plan", plan, "--approval", approvals[0])
    both = shell(
        *("policy", "set", trail, file, "--plan", plan),
        *("--approval", approvals[0], "--approval", approvals[1], "--json"),
    )

    assert (2, 0) == (one.code, both.code)
    assert governed.label == both.json["before"]
    assert [LOOSENED] == both.json["loosens"]


def test_a_plan_of_one_policy_sets_no_other(
    shell: Shell, trail: Path, governed: Policy, tmp_path: Path
) -> None:
    """What people have signed is one text."""
    file, plan = tmp_path / "second.toml", tmp_path / "second.toml.plan"
    written(file, edits_of(governed), LOOSER, after=governed)
    shell("policy", "set", trail, file)
    for name in ("alice", "bob"):
        shell("approve", trail, plan, "--key", tmp_path / name)
    file.write_text(f"{file.read_text('utf-8')}\n# edited\n", "utf-8")

    told = shell("policy", "set", trail, file, "--plan", plan)

    assert 2 == told.code
    assert "is not for policy shop/2#" in told.stderr


def test_to_tighten_needs_no_plan(
    shell: Shell, trail: Path, governed: Policy, tmp_path: Path
) -> None:
    """Nobody has to be asked to protect more, and no plan is written."""
    file = tmp_path / "second.toml"
    written(file, edits_of(governed), TIGHTER, after=governed)

    told = shell("policy", "set", trail, file)

    assert 0 == told.code
    assert not (tmp_path / "second.toml.plan").exists()


# ---- vault ----


def test_the_keys_of_the_vault_are_listed(shell: Shell, trail: Path) -> None:
    """Who keeps them, since when, and how many there are; never a key."""
    told = shell("vault", "show", trail)
    as_json = shell("vault", "show", trail, "--json").json

    (version,) = as_json["versions"]
    assert (1, "file", 3) == (version["version"], version["kept_by"], version["data_keys"])
    assert 1 == as_json["index_keys"]
    assert ["1", "file", version["created_at"], "3"] == told.rows[-1]


@pytest.mark.parametrize("environment", [{}, {"INDELIBLE_VAULT_KEY": "file"}, PASSPHRASE])
def test_the_vault_gets_a_new_key(
    shell: Shell, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Whoever keeps it: values open as before, and the old key is gone."""
    trail = tmp_path / "vault"
    shell("init", trail, **environment)
    record = ("record", trail, "--action", "order.ship", "--resource", "order:1", "--actor")
    assert 0 == shell(*record, "user:alice", **environment).code

    told = shell("vault", "rotate", trail, **environment)
    again = shell("vault", "rotate", trail, "--json", **environment)

    assert (0, [["vault key version", "2"]]) == (told.code, told.rows)
    assert {"version": 3} == again.json
    shown = shell("vault", "show", trail, "--json", **environment).json["versions"]
    kind = "passphrase" if environment is PASSPHRASE else "file"
    assert [(3, kind)] == [(each["version"], each["kept_by"]) for each in shown]
    keys = [file.name for file in (trail / "keys").glob("vault-*")]
    assert ([] if kind == "passphrase" else ["vault-3.key"]) == keys
    found = shell("search", trail, "actor:user:alice", "--json", **environment).json["items"]
    assert ["order.ship"] == [each["event"]["action"] for each in found]
    assert 0 == shell(*record, "user:bob", **environment).code
    rotations = shell("search", trail, "action:vault.rotate", "--json", **environment).json["items"]
    assert [{"kind": "kek", "number": 3}, {"kind": "kek", "number": 2}] == [
        each["event"]["data"] for each in rotations
    ]
    assert 0 == shell("verify", trail, **environment).code


def test_values_are_found_by_a_new_index_key(shell: Shell, trail: Path) -> None:
    """Older entries are found by the older key, newer ones by the newer: none is missed."""
    told = shell("vault", "rotate", trail, "--index")
    shell(
        *("record", trail, "--action", "invoice.approve", "--actor", "user:alice"),
        *("--resource", "invoice:INV-8"),
    )

    assert (0, [["index key", "2"]]) == (told.code, told.rows)
    assert {"index_key": 3} == shell("vault", "rotate", trail, "--index", "--json").json
    assert 3 == shell("vault", "show", trail, "--json").json["index_keys"]
    found = shell("search", trail, "actor:user:alice", "--json").json["items"]
    assert ["invoice:INV-8", "invoice:INV-7"] == [
        f"{each['event']['resource']['type']}:{each['event']['resource']['id']}" for each in found
    ]


def test_a_vault_that_another_keeps_is_not_rotated(shell: Shell, tmp_path: Path) -> None:
    """Without the passphrase nothing is recorded or rotated; what is public can be read."""
    trail = tmp_path / "vault"
    shell("init", trail, **PASSPHRASE)
    record = ("record", trail, "--action", "order.ship", "--resource", "order:1", "--actor")
    shell(*record, "user:alice", **PASSPHRASE)
    wrong = {**PASSPHRASE, "INDELIBLE_PASSPHRASE": "battery staple"}

    by_file, by_wrong = shell("vault", "rotate", trail), shell("vault", "rotate", trail, **wrong)
    recorded = shell(*record, "user:alice", **wrong)
    read = shell("search", trail, "action:order.ship", "--json")
    without = shell("vault", "rotate", trail, INDELIBLE_VAULT_KEY="passphrase")

    assert (2, 2, 2, 2) == (by_file.code, by_wrong.code, recorded.code, without.code)
    assert "vault key version 1: is kept by passphrase, found file" in by_file.stderr
    assert "vault key version 1: found another passphrase" in by_wrong.stderr
    assert "INDELIBLE_PASSPHRASE is empty" in without.stderr
    for told in (by_wrong, recorded):
        assert "staple" not in told.stderr
        assert "horse" not in told.stderr
    (item,) = read.json["items"]
    assert "alice" not in json.dumps(item)
    shown = shell("vault", "show", trail, "--json", **PASSPHRASE).json["versions"]
    assert [1] == [each["version"] for each in shown]
    assert 0 == shell(*record, "user:bob", **PASSPHRASE).code
