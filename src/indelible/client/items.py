"""
Items: entries of an answer, read from their exact bytes and held against what is said of them.

Everything that an entry says in clear is taken from its bytes. Of the values that it only
commits to, those count as proven that come with their disclosures; the others are the
collector's word, and an item names them. That the bytes are the log's own is not decided
here, see `indelible.client.session`.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import facets, query
from indelible.access import MASK, MASKS, PSEUDONYM
from indelible.box import ValueState
from indelible.disclosure import (
    Disclosure,
    commitment_of,
    is_hash,
    verify_opening,
)
from indelible.entry import Entry, time_to_text
from indelible.errors import Damaged, InvalidEvent, Malformed, VerificationError
from indelible.event import Event
from indelible.fields import escape, split
from indelible.seal import unseal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from indelible.seal import Clear
    from indelible.wire import EntryItem, FacetShown

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Event).decode
_MASKS = frozenset({MASK, *MASKS.values()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(query.Item):
    """
    One entry of an answer, verified.

    Attributes:
        unproven: Paths of values that are shown and are the collector's word alone: no
            disclosure came with them that the entry commits to.
    """

    unproven: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(query.Page):
    """Part of an answer, verified."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet(facets.Facet):
    """
    How often the values of one field occur, by the collector's word.

    Attributes:
        at_least: Only the newest entries were counted: all of the numbers may be larger.
    """

    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSeen:
    """
    What an actor has done.

    Attributes:
        first_seen, last_seen: When its first and its last entry were recorded; these and the
            counts are the collector's word.
        recent: Its newest entries, verified.
    """

    first_seen: str
    last_seen: str
    actions: Facet
    outcomes: Facet
    recent: tuple[Item, ...]


def facet_of(shown: FacetShown) -> Facet:
    """Return the counts that a collector says."""
    return Facet(
        counts=tuple((each.value, each.count) for each in shown.counts),
        distinct=shown.distinct,
        total=shown.total,
        withheld=shown.withheld,
        at_least=shown.gte,
    )


def read_item(found: EntryItem, origin: str) -> Item:
    """
    Return the entry that *found* is, with what it shows beyond its bytes held against them.

    Args:
        origin: Of the log that it must be of.

    Raises:
        VerificationError: Something that it says is not what its bytes say.
    """
    entry = Entry.from_bytes(bytes(found.entry))
    integrity = found.integrity
    where = f"{integrity.log}#{integrity.index}"
    clear = unseal(entry.event)
    for what, said, expected in (
        ("origin", integrity.origin, origin),
        ("stream", found.stream, integrity.log.partition("~")[0]),
        ("index", integrity.index, entry.index),
        ("leaf hash", integrity.leaf_hash, entry.leaf_hash.hex()),
        ("recorded_at", found.recorded_at, time_to_text(entry.recorded_at)),
        ("producer", integrity.producer, query.producer_of(entry)),
        ("id", found.id, clear.id),
    ):
        if said != expected:
            raise Damaged(f"{where}: found {what} {str(said)[:80]!r}, expected {expected!r}")
    try:
        event, states, unproven = _opened(found, clear)
    except VerificationError as error:
        raise type(error)(f"{where}: {error}") from None
    return Item(
        log=integrity.log,
        origin=origin,
        index=entry.index,
        leaf_hash=entry.leaf_hash,
        entry=entry,
        clear=clear,
        event=event,
        states=states,
        disclosures=tuple(map(bytes, found.disclosures)),
        unproven=unproven,
    )


def _opened(
    found: EntryItem, clear: Clear
) -> tuple[Event, Mapping[str, ValueState], tuple[str, ...]]:
    """Return the event with the values that are shown, their states, and which are unproven."""
    shown = _event_in(found)
    states = _states_in(found, clear)
    proven = _proven(found.disclosures, clear)
    values: dict[str, Any] = {}
    unproven: list[str] = []
    for path in clear.committed:
        if path in proven:
            if states[path] is not ValueState.OPEN:
                raise Damaged(f"{path}: is {states[path]}, but a disclosure opens it")
            values[path] = proven[path]
            continue
        value = _value_in(shown, clear, path)
        if value is None:
            if split(path)[0] != path or path not in _WHOLE:
                raise Damaged(f"{path}: found nothing that stands for its value")
        else:
            values[path] = value
        if states[path] is ValueState.OPEN or not _is_mask(value):
            unproven.append(path)
    event = clear.event(values, dict.fromkeys(clear.committed, ""))
    if _encode(event) != _encode(shown):
        raise Damaged("its event as it is shown is not the one that its bytes hold")
    return event, states, tuple(unproven)


_WHOLE = ("/changes", "/data")
"""Of what stays together there, nothing stands for it where it is not shown."""


def _event_in(found: EntryItem) -> Event:
    try:
        return _decode(found.event)
    except (msgspec.MsgspecError, InvalidEvent, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"event: {error}") from None


def _states_in(found: EntryItem, clear: Clear) -> dict[str, ValueState]:
    if set(found.values) != set(clear.committed):
        raise Damaged(
            f"values: found states of {', '.join(found.values) or 'none'},"
            f" expected of {', '.join(clear.committed) or 'none'}"
        )
    try:
        return {path: ValueState(found.values[path]) for path in clear.committed}
    except ValueError as error:
        raise Malformed(f"values: {error}") from None


def _proven(given: Sequence[msgspec.Raw], clear: Clear) -> dict[str, Any]:
    """Return the values, by their paths, that the entry's commitment covers."""
    if not given:
        return {}
    if len(given) != len(clear.committed) or clear.commitment is None:
        raise Damaged(
            f"disclosures: found {len(given)}, expected one for each of {len(clear.committed)}"
        )
    opened: dict[str, Any] = {}
    leaves: list[bytes] = []
    for path, data in zip(clear.committed, map(bytes, given), strict=True):
        if data.startswith(b'"'):
            leaves.append(_hash_in(data))
            continue
        disclosure = Disclosure.from_bytes(data)
        verify_opening(disclosure, path, disclosure.leaf)
        opened[path] = disclosure.value
        leaves.append(disclosure.leaf)
    if commitment_of(leaves) != urlsafe_b64decode(f"{clear.commitment}="):
        raise Damaged("disclosures: are not those that the entry commits to")
    return opened


def _hash_in(data: bytes) -> bytes:
    text = data[1:-1].decode("ascii", "replace")
    if not is_hash(text):
        raise Malformed("disclosures: found neither a disclosure nor a leaf hash")
    return urlsafe_b64decode(f"{text}=")


def _value_in(shown: Event, clear: Clear, path: str) -> Any:  # noqa: ANN401 - any JSON
    """Return as JSON what stands at *path* of the event as it is shown; None for nothing."""
    container, name = split(path)
    if container not in _WHOLE:
        return msgspec.to_builtins(query.value_at(shown, path))
    there = msgspec.to_builtins(getattr(shown, container[1:]))
    if not isinstance(there, dict):
        return None
    if name is not None:
        return there.get(name)
    # What has neither a path of its own nor stands in clear stays together.
    in_clear = msgspec.to_builtins(getattr(clear, container[1:])) or {}
    named = {*clear.committed, *clear.dropped}
    rest = {
        key: value
        for key, value in there.items()
        if key not in in_clear and f"{container}/{escape(key)}" not in named
    }
    return rest or None


def _is_mask(value: object) -> bool:
    """Tell whether *value* is something that is shown where a value is not."""
    if isinstance(value, str):
        return value in _MASKS or value.startswith(PSEUDONYM)
    if isinstance(value, dict):
        return all(map(_is_mask, _masked_parts(value)))
    if isinstance(value, (list, tuple)):
        return all(map(_is_mask, value))
    return value is None


def _masked_parts(value: dict[str, Any]) -> list[Any]:
    # A masked principal has a type beside the mask: `unknown`.
    return [part for key, part in value.items() if (key, part) != ("type", "unknown")]
