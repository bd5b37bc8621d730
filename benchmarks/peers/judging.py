"""What a library has recorded, in one form, held against what the database held."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.errors import LockNotAvailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Rows = dict[str, dict[str, str]]
"""Values by column, by primary key; as texts."""

Recorded = list[tuple[str, str, "Mapping[str, Any]"]]
"""Verb, primary key, and of an update old and new value by column."""

COLUMNS = ("name", "sku", "price", "stock", "active")
MEANWHILE = 500
"""What another writer sets the stock to, whom the library's process does not see."""


def judged(before: Rows, after: Rows, said: Recorded) -> str:
    """Say what is wrong with what was *said* of the way from *before* to *after*, if anything."""
    wanted: Counter[tuple[str, str]] = Counter()
    values: dict[str, dict[str, tuple[str, str]]] = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        verb = "create" if old is None else "delete" if new is None else "update"
        wanted[verb, key] += 1
        if old is not None and new is not None:
            values[key] = {name: (old[name], new[name]) for name in new if old[name] != new[name]}
    got = Counter((verb, key) for verb, key, _ in said)
    if missed := sum((wanted - got).values()):
        return f"missed {missed}"
    if phantom := sum((got - wanted).values()):
        return f"phantom {phantom}"
    for verb, key, changes in said:
        for name, pair in values.get(key, {}).items() if verb == "update" else ():
            if name not in changes:
                return "no value"
            if pair != tuple(map(str, changes[name])):
                return "false value"
    return "true"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Turns whole rows, as some libraries keep them, into changes against those before."""

    _rows: Rows = field(default_factory=dict)

    def compared(self, rows: list[tuple[str, Any]]) -> Recorded:
        """Return what *rows*, each with its verb, say in their order."""
        said: Recorded = []
        for verb, row in rows:
            key = str(row.id)
            values = {name: str(getattr(row, name)) for name in COLUMNS}
            before = self._rows.get(key, {})
            changes = {
                name: (before.get(name), value)
                for name, value in values.items()
                if before.get(name) != value
            }
            said.append((verb, key, changes))
            self._rows[key] = values
        return said


@dataclass(slots=True)
class Rival:
    """
    Another writer, who comes between what a library reads and what it then writes.

    Attributes:
        won: Whether it came through; who has locked the row keeps it out.
    """

    url: str
    table: str
    won: bool = False
    _waits: bool = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside the block, come before the first UPDATE of the table."""
        self._waits, self.won = True, False
        try:
            yield
        finally:
            self._waits = False

    def sees(self, sql: object) -> None:
        """Take note that *sql* is about to be executed."""
        text = str(sql).replace('"', "")
        if self._waits and f"UPDATE {self.table} SET" in text:
            self._waits = False
            self.write(patience="50ms")

    def write(self, patience: str = "5s") -> None:
        """Set the stock of the row ``s1``, if its lock can be had within *patience*."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT set_config('lock_timeout', %s, false)", (patience,))
            try:
                connection.execute(
                    f"UPDATE {self.table} SET stock = %s WHERE sku = 's1'",  # noqa: S608 - our own
                    (MEANWHILE,),
                )
            except LockNotAvailable:
                return
        self.won = True

    def without(self, before: Rows, said: Recorded) -> tuple[Rows, Recorded]:
        """Return *before* as the rival left it, and what was *said* of others than the rival."""
        if not self.won:
            return before, said
        self.won = False
        stock = str(MEANWHILE)
        left = {
            key: {**row, "stock": stock} if row["sku"] == "s1" else row
            for key, row in before.items()
        }
        others = [each for each in said if str(each[2].get("stock", ("", ""))[1]) != stock]
        return left, others
