"""
Grants: more sight for a while, of chosen entries, because others have consented.

::

    ask      which classes of which entries, why, and for how long
    decide   others approve or refuse; with enough approvals it begins
    use      what the role sees under a grant is shown, in these entries alone, and counted
    end      by itself, or revoked

A grant changes what its holder's role sees only where the policy says ``grant``. It is for
entries that were there when it began: what is recorded later was not consented to. By what
a role does not see, its grants let nobody search, count or sort.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies, query
from indelible.access import Viewer
from indelible.box import Found, ValueState
from indelible.duration import Duration
from indelible.entry import microseconds, moment_of
from indelible.errors import CallerError, Forbidden, NotApproved
from indelible.policy import OWNER, FieldClass, Sight
from indelible.query import Query
from indelible.reader import Reader
from indelible.rights import ISSUABLE
from indelible.vault import Opener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from indelible.event import Event
    from indelible.keyring import DataKey
    from indelible.policy import Policy
    from indelible.reader import Owner
    from indelible.rights import Caller
    from indelible.seal import Clear
    from indelible.store import View
    from indelible.vault import Vault

KIND = "grant"
"""Of the facts that say how each grant stands; key: its id."""

ASKED, DECIDED, USED, REVOKED = "grant.ask", "grant.decide", "grant.use", "grant.revoke"
"""Actions of the custody entries."""

MOST_ENTRIES = 10_000
"""Most entries that one grant is for."""

_PROVIDER, _VIEWER = "oidc:", "viewer:"
"""What the ids of callers begin with whom an identity provider knows, or with viewer tokens."""

_WAITS = 7 * 86_400_000_000
"""Microseconds after which what nobody has decided lapses."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller has decided about a request."""

    caller: str
    person: str
    approves: bool
    at: int


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """
    A request for access, and what became of it. Times are microseconds since 1970.

    What it is for and why stand in the custody entry alone, where they are committed: they
    may name people.

    Attributes:
        caller, person: Who has asked: the caller's id, and who that is (`person_of`).
        streams, tenant: What the caller is limited to.
        paths: Only values at these; at all where there are none.
        index, log: Place of the custody entry that says so.
        lasts: How long it is for.
        needed: How many have to approve.
        break_glass: It has begun before anybody had approved.
        review_by: Until when that is to be looked at.
        uses, entries: How often it was used, and for how many entries in all.
    """

    id: str
    caller: str
    person: str
    name: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    classes: tuple[FieldClass, ...]
    paths: tuple[str, ...] = ()
    log: str = ""
    index: int = 0
    asked_at: int
    lasts: int
    duration: str
    needed: int
    decisions: tuple[Decision, ...] = ()
    began_at: int | None = None
    revoked_at: int | None = None
    break_glass: bool = False
    review_by: int | None = None
    uses: int = 0
    entries: int = 0
    last_used_at: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Grant:
        """Read what `to_bytes` writes."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """Write it as a fact."""
        return msgspec.json.encode(self)

    @property
    def ends_at(self) -> int | None:
        """When it ends by itself; None where it has not begun."""
        return None if self.began_at is None else self.began_at + self.lasts

    def state(self, now: int) -> str:
        """Return how it stands: asked, refused, lapsed, active, ended or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        if self.began_at is not None:
            return "active" if now < self.began_at + self.lasts else "ended"
        if any(not each.approves for each in self.decisions):
            return "refused"
        return "asked" if now < self.asked_at + _WAITS else "lapsed"

    def is_seen_by(self, caller: Caller) -> bool:
        """Tell whether *caller*, who decides, may see that somebody has asked."""
        return caller.includes(streams=self.streams, tenant=self.tenant)

    def widens(self, sights: Mapping[FieldClass, Sight]) -> dict[FieldClass, Sight]:
        """Return what of *sights* is seen instead while it is active."""
        return {class_: Sight.PLAIN for class_ in self.classes if sights.get(class_) is Sight.GRANT}


def person_of(caller: Caller) -> str:
    """
    Return who *caller* is, as a policy knows people, whatever token they have come with.

    What an identity provider lets people call themselves is not who they are: of theirs it
    is what stands in the id.
    """
    is_theirs = caller.id.startswith(_PROVIDER)
    return caller.id.removeprefix(_PROVIDER) if is_theirs else caller.name


def is_one_of(caller: Caller, named: Sequence[str], policy: Policy) -> bool:
    """
    Tell whether *caller* is among those that a policy names by roles or as people.

    Names of access tokens that an operator may issue say nothing: it chooses them.
    """
    if caller.role in ISSUABLE and not caller.id.startswith(_PROVIDER):
        return caller.role in named
    person = person_of(caller)
    known = policy.people.get(person)
    roles = () if known is None else known.roles
    return not {caller.role, person, *roles}.isdisjoint(set(named) - {OWNER})


# ---- Asking and deciding ----


def ask(
    caller: Caller,
    policy: Policy,
    *,
    name: str,
    classes: Sequence[str] = (),
    paths: Sequence[str] = (),
    duration: str,
    break_glass: bool = False,
    now: int,
) -> Grant:
    """
    Return the request of *caller* for a grant.

    Args:
        name: Id of the request.
        classes: What is to be seen; by default all that the role sees under a grant.

    Raises:
        CallerError: A class or the duration is not one that can be granted.
        Forbidden: The role sees nothing under a grant; or the caller may not break glass.
    """
    if caller.id.startswith(_VIEWER):
        raise Forbidden("request: found a viewer token, which many may share; expected another")
    sights = policy.sights(caller.role) or {}
    grantable = [class_ for class_, sight in sights.items() if sight is Sight.GRANT]
    if not grantable:
        raise Forbidden(f"role {caller.role}: sees nothing under a grant that it does not see")
    for each in classes:
        if each not in grantable:
            raise CallerError(
                f"classes: found {each[:40]!r}, expected {' or '.join(grantable)}, which role"
                f" {caller.role} sees under a grant"
            )
    for path in paths:
        if not path.startswith("/"):
            raise CallerError(f"paths: found {path[:80]!r}, expected one such as /client/ip")
    governance = policy.governance
    most, review = governance.grants.valid, None
    if break_glass:
        emergency = governance.break_glass
        if emergency is None or not is_one_of(caller, emergency.who, policy):
            raise Forbidden("break_glass: the policy does not let this caller")
        most = emergency.max
        if emergency.review is not None:
            review = microseconds(Duration.parse(emergency.review).after(moment_of(now)))
    return Grant(
        id=name,
        caller=caller.id,
        person=person_of(caller),
        name=caller.name,
        role=caller.role,
        streams=caller.streams,
        tenant=caller.tenant,
        classes=tuple(FieldClass(each) for each in dict.fromkeys(classes or grantable)),
        paths=tuple(dict.fromkeys(paths)),
        asked_at=now,
        lasts=_lasting(duration, most, now),
        duration=duration,
        needed=max(1, governance.grants.n),
        began_at=now if break_glass else None,
        break_glass=break_glass,
        review_by=review,
    )


def _lasting(duration: str, most: str, now: int) -> int:
    try:
        lasts = Duration.parse(duration)
    except CallerError as error:
        raise CallerError(f"duration: {error}") from None
    if lasts.length > Duration.parse(most).length:
        raise CallerError(f"duration: found {duration}, expected at most {most}")
    return microseconds(lasts.after(moment_of(now))) - now


def decide(grant: Grant, caller: Caller, policy: Policy, *, approves: bool, now: int) -> Grant:
    """
    Return *grant* as it stands when *caller* has decided.

    Of a grant that began by break-glass this is the review: to refuse it ends it.

    Raises:
        Forbidden: It is the caller's own, or the policy asks others.
        NotApproved: There is nothing to decide any more, or the caller has already.
    """
    person = person_of(caller)
    if caller.id == grant.caller or person == grant.person:
        raise Forbidden("request: is the caller's own, expected somebody else to decide")
    asked = set(policy.governance.grants.from_) - {OWNER}
    # Where the policy names the owner alone, it is whoever the owner gave the right to.
    if asked and not is_one_of(caller, tuple(asked), policy):
        raise Forbidden(f"request: expected {', '.join(sorted(asked))} to decide")
    state = grant.state(now)
    is_reviewed = grant.break_glass and state in {"active", "ended"}
    if state != "asked" and not is_reviewed:
        raise NotApproved(f"request {grant.id}: is {state}, expected one that waits")
    if any(caller.id == each.caller or person == each.person for each in grant.decisions):
        raise NotApproved(f"request {grant.id}: this caller has decided already")
    made = Decision(caller=caller.id, person=person, approves=approves, at=now)
    decided = msgspec.structs.replace(grant, decisions=(*grant.decisions, made))
    if not approves:
        stopped = grant.began_at is not None and state == "active"
        return msgspec.structs.replace(decided, revoked_at=now) if stopped else decided
    if grant.began_at is None and len(decided.decisions) >= grant.needed:
        return msgspec.structs.replace(decided, began_at=now)
    return decided


def revoke(grant: Grant, *, now: int) -> Grant:
    """
    Return *grant* as it stands when it was revoked.

    Raises:
        NotApproved: It has ended, or was refused.
    """
    if (state := grant.state(now)) not in {"asked", "active"}:
        raise NotApproved(f"request {grant.id}: is {state} already")
    return msgspec.structs.replace(grant, revoked_at=now)


def active(view: View, caller: Caller, now: int) -> list[Grant]:
    """Return the grants of *caller* that last, with the role that it has now."""
    found = (Grant.from_bytes(kept) for _, kept in view.facts(KIND))
    return [
        grant
        for grant in found
        if (grant.caller, grant.role) == (caller.id, caller.role) and grant.state(now) == "active"
    ]


def covered(
    view: View, vault: Vault, policy: Policy, asked: str, until: int
) -> list[tuple[str, int]]:
    """
    Return the places of the entries that *asked* finds, of those recorded before *until*.

    Raises:
        InvalidQuery, UnknownStream: It means nothing.
        CallerError: It finds more than `MOST_ENTRIES`.
    """
    places = []
    for item in query.matches(view, Query.parse(asked), vault.opener(Viewer(), policy)):
        if item.entry.recorded_at < until:
            places.append((item.log, item.index))
        if len(places) > MOST_ENTRIES:
            raise CallerError(f"query: finds more than {MOST_ENTRIES} entries, expected fewer")
    return places


# ---- Reading under a grant ----


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that lasts, and the places of the entries that it is for."""

    grant: Grant
    places: frozenset[tuple[str, int]]


class GrantedReader(Reader):
    """
    Reads for a caller who may hold grants.

    Args:
        granted: Returns those that last.
        used: Told, before anything is shown, by which grants how many entries are.
    """

    def __init__(
        self,
        owner: Owner,
        viewer: Viewer,
        caller: Caller,
        *,
        granted: Callable[[View], Sequence[Granted]],
        used: Callable[[Mapping[str, int]], object],
    ) -> None:
        super().__init__(owner, viewer, caller)
        self._granted, self._used = granted, used

    def _opener(self, view: View) -> Opener:
        granted = self._granted(view) if Sight.GRANT in self.viewer.sights.values() else ()
        if not granted:
            return super()._opener(view)
        return _GrantedOpener(
            self._owner.vault,
            self.viewer,
            self._owner.policy,
            partial(self._explain, view),
            lambda: (version.policy for version in policies.versions(view)),
            granted,
        )

    def _say(self, look: Any, asked: str, *, final: bool = False) -> None:  # noqa: ANN401 - the reader's own
        shown = look.opener.shown if isinstance(look.opener, _GrantedOpener) else None
        if not shown:
            super()._say(look, asked, final=final)
            return
        self._used(shown)
        viewer = self.viewer
        said = [*filter(None, [viewer.purpose]), *(f"grant {name}" for name in shown)]
        self.viewer = msgspec.structs.replace(viewer, purpose="; ".join(said))
        try:
            super()._say(look, asked, final=final)
        finally:
            self.viewer = viewer


class _GrantedOpener(Opener):
    """
    Opens what the viewer sees, and in the entries of grants what these show.

    Attributes:
        shown: By how many entries were opened, by the grant.
    """

    def __init__(  # noqa: PLR0917 - as `Opener`
        self,
        vault: Vault,
        viewer: Viewer,
        policy: Policy,
        explain: Callable[[str, int, str], Found],
        known: Callable[[], Iterator[Policy]],
        granted: Sequence[Granted],
    ) -> None:
        super().__init__(vault, viewer, policy, explain, known)
        self._base, self._all = viewer, granted
        self.shown: Counter[str] = Counter()

    def look(
        self, log: str, index: int, clear: Clear, row: bytes, keys: Mapping[bytes, DataKey]
    ) -> dict[str, Found]:
        """Say of each committed value what the viewer, or a grant, may know of it."""
        with self._seeing(self._base):
            found = super().look(log, index, clear, row, keys)
        for grant in self._at(log, index):
            with self._seeing(self._widened([grant])):
                wide = super().look(log, index, clear, row, keys)
            opened = {
                path: each
                for path, each in wide.items()
                if each.state is ValueState.OPEN
                and found[path].state is ValueState.WITHHELD
                and each.class_ in grant.classes
                and (not grant.paths or path in grant.paths)
            }
            found.update(opened)
            self.shown[grant.id] += bool(opened)
        return found

    def reveal(
        self, log: str, index: int, clear: Clear, row: bytes, keys: Mapping[bytes, DataKey]
    ) -> tuple[Event, dict[str, ValueState]]:
        """Return the event as the viewer may see it, with what grants show of it."""
        with self._seeing(self._widened(self._at(log, index))):
            return super().reveal(log, index, clear, row, keys)

    def _at(self, log: str, index: int) -> list[Grant]:
        return [each.grant for each in self._all if (log, index) in each.places]

    def _widened(self, grants: Sequence[Grant]) -> Viewer:
        sights = self._base.sights
        for grant in grants:
            sights = {**sights, **grant.widens(self._base.sights)}
        return msgspec.structs.replace(self._base, sights=sights)

    @contextmanager
    def _seeing(self, viewer: Viewer) -> Iterator[None]:
        before, self.viewer = self.viewer, viewer
        try:
            yield
        finally:
            self.viewer = before
