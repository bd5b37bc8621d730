"""
Log: gives entries their place, grows the tree, signs the head.

`place` is a pure function of what came in: the same events after the same head at
the same time give the same bytes, so recovery never forks history. `append` does
it inside a store's transaction, in the order that every promise rests on:

    place -> sign -> commit -> mark -> acknowledge

A checkpoint that was signed but not committed was shown to nobody.
"""

from __future__ import annotations

from binascii import b2a_base64
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from indelible.checkpoint import Checkpoint
from indelible.entry import assemble, hash_to_text, microseconds, time_to_text
from indelible.errors import Damaged, UnknownStream
from indelible.merkle import leaf_hash
from indelible.segment import TILES_LEVEL
from indelible.store import Batch, Head
from indelible.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from indelible.keys import Signer
    from indelible.seal import Sealed
    from indelible.store import Stored, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """
    Where events ended up, once the transaction has ended.

    Attributes:
        log: Name of the log.
        first: Index of the first of them.
        leaves: The leaf hash of each.
    """

    log: str
    first: int
    leaves: Sequence[bytes]


def place(head: Head, events: Sequence[Sealed], now: int) -> Batch:
    """
    Give *events* the places after *head*; the new head is not signed yet.

    Args:
        now: Microseconds since 1970. A log's time never decreases: a clock that
            was set back does not show in ``recorded_at``.
    """
    recorded_at = max(now, head.recorded_at)
    start = b'"recorded_at":"%b",' % time_to_text(recorded_at).encode("ascii")
    bodies = [
        b'%b"event":%b}' % (start, sealed.event)
        if sealed.collected is None
        else b"%b%b}" % (start, sealed.collected.member)
        for sealed in events
    ]
    previous = hash_to_text(head.last_leaf)
    leaves: list[bytes] = []
    keep = leaves.append
    for index, body in enumerate(bodies, head.size):
        # `entry.assemble` and `merkle.leaf_hash`, written out: this line is a
        # third of the writer's time. A test holds the two against each other.
        leaf = sha256(b'\0{"v":1,"index":%d,"prev":"%b",%b' % (index, previous, body)).digest()
        keep(leaf)
        previous = b2a_base64(leaf, newline=False).translate(_URLSAFE, b"=")
    edge, nodes = head.edge.extend(leaves)
    return Batch(
        first=head.size,
        bodies=bodies,
        leaves=leaves,
        # Here and not where it was sealed: in the writer's thread, not in the caller's.
        terms=[
            terms_of(
                each.clear,
                microseconds(each.clear.occurred_at),
                each.lookups,
                "" if each.collected is None else each.collected.producer,
            )
            for each in events
        ],
        rows=[sealed.row for sealed in events] if any(sealed.row for sealed in events) else (),
        tile_roots=nodes[TILES_LEVEL] if len(nodes) > TILES_LEVEL else (),
        head=replace(
            head, edge=edge, last_leaf=leaves[-1], recorded_at=recorded_at, checkpoint=b""
        ),
    )


_URLSAFE = bytes.maketrans(b"+/", b"-_")


def append(
    transaction: Transaction, head: Head, events: Sequence[Sealed], signer: Signer, now: int
) -> Placed:
    """
    Place *events* after *head*, sign the new head, and hand both to *transaction*.

    Nothing has happened, and nothing may be shown, before the transaction ends.

    Raises:
        StoreError: The store refused them.
    """
    batch = place(head, events, now)
    checkpoint = sign(batch.head, signer)
    transaction.append(replace(batch, head=replace(batch.head, checkpoint=checkpoint)))
    return Placed(log=head.log, first=batch.first, leaves=batch.leaves)


def head_of(heads: Mapping[str, Head], stream: str) -> Head:
    """
    Return the head of the log that *stream* is written to now: the last of its successors.

    Raises:
        UnknownStream: There is no such stream.
    """
    logs = [head for head in heads.values() if head.stream == stream]
    if not logs:
        streams = ", ".join(dict.fromkeys(head.stream for head in heads.values()))
        raise UnknownStream(f"stream: found {stream!r}, expected one of {streams}")
    return logs[-1]


def sign(head: Head, signer: Signer) -> bytes:
    """Return the signed checkpoint of *head*."""
    checkpoint = Checkpoint(origin=head.origin, size=head.size, root=head.edge.root)
    return checkpoint.sign(signer).to_bytes()


def restore(stored: Stored) -> bytes:
    """
    Return the exact bytes of a *stored* entry, verified against its leaf hash.

    Raises:
        Damaged: Body, leaf hash or the leaf hash before are not those recorded.
    """
    entry = assemble(stored.index, stored.previous, stored.body)
    if leaf_hash(entry) != stored.leaf:
        raise Damaged(f"entry {stored.index}: its bytes do not have the recorded leaf hash")
    return entry
