"""How payloads read a host: small files, its tools, names of users. Nothing here raises for what is
not there, but `tool`."""

from __future__ import annotations

import os
import subprocess

TOOL_S = 6
"""For one tool that is asked; the part that asks has a little more."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_LINE = 300


def text_of(path: str, most: int = 65536) -> str:
    """A small file's text without its end, "" when there is none to read."""
    try:
        with open(path, "rb") as file:
            return file.read(most).decode(errors="replace").strip()
    except OSError:
        return ""


def number_of(path: str, base: int = 10) -> int | None:
    """A file's one number; None when there is none."""
    try:
        return int(text_of(path), base)
    except ValueError:
        return None


def names_of(uids: set[int]) -> dict[int, str]:
    """Names of users: of this host, then of its directory for 3 s, else the number as text."""
    found = {}
    local = {
        int(fields[2]): fields[0]
        for line in text_of("/etc/passwd", 1_000_000).splitlines()
        if len(fields := line.split(":")) == 7 and fields[2].isdigit()
    }
    for uid in uids:
        found[uid] = local.get(uid, str(uid))
    if elsewhere := sorted(uid for uid in uids if uid not in local):
        try:
            asked = tool("getent", "passwd", *map(str, elsewhere), seconds=3)
        except (OSError, subprocess.TimeoutExpired):
            return found
        for line in asked.stdout.splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                found[int(fields[2])] = fields[0]
    return found


def tool(*command: str, seconds: float = TOOL_S) -> subprocess.CompletedProcess[str]:
    """Ask one of the host's programs. Raises FileNotFoundError, TimeoutExpired."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        text=True,
        errors="replace",
        env={"PATH": PATH, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
    )


def first(text: str, otherwise: str) -> str:
    """The first line of a text, for one value or one reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:MOST_LINE] if lines else otherwise


def names_in(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
