"""Rows of the checks of the host around its GPUs: network, mounts, time, kernel."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
