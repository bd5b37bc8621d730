"""Makes the outbox."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table of the outbox, and the permission to see entries."""

    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel(
            name="Entry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
            ],
            options={
                "verbose_name": "audit entry",
                "verbose_name_plural": "audit trail",
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("seq", models.BigAutoField(primary_key=True, serialize=False)),
                ("body", models.TextField()),
                ("error", models.TextField(editable=False, null=True)),
            ],
            options={"db_table": "indelible_outbox", "default_permissions": ()},
        ),
    ]
