"""
Directory: a log as files, verified from these alone.

Follows c2sp.org/tlog-tiles, so the log may be anybody's: ``checkpoint``, hash tiles
and entry bundles. Entries are hashed and held against the tiles, the tiles of each
level against those below, and the root against what was signed. Links between
entries and their times are checked where the entries are Indelible's; others have
none, and the verdict says so.

Bundles before the log's minimum index may be gone: it was purged. The specification
leaves open where that index is to be found; here it is a file, `MINIMUM_INDEX`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from indelible.checkpoint import Checkpoint
from indelible.entry import NO_PREVIOUS, assemble, take_body, time_from_text
from indelible.errors import BrokenChain, Damaged, Malformed, StoreError
from indelible.merkle import HASH_SIZE, leaf_hash, subtree_root
from indelible.note import MAX_NOTE, Note
from indelible.tiles import (
    MAX_ENTRY,
    TILE_WIDTH,
    decode_bundle,
    entries_path,
    parse_path,
    tile_path,
    tiles_of,
)
from indelible.verdict import Finding, Level, LogVerdict, Verdict, collecting, limits
from indelible.verify import Tree, first_of, verify_rotations, verify_seen, verify_times

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from indelible.note import VerifierKey
    from indelible.verify import Seen

    Place = tuple[int | None, int]
    """Level, or None for a bundle, and number of a file below ``tile/``."""

MINIMUM_INDEX = "minimum-index"
"""File with the index of the first entry that was not purged, and a line feed."""

_OURS = b'{"v":1,"index":%d,"prev":"'
_INDEX = re.compile(rb"([1-9][0-9]{0,18})\n")
_MAX_FILE = TILE_WIDTH * (2 + MAX_ENTRY)


def verify_directory(
    path: str | os.PathLike[str], key: VerifierKey | None = None, known: Iterable[Seen] = ()
) -> Verdict:
    """
    Verify the log whose files are in the directory at *path*.

    Args:
        key: The log's key, from somewhere else than the directory; without it the
            verdict is `Level.UNAUTHENTICATED`.
        known: Trees of this log that were signed before.

    Raises:
        StoreError: A file cannot be read now.
    """
    directory, findings = Path(path), list[Finding]()
    checkpoint = None
    with collecting(findings, directory.name, "checkpoint"):
        note = _read(directory / "checkpoint", most=MAX_NOTE)
        checkpoint = Checkpoint.from_text(Note.from_bytes(note).text)
    if checkpoint is None:
        return _verdict(None, findings, _Log(), ["anything: no checkpoint says what the log is"])
    log = checkpoint.origin
    # Nobody has verified this size yet: it only says which files to look for.
    widths: dict[Place, int] = {}
    for level, n, width in tiles_of(checkpoint.size):
        widths[level, n] = width
        if level == 0:
            widths[None, n] = width
    first = 0
    with collecting(findings, log, MINIMUM_INDEX):
        first = _minimum_index(directory, checkpoint.size)
    entries = _verify_entries(directory, log, widths, first, findings)
    _verify_upper_tiles(directory, log, widths, entries.roots, findings)
    others = _verify_others(directory, log, widths, findings)
    tree = Tree(
        size=checkpoint.size,
        roots=entries.roots,
        rest=entries.rest,
        claimed=(),
        leaves=lambda n: _hash_tile(directory, 0, n, TILE_WIDTH),
    )
    root, signer = None, None
    with collecting(findings, log, "root"):
        root = tree.root_at(checkpoint.size)
        if root != checkpoint.root:
            raise Damaged(f"signed is {checkpoint.root.hex()}, but the entries have {root.hex()}")
    with collecting(findings, log, "checkpoint"):
        if key is not None:
            notes = list(_rotations(directory))
            signer = verify_rotations(tree, log, first_of(key, notes), notes)
            Checkpoint.open(note, [signer])
    anchored = verify_seen(tree, log, known, findings)
    verdict = LogVerdict(
        log=log,
        origin=log,
        level=Level.of(pinned=key is not None, anchored=anchored, findings=findings),
        size=checkpoint.size,
        root=root,
        recorded_at=time_from_text(entries.recorded.decode()) if entries.recorded else None,
        key=signer,
        anchored=anchored,
        first=first,
    )
    unchecked = []
    if entries.count and not entries.ours:
        unchecked.append("entries: links and times; they are not Indelible's, only hashed")
    if others:
        unchecked.append(f"files that are not the log's: {', '.join(others)}")
    return _verdict(verdict, findings, entries, unchecked)


def _verdict(
    log: LogVerdict | None, findings: Sequence[Finding], entries: _Log, unchecked: Iterable[str]
) -> Verdict:
    return Verdict(
        level=Level.TAMPERED if log is None else log.level,
        logs=() if log is None else (log,),
        findings=tuple(findings),
        entries=entries.count,
        bytes=entries.bytes,
        does_not_show=limits([] if log is None else [log], unchecked),
    )


@dataclass(slots=True)
class _Log:
    """
    What was read of a log's lowest level so far.

    Attributes:
        roots: Roots of the complete tiles; None where nothing could be read.
        rest: Leaf hashes after these.
        recorded: Time of the last entry, as text, where entries are ours.
    """

    roots: list[bytes | None] = field(default_factory=list)
    rest: Sequence[bytes] | None = ()
    ours: bool = False
    recorded: bytes = b""
    count: int = 0
    bytes: int = 0


def _verify_entries(
    directory: Path, log: str, widths: Mapping[Place, int], first: int, findings: list[Finding]
) -> _Log:
    """Hold every bundle against its tile, and every entry against the one before it."""
    done = _Log()
    previous: bytes | None = NO_PREVIOUS
    for n, width in ((n, width) for (level, n), width in widths.items() if level == 0):
        stored = leaves = None
        with collecting(findings, log, tile_path(0, n, width)):
            stored = _hash_tile(directory, 0, n, width)
        if (n + 1) * TILE_WIDTH <= first and not (directory / entries_path(n)).exists():
            done.roots.append(None if stored is None else subtree_root(stored))
            previous = None if stored is None else stored[-1]
            continue
        with collecting(findings, log, entries_path(n, width)):
            entries = _bundle(directory, n, width)
            leaves = [leaf_hash(entry) for entry in entries]
            if stored is not None and leaves != stored:
                wrong = next(place for place in range(width) if leaves[place] != stored[place])
                raise Damaged(f"entry {n * TILE_WIDTH + wrong}: has another hash than in its tile")
            if not done.count:
                done.ours = entries[0].startswith(_OURS % (n * TILE_WIDTH))
            if done.ours:
                _verify_links(entries, n * TILE_WIDTH, previous, leaves)
                earliest, last = verify_times([take_body(entry) for entry in entries])
                if earliest < done.recorded:
                    raise Damaged("begins before the entry in front of it was recorded")
                done.recorded = last
            done.count += width
            done.bytes += sum(map(len, entries))
        # Where entries are damaged their tile may still lead to the root that was
        # signed: then the others are proven all the same.
        hashes = leaves if stored is None else stored
        if width == TILE_WIDTH:
            done.roots.append(None if hashes is None else subtree_root(hashes))
        else:
            done.rest = hashes
        previous = None if hashes is None else hashes[-1]
    return done


def _verify_links(
    entries: Sequence[bytes], first: int, previous: bytes | None, leaves: Sequence[bytes]
) -> None:
    for index, (entry, leaf) in enumerate(zip(entries, leaves, strict=True), first):
        # What the first one names is unknown where the bundle before is unreadable.
        if previous is not None and entry != assemble(index, previous, take_body(entry)):
            raise BrokenChain(f"entry {index}: does not name its index and the entry before it")
        previous = leaf


def _verify_upper_tiles(
    directory: Path,
    log: str,
    widths: Mapping[Place, int],
    roots: Sequence[bytes | None],
    findings: list[Finding],
) -> None:
    """Hold the tiles of each level above the lowest against the *roots* below them."""
    row, level = roots, 1
    while row:
        parents: list[bytes | None] = []
        for n, start in enumerate(range(0, len(row), TILE_WIDTH)):
            hashes = [each for each in row[start : start + TILE_WIDTH] if each is not None]
            width = widths[level, n]
            with collecting(findings, log, tile_path(level, n, width)):
                stored = _hash_tile(directory, level, n, width)
                if len(hashes) == width and hashes != stored:
                    raise Damaged("its hashes are not those of the tiles below it")
            if width == TILE_WIDTH:
                parents.append(subtree_root(hashes) if len(hashes) == width else None)
        row, level = parents, level + 1


def _verify_others(
    directory: Path, log: str, widths: Mapping[Place, int], findings: list[Finding]
) -> list[str]:
    """
    Look at the files that the log does not need, and return those that are not its own.

    Smaller partial tiles may be left from when the log was smaller; they must be its
    beginning. Anything else below ``tile/`` contradicts the checkpoint's size.
    """
    others = []
    for path in _files(directory):
        if not path.startswith("tile/"):
            if path not in {"checkpoint", MINIMUM_INDEX} and not path.startswith("rotation/"):
                others.append(path)
            continue
        with collecting(findings, log, path):
            level, n, width = parse_path(path)
            whole = widths.get((level, n), 0)
            if width > whole:
                raise Damaged("lies beyond the size that the checkpoint says")
            if width == whole:
                continue  # It was looked at already.
            if level is None:
                # By its hashes: the bundle that follows it may have been purged.
                smaller = [leaf_hash(entry) for entry in _bundle(directory, n, width)]
            else:
                smaller = _hash_tile(directory, level, n, width)
            if smaller != _hash_tile(directory, level or 0, n, whole)[:width]:
                raise Damaged("is not the beginning of the tile that follows it")
    return others


def _minimum_index(directory: Path, size: int) -> int:
    if not (directory / MINIMUM_INDEX).exists():
        return 0
    data = _read(directory / MINIMUM_INDEX, most=MAX_NOTE)
    match = _INDEX.fullmatch(data)
    if match is None or int(match[1]) % TILE_WIDTH or int(match[1]) > size:
        raise Malformed(
            f"found {data[:40]!r}, expected a multiple of {TILE_WIDTH} up to {size}, in a line"
        )
    return int(match[1])


def _rotations(directory: Path) -> Iterator[bytes]:
    number = 0
    while (path := directory / f"rotation/{number}").exists():
        yield _read(path, most=MAX_NOTE)
        number += 1


def _bundle(directory: Path, n: int, width: int) -> list[bytes]:
    entries = decode_bundle(_read(directory / entries_path(n, width)))
    if len(entries) != width:
        raise Malformed(f"found {len(entries)} entries, expected {width}")
    return entries


def _hash_tile(directory: Path, level: int, n: int, width: int) -> list[bytes]:
    data = _read(directory / tile_path(level, n, width))
    if len(data) != width * HASH_SIZE:
        raise Malformed(f"found {len(data)} bytes, expected {width} hashes")
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


def _files(directory: Path) -> list[str]:
    return sorted(
        (Path(folder) / name).relative_to(directory).as_posix()
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _read(path: Path, *, most: int = _MAX_FILE) -> bytes:
    try:
        if (size := path.stat().st_size) > most:
            raise Malformed(f"found {size} bytes, expected at most {most}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Damaged("is missing") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
