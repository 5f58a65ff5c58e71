"""Torch, toolkit, cuDNN and NCCL that fit the hardware, the driver and each other."""

from deploy.catalog.models import TorchBuild, TorchRelease
from deploy.fleet.spec import NONE
from deploy.solving.companions import check_build, companions, others, unknown
from deploy.solving.libraries import choose_cudnn, choose_nccl
from deploy.solving.parts import CPU, Ground, Software, Torch
from deploy.solving.python import Python, own_python, python_for
from deploy.solving.refusal import Refused
from deploy.solving.toolkit import choose_toolkit
from deploy.solving.torch import (
    candidates,
    check_torch,
    default_index_trap,
    no_torch,
    why_torch,
    wished,
)
from deploy.stack import Component, Reason


def choose_software(ground: Ground) -> Software:
    """The newest torch for which everything fits together. Raises Refused with the reason of the
    first candidate among those that came furthest."""
    spec = ground.spec
    own = "" if spec.torch == NONE else own_python(ground)
    if not ground.seen.gpus:
        return _without_gpu(ground, own)
    if spec.torch == NONE:
        parts = _parts(ground, None)
        return Software(None, *parts[:3], tuple(parts[3]), tuple(parts[4]))
    refused: list[Refused] = []
    for release, build in candidates(ground):
        try:
            python = python_for(ground, release, own)
            check_torch(ground, release, build)
            asked = CPU if spec.torch_build == CPU else build.build
            torch = _torch(ground, release, asked, build.build, python, build.pypi)
            if asked != CPU:
                check_build(torch.companions, release, build, ground.catalogue)
            cuda, cudnn, nccl, why, warnings = _parts(ground, build)
        except Refused as reason:
            refused.append(reason)
            continue
        chosen = why_torch(ground, release, build, asked, refused[0] if refused else None)
        if asked != CPU:
            warnings = [*default_index_trap(release, build), *warnings]
        warnings += unknown(spec.extras, release)
        reasons = (chosen, python.reason, *why)
        return Software(torch, cuda, cudnn, nccl, reasons, tuple(warnings))
    raise max(refused, key=_reached) if refused else no_torch(ground)


def _torch(
    ground: Ground,
    release: TorchRelease,
    build: str,
    hardware_build: str,
    python: Python,
    pypi: bool,
) -> Torch:
    """Raises Refused when a companion is wished at a version that does not go with it."""
    extras = ground.spec.extras
    return Torch(
        version=release.version,
        build=build,
        hardware_build=hardware_build,
        python=python.version,
        pypi=pypi,
        managed_python=python.managed,
        companions=companions(extras, release),
        extras=others(extras, release),
    )


def _reached(refused: Refused) -> int:
    """How far a candidate came: the one that came furthest tells most about the wish."""
    stages = ("python", "torch-hardware", "driver-floor", "extras")
    return stages.index(refused.rule) if refused.rule in stages else len(stages)


def _without_gpu(ground: Ground, own: str) -> Software:
    """No GPU: torch for the CPU, and of the CUDA parts only what is asked for by name."""
    spec = ground.spec
    if spec.torch_build not in ("auto", CPU):
        raise Refused(
            "no-gpu",
            f"torch_build {spec.torch_build} is wished, but the PCI bus shows no GPU",
            source="inventory key torch_build",
            unblock=('leave torch_build out: the host gets torch\'s "cpu" build',),
        )
    cuda, cudnn, nccl, reasons, warnings = _parts(ground, None)
    if spec.torch == NONE:
        return Software(None, cuda, cudnn, nccl, tuple(reasons), tuple(warnings))
    torch, python, warned = _for_cpu(ground, own)
    chosen = Reason(
        part="torch",
        choice=f"{torch.version}+{CPU}",
        because="the PCI bus shows no GPU",
        source="facts: pci",
    )
    return Software(
        torch, cuda, cudnn, nccl, (chosen, python.reason, *reasons), (*warned, *warnings)
    )


def _for_cpu(ground: Ground, own: str) -> tuple[Torch, Python, tuple[str, ...]]:
    """The newest release that fits, as torch's build for the CPU. Raises Refused."""
    refused: list[Refused] = []
    for release in ground.catalogue.torch:
        if not wished(release, ground.spec):
            continue
        try:
            python = python_for(ground, release, own)
            torch = _torch(ground, release, CPU, "", python, pypi=False)
        except Refused as reason:
            refused.append(reason)
            continue
        return torch, python, tuple(unknown(ground.spec.extras, release))
    raise refused[0] if refused else no_torch(ground)


Parts = tuple[Component | None, Component | None, Component | None, list[Reason], list[str]]


def _parts(ground: Ground, build: TorchBuild | None) -> Parts:
    """Toolkit, cuDNN and NCCL: as wished, else agreeing with this build of torch; without either
    on a host without GPUs they are not asked for."""
    spec, seen = ground.spec, ground.seen
    reasons: list[Reason] = []
    warnings: list[str] = []

    def asked(wish: str | None) -> bool:
        return wish != NONE and (wish is not None or bool(seen.gpus))

    cuda = choose_toolkit(ground, build, reasons, warnings) if asked(spec.cuda) else None
    release = cuda.version if cuda else build.cuda if build else None
    cudnn = nccl = None
    if asked(spec.cudnn):
        cudnn = choose_cudnn(
            ground, build, _based_on(release, "cudnn", spec.cudnn), reasons, warnings
        )
    if asked(spec.nccl):
        nccl = choose_nccl(ground, build, _based_on(release, "nccl", spec.nccl), reasons, warnings)
    return cuda, cudnn, nccl, reasons, warnings


def _based_on(release: str | None, key: str, wish: str | None) -> str:
    if release is None:
        raise Refused(
            "cuda-release",
            f"{key} {wish or ''} is wished without a CUDA release to build on".replace("  ", " "),
            source=f"inventory key {key}",
            unblock=('cuda = "13.0" or another release', f'{key} = "none"'),
        )
    return release
