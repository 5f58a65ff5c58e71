"""What there is a golden plan of: hosts of every distribution and flavour, and their stacks.

Stacks are solved from the catalogue alone (`catalogue_repository`), with a made-up resolved Python
environment, so a golden file changes only when the catalogue, the solver or a layer does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from deploy.catalog import load
from deploy.facts import (
    Flavour,
    Kernel,
    NodeFacts,
    Os,
    Package,
    PciDevice,
    PythonFacts,
)
from deploy.fleet.spec import NodeSpec
from deploy.matrix import catalogue_repository
from deploy.solve import choose, complete
from deploy.solving.offers import Available
from deploy.stack import ManagedPython, Solution, Stack
from deploy.steps import Wanted
from tests import factory

SYSTEMS: dict[str, tuple[str, str, str, str]] = {
    "debian12": ("debian", "bookworm", "6.1.0-40-amd64", "3.11.2"),
    "debian13": ("debian", "trixie", "6.12.48+deb13-amd64", "3.13.5"),
    "ubuntu2204": ("ubuntu", "jammy", "5.15.0-160-generic", "3.10.12"),
    "ubuntu2404": ("ubuntu", "noble", "6.8.0-87-generic", "3.12.3"),
    "ubuntu2604": ("ubuntu", "resolute", "7.0.0-14-generic", "3.14.0"),
    "rhel8": ("rocky", "", "4.18.0-553.el8_10.x86_64", "3.6.8"),
    "rhel9": ("rocky", "", "5.14.0-611.5.1.el9_7.x86_64", "3.9.23"),
    "rhel10": ("rocky", "", "6.12.0-124.8.1.el10_1.x86_64", "3.12.9"),
    "amzn2023": ("amzn", "", "6.1.158-178.288.amzn2023.x86_64", "3.9.24"),
}
"""Distribution -> ID, code name, a kernel release as it names them, its python3."""
HARDWARE: dict[Flavour, str] = {"open": "hgx-h100", "closed": "v100"}
"""Boards whose flavour it is: the newest that need no other part, and the oldest."""


@dataclass(frozen=True)
class Case:
    """One distribution on one machine type, with the boards of one flavour."""

    distribution: str
    machine: str
    flavour: Flavour
    full: bool = False
    """Every optional part is wished for."""

    @property
    def name(self) -> str:
        machine = "" if self.machine == "x86_64" else f"-{self.machine}"
        return f"{self.distribution}{machine}-{self.flavour}{'-full' if self.full else ''}"

    @property
    def wish(self) -> dict[str, Any]:
        """Inventory keys of its hosts."""
        return {**SPEC, **(FULL if self.full else {})}

    @property
    def spec(self) -> NodeSpec:
        """The same, read."""
        return NodeSpec(**self.wish)


@cache
def every() -> tuple[Case, ...]:
    """Every distribution that gpufleet applies to, both flavours; an arm64 server; all optional
    parts on one distribution of each package system."""
    rows = [row for row in load().distributions if row.kind in APPLIED]
    found = [Case(row.name, "x86_64", flavour) for row in rows for flavour in HARDWARE]
    full = [Case(name, "x86_64", "open", full=True) for name in ("debian12", "rhel9")]
    return (*found, Case("ubuntu2404", "aarch64", "open"), *full)


def cases() -> list[Case]:
    """Those that have a stack."""
    return [case for case in every() if solved(case).stack is not None]


def unsolved() -> str:
    """The others, each with the reason: a golden file, too."""
    lines = ["Hosts that no stack is found for, with the solver's reason.", ""]
    for case in every():
        if (blocked := solved(case).blocked) is not None:
            lines += [f"{case.name}: {blocked.reason}"]
            lines += [f"    to unblock: {way}" for way in blocked.unblock]
    return "\n".join(lines) + "\n"


APPLIED = {"apt", "dnf"}
"""Package systems that there are layers for."""


@cache
def available(case: Case) -> Available:
    """What the vendor's repository offers there, as the catalogue knows it."""
    mine = catalogue_repository(load(), case.distribution, case.machine).repository
    keyed = mine.model_copy(
        update={"key": factory.KEY, "key_fingerprint": factory.key_fingerprint()}
    )
    return catalogue_repository(load(), case.distribution, case.machine, keyed)


@cache
def bare(case: Case, hardware: str = "") -> NodeFacts:
    """A host on which nothing of the stack is installed."""
    row = load().named(case.distribution)
    os_id, codename, release, python = SYSTEMS[case.distribution]
    kernel = release.replace("x86_64", case.machine).replace(
        "amd64", row.arch[case.machine].packages
    )
    packages = {"ca-certificates": Package(version="1-1", state="ii", held=False)}
    found = factory.facts(
        hardware or HARDWARE[case.flavour],
        os=Os(
            id=os_id,
            version_id=row.version,
            codename=codename,
            pretty_name=row.title,
            id_like=(),
            arch=case.machine,
        ),
        kernel=Kernel(running=kernel, next=kernel, installed=(kernel,), headers=()),
        python=PythonFacts(version=python, venv=False, headers=False),
        compiler="",
        packaging=row.kind,
        packages=packages,
    )
    grace = case.machine == "aarch64" and not hardware
    return found.model_copy(update={"pci": GH200}) if grace else found


GH200 = (
    PciDevice(
        slot="0009:01:00.0",
        device="2342",
        pci_class="030200",
        subsystem="10de:16eb",
        revision="a1",
        driver="",
    ),
)
"""One GH200 (10de:2342, pci.ids)."""


@cache
def solved(case: Case, hardware: str = "", **wish: Any) -> Solution:
    """The answer for such a host."""
    spec = NodeSpec(**case.wish, **wish)
    answer = choose(spec, bare(case, hardware), load(), available(case), factory.TODAY)
    want = answer.environment
    if want is None:
        return answer.solution
    return complete(
        answer,
        factory.environment(
            python=want.python,
            torch=want.torch,
            build=want.build,
            hardware_build=want.hardware_build,
            managed_python=managed(want.python, case.machine) if want.managed_python else None,
            requirements=(
                f"numpy==2.4.6 --hash=sha256:{'b' * 64}",
                f"torch=={want.torch}+{want.build} --hash=sha256:{'c' * 64}",
            ),
        ),
    )


def managed(minor: str, machine: str) -> ManagedPython:
    """A build that uv would bring."""
    version = f"{minor}.9"
    key = f"cpython-{version}-linux-{machine}-gnu"
    url = f"https://github.com/astral-sh/python-build-standalone/releases/download/x/{key}.tar.gz"
    return ManagedPython(version=version, key=key, url=url)


SPEC: dict[str, Any] = {"vendor_key_fingerprint": factory.key_fingerprint()}
"""The test's own key stands for the vendor's: a lock is read only when keys fit fingerprints."""


FULL: dict[str, Any] = {
    "dcgm": "latest",
    "container_toolkit": "latest",
    "power_limit": 500,
    "module_options": ("NVreg_EnableMSI=0",),
    "memlock": "unlimited",
}


def stack(case: Case, hardware: str = "", **wish: Any) -> Stack:
    """The stack of such a host, which must have one."""
    solution = solved(case, hardware, **wish)
    assert solution.stack is not None, (case, wish, solution.blocked)
    return solution.stack


def wanted(case: Case, host: str) -> Wanted:
    """What the golden plans of a case bring hosts to."""
    return Wanted(host=host, spec=case.spec, stack=stack(case))


@cache
def other_branch(case: Case) -> Stack:
    """A stack of another driver branch, the newest older one before newer ones: of the same origin
    and boards where there is one, else of boards that were there before, else of any origin."""
    mine = stack(case).driver
    assert mine is not None
    numbers = sorted((branch.number for branch in load().branches), reverse=True)
    older = [number for number in numbers if number < int(mine.branch)]
    newer = [number for number in reversed(numbers) if number > int(mine.branch)]
    for origin, hardware in product((mine.origin, "auto"), ("", "l40s")):
        for number in [*older, *newer]:
            wish = {"driver": str(number), "driver_modules": case.flavour, "origin": origin}
            found = solved(case, hardware, **wish).stack
            if found is not None and found.driver is not None:
                return found
    raise AssertionError(f"{case.name}: no other branch has a stack")
