"""Ingest: takes a producer's shipments into the trail, durable before they are acknowledged."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from indelible import policies
from indelible.collector.bodies import body_of, decoded
from indelible.collector.callers import asks
from indelible.collector.metrics import Result
from indelible.collector.problems import Refusal
from indelible.collector.producers import is_within
from indelible.collector.state import Collector
from indelible.custody import own_event
from indelible.errors import (
    BrokenChain,
    CallerError,
    IndelibleError,
    InvalidPolicy,
    InvalidProof,
    InvalidSignature,
    Malformed,
    Moved,
    NotFound,
    VerificationError,
)
from indelible.log import head_of
from indelible.merkle import HASH_SIZE
from indelible.policy import CUSTODY
from indelible.producer import (
    HELD_KIND,
    KIND,
    TILE_KIND,
    Conflict,
    ForeignTenant,
    Gap,
    Held,
    Producer,
    Revoked,
    admit,
    key_of,
    tile_key,
)
from indelible.rights import Caller, Verb
from indelible.segment import TILE
from indelible.wire import MOST_ENTRIES, Problem, Shipment, ShipmentReceipt
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from indelible.log import Placed
    from indelible.policy import Policy
    from indelible.producer import Admission
    from indelible.seal import Sealed
    from indelible.store import Transaction, View

MOST_POLICY = 128 * 1024
"""Bytes of a producer's policy; entries under a larger one are classified by the collector's."""

MOST_POLICIES = 64
"""Policies that are kept of one producer's trail: whoever reads may have to ask all of them."""

_ATTEMPTS = 5
_MOST_NAMED = 100
_decoder = msgspec.json.Decoder(Shipment)


class Ingest:
    """Takes shipments into the trail of *collector*."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._trail = collector.trail
        self._policies: dict[bytes, Policy] = {}

    def take(self, origin: str, shipment: Shipment, caller: Caller) -> ShipmentReceipt:
        """
        Keep what is new of *shipment*; when this returns, it survives a crash.

        Raises:
            NotFound: The caller does not ship this log.
            VerificationError, CallerError: As `indelible.producer.admit`; nothing was kept.
            StoreError: Nothing was kept.
            WriteUncertain: It may have been kept; to send it again is safe.
        """
        if not shipment.entries or len(shipment.entries) > MOST_ENTRIES:
            raise Malformed(f"entries: found {len(shipment.entries)}, expected 1 to {MOST_ENTRIES}")
        for _ in range(_ATTEMPTS):
            with self._trail.store.read() as view:
                producer, before = known(view, origin, caller)
                room = _room(view, origin) if shipment.policies else 0
                documents = _Documents(shipment.policies, room)
                held = Held.from_bytes(before)
                try:
                    admission = admit(
                        producer,
                        held,
                        shipment,
                        partial(_leaves, view, origin, held),
                        partial(self._policy, view, origin, documents),
                        self._collector.now(),
                    )
                except Conflict as conflict:
                    self._raise_alarm(producer, held, shipment, conflict)
                    raise
                if not admission.entries:
                    return self._nothing_new(view, producer, admission)
            # Others may have taken the same meanwhile, or a key was destroyed: look again.
            with suppress(Moved):
                return self._keep(producer, before, admission, documents.taken)
        raise Moved(f"{origin}: others wrote to it again and again; repeat this")

    def _keep(
        self,
        producer: Producer,
        before: bytes | None,
        admission: Admission,
        documents: Mapping[bytes, Policy],
    ) -> ShipmentReceipt:
        stream = producer.stream
        events: dict[str, Sequence[Sealed]] = {
            stream: [self._trail.vault.enclose(each, stream) for each in admission.entries]
        }
        if admission.refused:
            events[CUSTODY] = [self._refusal(producer, admission)]
        checkpoint = b""

        def within(transaction: Transaction, placed: Mapping[str, Placed]) -> None:
            nonlocal checkpoint
            key = key_of(producer.origin)
            if transaction.fact(HELD_KIND, key) != before:
                raise Moved(f"{producer.origin}: has grown meanwhile")
            if transaction.fact(KIND, key) != producer.to_bytes():
                raise Moved(f"{producer.origin}: was changed meanwhile")
            transaction.put(HELD_KIND, key, admission.held.to_bytes())
            for number, leaves in admission.tiles:
                transaction.put(TILE_KIND, tile_key(producer.origin, number), leaves)
            for name, policy in documents.items():
                if transaction.fact(policies.KIND, name) is None:
                    transaction.add_document(policies.text_of(policy))
                    transaction.put(policies.KIND, name, policy.digest)
            checkpoint = transaction.heads()[placed[stream].log].checkpoint

        pending = Pending(events, within=within)
        self._trail.submit(pending)
        placed = pending.result()[stream]
        return ShipmentReceipt(
            producer=producer.origin,
            size=admission.held.size,
            stream=stream,
            log=placed.log,
            first=placed.first,
            entries=len(admission.entries),
            checkpoint=checkpoint.decode(),
            refused=admission.refused,
        )

    def _nothing_new(self, view: View, producer: Producer, admission: Admission) -> ShipmentReceipt:
        """Answer what is held already; what it promises is kept with the next that is new."""
        head = head_of(view.heads(), producer.stream)
        return ShipmentReceipt(
            producer=producer.origin,
            size=admission.held.size,
            stream=producer.stream,
            log=head.log,
            checkpoint=head.checkpoint.decode(),
        )

    def _policy(self, view: View, origin: str, sent: _Documents, label: str | None) -> Policy:
        """Return the policy that an entry was sealed under; where nobody knows it, ours."""
        if label is None:
            return self._trail.policy
        name = policies.name_of(origin, label)
        found = self._policies.get(name) or sent.asked.get(name)
        if found is None and (digest := view.fact(policies.KIND, name)) is not None:
            found = self._policies[name] = policies.parse(policies.document(view, digest))
        if found is None:
            found = sent.asked[name] = sent.take(name, label) or self._trail.policy
        return found

    def _refusal(self, producer: Producer, admission: Admission) -> Sealed:
        refused = admission.refused
        return own_event(
            self._trail.id,
            "producer.refuse",
            producer=producer.origin,
            count=len(refused),
            entries=[{"index": each.index, "why": each.why} for each in refused[:_MOST_NAMED]],
        )

    def _raise_alarm(
        self, producer: Producer, held: Held, shipment: Shipment, conflict: Conflict
    ) -> None:
        """Record what does not hold, with what both sides have signed, unless that was said."""
        said, now = str(conflict), self._collector.now()
        if not held.alarms(said, now):
            return
        event = own_event(
            self._trail.id,
            "producer.alarm",
            producer=producer.origin,
            what=said,
            size=held.size,
            root=b64encode(held.tree.root).decode(),
            promised=[each.note.decode() for each in held.promised],
            shown=shipment.checkpoint,
        )

        def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
            key = key_of(producer.origin)
            kept = Held.from_bytes(transaction.fact(HELD_KIND, key))
            if not kept.alarms(said, now):
                raise Moved("said already")
            changed = msgspec.structs.replace(kept, alarm=said, alarmed_at=now)
            transaction.put(HELD_KIND, key, changed.to_bytes())

        pending = Pending({CUSTODY: [event]}, within=within)
        self._trail.submit(pending)
        pending.wait()


class _Documents:
    """
    The policies that come with a shipment; none is read that no new entry names.

    Args:
        room: How many may be kept besides those that are.

    Attributes:
        asked: What was found for the names that entries asked for.
        taken: Those of the shipment that are to be kept, by their names.
    """

    def __init__(self, texts: Sequence[str], room: int) -> None:
        self._room = room
        self._given = {sha256(data).hexdigest()[:8]: data for data in map(str.encode, texts)}
        self.asked: dict[bytes, Policy] = {}
        self.taken: dict[bytes, Policy] = {}

    def take(self, name: bytes, label: str) -> Policy | None:
        """
        Return the policy with this label, if it came and may be kept.

        Raises:
            Malformed: It is none.
        """
        # A label ends with the beginning of the digest.
        data = self._given.get(label.rpartition("#")[2])
        if data is None or len(data) > MOST_POLICY or len(self.taken) >= self._room:
            return None
        try:
            policy = policies.parse(data)
        except InvalidPolicy as error:
            raise Malformed(f"policy: {error}") from None
        if policy.label != label:
            return None
        self.taken[name] = policy
        return policy


def _room(view: View, origin: str) -> int:
    """Return how many more policies may be kept of the trail that the log of *origin* is of."""
    first = policies.name_of(origin, "")
    last = first[:-1] + b"\1"
    return MOST_POLICIES - sum(1 for _ in view.facts(policies.KIND, first, last))


def known(view: View, origin: str, caller: Caller) -> tuple[Producer, bytes | None]:
    """
    Return a producer that *caller* ships, and what is held of its log.

    Raises:
        NotFound: There is none, or it is somebody else's.
    """
    key = key_of(origin)
    kept = view.fact(KIND, key) if caller.ships(origin) else None
    if kept is None or not is_within(producer := Producer.from_bytes(kept), caller):
        raise NotFound(f"producer: found none of origin {origin!r}")
    return producer, view.fact(HELD_KIND, key)


def _leaves(view: View, origin: str, held: Held, first: int, last: int) -> list[bytes]:
    """Return the leaf hashes [*first*, *last*) of what is held of a producer's log."""
    start = first // TILE
    whole = held.size // TILE
    joined = b"".join(
        value
        for _, value in view.facts(
            TILE_KIND, tile_key(origin, start), tile_key(origin, min(-(-last // TILE), whole))
        )
    )
    if last > whole * TILE:
        joined += held.rest
    hashes = [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]
    return hashes[first - start * TILE : last - start * TILE]


@post(
    "/v1/producers/{target:path}",
    guards=asks(Verb.RECORD),
    status_code=200,
    responses={409: ResponseSpec(Problem, description="A gap, a conflict or a revoked key")},
)
async def take(
    target: FromPath[str],
    request: Request[Caller, Any, Any],
    collector: NamedDependency[Collector],
    ingest: NamedDependency[Ingest],
    caller: NamedDependency[Caller],
) -> ShipmentReceipt:
    """Take the entries of a producer's log: ``POST /v1/producers/{origin}/entries``."""
    origin, slash, last = target.lstrip("/").rpartition("/")
    if not slash or last != "entries":
        raise Refusal(404, "not-found", "path: expected /v1/producers/{origin}/entries")
    collector.check_room()
    data = await body_of(request)
    return await anyio.to_thread.run_sync(_take, collector, ingest, origin, data, caller)


def _take(
    collector: Collector, ingest: Ingest, origin: str, data: bytes, caller: Caller
) -> ShipmentReceipt:
    began = monotonic()
    shipment = decoded(data, _decoder)
    try:
        receipt = ingest.take(origin, shipment, caller)
    except (CallerError, VerificationError) as error:
        for kind, result, refusal in _REFUSED:
            if isinstance(error, kind):
                collector.metrics.shipped(result, monotonic() - began)
                status, name = refusal
                expected = error.expected if isinstance(error, Gap) else None
                raise Refusal(status, name, str(error), expected=expected) from None
        raise
    collector.metrics.shipped(
        "collected" if receipt.entries else "held",
        monotonic() - began,
        entries=receipt.entries,
        refused=len(receipt.refused),
    )
    return receipt


_REFUSED: tuple[tuple[type[IndelibleError], Result, tuple[int, str]], ...] = (
    (Gap, "gap", (409, "gap")),
    (Revoked, "revoked", (403, "revoked")),
    (ForeignTenant, "tenant", (403, "tenant")),
    (Conflict, "conflict", (409, "conflict")),
    (InvalidSignature, "unsigned", (422, "invalid-signature")),
    (InvalidProof, "inconsistent", (422, "inconsistent")),
    (BrokenChain, "inconsistent", (422, "inconsistent")),
    (Malformed, "malformed", (422, "malformed")),
)
"""What a shipment that is refused is counted as, and answered with."""


ROUTES = [take]
