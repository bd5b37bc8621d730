"""A collector that is verified whole, by who has nothing of it but the keys."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from indelible.client.mirror import verify
from indelible.errors import CallerError, Forbidden, InvalidSignature
from indelible.trail import Trail
from indelible.verdict import Level
from tests.client.running import COUNT
from tests.collector.conftest import issued

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.client.connection import Connection
    from indelible.client.exchange import Answer
    from indelible.client.session import Session
    from indelible.verdict import Verdict
    from tests.client.conftest import Between


def verdict_on(session: Session, between: Between, *checkpoints: bytes) -> Verdict:
    """Return what a reader finds who fetches everything."""
    connection = cast("Connection", between)
    return verify(session, connection, checkpoints=checkpoints, progress=None)


def without(log: str, answer: dict[str, Any]) -> None:
    """Leave a log out of the list."""
    answer["logs"] = [each for each in answer["logs"] if each["log"] != log]


def with_note(log: str, note: str, answer: dict[str, Any]) -> None:
    """Give another checkpoint for a log."""
    for each in answer["logs"]:
        if each["log"] == log:
            each["checkpoint"] = note


def test_an_honest_collector_passes(session: Session, honest: Between) -> None:
    """All logs whose keys are trusted are fetched, hashed and held against what was signed."""
    found = verdict_on(session, honest, honest.trail.checkpoint("user"))

    assert found.passed, found.findings
    assert Level.SIGNED is found.level
    assert {"admin", "custody", "user"} == {log.log.rpartition("/")[2] for log in found.logs}
    assert found.entries >= COUNT


CHANGED = {
    "a missing bundle": ("/log/user/tile/entries/000", lambda a: replace(a, status=404)),
    "a missing tile": ("/log/user/tile/0/000", lambda a: replace(a, status=404)),
    "a changed entry": (
        "/log/user/tile/entries/000",
        lambda a: replace(a, body=a.body.replace(b"INV-7", b"INV-8")),
    ),
    "a shorter bundle": ("/log/user/tile/entries/000", lambda a: replace(a, body=a.body[:-1])),
    "a changed hash": ("/log/user/tile/0/000", lambda a: replace(a, body=a.body[::-1])),
    "a changed hash above": ("/log/user/tile/1/", lambda a: replace(a, body=bytes(32))),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_missing_or_was_changed_is_named(
    session: Session, honest: Between, what: str
) -> None:
    """One byte that is not the one that was recorded, and the verdict says in which log."""
    path, change = CHANGED[what]
    honest.lie(path, change)

    found = verdict_on(session, honest)

    assert not found.passed
    assert Level.TAMPERED is found.level
    assert {"audit.example.com/collector/user"} == {each.log for each in found.findings}


def test_a_log_that_is_not_there_any_more_is_named(session: Session, honest: Between) -> None:
    """A log that was seen once is missed."""
    honest.run(session.checkpoints())
    honest.lie_in_json("/v1/checkpoints", partial(without, "user"))

    (finding,) = verdict_on(session, honest).findings

    assert "entries were signed, but it is not here" in finding.what


def test_an_older_state_is_named(session: Session, honest: Between) -> None:
    """A log that holds less than was seen has been set back."""
    note = honest.trail.checkpoint("user").decode()
    honest.trail.record("invoice.view", actor="service:mailer", resource="invoice:NEW")
    honest.run(session.checkpoints())
    honest.lie_in_json("/v1/checkpoints", partial(with_note, "user", note))

    found = verdict_on(session, honest)

    assert ["seen before"] == [finding.where for finding in found.findings]


def test_older_checkpoints_are_held_against_it(
    session: Session, honest: Between, tmp_path: Path
) -> None:
    """A checkpoint that was kept elsewhere must be one that the log still begins with."""
    with Trail.create(tmp_path / "a", origin="audit.example.com/collector") as same_name:
        same_name.record("x.y", actor="user:bob", resource="invoice:1")
        with pytest.raises(InvalidSignature):
            verdict_on(session, honest, same_name.checkpoint("user"))
    with Trail.create(tmp_path / "b", origin="audit.example.com/other") as other:
        other.record("x.y", actor="user:bob", resource="invoice:1")
        with pytest.raises(CallerError, match="checkpoint: is of audit"):
            verdict_on(session, honest, other.checkpoint("user"))


def test_who_may_not_have_the_entries_is_told(session: Session, honest: Between) -> None:
    """A token that is limited to a tenant verifies nothing whole."""
    honest.token = issued(honest.collector, "auditor", tenant="shop")

    with pytest.raises(Forbidden):
        verdict_on(session, honest)


def test_what_is_too_large_is_not_taken(session: Session, honest: Between) -> None:
    """An answer that no bundle can be is a finding, not a full disk."""

    def large(answer: Answer) -> Answer:
        return replace(answer, body=answer.body + bytes(32 * 1024 * 1024))

    honest.lie("/log/user/tile/entries/", large)

    assert any("bytes" in finding.what for finding in verdict_on(session, honest).findings)
