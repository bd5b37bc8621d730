"""Trusting: the verifier keys that a reader gives, as texts or in a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from indelible.errors import CallerError, Malformed
from indelible.note import VerifierKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Trust = str | Path | VerifierKey | Iterable[str | Path | VerifierKey]
    """Keys, their texts ``<origin>+<id>+<base64>``, or files with such a text a line."""

_MOST = 1 << 20


def keys_of(trust: Trust | None) -> list[VerifierKey]:
    """
    Return the keys that *trust* names.

    Raises:
        CallerError: A text is no key, or a file cannot be read or holds none.
    """
    if trust is None:
        return []
    several = [trust] if isinstance(trust, (str, Path, VerifierKey)) else list(trust)
    return [key for each in several for key in _keys(each)]


def _keys(given: str | Path | VerifierKey) -> Iterator[VerifierKey]:
    if isinstance(given, VerifierKey):
        yield given
    elif isinstance(given, str) and given.count("+") > 1:
        yield _key(given, "trust")
    else:
        yield from _in_file(Path(given))


def _in_file(path: Path) -> Iterator[VerifierKey]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(_MOST).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "is not text"
        raise CallerError(f"trust: {path}: {what}; expected a verifier key or a file") from None
    found = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not found:
        raise CallerError(f"trust: {path}: found no verifier key")
    for number, line in enumerate(found, start=1):
        yield _key(line, f"trust: {path}, key {number}")


def _key(text: str, what: str) -> VerifierKey:
    try:
        return VerifierKey.from_text(text)
    except Malformed as error:
        raise CallerError(f"{what}: {error}") from None
