"""
AWS CloudTrail: its records as events.

Read as JSON lines, as the documents ``{"Records": […]}`` that CloudTrail delivers (one or
several after another), or as an array of records; gzip is unpacked. In a document, the
line of an item is the number of its record.

What becomes what:

- ``eventID`` -> ``source``; the event's id follows from it.
- ``eventSource`` and ``eventName`` -> action: ``s3.GetObject``.
- ``errorCode`` -> outcome ``denied`` where AWS refused permission, else ``failure``; with
  ``errorMessage`` it is the reason.
- ``userIdentity`` -> actor: ``user:alice`` for people; ``service:…`` for a role or an AWS
  service. The session name of a role is chosen by whoever assumes it, so it is only the
  actor's *name*, unless AWS vouches for it (a source identity, IAM Identity Center): then that
  user is the actor, with the role among its roles.
- the first of ``resources`` that can be read, else a parameter that names something ->
  resource: ``bucket:logs``, ``role:deploy``, ``instance:i-0abc``; else ``aws-service:s3``.
- ``accessKeyId`` (an identifier, no secret) -> session, ``requestID`` -> request.
- ``recipientAccountId`` -> tenant.

Everything else is kept under ``data`` as it came, with three exceptions, which are named
there under ``import``: *dropped* are credentials that CloudTrail left in the clear, *cut* is
what would not fit into an entry (with its size and SHA-256, to be found in the original), and
*replaced* are texts with NUL or lone surrogates, which no entry can carry (an attacker could
otherwise keep a record out by its user agent).
"""

from __future__ import annotations

import codecs
import json
import re
from hashlib import sha256
from ipaddress import ip_address
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from indelible.errors import CallerError, EventTooLarge, InvalidEvent
from indelible.event import (
    MAX_NESTING,
    Actor,
    Client,
    Event,
    Kind,
    Outcome,
    Resource,
    Service,
    Source,
)
from indelible.seal import seal
from indelible.sources import Found, Item, Rejected, derived_id
from indelible.sources.jsonl import parse_time
from indelible.sources.lines import (
    MAX_LINE,
    check_paths,
    chunks_of,
    decode_object,
    is_blank,
    split_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT = "cloudtrail"

_DOCUMENT = re.compile(r'\s*(?:(\{)\s*"Records"\s*:\s*)?\[')
_HEAD = 4_096
_MOST_TEXT = 1_000
_MOST_NOTES = 20

_DENIED = re.compile(
    r"AccessDenied|Unauthorized|NotAuthorized|Forbidden|AuthFailure|AuthorizationError"
)
_PERMISSIONS = re.compile(
    r"""
    iam\.( (Attach|Detach|Put|Delete)(User|Role|Group)Polic(y|ies)
         | (Put|Delete)(User|Role)PermissionsBoundary
         | (Create|Delete)Policy(Version)? | SetDefaultPolicyVersion
         | UpdateAssumeRolePolicy | (Create|Delete|Update)(User|Role|Group)
         | (AddUserTo|RemoveUserFrom)Group | (AddRoleTo|RemoveRoleFrom)InstanceProfile
         | (Create|Delete|Update)(AccessKey|LoginProfile)
         | (Create|Delete|Deactivate|Enable)(Virtual)?MFADevice )
    | s3\.(Put|Delete)(Bucket|Object|AccessPoint)?(Policy|Acl|PublicAccessBlock)
    | s3\.(Put|Delete)(Bucket|Account)PublicAccessBlock
    | kms\.(CreateGrant|RevokeGrant|RetireGrant|PutKeyPolicy)
    | (lambda|sns|sqs)\.(Add|Remove)Permission[0-9v_]*
    | secretsmanager\.(Put|Delete)ResourcePolicy
    | ec2\.Modify(Snapshot|Image)Attribute
    | rds\.ModifyDB(Cluster)?SnapshotAttribute
    | organizations\.(Attach|Detach)Policy
    | sso\.(Create|Delete)AccountAssignment
    """,
    re.VERBOSE,
)
_SIGN_IN = "signin"
_HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"

_SECRETS = frozenset(
    {
        "sessiontoken",
        "secretaccesskey",
        "password",
        "masteruserpassword",
        "newpassword",
        "oldpassword",
        "secretstring",
        "secretbinary",
        "privatekey",
        "plaintext",
        "clientsecret",
        "authtoken",
        "x-amz-security-token",
    }
)

# What stands elsewhere on the event, where it fits there.
_TAKEN = frozenset({"eventID", "eventTime", "eventSource", "eventName", "requestID"})

# Service, parameter in lower case, type of resource: the first of these that a record has
# names its resource.
_NAMING = (
    ("s3", "bucketname", "bucket"),
    ("ssm", "name", "parameter"),
    ("secretsmanager", "name", "secret"),
    ("cloudtrail", "name", "trail"),
    ("cloudtrail", "trailname", "trail"),
    ("ec2", "groupid", "security-group"),
    ("", "functionname", "function"),
    ("", "secretid", "secret"),
    ("", "keyid", "key"),
    ("", "rolename", "role"),
    ("", "rolearn", "role"),
    ("", "username", "user"),
    ("", "groupname", "group"),
    ("", "policyarn", "policy"),
    ("iam", "policyname", "policy"),
    ("", "instanceprofilename", "instance-profile"),
    ("", "instanceid", "instance"),
    ("", "instanceids", "instance"),
    ("", "dbinstanceidentifier", "db-instance"),
    ("", "dbsnapshotidentifier", "db-snapshot"),
    ("", "dbclusteridentifier", "db-cluster"),
    ("", "tablename", "table"),
    ("", "loggroupname", "log-group"),
    ("", "snapshotid", "snapshot"),
    ("", "volumeid", "volume"),
    ("", "imageid", "image"),
    ("", "networkinterfaceid", "network-interface"),
    ("", "natgatewayid", "nat-gateway"),
    ("", "routetableid", "route-table"),
    ("", "internetgatewayid", "internet-gateway"),
    ("", "subnetid", "subnet"),
    ("", "vpcid", "vpc"),
    ("", "allocationid", "elastic-ip"),
    ("", "arn", "arn"),
)
_NAMING_PARTS = (
    "requestParameters",
    "responseElements",
    "serviceEventDetails",
    "additionalEventData",
)
_ARN_WORDS = {"s3": "bucket", "sns": "topic", "sqs": "queue"}
_SECRET_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}\Z")
_UNSAFE = re.compile(r"[\0\ud800-\udfff]")


def read(paths: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[Item]:
    """
    Yield the records of *paths* as events, one file after the other.

    Raises:
        CallerError: A file is missing or cannot be read.
    """
    check_paths(paths)
    return (item for path in paths for item in _read_file(path, stdin))


def parse_record(record: dict[str, Any]) -> Event:
    """
    Return the event that a CloudTrail record tells of, ready to be sealed.

    Raises:
        InvalidEvent: A field that an event needs is missing or wrong.
    """
    notes: dict[str, list[Any]] = {}
    record = _clean(record, (), notes)
    event_id = _needed(record, "eventID")
    occurred_at = parse_time("eventTime", record.get("eventTime"))
    service = _needed(record, "eventSource").removesuffix(".amazonaws.com")
    name = _needed(record, "eventName")
    action = _dotted(f"{service}.{name}")
    actor = _actor(record)
    outcome, reason = _outcome(record)
    client, request = _client(record), _short(record.get("requestID"))
    event = Event(
        id=derived_id(FORMAT, event_id, occurred_at),
        kind=_kind(action, record),
        occurred_at=occurred_at,
        action=action,
        outcome=outcome,
        reason=None if reason is None else reason[:_MOST_TEXT],
        actor=actor,
        resource=_resource(service, record, actor),
        data=_data(record, action, client, reason),
        session=_short(_identity_of(record).get("accessKeyId")),
        request=request,
        client=client,
        service=Service(name=FORMAT),
        tenant=_short(record.get("recipientAccountId") or _identity_of(record).get("accountId")),
        source=Source(format=FORMAT, id=event_id),
    )
    return _fitting(event, notes)


def _read_file(path: str, stdin: BinaryIO | None) -> Iterator[Item]:
    number = 0
    try:
        for number, raw, error in _records(chunks_of(path, stdin)):
            yield _read_record(number, raw, error, path)
    except CallerError as error:
        yield Rejected(number + 1, str(error), b"", path)


def _read_record(number: int, raw: bytes, error: str | None, path: str) -> Item:
    try:
        if error is not None:
            return Rejected(number, error, raw, path)
        return Found(number, parse_record(decode_object(raw)), path)
    except InvalidEvent as invalid:
        return Rejected(number, str(invalid), raw, path)


def _records(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes, str | None]]:
    """Yield the bytes of each record with its number, or what is wrong with them."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    whole = chain((head,), chunks)
    if _DOCUMENT.match(head.decode("utf-8", "replace")):
        yield from _in_documents(whole)
        return
    for line in split_lines(whole):
        if not line.whole:
            error = (
                f"line: found over {MAX_LINE} bytes, expected at most that; raw is its beginning"
            )
            yield line.number, line.data, error
        elif not is_blank(line):
            yield line.number, line.data, None


def _in_documents(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes, str | None]]:
    text, number = _Text(chunks), 0
    while text.peek():
        opening = text.take(_DOCUMENT, _HEAD)
        whole = opening is not None
        more = whole and text.peek() != "]"
        while more:
            raw = text.take_object() if text.peek() == "{" else None
            if raw is None:
                whole = False
                break
            number += 1
            yield number, raw, None
            more = text.accept(",")
        closed = whole and text.accept("]")
        if not closed or (opening is not None and opening[1] and not text.accept("}")):
            error = "document: found no record here, the rest was not read; expected"
            yield number + 1, text.rest(), f'{error} {{"Records": [{{…}}, …]}}'
            return


class _Text:
    """The text of *chunks*, of which no more is held than one record and one chunk."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        # Bytes that are no UTF-8 become lone surrogates, so that only their own
        # record is rejected, with its exact bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no white space; none at the end."""
        while True:
            while self._at < len(self._text):
                if (character := self._text[self._at]) not in " \t\r\n":
                    return character
                self._at += 1
            if not self._fill():
                return ""

    def accept(self, character: str) -> bool:
        """Tell whether *character* is next, and go past it if so."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def take(self, pattern: re.Pattern[str], most: int) -> re.Match[str] | None:
        """Return what *pattern* matches here within *most* characters, and go past it."""
        while len(self._text) - self._at < most and self._fill():
            pass
        if (match := pattern.match(self._text, self._at)) is not None:
            self._at = match.end()
        return match

    def take_object(self) -> bytes | None:
        """Return the bytes of the JSON value that begins here, if it ends in time."""
        while True:
            try:
                _, end = _scan(self._text, self._at)
            except RecursionError:
                return None
            except ValueError:
                if len(self._text) - self._at > MAX_LINE or not self._fill():
                    return None
            else:
                raw = self._text[self._at : end].encode("utf-8", "surrogateescape")
                self._at = end
                return raw

    def rest(self) -> bytes:
        """Return what follows, at most `MAX_LINE` bytes of it."""
        while len(self._text) - self._at < MAX_LINE and self._fill():
            pass
        return self._text[self._at :].encode("utf-8", "surrogateescape")[:MAX_LINE]

    def _fill(self) -> bool:
        chunk = next(self._chunks, b"")
        more = self._decoder.decode(chunk, final=not chunk)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(chunk)


_scan = json.JSONDecoder().raw_decode


def _needed(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise InvalidEvent(field, value, "a text that is not empty")
    return value


def _short(value: object) -> str | None:
    """Return a text that fits a field of an event; `_data` keeps one that does not."""
    return value if isinstance(value, str) and 0 < len(value) <= _MOST_TEXT else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _identity_of(record: dict[str, Any]) -> dict[str, Any]:
    return _object(record.get("userIdentity"))


def _dotted(action: str) -> str:
    parts = (re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in action.split("."))
    return ".".join(part.lstrip("-") or "_" for part in parts)[:200].rstrip(".")


def _kind(action: str, record: dict[str, Any]) -> Kind | None:
    if action.startswith(f"{_SIGN_IN}.") or record.get("eventType") == "AwsConsoleSignIn":
        return "authentication"
    return "permission_change" if _PERMISSIONS.fullmatch(action) else None


def _outcome(record: dict[str, Any]) -> tuple[Outcome, str | None]:
    code, message = _text(record.get("errorCode")), _text(record.get("errorMessage"))
    reason = ": ".join(part for part in (code, message) if part) or None
    if code and _DENIED.search(code):
        return Outcome.DENIED, reason
    answer = _object(record.get("responseElements")).get(str(record.get("eventName")))
    if reason or answer == "Failure":
        return Outcome.FAILURE, reason
    return Outcome.SUCCESS, None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _actor(record: dict[str, Any]) -> Actor:  # noqa: PLR0911 - one line a type of identity
    identity = _identity_of(record)
    kind, invoker = identity.get("type"), _short(identity.get("invokedBy"))
    name = _short(identity.get("userName"))
    arn_name = _text(identity.get("arn")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    known = name or _short(arn_name) or _short(identity.get("principalId"))
    if name == _HIDDEN:
        # Whoever failed to sign in may have typed a password there.
        return Actor(type="unknown")
    if kind == "Root":
        return Actor(type="user", id="root", name=name)
    if kind == "AssumedRole":
        return _role_session(identity)
    if kind in ("AWSAccount", "Unknown"):
        account = _short(identity.get("accountId"))
        if account and account.lower().startswith("anonymous"):
            return Actor(type="anonymous")
        return Actor(type="unknown", id=account, name=_short(identity.get("principalId")))
    if kind == "IdentityCenterUser":
        known = _short(_object(identity.get("onBehalfOf")).get("userId")) or known
    if kind in ("AWSService", None):
        if invoker is None and known is None:
            return Actor(type="system")
        return Actor(type="service", id=invoker or known)
    return Actor(type="unknown" if known is None else "user", id=known)


def _role_session(identity: dict[str, Any]) -> Actor:
    session = _object(identity.get("sessionContext"))
    tail = _text(identity.get("arn")).split("/")  # …:assumed-role/ROLE/SESSION
    in_arn = tail[1:] if len(tail) == 3 else ["", ""]  # noqa: PLR2004
    role = _short(_object(session.get("sessionIssuer")).get("userName")) or _short(in_arn[0])
    name = _short(in_arn[1])
    vouched = _short(session.get("sourceIdentity"))
    if vouched is None and role is not None and role.startswith("AWSReservedSSO_"):
        vouched = name
    if vouched is not None:
        return Actor(type="user", id=vouched, roles=() if role is None else (role,))
    if role is None:
        return Actor(type="unknown", id=_short(identity.get("principalId")), name=name)
    return Actor(type="service", id=role, name=name, roles=(role,))


def _resource(service: str, record: dict[str, Any], actor: Actor) -> Resource:
    if service == _SIGN_IN and actor.id is not None:
        return Resource(type=actor.type, id=actor.id)
    resources = record.get("resources")
    for item in resources if isinstance(resources, list) else ():
        if (found := _from_arn(_text(_object(item).get("ARN")))) is not None:
            return found
    for where in _NAMING_PARTS:
        if (found := _from_parameters(service, _object(record.get(where)))) is not None:
            return found
    return Resource(type="aws-service", id=service[:_MOST_TEXT])


def _from_parameters(service: str, parameters: dict[str, Any]) -> Resource | None:
    inner = [value for value in parameters.values() if isinstance(value, dict)]
    items = [value.get("items") for value in inner]
    firsts = [_object(item[0]) for item in items if isinstance(item, list) and item]
    for level in ([parameters], inner, firsts):
        named = {
            key.lower(): value for candidate in reversed(level) for key, value in candidate.items()
        }
        for only, parameter, word in _NAMING:
            value = named.get(parameter) if only in ("", service) else None
            if text := _short(value[0] if isinstance(value, list) and value else value):
                return _from_arn(text) or Resource(type=word, id=text)
    return None


def _from_arn(arn: str) -> Resource | None:
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn" or not parts[5]:  # noqa: PLR2004
        return None
    service, rest = parts[2], parts[5]
    if service == "s3":
        word, name = "bucket", rest.split("/", 1)[0]
    elif service in _ARN_WORDS:
        word, name = _ARN_WORDS[service], rest
    else:
        split = re.match(r"([A-Za-z0-9_][A-Za-z0-9_-]{0,99})[:/](.+)", rest, re.DOTALL)
        if split is None:
            return None
        word, name = split.groups()
    if service == "iam":
        name = name.rsplit("/", 1)[-1]  # names are unique whatever their path
    if service == "secretsmanager":
        name = _SECRET_SUFFIX.sub("", name)  # as in the calls that use the name alone
    return Resource(type=word, id=name) if 0 < len(name) <= _MOST_TEXT else None


def _client(record: dict[str, Any]) -> Client | None:
    address, agent = record.get("sourceIPAddress"), _short(record.get("userAgent"))
    ip = address if isinstance(address, str) and _is_address(address) else None
    return None if ip is None and agent is None else Client(ip=ip, user_agent=agent)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _data(
    record: dict[str, Any], action: str, client: Client | None, reason: str | None
) -> dict[str, Any]:
    """Return what of *record* stands nowhere else on the event."""
    taken = set(_TAKEN)
    if not action.endswith(f".{record['eventName']}"):
        taken.remove("eventName")
    if _short(record.get("requestID")) is None:
        taken.remove("requestID")
    if reason is None or len(reason) <= _MOST_TEXT:
        taken |= {"errorCode", "errorMessage"}
    if client is not None and client.ip is not None:
        taken.add("sourceIPAddress")
    if client is not None and client.user_agent is not None:
        taken.add("userAgent")
    data = {key: value for key, value in record.items() if key not in taken and value is not None}
    if identity := _identity_of(record):
        session = _short(identity.get("accessKeyId"))
        data["userIdentity"] = {
            key: value
            for key, value in identity.items()
            if key != "accessKeyId" or (value and session is None)
        }
    return data


def _clean(value: Any, path: tuple[str, ...], notes: dict[str, list[Any]]) -> Any:  # noqa: ANN401
    """Return *value* without credentials and without what no text may hold."""
    if len(path) > MAX_NESTING:
        raise InvalidEvent(
            ".".join(path[:4]), None, f"nesting of at most {MAX_NESTING}", said="a deeper value"
        )
    if isinstance(value, str):
        if _UNSAFE.search(value):
            _note(notes, "replaced", path)
            return _UNSAFE.sub("\ufffd", value)
        return value
    if isinstance(value, list):
        return [_clean(item, (*path, str(n)), notes) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    cleaned: dict[str, Any] = {}
    for key, item in value.items():
        if _is_secret(key, item):
            _note(notes, "dropped", (*path, key))
        else:
            cleaned[_clean(key, (*path, key), notes)] = _clean(item, (*path, key), notes)
    return cleaned


def _note(notes: dict[str, list[Any]], kind: str, path: tuple[str, ...]) -> None:
    """Name *path* among the *notes*, which stay short however much there is to note."""
    named = notes.setdefault(kind, [])
    if len(named) < _MOST_NOTES:
        named.append(_UNSAFE.sub("\ufffd", ".".join(path))[:100])
    elif len(named) == _MOST_NOTES:
        named.append("…")


def _is_secret(key: str, value: object) -> bool:
    return (
        key.lower() in _SECRETS
        and isinstance(value, str)
        and value not in ("", _HIDDEN)
        and value.strip("*") != ""
    )


def _fitting(event: Event, notes: dict[str, list[Any]]) -> Event:
    """Return *event* with its *notes*, its largest facts cut until it can be sealed."""
    data = dict(event.data)
    while True:
        if notes:
            data["import"] = notes
        event = msgspec.structs.replace(event, data=data)
        try:
            seal(event)
        except EventTooLarge:
            sizes = {key: len(msgspec.json.encode(data[key])) for key in data if key != "import"}
            if not sizes:
                raise
            largest = max(sizes, key=lambda key: sizes[key])
            content = msgspec.json.encode(data.pop(largest))
            cut = {"field": largest, "bytes": len(content), "sha256": sha256(content).hexdigest()}
            notes.setdefault("cut", []).append(cut)
        else:
            return event
