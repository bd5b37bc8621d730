# ruff: noqa: INP001 - a script
"""
Write the reference of the command line, or with ``--check`` say whether it is current.

What stands there is what ``--help`` prints, so it cannot say anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.main import get_command
from typer.testing import CliRunner

from indelible.cli.application import app

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).with_name("reference") / "command-line.md"
WIDTH = "80"
INTRODUCTION = """\
<!-- Written by docs/generate.py; change the commands, not this file. -->

# The command line

`indelible` comes with `pip install 'indelible[cli]'`; `python -m indelible` is the same.

| exit code | meaning |
|---|---|
| 0 | success, or a clean verdict |
| 1 | a finding: no pass, an import that kept something out, or a store or data that fail |
| 2 | usage: the call cannot succeed as it stands |

Errors are one line on stderr, `error: …`; with `--json` the line is
`{"error": {"type": …, "message": …}}`, and stdout holds one JSON document or, for `history`,
`tail` and `search --all`, JSON lines.

An entry is `{"log", "stream", "index", "leaf_hash", "recorded_at", "event", "sealed"}`: `event` is
the event as the role may see it, `sealed` the very JSON that the log holds, `leaf_hash` SHA-256
over a zero byte and the entry, in hex. Where values are committed, `values` says of each path what
there is of it.
Control characters and invisible ones are never printed as they are: in JSON they are `\\u001b`,
elsewhere `\\x1b`.

Where stdout is no terminal, rows are lines with tabs between the cells and no heading.
"""


def reference() -> str:
    """Return the reference as the commands are now."""
    sections = [
        f"## {' '.join(('indelible', *command))}\n\n{_help(*command)}"
        for command in _commands(get_command(app))
    ]
    return "\n".join([INTRODUCTION, *sections])


def _commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - as Typer has it
    """Yield the path of a command, and those of the commands below it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, *path, name)


def _help(*command: str) -> str:
    answer = CliRunner(env={"COLUMNS": WIDTH, "TERM": "dumb"}).invoke(app, [*command, "--help"])
    return f"```text\n{answer.stdout.strip()}\n```\n"


def main() -> int:
    """Write the reference, or check it; return the exit code."""
    current = reference()
    if "--check" not in sys.argv[1:]:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(current, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == current:
        return 0
    sys.stderr.write(f"{TARGET.name} is not what the commands print: run {Path(__file__).name}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
