"""
The trail in Django's admin: read only, as the role that the settings give.

A list with filters, an entry with its changes and its proof, and the history of an object
for model admins that derive from `TrackedAdmin`. Who may look has the permission
``indelible.view_entry``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.http import urlencode
from msgspec import UNSET, json

import indelible
from indelible.capture import shown
from indelible.errors import CallerError, IndelibleError, NotFound
from indelible.frameworks.django.history import resource_of
from indelible.frameworks.django.models import Entry
from indelible.frameworks.django.settings import Settings
from indelible.query import Query, prove

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from indelible import Change, Trail
    from indelible.query import Item

PAGE = 50
"""Entries on a page of the list, and of a history."""

_FILTERS = ("actor", "action", "resource", "outcome", "since", "until", "text")
_VIEW = "indelible.view_entry"


class Line(NamedTuple):
    """A field of an entry, or its change, as a page shows it."""

    name: str
    old: str | None
    new: str | None
    state: str


@contextmanager
def reading(request: Any) -> Iterator[Trail]:
    """
    Open the trail for whoever makes *request*.

    Raises:
        PermissionDenied: They may not see it.
        CallerError: The settings name no trail, or a role that there is not.
    """
    if not request.user.has_perm(_VIEW):
        raise PermissionDenied
    settings = Settings.read()
    if settings.trail is None:
        raise CallerError("INDELIBLE['TRAIL']: found none, so there is nothing to show here")
    purpose = f"Django admin, user:{request.user.pk}"
    with indelible.open(settings.trail, mode="r", role=settings.role, purpose=purpose) as trail:
        yield trail


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    """The list of entries, and each of them."""

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        """Tell whether the trail may be seen."""
        return bool(request.user.has_perm(_VIEW))

    def has_add_permission(self, request: Any) -> bool:  # noqa: ARG002
        """Nobody adds an entry here."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        """Nobody changes one anywhere."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        """Nobody deletes one here."""
        return False

    def get_urls(self) -> list[Any]:
        """Return the pages: the list, an entry, and the two files of its proof."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="indelible_entry_changelist"),
            path("<str:log>/<int:index>/", view(self.entry), name="indelible_entry"),
            path("<str:log>/<int:index>/<str:file>", view(self.file), name="indelible_file"),
        ]

    def changelist_view(self, request: Any, extra_context: Any = None) -> Any:  # noqa: ARG002
        """Show a page of the entries that the filters ask for, newest first."""
        given = {name: request.GET.get(name, "").strip() for name in _FILTERS}
        cursor = request.GET.get("cursor") or None
        context = {
            **self.admin_site.each_context(request),
            "title": "Audit trail",
            "opts": Entry._meta,
            "filters": given,
            "outcomes": list(indelible.Outcome),
        }
        try:
            with reading(request) as trail:
                page = trail.search(_asked(given), limit=PAGE, cursor=cursor)
                context["items"] = [summary(item) for item in page.items]
                context["role"] = trail.viewer.role
        except IndelibleError as error:
            context["error"] = str(error)
        else:
            if page.cursor is not None:
                set_filters = {name: value for name, value in given.items() if value}
                context["next"] = urlencode({**set_filters, "cursor": page.cursor})
        return TemplateResponse(request, "indelible/list.html", context)

    def entry(self, request: Any, log: str, index: int) -> Any:
        """Show one entry."""
        context = {**self.admin_site.each_context(request), "opts": Entry._meta}
        try:
            with reading(request) as trail:
                item = trail.at(log, index)
                key = str(trail.verifier_key(item.stream).to_text())
        except NotFound as error:
            raise Http404(str(error)) from error
        context |= {
            "title": f"{item.event.action} · {log}#{index}",
            "item": summary(item),
            "fields": _fields(item),
            "changes": changes(item),
            "key": key,
            "leaf": item.leaf_hash.hex(),
        }
        return TemplateResponse(request, "indelible/entry.html", context)

    def file(self, request: Any, log: str, index: int, file: str) -> Any:
        """Give the exact bytes of an entry, or the proof that they are in the log."""
        try:
            with reading(request) as trail, trail.store.read() as view:
                item = trail.at(log, index)
                found = {
                    "entry": item.entry.to_bytes,
                    "proof": prove(view, log, index).to_bytes,
                }.get(file)
        except NotFound as error:
            raise Http404(str(error)) from error
        if found is None:
            raise Http404(file)
        name = f"{log}-{index}.{'entry' if file == 'entry' else 'tlog-proof'}"
        response = HttpResponse(found(), content_type="application/octet-stream")
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response


class TrackedAdmin(admin.ModelAdmin):
    """An admin of a tracked model, whose objects show their history from the trail."""

    def history_view(self, request: Any, object_id: str, extra_context: Any = None) -> Any:
        """Show what became of an object, the newest first."""
        instance = self.get_object(request, object_id)
        if instance is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_or_change_permission(request, instance):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": f"History: {instance}",
            "opts": self.opts,
            "object": instance,
            **(extra_context or {}),
        }
        try:
            resource = resource_of(instance)
            cursor = request.GET.get("cursor") or None
            with reading(request) as trail:
                page = trail.search(Query(resource=resource), limit=PAGE, cursor=cursor)
                context["items"] = [
                    {**summary(item), "changes": changes(item)} for item in page.items
                ]
                context["resource"] = resource
                if page.cursor is not None:
                    context["next"] = urlencode({"cursor": page.cursor})
        except IndelibleError as error:
            context["error"] = str(error)
        return TemplateResponse(request, "indelible/history.html", context)


def summary(item: Item) -> dict[str, Any]:
    """Return what a line of a list shows of *item*."""
    event = item.event
    return {
        "at": item.recorded_at,
        "actor": str(event.actor),
        "name": event.actor.name,
        "action": event.action,
        "resource": str(event.resource),
        "outcome": event.outcome.value,
        "reason": event.reason,
        "rationale": None if event.rationale is None else event.rationale.text,
        "place": f"{item.log}#{item.index}",
        "url": reverse("admin:indelible_entry", args=[item.log, item.index]),
        "source": None if event.source is None else event.source.format,
    }


def changes(item: Item) -> list[Line]:
    """Return the changes of *item*; of a value that is not shown, what became of it."""
    found = [
        Line(name, _text(change, "old"), _text(change, "new"), _state(item, f"/changes/{name}"))
        for name, change in (item.event.changes or {}).items()
    ]
    whole = item.states.get("/changes")
    if whole is not None and whole != "OPEN" and not found:
        found.append(Line("…", None, None, str(whole).lower()))
    return found


def _asked(given: Mapping[str, str]) -> Query:
    clauses = [
        f"{name}:{_quoted(value)}" for name, value in given.items() if value and name != "text"
    ]
    return Query.parse(" ".join([*clauses, given["text"]]))


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if " " in value else value


def _fields(item: Item) -> list[Line]:
    event = item.event
    found: dict[str, Any] = {
        "session": event.session,
        "request": event.request,
        "address": event.client and event.client.ip,
        "user agent": event.client and event.client.user_agent,
        "trace": event.trace and event.trace.trace_id,
        "service": event.service and event.service.name,
        "tenant": event.tenant,
        "roles": ", ".join(event.actor.roles),
        "on behalf of": event.actor.on_behalf_of and str(event.actor.on_behalf_of),
        "asserted": "the actor is what a message says, and was not proven"
        if event.actor.asserted
        else None,
        "imported from": event.source and event.source.format,
        "policy": item.clear.policy,
        "rule": item.clear.rule,
        "occurred": event.occurred_at.isoformat(),
        "data": json.encode(event.data).decode() if event.data else None,
    }
    return [Line(name, None, str(value), "") for name, value in found.items() if value]


def _text(change: Change, side: str) -> str | None:
    value = getattr(change, side)
    return None if value is UNSET else shown(value)


def _state(item: Item, place: str) -> str:
    if place in item.clear.dropped:
        return "secret"
    state = item.states.get(place)
    return "" if state is None or state == "OPEN" else str(state).lower()
