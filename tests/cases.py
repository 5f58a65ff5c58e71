"""Every broken host of the tests of checks, of all families."""

from __future__ import annotations

from tests import broken, broken_gpu, broken_host
from tests.broken import Case

CASES: list[Case] = [
    *broken.CASES,
    *broken_gpu.CASES,
    *broken_host.CASES,
]
