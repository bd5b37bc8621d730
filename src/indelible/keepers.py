"""
Keepers: who keeps the key of the vault's keys, as the environment names it.

``INDELIBLE_VAULT_KEY`` is ``file`` (a key file beside the signing keys; so it is without
the setting), ``passphrase`` (which ``INDELIBLE_PASSPHRASE`` holds), or ``aws-kms:ALIAS``.
Applications may also give a keeper of their own to `indelible.open`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from indelible.errors import CallerError, KeyUnavailable
from indelible.kek import KeyFile, Passphrase

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from indelible.kek import KeyEncryption

SETTING = "INDELIBLE_VAULT_KEY"
PASSPHRASE = "INDELIBLE_PASSPHRASE"  # noqa: S105 - the name of a setting

_KMS = "aws-kms:"


def keeper_of(keys: Path, environment: Mapping[str, str] = os.environ) -> KeyEncryption:
    """
    Return the keeper that *environment* names.

    Args:
        keys: The directory of key files.

    Raises:
        CallerError: It names none that there is, or the KMS's client is not installed.
    """
    named = environment.get(SETTING) or "file"
    if named == "file":
        return KeyFile(keys)
    if named == "passphrase":
        passphrase = environment.get(PASSPHRASE)
        if not passphrase:
            return Absent("passphrase", f"{SETTING} says passphrase, but {PASSPHRASE} is empty")
        return Passphrase(passphrase)
    if named.startswith(_KMS) and len(named) > len(_KMS):
        from indelible.kms.aws import AwsKms  # noqa: PLC0415 - most trails have no KMS

        return AwsKms.connect(named.removeprefix(_KMS))
    raise CallerError(f"{SETTING}: found {named!r}, expected file, passphrase or aws-kms:ALIAS")


class Absent:
    """
    A keeper that cannot be asked: what everybody may see can be read without it.

    Attributes:
        kind: Which keeper it would be.
    """

    def __init__(self, kind: str, why: str) -> None:
        self.kind, self._why = kind, why

    def wrap(self, key: bytes, version: int) -> bytes:
        """
        Refuse.

        Raises:
            KeyUnavailable: Always, with what is wanting.
        """
        del key
        raise KeyUnavailable(f"vault key version {version}: {self._why}")

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """
        Refuse.

        Raises:
            KeyUnavailable: Always, with what is wanting.
        """
        del wrapped
        raise KeyUnavailable(f"vault key version {version}: {self._why}")

    def destroy(self, version: int) -> None:
        """
        Refuse.

        Raises:
            KeyUnavailable: Always, with what is wanting.
        """
        raise KeyUnavailable(f"vault key version {version}: {self._why}")
