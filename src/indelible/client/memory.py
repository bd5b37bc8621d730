"""
Memory: the keys and trees that this user has seen of a collector, where it cannot reach them.

One file for each collector, beside the pins of trails and like them: JSON, replaced whole
under a lock, only ever moving forward.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from indelible.errors import CallerError
from indelible.pins import Pin, Pins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.note import VerifierKey


class Memory(Pins):
    """
    What was seen of the collector at *url*, by the origin of each log.

    A pin's key is the last that was seen to sign, so that a key that was replaced can
    never be brought back.

    Args:
        directory: Where it is kept; by default with the pins of this user.
    """

    def __init__(self, url: str, directory: Path | None = None) -> None:
        super().__init__(url, directory)
        self._seen: dict[str, Pin] = {}
        self._lock = Lock()

    def recall(self) -> dict[str, Pin]:
        """
        Return the key and the largest tree of each log.

        Also what this process has seen and the file does not say any more.

        Raises:
            CallerError: There is no home directory to keep it in.
            Malformed: The file was not written by this class.
        """
        with self._accessible():
            pins = self.read()
        with self._lock:
            for origin, pin in pins.items():
                seen = self._seen.get(origin)
                if seen is None or _size(seen) <= _size(pin):
                    self._seen[origin] = pin
            return dict(self._seen)

    def trust(self, key: VerifierKey) -> None:
        """
        Pin *key* for the log of its name, unless one is pinned.

        Raises:
            CallerError: It cannot be written.
            Malformed: The file was not written by this class.
        """
        with self._accessible():
            self.pin({key.name: key})

    def advance(self, before: Pin, after: Pin) -> Pin:
        """
        Put *after* in the place of *before*; return what is there then.

        That is another pin where somebody else has seen another tree meanwhile, which
        *after* must be held against first.

        Raises:
            CallerError: It cannot be written.
            Malformed: The file was not written by this class.
        """
        origin = after.key.name
        with self._accessible(), self._locked():
            pins = self.read()
            there = pins.get(origin, before)
            # Less than this process has seen: the file was put back, or made anew.
            if there != before and _size(there) >= _size(before):
                return there
            self._write({**pins, origin: after})
        with self._lock:
            self._seen[origin] = after
        return after

    @contextmanager
    def _accessible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CallerError(
                f"state: cannot be kept ({error.strerror or error});"
                " name a directory that can be written with state="
            ) from error


def _size(pin: Pin) -> int:
    return -1 if pin.known is None else pin.known.size
