"""
Lines: bytes of files as bounded lines, and lines as JSON objects, read strictly.

Works on chunks of bytes, so that no file, however large or however broken, is
held in memory, and nothing here needs a file to be tested.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from indelible.errors import CallerError, InvalidEvent
from indelible.sources import STDIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_LINE = 1024 * 1024
"""Most bytes of a line."""

_CHUNK = 65_536
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line without its end.

    Attributes:
        number: From 1; empty lines count.
        whole: False where the line is longer than `MAX_LINE` and *data* its beginning.
    """

    number: int
    data: bytes
    whole: bool = True


def check_paths(paths: Sequence[str]) -> None:
    """
    Check that each of *paths* is there and readable.

    Raises:
        CallerError: One is not.
    """
    for path in paths:
        if path == STDIN:
            continue
        if not Path(path).exists():
            raise CallerError(f"{path}: found nothing, expected a file")
        if Path(path).is_dir():
            raise CallerError(f"{path}: found a directory, expected a file")
        if not os.access(path, os.R_OK):
            raise CallerError(f"{path}: found no permission to read it")


def chunks_of(path: str, stdin: BinaryIO | None) -> Iterator[bytes]:
    """
    Yield the bytes of a file or of standard input, unpacked where they are gzip.

    A byte order mark at the beginning is left out.

    Raises:
        CallerError: It cannot be read, or not to its end.
    """
    chunks = _unpacked(_raw_chunks(path, stdin))
    first = next(chunks, b"")
    while len(first) < len(_BOM) and (more := next(chunks, b"")):
        first += more
    yield first.removeprefix(_BOM)
    yield from chunks


def split_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    r"""
    Yield the lines of *chunks*: what stands between two ``\n``, and nothing else ends one.

    A ``\r`` before it stays (JSON takes it for a space). A last line without an
    end is a line; after a last end there is none.
    """
    number, rest, too_long = 1, b"", False
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        # Of a line that is too long only the beginning is kept.
        rest = rest if too_long else rest + first
        for following in others:
            yield _line(number, rest)
            number, rest, too_long = number + 1, following, False
        too_long = len(rest) > MAX_LINE
    if rest:
        yield _line(number, rest)


def is_blank(line: Line) -> bool:
    """Tell whether there is nothing but white space in *line*."""
    return line.whole and not line.data.strip(b" \t\r")


def decode_object(data: bytes) -> dict[str, Any]:
    """
    Read one JSON object in which every key stands once, at every depth.

    Numbers are as Python reads them: NaN, Infinity and integers over 64 bits are
    for the event to refuse, which knows the field.

    Raises:
        InvalidEvent: It is something else.
    """
    try:
        value = _decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidEvent(
            "line", error.object[error.start : error.start + 8], f"UTF-8 at byte {error.start + 1}"
        ) from error
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :]
        raise InvalidEvent(
            "line", rest, f"JSON at character {error.pos + 1} ({error.msg})"
        ) from error
    except ValueError as error:  # more digits than Python reads
        raise InvalidEvent(
            "line", None, "integers of at most 64 bits", said=f"a longer one ({error})"
        ) from error
    except RecursionError as error:
        raise InvalidEvent(
            "line", None, "nesting of at most 64", said="JSON that is nested deeper"
        ) from error
    if type(value) is not dict:
        raise InvalidEvent("line", value, "a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidEvent(
            twice, found[twice], "every key once", said="the key twice in one object"
        )
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_once)


def _line(number: int, data: bytes) -> Line:
    if len(data) <= MAX_LINE:
        return Line(number, data)
    return Line(number, data[:MAX_LINE], whole=False)


def _raw_chunks(path: str, stdin: BinaryIO | None) -> Iterator[bytes]:
    try:
        if path == STDIN:
            yield from _until_end(sys.stdin.buffer if stdin is None else stdin)
            return
        with Path(path).open("rb") as file:
            yield from _until_end(file)
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror or error}") from error


def _until_end(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(chunks, b"")
    while len(first) < len(_GZIP) and (more := next(chunks, b"")):
        first += more
    if not first.startswith(_GZIP):
        yield first
        yield from chunks
        return
    yield from _gunzip(first, chunks)


def _gunzip(packed: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    # Several members after one another are one file; that is how logs are joined.
    member = zlib.decompressobj(wbits=31)
    try:
        while packed:
            if chunk := member.decompress(packed, _CHUNK):
                yield chunk
            if member.eof:
                packed = member.unused_data or next(chunks, b"")
                if not packed:
                    return
                member = zlib.decompressobj(wbits=31)
            else:
                packed = member.unconsumed_tail or next(chunks, b"")
    except zlib.error as error:
        raise CallerError(f"gzip: damaged, the rest cannot be read ({error})") from error
    raise CallerError("gzip: ends in the middle, the rest is missing")
