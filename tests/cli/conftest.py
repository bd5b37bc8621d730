from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from indelible.cli.application import app

if TYPE_CHECKING:
    from pathlib import Path


COMMANDS = get_command(app)
"""The program; Typer would build it anew for each call, which takes longer than most calls."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever a command prints
        """The one JSON document that stdout holds, whole."""
        return msgspec.json.decode(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        """The JSON documents that stdout holds, one a line."""
        return [msgspec.json.decode(line) for line in self.stdout.splitlines()]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line of stdout."""
        return [line.split("\t") for line in self.stdout.splitlines()]


class Shell:
    """Runs commands for a user whose home, pins included, is below a directory of the test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment: dict[str, str | None] = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "INDELIBLE_TRAIL": None,
            "COLUMNS": "80",
        }

    def __call__(self, *args: str | Path, **environment: str) -> Answer:
        """Run a command in this process."""
        return self.fed(b"", *args, **environment)

    def fed(self, stdin: bytes, *args: str | Path, **environment: str) -> Answer:
        """Run a command in this process, with something on its standard input."""
        runner = CliRunner(env={**self.environment, **environment})
        with runner.isolation(input=stdin) as (stdout, stderr, _):
            with pytest.raises(SystemExit) as ended:
                COMMANDS.main(list(map(str, args)))
            sys.stdout.flush()
            sys.stderr.flush()
            said = stdout.getvalue(), stderr.getvalue()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, *(each.decode() for each in said))

    def process(self, *args: str | Path, **environment: str) -> Answer:
        """Run a command in a process of its own."""
        answer = subprocess.run(
            [sys.executable, "-m", "indelible", *map(str, args)],
            env=self.variables(**environment),
            capture_output=True,
            check=False,
        )
        return Answer(answer.returncode, answer.stdout.decode(), answer.stderr.decode())

    def variables(self, **environment: str) -> dict[str, str]:
        """Return the environment of a process of this user."""
        merged = {**os.environ, **self.environment, **environment}
        return {name: value for name, value in merged.items() if value is not None}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Be a user."""
    return Shell(tmp_path / "home")


@pytest.fixture(scope="session")
def _approved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a trail in which alice approved invoice 7, and bob voided it, and its user's home."""
    base = tmp_path_factory.mktemp("approved")
    shell, path = Shell(base / "home"), base / "audit"
    assert 0 == shell("init", path, "--origin", "audit.example.com/shop").code
    for actor, old, new in (("user:alice", "draft", "paid"), ("user:bob", "paid", "void")):
        answer = shell(
            *("record", path, "--action", "invoice.approve", "--actor", actor),
            *("--resource", "invoice:INV-7", "--change", "status", old, new),
        )
        assert 0 == answer.code
    return base


@pytest.fixture
def trail(shell: Shell, tmp_path: Path, _approved: Path) -> Path:
    """Return a copy of it that this user has made."""
    shutil.copytree(_approved / "home", shell.home)
    return shutil.copytree(_approved / "audit", tmp_path / "audit")
