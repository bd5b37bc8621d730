"""Commands for whoever runs the database of a trail: store create, check, migrate, grant."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from indelible.cli import output
from indelible.cli.arguments import Json  # noqa: TC001 - Typer looks it up
from indelible.errors import CallerError

if TYPE_CHECKING:
    from indelible.stores.postgresql_schema import Right

ENVIRONMENT = "INDELIBLE_STORE"
"""Names the URL of the database where none is given."""

_RIGHTS = ("read", "ingest", "erase", "keys")

Url = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",
        help=f"Database of the trail: postgresql://user@host/name. By default what {ENVIRONMENT}"
        " holds; a URL with a password belongs there, where no list of processes shows it.",
    ),
]


def create(*, url: Url = None, json: Json = False) -> None:
    """
    Make the tables of a trail in a database that has none.

    Afterwards a role that may not make tables can make the trail in it, with
    init --store.
    """
    from indelible.stores import postgresql_schema  # noqa: PLC0415 - an extra

    postgresql_schema.create(url_of(url))
    _print({"layout": postgresql_schema.VERSION}, json=json)


def check(*, url: Url = None, json: Json = False) -> None:
    """
    Say whether a trail can be kept in a database as it is.

    Looks at its tables, and whether the server keeps what it commits. It changes
    nothing, and verifies no entry: that is what verify does.
    """
    from indelible.stores import postgresql_schema  # noqa: PLC0415 - an extra
    from indelible.stores.postgresql import PostgresqlStore  # noqa: PLC0415

    store = PostgresqlStore(url_of(url))
    try:
        with store.read() as view:
            logs = {name: head.size for name, head in view.heads().items()}
    finally:
        store.close()
    found = {"layout": postgresql_schema.VERSION, "epoch": store.epoch}
    if json:
        output.print_json({**found, "logs": logs})
        return
    output.print_fields(
        [
            *((name, str(value)) for name, value in found.items()),
            *((f"log {name}", f"size {size}") for name, size in logs.items()),
        ]
    )


def migrate(*, url: Url = None, json: Json = False) -> None:
    """
    Bring the tables of a trail up to date; make them if missing.

    Each step is a transaction of its own: one that fails leaves those before it, and
    the command can be repeated.
    """
    from indelible.stores import postgresql_schema  # noqa: PLC0415 - an extra

    steps = postgresql_schema.migrate(url_of(url))
    _print({"steps": steps, "layout": postgresql_schema.VERSION}, json=json)


def grant(
    *,
    url: Url = None,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="Role of the server that gets the rights.")
    ],
    right: Annotated[
        list[str],
        typer.Option(
            "--right",
            metavar="RIGHT",
            help="read sees the logs, ingest adds to them, erase besides takes values away,"
            " keys has the keys of the vault; can be repeated.",
        ),
    ],
    json: Json = False,
) -> None:
    """
    Let a role of the server do what it is for, and no more.

    Who records needs ingest and keys; who erases and purges needs erase besides.
    """
    if unknown := sorted(set(right) - set(_RIGHTS)):
        raise CallerError(
            f"--right: found {', '.join(unknown)}, expected one of {', '.join(_RIGHTS)}"
        )
    from indelible.stores import postgresql_schema  # noqa: PLC0415 - an extra

    database = url_of(url)
    for each in dict.fromkeys(right):
        postgresql_schema.grant(database, role, cast("Right", each))
    _print({"role": role, "rights": list(dict.fromkeys(right))}, json=json)


def url_of(given: str | None) -> str:
    """
    Return the URL of the database of a trail.

    Raises:
        CallerError: None is given, or it is none of PostgreSQL.
    """
    url = given or os.environ.get(ENVIRONMENT)
    if not url:
        raise CallerError(f"URL: found none, and {ENVIRONMENT} holds none")
    if not url.startswith(("postgresql://", "postgres://")):
        raise CallerError(
            "URL: found one that cannot be read, expected postgresql://user@host:port/database"
        )
    return url


def _print(values: dict[str, Any], *, json: bool) -> None:
    if json:
        output.print_json(values)
    else:
        output.print_fields(
            (name, ", ".join(value) if isinstance(value, list) else str(value))
            for name, value in values.items()
        )


store = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Keep the database of a trail: tables and rights.",
)
for _name, _command in (
    ("create", create),
    ("check", check),
    ("migrate", migrate),
    ("grant", grant),
):
    store.command(_name)(_command)
