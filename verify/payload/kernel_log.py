"""Xid events of this boot: a part of the report."""

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
MOST_XIDS = 500


def log() -> dict[str, Any]:
    """Xid events since boot, the newest `MOST_XIDS` of them.

    `readable` is false when the journal does not show this user the kernel's messages: then no
    Xid means nothing.
    """
    found: dict[str, Any] = {"source": "journalctl -k", "readable": False, "error": "", "xids": []}
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
        shown = tool(*base, "-r", fields, "-g", r"NVRM: Xid \(")
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
    return found


def xids(lines: str) -> list[dict[str, Any]]:
    """Xid events among journal entries, one JSON object a line; the oldest first."""
    found: list[dict[str, Any]] = []
    for line in lines.splitlines():
        if "Xid" not in line and '"MESSAGE":[' not in line.replace(" ", ""):
            continue
        try:
            entry = json.loads(line)
            message = entry["MESSAGE"]
            if isinstance(message, list):  # bytes, when it is not plain text
                message = bytes(message).decode(errors="replace")
            event = XID.search(message)
            seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
        if event is not None and len(found) < MOST_XIDS:
            found.append(
                {
                    "slot": event[1].lower(),
                    "code": int(event[2]),
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
                    "line": message[:MOST_LINE],
                }
            )
    return found[::-1]
