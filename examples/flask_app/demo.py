"""A day at the helpdesk: real requests, and what its audit trail says of them."""

from __future__ import annotations

import sys

from app import app, nightly, relay, trail
from msgspec import UNSET

from indelible.capture import shown


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}")


def main() -> int:
    """Play it."""
    client = app.test_client()
    say("Alice opens tickets, bob answers one and deletes it, saying why")
    for text in ("the printer smokes", "no paper", "too much paper"):
        client.post("/tickets", json={"text": text}, headers={"X-User": "alice"})
    client.post("/tickets/1/answer", json={"text": "pull the plug"}, headers={"X-User": "bob"})
    client.delete("/tickets/1", headers={"X-User": "bob", "X-Rationale": "opened twice"})
    refused = client.post("/tickets", json={"text": "x"})
    print(f"    without a user: {refused.status_code}")
    say("A nightly job closes what is open, in one statement")
    nightly()
    relay.stop()

    say("What the trail says")
    for item in reversed(trail.search(limit=50).items):
        event = item.event
        changes = ", ".join(
            f"{name}: {_side(change.old)} → {_side(change.new)}"
            for name, change in (event.changes or {}).items()
        )
        why = f"  [{event.rationale.text}]" if event.rationale else ""
        print(f"    {item.log}#{item.index}  {event.actor!s:16} {event.action:14}", end="")
        print(f" {event.resource!s:10} {changes}{why}")
    verdict = trail.verify()
    say(f"Verification: {verdict.level}")
    return 0 if verdict.passed else 1


def _side(value: object) -> str:
    return "·" if value is UNSET else shown(value)


if __name__ == "__main__":
    sys.exit(main())
