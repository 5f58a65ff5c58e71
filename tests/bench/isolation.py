"""How many tests it takes to find bad hosts and links among N: simulated, against all pairs.

    python -m tests.bench.isolation [--json]

Each case is searched with SEEDS draws of what is bad. No host is asked: the answers come from the
draw. What one test takes is told by a real run (docs/multi-node.md).
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from verify.multi.rounds import Group, isolate

SIZES = (8, 16, 32, 64, 128, 232, 256, 512)
"""232 is the size for which CRE's ADR-055 tells its figures: 22 to 57 tests, 7 rounds."""
CASES = {
    "healthy": (0, 0), "1 host": (1, 0), "2 hosts": (2, 0), "4 hosts": (4, 0), "1 link": (0, 1),
}  # fmt: skip
SEEDS = 50


def searched(count: int, hosts: int, links: int, seed: int) -> tuple[int, int, bool]:
    """Tests, rounds, and whether exactly what is bad was named."""
    names = [f"n{at:03}" for at in range(count)]
    drawn = random.Random(seed).sample(names, hosts + 2 * links)
    bad = set(drawn[:hosts])
    ends = drawn[hosts:]
    broken = {Group(ends[2 * at : 2 * at + 2]) for at in range(links)}

    def oracle(groups: Sequence[Group]) -> list[bool]:
        return [not (one & bad or any(link <= one for link in broken)) for one in groups]

    found = isolate(names, oracle)
    right = found.hosts == bad and found.links == broken and found.proven
    return found.tests, found.rounds, right


def measured() -> list[dict[str, Any]]:
    """One row for each size and case."""
    rows = []
    for count in SIZES:
        for name, (hosts, links) in CASES.items():
            drawn = [searched(count, hosts, links, seed) for seed in range(SEEDS)]
            tests, rounds = [one[0] for one in drawn], [one[1] for one in drawn]
            rows.append(
                {
                    "hosts": count,
                    "bad": name,
                    "tests_median": int(statistics.median(tests)),
                    "tests_most": max(tests),
                    "rounds_median": int(statistics.median(rounds)),
                    "rounds_most": max(rounds),
                    "exact": sum(one[2] for one in drawn),
                    "draws": SEEDS,
                    "all_pairs": count * (count - 1) // 2,
                    "all_pairs_rounds": count - 1 + count % 2,
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table of Markdown: median and, after a slash, the most of all draws."""
    cases = list(CASES)
    lines = [
        f"| hosts | {' | '.join(cases)} | all pairs |",
        f"|---{'|---' * len(cases)}|---|",
    ]
    for count in SIZES:
        of = {one["bad"]: one for one in rows if one["hosts"] == count}
        cells = [
            f"{one['tests_median']}/{one['tests_most']} in {one['rounds_median']}/"
            f"{one['rounds_most']}"
            for one in (of[name] for name in cases)
        ]
        pairs = of[cases[0]]
        every = f"{pairs['all_pairs']} in {pairs['all_pairs_rounds']}"
        lines.append(f"| {count} | {' | '.join(cells)} | {every} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print the figures; 1 when some draw was not solved exactly."""
    rows = measured()
    print(json.dumps(rows))
    if "--json" not in argv:
        print(table(rows))
    return 0 if all(one["exact"] == one["draws"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
