"""
Connections to PostgreSQL: opened, shared out among threads, kept from forks, given back.

Also whose turn it is when PostgreSQL fails. It knows nothing of tables.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from indelible.errors import (
    CallerError,
    Moved,
    StoreError,
    StoreFull,
    StoreReadOnly,
    UnsupportedVersion,
    WriteUncertain,
)

try:
    import psycopg
    from psycopg import pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise CallerError("postgresql://: pip install 'indelible[postgresql]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]
    Cursor = psycopg.Cursor[TupleRow]
    Statement = tuple[str, Sequence[Any]]

_FULL = {"53100", "53200", "54000"}
_READ_ONLY = {"25006", "42501"}
_MOVED = "IN001"
"""Raised by functions of ours."""

_MOST_IDLE = 8
_SECRET = {"password", "sslpassword"}
_URL = re.compile(
    r"(postgres(?:ql)?://)(?:([^/@:]*)(?::[^/@]*)?(?=@))?([^?]*)(?:\?(.*))?", re.DOTALL
)
"""Scheme, user, place and options."""

_PATIENCE = {
    # Seconds for a server to answer who connects.
    "connect_timeout": 5,
    # A host that went silent, or a network that drops what is sent, is noticed within about
    # ten seconds (the last one: in milliseconds), whatever is waited for.
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""What a URL does not say otherwise."""


def connect(url: str) -> Connection:
    """
    Connect to the database at *url*; transactions begin and end as they are told to.

    Raises:
        CallerError: The URL cannot be read.
        StoreError: It cannot be reached.
    """
    parameters = {**_PATIENCE, **_parse(url)}
    with translated():
        # Nothing is prepared: a plan for any values would lock the tables of all segments.
        return psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)


def without_password(url: str) -> str:
    """
    Return *url* as it may be kept and shown.

    Raises:
        CallerError: It cannot be read.
    """
    parameters = _parse(url)
    kept = {name: value for name, value in parameters.items() if name not in _SECRET}
    if kept == parameters:
        return url
    if written := _URL.fullmatch(url):
        scheme, user, place, query = written.groups()
        options = "&".join(
            each
            for each in (query or "").split("&")
            if unquote(each.partition("=")[0]) not in _SECRET
        )
        shown = f"{scheme}{user or ''}{place}{options and '?'}{options}"
        if _parse(shown) == kept:
            return shown
    return make_conninfo(**kept)


def _parse(url: str) -> dict[str, Any]:
    """
    Return what *url* says.

    Raises:
        CallerError: It cannot be read, or part of a password would be taken for the server or
            the database, and be named in errors.
    """
    with suppress(psycopg.ProgrammingError):
        parameters = conninfo_to_dict(url)
        places = [str(parameters.get(name, "")) for name in ("host", "hostaddr", "dbname")]
        port = str(parameters.get("port", ""))
        if not any("@" in each for each in places) and not port.strip("0123456789,"):
            return parameters
    # The driver's own message quotes the URL, and so perhaps a password.
    raise CallerError(
        "store: found a URL that cannot be read, expected"
        " postgresql://user:password@host:port/database; an @, a / or a : in a password is"
        " written %40, %2F or %3A"
    )


def next_rows(answer: Cursor) -> list[TupleRow]:
    """Return the rows of the next statement in *answer* that finds any."""
    while answer.nextset():
        if answer.description is not None:
            return answer.fetchall()
    raise StoreError("store: found fewer answers than questions")


def rows(connection: Connection, query: str, *values: Any) -> list[TupleRow]:
    """Return the rows that *query* finds; bytes come as bytes, not as digits."""
    return connection.execute(query, values, binary=True).fetchall()


def change(connection: Connection, query: str, *values: Any) -> int:
    """Execute a statement, and return how many rows it changed."""
    return connection.execute(query, values).rowcount


def change_all(
    connection: Connection, statements: Sequence[Statement], query: str, *values: Any
) -> list[TupleRow]:
    """Execute *statements* and then *query*, wait once for all, and return the rows it finds."""
    with connection.pipeline():
        for statement, given in statements:
            connection.execute(statement, given)
        found = connection.execute(query, values, binary=True)
    return found.fetchall()


def change_each(connection: Connection, query: str, given: Sequence[Sequence[Any]]) -> None:
    """Execute a statement for each of the values *given*, and wait once for all."""
    with connection.cursor() as cursor:
        cursor.executemany(query, given)


def copy(
    connection: Connection, table: str, columns: Sequence[str], given: Sequence[Sequence[Any]]
) -> None:
    """
    Add rows to a table in one go.

    Args:
        columns: Name and type of each, separated by a space.
    """
    if not given:
        return
    names = ", ".join(column.partition(" ")[0] for column in columns)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as copying,
    ):
        copying.set_types([column.partition(" ")[2] for column in columns])
        for row in given:
            copying.write_row(row)


@contextmanager
def translated() -> Iterator[None]:
    """Let the errors of PostgreSQL say whose turn it is."""
    try:
        yield
    except psycopg.Error as error:
        raise store_error(error) from error


def store_error(error: psycopg.Error) -> StoreError | UnsupportedVersion:
    """Return the error of ours that says whose turn it is."""
    # The first line alone: details may quote what was to be kept.
    state = error.sqlstate or type(error).__name__
    said = error.diag.message_primary or str(error).partition("\n")[0]
    if state == _MOVED:
        return Moved(f"store: {said}")
    text = f"store: {said} ({state})"
    if state in _FULL:
        return StoreFull(text)
    if state in _READ_ONLY:
        return StoreReadOnly(text)
    return StoreError(text)


def commit(connection: Connection, statements: Sequence[Statement] = ()) -> None:
    """
    Execute what is left of the transaction of *connection* and end it: all of it has happened.

    Args:
        statements: Sent together with the end, so that both are waited for once.

    Raises:
        StoreError: None of it has.
        WriteUncertain: All or nothing has.
    """
    if connection.info.transaction_status is not pq.TransactionStatus.INTRANS:
        # PostgreSQL would roll it back, and not call that an error.
        raise StoreError("store: a statement of the transaction failed; nothing was written")
    warnings: list[str] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary or "warning")

    connection.add_notice_handler(hear)
    try:
        # Crash before this line: nothing happened. Crash after it: everything did, and
        # nobody was told; whoever looks next, in a transaction of their own, finds it.
        if statements:
            with connection.pipeline():
                for query, given in statements:
                    connection.execute(query, given)
                # Where one of them fails, the server passes over all that follow it.
                connection.execute("COMMIT")
        else:
            connection.execute("COMMIT")
    except psycopg.Error as error:
        if connection.closed:
            # The answer was lost, or the server went down before, in or after it.
            raise WriteUncertain(f"store: connection lost at commit ({error.sqlstate})") from error
        raise store_error(error) from error
    finally:
        connection.remove_notice_handler(hear)
    if warnings:
        # A standby was not waited for: the server has it, but may lose it to the standby.
        raise WriteUncertain(f"store: {warnings[0]} (at commit)")


class Connections:
    """
    The connections of one store, used by one thread each at a time.

    Args:
        turn: Before a fork, those with a lower number come to rest first.
    """

    def __init__(self, url: str, *, turn: int) -> None:
        self.url = url
        self.turn = turn
        self._idle: list[Connection] = []
        self._used = 0
        self._changed = threading.Condition()
        with _opening:
            _all.add(self)

    @contextmanager
    def begun(self, statement: str) -> Iterator[Connection]:
        """
        Yield a connection on which *statement*, which begins a transaction, was executed.

        What was not committed in the block has not happened.
        """
        with self.asked(statement) as answer:
            yield answer.connection

    @contextmanager
    def asked(self, statements: str) -> Iterator[Cursor]:
        """
        Yield the answer to *statements*, the first of which begins a transaction, as `begun`.

        All are sent at once. The answer to each is the cursor's next set of rows.
        """
        with self._changed:
            self._used += 1
        connection: Connection | None = None
        try:
            answer = self._begin(statements)
            connection = answer.connection
            yield answer
        finally:
            self._give_back(connection)

    def _begin(self, statements: str) -> Cursor:
        while True:
            with self._changed:
                idle = self._idle.pop() if self._idle else None
            connection = connect(self.url) if idle is None else idle
            try:
                with translated():
                    return connection.execute(statements)
            except BaseException:
                was_closed = connection.closed
                connection.close()
                # The server was restarted since this one was used last: no transaction
                # was begun on it, so another connection may do.
                if idle is None or not was_closed:
                    raise

    def _give_back(self, connection: Connection | None) -> None:
        if connection is not None:
            if connection.info.transaction_status is not pq.TransactionStatus.IDLE:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
            at_rest = connection.info.transaction_status is pq.TransactionStatus.IDLE
        with self._changed:
            self._used -= 1
            if connection is not None:
                if at_rest and len(self._idle) < _MOST_IDLE:
                    self._idle.append(connection)
                else:
                    connection.close()
            self._changed.notify_all()

    def close(self) -> None:
        """Give back the connections that nobody uses."""
        with self._changed:
            while self._idle:
                self._idle.pop().close()

    def before_fork(self) -> None:
        """Let what is under way end, and hold no connection: two processes cannot share one."""
        self._changed.acquire()
        # Whoever waits lets go of the lock: a thread that has a connection may need another.
        self._changed.wait_for(lambda: not self._used)
        self.close()

    def after_fork(self) -> None:
        """Go on, in the parent and in the child."""
        self._changed.release()


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_forking: list[Connections] = []
_opening = threading.Lock()


def _before_fork() -> None:
    # One that another thread opened meanwhile would not have come to rest.
    _opening.acquire()
    _forking[:] = sorted(_all, key=lambda each: each.turn)
    for each in _forking:
        each.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()
    _opening.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
