"""What NVLink needs beside the driver, at exactly the driver's version: fabric manager where there
are switches to manage, IMEX where NVLink leaves the host."""

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.catalog.systems import DriverNames
from deploy.solving.offers import (
    Available,
    Offer,
    Unavailable,
    Unsatisfied,
    demand,
    pins,
    pins_of,
    upstream,
)
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation
from deploy.stack import Component, Origin, Reason

SOURCE = "NVIDIA fabric manager user guide (research: provisioning 2.8)"
IMEX_SOURCE = "NVIDIA IMEX service guide (research: provisioning 2.8)"


@dataclass(frozen=True)
class Beside:
    """The driver that fabric manager and IMEX must stand beside, and where they may come from."""

    version: str
    names: DriverNames
    origin: Origin
    available: Available | Unavailable
    stream: str = ""

    @property
    def whole(self) -> Available:
        """What the driver's own origin offers. Raises Refused."""
        return demand(self.available).of(self.origin, self.stream)


def needs_manager(seen: Situation) -> bool:
    """Whether there are switches here that this host manages. In racks with IMEX boards the
    switches are outside of the hosts."""
    return bool(seen.nvswitches) or any(gpu.fabric == "nvlink5" for gpu in seen.gpus)


def needs_imex(seen: Situation) -> bool:
    """Whether NVLink of the boards here reaches other hosts."""
    return any(gpu.fabric == "imex" for gpu in seen.gpus)


def manager_names(seen: Situation, names: DriverNames) -> tuple[str, ...]:
    """The packages that manage this host's switches, the manager first."""
    nvlink5 = any(gpu.fabric == "nvlink5" for gpu in seen.gpus)
    return names.fabric_nvlink5 if nvlink5 else names.fabric_nvswitch


def choose_fabric(
    seen: Situation, beside: Beside, installed: Mapping[str, str]
) -> tuple[Component | None, list[Reason]]:
    """Fabric manager (and nvlsm) for a driver version, None without switches. What is installed
    at the right version stays. Raises Refused."""
    if not needs_manager(seen):
        return None, []
    wanted, version = manager_names(seen, beside.names), beside.version
    what = f"{seen.nvswitches} NVSwitches" if seen.nvswitches else "NVLink 5 boards"
    if not wanted:
        raise Refused(
            "fabric",
            f"{what} are here, and this origin of driver packages has no fabric manager for "
            f"{version}",
            source=SOURCE,
            unblock=('origin = "vendor"',),
        )
    manager, others = wanted[0], wanted[1:]
    if upstream(installed.get(manager, "")) == version and all(one in installed for one in others):
        packages = pins_of({name: installed[name] for name in wanted}, beside.available)
    else:
        try:
            whole = beside.whole
            packages = pins(whole.closure(at_version((manager,), version, whole), version))
            for name in others:
                packages |= pins(_newest(name, beside))
        except Unsatisfied as missing:
            raise Refused(
                "fabric",
                f"the NVLink switches here need {manager} at exactly the driver's version"
                f"{' and ' + listed(list(others)) if others else ''}: {missing}",
                source=SOURCE,
                unblock=("set vendor_repository to one that has it",),
            ) from None
    reason = Reason(
        part="fabric",
        choice=version,
        because=f"{what} are here; another version than the driver's is refused by it (error 802)",
        source=SOURCE,
    )
    return Component(version=version, packages=packages, origin=beside.origin), [reason]


def choose_imex(
    seen: Situation, beside: Beside, installed: Mapping[str, str]
) -> tuple[Component | None, list[Reason]]:
    """IMEX for a driver version, None where NVLink stays inside the host. Raises Refused."""
    if not needs_imex(seen):
        return None, []
    version, wanted = beside.version, beside.names.imex
    if not wanted:
        raise Refused(
            "imex",
            f"{seen.boards}: this origin of driver packages has no IMEX for {version}",
            source=IMEX_SOURCE,
            unblock=('origin = "vendor"',),
        )
    if all(upstream(installed.get(name, "")) == version for name in wanted):
        packages = pins_of({name: installed[name] for name in wanted}, beside.available)
    else:
        try:
            whole = beside.whole
            packages = pins(whole.closure(at_version(wanted, version, whole), version))
        except Unsatisfied as missing:
            raise Refused(
                "imex",
                f"{seen.boards} share NVLink with other hosts and need {listed(list(wanted))} at "
                f"exactly the driver's version: {missing}",
                source=IMEX_SOURCE,
                unblock=("set vendor_repository to one that has it",),
            ) from None
    reason = Reason(
        part="imex",
        choice=version,
        because=f"{seen.boards}: NVLink reaches the other hosts of the rack, whose switches the "
        "rack manages itself",
        source=IMEX_SOURCE,
    )
    return Component(version=version, packages=packages, origin=beside.origin), [reason]


def _newest(name: str, beside: Beside) -> dict[str, Offer]:
    """A package that is tied to no driver version: the origin's own, else the vendor's."""
    for part in (beside.whole, demand(beside.available).of("vendor", beside.stream)):
        if had := part.versions(name):
            return part.closure({name: had[0]}, beside.version)
    raise Unsatisfied(beside.whole.lacks(name))


def at_version(names: tuple[str, ...], version: str, available: Available) -> dict[str, str]:
    """Packages at the newest packaging of one driver version. Raises Unsatisfied."""
    found = {}
    for name in names:
        fitting = [full for full in available.versions(name) if upstream(full) == version]
        if not fitting:
            raise Unsatisfied(available.lacks(name, version))
        found[name] = fitting[0]
    return found
