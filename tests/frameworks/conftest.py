"""A trail, and real databases, for the tests of the adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import indelible
from tests.postgres import Server, server

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
