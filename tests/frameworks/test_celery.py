"""Every entry of a Celery task has the context of whoever published it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, chain, chord, group, signals
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject

import indelible
from indelible import Trail, context
from indelible.context import Context, Work, authenticated, begun, current, to_message
from indelible.event import Actor, Event, Service
from indelible.frameworks.celery import HEADER, install
from tests.frameworks.recorded import events

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 30.0
"""Seconds after which something that should have happened has not."""


def awaited(trail: Trail, number: int) -> list[Event]:
    """Return what *trail* holds when it holds *number* events."""
    end = time.monotonic() + SOON
    while len(found := list(events(trail))) < number and time.monotonic() < end:
        time.sleep(0.05)  # another process writes them
    return found


def shop(trail: Trail, **settings: Any) -> Celery:
    """Return an application whose tasks record."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_lost_wait=0.1,
        result_chord_retry_interval=0.05,
        **settings,
    )

    @app.task(shared=False, name="record")
    def record(n: str, action: str = "a.task") -> str:
        trail.record(action, resource=f"n:{n}")
        return n

    @app.task(shared=False, name="total")
    def total(ns: list[str]) -> int:
        trail.record("a.total", resource=f"n:{ns[0]}")
        return len(ns)

    @app.task(shared=False, name="publish")
    def publish(n: str) -> None:
        record.delay(n, "a.published")

    @app.task(shared=False, name="errback")
    def errback(n: str) -> None:
        trail.record("a.errback", resource=f"n:{n}")

    @app.task(shared=False, name="retry", bind=True)
    def retry(self: Any, n: str) -> None:
        trail.record(f"a.try{self.request.retries}", resource=f"n:{n}")
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    @app.task(shared=False, name="end")
    def end(n: str, how: str) -> None:
        authenticated(f"user:by-{n}")
        trail.record("a.end", resource=f"n:{n}")
        raise {"fail": LookupError, "ignore": Ignore, "reject": Reject}[how]

    @app.task(shared=False, name="die")
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    install(app)
    return app


def on_disk(folder: Path) -> dict[str, Any]:
    """Return the settings of a broker, and of results, that are folders."""
    for name in ("messages", "control", "results"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.02,
        },
        "result_backend": f"file://{folder / 'results'}",
    }


@contextlib.contextmanager
def worker(folder: Path) -> Iterator[None]:
    """Have a worker of two processes run the tasks that come into *folder*."""
    root = Path(__file__).parent.parent.parent
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.frameworks.test_celery", str(folder)],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(SOON)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Celery, Trail]]:
    """An application whose tasks a thread of this process runs, and the trail they record in."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "configuration"))
        with indelible.open(folder / "trail") as trail:
            app = shop(
                trail,
                broker_url="memory://",
                broker_transport_options={"polling_interval": 0.02},
                result_backend="cache+memory://",
            )
            with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=SOON):
                yield app, trail


def of(trail: Trail, n: str) -> list[Event]:
    """Return the events of *trail* that the tasks for *n* have recorded."""
    return [event for event in events(trail) if event.resource.id == n]


@contextlib.contextmanager
def forged(**claimed: object) -> Iterator[None]:
    """Have headers say what they like."""

    def forge(headers: dict[str, Any], **_: Any) -> None:
        headers.update(claimed)

    signals.before_task_publish.connect(forge)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(forge)


def test_the_publisher_goes_along_to_the_processes_of_a_worker(
    trail: Trail, tmp_path: Path
) -> None:
    """Whatever a request sets going, and however that goes on, is done by who made the request."""
    app = shop(trail, **on_disk(tmp_path))
    task = app.tasks
    names = [f"u{n}" for n in range(4)]

    with worker(tmp_path):
        for n in names:
            with context(actor=f"user:{n}", request=f"r-{n}", tenant=f"t-{n}", rationale="PO-99"):
                task["record"].delay(n)
                chain(task["record"].si(n, f"a.link{each}") for each in range(3)).delay()
                group(task["record"].si(n, f"a.member{each}") for each in range(2)).delay()
                chord(
                    [task["record"].si(n, f"a.header{each}") for each in range(2)],
                    task["total"].s(),
                ).delay()
                task["publish"].delay(n)
                task["retry"].delay(n)
                task["end"].apply_async((n, "fail"), link_error=task["errback"].si(n))
        with context(tenant="nobody's"):
            task["record"].delay("nobody")
        awaited(trail, 14 * len(names) + 1)
        with context(actor="user:alice"):
            task["die"].apply_async(link_error=task["errback"].si("nobody"))
        recorded = awaited(trail, 14 * len(names) + 2)

    assert 14 * len(names) + 2 == len(recorded), (tmp_path / "worker.log").read_text("utf-8")
    for event in recorded:
        n = event.resource.id
        if n == "nobody":
            assert Actor(type="unknown") == event.actor
            # Whoever outlives the process that was killed acts for nobody.
            assert (None if event.action == "a.errback" else "nobody's") == event.tenant
            continue
        said = Actor(type="user", id=n, asserted=True)
        # Who authenticates in a task is known there, and asserted to what it publishes.
        authentic = Actor(type="user", id=f"by-{n}", asserted=event.action != "a.end")
        assert (authentic if event.action in {"a.end", "a.errback"} else said) == event.actor
        assert f"r-{n}" == event.request
        assert f"t-{n}" == event.tenant
        assert "PO-99" == (event.rationale and event.rationale.text)
        assert Service(name="mailer") == event.service
    assert len(names) == sum(event.action == "a.total" for event in recorded)


@pytest.mark.parametrize("how", ["fail", "ignore", "reject"])
def test_a_task_leaves_nothing_behind_however_it_ends(
    served: tuple[Celery, Trail], how: str
) -> None:
    """Whoever is served next by a worker is not taken for the one before."""
    app, trail = served
    left: list[Context] = []

    def look(**_: Any) -> None:
        left.append(current())

    signals.task_postrun.connect(look)
    with context(actor="user:alice"):
        app.tasks["end"].delay(f"alice-{how}", how)
    app.tasks["record"].delay(f"after-{how}").get(SOON, interval=0.01)
    signals.task_postrun.disconnect(look)

    assert [f"user:by-alice-{how}"] == [str(e.actor) for e in of(trail, f"alice-{how}")]
    assert ["unknown"] == [str(event.actor) for event in of(trail, f"after-{how}")]
    assert Context() == left[0]


def test_a_task_that_is_not_run_leaves_nothing_behind(served: tuple[Celery, Trail]) -> None:
    """A message that has expired names nobody in the task that is run after it."""
    app, trail = served

    with context(actor="user:alice"):
        app.tasks["record"].apply_async(("expired",), expires=-1)
    app.tasks["record"].delay("after-expired").get(SOON, interval=0.01)

    assert [] == of(trail, "expired")
    assert ["unknown"] == [str(event.actor) for event in of(trail, "after-expired")]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        '{"actor": "user:alice"}',
        '{"actor": {"type": "user"}}',
        '{"no": ' + "[" * 5_000,
        "\x00",
        7,
        None,
        ["user:alice"],
        {"actor": {"type": "user", "id": "alice"}},
    ],
)
def test_a_header_that_cannot_be_read_names_nobody_and_stops_nothing(
    served: tuple[Celery, Trail], header: object
) -> None:
    """Whoever can write messages can neither make a task fail with one, nor get in unchecked."""
    app, trail = served
    n = f"n-{hash(repr(header))}"

    with forged(**{HEADER: header}), context(actor="user:alice"):
        assert n == app.tasks["record"].delay(n).get(SOON, interval=0.01)

    assert ["unknown"] == [str(event.actor) for event in of(trail, n)]


def test_a_forged_header_makes_an_asserted_actor(served: tuple[Celery, Trail]) -> None:
    """What a message says of its actor is marked as its claim, whatever else it claims."""
    app, trail = served
    claim = to_message(Context(actor=Actor.parse("user:root"), service=Service(name="bank")))

    with forged(**{HEADER: claim, "is_eager": True}):
        app.tasks["record"].delay("forged").get(SOON, interval=0.01)

    [event] = of(trail, "forged")
    assert Actor(type="user", id="root", asserted=True) == event.actor
    assert Service(name="celery") == event.service


@pytest.mark.parametrize("how", ["fail", "ignore"])
def test_an_eager_task_is_in_the_context_of_its_caller(trail: Trail, how: str) -> None:
    """A task that runs within a request is done by who made it, and leaves the request alone."""
    app = shop(trail, task_always_eager=True)

    with begun(Work(Context(tenant="acme", service=Service(name="shop")))):
        authenticated("user:alice")
        with context(rationale="PO-99"):
            before = current()
            app.tasks["retry"].delay("n")
            app.tasks["record"].apply(("n",))
            app.tasks["end"].delay("n", how)
            assert before == current()

    recorded = list(events(trail))
    assert {"a.try0", "a.try1", "a.task", "a.end"} == {event.action for event in recorded}
    for event in recorded:
        assert ("user:by-n" if event.action == "a.end" else "user:alice") == str(event.actor)
        assert not event.actor.asserted
        assert ("acme", "PO-99") == (event.tenant, event.rationale and event.rationale.text)
        assert Service(name="shop") == event.service


def test_a_chain_within_the_caller_is_in_its_context(trail: Trail) -> None:
    """Canvases that run eagerly are done by their caller, in every link."""
    app = shop(trail, task_always_eager=True)
    record, total = app.tasks["record"], app.tasks["total"]

    with context(actor="user:alice"):
        chain(record.s("n"), record.si("n")).delay()
        chord([record.s("n"), record.s("n")], total.s()).delay()

    assert ["user:alice"] * 5 == [str(event.actor) for event in events(trail)]


def test_to_install_again_is_to_replace(trail: Trail) -> None:
    """A task has one context, and gives it back once."""
    app = shop(trail, task_always_eager=True)
    install(app)

    app.tasks["record"].delay("n")

    assert Context() == current()
    assert 1 == len(list(events(trail)))


def test_an_application_without_audit_is_left_alone(trail: Trail) -> None:
    """To install it in one application changes nothing in another one of the process."""
    shop(trail)
    other = Celery("other", set_as_current=False, task_always_eager=True)
    seen: list[Context] = []

    @other.task(shared=False, name="look")
    def look() -> None:
        authenticated("user:bob")
        seen.append(current())

    with begun(Work(Context())):
        other.tasks["look"].delay()
        after = current()

    assert seen == [after]


def test_a_missing_celery_is_named_with_the_command_that_installs_it() -> None:
    """Who lacks the extra is told how to get it."""
    code = "import sys; sys.modules['celery'] = None\nimport indelible.frameworks.celery"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "pip install 'indelible[celery]'" in done.stderr


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with indelible.open(folder / "trail") as audit:
        app = shop(audit, **on_disk(folder))
        install(app, service="mailer")
        options = ("pool=prefork", "concurrency=2", "loglevel=INFO")
        without = ("without-gossip", "without-mingle", "without-heartbeat")
        app.worker_main(["worker", *(f"--{option}" for option in options + without)])
