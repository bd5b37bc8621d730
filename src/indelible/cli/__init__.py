"""
The command line: `indelible record`, `search`, `verify` and the others.

::

    application.py   the Typer app: its commands, exit codes and errors
    arguments.py     what several commands take
    recording.py     init, record, import
    shipping.py      ship
    reading.py       search, show, history, facets, tail, stats
    proving.py       verify, prove, verify-proof, checkpoint, key, export
    keeping.py       rotate-key, backup, restore
    forgetting.py    erase, approve, person-key, purge, hold
    output.py        how results are shown, to people and to programs
    terminal.py      what only a terminal shows: tables and progress

Needs ``pip install indelible[cli]``; nothing else of the package does.
"""

from __future__ import annotations

import sys

_EXTRA = frozenset({"typer", "rich"})
_USAGE = 2


def main() -> None:
    """Run the command line with the arguments of this process, and end it with its exit code."""
    try:
        from indelible.cli.application import app  # noqa: PLC0415 - the extra may be missing

        app()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        sys.stderr.write(
            f"error: the command line needs {name}, which is not installed:"
            " pip install 'indelible[cli]'\n"
        )
        sys.exit(_USAGE)
