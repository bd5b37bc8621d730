"""
Commands about access tokens of a collector: token issue, list, rotate, revoke.

They work on the trail itself: whoever has its keys may issue tokens of any role.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from indelible import tokens
from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_and, trail_of
from indelible.entry import time_to_text
from indelible.policy import OWNER
from indelible.trail import Trail
from indelible.trail import open as open_trail
from indelible.wire import TokenShown

if TYPE_CHECKING:
    from indelible.tokens import AccessToken

TokenId = Annotated[
    str | None, typer.Argument(metavar="ID", help="Id of the access token, see token list.")
]


def issue(
    *,
    directory: Directory = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Whose it is, for people.")],
    role: Annotated[
        str,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="recorder, join, reader, auditor, privacy_officer, operator, or one of the"
            " policy's.",
        ),
    ],
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="STREAM",
            help="Limit it to this stream; may be repeated.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Limit it to entries of this tenant."),
    ] = None,
    producer: Annotated[
        str | None,
        typer.Option(
            "--producer",
            metavar="ORIGIN",
            help="Of a recorder, the trail that it ships; of a join token, whom it enrols."
            " With /* all trails below.",
        ),
    ] = None,
    expires_in: Annotated[
        str, typer.Option("--expires-in", metavar="DURATION", help="Such as 8h; at most 366d.")
    ] = "90d",
    uses: Annotated[
        int | None,
        typer.Option(
            "--uses", metavar="N", help="How many producers a join token enrols; by default one."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Issue an access token and print it, this once.

    Only its hash is kept. That it was issued is an entry of the custody stream.
    """
    now = _now()
    token, secret = tokens.issue(
        name=name,
        role=role,
        created_by=OWNER,
        now=now,
        lasts=tokens.lasting(expires_in, now, "--expires-in"),
        streams=tuple(stream or ()),
        tenant=tenant,
        producer=producer,
        uses=uses,
        entropy=os.urandom,
    )
    with Trail(trail_of(directory)) as trail:
        tokens.keep(trail, token)
    _print(token, secret, json=json)


def show_all(*, directory: Directory = None, json: Json = False) -> None:
    """List the access tokens that there ever were, the oldest first; never their secrets."""
    now = _now()
    with open_trail(trail_of(directory), mode="r") as trail, trail.store.read() as view:
        found = tokens.everything(view)
    if json:
        for token in found:
            output.print_json(TokenShown.of(token))
        return
    output.print_table(
        ("id", "name", "role", "limits", "expires", "last used", "state"),
        [
            (
                token.id,
                token.name,
                token.role,
                _limits(token),
                time_to_text(token.expires_at),
                "" if token.last_used_at is None else time_to_text(token.last_used_at),
                _state(token, now),
            )
            for token in found
        ],
    )


def rotate(
    *,
    directory: Directory = None,
    token_id: TokenId = None,
    overlap: Annotated[
        str,
        typer.Option("--overlap", metavar="DURATION", help="How long the old one still works."),
    ] = "1h",
    json: Json = False,
) -> None:
    """
    Issue the successor of an access token, with the same role and limits, and print it.

    The old one works for a while yet, so that its holder can change over.
    """
    path, named = trail_and(directory, token_id, "ID")
    now = _now()
    with Trail(path) as trail:
        token, secret = tokens.rotate(
            trail,
            named,
            by=OWNER,
            now=now,
            overlap=tokens.lasting(overlap, now, "--overlap"),
            entropy=os.urandom,
        )
    _print(token, secret, json=json)


def revoke(*, directory: Directory = None, token_id: TokenId = None, json: Json = False) -> None:
    """Let an access token work no more; collectors know of it within two seconds."""
    path, named = trail_and(directory, token_id, "ID")
    with Trail(path) as trail:
        token = tokens.revoke(trail, named, by=OWNER, now=_now())
    _print(token, json=json)


def _now() -> int:
    return time.time_ns() // 1_000


def _print(token: AccessToken, secret: str | None = None, *, json: bool) -> None:
    if json:
        output.print_json(TokenShown.of(token, secret))
        return
    fields = [
        ("id", token.id),
        ("name", token.name),
        ("role", token.role),
        ("limits", _limits(token)),
        ("expires", time_to_text(token.expires_at)),
        ("revoked", "" if token.revoked_at is None else time_to_text(token.revoked_at)),
        ("token", secret or ""),
    ]
    output.print_fields([(name, value) for name, value in fields if value])


def _limits(token: AccessToken) -> str:
    limits = (
        ("streams", " or ".join(token.streams)),
        ("tenant", token.tenant),
        ("producer", token.producer),
        ("uses", None if token.uses_left is None else str(token.uses_left)),
    )
    return ", ".join(f"{name} {value}" for name, value in limits if value)


def _state(token: AccessToken, now: int) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "valid" if token.works(now) else "expired"


app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Issue, list, rotate and revoke the access tokens of a collector.",
)
for _name, _command in (
    ("issue", issue),
    ("list", show_all),
    ("rotate", rotate),
    ("revoke", revoke),
):
    app.command(_name)(_command)
