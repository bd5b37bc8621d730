"""
The keys that sign checkpoints, and the files they are kept in.

A key is written as Go's golang.org/x/mod/sumdb/note writes it,
``PRIVATE+KEY+<name>+<key id in hex>+<base64 of type and seed>``, so that other
tools can use it. Whoever holds the private key can sign another past: it is
readable by its owner alone, never overwritten, and shown in no repr or message.
"""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from indelible.durable import sync_directory
from indelible.errors import CallerError, KeyUnavailable, Malformed
from indelible.note import ED25519, Signature, VerifierKey, parse_base64

if TYPE_CHECKING:
    from typing import Self

_PREFIX = "PRIVATE+KEY+"
_SEED_SIZE = 32
_MAX_KEY_FILE = 4096


class Signer(Protocol):
    """
    What signs notes: a `SigningKey`, or a key that a KMS never lets go of.

    Usable from several threads at once. The signature is pure Ed25519 (RFC
    8032) over exactly the given bytes, and therefore always the same for the
    same text. `sign` either returns a signature that `verifier` accepts or
    raises an `IndelibleError`; then nothing was signed, and trying again is
    safe.
    """

    @property
    def name(self) -> str:
        """The name under which the key is known: the origin of its log."""
        ...

    @property
    def verifier(self) -> VerifierKey:
        """The public half, of type `ED25519`."""
        ...

    def sign(self, text: bytes | str) -> Signature:
        """Sign the text of a note."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """
    An Ed25519 key in memory; made by `generate`, `from_seed` or `from_text`.

    Raises:
        CallerError: The name cannot be that of a key.
    """

    name: str
    verifier: VerifierKey = field(init=False)
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        public = self._private.public_key().public_bytes_raw()
        verifier = VerifierKey(name=self.name, type=ED25519, public=public)
        object.__setattr__(self, "verifier", verifier)

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a new key from the randomness of the operating system."""
        return cls(name=name, _private=Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """
        Make the key of these 32 bytes.

        Raises:
            CallerError: They are not 32 bytes.
        """
        if len(seed) != _SEED_SIZE:
            raise CallerError(f"seed of {name}: found {len(seed)} bytes, expected {_SEED_SIZE}")
        return cls(name=name, _private=Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """
        Read a key in Go's format.

        Raises:
            Malformed: It is not exactly a key; the message does not show it.
        """
        try:
            _, _, name, _, encoded = text.split("+", 4)
        except ValueError:
            raise Malformed(f"signing key: expected {_PREFIX}<name>+<id>+<key>") from None
        data = parse_base64(encoded, what="signing key")
        if data[:1] != bytes([ED25519]):
            raise Malformed("signing key: found another type, expected Ed25519")
        try:
            key = cls.from_seed(name, data[1:])
        except CallerError as fault:
            raise Malformed(str(fault)) from None
        if key.to_text() != text:
            raise Malformed(
                f"signing key of {name}: found another beginning or key id than this key has"
            )
        return key

    def to_text(self) -> str:
        """Write the private key in Go's format: for its file, and nothing else."""
        data = bytes([ED25519]) + self._private.private_bytes_raw()
        return f"{_PREFIX}{self.name}+{self.verifier.key_id.hex()}+{b64encode(data).decode()}"

    def sign(self, text: bytes | str) -> Signature:
        """Sign the text of a note."""
        signed = text.encode() if isinstance(text, str) else text
        return Signature(
            name=self.name, key_id=self.verifier.key_id, signature=self._private.sign(signed)
        )


def write_key(path: str | os.PathLike[str], key: SigningKey) -> None:
    """
    Keep *key* in a new file that only its owner can read.

    On return the file survives a crash of this machine.

    Raises:
        CallerError: Something is at *path* already; a key is never overwritten.
        KeyUnavailable: The file cannot be written; nothing was left behind.
    """
    path = Path(path)
    try:
        # O_EXCL also refuses a dangling symbolic link.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CallerError(
            f"{path}: found a file, expected none; a key is never overwritten"
        ) from None
    except OSError as error:
        raise KeyUnavailable(f"{path}: the key cannot be written: {error.strerror}") from error
    # Crash here: an incomplete file, which read_key refuses. Nothing was signed
    # with the key yet, so the file may be removed.
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(f"{key.to_text()}\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyUnavailable(f"{path}: the key cannot be written: {error.strerror}") from error


def read_key(path: str | os.PathLike[str], name: str | None = None) -> SigningKey:
    """
    Take the signing key out of its file.

    Args:
        name: The name that the key must have.

    Raises:
        KeyUnavailable: The file is missing, unreadable, damaged, accessible to
            others than its owner, or holds a key of another name.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            # The open file is asked, not the path, which may change in between.
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_KEY_FILE)
    except FileNotFoundError:
        raise KeyUnavailable(f"{path}: found no file, expected the signing key") from None
    except OSError as error:
        raise KeyUnavailable(f"{path}: the signing key cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyUnavailable(
            f"{path}: found mode {stat.S_IMODE(mode):04o}, which lets others in; expected 0600"
        )
    try:
        # A key copied by hand often comes without the line end.
        key = SigningKey.from_text(data.decode().removesuffix("\n"))
    except (UnicodeDecodeError, Malformed) as fault:
        raise KeyUnavailable(f"{path}: the signing key is damaged: {fault}") from None
    if name is not None and key.name != name:
        raise KeyUnavailable(f"{path}: found a key of {key.name}, expected one of {name}")
    return key
