"""A driver that stands and is left as it is."""

from collections.abc import Iterator
from datetime import date

from deploy.catalog.models import Catalogue, numbers
from deploy.facts import Flavour
from deploy.fleet.spec import NodeSpec
from deploy.solving.fabric import Beside, choose_fabric, choose_imex, needs_imex
from deploy.solving.hardware import flavours, limits
from deploy.solving.lifecycle import lifecycle, mismatched
from deploy.solving.offers import Available, Unavailable, matches, pins_of
from deploy.solving.origins import RULE, WORDS, beside
from deploy.solving.parts import Chosen
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation, Standing
from deploy.stack import Driver, Reason


def stays(spec: NodeSpec, seen: Situation, standing: Standing, catalogue: Catalogue) -> bool:
    """Whether the driver that stands is what is asked for: policy keep, no wish against it, and
    it either runs or could run on this hardware."""
    if spec.policy != "keep":
        return False
    if spec.driver and not matches(standing.version, spec.driver):
        return False
    if spec.driver_modules and standing.flavour != spec.driver_modules:
        return False
    if spec.origin not in ("auto", standing.origin):
        return False
    if standing.loaded:
        return True
    branch = numbers(standing.version)[0]
    return (
        standing.flavour in flavours(seen, catalogue)
        and all(low <= branch <= high for low, high, _ in limits(seen, catalogue))
        and (standing.flavour != "closed" or branch <= catalogue.closed_last.branch)
    )


def kept(
    spec: NodeSpec,
    seen: Situation,
    standing: Standing,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Chosen:
    """The standing driver with its packages as installed. Raises Refused."""
    if standing.flavour is None:
        raise Refused(
            "unknown-facts",
            f"driver {standing.version} stands, but whether its modules are open or closed "
            "could not be read",
            source="unknown never means fine",
            unblock=('driver_modules = "open" or "closed": the driver is then set up anew',),
        )
    driver = as_it_stands(seen, standing, standing.flavour, catalogue, available)
    state = "works" if standing.loaded == standing.version else "is installed"
    reasons = [
        Reason(
            part="driver",
            choice=standing.version,
            because=f"it {state}, and no version is wished against it",
            source=f"policy {spec.policy}",
        ),
        Reason(
            part="modules",
            choice=standing.flavour,
            because="the modules that stand are of this flavour",
            source=f"policy {spec.policy}",
        ),
    ]
    names = seen.names(catalogue, standing.version)
    place = Beside(standing.version, names, standing.origin, available, driver.stream)
    installed = dict(seen.installed)
    fabric, why_fabric = choose_fabric(seen, place, installed)
    imex, why_imex = choose_imex(seen, place, installed)
    return Chosen(
        driver,
        fabric,
        standing.version,
        (*reasons, *why_fabric, *why_imex),
        tuple(_warnings(seen, standing, driver, catalogue, available, today)),
        imex,
    )


def as_it_stands(
    seen: Situation,
    standing: Standing,
    flavour: Flavour,
    catalogue: Catalogue,
    available: Available | Unavailable,
) -> Driver:
    """The standing driver as a stack names one: its packages at the versions that they have."""
    names = seen.names(catalogue, standing.version)
    installed = dict(seen.installed)
    apart = {names.pinning, *names.fabric_nvswitch, *names.fabric_nvlink5}
    apart |= set(names.imex) - set(names.driver) if needs_imex(seen) else set()
    prebuilt = names.prebuilt(flavour)
    start = prebuilt.partition("{kernel}")[0]
    return Driver(
        branch=str(numbers(standing.version)[0]),
        version=standing.version,
        flavour=flavour,
        pinning=pins_of(
            {n: full for n, full in installed.items() if n == names.pinning}, available
        ),
        packages=pins_of({n: full for n, full in standing.packages if n not in apart}, available),
        origin=standing.origin,
        stream=seen.driver_stream or names.stream(flavour),
        prebuilt=prebuilt if start and any(n.startswith(start) for n in installed) else "",
    )


def _warnings(
    seen: Situation,
    standing: Standing,
    driver: Driver,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Iterator[str]:
    yield from lifecycle(standing.version, seen, catalogue, today)
    if mixed := mismatched(seen, standing.version, catalogue):
        yield (
            f"{listed(mixed)} beside driver {standing.version}: programs will not find the GPUs; "
            "name a driver version to have it mended"
        )
    if others := beside(seen, catalogue):
        yield (
            f"mixed origin: {listed(others)} beside driver {standing.version}, which is "
            f"{WORDS[standing.origin]}: the two own the same files ({RULE})"
        )
    if not driver.packages:
        yield (
            f"no installed package has the version of the driver, {standing.version}: "
            "who put it there is not known"
        )
    elif standing.origin == "distribution":
        yield (
            f"driver {standing.version} is from another origin than the vendor's repository: the "
            "distribution's own packages; it is kept as it is"
        )
    elif isinstance(available, Available) and not all(
        available.known_version(name, pin.version) for name, pin in driver.packages.items()
    ):
        yield (
            f"driver {standing.version} is from another origin than the vendor's repository; "
            "it is kept as it is and not managed by branch"
        )
