"""
WSGI: begins a `Work` for each request of Flask, Bottle, Pyramid and the like.

It needs none of them installed. A server's thread answers many requests, and may turn to
another one between two chunks of a response; so it holds the context of a request only
while the application runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from indelible.context import Steps, Work, is_current
from indelible.frameworks.web import Proxies, context_of, given_actor, given_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from indelible.context import Context
    from indelible.event import Actor, Service

WORK = "indelible.work"
"""Where the environment of a request holds its `Work`."""


class AuditMiddleware:
    """
    Gives every event recorded while *app* answers the context of its request.

    It holds while the response is streamed and closed, too. Who acts is looked up when an
    event is recorded: whoever called `indelible.context.authenticated`, else *actor*.
    Inside another one it does nothing.

    Args:
        app: The WSGI application.
        trusted_proxies: Whose ``X-Forwarded-For`` and ``X-Request-ID`` are believed, see
            `indelible.frameworks.web.Proxies`.
        service: The program that answers, or its name.
        actor: Asked with the environment who acts, until somebody says so.

    Raises:
        CallerError: A trusted proxy is no address.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        trusted_proxies: Iterable[str] = (),
        service: Service | str | None = None,
        actor: Callable[[WSGIEnvironment], Actor | str | None] | None = None,
    ) -> None:
        self.app = app
        self._proxies = Proxies(trusted_proxies)
        self._service = given_service(service)
        self._actor = actor

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Have *app* answer, with a `Work` begun."""
        if WORK in environ and is_current(environ[WORK]):
            return self.app(environ, start_response)
        context = environ_context(environ, proxies=self._proxies, service=self._service)
        work = environ[WORK] = Work(context, lambda: self._who(environ))
        steps = Steps(work)
        with steps.step():
            body = self.app(environ, start_response)
        return body if _is_complete(body, environ) else _Body(body, steps)

    def _who(self, environ: WSGIEnvironment) -> Actor | None:
        return None if self._actor is None else given_actor(self._actor(environ))


def environ_context(
    environ: WSGIEnvironment, *, proxies: Proxies, service: Service | None = None
) -> Context:
    """
    Return what a WSGI environment says of the work that is done for the request.

    Args:
        proxies: Whose headers are believed.
        service: The program that answers.
    """

    def header(name: str) -> tuple[str, ...]:
        value = environ.get("HTTP_" + name.upper().replace("-", "_"))
        return () if value is None else (value,)

    return context_of(environ.get("REMOTE_ADDR"), header, proxies=proxies, service=service)


def _is_complete(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Tell whether nothing of the application runs any more when *body* is read."""
    file_wrapper = environ.get("wsgi.file_wrapper")
    # A server recognises its own wrapper of a file, and then sends the file by itself.
    is_file = isinstance(file_wrapper, type) and isinstance(body, file_wrapper)
    return is_file or type(body) in {list, tuple}


class _Body:
    """A response that is read and closed within the context of its request."""

    def __init__(self, body: Iterable[bytes], steps: Steps) -> None:
        self._body = body
        self._steps = steps
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._steps.step():
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks)

    def close(self) -> None:
        """Close the application's response."""
        close: Any = getattr(self._body, "close", None)
        if close is not None:
            with self._steps.step():
                close()
