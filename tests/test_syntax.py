"""The text of a query is read exactly, or refused where it can be misread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import InvalidQuery
from indelible.syntax import Clause, parse_clauses, parse_words

VALUES = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["OR", "AND", "NOT", "-a", "a:b", '"', "\\", '\\"', "(", " ", "a b", "\u2028", "C:\\new"]
)
CLAUSES = st.builds(
    Clause,
    key=st.sampled_from(["actor", "since", "x-1"]),
    excluded=st.booleans(),
    values=st.lists(VALUES, min_size=1, max_size=3).map(tuple),
) | st.builds(Clause, values=VALUES.map(lambda value: (value,)))


@given(st.lists(CLAUSES, max_size=4))
def test_clauses_are_read_as_they_were_written(clauses: list[Clause]) -> None:
    """Whatever a value holds, writing and reading a query changes nothing."""
    text = " ".join(clause.to_text() for clause in clauses)

    assert clauses == list(parse_clauses(text))


@given(st.text(alphabet='ab:-"\\() OR\n', max_size=20))
def test_a_text_is_read_or_refused(text: str) -> None:
    """Any text is clauses that mean the same when written again, or an InvalidQuery."""
    try:
        clauses = list(parse_clauses(text))
    except InvalidQuery:
        return

    assert clauses == list(parse_clauses(" ".join(clause.to_text() for clause in clauses)))


def test_a_key_ends_at_the_first_colon() -> None:
    """Values may hold colons, as ``user:alice`` does."""
    assert [Clause(key="actor", values=("user:a:b",))] == list(parse_clauses("actor:user:a:b"))


def test_several_values_stand_in_parentheses() -> None:
    """``(a OR b)`` is one of several; each may be quoted."""
    expected = Clause(key="action", excluded=True, values=("a", "b c", "OR"))

    assert [expected] == list(parse_clauses(' -action:(a OR "b c"  OR "OR") '))


@pytest.mark.parametrize(
    "text",
    [
        "actor:",
        ":alice",
        "--actor:user:alice",
        "-word",
        '-"phrase"',
        "a OR b",
        "NOT a",
        '"not closed',
        'a"b"',
        '"a"b',
        "(a OR b)",
        "action:(a OR b",
        "action:a(b)",
    ],
)
def test_what_can_be_misread_is_refused(text: str) -> None:
    """A query that is not understood is refused, with the place, never guessed at."""
    with pytest.raises(InvalidQuery, match=r"q: found .* at character \d+, expected key:value"):
        list(parse_clauses(text))


@pytest.mark.parametrize(
    "text",
    [
        "action:()",
        "action:(a b)",
        "action:(a OR)",
        "action:(OR a)",
        "action:(a OR OR)",
        'action:(a"b")',
    ],
)
def test_alternatives_are_joined_by_or(text: str) -> None:
    """Between the values of parentheses stands OR, and nothing else."""
    with pytest.raises(InvalidQuery, match=r"^q: found "):
        list(parse_clauses(text))


def test_words_and_phrases_are_told_apart_by_quotes() -> None:
    """Outside of quotes a space ends a word."""
    assert ("paid", "second reminder", "a:b") == parse_words(' paid "second reminder" a:b ')


@pytest.mark.parametrize("text", ['"open', 'a"b"', '"a"b'])
def test_a_quote_is_closed_and_stands_alone(text: str) -> None:
    """A phrase that does not end is refused."""
    with pytest.raises(InvalidQuery, match="text: found"):
        parse_words(text)
