"""
Exports: entries taken away in files, made aside, kept for a day, for whoever has asked alone.

::

    ask     the query is checked, and answered 202: the file is made in a thread
    make    a page after the other, read as the caller reads; what it is, is an entry
    take    by the same caller, with the same limits, until it expires or something is erased

What a grant opens is to be looked at, and not to be taken away: it is in no file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio.to_thread
import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.response import File

from indelible import query
from indelible.collector.callers import asks
from indelible.collector.problems import Refusal
from indelible.collector.reading import READS, item_of
from indelible.collector.state import Collector
from indelible.covers import BEGUN, EFFECTIVE
from indelible.custody import private_event
from indelible.durable import sync_directory
from indelible.entry import time_to_text
from indelible.errors import CallerError, IndelibleError, NotFound, StoreError
from indelible.event import uuid7
from indelible.export import COLUMNS, KIND, MADE, Export, csv_of, row_of
from indelible.log import head_of
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.reader import Reader
from indelible.rights import Caller, Verb
from indelible.shipping import progress_of
from indelible.sinks import ecs, ocsf
from indelible.wire import ExportRequest, ExportShown, SinkShown
from indelible.writer import Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from litestar import Litestar

    from indelible.log import Placed
    from indelible.query import Item
    from indelible.store import Transaction, View

DAY = 86_400_000_000
"""Microseconds for which a file is kept."""

MOST_BYTES = 1 << 30
"""Of all files together, unless said otherwise; one takes a quarter at most."""

_AT_ONCE = 2
_MOST_UNDER_WAY = 16
_MOST_OF_CALLER = 20
_PAGE = 500
_SWEEP = 60.0
_CUT_OFF = 180_000_000
"""Microseconds after which what nobody makes any more was cut off."""

_REMEMBERED = 7 * DAY
_MOST_TEXT = 1_000
_NO_SUCH = "export: found none with this id"
_log = logging.getLogger("indelible")


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """
    How entries are written.

    Attributes:
        head: What a file begins with.
        lines: Returns some entries as they stand in it; none where it is made otherwise.
    """

    extension: str
    media_type: str
    head: bytes = b""
    lines: Any = None


def _json_lines(shown: Callable[[Item], object]) -> Callable[[Sequence[Item]], bytes]:
    encode = msgspec.json.Encoder().encode
    return lambda items: b"".join(encode(shown(item)) + b"\n" for item in items)


_NDJSON = "application/x-ndjson"

FORMATS: Mapping[str, Format] = {
    "jsonl": Format(extension="jsonl", media_type=_NDJSON, lines=_json_lines(item_of)),
    "ocsf": Format(extension="ocsf.jsonl", media_type=_NDJSON, lines=_json_lines(ocsf.event_of)),
    "ecs": Format(extension="ecs.jsonl", media_type=_NDJSON, lines=_json_lines(ecs.document_of)),
    "csv": Format(
        extension="csv",
        media_type="text/csv; charset=utf-8",
        head=csv_of([COLUMNS]),
        lines=lambda items: csv_of([row_of(item) for item in items]),
    ),
    "parquet": Format(extension="parquet", media_type="application/vnd.apache.parquet"),
    "evidence": Format(extension="evidence.zip", media_type="application/zip"),
}


class _Stopped(CallerError):
    """An export that is not to be finished."""


class Exports:
    """
    The exports of *collector*; their files lie in the trail's directory, below ``exports``.

    Args:
        most: Bytes of all files together.
    """

    def __init__(self, collector: Collector, *, most: int = MOST_BYTES) -> None:
        self._collector, self._most = collector, most
        self._directory = collector.trail.path / "exports"
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="indelible-export")

    # ---- Asking ----

    def ask(self, caller: Caller, asked: ExportRequest, reader: Reader) -> Export:
        """
        Begin to make a file of what *asked* finds, and return how that stands.

        Args:
            reader: Reads for the caller; its purpose and case are those of the export.

        Raises:
            InvalidQuery, UnknownStream, Forbidden: The query cannot be answered to the caller.
            Refusal: 415 for a format that there is not, 429 for too many, 503 without room.
        """
        format_ = _format(asked.format)
        if not asked.rationale.strip() or len(asked.rationale) > _MOST_TEXT:
            raise CallerError(f"rationale: expected some text, at most {_MOST_TEXT} characters")
        found = Query.parse(asked.query)
        if asked.format == "evidence" and len(found.id) != 1:
            raise CallerError("query: expected id:… of the one entry that evidence is of")
        collector = self._collector
        collector.check_room()
        trail, now = collector.trail, collector.now()
        purpose = "; ".join(filter(None, [asked.rationale, reader.viewer.purpose]))
        viewer = msgspec.structs.replace(reader.viewer, purpose=purpose)
        own = trail.reader(viewer, caller)
        # What cannot be answered is said at once; and what evidence is of must be there.
        page = own.search(found, limit=1)
        if asked.format == "evidence" and not page.items:
            raise NotFound("query: found no such entry")
        with trail.store.read() as view:
            custody = head_of(view.heads(), CUSTODY)
        export = Export(
            id=uuid7(time.time_ns(), os.urandom(10)),
            caller=caller.id,
            role=caller.role,
            streams=caller.streams,
            tenant=caller.tenant,
            policy=trail.policy.label,
            format=asked.format,
            made_at=now,
            log=custody.log,
            seen=custody.size,
            seen_at=now,
        )
        self._check_few(caller)
        with self._lock:
            self._under_way[export.id] = 0
        self._keep(export)
        self._pool.submit(self._make, export, format_, own, found, asked.rationale, caller)
        return export

    def _check_few(self, caller: Caller) -> None:
        standing = self._all()
        own = sum(
            each.caller == caller.id and each.state in {"waiting", "running", "ready"}
            for each in standing
        )
        if len(self._under_way) >= _MOST_UNDER_WAY or own >= _MOST_OF_CALLER:
            raise Refusal(
                429,
                "too-many-exports",
                "too many exports are kept or under way; drop one, or try again later",
                headers={"Retry-After": "60"},
            )

    # ---- Making ----

    def _make(  # noqa: PLR0917 - what was asked, by whom
        self,
        export: Export,
        format_: Format,
        reader: Reader,
        asked: Query,
        rationale: str,
        caller: Caller,
    ) -> None:
        path = self._path(export)
        part = path.with_name(f"{path.name}.part")
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            running = msgspec.structs.replace(
                export, state="running", seen_at=self._collector.now()
            )
            self._keep(running)
            with _new_file(part) as file:
                self._fill(file, running, format_, reader, asked)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            sync_directory(self._directory)
            # Crash here: a file that no entry names, which is swept away.
            self._finish(running, path, asked.to_text(), rationale, caller)
        except Exception as error:  # noqa: BLE001 - whoever has asked is told, whatever it was
            path.unlink(missing_ok=True)
            self._fail(export, error)
        finally:
            part.unlink(missing_ok=True)
            with self._lock:
                self._under_way.pop(export.id, None)
                self._dropped.discard(export.id)

    def _fill(
        self, file: BinaryIO, export: Export, format_: Format, reader: Reader, asked: Query
    ) -> None:
        if export.format == "evidence":
            folder = self._directory / f"{export.id}.folder"
            try:
                reader.disclose(asked.id[0], folder)
                _zip(folder, file)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            self._count(export, 1)
        elif format_.lines is None:
            _write_parquet(file, self._pages(export, reader, asked, file))
        else:
            file.write(format_.head)
            pages = self._pages(export, reader, asked, file)
            file.writelines(format_.lines(items) for items in pages)
        self._check_size(file)

    def _pages(
        self, export: Export, reader: Reader, asked: Query, file: BinaryIO
    ) -> Iterator[Sequence[Item]]:
        """Yield what *asked* finds, a page after the other: no view of the store is kept open."""
        cursor: str | None = None
        while True:
            if self._stopping.is_set():
                raise _Stopped("the collector was stopped; ask for it anew")
            if export.id in self._dropped:
                raise _Stopped("it was dropped")
            page = reader.search(asked, limit=_PAGE, cursor=cursor)
            yield page.items
            self._count(export, len(page.items))
            self._check_size(file)
            if (cursor := page.cursor) is None:
                return

    def _count(self, export: Export, entries: int) -> None:
        with self._lock:
            self._under_way[export.id] = self._under_way.get(export.id, 0) + entries

    def _check_size(self, file: BinaryIO) -> None:
        size = file.tell()
        if size > self._most // 4:
            raise CallerError(f"export: is larger than {self._most // 4} bytes; ask for less")
        others = sum(
            each.stat().st_size for each in self._directory.iterdir() if each.suffix != ".part"
        )
        if size + others > self._most:
            raise CallerError("export: there is no room beside those that are kept; drop one")

    def _finish(
        self, export: Export, path: Path, asked: str, rationale: str, caller: Caller
    ) -> None:
        """Record what the file is, and with that let its caller have it."""
        trail, now = self._collector.trail, self._collector.now()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        ready = msgspec.structs.replace(
            export,
            state="ready",
            entries=self._under_way.get(export.id, 0),
            size=path.stat().st_size,
            sha256=digest,
            seen_at=now,
            expires_at=now + DAY,
        )
        manifest = private_event(
            trail.vault,
            trail.id,
            MADE,
            rationale=rationale,
            export=export.id,
            caller=caller.id,
            name=caller.name,
            role=caller.role,
            query=asked,
            format=export.format,
            entries=ready.entries,
            size=ready.size,
            sha256=digest,
        )

        def within(transaction: Transaction, _: Mapping[str, Placed]) -> None:
            if export.id in self._dropped:
                raise _Stopped("it was dropped")
            transaction.put(KIND, export.id.encode(), ready.to_bytes())

        pending = Pending({CUSTODY: [manifest]}, within=within)
        trail.submit(pending)
        pending.result()

    def _fail(self, export: Export, error: Exception) -> None:
        if export.id in self._dropped:
            with suppress(IndelibleError):  # then it is found to be cut off
                self._forget(export)
            return
        if isinstance(error, IndelibleError) and not isinstance(error, StoreError):
            why = str(error)
        else:
            _log.error("export %s: %s", export.id, type(error).__name__, exc_info=error)
            why = "something went wrong here; it was logged"
        failed = msgspec.structs.replace(
            export, state="failed", why=why, seen_at=self._collector.now()
        )
        with suppress(IndelibleError):  # then it is found to be cut off
            self._keep(failed)

    # ---- Taking ----

    def own(self, caller: Caller) -> list[Export]:
        """Return the exports of *caller*, the oldest first."""
        self.sweep()
        return [self._now(each) for each in self._all() if each.is_of(caller)]

    def find(self, name: str, caller: Caller) -> Export:
        """
        Return how the export with the id *name* stands.

        Raises:
            NotFound: There is none of this caller, as it is limited now.
        """
        self.sweep()
        return self._find(name, caller)

    def file(self, name: str, caller: Caller) -> tuple[Export, Path]:
        """
        Return an export, and where its file is.

        Raises:
            NotFound: There is none of this caller.
            Refusal: 409 where it is not ready, 410 where its file is gone.
        """
        export = self.find(name, caller)
        path = self._path(export)
        if export.state in {"failed", "gone"} or (export.state == "ready" and not path.exists()):
            raise Refusal(410, "gone", f"export: {export.why or 'its file is not here any more'}")
        if export.state != "ready":
            raise Refusal(
                409, "not-ready", "export: is not ready yet", headers={"Retry-After": "2"}
            )
        return export, path

    def drop(self, name: str, caller: Caller) -> None:
        """
        Remove an export and its file; what is under way stops.

        Raises:
            NotFound: There is none of this caller.
        """
        export = self._find(name, caller)
        with self._lock:
            if name in self._under_way:
                self._dropped.add(name)
        self._remove(export)
        self._forget(export)

    def _find(self, name: str, caller: Caller) -> Export:
        with self._collector.trail.store.read() as view:
            kept = view.fact(KIND, name.encode())
        export = None if kept is None else Export.from_bytes(kept)
        if export is None or not export.is_of(caller):
            raise NotFound(_NO_SUCH)
        return self._now(export)

    def _now(self, export: Export) -> Export:
        counted = self._under_way.get(export.id)
        if counted is None or export.state == "ready":
            return export
        return msgspec.structs.replace(export, entries=counted)

    # ---- Keeping, and removing ----

    def _keep(self, export: Export) -> None:
        with self._collector.trail.store.write() as transaction:
            transaction.put(KIND, export.id.encode(), export.to_bytes())

    def _forget(self, export: Export) -> None:
        with self._collector.trail.store.write() as transaction:
            transaction.put(KIND, export.id.encode(), None)

    def _all(self) -> list[Export]:
        with self._collector.trail.store.read() as view:
            return [Export.from_bytes(kept) for _, kept in view.facts(KIND)]

    def _path(self, export: Export) -> Path:
        return self._directory / f"{export.id}.{FORMATS[export.format].extension}"

    def _remove(self, export: Export) -> None:
        for path in self._directory.glob(f"{export.id}.*"):
            _delete(path)

    def sweep(self) -> None:
        """
        Remove files whose time is over, or that hold what was erased or is seen otherwise since.

        Raises:
            StoreError: It is done the next time.
        """
        now, label = self._collector.now(), self._collector.trail.policy.label
        with self._collector.trail.store.read() as view:
            found = [Export.from_bytes(kept) for _, kept in view.facts(KIND)]
            removed = _newest_removal(view)
            changed = [
                after for each in found if (after := self._after(each, removed, now, label)) != each
            ]
        for each in changed:
            if each.state != "ready":
                self._remove(each)
        old = [each for each in found if each.made_at + _REMEMBERED < now]
        if changed or old:
            with self._collector.trail.store.write() as transaction:
                for each in changed:
                    if transaction.fact(KIND, each.id.encode()) is not None:
                        transaction.put(KIND, each.id.encode(), each.to_bytes())
                for each in old:
                    transaction.put(KIND, each.id.encode(), None)
        self._remove_orphans({each.id for each in found})

    def _after(
        self, export: Export, removed: tuple[int, int] | None, now: int, label: str
    ) -> Export:
        if export.state in {"waiting", "running"}:
            if export.id in self._under_way or now <= export.seen_at + _CUT_OFF:
                return export
            why = "it was cut off; ask for it anew"
            return msgspec.structs.replace(export, state="failed", why=why)
        why = _gone_because(export, removed, now, label) if export.state == "ready" else ""
        return export.gone(why) if why else export

    def _remove_orphans(self, known: set[str]) -> None:
        """Remove what a crash has left: files of exports that nobody knows."""
        if not self._directory.exists():
            return
        for path in self._directory.iterdir():
            name = path.name.partition(".")[0]
            if name in known or name in self._under_way:
                continue
            _delete(path)

    @asynccontextmanager
    async def running(self, _: Litestar) -> AsyncIterator[None]:
        """Sweep while the application runs, and stop what is under way at its end."""
        thread = threading.Thread(target=self._run, name="indelible-exports", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            await anyio.to_thread.run_sync(thread.join)
            await anyio.to_thread.run_sync(self._pool.shutdown)

    def _run(self) -> None:
        while True:
            try:
                self.sweep()
            except IndelibleError as error:
                _log.warning("exports are swept later: %s", error)
            except OSError as error:
                _log.warning("exports are swept later: %s", error.strerror)
            if self._stopping.wait(_SWEEP):
                return


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _gone_because(export: Export, removed: tuple[int, int] | None, now: int, label: str) -> str:
    """Say why the file of an export is to be removed; nothing where it may stay."""
    if now >= (export.expires_at or 0):
        return "its time is over"
    if export.policy != label:
        return "another policy is in force since; ask for it anew"
    if removed is not None and removed >= _place(export.log, export.seen):
        return "values were removed since; ask for it anew"
    return ""


def _newest_removal(view: View) -> tuple[int, int] | None:
    """Return the place of the last entry by which values were erased or purged."""
    asked = Query(stream=CUSTODY, action=(*BEGUN, *EFFECTIVE))
    return next((_place(item.log, item.index) for item in query.matches(view, asked)), None)


def _place(log: str, index: int) -> tuple[int, int]:
    """Return what orders places of one stream: first of its log, then of all that succeed it."""
    return int(log.partition("~")[2] or 1), index


def _format(name: str) -> Format:
    found = FORMATS.get(name)
    if found is None:
        known = ", ".join(FORMATS)
        raise Refusal(415, "format", f"format: found {name[:40]!r}, expected one of {known}")
    if name == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise Refusal(415, "format", "format: parquet needs pyarrow here: pip install pyarrow")
    return found


def _new_file(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _zip(folder: Path, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())


def _write_parquet(file: BinaryIO, pages: Iterator[Sequence[Item]]) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    schema = arrow.schema([(name, arrow.string()) for name in COLUMNS])
    with parquet.ParquetWriter(file, schema) as writer:
        for items in pages:
            rows = [dict(zip(COLUMNS, row_of(item), strict=True)) for item in items]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


# ---- Routes ----


def shown(export: Export) -> ExportShown:
    """Return *export* as it is sent."""
    ready = export.state == "ready"
    return ExportShown(
        id=export.id,
        state=export.state,
        format=export.format,
        made_at=time_to_text(export.made_at),
        entries=export.entries,
        size=export.size,
        sha256=export.sha256,
        file=f"/v1/exports/{export.id}/file" if ready else None,
        expires_at=None if export.expires_at is None else time_to_text(export.expires_at),
        why=export.why,
    )


@post(
    "/v1/exports",
    guards=asks(Verb.EXPORT),
    dependencies=READS,
    status_code=202,
    sync_to_thread=True,
    tags=["exports"],
)
def export_entries(
    data: JSONBody[ExportRequest],
    caller: NamedDependency[Caller],
    reader: NamedDependency[Reader],
    exports: NamedDependency[Exports],
) -> Response[ExportShown]:
    """Make a file of entries, as the caller sees them; it is ready some time later."""
    made = exports.ask(caller, data, reader)
    return Response(shown(made), status_code=202, headers={"Location": f"/v1/exports/{made.id}"})


@get("/v1/exports", guards=asks(Verb.EXPORT), sync_to_thread=True, tags=["exports"])
def own_exports(
    caller: NamedDependency[Caller], exports: NamedDependency[Exports]
) -> list[ExportShown]:
    """List the caller's exports, the oldest first."""
    return [shown(each) for each in exports.own(caller)]


@get("/v1/exports/{export_id:str}", guards=asks(Verb.EXPORT), sync_to_thread=True, tags=["exports"])
def export_shown(
    export_id: FromPath[str],
    caller: NamedDependency[Caller],
    exports: NamedDependency[Exports],
) -> ExportShown:
    """Say how far an export has come."""
    return shown(exports.find(export_id, caller))


@get(
    "/v1/exports/{export_id:str}/file",
    guards=asks(Verb.EXPORT),
    sync_to_thread=True,
    tags=["exports"],
)
def export_file(
    export_id: FromPath[str],
    caller: NamedDependency[Caller],
    exports: NamedDependency[Exports],
) -> File:
    """Answer the file of an export."""
    export, path = exports.file(export_id, caller)
    return File(
        path,
        filename=path.name,
        media_type=FORMATS[export.format].media_type,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


@delete(
    "/v1/exports/{export_id:str}", guards=asks(Verb.EXPORT), sync_to_thread=True, tags=["exports"]
)
def drop_export(
    export_id: FromPath[str],
    caller: NamedDependency[Caller],
    exports: NamedDependency[Exports],
) -> None:
    """Remove an export and its file."""
    exports.drop(export_id, caller)


@get("/v1/sinks", guards=asks(Verb.OBSERVE), sync_to_thread=True, tags=["exports"])
def sinks(
    collector: NamedDependency[Collector], caller: NamedDependency[Caller]
) -> list[SinkShown]:
    """Say what the trail's streams are also sent to, and how far that has come."""
    trail = collector.trail
    with trail.store.read() as view:
        found = []
        for log, head in view.heads().items():
            progress = progress_of(view, log) if caller.sees_stream(head.stream) else None
            if progress is not None:
                found.append(
                    SinkShown(
                        name=progress.url,
                        stream=head.stream,
                        log=log,
                        size=progress.size,
                        of=head.size,
                        at=time_to_text(progress.at),
                    )
                )
    named = [
        SinkShown(name=name, stream=stream)
        for stream, said in trail.policy.streams.items()
        if caller.sees_stream(stream)
        for name in said.sinks
    ]
    return [*found, *named]


# Of several at one path, what answers a Response comes last: Litestar wraps the others twice,
# and awaits what that returns of everything else.
ROUTES: list[Any] = [
    own_exports,
    export_entries,
    export_shown,
    export_file,
    drop_export,
    sinks,
]
