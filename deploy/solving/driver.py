"""The driver: kept as it stands, or chosen by policy, wish, hardware and what is offered."""

from dataclasses import replace
from datetime import date

from deploy.catalog.models import Catalogue, numbers
from deploy.facts import Flavour
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.candidates import Candidate, Tier, newest_of_branches, offered, tiers
from deploy.solving.fabric import Beside, at_version, choose_fabric, choose_imex
from deploy.solving.hardware import check_branch, choose_flavour, limits
from deploy.solving.lifecycle import lifecycle
from deploy.solving.offers import Available, Unavailable, Unsatisfied, demand, pins
from deploy.solving.origins import WORDS, origins, refuse_mixed
from deploy.solving.parts import Chosen
from deploy.solving.refusal import Refused
from deploy.solving.situation import Situation
from deploy.solving.standing import kept, stays
from deploy.solving.why import why_flavour, why_origin, why_prebuilt, why_version
from deploy.stack import Driver, Origin, Packages, Reason

__all__ = ["choose_driver", "newest_of_branches"]

NO_SUCH = ("kernel", "driver-hardware")
"""Rules by which a whole type of branch is none for this host, so that the next type is tried."""
SAID_ONCE = (*NO_SUCH, "secure-boot", "modules")
"""Rules that are the same for every origin."""


def choose_driver(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Chosen:
    """Driver, fabric manager and IMEX of a host. Raises Refused."""
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
        chosen = kept(spec, seen, standing, catalogue, available, today)
    else:
        chosen = _fresh(spec, seen, catalogue, demand(available), today)
    return replace(chosen, warnings=(*seen.guesses, *chosen.warnings))


def _unmanaged(seen: Situation) -> Chosen:
    loaded = seen.driver.loaded if seen.driver else ""
    warning = () if loaded else ("no driver is loaded and none is managed: the GPUs cannot work",)
    why = f"the inventory says none; loaded is {loaded or 'no driver'}"
    reason = Reason(part="driver", choice=NONE, because=why, source="inventory key driver")
    return Chosen(None, None, loaded, (reason,), (*seen.guesses, *warning))


def _fresh(
    spec: NodeSpec, seen: Situation, catalogue: Catalogue, available: Available, today: date
) -> Chosen:
    """A driver from the first origin that has one for this host."""
    flavour = choose_flavour(spec, seen, catalogue)
    possible = origins(spec, seen, catalogue)
    refused: list[tuple[Origin, Refused]] = []
    for origin in possible:
        try:
            chosen = _of_origin(spec, seen, catalogue, available, today, flavour, origin)
        except Refused as why:
            refused.append((origin, why))
            continue
        whose = why_origin(spec, seen, catalogue, origin, refused)
        return replace(chosen, reasons=(*whose, *chosen.reasons))
    first = refused[0][1]
    standing = bool(seen.driver and seen.driver.packages) and spec.origin == "auto"
    for other in seen.row(catalogue).origins if standing else ():
        if other not in possible:
            try:
                _of_origin(spec, seen, catalogue, available, today, flavour, other)
            except Refused:
                continue
            raise refuse_mixed(seen, first)
    if len(refused) == 1 or (first.rule == refused[1][1].rule and first.rule in SAID_ONCE):
        raise first
    other, second = refused[1]
    raise Refused(
        first.rule,
        f"{first.reason}; {WORDS[other]} packages cannot either: {second.reason}",
        source=first.source,
        unblock=tuple(dict.fromkeys((*first.unblock, *second.unblock))),
    )


def _of_origin(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    today: date,
    flavour: Flavour,
    origin: Origin,
) -> Chosen:
    offers = offered(seen, catalogue, available, flavour, origin)
    served = limits(seen, catalogue)
    refused: list[Refused] = []
    passed: list[str] = []
    for tier in tiers(spec, offers, catalogue):
        for one in tier.candidates:
            prebuilt = one.names.prebuilt(flavour)
            try:
                check_branch(one.branch, flavour, served, seen, catalogue, prebuilt)
                chosen = _chosen(seen, available, flavour, one)
            except Refused as unfit:
                refused.append(unfit)
                continue
            except Unsatisfied as missing:
                refused.append(_lacking(str(missing)))
                continue
            return _told(spec, seen, catalogue, available, today, flavour, tier, passed, chosen)
        if any(one.rule not in NO_SUCH for one in refused):
            break
        passed.append(tier.kind)
    if refused:
        raise refused[0]
    raise _nothing(spec, seen, catalogue, offers, flavour, origin, served)


def _chosen(seen: Situation, available: Available, flavour: Flavour, one: Candidate) -> Chosen:
    """A candidate with everything that belongs to it. Raises Refused, Unsatisfied."""
    names, version = one.names, one.version
    whole = available.of(one.origin, names.stream(flavour))
    _signed(seen, whole, names.prebuilt(flavour))
    roots = {names.module(flavour): one.full, **at_version(names.driver, version, whole)}
    for name in names.own_number:
        if not (had := whole.versions(name)):
            raise Unsatisfied(whole.lacks(name))
        roots[name] = had[0]
    packages = pins(whole.closure(roots, version))
    beside = Beside(version, names, one.origin, available, names.stream(flavour))
    fabric, why_fabric = choose_fabric(seen, beside, {})
    imex, why_imex = choose_imex(seen, beside, {})
    driver = Driver(
        branch=str(one.branch),
        version=version,
        flavour=flavour,
        pinning=_pinning(names.pinning, whole) if names.pinning else {},
        packages=packages,
        origin=one.origin,
        stream=names.stream(flavour),
        prebuilt=names.prebuilt(flavour),
    )
    return Chosen(driver, fabric, version, (*why_fabric, *why_imex), imex=imex)


def _told(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    available: Available,
    today: date,
    flavour: Flavour,
    tier: Tier,
    passed: list[str],
    chosen: Chosen,
) -> Chosen:
    """The choice with its reasons and warnings."""
    driver = chosen.driver
    assert driver is not None
    names = seen.names(catalogue, driver.version, driver.origin)
    reasons = (
        why_version(spec, catalogue, driver.version, tier.kind, passed),
        why_flavour(spec, seen, catalogue, flavour),
        *((why_prebuilt(names.prebuilt(flavour), catalogue, names.source),)
          if driver.prebuilt else ()),
        *chosen.reasons,
    )  # fmt: skip
    warnings = [*lifecycle(driver.version, seen, catalogue, today)]
    standing = seen.driver
    if standing and not all(available.known_version(*had) for had in standing.packages):
        warnings.append(
            f"driver {standing.version} of another origin is replaced by "
            f"{WORDS[driver.origin]} {driver.version}"
        )
    if names.pinning and not driver.pinning:
        warnings.append(f"the repository has no {names.pinning}")
    if spec.driver_modules is None and flavour == "closed":
        last = catalogue.closed_last.branch
        warnings.append(f"only closed modules work here: the vendor ends them after branch {last}")
    return replace(chosen, reasons=reasons, warnings=tuple(warnings))


def _signed(seen: Situation, whole: Available, template: str) -> None:
    """Raises where signed modules are wanted and there are none for a kernel of this host."""
    if not template:
        return
    if not seen.kernels:
        raise Refused(
            "unknown-facts",
            "the distribution's driver comes with modules for one kernel release, and which "
            "kernels this host boots could not be read",
            source="unknown never means fine",
        )
    for kernel in seen.kernels:
        name = template.replace("{kernel}", kernel)
        if not whole.versions(name):
            raise Unsatisfied(f"{whole.lacks(name)}: no signed modules for kernel {kernel}")


def _pinning(name: str, available: Available) -> Packages:
    versions = available.versions(name)
    return pins(available.closure({name: versions[0]})) if versions else {}


def _lacking(reason: str) -> Refused:
    return Refused("repository-lacks", reason, source="what the package sources offer")


def _nothing(
    spec: NodeSpec,
    seen: Situation,
    catalogue: Catalogue,
    offers: list[Candidate],
    flavour: Flavour,
    origin: Origin,
    served: list[tuple[int, int, str]],
) -> Refused:
    """No offered version is even to be looked at: by wish, or by policy."""
    for low, high, words in served:
        if spec.driver and not low <= numbers(spec.driver)[0] <= high:
            return Refused(
                "driver-hardware",
                f"driver {spec.driver} does not serve {seen.boards}: {words}",
                source=catalogue.source("gpus", "modules"),
            )
    whose = "the repository" if origin == "vendor" else "the distribution's own archive"
    had = [one.version for one in offers]
    if not had:
        return _lacking(f"{whose} has no driver with {flavour} modules")
    wish = f"driver {spec.driver}" if spec.driver else f"driver for policy {spec.policy}"
    return Refused(
        "repository-lacks",
        f"{whose} has no {wish} with {flavour} modules (it has {', '.join(had[:6])})",
        source="what the package sources offer",
        unblock=tuple(f'driver = "{version}"' for version in had[:3]),
    )
