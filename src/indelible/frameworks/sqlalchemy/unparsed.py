"""What a statement that is only text says of itself: its verb, and the table it changes."""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = r'(?P<name>(?:"[^"]+"|\[[^\]]+\]|`[^`]+`|[\w$]+)(?:\s*\.\s*(?:"[^"]+"|[\w$]+))*)'
_VERBS = (
    r"insert\s+(?:or\s+\w+\s+)?into\s+",
    r"replace\s+into\s+",
    r"update\s+(?:or\s+\w+\s+)?(?:only\s+)?(?!set\b)",
    r"delete\s+from\s+(?:only\s+)?",
    r"merge\s+into\s+(?:only\s+)?",
    r"truncate\s+(?:table\s+)?(?:only\s+)?",
    r"copy\s+(?!\()",
)
_BEFORE = r"\A(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:explain\b[^;]*?\banalyze\b[^;]*?)?"
_STATEMENT = re.compile(
    _BEFORE + r"(?P<verb>insert|replace|update|delete|merge|truncate|copy)\b",
    re.IGNORECASE | re.DOTALL,
)
_WITH = re.compile(_BEFORE + r"with\b", re.IGNORECASE | re.DOTALL)
_TARGET = re.compile(
    "|".join(
        rf"\b(?P<verb{n}>{verb}){_NAME.replace('name', f'name{n}')}"
        for n, verb in enumerate(_VERBS)
    ),
    re.IGNORECASE,
)
_COPY_OUT = re.compile(r"\bto\b", re.IGNORECASE)


class Unparsed(NamedTuple):
    """
    A statement that changes rows, and was not looked into.

    Attributes:
        verb: ``update``.
        table: Name of its table, as far as it was told.
    """

    verb: str
    table: str | None


def unparsed(statement: str) -> Unparsed | None:
    """Return what *statement* says of itself; nothing, if it changes no rows."""
    first = _STATEMENT.match(statement)
    if first is None:
        if not _WITH.match(statement):
            return None
        for found in _TARGET.finditer(statement):
            target = _target(found)
            following = statement[found.end() :].lstrip().lower()
            if target.verb != "update" or following.startswith(("set", "as ")):
                return target
        return None
    verb = first["verb"].lower()
    found_at = _TARGET.match(statement, first.start("verb"))
    if verb == "copy" and (found_at is None or _COPY_OUT.search(statement, found_at.end())):
        return None
    return Unparsed(verb, None) if found_at is None else _target(found_at)


def _target(found: re.Match[str]) -> Unparsed:
    groups = {name: text for name, text in found.groupdict().items() if text is not None}
    verb = next(text for name, text in groups.items() if name.startswith("verb"))
    table = next(text for name, text in groups.items() if name.startswith("name"))
    plain = re.sub(r'["`\[\]]|\s', "", table)
    return Unparsed(verb.split()[0].lower(), plain)
