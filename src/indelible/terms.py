"""
Terms: what an entry can be found by, as numbers.

A term is a number of 63 bits: a hash of a field and a text (``actor``,
``user:alice``) whose lowest four bits name the field. So indexes are narrow, need
no dictionary that processes would have to share. What was committed is found by its
*lookups*: numbers of the same form, but keyed hashes (`indelible.keyring`), which are
kept off the log, beside it, and can be deleted. Two texts may share a number: a term only
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

    from indelible.seal import Clear

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
    ACTOR_LOOKUP = 9
    RESOURCE_LOOKUP = 10
    SESSION_LOOKUP = 11
    VALUE_LOOKUP = 12
    """Any other value that a policy makes searchable, with its path."""
    SUBJECT_LOOKUP = 13
    """Whose values the entry has in the vault."""
    PRODUCER = 14
    """Origin of the log that a collector has the entry from."""
    TENANT = 15


FEW_VALUES = frozenset(
    {Field.ACTOR_TYPE, Field.RESOURCE_TYPE, Field.ACTION, Field.ACTION_WILDCARD, Field.OUTCOME}
)
"""Fields with so few values that a segment can count each of them beforehand."""


LOOKUPS = frozenset(field for field in Field if field.name.endswith("_LOOKUP"))
"""Fields of lookups; they do not follow from the entry, and may be gone."""


class Terms(msgspec.Struct, frozen=True, gc=False):
    """
    What one entry can be found by.

    Attributes:
        terms: Hashes of its actor, action, resource, outcome, session, tenant and producer,
            and of the wildcards that cover them (``user:*``, ``invoice.*``).
        id: Fingerprint of the event's id.
        id_time: Milliseconds since 1970 that the id carries.
        trace: Fingerprint of the trace id, or `NO_TRACE`.
        occurred_at: Microseconds since 1970.
        lookups: What its committed values can be found by, off the log.
    """

    terms: tuple[int, ...]
    id: int
    id_time: int
    trace: int
    occurred_at: int
    lookups: tuple[int, ...] = ()


@lru_cache(maxsize=65_536)
def term(field: Field, text: str) -> int:
    """Return the number of *text* in *field*."""
    digest = blake2b(text.encode(), digest_size=8, person=_PERSON[field]).digest()
    return numbered(digest, field)


def numbered(digest: bytes, field: Field) -> int:
    """Return the number that the first 8 bytes of *digest* make in *field*."""
    return int.from_bytes(digest[:8], "big") >> 5 << 4 | field


_PERSON = {field: field.name.encode() for field in Field}


def field_of(number: int) -> int:
    """Return the `Field` that the term *number* is about."""
    return number & 15


def fingerprint(text: str) -> int:
    """Return the 32-bit fingerprint of an id or a trace id; never `NO_TRACE`."""
    return crc32(text.encode()) or 1


def terms_of(
    clear: Clear, occurred_at: int, lookups: tuple[int, ...] = (), producer: str = ""
) -> Terms:
    """
    Return what a sealed event can be found by.

    Args:
        occurred_at: Microseconds since 1970.
        lookups: Those of its committed values.
        producer: Origin of the log that a collector has it from.
    """
    actor, resource, session, trace = clear.actor, clear.resource, clear.session, clear.trace
    is_elsewhere = actor.id is None and (
        "/actor/id" in clear.committed or "/actor/id" in clear.dropped
    )
    actor_key = (actor.type, actor.id, is_elsewhere)
    resource_key = (resource.type, resource.id, False)
    try:
        # The writer's thread does this for each event: three look-ups, no calls.
        terms = (
            _actors[actor_key] + _resources[resource_key] + _actions[clear.action, clear.outcome]
        )
    except KeyError:
        terms = (
            _remember(_actors, _of_actor, actor_key)
            + _remember(_resources, _of_resource, resource_key)
            + _remember(_actions, _of_action, (clear.action, clear.outcome))
        )
    if session is not None:
        terms += (term(Field.SESSION, session),)
    if producer:
        terms += (term(Field.PRODUCER, producer),)
    if clear.tenant is not None:
        terms += (term(Field.TENANT, clear.tenant),)
    return Terms(
        terms,
        crc32(clear.id.encode()) or 1,
        id_time(clear.id),
        NO_TRACE if trace is None else fingerprint(trace.trace_id),
        occurred_at,
        lookups,
    )


# Dictionaries that are emptied when they are full: an LRU cache moves what it finds
# to the front, which costs more in memory traffic than the hash that it saves.
_actors: dict[tuple[str, str | None, bool], tuple[int, ...]] = {}
_resources: dict[tuple[str, str | None, bool], tuple[int, ...]] = {}
_actions: dict[tuple[str, str], tuple[int, ...]] = {}
_MOST_REMEMBERED = 65_536

_Key = TypeVar("_Key", bound=tuple[object, ...])


def _remember(
    memory: dict[_Key, tuple[int, ...]], terms: Callable[[_Key], tuple[int, ...]], key: _Key
) -> tuple[int, ...]:
    found = memory.get(key)
    if found is None:
        if len(memory) >= _MOST_REMEMBERED:
            memory.clear()
        found = memory[key] = terms(key)
    return found


def _of_actor(key: tuple[str, str | None, bool]) -> tuple[int, ...]:
    kind, identity, is_elsewhere = key
    if is_elsewhere:  # committed or dropped, and so not in clear
        return (term(Field.ACTOR_TYPE, kind),)
    text = kind if identity is None else f"{kind}:{identity}"
    return (term(Field.ACTOR, text), term(Field.ACTOR_TYPE, kind))


def _of_resource(key: tuple[str, str | None, bool]) -> tuple[int, ...]:
    kind, identity, _ = key
    if identity is None:  # it is committed or dropped: no resource is without an id
        return (term(Field.RESOURCE_TYPE, kind),)
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
