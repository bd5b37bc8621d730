"""A collector as a process of its own, with TLS, on a free port of loopback."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 60.0


class Authority:
    """A certificate authority of the test's own, in files below *path*."""

    def __init__(self, path: Path, name: str = "authority") -> None:
        self.path = path
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_USAGE, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = path / f"{name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Return the files of a certificate for *host*, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = self.path / f"{name}.pem", self.path / f"{name}-key.pem"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """
    ``indelible serve`` on the trail at *path*, from `start` until it is stopped or killed.

    Args:
        store: URL of a database, if the store is not in the directory.
        client_ca: Whose certificates are demanded of clients.
    """

    def __init__(
        self,
        path: Path,
        authority: Authority,
        *more: str,
        store: str | None = None,
        client_ca: Path | None = None,
        port: int | None = None,
        config: Path | None = None,
    ) -> None:
        self.path, self.authority = path, authority
        self.port = port or free_port()
        certificate, key = authority.issue(f"server-{self.port}")
        self._command = [
            *(sys.executable, "-m", "indelible", "serve", str(path)),
            *("--port", str(self.port), "--tls-cert", str(certificate), "--tls-key", str(key)),
            *([] if store is None else ["--store", store]),
            *([] if client_ca is None else ["--client-ca", str(client_ca)]),
            *("--requests", "100000", *more),
        ]
        self._environment = {
            **os.environ,
            "XDG_CONFIG_HOME": str(config or path.parent / "config"),
        }
        self._process: subprocess.Popen[str] | None = None
        self.said: list[str] = []

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """The same for whoever connects by socket."""
        return ("127.0.0.1", self.port)

    def context(self) -> ssl.SSLContext:
        """Return what trusts this server and no other."""
        return ssl.create_default_context(cafile=str(self.authority.file))

    def start(self) -> Self:
        """Begin the process; return when it answers."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        answers = threading.Event()
        threading.Thread(target=self._listen, args=(self._process, answers), daemon=True).start()
        if not answers.wait(15):
            self.kill()
            raise AssertionError(f"the server does not answer: {''.join(self.said)}")
        return self

    def _listen(self, process: subprocess.Popen[str], answers: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.said.append(line)
                if " answers at " in line:
                    answers.set()
        self.said.append("(ended)\n")

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(PATIENCE)
        self._process = None
        return code

    def kill(self) -> None:
        """Kill all of its processes at once, as a power loss would."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None

    def processes(self) -> list[int]:
        """Return the ids of its processes: the one that supervises, and those that answer."""
        assert self._process is not None
        found = [self._process.pid]
        for each in found:
            children = Path(f"/proc/{each}/task/{each}/children").read_text("ascii")
            found += map(int, children.split())
        return found

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()
