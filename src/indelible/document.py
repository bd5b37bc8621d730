"""
Document: a policy as TOML text, and back to a `Policy`, or an error that names line and key.

Nothing is guessed: a key that nobody knows, a stream that is not there or an approver who
does not exist is refused, since a policy with a slip in it would silently keep too much or
too little. Rules are counted from 0, as in ``rule[2].stream``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any, cast, get_args

import msgspec

from indelible.duration import Duration
from indelible.errors import CallerError, InvalidPolicy, Malformed
from indelible.event import ActorType, Kind, Outcome
from indelible.fields import OPEN, STRUCTURE, VALUES
from indelible.note import ED25519, VerifierKey, parse_base64
from indelible.policy import (
    COMMITTED,
    CUSTODY,
    OWNER,
    Approvals,
    FieldClass,
    Level,
    OnFailure,
    Policy,
    Sight,
    Subject,
)

MAX_DOCUMENT = 1_000_000
"""Most bytes of a document."""

_MOST_DOTS = 200

REQUIRABLE = (
    "rationale",
    "reason",
    "session",
    "request",
    "client",
    "trace",
    "tenant",
    "approval",
    "changes",
)
"""Fields that a stream or a rule may require."""

Path = tuple[str | int, ...]
"""The keys that lead to a value of the document, and its place in arrays."""

Check = Callable[["Place", object], Any]
"""Returns a value as it is to be converted, or raises `InvalidPolicy`."""


def parse(text: bytes) -> Policy:
    """
    Read a policy, which keeps the exact bytes of its document.

    Raises:
        InvalidPolicy: It means nothing, or not for sure what its author meant; the error
            names line and key.
    """
    root = Place(Source(text))
    found = _table(root, _decoded(text), _DOCUMENT, required=("policy",))
    parts = {**found.pop("policy"), **found, "rules": found.pop("rule", ())}
    streams = parts.get("streams", {"user": {}})
    parts["streams"] = {**streams, CUSTODY: {"on_failure": "refuse", **streams.get(CUSTODY, {})}}
    policy = msgspec.structs.replace(msgspec.convert(parts, Policy), text=text)
    _check_streams(root, policy)
    _check_approvers(root, policy)
    return policy


def default_text() -> bytes:
    """Return the document of the policy that a trail has that was given none."""
    return (files("indelible") / "default-policy.toml").read_bytes()


@lru_cache(maxsize=1)
def default() -> Policy:
    """Return the policy that a trail has that was given none."""
    return parse(default_text())


@lru_cache(maxsize=1)
def for_collector() -> Policy:
    """Return the policy of a collector that was given none: one stream more, for producers."""
    admin = b'admin = { on_failure = "refuse" }\n'
    before, found, after = default_text().partition(admin)
    return parse(before + found + b'producers = { on_failure = "refuse" }\n' + after)


def _decoded(text: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - who only records under a policy does not read one

    if len(text) > MAX_DOCUMENT:
        raise InvalidPolicy(
            f"found a document of {len(text)} bytes, expected at most {MAX_DOCUMENT}", line=1
        )
    # Each part of a dotted key costs as much as all before it.
    for number, dots in enumerate([row.count(b".") for row in text.split(b"\n")], start=1):
        if dots > _MOST_DOTS:
            raise InvalidPolicy(
                f"found a line with {dots} dots, expected at most {_MOST_DOTS}", line=number
            )
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidPolicy("found bytes that are not UTF-8, expected TOML", line=line) from None
    except (ValueError, OverflowError, RecursionError) as error:
        # tomllib ends its messages with the place, and says nothing of what Python refuses.
        message, line = str(error), 1
        if found := _PLACE.search(message):
            message = message[: found.start()]
            line = int(found[1]) if found[1] else text.count(b"\n") + 1
        raise InvalidPolicy(f"found {_lowered(message)}, expected TOML", line=line) from None


_PLACE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)\Z")


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


# ---- Where something stands ----


class Source:
    """
    The text of a document, which knows where its keys stand: tomllib does not say.

    Args:
        text: That of TOML, or None for a policy that was built in code.
    """

    def __init__(self, text: bytes | None) -> None:
        self._text = text

    def line(self, path: Path) -> int | None:
        """
        Return the line of the key at *path*, or of the nearest one that holds it.

        None where there is no text.
        """
        if self._text is None:
            return None
        lines = self._lines
        return next(
            (lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 1
        )

    @cached_property
    def _lines(self) -> dict[Path, int]:
        try:
            return _Scan((self._text or b"").decode()).lines
        except (ValueError, RecursionError, StopIteration):
            return {}  # not TOML: whoever reads it says so


@dataclass(frozen=True, slots=True)
class Place:
    """A value of a document, by the path of its key."""

    source: Source
    path: Path = ()

    def __truediv__(self, name: str | int) -> Place:
        return Place(self.source, (*self.path, name))

    def refusal(self, found: object, expected: str) -> InvalidPolicy:
        """Return the error that says that *found* stands here; a text says it in words."""
        shown = found if isinstance(found, Words) else shown_value(found)
        return InvalidPolicy(
            f"found {shown}, expected {expected}",
            line=self.source.line(self.path),
            key=key_text(self.path) or None,
        )


class Words(str):
    """What was found, in words rather than as a value."""

    __slots__ = ()


def key_text(path: Path) -> str:
    """Write *path* as TOML does, with places in arrays in brackets: ``rule[2].stream``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else msgspec.json.encode(part).decode()
            text += f".{name}" if text else name
    return text


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 80


def shown_value(value: object) -> str:
    """Return the beginning of *value*: enough to find it."""
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class _Scan:
    """
    Finds the line of each key of a text that is known to be TOML.

    Attributes:
        lines: By path, from 1.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._arrays: Counter[Path] = Counter()
        self._tokens = self._tokenized(text)
        self._here, self._line = "", 1
        self._next()
        table: Path = ()
        while self._here:
            if self._here == "\n":
                self._next()
            elif self._here == "[":
                table = self._header()
            else:
                self._pair(table)

    @staticmethod
    def _tokenized(text: str) -> Iterator[tuple[str, int]]:
        line = 1
        for found in _TOKENS.finditer(text):
            token = found[0]
            if token[0] not in " \t\r#":
                yield token, line
            line += token.count("\n")
        yield "", line

    def _next(self) -> None:
        self._here, self._line = next(self._tokens)

    def _header(self) -> Path:
        line = self._line
        self._next()
        many = self._here == "["
        if many:
            self._next()
        path: Path = ()
        parts = self._key()
        for place, part in enumerate(parts):
            path = (*path, part)
            if many and place == len(parts) - 1:
                self._arrays[path] += 1
            if path in self._arrays:
                self.lines.setdefault(path, line)
                path = (*path, self._arrays[path] - 1)
        self.lines.setdefault(path, line)
        while self._here == "]":
            self._next()
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            parts.append(_unquoted(self._here))
            self._next()
            if self._here != ".":
                return parts
            self._next()

    def _pair(self, table: Path) -> None:
        line, path = self._line, table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._next()  # "="
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._here
        if opening == "[":
            self._next()
            place = 0
            while self._more("]"):
                self.lines[*path, place] = self._line
                self._value((*path, place))
                place += 1
        elif opening == "{":
            self._next()
            while self._more("}"):
                self._pair(path)
        else:
            while self._here not in _AFTER_VALUE:
                self._next()

    def _more(self, end: str) -> bool:
        """Go on to the next element of an array or table; tell whether there is one."""
        while self._here in {",", "\n"}:
            self._next()
        if self._here != end:
            return bool(self._here)
        self._next()
        return False


_AFTER_VALUE = frozenset((",", "]", "}", "\n", ""))

_TOKENS = re.compile(
    r"""
      \"\"\"(?:\\.|[^\\])*?\"\"\"\"{0,2}
    | '''.*?''''{0,2}
    | "(?:\\.|[^"\\\n])*"
    | '[^'\n]*'
    | \#[^\n]*
    | [ \t\r]+
    | [\[\]{},=.\n]
    | [^\s\[\]{},=.\#"']+
    """,
    re.VERBOSE | re.DOTALL,
)


def _unquoted(token: str) -> str:
    import tomllib  # noqa: PLC0415 - as above

    return cast("str", tomllib.loads(f"k = {token}")["k"]) if token[:1] in {'"', "'"} else token


# ---- What may stand where ----


def _table(
    place: Place, value: object, known: Mapping[str, Check], *, required: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the values of a table, each as its check returns it."""
    if not isinstance(value, dict):
        raise place.refusal(value, "a table")
    for name in value:
        if name not in known:
            raise (place / name).refusal(
                Words("an unknown key"), f"one of {', '.join(known) or 'none'}"
            )
    for name in required:
        if name not in value:
            raise (place / name).refusal(Words("nothing"), "a value")
    return {name: known[name](place / name, each) for name, each in value.items()}


def _struct(known: Mapping[str, Check], *required: str) -> Check:
    def check(place: Place, value: object) -> dict[str, Any]:
        return _table(place, value, known, required=required)

    return check


def _by_name(name_is: Check, value_is: Check) -> Check:
    """Check a table whose keys the author names."""

    def check(place: Place, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise place.refusal(value, "a table")
        for name in value:
            name_is(place / name, name)
        return {name: value_is(place / name, each) for name, each in value.items()}

    return check


def _array(value_is: Check, *, least: int = 0) -> Check:
    def check(place: Place, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise place.refusal(value, "an array")
        if len(value) < least:
            raise place.refusal(value, f"an array of at least {least}")
        found = tuple(value_is(place / number, each) for number, each in enumerate(value))
        texts = Counter(each for each in value if type(each) is str)
        if twice := next((each for each, count in texts.items() if count > 1), None):
            raise place.refusal(twice, "each once")
        return found

    return check


def _one_of(*choices: str) -> Check:
    def check(place: Place, value: object) -> str:
        if type(value) is not str or value not in choices:
            raise place.refusal(value, f"one of {', '.join(choices)}")
        return value

    return check


def _matching(pattern: str, expected: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)

    def check(place: Place, value: object) -> str:
        if type(value) is not str or not compiled.fullmatch(value):
            raise place.refusal(value, expected)
        return value

    return check


def _bool(place: Place, value: object) -> bool:
    if type(value) is not bool:
        raise place.refusal(value, "true or false")
    return value


def _number(place: Place, value: object) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_NUMBER:
        raise place.refusal(value, f"a whole number from 1 to {_MAX_NUMBER}")
    return value


def _line_of_text(place: Place, value: object) -> str:
    if type(value) is not str or not value.isprintable() or not 1 <= len(value) <= _MAX_NAME:
        raise place.refusal(value, f"a text of one line, of at most {_MAX_NAME} characters")
    return value


def _prose(place: Place, value: object) -> str:
    if type(value) is not str or not value.strip() or not _PROSE.fullmatch(value):
        raise place.refusal(value, "a text")
    return value


def _duration(place: Place, value: object) -> str:
    try:
        return str(Duration.parse(cast("str", value)))
    except CallerError:
        raise place.refusal(value, "a duration such as 24h, 90d, 13mo or 6y") from None


_MAX_NUMBER = 2**31 - 1
_MAX_NAME = 200
_PROSE = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f]*")


def _check_limits(place: Place, limits: Mapping[str, Any]) -> None:
    floor, ceiling = limits.get("floor"), limits.get("ceiling")
    if floor is None or ceiling is None:
        return
    if Duration.parse(floor).length > Duration.parse(ceiling).length:
        raise (place / "floor").refusal(floor, f"no more than the ceiling, {ceiling}")


def _stream(place: Place, value: object) -> dict[str, Any]:
    if place.path[-1] == CUSTODY:
        return _table(place, value, {"sinks": _STREAM["sinks"]})
    return _table(place, value, _STREAM)


def _retention(place: Place, value: object) -> dict[str, Any]:
    found = _table(place, value, {"floor": _duration, "ceiling": _duration, "worm": _bool})
    _check_limits(place, found)
    return found


def _person_id(place: Place, value: object) -> str:
    if value == OWNER:
        raise place.refusal(value, "another name: it is that of whoever holds the trail's keys")
    return cast("str", _ID(place, value))


def _person_key(place: Place, value: object) -> str:
    expected = "ed25519:<base64 of the 32 bytes of a public key>"
    prefix = "ed25519:"
    if type(value) is not str or not value.startswith(prefix):
        # Not shown: people paste private keys where public ones are asked for.
        raise place.refusal(Words("something else"), expected)
    try:
        public = parse_base64(value.removeprefix(prefix), what="key")
        VerifierKey(name="person", type=ED25519, public=public)
    except (Malformed, CallerError):
        raise place.refusal(Words("something else"), expected) from None
    return value


def _people(place: Place, value: object) -> dict[str, Any]:
    found = cast(
        "dict[str, Any]", _by_name(_person_id, _struct(_PERSON, "name", "key"))(place, value)
    )
    holders: dict[str, str] = {}
    for person, each in found.items():
        holder = holders.setdefault(each["key"], person)
        if holder != person:
            raise (place / person / "key").refusal(
                Words(f"the key of {holder}"), "a key of their own: one key is one person"
            )
    return found


def _role_name(place: Place, value: object) -> str:
    if value == OWNER:
        raise place.refusal(value, "another role: who holds the trail's keys sees everything")
    return cast("str", _ID(place, value))


def _intervention(place: Place, value: object) -> dict[str, Any]:
    outer = _table(
        place,
        value,
        {"approvals": _struct(_APPROVALS), "valid": _duration, "cooling_off": _duration},
    )
    found = {**outer.pop("approvals", {})}
    for name, each in outer.items():
        if name in found:
            raise (place / name).refusal(each, "it once: it stands in approvals as well")
        found[name] = each
    return found


def _grants(place: Place, value: object) -> dict[str, Any]:
    found = _table(
        place,
        value,
        {
            "max": _duration,
            "purpose": _one_of("required", "optional"),
            "approvals": _struct({name: _APPROVALS[name] for name in ("n", "from")}),
        },
    )
    return {
        **found.get("approvals", {}),
        "valid": found.get("max", "8h"),
        "purpose": found.get("purpose", "optional"),
    }


def _governance(place: Place, value: object) -> dict[str, Any]:
    known = dict.fromkeys(("erasure", "purge", "loosening"), _intervention)
    found = _table(
        place,
        value,
        {**known, "grants": _grants, "break_glass": _struct(_BREAK_GLASS, "max", "who")},
    )
    if "grants" in found:
        found["purpose"] = found["grants"].pop("purpose")
    return found


_ID = _matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
    "a name of at most 64 letters, digits, '_', '-' and '.'",
)
_STREAM_NAME = _matching(
    # It names files, too, also where file systems do not tell capitals from small letters.
    r"[a-z0-9][a-z0-9_-]{0,63}",
    "a name of at most 64 small letters, digits, '_' and '-'",
)
_TYPE = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_RESOURCE_TYPE = _matching(_TYPE, "a type of resources, of letters, digits, '_', '-' and '.'")
_ACTOR_TYPE = _one_of(*get_args(ActorType))
_PART = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_ACTION = _matching(
    rf"\*|{_PART}(?:\.{_PART})*(?:\.\*)?",
    "an action such as invoice.approve, or invoice.* for all that begins so, or *",
)
_LABELS = _array(_line_of_text)
_NEEDED = _array(_one_of(*REQUIRABLE))

_POLICY: dict[str, Check] = {
    "id": _ID,
    "version": _number,
    "owner": _line_of_text,
    "supersedes": _matching(r"sha256:[0-9a-f]{64}", "sha256: and 64 hex digits"),
}
_STREAM: dict[str, Check] = {
    "retention": _ID,
    "on_failure": _one_of(*get_args(OnFailure)),
    "require": _NEEDED,
    "sinks": _LABELS,
}
_APPROVALS: dict[str, Check] = {
    "n": _number,
    "from": _array(_ID, least=1),
    "valid": _duration,
    "cooling_off": _duration,
}
_RULE: dict[str, Check] = {
    "name": _line_of_text,
    "action": _ACTION,
    "resource": _array(_RESOURCE_TYPE, least=1),
    "actor": _array(_ACTOR_TYPE, least=1),
    "actor_roles": _array(_line_of_text, least=1),
    "outcome": _array(_one_of(*Outcome), least=1),
    "kinds": _array(_one_of(*get_args(Kind)), least=1),
    "level": _one_of(*Level),
    "stream": _STREAM_NAME,
    "require": _NEEDED,
    "why": _prose,
    "controls": _LABELS,
    "approvals": _struct(_APPROVALS),
    "approved_by": _LABELS,
    "expect": _matching(
        r"[1-9][0-9]{0,5}/(?:min|h|d|w|mo|y)", "a number of times in a span, such as 1/h"
    ),
}
_FIELD: dict[str, Check] = {
    "class": _one_of(*FieldClass),
    "subject": _one_of(*get_args(Subject)),
    "search": _one_of("exact", "prefix"),
    "floor": _duration,
    "ceiling": _duration,
    "fingerprint": _bool,
    "why": _prose,
}
_PERSON: dict[str, Check] = {
    "name": _line_of_text,
    "key": _person_key,
    "roles": _array(_role_name),
}
_BREAK_GLASS: dict[str, Check] = {
    "max": _duration,
    "who": _array(_ID, least=1),
    "alert": _array(_ID),
    "review": _duration,
}


# ---- Fields ----


def _fields(place: Place, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.refusal(value, "a table")
    known: dict[tuple[str, str | None], str] = {}
    for pattern in value:
        path, types = _pattern(place / pattern, pattern)
        for each in types or (None,):
            other = known.setdefault((path, each), pattern)
            if other != pattern:
                raise (place / pattern).refusal(pattern, f"each once: {other!r} says it, too")
    return {name: _field(place / name, name, each) for name, each in value.items()}


def _pattern(place: Place, pattern: str) -> tuple[str, tuple[str, ...]]:
    """Return the path that *pattern* is for, and the types."""
    path, at, said = pattern.rpartition("@") if "@" in pattern else (pattern, "", "")
    if path != "*" and not path.startswith("/"):
        raise place.refusal(pattern, "a path that begins with '/', or '*'")
    if not _POINTER.fullmatch(path) or "@" in path:
        raise place.refusal(
            pattern, "a JSON pointer: '~' written as ~0, '/' in a name as ~1, at most one '@'"
        )
    if not _is_known(path):
        raise place.refusal(
            pattern, f"one of {', '.join(VALUES)}, or one name or '*' below {' or '.join(OPEN)}"
        )
    types = tuple(said.split(",")) if at else ()
    for each in types:
        if path.startswith("/actor/"):
            _ACTOR_TYPE(place, each)
        else:
            _RESOURCE_TYPE(place, each)
    if len(set(types)) < len(types):
        raise place.refusal(pattern, "each type once")
    return path, types


_POINTER = re.compile(r"\*|(?:/(?:[^~/\x00-\x1f]|~[01])+)+")


def _is_known(path: str) -> bool:
    """Tell whether *path* is one that a policy can say something about."""
    container, _, name = path.rpartition("/")
    if path == "*" or path in VALUES or path in STRUCTURE:
        return True
    if name == "*":
        return container in OPEN or any(each.startswith(f"{container}/") for each in VALUES)
    return container in OPEN and "*" not in name


def _field(place: Place, pattern: str, value: object) -> dict[str, Any]:
    found = _table(place, value, _FIELD, required=("class",))
    class_ = found["class"]
    if pattern.partition("@")[0] in STRUCTURE and class_ != FieldClass.PUBLIC:
        raise (place / "class").refusal(
            class_, "public: without it the trail cannot be read, routed or followed"
        )
    if found.get("fingerprint") and class_ != FieldClass.SECRET:
        raise (place / "fingerprint").refusal(
            Words("one"), "it of secrets only: of others the value itself is kept"
        )
    if class_ not in COMMITTED:
        committed = class_ == FieldClass.SECRET and found.get("fingerprint")
        useless = ("search",) if committed else ("search", "subject", "floor", "ceiling")
        for name in useless:
            if name in found:
                raise (place / name).refusal(
                    found[name], f"none: of a {class_} field {_WHY[class_]}"
                )
    _check_limits(place, found)
    return found


_WHY = {
    FieldClass.PUBLIC: "nothing lies in the vault, it stands in the entry and is found by it",
    FieldClass.SECRET: "no value is kept",
}


# ---- What must fit together ----


def _check_streams(root: Place, policy: Policy) -> None:
    for name, stream in policy.streams.items():
        if stream.retention is not None and stream.retention not in policy.retention:
            raise (root / "streams" / name / "retention").refusal(
                stream.retention, f"one of {', '.join(policy.retention) or 'none'}"
            )
    targets = [name for name in policy.streams if name != CUSTODY]
    for number, rule in enumerate(policy.rules):
        if rule.stream not in targets:
            raise (root / "rule" / number / "stream").refusal(
                rule.stream, f"one of {', '.join(targets)}"
            )
    if "user" not in targets and not (policy.rules and policy.rules[-1].matches_all):
        raise (root / "streams").refusal(
            Words("no stream 'user'"), "one, or a last rule for all that no other matches"
        )


def _check_approvers(root: Place, policy: Policy) -> None:
    for number, rule in enumerate(policy.rules):
        if rule.approvals is not None:
            _check_consent(root / "rule" / number / "approvals", rule.approvals, policy)
    governance = policy.governance
    for name in ("erasure", "purge", "loosening", "grants"):
        needed = cast("Approvals | None", getattr(governance, name))
        if needed is not None:
            _check_consent(root / "governance" / name / "approvals", needed, policy)


def _check_consent(place: Place, needed: Approvals, policy: Policy) -> None:
    able = {OWNER} & set(needed.from_)
    for number, name in enumerate(needed.from_):
        found = {
            person for person, each in policy.people.items() if name == person or name in each.roles
        }
        if not found and name != OWNER:
            raise (place / "from" / number).refusal(
                name, f"{OWNER}, or somebody of [people], or a role that one of them has"
            )
        able |= found
    if needed.n > len(able):
        raise (place / "n").refusal(
            needed.n, f"at most {len(able)}: so many of [people] can approve it"
        )


_DOCUMENT: dict[str, Check] = {
    "policy": _struct(_POLICY, "id", "version"),
    "streams": _by_name(_STREAM_NAME, _stream),
    "retention": _by_name(_ID, _retention),
    "rule": _array(_struct(_RULE)),
    "fields": _fields,
    "people": _people,
    "roles": _by_name(_role_name, _struct(dict.fromkeys(COMMITTED, _one_of(*Sight)))),
    "governance": _governance,
}
