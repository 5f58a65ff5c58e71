"""Hardware of simulated nodes: PCI ids as on the real boards, serials fixed per node and index.

PCI ids: the pci.ids list (10de:2330 H100 SXM5 80GB, 10de:26b9 L40S, 10de:1db5 Tesla V100 SXM2
32GB); the NVSwitch of H100 boards, 10de:22a3: research, provisioning 2.9.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU model as PCI and NVML show it."""

    device: str
    subsystem: str
    pci_class: str
    name: str
    memory_mib: int
    compute: tuple[int, int]
    pcie_gen: int
    pcie_width: int


H100 = Gpu("0x2330", "0x16c1", "0x030200", "NVIDIA H100 80GB HBM3", 81559, (9, 0), 5, 16)
L40S = Gpu("0x26b9", "0x1851", "0x030200", "NVIDIA L40S", 46068, (8, 9), 4, 16)
V100 = Gpu("0x1db5", "0x1249", "0x030200", "Tesla V100-SXM2-32GB", 32768, (7, 0), 3, 16)

NVSWITCH = {"device": "0x22a3", "subsystem": "0x1796", "pci_class": "0x068000"}


@dataclass(frozen=True)
class Hardware:
    """What stands in one node."""

    gpu: Gpu | None
    gpus: int
    nvswitches: int


HARDWARE = {
    "hgx-h100": Hardware(H100, 8, 4),
    "l40s": Hardware(L40S, 2, 0),
    "v100": Hardware(V100, 4, 0),
    "none": Hardware(None, 0, 0),
}

FLEETS = {
    "demo": {"h100-01": "hgx-h100", "h100-02": "hgx-h100", "l40s-01": "l40s", "v100-01": "v100"},
    "tests": {"h100-01": "hgx-h100", "l40s-01": "l40s", "v100-01": "v100", "cpu-01": "none"},
    "eight": {f"h100-{i:02}": "hgx-h100" for i in range(1, 9)},
}
"""Fleets by profile name: node name to hardware."""


def describe(node: str, kind: str) -> dict[str, Any]:
    """Return `/etc/sim/hardware.json` of a node: every device with slot, ids, uuid and serial."""
    hardware = HARDWARE[kind]
    gpus = []
    for index in range(hardware.gpus):
        assert hardware.gpu is not None
        # Bus numbers as wide apart as on an HGX board, where switches sit between the GPUs.
        slot = f"0000:{0x1A + index * 0x10:02x}:00.0"
        gpus.append(
            asdict(hardware.gpu)
            | {
                "slot": slot,
                "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{node}.gpu{index}.sim')}",
                "serial": _serial(node, index),
            }
        )
    switches = [
        NVSWITCH | {"slot": f"0000:{0xC1 + index:02x}:00.0"} for index in range(hardware.nvswitches)
    ]
    return {"node": node, "hardware": kind, "gpus": gpus, "nvswitches": switches}


def _serial(node: str, index: int) -> str:
    digest = hashlib.sha256(f"{node}/{index}".encode()).hexdigest()
    return "165" + f"{int(digest[:12], 16) % 10**10:010}"
