"""
Boxes: the encrypted disclosures of one entry, and what can be said of each of its values.

An entry's *row* in the vault is its spine, the leaf hashes of all its values in the order
of ``committed``, and a box for each subject and class. The spine is there from the
beginning and stays: so a value can be proven whatever became of the others beside it.
A box is bound to the commitment that it opens, whatever place it is found at.
"""

from __future__ import annotations

import os
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.exceptions import InvalidTag

from indelible.disclosure import (
    SALT_SIZE,
    Disclosure,
    commitment_of,
    compact,
    expand,
    verify_opening,
)
from indelible.errors import Damaged, Malformed
from indelible.keyring import NONCE_SIZE
from indelible.merkle import HASH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.keyring import DataKey
    from indelible.policy import FieldClass

_PADDED = 64
"""What the length of a box's content is a multiple of, so that it tells little of it."""

_MAX_NUMBER = 255
"""Of a box: one byte says it."""


class ValueState(StrEnum):
    """What is to be said of one committed value of one entry."""

    OPEN = "OPEN"
    """It is here, and the one that was committed to."""
    WITHHELD = "WITHHELD"
    """It is here; the reader's role does not see it."""
    ERASED = "ERASED"
    """An approved erasure, which is an entry, covers it."""
    PURGED = "PURGED"
    """It was kept as long as the policy says; an entry covers it."""
    MISSING = "MISSING"
    """It is gone, and no entry says why: an alarm."""
    UNREADABLE = "UNREADABLE"
    """It is here, but its key is not."""
    MOVED = "MOVED"
    """A collector has it."""
    TAMPERED = "TAMPERED"
    """What is here is not what was recorded: an alarm."""


class Box(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    Values of one subject and class.

    Attributes:
        number: Its place among the boxes of its entry when they were made.
        positions: Which of ``committed`` it opens.
        key: Id of its data key.
        data: Nonce and ciphertext.
    """

    number: int
    positions: tuple[int, ...]
    key: bytes
    data: bytes


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What the vault has of one entry.

    Attributes:
        spine: The leaf hashes of its values, one after the other.
    """

    spine: bytes
    boxes: tuple[Box, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> Row:
        """
        Read what `to_bytes` writes.

        Raises:
            Damaged: These are not a row's exact bytes.
        """
        try:
            row = _decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Damaged(f"vault row: {error}") from error
        if _pack(row) != data:
            raise Damaged("vault row: not in the exact form")
        return row

    def to_bytes(self) -> bytes:
        """Write the row."""
        return _pack(self)

    def without(self, positions: frozenset[int]) -> Row:
        """
        Return the row without the boxes that open nothing but *positions*.

        A box that opens others as well is left for `reboxed`.
        """
        return Row(
            self.spine, tuple(box for box in self.boxes if not positions.issuperset(box.positions))
        )


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


def binding(origin: str) -> bytes:
    """Return what binds a box to the log of *origin*."""
    return b"indelible-box/1\0" + sha256(origin.encode()).digest()[:16]


def enclose(  # noqa: PLR0917 - where it belongs, then what it holds, then how it is sealed
    number: int,
    positions: Sequence[int],
    disclosures: Sequence[bytes],
    key: DataKey,
    bound: bytes,
    nonce: bytes = b"",
) -> Box:
    """
    Encrypt *disclosures* into a box.

    Args:
        bound: `binding` of the log, and the commitment.
        nonce: `NONCE_SIZE` random bytes that nothing else was given; drawn where there are
            none, but who makes several boxes draws for all of them at once.
    """
    values = [compact(each) for each in disclosures]
    plain = b"".join([b"%b%b" % (len(each).to_bytes(4, "big"), each) for each in values])
    plain = plain.ljust(-(-len(plain) // _PADDED) * _PADDED, b"\0")
    nonce = nonce or os.urandom(NONCE_SIZE)
    data = nonce + key.encrypt(nonce, plain, b"%b%c%b" % (bound, number, key.id))
    return Box(number, tuple(positions), key.id, data)


def unbox(box: Box, key: DataKey, bound: bytes, paths: Sequence[str]) -> list[Disclosure]:
    """
    Decrypt a box.

    Args:
        paths: Of its values, as the entry names them.

    Raises:
        Damaged: It was not made with this key, for this commitment, or was changed.
    """
    wrong = f"box {box.number}: is not one of this entry, or was changed"
    if not 0 <= box.number <= _MAX_NUMBER:
        raise Damaged(wrong)
    aad = b"%b%c%b" % (bound, box.number, box.key)
    try:
        plain = key.decrypt(box.data[:NONCE_SIZE], box.data[NONCE_SIZE:], aad)
    except (InvalidTag, ValueError):
        raise Damaged(wrong) from None
    try:
        return [
            Disclosure.from_bytes(expand(value, path))
            for value, path in zip(_values(plain, len(paths)), paths, strict=True)
        ]
    except Malformed as error:
        raise Damaged(f"box {box.number}: {error}") from error


def _values(plain: bytes, count: int) -> Iterator[bytes]:
    """Yield the compact values of a box; after the last, there is padding alone."""
    at = 0
    for _ in range(count):
        end = at + 4 + int.from_bytes(plain[at : at + 4], "big")
        if not at + 4 + SALT_SIZE < end <= len(plain):
            raise Malformed(f"found {len(plain)} bytes, expected {count} values")
        yield plain[at + 4 : end]
        at = end
    if plain[at:].strip(b"\0"):
        raise Malformed(f"found more than {count} values")


class Found(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    What is to be said of one value.

    Attributes:
        value: JSON, where it is open.
        class_: Of its field when it was sealed, where its key is known.
        why: In words, where it is not open.
        disclosure: The bytes that open it.
    """

    state: ValueState
    value: Any = None
    class_: FieldClass | None = None
    why: str = ""
    disclosure: bytes = b""


def look_into(  # noqa: PLR0917 - what is known, then what is held against it
    row: bytes,
    committed: Sequence[str],
    commitment: bytes,
    bound: bytes,
    keys: Mapping[bytes, DataKey],
    sees: Callable[[FieldClass], bool] = lambda _: True,
) -> dict[str, Found]:
    """
    Say of each path of *committed* what there is in the vault's *row* of the entry.

    What is gone is MISSING here: whether an entry covers it is another's to say.

    Args:
        row: Empty where there is none.
        bound: `binding` of the log, and the commitment.
        keys: Data keys by id; a box whose key is not there is UNREADABLE.
        sees: Which classes are opened; values of others are WITHHELD.
    """
    if not row:
        return dict.fromkeys(committed, _MISSING)
    try:
        parsed = Row.from_bytes(row)
    except Damaged as error:
        return dict.fromkeys(committed, Found(state=ValueState.TAMPERED, why=str(error)))
    spine = _spine(parsed, commitment, len(committed))
    found: dict[str, Found] = {}
    leaves: list[bytes | None] = [None] * len(committed)
    for box in parsed.boxes:
        positions = [at for at in box.positions if 0 <= at < len(committed)]
        if len(positions) != len(box.positions) or not found.keys().isdisjoint(
            committed[at] for at in positions
        ):
            wrong = Found(state=ValueState.TAMPERED, why=f"box {box.number}: opens other paths")
            found.update(dict.fromkeys((committed[at] for at in positions), wrong))
            continue
        for at, each in zip(
            positions, _look(box, positions, committed, bound, keys, sees), strict=True
        ):
            found[committed[at]] = each
            if each.disclosure:
                opened, leaves[at] = _checked(
                    each, committed[at], None if spine is None else spine[at]
                )
                found[committed[at]] = opened
    if spine is None:
        _check_without_spine(found, committed, leaves, commitment)
    return {path: found.get(path, _MISSING) for path in committed}


_MISSING = Found(state=ValueState.MISSING, why="nothing says why it is gone")


def _spine(row: Row, commitment: bytes, count: int) -> list[bytes] | None:
    """Return the leaf hashes of a row, if they are those that the commitment covers."""
    spine = row.spine
    if len(spine) != HASH_SIZE * count:
        return None
    leaves = [spine[at : at + HASH_SIZE] for at in range(0, len(spine), HASH_SIZE)]
    return leaves if commitment_of(leaves) == commitment else None


def _look(  # noqa: PLR0917 - as `look_into`
    box: Box,
    positions: Sequence[int],
    committed: Sequence[str],
    bound: bytes,
    keys: Mapping[bytes, DataKey],
    sees: Callable[[FieldClass], bool],
) -> list[Found]:
    key = keys.get(box.key)
    if key is None:
        why = f"data key {box.key.hex()} is not in the keyring, or not readable"
        return [Found(state=ValueState.UNREADABLE, why=why)] * len(positions)
    if not sees(key.class_):
        return [Found(state=ValueState.WITHHELD, class_=key.class_)] * len(positions)
    try:
        disclosures = unbox(box, key, bound, [committed[at] for at in positions])
    except Damaged as error:
        wrong = Found(state=ValueState.TAMPERED, class_=key.class_, why=str(error))
        return [wrong] * len(positions)
    return [
        Found(
            state=ValueState.OPEN,
            value=each.value,
            class_=key.class_,
            disclosure=each.data,
            why=each.path,
        )
        for each in disclosures
    ]


def _checked(found: Found, path: str, leaf: bytes | None) -> tuple[Found, bytes | None]:
    """Hold an opened value against its leaf hash; return it, and the leaf hash it has."""
    disclosure = Disclosure(data=found.disclosure, path=found.why, value=found.value)
    opened = disclosure.leaf
    try:
        verify_opening(disclosure, path, opened if leaf is None else leaf)
    except Damaged as error:
        return Found(state=ValueState.TAMPERED, class_=found.class_, why=str(error)), None
    return msgspec.structs.replace(found, why=""), opened


def _check_without_spine(
    found: dict[str, Found],
    committed: Sequence[str],
    leaves: Sequence[bytes | None],
    commitment: bytes,
) -> None:
    """Where the spine is no use, values are proven only if all of them are there."""
    whole = [leaf for leaf in leaves if leaf is not None]
    if len(whole) == len(committed) and commitment_of(whole) == commitment:
        return
    for path, each in found.items():
        if each.state is ValueState.OPEN:
            why = "the leaf hashes beside it are not those that were committed to"
            found[path] = Found(state=ValueState.TAMPERED, class_=each.class_, why=why)
