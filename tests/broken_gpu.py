"""Broken hosts for the checks of tests/faulted/gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.broken import Case, both, gpu, lost, no_fabric, said, silent, xid

LOST: dict[str, Any] = {"verdict": "not-run", "because": "gpu.answers"}
CHANGED = "NVRM: Xid (PCI:0000:2a:00): 154, GPU recovery action changed from 0x0 (None) to 0x"


def broken(field: str, value: object = None) -> Callable[[dict[str, Any]], None]:
    """A value of GPU 1 that could not be read."""
    return both(gpu(field, value), gpu("errors", {field: "Unknown Error (NVML error 999)"}))


def sxid(code: int, fatal: bool | None) -> Callable[[dict[str, Any]], None]:
    """An event of the first NVSwitch in the kernel log."""

    def change(parts: dict[str, Any]) -> None:
        slot = parts["report"]["pci"]["nvswitches"][0]
        word = {True: "Fatal, ", False: "Non-fatal, ", None: ""}[fatal]
        line = f"nvidia-nvswitch0: SXid (PCI:{slot}): {code}, {word}Link 30"
        parts["report"]["log"]["sxids"] = [
            {"slot": slot, "code": code, "time": "12:00", "line": line, "fatal": fatal}
        ]

    return change


def told(code: int, line: str) -> Callable[[dict[str, Any]], None]:
    """An Xid of GPU 1 whose line says more than its code."""

    def change(parts: dict[str, Any]) -> None:
        xid(code)(parts)
        parts["report"]["log"]["xids"][0]["line"] = line

    return change


def links(up: int, index: int = 1) -> Callable[[dict[str, Any]], None]:
    """A GPU has fewer links up."""

    def change(parts: dict[str, Any]) -> None:
        found = parts["report"]["nvml"]["gpus"][index]["nvlinks"]
        found["up"], found["down"] = up, list(range(up, found["count"]))

    return change


def every(change: Callable[[int], Callable[[dict[str, Any]], None]]) -> Callable[..., None]:
    """The same of every GPU."""

    def all_of_them(parts: dict[str, Any]) -> None:
        for index in range(len(parts["report"]["nvml"]["gpus"])):
            change(index)(parts)

    return all_of_them


def held(slurm: bool | None, jobs: list[dict[str, str]] | None = None) -> Callable[..., None]:
    """A process of trainer is on GPU 1, and this is what Slurm says."""
    process = {"pid": 77, "user": "trainer", "command": "python3", "gpus": [1]}
    return both(
        said("report.holders.processes", [process]),
        said("report.holders.slurm", slurm),
        said("report.holders.jobs", jobs or []),
    )


CASES: list[Case] = [
    Case("gpu.recovery", gpu("recovery_action", 1), "gpu 1", action="reset", says="reset"),
    Case("gpu.recovery", gpu("recovery_action", 3), "gpu 1", action="drain", says="peer"),
    Case("gpu.recovery", gpu("recovery_action", 9), "gpu 1", action="drain", says="9"),
    Case(
        "gpu.recovery",
        both(gpu("recovery_action", 1), gpu("remap.pending", True)),
        "gpu 1",
        action="reset",
        because="gpu.remap-pending",
    ),
    Case(
        "gpu.recovery",
        both(gpu("recovery_action", 1), gpu("sram.threshold_exceeded", True)),
        "gpu 1",
        action="reset",
        because="gpu.sram",
    ),
    Case(
        "gpu.recovery",
        both(gpu("recovery_action", 2), xid(48)),
        "gpu 1",
        action="reboot",
        because="gpu.xid",
    ),
    Case("gpu.recovery", broken("recovery_action"), "gpu 1", "not-run", says="Unknown"),
    Case("gpu.recovery", lost, "gpu 1", **LOST),
    Case("gpu.sram", gpu("sram.threshold_exceeded", True), "gpu 1", action="service", says="yes"),
    Case("gpu.sram", gpu("sram.uncorrected_ever", 5), "gpu 1", action="service", says="5"),
    Case("gpu.sram", broken("sram"), "gpu 1", "not-run", says="Unknown"),
    Case("gpu.sram", lost, "gpu 1", **LOST),
    Case(
        "gpu.xid",
        both(told(154, f"{CHANGED}2 (Node Reboot Required)"), gpu("recovery_action", 2)),
        "gpu 1",
        action="reboot",
        because="gpu.recovery",
    ),
    Case(
        "gpu.xid",
        both(told(154, f"{CHANGED}1 (GPU Reset Required)"), gpu("recovery_action", None)),
        "gpu 1",
        action="reset",
        says="once",
    ),
    Case(
        "gpu.xid",
        told(149, "NVRM: Xid (PCI:0000:2a:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x0)"),
        "gpu 1",
        action="reset",
    ),
    Case("gpu.xid", xid(149), "gpu 1", "degraded"),
    Case("gpu.sxid", sxid(20034, True), "fabric NVSwitch", action="reset", says="once"),
    Case("gpu.sxid", sxid(20034, None), "fabric NVSwitch", action="reset"),
    Case("gpu.sxid", sxid(11012, True), "fabric NVSwitch", action="reboot"),
    Case("gpu.sxid", sxid(20001, False), "fabric NVSwitch", "degraded"),
    Case("gpu.sxid", sxid(99999, False), "fabric NVSwitch", "degraded", action="drain"),
    Case("gpu.sxid", sxid(99999, True), "fabric NVSwitch", action="reboot"),
    Case(
        "gpu.sxid",
        said("report.log.readable", False),
        "host",
        "not-run",
        because="host.kernel-log",
    ),
    Case("gpu.clocks", gpu("clocks.reasons", 0x89), "gpu 1", action="drain", says="hardware slow"),
    Case("gpu.clocks", gpu("clocks.reasons", 0x48), "gpu 1", action="drain", says="thermal"),
    Case("gpu.clocks", gpu("clocks.reasons", 0x80), "gpu 1", action="drain", says="brake"),
    Case("gpu.clocks", gpu("clocks.reasons", 0x24), "gpu 1", "degraded", says="software thermal"),
    Case(
        "gpu.clocks",
        both(gpu("clocks.reasons", 0x48), gpu("heat.gpu", 90)),
        "gpu 1",
        action="drain",
        because="gpu.temperature",
    ),
    Case("gpu.clocks", broken("clocks.reasons"), "gpu 1", "not-run"),
    Case("gpu.clocks", lost, "gpu 1", **LOST),
    Case("gpu.temperature", gpu("heat.gpu", 87), "gpu 1", action="drain", says="87 C"),
    Case("gpu.temperature", gpu("heat.gpu", 85), "gpu 1", "degraded", action="drain"),
    Case("gpu.temperature", gpu("heat.memory", 95), "gpu 1", action="drain", says="95 C"),
    Case("gpu.temperature", gpu("heat.margin", 0), "gpu 1", action="drain", says="0 C below"),
    Case("gpu.temperature", gpu("heat.margin", 2), "gpu 1", "degraded", action="drain"),
    Case("gpu.temperature", gpu("heat.margin", -1), "gpu 1", action="drain", says="1 C above"),
    Case("gpu.temperature", broken("heat.gpu"), "gpu 1", "not-run"),
    Case("gpu.temperature", broken("heat.slowdown"), "gpu 1", "not-run"),
    Case("gpu.temperature", lost, "gpu 1", **LOST),
    Case("gpu.power", gpu("power.enforced", 500.0), "gpu 1", "degraded", says="500 W"),
    Case(
        "gpu.power",
        both(
            every(lambda index: gpu("power.enforced", 600.0, index)),
            said("expected.power_limit", 600),
            gpu("power.enforced", 700.0),
        ),
        "gpu 1",
        "degraded",
        says="700 W",
    ),
    Case("gpu.power", broken("power.enforced"), "gpu 1", "not-run"),
    Case("gpu.power", lost, "gpu 1", **LOST),
    Case("gpu.pcie-gen", gpu("pcie.gen_max", 3), "gpu 1", "degraded", "service", says="3"),
    Case(
        "gpu.pcie-gen",
        both(gpu("pcie.gen_max", 3), gpu("bus.port_gen_max", 4)),
        "gpu 1",
        "degraded",
        "service",
    ),
    Case("gpu.pcie-gen", broken("pcie.gen_max"), "gpu 1", "not-run"),
    Case(
        "gpu.pcie-gen",
        both(gpu("pcie.gen_gpu", None), gpu("bus.gen_max", None)),
        "gpu 1",
        "not-run",
    ),
    Case("gpu.pcie-gen", lost, "gpu 1", **LOST),
    Case("gpu.pcie-errors", gpu("bus.aer.fatal", {"DLP": 1}), "gpu 1", action="service"),
    Case(
        "gpu.pcie-errors",
        gpu("bus.aer.nonfatal", {"MalfTLP": 2, "UnsupReq": 9}),
        "gpu 1",
        action="service",
        says="MalfTLP 2",
    ),
    Case("gpu.pcie-errors", gpu("pcie.replays", 4801), "gpu 1", "degraded", "service", "4801"),
    Case("gpu.pcie-errors", gpu("bus.aer.fatal", None), "gpu 1", "not-run"),
    Case(
        "gpu.pcie-errors",
        both(gpu("pcie.replays", 1), said("report.nvml.uptime_s", None)),
        "gpu 1",
        "not-run",
    ),
    Case("gpu.pcie-errors", broken("pcie.replays"), "gpu 1", "not-run"),
    Case("gpu.pcie-errors", lost, "gpu 1", **LOST),
    Case("gpu.nvlink", links(17), "gpu 1", action="reboot", says="17"),
    Case("gpu.nvlink", links(0), "gpu 1", action="reboot", says="0"),
    Case(
        "gpu.nvlink",
        every(lambda index: links(0, index)),
        "gpu 0, gpu 1, gpu 2, gpu 3",
        action="reboot",
        hardware="v100",
    ),
    Case("gpu.nvlink", links(5), "gpu 1", action="reboot", hardware="v100"),
    Case(
        "gpu.nvlink",
        links(17),
        "gpu 1",
        action="reboot",
        because="fabric.manager",
        there=no_fabric,
    ),
    Case("gpu.nvlink", both(links(17), gpu("mig", True)), "gpu 1", "not-run", because="gpu.mig"),
    Case("gpu.nvlink", broken("nvlinks"), "gpu 1", "not-run"),
    Case("gpu.nvlink", lost, "gpu 1", **LOST),
    Case(
        "gpu.nvlink-errors",
        gpu("nvlinks.errors.recovery", {"3": 2}),
        "gpu 1",
        "degraded",
        "drain",
        says="2 on link 3",
    ),
    Case("gpu.nvlink-errors", gpu("nvlinks.errors.replay", {"0": 1}), "gpu 1", "degraded", "drain"),
    Case(
        "gpu.nvlink-errors",
        gpu("nvlinks.errors.crc_data", {"0": 3_600_001, "1": 3_600_000}),
        "gpu 1",
        "degraded",
        "drain",
        says="3600001 on link 0",
    ),
    Case(
        "gpu.nvlink-errors",
        both(
            gpu("nvlinks.errors.replay", None), gpu("errors", {"nvlinks.replay": "Unknown Error"})
        ),
        "gpu 1",
        "not-run",
    ),
    Case(
        "gpu.nvlink-errors",
        both(gpu("nvlinks.errors.crc_flit", {"0": 1}), said("report.nvml.uptime_s", None)),
        "gpu 1",
        "not-run",
    ),
    Case("gpu.nvlink-errors", lost, "gpu 1", **LOST),
    Case("fabric.health", gpu("fabric.health", 0x1A9), "gpu 1", "degraded", "drain", "bandwidth"),
    Case("fabric.health", gpu("fabric.health", 0x1A6), "gpu 1", "degraded", "drain", "routes"),
    Case("fabric.health", gpu("fabric.health", 0x19A), "gpu 1", action="reset", says="unhealthy"),
    Case("fabric.health", gpu("fabric.health", 0x16A), "gpu 1", action="reset", says="timed out"),
    Case("fabric.health", gpu("fabric.health", 0x5AA), "gpu 1", action="reset", says="few NVL"),
    Case("fabric.health", gpu("fabric.health", 0xFAA), "gpu 1", action="reset", says="(15)"),
    Case("fabric.health", gpu("fabric.summary", 3), "gpu 1", "degraded", "drain", "limited"),
    Case(
        "fabric.health",
        both(gpu("fabric.health", 0), gpu("fabric.summary", 0)),
        "gpu 1",
        "not-run",
        says="nothing",
    ),
    Case("fabric.health", gpu("fabric.state", 2), "gpu 1", "not-run", because="fabric.manager"),
    Case("fabric.health", broken("fabric"), "gpu 1", "not-run"),
    Case("fabric.health", silent("hung"), "host", "not-run", because="nvml.answers"),
    Case("fabric.health", lost, "gpu 1", **LOST),
    Case("gpu.compute-mode", gpu("compute_mode", 2), "gpu 1", says="prohibited"),
    Case("gpu.compute-mode", gpu("compute_mode", 3), "gpu 1", "degraded", says="one process"),
    Case("gpu.compute-mode", gpu("compute_mode", 9), "gpu 1", "degraded", says="mode 9"),
    Case("gpu.compute-mode", broken("compute_mode"), "gpu 1", "not-run"),
    Case("gpu.compute-mode", lost, "gpu 1", **LOST),
    Case("gpu.leaked", gpu("memory.used_mib", 16), "gpu 1", "degraded", "reset", says="16 MiB"),
    Case("gpu.leaked", held(True), "gpu 1", "degraded", "drain", says="python3 (pid 77)"),
    Case(
        "gpu.leaked",
        both(gpu("processes", [{"pid": 5, "mib": 9}]), said("report.holders.slurm", True)),
        "gpu 1",
        "degraded",
        "drain",
        says="pid 5",
    ),
    Case(
        "gpu.leaked",
        both(held(None), said("report.holders.error", "squeue: no controller")),
        "host",
        "not-run",
        says="squeue",
    ),
    Case("gpu.leaked", gpu("mig", True), "gpu 1", "not-run", because="gpu.mig"),
    Case("gpu.leaked", broken("memory"), "gpu 1", "not-run"),
    Case("gpu.leaked", lost, "gpu 1", **LOST),
]
