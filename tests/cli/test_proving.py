from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

STRANGER = {"XDG_CONFIG_HOME": "/nonexistent"}


def test_a_whole_trail_is_a_clean_verdict(shell: Shell, trail: Path) -> None:
    """By the keys pinned when it was made, a trail is signed; the verdict says what that means."""
    verdict = shell("verify", trail, "--json")
    told = shell("verify", trail, "--deep")

    assert (0, "") == (verdict.code, verdict.stderr)
    assert ("signed", True, []) == tuple(
        verdict.json[each] for each in ("level", "passed", "findings")
    )
    assert 2 == next(log["size"] for log in verdict.json["logs"] if log["log"] == "user")
    assert verdict.json["does_not_show"]
    assert 0 == told.code
    assert ["verdict", "signed"] == told.rows[0]
    assert {"reaches to", "does not show"} <= {row[0] for row in told.rows}


def test_nobody_elses_trail_passes_without_a_key(shell: Shell, trail: Path) -> None:
    """Where no key is pinned or given, the verdict is unauthenticated and never a pass."""
    verdict = shell("verify", trail, "--json", **STRANGER)
    told = shell("verify", trail, **STRANGER)

    assert (1, "unauthenticated", False) == (
        verdict.code,
        verdict.json["level"],
        verdict.json["passed"],
    )
    assert ["verdict", "unauthenticated: NO PASS"] == told.rows[0]


def test_given_keys_are_trusted_instead_of_pins(shell: Shell, trail: Path) -> None:
    """An auditor who was given the key of each log needs no pin."""
    keys = [
        arg
        for stream in ("user", "auth", "admin", "custody")
        for arg in ("--key", shell("key", trail, "--stream", stream).stdout.strip())
    ]

    assert "signed" == shell("verify", trail, *keys, "--json", **STRANGER).json["level"]
    assert 1 == shell("verify", trail, *keys[:2], **STRANGER).code


def test_a_changed_byte_is_named(shell: Shell, trail: Path) -> None:
    """What was changed on disk is a finding, with its log and place, and exit code 1."""
    data = (trail / "head.db").read_bytes()
    wal = trail / "head.db-wal"
    for path in (trail / "head.db", wal):
        if path.exists():
            path.write_bytes(path.read_bytes().replace(b'"id":"INV-7"', b'"id":"INV-8"'))
    assert data != (trail / "head.db").read_bytes()

    verdict = shell("verify", trail, "--json")
    told = shell("verify", trail)

    assert (1, "tampered") == (verdict.code, verdict.json["level"])
    assert [{"log", "where", "what"}] == [each.keys() for each in verdict.json["findings"]]
    assert "user" == verdict.json["findings"][0]["log"]
    assert "finding" == told.rows[1][0]


def test_a_trail_must_agree_with_an_older_checkpoint(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """A checkpoint that left the machine is held against the trail."""
    (tmp_path / "old").write_text(shell("checkpoint", trail).stdout)
    shell("record", trail, "--action", "a.b", "--actor", "system", "--resource", "a:1")
    shell("init", tmp_path / "other", "--origin", "audit.example.com/shop")
    (tmp_path / "foreign").write_text(
        shell("checkpoint", tmp_path / "other", "--stream", "custody").stdout
    )

    assert 0 == shell("verify", trail, "--checkpoint", tmp_path / "old").code
    assert 1 == shell("verify", trail, "--checkpoint", tmp_path / "foreign").code
    assert 2 == shell("verify", trail, "--checkpoint", tmp_path / "missing").code


@pytest.mark.parametrize("key", ["nonsense", "a+00000000+AAAA"])
def test_a_key_that_is_none_is_the_callers_error(shell: Shell, trail: Path, key: str) -> None:
    """A mistyped key is no finding about the trail."""
    answer = shell("verify", trail, "--key", key)

    assert 2 == answer.code
    assert answer.stderr.startswith("error: --key: ")


@pytest.mark.parametrize("command", ["verify", "search", "stats", "checkpoint", "key", "tail"])
def test_what_is_no_trail_is_the_callers_error(shell: Shell, tmp_path: Path, command: str) -> None:
    """A missing or foreign directory is named, and nothing is made there."""
    (tmp_path / "foreign").mkdir()
    for path in (tmp_path / "missing", tmp_path / "foreign"):
        answer = shell(command, path, "--json")

        assert (2, "") == (answer.code, answer.stdout)
        assert "NotATrail" == msgspec.json.decode(answer.stderr)["error"]["type"]

    assert not (tmp_path / "missing").exists()
    assert not [*(tmp_path / "foreign").iterdir()]


def test_an_entry_is_proven_without_the_trail(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Two files and a key show that the log holds an entry, and what it says."""
    made = shell("prove", trail, "user#1", "--out", tmp_path / "e", "--json").json
    files = ("--entry", made["entry"], "--proof", made["proof"])
    trail.rename(tmp_path / "gone")

    proven = shell("verify-proof", *files, "--key", made["key"], "--json")
    told = shell("verify-proof", *files, "--key", made["key"])

    assert (0, "") == (proven.code, proven.stderr)
    assert ("audit.example.com/shop/user", 1, 2) == tuple(
        proven.json[each] for each in ("origin", "index", "size")
    )
    assert {"type": "user"} == proven.json["event"]["actor"]
    assert "/actor/id" in proven.json["event"]["committed"]
    assert ["actor.type", "user"] in told.rows


def test_a_proof_that_does_not_hold_is_a_finding(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Another entry, another key or a changed byte is exit code 1, with nothing on stdout."""
    one = shell("prove", trail, "user#0", "--out", tmp_path / "one", "--json").json
    two = shell("prove", trail, "user#1", "--out", tmp_path / "two", "--json").json
    (tmp_path / "changed").write_bytes((tmp_path / "one.entry").read_bytes().replace(b"a", b"b"))
    other = shell("key", trail, "--stream", "admin").stdout.strip()
    cases = [
        (one["entry"], two["proof"], one["key"]),
        (one["entry"], one["proof"], other),
        (str(tmp_path / "changed"), one["proof"], one["key"]),
        (one["entry"], one["entry"], one["key"]),
    ]

    for entry, proof, key in cases:
        answer = shell("verify-proof", "--entry", entry, "--proof", proof, "--key", key)

        assert (1, "") == (answer.code, answer.stdout)
        assert answer.stderr.startswith("error: ")


def test_evidence_is_not_overwritten(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """A proof that was written stays as it is."""
    shell("prove", trail, "user#0", "--out", tmp_path / "e")
    before = (tmp_path / "e.entry").read_bytes()

    again = shell("prove", trail, "user#1", "--out", tmp_path / "e")

    assert 2 == again.code
    assert 2 == shell("prove", trail, "user#1", "--out", tmp_path / "missing" / "e").code
    assert before == (tmp_path / "e.entry").read_bytes()


def test_a_file_that_is_missing_is_the_callers_error(shell: Shell, trail: Path) -> None:
    """What cannot be read is named."""
    key = shell("key", trail).stdout.strip()

    answer = shell("verify-proof", "--entry", "e", "--proof", "p", "--key", key)

    assert (2, "error: e: No such file or directory\n") == (answer.code, answer.stderr)


def test_a_checkpoint_is_printed_byte_for_byte(shell: Shell, trail: Path) -> None:
    """What is printed is the signed note, and JSON holds the same."""
    note = shell("checkpoint", trail)
    document = shell("checkpoint", trail, "--json").json

    assert note.stdout.startswith("audit.example.com/shop/user\n2\n")
    assert note.stdout == document["note"]
    assert ("user", 2) == (document["stream"], document["size"])


@pytest.mark.parametrize("command", ["checkpoint", "key"])
def test_an_unknown_stream_is_named(shell: Shell, trail: Path, command: str) -> None:
    """The streams that there are stand in the message."""
    answer = shell(command, trail, "--stream", "nope")

    assert 2 == answer.code
    assert "stream: found 'nope', expected one of user" in answer.stderr


def test_an_empty_log_has_no_checkpoint(shell: Shell, trail: Path) -> None:
    """Of a log without entries nothing was signed."""
    assert 2 == shell("checkpoint", trail, "--stream", "admin").code


def test_a_key_is_one_line(shell: Shell, trail: Path) -> None:
    """The verifier key can be handed over as it is printed."""
    told = shell("key", trail)

    assert told.stdout.startswith("audit.example.com/shop/user+")
    assert 1 == told.stdout.count("\n")
    assert told.stdout.strip() == shell("key", trail, "--json").json["key"]


def test_an_exported_log_verifies_from_its_files(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Exported files, the key and an older checkpoint are all that a verifier needs."""
    out = tmp_path / "tiles"
    key = shell("key", trail).stdout.strip()
    (tmp_path / "old").write_text(shell("checkpoint", trail).stdout)
    exported = shell("export", trail, "--stream", "user", "--tiles", out, "--json")

    known = shell("verify", out, "--key", key, "--checkpoint", tmp_path / "old", "--json")
    unknown = shell("verify", out, "--json")

    assert (0, str(out)) == (exported.code, exported.json["tiles"])
    assert (0, True, 2) == (known.code, known.json["passed"], known.json["entries"])
    assert (1, "unauthenticated") == (unknown.code, unknown.json["level"])
    assert 2 == shell("verify", out, "--checkpoint", tmp_path / "old").code
    assert 2 == shell("verify", out, "--key", key, "--key", key).code
    assert 0 == shell("export", trail, "--tiles", tmp_path / "again").code
