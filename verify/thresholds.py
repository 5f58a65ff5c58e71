"""Figures that checks compare with, each with its default, unit, meaning and source.

The inventory key `thresholds` replaces them per host or group. Travels: standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """One figure that a site may have another opinion of."""

    default: float
    unit: str
    meaning: str
    source: str


THRESHOLDS: dict[str, Threshold] = {
    "disk.root-mib": Threshold(512, "MiB", "least free space at /", "ours: journals, packages"),
    "soak.sag-percent": Threshold(
        10,
        "%",
        "most that throughput may fall from the first to the last third of a soak",
        "ours: a GPU reaches its temperature within minutes, and within its power limit its clock "
        "falls by a few per cent until then",
    ),
    "soak.sag-cpu-percent": Threshold(
        95,
        "%",
        "the same on the CPU, whose cores others share: only a standstill counts",
        "ours",
    ),
}
"""Name -> figure; a name is a family, a dot, the subject and its unit."""


def value(name: str, given: Mapping[str, float]) -> float:
    """The inventory's figure, else the default. Raises KeyError for a name that is not here."""
    known = THRESHOLDS[name]
    return float(given.get(name, known.default))
