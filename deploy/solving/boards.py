"""The NVIDIA boards of a host, from its PCI bus."""

from deploy.catalog.models import Catalogue, Gpu, numbers
from deploy.facts import PciDevice
from deploy.solving.refusal import Refused, listed

FALLEN_OFF = "ff"
"""PCI revision that a device shows when it no longer answers on the bus."""

DISPLAY, BRIDGE = "03", "0680"
"""PCI classes: display controller, other bridge (an NVSwitch)."""


def boards(
    pci: tuple[PciDevice, ...], catalogue: Catalogue
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """One row per board in slot order, and what was guessed about those without a row of their
    own. Raises Refused."""
    found = sorted(
        (device for device in pci if device.pci_class.startswith(DISPLAY)),
        key=lambda device: device.slot,
    )
    lost = [device.slot for device in pci if device.revision == FALLEN_OFF]
    if lost:
        raise Refused(
            "fallen-off-bus",
            f"no answer on the PCI bus from {listed(sorted(lost))} (revision ff)",
            source="PCI: a device that does not answer reads as all ones",
            unblock=("power-cycle the host; if it comes back like this, service the board",),
        )
    rows, guesses = [], {}
    for device in found:
        row = catalogue.gpu.get(device.device)
        if row is None:
            row = _guessed(device, catalogue)
            guesses[device.device] = (
                f"10de:{device.device} is not in the catalogue: it is taken for "
                f"{row.architecture}, compute capability {row.compute}, by the range of its id"
            )
        rows.append(row)
    return tuple(rows), tuple(guesses.values())


def _guessed(device: PciDevice, catalogue: Catalogue) -> Gpu:
    """A row for an id that has none, where its range decides all that matters."""
    named = f"10de:{device.device} at {device.slot}"
    kind = catalogue.range_of(device.device)
    if kind is None:
        raise Refused(
            "unknown-gpu",
            f"not in the catalogue: {named}",
            source="catalogue: gpus",
            unblock=("add a row to deploy/catalog/gpus.toml with its source",),
        )
    family = [row for row in catalogue.gpus if row.architecture == kind.name]
    majors = {numbers(row.compute)[0] for row in family}
    fabric = {row.fabric for row in family} - {""}
    if len(majors) != 1 or fabric:
        lacks = ["its compute capability"] if len(majors) != 1 else []
        lacks += ["whether it needs fabric manager, NVLSM or IMEX"] if fabric else []
        raise Refused(
            "unknown-gpu",
            f"not in the catalogue: {named}; by the range of its id it is {kind.name}, which does "
            f"not tell {listed(lacks)}",
            source="catalogue: gpus, ranges",
            unblock=("add a row to deploy/catalog/gpus.toml with its source",),
        )
    return Gpu(
        device=device.device,
        name=f"unknown {kind.name} board 10de:{device.device}",
        architecture=kind.name,
        # Code for the lowest minor runs on every board of its major.
        compute=min((row.compute for row in family), key=numbers),
        kind="data-centre",
        source=kind.source,
    )


def switches(pci: tuple[PciDevice, ...], catalogue: Catalogue) -> int:
    """NVSwitches that show on the bus."""
    ids = {row.device for row in catalogue.nvswitches}
    return sum(device.pci_class.startswith(BRIDGE) and device.device in ids for device in pci)


def refuse_machine(gpus: tuple[Gpu, ...], machine: str) -> None:
    """Raises Refused when a board that is one part with an Arm processor shows elsewhere."""
    wrong = sorted({gpu.name for gpu in gpus if soldered(gpu)}) if machine != "aarch64" else []
    if wrong:
        raise Refused(
            "machine",
            f"{listed(wrong)} is one part with a Grace processor (aarch64), but the host says "
            f"that it is {machine}",
            source="catalogue: gpus",
            unblock=("look which of the two is true: uname -m; lspci -nd 10de:",),
        )


def soldered(gpu: Gpu) -> bool:
    """Whether a board exists only together with an Arm processor."""
    return gpu.architecture.startswith("grace") or gpu.fabric == "imex"
