"""What an INSERT adds: the keys of its rows, and the rows that it may update instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint, and_, false, or_, select
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from indelible.capture import exact
from indelible.errors import CallerError
from indelible.frameworks.sqlalchemy.tables import within

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, ColumnElement, CursorResult, Insert, Row
    from sqlalchemy.sql.dml import UpdateBase

    from indelible.frameworks.sqlalchemy.tables import Key, Watched

_CHUNK = 200


class Answer(Enum):
    """How an INSERT tells the keys of its rows."""

    KEYS = "as SQLAlchemy tells them by itself"
    DEFAULTS = "among what the ORM has asked for"
    OWN_ROWS = "in rows that it returns, and the caller did not ask for"
    ROWS = "in the rows that it returns to the caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    An INSERT that tells the keys of its rows.

    Attributes:
        clause: What is executed.
        changed: Whether it asks for something that its caller did not ask for.
        added: Columns at the end of the rows of which the caller must not know.
    """

    clause: Insert
    answer: Answer
    changed: bool = False
    added: int = 0

    def keys(self, result: CursorResult[Any], watched: Watched) -> list[Key]:
        """Return the keys of the rows that came or changed; *result* is as if unread."""
        if self.answer is Answer.KEYS:
            keys = [tuple(row or ()) for row in result.inserted_primary_key_rows]
        elif self.answer is Answer.DEFAULTS:
            keys = _keys(result.returned_defaults_rows or (), watched)
        else:
            rows = result.all()
            keys = _keys(rows, watched)
            if self.answer is Answer.ROWS:
                width = len(result.keys())
                result._rewind(rows)  # noqa: SLF001 - as the ORM does with rows it has read itself
                if self.added:
                    result.columns(*range(width - self.added))
        if self.changed:
            # Of a statement that returns rows in batches it is the last batch's, or none.
            result.context._rowcount = len(keys)  # noqa: SLF001
        return keys


def _keys(rows: Iterable[Row[Any]], watched: Watched) -> list[Key]:
    return [tuple(row._mapping[column] for column in watched.key) for row in rows]  # noqa: SLF001 - public, so that no column hides it


def asked(clause: Insert, watched: Watched, *, many: bool) -> Asked:
    """
    Return *clause* so that it tells the keys of its rows, and its caller notices nothing.

    Raises:
        CallerError: It replaces rows, and none of them is told.
    """
    key = list(watched.key)
    prefixes = " ".join(str(prefix) for prefix, _ in clause._prefixes).upper()  # noqa: SLF001 - it has no public name
    if "REPLACE" in prefixes:
        raise CallerError(
            f"table {watched.table.fullname}: found INSERT OR REPLACE, which deletes rows and"
            " tells none of them; expected on_conflict_do_update()"
        )
    skips = bool(prefixes) or clause._post_values_clause is not None  # noqa: SLF001
    if clause._return_defaults and clause._returning:  # noqa: SLF001 - the ORM's bulk INSERT
        return Asked(clause=clause, answer=Answer.DEFAULTS if skips else Answer.KEYS)
    if clause._returning:  # noqa: SLF001
        missing = unreturned(clause, watched)
        wider = returning(clause, missing)
        return Asked(clause=wider, answer=Answer.ROWS, added=len(missing))
    if (
        skips
        or clause._multi_values  # noqa: SLF001
        or clause._inline  # noqa: SLF001
        or clause.select is not None
        or key != list(watched.table.primary_key.columns)
    ):
        return Asked(clause=clause.returning(*key), answer=Answer.OWN_ROWS, changed=True)
    if many and not clause._return_defaults:  # noqa: SLF001
        return Asked(clause=clause.return_defaults(*key), answer=Answer.KEYS, changed=True)
    return Asked(clause=clause, answer=Answer.KEYS)


def table_of(clause: UpdateBase) -> Any:  # noqa: ANN401 - a table, or an alias of one
    """Return what *clause* changes; of the ORM's bulk INSERT, whose turn it is."""
    return clause._annotations.get("_emit_insert_table", clause.table)  # noqa: SLF001


def unreturned(clause: Insert, watched: Watched) -> list[Column[Any]]:
    """Return the columns of the key that *clause* does not return."""
    there = {
        column
        for element in clause._returning  # noqa: SLF001 - it has no public name
        for column in element._select_iterable  # noqa: SLF001
    }
    return [column for column in watched.key if column not in there]


def returning(clause: Insert, columns: Sequence[Any]) -> Insert:
    """Return *clause* so that it returns *columns*, too, as its last ones."""
    if not columns:
        return clause
    order = clause._sort_by_parameter_order  # noqa: SLF001
    return clause.returning(*columns, sort_by_parameter_order=order)


def updates(clause: Insert) -> list[Any]:
    """Return what *clause* says of conflicts that it answers with an update."""
    said = clause._post_values_clause  # noqa: SLF001
    every = getattr(said, "clauses", None) or ([] if said is None else [said])
    return [each for each in every if each.__visit_name__ == "on_conflict_do_update"]


def conflicts(
    clause: Insert, sets: Sequence[Mapping[str, Any]], watched: Watched
) -> Iterator[ColumnElement[bool]]:
    """
    Yield conditions for the rows that *clause* may update instead of adding its own.

    Raises:
        CallerError: They cannot be told from the statement.
    """
    targets = [columns for each in updates(clause) for columns in _targets(each, watched)]
    if clause.select is not None:
        names = [watched.column(name) for name in clause._select_names or ()]  # noqa: SLF001
        source = clause.select.subquery()
        for columns in targets:
            if all(column.name in names for column in columns):
                chosen = [list(source.c)[names.index(column.name)] for column in columns]
                yield within(columns, select(*chosen))
        return
    pairs = [zip(*group, strict=True) for group in _groups(clause, sets, watched, targets)]
    found = [and_(*(column == value for column, value in pair)) for pair in pairs]
    for first in range(0, len(found), _CHUNK):
        yield or_(false(), *found[first : first + _CHUNK])


def contended(clause: Insert, sets: Sequence[Mapping[str, Any]], watched: Watched) -> list[int]:
    """
    Return a number for each key that *clause* may conflict on, the same for the same key.

    Of what only the database can tell, there is none.
    """
    if clause.select is not None:
        return []
    targets = [columns for each in updates(clause) for columns in _targets(each, watched)]
    found = set()
    for columns, values in _groups(clause, sets, watched, targets):
        if not any(isinstance(value, ClauseElement) for value in values):
            said = repr((watched.table.fullname, [column.name for column in columns]))
            said += repr([exact(value) for value in values])
            digest = sha256(said.encode("utf-8", "surrogatepass")).digest()
            found.add(int.from_bytes(digest[:8], "big", signed=True))
    return sorted(found)


def _groups(
    clause: Insert,
    sets: Sequence[Mapping[str, Any]],
    watched: Watched,
    targets: Sequence[list[Column[Any]]],
) -> Iterator[tuple[list[Column[Any]], list[Any]]]:
    """Yield columns and values of each key that a row to be added may conflict on."""
    for row in _rows(clause, sets, watched):
        for columns in targets:
            values = [_value(row, column, watched) for column in columns]
            if all(value is not None for value in values):
                yield columns, values


def _rows(
    clause: Insert, sets: Sequence[Mapping[str, Any]], watched: Watched
) -> Iterator[dict[str, Any]]:
    """Yield the values of each row that is to be added, by the name of the column."""
    if clause._multi_values:  # noqa: SLF001
        names = [column.name for column in watched.table.c]
        groups: Any = clause._multi_values  # noqa: SLF001
        for group in groups:
            for given_row in group:
                named = isinstance(given_row, dict)
                items = given_row.items() if named else zip(names, given_row, strict=False)
                yield {watched.column(name): value for name, value in items}
        return
    given = {watched.column(name): value for name, value in (clause._values or {}).items()}  # noqa: SLF001
    for one in sets:
        row = {watched.column(name): value for name, value in one.items()}
        row.update((name, bound(value, one)) for name, value in given.items())
        yield row


def bound(value: Any, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any value
    """Return the value that is bound, or the expression as it is."""
    if isinstance(value, BindParameter):
        return parameters.get(value.key, value.effective_value)
    return value


def _value(row: Mapping[str, Any], column: Column[Any], watched: Watched) -> Any:  # noqa: ANN401 - any value
    if column.name in row:
        value = bound(row[column.name], {})
        return value if not hasattr(value, "__clause_element__") else value.__clause_element__()
    default: Any = column.default
    if default is None or default.is_sequence:
        return None  # the database finds one, and a new one
    if default.is_callable:
        raise CallerError(
            f"table {watched.table.fullname}: found on_conflict_do_update() on"
            f" {column.name}, whose value is not given; expected it among the values"
        )
    return default.arg


def _targets(said: Any, watched: Watched) -> Iterable[list[Column[Any]]]:  # noqa: ANN401 - of either dialect
    table = watched.table
    every: list[Any] = [*table.constraints, *table.indexes]
    name = getattr(said, "constraint_target", None)
    if name is not None:
        for each in every:
            columns = list(each.columns)
            generated = f"{table.name}_{'_'.join(column.name for column in columns)}_key"
            own = f"{table.name}_pkey" if each is table.primary_key else generated
            if str(each.name or own) == name:
                return [columns]
        raise CallerError(
            f"table {table.fullname}: found on_conflict_do_update() on the constraint {name},"
            " expected one that the table declares"
        )
    elements = said.inferred_target_elements
    if elements is None:
        return [
            list(each.columns)
            for each in every
            if isinstance(each, (PrimaryKeyConstraint, UniqueConstraint))
            or getattr(each, "unique", False)
        ]
    found = []
    for element in elements:
        column = table.c.get(str(getattr(element, "key", element)))
        if column is None or (isinstance(element, ClauseElement) and element != column):
            column = next((each for each in table.c if each.name == element), None)
        if column is None:
            raise CallerError(
                f"table {table.fullname}: found on_conflict_do_update() on an expression,"
                " expected columns"
            )
        found.append(column)
    return [found]
