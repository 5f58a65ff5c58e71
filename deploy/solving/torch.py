"""Which torch: release, build and Python, and why one does not fit."""

from collections.abc import Iterator

from deploy.catalog.models import TorchBuild, TorchRelease, numbers
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.offers import matches
from deploy.solving.parts import CPU, Ground
from deploy.solving.refusal import Refused, listed
from deploy.solving.toolkit import check_driver_floor
from deploy.stack import Reason


def wished(release: TorchRelease, spec: NodeSpec) -> bool:
    """Whether the inventory leaves this release open or names it."""
    return spec.torch is None or matches(release.version, spec.torch)


def candidates(ground: Ground) -> Iterator[tuple[TorchRelease, TorchBuild]]:
    """Releases newest first, each one's builds in the catalogue's order; builds of the CUDA major
    that the inventory asks a toolkit of come before the others."""
    spec = ground.spec
    major = numbers(spec.cuda)[0] if spec.cuda and spec.cuda != NONE else None
    pairs = [
        (release, build)
        for release in ground.catalogue.torch
        if wished(release, spec)
        for build in release.builds
        if spec.torch_build in ("auto", CPU, build.build)
    ]
    yield from sorted(
        pairs, key=lambda pair: major is not None and numbers(pair[1].cuda)[0] != major
    )


def no_torch(ground: Ground) -> Refused:
    """Refused: no build in the catalogue is what the inventory names."""
    spec, catalogue = ground.spec, ground.catalogue
    wish = " ".join(
        part
        for part in (
            f"torch {spec.torch}" if spec.torch else "torch",
            f"as build {spec.torch_build}" if spec.torch_build != "auto" else "",
        )
        if part
    )
    known = [
        f"{row.version} ({', '.join(build.build for build in row.builds)})"
        for row in catalogue.torch
    ]
    return Refused(
        "torch",
        f"the catalogue has no {wish}; it has {listed(known)}",
        source="catalogue: torch",
    )


def choose_python(ground: Ground) -> tuple[str, list[Reason]]:
    """Python of the environment: the host's own, or what its distribution brings."""
    seen, wish = ground.seen, ground.spec.python
    if seen.python_unknown:
        raise Refused(
            "unknown-facts",
            f"needed facts could not be read: python ({seen.python_unknown})",
            source="unknown never means fine",
        )
    row = seen.row(ground.catalogue)
    found = seen.python or row.python
    if wish and wish != found:
        raise Refused(
            "python",
            f"Python {wish} is wished, the host's own is {found}",
            source="inventory key python",
            unblock=(f'python = "{found}"',),
        )
    because = "the host's own python3" if seen.python else f"{row.title} brings it"
    return found, [Reason(part="python", choice=found, because=because, source="facts: python")]


def no_python(release: TorchRelease, python: str) -> Refused:
    """Refused: this release has no wheel for the host's Python."""
    return Refused(
        "python",
        f"torch {release.version} has wheels for Python {listed(list(release.pythons))}, "
        f"the host has {python}",
        source="catalogue: torch",
    )


def check_torch(ground: Ground, release: TorchRelease, build: TorchBuild, python: str) -> None:
    """Raises Refused when the wheel does not fit the Python, the boards or the driver."""
    name = f"torch {release.version}+{build.build}"
    source = ground.catalogue.source("torch", build.source)
    if python not in release.pythons:
        raise no_python(release, python)
    missing = sorted(
        {
            f"{gpu.name} (compute capability {gpu.compute})"
            for gpu in ground.seen.gpus
            if not build.runs_on(gpu.compute)
        }
    )
    if missing:
        raise Refused(
            "torch-hardware",
            f"{name} holds no code for {listed(missing)}, only for {', '.join(build.capabilities)}",
            source=source,
        )
    check_driver_floor(ground, f"{name} (CUDA {build.cuda})", build.cuda)


def why_torch(ground: Ground, release: TorchRelease, build: TorchBuild, asked: str) -> Reason:
    """Why this torch was taken, what the hardware alone would have chosen included."""
    spec = ground.spec
    by_name = [
        f"{key} = {value}"
        for key, value in (("torch", spec.torch), ("torch_build", spec.torch_build))
        if value not in (None, "auto")
    ]
    if by_name:
        because = f"the inventory says {listed(by_name)}"
    else:
        because = f"newest release with a build for {ground.seen.boards}"
        because += f" and driver {ground.driver}" if ground.driver else ""
    if asked == CPU:
        because += f"; the hardware alone would have chosen {build.build}"
    return Reason(
        part="torch",
        choice=f"{release.version}+{asked}",
        because=because,
        source=ground.catalogue.source("torch", build.source),
    )
