"""
What the docs say is run: Python blocks in order, and console blocks by a shell.

A page is read from top to bottom in a directory of its own. In a console block,
lines after ``$ `` are commands, and what follows is their output: compared line by
line, spaces and tabs alike, where ``…`` stands for anything and a line of it alone
for any lines. Where a page has a server listen on `PORT`, a port that is free is meant. HTML
comments before a block, or at the top of a page, say the rest::

    <!-- given: examples/approvals.py -->   run on the trail ``audit`` before the page
    <!-- exit code: 1 -->                   of the last command of the next block
    <!-- file: name -->                     the next block is written to this file
    <!-- not run: why -->                   the next block
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

PORT = "18744"
"""What pages that run a server have it listen on."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (exit code|file|not run): (.*?) -->\n+\Z")
_GIVEN = re.compile(r"^<!-- given: (.*?) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Code on a page, the line it begins at, and what the comment before it says."""

    language: str
    code: str
    line: int
    said: str
    value: str


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the blocks of a page that are run."""
    for match in FENCE.finditer(text):
        comment = _COMMENT.search(text[: match.start()])
        said, value = comment.groups() if comment else ("", "")
        if (match[1] in {"python", "console"} or said == "file") and said != "not run":
            yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 1, said, value)


def commands_of(code: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with the output that is shown."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        length = 1 + next(n for n, line in enumerate(lines) if not line.endswith("\\"))
        yield "\n".join(lines[:length]), lines[length:]


def matches(shown: list[str], printed: list[str]) -> bool:
    """Tell whether what a page shows is what was printed."""
    if not shown:
        return not printed
    first, rest = shown[0].split(), shown[1:]
    if first == ["…"]:
        return any(matches(rest, printed[n:]) for n in range(len(printed) + 1))
    pattern = ".*".join(map(re.escape, " ".join(first).split("…")))
    return (
        bool(printed)
        and re.fullmatch(pattern, " ".join(printed[0].split())) is not None
        and matches(rest, printed[1:])
    )


def run_page(page: Path) -> None:
    """Run all blocks of *page* in the current directory."""
    text = page.read_text("utf-8")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        text = text.replace(PORT, str(found.getsockname()[1]))
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for given in _GIVEN.findall(text):
        subprocess.run(["script", ROOT / given, "audit"], check=True)  # noqa: S607
    for block in blocks_of(text):
        if block.said == "file":
            Path(block.value).write_text(block.code, "utf-8")
        elif block.language == "python":
            # As many empty lines before, so that a traceback names the line of the page.
            lines = "\n" * block.line + block.code
            # As a program of its own: without what this one has imported from the future.
            code = compile(lines, str(page), "exec", dont_inherit=True)
            exec(code, namespace)  # noqa: S102 - a page of this repository
        else:
            run_console(page, block)


def run_console(page: Path, block: Block) -> None:
    """Run the commands of a console block, and hold what they print against the page."""
    commands = list(commands_of(block.code))
    for number, (command, shown) in enumerate(commands, start=1):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],  # noqa: S607
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        where = f"{page.name}, block of line {block.line}: $ {command}\n{done.stdout}"
        expected = 0
        if block.said == "exit code" and number == len(commands):
            expected = int(block.value)
        assert expected == done.returncode, where
        assert not shown or matches(shown, done.stdout.splitlines()), where


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
