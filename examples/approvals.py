"""
A small application with an audit trail: invoices that an approver must release.

Run it on a trail, which is made where there is none::

    python examples/approvals.py audit

What an auditor will ask for is said once, where it happens: who acts, in which
session and from where (`audit.context`), what changed from what to what, and why.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import indelible
from indelible import Actor, Rationale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@dataclass
class Invoice:
    """What the application itself keeps of an invoice."""

    amount: str
    status: str = "draft"


@dataclass
class Office:
    """The application: who has which roles, and the invoices."""

    roles: dict[str, set[str]]
    invoices: dict[str, Invoice] = field(default_factory=dict)


class Desk:
    """
    What users can do, each of it with its entry in the trail *audit*.

    An action that is refused or fails leaves an entry that says so.
    """

    def __init__(self, audit: indelible.Trail, office: Office) -> None:
        self._audit, self._office = audit, office
        # The decorator records how each call ended; what a call changes is looked
        # up before it.
        self.approve: Callable[[str, str], None] = audit.audited(
            "invoice.approve",
            resource="invoice:{number}",
            changes=lambda _user, number: {"status": (office.invoices[number].status, "approved")},
        )(self._approve)

    def create(self, number: str, amount: str) -> None:
        """Write a new invoice."""
        invoice = Invoice(amount)
        # Recorded before it is done: what cannot be recorded does not happen.
        self._audit.record(
            "invoice.create",
            resource=f"invoice:{number}",
            changes={"amount": (None, amount), "status": (None, invoice.status)},
        )
        self._office.invoices[number] = invoice

    def correct(self, number: str, amount: str, why: str) -> None:
        """Change the amount of an invoice, with a rationale."""
        invoice = self._office.invoices[number]
        self._audit.record(
            "invoice.correct",
            resource=f"invoice:{number}",
            changes={"amount": (invoice.amount, amount)},
            rationale=why,
        )
        invoice.amount = amount

    def grant(self, user: str, role: str, why: Rationale) -> None:
        """Give a user a role; an administrator says why."""
        self._audit.record(
            "role.grant",
            resource=f"user:{user}",
            changes={role: (False, True)},
            rationale=why,
        )
        self._office.roles.setdefault(user, set()).add(role)

    def _approve(self, user: str, number: str) -> None:
        if "approver" not in self._office.roles.get(user, ()):
            raise PermissionError(f"{user} may not approve")
        self._office.invoices[number].status = "approved"


def signed_in(
    audit: indelible.Trail, user: str, session: str, address: str, *roles: str
) -> AbstractContextManager[object]:
    """Name who acts, in which session and from where, for a whole block."""
    return audit.context(
        actor=Actor(type="user", id=user, roles=roles), session=session, client=address
    )


def work(audit: indelible.Trail) -> Iterator[str]:
    """Do some hours' work, and tell what happened."""
    office = Office(roles={"carol": {"admin"}, "alice": {"clerk"}})
    desk = Desk(audit, office)

    with signed_in(audit, "alice", "s-101", "192.0.2.17", "clerk"):
        desk.create("INV-7", "1200.00")
        yield "alice writes invoice INV-7 over 1200.00"
        desk.correct("INV-7", "1250.00", "the delivery note says 1250")
        yield "alice corrects it to 1250.00"
        try:
            desk.approve("alice", "INV-7")
        except PermissionError:
            yield "alice tries to approve it herself, and is refused"

    with signed_in(audit, "carol", "s-102", "192.0.2.40", "admin"):
        desk.grant(
            "bob",
            "approver",
            Rationale(text="stands in until 2026-12-31", reference="HR-12"),
        )
        yield "carol, an administrator, makes bob an approver"

    with signed_in(audit, "bob", "s-103", "192.0.2.23", "approver"):
        desk.approve("bob", "INV-7")
        yield "bob approves it"


def main(directory: str) -> None:
    """Work on the trail in *directory*."""
    with indelible.open(directory) as audit:
        for line in work(audit):
            print(line)


if __name__ == "__main__":
    main(sys.argv[1])
