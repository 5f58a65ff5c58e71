"""The host around its GPUs: bus, clock, processors, memory, stuck processes, the kernel's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify import kernel_lines
from verify.applies import NEEDS, Scene
from verify.checks import HOST, Component, Look, check

SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit", "hyperv_clocksource_msr")
"""Sources that cost microseconds a reading, or count in ticks; any other is the platform's own:
tsc, kvm-clock, hyperv_clocksource_tsc_page, arch_sys_counter (Linux, kernel/time/clocksource.c)."""
TRANSLATED = ("DMA", "DMA-FQ")
"""Domains in which an IOMMU translates (Linux, sysfs-kernel-iommu_groups)."""
DRIVERS_OWN = ("nvidia", "nv-", "nv_", "UVM")
"""How the driver's tools, services and kernel threads are named (gpud, components/os)."""
MOST_INFORMED = 12


@check(
    "host.iommu",
    component="gpu",
    verdict="degraded",
    needs=("gpus", "peers", "bare-metal"),
    source="NVIDIA, NCCL User Guide, Troubleshooting: PCI Access Control Services; "
    "pytorch/pytorch issue 84803, NVIDIA/nccl issue 2079",
    fault="acs:3",
)
def test_iommu(report: dict[str, Any], look: Look) -> None:
    """Nothing above a GPU redirects or translates what devices send each other directly."""
    found = report["iommu"]
    if found["error"] or not found["gpus"]:
        look.unknown(HOST, "the way between devices", why=found["error"] or "no GPU is on the bus")
        return
    for gpu in found["gpus"]:
        part = Component(kind="gpu", slot=gpu["slot"])
        part = _named(part, report)
        if gpu["domain"]:
            look.at(
                part,
                "translation by an IOMMU",
                found=gpu["domain"],
                expected="none, or identity; `iommu=pt` on the kernel's command line makes it so "
                "(Arm: iommu.passthrough=1)",
                held=gpu["domain"] not in TRANSLATED,
                verdict="degraded",
            )
        else:
            look.unknown(part, "translation by an IOMMU", why="a kernel before 5.11 does not say")
        unread = [one for one in gpu["bridges"] if one["redirects"] is None]
        redirects = [one["slot"] for one in gpu["bridges"] if one["redirects"]]
        if redirects or not unread:
            look.at(
                part,
                "bridges above it that redirect peers (ACS)",
                found=redirects,
                expected="none; the firmware's setup switches ACS off",
                held=not redirects,
                verdict="degraded",
            )
        else:
            why = f"{unread[0]['slot']}: {unread[0]['error'] or 'it could not be read'}"
            look.unknown(part, "bridges above it that redirect peers (ACS)", why=why)


def _named(part: Component, report: dict[str, Any]) -> Component:
    """The GPU at a slot with what NVML knows of it."""
    for gpu in report["nvml"]["gpus"]:
        if gpu["slot"] == part.slot:
            return Component(
                kind="gpu",
                name=gpu["name"] or "",
                index=gpu["index"],
                uuid=gpu["uuid"] or "",
                serial=gpu["serial"] or "",
                slot=part.slot,
            )
    return part


@check(
    "host.time",
    verdict="degraded",
    source="adjtimex(2), STA_UNSYNC, which every time daemon sets and timedatectl shows; "
    "certificates, logs and rendezvous compare times of hosts",
    fault="clock-unsynchronised",
)
def test_time(report: dict[str, Any], look: Look) -> None:
    """The clock follows a time server."""
    clock = report["clock"]
    if clock["synchronised"] is None:
        look.unknown(HOST, "clock", why=clock["error"] or "the kernel tells nothing of it")
        return
    look.at(
        HOST,
        "clock",
        found=f"{'synchronised' if clock['synchronised'] else 'not synchronised'}"
        f" ({clock['asked']})",
        expected="synchronised, by chrony, systemd-timesyncd, ntpd or the hypervisor",
        held=clock["synchronised"],
        verdict="degraded",
    )


@check(
    "host.clocksource",
    verdict="degraded",
    action="reboot",
    source="facebookresearch/gcm: tsc; Linux, kernel/time/clocksource.c: the watchdog "
    "gives tsc up for hpet",
    fault="clocksource-hpet",
)
def test_clocksource(report: dict[str, Any], look: Look) -> None:
    """The kernel measures time by a source that is read in nanoseconds."""
    clock = report["clock"]
    if not clock["source"]:
        look.unknown(HOST, "clock source", why=clock["error"] or "the kernel does not name it")
        return
    look.at(
        HOST,
        "clock source",
        found=clock["source"],
        expected="tsc or the platform's own",
        held=clock["source"] not in SLOW_CLOCKS,
        verdict="degraded",
    )


@check(
    "host.governor",
    verdict="degraded",
    needs=("cpufreq",),
    source="facebookresearch/gcm, OCI's oci-hpc: performance, for powersave slows launches",
    fault="governor-powersave",
)
def test_governor(report: dict[str, Any], look: Look) -> None:
    """Every processor is clocked for performance."""
    governors = report["processors"]["governors"]
    others = {name: count for name, count in governors.items() if name != "performance"}
    look.at(
        HOST,
        "frequency governors",
        found=[f"{name} on {count} processors" for name, count in sorted(governors.items())],
        expected="performance; `cpupower frequency-set -g performance` sets it",
        held=not others,
        verdict="degraded",
    )


@check(
    "host.memory",
    needs=("hardware-record",),
    action="service",
    source="Azure/azurehpc-health-checks, facebookresearch/gcm, OCI's oci-hpc: a lost "
    "memory module, a firmware that lost its setup",
    fault="memory-lost",
)
def test_memory(
    scene: Scene, report: dict[str, Any], threshold: Callable[[str], float], look: Look
) -> None:
    """Memory and processors are not less than in the last good run."""
    found = report["processors"]
    before = (scene.record or {})["host"]
    loss = threshold("memory.loss-percent")
    accept = ("gpufleet verify --accept-hardware takes what is there now for this host's own",)
    least = before["memory_mib"] * (1 - loss / 100)
    if found["memory_mib"] is None:
        look.unknown(HOST, "memory", why=found["error"] or "/proc/meminfo does not tell")
    else:
        look.at(
            HOST,
            "memory",
            found=f"{found['memory_mib']} MiB",
            expected=f"{before['memory_mib']} MiB as in the last good run, less {loss:g} % at most",
            held=found["memory_mib"] >= least,
            baseline="history",
            evidence=accept,
        )
    if found["count"] is None:
        look.unknown(HOST, "processors", why=found["error"] or "sysfs does not tell")
    else:
        look.at(
            HOST,
            "processors that are on",
            found=found["count"],
            expected=f"at least {before['cpus']}, as in the last good run",
            held=found["count"] >= before["cpus"],
            baseline="history",
            evidence=accept,
        )


@check(
    "host.stuck",
    action="reboot",
    source="leptonai/gpud components/os: 5 min in state D; facebookresearch/gcm check_dstate",
    fault="stuck",
)
def test_stuck(report: dict[str, Any], threshold: Callable[[str], float], look: Look) -> None:
    """No process has slept for minutes where not even SIGKILL reaches it."""
    found = report["stuck"]
    most = threshold("stuck.seconds")
    if found["error"]:
        look.unknown(HOST, "processes", why=found["error"])
        return
    logged = {(one["command"], one["pid"]): one for one in report["kernel_lines"]["hung"]}
    waiting = False
    for process in found["processes"]:
        said = logged.get((process["command"], process["pid"]), {}).get("seconds")
        times = [one for one in (process["seconds"], said) if one is not None]
        who = f"{process['command']} (pid {process['pid']})"
        if not times:
            why = f"{who} sleeps uninterruptibly; for how long this kernel does not tell"
            look.unknown(HOST, "processes", why=why)
            waiting = True
        elif max(times) >= most:
            drivers = process["command"].startswith(DRIVERS_OWN)
            look.at(
                HOST,
                "process in uninterruptible sleep",
                found=f"{who} for {max(times):.0f} s"
                + (f" in {process['where']}" if process["where"] else ""),
                expected=f"none for {most:g} s or longer",
                held=False,
                verdict="fail" if drivers else "degraded",
            )
            waiting = True
    if not waiting:
        look.at(HOST, "processes in uninterruptible sleep", found="none", expected="none")


@check(
    "host.kernel-log",
    verdict="degraded",
    needs=("kernel-log",),
    source="imbue-ai/cluster-health, health_checks/dmesg_whitelist.py: what nobody knows is worth "
    "reading; as information, for a finding nobody can act on makes people look away",
    fault="log-unreadable",
)
def test_kernel_log(report: dict[str, Any], inform: Callable[[str], None], look: Look) -> None:
    """The kernel's log of this boot can be read; errors in it that nobody knows are shown."""
    found = report["kernel_lines"]
    unread = [one for one in (found, report["log"]) if not one["readable"]]
    if unread:
        why = unread[0]["error"] or "it could not be read"
        if report["host"]["root"]:
            expected = "readable: without it no Xid and no hardware error is seen"
            look.at(HOST, "kernel log", found=why, expected=expected, verdict="degraded")
        else:
            look.unknown(HOST, "kernel log", why=why)
        return
    look.at(HOST, "kernel log", found="readable", expected="readable")
    unknown = [one for one in found["errors"] if not kernel_lines.kind(one["line"])]
    for one in unknown[:MOST_INFORMED]:
        times = f" ({one['count']} times)" if one["count"] > 1 else ""
        inform(f"kernel log: {one['line']}{times}")
    if len(unknown) > MOST_INFORMED:
        inform(f"kernel log: {len(unknown) - MOST_INFORMED} more kinds of errors")


@check(
    "host.machine-check",
    needs=("error-counters",),
    action="service",
    source="Linux, EDAC in sysfs and the kernel's own reports (verify/data/kernel_lines.json)",
    fault="memory-error",
)
def test_machine_check(scene: Scene, report: dict[str, Any], look: Look) -> None:
    """Memory and processors have reported no error that they could not correct."""
    memory, log = report["memory_errors"], report["kernel_lines"]
    if memory["error"]:
        look.unknown(HOST, "memory controllers", why=memory["error"])
    for one in memory["controllers"]:
        labels = [f"{module['label']}: {module['uncorrected']}" for module in one["modules"]]
        part = Component(kind="host", name=one["name"])
        if one["uncorrected"] is None:
            look.unknown(part, "uncorrected errors of memory", why="its count could not be read")
        else:
            look.at(
                part,
                "uncorrected errors of memory",
                found=one["uncorrected"],
                expected=0,
                evidence=labels,
            )
    if NEEDS["kernel-log"](scene).kind == "not-asked":
        return  # the counters alone are what there is to look at
    if not log["readable"]:
        why = f"the kernel log cannot be read: {log['error']}"
        look.unknown(HOST, "errors of hardware", why=why, because="host.kernel-log")
        return
    lines = [one for one in log["hardware"] if kernel_lines.kind(one["line"]) == "uncorrected"]
    known = [kernel_lines.row(one["line"]) or {} for one in lines]
    look.at(
        HOST,
        "errors of hardware in the kernel log",
        found=[row["meaning"] for row in known],
        expected="none that was not corrected",
        held=not lines,
        evidence=[f"{one['line']} ({one['count']} times)" for one in lines],
    )
