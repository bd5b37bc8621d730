"""What a trail holds in the end, for tests of those who bring events into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible import Event, Trail


def events(trail: Trail) -> Iterator[Event]:
    """Yield all that the stream ``user`` of *trail* holds, the newest first."""
    page = trail.search("stream:user", limit=500)
    while True:
        yield from (item.event for item in page.items)
        if page.cursor is None:
            return
        page = trail.search("stream:user", limit=500, cursor=page.cursor)
