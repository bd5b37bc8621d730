"""
Pins: the keys and trees that this user has seen of a trail, kept outside of it.

A trail's own files cannot say that they were replaced as a whole. So the verifier
key of each log is written into the user's configuration when the trail is made,
and the largest tree that was seen is kept beside it. One JSON file a trail,
replaced whole under a lock, only ever moving forward.
"""

from __future__ import annotations

import fcntl
import os
from base64 import b64decode, b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from indelible.durable import replace_file
from indelible.errors import Malformed
from indelible.mark import Known
from indelible.note import VerifierKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from indelible.store import Head


@dataclass(frozen=True, slots=True)
class Pin:
    """What is pinned of one log: the key it began with, and the largest tree seen."""

    key: VerifierKey
    known: Known | None = None


class _Log(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    key: str
    size: int | None = None
    root: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    trail: str
    logs: dict[str, _Log] = {}


class Pins:
    """
    The pins of the trail with the id *trail*.

    Args:
        directory: Where pins are kept; by default in the user's configuration.

    Somebody without a home directory has no pins, and can make none.
    """

    def __init__(self, trail: str, directory: Path | None = None) -> None:
        self._trail = trail
        self._directory = directory

    @property
    def path(self) -> Path:
        """
        The file that the pins are in.

        Raises:
            OSError: There is no home directory to keep it in.
        """
        return (self._directory or default_directory()) / f"{quote(self._trail, safe='')}.json"

    def read(self) -> dict[str, Pin]:
        """
        Return the pin of each log; nothing where nothing was pinned.

        Raises:
            Malformed: The file is not one that this class wrote for this trail.
        """
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            return {}
        try:
            file = msgspec.json.decode(data, type=_File)
            if file.trail != self._trail:
                raise Malformed(f"{self.path}: is of trail {file.trail}, expected {self._trail}")
            return {
                name: Pin(
                    VerifierKey.from_text(log.key),
                    None
                    if log.size is None or log.root is None
                    else Known(log.size, b64decode(log.root, validate=True)),
                )
                for name, log in file.logs.items()
            }
        except (msgspec.MsgspecError, ValueError) as error:
            raise Malformed(f"{self.path}: {error}") from error

    def pin(self, keys: Mapping[str, VerifierKey]) -> None:
        """
        Pin the *keys* of logs that have none; a key that is pinned stays.

        Raises:
            OSError: The configuration cannot be written.
            Malformed: The file was not written by this class.
        """
        with self._locked():
            pins = self.read()
            self._write({**{log: Pin(key) for log, key in keys.items()}, **pins})

    def remember(self, heads: Mapping[str, Head]) -> None:
        """
        Remember the trees of *heads* for the logs that are pinned, where they are larger.

        Raises:
            OSError: The configuration cannot be written.
            Malformed: The file was not written by this class.
        """
        if not self.path.exists():
            return
        with self._locked():
            pins = self.read()
            moved = dict(pins)
            for log, pin in pins.items():
                head = heads.get(log)
                if head is not None and (pin.known is None or head.size > pin.known.size):
                    moved[log] = Pin(pin.key, Known(head.size, head.edge.root))
            if moved != pins:
                self._write(moved)

    def settle(self, heads: Mapping[str, Head]) -> None:
        """
        Take the trees of *heads* for those to expect from now on, even where they are smaller.

        For a restored trail, whose successors name what is lost.

        Raises:
            OSError: The configuration cannot be written.
            Malformed: The file was not written by this class.
        """
        if not self.path.exists():
            return
        with self._locked():
            pins = self.read()
            self._write(
                {
                    log: Pin(pin.key, Known(heads[log].size, heads[log].edge.root))
                    for log, pin in pins.items()
                    if log in heads
                }
            )

    def _write(self, pins: Mapping[str, Pin]) -> None:
        logs = {
            name: _Log(pin.key.to_text())
            if pin.known is None
            else _Log(pin.key.to_text(), pin.known.size, b64encode(pin.known.root).decode("ascii"))
            for name, pin in pins.items()
        }
        data = msgspec.json.format(msgspec.json.encode(_File(self._trail, logs)), indent=1)
        replace_file(self.path, data + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Unlocked, not only closed: a process that was forked meanwhile shares it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def default_directory() -> Path:
    """
    Return where pins are kept: ``$XDG_CONFIG_HOME/indelible/pins``, by default below ``~/.config``.

    Raises:
        OSError: There is no home directory to look in.
    """
    if base := os.environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "indelible" / "pins"
    try:
        return Path.home() / ".config" / "indelible" / "pins"
    except RuntimeError as error:
        raise FileNotFoundError(f"pins: {error}") from error
