"""What ``INDELIBLE`` in Django's settings says."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from indelible.trail import ENVIRONMENT


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The adapter's settings; in ``INDELIBLE`` their names stand in capitals.

    Attributes:
        trail: Directory of the trail; by default the one that the environment names.
        policy: File of the policy that the trail is to be under.
        relay: Whether this process moves what its transactions wrote into the trail; else
            ``manage.py indelible_relay`` does.
        track: Models of other applications to capture: ``{"shop.Invoice": {"secret": …}}``.
        auth: Whether users, groups, their rights, logins and logouts are captured.
        trusted_proxies: Networks of the proxies whose word on the client's address counts.
        service: Name of the application, as entries give it.
        role: As whom the pages of the admin read the trail.
        selftest: Whether to see at start that the hooks capture what they should.
    """

    trail: str | None = None
    policy: str | None = None
    relay: bool = True
    track: dict[str, dict[str, Any]] | None = None
    auth: bool = True
    trusted_proxies: tuple[str, ...] = ()
    service: str | None = None
    role: str = "reader"
    selftest: bool = True

    @staticmethod
    def read() -> Settings:
        """
        Return the settings of this process.

        Raises:
            ImproperlyConfigured: One that there is not.
        """
        return _read()


@lru_cache(maxsize=1)
def _read() -> Settings:
    given = dict(getattr(settings, "INDELIBLE", None) or {})
    known = {each.name.upper(): each.name for each in fields(Settings)}
    if unknown := given.keys() - known.keys():
        raise ImproperlyConfigured(
            f"INDELIBLE: found {min(unknown)!r}, expected one of {', '.join(known)}"
        )
    values = {known[name]: value for name, value in given.items()}
    for name in ("trail", "policy"):
        if values.get(name) is not None:
            values[name] = os.fspath(values[name])
    values.setdefault("trail", os.environ.get(ENVIRONMENT) or None)
    values["trusted_proxies"] = tuple(values.get("trusted_proxies", ()))
    return Settings(**values)


def _changed(*, setting: str, **_: object) -> None:
    if setting == "INDELIBLE":
        _read.cache_clear()


setting_changed.connect(_changed, dispatch_uid="indelible.settings")
