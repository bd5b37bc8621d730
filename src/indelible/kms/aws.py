"""
AWS KMS keeps the KEK: one KMS key a version, which never leaves it.

Needs ``pip install indelible[kms]``, the permission ``kms:DescribeKey``, and for each step:

- to open a vault, ``kms:Decrypt``,
- to make one, or a new version, ``kms:CreateKey``, ``kms:CreateAlias`` and ``kms:Encrypt``,
- to destroy a version, ``kms:ScheduleKeyDeletion``.

AWS waits at least seven days before it destroys a key; until then its administrators can
cancel that. From the call on the key is refused, but copies of a keyring that were made
under it are beyond recovery only when AWS has destroyed it. So an erasure reaches backups
seven days after the old version was destroyed here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from indelible.errors import CallerError, KeyUnavailable, StoreError
from indelible.kek import check_kek, check_unwrapped, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

WAITING_DAYS = 7
"""How long AWS waits before it destroys a key; it accepts no less."""

_ALIAS = re.compile(r"(?!alias/|aws/)[A-Za-z0-9/_-]{1,200}").fullmatch
_DYING = frozenset(("PendingDeletion", "PendingReplicaDeletion"))
_TRY_AGAIN = frozenset(
    (
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",  # AWS's word for a key it cannot reach at the moment
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    )
)
_SERVER_ERROR = 500


class KmsClient(Protocol):
    """What is used of boto3's client for KMS."""

    def describe_key(self, **request: Any) -> Mapping[str, Any]:
        """Return what is known of a key."""
        ...

    def create_key(self, **request: Any) -> Mapping[str, Any]:
        """Make a key."""
        ...

    def create_alias(self, **request: Any) -> Mapping[str, Any]:
        """Give a key a name."""
        ...

    def encrypt(self, **request: Any) -> Mapping[str, Any]:
        """Encrypt a few bytes under a key."""
        ...

    def decrypt(self, **request: Any) -> Mapping[str, Any]:
        """Decrypt what was encrypted."""
        ...

    def schedule_key_deletion(self, **request: Any) -> Mapping[str, Any]:
        """Destroy a key after a time."""
        ...


class AwsKms:
    """
    A keeper in AWS KMS: the key of version 2 is found through ``alias/<alias>-2``.

    What is wrapped is bound to its version by an encryption context, which CloudTrail
    shows at each use: ``{"indelible": "kek", "version": "2"}``.

    Raises:
        CallerError: *alias* is none; it is given without ``alias/`` in front.
    """

    kind = "aws-kms"

    def __init__(self, client: KmsClient, alias: str) -> None:
        if not _ALIAS(alias):
            raise CallerError(
                f"alias: found {alias!r}, expected letters, digits, '/', '_' and '-',"
                " not beginning with alias/ or aws/"
            )
        self._client = client
        self._alias = alias

    @classmethod
    def connect(cls, alias: str, region: str | None = None, endpoint: str | None = None) -> Self:
        """
        Return a keeper that finds credentials as boto3 does: environment, profile, role.

        Args:
            endpoint: Where KMS is if not at AWS's public address: a VPC endpoint.

        Raises:
            CallerError: boto3 is not installed, or region or endpoint is missing or wrong.
        """
        try:
            from boto3.session import Session  # type: ignore[import-untyped]  # noqa: PLC0415
            from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
            from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
                BotoCoreError,
            )
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            raise CallerError(
                f"AWS KMS needs {name}, which is not installed: pip install 'indelible[kms]'"
            ) from None
        try:
            client = Session().client(
                "kms",
                region_name=region,
                endpoint_url=endpoint,
                config=Config(
                    connect_timeout=5,
                    read_timeout=10,
                    retries={"mode": "standard", "max_attempts": 3},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise CallerError(f"AWS KMS: {error}") from error
        return cls(client, alias)

    def wrap(self, key: bytes, version: int) -> bytes:
        """Encrypt a KEK under this version's KMS key, which is made if it is missing."""
        check_kek(key, version)
        keeper = self._usable(version) or self._create(version)
        answer = self._ask(
            self._client.encrypt,
            version,
            "CiphertextBlob",
            KeyId=keeper,
            Plaintext=key,
            EncryptionContext=_context(version),
        )
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """Decrypt a KEK with this version's KMS key."""
        keeper = self._usable(version)
        if keeper is None:
            raise KeyUnavailable(
                f"{named(version)}: found no key under {self._name(version)} in AWS KMS,"
                " expected the one it was wrapped under"
            )
        answer = self._ask(
            self._client.decrypt,
            version,
            "Plaintext",
            # Named, so that no other key that these credentials may use is tried.
            KeyId=keeper,
            CiphertextBlob=wrapped,
            EncryptionContext=_context(version),
        )
        return check_unwrapped(bytes(answer["Plaintext"]), version)

    def destroy(self, version: int) -> None:
        """Have AWS destroy this version's KMS key after `WAITING_DAYS`; it is of no use at once."""
        key = self._find(version)
        if not key or key["KeyState"] in _DYING:
            return
        scheduled = self._ask(
            self._client.schedule_key_deletion,
            version,
            "KeyId",
            unless="KMSInvalidStateException",
            KeyId=key["KeyId"],
            PendingWindowInDays=WAITING_DAYS,
        )
        # The client repeats a request whose answer was lost, and is then told of its own.
        if not scheduled and (key := self._find(version)) and key["KeyState"] not in _DYING:
            raise KeyUnavailable(
                f"{named(version)}: found a key in the state {key['KeyState']} in AWS KMS,"
                " expected one that can be destroyed"
            )

    def _usable(self, version: int) -> str | None:
        """Return the id of this version's KMS key if there is one, and it is to live on."""
        key = self._find(version)
        if not key:
            return None
        if key["KeyState"] in _DYING:
            raise KeyUnavailable(
                f"{named(version)}: found a key that AWS KMS is about to destroy,"
                " expected one in use"
            )
        return str(key["KeyId"])

    def _create(self, version: int) -> str:
        made = self._ask(
            self._client.create_key,
            version,
            "KeyMetadata",
            Description=f"Indelible, {self._alias}: wraps version {version} of a vault's key",
        )["KeyMetadata"]["KeyId"]
        # Crash here: a key without an alias, which has wrapped nothing and which nothing
        # finds; its description says what it was for. Repeating makes another.
        self._ask(
            self._client.create_alias,
            version,
            "ResponseMetadata",
            unless="AlreadyExistsException",
            AliasName=self._name(version),
            TargetKeyId=made,
        )
        # Whoever came first has the alias: another process, or this one, told of its own.
        key = self._find(version)
        if not key:
            raise StoreError(f"{named(version)}: AWS KMS does not show its new key yet; try again")
        if key["KeyId"] != made:
            self._ask(
                self._client.schedule_key_deletion,
                version,
                "KeyId",
                KeyId=made,
                PendingWindowInDays=WAITING_DAYS,
            )
        return str(key["KeyId"])

    def _find(self, version: int) -> Mapping[str, Any]:
        """Return what AWS knows of this version's key; nothing where there is none."""
        answer = self._ask(
            self._client.describe_key,
            version,
            "KeyMetadata",
            unless="NotFoundException",
            KeyId=self._name(version),
        )
        found: Mapping[str, Any] = answer.get("KeyMetadata", {})
        return found

    def _name(self, version: int) -> str:
        named(version)
        return f"alias/{self._alias}-{version}"

    def _ask(
        self,
        call: Callable[..., Mapping[str, Any]],
        version: int,
        expected: str,
        *,
        unless: str | None = None,
        **request: Any,
    ) -> Mapping[str, Any]:
        """
        Return the answer of AWS; an empty one where it refuses with the code *unless*.

        Args:
            expected: What is in every answer of AWS to this, if not in that of a proxy.

        Raises:
            KeyUnavailable: AWS refuses, or nobody is logged in.
            StoreError: AWS is away or busy.
        """
        from botocore.exceptions import (  # noqa: PLC0415 - the extra may be missing
            BotoCoreError,
            ClientError,
            ConnectionError,  # noqa: A004 - botocore's own
            HTTPClientError,
        )
        from botocore.parsers import (  # type: ignore[import-untyped]  # noqa: PLC0415
            ResponseParserError,
        )

        try:
            answer = call(**request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == unless:
                return {}
            if code in _TRY_AGAIN or status >= _SERVER_ERROR:
                raise StoreError(f"{named(version)}: AWS KMS: {error}") from error
            raise KeyUnavailable(f"{named(version)}: AWS KMS: {error}") from error
        except (ConnectionError, HTTPClientError, ResponseParserError) as error:
            raise StoreError(f"{named(version)}: AWS KMS is away: {error}") from error
        except BotoCoreError as error:
            raise KeyUnavailable(f"{named(version)}: AWS KMS: {error}") from error
        if expected not in answer:
            raise StoreError(
                f"{named(version)}: AWS KMS is away: found an answer without {expected}"
            )
        return answer


def _context(version: int) -> dict[str, str]:
    return {"indelible": "kek", "version": str(version)}
