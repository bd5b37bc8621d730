"""Commands about a policy: policy lint, test, explain, diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indelible.cli import output
from indelible.cli.arguments import Json  # noqa: TC001 - Typer reads the types at run time
from indelible.errors import CallerError, InvalidEvent, InvalidPolicy
from indelible.fields import OPEN, VALUES
from indelible.policy import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indelible.event import Event
    from indelible.policy import Policy, Ruling

_FINDING = 1
_DEFAULT = "default"

_File = Annotated[
    str,
    typer.Argument(metavar="FILE", help=f"A policy in TOML; {_DEFAULT} is the built-in one."),
]


def lint(*, file: _File, json: Json = False) -> None:
    """
    Say what in a policy is wrong, or may not be meant.

    Each line holds severity, line, key and remark. The exit code is 1 if there are
    errors; warnings are for you to judge.
    """
    from indelible.lint import Remark  # noqa: PLC0415 - only for this command
    from indelible.lint import lint as lint_  # noqa: PLC0415

    try:
        remarks = lint_(load(file))
    except InvalidPolicy as invalid:
        remarks = [
            Remark(key=invalid.key or "", line=invalid.line, what=invalid.message, severity="error")
        ]
    if json:
        output.print_json({"remarks": remarks})
    else:
        output.print_table(
            ("severity", "line", "key", "remark"),
            [
                (each.severity, "" if each.line is None else str(each.line), each.key, each.what)
                for each in remarks
            ],
        )
    if any(each.severity == "error" for each in remarks):
        raise typer.Exit(_FINDING)


def try_out(
    *,
    file: _File,
    event: Annotated[
        str,
        typer.Argument(
            metavar="EVENT.json", help="An event as JSON, as import takes it; - is standard input."
        ),
    ],
    json: Json = False,
) -> None:
    """
    Show what would happen to an event under a policy; nothing is recorded.

    Of each value it says whether it would be kept in clear, committed (its value goes
    into the vault) or dropped. The exit code is 1 if the event would be refused.
    """
    from indelible.sources.jsonl import parse_event  # noqa: PLC0415 - only for this command

    policy = load(file)
    parsed = parse_event(sys.stdin.buffer.read() if event == "-" else _read(event))
    ruling = policy.rule_on(parsed)
    refused = ""
    values: list[dict[str, str | None]] = []
    try:
        values = list(_values(policy, ruling, parsed))
    except InvalidEvent as invalid:
        refused = str(invalid)
    if json:
        output.print_json(
            {
                "policy": ruling.policy,
                "rule": ruling.rule,
                "stream": ruling.stream,
                "level": ruling.level,
                "refused": refused or None,
                "values": values,
            }
        )
    else:
        output.print_fields(
            [
                ("policy", ruling.policy),
                ("rule", ruling.rule),
                ("stream", ruling.stream),
                ("level", ruling.level.value),
                *([("refused", refused)] if refused else []),
            ]
        )
        output.print_table(
            ("path", "class", "whose", "becomes"),
            [tuple(each or "" for each in value.values()) for value in values],
        )
    if refused:
        raise typer.Exit(_FINDING)


def explain(
    *,
    file: _File,
    html: Annotated[bool, typer.Option("--html", help="Write one HTML page.")] = False,
) -> None:
    """Write what a policy means, as Markdown: fields, classes, retention, who sees what."""
    from indelible.reference import to_html, to_markdown  # noqa: PLC0415 - only for this command

    policy = load(file)
    output.print_exact((to_html(policy) if html else to_markdown(policy)).encode())


def diff(
    *,
    old: Annotated[
        str,
        typer.Argument(metavar="OLD", help=f"A policy in TOML; {_DEFAULT} is the built-in one."),
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The version after it.")],
    json: Json = False,
) -> None:
    """
    Say what a new version of a policy loosens, tightens and changes otherwise.

    What it loosens needs the approvals that the old version asks for.
    """
    from indelible import loosening  # noqa: PLC0415 - only for this command

    before, after = load(old), load(new)
    compared: dict[str, Callable[[Policy, Policy], list[str]]] = {
        "loosens": loosening.loosened,
        "tightens": loosening.tightened,
        "changes": loosening.changed,
    }
    found = {way: compare(before, after) for way, compare in compared.items()}
    try:
        if before.id != _DEFAULT:  # which the first policy of one's own follows as it is
            loosening.verify_succession(before, after)
        objection = None
    except InvalidPolicy as invalid:
        objection = str(invalid)
    if json:
        output.print_json(
            {"old": before.label, "new": after.label, **found, "does_not_follow": objection}
        )
        return
    output.print_fields(
        [
            *((way, sentence) for way, sentences in found.items() for sentence in sentences),
            *([("does not follow", objection)] if objection else []),
        ]
    )


def load(file: str) -> Policy:
    """
    Return the policy in *file*, or the built-in one.

    Raises:
        CallerError: There is no such file, or it is no policy.
    """
    from indelible import document  # noqa: PLC0415 - reads TOML

    return document.default() if file == _DEFAULT else document.parse(_read(file))


def _read(file: str) -> bytes:
    path = Path(file)
    if not path.is_file():
        raise CallerError(f"{file}: found no file, expected one")
    return path.read_bytes()


def _values(policy: Policy, ruling: Ruling, event: Event) -> Iterator[dict[str, str | None]]:
    """Yield for each value of *event*, as sealing it decides, what becomes of it."""
    from indelible.seal import seal  # noqa: PLC0415 - only for this command

    if ruling.level is Level.NONE:
        return
    # Which fingerprint does not matter here: the trail's own need its keys.
    clear = seal(event, ruling, policy, fingerprint=lambda path, _: path).clear
    rules = policy.classification(event.actor.type, event.resource.type)
    kept = {"/changes": clear.changes or {}, "/data": clear.data or {}}
    left_out = {
        "/changes": ruling.level is Level.METADATA,
        "/data": ruling.level is not Level.FULL,
    }
    seen = set()
    for path in VALUES:
        value = _value(event, path)
        if value is None or value == ():
            continue
        parts = [(path, rules[path], path not in {*clear.committed, *clear.dropped})]
        if path in OPEN:
            parts = [(*rules.below(path, name), name in kept[path]) for name in value]
        for part, rule, stays in parts:
            if left_out.get(path):
                becomes = "left out by the level"
            elif stays:
                becomes = "kept in clear"
            elif part in clear.dropped:
                becomes = "dropped"
                becomes += ", a fingerprint committed" if part in clear.committed else ""
            else:
                becomes = "committed"
                becomes += ", since it looks like a secret" if part in clear.caught else ""
            if (part, becomes) not in seen:
                seen.add((part, becomes))
                yield {
                    "path": part,
                    "class": rule.class_.value,
                    "subject": rule.subject,
                    "becomes": becomes,
                }


def _value(event: Event, path: str) -> Any:  # noqa: ANN401 - any of an event's
    found: object = event
    for name in path.split("/")[1:]:
        found = getattr(found, name, None)
    return found


COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("lint", lint),
    ("test", try_out),
    ("explain", explain),
    ("diff", diff),
)


def _build() -> typer.Typer:
    built = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        help="Read, check and compare policies.",
    )
    for name, command in COMMANDS:
        built.command(name)(command)
    return built


app = _build()
