"""Commands for whoever keeps a trail: rotate-key, backup, restore."""

from __future__ import annotations

from typing import Annotated

import typer

from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_and, trail_of
from indelible.errors import CallerError
from indelible.trail import Trail
from indelible.trail import open as open_trail


def rotate_key(
    *,
    stream: Annotated[
        str, typer.Option("--stream", metavar="STREAM", help="Whose log gets a new key.")
    ],
    directory: Directory = None,
    json: Json = False,
) -> None:
    """
    Give a stream's log a new key, and destroy the old one.

    Both keys sign where one ends and the other begins, so that whoever has the old
    verifier key, or its pin, can go on verifying.
    """
    with Trail(trail_of(directory)) as trail:
        old = trail.verifier_key(stream).to_text()
        new = trail.rotate_key(stream).to_text()
    if json:
        output.print_json({"stream": stream, "old": old, "key": new})
    else:
        output.print_fields([("stream", stream), ("old key", old), ("key", new)])


def backup(
    *,
    directory: Directory = None,
    out: Annotated[
        str | None, typer.Argument(metavar="OUT", help="Directory to write; missing or empty.")
    ] = None,
    without_keys: Annotated[
        bool,
        typer.Option(
            "--without-keys",
            help="Leave signing keys and keyring out: the copy can be verified, and restored"
            " beside them.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """
    Copy a trail as it is now, while others write.

    The signing keys that lie in the trail, and the keyring, are copied, too: who has such
    a copy can sign, and read what is erased later. Keep it for a short time.
    """
    path, target = trail_and(directory, out, "OUT")
    with open_trail(path, mode="r") as trail:
        sizes = trail.backup(target, with_keys=not without_keys)
    if json:
        output.print_json({"path": target, "sizes": sizes})
    else:
        output.print_fields(
            [("backup", target), *((log, f"size {size}") for log, size in sizes.items())]
        )


def restore(
    *,
    source: Annotated[str, typer.Argument(metavar="IN", help="Directory that backup has written.")],
    directory: Directory = None,
    keys: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the signing keys are, if not in the backup."),
    ] = None,
    keyring: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The newest copy of keyring.db. By default that of the trail in place, if there"
            " is one, else the backup's.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Put a backup into place.

    What was signed after the backup was made is lost, if it is not in the backup;
    each log that lost something goes on as a successor, which says so. A trail that
    is in place is moved aside, never deleted. What was erased since stays erased, as far
    as the newest keyring knows of it.
    """
    from indelible import backup as backup_  # noqa: PLC0415 - only for this command

    target = trail_of(directory)
    if target.exists() and not target.is_dir():
        raise CallerError(f"{target}: found a file, expected a directory or nothing")
    lost = backup_.restore(source, target, keys=keys, keyring=keyring)
    if json:
        ranges = {log: {"first": first, "last": last - 1} for log, (first, last) in lost.items()}
        output.print_json({"path": str(target), "lost": ranges})
        return
    output.print_fields(
        [
            ("restored", str(target)),
            *(
                ("lost", f"{log}: {last - first}, from index {first} on; its successor says so")
                for log, (first, last) in lost.items()
            ),
            *([] if lost else [("lost", "nothing that is known")]),
        ]
    )
