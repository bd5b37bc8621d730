"""The commands about people and secrets, and what roles see of every command."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

import indelible
from indelible import document
from indelible.event import Actor
from indelible.policy import FieldClass, FieldRule

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

HIDDEN = ("alice", "carol", "203.0.113.9", "telephone", "session-1", "c@example.com")
SECRET = "correct-horse-battery"  # noqa: S105 - it opens nothing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a trail in which alice and a service change a customer."""
    path = tmp_path_factory.mktemp("people") / "audit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path.parent / "config"))
        with indelible.open(path, origin="audit.example.com/shop") as trail:
            for actor in ("user:alice", "service:billing"):
                trail.record(
                    "customer.update",
                    actor=actor,
                    resource="customer:carol",
                    changes={"email": ("c@example.com", "c@example.org")},
                    client="203.0.113.9",
                    session="session-1",
                    rationale="asked by telephone",
                )
    return path


@pytest.fixture
def people(made: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that trail."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shell.home / "config"))
    return shutil.copytree(made, tmp_path / "audit")


def test_a_person_is_told_what_is_held(shell: Shell, people: Path) -> None:
    """Lines for people, one document for programs."""
    told = shell("subject", people, "user:alice")
    answer = shell("subject", people, "user:alice", "--json")

    assert (0, 0) == (told.code, answer.code)
    assert "user:alice" == answer.json["subject"]
    assert ["user#0"] == [entry["entry"] for entry in answer.json["entries"]]
    assert ["subject", "user:alice"] in told.rows
    assert any(row[0] == "user#0 /session" and "session-1" in row[1] for row in told.rows)
    assert any(row[0] == "user#0" and "2 further values" in row[1] for row in told.rows)


def test_a_page_for_a_person_is_a_new_file_of_its_owner(
    shell: Shell, people: Path, tmp_path: Path
) -> None:
    """What is held about somebody lands in no file that others read, and overwrites none."""
    page = tmp_path / "alice.html"

    first = shell("subject", people, "user:alice", "--html", page)
    again = shell("subject", people, "user:alice", "--html", page)

    assert (0, "") == (first.code, first.stdout)
    assert 0o600 == page.stat().st_mode & 0o777
    assert "session-1" in page.read_text("utf-8")
    assert (2, 1) == (again.code, again.stderr.count("found a file, expected none"))


def test_who_asked_about_a_person_is_recorded(shell: Shell, people: Path) -> None:
    """A purpose that was given stands in the custody stream."""
    shell("subject", people, "user:alice", "--purpose", "asked by letter")

    opened = shell("search", people, "action:values.open stream:custody", "--json").json["items"]

    assert "subject:user:alice" == opened[0]["event"]["data"]["query"]
    assert {"text": "asked by letter"} == opened[0]["event"]["rationale"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("alice",), "expected type:id"),
        ((), "TYPE:ID: found none"),
        (("user:alice", "--as", "operator"), "role operator sees no values"),
        (("user:alice", "--as", "nobody"), "role: found 'nobody'"),
        (("user:alice", "--json", "--html", "x.html"), "--html: found --json as well"),
    ],
)
def test_a_question_about_nobody_is_refused(
    shell: Shell, people: Path, args: tuple[str, ...], message: str
) -> None:
    """A wrong call is an error in one line."""
    answer = shell("subject", people, *args)

    assert (2, "") == (answer.code, answer.stdout)
    assert message in answer.stderr


def test_a_clean_trail_has_no_finding(shell: Shell, people: Path) -> None:
    """The exit code is that of a clean verdict."""
    told, scanned = shell("scan", people), shell("scan", people, "--json")

    assert (0, 0) == (told.code, scanned.code)
    assert (0, []) == (scanned.json["total"], scanned.json["found"])
    assert ["in clear", "0"] in told.rows


def test_a_finding_is_named_and_not_shown(shell: Shell, people: Path) -> None:
    """The exit code is 1, and no value is printed."""
    default = document.default()
    policy = msgspec.structs.replace(
        default,
        id="shop",
        text=b"",
        fields={**default.fields, "/data/note": FieldRule(class_=FieldClass.PUBLIC)},
    )
    with indelible.open(people, policy=policy) as trail:
        note = "paid with 4111 1111 1111 1111"
        # Roles are always in clear: an application that takes them from a header may do this.
        who = Actor(type="user", id="alice", roles=("Bearer a1b2c3d4e5f6a7b8c9d0",))
        trail.record("invoice.pay", actor=who, resource="invoice:7", data={"note": note})

    told, scanned = shell("scan", people), shell("scan", people, "--json")

    assert (1, 1) == (told.code, scanned.code)
    assert [{"path": "/actor/roles/*", "kind": "bearer token", "count": 1}] == scanned.json["found"]
    assert [{"path": "/data/note", "count": 1}] == scanned.json["caught"]
    assert ["user#2", "/actor/roles/0: bearer token"] in told.rows
    for printed in (told.stdout, scanned.stdout):
        assert "4111" not in printed
        assert "a1b2c3d4" not in printed


# ---- What roles see ----

COMMANDS = [
    ("search",),
    ("search", "--json", "--proofs"),
    ("search", "telephone", "--json"),
    ("search", "action:customer.*", "--all", "--json"),
    ("show", "user#0"),
    ("show", "user#0", "--json"),
    ("history", "customer:carol", "--json"),
    ("history", "customer:carol", "--at", "2100-01-01T00:00:00Z", "--json"),
    ("facets", "--field", "actor", "--field", "session", "--json"),
    ("facets", "actor:user:alice", "--json"),
    ("search", "ip:203.0.113.9", "--json"),
]


@pytest.mark.parametrize("role", ["operator", "reader"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_role_gets_no_hidden_value_from_any_command(
    shell: Shell, people: Path, role: str, command: tuple[str, ...]
) -> None:
    """Whatever is printed, an error included, holds no value that the role does not see."""
    name, *args = command

    for case in ((), ("--case", "case-1")):
        answer = shell(name, people, *args, "--as", role, *case)

        printed = answer.stdout + answer.stderr
        for value in HIDDEN:
            assert value not in printed.replace(args[0] if args else "", "")


def test_an_export_holds_no_value(shell: Shell, people: Path, tmp_path: Path) -> None:
    """What leaves the trail as a log is what stands in the log."""
    assert 0 == shell("export", people, "--tiles", tmp_path / "out").code

    for file in (tmp_path / "out").rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        for value in HIDDEN:
            assert value.encode() not in data


# ---- Secrets in the wrong place ----


@pytest.mark.parametrize(
    "args",
    [
        ("--data", f'{{"password": "{SECRET}"'),
        ("--data", f'"{SECRET}"'),
        ("--data", f'["{SECRET}"]'),
        ("--data", f'{{"password": "{SECRET}", "password": 1}}'),
        ("--data", f'{{"password": "{SECRET}", "a": NaN}}'),
        ("--data", f'{{"note": "{SECRET}\\u0000"}}'),
        ("--change", "password", SECRET),
        ("--change", "password", "old", SECRET, "--change", "password", "1", "2"),
        ("--rationale", f"{SECRET}\udcff"),
        ("--rationale", "", "--data", f'{{"password": "{SECRET}"}}'),
    ],
)
def test_the_command_line_shows_no_secret_that_it_was_given(
    shell: Shell, people: Path, args: tuple[str, ...]
) -> None:
    """What a command says about its arguments may stand in a log of the system that runs it."""
    answer = shell(
        *("record", people, "--action", "user.update", "--actor", "user:alice"),
        *("--resource", "user:alice", *args),
    )

    assert 2 == answer.code
    assert SECRET not in answer.stdout + answer.stderr


def test_an_import_shows_no_secret_that_it_rejects(shell: Shell, tmp_path: Path) -> None:
    """The reports of an import name line and field, and nothing of what stands there."""
    path, source = tmp_path / "audit", tmp_path / "app.jsonl"
    source.write_text(f'{{"password": "{SECRET}"}}\n{{"a": "{SECRET}\n', "utf-8")
    shell("init", path)

    answer = shell("import", path, source, "--format", "jsonl")

    assert 1 == answer.code
    assert 2 == answer.stderr.count("expected")
    assert SECRET not in answer.stdout + answer.stderr
