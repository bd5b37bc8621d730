"""
Access: what the role of a reader sees, and what stands for what it does not.

The rule is enforced where the keys are (`indelible.vault`): who may not see a class gets
nothing that was decrypted. Here is what a role sees; nothing is opened here.
"""

from __future__ import annotations

import hmac
from base64 import b32encode
from typing import TYPE_CHECKING

import msgspec

from indelible.box import ValueState
from indelible.errors import CallerError, Forbidden
from indelible.policy import OWNER, ROLES, FieldClass, Sight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indelible.policy import Policy

MASK = "[masked]"
"""Stands for a value whose being there may be seen, whatever its length."""

PSEUDONYM = "p-"
"""What pseudonyms begin with, and masks do not."""


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who looks at entries.

    Attributes:
        role: One of `indelible.policy.ROLES`, or of the policy's.
        sights: What that role sees of each class.
        case: What the reader works on: identities that are masked become pseudonyms,
            the same for one identity within one case.
        purpose: Why, in words; kept with each opening of personal values.
    """

    role: str = OWNER
    sights: dict[FieldClass, Sight] = msgspec.field(default_factory=lambda: dict(ROLES[OWNER]))
    case: str | None = None
    purpose: str | None = None

    @classmethod
    def of(
        cls, policy: Policy, role: str, *, case: str | None = None, purpose: str | None = None
    ) -> Viewer:
        """
        Return the viewer of *role* under *policy*.

        Raises:
            CallerError: There is no such role.
        """
        sights = policy.sights(role)
        if sights is None:
            known = ", ".join(dict.fromkeys([*ROLES, *policy.roles]))
            raise CallerError(f"role: found {role!r}, expected one of {known}")
        return cls(role=role, sights=dict(sights), case=case, purpose=purpose)

    def sees(self, class_: FieldClass) -> bool:
        """Tell whether values of *class_* are shown as they are."""
        return class_ is FieldClass.PUBLIC or self.sights.get(class_) is Sight.PLAIN

    def opens(self, class_: FieldClass) -> bool:
        """Tell whether values of *class_* are opened: to be shown, or to be made pseudonyms."""
        return self.sees(class_) or (
            self.case is not None and self.sights.get(class_) is Sight.MASKED
        )

    def check_may_find(self, field: str, class_: FieldClass) -> None:
        """
        Check that entries may be found by values of *class_*: who finds, knows.

        Raises:
            Forbidden: The role does not see them.
        """
        if not self.sees(class_):
            raise Forbidden(
                f"{field}: role {self.role} does not see {class_} values, and so may not"
                " search, count or sort by them"
            )


MASKS: Mapping[ValueState, str] = {
    state: f"[{state.lower()}]" for state in ValueState if state is not ValueState.OPEN
}
"""What stands for a value that is not shown, whatever its length."""


def pseudonym(secret: bytes, case: str, identity: str) -> str:
    """
    Return what stands for *identity* within *case*.

    Without the *secret*, nobody can tell whose it is, or whether two cases have one in
    common.
    """
    named = f"{len(case)}\0{case}\0{identity}".encode("utf-8", "surrogatepass")
    digest = hmac.digest(secret, named, "sha256")
    return PSEUDONYM + b32encode(digest[:10]).decode("ascii").lower()
