"""``manage.py raise_prices 10 --rationale …``: a bulk operation, as a nightly job does it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import F

from indelible.context import context
from shop.models import Product


class Command(BaseCommand):
    """Raises all prices in one statement; each product is an entry of its own."""

    help = "Raises all prices by PERCENT."

    def add_arguments(self, parser: Any) -> None:
        """Say what it takes."""
        parser.add_argument("percent", type=int)
        parser.add_argument("--rationale", required=True)

    def handle(self, *_: Any, percent: int, rationale: str, **__: Any) -> None:
        """Raise them."""
        with context(actor="service:prices", rationale=rationale):
            factor = Decimal(100 + percent) / 100
            count = Product.objects.update(price=F("price") * factor)
        self.stdout.write(f"{count} prices raised")
