"""Broken hosts for the checks of tests/faulted/host.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.around import MEMORY_MIB, mount, port
from tests.broken import Case, both, said

Change = Callable[[dict[str, Any]], None]


def ports(*changed: dict[str, Any]) -> Change:
    """The first ports are these instead."""

    def change(parts: dict[str, Any]) -> None:
        found = parts["report"]["network"]["ports"]
        found[: len(changed)] = changed

    return change


def unrecorded(*changes: Change) -> Change:
    """The same, and the last good run knows nothing of what stands around the GPUs."""

    def forget(parts: dict[str, Any]) -> None:
        parts["record"].pop("ports")
        parts["record"].pop("host")

    return both(forget, *changes)


def uncounted(*changes: Change) -> Change:
    """Neither the inventory nor the last good run counts on any port."""
    return unrecorded(said("expected.network_ports", None), *changes)


def without(count: int) -> Change:
    """So many ports are gone altogether."""

    def change(parts: dict[str, Any]) -> None:
        del parts["report"]["network"]["ports"][:count]

    return change


DOWN = {"state": "DOWN", "phys_state": "Polling"}
NONE = said("report.network.ports", [])
STUCK = {"pid": 4711, "command": "python3", "where": "nfs_wait_bit_killable", "seconds": 400.0}


def stuck(*processes: dict[str, Any]) -> Change:
    return said("report.stuck.processes", list(processes))


def gpu_path(key: str, value: object) -> Change:
    return said(f"report.iommu.gpus.1.{key}", value)


def bridges(*found: bool | None) -> Change:
    return gpu_path(
        "bridges",
        [
            {
                "slot": f"0000:1{n}:00.0",
                "redirects": one,
                "error": "" if one is not None else "EPERM",
            }
            for n, one in enumerate(found)
        ],
    )


def logged(name: str, *lines: str) -> Change:
    return said(f"report.kernel_lines.{name}", [{"line": line, "count": 2} for line in lines])


UNREADABLE = both(
    said("report.kernel_lines.readable", False), said("report.kernel_lines.error", "no journal")
)
CLOSED = said("report.modules.flavour", "closed")
PANIC = "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400"
UE = "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0)"

MOUNTS = [
    Case(
        "host.mounts",
        said("report.mounts.0", mount("/data", mounted=False, error="nothing is mounted there")),
        "disk /data",
        action="drain",
        says="nothing is mounted",
    ),
    Case(
        "host.mounts",
        said("report.mounts.0", mount("/data", error="Stale file handle")),
        "disk /data",
        action="drain",
        says="Stale file handle",
    ),
    Case(
        "host.mounts",
        said("report.mounts.1", mount("/home", readonly=True)),
        "disk /home",
        action="drain",
        says="read-only",
    ),
    Case(
        "host.mounts",
        said(
            "report.mounts.0",
            mount("/data", mounted=None, hung=True, error="no answer after 8 s at: statvfs /data"),
        ),
        "disk /data",
        verdict="hung",
        action="drain",
        says="statvfs /data",
    ),
    Case(
        "host.mounts",
        said("report.mounts.0", mount("/data", mounted=None, error="Permission denied")),
        "disk /data",
        verdict="not-run",
        says="Permission denied",
    ),
    Case(
        "host.disk",
        said("report.disks.1.free_inodes", 1999),
        "disk /tmp",
        says="1999",
    ),
    Case("host.disk", said("report.disks.1.free_inodes", 7999), "disk /tmp", verdict="degraded"),
    Case(
        "host.disk",
        both(
            said("report.disks.0.free_mib", 600), said("asked.thresholds", {"disk.root-mib": 601.0})
        ),
        "disk /",
        says="600 MiB",
    ),
]

NETWORK = [
    Case(
        "network.ports",
        ports(port("mlx5_0", **DOWN)),
        "network mlx5_0/1",
        action="drain",
        says="DOWN, Polling",
    ),
    Case("network.ports", without(1), "network mlx5_0/1", action="drain", says="gone"),
    Case(
        "network.ports",
        unrecorded(ports(port("mlx5_0", state="INIT"))),
        "network mlx5_0/1",
        action="drain",
        says="INIT, LinkUp",
    ),
    Case("network.ports", unrecorded(without(2)), "network", action="drain", says="6 of 6"),
    Case("network.ports", unrecorded(NONE), "network", action="drain", says="0 of 0"),
    Case(
        "network.ports",
        ports(port("mlx5_0", rate_gbs=200.0, lanes=2)),
        "network mlx5_0/1",
        verdict="degraded",
        action="drain",
        says="200 Gb/s (2 lanes)",
    ),
    Case(
        "network.ports",
        uncounted(ports(port("mlx5_0", rate_gbs=200.0, lanes=4))),
        "network mlx5_0/1",
        verdict="degraded",
        action="drain",
        says="200 Gb/s",
    ),
    Case(
        "network.ports",
        both(said("report.network.error", "no answer after 8 s"), NONE),
        "network",
        verdict="not-run",
        says="no answer",
    ),
    Case(
        "network.flaps",
        ports(port("mlx5_0", link_downed=50)),
        "network mlx5_0/1",
        verdict="degraded",
        action="service",
        says="50 since boot, 5.0 in 24 h",
    ),
    Case(
        "network.flaps",
        both(said("report.network.uptime_s", 600.0), ports(port("mlx5_0", link_downed=5))),
        "network mlx5_0/1",
        verdict="degraded",
        action="service",
        says="5 since boot",
    ),
    Case(
        "network.flaps",
        ports(port("mlx5_0", link_layer="Ethernet", link_downed=None, carrier_lost=51)),
        "network mlx5_0/1",
        verdict="degraded",
        action="service",
        says="51 since boot",
    ),
    Case(
        "network.flaps",
        ports(port("mlx5_0", symbol_errors=350_000)),  # 400 Gb/s for ten days: 345,600 at 1e-12
        "network mlx5_0/1",
        verdict="degraded",
        action="service",
        says="350000 since boot",
    ),
    Case(
        "network.flaps",
        ports(port("mlx5_0", link_downed=None)),
        "network mlx5_0/1",
        verdict="not-run",
    ),
    Case("network.peermem", CLOSED, "network", verdict="degraded", says="closed modules"),
    Case(
        "network.peermem",
        said("report.kernel.running", "5.4.0-216-generic"),
        "network",
        verdict="degraded",
        says="kernel 5.4.0",
    ),
    Case(
        "network.peermem",
        said("report.kernel.running", "4.18.0-553.el8_10.x86_64"),
        "network",
        verdict="not-run",
    ),
    Case(
        "network.peermem", said("report.modules.flavour", "unknown"), "network", verdict="not-run"
    ),
]

SYSTEM = [
    Case("host.iommu", bridges(False, True), "gpu 1", verdict="degraded", says="0000:11:00.0"),
    Case("host.iommu", gpu_path("domain", "DMA-FQ"), "gpu 1", verdict="degraded", says="DMA-FQ"),
    Case("host.iommu", bridges(False, None), "gpu 1", verdict="not-run", says="EPERM"),
    Case("host.iommu", gpu_path("domain", ""), "gpu 1", verdict="not-run", says="5.11"),
    Case("host.iommu", said("report.iommu.gpus", []), "host", verdict="not-run"),
    Case("host.iommu", said("report.host.virtual", None), "host", verdict="not-run"),
    Case(
        "host.time",
        said("report.clock.synchronised", False),
        "host",
        verdict="degraded",
        says="not synchronised",
    ),
    Case("host.time", said("report.clock.synchronised", None), "host", verdict="not-run"),
    Case(
        "host.clocksource",
        said("report.clock.source", "hpet"),
        "host",
        verdict="degraded",
        action="reboot",
        says="hpet",
    ),
    Case("host.clocksource", said("report.clock.source", ""), "host", verdict="not-run"),
    Case(
        "host.governor",
        said("report.processors.governors", {"performance": 191, "powersave": 1}),
        "host",
        verdict="degraded",
        says="powersave on 1",
    ),
    Case(
        "host.governor",
        both(said("report.processors.governors", {}), said("report.processors.error", "exit 125")),
        "host",
        verdict="not-run",
    ),
    Case(
        "host.memory",
        said("report.processors.memory_mib", int(MEMORY_MIB * 31 / 32)),
        "host",
        action="service",
        says="MiB",
    ),
    Case("host.memory", said("report.processors.count", 191), "host", action="service", says="191"),
    Case("host.memory", said("report.processors.memory_mib", None), "host", verdict="not-run"),
    Case("host.memory", said("report.processors.count", None), "host", verdict="not-run"),
    Case(
        "host.stuck",
        stuck({**STUCK, "command": "nvidia-smi"}),
        "host",
        action="reboot",
        says="nvidia-smi (pid 4711) for 400 s in nfs_wait",
    ),
    Case("host.stuck", stuck(STUCK), "host", verdict="degraded", action="reboot", says="python3"),
    Case(
        "host.stuck",
        both(
            stuck({**STUCK, "seconds": None}),
            said("report.kernel_lines.hung", [{"command": "python3", "pid": 4711, "seconds": 362}]),
        ),
        "host",
        verdict="degraded",
        action="reboot",
        says="362 s",
    ),
    Case("host.stuck", stuck({**STUCK, "seconds": None}), "host", verdict="not-run"),
    Case("host.stuck", said("report.stuck.error", "no answer"), "host", verdict="not-run"),
    Case("host.kernel-log", UNREADABLE, "host", verdict="degraded", says="no journal"),
    Case(
        "host.kernel-log",
        both(UNREADABLE, said("report.host.root", False)),
        "host",
        verdict="not-run",
    ),
    Case(
        "host.machine-check",
        both(
            said("report.memory_errors.controllers.0.uncorrected", 1),
            said("report.memory_errors.controllers.0.modules", [{"label": "A1", "uncorrected": 1}]),
        ),
        "host mc0",
        action="service",
        says="1",
    ),
    Case("host.machine-check", logged("hardware", PANIC), "host", action="service", says="stopped"),
    Case(
        "host.machine-check", logged("hardware", UE), "host", action="service", says="uncorrected"
    ),
    Case(
        "host.machine-check",
        said("report.memory_errors.controllers.0.uncorrected", None),
        "host mc0",
        verdict="not-run",
    ),
    Case("host.machine-check", UNREADABLE, "host", verdict="not-run", because="host.kernel-log"),
    Case(
        "host.machine-check",
        said("report.memory_errors.error", "no answer"),
        "host",
        verdict="not-run",
    ),
]

CASES: list[Case] = [*MOUNTS, *NETWORK, *SYSTEM]
