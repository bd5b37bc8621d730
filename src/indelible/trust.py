"""
Trust: what a whole trail is verified against, and the verdict that results.

`indelible.verify` checks what it is given. Here is decided what that is for a
trail in a directory: the keys that are pinned or given, and every tree that was
seen before, in the mark, in the pins, in checkpoints kept elsewhere. Once the logs are
verified, what they commit to is held against the vault.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from indelible import query
from indelible.checkpoint import Checkpoint, handed_over
from indelible.creation import describe, open_store
from indelible.errors import CallerError, Damaged
from indelible.mark import Known, Mark
from indelible.note import Note
from indelible.policy import CUSTODY
from indelible.verdict import Finding, Level, Verdict, collecting
from indelible.verify import Seen, first_of, verify_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from indelible.accounting import Accounts
    from indelible.note import VerifierKey
    from indelible.pins import Pins
    from indelible.store import Store
    from indelible.vault import Vault
    from indelible.verify import CheckFile


def verify(
    path: Path,
    store: Store,
    pins: Pins,
    *,
    keys: Iterable[VerifierKey],
    checkpoints: Iterable[bytes],
    jobs: int,
    deep: bool,
    progress: Callable[[int, int], None] | None,
    vault: Vault | None = None,
) -> Verdict:
    """
    Verify the trail at *path*, whose *store* is open; see `Trail.verify`.

    Args:
        vault: Whose values are accounted for, too.

    Raises:
        CallerError, VerificationError, StoreError: As `Trail.verify`.
    """
    trusted = _trusted(store, pins, keys)
    verdict = verify_trail(
        partial(open_store, path, url=_database(store)),
        keys=trusted,
        known=_seen(path, store, pins, trusted, checkpoints),
        check_file=_check_file(path, _database(store)),
        jobs=jobs,
        deep=deep,
        progress=progress,
    )
    if (finding := _verify_description(path, store)) is not None:
        findings = (*verdict.findings, finding)
        verdict = replace(verdict, level=Level.TAMPERED, findings=findings)
    if found := _of_producers(store):
        findings = (*verdict.findings, *found)
        verdict = replace(verdict, level=Level.TAMPERED, findings=findings)
    return verdict if vault is None else _accounted(verdict, store, vault, progress)


def _database(store: Store) -> str | None:
    """Return the URL that *store* was opened with, where it is in a database."""
    return getattr(store, "url", None)


def _check_file(path: Path, url: str | None) -> CheckFile:
    """Return what checks closed segments, as the store of the trail at *path* keeps them."""
    if url is not None:
        from indelible.stores.postgresql_check import check_segment  # noqa: PLC0415 - below

        return partial(check_segment, url)
    from indelible.stores.sqlite_check import check_file  # noqa: PLC0415 - as `open_store`

    return partial(check_file, path)


def _of_producers(store: Store) -> list[Finding]:
    """Hold what a collector has of its producers against what they have signed."""
    from indelible.collected import verify_producers  # noqa: PLC0415 - others have none

    findings: list[Finding] = []
    with collecting(findings, CUSTODY, "producers"), store.read() as view:
        findings += verify_producers(view)
    return findings


def _accounted(
    verdict: Verdict,
    store: Store,
    vault: Vault,
    progress: Callable[[int, int], None] | None,
) -> Verdict:
    """Add to the *verdict* on the logs what became of the values that they commit to."""
    from indelible.accounting import account_for  # noqa: PLC0415 - of logs alone, nothing is

    accounts = account_for(store, vault, progress=progress)
    found = tuple(_alarms(accounts, {finding.log for finding in verdict.findings}))
    return replace(
        verdict,
        level=Level.TAMPERED if found else verdict.level,
        findings=(*verdict.findings, *found),
        values={state.value: count for state, count in sorted(accounts.totals.items())},
        does_not_show=(*verdict.does_not_show, *_limits(accounts)),
    )


def _alarms(accounts: Accounts, named: Collection[str]) -> Iterator[Finding]:
    for wrong in (*accounts.wrong, *accounts.hidden):
        log, _, index = wrong.entry.partition("#")
        yield Finding(log=log, where=f"entry {index}", what=wrong.what)
    if not accounts.locked:
        keys = list(accounts.unreadable.items())
        for key, count in keys[:_MOST_KEYS]:
            what = f"{count} {'value' if count == 1 else 'values'} cannot be read: {key}"
            yield Finding(log=CUSTODY, where="keyring", what=what)
        if len(keys) > _MOST_KEYS:
            what = f"{len(keys) - _MOST_KEYS} more data keys are wanting"
            yield Finding(log=CUSTODY, where="keyring", what=what)
    for each in accounts.alarms:
        where = f"entry {each.index} {each.path}"
        yield Finding(log=each.log, where=where, what=f"{each.state}: {each.why}")
    if more := accounts.alarm_count - len(accounts.alarms):
        what = f"{more} more values are missing or were tampered with"
        yield Finding(log=accounts.alarms[-1].log, where="values", what=what)
    for part in accounts.unaccounted:
        log, _, what = part.partition(": ")
        # Where the log itself was found not to hold, this is the same thing again.
        if log not in named:
            yield Finding(log=log, where="values", what=what)


_MOST_KEYS = 100


def _limits(accounts: Accounts) -> Iterator[str]:
    for key, count in accounts.unreadable.items() if accounts.locked else ():
        yield f"{count} {'value' if count == 1 else 'values'}: what they are; {key}"
    if alone := accounts.self_approved:
        who = "1 erasure" if alone == 1 else f"{alone} erasures"
        yield f"{who}: that anybody approved but the owner of the keys alone (self-approved)"


def _verify_description(path: Path, store: Store) -> Finding | None:
    """Hold ``trail.json`` against what the first entry of the custody stream says it was."""
    findings: list[Finding] = []
    with collecting(findings, CUSTODY, "trail.json"), store.read() as view:
        custody = view.heads().get(CUSTODY)
        if custody is None or not custody.size:
            raise Damaged("no custody entry says what it was when the trail was made")
        (first,) = query.items(view, CUSTODY, [0])
        said = first.event.data if first.event.action == "trail.create" else None
        for name, value in describe(path).said().items():
            if said is None or said.get(name) != value:
                raise Damaged(f"{name}: found {value!r}, expected what custody entry 0 says")
    return findings[0] if findings else None


def _trusted(store: Store, pins: Pins, keys: Iterable[VerifierKey]) -> dict[str, VerifierKey]:
    """Return the key to trust for each log: one of *keys*, or the pinned one."""
    trusted = {log: pin.key for log, pin in pins.read().items()}
    logs = _logs_by_origin(store)
    for key in keys:
        if key.name not in logs:
            raise CallerError(f"key: is of {key.name}, expected one of {', '.join(sorted(logs))}")
        with store.read() as view:
            trusted[logs[key.name]] = first_of(key, view.rotations(logs[key.name]))
    return trusted


def _logs_by_origin(store: Store) -> dict[str, str]:
    with store.read() as view:
        return {head.origin: log for log, head in view.heads().items()}


def _seen(
    path: Path,
    store: Store,
    pins: Pins,
    trusted: Mapping[str, VerifierKey],
    checkpoints: Iterable[bytes],
) -> list[Seen]:
    """Return the trees that were seen before: in the mark, the pins, older *checkpoints*."""
    seen = [
        Seen(log=log, where="high-water mark", tree=tree)
        for log, tree in Mark(path / "mark").read().items()
    ]
    seen += [
        Seen(log=log, where="pin", tree=pin.known)
        for log, pin in pins.read().items()
        if pin.known is not None
    ]
    logs = _logs_by_origin(store)
    for note in checkpoints:
        origin = Note.from_bytes(note).text.partition("\n")[0]
        if origin not in logs:
            raise CallerError(
                f"checkpoint: is of {origin}, expected one of {', '.join(sorted(logs))}"
            )
        opened = Checkpoint.open(note, _keys_of(store, logs[origin], trusted))
        tree = Known(opened.size, opened.root)
        where = f"checkpoint over {opened.size} entries"
        seen.append(Seen(log=logs[origin], where=where, tree=tree))
    return seen


def _keys_of(store: Store, log: str, trusted: Mapping[str, VerifierKey]) -> list[VerifierKey]:
    """Return the trusted key of *log* and those that it handed over to."""
    if log not in trusted:
        raise CallerError(f"checkpoint: no key is pinned or given for log {log}")
    with store.read() as view:
        return handed_over(trusted[log], view.rotations(log))
