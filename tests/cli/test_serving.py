"""The commands that run a collector and enrol producers: serve, producer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from indelible.producer import HELD_KIND, Held, key_of
from indelible.trail import Trail

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "192.0.2.1"], "expected one to listen on 192.0.2.1"),
        (["--tls-cert", "cert.pem"], "found one without the other"),
        (["--client-ca", "ca.pem"], "without which there is no TLS"),
        (["--store", "mysql://x"], "expected sqlite:///DIR or postgresql://"),
        (["--store", "sqlite:///elsewhere"], "expected DIR itself"),
        (["--port", "0"], "--port"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    shell: Shell, tmp_path: Path, options: list[str], said: str
) -> None:
    """A call that makes no sense ends with exit code 2 and no traceback, and makes nothing."""
    ended = shell("serve", tmp_path / "trail", *options)

    assert 2 == ended.code
    assert said in " ".join(ended.stderr.split())
    assert not (tmp_path / "trail").exists()


@pytest.fixture
def collector(shell: Shell, tmp_path: Path) -> Path:
    """Make the trail of a collector."""
    shell("init", tmp_path / "collector", "--origin", "audit.example.com/all")
    return tmp_path / "collector"


@pytest.fixture
def producer(shell: Shell, tmp_path: Path) -> Path:
    """Make the trail of a producer."""
    shell("init", tmp_path / "shop", "--origin", "shop.example.com/web-1")
    return tmp_path / "shop"


def test_a_log_is_enrolled_by_its_key(shell: Shell, collector: Path, producer: Path) -> None:
    """What `key` prints of a producer's log is all that a collector needs to take it in."""
    key = shell("key", producer, "--stream", "user").stdout.strip()

    enrolled = shell("producer", "enroll", collector, "--key", key, "--json")
    listed = shell("producer", "list", collector, "--json")

    assert "shop.example.com/web-1/user" == enrolled.json["origin"]
    assert [enrolled.json] == listed.json_lines
    assert ("user", 0) == (enrolled.json["stream"], enrolled.json["size"])


def test_what_cannot_be_enrolled_is_refused(shell: Shell, collector: Path, producer: Path) -> None:
    """A key that is none, or a log that has no stream here, is refused by name."""
    nothing = shell("producer", "enroll", collector)
    garbled = shell("producer", "enroll", collector, "--key", "nonsense")
    all_logs = shell("producer", "enroll", collector, "--from", producer)

    assert (2, 1, 2) == (nothing.code, garbled.code, all_logs.code)
    assert "producers" in all_logs.stderr
    assert "" == shell("producer", "list", collector, "--json").stdout


def test_a_producer_is_revoked_at_what_it_has_come_to(
    shell: Shell, collector: Path, producer: Path
) -> None:
    """After a revocation nothing more is taken; which size that is at is kept and shown."""
    key = shell("key", producer, "--stream", "user").stdout.strip()
    origin = shell("producer", "enroll", collector, "--key", key, "--json").json["origin"]
    with Trail(collector) as trail, trail.store.write() as transaction:
        transaction.put(HELD_KIND, key_of(origin), Held(seen_at=1).to_bytes())

    revoked = shell("producer", "revoke", collector, origin, "--json")
    unknown = shell("producer", "revoke", collector, "nobody.example.com/x", "--json")

    assert 0 == revoked.json["revoked_at"]
    assert "revoked" in shell("producer", "list", collector).stdout
    assert 2 == unknown.code
