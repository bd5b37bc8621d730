"""What SQL as text says of itself."""

from __future__ import annotations

import pytest

from indelible.frameworks.sqlalchemy.unparsed import unparsed


@pytest.mark.parametrize(
    ("statement", "verb", "table"),
    [
        ("INSERT INTO invoice VALUES (1)", "insert", "invoice"),
        ("insert or ignore into invoice values (1)", "insert", "invoice"),
        ("REPLACE INTO invoice VALUES (1)", "replace", "invoice"),
        ("\n  UPDATE ONLY shop.invoice SET a = 1", "update", "shop.invoice"),
        ('UPDATE "shop"."Invoice" SET a = 1', "update", "shop.Invoice"),
        ("/* why */ DELETE FROM invoice", "delete", "invoice"),
        ("MERGE INTO invoice USING x ON true WHEN MATCHED THEN DELETE", "merge", "invoice"),
        ("TRUNCATE TABLE invoice", "truncate", "invoice"),
        ("truncate invoice", "truncate", "invoice"),
        ("COPY invoice FROM STDIN", "copy", "invoice"),
        ("EXPLAIN ANALYZE DELETE FROM invoice", "delete", "invoice"),
        ("WITH a AS (SELECT 1) INSERT INTO invoice SELECT * FROM a", "insert", "invoice"),
        ("WITH a AS (DELETE FROM line RETURNING 1) SELECT * FROM a", "delete", "line"),
        ("DELETE", "delete", None),
    ],
)
def test_a_statement_that_changes_rows_names_its_table(
    statement: str, verb: str, table: str | None
) -> None:
    """The verb, and the table as far as the text tells it."""
    assert (verb, table) == unparsed(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM invoice FOR UPDATE",
        "SELECT 'DELETE FROM invoice'",
        "WITH a AS (SELECT * FROM invoice FOR UPDATE OF invoice) SELECT * FROM a",
        "EXPLAIN DELETE FROM invoice",
        "COPY invoice TO STDOUT",
        "COPY (SELECT 1) TO STDOUT",
        "SET updated = 1",
        "VACUUM",
        "",
    ],
)
def test_a_statement_that_reads_is_none_of_it(statement: str) -> None:
    """What only reads is not told."""
    assert unparsed(statement) is None
