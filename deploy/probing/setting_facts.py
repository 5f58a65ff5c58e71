"""What the loaded driver says of its own settings: per GPU, and the kernel module's parameters.

Asked of nvidia-smi with a time limit of its own; without a loaded driver there is nothing to ask,
and both are empty. Pure.
"""

import re
from collections.abc import Iterator
from typing import Any

from deploy.fleet.model import Model

FIELDS = (
    *("index", "uuid", "pci.bus_id", "persistence_mode", "mig.mode.current", "mig.mode.pending"),
    *("ecc.mode.current", "ecc.mode.pending", "power.limit", "power.min_limit"),
    "power.max_limit",
)
"""Columns of `nvidia-smi --query-gpu`, as its --help-query-gpu names them (branch 580, 2026-11)."""


class GpuSettings(Model):
    """One GPU. None: this board has no such setting, or does not tell it to this user."""

    index: int
    """As nvidia-smi counts; what its -i takes."""
    uuid: str
    slot: str
    """PCI address, as in `PciDevice.slot`."""
    persistence: bool | None
    mig: bool | None
    mig_pending: bool | None
    """MIG mode after the next reset."""
    mig_instances: tuple[str, ...] | None
    """Profiles of its GPU instances, sorted; None when MIG is on and this user may not see them."""
    mig_devices: tuple[str, ...] | None
    """Profiles of the devices in them, sorted: one each where there is its default one."""
    mig_profiles: tuple[str, ...]
    """Profiles that it offers; known only while MIG is on."""
    ecc: bool | None
    ecc_pending: bool | None
    """ECC mode after the next boot."""
    power_limit: float | None
    """Watts; so are the next two."""
    power_min: float | None
    power_max: float | None

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"GPU {self.index} ({self.uuid})"


def read_settings(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """From the probe's part `settings`: rows of values, then what nvidia-smi lists of MIG."""
    rows = [line.removeprefix("gpu ") for line in lines if line.startswith("gpu ")]
    blind = "mig-blind" in lines
    if blind:
        unknown["gpu_settings.mig_instances"] = "nvidia-smi lists them for root only"
    instances = _listed(lines, "gi ")
    profiles = _listed(lines, "gip ")
    devices = _devices(lines)
    return {
        "gpu_settings": tuple(
            _gpu(row, instances, profiles, devices, blind=blind) for row in sorted(rows)
        )
    }


def _gpu(
    row: str,
    instances: dict[int, list[str]],
    profiles: dict[int, list[str]],
    devices: dict[int, list[str]],
    *,
    blind: bool,
) -> GpuSettings:
    values = [value.strip() for value in row.split(",")]
    if len(values) != len(FIELDS):
        raise ValueError(f"{len(values)} values, wanted {len(FIELDS)}")
    found = dict(zip(FIELDS, values, strict=True))
    index, mig = int(found["index"]), _switch(found["mig.mode.current"])
    hidden = bool(mig) and blind
    return GpuSettings(
        index=index,
        uuid=found["uuid"],
        slot=_slot(found["pci.bus_id"]),
        persistence=_switch(found["persistence_mode"]),
        mig=mig,
        mig_pending=_switch(found["mig.mode.pending"]),
        mig_instances=None if hidden else tuple(sorted(instances.get(index, ()))),
        mig_devices=None if hidden else tuple(sorted(devices.get(index, ()))),
        mig_profiles=tuple(sorted(set(profiles.get(index, ())))),
        ecc=_switch(found["ecc.mode.current"]),
        ecc_pending=_switch(found["ecc.mode.pending"]),
        power_limit=_watts(found["power.limit"]),
        power_min=_watts(found["power.min_limit"]),
        power_max=_watts(found["power.max_limit"]),
    )


def _switch(value: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(value)


def _watts(value: str) -> float | None:
    return float(value) if re.fullmatch(r"\d{1,5}(\.\d+)?", value) else None


def _slot(bus_id: str) -> str:
    """nvidia-smi writes 00000000:1A:00.0, the kernel 0000:1a:00.0."""
    if not re.fullmatch(r"[0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]", bus_id):
        raise ValueError(f"{bus_id[:40]!r} is no PCI address")
    return bus_id[4:].lower()


_ROW = re.compile(r"\|\s+(\d+)\s+MIG (\S+)\s")
"""A line of the tables of `nvidia-smi mig -lgi` and `-lgip`: | GPU  MIG PROFILE ..."""


def _listed(lines: list[str], tag: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line in lines:
        row = _ROW.match(line.removeprefix(tag)) if line.startswith(tag) else None
        if row:
            found.setdefault(int(row[1]), []).append(row[2])
    return found


def _devices(lines: list[str]) -> dict[int, list[str]]:
    """From `nvidia-smi -L`: a GPU's line, then one line a MIG device."""
    found: dict[int, list[str]] = {}
    gpu = -1
    for line in _untagged(lines, "list "):
        if row := re.match(r"GPU (\d+): ", line):
            gpu = int(row[1])
        elif row := re.match(r"\s+MIG (\S+)\s+Device\s", line):
            found.setdefault(gpu, []).append(row[1])
    return found


def _untagged(lines: list[str], tag: str) -> Iterator[str]:
    return (line.removeprefix(tag) for line in lines if line.startswith(tag))


def read_params(lines: list[str], root: bool, unknown: dict[str, str]) -> dict[str, Any]:
    """From /proc/driver/nvidia/params: `Name: value`, texts in quotes."""
    pairs = (line.removeprefix("param ").partition(": ")[::2] for line in lines)
    return {"module_params": {name: value.strip().strip('"') for name, value in pairs if value}}
