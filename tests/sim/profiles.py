"""Hardware of simulated nodes: PCI functions as on the real boards, identities fixed per node.

PCI ids: the pci.ids list (10de:2330 H100 SXM5 80GB, 10de:26b9 L40S with its audio function 22ba,
10de:1db5 Tesla V100 SXM2 32GB, 1a03:2000 ASPEED, 8086:1563 X550); the NVSwitch of H100 boards,
10de:22a3: research, provisioning 2.8 and the PCI table of 2.4.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU model as PCI and NVML show it."""

    device: str
    subsystem: str
    name: str
    memory_mib: int
    compute: tuple[int, int]
    pcie_gen: int
    audio: str | None = None


@dataclass(frozen=True)
class Hardware:
    """What stands in one node."""

    gpu: Gpu | None
    gpus: int
    nvswitches: int
    beside: tuple[Gpu, ...] = ()
    """GPUs of other models in the same node."""
    network_ports: int = 0
    """Of InfiniBand, at 400 Gb/s."""


H100 = Gpu("0x2330", "0x16c1", "NVIDIA H100 80GB HBM3", 81559, (9, 0), 5)
L40S = Gpu("0x26b9", "0x1851", "NVIDIA L40S", 46068, (8, 9), 4, audio="0x22ba")
V100 = Gpu("0x1db5", "0x1249", "Tesla V100-SXM2-32GB", 32768, (7, 0), 3)
B200 = Gpu("0x2901", "0x1999", "NVIDIA B200", 183359, (10, 0), 5)

HARDWARE = {
    "hgx-h100": Hardware(H100, 8, 4, network_ports=8),
    "l40s": Hardware(L40S, 2, 0),
    "v100": Hardware(V100, 4, 0),
    "v100-b200": Hardware(V100, 1, 0, beside=(B200,)),  # no driver knows both
    "none": Hardware(None, 0, 0),
}

FLEETS = {
    "demo": {"h100-01": "hgx-h100", "h100-02": "hgx-h100", "l40s-01": "l40s", "v100-01": "v100"},
    "tests": {"h100-01": "hgx-h100", "l40s-01": "l40s", "v100-01": "v100", "cpu-01": "none"},
    "eight": {f"h100-{i:02}": "hgx-h100" for i in range(1, 9)},
    "mixed": {
        "h100-01": "hgx-h100",
        "l40s-01": "l40s",
        "v100-01": "v100",
        "cpu-01": "none",
        "el-01": "l40s@rhel9",
        "ubuntu-01": "hgx-h100@ubuntu2404",
        "odd-01": "v100-b200",
    },
}
"""Fleets by profile name: node name to hardware, and @system where it is not Debian 12."""


def describe(node: str, kind: str) -> dict[str, Any]:
    """Return `/etc/sim/hardware.json` of a node: its PCI functions, and its GPUs as NVML sees them.

    Every server also has a management controller that is a VGA device, and a network card: what
    counts GPUs must not count those.
    """
    hardware = HARDWARE[kind]
    pci = [
        _function("0000:02:00.0", "0x1a03", "0x2000", "0x030000", "0x1a03", "0x2000"),
        _function("0000:05:00.0", "0x8086", "0x1563", "0x020000", "0x8086", "0x0001"),
    ]
    gpus = []
    boards = (*((hardware.gpu,) * hardware.gpus), *hardware.beside)
    for index, gpu in enumerate(boards):
        assert gpu is not None
        # Bus numbers as wide apart as on boards where switches sit between the GPUs.
        bus = f"0000:{0x1A + index * 0x10:02x}:00"
        sub = ("0x10de", gpu.subsystem)
        pci.append(_function(f"{bus}.0", "0x10de", gpu.device, "0x030200", *sub))
        if gpu.audio:
            pci.append(_function(f"{bus}.1", "0x10de", gpu.audio, "0x040300", *sub))
        gpus.append(
            {
                "slot": f"{bus}.0",
                "name": gpu.name,
                "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{node}.gpu{index}.sim')}",
                "serial": _serial(node, index),
                "memory_mib": gpu.memory_mib,
                "compute": gpu.compute,
                "pcie_gen": gpu.pcie_gen,
                "pcie_width": 16,
            }
        )
    for index in range(hardware.nvswitches):
        slot = f"0000:{0xC1 + index:02x}:00.0"
        pci.append(_function(slot, "0x10de", "0x22a3", "0x068000", "0x10de", "0x1796"))
    ports = hardware.network_ports
    return {"node": node, "hardware": kind, "pci": pci, "gpus": gpus, "network_ports": ports}


def _function(
    slot: str, vendor: str, device: str, pci_class: str, sub_vendor: str, sub_device: str
) -> dict[str, str]:
    return {
        "slot": slot,
        "vendor": vendor,
        "device": device,
        "class": pci_class,
        "subsystem_vendor": sub_vendor,
        "subsystem_device": sub_device,
        "revision": "0xa1" if vendor == "0x10de" else "0x01",
    }


def _serial(node: str, index: int) -> str:
    digest = hashlib.sha256(f"{node}/{index}".encode()).hexdigest()
    return "165" + f"{int(digest[:12], 16) % 10**10:010}"
