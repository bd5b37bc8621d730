"""
Directory sink: a log as static files that any C2SP tool can fetch and verify.

::

    checkpoint              the signed note, written last
    tile/0/000              256 leaf hashes; tile/1/… the roots of 256 such tiles
    tile/entries/000        the entries whose hashes stand in tile/0/000
    tile/0/001.p/17         the last tile, not full yet
    minimum-index           the first entry that was not purged, if any were: no bundles before
    rotation/0              the log's rotation notes, if its key ever changed

A new directory appears whole under its name or not at all. `indelible.directory`
verifies it without anything of ours but the log's key.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from indelible.checkpoint import Checkpoint
from indelible.directory import MINIMUM_INDEX
from indelible.durable import replace_file, sync_directory, sync_file, sync_tree
from indelible.entry import assemble
from indelible.errors import CallerError, Damaged, Malformed, Rollback, StoreError
from indelible.merkle import HASH_SIZE, Edge, root_at
from indelible.note import MAX_NOTE, Note
from indelible.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    encode_bundle,
    entries_path,
    parse_path,
    tile_path,
    tiles_of,
)
from indelible.verify import verify_tile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.store import Tile, View


def export_log(view: View, log: str, target: Path) -> Checkpoint:
    """
    Write *log* into the directory *target*, or bring an earlier export there up to date.

    Everything is verified on its way up to the root that was signed; whose key
    signed it is for whoever reads the directory.

    Returns:
        The checkpoint that the directory now holds.

    Raises:
        CallerError: The log is empty, or *target* holds something else than an
            earlier export of it.
        Damaged: The log does not have the root that was signed; nothing was exported.
        Rollback: *target* holds more than the log, or another history of it.
        StoreError: The files cannot be written.
    """
    head = view.heads()[log]
    if not head.size:
        raise CallerError(f"log {log}: is empty, there is nothing to export")
    checkpoint = Checkpoint.from_text(Note.from_bytes(head.checkpoint).text)
    try:
        before = _exported(target, checkpoint)
        if before is None:
            _Export(view, log, checkpoint).create(target)
        else:
            _Export(view, log, checkpoint).extend(target, before)
    except OSError as error:
        raise StoreError(f"{target}: {error}") from error
    return checkpoint


def _exported(target: Path, checkpoint: Checkpoint) -> Checkpoint | None:
    """Return the checkpoint of the earlier export at *target*, or None where is nothing."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise CallerError(f"{target}: is a file, expected a directory")
    if not any(target.iterdir()):
        return None
    path = target / "checkpoint"
    if not path.is_file() or path.stat().st_size > MAX_NOTE:
        raise CallerError(f"{target}: is not empty, and no export of a log")
    before = Checkpoint.from_text(Note.from_bytes(path.read_bytes()).text)
    if before.origin != checkpoint.origin:
        raise CallerError(f"{target}: holds log {before.origin}, not {checkpoint.origin}")
    if before.size > checkpoint.size:
        raise Rollback(
            f"log {checkpoint.origin}: holds {checkpoint.size} entries,"
            f" but {before.size} were exported to {target}"
        )
    return before


class _Export:
    """One log on its way into a directory."""

    def __init__(self, view: View, log: str, checkpoint: Checkpoint) -> None:
        self._view, self._log, self._checkpoint = view, log, checkpoint
        self._note, self._first = view.heads()[log].checkpoint, view.heads()[log].first

    def create(self, target: Path) -> None:
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            for path, data in self._files(since=0):
                _put(aside / path, data)
            (aside / "checkpoint").write_bytes(self._note)
            sync_tree(aside)
            # Crash before this line: a hidden directory that the next export removes.
            if target.exists():
                target.rmdir()
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_directory(target.parent)

    def extend(self, target: Path, before: Checkpoint) -> None:
        self._verify_beginning(before)
        written = [
            target / path
            for path, data in self._files(since=before.size)
            if _put(target / path, data)
        ]
        for path in written:
            sync_file(path)
        for folder in {folder for path in written for folder in path.parents}:
            if folder.is_relative_to(target):
                sync_directory(folder)
        # Crash before this line: tiles beyond the old checkpoint, which verification
        # names; the next export writes them again.
        replace_file(target / "checkpoint", self._note, 0o644)
        # Crash here: smaller partial tiles remain, and bundles of purged entries, which
        # verification knows; the next export removes them.
        self._remove_outgrown(target)
        if self._first:
            self._remove_purged(target)

    def _verify_beginning(self, before: Checkpoint) -> None:
        """
        Check that the log begins with the tree that was exported.

        Raises:
            Rollback: It begins otherwise.
        """
        found = root_at(before.size, partial(self._view.node, self._log))
        if found != before.root:
            raise Rollback(
                f"log {self._log}: its first {before.size} entries are not those exported:"
                f" found root {found.hex()}, expected {before.root.hex()}"
            )

    def _files(self, *, since: int) -> Iterator[tuple[str, bytes]]:
        """
        Yield path and content of each file that a log of *since* entries does not have.

        Raises:
            Damaged: The log does not have the root that was signed; known at the end.
        """
        size, first = self._checkpoint.size, since // TILE_WIDTH
        roots = [self._view.node(self._log, TILE_HEIGHT, n) for n in range(first)]
        rest: list[bytes] = []
        for tile in self._view.tiles(self._log, first * TILE_WIDTH, size):
            rest, root, _ = verify_tile(tile)
            n, width = tile.first // TILE_WIDTH, len(rest)
            if not tile.purged:
                yield entries_path(n, width), encode_bundle(_entries(tile))
            yield tile_path(0, n, width), tile.leaves
            if root is not None:
                roots.append(root)
                rest = []
        edge, levels = Edge().extend(roots)
        # An edge over tiles is one over 256 times as many entries.
        edge, _ = Edge(size=edge.size * TILE_WIDTH, hashes=edge.hashes).extend(rest)
        if (edge.size, edge.root) != (size, self._checkpoint.root):
            raise Damaged(f"log {self._log}: does not have the root that was signed")
        for level, n, width in tiles_of(size):
            if level and (n + 1) * TILE_WIDTH << TILE_HEIGHT * level > since:
                row = levels[TILE_HEIGHT * (level - 1)]
                start = n * TILE_WIDTH
                yield tile_path(level, n, width), b"".join(row[start : start + width])
        for number, note in enumerate(self._view.rotations(self._log)):
            yield f"rotation/{number}", note
        if self._first:
            yield MINIMUM_INDEX, b"%d\n" % self._first

    def _remove_outgrown(self, target: Path) -> None:
        """Remove the partial tiles of when the log was smaller."""
        needed = set()
        for level, n, width in tiles_of(self._checkpoint.size):
            needed |= {tile_path(level, n, width)}
            if level == 0:
                needed |= {entries_path(n, width)}
        for path in (target / "tile").rglob("*.p/*"):
            if path.relative_to(target).as_posix() not in needed:
                path.unlink()
        for folder in (target / "tile").rglob("*.p"):
            if not any(folder.iterdir()):
                folder.rmdir()

    def _remove_purged(self, target: Path) -> None:
        """Remove the bundles of entries that were purged since they were exported."""
        for path in (target / "tile" / "entries").rglob("*"):
            with suppress(Malformed):  # a directory, or somebody else's
                _, n, _ = parse_path(path.relative_to(target).as_posix())
                if (n + 1) * TILE_WIDTH <= self._first:
                    path.unlink()


def _entries(tile: Tile) -> list[bytes]:
    """Return the exact bytes of the entries of a verified *tile*."""
    before = tile.previous + tile.leaves
    return [
        assemble(tile.first + place, before[at : at + HASH_SIZE], body)
        for place, (at, body) in enumerate(
            zip(range(0, len(tile.leaves), HASH_SIZE), tile.bodies, strict=True)
        )
    ]


def _put(path: Path, data: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(data)
