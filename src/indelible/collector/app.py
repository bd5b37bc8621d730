"""App: the routes of a collector as one ASGI application with its OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from indelible.collector import (
    events,
    exports,
    feed,
    governing,
    grants,
    health,
    ingest,
    producers,
    reading,
    spans,
    tokens,
    tree,
)
from indelible.collector.bodies import StrictRequest
from indelible.collector.callers import Callers, Gate, Turns
from indelible.collector.events import Receiving
from indelible.collector.exports import Exports
from indelible.collector.ingest import Ingest
from indelible.collector.metrics import Requests, unrouted
from indelible.collector.problems import HANDLERS
from indelible.collector.schema import Described
from indelible.collector.scrub import scrubbing
from indelible.collector.upkeep import Upkeep
from indelible.rights import Caller
from indelible.wire import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

    from indelible.collector.state import Collector


def create_app(collector: Collector, *, lifespan: Sequence[Lifespan] = ()) -> Litestar:
    """
    Return the application that answers for *collector*.

    Args:
        lifespan: What is entered when it starts and left when it stops.
    """

    def caller_of(request: Request[Caller, Any, Any]) -> Caller:
        return request.user

    taking = Ingest(collector)
    receiving = Receiving(collector)
    gate = Gate(collector)
    exporting = Exports(collector)
    return Litestar(
        route_handlers=[
            *health.ROUTES,
            *ingest.ROUTES,
            *events.ROUTES,
            *producers.ROUTES,
            *tokens.ROUTES,
            *reading.ROUTES,
            *feed.ROUTES,
            *tree.ROUTES,
            *grants.ROUTES,
            *exports.ROUTES,
            *governing.ROUTES,
        ],
        middleware=[
            *spans.middleware(),
            Requests(),
            DefineMiddleware(Callers, gate=gate, exclude_from_auth_key="exclude_from_auth"),
            Turns(gate),
        ],
        after_exception=[unrouted, gate.after_exception],
        dependencies={
            "collector": Provide(lambda: collector, sync_to_thread=False),
            "ingest": Provide(lambda: taking, sync_to_thread=False),
            "receiving": Provide(lambda: receiving, sync_to_thread=False),
            "gate": Provide(lambda: gate, sync_to_thread=False),
            "exports": Provide(lambda: exporting, sync_to_thread=False),
            "caller": Provide(caller_of, sync_to_thread=False),
        },
        exception_handlers=HANDLERS,
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY,
        openapi_config=OpenAPIConfig(
            title="Indelible collector",
            version="1",
            path="/schema",
            # The others' pages take their scripts from elsewhere.
            render_plugins=[Described()],
            components=Components(
                security_schemes={
                    "token": SecurityScheme(type="http", scheme="bearer", bearer_format="token")
                }
            ),
            security=[{"token": []}],
        ),
        state=State({"collector": collector}),
        lifespan=[
            *lifespan,
            scrubbing,
            gate.running,
            Upkeep(collector, receiving).running,
            feed.waiting,
            exporting.running,
        ],
        # The process that serves says what is logged, and where.
        logging_config=None,
        debug=False,
    )
