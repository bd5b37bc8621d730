from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from indelible.client.exchange import Answer, Request, Steps
from indelible.client.memory import Memory
from indelible.client.session import Session
from indelible.collector.state import Collector
from indelible.errors import IndelibleError
from indelible.trail import Trail
from tests.client import running
from tests.collector.conftest import FAST, bearer, issued, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from litestar import Litestar
    from litestar.testing import TestClient

    from indelible.note import VerifierKey

T = TypeVar("T")


class Between:
    """
    A real collector, and somebody between it and its readers who can lie.

    Attributes:
        asked: The paths that were asked for.
    """

    def __init__(self, trail: Trail, served: TestClient[Litestar], collector: Collector) -> None:
        self.trail, self.collector = trail, collector
        self.asked: list[str] = []
        self._served = served
        self._lies: list[tuple[str, Callable[[Answer], Answer]]] = []
        self.token = self.told = issued(collector, "privacy_officer")

    def lie(self, path: str, change: Callable[[Answer], Answer]) -> None:
        """Change each answer to what begins with *path*, from now on."""
        self._lies.append((path, change))

    def lie_in_json(self, path: str, change: Callable[[Any], None]) -> None:
        """Change the document of each answer to what begins with *path*, from now on."""

        def changed(answer: Answer) -> Answer:
            document = msgspec.json.decode(answer.body)
            change(document)
            return replace(answer, body=msgspec.json.encode(document))

        self.lie(path, changed)

    def tell_the_truth(self) -> None:
        """Change nothing any more."""
        self._lies.clear()
        self.asked.clear()
        self.token = self.told

    def run(self, steps: Steps[T]) -> T:
        """Return what *steps* come to."""
        try:
            asked = next(steps)
            while True:
                try:
                    answers = [self._ask(each) for each in asked]
                except IndelibleError as error:
                    asked = steps.throw(error)
                else:
                    asked = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _ask(self, request: Request) -> Answer:
        self.asked.append(request.path)
        found = self._served.request(
            request.method,
            request.path,
            params=dict(request.parameters),
            content=request.body,
            headers={**bearer(self.token), "Content-Type": "application/json"},
        )
        answer = Answer(
            status=found.status_code,
            media_type=found.headers.get("content-type", "").partition(";")[0],
            body=found.content,
        )
        for path, change in self._lies:
            if request.path.startswith(path):
                answer = change(answer)
        return answer

    def raw(self, path: str, **parameters: str) -> Answer:
        """Return what the collector itself answers."""
        lies, self._lies = self._lies, []
        try:
            return self._ask(Request(path=path, parameters=tuple(parameters.items())))
        finally:
            self._lies = lies

    def told_keys(self) -> list[VerifierKey]:
        """Return the keys of the collector's logs, as whoever runs it tells them."""
        return [self.trail.verifier_key(stream) for stream in ("user", "admin", "custody")]

    def session(self, directory: Path) -> Session:
        """Return what a reader knows who was told the keys."""
        return Session(
            "https://collector", Memory("https://collector", directory), self.told_keys()
        )


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Between]:
    """Serve a collector with some entries in this process."""
    path = tmp_path_factory.mktemp("collector")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with Trail.create(path / "trail", origin="audit.example.com/collector") as trail:
            running.fill(trail)
            collector = Collector(trail, FAST)
            with serving(collector) as served:
                yield Between(trail, served, collector)


@pytest.fixture
def honest(between: Between) -> Iterator[Between]:
    """Return the collector, about which nobody lies yet, nor after the test."""
    between.tell_the_truth()
    yield between
    between.tell_the_truth()


@pytest.fixture
def session(honest: Between, tmp_path: Path) -> Session:
    """Be a reader who was told the keys, and has seen nothing yet."""
    return honest.session(tmp_path / "seen")


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Collector]:
    """Run a collector of a process of its own."""
    with running.running(tmp_path_factory.mktemp("collector")) as found:
        yield found
