"""
Creation: how a trail comes to be in a directory, and what the directory says of itself.

``trail.json`` is written last: before it is there, there is no trail, and whoever
comes next begins anew.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies
from indelible.custody import own_event
from indelible.durable import replace_file, sync_directory
from indelible.errors import (
    AlreadyATrail,
    CallerError,
    KeyUnavailable,
    Malformed,
    NotATrail,
    StoreError,
    StoreReadOnly,
    UnsupportedVersion,
    VerificationError,
)
from indelible.event import uuid7
from indelible.keepers import keeper_of
from indelible.keyring import Keyring
from indelible.keys import SigningKey, read_key, write_key
from indelible.log import append
from indelible.note import Note
from indelible.pins import Pins
from indelible.policy import CUSTODY
from indelible.store import Head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from indelible.kek import KeyEncryption
    from indelible.policy import Policy
    from indelible.store import View
    from indelible.stores.postgresql import PostgresqlStore
    from indelible.stores.sqlite import SqliteStore

FORMAT = 1
"""Of the directory's layout, as ``format`` in ``trail.json``."""

_MARKER = "trail.json.creating"
_ORIGIN = re.compile(r"[^\s+/\x00-\x1f]+(/[^\s+/\x00-\x1f]+)*\Z")


class Description(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """
    What ``trail.json`` holds; a newer format may hold more, so the version is read first.

    Attributes:
        store: URL of the database that holds the logs and the keyring, without a password;
            none where the directory does. It may move, so the custody stream does not name it.
    """

    format: int
    id: str
    origin: str
    keys: str
    created_at: str
    store: str | None = None

    def said(self) -> dict[str, Any]:
        """Return what the custody stream says of the trail."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if name != "store"
        }


def create(
    path: Path,
    *,
    origin: str | None,
    keys: Path | None,
    policy: Policy,
    keeper: KeyEncryption | None = None,
    store: str | None = None,
) -> None:
    """
    Make a trail in the directory *path*, which is missing or empty; see `Trail.create`.

    Raises:
        AlreadyATrail, NotATrail, CallerError, StoreError: As `Trail.create`.
    """
    origin = default_origin(path) if origin is None else origin
    policy = policies.checked(policy)
    if not _ORIGIN.match(origin):
        raise CallerError(
            f"origin: found {origin!r}, expected a URL without scheme, spaces and '+'"
        )
    with system_errors(path):
        _make_directory(path)
        with _creating(path) as marker:
            _make(path, marker, origin, keys, policy, keeper, store)


def default_origin(path: Path) -> str:
    """Return an origin made of this host's name and the directory's."""
    text = f"{platform.node() or 'localhost'}/{path.absolute().name or 'audit'}"
    return re.sub(r"[^A-Za-z0-9._/~-]+", "-", text)


def describe(path: Path) -> Description:
    """
    Read what a trail's directory says of itself.

    Raises:
        NotATrail: There is no trail.
        UnsupportedVersion: A newer version wrote it.
        StoreReadOnly: It may not be read.
    """
    try:
        data = (path / "trail.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotATrail(f"{path}: holds no trail (no trail.json)") from None
    except OSError as error:
        raise StoreReadOnly(f"{path}: {error}") from error
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise UnsupportedVersion(
                f"{path}: found format {version}, this version of Indelible knows {FORMAT};"
                " upgrade it"
            )
        return msgspec.json.decode(data, type=Description)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotATrail(f"{path}: trail.json is not a trail's: {error}") from error


def _make_directory(path: Path) -> None:
    """Make the directory *path*, and those above it, so that their names survive a crash."""
    made = [path, *(above for above in path.parents if not above.exists())]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in made:
        with suppress(PermissionError):  # the parent belongs to somebody else
            sync_directory(directory.parent)


def open_store(
    path: Path, *, create: bool = False, aside: bool = False, url: str | None = None
) -> SqliteStore | PostgresqlStore:
    """
    Open the store of the trail at *path*.

    Args:
        url: Of its database, as whoever opens it gave it; else ``trail.json`` says it.

    Raises:
        NotATrail, UnsupportedVersion, UnsupportedFileSystem, StoreError: As `SqliteStore`
            and `PostgresqlStore`.
    """
    # Imported here: the package itself loads no database driver.
    if url := url or store_of(path):
        from indelible.stores import postgresql, postgresql_schema  # noqa: PLC0415

        if create:
            postgresql_schema.migrate(url)
        return postgresql.PostgresqlStore(url, mark=path / "mark")
    from indelible.stores.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore(path, create=create, aside=aside)


def store_of(path: Path) -> str | None:
    """Return the URL of the database of the trail at *path*, if it has one."""
    with suppress(NotATrail):
        return describe(path).store
    return None


def open_keyring(
    path: Path,
    keys: Path,
    keeper: KeyEncryption | None,
    *,
    create: bool = False,
    url: str | None = None,
) -> Keyring:
    """
    Open the keyring of the trail at *path*.

    Args:
        keys: The directory of key files, where no other *keeper* is given.
        url: Of its database, as whoever opens it gave it; else ``trail.json`` says it.
    """
    # Imported here: the package itself loads no database driver.
    keeper = keeper_of(keys) if keeper is None else keeper
    if url := url or store_of(path):
        from indelible.stores.postgresql_keyring import PostgresqlKeyring  # noqa: PLC0415

        return Keyring(PostgresqlKeyring(url), keeper)
    from indelible.stores.sqlite_keyring import SqliteKeyring  # noqa: PLC0415

    store = SqliteKeyring(path)
    if create:
        store.create()
    return Keyring(store, keeper)


def being_created(path: Path) -> bool:
    """Tell whether somebody makes a trail at *path*, or died at it."""
    return (path / _MARKER).exists()


@contextmanager
def _creating(path: Path) -> Iterator[Path]:
    """
    Hold the right to make a trail at *path*; yield the marker that makes it one.

    The marker is ``trail.json`` under another name while the trail is made. Where
    one is found, a process died at it, and what it left is known to be worthless.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if (path / "trail.json").exists():
            raise AlreadyATrail(f"{path}: holds a trail already")
        marker = path / _MARKER
        if not marker.exists() and any(path.iterdir()):
            raise NotATrail(f"{path}: is not empty, and what it holds is not a trail")
        marker.touch(mode=0o600)
        # Before anything else is there, or after a crash it would look like a stranger's.
        sync_directory(path)
        yield marker
    finally:
        os.close(descriptor)


def _make(  # noqa: PLR0917 - as `create`
    path: Path,
    marker: Path,
    origin: str,
    keys: Path | None,
    policy: Policy,
    keeper: KeyEncryption | None,
    url: str | None,
) -> None:
    directory = path / "keys" if keys is None else keys
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    description = Description(
        format=FORMAT,
        id=uuid7(time.time_ns(), os.urandom(10)),
        origin=origin,
        keys="keys" if keys is None else str(keys.absolute()),
        created_at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        store=None if url is None else _shown(url),
    )
    begun = _begun(marker, description)
    if begun is None:
        for left in [
            *path.glob("head.db*"),
            *path.glob("keyring.db*"),
            path / "mark",
            *(path / "keys").glob("*.key"),
        ]:
            left.unlink(missing_ok=True)
        for stream in policy.streams:
            write_key(directory / f"{stream}.key", SigningKey.generate(f"{origin}/{stream}"))
        # Crash after this line: what a database holds by then belongs to these keys, and who
        # comes next goes on with it.
        replace_file(marker, _text(description))
    else:
        description = begun
    signers = {
        stream: read_key(directory / f"{stream}.key", f"{origin}/{stream}")
        for stream in policy.streams
    }
    store = open_store(path, create=True, url=url)
    try:
        with store.read() as view:
            is_filled = _is_filled(path, view, signers, policy)
        if not is_filled:
            with closing(open_keyring(path, directory, keeper, create=True, url=url)) as keyring:
                _make_keys(path, keyring, goes_on=begun is not None)
            _fill(store, description, signers, policy)
    finally:
        store.close()
    with suppress(OSError):
        Pins(description.id).pin({stream: key.verifier for stream, key in signers.items()})
    # Crash before this line: no trail, and whoever comes next starts over, or goes on where
    # it is in a database.
    marker.rename(path / "trail.json")
    sync_directory(path)


def _begun(marker: Path, description: Description) -> Description | None:
    """
    Return what was begun in a database and cut off, to be gone on with, if anything was.

    Raises:
        CallerError: It was begun otherwise than *description* says.
    """
    try:
        begun = msgspec.json.decode(marker.read_bytes(), type=Description)
    except msgspec.MsgspecError:
        return None
    if begun.store is None or begun.store != description.store:
        # Files are worthless then; and another database knows nothing of it.
        return None
    for name in ("origin", "keys"):
        found, expected = getattr(description, name), getattr(begun, name)
        if found != expected:
            raise CallerError(
                f"{marker.parent}: found {name} {found!r}, expected {expected!r}: a trail was begun"
                " here with it; repeat it so, or make another elsewhere"
            )
    return begun


def _make_keys(path: Path, keyring: Keyring, *, goes_on: bool) -> None:
    """
    Make the first keys of the vault, unless what *goes_on* has made them before.

    Raises:
        CallerError: Another has.
    """
    found = bool(keyring.keks())
    # Its keys are wrapped under one that this trail has not, or perhaps nobody.
    refusal = (
        f"{path}: the database of its store holds the keyring of another trail, or of one whose"
        " creation was cut off elsewhere"
    )
    if found and not goes_on:
        raise CallerError(refusal)
    try:
        keyring.create()
        keyring.secret("creation")
    except KeyUnavailable as error:
        if not found:
            raise
        raise CallerError(f"{refusal}: {error}") from error


def _is_filled(path: Path, view: View, signers: Mapping[str, SigningKey], policy: Policy) -> bool:
    """
    Tell whether a creation that was cut off has filled the store.

    Raises:
        CallerError: Another has.
    """
    heads = view.heads()
    if not heads:
        return False
    try:
        Note.from_bytes(heads[CUSTODY].checkpoint).verify([signers[CUSTODY].verifier])
    except (KeyError, VerificationError, Malformed):
        # Not as where another process was faster: it is not the one of this directory.
        raise CallerError(
            f"{path}: the database of its store holds another trail already"
        ) from None
    if view.document(sha256(policies.text_of(policy)).digest()) is None:
        raise CallerError(
            f"{path}: a trail was begun here under another policy; repeat it with that one, and"
            " set this one then"
        )
    return True


def _fill(
    store: SqliteStore | PostgresqlStore,
    description: Description,
    signers: Mapping[str, SigningKey],
    policy: Policy,
) -> None:
    with store.write() as transaction:
        transaction.add_document(policies.text_of(policy))
        for stream, key in signers.items():
            transaction.create(Head(log=stream, origin=key.name))
        events = [
            own_event(description.id, "trail.create", **description.said()),
            *(
                own_event(description.id, "key.create", log=stream, key=key.verifier.to_text())
                for stream, key in signers.items()
            ),
            own_event(description.id, policies.SET, **policies.set_by(policy)),
        ]
        append(
            transaction,
            transaction.heads()[CUSTODY],
            events,
            signers[CUSTODY],
            time.time_ns() // 1_000,
        )


def _text(description: Description) -> bytes:
    return msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n"


def _shown(url: str) -> str:
    from indelible.stores.postgresql_connections import without_password  # noqa: PLC0415

    return without_password(url)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Let the system's errors say whose turn it is."""
    try:
        yield
    except PermissionError as error:
        raise StoreReadOnly(f"{path}: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error}") from error
