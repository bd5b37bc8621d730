"""A checkpoint is what a log has signed, and a rotation what both of its keys have."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from indelible.checkpoint import Checkpoint, Rotation, cosign
from indelible.errors import CallerError, InvalidSignature, Malformed
from indelible.keys import SigningKey
from indelible.merkle import EMPTY_ROOT, leaf_hash
from indelible.note import COSIGNATURE, MAX_DECIMAL, Note, VerifierKey

LOG = SigningKey.from_seed("audit.example.com/prod", bytes(range(32)))
NEXT = SigningKey.from_seed("audit.example.com/prod", bytes(range(1, 33)))
OTHER = SigningKey.from_seed("audit.example.com/test", bytes(range(2, 34)))
WITNESS = SigningKey.from_seed("witness.example.com/w1", bytes(range(32, 64)))
WITNESS_KEY = replace(WITNESS.verifier, type=COSIGNATURE)
ROOT = leaf_hash(b"entry")
B64 = b64encode(ROOT).decode()
CHECKPOINT = Checkpoint(origin=LOG.name, size=1, root=ROOT)
ROTATION = Rotation(origin=LOG.name, old=LOG.verifier, new=NEXT.verifier, size=1, root=ROOT)


def signed(text: str, *signers: SigningKey) -> bytes:
    """Write a note with this text and the signatures of all *signers*."""
    return Note(text=text, signatures=tuple(each.sign(text) for each in signers)).to_bytes()


def test_a_checkpoint_is_three_lines() -> None:
    """Origin, size and root are signed, and nothing else."""
    assert f"{LOG.name}\n1\n{B64}\n" == CHECKPOINT.to_text()
    assert CHECKPOINT == Checkpoint.from_text(CHECKPOINT.to_text())


def test_a_signed_checkpoint_opens_to_what_was_signed() -> None:
    """Whoever knows the log's key gets its checkpoint."""
    note = CHECKPOINT.sign(LOG)

    assert CHECKPOINT == Checkpoint.open(note.to_bytes(), [LOG.verifier])
    assert CHECKPOINT == Checkpoint.open(note.to_bytes(), [OTHER.verifier, LOG.verifier])


def test_a_checkpoint_without_a_known_signature_does_not_open() -> None:
    """Nothing is read from a note that no known key has signed."""
    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        Checkpoint.open(CHECKPOINT.sign(LOG).to_bytes(), [NEXT.verifier])


def test_a_log_cannot_sign_for_another_log() -> None:
    """The origin must be the name of a key that has signed, however well it is known."""
    note = signed(CHECKPOINT.to_text(), OTHER)

    with pytest.raises(
        InvalidSignature, match=f"found signatures by {OTHER.name}, expected {LOG.name}"
    ):
        Checkpoint.open(note, [LOG.verifier, OTHER.verifier])
    with pytest.raises(CallerError, match=f"found a key of {OTHER.name}"):
        CHECKPOINT.sign(OTHER)


def test_a_witness_cannot_sign_for_a_log() -> None:
    """A cosignature alone makes no checkpoint, not even under the name of the log."""
    text = CHECKPOINT.to_text()
    namesake = replace(NEXT.verifier, type=COSIGNATURE)
    note = Note(text=text, signatures=(cosign(text, WITNESS, time=0), cosign(text, NEXT, time=0)))

    with pytest.raises(InvalidSignature, match=f"expected {LOG.name}"):
        Checkpoint.open(note.to_bytes(), [LOG.verifier, WITNESS_KEY, namesake])


def test_a_cosigned_checkpoint_opens_with_and_without_the_witness() -> None:
    """A cosignature is checked by those who know the witness, and ignored by the others."""
    text = CHECKPOINT.to_text()
    note = Note(
        text=text, signatures=(LOG.sign(text), cosign(text, WITNESS, time=1764000000))
    ).to_bytes()

    assert CHECKPOINT == Checkpoint.open(note, [LOG.verifier])
    assert CHECKPOINT == Checkpoint.open(note, [LOG.verifier, WITNESS_KEY])
    assert (LOG.verifier, WITNESS_KEY) == Note.from_bytes(note).verify([WITNESS_KEY, LOG.verifier])


@pytest.mark.parametrize("time", [-1, MAX_DECIMAL + 1])
def test_a_cosignature_needs_a_time_that_can_be_written(time: int) -> None:
    """A time is seconds since 1970."""
    with pytest.raises(CallerError, match=f"found time {time}"):
        cosign(CHECKPOINT.to_text(), WITNESS, time=time)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        f"{LOG.name}\n1\n{B64}",
        f"{LOG.name}\n1\n{B64}\n\n",
        f"{LOG.name}\n1\n{B64}\nextension\n",
        f"{LOG.name}\n1\n",
        f"\n1\n{B64}\n",
        f"{LOG.name}\r\n1\r\n{B64}\r\n",
        f"{LOG.name}\u20281\u2028{B64}\u2028",
        f"{LOG.name} \n1\n{B64}\n",
        f"{LOG.name}+x\n1\n{B64}\n",
        f"{LOG.name}\n01\n{B64}\n",
        f"{LOG.name}\n 1\n{B64}\n",
        f"{LOG.name}\n-1\n{B64}\n",
        f"{LOG.name}\n1_0\n{B64}\n",
        f"{LOG.name}\n\uff11\n{B64}\n",
        f"{LOG.name}\n{MAX_DECIMAL + 1}\n{B64}\n",
        f"{LOG.name}\n1\n{B64[:-1]}\n",
        f"{LOG.name}\n1\n{B64[:-4]}\n",
        f"{LOG.name}\n1\n{B64} \n",
        f"{LOG.name}\n0\n{B64}\n",
    ],
)
def test_what_is_not_exactly_a_checkpoint_is_refused(text: str) -> None:
    """There is one way to write a checkpoint, and nothing else is read as one."""
    with pytest.raises(Malformed):
        Checkpoint.from_text(text)


def test_signed_text_that_is_no_checkpoint_does_not_open() -> None:
    """A signature does not make a checkpoint of a text."""
    with pytest.raises(Malformed, match="found 4 lines, expected 3"):
        Checkpoint.open(signed(f"{CHECKPOINT.to_text()}extension\n", LOG), [LOG.verifier])
    with pytest.raises(Malformed, match="found 6 lines, expected 3"):
        Checkpoint.open(signed(ROTATION.to_text(), LOG), [LOG.verifier])


@pytest.mark.parametrize(
    ("size", "root"),
    [(-1, ROOT), (MAX_DECIMAL + 1, ROOT), (1, ROOT[:-1]), (1, b""), (0, ROOT)],
)
def test_a_checkpoint_of_no_tree_cannot_be_built(size: int, root: bytes) -> None:
    """Sizes are numbers, roots are hashes, and the empty tree has one root."""
    with pytest.raises(CallerError, match="checkpoint: found"):
        Checkpoint(origin=LOG.name, size=size, root=root)
    with pytest.raises(CallerError, match="rotation: found"):
        replace(ROTATION, size=size, root=root)


def test_the_empty_tree_has_a_checkpoint() -> None:
    """A log can be shown to have begun with nothing."""
    empty = Checkpoint(origin=LOG.name, size=0, root=EMPTY_ROOT)

    assert empty == Checkpoint.open(empty.sign(LOG).to_bytes(), [LOG.verifier])


def test_a_rotation_names_both_keys_and_the_tree() -> None:
    """What both keys sign is exactly as specified."""
    keys = f"{LOG.verifier.to_text()}\n{NEXT.verifier.to_text()}"
    expected = f"indelible/rotation/1\n{LOG.name}\n{keys}\n1\n{B64}\n"

    assert expected == ROTATION.to_text()
    assert ROTATION == Rotation.from_text(expected)


def test_a_rotation_signed_by_both_keys_opens() -> None:
    """Whoever trusts the old key learns the new one."""
    note = ROTATION.sign(LOG, NEXT)

    assert ROTATION == Rotation.open(note.to_bytes(), LOG.verifier)


@pytest.mark.parametrize("signer", [LOG, NEXT])
def test_a_rotation_signed_by_one_key_does_not_open(signer: SigningKey) -> None:
    """Neither key alone can hand over the log."""
    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        Rotation.open(signed(ROTATION.to_text(), signer), LOG.verifier)


def test_a_rotation_away_from_another_key_does_not_open() -> None:
    """A later key cannot rewrite how it came to be trusted."""
    third = SigningKey.from_seed(LOG.name, bytes(32))
    rotation = replace(ROTATION, old=third.verifier)

    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        Rotation.open(rotation.sign(third, NEXT).to_bytes(), LOG.verifier)
    with pytest.raises(InvalidSignature, match="found old key"):
        Rotation.open(signed(rotation.to_text(), LOG, third, NEXT), LOG.verifier)


def test_a_rotation_is_signed_by_its_own_keys_in_order() -> None:
    """Signers that are not the two keys of the rotation are refused."""
    for old, new in ((NEXT, LOG), (LOG, LOG), (OTHER, NEXT)):
        with pytest.raises(CallerError, match="found other signers"):
            ROTATION.sign(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (LOG.verifier, LOG.verifier),
        (OTHER.verifier, NEXT.verifier),
        (LOG.verifier, OTHER.verifier),
        (LOG.verifier, replace(NEXT.verifier, type=COSIGNATURE)),
    ],
)
def test_a_rotation_leads_from_one_key_of_a_log_to_another(
    old: VerifierKey, new: VerifierKey
) -> None:
    """Both keys bear the origin's name, and they differ."""
    with pytest.raises(CallerError, match=f"rotation of {LOG.name}: found"):
        replace(ROTATION, old=old, new=new)
    with pytest.raises(Malformed, match=f"rotation of {LOG.name}: found"):
        Rotation.from_text(
            ROTATION.to_text()
            .replace(NEXT.verifier.to_text(), new.to_text())
            .replace(LOG.verifier.to_text(), old.to_text())
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        CHECKPOINT.to_text(),
        ROTATION.to_text()[:-1],
        f"{ROTATION.to_text()}\n",
        ROTATION.to_text().replace("rotation/1", "rotation/2"),
        ROTATION.to_text().replace("\n1\n", "\n01\n"),
        ROTATION.to_text().replace("=\n", "\n"),
        ROTATION.to_text().replace("+175a851d", "+175A851D"),
    ],
)
def test_what_is_not_exactly_a_rotation_is_refused(text: str) -> None:
    """There is one way to write a rotation, and nothing else is read as one."""
    with pytest.raises(Malformed):
        Rotation.from_text(text)
