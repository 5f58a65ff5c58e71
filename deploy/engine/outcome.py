"""How hosts end: `Outcome`, the exit code of many of them, and what is printed about them."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from deploy.fleet import exits
from deploy.fleet.model import Model
from deploy.fleet.runs import Run
from deploy.stack import Blocked

Status = Literal[
    "converged",
    "unchanged",
    "failed",
    "busy",
    "reboot-pending",
    "blocked",
    "locked",
    "unreachable",
    "interrupted",
]
FAILED = frozenset({"failed", "blocked", "locked"})
NOT_DONE = frozenset({"busy", "reboot-pending", "unreachable", "interrupted"})
"""Nothing failed, but what was asked is not done."""

VERSION = 1
"""Schema of the JSON result."""


class Outcome(Model):
    """How one host ended."""

    host: str
    status: Status
    message: str
    """What was found, wanted and can be done, in one sentence; "" when there is no need."""
    changed: tuple[str, ...] = ()
    """Titles of the steps that were executed, in order."""
    rebooted: int = 0
    remaining: tuple[str, ...] = ()
    """What is still not as wanted."""
    busy: tuple[str, ...] = ()
    """Who uses the GPUs."""
    tail: tuple[str, ...] = ()
    """Last lines of the log that explains a failure."""
    log: str = ""
    """Path of the raw log on the controller, "" when no command ran."""


def why_blocked(blocked: Blocked) -> str:
    """One sentence for a blocked host, with what would unblock it."""
    ways = f"; to unblock: {' or '.join(blocked.unblock)}" if blocked.unblock else ""
    return f"{blocked.reason} ({blocked.rule}){ways}"


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    """1 when something failed, 4 when something was not done, 0 else."""
    statuses = {outcome.status for outcome in outcomes.values()}
    if statuses & FAILED:
        return exits.FAILED
    return exits.NOT_LOOKED_AT if statuses & NOT_DONE else exits.OK


def show(outcomes: Mapping[str, Outcome], again: str, record: Run, note: str, say: TextIO) -> None:
    """What failed and why, with the next command (`again` and a --limit); then one line."""
    for outcome in outcomes.values():
        if outcome.status in FAILED | NOT_DONE:
            print(f"\n{outcome.host}: {outcome.status}: {outcome.message}", file=say)
            for line in outcome.tail:
                print(f"    {line}", file=say)
            if outcome.log:
                print(f"  raw log: {outcome.log}", file=say)
            print(f"  next: {again} --limit {outcome.host}", file=say)
    changes = sum(len(outcome.changed) + outcome.rebooted for outcome in outcomes.values())
    count = Counter(outcome.status for outcome in outcomes.values())
    parts = [f"{changes} change{'s' * (changes != 1)}"]
    parts.append(", ".join(f"{number} {status}" for status, number in sorted(count.items())))
    parts += [note] if note else []
    print(f"{'; '.join(parts)}; record: {record.directory}", file=say)


def write_json(
    target: str, outcomes: Mapping[str, Outcome], record: Run, lock: str, code: int
) -> None:
    """The result for machines, to a file or (`-`) to stdout; every host of the run is in it."""
    document: dict[str, Any] = {
        "version": VERSION,
        "run": str(record.directory),
        "lock": lock or None,
        "gate": None,
        "exit": code,
        "hosts": {name: outcome.model_dump(mode="json") for name, outcome in outcomes.items()},
    }
    text = json.dumps(document, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
