"""Processes that fork: nobody waits for ever, nothing is lost, no place is given twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.segment import SEGMENT

if TYPE_CHECKING:
    from tests.crash.conftest import Books


def run(program: str, path: Path, tmp_path: Path, books: type[Books], since: int = 0) -> Books:
    """Run a program that forks; check all that its processes were told."""
    acks = tmp_path / "acks"
    script = Path(__file__).with_name("forking.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", script, program, path, acks],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ("", 0) == (done.stderr, done.returncode)
    said = [json.loads(line) for line in acks.read_bytes().splitlines()]
    with indelible.open(path) as trail:
        found = books(trail, {"user": since})
        found.hold(said)
        places = Counter((ack["log"], ack["index"]) for ack in said)
        assert {1} == set(places.values())
        trail.verify().require()
    return found


@pytest.mark.parametrize(
    ("program", "entries"),
    [
        ("preload", 3 + 4 * 20 + 20 + 3),
        ("prefork", 4 * 20 + 3),
        ("unused", 6),
        ("reading", 300 + 20 * 2),
        ("generations", 1 + 3 * 20),
        ("coroutines", 4 * 23),
        ("pool", 2 + 12 * 25),
        ("eight", 8 * 25),
    ],
)
def test_a_fork_neither_loses_nor_doubles_an_entry(
    program: str, entries: int, tmp_path: Path, books: type[Books]
) -> None:
    """Parent and children go on recording, with whatever was open when they parted."""
    found = run(program, tmp_path / "trail", tmp_path, books)

    assert entries == found.sizes["user"]
    assert 1 <= found.actions["custody"].count("trail.start")


def test_a_fork_while_others_write_blocks_nobody(tmp_path: Path, books: type[Books]) -> None:
    """A child that is born in the middle of a commit can record, and so can its parent."""
    found = run("writing", tmp_path / "trail", tmp_path, books)

    assert 81 <= found.sizes["user"]


def test_each_process_says_that_it_records(tmp_path: Path, books: type[Books]) -> None:
    """Custody names the start of every process, and the end of those that end in order."""
    found = run("preload", tmp_path / "trail", tmp_path, books)

    assert 5 == found.actions["custody"].count("trail.start")
    assert 3 == found.actions["custody"].count("trail.stop")


def test_processes_that_open_a_trail_at_once_make_one(tmp_path: Path, books: type[Books]) -> None:
    """Whoever is first makes the trail; all record into the same one."""
    found = run("making", tmp_path / "trail", tmp_path, books)

    assert 200 == found.sizes["user"]
    assert 1 == found.actions["custody"].count("trail.create")


def test_a_fork_while_a_segment_is_closed_does_not_keep_it_open(
    edge: Path, tmp_path: Path, books: type[Books]
) -> None:
    """A child shares no lock and no connection with the thread that was closing a segment."""
    found = run("closing", edge, tmp_path, books, since=65_500)

    assert 65_500 + 100 + 12 * 4 + 1 == found.sizes["user"]
    assert SEGMENT < found.sizes["user"]
    assert 1 == found.actions["custody"].count("segment.close")
