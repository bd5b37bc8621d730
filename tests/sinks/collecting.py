"""A collector in a process of its own, over TLS, and the tokens of who speaks to it."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from typing import TYPE_CHECKING

import httpx2
import msgspec

from indelible import tokens
from indelible.collector.producers import enrol_all
from indelible.collector.serving import open_trail
from indelible.rights import Caller
from indelible.wire import Enrolment, Standing
from tests.collector.server import Authority, Server

if TYPE_CHECKING:
    from pathlib import Path

    from indelible import Trail

HOUR = 3_600_000_000
ORIGIN = "audit.example.com"


class Collector:
    """A running collector, and the tokens of who speaks to it."""

    def __init__(self, path: Path, *, client_ca: Path | None = None) -> None:
        self.authority = Authority(path)
        with open_trail(str(path / "collector"), None) as trail:
            self._operator = issued(trail, "operator")
            self.recorder = issued(trail, "recorder", producer=f"{ORIGIN}/*")
            self.join = issued(trail, "join", producer=f"{ORIGIN}/*")
        self.server = Server(path / "collector", self.authority, client_ca=client_ca)

    def enrol(self, trail: Trail) -> None:
        """Take in the logs of *trail*."""
        with trail.store.read() as view:
            logs = list(view.heads())
        keys = tuple(trail.signer(log).verifier.to_text() for log in logs)
        self._ask("POST", "/v1/producers", msgspec.json.encode(Enrolment(keys=keys)))

    def holds(self, trail: Trail, log: str = "user") -> bool:
        """Tell whether it has the log exactly as it is: each entry once, in order."""
        with trail.store.read() as view:
            head = view.heads()[log]
        found = msgspec.json.decode(self._ask("GET", f"/v1/producers/{head.origin}"), type=Standing)
        return (head.size, b64encode(head.edge.root).decode()) == (found.size, found.root)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        with httpx2.Client(verify=self.server.context()) as client:
            answer = client.request(
                method,
                f"{self.server.url}{path}",
                content=body,
                headers={
                    "Authorization": f"Bearer {self._operator}",
                    "Content-Type": "application/json",
                },
            )
        assert 200 == answer.status_code, answer.text
        return answer.content


def issued(trail: Trail, role: str, producer: str | None = None) -> str:
    """Return a new access token."""
    token, secret = tokens.issue(
        name=f"the {role}",
        role=role,
        created_by="owner",
        now=time.time_ns() // 1_000,
        lasts=HOUR,
        producer=producer,
        entropy=os.urandom,
    )
    tokens.keep(trail, token)
    return secret


def enrolled(collector: Trail, producer: Trail) -> None:
    """Take in the logs of *producer*, as the command on the collector's own machine does."""
    with producer.store.read() as view:
        keys = tuple(producer.signer(log).verifier.to_text() for log in view.heads())
    owner = Caller(id="owner", name="owner", role="operator")
    enrol_all(collector, Enrolment(keys=keys), owner, time.time_ns() // 1_000)
