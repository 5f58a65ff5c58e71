"""A driver that stands and is left as it is."""

from datetime import date

from deploy.catalog.models import Catalogue, numbers
from deploy.fleet.spec import NodeSpec
from deploy.solving.fabric import choose_fabric, size_of
from deploy.solving.hardware import flavours, limits
from deploy.solving.lifecycle import lifecycle, mismatched
from deploy.solving.offers import Available, Unavailable, matches
from deploy.solving.parts import Chosen
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation, Standing
from deploy.stack import Driver, PackagePin, Packages, Reason


def stays(spec: NodeSpec, seen: Situation, standing: Standing, catalogue: Catalogue) -> bool:
    """Whether the driver that stands is what is asked for: policy keep, no wish against it, and
    it either runs or could run on this hardware."""
    if spec.policy != "keep":
        return False
    if spec.driver and not matches(standing.version, spec.driver):
        return False
    if spec.driver_modules and standing.flavour != spec.driver_modules:
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
    names = seen.names(catalogue, standing.version)
    branch = numbers(standing.version)[0]
    installed = dict(seen.installed)
    pinning = names.pinning
    driver = Driver(
        branch=str(branch),
        version=standing.version,
        flavour=standing.flavour,
        pinning=_as_installed(pinning, installed, available),
        packages={
            name: PackagePin(version=full, size=size_of(available, name, full))
            for name, full in standing.packages
            if name not in (*names.fabric_nvlink5, pinning)
        },
    )
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
    warnings = [*lifecycle(standing.version, seen, catalogue, today)]
    if mixed := mismatched(seen, standing.version, catalogue):
        warnings.append(
            f"{listed(mixed)} beside driver {standing.version}: programs will not find the GPUs; "
            "name a driver version to have it mended"
        )
    if not driver.packages:
        warnings.append(
            f"no installed package has the version of the driver, {standing.version}: "
            "who put it there is not known"
        )
    elif isinstance(available, Available) and not _vendors_own(driver.packages, available):
        warnings.append(
            f"driver {standing.version} is from another origin than the vendor's repository; "
            "it is kept as it is and not managed by branch"
        )
    fabric, why = choose_fabric(seen, standing.version, catalogue, available, installed)
    return Chosen(driver, fabric, standing.version, (*reasons, *why), tuple(warnings))


def _as_installed(
    name: str, installed: dict[str, str], available: Available | Unavailable
) -> Packages:
    if name not in installed:
        return {}
    size = size_of(available, name, installed[name])
    return {name: PackagePin(version=installed[name], size=size)}


def _vendors_own(packages: Packages, available: Available) -> bool:
    return all(available.offer(name, pin.version) for name, pin in packages.items())
