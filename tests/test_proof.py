"""A proof shows, without the log, that the log holds an entry."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from indelible.checkpoint import Checkpoint
from indelible.errors import CallerError, InvalidProof, InvalidSignature, Malformed
from indelible.keys import SigningKey
from indelible.merkle import leaf_hash, node_hash, root_of
from indelible.note import Note
from indelible.proof import Proof

LOG = SigningKey.from_seed("audit.example.com/prod", bytes(range(32)))
OTHER = SigningKey.from_seed("audit.example.com/test", bytes(range(32, 64)))
ENTRIES = [b"alpha", b"beta", b"gamma", b"delta", b"epsilon"]
LEAVES = [leaf_hash(each) for each in ENTRIES]
CHECKPOINT = Checkpoint(origin=LOG.name, size=5, root=root_of(LEAVES))
NOTE = CHECKPOINT.sign(LOG).to_bytes()
PROOF = Proof(index=4, hashes=(root_of(LEAVES[:4]),), checkpoint=NOTE)
DATA = PROOF.to_bytes()


def test_a_proof_is_exactly_as_specified() -> None:
    """Title, index, hashes, an empty line and the checkpoint as it was published."""
    expected = (
        f"c2sp.org/tlog-proof@v1\nindex 4\n{b64encode(PROOF.hashes[0]).decode()}\n\n".encode()
        + NOTE
    )

    assert expected == DATA
    assert PROOF == Proof.from_bytes(expected)


def test_a_proof_of_the_only_entry_has_no_hashes() -> None:
    """The empty proof is a proof."""
    note = Checkpoint(origin=LOG.name, size=1, root=LEAVES[0]).sign(LOG).to_bytes()
    proof = Proof(index=0, hashes=(), checkpoint=note)

    assert b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + note == proof.to_bytes()
    assert proof == Proof.from_bytes(proof.to_bytes())
    assert 1 == proof.verify(ENTRIES[0], [LOG.verifier]).size


def test_a_proof_holds_for_its_entry() -> None:
    """Who has entry, proof and verifier key gets the checkpoint that proves it."""
    assert CHECKPOINT == PROOF.verify(b"epsilon", [LOG.verifier])
    assert CHECKPOINT == PROOF.verify(b"epsilon", [LOG.verifier], index=4)


def test_a_proof_holds_for_no_other_entry() -> None:
    """No byte of a proven entry can be changed."""
    with pytest.raises(InvalidProof, match="found root"):
        PROOF.verify(b"epsilom", [LOG.verifier])


def test_a_proof_for_another_index_is_refused() -> None:
    """Whoever asked for one entry is not given another."""
    with pytest.raises(InvalidProof, match="found one for index 4, expected 3"):
        PROOF.verify(b"epsilon", [LOG.verifier], index=3)


def test_the_size_comes_from_the_checkpoint() -> None:
    """A path that would fit at another place of a smaller tree is refused."""
    with pytest.raises(InvalidProof, match="inclusion proof of 1 in 5"):
        replace(PROOF, index=1).verify(b"epsilon", [LOG.verifier])
    with pytest.raises(InvalidProof, match="inclusion proof of 5 in 5"):
        replace(PROOF, index=5).verify(b"epsilon", [LOG.verifier])


def test_a_node_is_not_proven_as_an_entry() -> None:
    """What the tree hashes above its leaves cannot be passed off as an entry."""
    left, right = root_of(LEAVES[:2]), root_of(LEAVES[2:4])
    inner = replace(PROOF, index=0, hashes=(LEAVES[4],))

    assert node_hash(left, right) == PROOF.hashes[0]
    with pytest.raises(InvalidProof):
        inner.verify(left + right, [LOG.verifier])


def test_a_proof_without_a_known_signature_proves_nothing() -> None:
    """A tree that the log has not signed is anyone's tree."""
    text = CHECKPOINT.to_text()
    forged = Note(text=text, signatures=(OTHER.sign(text),)).to_bytes()

    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        PROOF.verify(b"epsilon", [OTHER.verifier])
    with pytest.raises(InvalidSignature, match=f"expected {LOG.name}"):
        replace(PROOF, checkpoint=forged).verify(b"epsilon", [LOG.verifier, OTHER.verifier])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        NOTE,
        DATA[:-1],
        DATA + b"\n",
        DATA.replace(b"proof@v1", b"proof@v2"),
        DATA.replace(b"proof@v1", b"proof@v1\nextra AAAA"),
        DATA.replace(b"index 4", b"index 04"),
        DATA.replace(b"index 4", b"index  4"),
        DATA.replace(b"index 4", b"index -4"),
        DATA.replace(b"index 4", b"index 9223372036854775808"),
        DATA.replace(b"index 4", "index \uff14".encode()),
        DATA.replace(b"index 4", b"Index 4"),
        DATA.replace(b"index 4\n", b""),
        DATA.replace(b"index 4\n", b"index 4\r\n"),
        DATA.replace(b"=\n\naudit", b"\n\naudit"),
        DATA.replace(b"=\n\naudit", b"=\n \naudit"),
        DATA.replace(b"=\n\naudit", b"=\naudit"),
        DATA.replace(b"index 4\n", b"index 4\n\n"),
        DATA.replace(b"index 4\n", b"index 4\nAAAA\n"),
        DATA.replace(b"index 4\n", b"index 4\n" + b64encode(bytes(32)) * 64),
        DATA.replace(b"index 4\n", b"index 4\n" + (b64encode(bytes(32)) + b"\n") * 63),
        DATA.replace(b"prod\n5\n", b"prod\n05\n"),
    ],
)
def test_what_is_not_exactly_a_proof_is_refused(data: bytes) -> None:
    """There is one way to write a proof, and nothing else is read as one."""
    with pytest.raises(Malformed):
        Proof.from_bytes(data)


@pytest.mark.parametrize(
    ("index", "hashes"), [(-1, ()), (2**63, ()), (0, (bytes(31),)), (0, (bytes(32),) * 64)]
)
def test_a_proof_that_cannot_be_written_cannot_be_built(
    index: int, hashes: tuple[bytes, ...]
) -> None:
    """Numbers and hashes are in range, and no tree is higher than 63 levels."""
    with pytest.raises(CallerError, match="proof: found"):
        Proof(index=index, hashes=hashes, checkpoint=NOTE)


def test_a_proof_leads_to_a_checkpoint() -> None:
    """Bytes that are no checkpoint cannot be made part of a proof."""
    with pytest.raises(Malformed):
        Proof(index=0, hashes=(), checkpoint=b"no note")
