"""
Django 5.2 and later: every change of a tracked model's rows, and who made it.

::

    INSTALLED_APPS += ["indelible.frameworks.django"]
    MIDDLEWARE += ["indelible.frameworks.django.AuditMiddleware"]   # after authentication
    INDELIBLE = {"TRAIL": BASE_DIR / "audit"}

    from indelible.frameworks.django import track

    @track(secret=["iban"], personal=["name"])
    class Customer(models.Model): ...

    compilers     what each statement did  ->  outbox, in the same transaction
    relaying      outbox                   ->  trail
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.errors import CallerError

try:
    import django as _django
except ImportError as error:
    raise CallerError("Django is not installed: pip install 'indelible[django]'") from error

from indelible.frameworks.django.middleware import AuditMiddleware
from indelible.frameworks.django.tracking import track

if TYPE_CHECKING:
    from datetime import datetime

    from indelible import Trail

__all__ = ["AuditMiddleware", "as_of", "record", "track", "trail"]

del _django


def trail() -> Trail:
    """
    Return the trail that the settings name, the same for the whole process.

    Raises:
        ImproperlyConfigured: They name none.
    """
    from indelible.frameworks.django import relaying  # noqa: PLC0415 - needs settings

    return relaying.trail()


def record(action: str, *, using: str = "default", **fields: Any) -> str:
    """
    Record an event in the running transaction: it is kept if and only if that commits.

    Args:
        action: With *fields* as for `indelible.Trail.record`.
        using: The database whose transaction it is.

    Returns:
        The event's id.

    Raises:
        InvalidEvent: A field is missing or wrong.
    """
    from indelible.frameworks.django import events  # noqa: PLC0415 - needs settings

    return events.record(action, using=using, **fields)


def as_of(instance: Any, at: datetime) -> Any:
    """
    Return *instance* as it was at a time, as far as the trail knows.

    See `indelible.frameworks.django.history.as_of`.
    """
    from indelible.frameworks.django import history  # noqa: PLC0415 - needs settings

    return history.as_of(instance, at)
