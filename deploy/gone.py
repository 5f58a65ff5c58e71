"""Locked packages that a repository no longer has, found before anything is changed.

Only hosts whose plan would install packages are asked about, one host per repository; a host whose
locked versions are gone, or whose repository cannot be asked, is blocked with the next command.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.catalog import Catalogue, load
from deploy.facts import NodeFacts
from deploy.fleet.inventory import Fleet
from deploy.locking import offered
from deploy.packages import difference
from deploy.plan import HostPlan
from deploy.solving.offers import Available, Unavailable
from deploy.solving.place import Place, place
from deploy.stack import Blocked, Origin, Packages, Solution, Stack
from deploy.survey import Survey

RULE = "locked-versions-gone"
SHOWN = 3
"""Packages that a message names; a branch that was taken away has thirty."""

Ask = Callable[[Fleet, Survey, Catalogue], Mapping[Place, Available | Unavailable]]


def without_gone(
    fleet: Fleet,
    found: Survey,
    solutions: Mapping[str, Solution],
    plans: Mapping[str, HostPlan],
    ask: Ask = offered,
) -> dict[str, HostPlan]:
    """The plans, those blocked that would have to install what their repository does not offer."""
    wanting = {
        name: lacking
        for name, plan in plans.items()
        if plan.steps
        and (stack := solutions[name].stack)
        and (lacking := list(_lacking(stack, found.facts[name])))
    }
    if not wanting:
        return dict(plans)
    catalogue = load()
    part = Fleet(fleet.name, fleet.path, {name: fleet.hosts[name] for name in wanting})
    answers = ask(part, found, catalogue)
    plans = dict(plans)
    for name, lacking in wanting.items():
        stack = solutions[name].stack
        assert stack is not None
        assert stack.repository is not None
        asked = place(fleet.hosts[name].spec, found.facts[name], catalogue)
        answer = answers.get(asked) if asked else None
        if answer is None:
            continue
        blocked = _judged(name, fleet.path, stack, stack.repository.url, lacking, answer)
        if blocked:
            plans[name] = HostPlan(host=name, blocked=blocked)
    return plans


def _lacking(stack: Stack, facts: NodeFacts) -> Iterator[tuple[str, Origin, Packages]]:
    """What a host would have to install, by the part of the lock that it is of."""
    if stack.repository is None or facts.packages is None:
        return
    parts: list[tuple[str, Origin, Packages]] = []
    if stack.driver:
        both = {**stack.driver.pinning, **stack.driver.packages}
        parts.append(("driver", stack.driver.origin, both))
    for field, one in stack.components:
        part = "driver" if field in ("fabric", "imex") else field.replace("_", "-")
        parts.append((part, one.origin, one.packages))
    for part, origin, pins in parts:
        differs = difference(pins, facts.packages)
        names = {*differs.missing, *differs.moved}
        if names:
            yield part, origin, {name: pins[name] for name in sorted(names)}


def _judged(
    host: str,
    inventory: Path | None,
    stack: Stack,
    url: str,
    lacking: list[tuple[str, Origin, Packages]],
    answer: Available | Unavailable,
) -> Blocked | None:
    again = f"gpufleet lock {inventory or 'INVENTORY'} --upgrade"
    if isinstance(answer, Unavailable):
        return Blocked(
            host=host,
            reason=f"it lacks locked packages, and {url} could not be asked for them: "
            f"{answer.reason}",
            rule="repository",
            source="the vendor's repository, asked by a host of the fleet",
            unblock=("mend what it says, or set vendor_repository to a mirror",),
        )
    gone: list[str] = []
    parts: dict[str, None] = {}
    for part, origin, pins in lacking:
        stream = stack.driver.stream if stack.driver and part == "driver" else ""
        offers = answer if origin == "vendor" else answer.of(origin, stream)
        for name, pin in pins.items():
            had = offers.versions(name)
            if pin.version in had:
                continue
            listed = ", ".join(had[:SHOWN]) + (", ..." if len(had) > SHOWN else "")
            gone.append(f"{name} {pin.version} (it has {listed or 'none'})")
            parts[part] = None
    if not gone:
        return None
    more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
    return Blocked(
        host=host,
        reason=f"locked packages are gone from {url}: {', '.join(gone[:SHOWN])}{more}",
        rule=RULE,
        source="the lock against the repository as the host sees it",
        unblock=(f"{again} {' '.join(parts)}", "a mirror that still has them: vendor_repository"),
    )
