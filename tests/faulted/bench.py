"""Rows of the checks of the torch tier: figures, exactness, fingerprints.

What only GPUs have is pretended: the payload goes through it on the CPU, with NVML's idle GPUs, and
its document says so (verify/payload/gpu_bench.py, PRETENDED).
"""

from __future__ import annotations

from tests.faulted.row import H100, Row


def _row(check: str, fault: str, part: str, verdict: str = "fail") -> Row:
    return Row(check, f"bench:{fault}", H100, 0, (part,), verdict, level="standard")


ROWS = [
    _row("bench.ended", "die:1", "rank 1"),
    _row("bench.products", "product:1", "rank 1"),
    _row("bench.collectives", "collective:1", "rank 1"),
    _row("bench.deterministic", "repeat:1", "rank 1"),
    _row("bench.agrees", "print:1", "rank "),
    _row("bench.copies", "copy:1", "gpu 1"),
    _row("bench.peer", "peer:1", "gpu 1"),
    _row("bench.transport", "transport:1", "gpu 1"),
    _row("load.clocks", "clocks:1", "gpu 1"),
    _row("load.pcie", "pcie:1", "gpu 1", "degraded"),
    _row("load.counters", "counters:1", "gpu 1", "degraded"),
    # what the same checks claim besides
    _row("bench.ended", "hang:1:products", "rank 1", "hung"),
    _row("bench.deterministic", "replay:0", "rank 0"),
]
