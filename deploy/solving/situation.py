"""What decides about a host, read from its facts: hardware, system, standing driver.

A `Situation` holds no host name and compares by value, so that equal hosts are solved once.
Everything that makes a host not ours to change, or not known well enough, is refused here.
"""

import re
from collections import Counter
from dataclasses import dataclass

from deploy.catalog.models import Architecture, Catalogue, Gpu, numbers
from deploy.catalog.systems import Arch, Distribution, DriverNames
from deploy.facts import Flavour, Foreign, NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.boards import boards, refuse_machine, switches
from deploy.solving.offers import upstream
from deploy.solving.refusal import Refused, listed
from deploy.stack import Origin

DRIVER_MODULE = "nvidia-driver"
"""The vendor's dnf module."""

OWNERS = {
    "runfile": (
        "the driver was installed by NVIDIA's .run installer",
        "run `nvidia-uninstall` on the host",
    ),
    "dgx-os": ("DGX OS manages the driver", "update it with DGX OS's own tools"),
    "driver-container": (
        "a driver container (GPU Operator) manages the driver",
        "exclude the host from the operator's driver and remove the container",
    ),
    "vgpu": ("a vGPU guest needs the GRID driver of its hypervisor", "use the site's vGPU driver"),
    "other-packages": (
        "the driver comes from RPM Fusion, ELRepo or negativo17, whose packages the vendor's "
        "conflict with",
        "remove those packages with dnf, and switch their repository off",
    ),
    "vfio": (
        "GPUs are bound to vfio-pci for virtual machines",
        "give the GPUs back to the host (unbind vfio-pci)",
    ),
}

NEEDED = ("os", "pci", "foreign")
"""Facts without which nothing is decided; a GPU host needs more."""
NEEDED_WITH_GPUS = ("modules", "packages")


@dataclass(frozen=True)
class Standing:
    """The driver that a host has now."""

    version: str
    flavour: Flavour | None
    loaded: str
    """Version of the loaded module, "" when none is."""
    packages: tuple[tuple[str, str], ...]
    """Installed packages of this driver version: name, full version."""
    origin: Origin = "vendor"
    """Whose names its packages have; the vendor's when they tell nothing."""


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
        _ours(facts.foreign)
    _repository(spec, gpus, row, catalogue)
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
        driver=_standing(facts, row, installed, catalogue) if gpus else None,
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


def asks_vendor(spec: NodeSpec, gpus: tuple[Gpu, ...]) -> bool:
    """Whether the answer for a host needs the vendor's repository."""
    parts = (spec.cuda, spec.cudnn, spec.nccl)
    wished = (*parts, spec.dcgm, spec.container_toolkit)
    if gpus and (spec.driver != NONE or any(part != NONE for part in parts)):
        return True
    return any(part not in (None, NONE) for part in wished)


def _repository(
    spec: NodeSpec, gpus: tuple[Gpu, ...], row: Distribution, catalogue: Catalogue
) -> None:
    """Raises Refused where the vendor's repository could not be trusted, or is another system's."""
    if not asks_vendor(spec, gpus):
        return
    key = catalogue.key_of(row.name)
    if not key.fingerprint and not spec.vendor_key_fingerprint:
        raise Refused(
            "vendor-key",
            f"the fingerprint of the key {key.file} that signs the vendor's repository for "
            f"{row.title} is not in the catalogue: no source for it was found",
            source=catalogue.source("distributions", key.source),
            unblock=(
                f"read it where you trust it (gpg --show-keys {key.file}), then "
                'vendor_key_fingerprint = "..."',
            ),
        )
    path = (spec.vendor_repository or "").split("/")
    others = [other for other in catalogue.distributions if other.name in path]
    if others and row not in others:
        raise Refused(
            "vendor-repository",
            f"{spec.vendor_repository} is the vendor's repository for {others[0].title}, the host "
            f"is {row.title}: packages of one do not run on the other, and Debian 13 refuses the "
            "signatures of Debian 12's (SHA-1)",
            source=catalogue.source("distributions", row.source),
            unblock=(f"vendor_repository: the mirror of {row.name}",),
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


def _ours(foreign: tuple[Foreign, ...]) -> None:
    if foreign:
        told = [f"{OWNERS[one.owner][0]} ({one.evidence})" for one in foreign]
        raise Refused(
            "foreign-" + foreign[0].owner,
            "; ".join(told),
            source="what somebody else manages is never overwritten",
            unblock=(
                *(OWNERS[one.owner][1] for one in foreign),
                'driver = "none": the driver is left alone, the rest is built on what is loaded',
            ),
        )


_VERSION = re.compile(r"\d{3}(\.\d{2,3}){1,2}")


@dataclass(frozen=True)
class _Packaged:
    """An installed package with kernel modules."""

    version: str
    flavour: Flavour
    origin: Origin


def _packaged(
    row: Distribution, installed: dict[str, str], catalogue: Catalogue
) -> list[_Packaged]:
    """Packages with kernel modules, open ones and the vendor's first."""
    found = []
    for name, full in installed.items():
        version = upstream(full)
        if not _VERSION.fullmatch(version):
            continue
        own = bool(row.own_versions and re.search(row.own_versions, full))
        for scheme in row.origins:
            names = catalogue.driver_names(row.name, scheme, numbers(version)[0])
            if names and name in (names.module_open, names.module_closed):
                flavour: Flavour = "open" if name == names.module_open else "closed"
                origin: Origin = "distribution" if own else scheme
                found.append(_Packaged(version, flavour, origin))
    return sorted(found, key=lambda one: (one.flavour != "open", one.origin != "vendor"))


def _standing(
    facts: NodeFacts, row: Distribution, installed: dict[str, str], catalogue: Catalogue
) -> Standing | None:
    """The driver as installed: the module package's version, else the module file's, else the
    loaded one's. A driver that is loaded while packages moved on counts as the packages say:
    the next boot runs that."""
    modules, kernel = facts.modules, facts.kernel
    assert modules is not None
    packaged = _packaged(row, installed, catalogue)
    for_kernel = [
        one for one in modules.installed if kernel is None or one.kernel == kernel.running
    ]
    if packaged:
        version = packaged[0].version
    elif for_kernel:
        version = for_kernel[0].version
    else:
        version = modules.loaded_version
    if not version:
        return None
    if not _VERSION.fullmatch(version):
        raise Refused(
            "unknown-facts",
            f"the installed driver calls itself {version!r}, which is no driver version",
            source="unknown never means fine",
        )
    flavours: list[Flavour | None] = [one.flavour for one in for_kernel if one.version == version]
    if modules.loaded_version == version:
        flavours.append(modules.loaded_flavour)
    if packaged:
        flavours.append(packaged[0].flavour)
    return Standing(
        version=version,
        flavour=next((flavour for flavour in flavours if flavour), None),
        loaded=modules.loaded_version,
        packages=tuple(
            sorted((name, full) for name, full in installed.items() if upstream(full) == version)
        ),
        origin=packaged[0].origin if packaged else "vendor",
    )
