"""Every combination that the catalogue names, asked of the solver in one run.

`python -m deploy.catalog matrix` prints the support table that the README shows. Each combination
of distribution, machine type, hardware and wish has to solve or be blocked with a reason; the
repositories are the catalogue's own description of them (`deploy.described`). Nothing here touches
a host.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from deploy.catalog import load
from deploy.catalog.models import Catalogue, Gpu, numbers
from deploy.catalog.systems import Distribution
from deploy.described import bare_host, catalogue_repository
from deploy.fleet.spec import NodeSpec
from deploy.solve import Answer, choose
from deploy.solving.boards import soldered
from deploy.solving.offers import Available
from deploy.transact import SPOKEN

__all__ = ["catalogue_repository", "main"]

SOME_KEY = "0" * 40
"""Stands for the fingerprint that an inventory must say where the catalogue has none."""
PROVEN = {
    "never run": "never run",
    "simulated": "run on simulated hosts",
    "real": "run on real hardware",
}


@dataclass(frozen=True)
class Hardware:
    """A kind of GPU host: boards that the solver cannot tell apart count as one."""

    name: str
    devices: tuple[str, ...]
    gpu: Gpu


@dataclass(frozen=True)
class Cell:
    """One combination and its answer; `fault` is what went wrong while solving, "" else."""

    distribution: Distribution
    machine: str
    hardware: Hardware
    wish: dict[str, Any]
    secure_boot: bool
    answer: Answer | None
    fault: str = ""

    @property
    def words(self) -> str:
        """The combination for people."""
        wish = [f'{key} = "{value}"' for key, value in self.wish.items()]
        wish += ["Secure Boot"] if self.secure_boot else []
        return ", ".join([self.distribution.name, self.machine, self.hardware.name, *wish])


def hardware(catalogue: Catalogue) -> list[Hardware]:
    """Every kind of GPU host that differs in what it may be given, the oldest first."""
    found: dict[tuple[str, str, str, str], Hardware] = {}
    order = [row.name for row in catalogue.architectures]
    rows = sorted(catalogue.gpus, key=lambda row: row.kind != "data-centre")
    for gpu in rows:
        plain = (gpu.architecture, gpu.compute, gpu.fabric, "")
        found.setdefault(plain, Hardware(gpu.name, (gpu.device,), gpu))
        for switch in catalogue.nvswitches if "SXM" in gpu.name and not gpu.fabric else ():
            if switch.nvlink == gpu.nvlink:
                switched = (gpu.architecture, gpu.compute, "", switch.device)
                name = f"{gpu.name} with NVSwitch"
                found.setdefault(switched, Hardware(name, (gpu.device, switch.device), gpu))
    return sorted(
        found.values(),
        key=lambda one: (order.index(one.gpu.architecture), numbers(one.gpu.compute), one.name),
    )


def wishes(catalogue: Catalogue, today: date) -> list[dict[str, Any]]:
    """What is asked of each host beside nothing: every policy, flavour and origin, and every
    branch that is not past its end."""
    living = [
        row.number
        for row in catalogue.branches
        if not row.ended and (row.end_of_life or "9999") >= f"{today:%Y-%m}"
    ]
    return [
        *({"policy": policy} for policy in ("lts", "production", "newest")),
        *({"driver_modules": flavour} for flavour in ("open", "closed")),
        *({"origin": origin} for origin in ("vendor", "distribution")),
        *({"driver": str(number)} for number in living),
    ]


def cells(catalogue: Catalogue, today: date, plain: bool = False) -> Iterator[Cell]:
    """Every combination, answered. `plain`: only hosts without a wish, as the table shows them."""
    asked = [] if plain else wishes(catalogue, today)
    for row in catalogue.distributions:
        for machine in row.arch:
            available = catalogue_repository(catalogue, row.name, machine)
            for kind in hardware(catalogue):
                for wish, secure_boot in [
                    ({}, False),
                    ({}, True),
                    *((one, False) for one in asked),
                ]:
                    yield _cell(catalogue, available, row, machine, kind, wish, secure_boot, today)


def _cell(
    catalogue: Catalogue,
    available: Available,
    row: Distribution,
    machine: str,
    kind: Hardware,
    wish: dict[str, Any],
    secure_boot: bool,
    today: date,
) -> Cell:
    state: Any = "enabled" if secure_boot else "disabled"
    facts = bare_host(catalogue, row.name, machine, kind.devices, state)
    spec = dict(wish)
    if not catalogue.key_of(row.name).fingerprint:
        spec["vendor_key_fingerprint"] = SOME_KEY
    try:
        answer = choose(NodeSpec(**spec), facts, catalogue, available, today)
    except Exception as error:  # whatever it is, it is what this command is to find
        fault = f"{type(error).__name__}: {error}"
        return Cell(row, machine, kind, wish, secure_boot, None, fault)
    blocked = answer.solution.blocked
    fault = "" if not blocked or (blocked.reason and blocked.source) else "blocked without a reason"
    return Cell(row, machine, kind, wish, secure_boot, answer, fault)


GENERATIONS = (
    ("Maxwell, Pascal, Volta", ("maxwell", "pascal", "volta")),
    ("Turing to Hopper", ("turing", "ampere", "ada", "hopper")),
    ("GH200, GB200, GB300", ()),
    ("Blackwell", ("blackwell",)),
)
"""Columns of the table: generations that are answered alike. The third is of boards that are one
part with an Arm processor. Older boards than these are blocked everywhere."""


def table(catalogue: Catalogue, found: list[Cell]) -> str:
    """The support table in Markdown: what a bare host is given without any wish."""
    head = ["distribution", "machine", *(name for name, _ in GENERATIONS)]
    head += ["Secure Boot", "proof"]
    lines = [_line(head), _line(["---"] * len(head))]
    rows = dict.fromkeys((one.distribution.name, one.machine) for one in found)
    for name, machine in rows:
        here = [one for one in found if (one.distribution.name, one.machine) == (name, machine)]
        plain = [one for one in here if not one.wish and not one.secure_boot]
        row = here[0].distribution
        keyed = catalogue.key_of(row.name).fingerprint
        solved = "solved" if keyed else "solved with `vendor_key_fingerprint`"
        proof = f"{solved}, {PROVEN[row.arch[machine].proven]}"
        if row.kind not in SPOKEN:
            proof = f"solved only: no layer installs with {row.kind}"
        lines.append(
            _line(
                [
                    row.title,
                    machine,
                    *(_generation(plain, kinds) for _, kinds in GENERATIONS),
                    _secure([one for one in here if one.secure_boot]),
                    proof,
                ]
            )
        )
    return "\n".join(lines)


def _line(words: list[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _generation(plain: list[Cell], kinds: tuple[str, ...]) -> str:
    members = [
        one
        for one in plain
        if (one.hardware.gpu.architecture in kinds and not soldered(one.hardware.gpu))
        or (not kinds and soldered(one.hardware.gpu))
    ]
    solved = [words for words in dict.fromkeys(map(_short, members)) if words != NO]
    if not solved:
        return NO
    lacking = [one.hardware.gpu for one in members if _short(one) == NO]
    served = {one.hardware.gpu.architecture for one in members if _short(one) != NO}
    names = dict.fromkeys(
        gpu.name if gpu.architecture in served else gpu.architecture.title() for gpu in lacking
    )
    return " or ".join(solved) + (f" (not {', '.join(names)})" if names else "")


NO = "—"


def _short(one: Cell) -> str:
    """What one combination is given, in a few words."""
    stack = one.answer.solution.stack if one.answer else None
    if stack is None or stack.driver is None:
        return NO
    words = [stack.driver.branch, stack.driver.flavour]
    wish = one.answer.environment if one.answer else None
    if stack.driver.origin == "distribution":
        words.append("of the distribution")
    return " ".join(words) + (f", torch {wish.torch} {wish.build}" if wish else ", no torch")


def _secure(here: list[Cell]) -> str:
    signed = [
        one
        for one in here
        if one.answer and one.answer.solution.stack and one.answer.solution.stack.driver
    ]
    return "the distribution's signed modules" if signed else "blocked"


def main(argv: list[str]) -> int:
    """`python -m deploy.catalog matrix [--json | --blocked]`. 1 when a combination neither solves
    nor is blocked with a reason."""
    parser = argparse.ArgumentParser(prog="python -m deploy.catalog matrix", description=__doc__)
    parser.add_argument("--json", action="store_true", help="every combination, for machines")
    parser.add_argument("--blocked", action="store_true", help="blocked combinations and why")
    options = parser.parse_args(argv)
    catalogue = load()
    found = list(cells(catalogue, date.today()))
    faults = [one for one in found if one.fault]
    if options.json:
        print(json.dumps([_document(one) for one in found], indent=1))
    elif options.blocked:
        for one in found:
            if one.answer and one.answer.solution.blocked:
                blocked = one.answer.solution.blocked
                print(f"{one.words}: {blocked.reason} [{blocked.rule}; {blocked.source}]")
    else:
        solved = sum(bool(one.answer and one.answer.solution.stack) for one in found)
        print(table(catalogue, found))
        print()
        print(
            f"{len(found)} combinations: {solved} solve, {len(found) - solved - len(faults)} are "
            f"blocked with a reason, {len(faults)} failed"
        )
    for one in faults:
        print(f"FAILED {one.words}: {one.fault}", file=sys.stderr)
    return 1 if faults else 0


def _document(one: Cell) -> dict[str, Any]:
    """A combination for machines."""
    stack = one.answer.solution.stack if one.answer else None
    blocked = one.answer.solution.blocked if one.answer else None
    environment = one.answer.environment if one.answer else None
    driver = stack.driver if stack else None
    return {
        "distribution": one.distribution.name,
        "machine": one.machine,
        "hardware": one.hardware.name,
        "wish": one.wish,
        "secure_boot": one.secure_boot,
        "driver": driver
        and {
            "version": driver.version,
            "flavour": driver.flavour,
            "origin": driver.origin,
            "stream": driver.stream,
            "prebuilt": driver.prebuilt,
        },
        "parts": {name: part.version for name, part in stack.components} if stack else {},
        "torch": environment and f"{environment.torch}+{environment.build}",
        "blocked": blocked
        and {"rule": blocked.rule, "reason": blocked.reason, "source": blocked.source},
        "proven": one.distribution.arch[one.machine].proven,
        "fault": one.fault,
    }
