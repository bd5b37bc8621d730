"""Django: who acted, in which transaction, and what became of it in the trail."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.apps.registry import Apps
from django.contrib.auth.models import Group, Permission, User
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection, connections, models, transaction
from django.db.models import F
from django.test import AsyncClient, Client, override_settings

import indelible
from indelible.errors import NotFound
from indelible.event import Actor
from indelible.frameworks.django import (
    as_of,
    compilers,
    record,
    relaying,
    selftest,
    track,
    tracking,
)
from indelible.frameworks.django.models import Outbox
from indelible.frameworks.django.settings import Settings
from indelible.outboxes import triggers
from indelible.relay import Relay
from tests.frameworks import shops
from tests.frameworks.django_project.models import Order, Product, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail

pytestmark = pytest.mark.usefixtures("shop")

ALICE = "203.0.113.7"


def in_thread(work: Any) -> Any:
    """Do *work* in a thread, with a connection of its own, and return what it returns."""

    def closing() -> Any:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(closing).result()


def of(said: list[Any], action: str) -> list[Any]:
    """Return those of *said* with this *action*."""
    return [event for event in said if event.action == action]


@pytest.fixture
def alice() -> User:
    """A user; that she was made is not in the outbox."""
    user = User.objects.create_user("alice", password="right")
    Outbox.objects.all().delete()
    return user


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """The trail that the settings name."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with override_settings(INDELIBLE={"TRAIL": tmp_path / "trail", "RELAY": False}):
        yield relaying.trail()
        relaying.stop()


def relay(audit: Trail) -> int:
    """Move what waits; return how many events that were."""
    outbox = relaying.outbox("default")
    try:
        return Relay(audit, outbox).drain().events
    finally:
        outbox.close()


def test_the_old_value_is_true_when_another_writer_came_between(shop: str) -> None:
    """What is recorded as the old value is what the database held, not what was read before."""
    product = Product.objects.create(name="a", stock=1)
    in_thread(lambda: Product.objects.filter(pk=product.pk).update(stock=500))
    Outbox.objects.all().delete()

    product.stock = 2  # of the 500 this process knows nothing
    product.save()

    ((event),) = shops.events()
    assert shop
    assert (500, 2) == (event.changes["stock"].old, event.changes["stock"].new)


def test_the_old_value_is_true_when_writers_wait_for_each_other() -> None:
    """Of changes that race for a row each says what the one before it has left."""
    product = Product.objects.create(name="a", stock=0)
    Outbox.objects.all().delete()
    barrier = threading.Barrier(4)

    def add(_: int) -> None:
        barrier.wait()
        for _ in range(10):
            with transaction.atomic():
                Product.objects.filter(pk=product.pk).update(stock=F("stock") + 1)
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))

    said = [(event.changes["stock"].old, event.changes["stock"].new) for event in shops.events()]
    assert [(n, n + 1) for n in range(40)] == sorted(said)


def test_a_row_that_begins_to_match_meanwhile_is_not_changed_unseen() -> None:
    """Every row that an UPDATE changes is captured, also one that another writer adds."""
    first = Product.objects.create(name="a", stock=1)
    second = Product.objects.create(name="b", stock=2)
    Outbox.objects.all().delete()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Product.objects.filter(pk=first.pk).update(stock=1, name="held")
            Product.objects.filter(pk=second.pk).update(stock=1)
            held.set()
            done.wait(0.3)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    # It waits for the first row, and when that is free, the second one matches, too.
    Product.objects.filter(stock=1).update(active=False)
    done.set()
    thread.join()

    changed = Product.objects.filter(active=False).values_list("pk", flat=True)
    said = [event.resource.id for event in of(shops.events(), "product.update")]
    wanted = {event.resource.id for event in shops.events() if "active" in event.changes}
    assert {str(pk) for pk in changed} == wanted
    assert len(said) == 2 + len(changed)


def test_an_upsert_that_races_says_the_truth() -> None:
    """Whether a row was there when it was inserted is known, also when others insert it, too."""
    barrier = threading.Barrier(4)

    def upsert(number: int) -> None:
        barrier.wait()
        for turn in range(10):
            Product.objects.bulk_create(
                [Product(name="a", sku=f"s{turn}", stock=number)],
                update_conflicts=True,
                unique_fields=["sku"],
                update_fields=["stock"],
            )
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upsert, range(4)))

    said = shops.events()
    assert 10 == len(of(said, "product.create")) == Product.objects.count()
    for product in Product.objects.all():
        about = [event for event in said if event.resource.id == str(product.pk)]
        values = [event.changes["stock"] for event in about]
        steps = {(change.old, change.new) for change in values if isinstance(change.old, int)}
        assert product.stock in {change.new for change in values}
        assert all(old != new for old, new in steps)


def test_without_an_outbox_nothing_is_changed() -> None:
    """A change that cannot be recorded does not happen."""
    product = Product.objects.create(name="a", stock=1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE indelible_outbox RENAME TO away")
    try:
        with pytest.raises(DatabaseError):
            Product.objects.update(stock=2)
        with pytest.raises(DatabaseError):
            product.delete()
        with pytest.raises(DatabaseError):
            Tag.objects.create(name="a")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO indelible_outbox")

    assert 1 == Product.objects.get().stock
    assert 0 == Tag.objects.count()


def test_a_reader_that_becomes_a_writer_waits_for_its_turn() -> None:
    """Capture makes no statement fail that would have waited."""
    product = Product.objects.create(name="a", stock=0)

    def add(_: int) -> None:
        for _ in range(20):
            Product.objects.filter(pk=product.pk).update(stock=F("stock") + 1)
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))

    assert 80 == Product.objects.get().stock


def test_tracking_begins_when_it_is_asked_for() -> None:
    """What is tracked from the middle of a transaction on is captured from there on."""
    with transaction.atomic():
        Product.objects.create(name="before")
        tracking.forget(Tag)
        Tag.objects.create(name="unseen")
        track()(Tag)
        tracking.resolve()
        Tag.objects.create(name="seen")

    (event,) = of(shops.events(), "tag.create")
    assert "seen" == event.changes["name"].new


def test_the_actor_of_a_request_is_the_user(alice: User) -> None:
    """An entry names the user of the request, her session, address, request and service."""
    client = Client(REMOTE_ADDR="10.1.2.3", HTTP_X_FORWARDED_FOR=ALICE, HTTP_USER_AGENT="test")
    client.force_login(alice)
    session = client.session.session_key
    Outbox.objects.all().delete()

    client.get("/create?name=a")

    (event,) = shops.events()
    assert Actor(type="user", id=str(alice.pk), name="alice") == event.actor
    assert (ALICE, "test") == (event.client.ip, event.client.user_agent)
    assert "shop" == event.service.name
    assert event.request
    assert event.session
    assert session not in event.session


def test_whoever_is_not_logged_in_is_anonymous() -> None:
    """Nobody acts under the name of somebody else."""
    Client().get("/create?name=a")

    (event,) = shops.events()
    assert Actor(type="anonymous") == event.actor


def test_outside_of_a_request_the_actor_is_unknown_or_named() -> None:
    """A command says who it is, or that nobody said so."""
    Tag.objects.create(name="a")
    with indelible.context(actor="system", rationale="nightly"):
        Tag.objects.create(name="b")

    first, second = shops.events()
    assert (Actor(type="unknown"), Actor(type="system")) == (first.actor, second.actor)
    assert "nightly" == second.rationale.text


def test_an_api_that_authenticates_late_is_understood(alice: User) -> None:
    """Where a view authenticates, after all middleware, the actor is still right."""
    Client().post("/api/create?name=a", HTTP_AUTHORIZATION="Token alice")

    (event,) = shops.events()
    assert str(alice.pk) == event.actor.id


@pytest.mark.parametrize("page", ["create-in-thread", "stream"])
def test_threads_and_streams_keep_the_context(page: str, alice: User) -> None:
    """What is done in a thread, or while an answer is sent, belongs to the request."""
    client = Client()
    client.force_login(alice)
    Outbox.objects.all().delete()

    b"".join(client.get(f"/{page}?name=a"))

    said = shops.events()
    assert said
    assert {str(alice.pk)} == {event.actor.id for event in said}
    assert 1 == len({event.request for event in said})


@pytest.mark.parametrize("page", ["create-async", "create", "stream-async"])
def test_coroutines_keep_the_context(page: str, alice: User) -> None:
    """Under ASGI the context of a request is that of its own coroutine and threads."""

    async def ask() -> None:
        # The thread in which Django runs what blocks is always the same one.
        await sync_to_async(shops.use)(connections.settings["default"])
        client = AsyncClient()
        await client.aforce_login(alice)
        response = await client.get(f"/{page}?name=a")
        if response.streaming:
            assert [b"part\n"] * 3 == [part async for part in response.streaming_content]

    asyncio.run(ask())

    said = [event for event in shops.events() if event.kind == "data_change"]
    assert said
    assert {str(alice.pk)} == {event.actor.id for event in said}
    connections.close_all()


def test_many_requests_at_once_are_not_mixed_up() -> None:
    """Each of many requests at once has its own actor."""
    users = [User.objects.create_user(f"u{n}") for n in range(8)]
    Outbox.objects.all().delete()

    def ask(user: User) -> None:
        client = Client()
        client.force_login(user)
        for number in range(5):
            client.get(f"/create?name={user.username}-{number}")
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, users))

    said = of(shops.events(), "tag.create")
    names = {str(user.pk): user.username for user in users}
    assert 40 == len(said)
    for event in said:
        assert event.changes["name"].new.startswith(f"{names[event.actor.id]}-")


def test_logins_and_logouts_are_captured(alice: User) -> None:
    """Who comes and who goes is recorded without code of the application."""
    client = Client()
    client.post("/enter", {"user": "alice", "password": "right"})
    client.get("/leave")

    said = [event for event in shops.events() if event.kind == "authentication"]
    assert ["auth.login", "auth.logout"] == [event.action for event in said]
    assert {str(alice.pk)} == {event.actor.id for event in said}


def test_a_login_that_failed_is_captured_without_what_was_typed(alice: User) -> None:
    """A failed attempt names the account if there is one, and never what was typed."""
    client = Client()
    client.post("/enter", {"user": "alice", "password": "wr0ng"})
    client.post("/enter", {"user": "my-passw0rd", "password": "x"})

    known, unknown = shops.events()
    assert ("failure", "failure") == (known.outcome, unknown.outcome)
    assert (str(alice.pk), "wrong credentials") == (known.actor.id, known.reason)
    assert ("anonymous", "unknown account") == (unknown.actor.type, unknown.reason)
    bodies = "".join(Outbox.objects.values_list("body", flat=True))
    assert "passw0rd" not in bodies
    assert "wr0ng" not in bodies


def test_a_failed_login_is_kept_when_its_request_is_rolled_back(audit: Trail) -> None:
    """That somebody tried is recorded, whatever becomes of the transaction around it."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Client().post("/enter", {"user": "nobody", "password": "x"})
        raise ZeroDivisionError

    (item,) = audit.search("action:auth.login outcome:failure").items
    assert "unknown account" == item.event.reason


def test_a_password_is_known_to_have_changed(alice: User) -> None:
    """That a password changed is captured, and nothing of it; hashing it anew is no change."""
    alice.set_password("n3w")
    alice.save()
    said = shops.events()
    Outbox.objects.all().delete()
    with override_settings(
        PASSWORD_HASHERS=[
            "django.contrib.auth.hashers.PBKDF2PasswordHasher",
            "django.contrib.auth.hashers.MD5PasswordHasher",
        ]
    ):
        assert alice.check_password("n3w")
    anew = shops.events()

    assert {"user.update", "auth.password_change"} == {event.action for event in said}
    assert ["user.update"] == [event.action for event in anew]
    assert "md5" not in "".join(Outbox.objects.values_list("body", flat=True))


def test_rights_are_captured_as_such(alice: User) -> None:
    """Who is given which rights is a change of rights, and goes to the administrators' stream."""
    group = Group.objects.create(name="g")
    alice.groups.add(group)
    group.permissions.add(Permission.objects.first())
    alice.is_superuser = True
    alice.save()
    alice.email = "alice@example.com"
    alice.save()

    kinds = {event.action: event.kind for event in shops.events()}
    *_, last = shops.events()
    assert "permission_change" == kinds["user.groups.add"] == kinds["group.permissions.add"]
    assert "data_change" == last.kind
    assert ["permission_change", "data_change"] == [
        event.kind for event in of(shops.events(), "user.update")
    ]


def test_an_event_of_the_application_is_kept_if_its_transaction_is() -> None:
    """What the application records in a transaction is there if and only if that commits."""
    with transaction.atomic():
        kept = record("order.approve", resource="order:7", actor="user:alice")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record("order.approve", resource="order:8", actor="user:alice")
        raise ZeroDivisionError

    (event,) = shops.events()
    assert (kept, "order:7") == (event.id, str(event.resource))


def test_the_relay_brings_everything_into_the_trail(audit: Trail) -> None:
    """What was captured is found in the trail, once, with its values in the vault."""
    product = Product.objects.create(name="a", price=Decimal("1.50"))
    Product.objects.update(price=F("price") * 2)

    first, again = relay(audit), relay(audit)

    assert (2, 0) == (first, again)
    items = audit.history(f"product:{product.pk}")
    assert ["product.create", "product.update"] == [item.event.action for item in items]
    price = (items[1].event.changes or {})["price"]
    assert ("1.50", "3.00") == (price.old, price.new)
    assert audit.verify().passed


def test_in_process_the_trail_follows_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a trail in the settings, what is committed arrives there without a further process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with override_settings(INDELIBLE={"TRAIL": tmp_path / "trail"}):
        with transaction.atomic():
            Tag.objects.create(name="a")
            Tag.objects.create(name="b")
        relaying.stop()

    with indelible.open(tmp_path / "trail") as audit:
        assert 2 == len(audit.search("action:tag.create").items)
    assert 0 == Outbox.objects.count()


def test_a_row_is_known_as_it_was(audit: Trail) -> None:
    """What a row held at a time can be asked, as far as the trail knows."""
    product = Product.objects.create(name="a", price=Decimal("1.50"), data={"x": [1]})
    tag = Tag.objects.create(name="t")
    product.tags.add(tag)
    relay(audit)
    then = datetime.now(UTC)
    Product.objects.update(price=9, name="b", data=None)
    relay(audit)

    before, now = as_of(product, then), as_of(product, datetime.now(UTC))

    assert ("a", Decimal("1.50"), {"x": [1]}) == (before.name, before.price, before.data)
    assert ("b", Decimal("9.00"), None) == (now.name, now.price, now.data)
    assert product.pk == before.pk
    with pytest.raises(NotFound, match="knows nothing"):
        as_of(product, datetime(2020, 1, 1, tzinfo=UTC))
    assert () == audit.state(f"product:{product.pk}").unexplained
    assert [str(tag.pk)] == audit.state(f"product:{product.pk}").values["tags"].value


def test_the_pages_of_the_admin_show_the_trail_to_whoever_may(audit: Trail, tmp_path: Path) -> None:
    """The trail can be read, filtered and proven in the admin, by those with the permission."""
    root = User.objects.create_superuser("root", password="r")
    staff = User.objects.create_user("staff", password="s", is_staff=True)
    with indelible.context(actor=f"user:{root.pk}", rationale="<script>alert(1)</script>"):
        product = Product.objects.create(name="<b>a</b>", stock=1, token="s3cret")
        Product.objects.update(stock=2)
    relay(audit)
    client, other = Client(), Client()
    client.force_login(root)
    other.force_login(staff)

    with override_settings(
        INDELIBLE={"TRAIL": tmp_path / "trail", "RELAY": False, "ROLE": "privacy_officer"}
    ):
        listed = client.get("/admin/indelible/entry/?action=product.*")
        history = client.get(f"/admin/django_project/product/{product.pk}/history/")
        entry = client.get("/admin/indelible/entry/user/1/")
        proof = client.get("/admin/indelible/entry/user/1/proof")
        exact = client.get("/admin/indelible/entry/user/1/entry")
        wrong = client.get("/admin/indelible/entry/?since=never")
        missing = client.get("/admin/indelible/entry/user/99999/")
        refused = other.get("/admin/indelible/entry/")

    (item,) = audit.search("action:product.update").items
    assert item.recorded_at.strftime("%Y-%m-%d %H:%M:%S").encode() in listed.content
    assert (200, 404, 403) == (listed.status_code, missing.status_code, refused.status_code)
    assert b"product.update" in listed.content
    assert b"<del>1</del><ins>2</ins>" in history.content
    assert b"&lt;b&gt;a&lt;/b&gt;" in history.content
    assert b"<script>alert" not in entry.content + listed.content
    assert b"s3cret" not in history.content + entry.content
    assert b"since" in wrong.content
    from indelible.proof import Proof  # noqa: PLC0415 - only here

    Proof.from_bytes(proof.content).verify(exact.content, [audit.verifier_key()], index=1)


def test_a_role_that_sees_no_values_is_shown_none(audit: Trail) -> None:
    """Without another role in the settings the admin shows what everybody may see."""
    root = User.objects.create_superuser("root", password="r")
    Product.objects.create(name="Alice's thing")
    relay(audit)
    client = Client()
    client.force_login(root)

    page = client.get("/admin/indelible/entry/user/0/").content.decode()

    assert "Alice" not in page
    assert "withheld" in page


def test_what_cannot_be_captured_is_refused_at_start() -> None:
    """Whoever asks for what cannot be is told so at once."""
    with pytest.raises(ImproperlyConfigured, match="is a proxy"):
        from tests.frameworks.django_project.models import Cheap  # noqa: PLC0415

        track()(Cheap)
    with pytest.raises(ImproperlyConfigured, match="no field"):
        track(secret=["nothing"])(Tag)
        tracking.resolve()
    track()(Tag)
    with pytest.raises(ImproperlyConfigured, match="both are 'order'"):
        track(type="order")(Tag)
        tracking.resolve()
    track()(Tag)
    tracking.resolve()
    with pytest.raises(ImproperlyConfigured, match="collection"):
        track(exclude="name")
    with (
        pytest.raises(ImproperlyConfigured, match="expected one of TRAIL"),
        override_settings(INDELIBLE={"TRIAL": "x"}),
    ):
        Settings.read()


def test_another_django_than_the_known_one_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version of Django that goes around the hooks is found when it starts."""
    monkeypatch.setattr(compilers, "_captured", lambda _: None)

    with pytest.raises(ImproperlyConfigured, match="do not see"):
        selftest.run()


def test_checks_say_what_is_missing(audit: Trail, capsys: pytest.CaptureFixture[str]) -> None:
    """`manage.py check` finds what would leave entries without an actor, or values in clear."""
    with override_settings(MIDDLEWARE=[]):
        without = {each.id for each in run_checks(tags=["indelible"])}
    call_command("indelible_policy")

    assert audit.id
    assert "indelible.W001" in without
    assert '"/changes/note@product" = { class = "personal"' in capsys.readouterr().out


def test_the_command_relays_and_tells_what_waits(
    audit: Trail, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator sees what waits, moves it, and sees that nothing does."""
    Tag.objects.create(name="a")
    Outbox.objects.create(body="poison")

    call_command("indelible_relay", "--status")
    call_command("indelible_relay", "--once")
    call_command("indelible_relay", "--status")

    before, moved, after = capsys.readouterr().out.splitlines()
    assert '"rows": 2' in before
    assert "1 events recorded" in moved
    assert '"rows": 0' in after
    assert '"quarantined": 1' in after
    assert audit.search("action:tag.create").items


def test_a_table_of_another_database_has_its_own_outbox(tmp_path: Path) -> None:
    """A statement is captured in the database that it runs in, or not at all."""
    path = tmp_path / "other.sqlite3"
    connections.settings["other"] = connections.configure_settings(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}}
    )["default"]
    try:
        with connections["other"].schema_editor() as editor:
            editor.create_model(Tag)
        with pytest.raises(OperationalError, match="indelible_outbox"):
            Tag.objects.using("other").create(name="a")
        assert 0 == Tag.objects.using("other").count()
        with connections["other"].schema_editor() as editor:
            editor.create_model(Outbox)
        Tag.objects.using("other").create(name="a")
        assert 1 == Outbox.objects.using("other").count()
        assert 0 == Outbox.objects.using("default").count()
    finally:
        connections["other"].close()
        del connections["other"]
        del connections.settings["other"]


class Replica:
    """A router that has everything read from a replica."""

    def db_for_read(self, model: Any, **_: Any) -> str:  # noqa: ARG002 - as Django calls it
        """Return the replica."""
        return "replica"

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        """Both are the same."""
        return True


def test_old_values_are_not_read_from_a_replica(tmp_path: Path) -> None:
    """What a replica holds may be old: what is captured comes from where it is written."""
    product = Product.objects.create(name="a", stock=1)
    Outbox.objects.all().delete()
    connections.settings["replica"] = connections.configure_settings(
        {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(tmp_path / "is-not-there" / "x"),
            }
        }
    )["default"]
    try:
        with override_settings(DATABASE_ROUTERS=[Replica()]):
            product.stock = 2
            product.save()
            Product.objects.filter(stock=2).update(stock=F("stock") + 1)
            with pytest.raises(OperationalError):
                Product.objects.get()
    finally:
        connections["replica"].close()
        del connections["replica"]
        del connections.settings["replica"]

    changes = [event.changes["stock"] for event in shops.events()]
    assert [(1, 2), (2, 3)] == [(change.old, change.new) for change in changes]


def test_an_object_that_is_not_saved_yet_breaks_nothing() -> None:
    """What Django itself refuses is refused as before, and leaves nothing behind."""
    with pytest.raises(ValueError, match="unsaved related object"):
        Order.objects.create(product=Product(name="unsaved"))

    assert [] == shops.events()


def test_migrations_are_those_of_the_models() -> None:
    """The tables that migrations make are those that the models describe."""
    call_command("makemigrations", "indelible", "--check", "--dry-run", verbosity=0)


def test_keys_of_many_rows_cannot_be_moved_unseen(shop: str) -> None:
    """Where nobody could tell which row is which afterwards, the statement is refused."""

    class Moved(models.Model):
        n = models.IntegerField()

        class Meta:
            app_label = "django_project"
            apps = Apps()

    track(type="moved")(Moved)
    tracking.resolve()
    try:
        with connection.schema_editor() as editor:
            editor.create_model(Moved)
        Moved.objects.bulk_create([Moved(pk=1, n=1), Moved(pk=2, n=2)])
        Outbox.objects.all().delete()
        Moved.objects.filter(pk=1).update(id=10)
        if shop == "postgresql_18":
            Moved.objects.update(id=F("id") + 100)
        else:
            with pytest.raises(DatabaseError, match="primary keys of 2 rows"):
                Moved.objects.update(id=F("id") + 100)
        said = shops.events()
    finally:
        tracking.forget(Moved)
        with connection.schema_editor() as editor:
            editor.delete_model(Moved)

    assert "1" == said[0].resource.id
    assert (3 if shop == "postgresql_18" else 1) == len(said)


def test_with_triggers_what_django_does_is_captured_once(shop: str) -> None:
    """A model that triggers capture is captured by them alone, in the words of Django."""
    if shop == "sqlite":
        track(triggers=True)(Order)
        tracking.resolve()
        with pytest.raises(CommandError, match="expected postgresql"):
            call_command("indelible_triggers")
        with pytest.raises(DatabaseError, match="captured by triggers"):
            Order.objects.create(total=1)
        track()(Order)
        tracking.resolve()
        return
    track(triggers=True)(Order)
    tracking.resolve()
    try:
        before = {each.id for each in run_checks(databases=["default"], tags=["database"])}
        call_command("indelible_triggers")
        after = {each.id for each in run_checks(databases=["default"], tags=["database"])}
        with indelible.context(actor="user:7", rationale="PO-99"):
            order = Order.objects.create(total=1)
            Order.objects.update(total=F("total") + 1)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_project_order SET total = 5")
        with transaction.atomic(), indelible.context(actor="user:8"):
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                order.delete()
                raise ZeroDivisionError
            Order.objects.update(total=6)
        said = shops.events()
    finally:
        track()(Order)
        tracking.resolve()
        with transaction.atomic():
            triggers.remove(connection.connection, "django_project_order")

    assert "indelible.W006" in before
    assert not {"indelible.W006", "indelible.W007"} & after
    assert ["order.create", "order.update", "order.update", "order.update"] == [
        event.action for event in said
    ]
    assert {"product", "total"} == set(said[0].changes)
    assert [(1, 2), (2, 5), (5, 6)] == [
        (event.changes["total"].old, event.changes["total"].new) for event in said[1:]
    ]
    assert ["7", "7", None, "8"] == [
        event.actor.id if event.actor.type == "user" else None for event in said
    ]


def test_a_relation_through_a_model_of_its_own_is_not_forgotten() -> None:
    """Whoever tracks a model is told of the rows beside it that are not captured."""

    class Club(models.Model):
        name = models.CharField(max_length=10)
        members = models.ManyToManyField(Tag, through="Membership")

        class Meta:
            app_label = "django_project"
            apps = Apps()

    class Membership(models.Model):
        club = models.ForeignKey(Club, on_delete=models.CASCADE)
        tag = models.ForeignKey(Tag, on_delete=models.CASCADE)

        class Meta:
            app_label = "django_project"
            apps = Club._meta.apps

    track()(Club)
    tracking.resolve()
    try:
        without = {each.id for each in run_checks(tags=["indelible"])}
        track()(Membership)
        tracking.resolve()
        with_it = {each.id for each in run_checks(tags=["indelible"])}
    finally:
        tracking.forget(Club)
        tracking.forget(Membership)

    assert "indelible.W008" in without
    assert "indelible.W008" not in with_it
