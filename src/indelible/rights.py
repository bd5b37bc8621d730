"""
Rights: which role may do what at a collector, and what one caller of it is limited to.

What a role sees of values is the policy's to say (`indelible.access`); here is what it may
ask for at all. It knows neither tokens nor how they are sent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import CallerError, Forbidden
from indelible.policy import OWNER, Sight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from indelible.policy import Policy


class Verb(StrEnum):
    """What may be asked of a collector."""

    RECORD = "record"
    """Ship a log, or bring plain events."""
    JOIN = "join"
    """Enrol oneself as a producer."""
    READ = "read"
    """Search, look at and follow entries, with what the role sees of them."""
    EXPORT = "export"
    """Take entries away in files."""
    REQUEST = "request"
    """Ask for a time-bounded grant to see more."""
    APPROVE = "approve"
    """Hand in approvals, and decide on what others ask for."""
    ERASE = "erase"
    """Plan and carry out erasures; place and release legal holds."""
    CONFIGURE = "configure"
    """Producers, access tokens, sinks, and the policy."""
    OBSERVE = "observe"
    """How it goes: health in detail, producers' standing, integrity. No values."""


RIGHTS: Mapping[str, frozenset[Verb]] = {
    "recorder": frozenset({Verb.RECORD}),
    "join": frozenset({Verb.JOIN}),
    "reader": frozenset({Verb.READ, Verb.REQUEST}),
    "auditor": frozenset({Verb.READ, Verb.EXPORT, Verb.REQUEST, Verb.OBSERVE}),
    "privacy_officer": frozenset({Verb.READ, Verb.EXPORT, Verb.REQUEST, Verb.APPROVE, Verb.ERASE}),
    "operator": frozenset({Verb.CONFIGURE, Verb.OBSERVE, Verb.REQUEST}),
}
"""
What each role may ask for. There is no token of the owner: that is the process that has
the keys. A role that only the policy knows may read, and ask for grants.
"""

_OF_POLICY = frozenset({Verb.READ, Verb.REQUEST})

ISSUABLE = frozenset({"recorder", "join", "reader", "operator"})
"""
Roles whose tokens may be asked for over the network.

An operator sees no values, and that would mean nothing if it could give itself a token of a
role that does. Tokens of all other roles are issued where the trail's keys are, by whoever
has them and so sees everything anyway: ``indelible token issue``.
"""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who has come, and what it is limited to.

    Attributes:
        id: Of its access token, or what its identity provider calls it.
        name: As people know it.
        streams: Those it may read or record into; all where there are none.
        tenant: Whose entries alone it sees and records.
        producer: Origin of the trail, or with ``/*`` of all trails below, that it ships.
    """

    id: str
    name: str
    role: str
    streams: tuple[str, ...] = ()
    tenant: str | None = None
    producer: str | None = None

    def verbs(self, policy: Policy) -> frozenset[Verb]:
        """Return what it may ask for."""
        found = RIGHTS.get(self.role)
        if found is not None:
            return found
        return _OF_POLICY if self.role in policy.roles else frozenset()

    def check_may(self, verbs: Sequence[Verb], policy: Policy) -> None:
        """
        Check that it may do one of *verbs*.

        Raises:
            Forbidden: Its role may not.
        """
        if self.verbs(policy).isdisjoint(verbs):
            raise Forbidden(f"role {self.role}: may not {' or '.join(verbs)}")

    def includes(self, *, streams: tuple[str, ...], tenant: str | None) -> bool:
        """Tell whether whoever is limited like this is limited at least as much as this caller."""
        within = not self.streams or (bool(streams) and set(streams) <= set(self.streams))
        return within and self.tenant in (None, tenant)

    def check_may_issue(
        self, role: str, policy: Policy, *, streams: tuple[str, ...], tenant: str | None
    ) -> None:
        """
        Check that it may issue access tokens of *role* with these limits.

        Raises:
            Forbidden: The role sees values, or the limits are wider than its own.
        """
        sights = policy.sights(role) or {}
        if role not in ISSUABLE or Sight.PLAIN in sights.values():
            raise Forbidden(
                f"role {role}: its access tokens are issued where the trail's keys are,"
                " with indelible token issue"
            )
        if not self.includes(streams=streams, tenant=tenant):
            raise Forbidden("streams and tenant: expected no more than the caller's own")

    def sees_stream(self, stream: str) -> bool:
        """Tell whether it is limited to streams that this is one of, or not limited."""
        return not self.streams or stream in self.streams

    def ships(self, origin: str) -> bool:
        """Tell whether it may ship the log, or enrol it, that has this *origin*."""
        if self.producer is None:
            return False
        if self.producer.endswith("/*"):
            return origin.startswith(self.producer[:-1])
        return origin.rpartition("/")[0] == self.producer


def is_role(role: str, policy: Policy) -> bool:
    """Tell whether somebody who comes to a collector may have this *role*."""
    return role != OWNER and (role in RIGHTS or role in policy.roles)


def check_role(role: str, policy: Policy) -> None:
    """
    Check that an access token may have this *role*.

    Raises:
        CallerError: There is none, or it is the owner's.
    """
    if not is_role(role, policy):
        known = ", ".join(each for each in dict.fromkeys([*RIGHTS, *policy.roles]) if each != OWNER)
        raise CallerError(f"role: found {role!r}, expected one of {known}")
