"""Commands about the policy and the vault of a trail: policy show, policy set, vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from indelible import policies
from indelible.cli import output, policing
from indelible.cli.arguments import Directory, Json, trail_and, trail_of
from indelible.cli.forgetting import read_consent, write_plan
from indelible.entry import time_to_text
from indelible.errors import NotApproved
from indelible.trail import Trail
from indelible.trail import open as open_trail

if TYPE_CHECKING:
    from indelible.policies import Version


def policy_show(
    *,
    directory: Directory = None,
    history: Annotated[
        bool, typer.Option("--history", help="Every version, and since when, the newest first.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the policy that a trail is under, as it was set."""
    with open_trail(trail_of(directory), mode="r") as trail, trail.store.read() as view:
        if not history:
            policy = policies.current(view)
            text = policies.text_of(policy)
            if json:
                output.print_json({**_named(policy), "text": text.decode()})
            else:
                output.print_exact(text)
            return
        versions = list(policies.versions(view))
    rows = [_version(each) for each in versions]
    if json:
        for row in rows:
            output.print_json(row)
        return
    output.print_table(
        ("policy", "since", "entry", "loosens", "approved"),
        [
            (
                str(row["policy"]),
                str(row["since"]),
                str(row["entry"]),
                "; ".join(row["loosens"]),
                "self-approved" if row["self_approved"] else "",
            )
            for row in rows
        ],
    )


def _named(policy: Any) -> dict[str, Any]:  # noqa: ANN401 - a `Policy`
    return {"policy": policy.label, "digest": policy.digest.hex(), "version": policy.version}


def _version(version: Version) -> dict[str, Any]:
    said = version.item.event.data or {}
    return {
        **_named(version.policy),
        "since": time_to_text(version.item.entry.recorded_at),
        "entry": output.place_of(version.item),
        "loosens": list(said.get("loosens", ())),
        "self_approved": bool(said.get("self_approved")),
    }


def policy_set(
    *,
    directory: Directory = None,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The new policy in TOML.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan", metavar="PLAN", help="Plan of the change that people have approved."
        ),
    ] = None,
    approval: Annotated[
        list[str] | None,
        typer.Option(
            "--approval",
            metavar="FILE",
            help="An approval; by default all that lie beside the plan, PLAN.approval-*.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="PLAN", help="Where to write the plan, if one is needed."),
    ] = None,
    json: Json = False,
) -> None:
    """
    Put a trail under another policy from now on.

    What it loosens is recorded with it. If the policy in force asks others to approve
    that, this writes a plan for them to sign; call it again with --plan then.
    Applications take the new policy into use when they open the trail anew.
    """
    path, name = trail_and(directory, file, "FILE")
    new = policing.load(name)
    with Trail(path) as trail:
        before = trail.policy
        try:
            trail.set_policy(new, None if plan is None else read_consent(plan, approval))
        except NotApproved:
            if plan is not None:
                raise
            made = trail.plan_policy(new)
            written = write_plan(made, out or f"{name}.plan")
            output.note(
                f"it loosens the policy in force, which asks for"
                f" {before.governance.loosening.n} of"
                f" {', '.join(before.governance.loosening.from_)} to approve: {written}"
            )
            raise
        with trail.store.read() as view:
            row = _version(next(policies.versions(view)))
    if json:
        output.print_json({"before": before.label, **row})
        return
    output.print_fields(
        [
            ("policy", str(row["policy"])),
            ("before", before.label),
            ("entry", str(row["entry"])),
            *(("loosens", sentence) for sentence in row["loosens"]),
            *([("approved", "self-approved")] if row["self_approved"] else []),
        ]
    )


def vault_show(*, directory: Directory = None, json: Json = False) -> None:
    """Print which keys the vault has: versions of its key, and data keys under each."""
    with open_trail(trail_of(directory), mode="r") as trail:
        keks = trail.vault.keyring.keks()
        counts = trail.vault.keyring.versions()
        index = len(trail.vault.keyring.index_keys())
    rows = [
        {
            "version": kek.version,
            "kept_by": kek.kind,
            "created_at": time_to_text(kek.created_at),
            "data_keys": counts.get(kek.version, 0),
        }
        for kek in keks
    ]
    if json:
        output.print_json({"versions": rows, "index_keys": index})
        return
    output.print_table(
        ("version", "kept by", "created", "data keys"),
        [tuple(map(str, row.values())) for row in rows],
    )


def vault_rotate(
    *,
    directory: Directory = None,
    index: Annotated[
        bool, typer.Option("--index", help="The key that values are found by, instead.")
    ] = False,
    json: Json = False,
) -> None:
    """
    Give the vault a new key, wrap all living data keys under it, and destroy the old one.

    Old copies of the keyring open nothing any more then. With --index, values that are
    recorded from now on are found by a new key; older ones are found by theirs.
    """
    with Trail(trail_of(directory)) as trail:
        number = trail.rotate_vault(index=index)
    name = "index key" if index else "vault key version"
    if json:
        output.print_json({"index_key" if index else "version": number})
    else:
        output.print_fields([(name, str(number))])


def _commands(app: typer.Typer, *commands: tuple[str, Any]) -> typer.Typer:
    for name, command in commands:
        app.command(name)(command)
    return app


policy = _commands(policing.app, ("show", policy_show), ("set", policy_set))

vault = _commands(
    typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        help="See and rotate the keys of the vault.",
    ),
    ("show", vault_show),
    ("rotate", vault_rotate),
)
