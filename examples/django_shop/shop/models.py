"""What the shop keeps. `track` has every change of it recorded."""

from __future__ import annotations

from django.db import models

from indelible.frameworks.django import track


@track(secret=["iban"], personal=["name", "email"])
class Customer(models.Model):
    """Somebody who buys."""

    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    iban = models.CharField(max_length=34, blank=True)

    def __str__(self) -> str:
        return f"customer {self.pk}"


@track()
class Label(models.Model):
    """What a product can be called."""

    name = models.CharField(max_length=30, unique=True)

    def __str__(self) -> str:
        return self.name


@track(exclude=["views"])
class Product(models.Model):
    """Something to buy. How often it was looked at, nobody needs to prove."""

    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=9, decimal_places=2)
    stock = models.PositiveIntegerField(default=0)
    views = models.PositiveIntegerField(default=0)
    labels = models.ManyToManyField(Label, blank=True)

    def __str__(self) -> str:
        return self.name


@track()
class Order(models.Model):
    """What a customer has bought."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    status = models.CharField(max_length=10, default="open")
    total = models.DecimalField(max_digits=9, decimal_places=2, default=0)

    def __str__(self) -> str:
        return f"order {self.pk}"


@track(type="order_line")
class Line(models.Model):
    """One product of an order."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    count = models.PositiveIntegerField(default=1)

    def __str__(self) -> str:
        return f"{self.count} × {self.product_id}"
