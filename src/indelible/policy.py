"""
Policy: which stream an event belongs to.

Ordered rules, the first that matches decides. Levels, field classes and retention
join them here; nothing else of Indelible decides where an event goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from indelible.errors import UnknownStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.event import Event, Kind

OnFailure = Literal["refuse", "continue"]

CUSTODY = "custody"
"""The stream in which the trail writes about itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Send what matches to *stream*; a part that is not given matches everything."""

    stream: str
    action: str | None = None
    actor_roles: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = frozenset()

    def matches(self, event: Event) -> bool:
        """Tell whether *event* is one of those this rule is for."""
        return (
            (self.action is None or matches_action(self.action, event.action))
            and (not self.actor_roles or not self.actor_roles.isdisjoint(event.actor.roles))
            and (not self.kinds or event.kind in self.kinds)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    Where events go, and what happens when a stream cannot be written.

    Args:
        streams: Per stream, ``refuse`` (`record` raises, the action should not
            happen) or ``continue`` (it is counted, and named in the custody
            stream as soon as writing works again).
        rules: Tried in this order.
    """

    streams: Mapping[str, OnFailure]
    rules: tuple[Rule, ...]

    def route(self, event: Event, stream: str | None = None) -> str:
        """
        Return the stream that *event* belongs to; *stream* overrides the rules.

        Raises:
            UnknownStream: The policy has no such stream.
        """
        if stream is None:
            stream = next((rule.stream for rule in self.rules if rule.matches(event)), "user")
        found: object = stream  # a caller may not have checked its types
        if type(found) is not str or found not in self.streams:
            known = ", ".join(self.streams)
            raise UnknownStream(f"stream: found {found!r}, expected one of {known}")
        return stream


def _default() -> Policy:
    return Policy(
        streams={"user": "refuse", "auth": "refuse", "admin": "refuse", CUSTODY: "refuse"},
        rules=(
            Rule(stream="auth", kinds=frozenset({"authentication"})),
            Rule(stream="admin", kinds=frozenset({"permission_change", "administration"})),
            Rule(stream="admin", actor_roles=frozenset({"admin", "staff"})),
            Rule(stream="auth", action="auth.*"),
            Rule(stream="admin", action="role.*"),
            Rule(stream="admin", action="permission.*"),
            Rule(stream="admin", action="admin.*"),
            Rule(stream="user"),
        ),
    )


DEFAULT = _default()


@lru_cache(maxsize=65_536)
def matches_action(pattern: str, action: str) -> bool:
    """Tell whether *action* is *pattern*, or below it where it ends with ``.*``."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return action.startswith(pattern[:-1])
    return action == pattern
