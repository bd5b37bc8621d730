"""The application: at start it looks whether everything is captured that should be."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.core.exceptions import ImproperlyConfigured


class IndelibleConfig(AppConfig):
    """Installs the hooks, once all models are there."""

    name = "indelible.frameworks.django"
    label = "indelible"
    verbose_name = "Audit trail"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """
        Resolve what is tracked, and install the hooks.

        Raises:
            ImproperlyConfigured: Something would not be captured.
        """
        from indelible.frameworks.django import (  # noqa: PLC0415 - once the models are there
            authentication,
            checks,
            compilers,
            selftest,
            tracking,
        )
        from indelible.frameworks.django.settings import Settings  # noqa: PLC0415

        settings = Settings.read()
        if settings.auth and apps.is_installed("django.contrib.auth"):
            authentication.install()
        for label, options in (settings.track or {}).items():
            tracking.track(**options)(_model(label))
        tracking.resolve()
        compilers.install()
        checks.register()
        if settings.selftest:
            selftest.run()


def _model(label: str) -> Any:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise ImproperlyConfigured(f"INDELIBLE['TRACK']: {error}") from error
