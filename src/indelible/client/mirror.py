"""
Mirror: the logs of a collector as files, fetched whole and verified like any exported log.

What is fetched is believed of nobody: `indelible.directory` hashes every byte, and holds the
tree against the checkpoint, the trusted key, and the largest tree that was seen before.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote

from indelible.checkpoint import Checkpoint
from indelible.client.exchange import Request, check
from indelible.directory import MINIMUM_INDEX, verify_directory
from indelible.errors import CallerError, NotFound, VerificationError
from indelible.mark import Known
from indelible.note import Note
from indelible.tiles import (
    MAX_ENTRY,
    TILE_WIDTH,
    entries_path,
    tile_path,
    tiles_of,
)
from indelible.verdict import Finding, Level, LogVerdict, Verdict
from indelible.verify import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from indelible.client.connection import Connection
    from indelible.client.exchange import Steps
    from indelible.client.session import Session
    from indelible.note import VerifierKey
    from indelible.wire import LogShown

_MOST = TILE_WIDTH * (2 + MAX_ENTRY)
_AT_ONCE = 16
_NOT_COMPARED = (
    "what the custody stream says of the other logs, and what became of the values that"
    " entries commit to; `indelible verify` of the collector's own directory shows both"
)


def verify(
    session: Session,
    connection: Connection,
    *,
    checkpoints: Iterable[bytes],
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    """
    Fetch every log whose key is trusted, and verify it.

    Args:
        checkpoints: Older notes that must hold, too.

    Raises:
        CallerError: One of them is of no log that is trusted.
        InvalidSignature: None of the log's keys has signed it.
        Forbidden: The token may not have the entries.
        StoreError: The collector cannot be reached or is busy, or the disk is full.
    """
    known = session.known()
    findings: list[Finding] = []
    notes = _by_origin(checkpoints, session.origins.values())
    # Not yet held against what was seen: what does not hold is to be found, not raised.
    logs = connection.run(session.listed())
    verdicts: list[Verdict] = []
    total = sum(map(_size, logs.values()))
    done = 0
    for log, origin in session.origins.items():
        before = known[origin].known
        seen = [] if before is None else [Seen(log=origin, where="seen before", tree=before)]
        chain = session.chain(log, () if log not in logs else logs[log].rotations)
        seen += [_older(note, chain) for note in notes.pop(origin, ())]
        if log not in logs or logs[log].checkpoint is None:
            if largest := max((each.tree.size for each in seen), default=0):
                what = f"{largest} entries were signed, but it is not here"
                findings.append(Finding(log=origin, where="log", what=what))
            continue
        with TemporaryDirectory(prefix="indelible-") as folder:
            for paths, entries in _fetched(logs[log]):
                connection.run(_fetch(log, paths, Path(folder)))
                done += entries
                if progress is not None:
                    progress(done, total)
            _write_notes(logs[log], Path(folder))
            verdicts.append(verify_directory(Path(folder), chain[0], seen))
    if not findings and all(each.passed for each in verdicts):
        try:
            connection.run(session.accept(logs, known))
        except VerificationError as error:
            findings.append(Finding(log=session.url, where="checkpoints", what=str(error)))
    return _joined(verdicts, findings)


def _by_origin(checkpoints: Iterable[bytes], origins: Iterable[str]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {origin: [] for origin in origins}
    for note in checkpoints:
        origin = Note.from_bytes(note).text.partition("\n")[0]
        if origin not in found:
            raise CallerError(f"checkpoint: is of {origin}, expected one of {', '.join(found)}")
        found[origin].append(note)
    return found


def _older(note: bytes, chain: Iterable[VerifierKey]) -> Seen:
    opened = Checkpoint.open(note, chain)
    where = f"checkpoint over {opened.size} entries"
    return Seen(log=opened.origin, where=where, tree=Known(opened.size, opened.root))


def _fetched(said: LogShown) -> Iterator[tuple[list[str], int]]:
    """Yield the paths of a log's files, some at once, each time with how many entries they hold."""
    paths: list[str] = []
    entries = 0
    for level, number, width in tiles_of(_size(said)):
        paths.append(tile_path(level, number, width))
        if level == 0:
            entries += width
            if (number + 1) * TILE_WIDTH > said.first:
                paths.append(entries_path(number, width))
        if len(paths) >= _AT_ONCE:
            yield paths, entries
            paths, entries = [], 0
    yield paths, entries


def _fetch(log: str, paths: list[str], folder: Path) -> Steps[None]:
    answers = yield [
        Request(path=f"/log/{quote(log, safe='~')}/{path}", most=_MOST) for path in paths
    ]
    for path, answer in zip(paths, answers, strict=True):
        try:
            check(answer)
        except NotFound:
            continue  # The verdict names what is missing.
        _put(folder / path, answer.body)


def _write_notes(said: LogShown, folder: Path) -> None:
    for number, note in enumerate(said.rotations):
        _put(folder / f"rotation/{number}", note.encode())
    if said.first:
        _put(folder / MINIMUM_INDEX, b"%d\n" % said.first)
    _put(folder / "checkpoint", (said.checkpoint or "").encode())


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _size(said: LogShown) -> int:
    if said.checkpoint is None:
        return 0
    return Checkpoint.from_text(Note.from_bytes(said.checkpoint.encode()).text).size


def _joined(verdicts: list[Verdict], findings: list[Finding]) -> Verdict:
    logs: list[LogVerdict] = [log for each in verdicts for log in each.logs]
    findings = [*findings, *(finding for each in verdicts for finding in each.findings)]
    return Verdict(
        level=Level.TAMPERED if findings else Level.weakest(each.level for each in verdicts),
        logs=tuple(logs),
        findings=tuple(findings),
        entries=sum(each.entries for each in verdicts),
        bytes=sum(each.bytes for each in verdicts),
        does_not_show=(
            *dict.fromkeys(text for each in verdicts for text in each.does_not_show),
            _NOT_COMPARED,
        ),
    )
