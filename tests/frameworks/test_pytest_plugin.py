"""An application's tests say what must be recorded, and see which routes record nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import indelible
from indelible import Rationale
from indelible.errors import CallerError
from indelible.event import Client
from indelible.testing import Captured, captured

if TYPE_CHECKING:
    from pathlib import Path

    from indelible import Trail

pytest_plugins = ("pytester",)

GRANTED: dict[str, Any] = {
    "actor": "user:alice",
    "resource": "user:bob",
    "changes": {"approver": (False, True), "until": (None, "2026-12-31")},
    "rationale": Rationale(text="stands in", reference="HR-7"),
    "client": Client(ip="192.0.2.17", user_agent="curl/8"),
    "data": {"batch": 12, "tags": ["a"]},
    "session": "s-1",
}


@pytest.fixture
def within(trail: Trail) -> Captured:
    """What is recorded into a trail that holds an entry already."""
    trail.record("role.grant", actor="user:carol", resource="user:bob")
    return Captured(trail)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"actor": "user:alice"},
        {"resource": "user:bob", "outcome": "success", "stream": "admin"},
        {"changes": {"approver": (False, True)}},
        {"rationale": "stands in"},
        {"rationale": Rationale(text="stands in", reference="HR-7")},
        {"client": "192.0.2.17"},
        {"data": {"batch": 12}},
        {"session": "s-1", "request": None},
    ],
)
def test_what_was_recorded_is_found(within: Captured, fields: dict[str, Any]) -> None:
    """A test names what matters to it, and gets the entry."""
    within.trail.record("role.grant", **GRANTED)

    item = within.recorded("role.grant", **fields)

    assert ("user:alice", 1) == (str(item.event.actor), item.index)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"actor": "user:carol"}, "actor is 'user:alice'"),
        ({"outcome": "denied"}, "outcome is 'success'"),
        ({"changes": {"approver": (True, False)}}, "changes.approver is (False, True)"),
        ({"changes": {"admin": (False, True)}}, "changes.admin is not there"),
        ({"data": {"batch": 13}}, "data.batch is 12"),
        ({"data": {"size": 1}}, "data.size is not there"),
        ({"rationale": "PO-99"}, "rationale is 'stands in'"),
        ({"stream": "user"}, "stream is 'admin'"),
        ({"tenant": "shop"}, "tenant is None"),
    ],
)
def test_what_was_not_recorded_so_is_said(
    within: Captured, fields: dict[str, Any], said: str
) -> None:
    """The message names the entry that comes nearest, and where it differs."""
    within.trail.record("role.grant", **GRANTED)

    with pytest.raises(AssertionError) as caught:
        within.recorded("role.grant", **fields)

    lines = str(caught.value).splitlines()
    assert "found no entry with action 'role.grant', " in lines[0]
    assert "recorded: 1 entry" == lines[1]
    assert ["admin#1: user:alice role.grant user:bob success", said] == [
        line.strip() for line in lines[2:]
    ]


def test_the_nearest_entries_come_first(within: Captured) -> None:
    """Among many entries, those that differ least are shown, and not all of them."""
    for number in range(20):
        within.trail.record("page.view", actor="user:alice", resource=f"page:{number}")
    within.trail.record("role.grant", **GRANTED)

    with pytest.raises(AssertionError) as caught:
        within.recorded("role.grant", actor="user:alice", resource="user:carol")

    lines = str(caught.value).splitlines()
    assert "recorded: 21 entries" == lines[1]
    assert "  admin#1: user:alice role.grant user:bob success" == lines[2]
    assert len(lines) < 20


def test_what_was_there_before_does_not_count(within: Captured) -> None:
    """A test sees what it has caused, and nothing else."""
    within.nothing_recorded()

    with pytest.raises(AssertionError, match="recorded: 0 entries"):
        within.recorded("role.grant")


def test_something_recorded_is_not_nothing(within: Captured) -> None:
    """What was not to be recorded is named."""
    within.trail.record("role.grant", **GRANTED)

    with pytest.raises(AssertionError, match="found 1 entry, expected none") as caught:
        within.nothing_recorded()

    assert "admin#1: user:alice role.grant user:bob success" in str(caught.value)


def test_a_field_that_no_event_has_is_no_expectation(within: Captured) -> None:
    """A name that was mistyped is not taken for one that nothing has."""
    with pytest.raises(CallerError, match="'subject'"):
        within.recorded("role.grant", subject="user:bob")


def test_very_many_entries_are_all_seen(within: Captured) -> None:
    """A test may cause more than a page."""
    event = indelible.Event(
        action="row.load",
        outcome=indelible.Outcome.SUCCESS,
        actor=indelible.Actor.parse("user:alice"),
        resource=indelible.Resource.parse("row:1"),
    )
    within.trail.record_many([event] * 2_500)

    assert 2_500 == within.count == len(within.entries)


def test_a_trail_of_its_own_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a directory, nor a pin in anybody's configuration, nor a changed environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("INDELIBLE_TRAIL", raising=False)

    with captured() as within, indelible.open() as application:
        application.record("role.grant", **GRANTED)
        assert within.trail.path == application.path
        assert "user:bob" == str(within.recorded("role.grant").event.resource)

    assert not within.trail.path.exists()
    assert [] == list(tmp_path.iterdir())
    assert "INDELIBLE_TRAIL" not in os.environ
    assert str(tmp_path) == os.environ["XDG_CONFIG_HOME"]


def test_a_trail_that_the_application_has_is_taken(trail: Trail) -> None:
    """It stays open, and what was in it does not count."""
    trail.record("role.grant", **GRANTED)

    with captured(trail) as within:
        within.nothing_recorded()
        trail.record("role.grant", **GRANTED)
        within.recorded("role.grant")

    assert 2 == len(trail.search().items)


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load what a run names; what else is installed here takes longer to load than the tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run the tests that were written, with the plugin."""
    plugins = ("-p", "indelible.frameworks.pytest", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*plugins, *args)


def test_a_test_asks_for_the_fixture(pytester: pytest.Pytester) -> None:
    """Each test has an empty trail, which the application finds by the environment."""
    pytester.makepyfile(
        """
        import indelible
        import pytest

        def test_recorded(audit, tmp_path):
            with indelible.open() as trail:
                trail.record("role.grant", actor="user:alice", resource="user:bob")
            audit.recorded("role.grant", actor="user:alice")
            assert [] == list(tmp_path.iterdir())

        def test_nothing(audit):
            audit.nothing_recorded()
            audit.trail.verify().require()

        def test_fails(audit):
            audit.trail.record("role.revoke", actor="user:alice", resource="user:bob")
            audit.recorded("role.grant")
        """
    )

    result = run(pytester)

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * AssertionError: found no entry with action 'role.grant'",
            "E *   admin#0: user:alice role.revoke user:bob success",
            "E *     action is 'role.revoke'",
        ]
    )
    result.stdout.no_fnmatch_line("*routes that changed something*")


STARLETTE = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    def build(trail):
        def granted(request):
            trail.record("role.grant", resource="user:bob")
            return PlainTextResponse("")

        def silent(request):
            return PlainTextResponse("")

        def refused(request):
            return PlainTextResponse("", status_code=403)

        return Starlette(routes=[
            Route("/users/{name}/roles", granted, methods=["POST"]),
            Mount("/shop/", routes=[Route("/invoices/{number}", silent, methods=["PUT", "GET"])]),
            Route("/refused", refused, methods=["POST"]),
        ])

    def send(audit):
        client = TestClient(audit.watch(build(audit.trail)))
        client.post("/users/bob/roles")
        client.get("/shop/invoices/7")
        client.put("/shop/invoices/7")
        client.put("/shop/invoices/8")
        client.post("/refused")
        client.post("/nowhere")
"""
TESTS = {
    "starlette": f"""
    from starlette.testclient import TestClient
    {STARLETTE}
    def test_it(audit):
        send(audit)
    """,
    "fastapi": """
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    def test_it(audit):
        app = FastAPI()

        @app.post("/users/{name}/roles")
        def granted(name: str):
            audit.trail.record("role.grant", resource=f"user:{name}")

        @app.put("/shop/invoices/{number}")
        async def silent(number: int):
            pass

        client = TestClient(audit.watch(app))
        client.post("/users/bob/roles")
        client.put("/shop/invoices/7")
        client.put("/shop/invoices/8")
        client.put("/shop/invoices/no-number")
    """,
    "litestar": """
    from litestar import Litestar, post, put
    from litestar.testing import TestClient

    def test_it(audit):
        @post("/users/{name:str}/roles", sync_to_thread=False)
        def granted(name: str) -> None:
            audit.trail.record("role.grant", resource=f"user:{name}")

        @put("/shop/invoices/{number:int}")
        async def silent(number: int) -> None:
            pass

        with TestClient(audit.watch(Litestar([granted, silent]))) as client:
            client.post("/users/bob/roles")
            client.put("/shop/invoices/7")
            client.put("/shop/invoices/8")
    """,
    "flask": """
    from flask import Flask, Response

    def test_it(audit):
        app = Flask("shop")

        @app.post("/users/<name>/roles")
        def granted(name):
            def stream():
                audit.trail.record("role.grant", resource=f"user:{name}")
                yield "granted"
            return Response(stream())

        @app.put("/shop/invoices/<int:number>")
        def silent(number):
            return ""

        @app.post("/broken")
        def broken():
            raise RuntimeError

        app.wsgi_app = audit.watch(app.wsgi_app)
        client = app.test_client()
        assert b"granted" == client.post("/users/bob/roles").data
        client.put("/shop/invoices/7")
        client.put("/shop/invoices/8")
        client.post("/broken")
    """,
    "django": """
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path, re_path

    trail = None

    def granted(request, name):
        trail.record("role.grant", resource=f"user:{name}")
        return HttpResponse("")

    def silent(request, number):
        return HttpResponse("")

    urlpatterns = [
        path("users/<name>/roles", granted),
        re_path("^shop/invoices/(?P<number>[0-9]+)$", silent),
    ]
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    django.setup()

    def test_it(audit):
        global trail
        trail = audit.trail
        client = audit.watch(Client())
        client.post("/users/bob/roles")
        client.put("/shop/invoices/7")
        client.put("/shop/invoices/8")
        client.post("/nowhere")
    """,
}
SILENT = [
    "PUT /django/invoices/<number>  (2 requests)",
    "PUT /fastapi/invoices/{number}  (2 requests)",
    "PUT /flask/invoices/<int:number>  (2 requests)",
    "PUT /litestar/invoices/{number}  (2 requests)",
    "PUT /starlette/invoices/{number}  (2 requests)",
]


def test_routes_that_record_nothing_are_told(pytester: pytest.Pytester) -> None:
    """
    Whoever reviews sees which routes change something and leave no entry, in each framework.

    A request that was refused or failed has changed nothing, and one that only reads is none.
    """
    for name, code in TESTS.items():
        pytester.makepyfile(**{f"test_{name}": code.replace("shop/", f"{name}/")})

    result = run(pytester)

    result.assert_outcomes(passed=5)
    told = [line for line in result.outlines if line.startswith(("POST ", "PUT ", "GET "))]
    assert SILENT == told
    assert 0 == result.ret


def test_a_run_may_tell_nothing(pytester: pytest.Pytester) -> None:
    """Whoever does not want to know is not told."""
    pytester.makepyfile(TESTS["flask"])

    result = run(pytester, "--audit-routes", "off")

    result.stdout.no_fnmatch_line("*routes that changed something*")
    assert 0 == result.ret


def test_a_route_that_records_in_one_test_is_not_silent(pytester: pytest.Pytester) -> None:
    """A test of another path through the same route says nothing against it."""
    pytester.makepyfile(
        """
        import pytest
        from flask import Flask

        @pytest.mark.parametrize("number", range(2))
        def test_it(audit, number):
            app = Flask("shop")

            @app.put("/invoices/<int:number>")
            def change(number):
                if number:
                    audit.trail.record("invoice.update", resource=f"invoice:{number}")
                return ""

            app.wsgi_app = audit.watch(app.wsgi_app)
            app.test_client().put(f"/invoices/{number}")
        """
    )

    result = run(pytester)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*routes that changed something*")


def test_a_run_may_fail_for_what_its_workers_tell_together(pytester: pytest.Pytester) -> None:
    """A pipeline can hold that every route records, also when it is spread over processes."""
    code = TESTS["flask"].replace(
        "def test_it(audit):",
        "import pytest\n    @pytest.mark.parametrize('n', range(4))\n    def test_it(audit, n):",
    )

    pytester.makepyfile(code)

    result = run(pytester, "-p", "xdist", "-n", "2", "--audit-routes", "fail")

    result.assert_outcomes(passed=4)
    assert "PUT /shop/invoices/<int:number>  (8 requests)" in result.outlines
    assert pytest.ExitCode.TESTS_FAILED == result.ret


def test_what_waits_in_an_outbox_counts(pytester: pytest.Pytester) -> None:
    """An application whose changes are captured in its database records them there first."""
    pytester.makepyfile(
        """
        import sqlite3
        from contextlib import closing
        from indelible.outboxes import open_outbox
        from indelible.outboxes.sqlite import SCHEMA
        from flask import Flask

        def test_it(audit, tmp_path):
            with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
                connection.execute(SCHEMA)
            app = Flask("shop")

            @app.post("/invoices")
            def silent():
                return ""

            @app.put("/invoices")
            def change():
                with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
                    connection.execute("INSERT INTO indelible_outbox (body) VALUES ('{}')")
                    connection.commit()
                return ""

            outbox = open_outbox(f"sqlite:///{tmp_path / 'shop.db'}")
            app.wsgi_app = audit.watch(app.wsgi_app, outbox=outbox)
            app.test_client().put("/invoices")
            app.test_client().post("/invoices")
            outbox.close()
        """
    )

    result = run(pytester)

    result.assert_outcomes(passed=1)
    assert ["POST /invoices  (1 request)"] == [
        line for line in result.outlines if line.startswith(("POST ", "PUT "))
    ]
