"""The table of lines in the kernel's log: which mean a fault, and which are known. Travels."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "data" / "kernel_lines.json"
CLASSES = ("uncorrected", "asked", "harmless")
"""An error of hardware that was not corrected; what another check asks about; no fault."""


@cache
def table() -> list[tuple[re.Pattern[str], dict[str, str]]]:
    """Pattern and its row, in the file's order; the first that fits a line counts."""
    rows = json.loads(FILE.read_text())["lines"]
    return [(re.compile(row["pattern"]), row) for row in rows]


def row(line: str) -> dict[str, str] | None:
    """What is known of a line; None for one that nobody knows."""
    return next((known for pattern, known in table() if pattern.search(line)), None)


def kind(line: str) -> str:
    """The class of a line, "" for one that nobody knows."""
    known = row(line)
    return known["class"] if known else ""
