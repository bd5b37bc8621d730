"""
Importing: events of a source into a trail, each once, in their order.

An import can be repeated: after a crash, after `WriteUncertain`, or with a file that has
grown, the same call records what is missing and nothing twice.
"""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from indelible.errors import CallerError, StoreError
from indelible.sources import Found, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from indelible.event import Event
    from indelible.sources import Item

__all__ = ["DeadLetters", "ImportTarget", "Summary", "import_events"]

_BATCH_BYTES = 8 * 1024 * 1024


class ImportTarget(Protocol):
    """What an import asks of a trail."""

    def import_lock(self) -> AbstractContextManager[object]:
        """
        Hold off every other import into this trail while the block runs.

        Raises:
            StoreError: Another one is under way.
        """
        ...

    def content(self, event: Event) -> bytes:
        """Return what the trail would give back of *event*, to be compared."""
        ...

    def existing(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the sealed event of each of *ids* that the trail has."""
        ...

    def record_many(self, events: Iterable[Event]) -> int:
        """
        Record *events* in their order, durable on return; return how many.

        Raises:
            StoreError: Trying again is safe.
            WriteUncertain: They may have been recorded.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """
    What became of the items of an import.

    Attributes:
        imported: Recorded now.
        duplicates: There already with the same content, in the trail or earlier in the import.
        conflicts: Kept out, because another event has their id.
        rejected: Kept out, because they are no events.
    """

    imported: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0

    @property
    def kept_out(self) -> int:
        """How many stand in the dead letters instead of the trail."""
        return self.conflicts + self.rejected


class DeadLetters:
    """
    A file for what an import keeps out, one JSON object a line.

    ``{"line": 7, "file": "…", "error": "…", "raw": "…"}``; where the bytes are no UTF-8, ``raw``
    is base64 and ``"encoding": "base64"`` says so. The file is made with the first of them,
    readable by its owner only, since it holds what the trail would have protected; letters of
    an earlier import stay before the new ones.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, rejected: Rejected) -> None:
        """
        Write *rejected* down.

        Raises:
            CallerError: The file cannot be made or opened.
            StoreError: It cannot be written.
        """
        letter: dict[str, Any] = {"line": rejected.line}
        if rejected.file is not None:
            letter["file"] = rejected.file
        letter["error"] = rejected.error
        try:
            letter["raw"] = rejected.raw.decode("utf-8")
        except UnicodeDecodeError:
            letter["raw"] = b64encode(rejected.raw).decode("ascii")
            letter["encoding"] = "base64"
        data = _encode(letter) + b"\n"
        descriptor = self._open()
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """
        Make what was added durable.

        Raises:
            StoreError: It may not be.
        """
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            try:
                self._descriptor = os.open(self.path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
            except OSError as error:
                raise CallerError(f"dead letters {self.path}: {error.strerror}") from error
        return self._descriptor


def import_events(
    trail: ImportTarget,
    items: Iterable[Item],
    *,
    dead_letters: str | Path,
    batch: int = 1_000,
    on_progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """
    Record the events among *items*; what cannot go in stands in *dead_letters* afterwards.

    An event whose id the trail has already is a duplicate where its content is the same, and
    a conflict where it is another: the trail keeps what it has.

    Args:
        trail: Where to.
        items: What a source yields.
        dead_letters: Path of the file for what is kept out, made when there is something.
        batch: Most items read before the events among them are recorded; no more are held
            in memory.
        on_progress: Told the sum so far after each batch and at the end.

    Raises:
        CallerError: The dead letters cannot be made, or a source ends unreadably. Batches
            before it are in the trail.
        StoreError: The trail or the dead letters cannot be written, or another import is under
            way; repeat the import.
        WriteUncertain: The last batch may be in the trail; repeat the import.
    """
    if batch < 1:
        raise CallerError(f"batch: found {batch}, expected a number from 1")
    summary = Summary()
    with trail.import_lock(), DeadLetters(dead_letters) as letters:
        pending: list[tuple[Found, bytes]] = []
        seen = size = 0
        for item in items:
            seen += 1
            if isinstance(item, Rejected):
                letters.add(item)
                summary = replace(summary, rejected=summary.rejected + 1)
            else:
                sealed = trail.content(item.event)
                pending.append((item, sealed))
                size += len(sealed)
            if seen >= batch or size >= _BATCH_BYTES:
                summary = _record(trail, pending, letters, summary)
                pending, seen, size = [], 0, 0
                if on_progress is not None:
                    on_progress(summary)
        summary = _record(trail, pending, letters, summary)
        if on_progress is not None:
            on_progress(summary)
    return summary


def _record(
    trail: ImportTarget,
    pending: Sequence[tuple[Found, bytes]],
    letters: DeadLetters,
    summary: Summary,
) -> Summary:
    """Record what is new in *pending*, and return *summary* with what became of it."""
    if not pending:
        return summary
    known = dict(trail.existing([found.event.id for found, _ in pending]))
    new: list[Event] = []
    duplicates = conflicts = 0
    for found, sealed in pending:
        before = known.get(found.event.id)
        if before is None:
            known[found.event.id] = sealed
            new.append(found.event)
        elif before in {sealed, b""}:  # of what was erased, the id has to be enough
            duplicates += 1
        else:
            letters.add(_conflict(found, sealed))
            conflicts += 1
    # Crash here, or in the middle of recording: the next import finds by their ids
    # those that are in the trail, and records the others.
    imported = trail.record_many(new) if new else 0
    return Summary(
        imported=summary.imported + imported,
        duplicates=summary.duplicates + duplicates,
        conflicts=summary.conflicts + conflicts,
        rejected=summary.rejected,
    )


def _conflict(found: Found, sealed: bytes) -> Rejected:
    error = f"id {found.event.id}: found other content than the event that has this id already"
    return Rejected(found.line, error, sealed, found.file)


_encode = msgspec.json.Encoder().encode
