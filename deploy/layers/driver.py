"""The GPU driver: branch pinned, packages at exact versions, then its kernel module.

Order and unload rules: research, provisioning 2.7 (pinning package before the driver, one at a
time) and 2.12 (stop the driver's services, unload, change, load, else reboot).
"""

import re
from collections.abc import Iterable

from deploy import dnf
from deploy.catalog import load
from deploy.facts import NodeFacts
from deploy.idle import MUST_BE_IDLE
from deploy.interest import DRIVER_PACKAGES
from deploy.known import known
from deploy.layers import module
from deploy.layers.kernels import wanted_kernels
from deploy.packages import Difference, difference, locked, names_like, upstream
from deploy.stack import Driver
from deploy.steps import Step, Wanted
from deploy.transact import transaction

NAME = "driver"
PINNING = r"nvidia-driver-pinning-[0-9.]+"
"""The vendor's packages that pin one branch or version; each conflicts with the others."""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Pin, packages, modules for the running and the next kernel, and the loaded module."""
    driver = wanted.stack.driver
    if driver is None:
        return []
    packages = known(facts, "packages", facts.packages)
    lacks = difference(driver.packages, packages)
    changes = bool(lacks or _other_modules(wanted, packages))
    disturbs = changes and _disturbs(wanted, facts, driver, lacks)
    found = _pinned(wanted, facts, driver, disturbs=disturbs)
    found += _installed(wanted, facts, driver, lacks, disturbs=disturbs)
    return found + module.steps(NAME, wanted, facts, changes=changes)


def _disturbs(wanted: Wanted, facts: NodeFacts, driver: Driver, lacks: Difference) -> bool:
    """Files of a driver change that may be in use. Where the branch is part of the packages' names
    (Ubuntu) nothing moves and yet another driver goes: that one is loaded tells."""
    modules = known(facts, "modules", facts.modules)
    packages = known(facts, "packages", facts.packages)
    other = modules.loaded_version != "" and not module.runs(modules, driver)
    return lacks.replaces or other or bool(_other_modules(wanted, packages))


def _pinned(wanted: Wanted, facts: NodeFacts, driver: Driver, *, disturbs: bool) -> list[Step]:
    if driver.stream:
        return _streamed(driver, facts, disturbs=disturbs)
    packages = known(facts, "packages", facts.packages)
    lacks = difference(driver.pinning, packages)
    others = [n for n in names_like(packages, PINNING) if n not in driver.pinning]
    if not driver.pinning:  # this origin has none, or it was adopted as it stands
        others = [n for n in others if not n.startswith(f"nvidia-driver-pinning-{driver.branch}")]
    if not lacks and not others:
        return []
    held = [name for name in others if packages[name].held]
    why = "; ".join([lacks.why] * bool(lacks) + [f"{name} pins another branch" for name in others])
    command = transaction(
        wanted.stack, driver.pinning, lacks, remove=others, held=held, conffiles="confnew"
    )
    return [
        Step(
            layer=NAME,
            title=f"driver branch {driver.branch} is pinned"
            if driver.pinning
            else "no other driver branch is pinned",
            why=why,
            commands=(command,),
            # The pin of another branch would let apt move a driver that is in use.
            disruptive=disturbs,
            download=lacks.download,
        )
    ]


def _streamed(driver: Driver, facts: NodeFacts, *, disturbs: bool) -> list[Step]:
    """The module stream decides which of the vendor's packages dnf sees at all. A second stream of
    a module is refused until it is reset (dnf(8), "Module Command")."""
    module_name, _, wish = driver.stream.partition(":")
    found = known(facts, "streams", facts.streams).get(module_name, "")
    if found == wish:
        return []
    return [
        Step(
            layer=NAME,
            title=f"module stream {driver.stream} is enabled",
            why=f"stream {found} is enabled" if found else f"no stream of {module_name} is enabled",
            commands=(dnf.stream(driver.stream),),
            disruptive=disturbs,
        )
    ]


def companions(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """Installed packages outside the lock that came with the driver: the other flavour's module,
    metapackages, graphics libraries, and the packages of another driver altogether (another branch
    or origin). They carry a driver's own version, by which they are known; apt may remove them, or
    take them along to the wanted version. Packages of a kernel carry the kernel's, which says
    nothing of a driver: they are none, and signed modules among them are looked at apart."""
    driver = wanted.stack.driver
    if driver is None:
        return []
    packages = {
        name: found
        for name, found in known(facts, "packages", facts.packages).items()
        if not name.startswith(("linux-", "kernel"))
    }
    mine = locked(wanted.stack)
    versions = {
        upstream(found.version)
        for name, found in packages.items()
        if name in driver.packages
        or (re.match(DRIVER_PACKAGES, name) and not re.fullmatch(PINNING, name))
    }
    versions.add(driver.version)
    return [
        name
        for name, found in sorted(packages.items())
        if name not in mine and upstream(found.version) in versions
    ]


def _installed(
    wanted: Wanted, facts: NodeFacts, driver: Driver, lacks: Difference, *, disturbs: bool
) -> list[Step]:
    packages = known(facts, "packages", facts.packages)
    others = _other_modules(wanted, packages)
    if not lacks and not others:
        return []
    may_go = companions(wanted, facts)
    also, stale = _signed(wanted, facts, driver)
    may_go += stale
    install = transaction(
        wanted.stack,
        driver.packages,
        lacks,
        # apt and dnf take away what conflicts with what they install. Beside a driver that is there
        # they leave it: a transaction that was cut off, or names that do not conflict, as Ubuntu's.
        remove=[] if lacks and wanted.stack.packaging == "apt" else others,
        may_go=may_go,
        may_be=driver.version,
        also=also,
        held=[name for name in may_go if packages[name].held],
        before=MUST_BE_IDLE if disturbs else "",
        timeout_s=module.BUILD_S,
        log=module.make_log(driver),
    )
    gone = [f"the modules of {', '.join(others)} go"] if others else []
    why = "; ".join([lacks.why] * bool(lacks) + gone)
    return [
        Step(
            layer=NAME,
            title=f"driver {driver.version} ({driver.flavour} modules) is installed",
            why=why,
            commands=(install,),
            disruptive=disturbs,
            download=lacks.download,
        )
    ]


def _signed(wanted: Wanted, facts: NodeFacts, driver: Driver) -> tuple[list[str], list[str]]:
    """Packages of signed modules that must come along with this driver, those of the installed
    kernels included, and installed ones that belong to another driver."""
    packages = known(facts, "packages", facts.packages)
    mine = re.escape(driver.prebuilt).replace(r"\{kernel\}", r"\d.*")
    installed = names_like(packages, r"linux-(modules|objects|signatures)-nvidia-.*")
    along = {name for name in installed if mine and re.fullmatch(mine, name)}
    along |= set(module.prebuilt_packages(driver, wanted_kernels(facts)))
    return sorted(along), [name for name in installed if name not in along]


def _other_modules(wanted: Wanted, names: Iterable[str]) -> list[str]:
    """Installed packages with kernel modules that are not the wanted driver's: of the other flavour
    or another branch, by the names that the distribution's origins use."""
    assert wanted.stack.driver is not None
    catalogue = load()
    schemes = set(catalogue.named(wanted.stack.distribution).origins.values())
    templates = {
        template
        for row in catalogue.driver_schemes
        if row.scheme in schemes
        for template in (row.module_open, row.module_closed)
        if template
    }
    pattern = "|".join(re.escape(one).replace(r"\{branch\}", r"\d+") for one in sorted(templates))
    return sorted(
        name
        for name in names
        if re.fullmatch(pattern, name) and name not in wanted.stack.driver.packages
    )
