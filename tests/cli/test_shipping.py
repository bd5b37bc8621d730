from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

import indelible
from tests.collector.server import free_port
from tests.sinks.collecting import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Answer, Shell


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector that answers over TLS."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("collector")
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        collector = Collector(path)
    with collector.server:
        yield collector


@pytest.fixture
def shop(shell: Shell, tmp_path: Path, collector: Collector) -> Path:
    """A trail that the collector takes in, in which an invoice was approved."""
    path = tmp_path / "audit"
    assert 0 == shell("init", path, "--origin", f"audit.example.com/{tmp_path.name}").code
    approve(shell, path)
    with indelible.open(path, mode="r") as trail:
        collector.enrol(trail)
    return path


@pytest.fixture
def to(collector: Collector, tmp_path: Path) -> list[str]:
    """What names the collector in a command."""
    token = tmp_path / "token"
    token.write_text(f"{collector.recorder}\n")
    return [
        *("--to", collector.server.url, "--ca", str(collector.authority.file)),
        *("--token-file", str(token)),
    ]


def approve(shell: Shell, path: Path) -> None:
    """Record that alice approved an invoice."""
    answer = shell(
        *("record", path, "--action", "invoice.approve", "--actor", "user:alice"),
        *("--resource", "invoice:INV-7", "--change", "status", "draft", "paid"),
    )
    assert 0 == answer.code


def arrived(collector: Collector, path: Path, log: str = "user") -> bool:
    """Tell whether the collector has exactly what the log holds."""
    with indelible.open(path, mode="r") as trail:
        return collector.holds(trail, log)


def error_of(answer: Answer) -> str:
    """Return the kind of the last error that a command has reported as JSON."""
    kind: str = msgspec.json.decode(answer.stderr.splitlines()[-1])["error"]["type"]
    return kind


def test_all_that_is_there_is_shipped(
    shell: Shell, shop: Path, collector: Collector, to: list[str]
) -> None:
    """The command says what was taken, ends when the collector has it all, and repeats nothing."""
    first = shell("ship", shop, *to, "--drain", "--stream", "user", "--json")
    again = shell("ship", shop, *to, "--drain", "--stream", "user")
    approve(shell, shop)
    more = shell("ship", shop, *to, "--drain", "--stream", "user")

    assert [{"log": "user", "entries": 1, "size": 1, "behind": 0}] == first.json_lines
    assert [] == again.rows
    assert [["log user", "entries 1", "size 2", "behind 0"]] == more.rows
    assert (0, 0, 0) == (first.code, again.code, more.code)
    assert arrived(collector, shop)


def test_the_statistics_say_how_far_a_collector_is_behind(
    shell: Shell, shop: Path, collector: Collector, to: list[str]
) -> None:
    """Whoever looks at the trail sees what is elsewhere, too."""
    shell("ship", shop, *to, "--drain")
    approve(shell, shop)

    said = shell("stats", shop, "--json").json["logs"]["user"]["collected"]

    assert (collector.server.url, 1, 1) == (said["by"], said["entries"], said["behind"])


def test_the_token_may_come_from_the_environment(
    shell: Shell, shop: Path, collector: Collector, to: list[str]
) -> None:
    """A token need not lie in a file, and never stands on a command line."""
    answer = shell("ship", shop, *to[:-2], "--drain", INDELIBLE_TOKEN=collector.recorder)

    assert 0 == answer.code
    assert arrived(collector, shop)


def test_it_ships_what_comes_until_it_is_stopped(
    shell: Shell, shop: Path, collector: Collector, to: list[str]
) -> None:
    """What is recorded while it runs goes, and SIGTERM ends it without an error."""
    running = subprocess.Popen(
        [sys.executable, "-m", "indelible", "ship", str(shop), *to, "--stream", "user", "--json"],
        env=shell.variables(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stdout is not None
        first = msgspec.json.decode(running.stdout.readline())
        approve(shell, shop)
        second = msgspec.json.decode(running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        code = running.wait(30)

    assert (1, 2, 0) == (first["size"], second["size"], code)
    assert arrived(collector, shop)


def test_a_collector_that_is_away_is_a_finding(
    shell: Shell, shop: Path, collector: Collector, to: list[str]
) -> None:
    """With a limit of time, the command says what has not arrived, and why."""
    to[1] = f"https://127.0.0.1:{free_port()}"

    answer = shell("ship", shop, *to, "--drain", "--timeout", "0")

    assert 1 == answer.code
    assert "has not all of " in answer.stderr
    assert "ConnectError" in answer.stderr
    assert not arrived(collector, shop)


def test_a_collector_that_refuses_is_no_success(
    shell: Shell, shop: Path, to: list[str], tmp_path: Path
) -> None:
    """What needs a person ends the command, and shows no token."""
    secret = f"indelible_{'0' * 16}_{'A' * 43}"
    (tmp_path / "token").write_text(secret)

    answer = shell("ship", shop, *to, "--drain", "--json")

    assert (2, "Forbidden") == (answer.code, error_of(answer))
    assert secret not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--timeout", "1"], "--timeout: found no --drain"),
        (["--drain", "--to", "http://127.0.0.1"], "found 'http', expected 'https'"),
        (["--drain", "--stream", "payments"], "stream: found 'payments'"),
        (["--drain", "--token-file", "missing"], "token in missing: No such file"),
    ],
)
def test_what_cannot_be_shipped_is_said_before_it_is_tried(
    shell: Shell, shop: Path, to: list[str], args: list[str], message: str
) -> None:
    """A call that cannot succeed ends with its reason and the exit code for that."""
    answer = shell("ship", shop, *to, *args)

    assert 2 == answer.code
    assert message in answer.stderr


def test_without_a_token_nothing_is_shipped(shell: Shell, shop: Path, to: list[str]) -> None:
    """The message says where one may stand."""
    answer = shell("ship", shop, *to[:-2], "--drain")

    assert 2 == answer.code
    assert "INDELIBLE_TOKEN holds none" in answer.stderr
