"""Boxes: what can be said of each value, whatever somebody did to what the vault holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indelible.box import Box, Row, ValueState, binding, enclose, look_into, unbox
from indelible.disclosure import commitment_of, leaf_of, write
from indelible.errors import Damaged
from indelible.keyring import ID_SIZE, KEY_SIZE, DataKey, WrappedDataKey
from indelible.policy import FieldClass

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.box import Found

PATHS = ("/actor/id", "/client/ip", "/changes/email", "/rationale")
VALUES = ("alice", "192.0.2.1", {"old": None, "new": "a@example.com"}, {"text": "agreed"})
DISCLOSURES = write(list(zip(PATHS, VALUES, strict=True)), lambda size: bytes(range(128))[:size])
LEAVES = [leaf_of(each) for each in DISCLOSURES]
COMMITMENT = commitment_of(LEAVES)
BOUND = binding("audit.example.com/user") + COMMITMENT


def data_key(number: int, class_: FieldClass, raw: bytes | None = None) -> DataKey:
    """Return a key whose id says its number."""
    kept = WrappedDataKey(
        id=bytes([number]) * ID_SIZE, subject=b"", class_=class_, month=0, kek=1, wrapped=b""
    )
    return DataKey(kept, bytes([number]) * KEY_SIZE if raw is None else raw)


PERSONAL = data_key(1, FieldClass.PERSONAL)
INTERNAL = data_key(2, FieldClass.INTERNAL)
KEYS = {PERSONAL.id: PERSONAL, INTERNAL.id: INTERNAL}
SPINE = b"".join(LEAVES)
THREE = enclose(0, (0, 1, 2), DISCLOSURES[:3], PERSONAL, BOUND)
ONE = enclose(1, (3,), DISCLOSURES[3:], INTERNAL, BOUND)
ROW = Row(SPINE, (THREE, ONE))


def look(
    row: Row | bytes,
    bound: bytes = BOUND,
    commitment: bytes = COMMITMENT,
    keys: dict[bytes, DataKey] = KEYS,
) -> dict[str, Found]:
    """Look into a row with all keys."""
    data = row if isinstance(row, bytes) else row.to_bytes()
    return look_into(data, PATHS, commitment, bound, keys)


def states(found: dict[str, Found]) -> list[str]:
    """Return the states of all values, in the order of their paths."""
    return [found[path].state.value for path in PATHS]


def changed(box: Box, **parts: object) -> Row:
    """Return the row with one box changed."""
    other = Box(**{**{name: getattr(box, name) for name in box.__struct_fields__}, **parts})
    return Row(SPINE, tuple(other if each == box else each for each in ROW.boxes))


# ---- Opened ----


def test_every_value_is_opened_and_proven() -> None:
    """With its keys a row gives each value, its class, and the bytes that open the commitment."""
    found = look(ROW)

    assert ["OPEN"] * 4 == states(found)
    assert list(VALUES) == [found[path].value for path in PATHS]
    assert DISCLOSURES == [found[path].disclosure for path in PATHS]
    assert [FieldClass.PERSONAL] * 3 + [FieldClass.INTERNAL] == [
        found[path].class_ for path in PATHS
    ]
    assert [""] * 4 == [found[path].why for path in PATHS]


def test_the_order_of_boxes_says_nothing() -> None:
    """Boxes say which paths they open, and that is what they are held against."""
    found = look(Row(SPINE, (ONE, THREE)))

    assert ["OPEN"] * 4 == states(found)
    assert list(PATHS) == list(found)


def test_what_a_reader_may_not_see_is_not_decrypted() -> None:
    """The rule of a role is enforced where the keys are: nothing of the value is returned."""
    found = look_into(
        ROW.to_bytes(), PATHS, COMMITMENT, BOUND, KEYS, lambda each: each is FieldClass.INTERNAL
    )

    assert ["WITHHELD"] * 3 + ["OPEN"] == states(found)
    assert [(None, b"")] * 3 == [(found[path].value, found[path].disclosure) for path in PATHS[:3]]


def test_a_value_without_its_key_is_unreadable() -> None:
    """A lost key is not a lost value: it is said which key is missing, and others open."""
    found = look(ROW, keys={INTERNAL.id: INTERNAL})

    assert ["UNREADABLE"] * 3 + ["OPEN"] == states(found)
    assert PERSONAL.id.hex() in found["/actor/id"].why


# ---- Gone ----


def test_what_is_gone_is_missing_and_the_rest_is_proven() -> None:
    """Thanks to the spine, a value is proven whatever became of the others beside it."""
    found = look(Row(SPINE, (ONE,)))

    assert ["MISSING"] * 3 + ["OPEN"] == states(found)
    assert VALUES[3] == found["/rationale"].value


@pytest.mark.parametrize("row", [b"", Row(SPINE, ()).to_bytes(), Row(b"", ()).to_bytes()])
def test_a_row_without_boxes_has_only_missing_values(row: bytes) -> None:
    """Nothing at all is an alarm for each value, not an error."""
    assert ["MISSING"] * 4 == states(look(row))


def test_a_row_loses_boxes_whole() -> None:
    """Boxes that open nothing but what is to go are taken out; others are left to be made anew."""
    assert (ONE,) == ROW.without(frozenset({0, 1, 2})).boxes
    assert ROW == ROW.without(frozenset({0, 1}))
    assert (THREE,) == ROW.without(frozenset({3})).boxes
    assert SPINE == ROW.without(frozenset(range(4))).spine


# ---- Tampered with ----


@pytest.mark.parametrize(
    "row",
    [
        changed(THREE, data=THREE.data[:-1]),
        changed(THREE, data=THREE.data + b"\0"),
        changed(THREE, data=b""),
        changed(THREE, data=b"\0" * 5),
        changed(THREE, data=THREE.data[:20] + bytes([THREE.data[20] ^ 1]) + THREE.data[21:]),
        changed(THREE, data=bytes([THREE.data[0] ^ 1]) + THREE.data[1:]),
        changed(THREE, number=2),
        changed(THREE, number=256),
        changed(THREE, number=-1),
        changed(THREE, number=2**63),
        changed(THREE, data=ONE.data),
        changed(THREE, key=INTERNAL.id),
    ],
)
def test_a_changed_box_is_tampered_with(row: Row) -> None:
    """A flipped bit, another number or another's content: its values are an alarm, no others."""
    found = look(row)

    assert ["TAMPERED"] * 3 + ["OPEN"] == states(found)
    assert all(found[path].why for path in PATHS[:3])


def test_a_box_opens_with_its_own_key_alone() -> None:
    """Another key under the same id is noticed."""
    other = {**KEYS, PERSONAL.id: data_key(1, FieldClass.PERSONAL, b"x" * KEY_SIZE)}

    assert ["TAMPERED"] * 3 + ["OPEN"] == states(look(ROW, keys=other))


@pytest.mark.parametrize(
    "bound",
    [
        binding("audit.example.com/admin") + COMMITMENT,
        binding("audit.example.com/user") + bytes(32),
        b"indelible-box/2\0" + BOUND[16:],
    ],
)
def test_a_box_of_another_log_or_entry_is_tampered_with(bound: bytes) -> None:
    """A box is bound to its log and its commitment: moved elsewhere, it does not open."""
    assert ["TAMPERED"] * 4 == states(look(ROW, bound))


def test_a_row_of_another_entry_proves_nothing() -> None:
    """Values of one entry cannot pass for those of another with the same paths."""
    salted = write(list(zip(PATHS, VALUES, strict=True)), os.urandom)
    other = commitment_of([leaf_of(each) for each in salted])
    bound = binding("audit.example.com/user") + other

    found = look(ROW, bound, other)

    assert ["TAMPERED"] * 4 == states(found)


def test_a_swapped_value_is_tampered_with() -> None:
    """Whoever has the keys can make a box, but not one that opens the commitment."""
    forged = write([("/rationale", {"text": "forged"})], os.urandom)
    box = enclose(1, (3,), forged, INTERNAL, BOUND)

    found = look(Row(SPINE, (THREE, box)))

    assert ["OPEN"] * 3 + ["TAMPERED"] == states(found)
    assert found["/rationale"].value is None
    assert "is not the one that was committed to" in found["/rationale"].why


def test_a_value_at_another_path_is_tampered_with() -> None:
    """A disclosure opens the path that it names, not the one that a box claims."""
    box = enclose(0, (1, 0, 2), DISCLOSURES[:3], PERSONAL, BOUND)

    found = look(Row(SPINE, (box, ONE)))

    assert ["TAMPERED", "TAMPERED", "OPEN", "OPEN"] == states(found)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ((0, 1), ["TAMPERED", "TAMPERED", "MISSING", "OPEN"]),
        ((), ["MISSING", "MISSING", "MISSING", "OPEN"]),
        ((0, 1, 2, 4), ["TAMPERED", "TAMPERED", "TAMPERED", "OPEN"]),
        ((0, 1, -1), ["TAMPERED", "TAMPERED", "MISSING", "OPEN"]),
        ((0, 0, 0), ["TAMPERED", "MISSING", "MISSING", "OPEN"]),
        ((2**62,), ["MISSING", "MISSING", "MISSING", "OPEN"]),
    ],
)
def test_a_box_that_claims_other_paths_is_noticed(
    positions: tuple[int, ...], expected: list[str]
) -> None:
    """What a box says in clear is not trusted: no value is opened that it does not hold."""
    assert expected == states(look(changed(THREE, positions=positions)))


@pytest.mark.parametrize("twice", [(THREE, THREE, ONE), (THREE, ONE, ONE), (ONE, THREE, THREE)])
def test_two_boxes_for_one_path_are_tampered_with(twice: tuple[Box, ...]) -> None:
    """Each value is in one box; a second one is not chosen between, but reported."""
    doubled = max(twice, key=twice.count).positions

    found = look(Row(SPINE, twice))

    assert ["TAMPERED" if at in doubled else "OPEN" for at in range(4)] == states(found)


# ---- Without a spine ----


@pytest.mark.parametrize(
    "spine", [b"", SPINE[:-1], SPINE + bytes(32), bytes(128), SPINE[32:] + SPINE[:32]]
)
def test_values_that_are_all_there_need_no_spine(spine: bytes) -> None:
    """The commitment follows from the values themselves, if all are there; else none is proven."""
    assert ["OPEN"] * 4 == states(look(Row(spine, (THREE, ONE))))

    found = look(Row(spine, (THREE,)))

    assert ["TAMPERED"] * 3 + ["MISSING"] == states(found)
    assert [None] * 4 == [found[path].value for path in PATHS]


def test_a_forged_spine_proves_no_forged_value() -> None:
    """The spine is held against the commitment, so a spine made for other values is of no use."""
    forged = [*DISCLOSURES[:3], *write([("/rationale", {"text": "forged"})], os.urandom)]
    box = enclose(1, (3,), forged[3:], INTERNAL, BOUND)

    found = look(Row(b"".join(map(leaf_of, forged)), (THREE, box)))

    assert ["TAMPERED"] * 4 == states(found)


# ---- What boxes do not tell ----


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_characters='\\"\0'), max_size=200))
def test_lengths_are_hidden_in_steps_of_64(text: str) -> None:
    """Of the length of a value its box tells only how many times 64 bytes it fills."""
    disclosures = write([("/client/ip", text)], os.urandom)

    box = enclose(0, (1,), disclosures, PERSONAL, BOUND)

    size = len(box.data) - 12 - 16
    assert 0 == size % 64
    assert 0 <= size - (4 + 32 + len(msgspec.json.encode(text))) < 64
    assert disclosures == [each.data for each in unbox(box, PERSONAL, BOUND, ["/client/ip"])]


def test_boxes_of_equal_values_are_different() -> None:
    """Each box has a nonce of its own, so that nobody sees which are alike."""
    first, second = (enclose(0, (0,), DISCLOSURES[:1], PERSONAL, BOUND) for _ in range(2))

    assert first.data[:12] != second.data[:12]
    assert first.data != second.data


@pytest.mark.parametrize(
    "plain",
    [b"", b"[]x", b"{}", b"[1]", b'["a"]', b"\xff", b"[" * 100_000, b"[[" + DISCLOSURES[0] + b"]"],
)
def test_a_box_that_holds_something_else_is_damaged(plain: bytes) -> None:
    """Whatever was encrypted with the right key: it is disclosures, or it is an error of ours."""
    nonce = bytes(12)
    aad = BOUND + b"\0" + PERSONAL.id
    box = Box(0, (0, 1, 2), PERSONAL.id, nonce + PERSONAL.encrypt(nonce, plain, aad))

    with pytest.raises(Damaged, match=r"^box 0: "):
        unbox(box, PERSONAL, BOUND, ["/a", "/b", "/c"])

    assert ["TAMPERED"] * 3 + ["OPEN"] == states(look(Row(SPINE, (box, ONE))))


# ---- Rows as bytes ----


boxes = st.builds(
    Box,
    st.integers(-(2**63), 2**64 - 1),
    st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4).map(tuple),
    st.binary(max_size=20) | st.sampled_from([PERSONAL.id, INTERNAL.id]),
    st.binary(max_size=80) | st.sampled_from([THREE.data, ONE.data]),
)
rows = st.builds(
    Row,
    st.binary(max_size=140) | st.just(SPINE),
    st.lists(boxes | st.sampled_from([THREE, ONE]), max_size=4).map(tuple),
)


@given(rows)
def test_a_row_is_read_as_it_was_written(row: Row) -> None:
    """Each row has its exact bytes, and these are that row."""
    data = row.to_bytes()

    found = Row.from_bytes(data)

    assert row == found
    assert data == found.to_bytes()


def respelt(change: Callable[[list[object]], object]) -> bytes:
    """Write the row in another way."""
    parts = msgspec.msgpack.decode(ROW.to_bytes())
    return msgspec.msgpack.encode(change(parts))


@pytest.mark.parametrize(
    "data",
    [
        ROW.to_bytes()[:-1],
        ROW.to_bytes() + b"\0",
        respelt(lambda parts: [*parts, 1]),
        respelt(lambda parts: parts[:1]),
        respelt(lambda parts: [parts[0], [[*box, b""] for box in parts[1]]]),  # type: ignore[attr-defined]
        respelt(lambda parts: {"spine": parts[0], "boxes": parts[1]}),
        ROW.to_bytes().replace(b"\x92\xc4\x80", b"\x92\xc5\x00\x80", 1),
        b"\x92\xc4\x00" + b"\x91" * 100_000,
        b"\x93\xc4\x00\x90" + b"\x91" * 100_000 + b"\xc0",
        b"row",
    ],
)
def test_only_exact_bytes_are_a_row(data: bytes) -> None:
    """Another spelling of a row is damage: its values are an alarm, and nothing breaks."""
    with pytest.raises(Damaged, match=r"^vault row: "):
        Row.from_bytes(data)

    found = look(data)

    assert ["TAMPERED"] * 4 == states(found)
    assert all(found[path].why.startswith("vault row: ") for path in PATHS)


@settings(deadline=None)
@given(st.binary(max_size=200) | rows.map(Row.to_bytes))
def test_whatever_lies_in_a_row_something_is_said_of_each_value(data: bytes) -> None:
    """No garbage stops a reader: each value has one state, and is open only as it was recorded."""
    found = look(data)

    assert list(PATHS) == list(found)
    for path, value in zip(PATHS, VALUES, strict=True):
        if found[path].state is ValueState.OPEN:
            assert value == found[path].value
        else:
            assert found[path].value is None
            assert found[path].why
