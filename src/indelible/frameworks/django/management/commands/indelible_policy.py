"""``manage.py indelible_policy``: what a policy has to say of the tracked models."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from indelible.frameworks.django import tracking


class Command(BaseCommand):
    """Prints the part ``[fields]`` of a policy, to be read, corrected and pasted."""

    help = (
        "Prints, for each tracked model, the lines of a policy that class its fields: those"
        " declared personal so, the others public."
    )
    requires_system_checks: tuple[str, ...] = ()

    def handle(self, *_: Any, **__: Any) -> None:
        """Print it."""
        self.stdout.write("[fields]")
        for table in tracking.tables():
            tracked = table.tracked
            self.stdout.write(f"# {table.model._meta.label}")
            for name in table.fields:
                if name in tracked.secret:
                    said = '{ class = "secret" }'
                elif name in tracked.personal:
                    said = '{ class = "personal", subject = "resource" }'
                else:
                    said = '{ class = "public" }'
                self.stdout.write(f'"/changes/{name}@{tracked.type}" = {said}')
