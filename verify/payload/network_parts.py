"""Ports of InfiniBand, RoCE and EFA, and GPUDirect RDMA: a part of the report.

All from sysfs, as the kernel's RDMA subsystem shows it (Documentation/ABI/stable/
sysfs-class-infiniband): no tool of OFED is needed, and no root.
"""

from __future__ import annotations

import os
import re
from typing import Any

from verify.payload.reading import names_in, number_of, text_of

CLASS = "/sys/class/infiniband"
PEERMEM = (
    "/sys/module/nvidia_peermem/version",
    "/sys/kernel/mm/memory_peers/nv_mem/version",
    "/sys/kernel/mm/memory_peers/nv_mem_nc/version",
)
"""Where NCCL looks whether a module hands the GPU's memory to network cards (ncclIbGdrSupport in
NCCL's src/transport/net_ib.cc): the driver's own module, and the older ones of Mellanox."""
RATE = re.compile(r"(\d+(?:\.\d+)?) Gb/sec(?: \((\d+)X ?([A-Z0-9]*)\))?")
"""As `400 Gb/sec (4X NDR)`: the link's rate now, its lanes, the generation of its speed."""
MOST_PORTS = 128


def network(root: str = CLASS, modules: tuple[str, ...] = PEERMEM) -> dict[str, Any]:
    """Every port there is, and whether a module for GPUDirect RDMA is loaded."""
    found: list[dict[str, Any]] = []
    for device in names_in(root):
        for number in names_in(f"{root}/{device}/ports"):
            if len(found) < MOST_PORTS:
                found.append(port(f"{root}/{device}", device, number))
    return {
        "ports": found,
        "peermem": any(os.path.exists(one) for one in modules),
        "uptime_s": uptime(),
        "error": "",
    }


def port(folder: str, device: str, number: str) -> dict[str, Any]:
    """One port; what could not be read is None or ""."""
    place = f"{folder}/ports/{number}"
    rate = RATE.match(text_of(f"{place}/rate"))
    netdev = _netdev(f"{folder}/device/net", number)
    driver = f"{folder}/device/driver"
    slot = os.path.basename(os.path.realpath(f"{folder}/device"))
    lost = number_of(f"{folder}/device/net/{netdev}/carrier_down_count") if netdev else None
    return {
        "device": device,
        "port": number,
        "slot": slot if slot.count(":") == 2 else "",
        "model": _model(folder),
        "driver": os.path.basename(os.readlink(driver)) if os.path.islink(driver) else "",
        "link_layer": text_of(f"{place}/link_layer"),
        "state": _word(text_of(f"{place}/state")),
        "phys_state": _word(text_of(f"{place}/phys_state")),
        "rate_gbs": float(rate[1]) if rate else None,
        "lanes": int(rate[2]) if rate and rate[2] else None,
        "netdev": netdev,
        "carrier_lost": lost,
        "link_downed": number_of(f"{place}/counters/link_downed"),
        "link_error_recovery": number_of(f"{place}/counters/link_error_recovery"),
        "symbol_errors": number_of(f"{place}/counters/symbol_error"),
    }


def _netdev(folder: str, number: str) -> str:
    """The network interface of a port, "" without one: cards of two ports show both."""
    for one in names_in(folder):
        place = number_of(f"{folder}/{one}/dev_port")
        if place is None or str(place + 1) == number:
            return one
    return ""


def _model(folder: str) -> str:
    """Vendor and device id: ports of one model are siblings."""
    ids = (text_of(f"{folder}/device/{name}").removeprefix("0x") for name in ("vendor", "device"))
    return ":".join(ids)


def _word(text: str) -> str:
    """`4: ACTIVE` -> ACTIVE."""
    return text.partition(":")[2].strip() if ":" in text else text


def uptime() -> float | None:
    """Seconds since boot."""
    try:
        return float(text_of("/proc/uptime").split()[0])
    except (ValueError, IndexError):
        return None
