"""What only a terminal shows: tables that fit it, and how far something has come."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Task

    from indelible.cli.output import Advance

_STYLES = {"failure": "red", "denied": "red"}
_NARROW = 90


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows*, already made visible, under their headings, as wide as the terminal is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, never markup: a name may look like a tag of Rich.
        table.add_row(*map(Text, row))
    Console(highlight=False, markup=False, emoji=False).print(table)


def print_items(rows: Sequence[Sequence[str]]) -> None:
    """Print entries, given as the visible cells of `indelible.cli.output.ITEM_COLUMNS`."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.width < _NARROW:
        for time, actor, action, resource, outcome, entry, rationale, _ in rows:
            first = Text.assemble(_short(time), "Z  ", entry, "  ", _styled(outcome))
            lines = (f"  {actor}  {action}  {resource}", *([f"  {rationale}"] if rationale else []))
            console.print(first, *map(Text, lines), sep="\n", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("time (UTC)", no_wrap=True)
    for column in ("actor", "action", "resource"):
        table.add_column(column, overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("entry", no_wrap=True)
    table.add_column("rationale", no_wrap=True, overflow="ellipsis", max_width=30)
    for time, actor, action, resource, outcome, entry, rationale, _ in rows:
        table.add_row(
            _short(time),
            *map(Text, (actor, action, resource)),
            _styled(outcome),
            entry,
            Text(rationale),
        )
    console.print(table)


def _short(time: str) -> str:
    return time[:19].replace("T", " ")


def _styled(outcome: str) -> Text:
    return Text(outcome, style=_STYLES.get(outcome, ""))


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs, and take it away after it."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Done(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


class _Done(ProgressColumn):
    """How many entries, of how many, and how many a second."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{task.total:,.0f}"
        rate = "" if task.speed is None else f"  {task.speed:,.0f}/s"
        return Text(f"{task.completed:,.0f}{of}{rate}")
