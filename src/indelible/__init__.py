"""
Indelible: an audit trail for Python applications.

::

    context, record  ->  recorder, policy  ->  seal  ->  log              ->  verify, query
    capture              decide                encode    place, tree,         prove, read
                                                         sign, keep

Three lines are enough::

    import indelible

    audit = indelible.open("audit")
    audit.record("invoice.approve", actor="user:alice", resource="invoice:INV-7")

When `record` returns, the entry survives a crash, has a place that is never used
again, and is under a signed checkpoint.
"""

import typing as _typing

from indelible import errors
from indelible.context import context
from indelible.event import (
    Actor,
    Approval,
    Change,
    Event,
    Outcome,
    Rationale,
    Resource,
    Service,
    Source,
    Trace,
)
from indelible.query import Page, Query
from indelible.recorder import Receipt, Recorder, State
from indelible.trail import Trail, open  # noqa: A004 - reads as indelible.open("audit")
from indelible.verdict import Level, Verdict

if _typing.TYPE_CHECKING:
    from indelible.client import AsyncClient, Client

__all__ = [
    "Actor",
    "Approval",
    "AsyncClient",
    "Change",
    "Client",
    "Event",
    "Level",
    "Outcome",
    "Page",
    "Query",
    "Rationale",
    "Receipt",
    "Recorder",
    "Resource",
    "Service",
    "Source",
    "State",
    "Trace",
    "Trail",
    "Verdict",
    "context",
    "errors",
    "open",
]


def __getattr__(name: str) -> object:
    # Who reads from a collector needs them; who records pays for none of it.
    if name in {"AsyncClient", "Client"}:
        from indelible import client  # noqa: PLC0415 - loads what only readers need

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
