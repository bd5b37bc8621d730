"""
Backup and restore: a consistent copy while the application writes, and the way back.

A log that was restored from an older copy never goes on where that copy ends: its
key has signed more than is there, and signing other entries at the same places
would be a fork. It gets a *successor*, ``user~2``, with a key of its own, whose
first entry names the last tree that is known and the range that is lost. A copy
that has everything up to its mark simply opens.

What was erased since the copy was made stays erased: a restored trail gets the newest
keyring, and each erasure that this one knows of is repeated before the trail is in place.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from base64 import b64decode, b64encode
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from indelible import query
from indelible.creation import describe, open_keyring, open_store
from indelible.custody import own_event
from indelible.durable import sync_directory, sync_tree
from indelible.errors import (
    AlreadyATrail,
    CallerError,
    Damaged,
    IndelibleError,
    NotATrail,
    Rollback,
    StoreError,
)
from indelible.keys import SigningKey, read_key, write_key
from indelible.log import append, head_of
from indelible.mark import Known, Mark
from indelible.merkle import root_at
from indelible.pins import Pins
from indelible.policy import CUSTODY
from indelible.query import Query
from indelible.signers import Signers, has_signed
from indelible.store import Head
from indelible.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from indelible.creation import Description
    from indelible.kek import KeyEncryption
    from indelible.keyring import Keyring
    from indelible.keys import Signer
    from indelible.seal import Sealed
    from indelible.store import Store, View
    from indelible.stores.sqlite import SqliteStore
    from indelible.stores.sqlite_keyring import SqliteKeyring
    from indelible.trail import Trail

_ATTEMPTS = 5
_SUCCEEDS = "log.succeed"


class _Tree(msgspec.Struct):
    size: int
    root: str


class _Loss(msgspec.Struct):
    predecessor: str
    known: _Tree


def backup(trail: Trail, target: Path | str, *, with_keys: bool = True) -> dict[str, int]:
    """
    Copy *trail* as it is now into the directory *target*, while others write.

    Args:
        with_keys: Also copy the signing keys that are kept inside the trail, and the
            keyring. Who has such a copy can sign, and open the values in it, also those
            that are erased later: keep it for a short time. Without keys, it can be
            verified, and restored beside the newest keyring.

    Returns:
        The size of each log in the copy.

    Raises:
        CallerError: *target* exists and is not empty, or the trail is kept in a database.
        StoreError: It cannot be written.
    """
    target = Path(target)
    _files(trail.store)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CallerError(f"{target}: exists and is not empty")
    aside = target.with_name(f".{target.name}.partial")
    try:
        keys = trail.path / "keys" if with_keys else None
        # Nobody closes a segment meanwhile, or rewrites the files beside closed ones: so
        # these are what the head says of them.
        with _standing_still(trail.path):
            heads = _copy_head(trail, aside, keys)
            shutil.copy2(trail.path / "trail.json", aside)
            _copy_segments(trail, aside, heads)
            if with_keys:
                _copy_keyring(trail.path, aside)
        (aside / "segments").mkdir(exist_ok=True)
        Mark(aside / "mark").write(heads)
        sync_tree(aside)
        # Crash before this line: a hidden, partial copy that the next backup removes.
        if target.exists():
            target.rmdir()
        aside.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: {error}") from error
    return {log: head.size for log, head in heads.items()}


@contextmanager
def _standing_still(path: Path) -> Iterator[None]:
    """Hold the lock under which files of segments are written."""
    lock = path / "closing.lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        if not lock.exists():
            yield  # whoever cannot make it looks at what nobody can write
            return
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        # A process that was forked meanwhile holds the descriptor, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _files(store: Store) -> SqliteStore:
    """Return *store* as one of files, which can be copied."""
    from indelible.stores.sqlite import SqliteStore  # noqa: PLC0415

    if not isinstance(store, SqliteStore):
        raise CallerError(_IN_A_DATABASE)
    return store


_IN_A_DATABASE = (
    "backup: the trail is kept in a database, which has backups of its own (pg_basebackup,"
    " pg_dump); found no files to copy"
)


def _copy_segments(trail: Trail, aside: Path, heads: Iterable[str]) -> None:
    copy = open_store(aside)
    try:
        with copy.read() as view:
            segments = [s for log in heads for s in view.segments(log)]
    finally:
        copy.close()
    for segment in segments:
        vault = trail.path / "vault" / segment.log
        beside = [vault / f"{segment.number:06d}{end}" for end in _VAULT_FILES]
        for source in (_files(trail.store).segment_path(segment), *filter(Path.exists, beside)):
            copied = aside / source.relative_to(trail.path)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copied)


_VAULT_FILES = ("", "-journal")
"""Of one segment: its vault file, and what rolls back an erasure that was cut off."""


def _copy_keyring(path: Path, aside: Path) -> None:
    """
    Copy the keyring of the trail at *path*, with the files that unlock it, if these are inside.

    After the boxes: a data key is durable before its first box.

    Raises:
        StoreError: It was locked anew again and again.
    """
    if not (path / "keyring.db").is_file():
        return
    for _ in range(_ATTEMPTS):
        _copy_keyring_file(path / "keyring.db", aside)
        _copy_vault_keys(path / "keys", aside / "keys")
        with closing(_key_store(aside)) as store:
            versions = [kek.version for kek in store.keks() if kek.kind == "file"]
        files = [path / "keys" / f"vault-{version}.key" for version in versions]
        if not any(map(Path.exists, files)) or all(
            (aside / "keys" / file.name).exists() for file in files
        ):
            return
    raise StoreError(f"{path}: its keyring was locked anew while it was copied")


def _copy_keyring_file(source: Path, aside: Path) -> None:
    """
    Let *aside* have the keyring in the file *source*, which may be in use.

    Raises:
        StoreError: It cannot be read.
    """
    for old in aside.glob("keyring.db*"):
        old.unlink()
    target = aside / "keyring.db"
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        if source.name == target.name:
            with closing(_key_store(source.parent)) as store:
                store.backup(target)
        else:
            shutil.copyfile(source, target)
        with closing(_key_store(aside)) as store:
            store.keks()
    except (IndelibleError, OSError) as error:
        raise StoreError(
            f"{source}: the keyring cannot be read: {error}; name the newest copy of it"
        ) from error


def _copy_vault_keys(source: Path, target: Path) -> bool:
    """Let *target* have the files of the vault's keys in *source*; tell whether there are any."""
    files = [*source.glob("vault-*.key")]
    if files:
        target.mkdir(mode=0o700, exist_ok=True)
        for old in target.glob("vault-*.key"):
            old.unlink()
        for file in files:
            with suppress(FileNotFoundError):  # a version that is being destroyed
                shutil.copy2(file, target)
    return bool(files)


def _key_store(directory: Path) -> SqliteKeyring:
    # Imported here: the package itself loads no database driver.
    from indelible.stores.sqlite_keyring import SqliteKeyring  # noqa: PLC0415

    return SqliteKeyring(directory)


def _copy_head(trail: Trail, aside: Path, keys: Path | None) -> dict[str, Head]:
    """
    Make the directory *aside* anew, with the head and the keys that belong to it.

    The head comes first of all: the segments that it names exist by then and never change.

    Raises:
        StoreError: The keys were rotated again and again.
    """
    for _ in range(_ATTEMPTS):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700, parents=True)
        _files(trail.store).backup(aside / "head.db")
        with suppress(FileNotFoundError, shutil.Error):  # a key that is being rotated
            if keys is not None and keys.is_dir():
                shutil.copytree(keys, aside / "keys")
            copy = open_store(aside)
            try:
                with copy.read() as view:
                    heads = dict(view.heads())
            finally:
                copy.close()
            if all(_fits(aside / "keys", head) for head in heads.values()):
                return heads
    raise StoreError(f"{trail.path}: its keys were rotated while it was copied")


def _fits(keys: Path, head: Head) -> bool:
    """Tell whether the key of a log, if it is there at all, is the one that signed its *head*."""
    paths = [keys / f"{head.log}.key", keys / f"{head.log}.new"]
    there = [path for path in paths if path.exists()]
    return not there or any(has_signed(read_key(path), head) for path in there)


def restore(
    source: Path | str,
    target: Path | str,
    *,
    keys: Path | str | None = None,
    keyring: Path | str | None = None,
    keeper: KeyEncryption | None = None,
    known: Mapping[str, Known] | None = None,
) -> dict[str, tuple[int, int]]:
    """
    Put the backup in *source* into place at *target*.

    What was signed after the backup is known from the mark of the trail that is
    still at *target*, from the user's pins, and from *known*. A trail at *target*
    is moved aside, never deleted.

    Args:
        keys: Where the signing keys are, if the backup has none.
        keyring: The newest copy of the keyring there is. By default that of the trail at
            *target*, where there is one, and else the backup's, which knows of no erasure
            since.
        keeper: Who keeps the key of the vault's keys; by default a file.
        known: Trees that are known from elsewhere, per log.

    Returns:
        The range of entries that is lost of each log that goes on as a successor.

    Raises:
        NotATrail: *source* is no backup.
        AlreadyATrail: *target* holds another trail.
        Rollback: The copy is not an older state of what is known but another history.
        KeyUnavailable: Erasures must be repeated, and a key for that is not there.
        StoreError: It cannot be written, or the newest keyring cannot be read.
    """
    source, target = Path(source), Path(target)
    description = describe(source)
    if description.store is not None:
        raise CallerError(_IN_A_DATABASE)
    pins = Pins(description.id)
    seen = [dict(known or {}), _remembered(pins), _left(target, description.id)]
    if not target.exists():
        seen += _moved_aside(target, description.id)
    # What is lost is only known after the copy was looked at; what may not be
    # overwritten is known now.
    aside = target.with_name(f".{target.name}.restoring")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
        if keys is not None:
            shutil.copytree(Path(keys), aside / "keys", dirs_exist_ok=True)
        _take_keyring(aside, target, description.id, None if keyring is None else Path(keyring))
        store = _files(open_store(aside))
        try:
            lost = _succeed(store, aside, description.id, description.origin, seen, pins)
            _repeat_erasures(store, aside, description, keeper)
            with store.read() as view:
                heads = dict(view.heads())
        finally:
            store.close()
        sync_tree(aside)
        # Crash before this line: a hidden copy that the next restore removes.
        if target.exists():
            if any(target.iterdir()):
                target.rename(_free_name(target))
            else:
                target.rmdir()
        aside.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: {error}") from error
    with suppress(OSError):
        pins.settle(heads)
    return lost


def _take_keyring(aside: Path, target: Path, trail: str, given: Path | None) -> None:
    """
    Let the copy have the newest keyring: an older one opens what was erased since.

    Raises:
        StoreError: It cannot be read.
    """
    if given is not None:
        _copy_keyring_file(given, aside)
        places = (given.parent / "keys", target / "keys")
        any(_copy_vault_keys(place, aside / "keys") for place in places)
        return
    # Where a restore was cut off, the trail was moved aside already.
    moved = [] if target.exists() else [*target.parent.glob(f"{target.name}.replaced-*")]
    moved.sort(key=lambda path: (len(path.name), path.name), reverse=True)
    for path in (target, *moved):
        with suppress(NotATrail):
            if describe(path).id == trail and (path / "keyring.db").is_file():
                _copy_keyring_file(path / "keyring.db", aside)
                _copy_vault_keys(path / "keys", aside / "keys")
                return


def _repeat_erasures(
    store: SqliteStore, path: Path, description: Description, keeper: KeyEncryption | None
) -> None:
    from indelible.erasure import replay  # noqa: PLC0415 - few trails have anything to repeat

    if not (path / "keyring.db").is_file():
        return  # nobody can open anything, until a keyring is put there
    with closing(open_keyring(path, path / description.keys, keeper)) as keyring:
        replay(_Copy(store, path, description, keyring), datetime.now(UTC))


class _Copy:
    """The copy that is being restored, as `indelible.removal.Owner`."""

    def __init__(
        self, store: SqliteStore, path: Path, description: Description, keyring: Keyring
    ) -> None:
        self.id = description.id
        self.store = store
        self.vault = Vault(keyring, description.origin)
        self._signers = Signers(path / description.keys)

    def signer_of(self, head: Head) -> Signer:
        """Return the key of the log with this *head*."""
        return self._signers.signer_of(head)

    def forgetting(self) -> AbstractContextManager[None]:
        """Nobody else knows of the copy."""
        return nullcontext()

    def forgotten(self) -> None:
        """Nothing was read before."""


def _remembered(pins: Pins) -> dict[str, Known]:
    return {log: pin.known for log, pin in pins.read().items() if pin.known is not None}


def _left(target: Path, trail: str) -> dict[str, Known]:
    """Return what the trail that is still at *target* knows of itself."""
    try:
        found = describe(target)
    except NotATrail:
        if target.is_dir() and any(target.iterdir()) and not (target / "head.db").exists():
            raise
        return _mark_of(target)
    if found.id != trail:
        raise AlreadyATrail(f"{target}: holds trail {found.id}, and the backup is of {trail}")
    known = _mark_of(target)
    # Its head may be damaged: that is why somebody restores.
    with suppress(IndelibleError):
        store = open_store(target)
        try:
            with store.read() as view:
                trees = [*_losses(view).items()]
                trees += [
                    (log, Known(head.size, head.edge.root)) for log, head in view.heads().items()
                ]
            for log, tree in trees:
                if log not in known or known[log].size < tree.size:
                    known[log] = tree
        finally:
            store.close()
    return known


def _moved_aside(target: Path, trail: str) -> Iterator[dict[str, Known]]:
    """Yield what trails know of themselves that were moved aside by a restore that was cut off."""
    for path in sorted(target.parent.glob(f"{target.name}.replaced-*")):
        with suppress(IndelibleError):
            if describe(path).id == trail:
                yield _left(path, trail)


def _mark_of(path: Path) -> dict[str, Known]:
    with suppress(Damaged):
        return Mark(path / "mark").read()
    return {}


def _succeed(  # noqa: PLR0917
    store: SqliteStore,
    path: Path,
    trail: str,
    origin: str,
    seen: Iterable[Mapping[str, Known]],
    pins: Pins,
) -> dict[str, tuple[int, int]]:
    """Begin a successor for each log that is behind what was *seen* of it."""
    heads, behind = _behind(store, origin, seen)
    if not behind:
        return {}
    keys = path / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    now = time.time_ns() // 1_000
    pinned = pins.read()
    made: dict[str, SigningKey] = {}
    declared: list[Sealed] = []
    with store.write() as transaction:
        for stream in sorted({heads[log].stream for log in behind}):
            # After those, too, that a restore that was cut off had pinned already.
            taken = [log for log in (*heads, *pinned) if log.partition("~")[0] == stream]
            name = f"{stream}~{max(map(_generation, taken)) + 1}"
            made[name] = key = SigningKey.generate(f"{origin}/{name}")
            (keys / f"{name}.key").unlink(missing_ok=True)
            write_key(keys / f"{name}.key", key)
            transaction.create(Head(log=name, origin=key.name))
            events = [
                _declared(trail, heads[log], tree, key)
                for log, tree in behind.items()
                if heads[log].stream == stream
            ]
            append(transaction, transaction.heads()[name], events, key, now)
            declared += events
            declared.append(own_event(trail, "key.create", log=name, key=key.verifier.to_text()))
        # Once more where verification looks for what the trail says about itself.
        custody = head_of(transaction.heads(), CUSTODY)
        signer = made.get(custody.log) or read_key(keys / f"{custody.log}.key", custody.origin)
        append(transaction, custody, declared, signer, now)
    # Crash after this: pins of logs that never come to be, and whose names are not
    # used again. They are pinned before the trail is in place, or its first
    # verification would know no key.
    with suppress(OSError):
        pins.pin({log: key.verifier for log, key in made.items()})
    return {log: (heads[log].size, tree.size) for log, tree in behind.items()}


def _behind(
    store: SqliteStore, origin: str, seen: Iterable[Mapping[str, Known]]
) -> tuple[dict[str, Head], dict[str, Known]]:
    """
    Return the heads of the copy, and the largest tree of each log that it is behind of.

    Raises:
        Rollback: The copy is another history.
    """
    behind: dict[str, Known] = {}
    with store.read() as view:
        heads, named = dict(view.heads()), _losses(view)
        for log, tree in (item for known in seen for item in known.items()):
            if log in named and tree.size <= named[log].size:
                continue  # the copy itself names it lost, and goes on as a successor
            # A log may have begun after the copy was made, a successor perhaps:
            # whoever succeeds its stream must not take its name.
            head = heads.setdefault(log, Head(log=log, origin=f"{origin}/{log}"))
            if head.size < tree.size:
                if log not in behind or behind[log].size < tree.size:
                    behind[log] = tree
            elif tree.size and root_at(tree.size, partial(view.node, log)) != tree.root:
                raise Rollback(f"log {log}: the copy is another history, not an older state")
    return heads, behind


def _losses(view: View) -> dict[str, Known]:
    """Return the trees that successors of logs name as the last known of those before them."""
    losses: dict[str, Known] = {}
    if all(_generation(log) == 1 for log in view.heads()):
        return losses
    # Each successor begins with such entries, too, but those may have been purged.
    for item in query.matches(view, Query(stream=CUSTODY, action=_SUCCEEDS)):
        lost = msgspec.convert(item.event.data, _Loss)
        tree = Known(lost.known.size, b64decode(lost.known.root))
        if lost.predecessor not in losses or losses[lost.predecessor].size < tree.size:
            losses[lost.predecessor] = tree
    return losses


def _declared(trail: str, head: Head, known: Known, key: SigningKey) -> Sealed:
    """Return the event that names what is lost of a log, and the key of its successor."""
    return own_event(
        trail,
        _SUCCEEDS,
        predecessor=head.log,
        size=head.size,
        root=b64encode(head.edge.root).decode("ascii"),
        known={"size": known.size, "root": b64encode(known.root).decode("ascii")},
        key=key.verifier.to_text(),
    )


def _generation(log: str) -> int:
    return int(log.partition("~")[2] or 1)


def _free_name(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.name}.replaced-{number}")).exists():
        number += 1
    return other
