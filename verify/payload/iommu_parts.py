"""What stands between GPUs on the PCI bus: translation by the IOMMU, redirection by bridges.

Direct copies between devices are slow, hang or arrive damaged where a bridge sends them up to the
root complex (Access Control Services) or an IOMMU translates them: NVIDIA, NCCL User Guide,
Troubleshooting, "PCI Access Control Services (ACS)"; pytorch/pytorch issue 84803;
NVIDIA/nccl issue 2079.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from verify.payload.reading import first, text_of

DEVICES = "/sys/bus/pci/devices"
BRIDGE = "0604"
"""PCI class of a PCI-to-PCI bridge; root ports and ports of switches are such."""
SECONDARY, SUBORDINATE = 0x19, 0x1A
"""Offsets in a bridge's configuration space: the first and the last bus below it (PCI-to-PCI
Bridge Architecture Specification, type 1 header)."""
EXTENDED = 0x100
"""Where the list of PCI Express extended capabilities begins; only root may read that far."""
ACS = 0x000D
"""Id of the ACS extended capability; its control register is 6 bytes in (PCI Express Base
Specification, 7.7.11; linux/pci_regs.h PCI_EXT_CAP_ID_ACS, PCI_ACS_CTRL)."""
REDIRECTS = 0x0004 | 0x0008
"""PCI_ACS_RR and PCI_ACS_CR: requests and completions of peers are sent up to the root complex."""
MOST_STEPS = 64


def iommu(slots: list[str] | None = None, root: str = DEVICES) -> dict[str, Any]:
    """For each NVIDIA GPU: how its addresses are translated, and the bridges above it."""
    bridges = {slot: one for slot in sorted(os.listdir(root)) if (one := _bridge(root, slot))}
    found = []
    for slot in slots if slots is not None else _gpus(root):
        bus = _bus(slot)
        above = [
            {"slot": name, "redirects": one["redirects"], "error": one["error"]}
            for name, one in bridges.items()
            if name[:4] == slot[:4] and one["from"] <= bus <= one["to"]
        ]
        found.append({"slot": slot, "domain": _domain(f"{root}/{slot}"), "bridges": above})
    return {"gpus": found, "error": ""}


def _gpus(root: str) -> list[str]:
    return [
        slot
        for slot in sorted(os.listdir(root))
        if text_of(f"{root}/{slot}/vendor") == "0x10de"
        and text_of(f"{root}/{slot}/class").startswith("0x03")
    ]


def _domain(device: str) -> str:
    """`none` without an IOMMU, else the kind of its group's domain: `identity` passes addresses
    through, DMA and DMA-FQ translate (Documentation/ABI/testing/sysfs-kernel-iommu_groups); ""
    when a kernel before 5.11 does not say."""
    if not os.path.exists(f"{device}/iommu_group"):
        return "none"
    return first(text_of(f"{device}/iommu_group/type"), "")


def _bus(slot: str) -> int:
    return int(slot.split(":")[1], 16)


def _bridge(root: str, slot: str) -> dict[str, Any] | None:
    """The buses below a bridge and whether it redirects; None for what is no bridge."""
    device = f"{root}/{slot}"
    if text_of(f"{device}/class").removeprefix("0x")[:4] != BRIDGE:
        return None
    try:
        with open(f"{device}/config", "rb") as file:
            space = file.read(4096)
    except OSError as error:
        return {"from": 0, "to": 255, "redirects": None, "error": f"{error.strerror}"}
    if len(space) < 64:
        return {"from": 0, "to": 255, "redirects": None, "error": "it has no configuration space"}
    below = {"from": space[SECONDARY], "to": space[SUBORDINATE]}
    if len(space) <= EXTENDED:
        # 64 bytes for who is not root; 256 for a bridge without extended capabilities.
        short = len(space) < 256
        why = "only root reads its capabilities" if short else ""
        return {**below, "redirects": None if short else False, "error": why}
    return {**below, "redirects": _redirects(space), "error": ""}


def _redirects(space: bytes) -> bool:
    """Whether the bridge's ACS control register has a redirection on; False without ACS."""
    offset = EXTENDED
    for _ in range(MOST_STEPS):
        if offset < EXTENDED or offset + 8 > len(space):
            return False
        (header,) = struct.unpack_from("<I", space, offset)
        if header & 0xFFFF == ACS:
            (control,) = struct.unpack_from("<H", space, offset + 6)
            return bool(control & REDIRECTS)
        offset = header >> 20
    return False
