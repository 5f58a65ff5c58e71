"""Every constraint of the catalogue on one host's answer, computed again from the rows.

Nothing of the solver is called: of `deploy.solving` only the data models `Offer` and
`EnvironmentWish` are read, and package relations are compared here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from debian.debian_support import version_compare

from deploy.catalog.models import Catalogue, Gpu, TorchBuild, TorchRelease, numbers
from deploy.catalog.systems import DriverNames
from deploy.facts import NodeFacts
from deploy.fleet.spec import NodeSpec
from deploy.solving.offers import Offer
from deploy.solving.parts import EnvironmentWish
from deploy.stack import Component, Driver, Packages, Stack

LIBRARIES = ("cuda", "cudnn", "nccl")


def number(full: str) -> str:
    """The vendor's number in a full version: 3:580.178.04-1.el9 -> 580.178.04."""
    return full.split(":")[-1].rsplit("-", 1)[0]


def fits(version: str, wish: str) -> bool:
    """A version is the wished one, or of the wished branch."""
    return (version + ".").startswith(wish + ".")


@dataclass(frozen=True)
class Ask:
    """One host, its wish and what it is offered."""

    spec: NodeSpec
    facts: NodeFacts
    offers: tuple[Offer, ...]
    catalogue: Catalogue

    @property
    def boards(self) -> list[Gpu]:
        """Rows of the GPUs on the PCI bus."""
        return [
            self.catalogue.gpu[one.device]
            for one in self.facts.pci or ()
            if one.pci_class.startswith("03")
        ]

    @property
    def switches(self) -> int:
        """NVSwitches on the PCI bus."""
        return sum(one.pci_class.startswith("0680") for one in self.facts.pci or ())

    @property
    def loaded(self) -> str:
        """Version of the module that is loaded now."""
        return self.facts.modules.loaded_version if self.facts.modules else ""

    def kept(self, stack: Stack) -> bool:
        """The driver is the one that was there before."""
        return (
            bool(self.loaded)
            and stack.driver is not None
            and (stack.driver.version == self.loaded and self.spec.policy == "keep")
        )


def broken(ask: Ask, stack: Stack, wish: EnvironmentWish | None) -> Iterator[str]:
    """What the answer breaks; nothing for a right one."""
    assert ask.facts.os is not None
    row = ask.catalogue.named(stack.distribution)
    if not row.matches(ask.facts.os.id, ask.facts.os.version_id):
        yield f"{stack.distribution} for {ask.facts.os.pretty_name}"
    if (stack.packaging, stack.arch) != (row.kind, ask.facts.os.arch):
        yield f"{stack.packaging} on {stack.arch}"
    yield from _driver(ask, stack)
    yield from _fabric(ask, stack)
    yield from _libraries(ask, stack)
    yield from _optional(ask, stack)
    yield from _torch(ask, stack, wish)
    yield from _wishes(ask, stack)
    yield from _packages(ask, stack)


# ---- driver, fabric manager, IMEX


def _driver(ask: Ask, stack: Stack) -> Iterator[str]:
    driver, spec = stack.driver, ask.spec
    if driver is None:
        if ask.boards and spec.driver != "none":
            yield "no driver for GPUs"
        return
    if not ask.boards:
        yield "a driver without a GPU"
    branch = int(driver.version.split(".")[0])
    if driver.branch != str(branch):
        yield f"branch {driver.branch} of {driver.version}"
    for name, pin in driver.packages.items():
        if number(pin.version) != driver.version:
            yield f"{name} {pin.version} beside driver {driver.version}"
    if not ask.kept(stack):
        yield from _fresh(ask, stack, driver, branch)


def _fresh(ask: Ask, stack: Stack, driver: Driver, branch: int) -> Iterator[str]:
    catalogue, facts = ask.catalogue, ask.facts
    names = catalogue.driver_names(stack.distribution, driver.origin, branch)
    if names is None:
        yield f"the {driver.origin} has no branch {branch}"
        return
    if not _possible(ask, driver.flavour, branch):
        yield f"branch {branch} ({driver.flavour}) for {[one.name for one in ask.boards]}"
    if ask.spec.origin not in ("auto", driver.origin):
        yield f"origin {driver.origin}"
    first = catalogue.named(stack.distribution).arch[stack.arch].vendor_first
    if driver.origin == "vendor" and branch < first:
        yield f"branch {branch} is before the vendor's first"
    template = names.prebuilt_open if driver.flavour == "open" else names.prebuilt_closed
    if driver.prebuilt != template:
        yield f"signed modules {driver.prebuilt!r}"
    if not template:
        if facts.secure_boot not in ("disabled", "no-efi"):
            yield f"unsigned modules, Secure Boot {facts.secure_boot}"
        yield from _kernel(ask, branch)
    stream = names.stream_open if driver.flavour == "open" else names.stream_closed
    if driver.stream != stream:
        yield f"stream {driver.stream}"
    module = names.module_open if driver.flavour == "open" else names.module_closed
    for name in (module, *names.driver):
        if name not in driver.packages:
            yield f"the driver's packages lack {name}"
    other = names.module_closed if driver.flavour == "open" else names.module_open
    if other != module and other in driver.packages:
        yield f"both flavours: {module} and {other}"
    yield from _policy(ask, stack, driver, branch)


def _possible(ask: Ask, flavour: str, branch: int) -> bool:
    """Whether boards and flavour allow a branch."""
    kinds = {ask.catalogue.architecture[one.architecture] for one in ask.boards}
    return all(
        kind.driver_min <= branch <= (kind.driver_max or branch) and flavour in kind.modules
        for kind in kinds
    ) and (flavour == "open" or branch <= ask.catalogue.closed_last.branch)


def _kernel(ask: Ask, branch: int) -> Iterator[str]:
    row = ask.catalogue.branch.get(branch)
    for kernel in {ask.facts.kernel.running, ask.facts.kernel.next} if ask.facts.kernel else ():
        release = re.match(r"\d+\.\d+", kernel)
        ceiling = row.kernel_fails if row else ""
        if ceiling and release and numbers(release[0]) >= numbers(ceiling):
            yield f"branch {branch} on kernel {kernel}"


def _policy(ask: Ask, stack: Stack, driver: Driver, branch: int) -> Iterator[str]:
    """Without a wish: the type that the policy names, and its newest that is possible."""
    if ask.spec.driver is not None:
        return
    row = ask.catalogue.branch[branch]
    wanted = {"lts": ("lts",), "production": ("production",), "keep": ("lts", "production")}
    types = wanted.get(ask.spec.policy)
    if types and row.type not in types:
        yield f"policy {ask.spec.policy}: branch {branch} is {row.type}"
    newer = [
        one.number
        for one in ask.catalogue.branches
        if one.number > branch
        and (ask.spec.policy == "newest" or one.type == row.type)
        and _possible(ask, driver.flavour, one.number)
        and not list(_kernel(ask, one.number))
        and _offered(ask, stack, driver, one.number)
    ]
    if newer:
        yield f"policy {ask.spec.policy}: {newer} would have been newer than {branch}"


def _offered(ask: Ask, stack: Stack, driver: Driver, branch: int) -> bool:
    """Whether the whole of a branch is offered in this flavour by this origin."""
    names = ask.catalogue.driver_names(stack.distribution, driver.origin, branch)
    if names is None:
        return False
    module = names.module_open if driver.flavour == "open" else names.module_closed
    wanted = [module, *names.driver, *_managers(ask, names)]
    return all(
        any(
            one.name == name
            and one.origin == driver.origin
            and (number(one.version).startswith(f"{branch}.") or name == "nvlsm")
            for one in ask.offers
        )
        for name in wanted
    )


def _managers(ask: Ask, names: DriverNames) -> tuple[str, ...]:
    kinds = {one.fabric for one in ask.boards}
    found: tuple[str, ...] = names.imex if "imex" in kinds else ()
    if "nvlink5" in kinds:
        return found + names.fabric_nvlink5
    return found + (names.fabric_nvswitch if ask.switches else ())


def _fabric(ask: Ask, stack: Stack) -> Iterator[str]:
    driver = stack.driver
    kinds = {one.fabric for one in ask.boards}
    managed = driver is not None and (ask.switches > 0 or "nvlink5" in kinds)
    if bool(stack.fabric) != managed:
        yield "fabric manager where no switch is, or none where one is"
    if bool(stack.imex) != (driver is not None and "imex" in kinds):
        yield "IMEX where NVLink ends in the host, or none where it does not"
    for part in (stack.fabric, stack.imex):
        if part and driver and part.version != driver.version:
            yield f"{list(part.packages)} {part.version} for driver {driver.version}"
        if (
            part
            and driver
            and not any(number(pin.version) == driver.version for pin in part.packages.values())
        ):
            yield f"{list(part.packages)}: none at the driver's version"
    if stack.fabric and "nvlink5" in kinds and "nvlsm" not in stack.fabric.packages:
        yield "NVLink 5 without nvlsm"


# ---- toolkit, cuDNN, NCCL, DCGM, container toolkit


def _libraries(ask: Ask, stack: Stack) -> Iterator[str]:
    catalogue, driver = ask.catalogue, stack.driver.version if stack.driver else ask.loaded
    names = catalogue.named(stack.distribution).libraries
    if stack.cudnn:
        for rule in catalogue.cudnn:
            old = [one for one in ask.boards if numbers(one.compute) < numbers(rule.compute)]
            if old and numbers(stack.cudnn.version) >= numbers(rule.from_version):
                yield f"cuDNN {stack.cudnn.version} on {old[0].name}"
    if stack.cuda is None:
        return
    release = numbers(stack.cuda.version)
    for one in ask.boards:
        kind = catalogue.architecture[one.architecture]
        last = numbers(kind.cuda_last) if kind.cuda_last else release
        if not numbers(kind.cuda_min) <= release <= last:
            yield f"CUDA {stack.cuda.version} on {one.name}"
    if ask.boards and driver and numbers(driver) < numbers(catalogue.cuda_major[release[0]].driver):
        yield f"CUDA {stack.cuda.version} on driver {driver}"
    for part, templates in (("cuda", names.cuda), ("cudnn", names.cudnn), ("nccl", names.nccl)):
        found: Component | None = getattr(stack, part)
        wanted = {one.format(major=release[0], minor=release[1]) for one in templates}
        if found and not wanted <= found.packages.keys():
            yield f"{part} lacks {wanted - found.packages.keys()}"
        for name, pin in found.packages.items() if found and part != "cuda" else ():
            if name in wanted and number(pin.version) != getattr(stack, part).version:
                yield f"{name} {pin.version} in {part} {getattr(stack, part).version}"
    if stack.nccl:
        suffix = stack.nccl.packages[names.nccl[0]].version.rpartition("+cuda")[2]
        if numbers(suffix)[0] != release[0]:
            yield f"NCCL of CUDA {suffix} beside toolkit {stack.cuda.version}"


def _optional(ask: Ask, stack: Stack) -> Iterator[str]:
    for part in ("dcgm", "container_toolkit"):
        wish, found = getattr(ask.spec, part), getattr(stack, part)
        if bool(wish) != bool(found):
            yield f"{part}: wished {wish}"
        elif found and len({pin.version for pin in found.packages.values()}) != 1:
            yield f"{part} at several versions"
    if stack.dcgm:
        driver = numbers(stack.driver.version if stack.driver else ask.loaded)
        ends = [ask.catalogue.architecture[one.architecture].cuda_last for one in ask.boards]
        majors = [numbers(end)[0] for end in ends if end]
        floors = ask.catalogue.cuda_majors
        had = max(one.major for one in floors if numbers(one.driver) <= driver)
        plugin = f"datacenter-gpu-manager-4-cuda{min([had, *majors])}"
        if plugin not in stack.dcgm.packages:
            yield f"DCGM without {plugin}"


# ---- torch


def _torch(ask: Ask, stack: Stack, wish: EnvironmentWish | None) -> Iterator[str]:
    if (wish is None) != (ask.spec.torch == "none"):
        yield "torch where none is wished, or none where it is"
    if wish is None:
        return
    release = next(one for one in ask.catalogue.torch if one.version == wish.torch)
    yield from _python(ask, stack, release, wish)
    if not ask.boards:
        if (wish.build, wish.hardware_build, wish.pypi) != ("cpu", "", False):
            yield f"{wish.build} without a GPU"
        return
    builds = [one for one in release.builds if one.machine == stack.arch]
    build = next((one for one in builds if one.build == wish.hardware_build), None)
    if build is None:
        yield f"torch {release.version} has no {wish.hardware_build} for {stack.arch}"
        return
    yield from _wheel(ask, stack, release, build, wish)


def _audio(ask: Ask, build: TorchBuild, wish: EnvironmentWish) -> Iterator[str]:
    """torchaudio is numbered as the torch that it was built with, for each of its builds."""
    for text in wish.companions:
        name, _, version = text.partition("==")
        same = [
            one
            for release in ask.catalogue.torch
            for one in release.builds
            if release.version == version
            and (one.build, one.machine) == (build.build, build.machine)
        ]
        if name == "torchaudio" and wish.build != "cpu" and not same:
            yield f"{text} has no {build.build}"


def _wheel(
    ask: Ask, stack: Stack, release: TorchRelease, build: TorchBuild, wish: EnvironmentWish
) -> Iterator[str]:
    if wish.build not in ("cpu", build.build):
        yield f"{wish.build} where {build.build} was found right"
    if wish.pypi != (build.pypi and wish.build != "cpu"):
        yield f"default index: {wish.pypi}"
    if wish.pypi and stack.arch in release.cpu_wheel:
        yield "the default index's wheel without CUDA"
    for gpu in ask.boards:
        major, minor = numbers(gpu.compute)
        have = [numbers(one) for one in build.capabilities]
        if not any(one[0] == major and one[1] <= minor for one in have):
            yield f"no code for {gpu.name} in {wish.torch}+{build.build}"
    yield from _audio(ask, build, wish)
    driver = stack.driver.version if stack.driver else ask.loaded
    floor = ask.catalogue.cuda_major[numbers(build.cuda)[0]].driver
    if driver and numbers(driver) < numbers(floor):
        yield f"{build.build} on driver {driver}"
    for part, pin in (("cudnn", build.cudnn), ("nccl", build.nccl)):
        found: Component | None = getattr(stack, part)
        if found and getattr(ask.spec, part) is None and found.version != pin:
            yield f"{part} {found.version} beside torch's {pin}"
    toolkit = stack.cuda.version if stack.cuda and ask.spec.cuda is None else build.cuda
    if numbers(toolkit)[0] != numbers(build.cuda)[0]:
        yield f"toolkit {toolkit} beside {build.build}"


def _python(ask: Ask, stack: Stack, release: TorchRelease, wish: EnvironmentWish) -> Iterator[str]:
    own = ".".join((ask.facts.python.version if ask.facts.python else "").split(".")[:2])
    own = own or ask.catalogue.named(stack.distribution).python
    if wish.python not in release.pythons:
        yield f"torch {release.version} on Python {wish.python}"
    if wish.managed_python != (wish.python != own):
        yield f"Python {wish.python}, managed {wish.managed_python}, the host's own is {own}"
    if wish.kind != ask.spec.env or (wish.kind == "venv" and wish.managed_python):
        yield f"{wish.kind} with a managed Python"
    if ask.spec.python is None and own in release.pythons and wish.python != own:
        yield f"Python {wish.python} where the host's own {own} would do"
    for text in wish.companions:
        name, _, version = text.partition("==")
        if getattr(release, name) != version:
            yield f"{text} beside torch {release.version}"


# ---- wishes and packages


def _wishes(ask: Ask, stack: Stack) -> Iterator[str]:
    driver = stack.driver
    got: dict[str, str | None] = {
        "driver": driver.version if driver else "none",
        "driver_modules": driver.flavour if driver else None,
        **{key: part.version if part else "none" for key, part in _parts(stack, LIBRARIES)},
        **{key: part.version for key, part in _parts(stack, ("dcgm", "container_toolkit")) if part},
    }
    for key, found in got.items():
        wish = getattr(ask.spec, key)
        if wish not in (None, "latest") and found is not None and not fits(found, wish):
            yield f"{key}: wished {wish}, got {found}"


def _parts(stack: Stack, keys: Iterable[str]) -> Iterator[tuple[str, Component | None]]:
    for key in keys:
        yield key, getattr(stack, key)


def _packages(ask: Ask, stack: Stack) -> Iterator[str]:
    """Everything is offered, nothing lacks what it needs, nothing conflicts. A driver that stands
    is as its host has it, whoever offers it."""
    driver = stack.driver
    chosen: dict[str, Offer] = {}
    fresh: list[tuple[Packages, str]] = [
        (part.packages, part.origin) for _, part in stack.components
    ]
    if driver and not ask.kept(stack):
        fresh += [(driver.pinning, driver.origin), (driver.packages, driver.origin)]
    stream = driver.stream if driver else ""
    for packages, origin in fresh:
        for name, pin in packages.items():
            found = [
                one
                for one in ask.offers
                if (one.name, one.version) == (name, pin.version)
                and one.stream in ("", stream)
                and (one.origin == origin or name == "nvlsm")
            ]
            if not found:
                yield f"{name} {pin.version} is not offered by the {origin}"
            else:
                chosen[name] = found[0]
    known = {one.name for one in ask.offers}
    for offer in chosen.values():
        for group in filter(None, offer.depends.split(", ")):
            wanted = [_relation(text) for text in group.split(" | ")]
            if any(name in known for name, _, _ in wanted) and not any(
                _holds(chosen, *one) for one in wanted
            ):
                yield f"{offer.name} {offer.version} lacks {group}"
        others = {name: one for name, one in chosen.items() if one is not offer}
        for text in filter(None, offer.conflicts.split(", ")):
            if _holds(others, *_relation(text)):
                yield f"{offer.name} conflicts with {text}"


def _relation(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(\S+)(?: \((\S+) (\S+)\))?", text.strip())
    assert found, text
    return found[1], found[2] or "", found[3] or ""


def _holds(chosen: Mapping[str, Offer], name: str, operator: str, version: str) -> bool:
    if name not in chosen:
        return any(
            name == given.split(" ")[0]
            for offer in chosen.values()
            for given in filter(None, offer.provides.split(", "))
        )
    order = int(version_compare(chosen[name].version, version)) if operator else 0
    return {"": True, "=": order == 0, ">=": order >= 0, "<=": order <= 0}[operator]
