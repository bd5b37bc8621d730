"""Verdict: what verification found, how far it can be trusted, and what it does not show."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from indelible.entry import time_to_text
from indelible.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from indelible.note import VerifierKey


class Level(StrEnum):
    """How far a verdict can be trusted, the strongest first."""

    WITNESSED = "witnessed"
    """Others cosigned it; given where a trust policy names them."""
    ANCHORED = "anchored"
    """It agrees with a tree kept where the trail's owner cannot rewrite it."""
    SIGNED = "signed"
    """By the key that was pinned here, or one that this key handed over to."""
    UNAUTHENTICATED = "unauthenticated"
    """Nobody says whose key may sign: never a pass."""
    TAMPERED = "tampered"
    """Something does not hold."""

    @classmethod
    def of(cls, *, pinned: bool, anchored: int, findings: Sequence[Finding]) -> Level:
        """Return the level of one log."""
        if findings:
            return cls.TAMPERED
        if not pinned:
            return cls.UNAUTHENTICATED
        return cls.ANCHORED if anchored else cls.SIGNED

    @classmethod
    def weakest(cls, levels: Iterable[Level]) -> Level:
        """Return the weakest of *levels*; of none at all, nothing can be said."""
        strength = list(cls)
        return max(levels, key=strength.index, default=cls.UNAUTHENTICATED)


PASSING = frozenset({Level.WITNESSED, Level.ANCHORED, Level.SIGNED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not hold: in which log, where in it, and what."""

    log: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.log}, {self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogVerdict:
    """
    What was verified of one log.

    Attributes:
        root: Of the tree over all its entries, recomputed; None where it could not be.
        recorded_at: Time of its last entry, microseconds since 1970; None without one.
        key: The key that signed the checkpoint, when who may sign was known.
        anchored: Size up to which its entries are those of a tree kept elsewhere.
        first: Index of the first entry that was not purged: of those before, the hashes
            were verified.
        purged_under: The policies that purged them, as custody entries say.
    """

    log: str
    origin: str
    level: Level
    size: int
    root: bytes | None
    recorded_at: int | None
    key: VerifierKey | None
    anchored: int = 0
    first: int = 0
    purged_under: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What verification found; *level* is the weakest of the logs'.

    Attributes:
        entries, bytes: How many entries were hashed, and how many bytes they have.
        does_not_show: In sentences, what one might take this verdict for but may not.
        losses: In sentences, what a restored copy did not have, as custody declares.
        values: How many committed values are in each state, by its name; empty where they
            were not accounted for.
    """

    level: Level
    logs: tuple[LogVerdict, ...]
    findings: tuple[Finding, ...]
    entries: int
    bytes: int
    does_not_show: tuple[str, ...]
    losses: tuple[str, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the level is one that passes and nothing was found."""
        return self.level in PASSING and not self.findings

    @property
    def reaches(self) -> tuple[str, ...]:
        """Up to where the verdict holds, in a sentence for each log that nothing was found in."""
        return tuple(_reach(log) for log in self.logs if log.level is not Level.TAMPERED)

    def require(self) -> None:
        """
        Return if the verdict passed.

        Raises:
            VerificationError: It did not; the message names every finding.
        """
        if not self.passed:
            raise VerificationError("\n".join([f"verdict: {self.level}", *map(str, self.findings)]))


def collecting(findings: list[Finding], log: str, where: str) -> _Collecting:
    """Keep among *findings* what does not hold inside the block, and go on after it."""
    return _Collecting(findings, log, where)


class _Collecting:
    # A class, since a generator cannot tell a type checker that it swallows errors.

    def __init__(self, findings: list[Finding], log: str, where: str) -> None:
        self._findings, self._log, self._where = findings, log, where

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if not isinstance(error, VerificationError):
            return False
        self._findings.append(Finding(log=self._log, where=self._where, what=str(error)))
        return True


def limits(logs: Sequence[LogVerdict], unchecked: Iterable[str] = ()) -> tuple[str, ...]:
    """Say what a verdict over *logs* does not show, besides what was left *unchecked*."""
    said: dict[str, list[str]] = {}
    for log in logs:
        if log.size == 0:
            what = "that it was always empty; nothing was ever signed of it"
        elif log.level is Level.UNAUTHENTICATED:
            what = "who signed it; no key was pinned or given"
        elif log.level in PASSING and log.anchored < log.size:
            since = f"from {log.anchored} on " if log.anchored else ""
            what = (
                f"that its entries {since}are the first ones; whoever holds the key could"
                " have rewritten what no checkpoint had left the machine for"
            )
        else:
            continue
        said.setdefault(what, []).append(log.log)
    return (
        *(f"{', '.join(names)}: {what}" for what, names in said.items()),
        *(_what_was_purged(log) for log in logs if log.first),
        *unchecked,
    )


def _what_was_purged(log: LogVerdict) -> str:
    what = f"{log.log}: what its first {log.first} entries said"
    if not log.purged_under:
        return f"{what}; they are gone, and nothing here shows that this is rightly so"
    return f"{what}; they were purged under policy {', '.join(log.purged_under)}"


def _reach(log: LogVerdict) -> str:
    entries = f"{log.size} {'entry' if log.size == 1 else 'entries'}"
    if log.first:
        entries += f" (the first {log.first} purged)"
    if log.root is None or log.recorded_at is None:
        return f"{log.log}: {entries}"
    return f"{log.log}: {entries} up to {time_to_text(log.recorded_at)}, root {log.root.hex()}"
