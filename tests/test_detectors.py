"""The net for secrets: what it catches, what passes, and that it never tells a secret."""

from __future__ import annotations

import json
import random
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from enum import StrEnum
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest

from indelible.detectors import KINDS, MAX_DEPTH, Finding, find, findings

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL_EVENTS = Path(__file__).parents[2] / "shared" / "data"


def jwt(header: str, signature: str = "c2lnbmF0dXJl") -> str:
    """Return a token with this header."""
    first = urlsafe_b64encode(header.encode()).decode().rstrip("=")
    return f"{first}.eyJzdWIiOiJhbGljZSJ9.{signature}"


# Put together here, or a scanner of this repository would find them.
GITHUB = "gh" + "p_" + "a1" * 18
AWS = "AK" + "IA" + "ABCDEFGH12345678"
STRIPE = "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc"
PEM = "-----BEGIN " + "PRIVATE KEY-----"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of an event whose field is called otherwise in JSON."""

    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET
    class_: str | None = msgspec.field(default=None, name="class")


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "/changes/password",
        "/data/db.password",
        "newPassword",
        "user_passwd",
        "DB_PASSWORD",
        "password2",
        "password_hash",
        "client-secret",
        "token",
        "accessToken",
        "refresh_token",
        "api_key",
        "apiKey",
        "APIKey",
        "X-Api-Key",
        "apikey",
        "Authorization",
        "Proxy-Authorization",
        "Set-Cookie",
        "private_key",
        "privateKey",
        "aws_secret_access_key",
        "accessKey",
        "pin",
        "cardPin",
        "cvv",
        "CVV2",
        "otp",
        "totp_code",
        "passphrase",
        "a/b/secret",
        "x" * 100_000 + "_secret",
    ],
)
def test_the_name_of_a_secret_is_enough(name: str) -> None:
    """A password is found whatever it looks like, if it is called one."""
    assert "key name" == find(name, "alice")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "name",
        "/changes/email",
        "/password/name",
        "bypass",
        "secretary",
        "tokenize",
        "opinion",
        "spinner",
        "pinned",
        "keyboard",
        "key",
        "primary_key",
        "author",
        "authorized",
        "cookiecutter",
        "password_length",
        "passwordPolicy",
        "MinimumPasswordLength",
        "password_changed_at",
        "token_type",
        "tokenCount",
        "secretArn",
        "secret_id",
        "accessKeyId",
        "cookie-expires",
        "пароль",
    ],
)
def test_what_only_sounds_like_a_secret_passes(name: str) -> None:
    """A name counts by whole words, and what is known about a secret is none."""
    assert None is find(name, "alice")


@pytest.mark.parametrize("value", ["", "****", "true", "False", None, True, False, [], {}, 1.5])
def test_a_name_without_a_value_is_no_secret(value: object) -> None:
    """That there is a password, or none, may be known."""
    assert None is find("password", value)


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        ("pin", 4711, "key name"),
        ("cvv2", 123, "key name"),
        ("otp_code", 123456, "key name"),
        ("password", 12345678, "key name"),
        ("token", 7, None),
        ("pin_attempts", 3, None),
        ("passwordExpiryDays", 180, None),
        ("PasswordReusePrevention", 24, None),
        ("pin", 0, None),
    ],
)
def test_a_number_is_a_secret_where_secrets_are_numbers(
    name: str, number: int, kind: str | None
) -> None:
    """A PIN is found; how many tokens there are is not."""
    assert kind == find(name, number)


@pytest.mark.parametrize(
    "number",
    [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4222222222222",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "3056 930902 5904",
        "3530111333300000",
        "6200000000000005",
        "6212341111111111116",
        "6759649826438453",
    ],
)
@pytest.mark.parametrize("around", ["{}", "card: {}.", "{}, exp 12/28", "({})", "{} 12/28"])
def test_a_card_number_is_found(number: str, around: str) -> None:
    """Numbers of the large issuers are found, in one piece or in groups, within a text or alone."""
    assert "card number" == find("comment", around.format(number))


def test_a_card_number_is_found_as_a_number() -> None:
    """Also where it was never a text."""
    assert "card number" == find("n", 4111111111111111)
    assert None is find("n", 4111111111111112)


@pytest.mark.parametrize(
    "iban",
    [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
        "GB82 WEST 1234 5698 7654 32",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "BE68 5390 0754 7034",
        "MT84MALT011000012345MTLCAST001S",
    ],
)
@pytest.mark.parametrize("around", ["{}", "to {} (rent)", "{} EUR 100", "IBAN {}, alice"])
def test_an_account_number_is_found(iban: str, around: str) -> None:
    """An IBAN is found, in one piece or in groups of four, within a text or alone."""
    assert "IBAN" == find("comment", around.format(iban))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("JWT", jwt('{"alg":"RS256","typ":"JWT"}')),
        ("JWT", "token=" + jwt('{ "alg": "none" }', "") + "&x=1"),
        ("JWT", "Bearer " + jwt('{"typ":"JWT","alg":"HS256"}')),
        ("private key", f"{PEM}\nMIIE"),
        ("private key", PEM.replace("PRIVATE", "RSA PRIVATE")),
        ("private key", PEM.replace("PRIVATE", "OPENSSH PRIVATE")),
        ("private key", PEM.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        ("private key", PEM.replace("PRIVATE KEY", "PGP PRIVATE KEY BLOCK")),
        ("private key", "PRIVATE+KEY" + "+log.example.com+175a851d+AQAB"),
        ("private key", "AGE-SECRET-" + "KEY-1" + "Q" * 58),
        ("bearer token", "Authorization: Bearer 0123456789abcdef.ghijkl"),
        ("bearer token", "bearer mF_9.B5f-4.1JqM2zt"),
        ("bearer token", "Basic " + b64encode(b"alice:hunter2").decode()),
        ("bearer token", "curl -u basic " + b64encode(b"alice:pa").decode()),
        ("bearer token", GITHUB),
        ("bearer token", GITHUB.replace("p_", "s_")),
        ("bearer token", f"https://{GITHUB}@example.com/x.git"),
        ("bearer token", "github_" + "pat_" + "11ABCDEFG0123456789abcdef"),
        ("bearer token", "glp" + "at-0123456789abcdefghij"),
        ("bearer token", "xo" + "xb-123456789012-abcdef"),
        ("bearer token", f"id {AWS}, secret elsewhere"),
        ("bearer token", "AI" + "za" + "b1" * 17 + "c"),
        ("bearer token", f"key={STRIPE}"),
        ("bearer token", "np" + "m_" + "a1" * 18),
    ],
)
def test_a_secret_is_found_by_its_shape(kind: str, text: str) -> None:
    """Keys and tokens that look like nothing else are found whatever they are called."""
    assert kind == find("comment", text)
    assert kind == find("comment", f"{text}\n{'and more ' * 20}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "INV-2026-0000123456",
        "2026-11-24T03:33:46.215304Z",
        "2026-11-24 03:33:46 2026-11-25",
        "1764000000000",
        "1764000000000000",
        "1764000000000000000",
        "+49 151 12345678",
        "+4915112345678",
        "+4111111111111111",
        "0049 151 1234 5678",
        "978-3-16-148410-0",
        "9783161484100",
        "4111111111111112",
        "411111111111111",
        "41111111111111111111",
        "0.4111111111111111",
        "4111111111111111.5",
        "x4111111111111111",
        "4111111111111111e",
        "4111 1111-1111 1111",
        "DE88370400440532013000",
        "DE8937040044053201300",
        "DE893704004405320130001",
        "ZZ89370400440532013000",
        "de89370400440532013000",
        "3ebc2ad94f5a1c0d7b8e6f2031425364758697a8",
        "sha256:385da30f3917282c8939dff851957e519ab1846b1351a14c0adb3b11632742aa",
        "eyJub3QiOiJhIHRva2VuIn0",
        jwt('{"typ":"no algorithm"}'),
        jwt('["alg"]'),
        jwt('{"alg":"none"'),
        "key.example.com",
        "hey.there.alice",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "the PRIVATE KEY is kept elsewhere",
        "a bearer of good news from 2026",
        "Bearer authentication-required",
        "Bearer 123",
        "basic information",
        "Basic authentication",
        "Basic " + b64encode(b"no colon").decode(),
        "Basic " + b64encode(b"\xff:\xff!").decode(),
        "though_the_night",
        "gh" + "p_short",
        "AKIA",
        f"{AWS}X",
        "xoxo from alice",
        "npm_config_registry",
        "sk_live_",
        "SECRET-KEY",
        "arn:aws:iam::123456789012:user/alice",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    ],
)
def test_what_is_no_secret_passes(text: str) -> None:
    """Ids, times, phone numbers, hashes and plain words are recorded as they are."""
    assert None is find("comment", text)
    assert None is find("comment", f"{text} {'and more ' * 20}")


def test_ids_made_by_machines_never_look_like_secrets() -> None:
    """Of 10,000 UUIDs and as many Git hashes none is held back."""
    numbers = random.Random(1)

    caught = [
        text
        for _ in range(10_000)
        for text in (
            str(UUID(int=numbers.getrandbits(128), version=4)),
            sha1(numbers.randbytes(8), usedforsecurity=False).hexdigest(),
        )
        if find("id", text)
    ]

    assert [] == caught


def test_random_numbers_rarely_look_like_secrets() -> None:
    """Of numbers as long as a card's, fewer than three in a hundred are held back."""
    numbers = random.Random(2)
    made = [numbers.randrange(10**12, 10**19) for _ in range(20_000)]

    caught = sum(find("id", str(number)) is not None for number in made)

    assert 0 < caught < len(made) * 0.03


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"user": "alice", "password": "hunter2"}, "key name"),
        ({"a": [{"b": ({"otp": 123456},)}]}, "key name"),
        (["x", f"{PEM}\n"], "private key"),
        (("x", 4111111111111111), "card number"),
        (Part(old="DE89370400440532013000"), "IBAN"),
        ({1: "x", "b": [None, 1.5, True, "y"]}, None),
    ],
)
def test_what_is_nested_is_looked_into(value: object, kind: str | None) -> None:
    """Lists, objects and their keys are looked at like fields of their own."""
    assert kind == find("comment", value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Part(old="hunter1", new="hunter2"), "key name"),
        ({"value": "hunter2"}, "key name"),
        (["hunter2"], "key name"),
        ({"jti": "7", "scopes": ["read"]}, None),
        (Part(), None),
    ],
)
def test_the_parts_of_a_secret_are_secret(value: object, kind: str | None) -> None:
    """Old and new password are both one; what else is known of it is judged by its own name."""
    assert kind == find("password", value)


def test_a_kind_of_text_is_text() -> None:
    """What is a text to Python is looked at like one."""

    class Mode(StrEnum):
        KEY = GITHUB

    assert "bearer token" == find("mode", Mode.KEY)
    assert "key name" == find("token", Mode.KEY)


def test_nesting_has_an_end() -> None:
    """What is nested deeper than any event may be is not followed, and does no harm."""
    nested: object = "hunter2"
    for _ in range(MAX_DEPTH - 1):
        nested = {"password": nested}
    deeper: list[object] = []
    for _ in range(100_000):
        deeper = [deeper]

    assert "key name" == find("data", nested) == find("data", {"a": nested})
    assert None is find("data", {"a": {"b": nested}})
    assert None is find("data", deeper)
    assert [] == list(findings({"data": deeper}))


def test_findings_say_where() -> None:
    """Each finding has a path that leads to it, in an object as in its JSON, in any depth."""
    event = {
        "action": "password.change",
        "changes": {"email": Part(old="a@example.com"), "api/key": Part(new=GITHUB)},
        "data": {"a~b": [{"cvv": 123}, jwt('{"alg":"none"}')], "part": Part(class_=AWS)},
        "reason": f"wrong PIN for {'4111 1111 1111 1111'}",
    }
    expected = [
        Finding(path="/changes/api~1key/new", kind="bearer token"),
        Finding(path="/data/a~0b/0/cvv", kind="key name"),
        Finding(path="/data/a~0b/1", kind="JWT"),
        Finding(path="/data/part/class", kind="bearer token"),
        Finding(path="/reason", kind="card number"),
    ]

    assert expected == list(findings(event))
    assert expected == list(findings(json.loads(msgspec.json.encode(event))))
    assert [] == list(findings(Part(old="alice")))


def test_a_finding_never_shows_the_secret() -> None:
    """What is found is told by kind and path alone."""
    secret = {"password": "hunter2", "data": [GITHUB, "4111111111111111", PEM, AWS]}

    found = list(findings(secret))

    assert 5 == len(found)
    assert {each.kind for each in found} <= set(KINDS)
    shown = repr(found) + msgspec.json.encode(found).decode()
    assert not [each for each in ("hunter2", GITHUB[4:], "4111", "BEGIN", AWS[4:]) if each in shown]


@pytest.mark.parametrize(
    "text",
    [
        "ey" * 30_000,
        "eyA." * 20_000,
        "bearer " * 10_000,
        "bearer " + "a" * 60_000,
        "basic " * 10_000,
        "-----BEGIN " * 6_000,
        "-----BEGIN " + "A " * 30_000,
        "4" * 60_000,
        "4 " * 30_000,
        "4444 " * 12_000,
        "AB12 " * 12_000,
        "A1" * 30_000,
        "xoxz-" * 12_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """A text made to be slow to search is searched in time; else this test never ends."""
    assert None is find("comment", text * 16)


def real_events(name: str) -> Iterator[dict[str, Any]]:
    """Yield events of a file of real ones."""
    with (REAL_EVENTS / name).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


@pytest.mark.skipif(not REAL_EVENTS.exists(), reason="the real events are not here")
@pytest.mark.parametrize("name", ["app-events.jsonl", "cloudtrail.jsonl"])
def test_real_events_pass(name: str) -> None:
    """Of thousands of real events, few are held back, and none by a shape that it has not."""
    seen, named, shapes = 0, 0, Counter[str]()
    for event in real_events(name):
        found = list(findings(event))
        seen += 1
        named += any(each.kind == "key name" for each in found)
        # AWS shows the ids of its access keys in its own events; they are what they seem.
        shapes.update(each.kind for each in found if each.kind not in {"key name", "bearer token"})

    assert Counter() == shapes
    assert named < seen * 0.05
