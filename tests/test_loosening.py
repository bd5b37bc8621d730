"""Loosening: what a new version of a policy allows that the old one did not."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indelible.document import default, parse
from indelible.errors import InvalidPolicy
from indelible.event import Actor, ActorType, Event, Kind, Outcome, Resource
from indelible.loosening import changed, loosened, tightened, verify_succession
from indelible.policy import Level, Policy, Rule, Stream

SHOP = (Path(__file__).parent / "policies" / "shop.toml").read_text("utf-8")
KEY = "ed25519:" + "BQUF" * 10 + "BQU="


def change(old: str, new: str) -> tuple[Policy, Policy]:
    """Return the example, and what it becomes where *new* stands for *old*."""
    assert old in SHOP
    return parse(SHOP.encode()), parse(SHOP.replace(old, new, 1).encode())


# What stands in the example, what weakens it, and what is said of that.
WEAKER = [
    # fields
    (
        '"/changes/password" = { class = "secret" }',
        "",
        "/changes/password: secret becomes personal",
    ),
    (
        '"*"                 = { class = "personal" }',
        '"*" = { class = "internal" }',
        "/session: personal becomes internal",
    ),
    (
        '"*"                 = { class = "personal" }',
        '"*" = { class = "accountable" }',
        "/tenant: personal becomes accountable",
    ),
    (
        '"/changes/*"        = { class = "personal", subject = "resource" }',
        '"/changes/*" = { class = "public" }',
        "/changes/*: personal becomes public",
    ),
    (
        "@user,customer,patient",
        "@user,customer",
        "/resource/id of patient: personal becomes public",
    ),
    (
        'subject = "actor", search = "exact"',
        'search = "exact"',
        "/actor/id: an erasure of the actor",
    ),
    (
        'subject = "resource", search = "exact"',
        'subject = "actor", search = "exact"',
        "/resource/id of customer, patient, user: an erasure reaches it of the actor",
    ),
    ('ceiling = "90d"', 'ceiling = "91d"', "/client/ip: the ceiling is 91d, before 90d"),
    (', ceiling = "90d"', "", "/client/ip: the ceiling is none, before 90d"),
    (
        '{ class = "secret" }',
        '{ class = "secret", fingerprint = true }',
        "/changes/password: a fingerprint is kept",
    ),
    # rules
    (
        '[[rule]]\naction = "role.*"',
        '[[rule]]\naction = "role.read"\nlevel = "none"\n[[rule]]\naction = "role.*"',
        "events such as role.read: level full becomes none",
    ),
    ('expect = "1/h" ', 'level = "changes" ', "level full becomes changes"),
    ('expect = "1/h" ', 'level = "metadata" ', "level full becomes metadata"),
    ('expect = "1/h" ', "", "events such as auth.*: nothing is expected of them, before 1/h"),
    ('stream = "auth"', 'stream = "user"', "events such as auth.*: they go to stream user"),
    ('["admin", "staff"]', '["admin"]', "by an actor with role staff: they go to stream user"),
    (
        "approvals = { n = 2",
        "approvals = { n = 1",
        "events such as role.*: 1 must approve, before 2",
    ),
    ('valid = "24h" }', 'valid = "25h" }', "role.*: how long it is valid is 25h, before 24h"),
    (
        'approvals = { n = 2, from = ["sec-lead", "it-lead"], valid = "24h" }',
        "",
        "events such as role.*: no approval is needed, before 2 of sec-lead, it-lead",
    ),
    # streams and retention
    (
        'on_failure = "refuse"',
        'on_failure = "continue"',
        "stream admin: where an event cannot be written, the action goes on",
    ),
    ('require = ["rationale"], ', "", "stream admin: rationale is no longer required"),
    (', sinks = ["siem"]', "", "stream admin: is no longer sent to siem"),
    ('floor = "6y"', 'floor = "5y"', "stream admin: the floor is 5y, before 6y"),
    ('floor = "6y", ', "", "stream admin: the floor is none, before 6y"),
    ('ceiling = "7y"', 'ceiling = "8y"', "stream admin: the ceiling is 8y, before 7y"),
    (', ceiling = "7y"', "", "stream admin: the ceiling is none, before 7y"),
    (", worm = true", "", "stream admin: is not kept where nothing can be rewritten"),
    # who sees, who approves
    ('personal = "grant"', 'personal = "masked"', "role auditor: sees personal values: masked"),
    ('personal = "grant"', 'personal = "plain"', "role auditor: sees personal values: plain"),
    (
        "operator = {",
        'helper = { internal = "plain" }\noperator = {',
        "role helper: sees internal values: plain, before hide",
    ),
    (
        "[roles] ",
        f'erin = {{ name = "Erin", key = "{KEY}" }}\n[roles] ',
        "person erin: is new, with no role",
    ),
    (
        "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=",
        "BQUF" * 10 + "BQU=",
        "person carol: has another",
    ),
    (
        'roles = ["it-lead"]',
        'roles = ["it-lead", "dpo"]',
        "person carol: has roles it-lead, dpo, before roles it-lead",
    ),
    (
        'n = 2, from = ["dpo", "audit-lead"]',
        'n = 1, from = ["dpo", "audit-lead"]',
        "erasure: 1 must",
    ),
    (
        'n = 2, from = ["dpo", "audit-lead"]',
        'n = 2, from = ["dpo", "audit-lead", "it-lead"]',
        "erasure: it-lead may approve",
    ),
    ('cooling_off = "72h"', 'cooling_off = "71h"', "erasure: cooling off is 71h, before 72h"),
    ('cooling_off = "72h", ', "", "erasure: cooling off is none, before 72h"),
    ('valid = "7d"', 'valid = "8d"', "erasure: how long it is valid is 8d, before 7d"),
    ('max = "8h"', 'max = "9h"', "grants: how long it is valid is 9h, before 8h"),
    ('purpose = "required"', 'purpose = "optional"', "grants: to say what for is optional"),
    ('max = "1h"', 'max = "2h"', "break glass: for how long is 2h, before 1h"),
    ('who = ["on-call"]', 'who = ["on-call", "it"]', "break glass: it may open values"),
    ('alert = ["ciso", "dpo"]', 'alert = ["dpo"]', "break glass: ciso is no longer alerted"),
    (', review = "24h"', "", "break glass: the review is none, before 24h"),
]


@pytest.mark.parametrize(("old", "new", "said"), WEAKER, ids=[each[2] for each in WEAKER])
def test_what_weakens_a_policy_is_a_loosening(old: str, new: str, said: str) -> None:
    """Each way to protect, capture, keep or ask less is found, and said in a sentence."""
    before, after = change(old, new)

    found = loosened(before, after)

    assert [] != [sentence for sentence in found if said in sentence]


ONE_WAY = ("person carol: has", "they go to stream", "an erasure reaches it of")
"""What loosens in both directions, since nobody can say which of two is the weaker."""


@pytest.mark.parametrize(
    ("old", "new"),
    [each[:2] for each in WEAKER if not any(words in each[2] for words in ONE_WAY)],
)
def test_what_strengthens_a_policy_is_no_loosening(old: str, new: str) -> None:
    """The way back from each loosening needs nobody's approval."""
    before, after = change(old, new)

    assert [] == loosened(after, before)
    assert [] != tightened(after, before) + changed(after, before)


def test_wording_is_no_change() -> None:
    """Comments, spaces and the order of tables make another document, and no other policy."""
    before, after = change("# the most specific wins", "# nothing said")

    assert before.digest != after.digest
    assert ([], [], []) == (
        loosened(before, after),
        tightened(before, after),
        changed(before, after),
    )


def test_the_same_length_of_time_is_the_same() -> None:
    """A year may be written as twelve months."""
    before, after = change('floor = "12mo"', 'floor = "1y"')

    assert ([], []) == (loosened(before, after), tightened(before, after))
    assert "stream user: the floor is 1y, before 12mo" in changed(before, after)


def test_what_needs_approval_that_needed_none_is_tightened() -> None:
    """To ask somebody before a purge, or to allow no emergencies, is stricter."""
    purge = 'purge = { approvals = { n = 1, from = ["dpo"] } }\n'
    glass = SHOP[SHOP.index("break_glass") : SHOP.index("erasure ")]
    before, after = change(glass, purge)

    assert [
        "purge: 1 of dpo must approve, before nobody",
        "break glass: on-call may no longer open values",
    ] == tightened(before, after)
    assert [
        "purge: no approval is needed, before 1 of dpo",
        "break glass: on-call may open values for 1h",
    ] == loosened(after, before)


def test_other_changes_are_told_apart() -> None:
    """Reasons, names and owners change without loosening anything."""
    before, after = change('why = "elevated risk"', 'why = "risk"')

    assert ["rule *: gives other reasons, controls or approvers"] == changed(before, after)
    assert [] == loosened(before, after)
    before, after = change('name = "Alice"', 'name = "Alice A."')
    assert ["person alice: is called Alice A., before Alice"] == changed(before, after)
    before, after = change("security@", "audit@")
    assert ["owner: is audit@example.com, before security@example.com"] == changed(before, after)


def test_an_order_of_rules_that_changes_what_happens_is_a_loosening() -> None:
    """The first rule that matches decides, so a rule that moves up may take events from others."""
    start, end = SHOP.index('[[rule]]\naction = "*"\nactor_roles'), SHOP.index("[fields]")
    admins, *others, last = SHOP[start:end].split("[[rule]]\n")[1:]
    rules = "[[rule]]\n".join(["", *others, last, admins])
    after = SHOP[:start] + rules + SHOP[end:]

    found = loosened(parse(SHOP.encode()), parse(after.encode()))

    assert any("with role admin: they go to stream user, before admin" in each for each in found)


def test_a_rule_that_takes_nothing_from_others_is_no_loosening() -> None:
    """A rule for events that went to the same stream before is new, and that is all."""
    before, after = change(
        '[[rule]]\naction = "*"\nstream = "user"',
        '[[rule]]\naction = "order.*"\nstream = "user"\n[[rule]]\naction = "*"\nstream = "user"',
    )

    assert [] == loosened(before, after)
    assert ["rule order.*: is new"] == changed(before, after)


def test_a_stream_that_is_gone_is_a_loosening() -> None:
    """Without its stream, nothing says any more how long its entries are kept."""
    old = parse(b'policy = { id = "a", version = 1 }\n[streams]\nuser = {}\nb = {}\n')
    new = parse(b'policy = { id = "a", version = 2 }\n[streams]\nuser = {}\nc = {}\n')

    assert ["stream b: is gone"] == loosened(old, new)
    assert ["stream c: is new"] == changed(old, new)


# ---- Rules, whatever they are ----

LEVELS = (Level.NONE, Level.METADATA, Level.CHANGES, Level.FULL)
ACTIONS = ["a", "a.b", "a.b.c", "b.a", "c"]
PATTERNS = [None, "*", "a.*", "a.b.*", "a.b", "a", "b.*"]
SOME_RULES = st.lists(
    st.builds(
        Rule,
        action=st.sampled_from(PATTERNS),
        resource=st.sampled_from([(), ("x",), ("x", "y")]),
        actor=st.sampled_from([(), ("user",), ("system", "user")]),
        actor_roles=st.sampled_from([(), ("r",), ("s",), ("r", "s")]),
        outcome=st.sampled_from([(), (Outcome.DENIED,), tuple(Outcome)]),
        kinds=st.sampled_from([(), ("authentication",)]),
        level=st.sampled_from(LEVELS),
        stream=st.sampled_from(["user", "auth"]),
    ),
    max_size=4,
).map(tuple)
EVENTS = [
    Event(
        action=action,
        outcome=outcome,
        actor=Actor(type=actor, id="1", roles=roles),
        resource=Resource(type=resource, id="1"),
        kind=kind,
    )
    for action in ACTIONS
    for outcome in (Outcome.SUCCESS, Outcome.DENIED)
    for actor in get_args(ActorType)[:3]
    for roles in ((), *((each,) for each in "rst"), *combinations("rst", 2))
    for resource in "xyz"
    for kind in (None, get_args(Kind)[0])
]


@given(before=SOME_RULES, after=SOME_RULES)
def test_no_event_is_captured_less_without_being_a_loosening(
    before: tuple[Rule, ...], after: tuple[Rule, ...]
) -> None:
    """For any two lists of rules: what some event loses is found by comparing the rules alone."""
    streams = {"user": Stream(), "auth": Stream()}
    old, new = (Policy(streams=streams, rules=rules) for rules in (before, after))
    pairs = [(old.rule_on(event), new.rule_on(event)) for event in EVENTS]

    lost = any(
        LEVELS.index(now.level) < LEVELS.index(was.level)
        or (was.stream != now.stream and was.level is not Level.NONE)
        for was, now in pairs
        if now.level is not Level.NONE or was.level is not Level.NONE
    )

    if lost:
        assert [] != loosened(old, new)
    if before == after:
        assert ([], [], []) == (loosened(old, new), tightened(old, new), changed(old, new))


# ---- Succession ----


def successor(old: Policy, **said: object) -> Policy:
    """Return a policy that calls itself the next version of *old*, but for what is *said*."""
    parts = {
        "id": old.id,
        "version": old.version + 1,
        "supersedes": f"sha256:{old.digest.hex()}",
        **said,
    }
    text = ", ".join(
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
        for name, value in parts.items()
        if value is not None
    )
    return parse(f"policy = {{ {text} }}\n".encode())


def test_a_policy_follows_the_one_that_it_names() -> None:
    """The next version is of the same policy, later, and names the digest of the last."""
    verify_succession(parse(SHOP.encode()), successor(parse(SHOP.encode())))
    verify_succession(parse(SHOP.encode()), successor(parse(SHOP.encode()), version=99))


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"id": "other"}, "policy.id"),
        ({"version": 7}, "policy.version"),
        ({"version": 6}, "policy.version"),
        ({"supersedes": None}, "policy.supersedes"),
        ({"supersedes": "sha256:" + "0" * 64}, "policy.supersedes"),
    ],
)
def test_a_policy_that_does_not_follow_is_refused(said: dict[str, object], key: str) -> None:
    """Nobody puts an old version back, or another policy in its place, as if nothing had been."""
    old = parse(SHOP.encode())
    new = successor(old, **said)

    with pytest.raises(InvalidPolicy) as caught:
        verify_succession(old, new)

    assert (key, 1) == (caught.value.key, caught.value.line)
    assert "expected" in str(caught.value)


def test_no_version_follows_itself() -> None:
    """A policy that supersedes itself, or the one that superseded it, would be a circle."""
    old = parse(SHOP.encode())

    with pytest.raises(InvalidPolicy, match=r"policy\.version"):
        verify_succession(old, old)


def test_the_default_policy_can_be_loosened() -> None:
    """The first policy that a trail is given is compared with the one that it had."""
    found = loosened(default(), parse(SHOP.encode()))

    assert "stream user: where an event cannot be written, the action goes on" in found
    assert "/changes/status: personal becomes public" in found
