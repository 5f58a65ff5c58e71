"""The driver: kept as it stands, or chosen by policy, wish, hardware and what is offered."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from deploy.catalog.models import Branch, Catalogue, numbers
from deploy.facts import Flavour
from deploy.fleet.spec import NONE, NodeSpec
from deploy.solving.offers import Available, Unavailable, Unsatisfied, pins, upstream
from deploy.solving.refusal import Refused, listed
from deploy.solving.situation import Situation, Standing
from deploy.stack import Component, Driver, PackagePin, Packages, Reason

CLOSED_AND_OLD_BUILD = ('driver_modules = "closed"', 'torch_build = "cu126"')
"""What a host must say to be given closed modules for boards that want open ones."""


@dataclass(frozen=True)
class Chosen:
    """The driver part of a stack. `version` is what the rest must run on, "" when unknown."""

    driver: Driver | None
    fabric: Component | None
    version: str
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()


def demand(available: Available | Unavailable) -> Available:
    """The repository, or Refused with why no host could be asked."""
    if isinstance(available, Unavailable):
        raise Refused(
            "repository",
            f"the package repository could not be asked: {available.reason}",
            source="the vendor's repository, asked by a host of the fleet",
            unblock=("mend what it says, or set vendor_repository to a mirror",),
        )
    return available


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
    if standing and _stays(spec, seen, standing, catalogue):
        return _kept(spec, seen, standing, catalogue, available, today)
    return _fresh(spec, seen, catalogue, demand(available), today)


def _unmanaged(seen: Situation) -> Chosen:
    loaded = seen.driver.loaded if seen.driver else ""
    warning = () if loaded else ("no driver is loaded and none is managed: the GPUs cannot work",)
    why = f"the inventory says none; loaded is {loaded or 'no driver'}"
    reason = Reason(part="driver", choice=NONE, because=why, source="inventory key driver")
    return Chosen(None, None, loaded, (reason,), warning)


def _stays(spec: NodeSpec, seen: Situation, standing: Standing, catalogue: Catalogue) -> bool:
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
        standing.flavour in _flavours(seen, catalogue)
        and all(low <= branch <= high for low, high, _ in limits(seen, catalogue))
        and (standing.flavour != "closed" or branch <= catalogue.closed_last.branch)
    )


def matches(version: str, wish: str) -> bool:
    """Whether a version is the wished one or of the wished branch: 580 matches 580.178.04."""
    return version == wish or version.startswith(wish + ".")


def _kept(
    spec: NodeSpec,
    seen: Situation,
    standing: Standing,
    catalogue: Catalogue,
    available: Available | Unavailable,
    today: date,
) -> Chosen:
    if standing.flavour is None:
        raise Refused(
            "unknown-facts",
            f"driver {standing.version} stands, but whether its modules are open or closed "
            "could not be read",
            source="unknown never means fine",
            unblock=('driver_modules = "open" or "closed": the driver is then set up anew',),
        )
    names = seen.row(catalogue).packages
    branch = numbers(standing.version)[0]
    installed = dict(seen.installed)
    pinning = names.pinning.format(branch=branch)
    driver = Driver(
        branch=str(branch),
        version=standing.version,
        flavour=standing.flavour,
        pinning=_as_installed(pinning, installed, available),
        packages={
            name: PackagePin(version=full, size=_size(available, name, full))
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
    fabric, why = _fabric(seen, standing.version, catalogue, available, installed)
    return Chosen(driver, fabric, standing.version, (*reasons, *why), tuple(warnings))


def _as_installed(
    name: str, installed: dict[str, str], available: Available | Unavailable
) -> Packages:
    if name not in installed:
        return {}
    size = _size(available, name, installed[name])
    return {name: PackagePin(version=installed[name], size=size)}


def _size(available: Available | Unavailable, name: str, version: str) -> int:
    offer = available.offer(name, version) if isinstance(available, Available) else None
    return offer.size if offer else 0


def _vendors_own(packages: Packages, available: Available) -> bool:
    return all(available.offer(name, pin.version) for name, pin in packages.items())


def limits(seen: Situation, catalogue: Catalogue) -> list[tuple[int, int, str]]:
    """First and last branch by architecture, with the words for it."""
    found = []
    for kind in seen.kinds(catalogue):
        boards = listed(sorted({gpu.name for gpu in seen.gpus if gpu.architecture == kind.name}))
        if kind.driver_max is not None:
            words = f"{boards} ({kind.name}) is supported up to branch {kind.driver_max}"
            found.append((kind.driver_min, kind.driver_max, words))
        elif kind.driver_min:
            words = f"{boards} ({kind.name}) is supported from branch {kind.driver_min} on"
            found.append((kind.driver_min, 10_000, words))
    return found


def _flavours(seen: Situation, catalogue: Catalogue) -> list[Flavour]:
    """Flavours that every board here works with, the preferred one first."""
    kinds = seen.kinds(catalogue)
    return [
        flavour for flavour in kinds[0].modules if all(flavour in kind.modules for kind in kinds)
    ]


def _fresh(
    spec: NodeSpec, seen: Situation, catalogue: Catalogue, available: Available, today: date
) -> Chosen:
    flavour = _flavour(spec, seen, catalogue)
    names = seen.row(catalogue).packages
    module = names.module(flavour)
    served = limits(seen, catalogue)
    refused: list[Refused] = []
    for full in _ordered(spec, available.versions(module), catalogue):
        version = upstream(full)
        branch = numbers(version)[0]
        try:
            _allowed(branch, flavour, served, seen, catalogue)
            packages = pins(
                available.closure(
                    {module: full, **_newest(names.driver, version, available)}, version
                )
            )
            fabric, why = _fabric(seen, version, catalogue, available, {})
        except Refused as unfit:
            refused.append(unfit)
            continue
        except Unsatisfied as missing:
            refused.append(_lacking(str(missing)))
            continue
        pinning = _pinning(names.pinning.format(branch=branch), available)
        driver = Driver(
            branch=str(branch), version=version, flavour=flavour, pinning=pinning, packages=packages
        )
        reasons = (
            _why_version(spec, catalogue, version),
            _why_flavour(spec, seen, catalogue, flavour),
            *why,
        )
        warnings = [*lifecycle(version, seen, catalogue, today)]
        standing = seen.driver
        if standing and not all(available.offer(*one) for one in standing.packages):
            warnings.append(
                f"driver {standing.version} of another origin is replaced by the vendor's {version}"
            )
        if not pinning:
            warnings.append(f"the repository has no {names.pinning.format(branch=branch)}")
        if spec.driver_modules is None and flavour == "closed":
            warnings.append("only closed modules work here: the vendor ends them after branch 610")
        return Chosen(driver, fabric, version, reasons, tuple(warnings))
    raise refused[0] if refused else _nothing(spec, seen, catalogue, available, module, served)


def _flavour(spec: NodeSpec, seen: Situation, catalogue: Catalogue) -> Flavour:
    kinds = seen.kinds(catalogue)
    source = catalogue.source("gpus", kinds[0].source)
    common = _flavours(seen, catalogue)
    told = listed([f"{kind.name}: {' or '.join(kind.modules)}" for kind in kinds])
    if not common:
        raise Refused(
            "no-common-driver",
            f"{seen.boards} in one host: no kernel modules serve all of them ({told})",
            source=source,
            unblock=("put the boards into separate hosts",),
        )
    if spec.driver_modules:
        if spec.driver_modules not in common:
            raise Refused(
                "modules",
                f"{spec.driver_modules} modules do not work with {seen.boards} ({told})",
                source=source,
                unblock=(f'driver_modules = "{common[0]}"',),
            )
        if spec.driver_modules == "closed" and len({kind.modules for kind in kinds}) > 1:
            _deliberate(spec, seen, source)
        return spec.driver_modules
    if len({kind.modules[0] for kind in kinds}) > 1:
        _deliberate(spec, seen, source)
    return common[0]


def _deliberate(spec: NodeSpec, seen: Situation, source: str) -> None:
    """Boards that want different modules share a host only when the inventory says so fully."""
    if spec.driver_modules == "closed" and spec.torch_build != "auto":
        return
    raise Refused(
        "mixed-hardware",
        f"{seen.boards} in one host: the older ones work with closed modules only, the newer ones "
        "want open ones, and one build of torch must hold code for all",
        source=source,
        unblock=(
            " and ".join(CLOSED_AND_OLD_BUILD)
            + ": closed modules of branch 580 and torch's cu126 build serve all of them",
            "put the boards into separate hosts",
        ),
    )


def _ordered(spec: NodeSpec, versions: list[str], catalogue: Catalogue) -> Iterator[str]:
    """Offered versions that the wish or the policy takes, the best first."""
    for full in versions:
        try:
            branch = numbers(upstream(full))[0]
        except ValueError:
            continue
        row = catalogue.branch.get(branch)
        if (spec.driver and matches(upstream(full), spec.driver)) or (
            not spec.driver and row is not None and _taken(spec.policy, row)
        ):
            yield full


def _taken(policy: str, row: Branch) -> bool:
    wanted = {"keep": {"lts"}, "lts": {"lts"}, "production": {"production"}}
    return row.type in wanted.get(policy, {row.type})


def _allowed(
    branch: int,
    flavour: Flavour,
    served: list[tuple[int, int, str]],
    seen: Situation,
    catalogue: Catalogue,
) -> None:
    for low, high, words in served:
        if not low <= branch <= high:
            raise Refused(
                "driver-hardware",
                f"driver branch {branch} does not serve {seen.boards}: {words}",
                source=catalogue.source("gpus", "modules"),
            )
    last = catalogue.closed_last
    if flavour == "closed" and branch > last.branch:
        raise Refused(
            "modules",
            f"branch {branch} has no closed modules (the last with them is {last.branch})",
            source=catalogue.source("drivers", last.source),
        )
    refuse_secure_boot(seen)


def refuse_secure_boot(seen: Situation) -> None:
    """Raises Refused where the kernel would not load a module that is built on the host."""
    if seen.secure_boot in ("disabled", "no-efi"):
        return
    if seen.secure_boot == "enabled":
        raise Refused(
            "secure-boot",
            "Secure Boot is enabled, and modules that DKMS builds are not signed with a key that "
            "the firmware trusts: the kernel would refuse them",
            source="research: provisioning 2.12, Secure Boot",
            unblock=(
                "disable Secure Boot in the firmware",
                "enrol a key on the console, install the driver by hand; it is then kept",
            ),
        )
    raise Refused(
        "unknown-facts",
        f"whether Secure Boot would refuse unsigned modules is not known ({seen.secure_boot})",
        source="unknown never means fine",
    )


def _newest(names: tuple[str, ...], version: str, available: Available) -> dict[str, str]:
    """Packages at the newest packaging of one driver version. Raises Unsatisfied."""
    found = {}
    for name in names:
        fitting = [full for full in available.versions(name) if upstream(full) == version]
        if not fitting:
            raise Unsatisfied(available.lacks(name, version))
        found[name] = fitting[0]
    return found


def _fabric(
    seen: Situation,
    version: str,
    catalogue: Catalogue,
    available: Available | Unavailable,
    installed: dict[str, str],
) -> tuple[Component | None, list[Reason]]:
    """Fabric manager at exactly the driver's version, where there are switches to manage."""
    names = seen.row(catalogue).packages
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
            name: PackagePin(version=installed[name], size=_size(available, name, installed[name]))
            for name in wanted
        }
    else:
        offered = demand(available)
        try:
            roots = _newest((manager,), version, offered)
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


def newest_of_branches(
    seen: Situation, catalogue: Catalogue, available: Available | Unavailable
) -> list[str]:
    """The newest offered driver of each long-lived branch, LTS before production."""
    if isinstance(available, Unavailable) or not seen.gpus:
        return []
    names = seen.row(catalogue).packages
    versions = {
        upstream(full): None
        for name in (names.module_open, names.module_closed)
        for full in available.versions(name)
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
    module: str,
    served: list[tuple[int, int, str]],
) -> Refused:
    """No offered version is even to be looked at: by wish, or by policy."""
    had = [upstream(full) for full in available.versions(module)]
    for low, high, words in served:
        if spec.driver and not low <= numbers(spec.driver)[0] <= high:
            return Refused(
                "driver-hardware",
                f"driver {spec.driver} does not serve {seen.boards}: {words}",
                source=catalogue.source("gpus", "modules"),
            )
    if not had:
        return _lacking(f"the repository has no {module}")
    wish = f"driver {spec.driver}" if spec.driver else f"a driver for policy {spec.policy}"
    return Refused(
        "repository-lacks",
        f"the repository has no {wish} with {module} (it has {', '.join(had[:6])})",
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


def lifecycle(version: str, seen: Situation, catalogue: Catalogue, today: date) -> Iterator[str]:
    """What is to be known of a driver version on this day: its branch's end, known faults."""
    branch = numbers(version)[0]
    row = catalogue.branch.get(branch)
    if row is None:
        yield f"driver branch {branch} is not in the catalogue: its end of life is not known"
        return
    if row.ended:
        yield f"driver branch {branch} has reached its end of life"
    elif row.end_of_life and row.end_of_life < f"{today:%Y-%m}":
        yield f"driver branch {branch} reached its end of life in {row.end_of_life}"
    elif row.end_of_life is None:
        yield f"driver branch {branch}: its end of life is not known"
    kinds = {kind.name for kind in seen.kinds(catalogue)}
    for notice in catalogue.driver_notices:
        older = numbers(version) < numbers(notice.fixed)
        if notice.branch == branch and notice.architecture in kinds and older:
            yield f"driver {version}: {notice.text}"


def mismatched(seen: Situation, version: str, catalogue: Catalogue) -> list[str]:
    """User-space packages at another version than the driver, as "name version"."""
    installed = dict(seen.installed)
    names = seen.row(catalogue).packages.coherent
    return [
        f"{name} {upstream(installed[name])}"
        for name in names
        if name in installed and upstream(installed[name]) != version
    ]
