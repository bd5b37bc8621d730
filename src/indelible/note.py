"""
Signed notes: a text with signatures that anyone can check and nobody can mistake.

Follows c2sp.org/signed-note; for witnesses, the Ed25519 cosignatures of
c2sp.org/tlog-cosignature. A note is the only thing that Indelible signs, so
every promise it makes can be read by a person and verified by other tools.

`parse_base64` and `parse_decimal` are the two notations that occur in the text
of notes, here for the formats that are built on them.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature as _WrongSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from indelible.errors import CallerError, InvalidSignature, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

ED25519 = 0x01
"""A signature over the text of the note."""

COSIGNATURE = 0x04
"""A witness's signature over the text and the time at which it saw it."""

MAX_NOTE = 1 << 20
"""The largest note in bytes."""

MAX_SIGNATURES = 100
"""The most signature lines of a note; one may hold strangers' signatures."""

MAX_DECIMAL = 2**63 - 1
"""The largest number in a note."""

_KEY_ID_SIZE = 4
_PUBLIC_SIZE = 32
_TIME_SIZE = 8

# Surrogates are what a Python string may hold and UTF-8 may not.
_NOT_IN_NOTES = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_KEY_NAME = re.compile("[^\\s+\x00-\x1f\ud800-\udfff]+")
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """
    One signature line of a note: whose, by which key, and the signature.

    Raises:
        CallerError: A part could not stand in a note.
    """

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.key_id) != _KEY_ID_SIZE:
            raise CallerError(f"key id: found {len(self.key_id)} bytes, expected {_KEY_ID_SIZE}")
        if not self.signature:
            raise CallerError(f"signature of {self.name}: found nothing")

    @classmethod
    def from_text(cls, line: str) -> Signature:
        """
        Read a signature line without its line end.

        Raises:
            Malformed: It is not an exact signature line.
        """
        mark, name, encoded = _split(line, " ", "signature line")
        if mark != "—":
            raise Malformed(f"signature line: found {mark!r}, expected an em dash")
        data = parse_base64(encoded, what=f"signature of {name!r}")
        try:
            return cls(name=name, key_id=data[:_KEY_ID_SIZE], signature=data[_KEY_ID_SIZE:])
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_text(self) -> str:
        """Write the signature line without its line end."""
        return f"— {self.name} {_base64(self.key_id + self.signature)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """
    The public key of a signer, under the name by which it is known.

    Args:
        type: What is signed, `ED25519` or `COSIGNATURE`; the keys of both are
            Ed25519 keys.
        public: The 32 bytes of the key.

    Raises:
        CallerError: A part is not that of a key.
    """

    name: str
    type: int
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if self.type not in {ED25519, COSIGNATURE}:
            raise CallerError(
                f"key of {self.name}: found type {self.type:#04x}, expected 0x01 or 0x04"
            )
        if len(self.public) != _PUBLIC_SIZE:
            raise CallerError(
                f"key of {self.name}: found {len(self.public)} bytes, expected {_PUBLIC_SIZE}"
            )

    @classmethod
    def from_text(cls, text: str) -> VerifierKey:
        """
        Read ``<name>+<key id in hex>+<base64 of type and key>``.

        Raises:
            Malformed: It is not an exact verifier key of a known type.
        """
        name, _, encoded = _split(text, "+", "verifier key")
        data = parse_base64(encoded, what=f"verifier key of {name!r}")
        try:
            key = cls(name=name, type=data[0] if data else 0, public=data[1:])
        except CallerError as fault:
            raise Malformed(str(fault)) from None
        if key.to_text() != text:
            raise Malformed(
                f"verifier key of {name}: found another key id, expected {key.key_id.hex()}"
            )
        return key

    def to_text(self) -> str:
        """Write ``<name>+<key id in hex>+<base64 of type and key>``."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(bytes([self.type]) + self.public)}"

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys of one name apart; they prove nothing."""
        named = self.name.encode() + b"\n" + bytes([self.type]) + self.public
        return hashlib.sha256(named).digest()[:_KEY_ID_SIZE]

    def verify(self, text: bytes, signature: bytes) -> None:
        """
        Check the *signature* of this key over the *text* of a note.

        Args:
            signature: Without the key id.

        Raises:
            InvalidSignature: It is not this key's signature over this text.
        """
        signed = text
        if self.type == COSIGNATURE:
            time, signature = int.from_bytes(signature[:_TIME_SIZE]), signature[_TIME_SIZE:]
            if time > MAX_DECIMAL:
                raise InvalidSignature(
                    f"cosignature of {self.name}: found time {time}, out of range"
                )
            signed = cosigned(text, time=time)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, signed)
        except _WrongSignature:
            raise InvalidSignature(
                f"signature of {self.name}+{self.key_id.hex()} is wrong"
            ) from None


def cosigned(text: bytes, *, time: int) -> bytes:
    """Return what a witness signs when it has seen *text* at *time* (POSIX seconds)."""
    return b"cosignature/v1\ntime %d\n" % time + text


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """
    A text and the signatures under it, which may or may not be valid.

    Nothing may be concluded from the text before `verify` has returned.

    Raises:
        CallerError: The text or the number of signatures is not that of a note.
    """

    text: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n"):
            raise CallerError("note: found a text that does not end with a line end")
        if found := _NOT_IN_NOTES.search(self.text):
            raise CallerError(f"note: found {found.group()!r} in the text")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise CallerError(
                f"note: found {len(self.signatures)} signatures, expected 1 to {MAX_SIGNATURES}"
            )
        if len(self.to_bytes()) > MAX_NOTE:
            raise CallerError(f"note: found more than {MAX_NOTE} bytes")

    @classmethod
    def from_bytes(cls, data: bytes) -> Note:
        """
        Read a note.

        Raises:
            Malformed: These bytes are not exactly a note.
        """
        if len(data) > MAX_NOTE:
            raise Malformed(f"note: found {len(data)} bytes, expected at most {MAX_NOTE}")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise Malformed("note: found bytes that are not UTF-8") from None
        # The text may hold empty lines of its own, the signatures may not.
        text, separator, lines = whole.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise Malformed("note: found no signature lines after an empty line")
        if lines.count("\n") > MAX_SIGNATURES:
            raise Malformed(f"note: found more than {MAX_SIGNATURES} signatures")
        signatures = tuple(Signature.from_text(line) for line in lines[:-1].split("\n"))
        try:
            return cls(text=f"{text}\n", signatures=signatures)
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_bytes(self) -> bytes:
        """Write the text, an empty line and the signature lines."""
        lines = "".join(f"{each.to_text()}\n" for each in self.signatures)
        return f"{self.text}\n{lines}".encode()

    def verify(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """
        Check every signature by one of *keys* and return the keys that signed.

        Signatures by other keys are ignored: whoever cosigns a note must not
        make it unreadable for those who do not know the cosigner.

        Raises:
            InvalidSignature: A signature by one of the keys is wrong, or there
                is none.
            CallerError: Two of the keys cannot be told apart.
        """
        known = _by_name_and_id(keys)
        text = self.text.encode()
        signed: dict[VerifierKey, None] = {}
        for each in self.signatures:
            if key := known.get((each.name, each.key_id)):
                key.verify(text, each.signature)
                signed[key] = None
        if not signed:
            names = ", ".join(f"{name}+{key_id.hex()}" for name, key_id in known) or "no key at all"
            raise InvalidSignature(
                f"note: found no signature by a known key, expected one by {names}"
            )
        return tuple(signed)


def check_key_name(name: str) -> None:
    """
    Check that *name* can be that of a key: not empty, no space, no plus sign.

    Raises:
        CallerError: It cannot.
    """
    if not _KEY_NAME.fullmatch(name):
        raise CallerError(
            f"key name: found {name!r}, expected no space, control character or plus sign"
        )


def parse_base64(text: str, *, what: str) -> bytes:
    """
    Read canonical standard base64; *what* names it in the error.

    Raises:
        Malformed: Another text stands for these bytes, or it is not base64.
    """
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        raise Malformed(f"{what}: found no base64") from None
    # The decoder ignores trailing bits: 64 texts would stand for one value.
    if _base64(data) != text:
        raise Malformed(f"{what}: found base64 that is not canonical")
    return data


def parse_decimal(text: str, *, what: str) -> int:
    """
    Read a number as it is written by ``str``; *what* names it in the error.

    Raises:
        Malformed: It is written otherwise, or larger than `MAX_DECIMAL`.
    """
    # int() alone also takes "1_0", " 5 ", "+5", "05" and digits of other scripts.
    if not _DECIMAL.fullmatch(text) or (number := int(text)) > MAX_DECIMAL:
        raise Malformed(
            f"{what}: found {text[:32]!r}, expected a decimal number up to {MAX_DECIMAL}"
        )
    return number


def _split(text: str, separator: str, what: str) -> tuple[str, str, str]:
    try:
        first, second, rest = text.split(separator, 2)
    except ValueError:
        # Not shown: people paste private keys where public ones are asked for.
        raise Malformed(f"{what}: expected three parts separated by {separator!r}") from None
    return first, second, rest


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _by_name_and_id(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        # Four bytes of hash can be made to collide on purpose.
        if known.setdefault((key.name, key.key_id), key) != key:
            raise CallerError(
                f"keys: found two different ones called {key.name}+{key.key_id.hex()}"
            )
    return known
