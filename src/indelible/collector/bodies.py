"""Bodies: a request's bytes, unpacked within bounds, as the value that they are."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar import Request

from indelible.collector.problems import Refusal
from indelible.wire import MAX_BODY

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds within which a body has to be there."""


class StrictRequest(Request[Any, Any, Any]):
    """A request whose body is decoded as strictly as those that routes read by themselves."""

    async def json(self) -> Any:  # noqa: ANN401 - whatever its route takes
        """
        Return the body as what its route takes.

        The framework would take what can be read as that: text for numbers, and for truth.

        Raises:
            Refusal: As `body_of`; 400 where it is no JSON, or another shape.
        """
        taken = self.route_handler.parsed_data_field
        if taken is None:
            return await super().json()
        return decoded(await body_of(self), _decoder(taken.annotation), otherwise=400)


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - a type, or several
    return msgspec.json.Decoder(type_)


async def body_of(request: Request[Any, Any, Any]) -> bytes:
    """
    Return the body of *request* as JSON text, decompressed.

    Raises:
        Refusal: 408 too slow, 413 too large, 415 of another type or encoding, 400 not zstd.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "media-type", "content type: expected application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "zstd"):
        raise Refusal(415, "encoding", "content encoding: expected zstd or none")
    try:
        async with asyncio.timeout(PATIENCE):
            data = await request.body()
    except TimeoutError:
        raise Refusal(408, "too-slow", f"body: was not there in {PATIENCE:.0f} s") from None
    if len(data) > MAX_BODY:
        raise too_large()
    return _unpacked(data) if encoding == "zstd" else data


def _unpacked(data: bytes) -> bytes:
    # Never more than is allowed comes out, whatever the frame says of itself.
    decompressor = ZstdDecompressor()
    try:
        found = decompressor.decompress(data, max_length=MAX_BODY + 1)
    except ZstdError:
        raise Refusal(400, "malformed", "body: is not zstd, as its header says") from None
    if len(found) > MAX_BODY:
        raise too_large()
    if not decompressor.eof or decompressor.unused_data:
        raise Refusal(400, "malformed", "body: expected exactly one zstd frame")
    return found


def decoded(data: bytes, decoder: msgspec.json.Decoder[T], *, otherwise: int = 422) -> T:
    """
    Return what the JSON text *data* says.

    Args:
        otherwise: The status where it says something of another shape.

    Raises:
        Refusal: 400 where it is no JSON, *otherwise* where it is another shape.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Refusal(otherwise, "malformed", f"body: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "malformed", "body: is not JSON") from None


def too_large() -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(413, "too-large", f"body: expected at most {MAX_BODY} bytes, unpacked")
