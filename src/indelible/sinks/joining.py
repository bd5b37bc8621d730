"""
Joining: a trail that enrols itself at a collector, with a join token and without a person.

The join token says which trails may; each proves with its own keys that it is one. The
access token that it gets for its own logs lies beside them from then on.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from indelible.durable import replace_file
from indelible.errors import CallerError, StoreError
from indelible.note import Note
from indelible.producer import proof_text
from indelible.sinks.collector import Link
from indelible.tokens import taken_apart
from indelible.wire import Enrolment

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.keys import Signer
    from indelible.trail import Trail

KEPT = "collector.token"
"""File in the trail's directory that holds the access token, readable by its owner alone."""


def join(
    trail: Trail,
    url: str,
    token: Path,
    *,
    ca: Path | str | None = None,
    certificate: Path | str | None = None,
    allow_plaintext: bool = False,
) -> Path:
    """
    Enrol the logs of *trail* at a collector, unless that was done; return the token's file.

    Args:
        token: File with the join token.

    Raises:
        CallerError: The token cannot be used, or is not for this trail.
        StoreError: The collector is away, or the file cannot be written.
        VerificationError: The collector knows the trail under another key.
    """
    kept = trail.path / KEPT
    if kept.exists():
        return kept
    link = Link(url, token, ca=ca, certificate=certificate, allow_plaintext=allow_plaintext)
    token_id, _ = taken_apart(token.read_text("ascii").strip())
    with trail.store.read() as view:
        logs = list(view.heads())
    signers = [trail.signer(log) for log in logs]
    with closing(link):
        enrolled = link.enrol(
            Enrolment(
                keys=tuple(signer.verifier.to_text() for signer in signers),
                proofs=tuple(_proof(signer, token_id) for signer in signers),
            )
        )
    if enrolled.token is None:
        raise CallerError(f"{url}: gave no access token: what {token} holds is no join token")
    # Crash before this line: it is enrolled and has no token. It may join again, if the join
    # token has another use left; else somebody has to issue one.
    try:
        replace_file(kept, f"{enrolled.token}\n".encode(), 0o600)
    except OSError as error:
        raise StoreError(f"{kept}: {error.strerror}") from error
    return kept


def _proof(signer: Signer, token_id: str) -> str:
    text = proof_text(signer.name, token_id)
    return Note(text=text, signatures=(signer.sign(text),)).to_bytes().decode()
