"""The table in which events wait, and what the admin shows of the trail."""

from __future__ import annotations

from django.db import models

from indelible.outbox import TABLE


class Outbox(models.Model):  # noqa: DJ008 - nobody looks at one
    """A row of the outbox; see `indelible.outbox`."""

    seq = models.BigAutoField(primary_key=True)
    body = models.TextField()
    error = models.TextField(null=True, editable=False)  # noqa: DJ001 - null where there is none

    class Meta:
        """Where it lies."""

        db_table = TABLE
        default_permissions = ()


class Entry(models.Model):  # noqa: DJ008 - it has no rows
    """Stands for the entries of the trail in the admin; it has no table."""

    class Meta:
        """Who may see it has the permission ``indelible.view_entry``."""

        managed = False
        default_permissions = ("view",)
        verbose_name = "audit entry"
        verbose_name_plural = "audit trail"
