"""What the solver hands from part to part: choices, and the ground that they stand on."""

from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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
    imex: Component | None = None


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
    managed_python: bool = False
    """uv brings the Python; else it is the host's own."""
    companions: tuple[str, ...] = ()
    """Released with this torch and asked for in the inventory's extras, as torchvision==0.28.0."""
    extras: tuple[str, ...] = ()
    """The inventory's other extras."""


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
    """Beside torch and its companions: our tools and the inventory's extras."""
    index: str
    torch_index: str
    find_links: tuple[str, ...]
    managed_python: bool = False
    """uv brings the Python, because the host's own is not the one that is needed."""
    kind: Literal["uv", "venv"] = "uv"
    """What makes the environment on the host. Never "venv" together with a managed Python."""
    python_downloads: str = ""
    """The site's list of Python builds for uv, "" for uv's own."""
    companions: tuple[str, ...] = ()
    """torchvision, torchaudio: `name==version` without a local part, extras and markers included.
    They must be of torch's build: `exact` says so."""

    def exact(self, *, local: bool) -> tuple[str, ...]:
        """Torch and its companions as requirements that no other build satisfies.

        `local`: of a place that serves builds under their own names (+cu126); else of the default
        index, whose wheels carry none. A public version also matches every local one, so the CPU
        wheel of a folder beside is excluded by name.
        """
        return tuple(
            _of_build(text, self.build if local else "")
            for text in (f"torch=={self.torch}", *self.companions)
        )


def _of_build(text: str, build: str) -> str:
    requirement = Requirement(text)
    (version,) = (one.version for one in requirement.specifier)
    wanted = f"=={version}+{build}" if build else f"=={version},!={version}+cpu"
    requirement.specifier = SpecifierSet(wanted)
    return str(requirement)


@dataclass(frozen=True)
class Answered:
    """A stack without its environment, and how it came about."""

    stack: Stack
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    environment: EnvironmentWish | None
