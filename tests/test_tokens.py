from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible import tokens
from indelible.document import default
from indelible.errors import CallerError, Forbidden, Moved, NotFound
from indelible.rights import RIGHTS
from indelible.tokens import AccessToken, ViewerToken
from indelible.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indelible.writer import Pending

NOW = 1_800_000_000_000_000
MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
SECRET = b"s" * 32
UNKNOWN = "access token: is unknown, expired or revoked"


def made(role: str = "reader", **more: Any) -> tuple[AccessToken, str]:
    """Return a new token and its secret."""
    if role == "join":
        more.setdefault("producer", "audit.example.com/shop")
    given = {"name": "alice", "created_by": "owner", "now": NOW, "lasts": DAY, **more}
    return tokens.issue(role=role, entropy=os.urandom, **given)


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trail]:
    """Make a trail; its pins go below the test's directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Trail.create(tmp_path / "trail", origin="audit.example.com/collector") as opened:
        yield opened


def kept(trail: Trail, token_id: str) -> AccessToken:
    """Return what the trail has of a token."""
    with trail.store.read() as view:
        return tokens.find(view, token_id)


def entries(trail: Trail, action: str) -> list[dict[str, Any]]:
    """Return the data of the custody entries with this action, oldest first."""
    items = trail.search(f"stream:custody action:{action}").items
    return [dict(item.event.data or {}) for item in reversed(items)]


# ---- Secrets ----


def test_of_a_token_only_its_hash_is_kept() -> None:
    """Whoever reads the store cannot come with anybody's token."""
    token, text = made()

    _, secret = tokens.taken_apart(text)

    assert secret.encode() not in token.to_bytes()
    token.verify(secret, NOW)


def test_another_secret_is_not_the_tokens() -> None:
    """The id alone is no credential: it stands in entries."""
    token, _ = made()
    _, other = made()

    with pytest.raises(Forbidden, match=UNKNOWN):
        token.verify(tokens.taken_apart(other)[1], NOW)


@pytest.mark.parametrize(("at", "works"), [(0, True), (DAY - 1, True), (DAY, False)])
def test_a_token_works_until_it_expires(at: int, *, works: bool) -> None:
    """To the microsecond, and no longer."""
    token, _ = made()

    assert works == token.works(NOW + at)


def test_a_revoked_token_works_no_more() -> None:
    """Whatever time it had left; and the answer does not say why."""
    token, text = made()
    revoked = msgspec.structs.replace(token, revoked_at=NOW)

    with pytest.raises(Forbidden, match=UNKNOWN):
        revoked.verify(tokens.taken_apart(text)[1], NOW)


@given(st.text())
def test_what_has_not_the_form_of_a_token_is_none(text: str) -> None:
    """Whatever is sent, it is refused in the same words."""
    with pytest.raises(Forbidden, match=UNKNOWN):
        tokens.taken_apart(f"indelible_{text}"[:60])


def test_what_is_kept_is_read_again_as_it_was() -> None:
    """No limit gets lost on the way."""
    token, _ = made("recorder", producer="audit.example.com/shop", tenant="shop", streams=("user",))

    assert token == AccessToken.from_bytes(token.to_bytes())


# ---- Limits ----


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "name: expected 1 to 200"),
        ({"name": "a\nb"}, "name: expected 1 to 200"),
        ({"role": "admin"}, "role: found 'admin'"),
        ({"role": "owner"}, "role: found 'owner'"),
        ({"streams": ("usr",)}, "streams: found 'usr'"),
        ({"tenant": ""}, "tenant: expected 1 to 200"),
        ({"producer": "audit.example.com/shop"}, "producer: a token of role reader ships nothing"),
        ({"role": "recorder", "producer": "/*"}, "producer: expected the origin"),
        ({"role": "recorder", "producer": "a b"}, "producer: expected the origin"),
        ({"role": "join", "producer": None}, "producer: found none"),
        ({"role": "join", "uses": 0}, "uses: found 0"),
        ({"uses": 3}, "uses: only a join token"),
        ({"lasts": 367 * DAY}, "expires_in: expected at most 366d"),
    ],
)
def test_a_token_that_means_nothing_is_none(wrong: dict[str, Any], said: str) -> None:
    """A limit that is none must not come to mean that there is no limit."""
    token, _ = made(**wrong)

    with pytest.raises(CallerError, match=said):
        token.check_is_valid(default())


@pytest.mark.parametrize("role", list(RIGHTS))
def test_a_token_may_have_any_role_but_the_owners(role: str) -> None:
    """Which of them may be asked for over the network is decided elsewhere."""
    token, _ = made(role)

    token.check_is_valid(default())


def test_a_join_token_enrols_one_producer_unless_it_says_more() -> None:
    """What is pasted into a start script is used up by the first start."""
    assert 1 == made("join")[0].uses_left
    assert 5 == made("join", uses=5)[0].uses_left
    assert made("recorder")[0].uses_left is None


@pytest.mark.parametrize("text", ["8", "h", "", "-1d", "1e3d"])
def test_how_long_a_token_lasts_is_said_exactly(text: str) -> None:
    """Nobody guesses whether eight are hours or days."""
    with pytest.raises(CallerError, match="expires_in: found"):
        tokens.lasting(text, NOW, "expires_in")


# ---- Kept by a trail ----


def test_a_token_that_means_nothing_is_not_kept(trail: Trail) -> None:
    """Neither it nor an entry about it."""
    token, _ = made(streams=("usr",))

    with pytest.raises(CallerError, match="streams: found 'usr'"):
        tokens.keep(trail, token)

    with trail.store.read() as view:
        assert [] == tokens.everything(view)
    assert [] == entries(trail, "token.issue")


def test_that_a_token_was_issued_is_an_entry(trail: Trail) -> None:
    """Who gave whom which rights can be proven, and no secret is in the log."""
    token, text = made("recorder", producer="audit.example.com/shop", tenant="shop")

    tokens.keep(trail, token)

    (entry,) = entries(trail, "token.issue")
    assert (token.id, "recorder", "shop", "owner") == (
        *(entry["token"], entry["role"], entry["tenant"]),
        entry["by"],
    )
    (item,) = trail.search("stream:custody action:token.issue").items
    assert tokens.taken_apart(text)[1] not in item.entry.event.decode()
    assert token.digest.hex() not in item.entry.event.decode()
    assert token == kept(trail, token.id)


def test_a_rotated_token_has_a_successor_and_an_hour(trail: Trail) -> None:
    """Its holder changes over without a gap, and then the old one is dead."""
    token, text = made("recorder", producer="audit.example.com/shop", tenant="shop")
    tokens.keep(trail, token)

    new, secret = tokens.rotate(
        trail, token.id, by="owner", now=NOW + MINUTE, overlap=HOUR, entropy=os.urandom
    )

    old = kept(trail, token.id)
    assert NOW + MINUTE + HOUR == old.expires_at
    assert token.id != new.id
    assert tokens.taken_apart(text)[1] != tokens.taken_apart(secret)[1]
    assert NOW + MINUTE + DAY == new.expires_at
    assert ("recorder", "shop", "audit.example.com/shop") == (new.role, new.tenant, new.producer)
    (entry,) = entries(trail, "token.rotate")
    assert (token.id, new.id) == (entry["old"], entry["token"])


def test_rotating_gives_the_old_token_no_more_time(trail: Trail) -> None:
    """An overlap is at most what was left."""
    token, _ = made()
    tokens.keep(trail, token)

    tokens.rotate(trail, token.id, by="owner", now=NOW, overlap=30 * DAY, entropy=os.urandom)

    assert token.expires_at == kept(trail, token.id).expires_at


def test_a_token_that_works_no_more_is_not_rotated(trail: Trail) -> None:
    """Whoever lost a token to a revocation does not get it back like this."""
    expired, revoked = made(lasts=MINUTE)[0], made()[0]
    for token in (expired, revoked):
        tokens.keep(trail, token)
    tokens.revoke(trail, revoked.id, by="owner", now=NOW)

    for token in (expired, revoked):
        with pytest.raises(CallerError, match="is expired or revoked"):
            tokens.rotate(
                trail, token.id, by="owner", now=NOW + HOUR, overlap=HOUR, entropy=os.urandom
            )


class Overtaken:
    """A trail in which something happens just before what is submitted first is written."""

    def __init__(self, trail: Trail, before: Callable[[], object]) -> None:
        self._trail, self._before = trail, before
        self.id, self.store, self.policy = trail.id, trail.store, trail.policy

    def submit(self, pending: Pending) -> None:
        """Let it happen, and then hand over."""
        self._before()
        self._trail.submit(pending)


def test_of_two_who_rotate_a_token_one_succeeds(trail: Trail) -> None:
    """There are never two successors of which nobody knows who has them."""
    token, _ = made()
    tokens.keep(trail, token)
    how: dict[str, Any] = {"by": "owner", "now": NOW, "overlap": HOUR, "entropy": os.urandom}

    with pytest.raises(Moved, match="was rotated meanwhile"):
        tokens.rotate(
            Overtaken(trail, lambda: tokens.rotate(trail, token.id, **how)), token.id, **how
        )

    assert 1 == len(entries(trail, "token.rotate"))
    with trail.store.read() as view:
        assert 2 == len(tokens.everything(view))


def test_a_token_that_is_revoked_meanwhile_is_not_rotated(trail: Trail) -> None:
    """A revocation holds, whatever was under way."""
    token, _ = made()
    tokens.keep(trail, token)
    overtaken = Overtaken(trail, lambda: tokens.revoke(trail, token.id, by="bob", now=NOW))

    with pytest.raises(CallerError, match="is expired or revoked"):
        tokens.rotate(overtaken, token.id, by="owner", now=NOW, overlap=HOUR, entropy=os.urandom)

    assert NOW == kept(trail, token.id).revoked_at
    assert [] == entries(trail, "token.rotate")


def test_a_join_token_is_not_rotated(trail: Trail) -> None:
    """Or it could enrol twice as many as it was issued for."""
    token, _ = made("join")
    tokens.keep(trail, token)

    with pytest.raises(CallerError, match="is not rotated, but issued anew"):
        tokens.rotate(trail, token.id, by="owner", now=NOW, overlap=HOUR, entropy=os.urandom)


def test_that_a_token_was_revoked_is_one_entry(trail: Trail) -> None:
    """Who repeats it is told the same, and the log does not grow."""
    token, _ = made()
    tokens.keep(trail, token)

    first = tokens.revoke(trail, token.id, by="bob", now=NOW)
    again = tokens.revoke(trail, token.id, by="bob", now=NOW + HOUR)

    assert NOW == first.revoked_at == again.revoked_at
    (entry,) = entries(trail, "token.revoke")
    assert (token.id, "bob") == (entry["token"], entry["by"])


def test_there_is_nothing_to_do_with_a_token_that_is_none(trail: Trail) -> None:
    """What was asked for is not repeated: it may be a whole token, pasted by mistake."""
    with pytest.raises(NotFound, match=r"access token: found none of this id$"):
        tokens.revoke(trail, "0" * 16, by="owner", now=NOW)
    with pytest.raises(NotFound, match=r"access token: found none of this id$"):
        tokens.rotate(trail, "0" * 16, by="owner", now=NOW, overlap=HOUR, entropy=os.urandom)


def test_when_a_token_was_used_is_kept_once_a_minute(trail: Trail) -> None:
    """Reading is not slowed down by writing that it was read."""
    token, _ = made()
    tokens.keep(trail, token)

    for after in (0, MINUTE - 1, MINUTE, 2 * MINUTE - 1):
        tokens.mark_used(trail.store, {token.id: NOW + after, "0" * 16: NOW})

    assert NOW + MINUTE == kept(trail, token.id).last_used_at
    with trail.store.read() as view:
        assert [token.id] == [each.id for each in tokens.everything(view)]


def test_that_it_is_used_brings_no_revoked_token_back(trail: Trail) -> None:
    """What is written late does not undo what came before."""
    token, _ = made()
    tokens.keep(trail, token)
    tokens.revoke(trail, token.id, by="owner", now=NOW)

    tokens.mark_used(trail.store, {token.id: NOW + HOUR})

    assert NOW == kept(trail, token.id).revoked_at


# ---- Viewer tokens ----


def viewer(**more: Any) -> ViewerToken:
    """Return a right to read for an hour."""
    given = {"issuer": "1" * 16, "name": "alice", "expires_at": NOW + HOUR, **more}
    return ViewerToken(**given)


def test_a_viewer_token_says_itself_what_it_is_for() -> None:
    """Nothing is kept of it, and no limit gets lost."""
    token = viewer(streams=("user",), tenant="shop")

    found = ViewerToken.from_text(token.sign(SECRET), secret=SECRET, now=NOW)

    assert token == found
    assert ("reader", ("user",), "shop") == (
        *(found.caller.role, found.caller.streams),
        found.caller.tenant,
    )


def test_a_viewer_token_works_for_its_time() -> None:
    """And then no more."""
    text = viewer().sign(SECRET)

    with pytest.raises(Forbidden, match=UNKNOWN):
        ViewerToken.from_text(text, secret=SECRET, now=NOW + HOUR)


def test_nobody_else_makes_viewer_tokens() -> None:
    """Only who has the keyring's secret signs what is taken."""
    text = viewer().sign(b"o" * 32)

    with pytest.raises(Forbidden, match=UNKNOWN):
        ViewerToken.from_text(text, secret=SECRET, now=NOW)


@given(st.data())
def test_a_viewer_token_that_was_changed_is_none(data: st.DataObject) -> None:
    """Not one character of it can be another, also none that would mean the same."""
    text = viewer(tenant="shop").sign(SECRET)
    at = data.draw(st.integers(len("indelible-viewer."), len(text) - 1))
    other = data.draw(st.integers(0, 255).map(chr).filter(lambda each: each != text[at]))

    with pytest.raises(Forbidden, match=UNKNOWN):
        ViewerToken.from_text(text[:at] + other + text[at + 1 :], secret=SECRET, now=NOW)


def test_whoever_comes_with_a_viewer_token_is_not_taken_for_its_issuer() -> None:
    """So nobody prolongs a viewer token with itself."""
    assert f"viewer:{'1' * 16}" == viewer().caller.id
