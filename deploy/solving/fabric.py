"""Fabric manager at exactly the driver's version, where there are switches to manage."""

from deploy.catalog.models import Catalogue
from deploy.solving.offers import Available, Unavailable, Unsatisfied, demand, pins, upstream
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Component, PackagePin, Reason


def choose_fabric(
    seen: Situation,
    version: str,
    catalogue: Catalogue,
    available: Available | Unavailable,
    installed: dict[str, str],
) -> tuple[Component | None, list[Reason]]:
    """Fabric manager at exactly the driver's version, where there are switches to manage."""
    names = seen.names(catalogue, version)
    boards = {gpu.fabric for gpu in seen.gpus} - {""}
    if not seen.nvswitches and not boards:
        return None, []
    if "imex" in boards:
        raise Refused(
            "imex",
            f"{seen.boards}: NVLink domains across hosts (IMEX) are not set up by this version",
            source=catalogue.source("gpus", "ogkm"),
        )
    wanted = names.fabric_nvlink5 if boards else names.fabric_nvswitch
    manager, others = wanted[0], wanted[1:]
    if upstream(installed.get(manager, "")) == version and all(
        name in installed for name in others
    ):
        packages = {
            name: PackagePin(
                version=installed[name], size=size_of(available, name, installed[name])
            )
            for name in wanted
        }
    else:
        offered = demand(available)
        try:
            roots = at_version((manager,), version, offered)
            for name in others:
                if not offered.versions(name):
                    raise Unsatisfied(offered.lacks(name))
                roots[name] = offered.versions(name)[0]
            packages = pins(offered.closure(roots, version))
        except Unsatisfied as missing:
            raise Refused(
                "fabric",
                f"the NVLink switches here need {wanted[0]} at exactly the driver's "
                f"version{' and ' + listed(list(others)) if others else ''}: {missing}",
                source="NVIDIA fabric manager user guide (research: provisioning 2.8)",
                unblock=("set vendor_repository to one that has it",),
            ) from None
    count = f"{seen.nvswitches} NVSwitches" if seen.nvswitches else "NVLink 5 boards"
    reason = Reason(
        part="fabric",
        choice=version,
        because=f"{count} are here; another version than the driver's is refused by it (error 802)",
        source="NVIDIA fabric manager user guide (research: provisioning 2.8)",
    )
    return Component(version=version, packages=packages), [reason]


def at_version(names: tuple[str, ...], version: str, available: Available) -> dict[str, str]:
    """Packages at the newest packaging of one driver version. Raises Unsatisfied."""
    found = {}
    for name in names:
        fitting = [full for full in available.versions(name) if upstream(full) == version]
        if not fitting:
            raise Unsatisfied(available.lacks(name, version))
        found[name] = fitting[0]
    return found


def size_of(available: Available | Unavailable, name: str, version: str) -> int:
    """Download size of a package version, 0 when nobody offers it."""
    offer = available.offer(name, version) if isinstance(available, Available) else None
    return offer.size if offer else 0
