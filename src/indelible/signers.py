"""
Signers: which key signs a log now, in a directory of key files.

A rotation puts the new key beside the old one, ``user.new``, before the log knows
it; whoever signs next takes it into use if the log does. So a crash in between
leaves a key that still fits, or one that nothing knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indelible.durable import sync_directory
from indelible.errors import KeyUnavailable
from indelible.keys import SigningKey, read_key, write_key
from indelible.note import Note

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.keys import Signer
    from indelible.store import Head


class Signers:
    """The signing keys in *directory*, a file for each log."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, Signer] = {}

    def signer_of(self, head: Head) -> Signer:
        """
        Return the key that signs what follows *head*: the one that signed it.

        To be called while nobody else may write. Another process may have rotated the
        key, or died at it after the log knew the new one: then that is finished.

        Raises:
            KeyUnavailable: It is lost or may not be read, or another lies in its place.
        """
        held = self._held.get(head.log)
        if held is not None and has_signed(held, head):
            return held
        path, aside = self._paths(head.log)
        key = read_key(path, head.origin)
        if not has_signed(key, head) and aside.exists():
            key = read_key(aside, head.origin)
            if has_signed(key, head):
                aside.replace(path)
                sync_directory(path.parent)
        if not has_signed(key, head):
            raise KeyUnavailable(f"{path}: found another key than signed log {head.log} last")
        self._held[head.log] = key
        return key

    def look_up(self, head: Head) -> Signer:
        """
        Return the key that signed *head*, while others may write and nothing is changed.

        Raises:
            KeyUnavailable: It is lost or may not be read, or another lies in its place.
        """
        path, aside = self._paths(head.log)
        # In this order, it is found whoever finishes a rotation meanwhile.
        for place in (path, aside, path):
            if (place != aside or aside.exists()) and has_signed(key := read_key(place), head):
                return key
        raise KeyUnavailable(f"{path}: found another key than signed log {head.log} last")

    def prepare(self, head: Head) -> tuple[SigningKey, SigningKey]:
        """
        Return the key that signed *head* and a new one, which lies ready beside it.

        Raises:
            KeyUnavailable: The old key is lost, or the new one cannot be written.
        """
        path, aside = self._paths(head.log)
        self.signer_of(head)  # finishes a rotation that was cut off
        old = read_key(path, head.origin)
        aside.unlink(missing_ok=True)
        new = SigningKey.generate(head.origin)
        write_key(aside, new)
        # Crash here: a key that nothing knows; the next rotation overwrites it.
        return old, new

    def make(self, log: str, origin: str) -> SigningKey:
        """
        Make the key of a log that does not exist yet.

        Raises:
            KeyUnavailable: It cannot be written.
        """
        path, _ = self._paths(log)
        path.unlink(missing_ok=True)
        key = SigningKey.generate(origin)
        write_key(path, key)
        return key

    def _paths(self, log: str) -> tuple[Path, Path]:
        path = self._directory / f"{log}.key"
        return path, path.with_suffix(".new")


def has_signed(key: Signer, head: Head) -> bool:
    """Tell whether *key* is the one that signed *head*, which may not be signed yet."""
    if not head.checkpoint:
        return True
    key_id = key.verifier.key_id
    return any(key_id == by.key_id for by in Note.from_bytes(head.checkpoint).signatures)
