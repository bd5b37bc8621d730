"""Erasures and purges that are cut off anywhere: whoever repeats them reaches the same end."""

from __future__ import annotations

import random
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

import indelible
from indelible import document, erasure, expiry
from indelible.accounting import account
from indelible.backup import restore
from indelible.box import Row, ValueState
from indelible.errors import NotApproved, StoreError
from indelible.event import Actor, Client, Event, Outcome, Resource
from indelible.plan import Plan
from indelible.policies import Consent
from indelible.policy import FieldClass, FieldRule, Retention, Stream
from indelible.segment import SEGMENT, TILE
from indelible.vault import Vault
from tests.raw import files_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.keyring import Keyring
    from tests.crash.conftest import Children

KILLED = -signal.SIGKILL
LATER = datetime.now(UTC) + timedelta(days=91)
PLAIN = document.default()
POLICY = msgspec.structs.replace(
    PLAIN,
    id="shop",
    text=b"",
    fields={
        **PLAIN.fields,
        "/client/ip": FieldRule(class_=FieldClass.PERSONAL, subject="actor", ceiling="90d"),
    },
    streams={**PLAIN.streams, "auth": Stream(retention="short")},
    retention={"short": Retention(ceiling="90d")},
)
"""Addresses, and all of the auth stream, are kept for 90 days."""


def one(actor: str = "alice", action: str = "order.ship") -> Event:
    """Return an event with two values of its actor in one box."""
    return Event(
        action=action,
        outcome=Outcome.SUCCESS,
        actor=Actor(type="user", id=actor),
        resource=Resource(type="order", id="1"),
        session="s",
        client=Client(ip="192.0.2.7"),
    )


@dataclass
class Case:
    """
    A trail, an erasure of part of what it holds of alice, and a purge.

    Attributes:
        renew: Puts the trail and its pins back as they were.
        needles: Bytes that may be nowhere once the erasure is done.
    """

    path: Path
    renew: Callable[[], None]
    plan: Path
    approval: Path
    purge: Path
    needles: list[bytes]

    @property
    def consent(self) -> Consent:
        """The plan of the erasure, approved."""
        return Consent(plan=self.plan.read_bytes(), approvals=(self.approval.read_bytes(),))

    @property
    def due(self) -> Consent:
        """The plan of the purge, which nobody has to approve."""
        return Consent(plan=self.purge.read_bytes())


def prepare(trail: indelible.Trail, base: Path) -> tuple[Path, Path, Path, list[bytes]]:
    """Plan an erasure and a purge; keep both, and what the first must leave nowhere."""
    plan = trail.plan_erasure("user:alice", basis="GDPR Art. 17", paths=["/session", "/actor/id"])
    files = base / "plan", base / "approval", base / "purge"
    for file, data in zip(
        files,
        (plan.to_bytes(), trail.approve(plan), expiry.plan_expiry(trail, LATER).to_bytes()),
        strict=True,
    ):
        file.write_bytes(data)
    keys = {key.id: key for key in trail.vault.keyring.of_subject("user:alice")}
    with trail.store.read() as view:
        rows = [view.rows(each.log, [each.index])[0] for each in plan.cover]
    boxes = [box.data for row in rows for box in Row.from_bytes(row).boxes if box.key in keys]
    return *files, [*boxes, *(key.wrapped for key in keys.values())]


@pytest.fixture
def case(tmp_path: Path, config: Path) -> Case:
    """Return a case with a small trail."""
    path, kept = tmp_path / "trail", tmp_path / "kept"
    with indelible.open(path, origin="audit.example.com/t", policy=POLICY) as trail:
        trail.record_many([one(), one(), one("bob")])
        trail.record_many([one("bob", "auth.login") for _ in range(TILE)])
    shutil.copytree(path, kept / "trail")
    shutil.copytree(config, kept / "config")

    def renew() -> None:
        for name in ("trail", "config"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(kept / name, tmp_path / name)

    with indelible.open(path, mode="r") as trail:
        return Case(path, renew, *prepare(trail, tmp_path))


def check_erased(trail: indelible.Trail, case: Case, *, entries: int = 2) -> None:
    """Check that the erasure is done, once, and that nothing else is gone."""
    with trail.store.read() as view:
        found = account(view, trail.vault)
    assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
    assert 2 * entries == found.totals[ValueState.ERASED]
    actions = [item.event.action for item in trail.search("stream:custody action:erase.*").items]
    assert 1 == actions.count("erase.begin") + actions.count("erase.replay")
    assert 1 == actions.count("erase.effective")
    assert [] == files_with(case.path, case.needles)
    assert "192.0.2.7" == trail.at("user", 0).event.client.ip  # type: ignore[union-attr]
    trail.verify().require()


def finish(trail: indelible.Trail, case: Case) -> None:
    """Carry the erasure out again; where only its answer was lost, that is refused."""
    try:
        trail.erase(case.consent)
    except NotApproved as error:
        assert "was carried out already" in str(error)  # noqa: PT017 - or it goes through


# ---- An answer is lost, or a call fails, at each call to the outside ----


class Failing:
    """
    A trail of which one call to the outside fails: the call number *at*, before it or *after*.

    Attributes:
        calls: How many there were.
    """

    def __init__(self, trail: indelible.Trail, at: int, *, after: bool) -> None:
        self.calls, self._at, self._after = 0, at, after
        self._trail, self.store = trail, self
        self.id, self.policy, self.read = trail.id, trail.policy, trail.store.read
        self.purge_segments = trail.store.purge_segments
        self.signer_of, self.forgotten = trail.signer_of, trail.forgotten
        self.forgetting = trail.forgetting
        self.vault = Vault(cast("Keyring", _Keyring(trail.vault.keyring, self)), trail.origin)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Fail before or after what is done within, if it is the turn of this one."""
        self.calls += 1
        turn = self.calls == self._at
        if turn and not self._after:
            raise StoreError("cut off")
        yield
        if turn:
            raise StoreError("cut off")

    @contextmanager
    def write(self) -> Iterator[Any]:
        """Write, and perhaps fail."""
        with self.call(), self._trail.store.write() as transaction:
            yield transaction

    def forget(self, entries: Any) -> None:  # noqa: ANN401 - whatever the store takes
        """Forget, and perhaps fail."""
        with self.call():
            self._trail.store.forget(entries)


class _Keyring:
    def __init__(self, keyring: Keyring, failing: Failing) -> None:
        self._keyring, self._failing = keyring, failing

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the keyring has
        found = getattr(self._keyring, name)
        if name not in {"remember", "keep", "destroy"}:
            return found

        def call(*args: object) -> object:
            with self._failing.call():
                return found(*args)

        return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_erasure_that_fails_at_any_call_is_finished_by_repeating_it(
    case: Case, after: bool
) -> None:
    """Whatever call to the outside fails, or whose answer is lost, nothing is half erased."""
    calls, at = 1, 0
    while at < calls:
        at += 1
        case.renew()
        with indelible.open(case.path) as trail:
            failing = Failing(trail, at, after=after)
            with pytest.raises(StoreError, match="cut off"):
                erasure.carry_out(cast("expiry.Owner", failing), case.consent, datetime.now(UTC))

            # What is there is accounted for in the middle as well.
            with trail.store.read() as view:
                assert () == account(view, trail.vault).alarms
            finish(trail, case)
            check_erased(trail, case)
        if at == 1:
            case.renew()
            with indelible.open(case.path) as trail:
                whole = Failing(trail, 0, after=after)
                erasure.carry_out(cast("expiry.Owner", whole), case.consent, datetime.now(UTC))
                calls = whole.calls
    assert calls >= 7


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_purge_that_fails_at_any_call_is_finished_by_the_next(case: Case, after: bool) -> None:
    """The same of a purge, of values and of entries, which finishes itself without its plan."""
    at, failed = 0, True
    while failed:
        at += 1
        case.renew()
        with indelible.open(case.path) as trail:
            failing = Failing(trail, at, after=after)
            try:
                expiry.carry_out(cast("expiry.Owner", failing), case.due, LATER)
                failed = False
            except StoreError:
                with trail.store.read() as view:
                    assert () == account(view, trail.vault).alarms
                finish_purge(trail, case)
            check_purged(trail, case)
    assert at >= 9


def finish_purge(trail: indelible.Trail, case: Case) -> None:
    """Let the next purge finish what was begun; where nothing was, carry it out."""
    expiry.resume(trail, LATER)
    if not trail.search("stream:custody action:purge.begin").items:
        expiry.carry_out(trail, case.due, LATER)


def check_purged(trail: indelible.Trail, case: Case) -> None:
    """Check that the purge is done, once, and that nothing else is gone."""
    with trail.store.read() as view:
        found = account(view, trail.vault)
        first = view.heads()["auth"].first
    assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
    plan = Plan.from_bytes(case.due.plan)
    gone = sum(len(each.paths) for each in plan.cover if each.log != "auth")
    assert (gone, TILE) == (found.totals.get(ValueState.PURGED), first)
    actions = [item.event.action for item in trail.search("stream:custody", limit=99).items]
    assert (1, 1, 1) == tuple(
        actions.count(action) for action in ("purge.begin", "log.purge", "purge.effective")
    )
    trail.verify().require()


# ---- Killed at each operation on the disk ----


each_operation = pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])


def killed(
    children: Children, case: Case, work: str, *, step: int, **options: Any
) -> Iterator[indelible.Trail]:
    """Kill a child at one operation after the other, and open the trail after each kill."""
    operation = 1 - step
    while True:
        operation += step
        case.renew()
        said, status = children.run(
            work, case.path, watched=str(case.path), kill_at=operation, options=options
        )
        with indelible.open(case.path) as trail:
            yield trail
        if status == 0:
            assert operation > said[-1]["operations"]
            return
        assert KILLED == status


@each_operation
def test_an_erasure_that_was_killed_is_finished_by_repeating_it(
    children: Children, case: Case, step: int
) -> None:
    """Killed at any operation, an erasure leaves what its repetition completes."""
    files = [str(case.plan), str(case.approval)]
    for trail in killed(children, case, "erase", step=step, consent=files):
        finish(trail, case)
        check_erased(trail, case)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_a_purge_that_was_killed_is_finished_by_the_next(
    children: Children, case: Case, step: int
) -> None:
    """Killed at any operation, a purge leaves what the next one completes by itself."""
    options = {"plan": str(case.purge), "at": LATER.isoformat()}
    for trail in killed(children, case, "purge", step=step, **options):
        finish_purge(trail, case)
        check_purged(trail, case)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_a_restore_that_was_killed_brings_nothing_back(
    children: Children, case: Case, tmp_path: Path, step: int
) -> None:
    """Killed at any operation, a restore leaves no trail in place that holds what was erased."""
    copy, erased = tmp_path / "copy", tmp_path / "erased"
    with indelible.open(case.path) as trail:
        trail.backup(copy)
        trail.erase(case.consent)
    case.path.rename(erased)
    shutil.copytree(tmp_path / "config", tmp_path / "known")

    def renew() -> None:
        for old in (case.path, *tmp_path.glob("trail.replaced-*"), tmp_path / "config"):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(erased, case.path)
        shutil.copytree(tmp_path / "known", tmp_path / "config")

    operation, status = 1 - step, KILLED
    while status != 0:
        operation += step
        renew()
        _, status = children.run(
            "restore",
            case.path,
            watched=str(tmp_path),
            kill_at=operation,
            options={"source": str(copy)},
        )
        assert status in {0, KILLED}
        if case.path.exists():
            assert [] == files_with(case.path, case.needles)
        restore(copy, case.path)

        with indelible.open(case.path) as trail, trail.store.read() as view:
            found = account(view, trail.vault)
            assert ((), ()) == (found.alarms, found.wrong)
            assert 4 == found.totals[ValueState.ERASED]
        assert [] == files_with(case.path, case.needles)


@pytest.fixture(scope="module")
def closed_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail with a closed segment and an open part, and alice in both."""
    base = tmp_path_factory.mktemp("closed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        with indelible.open(base / "trail", origin="audit.example.com/t", policy=POLICY) as trail:
            alice, bob = (
                one(),
                Event(
                    action="order.ship",
                    outcome=Outcome.SUCCESS,
                    actor=Actor(type="system", id="cron"),
                    resource=Resource(type="order", id="1"),
                ),
            )
            whose = {0, 300, 65_535, SEGMENT + 2}
            trail.record_many(
                (
                    msgspec.structs.replace(alice if n in whose else bob, id=one().id)
                    for n in range(SEGMENT + 5)
                ),
                batch=4_000,
            )
            trail.settle()
    return base


def test_an_erasure_of_a_closed_segment_that_was_killed_is_finished(
    children: Children, closed_master: Path, tmp_path: Path, config: Path
) -> None:
    """Killed while it rewrites the file beside a closed segment, an erasure is finished as well."""
    path = tmp_path / "trail"

    def renew() -> None:
        for name, place in (("trail", path), ("config", config)):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(closed_master / name, place)

    renew()
    with indelible.open(path, mode="r") as trail:
        case = Case(path, renew, *prepare(trail, tmp_path))
    options = {"consent": [str(case.plan), str(case.approval)]}
    said, status = children.run("erase", path, watched=str(path), kill_at=0, options=options)
    assert 0 == status
    total = said[-1]["operations"]

    for moment in sorted(random.Random(7).sample(range(1, total), 6)):
        renew()
        _, status = children.run("erase", path, watched=str(path), kill_at=moment, options=options)
        assert KILLED == status
        with indelible.open(path) as trail:
            finish(trail, case)
            with trail.store.read() as view:
                found = account(view, trail.vault)
            assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
            assert 8 == found.totals[ValueState.ERASED]
            assert [] == files_with(path, case.needles)
    with indelible.open(path) as trail:
        trail.verify(deep=True).require()
