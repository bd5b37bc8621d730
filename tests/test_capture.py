"""What a statement did to rows becomes changes that say exactly what the database held."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from indelible.capture import (
    MOST,
    SECRET,
    Tracked,
    changed,
    created,
    deleted,
    exact,
    key_text,
    updated,
)
from indelible.event import Change, Resource, plain

INVOICE = Tracked(type="invoice", secret=frozenset({"card"}))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20)
    | st.decimals()
    | st.datetimes()
    | st.dates()
    | st.uuids()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


class Colour(Enum):
    """A type of an application."""

    RED = "red"


class Point:
    """A type that nobody has heard of."""

    def __repr__(self) -> str:
        return "<Point 1 2>"


class Hostile:
    """A type that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


@given(VALUES)
def test_whatever_a_database_holds_has_a_form_that_an_entry_can_carry(value: object) -> None:
    """No value of a row can keep the row from being captured, nor changes on its way."""
    form = exact(value)

    assert form == plain(form, "value")
    assert form == msgspec.json.decode(msgspec.json.encode(form))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("paid", "paid"),
        ("Grüße", "Grüße"),
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (2**64, {"$int": "18446744073709551616"}),
        (True, True),
        (None, None),
        (0.1, 0.1),
        (math.nan, {"$float": "nan"}),
        (math.inf, {"$float": "inf"}),
        (Decimal("1.10"), "1.10"),
        (Decimal("NaN"), {"$float": "NaN"}),
        (b"\0\1\2", {"$bytes": "AAEC"}),
        (memoryview(b"\0\1\2"), {"$bytes": "AAEC"}),
        (datetime(2026, 11, 24, 13, 28, 51), "2026-11-24T13:28:51"),  # noqa: DTZ001 - such columns
        (datetime(2026, 11, 24, 13, 28, 51, tzinfo=UTC), "2026-11-24T13:28:51Z"),
        (date(2026, 11, 24), "2026-11-24"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Colour.RED, "red"),
        ("a\0b", {"$text": r"a\x00b"}),
        ("\udc80", {"$text": r"\udc80"}),
        ([1, b"\0"], [1, {"$bytes": "AA=="}]),
        ({"$secret": True}, {"$object": {"$secret": True}}),
        ({"$ref": 1, "b": 2}, {"$ref": 1, "b": 2}),
        (Point(), {"$repr": "<Point 1 2>"}),
    ],
)
def test_a_value_is_kept_exactly_or_says_what_stands_for_it(value: object, form: object) -> None:
    """An auditor sees the value that the row held, or a mark that no value can be mistaken for."""
    found = exact(value)

    assert form == found
    assert type(form) is type(found)


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    """A type that fails when it is asked does not make the statement fail."""
    assert {"$repr": f"<{Hostile.__module__}.Hostile>"} == exact(Hostile())


@pytest.mark.parametrize("value", ["x" * (MOST + 1), b"x" * (MOST + 1)])
def test_of_a_large_value_its_digest_is_kept(value: str | bytes) -> None:
    """Whoever has the document can show that it is the one; the trail does not carry it."""
    digest = sha256(b"x" * (MOST + 1)).hexdigest()

    assert {"$sha256": digest, "size": MOST + 1} == exact(value)


def test_of_a_large_document_its_digest_is_kept() -> None:
    """The same holds for what is large as a whole."""
    found = exact({"lines": ["x" * 100] * 100})

    assert {"$sha256", "size"} == found.keys()


def test_endless_nesting_ends() -> None:
    """A document that is nested deeper than an entry may be is shown up to there."""
    value: Any = "end"
    for _ in range(500):
        value = [value]

    form = exact(value)

    assert form == plain(form, "value")


def test_a_row_that_came_or_went_says_what_it_held() -> None:
    """The values of a row that was deleted are those it had, and a new one had none before."""
    values = {"total": 2, "card": "4111"}

    came, went = created(INVOICE, [7], values), deleted(INVOICE, [7], values)

    assert ("invoice.create", "invoice", "7") == (came.action, came.type, came.id)
    assert {"total": Change(UNSET, 2), "card": Change(UNSET, SECRET)} == came.changes
    assert ("invoice.delete", "invoice", "7") == (went.action, went.type, went.id)
    assert {"total": Change(2, UNSET), "card": Change(SECRET, UNSET)} == went.changes


def test_a_row_that_changed_says_in_what() -> None:
    """Fields that kept their value are not named."""
    old, new = {"total": 1, "note": "n", "card": "4111"}, {"total": 2, "note": "n", "card": "4222"}

    row = updated(INVOICE, [7], old, new)

    assert row is not None
    assert "invoice.update" == row.action
    assert {"total": Change(1, 2), "card": Change(SECRET, SECRET)} == row.changes


def test_a_statement_that_changed_nothing_is_no_event() -> None:
    """Who saves a row as it was has changed nothing."""
    assert updated(INVOICE, [7], {"total": 1}, {"total": 1}) is None


@pytest.mark.parametrize(
    ("old", "new", "is_change"),
    [
        (1, True, True),
        (1, 1.0, True),
        ("1", 1, True),
        (Decimal("1.0"), Decimal("1.00"), False),
        (b"a", memoryview(b"a"), False),
        (math.nan, math.nan, False),
        ({"a": 1}, {"a": 1}, False),
        ({"a": 1}, {"a": 2}, True),
        (None, "", True),
    ],
)
def test_what_is_another_value_is_a_change(old: object, new: object, is_change: bool) -> None:
    """Values are compared as what they are, and not as what they look like."""
    assert is_change == bool(changed({"field": old}, {"field": new}))


@given(VALUES)
def test_no_value_is_a_change_of_itself(value: object) -> None:
    """A row that was written as it was is no change, whatever it holds."""
    assert {} == changed({"field": value}, {"field": value})


@given(VALUES, VALUES)
def test_no_secret_is_in_what_is_captured(old: object, new: object) -> None:
    """Of a secret only that it changed leaves the database, never what it was or is."""
    row = updated(INVOICE, [7], {"card": old}, {"card": new})

    assert row is None or {"card": Change(SECRET, SECRET)} == row.changes


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ([7], "7"),
        (["INV-7"], "INV-7"),
        (["a,b"], "a,b"),
        (["a,b", 7], "a%2Cb,7"),
        (["a%2Cb", 7], "a%252Cb,7"),
        ([UUID(int=7)], "00000000-0000-0000-0000-000000000007"),
        ([b"\1"], '{"$bytes":"AQ=="}'),
        ([""], "''"),
    ],
)
def test_a_primary_key_has_one_text(key: list[object], text: str) -> None:
    """A row is found under its key, also where that is composite or no text."""
    assert text == key_text(key)


@given(
    st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=3),
    st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=3),
)
def test_two_composite_keys_have_two_texts(one: list[str], other: list[str]) -> None:
    """The history of one row never holds that of another."""
    assert (one == other) == (key_text(one) == key_text(other))


def test_a_number_of_endless_digits_is_kept_as_a_digest() -> None:
    """Python itself does not write such a number; the row is captured all the same."""
    assert {"$sha256", "size"} == exact(10**5_000).keys()


@pytest.mark.parametrize("key", [["k" * 2_000], ["k" * 600, "l" * 600], ["%" * 600, 1]])
def test_a_key_that_is_too_long_for_an_id_is_a_digest(key: list[object]) -> None:
    """A row with such a key is captured and found under it, and not put aside."""
    text = key_text(key)

    assert re.fullmatch(r'\{"\$sha256":"[0-9a-f]{64}","size":[0-9]+\}', text)
    assert text != key_text([*key[:-1], "m" * 2_000])


@given(st.lists(SCALARS, min_size=1, max_size=3))
def test_every_key_is_an_id(key: list[object]) -> None:
    """No value of a primary key can keep its row from being captured."""
    text = key_text(key)

    assert text == Resource(type="invoice", id=text).id
    assert text.encode()


class Shown:
    """Shown by a long text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Shown {self.text}>"


def deep(value: object) -> object:
    """Return *value* inside of many lists."""
    for _ in range(40):
        value = ["x" * 10, value]
    return value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"admin": 1}, {"admin": True}),
        ({"admin": 0}, {"admin": False}),
        ([1], [1.0]),
        (Shown("x" * 300 + "a"), Shown("x" * 300 + "b")),
        (deep("a" * 300 + "b"), deep("a" * 300 + "c")),
    ],
)
def test_what_is_not_the_same_in_json_is_a_change(old: object, new: object) -> None:
    """A right that becomes true, or the end of a long value, is not lost."""
    assert {"data"} == changed({"data": old}, {"data": new}).keys()


def test_the_order_of_names_is_no_change() -> None:
    """An object that was written in another order is the same."""
    assert {} == changed({"d": {"a": 1, "b": 2}}, {"d": {"b": 2, "a": 1}})
