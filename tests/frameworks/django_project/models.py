"""Tables of every kind."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models.functions import Now

from indelible.frameworks.django import track


class Point:
    """A type that JSON has no word for."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Point {self.text}>"


class PointField(models.TextField):
    """Holds a `Point`."""

    def from_db_value(self, value: str | None, *_: Any) -> Point | None:
        """Read one."""
        return None if value is None else Point(value)

    def get_prep_value(self, value: Any) -> Any:
        """Write one."""
        return value.text if isinstance(value, Point) else value


@track()
class Tag(models.Model):
    """What a product can be called."""

    name = models.CharField(max_length=50, unique=True)


@track(exclude=["seen"], secret=["token"], personal=["note"])
class Product(models.Model):
    """A row with a field of each kind."""

    name = models.CharField(max_length=100)
    sku = models.CharField(max_length=20, null=True, unique=True)
    price = models.DecimalField(max_digits=9, decimal_places=2, default=0)
    stock = models.IntegerField(default=0)
    active = models.BooleanField(default=True)
    token = models.CharField(max_length=100, default="")
    note = models.TextField(default="")
    seen = models.DateTimeField(null=True)
    made_at = models.DateTimeField(null=True)
    made_on = models.DateField(null=True)
    ratio = models.FloatField(null=True)
    data = models.JSONField(null=True)
    picture = models.BinaryField(null=True)
    key = models.UUIDField(default=uuid.uuid4)
    place = PointField(null=True)
    entered = models.DateTimeField(db_default=Now())
    double = models.GeneratedField(
        expression=models.F("stock") * 2, output_field=models.IntegerField(), db_persist=True
    )
    tags = models.ManyToManyField(Tag, related_name="products")


@track()
class Order(models.Model):
    """Something with lines."""

    product = models.ForeignKey(Product, on_delete=models.SET_NULL, null=True)
    total = models.IntegerField(default=0)


@track(type="order_line")
class Line(models.Model):
    """Goes with its order."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    count = models.PositiveIntegerField(default=1)

    class Meta:
        """What must hold."""

        constraints: ClassVar = [
            models.UniqueConstraint(fields=["order", "count"], name="one_line_of_a_count")
        ]


@track()
class Place(models.Model):
    """A table that another inherits from."""

    name = models.CharField(max_length=50)


@track()
class Restaurant(Place):
    """A table that inherits."""

    stars = models.IntegerField(default=0)


class Cheap(Product):
    """Another way to see a product."""

    class Meta:
        """It has no table."""

        proxy = True


@track()
class Pair(models.Model):
    """A row with a composite primary key."""

    pk = models.CompositePrimaryKey("left", "right")
    left = models.IntegerField()
    right = models.CharField(max_length=10)
    value = models.IntegerField(default=0)


@track()
class Node(models.Model):
    """A row that others of its kind hang on, in a circle perhaps."""

    name = models.CharField(max_length=50)
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True)
    friends = models.ManyToManyField("self")


class Untracked(models.Model):
    """What nobody asked for."""

    name = models.CharField(max_length=50)
