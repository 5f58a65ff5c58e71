"""The fault table: what a long run saw of each fault, as lines, and as docs/fault-table.md.

Tests call `seen` for every row they judge; the lines collect in the file that GPUFLEET_FAULT_TABLE
names. `python -m tests.faulted FILE` makes the page of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from tests.faulted.row import Row
from verify.checks import BY_NAME, LEVELS, Check

FILE = "GPUFLEET_FAULT_TABLE"
HEALTHY = "healthy"
"""Name of the lines about runs without a fault."""
ORDER = LEVELS + BY_NAME


@dataclass(frozen=True)
class Seen:
    """One fault in one run; or, as `fault` HEALTHY, one run of a fleet without any."""

    fault: str
    level: str
    check: str
    """Id of the check that found it as a cause; "" when none did."""
    part: str
    """The components that it named."""
    verdict: str
    action: str
    seconds: float
    """Of the host's own run."""
    good: bool
    """Found by its check, at its part, and by no other check as a cause; healthy: no finding."""
    day: str = ""


def seen(line: Seen) -> None:
    """Keep one line, when somebody asked for the table."""
    place = os.environ.get(FILE)
    if place:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(line), "day": day}) + "\n")


def read(lines: Iterable[str]) -> list[Seen]:
    """The lines of a run; of a row that was seen twice the last one."""
    found: dict[tuple[str, ...], Seen] = {}
    for number, line in enumerate(lines):
        one = Seen(**json.loads(line))
        key = (one.fault, one.level, str(number) if one.fault == HEALTHY else one.check)
        found[key] = one
    return list(found.values())


def page(lines: list[Seen], rows: list[Row], checks: dict[str, Check]) -> str:
    """docs/fault-table.md. Nothing is said of what no line tells."""
    by_row = {(one.fault, one.level): one for one in lines if one.fault != HEALTHY}
    by_check = {(one.fault, one.level, one.check): one for one in lines}
    wanted = [
        (row, by_check.get((row.fault, row.level, row.check), by_row.get((row.fault, row.level))))
        for row in rows
    ]
    good = sum(one is not None and one.good for _, one in wanted)
    parts = [_head(lines, good, len(wanted)), _healthy(lines), _table(wanted)]
    left = sorted(set(checks) - {row.check for row in rows})
    parts.append(_offline([checks[id] for id in left]))
    return "\n".join(parts)


def _head(lines: list[Seen], good: int, count: int) -> str:
    days = sorted({one.day for one in lines})
    when = f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
    return f"""# Fault table

Made by `make soak` ({when}) on a simulated fleet: real Debian hosts, simulated GPUs, torch on CPU
over gloo. Each fault was brought upon a host, the host was asked at the cheapest level that claims
the fault, and the finding had to come from the named check, at the named part, with no other check
blamed. Faults of quick runs were there in batches, several at different parts of one host.
**{good} of {count} faults were found so.**
"""


def _healthy(lines: list[Seen]) -> str:
    rows = []
    for level in ORDER:
        runs = [one for one in lines if one.fault == HEALTHY and one.level == level]
        if runs:
            bad = sum(not one.good for one in runs)
            most = max(one.seconds for one in runs)
            rows.append(f"| {level} | {len(runs)} | {bad} | {most:.1f} s |")
    head = ["## Healthy hosts", "", "| level | hosts asked | with a finding | longest |"]
    return "\n".join([*head, "|---|---|---|---|", *rows, ""])


def _table(wanted: list[tuple[Row, Seen | None]]) -> str:
    head = [
        "| fault | level | found by | part named | verdict | action | seconds |",
        "|---" * 7 + "|",
    ]
    rows = []
    for row, one in sorted(wanted, key=lambda pair: (ORDER.index(pair[0].level), pair[0].check)):
        if one is None:
            rows.append(f"| `{row.fault}` | {row.level} | not run | | | | |")
            continue
        by = one.check if one.good else f"**{one.check or 'nothing'}**, wanted {row.check}"
        part = ", ".join(row.parts) if one.good else one.part
        rows.append(
            f"| `{row.fault}` | {row.level} | {by} | {part} | {one.verdict} | {one.action} "
            f"| {one.seconds:.1f} |"
        )
    return "\n".join(["## Faults", "", *head, *rows, ""])


def _offline(checks: list[Check]) -> str:
    head = """## Not on the simulated fleet

What a CPU fleet cannot turn red, or what is judged from figures that it does not have: these checks
were seen red and green on captured and perturbed output only, and are *not proven on hardware*.

| check | claim |
|---|---|"""
    return "\n".join([head, *(f"| {one.id} | {one.claim} |" for one in checks), ""])
