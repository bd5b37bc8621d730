"""
Views: the questions that auditors ask of every trail, as queries that have names.

Each is text in the language of queries, so whoever wants to know what a view shows, or wants
another, reads it and changes it.
"""

from __future__ import annotations

import msgspec

from indelible.errors import NotFound


class CuratedView(msgspec.Struct, frozen=True, kw_only=True):
    """
    A question and the query that answers it.

    Attributes:
        says: What an entry in it means, in a sentence.
        query: As `indelible.query.Query.parse` reads it.
    """

    name: str
    title: str
    says: str
    query: str


def of_name(name: str) -> CuratedView:
    """
    Return the view of this *name*.

    Raises:
        NotFound: There is none.
    """
    for view in VIEWS:
        if view.name == name:
            return view
    known = ", ".join(view.name for view in VIEWS)
    raise NotFound(f"view: found {name[:60]!r}, expected one of {known}")


VIEWS = (
    CuratedView(
        name="privileged-changes",
        title="Privileged changes",
        says="Somebody changed who may do what, or did what only administrators do.",
        query=(
            "action:(role.* OR permission.* OR group.* OR admin.* OR token.* OR policy.*"
            " OR caller.act)"
        ),
    ),
    CuratedView(
        name="grants",
        title="Grants",
        says="Somebody asked for a right, was given one, for good or for a time, or used it.",
        query="action:(role.grant OR permission.grant OR grant.* OR token.issue)",
    ),
    CuratedView(
        name="logins",
        title="Logins",
        says="Somebody came, left, or changed how they prove who they are.",
        query="action:auth.*",
    ),
    CuratedView(
        name="failed-logins",
        title="Failed logins",
        says="Somebody tried to come in and was not let in.",
        query="action:auth.* outcome:(failure OR denied)",
    ),
    CuratedView(
        name="denials",
        title="Denials",
        says="Somebody tried what they may not do.",
        query="outcome:denied",
    ),
    CuratedView(
        name="failures",
        title="Failures",
        says="Something was tried and did not work.",
        query="outcome:failure",
    ),
    CuratedView(
        name="refused-access",
        title="Refused access to the trail",
        says="Somebody asked the collector for what they may not see or do.",
        query="stream:custody action:access.refused",
    ),
    CuratedView(
        name="reads",
        title="Reads of the trail",
        says="Somebody read entries, opened values or took entries away in files.",
        query="stream:custody action:(entries.* OR values.open)",
    ),
    CuratedView(
        name="deletions",
        title="Deletions",
        says="An action whose name or values speak of deleting or removing.",
        query='".delete"',
    ),
    CuratedView(
        name="impersonation",
        title="Impersonation",
        says="Somebody began, or ended, to act as another.",
        query="action:(impersonation.* OR impersonate.* OR auth.impersonate)",
    ),
    CuratedView(
        name="administration",
        title="What administrators do",
        says="An entry of the stream to which policy sends what administrators do.",
        query="stream:admin",
    ),
    CuratedView(
        name="access-tokens",
        title="Access tokens",
        says="An access token was issued, replaced or revoked.",
        query="stream:custody action:token.*",
    ),
    CuratedView(
        name="producers",
        title="Producers",
        says="A producer was enrolled or revoked, or something of it did not hold.",
        query="stream:custody action:producer.*",
    ),
    CuratedView(
        name="policy-changes",
        title="Policy changes",
        says="The trail was put under another policy.",
        query="stream:custody action:policy.*",
    ),
    CuratedView(
        name="erasures",
        title="Erasures and purges",
        says="Values or entries were removed, with the plan that was approved.",
        query="stream:custody action:(erase.* OR purge.* OR log.purge OR segment.purge)",
    ),
    CuratedView(
        name="holds",
        title="Legal holds",
        says="A legal hold was placed or released.",
        query="stream:custody action:hold.*",
    ),
    CuratedView(
        name="integrity",
        title="Integrity",
        says="Events were lost, a key changed, a log was succeeded, or something did not hold.",
        query=(
            "stream:custody action:(events.lost OR key.* OR vault.* OR log.succeed"
            " OR producer.alarm OR scrub.*)"
        ),
    ),
)
