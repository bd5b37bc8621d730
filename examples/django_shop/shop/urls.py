"""Where the shop's pages are."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("buy", views.buy),
    path("cancel/<int:number>", views.cancel),
    path("restock", views.restock),
]
