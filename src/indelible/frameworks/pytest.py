"""
pytest: the fixture ``audit``, and which routes change something without recording anything.

It is a plugin, which pytest finds by itself; it does nothing until a test asks for it.
"""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from indelible.testing import Captured, captured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from indelible import Trail
    from indelible.outbox import Outbox

_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_FAILED = 400
_NAMED = re.compile(r"\(\?P<(\w+)>[^)]*\)")


class Seen(NamedTuple):
    """How often a route was asked to change something and did, and how often it recorded."""

    requests: int
    recorded: int


Routes = dict[str, Seen]
_ROUTES = pytest.StashKey[Routes]()


class Audit(Captured):
    """What the application under test has recorded in this test; see the fixture `audit`."""

    def __init__(self, trail: Trail, routes: Routes) -> None:
        super().__init__(trail)
        self._routes = routes

    def watch(self, app: Any, *, outbox: Outbox | None = None) -> Any:  # noqa: ANN401 - any framework's
        """
        Return *app*, watched: which of its routes change something and record nothing.

        Every POST, PUT, PATCH and DELETE that is answered without an error counts. What a
        test run has seen is told at its end.

        Args:
            app: An ASGI or WSGI application, which is wrapped, or a test client of Django,
                which is changed.
            outbox: Where the application's changes wait: what it writes there counts, too.
        """
        watch = _Watch(self, outbox, self._routes)
        handler: Any = getattr(app, "handler", None)
        if hasattr(handler, "get_response"):
            handler.get_response = _of_django(handler.get_response, watch)
            return app
        if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
            getattr(app, "__call__", None)  # noqa: B004 - its kind is asked for, not whether it is
        ):
            return _of_asgi(app, watch)
        return _of_wsgi(app, watch)


class _Watch:
    """Notes requests to an application, and whether anything was recorded meanwhile."""

    def __init__(self, audit: Captured, outbox: Outbox | None, routes: Routes) -> None:
        self._audit = audit
        self._outbox = outbox
        self._routes = routes

    def begin(self, method: str) -> _Request | None:
        """Begin to watch a request, if it is one that changes something."""
        return _Request(method, self._size, self._routes) if method in _UNSAFE else None

    def _size(self) -> int:
        waiting = 0 if self._outbox is None else self._outbox.waiting().rows
        return self._audit.count + waiting


class _Request:
    """A request under way: what is recorded while the application is at it, is its own."""

    def __init__(self, method: str, size: Callable[[], int], routes: Routes) -> None:
        self.status = 0
        self.route = ""
        self._method = method
        self._size = size
        self._routes = routes
        self._known = Seen(0, 0)
        self._has_recorded = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the application work on it."""
        before = self._size()
        try:
            yield
        finally:
            self._has_recorded |= self._size() > before

    def note(self) -> None:
        """Note what is known of it by now."""
        if self.status and self.status < _FAILED:
            now = Seen(1, int(self._has_recorded))
            known, self._known = self._known, now
            change = Seen(now.requests - known.requests, now.recorded - known.recorded)
            _add(self._routes, f"{self._method} {self.route}", change)


def _add(routes: Routes, route: str, seen: Seen) -> None:
    known = routes.get(route, Seen(0, 0))
    routes[route] = Seen(known.requests + seen.requests, known.recorded + seen.recorded)


def _of_asgi(app: Callable[..., Awaitable[None]], watch: _Watch) -> Callable[..., Awaitable[None]]:
    async def watched(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        request = watch.begin(scope["method"]) if scope["type"] == "http" else None
        if request is None:
            await app(scope, receive, send)
            return

        async def sending(message: Any) -> None:  # noqa: ANN401 - ASGI
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        mounted = scope.get("root_path", "")
        try:
            with request.at_work():
                await app(scope, receive, sending)
        finally:
            request.route = _template(scope, mounted)
            request.note()

    return watched


def _template(scope: Any, mounted: str) -> str:  # noqa: ANN401 - ASGI
    """Return the path of the route that was taken, with its parameters by name."""
    found = scope.get("path_template")
    if found is not None:
        return str(found)
    names = {str(value): name for name, value in (scope.get("path_params") or {}).items()}
    # Starlette's routes know their path below what they are mounted at.
    route = getattr(scope.get("route"), "path", None)
    path = scope["path"] if route is None else scope.get("root_path", "").removeprefix(mounted)
    parts = (f"{{{names[part]}}}" if part in names else part for part in path.split("/"))
    return "/".join(parts) + (route or "")


def _of_wsgi(app: Callable[..., Iterable[bytes]], watch: _Watch) -> Callable[..., Iterable[bytes]]:
    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = watch.begin(environ["REQUEST_METHOD"])
        if request is None:
            return app(environ, start_response)

        def starting(status: str, *rest: Any, **extra: Any) -> Any:  # noqa: ANN401 - WSGI
            request.status = int(status[:3])
            # Flask and whatever else is built on Werkzeug; later it is taken away.
            rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
            request.route = getattr(rule, "rule", None) or environ.get("PATH_INFO", "")
            return start_response(status, *rest, **extra)

        with request.at_work():
            chunks = app(environ, starting)
        request.note()
        return _Body(chunks, request)

    return watched


class _Body:
    """The body of a WSGI response, while which is made the application may still record."""

    def __init__(self, chunks: Iterable[bytes], request: _Request) -> None:
        self._chunks = chunks
        self._iterator = iter(chunks)
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self._request.at_work():
                return next(self._iterator)
        finally:
            self._request.note()

    def close(self) -> None:
        """Close the response."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._request.at_work():
                close()
            self._request.note()


def _of_django(get_response: Callable[[Any], Any], watch: _Watch) -> Callable[[Any], Any]:
    def watched(asked: Any) -> Any:  # noqa: ANN401 - brings no types
        request = watch.begin(asked.method)
        if request is None:
            return get_response(asked)
        with request.at_work():
            response = get_response(asked)
        match = asked.resolver_match
        request.status = response.status_code
        request.route = asked.path if match is None else "/" + _pattern(match.route)
        request.note()
        return response

    return watched


def _pattern(route: str) -> str:
    """Return a route of Django without what is a regular expression in it."""
    return _NAMED.sub(r"<\1>", route).replace("^", "").replace("$", "")


@pytest.fixture
def audit(request: pytest.FixtureRequest) -> Iterator[Audit]:
    """
    Give an empty trail, which ``INDELIBLE_TRAIL`` names, and what is recorded into it.

    ``audit.recorded("role.grant", actor="user:alice")`` asserts that it was;
    ``audit.nothing_recorded()`` that nothing was; ``audit.trail`` is the trail.
    """
    with captured() as within:
        yield Audit(within.trail, request.config.stash[_ROUTES])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--audit-routes``."""
    parser.getgroup("indelible").addoption(
        "--audit-routes",
        choices=("tell", "fail", "off"),
        default="tell",
        help="Routes that changed something and never recorded anything, of applications that"
        " tests watch: tell them at the end (the default), fail the run, or neither.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no routes."""
    config.stash[_ROUTES] = {}


def _silent(config: pytest.Config) -> list[str]:
    """Return the routes that never recorded anything."""
    if config.getoption("audit_routes") == "off":
        return []
    return sorted(route for route, seen in config.stash[_ROUTES].items() if not seen.recorded)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was seen to the main process, or fail the run if that is asked for."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        routes = session.config.stash[_ROUTES]
        output["indelible_routes"] = [(route, *seen) for route, seen in routes.items()]
    elif session.config.getoption("audit_routes") == "fail" and _silent(session.config):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - of pytest-xdist, if that is there
    """Take over what a worker has seen."""
    for route, *seen in getattr(node, "workeroutput", {}).get("indelible_routes", ()):
        _add(node.config.stash[_ROUTES], route, Seen(*seen))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell which routes never recorded anything."""
    silent = _silent(config)
    if not silent:
        return
    terminalreporter.section("routes that changed something and recorded nothing")
    for route in silent:
        requests = config.stash[_ROUTES][route].requests
        terminalreporter.write_line(f"{route}  ({requests} request{'s' * (requests != 1)})")
