"""Disclosures: what opens a commitment, byte for byte."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.disclosure import (
    SALT_SIZE,
    Disclosure,
    commitment_of,
    is_hash,
    leaf_of,
    open_at,
    verify_opening,
    write,
)
from indelible.errors import Damaged, Malformed
from indelible.event import Change
from indelible.merkle import leaf_hash, root_of

SALT = bytes(range(32))
VECTOR = b'["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","/actor/email","alice@example.com"]'

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=10,
)


def written(value: object, path: str = "/actor/email") -> bytes:
    """Write one disclosure, always under the same salt."""
    (data,) = write([(path, value)], lambda _: SALT)
    return data


def test_the_published_vector_holds() -> None:
    """The example of the format's description is written byte for byte."""
    data = written("alice@example.com")

    digest = urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=")

    assert VECTOR == data
    assert 82 == len(data)
    assert "eds1Zzus2DBH5H6KPDz_9TZkQIg_C7XKldLMe2pW3I4" == digest


@given(value=VALUES, path=TEXTS)
def test_what_was_written_is_read(value: object, path: str) -> None:
    """Every JSON value, and every path, comes back from its exact bytes as it was."""
    data = written(value, path)

    found = Disclosure.from_bytes(data)

    assert (data, path, value) == (found.data, found.path, found.value)


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**64 - 1, -(2**63), 0.5, "", "é", [], {}, [1, {"a": [None]}]],
    ids=repr,
)
def test_every_kind_of_json_value_can_be_committed(value: object) -> None:
    """Not only texts: a number, nothing at all and nested values are told apart."""
    found = Disclosure.from_bytes(written(value))

    assert value == found.value
    assert type(value) is type(found.value)


def test_old_and_new_go_together() -> None:
    """A change is one value: whoever opens it shows what was before and what came after."""
    both = Disclosure.from_bytes(written(Change("draft", "paid"), "/changes/status"))
    only_new = Disclosure.from_bytes(written(Change(new=7), "/changes/status"))

    assert {"old": "draft", "new": "paid"} == both.value
    assert {"new": 7} == only_new.value


@given(value=VALUES, data=st.data())
def test_other_bytes_are_refused(value: object, data: st.DataObject) -> None:
    """Bytes that are read are bytes that are written: a change anywhere is found or harmless."""
    exact = written(value)
    place = data.draw(st.integers(0, len(exact) - 1))
    changed = exact[:place] + data.draw(st.binary(max_size=2)) + exact[place + 1 :]

    try:
        found = Disclosure.from_bytes(changed)
    except Malformed:
        return

    # What was changed is another disclosure, whole in itself, with another leaf hash.
    assert changed == found.data
    assert (changed == exact) == (found.leaf == leaf_of(exact))
    assert changed == written(found.value, found.path).replace(exact[2:45], changed[2:45])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        VECTOR + b" ",
        VECTOR + b"\n",
        b" " + VECTOR,
        VECTOR.replace(b'","', b'", "'),
        VECTOR.replace(b"alice", b"\\u0061lice"),
        VECTOR.replace(b"/actor", b"\\/actor"),
        VECTOR.replace(b'"]', b'",1]'),
        VECTOR.replace(b',"alice@example.com"', b""),
        VECTOR.replace(b"Hh8", b"Hh9"),
        VECTOR.replace(b"Hh8", b"Hh8="),
        VECTOR.replace(b"Hh8", b"Hh"),
        VECTOR.replace(b"Hh8", b"H+8"),
        VECTOR.replace(b'"alice@example.com"', b"1e5"),
        VECTOR.replace(b'"alice@example.com"', b"1E400"),
        VECTOR.replace(b'"alice@example.com"', b"-0"),
        VECTOR.replace(b'"alice@example.com"', b"NaN"),
        VECTOR.replace(b'"alice@example.com"', b'{"a":1,"a":2}'),
        VECTOR.replace(b'"alice@example.com"', b'"\\ud800"'),
        VECTOR.replace(b'"alice@example.com"', b"[" * 100_000 + b"]" * 100_000),
    ],
)
def test_only_the_exact_form_is_a_disclosure(data: bytes) -> None:
    """No spelling but one: else one commitment could be opened in two ways."""
    with pytest.raises(Malformed, match="disclosure"):
        Disclosure.from_bytes(data)


@pytest.mark.parametrize("count", range(1, 21))
def test_a_commitment_is_the_root_of_rfc_6962(count: int) -> None:
    """One hash covers all values of an entry, and the tree is the one that proofs are for."""
    disclosures = write([(f"/data/{n}", n) for n in range(count)], bytes)
    leaves = [leaf_of(each) for each in disclosures]

    commitment = commitment_of(leaves)

    assert root_of(leaves) == commitment
    assert [leaf_hash(each) for each in disclosures] == leaves


def test_each_value_has_a_salt_of_its_own() -> None:
    """Equal values have different leaf hashes: one that is opened tells nothing of another."""
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    disclosures = write([("/session", "s"), ("/session", "s")], entropy)

    assert [2 * SALT_SIZE] == asked
    assert disclosures[0] != disclosures[1]
    assert [SALT, bytes(range(32, 64))] == [
        urlsafe_b64decode(each[2:45] + b"=") for each in disclosures
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (written("alice@example.com", "/actor/name"), "found path '/actor/name', expected"),
        (written("bob@example.com"), "is not the one that was committed to"),
        (written("alice@example.com ", "/actor/email"), "is not the one that was committed to"),
        (VECTOR.replace(b"AAEC", b"BAEC"), "is not the one that was committed to"),
    ],
)
def test_a_swapped_path_value_or_salt_is_refused(other: bytes, said: str) -> None:
    """What opens a commitment is the value that was recorded, at its path, and nothing else."""
    leaf = leaf_of(VECTOR)

    with pytest.raises(Damaged, match=said) as caught:
        verify_opening(Disclosure.from_bytes(other), "/actor/email", leaf)

    assert "example.com" not in str(caught.value)
    verify_opening(Disclosure.from_bytes(VECTOR), "/actor/email", leaf)


@given(size=st.integers(30, 34), data=st.data())
def test_32_bytes_have_one_spelling(size: int, data: st.DataObject) -> None:
    """A salt or a commitment is 43 characters of base64url, of which the last bits are zero."""
    raw = data.draw(st.binary(min_size=size, max_size=size))
    text = urlsafe_b64encode(raw).decode().rstrip("=")

    assert (size == 32) == is_hash(text)
    assert not is_hash(f"{text}=")
    assert not is_hash(f"{text[:-1]}é")


@given(path=st.text(max_size=8), value=st.text(max_size=20) | st.integers() | st.none())
def test_a_value_is_opened_alike_in_both_ways(path: str, value: object) -> None:
    """What is opened at a path is what the disclosure says, and another path is refused."""
    try:
        (data,) = write([(path, value)], bytes)
    except UnicodeEncodeError:
        return

    assert Disclosure.from_bytes(data).value == open_at(data, path)
    with pytest.raises(Malformed):
        open_at(data, path + "/x")


@pytest.mark.parametrize(
    "data",
    [
        b'["' + b"A" * 43 + b'","/a", "x"]',
        b'["' + b"A" * 42 + b'B","/a","x"]',
        b'["' + b"A" * 43 + b'","\\u002fa","x"]',
        b'["' + b"A" * 43 + b'","/a","\\u0078"]',
        b'["' + b"A" * 43 + b'","/a","\xff"]',
        b'["' + b"A" * 43 + b'","/a","x"]]',
        b'["' + b"A" * 43 + b'","/b","x"]',
        b"",
    ],
)
def test_what_is_no_disclosure_of_a_path_opens_nothing(data: bytes) -> None:
    """Only the exact bytes of a disclosure of this path open a value."""
    with pytest.raises(Malformed):
        open_at(data, "/a")
