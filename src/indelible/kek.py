"""
KEK: keys that encrypt data keys, and who keeps them.

A keyring keeps its keys wrapped under a version of the KEK, and each version wrapped by a
keeper. To destroy a version is what makes erasure reach copies: a backup of the keyring
is of no use without the version that it was made under.

Three keepers: a file on this machine (`KeyFile`), a passphrase that somebody types
(`Passphrase`), a key management service (`indelible.kms`).
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from indelible.durable import sync_directory
from indelible.errors import CallerError, KeyUnavailable, Malformed, StoreError, StoreFull
from indelible.note import parse_base64

if TYPE_CHECKING:
    from typing import Self

KEK_SIZE = 32
MAX_VERSION = 2**32 - 1

_NONCE_SIZE = 12
_TAG_SIZE = 16
_SEALED_SIZE = _NONCE_SIZE + KEK_SIZE + _TAG_SIZE


class KeyEncryption(Protocol):
    """
    Who keeps the KEK: it wraps versions of it, unwraps them, and forgets them for good.

    Versions are numbers from 1. Each is wrapped by one keeper, and its number is not used
    again after it was destroyed. The keeper sees a version when it is made, and when a
    process opens the vault; it sees no data key and no value.

    Usable from several threads and processes at once. Two that wrap the same new version
    at the same time end up with the same key at the keeper, and each can unwrap what the
    other wrapped. Nothing is remembered between calls: what `unwrap` returns was asked
    of the keeper just now, so that one that has lost its permission is noticed.

    After `StoreError` nothing is known to have been done; repeating the call is safe and
    finishes it. After `KeyUnavailable` repeating it is of no use until somebody has acted.
    No message shows a key, a passphrase or a wrapped key.
    """

    @property
    def kind(self) -> str:
        """Which keeper this is: ``file``, ``passphrase`` or ``aws-kms``."""
        ...

    def wrap(self, key: bytes, version: int) -> bytes:
        """
        Return *key*, the 32 bytes of this version of the KEK, as only this keeper unwraps it.

        What the keeper needs to do so is durable on return: it made a key for this version
        if it had none. Whoever crashes before keeping what is returned loses nothing by
        wrapping another key under the same version.

        Raises:
            CallerError: It is no key, or no version.
            KeyUnavailable: The keeper refuses, or what it has of this version is damaged.
            StoreError: The keeper is away, or has no room; try again.
        """
        ...

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """
        Return the key that `wrap` has wrapped as *version*.

        Raises:
            KeyUnavailable: This version was destroyed or lost, the keeper refuses, or
                *wrapped* is not what it wrapped as this version. The message begins with
                ``vault key version 2``.
            StoreError: The keeper is away; try again.
        """
        ...

    def destroy(self, version: int) -> None:
        """
        Forget what unwraps *version*, so that no copy of a wrapped key is of any use.

        On return it cannot be taken back by us. To destroy what was destroyed before, or
        never was, is fine: that is how a crash in between is repaired.

        Raises:
            KeyUnavailable: The keeper refuses.
            StoreError: It may or may not be destroyed; try again.
        """
        ...


def named(version: int) -> str:
    """
    Return what messages call a version of the KEK.

    Raises:
        CallerError: It is not from 1 to `MAX_VERSION`.
    """
    if not 1 <= version <= MAX_VERSION:
        raise CallerError(f"vault key version: found {version}, expected 1 to {MAX_VERSION}")
    return f"vault key version {version}"


def check_kek(key: bytes, version: int) -> None:
    """
    Refuse to wrap what is no key or has no version.

    Raises:
        CallerError: It has not 32 bytes, or the version is not from 1 up.
    """
    named(version)
    if len(key) != KEK_SIZE:
        raise CallerError(f"{named(version)}: found {len(key)} bytes, expected {KEK_SIZE}")


def check_unwrapped(key: bytes, version: int) -> bytes:
    """
    Return what a keeper has unwrapped if it can be a key.

    Raises:
        KeyUnavailable: It has not 32 bytes.
    """
    if len(key) != KEK_SIZE:
        raise KeyUnavailable(f"{named(version)}: found {len(key)} bytes, expected {KEK_SIZE}")
    return key


class KeyFile:
    """
    A keeper with a file for each version, ``vault-2.key``, in *directory*.

    A file holds one line, ``indelible-kek/1 2 <base64 of 32 random bytes>``, is readable by
    its owner alone, and is never overwritten but to destroy it. Whoever reads the file and
    the keyring reads the vault: back them up apart, and the files for a short time only.

    To destroy a version overwrites its file before removing it. A file system or a disk
    that never writes in place, and a backup, may still have the old bytes.
    """

    kind = "file"

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)

    def wrap(self, key: bytes, version: int) -> bytes:
        """Wrap a KEK under the key in this version's file, which is made if it is missing."""
        check_kek(key, version)
        path = self._path(version)
        try:
            if not os.path.lexists(path):
                _create(path, _KeyLine(version=version, key=os.urandom(KEK_SIZE)).to_bytes())
            # Also where another process has made it: its name may not be durable yet.
            sync_directory(path.parent)
        except OSError as error:
            raise _failed(version, path, "the key cannot be written", error) from error
        return _seal(self._read(path, version), key, _FILE_CONTEXT, version)

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """Unwrap a KEK with the key in this version's file."""
        return _open(self._read(self._path(version), version), wrapped, _FILE_CONTEXT, version)

    def destroy(self, version: int) -> None:
        """Overwrite this version's file and remove it, with what a crash has left beside it."""
        path = self._path(version)
        try:
            for each in [*path.parent.glob(f".{path.name}.*"), path]:
                _shred(each)
            sync_directory(path.parent)
        except OSError as error:
            raise _failed(version, path, "the key cannot be destroyed", error) from error

    def _path(self, version: int) -> Path:
        named(version)
        return self._directory / f"vault-{version}.key"

    def _read(self, path: Path, version: int) -> bytes:
        name = named(version)
        try:
            with path.open("rb") as file:
                # The open file is asked, not the path, which may change in between.
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(_MAX_KEY_FILE)
        except FileNotFoundError:
            raise KeyUnavailable(f"{name}: {path}: found no file, expected its key") from None
        except OSError as error:
            raise _failed(version, path, "the key cannot be read", error) from error
        if mode & 0o077:
            raise KeyUnavailable(
                f"{name}: {path}: found mode {mode:04o}, which lets others in; expected 0600"
            )
        try:
            line = _KeyLine.from_bytes(data)
        except Malformed as fault:
            raise KeyUnavailable(f"{name}: {path}: the key is damaged: {fault}") from None
        if line.version != version:
            raise KeyUnavailable(
                f"{name}: {path}: found the key of version {line.version}, expected {version}"
            )
        return line.key


class Passphrase:
    """
    A keeper that knows a passphrase and has no place of its own.

    The key is made from the passphrase by Argon2id (RFC 9106, second recommended option:
    64 MiB, three passes, four lanes) and a salt that is fresh at each wrapping; both stand
    in what `wrap` returns. So guessing costs as much for each keyring that was copied.

    There is nothing here to destroy: a version is gone once the keyring has deleted it. A
    backup of the keyring stays readable for who knows the passphrase, so an erasure is
    effective only once such backups are gone, or the passphrase is forgotten by all.
    """

    kind = "passphrase"

    def __init__(self, passphrase: str) -> None:
        # The same characters come composed from one keyboard and in parts from another.
        try:
            self._passphrase = unicodedata.normalize("NFC", passphrase).encode()
        except UnicodeEncodeError:
            raise CallerError("passphrase: found half a character, expected text") from None
        if not passphrase:
            raise CallerError("passphrase: found an empty one, expected text")

    def wrap(self, key: bytes, version: int) -> bytes:
        """Wrap a KEK under the passphrase and a fresh salt."""
        check_kek(key, version)
        cost = _Cost(_MEMORY, _PASSES, _LANES)
        header = cost.to_bytes() + os.urandom(_SALT_SIZE)
        return header + _seal(self._derive(header), key, header, version)

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """Unwrap a KEK, if it was wrapped under this passphrase."""
        header, sealed = wrapped[:_HEADER_SIZE], wrapped[_HEADER_SIZE:]
        try:
            key = self._derive(header)
        except Malformed as fault:
            raise KeyUnavailable(f"{named(version)}: {fault}") from None
        try:
            return _open(key, sealed, header, version)
        except KeyUnavailable:
            raise KeyUnavailable(
                f"{named(version)}: found another passphrase than it was wrapped under,"
                f" or a damaged keyring"
            ) from None

    def destroy(self, version: int) -> None:
        """Do nothing: what unwraps a version is the passphrase, and where it is kept is yours."""
        named(version)

    def _derive(self, header: bytes) -> bytes:
        cost = _Cost.from_bytes(header[:-_SALT_SIZE])
        return Argon2id(
            salt=header[-_SALT_SIZE:],
            length=KEK_SIZE,
            iterations=cost.passes,
            lanes=cost.lanes,
            memory_cost=cost.memory,
        ).derive(self._passphrase)


# ---- What a key file holds ----

_FILE_CONTEXT = b"file"
_MAX_KEY_FILE = 4096
_LINE = re.compile(rb"indelible-kek/1 ([1-9][0-9]{0,9}) ([A-Za-z0-9+/]{43}=)\n").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeyLine:
    version: int
    key: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        found = _LINE(data)
        if found is None:
            raise Malformed("expected one line of indelible-kek/1, a version and a key")
        version, key = found[1].decode(), found[2].decode()
        return cls(version=int(version), key=parse_base64(key, what="key"))

    def to_bytes(self) -> bytes:
        return b"indelible-kek/1 %d %b\n" % (self.version, b64encode(self.key))


def _create(path: Path, data: bytes) -> None:
    """Put a new file at *path*, whole or not at all; leave one that is there as it is."""
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Crash here: a key under a name that is never read, and that wraps nothing.
        # A link, since renaming would replace a key that another process has just made.
        os.link(aside, path)
        # Crash here: the key has two names, and destroying it overwrites what both are of.
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)


def _shred(path: Path) -> None:
    try:
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        # Crash here: zeros, which are read as no key; destroying it again removes them.
        path.unlink()
    except FileNotFoundError:
        pass


def _failed(version: int, path: Path, what: str, error: OSError) -> KeyUnavailable | StoreError:
    text = f"{named(version)}: {path}: {what}: {error.strerror}"
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return StoreFull(text)
    if isinstance(
        error, (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
    ):
        return KeyUnavailable(text)
    return StoreError(text)


# ---- What a passphrase is stretched by ----

_MEMORY = 64 * 1024
_PASSES = 3
_LANES = 4
_SALT_SIZE = 16
_COST_SIZE = 10
_HEADER_SIZE = _COST_SIZE + _SALT_SIZE
_MAX_MEMORY = 256 * 1024
_MAX_PASSES = 16
_MAX_LANES = 16
_FORMAT = 1


class _Cost(NamedTuple):
    """Memory in KiB, passes over it, and lanes."""

    memory: int
    passes: int
    lanes: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        if len(data) != _COST_SIZE or data[0] != _FORMAT:
            raise Malformed("found another format, expected one that was wrapped by a passphrase")
        cost = cls(int.from_bytes(data[1:5], "big"), int.from_bytes(data[5:9], "big"), data[9])
        # Whoever can write to the keyring must not make its reader run out of memory or time.
        if not (
            1 <= cost.lanes <= _MAX_LANES
            and 1 <= cost.passes <= _MAX_PASSES
            and 8 * cost.lanes <= cost.memory <= _MAX_MEMORY
        ):
            raise Malformed(
                f"found {cost.memory} KiB, {cost.passes} passes and {cost.lanes} lanes, expected"
                f" at most {_MAX_MEMORY} KiB, {_MAX_PASSES} and {_MAX_LANES}"
            )
        return cost

    def to_bytes(self) -> bytes:
        return b"%c%b%b%c" % (
            _FORMAT,
            self.memory.to_bytes(4, "big"),
            self.passes.to_bytes(4, "big"),
            self.lanes,
        )


# ---- One key under another ----


def _seal(key: bytes, kek: bytes, context: bytes, version: int) -> bytes:
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, kek, _bound(context, version))


def _open(key: bytes, sealed: bytes, context: bytes, version: int) -> bytes:
    if len(sealed) != _SEALED_SIZE:
        raise KeyUnavailable(
            f"{named(version)}: found {len(sealed)} wrapped bytes, expected {_SEALED_SIZE}"
        )
    try:
        return AESGCM(key).decrypt(
            sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], _bound(context, version)
        )
    except InvalidTag:
        raise KeyUnavailable(
            f"{named(version)}: found a wrapped key that its keeper did not wrap"
        ) from None


def _bound(context: bytes, version: int) -> bytes:
    """Bind a wrapped key to its version and keeper, so that none passes for another."""
    return b"indelible-kek/1\0%b\0%b" % (version.to_bytes(4, "big"), context)
