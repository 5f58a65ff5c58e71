"""Rows of the checks of training across hosts."""

from __future__ import annotations

from tests.faulted.row import L40S, V100, Row

LEVEL = "multi-node"

ROWS: list[Row] = [
    Row("nodes.host", "train:stall:0:40", L40S, 1, ("host",), level=LEVEL),
    Row("nodes.link", f"no-route:{V100}", L40S, 2, ("host",), level=LEVEL),
    Row("nodes.ready", "no-self-name", L40S, 3, (f"host {L40S}",), level=LEVEL),
]
