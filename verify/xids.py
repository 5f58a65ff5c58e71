"""The table of Xids: what an event of the driver in the kernel log means. Travels to the host."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "data" / "xids.json"
CLASSES = ("hardware", "application", "information")
"""A fault of the machine; a fault of the program that ran; the driver's own notes."""
UNKNOWN = {"class": "unknown", "meaning": "one that our table does not know", "action": "drain"}


@cache
def table() -> dict[int, dict[str, str]]:
    """Code -> class, meaning, action and source."""
    return {row["id"]: row for row in json.loads(FILE.read_text())["xids"]}


def row(code: int) -> dict[str, str]:
    """What is known of a code; class "unknown" when nothing is, which is no reason for calm."""
    return table().get(code, UNKNOWN)


def kind(code: int) -> str:
    """The class of a code."""
    return row(code)["class"]
