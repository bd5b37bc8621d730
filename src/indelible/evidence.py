"""
Evidence: what an outsider gets to check one entry offline, with chosen values opened.

::

    entry.json, proof.tlog-proof      the entry's exact bytes, and that the log holds it
    spine.json                        the leaf hash of each value, in the order of `committed`
    disclosures/03.json               the exact bytes that open the value number 3
    states.json                       what there is of each other value, and the entry that says so
    covers/custody-12.json, .tlog-proof   those entries, of the trail and of its policies, proven
    covers/plan-….json, policy-….txt  the plans and policies that they name by their digests
    rotations/user-0.note, .consistency   how a log's key became the one that signs now
    README.txt, index.html            the same for people

The folder and the verifier keys of the logs are all that `verify` needs. What is in no
disclosure is nowhere in the folder.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64decode
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from indelible import policies, query
from indelible.accounting import settle
from indelible.box import Found, Row, ValueState, look_into
from indelible.checkpoint import Checkpoint, Rotation
from indelible.covers import (
    BEGUN,
    REPLAY,
    Cover,
    Covers,
    said_by,
    verify_begun,
    verify_released,
)
from indelible.disclosure import Disclosure, commitment_of, verify_opening
from indelible.entry import Entry, moment_of, time_to_text
from indelible.errors import (
    CallerError,
    Damaged,
    Forbidden,
    InvalidProof,
    Malformed,
    NotFound,
)
from indelible.merkle import HASH_SIZE, consistency_proof, verify_consistency
from indelible.note import Note, parse_base64
from indelible.plan import Plan, covers, text_of, time_of
from indelible.policy import CUSTODY
from indelible.proof import Proof
from indelible.query import Query
from indelible.seal import MAX_VALUE, unseal
from indelible.verify import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from indelible.note import VerifierKey
    from indelible.policy import Policy
    from indelible.query import Item
    from indelible.seal import Clear
    from indelible.store import View
    from indelible.vault import Opener

VERSION = "indelible-evidence/1"

ENTRY, PROOF, SPINE, STATES = "entry.json", "proof.tlog-proof", "spine.json", "states.json"
README, PAGE = "README.txt", "index.html"

UNPROVEN = "UNPROVEN"
"""What is said of a value of which the folder says that it was removed, and does not show it."""

_MAX_FILE = 1 << 28
"""Larger than the plan of any erasure."""

_MAX_FILES = 100_000
_PLACE = re.compile(r"(custody(?:~[1-9][0-9]*)?)#(0|[1-9][0-9]{0,18})", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(
    r"entry\.json|proof\.tlog-proof|spine\.json|states\.json"
    r"|disclosures/[0-9]{2,5}\.json"
    r"|covers/custody(~[0-9]+)?-[0-9]+\.(json|tlog-proof)"
    r"|covers/(plan-[0-9a-f]{64}\.json|policy-[0-9a-f]{64}\.txt)"
    r"|rotations/[^/\x00]+-[0-9]+\.(note|consistency)",
    re.ASCII,
)


# ---- Choosing ----


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """
    One entry, and what is handed out of it.

    Attributes:
        opened: The bytes of the disclosures that are, by path.
        states: Of each other path, what there is of it, and the custody entry that says so.
        spine: The leaf hashes of all values; empty where they are gone.
        covers: The erasures and purges that the states rest on.
    """

    item: Any
    opened: dict[str, bytes]
    states: dict[str, tuple[ValueState, str]]
    spine: bytes
    covers: tuple[Cover, ...]


def choose(view: View, opener: Opener, item: Item, paths: Sequence[str] | None = None) -> Chosen:
    """
    Open the values of *item* at *paths*, to be handed out; without paths, all that there are.

    Raises:
        CallerError: One is not among the values of the entry, or is not there any more.
        Forbidden: The role of whoever opens does not see one.
        Damaged: The custody stream cannot be read.
    """
    committed = item.clear.committed
    for path in paths or ():
        if path not in committed:
            raise CallerError(
                f"disclose: found {path}, expected one of {', '.join(committed) or 'no path'}"
            )
    (data,) = view.rows(item.log, [item.index])
    known = Covers.read(view)
    commitment = urlsafe_b64decode(f"{item.clear.commitment or ''}=")
    found = (
        look_into(
            data,
            committed,
            commitment,
            opener.bound(item.log, item.clear),
            opener.keys([data]),
            opener.viewer.opens,
        )
        if committed
        else {}
    )
    opened: dict[str, bytes] = {}
    states: dict[str, tuple[ValueState, str]] = {}
    for path, each in found.items():
        state, _, entry = settle(each, known, item.entry, item.clear, item.log, path)
        # What is opened to be made a pseudonym of is not seen, and so not handed out.
        if state is ValueState.OPEN and each.class_ is not None:
            state = ValueState.OPEN if opener.viewer.sees(each.class_) else ValueState.WITHHELD
        if state is ValueState.OPEN and (paths is None or path in paths):
            opened[path] = each.disclosure
            continue
        if paths is not None and path in paths:
            raise _refused(path, state, opener.viewer.role, each)
        removed = state in BEGUN.values()
        shown = ValueState.WITHHELD if state is ValueState.OPEN else state
        states[path] = (shown, entry if removed else "")
    needed = {entry for _, entry in states.values() if entry}
    return Chosen(
        item=item,
        opened=opened,
        states=states,
        spine=_spine(data, commitment),
        covers=tuple(cover for cover in known.covers.values() if cover.entry in needed),
    )


def _refused(path: str, state: ValueState, role: str, found: Found) -> CallerError:
    if state is ValueState.WITHHELD:
        return Forbidden(f"{path}: role {role} does not see {found.class_} values, nor gives them")
    return CallerError(f"{path}: found {state}, expected a value that is here")


def _spine(data: bytes, commitment: bytes) -> bytes:
    """Return the leaf hashes of a row, if they are those that were committed to."""
    try:
        spine = Row.from_bytes(data).spine if data else b""
        return spine if spine and commitment_of(_leaves(spine)) == commitment else b""
    except Damaged:
        return b""


def _leaves(spine: bytes) -> list[bytes]:
    return [spine[at : at + HASH_SIZE] for at in range(0, len(spine), HASH_SIZE)]


# ---- Packing ----


class _State(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What ``states.json`` says of one value; *entry* and *policy* stand in the custody log."""

    path: str
    state: ValueState
    entry: str | None = None
    policy: str | None = None


class _States(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    v: str
    states: tuple[_State, ...]


def pack(view: View, chosen: Chosen) -> dict[str, bytes]:
    """
    Return the files of the evidence, by name, without those for people.

    Raises:
        Damaged: What it needs cannot be read.
    """
    item = chosen.item
    files = {ENTRY: item.entry.to_bytes(), PROOF: _proof(view, item.log, item.index)}
    if chosen.spine:
        files[SPINE] = msgspec.json.encode([leaf.hex() for leaf in _leaves(chosen.spine)])
    for position, path in enumerate(item.clear.committed):
        if path in chosen.opened:
            files[f"disclosures/{position:02d}.json"] = chosen.opened[path]
    set_by = {cover.entry: cover.policy_entry for cover in chosen.covers}
    states = _States(
        v=VERSION,
        states=tuple(
            _State(path=path, state=state, entry=entry or None, policy=set_by.get(entry))
            for path, (state, entry) in chosen.states.items()
        ),
    )
    files[STATES] = msgspec.json.encode(states)
    logs = {item.log}
    for cover in chosen.covers:
        assert cover.plan is not None  # noqa: S101 - one without does not count
        assert cover.policy is not None  # noqa: S101 - the same
        files[_plan_name(cover.plan.digest.hex())] = cover.plan.to_bytes()
        files[_policy_name(cover.plan.policy)] = policies.text_of(cover.policy)
        for place in (f"{CUSTODY}#0", cover.policy_entry, cover.entry):
            log, _, index = place.partition("#")
            (said,) = query.items(view, log, [int(index)])
            files[_entry_name(place)] = said.entry.to_bytes()
            files[_proof_name(place)] = _proof(view, log, int(index))
            logs.add(log)
    for log in logs:
        files.update(_rotations(view, log))
    return files


def _proof(view: View, log: str, index: int) -> bytes:
    return query.prove(view, log, index).to_bytes()


def _rotations(view: View, log: str) -> Iterator[tuple[str, bytes]]:
    size = view.heads()[log].size
    for number, note in enumerate(view.rotations(log)):
        rotation = Rotation.from_text(Note.from_bytes(note).text)
        hashes = consistency_proof(rotation.size, size, partial(view.node, log))
        yield f"rotations/{log}-{number}.note", note
        lines = "".join(f"{b64encode(each).decode()}\n" for each in hashes)
        yield f"rotations/{log}-{number}.consistency", lines.encode()


def _entry_name(place: str) -> str:
    return f"covers/{place.replace('#', '-')}.json"


def _proof_name(place: str) -> str:
    return f"covers/{place.replace('#', '-')}.tlog-proof"


def _plan_name(digest: str) -> str:
    return f"covers/plan-{digest}.json"


def _policy_name(digest: str) -> str:
    return f"covers/policy-{digest}.txt"


def write(view: View, chosen: Chosen, target: Path) -> EvidenceVerdict:
    """
    Write the evidence into the folder *target*, which is missing or empty.

    Evidence that would not hold is noticed here, and not by whoever gets it.

    Returns:
        What `verify` will find, by the keys that the trail itself names.

    Raises:
        CallerError: *target* holds something, or cannot be written.
        VerificationError: The trail does not hold.
    """
    files = pack(view, chosen)
    verdict = check(files, _own_keys(view))
    files[PAGE] = page(verdict).encode()
    files[README] = readme(verdict).encode()
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise CallerError(f"{target}: holds something, and evidence is not overwritten")
        # Crash here: a folder that is not whole, and that nobody takes for evidence, for
        # the entry is written last.
        for name in sorted(files, key=lambda name: name == ENTRY):
            path = target / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(files[name])
    except OSError as error:
        raise CallerError(f"{target}: {error.strerror}") from None
    return verdict


def _own_keys(view: View) -> list[VerifierKey]:
    """Return the keys that the logs began with, as the custody stream says."""
    from indelible.note import VerifierKey  # noqa: PLC0415 - a hint elsewhere

    asked = Query(stream=CUSTODY, action="key.create", newest_first=False)
    return [
        VerifierKey.from_text(str(said_by(item).get("key"))) for item in query.matches(view, asked)
    ]


# ---- Verifying ----


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the evidence shows of one committed value.

    Attributes:
        state: That of a `ValueState`, or `UNPROVEN`.
        proven: It is shown, and not just said.
        value: JSON, where it is open.
        why: What the state rests on, or what is wanting.
    """

    path: str
    state: str
    proven: bool
    value: Any = None
    why: str = ""


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """
    An erasure or purge that a value is gone by, as its entry, plan and policy show it.

    Attributes:
        repeated: The entry repeats one that a restored trail has lost.
    """

    entry: str
    state: ValueState
    began_at: datetime
    basis: str
    requester: str
    policy: str
    repeated: bool
    approved_by: tuple[str, ...]
    self_approved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceVerdict:
    """
    What the evidence shows.

    Attributes:
        checkpoint: Under which the log holds the entry, signed by *key*.
        values: Of each committed value, in the order of the entry.
        removals: What the values that are gone are gone by.
        does_not_show: In sentences, what one might take it for but may not.
    """

    log: str
    entry: Entry
    clear: Clear
    checkpoint: Checkpoint
    key: VerifierKey
    values: tuple[Shown, ...]
    removals: tuple[Removal, ...]
    does_not_show: tuple[str, ...]


def verify(folder: Path, keys: Iterable[VerifierKey]) -> EvidenceVerdict:
    """
    Verify the evidence in *folder* by the *keys* of its logs, that of the custody log included.

    Raises:
        CallerError: The folder cannot be read, or no key is that of the entry's log.
        VerificationError: It does not hold.
    """
    files: dict[str, bytes] = {}
    try:
        for path in [each for glob in ("*", "*/*") for each in sorted(folder.glob(glob))]:
            name = path.relative_to(folder).as_posix()
            if not _NAME.fullmatch(name):
                continue
            with path.open("rb") as file:
                files[name] = file.read(_MAX_FILE + 1)
            if len(files[name]) > _MAX_FILE or len(files) > _MAX_FILES:
                raise Malformed(f"{name}: found more than evidence can hold")
    except OSError as error:
        raise CallerError(f"{folder}: {error.strerror}") from None
    if not files:
        raise CallerError(f"{folder}: holds no evidence")
    return check(files, keys)


def check(files: Mapping[str, bytes], keys: Iterable[VerifierKey]) -> EvidenceVerdict:
    """
    Verify the *files* of evidence; see `verify`.

    Raises:
        CallerError: No key is that of the entry's log.
        VerificationError: It does not hold.
    """
    known = _Known(files, keys)
    data = _file(files, ENTRY)
    opened = Proof.from_bytes(_file(files, PROOF))
    origin = Checkpoint.from_text(Note.from_bytes(opened.checkpoint).text).origin
    if not known.has_key(origin):
        raise CallerError(f"key: found none of {origin}, whose log holds the entry")
    entry = Entry.from_bytes(data)
    checkpoint, key = known.verify(origin, data, opened, entry.index)
    clear = unseal(entry.event)
    leaves = _verify_spine(files, clear)
    said = {each.path: each for each in _states(files).states}
    custody = _Custody(known, origin, entry, clear)
    values: list[Shown] = []
    for position, path in enumerate(clear.committed):
        name = f"disclosures/{position:02d}.json"
        if name in files:
            if path in said:
                raise Malformed(f"states: found {path}, which {name} opens")
            values.append(_opening(files[name], path, leaves[position] if leaves else None))
        elif path in said:
            values.append(custody.shown(said.pop(path)))
        else:
            raise Malformed(f"states: say nothing of {path}, and no disclosure opens it")
    unknown = [*said, *_unknown_disclosures(files, len(clear.committed))]
    if unknown:
        raise Malformed(f"evidence: found {unknown[0]}, which the entry commits to nowhere")
    return EvidenceVerdict(
        log=origin.rpartition("/")[2],
        entry=entry,
        clear=clear,
        checkpoint=checkpoint,
        key=key,
        values=tuple(values),
        removals=tuple(custody.removals.values()),
        does_not_show=tuple(_limits(values, custody.removals.values())),
    )


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise Malformed(f"{name}: is missing")
    return files[name]


def _states(files: Mapping[str, bytes]) -> _States:
    data = _file(files, STATES)
    try:
        states = msgspec.json.decode(data, type=_States)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"{STATES}: {error}") from error
    if states.v != VERSION or msgspec.json.encode(states) != data:
        raise Malformed(f"{STATES}: not in the exact form of {VERSION}")
    if len({each.path for each in states.states}) != len(states.states):
        raise Malformed(f"{STATES}: found a path twice")
    return states


def _verify_spine(files: Mapping[str, bytes], clear: Clear) -> list[bytes]:
    """Return the leaf hashes of all values, once the entry commits to them; none for no file."""
    if SPINE not in files:
        return []
    try:
        texts = msgspec.json.decode(files[SPINE], type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"{SPINE}: {error}") from error
    count = len(clear.committed)
    if not texts or len(texts) != count or not all(map(_DIGEST.fullmatch, texts)):
        raise Malformed(f"{SPINE}: expected a hash in hex for each of {count} paths")
    leaves = [bytes.fromhex(text) for text in texts]
    commitment = b64encode(commitment_of(leaves)).translate(_URLSAFE, b"=").decode()
    if commitment != clear.commitment:
        raise Damaged(f"{SPINE}: has root {commitment}, expected {clear.commitment}, of the entry")
    return leaves


_URLSAFE = bytes.maketrans(b"+/", b"-_")


def _opening(data: bytes, path: str, leaf: bytes | None) -> Shown:
    if leaf is None:
        raise Damaged(f"disclosure of {path}: found no {SPINE} to hold it against")
    if len(data) > 2 * MAX_VALUE:
        raise Malformed(f"disclosure of {path}: found {len(data)} bytes")
    disclosure = Disclosure.from_bytes(data)
    verify_opening(disclosure, path, leaf)
    return Shown(path=path, state=ValueState.OPEN.value, proven=True, value=disclosure.value)


def _unknown_disclosures(files: Mapping[str, bytes], count: int) -> list[str]:
    expected = {f"disclosures/{position:02d}.json" for position in range(count)}
    return [name for name in files if name.startswith("disclosures/") and name not in expected]


class _Known:
    """
    The keys that are trusted, and those that they handed over to.

    A rotation is signed by both keys: so a later key vouches for those before it.
    """

    def __init__(self, files: Mapping[str, bytes], keys: Iterable[VerifierKey]) -> None:
        self.files = files
        self._given = {key.name: key for key in keys}

    def has_key(self, origin: str) -> bool:
        """Tell whether a key of the log with this origin was given."""
        return origin in self._given

    def chain(self, origin: str) -> tuple[list[VerifierKey], list[Rotation]]:
        """
        Return all keys that the log had, the last one signing now, and how it came to it.

        Raises:
            InvalidSignature, Malformed: A handover does not hold.
        """
        log = origin.rpartition("/")[2]
        notes: list[bytes] = []
        while (name := f"rotations/{log}-{len(notes)}.note") in self.files:
            notes.append(self.files[name])
        keys = [first_of(self._given[origin], notes)]
        rotations: list[Rotation] = []
        for note in notes:
            rotations.append(Rotation.open(note, keys[-1]))
            keys.append(rotations[-1].new)
        return keys, rotations

    def verify(
        self, origin: str, entry: bytes, proof: Proof, index: int
    ) -> tuple[Checkpoint, VerifierKey]:
        """
        Check that the log of *origin* holds *entry* at *index*.

        Returns:
            The checkpoint, and the key that signed it.

        Raises:
            VerificationError: It does not, or has another past than its earlier keys signed.
        """
        keys, rotations = self.chain(origin)
        checkpoint = proof.verify(entry, [keys[-1]], index=index)
        for number, rotation in enumerate(rotations):
            name = f"rotations/{origin.rpartition('/')[2]}-{number}.consistency"
            *lines, rest = _file(self.files, name).decode("ascii", "replace").split("\n")
            if rest:
                raise InvalidProof(f"{name}: found no line feed at its end")
            verify_consistency(
                rotation.size,
                checkpoint.size,
                [parse_base64(line, what=name) for line in lines],
                rotation.root,
                checkpoint.root,
            )
        return checkpoint, keys[-1]


class _Custody:
    """
    What custody entries show of the values of an entry that are gone.

    Attributes:
        removals: By the place of the entry that began each.
    """

    def __init__(self, known: _Known, origin: str, entry: Entry, clear: Clear) -> None:
        self._known, self._origin = known, origin
        self._base, _, self._log = origin.rpartition("/")
        self._entry, self._clear = entry, clear
        self._covers: dict[tuple[str, str], Cover | str] = {}
        self._recorded: dict[str, int] = {}
        self.removals: dict[str, Removal] = {}

    def shown(self, said: _State) -> Shown:
        """
        Return what is shown of a value that the folder has no disclosure of.

        Raises:
            VerificationError: What is there to show it does not hold.
        """
        if said.state is ValueState.OPEN:
            raise Malformed(f"states: found {said.path} OPEN, and no disclosure that opens it")
        if said.state not in BEGUN.values():
            if said.entry is not None or said.policy is not None:
                raise Malformed(f"states: found an entry for {said.path}, which is {said.state}")
            why = "so says who wrote this; nothing here shows it"
            return Shown(path=said.path, state=said.state.value, proven=False, why=why)
        if said.entry is None or said.policy is None:
            raise Malformed(f"states: found no entry for {said.path}, which is {said.state}")
        cover = self._covers.get((said.entry, said.policy))
        if cover is None:
            try:
                cover = self._cover(said.entry, said.policy)
            except NotFound as wanting:
                cover = str(wanting)
            self._covers[said.entry, said.policy] = cover
        if isinstance(cover, str):
            why = f"is said to be {said.state} by {said.entry}, which is not shown: {cover}"
            return Shown(path=said.path, state=UNPROVEN, proven=False, why=why)
        self._verify_covered(cover, said)
        return Shown(path=said.path, state=said.state.value, proven=True, why=said.entry)

    def _verify_covered(self, cover: Cover, said: _State) -> None:
        plan, entry = cover.plan, self._entry
        where = f"{self._log}#{entry.index} {said.path}"
        covered = plan is not None and covers(plan).get((self._log, entry.index), frozenset())
        if cover.state is not said.state or not covered or said.path not in covered:
            raise Damaged(f"{where}: found {said.state}, but {said.entry} does not cover it so")
        assert plan is not None  # noqa: S101 - else nothing were covered
        at = moment_of(entry.recorded_at)
        begun = self._recorded[cover.entry]
        if entry.index >= plan.logs.get(self._origin, 0) or entry.recorded_at > begun:
            raise Damaged(f"{where}: {said.entry} covers it from before it was there")
        try:
            verify_released(
                cover, self._clear, said.path, log=self._log, index=entry.index, recorded_at=at
            )
        except CallerError as error:
            raise Damaged(f"{where}: {said.entry} does not count: {error}") from None

    def _cover(self, place: str, set_by: str) -> Cover:
        """
        Return what the entry at *place* began, proven, under the policy that another entry set.

        Raises:
            NotFound: Something is wanting to prove it.
            VerificationError: It does not hold.
        """
        first, _ = self._said(f"{CUSTODY}#0", "trail.create")
        began, entry = self._said(place, *BEGUN)
        named, policy_entry = self._said(set_by, policies.SET)
        if (policy_entry.recorded_at, policy_entry.index) > (entry.recorded_at, entry.index):
            raise Damaged(f"{set_by}: set a policy after {place} began")
        plan = Plan.from_bytes(self._document(_plan_name, began.get("plan")))
        policy = self._policy(named.get("digest"))
        self._recorded[place] = entry.recorded_at
        at = moment_of(entry.recorded_at)
        action = unseal(entry.event).action
        if action == REPLAY:
            at = time_of(str(began.get("began_at")))
        try:
            verified = verify_begun(
                plan,
                began,
                kind=action.partition(".")[0],
                policy=policy,
                owner_keys=self._owner_keys(),
                at=at,
                trail=str(first.get("id")),
            )
        except CallerError as error:
            raise Damaged(f"{place} does not count: {error}") from None
        cover = Cover(
            state=BEGUN[action],
            entry=place,
            began_at=at,
            plan=plan,
            policy=policy,
            policy_entry=set_by,
            approved_by=() if verified is None else verified.people,
            self_approved=verified is not None and verified.self_approved,
        )
        self.removals[place] = Removal(
            entry=place,
            state=cover.state,
            began_at=at,
            basis=plan.basis,
            requester=plan.requester,
            policy=policy.label,
            repeated=action == REPLAY,
            approved_by=cover.approved_by,
            self_approved=cover.self_approved,
        )
        return cover

    def _said(self, place: str, *actions: str) -> tuple[Mapping[str, Any], Entry]:
        found = _PLACE.fullmatch(place)
        if found is None:
            raise Malformed(f"states: found {place!r}, expected an entry of the custody log")
        log, index = found[1], int(found[2])
        origin = f"{self._base}/{log}"
        if not self._known.has_key(origin):
            raise NotFound(f"no key of {origin} was given")
        files = self._known.files
        for name in (_entry_name(place), _proof_name(place)):
            if name not in files:
                raise NotFound(f"{name} is not there")
        data, proof = files[_entry_name(place)], Proof.from_bytes(files[_proof_name(place)])
        self._known.verify(origin, data, proof, index)
        entry = Entry.from_bytes(data)
        if entry.index != index:
            raise Damaged(f"{_entry_name(place)}: is entry {entry.index}, expected {index}")
        clear = unseal(entry.event)
        if clear.action not in actions:
            raise Damaged(f"{place}: found {clear.action}, expected {' or '.join(actions)}")
        return (clear.data if isinstance(clear.data, dict) else {}), entry

    def _document(self, name_of: Any, digest: object) -> bytes:  # noqa: ANN401 - a function
        text = str(digest)
        if not _DIGEST.fullmatch(text):
            raise Damaged(f"found {text[:80]!r}, expected the digest of a document")
        name = name_of(text)
        if name not in self._known.files:
            raise NotFound(f"{name} is not there")
        data = self._known.files[name]
        if sha256(data).hexdigest() != text:
            raise Damaged(f"{name}: is not the document that was recorded")
        return data

    def _policy(self, digest: object) -> Policy:
        data = self._document(_policy_name, digest)
        try:
            policy = policies.parse(data)
        except CallerError as error:
            raise Malformed(f"{_policy_name(str(digest))}: {error}") from None
        if policy.digest.hex() != digest:
            raise Malformed(f"{_policy_name(str(digest))}: is not the exact text of a policy")
        return policy

    def _owner_keys(self) -> list[VerifierKey]:
        """Return the keys that the custody logs had, as far as they are known."""
        logs = {
            name.removeprefix("covers/").rpartition("-")[0]
            for name in self._known.files
            if name.startswith("covers/custody")
        }
        origins = [f"{self._base}/{log}" for log in sorted(logs)]
        return [
            key
            for origin in origins
            if self._known.has_key(origin)
            for key in self._known.chain(origin)[0]
        ]


def _limits(values: Sequence[Shown], removals: Iterable[Removal]) -> Iterator[str]:
    yield (
        "that the log was never another; whoever holds its key could have rewritten what no"
        " checkpoint had left the machine for"
    )
    withheld = [each for each in values if each.state == ValueState.WITHHELD]
    if withheld:
        who = "1 value" if len(withheld) == 1 else f"{len(withheld)} values"
        yield f"{who}: what they are, and that they are kept; they are not opened here"
    for each in values:
        if each.state == UNPROVEN:
            yield f"{each.path}: that it was rightly removed; it {each.why}"
        elif not each.proven and each.state != ValueState.WITHHELD:
            yield f"{each.path}: why it is {each.state}"
    for removal in removals:
        yield (
            f"{removal.entry}: that no later policy was in force when it began, and that no copy"
            " is left of what it removed; verify the whole trail for the first"
        )
        if removal.repeated:
            yield (
                f"{removal.entry}: that what it repeats began at {text_of(removal.began_at)};"
                " verify the whole trail"
            )
        if removal.self_approved:
            yield (
                f"{removal.entry}: that anybody approved it but the owner of the keys alone"
                " (self-approved)"
            )
    yield f"{PAGE}, {README}: anything; they are for people, and no verifier reads them"


# ---- For people ----


def visible(text: str) -> str:
    """Return *text* with everything escaped that is not seen."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return visible(value)
    return visible(msgspec.json.encode(value).decode())


def readme(verdict: EvidenceVerdict) -> str:
    """Return the text that says what the folder is, and how to check it."""
    entry, checkpoint = verdict.entry, verdict.checkpoint
    custody = "\n".join(
        f"  {removal.entry}: {removal.state}; {visible(removal.basis)}; approved by"
        f" {', '.join(map(visible, removal.approved_by)) or 'nobody, as the policy allows'}"
        f"{' (self-approved)' if removal.self_approved else ''}"
        for removal in verdict.removals
    )
    opened = ", ".join(visible(each.path) for each in verdict.values if each.state == "OPEN")
    limits = "\n".join(f"  - {text}" for text in verdict.does_not_show)
    return f"""\
Evidence of one entry of an audit log
=====================================

Log     {visible(checkpoint.origin)}
Entry   number {entry.index}, recorded at {time_to_text(entry.recorded_at)}
Under   the checkpoint over {checkpoint.size} entries, root {checkpoint.root.hex()}
Opened  {opened or "no value"}
{f"Gone by{chr(10)}{custody}{chr(10)}" if custody else ""}
entry.json is the entry, byte for byte. proof.tlog-proof shows that the log holds it; its
checkpoint is signed by the log's key. The entry names values under "committed" and
commits to them by one hash, "commitment". Files in disclosures/ open some of them; all
others are nowhere in this folder. states.json says what became of those.

How to check it
---------------

You need the verifier key of the log{" and that of its custody log" if custody else ""}. Get it from
somebody you trust, not with this folder: whoever can replace the folder can replace a
key in it.

  indelible verify-evidence FOLDER --key VERIFIER-KEY [--key CUSTODY-KEY]

Or with other tools:

1. Any verifier of C2SP tlog-proofs (https://c2sp.org/tlog-proof) checks
   proof.tlog-proof against entry.json. The leaf hash of the entry is
     (printf '\\000'; cat entry.json) | sha256sum
2. Number N of spine.json is the leaf hash of the value at place N of "committed",
   counted from 0. Of each disclosure, this must be that hash:
     (printf '\\000'; cat disclosures/NN.json) | sha256sum
   A disclosure is a random salt, the path, and the value.
3. "commitment" is the root of the tree over spine.json, as in RFC 6962: a parent is
   SHA-256 of a byte 1 and its two children; base64url without padding.
4. Where states.json names an entry, covers/ has it with its proof, in the custody log.
   It names a plan and a policy by their SHA-256:
     sha256sum covers/plan-*.json covers/policy-*.txt
   The plan lists the entry and the paths. The approvals in the entry are signed notes
   (https://c2sp.org/signed-note) over the plan's digest, by keys that the policy names
   under [people], or by the key of the custody log for "owner".
5. rotations/, if it is there, has a note for each time that a key was replaced, signed by
   the old and the new key, and the proof that the log still begins with what the old
   key had signed.

What it does not show
---------------------

{limits}
"""


def page(verdict: EvidenceVerdict) -> str:
    """Return the same as one page of HTML, which needs nothing else and runs no script."""
    entry, checkpoint = verdict.entry, verdict.checkpoint
    clear = msgspec.json.decode(entry.event, type=dict[str, Any])
    proven = [
        ("log", checkpoint.origin),
        ("entry", str(entry.index)),
        ("recorded at", time_to_text(entry.recorded_at)),
        ("leaf hash", entry.leaf_hash.hex()),
        ("checkpoint", f"{checkpoint.size} entries, root {checkpoint.root.hex()}"),
        ("signed by", verdict.key.to_text()),
    ]
    removals = "".join(
        "<h3>"
        + _html(f"{removal.entry}: {removal.state}")
        + "</h3>"
        + _table(
            [
                ("began", text_of(removal.began_at)),
                ("basis", removal.basis),
                ("asked for by", removal.requester),
                ("approved by", ", ".join(removal.approved_by) or "nobody, as the policy allows"),
                ("self-approved", "yes" if removal.self_approved else "no"),
                ("policy", removal.policy),
            ]
        )
        for removal in verdict.removals
    )
    values = "".join(
        f"<tr><th>{_html(each.path)}</th><td>{_html(each.state)}"
        f"{'' if each.proven else ' (not proven)'}</td>"
        f"<td>{_html(_text(each.value) if each.state == 'OPEN' else each.why)}</td></tr>"
        for each in verdict.values
    )
    limits = "".join(f"<li>{_html(text)}</li>" for text in verdict.does_not_show)
    shown = _table([(name, _text(value)) for name, value in clear.items()])
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Evidence of entry {entry.index} of {_html(checkpoint.origin)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Evidence of one entry of an audit log</h1>
<p>This page shows what the files beside it hold. It proves nothing itself: check the files as
README.txt says, with a verifier key that came to you on another way.</p>
<h2>What the log holds</h2>
{_table(proven)}
<h2>What the entry says</h2>
{shown}
<h2>Its values</h2>
<table>{values}</table>
{f"<h2>What is gone, and by what</h2>{removals}" if removals else ""}
<h2>What this does not show</h2>
<ul>{limits}</ul>
</body>
</html>
"""


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a;background:#fff}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;"
    "border-bottom:1px solid #ddd;overflow-wrap:anywhere}th{font-weight:600;min-width:9rem}"
    "h2{margin-top:2rem}@media print{body{margin:0;max-width:none}}"
)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th>{_html(name)}</th><td>{_html(value)}</td></tr>" for name, value in rows
    )
    return f"<table>{cells}</table>"


def _html(text: str) -> str:
    return escape(visible(text))
