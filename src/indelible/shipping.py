"""
Shipping: which entries of a log go to a collector next, and what goes with them.

It reads a view of the store and opens values as the trail's owner. It knows neither HTTP
nor time: what the collector has, it says itself (`indelible.wire.Standing`), and what is
sent twice does no harm.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64decode
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING

import msgspec

from indelible import policies
from indelible.box import Row, ValueState, look_into
from indelible.disclosure import commitment_of
from indelible.entry import event_in, hash_to_text
from indelible.errors import CallerError, Damaged, Rollback, VerificationError
from indelible.log import head_of, restore
from indelible.merkle import HASH_SIZE, consistency_proof, root_at
from indelible.seal import unseal
from indelible.segment import BLOCK
from indelible.wire import MOST_ENTRIES, Shipment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from indelible.keyring import DataKey
    from indelible.seal import Clear
    from indelible.store import Head, Transaction, View
    from indelible.vault import Vault
    from indelible.wire import Standing

MOST_BYTES = 9 * 1024 * 1024 // 2
"""Bytes after which a shipment is full: below `indelible.wire.MAX_BODY`, brackets included."""

_MOST_OPENED = MOST_BYTES - 128 * 1024
"""Bytes of an entry's values: room is left for the entry itself, the checkpoint, proofs."""

_AROUND = 32
"""Bytes around the values of an entry, at most: its index, brackets."""

_KIND = "collected"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far a collector has come with a log, as it last said: a fact of the trail's store.

    It is there to be shown. Nothing is left out of a shipment because of it.

    Attributes:
        url: Of the collector.
        size: How many entries it had.
        checkpoint: Its own signed note over the log that they are in.
        at: When it said so, microseconds since 1970.
    """

    url: str
    size: int
    checkpoint: str
    at: int


def progress_of(view: View, log: str) -> Progress | None:
    """Return how far a collector has come with *log*; nothing where none has begun."""
    kept = view.fact(_KIND, log.encode())
    return None if kept is None else msgspec.json.decode(kept, type=Progress)


def remember(transaction: Transaction, log: str, found: Progress) -> None:
    """Keep how far a collector has come with *log*."""
    transaction.put(_KIND, log.encode(), msgspec.json.encode(found))


class Consignment(msgspec.Struct, frozen=True, kw_only=True):
    """
    A shipment, and what it is of.

    Attributes:
        first: Index of its first entry.
        policies: Labels of the policies that its entries name and that were not known to
            have been sent.
        left: Where values are that no shipment can carry, ``12 /changes/body``: they stay
            here, and only their leaf hashes go.
    """

    log: str
    origin: str
    first: int
    shipment: Shipment
    policies: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many entries of the log the collector has when it has taken this."""
        return self.first + len(self.shipment.entries)


def verify_standing(view: View, log: str, standing: Standing) -> None:
    """
    Check that what the collector has of *log* is how the log here begins, and can go on.

    Of a log that another has succeeded, it may have more than is left here: that is why.

    Raises:
        Rollback: It has more, or something else, and nothing can be shipped.
        CallerError: The entries that it lacks were purged here.
    """
    heads = view.heads()
    head = heads[log]
    if head_of(heads, head.stream).log == log:
        promised = max(standing.size, standing.promised)
    elif (promised := standing.size) >= head.size:
        return
    if promised > head.size:
        raise Rollback(
            f"log {log}: found {head.size} entries, and a collector that was shown a"
            f" checkpoint over {promised}"
        )
    root = b64encode(root_at(standing.size, partial(view.node, log))).decode("ascii")
    if root != standing.root:
        raise Rollback(
            f"log {log}: found root {root} at size {standing.size}, and a collector that has"
            f" {standing.root}"
        )
    if standing.size < head.size:
        _check_kept(head, standing.size)


def _check_kept(head: Head, first: int) -> None:
    if first < head.first:
        raise CallerError(
            f"log {head.log}: the collector has {first} entries, and those before {head.first}"
            " were purged here: the gap between cannot be shipped"
        )


def consign(  # noqa: PLR0917 - which part of which log, and what goes with it
    view: View,
    log: str,
    first: int,
    vault: Vault,
    known: Collection[str] = (),
    most: int = MOST_ENTRIES,
) -> Consignment | None:
    """
    Return the next shipment of *log* from *first* on; nothing where the log ends there.

    Args:
        known: Labels of policies whose documents need not be sent.
        most: How many entries, at most.

    Raises:
        CallerError: The entries were purged.
        KeyUnavailable: Values cannot be opened now. Without them they would be lost to the
            collector for good, so they wait.
        VerificationError: An entry cannot be read.
    """
    head = view.heads()[log]
    if first >= head.size:
        return None
    _check_kept(head, first)
    entries: list[msgspec.Raw] = []
    disclosures: dict[str, tuple[msgspec.Raw, ...]] = {}
    documents: dict[str, str] = {}
    left: list[str] = []
    checkpoint = head.checkpoint.decode()
    rotations = tuple(note.decode() for note in view.rotations(log))
    room = MOST_BYTES - len(_json((checkpoint, rotations)))
    for index, each in enumerate(islice(_opened(view, head, first, vault), most), first):
        is_new = each.policy and each.policy not in known and each.policy not in documents
        more = _document(view, each.policy) if is_new else {}
        room -= each.size + len(_json(more))
        if entries and room < 0:
            break
        entries.append(each.entry)
        documents |= more
        left += [f"{index} {path}" for path in each.left]
        if each.opening:
            disclosures[str(index)] = each.opening
    proof = consistency_proof(first + len(entries), head.size, partial(view.node, log))
    return Consignment(
        log=log,
        origin=head.origin,
        first=first,
        shipment=Shipment(
            entries=tuple(entries),
            disclosures=disclosures,
            checkpoint=checkpoint,
            consistency=tuple(b64encode(each).decode("ascii") for each in proof),
            rotations=rotations,
            policies=tuple(filter(None, documents.values())),
        ),
        policies=frozenset(documents),
        left=tuple(left),
    )


_json = msgspec.json.encode


def _document(view: View, label: str) -> dict[str, str]:
    """Return the document of the policy with this *label*, by it."""
    found = None
    # Of one that is damaged here nothing is sent: entries do not wait for what may never
    # be there again, and the collector says that it lacks it.
    with suppress(VerificationError):
        found = policies.of_label(view, label)
    return {label: "" if found is None else policies.text_of(found).decode()}


class _Opened(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    An entry's exact bytes, the label of its policy if any, and what opens its values.

    Attributes:
        left: Paths of values that are too large.
    """

    entry: msgspec.Raw
    policy: str
    opening: tuple[msgspec.Raw, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes of a shipment it takes, rather more than less."""
        values = sum(len(bytes(each)) + 1 for each in self.opening)
        return len(bytes(self.entry)) + 1 + values + (_AROUND if values else 0)


def _opened(view: View, head: Head, first: int, vault: Vault) -> Iterator[_Opened]:
    """Yield the entries from *first* on, opened a block at a time."""
    for _, block in groupby(range(first, head.size), key=lambda index: index // BLOCK):
        stored = view.stored(head.log, list(block))
        events = [unseal(event_in(each.body)[0]) for each in stored]
        closed = [each.index for each, clear in zip(stored, events, strict=True) if clear.committed]
        rows = dict(zip(closed, map(_row, view.rows(head.log, closed)), strict=True))
        keys = vault.keyring.open({box.key for row in rows.values() if row for box in row.boxes})
        bound = vault.binding(head.stream)
        for each, clear in zip(stored, events, strict=True):
            row = rows.get(each.index)
            opening, left = ([], []) if row is None else _opening(row, clear, bound, keys)
            yield _Opened(
                entry=msgspec.Raw(restore(each)),
                policy=clear.policy or "",
                opening=tuple(map(msgspec.Raw, opening)),
                left=tuple(left),
            )


def _row(data: bytes) -> Row | None:
    """Read a row of the vault; where there is none, or it is damaged, nothing is left to say."""
    with suppress(Damaged):
        return Row.from_bytes(data) if data else None
    return None


def _opening(
    row: Row, clear: Clear, bound: bytes, keys: Mapping[bytes, DataKey]
) -> tuple[list[bytes], list[str]]:
    """
    Return what opens each value that the event commits to, or the value's leaf hash.

    Nothing at all where the leaf hashes are not those of the commitment: then no value can
    be proven to be the one that was recorded.

    Returns:
        And the paths of values that are here, and too large to go.
    """
    commitment = urlsafe_b64decode(f"{clear.commitment}=")
    leaves = [row.spine[at : at + HASH_SIZE] for at in range(0, len(row.spine), HASH_SIZE)]
    if len(leaves) != len(clear.committed) or commitment_of(leaves) != commitment:
        return [], []
    found = look_into(row.to_bytes(), clear.committed, commitment, bound + commitment, keys)
    # In place of what is not here; the others are proven by it.
    hashes = [b'"%b"' % hash_to_text(leaf) for leaf in leaves]
    opening = [
        found[path].disclosure if found[path].state is ValueState.OPEN else digest
        for path, digest in zip(clear.committed, hashes, strict=True)
    ]
    left = []
    while sum(map(len, opening)) > _MOST_OPENED:
        at = max(range(len(opening)), key=lambda each: len(opening[each]))
        opening[at] = hashes[at]
        left.append(clear.committed[at])
    return opening, left


__all__ = [
    "MOST_BYTES",
    "Consignment",
    "Progress",
    "consign",
    "progress_of",
    "remember",
    "verify_standing",
]
