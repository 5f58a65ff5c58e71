"""What the data files beside this module hold, typed; `load` reads and cross-checks them.

Every row names a source of its file's `sources` table. Nothing here decides anything.
"""

from functools import cached_property, lru_cache
from typing import Literal

from pydantic import Field

from deploy.catalog.systems import Distribution, DriverNames, Key, Support, Vendor
from deploy.facts import Flavour
from deploy.fleet.model import Model
from deploy.stack import Origin


@lru_cache(maxsize=50_000)
def numbers(version: str) -> tuple[int, ...]:
    """A vendor version as integers, for comparison: "580.95.05" -> (580, 95, 5).

    Raises ValueError for anything but dotted numbers (Debian revisions do not belong here).
    """
    return tuple(int(part) for part in version.split("."))


class Source(Model):
    """Where rows come from, and when it was read."""

    title: str
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    def __str__(self) -> str:
        return f"{self.title}, {self.date}"


class Architecture(Model):
    """What all boards of one architecture have in common."""

    name: str
    modules: tuple[Flavour, ...] = Field(min_length=1)
    """Kernel-module flavours that work, the preferred one first."""
    driver_min: int = 0
    driver_max: int | None = None
    """Last driver branch with support; None while it is supported."""
    cuda_min: str = "0.0"
    cuda_last: str | None = None
    """Last CUDA release that compiles for it; None while it is supported."""
    source: str


class Gpu(Model):
    """One PCI device id."""

    device: str = Field(pattern=r"^[0-9a-f]{4}$")
    name: str
    architecture: str
    compute: str = Field(pattern=r"^\d+\.\d$")
    """Compute capability."""
    fabric: Literal["", "nvlink5", "imex"] = ""
    """What its board needs beside the driver, when the PCI bus does not show it."""
    nvlink: int = 0
    """NVLink generation that the board carries, switched or bridged; 0: none, or not known."""
    kind: Literal["data-centre", "workstation"]
    """workstation: boards for desks and games; the vendor's fleet tools do not promise them."""
    source: str


class DeviceRange(Model):
    """PCI device ids that belong to one architecture, for boards without a row of their own."""

    first: str = Field(pattern=r"^[0-9a-f]{4}$")
    last: str = Field(pattern=r"^[0-9a-f]{4}$")
    architecture: str
    source: str

    def holds(self, device: str) -> bool:
        """Whether a device id (four hex digits) lies in it."""
        return self.first <= device <= self.last


class NvSwitch(Model):
    """A switch that shows on the PCI bus and needs the fabric manager."""

    device: str = Field(pattern=r"^[0-9a-f]{4}$")
    name: str
    nvlink: int = Field(ge=1)
    """NVLink generation."""
    source: str


class Branch(Model):
    """A driver branch."""

    number: int
    type: Literal["lts", "production", "feature", "legacy", "unknown"]
    end_of_life: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}$")
    """Last month with support."""
    ended: bool = False
    """Support ended in a month that the source does not name."""
    newest: str
    cuda: str
    """CUDA release that shipped with it."""
    kernel_fails: str = Field(default="", pattern=r"^(\d+\.\d+)?$")
    """First kernel release that its module is known not to build for, as 7.0; "" when none is."""
    source: str


class DriverNotice(Model):
    """A known fault of a branch's older drivers."""

    branch: int
    fixed: str
    architecture: str
    text: str
    source: str


class LastBranch(Model):
    """The last branch with closed modules."""

    branch: int
    source: str


class CudaMajor(Model):
    """What every release of a CUDA major shares."""

    major: int
    driver: str
    """Floor of minor-version compatibility."""
    source: str


class CudaUpdate(Model):
    """One version of a toolkit release."""

    version: str = Field(pattern=r"^\d{2}\.\d\.\d$")
    """As its packages carry it; the third number need not count updates (13.4 is 13.4.1)."""
    driver: str
    """Floor for full function, PTX JIT included."""
    source: str | None = None
    """None: the source of its release."""


class CudaRelease(Model):
    """One CUDA toolkit release."""

    release: str = Field(pattern=r"^\d{2}\.\d$")
    updates: tuple[CudaUpdate, ...] = Field(alias="update", min_length=1)
    """The release itself and its updates, oldest first."""
    source: str

    @property
    def driver(self) -> str:
        """Floor for full function of the newest update: it covers whichever one is offered."""
        return self.updates[-1].driver

    def floor(self, version: str) -> str:
        """Floor for full function of the update with this package version; an update that has no
        row is held to the newest one's."""
        known = {row.version: row.driver for row in self.updates}
        return known.get(version, self.driver)


class ForwardCompat(Model):
    """A package of user space that lets data-centre boards run a release on older drivers."""

    release: str
    driver: str
    """Version of the driver whose user space it holds."""
    source: str


class CudaNotice(Model):
    """A known fault of a release."""

    release: str
    fixed: str
    """First version of the toolkit package without the fault, "" when no update has the fix."""
    text: str
    source: str


class CudnnRule(Model):
    """From a cuDNN version on, boards below a compute capability are not supported."""

    from_version: str = Field(alias="from")
    compute: str
    source: str


class TorchBuild(Model):
    """One Linux wheel of a release, for one CUDA."""

    build: str = Field(pattern=r"^cu\d{3}$")
    machine: Literal["x86_64", "aarch64"] = "x86_64"
    """Machine type as `uname -m` prints it: SM lists differ between them."""
    cuda: str
    cudnn: str
    nccl: str
    pypi: bool = False
    """The default index serves this build, without a local version."""
    capabilities: tuple[str, ...] = Field(min_length=1)
    pins: tuple[str, ...] = ()
    """What the default wheel asks for beside cuDNN and NCCL, as its metadata writes it; empty for
    builds of other indexes, whose metadata the lock reads."""
    source: str

    def runs_on(self, compute: str) -> bool:
        """Whether it holds code for a GPU of this compute capability: same major, minor not above.

        Code that would reach the GPU through PTX alone does not count: it needs the full driver
        of its toolkit and compiles at every start.
        """
        major, minor = numbers(compute)
        return any(
            have_major == major and have_minor <= minor
            for have_major, have_minor in map(numbers, self.capabilities)
        )


class TorchRelease(Model):
    """One version of torch."""

    version: str
    date: str | None = None
    pythons: tuple[str, ...]
    cpu_wheel: tuple[Literal["x86_64", "aarch64"], ...] = ()
    """Machine types to which the default index gives a wheel without CUDA, saying nothing."""
    torchvision: str = ""
    """Version released with it, "" when none is known."""
    torchaudio: str = ""
    """Version released with it, "" when none is known."""
    builds: tuple[TorchBuild, ...] = Field(alias="build", min_length=1)
    """In the order in which the solver tries them."""


class Catalogue(Model):
    """Everything that is known of vendor parts, without any host."""

    sources: dict[str, Source]
    """By "<file>.<key>", as drivers.branches."""
    architectures: tuple[Architecture, ...]
    gpus: tuple[Gpu, ...]
    ranges: tuple[DeviceRange, ...]
    nvswitches: tuple[NvSwitch, ...]
    branches: tuple[Branch, ...]
    driver_notices: tuple[DriverNotice, ...]
    closed_last: LastBranch
    cuda_majors: tuple[CudaMajor, ...]
    cuda_releases: tuple[CudaRelease, ...]
    cuda_compat: tuple[ForwardCompat, ...]
    cuda_notices: tuple[CudaNotice, ...]
    cudnn: tuple[CudnnRule, ...]
    torch_index: str
    torch_tools: tuple[str, ...]
    torch_gpu_tools: tuple[str, ...]
    torch: tuple[TorchRelease, ...]
    vendor: Vendor
    keys: tuple[Key, ...]
    driver_schemes: tuple[DriverNames, ...]
    supports: tuple[Support, ...]
    distributions: tuple[Distribution, ...]

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def source(self, file: str, key: str) -> str:
        """The source of a row as people read it."""
        return str(self.sources[f"{file}.{key}"])

    @cached_property
    def architecture(self) -> dict[str, Architecture]:
        """Architectures by name."""
        return {row.name: row for row in self.architectures}

    @cached_property
    def gpu(self) -> dict[str, Gpu]:
        """GPUs by PCI device id."""
        return {row.device: row for row in self.gpus}

    @cached_property
    def support(self) -> dict[str, Support]:
        """Newest versions seen of parts that no other row numbers, by part."""
        return {row.part: row for row in self.supports}

    def range_of(self, device: str) -> Architecture | None:
        """The architecture of a device id that has no row, by the ranges that are sourced.

        It decides what an architecture decides: module flavours, driver branches, CUDA releases.
        It does not tell the compute capability (Blackwell has five), so no torch build can be
        chosen by it, nor NVLink, nor what a board needs beside the driver. None: nothing is known.
        """
        for row in self.ranges:
            if row.holds(device):
                return self.architecture[row.architecture]
        return None

    @cached_property
    def branch(self) -> dict[int, Branch]:
        """Driver branches by number."""
        return {row.number: row for row in self.branches}

    @cached_property
    def cuda_release(self) -> dict[str, CudaRelease]:
        """CUDA releases by name, as 13.0."""
        return {row.release: row for row in self.cuda_releases}

    @cached_property
    def cuda_major(self) -> dict[int, CudaMajor]:
        """CUDA majors by number."""
        return {row.major: row for row in self.cuda_majors}

    def distribution(self, os_id: str, version_id: str) -> Distribution | None:
        """The row of an os-release, None when it is not supported."""
        for row in self.distributions:
            if row.matches(os_id, version_id):
                return row
        return None

    def named(self, distribution: str) -> Distribution:
        """The row of a distribution, by the catalogue's name. Raises KeyError."""
        for row in self.distributions:
            if row.name == distribution:
                return row
        raise KeyError(f"the catalogue has no distribution {distribution}")

    def key_of(self, distribution: str) -> Key:
        """The key that signs the vendor's repository for a distribution. Raises KeyError."""
        return self.key[self.named(distribution).key]

    @cached_property
    def key(self) -> dict[str, Key]:
        """Keys of the vendor's repositories by short name."""
        return {row.name: row for row in self.keys}

    @cached_property
    def _driver_names(self) -> dict[tuple[str, Origin, int], DriverNames | None]:
        return {}

    def driver_names(self, distribution: str, origin: Origin, branch: int) -> DriverNames | None:
        """What an origin calls the packages of a driver branch, the branch put in; None when it
        does not have that branch."""
        key = (distribution, origin, branch)
        if key not in self._driver_names:
            self._driver_names[key] = self._named_driver(*key)
        return self._driver_names[key]

    def _named_driver(self, distribution: str, origin: Origin, branch: int) -> DriverNames | None:
        row = self.named(distribution)
        for names in self.driver_schemes:
            in_range = names.first <= branch <= names.last
            if names.scheme != row.origins.get(origin) or not in_range:
                continue
            if not names.only or branch in names.only:
                return names.of(branch)
        return None
