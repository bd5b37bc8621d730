"""Other tools, and the specification, come to the same bytes."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indelible.checkpoint import Checkpoint, cosign
from indelible.errors import InvalidProof
from indelible.keys import SigningKey
from indelible.merkle import Edge, leaf_hash, root_of, verify_consistency, verify_inclusion
from indelible.note import COSIGNATURE, Note, VerifierKey
from indelible.proof import Proof
from indelible.tiles import decode_bundle, encode_bundle, entries_path, tile_path, tiles_of

VECTORS = Path(__file__).parents[2] / "shared/vectors"

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="the public vectors are not in shared/vectors"
)


def test_the_worked_example_of_the_specification_is_reproduced() -> None:
    """From the seeds and entries of the specification follow all of its bytes."""
    log = SigningKey.from_seed("audit.example.com/prod", bytes(range(32)))
    witness = SigningKey.from_seed("witness.example.com/w1", bytes(range(32, 64)))
    witness_key = replace(witness.verifier, type=COSIGNATURE)
    entries = [b"alpha", b"beta", b"gamma"]
    leaves = [leaf_hash(each) for each in entries]

    checkpoint = Checkpoint(origin=log.name, size=3, root=root_of(leaves))
    text = checkpoint.to_text()
    note = Note(
        text=text, signatures=(log.sign(text), cosign(text, witness, time=1764000000))
    ).to_bytes()
    proof = Proof(index=2, hashes=(root_of(leaves[:2]),), checkpoint=note)

    assert "0005616c706861000462657461000567616d6d61" == encode_bundle(entries).hex()
    assert (
        "983cb57c04cddd52634edab38a7bef85708a974f114bbd9aa9ec5d4ce6656b4b"
        == root_of(leaves[:2]).hex()
    )
    assert (
        "385da30f3917282c8939dff851957e519ab1846b1351a14c0adb3b11632742aa" == root_of(leaves).hex()
    )
    assert (
        "audit.example.com/prod+175a851d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
        == log.verifier.to_text()
    )
    assert (
        "witness.example.com/w1+969980cf+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
        == witness_key.to_text()
    )
    assert (
        "audit.example.com/prod\n"
        "3\n"
        "OF2jDzkXKCyJOd/4UZV+UZqxhGsTUaFMCts7EWMnQqo=\n"
        "\n"
        "— audit.example.com/prod F1qFHStpuKN49/sLo3Oa/Uf44WqDi+qYfgRSC+1a0zruNWUHaYOHrn36"
        "FwclDyUU4Ohsyg8Khb7ifFcwugeoTZ7HrAc=\n"
        "— witness.example.com/w1 lpmAzwAAAABpJIEAWR2W/Vc0kLtwKA2tYIWRn89QbMBXBb/8MtB2SiCW"
        "WzSDEY27icVNp1kc0j/xIUyyK/H5dVe28fpn6ZxjqMAMDQ==\n"
    ).encode() == note
    assert (log.verifier, witness_key) == Note.from_bytes(note).verify([log.verifier, witness_key])
    assert (
        b"c2sp.org/tlog-proof@v1\nindex 2\nmDy1fATN3VJjTtqzinvvhXCKl08RS72aqexdTOZla0s=\n\n" + note
        == proof.to_bytes()
    )
    assert checkpoint == proof.verify(b"gamma", [log.verifier, witness_key], index=2)


# Not hashes at all, but the same ones: equal "roots" of one leaf. We refuse what
# is not 32 bytes; the vector expects it to pass.
NOT_HASHES = "consistency/additional/sizes-are-equal-one-and-proof-is-empty.json"


def cases() -> list[dict[str, Any]]:
    """Read the public cases, if they are here."""
    if not VECTORS.is_dir():
        return []
    return [json.loads(line) for line in (VECTORS / "rfc6962.jsonl").read_text().splitlines()]


def verify(case: dict[str, Any]) -> None:
    """Verify the proof of one case."""
    proof = [b64decode(each) for each in case["proof"] or []]
    if "leafIdx" in case:
        leaf, root = b64decode(case["leafHash"]), b64decode(case["root"])
        verify_inclusion(leaf, case["leafIdx"], case["treeSize"], proof, root)
    else:
        roots = b64decode(case["root1"]), b64decode(case["root2"])
        verify_consistency(case["size1"], case["size2"], proof, *roots)


@needs_vectors
def test_the_vectors_are_all_there() -> None:
    """No case is lost on the way."""
    assert 196 == len(cases())


@needs_vectors
@pytest.mark.parametrize("case", cases(), ids=lambda case: case["case"])
def test_proofs_verify_as_they_do_elsewhere(case: dict[str, Any]) -> None:
    """The cases of transparency-dev/merkle hold and fail as they do there."""
    if case["wantErr"] or case["case"] == NOT_HASHES:
        with pytest.raises(InvalidProof):
            verify(case)
    else:
        verify(case)


@needs_vectors
def test_a_public_log_is_reproduced_byte_for_byte() -> None:
    """The same entries under the same key give every file that another implementation made."""
    log = VECTORS / "tlog"
    key = SigningKey.from_text(
        "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg"
    )
    verifier = VerifierKey.from_text(
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
    )
    words = "one two three four five six seven eit nain ten ileven twelf threeten fourten fivten"
    entries = words.encode().split()
    leaves = [leaf_hash(each) for each in entries]

    expected, found = {}, {}
    for size in range(len(entries) + 1):
        edge, _ = Edge().extend(leaves[:size])
        checkpoint = Checkpoint(origin=key.name, size=size, root=edge.root)
        note = checkpoint.sign(key).to_bytes()
        expected[f"checkpoint.{size}"] = expected["checkpoint"] = note
        assert checkpoint == Checkpoint.open(note, [verifier])
        for level, n, width in tiles_of(size):
            expected[tile_path(level, n, width)] = b"".join(leaves[:size])
            expected[entries_path(n, width)] = encode_bundle(entries[:size])
            assert entries[:size] == decode_bundle(expected[entries_path(n, width)])
    for path in log.rglob("*"):
        if path.is_file():
            found[path.relative_to(log).as_posix()] = path.read_bytes()

    assert verifier == key.verifier
    assert expected == found
