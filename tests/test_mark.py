"""The high-water mark: what was last signed, kept beside the store to notice a rollback."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import Damaged, Rollback
from indelible.mark import Known, Mark, check
from indelible.merkle import Edge
from indelible.store import Head

if TYPE_CHECKING:
    from pathlib import Path


def head(log: str, size: int) -> Head:
    """Return the head of a log with that many entries."""
    edge, _ = Edge().extend([sha256(b"%d" % number).digest() for number in range(size)])
    return Head(log=log, origin=f"x.example/{log}", edge=edge)


def heads(**sizes: int) -> dict[str, Head]:
    """Return the heads of logs with these sizes."""
    return {log: head(log, size) for log, size in sizes.items()}


def known(**sizes: int) -> dict[str, Known]:
    """Return what is known of logs with these sizes."""
    return {log: Known(size, head(log, size).edge.root) for log, size in sizes.items()}


def root_at(log: str, size: int) -> bytes:
    """Return the root that a log had at that size."""
    return head(log, size).edge.root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a mark is kept."""
    return tmp_path / "mark"


def test_a_mark_is_read_as_it_was_written(path: Path) -> None:
    """Size and root of each log are known again after a restart."""
    mark = Mark(path)
    assert {} == mark.read()

    for size in range(5):
        mark.write(heads(user=size, admin=3))

        assert known(user=size, admin=3) == Mark(path).read()
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_torn_write_leaves_the_mark_before_it(path: Path) -> None:
    """A crash in the middle of writing the mark costs one commit of notice, not all of it."""
    mark = Mark(path)
    mark.write(heads(user=1))
    mark.write(heads(user=2))
    before = path.read_bytes()
    mark.write(heads(user=3))
    after = path.read_bytes()
    changed = [place for place in range(len(before)) if before[place] != after[place]]

    for end in range(changed[0], changed[-1] + 1):
        path.write_bytes(after[:end] + before[end:])

        assert known(user=2) == mark.read()
    path.write_bytes(after)
    assert known(user=3) == mark.read()


def test_a_mark_is_written_anew_over_a_torn_one(path: Path) -> None:
    """After a crash the next commit writes over the torn slot and leaves the whole one."""
    mark = Mark(path)
    mark.write(heads(user=1))
    mark.write(heads(user=2))
    data = bytearray(path.read_bytes())
    data[16_384 + 80] ^= 1  # the newer slot
    path.write_bytes(data)

    assert known(user=1) == mark.read()
    mark.write(heads(user=3))
    assert known(user=3) == mark.read()


@given(st.binary(max_size=200))
def test_what_is_no_mark_is_damaged(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """A file that holds no whole slot is named, and not taken for a trail without a past."""
    path = tmp_path_factory.mktemp("mark") / "mark"
    path.write_bytes(data)

    with pytest.raises(Damaged, match=r"^mark: holds no whole high-water mark"):
        Mark(path).read()


def slot(payload: bytes) -> bytes:
    """Return a slot around *payload* whose hash is right."""
    return b"%b %08d %b\n" % (sha256(payload).hexdigest().encode(), len(payload), payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"turn":0}',
        b'{"turn":0,"logs":{},"more":1}',
        b'{"turn":0,"logs":{"user":[1]}}',
        b'{"turn":0,"logs":{"user":["1","AA=="]}}',
        b'{"turn":0,"logs":{"user":[1,"AA=="]}}',
        b'{"turn":0,"logs":{"user":[1,"\xc3\xa4"]}}',
        b'{"turn":0,"logs":{"\xff":[1,"AA=="]}}',
    ],
)
def test_a_slot_of_another_form_is_none(path: Path, payload: bytes) -> None:
    """A right hash around something else does not make it a mark."""
    path.write_bytes(slot(payload))

    with pytest.raises(Damaged, match="holds no whole high-water mark"):
        Mark(path).read()


@pytest.mark.parametrize("user", [5, 6, 100])
def test_a_log_that_has_grown_fits_its_mark(user: int) -> None:
    """Entries that came after the mark was written are no rollback."""
    check(known(user=5), heads(user=user, admin=1), root_at)


def test_a_log_that_is_smaller_than_its_mark_is_a_rollback() -> None:
    """An older copy in the place of the trail is noticed."""
    with pytest.raises(Rollback, match=r"^log user: holds 4 entries, but 5 were signed"):
        check(known(user=5), heads(user=4), root_at)


def test_a_log_that_is_gone_is_a_rollback() -> None:
    """Deleting a whole log is noticed."""
    with pytest.raises(Rollback, match=r"^log user: holds 0 entries, but 5 were signed"):
        check(known(user=5), heads(admin=9), root_at)


def test_another_log_of_the_same_size_is_a_rollback() -> None:
    """Another history in the place of the trail is noticed, however long it is."""
    with pytest.raises(Rollback, match=r"^log user: is not the one whose 5 entries were signed"):
        check(known(user=5), heads(user=9), lambda _, __: bytes(32))


def test_a_mark_holds_many_logs(path: Path) -> None:
    """Streams and successors have room in one mark."""
    many = {
        f"user~{number}": replace(head("user", 2), log=f"user~{number}") for number in range(60)
    }

    Mark(path).write(many)
    Mark(path).write(many)

    assert set(many) == set(Mark(path).read())
    assert b64encode(head("user", 2).edge.root) in path.read_bytes()
