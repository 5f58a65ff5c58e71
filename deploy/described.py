"""A package repository and a host as the catalogue itself describes them, for asking what would
solve.

No real host and no network: every branch at its newest version, every CUDA, cuDNN and NCCL that a
row names, under the names and with the relations that the real packages have. What a real
repository holds is asked on a host (`deploy.available`); this one says what the catalogue promises.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from deploy.catalog.models import Catalogue
from deploy.catalog.systems import Distribution, DriverNames
from deploy.facts import Flavour, Kernel, Modules, NodeFacts, Os, PciDevice, PythonFacts
from deploy.solving.offers import Available, Offer
from deploy.stack import Origin, Repository

SIZE = 1000
"""Bytes of every package: the catalogue does not know sizes."""
FLAVOURS: tuple[Flavour, ...] = ("open", "closed")


def catalogue_repository(
    catalogue: Catalogue,
    distribution: str,
    machine: str,
    repository: Repository | None = None,
) -> Available:
    """What the catalogue says a distribution's machine type is offered, by every origin.

    `repository` stands for the vendor's address without a key. Raises KeyError for a distribution
    or machine type that has no row.
    """
    row = catalogue.named(distribution)
    address = catalogue.vendor.url.format(distribution=row.name, arch=row.arch[machine].repository)
    offers = [
        *(offer for origin in row.origins for offer in _drivers(catalogue, row, machine, origin)),
        *_libraries(catalogue, row),
    ]
    lacks = row.arch[machine].vendor_lacks
    offers = [one for one in offers if one.origin != "vendor" or one.name not in lacks]
    return Available(
        repository
        or Repository(
            kind=row.kind,
            url=address,
            key_fingerprint=catalogue.key_of(row.name).fingerprint,
            key="",
        ),
        offers,
        row.kind,
    )


def example_kernel(row: Distribution, machine: str) -> str:
    """A kernel release of a distribution's machine type."""
    return row.kernel.format(machine=machine, packages=row.arch[machine].packages)


def _drivers(
    catalogue: Catalogue, row: Distribution, machine: str, origin: Origin
) -> Iterator[Offer]:
    arch = row.arch[machine]
    for branch in catalogue.branches:
        names = catalogue.driver_names(row.name, origin, branch.number)
        if names is None or (origin == "vendor" and branch.number < arch.vendor_first):
            continue
        epoch = f"{names.epoch}:" if names.epoch else ""
        seen: set[tuple[str, str]] = set()
        for flavour in FLAVOURS:
            if not names.module(flavour):
                continue
            if flavour == "closed" and branch.number > catalogue.closed_last.branch:
                continue
            stream = names.stream(flavour)
            for offer in _flavour(names, flavour, f"{epoch}{branch.newest}-1"):
                if (offer.name, stream) not in seen:
                    seen.add((offer.name, stream))
                    yield replace(offer, stream=stream, origin=origin)
            if prebuilt := names.prebuilt(flavour):
                name = prebuilt.replace("{kernel}", example_kernel(row, machine))
                yield Offer(name, f"{branch.newest}-1", SIZE, origin=origin)
            for name, full in _apart(names, branch.newest, catalogue).items():
                if (name, stream) not in seen:
                    seen.add((name, stream))
                    yield Offer(name, full, SIZE, stream=stream, origin=origin)


def _flavour(names: DriverNames, flavour: Flavour, version: str) -> Iterator[Offer]:
    """The module and the user space of a driver, tied to each other as the real ones are."""
    module, other = names.module(flavour), names.module("closed" if flavour == "open" else "open")
    modules = " | ".join(f"{name} (= {version})" for name in (module, other) if name)
    user_space = dict.fromkeys((*names.driver, *names.coherent, *names.own_number))
    yield Offer(module, version, SIZE, conflicts=other if other != module else "")
    for index, name in enumerate(user_space):
        others = [f"{one} (= {version})" for one in names.coherent if one != name]
        needs = ", ".join([modules, *others]) if index == 0 else ""
        yield Offer(name, version, SIZE, depends=needs)


def _apart(names: DriverNames, version: str, catalogue: Catalogue) -> dict[str, str]:
    """What depends on nothing: the pin, fabric manager and IMEX, what has its own numbers."""
    found = {names.pinning: f"{version.split('.')[0]}-1"} if names.pinning else {}
    archive = bool(names.prebuilt_open)
    for name in (*names.fabric_nvswitch, *names.fabric_nvlink5, *names.imex):
        own = catalogue.support.get(name)
        if own and archive:
            continue  # only the vendor has it
        found[name] = own.newest if own else f"{version}-1"
    return found


def _libraries(catalogue: Catalogue, row: Distribution) -> Iterator[Offer]:
    names = row.libraries
    builds = [build for release in catalogue.torch for build in release.builds]
    majors = [str(one.major) for one in catalogue.cuda_majors]
    releases = [one.release.split(".") for one in catalogue.cuda_releases]
    for (major, minor), name in product(releases, names.cuda):
        yield Offer(name.format(major=major, minor=minor), f"{major}.{minor}.0-1", SIZE)
    for version, major, name in product(
        sorted({build.cudnn for build in builds}), majors, names.cudnn
    ):
        yield Offer(name.format(major=major), f"{version}-1", SIZE)
    for version, (major, minor), name in product(
        sorted({build.nccl for build in builds}), releases, names.nccl
    ):
        yield Offer(name, f"{version}-1+cuda{major}.{minor}", SIZE)
    for part in ("dcgm", "container_toolkit"):
        for name, major in product(getattr(names, part), majors):
            yield Offer(name.format(major=major), catalogue.support[part].newest, SIZE)


def bare_host(
    catalogue: Catalogue,
    distribution: str,
    machine: str,
    devices: Sequence[str],
    secure_boot: Literal["enabled", "disabled"] = "disabled",
) -> NodeFacts:
    """Facts of a host with a fresh system and these PCI device ids, as far as the solver asks;
    all else is unknown."""
    row = catalogue.named(distribution)
    switches = {one.device for one in catalogue.nvswitches}
    kernel = example_kernel(row, machine)
    unread: dict[str, Any] = {
        name: None for name, field in NodeFacts.model_fields.items() if field.is_required()
    }
    known: dict[str, Any] = {
        "host": "matrix",
        "root": True,
        "unknown": {},
        "os": Os(
            id=row.ids[0],
            version_id=row.version,
            codename="",
            pretty_name=row.title,
            id_like=(),
            arch=machine,
        ),
        "kernel": Kernel(running=kernel, next=kernel, installed=(kernel,), headers=()),
        "secure_boot": secure_boot,
        "pci": tuple(
            PciDevice(
                slot=f"0000:{index:02x}:00.0",
                device=device,
                pci_class="068000" if device in switches else "030200",
                subsystem="10de:0000",
                revision="a1",
                driver="",
            )
            for index, device in enumerate(devices, start=1)
        ),
        "modules": Modules(
            loaded_version="",
            loaded_flavour=None,
            installed=(),
            nouveau_loaded=False,
            nouveau_blacklisted=False,
            refcount=None,
        ),
        "packaging": row.kind,
        "packages": {},
        "python": PythonFacts(version=f"{row.python}.0", venv=True, headers=True),
        "foreign": (),
    }
    return NodeFacts(**{**unread, **known})
