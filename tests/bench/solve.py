"""What solving a large mixed fleet costs: `python -m tests.bench.solve [--hosts 1000]`.

The pure part only: from facts, wishes and what repositories offer to a stack or a reason for each
host. Probing, asking repositories and resolving wheels are not in it. The hosts are bare and mixed:
every distribution and machine type of the catalogue, boards from V100 to GB200 and none, three
policies, some with pins, some in a group of one torch, some impossible. The repositories are as the
catalogue describes them (`deploy.described`). Prints JSON on stdout; exits with 1 when 1,000 hosts
cost more CPU time than wanted; wall time says little on a shared machine.
"""

import argparse
import json
import os
import platform
import sys
import time
from typing import Any

from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, Case, _shared, choose_all, place
from deploy.solving.offers import Available, Unavailable
from tests.bare import CATALOGUE, host, offered
from tests.factory import TODAY

WANTED_S = 2.0
"""For 1,000 hosts: what issue "From silicon to wheel" asks of the solver."""

PLACES = [(row.name, machine) for row in CATALOGUE.distributions for machine in row.arch]
BOARDS = (
    *(("2330",) * 8, ("26b9",) * 2, ("1db5",) * 4, ("20b2",) * 8, ("2901",) * 8),
    *(("2941",) * 4, ("1eb8",), ("2bb5",) * 2, (), ("1db5", "2901")),
)
WISHES: tuple[dict[str, Any], ...] = (
    {},
    {"policy": "production"},
    {"policy": "newest", "dcgm": "latest"},
    {"torch": "2.14", "same_torch": "train"},
    {"driver": "580", "extras": ("torchvision",)},
    {"cuda": "12.9", "container_toolkit": "latest"},
    {"torch_build": "cu126"},
)


def fleet(count: int) -> dict[str, Case]:
    """`count` hosts; equal ones come back after the least common multiple of the lists above."""
    cases: dict[str, Case] = {}
    for index in range(count):
        distribution, machine = PLACES[index % len(PLACES)]
        boards = BOARDS[index // 3 % len(BOARDS)]
        switches = 4 if boards[:1] == ("2330",) else 0
        found = host(distribution, *boards, machine=machine, switches=switches)
        name = f"gpu{index:05d}"
        found = found.model_copy(update={"host": name, "uptime_s": index, "boot_id": str(index)})
        key = None if CATALOGUE.key_of(distribution).fingerprint else "A" * 40
        spec = NodeSpec(vendor_key_fingerprint=key, **WISHES[index // 2 % len(WISHES)])
        available: Available | Unavailable = Unavailable("it was not asked")
        if place(spec, found, CATALOGUE):
            available = offered(distribution, machine)
        cases[name] = Case(spec, found, available)
    return cases


def solves() -> int:
    """How many different hosts were solved so far."""
    return _shared.cache_info().misses


def measure(count: int) -> dict[str, Any]:
    """Solve `count` hosts from nothing remembered."""
    cases = fleet(count)
    _shared.cache_clear()
    began, cpu = time.perf_counter(), time.process_time()
    for case in cases.values():  # which repository each host's answer needs is asked first
        place(case.spec, case.facts, CATALOGUE)
    answers = choose_all(cases, CATALOGUE, TODAY)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "hosts": count,
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "ms_per_host": round(1000 * cpu / count, 3),
        "different_hosts_solved": solves(),
        **_counted(answers),
    }


def _counted(answers: dict[str, Answer]) -> dict[str, int]:
    stacks = {
        (answer.solution.stack.id, answer.environment)
        for answer in answers.values()
        if answer.solution.stack
    }
    blocked = sum(answer.solution.blocked is not None for answer in answers.values())
    return {"different_stacks": len(stacks), "blocked": blocked}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=1000)
    count = parser.parse_args().hosts
    first, again = measure(count), measure(2 * count)
    found = {
        "first": first,
        "twice_the_hosts": again,
        "wanted_seconds_for_1000": WANTED_S,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(found, indent=1))
    return int(first["cpu_seconds"] * 1000 / count > WANTED_S)


if __name__ == "__main__":
    sys.exit(main())
