"""``manage.py indelible_triggers``: put triggers on the tables whose models ask for them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from indelible.capture import Tracked
from indelible.errors import CallerError
from indelible.frameworks.django import tracking
from indelible.outboxes import triggers


class Command(BaseCommand):
    """Installs them, or replaces those that are there; run it after each migration."""

    help = "Puts triggers on the tables of models tracked with triggers=True (PostgreSQL)."
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: Any) -> None:
        """Say what it takes."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="where the tables are")

    def handle(self, *_: Any, database: str, **__: Any) -> None:
        """Do it, for all or for none."""
        connection = connections[database]
        if connection.vendor != "postgresql":
            raise CommandError(
                f"database {database}: found {connection.vendor}, expected postgresql"
            )
        with transaction.atomic(using=database):
            for table in tracking.with_triggers():
                try:
                    install(connection.connection, table)
                except CallerError as error:
                    raise CommandError(str(error)) from error
                self.stdout.write(table.model._meta.db_table)


def install(connection: Any, table: tracking.Table) -> None:
    """
    Put triggers on *table* that say what Django would say.

    Raises:
        CallerError: Its columns or its key are not what triggers can tell.
    """
    meta = table.model._meta
    kept = {field.column for field in table.fields.values()}
    every = {field.column for field in meta.local_concrete_fields if field.column is not None}
    secret = {meta.get_field(name).column for name in table.tracked.secret}
    triggers.install(
        connection,
        meta.db_table,
        tracked=Tracked(
            type=table.tracked.type,
            exclude=frozenset(every - kept),
            secret=frozenset(secret),
        ),
        names={field.column: name for name, field in table.fields.items() if field.column != name},
    )
