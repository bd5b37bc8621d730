"""Commands that bring events into a trail: init, record, import."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_and_several, trail_of
from indelible.cli.storing import url_of
from indelible.errors import CallerError, InvalidEvent, Malformed
from indelible.recorder import State
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indelible.importing import Summary
    from indelible.recorder import Receipt

_MAX_REPORTED = 100
_CHANGE = "--change"
_PARTS_OF_CHANGE = 3


def init(
    *,
    directory: Directory = None,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the trail in its checkpoints: a URL without its scheme, such as"
            " audit.example.com/shop. By default host and directory.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where to keep the signing keys. By default in the trail."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database to keep the logs and the keyring in: postgresql://user@host/name."
            " Leave its password to PGPASSFILE: the trail's directory does not keep it. By default"
            " they are in the directory.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Make a trail, with its signing keys and pins.

    Each stream gets a log with a key of its own. What verifies it is pinned in your
    configuration, so that a trail that was replaced as a whole is noticed here.
    """
    path = trail_of(directory)
    url = None if store is None else url_of(store)
    with Trail.create(path, origin=origin, keys=keys, store=url) as trail:
        pinned, pins = _pins(trail)
        verifiers = {
            stream: trail.signer(stream).verifier.to_text() for stream in trail.policy.streams
        }
    directory_of_keys = str(Path(keys) if keys is not None else path / "keys")
    if json:
        output.print_json(
            {
                "path": str(path),
                "id": trail.id,
                "origin": trail.origin,
                "keys": directory_of_keys,
                "pins": pins,
                "pinned": pinned,
                "verifier_keys": verifiers,
            }
        )
        return
    example = "--action invoice.approve --actor user:alice --resource invoice:INV-7"
    output.print_fields(
        [
            ("trail", str(path)),
            ("origin", trail.origin),
            ("signing keys", f"{directory_of_keys} (who reads them can sign: keep others out)"),
            ("pins", f"{pins} (keys of {', '.join(pinned)})" if pins else _NOT_PINNED),
            *(("verifier key", text) for text in verifiers.values()),
            (
                "next",
                "give the verifier keys to whoever is to verify, on another way than the trail",
            ),
            ("next", f"indelible record {path} {example}"),
            ("next", f"indelible verify {path}"),
        ]
    )


_NOT_PINNED = (
    "none could be written: keep the verifier keys yourself, and give them to verify with --key"
)


def _pins(trail: Trail) -> tuple[list[str], str | None]:
    """Return which logs' keys are pinned and in which file; none where there is no file."""
    try:
        pins = trail.pins()
        pinned = sorted(pins.read())
    except (OSError, Malformed):
        return [], None
    return pinned, str(pins.path) if pinned else None


def record(
    *,
    action: Annotated[
        str, typer.Option(metavar="ACTION", help="What was done, such as invoice.approve.")
    ],
    actor: Annotated[str, typer.Option(metavar="TYPE:ID", help="Who did it, such as user:alice.")],
    resource: Annotated[
        str, typer.Option(metavar="TYPE:ID", help="What it was done to, such as invoice:INV-7.")
    ],
    directory: Directory = None,
    outcome: Annotated[
        str, typer.Option(metavar="OUTCOME", help="success, failure, denied or unknown.")
    ] = "success",
    rationale: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, in the actor's words.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            _CHANGE,
            metavar="FIELD OLD NEW",
            help="A field's old and new value, both kept as text. May be given several times.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="Further facts, as a JSON object.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(metavar="STREAM", help="Where to. By default where the policy routes it."),
    ] = None,
    json: Json = False,
) -> None:
    """
    Record an event and print its receipt.

    The event survives a crash from then on. The leaf hash is SHA-256 over a zero
    byte and the entry, in hex.
    """
    fields = {
        "actor": actor,
        "resource": resource,
        "outcome": outcome,
        "rationale": rationale,
        "changes": None if change is None else _changes(change),
        "data": None if data is None else _data(data),
    }
    with Trail(trail_of(directory)) as trail:
        receipt = trail.record(action, stream=stream, **fields)
    shown = _receipt(receipt)
    if json:
        output.print_json(shown)
    else:
        output.print_fields((name, output.value_text(value)) for name, value in shown.items())
    if receipt.state is State.LOST:
        raise typer.Exit(1)


def gather_changes(args: Sequence[str]) -> list[str]:
    """
    Return *args* with the three values after each ``--change`` made one.

    Typer has no options that take several values and may be given several times.

    Raises:
        CallerError: There are fewer than three.
    """
    gathered: list[str] = []
    rest = list(args)
    if rest[:1] != ["record"]:
        return rest
    while rest:
        arg = rest.pop(0)
        if arg.startswith(f"{_CHANGE}="):
            rest.insert(0, arg.removeprefix(f"{_CHANGE}="))
            arg = _CHANGE
        gathered.append(arg)
        if arg == "--":
            break
        if arg == _CHANGE:
            if len(rest) < _PARTS_OF_CHANGE:
                raise CallerError(f"{_CHANGE}: found {len(rest)} values, expected FIELD OLD NEW")
            gathered.append(msgspec.json.encode(rest[:_PARTS_OF_CHANGE]).decode())
            del rest[:_PARTS_OF_CHANGE]
    return gathered + rest


def _changes(gathered: Sequence[str]) -> dict[str, tuple[str, str]]:
    changes: dict[str, tuple[str, str]] = {}
    for text in gathered:
        try:
            field, old, new = msgspec.json.decode(text, type=tuple[str, str, str])
        except msgspec.MsgspecError:
            raise CallerError(f"{_CHANGE}: found something else, expected FIELD OLD NEW") from None
        if field in changes:
            raise CallerError(f"{_CHANGE}: found the field {field!r} twice")
        changes[field] = (old, new)
    return changes


def _data(text: str) -> dict[str, Any]:
    from indelible.sources.lines import decode_object  # noqa: PLC0415 - only with --data

    try:
        return decode_object(text.encode("utf-8", "surrogateescape"))
    except InvalidEvent as error:
        raise error.under("--data") from None


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": receipt.id,
        "stream": receipt.stream,
        "index": receipt.index,
        "leaf_hash": None if receipt.leaf_hash is None else receipt.leaf_hash.hex(),
        "state": receipt.state.value,
    }


def import_(
    *,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="jsonl, cloudtrail or git.")
    ],
    directory: Directory = None,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Files, or repositories for git; - is standard input.",
        ),
    ] = None,
    dead_letters: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="For what cannot go in. By default SOURCE.rejected.jsonl beside each source.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """
    Import events that were recorded elsewhere, in their order.

    What is in the trail already is not recorded twice, so an import can be
    repeated. Another event with an id that is known is a conflict: it is kept out,
    as is a line that is no event. Both are reported, and written to the dead
    letters; the rest goes in. The exit code is 1 if anything was kept out.
    """
    from indelible.importing import import_events  # noqa: PLC0415 - only for imports
    from indelible.sources import open_source  # noqa: PLC0415

    path, sources = trail_and_several(directory, source or [], "SOURCE")
    groups = (
        [(sources, Path(dead_letters))]
        if dead_letters is not None
        else [([each], beside(each)) for each in sources]
    )
    # All are looked at before the first event of any goes in.
    opened = [(open_source(format_, paths), letters) for paths, letters in groups]
    total = [0, 0, 0, 0]
    with closing(Trail(path)) as trail, output.progress("import", json=json) as advance:
        for items, letters in opened:
            before = list(total)

            def show(summary: Summary, before: Sequence[int] = tuple(before)) -> None:
                if advance is not None:
                    advance(sum(before) + sum(_counts(summary)), None)

            known = letters.stat().st_size if letters.exists() else 0
            try:
                summary = import_events(trail, items, dead_letters=letters, on_progress=show)
                total = [one + more for one, more in zip(total, _counts(summary), strict=True)]
            finally:
                _report_letters(letters, known, json=json)
    imported, duplicates, conflicts, rejected = total
    shown = {
        "imported": imported,
        "duplicates": duplicates,
        "conflicts": conflicts,
        "rejected": rejected,
    }
    if json:
        output.print_json(shown)
    else:
        output.print_fields((name, str(count)) for name, count in shown.items())
    if conflicts or rejected:
        raise typer.Exit(1)


def _counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.imported, summary.duplicates, summary.conflicts, summary.rejected


def beside(source: str) -> Path:
    """Return where the dead letters of *source* are kept: beside it (of a database, here)."""
    if source == "-":
        return Path("stdin.rejected.jsonl")
    if "://" in source:
        # Of a database, by its name: in the rest a password may stand.
        name = source.rpartition("@")[2].partition("?")[0].rpartition("/")[2]
        return Path(f"{name or 'database'}.rejected.jsonl")
    path = Path(source)
    if not path.name or path.name == "..":
        path = path.resolve()
    return path.with_name(f"{path.name}.rejected.jsonl")


class _Letter(msgspec.Struct):
    line: int
    error: str
    file: str | None = None


def _report_letters(path: Path, known: int, *, json: bool) -> None:
    """Report what an import added to the dead letters after the *known* bytes."""
    if not path.exists():
        return
    count = 0
    with path.open("rb") as file:
        file.seek(known)
        for line in file:
            count += 1
            if count <= _MAX_REPORTED:
                letter = msgspec.json.decode(line, type=_Letter)
                name = "stdin" if letter.file in (None, "-") else letter.file
                where = f"{name}, line {letter.line}"
                output.report("Rejected", f"{where}: {letter.error}", json=json)
    if count > _MAX_REPORTED:
        output.report("Rejected", f"{count - _MAX_REPORTED} more, see {path}", json=json)
    elif count and sys.stderr.isatty() and not json:
        output.note(f"kept out: {count}, see {path}")
