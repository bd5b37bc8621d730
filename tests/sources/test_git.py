from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from typing import TYPE_CHECKING

import pytest

from indelible.errors import CallerError
from indelible.event import Actor, Change, Event, Rationale, Source
from indelible.seal import MAX_SEALED, seal
from indelible.sources import Found, Rejected, derived_id, open_source
from indelible.sources.git import parse_log

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


class Repository:
    """A real repository whose commits have fixed authors and times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seconds = count(1_764_000_000, 60)
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> str:
        """Run git and return what it says."""
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - the git of whoever runs the tests
            cwd=self.path,
            env={
                **os.environ,
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "Alice",
                "GIT_AUTHOR_EMAIL": "alice@example.com",
                "GIT_COMMITTER_NAME": "Alice",
                "GIT_COMMITTER_EMAIL": "alice@example.com",
                **environment,
            },
            input=stdin,
            check=True,
            capture_output=True,
        )
        return done.stdout.decode("utf-8", "backslashreplace").strip()

    def write(self, name: bytes | str, content: bytes | str) -> None:
        """Write a file of the work tree."""
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))  # noqa: PTH118 - bytes
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
        with open(path, "wb") as file:  # noqa: PTH123 - bytes
            file.write(content.encode() if isinstance(content, str) else content)

    def commit(self, message: str | bytes, **environment: str) -> str:
        """Commit the work tree and return the hash."""
        at = f"@{next(self._seconds)} +0100"
        text = message.encode() if isinstance(message, str) else message
        self.git("add", "--all")
        self.git(
            *("commit", "--quiet", "--allow-empty", "--allow-empty-message", "--file=-"),
            stdin=text,
            **{"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at, **environment},
        )
        return self.git("rev-parse", "HEAD")

    def commit_raw(
        self, message: bytes, *, at: int = 1_764_000_060, author: bytes = b"A <a@x>"
    ) -> str:
        """Commit what HEAD has with bytes that ``git commit`` would not write."""
        tree, parent = (self.git("rev-parse", name).encode() for name in ("HEAD^{tree}", "HEAD"))
        raw = b"tree %b\nparent %b\nauthor %b %d +0000\ncommitter A <a@x> %d +0000\n\n%b" % (
            *(tree, parent, author, at, 1_764_000_060, message),
        )
        sha = self.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=raw)
        self.git("reset", "--quiet", "--hard", sha)
        return sha

    def events(self) -> list[Event]:
        """Import the repository; nothing of it may be rejected."""
        items = list(open_source("git", [self.path]))
        assert [] == [item for item in items if isinstance(item, Rejected)]
        return [item.event for item in items if isinstance(item, Found)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Make an empty repository."""
    return Repository(tmp_path / "shop")


def only(events: list[Event], resource: str) -> list[Event]:
    """Return the events about *resource*."""
    return [event for event in events if resource == str(event.resource)]


def told(events: list[Event]) -> list[str]:
    """Return actions and resources in short."""
    return [f"{event.action} {event.resource}" for event in events]


def test_a_commit_says_who_changed_what_when_and_why(repository: Repository) -> None:
    """Author, time, message and lines of a commit are found again in the trail."""
    repository.write("README.md", "one\ntwo\n")
    sha = repository.commit("Say hello\n\nNobody did so far.\n")

    commit, file = repository.events()

    assert "commit.create" == commit.action
    assert Actor(type="user", id="alice@example.com", name="Alice") == commit.actor
    assert f"commit:{sha}" == str(commit.resource)
    assert "2025-11-24T16:00:00+00:00" == commit.occurred_at.isoformat()
    assert Rationale(text="Say hello\n\nNobody did so far.") == commit.rationale
    assert Source(format="git", id=sha) == commit.source
    assert derived_id("git", sha, commit.occurred_at) == commit.id
    assert {
        "parents": [],
        "files_changed": 1,
        "added": 2,
        "removed": 0,
        "files": [{"path": "README.md", "action": "create", "added": 2, "removed": 0}],
    } == commit.data
    assert "file.create" == file.action
    assert "data_change" == file.kind
    assert Rationale(text="Say hello", reference=sha) == file.rationale
    assert Source(format="git", id=f"{sha}:README.md") == file.source
    assert sha == commit.session == file.session


def test_the_history_of_a_file_is_what_happened_to_it(repository: Repository) -> None:
    """Creation, change, rename, mode and deletion of a file can be asked for by its path."""
    repository.write("a", "1\n2\n3\n4\n5\n")
    repository.commit("create")
    old = repository.git("rev-parse", "HEAD:a")
    repository.write("a", "1\n2\n3\n4\n6\n")
    repository.commit("change")
    new = repository.git("rev-parse", "HEAD:a")
    repository.git("update-index", "--chmod=+x", "a")
    repository.git("config", "core.fileMode", "false")
    repository.commit("mode")
    repository.git("mv", "a", "b")
    repository.commit("rename")
    (repository.path / "b").unlink()
    repository.commit("delete")

    events = repository.events()

    created, changed, mode = only(events, "file:a")
    renamed, deleted = only(events, "file:b")
    assert {"blob": Change(new=old[:12])} == created.changes
    assert {"blob": Change(old[:12], new[:12])} == changed.changes
    assert {"added": 1, "removed": 1} == changed.data
    assert {"mode": Change("100644", "100755")} == mode.changes
    assert {"path": Change("a", "b")} == renamed.changes
    assert {"blob": Change(old=new[:12])} == deleted.changes
    assert ["create", "change", "change", "rename", "delete"] == [
        event.action.removeprefix("file.") for event in events if event.kind == "data_change"
    ]


def test_commits_come_oldest_first_and_files_by_path(repository: Repository) -> None:
    """The order of an import is the order in which things happened."""
    for name in ("c", "a", "b"):
        repository.write(name, name)
    first = repository.commit("first")
    second = repository.commit("second")

    items = list(open_source("git", [repository.path]))

    assert [
        f"commit.create commit:{first}",
        "file.create file:a",
        "file.create file:b",
        "file.create file:c",
        f"commit.create commit:{second}",
    ] == told([item.event for item in items if isinstance(item, Found)])
    assert [1, 1, 1, 1, 2] == [item.line for item in items]


def test_a_merge_claims_only_what_was_changed_in_merging(repository: Repository) -> None:
    """Files that a merge took over stand on the merged commits; resolved conflicts on the merge."""
    repository.write("both", "0\n")
    repository.commit("base")
    repository.git("checkout", "--quiet", "-b", "side")
    repository.write("both", "side\n")
    repository.write("one", "1\n")
    side = repository.commit("side")
    repository.git("checkout", "--quiet", "main")
    repository.write("both", "main\n")
    main = repository.commit("main")
    repository.git("merge", "--quiet", "--no-commit", "-s", "ours", "side")
    repository.write("both", "resolved\n")
    repository.write("one", "1\n")
    merge = repository.commit("merge")

    *_, commit, file = repository.events()

    assert f"commit.merge commit:{merge}" == told([commit])[0]
    assert [main, side] == commit.data["parents"]
    assert "file.change file:both" == told([file])[0]
    assert {"added": 1, "removed": 1} == file.data


def test_another_committer_is_named(repository: Repository) -> None:
    """Who brought a commit into the repository for its author is known."""
    repository.commit("x", GIT_COMMITTER_NAME="Bob", GIT_COMMITTER_EMAIL="bob@example.com")

    [commit] = repository.events()

    assert "user:alice@example.com" == str(commit.actor)
    assert {
        "name": "Bob",
        "email": "bob@example.com",
        "at": "2025-11-24T16:00:00Z",
    } == commit.data["committer"]


def test_a_commit_without_a_message_has_no_rationale(repository: Repository) -> None:
    """Where nobody said why, nothing is made up."""
    repository.write("a", "")
    repository.commit("")

    assert [None, None] == [event.rationale for event in repository.events()]


def test_a_binary_file_has_no_lines(repository: Repository) -> None:
    """For a file that is no text, no numbers of lines are claimed."""
    repository.write("logo.png", b"\x89PNG\0\0")
    repository.commit("logo")

    commit, file = repository.events()

    assert file.data is None
    assert commit.data["files"][0]["added"] is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Größe und Maß", "Größe und Maß"),
        (b"caf\xe9", "caf\\xe9"),
        ("two\nlines", "two\nlines"),
        ("tab\tand space", "tab\tand space"),
        ("\n:100644", "\n:100644"),
        ("1\t2\tx", "1\t2\tx"),
        ("a" * 40, "a" * 40),
        ("-rf", "-rf"),
    ],
)
def test_no_name_of_a_file_leads_astray(
    repository: Repository, name: bytes | str, shown: str
) -> None:
    """Whatever a file is called, renamed ones included, it is told from what git says about it."""
    repository.write(name, "1\n2\n3\n")
    repository.commit("create")
    repository.git("mv", "--", os.fsdecode(name), "elsewhere")
    repository.commit("away")
    repository.git("mv", "--", "elsewhere", os.fsdecode(name))
    repository.commit("back")

    created, away, back = (
        event for event in repository.events() if event.action.startswith("file.")
    )

    assert shown == created.resource.id
    assert {"path": Change(shown, "elsewhere")} == away.changes
    assert shown == back.resource.id
    assert 3 == created.data["added"]


def test_text_in_another_encoding_can_be_read(repository: Repository) -> None:
    """A message is converted where its encoding is known; else its bytes can be read."""
    repository.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repository.commit(b"caf\xe9")
    repository.commit_raw(b"caf\xe9")

    known, unknown = repository.events()

    assert Rationale(text="café") == known.rationale
    assert Rationale(text="caf\\xe9") == unknown.rationale


def test_a_path_too_long_for_an_id_is_shortened_but_stays_distinct(repository: Repository) -> None:
    """Two long paths with the same beginning are two files."""
    folder = "/".join(["d" * 200] * 5)
    repository.write(f"{folder}/a", "a")
    repository.write(f"{folder}/b", "b")
    repository.commit("deep")

    _, first, second = repository.events()

    assert first.resource.id != second.resource.id
    assert first.id != second.id
    assert first.resource.id.startswith("d" * 200)


def test_a_commit_of_any_size_fits_and_says_what_was_left_out(repository: Repository) -> None:
    """A commit of 10,000 files has an event for each; its own lists the first and counts all."""
    files = b"".join(b"M 100644 :1 folder/file-%05d\n" % n for n in range(10_000))
    history = (
        b"blob\nmark :1\ndata 2\nx\n\ncommit refs/heads/main\n"
        b"author A <a@x> 1764000000 +0000\ncommitter A <a@x> 1764000000 +0000\n"
        b"data 100000\n%b\n%b\n" % (b"x" * 100_000, files)
    )
    repository.git("fast-import", "--quiet", stdin=history)

    commit, *changed = repository.events()

    [rationale, listed] = commit.data["import"]["cut"]
    assert MAX_SEALED >= len(seal(commit).event)
    assert 10_000 == len(changed) == commit.data["files_changed"]
    assert {"field": "rationale", "characters_left_out": 80_000} == rationale
    assert 10_000 == len(commit.data["files"]) + listed["files_left_out"]


def test_the_same_history_gives_the_same_events_whatever_is_configured(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Importing again, from another machine, finds everything there already."""
    repository.write("a", "1\n2\n3\n4\n")
    repository.write(".mailmap", "Eve <eve@example.com> <alice@example.com>\n")
    repository.commit("create")
    repository.git("mv", "a", "b")
    repository.commit("rename")
    before = repository.events()

    for setting in (
        "color.ui=always",
        "log.showSignature=true",
        "log.mailmap=true",
        "log.decorate=full",
        "log.date=relative",
        "diff.renames=false",
        "diff.noprefix=true",
        "diff.external=false",
        "core.quotePath=true",
        "core.abbrev=4",
        "core.pager=false",
    ):
        repository.git("config", *setting.split("=", 1))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")

    assert before == repository.events()


def test_a_time_that_is_none_keeps_only_its_commit_out(repository: Repository) -> None:
    """A commit whose author's time no clock can show is rejected; those around it go in."""
    repository.commit("before")
    far = repository.commit_raw(b"far", at=999_999_999_999_999)
    repository.commit("after")

    items = list(open_source("git", [repository.path]))

    assert [Found, Rejected, Found] == [type(item) for item in items]
    assert isinstance(items[1], Rejected)
    assert items[1].error.startswith(
        f"commit {far}: author time: found '999999999999999', expected"
    )
    assert far.encode() == items[1].raw


def test_an_author_without_an_address_is_named_or_unknown(repository: Repository) -> None:
    """Where git knows no address the name stands for the author, and nothing for nobody."""
    repository.commit("x", GIT_AUTHOR_EMAIL="")
    repository.commit_raw(b"x", author=b" <>")

    named, unnamed = repository.events()

    assert Actor(type="user", id="Alice", name="Alice") == named.actor
    assert Actor(type="unknown") == unnamed.actor


def test_what_is_no_repository_is_refused_before_the_first_event(
    repository: Repository, tmp_path: Path
) -> None:
    """A mistyped path, an empty repository or a folder inside of one leaves the trail as it was."""
    with pytest.raises(CallerError, match="found a repository without commits"):
        open_source("git", [repository.path])
    repository.write("folder/a", "")
    repository.commit("x")
    with pytest.raises(CallerError, match="found no git repository"):
        open_source("git", [repository.path / "folder"])
    with pytest.raises(CallerError, match="found no git repository"):
        open_source("git", [repository.path, tmp_path])
    with pytest.raises(CallerError, match="found no directory, expected a git repository"):
        open_source("git", [tmp_path / "nope"])
    with pytest.raises(CallerError, match="found no directory, expected a git repository"):
        open_source("git", ["-"])


def test_a_history_that_is_cut_off_is_refused(repository: Repository, tmp_path: Path) -> None:
    """A shallow clone, whose oldest commit seems to create every file, is not imported as truth."""
    repository.commit("one")
    repository.commit("two")
    url = repository.path.as_uri()
    repository.git("clone", "--quiet", "--depth=1", url, str(tmp_path / "shallow"))

    with pytest.raises(CallerError, match="found a shallow repository"):
        open_source("git", [tmp_path / "shallow"])


def test_a_bare_repository_is_one(repository: Repository, tmp_path: Path) -> None:
    """The copy on a server gives the same events as the one that was worked in."""
    repository.write("a", "")
    repository.commit("one")
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(tmp_path / "bare.git"))

    items = list(open_source("git", [tmp_path / "bare.git"]))

    assert repository.events() == [item.event for item in items if isinstance(item, Found)]


def test_a_damaged_repository_ends_the_import_with_an_error(repository: Repository) -> None:
    """History that cannot be read is never taken for the end of history."""
    repository.write("a", "a")
    first = repository.commit("one")
    repository.commit("two")
    blob = repository.path / ".git/objects" / first[:2] / first[2:]
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")

    with pytest.raises(CallerError, match="git log failed"):
        list(open_source("git", [repository.path]))


def test_an_import_that_is_given_up_leaves_no_process(repository: Repository) -> None:
    """Who stops reading after the first event leaves nothing running."""
    for n in range(3):
        repository.commit(str(n))
    items = open_source("git", [repository.path])

    next(items)

    items.close()  # type: ignore[attr-defined] # a generator
    with pytest.raises(StopIteration):
        next(items)


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ([b"nonsense"], "found 8 bytes of something else, expected a commit or a file"),
        ([b":100644 100644 a b M", b"path"], "expected a commit or a file"),
        ([b"a" * 40, b""], "ends in the middle of a commit"),
        ([b"a" * 40, *[b""] * 8, b":100644 100644 1 2 M"], "ends in the middle of a commit"),
        ([b"a" * 40, *[b""] * 8, b"1\t2\t", b"old"], "ends in the middle of a commit"),
    ],
)
def test_an_answer_of_git_that_is_not_known_is_refused(tokens: list[bytes], error: str) -> None:
    """Where git says something else than expected, nothing is guessed."""
    with pytest.raises(CallerError, match=error):
        list(parse_log(tokens))
