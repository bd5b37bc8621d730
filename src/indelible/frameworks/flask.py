"""
Flask: begins a `Work` for each request, and names who acts as Flask-Login knows it.

It needs the extra ``indelible[flask]``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from indelible.errors import CallerError
from indelible.event import Actor
from indelible.frameworks.web import given_actor
from indelible.frameworks.wsgi import WORK, AuditMiddleware

try:
    from flask import current_app, has_request_context, request
except ImportError as error:
    raise CallerError("Flask is not installed: pip install 'indelible[flask]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Flask, Response

    from indelible.event import Service
    from indelible.trail import Trail


class Audit:
    """
    Gives every event recorded in a request of a Flask application its context.

    Who acts is looked up when an event is recorded: whoever called
    `indelible.context.authenticated`, else *actor*, else Flask-Login's ``current_user``
    where the application uses it.

    Args:
        app: The application; without one, call `init_app` later.
        trail: Where blueprints find it: ``current_app.extensions["indelible"]``.
        trusted_proxies: Whose ``X-Forwarded-For`` and ``X-Request-ID`` are believed, see
            `indelible.frameworks.web.Proxies`.
        service: The program that answers, or its name.
        actor: Asked within the request who acts, instead of Flask-Login.

    Raises:
        CallerError: A trusted proxy is no address.
    """

    def __init__(
        self,
        app: Flask | None = None,
        trail: Trail | None = None,
        *,
        trusted_proxies: Iterable[str] = (),
        service: Service | str | None = None,
        actor: Callable[[], Actor | str | None] | None = None,
    ) -> None:
        self._trail = trail
        self._trusted_proxies = tuple(trusted_proxies)
        self._service = service
        self._actor = actor
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, trail: Trail | None = None) -> None:
        """
        Begin a work for each request of *app*.

        Args:
            trail: Another one than that of all applications.

        Raises:
            CallerError: It has been done before, or a trusted proxy is no address.
        """
        if "indelible" in app.extensions:
            raise CallerError(f"Flask {app.name}: found an Audit, expected none yet")
        middleware = AuditMiddleware(
            app.wsgi_app,
            trusted_proxies=self._trusted_proxies,
            service=self._service,
            actor=lambda _: self._who() if _is_in(app) else None,
        )
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.after_request(self._remember)
        app.extensions["indelible"] = self._trail if trail is None else trail

    def _who(self) -> Actor | None:
        return _logged_in() if self._actor is None else given_actor(self._actor())

    def _remember(self, response: Response) -> Response:
        # A stream goes on when Flask's own context has ended, and nobody can be asked.
        work = request.environ.get(WORK)
        if work is not None and response.is_streamed and not response.direct_passthrough:
            actor = work.context.actor or self._who()
            work.context = msgspec.structs.replace(work.context, actor=actor)
        return response


def _is_in(app: Flask) -> bool:
    # Equal and not identical: this is a proxy of the application.
    return has_request_context() and current_app == app


def _logged_in() -> Actor | None:
    login = sys.modules.get("flask_login")
    if login is None or not hasattr(current_app, "login_manager"):
        return None
    user = login.current_user
    if not user.is_authenticated:
        return Actor(type="anonymous")
    return Actor(type="user", id=str(user.get_id()))
