"""
Web: what an HTTP request says of the work that is done for it, as a `Context`.

It knows headers and addresses, and no framework. What a client sends is its claim: an
address or a request id is taken from headers only where a proxy that is trusted has sent
them, and no header, however hostile, raises.
"""

from __future__ import annotations

import hashlib
import os
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from indelible.context import Context
from indelible.errors import CallerError
from indelible.event import Actor, Client, Service, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

UNIX = "unix"
"""Stands among trusted proxies for one that comes through a socket without an address."""

_MOST_OF_USER_AGENT = 1_000
_MOST_OF_REQUEST = 128
_SESSION_DIGITS = 32

Address = IPv4Address | IPv6Address

_PORT = re.compile(r"[0-9]{1,5}\Z").match
# A version after 00 may add further parts behind these.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\Z"
).match


class Proxies:
    """
    The proxies whose headers are believed.

    Args:
        trusted: Their addresses or networks, such as ``10.0.0.0/8``, or ``unix`` for one
            that comes through a socket without an address.

    Raises:
        CallerError: One is neither.
    """

    __slots__ = ("_networks", "_unix")

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        if isinstance(trusted, str):
            raise CallerError(f"trusted_proxies: found the text {trusted!r}, expected a list")
        names = tuple(trusted)
        self._unix = UNIX in names
        self._networks = tuple(_network(name) for name in names if name != UNIX)

    def trust(self, peer: str | None) -> bool:
        """Tell whether *peer*, the other end of the connection, is one of them."""
        if not peer:
            return self._unix
        return self._holds(_peer(peer))

    def client(self, peer: str | None, forwarded_for: Sequence[str]) -> str | None:
        """
        Return the address of the client, if it is known.

        Each proxy adds at the right of ``X-Forwarded-For`` whom it speaks for, so that is
        where the way back begins; what stands left of the first one that is not trusted,
        or is no address, anybody may have written.

        Args:
            peer: The other end of the connection.
            forwarded_for: The lines of the header ``X-Forwarded-For``.
        """
        found = _peer(peer) if peer else None
        trusted = self.trust(peer)
        hops = (hop for line in reversed(forwarded_for) for hop in reversed(line.split(",")))
        while trusted and (hop := next(hops, None)) is not None:
            address = _hop(hop)
            if address is None:
                break
            found = address
            trusted = self._holds(address)
        return None if found is None else str(found)

    def _holds(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def context_of(
    peer: str | None,
    header: Callable[[str], Sequence[str]],
    *,
    proxies: Proxies,
    service: Service | None = None,
) -> Context:
    """
    Return what a request says of the work that is done for it; who acts, it does not.

    Args:
        peer: The other end of the connection.
        header: Returns the lines of a header, by its name in small letters.
        service: The program that answers.
    """
    return Context(
        request=_request(header("x-request-id") if proxies.trust(peer) else ()),
        client=_client(
            proxies.client(peer, header("x-forwarded-for")), _first(header("user-agent"))
        ),
        trace=trace_of(_first(header("traceparent"))),
        service=service,
    )


def trace_of(traceparent: str) -> Trace | None:
    """Read a W3C ``traceparent``; one that is not exact says nothing."""
    match = _TRACEPARENT(traceparent)
    if match is None or (match[1] == "00" and match[4] is not None):
        return None
    return Trace(trace_id=match[2], span_id=match[3])


def session_of(key: str) -> str:
    """
    Return what stands in entries for the session with this *key*.

    A key opens the session for whoever reads it, so it is never recorded; it is long and
    random, so its digest tells nobody what it is.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return digest[:_SESSION_DIGITS]


def actor_of(user: object) -> Actor | None:
    """
    Return whom a framework's *user* object stands for, if it says so.

    That is the first of ``identity``, ``username``, ``id`` and ``display_name`` which it
    has. One that says it is not authenticated is anonymous.
    """
    if user is None or isinstance(user, Actor):
        return user
    if isinstance(user, str):
        return Actor(type="user", id=user) if user else None
    if not getattr(user, "is_authenticated", True):
        return Actor(type="anonymous")
    for name in ("identity", "username", "id", "display_name"):
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # Starlette's BaseUser, for what a class leaves out
            continue
        if value is not None and value != "":
            return Actor(type="user", id=str(value))
    return None


def given_actor(found: Actor | str | None) -> Actor | None:
    """
    Return what a function of the application has answered to who acts.

    Raises:
        InvalidEvent: That is no actor.
    """
    return Actor.parse(found) if isinstance(found, str) else found


def given_service(service: Service | str | None) -> Service | None:
    """
    Return *service* as a `Service`.

    Raises:
        InvalidEvent: It is no name.
    """
    return Service(name=service) if isinstance(service, str) else service


def _client(ip: str | None, user_agent: str) -> Client | None:
    # Cut first: a header may be as long as the server allows.
    text = _printable(user_agent[:_MOST_OF_USER_AGENT])
    return Client(ip=ip, user_agent=text or None) if ip or text else None


def _request(lines: Sequence[str]) -> str:
    # Of two lines, which a server may have joined, nobody can tell which the proxy wrote.
    found = lines[0].strip() if len(lines) == 1 else ""
    if 0 < len(found) <= _MOST_OF_REQUEST and _is_id(found):
        return found
    return os.urandom(16).hex()


def _is_id(text: str) -> bool:
    return text.isascii() and text.isprintable() and "," not in text


def _first(lines: Sequence[str]) -> str:
    return lines[0].strip() if lines else ""


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _network(name: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(name)
    except ValueError:
        raise CallerError(
            f"trusted_proxies: found {name!r}, expected addresses or networks such as"
            f" 10.0.0.0/8, or {UNIX!r}"
        ) from None


def _peer(text: str) -> Address | None:
    # The kernel names the interface of a link-local address; it is not part of it.
    return _address(text.partition("%")[0])


def _hop(text: str) -> Address | None:
    """Read one hop of ``X-Forwarded-For``: an address, which may have a port."""
    text = text.strip(" \t")
    if text.startswith("["):
        text, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, colon, port = text.partition(":")
    else:
        colon = port = ""
    if colon + port and not (colon == ":" and _PORT(port)):
        return None
    return None if "%" in text else _address(text)


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # The same host, as a socket for both versions sees it.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
