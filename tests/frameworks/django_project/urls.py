"""Pages that change something, in every way in which Django and its kin answer requests."""

from __future__ import annotations

import threading
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.auth import authenticate, login, logout
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.views import APIView

from indelible.context import wrap
from indelible.frameworks.django import record
from indelible.frameworks.django.admin import TrackedAdmin
from tests.frameworks.django_project.models import Product, Tag

admin.site.register(Product, TrackedAdmin)


def create(request: Any) -> HttpResponse:
    """Make a tag with the name that is asked for."""
    Tag.objects.create(name=request.GET["name"])
    return HttpResponse("made")


async def create_async(request: Any) -> HttpResponse:
    """Make a tag in a coroutine."""
    await Tag.objects.acreate(name=request.GET["name"])
    return HttpResponse("made")


def create_in_thread(request: Any) -> HttpResponse:
    """Make a tag in a thread of its own, which is given the context."""

    def work() -> None:
        from django.db import connection  # noqa: PLC0415 - that of the thread

        Tag.objects.create(name=request.GET["name"])
        connection.close()

    thread = threading.Thread(target=wrap(work))
    thread.start()
    thread.join()
    return HttpResponse("made")


def stream(request: Any) -> StreamingHttpResponse:
    """Make tags while the answer is sent."""

    def parts() -> Any:
        for number in range(3):
            Tag.objects.create(name=f"{request.GET['name']}{number}")
            yield b"part\n"

    return StreamingHttpResponse(parts())


async def stream_async(request: Any) -> StreamingHttpResponse:
    """Make tags while the answer is sent, in a coroutine."""

    async def parts() -> Any:
        for number in range(3):
            await sync_to_async(Tag.objects.create)(name=f"{request.GET['name']}{number}")
            yield b"part\n"

    return StreamingHttpResponse(parts())


def enter(request: Any) -> HttpResponse:
    """Log in."""
    user = authenticate(request, username=request.POST["user"], password=request.POST["password"])
    if user is None:
        return HttpResponse("no", status=403)
    login(request, user)
    return HttpResponse("yes")


def leave(request: Any) -> HttpResponse:
    """Log out."""
    logout(request)
    return HttpResponse("bye")


def approve(request: Any) -> HttpResponse:  # noqa: ARG001
    """Record what is no change of a row."""
    return JsonResponse({"id": record("order.approve", resource="order:7", rationale="PO-99")})


class Token(BaseAuthentication):
    """Reads who asks from a header, after all middleware has run."""

    def authenticate(self, request: Any) -> Any:
        """Return the user that the header names."""
        from django.contrib.auth.models import User  # noqa: PLC0415 - once the models are there

        name = request.headers.get("Authorization", "").removeprefix("Token ")
        user = User.objects.filter(username=name).first()
        if user is None:
            raise AuthenticationFailed
        return user, None


class Create(APIView):
    """Make a tag, in Django REST framework."""

    authentication_classes = (Token,)

    def post(self, request: Any) -> HttpResponse:
        """Make it."""
        Tag.objects.create(name=request.query_params["name"])
        return HttpResponse("made")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("create", create),
    path("create-async", create_async),
    path("create-in-thread", create_in_thread),
    path("stream", stream),
    path("stream-async", stream_async),
    path("enter", enter),
    path("leave", leave),
    path("approve", approve),
    path("api/create", Create.as_view()),
]
