"""
Policies to measure under: one that keeps everything in clear, and the default.

What the log itself costs is measured in clear: so its figures stay comparable with
those of a table that keeps everything in clear, and with earlier ones. What sealing,
vault and keyring add is measured under the policy that a newcomer has.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from indelible import document
from indelible.policy import FieldClass, FieldRule

if TYPE_CHECKING:
    from indelible.policy import Policy

_CLEAR = b"""
policy = { id = "clear", version = 1 }

[streams]
user = { on_failure = "refuse" }
auth = { on_failure = "refuse" }
admin = { on_failure = "refuse" }

[[rule]]
name = "everything"
action = "*"
stream = "user"

[fields]
"*" = { class = "public" }
"""


@lru_cache(maxsize=1)
def clear() -> Policy:
    """Return a policy that commits nothing and keeps every field of every event."""
    return document.parse(_CLEAR)


def guarded() -> Policy:
    """Return the default policy: what may name a person lies in the vault."""
    return document.default()


@lru_cache(maxsize=1)
def profiles() -> Policy:
    """
    Return the default policy, but that what changes in a profile is its actor's own.

    So an event with six committed fields in three classes has values of one subject.
    """
    own = FieldRule(class_=FieldClass.PERSONAL, subject="actor")
    return msgspec.structs.replace(
        guarded(),
        id="profiles",
        text=b"",
        fields={**guarded().fields, "/changes/*@profile": own},
    )
