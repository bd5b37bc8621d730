"""Signals: how a command that runs on and on is told to end."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def told_by_signals(end: Callable[[], object]) -> Iterator[None]:
    """
    Call *end* at each SIGTERM and SIGINT inside the block.

    Args:
        end: May put into a queue; unlike that, to set an event is not safe in such a handler.
    """
    before = {
        number: signal.signal(number, lambda *_: end())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
