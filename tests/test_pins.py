"""Pins: the keys and trees that this user has seen of a trail, kept outside of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from hashlib import sha256
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible.errors import Malformed
from indelible.keys import SigningKey
from indelible.mark import Known
from indelible.merkle import Edge
from indelible.pins import Pin, Pins, default_directory
from indelible.store import Head

if TYPE_CHECKING:
    from pathlib import Path

USER = SigningKey.from_seed("x.example/user", b"\1" * 32).verifier
ADMIN = SigningKey.from_seed("x.example/admin", b"\2" * 32).verifier
OTHER = SigningKey.from_seed("x.example/user", b"\3" * 32).verifier


def head(log: str, size: int) -> Head:
    """Return the head of a log with that many entries."""
    edge, _ = Edge().extend([sha256(b"%d" % number).digest() for number in range(size)])
    return Head(log=log, origin=f"x.example/{log}", edge=edge)


def known(size: int) -> Known:
    """Return the tree of a log with that many entries."""
    return Known(size, head("", size).edge.root)


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    """Return the pins of a trail, none yet."""
    return Pins("T", tmp_path / "deep" / "pins")


def test_pins_are_read_as_they_were_written(pins: Pins) -> None:
    """Keys and trees that were seen are known to the next process."""
    assert {} == pins.read()

    pins.pin({"user": USER, "admin": ADMIN})
    pins.remember({"user": head("user", 3)})

    assert {"user": Pin(USER, known(3)), "admin": Pin(ADMIN)} == pins.read()
    assert 0o600 == pins.path.stat().st_mode & 0o777
    assert 0o700 == pins.path.parent.stat().st_mode & 0o777


def test_a_key_that_is_pinned_stays(pins: Pins) -> None:
    """Nobody can replace a pinned key by making the trail again around another."""
    pins.pin({"user": USER})
    pins.pin({"user": OTHER, "admin": ADMIN})

    assert {"user": Pin(USER), "admin": Pin(ADMIN)} == pins.read()


def test_what_was_seen_only_moves_forward(pins: Pins) -> None:
    """A trail that shrinks does not make its user forget how large it was."""
    pins.pin({"user": USER})
    pins.remember({"user": head("user", 5)})

    pins.remember({"user": head("user", 4), "admin": head("admin", 1)})
    pins.remember({})

    assert {"user": Pin(USER, known(5))} == pins.read()
    pins.remember({"user": head("user", 6)})
    assert {"user": Pin(USER, known(6))} == pins.read()


def test_a_restored_trail_is_seen_anew(pins: Pins) -> None:
    """Only restoring, which names what is lost, takes smaller trees for the ones to expect."""
    pins.pin({"user": USER, "admin": ADMIN})
    pins.remember({"user": head("user", 5)})

    pins.settle({"user": head("user", 2)})

    assert {"user": Pin(USER, known(2))} == pins.read()


def test_nothing_is_remembered_where_nothing_was_pinned(pins: Pins) -> None:
    """Looking at somebody else's trail leaves no file behind."""
    pins.remember({"user": head("user", 5)})
    pins.settle({"user": head("user", 5)})

    assert not pins.path.parent.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"logs":{}}',
        b'{"trail":"another","logs":{}}',
        b'{"trail":"T","logs":{"user":{"key":"none"}}}',
        b'{"trail":"T","logs":{"user":{"key":"%b","size":1,"root":"?"}}}' % USER.to_text().encode(),
        b'{"trail":"T","logs":{},"more":1}',
    ],
)
def test_a_file_that_was_not_written_here_is_refused(pins: Pins, data: bytes) -> None:
    """Damaged pins are an error, and never read as none; no writer loses what they were."""
    pins.pin({"user": USER})
    pins.path.write_bytes(data)

    with pytest.raises(Malformed):
        pins.read()
    with pytest.raises(Malformed):
        pins.pin({"user": OTHER})
    with pytest.raises(Malformed):
        pins.remember({"user": head("user", 5)})
    assert data == pins.path.read_bytes()


def test_the_name_of_a_trail_cannot_lead_elsewhere(tmp_path: Path) -> None:
    """Whatever a trail calls itself, its pins are one file in their directory."""
    pins = Pins("../../x/\n", tmp_path / "pins")
    pins.pin({"user": USER})

    assert tmp_path / "pins" == pins.path.parent
    assert {"user": Pin(USER)} == pins.read()
    assert ["pins"] == [each.name for each in tmp_path.iterdir()]


def test_several_who_pin_at_once_lose_nothing(pins: Pins) -> None:
    """Processes that make logs at the same time keep each other's pins."""

    def work(number: int) -> None:
        pins.pin({f"user~{number}": USER})
        pins.remember({f"user~{number}": head("user", number)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {f"user~{number}": Pin(USER, known(number)) for number in range(1, 13)} == pins.read()


def test_pins_are_kept_in_the_user_s_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``XDG_CONFIG_HOME`` says where, else it is ``~/.config``."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    assert tmp_path / "configuration/indelible/pins" == default_directory()

    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert tmp_path / "me/.config/indelible/pins" == default_directory()


def test_pins_that_cannot_be_written_stop_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration to write to there is an audit trail, whose key nobody vouches for."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))

    with indelible.open(tmp_path / "audit") as audit:
        audit.record("a.b", resource="c:d")
        verdict = audit.verify()

        assert {} == audit.pins().read()
        assert indelible.Level.UNAUTHENTICATED == verdict.level
        assert not verdict.passed
        assert () == verdict.findings


HOMELESS = """
import json, os, sys
import indelible, indelible.stores.sqlite, indelible.stores.sqlite_check
import indelible.document, indelible.stores.sqlite_keyring, tomllib
from indelible.pins import Pins

os.setgroups([])
os.setuid(54_321)  # afterwards this process may not even read where Python is installed
answer = {"pins": Pins("T").read()}
try:
    Pins("T").pin({})
except OSError as error:
    answer["pin"] = str(error)
with indelible.open(sys.argv[1]) as audit:
    answer["index"] = audit.record("a.b", actor="user:alice", resource="c:d").index
    answer["key"] = audit.verifier_key().name
    answer["of trail"] = audit.pins().read()
    answer["level"] = audit.verify().level
print(json.dumps(answer))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an account")
def test_somebody_without_a_home_directory_has_an_audit_trail() -> None:
    """A nameless user has no pins, can make none, and records all the same."""
    homes = {"HOME", "XDG_CONFIG_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in homes}

    with TemporaryDirectory() as directory:
        os.chown(directory, 54_321, -1)
        done = subprocess.run(
            [sys.executable, "-c", HOMELESS, f"{directory}/audit"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "" == done.stderr
    answer = json.loads(done.stdout)
    assert answer["key"].endswith("/user")
    assert {
        "pins": {},
        "pin": "pins: Could not determine home directory.",
        "index": 0,
        "key": answer["key"],
        "of trail": {},
        "level": "unauthenticated",
    } == answer
