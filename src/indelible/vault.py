"""
Vault: encloses the values of sealed events in boxes, and opens them for those who may see.

It knows keys and bytes; which entry a row belongs to, and where it is kept, is the
store's business. What a role may not see is not decrypted here, so nobody further out
can show it by mistake.
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64decode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.access import MASK, MASKS, PSEUDONYM, Viewer, pseudonym
from indelible.box import Box, Found, Row, ValueState, binding, enclose, look_into
from indelible.errors import Damaged, EventTooLarge, KeyUnavailable, VerificationError
from indelible.keyring import NONCE_SIZE, networks_of
from indelible.policy import COMMITTED, FieldClass, Sight
from indelible.seal import NETTED, Sealed
from indelible.terms import Field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from indelible.event import Event
    from indelible.keyring import DataKey, Keyring
    from indelible.policy import FieldRule, Policy
    from indelible.seal import Clear, Value


_json = msgspec.json.Encoder(decimal_format="string").encode

MOST_LOOKUPS = 60_000
"""Most numbers that one entry is found by."""

_MOST_REMEMBERED = 65_536

# Until Python 3.12 an enum finds its members in code of its own: too dear for each value.
_INTERNAL, _SECRET = FieldClass.INTERNAL, FieldClass.SECRET

IDENTITIES = frozenset({"/actor/id", "/actor/name", "/resource/id", "/resource/name"})
"""Paths whose values tell people apart: a pseudonym can stand for them."""


class Vault:
    """
    The vault of a trail.

    Args:
        origin: Of the trail; boxes are bound to it and their stream.
    """

    def __init__(self, keyring: Keyring, origin: str) -> None:
        self.keyring = keyring
        self._origin = origin
        self._bindings: dict[str, bytes] = {}

    def binding(self, stream: str) -> bytes:
        """Return what boxes of *stream* are bound to, besides their commitment."""
        found = self._bindings.get(stream)
        if found is None:
            found = self._bindings[stream] = binding(f"{self._origin}/{stream}")
        return found

    def fingerprint(self, path: str, value: object) -> str:
        """Return what a secret at *path* can be compared by with others, by us alone."""
        secret = self.keyring.secret(f"fingerprint {path}")
        return hmac.digest(secret, _json(value), "sha256").hex()[:32]

    def enclose(self, sealed: Sealed, stream: str) -> Sealed:
        """
        Return *sealed* with its values in boxes, and what it can be found by.

        Raises:
            KeyUnavailable: The keyring is locked, so nothing may be recorded.
        """
        values = sealed.values
        if not values:
            return sealed
        groups: dict[tuple[str | None, FieldClass], list[int]] = {}
        lookups: list[int] = []
        subjects = {None: None, "actor": sealed.actor, "resource": sealed.resource}
        for position, value in enumerate(values):
            rule = value.rule
            if rule is None:
                continue
            class_ = _INTERNAL if rule.class_ is _SECRET else rule.class_  # its fingerprint
            group = (subjects[rule.subject], class_)
            if group in groups:
                groups[group].append(position)
            else:
                groups[group] = [position]
            if rule.search is not None:
                lookups += self._numbers(value, rule, sealed)
        keyring, disclosures = self.keyring, sealed.disclosures
        bound = self.binding(stream) + sealed.commitment
        boxes: list[Box] = []
        # Of the keys themselves, not of the subjects: an index key may be rotated between.
        owners: set[int] = set()
        # One call for all of them: what it costs is going into the kernel and coming back.
        random = os.urandom(NONCE_SIZE * len(groups))
        for number, ((subject, class_), positions) in enumerate(groups.items()):
            key = keyring.data_key(subject, class_)
            if key.lookup is not None:
                owners.add(key.lookup)
            nonce = random[NONCE_SIZE * number : NONCE_SIZE * (number + 1)]
            inside = [disclosures[at] for at in positions]
            boxes.append(enclose(number, positions, inside, key, bound, nonce))
        lookups += owners
        if len(lookups) > MOST_LOOKUPS:
            raise EventTooLarge(
                "event", f"{len(lookups)} searchable texts", f"at most {MOST_LOOKUPS}"
            )
        return Sealed(
            event=sealed.event,
            clear=sealed.clear,
            row=Row(b"".join(sealed.leaves), tuple(boxes)).to_bytes(),
            keys=tuple([box.key for box in boxes]),
            lookups=tuple(lookups),
            collected=sealed.collected,
        )

    def _numbers(self, value: Value, rule: FieldRule, sealed: Sealed) -> tuple[int, ...]:
        """Return the lookups of a searchable value; the same texts come again and again."""
        text = value.value
        if type(text) is not str:
            return self._numbers_of(value, rule, sealed)
        remembered = self.keyring.remembered
        # What the id of an actor or a resource is found by has its type in it.
        clear = sealed.clear
        kind = clear.actor.type if value.path == "/actor/id" else clear.resource.type
        key = (value.path, text, rule.search, kind)
        found = remembered.get(key)
        if found is None:
            if len(remembered) >= _MOST_REMEMBERED:
                remembered.clear()
            found = remembered[key] = self._numbers_of(value, rule, sealed)
        return found

    def _numbers_of(self, value: Value, rule: FieldRule, sealed: Sealed) -> tuple[int, ...]:
        texts = searched_by(value.path, value.value, sealed.actor, sealed.resource)
        if rule.search == "prefix" and isinstance(value.value, str):
            texts += [
                (Field.VALUE_LOOKUP, f"{value.path}={network}")
                for network in networks_of(value.value)
            ]
        return tuple([self.keyring.lookup(field, text) for field, text in texts])

    def opener(
        self,
        viewer: Viewer,
        policy: Policy,
        explain: Callable[[str, int, str], Found] | None = None,
        policies: Callable[[], Iterable[Policy]] | None = None,
    ) -> Opener:
        """
        Return what opens entries for *viewer*.

        Args:
            policy: The one in force: it says by what the viewer may search.
            explain: Told log, index and path of a value that is gone, says what became
                of it.
            policies: Returns all that entries may have been sealed under. Without it
                nothing is taken for granted about them.
        """
        return Opener(self, viewer, policy, explain, policies)


def searched_by(
    path: str, value: object, actor: str | None, resource: str | None
) -> list[tuple[Field, str]]:
    """Return by what fields and texts a searchable value is found."""
    if path == "/actor/id":
        return [] if actor is None else [(Field.ACTOR_LOOKUP, actor)]
    if path == "/resource/id":
        return [] if resource is None else [(Field.RESOURCE_LOOKUP, resource)]
    if path == "/session":
        return [(Field.SESSION_LOOKUP, str(value))]
    return [(Field.VALUE_LOOKUP, f"{path}={text}") for text in texts_of(value)]


def texts_of(value: object) -> list[str]:
    """Return the texts that a searchable value is found by: of a change, old and new."""
    if isinstance(value, str):
        return [value]
    plain = msgspec.json.decode(_json(value))
    if isinstance(plain, dict):
        return [text for item in plain.values() for text in texts_of(item)]
    if isinstance(plain, list):
        return [text for item in plain for text in texts_of(item)]
    return [plain if isinstance(plain, str) else _json(plain).decode()]


class Opener:
    """
    Opens entries for one viewer.

    Attributes:
        opened: How many entries with personal or accountable values were opened.
        disclosures: What has opened the values that were shown, by log, index and path; it is
            kept where this is a dictionary.
    """

    def __init__(
        self,
        vault: Vault,
        viewer: Viewer,
        policy: Policy,
        explain: Callable[[str, int, str], Found] | None = None,
        policies: Callable[[], Iterable[Policy]] | None = None,
    ) -> None:
        self.viewer = viewer
        self._policy, self._policies = policy, policies
        self._vault, self._explain = vault, explain
        self._lost: str | None = None
        self._rules: dict[str, list[FieldRule] | None] = {}
        self.opened = 0
        self.disclosures: dict[tuple[str, int, str], bytes] | None = None

    def keys(self, rows: Sequence[bytes]) -> dict[bytes, DataKey]:
        """Return the data keys of the boxes of *rows*, as far as they can be had."""
        ids = {box.key for row in rows if row for box in _boxes(row)}
        if not ids:
            return {}
        try:
            return self._vault.keyring.open(ids)
        except KeyUnavailable as error:
            self._lost = str(error)
            return self._one_by_one(ids)

    def _one_by_one(self, ids: set[bytes]) -> dict[bytes, DataKey]:
        keys: dict[bytes, DataKey] = {}
        for key_id in ids:
            try:
                keys.update(self._vault.keyring.open([key_id]))
            except KeyUnavailable as error:
                self._lost = str(error)
        return keys

    def look(
        self, log: str, index: int, clear: Clear, row: bytes, keys: Mapping[bytes, DataKey]
    ) -> dict[str, Found]:
        """Say of each committed value of an entry what the viewer may know of it."""
        if not clear.committed or clear.commitment is None:
            return {}
        commitment = urlsafe_b64decode(clear.commitment + "=")
        bound = self.bound(log, clear)
        found = look_into(row, clear.committed, commitment, bound, keys, self.viewer.opens)
        for path, each in found.items():
            if each.state is ValueState.MISSING and self._explain is not None:
                found[path] = self._explain(log, index, path)
            elif each.state is ValueState.UNREADABLE and self._lost is not None:
                found[path] = msgspec.structs.replace(each, why=self._lost)
        return found

    def reveal(
        self, log: str, index: int, clear: Clear, row: bytes, keys: Mapping[bytes, DataKey]
    ) -> tuple[Event, dict[str, ValueState]]:
        """
        Return the event as the viewer may see it, and the state of each committed value.

        Raises:
            Malformed: The entry holds no event.
        """
        found = self.look(log, index, clear, row, keys)
        if not found:
            return clear.event(), {}
        values: dict[str, Any] = {}
        masks: dict[str, str] = {}
        states: dict[str, ValueState] = {}
        personal = False
        for path, each in found.items():
            state = each.state
            class_ = each.class_
            if state is ValueState.OPEN and class_ is not None and not self.viewer.sees(class_):
                state = ValueState.WITHHELD
                masks[path] = self._stand_in(path, each.value, clear)
            elif state is ValueState.OPEN:
                values[path] = each.value
                if self.disclosures is not None:
                    self.disclosures[log, index, path] = each.disclosure
                personal = personal or class_ in (FieldClass.PERSONAL, FieldClass.ACCOUNTABLE)
            elif (
                state is ValueState.WITHHELD
                and class_ is not None
                and self.viewer.sights.get(class_) is Sight.MASKED
            ):
                masks[path] = MASK
            else:
                masks[path] = MASKS[state]
            states[path] = state
        if personal:
            self.opened += 1
        return clear.event(values, masks), states

    def _stand_in(self, path: str, value: object, clear: Clear) -> str:
        if path not in IDENTITIES or self.viewer.case is None or not isinstance(value, str):
            return MASK
        # Whoever is the actor here and the resource there is one and the same; an id says
        # nothing of a name, nor of one that somebody of another type has.
        _, part, name = path.split("/")
        kind = clear.actor.type if part == "actor" else clear.resource.type
        secret = self._vault.keyring.secret("pseudonyms")
        return pseudonym(secret, self.viewer.case, f"{name}\0{kind}\0{value}")

    def bound(self, log: str, clear: Clear) -> bytes:
        """Return what the boxes of an entry of *log* are bound to."""
        commitment = urlsafe_b64decode((clear.commitment or "") + "=")
        return self._vault.binding(log.partition("~")[0]) + commitment

    def successor_of(self, key: DataKey) -> DataKey:
        """Return a new data key for what *key* is for."""
        return self._vault.keyring.successor(key)

    def found_by(
        self, path: str, value: object, clear: Clear, found: Mapping[str, Found]
    ) -> frozenset[int]:
        """Return all lookups by which an entry may be found for its value at *path*."""
        actor = _identity(clear.actor.type, clear.actor.id, found.get("/actor/id"))
        resource = _identity(clear.resource.type, clear.resource.id, found.get("/resource/id"))
        lookups: frozenset[int] = frozenset()
        for field, text in searched_by(path, value, actor, resource):
            lookups |= self.lookups(field, text)
        for network in networks_of(value) if isinstance(value, str) else ():
            lookups |= self.lookups(Field.VALUE_LOOKUP, f"{path}={network}")
        return lookups

    def check_may_find(self, field: str, path: str, kind: str | None = None) -> None:
        """
        Check that the viewer may search by the field at *path*.

        Args:
            kind: The type that it is of, where the search says it.

        Raises:
            Forbidden: The role does not see such values.
            KeyUnavailable: They are committed, and the keyring is locked: an answer
                without them would look like one that there are none.
        """
        classes = (
            sorted(self._policy.classes_of(path))
            if kind is None
            else [self._policy.field(path, kind, kind).class_]
        )
        for class_ in classes:
            self.viewer.check_may_find(field, class_)
        if not {FieldClass.PUBLIC, FieldClass.SECRET}.issuperset(classes):
            self._vault.keyring.lookups(Field.VALUE_LOOKUP, path)

    def sight(self, path: str) -> Sight | None:
        """
        Return how the viewer sees all committed values at *path*, under whatever policy.

        That is in plain, masked by pseudonyms, or not at all; None where it is this for one
        and that for another, so that each entry has to be opened to know. Of values that
        are seen alike, the index may tell what it knows.
        """
        sights = {self._sight(path, class_) for class_ in COMMITTED}
        if len(sights) > 1 and (rules := self._rules_of(path)) is not None:
            classes = {rule.class_ for rule in rules}
            if path in NETTED:
                classes.add(FieldClass.PERSONAL)
            if FieldClass.SECRET in classes:  # whose fingerprint is kept
                classes.add(FieldClass.INTERNAL)
            sights = {self._sight(path, each) for each in classes.intersection(COMMITTED)}
            if not sights:  # nothing is committed there
                return Sight.PLAIN
        return sights.pop() if len(sights) == 1 else None

    def finds(self, path: str) -> Sight | None:
        """
        Return how the viewer finds entries by committed values at *path*.

        In plain: by the index. Masked or hidden: not at all. None: by reading what may have
        one, since not all of them are seen, or are in the index.
        """
        sight = self.sight(path)
        return None if sight is Sight.PLAIN and not self.is_searchable(path) else sight

    def may_be_clear(self, path: str) -> bool:
        """Tell whether a value at *path* may stand in the log itself."""
        rules = self._rules_of(path) or self._policy.rules_of(path)
        return any(rule.class_ is FieldClass.PUBLIC for rule in rules)

    def is_searchable(self, path: str) -> bool:
        """Tell whether every committed value at *path* can be found by the index."""
        rules = self._rules_of(path)
        if rules is None:
            rules = self._policy.rules_of(path)
        return all(
            rule.class_ is FieldClass.PUBLIC
            or (rule.search and (rule.fingerprint or rule.class_ is not FieldClass.SECRET))
            for rule in rules
        )

    def _sight(self, path: str, class_: FieldClass) -> Sight:
        if self.viewer.sees(class_):
            return Sight.PLAIN
        if path in IDENTITIES and self.viewer.opens(class_):
            return Sight.MASKED
        return Sight.HIDE

    def _rules_of(self, path: str) -> list[FieldRule] | None:
        """Return how the field at *path* was ever classified; None where nobody knows."""
        if path not in self._rules:
            self._rules[path] = None
            if self._policies is not None:
                # Of a policy whose document is damaged, nobody knows.
                with suppress(VerificationError):
                    self._rules[path] = [
                        rule for policy in self._policies() for rule in policy.rules_of(path)
                    ]
        return self._rules[path]

    def stands_in(self, path: str, state: ValueState, shown: object) -> bool:
        """Tell whether what is *shown* for a value at *path* is a pseudonym."""
        return (
            self.viewer.case is not None
            and path in IDENTITIES
            and state is ValueState.WITHHELD
            and isinstance(shown, str)
            and shown.startswith(PSEUDONYM)
        )

    def is_pseudonym(self, identity: str) -> bool:
        """Tell whether *identity* is one that stands for another in the viewer's case."""
        return self.viewer.case is not None and identity.startswith(PSEUDONYM)

    def lookups(self, field: Field, text: str) -> frozenset[int]:
        """Return the numbers that *text* may be found by; none where the keyring is locked."""
        try:
            return self._vault.keyring.lookups(field, text)
        except KeyUnavailable as error:
            self._lost = str(error)
            return frozenset()


def _identity(kind: str, identity: str | None, found: Found | None) -> str | None:
    if identity is None and found is not None and found.state is ValueState.OPEN:
        identity = str(found.value)
    return None if identity is None else f"{kind}:{identity}"


def _boxes(row: bytes) -> Sequence[Box]:
    try:
        return Row.from_bytes(row).boxes
    except Damaged:
        return ()
