from __future__ import annotations

import gzip
import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.errors import InvalidEvent
from indelible.event import Actor, Client, Event, Outcome, Resource, Source
from indelible.seal import MAX_SEALED, seal
from indelible.sources import Found, Item, Rejected, derived_id, open_source
from indelible.sources.cloudtrail import parse_record
from indelible.sources.lines import MAX_LINE

REAL = Path(__file__).parents[3] / "shared/data/cloudtrail.jsonl"

LEAST: dict[str, Any] = {
    "eventVersion": "1.08",
    "userIdentity": {
        "type": "IAMUser",
        "principalId": "AIDAEXAMPLE",
        "arn": "arn:aws:iam::111122223333:user/alice",
        "accountId": "111122223333",
        "accessKeyId": "AKIAEXAMPLE",
        "userName": "alice",
    },
    "eventTime": "2026-11-24T03:33:46Z",
    "eventSource": "s3.amazonaws.com",
    "eventName": "PutBucketPolicy",
    "awsRegion": "eu-central-1",
    "sourceIPAddress": "203.0.113.9",
    "userAgent": "aws-cli/2.15",
    "requestParameters": {"bucketName": "logs", "Host": "logs.s3.amazonaws.com"},
    "responseElements": None,
    "requestID": "REQ1",
    "eventID": "293ba626-3be5-4a26-ab1b-0f4c54f49959",
    "readOnly": False,
    "eventType": "AwsApiCall",
    "recipientAccountId": "111122223333",
}


def event_of(**fields: object) -> Event:
    """Return the event of the example record with *fields*."""
    return parse_record(LEAST | fields)


def read(data: bytes) -> list[Item]:
    """Read *data* as if it came from standard input."""
    return list(open_source("cloudtrail", ["-"], stdin=io.BytesIO(data)))


def records(count: int) -> list[dict[str, Any]]:
    """Return *count* records that differ in their id."""
    return [LEAST | {"eventID": f"id-{n}"} for n in range(count)]


def test_a_record_says_who_did_what_to_what_from_where() -> None:
    """Actor, action, resource, address, session, request and account are found again."""
    event = event_of()

    assert "2026-11-24T03:33:46+00:00" == event.occurred_at.isoformat()
    assert Actor(type="user", id="alice") == event.actor
    assert "s3.PutBucketPolicy" == event.action
    assert Resource(type="bucket", id="logs") == event.resource
    assert "success" == event.outcome
    assert "permission_change" == event.kind
    assert Client(ip="203.0.113.9", user_agent="aws-cli/2.15") == event.client
    assert "AKIAEXAMPLE" == event.session
    assert "REQ1" == event.request
    assert "111122223333" == event.tenant


def test_the_event_id_follows_from_the_records_id() -> None:
    """The same record, delivered twice, is the same event."""
    event = event_of()

    assert Source(format="cloudtrail", id=LEAST["eventID"]) == event.source
    assert derived_id("cloudtrail", LEAST["eventID"], event.occurred_at) == event.id


def test_what_has_no_field_of_its_own_is_kept_as_data() -> None:
    """Everything else that AWS recorded can be read in the trail."""
    event = event_of(additionalEventData={"MFAUsed": "Yes"}, futureField=[1])

    assert {"bucketName": "logs", "Host": "logs.s3.amazonaws.com"} == event.data[
        "requestParameters"
    ]
    assert {"MFAUsed": "Yes"} == event.data["additionalEventData"]
    assert [1] == event.data["futureField"]
    assert "eu-central-1" == event.data["awsRegion"]
    assert event.data["readOnly"] is False
    assert "AIDAEXAMPLE" == event.data["userIdentity"]["principalId"]
    assert "import" not in event.data


ROLE = {
    "type": "AssumedRole",
    "principalId": "AROAEXAMPLE:alice@example.com",
    "arn": "arn:aws:sts::111122223333:assumed-role/deploy/alice@example.com",
    "accessKeyId": "ASIAEXAMPLE",
    "sessionContext": {"sessionIssuer": {"type": "Role", "userName": "deploy"}},
}


@pytest.mark.parametrize(
    ("identity", "actor"),
    [
        ({"type": "IAMUser", "userName": "bob"}, Actor(type="user", id="bob")),
        ({"type": "IAMUser", "arn": "arn:aws:iam::1:user/eu/bob"}, Actor(type="user", id="bob")),
        ({"type": "Root", "userName": "shop"}, Actor(type="user", id="root", name="shop")),
        (ROLE, Actor(type="service", id="deploy", name="alice@example.com", roles=("deploy",))),
        (
            ROLE | {"sessionContext": {"sourceIdentity": "alice"}},
            Actor(type="user", id="alice", roles=("deploy",)),
        ),
        (
            ROLE
            | {
                "arn": "arn:aws:sts::1:assumed-role/AWSReservedSSO_Admin_1/alice",
                "sessionContext": {},
            },
            Actor(type="user", id="alice", roles=("AWSReservedSSO_Admin_1",)),
        ),
        (
            {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"},
            Actor(type="service", id="ec2.amazonaws.com"),
        ),
        ({"invokedBy": "ec2.amazonaws.com"}, Actor(type="service", id="ec2.amazonaws.com")),
        ({"type": "SAMLUser", "userName": "alice@idp"}, Actor(type="user", id="alice@idp")),
        (
            {"type": "IdentityCenterUser", "onBehalfOf": {"userId": "u-1"}},
            Actor(type="user", id="u-1"),
        ),
        (
            {"type": "AWSAccount", "accountId": "444455556666", "principalId": "AIDAX"},
            Actor(type="unknown", id="444455556666", name="AIDAX"),
        ),
        ({"type": "AWSAccount", "accountId": "ANONYMOUS_PRINCIPAL"}, Actor(type="anonymous")),
        (
            {"type": "IAMUser", "userName": "HIDDEN_DUE_TO_SECURITY_REASONS"},
            Actor(type="unknown"),
        ),
        ({"type": "AssumedRole", "principalId": "AROAX"}, Actor(type="unknown", id="AROAX")),
        ({}, Actor(type="system")),
        (None, Actor(type="system")),
        ({"type": ["odd"], "userName": 7}, Actor(type="unknown")),
    ],
)
def test_the_actor_is_no_more_than_what_aws_vouches_for(identity: object, actor: Actor) -> None:
    """A name that the caller chose is never taken for a user's identity."""
    assert actor == event_of(userIdentity=identity).actor


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("AccessDenied", "denied"),
        ("AccessDeniedException", "denied"),
        ("Client.UnauthorizedOperation", "denied"),
        ("KMS.AccessDeniedException", "denied"),
        ("NoSuchBucketPolicy", "failure"),
        ("ThrottlingException", "failure"),
    ],
)
def test_a_refusal_is_told_from_a_failure(code: str, outcome: str) -> None:
    """What AWS refused for want of permission is denied, any other error is a failure."""
    event = event_of(errorCode=code, errorMessage="no")

    assert outcome == event.outcome
    assert f"{code}: no" == event.reason
    assert "errorCode" not in event.data


def test_a_long_error_message_is_kept_whole() -> None:
    """A message that is too long for a reason can be read under data, to its end."""
    event = event_of(errorCode="AccessDenied", errorMessage="x" * 2_000)

    assert event.reason is not None
    assert 1_000 == len(event.reason)
    assert "x" * 2_000 == event.data["errorMessage"]


@pytest.mark.parametrize(("answer", "outcome"), [("Success", "success"), ("Failure", "failure")])
def test_a_sign_in_is_an_authentication_of_the_account_that_was_tried(
    answer: str, outcome: str
) -> None:
    """A sign-in to the console says for which user, and whether it succeeded."""
    event = event_of(
        eventSource="signin.amazonaws.com",
        eventName="ConsoleLogin",
        eventType="AwsConsoleSignIn",
        requestParameters=None,
        responseElements={"ConsoleLogin": answer},
    )

    assert "authentication" == event.kind
    assert "signin.ConsoleLogin" == event.action
    assert outcome == event.outcome
    assert Resource(type="user", id="alice") == event.resource


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ("iam", "AttachRolePolicy", "permission_change"),
        ("iam", "PutUserPolicy", "permission_change"),
        ("iam", "CreateAccessKey", "permission_change"),
        ("iam", "AddUserToGroup", "permission_change"),
        ("lambda", "AddPermission20150331v2", "permission_change"),
        ("ec2", "ModifySnapshotAttribute", "permission_change"),
        ("iam", "GetUser", None),
        ("iam", "ListAttachedRolePolicies", None),
        ("ec2", "RunInstances", None),
    ],
)
def test_grants_of_permission_are_told_from_other_calls(
    source: str, name: str, kind: str | None
) -> None:
    """Calls that change who may do what are permission changes, reading them is none."""
    assert kind == event_of(eventSource=f"{source}.amazonaws.com", eventName=name).kind


@pytest.mark.parametrize(
    ("source", "fields", "resource"),
    [
        ("s3", {"requestParameters": {"bucketName": "b", "key": "a/b.txt"}}, "bucket:b"),
        ("iam", {"requestParameters": {"roleName": "deploy", "policyArn": "arn:x"}}, "role:deploy"),
        ("iam", {"requestParameters": {"userName": "bob"}}, "user:bob"),
        ("iam", {"requestParameters": {"policyName": "p"}}, "policy:p"),
        ("iam", {"requestParameters": {"policyArn": "arn:aws:iam::aws:policy/x/P"}}, "policy:P"),
        ("ec2", {"requestParameters": {"instanceId": "i-1", "volumeId": "v-1"}}, "instance:i-1"),
        (
            "ec2",
            {"requestParameters": {"instancesSet": {"items": [{"instanceId": "i-2"}]}}},
            "instance:i-2",
        ),
        (
            "ec2",
            {"requestParameters": {}, "responseElements": {"vpc": {"vpcId": "vpc-1"}}},
            "vpc:vpc-1",
        ),
        ("ec2", {"requestParameters": {"groupId": "sg-1"}}, "security-group:sg-1"),
        ("ssm", {"requestParameters": {"name": "/db/url"}}, "parameter:/db/url"),
        ("ssm", {"requestParameters": {"instanceIds": ["i-3", "i-4"]}}, "instance:i-3"),
        (
            "secretsmanager",
            {"requestParameters": {"secretId": "arn:aws:secretsmanager:x:1:secret:db-AbC123"}},
            "secret:db",
        ),
        (
            "kms",
            {"resources": [{"accountId": "1"}, {"ARN": "arn:aws:kms:eu:1:key/k-1"}]},
            "key:k-1",
        ),
        ("sqs", {"resources": [{"ARN": "arn:aws:sqs:eu:1:orders"}]}, "queue:orders"),
        ("s3", {"resources": [{"ARN": "arn:aws:s3:::b/a/key"}]}, "bucket:b"),
        ("s3", {"requestParameters": None}, "aws-service:s3"),
        ("s3", {"requestParameters": {"bucketName": ["", {}]}, "resources": 7}, "aws-service:s3"),
    ],
)
def test_the_resource_is_what_the_call_names(
    source: str, fields: dict[str, object], resource: str
) -> None:
    """All calls about one bucket, role, user or machine stand under one resource."""
    assert resource == str(event_of(eventSource=f"{source}.amazonaws.com", **fields).resource)


def test_an_address_that_is_none_is_kept_as_data() -> None:
    """The name of an AWS service is never taken for an address."""
    event = event_of(sourceIPAddress="ec2.amazonaws.com", userAgent="")

    assert event.client is None
    assert "ec2.amazonaws.com" == event.data["sourceIPAddress"]


def test_an_event_name_that_is_no_action_is_kept_beside_the_action() -> None:
    """A name with spaces becomes an action, and can be read as AWS wrote it."""
    event = event_of(eventName="Sign-in Failure (new)")

    assert "s3.Sign-in_Failure__new_" == event.action
    assert "Sign-in Failure (new)" == event.data["eventName"]


def test_credentials_in_a_record_do_not_get_into_the_trail() -> None:
    """A session token that CloudTrail left in the clear is left out, and the event says so."""
    credentials = {"accessKeyId": "ASIA2", "sessionToken": "FwoG-secret", "expiration": "soon"}

    event = event_of(responseElements={"credentials": credentials})

    assert b"FwoG-secret" not in seal(event).event
    assert {"accessKeyId": "ASIA2", "expiration": "soon"} == event.data["responseElements"][
        "credentials"
    ]
    assert {"dropped": ["responseElements.credentials.sessionToken"]} == event.data["import"]


def test_a_record_too_large_for_an_entry_is_cut_and_says_what_is_missing() -> None:
    """What does not fit is named with its size and hash, to be found in the original."""
    large = {"items": ["y" * 100] * 1_000}
    content = json.dumps(large, separators=(",", ":")).encode()

    event = event_of(responseElements=large)

    assert MAX_SEALED >= len(seal(event).event)
    assert "responseElements" not in event.data
    assert LEAST["requestParameters"] == event.data["requestParameters"]
    assert {
        "cut": [
            {
                "field": "responseElements",
                "bytes": len(content),
                "sha256": sha256(content).hexdigest(),
            }
        ]
    } == event.data["import"]


def test_nobody_keeps_a_record_out_by_characters_that_no_entry_may_hold() -> None:
    """A NUL or a lone surrogate in a user agent is replaced and named; the record goes in."""
    record = json.dumps(LEAST | {"userAgent": "evil\0\ud800"}).encode()

    [item] = read(record)

    assert isinstance(item, Found)
    assert item.event.client is not None
    assert "evil\ufffd\ufffd" == item.event.client.user_agent
    assert {"replaced": ["userAgent"]} == item.event.data["import"]


def test_nobody_keeps_a_record_out_by_many_such_characters() -> None:
    """However many texts had to be replaced, naming them leaves the record small enough."""
    event = event_of(tags=[{f"key{n}": "\0"} for n in range(10_000)])

    assert MAX_SEALED >= len(seal(event).event)
    assert 20 + 1 == len(event.data["import"]["replaced"])
    assert "tags" == event.data["import"]["cut"][0]["field"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"eventID": None}, "eventID: found None, expected a text that is not empty"),
        ({"eventName": {}}, "eventName: found {}, expected a text that is not empty"),
        ({"eventSource": ""}, "eventSource: found '', expected a text that is not empty"),
        ({"eventTime": "2026-11-24 03:33:46"}, "eventTime: found '2026-11-24 03:33:46', expected"),
        ({"big": 2**70}, "data.big: found an integer of 71 bits, expected an integer of at most"),
        ({"deep": json.loads("[" * 300 + "]" * 300)}, "expected nesting of at most 64"),
    ],
)
def test_a_record_that_is_none_is_rejected_with_what_was_expected(
    fields: dict[str, object], error: str
) -> None:
    """A record without an id, a time or a name stays out, and the message says what is missing."""
    data = json.dumps(LEAST | fields).encode()

    [item] = read(data)

    assert isinstance(item, Rejected)
    assert error in item.error
    assert data == item.raw


@pytest.mark.parametrize(
    "data",
    [
        "\n".join(map(json.dumps, records(3))).encode(),
        json.dumps({"Records": records(3)}).encode(),
        json.dumps({"Records": records(3)}, indent=2).encode() + b"\n",
        json.dumps(records(3)).encode(),
        b"\xef\xbb\xbf" + json.dumps({"Records": records(3)}).encode(),
        b'{"Records":[]}'
        + b"".join(b'{"Records":[%b]}' % json.dumps(r).encode() for r in records(3)),
        gzip.compress(json.dumps({"Records": records(3)}).encode()),
        gzip.compress("\n".join(map(json.dumps, records(3))).encode()),
    ],
    ids=["lines", "document", "indented", "array", "bom", "documents", "gzip", "gzip-lines"],
)
def test_every_form_in_which_records_come_gives_the_same_events(data: bytes) -> None:
    """Lines, documents, arrays and compressed files of the same records are the same import."""
    items = read(data)

    assert [parse_record(record) for record in records(3)] == [
        item.event for item in items if isinstance(item, Found)
    ]
    assert 3 == len(items)


def test_a_long_document_is_read_to_its_end() -> None:
    """A delivered file has no size beyond which records would be missed."""
    items = read(json.dumps({"Records": records(2_000)}).encode())

    assert list(range(1, 2_001)) == [item.line for item in items]
    assert {Found} == {type(item) for item in items}


def test_a_bad_record_in_a_document_does_not_touch_its_neighbours() -> None:
    """Records before and after one that cannot be read go in."""
    good = json.dumps(LEAST).encode()

    first, second, third = read(b'{"Records":[%b,{"a":"\xff"},%b]}' % (good, good))

    assert isinstance(first, Found)
    assert isinstance(second, Rejected)
    assert b'{"a":"\xff"}' == second.raw
    assert isinstance(third, Found)


@pytest.mark.parametrize(
    "tail",
    [
        b',{"eventID":',
        b"",
        b",7]}",
        b'{"a":1}]}',
        b"}",
        b"]",
        b"]} nonsense",
        b',{"a":' + b"[" * MAX_LINE,
    ],
)
def test_a_document_that_breaks_off_is_reported(tail: bytes) -> None:
    """A document that ends too early, or is none further on, is never taken for complete."""
    first, *_, last = read(b'{"Records":[%b' % json.dumps(LEAST).encode() + tail)

    assert isinstance(first, Found)
    assert isinstance(last, Rejected)


def test_what_cannot_be_unpacked_or_is_too_long_is_reported() -> None:
    """A damaged file, or a line without an end, is never passed over in silence."""
    good = json.dumps(LEAST).encode()

    [damaged] = read(gzip.compress(good)[:-9])
    long, after = read(b"{" * (MAX_LINE + 1) + b"\n" + good)

    assert isinstance(damaged, Rejected)
    assert "gzip: ends in the middle, the rest is missing" == damaged.error
    assert isinstance(long, Rejected)
    assert MAX_LINE == len(long.raw)
    assert isinstance(after, Found)


def test_an_empty_input_holds_no_records() -> None:
    """A document without records, or an empty file, is no error."""
    assert [] == read(b"")
    assert [] == read(b'{"Records":[]}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "arn", "ARN", "items", "userName", "password", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([*LEAST, "resources", "errorCode", "additionalEventData"]), JSON)
def test_nothing_in_a_record_ends_an_import(field: str, value: object) -> None:
    """Whatever a record holds, it is an event that can be kept or it is rejected."""
    try:
        event = event_of(**{field: value})
    except InvalidEvent:
        return

    assert event.id == seal(event).id


@pytest.mark.skipif(not REAL.exists(), reason="real records lie beside the project, not in it")
def test_a_real_day_of_an_account_goes_in_whole() -> None:
    """2,900 real records become as many events, and what AWS refused or failed is told apart."""
    items = list(open_source("cloudtrail", [REAL]))

    events = [item.event for item in items if isinstance(item, Found)]
    outcomes = [event.outcome for event in events]
    assert [] == [item for item in items if isinstance(item, Rejected)]
    assert 2_900 == len({event.id for event in events})
    assert (2_600, 60, 240) == tuple(
        outcomes.count(Outcome(name)) for name in ("success", "denied", "failure")
    )
    assert not any(b'sessionToken":' in seal(event).event for event in events)
    assert events == [
        item.event for item in open_source("cloudtrail", [REAL]) if isinstance(item, Found)
    ]
