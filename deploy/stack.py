"""The exact answer for one host: `Stack`, or why there is none: `Blocked`.

A stack names every version; it is what the lock holds and what the plan compares facts with.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from deploy.facts import Flavour
from deploy.fleet.model import Model

Packaging = Literal["apt", "dnf", "zypper"]
"""How a distribution handles packages. Versions are `epoch:version-revision` for all of them, the
epoch left out when it is 0, as dpkg and `rpm -q --qf %{EVR}` print them."""
Origin = Literal["vendor", "distribution"]
"""Who signs packages: the GPU vendor's repository, or the distribution's own sources."""


class PackagePin(Model):
    """One package at its full version, as the repository names it."""

    version: str
    size: int
    """Download size in bytes, 0 when unknown (adopted from a host)."""


Packages = dict[str, PackagePin]


class Repository(Model):
    """The vendor's package repository as the host will see it."""

    kind: Packaging
    url: str
    key_fingerprint: str
    """Primary key, 40 capital hex digits."""
    key: str
    """The public key itself, ASCII-armoured; checked against the fingerprint when read."""


class Driver(Model):
    branch: str
    """As 580."""
    version: str
    """As 580.178.04: the number the loaded module must show."""
    flavour: Flavour
    pinning: Packages
    """The vendor's pinning package of the branch; installed before the driver. May be empty."""
    packages: Packages
    """The driver's whole set at full versions, persistence daemon included."""
    origin: Origin = "vendor"
    stream: Annotated[str, Field(pattern=r"^([a-z0-9\-]+:[a-z0-9.\-]+)?$")] = ""
    """dnf module stream that must be enabled, as nvidia-driver:580-open; "" for none."""
    prebuilt: Annotated[str, Field(pattern=r"^([a-z0-9.+\-]|\{kernel\})*$")] = ""
    """Template of the distribution's package of signed modules for one kernel release, as
    linux-modules-nvidia-580-server-open-{kernel}; "" when DKMS builds them on the host."""


class Component(Model):
    """Fabric manager, IMEX, CUDA toolkit, cuDNN, NCCL, DCGM or container toolkit at exact
    versions."""

    version: str
    """The number people say: 580.178.04, 13.0, 9.20.0.48, 2.29.7."""
    packages: Packages
    origin: Origin = "vendor"


class ManagedPython(Model):
    """A Python that uv puts below the prefix, where the distribution's own is too old."""

    version: Annotated[str, Field(pattern=r"^3\.\d{1,2}\.\d{1,3}$")]
    """As 3.12.12."""
    key: Annotated[str, Field(pattern=r"^cpython-3\.\d{1,2}\.\d{1,3}-linux-[a-z0-9_]+-gnu$")]
    """uv's name of the build, as cpython-3.12.12-linux-x86_64-gnu."""
    url: Annotated[str, Field(pattern=r"^(https?|file)://[A-Za-z0-9:/._~%+\-\[\]]+$")]
    """Where the build is, as uv's own list (of the locked uv) or the site's names it."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the build's archive; "" when uv's own list (of the locked uv) pins it."""


class TorchEnvironment(Model):
    """One Python environment, locked to the hash of every wheel."""

    id: str
    """Digest of everything below: two equal environments have equal ids."""
    python: str
    """Minor version, as 3.11."""
    kind: Literal["uv", "venv"] = "uv"
    """What makes the environment on the host: uv, or the standard library's venv with pip."""
    managed_python: ManagedPython | None = None
    """None: the host's own python3."""
    torch: str
    """Public version, as 2.13.0."""
    build: str
    """cpu, cu126, cu130 ..."""
    hardware_build: str
    """What the hardware alone would have chosen; "" when there is no GPU."""
    uv: str
    """Version of uv that builds it."""
    uv_hashes: tuple[str, ...]
    """sha256:... of uv's wheels for this platform."""
    index: str
    """Index for everything that no other place serves ("" = the host's default)."""
    torch_index: str
    """Index of torch wheels ("" = none beside `index`)."""
    find_links: tuple[str, ...]
    requirements: tuple[str, ...]
    """`name==version --hash=sha256:... [--hash=...]`, one per distribution, sorted."""
    size: int = 0
    """Download size of all wheels in bytes, as far as the indexes tell it."""


class Stack(Model):
    """Everything that apply brings about on a host."""

    distribution: str
    """Catalogue name, as debian12."""
    packaging: Packaging = "apt"
    arch: str
    repository: Repository | None
    driver: Driver | None
    fabric: Component | None
    """Fabric manager, with nvlsm where NVLink 5 switches need it."""
    imex: Component | None = None
    cuda: Component | None
    cudnn: Component | None
    nccl: Component | None
    dcgm: Component | None = None
    container_toolkit: Component | None = None
    environment: TorchEnvironment | None

    @property
    def components(self) -> tuple[tuple[str, Component], ...]:
        """Every part beside driver and environment that this stack holds, by field name."""
        parts = ("fabric", "imex", "cuda", "cudnn", "nccl", "dcgm", "container_toolkit")
        found = ((name, getattr(self, name)) for name in parts)
        return tuple((name, part) for name, part in found if part is not None)

    @property
    def id(self) -> str:
        """Short digest of the content: equal stacks have equal ids. What an index said of the
        environment's size is no content: it may answer one day and not the next."""
        content = self.model_dump(mode="json", exclude={"environment": {"size"}})
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Reason(Model):
    """One link in the chain from facts to a choice."""

    part: str
    """driver, modules, cuda, cudnn, nccl, torch, python, fabric, repository."""
    choice: str
    because: str
    source: str
    """Where the rule comes from: catalogue row, vendor page, inventory key."""


class Blocked(Model):
    """No stack, or not ours to change, or a needed fact is unknown."""

    host: str
    reason: str
    """The conflicting facts, in one sentence."""
    rule: str
    source: str
    unblock: tuple[str, ...]
    """What would unblock it: nearest specs, or a command."""


class Solution(Model):
    """What the solver says about one host: exactly one of stack and blocked is set."""

    host: str
    stack: Stack | None
    blocked: Blocked | None
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
