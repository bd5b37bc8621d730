"""What goes to a collector next is all that was recorded, in order, and proves itself."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import indelible
from indelible.disclosure import is_hash
from indelible.entry import moment_of
from indelible.errors import CallerError, KeyUnavailable, Rollback
from indelible.event import Actor, Change, Client, Event, Outcome, Resource
from indelible.policies import Consent
from indelible.producer import Held, Producer, admit
from indelible.shipping import (
    MOST_BYTES,
    Progress,
    consign,
    progress_of,
    remember,
    verify_standing,
)
from indelible.store import Forgotten, Head
from indelible.wire import MAX_BODY, MOST_ENTRIES, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail
    from indelible.producer import Admission
    from indelible.shipping import Consignment

ORIGIN = "audit.example.com/shop"
NOW = 1_790_000_000_000_000


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """An empty trail."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail", origin=ORIGIN) as audit:
        yield audit


def event(number: int = 0, *, actor: str = "user:alice", **changes: Change) -> Event:
    """Return an event with values of its actor and of its resource."""
    return Event(
        action="customer.update",
        outcome=Outcome.SUCCESS,
        actor=Actor.parse(actor),
        resource=Resource(type="customer", id=f"C-{number}"),
        changes=changes or {"email": Change("old@example.com", f"{number}@example.com")},
        client=Client(ip="192.0.2.7"),
    )


def next_of(trail: Trail, first: int, *known: str, log: str = "user") -> Consignment | None:
    """Return what goes next."""
    with trail.store.read() as view:
        return consign(view, log, first, trail.vault, known)


def head(trail: Trail, log: str = "user") -> Head:
    """Return the end of a log."""
    with trail.store.read() as view:
        return view.heads()[log]


class Taker:
    """A collector's rules, and what it holds of one log."""

    def __init__(self, trail: Trail, log: str = "user") -> None:
        self._trail, self._log = trail, log
        self._producer = Producer(
            origin=f"{trail.origin}/{log}",
            key=trail.signer(log).verifier.to_text(),
            stream=log,
            enrolled_at=NOW,
            enrolled_by="alice",
        )
        self.held = Held()
        self.known: set[str] = set()
        self.taken: list[bytes] = []

    def take(self, consignment: Consignment) -> Admission:
        """Take a shipment as it arrives."""
        body = msgspec.json.encode(consignment.shipment)
        shipment = msgspec.json.decode(body, type=type(consignment.shipment))
        admission = admit(
            self._producer,
            self.held,
            shipment,
            lambda _, __: [],
            lambda _: self._trail.policy,
            NOW,
        )
        self.held = admission.held
        self.known |= consignment.policies
        self.taken += [bytes(each) for each in shipment.entries]
        return admission

    def take_all(self) -> list[Admission]:
        """Take shipments until there are no more."""
        taken = []
        while found := next_of(self._trail, self.held.size, *self.known, log=self._log):
            taken.append(self.take(found))
        return taken


def values(admission: Admission) -> list[dict[str, Any]]:
    """Return the values that were opened, of each entry."""
    return [
        {value.path: value.value for value in each.values if value.rule is not None}
        for each in admission.entries
    ]


def test_what_was_recorded_arrives_as_it_was(trail: Trail) -> None:
    """A collector gets the exact entries, every value, and a tree that the producer signed."""
    trail.record_many([event(1), event(2, actor="user:bob")])
    taker = Taker(trail)

    (admission,) = taker.take_all()

    assert () == admission.refused
    assert [trail.at("user", index).entry.to_bytes() for index in (0, 1)] == taker.taken
    assert head(trail).edge == taker.held.tree
    assert ["alice", "bob"] == [each["/actor/id"] for each in values(admission)]
    assert {"old": "old@example.com", "new": "2@example.com"} == values(admission)[1][
        "/changes/email"
    ]


def test_what_the_trail_says_about_itself_goes_too(trail: Trail) -> None:
    """A collector can tell what was done to a trail, not only what it recorded."""
    trail.record_many([event()])
    taker = Taker(trail, "custody")

    (admission,) = taker.take_all()

    assert () == admission.refused
    assert head(trail, "custody").size == taker.held.size


def test_a_shipment_holds_no_more_than_a_collector_takes(trail: Trail) -> None:
    """A thousand entries are a shipment; what was recorded meanwhile goes with the next."""
    trail.record_many([event(number) for number in range(MOST_ENTRIES + 1)])
    taker = Taker(trail)

    admissions = taker.take_all()

    assert [MOST_ENTRIES, 1] == [len(each.entries) for each in admissions]
    assert head(trail).edge == taker.held.tree


def test_a_shipment_is_no_larger_than_a_collector_takes(trail: Trail) -> None:
    """Large values make shipments of fewer entries, and none is left behind."""
    text = "\\" * 400_000
    trail.record_many([event(number, note=Change(None, text)) for number in range(12)])
    taker = Taker(trail)

    sizes = []
    while (found := next_of(trail, taker.held.size)) is not None:
        sizes.append(len(msgspec.json.encode(found.shipment)))
        assert () == taker.take(found).refused

    assert 3 == len(sizes)
    assert max(sizes) <= MOST_BYTES < MAX_BODY
    assert sizes[0] > MOST_BYTES * 0.8


def test_a_large_entry_goes_alone(trail: Trail) -> None:
    """What fills a shipment is neither left out nor does it hold up what follows."""
    large = event(0, note=Change(None, "x" * 4_500_000))
    trail.record_many([large, event(1, note=Change(None, "x" * 300_000))])

    taken = Taker(trail).take_all()

    assert [1, 1] == [len(each.entries) for each in taken]
    assert 4_500_000 == len(values(taken[0])[0]["/changes/note"]["new"])


def test_a_value_that_no_shipment_can_carry_stays_here(trail: Trail) -> None:
    """Its leaf hash goes, so the entry and its other values arrive; and it is told which."""
    trail.record_many([event(0, note=Change(None, "x" * (MAX_BODY + 1))), event(1)])
    taker = Taker(trail)

    found = next_of(trail, 0)
    assert found is not None
    admission = taker.take(found)

    assert ("0 /changes/note",) == found.left
    assert () == admission.refused
    assert {"/actor/id", "/resource/id", "/client/ip"} <= values(admission)[0].keys()
    assert "/changes/note" not in values(admission)[0]


def test_an_erased_value_goes_as_its_hash(trail: Trail) -> None:
    """What was erased before it was shipped never leaves, and what stands beside it does."""
    trail.record_many([event(1), event(2, actor="user:bob")])
    plan = trail.plan_erasure("user:alice", basis="GDPR Art. 17(1)(b)")
    trail.erase(Consent(plan=plan.to_bytes(), approvals=(trail.approve(plan),)))

    found = next_of(trail, 0)
    assert found is not None
    admission = Taker(trail).take(found)

    assert () == admission.refused
    assert "/actor/id" not in values(admission)[0]
    assert {"/resource/id", "/changes/email"} <= values(admission)[0].keys()
    assert "bob" == values(admission)[1]["/actor/id"]
    assert b"alice" not in msgspec.json.encode(found.shipment)
    assert any(is_hash(msgspec.json.decode(each)) for each in found.shipment.disclosures["0"][:1])


def test_an_entry_whose_values_were_lost_goes_without_them(trail: Trail) -> None:
    """The tree is whole at the collector, which says itself that the values do not open."""
    trail.record_many([event(1), event(2)])
    trail.store.forget({"user": {0: Forgotten()}})

    (admission,) = Taker(trail).take_all()

    assert [0] == [each.index for each in admission.refused]
    assert 2 == len(admission.entries)
    assert "alice" == values(admission)[1]["/actor/id"]


def test_values_wait_for_their_key(trail: Trail, tmp_path: Path) -> None:
    """An entry does not go without values that can be opened again tomorrow."""
    trail.record_many([event()])
    trail.close()
    (tmp_path / "trail" / "keys" / "vault-1.key").rename(tmp_path / "elsewhere")

    with indelible.open(tmp_path / "trail", mode="r") as locked, pytest.raises(KeyUnavailable):
        next_of(locked, 0)


def test_a_policy_goes_with_the_first_entry_that_names_it(trail: Trail) -> None:
    """A collector knows how values were classified, and is told once."""
    trail.record_many([event(1)])
    first = next_of(trail, 0)
    assert first is not None
    trail.record_many([event(2)])
    again = next_of(trail, 1, *first.policies)
    assert again is not None

    assert {trail.policy.label} == first.policies
    assert (trail.policy.text.decode(),) == first.shipment.policies
    assert (frozenset(), ()) == (again.policies, again.shipment.policies)


def test_a_change_of_the_key_is_told_with_the_entries(trail: Trail) -> None:
    """A collector that knows the first key can follow the log to the key of today."""
    trail.record_many([event(1)])
    taker = Taker(trail)
    trail.rotate_key()
    trail.record_many([event(2)])
    trail.rotate_key()
    trail.record_many([event(3)])

    (admission,) = taker.take_all()

    assert 2 == len(admission.held.rotations)
    assert 3 == admission.held.size


def test_there_is_nothing_after_the_end(trail: Trail) -> None:
    """A log that the collector has whole makes no shipment."""
    trail.record_many([event()])

    assert next_of(trail, 1) is None


def standing(trail: Trail, size: int, *, root: str | None = None, promised: int = 0) -> Standing:
    """Return what a collector says that has *size* entries of the log."""
    taker = Taker(trail)
    if size and root is None:
        taker.take_all()
    return Standing(
        origin=f"{trail.origin}/user",
        key="",
        stream="user",
        size=size,
        root=root or b64encode(taker.held.tree.root).decode(),
        promised=promised,
        enrolled_at=moment_of(NOW).isoformat(),
    )


def test_a_collector_that_has_the_beginning_is_gone_on_with(trail: Trail) -> None:
    """What it says that it has, is compared with the log here before more is sent."""
    trail.record_many([event(1), event(2)])
    had = standing(trail, 2, promised=2)
    trail.record_many([event(3)])

    with trail.store.read() as view:
        verify_standing(view, "user", had)
        verify_standing(view, "user", standing(trail, 0))


@pytest.mark.parametrize(("size", "promised"), [(3, 3), (1, 3)])
def test_a_collector_that_was_shown_more_is_an_alarm(
    trail: Trail, size: int, promised: int
) -> None:
    """A log that was set back does not go on as if nothing had happened."""
    trail.record_many([event(1)])
    had = msgspec.structs.replace(standing(trail, 1), size=size, promised=promised)

    with trail.store.read() as view, pytest.raises(Rollback, match=r"found 1 entries.* over 3"):
        verify_standing(view, "user", had)


def test_a_collector_that_has_something_else_is_an_alarm(trail: Trail) -> None:
    """Two logs of one name are never joined into one."""
    trail.record_many([event(1), event(2)])

    with trail.store.read() as view, pytest.raises(Rollback, match="found root"):
        verify_standing(view, "user", standing(trail, 1, root="A" * 43 + "="))


def test_of_a_log_that_was_succeeded_a_collector_may_have_more(trail: Trail) -> None:
    """After a restore, the collector has what was lost here, and that is no alarm."""
    trail.record_many([event(1)])
    key = trail.new_signer("user~2")
    with trail.store.write() as transaction:
        transaction.create(Head(log="user~2", origin=key.verifier.name))
    more = msgspec.structs.replace(standing(trail, 1), size=9, promised=9)

    with trail.store.read() as view:
        verify_standing(view, "user", more)
        assert consign(view, "user", more.size, trail.vault) is None


def test_what_was_purged_before_it_was_shipped_is_a_gap(trail: Trail) -> None:
    """It can be shipped no more, and somebody has to decide about the gap."""
    trail.record_many([event(number) for number in range(300)])
    with trail.store.write() as transaction:
        transaction.purge("user", 256)

    with trail.store.read() as view:
        with pytest.raises(CallerError, match="has 0 entries, and those before 256 were purged"):
            verify_standing(view, "user", standing(trail, 0))
        with pytest.raises(CallerError, match="were purged here"):
            consign(view, "user", 255, trail.vault)
        found = consign(view, "user", 256, trail.vault)

    assert found is not None
    assert (256, 300) == (found.first, found.size)


def test_how_far_a_collector_has_come_is_kept(trail: Trail) -> None:
    """Whoever looks at a trail sees how much of it is elsewhere, too."""
    progress = Progress(url="https://c.example.com", size=7, checkpoint="note", at=NOW)
    with trail.store.write() as transaction:
        remember(transaction, "user", progress)

    with trail.store.read() as view:
        assert progress == progress_of(view, "user")
        assert progress_of(view, "admin") is None
