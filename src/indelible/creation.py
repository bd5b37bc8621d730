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
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies
from indelible.custody import own_event
from indelible.durable import replace_file, sync_directory
from indelible.errors import (
    AlreadyATrail,
    CallerError,
    NotATrail,
    StoreError,
    StoreReadOnly,
    UnsupportedVersion,
)
from indelible.event import uuid7
from indelible.keepers import keeper_of
from indelible.keyring import Keyring
from indelible.keys import SigningKey, write_key
from indelible.log import append
from indelible.pins import Pins
from indelible.policy import CUSTODY
from indelible.store import Head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indelible.kek import KeyEncryption
    from indelible.policy import Policy
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
        store: URL of the database that holds the logs and the keyring; none where the
            directory does. It may move, so the custody stream does not name it.
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
        url: Of its database, where ``trail.json`` does not say it yet.

    Raises:
        NotATrail, UnsupportedVersion, UnsupportedFileSystem, StoreError: As `SqliteStore`
            and `PostgresqlStore`.
        CallerError: To *create*, and the database holds a trail.
    """
    # Imported here: the package itself loads no database driver.
    if url := url or store_of(path):
        from indelible.stores import postgresql, postgresql_schema  # noqa: PLC0415

        if create:
            postgresql_schema.migrate(url)
        store = postgresql.PostgresqlStore(url, mark=path / "mark")
        with store.read() as view:
            found = create and view.heads()
        if found:
            store.close()
            # Not as where another process was faster: it is not the one of this directory.
            raise CallerError(
                f"{path}: the database of its store holds another trail already, or one whose"
                " creation failed"
            )
        return store
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
        url: Of its database, where ``trail.json`` does not say it yet.

    Raises:
        CallerError: To *create*, and the database holds a keyring.
    """
    # Imported here: the package itself loads no database driver.
    keeper = keeper_of(keys) if keeper is None else keeper
    if url := url or store_of(path):
        from indelible.stores.postgresql_keyring import PostgresqlKeyring  # noqa: PLC0415

        in_database = PostgresqlKeyring(url)
        if create and in_database.keks():
            in_database.close()
            # Its keys are wrapped under one that this trail has not, or perhaps nobody.
            raise CallerError(
                f"{path}: the database of its store holds the keyring of another trail, or of one"
                " whose creation failed"
            )
        return Keyring(in_database, keeper)
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
    trail_id = uuid7(time.time_ns(), os.urandom(10))
    directory = path / "keys" if keys is None else keys
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in [
        *path.glob("head.db*"),
        *path.glob("keyring.db*"),
        path / "mark",
        *(path / "keys").glob("*.key"),
    ]:
        left.unlink(missing_ok=True)
    description = Description(
        format=FORMAT,
        id=trail_id,
        origin=origin,
        keys="keys" if keys is None else str(keys.absolute()),
        created_at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        store=url,
    )
    signers = {}
    for stream in policy.streams:
        key = SigningKey.generate(f"{origin}/{stream}")
        write_key(directory / f"{stream}.key", key)
        signers[stream] = key
    store = open_store(path, create=True, url=url)
    try:
        with closing(open_keyring(path, directory, keeper, create=True, url=url)) as keyring:
            keyring.create()
        with store.write() as transaction:
            transaction.add_document(policies.text_of(policy))
            for stream, key in signers.items():
                transaction.create(Head(log=stream, origin=key.name))
            events = [
                own_event(trail_id, "trail.create", **description.said()),
                *(
                    own_event(trail_id, "key.create", log=stream, key=key.verifier.to_text())
                    for stream, key in signers.items()
                ),
                own_event(trail_id, policies.SET, **policies.set_by(policy)),
            ]
            append(
                transaction,
                transaction.heads()[CUSTODY],
                events,
                signers[CUSTODY],
                time.time_ns() // 1_000,
            )
    finally:
        store.close()
    with suppress(OSError):
        Pins(trail_id).pin({stream: key.verifier for stream, key in signers.items()})
    # Crash before this line: no trail, and whoever comes next starts over.
    replace_file(marker, msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n")
    marker.rename(path / "trail.json")
    sync_directory(path)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Let the system's errors say whose turn it is."""
    try:
        yield
    except PermissionError as error:
        raise StoreReadOnly(f"{path}: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error}") from error
