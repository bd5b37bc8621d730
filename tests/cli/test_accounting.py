from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.policies import Consent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


@pytest.fixture
def erased(shell: Shell, trail: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Erase what is held about bob."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shell.home / "config"))
    with indelible.open(trail) as audit:
        plan = audit.plan_erasure("user:bob", basis="GDPR Art. 17")
        audit.erase(Consent(plan=plan.to_bytes(), approvals=(audit.approve(plan),)))
    return trail


def remove_rows(trail: Path) -> None:
    """Remove the values of all entries behind the trail's back."""
    with closing(sqlite3.connect(trail / "head.db")) as file, file:
        file.execute("DELETE FROM vault")


def test_every_value_is_accounted_for(shell: Shell, erased: Path) -> None:
    """Totals by state, and each erasure with its entry, its ground and who approved it."""
    answer = shell("accounting", erased, "--json")
    told = shell("accounting", erased)

    assert (0, "") == (answer.code, answer.stderr)
    assert answer.json["passed"]
    assert {"OPEN", "ERASED"} == set(answer.json["values"])
    assert [("GDPR Art. 17", ["owner"], True, True)] == [
        (each["basis"], each["approved_by"], each["self_approved"], each["effective"])
        for each in answer.json["removals"]
    ]
    assert [] == answer.json["alarms"]
    assert 0 == told.code
    assert ["log", "signed"] == told.rows[0]
    (row,) = [row for row in told.rows if row[0] == "erased"]
    assert "approved by owner (self-approved)" in row[1]
    assert answer.json["removals"][0]["entry"] in row[1]


def test_what_is_missing_is_named(shell: Shell, erased: Path) -> None:
    """A value that nobody accounts for is named with its place and why; the exit code is 1."""
    remove_rows(erased)

    answer = shell("accounting", erased, "--json")
    told = shell("accounting", erased)

    assert (1, 1) == (answer.code, told.code)
    assert not answer.json["passed"]
    assert "signed" == answer.json["level"]
    assert {"MISSING"} == {each["state"] for each in answer.json["alarms"]}
    assert answer.json["alarm_count"] == len(answer.json["alarms"])
    assert any(
        row[0] == "alarm" and row[1].startswith("user#0 /actor/id: MISSING (") for row in told.rows
    )


def test_what_an_entry_that_does_not_count_covers_is_missing(shell: Shell, erased: Path) -> None:
    """A plan that is gone leaves its erasure without a ground, and says so."""
    with closing(sqlite3.connect(erased / "head.db")) as file, file:
        file.execute(
            "DELETE FROM document WHERE CAST(data AS TEXT) LIKE '%indelible-plan/1%'",
        )

    answer = shell("accounting", erased, "--json")
    told = shell("accounting", erased)

    assert 1 == answer.code
    assert [answer.json["removals"][0]["entry"]] == [each["entry"] for each in answer.json["wrong"]]
    assert "DOES NOT COUNT" in next(row[1] for row in told.rows if row[0] == "erased")


def test_a_lost_keyring_is_no_alarm(shell: Shell, erased: Path) -> None:
    """What cannot be read for want of a key is counted by itself, and the key is named."""
    (erased / "keys/vault-1.key").unlink()

    answer = shell("accounting", erased, "--json")
    told = shell("accounting", erased)

    assert 0 == answer.code
    assert {"UNREADABLE", "ERASED"} == set(answer.json["values"])
    assert "vault key version 1" in next(row[1] for row in told.rows if row[0] == "unreadable")


def test_a_log_that_does_not_hold_accounts_for_nothing(shell: Shell, erased: Path) -> None:
    """Since the log says what is rightly gone, it is verified first."""
    with closing(sqlite3.connect(erased / "head.db")) as file, file:
        for key, bodies in file.execute("SELECT key, bodies FROM tail").fetchall():
            changed = bodies.replace(b"GDPR Art. 17", b"GDPR Art. 18")
            file.execute("UPDATE tail SET bodies = ? WHERE key = ?", (changed, key))

    answer = shell("accounting", erased, "--json")
    told = shell("accounting", erased)

    assert (1, "tampered", False) == (answer.code, answer.json["level"], answer.json["passed"])
    assert ["log", "tampered: NO PASS"] == told.rows[0]
    assert "finding" in {row[0] for row in told.rows}


def test_a_verdict_counts_the_values_unless_asked_not_to(shell: Shell, erased: Path) -> None:
    """The verdict says of all values what became of them; of the log alone it says less."""
    whole = shell("verify", erased, "--json")
    told = shell("verify", erased)
    alone = shell("verify", erased, "--log-only", "--json")
    remove_rows(erased)
    broken = shell("verify", erased, "--json")
    kept = shell("verify", erased, "--log-only")

    assert (0, {"OPEN", "ERASED"}) == (whole.code, set(whole.json["values"]))
    assert "values" in {row[0] for row in told.rows}
    assert (0, {}) == (alone.code, alone.json["values"])
    assert (1, "tampered") == (broken.code, broken.json["level"])
    assert 0 == kept.code
