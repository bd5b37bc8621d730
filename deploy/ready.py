# ruff: noqa: INP001 - a script
"""
Ask the collector on this machine whether it is ready; end with 0 if it is, else with 1.

Standard library alone. It asks on loopback, so the certificate is not checked. Where the
collector wants one of whoever asks (``--client-ca``), name it and its key, both PEM::

    INDELIBLE_READY_URL   https://127.0.0.1:8443/health/ready unless it says otherwise
    INDELIBLE_READY_CERT, INDELIBLE_READY_KEY
"""

import os
import ssl
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

PATIENCE = 10.0


def ready(url: str, certificate: str | None, key: str | None) -> str | None:
    """Return why the collector is not ready; None where it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    try:
        with urlopen(url, timeout=PATIENCE, context=context):  # noqa: S310 - an operator's own
            return None
    except HTTPError as error:
        return error.read(4096).decode("utf-8", "replace")
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    why = ready(
        os.environ.get("INDELIBLE_READY_URL", "https://127.0.0.1:8443/health/ready"),
        os.environ.get("INDELIBLE_READY_CERT"),
        os.environ.get("INDELIBLE_READY_KEY"),
    )
    if why is not None:
        sys.exit(why)
