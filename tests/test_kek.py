"""Whoever keeps the KEK gives back what was wrapped, and forgets it when told to."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from indelible.errors import CallerError, IndelibleError, KeyUnavailable, StoreError, StoreFull
from indelible.kek import MAX_VERSION, KeyEncryption, KeyFile, Passphrase, check_unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEK = bytes(range(32))
OTHER = bytes(range(32, 64))

CRASHING = """
import os, sys

def crash(event, arguments):
    global left
    if event in STEPS and DIRECTORY in str(arguments[0]):
        left -= 1
        if left < 0:
            os._exit(9)

from indelible.kek import KeyFile

STEPS = {"open", "os.link", "os.remove", "os.rename"}
DIRECTORY, step, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
keeper = KeyFile(DIRECTORY)
sys.addaudithook(crash)
keeper.wrap(bytes(range(32)), 1) if step == "wrap" else keeper.destroy(1)
"""
"""Ends without warning before the given opening, linking or removing of a file."""


@pytest.fixture
def files(tmp_path: Path) -> KeyFile:
    """Keep keys in files, none yet."""
    return KeyFile(tmp_path)


@pytest.fixture(params=["file", "passphrase"])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> KeyEncryption:
    """Return each of the keepers that need no other machine."""
    return KeyFile(tmp_path) if request.param == "file" else Passphrase("correct horse")


def put(path: Path, text: str) -> None:
    """Make a file that its owner alone can access."""
    path.write_text(text)
    path.chmod(0o600)


def crash(directory: Path, step: str, left: int) -> bool:
    """Tell whether a process died before that many steps were done."""
    code = subprocess.run(
        [sys.executable, "-c", CRASHING, str(directory), step, str(left)], check=False
    ).returncode
    assert code in {0, 9}
    return code == 9


def test_a_wrapped_key_is_unwrapped_as_it_was(keeper: KeyEncryption) -> None:
    """Each version has its own key, which does not show in what is kept of it."""
    first, second = keeper.wrap(KEK, 1), keeper.wrap(OTHER, 2)

    assert KEK == keeper.unwrap(first, 1)
    assert OTHER == keeper.unwrap(second, 2)
    assert KEK not in first
    assert keeper.kind in {"file", "passphrase"}


def test_wrapping_again_gives_other_bytes_for_the_same_key(keeper: KeyEncryption) -> None:
    """Whoever crashed before keeping a wrapped key wraps again, and nothing can be compared."""
    wrapped = [keeper.wrap(KEK, 1), keeper.wrap(KEK, 1), keeper.wrap(OTHER, 1)]

    assert 3 == len(set(wrapped))
    assert [KEK, KEK, OTHER] == [keeper.unwrap(each, 1) for each in wrapped]


def test_a_wrapped_key_belongs_to_its_version(keeper: KeyEncryption) -> None:
    """A key that is put in the place of another version's is refused."""
    first = keeper.wrap(KEK, 1)
    keeper.wrap(OTHER, 2)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 2: found"):
        keeper.unwrap(first, 2)


def test_a_changed_wrapped_key_is_refused(keeper: KeyEncryption) -> None:
    """Whatever bit of a wrapped key is changed, and wherever it is cut, nothing comes out."""
    wrapped = keeper.wrap(KEK, 1)
    changed = [
        wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :]
        for place in {0, 1, 5, 9, 10, 12, 25, 26, 40, len(wrapped) - 1}
    ]
    for damaged in [*changed, wrapped[:-1], wrapped + b"\0", wrapped[:5], b""]:
        with pytest.raises(KeyUnavailable, match=r"^vault key version 1: ") as caught:
            keeper.unwrap(damaged, 1)

        assert repr(damaged)[2:-1] not in str(caught.value) or not damaged


@pytest.mark.parametrize("key", [b"", KEK[:-1], KEK + b"\0"])
def test_a_key_has_32_bytes(keeper: KeyEncryption, key: bytes) -> None:
    """A key is neither cut nor filled up, when it is wrapped and when it is unwrapped."""
    with pytest.raises(CallerError, match=f"found {len(key)} bytes, expected 32"):
        keeper.wrap(key, 1)
    with pytest.raises(KeyUnavailable, match=f"version 7: found {len(key)} bytes, expected 32"):
        check_unwrapped(key, 7)


@pytest.mark.parametrize("version", [-1, 0, MAX_VERSION + 1])
def test_versions_are_numbers_from_one(keeper: KeyEncryption, version: int) -> None:
    """What cannot be a version is refused before anything is done."""
    for call in (
        lambda: keeper.wrap(KEK, version),
        lambda: keeper.unwrap(bytes(60), version),
        lambda: keeper.destroy(version),
    ):
        with pytest.raises(CallerError, match=f"version: found {version}, expected 1 to"):
            call()


def test_what_is_gone_may_be_destroyed_again(keeper: KeyEncryption) -> None:
    """Destroying twice, and destroying what never was, is how a crash is repaired."""
    keeper.wrap(KEK, 1)

    for version in (1, 1, 2):
        keeper.destroy(version)


# ---- Files ----


def test_a_key_file_is_for_its_owner_alone(files: KeyFile, tmp_path: Path) -> None:
    """There is one file a version, of one line, and nothing else is left beside it."""
    files.wrap(KEK, 1)
    files.wrap(KEK, 12)

    found = sorted(tmp_path.iterdir())

    assert [tmp_path / "vault-1.key", tmp_path / "vault-12.key"] == found
    assert [0o600, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in found]
    assert re.fullmatch(r"indelible-kek/1 1 [A-Za-z0-9+/]{43}=\n", found[0].read_text())
    assert found[0].read_text()[18:] != found[1].read_text()[19:]


def test_a_key_file_is_never_overwritten(files: KeyFile, tmp_path: Path) -> None:
    """Wrapping takes the key that is there, and says so where that is none."""
    wrapped = files.wrap(KEK, 1)
    before = (tmp_path / "vault-1.key").read_bytes()
    put(tmp_path / "vault-2.key", "something else")
    (tmp_path / "vault-3.key").symlink_to(tmp_path / "nowhere")

    files.wrap(OTHER, 1)
    for version in (2, 3):
        with pytest.raises(KeyUnavailable, match=f"vault-{version}.key: "):
            files.wrap(KEK, version)

    assert before == (tmp_path / "vault-1.key").read_bytes()
    assert KEK == files.unwrap(wrapped, 1)
    assert "something else" == (tmp_path / "vault-2.key").read_text()
    assert not (tmp_path / "nowhere").exists()


def test_a_lost_key_file_is_named(files: KeyFile, tmp_path: Path) -> None:
    """Whoever has lost a key is told which file was looked for."""
    wrapped = files.wrap(KEK, 2)
    (tmp_path / "vault-2.key").unlink()

    with pytest.raises(
        KeyUnavailable, match=f"^vault key version 2: {tmp_path}/vault-2.key: found no file"
    ):
        files.unwrap(wrapped, 2)


def test_a_key_file_made_anew_is_another(files: KeyFile, tmp_path: Path) -> None:
    """The key of a lost file is not guessed: what it wrapped stays wrapped."""
    wrapped = files.wrap(KEK, 1)
    (tmp_path / "vault-1.key").unlink()
    files.wrap(KEK, 1)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: .*did not wrap"):
        files.unwrap(wrapped, 1)


def test_a_key_file_of_another_version_is_not_used(files: KeyFile, tmp_path: Path) -> None:
    """A file that was renamed does not pass for another version."""
    wrapped = files.wrap(KEK, 1)
    (tmp_path / "vault-1.key").rename(tmp_path / "vault-2.key")

    with pytest.raises(KeyUnavailable, match="found the key of version 1, expected 2"):
        files.unwrap(wrapped, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda _: "\n",
        lambda text: text[:-1],
        lambda text: text[:40],
        lambda text: f"{text}\n",
        lambda text: f" {text}",
        lambda text: text.replace("kek/1", "kek/2"),
        lambda text: text.replace(" 1 ", " 01 "),
        lambda text: text.replace("=", ""),
        lambda text: text[:-3] + "B=\n" if text[-3] == "A" else text[:-3] + "9=\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\0" * len(text),
        lambda _: "x" * 10_000,
    ],
)
def test_a_damaged_key_file_is_not_used(
    files: KeyFile, tmp_path: Path, change: Callable[[str], str]
) -> None:
    """What a crash or an editor has left of a key wraps nothing, and is not shown."""
    path = tmp_path / "vault-1.key"
    line = f"indelible-kek/1 1 {b64encode(bytes(range(64, 96))).decode()}\n"
    put(path, line)
    wrapped = files.wrap(KEK, 1)
    put(path, change(line))

    with pytest.raises(KeyUnavailable, match=r"vault-1.key: the key is damaged") as unwrapping:
        files.unwrap(wrapped, 1)
    with pytest.raises(KeyUnavailable, match=r"vault-1.key: the key is damaged") as wrapping:
        files.wrap(KEK, 1)

    assert line[18:28] not in f"{unwrapping.value} {wrapping.value}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o610, 0o644, 0o777])
def test_a_key_file_that_others_can_access_is_not_used(
    files: KeyFile, tmp_path: Path, mode: int
) -> None:
    """A key that someone else may have read keeps nothing from anybody."""
    wrapped = files.wrap(KEK, 1)
    (tmp_path / "vault-1.key").chmod(mode)

    with pytest.raises(KeyUnavailable, match=f"found mode {mode:04o}.*expected 0600"):
        files.unwrap(wrapped, 1)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_file_that_its_owner_alone_can_access_is_used(
    files: KeyFile, tmp_path: Path, mode: int
) -> None:
    """Stricter than 0600 is fine."""
    wrapped = files.wrap(KEK, 1)
    (tmp_path / "vault-1.key").chmod(mode)

    assert KEK == files.unwrap(wrapped, 1)


def test_what_cannot_be_a_key_file_is_named(files: KeyFile, tmp_path: Path) -> None:
    """The reason of the operating system is passed on, with whose turn it is."""
    (tmp_path / "vault-1.key").mkdir()
    nowhere = KeyFile(tmp_path / "nowhere")

    with pytest.raises(KeyUnavailable, match="the key cannot be read: Is a directory"):
        files.unwrap(bytes(60), 1)
    with pytest.raises(KeyUnavailable, match="the key cannot be destroyed: Is a directory"):
        files.destroy(1)
    with pytest.raises(KeyUnavailable, match="the key cannot be written: No such file"):
        nowhere.wrap(KEK, 1)
    # A directory that is not there may be one that is not mounted.
    with pytest.raises(KeyUnavailable, match="the key cannot be destroyed: No such file"):
        nowhere.destroy(1)


def test_a_key_file_that_cannot_be_written_whole_leaves_nothing_behind(
    files: KeyFile, tmp_path: Path
) -> None:
    """When the disk is full, wrapping fails, and works again once there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(StoreError, match=r"version 1: .*cannot be written: File too large"):
            files.wrap(KEK, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [] == list(tmp_path.iterdir())
    assert KEK == files.unwrap(files.wrap(KEK, 1), 1)


def test_a_full_disk_is_called_full(tmp_path: Path) -> None:
    """Whoever can make room is told to, and the key is made once there is."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("only root may mount a small disk")
    small = [mount, "-t", "tmpfs", "-o", "size=64k,nr_inodes=3", "tmpfs", str(tmp_path)]
    if subprocess.run(small, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        fillers = [tmp_path / "one", tmp_path / "other"]
        for filler in fillers:
            filler.touch()

        with pytest.raises(StoreFull, match="the key cannot be written: No space left on device"):
            KeyFile(tmp_path).wrap(KEK, 1)
        for filler in fillers:
            filler.unlink()

        assert KEK == KeyFile(tmp_path).unwrap(KeyFile(tmp_path).wrap(KEK, 1), 1)
    finally:
        subprocess.run([umount, str(tmp_path)], check=True)


def test_those_who_make_a_key_at_once_get_the_same(files: KeyFile, tmp_path: Path) -> None:
    """What one of them has wrapped, each of them unwraps."""
    start, wrapped = threading.Barrier(8), list[bytes]()

    def wrap() -> None:
        start.wait()
        wrapped.append(files.wrap(KEK, 1))

    threads = [threading.Thread(target=wrap) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [KEK] * 8 == [KeyFile(tmp_path).unwrap(each, 1) for each in wrapped]
    assert [tmp_path / "vault-1.key"] == list(tmp_path.iterdir())


def test_a_destroyed_key_file_is_gone(files: KeyFile, tmp_path: Path) -> None:
    """The bytes are overwritten, not only the name removed; other versions stay."""
    first, second = files.wrap(KEK, 1), files.wrap(OTHER, 2)
    (tmp_path / "copy").hardlink_to(tmp_path / "vault-1.key")
    size = (tmp_path / "copy").stat().st_size

    files.destroy(1)

    assert bytes(size) == (tmp_path / "copy").read_bytes()
    assert not (tmp_path / "vault-1.key").exists()
    assert OTHER == files.unwrap(second, 2)
    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: .*found no file"):
        files.unwrap(first, 1)


def test_what_a_crash_left_beside_a_key_is_never_read(files: KeyFile, tmp_path: Path) -> None:
    """Half a key is no key, and goes with the version that it was to be."""
    put(tmp_path / ".vault-1.key.0011223344556677", "indelible-kek/1 1 AAAA")
    put(tmp_path / ".vault-12.key.0011223344556677", "indelible-kek/1 12 AAAA")

    wrapped = files.wrap(KEK, 1)

    assert KEK == files.unwrap(wrapped, 1)
    files.destroy(1)
    assert [tmp_path / ".vault-12.key.0011223344556677"] == list(tmp_path.iterdir())


def test_wherever_a_process_dies_a_key_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """After a crash at any step of making a key, the next one makes it, or takes it as it is."""
    step, crashed = 0, True
    while crashed:
        directory = tmp_path / str(step)
        directory.mkdir()
        crashed = crash(directory, "wrap", step)
        made = directory / "vault-1.key"
        before = made.read_bytes() if made.exists() else None
        files = KeyFile(directory)

        wrapped = files.wrap(KEK, 1)

        assert KEK == files.unwrap(wrapped, 1)
        assert before in {None, made.read_bytes()}
        files.destroy(1)
        assert [] == list(directory.iterdir())
        step += 1
    assert step > 3


def test_wherever_a_process_dies_a_key_is_destroyed_by_the_next(tmp_path: Path) -> None:
    """After a crash at any step of destroying a key it is whole or gone, and then gone."""
    step, crashed = 0, True
    while crashed:
        directory = tmp_path / str(step)
        directory.mkdir()
        files = KeyFile(directory)
        wrapped = files.wrap(KEK, 1)
        crashed = crash(directory, "destroy", step)

        try:
            left = files.unwrap(wrapped, 1)
        except KeyUnavailable:
            left = KEK
        files.destroy(1)

        assert KEK == left
        assert [] == list(directory.iterdir())
        with pytest.raises(KeyUnavailable, match="found no file"):
            files.unwrap(wrapped, 1)
        step += 1
    assert step > 2


# ---- Passphrases ----


def test_another_passphrase_unwraps_nothing() -> None:
    """Whoever mistypes is told so, and not what was typed."""
    wrapped = Passphrase("correct horse").wrap(KEK, 1)

    with pytest.raises(
        KeyUnavailable, match=r"^vault key version 1: found another passphrase"
    ) as caught:
        Passphrase("battery staple").unwrap(wrapped, 1)

    assert "staple" not in str(caught.value)
    assert "staple" not in repr(Passphrase("battery staple"))


def test_a_passphrase_is_the_same_from_every_keyboard() -> None:
    """A letter with a sign on it counts once, in one piece or composed."""
    wrapped = Passphrase("Z\u00fcrich").wrap(KEK, 1)

    assert KEK == Passphrase("Zu\u0308rich").unwrap(wrapped, 1)


@pytest.mark.parametrize("passphrase", ["", "half \ud83d"])
def test_what_is_no_passphrase_is_refused(passphrase: str) -> None:
    """Nothing, or half a character, protects no key."""
    with pytest.raises(CallerError, match=r"^passphrase: found .*, expected text"):
        Passphrase(passphrase)


def test_a_passphrase_is_stretched_as_the_standard_recommends() -> None:
    """RFC 9106's second option: 64 MiB, three passes, four lanes, 16 bytes of salt."""
    first, second = (Passphrase("correct horse").wrap(KEK, 1) for _ in range(2))

    assert bytes.fromhex("01 00010000 00000003 04") == first[:10] == second[:10]
    assert first[10:26] != second[10:26]
    assert 10 + 16 + 60 == len(first)


@pytest.mark.parametrize(
    "cost",
    [
        "01 00040001 00000003 04",
        "01 ffffffff 00000003 04",
        "01 00010000 00000011 04",
        "01 00010000 ffffffff 04",
        "01 00010000 00000003 11",
        "01 00010000 00000003 00",
        "01 00010000 00000000 04",
        "01 0000001f 00000003 04",
        "02 00010000 00000003 04",
    ],
)
def test_a_keyring_cannot_make_its_reader_run_out_of_memory(cost: str) -> None:
    """What a changed keyring asks for is held against bounds before it is tried."""
    wrapped = bytes.fromhex(cost) + bytes(76)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: found .*, expected"):
        Passphrase("correct horse").unwrap(wrapped, 1)


def test_each_failure_is_one_of_ours() -> None:
    """Whoever opens a vault catches one kind of error, whatever bytes it meets."""
    for length in (0, 1, 10, 25, 26, 27, 85, 86, 87):
        with pytest.raises(IndelibleError):
            Passphrase("correct horse").unwrap(bytes(length), 1)
