"""
Tree: checkpoints, tiles and proofs of the logs, and how it is known that all is as it was.

Follows c2sp.org/tlog-tiles below ``/log/{log}/``, so that tools nobody here wrote can verify
a collector. Hashes say nothing of what was recorded; bundles of entries do, and are for
callers who are not limited to a tenant.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from indelible import policies
from indelible.collector.callers import asks
from indelible.collector.reading import READ, READS
from indelible.collector.scrub import KIND as SCRUB
from indelible.collector.scrub import Scrubbed
from indelible.collector.state import Collector
from indelible.entry import time_to_text
from indelible.errors import Malformed, NotFound
from indelible.producer import HELD_KIND, Held, Producer
from indelible.producer import KIND as PRODUCER
from indelible.reader import Reader
from indelible.rights import Verb
from indelible.tiles import TILE_WIDTH, parse_path
from indelible.wire import (
    Consistency,
    IntegrityShown,
    LogShown,
    LogsShown,
    ProducerShown,
    ScrubShown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.note import VerifierKey
    from indelible.reader import Scope
    from indelible.store import Head, View

LOOK = asks(Verb.READ, Verb.OBSERVE)
"""Guards of the routes that show no entry."""

_FOR_EVER = "private, max-age=31536000, immutable"
_NEVER = "no-store"
_MICROSECONDS = 1e6


@get(
    "/v1/checkpoints",
    guards=LOOK,
    dependencies=READS,
    sync_to_thread=True,
    tags=["integrity"],
)
def checkpoints(
    collector: NamedDependency[Collector], reader: NamedDependency[Reader]
) -> LogsShown:
    """Answer the signed note over each log as it is now, with its keys."""
    with collector.trail.store.read() as view:
        return LogsShown(logs=tuple(_logs(view, reader.scope, collector.now())))


@get(
    "/v1/integrity",
    guards=LOOK,
    dependencies=READS,
    sync_to_thread=True,
    tags=["integrity"],
)
def integrity(
    collector: NamedDependency[Collector], reader: NamedDependency[Reader]
) -> IntegrityShown:
    """Answer what is known of whether all is as it was recorded."""
    scope = reader.scope
    with collector.trail.store.read() as view:
        return IntegrityShown(
            origin=collector.trail.origin,
            logs=tuple(_logs(view, scope, collector.now())),
            producers=tuple(_producers(view, scope)),
            scrub=_scrub(Scrubbed.from_bytes(view.fact(SCRUB, b""))) if scope.is_whole else None,
        )


def _logs(view: View, scope: Scope, now: int) -> Iterator[LogShown]:
    keys = policies.first_keys(view)
    for log, head in scope.heads(view).items():
        yield _log(view, head, keys.get(log), now)


def _log(view: View, head: Head, key: VerifierKey | None, now: int) -> LogShown:
    return LogShown(
        log=head.log,
        stream=head.stream,
        origin=head.origin,
        size=head.size,
        first=head.first,
        checkpoint=head.checkpoint.decode() or None,
        key=None if key is None else key.to_text(),
        rotations=tuple(note.decode() for note in view.rotations(head.log)),
        recorded_at=_time(head.recorded_at if head.size else None),
        age=max(0.0, (now - head.recorded_at) / _MICROSECONDS) if head.size else None,
    )


def _producers(view: View, scope: Scope) -> Iterator[ProducerShown]:
    held = dict(view.facts(HELD_KIND))
    for key, data in view.facts(PRODUCER):
        producer, has = Producer.from_bytes(data), Held.from_bytes(held.get(key))
        if scope.sees_stream(producer.stream) and scope.tenant in {None, producer.tenant}:
            yield ProducerShown(
                origin=producer.origin,
                stream=producer.stream,
                size=has.size,
                promised=max(has.size, has.most_promised),
                seen_at=_time(has.seen_at),
                alarm=has.alarm,
            )


def _scrub(scrubbed: Scrubbed) -> ScrubShown:
    return ScrubShown(
        started_at=_time(scrubbed.started_at or None),
        finished_at=_time(scrubbed.finished_at),
        coverage=scrubbed.coverage,
        findings=scrubbed.wrong,
        missing=scrubbed.missing,
    )


def _time(microseconds: int | None) -> str | None:
    return None if microseconds is None else time_to_text(microseconds)


@get(
    "/log/{log:str}/checkpoint",
    guards=LOOK,
    dependencies=READS,
    media_type="text/plain",
    sync_to_thread=True,
    tags=["integrity"],
)
def checkpoint(reader: NamedDependency[Reader], log: FromPath[str]) -> Response[bytes]:
    """Answer the signed note over a log as it is now."""
    note = reader.head(log).checkpoint
    if not note:
        raise NotFound(f"log {log}: holds no entry and so no checkpoint yet")
    return Response(note, media_type="text/plain", headers={"Cache-Control": _NEVER})


@get(
    "/log/{log:str}/tile/{path:path}",
    guards=LOOK,
    dependencies=READS,
    media_type="application/octet-stream",
    sync_to_thread=True,
    tags=["integrity"],
)
def tile(
    reader: NamedDependency[Reader], log: FromPath[str], path: FromPath[str]
) -> Response[bytes]:
    """Answer a tile of hashes, for example `0/000` or `1/x001/234.p/17`."""
    level, n, width = _parsed(path)
    if level is None:  # pragma: no cover - bundles have a route of their own
        raise NotFound("tile: found a bundle")
    return _file(reader.tile(log, level, n, width), width)


@get(
    "/log/{log:str}/tile/entries/{path:path}",
    guards=READ,
    dependencies=READS,
    media_type="application/octet-stream",
    sync_to_thread=True,
    tags=["integrity"],
)
def bundle(
    reader: NamedDependency[Reader], log: FromPath[str], path: FromPath[str]
) -> Response[bytes]:
    """Answer the entries whose hashes stand in the tile of level 0 with the same number."""
    _, n, width = _parsed(f"/entries{path}")
    return _file(reader.bundle(log, n, width), width)


def _parsed(path: str) -> tuple[int | None, int, int]:
    try:
        return parse_path(f"tile{path}")
    except Malformed as error:
        raise NotFound(str(error)) from None


def _file(data: bytes, width: int) -> Response[bytes]:
    # A partial tile is replaced by a larger one; a full one stays for ever.
    kept = _FOR_EVER if width == TILE_WIDTH else _NEVER
    return Response(data, media_type="application/octet-stream", headers={"Cache-Control": kept})


@get(
    "/log/{log:str}/consistency",
    guards=LOOK,
    dependencies=READS,
    sync_to_thread=True,
    tags=["integrity"],
)
def consistency(
    reader: NamedDependency[Reader],
    log: FromPath[str],
    first: Annotated[int, QueryParameter(ge=0, description="The size of the earlier tree.")],
    second: Annotated[
        int | None,
        QueryParameter(
            ge=0,
            # The framework leaves the bound of what may be none out of the document.
            schema_extra={"minimum": 0},
            description="Of the later; by default as it is now.",
        ),
    ] = None,
) -> Consistency:
    """Answer the proof that a tree begins with an earlier one."""
    size = reader.head(log).size if second is None else second
    hashes = reader.consistency(log, first, size)
    return Consistency(
        first=first, second=size, hashes=tuple(b64encode(each).decode() for each in hashes)
    )


ROUTES: list[Any] = [checkpoints, integrity, checkpoint, tile, bundle, consistency]
