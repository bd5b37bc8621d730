"""Real PostgreSQL servers, for the tests of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from indelible.stores.postgresql_schema import create
from tests.postgres import Server, server

if TYPE_CHECKING:
    from collections.abc import Iterator


class StoreServer:
    """A server, and databases in it with the tables of a store."""

    def __init__(self, running: Server) -> None:
        self.running = running

    def store(self) -> str:
        """Return the URL of a database with an empty store."""
        url = self.running.database()
        create(url)
        return url


@pytest.fixture(scope="session")
def postgresql_16() -> Iterator[StoreServer]:
    """PostgreSQL 16."""
    with server(16) as running:
        yield StoreServer(running)


@pytest.fixture(scope="session")
def postgresql_18() -> Iterator[StoreServer]:
    """PostgreSQL 18."""
    with server(18) as running:
        yield StoreServer(running)
