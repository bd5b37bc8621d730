"""Bodies: a request's bytes, unpacked within bounds, as the value that they are."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from indelible.collector.problems import Refusal
from indelible.wire import MAX_BODY

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

if TYPE_CHECKING:
    from litestar import Request

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds within which a body has to be there."""


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


def decoded(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """
    Return what the JSON text *data* says.

    Raises:
        Refusal: 400 where it is no JSON, 422 where it is another shape.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Refusal(422, "malformed", f"body: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "malformed", "body: is not JSON") from None


def too_large() -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(413, "too-large", f"body: expected at most {MAX_BODY} bytes, unpacked")
