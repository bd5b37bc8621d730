from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from indelible.cli.application import Commands
from indelible.errors import Damaged, WriteUncertain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

EVENT = ("--action", "invoice.approve", "--actor", "user:alice", "--resource", "invoice:INV-7")


def test_the_commands_run_as_a_program(shell: Shell, tmp_path: Path) -> None:
    """From making a trail to verifying it, each command is a process with an exit code."""
    path = tmp_path / "audit"

    made = shell.process("init", path, "--json")
    recorded = shell.process("record", path, *EVENT, "--json")
    found = shell.process("search", path, "invoice:INV-7", "--json")
    verified = shell.process("verify", path, "--json")

    assert [0, 0, 2, 0] == [each.code for each in (made, recorded, found, verified)]
    assert "kept" == recorded.json["state"]
    assert verified.json["passed"]
    assert found.stderr.startswith('{"error":')


def test_help_names_every_command(shell: Shell) -> None:
    """Help stands on stdout and is a success; each command has help of its own."""
    answer = shell("--help")
    groups = {
        "Record": ("init", "record", "import"),
        "Read": ("search", "show", "history", "facets", "tail", "stats"),
        "Prove": ("verify", "prove", "verify-proof", "checkpoint", "key", "export"),
        "Keep": ("rotate-key", "backup", "restore"),
    }

    assert 0 == answer.code
    for theme, commands in groups.items():
        assert f"\n{theme}:\n" in answer.stdout
        assert all(f"\n  {command} " in answer.stdout for command in commands)
    for command in (command for commands in groups.values() for command in commands):
        assert 0 == shell(command, "--help").code
        assert "--json" in shell(command, "-h").stdout


def test_the_version_is_printed(shell: Shell) -> None:
    """A report of a defect can say which version it is about."""
    assert shell("--version").stdout.startswith("indelible 0")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Missing command (see indelible --help)"),
        (
            ("serch",),
            "No such command 'serch'. Did you mean 'search', 'serve'? (see indelible --help)",
        ),
        (("show", "--nope"), "No such option: --nope (see indelible show --help)"),
        (
            ("show", "a", "b", "c"),
            "Got unexpected extra argument(s) (c) (see indelible show --help)",
        ),
    ],
)
def test_a_usage_error_is_one_line(shell: Shell, args: tuple[str, ...], message: str) -> None:
    """Whoever mistypes a command learns where its help is, with exit code 2."""
    answer = shell(*args)

    assert (2, "", f"error: {message}\n") == (answer.code, answer.stdout, answer.stderr)


def test_a_usage_error_is_json_where_json_is_wanted(shell: Shell) -> None:
    """Programs get every error in the same form, also one about the command line itself."""
    answer = shell("record", "--json")

    assert (2, "") == (answer.code, answer.stdout)
    assert "UsageError" == msgspec.json.decode(answer.stderr)["error"]["type"]


def test_the_environment_names_the_trail(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """Where INDELIBLE_TRAIL is set, DIR may be left out of every command."""
    named = {"INDELIBLE_TRAIL": str(trail)}
    (tmp_path / "app.jsonl").write_text("")
    cases: list[tuple[str | Path, ...]] = [
        ("record", *EVENT),
        ("import", "--format", "jsonl", tmp_path / "app.jsonl"),
        ("search",),
        ("search", "actor:user:alice"),
        ("show", "user#0"),
        ("history", "invoice:INV-7"),
        ("facets",),
        ("facets", "actor:user:alice"),
        ("stats",),
        ("verify",),
        ("prove", "user#0", "--out", tmp_path / "e"),
        ("checkpoint",),
        ("key",),
        ("export", "--tiles", tmp_path / "tiles"),
        ("rotate-key", "--stream", "user"),
        ("backup", tmp_path / "copy"),
    ]

    assert [0] * len(cases) == [shell(*args, **named).code for args in cases]
    assert 0 == shell("init", INDELIBLE_TRAIL=str(tmp_path / "new")).code
    assert 0 == shell("restore", tmp_path / "copy", INDELIBLE_TRAIL=str(tmp_path / "back")).code


def test_a_named_directory_goes_before_the_environment(
    shell: Shell, trail: Path, tmp_path: Path
) -> None:
    """What is given on the command line is what is read."""
    shell("init", tmp_path / "other")
    named = {"INDELIBLE_TRAIL": str(tmp_path / "other")}

    assert 1 == len(shell("search", trail, "actor:user:alice", **named).rows)
    assert 2 == len(shell("search", trail, "--stream", "user", **named).rows)
    assert 0 == shell("show", trail, "user#0", **named).code
    assert 2 == shell("show", "user#0", **named).code


@pytest.mark.parametrize(
    "args",
    [
        ("search",),
        ("stats",),
        ("show", "user#0"),
        ("backup", "copy"),
        ("import", "--format", "jsonl"),
        ("init",),
    ],
)
def test_no_directory_at_all_is_the_callers_error(shell: Shell, args: tuple[str, ...]) -> None:
    """Nothing is searched or made in a directory that nobody named."""
    answer = shell(*args)

    assert (2, "") == (answer.code, answer.stdout)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("a\x1b"), "KeyError", "a defect of indelible, please report it: KeyError ("),
        (OSError(28, "No space left", "f\x1b"), "OSError", r"f\x1b: No space left"),
        (WriteUncertain("look first"), "WriteUncertain", "look first"),
        (Damaged("entry 7"), "Damaged", "entry 7"),
    ],
)
def test_whatever_goes_wrong_is_one_line(error: Exception, kind: str, message: str) -> None:
    """Defects and failing stores end with exit code 1, and never with a traceback."""
    failing = typer.Typer(cls=Commands)

    @failing.command()
    def fail(*, json: Annotated[bool, typer.Option("--json")] = False) -> None:
        del json
        raise error

    failing.callback()(lambda: None)
    told = CliRunner().invoke(failing, ["fail"])
    document = CliRunner().invoke(failing, ["fail", "--json"])

    assert (1, "") == (told.exit_code, told.stdout)
    assert told.stderr.startswith("error: ")
    assert message in told.stderr
    assert told.stderr.removesuffix("\n").isprintable()
    assert kind == msgspec.json.decode(document.stderr)["error"]["type"]


def test_a_damaged_description_is_no_trail(shell: Shell, trail: Path) -> None:
    """A trail whose description cannot be read is refused, not made anew."""
    (trail / "trail.json").write_text("{")

    answer = shell("stats", trail)

    assert (2, "") == (answer.code, answer.stdout)
    assert "trail.json" in answer.stderr


def test_a_missing_extra_is_named_with_what_installs_it(shell: Shell) -> None:
    """Without Typer the package still works, and its command says what to install."""
    program = (
        "import sys; sys.modules['typer'] = None\n"
        "import indelible\n"
        "from indelible.cli import main\n"
        "main()\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=shell.variables(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (2, "") == (answer.returncode, answer.stdout)
    assert "pip install 'indelible[cli]'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_help_loads_no_rich() -> None:
    """What only tables need is not waited for by those who ask for help."""
    program = (
        "import sys\n"
        "from indelible.cli import main\n"
        "sys.argv = ['indelible', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('rich' in sys.modules, file=sys.stderr)\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert "False\n" == answer.stderr
