"""
Logging baseline: the same events as JSON lines of stdlib logging, to ``/dev/null``.

It is spared what an application would do before: the dictionary to log is ready.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from indelible.event import Event


class JsonFormatter(logging.Formatter):
    """Writes a record and its event as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                "event": record.__dict__["event"],
            }
        )


def logger() -> logging.Logger:
    """Return a logger that writes to nowhere."""
    handler = logging.FileHandler(os.devnull, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    found = logging.getLogger("benchmarks.audit")
    found.handlers = [handler]
    found.propagate = False
    found.setLevel(logging.INFO)
    return found


def fields(event: Event) -> dict[str, Any]:
    """Return the dictionary that an application would log."""
    plain: dict[str, Any] = msgspec.to_builtins(event)
    return plain
