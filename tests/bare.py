"""Bare hosts of any distribution, machine type and boards, and what the catalogue says they are
offered."""

from functools import cache
from typing import Any

from deploy.catalog import load
from deploy.catalog.models import Gpu
from deploy.described import catalogue_repository
from deploy.facts import Kernel, NodeFacts, Os, PciDevice, PythonFacts
from deploy.solving.offers import Available, Offer
from tests import factory
from tests.factory import KERNEL, facts

CATALOGUE = load()
SWITCH = "22a3"
"""NVSwitch of H100 and H200 boards."""


def host(
    distribution: str,
    *devices: str,
    machine: str = "x86_64",
    switches: int = 0,
    kernel: str = KERNEL,
    **changes: Any,
) -> NodeFacts:
    """A bare host with these GPUs, by PCI device id, and its distribution's own Python."""
    row = CATALOGUE.named(distribution)
    system = Os(
        id=row.ids[0],
        version_id=row.version,
        codename="",
        pretty_name=row.title,
        id_like=(),
        arch=machine,
    )
    pci = [device(number, name, "030200") for number, name in enumerate(devices, start=1)]
    pci += [device(0xC0 + number, SWITCH, "068000") for number in range(switches)]
    own = PythonFacts(version=f"{row.python}.1", venv=True, headers=True)
    values = {
        "os": system,
        "pci": tuple(pci),
        "python": own,
        "packaging": row.kind,
        "kernel": Kernel(running=kernel, next=kernel, installed=(kernel,), headers=()),
    }
    return facts("none", **{**values, **changes})


def device(bus: int, name: str, pci_class: str) -> PciDevice:
    """One NVIDIA device on a bus of its own."""
    return PciDevice(
        slot=f"0000:{bus:02x}:00.0",
        device=name,
        pci_class=pci_class,
        subsystem="10de:0000",
        revision="a1",
        driver="",
    )


@cache
def offered(
    distribution: str, machine: str = "x86_64", without: str = "", kernel: str = KERNEL
) -> Available:
    """What the catalogue says is offered, the distribution's signed modules for one kernel
    included; without one package, if it is named."""
    row = CATALOGUE.named(distribution)
    whole = catalogue_repository(CATALOGUE, distribution, machine)
    repository = whole.repository.model_copy(
        update={"key": factory.KEY, "key_fingerprint": factory.key_fingerprint()}
    )
    signed = []
    for branch in CATALOGUE.branches:
        names = CATALOGUE.driver_names(distribution, "distribution", branch.number)
        for template in (names.prebuilt_open, names.prebuilt_closed) if names else ():
            name = template.replace("{kernel}", kernel)
            if name and not whole.of("distribution").versions(name):
                signed.append(Offer(name, f"{branch.newest}-1", 1000, origin="distribution"))
    offers = [one for one in (*every(whole), *signed) if one.name != without]
    return Available(repository, offers, row.kind)


def every(available: Available) -> tuple[Offer, ...]:
    """All offers of all origins and streams."""
    return tuple(available._all)


def gpu(device_id: str) -> Gpu:
    """A board's row."""
    return CATALOGUE.gpu[device_id]
