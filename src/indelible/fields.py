"""
Fields: what of an event has a path of its own, and so a class.

A path is a JSON pointer (RFC 6901) of declared names only: ``/client/ip``,
``/changes/email``. It stands in clear and outlives an erasure, so it is never made of
data: a name below ``/changes`` or ``/data`` is part of a path where the policy has a
pattern for it (``/changes/*``, ``/data/amount``); what it has none for stays together
under the one path ``/changes`` or ``/data``.
"""

from __future__ import annotations

STRUCTURE = (
    "/id",
    "/schema",
    "/kind",
    "/occurred_at",
    "/action",
    "/outcome",
    "/actor/type",
    "/actor/roles",
    "/actor/asserted",
    "/resource/type",
    "/trace",
    "/service",
    "/approval/n",
    "/approval/distinct",
    "/source/format",
)
"""What is always in clear: the trail cannot be read, routed or followed without it."""

VALUES = (
    "/reason",
    "/actor/id",
    "/actor/name",
    "/actor/on_behalf_of",
    "/resource/id",
    "/resource/name",
    "/changes",
    "/data",
    "/rationale",
    "/session",
    "/request",
    "/client/ip",
    "/client/user_agent",
    "/tenant",
    "/approval/approvers",
    "/approval/reference",
    "/source/id",
)
"""What a policy classifies, in the order of an event's fields."""

OPEN = ("/changes", "/data")
"""Those below which the application has names of its own."""


def escape(name: str) -> str:
    """Write *name* as one part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def unescape(part: str) -> str:
    """Read what `escape` writes."""
    return part.replace("~1", "/").replace("~0", "~")


def split(path: str) -> tuple[str, str | None]:
    """Return the path in `VALUES` that *path* is or lies below, and the name below it."""
    for container in OPEN:
        if path.startswith(f"{container}/"):
            return container, unescape(path[len(container) + 1 :])
    return path, None
