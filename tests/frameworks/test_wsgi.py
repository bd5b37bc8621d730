"""Every entry of a WSGI application has the context of its own request, and the thread none."""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from indelible import context
from indelible.context import Context, authenticated, current
from indelible.event import Actor, Client, Service
from indelible.frameworks.web import session_of
from indelible.frameworks.wsgi import AuditMiddleware
from tests.frameworks.recorded import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from indelible import Trail


def environment(**values: str) -> WSGIEnvironment:
    """Return the environment of a request."""
    environ: WSGIEnvironment = {"REMOTE_ADDR": "127.0.0.1", **values}
    setup_testing_defaults(environ)
    return environ


def start(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Any:
    """Start a response that goes nowhere."""


def called(app: WSGIApplication, **values: str) -> Iterator[bytes]:
    """Return the chunks of the response to a request, before any is read."""
    return iter(app(environment(**values), start))


class Streamed:
    """Answers in chunks that each record, as does the end of the response."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        """Authenticate, record, and answer."""
        n = environ["HTTP_X_USER"]
        if n != "nobody":
            authenticated(f"user:{n}", session=session_of(n))
        self._trail.record("a.called", resource=f"n:{n}")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return self._chunks(n)

    def _chunks(self, n: str) -> Iterator[bytes]:
        try:
            with context(tenant=f"tenant-of-{n}"):
                for each in range(2):
                    self._trail.record(f"a.chunk{each}", resource=f"n:{n}")
                    yield b"."
        finally:
            self._trail.record("a.closed", resource=f"n:{n}")


class ThreadedServer(ThreadingMixIn, WSGIServer):
    """A server with a thread for each request."""

    daemon_threads = True
    request_queue_size = 64


class Quiet(WSGIRequestHandler):
    """Answers without writing to the terminal."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def test_requests_in_many_threads_are_never_mixed_up(trail: Trail) -> None:
    """Of many requests at once, each entry names its own actor, session, request and client."""
    app = AuditMiddleware(Streamed(trail), trusted_proxies=["127.0.0.1"], service="shop")
    names = [f"u{n}" for n in range(150)] + ["nobody"]
    addresses = {name: f"203.0.113.{n + 1}" for n, name in enumerate(names)}

    with ThreadedServer(("127.0.0.1", 0), Quiet) as server, ThreadPoolExecutor(16) as clients:
        server.set_app(app)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()

        def send(name: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            forwarded = f"198.51.100.1, {addresses[name]}"
            connection.request(
                "GET",
                "/",
                headers={
                    "X-User": name,
                    "X-Request-ID": f"r-{name}",
                    "X-Forwarded-For": forwarded,
                },
            )
            with connection.getresponse() as answer:
                answer.read()
            connection.close()
            return answer.status

        statuses = set(clients.map(send, names))
        server.shutdown()
        serving.join()

    recorded = list(events(trail))
    assert {200} == statuses
    assert 4 * len(names) == len(recorded)
    for event in recorded:
        name = event.resource.id
        assert ("unknown" if name == "nobody" else f"user:{name}") == str(event.actor)
        assert (None if name == "nobody" else session_of(name)) == event.session
        assert f"r-{name}" == event.request
        assert Client(ip=addresses[name]) == event.client
        assert Service(name="shop") == event.service
        assert (f"tenant-of-{name}" if "chunk" in event.action else None) == event.tenant


def test_a_thread_that_turns_to_another_request_leaves_the_first_behind(trail: Trail) -> None:
    """Two responses that one thread reads in turn each have their own context, it has none."""
    app = AuditMiddleware(Streamed(trail))

    with context(actor="user:server"):
        before = current()
        alice, bob = called(app, HTTP_X_USER="alice"), called(app, HTTP_X_USER="bob")
        seen = [current()]
        for response in (alice, bob, bob, alice):
            next(response)
            seen.append(current())
        alice.close()  # type: ignore[attr-defined]
        seen.append(current())
        bob.close()  # type: ignore[attr-defined]
        seen.append(current())

    recorded = list(events(trail))
    assert [before] * 7 == seen
    assert 8 == len(recorded)
    for event in recorded:
        assert f"user:{event.resource.id}" == str(event.actor)
        tenant = f"tenant-of-{event.resource.id}" if "chunk" in event.action else None
        assert tenant == event.tenant
    assert 2 == len({event.request for event in recorded})


def test_a_response_that_another_thread_reads_has_its_context(trail: Trail) -> None:
    """A server may read a response in whatever thread it likes."""
    response = called(AuditMiddleware(Streamed(trail)), HTTP_X_USER="alice")

    with ThreadPoolExecutor(1) as other:
        other.submit(list, response).result()
        left = other.submit(current).result()

    assert {"user:alice"} == {str(event.actor) for event in events(trail)}
    assert {"a.called", "a.chunk0", "a.chunk1", "a.closed"} == {
        event.action for event in events(trail)
    }
    assert Context() == left


def test_an_application_that_fails_leaves_nothing_behind() -> None:
    """Whatever comes of a request, nothing of it is left in the thread of the server."""

    def fails(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        authenticated("user:alice")
        raise LookupError(str(current().actor))

    with pytest.raises(LookupError, match="user:alice"):
        called(AuditMiddleware(fails))

    assert Context() == current()


def test_a_middleware_inside_another_one_does_nothing() -> None:
    """An application that is wrapped twice has one request, and one actor."""
    seen: list[Context] = []

    def app(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        seen.append(current())
        return [b""]

    inner = AuditMiddleware(app)

    def outer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        authenticated("user:alice")
        seen.append(current())
        return inner(environ, start_response)

    list(called(AuditMiddleware(outer)))

    assert seen[0] == seen[1]
    assert Actor.parse("user:alice") == seen[1].actor


def test_an_environment_that_is_used_again_begins_a_work_again() -> None:
    """An application that is called twice for one request has a context each time."""
    seen: list[str | None] = []

    def app(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        seen.append(current().request)
        return [b""]

    environ, middleware = environment(), AuditMiddleware(app)
    for _ in range(2):
        list(middleware(environ, start))

    assert 2 == len(set(seen))
    assert None not in seen


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "203.0.113.9")])
def test_a_forged_address_is_not_believed(trusted: list[str], client: str) -> None:
    """The address in an entry is one that a trusted machine has seen."""
    seen: list[Client | None] = []

    def app(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        seen.append(current().client)
        return [b""]

    list(
        called(
            AuditMiddleware(app, trusted_proxies=trusted),
            HTTP_X_FORWARDED_FOR="198.51.100.7,203.0.113.9",
            HTTP_USER_AGENT="curl/8",
        )
    )

    assert [Client(ip=client, user_agent="curl/8")] == seen


def test_an_application_may_say_itself_who_acts(trail: Trail) -> None:
    """A function of the application names the actor, as late as an event is recorded."""

    def app(environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
        trail.record("a.before", resource="c:d")
        environ["REMOTE_USER"] = "user:bob"
        trail.record("a.found", resource="c:d")
        return [b""]

    list(called(AuditMiddleware(app, actor=lambda environ: environ.get("REMOTE_USER"))))

    assert {"a.before": "unknown", "a.found": "user:bob"} == {
        event.action: str(event.actor) for event in events(trail)
    }


def test_a_file_is_handed_to_the_server_as_it_is(tmp_path: Path) -> None:
    """A server still sends a file by itself, which no application runs for."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        wrapped = FileWrapper(file)
        app = AuditMiddleware(lambda _environ, _start: wrapped)

        answer = app(environment() | {"wsgi.file_wrapper": FileWrapper}, start)

    assert answer is wrapped


def test_a_response_that_has_nothing_to_close_is_closed() -> None:
    """A server closes every response, and an application need not care."""
    app = AuditMiddleware(lambda _environ, _start: map(bytes, [[46], [46]]))

    response = called(app)
    chunks = list(response)
    response.close()  # type: ignore[attr-defined]

    assert [b".", b"."] == chunks
