"""
Upkeep: what a collector does by itself, hour by hour.

It names in the custody stream the root over all that producers have signed, so that no
producer's history can be exchanged later together with its facts; and it destroys what
repetitions of plain events were known by, when their window is over.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from indelible import custody
from indelible.collector.beside import beside
from indelible.custody import own_event
from indelible.errors import IndelibleError, TrailClosed
from indelible.producer import HELD_KIND, KIND, Held, Producer, heads_of

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator

    from litestar import Litestar

    from indelible.collector.events import Receiving
    from indelible.collector.state import Collector
    from indelible.seal import Sealed

HOUR = 3600.0

_log = logging.getLogger("indelible")


class Upkeep:
    """Does for *collector* what is to be done every hour."""

    def __init__(self, collector: Collector, receiving: Receiving) -> None:
        self._collector, self._receiving = collector, receiving
        self._named: bytes | None = None

    def run(self, stop: threading.Event) -> None:
        """Go on until *stop* is set, and do it once more; a store that is away is waited for."""
        is_last = False
        while not is_last:
            is_last = stop.wait(HOUR)
            try:
                self.step()
            except TrailClosed:
                return
            except IndelibleError as error:
                _log.warning("upkeep: %s", error)

    def step(self) -> None:
        """
        Do it now.

        Raises:
            StoreError, WriteUncertain: It is to be repeated.
        """
        self._receiving.forget()
        trail = self._collector.trail
        with trail.store.read() as view:
            count, root = heads_of(
                (Producer.from_bytes(kept), Held.from_bytes(view.fact(HELD_KIND, key)))
                for key, kept in view.facts(KIND)
            )
        if count and root != self._named:
            custody.write(trail, partial(self._events, count, root), self._collector.now())
            self._named = root

    def _events(self, count: int, root: bytes) -> list[Sealed]:
        said = b64encode(root).decode("ascii")
        return [own_event(self._collector.trail.id, "producers.heads", count=count, root=said)]

    @asynccontextmanager
    async def running(self, _: Litestar) -> AsyncIterator[None]:
        """Do it for as long as the application runs, and once at its end."""
        async with beside("indelible-upkeep", self.run):
            yield
