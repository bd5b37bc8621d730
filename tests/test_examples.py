"""The examples are programs that run, and their trails say what was done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def environment(home: str, folder: Path) -> dict[str, str]:
    """Return the environment of a user who keeps everything below *folder*."""
    # Another test may have named the settings of its own Django.
    own = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    return {**own, home: str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "configuration")}


@pytest.mark.parametrize(
    ("folder", "home", "program", "said"),
    [
        (
            "django_shop",
            "SHOP_HOME",
            ["manage.py", "demo"],
            [
                "alice: 403, carol: 200",
                "auth.login             user:1           (failure: wrong credentials)",
                "order:1          status: open → cancelled  [PO-99 withdrawn]",
                "service:prices     product.update         product:1        price: 4.50 → 4.95",
                "iban: [secret] → [secret]",
                "product.labels.add",
                "Verification: signed",
            ],
        ),
        (
            "fastapi_service",
            "SERVICE_HOME",
            ["demo.py"],
            [
                "alice: 403, carol: 200",
                "user:carol   invoice.update   invoice:1  status: draft → approved",
                "amount: 20.00 → 22.00",
                "Verification: signed",
            ],
        ),
        (
            "flask_app",
            "HELPDESK_HOME",
            ["demo.py"],
            [
                "without a user: 401",
                "user:bob         answer.delete",
                "service:nightly  ticket.update  ticket:3",
                "Verification: signed",
            ],
        ),
    ],
)
def test_an_example_runs_and_its_trail_says_what_was_done(
    folder: str, home: str, program: list[str], said: list[str], tmp_path: Path
) -> None:
    """What users, administrators and jobs of an application did stands in its trail."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *program],
        cwd=EXAMPLES / folder,
        env=environment(home, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (result.returncode, result.stderr)
    for line in said:
        assert line in result.stdout


def test_the_migrations_of_the_shop_are_those_of_its_models(tmp_path: Path) -> None:
    """Whoever copies the shop begins with tables that fit."""
    result = subprocess.run(
        [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"],
        cwd=EXAMPLES / "django_shop",
        env=environment("SHOP_HOME", tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == result.returncode, result.stdout + result.stderr
