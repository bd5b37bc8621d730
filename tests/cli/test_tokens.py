from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from indelible import tokens
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Answer, Shell


def issue(shell: Shell, trail: Path, *more: str, role: str = "auditor") -> Answer:
    """Issue a token for alice."""
    return shell("token", "issue", trail, "--name", "alice", "--role", role, "--json", *more)


@pytest.mark.parametrize(
    "role", ["recorder", "reader", "auditor", "privacy_officer", "operator", "join"]
)
def test_whoever_has_the_trails_keys_issues_tokens_of_any_role(
    shell: Shell, trail: Path, role: str
) -> None:
    """They see everything anyway; over the network some roles are not to be had."""
    producer = ("--producer", "audit.example.com/shop") if role == "join" else ()

    answer = issue(shell, trail, *producer, role=role)

    assert 0 == answer.code
    assert (role, "alice", "owner") == tuple(
        answer.json[name] for name in ("role", "name", "created_by")
    )
    assert answer.json["id"] == tokens.taken_apart(answer.json["token"])[0]


def test_a_token_is_printed_once(shell: Shell, trail: Path) -> None:
    """The list has all tokens with their limits, and no secret."""
    made = issue(shell, trail, "--stream", "user", "--tenant", "shop").json

    listed = shell("token", "list", trail)
    told = shell("token", "list", trail, "--json")

    assert [made["id"], "alice", "auditor", "streams user, tenant shop"] == listed.rows[0][:4]
    assert "valid" == listed.rows[0][-1]
    assert {name: made[name] for name in made if name != "token"} == told.json_lines[0]
    secret = tokens.taken_apart(made["token"])[1]
    assert secret not in listed.stdout + told.stdout


def test_people_are_told_what_they_need(shell: Shell, trail: Path) -> None:
    """Names and values, the secret last."""
    answer = shell("token", "issue", trail, "--name", "alice", "--role", "reader")

    assert ["id", "name", "role", "limits", "expires", "token"][:3] == [
        row[0] for row in answer.rows[:3]
    ]
    assert "token" == answer.rows[-1][0]
    assert answer.rows[-1][1].startswith("indelible_")


def test_a_token_is_rotated_and_revoked(shell: Shell, trail: Path) -> None:
    """Whoever held it is given another, and the old one ends at once or within the overlap."""
    old = issue(shell, trail).json

    new = shell("token", "rotate", trail, old["id"], "--overlap", "30min", "--json").json
    revoked = shell("token", "revoke", trail, old["id"], "--json").json

    states = {row[0]: row[-1] for row in shell("token", "list", trail).rows}
    assert old["token"] != new["token"]
    assert revoked["revoked_at"] is not None
    assert {old["id"]: "revoked", new["id"]: "valid"} == states


def test_all_of_it_is_in_the_custody_stream(shell: Shell, trail: Path) -> None:
    """Who had which rights, and from when to when, can be proven."""
    old = issue(shell, trail).json
    shell("token", "rotate", trail, old["id"])
    shell("token", "revoke", trail, old["id"])

    with open_trail(trail, mode="r") as opened:
        items = opened.search("stream:custody action:token.*").items
    assert ["token.issue", "token.rotate", "token.revoke"] == [
        item.event.action for item in reversed(items)
    ]


@pytest.mark.parametrize(
    ("more", "role", "said"),
    [
        ((), "owner", "role: found 'owner'"),
        ((), "join", "producer: found none"),
        (("--expires-in", "90"), "reader", "--expires-in: found '90'"),
        (("--expires-in", "2y"), "reader", "at most 366d"),
        (("--stream", "usr"), "reader", "streams: found 'usr'"),
        (("--uses", "2"), "reader", "uses: only a join token"),
    ],
)
def test_what_means_nothing_is_a_usage_error(
    shell: Shell, trail: Path, more: tuple[str, ...], role: str, said: str
) -> None:
    """Nothing is issued, and the message names what is wrong."""
    answer = issue(shell, trail, *more, role=role)

    assert 2 == answer.code
    assert said in answer.stderr
    assert "" == shell("token", "list", trail).stdout


def test_a_token_that_is_none_is_a_usage_error(shell: Shell, trail: Path) -> None:
    """What was given is not repeated: it may be a whole token."""
    answer = shell("token", "revoke", trail, "indelible_secret")

    assert 2 == answer.code
    assert "error: access token: found none of this id\n" == answer.stderr


def test_the_directory_may_be_left_out(shell: Shell, trail: Path) -> None:
    """Where INDELIBLE_TRAIL names it."""
    made = issue(shell, trail).json

    answer = shell("token", "revoke", made["id"], INDELIBLE_TRAIL=str(trail))

    assert 0 == answer.code
