"""The driver: kept as it stands, or chosen by policy, wish, hardware and what is offered."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from deploy.catalog.models import Branch, Catalogue, numbers
from deploy.catalog.systems import DriverNames
from deploy.facts import Flavour
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.fabric import at_version, choose_fabric
from deploy.solving.hardware import check_branch, choose_flavour, limits
from deploy.solving.lifecycle import lifecycle
from deploy.solving.offers import (
    Available,
    Unavailable,
    Unsatisfied,
    demand,
    matches,
    pins,
    upstream,
)
from deploy.solving.parts import Chosen
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.solving.standing import kept, stays
from deploy.stack import Driver, Origin, Packages, Reason


def choose_driver(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Chosen:
    """Driver and fabric manager of a host. Raises Refused."""
    if not seen.gpus:
        if spec.driver not in (None, NONE):
            raise Refused(
                "no-gpu",
                f"driver {spec.driver} is wished, but the PCI bus shows no GPU",
                source="inventory key driver",
                unblock=("leave driver out",),
            )
        return Chosen(None, None, "")
    if spec.driver == NONE:
        return _unmanaged(seen)
    standing = seen.driver
    if standing and stays(spec, seen, standing, catalogue):
        return kept(spec, seen, standing, catalogue, available, today)
    return _fresh(spec, seen, catalogue, demand(available), today)


def _unmanaged(seen: Situation) -> Chosen:
    loaded = seen.driver.loaded if seen.driver else ""
    warning = () if loaded else ("no driver is loaded and none is managed: the GPUs cannot work",)
    why = f"the inventory says none; loaded is {loaded or 'no driver'}"
    reason = Reason(part="driver", choice=NONE, because=why, source="inventory key driver")
    return Chosen(None, None, loaded, (reason,), warning)


@dataclass(frozen=True)
class _Candidate:
    """A driver version that an origin offers, with its names."""

    origin: Origin
    full: str
    version: str
    names: DriverNames


def _fresh(
    spec: NodeSpec, seen: Situation, catalogue: Catalogue, available: Available, today: date
) -> Chosen:
    flavour = choose_flavour(spec, seen, catalogue)
    served = limits(seen, catalogue)
    refused: list[Refused] = []
    for one in _wished(spec, offered(seen, catalogue, available, flavour, "vendor"), catalogue):
        try:
            check_branch(numbers(one.version)[0], flavour, served, seen, catalogue)
            return _chosen(spec, seen, catalogue, available, today, flavour, one)
        except Refused as unfit:
            refused.append(unfit)
        except Unsatisfied as missing:
            refused.append(_lacking(str(missing)))
    raise refused[0] if refused else _nothing(spec, seen, catalogue, available, flavour, served)


def _chosen(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    today: date,
    flavour: Flavour,
    one: _Candidate,
) -> Chosen:
    """A candidate with everything that belongs to it. Raises Refused, Unsatisfied."""
    names, version = one.names, one.version
    branch = numbers(version)[0]
    stream = names.stream(flavour)
    whole = available.of(one.origin, stream)
    module = names.module(flavour)
    packages = pins(
        whole.closure({module: one.full, **at_version(names.driver, version, whole)}, version)
    )
    fabric, why = choose_fabric(seen, version, catalogue, whole, {})
    pinning = _pinning(names.pinning, whole) if names.pinning else {}
    driver = Driver(
        branch=str(branch),
        version=version,
        flavour=flavour,
        pinning=pinning,
        packages=packages,
        origin=one.origin,
        stream=stream,
        prebuilt=names.prebuilt(flavour),
    )
    reasons = (
        _why_version(spec, catalogue, version),
        _why_flavour(spec, seen, catalogue, flavour),
        *why,
    )
    warnings = [*lifecycle(version, seen, catalogue, today)]
    standing = seen.driver
    if standing and not all(available.offer(*had) for had in standing.packages):
        warnings.append(
            f"driver {standing.version} of another origin is replaced by the vendor's {version}"
        )
    if names.pinning and not pinning:
        warnings.append(f"the repository has no {names.pinning}")
    if spec.driver_modules is None and flavour == "closed":
        warnings.append("only closed modules work here: the vendor ends them after branch 610")
    return Chosen(driver, fabric, version, reasons, tuple(warnings))


def offered(
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    flavour: Flavour,
    origin: Origin,
) -> list[_Candidate]:
    """Every driver version that an origin offers in a flavour, the newest first."""
    found = []
    for branch in sorted(_branches(available, catalogue), reverse=True):
        names = catalogue.driver_names(seen.distribution, origin, branch)
        if names is None or not names.module(flavour):
            continue
        for full in available.of(origin, names.stream(flavour)).versions(names.module(flavour)):
            version = upstream(full)
            if version.split(".")[0] == str(branch):
                found.append(_Candidate(origin, full, version, names))
    return found


def _branches(available: Available, catalogue: Catalogue) -> set[int]:
    """Branches that may be offered: the catalogue's, and those that a driver's package names."""
    return {row.number for row in catalogue.branches} | available.branches


def _wished(spec: NodeSpec, offers: list[_Candidate], catalogue: Catalogue) -> Iterator[_Candidate]:
    """Offered versions that the wish or the policy takes, the best first."""
    for one in offers:
        row = catalogue.branch.get(numbers(one.version)[0])
        if (spec.driver and matches(one.version, spec.driver)) or (
            not spec.driver and row is not None and _taken(spec.policy, row)
        ):
            yield one


def _taken(policy: str, row: Branch) -> bool:
    wanted = {"keep": {"lts"}, "lts": {"lts"}, "production": {"production"}}
    return row.type in wanted.get(policy, {row.type})


def newest_of_branches(
    seen: Situation, catalogue: Catalogue, available: Available | Unavailable
) -> list[str]:
    """The newest offered driver of each long-lived branch, LTS before production."""
    if isinstance(available, Unavailable) or not seen.gpus:
        return []
    flavours: tuple[Flavour, ...] = ("open", "closed")
    versions = {
        one.version: None
        for flavour in flavours
        for one in offered(seen, catalogue, available, flavour, "vendor")
    }
    newest: dict[tuple[int, int], str] = {}
    for version in versions:
        row = catalogue.branch.get(numbers(version)[0])
        if row and row.type in ("lts", "production") and not row.ended:
            key = (row.type != "lts", -row.number)
            newest[key] = max(newest.get(key, version), version, key=numbers)
    return [newest[key] for key in sorted(newest)]


def _pinning(name: str, available: Available) -> Packages:
    versions = available.versions(name)
    return pins(available.closure({name: versions[0]})) if versions else {}


def _lacking(reason: str) -> Refused:
    return Refused("repository-lacks", reason, source="the vendor's repository")


def _nothing(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    flavour: Flavour,
    served: list[tuple[int, int, str]],
) -> Refused:
    """No offered version is even to be looked at: by wish, or by policy."""
    had = [one.version for one in offered(seen, catalogue, available, flavour, "vendor")]
    for low, high, words in served:
        if spec.driver and not low <= numbers(spec.driver)[0] <= high:
            return Refused(
                "driver-hardware",
                f"driver {spec.driver} does not serve {seen.boards}: {words}",
                source=catalogue.source("gpus", "modules"),
            )
    if not had:
        return _lacking(f"the repository has no driver with {flavour} modules")
    wish = f"driver {spec.driver}" if spec.driver else f"a driver for policy {spec.policy}"
    return Refused(
        "repository-lacks",
        f"the repository has no {wish} with {flavour} modules (it has {', '.join(had[:6])})",
        source="the vendor's repository",
        unblock=tuple(f'driver = "{version}"' for version in had[:3]),
    )


def _why_version(spec: NodeSpec, catalogue: Catalogue, version: str) -> Reason:
    row = catalogue.branch.get(numbers(version)[0])
    if spec.driver:
        because, source = f"the inventory asks for {spec.driver}", "inventory key driver"
    else:
        kind = {"keep": "LTS", "lts": "LTS", "production": "production"}.get(spec.policy, "")
        because = f"newest {kind} driver offered that fits the hardware".replace("  ", " ")
        source = catalogue.source("drivers", row.source) if row else f"policy {spec.policy}"
    return Reason(part="driver", choice=version, because=because, source=source)


def _why_flavour(spec: NodeSpec, seen: Situation, catalogue: Catalogue, flavour: Flavour) -> Reason:
    kinds = seen.kinds(catalogue)
    if spec.driver_modules:
        because, source = "the inventory says so", "inventory key driver_modules"
    else:
        because = f"{seen.boards}: {listed([kind.name for kind in kinds])}"
        source = catalogue.source("gpus", kinds[0].source)
    return Reason(part="modules", choice=flavour, because=because, source=source)
