"""
High-water mark: what was last signed, kept beside the store to notice a rollback.

A mark is written after each commit, under the writer's lock, so it never runs
ahead of the store: a store that is behind its mark has lost what was promised. It
is not synced, since a mark that is too low only notices less. Two slots are
written in turn, each with its own hash, so a torn write leaves the other one.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import Damaged, Rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from indelible.store import Head

_SLOT = 16_384


@dataclass(frozen=True, slots=True)
class Known:
    """A tree that was signed: its size and root."""

    size: int
    root: bytes


class _Slot(msgspec.Struct, forbid_unknown_fields=True):
    turn: int
    logs: dict[str, tuple[int, str]]


class Mark:
    """
    The mark of a trail, in the file at *path*.

    Not to be shared by writers: whoever calls `write` holds the writer's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Known]:
        """
        Return what was last signed, per log; nothing where no mark was ever written.

        Raises:
            Damaged: The file holds no whole slot.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        slots = [slot for at in (0, _SLOT) if (slot := _slot(data[at : at + _SLOT])) is not None]
        if not slots:
            raise Damaged(f"{self._path.name}: holds no whole high-water mark")
        newest = max(slots, key=lambda slot: slot.turn)
        return {log: Known(size, b64decode(root)) for log, (size, root) in newest.logs.items()}

    def write(self, heads: Mapping[str, Head]) -> None:
        """Say that *heads* are what is signed now."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            turns = [
                -1 if (slot := _slot(os.pread(descriptor, _SLOT, at))) is None else slot.turn
                for at in (0, _SLOT)
            ]
            logs = {
                log: (head.size, b64encode(head.edge.root).decode("ascii"))
                for log, head in heads.items()
            }
            payload = msgspec.json.encode(_Slot(max(turns) + 1, logs))
            at = _SLOT if turns[1] < turns[0] else 0
            os.pwrite(descriptor, b"%b %08d %b\n" % (_digest(payload), len(payload), payload), at)
        finally:
            os.close(descriptor)


def check(known: Mapping[str, Known], heads: Mapping[str, Head], root_at: RootAt) -> None:
    """
    Hold *heads* against what is *known* to have been signed.

    Args:
        root_at: The root that a log had at a size, by the store's tree.

    Raises:
        Rollback: A log is missing, smaller than known, or another log.
    """
    for log, seen in known.items():
        head = heads.get(log)
        size = 0 if head is None else head.size
        if size < seen.size:
            raise Rollback(
                f"log {log}: holds {size} entries, but {seen.size} were signed;"
                " an older copy may only go on as a successor, see `indelible restore`"
            )
        if root_at(log, seen.size) != seen.root:
            raise Rollback(f"log {log}: is not the one whose {seen.size} entries were signed")


if TYPE_CHECKING:
    RootAt = Callable[[str, int], bytes]


def _slot(data: bytes) -> _Slot | None:
    digest, length, rest = data[:64], data[65:73], data[74:]
    payload = rest[: int(length)] if length.isdigit() else b""
    if _digest(payload) != digest:
        return None
    try:
        slot = msgspec.json.decode(payload, type=_Slot)
        whole = all(len(b64decode(root, validate=True)) == 32 for _, root in slot.logs.values())  # noqa: PLR2004
    except ValueError:  # msgspec's errors are of this kind, too
        return None
    return slot if whole else None


def _digest(payload: bytes) -> bytes:
    return sha256(payload).hexdigest().encode("ascii")
