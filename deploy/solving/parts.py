"""What the solver hands from part to part: choices, and the ground that they stand on."""

from dataclasses import dataclass

from deploy.catalog.models import Catalogue
from deploy.fleet.spec import NodeSpec
from deploy.solving.offers import Available, Unavailable
from deploy.solving.situation import Situation
from deploy.stack import Component, Driver, Reason, Stack


@dataclass(frozen=True)
class Chosen:
    """The driver part of a stack. `version` is what the rest must run on, "" when unknown."""

    driver: Driver | None
    fabric: Component | None
    version: str
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()


CPU = "cpu"


@dataclass(frozen=True)
class Torch:
    """The torch part of an answer, before its environment is resolved."""

    version: str
    build: str
    hardware_build: str
    python: str
    pypi: bool
    """The default index serves this build."""


@dataclass(frozen=True)
class Software:
    """Everything that stands on the driver."""

    torch: Torch | None
    cuda: Component | None
    cudnn: Component | None
    nccl: Component | None
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ground:
    """What all software stands on: equal for every candidate of one host."""

    spec: NodeSpec
    seen: Situation
    catalogue: Catalogue
    available: Available | Unavailable
    driver: str
    """Version that programs will find, "" when unknown."""


@dataclass(frozen=True)
class EnvironmentWish:
    """A Python environment before uv has resolved it; equal wishes are resolved once."""

    platform: str
    """uv's name of the platform."""
    python: str
    torch: str
    build: str
    hardware_build: str
    pypi: bool
    """The default index serves this build."""
    vendor_index: str
    """Where the vendor serves this build."""
    requirements: tuple[str, ...]
    """Beside torch: our tools and the inventory's extras."""
    index: str
    torch_index: str
    find_links: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """A stack without its environment, and how it came about."""

    stack: Stack
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    environment: EnvironmentWish | None
