"""
One library in Django, measured: ``python -m benchmarks.peers.django_worker LIBRARY URL ROWS``.

Prints one line of JSON: the milliseconds of each operation, and what the library recorded
of the steps of the matrix. Each is set up as its documentation says, with its defaults;
where these are not the best for what is measured, `settings_of` says what was set.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from decimal import Decimal
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import django
from django.conf import settings

from benchmarks.peers.answer import Answer
from benchmarks.peers.judging import Recorded, Rival, Rows, judged
from benchmarks.peers.timing import ROUNDS, SINGLE, timed

if TYPE_CHECKING:
    from collections.abc import Callable

_APPS = {
    "none": [],
    "indelible": ["indelible.frameworks.django"],
    "indelible-triggers": ["indelible.frameworks.django"],
    "auditlog": ["auditlog"],
    "simple-history": ["simple_history"],
    "pghistory": ["pgtrigger", "pghistory"],
    "pghistory-statement": ["pgtrigger", "pghistory"],
    "easyaudit": ["easyaudit"],
}
LIBRARIES = tuple(_APPS)
_DISTRIBUTIONS = {
    "none": "django",
    "auditlog": "django-auditlog",
    "simple-history": "django-simple-history",
    "pghistory": "django-pghistory",
    "pghistory-statement": "django-pghistory",
    "easyaudit": "django-easy-audit",
}


def settings_of(library: str) -> dict[str, Any]:
    """Return the settings of *library* that are not its defaults."""
    if library.startswith("indelible"):
        # What moves the outbox into the trail is a process of its own, as the others have none.
        return {"INDELIBLE": {"RELAY": False, "AUTH": False}}
    if library == "easyaudit":
        # Its log of requests and logins is not what is measured; nor are updates that change
        # nothing, which it records by default.
        return {
            "DJANGO_EASY_AUDIT_WATCH_REQUEST_EVENTS": False,
            "DJANGO_EASY_AUDIT_WATCH_AUTH_EVENTS": False,
            "DJANGO_EASY_AUDIT_CRUD_EVENT_NO_CHANGED_FIELDS_SKIP": True,
        }
    if library == "pghistory-statement":
        # By default its triggers fire for each row.
        return {"PGHISTORY_LEVEL": import_module("pghistory").Statement}
    return {}


def configure(library: str, url: str) -> None:
    """Set Django up with *library* and the database at *url*."""
    application = ModuleType("bench")
    application.__path__ = []
    application.__file__ = __file__
    sys.modules["bench"] = application
    settings.configure(
        SECRET_KEY="measures",  # noqa: S106 - of nothing
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": _database(url)},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            *_APPS[library],
            "bench",
        ],
        **settings_of(library),
    )
    django.setup()


def _database(url: str) -> dict[str, Any]:
    if url.startswith("sqlite:///"):
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:///")}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "HOST": parse_qs(parts.query)["host"][0],
    }


def define(library: str) -> Any:  # noqa: ANN401 - a model
    """Define the model, and let *library* record it."""
    from django.db import models  # noqa: PLC0415 - once Django is set up

    module = sys.modules["bench.models"] = ModuleType("bench.models")
    body: dict[str, Any] = {
        "__module__": "bench.models",
        "name": models.CharField(max_length=100),
        "sku": models.CharField(max_length=20, null=True, unique=True),
        "price": models.DecimalField(max_digits=9, decimal_places=2, default=Decimal("0.00")),
        "stock": models.IntegerField(default=0),
        "active": models.BooleanField(default=True),
        "Meta": type("Meta", (), {"app_label": "bench"}),
    }
    if library == "simple-history":
        body["history"] = import_module("simple_history.models").HistoricalRecords(app="bench")
    model: Any = type("Item", (models.Model,), body)
    module.__dict__["Item"] = model
    if library.startswith("indelible"):
        from indelible.frameworks.django import track, tracking  # noqa: PLC0415

        track(triggers=library.endswith("triggers"))(model)
        tracking.resolve()
    elif library == "auditlog":
        import_module("auditlog.registry").auditlog.register(model)
    elif library.startswith("pghistory"):
        pghistory = import_module("pghistory")
        pghistory.track(pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent())(
            model
        )
    return model


def create(library: str, model: Any) -> None:  # noqa: ANN401 - a model
    """Make the tables."""
    from django.apps import apps  # noqa: PLC0415 - once Django is set up
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection, transaction  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    names = set(connection.introspection.table_names())
    with connection.schema_editor() as editor:
        for each in (model, *apps.get_app_config("bench").get_models()):
            table = each._meta.db_table  # noqa: SLF001 - Django's public name
            if table not in names:
                names.add(table)
                editor.create_model(each)
    if library.startswith("pghistory"):
        call_command("pgtrigger", "install", verbosity=0)
    if library == "indelible-triggers":
        from indelible.capture import Tracked  # noqa: PLC0415
        from indelible.outboxes import triggers  # noqa: PLC0415

        with transaction.atomic():
            triggers.install(connection.connection, "bench_item", tracked=Tracked(type="item"))


def measure(model: Any, count: int) -> dict[str, float]:  # noqa: ANN401 - a model
    """Return the milliseconds of each operation, those on many rows on *count* of them."""
    from django.db.models import F  # noqa: PLC0415 - once Django is set up

    one = model.objects.create(name="one")
    new = [model(name=f"n{n}", price=Decimal(n) / 4) for n in range(count)]

    def save() -> None:
        for number in range(SINGLE):
            one.stock = number + 1
            one.save()

    def create_each() -> None:
        for number in range(SINGLE):
            model.objects.create(name=f"c{number}", stock=number)

    times = {
        "save": timed(save),
        "create": timed(create_each),
        "insert": timed(lambda: model.objects.bulk_create(new)),
    }
    rows = model.objects.filter(pk__in=[each.pk for each in new])
    times["update"] = timed(lambda: rows.update(stock=F("stock") + 1))
    for each in new:
        each.stock = 7
    times["bulk_update"] = timed(lambda: model.objects.bulk_update(new, ["stock"]))
    times["delete"] = timed(rows.delete)
    model.objects.all()._raw_delete("default")  # noqa: SLF001 - no library hears of it
    return times


def score(library: str, model: Any, url: str) -> dict[str, str]:  # noqa: ANN401 - a model
    """Return of each step whether what was recorded of it is true."""
    from django.db import connection  # noqa: PLC0415 - once Django is set up

    from benchmarks.peers.django_logs import recorded  # noqa: PLC0415

    rival = Rival(url, "bench_item")
    found = {}

    def watched(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:  # noqa: ANN401
        rival.sees(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(watched):
        for name, step in _steps(model, rival).items():
            model.objects.all().delete()
            for n in range(1, 4):  # one by one, so that every library has seen them
                model(name=f"p{n}", sku=f"s{n}", stock=n).save()
            recorded(library, model)
            before = _snapshot(model)
            # Some libraries raise where Django does not; what they recorded counts all the same.
            with suppress(ValueError):
                step()
            said: Recorded = recorded(library, model)
            before, said = rival.without(before, said)
            found[name] = judged(before, _snapshot(model), said)
    return found


def _steps(model: Any, rival: Rival) -> dict[str, Callable[[], object]]:  # noqa: ANN401 - a model
    from django.db import IntegrityError, connection, transaction  # noqa: PLC0415
    from django.db.models import F  # noqa: PLC0415

    objects, using = model.objects, "default"

    def stale() -> None:
        one = objects.get(sku="s1")
        rival.write()
        _saved(one, 2)

    def raced() -> None:
        one = objects.get(sku="s1")
        with rival.waiting():
            _saved(one, 2)

    def failing_update() -> None:
        with suppress(IntegrityError):
            objects.filter(sku="s1").update(sku="s2")

    def failing_save() -> None:
        one = objects.get(sku="s1")
        one.sku = "s2"
        with suppress(IntegrityError):
            one.save()

    def rolled_back() -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            _saved(objects.get(sku="s1"))
            objects.filter(sku="s2").delete()
            raise ZeroDivisionError

    def savepoint() -> None:
        with transaction.atomic():
            with suppress(ZeroDivisionError), transaction.atomic():
                _saved(objects.get(sku="s1"))
                raise ZeroDivisionError
            _saved(objects.get(sku="s2"))

    def raw() -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE bench_item SET stock = stock + 1")

    def several() -> list[Any]:
        return [model(name="a", sku="s1"), model(name="b", sku="s9")]

    return {
        "save(), new": lambda: model(name="x").save(),
        "save(), changed": lambda: _saved(objects.get(sku="s1")),
        "save(), F()": lambda: _saved(objects.get(sku="s1"), F("stock") + 5),
        "save(), unchanged": lambda: objects.get(sku="s1").save(),
        "save(), changed since it was read": stale,
        "save(), another writer at that moment": raced,
        "get_or_create()": lambda: objects.get_or_create(name="g"),
        "update_or_create()": lambda: objects.update_or_create(sku="s1", defaults={"name": "u"}),
        "update(), value": lambda: objects.update(active=False),
        "update(), F()": lambda: objects.update(stock=F("stock") + 1),
        "update() of no row": lambda: objects.filter(stock=99).update(stock=1),
        "bulk_create()": lambda: objects.bulk_create([model(name=f"b{n}") for n in range(5)]),
        "bulk_create(), ignoring": lambda: objects.bulk_create(several(), ignore_conflicts=True),
        "bulk_create(), upsert": lambda: objects.bulk_create(
            several(), update_conflicts=True, unique_fields=["sku"], update_fields=["name"]
        ),
        "bulk_update()": lambda: objects.bulk_update(
            [_with(each, stock=each.stock + 7) for each in objects.all()], ["stock"]
        ),
        "delete() of one": lambda: objects.get(sku="s1").delete(),
        "delete() of many": lambda: objects.filter(stock__gte=2).delete(),
        "_raw_delete()": lambda: objects.filter(stock__gte=2)._raw_delete(using),  # noqa: SLF001 - as deletes of relations do
        "update() that fails": failing_update,
        "save() that fails": failing_save,
        "transaction rolled back": rolled_back,
        "savepoint rolled back": savepoint,
        "raw SQL": raw,
    }


def _with(instance: Any, **values: Any) -> Any:  # noqa: ANN401 - of a model
    for name, value in values.items():
        setattr(instance, name, value)
    return instance


def _saved(instance: Any, stock: Any = 9) -> None:  # noqa: ANN401 - of a model
    instance.stock = stock
    instance.save()


def _snapshot(model: Any) -> Rows:  # noqa: ANN401 - a model
    return {
        str(row["id"]): {name: str(value) for name, value in row.items() if name != "id"}
        for row in model.objects.values()
    }


def main(library: str, url: str, count: int) -> None:
    """Measure *library* on the database at *url*."""
    configure(library, url)
    model = define(library)
    create(library, model)
    measure(model, count)  # once for the caches
    times = [measure(model, count) for _ in range(ROUNDS)]
    least = {name: min(each[name] for each in times) for name in times[0]}
    scored = library != "none" and url.startswith("postgresql")
    said = score(library, model, url) if scored else {}
    of = _DISTRIBUTIONS.get(library)
    answer = Answer(
        library=library,
        version="" if of is None else version(of),
        milliseconds=least,
        score=said,
    )
    print(answer.to_text())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
