"""Nothing that stands in a trail is obeyed by a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.cli.output import visible, visible_json

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

EVIL = "ev\x1b]0;title\x07il\x9b2J\u202e[bold red]\n2026 forged\tline"
SHOWN = r"ev\x1b]0;title\x07il\x9b2J\u202e[bold red]\n2026 forged\tline"


@pytest.fixture
def forged(shell: Shell, trail: Path) -> Path:
    """Record an event whose every text holds what a terminal would obey."""
    answer = shell(
        *("record", trail, "--action", "invoice.void", "--actor", f"user:{EVIL}"),
        *("--resource", f"invoice:{EVIL}", "--rationale", EVIL, "--change", EVIL, EVIL, EVIL),
        *("--data", msgspec.json.encode({EVIL: EVIL}).decode()),
    )
    assert 0 == answer.code
    return trail


@pytest.mark.parametrize(
    "args",
    [
        ("search", "--stream", "user"),
        ("show", "user#2"),
        ("history", f"invoice:{EVIL}"),
        ("history", f"invoice:{EVIL}", "--at", "2100-01-01T00:00:00Z"),
        ("facets", "action:invoice.void"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_prints_what_a_terminal_obeys(
    shell: Shell, forged: Path, args: tuple[str, ...], as_json: bool
) -> None:
    """Control characters of recorded values are shown, never sent; lines cannot be forged."""
    command, *rest = args

    answer = shell(command, forged, *rest, *(["--json"] if as_json else []))

    assert 0 == answer.code
    assert answer.stdout.replace("\n", "").replace("\t", "").isprintable()
    assert as_json or SHOWN in answer.stdout
    assert not [line for line in answer.stdout.splitlines() if line.startswith("2026 forged")]


def test_json_carries_the_very_characters(shell: Shell, forged: Path) -> None:
    """What is escaped for the eye is the same text for a program."""
    item = shell("show", forged, "user#2", "--json").json

    assert EVIL == item["event"]["actor"]["id"]
    assert {EVIL: EVIL} == item["event"]["data"]


def test_errors_cannot_forge_lines_either(shell: Shell, tmp_path: Path) -> None:
    """A path or a name in a message is shown as it is, in one line."""
    answer = shell("search", tmp_path / EVIL)

    assert 2 == answer.code
    assert SHOWN in answer.stderr
    assert answer.stderr.removesuffix("\n").isprintable()


@given(text=st.text())
def test_whatever_is_shown_can_be_seen(text: str) -> None:
    """Every text becomes a printable one, and what was printable stays."""
    assert visible(text).isprintable()
    assert text.isprintable() == (visible(text) == text)


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_visible_json_is_the_same_value(value: str) -> None:
    """JSON is escaped without a change of what it says."""
    shown = visible_json({"value": value})

    assert shown.isprintable()
    assert {"value": value} == msgspec.json.decode(shown)


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_terminal_of_any_width_shows_the_entries(shell: Shell, forged: Path, width: int) -> None:
    """A narrow terminal loses no actor, a wide one gets a table, and neither obeys a value."""
    printed = _without_style(_on_terminal(shell, width, "search", str(forged), "--stream", "user"))

    assert "\x1b" not in printed
    assert "[bold red]" in printed.replace("\r\n", "")
    for place in ("user#0", "user#1", "user#2"):
        assert place in printed
    assert ("time (UTC)" in printed) == (width == 200)


def test_a_terminal_sees_states_and_statistics(shell: Shell, trail: Path) -> None:
    """Tables on a terminal have headings."""
    at = ("--at", "2100-01-01T00:00:00Z")
    state = _on_terminal(shell, 120, "history", str(trail), "invoice:INV-7", *at)
    counted = _on_terminal(shell, 120, "stats", str(trail))

    columns = ["field", "value", "time", "actor", "action", "entry"]
    assert columns == _without_style(state).splitlines()[0].split()
    assert "last recorded" in counted


def test_colours_are_left_out_where_they_are_not_wanted(shell: Shell, trail: Path) -> None:
    """A denied outcome stands out, unless NO_COLOR is set."""
    who = ("--actor", "user:eve", "--resource", "invoice:INV-7")
    shell("record", trail, "--action", "invoice.void", *who, "--outcome", "denied")
    search = ("search", str(trail), "actor:user:eve")

    coloured = _on_terminal(shell, 120, *search)
    plain = _on_terminal(shell, 120, *search, NO_COLOR="1")

    assert "\x1b[31mdenied" in coloured
    assert "\x1b[31m" not in plain
    assert "denied" in plain


def test_progress_is_for_terminals_alone(shell: Shell, trail: Path) -> None:
    """A bar is drawn on a terminal, and never with --json."""
    drawn = _on_terminal(shell, 100, "verify", str(trail))
    plain = _on_terminal(shell, 100, "verify", str(trail), "--json")

    assert "\x1b[2K" in drawn
    assert "\x1b" not in plain


@pytest.mark.parametrize("command", ["search", "show"])
def test_any_locale_can_show_any_name(shell: Shell, trail: Path, command: str) -> None:
    """Where the locale has no letter for a name, it is escaped; JSON is always UTF-8."""
    made = shell(
        *("record", trail, "--action", "a.b", "--actor", "user:jürgen", "--resource", "a:1"),
        "--json",
    )
    wanted = {"search": f"id:{made.json['id']}", "show": made.json["id"]}[command]

    told = shell.process(command, trail, wanted, PYTHONIOENCODING="ascii")
    document = shell.process(command, trail, wanted, "--json", PYTHONIOENCODING="ascii")

    assert (0, 0) == (told.code, document.code)
    assert r"j\xfcrgen" in told.stdout
    assert "jürgen" in document.stdout


def _without_style(printed: str) -> str:
    """Return *printed* without bold, dim and colours, which are all that we send."""
    return re.sub(r"\x1b\[[0-9;]*m", "", printed)


def _on_terminal(shell: Shell, width: int, *args: str, **environment: str) -> str:
    """Return what a command prints on a terminal of this *width*."""
    ours, theirs = pty.openpty()
    variables = shell.variables(COLUMNS=str(width), TERM="xterm-256color", **environment)
    process = subprocess.Popen(
        [sys.executable, "-m", "indelible", *args],
        env=variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 65_536):
            printed += chunk
    except OSError:
        pass  # Linux says so when the other side is closed.
    finally:
        os.close(ours)
        process.wait(timeout=30)
    return printed.decode()
