"""The states that hosts are found in, made from solved stacks and the catalogue."""

from __future__ import annotations

from collections.abc import Callable

from deploy.catalog import load
from deploy.facts import (
    Cuda,
    Dpkg,
    Flavour,
    Foreign,
    InstalledModule,
    Modules,
    NodeFacts,
    Package,
)
from deploy.packages import upstream
from deploy.stack import Stack
from tests.conformed import conform
from tests.golden.cases import Case, bare, other_branch, stack, wanted

OTHER: dict[Flavour, Flavour] = {"open": "closed", "closed": "open"}


def loaded(facts: NodeFacts, version: str, flavour: Flavour) -> Modules:
    """The module built for the running kernel and loaded, nobody using it."""
    assert facts.kernel is not None
    return Modules(
        loaded_version=version,
        loaded_flavour=flavour,
        installed=(InstalledModule(kernel=facts.kernel.running, version=version, flavour=flavour),),
        nouveau_loaded=False,
        nouveau_blacklisted=True,
        refcount=0,
    )


def at(case: Case, host: str, theirs: Stack) -> NodeFacts:
    """A host that an earlier run of ours brought to another stack."""
    return conform(wanted(case, host).model_copy(update={"stack": theirs}), bare(case))


def fresh(case: Case, host: str) -> NodeFacts:
    """nothing of the stack is installed"""
    return bare(case)


def converged(case: Case, host: str) -> NodeFacts:
    """exactly as its lock says"""
    return conform(wanted(case, host), bare(case))


def half_configured(case: Case, host: str) -> NodeFacts:
    """the machine went down in the middle of the driver's package transaction"""
    want = wanted(case, host)
    driver = want.stack.driver
    assert driver is not None
    whole = conform(want, bare(case))
    packages = dict(bare(case).packages or {})
    packages |= {name: (whole.packages or {})[name] for name in driver.pinning}
    packages["ca-certificates"] = Package(version="1-1", state="ii", held=False)
    names = sorted(driver.packages)
    dpkg = want.stack.packaging == "apt"
    for number, name in enumerate(names):
        first = number < len(names) // 2
        if not dpkg and not first:
            continue  # rpm keeps no half of a package: what it had not come to is not there
        state = ("iF" if first else "iU") if dpkg else "ii"
        packages[name] = Package(version=driver.packages[name].version, state=state, held=False)
    none = bare(case).modules
    assert none is not None
    early = {
        path: file
        for path, file in (whole.files or {}).items()
        if "expected" not in path and "cuda" not in path
    }
    return whole.model_copy(
        update={
            "packages": packages,
            "dpkg": Dpkg(broken=tuple(names), interrupted=True, lock_holder="")
            if dpkg
            else whole.dpkg,
            "modules": none.model_copy(update={"nouveau_blacklisted": True}),
            "services": {},
            "environments": (),
            "cuda": Cuda(link="", toolkits=()),
            "files": early,
            "state": {},
        }
    )


def wrong_branch(case: Case, host: str) -> NodeFacts:
    """converged to a lock with another driver branch"""
    theirs = other_branch(case)
    mixed = stack(case).model_copy(update={"driver": theirs.driver, "fabric": theirs.fabric})
    return at(case, host, mixed)


def held(case: Case, host: str) -> NodeFacts:
    """another driver branch, which somebody holds"""
    facts, driver = wrong_branch(case, host), other_branch(case).driver
    assert driver is not None
    packages = dict(facts.packages or {})
    if stack(case).packaging == "apt":
        for name in driver.packages:
            packages[name] = packages[name].model_copy(update={"state": "hi", "held": True})
        return facts.model_copy(update={"packages": packages})
    locks = [f"{name}-{_evr(pin.version)}.*" for name, pin in sorted(driver.packages.items())]
    for name in driver.packages:
        packages[name] = packages[name].model_copy(update={"held": True})
    return facts.model_copy(update={"packages": packages, "versionlocks": tuple(locks)})


def _evr(version: str) -> str:
    return version if ":" in version else f"0:{version}"


def mixed_origin(case: Case, host: str) -> NodeFacts:
    """the distribution's own driver beside the vendor's libraries"""
    want = wanted(case, host)
    whole = conform(want, bare(case))
    driver = want.stack.driver
    assert driver is not None
    version, flavour, names = archive(case, int(driver.branch))
    packages = {
        name: one
        for name, one in (whole.packages or {}).items()
        if name not in driver.packages and name not in driver.pinning
    }
    packages |= {name: Package(version=version, state="ii", held=False) for name in names}
    modules = loaded(whole, upstream(version), flavour)
    return whole.model_copy(update={"packages": packages, "modules": modules})


def archive(case: Case, branch: int) -> tuple[str, Flavour, tuple[str, ...]]:
    """Version, flavour and packages of a driver that did not come from the vendor's repository:
    the distribution's own by the catalogue's names, else what the distributions bring."""
    own = load().driver_names(case.distribution, "distribution", branch)
    if own is not None:
        names = (own.module(case.flavour), *own.driver, *own.coherent)
        return f"{branch}.95.05-0ubuntu1", case.flavour, tuple(dict.fromkeys(names))
    return ELSEWHERE[load().named(case.distribution).kind]


ELSEWHERE: dict[str, tuple[str, Flavour, tuple[str, ...]]] = {
    "apt": (
        "535.247.01-1~deb12u1",
        "closed",
        ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "libnvidia-ml1"),
    ),
    "dnf": (
        "3:570.153.02-1.el9",
        "closed",
        ("akmod-nvidia", "xorg-x11-drv-nvidia", "xorg-x11-drv-nvidia-cuda"),
    ),
}
"""Debian's non-free archive (packages of bookworm, 2026-11) and RPM Fusion."""


def wrong_flavour(case: Case, host: str) -> NodeFacts:
    """the same driver version with the modules of the other flavour"""
    mine, other = stack(case), OTHER[case.flavour]
    assert mine.driver is not None
    wish = {"driver": mine.driver.version, "driver_modules": other, "origin": mine.driver.origin}
    theirs = stack(case, "l40s", **wish)  # boards that both flavours serve, without switches
    return at(case, host, mine.model_copy(update={"driver": theirs.driver}))


def foreign_driver(case: Case, host: str) -> NodeFacts:
    """a driver from the vendor's .run file"""
    driver = stack(case).driver
    assert driver is not None
    facts = bare(case)
    return facts.model_copy(
        update={
            "modules": loaded(facts, driver.version, driver.flavour),
            "foreign": (Foreign(owner="runfile", evidence="/usr/bin/nvidia-uninstall"),),
        }
    )


STATES: dict[str, Callable[[Case, str], NodeFacts]] = {
    "fresh": fresh,
    "converged": converged,
    "half-configured": half_configured,
    "wrong-branch": wrong_branch,
    "held": held,
    "mixed-origin": mixed_origin,
    "wrong-flavour": wrong_flavour,
    "foreign-driver": foreign_driver,
}
