from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GENERATE = Path(__file__).parent.parent / "docs" / "generate.py"


def test_the_reference_of_the_command_line_is_what_the_commands_print() -> None:
    """Whoever reads the documentation reads the help of the very commands that run."""
    answer = subprocess.run(
        [sys.executable, str(GENERATE), "--check"], capture_output=True, text=True, check=False
    )

    assert ("", 0) == (answer.stderr, answer.returncode)
