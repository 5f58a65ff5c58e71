"""Errors in the kernel's log that no other part reads: a part of the report.

Lines that differ in numbers alone are one line with a count. What they mean is decided later
(verify/kernel_log.py); Xids have a reader of their own (kernel_log.py).
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from verify.payload.reading import MOST_LINE, TOOL_S, first, tool

ASKED = ("journalctl", "-k", "-b", "--no-pager", "-o", "json", "--output-fields=MESSAGE")
ERROR = "3"
"""Syslog priority `err` and worse."""
WARNING = "4"
HARDWARE = "EDAC|Hardware Error|Machine Check|Memory failure"
"""What the kernel writes about memory and processors, some of it as a warning (drivers/edac,
arch/x86/kernel/cpu/mce, drivers/firmware/efi/cper.c, mm/memory-failure.c)."""
HUNG = re.compile(r"INFO: task (.{1,40}):(\d+) blocked for more than (\d+) seconds")
"""kernel/hung_task.c."""
NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,16}\b|\d+")
MOST_READ = 20_000
"""Lines of the journal, the newest."""
MOST_KINDS = 200


def lines() -> dict[str, Any]:
    """Kinds of errors of this boot with their counts, hardware's own lines, tasks that hung."""
    found: dict[str, Any] = {
        "readable": False,
        "error": "",
        "errors": [],
        "hardware": [],
        "hung": [],
        "cut": False,
    }
    newest = ("-n", str(MOST_READ))
    try:
        seen = tool(*ASKED, "-n", "1")
        problem = _problem(seen)
        if problem:
            found["error"] = problem
            return found
        errors = _messages(tool(*ASKED, "-p", ERROR, *newest).stdout)
        special = tool(*ASKED, "-p", WARNING, *newest, "-g", HARDWARE, "--case-sensitive=true")
        if special.returncode not in (0, 1) or special.stderr.strip():
            special = tool(*ASKED, "-p", WARNING, *newest)  # a journalctl without patterns
        hardware = [one for one in _messages(special.stdout) if re.search(HARDWARE, one)]
    except FileNotFoundError:
        found["error"] = "journalctl is not installed"
        return found
    except subprocess.TimeoutExpired:
        found["error"] = f"journalctl had not ended after {TOOL_S} s"
        return found
    found.update(
        readable=True,
        errors=kinds(errors),
        hardware=kinds(hardware),
        hung=hung(errors),
        cut=len(errors) >= MOST_READ,
    )
    return found


def _problem(seen: subprocess.CompletedProcess[str]) -> str:
    """Why the kernel's messages are not shown, "" when they are: none at all is no answer."""
    if seen.returncode != 0 or "Hint:" in seen.stderr or "No journal files" in seen.stderr:
        return first(seen.stderr, "journalctl failed and said nothing")
    return "" if seen.stdout.strip() else "the journal has no kernel messages of this boot"


def _messages(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        try:
            message = json.loads(line)["MESSAGE"]
            if isinstance(message, list):  # bytes, when it is not plain text
                message = bytes(message).decode(errors="replace")
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(message, str):
            found.append(message[:MOST_LINE])
    return found


def kinds(messages: list[str]) -> list[dict[str, Any]]:
    """Each kind of line once: its first, and how many there are; the commonest first."""
    found: dict[str, dict[str, Any]] = {}
    for message in messages:
        kind = NUMBERS.sub("#", message)
        if kind in found:
            found[kind]["count"] += 1
        else:
            found[kind] = {"line": message, "count": 1}
    return sorted(found.values(), key=lambda one: -one["count"])[:MOST_KINDS]


def hung(messages: list[str]) -> list[dict[str, Any]]:
    """Tasks that the kernel saw blocked, each with the longest time it was blocked for."""
    longest: dict[tuple[str, int], int] = {}
    for message in messages:
        if event := HUNG.search(message):
            key = (event[1], int(event[2]))
            longest[key] = max(longest.get(key, 0), int(event[3]))
    return [
        {"command": command, "pid": pid, "seconds": seconds}
        for (command, pid), seconds in list(longest.items())[:MOST_KINDS]
    ]
