"""Rows of the checks of the soak."""

from __future__ import annotations

from tests.faulted.row import H100, L40S, Row

ROWS = [
    Row("soak.ended", "soak:die:1", L40S, 80, ("rank 1",), level="deep"),
    Row("soak.memory", "soak:memory:1", L40S, 81, ("rank 1",), level="deep"),
    Row("soak.compute", "soak:compute:0", L40S, 82, ("rank 0",), level="deep"),
    Row("soak.stable", "soak:slow:0", L40S, 83, ("rank 0",), "degraded", level="deep"),
    Row("soak.thermal", "soak:hot:0", L40S, 84, ("gpu 0",), level="deep"),
    Row("soak.counters", "soak-xid:0", L40S, 85, ("gpu 0",), level="deep"),
    Row("soak.dcgm", "dcgm-fails:2", H100, 86, ("gpu 2",), level="deep"),
]
