"""A collector that runs in a process of its own, for the tests of its clients."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import indelible
from indelible import tokens
from indelible.client import RemoteRecorder
from indelible.recorder import build
from indelible.trail import Trail
from tests.collector.server import Authority, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


COUNT = 300
"""Entries of the stream user: more than one tile has."""


@dataclass(frozen=True)
class Collector:
    """A collector that runs, its trail as its owner sees it, and tokens for it."""

    server: Server
    trail: Trail
    path: Path
    reads: str
    records: str

    def client(self, state: Path, **settings: object) -> indelible.Client:
        """Return a client that was told the keys."""
        return indelible.Client(self.server.url, self.reads, **{**self.told(state), **settings})

    def told(self, state: Path) -> dict[str, object]:
        """Return what a reader was told who has never been here."""
        return {
            "ca": self.server.authority.file,
            "state": state,
            "trust": [
                self.trail.verifier_key(stream).to_text() for stream in ("user", "admin", "custody")
            ],
        }

    def recorder(self, port: int | None = None) -> RemoteRecorder:
        """Return what an application without a disk holds."""
        url = self.server.url if port is None else f"https://127.0.0.1:{port}"
        return RemoteRecorder(url, self.records, ca=self.server.authority.file)


def issue(trail: Trail, role: str) -> str:
    """Return an access token."""
    now = time.time_ns() // 1_000
    token, secret = tokens.issue(
        name=role, role=role, created_by="owner", now=now, lasts=3_600_000_000, entropy=os.urandom
    )
    tokens.keep(trail, token)
    return secret


@contextmanager
def running(path: Path) -> Iterator[Collector]:
    """Run a collector below *path* that holds some entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with Trail.create(path / "trail", origin="audit.example.com/collector") as trail:
            fill(trail)
            reads, records = issue(trail, "auditor"), issue(trail, "recorder")
            with Server(path / "trail", Authority(path)) as server:
                yield Collector(server, trail, path, reads, records)


def fill(trail: Trail) -> None:
    """Record what alice and bob did in a shop, and what an administrator did."""
    for old, new, who in (("draft", "sent", "user:alice"), ("sent", "paid", "user:bob")):
        trail.record(
            "invoice.approve",
            actor=who,
            resource="invoice:INV-7",
            changes={"status": (old, new)},
            data={"batch": 12},
            rationale="PO-99",
            client="192.0.2.17",
            session="s-1",
        )
    trail.record_many(
        build("invoice.view", actor="service:mailer", resource=f"invoice:INV-{number}")
        for number in range(100, 100 + COUNT - 2)
    )
    trail.record("role.grant", actor="user:carol", resource="user:dave")
