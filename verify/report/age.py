"""How long ago something was, and whether a run is still going."""

import os
from datetime import UTC, datetime
from pathlib import Path

from deploy.fleet.runs import RunFile, controller

LIVES = "still going"


def ago(then: str, now: datetime | None = None) -> str:
    """A time of a run file for people: 5 s, 12 min, 3 h, 9 days; "?" when it is no time."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(then)).total_seconds()
    except (ValueError, TypeError):
        return "?"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def ending(run: RunFile) -> str:
    """How a run ended, or that it has not."""
    if run.state == "interrupted":
        return "interrupted"
    if run.state == "finished":
        return f"exit {run.exit}"
    if run.controller != controller():
        return f"no end recorded; it ran on {run.controller}"
    return LIVES if _lives(run) else "killed"


def _lives(run: RunFile) -> bool:
    """Whether the process that began the run is there; another one with its number began later."""
    try:
        stat = Path(f"/proc/{run.pid}/stat").read_text()
        boot = next(
            line.split()[1]
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
        ticks = int(stat.rpartition(")")[2].split()[19])
        began = int(boot) + ticks / os.sysconf("SC_CLK_TCK")
        return began <= datetime.fromisoformat(run.started).timestamp() + 2
    except (OSError, ValueError, IndexError, StopIteration):
        return False
