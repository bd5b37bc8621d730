"""
Disclosures: salted values outside the log, and the one commitment in the log over them.

::

    D           = ["<43 b64url = 32 random bytes>","/client/ip","203.0.113.9"]
    leaf        = SHA-256(0x00 ‖ D)
    commitment  = RFC 6962 root of the leaves, in the order of ``committed``

A salt of 256 bits makes a leaf hash harmless when its value is gone: it can be checked
against a guess by nobody who has not the salt.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from indelible.errors import Damaged, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SALT_SIZE = 32

_encode = msgspec.json.Encoder(decimal_format="string").encode


class Disclosure(msgspec.Struct, frozen=True, kw_only=True):
    """
    One value of an event, opened.

    Attributes:
        data: The exact bytes of D.
        value: A JSON value.
    """

    data: bytes
    path: str
    value: Any

    @classmethod
    def from_bytes(cls, data: bytes) -> Disclosure:
        """
        Read a disclosure.

        Raises:
            Malformed: These are not a disclosure's exact bytes.
        """
        try:
            salt, path, value = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"disclosure: {error}") from error
        if not is_hash(salt) or _encode((salt, path, value)) != data:
            raise Malformed("disclosure: not in the exact form")
        return cls(data=data, path=path, value=value)

    @property
    def leaf(self) -> bytes:
        """Its leaf hash in the tree of its entry's commitment."""
        return leaf_of(self.data)


_decode = msgspec.json.Decoder(tuple[str, str, Any]).decode


def open_at(data: bytes, path: str) -> Any:  # noqa: ANN401 - any JSON
    """
    Return the value that the disclosure *data* opens at *path*.

    Of a plain text, which most are, without taking it all apart: see `Disclosure.from_bytes`.

    Raises:
        Malformed: These are not a disclosure's exact bytes, or open another path.
    """
    found = _PLAIN(data)
    if found is not None and found[1] == (_paths.get(path) or _path(path)):
        try:
            return found[2].decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"disclosure: {error}") from error
    disclosure = Disclosure.from_bytes(data)
    if disclosure.path != path:
        raise Malformed(f"disclosure: found path {disclosure.path!r}, expected {path!r}")
    return disclosure.value


# A salt, what stands around the path, and a text in which JSON has nothing to escape.
_PLAIN = re.compile(
    rb'\["[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048](","[^"\\]*",)"([^"\\\x00-\x1f\x7f]*)"\]'
).fullmatch


def is_hash(text: str) -> bool:
    """Tell whether *text* is what 32 bytes, a hash or a salt, are written as."""
    return _HASH(text) is not None


# 32 bytes leave two bits of the last of 43 characters, which are zero.
_HASH = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII).fullmatch


def leaf_of(data: bytes) -> bytes:
    """Return the leaf hash of a disclosure's bytes."""
    return sha256(b"\0" + data).digest()


def write(values: Sequence[tuple[str, Any]], entropy: Callable[[int], bytes]) -> list[bytes]:
    """Return the disclosures of *values*, paths with JSON values, each under a salt of its own."""
    # One call for all salts: what it costs is going into the kernel and coming back.
    random = entropy(SALT_SIZE * len(values))
    written: list[bytes] = []
    at = 0
    for path, value in values:
        salt = b2a_base64(random[at : at + SALT_SIZE], newline=False).translate(_URLSAFE, b"=")
        written.append(b'["%b%b%b]' % (salt, _paths.get(path) or _path(path), _encode(value)))
        at += SALT_SIZE
    return written


def _path(path: str) -> bytes:
    """Return what stands between a salt and a value of *path*."""
    if len(_paths) >= _MOST_PATHS:
        _paths.clear()
    known = _paths[path] = b'",%b,' % _encode(path)
    return known


_URLSAFE = bytes.maketrans(b"+/", b"-_")
_paths: dict[str, bytes] = {}
_MOST_PATHS = 10_000


def compact(data: bytes) -> bytes:
    """
    Return what a box keeps of a disclosure: the salt's 32 bytes, and the value as it is.

    The path stands in the entry, and the salt as text would be a third longer.
    """
    opened = _OPENED.match(data)
    if opened is None:
        raise Malformed("disclosure: not in the exact form")
    salt = a2b_base64(opened[1].translate(_FROM_URLSAFE) + b"=")
    return salt + data[opened.end() : -1]


def expand(data: bytes, path: str) -> bytes:
    """Return the bytes of the disclosure at *path* that `compact` was given."""
    salt = b2a_base64(data[:SALT_SIZE] + b"\0", newline=False).translate(_URLSAFE)[:43]
    return b'["%b%b%b]' % (salt, _paths.get(path) or _path(path), data[SALT_SIZE:])


_OPENED = re.compile(rb'\["([A-Za-z0-9_-]{43})","(?:[^"\\]|\\.)*",')
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


def commitment_of(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over *leaves*, of which there is at least one."""
    # A node without a neighbour moves up as it is: that is the tree of RFC 6962.
    level = leaves
    while len(level) > 1:
        pairs = iter(level)
        above = [
            sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)
        ]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def verify_opening(disclosure: Disclosure, path: str, leaf: bytes) -> None:
    """
    Check that *disclosure* is the one of *path* whose *leaf* hash the commitment covers.

    Raises:
        Damaged: It opens another path or another value.
    """
    if disclosure.path != path:
        raise Damaged(f"disclosure: found path {disclosure.path!r}, expected {path!r}")
    if disclosure.leaf != leaf:
        raise Damaged(f"disclosure of {path}: is not the one that was committed to")
