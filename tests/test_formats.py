"""Every format is exact: whatever is read can be written again, byte for byte."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indelible.checkpoint import Checkpoint, Rotation
from indelible.entry import Entry, time_from_text, time_to_text
from indelible.errors import Malformed
from indelible.event import Actor, Approval, Change, Event, Outcome, Rationale, Resource, uuid7
from indelible.keys import SigningKey
from indelible.merkle import EMPTY_ROOT, Edge
from indelible.note import (
    COSIGNATURE,
    ED25519,
    MAX_DECIMAL,
    Note,
    Signature,
    VerifierKey,
    parse_base64,
    parse_decimal,
)
from indelible.proof import Proof
from indelible.seal import seal, unseal
from indelible.tiles import decode_bundle, encode_bundle, entries_path, parse_path, tile_path

if TYPE_CHECKING:
    from collections.abc import Callable

hashes = st.binary(min_size=32, max_size=32)
names = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="+"), min_size=1, max_size=30
)
numbers = st.integers(0, MAX_DECIMAL)
sizes = st.integers(1, MAX_DECIMAL)
times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
"""Microseconds since 1970 in the years 1 to 9999."""
texts = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n"), max_size=60
).map("{}\n".format)
signatures = st.builds(
    Signature,
    name=names,
    key_id=st.binary(min_size=4, max_size=4),
    signature=st.binary(min_size=1, max_size=72),
)
signature_lines = st.lists(signatures, min_size=1, max_size=3).map(tuple)
verifier_keys = st.builds(
    VerifierKey, name=names, type=st.sampled_from([ED25519, COSIGNATURE]), public=hashes
)
checkpoints = st.builds(Checkpoint, origin=names, size=sizes, root=hashes) | st.builds(
    Checkpoint, origin=names, size=st.just(0), root=st.just(EMPTY_ROOT)
)
checkpoint_notes = st.builds(
    Note, text=checkpoints.map(Checkpoint.to_text), signatures=signature_lines
).map(Note.to_bytes)


@st.composite
def rotations(draw: st.DrawFn) -> Rotation:
    """Make rotations between two keys of one origin."""
    origin = draw(names)
    old, new = draw(st.lists(hashes, min_size=2, max_size=2, unique=True))
    return Rotation(
        origin=origin,
        old=VerifierKey(name=origin, type=ED25519, public=old),
        new=VerifierKey(name=origin, type=ED25519, public=new),
        size=draw(sizes),
        root=draw(hashes),
    )


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
events = st.builds(
    Event,
    id=st.builds(uuid7, st.integers(0, 2**66), st.binary(min_size=10, max_size=10)),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    action=st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z0-9_]{1,8}){0,2}", fullmatch=True),
    outcome=st.sampled_from(Outcome),
    reason=st.none() | names,
    actor=st.builds(
        Actor,
        type=st.sampled_from(["user", "service", "system"]),
        id=names,
        roles=st.lists(names, max_size=2).map(tuple),
    ),
    resource=st.builds(Resource, type=st.just("invoice"), id=names),
    changes=st.none() | st.dictionaries(names, st.builds(Change, values, values), max_size=2),
    data=st.none() | st.dictionaries(names, values, max_size=2),
    rationale=st.none() | st.builds(Rationale, text=names),
    approval=st.none() | st.builds(Approval, n=st.integers(1, 2**64 - 1), distinct=st.booleans()),
)


def write_event(event: Event) -> bytes:
    """Write the sealed bytes of *event*."""
    return seal(event).event


def write_path(tile: tuple[int | None, int, int]) -> str:
    """Write the path of what `parse_path` has read."""
    level, n, width = tile
    return entries_path(n, width) if level is None else tile_path(level, n, width)


class Format(NamedTuple):
    """How values of a format are made, written and read."""

    values: st.SearchStrategy[Any]
    write: Callable[[Any], Any]
    parse: Callable[[Any], Any]


FORMATS = {
    "decimal": Format(numbers, str, partial(parse_decimal, what="number")),
    "base64": Format(
        st.binary(max_size=40),
        lambda data: b64encode(data).decode(),
        partial(parse_base64, what="value"),
    ),
    "edge": Format(
        st.builds(Edge, size=st.just(11), hashes=st.tuples(hashes, hashes, hashes)),
        Edge.to_bytes,
        partial(Edge.from_bytes, 11),
    ),
    "signature line": Format(signatures, Signature.to_text, Signature.from_text),
    "verifier key": Format(verifier_keys, VerifierKey.to_text, VerifierKey.from_text),
    "signing key": Format(
        st.builds(SigningKey.from_seed, names, hashes), SigningKey.to_text, SigningKey.from_text
    ),
    "note": Format(
        st.builds(Note, text=texts, signatures=signature_lines), Note.to_bytes, Note.from_bytes
    ),
    "checkpoint": Format(checkpoints, Checkpoint.to_text, Checkpoint.from_text),
    "rotation": Format(rotations(), Rotation.to_text, Rotation.from_text),
    "proof": Format(
        st.builds(
            Proof,
            index=numbers,
            hashes=st.lists(hashes, max_size=3).map(tuple),
            checkpoint=checkpoint_notes,
        ),
        Proof.to_bytes,
        Proof.from_bytes,
    ),
    "tile path": Format(
        st.tuples(st.none() | st.integers(0, 63), numbers, st.integers(1, 256)),
        write_path,
        parse_path,
    ),
    "bundle": Format(
        st.lists(st.binary(max_size=300), min_size=1, max_size=5), encode_bundle, decode_bundle
    ),
    "time": Format(times, time_to_text, time_from_text),
    "event": Format(events, write_event, lambda data: unseal(data).event()),
    "entry": Format(
        st.builds(
            Entry,
            index=numbers,
            previous=hashes,
            recorded_at=times,
            event=events.map(write_event),
        ),
        Entry.to_bytes,
        Entry.from_bytes,
    ),
}
"""Every exact format; whoever adds one adds a line here."""

# What lenient parsers let through: other digits, spaces, line ends, padding.
TRAPS = [
    "",
    "\n",
    "\r",
    " ",
    "\u00a0",
    "\u0085",
    "\u2028",
    "+",
    "-",
    "_",
    "=",
    "/",
    "0",
    "\uff11",
    "A",
    "x",
    "—",
    "\x00",
]


traps = st.sampled_from(TRAPS) | st.text(st.characters(codec="ascii"), max_size=3)


@st.composite
def changed(draw: st.DrawFn, written: AnyStr) -> AnyStr:
    """Put something else in the place of a few characters or bytes of what was written."""
    start = draw(st.integers(0, len(written)))
    end = draw(st.integers(start, min(start + 3, len(written))))
    if isinstance(written, bytes):
        return written[:start] + draw(traps.map(str.encode) | st.binary(max_size=3)) + written[end:]
    return written[:start] + draw(traps) + written[end:]


@pytest.mark.parametrize("format_", FORMATS.values(), ids=FORMATS)
@settings(deadline=None)
@given(data=st.data())
def test_every_parser_is_the_inverse_of_its_writer_or_raises(
    format_: Format, data: st.DataObject
) -> None:
    """Nothing is read in two ways, and nothing is read that would be written otherwise."""
    value = data.draw(format_.values)
    written = format_.write(value)
    other = data.draw(changed(written))

    assert value == format_.parse(written)
    try:
        parsed = format_.parse(other)
    except Malformed:
        return
    assert other == format_.write(parsed)
