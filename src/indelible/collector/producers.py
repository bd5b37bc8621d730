"""Producers: which logs are taken in, enrolled by an operator or by themselves, and revoked."""

from __future__ import annotations

import os
from base64 import b64encode
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, Parameter

from indelible import tokens
from indelible.collector.callers import asks
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector
from indelible.custody import own_event
from indelible.entry import time_to_text
from indelible.errors import CallerError, Moved, NotFound, VerificationError
from indelible.note import Note, VerifierKey
from indelible.policy import CUSTODY
from indelible.producer import HELD_KIND, KIND, Held, Producer, enrol, key_of, proof_text
from indelible.rights import Caller, Verb
from indelible.tokens import AccessToken
from indelible.wire import Enrolled, Enrolment, Problem, Standing
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.log import Placed
    from indelible.store import Transaction, View
    from indelible.trail import Trail

_MOST_KEYS = 64
_JOINED_FOR = 90 * 86_400_000_000
_PAGE = 500


def enrol_all(trail: Trail, enrolment: Enrolment, caller: Caller, now: int) -> Enrolled:
    """
    Enrol logs as producers; those that are enrolled with the same key already stay as they are.

    Raises:
        CallerError: A key is none, a stream is not there, or a join token does not allow it.
        VerificationError: Whoever joins has not the key.
        Refusal: 409 where a log is enrolled with another key.
    """
    if not 1 <= len(enrolment.keys) <= _MOST_KEYS:
        raise CallerError(f"keys: found {len(enrolment.keys)}, expected 1 to {_MOST_KEYS}")
    keys = [VerifierKey.from_text(text) for text in enrolment.keys]
    joins = caller.role == "join"
    if joins:
        _check_joining(enrolment, keys, caller)
    producers = [
        enrol(
            key,
            stream=enrolment.stream,
            tenant=caller.tenant if caller.tenant is not None else enrolment.tenant,
            policy=trail.policy,
            now=now,
            by=caller.name,
        )
        for key in keys
    ]
    _check_within(producers, caller)
    issued, secret = None, None
    if joins:
        origin = keys[0].name.rpartition("/")[0]
        issued, secret = tokens.issue(
            name=origin,
            role="recorder",
            created_by=caller.name,
            now=now,
            lasts=_JOINED_FOR,
            streams=caller.streams,
            tenant=caller.tenant,
            producer=origin,
            entropy=os.urandom,
        )
        issued.check_is_valid(trail.policy)

    def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        for producer in producers:
            key = key_of(producer.origin)
            kept = transaction.fact(KIND, key)
            if kept is None:
                transaction.put(KIND, key, producer.to_bytes())
            elif (
                (before := Producer.from_bytes(kept)).key != producer.key
                or not is_within(before, caller)
                or (joins and before.revoked_at is not None)
            ):
                raise AlreadyEnrolled(
                    f"{producer.origin}: is enrolled with another key, or was revoked"
                )
        if issued is not None:
            _use_up(transaction, caller.id, now)
            transaction.put(tokens.KIND, issued.id.encode(), issued.to_bytes())

    events = [
        own_event(
            trail.id,
            "producer.enroll",
            producer=each.origin,
            key=each.key,
            stream=each.stream,
            tenant=each.tenant,
            by=each.enrolled_by,
            caller=caller.id,
            token=None if issued is None else issued.id,
        )
        for each in producers
    ]
    pending = Pending({CUSTODY: events}, within=within)
    trail.submit(pending)
    pending.result()
    with trail.store.read() as view:
        return Enrolled(
            producers=tuple(standing(view, producer.origin, caller) for producer in producers),
            token=secret,
        )


def is_within(producer: Producer, caller: Caller) -> bool:
    """Tell whether all that *producer* brings is within what *caller* is limited to."""
    return caller.includes(streams=(producer.stream,), tenant=producer.tenant)


def _check_within(producers: Sequence[Producer], caller: Caller) -> None:
    for each in producers:
        if not is_within(each, caller):
            raise CallerError(
                f"stream of {each.origin}: found {each.stream!r}, expected one of"
                f" {', '.join(caller.streams)}, which the access token is limited to"
            )


class AlreadyEnrolled(CallerError):
    """A log that is enrolled with another key, or was revoked."""


def _check_joining(enrolment: Enrolment, keys: Sequence[VerifierKey], caller: Caller) -> None:
    """Check that whoever joins may be these producers, and has their keys."""
    if len({key.name.rpartition("/")[0] for key in keys}) != 1:
        raise CallerError("keys: found those of several trails, expected one")
    if len(enrolment.proofs) != len(keys):
        raise CallerError(f"proofs: found {len(enrolment.proofs)}, expected {len(keys)}")
    for key, proof in zip(keys, enrolment.proofs, strict=True):
        if not caller.ships(key.name):
            raise CallerError(f"join token: is not for {key.name}")
        note = Note.from_bytes(proof.encode())
        note.verify([key])
        if note.text != proof_text(key.name, caller.id):
            raise CallerError(f"proof of {key.name}: is not for this join token")


def _use_up(transaction: Transaction, token_id: str, now: int) -> None:
    """Count one use of a join token."""
    kept = transaction.fact(tokens.KIND, token_id.encode())
    token = None if kept is None else AccessToken.from_bytes(kept)
    if token is None or token.revoked_at is not None or token.uses_left == 0:
        raise CallerError("join token: is used up or revoked")
    left = None if token.uses_left is None else token.uses_left - 1
    changed = msgspec.structs.replace(token, uses_left=left, last_used_at=now)
    transaction.put(tokens.KIND, token_id.encode(), changed.to_bytes())


def revoke(trail: Trail, origin: str, size: int | None, caller: Caller) -> Standing:
    """
    Take nothing more from a producer after *size* entries; by default, after what is held.

    Raises:
        NotFound: There is no such producer, or none within what *caller* is limited to.
    """
    key = key_of(origin)
    with trail.store.read() as view:
        kept = view.fact(KIND, key)
        held = Held.from_bytes(view.fact(HELD_KIND, key))
    if kept is None or not is_within(Producer.from_bytes(kept), caller):
        raise _none_of(origin)
    at = held.size if size is None else size
    event = own_event(trail.id, "producer.revoke", producer=origin, size=at, by=caller.name)

    def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
        if transaction.fact(KIND, key) != kept:
            raise Moved(f"{origin}: was changed meanwhile")
        changed = msgspec.structs.replace(Producer.from_bytes(kept), revoked_at=at)
        transaction.put(KIND, key, changed.to_bytes())

    pending = Pending({CUSTODY: [event]}, within=within)
    trail.submit(pending)
    pending.result()
    with trail.store.read() as view:
        return standing(view, origin, caller)


def standing(view: View, origin: str, caller: Caller) -> Standing:
    """
    Return what there is of a producer.

    Raises:
        NotFound: There is none, or none within what *caller* is limited to.
    """
    key = key_of(origin)
    kept = view.fact(KIND, key)
    if kept is None or not is_within(producer := Producer.from_bytes(kept), caller):
        raise _none_of(origin)
    return _standing(producer, Held.from_bytes(view.fact(HELD_KIND, key)))


def standings(view: View, caller: Caller, after: str | None = None) -> Iterator[Standing]:
    """Yield what there is of each producer that *caller* sees, in the order of their origins."""
    for key, kept in view.facts(KIND, b"" if after is None else after.encode() + b"\0"):
        producer = Producer.from_bytes(kept)
        if is_within(producer, caller):
            yield _standing(producer, Held.from_bytes(view.fact(HELD_KIND, key)))


def _none_of(origin: str) -> NotFound:
    return NotFound(f"producer: found none of origin {origin!r}")


def _standing(producer: Producer, held: Held) -> Standing:
    return Standing(
        origin=producer.origin,
        key=producer.key,
        stream=producer.stream,
        tenant=producer.tenant,
        size=held.size,
        root=b64encode(held.tree.root).decode(),
        promised=held.most_promised,
        rotations=len(held.rotations),
        enrolled_at=time_to_text(producer.enrolled_at),
        seen_at=None if held.seen_at is None else time_to_text(held.seen_at),
        revoked_at=producer.revoked_at,
        alarm=held.alarm,
    )


@post(
    "/v1/producers",
    guards=asks(Verb.CONFIGURE, Verb.JOIN),
    status_code=200,
    sync_to_thread=True,
    responses={409: ResponseSpec(Problem, description="Enrolled with another key")},
)
def enroll(
    data: JSONBody[Enrolment],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
) -> Enrolled:
    """Enrol logs as producers; with a join token, oneself."""
    try:
        return enrol_all(collector.trail, data, caller, collector.now())
    except AlreadyEnrolled as error:
        raise Refusal(409, "enrolled", str(error)) from None
    except VerificationError as error:
        raise Refusal(422, "malformed", str(error)) from None


@get("/v1/producers", guards=asks(Verb.OBSERVE), sync_to_thread=True)
def all_standing(
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    after: Annotated[
        str | None, Parameter(description="The origin that the last page ended with")
    ] = None,
) -> list[Standing]:
    """Say how all producers stand, in the order of their origins, 500 at a time."""
    with collector.trail.store.read() as view:
        return list(islice(standings(view, caller, after), _PAGE))


@get("/v1/producers/{origin:path}", guards=asks(Verb.RECORD, Verb.OBSERVE), sync_to_thread=True)
def one_standing(
    origin: FromPath[str], collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> Standing:
    """Say how a producer stands: with which index it is to go on."""
    name = origin.lstrip("/")
    if not caller.ships(name) and Verb.OBSERVE not in caller.verbs(collector.trail.policy):
        raise _none_of(name)
    with collector.trail.store.read() as view:
        return standing(view, name, caller)


@delete(
    "/v1/producers/{origin:path}", guards=asks(Verb.CONFIGURE), status_code=200, sync_to_thread=True
)
def revoke_one(
    origin: FromPath[str],
    collector: NamedDependency[Collector],
    caller: NamedDependency[Caller],
    size: Annotated[
        int | None,
        # The framework leaves the bound of what may be none out of the document.
        Parameter(ge=0, schema_extra={"minimum": 0}, description="From which size on"),
    ] = None,
) -> Standing:
    """Take nothing more from a producer from a size on; what it brought stays."""
    return revoke(collector.trail, origin.lstrip("/"), size, caller)


ROUTES = [enroll, all_standing, one_standing, revoke_one]
