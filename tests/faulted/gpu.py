"""Rows of the checks of what GPUs, links and the fabric say of themselves."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
