"""AWS KMS as the keeper of the KEK, against a server that speaks its protocol."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from moto.server import ThreadedMotoServer

from indelible.errors import CallerError, KeyUnavailable, StoreError
from indelible.kms.aws import WAITING_DAYS, AwsKms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.kek import KeyEncryption
    from indelible.kms.aws import KmsClient

KEK = bytes(range(32))
OTHER = bytes(range(32, 64))
REGION = "eu-central-1"

Boto = Any
"""Whatever is boto3's, which has no types."""

AWAY = EndpointConnectionError(endpoint_url="https://kms.example.com")
LOST = ReadTimeoutError(endpoint_url="https://kms.example.com")


def refusal(code: str, status: int = 400) -> ClientError:
    """Return how boto3 says that AWS has refused."""
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Something"
    )


class Faulty:
    """
    A client one of whose calls fails once, before or after it took effect.

    Args:
        spared: How many calls of this operation go well before.
        meanwhile: What happens elsewhere just before the call.
    """

    def __init__(
        self,
        client: Boto,
        operation: str,
        error: Exception | None = None,
        *,
        persists: bool = False,
        spared: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._client, self._operation, self._error = client, operation, error
        self._persists, self._left, self._meanwhile = persists, spared, meanwhile

    def __getattr__(self, name: str) -> Boto:
        call = getattr(self._client, name)
        if name != self._operation:
            return call

        def fail(**request: Any) -> Boto:
            self._left -= 1
            if self._left != -1:
                return call(**request)
            self._meanwhile()
            if self._error is None:
                return call(**request)
            if self._persists:
                # What AWS refuses is lost as well.
                with suppress(ClientError):
                    call(**request)
            raise self._error

        return fail


def faulty(client: Boto, *operation: Any, **how: Any) -> KmsClient:
    """Return a client one of whose calls fails."""
    return cast("KmsClient", Faulty(client, *operation, **how))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Run a KMS on a free port of this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    assert server._server  # noqa: SLF001 - stopping it leaves its socket open
    server._server.server_close()  # noqa: SLF001


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have credentials that mean nothing, and none of this user's own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "alice",
        "AWS_SECRET_ACCESS_KEY": "open sesame",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[Boto]:
    """Return boto3's own client, to look at what was done."""
    session = boto3.session.Session("alice", "open sesame", region_name=REGION)
    with closing(session.client("kms", endpoint_url=endpoint)) as client:
        yield client


@pytest.fixture
def alias(tmp_path: Path) -> str:
    """Name a vault that no other test has."""
    return f"indelible/{tmp_path.parent.name}/{tmp_path.name}"


@pytest.fixture
def keeper(client: Boto, alias: str) -> AwsKms:
    """Return a keeper that has no key yet."""
    return AwsKms(client, alias)


@pytest.fixture
def states(client: Boto) -> Callable[[], list[str]]:
    """Return what tells the states of all keys that a test has made."""

    def ids() -> set[str]:
        return {key["KeyId"] for key in client.list_keys(Limit=1000)["Keys"]}

    before = ids()
    return lambda: sorted(
        client.describe_key(KeyId=each)["KeyMetadata"]["KeyState"] for each in ids() - before
    )


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Run a server that says the same to everything; yield where it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_wrapped_key_is_unwrapped_as_it_was(keeper: KeyEncryption) -> None:
    """Each version has a key of its own at AWS; the same one whenever it is wrapped again."""
    first, again, second = keeper.wrap(KEK, 1), keeper.wrap(KEK, 1), keeper.wrap(OTHER, 2)

    assert "aws-kms" == keeper.kind
    assert KEK == keeper.unwrap(first, 1) == keeper.unwrap(again, 1)
    assert OTHER == keeper.unwrap(second, 2)
    assert 3 == len({first, again, second})
    assert KEK not in first


def test_another_process_unwraps_with_the_same_alias(
    keeper: AwsKms, alias: str, endpoint: str
) -> None:
    """What has to be known is the name of the vault's key, and who may use it."""
    wrapped = keeper.wrap(KEK, 1)

    assert KEK == AwsKms.connect(alias, REGION, endpoint).unwrap(wrapped, 1)


def test_a_version_has_an_alias_and_a_context(
    keeper: AwsKms, client: Boto, alias: str, states: Callable[[], list[str]]
) -> None:
    """An operator finds each key by its name, and AWS's own trail shows what it was used for."""
    wrapped = keeper.wrap(KEK, 2)

    answer = client.decrypt(
        KeyId=f"alias/{alias}-2",
        CiphertextBlob=wrapped,
        EncryptionContext={"indelible": "kek", "version": "2"},
    )

    assert KEK == answer["Plaintext"]
    assert ["Enabled"] == states()


def test_a_wrapped_key_belongs_to_its_version(keeper: AwsKms, client: Boto) -> None:
    """A key that is put in the place of another version's, or was not bound to one, is refused."""
    first = keeper.wrap(KEK, 1)
    second = keeper.wrap(OTHER, 2)
    key = client.decrypt(
        CiphertextBlob=second, EncryptionContext={"indelible": "kek", "version": "2"}
    )["KeyId"]
    unbound = client.encrypt(KeyId=key, Plaintext=KEK)["CiphertextBlob"]

    for wrapped in (first, unbound, second[:-1], b"x" * 100):
        with pytest.raises(KeyUnavailable, match=r"^vault key version 2: AWS KMS: "):
            keeper.unwrap(wrapped, 2)


def test_what_aws_unwraps_must_be_a_key(keeper: AwsKms, client: Boto, alias: str) -> None:
    """Whoever may encrypt under the key cannot make a vault use a short one."""
    keeper.wrap(KEK, 1)
    short = client.encrypt(
        KeyId=f"alias/{alias}-1",
        Plaintext=b"short",
        EncryptionContext={"indelible": "kek", "version": "1"},
    )["CiphertextBlob"]

    with pytest.raises(KeyUnavailable, match="found 5 bytes, expected 32"):
        keeper.unwrap(short, 1)


def test_a_version_that_never_was_is_named(keeper: AwsKms, alias: str) -> None:
    """Whoever uses the wrong account, region or alias is told what was looked for."""
    with pytest.raises(
        KeyUnavailable, match=f"^vault key version 3: found no key under alias/{alias}-3"
    ):
        keeper.unwrap(b"x" * 100, 3)


def test_a_destroyed_version_is_refused(keeper: AwsKms, states: Callable[[], list[str]]) -> None:
    """From the call on nothing is unwrapped or wrapped, and AWS destroys it after seven days."""
    wrapped, second = keeper.wrap(KEK, 1), keeper.wrap(OTHER, 2)

    keeper.destroy(1)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: .*about to destroy"):
        keeper.unwrap(wrapped, 1)
    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: .*about to destroy"):
        keeper.wrap(KEK, 1)
    assert OTHER == keeper.unwrap(second, 2)
    assert ["Enabled", "PendingDeletion"] == states()
    assert WAITING_DAYS == 7


def test_what_is_gone_may_be_destroyed_again(keeper: AwsKms) -> None:
    """Destroying twice, and destroying what never was, is how a crash is repaired."""
    keeper.wrap(KEK, 1)

    for version in (1, 1, 2):
        keeper.destroy(version)


def test_what_is_no_key_or_version_is_refused_at_once(keeper: AwsKms) -> None:
    """AWS is not asked."""
    with pytest.raises(CallerError, match="found 31 bytes, expected 32"):
        keeper.wrap(KEK[1:], 1)
    for call in (
        lambda: keeper.wrap(KEK, 0),
        lambda: keeper.unwrap(KEK, 0),
        lambda: keeper.destroy(0),
    ):
        with pytest.raises(CallerError, match="version: found 0, expected 1 to"):
            call()


def test_a_keeper_is_usable_from_several_threads(keeper: AwsKms) -> None:
    """All make the same version at once, and each unwraps what the others have wrapped."""
    start, wrapped = threading.Barrier(4), list[bytes]()

    def wrap() -> None:
        start.wait()
        wrapped.append(keeper.wrap(KEK, 1))

    threads = [threading.Thread(target=wrap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [KEK] * 4 == [keeper.unwrap(each, 1) for each in wrapped]


# ---- Calls that fail ----


@pytest.mark.parametrize("operation", ["describe_key", "create_key", "create_alias", "encrypt"])
@pytest.mark.parametrize(("error", "persists"), [(AWAY, False), (LOST, False), (LOST, True)])
def test_wrapping_is_repeated_until_it_is_done(
    client: Boto,
    alias: str,
    operation: str,
    error: Exception,
    persists: bool,
    states: Callable[[], list[str]],
) -> None:
    """Whether or not the call behind a lost answer happened, the version gets one key."""
    keeper = AwsKms(faulty(client, operation, error, persists=persists), alias)

    with pytest.raises(StoreError, match=r"^vault key version 1: AWS KMS is away"):
        keeper.wrap(KEK, 1)
    wrapped = keeper.wrap(KEK, 1)

    assert KEK == AwsKms(client, alias).unwrap(wrapped, 1)
    # One that got no name has wrapped nothing.
    unnamed = (operation == "create_key" and persists) or (
        operation == "create_alias" and not persists
    )
    assert ["Enabled"] * (1 + unnamed) == states()


@pytest.mark.parametrize("operation", ["describe_key", "decrypt"])
@pytest.mark.parametrize(("error", "persists"), [(AWAY, False), (LOST, True)])
def test_unwrapping_is_repeated_until_it_is_done(
    client: Boto,
    keeper: AwsKms,
    alias: str,
    operation: str,
    error: Exception,
    persists: bool,
) -> None:
    """A vault that could not be opened for want of an answer is opened at the next try."""
    wrapped = keeper.wrap(KEK, 1)
    unsure = AwsKms(faulty(client, operation, error, persists=persists), alias)

    with pytest.raises(StoreError, match=r"^vault key version 1: AWS KMS is away"):
        unsure.unwrap(wrapped, 1)

    assert KEK == unsure.unwrap(wrapped, 1)


@pytest.mark.parametrize("operation", ["describe_key", "schedule_key_deletion"])
@pytest.mark.parametrize(("error", "persists"), [(AWAY, False), (LOST, False), (LOST, True)])
def test_destroying_is_repeated_until_it_is_done(
    client: Boto,
    keeper: AwsKms,
    alias: str,
    operation: str,
    error: Exception,
    persists: bool,
    states: Callable[[], list[str]],
) -> None:
    """Whether or not the call behind a lost answer happened, the key is destroyed in the end."""
    keeper.wrap(KEK, 1)
    unsure = AwsKms(faulty(client, operation, error, persists=persists), alias)

    with pytest.raises(StoreError, match=r"^vault key version 1: AWS KMS is away"):
        unsure.destroy(1)
    unsure.destroy(1)

    assert ["PendingDeletion"] == states()


def test_who_comes_second_uses_the_key_of_the_first(
    client: Boto, keeper: AwsKms, alias: str, states: Callable[[], list[str]]
) -> None:
    """Two processes that make a version at once end up with one key; the other is destroyed."""
    theirs = list[bytes]()
    second = AwsKms(
        faulty(client, "create_alias", meanwhile=lambda: theirs.append(keeper.wrap(OTHER, 1))),
        alias,
    )

    ours = second.wrap(KEK, 1)

    assert KEK == keeper.unwrap(ours, 1)
    assert OTHER == second.unwrap(theirs[0], 1)
    assert ["Enabled", "PendingDeletion"] == states()


def test_an_alias_that_a_repeated_request_finds_is_our_own(
    client: Boto, alias: str, states: Callable[[], list[str]]
) -> None:
    """boto3 repeats what got no answer; a key is not destroyed because it has its name already."""
    exists = refusal("AlreadyExistsException")
    keeper = AwsKms(faulty(client, "create_alias", exists, persists=True), alias)

    wrapped = keeper.wrap(KEK, 1)

    assert KEK == keeper.unwrap(wrapped, 1)
    assert ["Enabled"] == states()


def test_an_alias_that_is_not_shown_yet_is_waited_for(
    client: Boto, alias: str, states: Callable[[], list[str]]
) -> None:
    """AWS may take a moment to show what was made; the next try takes it."""
    unseen = refusal("NotFoundException")
    keeper = AwsKms(faulty(client, "describe_key", unseen, spared=1), alias)

    with pytest.raises(StoreError, match="does not show its new key yet; try again"):
        keeper.wrap(KEK, 1)

    assert KEK == keeper.unwrap(keeper.wrap(KEK, 1), 1)
    assert ["Enabled"] == states()


def test_a_key_that_a_repeated_request_destroyed_is_destroyed(
    client: Boto, keeper: AwsKms, alias: str, states: Callable[[], list[str]]
) -> None:
    """What AWS refuses because it is done already is done."""
    keeper.wrap(KEK, 1)
    state = refusal("KMSInvalidStateException")

    AwsKms(faulty(client, "schedule_key_deletion", state, persists=True), alias).destroy(1)

    assert ["PendingDeletion"] == states()


def test_a_key_that_cannot_be_destroyed_is_not_taken_for_destroyed(
    client: Boto, keeper: AwsKms, alias: str, states: Callable[[], list[str]]
) -> None:
    """What AWS refuses for another state is told."""
    keeper.wrap(KEK, 1)
    state = refusal("KMSInvalidStateException")

    with pytest.raises(KeyUnavailable, match="found a key in the state Enabled"):
        AwsKms(faulty(client, "schedule_key_deletion", state), alias).destroy(1)

    assert ["Enabled"] == states()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal("AccessDeniedException"), KeyUnavailable),
        (refusal("NotFoundException"), KeyUnavailable),
        (refusal("KMSInvalidStateException"), KeyUnavailable),
        (refusal("DisabledException"), KeyUnavailable),
        (refusal("InvalidCiphertextException"), KeyUnavailable),
        (refusal("IncorrectKeyException"), KeyUnavailable),
        (refusal("ExpiredTokenException"), KeyUnavailable),
        (refusal("UnrecognizedClientException"), KeyUnavailable),
        (refusal("ThrottlingException"), StoreError),
        (refusal("RequestLimitExceeded"), StoreError),
        (refusal("DependencyTimeoutException", 503), StoreError),
        (refusal("KMSInternalException", 500), StoreError),
        (refusal("KeyUnavailableException", 500), StoreError),
        (refusal("500", 500), StoreError),
        (AWAY, StoreError),
        (LOST, StoreError),
        (ConnectTimeoutError(endpoint_url="https://kms.example.com"), StoreError),
    ],
)
def test_an_error_says_whose_turn_it_is(
    client: Boto,
    keeper: AwsKms,
    alias: str,
    error: Exception,
    kind: type[Exception],
) -> None:
    """What AWS refuses is for somebody to change; what it could not do is for another try."""
    wrapped = keeper.wrap(KEK, 1)

    with pytest.raises(kind, match=r"^vault key version 1: AWS KMS") as caught:
        AwsKms(faulty(client, "decrypt", error), alias).unwrap(wrapped, 1)

    assert error is caught.value.__cause__


def test_a_server_that_is_away_is_told_apart(alias: str) -> None:
    """Nobody listens there: the vault stays closed, and trying again may open it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        keeper = AwsKms.connect(alias, REGION, f"http://127.0.0.1:{taken.getsockname()[1]}")

        with pytest.raises(StoreError, match=r"^vault key version 1: AWS KMS is away"):
            keeper.unwrap(b"x" * 100, 1)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (500, b"<html>"), (503, b"{}"), (200, b"")]
)
def test_an_answer_that_is_not_from_aws_destroys_nothing(
    alias: str, status: int, body: bytes
) -> None:
    """What a proxy in between says is no answer."""
    with answering(status, body) as endpoint:
        keeper = AwsKms.connect(alias, REGION, endpoint)

        with pytest.raises(StoreError, match=r"^vault key version 1: AWS KMS"):
            keeper.destroy(1)


# ---- Connecting ----


def test_without_credentials_nothing_is_opened(
    alias: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is not logged in is told so."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    keeper = AwsKms.connect(alias, REGION, endpoint)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: AWS KMS: Unable to locate"):
        keeper.unwrap(b"x" * 100, 1)


@pytest.mark.parametrize(
    ("region", "endpoint", "said"),
    [(None, None, "You must specify a region"), (REGION, "nonsense", "Invalid endpoint")],
)
def test_where_it_is_must_be_said(
    alias: str, region: str | None, endpoint: str | None, said: str
) -> None:
    """A missing region and a wrong address are found before anything is asked."""
    with pytest.raises(CallerError, match=f"^AWS KMS: {said}"):
        AwsKms.connect(alias, region, endpoint)


@pytest.mark.parametrize(
    "name", ["", "alias/shop", "aws/shop", "a b", "shop:1", "x" * 201, "shop\n"]
)
def test_an_alias_is_one_that_aws_takes(client: Boto, name: str) -> None:
    """A name that AWS would refuse, or keeps for itself, is refused at once."""
    with pytest.raises(CallerError, match=r"^alias: found"):
        AwsKms(client, name)


def test_without_the_extra_it_is_named() -> None:
    """The module can be imported without boto3, and says what to install."""
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from indelible.errors import CallerError\n"
        "from indelible.kms.aws import AwsKms\n"
        "try: AwsKms.connect('shop')\n"
        "except CallerError as error: print(error, 'botocore' in sys.modules)\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (
        "AWS KMS needs boto3, which is not installed: pip install 'indelible[kms]' False\n"
        == said.stdout
    )
