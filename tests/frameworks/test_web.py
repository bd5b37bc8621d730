"""What an HTTP request says of the work done for it, and what it can make nobody believe."""

from __future__ import annotations

import re
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.authentication import BaseUser

from indelible.context import Context, from_message, to_message
from indelible.errors import CallerError
from indelible.event import Actor, Client, Service, Trace
from indelible.frameworks.web import (
    Proxies,
    actor_of,
    context_of,
    given_actor,
    given_service,
    session_of,
    trace_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOBODY = Proxies()
OURS = Proxies(["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1"])

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def lines(**headers: str | Sequence[str]) -> Callable[[str], Sequence[str]]:
    """Return the lines of *headers*, each named with _ for -."""

    def header(name: str) -> Sequence[str]:
        found = headers.get(name.replace("-", "_"), ())
        return (found,) if isinstance(found, str) else found

    return header


def test_without_proxies_the_peer_is_the_client() -> None:
    """Whatever a client writes into X-Forwarded-For, the address is that of its connection."""
    assert "203.0.113.9" == NOBODY.client("203.0.113.9", ["198.51.100.7"])
    assert "10.0.0.1" == NOBODY.client("10.0.0.1", ["198.51.100.7"])


def test_a_peer_that_is_no_trusted_proxy_is_the_client() -> None:
    """Who reaches the application past the proxy cannot name another address than their own."""
    assert "203.0.113.9" == OURS.client("203.0.113.9", ["198.51.100.7"])


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.7, 203.0.113.9, 10.0.0.2, 192.0.2.1"], "203.0.113.9"),
        (["198.51.100.7", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (["10.9.9.9,203.0.113.9"], "203.0.113.9"),
        (["10.0.0.3 ,\t10.0.0.2"], "10.0.0.3"),
        ([], "10.0.0.1"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(
    forwarded_for: list[str], client: str
) -> None:
    """What stands left of the first address that no trusted proxy has, anybody may have written."""
    assert client == OURS.client("10.0.0.1", forwarded_for)


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("198.51.100.7, unknown, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.7, _hidden", "10.0.0.1"),
        ("198.51.100.7, 203.0.113.9:http", "10.0.0.1"),
        ("198.51.100.7, 203.0.113.009", "10.0.0.1"),
        ("198.51.100.7, 203.0.113.9, ", "10.0.0.1"),
        ("198.51.100.7, [203.0.113.9]", "10.0.0.1"),
        ("198.51.100.7, [2001:db8::1", "10.0.0.1"),
        ("198.51.100.7, [2001:db8::1]:", "10.0.0.1"),
        ("198.51.100.7, [2001:db8::1]x80", "10.0.0.1"),
        ("198.51.100.7, fe80::1%eth0", "10.0.0.1"),
        ("198.51.100.7, 203.0.113.9:", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_way_back_ends_at_what_is_no_address(forwarded_for: str, client: str) -> None:
    """A malformed hop is not skipped: nothing left of it is believed."""
    assert client == OURS.client("10.0.0.1", [forwarded_for])


@pytest.mark.parametrize(
    ("hop", "client"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:0DB8:0:0::7", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 2001:db8:1::5", "203.0.113.9"),
        ("203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
    ],
)
def test_an_address_is_read_in_every_form_that_proxies_write(hop: str, client: str) -> None:
    """One client has one address in the trail, whatever way its proxy writes it."""
    assert client == OURS.client("10.0.0.1", [hop])


def test_a_peer_is_the_same_host_in_either_version() -> None:
    """A socket for both versions of IP shows IPv4 peers as IPv6, and links by their interface."""
    assert "203.0.113.9" == OURS.client("::ffff:10.0.0.1", ["203.0.113.9"])
    assert "fe80::1" == OURS.client("fe80::1%eth0", ["203.0.113.9"])


@pytest.mark.parametrize("peer", [None, ""])
def test_a_proxy_on_a_socket_without_an_address_is_trusted_by_its_kind(peer: str | None) -> None:
    """A proxy on the same machine speaks for its clients only where that was said."""
    assert "203.0.113.9" == Proxies(["unix"]).client(peer, ["198.51.100.7, 203.0.113.9"])
    assert OURS.client(peer, ["203.0.113.9"]) is None


def test_a_peer_whose_address_is_no_address_is_nobody() -> None:
    """A name in place of an address is neither recorded nor trusted."""
    assert Proxies(["unix"]).client("testclient", ["203.0.113.9"]) is None


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_a_trusted_proxy_that_is_no_network_is_refused(wrong: str) -> None:
    """Whom to trust is never guessed."""
    with pytest.raises(CallerError, match=r"trusted_proxies: found .*, expected addresses"):
        Proxies(["10.0.0.0/8", wrong])


def test_trusted_proxies_are_a_list() -> None:
    """One text would be read as a list of its letters."""
    with pytest.raises(CallerError, match="expected a list"):
        Proxies("10.0.0.0/8")


def test_a_request_id_is_that_of_a_trusted_proxy() -> None:
    """An entry can be found in the proxy's own log."""
    context = context_of("10.0.0.1", lines(x_request_id=" r-1 "), proxies=OURS)

    assert "r-1" == context.request


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("203.0.113.9", "r-1"),
        ("10.0.0.1", ["r-1", "r-2"]),
        ("10.0.0.1", "r-1,r-2"),
        ("10.0.0.1", "r" * 129),
        ("10.0.0.1", "r\x00"),
        ("10.0.0.1", "r\xe9"),
        ("10.0.0.1", "  "),
        ("10.0.0.1", []),
    ],
)
def test_any_other_request_has_an_id_of_its_own(peer: str, found: str | list[str]) -> None:
    """Nobody can have their request recorded under the id of another one."""
    ids = {
        context_of(peer, lines(x_request_id=found), proxies=OURS).request or "" for _ in range(9)
    }

    assert 9 == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


@pytest.mark.parametrize(
    "traceparent",
    [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes-later"],
)
def test_a_trace_is_read_from_its_header(traceparent: str) -> None:
    """An entry names the trace and the span of the request, in versions to come, too."""
    context = context_of("203.0.113.9", lines(traceparent=traceparent), proxies=NOBODY)

    assert Trace(trace_id=TRACE, span_id=SPAN) == context.trace


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00_{TRACE}_{SPAN}_01",
    ],
)
def test_a_trace_that_is_not_exact_says_nothing(traceparent: str) -> None:
    """Only what the standard calls a trace becomes one."""
    assert trace_of(traceparent) is None


def test_a_user_agent_is_bounded_and_printable() -> None:
    """A client cannot fill the trail, nor write control characters into it."""
    said = "curl/8\x00\x1b[31m" + "x" * 5_000

    context = context_of("203.0.113.9", lines(user_agent=said), proxies=NOBODY)

    expected = ("curl/8\ufffd\ufffd[31m" + "x" * 5_000)[:1_000]
    assert Client(ip="203.0.113.9", user_agent=expected) == context.client


def test_a_request_without_headers_says_what_is_known() -> None:
    """Nothing is made up for what a request does not say."""
    context = context_of(None, lines(), proxies=NOBODY, service=Service(name="shop"))

    assert Context(request=context.request, service=Service(name="shop")) == context


@given(
    peer=st.none() | st.text() | st.ip_addresses().map(str),
    headers=st.dictionaries(
        st.sampled_from(["x_forwarded_for", "x_request_id", "user_agent", "traceparent"]),
        st.lists(
            st.binary().map(lambda raw: raw.decode("latin-1"))
            | st.text()
            | st.from_regex(r"[\[\]0-9a-f:., %\-]{0,40}", fullmatch=True),
            max_size=3,
        ),
    ),
)
def test_no_header_raises_or_gets_in_unchecked(
    peer: str | None, headers: dict[str, list[str]]
) -> None:
    """Whatever a client sends, its request is answered, and its entry holds what is well-formed."""
    proxies = Proxies(["0.0.0.0/1", "::/1", "unix"])

    context = context_of(peer, lines(**headers), proxies=proxies)

    assert context == from_message(to_message(context))
    assert (context.request or "").isprintable()
    if context.client is not None:
        assert context.client.ip is None or context.client.ip == str(ip_address(context.client.ip))
        assert (context.client.user_agent or "").isprintable()


def test_a_session_is_named_without_its_key() -> None:
    """Who reads the trail cannot take over the sessions that it names."""
    named = session_of("s3cr3t-session-key")

    assert named == session_of("s3cr3t-session-key")
    assert named != session_of("another")
    assert re.fullmatch("[0-9a-f]{32}", named)
    assert session_of("\udc80")


class Unfinished(BaseUser):
    """A user of Starlette that has left out what identifies it."""

    is_authenticated = True
    display_name = "alice"


@pytest.mark.parametrize(
    ("user", "actor"),
    [
        (None, None),
        ("", None),
        ("alice", "user:alice"),
        (Actor.parse("service:billing"), "service:billing"),
        (SimpleNamespace(is_authenticated=True, identity="alice", username="a"), "user:alice"),
        (SimpleNamespace(is_authenticated=True, identity="", username="alice"), "user:alice"),
        (SimpleNamespace(username=None, id=7, display_name="Alice"), "user:7"),
        (SimpleNamespace(display_name="alice"), "user:alice"),
        (SimpleNamespace(is_authenticated=False, username="alice"), "anonymous"),
        (SimpleNamespace(is_authenticated=True), None),
        (Unfinished(), "user:alice"),
        ({"username": "alice"}, None),
    ],
)
def test_a_user_of_a_framework_becomes_an_actor(user: object, actor: str | None) -> None:
    """Who is logged in stands in the entry; who is not is anonymous; nobody is guessed."""
    found = actor_of(user)

    assert actor == (None if found is None else str(found))


def test_what_an_application_gives_may_be_a_text() -> None:
    """Strings are enough, and mean what the typed values mean."""
    assert (
        Actor.parse("user:alice")
        == given_actor("user:alice")
        == given_actor(Actor.parse("user:alice"))
    )
    assert given_actor(None) is None
    assert Service(name="shop") == given_service("shop") == given_service(Service(name="shop"))
    assert given_service(None) is None
