"""An event of structlog that says so is an entry, and its log line leads to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import LogCapture

import indelible
from indelible import context
from indelible.errors import InvalidEvent, TrailClosed
from indelible.event import Actor, Outcome
from indelible.frameworks.structlog import AuditProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from indelible import Trail
    from indelible.query import Item

APPROVED = {"action": "invoice.approve", "resource": "invoice:7", "actor": "user:alice"}


@pytest.fixture
def lines() -> LogCapture:
    """What is logged in the end."""
    return LogCapture()


@pytest.fixture
def log(trail: Trail, lines: LogCapture) -> Any:
    """A logger whose events may be recorded."""
    return structlog.wrap_logger(
        structlog.PrintLogger(),
        processors=[structlog.contextvars.merge_contextvars, AuditProcessor(trail), lines],
    )


def entries(trail: Trail) -> list[Item]:
    """Return what was recorded, the oldest first."""
    return list(trail.search(newest_first=False).items)


def test_an_event_that_says_so_is_an_entry(trail: Trail, log: Any, lines: LogCapture) -> None:
    """Its line says where the entry is, and holds the rest as it was."""
    log.info("approved", audit=APPROVED, batch=12)

    (item,) = entries(trail)
    (line,) = lines.entries
    assert ("invoice.approve", Actor.parse("user:alice")) == (item.event.action, item.event.actor)
    assert {"event": "approved", "audit": "user#0", "batch": 12, "log_level": "info"} == line
    assert item == trail.at(*_place(line["audit"]))


def _place(text: str) -> tuple[str, int]:
    log, _, index = text.partition("#")
    return log, int(index)


def test_other_events_are_left_alone(trail: Trail, log: Any, lines: LogCapture) -> None:
    """What is logged for operators passes, and does not get into the trail."""
    log.info("the disk is slow", disk="sda")

    assert [] == entries(trail)
    assert [{"event": "the disk is slow", "disk": "sda", "log_level": "info"}] == lines.entries


def test_the_fields_that_were_given_are_not_changed(log: Any) -> None:
    """A dictionary that an application uses again means the same again."""
    said = dict(APPROVED)

    log.info("approved", audit=said)
    log.info("approved", audit=said)

    assert APPROVED == said


def test_the_context_names_who_acts(trail: Trail, log: Any) -> None:
    """What is common to a request is said once, as for every other event."""
    with context(actor="user:bob"):
        log.info("viewed", audit={"action": "page.view", "resource": "page:home"})

    assert [Actor.parse("user:bob")] == [item.event.actor for item in entries(trail)]


def test_a_task_has_its_own_context(trail: Trail, lines: LogCapture) -> None:
    """Also where structlog hands the work to a thread, so that no event loop waits for the disk."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(),
        processors=[AuditProcessor(trail), lines],
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
    )

    async def view(user: str) -> None:
        with context(actor=user):
            said = {"action": "page.view", "resource": f"page:{user.partition(':')[2]}"}
            await log.info("viewed", audit=said)

    async def both() -> None:
        await asyncio.gather(view("user:alice"), view("user:bob"))

    asyncio.run(both())

    found = {item.event.actor.id: item.event.resource.id for item in entries(trail)}
    assert {"alice": "alice", "bob": "bob"} == found


@pytest.mark.parametrize("form", ["exception", "true", "tuple"])
def test_an_event_with_an_exception_has_failed(trail: Trail, log: Any, form: str) -> None:
    """How it ended is told by what was logged with it, and by its type alone."""
    try:
        raise PermissionError("card 4111")  # noqa: TRY301 - it is what is logged
    except PermissionError as error:
        forms: dict[str, Any] = {
            "exception": error,
            "true": True,
            "tuple": (type(error), error, error.__traceback__),
        }
        log.info("not approved", audit=APPROVED, exc_info=forms[form])

    (item,) = entries(trail)
    assert (Outcome.FAILURE, "PermissionError") == (item.event.outcome, item.event.reason)


def test_what_cannot_be_recorded_raises(trail: Trail, log: Any, lines: LogCapture) -> None:
    """An action that must not happen unrecorded does not go on, nor does its line say it did."""
    with pytest.raises(InvalidEvent, match=r"audit\.resource"):
        log.info("approved", audit={"action": "invoice.approve"})
    with pytest.raises(InvalidEvent, match="audit: found a text"):
        log.info("approved", audit="invoice.approve")
    trail.close()
    with pytest.raises(TrailClosed):
        log.info("approved", audit=APPROVED)

    assert [] == lines.entries


def test_what_the_policy_does_not_capture_has_no_place(tmp_path: Path, lines: LogCapture) -> None:
    """The line says that there is no entry to look for."""
    (tmp_path / "policy.toml").write_text(
        'policy = { id = "shop", version = 1 }\n[streams]\nuser = {}\n'
        '[[rule]]\naction = "page.*"\nlevel = "none"\nwhy = "w"\napproved_by = ["security"]\n'
        '[[rule]]\naction = "*"\n',
        "utf-8",
    )
    with indelible.open(tmp_path / "shop", policy=tmp_path / "policy.toml") as trail:
        log = structlog.wrap_logger(
            structlog.PrintLogger(), processors=[AuditProcessor(trail), lines]
        )
        log.info("viewed", audit={"action": "page.view", "resource": "page:home"})

    assert ["not_captured"] == [line["audit"] for line in lines.entries]
