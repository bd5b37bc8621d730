"""Logins, logouts, passwords and rights: captured without code of the application."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model, signals
from django.contrib.auth.models import Group
from django.db import router
from django.db.models.signals import post_save

from indelible.context import authenticated, current
from indelible.errors import CallerError
from indelible.event import Actor, Event, Resource
from indelible.frameworks.django import events, relaying, tracking
from indelible.frameworks.django.settings import Settings

_RIGHTS = frozenset({"is_active", "is_staff", "is_superuser", "groups", "user_permissions"})


def install() -> None:
    """Track users and groups, unless the application does, and listen for logins."""
    user = get_user_model()
    names = {each.name for each in user._meta.get_fields()}
    if not tracking.is_asked(user):
        tracking.track(
            exclude={"last_login"} & names,
            secret={"password"} & names,
            permissions=_RIGHTS & names,
        )(user)
    if not tracking.is_asked(Group):
        tracking.track(permissions={"permissions"})(Group)
    signals.user_logged_in.connect(_logged_in, dispatch_uid="indelible.login")
    signals.user_logged_out.connect(_logged_out, dispatch_uid="indelible.logout")
    signals.user_login_failed.connect(_login_failed, dispatch_uid="indelible.login_failed")
    post_save.connect(_saved, sender=user, dispatch_uid="indelible.password")


def actor_of(user: Any) -> Actor | None:
    """Return the actor that *user* is; nothing for one that is not there."""
    if user is None:
        return None
    if not getattr(user, "is_authenticated", False):
        return Actor(type="anonymous")
    if user.pk is None:
        return None  # Django takes the key of an object away when its row is deleted
    roles = [
        role
        for role, attribute in (("admin", "is_superuser"), ("staff", "is_staff"))
        if getattr(user, attribute, False)
    ]
    # It is shown; that it is cut stops nobody.
    name = str(user.get_username())[:200] if hasattr(user, "get_username") else None
    return Actor(type="user", id=str(user.pk), name=name or None, roles=tuple(roles))


def _logged_in(*, user: Any, **_: Any) -> None:
    actor = actor_of(user)
    if actor is None:
        return
    with suppress(CallerError):  # no middleware stands around a command, or a test
        authenticated(actor)
    event = Event.authentication(actor, resource=_resource(user), data=_backend(user))
    _write(event, using=_database(user))


def _logged_out(*, user: Any, **_: Any) -> None:
    actor = actor_of(user) or current().actor
    if user is not None and actor is not None and actor.type == "user":
        resource = _resource(user, key=actor.id)
        event = Event.authentication(actor, action="auth.logout", resource=resource)
        _write(event, using=_database(user))


def _login_failed(*, credentials: dict[str, Any], **_: Any) -> None:
    model = get_user_model()
    given = credentials.get(model.USERNAME_FIELD, credentials.get("username"))
    try:
        user = model._default_manager.get_by_natural_key(given)
    except Exception:  # noqa: BLE001 - no such user, or whatever stands in the form
        # What was typed is not kept: now and then it is a password in the wrong field.
        actor, resource = Actor(type="anonymous"), Resource(type="user", id="unknown")
        reason = "unknown account"
    else:
        actor = actor_of(user) or Actor(type="anonymous")
        resource, reason = _resource(user), "wrong credentials"
    _write(
        Event.authentication(actor, outcome="failure", reason=reason, resource=resource),
        using=_database(None),
        alone=True,
    )


def _saved(
    *, instance: Any, using: str, update_fields: Any = None, created: bool, **_: Any
) -> None:
    # A password that was set is there until the user was saved; one that Django only
    # hashes anew, at a login, is not.
    if getattr(instance, "_password", None) is None or created:
        return
    if update_fields is not None and "password" not in update_fields:
        return
    resource = _resource(instance)
    actor = current().actor or Actor(type="unknown")
    events.write(
        Event.authentication(actor, action="auth.password_change", resource=resource), using=using
    )


def _resource(user: Any, *, key: str | None = None) -> Resource:
    table = tracking.table_of(user._meta.model)
    kind = table.tracked.type if isinstance(table, tracking.Table) else "user"
    return Resource(type=kind, id=str(user.pk) if key is None else key)


def _backend(user: Any) -> dict[str, str] | None:
    backend = getattr(user, "backend", None)
    return {"backend": backend} if isinstance(backend, str) else None


def _database(user: Any) -> str:
    """Return the name of the database that users are in, for there is an outbox."""
    return str(router.db_for_write(get_user_model(), instance=user))


def _write(event: Event, *, using: str, alone: bool = False) -> None:
    """
    Write *event* into the outbox.

    Args:
        alone: Past the transaction of the request, where the trail is at hand: what is
            refused is often rolled back, and that it was tried must stay.
    """
    if alone and Settings.read().trail is not None and apps.ready:
        relaying.trail().record(event)
    else:
        events.write(event, using=using)
