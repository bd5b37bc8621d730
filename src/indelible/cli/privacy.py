"""Commands about people and secrets in a trail: subject, scan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indelible.cli import output
from indelible.cli.arguments import As, Directory, Json, Purpose, trail_and, trail_of
from indelible.entry import microseconds, time_to_text
from indelible.errors import CallerError
from indelible.policy import OWNER
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.scanning import Scan
    from indelible.subject import Answer, HeldValue


def subject(
    *,
    directory: Directory = None,
    who: Annotated[
        str | None, typer.Argument(metavar="TYPE:ID", help="Whom it is about, such as user:alice.")
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write one page, for whoever asked what is held about them."
        ),
    ] = None,
    as_: As = OWNER,
    purpose: Purpose = None,
    json: Json = False,
) -> None:
    """
    Show everything that is held about one person, and who has opened it.

    Of each entry, the values of this person are shown, with their class, what will
    become of them and why they are kept; values of others in the same entries are
    not. That they were opened for this is recorded.
    """
    path, wanted = trail_and(directory, who, "TYPE:ID")
    if html is not None and json:
        raise CallerError("--html: found --json as well, expected one of them")
    with open_trail(path, mode="r", role=as_, purpose=purpose) as trail:
        answer = trail.subject(wanted)
    if html is not None:
        _write(html, answer.to_html().encode())
    elif json:
        output.print_json(answer)
    else:
        output.print_fields(_as_fields(answer))


def _write(path: str, page: bytes) -> None:
    """
    Write a new file that only its owner may read.

    Raises:
        CallerError: There is one already.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CallerError(f"--html {path}: found a file, expected none") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(page)


def _as_fields(answer: Answer) -> Iterator[tuple[str, str]]:
    yield "subject", answer.subject
    yield "policy", answer.policy
    yield "seen as", answer.role
    yield "entries", str(len(answer.entries))
    for state, count in answer.totals.items():
        yield state, str(count)
    if answer.deferred:
        yield "left by erasures", str(answer.deferred)
    for entry in answer.entries:
        at = time_to_text(microseconds(entry.recorded_at))
        yield entry.entry, f"{at} {entry.actor} {entry.action} {entry.resource}"
        for value in entry.values:
            yield f"{entry.entry} {value.path}", _value_text(value)
        if entry.others:
            yield entry.entry, f"{entry.others} further values, not of this subject"
    for opening in answer.openings:
        at = time_to_text(microseconds(opening.at))
        asked = "[not shown]" if opening.asked is None else opening.asked or "everything"
        what = f"{opening.entries} entries by {opening.times} questions, the last: {asked}"
        yield f"opened {opening.entry}", f"{at} as {opening.role}: {what} ({opening.concerns})"
    for said in answer.says:
        yield "note", said


def _value_text(value: HeldValue) -> str:
    parts = [value.state if value.class_ is None else f"{value.state}, {value.class_.value}"]
    if value.value is not None:
        parts.insert(0, output.value_text(value.value))
    parts += [each for each in (value.becomes or value.why, value.because) if each]
    if value.deferred:
        parts.append(f"an erasure left it: {value.deferred}")
    return "; ".join(parts)


def scan(*, directory: Directory = None, json: Json = False) -> None:
    """
    Look for what looks like a secret and stands in clear, in entries of any age.

    It knows the names that secrets are given, and the shapes of card and account
    numbers, keys and tokens; a password in a sentence passes. A finding names path,
    kind and entry, and never the value. The exit code is 1 if there is any.
    """
    from indelible.scanning import scan as scan_  # noqa: PLC0415 - only for this command

    with (
        open_trail(trail_of(directory), mode="r") as trail,
        output.progress("scan", json=json) as advance,
        trail.store.read() as view,
    ):
        scanned = scan_(view, progress=advance)
    if json:
        output.print_json(_scan_json(scanned))
    else:
        output.print_fields(_scan_fields(scanned))
    if scanned.total or scanned.unread:
        raise typer.Exit(1)


def _scan_json(scanned: Scan) -> dict[str, Any]:
    return {
        "entries": scanned.entries,
        "total": scanned.total,
        "found": [
            {"path": path, "kind": kind, "count": count}
            for (path, kind), count in scanned.found.items()
        ],
        "spots": scanned.spots,
        "caught": [{"path": path, "count": count} for path, count in scanned.caught.items()],
        "unread": scanned.unread,
    }


def _scan_fields(scanned: Scan) -> Iterator[tuple[str, str]]:
    yield "entries", f"{scanned.entries:,}"
    yield "in clear", f"{scanned.total:,}"
    for (path, kind), count in scanned.found.items():
        yield path, f"{kind}, {_times(count)}"
    for spot in scanned.spots:
        yield f"{spot.log}#{spot.index}", f"{spot.path}: {spot.kind}"
    if more := scanned.total - len(scanned.spots):
        yield "more", f"{more:,} places, which are not named here"
    for path, count in scanned.caught.items():
        yield path, f"caught at recording and kept in the vault, {_times(count)}"
    for part in scanned.unread:
        yield "cannot be read", part


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
