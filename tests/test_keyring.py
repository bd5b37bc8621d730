"""The keyring: keys that are there before their boxes, and gone when they were destroyed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indelible.errors import IndelibleError, KeyUnavailable, Moved, StoreError
from indelible.kek import KeyFile, Passphrase
from indelible.keyring import Erasure, Keyring, WrappedKek, networks_of, subject_number
from indelible.policy import FieldClass
from indelible.stores.postgresql_keyring import PostgresqlKeyring
from indelible.stores.sqlite_keyring import SqliteKeyring
from indelible.terms import Field, field_of
from indelible.testing import FrozenClock
from tests.postgres import server
from tests.raw import files_with
from tests.stores.conftest import StoreServer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from indelible.keyring import DataKey, KeyStore, WrappedDataKey, WrappedIndexKey

ALICE, BOB, CAROL = "user:alice", "user:bob", "user:carol"
PERSONAL, INTERNAL = FieldClass.PERSONAL, FieldClass.INTERNAL
NOVEMBER = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * 1_000_000
WEEK = 7 * 86_400 * 1_000_000


class MemoryKeys:
    """A `KeyStore` of one process: what the contract says, in the fewest words."""

    def __init__(self) -> None:
        self._keks: dict[int, WrappedKek] = {}
        self._index_keys: dict[int, WrappedIndexKey] = {}
        self._data_keys: dict[bytes, WrappedDataKey] = {}
        self._erasures: dict[bytes, bytes] = {}
        self._lock = threading.RLock()
        self._changes = 0

    def keks(self) -> list[WrappedKek]:
        """Return the versions, in order."""
        return [self._keks[version] for version in sorted(self._keks)]

    def index_keys(self) -> list[WrappedIndexKey]:
        """Return the index keys, in order."""
        return [self._index_keys[number] for number in sorted(self._index_keys)]

    def data_keys(self, ids: Collection[bytes]) -> list[WrappedDataKey]:
        """Return those that there are."""
        return [self._data_keys[each] for each in ids if each in self._data_keys]

    def find(self, subjects: Collection[bytes]) -> list[WrappedDataKey]:
        """Return the keys of some subjects."""
        return [key for key in self._data_keys.values() if key.subject in subjects]

    def newest(self) -> bytes | None:
        """The id of the data key that was made last."""
        return max(self._data_keys, default=None)

    def under(self, kek: int, limit: int) -> list[WrappedDataKey]:
        """Return keys under a version."""
        return [key for key in self._data_keys.values() if key.kek == kek][:limit]

    def count(self) -> dict[int, int]:
        """Count the keys under each version."""
        found: dict[int, int] = {}
        for key in self._data_keys.values():
            found[key.kek] = found.get(key.kek, 0) + 1
        return found

    def add(
        self,
        *,
        keks: Iterable[WrappedKek] = (),
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """Keep new keys."""
        keks, index_keys, data_keys = list(keks), list(index_keys), list(data_keys)
        with self._lock:
            newest = max([*self._keks, *(key.version for key in keks)], default=0)
            if (
                any(key.version in self._keks for key in keks)
                or any(key.number in self._index_keys for key in index_keys)
                or {each.kek for each in index_keys} - {newest}
                or {each.kek for each in data_keys} - {newest}
            ):
                raise Moved("keyring: another was faster")
            self._keks |= {key.version: key for key in keks}
            self._index_keys |= {key.number: key for key in index_keys}
            self._data_keys = {key.id: key for key in data_keys} | self._data_keys
            self._changes += 1

    def rewrap(
        self,
        *,
        index_keys: Iterable[WrappedIndexKey] = (),
        data_keys: Iterable[WrappedDataKey] = (),
    ) -> None:
        """Keep other wrappings."""
        index_keys, data_keys = list(index_keys), list(data_keys)
        with self._lock:
            versions = {each.kek for each in index_keys} | {each.kek for each in data_keys}
            if versions - {max(self._keks)}:
                raise Moved("keyring: another was faster")
            self._index_keys |= {k.number: k for k in index_keys if k.number in self._index_keys}
            self._data_keys |= {k.id: k for k in data_keys if k.id in self._data_keys}
            self._changes += 1

    def destroy(
        self,
        *,
        data_keys: Collection[bytes] = (),
        index_keys: Collection[int] = (),
        keks: Collection[int] = (),
    ) -> None:
        """Destroy keys."""
        with self._lock:
            for key_id in data_keys:
                self._data_keys.pop(key_id, None)
            for number in index_keys:
                self._index_keys.pop(number, None)
            for version in keks:
                self._keks.pop(version, None)
            self._changes += 1

    def version(self) -> int:
        """Count the changes."""
        return self._changes

    def add_erasure(self, digest: bytes, data: bytes) -> None:
        """Keep an erasure."""
        self._erasures[digest] = data

    def erasures(self) -> dict[bytes, bytes]:
        """Return erasures."""
        return self._erasures

    def close(self) -> None:
        """Keep everything."""


class Plain:
    """A keeper that keeps keys where the test can see them."""

    kind = "plain"

    def __init__(self) -> None:
        self.held: dict[tuple[int, bytes], bytes] = {}

    def wrap(self, key: bytes, version: int) -> bytes:
        """Hold the key, and return by what name."""
        name = os.urandom(8)
        self.held[version, name] = key
        return name

    def unwrap(self, wrapped: bytes, version: int) -> bytes:
        """Return the key of that name."""
        if (version, wrapped) not in self.held:
            raise KeyUnavailable(f"vault key version {version}: was destroyed")
        return self.held[version, wrapped]

    def destroy(self, version: int) -> None:
        """Hold no key of this version."""
        self.held = {each: key for each, key in self.held.items() if each[0] != version}

    def versions(self) -> set[int]:
        """Return the versions that are held."""
        return {version for version, _ in self.held}


class Watched:
    """
    Stands before a store or a keeper; *seen* is told of each call before and after it.

    So a test may cut a process off there, or let another do something meanwhile.
    """

    def __init__(self, watched: object, seen: Callable[[str, str], None]) -> None:
        self._watched, self._seen = watched, seen

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever is called so
        found = getattr(self._watched, name)
        if not callable(found):
            return found

        def call(*args: object, **named: object) -> object:
            self._seen("before", name)
            answer = found(*args, **named)
            self._seen("after", name)
            return answer

        return call


@pytest.fixture
def clock() -> FrozenClock:
    """Stand in the last week of November 2026."""
    return FrozenClock(NOVEMBER)


@pytest.fixture
def keeper() -> Plain:
    """Keep the KEK."""
    return Plain()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[StoreServer]:
    """A real server."""
    with server(18) as running:
        yield StoreServer(running)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], KeyStore]]:
    """Return what opens the one store once more, as another process does."""
    if request.param == "memory":
        memory = MemoryKeys()
        yield lambda: memory
        return
    made: list[SqliteKeyring | PostgresqlKeyring] = []
    if request.param == "postgresql":
        running: StoreServer = request.getfixturevalue("postgresql")
        url = running.store()
    else:
        SqliteKeyring(tmp_path).create()

    def opened() -> KeyStore:
        made.append(
            PostgresqlKeyring(url) if request.param == "postgresql" else SqliteKeyring(tmp_path)
        )
        return made[-1]

    yield opened
    for each in made:
        each.close()


@pytest.fixture
def ring(keys: Callable[[], KeyStore], keeper: Plain, clock: FrozenClock) -> Callable[..., Keyring]:
    """Return what opens the keyring once more, each time as a process of its own."""

    def opened(seen: Callable[[str, str], None] | None = None) -> Keyring:
        if seen is None:
            return Keyring(keys(), keeper, now=clock)
        watched: Any = (Watched(keys(), seen), Watched(keeper, seen))
        return Keyring(*watched, now=clock)

    opened().create()
    return opened


def kept(keyring: Keyring, *subjects: str | None, class_: FieldClass = PERSONAL) -> list[DataKey]:
    """Return a key for each of some subjects, durable."""
    made = [keyring.data_key(subject, class_) for subject in subjects]
    keyring.keep(key.id for key in made)
    return made


def opens(keyring: Keyring, key: DataKey) -> bool:
    """Tell whether *keyring* has this very key: it reads what is written under it."""
    found = keyring.open([key.id]).get(key.id)
    sealed = key.encrypt(bytes(12), b"value", b"")
    return found is not None and found.decrypt(bytes(12), sealed, b"") == b"value"


# ---- Which key ----


def test_a_key_is_of_one_subject_class_and_month(
    ring: Callable[..., Keyring], clock: FrozenClock
) -> None:
    """What is to be forgotten alone is under a key alone."""
    keyring = ring()
    ids = set()

    for _ in range(2):
        for subject in (ALICE, BOB, None):
            for class_ in (PERSONAL, INTERNAL, FieldClass.ACCOUNTABLE):
                key = keyring.data_key(subject, class_)
                ids.add(key.id)
                assert (class_, key.id) == (key.class_, keyring.data_key(subject, class_).id)
        clock.move(WEEK)

    assert 2 * 3 * 3 == len(ids)


def test_a_key_is_used_to_the_end_of_its_month(
    ring: Callable[..., Keyring], clock: FrozenClock
) -> None:
    """The month is that of UTC, to the microsecond."""
    keyring = ring()
    december = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1_000_000
    first = keyring.data_key(ALICE, PERSONAL)

    clock.now = december - 1
    assert first.id == keyring.data_key(ALICE, PERSONAL).id
    clock.now = december
    second = keyring.data_key(ALICE, PERSONAL)

    assert first.id != second.id
    assert [2026 * 12 + 10, 2026 * 12 + 11] == [first.month, second.month]


def test_threads_that_begin_at_once_share_a_key(ring: Callable[..., Keyring]) -> None:
    """However many record of one subject at once, one key is made."""
    keyring = ring()
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def record() -> None:
        barrier.wait()
        found.append(keyring.data_key(ALICE, PERSONAL).id)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(found)
    assert 1 == len(set(found))


def test_another_process_goes_on_with_the_key(ring: Callable[..., Keyring]) -> None:
    """A key that is durable is found by all, and by the subject that it is for."""
    (key,) = kept(ring(), ALICE)
    other = ring()

    again = other.data_key(ALICE, PERSONAL)

    assert (key.id, key.month, key.subject) == (again.id, again.month, again.subject)
    assert opens(other, key)
    assert [key.id] == [each.id for each in other.of_subject(ALICE)]
    assert [] == other.of_subject(BOB)


def test_the_file_names_nobody(tmp_path: Path, keeper: Plain, clock: FrozenClock) -> None:
    """Whose a key is stands there as a keyed hash, which says nothing without the keyring."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, keeper, now=clock)) as keyring:
        keyring.create()
        kept(keyring, ALICE, BOB)

    found = [file for file in tmp_path.iterdir() if b"alice" in file.read_bytes()]

    assert [] == found


def test_what_is_nobodys_is_found_by_no_subject(ring: Callable[..., Keyring]) -> None:
    """Values without a subject have a key as well, and no lookup."""
    key, named = kept(ring(), None, ALICE)

    assert (b"", None) == (key.subject, key.lookup)
    assert subject_number(named.subject) == named.lookup


# ---- Durable before the first box ----


def test_a_key_is_durable_before_its_first_box(ring: Callable[..., Keyring]) -> None:
    """Whoever writes a box says so first; then its key is there for every process."""
    keyring, other = ring(), ring()
    key = keyring.data_key(ALICE, PERSONAL)
    assert {} == other.open([key.id])

    keyring.keep([key.id])

    assert opens(other, key)
    assert opens(keyring, key)


def test_a_key_that_was_not_kept_is_lost_with_its_process(ring: Callable[..., Keyring]) -> None:
    """A box cannot be written under a key that nobody has made durable."""
    keyring = ring()
    key = keyring.data_key(ALICE, PERSONAL)

    keyring.forget()

    with pytest.raises(Moved):
        keyring.keep([key.id])
    assert key.id != keyring.data_key(ALICE, PERSONAL).id


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_to_keep_a_key_is_made_good(ring: Callable[..., Keyring], when: str) -> None:
    """Whether or not the write behind an error took effect, the next one makes the key durable."""
    failing = iter([True])

    def seen(at: str, name: str) -> None:
        if name == "add" and at == when and next(failing, False):
            raise StoreError("the disk is full")

    keyring = ring(seen)
    key = keyring.data_key(ALICE, PERSONAL)
    with pytest.raises(StoreError, match="the disk is full"):
        keyring.keep([key.id])

    keyring.keep([key.id])

    assert opens(ring(), key)


# ---- Destroyed ----


def test_a_key_that_another_process_destroyed_takes_no_box(ring: Callable[..., Keyring]) -> None:
    """Who has sealed something under it is told to seal it anew, and gets another key."""
    keyring = ring()
    (key,) = kept(keyring, ALICE)

    ring().destroy([key.id])

    with pytest.raises(Moved, match="sealed anew"):
        keyring.keep([key.id])
    (fresh,) = kept(keyring, ALICE)
    assert key.id != fresh.id
    assert {} == ring().open([key.id])
    assert opens(ring(), fresh)


def test_a_destroyed_key_is_noticed_however_late(ring: Callable[..., Keyring]) -> None:
    """That the keys of others were looked at since makes nobody trust this one."""
    keyring = ring()
    alice, bob = kept(keyring, ALICE, BOB)
    ring().destroy([bob.id])

    keyring.keep([alice.id])
    kept(keyring, CAROL)

    with pytest.raises(Moved):
        keyring.keep([bob.id])


def test_a_key_that_this_process_destroyed_takes_no_box(ring: Callable[..., Keyring]) -> None:
    """What was sealed before and waits to be written is sealed anew."""
    keyring = ring()
    alice, bob = kept(keyring, ALICE, BOB)

    keyring.destroy([bob.id])

    keyring.keep([alice.id])
    with pytest.raises(Moved):
        keyring.keep([bob.id])
    assert bob.id != keyring.data_key(BOB, PERSONAL).id
    assert {} == keyring.open([bob.id])


def test_a_fresh_key_can_be_destroyed(ring: Callable[..., Keyring]) -> None:
    """A key that was never durable is gone as well, and does not come back."""
    keyring = ring()
    key = keyring.data_key(ALICE, PERSONAL)

    keyring.destroy([key.id])

    with pytest.raises(Moved):
        keyring.keep([key.id])
    assert {} == ring().open([key.id])


def test_what_was_destroyed_is_in_no_file(
    tmp_path: Path, keeper: Plain, clock: FrozenClock
) -> None:
    """Neither the database nor what SQLite writes ahead holds a byte of a destroyed key."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, keeper, now=clock)) as keyring:
        keyring.create()
        made = kept(keyring, *(f"user:{number}" for number in range(300)))
        gone = {key.id: key for key in keyring.wrapped([key.id for key in made[::2]])}
        old = keyring.keks()[0].wrapped

        keyring.destroy(list(gone))
        keyring.rotate()

        held = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))
        for key in gone.values():
            assert key.id not in held
            assert key.wrapped not in held
            assert key.subject not in held
        assert old not in held
        assert 150 == sum(key.id in held for key in made)


# ---- Rotation of the KEK ----


def test_what_was_destroyed_is_in_no_file_of_the_database(
    postgresql: StoreServer, keeper: Plain, clock: FrozenClock
) -> None:
    """A database keeps what was deleted until a table is written anew, and so it is."""
    url = postgresql.store()
    with closing(Keyring(PostgresqlKeyring(url), keeper, now=clock)) as keyring:
        keyring.create()
        alice, bob = kept(keyring, ALICE, BOB)
        with closing(PostgresqlKeyring(url)) as other:
            wrapped = {key.id: key.wrapped for key in other.data_keys([alice.id])}
        with psycopg.connect(url, autocommit=True) as connection:
            (folder,) = connection.execute("SHOW data_directory").fetchone() or ("",)
            (number,) = connection.execute(
                "SELECT oid FROM pg_database WHERE datname = current_database()"
            ).fetchone() or (0,)
            files = Path(folder) / "base" / str(number)
            # As the server does by itself after a while: it takes samples of all columns.
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")
            assert files_with(files, [wrapped[alice.id]])

            keyring.destroy([alice.id])

            connection.execute("CHECKPOINT")
            assert [] == files_with(files, [wrapped[alice.id], alice.id])
        assert opens(keyring, bob)


def test_a_rotation_wraps_all_keys_anew(ring: Callable[..., Keyring], keeper: Plain) -> None:
    """Every living key is under the new version, and the old one is nowhere any more."""
    keyring = ring()
    made = kept(keyring, *(f"user:{number}" for number in range(2_100)))
    before = {key.id: key.wrapped for key in keyring.wrapped([made[0].id])}
    lookup, secret = keyring.lookup(Field.ACTOR_LOOKUP, ALICE), keyring.secret("pseudonyms")

    version = keyring.rotate()

    other = ring()
    assert 2 == version
    assert {2: 2_100} == keyring.versions() == other.versions()
    assert {2} == keeper.versions()
    assert all(opens(other, key) for key in made)
    assert before != {key.id: key.wrapped for key in other.wrapped([made[0].id])}
    assert lookup == other.lookup(Field.ACTOR_LOOKUP, ALICE)
    assert secret == other.secret("pseudonyms")
    assert 3 == other.rotate()
    assert all(opens(keyring, key) for key in made[:10])


def test_an_old_copy_opens_nothing_after_a_rotation(tmp_path: Path, clock: FrozenClock) -> None:
    """Rotating is what makes an erasure reach backups of the keyring."""
    place, copy = tmp_path / "place", tmp_path / "copy"
    place.mkdir()
    store = SqliteKeyring(place)
    store.create()
    keeper = KeyFile(tmp_path / "keys")
    (tmp_path / "keys").mkdir()
    with closing(Keyring(store, keeper, now=clock)) as keyring:
        keyring.create()
        (key,) = kept(keyring, ALICE)
        copy.mkdir()
        store.backup(copy / "keyring.db")

        keyring.destroy([key.id])
        keyring.rotate()

    with (
        closing(Keyring(SqliteKeyring(copy), keeper, now=clock)) as old,
        pytest.raises(KeyUnavailable, match=r"vault key version 1: .*found no file"),
    ):
        old.open([key.id])


def test_the_keeper_forgets_a_version_before_the_keyring_does(
    ring: Callable[..., Keyring], keeper: Plain
) -> None:
    """Else a crash would leave a version at the keeper that opens old copies for ever."""
    called: list[str] = []
    held: list[set[int]] = []

    def seen(at: str, name: str) -> None:
        called.append(f"{at} {name}")
        if (at, name) == ("before", "destroy"):
            held.append(keeper.versions())

    ring(seen).rotate()

    assert ["before destroy", "after destroy"] * 2 == [each for each in called if "destroy" in each]
    assert [{1, 2}, {2}] == held


def steps_of_a_rotation() -> int:
    """Return how many steps a rotation has that a process may be cut off at."""
    return 2 * len(["add", "wrap", "rewrap index", "rewrap", "destroy", "destroy"])


@pytest.mark.parametrize("step", range(steps_of_a_rotation()))
def test_a_rotation_that_was_cut_off_is_finished_by_the_next(
    ring: Callable[..., Keyring], keeper: Plain, step: int
) -> None:
    """Wherever a process dies, every key can be read before and after the next rotation."""
    left = step

    def seen(_: str, name: str) -> None:
        nonlocal left
        if name in {"add", "rewrap", "destroy", "wrap"}:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

    made = kept(ring(), ALICE, BOB, None)
    with pytest.raises(KeyboardInterrupt):
        ring(seen).rotate()

    assert all(opens(ring(), key) for key in made)
    made += kept(ring(), CAROL)
    version = ring().rotate()

    assert {version: 4} == ring().versions()
    assert {version} == keeper.versions()
    assert all(opens(ring(), key) for key in made)
    assert {key.id for key in made[:1]} == {key.id for key in ring().of_subject(ALICE)}


def test_no_step_of_a_rotation_is_left_out_above(ring: Callable[..., Keyring]) -> None:
    """The steps that processes are cut off at are all that there are."""
    steps: list[str] = []
    kept(ring(), ALICE)

    ring(lambda at, name: steps.append(f"{at} {name}")).rotate()

    steps = [each for each in steps if each.split()[1] in {"add", "rewrap", "destroy", "wrap"}]
    assert steps_of_a_rotation() == len(steps)


def test_a_key_made_before_a_rotation_is_kept_after_it(ring: Callable[..., Keyring]) -> None:
    """A key on its way is wrapped under the new version, whoever has rotated meanwhile."""
    keyring = ring()
    key = keyring.data_key(ALICE, PERSONAL)
    mine = keyring.data_key(BOB, PERSONAL)
    assert 2 == ring().rotate()

    keyring.keep([key.id])

    assert {2: 1} == keyring.versions()
    assert 3 == keyring.rotate()
    assert all(opens(ring(), each) for each in (key, mine))


def test_a_key_that_comes_during_a_rotation_survives_it(ring: Callable[..., Keyring]) -> None:
    """From the first step of a rotation on, nobody keeps a key under the version that goes."""
    other = ring()
    old = kept(other, ALICE)
    added: list[DataKey] = []

    def seen(at: str, name: str) -> None:
        if at == "after":
            made = other.data_key(f"user:{name}-{len(added)}", PERSONAL)
            if name in {"add", "rewrap", "under"}:
                other.keep([made.id])
                added.append(made)

    version = ring(seen).rotate()

    assert 5 == len(added)
    assert {version: 6} == ring().versions()
    assert all(opens(ring(), key) for key in [*old, *added])


def test_a_key_destroyed_during_a_rotation_stays_destroyed(ring: Callable[..., Keyring]) -> None:
    """What an erasure destroys is not brought back by who was about to wrap it anew."""
    other = ring()
    alice, bob = kept(other, ALICE, BOB)

    def seen(at: str, name: str) -> None:
        if (at, name) == ("after", "under"):
            other.destroy([alice.id])

    ring(seen).rotate()

    assert {} == ring().open([alice.id])
    assert opens(ring(), bob)


@pytest.mark.parametrize("at_step", ["after keks", "after wrap", "after add", "after rewrap"])
def test_two_rotations_at_once_lose_no_key(
    ring: Callable[..., Keyring], keeper: Plain, at_step: str
) -> None:
    """One of two goes through; the other says so, unless nothing was left for it to do."""
    made = kept(ring(), ALICE, BOB)
    once = iter([True])

    def seen(at: str, name: str) -> None:
        if f"{at} {name}" == at_step and next(once, False):
            ring().rotate()

    with suppress(Moved):
        ring(seen).rotate()

    assert not next(once, False)
    assert all(opens(ring(), key) for key in made)
    version = ring().rotate()
    assert {version: 2} == ring().versions()
    assert {version} == keeper.versions()
    assert all(opens(ring(), key) for key in made)


# ---- Lookups ----


def test_a_lookup_is_keyed_and_of_one_field(ring: Callable[..., Keyring], tmp_path: Path) -> None:
    """Equal texts are found by equal numbers here, and by other numbers in another trail."""
    keyring = ring()
    (tmp_path / "other").mkdir()
    store = SqliteKeyring(tmp_path / "other")
    store.create()
    with closing(Keyring(store, Plain())) as other:
        other.create()

        number = keyring.lookup(Field.ACTOR_LOOKUP, ALICE)

        assert number == ring().lookup(Field.ACTOR_LOOKUP, ALICE)
        assert Field.ACTOR_LOOKUP == field_of(number)
        assert frozenset({number}) == keyring.lookups(Field.ACTOR_LOOKUP, ALICE)
        assert number >> 4 != keyring.lookup(Field.RESOURCE_LOOKUP, ALICE) >> 4
        assert number != keyring.lookup(Field.ACTOR_LOOKUP, BOB)
        assert number != other.lookup(Field.ACTOR_LOOKUP, ALICE)


def test_a_subject_is_found_by_its_data_key_alone(ring: Callable[..., Keyring]) -> None:
    """Who holds a data key knows by what its entries are found, without knowing the subject."""
    (key,) = kept(ring(), ALICE)

    (wrapped,) = ring().wrapped([key.id])

    assert key.lookup == ring().lookup(Field.SUBJECT_LOOKUP, ALICE)
    assert key.lookup == subject_number(wrapped.subject)


def test_what_older_index_keys_made_is_still_found(ring: Callable[..., Keyring]) -> None:
    """New entries are found by a new key, older ones by theirs: no search misses any."""
    keyring, reader = ring(), ring()
    (old_key,) = kept(keyring, ALICE)
    old = keyring.lookup(Field.ACTOR_LOOKUP, ALICE)
    assert {old} == reader.lookups(Field.ACTOR_LOOKUP, ALICE)

    assert 2 == keyring.rotate_index()

    new = keyring.lookup(Field.ACTOR_LOOKUP, ALICE)
    (new_key,) = kept(keyring, ALICE)
    assert old != new
    assert old_key.id != new_key.id
    for each in (keyring, reader, ring()):
        assert {old, new} == each.lookups(Field.ACTOR_LOOKUP, ALICE)
        assert {old_key.id, new_key.id} == {key.id for key in each.of_subject(ALICE)}
        assert [old_key.subject, new_key.subject] == each.subject_hashes(ALICE)
    assert new == reader.lookup(Field.ACTOR_LOOKUP, ALICE)


def test_secrets_outlive_rotations_and_are_of_one_purpose(ring: Callable[..., Keyring]) -> None:
    """Pseudonyms and fingerprints can be compared for as long as the trail lives."""
    keyring = ring()
    secret = keyring.secret("pseudonyms")

    keyring.rotate_index()
    keyring.rotate()

    assert secret == ring().secret("pseudonyms")
    assert secret != ring().secret("fingerprint /session")


def test_an_index_key_can_be_made_after_others_rotated(ring: Callable[..., Keyring]) -> None:
    """Who holds an old version of the KEK in memory takes the new one first."""
    keyring = ring()
    kept(keyring, ALICE)
    ring().rotate()

    assert 2 == keyring.rotate_index()

    assert {2: 1} == ring().versions()
    assert [2, 2] == [key.kek for key in ring().index_keys()]
    ring().rotate()
    assert 2 == len(ring().lookups(Field.ACTOR_LOOKUP, ALICE))


def test_two_index_keys_made_at_once_do_not_replace_each_other(
    ring: Callable[..., Keyring],
) -> None:
    """What somebody has been found by already stays findable."""
    other, once = ring(), iter([True])
    made: list[int] = []

    def seen(at: str, name: str) -> None:
        if (at, name) == ("after", "index_keys") and next(once, False):
            other.rotate_index()
            made.append(other.lookup(Field.ACTOR_LOOKUP, ALICE))

    with pytest.raises(Moved):
        ring(seen).rotate_index()

    assert set(made) <= ring().lookups(Field.ACTOR_LOOKUP, ALICE)
    assert 3 == ring().rotate_index()


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("192.0.2.77", ("192.0.2.0/24",)),
        ("2001:db8:1:2::7", ("2001:db8:1::/48",)),
        ("alice", ()),
        ("", ()),
        ("192.0.2.77/24", ()),
    ],
)
def test_an_address_is_searched_by_its_network(address: str, networks: tuple[str, ...]) -> None:
    """A prefix is that of a network: /24 of IPv4, /48 of IPv6; other texts have none."""
    assert networks == networks_of(address)


# ---- Locked, lost, or another's ----


def test_another_kind_of_keeper_is_told_which_one_it_needs(
    ring: Callable[..., Keyring], keys: Callable[[], KeyStore], tmp_path: Path
) -> None:
    """The message names the version and who keeps it."""
    (key,) = kept(ring(), ALICE)
    other = Keyring(keys(), KeyFile(tmp_path))

    with pytest.raises(
        KeyUnavailable, match=r"^vault key version 1: is kept by plain, found file$"
    ):
        other.open([key.id])
    with pytest.raises(KeyUnavailable, match="vault key version 1"):
        other.data_key(BOB, PERSONAL)
    with pytest.raises(KeyUnavailable, match="vault key version 1"):
        other.lookups(Field.ACTOR_LOOKUP, ALICE)
    for rotate in (other.rotate, other.rotate_index):
        with pytest.raises(KeyUnavailable, match="vault key version 1"):
            rotate()
    assert {1: 1} == ring().versions()
    assert [] == list(tmp_path.glob("*.key"))
    kept(ring(), BOB)


def test_another_passphrase_opens_nothing(tmp_path: Path) -> None:
    """The message names the version, and neither of the passphrases."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, Passphrase("correct horse"))) as keyring:
        keyring.create()
    other = Keyring(store, Passphrase("battery staple"))

    with (
        closing(other),
        pytest.raises(KeyUnavailable, match=r"^vault key version 1: ") as caught,
    ):
        other.data_key(ALICE, PERSONAL)

    assert "horse" not in str(caught.value)
    assert "staple" not in str(caught.value)


def test_a_version_that_the_keeper_lost_is_named(
    ring: Callable[..., Keyring], keeper: Plain
) -> None:
    """What is lost with it is what is under it, and nothing can be recorded."""
    (key,) = kept(ring(), ALICE)
    keeper.destroy(1)

    with pytest.raises(KeyUnavailable, match=r"^vault key version 1: was destroyed$"):
        ring().open([key.id])
    with pytest.raises(KeyUnavailable, match=r"^vault key version 1"):
        ring().rotate()


def test_an_empty_keyring_says_so(keys: Callable[[], KeyStore], keeper: Plain) -> None:
    """A keyring that was never made opens nothing and makes nothing."""
    keyring = Keyring(keys(), keeper)

    with pytest.raises(KeyUnavailable, match="found no index key in the keyring"):
        keyring.data_key(ALICE, PERSONAL)
    with pytest.raises(KeyUnavailable, match="found no key in the keyring"):
        keyring.rotate_index()


def test_a_keyring_is_made_once(ring: Callable[..., Keyring]) -> None:
    """To make what is there already changes nothing."""
    (key,) = kept(ring(), ALICE)

    ring().create()

    assert {1: 1} == ring().versions()
    assert opens(ring(), key)


def test_a_missing_file_says_what_to_do(tmp_path: Path, keeper: Plain) -> None:
    """Values stay closed, and are not lost, until a backup of the keyring is put back."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, keeper)) as keyring:
        keyring.create()
        (key,) = kept(keyring, ALICE)
    backup = tmp_path / "backup"
    shutil.move(tmp_path / "keyring.db", backup)

    with pytest.raises(KeyUnavailable, match=r"keyring\.db: the keyring is missing; .* a backup"):
        Keyring(SqliteKeyring(tmp_path), keeper).open([key.id])

    shutil.move(backup, tmp_path / "keyring.db")
    with closing(Keyring(SqliteKeyring(tmp_path), keeper)) as again:
        assert opens(again, key)
    assert 0o600 == (tmp_path / "keyring.db").stat().st_mode & 0o777


def test_a_file_of_another_layout_is_refused(tmp_path: Path, keeper: Plain) -> None:
    """A file that another version wrote is not guessed at."""
    SqliteKeyring(tmp_path).create()
    with closing(sqlite3.connect(tmp_path / "keyring.db")) as file:
        file.execute("PRAGMA user_version = 7")

    with pytest.raises(KeyUnavailable, match=r"keyring\.db: found layout 7, expected 1"):
        Keyring(SqliteKeyring(tmp_path), keeper).keks()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE data_key SET subject = x'00112233445566778899aabbccddeeff'",
        "UPDATE data_key SET class = 'internal'",
        "UPDATE data_key SET month = month + 1",
        "UPDATE data_key SET id = x'00112233445566778899aabbccddeeff'",
        "UPDATE data_key SET wrapped = x'00'",
        "UPDATE data_key SET wrapped = x''",
    ],
)
def test_a_key_cannot_pass_for_another(tmp_path: Path, keeper: Plain, change: str) -> None:
    """A key is bound to its id, subject, class and month: a row that was edited opens nothing."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, keeper)) as keyring:
        keyring.create()
        kept(keyring, ALICE)
    with closing(sqlite3.connect(tmp_path / "keyring.db")) as file:
        file.execute(change)
        file.commit()
        ((key_id,),) = file.execute("SELECT id FROM data_key").fetchall()

    with (
        closing(Keyring(SqliteKeyring(tmp_path), keeper)) as other,
        pytest.raises(KeyUnavailable, match=r"^vault key version 1: does not open a data key"),
    ):
        other.open([key_id])


def test_a_class_that_nobody_knows_is_an_error_of_the_store(tmp_path: Path, keeper: Plain) -> None:
    """A damaged row is named, and nothing is guessed."""
    store = SqliteKeyring(tmp_path)
    store.create()
    with closing(Keyring(store, keeper)) as keyring:
        keyring.create()
        (key,) = kept(keyring, ALICE)
    with closing(sqlite3.connect(tmp_path / "keyring.db")) as file:
        file.execute("UPDATE data_key SET class = 'harmless'")
        file.commit()

    with (
        closing(Keyring(SqliteKeyring(tmp_path), keeper)) as other,
        pytest.raises(StoreError, match="found class 'harmless' of a data key"),
    ):
        other.open([key.id])


def test_no_key_is_ever_shown(ring: Callable[..., Keyring], keeper: Plain) -> None:
    """Neither an object's text nor an error's message holds a key in any spelling."""
    keyring = ring()
    (key,) = kept(keyring, ALICE)
    secrets = [*keeper.held.values()]
    for wrapped in keyring.wrapped([key.id]):
        (kek,) = keeper.held.values()
        context = b"indelible-dek/1\0%b%c%b%b" % (
            wrapped.id,
            list(FieldClass).index(wrapped.class_),
            wrapped.month.to_bytes(4, "big"),
            wrapped.subject,
        )
        secrets.append(AESGCM(kek).decrypt(wrapped.wrapped[:12], wrapped.wrapped[12:], context))
    said = [repr(each) for each in (keyring, key, *keyring.wrapped([key.id]), *keyring.keks())]
    said += [repr(keyring.index_keys()), str(key), str(vars(Watched(keyring, print)))]
    keeper.destroy(1)
    for attempt in (ring().rotate, lambda: ring().open([key.id])):
        with pytest.raises(IndelibleError) as caught:
            attempt()
        said.append(repr(caught.value))

    for raw in secrets:
        assert 32 == len(raw)
        for spelt in (raw.hex(), b64encode(raw).decode(), repr(raw)[2:-1]):
            assert not any(spelt in each for each in said)


# ---- Erasures, kept to be repeated ----


def test_an_erasure_is_kept_with_the_keys(ring: Callable[..., Keyring]) -> None:
    """What an erasure did can be repeated on older boxes by whoever has the newest keyring."""
    erasure = Erasure(plan=b"plan", approvals=(b"one", b"two"), began_at=7, keys=(b"k" * 16,))
    empty = Erasure(plan=b"", approvals=(), began_at=0, keys=())

    ring().remember(b"digest", empty)
    ring().remember(b"digest", erasure)
    ring().remember(b"other", empty)

    assert {b"digest": erasure, b"other": empty} == ring().erasures()
    assert erasure == msgspec.msgpack.decode(msgspec.msgpack.encode(erasure), type=Erasure)


# ---- The store's contract ----


def test_keys_under_an_older_version_are_refused(
    keys: Callable[[], KeyStore], ring: Callable[..., Keyring]
) -> None:
    """All or nothing is kept, and nothing under a version that is about to go."""
    (key,) = kept(ring(), ALICE)
    store = keys()
    (wrapped,) = store.data_keys([key.id])
    (index,) = store.index_keys()
    (kek,) = store.keks()
    newer = msgspec.structs.replace(kek, version=2)

    with pytest.raises(Moved):
        store.add(keks=[newer, kek])
    with pytest.raises(Moved):
        store.add(index_keys=[index])
    assert [kek] == list(store.keks())
    store.add(keks=[newer])
    other = msgspec.structs.replace(wrapped, id=bytes(16))
    attempts: list[Callable[[], None]] = [
        lambda: store.add(data_keys=[other]),
        lambda: store.add(data_keys=[msgspec.structs.replace(other, kek=2), other]),
        lambda: store.add(index_keys=[msgspec.structs.replace(index, number=2)]),
        lambda: store.rewrap(data_keys=[wrapped]),
        lambda: store.rewrap(index_keys=[index]),
    ]
    for refused in attempts:
        with pytest.raises(Moved):
            refused()

    assert [] == list(store.data_keys([other.id]))
    assert {1: 1} == store.count()
    assert [index] == list(store.index_keys())


def test_only_living_keys_are_wrapped_anew(
    keys: Callable[[], KeyStore], ring: Callable[..., Keyring]
) -> None:
    """Another wrapping of a key that is not there is no key."""
    (key,) = kept(ring(), ALICE)
    store = keys()
    (wrapped,) = store.data_keys([key.id])
    (index,) = store.index_keys()

    store.rewrap(
        data_keys=[msgspec.structs.replace(wrapped, id=bytes(16), wrapped=b"x")],
        index_keys=[msgspec.structs.replace(index, number=2, wrapped=b"x")],
    )
    store.rewrap(data_keys=[msgspec.structs.replace(wrapped, wrapped=b"y")])

    assert [] == list(store.data_keys([bytes(16)]))
    assert [index] == list(store.index_keys())
    assert [b"y"] == [each.wrapped for each in store.data_keys([key.id])]


def test_keys_are_found_by_their_thousands(
    keys: Callable[[], KeyStore], ring: Callable[..., Keyring]
) -> None:
    """However many are asked for at once, those that are there come back."""
    made = kept(ring(), *(f"user:{number}" for number in range(1_200)))
    store = keys()

    ids = [key.id for key in made]

    assert set(ids) == {key.id for key in store.data_keys([*ids, bytes(16)])}
    assert set(ids) == {key.id for key in store.find([key.subject for key in made])}
    assert 1_000 == len(store.under(1, 1_000))
    assert 1_200 == len(ring().open(ids))
    store.destroy(data_keys=ids)
    assert {} == dict(store.count())


# ---- Fork ----

FORKING = """
import os, sys
from pathlib import Path
import indelible
from indelible.policy import FieldClass

trail = indelible.open(sys.argv[1], origin="audit.example.com/fork")

def record(who):
    receipt = trail.record("order.ship", actor=f"user:{who}", resource="order:1")
    assert receipt.index is not None

record("alice")
record("bob")
before = trail.vault.keyring
store = before._store
version = store.version()
child = os.fork()
if not child:
    record("alice")
    record("child")
    held = before.of_subject("user:bob")
    assert len(held) == 1
    before.destroy([key.id for key in held])
    trail.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.version() != version
record("alice")
record("bob")
record("child")
trail.close()
"""


def test_both_sides_of_a_fork_go_on(tmp_path: Path) -> None:
    """Parent and child share no connection and no lock; each sees what the other destroyed."""
    trail = tmp_path / "trail"
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(trail)],
        env=env,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (0, b"") == (done.returncode, done.stderr)
    answer = subprocess.run(
        [sys.executable, "-c", OPENED, str(trail)],
        env=env,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (
        "user:alice OPEN\n[unreadable] UNREADABLE\nuser:alice OPEN\nuser:child OPEN\n"
        "user:alice OPEN\nuser:bob OPEN\nuser:child OPEN\n"
    ) == answer.stdout.decode()


OPENED = """
import sys
import indelible

with indelible.open(sys.argv[1], mode="r") as trail:
    for index in range(7):
        item = trail.at("user", index)
        state = item.states["/actor/id"].value
        print(item.event.actor if state == "OPEN" else item.event.actor.id, state)
"""


READING = """
import os, signal, sys, threading
from importlib import import_module

for name in sys.argv[2:]:
    import_module(f"indelible.stores.{name}")
import indelible

signal.alarm(50)
forking, reading = threading.Event(), threading.Event()
os.register_at_fork(before=forking.set)
trail = indelible.open(sys.argv[1], origin="audit.example.com/fork")
trail.record("order.ship", actor="user:alice", resource="order:1")

def read():
    with trail.store.read():
        reading.set()
        forking.wait()
        for _ in range(1_000):
            assert trail.vault.keyring.of_subject("user:alice")

thread = threading.Thread(target=read)
thread.start()
reading.wait()
child = os.fork()
if not child:
    trail.record("order.ship", actor="user:alice", resource="order:2")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
trail.close()
"""


@pytest.mark.parametrize(
    "order", [("sqlite", "sqlite_keyring"), ("sqlite_keyring", "sqlite")], ids=repr
)
def test_a_fork_waits_for_readers_that_need_keys(tmp_path: Path, order: tuple[str, str]) -> None:
    """Whoever forks lets readers come to an end, and they may open keys until they do."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READING, str(tmp_path / "trail"), *order],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (0, b"") == (done.returncode, done.stderr)
