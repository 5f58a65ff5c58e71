"""Xid and SXid events of this boot: a part of the report."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any

from verify.payload.reading import MOST_LINE, TOOL_S, first, tool

XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
"""Form of the driver's line (NVIDIA, "Xid Errors", section on viewing them)."""
SXID = re.compile(r"nvidia-nvswitch\d+: SXid \(PCI:([0-9a-fA-F:.]+)\): (\d+),? ?(Non-fatal|Fatal)?")
"""Form of an NVSwitch's line; the same event may be there again with its data, which says no
severity (Fabric Manager User Guide, appendix on NVSwitch SXid errors)."""
PATTERN = r"NVRM: Xid \(|: SXid \("
MOST_XIDS = 500


def log() -> dict[str, Any]:
    """Xid and SXid events since boot, the newest `MOST_XIDS` of each.

    `readable` is false when the journal does not show this user the kernel's messages: then no
    Xid means nothing.
    """
    found: dict[str, Any] = {"source": "journalctl -k", "readable": False, "error": ""}
    found |= {"xids": [], "sxids": []}
    base = ("journalctl", "-k", "-b", "--no-pager", "-o", "json")
    fields = "--output-fields=MESSAGE,__REALTIME_TIMESTAMP"
    try:
        seen = tool(*base, "-n", "1", fields)
        if seen.returncode != 0 or "Hint:" in seen.stderr or "No journal files" in seen.stderr:
            found["error"] = first(seen.stderr, "journalctl failed and said nothing")
            return found
        if not seen.stdout.strip():
            found["error"] = "the journal has no kernel messages of this boot"
            if os.geteuid() != 0:
                found["error"] += " for this user; root, adm and systemd-journal see them"
            return found
        shown = tool(*base, "-r", fields, "-g", PATTERN)
        if shown.returncode not in (0, 1) or "pattern matching" in shown.stderr:
            shown = tool(*base, "-r", fields)  # a journalctl that was built without patterns
            if shown.returncode != 0:
                found["error"] = first(shown.stderr, "journalctl failed and said nothing")
                return found
    except FileNotFoundError:
        found["error"] = "journalctl is not installed"
        return found
    except subprocess.TimeoutExpired:
        found["error"] = f"journalctl had not ended after {TOOL_S} s"
        return found
    found["readable"] = True
    found["xids"] = xids(shown.stdout)
    found["sxids"] = sxids(shown.stdout)
    return found


def xids(lines: str) -> list[dict[str, Any]]:
    """Xid events among journal entries, one JSON object a line; the oldest first."""
    return [event for event, _ in events(lines, XID)]


def sxids(lines: str) -> list[dict[str, Any]]:
    """SXid events as `xids` has Xids, with what the line says of their severity: fatal is true,
    false, or null where it says none. A line with an event's data is no event of its own."""
    severity = {"Fatal": True, "Non-fatal": False}
    found = [{**event, "fatal": severity.get(match[3])} for event, match in events(lines, SXID)]
    told = {(one["slot"], one["code"]) for one in found if one["fatal"] is not None}
    return [
        one for one in found if one["fatal"] is not None or (one["slot"], one["code"]) not in told
    ]


def events(lines: str, form: re.Pattern[str]) -> list[tuple[dict[str, Any], re.Match[str]]]:
    """Entries of this form: slot, code, time and line, and the match; the oldest first."""
    found: list[tuple[dict[str, Any], re.Match[str]]] = []
    for line in lines.splitlines():
        if "Xid" not in line and '"MESSAGE":[' not in line.replace(" ", ""):
            continue
        try:
            entry = json.loads(line)
            message = entry["MESSAGE"]
            if isinstance(message, list):  # bytes, when it is not plain text
                message = bytes(message).decode(errors="replace")
            match = form.search(message)
            seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
        if match is not None and len(found) < MOST_XIDS:
            event = {
                "slot": match[1].lower(),
                "code": int(match[2]),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
                "line": message[:MOST_LINE],
            }
            found.append((event, match))
    return found[::-1]
