"""
Triggers of PostgreSQL that write the outbox: for raw SQL, psql, and what no ORM sees.

They are statement triggers: what a statement did to a table is in the outbox when the
statement ends, in its transaction, as `indelible.outbox` describes it, whoever sent the
statement. They know who acts by a setting of the transaction, see `set_context`.

All functions take a connection (DB-API 2, parameters as ``%s``) and work in its
transaction: they neither commit nor roll back.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.capture import Tracked
from indelible.context import current, to_message
from indelible.errors import CallerError
from indelible.event import Resource, check_action, check_text
from indelible.outbox import TABLE
from indelible.outboxes.postgresql import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indelible.context import Context

__all__ = ["Installed", "install", "installed", "remove", "set_context", "switched_off"]

_TABLE = """
SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass(pg_catalog.concat_ws('.', pg_catalog.quote_ident(%s),
    pg_catalog.quote_ident(%s)))
"""
_COLUMNS = """
SELECT attname, attnum FROM pg_catalog.pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""
# Each unique index over whole columns of all rows.
_UNIQUE = """
SELECT i.indisprimary, ARRAY(
    SELECT a.attname::text
    FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, n)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.n <= i.indnkeyatts ORDER BY k.n)
FROM pg_catalog.pg_index AS i
WHERE i.indrelid = %s AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
"""
_PARTITIONS = """
SELECT t.relid::pg_catalog.oid, c.relname FROM pg_catalog.pg_partition_tree(%s) AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
"""
_INSTALLED = """
SELECT n.nspname, c.relname, t.tgargs FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.tgname = 'indelible_insert' AND NOT t.tgisinternal ORDER BY 1, 2
"""


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """
    A table with triggers.

    Attributes:
        key: Columns that make the id of a resource.
        names: Of columns that are called otherwise in the trail.
    """

    schema: str
    table: str
    tracked: Tracked
    key: tuple[str, ...]
    names: dict[str, str]


class _Numbers(msgspec.Struct, frozen=True, kw_only=True):
    key: list[int]
    exclude: list[int]
    secret: list[int]


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the triggers are told; `all` is the id of all rows of the table."""

    type: str
    outbox: str
    all: str
    names: dict[str, str]
    key: list[str]
    exclude: list[str]
    secret: list[str]
    personal: list[str]
    numbers: _Numbers


def install(
    connection: Any,  # noqa: ANN401 - of any driver
    table: str,
    *,
    tracked: Tracked,
    schema: str | None = None,
    key: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> None:
    """
    Put triggers on *table*, or replace those that are there; with its partitions.

    The role needs the right to create triggers on the table, and to write into the outbox,
    which is made where there is none. Those who write into the table need no right more
    than before.

    Args:
        table: Its name as it is, without quotes and without a schema.
        tracked: What is told of it; its fields are columns.
        schema: By default the first on the search path that has the table.
        key: Columns that make the id of a resource; by default the primary key.
        names: What columns are called in the trail, where an ORM gives them another name.

    Raises:
        CallerError: There is no such table or column, no key, a secret one, or the type is no
            name.
    """
    Resource(type=tracked.type, id="*")
    check_action(f"{tracked.type}.create")
    for column, name in (names or {}).items():
        check_text(f"names.{column}", name)
    with connection.cursor() as cursor:
        relation = _find(cursor, table, schema)
        key = _key(cursor, relation, table, key)
        if hidden := tracked.secret.intersection(key):
            raise CallerError(
                f"{table}: found the secret {min(hidden)!r} in its key, expected another key: it"
                " is the id of every event"
            )
        outbox = _prepare(cursor)
        cursor.execute(_PARTITIONS, (relation,))
        # Of a table that is not partitioned, itself.
        parts = dict(cursor.fetchall()) or {relation: table}
        for part, name in parts.items():
            numbers = _numbers(cursor, part)
            for column in sorted(
                {*tracked.exclude, *tracked.secret, *tracked.personal, *(names or {})}
            ):
                if column not in numbers:
                    raise CallerError(f"{table}: found no column {column!r}, expected one")
            options = _Options(
                type=tracked.type,
                outbox=outbox,
                all="*" if part == relation else f"*/{name}",
                names=dict(names or {}),
                key=list(key),
                exclude=sorted(tracked.exclude),
                secret=sorted(tracked.secret),
                personal=sorted(tracked.personal),
                numbers=_Numbers(
                    key=[numbers[column] for column in key],
                    exclude=sorted(numbers[column] for column in tracked.exclude),
                    secret=sorted(numbers[column] for column in tracked.secret),
                ),
            )
            text = msgspec.json.encode(options).decode("utf-8")
            cursor.execute("SELECT indelible.install(%s::oid::regclass, %s::jsonb)", (part, text))


def remove(connection: Any, table: str, *, schema: str | None = None) -> bool:  # noqa: ANN401
    """
    Take the triggers off *table* and its partitions; tell whether there were any.

    Raises:
        CallerError: There is no such table.
    """
    with connection.cursor() as cursor:
        relation = _find(cursor, table, schema)
        cursor.execute("SELECT pg_catalog.to_regprocedure('indelible.remove(regclass)')")
        if cursor.fetchone()[0] is None:
            return False
        cursor.execute(_PARTITIONS, (relation,))
        found = [part for part, _ in cursor.fetchall()] or [relation]
        cursor.execute(
            "SELECT pg_catalog.bool_or(indelible.remove(part::oid::regclass))"
            " FROM pg_catalog.unnest(%s::oid[]) AS part",
            (found,),
        )
        return bool(cursor.fetchone()[0])


def installed(connection: Any) -> list[Installed]:  # noqa: ANN401 - of any driver
    """Return the tables that have triggers, partitions included, by their names."""
    with connection.cursor() as cursor:
        cursor.execute(_INSTALLED)
        return [_installed(*row) for row in cursor.fetchall()]


def set_context(connection: Any, context: Context | None = None) -> None:  # noqa: ANN401
    """
    Tell the triggers who acts, until the transaction ends.

    Call it when a transaction begins. What is set inside a savepoint is gone when that is
    rolled back: call it again then.

    Args:
        context: By default that of the work in progress.
    """
    text = to_message(current() if context is None else context)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.set_config('indelible.context', %s, true)", (text,))


@contextmanager
def switched_off(connection: Any) -> Iterator[None]:  # noqa: ANN401 - of any driver
    """
    Let the triggers rest inside the block, because somebody else captures what it does.

    It is for an adapter that writes into the outbox itself. The triggers do not rest for a
    role without the right to insert into the outbox. Only the transaction of now is
    meant: one that begins inside the block is captured.
    """
    before = _capture(connection, "off")
    try:
        yield
    except BaseException:
        # Where the transaction has failed this does, too: nothing is left of it but its
        # roll-back, which takes the setting back.
        with suppress(Exception):
            _capture(connection, before)
        raise
    _capture(connection, before)


def _capture(connection: Any, value: str) -> str:  # noqa: ANN401
    """Set whether the triggers work until the transaction ends; return what was set."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.current_setting('indelible.capture', true)")
        before = cursor.fetchone()[0]
        cursor.execute("SELECT pg_catalog.set_config('indelible.capture', %s, true)", (value,))
    return before or ""


def _find(cursor: Any, table: str, schema: str | None) -> int:  # noqa: ANN401
    cursor.execute(_TABLE, (schema, table))
    found = cursor.fetchone()
    name = table if schema is None else f"{schema}.{table}"
    if found is None:
        raise CallerError(f"table: found none called {name!r}, expected one that is there")
    relation, kind = found[:2]
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if kind not in {"r", "p"}:
        raise CallerError(f"table: found that {name!r} is none (relkind {kind!r}), expected one")
    return int(relation)


def _key(cursor: Any, relation: int, table: str, wanted: Sequence[str]) -> Sequence[str]:  # noqa: ANN401
    """Return the columns of the key: those *wanted*, if a unique index has just them."""
    cursor.execute(_UNIQUE, (relation,))
    found = [(primary, list(columns)) for primary, columns in cursor.fetchall()]
    if not wanted:
        for primary, columns in found:
            if primary:
                return columns
        raise CallerError(
            f"{table}: found no primary key, expected one, or key=[…] with the columns of a"
            " unique index: without it nobody can tell which row was changed"
        )
    if any(set(columns) == set(wanted) for _, columns in found):
        return wanted
    raise CallerError(
        f"{table}: found no unique index of just {', '.join(wanted)}, expected one over what is"
        " to make the id of a row"
    )


def _prepare(cursor: Any) -> str:  # noqa: ANN401
    """Make the outbox where there is none, and the functions; return the outbox's name."""
    # Two that install at once would make the same things.
    cursor.execute("SELECT pg_catalog.pg_advisory_xact_lock(7307497664101313637)")
    cursor.execute("SELECT pg_catalog.to_regclass(%s)::oid", (TABLE,))
    if cursor.fetchone()[0] is None:
        cursor.execute(SCHEMA)
    text = (resources.files("indelible.outboxes") / "triggers.sql").read_text("utf-8")
    cursor.execute(text)
    cursor.execute(
        "SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS c"
        " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.oid = pg_catalog.to_regclass(%s)",
        (TABLE,),
    )
    return str(cursor.fetchone()[0])


def _numbers(cursor: Any, relation: int) -> dict[str, int]:  # noqa: ANN401
    cursor.execute(_COLUMNS, (relation,))
    return dict(cursor.fetchall())


def _installed(schema: str, table: str, arguments: bytes) -> Installed:
    options = msgspec.json.decode(bytes(arguments).split(b"\0")[0], type=_Options)
    tracked = Tracked(
        type=options.type,
        exclude=frozenset(options.exclude),
        secret=frozenset(options.secret),
        personal=frozenset(options.personal),
    )
    return Installed(
        schema=schema,
        table=table,
        tracked=tracked,
        key=tuple(options.key),
        names=options.names,
    )
