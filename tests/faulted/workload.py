"""Rows of the checks of training workloads."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
