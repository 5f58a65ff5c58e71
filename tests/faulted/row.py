"""One row of the matrix of faults."""

from __future__ import annotations

from dataclasses import dataclass

H100, L40S, V100 = "h100-01", "l40s-01", "v100-01"


@dataclass(frozen=True)
class Row:
    """One fault, the check that claims to find it, and the parts of the node that it must name."""

    check: str
    fault: str
    node: str
    batch: int
    """Faults of one batch are there together."""
    parts: tuple[str, ...]
    """kind and index or name of the components that are the cause."""
    verdict: str = "fail"
    level: str = "quick"
    """The cheapest level that claims it."""
