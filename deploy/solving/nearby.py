"""Wishes near one that has no answer, each known to have one because it was solved."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deploy.catalog.models import Catalogue
from deploy.fleet.spec import NEEDS_ROOT, NONE, NodeSpec
from deploy.solving.driver import newest_of_branches
from deploy.solving.offers import Available, Unavailable
from deploy.solving.parts import Answered
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation

RELAXED = (
    *("torch_build", "torch", "cuda", "cudnn", "nccl", "python", "env", "extras"),
    *("dcgm", "container_toolkit"),
    *("driver", "driver_modules", "origin", "policy"),
)
"""Wishes that a suggestion may drop, the cheapest to give up first."""

Solve = Callable[[NodeSpec], Answered]
"""Solves one wish for the host in question. Raises Refused."""


def suggestions(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    solve: Solve,
) -> Iterator[str]:
    """Nearby wishes that solve: each wish dropped alone; where none does, another driver; where
    that does not help either, the part that fails left out."""
    default = NodeSpec()
    found = False
    builds = dict.fromkeys(build.build for row in catalogue.torch for build in row.builds)
    for key in RELAXED:
        if getattr(spec, key) == getattr(default, key):
            continue
        if not spec.privileged and key in NEEDS_ROOT:
            continue
        for value in (getattr(default, key), *(builds if key == "torch_build" else ())):
            nearby = spec.model_copy(update={key: value})
            if answer := _try(nearby, solve):
                found = True
                yield _named(key, answer, nearby)
                break
    others = [("driver", version) for version in newest_of_branches(seen, catalogue, available)]
    for changes in (others, [(key, NONE) for key in ("torch", "cuda", "cudnn", "nccl")]):
        for key, value in changes:
            if not found and getattr(spec, key) is None:
                nearby = spec.model_copy(update={key: value})
                if _try(nearby, solve):
                    found = True
                    yield f'{key} = "{value}"'


SETTING = r'([a-z_]+) = "([^"]*)"'
CLAIM = re.compile(rf"{SETTING}( and {SETTING})*(: .*)?")


def that_solve(ways: Iterable[str], spec: NodeSpec, solve: Solve) -> Iterator[str]:
    """Ways out as a refusal names them, without those that are settings and do not solve: a rule
    knows what it forbids, not what else stands in the way."""
    for way in ways:
        changes = dict(re.findall(SETTING, way)) if CLAIM.fullmatch(way) else {}
        if not changes or _try(spec.model_copy(update=changes), solve):
            yield way


def _try(spec: NodeSpec, solve: Solve) -> Answered | None:
    try:
        return solve(spec)
    except Refused:
        return None


def _named(key: str, answer: Answered, nearby: NodeSpec) -> str:
    """The dropped wish as the value that was then chosen, so that it can be written down."""
    stack, wish = answer.stack, answer.environment
    values: dict[str, Any] = {
        "torch_build": wish.build if wish else None,
        "torch": wish.torch if wish else None,
        "cuda": stack.cuda.version if stack.cuda else None,
        "cudnn": stack.cudnn.version if stack.cudnn else None,
        "nccl": stack.nccl.version if stack.nccl else None,
        "driver": stack.driver.version if stack.driver else None,
        "driver_modules": stack.driver.flavour if stack.driver else None,
        "policy": nearby.policy,
        "python": wish.python if wish else None,
        "env": nearby.env,
        "origin": nearby.origin,
    }
    value = values.get(key)
    return f'{key} = "{value}"' if value else f"leave {key} out"
