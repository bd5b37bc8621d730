"""
Closer: closes complete segments while the application goes on.

Building a segment's file happens outside the writer's lock; one transaction then
registers it together with the custody entry that names it.
"""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING

from indelible.custody import add, own_event
from indelible.errors import KeyUnavailable, StoreError, WriteUncertain
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.custody import Owner
    from indelible.store import Head


class Closer:
    """Closes the segments of *owner*, in a thread that lives while there is something to close."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.begin()

    def begin(self) -> None:
        """Begin without a thread, as in a process that was just forked."""
        self._thread: threading.Thread | None = None
        self._complete: dict[str, int] = {}

    def look(self, heads: Mapping[str, Head]) -> None:
        """See whether *heads* have completed a segment; cheap, once for each commit."""
        complete = {log: head.size // SEGMENT for log, head in heads.items()}
        grown = any(count > self._complete.get(log, 0) for log, count in complete.items())
        if grown and (self._thread is None or not self._thread.is_alive()):
            self._complete = complete
            self._thread = threading.Thread(target=self._run, name="indelible-closer", daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """
        Return when every complete segment is closed.

        Raises:
            StoreError: A file cannot be written; the entries stay where they are.
        """
        while True:
            self.join()
            self._close()
            with self._owner.store.read() as view:
                if all(
                    len(view.segments(log)) >= head.size // SEGMENT
                    for log, head in view.heads().items()
                ):
                    return
            time.sleep(0.01)  # another process is building one

    def join(self) -> None:
        """Wait for the thread, if there is one."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # A segment that cannot be built now (full disk, lost key) stays in the head,
        # whole and searchable, and is tried again when the next one is complete.
        with suppress(StoreError, WriteUncertain, KeyUnavailable):
            self._close()

    def _close(self) -> None:
        owner = self._owner
        for segment in owner.store.close_segments():
            event = own_event(
                owner.id,
                "segment.close",
                log=segment.log,
                number=segment.number,
                root=b64encode(segment.root).decode("ascii"),
                file_hash=segment.file_hash.hex(),
                index_hash=segment.index_hash.hex(),
            )
            with owner.store.write() as transaction:
                transaction.register(segment)
                add(owner, transaction, [event], time.time_ns() // 1_000)
