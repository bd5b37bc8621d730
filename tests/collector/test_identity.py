from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from indelible.collector.callers import Gate
from indelible.collector.identity import IdentityProvider
from indelible.collector.problems import Refusal
from indelible.collector.state import Collector, Settings
from indelible.document import default
from indelible.errors import CallerError, Forbidden
from indelible.rights import Caller
from tests.collector.conftest import FAST, bearer, refusals, serving

if TYPE_CHECKING:
    from pathlib import Path

    from indelible.trail import Trail
    from tests.collector.conftest import Served

UNKNOWN = "access token: is unknown, expired or revoked"
ISSUER, AUDIENCE = "https://login.example.com", "audit.example.com/collector"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER = ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, key: Any = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a public key as it stands in a set of keys, named like its algorithm."""
    writer: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    public = (key or KEYS[algorithm]).public_key()
    return {**writer.to_jwk(public, as_dict=True), "kid": algorithm, "use": "sig", **more}


def write_keys(path: Path, *keys: dict[str, Any]) -> None:
    """Write a set of keys as providers publish it, at once."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"keys": keys}), "utf-8")
    draft.replace(path)


@pytest.fixture
def key_set(tmp_path: Path) -> Path:
    """Write the provider's keys."""
    path = tmp_path / "keys.json"
    write_keys(path, *map(jwk, KEYS))
    return path


@pytest.fixture
def provider(key_set: Path) -> IdentityProvider:
    """Trust the provider."""
    return IdentityProvider(
        issuer=ISSUER, audience=AUDIENCE, key_set=key_set, role_claim="indelible_role"
    )


def claims(**more: Any) -> dict[str, Any]:
    """Return what the provider says of alice; what is None it does not say."""
    now = datetime.now(UTC)
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "nbf": now,
        "exp": now + timedelta(minutes=5),
        "indelible_role": "auditor",
        **more,
    }
    return {name: value for name, value in said.items() if value is not None}


def signed(algorithm: str = "EdDSA", *, kid: str | None = None, **more: Any) -> str:
    """Return alice's JWT."""
    headers = {"kid": algorithm if kid is None else kid}
    return jwt.encode(claims(**more), KEYS[algorithm], algorithm=algorithm, headers=headers)


def encoded(payload: dict[str, Any]) -> str:
    """Return a JWT whose claims nobody has looked at before."""
    return jwt.PyJWS().encode(
        json.dumps(payload).encode(), KEYS["EdDSA"], "EdDSA", {"kid": "EdDSA"}
    )


def identified(provider: IdentityProvider, text: str) -> Caller:
    """Return who comes with a JWT."""
    return provider.identify(text, default())


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_who_comes_with_a_jwt_of_the_provider_is_known(
    provider: IdentityProvider, algorithm: str
) -> None:
    """With the role and the limits that it names, and an id that is no access token's."""
    text = signed(algorithm, indelible_tenant="shop", indelible_streams=["user", "admin"])

    caller = identified(provider, text)

    assert (
        Caller(
            id="oidc:alice",
            name="alice",
            role="auditor",
            streams=("user", "admin"),
            tenant="shop",
        )
        == caller
    )


@pytest.mark.parametrize(
    "said",
    [
        *({name: None} for name in ("iss", "aud", "sub", "iat", "nbf", "exp")),
        {"iss": "https://login.example.org"},
        {"aud": "another"},
        {"aud": []},
        {"sub": 7},
        {"exp": -70},
        {"nbf": 120},
        {"iat": 120},
        {"exp": "soon"},
    ],
    ids=str,
)
def test_a_jwt_of_another_or_for_another_is_none(
    provider: IdentityProvider, said: dict[str, Any]
) -> None:
    """Issuer, audience and times are there and right, or nobody has come."""
    now = int(datetime.now(UTC).timestamp())
    moved = {
        name: now + value if isinstance(value, int) and name != "sub" else value
        for name, value in said.items()
    }
    payload = {**claims(), "iat": now, "nbf": now, "exp": now + 300, **moved}
    text = encoded({name: value for name, value in payload.items() if value is not None})

    with pytest.raises(Forbidden, match=UNKNOWN):
        identified(provider, text)


def test_clocks_may_differ_by_a_minute(provider: IdentityProvider) -> None:
    """Of the provider and of the collector, in both directions."""
    now = datetime.now(UTC)

    behind = signed(exp=now - timedelta(seconds=50))
    ahead = signed(nbf=now + timedelta(seconds=50), iat=now + timedelta(seconds=50))

    assert "alice" == identified(provider, behind).name == identified(provider, ahead).name


def unsigned() -> str:
    """Return a JWT that says that it needs no signature."""
    return jwt.encode(claims(), "", algorithm="none", headers={"kid": "EdDSA"})


def signed_with_the_public_key() -> str:
    """Return a JWT whose secret is what everybody can read."""
    header = {"alg": "HS256", "typ": "JWT", "kid": "RS256"}
    parts = [header, jwt.decode(signed(), options={"verify_signature": False})]
    text = ".".join(base64(json.dumps(part).encode()) for part in parts)
    public = KEYS["RS256"].public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{text}.{base64(hmac.digest(secret, text.encode(), 'sha256'))}"


def base64(data: bytes) -> str:
    """Write as the parts of a JWT are written."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_by_another() -> str:
    """Return a JWT that names the provider's key and is not signed with it."""
    return jwt.encode(claims(), OTHER, algorithm="EdDSA", headers={"kid": "EdDSA"})


def signed_without_a_name() -> str:
    """Return a JWT that does not say with which key."""
    return jwt.encode(claims(), KEYS["EdDSA"], algorithm="EdDSA")


@pytest.mark.parametrize(
    "make",
    [
        unsigned,
        signed_with_the_public_key,
        signed_by_another,
        signed_without_a_name,
        lambda: signed(kid="another"),
        lambda: signed("RS256", kid="ES256"),
        lambda: jwt.encode(claims(), KEYS["RS256"], algorithm="RS512", headers={"kid": "RS256"}),
        lambda: jwt.encode(claims(), KEYS["RS256"], algorithm="PS256", headers={"kid": "RS256"}),
        lambda: f"{signed()}x",
        lambda: signed(filler="x" * 20_000),
        lambda: "a.b.c",
        lambda: "..",
        lambda: "",
    ],
)
def test_a_jwt_that_the_provider_has_not_signed_is_none(
    provider: IdentityProvider,
    make: Any,  # noqa: ANN401 - whatever makes one
) -> None:
    """With one of its keys, by name, in one of the three ways that need a private key."""
    with pytest.raises(Forbidden, match=UNKNOWN):
        identified(provider, make())


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_key_that_is_too_short_signs_nothing(provider: IdentityProvider, key_set: Path) -> None:
    """An RSA key of 1024 bits can be broken, whoever publishes it."""
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is too short
    write_keys(key_set, jwk("RS256", short))
    text = jwt.encode(claims(), short, algorithm="RS256", headers={"kid": "RS256"})

    with pytest.raises(Forbidden, match=UNKNOWN):
        identified(provider, text)


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ({"indelible_role": None}, "claim indelible_role"),
        ({"indelible_role": "admin"}, "claim indelible_role"),
        ({"indelible_role": "owner"}, "claim indelible_role"),
        ({"indelible_role": ["auditor"]}, "claim indelible_role"),
        ({"indelible_tenant": ""}, "claim indelible_tenant"),
        ({"indelible_tenant": 7}, "claim indelible_tenant"),
        ({"indelible_streams": []}, "claim indelible_streams"),
        ({"indelible_streams": "user"}, "claim indelible_streams"),
        ({"indelible_streams": ["user", None]}, "claim indelible_streams"),
        ({"sub": ""}, "claim sub"),
    ],
    ids=str,
)
def test_a_claim_that_means_nothing_does_not_mean_everything(
    provider: IdentityProvider, said: dict[str, Any], detail: str
) -> None:
    """Who has no role here, or a limit that names nothing, may do nothing (403)."""
    text = signed(**said)

    with pytest.raises(Refusal, match=detail) as caught:
        identified(provider, text)

    assert 403 == caught.value.problem.status


def test_keys_are_read_again_when_they_change(provider: IdentityProvider, key_set: Path) -> None:
    """A provider changes its keys, and nobody starts the collector anew."""
    text = jwt.encode(claims(), OTHER, algorithm="EdDSA", headers={"kid": "new"})
    with pytest.raises(Forbidden):
        identified(provider, text)

    write_keys(key_set, jwk("EdDSA", OTHER, kid="new"))

    assert "alice" == identified(provider, text).name
    with pytest.raises(Forbidden, match=UNKNOWN):
        identified(provider, signed("RS256"))


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"keys": []}'])
def test_keys_that_cannot_be_read_let_nobody_in(
    provider: IdentityProvider, key_set: Path, content: bytes | None
) -> None:
    """A key that was taken away is not trusted for longer because a file is broken (503)."""
    identified(provider, signed())
    key_set.unlink()
    if content is not None:
        key_set.write_bytes(content)

    for _ in range(2):
        with pytest.raises(Refusal, match="keys of the identity provider") as caught:
            identified(provider, signed())
        assert 503 == caught.value.problem.status

    write_keys(key_set, jwk("EdDSA"))
    assert "alice" == identified(provider, signed()).name


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "cannot be read as a set of keys"),
        ([{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}], "found none"),
        ([jwk("RS256", use="enc")], "found none"),
        ([jwk("RS256", alg="RS512")], "found none"),
        ([jwk("RS256", kid=None)], "a name"),
        ([jwk("RS256", kid="a"), jwk("EdDSA", kid="a")], "a name"),
        (
            [{**OKPAlgorithm.to_jwk(KEYS["EdDSA"], as_dict=True), "kid": "a"}],
            "holds a private key",
        ),
    ],
)
def test_keys_that_nobody_may_sign_with_are_refused_at_the_start(
    tmp_path: Path, keys: list[dict[str, Any]], said: str
) -> None:
    """Public keys, each with a name of its own, for signatures that need the private one."""
    path = tmp_path / "keys.json"
    write_keys(path, *keys)

    with pytest.raises(CallerError, match=said):
        IdentityProvider(issuer=ISSUER, audience=AUDIENCE, key_set=path, role_claim="role")


@pytest.mark.parametrize("missing", ["issuer", "audience", "key_set"])
def test_a_provider_is_named_whole_or_not_at_all(trail: Trail, key_set: Path, missing: str) -> None:
    """A JWT whose audience nobody checks would be anybody's."""
    named = {"issuer": ISSUER, "audience": AUDIENCE, "key_set": str(key_set)}

    with pytest.raises(CallerError, match="issuer, audience and key_set together"):
        Gate(Collector(trail, Settings(**{**named, missing: None})))  # type: ignore[arg-type]


def test_a_jwt_is_taken_where_a_token_is(trail: Trail, key_set: Path) -> None:
    """With the same header; the role decides, and a viewer token is not issued with it."""
    settings = msgspec.structs.replace(FAST, issuer=ISSUER, audience=AUDIENCE, key_set=str(key_set))
    operator, auditor = signed(indelible_role="operator"), signed()

    with serving(Collector(trail, settings)) as client:
        allowed = client.get("/v1/tokens", headers=bearer(operator))
        denied = client.get("/v1/tokens", headers=bearer(auditor))
        viewer = client.post("/v1/viewer-tokens", headers=bearer(auditor), json={"name": "bob"})

    assert (200, 403, 403) == (allowed.status_code, denied.status_code, viewer.status_code)
    assert "are issued with an access token" in viewer.json()["detail"]
    assert {"oidc:alice"} == {entry["caller"] for entry in refusals(trail)}


def test_without_a_provider_no_jwt_is_taken(client: Served) -> None:
    """Whoever signed it."""
    assert 401 == client.get("/v1/tokens", headers=bearer(signed())).status_code
