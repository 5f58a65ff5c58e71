"""Torch, toolkit, cuDNN and NCCL that fit the hardware, the driver and each other."""

from deploy.catalog.models import TorchBuild
from deploy.fleet.spec import NONE
from deploy.solving.libraries import choose_cudnn, choose_nccl
from deploy.solving.parts import CPU, Ground, Software, Torch
from deploy.solving.refusal import Refused
from deploy.solving.toolkit import choose_toolkit
from deploy.solving.torch import (
    candidates,
    check_torch,
    choose_python,
    no_python,
    no_torch,
    why_torch,
    wished,
)
from deploy.stack import Component, Reason


def choose_software(ground: Ground) -> Software:
    """The newest torch for which everything fits together. Raises Refused with the reason of the
    first candidate among those that came furthest."""
    spec = ground.spec
    python, reasons = ("", []) if spec.torch == NONE else choose_python(ground)
    if not ground.seen.gpus:
        return _without_gpu(ground, python, reasons)
    if spec.torch == NONE:
        parts = _parts(ground, None)
        return Software(None, *parts[:3], tuple(parts[3]), tuple(parts[4]))
    refused: list[Refused] = []
    for release, build in candidates(ground):
        try:
            check_torch(ground, release, build, python)
            cuda, cudnn, nccl, why, warnings = _parts(ground, build)
        except Refused as reason:
            refused.append(reason)
            continue
        asked = CPU if spec.torch_build == CPU else build.build
        torch = Torch(release.version, asked, build.build, python, build.pypi)
        chosen = why_torch(ground, release, build, asked)
        return Software(torch, cuda, cudnn, nccl, (chosen, *reasons, *why), tuple(warnings))
    raise max(refused, key=_reached) if refused else no_torch(ground)


def _reached(refused: Refused) -> int:
    """How far a candidate came: the one that came furthest tells most about the wish."""
    stages = ("python", "torch-hardware", "driver-floor")
    return stages.index(refused.rule) if refused.rule in stages else len(stages)


def _without_gpu(ground: Ground, python: str, reasons: list[Reason]) -> Software:
    """No GPU: torch for the CPU, and of the CUDA parts only what is asked for by name."""
    spec = ground.spec
    if spec.torch_build not in ("auto", CPU):
        raise Refused(
            "no-gpu",
            f"torch_build {spec.torch_build} is wished, but the PCI bus shows no GPU",
            source="inventory key torch_build",
            unblock=('leave torch_build out: the host gets torch\'s "cpu" build',),
        )
    torch = None
    if spec.torch != NONE:
        releases = [row for row in ground.catalogue.torch if wished(row, spec)]
        fitting = [row for row in releases if python in row.pythons]
        if not fitting:
            raise no_python(releases[0], python) if releases else no_torch(ground)
        torch = Torch(fitting[0].version, CPU, "", python, False)
        reasons.insert(
            0,
            Reason(
                part="torch",
                choice=f"{torch.version}+{CPU}",
                because="the PCI bus shows no GPU",
                source="facts: pci",
            ),
        )
    parts = _parts(ground, None)
    return Software(torch, *parts[:3], (*reasons, *parts[3]), tuple(parts[4]))


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
