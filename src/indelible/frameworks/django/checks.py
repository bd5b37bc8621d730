"""What `manage.py check` says about what is captured, and what is not."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.db import connections

from indelible.errors import IndelibleError
from indelible.frameworks.django import relaying, tracking
from indelible.frameworks.django.compilers import VENDORS
from indelible.frameworks.django.settings import Settings
from indelible.outbox import TABLE
from indelible.outboxes import triggers
from indelible.policy import FieldClass

_MIDDLEWARE = "indelible.frameworks.django.AuditMiddleware"
_PERSONAL = frozenset({FieldClass.PERSONAL, FieldClass.ACCOUNTABLE, FieldClass.SECRET})


def register() -> None:
    """Add the checks to Django's."""
    checks.register(check_configuration, "indelible")
    checks.register(check_models, "indelible")
    checks.register(check_databases, checks.Tags.database)


def check_configuration(**_: Any) -> list[Any]:
    """Look at the settings."""
    found: list[Any] = []
    settings = Settings.read()
    middleware = list(django_settings.MIDDLEWARE)
    own = [name for name in middleware if name.startswith("indelible.frameworks.django.")]
    after = "django.contrib.auth.middleware.AuthenticationMiddleware"
    if not own:
        found.append(
            checks.Warning(
                "no audit middleware: entries will not say who acted",
                hint=f"add {_MIDDLEWARE!r} to MIDDLEWARE, after authentication",
                id="indelible.W001",
            )
        )
    elif after in middleware and middleware.index(after) > middleware.index(own[0]):
        found.append(
            checks.Warning(
                "the audit middleware stands before authentication",
                hint="put it after, so that sessions and users are there",
                id="indelible.W002",
            )
        )
    if settings.trail is None and settings.relay:
        found.append(
            checks.Warning(
                "no trail: events wait in the outbox until a relay moves them",
                hint="set INDELIBLE['TRAIL'], or run `indelible relay` and set 'RELAY' to False",
                id="indelible.W003",
            )
        )
    return found


def check_models(**_: Any) -> list[Any]:
    """Look whether what is tracked can be captured, and is classed as it was declared."""
    found: list[Any] = []
    policy = None
    if Settings.read().trail is not None and any(
        table.tracked.personal for table in tracking.tables()
    ):
        try:
            policy = relaying.trail().policy
        except (IndelibleError, OSError) as error:
            found.append(checks.Error(f"the trail cannot be opened: {error}", id="indelible.E001"))
    for table in tracking.tables():
        model, tracked = table.model, table.tracked
        if not table.triggers:
            found += [
                checks.Error(
                    f"{each.name} lets the database itself change rows of {model._meta.label},"
                    " which Django does not see",
                    hint="let triggers capture it: track(triggers=True)",
                    obj=model,
                    id="indelible.E002",
                )
                for each in table.fields.values()
                if _changed_by_database(each)
            ]
        found += [
            checks.Warning(
                f"the rows of {each.remote_field.through._meta.label}, which {each.name} goes"
                " through, are not captured",
                hint="track that model, too",
                obj=model,
                id="indelible.W008",
            )
            for each in model._meta.local_many_to_many
            if each.name not in tracked.exclude
            and tracking.table_of(each.remote_field.through) is None
        ]
        if policy is None:
            continue
        for name in sorted(tracked.personal):
            classes = policy.field(f"/changes/{name}", "user", tracked.type).class_
            if classes not in _PERSONAL:
                found.append(
                    checks.Error(
                        f"{name} is declared personal, and the policy classes"
                        f" /changes/{name} of {tracked.type} {classes}",
                        hint=f'add "/changes/{name}@{tracked.type}" = {{ class = "personal",'
                        ' subject = "resource" }',
                        obj=model,
                        id="indelible.E003",
                    )
                )
    return found


def check_databases(*, databases: Any = None, **_: Any) -> list[Any]:
    """Look whether the databases can say what a statement did, and have an outbox."""
    found: list[Any] = []
    for using in databases or ():
        connection = connections[using]
        if connection.vendor not in VENDORS:
            found.append(
                checks.Warning(
                    f"database {using}: {connection.vendor} cannot tell what a statement did;"
                    f" changes of tracked models there are refused, expected"
                    f" {' or '.join(VENDORS)}",
                    id="indelible.W004",
                )
            )
        elif TABLE not in connection.introspection.table_names():
            found.append(
                checks.Warning(
                    f"database {using}: has no outbox; changes of tracked models there are refused",
                    hint=f"manage.py migrate indelible --database {using}",
                    id="indelible.W005",
                )
            )
        elif connection.vendor == "postgresql":
            found += _check_triggers(using, connection)
    return found


def _check_triggers(using: str, connection: Any) -> list[Any]:
    """Look whether triggers stand on the tables that ask for them, and on no others."""
    connection.ensure_connection()
    installed = {each.table for each in triggers.installed(connection.connection)}
    wanted = {table.model._meta.db_table for table in tracking.with_triggers()}
    known = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    return [
        checks.Warning(
            f"database {using}: table {name} is captured by triggers, and has none",
            hint=f"manage.py indelible_triggers --database {using}",
            id="indelible.W006",
        )
        for name in sorted(wanted - installed)
    ] + [
        checks.Warning(
            f"database {using}: table {name} has triggers that its model does not ask for;"
            " with Django's own capture each change is recorded twice",
            hint="track(triggers=True), or indelible.outboxes.triggers.remove",
            id="indelible.W007",
        )
        for name in sorted((installed & known) - wanted)
    ]


def _changed_by_database(field: Any) -> bool:
    remote = getattr(field, "remote_field", None)
    action = getattr(remote, "on_delete", None)
    # Since Django 6.1: DB_CASCADE and its like are no functions.
    return action is not None and type(action).__name__ == "DatabaseOnDelete"
