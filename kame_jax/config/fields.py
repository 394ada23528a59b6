"""The kinds of value a setting can have: types with their valid range, written where the field is declared.

`build` reads them; no range is stated a second time elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """A number between `low` and `high`, both included unless `open_low`; None sets no bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether `value` is in the range."""
        if self.low is not None and (value < self.low or (self.open_low and value == self.low)):
            return False
        return self.high is None or value <= self.high

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        if self.high is not None:
            return f"at most {self.high:g}"
        return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"


@dataclass(frozen=True)
class OneOf:
    """One of a few names."""

    names: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        """Whether `value` is one of the names."""
        return value in self.names

    def __str__(self) -> str:
        return ", ".join(self.names)


Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
NonNegativeFloat = Annotated[float, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
