"""
Purging: let the first entries of a log be gone for good, when retention has released them.

::

    entry log.purge, and nobody finds them any more            one transaction
    each closed segment built anew without them, and the
    entry segment.purge that names its file                    one transaction each
    files before them, and what was written ahead, removed

Leaf hashes and the roots above them stay, so that every checkpoint, every proof of an
entry that is left, and every root can be verified as before. What entries say of the
purge comes first; each later step can be repeated, so a crash anywhere is made good by
`resume`.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Protocol

from indelible import custody
from indelible.custody import own_event
from indelible.entry import microseconds
from indelible.errors import CallerError, UnknownStream
from indelible.policy import CUSTODY

if TYPE_CHECKING:
    from datetime import datetime

    from indelible.policy import Policy
    from indelible.store import Head, Transaction, View

LOG, SEGMENT = "log.purge", "segment.purge"
"""Actions of the custody entries: what was purged of a log, and the file of a segment since."""


class Owner(custody.Owner, Protocol):
    """The trail in which entries are purged."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...


def purge_prefix(
    owner: Owner, log: str, first: int, *, plan_digest: str | None, now: datetime
) -> int:
    """
    Let the entries of *log* before *first* be gone, all but their hashes.

    Whether they may go, whom that needs the approval of, and what a hold keeps, is for
    whoever calls this.

    Args:
        first: A multiple of 256.
        plan_digest: SHA-256 of the plan that it is done by, in hex, if there is one.

    Returns:
        How many entries are gone that were there before.

    Raises:
        UnknownStream: There is no such log.
        CallerError: The log is one of the custody stream, or *first* is no multiple of 256
            after what was purged already and within what it holds.
        StoreError: Either nothing has happened, or nobody finds the entries any more, but
            files may still hold them; `resume` completes it.
        Damaged: A segment's file is not the one that was closed, and was left as it is.
    """
    with owner.store.read() as view:
        heads = view.heads()
        if log not in heads:
            raise UnknownStream(f"log: found {log!r}, expected one of {', '.join(heads)}")
        if heads[log].stream == CUSTODY:
            raise CallerError(f"purge of {log}: found the custody stream, which is never purged")
        roots = _roots(view, heads[log].without(first))
    with owner.store.write() as transaction:
        # Not the head from above: others may have purged meanwhile.
        count = first - transaction.heads()[log].first
        transaction.purge(log, first)
        said: dict[str, Any] = {
            "log": log,
            "first": first,
            "count": count,
            "roots": [b64encode(root).decode("ascii") for root in roots],
            "policy": owner.policy.label,
        }
        if plan_digest is not None:
            said["plan"] = plan_digest
        _record(owner, transaction, now, LOG, said)
    # Crash here: nobody finds the entries, and it is recorded why; but closed segments,
    # the vault and what was written ahead may still hold them, until `resume`.
    resume(owner, now)
    return count


def resume(owner: Owner, now: datetime) -> None:
    """
    Remove from all files what was purged before; where nothing is left to do, do nothing.

    Raises:
        StoreError: Something of it may be left; repeating it is safe.
        Damaged: A segment's file is not the one that was closed, and was left as it is.
    """
    for segment in owner.store.purge_segments():
        said = {
            "log": segment.log,
            "number": segment.number,
            "root": b64encode(segment.root).decode("ascii"),
            "file_hash": segment.file_hash.hex(),
            "index_hash": segment.index_hash.hex(),
        }
        with owner.store.write() as transaction:
            transaction.register(segment)
            _record(owner, transaction, now, SEGMENT, said)


def _roots(view: View, head: Head) -> list[bytes]:
    """Return the roots of the complete subtrees that cover what was purged, the largest first."""
    roots, done = [], 0
    for level in reversed(range(head.first.bit_length())):
        if head.first >> level & 1:
            roots.append(view.node(head.log, level, done >> level))
            done += 1 << level
    return roots


def _record(
    owner: Owner, transaction: Transaction, now: datetime, action: str, said: dict[str, Any]
) -> None:
    event = own_event(owner.id, action, **said)
    custody.add(owner, transaction, [event], microseconds(now))
