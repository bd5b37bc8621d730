"""
Runs a command beside a PostgreSQL of its own: ``demo/site.py FOLDER COMMAND [ARGUMENT …]``.

``DATABASE`` names the database for the command, and *FOLDER* gets an authority's certificate
and what it has issued for this host: ``authority.pem``, ``server.pem``, ``server-key.pem``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import postgres
from tests.collector.server import Authority


def main(folder: str, *command: str) -> int:
    """Return the exit code of *command*."""
    Authority(Path(folder)).issue("server")
    with postgres.server(18, durable=True) as server:
        environment = {**os.environ, "DATABASE": server.database()}
        ended = subprocess.run(command, env=environment, check=False)  # noqa: S603 - as it was called
        return ended.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
