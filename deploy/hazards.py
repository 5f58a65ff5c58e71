"""What on a host would silently undo a stack, or silently does nothing: warnings from facts. Pure.

Nothing here blocks: apply does what the plan says in spite of it. What is told is what moves
afterwards, or what somebody believes to hold and does not. Facts: research, provisioning 2.7, 2.9.
"""

import re
from collections.abc import Iterable, Iterator

from deploy import apt_hazards, dnf_hazards
from deploy.apt_hazards import few
from deploy.catalog import load
from deploy.catalog.systems import DriverNames
from deploy.facts import NodeFacts, Package
from deploy.interest import GPU_PACKAGES
from deploy.layers.container_toolkit import PATH_UNIT, SERVICE, STATIC
from deploy.layers.services import ENABLED
from deploy.packages import difference, locked
from deploy.stack import Packages
from deploy.steps import Wanted

META = re.compile(
    r"(nvidia-open|cuda-drivers|nvidia-driver|nvidia-headless|cuda(-toolkit)?)(-\d.*)?"
)
"""Packages that hold nothing themselves; what they depend on, they take at any later version."""


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """Every hazard to this host's stack. A fact that could not be read is told, too."""
    pins = locked(wanted.stack)
    apt = wanted.stack.packaging == "apt"
    return [
        *_unread(facts, ("pins",) if apt else ("pins", "streams", "versionlocks")),
        *(apt_hazards if apt else dnf_hazards).warnings(wanted, facts),
        *_holds(wanted, facts, pins),
        *_automatic(wanted, facts, pins),
        *_mixed(wanted, facts),
        *_cdi(wanted, facts),
    ]


def _unread(facts: NodeFacts, parts: Iterable[str]) -> Iterator[str]:
    """Parts, or files of them, that were not looked at: what is in them is not known."""
    for part in parts:
        if getattr(facts, part) is None:
            why = facts.unknown.get(part, "no reason given")
            yield f"{part} could not be read ({why}): what they would undo is not known"
        for field, why in sorted(facts.unknown.items()):
            if field.startswith(f"{part}."):
                path = field.removeprefix(f"{part}.")
                yield f"{path} could not be read ({why}): what it would undo is not known"


def _there(facts: NodeFacts) -> dict[str, Package]:
    return {
        name: found
        for name, found in (facts.packages or {}).items()
        if found.state[1:2] not in {"n", "c", ""}
    }


def _holds(wanted: Wanted, facts: NodeFacts, pins: Packages) -> Iterator[str]:
    packages = _there(facts)
    stuck = difference(pins, facts.packages or {}).held
    dnf = wanted.stack.packaging == "dnf"
    if stuck and not dnf:
        yield (
            f"on hold, and not at the locked version: {few(stuck)}; apply takes the hold off for "
            "the change and sets it again"
        )
    held = {name for name, found in packages.items() if found.held}
    metas = sorted(name for name in held - set(pins) if META.fullmatch(name))
    if metas and not held - set(metas):
        what = "locked by versionlock" if dnf else "on hold"
        yield (
            f"{few(metas)} is {what}, which holds only the metapackage: what it depends on may "
            "move to any later version"
        )


def _automatic(wanted: Wanted, facts: NodeFacts, pins: Packages) -> Iterator[str]:
    """Pins and locks of ours keep what is in the lock. The rest is kept by the blacklist that the
    operating-system layer writes for apt; without root, and with dnf, by nothing."""
    upgrades = facts.auto_upgrades
    if upgrades is None or not upgrades.enabled:
        return
    if wanted.stack.packaging == "apt" and wanted.spec.privileged:
        return
    loose = [
        name
        for name in _there(facts)
        if re.search(GPU_PACKAGES, name)
        and name not in pins
        and not any(_blacklisted(name, pattern) for pattern in upgrades.blacklist)
    ]
    if loose:
        yield (
            f"packages are upgraded automatically here, and {few(loose)} "
            f"{'is' if len(loose) == 1 else 'are'} in no lock: a library that moves under a "
            "running job ends it; name them in the blacklist of the automatic upgrades, or wish "
            "for them in the inventory"
        )


def _blacklisted(name: str, pattern: str) -> bool:
    """unattended-upgrades takes Python's regular expressions, matched at the beginning."""
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


def _mixed(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    driver, catalogue = wanted.stack.driver, load()
    if driver is None or difference(driver.packages, facts.packages or {}):
        return  # a driver that is yet to come replaces them, or blocks
    row = catalogue.named(wanted.stack.distribution)
    by_origin = {
        origin: {
            name
            for branch in catalogue.branches
            for named in [catalogue.driver_names(row.name, origin, branch.number)]
            if named is not None
            for name in _names(named)
        }
        for origin in row.origins
    }
    mine = by_origin.get(driver.origin, set()) | set(driver.packages)
    for origin, theirs in by_origin.items():
        there = (theirs - mine) & _there(facts).keys() if origin != driver.origin else set()
        if there:
            yield (
                f"mixed origins: {few(there)} of the {origin}'s driver packages beside the "
                f"{driver.origin}'s driver {driver.version}; they replace each other's files"
            )


def _names(names: DriverNames) -> Iterator[str]:
    yield from (names.module_open, names.module_closed)
    yield from (*names.driver, *names.coherent, *names.fabric_nvswitch)


def _cdi(wanted: Wanted, facts: NodeFacts) -> Iterator[str]:
    """Where the container toolkit is in the stack, its layer tells this."""
    if wanted.stack.container_toolkit is not None:
        return
    services = facts.services or {}
    refreshed = any(
        unit in services and services[unit].enabled in ENABLED for unit in (PATH_UNIT, SERVICE)
    )
    for path in sorted(facts.cdi or {}):
        if refreshed and path.startswith(STATIC):
            yield (
                f"{path} lists the GPUs beside what nvidia-cdi-refresh keeps in /run/cdi: every "
                "device is there twice, and the file does not follow the driver"
            )
