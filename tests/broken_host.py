"""Broken hosts for the checks of tests/faulted/host.py."""

from __future__ import annotations

from tests.broken import Case

CASES: list[Case] = []
