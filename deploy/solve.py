"""From wish, facts, catalogue and what is offered to one exact answer. Pure.

`choose` answers for one host alone; equal hosts share the work. Where there is no answer, the same
search run on nearby wishes says what would have one, so that every suggestion is known to solve.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from deploy.catalog.models import Catalogue
from deploy.facts import NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.driver import choose_driver, newest_of_branches
from deploy.solving.offers import Available, Unavailable
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation, situation
from deploy.solving.software import CPU, Ground, Torch, choose_software
from deploy.stack import Blocked, Reason, Solution, Stack, TorchEnvironment

RELAXED = ("torch_build", "torch", "cuda", "cudnn", "nccl", "driver", "driver_modules", "policy")
"""Wishes that a suggestion may drop, the cheapest to give up first."""


@dataclass(frozen=True)
class Place:
    """A package repository as a host must be told of it; one answer serves equal places."""

    distribution: str
    machine: str
    url: str
    key_url: str
    key_fingerprint: str
    proxy: str = ""
    ca_bundle: str = ""


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
class Answer:
    """A solution whose stack still lacks the environment that `environment` asks for."""

    solution: Solution
    environment: EnvironmentWish | None = None


@dataclass(frozen=True)
class _Shared:
    """The answer for every host in one situation."""

    stack: Stack | None = None
    refused: Refused | None = None
    unblock: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: EnvironmentWish | None = None


def choose(
    spec: NodeSpec,
    facts: NodeFacts,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answer:
    """The answer for one host: a stack (its environment unresolved) or Blocked, with reasons.

    `today` only decides warnings about ends of life, never a version.
    """
    try:
        seen = situation(spec, facts, catalogue)
    except Refused as reason:
        return Answer(_blocked(facts.host, reason.of(facts.host)))
    shared = _shared(spec, seen, catalogue, available, today)
    if shared.refused is not None:
        return Answer(_blocked(facts.host, shared.refused.of(facts.host, shared.unblock)))
    solution = Solution(
        host=facts.host,
        stack=shared.stack,
        blocked=None,
        reasons=shared.reasons,
        warnings=shared.warnings,
    )
    return Answer(solution, shared.environment)


def _blocked(host: str, blocked: Blocked) -> Solution:
    return Solution(host=host, stack=None, blocked=blocked, reasons=(), warnings=())


def complete(answer: Answer, environment: TorchEnvironment | str) -> Solution:
    """The answer with its environment, or Blocked with what uv said."""
    host = answer.solution.host
    if isinstance(environment, str):
        reason = Refused(
            "environment",
            f"the Python environment cannot be resolved: {environment}",
            source="uv pip compile on the controller",
            unblock=(
                "mend what uv says, set torch_index, python_index or find_links, or "
                'another torch or extras; torch = "none" leaves the environment out',
            ),
        )
        return _blocked(host, reason.of(host))
    assert answer.solution.stack is not None
    stack = answer.solution.stack.model_copy(update={"environment": environment})
    return answer.solution.model_copy(update={"stack": stack})


def place(spec: NodeSpec, facts: NodeFacts, catalogue: Catalogue) -> Place | None:
    """The repository that this host's answer needs; None when it needs none or is blocked."""
    try:
        seen = situation(spec, facts, catalogue)
    except Refused:
        return None
    parts = (spec.cuda, spec.cudnn, spec.nccl)
    if seen.gpus:
        needed = spec.driver != NONE or any(part != NONE for part in parts)
    else:
        needed = any(part not in (None, NONE) for part in parts)
    if not needed:
        return None
    vendor = catalogue.vendor
    url = spec.vendor_repository or vendor.url.format(
        distribution=seen.distribution, arch=seen.arch(catalogue).repository
    )
    return Place(
        distribution=seen.distribution,
        machine=seen.machine,
        url=url,
        key_url=f"{url}/{vendor.key_file}",
        key_fingerprint=spec.vendor_key_fingerprint or vendor.key_fingerprint,
        proxy=spec.proxy or "",
        ca_bundle=spec.ca_bundle or "",
    )


@lru_cache(maxsize=10_000)
def _shared(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> _Shared:
    try:
        return _solve(spec, seen, catalogue, available, today)
    except Refused as reason:
        nearby = dict.fromkeys(_suggestions(spec, seen, catalogue, available, today))
        return _Shared(refused=reason, unblock=tuple(dict.fromkeys([*nearby, *reason.unblock])))


def _solve(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> _Shared:
    chosen = choose_driver(spec, seen, catalogue, available, today)
    software = choose_software(Ground(spec, seen, catalogue, available, chosen.version))
    parts = (chosen.driver, chosen.fabric, software.cuda, software.cudnn, software.nccl)
    managed = any(part is not None for part in parts)
    repository = available.repository if managed and isinstance(available, Available) else None
    reasons = [*chosen.reasons, *software.reasons]
    if repository:
        mirrored = spec.vendor_repository or spec.vendor_key_fingerprint
        reasons.append(
            Reason(
                part="repository",
                choice=repository.url,
                because=f"signed by {repository.key_fingerprint}",
                source="inventory key vendor_repository"
                if mirrored
                else catalogue.source("distributions", catalogue.vendor.source),
            )
        )
    stack = Stack(
        distribution=seen.distribution,
        arch=seen.machine,
        repository=repository,
        driver=chosen.driver,
        fabric=chosen.fabric,
        cuda=software.cuda,
        cudnn=software.cudnn,
        nccl=software.nccl,
        environment=None,
    )
    return _Shared(
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
        requirements=tuple(sorted({*tools, *spec.extras})),
        index=spec.python_index or "",
        torch_index=spec.torch_index or "",
        find_links=spec.find_links,
    )


def _suggestions(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Iterator[str]:
    """Nearby wishes that solve: each wish dropped alone; where none does, another driver; where
    that does not help either, the part that fails left out."""
    default = NodeSpec()
    found = False
    builds = dict.fromkeys(build.build for row in catalogue.torch for build in row.builds)
    for key in RELAXED:
        if getattr(spec, key) == getattr(default, key):
            continue
        for value in (getattr(default, key), *(builds if key == "torch_build" else ())):
            nearby = spec.model_copy(update={key: value})
            if answer := _try(nearby, seen, catalogue, available, today):
                found = True
                yield _named(key, answer, nearby)
                break
    others = [("driver", version) for version in newest_of_branches(seen, catalogue, available)]
    for changes in (others, [(key, NONE) for key in ("torch", "cuda", "cudnn", "nccl")]):
        for key, value in changes:
            if not found and getattr(spec, key) is None:
                nearby = spec.model_copy(update={key: value})
                if _try(nearby, seen, catalogue, available, today):
                    found = True
                    yield f'{key} = "{value}"'


def _try(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> _Shared | None:
    try:
        return _solve(spec, seen, catalogue, available, today)
    except Refused:
        return None


def _named(key: str, answer: _Shared, nearby: NodeSpec) -> str:
    """The dropped wish as the value that was then chosen, so that it can be written down."""
    stack, wish = answer.stack, answer.environment
    assert stack is not None
    values: dict[str, Any] = {
        "torch_build": wish.build if wish else None,
        "torch": wish.torch if wish else None,
        "cuda": stack.cuda.version if stack.cuda else None,
        "cudnn": stack.cudnn.version if stack.cudnn else None,
        "nccl": stack.nccl.version if stack.nccl else None,
        "driver": stack.driver.version if stack.driver else None,
        "driver_modules": stack.driver.flavour if stack.driver else None,
        "policy": nearby.policy,
    }
    value = values[key]
    return f'{key} = "{value}"' if value else f"leave {key} out"
