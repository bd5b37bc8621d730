"""
What the docs say is run: Python blocks in order, and console blocks by a shell.

A page is read from top to bottom in a directory of its own. In a console block,
lines after ``$ `` are commands, and what follows is their output: compared line by
line, spaces and tabs alike, where ``…`` stands for anything and a line of it alone
for any lines. HTML comments before a block, or at the top of a page, say the rest::

    <!-- given: examples/approvals.py -->   run on the trail ``audit`` before the page
    <!-- exit code: 1 -->                   of the last command of the next block
    <!-- file: name -->                     the next block is written to this file
    <!-- not run: why -->                   the next block
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from typer.main import get_command

import indelible
from indelible import errors
from indelible.cli.application import app
from indelible.verdict import Level

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
MEASURED = DOCS / "performance.md"
"""Its commands run for minutes: they measure, and show nothing that could be compared."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (exit code|file|not run): (.*?) -->\n+\Z")
_GIVEN = re.compile(r"^<!-- given: (.*?) -->$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


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
    for match in _FENCE.finditer(text):
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
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for given in _GIVEN.findall(text):
        subprocess.run([sys.executable, str(ROOT / given), "audit"], check=True)
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


def slugs_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def pages_that_run() -> list[Path]:
    """Return the pages that hold something to run."""
    return [page for page in PAGES if page != MEASURED and any(blocks_of(page.read_text("utf-8")))]


@pytest.mark.parametrize("page", pages_that_run(), ids=name_of)
def test_what_a_page_shows_is_what_happens(page: Path, tmp_path: Path) -> None:
    """Whoever copies an example from the docs gets what the docs say."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "INDELIBLE_TRAIL"}

    done = subprocess.run(
        [sys.executable, __file__, str(page)],
        cwd=work,
        env={
            **environment,
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A link to a file of this repository, or to a heading in it, has a target."""
    text = _FENCE.sub("", page.read_text("utf-8"))

    for link in _LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in slugs_of(target), link


def test_every_page_can_be_reached() -> None:
    """Whoever begins at the README finds every page of the docs."""
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        ahead += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8")))
            if "://" not in link
        ]

    assert set(DOCS.rglob("*.md")) <= seen


def documented(page: Path, names: set[str]) -> set[str]:
    """Return those of *names* that *page* does not mention as code."""
    text = page.read_text("utf-8")
    return {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?!\w)", text)}


def test_every_public_name_is_documented() -> None:
    """Each public name, what it takes, and what it offers stands in the reference."""
    trail = indelible.Trail
    offered = {name for name in vars(trail) if not name.startswith("_")}
    # For other parts of Indelible.
    offered -= {"existing", "import_lock", "signer_of", "after_fork_in_child"}
    taken = set[str]()
    for function in (
        indelible.open,
        trail.create,
        trail.search,
        trail.history,
        trail.state,
        trail.facets,
        trail.follow,
        trail.verify,
        trail.backup,
        indelible.Recorder.record,
        indelible.Recorder.record_many,
        indelible.Recorder.audited,
        indelible.context,
        indelible.Query,
    ):
        taken |= set(inspect.signature(function).parameters)
    from indelible.recorder import build  # noqa: PLC0415 - what record() takes

    taken |= set(inspect.signature(build).parameters)
    names = set(indelible.__all__) | offered | taken
    names |= set(indelible.Event.__struct_fields__) | set(indelible.Receipt.__struct_fields__)
    names |= {"record", "arecord", "record_many", "audited", "context"}
    names -= {"self", "fields", "filters", "query_"}

    assert set() == documented(DOCS / "reference" / "python-api.md", names)


def test_every_error_is_documented() -> None:
    """The tree of errors in the docs is that of the package."""
    tree = (errors.__doc__ or "").split("::\n\n")[1].split("\n\nA message")[0]
    expected = "\n".join(line[4:] for line in tree.split("\n"))

    assert expected in (DOCS / "reference" / "errors.md").read_text("utf-8")


def test_every_level_of_a_verdict_is_documented() -> None:
    """Each level that a verdict may have stands in the reference with its meaning."""
    page = DOCS / "reference" / "verdicts-and-exit-codes.md"

    assert set() == documented(page, {f"`{level}`" for level in Level})


def test_every_command_is_shown_at_work() -> None:
    """Each command stands in an example, not only in the reference."""
    shown = "\n".join(
        code
        for page in PAGES
        for language, code in _FENCE.findall(page.read_text("utf-8"))
        if language == "console"
    )

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]

    assert set() == {name for name in commands if f"indelible {name} " not in shown}


def test_every_test_that_the_docs_name_exists() -> None:
    """Where the docs say which test shows a promise, that test is there."""
    there = set[str]()
    for module in (ROOT / "tests").rglob("test_*.py"):
        there |= set(
            re.findall(r"^(?:async )?def (test_\w+)", module.read_text("utf-8"), re.MULTILINE)
        )

    named = {
        name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))
    }

    assert set() == named - there


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    """The demo runs to its end, finds the byte that it changes, and leaves nothing behind."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    done = subprocess.run(
        [str(ROOT / "demo" / "run")],
        env={**os.environ, "HOME": str(tmp_path), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout
    assert "tampered: NO PASS" in done.stdout
    assert [] == list(temporary.iterdir())


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
