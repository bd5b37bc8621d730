"""
Arguments that several commands take, and how the place of a trail is found.

Where ``INDELIBLE_TRAIL`` names the trail, its directory may be left out, also in
front of other arguments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indelible.errors import CallerError
from indelible.trail import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

Directory = Annotated[
    str | None,
    typer.Argument(
        metavar="DIR", help=f"Directory of the trail; may be left out if {ENVIRONMENT} names it."
    ),
]
Place = Annotated[
    str | None,
    typer.Argument(
        metavar="DIR|URL",
        help=f"Directory of the trail, or URL of a collector; may be left out if {ENVIRONMENT}"
        " names it.",
    ),
]
Id = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="Id of the event, or the entry's place such as user#12."),
]
Text = Annotated[
    str | None,
    typer.Argument(
        metavar="QUERY",
        help="Such as 'actor:user:alice action:invoice.* -outcome:success since:2026-01-31 urgent';"
        " put -- before one that begins with a minus."
        f" If {ENVIRONMENT} is set, a single argument is the query unless it is a trail.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Stream = Annotated[
    str, typer.Option("--stream", metavar="STREAM", help="Part of the trail: its stream.")
]

As = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="ROLE",
        help="Show what this role sees: owner, auditor, privacy_officer, reader, operator, or"
        " one of the policy's.",
    ),
]
Case = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Show pseudonyms for masked identities, the same for one person within this case.",
    ),
]
Purpose = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why values are opened; recorded with the opening."),
]


def trail_of(directory: str | None) -> Path:
    """
    Return the directory of the trail.

    Raises:
        CallerError: None is given.
    """
    directory = directory or os.environ.get(ENVIRONMENT)
    if not directory:
        raise CallerError(f"DIR: found none, and {ENVIRONMENT} names none")
    if is_url(directory):
        raise CallerError(
            "DIR: found the URL of a collector, expected a directory: this is done where the"
            " trail and its keys are"
        )
    return Path(directory)


def trail_and(directory: str | None, value: str | None, name: str) -> tuple[Path, str]:
    """
    Return the directory of the trail and the one argument after it, called *name*.

    Raises:
        CallerError: One of them is missing.
    """
    directory, value = split(directory, value, name)
    return trail_of(directory), value


def is_url(place: str) -> bool:
    """Tell whether *place* is a collector's URL rather than a directory."""
    return place.startswith(("https://", "http://"))


def split(place: str | None, value: str | None, name: str) -> tuple[str | None, str]:
    """
    Return what is given as the place of the trail and as the argument after it.

    Raises:
        CallerError: That argument, called *name*, is missing.
    """
    if value is None and os.environ.get(ENVIRONMENT):
        place, value = None, place
    if value is None:
        raise CallerError(f"{name}: found none, expected one after DIR")
    return place, value


def split_perhaps(place: str | None, value: str | None) -> tuple[str | None, str | None]:
    """Return what is given as the place of the trail, and as the argument after it."""
    return (None, place) if value is None and not _is_trail(place) else (place, value)


def trail_and_several(
    directory: str | None, values: Sequence[str], name: str
) -> tuple[Path, list[str]]:
    """
    Return the directory of the trail and the arguments after it, each called *name*.

    Raises:
        CallerError: No trail is given, or nothing after it.
    """
    values = list(values)
    if directory is not None and not _is_trail(directory):
        values.insert(0, directory)
        directory = None
    if not values:
        raise CallerError(f"{name}: found none, expected at least one after DIR")
    return trail_of(directory), values


def _is_trail(directory: str | None) -> bool:
    """Tell whether the first argument is a trail rather than what stands after one."""
    return (
        directory is None
        or not os.environ.get(ENVIRONMENT)
        or is_url(directory)
        or (Path(directory) / "trail.json").exists()
    )
