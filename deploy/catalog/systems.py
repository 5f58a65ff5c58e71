"""What operating systems call things, typed: distributions, package names, vendor repositories.

`distributions.toml` has one row per distribution, which names sets of `packages.toml`; `compose`
puts the two together. Nothing here decides anything.
"""

import re
from typing import Any, Literal

from pydantic import Field

from deploy.facts import Flavour
from deploy.fleet.model import Model
from deploy.stack import Origin, Packaging

Proof = Literal["never run", "simulated", "real"]
"""Where a distribution was installed and converged: nowhere, on hosts with simulated GPUs, on real
hardware."""


class Arch(Model):
    """One machine type of a distribution."""

    repository: str
    """Its name in the vendor's repository addresses."""
    packages: str
    """Its name in the package system."""
    wheels: str
    """uv's name of the platform whose wheels run there."""
    vendor_first: int = 0
    """First driver branch that the vendor's repository for it holds."""
    vendor_lacks: tuple[str, ...] = ()
    """Packages that the vendor's other repositories hold and this one does not."""
    proven: Proof = "never run"


class ExtraRepository(Model):
    """A repository beside the distribution's default ones that a prerequisite comes from."""

    name: str
    holds: tuple[str, ...]
    """Packages that are found nowhere else."""
    enable: dict[str, str]
    """What to run on a host to have it, by the `ID` of its os-release."""


class BaseNames(Model):
    """What the operating-system layer installs by presence, never at a version."""

    headers: tuple[str, ...]
    """Templates, {kernel} is the release as `uname -r` prints it."""
    headers_by_kernel: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Other templates for kernels whose release matches a regular expression, first one first."""
    dkms: tuple[str, ...]
    certificates: tuple[str, ...]
    python: tuple[str, ...]
    venv: tuple[str, ...]
    """Beside `python`, for `python3 -m venv`; empty where that has it."""
    python_headers: tuple[str, ...]
    compiler: tuple[str, ...]
    """For torch.compile."""
    fabric_nvlink5: tuple[str, ...]
    """For hosts whose NVLink 5 switches are driven through InfiniBand's management stack."""
    fabric_modules: tuple[str, ...]
    """Kernel modules that those hosts load."""
    initramfs: tuple[str, ...]
    """Command that builds the initial ramdisks of every kernel anew."""
    extra_repositories: tuple[ExtraRepository, ...] = ()
    source: str

    def headers_of(self, kernel: str) -> tuple[str, ...]:
        """Packages with the headers of one kernel release."""
        for pattern, templates in self.headers_by_kernel.items():
            if re.search(pattern, kernel):
                return tuple(template.replace("{kernel}", kernel) for template in templates)
        return tuple(template.replace("{kernel}", kernel) for template in self.headers)


class DriverNames(Model):
    """How one origin names a driver's packages in a range of branches.

    {branch} stands for the number of the branch; `Catalogue.driver_names` puts it in. {kernel}
    stays: only a host knows it.
    """

    scheme: str
    first: int = 0
    last: int = 10_000
    """Branches, both included."""
    only: tuple[int, ...] = ()
    """The only branches in that range that there are; empty: all of them."""
    pinning: str = ""
    """Package that pins the branch for the package manager, "" when there is none."""
    stream_open: str = ""
    stream_closed: str = ""
    """dnf module stream that must be enabled, as nvidia-driver:580-open."""
    module_open: str = ""
    module_closed: str = ""
    """Package with the kernel modules of a flavour, "" when this origin has none."""
    prebuilt_open: str = ""
    prebuilt_closed: str = ""
    """Signed modules for one kernel release, as linux-modules-nvidia-580-server-open-{kernel};
    `module_*` is then only their source."""
    driver: tuple[str, ...] = ()
    """The driver's user space without graphics."""
    own_number: tuple[str, ...] = ()
    """User space with version numbers of its own: the newest is taken."""
    coherent: tuple[str, ...] = ()
    """User space that must be at the driver's version; else NVML refuses to talk to the module."""
    fabric_nvswitch: tuple[str, ...] = ()
    fabric_nvlink5: tuple[str, ...] = ()
    """The first one at exactly the driver's version. Empty: this origin has none."""
    imex: tuple[str, ...] = ()
    """All at exactly the driver's version."""
    epoch: int = 0
    """Of the driver's packages; fabric manager and IMEX carry none."""
    source: str

    def module(self, flavour: Flavour) -> str:
        """The package with the kernel modules of a flavour, "" when there is none."""
        return self.module_open if flavour == "open" else self.module_closed

    def stream(self, flavour: Flavour) -> str:
        """The module stream of a flavour, "" when there are no streams."""
        return self.stream_open if flavour == "open" else self.stream_closed

    def prebuilt(self, flavour: Flavour) -> str:
        """The template of signed prebuilt modules of a flavour, "" when there are none."""
        return self.prebuilt_open if flavour == "open" else self.prebuilt_closed

    def of(self, branch: int) -> "DriverNames":
        """These names with the branch put in."""

        def put(value: Any) -> Any:
            if isinstance(value, str):
                return value.replace("{branch}", str(branch))
            return tuple(put(one) for one in value) if isinstance(value, tuple) else value

        return self.model_copy(update={key: put(value) for key, value in self if key != "source"})


class Support(Model):
    """The newest version seen of a part that no other row numbers; it only informs."""

    part: str
    """A field of LibraryNames, or a package's name."""
    newest: str
    """As packages carry it: 1:4.6.0-1."""
    source: str


class LibraryNames(Model):
    """Packages that stand on the driver. Templates: {major} {minor} of CUDA."""

    cuda: tuple[str, ...]
    cudnn: tuple[str, ...]
    nccl: tuple[str, ...]
    dcgm: tuple[str, ...]
    container_toolkit: tuple[str, ...]
    source: str


class Distribution(Model):
    """One Linux distribution: how to know it, its machine types, its Python, its names."""

    name: str
    """As the vendor's repository addresses call it."""
    title: str
    ids: tuple[str, ...] = Field(min_length=1)
    """`ID` of os-release."""
    version: str
    """`VERSION_ID` of os-release, or what stands before its first dot that differs."""
    kind: Packaging
    python: str
    """Python that the distribution's own python3 package brings."""
    arch: dict[str, Arch] = Field(min_length=1)
    """By machine type as `uname -m` prints it."""
    base: BaseNames
    libraries: LibraryNames
    origins: dict[Origin, str] = Field(min_length=1)
    """Naming scheme of a driver's packages, by who signs them."""
    key: str
    """Short name of the key that signs the vendor's repository for it."""
    own_versions: str = ""
    """Regular expression that is found in versions of the distribution's own packages of a driver
    and in none of the vendor's; "" when versions do not tell."""
    kernel: str
    """A release of its kernel as `uname -r` prints it, {machine} and {packages} as the machine type
    calls them: an example, for asking what would solve."""
    source: str

    def matches(self, os_id: str, version_id: str) -> bool:
        """Whether an os-release is this distribution's."""
        return os_id in self.ids and (version_id + ".").startswith(self.version + ".")


class Vendor(Model):
    """Where the vendor's package repositories are."""

    url: str
    """Template: {distribution} by its catalogue name, {arch} by `Arch.repository`."""
    source: str


class Key(Model):
    """A key that signs some of the vendor's repositories."""

    name: str
    """Short key id, as the vendor's documents name it."""
    file: str
    """Its name beside the packages."""
    fingerprint: str = Field(pattern=r"^([0-9A-F]{40})?$")
    """Of the primary key; "" when no source for it was found: the inventory must then say it."""
    source: str


def compose(
    distributions: dict[str, Any], packages: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of distributions with the sets of names that they refer to, and names that lead
    nowhere."""
    rows, faults = [], []
    for row in distributions.get("distribution") or ():
        filled = dict(row)
        for part in ("base", "libraries"):
            named = {one.get("name"): one for one in packages.get(part) or ()}
            found = named.get(row.get(part))
            if found is None:
                faults.append(
                    f"distributions: {row.get('name')}: no {part} {row.get(part)} in packages"
                )
            else:
                filled[part] = {key: value for key, value in found.items() if key != "name"}
        rows.append(filled)
    return rows, faults
