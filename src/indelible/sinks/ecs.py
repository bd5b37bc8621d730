"""
ECS: an entry as a document of the Elastic Common Schema.

What the schema has no field for stands below ``indelible``; the place and the leaf hash
there, so that what an index has can be held against the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.entry import time_to_text
from indelible.event import Outcome
from indelible.export import changes_of, redactions_of, seen, without_nothing

if TYPE_CHECKING:
    from indelible.query import Item

VERSION = "8.17.0"
"""Of the schema."""

_CATEGORIES: dict[str | None, tuple[list[str], list[str]]] = {
    "authentication": (["authentication"], ["info"]),
    "permission_change": (["iam"], ["change"]),
    "administration": (["configuration"], ["change"]),
    "data_change": (["database"], ["change"]),
}
"""Category and type of each kind of events; others have none."""


def document_of(item: Item) -> dict[str, Any]:
    """Return what is shown of *item* as a document; what is not shown is left out, and named."""
    event, client, trace, service = (
        item.event,
        item.event.client,
        item.event.trace,
        item.event.service,
    )
    category, type_ = _CATEGORIES.get(event.kind, ([], []))
    document = {
        "@timestamp": event.occurred_at.isoformat().replace("+00:00", "Z"),
        "ecs": {"version": VERSION},
        "event": {
            "kind": "event",
            "id": event.id,
            "action": event.action,
            "category": category,
            "type": type_,
            "outcome": _outcome_of(event.outcome),
            "reason": seen(item, "/reason", event.reason),
            "dataset": f"indelible.{item.stream}",
            "created": time_to_text(item.entry.recorded_at),
            "sequence": item.index,
        },
        "user": {
            "id": seen(item, "/actor/id", event.actor.id),
            "name": seen(item, "/actor/name", event.actor.name),
            "roles": list(event.actor.roles),
        },
        "source": {"ip": None if client is None else seen(item, "/client/ip", client.ip)},
        "user_agent": {
            "original": None
            if client is None
            else seen(item, "/client/user_agent", client.user_agent)
        },
        "http": {"request": {"id": seen(item, "/request", event.request)}},
        "trace": {"id": None if trace is None else trace.trace_id},
        "span": {"id": None if trace is None else trace.span_id},
        "service": {
            "name": None if service is None else service.name,
            "version": None if service is None else service.version,
        },
        "organization": {"id": seen(item, "/tenant", event.tenant)},
        "labels": {
            "actor_type": event.actor.type,
            "resource_type": event.resource.type,
            "resource_id": seen(item, "/resource/id", event.resource.id),
            "rationale": None
            if event.rationale is None
            else seen(item, "/rationale", event.rationale.text),
            "session": seen(item, "/session", event.session),
        },
        "indelible": {
            "log": item.log,
            "index": item.index,
            "leaf_hash": item.leaf_hash.hex(),
            "producer": item.producer,
            "outcome": event.outcome.value,
            "changes": changes_of(item),
            "redactions": redactions_of(item),
        },
    }
    return without_nothing(document)


def _outcome_of(outcome: Outcome) -> str:
    if outcome is Outcome.DENIED:  # the schema has no word of its own for it
        return Outcome.FAILURE.value
    return outcome.value
