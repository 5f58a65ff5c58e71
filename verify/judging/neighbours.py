"""What equal parts do: the middle of their figures and how far one may be from it. Pure.

Median and median absolute deviation (MAD) hold while fewer than half of the figures are off. With
half of them off the middle lies anywhere between the two kinds and the MAD is as wide as their
distance: then neighbours find nothing, and `Spread.wide` says so; physics and history must.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 4
"""Figures that make a middle."""
TIMES = 5.0
"""How many deviations are one too many: 3 to 5 is usual; ours is the
largest, for a fleet has ten thousands of figures and shall raise no false alarm."""
SIGMA = 1.4826
"""MAD -> standard deviation, for figures that scatter normally."""
TOO_WIDE = 0.5
"""Neighbours that differ by more than this part of their middle are no measure for each other."""


@dataclass(frozen=True)
class Spread:
    """The figures of equal parts."""

    count: int
    middle: float
    margin: float
    """How far from the middle one may be, as a part of it."""
    wide: bool
    """They differ too much to say anything of one of them."""
    low: float
    high: float

    def off(self, value: float) -> float:
        """How far a value is from the middle, as a part of it."""
        return (value - self.middle) / self.middle


def spread(values: Sequence[float], least_margin: float) -> Spread | None:
    """The spread of finite figures above zero; None of fewer than four."""
    if len(values) < LEAST:
        return None
    middle = median(values)
    mad = median(abs(value - middle) for value in values)
    margin = max(least_margin, TIMES * SIGMA * mad / middle)
    wide = margin > max(TOO_WIDE, least_margin)
    return Spread(len(values), middle, margin, wide, min(values), max(values))
