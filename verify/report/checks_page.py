"""docs/checks.md, made from the checks themselves: `python -m verify.report.checks_page --write`.

Without --write it says whether the page is what it would write, and exits 1 when it is not.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path

from verify.checks import BY_NAME, LEVELS, Check
from verify.report.catalogue import catalogue
from verify.thresholds import THRESHOLDS

PAGE = Path(__file__).parent.parent.parent / "docs/checks.md"
COMMAND = "python -m verify.report.checks_page --write"
ABOUT = {
    "quick": "Seconds, no load, safe beside running jobs: `gpufleet verify INVENTORY`.",
    "standard": "Loads the GPUs for a minute or two, on idle hosts only: `--level standard`.",
    "deep": "A soak of `--minutes N`, detached on the host: `--level deep`.",
    "workload": "Part of no level; proves an environment with whole models: `--workload NAME|all`.",
    "multi-node": "Part of no level; across all hosts at once: `--multi-node`.",
}
"""What each level costs, and how it is asked for."""
HEAD = f"""# Checks

Made from the code by `{COMMAND}`; `gpufleet explain CHECK` prints
one of them. Each check makes one claim. *Worst* is the worst that it says of something that was
looked at and does not hold; what could not be looked at is always `not-run` or `hung`. *Action* is
what it advises when nothing more particular is found. *Asked where* names what must be there for
the question to make sense (`verify/applies.py`). *Fault* is what the tests break to see it red; the
fault table (`docs/fault-table.md`) says where that was seen. Checks judged over the *fleet* compare
hosts with each other and with their own past.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    every = catalogue()
    for level in LEVELS + BY_NAME:
        mine = [one for one in every.values() if one.level == level]
        if mine:
            parts.append(f"## {level}\n\n{ABOUT[level]}\n\n{_families(mine)}")
    parts.append(f"## Thresholds\n\n{_thresholds()}")
    return "\n".join(parts)


def _families(checks: list[Check]) -> str:
    families: dict[str, list[Check]] = defaultdict(list)
    for one in checks:
        families[one.id.partition(".")[0]].append(one)
    return "\n".join(_check(one) for each in families.values() for one in each)


def _check(one: Check) -> str:
    where = " · judged over the fleet" if one.where == "fleet" else ""
    needs = ", ".join(f"`{need}`" for need in one.needs) or "everywhere"
    return (
        f"### {one.id}\n\n{one.claim}\n\n"
        f"{one.component} · worst {one.verdict} · action {one.action} · asked where: {needs}"
        f"{where} · fault `{one.fault}`  \nSource: {one.source}\n"
    )


def _thresholds() -> str:
    rows = [
        f"| `{name}` | {_figure(one.default)} {one.unit} | {one.meaning} | {one.source} |"
        for name, one in sorted(THRESHOLDS.items())
    ]
    head = "The inventory's `thresholds` replaces any of them per host or group.\n\n"
    return head + "\n".join(
        ["| name | default | meaning | source |", "|---|---|---|---|", *rows, ""]
    )


def _figure(value: float) -> str:
    return "unlimited" if math.isinf(value) else f"{value:g}"


def main(words: list[str]) -> int:
    """Write the page, or compare it: 0 it is as the code says, 1 it is not, 2 wrong words."""
    if words not in ([], ["--write"]):
        print(f"usage: {COMMAND}", file=sys.stderr)
        return 2
    text = page()
    if words:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE}: is not what the checks say; run {COMMAND}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
