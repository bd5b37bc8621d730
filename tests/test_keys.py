"""Signing keys are readable by their owner alone, and shown to nobody."""

from __future__ import annotations

import resource
import stat
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from indelible.errors import CallerError, KeyUnavailable, Malformed
from indelible.keys import SigningKey, read_key, write_key

if TYPE_CHECKING:
    from pathlib import Path

NAME = "audit.example.com/prod"
SEED = bytes(range(32))
KEY = SigningKey.from_seed(NAME, SEED)
TEXT = KEY.to_text()
SECRET = b64encode(b"\x01" + SEED).decode()[2:12]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a key file that is not there yet."""
    return tmp_path / "signing.key"


def write(path: Path, data: bytes) -> None:
    """Make a file that its owner alone can access."""
    path.write_bytes(data)
    path.chmod(0o600)


def test_a_key_signs_what_its_verifier_accepts() -> None:
    """A signature names its key and holds for bytes and text alike."""
    signature = KEY.sign("text\n")

    assert (NAME, KEY.verifier.key_id) == (signature.name, signature.key_id)
    assert signature == KEY.sign(b"text\n")
    KEY.verifier.verify(b"text\n", signature.signature)


def test_a_seed_makes_one_key() -> None:
    """The same seed and name give the same key, another seed gives another."""
    assert KEY == SigningKey.from_seed(NAME, SEED)
    assert KEY != SigningKey.from_seed(NAME, bytes(32))
    assert KEY != SigningKey.from_seed("audit.example.com/test", SEED)


def test_new_keys_differ() -> None:
    """A new key comes from fresh randomness."""
    assert SigningKey.generate(NAME) != SigningKey.generate(NAME)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    """A seed is neither cut nor filled up."""
    with pytest.raises(CallerError, match=f"found {len(seed)} bytes, expected 32"):
        SigningKey.from_seed(NAME, seed)


@pytest.mark.parametrize("name", ["", "a b", "a+b"])
def test_a_key_needs_a_name_that_can_stand_in_a_note(name: str) -> None:
    """A key under whose name nothing could be verified is not made."""
    with pytest.raises(CallerError, match="key name"):
        SigningKey.generate(name)


def test_a_key_is_never_shown() -> None:
    """Neither repr nor str of a key holds its private part."""
    private = SECRET, SEED.hex(), b64encode(SEED).decode(), repr(SEED)

    for shown in (repr(KEY), str(KEY), f"{KEY}", repr([KEY])):
        assert NAME in shown
        assert not [each for each in private if each in shown]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PRIVATE+KEY+",
        TEXT[:-1],
        TEXT[1:],
        f"{TEXT}\n",
        f" {TEXT}",
        TEXT.replace("PRIVATE+KEY", "PRIVATE+key"),
        TEXT.replace("prod", "test"),
        TEXT.replace("prod", ""),
        TEXT.replace("175a851d", "175A851D"),
        TEXT.replace("175a851d", "175a851e"),
        TEXT.replace("+AQ", "+BA"),
        f"PRIVATE+KEY+{NAME}+175a851d+",
        f"PRIVATE+KEY+{NAME}+175a851d+" + b64encode(b"\x01" + SEED[:-1]).decode(),
        KEY.verifier.to_text(),
    ],
)
def test_what_is_not_exactly_a_signing_key_is_refused(text: str) -> None:
    """A damaged key is not another key, and is not shown."""
    with pytest.raises(Malformed) as caught:
        SigningKey.from_text(text)

    assert SECRET in TEXT
    assert SECRET not in str(caught.value)


def test_a_key_is_read_as_it_was_written(path: Path) -> None:
    """A key file holds one line, readable and writable by its owner alone."""
    write_key(path, KEY)

    assert KEY == read_key(path) == read_key(path, NAME) == read_key(str(path))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert f"{TEXT}\n" == path.read_text()


def test_a_key_without_a_line_end_is_read(path: Path) -> None:
    """Other tools write key files without one."""
    write(path, TEXT.encode())

    assert KEY == read_key(path)


def test_a_key_is_never_overwritten(path: Path) -> None:
    """What is at the path stays as it is, even a link that leads nowhere."""
    write(path, b"something else")
    link = path.with_name("link")
    link.symlink_to(path.with_name("nowhere"))

    for taken in (path, link):
        with pytest.raises(CallerError, match="never overwritten"):
            write_key(taken, KEY)

    assert b"something else" == path.read_bytes()
    assert not link.exists()


def test_a_key_that_cannot_be_written_whole_leaves_nothing_behind(path: Path) -> None:
    """When the disk is full, writing fails, and works again once there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(TEXT) // 2, hard))
    try:
        with pytest.raises(KeyUnavailable, match="cannot be written"):
            write_key(path, KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not path.exists()
    write_key(path, KEY)
    assert KEY == read_key(path)


def test_a_key_needs_a_directory_to_be_written_to(path: Path) -> None:
    """A missing directory is named, and not made."""
    with pytest.raises(KeyUnavailable, match="cannot be written: No such file or directory"):
        write_key(path / "missing", KEY)

    assert not path.exists()


def test_a_missing_key_is_named(path: Path) -> None:
    """Whoever has lost a key is told which file was looked for."""
    with pytest.raises(KeyUnavailable, match=f"{path}: found no file"):
        read_key(path)


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The reason of the operating system is passed on."""
    with pytest.raises(
        KeyUnavailable, match=f"{tmp_path}: the signing key cannot be read: Is a directory"
    ):
        read_key(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"\n", TEXT.encode()[:40], f"{TEXT}\n\n".encode(), b"\xff", b"x" * 10_000]
)
def test_a_damaged_key_is_not_used(path: Path, data: bytes) -> None:
    """What a crash or an editor has left of a key signs nothing."""
    write(path, data)

    with pytest.raises(KeyUnavailable, match=f"{path}: the signing key is damaged"):
        read_key(path)


def test_a_key_of_another_name_is_not_used(path: Path) -> None:
    """The key of one log does not sign for another."""
    write_key(path, KEY)

    with pytest.raises(
        KeyUnavailable, match=f"found a key of {NAME}, expected one of audit.example.com/test"
    ):
        read_key(path, "audit.example.com/test")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o601, 0o610, 0o644, 0o666, 0o777])
def test_a_key_that_others_can_access_is_not_used(path: Path, mode: int) -> None:
    """A key that someone else may have read or replaced is no longer a key."""
    write_key(path, KEY)
    path.chmod(mode)

    with pytest.raises(KeyUnavailable, match=f"found mode {mode:04o}.*expected 0600"):
        read_key(path)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_that_its_owner_alone_can_access_is_used(path: Path, mode: int) -> None:
    """Stricter than 0600 is fine."""
    write_key(path, KEY)
    path.chmod(mode)

    assert KEY == read_key(path)
