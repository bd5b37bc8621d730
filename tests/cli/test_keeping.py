from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

EVENT = ("--action", "invoice.approve", "--actor", "user:alice", "--resource", "invoice:INV-7")


def test_a_new_key_goes_on_where_the_old_one_ended(shell: Shell, trail: Path) -> None:
    """After a rotation the trail is signed by the new key, and the pinned one still verifies it."""
    before = shell("key", trail).stdout.strip()

    rotated = shell("rotate-key", trail, "--stream", "user", "--json")
    recorded = shell("record", trail, *EVENT)

    assert (0, before) == (rotated.code, rotated.json["old"])
    assert rotated.json["key"] == shell("key", trail).stdout.strip()
    assert before != rotated.json["key"]
    assert 0 == recorded.code
    assert 0 == shell("verify", trail).code


def test_what_rotates_is_always_named(shell: Shell, trail: Path) -> None:
    """A key is not replaced by default, nor that of a log without entries."""
    told = shell("rotate-key", trail, "--stream", "user")

    assert ["stream", "old key", "key"] == [row[0] for row in told.rows]
    assert 2 == shell("rotate-key", trail).code
    assert 2 == shell("rotate-key", trail, "--stream", "admin").code
    assert 2 == shell("rotate-key", trail, "--stream", "nope").code


def test_a_backup_is_restored_without_loss(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """A copy that has all that was signed simply takes the place of the trail."""
    saved = shell("backup", trail, tmp_path / "copy", "--json")
    trail.rename(tmp_path / "lost")

    restored = shell("restore", tmp_path / "copy", trail, "--json")

    assert (0, 2) == (saved.code, saved.json["sizes"]["user"])
    assert (0, {}) == (restored.code, restored.json["lost"])
    assert 0 == shell("verify", trail).code


def test_a_restored_trail_says_what_is_lost(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """What was signed after the backup is named, and the trail that was there moved aside."""
    shell("backup", trail, tmp_path / "copy")
    shell("record", trail, *EVENT)

    told = shell("restore", tmp_path / "copy", trail)

    assert 0 == told.code
    assert ["lost", "user: 1, from index 2 on; its successor says so"] in told.rows
    assert [*tmp_path.glob("audit.replaced-*")]


def test_entries_before_and_after_a_loss_can_be_proven(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """Each log of a stream, the one that ended and its successor, has proofs under its own key."""
    shell("backup", trail, tmp_path / "copy")
    shell("record", trail, *EVENT)
    shell("restore", tmp_path / "copy", trail)

    for place, name in (("user#0", "user"), ("user~2#0", "user~2")):
        made = shell("prove", trail, place, "--out", tmp_path / name, "--json").json
        files = ("--entry", made["entry"], "--proof", made["proof"], "--key", made["key"])
        proven = shell("verify-proof", *files, "--json")

        assert (0, f"audit.example.com/shop/{name}") == (proven.code, proven.json["origin"])


def test_a_backup_may_go_without_keys(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Who gets such a copy can verify but not sign, until the keys are brought back."""
    shell("backup", trail, tmp_path / "copy", "--without-keys")

    assert not [*(tmp_path / "copy").rglob("*.key")]
    assert 0 == shell("verify", tmp_path / "copy").code
    brought = ("--keys", trail / "keys", "--keyring", trail / "keyring.db")
    assert 0 == shell("restore", tmp_path / "copy", tmp_path / "new", *brought).code
    assert 0 == shell("record", tmp_path / "new", *EVENT).code


def test_nothing_is_overwritten(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Neither a backup nor a restore writes over something else."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    shell("backup", trail, tmp_path / "copy")

    assert 2 == shell("backup", trail, tmp_path / "photos").code
    assert 2 == shell("backup", trail).code
    assert 2 == shell("restore", tmp_path / "copy", tmp_path / "photos").code
    assert 2 == shell("restore", tmp_path / "copy", tmp_path / "photos" / "cat.jpg").code
    assert 2 == shell("restore", tmp_path / "photos", tmp_path / "new").code
    assert b"meow" == (tmp_path / "photos" / "cat.jpg").read_bytes()
