"""From wish, facts, catalogue and what is offered to one exact answer. Pure.

`choose` answers for one host alone; equal hosts share the work. The parts of the search are in
`deploy/solving/`. Where there is no answer, the same search run on nearby wishes says what would
have one, so that every suggestion is known to solve.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from deploy.catalog.models import Catalogue
from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.solving.driver import choose_driver
from deploy.solving.nearby import suggestions
from deploy.solving.offers import Available, Unavailable
from deploy.solving.parts import CPU, Answered, EnvironmentWish, Ground, Torch
from deploy.solving.place import Place, place
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation, situation
from deploy.solving.software import choose_software
from deploy.stack import Blocked, Reason, Solution, Stack, TorchEnvironment

__all__ = ["Answer", "EnvironmentWish", "Place", "choose", "complete", "place"]


@dataclass(frozen=True)
class Answer:
    """A solution whose stack still lacks the environment that `environment` asks for."""

    solution: Solution
    environment: EnvironmentWish | None = None


@dataclass(frozen=True)
class _Unanswered:
    """Why no host in one situation has a stack."""

    refused: Refused
    unblock: tuple[str, ...]


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
    if isinstance(shared, _Unanswered):
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


@lru_cache(maxsize=10_000)
def _shared(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answered | _Unanswered:
    """The answer for every host in one situation, remembered."""

    def solve(wish: NodeSpec) -> Answered:
        return _solve(wish, seen, catalogue, available, today)

    try:
        return solve(spec)
    except Refused as reason:
        nearby = suggestions(spec, seen, catalogue, available, solve)
        return _Unanswered(reason, tuple(dict.fromkeys([*nearby, *reason.unblock])))


def _solve(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Answered:
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
                else catalogue.source("distributions", catalogue.vendor(repository.kind).source),
            )
        )
    stack = Stack(
        distribution=seen.distribution,
        packaging=seen.row(catalogue).kind,
        arch=seen.machine,
        repository=repository,
        driver=chosen.driver,
        fabric=chosen.fabric,
        cuda=software.cuda,
        cudnn=software.cudnn,
        nccl=software.nccl,
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
