"""``manage.py demo``: a day in the shop, and what its audit trail says of it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.test import Client
from msgspec import UNSET

from indelible.capture import shown
from indelible.context import context
from indelible.frameworks.django import as_of, relaying, trail
from indelible.relay import Relay
from shop.models import Customer, Label, Product

if TYPE_CHECKING:
    from indelible.query import Item


class Command(BaseCommand):
    """Plays the day through real requests."""

    help = "Plays a day in the shop, and shows what the trail says of it."

    def handle(self, *_: Any, **__: Any) -> None:
        """Play it."""
        logging.getLogger("django.request").setLevel(logging.ERROR)  # what is refused, is shown
        call_command("migrate", verbosity=0)
        self._say("Opening: staff, customers, products (bulk_create), labels (many to many)")
        with context(actor="system", rationale="opening day"):
            self._open()
        alice, carol = self._clients()
        tea = Product.objects.get(name="tea")
        morning = datetime.now(UTC)

        self._say("A customer logs in and buys; somebody else fails to log in")
        Client().login(username="alice", password="guessed")
        order = alice.post("/buy", json.dumps([1, 2]), "application/json").json()["order"]

        self._say("She may not cancel an order, staff may, and says why")
        denied = alice.post(f"/cancel/{order}").status_code
        done = carol.post(f"/cancel/{order}", headers={"X-Rationale": "PO-99 withdrawn"})
        self.stdout.write(f"    alice: {denied}, carol: {done.status_code}")

        self._say("A background job restocks, a nightly one raises all prices in one statement")
        carol.post("/restock")
        call_command("raise_prices", 10, rationale="new tariff", stdout=self.stdout)

        self._say("A product is deleted, and all that belongs to it")
        with context(actor="user:2", rationale="discontinued"):
            Product.objects.filter(name="mug").delete()
        self._relay()

        self._say("What the trail says")
        audit = trail()
        for item in reversed(audit.search("-action:user.*", limit=60).items):
            self._show(item)
        self._say(f"The price of tea this morning: {as_of(tea, morning).price}")
        tea.refresh_from_db()
        self.stdout.write(f"    and now: {tea.price}")
        self._say(f"Verification: {audit.verify().level}")
        self.stdout.write(
            "\nLook at it yourself: python manage.py createsuperuser, python manage.py runserver,"
            " and open /admin/indelible/entry/"
        )

    def _open(self) -> None:
        User.objects.create_user("alice", "alice@example.com", "right")
        carol = User.objects.create_user("carol", "carol@example.com", "right", is_staff=True)
        carol.user_permissions.add(
            *Permission.objects.filter(codename__in=["change_order", "change_product"])
        )
        Customer.objects.create(
            name="Alice", email="alice@example.com", iban="DE02120300000000202051"
        )
        Product.objects.bulk_create(
            [
                Product(name="tea", price="4.50", stock=5),
                Product(name="cup", price="8.00", stock=3),
                Product(name="mug", price="9.00", stock=50),
            ]
        )
        Product.objects.get(name="tea").labels.add(Label.objects.create(name="organic"))

    def _clients(self) -> tuple[Client, Client]:
        found = []
        for name in ("alice", "carol"):
            client = Client(REMOTE_ADDR="203.0.113.7", HTTP_USER_AGENT="demo")
            client.login(username=name, password="right")
            found.append(client)
        return found[0], found[1]

    def _relay(self) -> None:
        outbox = relaying.outbox("default")
        Relay(trail(), outbox).drain()
        outbox.close()

    def _show(self, item: Item) -> None:
        event = item.event
        changes = ", ".join(
            f"{name}: {_short(change.old)} → {_short(change.new)}"
            for name, change in (event.changes or {}).items()
        )
        why = f"  [{event.rationale.text}]" if event.rationale else ""
        outcome = "" if event.outcome == "success" else f" ({event.outcome}: {event.reason})"
        self.stdout.write(
            f"    {item.log}#{item.index}  {event.actor!s:18} {event.action:22}"
            f" {event.resource!s:16}{outcome} {changes[:120]}{why}"
        )

    def _say(self, text: str) -> None:
        self.stdout.write(f"\n{text}")


def _short(value: object) -> str:
    return "·" if value is UNSET else shown(value)
