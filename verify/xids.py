"""Tables of Xids and SXids: what an event in the kernel log means. Travels to the host."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
CLASSES = ("hardware", "application", "information")
"""A fault of the machine; a fault of the program that ran; the driver's own notes."""
SWITCH_CLASSES = ("fatal", "non-fatal", "information")
"""Traffic through the switch stops; traffic suffers; the switch has corrected it by itself."""
UNKNOWN = {"class": "unknown", "meaning": "one that our table does not know", "action": "drain"}
RECOVERY_CHANGED = 154
"""The Xid whose text says what the driver wants done: it overrules the rows of what led to it."""
RECOVERY = {
    0: ("nothing", "keep"),
    1: ("a reset of the GPU", "reset"),
    2: ("a reboot of the host", "reboot"),
    3: ("no more peer traffic", "drain"),
    4: ("no more jobs, then a reset", "reset"),
    5: ("recovery of IMEX", "drain"),
    6: ("a reset of its bus", "reset"),
    7: ("a reboot of the system", "reboot"),
}
"""NVML field 230 and Xid 154, driver 570 and newer (nvml.h: nvmlDeviceGpuRecoveryAction_t)."""
_CHANGED = re.compile(r"recovery action changed from 0x[0-9a-fA-F]+ \([^)]*\) to 0x([0-9a-fA-F]+)")
_LINK_FATAL = re.compile(r": (?:14[4-9]|150), \w+\s+(Fatal|Non-?fatal)\b", re.IGNORECASE)
"""NVLink 5 events tell their severity: "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (...)"."""


@cache
def table() -> dict[int, dict[str, str]]:
    """Xid -> class, meaning, action, source, and the driver branch that the source speaks of."""
    return {row["id"]: row for row in _read("xids.json")["xids"]}


@cache
def switch_table() -> dict[int, dict[str, str]]:
    """SXid -> class, meaning, action, source."""
    return {row["id"]: row for row in _read("sxids.json")["sxids"]}


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text())
    return found


def row(code: int) -> dict[str, str]:
    """What is known of a code; class "unknown" when nothing is, which is no reason for calm."""
    return table().get(code, UNKNOWN)


def kind(code: int) -> str:
    """The class of a code."""
    return row(code)["class"]


def judged(code: int, line: str) -> dict[str, str]:
    """The row of a code as far as this very line of the log says more than the table: the action
    that Xid 154 asks for, the severity of an NVLink 5 event."""
    found = row(code)
    if code == RECOVERY_CHANGED:
        wish = recovery_of(line)
        said, action = RECOVERY.get(wish or 0, (f"recovery action {wish}", "drain"))
        if wish is not None:
            kind = "hardware" if wish else "information"
            meaning = f"{found['meaning']}: {said}"
            return {**found, "class": kind, "meaning": meaning, "action": action}
    severity = _LINK_FATAL.search(line)
    if severity and severity[1].lower() == "fatal":
        return {**found, "class": "hardware", "action": "reset"}
    return found


def recovery_of(line: str) -> int | None:
    """The action that a line of Xid 154 says the driver wants now; None when it says none."""
    found = _CHANGED.search(line)
    return int(found[1], 16) if found else None


def switch_row(code: int, fatal: bool) -> dict[str, str]:
    """What is known of an SXid. The line's own word counts where it is graver than the table's, and
    for what the table does not know."""
    found = switch_table().get(code)
    if found is None:
        meaning = "one that our table does not know"
        return {
            "class": "fatal" if fatal else "non-fatal",
            "meaning": f"{meaning}; the switch calls it {'fatal' if fatal else 'not fatal'}",
            "action": "reboot" if fatal else "drain",
        }
    if fatal and found["class"] != "fatal":
        return {**found, "class": "fatal", "action": "reboot"}
    return found
