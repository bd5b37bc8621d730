"""Whatever is done to a trail, in whatever order: it verifies, and accounts for every value."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import indelible
from indelible import document, erasure, expiry
from indelible.accounting import account
from indelible.approval import Approval
from indelible.box import ValueState
from indelible.errors import NotFound
from indelible.event import Actor, Client, Event, Outcome, Rationale, Resource
from indelible.log import head_of
from indelible.policies import Consent
from indelible.policy import CUSTODY, OWNER, FieldClass, FieldRule

PLAIN = document.default()
POLICY = msgspec.structs.replace(
    PLAIN,
    id="shop",
    text=b"",
    fields={
        **PLAIN.fields,
        "/client/ip": FieldRule(
            class_=FieldClass.PERSONAL, subject="actor", ceiling="90d", search="prefix"
        ),
        # Nobody's, so that its key is shared.
        "/session": FieldRule(class_=FieldClass.PERSONAL, ceiling="90d", search="exact"),
    },
)
PEOPLE = st.sampled_from(["alice", "bob"])
FINE = {ValueState.OPEN, ValueState.ERASED, ValueState.PURGED}


class Sequences(RuleBasedStateMachine):
    """Does what may be done to a trail, step by step, and looks after each."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(mkdtemp())
        self.config = os.environ.get("XDG_CONFIG_HOME")
        os.environ["XDG_CONFIG_HOME"] = str(self.base / "config")
        # The log's clock is never set back: whoever approves goes by it.
        self.now = datetime.now(UTC) + timedelta(hours=1)
        self.holds: list[str] = []
        self.held: set[str] = set()

    @initialize()
    def begin(self) -> None:
        """Make the trail."""
        self.trail = indelible.open(self.base / "trail", origin="t.example.com", policy=POLICY)
        self.record("alice", "bob")

    @rule(actor=PEOPLE, customer=PEOPLE)
    def record(self, actor: str, customer: str) -> None:
        """Record an event with values of two people, and of nobody."""
        self.trail.record(
            Event(
                action="customer.update",
                outcome=Outcome.SUCCESS,
                actor=Actor(type="user", id=actor),
                resource=Resource(type="customer", id=customer),
                session="s",
                client=Client(ip="192.0.2.7"),
                rationale=Rationale(text="asked by telephone"),
            )
        )

    @rule(
        subject=st.sampled_from(["user:alice", "user:bob", "customer:alice"]),
        paths=st.sampled_from([(), ("/client/ip",), ("/actor/id",), ("/rationale",)]),
        scan=st.booleans(),
    )
    def erase(self, subject: str, paths: tuple[str, ...], scan: bool) -> None:
        """Erase all or some of what is held about somebody, less what is under hold."""
        try:
            plan = erasure.plan_erasure(
                self.trail, subject, basis="Art. 17", paths=paths, scan=scan, now=self.now
            )
        except NotFound:
            return
        if plan.cover:
            assert not self.held & {subject, "everything"}
            with self.trail.store.read() as view:
                key = self.trail.signer(head_of(view.heads(), CUSTODY).log)
            approval = Approval.sign(plan, OWNER, key, self.now)
            consent = Consent(plan=plan.to_bytes(), approvals=(approval,))
            erasure.carry_out(self.trail, consent, self.now)

    @rule(days=st.sampled_from([1, 91]))
    def purge(self, days: int) -> None:
        """Let days pass, and purge what is due."""
        self.now += timedelta(days=days)
        try:
            plan = expiry.plan_expiry(self.trail, self.now)
        except NotFound:
            return
        expiry.carry_out(self.trail, Consent(plan=plan.to_bytes()), self.now)

    @rule(subject=st.sampled_from(["user:alice", "customer:alice", "everything"]))
    def hold(self, subject: str) -> None:
        """Place a hold."""
        if subject in self.held:
            return
        whose = None if subject == "everything" else subject
        self.holds.append(self.trail.hold(ground="case 7", subject=whose))
        self.held.add(subject)

    @rule()
    def release(self) -> None:
        """Release all holds."""
        for hold in self.holds:
            self.trail.release(hold)
        self.holds, self.held = [], set()

    @rule(stream=st.sampled_from(["user", "custody"]))
    def rotate_signing_key(self, stream: str) -> None:
        """Let another key sign."""
        self.trail.rotate_key(stream)

    @rule()
    def rotate_keys_of_the_vault(self) -> None:
        """Wrap all keys anew, and destroy what they were wrapped under."""
        self.trail.vault.keyring.rotate()

    @rule()
    def rotate_index_key(self) -> None:
        """Look values up under another key from now on."""
        self.trail.vault.keyring.rotate_index()

    @rule()
    def open_anew(self) -> None:
        """Let another process go on."""
        self.trail.close()
        self.trail = indelible.open(self.base / "trail")

    @invariant()
    def all_is_accounted_for(self) -> None:
        """No value is missing, unreadable or another than was recorded."""
        if not hasattr(self, "trail"):
            return
        with self.trail.store.read() as view:
            found = account(view, self.trail.vault)
        assert ((), {}, ()) == (found.alarms, found.unreadable, found.wrong)
        assert found.totals.keys() <= FINE

    def teardown(self) -> None:
        """Verify at the end, and remove everything."""
        if hasattr(self, "trail"):
            self.trail.verify().require()
            self.trail.close()
        if self.config is None:
            del os.environ["XDG_CONFIG_HOME"]
        else:
            os.environ["XDG_CONFIG_HOME"] = self.config
        shutil.rmtree(self.base)


test_whatever_is_done_every_value_is_accounted_for = Sequences.TestCase
test_whatever_is_done_every_value_is_accounted_for.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
