"""Duration: how long something is kept, as a policy writes it: ``90d``, ``13mo``, ``6y``."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from indelible.errors import CallerError

_FORM = re.compile(r"([1-9][0-9]{0,5})(min|h|d|w|mo|y)\Z", re.ASCII)
_SPANS = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_MONTHS = {"mo": 1, "y": 12}
_FOREVER = datetime.max.replace(tzinfo=UTC)
_BEGINNING = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Duration:
    """
    A number of a unit: ``min``, ``h``, ``d``, ``w``, ``mo`` (calendar months) or ``y``.

    Two of them are compared by when they end, counted from one and the same moment.
    """

    number: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """
        Read what `str` writes.

        Raises:
            CallerError: It is another form.
        """
        given: object = text  # a caller may not have checked its types
        found = _FORM.match(given) if isinstance(given, str) else None
        if found is None:
            raise CallerError(f"found {text!r}, expected a duration such as 24h, 90d, 13mo or 6y")
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.number}{self.unit}"

    @property
    def length(self) -> timedelta:
        """How long it is from one fixed moment, to compare two of them."""
        return self.after(_BEGINNING) - _BEGINNING

    def after(self, moment: datetime) -> datetime:
        """Return when it ends that began at *moment*; a day that a month lacks is its last."""
        try:
            if self.unit in _SPANS:
                return moment + self.number * _SPANS[self.unit]
            year, month = divmod(
                moment.year * 12 + moment.month - 1 + self.number * _MONTHS[self.unit], 12
            )
            day = min(moment.day, monthrange(year, month + 1)[1])
            return moment.replace(year=year, month=month + 1, day=day)
        except (OverflowError, ValueError):
            return _FOREVER
