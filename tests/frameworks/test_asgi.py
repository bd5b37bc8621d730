"""Every entry of FastAPI, Starlette and Litestar has the context of its own request."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header
from litestar import Litestar, Request, get
from litestar.background_tasks import BackgroundTask as LitestarTask
from litestar.middleware import (
    AbstractAuthenticationMiddleware,
    AuthenticationResult,
    DefineMiddleware,
)
from litestar.response import Response as LitestarResponse
from litestar.response import Stream
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from indelible import context
from indelible.context import authenticated, current, wrap
from indelible.event import Actor, Client, Service
from indelible.frameworks.asgi import AuditMiddleware
from indelible.frameworks.web import session_of
from tests.frameworks.recorded import events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from litestar.connection import ASGIConnection
    from starlette.requests import HTTPConnection
    from starlette.requests import Request as StarletteRequest
    from starlette.websockets import WebSocket

    from indelible import Trail
    from indelible.frameworks.asgi import Application, Message, Receive, Scope, Send

PROXY = ("127.0.0.1", 4711)


def calling(app: Application) -> httpx.AsyncClient:
    """Return a client behind a proxy on this machine."""
    transport = httpx.ASGITransport(app, client=PROXY)
    return httpx.AsyncClient(transport=transport, base_url="http://shop.example")


@dataclass(frozen=True)
class Sent:
    """One request among many, and what its entries must say."""

    number: int
    route: str

    @property
    def actor(self) -> Actor:
        """Who sends it."""
        if "anonymous" in self.route:
            return Actor(type="unknown")
        return Actor(type="user", id=f"u{self.number}")

    @property
    def session(self) -> str | None:
        """The session it is sent in."""
        return None if "anonymous" in self.route else session_of(f"s{self.number}")

    @property
    def address(self) -> str:
        """The address it is sent from."""
        return f"203.0.{self.number // 250}.{self.number % 250 + 1}"

    @property
    def headers(self) -> dict[str, str]:
        """What it is sent with, by a proxy that adds to what a client has forged."""
        return {
            "x-user": str(self.number),
            "x-request-id": f"r{self.number}",
            "x-forwarded-for": f"198.51.100.1, {self.address}",
        }


async def signed_in_async(x_user: Annotated[str, Header()]) -> None:
    """Authenticate in the event loop."""
    await asyncio.sleep(0)
    authenticated(f"user:u{x_user}", session=session_of(f"s{x_user}"))


def signed_in_sync(x_user: Annotated[str, Header()]) -> None:
    """Authenticate in a thread, where a context variable would be lost."""
    authenticated(f"user:u{x_user}", session=session_of(f"s{x_user}"))


ASYNC, SYNC = Depends(signed_in_async), Depends(signed_in_sync)


def shop(trail: Trail, threads: ThreadPoolExecutor) -> FastAPI:
    """Return an application that records in every way there is."""
    app = FastAPI()
    app.add_middleware(AuditMiddleware, trusted_proxies=["127.0.0.0/8"], service="shop")

    @app.get("/async-async/{n}", dependencies=[ASYNC])
    async def async_async(n: str) -> None:
        await asyncio.sleep(0)
        await trail.arecord("a.async", resource=f"n:{n}")

    @app.get("/async-sync/{n}", dependencies=[SYNC])
    async def async_sync(n: str) -> None:
        await asyncio.gather(
            *(
                asyncio.create_task(trail.arecord(f"a.task{each}", resource=f"n:{n}"))
                for each in range(2)
            )
        )

    @app.get("/sync-sync/{n}", dependencies=[SYNC])
    def sync_sync(n: str) -> None:
        trail.record("a.sync", resource=f"n:{n}")

    @app.get("/sync-async/{n}", dependencies=[ASYNC])
    def sync_async(n: str) -> None:
        threads.submit(wrap(trail.record), "a.wrapped", resource=f"n:{n}").result()

    add_more(app, trail)
    return app


def add_more(app: FastAPI, trail: Trail) -> None:
    """Add what records after its answer, in a context of its own, or for nobody."""

    @app.get("/background/{n}", dependencies=[SYNC])
    async def background(n: str, tasks: BackgroundTasks) -> None:
        tasks.add_task(trail.record, "a.background", resource=f"n:{n}")

        async def later() -> None:
            await trail.arecord("a.later", resource=f"n:{n}")

        tasks.add_task(later)

    @app.get("/nested/{n}", dependencies=[SYNC])
    async def nested(n: str) -> None:
        with context(tenant=f"t{n}"):
            await asyncio.sleep(0)
            await trail.arecord("a.nested", resource=f"n:{n}")
        await trail.arecord("a.after", resource=f"n:{n}")

    @app.get("/stream/{n}", dependencies=[ASYNC])
    async def stream(n: str) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for each in range(2):
                yield str(each)
                await trail.arecord(f"a.chunk{each}", resource=f"n:{n}")

        return StreamingResponse(chunks())

    @app.get("/anonymous-async/{n}")
    async def anonymous_async(n: str) -> None:
        await trail.arecord("a.anonymous", resource=f"n:{n}")

    @app.get("/anonymous-sync/{n}")
    def anonymous_sync(n: str) -> None:
        trail.record("a.anonymous", resource=f"n:{n}")


ROUTES = {
    "async-async": 1,
    "async-sync": 2,
    "sync-sync": 1,
    "sync-async": 1,
    "background": 2,
    "nested": 2,
    "stream": 2,
    "anonymous-async": 1,
    "anonymous-sync": 1,
}
"""How many events each of them records."""


def test_a_thousand_requests_at_once_are_never_mixed_up(trail: Trail) -> None:
    """Of a thousand requests at once, each entry names its own actor, session, request, client."""
    routes = list(ROUTES)
    sent = [Sent(number, routes[number % len(routes)]) for number in range(1_000)]

    async def main() -> list[httpx.Response]:
        with ThreadPoolExecutor(8) as threads:
            async with calling(shop(trail, threads)) as client:
                return await asyncio.gather(
                    *(
                        client.get(f"/{each.route}/{each.number}", headers=each.headers)
                        for each in sent
                    )
                )

    answers = asyncio.run(main())
    recorded = list(events(trail))

    assert [200] * 1_000 == [answer.status_code for answer in answers]
    assert sum(ROUTES[each.route] for each in sent) == len(recorded)
    for event in recorded:
        expected = sent[int(event.resource.id)]
        assert expected.actor == event.actor
        assert expected.session == event.session
        assert f"r{expected.number}" == event.request
        assert event.client is not None
        assert expected.address == event.client.ip
        assert Service(name="shop") == event.service
        tenant = f"t{expected.number}" if "a.nested" == event.action else None
        assert tenant == event.tenant


class ByHeader(AuthenticationBackend):
    """Believes who a request says it is from."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return the user that the request names."""
        name = conn.headers.get("x-user")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


AUTHENTICATION = Middleware(AuthenticationMiddleware, backend=ByHeader())
AUDIT = Middleware(AuditMiddleware)


async def fetch(app: Application, path: str = "/", **headers: str) -> httpx.Response:
    """Send one request to *app*."""
    async with calling(app) as client:
        return await client.get(
            path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


@pytest.mark.parametrize(
    "around",
    [[AUDIT, AUTHENTICATION], [AUTHENTICATION, AUDIT]],
    ids=["outside", "inside"],
)
def test_the_order_of_the_middlewares_does_not_matter(
    trail: Trail, around: list[Middleware]
) -> None:
    """Who acts stands in the entry whether the audit or the authentication comes first."""

    async def view(request: StarletteRequest) -> PlainTextResponse:
        await trail.arecord("a.view", resource=f"n:{request.query_params['n']}")
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", view)], middleware=around)

    async def main() -> None:
        named = (fetch(app, f"/?n=u{n}", x_user=f"u{n}") for n in range(50))
        await asyncio.gather(*named, fetch(app, "/?n=nobody"))

    asyncio.run(main())

    recorded = {event.resource.id: str(event.actor) for event in events(trail)}
    assert recorded == {f"u{n}": f"user:u{n}" for n in range(50)} | {"nobody": "anonymous"}


def test_streams_and_background_tasks_of_starlette_have_the_context(trail: Trail) -> None:
    """What a request causes after its answer has begun is still done by who sent it."""

    async def view(request: StarletteRequest) -> StreamingResponse:
        n = request.query_params["n"]

        async def chunks() -> AsyncIterator[str]:
            with context(rationale=f"because {n}"):
                for each in range(3):
                    yield "."
                    await trail.arecord(f"a.chunk{each}", resource=f"n:{n}")

        return StreamingResponse(
            chunks(), background=BackgroundTask(trail.record, "a.later", resource=f"n:{n}")
        )

    async def answered_by_a_function(
        request: StarletteRequest, call_next: Callable[..., Awaitable[Any]]
    ) -> Any:
        return await call_next(request)

    app = Starlette(routes=[Route("/", view)], middleware=[AUDIT, AUTHENTICATION])
    app.add_middleware(BaseHTTPMiddleware, dispatch=answered_by_a_function)
    inner = Starlette(
        routes=[Mount("/", app)],
        middleware=[AUDIT, Middleware(BaseHTTPMiddleware, dispatch=answered_by_a_function)],
    )

    async def main() -> None:
        await asyncio.gather(*(fetch(inner, f"/?n=u{n}", x_user=f"u{n}") for n in range(30)))

    asyncio.run(main())

    recorded = list(events(trail))
    assert 4 * 30 == len(recorded)
    for event in recorded:
        assert f"user:{event.resource.id}" == str(event.actor)
        because = None if event.action == "a.later" else f"because {event.resource.id}"
        assert because == (event.rationale and event.rationale.text)


def test_a_middleware_inside_another_one_does_nothing(trail: Trail) -> None:
    """A mounted application keeps the request, and the actor, of the one around it."""

    async def view(_: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(current().request)

    inner = Starlette(routes=[Route("/", view)], middleware=[AUDIT])
    seen: list[str | None] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        authenticated("user:alice")
        seen.append(current().request)
        await inner(scope, receive, send)
        seen.append(current().request)
        await trail.arecord("a.b", resource="c:d")

    answer = asyncio.run(fetch(AuditMiddleware(outer)))

    assert [answer.text] * 2 == seen
    assert ["user:alice"] == [str(event.actor) for event in events(trail)]


def test_a_scope_that_is_used_again_begins_a_work_again() -> None:
    """An application that is called twice for one request has a context each time."""
    seen: list[str | None] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(current().request)

    middleware = AuditMiddleware(app)

    async def main() -> None:
        scope: Scope = {"type": "http", "headers": [], "client": None}
        for _ in range(2):
            await middleware(scope, receive_nothing, send_nowhere)

    asyncio.run(main())

    assert 2 == len(set(seen))
    assert None not in seen


async def receive_nothing() -> Message:
    """Receive what nobody sends."""
    return {"type": "http.disconnect"}


async def send_nowhere(message: Message) -> None:
    """Send to nobody."""


def test_a_request_gives_back_the_context_that_it_found() -> None:
    """Whatever comes of a request, nothing of it is left with whoever made it."""

    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        authenticated("user:alice")
        raise LookupError(str(current().actor))

    async def main() -> None:
        with context(actor="user:bob"):
            before = current()
            with pytest.raises(LookupError, match="user:alice"):
                await fetch(AuditMiddleware(fails))
            assert before == current()

    asyncio.run(main())


def test_nothing_of_the_caller_gets_into_a_request() -> None:
    """A request is its own work: whoever serves it does not act in it."""
    seen = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(current())

    async def main() -> None:
        with context(actor="user:bob", tenant="other"):
            await AuditMiddleware(app)(
                {"type": "http", "headers": [], "client": None}, receive_nothing, send_nowhere
            )

    asyncio.run(main())

    assert [(None, None)] == [(each.actor, each.tenant) for each in seen]


def test_tasks_inherit_and_threads_do_not(trail: Trail) -> None:
    """A task acts for its request; a bare thread for nobody, until its function is wrapped."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        authenticated("user:alice")
        for action, function in (("a.bare", trail.record), ("a.wrapped", wrap(trail.record))):
            thread = threading.Thread(target=function, args=(action,), kwargs={"resource": "c:d"})
            thread.start()
            await asyncio.to_thread(thread.join)
        await asyncio.create_task(trail.arecord("a.task", resource="c:d"))
        await asyncio.to_thread(trail.record, "a.to_thread", resource="c:d")
        await PlainTextResponse("")(scope, receive, send)

    asyncio.run(fetch(AuditMiddleware(app)))

    recorded = {event.action: str(event.actor) for event in events(trail)}
    assert recorded == {
        "a.bare": "unknown",
        "a.wrapped": "user:alice",
        "a.task": "user:alice",
        "a.to_thread": "user:alice",
    }


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "203.0.113.9")])
def test_a_forged_address_is_not_believed(trusted: list[str], client: str) -> None:
    """The address in an entry is one that a trusted machine has seen."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current().client)
        await PlainTextResponse("")(scope, receive, send)

    async def main() -> None:
        async with calling(AuditMiddleware(app, trusted_proxies=trusted)) as caller:
            await caller.get(
                "/",
                headers=[
                    ("X-Forwarded-For", "198.51.100.7"),
                    ("X-Forwarded-For", "198.51.100.8, 203.0.113.9"),
                    ("User-Agent", "curl/8"),
                ],
            )

    asyncio.run(main())

    assert [Client(ip=client, user_agent="curl/8")] == seen


@pytest.mark.parametrize("answer", ["user:bob", Actor.parse("user:bob")])
def test_an_application_may_say_itself_who_acts(trail: Trail, answer: Actor | str) -> None:
    """Where no framework knows the actor, a function of the application names them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trail.arecord("a.before", resource="c:d")
        scope["found"] = answer
        await trail.arecord("a.found", resource="c:d")
        authenticated("user:carol")
        await trail.arecord("a.said", resource="c:d")
        await PlainTextResponse("")(scope, receive, send)

    asyncio.run(fetch(AuditMiddleware(app, actor=lambda scope: scope.get("found"))))

    assert {"a.before": "unknown", "a.found": "user:bob", "a.said": "user:carol"} == {
        event.action: str(event.actor) for event in events(trail)
    }


def test_a_websocket_has_one_context_from_its_opening_to_its_end(trail: Trail) -> None:
    """Whatever comes through an open connection is done by who has opened it."""

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await trail.arecord(text, resource="c:d")

    app = Starlette(routes=[WebSocketRoute("/", talk)], middleware=[AUDIT, AUTHENTICATION])
    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [(b"x-user", b"alice"), (b"user-agent", b"browser\xff")],
        "client": ("203.0.113.9", 4711),
    }
    incoming: Iterator[Message] = iter(
        [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "a.first"},
            {"type": "websocket.receive", "text": "a.second"},
            {"type": "websocket.disconnect", "code": 1000},
        ]
    )

    async def receive() -> Message:
        return next(incoming)

    asyncio.run(app(scope, receive, send_nowhere))

    recorded = list(events(trail))
    assert {"a.first", "a.second"} == {event.action for event in recorded}
    assert {"user:alice"} == {str(event.actor) for event in recorded}
    assert [Client(ip="203.0.113.9", user_agent="browser\xff")] * 2 == [
        event.client for event in recorded
    ]
    assert 1 == len({event.request for event in recorded})


def test_what_is_no_request_passes_untouched() -> None:
    """An application starts and stops as if nothing stood around it."""
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append((dict(scope), current().request))

    asyncio.run(AuditMiddleware(app)({"type": "lifespan"}, receive_nothing, send_nowhere))

    assert [({"type": "lifespan"}, None)] == seen


@dataclass
class Person:
    """A user of a Litestar application."""

    username: str


class LitestarByHeader(AbstractAuthenticationMiddleware):
    """Believes who a request says it is from."""

    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        """Return the user that the request names."""
        return AuthenticationResult(user=Person(connection.headers["x-user"]), auth=None)


@pytest.mark.parametrize(
    "audit",
    [AuditMiddleware, DefineMiddleware(AuditMiddleware, trusted_proxies=["127.0.0.1"])],
    ids=["class", "defined"],
)
def test_requests_at_once_are_never_mixed_up_with_litestar(
    trail: Trail, audit: type[AuditMiddleware] | DefineMiddleware
) -> None:
    """Of many requests to Litestar at once, each entry names its own actor and request."""

    def record(action: str, request: Request[Any, Any, Any]) -> None:
        trail.record(action, resource=f"n:{request.query_params['n']}")

    @get("/async")
    async def answer(request: Request[Any, Any, Any]) -> LitestarResponse[str]:
        record("a.async", request)
        return LitestarResponse("", background=LitestarTask(record, "a.later", request))

    @get("/sync", sync_to_thread=True)
    def answer_in_a_thread(request: Request[Any, Any, Any]) -> None:
        record("a.sync", request)

    @get("/stream")
    async def stream(request: Request[Any, Any, Any]) -> Stream:
        async def chunks() -> AsyncIterator[str]:
            yield "."
            record("a.chunk", request)

        return Stream(chunks())

    app = Litestar([answer, answer_in_a_thread, stream], middleware=[audit, LitestarByHeader])

    async def main() -> list[httpx.Response]:
        async with calling(app) as client:
            return await asyncio.gather(
                *(
                    client.get(
                        f"/{('async', 'sync', 'stream')[n % 3]}?n=u{n}",
                        headers={"x-user": f"u{n}", "x-forwarded-for": f"203.0.113.{n}"},
                    )
                    for n in range(150)
                )
            )

    answers = asyncio.run(main())

    recorded = list(events(trail))
    assert [200] * 150 == [answer.status_code for answer in answers]
    assert 200 == len(recorded)
    for event in recorded:
        assert f"user:{event.resource.id}" == str(event.actor)
        assert event.client is not None
        forwarded = f"203.0.113.{event.resource.id[1:]}"
        assert ("127.0.0.1" if audit is AuditMiddleware else forwarded) == event.client.ip
    assert 150 == len({event.request for event in recorded})
