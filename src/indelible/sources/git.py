r"""
Git: the history of a repository, from the oldest commit that HEAD knows.

A commit becomes one event of its own, then one for each file that it changed, in the order of
their paths; ``session`` is the commit's hash on all of them:

- ``commit.create`` (``commit.merge`` with several parents) on ``commit:<hash>``; the author acts,
  at the author's time, and the message is the rationale. Another committer, the parents and
  the files with their lines added and removed stand under ``data``.
- ``file.create``, ``file.change``, ``file.delete``, ``file.rename`` on ``file:<path>``; old and
  new blob are the change, the first line of the message is the rationale with the commit as its
  reference. A rename stands on the new path and names the old one. A merge has them only for
  files that differ from all its parents: the others were changed by the merged commits.

Bytes that are no UTF-8 are written ``\xe9``. What would not fit into an entry is shortened, and
``data`` says so under ``import``. A commit's hash covers all of it.

Git says what its authors claim: times and names are theirs, and a hash proves only
that nothing was changed since.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from msgspec import UNSET

from indelible.errors import CallerError, InvalidEvent
from indelible.event import (
    Actor,
    Change,
    Event,
    Outcome,
    Rationale,
    Resource,
    Service,
    Source,
)
from indelible.seal import seal
from indelible.sources import STDIN, Found, Item, Rejected, derived_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT = "git"

_SHORT = 12
_MOST_TEXT = 900
_MOST_MESSAGE = 20_000
_MOST_FILES = 20_000

_HEADER = ("%H", "%P", "%an", "%ae", "%at", "%cn", "%ce", "%ct", "%B")
# Everything that the user's or the repository's configuration could change is said here, so
# that the same history gives the same events everywhere; and nothing in it may run a program.
_LOG = (
    "--no-pager",
    "--no-replace-objects",
    "log",
    "-z",
    f"--format={''.join(f'{part}%x00' for part in _HEADER)}",
    "--encoding=UTF-8",
    "--date-order",
    "--reverse",
    "--no-color",
    "--no-mailmap",
    "--no-notes",
    "--no-decorate",
    "--no-show-signature",
    "--no-ext-diff",
    "--no-textconv",
    "--no-relative",
    "--diff-algorithm=myers",
    "--ignore-submodules=none",
    "-M50%",
    "-l1000",
    "--root",
    "-c",
    "--raw",
    "--no-abbrev",
    "--numstat",
    "HEAD",
    "--",
)
_FOREIGN = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_PREFIX",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_TRACE",
)
_HASH = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_NUMBERS = re.compile(rb"([0-9]+|-)\t([0-9]+|-)\t(.*)\Z", re.DOTALL)
_SECONDS = re.compile(r"-?[0-9]{1,15}\Z")
_NONE = re.compile(r"0+\Z")
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """
    What a commit did to one file.

    Attributes:
        old_path: Where it was before, for a rename.
        old_blob: Hash of the content before; none if there was no such file.
        added: Lines added; none for a file that is not text.
    """

    path: str
    old_path: str | None = None
    old_blob: str | None
    new_blob: str | None
    old_mode: str
    new_mode: str
    added: int | None = None
    removed: int | None = None

    @property
    def verb(self) -> str:
        """The second half of the action."""
        if self.old_path is not None:
            return "rename"
        if self.old_blob is None:
            return "create"
        return "delete" if self.new_blob is None else "change"


@dataclass(slots=True, kw_only=True)
class Commit:
    """One commit as ``git log`` tells it."""

    hash: str
    parents: tuple[str, ...]
    author: tuple[str, str, str]
    committer: tuple[str, str, str]
    message: str
    files: list[FileChange] = field(default_factory=list)


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:
    """
    Yield the commits of the repositories *paths*, one repository after the other.

    Raises:
        CallerError: A path is no repository, or one without commits or with a shallow
            history (whose oldest commits would seem to create every file).
    """
    del stdin
    for path in paths:
        _check_repository(path)
    return (item for path in paths for item in _read_repository(path))


def events_of(commit: Commit) -> Iterator[Event]:
    """
    Yield the event of *commit*, then one for each file that it changed.

    Raises:
        InvalidEvent: Its time is none.
    """
    when = _time("author time", commit.author[2])
    yield _commit_event(commit, when)
    for change in sorted(commit.files, key=lambda change: change.path):
        yield _file_event(commit, change, when)


def parse_log(tokens: Iterable[bytes]) -> Iterator[Commit]:
    """
    Read the NUL-separated output of ``git log`` with the options of this module.

    Raises:
        CallerError: Git answers in a form that is not known here.
    """
    # After the fields of a commit stand, in any order: raw lines (a token and its path, or
    # two paths for a rename) and numbers (a token with the path, or one without and two paths).
    stream = iter(tokens)
    commit: Commit | None = None
    numbers: dict[str, tuple[int | None, int | None]] = {}
    for token in stream:
        token = token.removeprefix(b"\n")  # noqa: PLW2901 - between fields and files
        if token.startswith(b":") and commit is not None:
            commit.files.append(_raw_line(token, stream))
        elif (match := _NUMBERS.match(token)) is not None and commit is not None:
            path = match[3] or (_next(stream), _next(stream))[1]
            numbers[_decode(path)] = (_count(match[1]), _count(match[2]))
        elif _HASH.match(token):
            if commit is not None:
                yield _counted(commit, numbers)
            commit, numbers = _header(token, stream), {}
        elif token:
            raise CallerError(
                f"git log: found {len(token)} bytes of something else, expected a commit or a file"
            )
    if commit is not None:
        yield _counted(commit, numbers)


def _read_repository(path: str) -> Iterator[Item]:
    for number, commit in enumerate(parse_log(_log(path)), start=1):
        try:
            for event in events_of(commit):
                seal(event)
                yield Found(number, event, path)
        except InvalidEvent as error:
            yield Rejected(number, f"commit {commit.hash}: {error}", commit.hash.encode(), path)


def _check_repository(path: str) -> None:
    if path == STDIN or not Path(path).is_dir():
        raise CallerError(f"{path}: found no directory, expected a git repository")
    shallow = _ask(path, "rev-parse", "--is-shallow-repository")
    if shallow.returncode != 0:
        problem = shallow.stderr.decode("utf-8", "replace").strip()
        raise CallerError(f"{path}: found no git repository ({problem})")
    if shallow.stdout.strip() == b"true":
        raise CallerError(
            f"{path}: found a shallow repository, whose history is cut off;"
            " expected a whole one (git fetch --unshallow)"
        )
    if _ask(path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").returncode != 0:
        raise CallerError(f"{path}: found a repository without commits, expected at least one")


def _ask(path: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(  # noqa: S603 - no shell, fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=path,
            env=_environment(path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise CallerError(f"git: cannot be run ({error.strerror or error})") from error


def _log(path: str) -> Iterator[bytes]:
    """Yield the tokens of ``git log`` in *path*, without holding more than one."""
    with TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - no shell, fixed arguments
            ["git", *_LOG],  # noqa: S607
            cwd=path,
            env=_environment(path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert process.stdout is not None  # noqa: S101 - for mypy
        try:
            rest: list[bytes] = []
            while chunk := process.stdout.read(_CHUNK):
                first, *others = chunk.split(b"\0")
                rest.append(first)
                for following in others:
                    yield b"".join(rest)
                    rest = [following]
            if process.wait() != 0:
                complaints.seek(0)
                problem = complaints.read(2_000).decode("utf-8", "replace").strip()
                raise CallerError(f"{path}: git log failed ({problem})")
            yield b"".join(rest)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _environment(path: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return kept | {
        "LC_ALL": "C",
        # The path itself, not a repository that it happens to lie in.
        "GIT_CEILING_DIRECTORIES": str(Path(path).resolve().parent),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _next(stream: Iterator[bytes]) -> bytes:
    token = next(stream, None)
    if token is None:
        raise CallerError("git log: ends in the middle of a commit")
    return token


def _header(token: bytes, stream: Iterator[bytes]) -> Commit:
    parents, author, email, at, committer, committer_email, committed_at, message = (
        _decode(_next(stream)) for _ in _HEADER[1:]
    )
    return Commit(
        hash=token.decode("ascii"),
        parents=tuple(parents.split()),
        author=(author, email, at),
        committer=(committer, committer_email, committed_at),
        message=message,
    )


def _raw_line(token: bytes, stream: Iterator[bytes]) -> FileChange:
    parents = len(token) - len(token.lstrip(b":"))
    parts = token.lstrip(b":").decode("ascii").split(" ")
    modes, blobs, status = parts[: parents + 1], parts[parents + 1 : -1], parts[-1]
    path = _decode(_next(stream))
    old_path = None
    if parents == 1 and status[0] in "RC":
        old_path, path = path, _decode(_next(stream))
    return FileChange(
        path=path,
        old_path=old_path,
        old_blob=None if _NONE.match(blobs[0]) else blobs[0],
        new_blob=None if _NONE.match(blobs[-1]) else blobs[-1],
        old_mode=modes[0],
        new_mode=modes[-1],
    )


def _counted(commit: Commit, numbers: dict[str, tuple[int | None, int | None]]) -> Commit:
    commit.files = [
        replace(change, added=numbers[change.path][0], removed=numbers[change.path][1])
        if change.path in numbers
        else change
        for change in commit.files
    ]
    return commit


def _count(digits: bytes) -> int | None:
    return None if digits == b"-" else int(digits)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _time(name: str, seconds: str) -> datetime:
    expected = "seconds since 1970, up to the year 9999"
    if not _SECONDS.match(seconds):
        raise InvalidEvent(name, seconds, expected)
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidEvent(name, seconds, expected, said=repr(seconds)) from error


def _commit_event(commit: Commit, when: datetime) -> Event:
    message, cut = _fitting(commit.message.strip("\n"), _MOST_MESSAGE)
    files, left_out = _listed(commit.files)
    data: dict[str, Any] = {
        "parents": list(commit.parents[:100]),
        "files_changed": len(commit.files),
        "added": sum(change.added or 0 for change in commit.files),
        "removed": sum(change.removed or 0 for change in commit.files),
        "files": files,
    }
    if commit.committer != commit.author:
        name, email, at = commit.committer
        committed = {"name": name[:_MOST_TEXT], "email": email[:_MOST_TEXT], "at": _time_text(at)}
        data["committer"] = committed
    cuts = []
    if cut:
        cuts.append({"field": "rationale", "characters_left_out": cut})
    if left_out:
        cuts.append({"field": "files", "files_left_out": left_out})
    if cuts:
        data["import"] = {"cut": cuts}
    return Event(
        id=derived_id(FORMAT, commit.hash, when),
        occurred_at=when,
        action="commit.merge" if len(commit.parents) > 1 else "commit.create",
        outcome=Outcome.SUCCESS,
        actor=_actor(commit),
        resource=Resource(type="commit", id=commit.hash),
        data=data,
        rationale=Rationale(text=message) if message.strip() else None,
        session=commit.hash,
        service=Service(name=FORMAT),
        source=Source(format=FORMAT, id=commit.hash),
    )


def _file_event(commit: Commit, change: FileChange, when: datetime) -> Event:
    path = _bounded(change.path)
    source_id = f"{commit.hash}:{path}"
    subject, _ = _fitting(commit.message.strip("\n").split("\n", 1)[0], _MOST_TEXT)
    changes: dict[str, Change] = {}
    if change.old_blob != change.new_blob:
        changes["blob"] = _pair(_shortened(change.old_blob), _shortened(change.new_blob))
    if change.old_path is not None:
        changes["path"] = Change(_bounded(change.old_path), path)
    if change.old_mode != change.new_mode and change.verb in ("change", "rename"):
        changes["mode"] = Change(change.old_mode, change.new_mode)
    return Event(
        id=derived_id(FORMAT, source_id, when),
        kind="data_change",
        occurred_at=when,
        action=f"file.{change.verb}",
        outcome=Outcome.SUCCESS,
        actor=_actor(commit),
        resource=Resource(type="file", id=path),
        changes=changes,
        data=None if change.added is None else {"added": change.added, "removed": change.removed},
        rationale=(Rationale(text=subject, reference=commit.hash) if subject.strip() else None),
        session=commit.hash,
        service=Service(name=FORMAT),
        source=Source(format=FORMAT, id=source_id),
    )


def _actor(commit: Commit) -> Actor:
    name, email, _ = commit.author
    if not (identity := email or name):
        return Actor(type="unknown")
    return Actor(type="user", id=identity[:_MOST_TEXT], name=name[:_MOST_TEXT] or None)


def _pair(old: str | None, new: str | None) -> Change:
    return Change(UNSET if old is None else old, UNSET if new is None else new)


def _shortened(blob: str | None) -> str | None:
    return None if blob is None else blob[:_SHORT]


def _bounded(path: str) -> str:
    """Return *path*, or its beginning and a hash of it where it would be too long for an id."""
    if len(path) <= _MOST_TEXT:
        return path
    return f"{path[: _MOST_TEXT - 20]}…#{sha256(path.encode()).hexdigest()[:16]}"


def _listed(changes: Sequence[FileChange]) -> tuple[list[dict[str, Any]], int]:
    """Return as many of *changes* as fit, and how many do not."""
    listed: list[dict[str, Any]] = []
    size = 0
    for change in sorted(changes, key=lambda change: change.path):
        item = {"path": _bounded(change.path), "action": change.verb}
        if change.old_path is not None:
            item["old_path"] = _bounded(change.old_path)
        facts = item | {"added": change.added, "removed": change.removed}
        size += len(msgspec.json.encode(facts))
        if size > _MOST_FILES:
            break
        listed.append(facts)
    return listed, len(changes) - len(listed)


def _fitting(text: str, most: int) -> tuple[str, int]:
    """Return *text*, or a beginning of it that takes *most* bytes, and how much is left out."""
    kept = text[:most]
    while len(msgspec.json.encode(kept)) > most + 2:
        kept = kept[: len(kept) * 9 // 10]
    return kept, len(text) - len(kept)


def _time_text(seconds: str) -> str:
    try:
        return _time("committer time", seconds).isoformat().replace("+00:00", "Z")
    except InvalidEvent:
        return seconds[:_MOST_TEXT]
