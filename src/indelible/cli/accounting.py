"""The command for whoever asks what became of the values: accounting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from indelible import accounting as accounting_
from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_of
from indelible.plan import text_of
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from indelible.accounting import Accounts
    from indelible.covers import Cover
    from indelible.verdict import Verdict


def accounting(*, directory: Directory = None, json: Json = False) -> None:
    """
    Account for every value that the log commits to.

    Each is open, erased or purged by an entry that people approved, or unreadable while
    the keyring is closed; what is missing or was tampered with is named, one by one, and
    so are keys that an open keyring lacks. The log is verified first, since it says
    what is rightly gone. The exit code is 0 only if nothing is wanting and the log holds.
    """
    with open_trail(trail_of(directory), mode="r") as trail:
        with output.progress("verify", json=json) as advance:
            verdict = trail.verify(values=False, progress=advance)
        with output.progress("account", json=json) as advance:
            accounts = accounting_.account_for(trail.store, trail.vault, progress=advance)
    if json:
        output.print_json(_as_json(verdict, accounts))
    else:
        output.print_fields(_as_fields(verdict, accounts))
    if accounts.alarming or not verdict.passed:
        raise typer.Exit(1)


def _as_json(verdict: Verdict, accounts: Accounts) -> dict[str, Any]:
    return {
        "level": verdict.level.value,
        "passed": verdict.passed and not accounts.alarming,
        "values": {state.value: count for state, count in sorted(accounts.totals.items())},
        "alarms": [
            {
                "log": each.log,
                "index": each.index,
                "path": each.path,
                "state": each.state.value,
                "why": each.why,
                "entry": each.entry or None,
            }
            for each in accounts.alarms
        ],
        "alarm_count": accounts.alarm_count,
        "unreadable": accounts.unreadable,
        "locked": accounts.locked,
        "removals": [_cover_json(cover) for cover in accounts.covers],
        "wrong": [{"entry": wrong.entry, "what": wrong.what} for wrong in accounts.wrong],
        "hidden": [{"entry": each.entry, "what": each.what} for each in accounts.hidden],
        "unaccounted": accounts.unaccounted,
        "findings": [
            {"log": finding.log, "where": finding.where, "what": finding.what}
            for finding in verdict.findings
        ],
    }


def _cover_json(cover: Cover) -> dict[str, Any]:
    plan = cover.plan
    return {
        "entry": cover.entry,
        "state": cover.state.value,
        "began_at": text_of(cover.began_at),
        "effective": cover.effective,
        "plan": None if plan is None else plan.digest.hex(),
        "entries": None if plan is None else len(plan.cover),
        "values": None if plan is None else sum(len(each.paths) for each in plan.cover),
        "basis": None if plan is None else plan.basis,
        "requester": None if plan is None else plan.requester,
        "approved_by": cover.approved_by,
        "self_approved": cover.self_approved,
        "wrong": cover.wrong or None,
    }


def _as_fields(verdict: Verdict, accounts: Accounts) -> Iterator[tuple[str, str]]:
    yield "log", verdict.level.value if verdict.passed else f"{verdict.level.value}: NO PASS"
    for finding in verdict.findings:
        yield "finding", str(finding)
    for state, count in sorted(accounts.totals.items()):
        yield state.value, f"{count:,}"
    for each in accounts.alarms:
        yield "alarm", str(each)
    if more := accounts.alarm_count - len(accounts.alarms):
        yield "alarm", f"{more:,} more, which are not named here"
    for wrong in accounts.wrong:
        yield "does not hold", str(wrong)
    for hidden in accounts.hidden:
        yield "hidden", str(hidden)
    for key, count in accounts.unreadable.items():
        yield "unreadable", f"{count:,}: {key}"
    for part in accounts.unaccounted:
        yield "unaccounted", part
    for cover in accounts.covers:
        yield cover.state.value.lower(), _cover_text(cover)


def _cover_text(cover: Cover) -> str:
    parts = [cover.entry, text_of(cover.began_at)]
    if cover.plan is not None:
        values = sum(len(each.paths) for each in cover.plan.cover)
        parts.append(f"{values:,} values of {len(cover.plan.cover):,} entries")
        parts.append(f"basis {cover.plan.basis}")
    who = ", ".join(cover.approved_by) or "nobody"
    parts.append(f"approved by {who}{' (self-approved)' if cover.self_approved else ''}")
    parts.append("effective" if cover.effective else "not effective yet")
    if cover.wrong:
        parts.append(f"DOES NOT COUNT: {cover.wrong}")
    return "; ".join(parts)
