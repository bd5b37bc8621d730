"""
Whether the hooks still see what Django does, looked at when it starts.

The compilers are private to Django, and a new version may go around them. So a small
model is written in every way, in a database in memory that nobody else sees, and what
the outbox then holds is compared with what was done.
"""

from __future__ import annotations

import warnings
from typing import Any

from django.apps.registry import Apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models
from django.db.models import F

from indelible.frameworks.django import tracking
from indelible.frameworks.django.models import Outbox
from indelible.frameworks.django.relaying import SELFTEST
from indelible.outbox import unpack

_EXPECTED = [
    ("sample.create", {"n": (None, 1)}),
    ("sample.update", {"n": (1, 2)}),
    ("sample.update", {"n": (2, 12)}),
    ("sample.create", {"n": (None, 3)}),
    ("sample.create", {"n": (None, 4)}),
    ("sample.update", {"n": (3, 5)}),
    ("sample.update", {"n": (4, 6)}),
    ("sample.update", {"n": (5, 7)}),
    ("sample.delete", {"n": (6, None)}),
    ("sample.delete", {"n": (12, None)}),
    ("sample.delete", {"n": (7, None)}),
]


class Sample(models.Model):  # noqa: DJ008 - nobody looks at one
    """What is written."""

    n = models.IntegerField()

    class Meta:
        """Known to no application."""

        app_label = "indelible"
        apps = Apps()


def run() -> None:
    """
    Write a model in every way, and compare.

    Raises:
        ImproperlyConfigured: Something was not captured as it happened.
    """
    connections.settings[SELFTEST] = connections.configure_settings(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    )["default"]
    tracking.track(type="sample")(Sample)
    tracking.resolve()
    try:
        with warnings.catch_warnings():
            # Django warns of queries at start, since tests would run them elsewhere.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = _written()
    finally:
        tracking.forget(Sample)
        # Django leaves a database in memory open for as long as the process is there.
        connections[SELFTEST].connection.close()
        del connections[SELFTEST]
        del connections.settings[SELFTEST]
    if found != _EXPECTED:
        missing = [each for each in _EXPECTED if each not in found]
        raise ImproperlyConfigured(
            "the hooks of Indelible do not see what this version of Django does: of"
            f" {len(_EXPECTED)} changes in a test database {len(found)} were captured"
            f" ({missing[:3]} were not)"
        )


def _written() -> list[tuple[str, dict[str, Any]]]:
    with connections[SELFTEST].schema_editor() as editor:
        editor.create_model(Outbox)
        editor.create_model(Sample)
    rows = Sample.objects.using(SELFTEST)
    first = rows.create(n=1)
    first.n = 2
    first.save()
    rows.filter(pk=first.pk).update(n=F("n") + 10)
    second, third = rows.bulk_create([Sample(n=3), Sample(n=4)])
    second.n, third.n = 5, 6
    rows.bulk_update([second, third], ["n"])
    rows.bulk_create(
        [Sample(pk=second.pk, n=7)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["n"],
    )
    third.delete()
    rows.order_by("pk").filter(n__gt=0).delete()
    bodies = Outbox.objects.using(SELFTEST).order_by("seq").values_list("body", flat=True)
    return [
        (event.action, {name: _pair(change) for name, change in (event.changes or {}).items()})
        for body in bodies
        for event in unpack(body)
    ]


def _pair(change: Any) -> tuple[Any, Any]:
    return tuple(side if isinstance(side, int) else None for side in (change.old, change.new))  # type: ignore[return-value]
