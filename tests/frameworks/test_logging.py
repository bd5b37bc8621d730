"""A log record that says so is an entry; no log record ever fails the application."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from indelible import context
from indelible.event import Actor, Outcome
from indelible.frameworks.logging import AuditHandler
from indelible.recorder import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible import Trail
    from indelible.query import Item
    from indelible.recorder import Receipt

APPROVED = {"audit": {"action": "invoice.approve", "resource": "invoice:7", "actor": "user:alice"}}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger without handlers."""
    found = logging.getLogger("tests.shop")
    found.setLevel(logging.INFO)
    found.propagate = False
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)
        handler.close()


def entries(trail: Trail) -> list[Item]:
    """Return what was recorded, the oldest first."""
    return list(trail.search(newest_first=False).items)


def test_a_record_that_says_so_is_an_entry(trail: Trail, logger: logging.Logger) -> None:
    """Its fields are those of the event, its time is when it was logged."""
    logger.addHandler(AuditHandler(trail))
    before = datetime.now(UTC)

    logger.info(
        "invoice %s approved",
        7,
        extra={
            "audit": {
                **APPROVED["audit"],
                "changes": {"status": ("draft", "paid")},
                "rationale": "PO-99",
            }
        },
    )

    (item,) = entries(trail)
    assert ("invoice.approve", "user:alice", "invoice:7", Outcome.SUCCESS) == (
        item.event.action,
        str(item.event.actor),
        str(item.event.resource),
        item.event.outcome,
    )
    assert item.event.rationale is not None
    assert "PO-99" == item.event.rationale.text
    assert (
        before.timestamp() - 0.001 <= item.event.occurred_at.timestamp() <= before.timestamp() + 60
    )


def test_other_records_are_left_alone(trail: Trail, logger: logging.Logger) -> None:
    """What is logged for operators is no audit event, and does not get into the trail."""
    logger.addHandler(AuditHandler(trail))

    logger.error("the disk is slow", extra={"disk": "sda"})

    assert [] == entries(trail)


def test_no_message_gets_into_the_trail(trail: Trail, logger: logging.Logger) -> None:
    """Nobody can tell what is in a message; an entry holds the fields that were named."""
    logger.addHandler(AuditHandler(trail))

    logger.info("password %s", "hunter2", extra=APPROVED)

    assert [] == list(trail.search("hunter2").items)
    assert 1 == len(entries(trail))


def test_the_context_names_who_acts(trail: Trail, logger: logging.Logger) -> None:
    """What is common to a request is said once, as for every other event."""
    logger.addHandler(AuditHandler(trail))

    with context(actor="user:bob", request="r-1"):
        logger.info("viewed", extra={"audit": {"action": "page.view", "resource": "page:home"}})

    (item,) = entries(trail)
    assert (Actor.parse("user:bob"), "r-1") == (item.event.actor, item.event.request)


def test_a_record_with_an_exception_has_failed(trail: Trail, logger: logging.Logger) -> None:
    """How it ended is told by what was logged with it, and by its type alone."""
    logger.addHandler(AuditHandler(trail))

    try:
        raise PermissionError("card 4111")  # noqa: TRY301 - it is what is logged
    except PermissionError:
        logger.exception("not approved", extra=APPROVED)
        logger.exception("denied", extra={"audit": {**APPROVED["audit"], "outcome": "denied"}})

    failed, denied = entries(trail)
    assert (Outcome.FAILURE, "PermissionError") == (failed.event.outcome, failed.event.reason)
    assert (Outcome.DENIED, None) == (denied.event.outcome, denied.event.reason)


def test_a_stream_may_be_named(trail: Trail, logger: logging.Logger) -> None:
    """As for every other event, the fields may say where it belongs."""
    logger.addHandler(AuditHandler(trail))

    logger.info("approved", extra={"audit": {**APPROVED["audit"], "stream": "admin"}})

    assert ["admin"] == [item.stream for item in entries(trail)]


def test_a_level_is_kept(trail: Trail, logger: logging.Logger) -> None:
    """A handler takes what it was told to take."""
    logger.addHandler(AuditHandler(trail, level="WARNING"))

    logger.info("approved", extra=APPROVED)

    assert [] == entries(trail)


def test_records_may_be_chosen_otherwise(trail: Trail, logger: logging.Logger) -> None:
    """An application that has a convention of its own keeps it."""

    def fields_of(record: logging.LogRecord) -> dict[str, Any] | None:
        event = getattr(record, "event", None)
        return None if event is None else {"action": event, "resource": "shop:1"}

    logger.addHandler(AuditHandler(trail, fields_of=fields_of))

    logger.info("", extra={"event": "shop.open"})
    logger.info("", extra=APPROVED)

    assert ["shop.open"] == [item.event.action for item in entries(trail)]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("invoice.approve", "audit: found a text"),
        (7, "audit: found an integer"),
        ({}, "audit.action"),
        ({"action": "invoice.approve"}, "audit.resource"),
        ({"action": "not an action", "resource": "invoice:7"}, "action: found 'not an action'"),
        ({"action": "a.b", "resource": "invoice:7", "colour": "red"}, "colour"),
        ({"action": "a.b", "resource": "invoice:7", "stream": "nope"}, "nope"),
    ],
)
def test_a_wrong_record_is_reported_and_fails_nothing(
    trail: Trail,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    said: object,
    named: str,
) -> None:
    """Logging never raises into the application; whoever runs it sees what is wrong."""
    logger.addHandler(AuditHandler(trail))

    logger.info("approved", extra={"audit": said})

    assert [] == entries(trail)
    assert named in capsys.readouterr().err


def test_a_trail_that_is_away_fails_nothing(
    trail: Trail, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is to be reported, as in production."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.addHandler(AuditHandler(trail))
    trail.close()

    logger.info("approved", extra=APPROVED)

    assert trail.path.exists()


def test_what_records_may_itself_log(trail: Trail, logger: logging.Logger) -> None:
    """A driver that logs while an event is being recorded does not begin it all over again."""

    class Talking:
        """A trail whose store logs."""

        def record(self, event: str, **fields: Any) -> Receipt:
            """Log, and record."""
            logger.info("writing", extra=APPROVED)
            return trail.record(event, **fields)

    logger.addHandler(AuditHandler(Talking()))

    logger.info("approved", extra=APPROVED)
    logger.info("approved again", extra=APPROVED)

    assert 2 == len(entries(trail))


def test_threads_do_not_wait_for_each_other(logger: logging.Logger) -> None:
    """Those who log at the same time record at the same time, and can share a sync to disk."""
    together = threading.Barrier(4, timeout=30)

    class Meeting:
        """A trail in which all have to be at once."""

        def record(self, event: str, **_: Any) -> Receipt:
            """Wait for the others."""
            together.wait()
            raise KeyboardInterrupt(event)

    logger.addHandler(AuditHandler(Meeting()))

    def log(_: int) -> bool:
        try:
            logger.info("approved", extra=APPROVED)
        except KeyboardInterrupt:
            return True
        return False

    with ThreadPoolExecutor(4) as threads:
        assert [True] * 4 == list(threads.map(log, range(4)))


def test_many_threads_lose_nothing(trail: Trail, logger: logging.Logger) -> None:
    """Each record of each thread is an entry, once."""
    logger.addHandler(AuditHandler(trail))

    def log(number: int) -> None:
        said = {"action": "invoice.approve", "resource": f"invoice:{number}"}
        logger.info("approved", extra={"audit": said})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(log, range(200)))

    found = trail.search(limit=1_000).items
    assert set(map(str, range(200))) == {item.event.resource.id for item in found}
    assert 200 == len(found)


def test_a_queue_may_stand_between(trail: Trail, logger: logging.Logger) -> None:
    """An event loop need not wait for the disk: the time is still that of the call."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue()
    logger.addHandler(logging.handlers.QueueHandler(waiting))
    listener = logging.handlers.QueueListener(waiting, AuditHandler(trail))

    logger.info("approved", extra=APPROVED)
    logged = waiting.queue[0].created
    listener.start()
    listener.stop()

    (item,) = entries(trail)
    assert abs(logged - item.event.occurred_at.timestamp()) < 0.001


def test_a_configuration_may_name_the_handler(
    trail: Trail, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set up like any other handler, on the trail that the application has opened."""
    module = type(sys)("shop_settings")
    module.audit = trail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_settings", module)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "audit": {
                    "class": "indelible.frameworks.logging.AuditHandler",
                    "trail": "ext://shop_settings.audit",
                    "level": "INFO",
                }
            },
            "loggers": {logger.name: {"handlers": ["audit"], "propagate": False}},
        }
    )

    logger.info("approved", extra=APPROVED)

    assert 1 == len(entries(trail))


def test_the_trail_outlives_the_handler(trail: Trail, logger: logging.Logger) -> None:
    """Who takes logging down does not take recording down."""
    handler = AuditHandler(trail)
    logger.addHandler(handler)

    logger.removeHandler(handler)
    handler.close()

    receipt = trail.record("invoice.approve", resource="invoice:7")
    assert State.KEPT is receipt.state
