r"""
How results are shown: JSON for programs, lines and tables for people.

What comes from a trail was written by whoever used the application, an attacker
perhaps. So nothing of it reaches a terminal that the terminal would obey: control
characters and invisible ones are shown as ``\x1b`` or ``\u202e``, in JSON as the
escapes that JSON has for them.

Where stdout is no terminal, rows are lines with tabs between the cells.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.entry import time_to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from indelible.entry import Entry
    from indelible.proof import Proof
    from indelible.query import Item

    Advance = Callable[[int, int | None], None]
    """Told how much is done, and of how much if that is known."""

ITEM_COLUMNS = ("time", "actor", "action", "resource", "outcome", "entry", "rationale", "id")
"""Those of `item_row`."""


def visible(text: str) -> str:
    """Return *text* with everything escaped that is not seen, or that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def visible_json(value: object) -> str:
    """Return *value* as one line of JSON that holds only what can be seen."""
    text = msgspec.json.encode(value).decode("utf-8")
    if text.isprintable():
        return text
    # In JSON such characters stand in strings only, and there each has an escape.
    return "".join(each if each.isprintable() else _json_escape(each) for each in text)


def print_json(value: object) -> None:
    """Print *value* as one line of JSON in UTF-8, whatever the locale is."""
    print_exact(f"{visible_json(value)}\n".encode())


def print_exact(data: bytes) -> None:
    """Print *data* as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_text(text: str) -> None:
    """Print one line for people."""
    sys.stdout.write(f"{visible(text)}\n")
    sys.stdout.flush()


def print_row(cells: Iterable[str]) -> None:
    """Print one line of cells with tabs between them."""
    sys.stdout.write("\t".join(map(visible, cells)) + "\n")
    sys.stdout.flush()


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    pairs = [(visible(name), visible(value)) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        sys.stdout.write(
            f"{name:<{width}}  {value}\n" if sys.stdout.isatty() else f"{name}\t{value}\n"
        )
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows*: as a table on a terminal, else as lines with tabs and no heading."""
    if not sys.stdout.isatty():
        for row in rows:
            print_row(row)
        return
    from indelible.cli import terminal  # noqa: PLC0415 - Rich is slow to load

    terminal.print_table(columns, [list(map(visible, row)) for row in rows])


def note(text: str) -> None:
    """Say something on stderr that is neither a result nor an error."""
    sys.stderr.write(f"{visible(text)}\n")


def report(kind: str, message: str, *, json: bool, **details: object) -> None:
    """Report an error on stderr, in one line."""
    if json:
        document = {"error": {"type": kind, "message": message, **details}}
        line = visible_json(document)
    else:
        line = f"error: {visible(message)}"
    sys.stderr.write(f"{line}\n")


@contextmanager
def progress(what: str, *, json: bool) -> Iterator[Advance | None]:
    """Show on stderr how far *what* has come, if a person sees it; else yield None."""
    if json or not sys.stderr.isatty():
        yield None
        return
    from indelible.cli import terminal  # noqa: PLC0415 - Rich is slow to load

    with terminal.progress(what) as advance:
        yield advance


def print_items(items: Iterable[Item]) -> None:
    """Print entries: as a table on a terminal, else as lines of `ITEM_COLUMNS`."""
    if not sys.stdout.isatty():
        for item in items:
            print_row(item_row(item))
        return
    from indelible.cli import terminal  # noqa: PLC0415 - Rich is slow to load

    terminal.print_items([list(map(visible, item_row(item))) for item in items])


def item_json(item: Item, proof: Proof | None = None) -> dict[str, Any]:
    """
    Return what programs see of an entry.

    ``event`` is the event as the viewer may see it; ``sealed`` the very JSON that the log
    holds; ``values`` says of each committed path what there is of its value; ``unproven``
    names those that a collector shows without proof.
    """
    shown: dict[str, Any] = {
        "log": item.log,
        "stream": item.stream,
        "index": item.index,
        "leaf_hash": item.leaf_hash.hex(),
        "recorded_at": time_to_text(item.entry.recorded_at),
        "event": item.event,
        "sealed": raw_json(item.entry.event),
    }
    if item.states:
        shown["values"] = {path: state.value for path, state in item.states.items()}
    if unproven := unproven_of(item):
        shown["unproven"] = unproven
    if proof is not None:
        shown["proof"] = proof.to_bytes().decode("utf-8")
    return shown


def item_row(item: Item) -> tuple[str, ...]:
    """Return what people see of an entry in a list: the cells of `ITEM_COLUMNS`."""
    event = item.event
    return (
        time_to_text(item.entry.recorded_at),
        str(event.actor),
        event.action,
        str(event.resource),
        event.outcome.value,
        place_of(item),
        "" if event.rationale is None else event.rationale.text,
        event.id,
    )


def item_fields(item: Item) -> Iterator[tuple[str, str]]:
    """Yield what people see of an entry by itself: its place, and each value of its event."""
    yield "entry", place_of(item)
    yield "leaf_hash", item.leaf_hash.hex()
    yield "recorded_at", time_to_text(item.entry.recorded_at)
    yield from _leaves(msgspec.to_builtins(item.event), "")
    for name, said in (("policy", item.clear.policy), ("rule", item.clear.rule)):
        if said is not None:
            yield name, said
    for path in item.clear.dropped:
        yield path, "secret: not kept"
    for path in item.clear.caught:
        yield path, "looked like a secret: kept in the vault, not in clear"
    unproven = unproven_of(item)
    for path, state in item.states.items():
        yield path, f"{state.value}, by the collector's word" if path in unproven else state.value


def unproven_of(item: Item) -> tuple[str, ...]:
    """Return the paths of values that a collector shows without proof; a trail has none."""
    found: tuple[str, ...] = getattr(item, "unproven", ())
    return found


def entry_fields(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield what people see of an entry without its log."""
    yield "leaf_hash", entry.leaf_hash.hex()
    yield "recorded_at", time_to_text(entry.recorded_at)
    yield from _leaves(msgspec.json.decode(entry.event), "")


def raw_json(event: bytes) -> msgspec.Raw:
    """Return a sealed event to stand in a JSON document exactly as it was recorded."""
    return msgspec.Raw(event)


def place_of(item: Item) -> str:
    """Return where the entry stands: ``user#12``."""
    return f"{item.log}#{item.index}"


def value_text(value: object) -> str:
    """Return a JSON value for people: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else visible_json(value)


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _leaves(part, f"{path}.{number}")
    else:
        yield path, value_text(value)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
