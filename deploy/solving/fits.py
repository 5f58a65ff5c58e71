"""Whether a locked stack still fits the host that it was made for.

Boards are swapped and hosts are installed anew under their old names; a stack for other hardware
or another system must not be applied to them.
"""

from collections.abc import Iterator

from deploy.catalog.models import Catalogue, numbers
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.fabric import needs_imex, needs_manager
from deploy.solving.hardware import check_branch, limits
from deploy.solving.origins import RULE, WORDS, replaces_by_name
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation
from deploy.stack import Driver, Stack


def check_fit(spec: NodeSpec, seen: Situation, stack: Stack, catalogue: Catalogue) -> None:
    """Raises Refused with everything that no longer fits."""
    faults = [
        *_system(seen, stack),
        *_boards(spec, seen, stack),
        *(_driver(spec, seen, stack.driver, catalogue) if stack.driver else ()),
        *_software(seen, stack, catalogue),
    ]
    if faults:
        raise Refused(
            "lock-hardware",
            f"the host is not what it was locked as: {'; '.join(faults)}",
            source="the lock against the facts",
        )
    driver = stack.driver
    if driver and (seen.driver is None or seen.driver.version != driver.version):
        served = limits(seen, catalogue)
        check_branch(int(driver.branch), driver.flavour, served, seen, catalogue, driver.prebuilt)


def _system(seen: Situation, stack: Stack) -> Iterator[str]:
    if (seen.distribution, seen.machine) != (stack.distribution, stack.arch):
        yield (
            f"it is {seen.distribution} on {seen.machine}, locked as "
            f"{stack.distribution} on {stack.arch}"
        )
    environment = stack.environment
    own = environment is not None and environment.managed_python is None
    if environment and own and seen.python and seen.python != environment.python:
        yield f"its Python is {seen.python}, locked as {environment.python}"


def _boards(spec: NodeSpec, seen: Situation, stack: Stack) -> Iterator[str]:
    if not seen.gpus and stack.driver:
        yield "the PCI bus shows no GPU any more"
    if seen.gpus and not stack.driver and spec.driver != NONE:
        yield f"it has {seen.boards} now, locked without a driver"
    if not (seen.gpus and stack.driver):
        return
    if needs_manager(seen) and not stack.fabric:
        what = f"{seen.nvswitches} NVSwitches" if seen.nvswitches else seen.boards
        yield f"it has {what}, locked without fabric manager"
    if stack.fabric and not needs_manager(seen):
        yield "it has no NVSwitch any more, locked with fabric manager"
    if needs_imex(seen) and not stack.imex:
        yield f"it has {seen.boards}, locked without IMEX"
    if stack.imex and not needs_imex(seen):
        yield f"it has {seen.boards}, which reach no other host, locked with IMEX"


def _driver(spec: NodeSpec, seen: Situation, driver: Driver, catalogue: Catalogue) -> Iterator[str]:
    for low, high, words in limits(seen, catalogue):
        if not low <= int(driver.branch) <= high:
            yield f"driver {driver.version} does not serve it: {words}"
    for kind in seen.kinds(catalogue):
        if driver.flavour not in kind.modules:
            yield f"{driver.flavour} modules do not work with {seen.boards} ({kind.name})"
    standing = seen.driver
    if (
        standing
        and standing.packages
        and standing.origin != driver.origin
        and spec.origin != driver.origin  # the inventory's own word changes it
        and not replaces_by_name(seen, catalogue)
    ):
        yield (
            f"driver {standing.version} of {WORDS[standing.origin]} packages stands, locked "
            f"as {WORDS[driver.origin]}: {RULE}"
        )


def _software(seen: Situation, stack: Stack, catalogue: Catalogue) -> Iterator[str]:
    for kind in seen.kinds(catalogue):
        last = kind.cuda_last
        if stack.cuda and last and numbers(stack.cuda.version) > numbers(last):
            yield f"CUDA {stack.cuda.version} does not support {kind.name} (last: {last})"
    environment = stack.environment
    if environment is None or not environment.hardware_build:
        return
    for release in catalogue.torch:
        for build in release.builds:
            built = (release.version, build.build, build.machine)
            if built == (environment.torch, environment.hardware_build, seen.machine):
                for gpu in sorted({gpu.name: gpu for gpu in seen.gpus}.items()):
                    if not build.runs_on(gpu[1].compute):
                        yield f"torch {release.version}+{build.build} has no code for {gpu[0]}"
