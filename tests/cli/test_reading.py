from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


def test_a_search_answers_the_exact_events(shell: Shell, trail: Path) -> None:
    """An item holds its place, its leaf hash and the event as it was recorded; newest first."""
    answer = shell("search", trail, "resource:invoice:INV-7", "--json")
    newest, oldest = answer.json["items"]

    assert (0, "") == (answer.code, answer.stderr)
    assert [
        "log",
        "stream",
        "index",
        "leaf_hash",
        "recorded_at",
        "event",
        "sealed",
        "values",
    ] == list(newest)
    assert [1, 0] == [newest["index"], oldest["index"]]
    assert {"status": {"old": "draft", "new": "paid"}} == oldest["event"]["changes"]
    assert answer.json["cursor"] is None
    assert 2 == answer.json["sizes"]["user"]


def test_rows_for_other_tools_have_tabs_and_are_never_wrapped(shell: Shell, trail: Path) -> None:
    """In a pipe each entry is one line, however narrow the terminal is."""
    answer = shell("search", trail, "--stream", "user", "--oldest-first", COLUMNS="20")

    assert [8, 8] == [len(row) for row in answer.rows]
    assert [
        ["user:alice", "invoice.approve", "invoice:INV-7", "success", "user#0", ""],
        ["user:bob", "invoice.approve", "invoice:INV-7", "success", "user#1", ""],
    ] == [row[1:7] for row in answer.rows]


@pytest.mark.parametrize(
    ("args", "places"),
    [
        (("actor:user:alice",), ["user#0"]),
        (("--actor", "user:alice"), ["user#0"]),
        (("--actor", "user:alice", "--actor", "user:bob"), ["user#1", "user#0"]),
        (("--action", "invoice.*", "--", "-actor:user:alice"), ["user#1"]),
        (("void", "--resource", "invoice:*", "--outcome", "success"), ["user#1"]),
        (("--stream", "user", "--until", "2020-01-01"), []),
        (("--stream", "user", "--since", "2020-01-01T00:00:00Z"), ["user#1", "user#0"]),
        (("--actor", "user:a b (c)"), []),
    ],
)
def test_options_and_query_say_the_same(
    shell: Shell, trail: Path, args: tuple[str, ...], places: list[str]
) -> None:
    """What the syntax of queries says can be said by options, and both together."""
    answer = shell("search", trail, *args)

    assert 0 == answer.code
    assert places == [row[5] for row in answer.rows]


def test_pages_follow_one_another(shell: Shell, trail: Path) -> None:
    """The cursor of a page leads to the next one, and --all to the end."""
    first = shell("search", trail, "--stream", "user", "--limit", "1", "--json")
    told = shell("search", trail, "--stream", "user", "--limit", "1")
    second = shell(
        *("search", trail, "--stream", "user", "--limit", "1", "--json"),
        *("--cursor", first.json["cursor"]),
    )
    everything = shell("search", trail, "--stream", "user", "--all", "--json")

    assert [1, 0] == [page.json["items"][0]["index"] for page in (first, second)]
    assert f"more: --cursor {first.json['cursor']}\n" == told.stderr
    assert first.json["items"] + second.json["items"] == everything.json_lines


def test_entries_come_with_proofs(shell: Shell, trail: Path, tmp_path: Path) -> None:
    """A proof in an answer is the one that stands alone."""
    item = shell("search", trail, "actor:user:bob", "--proofs", "--json").json["items"][0]
    shell("prove", trail, "user#1", "--out", tmp_path / "e")

    assert (tmp_path / "e.tlog-proof").read_text() == item["proof"]
    assert 2 == shell("search", trail, "--proofs").code


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("actor:(user:alice",), "q: found"),
        (("who:alice",), "q: found key 'who'"),
        (("--actor", "alice"), "actor: found 'alice'"),
        (("--since", "yesterday"), "since: found 'yesterday'"),
        (("--stream", "nope"), "stream: found 'nope'"),
        (("--limit", "0"), "limit: found 0"),
        (("--limit", "many"), "--limit"),
        (("--cursor", "nonsense"), "cursor: found"),
    ],
)
def test_a_query_that_means_nothing_is_refused(
    shell: Shell, trail: Path, args: tuple[str, ...], message: str
) -> None:
    """A question that was not understood is never answered with nothing found."""
    answer = shell("search", trail, *args)

    assert (2, "") == (answer.code, answer.stdout)
    assert message in answer.stderr
    assert 1 == answer.stderr.count("\n")


def test_an_entry_is_found_by_its_id_and_by_its_place(shell: Shell, trail: Path) -> None:
    """What a list shows of an entry is enough to show all of it."""
    by_place = shell("show", trail, "user#0", "--json")
    by_id = shell("show", trail, by_place.json["event"]["id"], "--json")
    told = shell("show", trail, "user#0")

    assert by_place == by_id
    assert ["changes.status.new", "paid"] in told.rows
    assert ["leaf_hash", by_id.json["leaf_hash"]] in told.rows


@pytest.mark.parametrize("wanted", ["user#9", "nope#0", "user#x", "user#-1", "x", "019ab437"])
def test_an_entry_that_is_not_there_is_the_callers_error(
    shell: Shell, trail: Path, wanted: str
) -> None:
    """A wrong id is a usage error, so that nothing empty is taken for an entry."""
    answer = shell("show", trail, wanted, "--json")

    assert (2, "") == (answer.code, answer.stdout)
    assert {"type", "message"} == msgspec.json.decode(answer.stderr)["error"].keys()


def test_an_unknown_id_is_not_found(shell: Shell, trail: Path) -> None:
    """An id that no entry has is named."""
    answer = shell("show", trail, "019ab437-5fd7-7123-8abc-0123456789ab", "--json")

    assert 2 == answer.code
    assert "NotFound" == msgspec.json.decode(answer.stderr)["error"]["type"]


def test_the_history_of_a_resource_is_told_from_its_beginning(shell: Shell, trail: Path) -> None:
    """All entries about a resource come in the order of the log."""
    told = shell("history", trail, "invoice:INV-7")
    lines = shell("history", trail, "invoice:INV-7", "--json").json_lines

    assert ["user#0", "user#1"] == [row[5] for row in told.rows]
    assert ["user:alice", "user:bob"] == [f"user:{each['event']['actor']['id']}" for each in lines]


def test_a_state_names_the_entry_that_set_each_field(shell: Shell, trail: Path) -> None:
    """At a time, each field has the value that was set last, and whoever set it."""
    recorded = shell("show", trail, "user#0", "--json").json["recorded_at"]
    then = shell("history", trail, "invoice:INV-7", "--at", recorded, "--json").json
    now = shell("history", trail, "invoice:INV-7", "--at", "2100-01-01T00:00:00Z")

    assert "paid" == then["values"]["status"]["value"]
    assert 0 == then["values"]["status"]["since"]["index"]
    assert [] == then["unexplained"]
    assert ["status", "void", "user:bob", "user#1"] == [now.rows[0][n] for n in (0, 1, 3, 5)]


def test_a_gap_between_changes_is_named(shell: Shell, trail: Path) -> None:
    """A change that found another value than was left shows that something is missing."""
    shell(
        *("record", trail, "--action", "invoice.pay", "--actor", "user:eve"),
        *("--resource", "invoice:INV-7", "--change", "status", "draft", "paid"),
    )
    at = ("--at", "2100-01-01T00:00:00Z")

    told = shell("history", trail, "invoice:INV-7", *at)
    (gap,) = shell("history", trail, "invoice:INV-7", *at, "--json").json["unexplained"]

    assert "unexplained: status was void after user#1, and draft before user#2\n" == told.stderr
    assert ("status", "void", "draft") == (gap["field"], gap["expected"], gap["found"])


@pytest.mark.parametrize(
    "args", [("INV-7",), ("invoice:*",), ("invoice:INV-7", "--at", "2026-01-31"), ()]
)
def test_a_history_of_nothing_in_particular_is_refused(
    shell: Shell, trail: Path, args: tuple[str, ...]
) -> None:
    """A history is of one resource, at one moment with its time zone."""
    assert 2 == shell("history", trail, *args).code


def test_facets_count_what_matches(shell: Shell, trail: Path) -> None:
    """The values of each field come with how often they occur."""
    told = shell("facets", trail, "resource:invoice:INV-7", "--field", "actor", "--field", "action")
    counted = shell("facets", trail, "resource:invoice:INV-7", "--top", "1", "--json").json

    assert [
        ["actor", "user:alice", "1"],
        ["actor", "user:bob", "1"],
        ["action", "invoice.approve", "2"],
    ] == told.rows
    assert {
        "counts": [{"value": "success", "count": 2}],
        "distinct": 1,
        "total": 2,
        "withheld": 0,
    } == counted["outcome"]
    assert 2 == counted["actor"]["distinct"]
    assert 2 == shell("facets", trail, "--field", "colour").code


def test_stats_say_what_there_is(shell: Shell, trail: Path) -> None:
    """The size of each log can be read by people and programs."""
    counted = shell("stats", trail, "--json").json
    told = shell("stats", trail)

    assert 2 == counted["logs"]["user"]["entries"]
    assert ["origin", "audit.example.com/shop"] in told.rows
    assert "never" == next(row[3] for row in told.rows if row[0] == "admin")


def test_a_tail_follows_until_it_is_interrupted(shell: Shell, trail: Path) -> None:
    """Entries appear as they are recorded, each a line of JSON, and Ctrl-C is a success."""
    tail = subprocess.Popen(
        [sys.executable, "-m", "indelible", "tail", trail, "--stream", "user", "--json"],
        env=shell.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background may have it ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    with ExitStack() as stack:
        stack.callback(tail.wait)
        stack.callback(tail.kill)
        assert tail.stdout is not None
        assert tail.stderr is not None
        # What is recorded before it looks is not its business: record until it answers.
        record = ("record", trail, "--action", "a.b", "--actor", "system", "--resource", "a:1")
        first = b""
        while not first:
            shell(*record)
            first = _line_within(tail, seconds=1)
        tail.send_signal(signal.SIGINT)
        code, errors = tail.wait(timeout=30), tail.stderr.read()
        tail.stdout.close()
        tail.stderr.close()

    assert ("user", "a.b") == (
        msgspec.json.decode(first)["log"],
        msgspec.json.decode(first)["event"]["action"],
    )
    assert (0, b"") == (code, errors)


def _line_within(process: subprocess.Popen[bytes], *, seconds: float) -> bytes:
    import select  # noqa: PLC0415

    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else b""


def test_a_tail_of_an_unknown_stream_is_refused(shell: Shell, trail: Path) -> None:
    """Waiting for what cannot come is the caller's error."""
    assert 2 == shell("tail", trail, "--stream", "nope").code


def test_a_reader_that_has_read_enough_is_no_error(shell: Shell, trail: Path) -> None:
    """Where a pipe is closed early, nothing is complained about."""
    search = subprocess.Popen(
        [sys.executable, "-m", "indelible", "search", trail, "--all"],
        env=shell.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with search:
        assert search.stdout is not None
        assert search.stderr is not None
        search.stdout.close()
        search.wait(timeout=30)
        errors = search.stderr.read()

    assert b"" == errors
