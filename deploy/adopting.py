"""A stack from what is installed and works on a host, without asking any repository. Pure."""

from deploy.catalog.models import Catalogue, numbers
from deploy.facts import NodeFacts
from deploy.fleet.spec import NONE, NodeSpec
from deploy.lock import Lock
from deploy.solving.fabric import manager_names, needs_imex, needs_manager
from deploy.solving.lifecycle import mismatched
from deploy.solving.offers import Unavailable, matches, upstream
from deploy.solving.optional import LATEST
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation, situation
from deploy.solving.standing import as_it_stands
from deploy.stack import Component, Driver, PackagePin, Packages, Reason, Solution, Stack
from deploy.stack import TorchEnvironment as Environment

SOURCE = "adopt: what is installed and works"
NOBODY = Unavailable("adopting asks no repository")


def adopt(spec: NodeSpec, facts: NodeFacts, catalogue: Catalogue, old: Lock | None) -> Solution:
    """What stands, as a stack; Blocked when the driver does not work or a wish says otherwise."""
    try:
        seen = situation(spec, facts, catalogue)
        stack = _stack(spec, seen, facts, catalogue, old)
        _answers(spec, stack)
    except Refused as refused:
        blocked = refused.of(facts.host)
        return Solution(host=facts.host, stack=None, blocked=blocked, reasons=(), warnings=())
    reason = Reason(part="driver", choice="as installed", because="it works", source=SOURCE)
    return Solution(host=facts.host, stack=stack, blocked=None, reasons=(reason,), warnings=())


def _stack(
    spec: NodeSpec, seen: Situation, facts: NodeFacts, catalogue: Catalogue, old: Lock | None
) -> Stack:
    installed = dict(seen.installed)
    driver = fabric = imex = None
    if seen.gpus and spec.driver != NONE:
        driver = _driver(seen, facts, catalogue)
        fabric = _fabric(seen, driver, catalogue, installed)
        imex = _imex(seen, driver, catalogue, installed)
    cuda = _toolkit(spec, seen, facts, catalogue, installed)
    return Stack(
        distribution=seen.distribution,
        packaging=seen.row(catalogue).kind,
        arch=seen.machine,
        repository=None,
        driver=driver,
        fabric=fabric,
        imex=imex,
        cuda=cuda,
        cudnn=_library("cudnn", spec.cudnn, seen, catalogue, installed, cuda),
        nccl=_library("nccl", spec.nccl, seen, catalogue, installed, cuda),
        dcgm=_optional("dcgm", spec.dcgm, seen, catalogue, installed),
        container_toolkit=_optional(
            "container_toolkit", spec.container_toolkit, seen, catalogue, installed
        ),
        environment=_environment(facts, old),
    )


def _refuse(what: str, *unblock: str) -> Refused:
    return Refused("driver-not-working", what, source=SOURCE, unblock=unblock)


def _driver(seen: Situation, facts: NodeFacts, catalogue: Catalogue) -> Driver:
    standing = seen.driver
    lock = "gpufleet lock solves a new one"
    if standing is None or not standing.loaded:
        has = f"driver {standing.version} is installed, but" if standing else "no driver stands:"
        raise _refuse(f"{has} no nvidia module is loaded", lock)
    if standing.loaded != standing.version:
        raise _refuse(
            f"driver {standing.loaded} is loaded, {standing.version} is installed",
            "reboot the host, then adopt again",
        )
    ids = {gpu.device for gpu in seen.gpus}
    unbound = [
        device.slot
        for device in facts.pci or ()
        if device.device in ids and device.driver != "nvidia"
    ]
    if unbound:
        raise _refuse(f"the loaded driver serves not all GPUs: {listed(sorted(unbound))}", lock)
    if standing.flavour is None:
        raise _refuse("whether its modules are open or closed could not be read")
    if not standing.packages:
        raise _refuse(f"no installed package has the version of the driver, {standing.version}")
    if mixed := mismatched(seen, standing.version, catalogue):
        raise _refuse(f"{listed(mixed)} is installed beside driver {standing.version}", lock)
    return as_it_stands(seen, standing, standing.flavour, catalogue, NOBODY)


def _fabric(
    seen: Situation, driver: Driver, catalogue: Catalogue, installed: dict[str, str]
) -> Component | None:
    if not needs_manager(seen):
        return None
    wanted = manager_names(seen, seen.names(catalogue, driver.version))
    return _beside(driver, wanted[:1], wanted, "NVLink switches need the same", installed)


def _imex(
    seen: Situation, driver: Driver, catalogue: Catalogue, installed: dict[str, str]
) -> Component | None:
    if not needs_imex(seen):
        return None
    wanted = seen.names(catalogue, driver.version).imex
    return _beside(driver, wanted, wanted, "NVLink between hosts needs the same", installed)


def _beside(
    driver: Driver,
    exact: tuple[str, ...],
    wanted: tuple[str, ...],
    why: str,
    installed: dict[str, str],
) -> Component:
    """Packages beside the driver as installed, those of `exact` at its version."""
    for name in exact:
        found = upstream(installed.get(name, ""))
        if found != driver.version:
            raise _refuse(
                f"{name} is {found or 'not installed'}, the driver {driver.version}: {why}",
                "gpufleet lock solves it",
            )
    return Component(
        version=driver.version, packages=_pins(installed, list(wanted)), origin=driver.origin
    )


def _toolkit(
    spec: NodeSpec,
    seen: Situation,
    facts: NodeFacts,
    catalogue: Catalogue,
    installed: dict[str, str],
) -> Component | None:
    if spec.cuda == NONE:
        return None
    templates = seen.row(catalogue).libraries.cuda
    had = [
        row.release
        for row in sorted(
            catalogue.cuda_releases, key=lambda row: numbers(row.release), reverse=True
        )
        if all(name in installed for name in _named(templates, row.release))
    ]
    if not had:
        return None
    linked = [one for one in had if facts.cuda and facts.cuda.link.endswith(f"cuda-{one}")]
    wished = [one for one in had if one == spec.cuda]
    release = (wished or linked or had)[0]
    suffix = "-" + release.replace(".", "-")
    packages = _pins(installed, [name for name in installed if name.endswith(suffix)])
    return Component(version=release, packages=packages)


def _named(templates: tuple[str, ...], release: str) -> list[str]:
    major, minor = numbers(release)
    return [template.format(major=major, minor=minor) for template in templates]


def _library(
    part: str,
    wish: str | None,
    seen: Situation,
    catalogue: Catalogue,
    installed: dict[str, str],
    cuda: Component | None,
) -> Component | None:
    """cuDNN or NCCL as installed, for the toolkit's CUDA major before any other."""
    if wish == NONE:
        return None
    majors = sorted((row.major for row in catalogue.cuda_majors), reverse=True)
    if cuda:
        majors.insert(0, numbers(cuda.version)[0])
    templates = getattr(seen.row(catalogue).libraries, part)
    for major in majors:
        names = _named(templates, f"{major}.0")
        if names[0] in installed:
            version = upstream(installed[names[0]])
            return Component(version=version, packages=_pins(installed, names))
    return None


def _optional(
    part: str,
    wish: str | None,
    seen: Situation,
    catalogue: Catalogue,
    installed: dict[str, str],
) -> Component | None:
    """DCGM or the container toolkit as installed, where it is wished: else it is not managed."""
    if wish is None:
        return None
    templates = getattr(seen.row(catalogue).libraries, part)
    for major in sorted((row.major for row in catalogue.cuda_majors), reverse=True):
        names = _named(templates, f"{major}.0")
        if all(name in installed for name in names):
            return Component(
                version=upstream(installed[names[0]]), packages=_pins(installed, names)
            )
    return None


def _environment(facts: NodeFacts, old: Lock | None) -> Environment | None:
    """The environment that is current there, when a lock still knows how to build it."""
    current = next((one.id for one in facts.environments or () if one.current), None)
    for stack in old.stacks.values() if old and current else ():
        if stack.environment and stack.environment.id == current:
            return stack.environment
    return None


def _pins(installed: dict[str, str], names: list[str]) -> Packages:
    return {
        name: PackagePin(version=installed[name], size=0)
        for name in sorted(names)
        if name in installed
    }


def _answers(spec: NodeSpec, stack: Stack) -> None:
    """Refused when the inventory asks for something else by name: a lock answers its inventory."""
    found = {
        "driver": stack.driver.version if stack.driver else None,
        "cuda": stack.cuda.version if stack.cuda else None,
        "cudnn": stack.cudnn.version if stack.cudnn else None,
        "nccl": stack.nccl.version if stack.nccl else None,
        "dcgm": stack.dcgm.version if stack.dcgm else None,
        "container_toolkit": stack.container_toolkit.version if stack.container_toolkit else None,
        "torch": stack.environment.torch if stack.environment else None,
    }
    differs = [
        f"{key} {wish} is wished, {found[key] or 'none'} is installed"
        for key in found
        if (wish := getattr(spec, key)) not in (None, NONE)
        and not (matches(found[key] or "", wish) or (wish == LATEST and found[key]))
    ]
    flavour = stack.driver.flavour if stack.driver else None
    if spec.driver_modules and flavour and spec.driver_modules != flavour:
        differs.append(f"{spec.driver_modules} modules are wished, {flavour} ones are installed")
    origin = stack.driver.origin if stack.driver else None
    if spec.origin not in ("auto", origin) and origin:
        differs.append(f"the {spec.origin}'s driver is wished, the {origin}'s is installed")
    if stack.environment and stack.environment.kind != spec.env:
        differs.append(f"env {spec.env} is wished, {stack.environment.kind} made the environment")
    if differs:
        raise Refused(
            "wish-differs",
            "; ".join(differs),
            source="the inventory against the facts",
            unblock=("take the wish out of the inventory, or: gpufleet lock",),
        )
