"""Every entry of a Flask application has the context of its own request."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, Response, current_app, request, stream_with_context

from indelible import context
from indelible.context import Context, authenticated, current, wrap
from indelible.errors import CallerError
from indelible.event import Client, Service
from indelible.frameworks.flask import Audit
from indelible.frameworks.web import session_of
from tests.frameworks.recorded import events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail


def actors(trail: Trail) -> dict[str, str]:
    """Return whom each action of *trail* is recorded of."""
    return {event.action: str(event.actor) for event in events(trail)}


views = Blueprint("views", __name__)


@views.before_request
def authenticate() -> None:
    """Believe who a request says it is from."""
    if (name := request.headers.get("X-User")) is not None:
        authenticated(f"user:{name}", session=session_of(name))


@views.get("/plain/<n>")
def plain(n: str) -> str:
    """Record in the view."""
    current_app.extensions["indelible"].record("a.plain", resource=f"n:{n}")
    return n


@views.get("/thread/<n>")
def in_a_thread(n: str) -> str:
    """Record in a thread."""
    record = wrap(current_app.extensions["indelible"].record)
    with ThreadPoolExecutor(1) as other:
        other.submit(record, "a.thread", resource=f"n:{n}").result()
    return n


@views.get("/stream/<n>")
def stream(n: str) -> Response:
    """Record while the response is read, with Flask's own context."""

    def chunks() -> Iterator[str]:
        with context(tenant=f"tenant-of-{n}"):
            for each in range(2):
                assert n == request.view_args["n"] if request.view_args else False
                current_app.extensions["indelible"].record(f"a.chunk{each}", resource=f"n:{n}")
                yield n

    return Response(stream_with_context(chunks()))


@views.get("/nested/<n>")
def nested(n: str) -> str:
    """Record in contexts within the one of the request."""
    trail: Trail = current_app.extensions["indelible"]
    with current_app.app_context():
        trail.record("a.again", resource=f"n:{n}")
    with Flask("other").app_context():
        trail.record("a.other", resource=f"n:{n}")
    return n


ROUTES = {"plain": 1, "thread": 1, "stream": 2, "nested": 2}
"""How many events each of them records."""


def shop(trail: Trail, **settings: Any) -> Flask:
    """Return an application that records in every way there is."""
    app = Flask("shop")
    app.register_blueprint(views)
    Audit(app, trail, **settings)
    return app


def test_requests_in_many_threads_are_never_mixed_up(trail: Trail) -> None:
    """Of many requests at once, each entry names its own actor, session, request and client."""
    app = shop(trail, trusted_proxies=["127.0.0.1"], service="shop")
    routes = list(ROUTES)
    numbers = range(200)

    def send(number: int) -> str:
        headers = {
            "X-Request-ID": f"r{number}",
            "X-Forwarded-For": f"198.51.100.1, 203.0.113.{number}",
        }
        if number % 5:
            headers["X-User"] = f"u{number}"
        path = f"/{routes[number % len(routes)]}/{number}"
        return app.test_client().get(path, headers=headers).text

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(send, numbers))
        left = set(clients.map(lambda _: current().request, range(16)))

    recorded = list(events(trail))
    assert [str(number) * (1 + (number % 4 == 2)) for number in numbers] == answers
    assert sum(ROUTES.values()) * len(numbers) // len(ROUTES) == len(recorded)
    for event in recorded:
        number = int(event.resource.id)
        assert (f"user:u{number}" if number % 5 else "unknown") == str(event.actor)
        assert (session_of(f"u{number}") if number % 5 else None) == event.session
        assert f"r{number}" == event.request
        assert event.client is not None
        assert f"203.0.113.{number}" == event.client.ip
        assert Service(name="shop") == event.service
        assert (f"tenant-of-{number}" if "chunk" in event.action else None) == event.tenant
    assert {None} == left


def test_one_request_after_another_knows_nothing_of_the_one_before(trail: Trail) -> None:
    """A client that is logged in leaves nothing behind for the one whom the thread serves next."""
    client = shop(trail).test_client()

    client.get("/plain/1", headers={"X-User": "alice"})
    client.get("/plain/2")

    assert {"1": "user:alice", "2": "unknown"} == {
        event.resource.id: str(event.actor) for event in events(trail)
    }
    assert Context() == current()


def test_a_client_that_keeps_the_context_of_a_request_keeps_no_actor(trail: Trail) -> None:
    """Flask's test client may look at a request that is over, and acts for nobody in it."""
    app = shop(trail)

    with app.test_client() as client:
        client.get("/plain/1", headers={"X-User": "alice"})
        assert "/plain/1" == request.path
        assert Context() == current()
        answer = client.get("/stream/2", headers={"X-User": "bob"})
        assert "22" == answer.text
        assert Context() == current()

    assert {"a.plain": "user:alice", "a.chunk0": "user:bob", "a.chunk1": "user:bob"} == actors(
        trail
    )


def test_a_forged_address_is_not_believed(trail: Trail) -> None:
    """Without a trusted proxy, the address in an entry is that of the connection."""
    shop(trail).test_client().get(
        "/plain/1", headers={"X-Forwarded-For": "198.51.100.7", "User-Agent": "curl/8"}
    )

    assert [Client(ip="127.0.0.1", user_agent="curl/8")] == [e.client for e in events(trail)]


def by_header() -> str | None:
    """Return who a request says it is from."""
    name = request.headers.get("X-Token")
    return None if name is None else f"user:{name}"


def test_an_application_may_say_itself_who_acts(trail: Trail) -> None:
    """A function of the application names the actor, until somebody has authenticated one."""
    client = shop(trail, actor=by_header).test_client()

    client.get("/plain/1", headers={"X-Token": "alice"})
    client.get("/plain/2", headers={"X-Token": "alice", "X-User": "bob"})
    client.get("/plain/3")

    assert {"1": "user:alice", "2": "user:bob", "3": "unknown"} == {
        event.resource.id: str(event.actor) for event in events(trail)
    }


def test_a_stream_without_the_context_of_flask_still_has_its_actor(trail: Trail) -> None:
    """Who acts is remembered for a response that is read when Flask's context has ended."""
    app = shop(trail, actor=by_header)

    @app.get("/bare")
    def bare() -> Response:
        def chunks() -> Iterator[str]:
            trail.record("a.chunk", resource="c:d")
            yield "."

        return Response(chunks())

    app.test_client().get("/bare", headers={"X-Token": "alice"})

    assert {"a.chunk": "user:alice"} == actors(trail)


def test_another_application_within_a_request_is_not_asked_who_acts(trail: Trail) -> None:
    """A function that names the actors of one application is never asked in another one."""
    other = Flask("other")
    other.get("/")(lambda: str(trail.record("a.within", resource="c:d").index))
    app = shop(trail, actor=by_header)
    app.get("/outer")(lambda: other.test_client().get("/", headers={"X-Token": "bob"}).text)

    app.test_client().get("/outer", headers={"X-Token": "alice"})

    assert {"a.within": "unknown"} == actors(trail)


def test_an_application_may_be_named_later(trail: Trail) -> None:
    """A factory makes applications, each with its own trail or that of all."""
    audit = Audit(trail=trail)
    first, second = Flask("first"), Flask("second")

    audit.init_app(first)
    audit.init_app(second, trail)

    assert trail is first.extensions["indelible"]
    assert trail is second.extensions["indelible"]


def test_an_application_has_one_audit(trail: Trail) -> None:
    """To add a second one is a mistake, and is said to be one."""
    app = shop(trail)

    with pytest.raises(CallerError, match="Flask shop: found an Audit, expected none yet"):
        Audit(app)


def test_what_fails_is_recorded_of_who_tried(trail: Trail) -> None:
    """An error in a view leaves the context to those who handle it, and to nobody after them."""
    app = shop(trail)

    @app.get("/fails")
    def fails() -> str:
        authenticated("user:alice")
        raise LookupError

    @app.errorhandler(LookupError)
    def handle(_: LookupError) -> str:
        trail.record("a.handled", resource="c:d")
        return "handled"

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        trail.record("a.ended", resource="c:d")

    assert "handled" == app.test_client().get("/fails").text

    assert {"a.handled": "user:alice", "a.ended": "user:alice"} == actors(trail)
    assert Context() == current()


def test_a_missing_flask_is_named_with_the_command_that_installs_it() -> None:
    """Who lacks the extra is told how to get it."""
    code = "import sys; sys.modules['flask'] = None\nimport indelible.frameworks.flask"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "pip install 'indelible[flask]'" in done.stderr


def with_login(trail: Trail, loaded: list[str]) -> Flask:
    """Return an application that uses Flask-Login, and notes in *loaded* whom it looks up."""
    login: Any = importlib.import_module("flask_login")
    app = shop(trail)
    app.secret_key = "only-of-this-test"  # noqa: S105 - signs the cookies of a test
    manager = login.LoginManager(app)

    class Person(login.UserMixin):
        def __init__(self, name: str) -> None:
            self.id = name

    @manager.user_loader
    def load(name: str) -> Person:
        loaded.append(name)
        return Person(name)

    @app.get("/login/<name>")
    def log_in(name: str) -> str:
        trail.record("a.before", resource=f"n:{name}")
        login.login_user(Person(name))
        trail.record("a.in", resource=f"n:{name}")
        return name

    @app.get("/logout/<name>")
    def log_out(name: str) -> str:
        login.logout_user()
        trail.record("a.out", resource=f"n:{name}")
        return name

    app.get("/quiet")(lambda: "quiet")
    return app


def test_who_is_logged_in_with_flask_login_acts(trail: Trail) -> None:
    """Each entry names whom Flask-Login knows at that moment, and nobody is anonymous to it."""
    app = with_login(trail, [])

    def visit(name: str) -> None:
        client = app.test_client()
        for path in (f"/login/{name}", f"/plain/{name}", f"/stream/{name}", f"/logout/{name}"):
            assert name in client.get(path).text

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(visit, (f"u{n}" for n in range(24))))

    recorded = list(events(trail))
    assert 6 * 24 == len(recorded)
    for event in recorded:
        anonymous = event.action in {"a.before", "a.out"}
        assert ("anonymous" if anonymous else f"user:{event.resource.id}") == str(event.actor)


def test_a_request_that_records_nothing_loads_no_user(trail: Trail, tmp_path: Path) -> None:
    """To be ready to record costs an application no look at its users."""
    loaded: list[str] = []
    app = with_login(trail, loaded)
    app.static_folder = str(tmp_path)
    (tmp_path / "file").write_text("content", "utf-8")
    client = app.test_client()
    client.get("/login/alice")

    answers = [client.get("/quiet"), client.get("/static/file")]

    assert ["quiet", "content"] == [answer.text for answer in answers]
    assert [] == loaded
    client.get("/plain/1")
    assert ["alice"] == loaded
    for answer in answers:
        answer.close()
