"""One host's whole answer, part after part: driver, software, what is wished beside. Pure."""

from collections.abc import Iterator
from datetime import date

from deploy.catalog.models import Catalogue
from deploy.fleet.spec import NodeSpec
from deploy.solving.driver import choose_driver
from deploy.solving.offers import Available, Unavailable
from deploy.solving.optional import choose_container_toolkit, choose_dcgm
from deploy.solving.parts import CPU, Answered, EnvironmentWish, Ground, Torch
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation
from deploy.solving.software import choose_software
from deploy.stack import Reason, Stack


def solve_whole(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answered:
    """A stack without its environment, with reasons and warnings. Raises Refused."""
    chosen = choose_driver(spec, seen, catalogue, available, today)
    ground = Ground(spec, seen, catalogue, available, chosen.version)
    software = choose_software(ground)
    wished: list[Reason] = []
    dcgm = choose_dcgm(ground, wished)
    container_toolkit = choose_container_toolkit(ground, wished)
    parts = (
        *(chosen.driver, chosen.fabric, chosen.imex, software.cuda, software.cudnn, software.nccl),
        *(dcgm, container_toolkit),
    )
    vendors = any(part is not None and part.origin == "vendor" for part in parts)
    repository = available.repository if vendors and isinstance(available, Available) else None
    reasons = [*chosen.reasons, *software.reasons, *wished]
    if repository:
        mirrored = spec.vendor_repository or spec.vendor_key_fingerprint
        reasons.append(
            Reason(
                part="repository",
                choice=repository.url,
                because=f"signed by {repository.key_fingerprint}",
                source="inventory key vendor_repository"
                if mirrored
                else catalogue.source("distributions", catalogue.key_of(seen.distribution).source),
            )
        )
    stack = Stack(
        distribution=seen.distribution,
        packaging=seen.row(catalogue).kind,
        arch=seen.machine,
        repository=repository,
        driver=chosen.driver,
        fabric=chosen.fabric,
        imex=chosen.imex,
        cuda=software.cuda,
        cudnn=software.cudnn,
        nccl=software.nccl,
        dcgm=dcgm,
        container_toolkit=container_toolkit,
        environment=None,
    )
    return Answered(
        stack=stack,
        reasons=tuple(reasons),
        warnings=(*_boards(spec, seen), *chosen.warnings, *software.warnings),
        environment=_environment(spec, seen, catalogue, software.torch),
    )


def _boards(spec: NodeSpec, seen: Situation) -> Iterator[str]:
    found = len(seen.gpus)
    if spec.gpus is not None and spec.gpus != found:
        if not found:
            raise Refused(
                "gpus",
                f"{spec.gpus} GPUs are wished, the PCI bus shows none",
                source="inventory key gpus",
                unblock=("look why the boards do not show: lspci -d 10de:", "gpus = 0"),
            )
        yield f"{spec.gpus} GPUs are wished, the PCI bus shows {found}"


def _environment(
    spec: NodeSpec, seen: Situation, catalogue: Catalogue, torch: Torch | None
) -> EnvironmentWish | None:
    if torch is None:
        return None
    tools = catalogue.torch_tools + (catalogue.torch_gpu_tools if seen.gpus else ())
    return EnvironmentWish(
        platform=seen.arch(catalogue).wheels,
        python=torch.python,
        torch=torch.version,
        build=torch.build,
        hardware_build=torch.hardware_build,
        pypi=torch.pypi and torch.build != CPU,
        vendor_index=catalogue.torch_index.format(build=torch.build),
        requirements=tuple(sorted({*tools, *torch.extras})),
        index=spec.python_index or "",
        torch_index=spec.torch_index or "",
        find_links=spec.find_links,
        managed_python=torch.managed_python,
        kind=spec.env,
        python_downloads=(spec.python_downloads or "") if torch.managed_python else "",
        companions=torch.companions,
    )
