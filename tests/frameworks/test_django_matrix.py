"""Every way in which Django changes rows, on every database, held against the tables."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, F, Value, When
from django.db.models.functions import Upper

from tests.frameworks import shops
from tests.frameworks.django_project.models import (
    Cheap,
    Line,
    Node,
    Order,
    Pair,
    Place,
    Point,
    Product,
    Restaurant,
    Tag,
    Untracked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("shop")


def products(count: int = 3) -> list[Product]:
    """Make some, and return them."""
    return [
        Product.objects.create(name=f"p{n}", sku=f"s{n}", stock=n, price=Decimal(n) / 4)
        for n in range(count)
    ]


def saved() -> None:
    """Save a new row."""
    Product(name="new", price="1.50", made_on=date(2026, 11, 24)).save()


def saved_again() -> None:
    """Save a row that is there."""
    product = products(1)[0]
    product.stock = 9
    product.save()


def saved_some_fields() -> None:
    """Save named fields of a row."""
    product = products(1)[0]
    product.stock, product.name = 9, "not saved"
    product.save(update_fields=["stock"])


def saved_an_expression() -> None:
    """Let the database compute the new value."""
    product = products(1)[0]
    product.stock = F("stock") + 5
    product.save()


def saved_without_a_change() -> None:
    """Save what is there already."""
    products(1)[0].save()


def saved_with_a_key() -> None:
    """Save a row under a key of one's own, twice."""
    Product(pk=77, name="own key").save()
    Product(pk=77, name="another").save()


def created_or_not() -> None:
    """Get or create, and update or create, each once of each kind."""
    Tag.objects.get_or_create(name="a")
    Tag.objects.get_or_create(name="a")
    Product.objects.update_or_create(sku="u", defaults={"name": "first"})
    Product.objects.update_or_create(sku="u", defaults={"name": "second"})


def updated() -> None:
    """Update many rows with a value."""
    products()
    Product.objects.filter(stock__gte=1).update(active=False)


def updated_by_an_expression() -> None:
    """Update many rows with an expression."""
    products()
    Product.objects.update(stock=F("stock") * 10, name=Upper("name"))


def updated_across_tables() -> None:
    """Update rows that another table chooses."""
    first, second, _ = products()
    Order.objects.create(product=first, total=5)
    Order.objects.create(product=second, total=7)
    Order.objects.filter(product__name="p1").update(total=70)


def updated_what_is_united() -> None:
    """Update what one or the other of two queries finds."""
    products()
    both = Product.objects.filter(stock=0) | Product.objects.filter(stock=2)
    both.update(active=False)


def updated_nothing() -> None:
    """Update no row, and none at all."""
    products()
    Product.objects.filter(pk__in=[]).update(stock=1)
    Product.objects.filter(stock=99).update(stock=1)


def updated_to_the_same() -> None:
    """Update to what is there."""
    products()
    Product.objects.filter(stock=1).update(stock=1)


def updated_in_bulk() -> None:
    """Update rows that each have a value of their own."""
    found = products()
    for product in found:
        product.stock += 100
    Product.objects.bulk_update(found, ["stock", "price"])


def updated_by_cases() -> None:
    """Update with a value for each case."""
    products()
    Product.objects.update(stock=Case(When(name="p1", then=Value(11)), default=F("stock")))


def created_in_bulk() -> None:
    """Create rows in one statement."""
    Product.objects.bulk_create([Product(name=f"b{n}", price=n) for n in range(20)])


def created_ignoring_conflicts() -> None:
    """Create rows, of which one is there already."""
    products(1)
    Product.objects.bulk_create(
        [Product(name="again", sku="s0"), Product(name="new", sku="s9")], ignore_conflicts=True
    )


def created_or_updated_in_bulk() -> None:
    """Create rows, or update them where they are."""
    products(2)
    Product.objects.bulk_create(
        [
            Product(name="again", sku="s0", stock=50),
            Product(name="new", sku="s9", stock=60),
            Product(name="p1", sku="s1", stock=1),
        ],
        update_conflicts=True,
        unique_fields=["sku"],
        update_fields=["name", "stock"],
    )


def deleted_one() -> None:
    """Delete a row."""
    products()[0].delete()


def deleted_many() -> None:
    """Delete what a query finds."""
    products()
    Tag.objects.bulk_create([Tag(name="a"), Tag(name="b")])
    Product.objects.filter(stock__gt=0).delete()
    Tag.objects.all().delete()


def deleted_raw() -> None:
    """Delete past the signals."""
    products()
    rows = Product.objects.filter(stock__gt=0)
    rows._raw_delete(rows.db)


def deleted_with_what_belongs_to_it() -> None:
    """Delete rows together with those that refer to them."""
    (product,) = products(1)
    order = Order.objects.create(product=product)
    Line.objects.bulk_create([Line(order=order, count=n) for n in range(3)])
    order.delete()


def deleted_what_others_refer_to() -> None:
    """Delete a row to which others refer, and lose only the reference."""
    (product,) = products(1)
    Order.objects.create(product=product)
    Order.objects.create(product=product)
    product.delete()


def many_to_many() -> None:
    """Add, remove, set and clear a relation, also from the other side."""
    first, second, _ = products()
    a, b, c = (Tag.objects.create(name=name) for name in "abc")
    first.tags.add(a, b)
    first.tags.add(a)
    first.tags.remove(b)
    first.tags.set([b, c])
    second.tags.set([a])
    a.products.add(first)
    c.products.remove(first)
    first.tags.clear()
    b.products.clear()
    a.products.clear()


def inherited() -> None:
    """Create, change and delete a row that lies in two tables."""
    restaurant = Restaurant.objects.create(name="a", stars=1)
    restaurant.name, restaurant.stars = "b", 2
    restaurant.save()
    Restaurant.objects.filter(stars=2).update(name="c", stars=3)
    Restaurant.objects.update(name="d")
    Place.objects.update(name="e")
    restaurant.delete()


def through_a_proxy() -> None:
    """Change rows through a proxy."""
    cheap = Cheap.objects.create(name="cheap")
    Cheap.objects.update(stock=3)
    cheap.delete()


def composite_keys() -> None:
    """Change rows with several columns as their key."""
    pair = Pair.objects.create(left=1, right="a,b", value=1)
    Pair.objects.create(left=1, right="c", value=1)
    pair.value = 2
    pair.save()
    Pair.objects.filter(left=1).update(value=F("value") + 1)
    Pair.objects.filter(right="c").delete()


def values_of_every_kind() -> None:
    """Write values that JSON has no word for."""
    product = Product.objects.create(
        name="é\N{SNOWMAN}",
        picture=b"\x00\xff" * 10,
        data={"a": [1, {"b": None}], "$secret": 1},
        ratio=0.1,
        made_at=datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=UTC),
        place=Point("1 2"),
        note="n" * 20_000,
    )
    product.picture, product.place, product.data = b"x" * 20_000, Point("3 4"), None
    product.save()
    Product.objects.update(
        price=F("price") + Decimal("0.10"), token="t0k3n", seen=datetime.now(UTC)
    )


def rows_in_a_circle() -> None:
    """Have rows refer to each other, and delete one with all that hangs on it."""
    first = Node.objects.create(name="a")
    second = Node.objects.create(name="b", parent=first)
    Node.objects.filter(pk=first.pk).update(parent=second)
    first.friends.add(second)
    first.delete()


def deferred_fields() -> None:
    """Save rows of which not all was read."""
    products()
    some = Product.objects.only("name").get(sku="s1")
    some.name = "read in part"
    some.save()
    rest = Product.objects.defer("name", "double").get(sku="s2")
    rest.stock = 44
    rest.save()


def no_finite_numbers() -> None:
    """Write what is no number, where the database has a place for it."""
    ratio = float("nan") if connection.vendor == "postgresql" else None
    product = Product.objects.create(name="a", ratio=ratio)
    product.save()
    Product.objects.update(ratio=float("inf"))
    Product.objects.update(ratio=float("-inf"))


def a_transaction_with_savepoints() -> None:
    """Keep what is before and after a savepoint that is rolled back."""
    (product,) = products(1)
    with transaction.atomic():
        Product.objects.update(stock=1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Product.objects.update(stock=2)
            product.delete()
            raise ZeroDivisionError
        Product.objects.update(stock=F("stock") + 10)


def a_transaction_that_is_rolled_back() -> None:
    """Do much, and take it back."""
    products()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Product.objects.update(stock=2)
        saved()
        Product.objects.filter(sku="s0").delete()
        raise ZeroDivisionError


def a_constraint_that_fails() -> None:
    """Fail in autocommit, and within a savepoint of a transaction that goes on."""
    first, second, _ = products()
    with pytest.raises(IntegrityError):
        Product.objects.filter(pk=first.pk).update(sku="s1")
    with pytest.raises(IntegrityError):
        Product.objects.create(name="twice", sku="s2")
    with transaction.atomic():
        Product.objects.filter(pk=second.pk).update(stock=8)
        with pytest.raises(IntegrityError), transaction.atomic():
            Product.objects.bulk_create([Product(name="x"), Product(name="y", sku="s2")])


def a_key_that_changes() -> None:
    """Change the primary key of a row."""
    products(1)
    Product.objects.filter(sku="s0").update(sku="moved")
    Tag.objects.create(pk=5, name="a")


def rights() -> None:
    """Give rights, and take them."""
    user = User.objects.create_user("alice", password="p")
    group = Group.objects.create(name="g")
    user.groups.add(group)
    group.permissions.set(Permission.objects.order_by("pk")[:3])
    user.user_permissions.add(*Permission.objects.order_by("pk")[:2])
    user.is_staff = True
    user.save()
    user.set_password("other")
    user.save()
    user.groups.clear()
    group.delete()


STEPS: list[Callable[[], None]] = [
    saved,
    saved_again,
    saved_some_fields,
    saved_an_expression,
    saved_without_a_change,
    saved_with_a_key,
    created_or_not,
    updated,
    updated_by_an_expression,
    updated_across_tables,
    updated_what_is_united,
    updated_nothing,
    updated_to_the_same,
    updated_in_bulk,
    updated_by_cases,
    created_in_bulk,
    created_ignoring_conflicts,
    created_or_updated_in_bulk,
    deleted_one,
    deleted_many,
    deleted_raw,
    deleted_with_what_belongs_to_it,
    deleted_what_others_refer_to,
    many_to_many,
    inherited,
    through_a_proxy,
    composite_keys,
    values_of_every_kind,
    rows_in_a_circle,
    deferred_fields,
    no_finite_numbers,
    a_transaction_with_savepoints,
    a_transaction_that_is_rolled_back,
    a_constraint_that_fails,
    a_key_that_changes,
    rights,
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_the_tables_say_and_what_the_trail_says_is_the_same(step: Callable[[], None]) -> None:
    """
    Whatever Django does to a row is captured once, with the true old and new values.

    Nothing is captured that did not happen, and nothing is left out.
    """
    said = shops.told(step)

    assert said or step is saved_without_a_change


# One that fails outside of a savepoint ends the transaction around it.
@pytest.mark.parametrize(
    "step",
    [each for each in STEPS if each is not a_constraint_that_fails],
    ids=lambda s: s.__name__,
)
def test_the_same_holds_within_one_transaction(step: Callable[[], None]) -> None:
    """Whether statements commit alone or together makes no difference to what is captured."""

    def within() -> None:
        with transaction.atomic():
            step()

    shops.told(within)


def test_each_row_of_a_bulk_operation_is_one_event() -> None:
    """A thousand rows changed by one statement are a thousand entries."""

    def step() -> None:
        Product.objects.bulk_create([Product(name=f"b{n}") for n in range(1000)])
        Product.objects.update(stock=7)
        Product.objects.all().delete()

    said = shops.told(step)

    assert 3000 == len(said) == len({event.id for event in said})
    assert {"product.create", "product.update", "product.delete"} == {e.action for e in said}


def test_what_is_not_tracked_is_not_captured() -> None:
    """Who did not ask for a table to be captured pays nothing for it."""

    def step() -> None:
        Untracked.objects.create(name="a")
        Untracked.objects.update(name="b")
        Untracked.objects.all().delete()

    assert [] == shops.told(step)


def test_secrets_never_reach_the_outbox() -> None:
    """Of a secret field only that it changed is kept, wherever one looks."""
    shops.told(lambda: Product.objects.create(name="a", token="s3cr3t-0ne"))
    said = shops.told(lambda: Product.objects.update(token="s3cr3t-tw0"))

    with connection.cursor() as cursor:
        cursor.execute("SELECT body FROM indelible_outbox")
        bodies = "".join(body for (body,) in cursor.fetchall())
    changes: Any = said[0].changes
    assert {"token"} == set(changes)
    assert "s3cr3t" not in bodies
