"""What decides about a host, read from its facts: hardware, system, standing driver.

A `Situation` holds no host name and compares by value, so that equal hosts are solved once.
Everything that makes a host not ours to change, or not known well enough, is refused here.
"""

from collections import Counter
from dataclasses import dataclass

from deploy.catalog.models import Architecture, Catalogue, Gpu, numbers
from deploy.catalog.systems import Arch, Distribution, DriverNames
from deploy.facts import NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.boards import boards, refuse_machine, switches
from deploy.solving.found import Standing, standing_driver
from deploy.solving.ours import asks_vendor, refuse_foreign, refuse_repository
from deploy.solving.refusal import Refused, listed
from deploy.stack import Origin

__all__ = ["Situation", "Standing", "asks_vendor", "situation"]

DRIVER_MODULE = "nvidia-driver"
"""The vendor's dnf module."""

NEEDED = ("os", "pci", "foreign")
"""Facts without which nothing is decided; a GPU host needs more."""
NEEDED_WITH_GPUS = ("modules", "packages")


@dataclass(frozen=True)
class Situation:
    """All that decides about a host. Equal situations have equal answers."""

    distribution: str
    """Catalogue name, as debian12."""
    machine: str
    gpus: tuple[Gpu, ...]
    """One row per board, in slot order."""
    nvswitches: int
    driver: Standing | None
    installed: tuple[tuple[str, str], ...]
    """Installed packages of interest: name, full version."""
    python: str
    """Minor version of /usr/bin/python3; "" when there is none."""
    python_unknown: str
    """Why it could not be read, "" when it could."""
    secure_boot: str
    """enabled, disabled, no-efi, or "unknown: why"."""
    kernels: tuple[str, ...] = ()
    """Releases that run now and after the next boot, each once; empty when they are not known."""
    driver_stream: str = ""
    """Enabled dnf module stream of the driver, as nvidia-driver:580-open."""
    guesses: tuple[str, ...] = ()
    """What was taken for true of boards that have no row, for people."""

    @property
    def boards(self) -> str:
        """The hardware for people: "8 x H100 SXM5 80GB"."""
        counted = Counter(gpu.name for gpu in self.gpus)
        return listed([f"{count} x {name}" for name, count in counted.items()]) or "no GPU"

    def kinds(self, catalogue: Catalogue) -> list[Architecture]:
        """The architectures here, each once, in the catalogue's order."""
        here = {gpu.architecture for gpu in self.gpus}
        return [row for row in catalogue.architectures if row.name in here]

    def row(self, catalogue: Catalogue) -> Distribution:
        """The distribution's row."""
        return catalogue.named(self.distribution)

    def arch(self, catalogue: Catalogue) -> Arch:
        """The machine type's row."""
        return self.row(catalogue).arch[self.machine]

    def names(
        self, catalogue: Catalogue, version: str, origin: Origin | None = None
    ) -> DriverNames:
        """What the packages of a driver version are called, by the standing driver's origin unless
        another is named. Nothing has a name where that origin has no such branch."""
        whose = origin or (self.driver.origin if self.driver else "vendor")
        found = catalogue.driver_names(self.distribution, whose, numbers(version)[0])
        return found or DriverNames(scheme="", source="")


def situation(spec: NodeSpec, facts: NodeFacts, catalogue: Catalogue) -> Situation:
    """What decides about this host. Raises Refused when it is not ours or not known."""
    _known(facts, NEEDED)
    assert facts.os is not None
    assert facts.pci is not None
    assert facts.foreign is not None
    row = catalogue.distribution(facts.os.id, facts.os.version_id)
    supported = listed([row.title for row in catalogue.distributions])
    if row is None:
        raise Refused(
            "unsupported-os",
            f"{facts.os.pretty_name} is not supported; supported: {supported}",
            source="catalogue: distributions",
            unblock=(f"install one of: {supported}",),
        )
    if facts.os.arch not in row.arch:
        raise Refused(
            "unsupported-arch",
            f"{row.title} on {facts.os.arch} is not supported; "
            f"supported there: {listed(sorted(row.arch))}",
            source="catalogue: distributions",
        )
    gpus, guesses = boards(facts.pci, catalogue)
    refuse_machine(gpus, facts.os.arch)
    if spec.driver != NONE:
        refuse_foreign(facts.foreign)
    refuse_repository(spec, gpus, row, catalogue)
    if gpus:
        _known(facts, NEEDED_WITH_GPUS)
    installed = {
        name: package.version
        for name, package in (facts.packages or {}).items()
        if package.state[1:2] not in {"n", "c", ""}
    }
    stream = (facts.streams or {}).get(DRIVER_MODULE, "")
    return Situation(
        distribution=row.name,
        machine=facts.os.arch,
        gpus=gpus,
        nvswitches=switches(facts.pci, catalogue),
        driver=standing_driver(facts, row, installed, catalogue) if gpus else None,
        installed=tuple(sorted(installed.items())),
        python=".".join(facts.python.version.split(".")[:2]) if facts.python else "",
        python_unknown="" if facts.python else _why(facts, "python"),
        secure_boot=facts.secure_boot or f"unknown: {_why(facts, 'secure_boot')}",
        kernels=tuple(dict.fromkeys((facts.kernel.running, facts.kernel.next)))
        if facts.kernel
        else (),
        driver_stream=f"{DRIVER_MODULE}:{stream}" if stream else "",
        guesses=guesses,
    )


def _why(facts: NodeFacts, part: str) -> str:
    return facts.unknown.get(part, "the probe did not say")


def _known(facts: NodeFacts, parts: tuple[str, ...]) -> None:
    missing = [part for part in parts if getattr(facts, part) is None]
    if missing:
        raise Refused(
            "unknown-facts",
            "needed facts could not be read: "
            + "; ".join(f"{part} ({_why(facts, part)})" for part in missing),
            source="unknown never means fine",
            unblock=(f"mend what hides them, then look: gpufleet facts -w {facts.host}",),
        )
