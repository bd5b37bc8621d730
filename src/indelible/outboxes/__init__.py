"""
Outboxes: where events wait in an application's own database, see `indelible.outbox`.

Each module is for one kind of database; `open_outbox` finds it by a URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indelible.errors import CallerError

if TYPE_CHECKING:
    from indelible.outbox import Outbox

__all__ = ["open_outbox"]


def open_outbox(url: str) -> Outbox:
    """
    Return the outbox in the database at *url*; nothing is connected to yet.

    Args:
        url: ``postgresql://user@host/database``, or ``sqlite:///shop.db``
            (``sqlite:////`` before an absolute path), as SQLAlchemy writes them.

    Raises:
        CallerError: It names another kind of database, or the driver is not installed.
    """
    scheme, separator, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if separator and kind in ("postgresql", "postgres"):
        from indelible.outboxes import postgresql  # noqa: PLC0415 - the one that is needed

        return postgresql.PostgresqlOutbox(postgresql.connector(f"postgresql://{rest}"))
    if separator and kind == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from indelible.outboxes import sqlite  # noqa: PLC0415 - the one that is needed

        return sqlite.SqliteOutbox(sqlite.connector(rest[1:]))
    # Not the URL itself, in which a password may stand.
    found = f"a URL of {scheme[:20]!r}" if separator else "no URL"
    raise CallerError(f"outbox: found {found}, expected postgresql://… or sqlite:///…")
