"""A secret that was given in the wrong place is in no error, and so in no log of errors."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

import indelible
from indelible.context import context
from indelible.errors import InvalidEvent
from indelible.event import (
    Actor,
    Approval,
    Client,
    Event,
    Outcome,
    Rationale,
    Resource,
    Service,
    Source,
    Trace,
    parse_changes,
    parse_rationale,
)
from indelible.importing import import_events
from indelible.sources import open_source
from indelible.sources.jsonl import parse_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.trail import Trail

SECRET = "correct-horse-battery"  # noqa: S105 - it opens nothing


class Telling:
    """An object whose representation tells what it holds."""

    def __repr__(self) -> str:
        return f"Telling({SECRET})"


def event(**fields: Any) -> Event:
    """Return an event with these fields."""
    return Event(
        **{
            "action": "user.update",
            "outcome": Outcome.SUCCESS,
            "actor": Actor.parse("user:alice"),
            "resource": Resource.parse("user:alice"),
            **fields,
        }
    )


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield what an error and all behind it say."""
    behind: BaseException | None = error
    while behind is not None:
        yield "".join(traceback.format_exception_only(behind))
        behind = behind.__cause__ or behind.__context__


WRONG: dict[str, Callable[[], object]] = {
    "data that is a text": lambda: event(data=SECRET),
    "data that is a list": lambda: event(data=[SECRET]),
    "an object that tells": lambda: event(data={"a": Telling()}),
    "an object for a text": lambda: event(session=Telling()),
    "a number for a text": lambda: event(data={"pin": 10**4000}),
    "a set": lambda: event(data={"password": {SECRET, Telling()}}),
    "a key that is no text": lambda: event(data={"a": {(SECRET,): 1}}),
    "changes that are a text": lambda: parse_changes(SECRET),  # type: ignore[arg-type]
    "a change that is a text": lambda: parse_changes({"password": SECRET}),  # type: ignore[dict-item]
    "a change of one part": lambda: parse_changes({"password": (SECRET,)}),  # type: ignore[dict-item]
    "a change of three": lambda: parse_changes({"a": (SECRET, SECRET, 1)}),  # type: ignore[dict-item]
    "changes of an event": lambda: event(changes={"a": SECRET}),
    "a rationale that is a list": lambda: parse_rationale([SECRET]),  # type: ignore[arg-type]
    "a rationale of an event": lambda: event(rationale=SECRET),
    "a long code": lambda: Rationale(text="x", code=SECRET * 100),
    "a long session": lambda: event(session=SECRET * 100),
    "a long id": lambda: Resource(type="user", id=SECRET * 100),
    "a long name": lambda: Actor(type="user", id="alice", name=SECRET * 100),
    "roles that are a text": lambda: Actor(type="user", id="alice", roles=SECRET),  # type: ignore[arg-type]
    "an actor in another's place": lambda: event(actor={"user": "alice", "password": SECRET}),
    "an actor of two secrets": lambda: Actor.parse(["user", SECRET]),  # type: ignore[arg-type]
    "a client that is an object": lambda: event(client={"ip": SECRET}),
    "an address that is none": lambda: Client(ip=[SECRET]),  # type: ignore[arg-type]
    "a user agent": lambda: Client(user_agent=SECRET * 100),
    "a trace": lambda: Trace(trace_id=SECRET * 100),
    "a service": lambda: Service(name=SECRET * 100),
    "a source": lambda: Source(format="jsonl", id=SECRET * 100),
    "approvers": lambda: Approval(n=1, distinct=True, approvers=SECRET),  # type: ignore[arg-type]
    "a reference": lambda: Approval(n=1, distinct=True, reference=SECRET * 100),
    "an unknown context": lambda: context(password=SECRET).__enter__(),
    "a line that is no JSON": lambda: parse_event(b'{"password": "%b"' % SECRET.encode()),
    "a line that is a text": lambda: parse_event(b'"%b"' % SECRET.encode()),
    "a line that is a bare word": lambda: parse_event(SECRET.encode()),
    "a line that is no UTF-8": lambda: parse_event(b"\xff" + SECRET.encode()),
    "an unknown key of a line": lambda: parse_event(b'{"password": "%b"}' % SECRET.encode()),
    "a key that stands twice": lambda: parse_event(
        b'{"data": {"password": 1, "password": "%b"}}' % SECRET.encode()
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_secret_in_the_wrong_place_is_in_no_error(what: str) -> None:
    """The error names the field and what is expected there, and nothing of what was found."""
    with pytest.raises(InvalidEvent) as raised:
        WRONG[what]()

    said = "".join(texts_of(raised.value))
    assert SECRET not in said
    assert ": found " in said
    assert ", expected " in said


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    """Make a trail."""
    path = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path / "config"))
        with indelible.open(path / "audit") as opened:
            yield opened


@pytest.mark.parametrize(
    "fields",
    [
        {"data": {"note": f"{SECRET}\0"}},
        {"data": {"note": f"{SECRET}\ud800"}},
        {"changes": {"note": (f"{SECRET}\udfff", 1)}},
        {"rationale": f"\0{SECRET}"},
        {"reason": f"{SECRET}\0"},
        {"session": f"{SECRET}\0"},
        {"data": {"a": SECRET * 500_000}},
        {"actor": Actor(type="user", id="alice", roles=(SECRET * 5_000,))},
    ],
)
def test_a_secret_that_cannot_be_kept_is_in_no_error(trail: Trail, fields: dict[str, Any]) -> None:
    """What is refused only when it is sealed is refused without a word of it."""
    with pytest.raises(InvalidEvent) as raised:
        trail.record("user.update", resource="user:alice", **fields)

    assert SECRET not in "".join(texts_of(raised.value))


def test_a_field_beside_a_whole_event_is_named_and_not_shown(trail: Trail) -> None:
    """Whoever mixes the two ways to record learns which field it was."""
    with pytest.raises(InvalidEvent, match=r"^password: found a text, expected") as raised:
        trail.record(event(), password=SECRET)

    assert SECRET not in "".join(texts_of(raised.value))


def test_what_an_event_is_about_is_shown() -> None:
    """Where the value is what has to be mended, and no secret, the error shows it."""
    with pytest.raises(InvalidEvent, match=r"^actor: found 'alice', expected TYPE:ID"):
        Actor.parse("alice")
    with pytest.raises(InvalidEvent, match=r"^outcome: found 'fine', expected one of"):
        Event.authentication("user:alice", outcome="fine")


def test_dead_letters_hold_the_line_and_no_error_does(trail: Trail, tmp_path: Path) -> None:
    """A rejected line is kept whole, in a file of its owner; what is said about it is not it."""
    source = tmp_path / "app.jsonl"
    source.write_text(f'{{"password": "{SECRET}"}}\n{{"action": "{SECRET}', "utf-8")
    letters = tmp_path / "letters.jsonl"

    summary = import_events(trail, open_source("jsonl", [source]), dead_letters=letters)

    lines = letters.read_text("utf-8").splitlines()
    assert 2 == summary.rejected
    assert 0o600 == letters.stat().st_mode & 0o777
    for line in lines:
        assert SECRET not in line.partition('"raw":')[0]
        assert SECRET in line.partition('"raw":')[2]
