"""Commands that make a trail forget, or keep: erase, approve, person-key, purge, hold."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indelible.cli import output
from indelible.cli.arguments import Directory, Json, trail_and, trail_of
from indelible.errors import CallerError, NotApproved, NotFound
from indelible.policy import OWNER
from indelible.trail import Trail
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from indelible.plan import Plan
    from indelible.policies import Consent
    from indelible.policy import Approvals
    from indelible.removal import Done

_MAX_FILE = 2**28
"""Larger than a plan that covers as much as one can."""

_Plan = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="File of the plan to carry out."),
]
_Approval = Annotated[
    list[str] | None,
    typer.Option(
        "--approval",
        metavar="FILE",
        help="An approval of the plan; by default all that lie beside it, PLAN.approval-*.",
    ),
]
_Out = Annotated[
    str | None,
    typer.Option("--out", metavar="PLAN", help="File to write the plan to."),
]
_Requester = Annotated[
    str, typer.Option("--requester", metavar="WHO", help="Who asks: a person of the policy.")
]


def erase(
    *,
    directory: Directory = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="TYPE:ID", help="Whose values, such as user:alice."),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATH",
            help="Only values at this path, such as /client/ip. Internal values, such as"
            " /rationale, are erased only where they are named so.",
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option("--basis", metavar="TEXT", help="The legal ground: 'GDPR Art. 17(1)(b)'."),
    ] = None,
    requester: _Requester = OWNER,
    scan: Annotated[
        bool,
        typer.Option("--scan", help="Look into every value, not only where the index points."),
    ] = False,
    out: _Out = None,
    plan: _Plan = None,
    approval: _Approval = None,
    json: Json = False,
) -> None:
    """
    Plan an erasure, or carry one out.

    With --subject and --basis, a plan is written: what can be erased, what a hold or a
    floor keeps for now, and who must approve. Nothing changes. With --plan, a plan that was
    approved is carried out: the values are gone for good, and the log still proves all
    else. If that was cut off, carry the same plan out again.
    """
    where = trail_of(directory)
    if plan is not None:
        if subject is not None or basis is not None or path or scan or out is not None:
            raise CallerError("--plan: found options that make a plan, expected --approval alone")
        _carry_out(where, Path(plan), approval, Trail.erase, "erased", json=json)
        return
    if subject is None or basis is None:
        raise CallerError(
            "erase: found no plan; make one with --subject TYPE:ID --basis TEXT, or carry one out"
            " with --plan PLAN"
        )
    with open_trail(where, mode="r") as trail:
        made = trail.plan_erasure(
            subject, basis=basis, paths=path or (), requester=requester, scan=scan
        )
        target = write_plan(made, out)
        _show_plan(trail, made, target, trail.policy.governance.erasure, json=json)


def approve(
    *,
    directory: Directory = None,
    plan: Annotated[str | None, typer.Argument(metavar="PLAN", help="File of the plan.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Your signing key, made by person-key. Without it, the owner approves, with the"
            " key of the trail itself.",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option("--as", metavar="PERSON", help="Who you are in the policy."),
    ] = None,
    json: Json = False,
) -> None:
    """
    Approve a plan: sign exactly what it says, and nothing else.

    Shows what is approved, and writes the approval beside the plan, as
    PLAN.approval-PERSON.
    """
    where, name = trail_and(directory, plan, "PLAN")
    source = Path(name)
    with open_trail(where, mode="r") as trail:
        made = _read_plan(source)
        _check_plan(trail, made)
        signed, who = _approval(trail, made, key, person)
        target = source.with_name(f"{source.name}.approval-{who}")
        _write_new(target, signed)
        if json:
            output.print_json({"approval": str(target), "person": who, **_plan_json(trail, made)})
            return
        output.print_fields(
            [*_plan_fields(trail, made), ("approved by", who), ("approval", str(target))]
        )


def person_key(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to write the key to.")],
    name: Annotated[
        str, typer.Option("--name", metavar="ID", help="Your id in the policy, such as dpo.")
    ],
    json: Json = False,
) -> None:
    """
    Make the key with which a person approves plans.

    Prints what stands in the policy's [people] for it. Who reads the file can approve in
    that name: it belongs to the person alone, and not on the machine of the trail.
    """
    from indelible.keys import SigningKey, write_key  # noqa: PLC0415 - only for this command

    made = SigningKey.generate(name)
    write_key(file, made)
    text = f"ed25519:{b64encode(made.verifier.public).decode()}"
    if json:
        output.print_json({"file": file, "person": name, "key": text})
    else:
        output.print_fields([("file", file), ("person", name), ("key", text)])


def purge(
    *,
    directory: Directory = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is due; nothing changes.")
    ] = False,
    requester: _Requester = OWNER,
    out: _Out = None,
    plan: _Plan = None,
    approval: _Approval = None,
    json: Json = False,
) -> None:
    """
    Remove what retention has released: values whose ceiling has passed, then entries.

    What a legal hold or a floor keeps stays; what was cut off before is finished. Where
    the policy asks for approvals, write the plan with --out, have it approved, and carry
    it out with --plan. To be run once a day, say from a timer.
    """
    where = trail_of(directory)
    if plan is not None:
        _carry_out(where, Path(plan), approval, Trail.purge, "purged", json=json)
        return
    if dry_run or out is not None:
        with open_trail(where, mode="r") as trail:
            try:
                made = trail.plan_purge(requester=requester)
            except NotFound as nothing:
                _show_nothing(str(nothing), json=json)
                return
            target = None if out is None else write_plan(made, out)
            _show_plan(trail, made, target, trail.policy.governance.purge, json=json)
        return
    with Trail(where) as trail:
        done = list(_purge_all(trail, requester))
    _show_done(done, "purged", json=json)


def _purge_all(trail: Trail, requester: str) -> Iterator[Done]:
    """Finish what was cut off, then purge one plan after the other, until nothing is due."""
    from indelible.policies import Consent  # noqa: PLC0415 - only for this command

    yield from trail.resume()
    needed = trail.policy.governance.purge
    while True:
        try:
            made = trail.plan_purge(requester=requester)
        except NotFound:
            return
        if needed is not None:
            raise NotApproved(
                f"purge: the policy asks for approvals of {_people(needed)}; write a plan with"
                " --out PLAN, have it approved, and carry it out with --plan PLAN"
            )
        yield trail.purge(Consent(plan=made.to_bytes()))


# ---- Holds ----


def hold_add(
    *,
    directory: Directory = None,
    ground: Annotated[str, typer.Option("--ground", metavar="TEXT", help="Why: a case, an order.")],
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="TYPE:ID", help="What is held about whom.")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="QUERY", help="What this query finds.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All that the trail holds.")
    ] = False,
    json: Json = False,
) -> None:
    """
    Place a legal hold: what it is on is neither erased nor purged while it lasts.

    It is also on what is recorded later. Prints its id, by which it is released.
    """
    chosen = [subject is not None, query is not None, everything]
    if chosen.count(True) != 1:
        raise CallerError("hold: expected exactly one of --subject, --query and --everything")
    with Trail(trail_of(directory)) as trail:
        name = trail.hold(ground=ground, subject=subject, query=query)
    if json:
        output.print_json({"hold": name})
    else:
        output.print_fields([("hold", name)])


def hold_release(
    *,
    directory: Directory = None,
    name: Annotated[
        str | None, typer.Argument(metavar="ID", help="Id of the hold, as hold list shows it.")
    ] = None,
    json: Json = False,
) -> None:
    """Release a legal hold."""
    where, hold = trail_and(directory, name, "ID")
    with Trail(where) as trail:
        trail.release(hold)
    if json:
        output.print_json({"released": hold})
    else:
        output.print_fields([("released", hold)])


def hold_list(*, directory: Directory = None, json: Json = False) -> None:
    """List every legal hold that was ever placed, the oldest first."""
    from indelible.plan import text_of  # noqa: PLC0415 - only for this command

    with open_trail(trail_of(directory), mode="r") as trail:
        holds = trail.holds()
    if json:
        output.print_json({"holds": holds})
        return
    output.print_table(
        ("hold", "placed", "released", "on", "ground"),
        [
            (
                hold.id,
                text_of(hold.placed_at),
                "" if hold.released_at is None else text_of(hold.released_at),
                hold.subject or hold.query or "everything",
                hold.ground,
            )
            for hold in holds
        ],
    )


# ---- Plans and approvals in files ----


def _carry_out(
    where: Path,
    source: Path,
    approval: Sequence[str] | None,
    carry_out: Callable[[Trail, Consent], Done],
    what: str,
    *,
    json: bool,
) -> None:
    consent = read_consent(str(source), approval)
    with Trail(where) as trail:
        done = carry_out(trail, consent)
    _show_done([done], what, json=json)


def read_consent(plan: str, approval: Sequence[str] | None) -> Consent:
    """Read a plan and its approvals: those named, or all that lie beside it."""
    from indelible.policies import Consent  # noqa: PLC0415 - only for these commands

    source = Path(plan)
    given = (
        sorted(source.parent.glob(f"{source.name}.approval-*"))
        if approval is None
        else [Path(each) for each in approval]
    )
    return Consent(plan=_read(source), approvals=tuple(map(_read, given)))


def _approval(trail: Trail, plan: Plan, key: str | None, person: str | None) -> tuple[bytes, str]:
    """Return an approval of *plan*, and whose it is."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only for this command

    from indelible.approval import Approval, key_of  # noqa: PLC0415 - the same
    from indelible.keys import read_key  # noqa: PLC0415 - the same

    if key is None:
        if person not in {None, OWNER}:
            raise CallerError(f"--as {person}: found no --key, expected the key of {person}")
        return trail.approve(plan), OWNER
    signer = read_key(key)
    who = signer.name if person is None else person
    if key_of(who, trail.policy).public != signer.verifier.public:
        raise CallerError(
            f"{key}: is not the key that policy {trail.policy.label} has for {who}; approve with"
            " that one, or have the policy changed"
        )
    return Approval.sign(plan, who, signer, datetime.now(UTC)), who


def _check_plan(trail: Trail, plan: Plan) -> None:
    """
    Check that an approval of *plan* can be of use.

    Raises:
        NotApproved: It is for another trail, or was made under another policy.
    """
    if plan.trail != trail.id:
        raise NotApproved(f"plan: is for trail {plan.trail}, expected {trail.id}")
    if plan.policy != trail.policy.digest.hex():
        raise NotApproved(
            f"plan: was made under policy {plan.policy}, and {trail.policy.label} is in force;"
            " have a new plan made"
        )


def write_plan(plan: Plan, out: str | None) -> Path:
    """
    Write *plan* into a file that is not there yet, and return its path.

    Raises:
        CallerError: There is one.
    """
    target = Path(f"{plan.kind}-{plan.digest.hex()[:12]}.plan" if out is None else out)
    _write_new(target, plan.to_bytes())
    return target


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise CallerError(
            f"{path}: found a file, expected none; remove it, or choose another name"
        ) from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise CallerError(f"{path}: found more than {_MAX_FILE} bytes, expected a plan or approval")
    return data


def _read_plan(path: Path) -> Plan:
    from indelible.plan import Plan  # noqa: PLC0415 - only for these commands

    return Plan.from_bytes(_read(path))


# ---- What is shown ----


def _show_plan(
    trail: Trail, plan: Plan, target: Path | None, needed: Approvals | None, *, json: bool
) -> None:
    who = "nobody" if needed is None else _people(needed)
    if json:
        output.print_json(
            {
                "plan": None if target is None else str(target),
                **_plan_json(trail, plan),
                "approvals": None if needed is None else {"n": needed.n, "from": needed.from_},
            }
        )
        return
    output.print_fields(
        [
            *([] if target is None else [("plan", str(target))]),
            *_plan_fields(trail, plan),
            ("must approve", who),
        ]
    )


def _plan_json(trail: Trail, plan: Plan) -> dict[str, Any]:
    from indelible.plan import text_of  # noqa: PLC0415 - only for these commands

    return {
        "digest": plan.digest.hex(),
        "kind": plan.kind,
        "basis": plan.basis,
        "requester": plan.requester,
        "not_before": text_of(plan.not_before),
        "expires": text_of(plan.expires),
        "entries": len(plan.cover),
        "values": _classes(trail, plan),
        "deferred": _grounds(plan),
        "detail": plan.detail,
    }


def _plan_fields(trail: Trail, plan: Plan) -> Iterator[tuple[str, str]]:
    from indelible.plan import text_of  # noqa: PLC0415 - only for these commands

    yield "digest", plan.digest.hex()
    yield "kind", plan.kind
    yield "basis", plan.basis
    yield "requester", plan.requester
    yield "from", text_of(plan.not_before)
    yield "until", text_of(plan.expires)
    if plan.kind in {"erase", "purge"}:
        yield "entries", str(len(plan.cover))
        for class_, count in _classes(trail, plan).items():
            yield class_, _count(count, "value")
        for ground, count in _grounds(plan).items():
            yield "deferred", f"{_count(count, 'value')}: {ground}"
    if in_clear := plan.detail.get("in_clear"):
        yield "in clear", f"{_count(in_clear, 'entry', 'entries')} of the log, where it stays"
    for name, value in plan.detail.items():
        if name != "in_clear":
            yield name, output.value_text(value)


def _classes(trail: Trail, plan: Plan) -> dict[str, int]:
    """Count the values that *plan* covers by their class."""
    from indelible.removal import covered_values  # noqa: PLC0415 - only for these commands

    with trail.store.read() as view:
        values = covered_values(view, trail.vault.keyring, plan, trail.policy)
        return dict(sorted(Counter(value.class_.value for value in values).items()))


def _grounds(plan: Plan) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for each in plan.deferred:
        counted[each.ground] += len(each.paths)
    return dict(sorted(counted.items()))


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _people(needed: Approvals) -> str:
    return f"{max(needed.n, 1)} of {', '.join(needed.from_)}"


def _show_nothing(why: str, *, json: bool) -> None:
    if json:
        output.print_json({"entries": 0, "values": {}})
    else:
        output.print_text(why)


def _show_done(done: Sequence[Done], what: str, *, json: bool) -> None:
    entries, values = sum(each.entries for each in done), sum(each.values for each in done)
    keys, plans = sum(each.keys for each in done), [each.plan.hex() for each in done]
    alone = any(each.self_approved for each in done)
    prefixes = {log: first for each in done for log, first in each.prefixes.items()}
    if json:
        shown: dict[str, Any] = {
            "entries": entries,
            "values": values,
            "keys": keys,
            "plans": plans,
        }
        if prefixes:
            shown["begins"] = prefixes
        output.print_json({what: {**shown, "self_approved": alone}})
        return
    output.print_fields(
        [
            (what, f"{_count(values, 'value')} of {_count(entries, 'entry', 'entries')}"),
            ("keys destroyed", str(keys)),
            *(("begins", f"{log} at {first}") for log, first in prefixes.items()),
            *(("plan", plan) for plan in plans),
            *([("self-approved", "by whoever holds the trail's keys")] if alone else []),
        ]
    )


def _build_hold() -> typer.Typer:
    built = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        help="Place, release and list legal holds.",
    )
    for name, command in (("add", hold_add), ("release", hold_release), ("list", hold_list)):
        built.command(name)(command)
    return built


hold = _build_hold()
