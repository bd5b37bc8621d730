"""
Opening: what every command that reads takes, and what it then reads from.

A place is the directory of a trail or the URL of a collector. Commands say that they read,
and are handed a `Source` that opens either; what they do with it is the same for both.
"""

from __future__ import annotations

import functools
import inspect
import os
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from indelible import query
from indelible.cli.arguments import As, Case, Purpose, is_url, split, split_perhaps
from indelible.errors import CallerError
from indelible.policy import OWNER
from indelible.trail import ENVIRONMENT, Trail
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from indelible.client import Client
    from indelible.proof import Proof
    from indelible.query import Item

TokenFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="For a URL: holds the access token. By default the token is what INDELIBLE_TOKEN"
        " holds.",
    ),
]
Ca = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="For a URL: certificates, PEM, that are trusted instead of the system's.",
    ),
]
Certificate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="For a URL: certificate and key, PEM, to show to the collector."
    ),
]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VKEY",
        help="For a URL: verifier key of one of the collector's logs, or a file of them; needed"
        " once, and remembered.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """
    How a command reads: as whom, and for a URL with what.

    Each field is an option of every command that has one.
    """

    as_: As = OWNER
    case: Case = None
    purpose: Purpose = None
    token_file: TokenFile = None
    ca: Ca = None
    certificate: Certificate = None
    trust: Trusted = None

    @contextmanager
    def opened(self, place: Path | str) -> Iterator[Trail | Client]:
        """
        Open the trail or the collector at *place* to read, and close it after the block.

        Raises:
            IndelibleError: It cannot be opened.
        """
        if isinstance(place, str):
            with self.client(place) as client:
                yield client
            return
        self.check_local()
        with open_trail(
            place, mode="r", role=self.as_, case=self.case, purpose=self.purpose
        ) as trail:
            yield trail

    def client(self, url: str) -> Client:
        """
        Return a client of the collector at *url*.

        Raises:
            CallerError: An option is missing, or does not go with a URL.
        """
        from indelible.client import Client  # noqa: PLC0415 - only for a URL

        if self.as_ != OWNER:
            raise CallerError(f"--as: found {self.as_!r}, but a collector's token has its role")
        return Client(
            url,
            None if self.token_file is None else Path(self.token_file),
            trust=self.trust,
            ca=self.ca,
            certificate=self.certificate,
            case=self.case,
            purpose=self.purpose,
        )

    def check_local(self) -> None:
        """
        Check that no option was given that is for a URL only.

        Raises:
            CallerError: One was.
        """
        for name in ("token_file", "ca", "certificate", "trust"):
            if getattr(self, name):
                raise CallerError(f"--{name.replace('_', '-')}: is for the URL of a collector")


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of a `Source`, which it takes as its one parameter *source*."""
    return _with_options(command, _OPTIONS)


def fetches(command: Callable[..., None]) -> Callable[..., None]:
    """Do the same for a command that opens no values, and so has no role."""
    return _with_options(command, [each for each in _OPTIONS if each.name not in _OF_ROLES])


_OF_ROLES = ("as_", "case", "purpose")
_OPTIONS = [
    inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=annotation,
    )
    for field, annotation in zip(
        fields(Source), get_type_hints(Source, include_extras=True).values(), strict=True
    )
]


def _with_options(
    command: Callable[..., None], options: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    taken = inspect.signature(command, eval_str=True)
    # Where it stands in the command, the options stand in its help.
    parameters = [
        each
        for parameter in taken.parameters.values()
        for each in (options if parameter.name == "source" else [parameter])
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        source = Source(**{option.name: values.pop(option.name) for option in options})
        command(source=source, **values)

    run.__signature__ = taken.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    del run.__wrapped__
    return run


def place_of(place: str | None) -> Path | str:
    """
    Return the directory of the trail, or the URL of the collector.

    Raises:
        CallerError: None is given.
    """
    place = place or os.environ.get(ENVIRONMENT)
    if not place:
        raise CallerError(f"DIR: found none, and {ENVIRONMENT} names none")
    return place if is_url(place) else Path(place)


def place_and(place: str | None, value: str | None, name: str) -> tuple[Path | str, str]:
    """
    Return the place and the one argument after it, called *name*.

    Raises:
        CallerError: One of them is missing.
    """
    place, value = split(place, value, name)
    return place_of(place), value


def place_and_perhaps(place: str | None, value: str | None) -> tuple[Path | str, str | None]:
    """
    Return the place and the argument after it, which may be missing.

    Raises:
        CallerError: No place is given.
    """
    place, value = split_perhaps(place, value)
    return place_of(place), value


def proof_of(opened: Trail | Client, item: Item) -> Proof:
    """
    Return the proof that its log holds *item*.

    Raises:
        VerificationError: There is none.
    """
    if isinstance(opened, Trail):
        with opened.store.read() as view:
            return query.prove(view, item.log, item.index)
    return opened.proof_of(item)
