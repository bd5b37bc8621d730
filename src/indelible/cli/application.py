"""
The Typer app: its commands, what their exit codes mean, and how errors are shown.

::

    0   success, or a clean verdict
    1   a finding: verification failed or is no pass, or the store or its data fail
    2   usage: the call cannot succeed as it stands
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from indelible.cli import (
    accounting,
    forgetting,
    governing,
    keeping,
    output,
    privacy,
    proving,
    reading,
    recording,
    relaying,
    serving,
    shipping,
    storing,
    tokens,
)
from indelible.errors import CallerError, IndelibleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FINDING = 1
USAGE = 2

_GROUPS: dict[str, tuple[tuple[str, Callable[..., None] | typer.Typer], ...]] = {
    "Record": (
        ("init", recording.init),
        ("record", recording.record),
        ("import", recording.import_),
        ("relay", relaying.relay),
        ("ship", shipping.ship),
    ),
    "Read": (
        ("search", reading.search),
        ("show", reading.show),
        ("history", reading.history),
        ("facets", reading.facets),
        ("subject", privacy.subject),
        ("tail", reading.tail),
        ("stats", reading.stats),
    ),
    "Prove": (
        ("verify", proving.verify),
        ("accounting", accounting.accounting),
        ("scan", privacy.scan),
        ("prove", proving.prove),
        ("verify-proof", proving.verify_proof),
        ("verify-evidence", proving.verify_evidence),
        ("checkpoint", proving.checkpoint),
        ("key", proving.key),
        ("export", proving.export),
    ),
    "Forget": (
        ("erase", forgetting.erase),
        ("approve", forgetting.approve),
        ("person-key", forgetting.person_key),
        ("purge", forgetting.purge),
        ("hold", forgetting.hold),
    ),
    "Govern": (
        ("policy", governing.policy),
        ("vault", governing.vault),
    ),
    "Collect": (
        ("serve", serving.serve),
        ("producer", serving.producer),
        ("token", tokens.app),
    ),
    "Keep": (
        ("rotate-key", keeping.rotate_key),
        ("backup", keeping.backup),
        ("restore", keeping.restore),
        ("store", storing.store),
    ),
}


class Commands(TyperGroup):
    """The commands as one program, which ends with an exit code and never with a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:  # noqa: ANN401 - as Typer has it
        """Run the command that *args* name, and end the process with its exit code."""
        args = list(sys.argv[1:] if args is None else args)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(
                recording.gather_changes(args),
                *rest,
                **{**extra, "prog_name": "indelible", "standalone_mode": False},
            )
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the answer has read enough. Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = FINDING
        except ModuleNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends here in one line
            code, kind, message = _judged(error)
            output.report(kind, message, json="--json" in args)
        sys.exit(code or 0)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as Typer has it
        """Write the commands by theme."""
        width = max(map(len, self.commands))
        for theme, commands in _GROUPS.items():
            with formatter.section(theme):
                formatter.write_dl(
                    [
                        (name.ljust(width), self.commands[name].get_short_help_str(100))
                        for name, _ in commands
                    ]
                )
        del ctx


def _judged(error: Exception) -> tuple[int, str, str]:
    """Return the exit code for *error*, its kind, and a message for whoever called."""
    # Typer brings its own Click, or uses that of others: its errors can only be
    # told by what they have.
    if (message_of := getattr(error, "format_message", None)) is not None:
        context = getattr(error, "ctx", None)
        command = "indelible" if context is None else context.command_path
        return USAGE, "UsageError", f"{message_of().rstrip('.')} (see {command} --help)"
    kind = type(error).__name__
    if isinstance(error, IndelibleError):
        return USAGE if isinstance(error, CallerError) else FINDING, kind, str(error)
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return FINDING, kind, f"{where}{error.strerror or error}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    # What the error says itself may hold a value, and this is to be pasted into a report.
    return FINDING, kind, f"a defect of indelible, please report it: {kind} ({where})"


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - called by Typer
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - slow to load

        output.print_text(f"indelible {version('indelible')}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """
    Keep an audit trail that can be proven.

    Most commands take the directory of a trail first; it may be left out where
    INDELIBLE_TRAIL names one. With --json, stdout holds one JSON document or JSON
    lines, and nothing else.

    Exit codes: 0 for success or a clean verdict; 1 for a finding, or a failing
    store; 2 for a call that cannot succeed as it stands.
    """


def _build() -> typer.Typer:
    built = typer.Typer(
        cls=Commands,
        # Plain help starts in half the time and reads the same everywhere.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    built.callback()(_root)
    for name, command in _commands():
        if isinstance(command, typer.Typer):
            built.add_typer(command, name=name)
        else:
            built.command(name)(command)
    return built


def _commands() -> Iterator[tuple[str, Callable[..., None] | typer.Typer]]:
    for commands in _GROUPS.values():
        yield from commands


app = _build()
