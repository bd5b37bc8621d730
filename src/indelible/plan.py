"""
Plan: exactly what an intervention will do, as bytes that people sign.

One JSON object on one line, its keys in this order, those of its objects in order of
their names::

    {"v":"indelible-plan/1","kind":"erase","trail":"…","logs":{"<origin>":<size>},
     "policy":"<64 hex>","requester":"alice","basis":"GDPR Art. 17(1)(b)","nonce":"<22 b64url>",
     "created_at":"…Z","not_before":"…Z","expires":"…Z",
     "cover":[["user",12,["/actor/id","/client/ip"]]],
     "deferred":[["user",13,["/actor/id"],"hold:case-7"]],"detail":{}}

It names places and paths, never whose values they are nor what they say: it is kept for
as long as the log, and outlives what it erases.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from indelible.duration import Duration
from indelible.entry import microseconds, moment_of, time_from_text, time_to_text
from indelible.errors import CallerError, Malformed
from indelible.merkle import leaf_hash, root_of
from indelible.note import MAX_DECIMAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from indelible.policy import Approvals, Policy

Kind = Literal["erase", "purge", "policy", "grant"]
"""What is done: erase values, purge entries, change the policy, grant a role."""

MAX_COVER = 1 << 20
"""The most entries that one plan covers, and the most that it defers."""

NONCE_SIZE = 16
"""Bytes of randomness that make each plan another, so that it is carried out once."""

_VERSION = "indelible-plan/1"
_KINDS = get_args(Kind)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
# What may be a line of a note, or the name of a key.
_NAME = re.compile("[^\\s+\x00-\x1f\ud800-\udfff]+")
_GROUND = re.compile(
    "hold:[^\\s\x00-\x1f\ud800-\udfff]+|floor:[0-9]{4}-[0-9]{2}-[0-9]{2}|class:internal"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Covered(
    msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """The values at *paths* of one entry, which the plan does away with."""

    log: str
    index: int
    paths: tuple[str, ...]


class Postponed(
    msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """
    The values at *paths* of one entry, which stay for now.

    Attributes:
        ground: ``hold:<id>``, ``floor:<date>``, or ``class:internal`` of what an erasure
            takes only by name.
    """

    log: str
    index: int
    paths: tuple[str, ...]
    ground: str


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    v: str
    kind: str
    trail: str
    logs: dict[str, int]
    policy: str
    requester: str
    basis: str
    nonce: str
    created_at: str
    not_before: str
    expires: str
    cover: tuple[Covered, ...]
    deferred: tuple[Postponed, ...]
    detail: dict[str, Any]


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(_Form).decode
_decode_detail = msgspec.json.Decoder(dict[str, Any]).decode


class Plan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """
    What people approve, all of it and nothing else.

    Attributes:
        trail: Id of the trail; a plan is for no other.
        logs: Size of each log, by origin, when the plan was made.
        policy: SHA-256 of the policy in force, in hex.
        requester: Id of the person who asks, or ``owner``.
        basis: The legal ground, in words.
        nonce: `NONCE_SIZE` random bytes.
        not_before, expires: When it may be carried out.
        cover: In order of log and index, each entry once, its paths in order.
        deferred: The same, by log, index and ground; no path that is covered.
        detail: What else the kind needs, as JSON: the digest of a new policy, the range
            of a purge, role and end of a grant.

    Raises:
        CallerError: A part is not that of a plan.
    """

    kind: Kind
    trail: str
    logs: dict[str, int]
    policy: str
    requester: str
    basis: str
    nonce: bytes
    created_at: datetime
    not_before: datetime
    expires: datetime
    cover: tuple[Covered, ...] = ()
    deferred: tuple[Postponed, ...] = ()
    detail: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise CallerError(f"plan kind: found {self.kind!r}, expected {', '.join(_KINDS)}")
        _check_name("trail", self.trail)
        _check_name("requester", self.requester)
        for origin, size in self.logs.items():
            _check_name("log", origin)
            if not 0 <= size <= MAX_DECIMAL:
                raise CallerError(
                    f"plan log {origin}: found size {size}, expected 0 to {MAX_DECIMAL}"
                )
        if not _DIGEST.fullmatch(self.policy):
            raise CallerError(f"plan policy: found {self.policy!r}, expected 64 hex digits")
        if not self.basis or not self.basis.isprintable():
            raise CallerError(f"plan basis: found {self.basis!r}, expected one line of text")
        if len(self.nonce) != NONCE_SIZE:
            raise CallerError(f"plan nonce: found {len(self.nonce)} bytes, expected {NONCE_SIZE}")
        self._check_times()
        _check_places("cover", self.cover, [(each.log, each.index) for each in self.cover])
        _check_places(
            "deferred",
            self.deferred,
            [(each.log, each.index, each.ground) for each in self.deferred],
        )
        for ground in {each.ground for each in self.deferred}:
            if not _GROUND.fullmatch(ground):
                raise CallerError(
                    f"plan deferred: found ground {ground!r}, expected hold:<id>, floor:<date>"
                    " or class:internal"
                )
        self._check_once()
        _check_detail(self.detail)

    def _check_times(self) -> None:
        times = (self.created_at, self.not_before, self.expires)
        if any(each.utcoffset() is None for each in times):
            raise CallerError("plan times: found one without a time zone")
        if not self.created_at <= self.not_before < self.expires:
            found = ", ".join(map(text_of, times))
            raise CallerError(
                f"plan times: found {found}, expected created_at, not_before and expires in order"
            )

    def _check_once(self) -> None:
        # Only the entries of what is deferred are looked up: mostly there are few.
        places = {(each.log, each.index) for each in self.deferred}
        seen = {
            (each.log, each.index, path)
            for each in self.cover
            if (each.log, each.index) in places
            for path in each.paths
        }
        for each in self.deferred:
            for path in each.paths:
                if (each.log, each.index, path) in seen:
                    raise CallerError(
                        f"plan deferred: found {each.log}#{each.index} {path} twice in the plan"
                    )
                seen.add((each.log, each.index, path))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """
        Read a plan.

        Raises:
            Malformed: These are not a plan's exact bytes.
        """
        try:
            form = _decode(data)
            plan = cls(
                kind=form.kind,  # type: ignore[arg-type]  # checked where it is built
                trail=form.trail,
                logs=form.logs,
                policy=form.policy,
                requester=form.requester,
                basis=form.basis,
                nonce=urlsafe_b64decode(f"{form.nonce}=="),
                created_at=time_of(form.created_at),
                not_before=time_of(form.not_before),
                expires=time_of(form.expires),
                cover=form.cover,
                deferred=form.deferred,
                detail=form.detail,
            )
        except CallerError as fault:
            raise Malformed(str(fault)) from None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Malformed(f"plan: {error}") from error
        # One comparison holds the form: version, key order, spaces, numbers, base64.
        if plan.to_bytes() != data:
            raise Malformed(f"plan: not in the exact form of {_VERSION}")
        return plan

    def to_bytes(self) -> bytes:
        """Write the plan: what its digest is taken of."""
        form = _Form(
            v=_VERSION,
            kind=self.kind,
            trail=self.trail,
            logs=self.logs,
            policy=self.policy,
            requester=self.requester,
            basis=self.basis,
            nonce=urlsafe_b64encode(self.nonce).decode().rstrip("="),
            created_at=text_of(self.created_at),
            not_before=text_of(self.not_before),
            expires=text_of(self.expires),
            cover=self.cover,
            deferred=self.deferred,
            detail=self.detail,
        )
        return _encode(form) + b"\n"

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the plan's bytes: what people approve."""
        return sha256(self.to_bytes()).digest()

    @cached_property
    def cover_root(self) -> bytes:
        """RFC 6962 root over the exact bytes of each item of `cover`, in its order."""
        return root_of([leaf_hash(_encode(each)) for each in self.cover])


def plan_of(
    kind: Kind,
    trail: str,
    *,
    policy: Policy,
    needed: Approvals,
    basis: str,
    requester: str,
    now: datetime,
    sizes: Mapping[str, int],
    cover: Iterable[Covered] = (),
    deferred: Iterable[Postponed] = (),
    detail: dict[str, Any],
    entropy: Callable[[int], bytes] = os.urandom,
) -> Plan:
    """
    Return a plan that may be carried out once the cooling-off of what is *needed* is over.

    Args:
        policy: The one in force.
        sizes: Of each log, by its origin.
        cover, deferred: In any order.
    """
    begins = now if needed.cooling_off is None else Duration.parse(needed.cooling_off).after(now)
    return Plan(
        kind=kind,
        trail=trail,
        logs=dict(sizes),
        policy=policy.digest.hex(),
        requester=requester,
        basis=basis,
        nonce=entropy(NONCE_SIZE),
        created_at=now,
        not_before=begins,
        expires=Duration.parse(needed.valid).after(begins),
        cover=tuple(sorted(cover, key=lambda each: (each.log, each.index))),
        deferred=tuple(sorted(deferred, key=lambda each: (each.log, each.index, each.ground))),
        detail=detail,
    )


def covers(plan: Plan) -> Mapping[tuple[str, int], frozenset[str]]:
    """Return which paths of which entry, by log and index, *plan* does away with."""
    # Many entries have the same few paths: one set serves them all.
    sets = {paths: frozenset(paths) for paths in {each.paths for each in plan.cover}}
    return {(each.log, each.index): sets[each.paths] for each in plan.cover}


def text_of(moment: datetime) -> str:
    """Write a time as plans and approvals do: RFC 3339 in UTC with six digits."""
    return time_to_text(microseconds(moment))


def time_of(text: str) -> datetime:
    """
    Read what `text_of` writes.

    Raises:
        Malformed: It is another form, or no such time.
    """
    return moment_of(time_from_text(text))


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise CallerError(
            f"plan {what}: found {name!r}, expected no space, control character or plus sign"
        )


def _check_places(
    what: str, items: Sequence[Covered | Postponed], places: Iterable[tuple[Any, ...]]
) -> None:
    """Check *items* in bulk: of a million of them, few things are distinct."""
    if len(items) > MAX_COVER:
        raise CallerError(f"plan {what}: found {len(items)} items, expected at most {MAX_COVER}")
    for before, after in pairwise(places):
        if before >= after:
            raise CallerError(
                f"plan {what}: found {before[0]}#{before[1]} before {after[0]}#{after[1]},"
                " expected each once and in order"
            )
    for log in {each.log for each in items}:
        _check_name(what, log)
    for index in (each.index for each in items):
        if not 0 <= index <= MAX_DECIMAL:
            raise CallerError(f"plan {what}: found index {index}, expected 0 to {MAX_DECIMAL}")
    for paths in {each.paths for each in items}:
        _check_paths(what, paths)


def _check_paths(what: str, paths: Sequence[str]) -> None:
    if not paths or any(before >= after for before, after in pairwise(paths)):
        raise CallerError(
            f"plan {what}: found paths {list(paths)}, expected some, each once and in order"
        )
    for path in paths:
        if not path.startswith("/") or _SURROGATE.search(path):
            raise CallerError(f"plan {what}: found path {path!r}, expected a JSON pointer")


def _check_detail(detail: dict[str, Any]) -> None:
    try:
        same = _decode_detail(_encode(detail)) == detail
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CallerError(f"plan detail: {error}") from error
    if not same:
        raise CallerError("plan detail: found what is not JSON, such as a tuple or a date")
