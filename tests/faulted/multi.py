"""Rows of the checks of training across hosts."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
