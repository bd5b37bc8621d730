from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


def test_evidence_is_verified_without_the_trail(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """One command writes a folder, another verifies it by the key alone."""
    folder = tmp_path / "evidence"
    made = shell("prove", trail, "user#1", "--disclose", "/actor/id", "--out", folder, "--json")
    trail.rename(tmp_path / "gone")
    keys = [arg for key in made.json["keys"] for arg in ("--key", key)]

    shown = shell("verify-evidence", folder, *keys, "--json", XDG_CONFIG_HOME="/nonexistent")
    told = shell("verify-evidence", folder, *keys, XDG_CONFIG_HOME="/nonexistent")

    assert (0, "", 0) == (made.code, shown.stderr, shown.code)
    assert ("audit.example.com/shop/user", 1) == (shown.json["origin"], shown.json["index"])
    values = {each["path"]: each for each in shown.json["values"]}
    assert {"path": "/actor/id", "state": "OPEN", "proven": True, "value": "bob"} == values[
        "/actor/id"
    ]
    assert ("WITHHELD", False) == tuple(
        values["/changes/status"][each] for each in ("state", "proven")
    )
    assert ["/actor/id", "bob"] in told.rows
    assert "does not show" in {row[0] for row in told.rows}


def test_all_that_the_role_sees_is_disclosed(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """``all`` opens what the role may see, which for a reader is none of it."""
    owner = shell("prove", trail, "user#1", "--disclose", "all", "--out", tmp_path / "a", "--json")
    reader = shell(
        *("prove", trail, "user#1", "--disclose", "all", "--as", "reader"),
        *("--out", tmp_path / "b", "--json"),
    )

    assert {"OPEN"} == {each["state"] for each in owner.json["values"]}
    assert {"WITHHELD"} == {each["state"] for each in reader.json["values"]}


def test_nobody_discloses_what_their_role_does_not_see(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """Evidence is no way around a role."""
    answer = shell(
        *("prove", trail, "user#1", "--disclose", "/actor/id", "--as", "reader"),
        *("--out", tmp_path / "e", "--json"),
    )

    assert 2 == answer.code
    assert "Forbidden" == msgspec.json.decode(answer.stderr)["error"]["type"]
    assert not (tmp_path / "e").exists()


def test_evidence_of_what_is_not_there_is_the_callers_error(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """A missing entry, a path without a value and a folder that is full are told apart."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")

    for wanted, path, out, said in (
        ("user#9", "all", "e", "no entry"),
        ("user#1", "/client/ip", "e", "expected one of /actor/id"),
        ("user#1", "all", "full", "not overwritten"),
    ):
        answer = shell("prove", trail, wanted, "--disclose", path, "--out", tmp_path / out)

        assert 2 == answer.code
        assert said in answer.stderr
    assert not (tmp_path / "e").exists()


def test_evidence_that_was_changed_is_a_finding(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """A value that was edited is exit code 1, with nothing on stdout."""
    folder = tmp_path / "e"
    made = shell("prove", trail, "user#1", "--disclose", "all", "--out", folder, "--json")
    disclosure = folder / "disclosures/00.json"
    disclosure.write_bytes(disclosure.read_bytes().replace(b"bob", b"eve"))

    answer = shell("verify-evidence", folder, "--key", made.json["keys"][0])

    assert (1, "") == (answer.code, answer.stdout)
    assert answer.stderr.startswith("error: disclosure of /actor/id")


def test_an_erasure_without_its_key_is_no_pass(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """A removal that the given keys do not prove is called unproven, with exit code 1."""
    plan = tmp_path / "plan"
    shell("erase", trail, "--subject", "user:bob", "--basis", "GDPR Art. 17", "--out", plan)
    shell("approve", trail, plan)
    erased = shell("erase", trail, "--plan", plan)
    made = shell("prove", trail, "user#1", "--disclose", "all", "--out", tmp_path / "e", "--json")
    keys = {key.partition("+")[0].rpartition("/")[2]: key for key in made.json["keys"]}
    custody = ("--key", keys["custody"])

    whole = shell("verify-evidence", tmp_path / "e", "--key", keys["user"], *custody)
    partly = shell("verify-evidence", tmp_path / "e", "--key", keys["user"])

    assert 0 == erased.code, erased.stderr
    assert (0, 1) == (whole.code, partly.code)
    assert next(row[1] for row in whole.rows if row[0] == "/actor/id").startswith("ERASED: custody")
    assert next(row[1] for row in partly.rows if row[0] == "/actor/id").startswith("UNPROVEN: ")
    assert any("self-approved" in row[1] for row in whole.rows if row[0].startswith("custody#"))
