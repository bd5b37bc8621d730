"""
Scanning: what looks like a secret and stands in clear in a trail that was recorded already.

What is in the log stays there. So a finding is a reason to change the secret where it is
in use, and to classify the field in the policy for what is recorded from now on. It says
which path, what kind and where, and never shows a value: that would be one more copy.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from indelible import query
from indelible.detectors import findings
from indelible.errors import VerificationError
from indelible.segment import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indelible.query import Item
    from indelible.store import View

MAX_SPOTS = 1_000
"""Most places that are named; all are counted."""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """
    A place where something looks like a secret.

    Attributes:
        log, index: The entry.
        path: A JSON pointer below its event.
        kind: One of `indelible.detectors.KINDS`.
    """

    log: str
    index: int
    path: str
    kind: str

    def __str__(self) -> str:
        return f"{self.log}#{self.index} {self.path}: {self.kind}"


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was found.

    Attributes:
        entries: How many were looked at.
        found: How often something looks like a secret, by path and kind; places in lists are
            ``*`` there.
        spots: The first `MAX_SPOTS` of these, in the order of the logs.
        caught: How often, by path, the net kept such a value out of the log when it was
            recorded.
        unread: Parts of logs that cannot be read, so that nothing can be said of them.
    """

    entries: int
    found: dict[tuple[str, str], int]
    spots: tuple[Spot, ...]
    caught: dict[str, int]
    unread: tuple[str, ...]

    @property
    def total(self) -> int:
        """How often something looks like a secret."""
        return sum(self.found.values())


def scan(view: View, *, progress: Callable[[int, int], None] | None = None) -> Scan:
    """
    Look at all that stands in clear, in every log.

    Args:
        progress: Told how many entries of how many are done.
    """
    found: Counter[tuple[str, str]] = Counter()
    caught: Counter[str] = Counter()
    spots: list[Spot] = []
    unread: list[str] = []
    heads = view.heads()
    total = sum(head.size - head.first for head in heads.values())
    done = 0
    for log, head in heads.items():
        for first in range(head.first, head.size, BLOCK):
            last = min(first + BLOCK, head.size)
            try:
                items = list(query.items(view, log, range(first, last)))
            except VerificationError as error:
                unread.append(f"{log}: entries {first} to {last - 1}: {error}")
                items = []
            for item in items:
                caught.update(item.clear.caught)
                for spot in _spots(item):
                    found[_generally(spot.path), spot.kind] += 1
                    if len(spots) < MAX_SPOTS:
                        spots.append(spot)
            done += last - first
            if progress is not None:
                progress(done, total)
    return Scan(
        entries=total,
        found=dict(sorted(found.items())),
        spots=tuple(spots),
        caught=dict(sorted(caught.items())),
        unread=tuple(unread),
    )


_PARTS = (
    "reason",
    "actor",
    "resource",
    "changes",
    "data",
    "rationale",
    "session",
    "request",
    "client",
    "service",
    "tenant",
    "approval",
    "source",
)
"""What an application, or a user of it, has filled; ids and names of rules it has not."""


def _spots(item: Item) -> Iterator[Spot]:
    clear = item.clear
    given = {
        name: part for name in _PARTS if (part := getattr(clear, name)) is not None and part != {}
    }
    for each in findings(given):
        yield Spot(log=item.log, index=item.index, path=each.path, kind=each.kind)


def _generally(path: str) -> str:
    return "/".join("*" if part.isdecimal() else part for part in path.split("/"))
