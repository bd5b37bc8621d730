"""A day of the service: real requests, and what its audit trail says of them."""

from __future__ import annotations

import sys

from fastapi.testclient import TestClient
from msgspec import UNSET
from service import HOME, app

import indelible
from indelible.capture import shown


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}")


def main() -> int:
    """Play it."""
    alice, carol = ({"Authorization": f"Bearer {name}-token"} for name in ("alice", "carol"))
    with TestClient(app) as client:
        say("Alice makes three invoices")
        for number, amount in enumerate(("10.00", "20.00", "30.00")):
            new = {"customer": f"c{number}", "iban": "DE02120300000000202051", "amount": amount}
            client.post("/invoices", json=new, headers=alice)
        say("She may not approve one; carol, an administrator, may, and says why")
        reason = {"Rationale": "PO-99 is signed"}
        refused = client.post("/invoices/1/approve", headers=alice | reason)
        done = client.post("/invoices/1/approve", headers=carol | reason)
        print(f"    alice: {refused.status_code}, carol: {done.status_code}")
        say("A background task raises all drafts in one statement")
        client.post("/invoices/raise?percent=10", headers=carol)

    say("What the trail says")
    with indelible.open(HOME / "audit") as audit:
        for item in reversed(audit.search(limit=50).items):
            event = item.event
            changes = ", ".join(
                f"{name}: {_side(change.old)} → {_side(change.new)}"
                for name, change in (event.changes or {}).items()
            )
            why = f"  [{event.rationale.text}]" if event.rationale else ""
            print(f"    {item.log}#{item.index}  {event.actor!s:12} {event.action:16}", end="")
            print(f" {event.resource!s:10} {changes}{why}")
        verdict = audit.verify()
    say(f"Verification: {verdict.level}")
    return 0 if verdict.passed else 1


def _side(value: object) -> str:
    return "·" if value is UNSET else shown(value)


if __name__ == "__main__":
    sys.exit(main())
