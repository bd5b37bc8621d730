"""
Terms: what an entry can be found by, as numbers.

A term is a number of 63 bits: a hash of a field and a text (``actor``,
``user:alice``) whose lowest four bits name the field. So indexes are narrow, need
no dictionary that processes would have to share, and treat the lookup hash of a
committed value like any other term. Two texts may share a number: a term only
proposes entries, and whoever reads them compares the text itself.

Ids and traces have nearly as many values as there are entries. They become
32-bit fingerprints in a column, which is scanned.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import msgspec

from indelible.event import id_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from indelible.event import Event

NO_TRACE = 0
"""The fingerprint of an entry without a trace."""


class Field(IntEnum):
    """What a term is about; at most 15 of them."""

    ACTOR = 1
    ACTOR_TYPE = 2
    RESOURCE = 3
    RESOURCE_TYPE = 4
    ACTION = 5
    ACTION_WILDCARD = 6
    OUTCOME = 7
    SESSION = 8


FEW_VALUES = frozenset(
    {Field.ACTOR_TYPE, Field.RESOURCE_TYPE, Field.ACTION, Field.ACTION_WILDCARD, Field.OUTCOME}
)
"""Fields with so few values that a segment can count each of them beforehand."""


class Terms(msgspec.Struct, frozen=True, gc=False):
    """
    What one entry can be found by.

    Attributes:
        terms: Hashes of its actor, action, resource, outcome and session, and of
            the wildcards that cover them (``user:*``, ``invoice.*``).
        id: Fingerprint of the event's id.
        id_time: Milliseconds since 1970 that the id carries.
        trace: Fingerprint of the trace id, or `NO_TRACE`.
        occurred_at: Microseconds since 1970.
    """

    terms: tuple[int, ...]
    id: int
    id_time: int
    trace: int
    occurred_at: int


@lru_cache(maxsize=65_536)
def term(field: Field, text: str) -> int:
    """Return the number of *text* in *field*."""
    digest = blake2b(text.encode(), digest_size=8, person=_PERSON[field]).digest()
    return int.from_bytes(digest, "big") >> 5 << 4 | field


_PERSON = {field: field.name.encode() for field in Field}


def field_of(number: int) -> int:
    """Return the `Field` that the term *number* is about."""
    return number & 15


def fingerprint(text: str) -> int:
    """Return the 32-bit fingerprint of an id or a trace id; never `NO_TRACE`."""
    return crc32(text.encode()) or 1


def terms_of(event: Event, occurred_at: int) -> Terms:
    """Return what *event* can be found by; *occurred_at* in microseconds."""
    actor, resource, session, trace = event.actor, event.resource, event.session, event.trace
    try:
        # The writer's thread does this for each event: three look-ups, no calls.
        terms = (
            _actors[actor.type, actor.id]
            + _resources[resource.type, resource.id]
            + _actions[event.action, event.outcome]
        )
    except KeyError:
        terms = (
            _remember(_actors, _of_actor, (actor.type, actor.id))
            + _remember(_resources, _of_resource, (resource.type, resource.id))
            + _remember(_actions, _of_action, (event.action, event.outcome))
        )
    if session is not None:
        terms += (term(Field.SESSION, session),)
    return Terms(
        terms,
        crc32(event.id.encode()) or 1,
        id_time(event.id),
        NO_TRACE if trace is None else fingerprint(trace.trace_id),
        occurred_at,
    )


# Dictionaries that are emptied when they are full: an LRU cache moves what it finds
# to the front, which costs more in memory traffic than the hash that it saves.
_actors: dict[tuple[str, str | None], tuple[int, ...]] = {}
_resources: dict[tuple[str, str], tuple[int, ...]] = {}
_actions: dict[tuple[str, str], tuple[int, ...]] = {}
_MOST_REMEMBERED = 65_536

_Key = TypeVar("_Key", bound=tuple[str, str | None])


def _remember(
    memory: dict[_Key, tuple[int, ...]], terms: Callable[[_Key], tuple[int, ...]], key: _Key
) -> tuple[int, ...]:
    found = memory.get(key)
    if found is None:
        if len(memory) >= _MOST_REMEMBERED:
            memory.clear()
        found = memory[key] = terms(key)
    return found


def _of_actor(key: tuple[str, str | None]) -> tuple[int, ...]:
    kind, identity = key
    text = kind if identity is None else f"{kind}:{identity}"
    return (term(Field.ACTOR, text), term(Field.ACTOR_TYPE, kind))


def _of_resource(key: tuple[str, str]) -> tuple[int, ...]:
    kind, identity = key
    return (term(Field.RESOURCE, f"{kind}:{identity}"), term(Field.RESOURCE_TYPE, kind))


def _of_action(key: tuple[str, str]) -> tuple[int, ...]:
    action, outcome = key
    parts = action.split(".")
    wildcards = (".".join(parts[:n]) + ".*" for n in range(1, len(parts)))
    return (
        term(Field.OUTCOME, outcome),
        term(Field.ACTION, action),
        *(term(Field.ACTION_WILDCARD, wildcard) for wildcard in wildcards),
    )
