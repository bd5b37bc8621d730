"""
OCSF: an entry as an event of the Open Cybersecurity Schema Framework, for a SIEM.

Authentication (3002), User Access Management (3005), Entity Management (3004), and API
Activity (6003) for all else. The entry's exact bytes stand in ``raw_data`` and its leaf hash
in ``raw_data_hash``, so that what a SIEM has can be held against the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.event import Outcome
from indelible.export import changes_of, redactions_of, seen, without_nothing

if TYPE_CHECKING:
    from datetime import datetime

    from indelible.query import Item

VERSION = "1.5.0"
"""Of the schema."""

_AUTHENTICATION, _ENTITY, _ACCESS, _API = 3002, 3004, 3005, 6003
_CATEGORIES = {3: "Identity & Access Management", 6: "Application Activity"}
_CLASSES = {
    _AUTHENTICATION: "Authentication",
    _ENTITY: "Entity Management",
    _ACCESS: "User Access Management",
    _API: "API Activity",
}
_OTHER = 99

_VERBS: dict[int, dict[str, int]] = {
    _AUTHENTICATION: {"login": 1, "logon": 1, "logout": 2, "logoff": 2},
    _ACCESS: {"grant": 1, "assign": 1, "revoke": 2, "remove": 2},
    _API: {"create": 1, "add": 1, "read": 2, "view": 2, "list": 2, "update": 3, "change": 3}
    | {"edit": 3, "delete": 4, "remove": 4},
}
_VERBS[_ENTITY] = _VERBS[_API]
"""What the last part of an action is as an activity of each class."""

_ENTITIES = frozenset({"user", "role", "group", "account", "member", "policy", "permission"})
_ACTOR_TYPES = {"user": 1, "service": 4, "system": 3}
_HASH = {"algorithm": "SHA-256", "algorithm_id": 3}


def event_of(item: Item) -> dict[str, Any]:
    """Return what is shown of *item* as an event; what is not shown is left out, and named."""
    event = item.event
    class_, activity = _class_of(item), _activity_of(item)
    redactions = redactions_of(item)
    return without_nothing(
        {
            "category_uid": class_ // 1000,
            "category_name": _CATEGORIES[class_ // 1000],
            "class_uid": class_,
            "class_name": _CLASSES[class_],
            "activity_id": activity,
            "activity_name": event.action,
            "type_uid": class_ * 100 + activity,
            "severity_id": 1,
            "time": _milliseconds(event.occurred_at),
            "metadata": {
                "version": VERSION,
                "uid": event.id,
                "log_name": item.log,
                "sequence": item.index,
                "logged_time": item.entry.recorded_at // 1_000,
                "profiles": ["trace"] if event.trace is not None else [],
                "tenant_uid": seen(item, "/tenant", event.tenant),
                "product": {
                    "name": "Indelible" if event.service is None else event.service.name,
                    "version": None if event.service is None else event.service.version,
                },
            },
            **_outcome_of(item),
            "actor": _actor_of(item),
            "user": _user_of(item) if class_ in {_AUTHENTICATION, _ACCESS} else None,
            "privileges": sorted(event.changes or {}) if class_ == _ACCESS else None,
            "api": {
                "operation": event.action,
                "request": {"uid": seen(item, "/request", event.request)},
                "service": {"name": None if event.service is None else event.service.name},
            }
            if class_ == _API
            else None,
            "entity": _resource_of(item) if class_ == _ENTITY else None,
            "resources": None if class_ == _ENTITY else [_resource_of(item)],
            "src_endpoint": _endpoint_of(item),
            "http_request": None
            if event.client is None
            else {"user_agent": seen(item, "/client/user_agent", event.client.user_agent)},
            "comment": None
            if event.rationale is None
            else seen(item, "/rationale", event.rationale.text),
            "trace": None
            if event.trace is None
            else {"uid": event.trace.trace_id, "span": {"uid": event.trace.span_id}},
            "unmapped": {
                "changes": changes_of(item),
                "redactions": redactions,
                "producer": item.producer,
            },
            "raw_data": item.entry.to_bytes().decode("utf-8", "backslashreplace"),
            "raw_data_hash": {**_HASH, "value": item.leaf_hash.hex()},
        }
    )


def _class_of(item: Item) -> int:
    event = item.event
    if event.kind == "authentication" or event.action.startswith("auth."):
        return _AUTHENTICATION
    if event.kind == "permission_change" or event.action.startswith(("role.", "permission.")):
        return _ACCESS
    reads = _VERBS[_API].get(event.action.rpartition(".")[2]) == _VERBS[_API]["read"]
    changes = event.kind == "data_change" or event.resource.type in _ENTITIES
    return _ENTITY if changes and not reads else _API


def _activity_of(item: Item) -> int:
    return _VERBS[_class_of(item)].get(item.event.action.rpartition(".")[2], _OTHER)


def _outcome_of(item: Item) -> dict[str, Any]:
    outcome = item.event.outcome
    status = {Outcome.SUCCESS: 1, Outcome.UNKNOWN: 0}.get(outcome, 2)
    reason = seen(item, "/reason", item.event.reason)
    return {"status_id": status, "status": outcome.value, "status_detail": reason}


def _actor_of(item: Item) -> dict[str, Any]:
    session = seen(item, "/session", item.event.session)
    return {"user": _user_of(item), "session": {"uid": session}}


def _user_of(item: Item) -> dict[str, Any]:
    actor = item.event.actor
    return {
        "uid": seen(item, "/actor/id", actor.id),
        "name": seen(item, "/actor/name", actor.name),
        "type": actor.type,
        "type_id": _ACTOR_TYPES.get(actor.type, _OTHER),
        "groups": [{"name": role} for role in actor.roles],
    }


def _resource_of(item: Item) -> dict[str, Any]:
    resource = item.event.resource
    return {
        "uid": seen(item, "/resource/id", resource.id),
        "name": seen(item, "/resource/name", resource.name),
        "type": resource.type,
    }


def _endpoint_of(item: Item) -> dict[str, Any] | None:
    client = item.event.client
    return None if client is None else {"ip": seen(item, "/client/ip", client.ip)}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)
