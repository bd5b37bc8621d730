"""
Keyring: the keys of the vault, and what values are found by without being kept.

::

    keeper (file, passphrase, KMS)  wraps  KEK, one a version
    KEK                             wraps  data keys and index keys
    data key                        seals  the boxes of one subject, class and month
    index key                       makes  lookups of values and subjects

A data key is random, never derived from whom it belongs to, and durable before the
first box under it. To destroy it is to destroy its boxes wherever copies of them are;
to destroy a version of the KEK kills what copies of the keyring hold.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
import time
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indelible.entry import microseconds, moment_of
from indelible.errors import KeyUnavailable, Moved
from indelible.policy import FieldClass
from indelible.terms import Field, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from indelible.kek import KeyEncryption

KEY_SIZE = 32
NONCE_SIZE = 12
ID_SIZE = 16

_CLASSES = tuple(FieldClass)
_MOST_HELD = 65_536


class WrappedKek(msgspec.Struct, frozen=True, kw_only=True):
    """
    One version of the KEK, as its keeper wrapped it.

    Attributes:
        kind: Which kind of keeper did.
    """

    version: int
    kind: str
    wrapped: bytes
    created_at: int


class WrappedIndexKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of lookups; the one with the greatest number makes new ones."""

    number: int
    kek: int
    wrapped: bytes
    created_at: int


class WrappedDataKey(msgspec.Struct, frozen=True, kw_only=True):
    """
    A data key at rest.

    Attributes:
        id: A UUIDv7's 16 bytes.
        subject: Keyed hash of whose values it seals; empty where they are nobody's.
        class_: Of the values, see `FieldClass`.
        month: ``year * 12 + month - 1``.
        kek: Version of the KEK that it is wrapped under.
    """

    id: bytes
    subject: bytes
    class_: FieldClass
    month: int
    kek: int
    wrapped: bytes


class KeyStore(Protocol):
    """
    Where the keyring is kept: a file of its own, with backups of its own that live shortly.

    Usable from several threads and processes. What a method has done is durable when it
    returns; what it destroyed is then in no file of the store. Each raises `StoreError`,
    after which nothing was done, or it was done: repeating it is safe.

    From the moment that a version of the KEK is added, nothing is kept under an older one
    any more: so who wraps all keys anew misses none that another process adds meanwhile.
    """

    def keks(self) -> Sequence[WrappedKek]:
        """Return the versions of the KEK that were not destroyed, in order."""
        ...

    def index_keys(self) -> Sequence[WrappedIndexKey]:
        """Return the index keys, in order."""
        ...

    def data_keys(self, ids: Collection[bytes]) -> Sequence[WrappedDataKey]:
        """Return those of the data keys *ids* that there are."""
        ...

    def find(self, subjects: Collection[bytes]) -> Sequence[WrappedDataKey]:
        """Return the data keys of any of *subjects*."""
        ...

    def newest(self) -> bytes | None:
        """Return the id of the data key that was made last; None where there is none."""
        ...

    def under(self, kek: int, limit: int) -> Sequence[WrappedDataKey]:
        """Return up to *limit* data keys that are wrapped under this version."""
        ...

    def count(self) -> Mapping[int, int]:
        """Return how many data keys are wrapped under each version of the KEK."""
        ...

    def add(
        self,
        *,
        keks: Iterable[WrappedKek] = (),
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """
        Keep new keys, all or none; a data key that is there already stays as it is.

        Raises:
            Moved: A version or a number is taken, or a key is wrapped under another version
                of the KEK than the newest; nothing was kept.
        """
        ...

    def rewrap(
        self,
        *,
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """
        Keep other wrappings of keys, all or none; a key that was destroyed stays so.

        Raises:
            Moved: One is wrapped under another version of the KEK than the newest; nothing
                was kept.
        """
        ...

    def destroy(
        self,
        *,
        data_keys: Collection[bytes] = (),
        index_keys: Collection[int] = (),
        keks: Collection[int] = (),
    ) -> None:
        """Destroy keys so that nothing of them is left in a file; what is gone stays gone."""
        ...

    def version(self) -> int:
        """
        Return a number that changes when another process has changed the keys.

        It never is again what it was before, on neither side of a fork.
        """
        ...

    def add_erasure(self, digest: bytes, data: bytes) -> None:
        """Keep what an erasure did, under the digest of its plan; it replaces what was there."""
        ...

    def erasures(self) -> Mapping[bytes, bytes]:
        """Return what was kept of erasures, by the digests of their plans."""
        ...

    def close(self) -> None:
        """Give back files."""
        ...


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """
    An erasure as the keyring keeps it, so that it can be repeated on older copies.

    Attributes:
        plan, approvals: Their exact bytes.
        began_at: Microseconds since 1970.
        keys: Data keys that boxes it covers were under.
    """

    plan: bytes
    approvals: tuple[bytes, ...]
    began_at: int
    keys: tuple[bytes, ...]


class DataKey:
    """
    A data key in memory.

    Attributes:
        id: What boxes name it by.
        class_: Of the values in its boxes.
        subject: Keyed hash of whose values they are.
        month: When it came into use, as `WrappedDataKey.month`.
        lookup: What entries with its boxes are found by; None where they are nobody's.
    """

    __slots__ = ("class_", "decrypt", "encrypt", "id", "lookup", "month", "subject")

    def __init__(self, kept: WrappedDataKey, key: bytes) -> None:
        cipher = AESGCM(key)
        self.id, self.class_ = kept.id, kept.class_
        self.subject, self.month = kept.subject, kept.month
        self.lookup = subject_number(kept.subject) if kept.subject else None
        self.encrypt, self.decrypt = cipher.encrypt, cipher.decrypt


class Keyring:
    """
    The keys in *store*, unlocked by *keeper*.

    Keys that are made at recording are fresh: whoever writes the boxes calls `keep`
    before, so that no box is ever without its key. Usable from several threads.

    Attributes:
        remembered: What values were found by, as `indelible.vault` keeps it; emptied
            whenever keys change.

    Args:
        now: Microseconds since 1970.
    """

    def __init__(
        self,
        store: KeyStore,
        keeper: KeyEncryption,
        *,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._store, self._keeper, self._now = store, keeper, now
        self.forget()

    def forget(self) -> None:
        """Hold no key in memory any more; what was fresh and not kept is lost with its boxes."""
        # Anew: in a process that was just forked, another thread may have held it.
        self._lock = threading.RLock()
        self._keks: dict[int, AESGCM] = {}
        self._index_keys: dict[int, bytes] = {}
        self._current: dict[tuple[str | None, FieldClass], DataKey] = {}
        self._opened: dict[bytes, DataKey] = {}
        self._version = self._index_version = -1
        self._living: set[bytes] = set()
        self._fresh: dict[bytes, tuple[WrappedDataKey, bytes]] = {}
        self.remembered: dict[tuple[str, str, str | None, str], tuple[int, ...]] = {}
        self._lookups: dict[tuple[Field, str], int] = {}
        self._month = (0, 0)
        self._may_find = True

    def close(self) -> None:
        """Hold no key any more, and give back the store's files."""
        self.forget()
        self._store.close()

    def create(self) -> None:
        """
        Make the first version of the KEK and the first index key, where there are none.

        Raises:
            KeyUnavailable, StoreError: The keeper or the store refused.
        """
        with self._lock:
            if not self._store.keks():
                self._add_kek(1)
            if not self._store.index_keys():
                self._add_index_key(1)

    # ---- Sealing ----

    def data_key(self, subject: str | None, class_: FieldClass) -> DataKey:
        """
        Return the key for values of *subject* and *class_* of this month, made if need be.

        Raises:
            KeyUnavailable: The keyring is locked.
        """
        now = self._now()
        if now >= self._month[1]:
            with self._lock:
                self._begin_month(now)
        found = self._current.get((subject, class_))
        if found is None:
            with self._lock:
                found = self._current.get((subject, class_))
                if found is None:
                    if len(self._current) >= _MOST_HELD:
                        self._current.clear()
                    found = self._find_or_make(subject, class_, now)
                    self._current[subject, class_] = found
        return found

    def _begin_month(self, now: int) -> None:
        moment = moment_of(now)
        month = moment.year * 12 + moment.month - 1
        following = datetime((month + 1) // 12, (month + 1) % 12 + 1, 1, tzinfo=UTC)
        self._current.clear()
        self._month = (month, microseconds(following))
        # Where nobody has made a key this month, none is looked for: who makes one at the
        # same time as another makes one more, which does no harm.
        newest = self._store.newest()
        began = datetime(moment.year, moment.month, 1, tzinfo=UTC)
        made_at = 0 if newest is None else int.from_bytes(newest[:6], "big")
        self._may_find = made_at >= began.timestamp() * 1_000

    def _find_or_make(self, subject: str | None, class_: FieldClass, now: int) -> DataKey:
        month = self._month[0]
        # By the newest index key alone, as new lookups are: so whoever has a data key
        # knows by what its entries are found.
        keys = self._unlocked_index_keys()
        named = b"" if subject is None else _digest(keys[max(keys)], b"subject", subject)[:16]
        # Of all classes at once: whoever has values of one mostly has some of the others.
        for wrapped in self._store.find([named]) if self._may_find else ():
            if wrapped.month == month and (subject, wrapped.class_) not in self._current:
                self._current[subject, wrapped.class_] = self._unwrap(wrapped)
        return self._current.get((subject, class_)) or self._make(named, class_, month, now)

    def _make(self, subject: bytes, class_: FieldClass, month: int, now: int) -> DataKey:
        version = self._newest_kek()
        random = os.urandom(10 + KEY_SIZE)
        # A UUIDv7, as RFC 9562 has it: milliseconds, then random bits around two marks.
        key_id = b"%b%c%c%c%b" % (
            (now // 1_000).to_bytes(6, "big"),
            0x70 | random[0] & 0x0F,
            random[1],
            0x80 | random[2] & 0x3F,
            random[3:10],
        )
        key = random[10:]
        wrapped = WrappedDataKey(
            id=key_id, subject=subject, class_=class_, month=month, kek=version, wrapped=b""
        )
        self._fresh[key_id] = (self._wrapped(wrapped, key, version), key)
        made = self._opened[key_id] = DataKey(wrapped, key)
        return made

    def successor(self, key: DataKey) -> DataKey:
        """Return a new data key for what *key* is for, which is not durable yet."""
        with self._lock:
            return self._make(key.subject, key.class_, key.month, self._now())

    def keep(self, ids: Iterable[bytes]) -> None:
        """
        Make those of the data keys *ids* durable that are not yet; call it before their boxes.

        Raises:
            Moved: One was destroyed meanwhile; its boxes have to be made anew.
            StoreError: They may not be durable; the boxes must not be written.
        """
        named = set(ids)
        if not named:
            return
        with self._lock:
            self._check_living(named - self._fresh.keys())
            fresh = [key for key_id in named if (key := self._fresh.get(key_id)) is not None]
            if not fresh:
                return
            # Crash after this line: keys without boxes, which seal and reveal nothing.
            try:
                self._store.add(data_keys=[wrapped for wrapped, _ in fresh])
            except Moved:
                # Another process has rotated the KEK since; these keys never left this one.
                self._keks.clear()
                version = self._newest_kek()
                self._store.add(data_keys=[self._wrapped(key, raw, version) for key, raw in fresh])
            for wrapped, _ in fresh:
                self._fresh.pop(wrapped.id, None)
                self._living.add(wrapped.id)

    def _check_living(self, ids: set[bytes]) -> None:
        """Check that nobody has destroyed one of *ids*, which were durable once."""
        version = self._store.version()
        if version != self._version or len(self._living) > _MOST_HELD:
            # Another process has changed keys: what was known of any of them holds no more.
            self._living.clear()
            self._version = version
        unsure = ids - self._living
        if not unsure:
            return
        gone = unsure - {key.id for key in self._store.data_keys(unsure)}
        if gone:
            self._current.clear()
            for key_id in gone:
                self._opened.pop(key_id, None)
            raise Moved("keyring: a data key was destroyed since; what it sealed is sealed anew")
        self._living |= unsure

    def _wrapped(self, key: WrappedDataKey, raw: bytes, version: int) -> WrappedDataKey:
        return msgspec.structs.replace(
            key, kek=version, wrapped=self._wrap(version, raw, _context(key))
        )

    # ---- Opening ----

    def open(self, ids: Collection[bytes]) -> dict[bytes, DataKey]:
        """
        Return those of the data keys *ids* that there are.

        Raises:
            KeyUnavailable: The version of the KEK that one is wrapped under is lost.
        """
        found = {key_id: key for key_id in ids if (key := self._opened.get(key_id)) is not None}
        missing = [key_id for key_id in ids if key_id not in found]
        for at in range(0, len(missing), 500):
            for wrapped in self._store.data_keys(missing[at : at + 500]):
                found[wrapped.id] = self._unwrap(wrapped)
        return found

    def _unwrap(self, wrapped: WrappedDataKey) -> DataKey:
        key = self._decrypt(wrapped.kek, wrapped.wrapped, _context(wrapped), "data key")
        opened = DataKey(wrapped, key)
        with self._lock:
            if len(self._opened) >= _MOST_HELD:
                self._opened = {key_id: self._opened[key_id] for key_id in self._fresh}
            self._opened[wrapped.id] = opened
        return opened

    def of_subject(self, subject: str) -> list[WrappedDataKey]:
        """Return the data keys of *subject*, ``type:id``, that there are."""
        return list(self._store.find(self.subject_hashes(subject)))

    def wrapped(self, ids: Collection[bytes]) -> list[WrappedDataKey]:
        """Return those of the data keys *ids* that there are, as they are at rest."""
        return list(self._store.data_keys(ids))

    def remember(self, digest: bytes, erasure: Erasure) -> None:
        """Keep what an erasure did with the keys, under its plan's digest."""
        self._store.add_erasure(digest, msgspec.msgpack.encode(erasure))

    def erasures(self) -> dict[bytes, Erasure]:
        """Return the erasures that the keyring knows of, by the digests of their plans."""
        return {
            digest: msgspec.msgpack.decode(data, type=Erasure)
            for digest, data in self._store.erasures().items()
        }

    def destroy(self, ids: Collection[bytes]) -> None:
        """
        Destroy data keys for good, here and in the store.

        Raises:
            StoreError: Some may be left; repeating it is safe.
        """
        with self._lock:
            for key_id in ids:
                self._opened.pop(key_id, None)
                self._fresh.pop(key_id, None)
            self._current.clear()
            self._lookups.clear()
            self.remembered.clear()
            # What is sealed and waits to be written may be under one of them.
            self._living.difference_update(ids)
            self._store.destroy(data_keys=ids)

    # ---- Lookups ----

    def lookup(self, field: Field, text: str) -> int:
        """
        Return the number by which *text* of *field* is found from now on.

        Raises:
            KeyUnavailable: The keyring is locked.
        """
        found = self._lookups.get((field, text))
        if found is None:
            if len(self._lookups) >= _MOST_HELD:
                self._lookups.clear()
            keys = self._unlocked_index_keys()
            number = _hashed(keys[max(keys)], field, text)
            found = self._lookups[field, text] = number
        return found

    def lookups(self, field: Field, text: str) -> frozenset[int]:
        """
        Return the numbers by which *text* of *field* may be found, one for each index key.

        Raises:
            KeyUnavailable: The keyring is locked.
        """
        keys = self._known_index_keys()
        return frozenset(_hashed(key, field, text) for key in keys.values())

    def subject_hashes(self, subject: str | None) -> list[bytes]:
        """Return what data keys of *subject* are kept by, for each index key; the newest last."""
        if subject is None:
            return [b""]
        keys = self._known_index_keys()
        return [_digest(keys[number], b"subject", subject)[:16] for number in sorted(keys)]

    def secret(self, purpose: str) -> bytes:
        """Return a key for pseudonyms or fingerprints; it lives as long as the first index key."""
        keys = self._unlocked_index_keys()
        return _digest(keys[min(keys)], b"secret", purpose)

    # ---- Keys of keys ----

    def rotate(self) -> int:
        """
        Wrap all living keys under a new version of the KEK, and destroy the old ones.

        Returns:
            The new version. After a crash in between, call it again.

        Raises:
            KeyUnavailable: An old version cannot be unwrapped; nothing has changed.
            StoreError: Both versions are there as long as both are needed.
            Moved: Another process does the same at this moment.
        """
        with self._lock:
            self.keep(list(self._fresh))
            versions = [kek.version for kek in self._store.keks()]
            under = {key.kek for key in self._store.index_keys()} | self._store.count().keys()
            for old in sorted(under):
                self._kek(old)  # before anything is written: else nobody could go on
            version = max(versions, default=0) + 1
            self._add_kek(version)
            # Crash here, or anywhere below: several versions, each still wrapping some keys.
            # Whoever adds a key from here on wraps it under the new one.
            for key in self._store.index_keys():
                raw = self._decrypt(key.kek, key.wrapped, _index_context(key.number), "index key")
                self._store.rewrap(
                    index_keys=[
                        msgspec.structs.replace(
                            key,
                            kek=version,
                            wrapped=self._wrap(version, raw, _index_context(key.number)),
                        )
                    ]
                )
            for old in versions:
                while batch := self._store.under(old, 1_000):
                    self._store.rewrap(data_keys=[self._rewrapped(key, version) for key in batch])
            for old in versions:
                # The keeper first: a version that the store has forgotten would never be
                # destroyed, and open old copies of the keyring for ever.
                self._keeper.destroy(old)
                self._keks.pop(old, None)
            self._store.destroy(keks=versions)
            return version

    def _rewrapped(self, key: WrappedDataKey, version: int) -> WrappedDataKey:
        raw = self._decrypt(key.kek, key.wrapped, _context(key), "data key")
        return self._wrapped(key, raw, version)

    def rotate_index(self) -> int:
        """
        Make a new index key, under which new lookups are; return its number.

        Older keys stay for what was recorded under them.

        Raises:
            KeyUnavailable, StoreError: No key was made.
            Moved: Another process has rotated keys at this moment; repeat it.
        """
        with self._lock:
            self._keks.clear()  # another process may have rotated the KEK since
            number = max((key.number for key in self._store.index_keys()), default=0) + 1
            self._add_index_key(number)
            self._index_keys.clear()
            self._lookups.clear()
            self.remembered.clear()
            self._current.clear()
            return number

    def keks(self) -> Sequence[WrappedKek]:
        """Return the versions of the KEK that were not destroyed, in order."""
        return self._store.keks()

    def index_keys(self) -> Sequence[WrappedIndexKey]:
        """Return the index keys that were not destroyed, in order."""
        return self._store.index_keys()

    def versions(self) -> Mapping[int, int]:
        """Return the versions of the KEK, each with how many data keys are under it."""
        counts = self._store.count()
        return {kek.version: counts.get(kek.version, 0) for kek in self._store.keks()}

    def _add_kek(self, version: int) -> None:
        raw = os.urandom(KEY_SIZE)
        wrapped = self._keeper.wrap(raw, version)
        self._store.add(
            keks=[
                WrappedKek(
                    version=version,
                    kind=self._keeper.kind,
                    wrapped=wrapped,
                    created_at=self._now(),
                )
            ]
        )
        self._keks[version] = AESGCM(raw)

    def _add_index_key(self, number: int) -> None:
        version = self._newest_kek()
        wrapped = self._wrap(version, os.urandom(KEY_SIZE), _index_context(number))
        self._store.add(
            index_keys=[
                WrappedIndexKey(number=number, kek=version, wrapped=wrapped, created_at=self._now())
            ]
        )

    def _newest_kek(self) -> int:
        if not self._keks:
            with self._lock:
                self._unlock()
        return max(self._keks)

    def _unlock(self) -> None:
        """Unwrap the newest version of the KEK; older ones when they are needed."""
        keks = self._store.keks()
        if not keks:
            raise KeyUnavailable(
                "vault: found no key in the keyring, expected a version of its KEK"
            )
        self._kek(keks[-1].version)

    def _kek(self, version: int) -> AESGCM:
        found = self._keks.get(version)
        if found is None:
            with self._lock:
                row = next((kek for kek in self._store.keks() if kek.version == version), None)
                if row is None:
                    raise KeyUnavailable(
                        f"vault key version {version}: it was destroyed, or the keyring is another"
                    )
                if row.kind != self._keeper.kind:
                    raise KeyUnavailable(
                        f"vault key version {version}: is kept by {row.kind},"
                        f" found {self._keeper.kind}"
                    )
                found = self._keks[version] = AESGCM(self._keeper.unwrap(row.wrapped, version))
        return found

    def _unlocked_index_keys(self) -> dict[int, bytes]:
        if not self._index_keys:
            with self._lock:
                keys = {
                    key.number: self._decrypt(
                        key.kek, key.wrapped, _index_context(key.number), "index key"
                    )
                    for key in self._store.index_keys()
                }
                if not keys:
                    raise KeyUnavailable("vault: found no index key in the keyring")
                self._index_keys = keys
        return self._index_keys

    def _known_index_keys(self) -> dict[int, bytes]:
        """Return all index keys, those that other processes have made since among them."""
        known = self._unlocked_index_keys()
        version = self._store.version()
        if version == self._index_version:
            return known
        self._index_version = version
        if known.keys() != {key.number for key in self._store.index_keys()}:
            with self._lock:
                self._index_keys = {}
                self._lookups.clear()
                self.remembered.clear()
                self._current.clear()
                known = self._unlocked_index_keys()
        return known

    def _wrap(self, version: int, key: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._kek(version).encrypt(nonce, key, context)

    def _decrypt(self, version: int, wrapped: bytes, context: bytes, what: str) -> bytes:
        try:
            return self._kek(version).decrypt(wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], context)
        except (InvalidTag, ValueError):
            raise KeyUnavailable(
                f"vault key version {version}: does not open a {what} that is kept under it"
            ) from None


def _context(key: WrappedDataKey) -> bytes:
    """Bind a data key to what it is for, so that no row can pass for another."""
    return b"indelible-dek/1\0%b%c%b%b" % (
        key.id,
        _CLASSES.index(key.class_),
        key.month.to_bytes(4, "big"),
        key.subject,
    )


def _index_context(number: int) -> bytes:
    return b"indelible-index/1\0%b" % number.to_bytes(4, "big")


def subject_number(subject: bytes) -> int:
    """Return the lookup of the subject whose data keys have the hash *subject*."""
    return numbered(subject, Field.SUBJECT_LOOKUP)


def _hashed(key: bytes, field: Field, text: str) -> int:
    if field == _SUBJECT:
        return subject_number(_digest(key, b"subject", text))
    return numbered(_digest(key, _PURPOSES[field], text), field)


# Until Python 3.12 an enum finds members and names in code of its own: too dear here.
_SUBJECT = Field.SUBJECT_LOOKUP
_PURPOSES = {field: field.name.encode() for field in Field}


def _digest(key: bytes, purpose: bytes, text: str) -> bytes:
    return hmac.digest(key, b"%b\0%b" % (purpose, text.encode("utf-8", "surrogatepass")), "sha256")


@lru_cache(maxsize=65_536)
def networks_of(address: str) -> tuple[str, ...]:
    """Return the networks that an address is searched by: /24 of IPv4, /48 of IPv6."""
    if _IPV4.fullmatch(address):
        # Most addresses are, and each has to be read once when it is recorded.
        return (f"{address[: address.rindex('.')]}.0/24",)
    try:
        found = ip_address(address)
    except ValueError:
        return ()
    return (str(ip_network((found, 48), strict=False)),)


_NUMBER = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}\.{_NUMBER}", re.ASCII)
