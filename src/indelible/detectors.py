"""
Detectors: a net for secrets that a policy left in the clear.

A policy says what a field holds; the net looks at what is in it. It knows the names that
secrets are given and the shapes that some secrets have, and no others: a password in a
sentence passes. So it replaces no class in a policy, and what it catches is a reason to
write one. Where a shape has a checksum it must hold, so that ordinary ids rarely match.

A finding names a kind and a path, and never shows the value or a part of it.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from indelible.fields import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

KEY_NAME = "key name"
CARD_NUMBER = "card number"
IBAN = "IBAN"
JWT = "JWT"
PRIVATE_KEY = "private key"
BEARER_TOKEN = "bearer token"  # noqa: S105 - the name of a kind

KINDS = (KEY_NAME, CARD_NUMBER, IBAN, JWT, PRIVATE_KEY, BEARER_TOKEN)
"""What `find` returns."""

MAX_DEPTH = 64
"""How deep nested values are followed: as deep as those of an event may be."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something that looks like a secret.

    Attributes:
        path: A JSON pointer to it.
        kind: One of `KINDS`.
    """

    path: str
    kind: str


def find(name: str, value: object) -> str | None:
    """
    Return which kind of secret *value* looks like, or holds somewhere; None for none.

    Args:
        name: What it is called: a path, of which the last part counts, or a name.
    """
    # Nearly every value is a short text, and many were seen before: this path is kept short.
    name = name[-_LONGEST_NAME:]
    if isinstance(value, str):
        if _is_secret(name) and _says_something(value):
            return KEY_NAME
        if len(value) < _SHORTEST:
            return None
        return _of_short_text(value) if len(value) <= _SHORT else _of_text(value)
    if value is None or isinstance(value, int):
        return _of_integer(name, value) if value else None
    return _find_below(name, value, 0)


def findings(event: msgspec.Struct | Mapping[str, object]) -> Iterator[Finding]:
    """Yield all that looks like a secret in *event*, as an object or as decoded JSON."""
    for path, kind in _walk("", event, "", 0):
        yield Finding(path=path, kind=kind)


def _walk(name: str, value: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, (str, int)):
        if kind := find(name, value):
            yield path, kind
    elif depth < MAX_DEPTH:
        for part, below in _parts(value):
            yield from _walk(_called(name, part), below, f"{path}/{escape(part)}", depth + 1)


def _find_below(name: str, value: object, depth: int) -> str | None:
    """Return the first kind that `_walk` would yield; without the paths it is much faster."""
    for part, below in _parts(value):
        called = _called(name, part)
        if isinstance(below, (str, int)):
            kind = find(called, below)
        else:
            kind = _find_below(called, below, depth + 1) if depth < MAX_DEPTH - 1 else None
        if kind:
            return kind
    return None


def _called(name: str, part: str) -> str:
    """Return by which name a part is judged: old and new of a password are a password."""
    part = part[-_LONGEST_NAME:]
    return name if (part in _PASSED_ON or part.isdecimal()) and _is_secret(name) else part


def _parts(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        return [(str(part), below) for part, below in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(number), below) for number, below in enumerate(value)]
    if isinstance(value, msgspec.Struct):
        fields = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return [(encoded, getattr(value, field)) for field, encoded in fields]
    return ()


def _of_integer(name: str, value: int) -> str | None:
    if isinstance(value, bool):
        return None
    if _is_secret_number(name):
        return KEY_NAME
    # Longer card numbers are written as text; integers of that length are ids of 64 bits.
    return CARD_NUMBER if value in _CARD_INTEGERS and _sums_up(str(value)) else None


# ---- Names ----

_LONGEST_NAME = 200
"""Of a longer name the end counts: keys may be data, and names are remembered."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _words(name: str) -> list[str]:
    """Split the last part of a path at signs and capitals, in small letters."""
    return [word.lower() for word in _WORD.findall(name.rpartition("/")[2])]


_NUMBERS = frozenset(_words("cvc cvv otp passcode password pin totp"))
"""What is a secret as a number too; a ``token`` that is one is a count or an id."""

_SECRETS = _NUMBERS | frozenset(
    _words(
        "accesskey accesstoken apikey apitoken authorization authtoken clientsecret cookie cookies "
        "credential credentials passphrase passwd passwords privatekey pwd refreshtoken secret "
        "secretkey secrets sessiontoken token tokens"
    )
)
_SECRET_PAIRS = frozenset(
    (
        ("access", "key"),
        ("api", "key"),
        ("encryption", "key"),
        ("private", "key"),
        ("signing", "key"),
    )
)

_ABOUT = frozenset(
    _words(
        "age algorithm arn arns at attempts changed count created date days enabled expiration "
        "expired expires expiry format id identifier ids info issuer length limit method name "
        "names policy prevention provider report required reset rotated rotation scope scopes "
        "size state status strength time ttl type types updated used version"
    )
)
"""Last words of names of what is known about a secret: ``password_length``, ``token_type``."""

_PASSED_ON = frozenset(("data", "hash", "new", "old", "raw", "text", "value", "values"))
"""Names that say nothing; what is below them is called as what is above."""


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    """Tell whether *name* is one that is given to secrets."""
    words = _words(name)
    if not words or words[-1] in _ABOUT:
        return False
    return not _SECRETS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words))


@lru_cache(maxsize=4096)
def _is_secret_number(name: str) -> bool:
    words = _words(name)
    # Of "cvv2" and "pin code", the number and the word after it say nothing.
    while words and (words[-1].isdecimal() or words[-1] in {"code", "number"}):
        words.pop()
    return bool(words) and words[-1] in _NUMBERS


def _says_something(text: str) -> bool:
    """Tell whether *text* is more than nothing, stars, or yes and no."""
    return text.strip("*") != "" and text.lower() not in {"true", "false"}


# ---- Shapes ----

_SHORTEST = 13
"""No shape is shorter than a card number."""
_SHORT = 64
"""Up to this length texts repeat themselves often enough to remember what was found."""

_CARDS = re.compile(
    # Of one piece, or in groups with one sign between them: 4-4-4-4, 4-6-5, 4-4-4-4-3.
    r"(?<![\w.+-])"
    r"(?:[0-9]{13,19}"
    r"|[0-9]{4}(?P<sign>[ -])[0-9]{4,6}(?P=sign)[0-9]{4,5}(?:(?P=sign)[0-9]{1,4}){0,2})"
    r"(?![\w+]|[.-][0-9])"
)
_MAY_BE_CARD = re.compile(r"[0-9][0-9 -]{11}").search
_CARD_INTEGERS = range(10**12, 10**16)

_ISSUERS = re.compile(
    # Visa, Mastercard, American Express, Diners Club, Discover and UnionPay, JCB, Maestro.
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"
    r"|(?:5[1-5][0-9]{2}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720))[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|(?:30[0-5]|3[689][0-9])[0-9]{11}"
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2}|62[0-9]{2})[0-9]{12,15}"
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])[0-9]{9,15}"
).fullmatch


def _is_card(text: str) -> bool:
    """Tell whether *text* is a card number; in groups, others may follow it."""
    groups = text.replace("-", " ").split(" ")
    return any(_sums_up("".join(groups[:count])) for count in {1, 3, 4, 5, len(groups)})


def _sums_up(digits: str) -> bool:
    """Tell whether *digits* are those of an issuer of cards, with the right check digit."""
    if not _ISSUERS(digits):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


_IBANS = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)
_MAY_BE_IBAN = re.compile(r"[A-Z][A-Z][0-9][0-9]").search

_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def _is_iban(text: str) -> bool:
    """Tell whether *text* begins with an account number of its country, and its sum fits."""
    compact = text.replace(" ", "")
    length = _IBAN_LENGTHS.get(compact[:2])
    # In groups, words in capitals may follow that look like one more group.
    if length is None or len(compact) < length or (text == compact and len(compact) > length):
        return False
    account = compact[4:length] + compact[:4]
    return int("".join(str(int(sign, 36)) for sign in account)) % 97 == 1


_JWTS = re.compile(r"(?<![\w.-])(ey[\w-]{8,})\.[\w-]{2,}\.[\w-]*", re.ASCII)


def _is_jwt(header: str) -> bool:
    """Tell whether *header* is the first part of a token: an object that names an algorithm."""
    try:
        text = a2b_base64(header.replace("-", "+").replace("_", "/") + "==")
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


_PRIVATE_KEYS = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?<!\w)PRIVATE\+KEY\+\S"
    r"|(?<!\w)AGE-SECRET-KEY-1[A-Z0-9]{20}"
).search

_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      gh[pousr]_[A-Za-z0-9]{20} | github_pat_\w{20} | glpat-[\w-]{20}
    | xox[abeoprs]-[A-Za-z0-9-]{10}
    | AKIA[A-Z0-9]{16}(?![A-Za-z0-9]) | AIza[\w-]{35}
    | [sr]k_live_[A-Za-z0-9]{10} | npm_[A-Za-z0-9]{36}
    )""",
    re.VERBOSE | re.ASCII,
).search

# A word after "bearer" is no token, and text has "basic information" in it.
_BEARER = re.compile(
    r"\bbearer +(?=[A-Za-z._~+/-]*[0-9])[\w.~+/-]{16}", re.IGNORECASE | re.ASCII
).search
_BASIC = re.compile(r"\bbasic +([A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE).findall


def _is_basic(text: str) -> bool:
    """Tell whether *text* is a user and a password, as HTTP carries them."""
    try:
        return ":" in a2b_base64(text, strict_mode=True).decode()
    except ValueError:
        return False


def _of_text(text: str) -> str | None:  # noqa: PLR0911 - one line a shape
    """Return which kind of secret stands in *text*, if any does."""
    # In front of each shape stands what is fast to look for, and seldom there.
    if _MAY_BE_CARD(text) and any(_is_card(found[0]) for found in _CARDS.finditer(text)):
        return CARD_NUMBER
    if _MAY_BE_IBAN(text) and any(map(_is_iban, _IBANS.findall(text))):
        return IBAN
    if "ey" in text and any(map(_is_jwt, _JWTS.findall(text))):
        return JWT
    if ("PRIVATE" in text or "SECRET" in text) and _PRIVATE_KEYS(text):
        return PRIVATE_KEY
    if (
        "_" in text or "AKIA" in text or "AIza" in text or "xox" in text or "glpat-" in text
    ) and _TOKENS(text):
        return BEARER_TOKEN
    if "earer " in text and _BEARER(text):
        return BEARER_TOKEN
    if "asic " in text and any(map(_is_basic, _BASIC(text))):
        return BEARER_TOKEN
    return None


_of_short_text = lru_cache(maxsize=8192)(_of_text)
