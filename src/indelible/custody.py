"""
Custody: what the trail writes about itself, and when.

The custody stream names when a process begins and ends to record, the keys, the
segments that were closed, what could not be kept, and the sizes and roots of the
other logs: so emptying one of them contradicts another.
"""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from indelible.errors import Moved
from indelible.event import Actor, Event, Outcome, Rationale, Resource
from indelible.log import append, head_of
from indelible.policy import CUSTODY, FieldClass, FieldRule, Policy, Rule, Stream
from indelible.seal import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from indelible.keys import Signer
    from indelible.seal import Sealed
    from indelible.store import Head, Store, Transaction
    from indelible.vault import Vault

HEARTBEAT = 60.0
"""Seconds after which the sizes and roots of logs that have grown are named."""

_SELF = Actor(type="system", id="indelible")
_ATTEMPTS = 5


class Owner(Protocol):
    """The trail that writes about itself."""

    @property
    def id(self) -> str:
        """The trail's id."""
        ...

    @property
    def store(self) -> Store:
        """Where its logs are kept."""
        ...

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        ...


class VaultOwner(Owner, Protocol):
    """A trail that may also write what is committed."""

    @property
    def vault(self) -> Vault:
        """Where its values are kept."""
        ...


def add(owner: Owner, transaction: Transaction, events: Sequence[Sealed], now: int) -> None:
    """
    Place *events* at the end of the custody stream, with whatever else *transaction* does.

    Args:
        now: Microseconds since 1970.

    Raises:
        StoreError: The store refused them.
    """
    head = head_of(transaction.heads(), CUSTODY)
    append(transaction, head, events, owner.signer_of(head), now)


def write(
    owner: VaultOwner,
    events: Callable[[], Sequence[Sealed]],
    now: int,
    documents: Iterable[bytes] = (),
) -> None:
    """
    Write into the custody stream what *events* returns, and keep *documents* with it.

    Args:
        now: Microseconds since 1970.

    Raises:
        StoreError: Nothing was written.
        WriteUncertain: It may have been.
    """
    for attempt in range(_ATTEMPTS):
        sealed = events()
        try:
            with owner.store.write() as transaction:
                owner.vault.keyring.keep(key for each in sealed for key in each.keys)
                for document in documents:
                    transaction.add_document(document)
                add(owner, transaction, sealed, now)
        except Moved:
            # A key was destroyed between sealing and writing: it is sealed anew.
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


@dataclass(frozen=True, slots=True)
class _Loss:
    """Events of one stream that could not be kept, and from when to when."""

    count: int
    since: str
    until: str


class Custody:
    """
    What the custody stream of *trail* has heard, and has yet to hear, of this process.

    Attributes:
        started: It knows that this process records.
        stopping: The next commit is the last.
    """

    def __init__(self, trail: str) -> None:
        self._trail = trail
        self.begin()

    def begin(self) -> None:
        """Begin as a process that nothing has been heard of."""
        # Reentrant: a signal handler may record in the middle of a record.
        self._lock = threading.RLock()
        self.started = False
        self.stopping = False
        self._trees: dict[str, dict[str, Any]] = {}
        self._named_at = 0.0
        self._grown = False
        self._unnamed: dict[str, _Loss] = {}
        self._lost: dict[str, int] = {}
        self._offered: Callable[[], None] | None = None

    def seconds_left(self) -> float:
        """Return how long until something is to be written even if nobody records."""
        if self._unnamed:
            return 0.0
        return self._named_at + HEARTBEAT - monotonic() if self._grown else HEARTBEAT

    def events(self, heads: Mapping[str, Head]) -> list[Sealed]:
        """
        Return what to write with this commit, given the *heads* that are durable.

        It is still to be said until `written` is called: a commit may fail.
        """
        now = monotonic()
        trees = {log: _tree(head) for log, head in heads.items() if head.stream != CUSTODY}
        with self._lock:
            losses = dict(self._unnamed)
        events = [
            self.event(
                "events.lost", stream=stream, count=loss.count, since=loss.since, until=loss.until
            )
            for stream, loss in losses.items()
        ]
        said = grown = True
        if not self.started:
            events.append(self.event("trail.start", logs=trees, process=os.getpid()))
        elif self.stopping:
            events.append(self.event("trail.stop", logs=trees, process=os.getpid()))
        elif now < self._named_at + HEARTBEAT:
            said = False
        elif trees != self._trees:
            events.append(self.event("trail.heads", logs=trees))
        else:
            grown = False

        def written() -> None:
            self.started, self._grown = True, grown
            if said:
                self._trees, self._named_at = trees, now
            self._forget(losses)

        self._offered = written
        return events

    def written(self) -> None:
        """Take note that what `events` returned last is durable."""
        if self._offered is not None:
            self._offered()
            self._offered = None

    def event(self, action: str, **data: Any) -> Sealed:
        """Return the sealed event of what the trail did itself."""
        return own_event(self._trail, action, **data)

    def lose(self, stream: str, count: int) -> None:
        """Count events that could not be kept, to be named as soon as writing works again."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        with self._lock:
            before = self._unnamed.get(stream, _Loss(0, now, now))
            self._unnamed[stream] = _Loss(before.count + count, before.since, now)
            self._lost[stream] = self._lost.get(stream, 0) + count

    def lost(self) -> dict[str, int]:
        """Return how many events of each stream this process could not keep."""
        with self._lock:
            return dict(self._lost)

    def _forget(self, named: Mapping[str, _Loss]) -> None:
        with self._lock:
            for stream, loss in named.items():
                now = self._unnamed.pop(stream)
                if now.count > loss.count:  # more came while these were being named
                    rest = now.count - loss.count
                    self._unnamed[stream] = _Loss(rest, loss.until, now.until)


def own_event(trail: str, action: str, **data: Any) -> Sealed:
    """Return the sealed event of what *trail* did itself, all of it in clear."""
    return seal(_event(trail, action, data))


def private_event(
    vault: Vault,
    trail: str,
    action: str,
    *,
    outcome: Outcome = Outcome.SUCCESS,
    rationale: str | None = None,
    **data: Any,
) -> Sealed:
    """
    Return the sealed event of what was done with *trail*, whose private parts are committed.

    These are the rationale, and of the data `PRIVATE`: they may name people.

    Raises:
        KeyUnavailable: The vault is locked.
    """
    event = _event(trail, action, data, outcome, rationale)
    sealed = seal(event, _OWN.rule_on(event), _OWN)
    return vault.enclose(sealed, CUSTODY)


def _event(
    trail: str,
    action: str,
    data: dict[str, Any],
    outcome: Outcome = Outcome.SUCCESS,
    rationale: str | None = None,
) -> Event:
    return Event(
        action=action,
        outcome=outcome,
        actor=_SELF,
        resource=Resource(type="trail", id=trail),
        data=data,
        rationale=None if rationale is None else Rationale(text=rationale),
    )


PRIVATE = {
    "subject": FieldClass.PERSONAL,
    "query": FieldClass.PERSONAL,
    "purpose": FieldClass.ACCOUNTABLE,
    "ground": FieldClass.ACCOUNTABLE,
}
"""
Names below ``/data`` of custody entries whose values may name people, and their class.

What was searched for is as personal as what was found: who may not see somebody's address
may not read it in the questions of those who may.
"""

_OWN = Policy(
    id="custody",
    streams={CUSTODY: Stream()},
    rules=(Rule(name="custody", stream=CUSTODY),),
    fields={
        "*": FieldRule(class_=FieldClass.PUBLIC),
        "/data/*": FieldRule(class_=FieldClass.PUBLIC),
        "/rationale": FieldRule(class_=FieldClass.INTERNAL),
        **{f"/data/{name}": FieldRule(class_=class_) for name, class_ in PRIVATE.items()},
    },
)
"""How the trail classifies what it writes about itself; no policy of others changes it."""


def _tree(head: Head) -> dict[str, Any]:
    return {"size": head.size, "root": b64encode(head.edge.root).decode("ascii")}
