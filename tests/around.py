"""What a report says of the host around its GPUs when all is well (parts of tests/reported.py)."""

from __future__ import annotations

from typing import Any

CPUS, MEMORY_MIB = 192, 2_063_000


def port(device: str, **changes: Any) -> dict[str, Any]:
    """An InfiniBand port at 400 Gb/s."""
    values = {
        "device": device,
        "port": "1",
        "slot": "0000:18:00.0",
        "model": "15b3:1021",
        "driver": "mlx5_core",
        "link_layer": "InfiniBand",
        "state": "ACTIVE",
        "phys_state": "LinkUp",
        "rate_gbs": 400.0,
        "lanes": 4,
        "netdev": "",
        "carrier_lost": None,
        "link_downed": 1,
        "link_error_recovery": 0,
        "symbol_errors": 0,
    }
    return {**values, **changes}


def report(hardware: str, gpus: list[str], root: bool = True) -> dict[str, Any]:
    """The parts that test_network.py and test_system.py read; `gpus` are slots."""
    ports = [port(f"mlx5_{n}") for n in range(8)] if hardware == "hgx-h100" else []
    bridge = {"slot": "0000:15:01.0", "redirects": False, "error": ""}
    return {
        "network": {"ports": ports, "peermem": False, "uptime_s": 864_000.0, "error": ""},
        "clock": {"synchronised": True, "asked": "timedatectl", "source": "tsc", "error": ""},
        "processors": {
            "count": CPUS,
            "memory_mib": MEMORY_MIB,
            "governors": {"performance": CPUS},
            "error": "",
        },
        "memory_errors": {
            "controllers": [{"name": "mc0", "uncorrected": 0, "corrected": 3, "modules": []}],
            "error": "",
        },
        "stuck": {"processes": [], "error": ""},
        "iommu": {
            "gpus": [
                {"slot": slot, "domain": "identity", "bridges": [dict(bridge)]} for slot in gpus
            ],
            "error": "",
        },
        "kernel_lines": {
            "readable": True,
            "errors": [],
            "hardware": [],
            "hung": [],
            "cut": False,
            "error": "",
        },
        "mounts": [mount("/data"), mount("/home")],
    }


def mount(path: str, **changes: Any) -> dict[str, Any]:
    """A mount point that answers."""
    values = {
        "path": path,
        "mounted": True,
        "type": "nfs4",
        "source": f"filer:{path}",
        "readonly": False,
        "error": "",
        "hung": False,
    }
    return {**values, **changes}


def record(hardware: str) -> dict[str, Any]:
    """What the record of the last good run keeps of it."""
    names = ("device", "port", "link_layer", "rate_gbs")
    ports = report(hardware, [])["network"]["ports"]
    return {
        "host": {"cpus": CPUS, "memory_mib": MEMORY_MIB},
        "ports": [{name: one[name] for name in names} for one in ports],
    }
