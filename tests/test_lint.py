"""Lint: what a policy says that its author may not have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from indelible.document import default, parse
from indelible.lint import Remark, lint
from indelible.policy import FieldClass, FieldRule, Policy, Rule, Stream

SHOP = (Path(__file__).parent / "policies" / "shop.toml").read_text("utf-8")
HEAD = 'policy = { id = "shop", version = 1 }\n'
SOUND = """
[[rule]]
name = "rest"
[fields]
"*" = { class = "personal", subject = "actor" }
"""


def remarks(text: str) -> list[Remark]:
    """Return what there is to say of a document."""
    return lint(parse(text.encode()))


def test_a_sound_policy_gives_no_cause_for_remarks() -> None:
    """Whoever says what every field holds, and catches every event, hears nothing."""
    assert [] == remarks(HEAD + SOUND)


def test_the_default_policy_has_no_errors() -> None:
    """What trails get that were given no policy is sound; that it asks for no reasons is said."""
    (remark,) = lint(default())

    assert ("warning", "streams.admin") == (remark.severity, remark.key)
    assert "without a rationale" in remark.what


def test_a_remark_says_where_and_how_bad() -> None:
    """Each remark has the line and the key of what it is about, in the order of the document."""
    found = remarks(SHOP)

    assert [
        ("retention.std.ceiling", 7),
        ("retention.long.ceiling", 8),
        ("rule[4]", 29),
        ('fields."*"', 33),
        ("governance.loosening", 52),
    ] == [(remark.key, remark.line) for remark in found]
    assert {"warning"} == {remark.severity for remark in found}


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("", ["why", "approved_by"]),
        ('why = "noise"', ["approved_by"]),
        ('approved_by = ["dpo"]', ["why"]),
        ('why = "noise"\napproved_by = ["dpo"]', []),
    ],
)
def test_what_is_left_out_needs_a_reason_and_somebody_who_agreed(
    said: str, missing: list[str]
) -> None:
    """Events are not silently left out: the policy says why, and who has agreed."""
    rule = f'[[rule]]\naction = "health.*"\nlevel = "none"\n{said}\n'

    found = remarks(HEAD + rule + SOUND)

    assert [("error", "rule[0].level")] * len(missing) == [
        (remark.severity, remark.key) for remark in found
    ]
    assert all(f"no {name!r}" in remark.what for name, remark in zip(missing, found, strict=True))


@pytest.mark.parametrize(
    ("first", "second", "never"),
    [
        ({}, {"action": "role.*"}, True),
        ({"action": "*"}, {"action": "role.grant"}, True),
        ({"action": "role.*"}, {"action": "role.grant"}, True),
        ({"action": "role.*"}, {"action": "role.admin.*"}, True),
        ({"action": "role.*"}, {"action": "role.*", "actor": ("user",)}, True),
        ({"resource": ("user", "role")}, {"resource": ("role",)}, True),
        ({"actor_roles": ("admin", "staff")}, {"actor_roles": ("admin",)}, True),
        ({"action": "role.grant"}, {"action": "role.*"}, False),
        ({"action": "role.*"}, {"action": "*"}, False),
        ({"action": "role.*"}, {"action": "roles.grant"}, False),
        ({"resource": ("role",)}, {"resource": ("user", "role")}, False),
        ({"actor": ("user",)}, {}, False),
        ({"kinds": ("authentication",)}, {"action": "auth.*"}, False),
    ],
)
def test_a_rule_that_never_matches_is_named(
    first: dict[str, object],
    second: dict[str, object],
    never: bool,
) -> None:
    """A rule behind one that takes all it is for is dead, and its author believes otherwise."""
    rules = (
        Rule(name="first", **first),  # type: ignore[arg-type]
        Rule(name="second", **second),  # type: ignore[arg-type]
        Rule(name="rest"),
    )
    policy = Policy(
        streams={"user": Stream()},
        rules=rules,
        fields={"*": FieldRule(class_=FieldClass.PERSONAL, subject="actor")},
    )

    dead = [remark.key for remark in lint(policy) if "never matches" in remark.what]

    assert never is ("rule[1]" in dead)
    assert all(remark.line is None for remark in lint(policy))


def test_what_no_rule_matches_is_pointed_out() -> None:
    """Where the last rule does not match all, it is said what becomes of the rest."""
    found = remarks(
        f'{HEAD}[[rule]]\naction = "invoice.*"\n[fields]\n"*" = {{ class = "secret" }}\n'
    )

    assert [("warning", "rule")] == [(remark.severity, remark.key) for remark in found]
    assert "goes to the stream 'user'" in found[0].what


def test_rules_of_one_name_are_pointed_out() -> None:
    """Entries name the rule that decided; two of one name could not be told apart."""
    rules = '[[rule]]\naction = "a.*"\nkinds = ["authentication"]\n[[rule]]\naction = "a.*"\n'

    (remark,) = remarks(HEAD + rules + SOUND)

    assert ("warning", "rule[1]") == (remark.severity, remark.key)
    assert "'a.*' like rule[0]" in remark.what


def test_what_nobody_uses_is_pointed_out() -> None:
    """A stream without events, a retention without streams, a person without a say."""
    unused = (
        "[streams]\nuser = {}\nspare = {}\n[retention]\nlong = {}\n"
        '[people]\nalice = { name = "Alice",'
        ' key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" }\n'
    )

    found = remarks(HEAD + unused + SOUND)

    assert ["streams.spare", "retention.long", "people.alice"] == [remark.key for remark in found]


def test_who_may_approve_a_purge_has_a_say() -> None:
    """A person without a role may be named by name."""
    alice = (
        '[people]\nalice = { name = "Alice",'
        ' key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" }\n'
    )
    purge = '[governance]\npurge = { approvals = { from = ["alice", "owner"] } }\n'

    assert [] == remarks(HEAD + SOUND + alice + purge)


def test_a_ceiling_says_by_how_much_it_is_missed() -> None:
    """Entries go in tiles of 256: whoever sets a ceiling knows that a quiet stream outlasts it."""
    kept = '[streams]\nuser = { retention = "std" }\n[retention]\nstd = { ceiling = "90d" }\n'

    (remark,) = remarks(HEAD + kept + SOUND)

    assert "retention.std.ceiling" == remark.key
    assert "tiles of 256" in remark.what
    assert "entries of user outlast 90d" in remark.what


def test_a_ceiling_below_the_floor_that_wins_is_pointed_out() -> None:
    """Who is accountable stays for as long as the stream's floor, whatever the field says."""
    kept = '[streams]\nuser = { retention = "std" }\n[retention]\nstd = { floor = "1y" }\n'
    field = '"/actor/id" = { class = "accountable", subject = "actor", ceiling = "90d" }\n'

    (remark,) = remarks(HEAD + kept + SOUND + field)

    assert 'fields."/actor/id".ceiling' == remark.key
    assert "shorter than the floor of user" in remark.what


def test_what_an_erasure_would_not_reach_is_an_error() -> None:
    """A personal field that belongs to nobody stays when a person is erased."""
    fields = '"/session" = { class = "personal" }\n"/data/email" = { class = "personal" }\n'

    found = remarks(HEAD + SOUND + fields)

    assert [('fields."/session"', "error"), ('fields."/data/email"', "error")] == [
        (remark.key, remark.severity) for remark in found
    ]
    assert found[0].what.endswith("does not reach /session")


def test_the_fields_that_nobody_classified_are_listed() -> None:
    """Of a policy that says little it is said which fields belong to nobody."""
    (remark,) = remarks(f'{HEAD}[[rule]]\n[fields]\n"/changes/*" = {{ class = "secret" }}\n')

    assert ('fields."*"', "warning") == (remark.key, remark.severity)
    assert "/client/ip" in remark.what
    assert "/data" in remark.what
    assert "/changes" not in remark.what


@pytest.mark.parametrize(
    "path",
    [
        "/changes/password",
        "/data/api_key",
        "/data/apiToken",
        "/changes/card_number",
        "/data/iban",
        "/data/pin",
        "/changes/cvv",
        "/data/key",
    ],
)
def test_what_is_called_like_a_secret_is_not_left_in_clear(path: str) -> None:
    """A password that a policy calls public would stand in the log for ever."""
    (remark,) = remarks(f'{HEAD}{SOUND}"{path}" = {{ class = "public" }}\n')

    assert (f'fields."{path}".class', "error") == (remark.key, remark.severity)


@pytest.mark.parametrize("path", ["/changes/status", "/data/token_type", "/changes/monkey"])
def test_other_names_are_no_secrets(path: str) -> None:
    """What is known about a secret, or only sounds like one, may be public."""
    assert [] == remarks(f'{HEAD}{SOUND}"{path}" = {{ class = "public" }}\n')


def test_people_in_clear_are_pointed_out() -> None:
    """An identity in clear is out of reach of any erasure."""
    (remark,) = remarks(f'{HEAD}{SOUND}"/actor/id" = {{ class = "public" }}\n')

    assert "leaves /actor/id of people in clear for ever" in remark.what
    assert [] == remarks(f'{HEAD}{SOUND}"/actor/id@service" = {{ class = "public" }}\n')


def test_administration_without_reasons_is_pointed_out() -> None:
    """What administrators do should say why; a stream or a rule can ask for it."""
    rule = '[[rule]]\naction = "role.*"\n'

    (remark,) = remarks(HEAD + rule + SOUND)

    assert ("streams.user", "warning") == (remark.key, remark.severity)
    assert "(rules role.*)" in remark.what
    assert [] == remarks(HEAD + rule + 'require = ["rationale"]\n' + SOUND)


def test_a_guard_that_one_alone_can_take_away_is_pointed_out() -> None:
    """Two who must approve an erasure help little where one may change that rule."""
    found = [each for each in remarks(SHOP) if each.key.startswith("governance")]

    assert ["governance.loosening"] == [remark.key for remark in found]
    assert "what it asks for erasure, grants, too" in found[0].what
