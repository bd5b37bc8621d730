"""A note says only what a known key has signed, in exactly one way."""

from __future__ import annotations

from base64 import b64encode

import pytest

from indelible.checkpoint import cosign
from indelible.errors import CallerError, InvalidSignature, Malformed
from indelible.keys import SigningKey
from indelible.note import (
    COSIGNATURE,
    ED25519,
    MAX_NOTE,
    MAX_SIGNATURES,
    Note,
    Signature,
    VerifierKey,
    parse_base64,
    parse_decimal,
)

LOG = SigningKey.from_seed("audit.example.com/prod", bytes(range(32)))
OTHER = SigningKey.from_seed("audit.example.com/test", bytes(range(32, 64)))
WITNESS = VerifierKey(name=OTHER.name, type=COSIGNATURE, public=OTHER.verifier.public)
TEXT = "Es ist eine alte Geschichte,\n\ndoch bleibt sie immer neu.\n"
SIGNED = Note(text=TEXT, signatures=(LOG.sign(TEXT),))


def with_bit_flipped(signature: Signature) -> Signature:
    """Spoil a signature, but not whose it says it is."""
    data = signature.signature
    return Signature(
        name=signature.name, key_id=signature.key_id, signature=data[:-1] + bytes([data[-1] ^ 1])
    )


def test_a_signature_by_a_known_key_is_accepted() -> None:
    """Verification names the keys that have signed."""
    assert (LOG.verifier,) == SIGNED.verify([OTHER.verifier, LOG.verifier])


def test_a_note_may_hold_empty_lines() -> None:
    """The text ends at the last empty line, whatever stands before."""
    note = Note.from_bytes(SIGNED.to_bytes())

    assert TEXT == note.text
    assert "\n\n" == Note(text="\n\n", signatures=SIGNED.signatures).text
    assert "\n\n" == Note.from_bytes(b"\n\n" + SIGNED.to_bytes().removeprefix(TEXT.encode())).text


def test_signatures_by_unknown_keys_are_ignored() -> None:
    """Cosigning a note does not make it unreadable for those who do not know the cosigner."""
    stranger = with_bit_flipped(OTHER.sign(TEXT))
    namesake = Signature(name=LOG.name, key_id=b"\x00" * 4, signature=b"\x00" * 64)
    note = Note(text=TEXT, signatures=(stranger, namesake, LOG.sign(TEXT)))

    assert (LOG.verifier,) == note.verify([LOG.verifier])


def test_a_wrong_signature_by_a_known_key_spoils_the_whole_note() -> None:
    """A good signature beside it does not help."""
    note = Note(text=TEXT, signatures=(LOG.sign(TEXT), with_bit_flipped(OTHER.sign(TEXT))))

    with pytest.raises(InvalidSignature, match=r"audit\.example\.com/test.* is wrong"):
        note.verify([LOG.verifier, OTHER.verifier])


@pytest.mark.parametrize("keys", [[], [OTHER.verifier]])
def test_a_note_that_no_known_key_has_signed_is_refused(keys: list[VerifierKey]) -> None:
    """Signatures by strangers prove nothing."""
    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        SIGNED.verify(keys)


def test_a_signature_holds_for_its_own_text_only() -> None:
    """No character of a signed text can be changed."""
    with pytest.raises(InvalidSignature, match="is wrong"):
        Note(text=TEXT.replace("alte", "neue"), signatures=SIGNED.signatures).verify([LOG.verifier])


def test_a_key_that_signs_twice_counts_once() -> None:
    """A quorum cannot be reached by repeating a signature."""
    note = Note(text=TEXT, signatures=(LOG.sign(TEXT), LOG.sign(TEXT)))

    assert (LOG.verifier,) == note.verify([LOG.verifier, LOG.verifier])


def test_keys_that_cannot_be_told_apart_are_refused() -> None:
    """Two keys of one name and id would let one stand for the other."""

    class Collision(VerifierKey):
        @property
        def key_id(self) -> bytes:
            return LOG.verifier.key_id

    colliding = Collision(name=LOG.name, type=ED25519, public=OTHER.verifier.public)

    with pytest.raises(CallerError, match="two different ones"):
        SIGNED.verify([LOG.verifier, colliding])


def test_a_cosignature_signs_its_time() -> None:
    """A witness's signature holds for the text and the time at which it was seen."""
    cosignature = cosign(TEXT, OTHER, time=1764000000)
    later = Signature(
        name=cosignature.name,
        key_id=cosignature.key_id,
        signature=(1764000001).to_bytes(8) + cosignature.signature[8:],
    )

    assert (WITNESS,) == Note(text=TEXT, signatures=(cosignature,)).verify([WITNESS])
    with pytest.raises(InvalidSignature, match="is wrong"):
        Note(text=TEXT, signatures=(later,)).verify([WITNESS])


@pytest.mark.parametrize("signature", [b"", b"\x00", b"\x00" * 8, b"\x00" * 72, b"\xff" * 72])
def test_a_cosignature_that_is_none_is_refused(signature: bytes) -> None:
    """Too short, too late or made up: it is wrong, not an accident."""
    with pytest.raises(InvalidSignature):
        WITNESS.verify(TEXT.encode(), signature)


def test_one_key_cannot_sign_as_log_what_it_signed_as_witness() -> None:
    """The kind of a signature is part of the key's id."""
    cosignature = cosign(TEXT, OTHER, time=0)

    with pytest.raises(InvalidSignature, match="found no signature by a known key"):
        Note(text=TEXT, signatures=(cosignature,)).verify([OTHER.verifier])
    with pytest.raises(InvalidSignature, match="is wrong"):
        OTHER.verifier.verify(TEXT.encode(), cosignature.signature[8:])


LINE = f"{SIGNED.signatures[0].to_text()}\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        b"text\n" + LINE,
        b"text" + LINE,
        b"text\r\n\r\n" + LINE,
        b"text\n\n" + LINE[:-1],
        b"text\n\n" + LINE[:-1] + b"\r\n",
        b"text\n\n" + LINE + b"\n",
        b"text\n\n" + LINE + b" \n",
        b"text\n\n " + LINE,
        b"text\n\n" + LINE.replace("—".encode(), b"-"),
        b"text\n\n" + LINE.replace(b" ", "\u00a0".encode()),
        b"text\n\n" + LINE.replace(b" ", b"  "),
        b"text\n\n" + LINE.replace(b"audit.example.com/prod", b""),
        b"text\n\n" + LINE.replace(b"example", b"ex+mple"),
        b"text\n\n" + LINE.replace(b"example", "ex\u2028mple".encode()),
        b"text\n\n" + LINE.replace(b"example", "ex\u0085mple".encode()),
        b"text\n\n" + LINE.replace(b"=", b""),
        b"text\n\n" + "— name AAAAAA==\n".encode(),
        b"te\x00xt\n\n" + LINE,
        b"te\txt\n\n" + LINE,
        b"te\x1fxt\n\n" + LINE,
        b"te\xffxt\n\n" + LINE,
        b"te\xed\xa0\x80xt\n\n" + LINE,
        b"\xef\xbb\xbf" + b"text\n\n" + LINE[1:],
    ],
)
def test_what_is_not_exactly_a_note_is_refused(data: bytes) -> None:
    """There is one way to write a note, and nothing else is read as one."""
    with pytest.raises(Malformed):
        Note.from_bytes(data)


def test_a_note_is_bounded() -> None:
    """A stranger cannot make a verifier work without end."""
    most = Note(text=TEXT, signatures=SIGNED.signatures * MAX_SIGNATURES)
    largest = "x" * (MAX_NOTE - len(LINE) - 2) + "\n"

    assert most == Note.from_bytes(most.to_bytes())
    assert MAX_NOTE == len(Note(text=largest, signatures=SIGNED.signatures).to_bytes())
    with pytest.raises(Malformed, match="more than 100 signatures"):
        Note.from_bytes(most.to_bytes() + LINE)
    with pytest.raises(CallerError, match="found 101 signatures"):
        Note(text=TEXT, signatures=SIGNED.signatures * 101)
    with pytest.raises(Malformed, match="at most 1048576"):
        Note.from_bytes(f"x{largest}\n".encode() + LINE)
    with pytest.raises(CallerError, match="more than 1048576 bytes"):
        Note(text=f"x{largest}", signatures=SIGNED.signatures)


@pytest.mark.parametrize(
    "text", ["", "no line end", "control\x1b\n", "return\r\n", "surrogate \ud800\n"]
)
def test_a_text_that_no_note_can_hold_is_refused(text: str) -> None:
    """What could not be read again cannot be built."""
    with pytest.raises(CallerError, match="note: found"):
        Note(text=text, signatures=SIGNED.signatures)


def test_a_note_without_a_signature_is_refused() -> None:
    """A note is signed, or it is none."""
    with pytest.raises(CallerError, match="found 0 signatures"):
        Note(text=TEXT, signatures=())


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\x00b", "a\ud800b"]
)
def test_a_name_that_no_key_can_have_is_refused(name: str) -> None:
    """A name cannot break out of its place in a note."""
    with pytest.raises(CallerError, match="key name"):
        VerifierKey(name=name, type=ED25519, public=bytes(32))
    with pytest.raises(CallerError, match="key name"):
        Signature(name=name, key_id=bytes(4), signature=bytes(64))


@pytest.mark.parametrize(
    ("type_", "public", "found"),
    [
        (0x02, bytes(32), "type 0x02"),
        (0x06, bytes(1312), "type 0x06"),
        (ED25519, bytes(31), "31 bytes"),
    ],
)
def test_a_key_of_an_unknown_kind_is_refused(type_: int, public: bytes, found: str) -> None:
    """A key that cannot be verified with is not silently of no use."""
    with pytest.raises(CallerError, match=found):
        VerifierKey(name="name", type=type_, public=public)


@pytest.mark.parametrize("key_id", [b"", bytes(3), bytes(5)])
def test_a_key_id_has_four_bytes(key_id: bytes) -> None:
    """A signature line can be read in one way only."""
    with pytest.raises(CallerError, match=f"found {len(key_id)} bytes, expected 4"):
        Signature(name="name", key_id=key_id, signature=bytes(64))


KEY = LOG.verifier.to_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        KEY[:-1],
        f"{KEY}\n",
        f" {KEY}",
        KEY.replace("175a851d", "175a851e"),
        KEY.replace("175a851d", "175A851D"),
        KEY.replace("175a851d", "0175a851d"),
        KEY.replace("prod", "test"),
        KEY.replace("prod", "pr\u2028d"),
        KEY.replace("+AQ", "+Ag"),
        KEY.replace("+AQ", "+AA"),
        KEY.replace("/", "_"),
    ],
)
def test_what_is_not_exactly_a_verifier_key_is_refused(text: str) -> None:
    """A key with a slip of the pen is not another key."""
    assert LOG.verifier == VerifierKey.from_text(KEY)
    with pytest.raises(Malformed):
        VerifierKey.from_text(text)


def test_a_private_key_in_the_place_of_a_public_one_is_not_shown() -> None:
    """A key that was pasted into the wrong place does not end in an error message."""
    private = b64encode(b"\x01" + bytes(range(32))).decode()

    with pytest.raises(Malformed) as caught:
        VerifierKey.from_text(LOG.to_text())

    assert private in LOG.to_text()
    assert private[:8] not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 10, 2**63 - 1])
def test_a_number_has_one_way_to_be_written(number: int) -> None:
    """The shortest ASCII decimal stands for a number."""
    assert number == parse_decimal(str(number), what="number")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-0",
        "-1",
        "+1",
        "00",
        "01",
        "1_0",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e3",
        "0x1",
        "\u0661",
        "\uff11",
        "²",
        str(2**63),
        "9" * 5000,
    ],
)
def test_no_other_way_to_write_a_number_is_read(text: str) -> None:
    """What Python would take for a number is not enough."""
    with pytest.raises(Malformed, match="number: found"):
        parse_decimal(text, what="number")


@pytest.mark.parametrize(
    "text",
    [
        "AA",
        "AA=",
        "AA===",
        "AB==",
        "AA==\n",
        " AA==",
        "A A==",
        "-_8=",
        "\uff21\uff21==",
        "AA==AA==",
    ],
)
def test_no_other_way_to_write_base64_is_read(text: str) -> None:
    """Padding, trailing bits and alphabet are exact."""
    assert b"\x00" == parse_base64("AA==", what="value")
    with pytest.raises(Malformed, match="value: found"):
        parse_base64(text, what="value")
