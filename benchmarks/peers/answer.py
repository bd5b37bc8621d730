"""What a worker says in its one line of JSON."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What one library took, and what it recorded.

    Attributes:
        version: Of the library; empty where there is none.
        milliseconds: By operation.
        score: Of each step, whether what was recorded of it is true, or what is wrong.
    """

    library: str
    version: str
    milliseconds: dict[str, float]
    score: dict[str, str]

    def to_text(self) -> str:
        """Write it as a line."""
        return msgspec.json.encode(self).decode("utf-8")

    @classmethod
    def from_text(cls, text: str) -> Answer:
        """Read what `to_text` wrote."""
        return msgspec.json.decode(text, type=cls)
