from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from indelible.cli import policing
from indelible.cli.application import Commands
from indelible.document import default
from indelible.reference import to_html, to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable

SHOP = Path(__file__).parent.parent / "policies" / "shop.toml"
EVENT = {
    "occurred_at": "2026-11-24T03:33:46Z",
    "action": "invoice.approve",
    "actor": {"type": "user", "id": "alice", "name": "Alice"},
    "resource": "customer:C-7",
    "changes": {"status": ["draft", "paid"], "email": ["a@example.com", "b@example.com"]},
    "client": "192.0.2.1",
}


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever a command prints
        """The one JSON document that stdout holds, whole."""
        return json.loads(self.stdout)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line of stdout."""
        return [line.split("\t") for line in self.stdout.splitlines()]


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Answer]:
    """Return what runs a command of the group, with what errors and exit codes it has."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.add_typer(policing.app, name="policy")

    def run(*args: str | Path, stdin: bytes = b"") -> Answer:
        runner = CliRunner(env={"HOME": str(tmp_path), "COLUMNS": "80"})
        answer = runner.invoke(app, ["policy", *map(str, args)], input=stdin)
        return Answer(answer.exit_code, answer.stdout, answer.stderr)

    return run


@pytest.fixture
def event(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes an event to a file."""

    def write(**fields: object) -> Path:
        path = tmp_path / "event.json"
        path.write_text(json.dumps({**EVENT, **fields}), "utf-8")
        return path

    return write


def written(tmp_path: Path, old: str, new: str) -> Path:
    """Write the example with *new* in the place of *old*."""
    text = SHOP.read_text("utf-8")
    assert old in text
    path = tmp_path / "policy.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


def test_remarks_are_listed_with_their_lines(policy: Callable[..., Answer]) -> None:
    """Warnings are for the author to judge: they are listed, and the exit code is 0."""
    told = policy("lint", SHOP)
    as_json = policy("lint", SHOP, "--json")

    assert (0, "") == (told.code, told.stderr)
    assert ["warning", "29", "rule[4]"] in [row[:3] for row in told.rows]
    assert len(told.rows) == len(as_json.json["remarks"])
    assert {"key", "line", "what", "severity"} == set(as_json.json["remarks"][0])


def test_errors_of_a_policy_are_a_finding(policy: Callable[..., Answer], tmp_path: Path) -> None:
    """A build can fail on a policy that leaves events out and does not say why."""
    told = policy("lint", written(tmp_path, 'why = "no user action"\n', ""))

    assert 1 == told.code
    assert ["error", "11", "rule[0].level"] in [row[:3] for row in told.rows]


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ('stream = "auth"', 'streem = "auth"', ["error", "27", "rule[3].streem"]),
        ("[retention]", "[retention", ["error", "6", ""]),
    ],
)
def test_a_policy_that_means_nothing_is_a_finding_like_others(
    policy: Callable[..., Answer], tmp_path: Path, old: str, new: str, row: list[str]
) -> None:
    """What cannot be read is reported as what is wrong, in the same form."""
    path = written(tmp_path, old, new)

    told, as_json = policy("lint", path), policy("lint", path, "--json")

    assert (1, 1) == (told.code, as_json.code)
    assert [row] == [found[:3] for found in told.rows]
    assert told.rows[0][3].startswith("found ")
    assert "error" == as_json.json["remarks"][0]["severity"]


def test_the_built_in_policy_has_a_name(policy: Callable[..., Answer]) -> None:
    """What trails are under that were given no policy can be looked at."""
    assert 0 == policy("lint", "default").code
    assert to_markdown(default()) == policy("explain", "default").stdout


@pytest.mark.parametrize("command", ["lint", "explain"])
def test_a_missing_file_is_named(
    policy: Callable[..., Answer], tmp_path: Path, command: str
) -> None:
    """A call that names no policy cannot succeed."""
    told = policy(command, tmp_path / "none.toml")

    assert (2, "") == (told.code, told.stdout)
    assert "none.toml: found no file" in told.stderr


def test_what_would_happen_to_an_event_is_shown(
    policy: Callable[..., Answer], event: Callable[..., Path]
) -> None:
    """Before a policy is in force, its author sees where an event goes and what is left of it."""
    changes = {"status": ["draft", "paid"], "email": ["a", "b"], "password": ["a", "b"]}

    shown = policy("test", SHOP, event(changes=changes, data={"amount": 3, "currency": "EUR"}))

    assert 0 == shown.code
    assert [
        ["rule", "*"],
        ["stream", "user"],
        ["level", "full"],
        ["/actor/id", "accountable", "actor", "committed"],
        ["/actor/name", "personal", "", "committed"],
        ["/resource/id", "personal", "resource", "committed"],
        ["/changes/status", "public", "", "kept in clear"],
        ["/changes/email", "personal", "resource", "committed"],
        ["/changes/password", "secret", "", "dropped"],
        ["/data", "personal", "", "committed"],
        ["/client/ip", "personal", "actor", "committed"],
    ] == shown.rows[1:]


def test_an_event_may_come_from_standard_input(policy: Callable[..., Answer]) -> None:
    """What another program writes can be tried without a file."""
    shown = policy("test", "default", "-", "--json", stdin=json.dumps(EVENT).encode())

    assert (0, "everything else", "user") == (
        shown.code,
        shown.json["rule"],
        shown.json["stream"],
    )
    assert {
        "path": "/client/ip",
        "class": "personal",
        "subject": "actor",
        "becomes": "committed",
    } in (shown.json["values"])
    assert None is shown.json["refused"]


def test_an_event_that_would_be_refused_is_a_finding(
    policy: Callable[..., Answer], event: Callable[..., Path]
) -> None:
    """A stream that asks for a rationale does not take an event without one."""
    told = policy("test", SHOP, event(action="role.grant"))
    as_json = policy("test", SHOP, event(action="role.grant"), "--json")
    taken = policy("test", SHOP, event(action="role.grant", rationale="new in the team"))

    assert (1, 1, 0) == (told.code, as_json.code, taken.code)
    assert "rationale: found None" in as_json.json["refused"]
    assert "refused" in [row[0] for row in told.rows]


def test_an_event_that_is_not_captured_has_no_values(
    policy: Callable[..., Answer], event: Callable[..., Path]
) -> None:
    """Of what the policy leaves out, nothing at all is kept."""
    shown = policy("test", SHOP, event(action="health.check"), "--json")

    assert (0, "none", []) == (shown.code, shown.json["level"], shown.json["values"])


@pytest.mark.parametrize(
    ("level", "changes", "data"),
    [
        ("full", "committed", "committed"),
        ("changes", "committed", "left out by the level"),
        ("metadata", "left out by the level", "left out by the level"),
    ],
)
def test_a_level_leaves_out_what_it_says(
    policy: Callable[..., Answer],
    event: Callable[..., Path],
    tmp_path: Path,
    level: str,
    changes: str,
    data: str,
) -> None:
    """Each level keeps what its name says, and the rest is shown as left out."""
    file = written(tmp_path, 'stream = "user"', f'level = "{level}"')

    shown = policy("test", file, event(data={"amount": 3}), "--json")

    becomes = {value["path"]: value["becomes"] for value in shown.json["values"]}
    assert (changes, data) == (becomes["/changes/email"], becomes["/data"])


def test_fingerprints_and_caught_secrets_are_told_apart(
    policy: Callable[..., Answer], event: Callable[..., Path], tmp_path: Path
) -> None:
    """It is shown where something of a secret is kept, and where the net caught one."""
    file = written(tmp_path, '{ class = "secret" }', '{ class = "secret", fingerprint = true }')
    secrets = {"password": ["a", "b"], "status": ["x", "-----BEGIN PRIVATE KEY-----"]}

    shown = policy("test", file, event(changes=secrets), "--json")

    becomes = {value["path"]: value["becomes"] for value in shown.json["values"]}
    assert "committed, since it looks like a secret" == becomes["/changes/status"]
    assert "dropped, a fingerprint committed" == becomes["/changes/password"]


def test_what_is_no_event_is_refused(policy: Callable[..., Answer], tmp_path: Path) -> None:
    """A call without an event says what is missing."""
    (tmp_path / "event.json").write_text("{}", "utf-8")

    told = policy("test", SHOP, tmp_path / "event.json")

    assert 2 == told.code
    assert "expected" in told.stderr


def test_the_reference_is_written_as_text_and_as_a_page(policy: Callable[..., Answer]) -> None:
    """What auditors get comes from the very policy, in the form they want."""
    assert to_html(default()) == policy("explain", "default", "--html").stdout
    assert policy("explain", SHOP).stdout.startswith("# Policy shop/7")


def test_what_a_change_loosens_is_told_before_it_is_set(
    policy: Callable[..., Answer], tmp_path: Path
) -> None:
    """Whoever must approve a change reads what it allows, and whether it follows the last."""
    new = written(tmp_path, 'ceiling = "90d"', 'ceiling = "1y"')

    told = policy("diff", SHOP, new)
    as_json = policy("diff", SHOP, new, "--json")

    assert (0, 0) == (told.code, as_json.code)
    assert ["loosens", "/client/ip: the ceiling is 1y, before 90d"] in told.rows
    assert "does not follow" == told.rows[-1][0]
    assert ["/client/ip: the ceiling is 1y, before 90d"] == as_json.json["loosens"]
    assert ([], []) == (as_json.json["tightens"], as_json.json["changes"])
    assert "policy.version" in as_json.json["does_not_follow"]


def test_a_version_that_follows_has_nothing_against_it(
    policy: Callable[..., Answer], tmp_path: Path
) -> None:
    """Of the next version it is only said what it changes."""
    old, new = tmp_path / "1.toml", tmp_path / "2.toml"
    old.write_text('policy = { id = "a", version = 1 }\n', "utf-8")
    digest = policing.load(str(old)).digest.hex()
    new.write_text(
        f'policy = {{ id = "a", version = 2, supersedes = "sha256:{digest}" }}\n', "utf-8"
    )

    assert [] == policy("diff", old, new).rows
    assert None is policy("diff", old, new, "--json").json["does_not_follow"]
