"""
Wire: what a collector and those who talk to it say to each other, as JSON.

It knows the shapes and nothing else: who may say what is `indelible.rights`, whether it
holds is decided where it arrives. Bodies are decoded strictly; an unknown field is refused.
Exact bytes (entries, disclosures) travel as the JSON that they are, never quoted or
written anew.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.entry import time_to_text

if TYPE_CHECKING:
    from indelible.tokens import AccessToken

MOST_ENTRIES = 1_000
"""Most entries of a shipment."""

MOST_EVENTS = 1_000
"""Most plain events of a request."""

MAX_BODY = 5 * 1024 * 1024
"""Most bytes of a request's body, after it was decompressed."""

PROBLEM = "application/problem+json"
"""Media type of an error, RFC 9457."""

PURPOSE_HEADER = "Indelible-Purpose"
"""Why values are opened, in the reader's words; kept with the opening."""

CASE_HEADER = "Indelible-Case"
"""What the reader works on: masked identities become pseudonyms within it."""


def is_this_machine(host: str) -> bool:
    """Tell whether *host* is this machine, the only one that plain HTTP may be spoken with."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer: who reads it takes what it knows, so a newer collector may say more."""


class _Body(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A request's body."""


class Problem(_Wire, frozen=True, kw_only=True):
    """
    An error as RFC 9457 says it.

    Attributes:
        type: Names the kind of problem: ``/problems/forked``.
        detail: In words: what was found and what was expected.
        errors: Of each item that is wrong, where and what.
        expected: The index that a producer is to go on with.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    errors: tuple[dict[str, Any], ...] = ()
    expected: int | None = None


class Shipment(_Body, frozen=True, kw_only=True):
    """
    Entries of a producer's log on their way to a collector: ``POST …/entries``.

    Attributes:
        entries: Exact bytes, in order, without a gap; at most `MOST_ENTRIES`.
        disclosures: By index (as text) what opens the values that an entry commits to, in
            the order of ``committed``: a disclosure, or its leaf hash alone (43 characters)
            where it is not here any more.
        checkpoint: The producer's signed note, over these entries or more.
        consistency: Base64 hashes that prove that the checkpoint's tree begins with the one
            that ends with these entries; none where it ends there itself.
        rotations: All rotation notes of the log, where there are any.
        policies: Documents of policies that the entries name, unless they were sent before.
    """

    entries: tuple[msgspec.Raw, ...]
    disclosures: dict[str, tuple[msgspec.Raw, ...]] = {}
    checkpoint: str
    consistency: tuple[str, ...] = ()
    rotations: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


class Refused(_Wire, frozen=True, kw_only=True):
    """An entry that was kept and that the collector says something against."""

    index: int
    why: str


class ShipmentReceipt(_Wire, frozen=True, kw_only=True):
    """
    What a collector answers a shipment: all before *size* is under its own checkpoint.

    Attributes:
        producer: Origin of the producer's log.
        size: How many of its entries the collector has now.
        log: The collector's log that they are in.
        first: The index there of the first that was new; none where all were there already.
        entries: How many were new.
        checkpoint: The collector's signed note over that log.
        refused: Entries that are kept and marked.
    """

    producer: str
    size: int
    stream: str
    log: str
    first: int | None = None
    entries: int = 0
    checkpoint: str
    state: str = "collected"
    refused: tuple[Refused, ...] = ()


class Standing(_Wire, frozen=True, kw_only=True):
    """
    What a collector has of a producer's log: ``GET /v1/producers/{origin}``.

    Attributes:
        key: The verifier key that it was enrolled with.
        stream: Where its entries go.
        size: How many of its entries the collector has: the index to go on with.
        root: Base64 root of their tree.
        promised: The largest size that the producer has signed.
        rotations: How many rotation notes are known.
        revoked_at: The size from which on nothing more is taken.
        alarm: Why nothing more is taken from it, where something did not hold.
    """

    origin: str
    key: str
    stream: str
    tenant: str | None = None
    size: int
    root: str
    promised: int
    rotations: int = 0
    enrolled_at: str
    seen_at: str | None = None
    revoked_at: int | None = None
    alarm: str | None = None


class Enrolment(_Body, frozen=True, kw_only=True):
    r"""
    Logs that ask to be producers: ``POST /v1/producers``.

    Attributes:
        keys: The verifier key of each log; its name is the log's origin, whose last part
            is the stream.
        proofs: For each, a note ``indelible/enrol/1\n<origin>\n<id of the join token>\n``
            signed with it; whoever comes with a join token must have the keys.
        stream: Where all of their entries go, if not to the stream of the same name.
    """

    keys: tuple[str, ...]
    proofs: tuple[str, ...] = ()
    tenant: str | None = None
    stream: str | None = None


class Enrolled(_Wire, frozen=True, kw_only=True):
    """The producers that were enrolled; *token* is shown this once, to whoever joined."""

    producers: tuple[Standing, ...]
    token: str | None = None


class Events(_Body, frozen=True, kw_only=True):
    """
    Plain events, which the collector seals: ``POST /v1/events``.

    Attributes:
        events: As `indelible.event.Event` in JSON; each has an id (UUIDv7), by which a
            repetition is known.
    """

    events: tuple[msgspec.Raw, ...]


class EventResult(_Wire, frozen=True, kw_only=True):
    """
    What became of one event.

    Attributes:
        status: 201 recorded, 200 recorded before, 409 other content under this id, 410 an id
            too old to tell whether it was recorded, 422 no event, 204 not to be captured.
        leaf_hash: Hex.
    """

    status: int
    id: str = ""
    stream: str | None = None
    log: str | None = None
    index: int | None = None
    leaf_hash: str | None = None
    state: str | None = None
    problem: Problem | None = None


class EventResults(_Wire, frozen=True, kw_only=True):
    """One result for each event, in the order of the request; the answer's status is 207."""

    results: tuple[EventResult, ...]


class EventCheck(_Wire, frozen=True, kw_only=True):
    """
    What a policy would do with one event.

    Attributes:
        committed: Paths of values that would go into the vault.
        dropped: Paths of secrets, which would be kept nowhere.
        caught: Paths that looked like secrets although the policy leaves them in clear.
    """

    id: str = ""
    stream: str | None = None
    rule: str | None = None
    policy: str | None = None
    level: str | None = None
    committed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    caught: tuple[str, ...] = ()
    problem: Problem | None = None


class EventChecks(_Wire, frozen=True, kw_only=True):
    """One for each event, in the order of the request."""

    results: tuple[EventCheck, ...]


class Integrity(_Wire, frozen=True, kw_only=True):
    """
    How it can be known that an item is what was recorded.

    Attributes:
        log: Name of the collector's log.
        origin: Of that log's checkpoints.
        leaf_hash: Hex.
        state: ``collected`` once a checkpoint covers it, which all that is shown are.
        producer: Origin of the log that the collector has it from.
    """

    log: str
    origin: str
    index: int
    leaf_hash: str
    state: str = "collected"
    producer: str | None = None


class EntryItem(_Wire, frozen=True, kw_only=True):
    """
    One entry of an answer.

    Attributes:
        event: As the reader may see it.
        redactions: Path of each value that is not shown, and its state (``WITHHELD``,
            ``ERASED``…).
        values: Path of each committed value, and its state.
        entry: The entry's exact bytes, for whoever wants to verify them.
        disclosures: What proves the shown values against the entry's commitment, in the
            order of ``committed`` as in `Shipment`: a disclosure, or its leaf hash alone (43
            characters) where the value is not shown; none where the spine is not here.
    """

    id: str
    stream: str
    recorded_at: str
    event: msgspec.Raw
    redactions: dict[str, str] = {}
    values: dict[str, str] = {}
    integrity: Integrity
    entry: msgspec.Raw
    disclosures: tuple[msgspec.Raw, ...] = ()


class EntryPage(_Wire, frozen=True, kw_only=True):
    """
    A page of entries.

    Attributes:
        cursor: For the next page; none where this is the last.
        sizes: The size of each log's tree that the answer is over.
    """

    items: tuple[EntryItem, ...]
    cursor: str | None = None
    sizes: dict[str, int] = {}


class FeedPage(_Wire, frozen=True, kw_only=True):
    """
    A log in its order, without a gap: ``GET /v1/feed/{stream}``.

    Attributes:
        after: The index of the last item, or the one asked with where there is none: what
            to ask with next.
        size: How many entries the log has.
        first: Index of the first that was not purged.
        checkpoint: The collector's signed note over them.
        successor: Name of the log that goes on where this one has ended for good.
    """

    items: tuple[EntryItem, ...]
    after: int
    size: int
    first: int = 0
    checkpoint: str
    successor: str | None = None


class TokenRequest(_Body, frozen=True, kw_only=True):
    """
    An access token to be issued: ``POST /v1/tokens``.

    Attributes:
        role: What it may do, see `indelible.rights`.
        streams: Those it may read or record into; all where there are none.
        tenant: Whose entries alone it sees.
        producer: For a recorder: origin of the trail whose logs it may ship; ending with
            ``/*`` for all below it. For a join token, whom it may enrol.
        expires_in: Such as ``8h`` or ``30d``.
        uses: How many producers a join token may enrol.
    """

    name: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    producer: str | None = None
    expires_in: str = "90d"
    uses: int | None = None


class TokenShown(_Wire, frozen=True, kw_only=True):
    """
    An access token as it may be shown.

    Attributes:
        token: The secret, in the answer that issues it and never again.
    """

    id: str
    name: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    producer: str | None = None
    created_at: str
    created_by: str
    expires_at: str
    last_used_at: str | None = None
    revoked_at: str | None = None
    uses_left: int | None = None
    token: str | None = None

    @classmethod
    def of(cls, token: AccessToken, secret: str | None = None) -> TokenShown:
        """Return what may be shown of *token*; its *secret* when it is issued."""

        def time(moment: int | None) -> str | None:
            return None if moment is None else time_to_text(moment)

        return cls(
            id=token.id,
            name=token.name,
            role=token.role,
            streams=token.streams,
            tenant=token.tenant,
            producer=token.producer,
            created_at=time_to_text(token.created_at),
            created_by=token.created_by,
            expires_at=time_to_text(token.expires_at),
            last_used_at=time(token.last_used_at),
            revoked_at=time(token.revoked_at),
            uses_left=token.uses_left,
            token=secret,
        )


class TokenRotation(_Body, frozen=True, kw_only=True):
    """
    An access token to be replaced: ``POST /v1/tokens/{id}/rotate``.

    Attributes:
        overlap: How long the old one still works.
    """

    overlap: str = "1h"


class ViewerTokenRequest(_Body, frozen=True, kw_only=True):
    """
    A short right to read that is to be handed on: ``POST /v1/viewer-tokens``.

    Attributes:
        name: Who is to look; it stands in the entries that say who has read.
        streams, tenant: What it is limited to; without them, to what the caller is.
        expires_in: At most ``1h``.
    """

    name: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    expires_in: str = "1h"


class ViewerTokenShown(_Wire, frozen=True, kw_only=True):
    """A viewer token, which nothing is kept of."""

    token: str
    name: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    expires_at: str


class FacetShown(_Wire, frozen=True, kw_only=True):
    """
    How often the values of one field occur among the entries that a query asks for.

    Attributes:
        counts: The most frequent values, each with how often it occurs.
        distinct: How many values there are.
        total: How many entries have one.
        withheld: How many have one besides that is not shown.
        gte: Only the newest entries were counted: all of these numbers may be larger.
    """

    counts: tuple[FacetCount, ...]
    distinct: int
    total: int
    withheld: int = 0
    gte: bool = False


class FacetCount(_Wire, frozen=True, kw_only=True):
    """How often one value occurs."""

    value: str
    count: int


class FacetsShown(_Wire, frozen=True, kw_only=True):
    """The facets of a query, by field: ``GET /v1/facets``."""

    facets: dict[str, FacetShown]


class ValueShown(_Wire, frozen=True, kw_only=True):
    """What a field of a resource holds, and the id of the event that set it."""

    value: Any
    since: str


class GapShown(_Wire, frozen=True, kw_only=True):
    """
    A change that found another value than the entry before it had left.

    Attributes:
        expected, found: None where the field was not there.
        after, before: Ids of the two events.
    """

    field: str
    expected: Any = None
    found: Any = None
    after: str
    before: str


class StateShown(_Wire, frozen=True, kw_only=True):
    """
    The fields of a resource as recorded changes leave them: ``GET /v1/resources/…/state``.

    Attributes:
        at: The time that was asked for; none for now.
    """

    resource: str
    at: str | None = None
    values: dict[str, ValueShown]
    unexplained: tuple[GapShown, ...] = ()


class ActorShown(_Wire, frozen=True, kw_only=True):
    """
    What an actor has done, as far as it is seen: ``GET /v1/actors/{actor}``.

    Attributes:
        first_seen, last_seen: When its first and its last entry were recorded.
        recent: Its newest entries.
    """

    actor: str
    first_seen: str
    last_seen: str
    actions: FacetShown
    outcomes: FacetShown
    recent: tuple[EntryItem, ...]


class ViewShown(_Wire, frozen=True, kw_only=True):
    """A curated view: a query that has a name."""

    name: str
    title: str
    says: str
    query: str


class ViewsShown(_Wire, frozen=True, kw_only=True):
    """All curated views: ``GET /v1/views``."""

    views: tuple[ViewShown, ...]


class LogShown(_Wire, frozen=True, kw_only=True):
    """
    A log of the collector, and how it is signed.

    Attributes:
        checkpoint: The signed note over it as it is now; none while it is empty.
        key: The verifier key that it was made with.
        rotations: The notes by which it changed its key since, the oldest first.
        recorded_at: When its last entry was recorded.
        age: Seconds since then.
        first: Index of the first entry that was not purged.
    """

    log: str
    stream: str
    origin: str
    size: int
    first: int = 0
    checkpoint: str | None = None
    key: str | None = None
    rotations: tuple[str, ...] = ()
    recorded_at: str | None = None
    age: float | None = None


class LogsShown(_Wire, frozen=True, kw_only=True):
    """All logs of the collector: ``GET /v1/checkpoints``."""

    logs: tuple[LogShown, ...]


class ProducerShown(_Wire, frozen=True, kw_only=True):
    """How far the collector is with a producer, and what of it did not hold."""

    origin: str
    stream: str
    size: int
    promised: int
    seen_at: str | None = None
    alarm: str | None = None


class ScrubShown(_Wire, frozen=True, kw_only=True):
    """
    How far the verification of all that is kept has come.

    Attributes:
        coverage: Which part of the segments the round under way has verified, from 0 to 1.
        findings: What did not hold, in this round or the one before.
        missing: Values that nobody can account for.
    """

    started_at: str | None = None
    finished_at: str | None = None
    coverage: float
    findings: tuple[str, ...] = ()
    missing: int | None = None


class IntegrityShown(_Wire, frozen=True, kw_only=True):
    """
    Whether all is as it was recorded, as far as is known: ``GET /v1/integrity``.

    Attributes:
        scrub: None for a caller that sees only a part of the trail.
    """

    origin: str
    logs: tuple[LogShown, ...]
    producers: tuple[ProducerShown, ...]
    scrub: ScrubShown | None = None


class Consistency(_Wire, frozen=True, kw_only=True):
    """The proof that the tree of *second* entries begins with that of *first*."""

    first: int
    second: int
    hashes: tuple[str, ...]


class PolicyShown(_Wire, frozen=True, kw_only=True):
    """
    The policy that a collector is under: ``GET /v1/policy``.

    Attributes:
        document: Its exact text.
        digest: SHA-256 of that, in hex.
    """

    label: str
    digest: str
    version: int
    document: str


class PolicyChange(_Body, frozen=True, kw_only=True):
    """A policy that is to be in force from now on: ``PUT /v1/policy``."""

    document: str


class Needed(_Wire, frozen=True, kw_only=True):
    """Whose consent a policy asks for: of how many, and of whom, by roles or names."""

    n: int
    of: tuple[str, ...]


class PlanShown(_Wire, frozen=True, kw_only=True):
    """
    A plan that waits for its approvals.

    Attributes:
        plan: Base64 of its exact bytes: what people sign the digest of.
        digest: SHA-256 of these, in hex.
        entries: How many entries have values that it takes.
        values: How many values it takes, by class.
        deferred: How many values it leaves for now, by their ground.
        in_clear: How many entries name the subject in the log itself, where it stays.
        approved_by: People whose approvals were handed in.
    """

    digest: str
    kind: str
    plan: str | None = None
    basis: str
    requester: str
    created_at: str
    not_before: str
    expires: str
    entries: int = 0
    values: dict[str, int] = {}
    deferred: dict[str, int] = {}
    in_clear: int = 0
    needed: Needed
    approved_by: tuple[str, ...] = ()


class ErasureRequest(_Body, frozen=True, kw_only=True):
    """
    An erasure to be planned: ``POST /v1/erasures``.

    Attributes:
        subject: Such as ``user:alice``.
        basis: Why it is lawful or due, in words that name nobody.
        paths: Only values at these.
    """

    subject: str
    basis: str
    paths: tuple[str, ...] = ()


class ApprovalNote(_Body, frozen=True, kw_only=True):
    """The signed note in which a person consents to a plan: ``POST /v1/approvals``."""

    note: str


class ErasureDone(_Wire, frozen=True, kw_only=True):
    """What was erased: ``POST /v1/erasures/{digest}/carry-out``."""

    plan: str
    entries: int
    values: int
    keys: int


class ErasureShown(_Wire, frozen=True, kw_only=True):
    """
    What the ledger says of one erasure or purge.

    Attributes:
        kind: ``erase`` or ``purge``.
        plan: Digest of the plan, in hex.
        state: ``planned``, ``begun``, ``effective``; ``invalid`` for one that is no ground.
        entry: Place of the custody entry that began it.
    """

    kind: str
    plan: str
    state: str
    entry: str | None = None
    at: str
    basis: str = ""
    requester: str = ""
    entries: int = 0
    values: int = 0
    approved_by: tuple[str, ...] = ()
    self_approved: bool = False
    why: str = ""


class HoldRequest(_Body, frozen=True, kw_only=True):
    """
    A legal hold to be placed: ``POST /v1/holds``; on a subject, a query, or on everything.

    Attributes:
        ground: Why: a case, an order.
    """

    ground: str
    subject: str | None = None
    query: str | None = None
    everything: bool = False


class HoldShown(_Wire, frozen=True, kw_only=True):
    """A legal hold; what the reader's role does not see is masked."""

    id: str
    ground: str
    subject: str | None = None
    query: str | None = None
    placed_at: str
    released_at: str | None = None


class AccessRequest(_Body, frozen=True, kw_only=True):
    """
    A grant that is asked for: ``POST /v1/access-requests``.

    Attributes:
        classes: What is to be seen; by default each that the role sees under a grant.
        paths: Only values at these.
        query, entry: Of which entries: those that a query finds, or one, by its event's id.
        duration: Such as ``2h``.
        break_glass: It is to begin at once, and to be reviewed afterwards.
    """

    classes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    query: str | None = None
    entry: str | None = None
    rationale: str
    duration: str
    break_glass: bool = False


class AccessDecision(_Body, frozen=True, kw_only=True):
    """Consent to a request, or its refusal: ``POST /v1/access-requests/{id}/decision``."""

    approve: bool
    rationale: str


class DecisionShown(_Wire, frozen=True, kw_only=True):
    """Who has decided what about a request."""

    by: str
    approve: bool
    at: str


class GrantShown(_Wire, frozen=True, kw_only=True):
    """
    A request for access, and the grant that it has become.

    Attributes:
        state: ``asked``, ``active``, ``refused``, ``lapsed``, ``ended``, ``revoked``.
        by: Name of whoever has asked.
        needed: How many have to approve.
        uses, entries: How often it was used, and for how many entries in all.
        review_by: Until when one that began by break-glass is to be looked at.
    """

    id: str
    state: str
    by: str
    role: str
    classes: tuple[str, ...]
    paths: tuple[str, ...] = ()
    query: str
    rationale: str
    duration: str
    asked_at: str
    needed: int
    decisions: tuple[DecisionShown, ...] = ()
    began_at: str | None = None
    ends_at: str | None = None
    revoked_at: str | None = None
    break_glass: bool = False
    review_by: str | None = None
    uses: int = 0
    entries: int = 0
    last_used_at: str | None = None


class ExportRequest(_Body, frozen=True, kw_only=True):
    """
    Entries to be taken away in a file: ``POST /v1/exports``.

    Attributes:
        query: Which; for evidence exactly one, ``id:…``.
        format: ``jsonl``, ``csv``, ``ocsf``, ``ecs``, ``parquet`` or ``evidence``.
    """

    query: str
    format: str
    rationale: str


class ExportShown(_Wire, frozen=True, kw_only=True):
    """
    An export, and how far it has come: ``GET /v1/exports/{id}``.

    Attributes:
        state: ``waiting``, ``running``, ``ready``, ``failed``, ``gone``.
        entries: How many are in it by now.
        sha256: Of the file, in hex; the custody entry of the export names it, too.
        file: Where the file is, until *expires_at*.
        why: Why there is no file.
    """

    id: str
    state: str
    format: str
    made_at: str
    entries: int = 0
    size: int = 0
    sha256: str | None = None
    file: str | None = None
    expires_at: str | None = None
    why: str = ""


class SinkShown(_Wire, frozen=True, kw_only=True):
    """
    What a stream is also sent to.

    Attributes:
        log: The log that is followed; none where the policy only names the sink.
        size: How many of its entries the sink has.
    """

    name: str
    stream: str
    log: str | None = None
    size: int | None = None
    of: int | None = None
    at: str | None = None
