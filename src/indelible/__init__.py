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

from indelible import errors
from indelible.context import context
from indelible.event import (
    Actor,
    Approval,
    Change,
    Client,
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

__all__ = [
    "Actor",
    "Approval",
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
