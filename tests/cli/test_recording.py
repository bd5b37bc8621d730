from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from indelible.cli.recording import beside
from indelible.merkle import leaf_hash

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

EVENT = ("--action", "invoice.approve", "--actor", "user:alice", "--resource", "invoice:INV-7")
ID = "019ab437-5fd7-7123-8abc-0123456789ab"


def line(**fields: object) -> str:
    """Return an event as a line of JSON."""
    least = {
        "occurred_at": "2026-11-24T03:33:46Z",
        "action": "invoice.approve",
        "actor": "user:alice",
        "resource": "invoice:INV-7",
    }
    return json.dumps({**least, **fields}) + "\n"


def test_a_new_trail_says_where_keys_and_pins_are(shell: Shell, tmp_path: Path) -> None:
    """Whoever makes a trail learns where its keys are, what is pinned, and what to do next."""
    made = shell("init", tmp_path / "audit", "--origin", "audit.example.com/shop", "--json")
    told = shell("init", tmp_path / "other")

    assert (0, "") == (made.code, made.stderr)
    assert "audit.example.com/shop" == made.json["origin"]
    assert str(tmp_path / "audit" / "keys") == made.json["keys"]
    assert ["admin", "auth", "custody", "user"] == made.json["pinned"]
    assert (shell.home / "config/indelible/pins" / f"{made.json['id']}.json").exists()
    assert made.json["verifier_keys"]["user"].startswith("audit.example.com/shop/user+")
    assert {"trail", "signing keys", "pins", "verifier key", "next"} <= {
        row[0] for row in told.rows
    }


def test_keys_are_kept_where_they_are_wanted(shell: Shell, tmp_path: Path) -> None:
    """The signing keys may lie outside the trail."""
    made = shell("init", tmp_path / "audit", "--keys", tmp_path / "keys", "--json")

    assert str(tmp_path / "keys") == made.json["keys"]
    assert (tmp_path / "keys" / "user.key").exists()
    assert not (tmp_path / "audit" / "keys").exists()


def test_it_is_said_when_nothing_could_be_pinned(shell: Shell, tmp_path: Path) -> None:
    """Without a configuration to write to, a trail is made and says what is missing."""
    shell.home.write_text("no directory")

    made = shell("init", tmp_path / "audit", "--json")
    told = shell("init", tmp_path / "other")

    assert (0, None, []) == (made.code, made.json["pins"], made.json["pinned"])
    assert "keep the verifier keys yourself" in told.stdout


def test_dead_letters_lie_beside_a_repository_never_in_it() -> None:
    """A source that is a directory gets its dead letters beside it, however it is named."""
    here = Path.cwd()

    assert Path("logs/app.jsonl.rejected.jsonl") == beside("logs/app.jsonl")
    assert Path("repo.rejected.jsonl") == beside("repo/")
    assert here.with_name(f"{here.name}.rejected.jsonl") == beside(".")
    assert here.parent.with_name(f"{here.parent.name}.rejected.jsonl") == beside("..")
    assert Path("stdin.rejected.jsonl") == beside("-")


def test_a_trail_is_never_made_over_anything(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Neither a trail nor other files are overwritten."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")

    again = shell("init", trail)
    foreign = shell("init", tmp_path / "photos")

    assert (2, f"error: {trail}: holds a trail already\n") == (again.code, again.stderr)
    assert 2 == foreign.code
    assert "is not a trail" in foreign.stderr


def test_a_receipt_names_the_place_of_the_entry(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """What a receipt says can be checked with the exact bytes of the entry."""
    receipt = shell("record", trail, *EVENT, "--rationale", "PO-99", "--json")
    shell("prove", trail, receipt.json["id"], "--out", tmp_path / "e")

    assert (0, "") == (receipt.code, receipt.stderr)
    assert ["id", "stream", "index", "leaf_hash", "state"] == list(receipt.json)
    assert ("user", 2, "kept") == tuple(receipt.json[each] for each in ("stream", "index", "state"))
    assert leaf_hash((tmp_path / "e.entry").read_bytes()).hex() == receipt.json["leaf_hash"]


def test_a_receipt_is_read_by_people_too(shell: Shell, trail: Path) -> None:
    """Without --json a receipt is one name and value a line."""
    receipt = shell("record", trail, *EVENT)

    assert ["id", "stream", "index", "leaf_hash", "state"] == [row[0] for row in receipt.rows]


def test_what_is_given_is_what_is_recorded(shell: Shell, trail: Path) -> None:
    """Changes stay text, also where they look like numbers or options; data is JSON."""
    receipt = shell(
        *("record", trail, *EVENT, "--outcome", "denied", "--stream", "admin"),
        *("--change", "amount", "-5", "5", "--change=flag", "--json", "true"),
        *("--data", '{"lines": [1, null]}', "--rationale", "late", "--json"),
    )
    event = shell("show", trail, receipt.json["id"], "--json").json["event"]

    assert "admin" == receipt.json["stream"]
    assert "denied" == event["outcome"]
    assert {
        "amount": {"old": "-5", "new": "5"},
        "flag": {"old": "--json", "new": "true"},
    } == event["changes"]
    assert {"lines": [1, None]} == event["data"]
    assert {"text": "late"} == event["rationale"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--data", "{"), "--data: found"),
        (("--data", "[1]"), "--data: found a list, expected a JSON object"),
        (("--data", '{"a": 1, "a": 2}'), "--data: found the key twice"),
        (("--data", '{"a": NaN}'), "data.a: found nan"),
        (("--change", "status", "draft"), "--change: found 2 values, expected FIELD OLD NEW"),
        (("--change=status", "draft"), "--change: found 2 values"),
        (("--change", "a", "1", "2", "--change", "a", "2", "3"), "the field 'a' twice"),
        (("--outcome", "fine"), "outcome: found 'fine'"),
        (("--stream", "nope"), "stream: found 'nope', expected one of user"),
        (("--stream", "custody"), "only the trail itself writes there"),
        (("--actor", "alice"), "actor: found 'alice', expected TYPE:ID"),
        (("--nope",), "No such option"),
    ],
)
def test_a_wrong_event_is_refused_with_the_field(
    shell: Shell, trail: Path, args: tuple[str, ...], message: str
) -> None:
    """The caller learns what is wrong, in one line, and nothing is recorded."""
    before = shell("stats", trail, "--json").json["logs"]

    answer = shell("record", trail, *EVENT, *args)

    assert (2, "") == (answer.code, answer.stdout)
    assert answer.stderr.startswith("error: ")
    assert 1 == answer.stderr.count("\n")
    assert message in answer.stderr
    assert before == shell("stats", trail, "--json").json["logs"]


def test_recording_makes_no_trail(shell: Shell, tmp_path: Path) -> None:
    """A mistyped directory is an error, not a second trail."""
    answer = shell("record", tmp_path / "adit", *EVENT)

    assert 2 == answer.code
    assert not (tmp_path / "adit").exists()


def test_an_import_says_what_became_of_each_line(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Bad lines and conflicts are kept out with their number; the rest goes in, in its order."""
    source = tmp_path / "app.jsonl"
    source.write_text(
        line(id=ID) + "not json\n" + line() + line(id=ID) + line(id=ID, actor="user:eve")
    )

    answer = shell("import", trail, "--format", "jsonl", source, "--json")
    letters = (tmp_path / "app.jsonl.rejected.jsonl").read_text().splitlines()

    assert 1 == answer.code
    assert {"imported": 2, "duplicates": 1, "conflicts": 1, "rejected": 1} == answer.json
    assert [2, 5] == [json.loads(each)["line"] for each in letters]
    first, second = (json.loads(each)["error"] for each in answer.stderr.splitlines())
    assert f"{source}, line 2: " in first["message"]
    assert f"{source}, line 5: id {ID}: found other content" in second["message"]


def test_an_import_can_be_repeated(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """What is there already is not recorded twice, and that is no finding."""
    (tmp_path / "app.jsonl").write_text(line() + line(resource="invoice:INV-8"))
    args = ("import", trail, "--format", "jsonl", tmp_path / "app.jsonl")

    first, second = shell(*args, "--json"), shell(*args)

    assert (0, 2) == (first.code, first.json["imported"])
    assert 0 == second.code
    assert [
        ["imported", "0"],
        ["duplicates", "2"],
        ["conflicts", "0"],
        ["rejected", "0"],
    ] == second.rows
    assert not (tmp_path / "app.jsonl.rejected.jsonl").exists()


def test_dead_letters_go_where_they_are_wanted(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Several sources, standard input among them, may share one file of dead letters."""
    (tmp_path / "app.jsonl").write_text("{}\n")

    answer = shell.fed(
        b"nothing\n",
        *("import", trail, "--format", "jsonl", tmp_path / "app.jsonl", "-"),
        *("--dead-letters", tmp_path / "dead"),
    )

    assert 1 == answer.code
    assert 2 == len((tmp_path / "dead").read_text().splitlines())
    assert "stdin, line 1: " in answer.stderr


def test_a_flood_of_bad_lines_does_not_flood_the_terminal(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """After a hundred reports it is said how many more there are and where they stand."""
    (tmp_path / "app.jsonl").write_text("nothing\n" * 150)

    answer = shell("import", trail, "--format", "jsonl", tmp_path / "app.jsonl")

    assert 101 == answer.stderr.count("\n")
    assert "50 more, see" in answer.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "xml", "app.jsonl"), "format: found 'xml'"),
        (("--format", "jsonl", "missing.jsonl"), "missing.jsonl: found nothing"),
        (("--format", "jsonl"), "SOURCE: found none"),
        (("app.jsonl",), "Missing option '--format'"),
    ],
)
def test_an_import_that_cannot_begin_is_refused(
    shell: Shell, trail: Path, args: tuple[str, ...], message: str
) -> None:
    """A wrong format or a missing source is the caller's to correct."""
    answer = shell("import", trail, *args)

    assert (2, "") == (answer.code, answer.stdout)
    assert message in answer.stderr
