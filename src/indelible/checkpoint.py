"""
Checkpoints, the signed statements of what a log held, and key rotations.

Follows c2sp.org/tlog-checkpoint without extension lines, c2sp.org/tlog-cosignature
for witnesses, and ``indelible/rotation/1`` for the note by which a log changes
its key. Size and root of a tree are only ever taken from here, after the
signature was verified.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from indelible.errors import CallerError, InvalidSignature, Malformed
from indelible.merkle import EMPTY_ROOT, HASH_SIZE
from indelible.note import (
    COSIGNATURE,
    ED25519,
    MAX_DECIMAL,
    Note,
    Signature,
    VerifierKey,
    check_key_name,
    cosigned,
    parse_base64,
    parse_decimal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from indelible.keys import Signer

_ROTATION = "indelible/rotation/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """
    What a log says it held: its first *size* entries have this *root*.

    Raises:
        CallerError: The origin cannot be the name of a key, or no tree has this
            size and root.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_key_name(self.origin)
        _check_tree("checkpoint", self.size, self.root)

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """
        Read the text of a checkpoint note; it says nothing about the signature.

        Raises:
            Malformed: It is not exactly origin, size and root.
        """
        origin, size, root = _lines(text, 3, "checkpoint")
        try:
            return cls(
                origin=origin,
                size=parse_decimal(size, what="checkpoint size"),
                root=parse_base64(root, what="checkpoint root"),
            )
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_text(self) -> str:
        """Write the text of a checkpoint note: what is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    def sign(self, signer: Signer) -> Note:
        """
        Put the signature of the log under this checkpoint.

        Raises:
            CallerError: The signer is that of another log.
        """
        _check_owner("checkpoint", self.origin, signer.verifier)
        text = self.to_text()
        return Note(text=text, signatures=(signer.sign(text),))

    @classmethod
    def open(cls, note: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
        """
        Verify a checkpoint note, then read it.

        Whether enough witnesses have cosigned is for a trust policy to say.

        Args:
            keys: Those of the log and of witnesses that are known.

        Raises:
            Malformed: These bytes are not exactly a checkpoint note.
            InvalidSignature: A known key's signature is wrong, or the log whose
                origin stands in the checkpoint has not signed it.
        """
        signed = Note.from_bytes(note)
        signers = signed.verify(keys)
        checkpoint = cls.from_text(signed.text)
        # The key of one log must not vouch for another, nor a witness for a log.
        if not any(key.name == checkpoint.origin and key.type == ED25519 for key in signers):
            names = ", ".join(key.name for key in signers)
            raise InvalidSignature(
                f"checkpoint: found signatures by {names}, expected {checkpoint.origin}"
            )
        return checkpoint


def cosign(text: str, signer: Signer, *, time: int) -> Signature:
    """
    Sign as a witness that the checkpoint with this *text* was seen at *time*.

    The caller has verified that it is consistent with what was seen before.

    Args:
        text: That of the note, exactly as it was received.
        time: POSIX seconds.

    Raises:
        CallerError: The time cannot be written.
    """
    if not 0 <= time <= MAX_DECIMAL:
        raise CallerError(f"cosignature: found time {time}, expected 0 to {MAX_DECIMAL}")
    signed = signer.sign(cosigned(text.encode(), time=time))
    # The same key has another id when it cosigns, so that its two kinds of
    # signature cannot be taken for each other.
    key = replace(signer.verifier, type=COSIGNATURE)
    return replace(signed, key_id=key.key_id, signature=time.to_bytes(8) + signed.signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """
    The handover of a log from one key to the next, at a size and root.

    The *old* key signs nothing larger than *size*, the *new* one nothing
    smaller; so whoever gets hold of today's key cannot sign another past.

    Raises:
        CallerError: The keys are not two of this origin, or no tree has this
            size and root.
    """

    origin: str
    old: VerifierKey
    new: VerifierKey
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _check_owner("rotation", self.origin, self.old)
        _check_owner("rotation", self.origin, self.new)
        if self.old == self.new:
            raise CallerError(f"rotation of {self.origin}: found the old key as the new one")
        _check_tree("rotation", self.size, self.root)

    @classmethod
    def from_text(cls, text: str) -> Rotation:
        """
        Read the text of a rotation note; it says nothing about the signatures.

        Raises:
            Malformed: It is not exactly a rotation.
        """
        title, origin, old, new, size, root = _lines(text, 6, "rotation")
        if title != _ROTATION:
            raise Malformed(f"rotation: found {title!r}, expected {_ROTATION!r}")
        try:
            return cls(
                origin=origin,
                old=VerifierKey.from_text(old),
                new=VerifierKey.from_text(new),
                size=parse_decimal(size, what="rotation size"),
                root=parse_base64(root, what="rotation root"),
            )
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_text(self) -> str:
        """Write the text of a rotation note: what both keys sign."""
        keys = f"{self.old.to_text()}\n{self.new.to_text()}"
        return f"{_ROTATION}\n{self.origin}\n{keys}\n{self.size}\n{b64encode(self.root).decode()}\n"

    def sign(self, old: Signer, new: Signer) -> Note:
        """
        Put the signatures of both keys under this rotation.

        Raises:
            CallerError: The signers are not those of the two keys.
        """
        if (old.verifier, new.verifier) != (self.old, self.new):
            raise CallerError(
                f"rotation of {self.origin}: found other signers than its old and new key"
            )
        text = self.to_text()
        return Note(text=text, signatures=(old.sign(text), new.sign(text)))

    @classmethod
    def open(cls, note: bytes, old: VerifierKey) -> Rotation:
        """
        Verify a rotation away from the *old* key, which is trusted, and read it.

        Raises:
            Malformed: These bytes are not exactly a rotation note.
            InvalidSignature: Not both of the keys have signed it, or it rotates
                away from another key.
        """
        signed = Note.from_bytes(note)
        signed.verify([old])
        # The new key stands in the text that the old one has signed.
        rotation = cls.from_text(signed.text)
        if rotation.old != old:
            raise InvalidSignature(
                f"rotation: found old key {rotation.old.to_text()}, expected {old.to_text()}"
            )
        signed.verify([rotation.new])
        return rotation


def handed_over(key: VerifierKey, rotations: Iterable[bytes]) -> list[VerifierKey]:
    """
    Return *key* and those that it handed its log over to, as the *rotations* say, in order.

    Raises:
        Malformed, InvalidSignature: A note is no rotation, or not from the key before it.
    """
    keys = [key]
    for note in rotations:
        keys.append(Rotation.open(note, keys[-1]).new)
    return keys


def _lines(text: str, count: int, what: str) -> list[str]:
    # Not splitlines(), which also splits at U+2028, U+0085 and others.
    *lines, rest = text.split("\n")
    if len(lines) != count or rest:
        raise Malformed(f"{what}: found {len(lines)} lines, expected {count}")
    return lines


def _check_tree(what: str, size: int, root: bytes) -> None:
    if not 0 <= size <= MAX_DECIMAL:
        raise CallerError(f"{what}: found size {size}, expected 0 to {MAX_DECIMAL}")
    if len(root) != HASH_SIZE:
        raise CallerError(f"{what}: found a root of {len(root)} bytes, expected {HASH_SIZE}")
    if size == 0 and root != EMPTY_ROOT:
        raise CallerError(f"{what}: found root {root.hex()} at size 0, expected {EMPTY_ROOT.hex()}")


def _check_owner(what: str, origin: str, key: VerifierKey) -> None:
    if (key.name, key.type) != (origin, ED25519):
        raise CallerError(f"{what} of {origin}: found a key of {key.name}, type {key.type:#04x}")
