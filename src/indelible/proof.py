"""
Proofs that stand alone: one file shows that a log holds an entry.

Follows c2sp.org/tlog-proof@v1, without extra data. Whoever has the entry, the
proof and the log's verifier key needs neither the log nor a network, today or in
ten years.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indelible.checkpoint import Checkpoint
from indelible.errors import CallerError, InvalidProof, Malformed
from indelible.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from indelible.note import MAX_DECIMAL, Note, parse_base64, parse_decimal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from indelible.note import VerifierKey

_TITLE = "c2sp.org/tlog-proof@v1"
_MAX_HASHES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """
    An inclusion proof with the checkpoint that it leads to.

    Args:
        index: Where the entry is said to be.
        hashes: The sibling of the leaf first.
        checkpoint: The bytes of the signed checkpoint, as they were published.

    Raises:
        CallerError: The index or a hash is out of range.
        Malformed: The checkpoint is none.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_DECIMAL:
            raise CallerError(f"proof: found index {self.index}, expected 0 to {MAX_DECIMAL}")
        if len(self.hashes) > _MAX_HASHES:
            raise CallerError(
                f"proof: found {len(self.hashes)} hashes, expected at most {_MAX_HASHES}"
            )
        if any(len(each) != HASH_SIZE for each in self.hashes):
            raise CallerError(f"proof: found a hash that has not {HASH_SIZE} bytes")
        Checkpoint.from_text(Note.from_bytes(self.checkpoint).text)

    @classmethod
    def from_bytes(cls, data: bytes) -> Proof:
        """
        Read a proof; nothing in it is verified yet.

        Raises:
            Malformed: These bytes are not exactly a proof.
        """
        head, _, checkpoint = data.partition(b"\n\n")
        try:
            title, index, *hashes = head.decode("ascii").split("\n")
        except ValueError:
            raise Malformed("proof: found no title and index in ASCII") from None
        if title != _TITLE:
            raise Malformed(f"proof: found {title[:32]!r}, expected {_TITLE!r}")
        if not index.startswith("index "):
            raise Malformed(f"proof: found {index[:32]!r}, expected an index")
        try:
            return cls(
                index=parse_decimal(index.removeprefix("index "), what="proof index"),
                hashes=tuple(parse_base64(each, what="proof hash") for each in hashes),
                checkpoint=checkpoint,
            )
        except CallerError as fault:
            raise Malformed(str(fault)) from None

    def to_bytes(self) -> bytes:
        """Write title, index, hashes, an empty line and the checkpoint as it is."""
        lines = [_TITLE, f"index {self.index}", *(b64encode(each).decode() for each in self.hashes)]
        return "\n".join([*lines, "\n"]).encode() + self.checkpoint

    def verify(
        self, entry: bytes, keys: Iterable[VerifierKey], *, index: int | None = None
    ) -> Checkpoint:
        """
        Check that the log holds *entry*, and return the checkpoint that says so.

        Args:
            entry: Its exact bytes.
            keys: Those of the log and of witnesses that are known.
            index: Where the entry must be. Without it the proof's own index is
                believed: then the entry is in the log, but perhaps elsewhere.

        Raises:
            Malformed: The checkpoint is not exactly one.
            InvalidSignature: The log has not signed the checkpoint.
            InvalidProof: The proof is for another index or does not lead from
                this entry to the root.
        """
        checkpoint = Checkpoint.open(self.checkpoint, keys)
        if index is not None and index != self.index:
            raise InvalidProof(f"proof: found one for index {self.index}, expected {index}")
        verify_inclusion(
            leaf_hash(entry), self.index, checkpoint.size, self.hashes, checkpoint.root
        )
        return checkpoint
