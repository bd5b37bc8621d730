"""
Schema: the OpenAPI document of a collector, true of what its routes take and answer.

A route says what is its own. What holds for all of them is said here, once: the problems that
they answer, and the shapes of bodies as those who encode and decode them have them. It knows
the document and no application.
"""

from __future__ import annotations

from copy import deepcopy
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.openapi.plugins import JsonRenderPlugin

from indelible import wire
from indelible.wire import PROBLEM, Events, Problem, Shipment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar import Request

    Document = dict[str, Any]

_AT = "#/components/schemas/{name}"

_PATHS = {"/v1/producers/{target}": ("/v1/producers/{origin}/entries", "target", "origin")}
"""
Paths whose end a route reads by itself, as they are; with the name of their parameter.

An origin holds slashes, so the framework cannot know what stands behind it.
"""

_BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/producers/{origin}/entries": Shipment,
    "/v1/events": Events,
    "/v1/events:validate": Events,
}
"""What is posted to routes that read their bodies by themselves."""

_PROBLEMS = {
    400: "A parameter or the body, or what it says, cannot be understood.",
    401: "No access token came, or none that works.",
    403: "The role may not ask this, or not this much.",
    404: "It is not there for this caller.",
    408: "The body was not there in time.",
    409: "It does not fit what is there by now.",
    410: "It was there, and is not any more.",
    413: "The body is too large.",
    415: "The body, or what is asked for, is of a type that is not known here.",
    422: "The body is of another shape, or does not hold.",
    429: "Too many requests came from this caller, or from this address.",
    500: "What is kept does not hold, or something else is wrong here; it was logged.",
    503: "Store or keys cannot be reached, or there is no room; try again.",
}

_HEADERS = {
    401: ("WWW-Authenticate", "string", "How to say who comes: `Bearer`."),
    429: ("Retry-After", "integer", "Seconds after which to try again."),
    503: ("Retry-After", "integer", "Seconds after which to try again."),
}
"""What stands in the head of such a problem."""


class Described(JsonRenderPlugin):
    """Answers the OpenAPI document."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Return *openapi_schema* as JSON, with what its routes do not say of themselves."""
        if self._whole is None:
            self._whole = self.render_json(request, described(openapi_schema))
        return self._whole


def described(document: Document) -> Document:
    """Return an OpenAPI *document* with what holds for all of its routes."""
    found = deepcopy(document)
    found["components"]["schemas"] = _shapes()
    paths: Document = {}
    for path, operations in document["paths"].items():
        named, before, after = _PATHS.get(path, (path, "", ""))
        paths[named] = {
            method: _operation(method, named, _renamed(deepcopy(operation), before, after))
            for method, operation in operations.items()
        }
    return {**found, "paths": paths}


def _shapes() -> Document:
    """Return the schema of each shape of `indelible.wire`, as it is encoded and decoded."""
    shapes = [
        each
        for name, each in vars(wire).items()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and not name.startswith("_")
    ]
    return msgspec.json.schema_components(shapes, ref_template=_AT)[1]


def _renamed(operation: Document, before: str, after: str) -> Document:
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == before:
            parameter["name"] = after
    return operation


def _operation(method: str, path: str, operation: Document) -> Document:
    if (body := _BODIES.get(path)) is not None:
        content = {"application/json": {"schema": {"$ref": _AT.format(name=body.__name__)}}}
        operation["requestBody"] = {"content": content, "required": True}
    elif "requestBody" in operation:
        operation["requestBody"]["required"] = not _may_be_none(operation["requestBody"])
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _sent(parameter["schema"])
    responses: Document = operation["responses"]
    for number in _statuses(method, operation):
        responses.setdefault(str(number), {"description": _PROBLEMS[number]})
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            responses[status] = _problem(int(status), response["description"])
        elif _is_file(response):
            response["content"] = {"*/*": {}}
            # The framework says of one that it is a time as JSON has it, which HTTP has not.
            for header in response["headers"].values():
                header["schema"] = {"type": "string"}
    operation["responses"] = dict(sorted(responses.items()))
    return operation


def _sent(schema: Document) -> Document:
    """
    Return the *schema* of a parameter as it is sent.

    The text ``null`` is a text; only where none is expected it says that there is nothing.
    """
    given = [each for each in schema.get("oneOf", ()) if each != {"type": "null"}]
    if len(given) != 1 or given[0]["type"] not in {"string", "array"}:
        return schema
    return {**{key: value for key, value in schema.items() if key != "oneOf"}, **given[0]}


def _statuses(method: str, operation: Document) -> Iterator[int]:
    """Yield the problems that an operation may answer."""
    if operation.get("security") == [{}]:
        return
    yield from (400, 401, 403, 429, 500, 503)
    parameters = {each["in"] for each in operation.get("parameters", ())}
    has_body = "requestBody" in operation
    if has_body or parameters & {"path", "query"}:
        yield 404
    if has_body:
        yield from (408, 413, 415, 422)
    if method != "get":
        yield 409
    elif not {"reading", "integrity"}.isdisjoint(operation.get("tags", ())):
        yield 410
    if any(map(_is_file, operation["responses"].values())):
        yield from (409, 410)


def _may_be_none(body: Document) -> bool:
    (content,) = body["content"].values()
    return {"type": "null"} in content["schema"].get("oneOf", ())


def _is_file(response: Document) -> bool:
    """Tell whether it is a file, whose type is known when it is there."""
    return "" in response.get("content", {})


def _problem(status: int, description: str) -> Document:
    response: Document = {
        "description": description,
        "content": {PROBLEM: {"schema": {"$ref": _AT.format(name=Problem.__name__)}}},
    }
    if status in _HEADERS:
        name, type_, said = _HEADERS[status]
        response["headers"] = {
            name: {"description": said, "required": True, "schema": {"type": type_}}
        }
    return response
