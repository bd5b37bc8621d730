"""The shop in Django's admin; the button "History" of each object shows the trail."""

from __future__ import annotations

from django.contrib import admin

from indelible.frameworks.django.admin import TrackedAdmin
from shop.models import Customer, Label, Order, Product

admin.site.register([Customer, Label, Order, Product], TrackedAdmin)
