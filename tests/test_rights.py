from __future__ import annotations

import msgspec
import pytest

from indelible.document import default
from indelible.errors import CallerError, Forbidden
from indelible.policy import FieldClass, Policy, Sight
from indelible.rights import RIGHTS, Caller, Verb, check_role

POLICY = default()


def caller(role: str, *, streams: tuple[str, ...] = (), tenant: str | None = None) -> Caller:
    """Return somebody with this role and these limits."""
    return Caller(id="1", name="alice", role=role, streams=streams, tenant=tenant)


def with_role(name: str, sight: Sight) -> Policy:
    """Return the default policy with one more role, which sees personal values so."""
    return msgspec.structs.replace(POLICY, roles={name: {FieldClass.PERSONAL: sight}})


def test_an_operator_reads_no_entries() -> None:
    """Whoever runs a collector gets nothing of what is in it."""
    verbs = RIGHTS["operator"]

    assert verbs.isdisjoint({Verb.READ, Verb.EXPORT, Verb.ERASE, Verb.APPROVE, Verb.RECORD})


def test_an_auditor_configures_nothing() -> None:
    """Whoever looks at how a collector is run does not run it."""
    verbs = RIGHTS["auditor"]

    assert verbs.isdisjoint({Verb.CONFIGURE, Verb.ERASE, Verb.RECORD, Verb.JOIN})


def test_who_records_does_not_read() -> None:
    """A token that was stolen from an application opens nothing."""
    assert {Verb.RECORD} == RIGHTS["recorder"]
    assert {Verb.JOIN} == RIGHTS["join"]


def test_a_role_of_the_policy_may_read() -> None:
    """What it sees the policy says; of what else it may ask there is nothing."""
    policy = with_role("support", Sight.MASKED)

    verbs = caller("support").verbs(policy)

    assert {Verb.READ, Verb.REQUEST} == verbs


def test_a_role_that_is_none_any_more_may_nothing() -> None:
    """A policy takes a role away from those who have tokens of it."""
    with pytest.raises(Forbidden, match="role support: may not read"):
        caller("support").check_may((Verb.READ,), POLICY)


@pytest.mark.parametrize("role", ["owner", "admin", ""])
def test_there_is_no_token_of_the_owner(role: str) -> None:
    """The owner is the process that has the keys, also where a policy calls a role so."""
    policy = with_role(role, Sight.PLAIN)

    with pytest.raises(CallerError, match="expected one of recorder, join, reader, auditor"):
        check_role("owner", policy)
    with pytest.raises(CallerError):
        check_role(role, POLICY)


# ---- Who may issue what ----


@pytest.mark.parametrize("role", ["recorder", "join", "reader", "operator"])
def test_an_operator_issues_tokens_of_roles_that_see_no_values(role: str) -> None:
    """To let applications ship, and people look at what is public, needs no other role."""
    caller("operator").check_may_issue(role, POLICY, streams=(), tenant=None)


@pytest.mark.parametrize("role", ["auditor", "privacy_officer", "owner", "support"])
def test_an_operator_gives_nobody_the_right_to_see_values(role: str) -> None:
    """Else it could give it to itself."""
    policy = with_role("support", Sight.MASKED)

    with pytest.raises(Forbidden, match="where the trail's keys are"):
        caller("operator").check_may_issue(role, policy, streams=(), tenant=None)


def test_a_reader_whom_the_policy_lets_see_values_is_not_an_operators_to_make() -> None:
    """What counts is what the role sees, not what it is called."""
    policy = with_role("reader", Sight.PLAIN)

    with pytest.raises(Forbidden, match="role reader"):
        caller("operator").check_may_issue("reader", policy, streams=(), tenant=None)


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ((("user",), None), ((), None)),
        ((("user",), None), (("user", "admin"), None)),
        (((), "shop"), ((), None)),
        (((), "shop"), ((), "billing")),
        ((("user",), "shop"), (("user",), None)),
    ],
)
def test_nobody_issues_a_token_with_wider_limits(
    own: tuple[tuple[str, ...], str | None], given: tuple[tuple[str, ...], str | None]
) -> None:
    """Whoever sees one stream, or one tenant, does not open others to anybody."""
    operator = caller("operator", streams=own[0], tenant=own[1])

    with pytest.raises(Forbidden, match="no more than the caller's own"):
        operator.check_may_issue("reader", POLICY, streams=given[0], tenant=given[1])


@pytest.mark.parametrize(
    ("own", "given"),
    [
        (((), None), (("user",), "shop")),
        ((("user", "admin"), None), (("user",), None)),
        ((("user",), "shop"), (("user",), "shop")),
    ],
)
def test_narrower_limits_may_be_given(
    own: tuple[tuple[str, ...], str | None], given: tuple[tuple[str, ...], str | None]
) -> None:
    """As much as the issuer has, or less."""
    operator = caller("operator", streams=own[0], tenant=own[1])

    operator.check_may_issue("reader", POLICY, streams=given[0], tenant=given[1])


# ---- What it ships ----


@pytest.mark.parametrize(
    ("producer", "origin", "ships"),
    [
        ("audit.example.com/shop", "audit.example.com/shop/user", True),
        ("audit.example.com/shop", "audit.example.com/shopping/user", False),
        ("audit.example.com/shop", "audit.example.com/shop/eu/user", False),
        ("audit.example.com/*", "audit.example.com/shop/user", True),
        ("audit.example.com/*", "audit.example.community/shop/user", False),
        (None, "audit.example.com/shop/user", False),
    ],
)
def test_a_recorder_ships_the_logs_of_its_own_trail(
    producer: str | None, origin: str, *, ships: bool
) -> None:
    """A name that only begins alike is another's."""
    recorder = Caller(id="1", name="shop", role="recorder", producer=producer)

    assert ships == recorder.ships(origin)
