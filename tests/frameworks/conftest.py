"""A trail, and real databases, for the tests of the adapters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import django
import pytest

import indelible
from tests.postgres import Server, server

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.frameworks.django_project.settings")
django.setup()

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible import Trail


@pytest.fixture(scope="session")
def postgresql_16() -> Iterator[Server]:
    """PostgreSQL 16."""
    with server(16) as running:
        yield running


@pytest.fixture(scope="session")
def postgresql_18() -> Iterator[Server]:
    """PostgreSQL 18."""
    with server(18) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql_16", "postgresql_18"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "database.sqlite3"
        path.touch()
        return f"sqlite:///{path}"
    found: Server = request.getfixturevalue(request.param)
    return found.database()


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """An empty trail whose pins lie beside it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    with indelible.open(tmp_path / "trail") as audit:
        yield audit


def _django_database(url: str) -> dict[str, Any]:
    """Return what Django's settings say of the database at *url*."""
    if url.startswith("sqlite:///"):
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": url.removeprefix("sqlite:///"),
            "OPTIONS": {"timeout": 30},
        }
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "HOST": parse_qs(parts.query)["host"][0],
    }


@pytest.fixture(scope="session")
def _shops() -> dict[str, dict[str, Any]]:
    return {}


@pytest.fixture(params=["sqlite", "postgresql_16", "postgresql_18"])
def shop(
    request: pytest.FixtureRequest,
    _shops: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The shop in an empty database of each kind; its name."""
    from tests.frameworks import shops  # noqa: PLC0415 - once Django is set up

    kind: str = request.param
    found = _shops.get(kind)
    if found is None:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.sqlite3'}"
        else:
            server: Server = request.getfixturevalue(kind)
            url = server.database()
        found = _shops[kind] = _django_database(url)
        shops.use(found)
        shops.migrate()
    else:
        shops.use(found)
    shops.empty()
    return kind
