"""Rows of the checks of the soak."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
