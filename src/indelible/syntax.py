r"""
Syntax: how a query is written as text, as clauses and back.

::

    actor:user:alice action:(invoice.approve OR invoice.pay) -outcome:success
    resource:"document:Q3 figures" since:2026-01-01 urgent "second reminder"

Clauses stand one beside the other, and all must hold. A clause is ``key:value``,
``-key:value``, ``key:(a OR b)`` or a word of free text. The key ends at the first
colon; values may hold further ones. What holds spaces, quotes or parentheses is
put into double quotes, where ``\"`` is a quote and ``\\`` a backslash; so is a
word of free text that holds a colon, begins with ``-``, or is ``OR``, ``AND`` or
``NOT``.

What the keys mean is none of this module's business, see `indelible.query`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indelible.errors import InvalidQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_BARE = r'[^\s"()]+'
_END = r"(?=\s|\Z)"
_CLAUSE = re.compile(
    rf'\s*(?:(?P<key>-?[^\s":()-][^\s":()]*):)?'
    rf'(?:(?P<value>{_QUOTED}|{_BARE})|\((?P<several>(?:{_QUOTED}|[^"()])*)\)){_END}',
    re.DOTALL,
)
_VALUE = re.compile(rf"\s*({_QUOTED}|{_BARE}){_END}", re.DOTALL)
_WORD = re.compile(rf'\s*({_QUOTED}|[^\s"]+){_END}', re.DOTALL)
_NEEDS_QUOTES = re.compile(r'[\s"()]').search
_WORD_NEEDS_QUOTES = re.compile(r'[\s"():]|\A-').search
_ESCAPED = re.compile(r'\\(["\\])')
_TO_ESCAPE = re.compile(r'(["\\])')
_OPERATORS = frozenset({"OR", "AND", "NOT"})
_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """
    One condition of a query.

    Attributes:
        key: What stands before the first colon; nothing for free text.
        excluded: A minus stands before the key.
        values: One or several, of which any may hold.
    """

    key: str = ""
    excluded: bool = False
    values: tuple[str, ...]

    def to_text(self) -> str:
        """Write the clause so that `parse_clauses` reads it as it is."""
        if not self.key:
            return " ".join(map(_word, self.values))
        minus = "-" if self.excluded else ""
        if len(self.values) == 1:
            return f"{minus}{self.key}:{_value(self.values[0])}"
        return f"{minus}{self.key}:({' OR '.join(map(_alternative, self.values))})"


def parse_clauses(text: str) -> Iterator[Clause]:
    """
    Yield the clauses of *text*.

    Raises:
        InvalidQuery: Something in it is no clause; it shows what and where.
    """
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _CLAUSE.match(text, at)
        if found is None:
            raise _unreadable(text, at)
        key, value, several = found["key"], found["value"], found["several"]
        if key is None:
            if value is None or (value[0] != '"' and _is_no_word(value)):
                raise _unreadable(text, at)
            yield Clause(values=(_unquoted(value),))
        else:
            values = _alternatives(several) if value is None else (_unquoted(value),)
            yield Clause(key=key.removeprefix("-"), excluded=key[:1] == "-", values=values)
        at = found.end()


def parse_words(text: str) -> tuple[str, ...]:
    """
    Return the words and quoted phrases of *text*, in which a colon means nothing.

    Raises:
        InvalidQuery: A quote is not closed, or stands within a word.
    """
    words: list[str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _WORD.match(text, at)
        if found is None:
            raise InvalidQuery(
                f"text: found {_shown(text[at:])}, expected words and closed quotes around phrases"
            )
        words.append(_unquoted(found[1]))
        at = found.end()
    return tuple(words)


def _alternatives(text: str) -> tuple[str, ...]:
    parts: list[str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _VALUE.match(text, at)
        if found is None:
            break
        parts.append(found[1])
        at = found.end()
    if at < end or len(parts) % 2 == 0 or any(part != "OR" for part in parts[1::2]):
        raise InvalidQuery(f"q: found {_shown(f'({text})')}, expected (a OR b)")
    if "OR" in parts[::2]:
        raise InvalidQuery(f'q: found {_shown(f"({text})")}, expected "OR" in quotes as a value')
    return tuple(map(_unquoted, parts[::2]))


def _is_no_word(value: str) -> bool:
    return ":" in value or value.startswith("-") or value in _OPERATORS


def _unquoted(text: str) -> str:
    return _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def _quoted(text: str) -> str:
    return '"' + _TO_ESCAPE.sub(r"\\\1", text) + '"'


def _value(text: str) -> str:
    return _quoted(text) if not text or _NEEDS_QUOTES(text) else text


def _alternative(text: str) -> str:
    return _quoted(text) if text == "OR" else _value(text)


def _word(text: str) -> str:
    needs = not text or _WORD_NEEDS_QUOTES(text) or text in _OPERATORS
    return _quoted(text) if needs else text


def _unreadable(text: str, at: int) -> InvalidQuery:
    rest = text[at:].lstrip()
    return InvalidQuery(
        f"q: found {_shown(rest)} at character {len(text) - len(rest) + 1}, expected key:value,"
        ' -key:value, key:(a OR b), a word, or a phrase in "quotes"'
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
