"""What one read-only probe found on a host: `NodeFacts`.

A field that is None could not be read; `unknown` then names the part and why. An empty tuple or
False was looked at and found empty. Nothing here decides anything.
"""

from typing import Literal

from pydantic import Field

from deploy.fleet.model import Model
from deploy.probing.rdma_facts import Rdma
from deploy.probing.setting_facts import GpuSettings

PROBE_VERSION = 2

Flavour = Literal["open", "closed"]


class Os(Model):
    """/etc/os-release and the machine type."""

    id: str
    version_id: str
    codename: str
    pretty_name: str
    id_like: tuple[str, ...]
    arch: str
    """As `uname -m` prints it."""


class Kernel(Model):
    running: str
    next: str
    """The release that the next boot will most likely run: the newest installed one that the
    boot loader knows, or the running one when no other is installed."""
    installed: tuple[str, ...]
    """Every release with a directory of modules."""
    headers: tuple[str, ...]
    """Releases with usable headers (/lib/modules/<release>/build resolves)."""


class PciDevice(Model):
    """One NVIDIA display controller or NVSwitch bridge (vendor 10de)."""

    slot: str
    device: str
    """Four lower-case hex digits."""
    pci_class: str
    """Six hex digits without 0x, as 030200."""
    subsystem: str
    """"vendor:device" of the subsystem."""
    revision: str
    """Two hex digits; ff means that the device has fallen off the bus."""
    driver: str
    """Kernel driver that is bound, or "" when none is."""


class InstalledModule(Model):
    """The nvidia module as installed for one kernel release."""

    kernel: str
    version: str
    flavour: Flavour | None


class Modules(Model):
    loaded_version: str
    """Version of the loaded nvidia module, "" when none is loaded."""
    loaded_flavour: Flavour | None
    installed: tuple[InstalledModule, ...]
    nouveau_loaded: bool
    nouveau_blacklisted: bool
    """A modprobe configuration keeps nouveau from loading."""
    refcount: int | None
    """Users of the loaded nvidia module as the kernel counts them."""


class Package(Model):
    """One installed package that concerns us (GPU stack, prerequisites, pinning)."""

    version: str
    state: str
    """dpkg's three letters, as `ii ` or `iF `; abbreviated to two: desired and actual. Of an rpm
    `ii`, or `iF` when two versions of it are installed, which is how an interrupted transaction
    leaves it."""
    held: bool
    """On hold, or locked to a version by somebody else."""


class Candidate(Model):
    """What the host's own configured sources would install now (apt-cache policy, or dnf from what
    it had fetched before)."""

    candidate: str
    """"" when there is none."""
    origins: tuple[str, ...]
    """Addresses (without credentials) that offer the candidate or the installed version; of dnf
    the repository's id."""
    pin: str
    """Priority of the candidate, as printed; "" where there are no priorities."""


class Pin(Model):
    """One stanza of an apt preferences file that matches packages of interest, or dnf's excludes
    of such packages, which have priority -1."""

    path: str
    package: str
    pin: str
    priority: int


class Source(Model):
    """One configured package source of interest."""

    path: str
    line: str


class Dpkg(Model):
    """Health of the package database, dpkg's or rpm's."""

    broken: tuple[str, ...]
    """Packages that are unpacked, half-configured, half-installed or await triggers; of rpm those
    installed in two versions."""
    interrupted: bool
    """dpkg's journal (/var/lib/dpkg/updates) is not empty."""
    lock_holder: str
    """Command that holds the package system's lock, or ""."""


class AutoUpgrades(Model):
    enabled: bool
    """Packages are upgraded without an operator (unattended-upgrades, apt's periodic run or
    dnf-automatic)."""
    blacklist: tuple[str, ...] = ()
    """Patterns of package names that it leaves alone."""


class Service(Model):
    load: str
    active: str
    enabled: str


class Environment(Model):
    """One built environment below <prefix>/envs."""

    id: str
    current: bool
    complete: bool
    """Its manifest exists: the build ran to its end."""
    manifest: str
    """Digest of all files' names and sizes when it was built, "" when incomplete."""
    found: str
    """The same digest over what is there now."""
    in_use: bool
    """A running process has its interpreter or libraries mapped."""
    wheels: dict[str, str] = Field(max_length=2000)
    """Distribution name (normalised) -> version, from the dist-info folders."""
    python: str = ""
    """Which of <prefix>/python its interpreter is of, "" for the system's."""


class PythonBuild(Model):
    """One Python that uv has put below <prefix>/python."""

    name: str
    manifest: str
    """Digest of all files' names and sizes when it was installed, "" when that did not end."""
    found: str
    """The same digest over what is there now."""
    in_use: bool
    """A running process is of it."""


class Cuda(Model):
    link: str
    """Where /usr/local/cuda finally points, "" when it does not exist."""
    toolkits: tuple[str, ...]
    """Releases with a directory /usr/local/cuda-<release>."""


class Disk(Model):
    """One of /, /boot, /usr, /var/lib, the parent of the prefix, /tmp."""

    size: int
    available: int
    """Bytes a root process can still write, roughly."""
    read_only: bool


class GpuUser(Model):
    """A process that holds a GPU device and is not one of the driver's own services."""

    pid: int
    user: str
    command: str


class SlurmJob(Model):
    job: str
    user: str
    state: str


class Foreign(Model):
    """Somebody else manages the driver or the GPUs here."""

    owner: Literal["runfile", "dgx-os", "driver-container", "vgpu", "vfio", "other-packages"]
    evidence: str


class OwnFile(Model):
    """A file of ours: anything below /etc or /usr/share/keyrings with gpufleet in its path."""

    sha256: str
    mode: str
    """Octal, as 644."""


class PythonFacts(Model):
    version: str
    """Of /usr/bin/python3, as 3.11.2; "" when there is none."""
    venv: bool
    """It can make virtual environments (ensurepip is there)."""
    headers: bool
    """Python.h is there: torch.compile needs it."""


class NodeFacts(Model):
    """One host at one moment."""

    host: str
    version: int = PROBE_VERSION
    root: bool
    """The probe ran as root."""
    unknown: dict[str, str]
    """Part -> why it could not be read."""

    os: Os | None
    kernel: Kernel | None
    boot_id: str | None
    uptime_s: int | None
    container: str | None
    """systemd-detect-virt's container kind, "" on a machine of its own."""
    secure_boot: Literal["enabled", "disabled", "no-efi"] | None
    pci: tuple[PciDevice, ...] | None
    modules: Modules | None
    mig: tuple[str, ...] | None
    """Slots of GPUs with MIG instances, from the driver's own files."""
    packaging: Literal["apt", "dnf", "zypper"] | None = "apt"
    """The package system that keeps this host, as its os-release says."""
    packages: dict[str, Package] | None
    candidates: dict[str, Candidate] | None
    pins: tuple[Pin, ...] | None
    ignored_pins: tuple[Pin, ...] | None = ()
    """Stanzas in files that apt does not read, for their names; files put aside are left out."""
    sources: tuple[Source, ...] | None
    streams: dict[str, str] | None = Field(default={})
    """Enabled dnf module streams by module: nvidia-driver -> 580-open."""
    versionlocks: tuple[str, ...] | None = ()
    """What somebody else locked with dnf's versionlock, as written there."""
    own_versionlocks: tuple[str, ...] | None = ()
    """What we locked there."""
    dpkg: Dpkg | None
    auto_upgrades: AutoUpgrades | None
    services: dict[str, Service] | None
    environments: tuple[Environment, ...] | None
    pythons: tuple[PythonBuild, ...] | None
    cuda: Cuda | None
    python: PythonFacts | None
    compiler: str | None
    """Version of c++, "" when there is none."""
    tools: tuple[str, ...] | None
    """Which of curl, wget, gpgv, gpg, dkms, mokutil, flock, setsid, timeout, dracut and dnf's
    versionlock are there."""
    disks: dict[str, Disk] | None
    gpu_users: tuple[GpuUser, ...] | None
    slurm_jobs: tuple[SlurmJob, ...] | None
    """Jobs that Slurm has on this host; empty when there is no Slurm."""
    foreign: tuple[Foreign, ...] | None
    files: dict[str, OwnFile] | None
    """Files of ours by path."""
    state: dict[str, str] | None
    """Our own record (/var/lib/gpufleet/state): flat key=value lines."""
    gpu_settings: tuple[GpuSettings, ...] | None = ()
    """As the loaded driver tells them; empty when none is loaded."""
    module_params: dict[str, str] | None = Field(default_factory=dict)
    """Parameters of the loaded module nvidia, names without NVreg_; empty when none is loaded."""
    rdma: Rdma | None = Rdma()
    cdi: dict[str, str] | None = Field(default_factory=dict)
    """Container device specifications of NVIDIA GPUs by path, with the driver version that each was
    made of ("" when it names none)."""
