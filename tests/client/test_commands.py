"""The command line with the URL of a collector where else a directory stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Answer, Shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.running import Collector


class Reader:
    """Somebody with a shell, an access token and the keys, on a machine without the trail."""

    def __init__(self, home: Path, collector: Collector) -> None:
        self._shell = Shell(home)
        self._shell.environment["INDELIBLE_TOKEN"] = collector.reads
        self._collector = collector
        self.keys = home / "keys.txt"
        home.mkdir()
        trail = collector.trail
        self.keys.write_text(
            "".join(f"{trail.verifier_key(name).to_text()}\n" for name in ("user", "admin"))
        )

    def __call__(self, command: str, *args: str | Path, **environment: str) -> Answer:
        """Run a command on the collector's URL."""
        return self._shell(
            *(command, self._collector.server.url, *args),
            *("--ca", self._collector.server.authority.file, "--trust", self.keys),
            **environment,
        )

    def bare(self, *args: str | Path, **environment: str) -> Answer:
        """Run a command as it is given."""
        return self._shell(*args, **environment)


@pytest.fixture
def reader(tmp_path: Path, collector: Collector) -> Reader:
    """Be that somebody."""
    return Reader(tmp_path / "home", collector)


def test_a_search_from_afar_prints_what_one_at_home_prints(
    reader: Reader, collector: Collector
) -> None:
    """Whoever knows a command knows it for a collector."""
    afar = reader("search", "action:invoice.approve", "--json", "--proofs")
    home = reader.bare(
        *("search", collector.path / "trail", "action:invoice.approve", "--as", "auditor"),
        *("--json", "--proofs"),
    )

    assert (0, "") == (afar.code, afar.stderr)
    for there, here in zip(home.json["items"], afar.json["items"], strict=True):
        here.pop("unproven", None)
        assert there == here


def test_every_page_is_fetched_with_all(reader: Reader, collector: Collector) -> None:
    """--all goes on to the end."""
    afar = reader("search", "stream:user action:invoice.view", "--all", "--oldest-first")

    assert len(collector.trail.search("action:invoice.view", limit=1_000).items) == len(afar.rows)


def test_an_entry_its_history_and_its_state_are_shown(reader: Reader) -> None:
    """One entry, all about a resource, and what it was like."""
    shown = reader("show", "user#0")
    history = reader("history", "invoice:INV-7")
    state = reader("history", "invoice:INV-7", "--at", "2100-01-01T00:00:00Z", "--json")

    assert 0 == shown.code, shown.stderr
    assert ["action", "invoice.approve"] in shown.rows
    assert ["user#0", "user#1"] == [row[5] for row in history.rows]
    assert {"resource", "at", "values", "unexplained"} == set(state.json)


def test_values_are_counted(reader: Reader) -> None:
    """Facets have the same form."""
    counted = reader("facets", "stream:admin", "--field", "action", "--json")

    assert [{"value": "role.grant", "count": 1}] == counted.json["action"]["counts"]


def test_evidence_from_afar_needs_nobody(reader: Reader, tmp_path: Path) -> None:
    """What prove writes, verify-proof reads with the key alone."""
    written = reader("prove", "user#1", "--out", tmp_path / "evidence", "--json")
    verified = reader.bare(
        *("verify-proof", "--entry", tmp_path / "evidence.entry"),
        *("--proof", tmp_path / "evidence.tlog-proof", "--key", written.json["key"]),
    )

    assert (0, 0) == (written.code, verified.code), written.stderr + verified.stderr


def test_a_collector_is_verified_whole(reader: Reader, tmp_path: Path) -> None:
    """Verify fetches what there is, and its verdict says what it does not show."""
    note = reader("checkpoint")
    (tmp_path / "older").write_text(note.stdout)
    verified = reader("verify", "--checkpoint", tmp_path / "older", "--json")

    assert 0 == verified.code, verified.stdout
    assert ["signed", True] == [verified.json["level"], verified.json["passed"]]
    assert any("custody stream says" in text for text in verified.json["does_not_show"])


def test_the_key_that_signs_is_the_trusted_one(reader: Reader, collector: Collector) -> None:
    """Key prints what the trusted key vouches for, and nothing that only an answer says."""
    assert f"{collector.trail.verifier_key('user').to_text()}\n" == reader("key").stdout
    assert 2 == reader("key", "--stream", "custody").code


def test_keys_and_the_place_are_needed_once(reader: Reader, collector: Collector) -> None:
    """After the first time a command needs no more than at home."""
    url, ca = collector.server.url, collector.server.authority.file
    untold = reader.bare("search", url, "--ca", ca)
    told = reader("search")
    again = reader.bare("search", "action:invoice.approve", "--ca", ca, INDELIBLE_TRAIL=url)

    assert (2, 0, 0) == (untold.code, told.code, again.code)
    assert "no key of its logs is trusted yet" in untold.stderr
    assert 2 == len(again.rows)


def test_a_token_comes_from_a_file_or_the_environment(
    reader: Reader, collector: Collector, tmp_path: Path
) -> None:
    """No list of processes shows a token, and one that is missing is named."""
    file = tmp_path / "token"
    file.write_text(f"{collector.reads}\n")

    assert 0 == reader("search", "--token-file", file, INDELIBLE_TOKEN="").code
    missing = reader("search", INDELIBLE_TOKEN="")
    assert (2, "error: token: found none, and INDELIBLE_TOKEN holds none\n") == (
        missing.code,
        missing.stderr,
    )
    assert 2 == reader("search", "--token-file", tmp_path / "none").code


@pytest.mark.parametrize(
    "command",
    [
        ("stats",),
        ("accounting",),
        ("export", "--tiles", "out"),
        ("backup", "out"),
        ("prove", "user#0", "--out", "out", "--disclose", "all"),
        ("subject", "user:alice"),
        ("rotate-key", "--stream", "user"),
    ],
)
def test_what_needs_the_directory_says_so(
    reader: Reader, collector: Collector, command: tuple[str, ...]
) -> None:
    """What cannot be done from afar is refused before anything is asked."""
    name, *rest = command

    answer = reader.bare(name, collector.server.url, *rest)

    assert 2 == answer.code
    assert "found the URL of a collector, expected a directory" in answer.stderr


def test_options_of_one_place_are_refused_at_the_other(
    reader: Reader, collector: Collector
) -> None:
    """A token has its role, and a directory takes none."""
    role = reader("search", "--as", "reader")
    directory = reader.bare("search", collector.path / "trail", "--ca", "file")
    verify = reader.bare("verify", collector.path / "trail", "--trust", "file")
    deep = reader("verify", "--deep")

    assert [2, 2, 2, 2] == [role.code, directory.code, verify.code, deep.code]
    assert "a collector's token has its role" in role.stderr
    assert "--ca: is for the URL of a collector" in directory.stderr
    assert "--trust: is for the URL of a collector" in verify.stderr
