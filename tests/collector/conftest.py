from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from litestar.testing import TestClient

from indelible import tokens
from indelible.collector.app import create_app
from indelible.collector.state import Collector, Settings
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from litestar import Litestar

    from indelible.store import Store, View

    Issue = Callable[..., str]
    Served = TestClient[Litestar]

HOUR = 3_600_000_000
FAST = Settings(requests=100_000, scrub_every=0)
"""Nothing is slowed down, and nothing happens by itself."""


def issued(collector: Collector, role: str, *, lasts: int = HOUR, **limits: Any) -> str:
    """Return a new access token of *role*, as its holder sends it."""
    token, secret = tokens.issue(
        name=limits.pop("name", f"the {role}"),
        role=role,
        created_by="owner",
        now=collector.now(),
        lasts=lasts,
        entropy=os.urandom,
        **limits,
    )
    tokens.keep(collector.trail, token)
    return secret


def bearer(secret: str) -> dict[str, str]:
    """Return the headers of a request that comes with this token."""
    return {"Authorization": f"Bearer {secret}"}


def refusals(trail: Trail) -> list[dict[str, Any]]:
    """Return what the custody stream says was refused, oldest first."""
    items = trail.search("stream:custody action:access.refused", limit=500).items
    return [dict(item.event.data or {}) for item in reversed(items)]


class Counted:
    """A store that counts how often it is read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    @contextmanager
    def read(self) -> Iterator[View]:
        """Look at the store."""
        self.reads += 1
        with self._store.read() as view:
            yield view

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a store has
        return getattr(self._store, name)


@contextmanager
def serving(collector: Collector) -> Iterator[Served]:
    """Serve *collector* in this process, from its start to its stop."""
    with TestClient(create_app(collector), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make the trail of a collector; pins go below the test's directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Trail.create(tmp_path / "trail", origin="audit.example.com/collector") as made:
        yield made


@pytest.fixture
def collector(trail: Trail) -> Collector:
    """Be a collector that slows nobody down."""
    return Collector(trail, FAST)


@pytest.fixture
def client(collector: Collector) -> Iterator[Served]:
    """Serve the collector in this process."""
    with serving(collector) as served:
        yield served


@pytest.fixture
def token(collector: Collector) -> Issue:
    """Return what issues a token: ``token("reader", tenant="shop")``."""

    def issue(role: str, **limits: Any) -> str:
        if role == "join":
            limits.setdefault("producer", "audit.example.com/shop")
        return issued(collector, role, **limits)

    return issue
