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
    """Releases newest first, each one's builds for this machine type in the catalogue's order;
    builds of the CUDA major that the inventory asks a toolkit of come before the others."""
    spec = ground.spec
    major = numbers(spec.cuda)[0] if spec.cuda and spec.cuda != NONE else None
    pairs = [
        (release, build)
        for release in ground.catalogue.torch
        if wished(release, spec)
        for build in release.builds
        if build.machine == ground.seen.machine and spec.torch_build in ("auto", CPU, build.build)
    ]
    yield from sorted(
        pairs, key=lambda pair: major is not None and numbers(pair[1].cuda)[0] != major
    )


def no_torch(ground: Ground) -> Refused:
    """Refused: no build in the catalogue is what the inventory names."""
    spec, catalogue, machine = ground.spec, ground.catalogue, ground.seen.machine
    wish = " ".join(
        part
        for part in (
            f"torch {spec.torch}" if spec.torch else "torch",
            f"as build {spec.torch_build}" if spec.torch_build != "auto" else "",
            f"for {machine}" if ground.seen.gpus else "",
        )
        if part
    )
    known = []
    for row in catalogue.torch:
        builds = [build.build for build in row.builds if build.machine == machine]
        if builds:
            known.append(f"{row.version} ({', '.join(builds)})")
    trap = [
        row.version for row in catalogue.torch if wished(row, spec) and machine in row.cpu_wheel
    ]
    if trap and ground.seen.gpus:
        return Refused(
            "cpu-wheel",
            f"the catalogue has no {wish}: the default index gives {machine} a torch {trap[0]} "
            f"without CUDA, saying nothing; with CUDA there are {listed(known)}",
            source="catalogue: torch",
        )
    return Refused(
        "torch",
        f"the catalogue has no {wish}; it has {listed(known)}",
        source="catalogue: torch",
    )


def check_torch(ground: Ground, release: TorchRelease, build: TorchBuild) -> None:
    """Raises Refused when the wheel does not fit the boards or the driver."""
    name = f"torch {release.version}+{build.build}"
    source = ground.catalogue.source("torch", build.source)
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


def default_index_trap(release: TorchRelease, build: TorchBuild) -> Iterator[str]:
    """A warning where the default index would give this machine type a wheel without CUDA."""
    if build.machine in release.cpu_wheel:
        yield (
            f"torch {release.version} for {build.machine}: the default index has only a wheel "
            f"without CUDA; the environment takes {release.version}+{build.build} from torch's own "
            "index, a `pip install torch` by hand would replace it by the other"
        )


def why_torch(
    ground: Ground,
    release: TorchRelease,
    build: TorchBuild,
    asked: str,
    passed: Refused | None,
) -> Reason:
    """Why this torch was taken, what the hardware alone would have chosen included. `passed`: why
    the first candidate before it was not."""
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
        because += f" ({passed.reason})" if passed else ""
    if asked == CPU:
        because += f"; the hardware alone would have chosen {build.build}"
    return Reason(
        part="torch",
        choice=f"{release.version}+{asked}",
        because=because,
        source=ground.catalogue.source("torch", build.source),
    )
