"""Beside: what a collector does by itself, in a thread, for as long as its application runs."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def beside(name: str, run: Callable[[threading.Event], None]) -> AsyncIterator[None]:
    """
    Call *run* in a thread of this *name* inside the block.

    Args:
        run: Given what is set at the end of the block, which waits for it to return.
    """
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        await anyio.to_thread.run_sync(thread.join)
