"""What the docs say holds: their examples run, their links lead somewhere, nothing is left out."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from typer.main import get_command

import indelible
from indelible import errors
from indelible.cli.application import app
from indelible.verdict import Level
from tests import pages
from tests.pages import FENCE, ROOT, blocks_of
from tests.preloaded import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
MEASURED = DOCS / "performance.md"
"""Its commands run for minutes: they measure, and show nothing that could be compared."""

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def slugs_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    text = FENCE.sub("", page.read_text("utf-8"))
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


@pytest.fixture(scope="module")
def commands() -> Iterator[Path]:
    """Return the directory of the programs that pages use."""
    used = ("cli.terminal", "stores.sqlite", "subject", "verify")
    with programs(*(f"indelible.{module}" for module in used), "pydantic") as folder:
        yield folder


@pytest.mark.parametrize("page", pages_that_run(), ids=name_of)
def test_what_a_page_shows_is_what_happens(page: Path, commands: Path, tmp_path: Path) -> None:
    """Whoever copies an example from the docs gets what the docs say."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "INDELIBLE_TRAIL"}

    done = subprocess.run(
        [commands / "script", pages.__file__, page],
        cwd=work,
        env={
            **environment,
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            # Other plugins that are installed here take longer to load than a page's tests.
            "PYTEST_ADDOPTS": "-p no:schemathesis -p no:hypothesispytest -p no:faker",
            "PATH": os.pathsep.join(
                [str(commands), str(Path(sys.executable).parent), environment["PATH"]]
            ),
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
    text = FENCE.sub("", page.read_text("utf-8"))

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
            for link in _LINK.findall(FENCE.sub("", page.read_text("utf-8")))
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
        for language, code in FENCE.findall(page.read_text("utf-8"))
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
