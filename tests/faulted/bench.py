"""Rows of the checks of the torch tier: figures, exactness, fingerprints."""

from __future__ import annotations

from tests.faulted.row import Row

ROWS: list[Row] = []
