"""What holds around the capture in Django: secrets, locks, odd conditions, actors that go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.apps.registry import Apps
from django.contrib.auth import logout, user_logged_in, user_logged_out
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, connections, models, router, transaction
from django.db.models import F, Subquery, Value
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from indelible.context import Context, Work, begun
from indelible.event import Actor
from indelible.frameworks.django import AuditMiddleware, track, tracking
from indelible.frameworks.django.models import Outbox
from tests.frameworks import shops
from tests.frameworks.django_project.models import Order, Product, Tag, Untracked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("shop")


def made(name: str, base: Any = models.Model, apps: Any = None, **fields: Any) -> Any:
    """Return a model that no application has."""
    meta = type("Meta", (), {"app_label": "loose", "apps": apps or Apps()})
    return type(name, (base,), {"__module__": __name__, "Meta": meta, **fields})


@pytest.fixture
def forgotten() -> Iterator[list[Any]]:
    """Models that are captured no longer when the test ends."""
    found: list[Any] = []
    yield found
    for model in reversed(found):
        tracking._asked.pop(model, None)
    tracking.resolve()


def test_a_foreign_key_is_secret_by_the_name_of_its_column_too(forgotten: list[Any]) -> None:
    """Who writes owner_id for owner gets no value of it into the trail."""
    apps = Apps()
    owner = made("Owner", apps=apps)
    key = models.ForeignKey(owner, on_delete=models.CASCADE)
    model = track(secret=["owner_id"])(made("Owned", apps=apps, owner=key))
    forgotten.append(model)

    tracking.resolve()

    table = tracking.table_of(model)
    assert isinstance(table, tracking.Table)
    assert {"owner"} == table.tracked.secret


@pytest.mark.parametrize("name", ["id", "tags"])
def test_a_secret_that_stands_in_every_event_is_refused(name: str, forgotten: list[Any]) -> None:
    """Neither a primary key nor a many-to-many relation can be secret, and who asks is told."""
    apps = Apps()
    tags = models.ManyToManyField(made("Label", apps=apps))
    model = track(secret=[name])(made("Tagged", apps=apps, tags=tags))
    forgotten.append(model)

    with pytest.raises(ImproperlyConfigured, match=f"secret names '{name}'"):
        tracking.resolve()


def test_a_secret_of_the_parents_table_is_refused_where_the_parent_shows_it(
    forgotten: list[Any],
) -> None:
    """A child cannot hide a column that its parent's own events would show."""
    apps = Apps()
    parent = track()(made("Parent", apps=apps, ssn=models.TextField()))
    child = track(secret=["ssn"])(made("Child", parent, apps))
    forgotten += [parent, child]

    with pytest.raises(ImproperlyConfigured, match="'ssn' is secret here"):
        tracking.resolve()


def test_a_row_that_is_drawn_by_lot_is_the_row_of_the_event() -> None:
    """A primary key that a query finds anew each time is that of the row which changed."""
    Product.objects.bulk_create([Product(name=f"p{n}") for n in range(40)])
    one = Product.objects.order_by("?").values("pk")[:1]

    for _ in range(5):
        shops.told(lambda: Product.objects.filter(pk=Subquery(one)).update(stock=1))
        Product.objects.update(stock=0)


def test_rows_that_are_drawn_by_lot_are_all_changed() -> None:
    """As many rows as were asked for are changed, and told."""
    Product.objects.bulk_create([Product(name=f"p{n}") for n in range(40)])
    some = Product.objects.order_by("?").values("pk")[:3]
    counts: list[int] = []

    said = shops.told(
        lambda: counts.append(Product.objects.filter(pk__in=some).update(active=False))
    )

    assert [3] == counts
    assert 3 == len(said)


def test_two_orders_of_one_product_do_not_end_in_a_deadlock(shop: str) -> None:
    """Two who each refer to a row and then change it take turns, as they do without capture."""
    if shop == "sqlite":
        assert "sqlite" == connection.vendor  # one writer at a time
        return
    product = Product.objects.create(name="p", stock=5)
    both = threading.Barrier(2)
    failed: list[Exception] = []

    def ordered() -> None:
        try:
            with transaction.atomic():
                Order.objects.create(product=product, total=1)
                with connection.cursor() as cursor:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                both.wait(20)
                Product.objects.filter(pk=product.pk).update(stock=F("stock") - 1)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ordered) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    product.refresh_from_db()
    assert [] == failed
    assert 3 == product.stock


def test_a_lookup_of_the_actor_may_write_a_captured_row() -> None:
    """What authentication itself changes has an actor unknown yet, and the rest its own."""

    def looked_up() -> Actor:
        Tag.objects.get_or_create(name="seen")
        return Actor(type="user", id="alice")

    with begun(Work(Context(), looked_up)):
        Tag.objects.create(name="a")

    said = {event.changes["name"].new: str(event.actor) for event in shops.events()}
    assert {"seen": "unknown", "a": "user:alice"} == said


def test_a_lookup_of_the_actor_may_have_a_transaction() -> None:
    """A session that is saved while the user is looked up does not break the statement."""

    def looked_up() -> Actor:
        with transaction.atomic():
            Untracked.objects.create(name="session")
        return Actor(type="user", id="alice")

    with begun(Work(Context(), looked_up)):
        Tag.objects.create(name="a")

    assert ["user:alice"] == [str(event.actor) for event in shops.events()]


def test_who_deletes_the_own_account_is_named_to_the_end() -> None:
    """After the deletion, and for the logout, the actor is the user and not None."""
    user = User.objects.create_user("alice")
    name = f"user:{user.pk}"
    request = RequestFactory().post("/")
    request.user, request.session = user, SessionStore()

    def view(asked: HttpRequest) -> HttpResponse:
        asked.user.delete()
        Tag.objects.create(name="after")
        logout(asked)
        return HttpResponse()

    AuditMiddleware(view)(request)

    said = [(event.action, str(event.actor)) for event in shops.events()]
    assert [("user.delete", name), ("tag.create", name), ("auth.logout", name)] == said[-3:]
    assert name == str(shops.events()[-1].resource)


def test_one_tag_that_takes_the_place_of_another_is_captured() -> None:
    """When tags are merged by an UPDATE of the relation, the one goes and the other comes."""
    old, new = Tag.objects.create(name="old"), Tag.objects.create(name="new")
    for name in ("a", "b"):
        Product.objects.create(name=name).tags.add(old)

    said = shops.told(lambda: Product.tags.through.objects.filter(tag=old).update(tag=new))

    assert ["product.tags.remove", "product.tags.add"] * 2 == [event.action for event in said]


def test_an_update_of_a_relation_to_what_it_is_says_nothing() -> None:
    """Where no row becomes another one there is no event."""
    tag = Tag.objects.create(name="t")
    Product.objects.create(name="a").tags.add(tag)

    assert [] == shops.told(lambda: Product.tags.through.objects.update(tag=tag))


@pytest.mark.parametrize("name", ["Order Line", "größe", ".hidden", ""])
def test_a_type_that_no_event_can_have_is_refused_at_start(name: str) -> None:
    """Nobody finds out from the rows that were put aside that nothing was recorded."""
    meta = type("Meta", (), {"app_label": "loose", "apps": Apps()})
    model = type("Größe", (models.Model,), {"__module__": __name__, "Meta": meta})
    track(type=name or None)(model)
    try:
        with pytest.raises(ImproperlyConfigured, match="cannot stand in an event"):
            tracking.resolve()
    finally:
        tracking.forget(model)


def test_a_transaction_that_sql_began_can_be_rolled_back_by_sql(shop: str) -> None:
    """What is saved after a BEGIN of the application is gone with its ROLLBACK, said or not."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1" if shop == "sqlite" else "BEGIN")
    if shop == "sqlite":
        assert connection.get_autocommit()  # there each statement is in one of its own
        return

    Tag.objects.create(name="a")
    Tag.objects.update(name="b")
    said = len(shops.events())
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")

    assert 2 == said
    assert 0 == Tag.objects.count()
    assert [] == shops.events()


def test_an_upsert_by_an_expression_is_captured() -> None:
    """A unique field that the database computes finds the row, and its old values."""
    Product.objects.create(name="old", sku="a")

    said = shops.told(
        lambda: Product.objects.bulk_create(
            [Product(name="new", sku=Lower(Value("A")))],
            update_conflicts=True,
            unique_fields=["sku"],
            update_fields=["name"],
        )
    )

    assert ["product.update"] == [event.action for event in said]


class Elsewhere:
    """A router that keeps all tables in another database."""

    def db_for_read(self, *_: Any, **__: Any) -> str:
        """Say where."""
        return "other"

    db_for_write = db_for_read


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database besides the default one, which has no tables at all."""
    connections.settings["other"] = connections.configure_settings(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other")}}
    )["default"]
    call_command("migrate", database="other", run_syncdb=True, verbosity=0)
    monkeypatch.setattr(router, "routers", [Elsewhere()])
    yield "other"
    connections["other"].close()
    del connections["other"]
    del connections.settings["other"]


def test_logins_are_written_where_the_users_are(other: str) -> None:
    """A default database without an outbox stops nobody from logging in or out."""
    user = User.objects.create_user("alice")
    Outbox.objects.all().delete()

    user_logged_in.send(User, request=None, user=user)
    user_logged_out.send(User, request=None, user=user)

    assert 2 == Outbox.objects.using(other).count()
